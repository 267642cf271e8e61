"""Attention on the GPU: ONNX Attention, and the planner's FusedAttention (see `kernels/numba/attention.py`).

What computes it:
    attention_few.cu    up to 8 queries, as in decoding: a pass over the cache by many blocks, as long as
                        `nonpad_kv_seqlen` on the device says, then their results joined in order;
    cuDNN               float16 and bfloat16 without softcap, window, lengths or a mask that may hide all;
    cuBLASLt            float32 and float64 with many scores, or TF32: products round a softmax of rows;
    attention_mma.cu    other float16 and bfloat16: tensor cores, scores never in memory;
    attention.cu        all else: the same by multiply-adds of single threads.

Sums are in float32 (float64 for float64). Tolerance against attention in float64, relative to the largest
value of V: 2e-5 for float32, 1e-12 for float64, 2 units in the last place for types of 16 bits.
With `precision="strict"` no result depends on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxref.gpu import CTYPES, Attention, Matmul, cuda_kernel
from onnxref.lowering import Address, Fault, Operand, Scratch, Site, Unsupported, lower
from onnxref.registry import INTERNAL

from ._rows import FLOATS, power_above
from ._values import fault_of

_CODE = "onnxref.kernels.cupy.code"
_FEW_QUERIES = 8
_FEW_SIZE = 256  # the largest head of `attention_few.cu`
_MOST_SIZE = 512  # of `attention.cu`
_MMA_SIZE = 128  # of `attention_mma.cu`
_MOST_SHARED = 96 * 1024  # bytes that a block of any card may have
_BLOCKS = 264  # two for each multiprocessor of a large card
_MANY_SCORES = 1 << 22  # from which products by cuBLASLt pay
_MOST_SCRATCH = 256 << 20  # bytes for scores
_MOST_KEYS = 2**31 - 2**16
_FLOAT, _DOUBLE = 1, 11  # of TensorProto.DataType


@dataclass(frozen=True, slots=True)
class View:
    """Where `(batch, heads, rows, size)` lies in memory; steps in elements, that of `size` is 1."""

    source: Operand | Scratch
    offset: int
    batch: int
    head: int
    row: int
    itemsize: int

    @property
    def address(self) -> Address:
        return self.source + self.offset * self.itemsize

    @property
    def steps(self) -> tuple[int, int, int]:
        """Steps between batches, heads and rows in elements."""
        return self.batch, self.head, self.row

    def divisor(self, *extents: int) -> int:
        """Return how many elements an access may take: 16 bytes at most, and a divisor of all places."""
        return math.gcd(16 // self.itemsize, self.offset, *self.steps, *extents)


@dataclass(frozen=True, slots=True)
class Mask:
    """What hides keys, or is added to scores.

    Attributes:
        strides: steps over (batch, heads, queries, keys) in elements, 0 where it is broadcast.
        fill: what a score becomes where a bool mask is `hides`.
        keys: those that it speaks of; nobody sees any behind them.
    """

    operand: Operand | None = None
    strides: tuple[int, ...] = (0, 0, 0, 0)
    fill: float = -math.inf
    hides: bool = False
    keys: int = _MOST_KEYS

    @property
    def defines(self) -> dict[str, str | int]:
        if self.operand is None:
            return {"MASK": 0, "M": "uint8_t"}
        is_bool = self.operand.dtype == np.bool_
        return {"MASK": 1 if is_bool else 2, "M": "uint8_t" if is_bool else CTYPES[self.operand.dtype.name]}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of an attention."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    size: int
    value_size: int

    @property
    def group(self) -> int:
        """Query heads that share a head of K and V."""
        return self.heads // self.kv_heads

    @property
    def scores(self) -> int:
        return self.batch * self.heads * self.queries * self.keys

    @property
    def numbers(self) -> tuple[int, ...]:
        """What kernels take."""
        return self.heads, self.kv_heads, self.queries, self.keys, self.size, self.value_size


@dataclass(frozen=True, slots=True)
class _Work:
    """An attention to be emitted.

    Attributes:
        window: keys seen before and after the query's own position, -1 for all of them.
        past: position of the first query among the keys, where `lengths` does not decide it.
        blind: what a query gives that sees no key: 0 zeros, 1 NaN, 2 zeros also for a NaN among scores.
    """

    site: Site
    q: View
    k: View
    v: View
    y: View
    sizes: Sizes
    dtype: str
    scale: float
    mask: Mask = field(default_factory=Mask)
    lengths: Operand | None = None
    window: tuple[int, int] = (-1, -1)
    past: int = 0
    softcap: float = 0.0
    blind: int = 0

    @property
    def wide(self) -> int:
        """Bytes of the type of sums."""
        return 8 if self.dtype == "float64" else 4

    @property
    def defines(self) -> dict[str, str | int]:
        return {"T": CTYPES[self.dtype], **self.mask.defines}

    @property
    def rules(self) -> tuple[int, ...]:
        limit = min(self.sizes.keys, self.mask.keys)
        return self.past, *self.window, limit, int(self.mask.hides), self.blind

    @property
    def steps(self) -> tuple[int, ...]:
        return *self.q.steps, *self.k.steps, *self.v.steps, *self.y.steps

    @property
    def factors(self) -> tuple[np.float64, ...]:
        return np.float64(self.scale), np.float64(self.softcap), np.float64(self.mask.fill)

    @property
    def fault(self) -> Fault | int:
        """Where kernels report wrong lengths; whoever can, waits for its device after each run."""
        return fault_of(self.lengths, 0, self.sizes.keys)

    @property
    def is_strict(self) -> bool:
        return self.site.precision == "strict"

    def emit(self) -> None:
        """Emit what is best for the sizes."""
        s = self.sizes
        if s.batch * s.queries == 0:
            return
        if s.keys > _MOST_KEYS or s.batch * s.heads * s.queries >= 2**31:
            raise Unsupported("attention that is too large")
        if s.queries <= _FEW_QUERIES and max(s.size, s.value_size) <= _FEW_SIZE:
            _few_queries(self)
        elif _fits_cudnn(self):
            _by_cudnn(self)
        elif _fits_products(self):
            _by_products(self)
        elif self.q.itemsize == 2 and max(s.size, s.value_size) <= _MMA_SIZE:
            _tensor_cores(self)
        else:
            _many_queries(self)


# Few queries --------------------------------------------------------------------------------------


def _few_queries(work: _Work) -> None:
    s = work.sizes
    vec = math.gcd(work.k.divisor(s.size), work.v.divisor(s.value_size), work.q.divisor())
    accesses = -(-max(s.size, s.value_size) // vec)
    group = min(32, max(4, power_above(accesses)))
    all_rows = s.queries * s.group
    rows = min(4 if work.wide == 4 else 2, power_above(all_rows))
    tiles = -(-all_rows // rows)
    step = 128 // group * 4
    blocks = s.kv_heads * tiles * (1 if work.is_strict else s.batch)
    # As many as a large card has at once, by the registers they take.
    at_once = 2 * _BLOCKS if rows == 1 else 3 * _BLOCKS // 2
    splits = max(1, min(at_once // blocks, s.keys // (2 * step), 256))
    defines = {
        **work.defines,
        "ROWS": rows,
        "VEC": vec,
        "GROUP": group,
        "PIECES": -(-s.size // (vec * group)),
        "VALUE_PIECES": -(-s.value_size // (vec * group)),
    }
    units = s.batch * s.kv_heads
    nbytes = units * all_rows * splits * (s.value_size + 3) * work.wide
    parts = work.site.scratch(nbytes) if splits > 1 else 0
    work.site.launch(
        cuda_kernel(_CODE, "attention_few.cu", "attend_few", **defines),
        *(work.q.address, work.k.address, work.v.address, work.mask.operand or 0, work.lengths or 0),
        *(work.y.address, parts, work.fault, s.numbers, work.steps, work.mask.strides, work.rules, splits),
        *work.factors,
        grid=(units * tiles * splits, 1, 1),
        block=(128, 1, 1),
    )
    if splits > 1:
        work.site.launch(
            cuda_kernel(_CODE, "attention_few.cu", "join_parts", **defines),
            *(parts, work.y.address, s.numbers, work.steps, work.rules, splits),
            grid=(units * all_rows, 1, 1),
            block=(128, 1, 1),
        )


# Many queries -------------------------------------------------------------------------------------


def _many_queries(work: _Work) -> None:
    s = work.sizes
    if max(s.size, s.value_size) > _MOST_SIZE:
        raise Unsupported(f"heads of more than {_MOST_SIZE} elements")
    depth, few = (32, 16) if work.wide == 4 else (16, 8)
    piece = 16 // work.wide
    # Neighbours that a thread sums, as many as pad little.
    spread = next(n for n in (4, 2, 1) if n <= piece and -s.value_size % (16 * n) < 16)
    columns = -(-s.value_size // (16 * spread)) * spread

    def shared(rows: int) -> int:
        pitch, padded = 16 * rows + piece, -(-s.size // depth) * depth
        return work.wide * ((padded + 64) * pitch + depth * (64 + piece) + few * 16 * columns)

    # What a tile holds changes no result.
    rows = 8 if columns <= 4 and work.wide == 4 else 4 if columns <= 16 and work.wide == 4 else 2
    units = s.batch * s.heads

    def is_too_large(rows: int) -> bool:
        idle = 8 * rows >= s.queries or units * -(-s.queries // (16 * rows)) < _BLOCKS // 2
        return idle or shared(rows) > _MOST_SHARED

    while rows > 1 and is_too_large(rows):
        rows //= 2
    defines = {
        **work.defines,
        "ROWS": rows,
        "COLUMNS": columns,
        "CV": spread,
        "DEPTH": depth,
        "FEW": few,
        "VEC": math.gcd(work.k.divisor(s.size), work.q.divisor()),
        "VALUE_VEC": work.v.divisor(s.value_size),
        "Y_VEC": math.gcd(spread, work.y.divisor(s.value_size)),
    }
    work.site.launch(
        cuda_kernel(_CODE, "attention.cu", "attend", **defines),
        *(work.q.address, work.k.address, work.v.address, work.mask.operand or 0, work.lengths or 0),
        *(work.y.address, work.fault, s.numbers, work.steps, work.mask.strides, work.rules, *work.factors),
        grid=(units * -(-s.queries // (16 * rows)), 1, 1),
        shared=shared(rows),
    )


def _tensor_cores(work: _Work) -> None:
    s = work.sizes
    defines = {
        **work.defines,
        "SIZE_16": -(-s.size // 16) * 16,
        "VALUES_16": -(-s.value_size // 16) * 16,
        "VEC": math.gcd(work.k.divisor(s.size), work.q.divisor()),
        "VALUE_VEC": work.v.divisor(s.value_size),
        "Y_VEC": math.gcd(2, work.y.divisor(s.value_size)),
    }
    work.site.launch(
        cuda_kernel(_CODE, "attention_mma.cu", "attend_mma", **defines),
        *(work.q.address, work.k.address, work.v.address, work.mask.operand or 0, work.lengths or 0),
        *(work.y.address, work.fault, s.numbers, work.steps, work.mask.strides, work.rules, *work.factors),
        grid=(s.batch * s.heads * -(-s.queries // 64), 1, 1),
        block=(128, 1, 1),
    )


# Libraries ----------------------------------------------------------------------------------------


def _place_rows(
    site: Site, past: Operand | None, added: View, goal: View, extents: tuple[int, int, int, int]
) -> None:
    """Emit the copy of rows (batch, heads, rows, size) behind those of a cache."""
    batch, heads, rows, size = extents
    cached = 0 if past is None else past.shape[2]
    unit = math.gcd(added.divisor(size), goal.divisor(size))
    count = batch * heads * (cached + rows) * size // unit
    index = "unsigned" if count < 2**31 else "unsigned long long"
    site.launch(
        cuda_kernel(_CODE, "attention_copy.cu", "place_rows", UNIT=unit * added.itemsize, INDEX=index),
        *(past or 0, added.address, goal.address, (heads, cached, rows, size // unit)),
        *(tuple(n // unit for n in added.steps), tuple(n // unit for n in goal.steps), count),
        grid=(-(-count // 256), 1, 1),
    )


def _dense_view(source: Operand | Scratch, heads: int, rows: int, size: int, itemsize: int) -> View:
    return View(source, 0, heads * rows * size, rows * size, size, itemsize)


def _dense(work: _Work, view: View, heads: int, rows: int, size: int, *, copies: bool = True) -> View:
    """Return a view of rows that lie one behind the other: the same, or of scratch; emit the copy to it."""
    wanted = _dense_view(view.source, heads, rows, size, view.itemsize)
    extents = (work.sizes.batch, heads, rows)
    if all(n == 1 or a == b for n, a, b in zip(extents, view.steps, wanted.steps, strict=True)):
        return view
    nbytes = math.prod(extents) * size * view.itemsize
    goal = _dense_view(work.site.scratch(nbytes), heads, rows, size, view.itemsize)
    if copies:
        _place_rows(work.site, None, view, goal, (*extents, size))
    return goal


def _dense_operands(work: _Work) -> tuple[View, View, View, View]:
    s = work.sizes
    return (
        _dense(work, work.q, s.heads, s.queries, s.size),
        _dense(work, work.k, s.kv_heads, s.keys, s.size),
        _dense(work, work.v, s.kv_heads, s.keys, s.value_size),
        _dense(work, work.y, s.heads, s.queries, s.value_size, copies=False),
    )


def _give(work: _Work, y: View) -> None:
    """Emit the copy of a result to where it belongs."""
    s = work.sizes
    if y is not work.y:
        _place_rows(work.site, None, y, work.y, (s.batch, s.heads, s.queries, s.value_size))


def _fits_cudnn(work: _Work) -> bool:
    s = work.sizes
    is_plain = work.softcap == 0 and work.lengths is None and work.mask.keys >= s.keys and not work.is_strict
    if not is_plain or work.q.itemsize != 2 or "cudnn" not in work.site.libraries:
        return False
    if s.size % 8 or s.value_size % 8 or max(s.size, s.value_size) > 128:
        return False
    left, right = work.window
    # It counts positions from the end.
    if left >= 0 or right > 0 or (right == 0 and (work.past != s.keys - s.queries or work.past < 0)):
        return False
    mask = work.mask.operand
    if mask is None:
        return True
    if mask.dtype.name != work.dtype or mask.ndim != 4 or mask.shape[2:] != (s.queries, s.keys) or right == 0:
        return False
    # Rows that see nothing are zeros here.
    return mask.constant is not None and bool((mask.constant.max(axis=-1) > -np.inf).all())


def _by_cudnn(work: _Work) -> None:
    s = work.sizes
    q, k, v, y = _dense_operands(work)
    mask = work.mask.operand
    op = Attention(
        *(s.batch, s.heads, s.kv_heads, s.queries, s.keys, s.size, s.value_size, work.dtype, work.scale),
        causal=work.window[1] == 0,
        bias_shape=() if mask is None else mask.shape,
    )
    tensors: dict[str, Address | Operand] = {"q": q.address, "k": k.address, "v": v.address, "y": y.address}
    if mask is not None:
        tensors["bias"] = mask
    work.site.library(op, **tensors)
    _give(work, y)


def _fits_products(work: _Work) -> bool:
    s = work.sizes
    is_tf32 = work.site.precision == "tf32" and work.dtype == "float32"
    if work.q.itemsize == 2 or "cublaslt" not in work.site.libraries or work.is_strict:
        return False
    if s.group * s.queries * s.keys * work.wide > _MOST_SCRATCH:
        return False
    sees_all = work.window == (-1, -1) and work.lengths is None
    too_large = max(s.size, s.value_size) > _MOST_SIZE
    pays = (
        (sees_all or is_tf32) and s.scores >= _MANY_SCORES and min(s.queries, s.keys) >= 64 and s.size >= 32
    )
    return pays or too_large


def _by_products(work: _Work) -> None:
    s = work.sizes
    q, k, v, y = _dense_operands(work)
    units, rows, size = s.batch * s.kv_heads, s.group * s.queries, work.wide
    at_once = min(units, _MOST_SCRATCH // (rows * s.keys * size))
    scores = work.site.scratch(at_once * rows * s.keys * size)
    tf32 = work.site.precision == "tf32" and work.dtype == "float32"
    kernel = cuda_kernel(_CODE, "attention_rows.cu", "softmax_of_scores", **work.defines)
    for first in range(0, units, at_once):
        count = min(at_once, units - first)
        by_key = (rows * s.size, s.keys * s.size, rows * s.keys)
        by_value = (rows * s.keys, s.keys * s.value_size, rows * s.value_size)
        work.site.library(
            Matmul(
                *(rows, s.keys, s.size, work.dtype, False, True, work.scale, count, by_key),
                tf32=tf32,
            ),
            a=q.address + first * by_key[0] * size,
            b=k.address + first * by_key[1] * size,
            d=scores,
        )
        work.site.launch(
            kernel,
            *(scores, work.mask.operand or 0, work.lengths or 0, work.fault),
            *(s.numbers, work.mask.strides, work.rules),
            *(first, *work.factors[1:]),
            grid=(count * rows, 1, 1),
        )
        work.site.library(
            Matmul(*(rows, s.value_size, s.keys, work.dtype), batch=count, strides=by_value, tf32=tf32),
            a=scores,
            b=v.address + first * by_value[1] * size,
            d=y.address + first * by_value[2] * size,
        )
    _give(work, y)


# ONNX Attention -----------------------------------------------------------------------------------


def plain_view(operand: Operand | Scratch, shape: Sequence[int], heads: int, itemsize: int) -> View:
    """Return the view of `(B, heads, S, D)`, or of `(B, S, heads * D)`."""
    if len(shape) == 4:
        return _dense_view(operand, shape[1], shape[2], shape[3], itemsize)
    return View(operand, 0, shape[1] * shape[2], shape[2] // heads, shape[2], itemsize)


def head_sizes(x: Operand, heads: int | None, name: str) -> tuple[int, int, int, int]:
    """Return the sizes (B, heads, S, D) of 4 dimensions, or of `(B, S, heads * D)`."""
    if x.dtype.name not in FLOATS or x.layout is not None:
        raise Unsupported(f"{name} is {x}")
    if x.ndim == 4:
        if heads not in (None, x.shape[1]):
            raise Unsupported(f"heads of {name} contradict its shape")
        batch, count, steps, size = x.shape
        return batch, count, steps, size
    if x.ndim != 3 or not heads or heads < 1 or x.shape[2] % heads:
        raise Unsupported(f"heads of {name} do not divide its last dimension")
    return x.shape[0], heads, x.shape[1], x.shape[2] // heads


def _mask(mask: Operand | None, goal: tuple[int, ...], pads: bool) -> Mask:
    """Return a mask over (B, Hq, queries, keys); where it pads, keys behind a short one are hidden."""
    if mask is None:
        return Mask()
    if mask.dtype.name not in (*FLOATS, "bool") or mask.layout is not None or mask.ndim > 4:
        raise Unsupported(f"attn_mask is {mask}")
    keys = _MOST_KEYS
    if pads and mask.ndim and mask.shape[-1] < goal[-1]:
        keys = mask.shape[-1]
        goal = (*goal[:-1], keys)
    full = (1,) * (len(goal) - mask.ndim) + mask.shape
    if any(size not in (1, wanted) for size, wanted in zip(full, goal, strict=True)):
        raise Unsupported("attn_mask does not broadcast to the scores")
    steps = tuple(0 if size == 1 else math.prod(full[axis + 1 :]) for axis, size in enumerate(full))
    return Mask(mask, steps, keys=keys)


def _sizes(q: Operand, k: Operand, v: Operand, q_heads: int | None, kv_heads: int | None, past: int) -> Sizes:
    if not q.ndim == k.ndim == v.ndim or not q.dtype == k.dtype == v.dtype:
        raise Unsupported("Q, K and V differ in rank or type")
    batch, heads, queries, size = head_sizes(q, q_heads, "Q")
    k_batch, shared, keys, k_size = head_sizes(k, kv_heads, "K")
    v_batch, v_heads, v_keys, value_size = head_sizes(v, kv_heads, "V")
    if (k_batch, shared, keys) != (v_batch, v_heads, v_keys) or (batch, size) != (k_batch, k_size):
        raise Unsupported("Q, K and V disagree in shape")
    if 0 in (heads, shared, size, value_size, keys + past) or heads % shared:
        raise Unsupported("empty, or heads of Q that are no multiple of those of K")
    return Sizes(batch, heads, shared, queries, keys + past, size, value_size)


def _with_past(
    site: Site, x: Operand, past: Operand | None, present: Operand | None, heads: int, size: int
) -> View:
    """Return the view of cached and new rows; emit their concatenation where it is needed."""
    itemsize = x.dtype.itemsize
    view = plain_view(x, x.shape, heads, itemsize)
    if past is None and present is None:
        return view
    batch, rows = x.shape[0], x.shape[-2]
    cached = 0 if past is None else past.shape[2]
    held: Operand | Scratch = present or site.scratch(batch * heads * (cached + rows) * size * itemsize)
    goal = _dense_view(held, heads, cached + rows, size, itemsize)
    _place_rows(site, past, view, goal, (batch, heads, rows, size))
    return goal


def _past_rows(
    k: Operand, v: Operand, past_key: Operand | None, past_value: Operand | None, kv_heads: int | None
) -> int:
    """Return the length of the caches."""
    if past_key is None and past_value is None:
        return 0
    if past_key is None or past_value is None:
        raise Unsupported("half a cache")
    for x, past, name in ((k, past_key, "K"), (v, past_value, "V")):
        batch, heads, _, size = head_sizes(x, kv_heads, name)
        fits = past.ndim == 4 and (*past.shape[:2], past.shape[3]) == (batch, heads, size)
        if not fits or past.dtype != x.dtype or past.layout is not None:
            raise Unsupported("the cache disagrees with the new rows")
    if past_key.shape[2] != past_value.shape[2]:
        raise Unsupported("the caches disagree")
    return past_key.shape[2]


def _check_lengths(lengths: Operand | None, batch: int, past_key: Operand | None) -> None:
    if lengths is None:
        return
    if past_key is not None or lengths.shape != (batch,) or lengths.dtype != np.int64:
        raise Unsupported("nonpad_kv_seqlen beside a cache, or of another shape or type")


def _window(left: int, right: int, is_causal: bool, most: int) -> tuple[int, int]:
    if min(left, right) < -1:
        raise Unsupported("a window is out of range")
    # Wider than all positions is no bound; cut off there, sums cannot overflow.
    left, right = min(left, most), min(right, most)
    return left, 0 if is_causal else right


@lower("Attention", since=(23, 24, 25), backend="cupy")
def attention(
    site: Site,
    q: Operand,
    k: Operand,
    v: Operand,
    attn_mask: Operand | None = None,
    past_key: Operand | None = None,
    past_value: Operand | None = None,
    nonpad_kv_seqlen: Operand | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> None:
    """Attend to keys by scaled dot products (ONNX Attention-25)."""
    y, present_key, present_value, products = (*site.outputs, None, None, None, None)[:4]
    if y is None or products is not None:
        raise Unsupported("qk_matmul_output is wanted, or Y is not")
    if softmax_precision not in (None, _DOUBLE if q.dtype == np.float64 else _FLOAT):
        raise Unsupported("softmax_precision")
    past = _past_rows(k, v, past_key, past_value, kv_num_heads)
    sizes = _sizes(q, k, v, q_num_heads, kv_num_heads, past)
    mask = _mask(attn_mask, (sizes.batch, sizes.heads, sizes.queries, sizes.keys), site.opset >= 24)
    _check_lengths(nonpad_kv_seqlen, sizes.batch, past_key)
    most = past + sizes.keys + sizes.queries
    window = _window(left_window_size, right_window_size, bool(is_causal), most)
    keys = _with_past(site, k, past_key, present_key, sizes.kv_heads, sizes.size)
    values = _with_past(site, v, past_value, present_value, sizes.kv_heads, sizes.value_size)
    itemsize = q.dtype.itemsize
    _Work(
        *(site, plain_view(q, q.shape, sizes.heads, itemsize), keys, values),
        *(plain_view(y, y.shape, sizes.heads, itemsize), sizes, q.dtype.name),
        1 / math.sqrt(sizes.size) if scale is None else float(scale),
        mask=mask,
        lengths=nonpad_kv_seqlen,
        window=window,
        past=past,
        softcap=float(softcap),
    ).emit()


# FusedAttention -----------------------------------------------------------------------------------


@lower("FusedAttention", since=1, domain=INTERNAL, backend="cupy")
def fused_attention(
    site: Site,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Operand | None = None,
    *,
    q_view: Sequence[int],
    k_view: Sequence[int],
    v_view: Sequence[int],
    y_view: Sequence[int],
    sizes: Sequence[int],
    mask_strides: Sequence[int] = (0, 0, 0, 0),
    scale: float = 1.0,
    is_causal: int = 0,
    fill: float = -math.inf,
    hides: int = 0,
    blind: int = 1,
) -> None:
    """Attend, with heads anywhere in the operands; see `kernels/numba/attention.py`."""
    y = site.outputs[0]
    if y is None:
        raise Unsupported("Y is not wanted")
    if any(x.layout is not None or x.dtype != y.dtype for x in (q, k, v, y)) or y.dtype.name not in FLOATS:
        raise Unsupported(f"attention of {q}")
    if mask is not None and (mask.layout is not None or mask.dtype.name not in (*FLOATS, "bool")):
        raise Unsupported(f"a mask of {mask}")
    size = y.dtype.itemsize
    places = ((q, q_view), (k, k_view), (v, v_view), (y, y_view))
    first, second, third, goal = (View(x, at, b, h, r, size) for x, (at, b, h, r) in places)
    _Work(
        *(site, first, second, third, goal, Sizes(*sizes), y.dtype.name, float(scale)),
        Mask(mask, tuple(mask_strides), float(fill), bool(hides)),
        window=(-1, 0 if is_causal else -1),
        blind=blind,
    ).emit()
