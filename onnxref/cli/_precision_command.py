"""`onnxref precision`, the work: where a model loses accuracy, and what fewer bits would cost."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..debug._precision import COLUMNS, PrecisionReport, Ranking, precision
from ..debug._quantised import LAYER_COLUMNS, QUANTISER_COLUMNS, QuantisedComparison, compare_quantised
from ..debug._simulate import WHAT_IF_COLUMNS, WhatIf, what_if
from ..errors import InputError
from ..graph import Model
from ..limits import Limits
from ..model import load_model
from ._feeds import make_feeds
from ._tables import table


def precision_command(
    model: Path,
    *,
    simulated: str | None,
    nodes: Sequence[str] | None,
    op_types: Sequence[str] | None,
    each: bool,
    against: Path | None,
    by: str,
    top: int,
    condition: bool,
    max_ulp: float | None,
    min_snr: float | None,
    inputs: Sequence[str],
    dims: Sequence[str],
    seed: int,
    limits: Limits,
    as_json: bool,
) -> bool:
    """Measure, print what was found, and return whether it is within the bounds."""
    if simulated is not None and against is not None:
        raise InputError("--what-if and --against are two different questions: ask one of them")
    if by not in ("own", "total", "condition"):
        raise InputError(f"--by must be own, total or condition (got {by!r})")
    for option, given in (("--nodes", nodes), ("--op", op_types), ("--each", each)):
        if given and simulated is None:
            raise InputError(f"{option} says what --what-if simulates, which is not given")
    loaded = load_model(model, limits)
    original = loaded if against is None else load_model(against, limits)
    feeds = make_feeds(original.graph, inputs, dims, seed)
    if simulated is not None:
        found = what_if(loaded, feeds, simulated, nodes=nodes, op_types=op_types, each=each, limits=limits)
        return _report_what_if(model.name, found, top, min_snr, as_json=as_json)
    if against is not None:
        return _report_quantised(model.name, loaded, original, feeds, top, min_snr, limits, as_json=as_json)
    ranking: Ranking = by  # type: ignore[assignment]  # checked above
    report = precision(loaded, feeds, condition=condition, seed=seed, limits=limits)
    return _report_precision(model.name, report, ranking, top, max_ulp, min_snr, as_json=as_json)


def _report_precision(
    name: str,
    report: PrecisionReport,
    by: Ranking,
    top: int,
    max_ulp: float | None,
    min_snr: float | None,
    *,
    as_json: bool,
) -> bool:
    above = [] if max_ulp is None else report.above(max_ulp)
    noisy = [] if min_snr is None else [n for n, found in report.outputs.items() if found.snr < min_snr]
    passed = not above and not noisy
    if as_json:
        failed = {"passed": passed, "above": [node.path for node in above]}
        print(json.dumps(report.to_json() | failed | {"worst": [n.path for n in report.worst(top, by)]}))
        return passed
    console = Console()
    rows = [node.cells() for node in report.worst(top, by)]
    console.print(table(f"{name}: the {len(rows)} nodes with the largest {_MEASURES[by]}", COLUMNS, rows))
    _say(console, report.title)
    for node in above[:top]:
        _say(console, f"own error above {max_ulp:g} ulp: {node}")
    return passed


_MEASURES = {"own": "own error", "total": "total error", "condition": "condition"}


def _report_what_if(name: str, found: WhatIf, top: int, min_snr: float | None, *, as_json: bool) -> bool:
    passed = min_snr is None or found.snr >= min_snr
    if as_json:
        print(json.dumps(found.to_json() | {"passed": passed, "worst": [n.path for n in found.worst(top)]}))
        return passed
    console = Console()
    rows = [node.cells() for node in found.worst(top)]
    console.print(table(f"{name}: the {len(rows)} nodes that {found.kind} costs most", WHAT_IF_COLUMNS, rows))
    _say(console, found.title)
    return passed


def _report_quantised(
    name: str,
    quantised: Model,
    original: Model,
    feeds: Mapping[str, Any],
    top: int,
    min_snr: float | None,
    limits: Limits,
    *,
    as_json: bool,
) -> bool:
    found: QuantisedComparison = compare_quantised(quantised, original, feeds, limits=limits)
    passed = min_snr is None or found.snr >= min_snr
    if as_json:
        print(json.dumps(found.to_json() | {"passed": passed}))
        return passed
    console = Console()
    layers = [layer.cells() for layer in found.worst_layers(top)]
    console.print(table(f"{name}: the {len(layers)} layers that lose most", LAYER_COLUMNS, layers))
    quantisers = [quantiser.cells() for quantiser in found.worst_quantisers(top)]
    if quantisers:
        console.print(table("quantisers that lose most", QUANTISER_COLUMNS, quantisers))
    _say(console, found.title)
    return passed


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)
