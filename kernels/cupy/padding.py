"""Lowerings of Pad and CenterCropPad: exact copies that read axes through tables made while planning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxref.lowering import Operand, Packed, Site, Unsupported, lower

from ..numpy._checks import normalize_axes
from .mapped import Table, emit_mapped
from .movement import check_movable, check_result, goes_along, known_ints, only_output, refusing


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


def _pad_widths(data: Operand, pads: Sequence[int], axes: Sequence[int] | None) -> list[tuple[int, int]]:
    targets = range(data.ndim) if axes is None else normalize_axes(axes, data.ndim)
    if len(pads) != 2 * len(targets):
        raise Unsupported("pads of the wrong number")
    widths = [(0, 0)] * data.ndim
    for i, axis in enumerate(targets):
        begin, end = pads[i], pads[len(targets) + i]
        if data.shape[axis] + min(begin, 0) + min(end, 0) < 0:
            raise Unsupported("pads that crop more than there is")
        widths[axis] = (begin, end)
    return widths


def _pad(
    site: Site, data: Operand, widths: Sequence[tuple[int, int]], mode: str, value: Operand | Packed
) -> None:
    output = only_output(site)
    check_movable(data)
    check_result(output, (d + b + e for d, (b, e) in zip(data.shape, widths, strict=True)))
    tables = {
        axis: _sources(mode, data.shape[axis], *width) for axis, width in enumerate(widths) if any(width)
    }
    emit_mapped(site, output, data, tables, value)


def _zero(site: Site, data: Operand) -> Packed:
    """Return one element of the type that is zero."""
    if data.dtype.name == "float8_e8m0fnu":
        raise Unsupported("a type without zero")
    return site.pack((), ("zero", data.dtype.itemsize), lambda: np.zeros(data.dtype.itemsize, np.uint8))


def _pad_attributes(site: Site, data: Operand, pads: Sequence[int], mode: str, value: float) -> None:
    if mode not in ("constant", "reflect", "edge"):
        raise Unsupported(f"mode {mode}")
    check_movable(data)
    with np.errstate(over="ignore"):
        held = np.full(1, value, data.dtype)
    fill = site.pack((), ("Pad", data.dtype.str, data.dtype.name, held.tobytes()), lambda: held)
    _pad(site, data, _pad_widths(data, pads, None), mode, fill)


@lower("Pad", since=1, backend="cupy", blocked=goes_along)
@refusing
def pad_1(
    site: Site, data: Operand, *, paddings: tuple[int, ...], mode: str = "constant", value: float = 0.0
) -> None:
    """ONNX Pad-1."""
    _pad_attributes(site, data, paddings, mode, value)


@lower("Pad", since=2, backend="cupy", blocked=goes_along)
@refusing
def pad_2(
    site: Site, data: Operand, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0
) -> None:
    """ONNX Pad-2."""
    _pad_attributes(site, data, pads, mode, value)


@lower("Pad", since=(11, 13, 18, 19, 21, 23, 24, 25), backend="cupy", blocked=goes_along)
@refusing
def pad(
    site: Site,
    data: Operand,
    pads: Operand,
    constant_value: Operand | None = None,
    axes: Operand | None = None,
    *,
    mode: str = "constant",
) -> None:
    """ONNX Pad-25, in all modes."""
    if mode not in ("constant", "reflect", "edge", *(("wrap",) if site.opset >= 19 else ())):
        raise Unsupported(f"mode {mode}")
    check_movable(data)
    widths = _pad_widths(data, known_ints(pads, "pads"), None if axes is None else known_ints(axes, "axes"))
    if constant_value is not None and (constant_value.size != 1 or constant_value.dtype != data.dtype):
        raise Unsupported("constant_value of another type or size")
    _pad(site, data, widths, mode, _zero(site, data) if constant_value is None else constant_value)


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
