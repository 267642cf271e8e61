"""The fuzzer finds a planted fault, shrinks it, saves it, and counts what is known without saving it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxref.conformance._fuzz_known import PREDICATES, Facts, known_disagreements, parse_known
from onnxref.conformance._fuzz_learning import RULES as LEARNING
from onnxref.conformance._fuzz_operators import SEQUENCES, operators
from onnxref.conformance._fuzz_structured import RULES as STRUCTURED
from onnxref.conformance.cases import Case
from onnxref.conformance.cli import app
from onnxref.conformance.errors import FuzzError
from onnxref.conformance.fuzz import Fuzzer, FuzzOptions, Tally, fuzz
from onnxref.conformance.runner import Reply, RunOptions, Worker
from typer.testing import CliRunner

WRONG = "fake_backends:wrong_for_nan"
OPTIONS = FuzzOptions(operators=("Neg",), examples=100, run=RunOptions(timeout=30))


def _known(predicate: str, operator: str = "Neg", other: str = WRONG) -> str:
    return f"""
[[known]]
operators = ["{operator}"]
backends = ["{other}", "numpy"]
predicate = "{predicate}"
condition = "always"
right = "numpy"
why = "planted"
"""


def test_a_planted_fault_is_found_shrunk_and_saved(tmp_path: Path) -> None:
    (tally,) = fuzz(["numpy", WRONG], OPTIONS, tmp_path, known=())
    found = tally.found
    assert found is not None
    assert (found.kind, found.backends) == ("value", ("numpy", WRONG))
    assert found.trial.inputs[0].size == 1  # one element is enough, and shrinking gets there
    (folder,) = (tmp_path / "node").iterdir()
    verdict = tomllib.loads((folder / "verdict.toml").read_text())
    assert (verdict["operator"], verdict["who"], verdict["why"]) == ("Neg", "?", "")
    assert {"numpy", WRONG} <= {result["backend"] for result in verdict["result"]}
    for backend, code in (("numpy", 0), (WRONG, 1)):
        arguments = ["case", f"node/{folder.name}", "--backend", backend, "--release", str(tmp_path)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == code, done.output


def test_a_crash_is_a_result(tmp_path: Path) -> None:
    (tally,) = fuzz(["numpy", "fake_backends:aborts"], OPTIONS, tmp_path, known=())
    assert tally.found is not None
    assert tally.found.kind == "crash"
    assert "SIGABRT" in tally.found.replies["fake_backends:aborts"]["message"]


def test_refusals_are_counted_and_saved_on_demand(tmp_path: Path) -> None:
    (tally,) = fuzz(["numpy", "fake_backends:raises"], FuzzOptions(operators=("Neg",), examples=5), tmp_path)
    assert (tally.found, tally.refused) == (None, 5)
    options = FuzzOptions(operators=("Neg",), examples=5, refusals=True)
    (tally,) = fuzz(["numpy", "fake_backends:raises"], options, tmp_path)
    assert tally.found is not None
    assert tally.found.kind == "refusal"


def test_a_known_disagreement_is_silent_only_under_its_predicate() -> None:
    def run(text: str) -> Tally:
        with Fuzzer(["numpy", WRONG], OPTIONS, parse_known(text)) as fuzzer:
            return fuzzer.run("Neg")

    silent = run(_known("has_nan"))
    assert silent.found is None
    assert silent.known.total() > 0
    for text in (_known("empty_tensor"), _known("has_nan", "Abs"), _known("has_nan", other="onnxruntime")):
        assert run(text).found is not None


def test_a_seed_draws_the_same_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def refuse(worker: Worker, case: Case) -> Reply:
        drawn.append(str(case.to_json()))
        return {"outcome": "error", "message": "", "seconds": 0.0}

    monkeypatch.setattr(Worker, "outputs", refuse)

    def cases(seed: int) -> list[str]:
        drawn.clear()
        with Fuzzer(["numpy"], FuzzOptions(examples=20, seed=seed), ()) as fuzzer:
            fuzzer.run("Neg")
        return list(drawn)

    first = cases(3)
    assert len(first) > 10
    assert cases(3) == first
    assert cases(4) != first


def test_numpy_agrees_with_itself_and_the_bodies(tmp_path: Path) -> None:
    options = FuzzOptions(operators=("Relu", "Softmax", "ReduceL1", "chain"), examples=15)
    tallies = fuzz(["numpy"], options, tmp_path)
    assert [tally.found for tally in tallies] == [None] * 4
    assert all(tally.compared > 5 for tally in tallies)


def test_most_operators_can_be_generated() -> None:
    names = set(operators(23))
    wanted = {
        "Conv",
        "Slice",
        "LSTM",
        "Attention",
        "Einsum",
        "TreeEnsembleRegressor",
        "SequenceInsert",
        "Loop",
    }
    assert wanted - names == {"Loop"}
    assert len(names) > 150


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with Fuzzer(["numpy"], FuzzOptions(examples=4)) as made:
        yield made


@pytest.mark.parametrize("operator", [*STRUCTURED, *LEARNING, *SEQUENCES])
def test_structured_operators_run(operator: str, fuzzer: Fuzzer) -> None:
    assert operator in operators(FuzzOptions().opset)
    tally = fuzzer.run(operator)
    assert tally.found is None
    assert tally.compared > 0


def test_the_known_list_is_in_order() -> None:
    schemas = {schema.name for schema in onnx.defs.get_all_schemas_with_history()} | {"chain"}
    for entry in known_disagreements():
        assert entry.operator in schemas
        assert entry.right in entry.backends | {"unspecified"}
        assert entry.condition
        assert entry.why


def test_predicates() -> None:
    nan, empty = np.array([np.nan], np.float32), np.zeros((0,), np.float32)
    zero = np.zeros(1, np.int32)
    same = {"auto_pad": b"SAME_UPPER"}
    for name, facts, other in (
        ("has_nan", Facts([nan], {}), Facts([empty], {})),
        ("empty_tensor", Facts([empty], {}), Facts([nan], {})),
        ("integer_division_by_zero", Facts([zero + 1, zero], {}), Facts([zero, zero + 1], {})),
        ("empty_range", Facts([zero, zero, zero + 1], {}), Facts([zero, zero + 1, zero + 1], {})),
        ("has_extreme_integer", Facts([zero + np.iinfo(np.int32).min], {}), Facts([zero], {})),
        ("same_padding", Facts([nan], same), Facts([nan], {})),
        ("over_ten", Facts([np.float32([11])], {}), Facts([zero + 11], {})),
        ("has_int32_limit", Facts([zero, zero + (2**31 - 1)], {}), Facts([zero + (2**31 - 1), zero], {})),
        ("narrow_float", Facts([nan.astype(np.float16)], {}), Facts([nan], {})),
        ("two_classes", Facts([nan], {"classlabels_int64s": [3, 4]}), Facts([nan], {})),
        ("based_targets", Facts([nan], {"n_targets": 2, "base_values": [1.0, 1.0]}), Facts([nan], {})),
        ("negative_leaf", Facts([nan], {"class_weights": [1.0, -1.0]}), Facts([nan], {})),
        ("interpolated_integer", Facts([zero], {"mode": b"linear"}), Facts([nan], {"mode": b"linear"})),
    ):
        assert PREDICATES[name](facts)
        assert not PREDICATES[name](other)


def test_faults_of_the_list_are_reported() -> None:
    with pytest.raises(FuzzError, match="there is no predicate 'always'"):
        parse_known(_known("always"))
    with pytest.raises(FuzzError, match="backends must be two"):
        parse_known(_known("has_nan", other="numpy"))


def test_an_operator_that_cannot_be_generated(tmp_path: Path) -> None:
    with pytest.raises(FuzzError, match="'Loop' cannot be generated at opset 23"):
        fuzz(["numpy"], FuzzOptions(operators=("Loop",)), tmp_path)


def test_without_hypothesis_the_command_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from onnxref.conformance.cli import app; app(['fuzz', '--backend', 'numpy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fuzzing needs hypothesis: pip install 'onnxref[conformance]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
