"""What runs a model or knows its values: every kind of runner gives the same values."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from model_zoo import REAL_MODELS, RealModel
from onnx import helper, parser

from onnxref.debug._errors_between import Rounding, Tolerance, errors_between, rounding_between
from onnxref.debug._lock_step import lock_step
from onnxref.debug._runners import OnnxRefRunner, RecordedRunner, bound_feeds, open_runner
from onnxref.debug._store import open_store
from onnxref.errors import BackendError, InputError
from onnxref.model import load_model
from onnxref.model._write import write_case

FLOAT8 = ml_dtypes.float8_e4m3fn


def zoo(name: str) -> RealModel:
    """Return a model of the zoo."""
    return next(model for model in REAL_MODELS if model.name == name)


CNN = zoo("torch cnn_opset9")


def _feeds(model: RealModel) -> dict[str, Any]:
    return bound_feeds(OnnxRefRunner(model.model()).model.graph, model.calls()[0])


def _golden(model: RealModel = CNN) -> dict[str, Any]:
    return dict(OnnxRefRunner(model.model()).values(_feeds(model)))


@pytest.mark.parametrize(
    "spec", ["numpy", "numba", "onnxruntime", "onnxruntime:disabled", "onnxruntime:basic", "onnx.reference"]
)
def test_runtimes_agree_on_every_value_they_show(spec: str) -> None:
    # onnx.reference computes BatchNormalization-9 wrongly.
    model = zoo("torch gpt_opset14") if spec == "onnx.reference" else CNN
    golden = _golden(model)
    found = dict(open_runner(spec, model.model()).values(_feeds(model)))
    common = golden.keys() & found.keys()
    assert "logits" in common
    for name in common:
        assert errors_between(golden[name], found[name]).passed, name
    if spec in ("numpy", "onnxruntime:disabled", "onnx.reference"):
        assert common == golden.keys()


def test_values_inside_of_branches_have_their_path() -> None:
    model = zoo("silero_vad 16 kHz")
    runner = OnnxRefRunner(model.model())
    inner = [e for e in runner.executions(_feeds(model)) if e.scope]
    path = inner[-1].scope + inner[-1].node.outputs[0]
    found = runner.fetch(_feeds(model), [path, "output"])
    assert set(found) == {path, "output"}
    np.testing.assert_array_equal(found[path], inner[-1].outputs[0])


@pytest.mark.parametrize("spec", ["onnxruntime:disabled", "onnx.reference"])
def test_a_small_memory_bound_means_more_batches_of_the_same_values(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = open_runner(spec, CNN.model(), memory=1)
    batches: list[int] = []
    fetch = runner.fetch

    def counted(feeds: Any, names: Any) -> dict[str, Any]:
        batches.append(len(names))
        return fetch(feeds, names)

    monkeypatch.setattr(runner, "fetch", counted)
    found = dict(runner.values(_feeds(CNN)))
    assert found.keys() == _golden().keys()
    assert batches[1:] == [1] * (len(found) - 8)


@pytest.mark.parametrize("spec", ["numpy", "onnxruntime:disabled", "onnx.reference"])
def test_a_piece_between_two_values(spec: str) -> None:
    golden = _golden()
    runner: Any = open_runner(spec, CNN.model())
    given = {"/pool/MaxPool_output_0": golden["/pool/MaxPool_output_0"]}
    found = runner.compute(["/Add_output_0"], given)
    assert errors_between(golden["/Add_output_0"], found["/Add_output_0"]).passed
    with pytest.raises(InputError, match="'image' is needed to compute 'logits', and is not given"):
        runner.compute(["logits"], {})


def test_pieces_that_are_alike_share_a_session() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[n] x) => (float[n] c) {
        a = Relu(x)  b = Relu(a)  c = Relu(b) }"""
    runner = OnnxRefRunner(parser.parse_model(text))
    x = np.float32([-1, 2])
    for given, wanted in (("x", "a"), ("a", "b"), ("b", "c")):
        np.testing.assert_array_equal(runner.compute([wanted], {given: x})[wanted], [0, 2])
    assert len(runner._sessions) == 1


def _npz(folder: Path, values: dict[str, Any]) -> Any:
    np.savez(folder / "values.npz", **values)
    return folder / "values.npz"


