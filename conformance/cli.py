"""`onnxref conformance`: the commands and their options; the work is imported when a command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onnxref import OnnxRefError

app = typer.Typer(help="Measure any ONNX backend, and compare what was measured.", no_args_is_help=True)
errors = Console(stderr=True)

BACKEND_HELP = (
    "numpy, numba, numba-constants or cupy (onnxref), onnxruntime, onnx.reference, "
    "package.module:Backend, or package.module:function(model_bytes, inputs). Repeat for several."
)
Backends = Annotated[list[str], typer.Option("--backend", "-b", metavar="NAME", help=BACKEND_HELP)]
Releases = Annotated[
    list[str] | None,
    typer.Option(
        "--release", metavar="VERSION", help="A past onnx release: version, wheel or folder. Repeat."
    ),
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one case.")]
Memory = Annotated[int, typer.Option(min=0, help="Memory of a worker in MiB; 0 is no limit.")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Results files; the later ones win.")]


@contextmanager
def _reported_errors() -> Iterator[None]:
    try:
        yield
    except OnnxRefError as error:
        errors.print(f"[bold red]{type(error).__name__}[/]:", end=" ")
        errors.print(" ".join(str(error).split()), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


@app.command()
def run(
    backends: Backends,
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            "-s",
            help="official, releases, types, versions or all. Repeat for several. [default: official]",
        ),
    ] = None,
    releases: Releases = None,
    pattern: Annotated[
        str, typer.Option("--filter", help="Only cases whose name contains this regular expression.")
    ] = "",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Worker processes. [default: CPUs]")
    ] = None,
    timeout: Timeout = 60.0,
    memory: Memory = 4096,
    out: Annotated[Path | None, typer.Option(help="Append results to this file, as JSON lines.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip what the file has for these versions.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="Exit with status 1 if a case that passed in this file does not now.")
    ] = None,
) -> None:
    """Run suites on backends, in worker processes that are replaced when one dies."""
    from ._commands import run_command

    if suites is None and not releases:
        suites = ["official"]
    with _reported_errors():
        worse = run_command(
            backends,
            suites or [],
            releases or [],
            pattern=pattern,
            jobs=jobs,
            timeout=timeout,
            memory=memory,
            out=out,
            resume=resume,
            baseline=baseline,
        )
    raise typer.Exit(1 if worse else 0)


@app.command()
def report(
    files: Files,
    markdown: Annotated[Path | None, typer.Option(help="Write the scoreboard as Markdown.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write it as one HTML page that needs nothing else.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="Show the differences from this file.")] = None,
) -> None:
    """Summarise results: in the terminal, as Markdown, as an HTML page."""
    from ._commands import report_command

    with _reported_errors():
        report_command(files, markdown=markdown, html=html, baseline=baseline)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="A results file.")],
    new: Annotated[Path, typer.Argument(help="A later one.")],
) -> None:
    """Show the cases whose outcome differs; status 1 if one is worse."""
    from ._commands import diff_command

    with _reported_errors():
        worse = diff_command(old, new)
    raise typer.Exit(1 if worse else 0)


CaseName = Annotated[
    str, typer.Argument(help="Such as test_abs, node/test_abs or release-1.4.1/node/test_abs.")
]


@app.command()
def case(name: CaseName, backends: Backends, releases: Releases = None, timeout: Timeout = 60.0) -> None:
    """Run one case again and show where the outputs differ; status 1 if it does not pass."""
    from ._commands import case_command

    with _reported_errors():
        passed = case_command(name, backends, releases or [], timeout=timeout)
    raise typer.Exit(0 if passed else 1)


@app.command()
def export(
    name: CaseName,
    folder: Annotated[Path, typer.Argument(help="The case becomes a folder of its name in here.")],
    releases: Releases = None,
) -> None:
    """Write a case in the layout of the official tests."""
    from ._commands import export_command

    with _reported_errors():
        export_command(name, folder, releases or [])


@app.command()
def fuzz(
    backends: Backends,
    operators: Annotated[
        list[str] | None,
        typer.Option("--operator", help="Operator, or chain. Repeat for several. [default: all]"),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Cases to draw for each operator.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same cases.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after this time; 0 is no limit.")] = 0.0,
    opset: Annotated[int, typer.Option(min=13, help="Version of ai.onnx.")] = 23,
    refusals: Annotated[
        bool, typer.Option("--refusals", help="Save where one backend refuses what another runs.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for what is found.")] = Path("fuzz"),
) -> None:
    """Draw cases and compare backends with the first one; status 1 if something new is found."""
    with _reported_errors():
        from .fuzz import FuzzOptions, fuzz_command

        options = FuzzOptions(
            operators=tuple(operators or ()),
            examples=examples,
            seed=seed,
            seconds=seconds,
            opset=opset,
            refusals=refusals,
        )
        found = fuzz_command(backends, options, out)
    raise typer.Exit(1 if found else 0)
