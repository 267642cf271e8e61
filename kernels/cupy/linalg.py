"""Matrix products on the GPU: MatMul, Gemm and their fused forms.

What computes them:
    cuBLASLt    most of them, a stack as one call where its strides allow, bias and residual within;
    gemv_*.cu   1 to 4 rows, or one column, as in decoding: B is read once, at the speed of memory, while
                the rows are normalised, where that comes first;
    gemm.cu     integers, everything where cuBLASLt is not installed, and `precision="strict"`: every element
                adds its K products in order, so that results do not depend on the batch.

Tolerance: an element differs from the exact sum by at most `K * eps * sum |a b|`, eps being that of float32
for float16, bfloat16 and float32, of float64 for float64, beside one rounding to the type (two, where an
activation follows that cuBLASLt does not know) and what scale, bias and activation round. Integers are
exact modulo 2**bits. float32 is multiplied in TF32 (eps 2**-11 of each factor) with `precision="tf32"`, and
with constant B with `precision="bf16"`, which allows less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import Matmul, cuda_kernel, grid_for
from onnxref.lowering import Operand, Packed, Site, Unsupported, lower
from onnxref.registry import INTERNAL

from ..common import linalg as rules
from ..common.linalg import PRODUCTS, Product
from ._products import ACTIVATIONS, epilogue_defines
from ._rows import BUSY, FLOATS, INTEGERS, rows_in_registers
from ._views import row_pitch

_CODE = "onnxref.kernels.cupy.code"
_FEW_ROWS = 4  # that `gemv` takes
_MANY_BLOCKS = 264
_MOST_CALLS = 64  # of cuBLASLt for one node
_MOST_BLOCKS = 2**31 - 1
_MOST_INDEX = 2**31 - 2**20  # a tile behind the last element is an int still

Factor: TypeAlias = int | float | np.float64


class _Axis(NamedTuple):
    """An axis of a stack of products, with strides in elements of A, B and the product."""

    extent: int
    a: int
    b: int
    y: int


class _Norm(NamedTuple):
    """A layer or RMS normalisation of rows, with parameters of one element for each of a row."""

    gain: Operand
    shift: Operand | None
    is_rms: bool
    epsilon: float


@dataclass(slots=True)
class MatrixProduct:
    """activation(scale * A B + beta * bias + residual) as a stack of plain matrix products.

    Attributes:
        trans_a, trans_b: whether A lies as (K, M), B as (N, K).
        alpha, act_beta: parameters of the activation.
        shapes: of A and B as stacks of matrices, where they are to be seen so.
        norm: what becomes of the rows of A first; `gemv_*.cu` alone can do it.
        axes: of the stack, none of extent 1; neighbours that are one axis are merged, and a B that
            is the same along the last ones makes them rows.
    """

    site: Site
    a: Operand
    b: Operand
    y: Operand
    trans_a: bool = False
    trans_b: bool = False
    scale: float = 1.0
    beta: float = 1.0
    activation: str = ""
    alpha: float = 0.0
    act_beta: float = 0.0
    bias: Operand | None = None
    residual: Operand | None = None
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    norm: _Norm | None = None
    M: int = 0
    N: int = 0
    K: int = 0
    axes: list[_Axis] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._check_types()
        a, b = self.shapes or (self.a.shape, self.b.shape)
        if not a or not b:
            raise Unsupported("a product of scalars")
        self.trans_a &= len(a) > 1
        self.trans_b &= len(b) > 1
        a = (1, *a) if len(a) == 1 else a
        b = (*b, 1) if len(b) == 1 else b
        self.M, self.K = a[-2:][::-1] if self.trans_a else a[-2:]
        self.N, inner = b[-2:] if self.trans_b else b[-2:][::-1]
        if inner != self.K:
            raise Unsupported(f"a product of shapes {self.a.shape} and {self.b.shape}")
        # A single row or column lies the same either way.
        self.trans_a &= self.M != 1
        self.trans_b &= self.N != 1
        self._fold(a[:-2], b[:-2])
        if self.beta == 0:
            self.bias = None
        self._check_addends()

    def _check_types(self) -> None:
        name = self.a.dtype.name
        if name not in (*FLOATS, *INTEGERS) or not self.a.dtype == self.b.dtype == self.y.dtype:
            raise Unsupported(f"products of {name} and {self.b.dtype.name}")
        given = (self.a, self.b, self.y, self.residual)
        if any(x is not None and x.layout is not None and not row_pitch(x) for x in given):
            raise Unsupported("matrices with the channels last")
        if self.is_integer and not (float(self.scale).is_integer() and float(self.beta).is_integer()):
            raise Unsupported("integers times a fraction")
        if self.activation not in ACTIVATIONS or (self.activation and self.is_integer):
            raise Unsupported(f"{self.activation} of {name}")

    def _check_addends(self) -> None:
        for operand in (self.bias, self.residual):
            if operand is not None and operand.dtype != self.a.dtype:
                raise Unsupported("an addend of another type")
        if self.bias is not None and self.bias.layout is not None:
            raise Unsupported("a bias of another layout")
        if self.residual is not None and self.residual.shape != self.y.shape:
            raise Unsupported("a residual that is broadcast")

    def _fold(self, a: tuple[int, ...], b: tuple[int, ...]) -> None:
        """Find the axes of the stack, from those of A and B before their matrices."""
        try:
            batch = np.broadcast_shapes(a, b)
        except ValueError:
            raise Unsupported(f"a product of shapes {self.a.shape} and {self.b.shape}") from None
        strides = [
            _strides(shape, batch, size)
            for shape, size in ((a, self.M * self.K), (b, self.K * self.N), (batch, self.M * self.N))
        ]
        axes: list[_Axis] = []
        for extent, *steps in zip(batch, *strides, strict=True):
            if axes and all(
                outer == extent * inner for outer, inner in zip(axes[-1][1:], steps, strict=True)
            ):
                axes[-1] = _Axis(axes[-1].extent * extent, *steps)
            elif extent != 1:
                axes.append(_Axis(extent, *steps))
        while axes and axes[-1].b == 0 and axes[-1].a == self.M * self.K and not self.trans_a:
            self.M *= axes.pop().extent
        self.axes = axes

    @property
    def is_integer(self) -> bool:
        return self.a.dtype.kind in "iu"

    @property
    def matrices(self) -> int:
        return math.prod(axis.extent for axis in self.axes)

    def table(self) -> Packed:
        """Return for each matrix of the stack the indices of its first elements in A and in B."""

        def build() -> Array:
            found = np.zeros((1, 2), np.int64)
            for extent, a, b, _ in self.axes:
                steps = np.arange(extent, dtype=np.int64)[:, None] * np.array([a, b], np.int64)
                found = (found[:, None] + steps).reshape(-1, 2)
            return found

        return self.site.pack((), ("matrix table", *self.axes), build)

    def bias_strides(self) -> tuple[int, int, int]:
        """Return how far the bias moves from matrix to matrix, row to row, column to column, in elements."""
        if self.bias is None:
            return 0, 0, 0
        y, bias = self.y.shape, self.bias.shape
        if len(bias) > len(y) or any(b not in (1, n) for b, n in zip(bias[::-1], y[::-1], strict=False)):
            raise Unsupported(f"a bias of shape {bias} for {y}")
        steps = _strides(bias, y, 1)
        column = steps[-1] if self.b.ndim > 1 and y else 0
        rest = list(zip(y, steps, strict=True))[: len(y) - (self.b.ndim > 1)]
        # From the right: axes that make up the rows, then those that make up the stack.
        rows: list[tuple[int, int]] = []
        while math.prod(n for n, _ in rows) != self.M:
            rows.insert(0, rest.pop())
        return _merged(rest), _merged(rows), column

    def swapped(self) -> None:
        """Turn a product of one column into one of one row: y' = B' A'."""
        self.a, self.b = self.b, self.a
        self.M, self.N = self.N, self.M
        self.trans_a, self.trans_b = False, not self.trans_a
        self.axes = [_Axis(n, b, a, y) for n, a, b, y in self.axes]


