"""A failing model made as small as possible while it keeps failing; `_shrink` says how."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..errors import InputError, OnnxRefError
from ..graph import Model
from ..limits import Limits
from ..model import load_model, to_proto, write_case
from ..runtime import bind_inputs
from ._bisect import run_on, worst
from ._errors_between import Tolerance
from ._html import html_table
from ._shrink import Check, Progress, Search, SpentError
from ._shrink_graphs import count_nodes
from ._subgraph import load_for

__all__ = ["Check", "Diverges", "Progress", "Reduction", "ShellCheck", "reduce"]


@dataclass(frozen=True, slots=True, eq=False)
class Reduction:
    """The smallest failing model that was found.

    Attributes:
        model: the model.
        inputs: its inputs by name.
        outputs: what the reference kernels give for them; None where they fail.
        nodes_before: number of nodes of the original, those of bodies and functions included.
        trials: candidates that were tried.
        seconds: time that it took.
        finished: whether nothing more could be done; False where time or trials ran out.
        steps: what helped, in order.
    """

    model: Model
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any] | None
    nodes_before: int
    trials: int
    seconds: float
    finished: bool
    steps: tuple[str, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The labels of the nodes that are left."""
        return tuple(node.label for node in self.model.graph.nodes)

    @property
    def proto(self) -> onnx.ModelProto:
        """The model as a message."""
        return to_proto(self.model)

    @property
    def summary(self) -> str:
        """The result as a sentence."""
        ended = "" if self.finished else ", stopped early"
        return (
            f"{self.nodes_before} nodes became {count_nodes(self.model)} in {self.trials} trials "
            f"({self.seconds:.1f} s{ended})"
        )

    def save(self, folder: Path | str) -> None:
        """Write model, inputs and outputs in the layout of the official tests."""
        write_case(folder, self.model, self.inputs, self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data for `json.dumps`; the model itself is not in it."""
        graph = self.model.graph
        return {
            "nodes": list(self.nodes),
            "operators": [node.op_type for node in graph.nodes],
            "inputs": {name: describe(value) for name, value in self.inputs.items()},
            "constants": {name: describe(value) for name, value in graph.initializers.items()},
            "outputs": [value.name for value in graph.outputs],
            "nodes_before": self.nodes_before,
            "nodes_after": count_nodes(self.model),
            "trials": self.trials,
            "seconds": round(self.seconds, 3),
            "finished": self.finished,
            "steps": list(self.steps),
        }

    def rows(self) -> list[list[str]]:
        """Return a table row for each node that is left."""
        graph = self.model.graph
        known = {**graph.initializers, **self.inputs}

        def shown(name: str) -> str:
            return f"{name} ({describe(known[name])})" if name in known else name

        return [
            [node.label, node.op_type, ", ".join(map(shown, node.inputs)), ", ".join(node.outputs)]
            for node in graph.nodes
        ]

    def __str__(self) -> str:
        rows = [f"  {op} {label}: {inputs} -> {outputs}" for label, op, inputs, outputs in self.rows()]
        return "\n".join([*self.steps, self.summary, *rows])

    def _repr_html_(self) -> str:
        return html_table(self.rows(), ("node", "operator", "inputs", "outputs"), title=self.summary)


def describe(value: Any) -> str:
    """Return type and shape of a value, in a few characters."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return "absent" if value is None else f"{type(value).__name__} of {len(value)}"


class Diverges:
    """A check: two runners disagree on the outputs, or one of them fails, whatever it was at first.

    Args:
        backend, against: what `open_runner` takes; `against` is golden.
        tolerance: beyond which they disagree.
    """

    def __init__(self, backend: Any, against: Any, tolerance: Tolerance | None = None) -> None:
        self.backend, self.against = backend, against
        self.tolerance = tolerance or Tolerance()
        self.kind = ""

    def __call__(self, proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
        kind = self._kind(load_model(proto), feeds)
        self.kind = self.kind or kind
        return bool(kind) and kind == self.kind

    def _kind(self, model: Model, feeds: dict[str, Any]) -> str:
        """Return how the two sides disagree; empty where they agree, or where nothing tells what is right."""
        try:
            golden = run_on(self.against, model, feeds)
        except OnnxRefError:
            return ""
        try:
            found = run_on(self.backend, model, feeds)
        except OnnxRefError as error:
            return f"fails with {type(error).__name__}"
        return "" if worst(golden, found, self.tolerance)[1].passed else "differs"


class ShellCheck:
    """A check: a shell command on the case's folder exits with status 0.

    Args:
        command: `{}` in it becomes the folder, which has the layout of the official tests.
        seconds: most time that one call may take; what takes longer does not count as failing.

    Raises:
        InputError: the command has no `{}`.
    """

    def __init__(self, command: str, seconds: float = 600.0) -> None:
        if "{}" not in command:
            raise InputError(f"the check must have {{}} where the model's folder goes (got {command!r})")
        self.command = command
        self.seconds = seconds

    def __call__(self, proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
        with tempfile.TemporaryDirectory(prefix="onnxref-reduce-") as folder:
            write_case(folder, load_model(proto), feeds)
            command = self.command.replace("{}", shlex.quote(folder))
            try:
                found = subprocess.run(
                    command, shell=True, check=False, capture_output=True, timeout=self.seconds
                )
            except subprocess.TimeoutExpired:
                return False
        return found.returncode == 0


def reduce(
    model: Any,
    feeds: Any,
    check: Check,
    *,
    trials: int = 1000,
    seconds: float = 600.0,
    limits: Limits | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Reduction:
    """Shrink a failing model while it keeps failing.

    Args:
        model: as for `onnxref.run`.
        feeds: inputs of the model, as for `onnxref.run`.
        check: called with a candidate and its inputs by name; True where it still fails.
        trials: most candidates to try.
        seconds: most time to take; a candidate that is being tried is not interrupted.
        progress: told before every trial.

    Raises:
        InputError: the model does not fail the check as it is, or the inputs do not fit.
    """
    began = time.monotonic()
    loaded = load_for(model, feeds, limits)
    graph = loaded.graph
    names = [value.name for value in graph.inputs]
    bound = dict(zip(names, bind_inputs(graph, feeds), strict=True))
    given = {name: bound[name] for name in names if name not in graph.initializers}
    search = Search(loaded, given, check, trials, seconds, limits, progress)
    search.start()
    try:
        search.go()
        finished = True
    except SpentError:
        finished = False
    return Reduction(
        model=search.model,
        inputs=search.feeds,
        outputs=search.outputs,
        nodes_before=count_nodes(loaded),
        trials=search.trials,
        seconds=time.monotonic() - began,
        finished=finished,
        steps=tuple(search.steps),
    )
