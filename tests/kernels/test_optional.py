"""Optional operators: a value stands for its own optional, None for the empty one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import run_op

from onnxref.errors import KernelError

VALUES: list[Any] = [np.zeros(2, np.float32), np.array("a", np.object_), [], [np.zeros(1), np.ones(2)]]


@pytest.mark.parametrize("opset", [15, 18, 28])
@pytest.mark.parametrize("value", VALUES)
def test_value(opset: int, value: Any) -> None:
    wrapped = run_op("Optional", value, opset=opset)
    assert run_op("OptionalGetElement", wrapped, opset=opset) is value
    has = run_op("OptionalHasElement", wrapped, opset=opset)
    assert (has.dtype, has.shape, has.item()) == (np.bool_, (), True)


@pytest.mark.parametrize("opset", [15, 18, 28])
def test_empty(opset: int) -> None:
    empty = run_op("Optional", opset=opset, type=object())
    assert empty is None
    has = run_op("OptionalHasElement", empty, opset=opset)
    assert (has.dtype, has.shape, has.item()) == (np.bool_, (), False)
    with pytest.raises(KernelError, match="input must have an element .got an empty optional"):
        run_op("OptionalGetElement", empty, opset=opset)


@pytest.mark.parametrize("opset", [18, 28])
def test_absent_input_has_no_element(opset: int) -> None:
    assert run_op("OptionalHasElement", opset=opset).item() is False


def test_type_of_nothing_is_needed() -> None:
    with pytest.raises(KernelError, match="type must be given where there is no input"):
        run_op("Optional", opset=15)
