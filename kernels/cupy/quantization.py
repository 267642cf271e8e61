"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear; all of them give the bits of the reference.

Scales may be one for the tensor, one for each slice along an axis, or one for each block along an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxref.dtypes import ElementType
from onnxref.gpu import cuda_kernel, grid_for
from onnxref.lowering import NO_PAD, Blocked, BlockedUse, Op, Operand, Scratch, Site, Unsupported, lower

from ..common.checks import accept
from ..common.quantization import DEQUANTIZE, QUANTIZE, Quantizing
from .movement import index_type, lying_order, magic
from .narrow_cast import TYPES, items_for

_CODE = "onnxref.kernels.cupy.code"
_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint4", "int4", "uint2", "int2")
_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
_SMALL_FLOATS = (*_FLOAT8, "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn")
_FLOATS = ("float32", "float16", "bfloat16")
_ONE_BLOCK = 1 << 14  # elements whose extremes one block finds while it is at it
_PARTS = 264  # blocks that find extremes


# --- scales --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scales:
    """A tensor seen as (outer, length, inner), its scales in blocks along the middle; see the kernels.

    Attributes:
        strides: of scales, in elements, along outer, blocks, inner.
    """

    length: int
    inner: int
    block: int
    strides: tuple[int, int, int]

    def normal(self) -> _Scales:
        """Return the same, with blocks of the last axis as a row each where they are whole."""
        if self.inner == 1 and self.strides[2] == 0 and self.block > 1 and self.length % self.block == 0:
            return _Scales(1, self.block, 1, (self.strides[1], 0, 0))
        if self.inner == 1 and self.block == 1:  # scales that lie as the elements do
            return _Scales(1, self.length, 1, (self.strides[0], 0, self.strides[1]))
        return self

    def mode(self, vec: int) -> int:
        """Return which scales the elements of an access have, as the kernels number it."""
        if not any(self.strides):
            return 0
        if self.inner % vec == 0:
            return 1 if self.strides[2] == 0 else 2
        return 3

    def arguments(self) -> tuple[int, ...]:
        extents = (self.inner, self.length, self.block)
        return (*extents, *map(magic, extents), *self.strides)


