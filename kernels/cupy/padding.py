"""Lowerings of Pad and CenterCropPad: exact copies that read axes through tables made while planning."""

from __future__ import annotations

import numpy as np

from onnxref.lowering import Operand, Packed, Site, Unsupported, lower

from ..common.checks import check_movable, check_result, known_ints, only_output, refusing
from ..common.padding import PAD, Padding
from ..numpy._checks import normalize_axes
from .mapped import Table, emit_mapped
from .movement import goes_along


def _sources(mode: str, size: int, begin: int, end: int) -> Table:
    """Return which of `size` elements each position of the padded axis repeats, -1 for the constant."""
    first, last = max(-begin, 0), size - max(-end, 0)
    inner = last - first
    begin, end = max(begin, 0), max(end, 0)
    position = np.arange(-begin, inner + end)
    if mode == "constant":
        return np.where((position < 0) | (position >= inner), -1, position + first)
    if inner == 0 and begin + end:
        raise Unsupported("an empty dimension has nothing to repeat")
    if mode == "edge":
        return position.clip(0, inner - 1) + first
    if mode == "wrap":
        return position % max(inner, 1) + first
    period = max(2 * inner - 2, 1)
    position %= period
    return np.minimum(position, period - position) + first


def _pad(site: Site, asked: Padding) -> None:
    data, output, widths, mode, value = asked
    tables = {
        axis: _sources(mode, data.shape[axis], *width) for axis, width in enumerate(widths) if any(width)
    }
    emit_mapped(site, output, data, tables, value)


PAD.register("cupy", _pad, goes_along)


def _zero(site: Site, data: Operand) -> Packed:
    """Return one element of the type that is zero."""
    if data.dtype.name == "float8_e8m0fnu":
        raise Unsupported("a type without zero")
    return site.pack((), ("zero", data.dtype.itemsize), lambda: np.zeros(data.dtype.itemsize, np.uint8))


@lower("CenterCropPad", since=18, backend="cupy", blocked=goes_along)
@refusing
def center_crop_pad(
    site: Site, input_data: Operand, shape: Operand, *, axes: tuple[int, ...] | None = None
) -> None:
    """ONNX CenterCropPad-18."""
    output = only_output(site)
    check_movable(input_data)
    sizes = known_ints(shape, "shape")
    targets = range(input_data.ndim) if axes is None else normalize_axes(axes, input_data.ndim)
    if len(sizes) != len(targets) or any(n < 0 for n in sizes):
        raise Unsupported(f"shape {sizes}")
    result = list(input_data.shape)
    tables: dict[int, Table] = {}
    for axis, new in zip(targets, sizes, strict=True):
        old, result[axis] = input_data.shape[axis], new
        kept = min(old, new)
        place = np.arange(new) - (new - kept) // 2
        tables[axis] = np.where((place < 0) | (place >= kept), -1, place + (old - kept) // 2)
    check_result(output, result)
    emit_mapped(site, output, input_data, tables, _zero(site, input_data))
