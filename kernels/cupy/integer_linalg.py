"""Products of 8-bit integers on the GPU: MatMulInteger, QLinearMatMul, and their fused forms.

Sums are int32, exact modulo 2**32. MatMulInteger, QLinearMatMul and QuantizedMatMul give the bits of the
reference, MatMulIntegerToFloat and DynamicQuantizeMatMul too but for the rounding of a fused multiply-add,
1 ulp of float32.

What computes them:
    cuBLASLt      large products by a constant matrix B with N % 4 == 0: int8 by int8, rows of A by columns
                  of B, the only arrangement of row-major results that its integer kernels know; they also
                  want K % 4 == 0, addresses and rows in fours, which rows of whole 16 bytes have;
    int8_gemm.cu  all others, four products at a time, zero points and result in the same launch.
A constant B is packed while planning, less its zero points where int8 holds the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, Matmul, cuda_kernel, grid_for
from onnxref.lowering import Operand, Packed, Scratch, Site

from ..common import integer_linalg as rules
from ..common.checks import accept
from ..common.integer_linalg import DYNAMIC, INTEGER, QLINEAR, QUANTIZED, TO_FLOAT, IntegerProduct
from .quantization import emit_extremes

_CODE = "onnxref.kernels.cupy.code"
_BYTES = ("uint8", "int8")
_LINE = 16  # bytes of an access, of which packed rows are multiples
_TILE = 64
_FEW_ROWS = 4
_LARGE = 2**27  # multiplications from which cuBLASLt pays its preparation
_EXACT_DEPTH = 33_025  # 255 * 255 * this fits int32


@dataclass(slots=True)
class _Quantities:
    """What makes results of sums; absent ones are None.

    Attributes:
        kind: 0 int32 sums, 1 scaled to float32, 2 quantized again.
        relu: whether quantized results are not below `y_zero`.
    """

    kind: int = 0
    a_zero: Operand | Scratch | None = None
    b_zero: Operand | None = None
    a_scale: Operand | Scratch | None = None
    b_scale: Operand | None = None
    y_scale: Operand | None = None
    y_zero: Operand | None = None
    bias: Operand | None = None
    relu: bool = False


class _Left(NamedTuple):
    """A packed A (M, pitch) of int8 with the sums of its rows."""

    packed: Scratch
    sums: Scratch


@dataclass(slots=True)
class _Product:
    """A stack of products of 8-bit matrices.

    Attributes:
        period: rows of one matrix of A, which zero points per row repeat with.
        pitch: K in whole accesses.
        batch: shape of the stack; () where B is one matrix.
        left: A, where it was packed on its way here.
    """

    site: Site
    a: Operand
    b: Operand
    y: Operand
    given: _Quantities
    left: _Left | None = None
    M: int = 0
    N: int = 0
    K: int = 0
    period: int = 0
    batch: tuple[int, ...] = ()
    stacks: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def __post_init__(self) -> None:
        a, b = self.a, self.b
        accept(a.layout is None and b.layout is None and self.y.layout is None, "with the channels last")
        accept(a.dtype.name in _BYTES and b.dtype.name in _BYTES, f"{a.dtype.name} by {b.dtype.name}")
        accept(a.ndim > 0 and b.ndim > 0, "a product of scalars")
        left = a.shape if a.ndim > 1 else (1, *a.shape)
        right = b.shape if b.ndim > 1 else (*b.shape, 1)
        (self.M, self.K), (inner, self.N) = left[-2:], right[-2:]
        accept(inner == self.K, f"a product of shapes {a.shape} and {b.shape}")
        self.period = max(1, self.M)
        if math.prod(right[:-2]) == 1:
            self.M *= math.prod(left[:-2])
        else:
            self.stacks = (left[:-2], right[:-2])
            self.batch = np.broadcast_shapes(*self.stacks)
        given = self.given
        self._check_vector(given.a_zero, self.period, "a zero point of A")
        self._check_vector(given.b_zero, self.N, "a zero point of B")
        self._check_vector(given.a_scale, self.period, "a scale of A")
        self._check_vector(given.b_scale, self.N, "a scale of B")
        for zero, x in ((given.a_zero, a), (given.b_zero, b)):
            accept(not isinstance(zero, Operand) or zero.dtype == x.dtype, "a zero point of another type")
        accept(given.kind == 0 or self.K <= _EXACT_DEPTH, "sums that may wrap")
        accept(self.K < 2**31 - 2**16, "rows of 2 GiB")

    @staticmethod
    def _check_vector(operand: Operand | Scratch | None, length: int, what: str) -> None:
        if isinstance(operand, Operand):
            accept(operand.size == 1 or operand.shape == (length,), f"{what} of shape {operand.shape}")

    @property
    def pitch(self) -> int:
        return -(-self.K // _LINE) * _LINE

    @property
    def matrices(self) -> int:
        return math.prod(self.batch)

    def table(self) -> Packed:
        """Return for each product where its packed A and B begin, in bytes."""
        sizes = (self.M * self.pitch, self.N * self.pitch)

        def build() -> Array:
            places = [
                np.broadcast_to(
                    np.arange(math.prod(stack), dtype=np.int64).reshape(stack) * size, self.batch
                ).reshape(-1)
                for stack, size in zip(self.stacks, sizes, strict=True)
            ]
            return np.stack(places, axis=1)

        return self.site.pack((), ("byte table", self.stacks, self.batch, sizes), build)


@dataclass(frozen=True, slots=True)
class _Right:
    """A packed B (N, pitch) of int8.

    Attributes:
        zero: its zero points, None where the elements have lost them.
        is_unsigned: whether the zero points are shifted by 128, as the elements were.
        sums: of the columns (int32), where B is constant.
    """

    packed: Operand | Packed | Scratch
    zero: Operand | None
    is_unsigned: bool
    sums: Packed | None = None


def _multiply(product: _Product) -> None:
    """Emit the launches of a product."""
    site, y = product.site, product.y
    if y.size == 0:
        return
    right = _packed_right(product)
    needs_rows = right.zero is not None or right.is_unsigned
    work = product.M * product.N * product.K
    is_large = work >= _LARGE and product.M >= _TILE
    if is_large and right.sums is not None and product.N % 4 == 0 and "cublaslt" in site.libraries:
        _by_library(product, right, needs_rows)
        return
    a: Operand | Scratch = product.a
    shifts = product.a.dtype.name == "uint8"
    if product.left is not None:
        a, shifts = product.left.packed, False
    elif product.K % _LINE:
        a, shifts = _packed_left(product, None), False
    rows = product.M if product.M <= _FEW_ROWS else 1
    defines = {**_defines(product, right, needs_rows), "ROWS": rows}
    arguments = (
        *(a, right.packed, y, product.table(), *_addresses(product, right)),
        *(
            product.M,
            product.N,
            product.K,
            product.pitch,
            product.period,
            *_steps(product, right),
            int(shifts),
        ),
    )
    if product.M <= _FEW_ROWS:
        entry, blocks = "int8_gemv", -(-product.N // 8)
    else:
        entry, blocks = "int8_gemm", -(-product.M // _TILE) * -(-product.N // _TILE)
    accept(blocks * product.matrices < 2**31, "more blocks than a grid has")
    site.launch(
        cuda_kernel(_CODE, "int8_gemm.cu", entry, **defines),
        *arguments,
        grid=(blocks * product.matrices, 1, 1),
    )


def _by_library(product: _Product, right: _Right, needs_rows: bool) -> None:
    """Emit a product by cuBLASLt, and what makes results of its sums."""
    site, y, given = product.site, product.y, product.given
    M, N, K, pitch = product.M, product.N, product.K, product.pitch
    a: Operand | Scratch = product.a
    sums = site.scratch(4 * M) if needs_rows else None
    if product.left is not None:
        a, sums = product.left
    elif product.a.dtype.name == "uint8" or pitch != K or sums is not None:
        a = _packed_left(product, sums)
    is_plain = given.kind == 0 and not needs_rows and product.a.dtype.name == "int8" and given.a_zero is None
    goal = y if is_plain else site.scratch(4 * M * N)
    assert right.sums is not None
    site.library(Matmul(M, N, pitch, "int8", trans_b=True), a=a, b=right.packed, d=goal)
    if is_plain:
        return
    defines = {**_defines(product, right, needs_rows), "ROWS": 1}
    site.launch(
        cuda_kernel(_CODE, "int8_gemm.cu", "int8_finish", **defines),
        *(goal, sums or 0, right.sums, y, *_addresses(product, right)),
        *(M, N, K, product.period, *_steps(product, right)),
        grid=grid_for(M * N, per_thread=4),
    )


def _defines(product: _Product, right: _Right, needs_rows: bool) -> dict[str, str | int]:
    given = product.given
    a_unsigned = product.a.dtype.name == "uint8"
    scale = given.a_scale.dtype.name if isinstance(given.a_scale, Operand) else "float32"
    return {
        "ROW_SUMS": int(needs_rows),
        "COLUMN_SUMS": int(a_unsigned or given.a_zero is not None),
        "KIND": given.kind,
        "OUT": CTYPES[product.y.dtype.name],
        "SCALE": CTYPES[scale],
    }


def _addresses(product: _Product, right: _Right) -> Sequence[Operand | Scratch | int]:
    given = product.given
    found = (given.a_zero, right.zero, given.a_scale, given.b_scale, given.y_scale, given.y_zero, given.bias)
    return tuple(operand or 0 for operand in found)


def _steps(product: _Product, right: _Right) -> Sequence[int]:
    """Return the steps of zero points and scales, the types of the zero points, and whether there is Relu."""
    given = product.given
    found = (given.a_zero, right.zero, given.a_scale, given.b_scale)
    steps = (int(isinstance(operand, Operand) and operand.size > 1) for operand in found)
    return *steps, int(product.a.dtype.name == "uint8"), int(right.is_unsigned), int(given.relu)


def _packed_left(product: _Product, sums: Scratch | None) -> Scratch:
    """Emit A in signed rows of whole accesses."""
    site, a, K, pitch = product.site, product.a, product.K, product.pitch
    rows = math.prod(a.shape[:-1])
    packed = site.scratch(rows * pitch)
    site.launch(
        cuda_kernel(_CODE, "int8_pack.cu", "int8_rows", SHIFT=int(a.dtype.name == "uint8")),
        *(a, packed, sums or 0, rows, K, pitch),
        grid=grid_for(rows * 32),
    )
    return packed


def _packed_right(product: _Product) -> _Right:
    """Return B in signed columns of whole accesses: packed while planning where it is constant."""
    site, b, zero = product.site, product.b, product.given.b_zero
    N, K, pitch = product.N, product.K, product.pitch
    is_unsigned = b.dtype.name == "uint8"
    if b.constant is not None and (zero is None or zero.constant is not None) and not product.batch:
        sources = [b] if zero is None else [b, zero]
        columns, centred = _centred(b.constant.reshape(K, N), None if zero is None else zero.constant)

        def pack() -> Array:
            made = np.zeros((N, pitch), np.int8)
            made[:, :K] = columns.T
            return made

        return _Right(
            site.pack(sources, ("int8 columns", N, K), pack),
            None if centred else zero,
            is_unsigned and not centred,
            site.pack(sources, ("int8 column sums", N, K), lambda: columns.sum(axis=0, dtype=np.int32)),
        )
    count = b.size // (N * K) if N * K else 0
    packed = site.scratch(count * N * pitch)
    site.launch(
        cuda_kernel(_CODE, "int8_pack.cu", "int8_columns", SHIFT=int(is_unsigned)),
        *(b, packed, K, N, pitch),
        grid=(count * -(-N // 64) * -(-pitch // 64), 1, 1),
    )
    return _Right(packed, zero, is_unsigned)


def _centred(b: Array, zero: Array | None) -> tuple[Array, bool]:
    """Return (b less its zero points, True) where int8 holds that, else (b shifted to int8, False)."""
    difference = b.astype(np.int16) - (0 if zero is None else zero.astype(np.int16).reshape(-1))
    if difference.min(initial=0) >= -128 and difference.max(initial=0) <= 127:
        return difference.astype(np.int8), True
    return (b.astype(np.int16) - (128 if b.dtype == np.uint8 else 0)).astype(np.int8), False


# Operators ----------------------------------------------------------------------------------------


def _quantities(kind: int, asked: IntegerProduct) -> _Quantities:
    return _Quantities(kind, *asked[3:])


def _integer(site: Site, asked: IntegerProduct) -> None:
    _multiply(_Product(site, asked.a, asked.b, asked.y, _quantities(0, asked)))


def _requantized(site: Site, asked: IntegerProduct) -> None:
    y, given = asked.y, _quantities(2, asked)
    assert asked.a_scale is not None
    assert given.y_scale is not None
    assert given.y_zero is not None
    dtype = asked.a_scale.dtype
    scales = (given.b_scale, given.y_scale)
    accept(all(s is not None and s.dtype == dtype for s in scales), "scales of several types")
    accept(dtype.name in ("float32", "float16", "bfloat16"), "type of the scales")
    accept(given.y_scale.size == 1 and given.y_zero.size == 1, "several scales of Y")
    accept(y.dtype.name in _BYTES and given.y_zero.dtype == y.dtype, f"to {y.dtype.name}")
    _multiply(_Product(site, asked.a, asked.b, y, given))


def _to_float(site: Site, asked: IntegerProduct) -> None:
    _multiply(_Product(site, asked.a, asked.b, asked.y, _quantities(1, asked)))


INTEGER.register("cupy", _integer)
QLINEAR.register("cupy", _requantized)
QUANTIZED.register("cupy", _requantized)
TO_FLOAT.register("cupy", _to_float)


def matmul_integer(site: Site, a: Operand, b: Operand, *zeros: Operand | None) -> None:
    """Emit a MatMulInteger, for lowerings of which it is a part."""
    _integer(site, rules.matmul_integer(site, a, b, *zeros))


def quantized_matmul(site: Site, *inputs: Any, **attributes: Any) -> None:
    """Emit a QuantizedMatMul, for lowerings of which it is a part."""
    _requantized(site, rules.quantized_matmul(site, *inputs, **attributes))


def _dynamic(site: Site, asked: IntegerProduct) -> None:
    a, b, y, b_zero, b_scale, bias = asked.a, asked.b, asked.y, asked.b_zero, asked.b_scale, asked.bias
    K = a.shape[-1]
    rows, pitch = math.prod(a.shape[:-1]), -(-K // _LINE) * _LINE
    scale, zero = site.scratch(4), site.scratch(1)
    left = _Left(site.scratch(rows * pitch), site.scratch(4 * rows))
    quantized = Operand(a.shape, np.dtype(np.uint8), a.name)
    given = _Quantities(1, zero, b_zero, scale, b_scale, None, None, bias)
    product = _Product(site, quantized, b, y, given, left)
    if y.size == 0:
        return
    found, parts = emit_extremes(site, a)
    site.launch(
        cuda_kernel(_CODE, "int8_dynamic.cu", "quantized_rows"),
        *(a, found, left.packed, left.sums, scale, zero, parts, K, pitch, rows),
        grid=grid_for(rows * 32),
    )
    _multiply(product)


DYNAMIC.register("cupy", _dynamic)
