"""Attention on the GPU: ONNX Attention, and the planner's FusedAttention (see `kernels/numba/attention.py`).

What computes it:
    attention_few.cu    up to 8 queries, as in decoding: a pass over the cache by many blocks, as long as
                        `nonpad_kv_seqlen` on the device says, the last of which joins the results in order;
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

import numpy as np

from onnxref.gpu import cuda_kernel
from onnxref.lowering import Operand, Scratch, Site, Unsupported, lower
from onnxref.registry import INTERNAL

from ._attention import (
    CODE,
    MOST_KEYS,
    MOST_SIZE,
    Mask,
    Sizes,
    View,
    Work,
    dense_view,
    head_sizes,
    place_rows,
    plain_view,
)
from ._attention_libraries import by_cudnn, by_products, fits_cudnn, fits_products
from ._rows import FLOATS, power_above

_FEW_QUERIES = 8
_FEW_SIZE = 256  # the largest head of `attention_few.cu`
_MMA_SIZE = 128  # of `attention_mma.cu`
_MOST_SHARED = 96 * 1024  # bytes that a block of any card may have
_MOST_PARTS = 120  # of the keys of a tile of queries: their factors lie where its 128 threads held values
_BLOCKS = 264  # two for each multiprocessor of a large card
_FLOAT, _DOUBLE = 1, 11  # of TensorProto.DataType


def _emit(work: Work) -> None:
    """Emit what is best for the sizes."""
    s = work.sizes
    if s.batch * s.queries == 0:
        return
    if s.keys > MOST_KEYS or s.batch * s.heads * s.queries >= 2**31:
        raise Unsupported("attention that is too large")
    if s.queries <= _FEW_QUERIES and max(s.size, s.value_size) <= _FEW_SIZE:
        _few_queries(work)
    elif fits_cudnn(work):
        by_cudnn(work)
    elif fits_products(work):
        by_products(work)
    elif work.q.itemsize == 2 and max(s.size, s.value_size) <= _MMA_SIZE:
        _tensor_cores(work)
    else:
        _many_queries(work)


# Few queries --------------------------------------------------------------------------------------


def _few_queries(work: Work) -> None:
    s = work.sizes
    vec = math.gcd(work.k.divisor(s.size), work.v.divisor(s.value_size), work.q.divisor())
    accesses = -(-max(s.size, s.value_size) // vec)
    group = min(32, max(4, power_above(accesses)))
    all_rows = s.queries * s.group
    rows = min(4 if work.wide == 4 else 2, power_above(all_rows))
    tiles = -(-all_rows // rows)
    step = 128 // group * 4  # keys that a block has on their way at once
    blocks = s.kv_heads * tiles * (1 if work.is_strict else s.batch)
    # As many as a large card has at once, by the registers they take. To join parts takes about as long as
    # a step does: two are not shared.
    at_once = 2 * _BLOCKS if rows == 1 else 3 * _BLOCKS // 2
    splits = -(-s.keys // step)
    splits = max(1, min(at_once // blocks, splits, _MOST_PARTS)) if splits > 2 else 1
    units = s.batch * s.kv_heads
    nbytes = units * all_rows * splits * (s.value_size + 3) * work.wide
    parts = work.site.scratch(nbytes) if splits > 1 else 0
    arrived = work.site.zeroed(4 * units * tiles) if splits > 1 else 0
    defines = {
        **work.defines,
        "ROWS": rows,
        "VEC": vec,
        "GROUP": group,
        "PIECES": -(-s.size // (vec * group)),
        "VALUE_PIECES": -(-s.value_size // (vec * group)),
    }
    work.site.launch(
        cuda_kernel(CODE, "attention_few.cu", "attend_few", **defines),
        *(work.q.address, work.k.address, work.v.address, work.mask.operand or 0, work.lengths or 0),
        *(work.y.address, parts, arrived, work.fault),
        *(s.numbers, work.steps, work.mask.strides, work.rules, splits),
        *work.factors,
        grid=(units * tiles * splits, 1, 1),
        block=(128, 1, 1),
    )


# Many queries -------------------------------------------------------------------------------------


def _many_queries(work: Work) -> None:
    s = work.sizes
    if max(s.size, s.value_size) > MOST_SIZE:
        raise Unsupported(f"heads of more than {MOST_SIZE} elements")
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
        cuda_kernel(CODE, "attention.cu", "attend", **defines),
        *(work.q.address, work.k.address, work.v.address, work.mask.operand or 0, work.lengths or 0),
        *(work.y.address, work.fault, s.numbers, work.steps, work.mask.strides, work.rules, *work.factors),
        grid=(units * -(-s.queries // (16 * rows)), 1, 1),
        shared=shared(rows),
    )


def _tensor_cores(work: Work) -> None:
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
        cuda_kernel(CODE, "attention_mma.cu", "attend_mma", **defines),
        *(work.q.address, work.k.address, work.v.address, work.mask.operand or 0, work.lengths or 0),
        *(work.y.address, work.fault, s.numbers, work.steps, work.mask.strides, work.rules, *work.factors),
        grid=(s.batch * s.heads * -(-s.queries // 64), 1, 1),
        block=(128, 1, 1),
    )


# ONNX Attention -----------------------------------------------------------------------------------


def _mask(mask: Operand | None, goal: tuple[int, ...], pads: bool) -> Mask:
    """Return a mask over (B, Hq, queries, keys); where it pads, keys behind a short one are hidden."""
    if mask is None:
        return Mask()
    if mask.dtype.name not in (*FLOATS, "bool") or mask.layout is not None or mask.ndim > 4:
        raise Unsupported(f"attn_mask is {mask}")
    keys = MOST_KEYS
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
    goal = dense_view(held, heads, cached + rows, size, itemsize)
    place_rows(site, past, view, goal, (batch, heads, rows, size))
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
    work = Work(
        *(site, plain_view(q, q.shape, sizes.heads, itemsize), keys, values),
        *(plain_view(y, y.shape, sizes.heads, itemsize), sizes, q.dtype.name),
        1 / math.sqrt(sizes.size) if scale is None else float(scale),
        mask=mask,
        lengths=nonpad_kv_seqlen,
        window=window,
        past=past,
        softcap=float(softcap),
    )
    _emit(work)


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
    softcap: float = 0.0,
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
    work = Work(
        *(site, first, second, third, goal, Sizes(*sizes), y.dtype.name, float(scale)),
        Mask(mask, tuple(mask_strides), float(fill), bool(hides)),
        window=(-1, 0 if is_causal else -1),
        softcap=float(softcap),
        blind=blind,
    )
    _emit(work)
