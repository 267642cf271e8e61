"""`onnxref nan`: find the first node that makes a NaN, an infinity or a float16 overflow."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ._tables import number, table

if TYPE_CHECKING:
    from ..debug._nan import NanReport
    from ..limits import Limits

_FAILED = 2  # exit status of a check that failed


def add_nan(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command()
    def nan(
        model: Model,
        half: Annotated[
            bool, typer.Option(help="Look for what float16 cannot hold, and for nodes to keep in float32.")
        ] = True,
        most: Annotated[int, typer.Option(min=1, help="Elements of each finding to explain.")] = 5,
        fail: Annotated[
            bool, typer.Option("--fail", help="Exit with status 2 if anything is found.")
        ] = False,
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Find the first node that makes a NaN, an infinity or a float16 overflow, and from what."""
        with reported_errors():
            found = nan_command(
                model,
                inputs or [],
                half=half,
                most=most,
                dims=dims or [],
                seed=seed,
                limits=limits.limits,
                as_json=json,
            )
        if fail and found:
            raise typer.Exit(_FAILED)


def nan_command(
    model: Path,
    inputs: Sequence[str],
    *,
    half: bool,
    most: int,
    dims: Sequence[str],
    seed: int,
    limits: "Limits",
    as_json: bool,
) -> bool:
    """Run the model and show what was found; return whether a NaN, infinity or overflow was.

    Nodes that would only lose precision in float16 are shown, and are no finding.
    """
    from ..debug._nan import find_nan
    from ..model import load_model
    from ._feeds import make_feeds

    loaded = load_model(model, limits)
    report = find_nan(
        loaded, make_feeds(loaded.graph, inputs, dims, seed), half=half, most=most, limits=limits
    )
    if as_json:
        print(json.dumps(None if report is None else report.to_json(), allow_nan=False))
    elif report is None:
        also = ", and all of it fits into float16" if half else ""
        text = f"{model.name}: no node made a NaN or an infinity{also}"
        Console().print(text, markup=False, highlight=False)
    else:
        _show(model, report)
    return report is not None and report.failed


def _show(model: Path, report: "NanReport") -> None:
    console = Console()

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    if not report.findings:
        line(f"{model.name}: none of {report.nodes} nodes made a NaN, an infinity or a float16 overflow")
    for fault in report.given:
        line(str(fault), "yellow")
    for finding in report.findings:
        line(finding.title, "bold red")
        for cause in finding.causes:
            line(f"  {cause}")
    if report.error is not None:
        line(f"the run ended early: {report.error}", "bold red")
    if report.keep_float32:
        rows = [(k.path, k.op_type, number(k.largest), "; ".join(k.reasons)) for k in report.keep_float32]
        title = f"{len(rows)} nodes to keep in float32"
        console.print(table(title, ("node", "operator", "largest", "why"), rows))
