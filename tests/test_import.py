"""`import onnxref` is light, and exports what it says."""

from __future__ import annotations

import json
import subprocess
import sys

import onnxref


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy() -> None:
    modules = _modules_after("import onnxref")
    heavy = {
        "numba",
        "cupy",
        "onnx",
        "google.protobuf",
        "typer",
        "rich",
        "PIL",
        "re2",
        "onnxref.kernels.numpy",
    }
    assert not modules & heavy


def test_a_run_loads_neither_numba_nor_cupy() -> None:
    run = (
        "import onnxref, onnx, numpy; onnxref.run(onnx.helper.make_node('Neg', ['x'], ['y']), numpy.ones(2))"
    )
    modules = _modules_after(run)
    assert "onnxref.kernels.numpy" in modules
    assert not modules & {"numba", "cupy", "PIL", "re2"}


def test_exports_equal_all() -> None:
    public = {name for name in vars(onnxref) if not name.startswith("_")} | {"__version__"}
    submodules = {name for name in public if f"onnxref.{name}" in sys.modules}
    assert public - (submodules - {"run"}) == set(onnxref.__all__)
