"""The scoreboard as one HTML page that needs nothing else: its data, style and script are inside."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from .report import machine_line, outcome_name, versions_line
from .results import OUTCOMES, Result, ResultSet
from .summary import Change, Point, backends_of, newest_runs, operator_name, suites_of


class _Page(Template):
    """A template whose placeholders do not collide with JavaScript's `$`."""

    delimiter = "%%"


class _Index:
    """Numbers things in the order in which they are first seen, so that each is written once."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def __call__(self, thing: Any) -> int:
        return self.numbers.setdefault(thing, len(self.numbers))


def to_html(
    found: ResultSet, changes: Sequence[Change] = (), trends: Mapping[str, Sequence[Point]] | None = None
) -> str:
    """Return the page."""
    data = json.dumps(_page_data(found, changes, trends or {}), separators=(",", ":"), allow_nan=False)
    # Packed, a page of tens of thousands of cases loads well on a phone; and no text of a backend can
    # close the script element that holds it.
    packed = base64.b64encode(gzip.compress(data.encode(), mtime=0)).decode()
    page = (resources.files(__package__) / "report.html").read_text(encoding="utf-8")
    return _Page(page).substitute(data=packed)


def _page_data(
    found: ResultSet, changes: Sequence[Change], trends: Mapping[str, Sequence[Point]]
) -> dict[str, Any]:
    backends, suites = backends_of(found), suites_of(found)
    operators = _names(operator_name(r) for r in found.results.values() if r.operator)
    types = _names(r.type for r in found.results.values() if r.type)
    cases, messages = _Index(), _Index()
    results: dict[str, list[list[Any]]] = {backend: [] for backend in backends}
    for result in found.results.values():
        operator = operators.index(operator_name(result)) if result.operator else -1
        type_ = types.index(result.type) if result.type else -1
        name = f"{result.group}/{result.case}"
        case = cases((suites.index(result.suite), name, operator, result.opset, type_))
        results[result.backend].append([case, *_row(result, messages)])
    return {
        "outcomes": OUTCOMES,
        "backends": backends,
        "suites": suites,
        "operators": operators,
        "types": types,
        "cases": list(cases.numbers),
        "messages": list(messages.numbers),
        "results": results,
        "runs": [
            {"backend": r.backend, "versions": versions_line(r.versions), "date": r.date}
            | {"machine": machine_line(r)}
            for r in newest_runs(found)
        ],
        "changes": [
            [c.kind, c.backend, c.case, outcome_name(c.old), outcome_name(c.new)]
            + [c.new.message if c.new else ""]
            for c in changes
        ],
        "trends": {
            backend: [
                [p.date, versions_line(p.versions), p.outcomes["passed"], p.outcomes.total()] for p in points
            ]
            for backend, points in trends.items()
        },
    }


def _names(names: Iterable[str]) -> list[str]:
    return sorted(set(names))


def _row(result: Result, messages: _Index) -> list[Any]:
    """Return outcome, message, errors, milliseconds, whether the case is adjudicated, and native nodes."""
    native = [result.native, result.nodes] if result.nodes else []
    return [
        OUTCOMES.index(result.outcome),
        messages(result.message),
        _rounded(result.max_ulp),
        _rounded(result.max_abs),
        _rounded(result.seconds * 1000),
        int(result.adjudicated),
        *native,
    ]


def _rounded(number: float | None) -> float | None:
    if number is None:
        return None
    short = float(f"{number:.3g}")
    return int(short) if short.is_integer() and abs(short) < 1e6 else short
