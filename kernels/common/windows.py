"""Windows of convolutions and pools, as their attributes describe them (ONNX Conv-22, MaxPool-22).

The arithmetic is the reference's (`numpy/_windows.py`); what it finds wrong is a refusal here. Kernels are
written for a fixed number of spatial axes: those that are missing are added in front, with one element each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxref.errors import KernelError
from onnxref.lowering import Op, Operand, Unsupported

from ..numpy import convolution as reference
from ..numpy._windows import Ints, Windows, slide

_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def conv_attributes(op: Op, *others: str) -> dict[str, Any]:
    """Return what a node says of its windows, and what it says of `others`."""
    return {name: op.attributes[name] for name in (*_CONV, *others) if name in op.attributes}


def conv_windows(
    x: Operand,
    w: Operand,
    most_axes: int,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Windows:
    """Return the windows that the attributes of a Conv describe.

    Args:
        most_axes: how many spatial axes there may be.

    Raises:
        Unsupported: they do not fit (the reference says what is wrong), or there are more axes.
    """
    _check_axes(x, most_axes)
    images: Any = x  # only shapes are asked for
    kernels: Any = w
    steps, apart, padding = (_hashable(values) for values in (strides, dilations, pads))
    try:
        return reference.conv_windows(images, kernels, group, kernel_shape, steps, apart, padding, auto_pad)
    except KernelError as error:
        raise Unsupported(str(error)) from error


def transposed_windows(
    x: Operand, w: Operand, most_axes: int, version: int, attributes: Mapping[str, Any]
) -> Windows:
    """Return the windows over the *output* of a ConvTranspose; see the reference and `conv_windows`."""
    _check_axes(x, most_axes)
    images: Any = x
    kernels: Any = w
    given: dict[str, Any] = {
        name: tuple(v) if isinstance(v, (list, np.ndarray)) else v for name, v in attributes.items()
    }
    try:
        return reference.transposed_windows(images, kernels, version=version, **given)
    except KernelError as error:
        raise Unsupported(str(error)) from error


def pool_windows(
    x: Operand,
    most_axes: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
) -> Windows:
    """Return the windows that the attributes of a pool describe; see `conv_windows`."""
    _check_axes(x, most_axes)
    steps, apart, padding = (_hashable(values) for values in (strides, dilations, pads))
    try:
        return slide(x.shape[2:], tuple(kernel_shape), steps, apart, padding, auto_pad, ceil_mode)
    except KernelError as error:
        raise Unsupported(str(error)) from error


def _check_axes(x: Operand, most_axes: int) -> None:
    if not 3 <= x.ndim <= 2 + most_axes:
        raise Unsupported(f"windows over an input of rank {x.ndim}")


def _hashable(values: Sequence[int] | None) -> Ints | None:
    return None if values is None else tuple(values)


def with_leading(values: Sequence[int], rank: int, missing: int) -> Ints:
    """Return values per axis with those of missing leading axes, `rank` in all."""
    return (missing,) * (rank - len(values)) + tuple(values)


def over_axes(windows: Windows, rank: int) -> Windows:
    """Return windows with leading axes of one element, `rank` axes at least."""
    if len(windows.size) >= rank:
        return windows
    ones = (windows.size, windows.kernel, windows.strides, windows.dilations)
    size, kernel, strides, dilations = (with_leading(values, rank, 1) for values in ones)
    begins, ends = (with_leading(values, rank, 0) for values in (windows.begins, windows.ends))
    return Windows(size, kernel, strides, dilations, begins, ends, with_leading(windows.out, rank, 1))
