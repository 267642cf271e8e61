"""The commands and their options; each command's work is in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

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
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=SOURCE",
        help="An input: a .npy, .npz, .pb, .json or image file, JSON text, or 'random'. "
        "A bare FILE.npz gives every input that it has an array for. Repeat as needed; "
        "the name may be left out for a model with one input.",
    ),
]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="Size of a named dimension for random inputs."),
]
Seed = Annotated[int, typer.Option(help="Seed of random inputs.")]
Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUNTIME",
        help="Compare with onnxruntime, openvino or onnx.reference; repeat as needed. "
        "Left out: with onnxruntime, if it is installed.",
    ),
]
Memory = Annotated[bool, typer.Option(help="Measure memory too, in a process for each side.")]


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
    inputs: Inputs = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", help="Fetch this value, of any in the graph. Repeat as needed."),
    ] = None,
    dims: Dims = None,
    seed: Seed = 0,
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


@app.command()
def bench(
    model: Model,
    against: Against = None,
    backend: Annotated[str, typer.Option(help="Kernel set to use: auto, numba or numpy.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of every side; left out: as many as each likes.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Size of the batch, where the model leaves it free.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed samples of each side.")] = 20,
    precision: Annotated[
        Literal["default", "strict", "bf16"],
        typer.Option(help="Of onnxref (and OpenVINO); the error of bf16 is shown beside the time."),
    ] = "default",
    inputs: Inputs = None,
    dims: Dims = None,
    seed: Seed = 0,
    memory: Memory = True,
    json: AsJson = False,
) -> None:
    """Time a model, next to other runtimes; inputs that are not given are random."""
    from ._bench import bench_command

    with reported_errors():
        bench_command(
            model,
            against=against,
            backend=backend,
            threads=threads,
            precision=precision,
            batch=batch,
            samples=runs,
            inputs=inputs or [],
            dims=dims or [],
            seed=seed,
            memory=memory,
            as_json=json,
        )


@app.command()
def warmup(
    model: Model,
    backend: Annotated[
        Literal["numba", "cupy"], typer.Option(help="Kernels of the processor, or of a GPU.")
    ] = "numba",
    inputs: Inputs = None,
    dims: Dims = None,
    seed: Seed = 0,
    limits: Preset = LimitsPreset.default,
    json: AsJson = False,
) -> None:
    """Compile a model's native code ahead, for the shapes of the inputs (random where not given)."""
    from ._native import warmup_command

    with reported_errors():
        warmup_command(
            model,
            inputs or [],
            backend=backend,
            dims=dims or [],
            seed=seed,
            limits=limits.limits,
            as_json=json,
        )


@app.command()
def explain(
    model: Model,
    backend: Annotated[
        Literal["numba", "cupy"], typer.Option(help="Kernels of the processor, or of a GPU.")
    ] = "numba",
    precision: Annotated[
        Literal["default", "strict", "bf16", "tf32"], typer.Option(help="As of an InferenceSession.")
    ] = "default",
    inputs: Inputs = None,
    dims: Dims = None,
    seed: Seed = 0,
    limits: Preset = LimitsPreset.default,
    json: AsJson = False,
) -> None:
    """Show what became of each node: fused, native, on the reference, and why not faster."""
    from ._native import explain_command

    with reported_errors():
        explain_command(
            model,
            inputs or [],
            backend=backend,
            precision=precision,
            dims=dims or [],
            seed=seed,
            limits=limits.limits,
            as_json=json,
        )


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all native code.")] = False,
    json: AsJson = False,
) -> None:
    """Show where native code is kept, and how much."""
    from ._native import cache_command

    with reported_errors():
        cache_command(clear=clear, as_json=json)


def _add_debugger() -> None:
    """Declare the debugger's commands; each one's options and work are in a file of its own."""
    from ._bisect import add_bisect
    from ._compare import add_compare
    from ._nan import add_nan
    from ._precision import add_precision
    from ._profile import add_profile
    from ._reduce import add_reduce
    from ._report import add_report
    from ._repro import add_repro
    from ._trace import add_trace

    for add in (
        add_trace,
        add_compare,
        add_nan,
        add_precision,
        add_bisect,
        add_reduce,
        add_repro,
        add_profile,
        add_report,
    ):
        add(app)


_add_debugger()
