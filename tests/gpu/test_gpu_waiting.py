"""Runs that wait for their device: those whose kernels may report values that the specification forbids."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy  # noqa: F401 - registers
import pytest

from onnxref.lowering import FAULT, Op, Operand, Site, find_lowering
from onnxref.schema import find as find_schema

DATA = np.arange(24, dtype=np.float32).reshape(4, 6)
ROWS = np.array([0, 3, 1])
COLUMNS = np.array([[5, 0, 2, 1, 1, 3]])
CACHE = DATA.reshape(2, 2, 3, 2)
IMAGE = DATA.reshape(1, 1, 4, 6)
SCORES = np.zeros((4, 3), np.float32)

# Operator, opset, inputs, which of them holds the places, the output's shape, attributes.
CASES: dict[str, tuple[str, int, list[Any], int, tuple[int, ...], dict[str, Any]]] = {
    "Gather": ("Gather", 13, [DATA, ROWS], 1, (3, 6), {}),
    "GatherElements": ("GatherElements", 13, [DATA, COLUMNS], 1, (1, 6), {"axis": 1}),
    "GatherND": ("GatherND", 13, [DATA, ROWS[:, None]], 1, (3, 6), {}),
    "ScatterElements": ("ScatterElements", 18, [DATA, COLUMNS, DATA[:1]], 1, (4, 6), {"axis": 1}),
    "ScatterND": ("ScatterND", 18, [DATA, ROWS[:, None], DATA[:3]], 1, (4, 6), {}),
    "ScatterND add": ("ScatterND", 18, [DATA, ROWS[:, None], DATA[:3]], 1, (4, 6), {"reduction": "add"}),
    "TensorScatter": ("TensorScatter", 24, [CACHE, CACHE[:, :, :1], np.array([2, 0])], 2, CACHE.shape, {}),
    "ReverseSequence": ("ReverseSequence", 10, [DATA, np.array([4, 0, 1, 2, 3, 4])], 1, (4, 6), {}),
    "MaxUnpool": (
        *("MaxUnpool", 22, [IMAGE[:, :, :2, :3], np.arange(6).reshape(1, 1, 2, 3) * 3], 1, IMAGE.shape),
        {"kernel_shape": (2, 2), "strides": (2, 2)},
    ),
    "NLL": ("NegativeLogLikelihoodLoss", 22, [SCORES, np.array([0, 2, 1, 1])], 1, (), {}),
}


def waits(name: str, *, known: bool, places: Any = None, **more: Any) -> bool:
    """Return whether any launch may report a fault.

    Args:
        known: whether the places are an initializer.
        places: others than those of the table.
    """
    op_type, opset, inputs, which, shape, attributes = CASES[name]
    operands = [Operand(x.shape, x.dtype) for x in inputs]
    if known:
        operands[which].constant = inputs[which] if places is None else places
    attributes = {**attributes, **more}
    site = Site(Op(op_type, list(operands), [Operand(shape, inputs[0].dtype)], attributes, opset=opset))
    schema = find_schema("", op_type, opset)
    assert schema is not None
    lowering = find_lowering("cupy", "", op_type, schema.since_version)
    assert lowering is not None
    lowering.emit(site, *operands, **attributes)
    assert site.launches
    return any(x is FAULT for launch in site.launches for x in getattr(launch, "arguments", ()))


@pytest.mark.parametrize("name", CASES)
def test_only_unknown_places_make_a_run_wait(name: str) -> None:
    assert waits(name, known=False)
    assert not waits(name, known=True)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("TensorScatter", [3, 0]),
        ("ReverseSequence", [5, 0, 1, 2, 3, 4]),
        ("MaxUnpool", [[[[0, 1, 2], [3, 4, 24]]]]),
        ("NLL", [0, 3, 1, 1]),
    ],
)
def test_known_places_out_of_range_are_reported(name: str, places: Any) -> None:
    assert waits(name, known=True, places=np.array(places))


def test_places_that_wrap_round_are_never_wrong() -> None:
    assert not waits("TensorScatter", known=False, mode="circular")
