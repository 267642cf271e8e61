"""INTERNAL `ZeroBorder`: the border of a blocked tensor, which its producer never touches."""

from __future__ import annotations

from onnxref.lowering import Operand, Site, lower
from onnxref.native import native
from onnxref.registry import INTERNAL


@lower("ZeroBorder", since=1, domain=INTERNAL)
def zero_border(site: Site, x: Operand) -> None:
    """Write zeros around each plane of `x`; exact."""
    assert x.layout is not None
    n, blocks, rows, columns, lanes = x.layout.extents(x.shape)
    top, left, bottom, right = x.layout.pad
    cell = lanes * x.dtype.itemsize
    border = rows * columns - (rows - top - bottom) * (columns - left - right)
    site.call(
        native("onnxref.kernels.numba.code.borders", "zero_border"),
        x,
        rows,
        columns * cell,
        top,
        left * cell,
        bottom,
        right * cell,
        units=n * blocks,
        work=n * blocks * (border * cell / 16 + 20.0),
    )
