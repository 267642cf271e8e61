"""`onnxref reduce`: a failing model made as small as possible."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ._tables import table

if TYPE_CHECKING:
    from ..debug._reduce import Progress as Reached
    from ..debug._reduce import Reduction


def add_reduce(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command()
    def reduce(
        model: Model,
        check: Annotated[
            str | None,
            typer.Option(
                metavar="COMMAND",
                help="Shell command that exits with status 0 while the model still fails; {} in it becomes "
                "the folder of the candidate: model.onnx, test_data_set_0/input_0.pb ...",
            ),
        ] = None,
        against: Annotated[
            str | None,
            typer.Option(metavar="RUNNER", help="In place of a command: the golden side, such as numpy."),
        ] = None,
        backend: Annotated[
            str, typer.Option(metavar="RUNNER", help="With --against: the side that is wrong.")
        ] = "numba",
        rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-3,
        atol: Annotated[
            float | None, typer.Option(help="Absolute tolerance; left out: by the size of the values.")
        ] = None,
        out: Annotated[Path, typer.Option(help="The folder to write the smallest model into.")] = Path(
            "reduced"
        ),
        trials: Annotated[int, typer.Option(min=1, help="Most candidates to try.")] = 1000,
        seconds: Annotated[float, typer.Option(min=0, help="Most time to take.")] = 600,
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Shrink a failing model while it keeps failing."""
        from ..debug._errors_between import Tolerance
        from ..debug._reduce import Diverges, ShellCheck, reduce
        from ..errors import InputError
        from ..model import load_model
        from ._feeds import make_feeds

        with reported_errors():
            if (check is None) == (against is None):
                raise InputError("give either --check or --against")
            still_fails: ShellCheck | Diverges
            if check is not None:
                still_fails = ShellCheck(check, seconds)
            else:
                still_fails = Diverges(backend, against, Tolerance(rtol, atol))
            loaded = load_model(model, limits.limits)
            feeds = make_feeds(loaded.graph, inputs or [], dims or [], seed)
            with _bar(trials) as progress:
                found = reduce(
                    loaded,
                    feeds,
                    still_fails,
                    trials=trials,
                    seconds=seconds,
                    limits=limits.limits,
                    progress=progress,
                )
            found.save(out)
            _show(found, out, as_json=json)


@contextmanager
def _bar(trials: int) -> Iterator[Callable[["Reached"], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # In a file or a pipe the bar would leave an empty line behind.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("trials", total=trials)

        def reached(now: "Reached") -> None:
            what = now.what.replace("[", r"\[")
            progress.update(task, completed=now.trials, description=f"{now.nodes} nodes: {what}")

        yield reached


def _show(found: "Reduction", out: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.to_json() | {"folder": str(out)}))
        return
    console = Console()
    console.print(table(found.summary, ("node", "operator", "inputs", "outputs"), found.rows()))
    for step in found.steps:
        console.print(Text(f"  {step}"))
    console.print(Text(f"written to {out}"), soft_wrap=True)
