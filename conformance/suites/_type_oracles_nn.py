"""Oracles for normalization, losses and recurrent networks, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._type_models import Call
from ._type_oracles import Array, Oracle, narrow, wide
from ._type_specs import dtype_of

_EPSILON = 1e-5


def _bernoulli(call: Call) -> Array:
    """Every probability is 0 or 1, so that nothing is left to chance."""
    return wide(call.inputs[0])


def _group_normalization(call: Call) -> Array:
    """There are as many groups as channels: each channel is normalized by itself."""
    x, scale, bias = (wide(value) for value in call.inputs)
    centred = x - x.mean(2, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(2, keepdims=True) + _EPSILON)
    return np.asarray(normal * scale[None, :, None] + bias[None, :, None])


def _layer_normalization(call: Call) -> tuple[Array, Array, Array]:
    x, scale, bias = (wide(value) for value in call.inputs)
    mean = x.mean(1, keepdims=True)
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(1, keepdims=True) + _EPSILON)
    return (x - mean) * inverse * scale + bias, mean, inverse


def _rms_normalization(call: Call) -> Array:
    """What the first stage makes is rounded to the type of the input before it is scaled."""
    x, scale = (wide(value) for value in call.inputs)
    normal = x / np.sqrt((x * x).mean(1, keepdims=True) + _EPSILON)
    given, made = (dtype_of(types[0]) for types in (call.input_types, call.output_types))
    if given.itemsize < made.itemsize:
        normal = wide(narrow(normal, given))
    return np.asarray(normal * scale)


def _mean_variance(call: Call) -> Array:
    x = wide(call.inputs[0])
    centred = x - x.mean((0, 2, 3), keepdims=True)
    return np.asarray(centred / (np.sqrt((centred**2).mean((0, 2, 3), keepdims=True)) + 1e-9))


def _local_response(call: Call) -> Array:
    """A region of one channel, alpha 1e-4, beta 0.75, bias 1."""
    x = wide(call.inputs[0])
    return np.asarray(x / (1 + 1e-4 * x * x) ** 0.75)


def _max_unpool(call: Call) -> Array:
    made = np.zeros((1, 1, 4, 4))
    made.reshape(-1)[call.inputs[1].reshape(-1)] = wide(call.inputs[0]).reshape(-1)
    return made


def _weighted_loss(scores: Array, call: Call) -> Array:
    """The mean of the targets' scores, weighted by class."""
    targets, weights = call.inputs[1].tolist(), wide(call.inputs[2]).tolist()
    total = math.fsum(-weights[t] * scores[row, t] for row, t in enumerate(targets))
    return np.asarray(total / math.fsum(weights[t] for t in targets))


def _likelihood_loss(call: Call) -> Array:
    return _weighted_loss(wide(call.inputs[0]), call)


def _cross_entropy_loss(call: Call) -> tuple[Array, Array]:
    scores = wide(call.inputs[0])
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return _weighted_loss(logs, call), logs


# --- recurrent networks --------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _recurrent(step: Callable[..., tuple[Array, Array]]) -> Oracle:
    """A forward pass of two steps, one batch and two units; `step` maps (x, h, c, w, r, wb, rb) to (h, c)."""

    def oracle(call: Call) -> tuple[Array, Array]:
        x, w, r, b, _, initial = (wide(value) for value in call.inputs)
        gates = w.shape[1] // 2
        parts = [part.reshape(gates, 2, -1) for part in (w[0], r[0])]
        biases = b[0].reshape(2, gates, 2)
        h, c, made = initial[0], np.zeros((1, 2)), []
        for now in x:
            h, c = step(now, h, c, *parts, *biases)
            made.append(h)
        return np.array(made)[:, None], h[None]

    return oracle


def _rnn_step(x: Array, h: Array, c: Array, w: Any, r: Any, wb: Any, rb: Any) -> tuple[Array, Array]:
    return np.tanh(x @ w[0].T + h @ r[0].T + wb[0] + rb[0]), c


def _lstm_step(x: Array, h: Array, c: Array, w: Any, r: Any, wb: Any, rb: Any) -> tuple[Array, Array]:
    """The gates are stored in the order i, o, f, c."""
    i, o, f, new = (x @ w[g].T + h @ r[g].T + wb[g] + rb[g] for g in range(4))
    cell = _sigmoid(f) * c + _sigmoid(i) * np.tanh(new)
    return _sigmoid(o) * np.tanh(cell), cell


def _gru_step(x: Array, h: Array, c: Array, w: Any, r: Any, wb: Any, rb: Any) -> tuple[Array, Array]:
    """The gates are stored in the order z, r, h; the reset comes before the product with the weights."""
    update, reset = (_sigmoid(x @ w[g].T + h @ r[g].T + wb[g] + rb[g]) for g in range(2))
    new = np.tanh(x @ w[2].T + (reset * h) @ r[2].T + rb[2] + wb[2])
    return (1 - update) * new + update * h, c


ORACLES: dict[tuple[str, str], Oracle] = {
    ("", "Bernoulli"): _bernoulli,
    ("", "GRU"): _recurrent(_gru_step),
    ("", "GroupNormalization"): _group_normalization,
    ("", "LRN"): _local_response,
    ("", "LSTM"): _recurrent(_lstm_step),
    ("", "LayerNormalization"): _layer_normalization,
    ("", "MaxUnpool"): _max_unpool,
    ("", "MeanVarianceNormalization"): _mean_variance,
    ("", "NegativeLogLikelihoodLoss"): _likelihood_loss,
    ("", "RMSNormalization"): _rms_normalization,
    ("", "RNN"): _recurrent(_rnn_step),
    ("", "SoftmaxCrossEntropyLoss"): _cross_entropy_loss,
}
