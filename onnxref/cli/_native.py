"""`onnxref warmup`, `explain` and `cache`: the native code of a model, and where it is kept."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..limits import Limits
from ..native import clear_cache, describe_cache
from ..plan.specialize import DeviceProgram, NodeExplanation, Program
from ..session import InferenceSession
from ._feeds import make_feeds
from ._tables import byte_count, table

_LOOK = 0.05  # seconds between two looks at what is compiled


def warmup_command(
    model: Path,
    inputs: Sequence[str],
    *,
    backend: Literal["numba", "cupy"],
    dims: Sequence[str],
    seed: int,
    limits: Limits,
    as_json: bool,
) -> None:
    """Compile what a model needs for the given shapes, and say what and how long it took."""
    started = time.perf_counter()
    session = InferenceSession(model, backend=backend, limits=limits)
    feeds = make_feeds(session.graph, inputs, dims, seed)
    compiled = _run_watched(session, feeds)
    seconds = time.perf_counter() - started
    regions = session.native_regions()
    programs = [region.program for region in regions if region.program is not None]
    if backend == "cupy":
        _tell_of_kernels(model.name, programs, time.perf_counter() - started, as_json=as_json)
        return
    needed = len({function for program in programs for function in program.functions()})
    reasons = list(dict.fromkeys(region.hopeless for region in regions if region.hopeless))
    if as_json:
        report = {"compiled": compiled, "functions": needed, "seconds": seconds, "not_native": reasons}
        print(json.dumps({**report, "cache": str(describe_cache().folder)}))
        return
    console = Console()
    if compiled:
        rows = [(name, count) for name, count in Counter(map(_kernel, compiled)).most_common()]
        console.print(table("compiled", ("kernel", "variants"), rows))
    ready = max(0, needed - len(compiled))
    text = f"{model.name}: {len(compiled)} native functions compiled, {ready} were ready, {seconds:.1f} s"
    for line in (text, *(f"a part stays on the reference: {reason}" for reason in reasons)):
        console.print(line, highlight=False, markup=False)


def _tell_of_kernels(
    model: str, programs: Sequence[Program | DeviceProgram], seconds: float, *, as_json: bool
) -> None:
    """Say what a warm-up for a GPU has left in the cache."""
    on_device = [program for program in programs if isinstance(program, DeviceProgram)]
    kernels = len({kernel for program in on_device for kernel in program.kernels()})
    if as_json:
        print(json.dumps({"kernels": kernels, "seconds": seconds, "cache": str(describe_cache().folder)}))
        return
    text = f"{model}: {kernels} CUDA kernels are compiled, {seconds:.1f} s"
    Console().print(text, highlight=False, markup=False)


def _kernel(name: str) -> str:
    """Return the name of a native function without its parameters."""
    return name.partition("(")[0]


def _run_watched(session: InferenceSession, feeds: dict[str, Any]) -> list[str]:
    """Run a model in a thread and show what it compiles; return the names of the functions."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            session.run(None, feeds)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    runner = threading.Thread(target=work, daemon=True)
    seen: dict[str, bool] = {}  # by name, whether it is done
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("running", total=None)
        runner.start()
        while runner.is_alive():
            runner.join(_LOOK)
            _look(session, seen)
            _show(progress, task, seen)
    if failures:
        raise failures[0]
    return list(seen)


def _look(session: InferenceSession, seen: dict[str, bool]) -> None:
    """Take note of functions that are missing, and of those that no longer are."""
    missing = [
        repr(function)
        for region in session.native_regions()
        if region.program is None and region.planned is not None
        for function in region.planned.missing()
    ]
    for name in seen:
        seen[name] = name not in missing
    seen.update(dict.fromkeys((name for name in missing if name not in seen), False))


def _show(progress: Progress, task: TaskID, seen: dict[str, bool]) -> None:
    following = next((name for name, done in seen.items() if not done), None)
    text = "running" if following is None else _kernel(following)
    progress.update(task, total=len(seen) or None, completed=sum(seen.values()), description=text)


def explain_command(
    model: Path,
    inputs: Sequence[str],
    *,
    backend: Literal["numba", "cupy"],
    precision: Literal["default", "strict", "bf16", "tf32"],
    dims: Sequence[str],
    seed: int,
    limits: Limits,
    as_json: bool,
) -> None:
    """Print what became of every node."""
    session = InferenceSession(model, backend=backend, precision=precision, limits=limits)
    feeds = make_feeds(session.graph, inputs, dims, seed)
    for _ in range(2):
        session.run(None, feeds)
    rows = session.explain()
    kinds = Counter(row.kind for row in rows)
    if as_json:
        print(json.dumps({"summary": kinds, "nodes": [asdict(row) for row in rows]}))
        return
    cells = [
        (", ".join(r.nodes), r.operator, r.kind, r.kernel, r.result, _placement(r) or r.reason) for r in rows
    ]
    console = Console()
    console.print(table(model.name, ("nodes", "operator", "kind", "kernel", "result", "why"), cells))
    kinds.update(dict.fromkeys(("native", "reference", "known", "view"), 0))  # all of them are shown
    console.print(", ".join(f"{count} {kind}" for kind, count in kinds.items()), highlight=False)


def _placement(row: NodeExplanation) -> str:
    """Return what there is to say of a row of a device's program."""
    if row.libraries:
        return f"{', '.join(row.libraries)}{', captured' * row.captured}"
    return f"{row.reason}; {row.copies} copies between host and device" if row.copies else ""


def cache_command(*, clear: bool, as_json: bool) -> None:
    """Print where native code is kept and how much there is; on demand delete it."""
    found = clear_cache() if clear else describe_cache()
    if as_json:
        facts = {"folder": str(found.folder), "files": found.files, "bytes": found.bytes, "cleared": clear}
        print(json.dumps(facts))
        return
    verb = "deleted from" if clear else "in"
    text = f"{found.files} native functions, {byte_count(found.bytes)}, {verb} {found.folder}"
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
