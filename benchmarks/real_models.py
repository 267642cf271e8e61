"""Times onnxref against ONNX Runtime on real models; see README.md beside this file for the method.

python benchmarks/real_models.py                          # all models
python benchmarks/real_models.py silero ocr               # those with one of these words in their name
python benchmarks/real_models.py --with-onnx-reference    # also the onnx package's own evaluator
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

import onnxref

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from model_zoo import REAL_MODELS, Feeds, RealModel
from sklearn_models import register_tokenizer

IDLE = 0.1  # seconds of silence before each timed run: the other side's worker threads spin for a while
SLOW, FEW = 1.0, 5  # where a side takes more than SLOW seconds, both are run FEW times
REFERENCE_RUNS = 3
RELATIVE, OF_LARGEST = 1e-4, 1e-5  # as in tests/test_real_models.py

Run = Callable[[], Any]


@dataclass(frozen=True)
class Reference:
    """How onnx.reference did: the median of its runs in seconds, or the error that stopped it."""

    seconds: float | None = None
    runs: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Result:
    """Medians of one model, in seconds; `reference` is None where onnx.reference was not asked for."""

    model: str
    onnxref: float
    onnxruntime: float
    runs: int
    onnxref_load: float
    onnxruntime_load: float
    reference: Reference | None = None

    @property
    def ratio(self) -> float:
        return self.onnxref / self.onnxruntime


def timed(run: Run) -> tuple[float, Any]:
    """Return the seconds that `run` takes, and what it returns."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def open_onnxruntime(source: Path | bytes) -> Any:
    """Open a model with ONNX Runtime's defaults on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def check(ours: Sequence[Any], theirs: Sequence[Any], name: str) -> None:
    """Refuse to time outputs that differ.

    Raises:
        ValueError: an output is not the same.
    """
    for a, b in zip(ours, theirs, strict=True):
        if b.dtype.kind != "f":
            same = np.array_equal(a, b)
        else:
            same = np.allclose(a, b, rtol=RELATIVE, atol=OF_LARGEST * float(np.abs(b).max(initial=0)))
        if not same:
            raise ValueError(f"{name}: the outputs of onnxref and ONNX Runtime differ")


def interleave(sides: Sequence[Run], runs: int) -> list[list[float]]:
    """Time the sides in turn, with a pause before each run; return the times of each side."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(runs):
        for side, own in zip(sides, times, strict=True):
            time.sleep(IDLE)
            own.append(timed(side)[0])
    return times


def measure(model: RealModel, backend: str, runs: int, *, with_reference: bool) -> Result:
    """Load a model with every side, check the first call's outputs, and time that call."""
    source, feeds = model.model(), model.calls()[0]
    ours_load, ours = timed(lambda: onnxref.InferenceSession(source, backend=backend))
    theirs_load, theirs = timed(lambda: open_onnxruntime(source))
    sides = (lambda: ours.run(None, feeds), lambda: theirs.run(None, feeds))
    check(sides[0](), sides[1](), model.name)
    slowest = max(timed(side)[0] for side in sides)
    count = min(runs, FEW) if slowest > SLOW else runs
    medians = [statistics.median(times) for times in interleave(sides, count)]
    reference = measure_reference(source, feeds) if with_reference else None
    return Result(
        model=model.name,
        onnxref=medians[0],
        onnxruntime=medians[1],
        runs=count,
        onnxref_load=ours_load,
        onnxruntime_load=theirs_load,
        reference=reference,
    )


def measure_reference(source: Path | bytes, feeds: Feeds) -> Reference:
    """Return the median time of onnx.reference, or why it cannot run the model."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    with np.errstate(all="ignore"):
        try:
            evaluator = ReferenceEvaluator(model)
            first, _ = timed(lambda: evaluator.run(None, feeds))
        except Exception as error:  # noqa: BLE001  whatever it raises is the result of this column
            return Reference(error=f"{type(error).__name__}: {error}")
        if first > SLOW:
            return Reference(first, 1)
        times = interleave([lambda: evaluator.run(None, feeds)], REFERENCE_RUNS)[0]
    return Reference(statistics.median(times), REFERENCE_RUNS)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the mean of ratios."""
    return math.exp(statistics.fmean(map(math.log, values)))


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table and the mean."""
    with_reference = any(result.reference is not None for result in results)
    table = Table(title="milliseconds, medians", title_justify="left")
    table.add_column("model", overflow="fold")
    headings = ["onnxref", "ORT", "ratio", "runs", "load", "ORT load"]
    for heading in headings + ["onnx.reference"] * with_reference:
        table.add_column(heading, justify="right")
    for r in results:
        row = [milliseconds(r.onnxref), milliseconds(r.onnxruntime), f"{r.ratio:.1f}", str(r.runs)]
        row += [milliseconds(r.onnxref_load), milliseconds(r.onnxruntime_load)]
        if with_reference:
            seconds = r.reference.seconds if r.reference else None
            row.append("fails" if seconds is None else milliseconds(seconds))
        table.add_row(r.model, *row)
    console.print(table)
    ratios = [r.ratio for r in results]
    console.print(f"onnxref / ORT: geometric mean {geometric_mean(ratios):.2f}, largest {max(ratios):.1f}")
    if with_reference:
        gains = [r.reference.seconds / r.onnxref for r in results if r.reference and r.reference.seconds]
        if gains:
            console.print(f"onnx.reference / onnxref: geometric mean {geometric_mean(gains):.2f}")
        for r in results:
            if r.reference and r.reference.error:
                console.print(f"onnx.reference cannot run {r.model}: {r.reference.error}", markup=False)


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds with three digits that count."""
    value = seconds * 1e3
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value < 100 else f"{value:.0f}"


def environment(backend: str) -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {
        "onnxref": onnxref.__version__,
        "backend": backend,
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
    }


def main() -> int:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only models with one of these words in their name")
    parser.add_argument("--runs", type=int, default=20, help="timed runs per side and model (default 20)")
    parser.add_argument("--backend", default="numpy", help="onnxref's kernel set (default numpy)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--with-onnx-reference", action="store_true", help="time onnx.reference too")
    arguments = parser.parse_args()
    chosen = [m for m in REAL_MODELS if not arguments.words or any(w in m.name for w in arguments.words)]
    if not chosen or arguments.runs < 1:
        parser.error(
            "--runs must be at least 1, and the words must fit a model: "
            + ", ".join(sorted(m.name for m in REAL_MODELS))
        )
    register_tokenizer()
    console = Console()
    results = []
    for model in chosen:
        with console.status(model.name):
            results.append(
                measure(
                    model, arguments.backend, arguments.runs, with_reference=arguments.with_onnx_reference
                )
            )
        gc.collect()  # the largest models hold hundreds of megabytes
    about = environment(arguments.backend)
    console.print(", ".join(f"{key} {value}" for key, value in about.items()), highlight=False)
    show(results, console)
    if arguments.json:
        written = {"environment": about, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