def _folder(folder: Path, values: dict[str, Any]) -> Any:
    runner = OnnxRefRunner(CNN.model())
    write_case(folder / "case", runner.model, _feeds(CNN), {"logits": values["logits"]})
    return str(folder / "case")


def _stored(name: str) -> Callable[[Path, dict[str, Any]], Any]:
    def make(folder: Path, values: dict[str, Any]) -> Any:
        model = load_model(CNN.model())
        store = open_store(folder / name, model, _feeds(CNN))
        for path, value in {**values, "inner/y": np.ones(1)}.items():
            store.add(path, value)
        store.close()
        return folder / name

    return make


@pytest.mark.parametrize("name", ["t.npz", "t.safetensors", "t"])
def test_traces_can_be_compared_with(name: str, tmp_path: Path) -> None:
    golden = _golden()
    runner = open_runner(_stored(name)(tmp_path, golden), CNN.model())
    found = runner.fetch({}, [*golden, "inner/y"])
    assert found.keys() == golden.keys() | {"inner/y"}
    for path, value in golden.items():
        np.testing.assert_array_equal(found[path], value)


def test_bfloat16_survives_an_npz_file(tmp_path: Path) -> None:
    value = np.array([1, 2], ml_dtypes.bfloat16)
    np.savez(tmp_path / "half.npz", y=value)
    found = RecordedRunner(tmp_path / "half.npz").fetch({}, ["y"])["y"]
    assert errors_between(value, found).passed
    assert errors_between(value, found).ulp == 0


@pytest.mark.parametrize(
    "make", [_npz, _folder, lambda _, values: values, lambda _, values: lambda feeds: values]
)
def test_recorded_values_and_functions(make: Callable[[Path, Any], Any], tmp_path: Path) -> None:
    golden = _golden()
    runner = open_runner(make(tmp_path, golden), CNN.model())
    found = runner.fetch(_feeds(CNN), ["logits", "no such value"])
    assert list(found) == ["logits"]
    np.testing.assert_array_equal(found["logits"], golden["logits"])
    assert "logits" in dict(runner.values(_feeds(CNN)))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, FLOAT8])
