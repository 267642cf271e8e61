"""The suite `types`: every cell of the schemas has a case, and cases tell right from wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnxref.conformance import values
from onnxref.conformance.backends import CallableAdapter, make_adapter
from onnxref.conformance.cases import Case, from_json, parse_model, read_case, write_case
from onnxref.conformance.suites import types
from onnxref.conformance.suites._type_oracles import nearest, wrap
from onnxref.conformance.worker import run_case

import onnxref

# How many cases have an oracle; a case more or less is a change worth seeing.
COUNT = 8801

# One of each kind of oracle, and of each kind of type.
SAMPLE = (
    "values/Add-14-T-uint8",
    "values/Add-14-T-bfloat16",
    "values/And-7-T-bool",
    "values/AveragePool-22-T-float16",
    "values/BatchNormalization-15-T-double",
    "values/Cast-25-T2-float8e5m2",
    "values/Concat-13-T-complex64",
    "values/Conv-22-T-float16",
    "values/Gemm-13-T-uint64",
    "values/If-25-V-optional_seq_tensor_float",
    "values/Loop-25-V-seq_tensor_string",
    "values/LSTM-22-T-float16",
    "values/MatMul-13-T-bfloat16",
    "values/QuantizeLinear-25-T3-int2",
    "values/Reshape-25-T-float4e2m1",
    "values/TopK-11-T-float16",
    "values/Attention-24-T1-bfloat16",
    "values/BitCast-26-T1-int4",
    "values/Col2Im-18-T-string",
    "values/GridSample-22-T1-int8",
    "values/Mod-13-T-int16",
    "values/QLinearConv-10-T3-int8",
    "values/ai.onnx.ml-ZipMap-1-T-seq_map_string_float",
    "types-only/RandomNormal-22-T-float16",
)


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {f"{case.group}/{case.name}": case for case in types.load()}


def test_every_cell_has_a_case(cases: dict[str, Case]) -> None:
    schemas = onnx.defs.get_all_schemas_with_history()
    cells = sum(len(one.allowed_type_strs) for schema in schemas for one in schema.type_constraints)
    # The cells of onnx 1.23; Tile-1 has a type variable that no input or output has.
    assert (cells, len(cases)) == (8898, 8897)


def test_groups_say_what_is_checked(cases: dict[str, Case]) -> None:
    groups = Counter(case.group for case in cases.values())
    assert groups == {"values": COUNT, "types-only": 8897 - COUNT}
    assert all(case.types_only == (case.group == "types-only") for case in cases.values())
    assert all(bool(case.data_sets[0].outputs) != case.types_only for case in cases.values())


@pytest.mark.parametrize("name", SAMPLE)
def test_numpy_passes(cases: dict[str, Case], name: str) -> None:
    reply = run_case(make_adapter("numpy"), cases[name])
    assert reply["outcome"] == "passed", reply


def _tampered(change: Callable[[Any], Any]) -> CallableAdapter:
    """A backend whose outputs are changed before they are handed over."""

    def run(model: bytes, inputs: list[Any]) -> list[Any]:
        session = onnxref.InferenceSession(model, backend="numpy")
        return [change(output) for output in session.run(None, inputs)]

    return CallableAdapter(run, "onnxref")


def _next(array: Any) -> Any:
    """Return the array with the sign or lowest bit of its first number changed."""
    changed = array.copy()
    changed.view(np.uint8).reshape(-1)[-1] ^= 0x80
    return changed


@pytest.mark.parametrize(
    "name", ["Add-14-T-uint8", "MatMul-13-T-bfloat16", "Softmax-13-T-float16", "Cast-25-T2-float8e5m2"]
)
def test_wrong_values_are_caught(cases: dict[str, Case], name: str) -> None:
    reply = run_case(_tampered(_next), cases[f"values/{name}"])
    assert (reply["outcome"], reply["max_ulp"] != 0) == ("failed", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float64), r"output[0].dtype must be float16 (got float64)"),
        (lambda x: x[:, :1], r"output[0].shape must be (2, 3) (got (2, 1))"),
        (lambda x: x.tolist(), "output[0] must be a tensor (got a list)"),
    ],
)
def test_wrong_types_and_shapes_are_caught(
    cases: dict[str, Case], change: Callable[[Any], Any], message: str
) -> None:
    reply = run_case(_tampered(change), cases["types-only/RandomNormal-22-T-float16"])
    assert (reply["outcome"], reply["message"]) == ("failed", message)


def test_any_values_of_the_type_pass_where_none_are_foretold(cases: dict[str, Case]) -> None:
    reply = run_case(_tampered(np.zeros_like), cases["types-only/RandomNormal-22-T-float16"])
    assert (reply["outcome"], reply["max_ulp"]) == ("passed", None)


def test_what_is_checked_survives_the_ways_to_a_worker_and_to_a_folder(
    cases: dict[str, Case], tmp_path: Any
) -> None:
    case = cases["types-only/RandomNormal-22-T-float16"]
    write_case(case, tmp_path / case.name)
    for again in (from_json(case.to_json()), read_case(tmp_path / case.name, "types", "types-only")):
        assert again.types_only
        assert run_case(make_adapter("numpy"), again)["outcome"] == "passed"


def test_expected_products(cases: dict[str, Case]) -> None:
    case = cases["values/Mul-14-T-uint8"]
    model = parse_model(case.model)
    expected = values.decode(case.data_sets[0].outputs[0], model.graph.output[0].type)
    assert expected.tolist() == [[1, 0, 4], [9, 1, 1]]


def test_only_what_is_random_or_left_open_has_no_values(cases: dict[str, Case]) -> None:
    left = {case.operator for case in cases.values() if case.types_only}
    random = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    # What the raw scores of a support vector classifier are is not written down.
    assert left == random | {"SVMClassifier"}


def test_integers_wrap() -> None:
    assert wrap(np.array([256, -1, 128], object), np.dtype(np.int8)).tolist() == [0, -1, -128]
    assert wrap(np.array([-1, 2**64], object), np.dtype(np.uint64)).tolist() == [2**64 - 1, 0]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_search_rounds_to_the_nearest_even(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    step = 2.0 ** -int(ml_dtypes.finfo(dtype).nmant)  # type: ignore[no-untyped-call]
    # Halves between 1 and the two numbers above it; a hair above the half; a negative zero.
    numbers = np.array([1 + step / 2, 1 + step * 1.5, 1 + step / 2 + 1e-12, -0.0, np.inf])
    rounded = nearest(numbers, dtype).astype(np.float64)
    assert rounded[:3].tolist() == [1, 1 + 2 * step, 1 + step]
    assert np.signbit(rounded[3])
