"""`onnxref conformance`: whole runs, their exit status, and the pages that come of them."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cases import neg_case
from onnxref.conformance.adjudications import adjudications
from onnxref.conformance.cases import write_case
from onnxref.conformance.page import to_html
from onnxref.conformance.report import to_markdown
from onnxref.conformance.results import ResultSet, load_results
from onnxref.conformance.runner import RunOptions, run_cases
from onnxref.conformance.suites import SUITES, collect
from onnxref.conformance.summary import differences, trend
from test_conformance_results import RUN, result, result_set
from typer.testing import CliRunner, Result

from onnxref.cli._app import app

SAMPLE = 200  # cases of each suite that is too large to be run whole


def conformance(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["conformance", *map(str, arguments)], env={"COLUMNS": "400"})


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder in the place of a release: two right cases, a wrong one, a broken one."""
    folder = tmp_path / "mine" / "node"
    for name in ("test_a", "test_b"):
        write_case(neg_case(name), folder / name)
    write_case(neg_case("test_wrong", expected=np.float32([-1, 7])), folder / "test_wrong")
    (folder / "test_broken").mkdir()
    return tmp_path / "mine"


def outcomes(path: Path) -> dict[str, str]:
    return {r.case: r.outcome for r in load_results(path).results.values()}


def run(release: Path, out: Path, backend: str = "numpy", *more: object) -> Result:
    return conformance("run", "-b", backend, "--release", release, "-j", 1, "--out", out, *more)


def test_run(release: Path, tmp_path: Path) -> None:
    done = run(release, tmp_path / "r.jsonl")
    assert done.exit_code == 0
    assert outcomes(tmp_path / "r.jsonl") == {
        "test_a": "passed",
        "test_b": "passed",
        "test_wrong": "failed",
        "test_broken": "broken",
    }
    assert "release-mine/node/test_wrong" in done.stdout
    (info,) = load_results(tmp_path / "r.jsonl").runs.values()
    assert info.backend == "numpy"
    assert set(info.versions) == {"onnxref", "numpy", "onnx"}


def test_several_backends(release: Path, tmp_path: Path) -> None:
    run(release, tmp_path / "r.jsonl", "onnxruntime", "-b", "onnx.reference", "-b", "fake_backends:Backend")
    found = load_results(tmp_path / "r.jsonl")
    assert {r.outcome for r in found.results.values() if r.case == "test_a"} == {"passed"}
    assert len(found.results) == 12


def test_resume(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    run(release, out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:3]) + lines[3][:10])  # ended in the middle of the third case
    done = run(release, out, "numpy", "--resume")
    assert done.exit_code == 0
    after = out.read_bytes().splitlines(keepends=True)
    assert after[:3] == lines[:3]
    assert len(after) == 3 + 1 + 2  # a new run's header, and the two cases that were missing
    assert len(outcomes(out)) == 4
    run(release, out, "numpy", "--resume")
    assert out.read_bytes().splitlines(keepends=True) == after
    run(release, out)
    assert len(out.read_bytes().splitlines()) == len(after) + 5


def test_baseline(release: Path, tmp_path: Path) -> None:
    run(release, tmp_path / "old.jsonl")
    same = run(release, tmp_path / "new.jsonl", "numpy", "--baseline", tmp_path / "old.jsonl")
    assert same.exit_code == 0
    write_case(neg_case("test_a", expected=np.float32([0, 0])), release / "node" / "test_a")
    worse = run(release, tmp_path / "worse.jsonl", "numpy", "--baseline", tmp_path / "old.jsonl")
    assert worse.exit_code == 1
    assert "numpy  release-mine/node/test_a: passed -> failed" in worse.stdout
    diff = conformance("diff", tmp_path / "old.jsonl", tmp_path / "worse.jsonl")
    assert diff.exit_code == 1
    assert "1 worse" in diff.stdout
    assert conformance("diff", tmp_path / "worse.jsonl", tmp_path / "old.jsonl").exit_code == 0


def test_filter(release: Path, tmp_path: Path) -> None:
    run(release, tmp_path / "r.jsonl", "numpy", "--filter", "test_[ab]$")
    assert set(outcomes(tmp_path / "r.jsonl")) == {"test_a", "test_b"}


def test_wrong_use_says_why(release: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("-b", "nonsense", "--release", release), "BackendUnavailableError: no backend 'nonsense'"),
        (("-b", "nonsense:x", "--release", release), "cannot be imported: ModuleNotFoundError"),
        (("-b", "numpy", "-s", "mine"), "SuiteError: suite must be one of"),
        (("-b", "numpy", "--release", release, "--filter", "("), "must be a regular expression"),
        (("-b", "numpy", "--release", release, "--filter", "zzz"), "no case matches 'zzz'"),
        (("-b", "numpy", "--release", release, "--resume"), "--resume needs --out"),
        (("-b", "numpy", "--release", release, "--baseline", tmp_path / "none"), "cannot read the results"),
    ):
        done = conformance("run", *arguments)
        assert done.exit_code == 2, done.output
        assert message in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk(release: Path) -> None:
    done = run(release, Path("/dev/full"))
    assert done.exit_code == 2
    assert "No space left on device; the 0 lines before are kept" in done.stderr


def test_case(release: Path) -> None:
    done = conformance("case", "test_wrong", "-b", "numpy", "--release", release)
    assert done.exit_code == 1
    assert re.search(r"output\[0\]\[1\]\W+7\.0\W+-2\.0", done.stdout)
    assert "9 absolute" in done.stdout
    assert conformance("case", "test_a", "-b", "numpy", "--release", release).exit_code == 0


