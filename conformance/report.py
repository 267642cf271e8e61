"""The scoreboard: for the terminal and as Markdown."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .adjudications import adjudications
from .results import OUTCOMES, Result, ResultSet, RunInfo
from .summary import (
    Change,
    Coverage,
    Point,
    backends_of,
    coverages,
    newest_runs,
    suites_of,
    surprises,
    totals,
    totals_by_type,
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

# A Markdown page of thousands of rows is one that no browser shows.
LISTED_CASES = 200


def print_summary(console: Console, found: ResultSet, changes: Sequence[Change] = ()) -> None:
    """Print totals, the cases that are not right, and the differences."""
    console.print(_totals_table(found))
    for (backend, suite), native in coverages(found).items():
        console.print(Text(f"{backend}  {suite}: {_native_line(native)}"), soft_wrap=True)
    wrong = [r for r in found.results.values() if r.outcome not in ("passed", "adjudicated", "unsupported")]
    for result in wrong[:LISTED]:
        _print_line(console, result.outcome, f"{result.backend}  {result.id}", result.message)
    _print_rest(console, wrong)
    passing = surprises(found)
    for result in passing[:LISTED]:
        message = f"passes although adjudicated{_excuse(result)}"
        _print_line(console, "adjudicated", f"{result.backend}  {result.id}", message)
    _print_rest(console, passing)
    if changes:
        print_changes(console, changes)


def _excuse(result: Result) -> str:
    """Return why a pass of an adjudicated case is no fault, where there is a reason."""
    entry = adjudications().get(result.id)
    return f": {entry.passing}" if entry is not None and entry.passing else ""


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
        was, now = outcome_name(change.old), outcome_name(change.new)
        console.print(
            Text(f"{change.kind:7}", style=colours.get(change.kind, "")),
            Text(f"{change.backend}  {change.case}: {was} -> {now}"),
            Text(change.new.message[:200] if change.new else "", style="dim"),
            soft_wrap=True,
        )
    counted = Counter(change.kind for change in changes)
    console.print(", ".join(f"{count} {kind}" for kind, count in counted.items()) or "no differences")


def outcome_name(result: Result | None) -> str:
    """Return the outcome; "-" where there is no result."""
    return "-" if result is None else result.outcome


def to_markdown(
    found: ResultSet, changes: Sequence[Change] = (), trends: Mapping[str, Sequence[Point]] | None = None
) -> str:
    """Return the scoreboard as Markdown."""
    lines = ["# ONNX backend scoreboard", "", *_markdown_runs(found), ""]
    backends, suites, counts = backends_of(found), suites_of(found), totals(found)
    rows = [[suite, *(_share(counts.get((b, suite))) for b in backends)] for suite in suites]
    sums = [sum((counts.get((b, suite), Counter()) for suite in suites), Counter()) for b in backends]
    rows.append(["**all**", *(f"**{_share(counter)}**" for counter in sums)])
    lines += ["## Cases passed", "", *_markdown_table(["suite", *backends], rows), ""]
    rows = [[name, *(str(counter[name]) for counter in sums)] for name in OUTCOMES]
    lines += ["## Outcomes", "", *_markdown_table(["outcome", *backends], rows), ""]
    lines += _markdown_native(found) + _markdown_types(found) + _markdown_trend(trends or {})
    for backend in backends:
        lines += _markdown_cases(backend, found)
    passing = [f"- {r.backend}: `{r.id}`{_excuse(r)}" for r in surprises(found)]
    if passing:
        lines += ["## Passes although adjudicated", "", *passing, ""]
    if changes:
        rows = [[c.kind, c.backend, f"`{c.case}`", outcome_name(c.old), outcome_name(c.new)] for c in changes]
        lines += ["## Differences", "", *_markdown_table(["", "backend", "case", "was", "is"], rows), ""]
    return "\n".join(lines)


def _native_line(native: Coverage) -> str:
    wrong = f", {native.wrong} of them not right" if native.wrong else ""
    whole = f"{native.whole} wholly" if native.some else "none wholly"
    share = f"{native.some} of {native.told} ({native.some * 1000 // native.told / 10:g} %)"
    return f"{share} with native nodes, {whole}{wrong}"


def _markdown_native(found: ResultSet) -> list[str]:
    shares = coverages(found)
    backends = [b for b in backends_of(found) if any(name == b for name, _ in shares)]
    if not backends:
        return []
    rows = [
        [suite, *(_native_line(shares[b, suite]) if (b, suite) in shares else "-" for b in backends)]
        for suite in suites_of(found)
    ]
    text = (
        "Of the cases that ran: those of which at least one node ran as native code, and those of which "
        "every node did. In `types` these are the claimed cells."
    )
    return ["## Native code", "", text, "", *_markdown_table(["suite", *backends], rows), ""]


def _markdown_types(found: ResultSet) -> list[str]:
    counts, backends = totals_by_type(found), backends_of(found)
    types = sorted({name for _, name in counts})
    if not types:
        return []
    rows = [[f"`{name}`", *(_share(counts.get((b, name))) for b in backends)] for name in types]
    return ["## By element type", "", *_markdown_table(["type", *backends], rows), ""]


def _markdown_trend(trends: Mapping[str, Sequence[Point]]) -> list[str]:
    rows = [
        [backend, point.date[:10], versions_line(point.versions), _share(point.outcomes)]
        for backend, points in trends.items()
        for point in points
    ]
    head = ["backend", "date", "versions", "passed"]
    return ["## Trend", "", *_markdown_table(head, rows), ""] if rows else []


def _markdown_runs(found: ResultSet) -> list[str]:
    rows = [
        [run.backend, versions_line(run.versions), run.date, machine_line(run)] for run in newest_runs(found)
    ]
    return _markdown_table(["backend", "versions", "date", "machine"], rows)


def versions_line(versions: Mapping[str, str]) -> str:
    """Return versions as one line of text."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def machine_line(run: RunInfo) -> str:
    """Return the machine of a run as one line of text."""
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
    table = _markdown_table(["case", "outcome", "message"], rows[:LISTED_CASES])
    summary = f"<summary>{html.escape(backend)}: {len(rows)} cases that did not pass</summary>"
    rest = len(rows) - LISTED_CASES
    more = ["", f"... and {rest} more, which the HTML page and the results file have."] if rest > 0 else []
    return ["<details>", summary, "", *table, *more, "", "</details>", ""]


def _cell(message: str) -> str:
    text = message if len(message) <= 160 else message[:157] + "..."
    # Code spans are the one place where Markdown leaves text alone; only these two characters end it.
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`" if text else ""


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
