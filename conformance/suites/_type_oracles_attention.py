"""Oracles for attention and what language models put around it, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._type_models import Call
from ._type_oracles import Array, Oracle, wide


def _softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def _attention(call: Call) -> tuple[Array, ...]:
    """One head of four numbers, a past of two positions, and a mask; the fourth output is before the mask."""
    query, key, value, mask, past_key, past_value = (wide(x) for x in call.inputs)
    key, value = np.concatenate([past_key, key], 2), np.concatenate([past_value, value], 2)
    scores = query @ key.swapaxes(2, 3) / math.sqrt(4)
    bias = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask.astype(np.float64)
    return _softmax(scores + bias) @ value, key, value, scores


def _flex_attention(call: Call) -> Array:
    query, key, value = (wide(x) for x in call.inputs)
    return np.asarray(_softmax(query @ key.swapaxes(2, 3) / math.sqrt(4)) @ value)


def _linear_attention(call: Call) -> tuple[Array, Array]:
    """The rule `linear`: S_t = S_{t-1} + k_t ⊗ v_t, o_t = q_t S_t / sqrt(d)."""
    queries, keys, values, state = (wide(x) for x in call.inputs)
    made = []
    for q, k, v in zip(queries[0], keys[0], values[0], strict=True):
        state = state + np.outer(k, v)
        made.append(q @ state[0, 0] / math.sqrt(4))
    return np.array([made]), state


def _causal_conv(call: Call) -> tuple[Array, Array]:
    x, weights, bias, past = (wide(value) for value in call.inputs)
    whole = np.concatenate([past, x], 2)
    size = weights.shape[2]
    made = [(whole[:, :, t : t + size] * weights[:, 0]).sum(2) + bias for t in range(x.shape[2])]
    return np.stack(made, 2), whole[:, :, 1 - size :]


def _rotary_embedding(call: Call) -> Array:
    """(1, 1, 2, 4): the first half of each row is turned against the second by its position's angles."""
    x, cosines, sines, positions = (wide(value) for value in call.inputs)
    made = np.empty_like(x)
    for row, position in enumerate(positions[0].tolist()):
        c, s, first, second = cosines[position], sines[position], x[0, 0, row, :2], x[0, 0, row, 2:]
        made[0, 0, row] = [*(c * first - s * second), *(s * first + c * second)]
    return made


def _swiglu(call: Call) -> Any:
    gate, linear = (wide(x) for x in call.inputs)
    return gate / (1 + np.exp(-gate)) * linear


ORACLES: dict[tuple[str, str], Oracle] = {
    ("", "Attention"): _attention,
    ("", "CausalConvWithState"): _causal_conv,
    ("", "LinearAttention"): _linear_attention,
    ("", "RotaryEmbedding"): _rotary_embedding,
    ("", "SwiGLU"): _swiglu,
    ("ai.onnx.preview", "FlexAttention"): _flex_attention,
}