def test_onnxruntime_exchanges_types_that_numpy_lacks(dtype: Any) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", element, [3])],
        [helper.make_tensor_value_info("y", element, [3, 1])],
        [onnx.numpy_helper.from_array(np.int64([3, 1]), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = np.array([1, -2, 3]).astype(dtype)
    found = dict(open_runner("onnxruntime", model).values({"x": x}))
    assert found["y"].dtype == x.dtype
    np.testing.assert_array_equal(found["y"].reshape(-1).astype(np.float32), [1, -2, 3])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tensorflow", "there is no runner 'tensorflow': must be one of numpy, numba"),
        ("onnxruntime:fast", "onnxruntime has no optimisation level 'fast'; choose from disabled"),
        (7, "a runner must be a name, a path, a function or a mapping of values \\(got a int\\)"),
    ],
)
def test_runners_that_do_not_exist(spec: Any, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        open_runner(spec, CNN.model())


def test_runners_that_need_something(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="numpy needs a model to run"):
        open_runner("numpy")
    with pytest.raises(BackendError, match="there is no backend 'cuda'; choose from numpy"):
        OnnxRefRunner(CNN.model(), "cuda")
    broken = open_runner(len)
    with pytest.raises(BackendError, match="len must return a mapping from names to values \\(got a int\\)"):
        broken.fetch({}, ["y"])
    with pytest.raises(InputError, match="holds no recorded values in the layout of the official tests"):
        RecordedRunner(tmp_path).fetch({}, ["y"])
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read"):
        RecordedRunner(tmp_path / "bad.npz").fetch({}, ["y"])


def test_onnxruntime_exchanges_packed_types() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]> g (int4[3] x, float s) => (float[3] y) {
        y = DequantizeLinear(x, s) }"""
    x = np.array([1, -2, 3]).astype(ml_dtypes.int4)
    found = open_runner("onnxruntime", parser.parse_model(text)).fetch({"x": x, "s": np.float32(2)}, ["y"])
    np.testing.assert_array_equal(found["y"], [2, -4, 6])


def test_a_stream_ends_its_thread_when_it_is_closed() -> None:
    made: list[int] = []

    def work(emit: Callable[[int], None]) -> None:
        for i in range(1000):
            made.append(i)
            emit(i)

    before = threading.active_count()
    items = lock_step(work)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert len(made) < 10
    assert threading.active_count() == before


def test_a_stream_raises_what_its_work_raised() -> None:
    def work(emit: Callable[[int], None]) -> None:
        emit(1)
        raise InputError("too late")

    items = lock_step(work)
    assert next(items) == 1
    with pytest.raises(InputError, match="too late"):
        next(items)


# Errors -------------------------------------------------------------------------------------------


def test_errors_of_known_size() -> None:
    golden = np.float32([1, 2, 4, 0])
    value = np.float32([1, 2, 4.5, 0])
    errors = errors_between(golden, value)
    assert (errors.absolute, errors.relative, errors.beyond, errors.where) == (0.5, 0.125, 1, (2,))
    assert (errors.golden, errors.value) == (4.0, 4.5)
    assert errors.ulp == 2**20
    assert errors.snr == pytest.approx(10 * np.log10(21 / 0.25))
    assert errors.cosine == pytest.approx(23 / np.sqrt(21 * 25.25))
    assert not errors.passed
    assert errors_between(golden, value, Tolerance(rtol=0.2)).passed
    assert "at [2]: 4.5 instead of 4" in str(errors)


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, FLOAT8, np.int8, np.uint64, np.complex64],
)
def test_neighbours_are_one_ulp_apart(dtype: Any) -> None:
    golden = np.array([1], dtype)
    if np.dtype(dtype).kind in "iu":
        value = golden + golden
    else:
        eps = ml_dtypes.finfo(np.float32 if dtype is np.complex64 else dtype).eps
        value = (golden.astype(np.complex128 if dtype is np.complex64 else np.float64) + float(eps)).astype(
            dtype
        )
    assert errors_between(golden, value).ulp == 1
    assert errors_between(golden, golden) == errors_between(value, value)


def test_values_that_are_not_finite() -> None:
    odd = np.float32([np.nan, np.inf, -np.inf, 1])
    assert errors_between(odd, odd.copy()).passed
    errors = errors_between(odd, np.float32([np.nan, np.inf, np.inf, 1]))
    assert (errors.beyond, errors.where, errors.absolute, errors.snr) == (1, (2,), np.inf, -np.inf)
    assert errors.to_json()["absolute"] == "inf"


def test_large_integers_are_told_apart() -> None:
    golden = np.int64([2**60])
    errors = errors_between(golden, golden + 1)
    assert (errors.ulp, errors.absolute, errors.passed) == (1, 1, True)
    assert not errors_between(golden, golden + 1, Tolerance(rtol=0)).passed


@pytest.mark.parametrize(
    ("golden", "value", "message"),
    [
        (np.ones(3), np.ones((3, 1)), "has shape [3, 1] instead of [3]"),
        ([np.ones(1)], [], "has 0 elements instead of 1"),
        (np.ones(1), None, "is an absent value instead of tensor(double)"),
        (np.ones(1), np.array(["a"], object), "is tensor(string) instead of tensor(double)"),
    ],
)
def test_values_that_cannot_be_compared(golden: Any, value: Any, message: str) -> None:
    errors = errors_between(golden, value)
    assert errors.message == message == str(errors)
    assert not errors.passed


def test_texts_and_sequences() -> None:
    words = np.array(["a", "b"], object)
    assert errors_between(words, words.copy()).passed
    assert errors_between(words, np.array(["a", "c"], object)).where == (1,)
    errors = errors_between([np.ones(2), np.ones(2)], [np.ones(2), np.float64([1, 3])])
    assert (errors.where, errors.beyond, errors.size) == ((1, 1), 1, 4)
    assert errors_between({"a": np.ones(1)}, {"a": np.ones(1)}).passed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, FLOAT8])
def test_rounding_alone_is_within_half_a_unit(dtype: Any) -> None:
    exact = np.random.default_rng(0).uniform(0.5, 4, 5000)
    found = rounding_between(exact, exact.astype(dtype))
    assert 0.49 < found.largest <= 0.5
    assert found.mean == pytest.approx(0.25, rel=0.05)
    assert 0.1 < found.ulp < 0.35
    assert rounding_between(exact, exact) == Rounding()


def test_an_overflow_is_lost() -> None:
    found = rounding_between(np.float64([1, 1e6]), np.float16([1, np.inf]))
    assert (found.lost, found.ulp, found.snr) == (1, np.inf, -np.inf)
