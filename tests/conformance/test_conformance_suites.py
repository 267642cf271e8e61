"""Cases from the installed onnx package, from wheels of releases, and from broken ones."""

from __future__ import annotations

import stat
import subprocess
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from fake_cases import neg_case
from onnxref.conformance import BrokenCaseError, SuiteError, values
from onnxref.conformance.adjudications import RIGHT, adjudications
from onnxref.conformance.cases import from_json, parse_model, read_case, write_case
from onnxref.conformance.suites import collect, find_case, official, releases

DATA = "onnx/backend/test/data"


@pytest.fixture(scope="module")
def official_cases() -> list[Any]:
    return official.load()


def test_the_official_suite_is_whole(official_cases: list[Any]) -> None:
    groups = Counter(case.group for case in official_cases)
    # The counts of onnx 1.23; a newer minor version is let in on purpose only, by the pin on onnx.
    assert groups == {"node": 1884, "simple": 23, "pytorch-converted": 82, "pytorch-operator": 35, "real": 9}
    assert len({case.id for case in official_cases}) == 2033


def test_official_cases_are_described(official_cases: list[Any]) -> None:
    by_name = {case.name: case for case in official_cases}
    relu, strict = by_name["test_relu"], by_name["test_attention_4d_causal_fp16"]
    assert (relu.operator, relu.domain, relu.opset) == ("Relu", "", 14)
    assert (relu.type, by_name["test_cast_FLOAT16_to_FLOAT"].type) == ("float", "float16")
    assert by_name["test_optional_get_element_optional_sequence"].type == "int32"
    assert (relu.rtol, relu.atol) == (1e-3, 1e-7)
    assert strict.operator == "Attention"
    assert by_name["test_ai_onnx_ml_label_encoder_string_int"].domain == "ai.onnx.ml"
    assert by_name["test_resnet50"].operator == ""


def test_every_adjudication_of_the_official_suite_names_a_case(official_cases: list[Any]) -> None:
    names = {case.id for case in official_cases}
    wrong = {name for name in adjudications() if name.startswith("official/")}
    assert wrong <= names
    known = {f"release-{version}" for version in releases.RELEASES}
    assert {name.partition("/")[0] for name in set(adjudications()) - wrong} <= known


def test_adjudications_say_what_is_right() -> None:
    for name, entry in adjudications().items():
        assert entry.right in RIGHT
        given = set(entry.outputs) == {case.partition("/")[2] for case in entry.cases}
        assert given if entry.right == "given" else not entry.outputs, name
    refusal, given = (next(e for e in adjudications().values() if e.right == r) for r in ("refusal", "given"))
    assert [refusal.explains(outcome, False) for outcome in ("failed", "error", "crashed")] == [
        False,
        True,
        False,
    ]
    assert [given.explains("failed", right) for right in (True, False)] == [True, False]
    assert not given.explains("error", False)


def make_wheel(path: Path, cases: list[str], extra: dict[str, bytes] | None = None) -> Path:
    """A wheel with Neg cases in `node`, and with further members."""
    folder = path.parent / f"{path.stem}-cases"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("onnx/__init__.py", b"raise SystemExit('a wheel must not be run')")
        for name in cases:
            write_case(neg_case(name), folder / name)
            for file in sorted((folder / name).rglob("*.*")):
                if file.is_file():
                    archive.write(file, f"{DATA}/node/{name}/{file.relative_to(folder / name)}")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def test_a_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "onnx-1.4.1-cp36-none-any.whl", ["test_b", "test_a"])
    cases = releases.load(str(wheel))
    assert [case.id for case in cases] == ["release-1.4.1/node/test_a", "release-1.4.1/node/test_b"]
    assert (cases[0].operator, cases[0].opset) == ("Neg", 13)
    unpacked = releases.cache_folder()
    assert [p.suffix for p in unpacked.rglob("*") if p.suffix == ".py"] == []
    wheel_time = [p.stat().st_mtime_ns for p in unpacked.rglob("*.onnx")]
    assert [case.id for case in releases.load(str(wheel))] == [case.id for case in cases]
    assert [p.stat().st_mtime_ns for p in unpacked.rglob("*.onnx")] == wheel_time  # unpacked once


def test_a_folder(tmp_path: Path) -> None:
    write_case(neg_case("test_a"), tmp_path / "mine" / "node" / "test_a")
    assert [case.id for case in releases.load(str(tmp_path / "mine"))] == ["release-mine/node/test_a"]


def test_a_broken_folder_stays_a_case(tmp_path: Path) -> None:
    extra = {f"{DATA}/node/test_broken/model.onnx": b"\xff\xff"}
    wheel = make_wheel(tmp_path / "onnx-1.0-py3-none-any.whl", ["test_a"], extra)
    broken = releases.load(str(wheel))[1]
    assert (broken.name, broken.operator) == ("test_broken", "")
    with pytest.raises(BrokenCaseError):
        broken.contents()


