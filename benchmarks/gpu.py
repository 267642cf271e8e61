"""Times onnxref on a GPU, beside PyTorch; docs/gpu.md tells how to read the result.

python benchmarks/gpu.py               # everything; writes results/gpu-<card>.md and .json
python benchmarks/gpu.py bert GEMM     # rows with one of these words in their name
python benchmarks/gpu.py --dry-run     # tiny rows on the tests' emulated device: no number means anything

Rules
    1. GPU time is between two events on the stream, over as many runs as take 100 ms, inputs on the card;
       the least of five such measurements.
    2. Wall time is from NumPy arrays to NumPy arrays, the median of 20.
    3. The card's matrix rate is that of one cuBLASLt product of 8192^3 in the row's type, its bandwidth that
       of a copy within the card: both measured here. Rates of rows count the sums of library calls alone.
    4. PyTorch runs the same graph in the same process: eager with channels last, and torch.compile with
       mode "max-autotune". Its outputs are compared with ours first.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from gpu_networks import NETWORKS, Feeds, Network

import onnxref
import onnxref.gpu
from onnxref.errors import OnnxRefError
from onnxref.gpu import Attention, Convolution, DeviceTensor, LibraryCall, Matmul
from onnxref.plan.specialize import DeviceProgram

HERE = Path(__file__).parent
SETTINGS = (("float32", "default"), ("float32", "tf32"), ("float16", "default"))
BATCHES = (1, 32)
LEAST = 0.1  # seconds of one measurement
PACKAGES = ("onnxref", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cublas", "nvidia-cudnn-cu13", "torch", "numpy")
Record = dict[str, Any]


class Clock:
    """Time of the card between two moments; on an emulated device, time of the host."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._stream = getattr(device, "_stream", None)

    def time(self, call: Callable[[], Any], least: float) -> float:
        """Return the seconds of one call, over as many as take `least` seconds; see rule 1."""
        call()
        once = max(self._span(call, 1), 1e-7)
        count = max(1, min(1000, int(least / once)))
        return min(self._span(call, count) / count for _ in range(5))

    def _span(self, call: Callable[[], Any], count: int) -> float:
        self._device.synchronize()
        if self._stream is None:
            started = time.perf_counter()
            for _ in range(count):
                call()
            return time.perf_counter() - started
        import cupy

        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(self._stream)
        for _ in range(count):
            call()
        end.record(self._stream)
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3


# The card ---------------------------------------------------------------------------------------------


def matrix_rate(device: Any, dtype: str, tf32: bool, least: float, n: int = 8192) -> float | None:
    """Return FLOP/s of one large product; None without cuBLASLt."""
    if "cublaslt" not in device.libraries:
        return None
    size = np.dtype(dtype).itemsize * n * n
    held = [device.allocate(size) for _ in range(3)]
    for buffer in held:
        device.clear(buffer.address, size)
    roles = dict(zip("abd", (buffer.address for buffer in held), strict=True))
    call = device.library(Matmul(n, n, n, dtype, tf32=tf32), roles)
    return 2 * n**3 / Clock(device).time(call, least)


def bandwidth(device: Any, least: float, nbytes: int = 1 << 30) -> float:
    """Return bytes read and written in a second by a copy."""
    source, goal = device.allocate(nbytes), device.allocate(nbytes)
    device.clear(source.address, nbytes)
    seconds = Clock(device).time(lambda: device.copy(source.address, goal.address, nbytes), least)
    return 2 * nbytes / seconds


# onnxref ----------------------------------------------------------------------------------------------


def on_device(device: Any, feeds: Feeds) -> dict[str, Any]:
    """Return the inputs as arrays of the card."""
    made = {}
    for name, value in feeds.items():
        tensor = DeviceTensor.empty(device, value.shape, value.dtype)
        device.upload(np.ascontiguousarray(value), tensor.address)
        made[name] = device.export(tensor)
    device.synchronize()
    return made


