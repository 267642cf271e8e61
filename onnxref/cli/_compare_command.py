"""`onnxref compare`, the work: where two runs part ways, node by node."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..debug._compare import compare
from ..debug._comparison import COLUMNS, Comparison
from ..limits import MIB, Limits
from ..model import load_model
from ._feeds import make_feeds
from ._tables import table

_SHOWN = 40  # rows of a table, unless all are asked for


def compare_command(
    model: Path,
    other_model: Path | None,
    *,
    against: str,
    golden: str,
    inputs: Sequence[str],
    dims: Sequence[str],
    seed: int,
    rtol: float,
    atol: float | None,
    first: bool,
    local: bool,
    every: bool,
    memory: int,
    limits: Limits,
    as_json: bool,
) -> bool:
    """Compare, print what was found, and return whether both sides agree."""
    loaded = load_model(model, limits)
    found = compare(
        loaded,
        make_feeds(loaded.graph, inputs, dims, seed),
        against,
        golden=golden,
        other_model=other_model,
        rtol=rtol,
        atol=atol,
        stop=first,
        local=local,
        memory=memory * MIB,
        limits=limits,
    )
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        _print(model.name, found, every=every)
    return found.passed


def _print(name: str, found: Comparison, *, every: bool) -> None:
    console = Console()
    rows = found.rows(every=every)
    if rows:
        shown = rows if every else rows[:_SHOWN]
        console.print(table(f"{name}: {found.other} against {found.golden}", COLUMNS, shown))
        if len(rows) > len(shown):
            console.print(f"and {len(rows) - len(shown)} more nodes that fail; --all shows every node")
    console.print(found.title, markup=False, highlight=False)
    if found.first is not None:
        console.print(f"first: {found.first.path} ({found.first.verdict})", markup=False, highlight=False)
    if len(found.wrong) > 1:
        console.print(f"wrong by themselves: {_listed(found)}", markup=False, highlight=False)


def _listed(found: Comparison) -> str:
    names = [node.path for node in found.wrong]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
