"""Attention by softmax over keys, flexible and linear attention, rotary position embedding.

Letters: B batch, Hq query heads, Hk key and value heads, Sq queries, Sk keys (cached ones included),
D head size, Dv value head size.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import PREVIEW, Body, Context, Cost, op

from ._checks import broadcasts_to, check_choice, check_shape, float_dtype
from ._common import in_float32, narrow, softmax, widen

_RAW, _SOFTCAPPED, _BIASED, _PROBABILITIES = range(4)  # values of qk_matmul_output_mode


# Heads ----------------------------------------------------------------------------------------


def split_heads(x: Array, heads: int | None, name: str) -> Array:
    """Return `(B, S, heads * D)`, or what has 4 dimensions already, as `(B, heads, S, D)`."""
    if x.ndim == 4:
        if heads is not None and heads != x.shape[1]:
            raise KernelError(f"heads of {name} must be {x.shape[1]}, its dimension 1 (got {heads})")
        return x
    if x.ndim != 3:
        raise KernelError(f"{name} must have 3 or 4 dimensions (got {x.ndim})")
    if heads is None or heads < 1 or x.shape[2] % heads:
        raise KernelError(f"heads of {name} must divide its last dimension {x.shape[2]} (got {heads})")
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)


def check_heads(q: Array, k: Array, v: Array) -> None:
    """Check `(B, heads, S, D)` of query, key and value against each other."""
    if k.shape[:3] != v.shape[:3]:
        raise KernelError(f"V must agree with K in all but head size {k.shape} (got {v.shape})")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise KernelError(f"K must agree with Q in batch and head size {q.shape} (got {k.shape})")
    if q.shape[1] != k.shape[1] and (not k.shape[1] or q.shape[1] % k.shape[1]):
        raise KernelError(f"heads of Q must be a multiple of those of K, {k.shape[1]} (got {q.shape[1]})")


def _grouped_matmul(x: Array, y: Array) -> Array:
    """Multiply `(B, Hq, S, M)` by `(B, Hk, M, N)`: each of the Hk serves Hq / Hk heads in a row.

    The heads of a group are stacked as rows of one product; nothing is repeated.
    """
    batch, heads, rows, inner = x.shape
    shared = y.shape[1]
    if heads == shared:
        return np.matmul(x, y)  # type: ignore[no-any-return]
    stacked = x.reshape(batch, shared, heads // shared * rows, inner)
    return np.matmul(stacked, y).reshape(batch, heads, rows, y.shape[3])  # type: ignore[no-any-return]


def _scores(q: Array, k: Array, scale: float | None) -> Array:
    """Return Q K^T times `scale`, by default 1/sqrt(D): `(B, Hq, Sq, Sk)`.

    The spec splits the scale between Q and K against overflow. Put on Q alone it guards as well
    as long as it is at most 1, and no copy of all keys is needed.
    """
    if scale is None:
        scale = 1 / math.sqrt(max(q.shape[3], 1))
    return _grouped_matmul(q * q.dtype.type(scale), k.swapaxes(2, 3))


# Attention ------------------------------------------------------------------------------------


def _visible(
    queries: int, keys: int, past: int, lengths: Array | None, is_causal: bool, window: tuple[int, int]
) -> Array | None:
    """Return which keys each query may see, ready to broadcast to `(B, Hq, Sq, Sk)`; None for all.

    Query i stands at position p = past + i, or p = length - Sq + i in a cache of which `length`
    keys are filled. It sees keys p - left ... p + right, where -1 is no bound; if it is
    causal it sees none after p.
    """
    key = np.arange(keys)
    position = np.arange(queries)[:, None] + past
    if lengths is not None:
        position = position + (lengths - queries)[:, None, None, None]
    # a window wider than all positions bounds nothing; cut off there, sums cannot overflow
    left, right = (min(side, past + keys + queries) for side in window)
    seen = []
    if lengths is not None:
        seen.append(key < lengths[:, None, None, None])
    if is_causal:
        seen.append(key <= position)
    if right >= 0:
        seen.append(key <= position + right)
    if left >= 0:
        seen.append(key >= position - left)
    if not seen:
        return None
    visible = seen[0]
    for condition in seen[1:]:
        visible = visible & condition
    return visible


def _bias(
    shape: tuple[int, ...], dtype: DType, mask: Array | None, visible: Array | None, pad: bool
) -> Array | None:
    """Return what to add to scores of `shape` (B, Hq, Sq, Sk): -inf hides; None for nothing."""
    bias: Array | None = None
    if mask is not None:
        if mask.dtype == np.bool_:
            bias = np.where(mask, dtype.type(0), dtype.type(-np.inf))
        else:
            bias = mask.astype(dtype)
        if pad and bias.ndim and bias.shape[-1] < shape[-1]:
            widths = [(0, 0)] * (bias.ndim - 1) + [(0, shape[-1] - bias.shape[-1])]
            bias = np.pad(bias, widths, constant_values=-np.inf)
        if not broadcasts_to(bias.shape, shape):
            raise KernelError(f"attn_mask must broadcast to {shape} (got {mask.shape})")
    if visible is not None:
        hidden = np.where(visible, dtype.type(0), dtype.type(-np.inf))
        bias = hidden if bias is None else bias + hidden
    return bias


def _probabilities(scores: Array, bias: Array | None, softmax_precision: int | None) -> Array:
    """Softmax over the keys, zero for a query that sees none; may work in place."""
    if softmax_precision is None:
        probabilities = softmax(scores, -1, out=scores)
    else:
        wanted = float_dtype(softmax_precision, "softmax_precision")
        probabilities = narrow(softmax(widen(scores.astype(wanted)), -1), wanted).astype(scores.dtype)
    if bias is not None:
        # Decided on the bias, as in the function body: the scores of such a row may be NaN.
        blind = np.isneginf(bias.max(axis=-1, keepdims=True, initial=-np.inf))
        if blind.any():
            np.copyto(probabilities, 0, where=blind)
    return probabilities


def _attend(
    scores: Array, bias: Array | None, softcap: float, softmax_precision: int | None, shown: int | None
) -> tuple[Array, Array | None]:
    """Return the probabilities, and the scores at the stage that `shown` names; may work in place."""
    qk = scores.copy() if shown == _RAW else None
    if softcap:
        scores /= scores.dtype.type(softcap)
        np.tanh(scores, out=scores)
        scores *= scores.dtype.type(softcap)
    if shown == _SOFTCAPPED:
        qk = scores.copy()
    if bias is not None:
        scores += bias
    if shown == _BIASED:
        qk = scores.copy()
    probabilities = _probabilities(scores, bias, softmax_precision)
    return probabilities, probabilities if shown == _PROBABILITIES else qk


def _with_past(x: Array, past: Array | None, name: str) -> Array:
    """Return `(B, Hk, S, D)` behind the cached part, if there is one."""
    if past is None:
        return x
    if past.ndim != 4 or past.shape[:2] != x.shape[:2] or past.shape[3] != x.shape[3]:
        raise KernelError(f"{name} must have shape (B, heads, past, size) like {x.shape} (got {past.shape})")
    return np.concatenate((past, x), axis=2)


def _check_cache(
    past_key: Array | None, past_value: Array | None, lengths: Array | None, batch: int, keys: int
) -> None:
    if (past_key is None) != (past_value is None):
        raise KernelError("past_key and past_value must be given together (got one)")
    if lengths is None:
        return
    if past_key is not None:
        raise KernelError("nonpad_kv_seqlen must not be given together with past_key (got both)")
    check_shape(lengths, (batch,), "nonpad_kv_seqlen")
    if ((lengths < 0) | (lengths > keys)).any():
        raise KernelError(f"nonpad_kv_seqlen must be in [0, {keys}] (got {lengths.tolist()[:16]})")


def _attention_cost(
    q: Array,
    k: Array,
    v: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    **attributes: Any,
) -> Cost:
    if not q.ndim == k.ndim == v.ndim or q.ndim not in (3, 4):
        return Cost(0)  # the kernel refuses these
    heads = q.shape[1] if q.ndim == 4 else q_num_heads or 1
    keys = k.shape[-2] + (past_key.shape[2] if past_key is not None and past_key.ndim == 4 else 0)
    value_size = v.shape[3] if v.ndim == 4 else v.shape[2] // max(kv_num_heads or 1, 1)
    rows = q.shape[0] * heads * q.shape[-2]
    present = sum(a.nbytes for a in (k, v, past_key, past_value) if a is not None)
    wide = max(4, q.itemsize, v.itemsize)
    out = rows * (value_size + keys) * q.itemsize + present  # the scores may be an output, too
    return Cost(out, (3 * rows * keys + rows * value_size + q.size) * wide + 2 * present)


@op("Attention", since=(23, 24, 25), cost=_attention_cost)
def attention(
    q: Array,
    k: Array,
    v: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    ctx: Context,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Array | None, ...]:
    """Attend to keys by scaled dot products; return Y, present key, present value, Q K^T.

    Q is `(B, Hq, Sq, D)` or `(B, Sq, Hq * D)`, Y like it. Source: ONNX Attention-25.
    """
    if not q.ndim == k.ndim == v.ndim:
        raise KernelError(f"Q, K and V must have the same rank (got {q.ndim}, {k.ndim} and {v.ndim})")
    window = (left_window_size, right_window_size)
    if min(window) < -1:
        raise KernelError(f"left_window_size and right_window_size must be at least -1 (got {window})")
    check_choice(qk_matmul_output_mode, range(4), "qk_matmul_output_mode")
    heads_q = split_heads(q, q_num_heads, "Q")
    keys = _with_past(split_heads(k, kv_num_heads, "K"), past_key, "past_key")
    values = _with_past(split_heads(v, kv_num_heads, "V"), past_value, "past_value")
    _check_cache(past_key, past_value, nonpad_kv_seqlen, keys.shape[0], keys.shape[2])
    check_heads(heads_q, keys, values)

    past = 0 if past_key is None else past_key.shape[2]
    visible = _visible(heads_q.shape[2], keys.shape[2], past, nonpad_kv_seqlen, bool(is_causal), window)
    dtype = np.result_type(*(widen(a).dtype for a in (q, k, v)))
    # Version 23 asks for a mask that broadcasts; later ones fill up a mask that is too short.
    bias = _bias((*heads_q.shape[:3], keys.shape[2]), dtype, attn_mask, visible, ctx.opset >= 24)

    shown = qk_matmul_output_mode if ctx.n_outputs > 3 and ctx.wanted[3] else None
    scores = _scores(heads_q.astype(dtype, copy=False), keys.astype(dtype, copy=False), scale)
    probabilities, qk = _attend(scores, bias, softcap, softmax_precision, shown)
    y = narrow(_grouped_matmul(probabilities, values.astype(dtype, copy=False)), q.dtype)
    if q.ndim == 3:
        y = y.transpose(0, 2, 1, 3).reshape(*q.shape[:2], y.shape[1] * y.shape[3])
    return y, keys, values, None if qk is None else narrow(qk, q.dtype)


# FlexAttention --------------------------------------------------------------------------------


def _modified(body: Body | None, x: Array, name: str) -> Array:
    """Return what the subgraph makes of `x`, which must keep its shape and type."""
    if body is None:
        return x
    (y,) = body(x)
    if y.shape != x.shape or y.dtype != x.dtype:
        raise KernelError(f"{name} must return {x.dtype}{x.shape}, as it gets (got {y.dtype}{y.shape})")
    return y  # type: ignore[no-any-return]


def _flex_cost(q: Array, k: Array, v: Array, **attributes: Any) -> Cost:
    return _attention_cost(q, k, v)


@op("FlexAttention", since=1, domain=PREVIEW, cost=_flex_cost)
def flex_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    prob_mod: Body | None = None,
    scale: float | None = None,
    score_mod: Body | None = None,
    softmax_precision: int | None = None,
) -> Array:
    """Attend `(B, Hq, Sq, D)` to keys; subgraphs may change the weights (ONNX FlexAttention-1)."""
    if not q.ndim == k.ndim == v.ndim == 4:
        raise KernelError(f"Q, K and V must have 4 dimensions (got {q.ndim}, {k.ndim} and {v.ndim})")
    check_heads(q, k, v)
    if softmax_precision is None:
        precision = widen(q).dtype
    else:
        precision = float_dtype(softmax_precision, "softmax_precision")
    scores = narrow(_scores(widen(q), widen(k), scale), precision)
    scores = _modified(score_mod, scores, "score_mod")
    probabilities = narrow(softmax(widen(scores), -1), precision)
    probabilities = _modified(prob_mod, probabilities, "prob_mod")
    return narrow(_grouped_matmul(widen(probabilities), widen(narrow(v, precision))), q.dtype)


# RotaryEmbedding ------------------------------------------------------------------------------


def _angles(cache: Array, position_ids: Array | None, shape: tuple[int, ...], name: str) -> Array:
    """Return the cosines or sines `(B, S, 1, half)` of each token."""
    if position_ids is None:
        rows = cache
    else:
        if cache.ndim != 2:
            raise KernelError(f"{name} must have 2 dimensions beside position_ids (got {cache.ndim})")
        check_shape(position_ids, shape[:2], "position_ids")
        if ((position_ids < 0) | (position_ids >= len(cache))).any():
            raise KernelError(f"position_ids must be in [0, {len(cache) - 1}] (got others)")
        rows = cache[position_ids]
    if rows.shape != shape:
        raise KernelError(f"{name} must give {shape}, half the rotary dimension per token (got {rows.shape})")
    return rows[:, :, None]


@op("RotaryEmbedding", since=23)
@in_float32
def rotary_embedding(
    x: Array,
    cos_cache: Array,
    sin_cache: Array,
    position_ids: Array | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Array:
    """Rotate pairs in each head of `(B, H, S, D)` or `(B, S, H * D)` (ONNX RotaryEmbedding-23)."""
    heads = split_heads(x, num_heads, "X").transpose(0, 2, 1, 3)  # (B, S, H, D)
    size = rotary_embedding_dim or heads.shape[3]
    if size % 2 or not 0 <= size <= heads.shape[3]:
        raise KernelError(f"rotary_embedding_dim must be even, at most {heads.shape[3]} (got {size})")
    shape = (*heads.shape[:2], size // 2)
    cos = _angles(cos_cache, position_ids, shape, "cos_cache")
    sin = _angles(sin_cache, position_ids, shape, "sin_cache")
    if interleaved:
        first, second = slice(0, size, 2), slice(1, size, 2)
    else:
        first, second = slice(0, size // 2), slice(size // 2, size)
    real, imaginary = heads[..., first], heads[..., second]
    y = heads.copy()
    y[..., first] = cos * real - sin * imaginary
    y[..., second] = sin * real + cos * imaginary
    return y.reshape(x.shape) if x.ndim == 3 else y.transpose(0, 2, 1, 3)


# LinearAttention ------------------------------------------------------------------------------


def _linear_cost(
    query: Array,
    key: Array,
    value: Array,
    past_state: Array | None = None,
    decay: Array | None = None,
    beta: Array | None = None,
    *,
    q_num_heads: int,
    kv_num_heads: int,
    **attributes: Any,
) -> Cost:
    if not query.ndim == key.ndim == value.ndim == 3 or q_num_heads < 1 or kv_num_heads < 1:
        return Cost(0)  # the kernel refuses these
    value_size = value.shape[2] // kv_num_heads
    out = query.shape[0] * query.shape[1] * q_num_heads * value_size
    state = query.shape[0] * key.shape[2] * value_size
    state_type = query if past_state is None else past_state
    inputs = sum(a.size for a in (query, key, value, decay, beta) if a is not None)
    return Cost(out * query.itemsize + state * state_type.itemsize, 4 * (out + 3 * state + inputs))


def _per_head(
    x: Array | None, needed: bool, shape: tuple[int, int], heads: int, sizes: tuple[int, ...], name: str
) -> Array | None:
    """Return decay or beta `(B, T, size)` as `(T, B, Hk or 1, size per head)` in float32."""
    if (x is not None) != needed:
        raise KernelError(f"{name} must be {'given' if needed else 'left out'} under this update_rule")
    if x is None:
        return None
    if x.shape not in [(*shape, size) for size in sizes]:
        wanted = " or ".join(str((*shape, size)) for size in sizes)
        raise KernelError(f"{name} must have shape {wanted} (got {x.shape})")
    groups = 1 if x.shape[2] == 1 else heads
    split = x.reshape(*shape, groups, x.shape[2] // groups)
    return split.transpose(1, 0, 2, 3).astype(np.float32)


@op("LinearAttention", since=27, cost=_linear_cost)
def linear_attention(
    query: Array,
    key: Array,
    value: Array,
    past_state: Array | None = None,
    decay: Array | None = None,
    beta: Array | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Array, Array]:
    """Attend through a recurrent state `(B, Hk, D, Dv)`, token by token (ONNX LinearAttention-27)."""
    # chunk_size is a hint to implementations that work in chunks; it never changes a result.
    check_choice(update_rule, ("linear", "gated", "delta", "gated_delta"), "update_rule")
    if not query.ndim == key.ndim == value.ndim == 3:
        shapes = f"{query.shape}, {key.shape} and {value.shape}"
        raise KernelError(f"query, key and value must have 3 dimensions (got {shapes})")
    heads_q, heads_k = split_heads(query, q_num_heads, "query"), split_heads(key, kv_num_heads, "key")
    heads_v = split_heads(value, kv_num_heads, "value")
    check_heads(heads_q, heads_k, heads_v)
    batch, _, steps, size = heads_q.shape
    if steps != heads_k.shape[2]:
        raise KernelError(f"key must have as many tokens as query, {steps} (got {heads_k.shape[2]})")
    decays = _per_head(
        decay, "gated" in update_rule, (batch, steps), kv_num_heads, (kv_num_heads, key.shape[2]), "decay"
    )
    betas = _per_head(beta, "delta" in update_rule, (batch, steps), kv_num_heads, (kv_num_heads, 1), "beta")
    state_shape = (batch, kv_num_heads, size, heads_v.shape[3])
    if past_state is None:
        state = np.zeros(state_shape, np.float32)
    else:
        check_shape(past_state, state_shape, "past_state")
        state = past_state.astype(np.float32)

    q, k, v = (a.transpose(2, 0, 1, 3).astype(np.float32) for a in (heads_q, heads_k, heads_v))
    q *= np.float32(scale or 1 / math.sqrt(max(size, 1)))
    # the query heads that share a state are the rows of one product with it
    q = q.reshape(steps, batch, kv_num_heads, q_num_heads // kv_num_heads, size)
    y = _recur(state, q, k, v, decays, betas)
    output = y.swapaxes(0, 1).reshape(batch, steps, q_num_heads * heads_v.shape[3])
    state_dtype = query.dtype if past_state is None else past_state.dtype
    return narrow(output, query.dtype), narrow(state, state_dtype)


def _recur(state: Array, q: Array, k: Array, v: Array, decays: Array | None, betas: Array | None) -> Array:
    """Update `state` in place, token by token; return what the queries read `(T, B, Hk, G, Dv)`."""
    y = np.empty((*q.shape[:4], v.shape[3]), np.float32)
    if decays is not None:
        decays = np.exp(decays)[..., None]
    for t in range(len(q)):
        written = v[t]
        if decays is not None:
            state *= decays[t]
        if betas is not None:
            recalled = np.matmul(k[t][:, :, None, :], state)[:, :, 0]
            written = betas[t] * (written - recalled)
        state += k[t][..., :, None] * written[..., None, :]
        np.matmul(q[t], state, out=y[t])
    return y
