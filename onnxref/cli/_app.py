"""The commands and their options; each command's work is in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import __version__
from ..conformance.cli import app as conformance
from ..errors import OnnxRefError
from ..limits import DEFAULT, TRUSTED, UNTRUSTED, Limits

app = typer.Typer(
    help="Run, inspect and check ONNX models by the letter of the specification.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(conformance, name="conformance")
errors = Console(stderr=True)


class LimitsPreset(StrEnum):
    """Names of the presets of `onnxref.Limits`."""

    default = "default"
    trusted = "trusted"
    untrusted = "untrusted"

    @property
    def limits(self) -> Limits:
        return {"default": DEFAULT, "trusted": TRUSTED, "untrusted": UNTRUSTED}[self.value]


Model = Annotated[Path, typer.Argument(help="The model: .onnx, .onnxtxt, .json or .textproto.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Preset = Annotated[LimitsPreset, typer.Option("--limits", help="How far the model is trusted.")]


@contextmanager
def reported_errors() -> Iterator[None]:
    """Show an error that onnxref raised on purpose as one line, with exit status 1."""
    try:
        yield
    except OnnxRefError as error:
        errors.print(f"[bold red]{type(error).__name__}[/]:", end=" ")
        errors.print(" ".join(str(error).split()), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _version(wanted: bool) -> None:
    if wanted:
        print(f"onnxref {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def run(
    model: Model,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=SOURCE",
            help="An input: a .npy, .npz, .pb, .json or image file, JSON text, or 'random'. "
            "A bare FILE.npz gives every input that it has an array for. Repeat as needed; "
            "the name may be left out for a model with one input.",
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", help="Fetch this value, of any in the graph. Repeat as needed."),
    ] = None,
    dims: Annotated[
        list[str] | None,
        typer.Option("--dim", metavar="NAME=SIZE", help="Size of a named dimension for random inputs."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random inputs.")] = 0,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the outputs: a .npz file, or a folder that gets one .npy or .json each."),
    ] = None,
    backend: Annotated[str, typer.Option(help="Kernel set to use.")] = "auto",
    limits: Preset = LimitsPreset.default,
    json: AsJson = False,
) -> None:
    """Run a model and summarise its outputs."""
    from ._run import run_command

    with reported_errors():
        run_command(
            model,
            inputs or [],
            outputs=outputs or None,
            dims=dims or [],
            seed=seed,
            save=save,
            backend=backend,
            limits=limits.limits,
            as_json=json,
        )


@app.command()
def inspect(
    model: Model,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every node.")] = False,
    limits: Preset = LimitsPreset.default,
    json: AsJson = False,
) -> None:
    """Show what a model is made of."""
    from ._inspect import inspect_command

    with reported_errors():
        inspect_command(model, list_nodes=nodes, limits=limits.limits, as_json=json)


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(help="An operator, such as Conv.")] = None,
    json: AsJson = False,
) -> None:
    """Show which operators, versions, types and backends are implemented."""
    from ._ops import ops_command

    with reported_errors():
        ops_command(name, as_json=json)
