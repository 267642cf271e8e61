"""`onnxref repro`: a node or a part of a model, with its actual inputs, as a folder with a script."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ._tables import table

if TYPE_CHECKING:
    from ..debug._repro import Repro


def add_repro(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command()
    def repro(
        model: Model,
        node: Annotated[
            str | None,
            typer.Argument(help="Path of a node or of a value that it makes: conv_3, loop[3]/body/Add_2."),
        ] = None,
        last: Annotated[
            str | None, typer.Option("--to", metavar="NODE", help="Take all nodes from there to this one.")
        ] = None,
        values: Annotated[
            list[str] | None,
            typer.Option("--value", help="In place of a node: what computes this value. Repeat as needed."),
        ] = None,
        starts: Annotated[
            list[str] | None,
            typer.Option("--from-value", help="With --value: stop at this value. Repeat as needed."),
        ] = None,
        out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("repro"),
        backend: Annotated[
            list[str] | None,
            typer.Option(help="Backend of the script; give two. Left out: numpy and onnxruntime."),
        ] = None,
        rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-3,
        atol: Annotated[
            float | None, typer.Option(help="Absolute tolerance; left out: by the size of the values.")
        ] = None,
        fail: Annotated[
            bool, typer.Option("--fail", help="Exit with status 2 if a backend differs from the run.")
        ] = False,
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Write a node, or a part of a model, with its actual inputs and a script that runs it."""
        from ..debug._errors_between import Tolerance
        from ..debug._repro import repro, repro_values
        from ..errors import InputError
        from ..model import load_model
        from ._feeds import make_feeds

        with reported_errors():
            loaded = load_model(model, limits.limits)
            feeds = make_feeds(loaded.graph, inputs or [], dims or [], seed)
            tolerance, backends = Tolerance(rtol, atol), backend or ["numpy", "onnxruntime"]
            if (node is None) == (not values):
                raise InputError("give either a node or --value")
            if node is not None:
                found = repro(
                    loaded,
                    feeds,
                    node,
                    out,
                    last=last,
                    backends=backends,
                    tolerance=tolerance,
                    limits=limits.limits,
                )
            else:
                found = repro_values(
                    loaded,
                    feeds,
                    values or [],
                    out,
                    inputs=starts or [],
                    backends=backends,
                    tolerance=tolerance,
                    limits=limits.limits,
                )
            _show(found, as_json=json)
            if fail and not found.passed:
                raise typer.Exit(2)


def _show(found: "Repro", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.to_json()))
        return
    columns = ("backend", "output", "off from the run by")
    Console().print(table(found.summary, columns, found.rows()))
