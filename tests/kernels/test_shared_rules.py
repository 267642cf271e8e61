"""What lowerings for the CPU and for GPUs have in common: `kernels/common/`."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
from onnxref.kernels.common import strides, windows
from onnxref.kernels.common.rules import Rules

from onnxref.errors import KernelError
from onnxref.lowering import Op, Operand, Site, Unsupported, find_lowering, load_lowerings, lowerings

F32 = np.dtype(np.float32)


def test_the_rules_load_without_numba_and_cupy() -> None:
    program = (
        "import importlib, pkgutil, sys; from onnxref.kernels import common; "
        "[importlib.import_module(f'onnxref.kernels.common.{m.name}') "
        "for m in pkgutil.iter_modules(common.__path__)]; "
        "print([n for n in ('numba', 'cupy', 'onnxref.kernels.numba', 'onnxref.kernels.cupy') "
        "if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_both_sets_register_the_same_rules() -> None:
    made: dict[str, set[tuple[str, int]]] = {}
    for backend in ("numba", "cupy"):
        load_lowerings(backend)
        made[backend] = {
            (found.op_type, version)
            for version, found in lowerings(backend)
            if found.emit.__module__.startswith("onnxref.kernels.common.")
        }
    assert made["numba"] == made["cupy"]
    assert {("Add", 14), ("Resize", 19), ("LSTM", 22), ("Slice", 13), ("Pad", 25)} <= made["numba"]


def test_a_rule_becomes_a_lowering_of_the_same_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxref.lowering._tables", {})
    rules: Rules[tuple[Operand, float]] = Rules()
    emitted = []

    @rules.rule("Twice", since=(3, 5))
    def twice(site: Site, x: Operand, *, factor: float = 2.0) -> tuple[Operand, float]:
        if factor < 0:
            raise KernelError("factor must not be negative")
        return x, factor

    rules.register("numba", lambda site, asked: emitted.append(asked))
    found = find_lowering("numba", "", "Twice", 5)
    assert found is not None
    assert inspect.signature(found.emit) == inspect.signature(twice)
    x = Operand((2,), F32)
    site = Site(Op("Twice", [x], [x]))
    found.emit(site, x)
    found.emit(site, x, factor=3.0)
    assert emitted == [(x, 2.0), (x, 3.0)]
    with pytest.raises(Unsupported, match="factor must not be negative"):
        found.emit(site, x, factor=-1.0)
    assert find_lowering("numba", "", "Twice", 4) is None


def test_windows_over_more_axes() -> None:
    x, w = Operand((1, 3, 9), F32), Operand((4, 3, 3), F32)
    found = windows.conv_windows(x, w, 2, strides=[2], pads=[1, 0])
    assert (found.size, found.out, found.begins, found.ends) == ((9,), (4,), (1,), (0,))
    flat = windows.over_axes(found, 3)
    assert (flat.size, flat.out, flat.kernel) == ((1, 1, 9), (1, 1, 4), (1, 1, 3))
    assert (flat.strides, flat.begins, flat.ends) == ((1, 1, 2), (0, 0, 1), (0, 0, 0))
    assert windows.over_axes(found, 1) is found
    for refused in (Operand((1, 2, 9), F32), Operand((1, 3), F32), Operand((1, 3, 9, 9, 9), F32)):
        with pytest.raises(Unsupported):
            windows.conv_windows(refused, w, 2)


def test_dimensions_that_are_walked_as_one() -> None:
    # (2, 1, 3, 4) of a dense operand, and of one that repeats along the first two axes.
    kept, found = strides.collapse((2, 1, 3, 4), [(12, 12, 4, 1), (0, 0, 4, 1)])
    assert kept == [2, 12]
    assert found == [[12, 1], [0, 1]]
    assert strides.collapse((1, 1), [(1, 1)]) == ([], [[]])
    dims = [strides.Dim(2, 12, 24), strides.Dim(3, 4, 8), strides.Dim(1, 9, 9), strides.Dim(4, 1, 2)]
    assert strides.join_dims(dims) == [strides.Dim(24, 1, 2)]
    assert strides.join_dims(dims[:1] + dims[3:]) == [dims[0], dims[3]]
