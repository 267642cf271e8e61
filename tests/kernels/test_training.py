"""Optimizer steps, against the pseudo code of the schemas on Python floats."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from helpers import run_op

from onnxref.errors import KernelError
from onnxref.registry import TRAINING

STATES = {"Adagrad": 1, "Adam": 2, "Momentum": 1}
# The defaults of attributes are float32.
EPSILON, ALPHA, BETA = (float(np.float32(x)) for x in (1e-6, 0.9, 0.999))
MOMENTUM = {"alpha": 0.9, "beta": 0.5, "mode": "standard", "norm_coefficient": 0.1}


def adagrad(r: float, t: int, x: float, g: float, h: float, a: dict[str, float]) -> tuple[float, ...]:
    r = r / (1 + t * a.get("decay_factor", 0))
    g = a.get("norm_coefficient", 0) * x + g
    h = h + g * g
    return x - r * g / (math.sqrt(h) + a.get("epsilon", EPSILON)), h


def adam(r: float, t: int, x: float, g: float, v: float, h: float, a: dict[str, float]) -> tuple[float, ...]:
    alpha, beta = a.get("alpha", ALPHA), a.get("beta", BETA)
    g = a.get("norm_coefficient", 0) * x + g
    v = alpha * v + (1 - alpha) * g
    h = beta * h + (1 - beta) * g * g
    if t > 0:
        r = r * math.sqrt(1 - beta**t) / (1 - alpha**t)
    x = x - r * v / (math.sqrt(h) + a.get("epsilon", EPSILON))
    return (1 - a.get("norm_coefficient_post", 0)) * x, v, h


def momentum(r: float, t: int, x: float, g: float, v: float, a: dict[str, Any]) -> tuple[float, ...]:
    g = a["norm_coefficient"] * x + g
    v = a["alpha"] * v + (a["beta"] if t > 0 else 1) * g
    return x - r * (g + a["alpha"] * v if a["mode"] == "nesterov" else v), v


CASES: list[tuple[Any, dict[str, Any]]] = [
    (adagrad, {}),
    (adagrad, {"decay_factor": 0.3, "epsilon": 0.5, "norm_coefficient": 0.25}),
    (adam, {}),
    (
        adam,
        {"alpha": 0.5, "beta": 0.25, "epsilon": 0.1, "norm_coefficient": 0.2, "norm_coefficient_post": 0.3},
    ),
    (momentum, MOMENTUM),
    (momentum, {**MOMENTUM, "mode": "nesterov"}),
]


@pytest.mark.parametrize(("definition", "attributes"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("t", [0, 3])
@pytest.mark.parametrize("shapes", [[(2, 3)], [(), (4,), (0, 2)]])
def test_step(definition: Any, attributes: dict[str, Any], dtype: Any, t: int, shapes: Any) -> None:
    name = definition.__name__.title()
    rng = np.random.default_rng(0)
    # x.., g.., then non-negative states: H is a sum of squares.
    groups = [[np.asarray(rng.uniform(0.1, 2, s), dtype) for s in shapes] for _ in range(2 + STATES[name])]
    inputs = list(itertools.chain.from_iterable(groups))
    n = (1 + STATES[name]) * len(shapes)
    rate = np.array(0.1, np.float64)
    got = run_op(name, rate, np.array(t), *inputs, opset=1, domain=TRAINING, n_outputs=n, **attributes)
    got = (got,) if n == 1 else got
    assert len(got) == n
    for i, shape in enumerate(shapes):
        own = [group[i] for group in groups]
        outputs = [np.zeros(shape) for _ in range(1 + STATES[name])]
        for at in np.ndindex(shape):
            for y, value in zip(
                outputs, definition(0.1, t, *(float(z[at]) for z in own), attributes), strict=True
            ):
                y[at] = value
        for group, want in enumerate(outputs):
            y = got[group * len(shapes) + i]
            assert (y.dtype, y.shape) == (np.dtype(dtype), shape)
            np.testing.assert_allclose(y, want, rtol=1e-5 if dtype is np.float32 else 1e-12)


def test_each_tensor_keeps_its_type() -> None:
    x, y = np.ones(2, np.float32), np.ones(3, np.float64)
    inputs = [x, y, x, y, x, y]
    got = run_op(
        "Momentum",
        np.array([0.1]),
        np.array([0]),
        *inputs,
        opset=1,
        domain=TRAINING,
        n_outputs=4,
        **MOMENTUM,
    )
    assert [z.dtype for z in got] == [np.float32, np.float64] * 2


def test_degenerate_coefficients_give_nan_and_no_exception() -> None:
    one = np.ones(1, np.float32)
    got = run_op(
        "Adam", one, np.array(2**40), one, one, one, one, opset=1, domain=TRAINING, alpha=1.0, beta=2.0
    )
    assert np.isnan(got).all()
    got = run_op("Adagrad", one, np.array(1), one, one, one, opset=1, domain=TRAINING, decay_factor=-1.0)
    assert np.isneginf(got).all()


ONE = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("name", "inputs", "attributes", "message"),
    [
        ("Adagrad", [ONE[:1], ONE[:1], ONE, ONE], {}, r"inputs must be 3 groups .* \(got 2 tensors\)"),
        ("Adam", [ONE[:1], ONE[:1]], {}, r"inputs must be 4 groups .* \(got 0 tensors\)"),
        ("Adagrad", [ONE, ONE[:1], ONE, ONE, ONE], {}, r"R must have one element \(got shape \(2,\)\)"),
        ("Adagrad", [ONE[:1], ONE, ONE, ONE, ONE], {}, r"T must have one element \(got shape \(2,\)\)"),
        ("Adagrad", [ONE[:1], ONE[:1], ONE, ONE[:1], ONE], {}, "a tensor and its state must have one shape"),
        (
            "Momentum",
            [ONE[:1], ONE[:1], ONE, ONE, ONE],
            {**MOMENTUM, "mode": "fast"},
            r"mode must be one of standard, nesterov \(got 'fast'\)",
        ),
    ],
)
def test_errors(name: str, inputs: Any, attributes: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op(name, *inputs, opset=1, domain=TRAINING, **attributes)
