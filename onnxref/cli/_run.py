"""`onnxref run`: run a model on inputs from files and summarise what comes out."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import OutputError
from ..limits import Limits
from ..plan import Step
from ..plan.specialize import Lowered
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
    console = Console(stderr=True)
    started = time.perf_counter()
    if not console.is_terminal:  # in a file or a pipe the bar would leave an empty line behind
        values = session.run_named(outputs, feeds)
        return values, time.perf_counter() - started
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    total = len(session.graph.nodes)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("nodes", total=total)
        ran: set[int] = set()

        # An observer would keep every node on the reference. What runs again natively counts once.
        def watch(scope: str, op: Lowered | Step, started: float, seconds: float) -> None:
            nodes = op.nodes if isinstance(op, Step) else op.op.nodes
            if not scope:
                ran.update(map(id, nodes))
            progress.update(
                task, completed=min(len(ran), total), description=nodes[0].op_type if nodes else ""
            )

        values = session.run_named(outputs, feeds, watcher=watch)
        return values, time.perf_counter() - started


def _save(target: Path, values: Mapping[str, Any]) -> None:
    """Write arrays as NumPy files, anything else as JSON."""
    try:
        if target.suffix == ".npz":
            _save_archive(target, {name: _storable(name, value) for name, value in values.items()})
            return
        target.mkdir(parents=True, exist_ok=True)
        for (name, value), file in zip(values.items(), _file_names(values), strict=True):
            if isinstance(value, np.ndarray):
                np.save(target / f"{file}.npy", _storable(name, value), allow_pickle=False)
            else:
                text = json.dumps(value, default=_jsonable)
                (target / f"{file}.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the outputs to {str(target)!r}: {error.strerror}") from error


def _save_archive(target: Path, arrays: Mapping[str, Any]) -> None:
    """Write what `numpy.savez` would, which takes no names like those of its parameters."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(value), allow_pickle=False)


def _file_names(names: Iterable[str]) -> list[str]:
    """Return names for files: other characters become `_`, and a number keeps apart what then is the same."""
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        numbered = (plain, *(f"{plain}-{i}" for i in range(2, len(taken) + 3)))
        file = next(file for file in numbered if file.casefold() not in taken)
        taken.add(file.casefold())  # some file systems do not tell capitals
        found.append(file)
    return found


def _storable(name: str, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise OutputError(f"output {name!r} is not a tensor and cannot go into a .npz file; save to a folder")
    return value.astype(str) if value.dtype == np.object_ else value


def _jsonable(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
