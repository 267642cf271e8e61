"""A backend that crashes, hangs or eats memory costs its case, not the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_cases import neg_case
from onnxref.conformance import BackendUnavailableError, values
from onnxref.conformance.backends import OnnxRefAdapter, make_adapter
from onnxref.conformance.cases import Case, parse_model, write_case
from onnxref.conformance.runner import MIB, Reply, RunOptions, probe, run_cases

import onnxref

OPTIONS = RunOptions(jobs=2, timeout=30, memory=1024 * MIB)


def _run(spec: str, cases: Iterable[Case], options: RunOptions = OPTIONS) -> dict[str, Reply]:
    return {case.name: reply for case, reply in run_cases(f"fake_backends:{spec}", cases, options)}


@pytest.mark.parametrize(
    ("spec", "outcome", "message"),
    [
        ("right", "passed", ""),
        ("prints", "passed", ""),
        ("wrong", "failed", "1 of 2 elements differ, the first at output[0][1]: -1.0 instead of -2.0"),
        ("raises", "error", "ValueError: no such thing as a second line"),
        ("raises_gibberish", "error", r"ValueError: \x1b[31mred\xdcff"),
        ("refuses", "unsupported", "Neg is beyond me"),
        ("aborts", "crashed", "SIGABRT: last words"),
        ("leaves", "crashed", "exit status 3"),
        ("eats_memory", "error", "out of memory"),
        ("Backend", "passed", ""),
        ("Picky", "unsupported", "not compatible"),
    ],
)
def test_outcomes(spec: str, outcome: str, message: str) -> None:
    # Two cases on one worker: the second must not suffer from what the first did to it.
    cases = [neg_case("test_a"), neg_case("test_b")]
    found = _run(spec, cases, RunOptions(jobs=1, timeout=60, memory=1024 * MIB))
    assert [found[name]["outcome"] for name in ("test_a", "test_b")] == [outcome] * 2
    assert all(message in reply["message"] for reply in found.values())


def test_a_hang_is_a_timeout() -> None:
    found = _run("hangs", [neg_case()], RunOptions(timeout=1))
    assert found["test_neg"]["outcome"] == "timeout"
    assert found["test_neg"]["seconds"] == 1
    assert "within 1 s" in found["test_neg"]["message"]


def test_the_worker_is_restarted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAKE_MARKER", str(tmp_path / "marker"))
    cases = [neg_case(f"test_{i}") for i in range(4)]
    found = _run("aborts_once", cases, RunOptions(jobs=1, timeout=60))
    assert [reply["outcome"] for reply in found.values()] == ["crashed", "passed", "passed", "passed"]


def test_the_current_folder_has_backends_but_hides_no_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def right(model, inputs):\n    return [-inputs[0]]\n", encoding="utf-8"
    )
    (tmp_path / "base64.py").write_text("raise RuntimeError('not this one')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (found,) = run_cases("mine:right", [neg_case()], OPTIONS)
    assert found[1]["outcome"] == "passed"


def test_every_case_is_run_once_by_several_workers() -> None:
    cases = [neg_case(f"test_{i}") for i in range(30)]
    names = [case.name for case, _ in run_cases("fake_backends:right", cases, OPTIONS)]
    assert sorted(names) == sorted(case.name for case in cases)


def test_closing_ends_a_hanging_worker() -> None:
    cases = [neg_case("test_a"), neg_case("test_b")]
    running = run_cases("fake_backends:hangs", cases, RunOptions(jobs=2, timeout=2))
    next(running)
    running.close()  # would wait for the second time limit, and the test's own, if the worker lived on


def test_the_differences_are_told() -> None:
    expected = np.float32([5, 6])
    ((_, reply),) = run_cases(
        "fake_backends:right", [neg_case(expected=expected)], RunOptions(timeout=60), shown=10
    )
    assert reply["differences"] == [["output[0][0]", "5.0", "-1.0"], ["output[0][1]", "6.0", "-2.0"]]
    assert reply["max_abs"] == 8


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module:run", "cannot be imported: ModuleNotFoundError"),
        ("fake_backends:no_such_name", "cannot be imported: AttributeError"),
        ("fake_backends:not_a_backend", "must be a Backend or callable"),
        ("nonsense", "no backend 'nonsense': must be one of numpy, numba, cupy, numba-constants"),
    ],
)
def test_a_backend_that_cannot_be_had(spec: str, message: str) -> None:
    with pytest.raises(BackendUnavailableError, match=message):
        probe(spec, OPTIONS)


def test_versions() -> None:
    assert probe("fake_backends:right", OPTIONS) == {"fake_backends": "1.2.3"}
    assert set(probe("numpy", OPTIONS)) == {"onnxref", "numpy", "onnx"}


@pytest.mark.parametrize("spec", ["numba", "numba-constants"])
def test_native_code_is_what_is_compared(spec: str) -> None:
    ((_, reply),) = run_cases(spec, [neg_case()], RunOptions(timeout=60))
    assert (reply["outcome"], reply["native"], reply["nodes"]) == ("passed", 1, 1)
    ((_, reply),) = run_cases("numpy", [neg_case()], RunOptions(timeout=60))
    assert "nodes" not in reply


def test_all_inputs_but_the_first_become_constants() -> None:
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "abc"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", infos[:2], infos[2:]), ir_version=3)
    seen: list[list[str]] = []

    class Session:
        def __init__(self, model: onnx.ModelProto, backend: str) -> None:
            seen.append([info.name for info in model.graph.input])
            seen.append([tensor.name for tensor in model.graph.initializer])

    adapter = OnnxRefAdapter("numba", constants=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxref, "InferenceSession", Session)
        _, taken = adapter._with_constants(model, [np.float32([1, 2]), np.float32([3, 4])])
    assert (seen, len(taken)) == ([["a"], ["b"]], 1)


def test_a_backend_that_compiles_has_more_time() -> None:
    assert make_adapter("numba").patience > 60
    assert make_adapter("numpy").patience == 0


def test_what_is_right_is_compared_where_the_expectation_is_wrong() -> None:
    wrong = neg_case(expected=np.float32([5, 6]))
    info = parse_model(wrong.model).graph.output[0]
    for right, said in ((np.float32([-1, -2]), True), (np.float32([-1, 2]), None)):
        case = replace(wrong, right=(values.encode(right, info.type),))
        ((_, reply),) = run_cases("fake_backends:right", [case], RunOptions(timeout=60))
        assert (reply["outcome"], reply.get("right")) == ("failed", said)
    ((_, reply),) = run_cases(
        "fake_backends:wrong", [replace(wrong, right_declared=True)], RunOptions(timeout=60)
    )
    assert (reply["outcome"], reply.get("right")) == ("failed", True)


def test_a_broken_folder_is_an_outcome(tmp_path: Path) -> None:
    def broken(name: str, file: str, data: bytes) -> Case:
        write_case(neg_case(name), tmp_path / name)
        (tmp_path / name / file).write_bytes(data)
        return Case(suite="fake", group="node", name=name, folder=tmp_path / name)

    cases = [
        broken("test_model", "model.onnx", b"\xff" * 9),
        broken("test_empty", "model.onnx", b""),
        broken("test_data", "test_data_set_0/input_0.pb", b"\x00\x01"),
        broken("test_extra", "test_data_set_0/output_1.pb", b""),
        Case(suite="fake", group="node", name="test_none", folder=tmp_path / "nowhere"),
    ]
    found = _run("right", cases)
    assert {name: reply["outcome"] for name, reply in found.items()} == dict.fromkeys(found, "broken")
    assert len(found) == 5
