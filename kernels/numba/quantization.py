"""QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear and products of 8-bit integers.

All of them give the bits of the reference, and the same on every target. Fused operators:

    DynamicQuantizeMatMul   A (float), B, b_scale, b_zero_point?, bias?
    MatMulIntegerToFloat    A, B, a_scale, b_scale, a_zero_point?, b_zero_point?, bias?

are the chain DynamicQuantizeLinear, MatMulInteger, Cast, Mul by the product of the scales, Add of a bias
(N,): equal to the chain but for the rounding of a fused multiply-add, 1 ulp. Their B is constant.
`QuantizedMatMul` takes what QLinearMatMul takes, and a bias (int32) behind; it scales in float32, so that
a result may differ by one quantum where the exact one is halfway between two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxref.dtypes import Array, ElementType
from onnxref.lowering import Address, Argument, Operand, Packed, Scratch, Site, lower
from onnxref.native import native, target

from ..common.checks import accept
from ..common.integer_linalg import DYNAMIC, INTEGER, QLINEAR, QUANTIZED, TO_FLOAT, IntegerProduct
from ..common.quantization import DEQUANTIZE, QUANTIZE, Quantizing, known_scale

CODE = "onnxref.kernels.numba.code.quantization"
GEMM = "onnxref.kernels.numba.code.int8_gemm"

_INTEGERS = ("uint8", "int8", "uint16", "int16")
_FLOATS = ("float32", "float16", "bfloat16")
_BYTES = ("uint8", "int8")
_PART = 16384  # elements of a part of which the extremes are found
STEP = 16  # values of K in a step of a product


# QuantizeLinear and DequantizeLinear --------------------------------------------------------------


def _granularity(x: Operand, scale: Operand, zero_point: Operand | None, axis: int) -> tuple[int, int]:
    """Return (length of the axis, elements behind it); (1, x.size) for one scale."""
    accept(zero_point is None or zero_point.size == scale.size, "zero point unlike the scale")
    accept(x.layout is None, "blocked")
    if scale.size == 1 and scale.ndim <= 1:
        accept(zero_point is None or zero_point.ndim <= 1, "zero point unlike the scale")
        return 1, x.size
    accept(scale.ndim == 1 and (zero_point is None or zero_point.ndim == 1), "blocks of scales")
    accept(-x.ndim <= axis < x.ndim, "axis out of range")
    accept(scale.size == x.shape[axis], "length of the scale")
    return scale.size, math.prod(x.shape[axis % x.ndim + 1 :])


def _by_slices(
    site: Site, name: str, dtypes: Sequence[str], x: Operand, y: Operand, *rest: Any, spread: tuple[int, int]
) -> None:
    """Call `<name>_tensor` or `<name>_slices`; about 10 G elements per second."""
    length, inner = spread
    work = x.size * 0.1
    arguments = [0 if a is None else a for a in rest]
    if length == 1:
        site.call(
            native(CODE, f"{name}_tensor", *dtypes), x, y, *arguments, units=x.size, work=work, grain=4096
        )
    else:
        units = x.size // inner if inner else 0
        code = native(CODE, f"{name}_slices", *dtypes)
        site.call(code, x, y, *arguments, length, inner, units=units, work=work + units)


def _quantize(site: Site, asked: Quantizing) -> None:
    x, scale, zero_point, y, axis = asked[:5]
    accept(asked.precision in (0, ElementType.FLOAT), "precision")
    accept(x.dtype.name in (*_FLOATS, "int32"), f"x is {x.dtype.name}")
    accept(scale.dtype == np.float32, f"scale is {scale.dtype.name}")
    accept(y.dtype.name in _INTEGERS, f"to {y.dtype.name}")
    accept(zero_point is None or zero_point.dtype == y.dtype, "type of the zero point")
    spread = _granularity(x, scale, zero_point, axis)
    _by_slices(site, "quantize", (x.dtype.name, y.dtype.name), x, y, scale, zero_point, spread=spread)


def _dequantize(site: Site, asked: Quantizing) -> None:
    x, scale, zero_point, y, axis = asked[:5]
    accept(x.dtype.name in (*_INTEGERS, "int32"), f"x is {x.dtype.name}")
    accept(scale.dtype.name in _FLOATS and y.dtype.name in _FLOATS, "type of the scale or the output")
    accept(zero_point is None or zero_point.dtype == x.dtype, "type of the zero point")
    spread = _granularity(x, scale, zero_point, axis)
    dtypes = (x.dtype.name, scale.dtype.name, y.dtype.name)
    _by_slices(site, "dequantize", dtypes, x, y, scale, zero_point, spread=spread)


QUANTIZE.register("numba", _quantize)
DEQUANTIZE.register("numba", _dequantize)


def _find_extremes(site: Site, x: Operand) -> tuple[Scratch, int]:
    parts = -(-x.size // _PART)
    found = site.scratch(8 * max(1, parts))
    site.call(native(CODE, "extremes"), x, x.size, _PART, found, units=parts, work=x.size * 0.1)
    return found, parts


@lower("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(site: Site, x: Operand) -> None:
    """ONNX DynamicQuantizeLinear-11."""
    y, scale, zero = site.outputs
    accept(x.layout is None, "blocked")
    found, parts = _find_extremes(site, x)
    scale_at: Argument = site.scratch(4) if scale is None else scale
    zero_at: Argument = site.scratch(1) if zero is None else zero
    site.call(native(CODE, "dynamic_parameters"), found, parts, scale_at, zero_at, work=20)
    if y is not None:
        code = native(CODE, "quantize_tensor", "float32", "uint8")
        site.call(code, x, y, scale_at, zero_at, units=x.size, work=x.size * 0.1, grain=4096)


# Products -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Right:
    """The right side of a product, packed: see `code/int8_gemm.py`.

    Attributes:
        columns: sums of the columns; or what to add to the sums, where `zero` was known.
        zeros: zero points of the columns, None where they are in the elements already.
    """

    panels: Packed | Scratch
    columns: Packed | Scratch
    zeros: Packed | Scratch | None


def panel_columns() -> int:
    """Columns of a panel: two vectors of int32."""
    return 2 * target().lanes


def padded(n: int, step: int) -> int:
    return -(-n // step) * step


def centred(b: Array, zero: Array) -> tuple[Array, Array | None]:
    """Return `b - zero` as int8 where it fits and None, else `b` as int8 and its zero points (int32)."""
    difference = b.astype(np.int16) - zero.astype(np.int16)
    if difference.min(initial=0) >= -128 and difference.max(initial=0) <= 127:
        return difference.astype(np.int8), None
    shift = 128 if b.dtype == np.uint8 else 0
    shifted = (b.astype(np.int16) - shift).astype(np.int8)
    return shifted, np.broadcast_to(zero.astype(np.int32) - shift, b.shape[-1:])


def pack_panels(b: Array) -> Array:
    """Return an int8 matrix (K, N) as panels (N / columns, K / 4, columns, 4)."""
    k, n = b.shape
    wide = panel_columns()
    full = np.zeros((padded(k, STEP), padded(n, wide)), np.int8)
    full[:k, :n] = b
    return full.reshape(full.shape[0] // 4, 4, full.shape[1] // wide, wide).transpose(2, 0, 3, 1)


def per_column(value: Array, n: int, dtype: Any) -> Array:
    """Return one value, or one per column, as one per column of whole panels."""
    spread = np.zeros(padded(n, panel_columns()), dtype)
    spread[:n] = value.reshape(-1)
    return spread


def _constant_right(
    site: Site, b: Operand, zero_point: Operand | None, left_zero: int | None, added: Array | None = None
) -> Right:
    """Pack a constant right side; with a known zero point of the left side fold that and `added` too."""
    assert b.constant is not None
    zero = np.zeros((), b.dtype) if zero_point is None else zero_point.constant
    assert zero is not None
    matrix, zeros = centred(b.constant, zero.reshape(-1) if zero.size > 1 else zero.reshape(()))
    n = matrix.shape[1]
    sources = [operand for operand in (b, zero_point) if operand is not None]
    panels = site.pack(sources, "int8 panels", lambda: pack_panels(matrix))
    sums = matrix.sum(axis=0, dtype=np.int32)
    if zeros is None and left_zero is not None:
        folded = -left_zero * sums + (0 if added is None else added)
        return Right(panels, Packed(per_column(folded, n, np.int32)), None)
    columns = site.pack(sources, "int8 sums", lambda: per_column(sums, n, np.int32))
    accept(added is None, "a bias beside zero points")
    if zeros is None:
        return Right(panels, columns, None)
    return Right(panels, columns, site.pack(sources, "int8 zeros", lambda: per_column(zeros, n, np.int32)))


def _packed_right(site: Site, b: Address, shape: tuple[int, int], dtype: str, zero: Operand | None) -> Right:
    """Pack a right side that is not constant, while running."""
    k, n = shape
    wide, deep = padded(n, panel_columns()), padded(k, STEP)
    right = Right(site.scratch(wide * deep), site.scratch(4 * wide), site.scratch(4 * wide))
    assert right.zeros is not None
    distance = 0 if zero is None or zero.size == 1 else 1
    site.call(
        native(GEMM, "pack_columns", dtype == "int8"),
        b, k, n, right.panels, deep // STEP, right.columns, right.zeros,
        0 if zero is None else zero, distance,
        units=wide // panel_columns(), work=k * n,
    )  # fmt: skip
    return right


def tile_rows(m: int) -> int:
    """Return how many rows a tile of a product of `m` rows has."""
    most = {16: 12 if target().vnni else 8, 8: 4}.get(target().lanes, 2 if target().registers == 16 else 4)
    return max(rows for rows in (1, 2, 4, 8, 12) if rows <= min(m, most))


def _multiply(
    site: Site,
    kind: str,
    terms: str,
    left: Argument,
    right: Right,
    out: Argument,
    extents: tuple[int, int, int],
    row_terms: Argument = 0,
    scales: Argument = 0,
    bias: Argument | None = None,
    block: Argument = 0,
) -> None:
    """Add the call for one product (M, K) by (K, N); rows of `left` are whole steps."""
    m, k, n = extents
    rows = tile_rows(m)
    steps, panels = -(-k // STEP), -(-n // panel_columns())
    chunk = padded(-(-m // max(1, m // 96)), rows)
    chunks = -(-m // chunk)
    size = 1 if kind.startswith("q") else 4
    spare = site.scratch(rows * panel_columns() * size, per_thread=True)
    code = native(GEMM, "gemm", rows, kind, terms, bias is not None)
    site.call(
        code, left, steps * STEP, right.panels, steps, out, n * size, m, n, chunks, chunk,
        right.columns, 0 if right.zeros is None else right.zeros, row_terms, scales,
        0 if bias is None else bias, block, spare,
        units=panels * chunks, work=2.0 * m * n * k / (500 if target().vnni else 100) + 100,
    )  # fmt: skip


def _left_rows(
    site: Site, a: Operand, at: Address, extents: tuple[int, int], zero: Operand | None, *, need_sums: bool
) -> tuple[Argument, Scratch]:
    """Bring rows of A into the form that products read, with their terms."""
    m, k = extents
    deep = padded(k, STEP)
    copied = a.dtype == np.int8 or k != deep
    goal: Argument = site.scratch(m * deep) if copied else at
    terms = site.scratch(8 * m)
    distance = 0 if zero is None or zero.size == 1 else 1
    code = native(GEMM, "pack_rows", a.dtype == np.int8, copied, need_sums)
    period = 1 if zero is None else zero.size
    zero_at: Argument = 0 if zero is None else zero
    site.call(code, at, k, goal, deep, terms, zero_at, period, distance, units=m, work=m * (k * 0.05 + 2))
    return goal, terms


@dataclass(frozen=True)
class _Product:
    """A product of tensors as products of matrices: (offset of A, of B, of Y in elements) of each."""

    m: int
    k: int
    n: int
    places: tuple[tuple[int, int, int], ...]


def _product(a: Operand, b: Operand) -> _Product:
    """Break down numpy.matmul; a B of two dimensions is one product."""
    accept(a.layout is None and b.layout is None, "blocked")
    accept(a.ndim >= 1 and b.ndim >= 1, "scalars")
    left = a.shape if a.ndim > 1 else (1, *a.shape)
    right = b.shape if b.ndim > 1 else (*b.shape, 1)
    k, n = right[-2:]
    if len(right) == 2:
        return _Product(math.prod(left[:-1]), k, n, ((0, 0, 0),))
    m = left[-2]
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    accept(math.prod(batch) <= 64, "more than 64 products")
    lefts = np.broadcast_to(np.arange(math.prod(left[:-2])).reshape(left[:-2]), batch).reshape(-1)
    rights = np.broadcast_to(np.arange(math.prod(right[:-2])).reshape(right[:-2]), batch).reshape(-1)
    pairs = zip(lefts.tolist(), rights.tolist(), strict=True)
    return _Product(m, k, n, tuple((i * m * k, j * k * n, t * m * n) for t, (i, j) in enumerate(pairs)))


def _check_zero(zero: Operand | None, length: int, what: str) -> None:
    if zero is not None:
        accept(zero.size == 1 or (zero.ndim == 1 and zero.size == length), f"zero point of {what}")


def _check_bytes(*operands: Operand) -> None:
    for operand in operands:
        accept(operand.dtype.name in _BYTES, f"{operand.dtype.name}")


def _is_known(*operands: Operand | None) -> bool:
    return all(operand is None or operand.constant is not None for operand in operands)


def _integer_product(
    site: Site,
    kind: str,
    a: Operand,
    b: Operand,
    a_zero: Operand | None,
    b_zero: Operand | None,
    y: Operand,
    added: Array | None = None,
    **finish: Any,
) -> None:
    """Add the calls for all matrices of a product; `added` is a bias, `finish` goes to `_multiply`."""
    _check_bytes(a, b)
    shape = _product(a, b)
    accept(shape.m * shape.n == 0 or shape.k > 0, "nothing to sum")
    accept(shape.k <= 2**15, "sums that may wrap")
    _check_zero(a_zero, a.shape[-2] if a.ndim > 1 else 1, "A")
    _check_zero(b_zero, shape.n, "B")
    if y.size == 0:
        return
    known = b.ndim == 2 and _is_known(b, b_zero)
    flip = 128 if a.dtype == np.int8 else 0
    left_zero = None
    if a_zero is None or (a_zero.constant is not None and a_zero.size == 1):
        left_zero = flip + (0 if a_zero is None else int(a_zero.constant.reshape(())))  # type: ignore[union-attr]
    size = y.dtype.itemsize
    accept(added is None or known, "a bias, and weights that are not constant")
    right = _constant_right(site, b, b_zero, left_zero, added) if known else None
    for at_a, at_b, at_y in shape.places:
        each = right or _packed_right(site, b + at_b, (shape.k, shape.n), b.dtype.name, b_zero)
        terms = "both" if each.zeros is not None else ("column" if left_zero is not None else "row")
        left: Argument = a + at_a
        row_terms: Argument = 0
        if terms != "column" or flip or shape.k % STEP:
            extents = (shape.m, shape.k)
            left, row_terms = _left_rows(site, a, a + at_a, extents, a_zero, need_sums=terms == "both")
        _multiply(
            site, kind, terms, left, each, y + at_y * size, (shape.m, shape.k, shape.n), row_terms, **finish
        )


def _integer(site: Site, asked: IntegerProduct) -> None:
    _integer_product(site, "int32", asked.a, asked.b, asked.a_zero, asked.b_zero, asked.y)


INTEGER.register("numba", _integer)


def rounding_block(dtype: Any, zero: int, divisor: float = 1.0) -> Packed:
    """Return the parameters of results of 8 bits: see `PARAMETERS` in `code/int8_gemm.py`."""
    info = np.iinfo(dtype)
    block = np.zeros(64, np.uint8)
    low, high = info.min - zero, info.max - zero
    block.view(np.float32)[2:4] = low, high
    block.view(np.int32)[4] = zero - 0x4B400000
    block.view(np.int32)[5] = zero
    block.view(np.float64)[3:6] = low, high, divisor
    return Packed(block)


def _requantized(site: Site, kind: str, asked: IntegerProduct) -> None:
    a, b, y, a_zero, b_zero, a_scale, b_scale, y_scale, y_zero, bias, relu = asked
    assert a_scale is not None
    assert b_scale is not None
    assert y_scale is not None
    assert y_zero is not None
    accept(y.dtype.name in _BYTES and y_zero.dtype == y.dtype, f"to {y.dtype.name}")
    n = b.shape[-1] if b.ndim > 1 else 1
    left, right, out = (
        known_scale(a_scale, "a_scale"),
        known_scale(b_scale, "b_scale"),
        known_scale(y_scale, "y_scale"),
    )
    accept(left.size == 1 and out.size == 1, "scales per row")
    accept(right.size == 1 or right.shape == (n,), "scale of B")
    accept(y_zero.constant is not None and y_zero.size == 1, "y_zero_point is not constant")
    assert y_zero.constant is not None
    scale = left.reshape(()) * right
    divisor = float(out.reshape(()))
    scales = per_column(scale / divisor, n, np.float32) if kind == "q32" else per_column(scale, n, np.float64)
    block = rounding_block(y.dtype, int(y_zero.constant.reshape(())), divisor)
    if relu:
        low = block.array.view(np.float32)
        low[2] = max(low[2], 0.0)
    accept(bias is None or bias.constant is not None, "bias is not constant")
    added = None if bias is None else bias.constant
    _integer_product(site, kind, a, b, a_zero, b_zero, y, added, scales=Packed(scales), block=block)


def _qlinear(site: Site, asked: IntegerProduct) -> None:
    """Emit a QLinearMatMul, exact."""
    scales = (asked.a_scale, asked.b_scale, asked.y_scale)
    accept(all(s is not None and s.dtype == np.float32 for s in scales), "scales are not float32")
    _requantized(site, "q64/", asked)


def _quantized(site: Site, asked: IntegerProduct) -> None:
    """Emit a QuantizedMatMul, scaled in float32."""
    _requantized(site, "q32", asked)


QLINEAR.register("numba", _qlinear)
QUANTIZED.register("numba", _quantized)


def _float_finish(b: Operand, b_scale: Operand, bias: Operand | None, y: Operand) -> dict[str, Any]:
    """Check and return what turns int32 sums into float32."""
    n = b.shape[-1]
    accept(b.ndim == 2, "not a matrix")
    accept(b_scale.constant is not None, "b_scale is not constant")
    assert b_scale.constant is not None
    accept(b_scale.size == 1 or b_scale.shape == (n,), "scale of B")
    accept(bias is None or bias.constant is not None, "bias is not constant")
    scales = Packed(per_column(b_scale.constant, n, np.float32))
    added = (
        None if bias is None or bias.constant is None else Packed(per_column(bias.constant, n, np.float32))
    )
    return {"scales": scales, "bias": added}


def _to_float(site: Site, asked: IntegerProduct) -> None:
    a, b, y, a_zero, b_zero, a_scale, b_scale = asked[:7]
    assert a_scale is not None
    assert b_scale is not None
    finish = _float_finish(b, b_scale, asked.bias, y)
    _integer_product(site, "float32", a, b, a_zero, b_zero, y, block=a_scale, **finish)


def _dynamic(site: Site, asked: IntegerProduct) -> None:
    a, b, y, b_zero, b_scale, bias = asked.a, asked.b, asked.y, asked.b_zero, asked.b_scale, asked.bias
    assert b_scale is not None
    _check_bytes(b)
    finish = _float_finish(b, b_scale, bias, y)
    shape = _product(a, b)
    accept(0 < shape.k <= 2**15 and _is_known(b, b_zero), "B is not constant")
    _check_zero(b_zero, shape.n, "B")
    if y.size == 0:
        return
    m, k, n = shape.m, shape.k, shape.n
    right = _constant_right(site, b, b_zero, None)
    found, parts = _find_extremes(site, a)
    deep = padded(k, STEP)
    left, terms, block = site.scratch(m * deep), site.scratch(8 * m), site.scratch(64)
    code = native(CODE, "quantize_rows")
    site.call(code, a, k, left, deep, terms, found, parts, block, units=m, work=a.size * 0.1)
    kind = "row" if right.zeros is None else "both"
    _multiply(site, "float32", kind, left, right, y, (m, k, n), terms, block=block, **finish)


TO_FLOAT.register("numba", _to_float)
DYNAMIC.register("numba", _dynamic)
