"""Matrix products on the CPU: MatMul, Gemm and the fused form of both.

Tolerance: an element differs from the exact sum by at most `K * eps * sum |a b|`, eps being that of float32
for float16, bfloat16 and float32 (then rounded once to the type), of float64 for float64; beside what
scale, bias and activation round. Integers are exact modulo 2**bits.

Every element adds its K products in order, with one fused multiply-add each where the processor has that,
whatever the number of rows, the layout of B and the number of threads: results do not depend on the batch.
With `precision="bf16"` constant B is rounded to bfloat16, and with it A, where that is faster: see `bf16`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.lowering import LINE, Argument, Operand, Site, Unsupported
from onnxref.native import NativeFunction, native
from onnxref.native._target import target

from ..common.linalg import PRODUCTS, Product
from . import bf16
from .speed import flops

CODE = "onnxref.kernels.numba.code.gemm"
SCALE, CLIP = 2, 4  # flags of the kernel; see `code._gemm_micro`
_KINDS = ("float32", "float64", "float16", "bfloat16", "int32", "int64", "uint32", "uint64")
_NARROW = ("float16", "bfloat16")
_STEPS = 768  # of k in a block: a panel of them and a block of A stay in the second-level cache
_BLOCK_BYTES = 1 << 19  # of A in a block
_LARGE = 1 << 20  # bytes of a constant (N, K) that one row reads where it lies, without a packed copy
_UNITS = 12  # as many are wanted, so that threads end together


def _code(factory: str, *parameters: str | bool) -> NativeFunction:
    return native(CODE, factory, *parameters)


@dataclass(slots=True)
class _Product:
    """act(scale * A B + beta * bias + residual) as a stack of plain matrix products.

    Attributes:
        batch: shape of the stack; () where all is one matrix, as for any A and a single B.
        trans_a, trans_b: whether A lies as (K, M), B as (N, K).
        scale: factor of the product; beta: factor of the bias.
        alpha, act_beta: parameters of the activation.
        kind, size: type of the computation, and bytes of an element of it.
        table: for each matrix of the stack the index of its first element in A and in B.
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
    kind: str = ""
    size: int = 0
    M: int = 0
    N: int = 0
    K: int = 0
    batch: tuple[int, ...] = ()
    table: Array = field(default_factory=lambda: np.zeros((1, 2), np.int64))

    def __post_init__(self) -> None:
        self._check_types()
        name = self.a.dtype.name
        self.kind = "float32" if name in _NARROW else name.removeprefix("u")
        self.size = np.dtype(self.kind).itemsize
        a, b = self.a.shape, self.b.shape
        self.trans_a &= len(a) > 1
        self.trans_b &= len(b) > 1
        a = (1, *a) if len(a) == 1 else a
        b = (*b, 1) if len(b) == 1 else b
        self.M, self.K = a[-2:][::-1] if self.trans_a else a[-2:]
        self.N, inner = b[-2:] if self.trans_b else b[-2:][::-1]
        if inner != self.K or _broadcast(a[:-2], b[:-2]) is None:
            raise Unsupported(f"a product of shapes {self.a.shape} and {self.b.shape}")
        self.batch = np.broadcast_shapes(a[:-2], b[:-2])
        if math.prod(b[:-2]) == 1 and not self.trans_a:
            # One large product instead of many.
            self.M *= math.prod(self.batch)
            self.batch = ()
        elif self.batch:
            offsets = [_offsets(shape, self.batch) for shape in (a, b)]
            self.table = np.stack(offsets, axis=1)

    def _check_types(self) -> None:
        if self.a.dtype.name not in _KINDS or self.b.dtype != self.a.dtype:
            raise Unsupported(f"products of {self.a.dtype.name} and {self.b.dtype.name}")
        if self.a.layout or self.b.layout or self.y.layout:
            raise Unsupported("matrices in blocks of channels")
        if self.is_integer and not (self.scale.is_integer() and self.beta.is_integer()):
            raise Unsupported("integers times a fraction")
        if self.activation and self.a.dtype.name not in ("float32", *_NARROW) and self.clips is None:
            raise Unsupported(f"{self.activation} of {self.a.dtype.name}")

    @property
    def is_integer(self) -> bool:
        return self.a.dtype.kind in "iu"

    @property
    def is_narrow(self) -> bool:
        return self.a.dtype.name in _NARROW

    @property
    def clips(self) -> tuple[float, float] | None:
        """Bounds of the activation, if it is nothing but bounds."""
        if self.is_integer:
            return None
        return {"Relu": (0.0, math.inf), "Clip": (self.alpha, self.act_beta)}.get(self.activation)

    @property
    def matrices(self) -> int:
        return math.prod(self.batch)


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return what shapes broadcast to, None if they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def _offsets(shape: tuple[int, ...], batch: tuple[int, ...]) -> Array:
    """Return the index of the first element of each matrix of a stack that is broadcast to `batch`."""
    stack = shape[:-2]
    places = np.arange(math.prod(stack), dtype=np.int64).reshape(stack) * math.prod(shape[-2:])
    return np.broadcast_to(places, batch).reshape(-1)


