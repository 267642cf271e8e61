"""A part of a model, with the values that it had in a run, as a folder to hand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, OnnxRefError, OutputError
from ..limits import Limits
from ..model import write_case
from ._bisect import run_on
from ._errors_between import Errors, Tolerance, errors_between
from ._html import html_table
from ._subgraph import Extraction, extract, extract_values

# How a script calls a backend: what it imports, and what it makes.
_CALLS: dict[str, tuple[str, str]] = {
    "numpy": ("onnxref", 'onnxref.InferenceSession(path, backend="numpy")'),
    "numba": ("onnxref", 'onnxref.InferenceSession(path, backend="numba")'),
    "auto": ("onnxref", "onnxref.InferenceSession(path)"),
    "onnxruntime": ("onnxruntime", "onnxruntime.InferenceSession(path)"),
    "onnxruntime:disabled": ("onnxruntime", "onnxruntime.InferenceSession(path, options)"),
    "onnx.reference": ("onnx.reference", "onnx.reference.ReferenceEvaluator(path)"),
}
_OPTIONS = (
    "options = onnxruntime.SessionOptions()",
    "level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL",
    "options.graph_optimization_level = level",
)
# By whether all values are tensors, which the onnx package can read alone.
_GRAPH = {True: "onnx.load(path).graph.input", False: "load_model(path).graph.inputs"}
_READ = {
    True: 'onnx.numpy_helper.to_array(onnx.load_tensor(data / f"input_{i}.pb"))',
    False: 'read_value_file(data / f"input_{i}.pb", value.type)',
}
_DIFFERENCE = "np.abs(np.subtract(a, b, dtype=float)).max(initial=0)"


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """What a backend gives for the part.

    Attributes:
        errors: by output, how far it is from the values of the run.
        error: why the backend failed; empty where it did not.
    """

    backend: str
    errors: Mapping[str, Errors]
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what was found as plain data for `json.dumps`."""
        shown = {name: errors.to_json() for name, errors in self.errors.items()}
        return {"backend": self.backend, "outputs": shown, "error": self.error}


