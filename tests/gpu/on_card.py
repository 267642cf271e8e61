"""Tests on a real card; `make test-gpu` runs them. Needs no network: docs/gpu.md says what to install before.

python -m tests.gpu.on_card                    # everything
python -m tests.gpu.on_card --only cases       # one of: kernels, cases, tables, sanitizer
python -m tests.gpu.on_card --dry-run -k relu  # on the emulated device, to try this program itself

    kernels     all that the planner emits are compiled, several at a time, so that no case waits for its own
    cases       official suite (CUDA half), real models, captured graphs: tests/gpu/card_cases.py
    tables      the tables of tests/gpu/test_gpu_*.py, on the card instead of the emulator
    sanitizer   compute-sanitizer's four tools over one official case for each operator, where it is installed
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import onnxref.gpu
from onnxref.errors import OnnxRefError

HERE = Path(__file__).parent
PARTS = ("kernels", "cases", "tables", "sanitizer")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
EMULATOR_ONLY = ("test_gpu_session.py", "test_gpu_backend_suite.py")  # they look into the emulated device
_FOUND = 9  # exit status of compute-sanitizer where it has found something


@dataclass(slots=True)
class Logged:
    """A prepared call that notes in its device's log that it was run."""

    device: LoggedCard
    shown: str
    ready: Callable[[], None]

    def __call__(self) -> None:
        self.device.log.append(self.shown)
        self.ready()


class LoggedCard:
    """The card in the place of an emulated device: with its log, and the libraries that a test allows."""

    def __init__(self, **options: Any) -> None:
        self._card: Any = onnxref.gpu.open_device()
        self.libraries = options.get("libraries", self._card.libraries) & self._card.libraries
        self.log: list[str] = []
        self.order = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._card, name)

    def launch(self, kernel: Any, *arguments: Any) -> Logged:
        return Logged(self, str(kernel), self._card.launch(kernel, *arguments))

    def library(self, op: Any, tensors: dict[str, int]) -> Logged:
        return Logged(self, str(op), self._card.library(op, tensors))

    def capture(self, calls: Sequence[Logged]) -> Logged:
        return Logged(self, f"graph of {len(calls)}", self._card.capture([call.ready for call in calls]))


class Tables:
    """A plugin of pytest: tables of lowerings run on the card."""

    @pytest.fixture(autouse=True)
    def on_card(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        from tests.gpu import lowered

        for module in (request.module, lowered):
            if hasattr(module, "EmulatedDevice"):
                monkeypatch.setattr(module, "EmulatedDevice", LoggedCard)
        yield
        onnxref.gpu.open_device().synchronize()


def run_kernels(options: Sequence[str]) -> int:
    """Compile all kernels for the card; the cache keeps them."""
    from .test_nvrtc import planned

    kernels = list(planned())
    onnxref.gpu.open_device().compile(kernels)
    print(f"{len(kernels)} kernels are compiled", flush=True)
    return 0


def run_cases(options: Sequence[str]) -> int:
    """Run the official suite and the real models."""
    return int(pytest.main([str(HERE / "card_cases.py"), *options]))


def run_tables(options: Sequence[str]) -> int:
    """Run the tables of all families."""
    files = [str(path) for path in sorted(HERE.glob("test_gpu_*.py")) if path.name not in EMULATOR_ONLY]
    return int(pytest.main([*files, *options], plugins=[Tables()]))


def run_sanitizer(options: Sequence[str]) -> int:
    """Run compute-sanitizer over a share of the official suite."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        print("compute-sanitizer is not on the PATH: nothing is run under it")
        return 0
    status = 0
    for tool in TOOLS:
        print(f"compute-sanitizer --tool {tool}", flush=True)
        command = [program, "--tool", tool, "--error-exitcode", str(_FOUND), sys.executable, "-m", "pytest"]
        environment = {**os.environ, "ONNXREF_SHARE": "1"}
        done = subprocess.run(
            [*command, "-p", "no:xdist", str(HERE / "card_cases.py"), *options], env=environment, check=False
        )
        status = status or done.returncode
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that the command line asks for; return the first status that is not 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--dry-run", action="store_true", help="on the emulated device")
    given, options = parser.parse_known_args(arguments)
    if given.dry_run:
        from .emulator.device import EmulatedDevice

        emulated = EmulatedDevice()
        onnxref.gpu.open_device = lambda: emulated
    try:
        device = onnxref.gpu.open_device()
    except OnnxRefError as error:
        print(f"no GPU, nothing was tested: {error}")
        return 1
    print(f"{device.name}, {device.arch}, libraries: {', '.join(sorted(device.libraries)) or 'none'}")
    # One process: pytest-xdist would start others, each with a card's context of its own.
    options = ["-p", "no:xdist", "-p", "no:cacheprovider", *options]
    run: dict[str, Callable[[Sequence[str]], int]] = {
        "kernels": run_kernels,
        "cases": run_cases,
        "tables": run_tables,
        "sanitizer": run_sanitizer,
    }
    statuses = [run[part](options) for part in given.only or PARTS]
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