def _check_addends(product: _Product, bias: Operand | None, residual: Operand | None) -> None:
    for operand in (bias, residual):
        if operand is not None and (operand.layout or operand.dtype != product.a.dtype):
            raise Unsupported("an addend of another type or layout")
    if bias is not None and _broadcast(bias.shape, product.y.shape) != product.y.shape:
        raise Unsupported(f"a bias of shape {bias.shape} for {product.y.shape}")
    if residual is not None and residual.shape != product.y.shape:
        raise Unsupported("a residual that is broadcast")


def _multiply(product: _Product, bias: Operand | None, residual: Operand | None) -> None:
    """Emit the calls of a product."""
    _check_addends(product, bias, residual)
    site, y, size = product.site, product.y, product.size
    if y.size == 0:
        return
    vectors = -(-product.N * size // target().vector_bytes)
    panels = -(-vectors // 3)
    width = -(-vectors // panels) * target().vector_bytes // size
    rows, steps = _blocking(product, panels)
    if bf16.takes(product):
        bf16.multiply(product, *_addends(product, bias, residual), width, rows, steps)
        return
    if _is_row_by_rows(product):
        _multiply_row(product, bias, residual)
        return
    a = _widened(product, product.a)
    b, b_step, b_panel, table, packs = _panels_of_b(product, width)
    row, addend = _addends(product, bias, residual)
    goal: Argument = site.scratch(y.size * size) if product.is_narrow else y
    panel_bytes = -(-width * steps * size // LINE) * LINE
    lda = product.a.shape[-1] * size
    bounds = product.clips
    multiplications = product.M * product.N * product.K * product.matrices
    site.call(
        _code("product", product.kind, "" if bounds else product.activation, packs),
        *(a, b, goal, row, addend),
        site.pack((), ("matrix table", *map(tuple, table.tolist())), lambda: table),
        *(product.M, product.N, product.K),
        *((size, lda) if product.trans_a else (lda, size)),
        *(b_step, b_panel, product.N * size),
        *(width, rows, steps),
        SCALE * (product.scale != 1) + CLIP * (bounds is not None),
        *(_factor(product, product.scale), *(bounds or (0.0, 0.0))),
        *(float(product.alpha), float(product.act_beta)),
        *((site.scratch(panel_bytes, per_thread=True), panel_bytes) if packs else ()),
        units=product.matrices * -(-product.M // rows) * panels,
        work=max(multiplications * size * 0.5 / flops(), product.b.nbytes * 0.035),
        grain=2,
    )
    if product.is_narrow:
        _convert(product, "float32", y.dtype.name, goal, y, y.size)


def _is_row_by_rows(product: _Product) -> bool:
    """Whether one row meets the rows of a large B: bound by memory, so that B is best read where it lies."""
    is_single = product.M == 1 and product.matrices == 1 and product.a.size == product.K
    return is_single and product.trans_b and product.b.nbytes >= _LARGE and not product.is_narrow


def _multiply_row(product: _Product, bias: Operand | None, residual: Operand | None) -> None:
    """Emit the product of one row and B (N, K)."""
    site, b, size, lanes = product.site, product.b, product.size, target().vector_bytes // product.size
    bounds = product.clips
    scratch = LINE + target().vector_bytes * lanes
    site.call(
        native(
            "onnxref.kernels.numba.code.gemv",
            "row_product",
            product.kind,
            "" if bounds else product.activation,
        ),
        *(product.a, b, product.y, *_addends(product, bias, residual)),
        *(product.N, product.K, product.K * size),
        SCALE * (product.scale != 1) + CLIP * (bounds is not None),
        *(_factor(product, product.scale), *(bounds or (0.0, 0.0))),
        *(float(product.alpha), float(product.act_beta)),
        *(site.scratch(scratch, per_thread=True), scratch),
        units=-(-product.N // lanes),
        work=b.nbytes * 0.07,
        grain=2,
    )


def _blocking(product: _Product, panels: int) -> tuple[int, int]:
    """Return rows and steps of k in a block."""
    M, K = product.M, product.K
    steps = K if K <= _STEPS * 3 // 2 else -(-K // -(-K // _STEPS))
    blocks = -(-M * max(1, steps) * product.size // _BLOCK_BYTES)
    wanted = -(-_UNITS // (panels * product.matrices))
    blocks = max(blocks, min(wanted, -(-M // 32)))
    rows = -(-M // blocks)
    return min(M, -(-rows // 8) * 8), max(1, steps)


def _factor(product: _Product, value: float) -> int | float:
    """Return a factor as the kernel takes it."""
    if not product.is_integer:
        return float(value)
    return (int(value) + 2**63) % 2**64 - 2**63


def _convert(product: _Product, kind: str, goal: str, x: Argument, y: Argument, count: int) -> None:
    product.site.call(_code("convert", kind, goal), x, y, count, units=-(-count // 1024), work=count * 0.2)


def _widened(product: _Product, operand: Operand) -> Argument:
    """Return an operand in the type of the computation."""
    if not product.is_narrow:
        return operand
    if operand.constant is not None:
        held = operand.constant
        return product.site.pack((operand,), ("widened",), lambda: held.astype(np.float32))
    wide = product.site.scratch(operand.size * 4)
    _convert(product, operand.dtype.name, "float32", operand, wide, operand.size)
    return wide


def _panels_of_b(product: _Product, width: int) -> tuple[Argument, int, int, Array, bool]:
    """Return B in panels: where, bytes between steps of k, between panels; the table; whether to pack it."""
    site, b, size = product.site, product.b, product.size
    lanes = target().vector_bytes // size
    N, K = product.N, product.K
    stack = math.prod(b.shape[:-2])
    packed_bytes = -(-N // width) * width * K * size
    places = product.table * size
    packed_places = places.copy()
    packed_places[:, 1] = product.table[:, 1] // max(1, N * K) * packed_bytes
    packed = (width * size, width * K * size, packed_places, False)
    if b.constant is not None:
        held, kind, transposed = b.constant, np.dtype(product.kind), product.trans_b
        key = ("panels of B", width, transposed, b.shape)
        made = site.pack(
            (b,), key, lambda: _packed(held.reshape(stack, *_matrix(b.shape)), width, kind, transposed)
        )
        return made, *packed
    if not product.trans_b and not product.is_narrow:
        can_stay = N % lanes == 0 or target().vector_bytes >= 32  # else rows must be in whole vectors
        # Rows far apart would need a page each and crowd in few sets of the cache.
        is_slow = (N * size >= 2048 and product.M >= 16) or (N % lanes != 0 and product.M >= 64)
        packs = product.K > 0 and (is_slow or not can_stay)
        return b, N * size, width * size, places, packs
    scratch = site.scratch(stack * packed_bytes)
    stacks = np.arange(stack, dtype=np.int64).repeat(2).reshape(-1, 2) * (N * K * b.dtype.itemsize)
    row_bytes = (K if product.trans_b else N) * b.dtype.itemsize
    name = product.kind if not product.is_narrow else b.dtype.name
    site.call(
        _code("pack_transposed" if product.trans_b else "pack", name, product.kind),
        *(b, scratch),
        site.pack((), ("stack table", stack, N * K * b.dtype.itemsize), lambda: stacks),
        *(N, K, row_bytes, width),
        units=stack * -(-N // width),
        work=b.size * size * 0.05,
    )
    return scratch, *packed


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], 1) if len(shape) == 1 else (shape[-2], shape[-1])


def _packed(b: Array, width: int, kind: DType, transposed: bool) -> Array:
    """Return matrices (stack, K, N) as (stack, panels, K, width), filled up with zeros."""
    if transposed:
        b = b.swapaxes(1, 2)
    stack, K, N = b.shape
    if kind.kind == "i":
        b = b.astype(kind)  # unsigned integers: the same bits
    goal = np.zeros((stack, -(-N // width), K, width), kind)
    whole = N // width
    goal[:, :whole] = b[:, :, : whole * width].reshape(stack, K, whole, width).transpose(0, 2, 1, 3)
    if N % width:
        goal[:, whole, :, : N % width] = b[:, :, whole * width :]
    return goal


def _addends(product: _Product, bias: Operand | None, residual: Operand | None) -> tuple[Argument, Argument]:
    """Return what is added to every row of the product, and what has its shape; 0 for none."""
    if bias is not None and product.beta == 0:
        bias = None
    if bias is None:
        return 0, 0 if residual is None else _widened(product, residual)
    whole = 0 if residual is None else _widened(product, residual)
    is_row = bias.size == product.N and (bias.ndim == 0 or bias.shape[-1] == product.N)
    if bias.constant is not None and (is_row or bias.size == 1):
        return _constant_row(product, bias, bias.constant), whole
    if product.beta == 1:
        if is_row:
            return _widened(product, bias), whole
        if bias.shape == product.y.shape and residual is None:
            return 0, _widened(product, bias)
    return 0, _spread(product, bias, whole)


def _constant_row(product: _Product, bias: Operand, held: Array) -> Argument:
    N, beta, kind = product.N, product.beta, np.dtype(product.kind)

    def build() -> Array:
        row = np.broadcast_to(held.reshape(-1).astype(kind), N)
        factor = np.array(_factor(product, beta)).astype(kind)
        with np.errstate(all="ignore"):
            return np.asarray(row * factor)

    return product.site.pack((bias,), ("row of bias", N, beta, product.kind), build)


def _spread(product: _Product, bias: Operand, residual: Argument) -> Argument:
    """Return beta * bias + residual in the shape of the product."""
    site, y, N, size = product.site, product.y, product.N, product.size
    source = _widened(product, bias)
    rows = y.size // N
    shape = y.shape
    places = np.arange(bias.size, dtype=np.int64).reshape(bias.shape)
    at = np.broadcast_to(places, shape)
    if product.b.ndim > 1:
        at = at[..., 0]
    has_columns = product.b.ndim > 1 and bias.ndim > 0 and bias.shape[-1] > 1
    goal = site.scratch(y.size * size)
    offsets = site.pack((), ("rows of bias", bias.shape, shape, size, N), lambda: at.reshape(rows) * size)
    site.call(
        _code("spread", product.kind),
        *(source, residual, goal, offsets, N, int(has_columns), _factor(product, product.beta)),
        units=rows,
        work=y.size * size * 0.1,
    )
    return goal


def _emit(site: Site, asked: Product) -> None:
    _multiply(_Product(site, *asked[:10]), asked.bias, asked.residual)


PRODUCTS.register("numba", _emit)