def _strides(shape: Sequence[int], goal: Sequence[int], size: int) -> list[int]:
    """Return the strides of an array of items of `size` elements that is broadcast to a shape."""
    found: list[int] = []
    for extent in reversed(shape):
        found.insert(0, 0 if extent == 1 else size)
        size *= extent
    return [0] * (len(goal) - len(found)) + found


def _merged(axes: Sequence[tuple[int, int]]) -> int:
    """Return the stride of axes (extent, stride) that are to be one."""
    real = [(extent, stride) for extent, stride in axes if extent != 1]
    for (_, outer), (extent, inner) in itertools.pairwise(real):
        if outer != extent * inner:
            raise Unsupported("a bias that is spread along some axes of the stack")
    return real[-1][1] if real else 0


def multiply(product: MatrixProduct) -> None:
    """Emit a product by what is best for its shape."""
    if product.y.size == 0:
        return
    strides = product.bias_strides()
    if any(map(row_pitch, (product.a, product.b, product.y, product.residual or product.y))):
        if not takes_pitches(product.site, product.M, product.N, product.K) or product.matrices > 1:
            raise Unsupported("matrices with gaps between their rows")
        _by_library(product, strides)
        return
    is_plain = product.is_integer or product.K == 0 or product.site.precision == "strict"
    if not is_plain and product.N == 1 and (product.M > _FEW_ROWS or product.trans_a):
        product.swapped()
        _few_rows(product, (strides[0], strides[2], strides[1]))
    elif not is_plain and product.M <= _FEW_ROWS and not product.trans_a:
        _few_rows(product, strides)
    elif is_plain or "cublaslt" not in product.site.libraries or _calls(product) > _MOST_CALLS:
        emit_tiles(product, strides)
    else:
        _by_library(product, strides)


