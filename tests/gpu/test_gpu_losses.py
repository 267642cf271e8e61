"""Losses and optimizers on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.losses
import onnxref.kernels.cupy.optimizers  # noqa: F401 - registers
import pytest

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.plan.specialize import RefusedError
from onnxref.registry import TRAINING
from tests.lowered import reference

from .lowered import run_on_device
from .test_gpu_narrow_cast import dtype_of

NLL, CROSS = "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


def check(
    op_type: str, inputs: list[Any], attributes: dict[str, Any], wanted: tuple[int, ...] = (0, 1), **run: Any
) -> None:
    expected = reference(op_type, inputs, attributes, 13)
    places = [(y.shape, y.dtype) if i in wanted else None for i, y in enumerate(expected)]
    found = run_on_device(op_type, inputs, places, attributes, opset=13, **run)
    tolerance = TOLERANCE[inputs[0].dtype.name]
    for i, y in enumerate(found):
        if i in wanted:
            assert y is not None
            np.testing.assert_allclose(
                y.astype("f8"), expected[i].astype("f8"), rtol=tolerance, atol=tolerance, err_msg=str(i)
            )


def scores(shape: tuple[int, ...], name: str = "float32") -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype_of(name))


def targets(shape: tuple[int, ...], classes: int, name: str = "int64") -> Array:
    return np.random.default_rng(1).integers(0, classes, shape).astype(name)


_SHAPES = [(7, 5), (3, 5, 11), (2, 4, 3, 5), (9, 70)]


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("extras", ["", "weight", "ignore", "both"])
@pytest.mark.parametrize("op_type", [NLL, CROSS])
def test_shapes(op_type: str, extras: str, reduction: str, shape: tuple[int, ...]) -> None:
    labels = targets((shape[0], *shape[2:]), shape[1])
    attributes: dict[str, Any] = {"reduction": reduction}
    inputs: list[Any] = [scores(shape), labels]
    if extras in ("weight", "both"):
        inputs.append(np.linspace(0.1, 2, shape[1]).astype(np.float32))
    if extras in ("ignore", "both"):
        labels.reshape(-1)[::3] = -100
        attributes["ignore_index"] = -100
    check(op_type, inputs, attributes, orders=(0,))


@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("wanted", [(0,), (0, 1)])
def test_types(wanted: tuple[int, ...], name: str) -> None:
    inputs = [scores((6, 33), name), targets((6,), 33, "int32"), scores((33,), name)]
    check(CROSS, inputs, {"reduction": "sum"}, wanted)
    check(CROSS, inputs, {"reduction": "none"}, wanted)


@pytest.mark.parametrize("wanted", [(0,), (1,)])
def test_one_output(wanted: tuple[int, ...]) -> None:
    for shape in ((6, 33), (2, 5, 40), (3, 4097)):
        check(CROSS, [scores(shape), targets((shape[0], *shape[2:]), shape[1])], {}, wanted)


def test_many_positions() -> None:
    check(NLL, [scores((2, 3, 20001)), targets((2, 20001), 3)], {"reduction": "mean"})


def test_nothing_to_average() -> None:
    labels = np.full(4, 2)
    check(NLL, [scores((4, 3)), labels], {"ignore_index": 2})
    x = scores((4, 3))
    x[:, 2] = -np.inf
    check(CROSS, [x, labels], {"ignore_index": 2, "reduction": "sum"}, (0,))
    check(NLL, [scores((0, 3)), targets((0,), 3)], {"reduction": "sum"})


@pytest.mark.parametrize("wrong", [-1, 5])
@pytest.mark.parametrize("op_type", [NLL, CROSS])
def test_wrong_classes_are_refused(op_type: str, wrong: int) -> None:
    places = [((), "f4"), ((2, 5), "f4")][: 1 if op_type == NLL else 2]
    with pytest.raises(RefusedError):
        run_on_device(op_type, [scores((2, 5)), np.array([0, wrong])], places, opset=13)


def test_refusals() -> None:
    with pytest.raises(Unsupported, match="do not fit"):
        run_on_device(NLL, [scores((2, 5)), np.array([0])], [((), "f4")], opset=13)


_STEPS: list[tuple[str, int, dict[str, Any]]] = [
    ("Adagrad", 1, {"decay_factor": 0.1, "epsilon": 1e-3, "norm_coefficient": 0.01}),
    (
        "Adam",
        2,
        {
            "alpha": 0.8,
            "beta": 0.95,
            "epsilon": 1e-3,
            "norm_coefficient": 0.01,
            "norm_coefficient_post": 0.02,
        },
    ),
    ("Adam", 2, {}),
    ("Momentum", 1, {"alpha": 0.9, "beta": 0.3, "mode": "standard", "norm_coefficient": 0.01}),
    ("Momentum", 1, {"alpha": 0.9, "beta": 0.3, "mode": "nesterov", "norm_coefficient": 0.01}),
]


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize(("op_type", "states", "attributes"), _STEPS)
def test_optimizers(op_type: str, states: int, attributes: dict[str, Any], count: int, name: str) -> None:
    rng = np.random.default_rng(0)
    shapes = ((5, 301), (3,))
    groups = [[rng.standard_normal(shape).astype(name) for shape in shapes] for _ in range(2 + states)]
    for tensors in groups[2:]:
        tensors[:] = [np.abs(t) for t in tensors]
    inputs = [np.float32(0.1).reshape(()), np.array(count), *(t for tensors in groups for t in tensors)]
    operator = registry.find(TRAINING, op_type, 1)
    expected = operator.kernel(*inputs, **attributes)
    places = [(y.shape, y.dtype) for y in expected]
    found = run_on_device(op_type, inputs, places, attributes, opset=1, domain=TRAINING, orders=(0, 1))
    for y, wanted in zip(found, expected, strict=True):
        tolerance = {"float32": 1e-7, "float64": 1e-15}[name] if op_type == "Adam" else 0.0
        assert y is not None
        np.testing.assert_allclose(y, wanted, rtol=2 * tolerance, atol=tolerance)
