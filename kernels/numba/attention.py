"""Attention by softmax over keys, and rotary embeddings, as native code (float32).

Tolerance against the reference: 2e-5 of the largest value for attention, from another order of sums;
1e-6 for rotary embeddings. Keys hidden by a mask take no part, even if they are NaN.

Besides `Attention` there is an operator that only the planner makes, `FusedAttention`: inputs Q, K, V and
a mask or none. Q, K and V are any operands, and views tell where in them the heads lie:

    q_view, k_view, v_view, y_view   (offset, steps between batches, heads, rows) in elements
    sizes                            (B, Hq, Hk, queries, keys, D, Dv)
    mask_strides                     steps of the mask over (B, Hq, queries, keys), 0 where it is broadcast
    scale, is_causal, softcap        as those of Attention
    fill                             what a score becomes where a bool mask hides it
    hides                            the value of a bool mask that hides
    blind                            what a query gives that sees no key: 0 zeros, 1 NaN as Softmax does,
                                     2 zeros, and also where there is a NaN among its scores
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from onnxref.lowering import Address, Operand, Scratch, Site, Unsupported, lower
from onnxref.native import native
from onnxref.native._target import target
from onnxref.registry import INTERNAL

from .places import emit_axis_places

_CODE: Final = "onnxref.kernels.numba.code.attention"
_STRETCH: Final = 512  # as in the code
_TILE: Final = 48  # queries of a unit
_FEW: Final = 4  # queries for which keys are read as they lie
_FLOAT: Final = 1  # of TensorProto.DataType


@dataclass(frozen=True, slots=True)
class View:
    """Where `(B, heads, rows, size)` lies in an operand's memory; steps in elements, that of `size` is 1."""

    source: Operand | Scratch
    offset: int
    batch: int
    head: int
    row: int

    @property
    def address(self) -> Address:
        return self.source + 4 * self.offset

    @property
    def steps(self) -> tuple[int, int, int]:
        """Steps between batches, heads and rows in bytes."""
        return 4 * self.batch, 4 * self.head, 4 * self.row


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of an attention; see the letters in the reference's module."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    size: int
    value_size: int


@dataclass(frozen=True, slots=True)
class Mask:
    """What hides keys, or is added to scores.

    Attributes:
        strides: steps over (B, Hq, queries, keys) in elements, 0 where it is broadcast.
        fill: what a score becomes where a bool mask is `hides`.
    """

    operand: Operand | None = None
    strides: Sequence[int] = (0, 0, 0, 0)
    fill: float = -math.inf
    hides: bool = False

    @property
    def item(self) -> int:
        """Bytes of an element, 0 where there is no mask."""
        return 0 if self.operand is None else self.operand.dtype.itemsize