def takes_pitches(site: Site, rows: int, columns: int, depth: int) -> bool:
    """Whether a product of floats is cuBLASLt's, which takes matrices with gaps between their rows."""
    if "cublaslt" not in site.libraries or site.precision == "strict":
        return False
    return rows > _FEW_ROWS and columns > 1 and depth > 0


def _calls(product: MatrixProduct) -> int:
    """Return how many calls of cuBLASLt a product takes: one covers one axis of the stack."""
    extents = sorted(axis.extent for axis in product.axes)
    return math.prod(extents[:-1])


# Kernels ------------------------------------------------------------------------------------------


def _defines(product: MatrixProduct) -> dict[str, str | int]:
    largest = (max(product.M, product.N) + 16) * product.K  # rows of B may be padded
    index = "int" if largest < _MOST_INDEX else "long long"
    return {"INDEX": index, **epilogue_defines(product.a.dtype.name, product.activation)}


def _factors(product: MatrixProduct) -> tuple[Factor, ...]:
    """Return scale, beta and the parameters of the activation, as kernels take them."""
    found: tuple[Factor, ...] = (float(product.scale), float(product.beta))
    if product.is_integer:
        found = tuple((int(value) + 2**63) % 2**64 - 2**63 for value in (product.scale, product.beta))
    elif product.a.dtype.name == "float64":
        found = tuple(map(np.float64, found))
    return (*found, np.float64(product.alpha), np.float64(product.act_beta))


def _addends(product: MatrixProduct) -> tuple[Operand | int, Operand | int]:
    return product.bias or 0, product.residual or 0


def _grid(blocks: int) -> tuple[int, int, int]:
    if blocks > _MOST_BLOCKS:
        raise Unsupported("more blocks than a grid has")
    return blocks, 1, 1