def _scales(x: Operand, scale: Operand, zero_point: Operand | None, axis: int, block_size: int) -> _Scales:
    """Say how the scales belong to the elements; refuse what the reference refuses."""
    same = zero_point is None or zero_point.shape == scale.shape or zero_point.size == scale.size == 1
    accept(same, "zero point unlike the scale")
    if scale.size == 1 and scale.ndim <= 1:
        accept(zero_point is None or zero_point.ndim <= 1, "zero point unlike the scale")
        return _Scales(1, max(1, x.size), 1, (0, 0, 0))
    accept(-x.ndim <= axis < x.ndim, "axis out of range")
    axis %= x.ndim
    order = lying_order(x.layout, x.ndim)
    length = x.shape[axis]
    inner = math.prod(x.shape[a] for a in order[order.index(axis) + 1 :])
    if scale.ndim == x.ndim and block_size != 0:
        accept(block_size > 0 and x.layout is None, "blocks of this layout")
        blocks = -(-length // block_size)
        accept(scale.shape == (*x.shape[:axis], blocks, *x.shape[axis + 1 :]), "shape of the scale")
        if inner == 1:
            return _Scales(length, 1, block_size, (blocks, 1, 0)).normal()
        return _Scales(length, inner, block_size, (blocks * inner, inner, 1))
    accept(scale.ndim == 1 and scale.size == length, "length of the scale")
    return _Scales(length, inner, 1, (0, 1, 0)).normal()


def _goes_along(op: Op, lanes: int) -> BlockedUse | None:
    """One scale, or one for each slice along an axis, may have the channels last."""
    x, scale = op.inputs[:2]
    if x is None or scale is None or scale.ndim > 1 or not 3 <= x.ndim <= 5:
        return None
    return BlockedUse({0: NO_PAD}, (0,))


def _emit(
    site: Site,
    direction: str,
    x: Operand,
    scale: Operand,
    zero_point: Operand | None,
    y: Operand,
    scales: _Scales,
    **defines: str | int,
) -> None:
    if not x.size:
        return
    sizes = [x.dtype.itemsize, y.dtype.itemsize]
    mode = scales.mode(16 // max(sizes))
    vec = 16 // max(*sizes, scale.dtype.itemsize if mode == 2 else 1)
    kernel = cuda_kernel(
        _CODE, "quantization.cu", "linear",
        X=TYPES[x.dtype.name], SCALE=TYPES[scale.dtype.name], Y=TYPES[y.dtype.name],
        HAS_ZERO=int(zero_point is not None), MODE=mode, VEC=vec, ITEMS=items_for(x.size),
        INDEX=index_type(x.size + 4096, scale.size), **{direction: 1}, **defines,
    )  # fmt: skip
    site.launch(
        kernel,
        *(x, scale, scale if zero_point is None else zero_point, y, x.size, scales.arguments()),
        grid=grid_for(x.size // vec, per_thread=items_for(x.size)),
    )


def _check(x: Operand, y: Operand) -> None:
    if x.layout != y.layout or (x.layout is not None and x.layout.lanes):
        raise Unsupported(f"{x} as {y}")


# --- QuantizeLinear ------------------------------------------------------------------------------

_DIVISIONS = {ElementType.FLOAT: "float32", ElementType.FLOAT16: "float16", ElementType.BFLOAT16: "bfloat16"}


def _quantize(site: Site, asked: Quantizing) -> None:
    x, scale, zero_point, y = asked[:4]
    _check(x, y)
    accept(x.dtype.name in (*_FLOATS, "float64", "int32"), f"x is {x.dtype.name}")
    accept(y.dtype.name in (*_INTEGERS, *_SMALL_FLOATS), f"to {y.dtype.name}")
    accept(zero_point is None or zero_point.dtype == y.dtype, "type of the zero point")
    special = {"int32": "float64", "float8_e8m0fnu": "float32"}
    division = special.get(scale.dtype.name, scale.dtype.name)
    accept(scale.dtype.name in special or division in (*_FLOATS, "float64"), f"scale is {scale.dtype.name}")
    if asked.precision:
        accept(asked.precision in _DIVISIONS, "precision")
        division = _DIVISIONS[ElementType(asked.precision)]
    _emit(
        site, "QUANTIZE", x, scale, zero_point, y,
        _scales(x, scale, zero_point, asked.axis, asked.block_size),
        DIVISION=TYPES[division],
        SATURATE=int(asked.saturate or y.dtype.name not in _FLOAT8),
        BEFORE_24=int(asked.before_24 and y.dtype.name == "float4_e2m1fn"),
    )  # fmt: skip


QUANTIZE.register("cupy", _quantize, _goes_along)


# --- DequantizeLinear ----------------------------------------------------------------------------


def _dequantize(site: Site, asked: Quantizing) -> None:
    x, scale, zero_point, y = asked[:4]
    _check(x, y)
    accept(x.dtype.name in (*_INTEGERS, "int32", *_SMALL_FLOATS), f"x is {x.dtype.name}")
    accept(y.dtype.name in _FLOATS, f"to {y.dtype.name}")
    accept(scale.dtype.name in (*_FLOATS, "float8_e8m0fnu"), f"scale is {scale.dtype.name}")
    accept(asked.has_output_dtype or scale.dtype == y.dtype, "type of the output")
    accept(zero_point is None or zero_point.dtype == x.dtype, "type of the zero point")
    kind = 0 if x.dtype.name in _SMALL_FLOATS else 2 if x.dtype == np.int32 else 1
    scales = _scales(x, scale, zero_point, asked.axis, asked.block_size)
    _emit(site, "DEQUANTIZE", x, scale, zero_point, y, scales, X_KIND=kind)


DEQUANTIZE.register("cupy", _dequantize, _goes_along)


# --- DynamicQuantizeLinear -----------------------------------------------------------------------


def emit_extremes(site: Site, x: Operand) -> tuple[Scratch | Operand, int]:
    """Emit the least and the largest element of each block's share; return where they are, and how many."""
    count = min(_PARTS, -(-x.size // 4096)) or 1
    parts = site.scratch(8 * count)
    site.launch(cuda_kernel(_CODE, "extremes.cu", "extremes"), x, parts, x.size, grid=(count, 1, 1))
    return parts, count


def _any_layout(op: Op, lanes: int) -> BlockedUse | None:
    x, y = op.inputs[0], op.outputs[0]
    return BlockedUse({0: NO_PAD}, (0,)) if x is not None and y is not None and x.ndim in (3, 4, 5) else None


def _lanes(layout: Blocked | None) -> int:
    return layout.lanes if layout else 0


@lower("DynamicQuantizeLinear", since=11, backend="cupy", blocked=_any_layout)
def dynamic_quantize_linear(site: Site, x: Operand) -> None:
    """ONNX DynamicQuantizeLinear-11."""
    y, scale, zero = site.outputs
    accept(x.dtype == np.float32 and not _lanes(x.layout), f"x is {x}")
    accept(y is None or (y.layout == x.layout and y.shape == x.shape), "another layout")
    alone = x.size <= _ONE_BLOCK
    parts, count = (x, 0) if alone else emit_extremes(site, x)
    blocks = 1 if alone or y is None else min(8 * _PARTS, -(-x.size // 2048))
    site.launch(
        cuda_kernel(_CODE, "dynamic_quantization.cu", "dynamic_quantize", ALONE=int(alone)),
        x,
        parts,
        y if y is not None else site.scratch(1),
        scale if scale is not None else site.scratch(4),
        zero if zero is not None else site.scratch(1),
        x.size,
        count,
        x.size if y is not None else 0,
        grid=(blocks, 1, 1),
        block=(1024 if alone and x.size > 4096 else 256, 1, 1),
    )
