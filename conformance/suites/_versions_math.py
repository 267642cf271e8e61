"""Elementwise operators, reductions and softmax: legacy broadcasting, attribute axes, 2-D coercion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._versions_rows import Row, f32, i64

_CONSUMED = "consumed_inputs, a legacy optimisation hint, is an attribute without effect on the result"
_BROADCAST = "with broadcast=1 and axis=0, B's shape is matched to A's from dimension 0 on"
_CHANNELS = "with broadcast=1 and axis=1, B's shape is matched to A's from dimension 1 on"

_UNARY: dict[str, tuple[list[float], list[float]]] = {
    "Abs": ([-1, 2], [1, 2]),
    "Ceil": ([-1.5, 1.5], [-1, 2]),
    "Elu": ([-1, 2], [math.expm1(-1), 2]),
    "Exp": ([0, 1], [1, math.e]),
    "Floor": ([-1.5, 1.5], [-2, 1]),
    "HardSigmoid": ([-9, 0, 9], [0, 0.5, 1]),
    "LeakyRelu": ([-1, 2], [-0.01, 2]),
    "Log": ([1, math.e], [0, 1]),
    "Neg": ([-1, 2], [1, -2]),
    "Reciprocal": ([-2, 4], [-0.5, 0.25]),
    "Relu": ([-1, 2], [0, 2]),
    "Sigmoid": ([0, math.log(3)], [0.5, 0.75]),
    "Sqrt": ([4, 9], [2, 3]),
    "Tanh": ([0, 1], [0, math.tanh(1)]),
}

_VARIADIC: dict[str, list[float]] = {"Max": [3, 5], "Mean": [2, 4.5], "Min": [1, 4], "Sum": [4, 9]}

# A is [[1, 2], [3, 4]], B is [2, 4], matched to the rows.
_ARITHMETIC = {
    "Add": [[3, 4], [7, 8]],
    "Sub": [[-1, 0], [-1, 0]],
    "Mul": [[2, 4], [12, 16]],
    "Div": [[0.5, 1], [0.75, 1]],
    "Pow": [[1, 4], [81, 256]],
    "Greater": [[False, False], [False, False]],
    "Less": [[True, False], [True, False]],
}

# A is [[T, F], [T, F]], B is [T, F], matched to the rows.
_LOGICAL = {
    "And": [[True, False], [False, False]],
    "Or": [[True, True], [True, False]],
    "Xor": [[False, True], [True, False]],
}

# Of the rows [1, 2] and [3, 4], over axis 1.
_REDUCTIONS = {
    "ReduceL1": [3, 7],
    "ReduceL2": [math.sqrt(5), 5],
    "ReduceLogSum": [math.log(3), math.log(7)],
    "ReduceLogSumExp": [math.log(math.e + math.e**2), math.log(math.e**3 + math.e**4)],
    "ReduceMax": [2, 4],
    "ReduceMean": [1.5, 3.5],
    "ReduceMin": [1, 3],
    "ReduceProd": [2, 12],
    "ReduceSum": [3, 7],
    "ReduceSumSquare": [5, 25],
}


def rows() -> Iterator[Row]:
    """Yield the rows of this family."""
    yield from _consumed()
    yield from _broadcasting()
    yield from _reductions()
    yield from _coerced()
    yield from _others()


def _consumed() -> Iterator[Row]:
    attributes = {"consumed_inputs": [0]}
    for operator, (x, y) in _UNARY.items():
        name = f"test_{operator.lower()}_1_consumed_inputs"
        yield Row(name, operator, 1, _CONSUMED, [f32(x)], [f32(y)], attributes)
    attributes = {"consumed_inputs": [0, 0]}
    for operator, y in _VARIADIC.items():
        name = f"test_{operator.lower()}_1_consumed_inputs"
        yield Row(name, operator, 1, _CONSUMED, [f32(1, 4), f32(3, 5)], [f32(y)], attributes)


def _broadcasting() -> Iterator[Row]:
    a, b = f32([[1, 2], [3, 4]]), f32(2, 4)
    for operator, y in _ARITHMETIC.items():
        versions = (1, 6) if operator in ("Add", "Sub", "Mul", "Div") else (1,)
        expected = np.array(y) if operator in ("Greater", "Less") else f32(y)
        for version in versions:
            yield _axis_row(operator, version, a, b, expected)
    # B is matched to the channels of A, whose rows are 2 long and channels 3.
    image, channels = np.zeros((1, 3, 2), np.float32), f32(1, 2, 4)
    moved = {"Add": 1, "Sub": -1, "Mul": 0, "Div": 0}
    for operator, sign in moved.items():
        expected = f32([[[sign * c] * 2 for c in (1, 2, 4)]])
        for version in (1, 6):
            name = f"test_{operator.lower()}_{version}_broadcasts_over_channels"
            attributes = {"broadcast": 1, "axis": 1}
            yield Row(name, operator, version, _CHANNELS, [image, channels], [expected], attributes)
    p, q = np.array([[True, False], [True, False]]), np.array([True, False])
    for operator, y in _LOGICAL.items():
        yield _axis_row(operator, 1, p, q, np.array(y))
    integers = np.array([[1, 2], [3, 4]], np.int32)
    same = np.array([[True, False], [False, True]])
    yield _axis_row("Equal", 1, integers, np.array([1, 4], np.int32), same)


def _axis_row(operator: str, version: int, a: np.ndarray, b: np.ndarray, y: np.ndarray) -> Row:
    name = f"test_{operator.lower()}_{version}_broadcasts_from_axis"
    return Row(name, operator, version, _BROADCAST, [a, b], [y], {"broadcast": 1, "axis": 0})


def _reductions() -> Iterator[Row]:
    for operator, y in _REDUCTIONS.items():
        versions = [1, 11] if operator == "ReduceSum" else [1, 11, 13]
        if operator in ("ReduceMax", "ReduceMin"):
            versions.append(12)
        for version in versions:
            name = f"test_{operator.lower()}_{version}_axes_attribute"
            rule = "axes is an attribute, not an input"
            attributes = {"axes": [1], "keepdims": 0}
            yield Row(name, operator, version, rule, [f32([[1, 2], [3, 4]])], [f32(y)], attributes)


def _coerced() -> Iterator[Row]:
    rule = "the input is coerced to 2-D at axis, which is 1 unless given; each row is normalised as a whole"
    parts = np.array([[[0.1, 0.2], [0.3, 0.4]]])
    ones = np.array([[[0, 0], [1, 0]]])
    table: dict[str, tuple[Any, Any]] = {
        "Softmax": (np.log(parts), parts),
        "LogSoftmax": (np.log(parts), np.log(parts)),
        "Hardmax": (np.array([[[1, 2], [4, 3]]]), ones),
    }
    for operator, (x, y) in table.items():
        for version in (1, 11):
            name = f"test_{operator.lower()}_{version}_coerces_to_2d"
            yield Row(name, operator, version, rule, [f32(x)], [f32(y)])
            # At axis 0 all of the input is one row; axis 0 alone would give two rows of one element.
            name = f"test_{operator.lower()}_{version}_axis_0_is_one_row"
            column, wanted = (f32(side).reshape(1, 2, 2) for side in (x, y))
            yield Row(name, operator, version, rule, [column], [wanted], {"axis": 0})


def _others() -> Iterator[Row]:
    rule = "min and max are attributes"
    for version in (1, 6):
        name = f"test_clip_{version}_min_max_attributes"
        yield Row(name, "Clip", version, rule, [f32(-5, 0, 5)], [f32(-1, 0, 2)], {"min": -1.0, "max": 2.0})
    rule = "C is broadcast to (M, N) only with broadcast=1"
    for version in (1, 6):
        inputs = [f32([[1, 2]]), f32([[1, 0], [0, 1]]), f32(10, 20)]
        name = f"test_gemm_{version}_broadcast_attribute"
        yield Row(name, "Gemm", version, rule, inputs, [f32([[11, 22]])], {"broadcast": 1})
    rule = "a slope of shape (C,) belongs to the channels, dimension 1 of X"
    for version in (1, 6):
        inputs = [f32([[[-1, -1], [-1, 5]]]), f32(2, 3)]
        name = f"test_prelu_{version}_slope_by_channel"
        yield Row(name, "PRelu", version, rule, inputs, [f32([[[-2, -2], [-3, 5]]])])
    yield Row(
        "test_selu_1_short_constants",
        "Selu",
        1,
        "alpha is 1.6732 and gamma 1.0507 unless given",
        [f32(-20, 1)],
        [f32(-1.6732 * 1.0507, 1.0507)],
        rtol=3e-7,  # two units in the last place; the longer constants of version 6 are 4e-5 away
    )
    yield Row(
        "test_cast_1_to_is_a_string",
        "Cast",
        1,
        "to is the name of a data type",
        [f32(1.5, -2.5)],
        [np.array([1, -2], np.int32)],
        {"to": "INT32"},
    )
    yield Row(
        "test_topk_1_k_attribute",
        "TopK",
        1,
        "k is an attribute; values and indices come out in descending order",
        [f32([[1, 3, 2]])],
        [f32([[3, 2]]), i64([[1, 2]])],
        {"k": 2},
    )
    signal = f32([[[[1], [2]], [[3], [4]]]])
    spectrum = f32([[[[4, 0], [6, 0]], [[-2, 0], [-2, 0]]]])
    rule = "axis is an attribute, 1 unless given"
    # The zeros are sums of sines of pi, which float32 rounds.
    yield Row("test_dft_17_default_axis_1", "DFT", 17, rule, [signal], [spectrum], atol=1e-6)
    yield Row("test_dft_17_axis_attribute", "DFT", 17, rule, [signal], [spectrum], {"axis": 1}, atol=1e-6)
