"""The programs for machines with a card run here, on the emulated device, as far as that goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_the_benchmark(tmp_path: Path) -> None:
    words = ("GEMM", "Conv", "Softmax", "LayerNorm")
    program = str(ROOT / "benchmarks" / "gpu.py")
    options = ("--dry-run", "--samples", "1", "--least", "0.0001", "--out", str(tmp_path))
    done = start(program, *options, *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "gpu-emulated.json").read_text())
    assert len(result["rows"]) == 3 * len(words)
    for row in result["rows"]:
        assert row["launches"] > 0
        assert row["gpu_s"] > 0
        assert not row["on_reference"]
    lines = (tmp_path / "gpu-emulated.md").read_text().splitlines()
    (widths,) = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == 15


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
