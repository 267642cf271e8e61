"""`onnxref bisect`: which optimisation makes a model diverge."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from ._tables import table

if TYPE_CHECKING:
    from ..debug._bisect import Bisection, Trial


def add_bisect(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command()
    def bisect(
        model: Model,
        backend: Annotated[
            str, typer.Option(help="numba: our passes; onnxruntime: its levels and optimisers.")
        ] = "numba",
        against: Annotated[
            str, typer.Option(metavar="RUNNER", help="The golden side, such as onnxruntime:disabled.")
        ] = "numpy",
        rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-3,
        atol: Annotated[
            float | None, typer.Option(help="Absolute tolerance; left out: by the size of the values.")
        ] = None,
        fail: Annotated[bool, typer.Option("--fail", help="Exit with status 2 if it diverges.")] = False,
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Find the optimisation whose switching off makes a divergence vanish."""
        from ..debug._bisect import bisect
        from ..debug._errors_between import Tolerance
        from ..model import load_model
        from ._feeds import make_feeds

        with reported_errors():
            loaded = load_model(model, limits.limits)
            console = Console(stderr=True)
            with console.status("running", spinner="line") as status:

                def progress(trial: "Trial") -> None:
                    if console.is_terminal:
                        status.update(Text(f"without {trial.label}: {trial.verdict}"))

                found = bisect(
                    loaded,
                    make_feeds(loaded.graph, inputs or [], dims or [], seed),
                    backend,
                    against,
                    tolerance=Tolerance(rtol, atol),
                    limits=limits.limits,
                    progress=progress,
                )
            _show(found, as_json=json)
            if fail and found.diverges:
                raise typer.Exit(2)


def _show(found: "Bisection", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.to_json()))
        return
    console = Console()
    columns = ("switched off", "verdict", "output", "off by")
    console.print(table(f"{found.backend} against {found.against}", columns, found.rows()))
    console.print(Text(found.summary))
