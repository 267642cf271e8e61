"""What the commands of `onnxref conformance` do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from .adjudications import adjudications, with_right_outputs
from .cases import Case, write_case
from .errors import ResultsError, SuiteError
from .page import to_html
from .report import STYLES, print_changes, print_summary, to_markdown
from .results import Result, ResultSet, ResultsWriter, RunInfo, load_results
from .runner import MIB, Reply, RunOptions, probe, run_cases
from .suites import SUITES, collect, find_case
from .summary import differences, regressions, trend

SHOWN = 20  # differing elements that `case` lists


def run_command(
    backends: Sequence[str],
    suites: Sequence[str],
    releases: Sequence[str],
    *,
    pattern: str,
    jobs: int | None,
    timeout: float,
    memory: int,
    out: Path | None,
    resume: bool,
    baseline: Path | None,
) -> bool:
    """Run, write and summarise; return whether a case got worse than in the baseline."""
    options = RunOptions(jobs=jobs or os.cpu_count() or 1, timeout=timeout, memory=memory * MIB)
    if resume and out is None:
        raise ResultsError("--resume needs --out, the file to go on with")
    expected = None if baseline is None else load_results(baseline)
    earlier = load_results(out) if resume and out is not None and out.exists() else ResultSet()
    runs = [RunInfo.now(backend, probe(backend, options)) for backend in dict.fromkeys(backends)]
    chosen = SUITES if "all" in suites else suites
    cases = [case for case in collect(chosen, releases) if _matcher(pattern)(case.id)]
    if not cases:
        raise SuiteError(f"no case matches {pattern!r}")
    found = _run_all(runs, cases, options, earlier, out)
    worse = [] if expected is None else regressions(expected, found)
    print_summary(Console(), found, worse)
    return bool(worse)


def _matcher(pattern: str) -> Callable[[str], object]:
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise SuiteError(f"--filter must be a regular expression (got {pattern!r}: {error})") from error


def _run_all(
    runs: Sequence[RunInfo], cases: Sequence[Case], options: RunOptions, earlier: ResultSet, out: Path | None
) -> ResultSet:
    """Run what is not finished yet; return the results of now, and the finished ones of these cases."""
    found = ResultSet()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        writer = None if out is None else stack.enter_context(ResultsWriter(out))
        progress = stack.enter_context(
            Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True), transient=True)
        )
        for run in runs:
            finished = earlier.finished(run.backend, run.versions)
            _keep(found, earlier, run.backend, finished & {case.id for case in cases})
            pending = [case for case in cases if case.id not in finished]
            task = progress.add_task(run.backend, total=len(cases), completed=len(cases) - len(pending))
            found.add(run)
            if writer and pending:
                writer.write(run)
            for case, reply in run_cases(run.backend, with_right_outputs(pending), options):
                result = make_result(run, case, reply)
                found.add(result)
                if writer:
                    writer.write(result)
                progress.advance(task)
    return found


def _keep(found: ResultSet, earlier: ResultSet, backend: str, names: set[str]) -> None:
    for name in names:
        result = earlier.results[backend, name]
        found.add(earlier.runs[result.run])
        found.add(result)


def make_result(run: RunInfo, case: Case, reply: Reply) -> Result:
    """Return a worker's reply as a result, with the adjudication of the case where there is one."""
    entry = adjudications().get(case.id)
    adjudicated = entry is not None
    explained = entry is not None and entry.explains(reply["outcome"], reply.get("right", False))
    return Result(
        run=run.run,
        backend=run.backend,
        suite=case.suite,
        group=case.group,
        case=case.name,
        operator=case.operator,
        domain=case.domain,
        opset=case.opset,
        type=type_of(case),
        outcome="adjudicated" if explained else reply["outcome"],
        message=reply["message"],
        max_ulp=reply.get("max_ulp"),
        max_abs=reply.get("max_abs"),
        seconds=reply["seconds"],
        adjudicated=adjudicated,
        was=reply["outcome"] if explained else "",
        nodes=reply.get("nodes", 0),
        native=reply.get("native", 0),
    )


def type_of(case: Case) -> str:
    """Return the element type that a case tests; one of the `types` suite has it at the end of its name."""
    return case.name.rpartition("-")[2] if case.suite == "types" else case.type


def report_command(
    files: Sequence[Path], *, markdown: Path | None, html: Path | None, baseline: Path | None
) -> None:
    """Print the summary and write the pages that were asked for."""
    sets = [load_results(path) for path in files]
    found = ResultSet()
    for one in sets:
        found.update(one)
    old = None if baseline is None else load_results(baseline)
    changes = [] if old is None else differences(old, found)
    trends = trend(sets)
    print_summary(Console(), found, changes)
    if markdown is not None:
        _write_page(markdown, to_markdown(found, changes, trends))
    if html is not None:
        _write_page(html, to_html(found, changes, trends))


def _write_page(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"cannot write {str(path)!r}: {error.strerror}") from error


def diff_command(old: Path, new: Path) -> bool:
    """Print the differences of two results files; return whether one is for the worse."""
    changes = differences(load_results(old), load_results(new))
    print_changes(Console(), changes)
    return any(change.kind == "worse" for change in changes)


def case_command(name: str, backends: Sequence[str], releases: Sequence[str], *, timeout: float) -> bool:
    """Run one case on each backend and print where it differs; return whether all passed."""
    case = find_case(name, releases)
    options = RunOptions(timeout=timeout)
    console = Console()
    passed = True
    for backend in backends:
        probe(backend, options)
        for _, reply in run_cases(backend, with_right_outputs([case]), options, shown=SHOWN):
            _print_case(console, backend, case, reply)
            passed &= reply["outcome"] == "passed"
    entry = adjudications().get(case.id)
    if entry is not None:
        text = f"Adjudicated.\nExpects: {entry.expects}\nSpecification: {entry.spec}\nWhy: {entry.why}"
        console.print(Text(text, style="cyan"))
    return passed


def _print_case(console: Console, backend: str, case: Case, reply: Reply) -> None:
    outcome = reply["outcome"]
    if reply.get("right"):
        reply["message"] += "; these are the outputs that the case should expect"
    console.print(Text(f"{backend}  {case.id}: "), Text(outcome, style=STYLES[outcome]), sep="")
    if reply["message"]:
        console.print(Text(reply["message"]))
    units = {"max_ulp": "ulp", "max_abs": "absolute"}
    sizes = [f"{reply[name]:g} {unit}" for name, unit in units.items() if reply.get(name) is not None]
    if sizes:
        console.print(f"largest error: {', '.join(sizes)}", highlight=False)
    if reply.get("differences"):
        table = Table(header_style="bold cyan")
        for column in ("where", "expected", "actual"):
            table.add_column(column, overflow="fold")
        for row in reply["differences"]:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


def export_command(name: str, folder: Path, releases: Sequence[str]) -> None:
    """Write one case as a folder."""
    case = find_case(name, releases)
    write_case(case, folder / case.name)
    Console().print(f"wrote {folder / case.name}", soft_wrap=True, highlight=False)
