"""One step of an optimizer: Adagrad, Adam, Momentum.

Each takes the learning rate R, the update count T, and then groups of n tensors: those to optimize,
their gradients, and one or two accumulators of each. Outputs are grouped alike, without gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import TRAINING, op

from ._checks import check_choice, scalar
from ._common import narrow

# Attributes are float32, and so are their defaults: it shows where the tensors are float64.
_EPSILON, _ALPHA, _BETA = (float(np.float32(x)) for x in (1e-6, 0.9, 0.999))

# (x, gradient, *accumulators) -> (new x, *new accumulators)
Step = Callable[..., tuple[Array, ...]]


def _float64(value: Array, name: str) -> np.float64:
    # NumPy's float64 and not Python's float: dividing it by zero or overflowing gives inf or NaN.
    return np.float64(scalar(value, name))


def _for_each(step: Step, groups: int, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """Apply `step` to each tensor with its gradient and accumulators; return the outputs by group."""
    n, rest = divmod(len(inputs), groups)
    if n == 0 or rest:
        raise KernelError(
            f"inputs must be {groups} groups of equally many tensors (got {len(inputs)} tensors)"
        )
    results = []
    for i in range(n):
        own = inputs[i::n]
        if any(x.shape != own[0].shape for x in own):
            raise KernelError(f"a tensor and its state must have one shape (got {[x.shape for x in own]})")
        x, _, *accumulators = own
        new = step(*own)
        results.append([narrow(y, old.dtype) for y, old in zip(new, (x, *accumulators), strict=True)])
    return tuple(y for group in zip(*results, strict=True) for y in group)


@op("Adagrad", since=1, domain=TRAINING)
def adagrad(
    r: Array,
    t: Array,
    *inputs: Array,
    decay_factor: float = 0.0,
    epsilon: float = _EPSILON,
    norm_coefficient: float = 0.0,
) -> tuple[Array, ...]:
    """One step with the accumulated squared gradient H; inputs X.., G.., H.. (ONNX Adagrad-1)."""
    rate = float(_float64(r, "R") / (1 + _float64(t, "T") * decay_factor))

    def step(x: Array, g: Array, h: Array) -> tuple[Array, ...]:
        g = norm_coefficient * x + g
        h = h + g * g
        return x - rate * g / (np.sqrt(h) + epsilon), h

    return _for_each(step, 3, inputs)


@op("Adam", since=1, domain=TRAINING)
def adam(
    r: Array,
    t: Array,
    *inputs: Array,
    alpha: float = _ALPHA,
    beta: float = _BETA,
    epsilon: float = _EPSILON,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[Array, ...]:
    """One step with averaged gradient V and squared gradient H; inputs X.., G.., V.., H.. (ONNX Adam-1)."""
    adjusted, count = _float64(r, "R"), _float64(t, "T")
    if count > 0:
        adjusted = adjusted * np.sqrt(1 - np.float64(beta) ** count) / (1 - np.float64(alpha) ** count)
    rate = float(adjusted)

    def step(x: Array, g: Array, v: Array, h: Array) -> tuple[Array, ...]:
        g = norm_coefficient * x + g
        v = alpha * v + (1 - alpha) * g
        h = beta * h + (1 - beta) * g * g
        x = x - rate * v / (np.sqrt(h) + epsilon)
        return (1 - norm_coefficient_post) * x, v, h

    return _for_each(step, 4, inputs)


@op("Momentum", since=1, domain=TRAINING)
def momentum(
    r: Array,
    t: Array,
    *inputs: Array,
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
) -> tuple[Array, ...]:
    """One step with momentum V, standard or Nesterov's; inputs X.., G.., V.. (ONNX Momentum-1)."""
    check_choice(mode, ("standard", "nesterov"), "mode")
    rate = float(_float64(r, "R"))
    scale = beta if _float64(t, "T") > 0 else 1.0

    def step(x: Array, g: Array, v: Array) -> tuple[Array, ...]:
        g = norm_coefficient * x + g
        v = alpha * v + scale * g
        return x - rate * (g + alpha * v if mode == "nesterov" else v), v

    return _for_each(step, 3, inputs)