def sums(program: DeviceProgram) -> int:
    """Return the floating-point operations of a program's library calls."""
    total = 0
    for found in program.lowered:
        for call in found.launches:
            match call.op if isinstance(call, LibraryCall) else None:
                case Matmul() as op:
                    total += 2 * op.batch * op.m * op.n * op.k
                case Convolution() as op:
                    total += 2 * int(np.prod(op.x if op.transposed else op.y)) * int(np.prod(op.w[1:]))
                case Attention() as op:
                    pairs = op.batch * op.heads * op.q_length * op.kv_length // (2 if op.causal else 1)
                    total += 2 * pairs * (op.size + op.v_size)
    return total


def seconds_of(call: Callable[[], Any]) -> float:
    """Return how long a call takes on the host."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(device: Any, network: Network, dtype: str, precision: str, batch: int, given: Any) -> Record:
    """Return what is measured of onnxref in one setting."""
    model = network.build(dtype, given.dry_run)
    feeds = network.feeds(dtype, batch, given.dry_run)
    session = onnxref.InferenceSession(model, backend="cupy", precision=precision)  # type: ignore[arg-type]
    first = seconds_of(lambda: session.run(None, feeds))
    regions = session.native_regions()
    programs = [region.program for region in regions if isinstance(region.program, DeviceProgram)]
    flops = sum(map(sums, programs))
    record: Record = {
        "first_s": first,
        "launches": sum(program.launches for program in programs),
        "arena_bytes": sum(program.arena_bytes for program in programs),
        "on_reference": sorted({row.operator for row in session.explain() if row.kind == "reference"}),
    }
    inputs = on_device(device, feeds)
    record["gpu_s"] = Clock(device).time(lambda: session.run(None, inputs), given.least)
    record["wall_s"] = statistics.median(
        seconds_of(lambda: session.run(None, feeds)) for _ in range(given.samples)
    )
    record["flop_per_s"] = flops / record["gpu_s"] if flops else None
    record["bytes_per_s"] = network.moves(feeds) / record["gpu_s"] if network.moves else None
    if not network.is_kernel:
        other = network.feeds(dtype, batch + 1, given.dry_run)
        record["new_shape_s"] = seconds_of(lambda: session.run(None, other))
    outputs = [np.asarray(y, np.float64) for y in session.run(None, feeds)]
    record["torch"] = beside_torch(model, feeds, outputs, precision == "tf32", given)
    return record


# PyTorch ----------------------------------------------------------------------------------------------


def beside_torch(model: Any, feeds: Feeds, outputs: list[Any], tf32: bool, given: Any) -> Record:
    """Return PyTorch's seconds, eager and compiled, or a note why there are none."""
    if given.dry_run:
        return {"note": "a dry run"}
    try:
        torch = importlib.import_module("torch")
        from gpu_torch import TorchGraph
    except ImportError:
        return {"note": "PyTorch is not installed"}
    if not torch.cuda.is_available():
        return {"note": "PyTorch sees no GPU"}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    graph = TorchGraph(model).eval().cuda().to(memory_format=torch.channels_last)
    inputs = [torch.from_numpy(value).cuda() for value in feeds.values()]
    inputs = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    record: Record = {}
    with torch.inference_mode():
        largest = max(float(np.abs(y).max()) for y in outputs)
        found = graph(*inputs)
        worst = max(np.abs(a.double().cpu().numpy() - b).max() for a, b in zip(found, outputs, strict=True))
        record["difference"] = float(worst) / largest
        for name, made in (
            ("eager_s", lambda: graph),
            ("compiled_s", lambda: torch.compile(graph, mode="max-autotune")),
        ):
            try:
                record[name] = _torch_time(torch, made(), inputs, given.least)
            except RuntimeError as error:  # the compiler's own errors derive from it
                record[name.replace("_s", "_error")] = str(error)[:300]
    return record


