"""The scoreboard: for the terminal, as Markdown, and as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from string import Template
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .results import OUTCOMES, Result, ResultSet, RunInfo
from .summary import (
    Change,
    backends_of,
    differences,
    operator_name,
    suites_of,
    surprises,
    totals,
)

STYLES = {
    "passed": "green",
    "adjudicated": "cyan",
    "unsupported": "dim",
    "broken": "magenta",
    "failed": "red",
    "error": "red",
    "timeout": "yellow",
    "crashed": "bold red",
}
LISTED = 20  # cases of a kind that are named in the terminal


class _Page(Template):
    """A template whose placeholders do not collide with JavaScript's `$`."""

    delimiter = "%%"


def print_summary(console: Console, found: ResultSet, changes: Sequence[Change] = ()) -> None:
    """Print totals, the cases that are not right, and the differences."""
    console.print(_totals_table(found))
    wrong = [r for r in found.results.values() if r.outcome not in ("passed", "adjudicated", "unsupported")]
    for result in wrong[:LISTED]:
        _print_line(console, result.outcome, f"{result.backend}  {result.id}", result.message)
    _print_rest(console, wrong)
    passing = surprises(found)
    for result in passing[:LISTED]:
        _print_line(console, "adjudicated", f"{result.backend}  {result.id}", "passes although adjudicated")
    _print_rest(console, passing)
    if changes:
        print_changes(console, changes)


def _print_line(console: Console, outcome: str, name: str, message: str) -> None:
    line = Text.assemble((f"{outcome:12}", STYLES[outcome]), f"{name}  ", (message[:200], "dim"))
    # One line each: cut at the terminal's edge, but whole in a file.
    if console.is_terminal:
        console.print(line, no_wrap=True, overflow="ellipsis")
    else:
        console.print(line, soft_wrap=True)


def _print_rest(console: Console, results: Sequence[Result]) -> None:
    if len(results) > LISTED:
        console.print(f"... and {len(results) - LISTED} more", style="dim")


def _totals_table(found: ResultSet) -> Table:
    counts = totals(found)
    used = [name for name in OUTCOMES if any(name in counter for counter in counts.values())]
    table = Table(header_style="bold cyan")
    for column in ("backend", "suite"):
        table.add_column(column, no_wrap=True)
    for column in ("cases", *used):
        table.add_column(column, justify="right", style=STYLES.get(column))
    for backend in backends_of(found):
        for suite in suites_of(found):
            counter = counts.get((backend, suite))
            if counter:
                cells = [str(counter[name] or "") for name in used]
                table.add_row(backend, suite, str(counter.total()), *cells)
        table.add_section()
    return table


def print_changes(console: Console, changes: Sequence[Change]) -> None:
    """Print each case whose outcome changed, the worse first."""
    colours = {"worse": "red", "better": "green"}
    for change in changes:
        console.print(
            Text(f"{change.kind:7}", style=colours.get(change.kind, "")),
            Text(f"{change.backend}  {change.case}: {_outcome(change.old)} -> {_outcome(change.new)}"),
            Text(change.new.message[:200] if change.new else "", style="dim"),
            soft_wrap=True,
        )
    counted = Counter(change.kind for change in changes)
    console.print(", ".join(f"{count} {kind}" for kind, count in counted.items()) or "no differences")


def _outcome(result: Result | None) -> str:
    return "-" if result is None else result.outcome


def to_markdown(found: ResultSet, changes: Sequence[Change] = ()) -> str:
    """Return the scoreboard as Markdown."""
    lines = ["# ONNX backend scoreboard", "", *_markdown_runs(found), ""]
    backends, suites, counts = backends_of(found), suites_of(found), totals(found)
    rows = [[suite, *(_share(counts.get((b, suite))) for b in backends)] for suite in suites]
    sums = [sum((counts.get((b, suite), Counter()) for suite in suites), Counter()) for b in backends]
    rows.append(["**all**", *(f"**{_share(counter)}**" for counter in sums)])
    lines += ["## Cases passed", "", *_markdown_table(["suite", *backends], rows), ""]
    rows = [[name, *(str(counter[name]) for counter in sums)] for name in OUTCOMES]
    lines += ["## Outcomes", "", *_markdown_table(["outcome", *backends], rows), ""]
    for backend in backends:
        lines += _markdown_cases(backend, found)
    passing = [f"- {r.backend}: `{r.id}`" for r in surprises(found)]
    if passing:
        lines += ["## Passes although adjudicated", "", *passing, ""]
    if changes:
        rows = [[c.kind, c.backend, f"`{c.case}`", _outcome(c.old), _outcome(c.new)] for c in changes]
        lines += ["## Differences", "", *_markdown_table(["", "backend", "case", "was", "is"], rows), ""]
    return "\n".join(lines)


