"""`onnxref bench`: how long a model takes here, next to other runtimes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from ..benchmark import Setting, SideResult, import_peer, measure, rounds_to_8_bits
from ..limits import DEFAULT
from ..model import load_model
from ._feeds import make_feeds
from ._tables import byte_count, table


def bench_command(
    model: Path,
    *,
    against: Sequence[str] | None,
    backend: str,
    threads: int | None,
    precision: str,
    batch: int | None,
    samples: int,
    inputs: Sequence[str],
    dims: Sequence[str],
    seed: int,
    memory: bool,
    as_json: bool,
) -> None:
    """Measure onnxref and its peers, and print one row for each; status 1 if a peer fails."""
    peers = list(dict.fromkeys(against)) if against is not None else _default_peers()
    for peer in peers:
        import_peer(peer)
    graph = load_model(model, DEFAULT).graph
    feeds = make_feeds(graph, inputs, dims, seed, batch)
    setting = Setting(backend, threads, precision=precision)
    console = Console(stderr=True)
    with console.status("starting") as status:
        results = measure(
            model,
            feeds,
            peers,
            setting,
            quantised=rounds_to_8_bits(graph),
            samples=samples,
            memory=memory,
            tell=status.update,
        )
    if as_json:
        print(json.dumps([_record(result, results[0]) for result in results]))
    else:
        _print(f"{model.name}: {_settings(setting, batch, samples)}", results)
    if any(result.error for result in results):
        raise typer.Exit(1)


def _default_peers() -> list[str]:
    return ["onnxruntime"] if find_spec("onnxruntime") is not None else []


def _record(result: SideResult, ours: SideResult) -> dict[str, Any]:
    """Return a result ready for JSON, with the ratio of onnxref's time to a peer's."""
    has_ratio = result is not ours and not result.error
    return {**result.as_record(), "ratio": ours.median / result.median if has_ratio else None}


def _settings(setting: Setting, batch: int | None, samples: int) -> str:
    shown = [f"backend {setting.backend}", f"threads {'all' if setting.threads is None else setting.threads}"]
    shown += [f"precision {setting.precision}"] if setting.precision != "default" else []
    shown += [f"batch {batch}"] if batch is not None else []
    return ", ".join([*shown, f"median of {samples}"])


def _print(title: str, results: Sequence[SideResult]) -> None:
    console = Console()
    columns = ("runtime", "ms", "ratio", "load", "first run", "memory", "outputs")
    console.print(table(title, columns, [_row(result, results[0]) for result in results if not result.error]))
    if len(results) > 1:
        console.print("ratio: onnxref's time / this one's; below 1, onnxref is faster")
    if results[0].agreement is not None:
        text = "outputs: compared with onnxref's in float32, differences relative to the largest value"
        console.print(text, highlight=False, soft_wrap=True)
    for note in results[0].notes:
        console.print(f"onnxref: {note}", markup=False, highlight=False, soft_wrap=True)
    for result in results:
        if result.error:
            text = f"{result.runtime} failed: {result.error}"
            Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def _row(result: SideResult, ours: SideResult) -> list[str]:
    return [
        result.runtime,
        milliseconds(result.median),
        "" if result is ours else f"{ours.median / result.median:.2f}",
        milliseconds(result.load),
        milliseconds(result.first),
        "" if result.peak is None else byte_count(result.peak),
        _agreement(result),
    ]


def _agreement(result: SideResult) -> str:
    if result.agreement is None:
        return ""
    error, quanta = result.agreement.error, result.agreement.quanta
    shown = f"{error:.0e} apart" if error else "equal"
    return shown if quanta is None else f"{shown}, {quanta:.1f} quanta"


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds with three digits that count."""
    value = seconds * 1e3
    if not 0 < value < 100:
        return "" if math.isnan(value) else f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
