"""`onnxref compare`, its options: where two runs part ways, node by node."""

from pathlib import Path
from typing import Annotated

import typer


def add_compare(app: typer.Typer) -> None:
    """Declare the command."""
    # Not at the top: that module calls this function.
    from ._app import AsJson, Dims, Inputs, LimitsPreset, Model, Preset, Seed, reported_errors

    @app.command("compare")
    def command(
        model: Model,
        other_model: Annotated[
            Path | None, typer.Argument(help="A second model, whose values are aligned by structure.")
        ] = None,
        against: Annotated[
            str | None,
            typer.Option(
                metavar="RUNNER",
                help="The side to judge: onnxruntime (or onnxruntime:disabled, :basic, :extended), "
                "onnx.reference, numba, numpy, another model, or recorded values (.npz, .safetensors, a "
                "folder). Left out: onnxruntime, or numpy for a second model.",
            ),
        ] = None,
        golden: Annotated[str, typer.Option(metavar="RUNNER", help="The side to trust.")] = "numpy",
        inputs: Inputs = None,
        dims: Dims = None,
        seed: Seed = 0,
        rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-3,
        atol: Annotated[
            float | None,
            typer.Option(help="Absolute tolerance. Left out: rtol times the root mean square of the value."),
        ] = None,
        first: Annotated[bool, typer.Option("--first", help="Stop at the first divergence.")] = False,
        local: Annotated[bool, typer.Option(help="Measure the error of each node alone too.")] = True,
        every: Annotated[
            bool, typer.Option("--all", help="Show every node, not only those that fail.")
        ] = False,
        memory: Annotated[int, typer.Option(min=1, help="MiB of values to hold at a time.")] = 256,
        fail: Annotated[bool, typer.Option("--fail", help="Exit with status 2 if the sides differ.")] = False,
        limits: Preset = LimitsPreset.default,
        json: AsJson = False,
    ) -> None:
        """Compare every value of two runs: which node is wrong, and which only inherited it."""
        from ._compare_command import compare_command

        with reported_errors():
            agree = compare_command(
                model,
                other_model,
                against=against or ("onnxruntime" if other_model is None else "numpy"),
                golden=golden,
                inputs=inputs or [],
                dims=dims or [],
                seed=seed,
                rtol=rtol,
                atol=atol,
                first=first,
                local=local,
                every=every,
                memory=memory,
                limits=limits.limits,
                as_json=json,
            )
        if fail and not agree:
            raise typer.Exit(2)
