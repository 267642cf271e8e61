"""Results survive a run that ends early, a half line, and a full disk."""

from __future__ import annotations

import gzip
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from onnxref.conformance import ResultsError
from onnxref.conformance.report import to_markdown
from onnxref.conformance.results import Result, ResultSet, ResultsWriter, RunInfo, load_results
from onnxref.conformance.summary import (
    Coverage,
    coverages,
    differences,
    regressions,
    suite_order,
    surprises,
)

RUN = RunInfo(run="r1", backend="b", versions={"b": "1"}, date="2020-01-01T00:00:00+00:00", machine={})


def result(case: str, outcome: str = "passed", **more: object) -> Result:
    facts = {"run": "r1", "backend": "b", "suite": "official", "group": "node", "case": case}
    rest = {"operator": "Abs", "domain": "", "opset": 13, "outcome": outcome}
    return Result(**(facts | rest | more))  # type: ignore[arg-type]


def result_set(*results: Result) -> ResultSet:
    found = ResultSet()
    found.add(RUN)
    for one in results:
        found.add(one)
    return found


def write(path: Path, *items: RunInfo | Result) -> None:
    with ResultsWriter(path) as writer:
        for item in items:
            writer.write(item)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    one = result("test_a", "failed", message="line\nbreak ü", max_ulp=3.0, max_abs=0.5, seconds=0.25)
    other = result("test_b", "adjudicated", adjudicated=True, was="error")
    write(tmp_path / "new" / "r.jsonl", RUN, one, other)
    found = load_results(tmp_path / "new" / "r.jsonl")
    assert found.runs == {"r1": RUN}
    assert list(found.results.values()) == [one, other]


def test_files_older_than_the_type_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write(path, RUN, result("test_a"), result("test_b", type="float16"))
    old, new = path.read_text().splitlines()[1:]
    assert '"type"' not in old  # as such a file has it
    assert '"type": "float16"' in new
    assert [r.type for r in load_results(path).results.values()] == ["", "float16"]


def test_gzipped_results(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", RUN, result("test_a"))
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress((tmp_path / "r.jsonl").read_bytes()))
    assert load_results(tmp_path / "r.jsonl.gz").results == load_results(tmp_path / "r.jsonl").results


@pytest.mark.parametrize("kept", [1, 20, -2])
def test_a_cut_last_line_is_dropped(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "r.jsonl"
    write(path, RUN, result("test_a"))
    whole = path.read_bytes()
    write(path, result("test_b"))
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:kept])
    assert [r.case for r in load_results(path).results.values()] == ["test_a"]
    write(path, result("test_c"))  # goes on behind the last whole line
    assert [r.case for r in load_results(path).results.values()] == ["test_a", "test_c"]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"kind": "case"}', '{"kind": "other"}'])
def test_other_lines_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ResultsError, match=r"r\.jsonl:1 is no line of a results file"):
        load_results(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot read the results"):
        load_results(tmp_path / "none.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk() -> None:
    with ResultsWriter(Path("/dev/full")) as writer, pytest.raises(ResultsError, match="No space left"):
        writer.write(RUN)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    import resource
    import signal

    path = tmp_path / "r.jsonl"
    write(path, RUN, result("test_a"))
    old_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with ResultsWriter(path) as writer:
            writer.write(result("test_b"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, old_limits[1]))
            with pytest.raises(ResultsError, match="the 1 lines before are kept"):
                writer.write(result("test_c"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert [r.case for r in load_results(path).results.values()] == ["test_a", "test_b"]


def test_finished_needs_the_same_versions() -> None:
    found = result_set(result("test_a"))
    assert found.finished("b", {"b": "1"}) == {"official/node/test_a"}
    assert found.finished("b", {"b": "2"}) == set()
    assert found.finished("c", {"b": "1"}) == set()


def test_differences() -> None:
    old = result_set(
        result("test_a"), result("test_b", "failed"), result("test_c"), result("test_d", "failed")
    )
    new = result_set(
        result("test_a", "crashed"), result("test_b"), result("test_d", "timeout"), result("test_e", "failed")
    )
    kinds = {change.case.split("/")[-1]: change.kind for change in differences(old, new)}
    assert kinds == {
        "test_a": "worse",
        "test_b": "better",
        "test_c": "gone",
        "test_d": "other",
        "test_e": "new",
    }
    assert [change.case for change in regressions(old, new)] == ["official/node/test_a"]


def test_differences_of_other_backends_do_not_count() -> None:
    new = ResultSet()
    new.add(replace(RUN, run="r2", backend="c"))
    new.add(result("test_a", "failed", run="r2", backend="c"))
    assert differences(result_set(result("test_a")), new) == []


def test_surprises_are_adjudicated_cases_that_pass() -> None:
    found = result_set(result("test_a", adjudicated=True), result("test_b", "adjudicated", adjudicated=True))
    assert [r.case for r in surprises(found)] == ["test_a"]


def test_coverage_counts_the_cases_with_native_nodes() -> None:
    found = result_set(
        result("test_a", nodes=2, native=1),
        result("test_b", "failed", nodes=1, native=1),
        result("test_c", nodes=1),
        result("test_d"),
    )
    assert coverages(found) == {("b", "official"): Coverage(told=3, some=2, whole=1, wrong=1)}
    text = to_markdown(found)
    assert "2 of 3 (66.6 %) with native nodes, 1 wholly, 1 of them not right" in text
    assert "## Native code" not in to_markdown(result_set(result("test_d")))


def test_suites_are_in_the_order_of_their_versions() -> None:
    suites = ["release-1.18.0", "release-1.2.1", "official", "release-1.10.2"]
    in_order = ["official", "release-1.2.1", "release-1.10.2", "release-1.18.0"]
    assert sorted(suites, key=suite_order) == in_order