@pytest.mark.parametrize(
    "member",
    [f"{DATA}/node/../../../../../evil", f"{DATA}/node/C:/evil", f"{DATA}/node/test_a\\..\\..\\evil"],
)
def test_members_that_lead_elsewhere(tmp_path: Path, member: str) -> None:
    wheel = make_wheel(tmp_path / "onnx-1.0-py3-none-any.whl", ["test_a"], {member: b"x"})
    with pytest.raises(SuiteError, match="a member that leads elsewhere"):
        releases.load(str(wheel))
    assert list(releases.cache_folder().iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


def test_a_symbolic_link(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "onnx-1.0-py3-none-any.whl", ["test_a"])
    link = zipfile.ZipInfo(f"{DATA}/node/test_link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(SuiteError, match="a member that leads elsewhere"):
        releases.load(str(wheel))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no test data"), (b"no zip file", "is no readable wheel")],
)
def test_a_wheel_without_data(tmp_path: Path, content: bytes | None, message: str) -> None:
    wheel = make_wheel(tmp_path / "onnx-1.0-py3-none-any.whl", [])
    if content is not None:
        wheel.write_bytes(content)
    with pytest.raises(SuiteError, match=message):
        releases.load(str(wheel))


def test_a_release_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if command[command.index("--python-version") + 1] != "3.6":
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution\n")
        make_wheel(Path(command[command.index("--dest") + 1], "onnx-1.4.1-cp36.whl"), ["test_a"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    for _ in range(2):
        assert [case.id for case in releases.load("1.4.1")] == ["release-1.4.1/node/test_a"]
    assert asked[-1][-1] == "onnx==1.4.1"
    assert "--no-deps" in asked[-1]
    assert "download" in asked[-1]
    assert sum(command[-1] == "onnx==1.4.1" for command in asked) == len(asked)
    assert len({command[command.index("--python-version") + 1] for command in asked}) == len(asked)


def test_a_release_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SuiteError, match=r"pip cannot fetch a wheel of onnx 9\.9\.9: ERROR: No matching"):
        releases.load("9.9.9")


@pytest.mark.parametrize("release", ["--index-url=x", "1.4.1;rm", "nowhere.whl", ""])
def test_what_is_no_release(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "_download", lambda *_: pytest.fail("must not be asked for"))
    with pytest.raises(SuiteError, match="must be a version, a wheel or a folder|no test cases"):
        releases.load(release)


def test_unknown_suite_and_case(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="suite must be one of official, releases"):
        collect(["mine"])
    write_case(neg_case("test_a"), tmp_path / "mine" / "node" / "test_a")
    assert find_case("test_a", [str(tmp_path / "mine")]).id == "release-mine/node/test_a"
    with pytest.raises(SuiteError, match="no case 'test_b' among 1"):
        find_case("test_b", [str(tmp_path / "mine")])
    write_case(neg_case("test_a"), tmp_path / "mine" / "simple" / "test_a")
    with pytest.raises(SuiteError, match="ambiguous: release-mine/node/test_a, release-mine/simple/test_a"):
        find_case("test_a", [str(tmp_path / "mine")])


def test_write_then_read(tmp_path: Path) -> None:
    case = neg_case("test_a")
    write_case(case, tmp_path / "test_a")
    read = read_case(tmp_path / "test_a", "fake", "node")
    assert read.contents() == case.contents()
    assert (read.operator, read.opset, read.rtol, read.atol) == (case.operator, 13, case.rtol, case.atol)
    assert from_json(read.to_json()).contents() == from_json(case.to_json()).contents() == case.contents()


def test_files_are_read_by_number(tmp_path: Path) -> None:
    write_case(neg_case("test_a"), tmp_path / "test_a")
    folder = tmp_path / "test_a" / "test_data_set_0"
    for number in (2, 10):
        (folder / f"input_{number}.pb").write_bytes(str(number).encode())
    inputs = read_case(tmp_path / "test_a", "fake", "node").contents()[1][0].inputs
    assert inputs[1:] == (b"2", b"10")


def _type(text: str) -> onnx.TypeProto:
    model = f'<ir_version: 10, opset_import: ["": 21]> g ({text} x) => ({text} x) {{}}'
    return onnx.parser.parse_model(model).graph.input[0].type


SEQUENCE = _type("seq(float[N])")
OPTIONAL = _type("optional(float[N])")
ROUND_TRIPS = [
    (np.float32([[1, 2]]), _type("float[N,M]")),
    (np.array(["a", "ü"], object), _type("string[N]")),
    (np.array([-2, 7], ml_dtypes.int4), _type("int4[N]")),
    (np.array([0.5], ml_dtypes.bfloat16), _type("bfloat16[N]")),
    ([np.float32([1]), np.float32([2, 3])], SEQUENCE),
    ([], SEQUENCE),
    (None, OPTIONAL),
    (np.float32([1]), OPTIONAL),
    ([np.float32([1])], _type("optional(seq(float[N]))")),
]


@pytest.mark.parametrize(("value", "declared"), ROUND_TRIPS, ids=str)
def test_values_round_trip(value: Any, declared: onnx.TypeProto) -> None:
    read = values.decode(values.encode(value, declared), declared)
    assert type(read) is type(value)
    np.testing.assert_equal(read, value)


def test_bfloat16_that_was_stored_as_uint16() -> None:
    one = np.array([1.0, -2.5], ml_dtypes.bfloat16)
    stored = onnx.numpy_helper.from_array(one.view(np.uint16)).SerializeToString()
    read = values.decode(stored, _type("bfloat16[N]"))
    assert read.dtype == one.dtype
    np.testing.assert_array_equal(read, one)
    assert values.decode(stored, _type("uint16[N]")).dtype == np.uint16


def test_an_empty_optional_that_was_stored_as_a_typeless_tensor() -> None:
    stored = onnx.OptionalProto(elem_type=onnx.OptionalProto.TENSOR, tensor_value=onnx.TensorProto())
    assert values.decode(stored.SerializeToString(), OPTIONAL) is None


def test_strings_that_are_no_text() -> None:
    stored = onnx.TensorProto(dims=[3, 4], data_type=onnx.TensorProto.STRING, string_data=[b"\xf0\xce"] * 3)
    with pytest.raises(BrokenCaseError, match="holds no value of its declared tensor_type"):
        values.decode(stored.SerializeToString(), _type("string[N,M]"))


def test_what_is_no_model() -> None:
    for data in (b"", b"\xff\xff"):
        with pytest.raises(BrokenCaseError):
            parse_model(data)