@dataclass(frozen=True, slots=True, eq=False)
class Repro:
    """A folder that shows a part of a model alone.

    Attributes:
        part: the part's model and values.
        folder: where it was written: `model.onnx`, `test_data_set_0`, and `repro.py`.
        sides: what each backend gives.
    """

    part: Extraction
    folder: Path
    sides: tuple[Side, ...]

    @property
    def passed(self) -> bool:
        """Whether every backend gives what came out in the run."""
        return all(not s.error and all(e.passed for e in s.errors.values()) for s in self.sides)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data for `json.dumps`."""
        graph = self.part.model.graph
        return {
            "what": self.part.what,
            "folder": str(self.folder),
            "nodes": list(self.part.nodes),
            "inputs": [value.name for value in graph.inputs],
            "constants": list(graph.initializers),
            "outputs": [value.name for value in graph.outputs],
            "error": self.part.error,
            "passed": self.passed,
            "backends": [side.to_json() for side in self.sides],
        }

    def rows(self) -> list[list[str]]:
        """Return a table row for each backend and output."""
        rows = []
        for side in self.sides:
            if side.error:
                rows.append([side.backend, "", f"fails: {side.error}"])
            rows += [[side.backend, name, str(errors)] for name, errors in side.errors.items()]
        return rows

    @property
    def summary(self) -> str:
        """What was written, as a sentence."""
        count = len(self.part.model.graph.nodes)
        failed = f"; in the run it failed: {self.part.error}" if self.part.error else ""
        return f"{self.part.what}: {count} node{'s' * (count != 1)} in {self.folder}{failed}"

    def __str__(self) -> str:
        return "\n".join([self.summary, *("  ".join(filter(None, row)) for row in self.rows())])

    def _repr_html_(self) -> str:
        return html_table(self.rows(), ("backend", "output", "off by"), title=self.summary)


def repro(
    model: Any,
    feeds: Any,
    node: str,
    folder: Path | str,
    *,
    last: str | None = None,
    backends: Sequence[str] = ("numpy", "onnxruntime"),
    tolerance: Tolerance | None = None,
    limits: Limits | None = None,
) -> Repro:
    """Write a node, or the nodes between two, with their actual inputs as a folder with a script.

    Args:
        model: as for `onnxref.run`.
        feeds: inputs of the whole model.
        node: path of a node, or of a value that it makes: `conv_3`, `loop[3]/body/Add_2`.
        folder: gets `model.onnx`, `test_data_set_0` and `repro.py`.
        last: path of the node to end with.
        backends: two, which the script runs: `numpy`, `numba`, `auto`, `onnxruntime`,
            `onnxruntime:disabled`, `onnx.reference`.

    Raises:
        OutputError: there is no such node, it was not run, or the folder cannot be written.
        InputError: a backend is not known.
    """
    _check_backends(backends)
    return write_repro(extract(model, feeds, node, last, limits=limits), folder, backends, tolerance)


def repro_values(
    model: Any,
    feeds: Any,
    outputs: Sequence[str],
    folder: Path | str,
    *,
    inputs: Sequence[str] = (),
    backends: Sequence[str] = ("numpy", "onnxruntime"),
    tolerance: Tolerance | None = None,
    limits: Limits | None = None,
) -> Repro:
    """Like `repro`, but write what computes some values from others.

    Args:
        outputs: paths of values.
        inputs: paths of values that become the part's inputs.
    """
    _check_backends(backends)
    part = extract_values(model, feeds, outputs, inputs, limits=limits)
    return write_repro(part, folder, backends, tolerance)


def write_repro(
    part: Extraction,
    folder: Path | str,
    backends: Sequence[str] = ("numpy", "onnxruntime"),
    tolerance: Tolerance | None = None,
) -> Repro:
    """Write an extracted part as a folder with a script, and run it on both backends.

    Raises:
        OutputError: the folder cannot be written.
        InputError: a backend is not known.
    """
    _check_backends(backends)
    folder = Path(folder)
    write_case(folder, part.model, part.inputs, part.outputs if not part.error else None)
    try:
        (folder / "repro.py").write_text(script(part, backends), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the script into {str(folder)!r}: {error.strerror}") from error
    return Repro(part, folder, tuple(_run(part, backend, tolerance) for backend in backends))


def _check_backends(backends: Sequence[str]) -> None:
    if len(backends) != 2:
        raise InputError(f"a script compares two backends (got {len(backends)})")
    for backend in backends:
        if backend not in _CALLS:
            raise InputError(f"there is no backend {backend!r} for a script; choose from {', '.join(_CALLS)}")


def _run(part: Extraction, backend: str, tolerance: Tolerance | None) -> Side:
    try:
        found = run_on(backend, part.model, part.inputs)
    except OnnxRefError as error:
        return Side(backend, {}, str(error))
    return Side(backend, {k: errors_between(v, found.get(k), tolerance) for k, v in part.outputs.items()})


def script(part: Extraction, backends: Sequence[str]) -> str:
    """Return the script that runs a part on two backends; it uses onnxref only where it must."""
    plain = all(isinstance(value, np.ndarray) for value in (*part.inputs.values(), *part.outputs.values()))
    sides = [_CALLS[backend] for backend in backends]
    modules = {module for module, _ in sides} | ({"onnx", "onnx.numpy_helper"} if plain else set())
    outputs = [value.name for value in part.model.graph.outputs]
    what = part.what.replace("\\", "/").replace('"', "'")
    lines = [
        f'"""{what}: {backends[0]} against {backends[1]}."""',
        "from pathlib import Path",
        "import numpy as np",
        *(f"import {module}" for module in sorted(modules)),
        *([] if plain else ["from onnxref.model import load_model, read_value_file"]),
        "",
        'path = str(Path(__file__).with_name("model.onnx"))',
        'data = Path(path).with_name("test_data_set_0")',
        f"inputs = enumerate({_GRAPH[plain]})",
        f"feeds = {{value.name: {_READ[plain]} for i, value in inputs}}",
        *(_OPTIONS if "onnxruntime:disabled" in backends else ()),
    ]
    for name, backend, (_, made) in zip(("one", "two"), backends, sides, strict=True):
        lines.append(f"{name} = {made}")
        if backend in ("numba", "auto"):
            lines.append(f"{name}.run(None, feeds)  # learns the shapes; the next run is native")
    lines += [
        f"for name, a, b in zip({outputs!r}, one.run(None, feeds), two.run(None, feeds)):",
        f'    print(name, "largest difference:", {_DIFFERENCE if _is_numeric(part) else "a == b"})',
    ]
    return "\n".join(lines) + "\n"


def _is_numeric(part: Extraction) -> bool:
    return bool(part.outputs) and all(
        isinstance(value, np.ndarray) and value.dtype.kind in "fiub" for value in part.outputs.values()
    )
