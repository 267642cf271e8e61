"""The programs for machines with a card run here, on the emulated device, as far as that goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def start(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a process of its own, for it replaces the card."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    program = str(ROOT / "benchmarks" / "gpu.py")
    options = ("--dry-run", "--samples", "1", "--least", "0.0001", "--out", str(tmp_path))
    kept: list[dict[str, Any]] = []
    for words in (("GEMM", "Conv"), ("GEMM", "Softmax", "LayerNorm")):
        done = start(program, *options, *words)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        rows = json.loads((tmp_path / "gpu-emulated.json").read_text())["rows"]
        assert rows[: len(kept)] == kept
        kept = rows
    assert len(kept) == 3 * 4
    for row in kept:
        assert row["launches"] > 0
        assert row["gpu_s"] > 0
        assert not row["on_reference"]
    table = (tmp_path / "gpu-emulated.md").read_text().split("## Targets")[0]
    (widths,) = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert widths == 15


def test_targets_are_met_or_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_report import report

    def row(name: str, milliseconds: float, **facts: Any) -> dict[str, Any]:
        made = {"name": name, "setting": "float16", "batch": 1, "gpu_s": milliseconds / 1e3, "wall_s": 1.0}
        made |= {"first_s": 1.0, "launches": 1, "arena_bytes": 1, "on_reference": [], "torch": {}}
        return made | {"flop_per_s": None, "bytes_per_s": None, **facts}

    rows = [
        row("ResNet-50", 0.61, torch={"compiled_s": 0.7e-3}),
        row("Softmax 16384x4096", 0.1, bytes_per_s=86.0),
        row("GEMM 4096^3", 0.1, flop_per_s=80.0),
        {"name": "BERT-base 128", "setting": "float16", "batch": 1, "error": "BackendError: none"},
    ]
    result = {"card": "NVIDIA H200", "date": "", "sources": "", "versions": {}, "rows": rows}
    text = report({**result, "bandwidth": 100.0, "matrix_rate": {"float16": 100.0}}).split("## Targets")[1]
    assert [line.split(" | ")[1:] for line in text.splitlines()[4:]] == [
        ["0.610 ms", "missed |"],
        ["0.87 of its time", "met |"],
        ["86 %", "met |"],
        ["80 %", "missed |"],
    ]


def test_the_tests_of_a_card() -> None:
    done = start(
        "-m",
        "tests.gpu.on_card",
        "--dry-run",
        "--only",
        "cases",
        "-q",
        "-k",
        "test_softmax_axis or cnn_opset9",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "emulated, sm_90" in done.stdout
    assert " passed" in done.stdout or "100%" in done.stdout


def test_the_tables_on_a_card() -> None:
    done = start(
        "-m", "tests.gpu.on_card", "--dry-run", "--only", "tables", "-q", "-k", "test_row_lengths and softmax"
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    "program",
    [("-m", "tests.gpu.on_card"), (str(ROOT / "benchmarks" / "gpu.py"),)],
    ids=["tests", "benchmark"],
)
def test_without_a_card_nothing_is_claimed(program: tuple[str, ...]) -> None:
    from onnxref.errors import OnnxRefError
    from onnxref.gpu import open_device

    try:
        open_device()
    except OnnxRefError:
        done = start(*program)
        assert done.returncode == 1
        assert done.stdout.startswith("no GPU, nothing was ")
    else:
        pytest.skip("there is a card here")
