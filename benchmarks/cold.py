"""The start of a process: import, load and first run of a CNN of 300 nodes, with native code kept or not.

Bytecode is kept in every case, as it is where a package was installed by pip: compiling this package's
sources to bytecode in every process would add some 150 ms, on machines where PYTHONDONTWRITEBYTECODE is set.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import builders
import report
from rows import Folders

RUNS = 7

# Timed inside the process, so that the interpreter's own start is not counted.
_PROGRAM = """
import sys, time
start = time.perf_counter()
import numpy, {module}
session = {module}.InferenceSession(sys.argv[1]{options})
session.run(None, {{"x": numpy.ones((1, 3, 28, 28), numpy.float32)}})
print(time.perf_counter() - start)
"""
_ORT = _PROGRAM.format(module="onnxruntime", options=", providers=['CPUExecutionProvider']")
_SIDES: tuple[tuple[str, str, bool], ...] = (
    ("onnxruntime", _ORT, True),
    *(
        (
            f"onnxref, native code kept, backend {b}",
            _PROGRAM.format(module="onnxref", options=f", backend={b!r}"),
            True,
        )
        for b in ("auto", "numba")
    ),
    *(
        (
            f"onnxref, no native code, backend {b}",
            _PROGRAM.format(module="onnxref", options=f", backend={b!r}"),
            False,
        )
        for b in ("auto", "numpy")
    ),
)


def measure_cold(folders: Folders) -> list[dict[str, Any]]:
    """Return one record for each kind of process: the median of `RUNS`, taken in turn."""
    path = builders.kept(folders.made, "cnn_of_300_nodes", builders.cnn_of_300_nodes)
    times: dict[str, list[float]] = {name: [] for name, _, _ in _SIDES}
    with tempfile.TemporaryDirectory() as bytecode:
        kept = {"PYTHONPYCACHEPREFIX": bytecode}
        for _, program, _ in _SIDES:
            _seconds(program, str(path), kept)  # fills the caches of files, bytecode and native code
        for _ in range(RUNS):
            for name, program, is_warm in _SIDES:
                with tempfile.TemporaryDirectory() as folder:
                    more = kept if is_warm else {**kept, "ONNXREF_CACHE": folder}
                    times[name].append(_seconds(program, str(path), more))
    return [
        {"model": name, "date": report.today(), "seconds": statistics.median(found), "runs": RUNS}
        for name, found in times.items()
    ]


def _seconds(program: str, path: str, more: Mapping[str, str]) -> float:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-P", "-c", program, path]
    done = subprocess.run(command, env={**inherited, **more}, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])
