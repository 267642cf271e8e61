"""`onnxref report`: everything about a model and one of its runs, as one HTML file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from ..limits import Limits


def add_report(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command()
    def report(
        model: Model,
        out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="The file to write.")] = Path(
            "report.html"
        ),
        against: Annotated[
            str | None,
            typer.Option(metavar="RUNNER", help="Compare every value with onnxruntime, numba, a model ..."),
        ] = None,
        precision: Annotated[
            bool, typer.Option("--precision", help="Measure rounding errors against float64 too.")
        ] = False,
        backend: Annotated[
            Literal["auto", "numba", "numpy"], typer.Option(help="Kernel set to time; auto is numba.")
        ] = "auto",
        runs: Annotated[int, typer.Option(min=1, help="Timed runs.")] = 10,
        graph_only: Annotated[bool, typer.Option("--graph-only", help="Do not run the model.")] = False,
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Write one HTML file: the graph by time, memory and error, and all about each node."""
        with reported_errors():
            report_command(
                model,
                inputs or [],
                out=out,
                against=against,
                precision=precision,
                backend=backend,
                runs=runs,
                graph_only=graph_only,
                dims=dims or [],
                seed=seed,
                limits=limits.limits,
                as_json=json,
            )


def report_command(
    model: Path,
    inputs: Sequence[str],
    *,
    out: Path,
    against: str | None,
    precision: bool,
    backend: str,
    runs: int,
    graph_only: bool,
    dims: Sequence[str],
    seed: int,
    limits: "Limits",
    as_json: bool,
) -> None:
    """Run the tools that are asked for, and write what they find."""
    from ..debug._report import write_report
    from ..model import load_model
    from ._feeds import make_feeds

    graph = load_model(model, limits).graph
    found: dict[str, Any] = {}
    if not graph_only:
        feeds = make_feeds(graph, inputs, dims, seed)
        found = _measured(
            model, feeds, limits, against=against, precision=precision, backend=backend, runs=runs
        )
    written = write_report(out, model, **found, limits=limits)
    error = getattr(found.get("trace"), "error", None)
    if as_json:
        print(json.dumps({"report": str(written), "bytes": written.stat().st_size, "parts": sorted(found)}))
    else:
        text = f"{model.name}: {', '.join(['graph', *found])} written to {written}"
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
    if error is not None:
        raise error


def _measured(
    model: Path,
    feeds: dict[str, Any],
    limits: "Limits",
    *,
    against: str | None,
    precision: bool,
    backend: str,
    runs: int,
) -> dict[str, Any]:
    """Return the results by the names that `write_report` has for them."""
    from ..debug import _compare, _precision, _profile, _trace

    found: dict[str, Any] = {}
    with Console(stderr=True).status("tracing") as status:
        traced = found["trace"] = _trace.trace(model, feeds, limits=limits, errors="keep")
        if traced.error is not None:
            return found  # the values up to there tell why
        status.update("profiling")
        found["profile"] = _profile.profile(model, feeds, runs=runs, backend=backend, limits=limits)
        if against is not None:
            status.update(f"comparing with {against}")
            found["comparison"] = _compare.compare(model, feeds, against, limits=limits)
        if precision:
            status.update("measuring rounding errors")
            found["precision"] = _precision.precision(model, feeds, limits=limits)
    return found