def plain_view(operand: Operand | Scratch, shape: Sequence[int], heads: int) -> View:
    """Return the view of `(B, heads, S, D)`, or of `(B, S, heads * D)`."""
    if len(shape) == 4:
        return View(operand, 0, shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3])
    return View(operand, 0, shape[1] * shape[2], shape[2] // heads, shape[2])


# The kernel -----------------------------------------------------------------------------------


def _panel_vectors(keys: int, causal: bool) -> int:
    """Return how many vectors wide panels of keys should be: what pads little and is not too narrow.

    Queries that see the first keys only pass over panels, the more the narrower those are.
    """
    vectors = -(-keys // target().lanes)
    widest = (4 if causal else 8) if target().registers == 32 else (2 if causal else 4)
    return min(range(widest, 0, -1), key=lambda width: -(-vectors // width) * width * (1 + 0.2 / width))


def _piece_vectors(vectors: int) -> int:
    """Return the largest divisor of a number of vectors that a product can be wide."""
    widest = 8 if target().registers == 32 else 4
    return next(width for width in range(min(widest, vectors), 0, -1) if vectors % width == 0)


def _tile(queries: int) -> int:
    """Return the queries of a unit: even tiles, of a number that products take in whole."""
    if queries <= _FEW:
        return max(1, queries)
    tiles = -(-queries // _TILE)
    return -(-queries // (6 * tiles)) * 6


def _emit(
    site: Site,
    q: View,
    k: View,
    v: View,
    y: View,
    mask: Mask,
    sizes: Sizes,
    scale: float,
    offset: int,
    softcap: float = 0.0,
    blind: int = 0,
) -> None:
    """Emit attention.

    Args:
        offset: position of the first query among the keys if it is causal, else -1.
    """
    s, lanes = sizes, target().lanes
    kv_units = s.batch * s.kv_heads
    direct = s.queries <= _FEW
    width = -(-s.value_size // lanes) * lanes
    # Rows far apart fall into few places of the first cache; with many queries a copy pays.
    if width != s.value_size or (s.queries > 24 and v.row != width):
        v = _padded_values(site, v, s, width)
    key_vectors = _panel_vectors(1 if direct else s.keys, offset >= 0)
    value_vectors = _piece_vectors(width // lanes)
    panel = key_vectors * lanes
    keys: Address | Scratch = k.address
    if not direct:
        panels = -(-s.keys // panel)
        keys = site.scratch(4 * kv_units * panels * panel * s.size)
        site.call(
            native(_CODE, "pack_keys"), keys, k.address, *k.steps, s.kv_heads, s.keys, s.size, panel, panels,
            scale, units=kv_units * panels, work=kv_units * s.keys * s.size * 0.3,
        )  # fmt: skip
    tile = _tile(s.queries)
    tiles = -(-s.queries // tile)
    pitch = max(1, _STRETCH // panel) * panel + lanes
    memory = site.scratch(4 * (tile * (pitch + width + 2) + max(width, panel)), per_thread=True)
    pairs = s.batch * s.heads * s.queries * s.keys
    per_pair = (s.size + s.value_size) * (0.12 if direct else 0.015) + 0.4
    site.call(
        native(_CODE, "attend", key_vectors, value_vectors, direct),
        q.address, keys, v.address, mask.operand or 0, y.address, memory, memory.nbytes, s.heads,
        s.heads // s.kv_heads, s.queries, s.keys, s.size, s.value_size, tile, offset, *q.steps, *k.steps,
        *v.steps, *y.steps, *(mask.item * step for step in mask.strides), mask.item, scale,
        float(softcap), float(mask.fill), int(mask.hides), blind,
        units=s.batch * s.heads * tiles, work=pairs * per_pair * (0.6 if offset >= 0 else 1.0),
    )  # fmt: skip


def _padded_values(site: Site, v: View, s: Sizes, width: int) -> View:
    """Return values copied to rows of whole vectors."""
    goal = site.scratch(4 * s.batch * s.kv_heads * s.keys * width)
    site.call(
        native(_CODE, "pad_values"), goal, v.address, *v.steps, s.kv_heads, s.keys, s.value_size, width,
        units=s.batch * s.kv_heads, work=s.batch * s.kv_heads * s.keys * (5 + width / 8),
    )  # fmt: skip
    return View(goal, 0, s.kv_heads * s.keys * width, s.keys * width, width)


# ONNX Attention -------------------------------------------------------------------------------


def _heads(x: Operand, heads: int | None, name: str) -> tuple[int, int, int, int]:
    """Return the sizes (B, heads, S, D) of 4 dimensions, or of `(B, S, heads * D)`."""
    if x.dtype != np.float32:
        raise Unsupported(f"{name} is {x.dtype.name}; only float32")
    if x.ndim == 4:
        if heads not in (None, x.shape[1]):
            raise Unsupported(f"heads of {name} contradict its shape")
        batch, count, steps, size = x.shape
        return batch, count, steps, size
    if x.ndim != 3 or not heads or heads < 1 or x.shape[2] % heads:
        raise Unsupported(f"heads of {name} do not divide its last dimension")
    return x.shape[0], heads, x.shape[1], x.shape[2] // heads


def _mask(mask: Operand | None, shape: tuple[int, int, int, int], pads: bool) -> Mask:
    """Return a mask that broadcasts to (B, Hq, queries, keys)."""
    if mask is None:
        return Mask()
    if mask.dtype not in (np.float32, np.bool_):
        raise Unsupported(f"attn_mask is {mask.dtype.name}")
    if mask.ndim > 4 or (pads and mask.ndim and mask.shape[-1] != shape[3]):
        raise Unsupported("attn_mask is shorter than the keys")
    return Mask(mask, broadcast_strides(mask.shape, shape))


def broadcast_strides(shape: Sequence[int], goal: Sequence[int]) -> tuple[int, ...]:
    """Return the steps in elements over `goal` of a C-contiguous tensor that broadcasts to it."""
    full = (1,) * (len(goal) - len(shape)) + tuple(shape)
    if any(size not in (1, wanted) for size, wanted in zip(full, goal, strict=True)):
        raise Unsupported("the mask does not broadcast")
    return tuple(0 if size == 1 else math.prod(full[axis + 1 :]) for axis, size in enumerate(full))


def _sizes(q: Operand, k: Operand, v: Operand, q_heads: int | None, kv_heads: int | None, past: int) -> Sizes:
    if not q.ndim == k.ndim == v.ndim:
        raise Unsupported("Q, K and V differ in rank")
    batch, heads, queries, size = _heads(q, q_heads, "Q")
    k_batch, shared, keys, k_size = _heads(k, kv_heads, "K")
    value_batch, value_heads, value_keys, value_size = _heads(v, kv_heads, "V")
    if (k_batch, shared, keys) != (value_batch, value_heads, value_keys) or (batch, size) != (
        k_batch,
        k_size,
    ):
        raise Unsupported("Q, K and V disagree in shape")
    if 0 in (heads, shared, size, value_size, keys + past) or heads % shared:
        raise Unsupported("empty, or heads of Q that are no multiple of those of K")
    return Sizes(batch, heads, shared, queries, keys + past, size, value_size)


def _with_past(
    site: Site, x: Operand, past: Operand | None, present: Operand | None, heads: int, size: int
) -> View:
    """Return the view of cached and new rows; emit their concatenation where it is needed."""
    view = plain_view(x, x.shape, heads)
    if past is None and present is None:
        return view
    batch, rows = x.shape[0], x.shape[-2]
    cached = 0 if past is None else past.shape[2]
    goal: Operand | Scratch = present or site.scratch(4 * batch * heads * (cached + rows) * size)
    site.call(
        native(_CODE, "concatenate"), goal, past or 0, x, *view.steps, heads, cached, rows, 4 * size,
        units=batch * heads, work=batch * heads * (cached + rows) * size * 0.8,
    )  # fmt: skip
    return plain_view(goal, (batch, heads, cached + rows, size), heads)


def _check_past(x: Operand, past: Operand | None, heads: int, size: int) -> None:
    if past is None:
        return
    fits = past.ndim == 4 and (past.shape[0], past.shape[1], past.shape[3]) == (x.shape[0], heads, size)
    if not fits or past.dtype != np.float32:
        raise Unsupported("the cache disagrees with the new rows")


@lower("Attention", since=(23, 24, 25))
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
    if nonpad_kv_seqlen is not None or (left_window_size, right_window_size) != (-1, -1):
        raise Unsupported("nonpad_kv_seqlen or a window")
    if softmax_precision not in (None, _FLOAT) or (past_key is None) != (past_value is None):
        raise Unsupported("softmax_precision, or half a cache")
    past = 0 if past_key is None or past_key.ndim != 4 else past_key.shape[2]
    sizes = _sizes(q, k, v, q_num_heads, kv_num_heads, past)
    mask = _mask(attn_mask, (sizes.batch, sizes.heads, sizes.queries, sizes.keys), site.opset >= 24)
    _check_past(k, past_key, sizes.kv_heads, sizes.size)
    _check_past(v, past_value, sizes.kv_heads, sizes.value_size)
    if past_key is not None and past_value is not None and past_value.shape[2] != past:
        raise Unsupported("the caches disagree")
    keys = _with_past(site, k, past_key, present_key, sizes.kv_heads, sizes.size)
    values = _with_past(site, v, past_value, present_value, sizes.kv_heads, sizes.value_size)
    if scale is None:
        scale = 1 / math.sqrt(sizes.size)
    _emit(
        site, plain_view(q, q.shape, sizes.heads), keys, values, plain_view(y, y.shape, sizes.heads), mask,
        sizes, float(scale), past if is_causal else -1, float(softcap),
    )  # fmt: skip


@lower("FusedAttention", since=1, domain=INTERNAL)
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
    """Attend, with heads anywhere in the operands; see the module."""
    y = site.outputs[0]
    if y is None:
        raise Unsupported("Y is not wanted")
    _emit(
        site, View(q, *q_view), View(k, *k_view), View(v, *v_view), View(y, *y_view),
        Mask(mask, mask_strides, fill, bool(hides)), Sizes(*sizes), scale, 0 if is_causal else -1,
        softcap, blind,
    )  # fmt: skip


# RotaryEmbedding ------------------------------------------------------------------------------


@lower("RotaryEmbedding", since=23)
def rotary_embedding(
    site: Site,
    x: Operand,
    cos_cache: Operand,
    sin_cache: Operand,
    position_ids: Operand | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> None:
    """Rotate pairs in each head (ONNX RotaryEmbedding-23)."""
    (y,) = site.outputs
    if y is None or cos_cache.dtype != np.float32 or sin_cache.dtype != np.float32:
        raise Unsupported("only float32")
    batch, heads, steps, size = _heads(x, num_heads, "X")
    turned = rotary_embedding_dim or size
    if turned % 2 or not 0 <= turned <= size or cos_cache.shape != sin_cache.shape:
        raise Unsupported("rotary_embedding_dim is out of range, or the caches disagree")
    if position_ids is None:
        wanted: tuple[int, ...] = (batch, steps, turned // 2)
    else:
        wanted = (cos_cache.shape[0], turned // 2)
    if cos_cache.shape != wanted:
        raise Unsupported("the caches do not have half the rotary dimension per token")
    places = position_ids and _positions(site, position_ids, (batch, steps), cos_cache.shape[0])
    view = plain_view(x, x.shape, heads)
    site.call(
        native(_CODE, "rotate", bool(interleaved)), x, cos_cache, sin_cache, places or 0, y, steps,
        heads, size, turned // 2, *view.steps, units=batch * steps, work=x.size * 0.4, grain=4,
    )  # fmt: skip


def _positions(site: Site, positions: Operand, shape: tuple[int, int], rows: int) -> Operand | Scratch:
    """Return position_ids as int64 that native code may trust."""
    if positions.shape != shape or positions.dtype != np.int64:
        raise Unsupported("position_ids has another shape or type")
    if positions.constant is None:
        return emit_axis_places(site, positions, size=rows, step=1, lowest=0)
    if ((positions.constant < 0) | (positions.constant >= rows)).any():
        raise Unsupported("position_ids is out of range")
    return positions