def emit_tiles(product: MatrixProduct, strides: tuple[int, int, int]) -> None:
    """Emit `gemm.cu`."""
    M, N = product.M, product.N
    large = -(-M // 128) * -(-N // 128) * product.matrices
    # Eight by eight sums of four bytes fit the registers.
    tile = 128 if large >= _MANY_BLOCKS // 2 and product.a.dtype.itemsize <= 4 else 64
    product.site.launch(
        cuda_kernel(
            *(_CODE, "gemm.cu", "gemm"),
            **_defines(product),
            TRANS_A=int(product.trans_a),
            TRANS_B=int(product.trans_b),
            TILE=tile,
            STEPS=1024 // tile,
        ),
        *(product.a, product.b, product.y, *_addends(product), product.table()),
        *(M, N, product.K, *strides, *_factors(product)),
        grid=_grid(-(-M // tile) * -(-N // tile) * product.matrices),
    )


def _piece(extent: int, itemsize: int) -> int:
    """Return the elements of one access along rows of `extent` elements: 16 bytes, or what divides them."""
    return math.gcd(extent, 16 // itemsize)


def _few_rows(product: MatrixProduct, strides: tuple[int, int, int]) -> None:
    """Emit `gemv_rows.cu` or `gemv_columns.cu`."""
    if product.trans_b:
        _rows_of_b(product, strides)
    else:
        _columns_of_b(product, strides)


def _norm_defines(product: MatrixProduct, vec: int) -> dict[str, str | int]:
    """Return what `norm_rows.cuh` is told: with accesses of `vec` elements, and in which order to add."""
    norm = product.norm
    if norm is None:
        return {"NORM": 0}
    dealt = rows_in_registers(product.M, product.K, vec, "float32")
    if dealt is None:
        raise Unsupported("rows are too long")
    return {
        "NORM": 2 if norm.is_rms else 1,
        "NORM_THREADS": dealt.group or dealt.threads,
        "HAS_SHIFT": int(norm.shift is not None),
    }


def _norm_arguments(product: MatrixProduct) -> tuple[Operand | int | np.float64, ...]:
    norm = product.norm
    return (0, 0, np.float64(0)) if norm is None else (norm.gain, norm.shift or 0, np.float64(norm.epsilon))


def _norm_bytes(product: MatrixProduct) -> int:
    """Return the shared memory that normalised rows and their parameters take."""
    return 0 if product.norm is None else (product.M + 2) * product.K * product.a.dtype.itemsize


def _rows_of_b(product: MatrixProduct, strides: tuple[int, int, int]) -> None:
    N, K, matrices = product.N, product.K, product.matrices
    vec = _piece(K, product.a.dtype.itemsize)
    accesses = K // vec
    group = 8 if accesses <= 32 else 16 if accesses <= 64 else 32
    # A thread has four accesses on their way: more threads for a row, as long as the card has them.
    while 32 <= group < 256 and accesses > 4 * group and 2 * group * N * matrices <= BUSY:
        group *= 2
    defines = {**_defines(product), "ROWS": product.M, "VEC": vec, "AVEC": vec, "GROUP": group}
    product.site.launch(
        cuda_kernel(_CODE, "gemv_rows.cu", "gemv_rows", **defines, **_norm_defines(product, vec)),
        *(product.a, product.b, product.y, *_addends(product), product.table() if product.axes else 0),
        *(N, K, *strides, *_factors(product), *_norm_arguments(product)),
        grid=_grid(-(-N // (256 // group)) * matrices),
        shared=_norm_bytes(product),
    )


def _columns_of_b(product: MatrixProduct, strides: tuple[int, int, int]) -> None:
    M, N, K, matrices, size = product.M, product.N, product.K, product.matrices, product.a.dtype.itemsize
    b, pitch = _padded_rows(product)
    vec, piece = _piece(pitch, size), _piece(K, size)
    lanes = _lanes(N * matrices, K, vec * size, size)
    step = 256 // lanes * (4 if M > 2 else 8)  # k that a block has on their way at once
    blocks = -(-N // (lanes * vec)) * matrices
    splits, depth = _splits(blocks, K, step)
    parts = product.site.scratch(splits * product.y.size * (8 if size == 8 else 4)) if splits > 1 else 0
    arrived = product.site.zeroed(4 * blocks) if splits > 1 else 0
    defines = {**_defines(product), "ROWS": M, "VEC": vec, "AVEC": piece, "LANES": lanes}
    product.site.launch(
        cuda_kernel(_CODE, "gemv_columns.cu", "gemv_columns", **defines, **_norm_defines(product, piece)),
        *(product.a, b, product.y, *_addends(product), product.table() if product.axes else 0),
        *(N, K, *strides, *_factors(product), pitch, parts, arrived, splits, depth),
        *_norm_arguments(product),
        grid=_grid(blocks * splits),
        shared=_norm_bytes(product),
    )


def _lanes(columns: int, K: int, access: int, size: int) -> int:
    """Return how many threads of `gemv_columns` lie side by side along rows of B.

    A product of one row takes as long as memory takes to answer once: many narrow blocks have all of B on
    its way at once, 32 bytes of a row (a sector) being the least that memory gives. With blocks enough for
    the card rows of 128 bytes are better, and longer ones where threads would be without a row.
    """
    lanes = max(1, 32 // access)
    while lanes < 32 and columns * size >= _MANY_BLOCKS * 2 * lanes * access:
        if 2 * lanes * access > 128 and 256 // lanes * 4 < K:
            break
        lanes *= 2
    return lanes


def _splits(blocks: int, K: int, step: int) -> tuple[int, int]:
    """Return how many blocks share a sum over K, and how many k each of them has, a multiple of `step`.

    A block has `step` k on their way at once, and waits about as long for them (a microsecond) as the last
    block of several takes to hear of the others and to fetch their sums: two rounds are not shared.
    """
    rounds = -(-K // step)
    splits = max(1, min(_MANY_BLOCKS // blocks, rounds)) if rounds > 2 else 1
    depth = -(-rounds // splits) * step
    return -(-K // depth), depth


def _padded_rows(product: MatrixProduct) -> tuple[Operand | Packed, int]:
    """Return B, and the elements from one of its rows to the next.

    A constant whose rows are no multiple of 16 bytes (50257 words) is kept once more, with rows that are.
    """
    b, N, K = product.b, product.N, product.K
    piece = 16 // b.dtype.itemsize
    held = b.constant
    if held is None or N % piece == 0 or b.size != K * N:
        return b, N
    pitch = -(-N // piece) * piece

    def build() -> Array:
        padded = np.zeros((K, pitch), b.dtype)
        padded[:, :N] = held.reshape(K, N)
        return padded

    return product.site.pack((b,), ("padded rows", K, N), build), pitch


# cuBLASLt -----------------------------------------------------------------------------------------


def _by_library(product: MatrixProduct, strides: tuple[int, int, int]) -> None:
    """Emit calls of cuBLASLt, and a launch for what it cannot add or apply."""
    site, name = product.site, product.a.dtype.name
    bias, residual, rest = _library_addends(product, strides)
    residual_pitch = None
    if residual is not None and row_pitch(residual) != row_pitch(product.y):
        residual_pitch = row_pitch(residual)
    known = {"Relu": "Relu", "GeluTanh": "Gelu"}
    takes = product.activation == "Relu" or (product.activation == "GeluTanh" and name != "float32")
    # Its epilogues are for 32 bits and less.
    epilogue = known[product.activation] if takes and rest is None and name != "float64" else ""
    axes = sorted(product.axes, key=lambda axis: axis.extent)
    inner = axes.pop() if axes else _Axis(1, 0, 0, 0)
    size = product.a.dtype.itemsize
    op = Matmul(
        *(product.M, product.N, product.K, name, product.trans_a, product.trans_b, product.scale),
        batch=inner.extent,
        strides=inner[1:],
        epilogue=epilogue,  # type: ignore[arg-type]  # one of the table's values
        tf32=name == "float32" and _may_round(product),
        has_bias=bias is not None,
        has_residual=residual is not None,
        pitches=(row_pitch(product.a), row_pitch(product.b), row_pitch(product.y)),
        residual_pitch=residual_pitch,
    )
    for places in itertools.product(*(range(axis.extent) for axis in axes)):
        a, b, y = (
            sum(i * axis[role] for i, axis in zip(places, axes, strict=True)) * size for role in (1, 2, 3)
        )
        tensors = {"a": product.a + a, "b": product.b + b, "d": product.y + y}
        if residual is not None:
            tensors["residual"] = residual + y
        site.library(op, **tensors, **({} if bias is None else {"bias": bias}))
    if rest is not None or (product.activation and not epilogue):
        _finish(product, rest, strides)


def _may_round(product: MatrixProduct) -> bool:
    precision = product.site.precision
    return precision == "tf32" or (precision == "bf16" and product.b.constant is not None)


def _library_addends(
    product: MatrixProduct, strides: tuple[int, int, int]
) -> tuple[Operand | Packed | None, Operand | None, Operand | None]:
    """Return the bias of N elements, the residual, and the bias that is left to do."""
    bias, residual, name = product.bias, product.residual, product.a.dtype.name
    if bias is None:
        return None, residual, None
    if strides[:2] == (0, 0) and name != "float64":
        is_row = strides[2] == 1 or product.N == 1
        if product.beta == 1 and is_row:
            return bias, residual, None
        if bias.constant is not None and (product.beta == 1 or name == "float32"):
            return _constant_row(product, bias, bias.constant), residual, None
    is_full = bias.shape == product.y.shape
    if is_full and product.beta == 1 and residual is None:
        return None, bias, None
    return None, residual, bias


def _constant_row(product: MatrixProduct, bias: Operand, held: Array) -> Packed:
    N, beta, dtype = product.N, product.beta, product.a.dtype

    def build() -> Array:
        with np.errstate(all="ignore"):
            return np.broadcast_to(held.reshape(-1) * dtype.type(beta), N)

    return product.site.pack((bias,), ("row of bias", N, beta), build)


def _finish(product: MatrixProduct, bias: Operand | None, strides: tuple[int, int, int]) -> None:
    """Emit what is left to do on the product, in place."""
    y = product.y
    vec = _piece(product.N, y.dtype.itemsize)
    scale, *rest = _factors(product)
    product.site.launch(
        cuda_kernel(_CODE, "product_epilogue.cu", "product_epilogue", **_defines(product), VEC=vec),
        *(y, bias or 0, 0, y.size, product.M, product.N, *strides),
        *(max(0, row_pitch(y) - product.N), 0, type(scale)(1), *rest),
        grid=grid_for(y.size, per_thread=vec),
    )


# Operators ----------------------------------------------------------------------------------------


def _emit(site: Site, asked: Product) -> None:
    multiply(MatrixProduct(site, *asked))


PRODUCTS.register("cupy", _emit)


def fused_matmul(site: Site, a: Operand, b: Operand, *addends: Operand | None, **attributes: Any) -> None:
    """Emit a FusedMatMul, for lowerings of which it is a part."""
    _emit(site, rules.fused_matmul(site, a, b, *addends, **attributes))


@lower("NormalizedMatMul", since=1, domain=INTERNAL, backend="cupy")
def normalized_matmul(
    site: Site,
    x: Operand,
    gain: Operand,
    shift: Operand | None,
    b: Operand,
    *addends: Operand | None,
    is_rms: int = 0,
    epsilon: float,
    **attributes: Any,
) -> None:
    """FusedMatMul whose few rows of A are normalised over the last axis first, as float32."""
    norm = _Norm(gain, shift, bool(is_rms), epsilon)
    product = MatrixProduct(site, *rules.fused_matmul(site, x, b, *addends, **attributes), norm=norm)
    if product.M > _FEW_ROWS or product.axes or product.trans_a or x.dtype == np.float64:
        raise Unsupported(f"a product of {x} normalised")
    if any(p is not None and (p.dtype != x.dtype or p.size != product.K) for p in (gain, shift)):
        raise Unsupported("parameters of another type, or not one for each element of a row")
    if product.y.size:
        _few_rows(product, product.bias_strides())
