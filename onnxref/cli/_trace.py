"""`onnxref trace`: the statistics of every value of a run, inside of subgraphs and functions too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from ._tables import table

if TYPE_CHECKING:
    from ..debug._trace import Trace, TracedValue
    from ..limits import Limits


def add_trace(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command()
    def trace(
        model: Model,
        values: Annotated[
            list[str] | None,
            typer.Option(
                metavar="GLOB", help="Show values whose path or name matches; repeat as needed. All: '*'."
            ),
        ] = None,
        op: Annotated[
            list[str] | None,
            typer.Option(metavar="TYPE", help="Only what these operators make, such as Conv."),
        ] = None,
        node: Annotated[
            list[str] | None,
            typer.Option(metavar="GLOB", help="Only what nodes with such a path or name make."),
        ] = None,
        outputs: Annotated[
            list[str] | None,
            typer.Option("--output", "-o", help="Run only what these values need."),
        ] = None,
        initializers: Annotated[
            bool, typer.Option("--initializers", help="Show the main graph's initializers too.")
        ] = False,
        save: Annotated[
            Path | None,
            typer.Option(help="Write the values: a .npz or .safetensors file, or a folder of test data."),
        ] = None,
        format_: Annotated[
            Literal["npz", "safetensors", "official"] | None,
            typer.Option("--format", help="Format to save in; left out: by the name."),
        ] = None,
        backend: Annotated[
            str, typer.Option(help="numpy sees every node; of others the main graph's values are fetched.")
        ] = "numpy",
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Show the statistics of every value of a run, or of some; inputs that are not given are random."""
        with reported_errors():
            trace_command(
                model,
                inputs or [],
                selection={"values": values or "*", "op_types": op, "nodes": node},
                options={"outputs": outputs, "initializers": initializers, "backend": backend},
                save=save,
                kind=format_,
                dims=dims or [],
                seed=seed,
                limits=limits.limits,
                as_json=json,
            )


def trace_command(
    model: Path,
    inputs: Sequence[str],
    *,
    selection: dict[str, Any],
    options: dict[str, Any],
    save: Path | None,
    kind: Any,
    dims: Sequence[str],
    seed: int,
    limits: "Limits",
    as_json: bool,
) -> None:
    """Run the model, print the statistics as they come, and save the values where asked.

    A node's failure is shown behind what was seen before it, with exit status 1.
    """
    from ..debug._trace import trace
    from ..model import load_model
    from ._feeds import make_feeds

    loaded = load_model(model, limits)
    feeds = make_feeds(loaded.graph, inputs, dims, seed)
    found = trace(
        loaded,
        feeds,
        **selection,
        **options,
        store=save,
        store_format=kind,
        limits=limits,
        errors="keep",
    )
    if as_json:
        print(json.dumps(found.to_json(), allow_nan=False))
    else:
        _show(model, found)
    if found.error is not None:
        raise found.error


def _show(model: Path, found: "Trace") -> None:
    from ..debug._trace import COLUMNS

    rows = [_row(value) for value in found]
    columns = (*COLUMNS, "histogram")
    Console().print(table(f"{model.name}: {found.title}", columns, rows))


def _row(value: "TracedValue") -> tuple[str, ...]:
    bins = value.statistics.histogram
    return (*value.cells(), "" if bins is None else bins.coarse(8))