def _newest_runs(found: ResultSet) -> list[RunInfo]:
    return list({run.backend: run for run in found.runs.values()}.values())


def _markdown_runs(found: ResultSet) -> list[str]:
    rows = [[run.backend, _versions(run), run.date, _machine(run)] for run in _newest_runs(found)]
    return _markdown_table(["backend", "versions", "date", "machine"], rows)


def _versions(run: RunInfo) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.versions.items())


def _machine(run: RunInfo) -> str:
    facts = run.machine
    return f"{facts.get('system')}, {facts.get('cpus')} CPUs, Python {facts.get('python')}"


def _share(counter: Counter[str] | None) -> str:
    if not counter:
        return "-"
    passed, total = counter["passed"], counter.total()
    adjudicated = f", {counter['adjudicated']} adjudicated" if counter["adjudicated"] else ""
    # Rounded down, so that 100 % always means every case.
    return f"{passed} of {total} ({passed * 1000 // total / 10:g} %){adjudicated}"


def _markdown_cases(backend: str, found: ResultSet) -> list[str]:
    rows = [
        [f"`{r.id}`", r.outcome, _cell(r.message)]
        for (name, _), r in sorted(found.results.items())
        if name == backend and r.outcome != "passed"
    ]
    if not rows:
        return []
    table = _markdown_table(["case", "outcome", "message"], rows)
    summary = f"<summary>{html.escape(backend)}: {len(rows)} cases that did not pass</summary>"
    return ["<details>", summary, "", *table, "", "</details>", ""]


def _cell(message: str) -> str:
    text = message if len(message) <= 160 else message[:157] + "..."
    # Code spans are the one place where Markdown leaves text alone; only these two characters end it.
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`" if text else ""


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def to_html(found: ResultSet, baseline: ResultSet | None = None) -> str:
    """Return the scoreboard as one HTML page: its data as JSON, its style and script inside."""
    changes = [] if baseline is None else differences(baseline, found)
    # "<" would let a message close the script element that holds the data.
    data = json.dumps(_page_data(found, changes), separators=(",", ":")).replace("<", "\\u003c")
    page = (resources.files(__package__) / "report.html").read_text(encoding="utf-8")
    return _Page(page).substitute(data=data)


def _page_data(found: ResultSet, changes: Sequence[Change]) -> dict[str, Any]:
    backends, suites = backends_of(found), suites_of(found)
    operators = sorted({operator_name(r) for r in found.results.values() if r.operator})
    index = {name: i for i, name in enumerate(operators)}
    cases: dict[str, list[list[Any]]] = {backend: [] for backend in backends}
    for result in found.results.values():
        cases[result.backend].append(
            [
                suites.index(result.suite),
                f"{result.group}/{result.case}",
                index[operator_name(result)] if result.operator else -1,
                result.opset,
                OUTCOMES.index(result.outcome),
                result.message,
                result.max_ulp,
                result.max_abs,
                result.seconds,
                int(result.adjudicated),
            ]
        )
    return {
        "outcomes": OUTCOMES,
        "backends": backends,
        "suites": suites,
        "operators": operators,
        "runs": [
            {"backend": r.backend, "versions": _versions(r), "date": r.date, "machine": _machine(r)}
            for r in _newest_runs(found)
        ],
        "cases": cases,
        "changes": [
            [c.kind, c.backend, c.case, _outcome(c.old), _outcome(c.new), c.new.message if c.new else ""]
            for c in changes
        ],
    }
