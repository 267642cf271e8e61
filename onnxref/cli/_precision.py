"""`onnxref precision`, its options: where a model loses accuracy, and what fewer bits would cost."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError


def add_precision(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command("precision")
    def command(
        model: Model,
        simulated: Annotated[
            str | None,
            typer.Option(
                "--what-if",
                metavar="TYPE",
                help="Round the inputs and outputs of nodes to fp16, bf16, e4m3, e5m2 (float8) or int8.",
            ),
        ] = None,
        nodes: Annotated[
            list[str] | None, typer.Option("--nodes", metavar="GLOB", help="Nodes that --what-if simulates.")
        ] = None,
        op_types: Annotated[
            list[str] | None, typer.Option("--op", metavar="TYPE", help="Operators that --what-if simulates.")
        ] = None,
        each: Annotated[bool, typer.Option("--each", help="Also simulate each of them alone.")] = False,
        against: Annotated[
            Path | None,
            typer.Option(
                metavar="FLOAT_MODEL", help="The original of a quantised model: compare layer by layer."
            ),
        ] = None,
        by: Annotated[str, typer.Option(help="Rank by own or total error, or by condition.")] = "own",
        top: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
        condition: Annotated[bool, typer.Option(help="Estimate the condition of every node.")] = True,
        max_ulp: Annotated[
            float | None, typer.Option(help="With --fail: largest own error of a node, in ulp.")
        ] = None,
        min_snr: Annotated[
            float | None, typer.Option(help="With --fail: smallest SNR of an output, in dB.")
        ] = None,
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        fail: Annotated[bool, typer.Option("--fail", help="Exit with status 2 beyond the bounds.")] = False,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Show where a model loses accuracy, against float64 or against its original."""
        from ._precision_command import precision_command

        with reported_errors():
            if fail and max_ulp is None and min_snr is None:
                raise InputError("--fail needs a bound: --max-ulp or --min-snr")
            passed = precision_command(
                model,
                simulated=simulated,
                nodes=nodes,
                op_types=op_types,
                each=each,
                against=against,
                by=by,
                top=top,
                condition=condition,
                max_ulp=max_ulp,
                min_snr=min_snr,
                inputs=inputs or [],
                dims=dims or [],
                seed=seed,
                limits=limits.limits,
                as_json=json,
            )
        if fail and not passed:
            raise typer.Exit(2)