def test_case_tells_its_adjudication() -> None:
    done = conformance("case", "test_bernoulli_seed", "-b", "numpy")
    assert "Specification: Bernoulli-15" in done.stdout


def test_export(tmp_path: Path) -> None:
    done = conformance("export", "test_optional_has_element_empty_optional_input", tmp_path)
    assert done.exit_code == 0
    folder = tmp_path / "test_optional_has_element_empty_optional_input"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file()}
    assert files >= {"model.onnx", "data.json", "test_data_set_0/output_0.pb"}
    again = conformance("case", folder.name, "-b", "numpy", "--release", _as_release(folder))
    assert again.exit_code == 0, again.output


def _as_release(folder: Path) -> Path:
    (folder.parent / "exported" / "node").mkdir(parents=True)
    folder.rename(folder.parent / "exported" / "node" / folder.name)
    return folder.parent / "exported"


def test_the_whole_official_suite(tmp_path: Path) -> None:
    # One test rather than one for each case: the suite is loaded and run once, whatever runs the tests.
    done = conformance("run", "-b", "numpy", "--out", tmp_path / "r.jsonl", "-j", 2)
    assert done.exit_code == 0
    found = load_results(tmp_path / "r.jsonl").results.values()
    assert len(found) == 2033
    wrong = {r.id: r.message for r in found if r.outcome not in ("passed", "adjudicated")}
    assert wrong == {}
    assert {r.id for r in found if r.outcome == "adjudicated"} <= set(adjudications())


# The past releases are left out: they are fetched.
@pytest.mark.parametrize("suite", [name for name in SUITES if name not in ("official", "releases")])
def test_a_sample_of_the_other_suites(suite: str) -> None:
    cases = collect([suite])
    sample = cases[:: max(1, len(cases) // SAMPLE)]
    assert len(sample) >= min(SAMPLE, len(cases)) > 100
    wrong = {
        case.id: reply["message"]
        for case, reply in run_cases("numpy", sample, RunOptions(jobs=2))
        if reply["outcome"] != "passed" and case.id not in adjudications()
    }
    assert wrong == {}


def page_data(page: str) -> Any:
    packed = page.split('<script id="data" type="text/plain">')[1].split("</script>")[0]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


HOSTILE = "</script><script>alert(1)</script> | `x`"


def test_html_report(release: Path, tmp_path: Path) -> None:
    run(release, tmp_path / "r.jsonl")
    done = conformance(
        "report", tmp_path / "r.jsonl", "--html", tmp_path / "r.html", "--markdown", tmp_path / "r.md"
    )
    assert done.exit_code == 0
    page = (tmp_path / "r.html").read_text()
    assert "://" not in page  # nothing is fetched
    data = page_data(page)
    assert data["backends"] == ["numpy"]
    assert data["suites"] == ["release-mine"]
    assert {data["outcomes"][row[1]] for row in data["results"]["numpy"]} == {"passed", "failed", "broken"}
    typed = {data["cases"][row[0]][1]: data["cases"][row[0]][4] for row in data["results"]["numpy"]}
    assert data["types"] == ["float"]
    assert (typed["node/test_a"], typed["node/test_broken"]) == (0, -1)
    assert "| `float` | 2 of 3 (66.6 %) |" in (tmp_path / "r.md").read_text()
    assert "| release-mine | 2 of 4 (50 %) |" in (tmp_path / "r.md").read_text()


def test_hostile_messages_stay_text() -> None:
    found = result_set(result("test_a", "failed", message=HOSTILE))
    page = to_html(found)
    assert page.count("<script") == 2
    assert page_data(page)["messages"] == [HOSTILE]  # packed; the script sets it as text
    assert "alert(1)" not in page
    row = next(line for line in to_markdown(found).splitlines() if "alert(1)" in line)
    assert row.count(" | ") == 2


def test_html_shows_differences() -> None:
    old, new = result_set(result("test_a")), result_set(result("test_a", "crashed", message="SIGSEGV"))
    data = page_data(to_html(new, differences(old, new)))
    assert data["changes"] == [["worse", "b", "official/node/test_a", "passed", "crashed", "SIGSEGV"]]
    assert "| worse | b | `official/node/test_a` | passed | crashed |" in to_markdown(
        new, differences(old, new)
    )


def test_shares_are_rounded_down() -> None:
    many = [result(f"test_{i}") for i in range(1999)]
    text = to_markdown(result_set(*many, result("test_z", "failed")))
    assert "1999 of 2000 (99.9 %)" in text


def at(date: str, *outcomes: str) -> ResultSet:
    found = result_set(*(result(f"test_{i}", outcome) for i, outcome in enumerate(outcomes)))
    found.add(replace(RUN, date=date))
    return found


def test_a_trend_has_a_point_for_each_file() -> None:
    late = at("2020-03-01T00:00:00+00:00", "passed", "passed")
    early = at("2020-02-01T00:00:00+00:00", "passed", "failed", "failed")
    trends = trend([late, early])
    text = to_markdown(late, trends=trends)
    first = text.index("| b | 2020-02-01 | b 1 | 1 of 3 (33.3 %) |")
    assert first < text.index("| b | 2020-03-01 | b 1 | 2 of 2 (100 %) |")
    points = page_data(to_html(late, trends=trends))["trends"]["b"]
    assert [point[2:] for point in points] == [[1, 3], [2, 2]]
    assert trend([late]) == {}


def test_a_page_of_many_cases_is_small() -> None:
    many = [result(f"test_{i}", type="float", seconds=i / 1e6, max_ulp=i / 7) for i in range(20_000)]
    assert len(to_html(result_set(*many))) < 500_000
