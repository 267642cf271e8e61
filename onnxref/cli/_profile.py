"""`onnxref profile`: where a run spends its time and its memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from ._tables import byte_count, table

if TYPE_CHECKING:
    from ..debug._profile import Profile
    from ..limits import Limits

# Tables that go beside the one of ops.
_SHARES = {"operator": "by_operator", "kernel": "by_kernel", "module": "by_module"}


def add_profile(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command()
    def profile(
        model: Model,
        runs: Annotated[int, typer.Option(min=1, help="Timed runs; times are their medians.")] = 10,
        backend: Annotated[
            Literal["auto", "numba", "numpy"],
            typer.Option(help="Kernel set to time; auto is numba, with its code compiled first."),
        ] = "auto",
        trace: Annotated[
            Path | None,
            typer.Option(metavar="FILE.json", help="Write one run for Perfetto and chrome://tracing."),
        ] = None,
        top: Annotated[int, typer.Option(min=1, help="Rows of each table.")] = 20,
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Show the time of every node, operator and kernel, and what is in memory at the peak."""
        with reported_errors():
            profile_command(
                model,
                inputs or [],
                runs=runs,
                backend=backend,
                trace=trace,
                top=top,
                dims=dims or [],
                seed=seed,
                limits=limits.limits,
                as_json=json,
            )


def profile_command(
    model: Path,
    inputs: Sequence[str],
    *,
    runs: int,
    backend: str,
    trace: Path | None,
    top: int,
    dims: Sequence[str],
    seed: int,
    limits: "Limits",
    as_json: bool,
) -> None:
    """Profile a model, print it, and write the trace where asked."""
    from ..debug._profile import profile
    from ..model import load_model
    from ._feeds import make_feeds

    loaded = load_model(model, limits)
    feeds = make_feeds(loaded.graph, inputs, dims, seed)
    console = Console(stderr=True)
    with console.status("compiling and running" if backend != "numpy" else "running"):
        found = profile(model, feeds, runs=runs, backend=backend, limits=limits)
    if trace is not None:
        found.save_trace(trace)
    if as_json:
        print(json.dumps(found.to_json()))
        return
    _print(found, top)
    if trace is not None:
        left = f" ({found.dropped:,} later events left out)" if found.dropped else ""
        text = f"trace written to {trace}{left}: open it in https://ui.perfetto.dev"
        Console().print(text, highlight=False, markup=False, soft_wrap=True)


def _print(found: "Profile", top: int) -> None:
    from ..debug._profile import COLUMNS

    console = Console()
    console.print(table(found.summary(), COLUMNS, found.rows(top)))
    if len(found.ops) > top:
        console.print(f"and {len(found.ops) - top:,} more ops", highlight=False)
    for name, method in _SHARES.items():
        shares = getattr(found, method)()
        if shares:
            cells = [(s.name, s.ops, f"{s.seconds * 1e3:.3f}", f"{s.share:.1%}") for s in shares[:top]]
            console.print(table(f"by {name}", (name, "ops", "ms", "share"), cells))
    memory = found.memory
    cells = [
        (value.name, value.producer, value.type, byte_count(value.bytes)) for value in memory.alive[:top]
    ]
    title = f"alive at the peak of {byte_count(memory.peak_bytes)}, at {memory.peak_path or 'no node'}"
    console.print(table(title, ("value", "made by", "type", "size"), cells))
    parts = [f"inputs {byte_count(memory.input_bytes)}", f"weights {byte_count(memory.weight_bytes)}"]
    parts += [f"arena {byte_count(memory.arena_bytes)}"] if memory.arena_bytes else []
    console.print(f"besides: {', '.join(parts)}", highlight=False)
