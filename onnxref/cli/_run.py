"""`onnxref run`: run a model on inputs from files and summarise what comes out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import OutputError
from ..limits import Limits
from ..runtime import Execution
from ..session import InferenceSession
from ._sources import parse_dims, read_sources
from ._tables import describe_value, number, table


def run_command(
    model: Path,
    inputs: Sequence[str],
    *,
    outputs: Sequence[str] | None,
    dims: Sequence[str],
    seed: int,
    save: Path | None,
    backend: str,
    limits: Limits,
    as_json: bool,
) -> None:
    """Run the model, print a summary of each output, and save them where asked."""
    started = time.perf_counter()
    session = InferenceSession(model, backend=backend, limits=limits)
    loaded = time.perf_counter()
    graph = session.graph
    feeds = read_sources(inputs, graph.inputs, graph.required_inputs, parse_dims(dims), seed)
    values, seconds = _run_with_progress(session, outputs, feeds)
    if save is not None:
        _save(save, values)
    if as_json:
        report = {name: describe_value(value) for name, value in values.items()}
        print(json.dumps({"outputs": report, "load_seconds": loaded - started, "run_seconds": seconds}))
        return
    rows = []
    for name, value in values.items():
        facts = describe_value(value)
        kind = f"{facts['type']} {facts.get('shape', facts.get('length', ''))}".strip()
        rows.append([name, kind, *_statistics(facts), _first(facts["first"])])
    title = f"{model.name}: loaded in {loaded - started:.3f} s, ran in {seconds:.3f} s"
    columns = ("output", "type and shape", "range", "mean", "NaN, Inf", "first values")
    Console().print(table(title, columns, rows))


def _statistics(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return cells for range, mean, and what is not finite; empty ones where there are no numbers."""
    low, high = number(facts.get("min")), number(facts.get("max"))
    odd = [f"{facts[key]} {name}" for key, name in (("nan", "NaN"), ("inf", "Inf")) if facts.get(key)]
    extent = low if low == high else f"{low} to {high}"
    return extent, number(facts.get("mean")), ", ".join(odd) or ("none" if "nan" in facts else "")


def _first(values: Any) -> str:
    if isinstance(values, list):
        return " ".join(number(v) if isinstance(v, float) else str(v) for v in values[:3])
    return str(values)


def _run_with_progress(
    session: InferenceSession, outputs: Sequence[str] | None, feeds: Mapping[str, Any]
) -> tuple[dict[str, Any], float]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # In a file or a pipe the bar would leave an empty line behind.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("nodes", total=len(session.graph.nodes))

        def observe(execution: Execution) -> None:
            progress.update(task, advance=not execution.scope, description=execution.node.op_type)

        started = time.perf_counter()
        values = session.run_named(outputs, feeds, observers=[observe])
        return values, time.perf_counter() - started


def _save(target: Path, values: Mapping[str, Any]) -> None:
    """Write arrays as NumPy files, anything else as JSON."""
    try:
        if target.suffix == ".npz":
            arrays = {name: _storable(name, value) for name, value in values.items()}
            np.savez(target, allow_pickle=False, **arrays)
            return
        target.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            file = target / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
            if isinstance(value, np.ndarray):
                np.save(file.with_name(file.name + ".npy"), _storable(name, value), allow_pickle=False)
            else:
                text = json.dumps(value, default=_jsonable)
                file.with_name(file.name + ".json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the outputs to {str(target)!r}: {error.strerror}") from error


def _storable(name: str, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise OutputError(f"output {name!r} is not a tensor and cannot go into a .npz file; save to a folder")
    return value.astype(str) if value.dtype == np.object_ else value


def _jsonable(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