def _torch_time(torch: Any, call: Any, inputs: list[Any], least: float) -> float:
    def span(count: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call(*inputs)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    for _ in range(5):
        call(*inputs)
    torch.cuda.synchronize()
    count = max(1, min(1000, int(least / max(span(1), 1e-6))))
    return min(span(count) / count for _ in range(5))


# Results ----------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return the versions of what is measured, as far as it is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def table(result: Record) -> str:
    """Return the results as Markdown."""
    shown = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"# {result['card']}", "", f"{result['date']}; {shown}.", ""]
    rates = {name: rate for name, rate in result["matrix_rate"].items() if rate}
    lines += [f"Matrix rate, {name}: {rate / 1e12:.1f} TFLOP/s." for name, rate in rates.items()]
    lines += [f"Copy: {result['bandwidth'] / 1e9:.0f} GB/s.", ""]
    heads = ["row", "type", "batch", "GPU ms", "wall ms", "first s", "new shape s", "launches", "arena MB"]
    heads += ["of matrix rate", "of copy", "torch eager ms", "torch compiled ms", "on the processor"]
    lines += [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in result["rows"]:
        lines.append(f"| {' | '.join(_cells(row, result))} |")
    return "\n".join(lines) + "\n"


def _cells(row: Record, result: Record) -> list[str]:
    start = [row["name"], row["setting"], str(row["batch"])]
    if "error" in row:
        return [*start, row["error"].replace("|", "/"), *[""] * 10]
    torch = row["torch"]

    def ms(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds * 1e3:.3f}"

    def share(value: float | None, of: float | None) -> str:
        return "" if not value or not of else f"{100 * value / of:.0f} %"

    new = row.get("new_shape_s")
    return [
        *(*start, ms(row["gpu_s"]), ms(row["wall_s"]), f"{row['first_s']:.2f}"),
        *("" if new is None else f"{new:.2f}", str(row["launches"]), f"{row['arena_bytes'] / 1e6:.1f}"),
        share(row["flop_per_s"], result["matrix_rate"].get(row["setting"])),
        share(row["bytes_per_s"], result["bandwidth"]),
        ms(torch.get("eager_s")) or torch.get("note", ""),
        ms(torch.get("compiled_s")),
        ", ".join(row["on_reference"]),
    ]


def run(given: argparse.Namespace, device: Any) -> Record:
    """Measure all rows that are asked for."""
    n, nbytes = (64, 1 << 16) if given.dry_run else (8192, 1 << 30)
    settings = [("tf32" if precision == "tf32" else dtype, dtype, precision) for dtype, precision in SETTINGS]
    result: Record = {
        "card": device.name,
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "bandwidth": bandwidth(device, given.least, nbytes),
        "matrix_rate": {
            name: matrix_rate(device, dtype, name == "tf32", given.least, n) for name, dtype, _ in settings
        },
        "rows": [],
    }
    for network in NETWORKS:
        if given.words and not any(word.lower() in network.name.lower() for word in given.words):
            continue
        for name, dtype, precision in settings:
            for batch in BATCHES[:1] if network.is_kernel or given.dry_run else BATCHES:
                row: Record = {"name": network.name, "setting": name, "batch": batch}
                try:
                    row |= measure(device, network, dtype, precision, batch, given)
                except (OnnxRefError, MemoryError) as error:
                    row["error"] = f"{type(error).__name__}: {error}"[:300]
                result["rows"].append(row)
                print(json.dumps(row), flush=True)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only rows with one of these words in their name")
    parser.add_argument("--dry-run", action="store_true", help="tiny rows on the emulated device")
    parser.add_argument("--samples", type=int, default=20, help="samples of wall time (default 20)")
    parser.add_argument("--least", type=float, default=LEAST, help="seconds of one measurement")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    given = parser.parse_args(arguments)
    if given.dry_run:
        from tests.gpu.emulator.device import EmulatedDevice

        emulated = EmulatedDevice()
        onnxref.gpu.open_device = lambda: emulated
    try:
        device = onnxref.gpu.open_device()
    except OnnxRefError as error:
        print(f"no GPU, nothing was measured: {error}")
        return 1
    result = run(given, device)
    path = given.out / f"gpu-{device.name.lower().replace(' ', '-')}"
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(result), encoding="utf-8")
    print(table(result))
    return 1 if any("error" in row for row in result["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
