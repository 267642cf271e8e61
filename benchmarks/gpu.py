"""Times onnxref on a GPU, beside PyTorch; docs/gpu.md tells how to read the result.

python benchmarks/gpu.py               # everything; writes results/gpu-<card>.md and .json
python benchmarks/gpu.py bert GEMM     # rows with one of these words in their name
python benchmarks/gpu.py --dry-run     # tiny rows on the tests' emulated device: no number means anything

Each row is written as soon as it is measured, and kept by later runs as long as card, versions and sources
are the same, so that a run that was cut off goes on where it was; --again measures anew.

Rules
    1. GPU time is between two events on the stream, over as many runs as take 100 ms, inputs on the card.
       onnxref and PyTorch take turns, five rounds; the medians count.
    2. Wall time is from NumPy arrays to NumPy arrays, the median of 20.
    3. The card's matrix rate is that of one cuBLASLt product of 8192^3 in the row's type, its bandwidth that
       of a copy within the card: both measured here. Rates of rows count the sums of library calls alone.
    4. PyTorch runs the same graph in the same process: eager with channels last, and torch.compile with
       mode "max-autotune". Its outputs are compared with ours first.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from gpu_networks import NETWORKS, Feeds, Network
from gpu_report import SETTINGS, report

import onnxref
import onnxref.gpu
from onnxref.errors import OnnxRefError
from onnxref.gpu import Attention, Convolution, DeviceTensor, LibraryCall, Matmul
from onnxref.plan.specialize import DeviceProgram

HERE = Path(__file__).parent
BATCHES = (1, 32)
LEAST = 0.1  # seconds of one measurement
ROUNDS = 5
PACKAGES = ("onnxref", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cublas", "nvidia-cudnn-cu13", "torch", "numpy")
Record = dict[str, Any]
Span = Callable[[int], float]
"""Seconds of so many calls, on the card's clock."""


# Time -------------------------------------------------------------------------------------------------


def span_on(device: Any, call: Callable[[], Any]) -> Span:
    """Return what times calls on the device's stream; on an emulated device, on the host."""
    stream = getattr(device, "_stream", None)

    def span(count: int) -> float:
        device.synchronize()
        if stream is None:
            started = time.perf_counter()
            for _ in range(count):
                call()
            return time.perf_counter() - started
        import cupy

        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(stream)
        for _ in range(count):
            call()
        end.record(stream)
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3

    return span


def medians(spans: Mapping[str, Span], least: float) -> dict[str, float]:
    """Return the seconds of one call of each; see rule 1."""
    counts = {}
    for name, span in spans.items():
        span(3)
        counts[name] = max(1, min(1000, int(least / max(span(1), 1e-7))))
    rounds = [
        {name: span(counts[name]) / counts[name] for name, span in spans.items()} for _ in range(ROUNDS)
    ]
    return {name: statistics.median(found[name] for found in rounds) for name in spans}


def seconds_of(call: Callable[[], Any]) -> float:
    """Return how long a call takes on the host."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# The card ---------------------------------------------------------------------------------------------


def matrix_rate(device: Any, dtype: str, tf32: bool, least: float, n: int = 8192) -> float | None:
    """Return FLOP/s of one large product; None without cuBLASLt."""
    if "cublaslt" not in device.libraries:
        return None
    # Zeros would be multiplied faster: they take less power, and the clock stays high.
    drawn = np.random.default_rng(0).standard_normal((n, n), np.float32).astype(dtype)
    held = [device.allocate(drawn.nbytes) for _ in range(3)]
    for buffer in held[:2]:
        device.upload(drawn, buffer.address)
    roles = dict(zip("abd", (buffer.address for buffer in held), strict=True))
    call = device.library(Matmul(n, n, n, dtype, tf32=tf32), roles)
    return 2 * n**3 / medians({"": span_on(device, call)}, least)[""]


def bandwidth(device: Any, least: float, nbytes: int = 1 << 30) -> float:
    """Return bytes read and written in a second by a copy."""
    source, goal = device.allocate(nbytes), device.allocate(nbytes)
    device.clear(source.address, nbytes)
    span = span_on(device, lambda: device.copy(source.address, goal.address, nbytes))
    return 2 * nbytes / medians({"": span}, least)[""]


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


def measure(device: Any, network: Network, dtype: str, precision: str, batch: int, given: Any) -> Record:
    """Return what is measured in one setting."""
    model = network.build(dtype, given.dry_run)
    feeds = network.feeds(dtype, batch, given.dry_run)
    session = onnxref.InferenceSession(model, backend="cupy", precision=precision)  # type: ignore[arg-type]
    first = seconds_of(lambda: session.run(None, feeds))
    regions = session.native_regions()
    programs = [region.program for region in regions if isinstance(region.program, DeviceProgram)]
    record: Record = {
        "first_s": first,
        "launches": sum(program.launches for program in programs),
        "arena_bytes": sum(program.arena_bytes for program in programs),
        "on_reference": sorted({row.operator for row in session.explain() if row.kind == "reference"}),
        "wall_s": statistics.median(
            seconds_of(lambda: session.run(None, feeds)) for _ in range(given.samples)
        ),
    }
    outputs = [np.asarray(y, np.float64) for y in session.run(None, feeds)]
    peers, record["torch"] = beside_torch(model, feeds, outputs, precision == "tf32", given)
    inputs = on_device(device, feeds)
    found = medians({"gpu_s": span_on(device, lambda: session.run(None, inputs)), **peers}, given.least)
    record["gpu_s"] = found.pop("gpu_s")
    record["torch"] |= found
    flops = sum(map(sums, programs))
    record["flop_per_s"] = flops / record["gpu_s"] if flops else None
    record["bytes_per_s"] = network.moves(feeds) / record["gpu_s"] if network.moves else None
    if not network.is_kernel:
        other = network.feeds(dtype, batch + 1, given.dry_run)
        record["new_shape_s"] = seconds_of(lambda: session.run(None, other))
    return record


# PyTorch ----------------------------------------------------------------------------------------------


def beside_torch(
    model: Any, feeds: Feeds, outputs: list[Any], tf32: bool, given: Any
) -> tuple[dict[str, Span], Record]:
    """Return what times PyTorch, eager and compiled, and how its outputs differ, or a note why not."""
    if given.dry_run:
        return {}, {"note": "a dry run"}
    try:
        torch = importlib.import_module("torch")
        from gpu_torch import TorchGraph
    except ImportError:
        return {}, {"note": "PyTorch is not installed"}
    if not torch.cuda.is_available():
        return {}, {"note": "PyTorch sees no GPU"}
    torch._dynamo.reset()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    graph = TorchGraph(model).eval().cuda().to(memory_format=torch.channels_last)
    inputs = [torch.from_numpy(value).cuda() for value in feeds.values()]
    inputs = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    largest = max(float(np.abs(y).max()) for y in outputs)
    with torch.inference_mode():
        found = graph(*inputs)
    worst = max(np.abs(a.double().cpu().numpy() - b).max() for a, b in zip(found, outputs, strict=True))
    record: Record = {"difference": float(worst) / largest}
    spans = {"eager_s": torch_span(torch, graph, inputs)}
    compiled = torch_span(torch, torch.compile(graph, mode="max-autotune"), inputs)
    try:
        compiled(1)
        spans["compiled_s"] = compiled
    except RuntimeError as error:  # the compiler's own errors derive from it
        record["compiled_error"] = str(error)[:300]
    return spans, record


def torch_span(torch: Any, call: Any, inputs: list[Any]) -> Span:
    """Return what times calls on PyTorch's stream."""

    def span(count: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.inference_mode():
            begin.record()
            for _ in range(count):
                call(*inputs)
            end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return span


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


def sources() -> str:
    """Return a digest of all code that is measured."""
    digest = hashlib.sha256()
    for folder in ("onnxref", "kernels", "benchmarks"):
        for path in sorted(HERE.parent.joinpath(folder).rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def begin(given: argparse.Namespace, device: Any, path: Path) -> Record:
    """Return the result of an earlier run that may go on, else a new one with the card's rates."""
    identity = {"card": device.name, "versions": versions(), "sources": sources()}
    if path.exists() and not given.again:
        result: Record = json.loads(path.read_text(encoding="utf-8"))
        if all(result.get(name) == value for name, value in identity.items()):
            return result
    n, nbytes = (64, 1 << 16) if given.dry_run else (8192, 1 << 30)
    rates = {
        name: matrix_rate(device, dtype, name == "tf32", given.least, n)
        for name, (dtype, _) in SETTINGS.items()
    }
    measured = {"bandwidth": bandwidth(device, given.least, nbytes), "matrix_rate": rates}
    return {**identity, "date": datetime.date.today().isoformat(), **measured, "rows": []}


def wanted(given: argparse.Namespace) -> Iterator[tuple[Network, str, int]]:
    """Yield the rows that are asked for, those with targets first."""
    for batch in BATCHES[:1] if given.dry_run else BATCHES:
        for setting in SETTINGS:
            for network in NETWORKS:
                named = not given.words or any(w.lower() in network.name.lower() for w in given.words)
                if named and not (network.is_kernel and batch != BATCHES[0]):
                    yield network, setting, batch


def run(given: argparse.Namespace, device: Any, path: Path) -> Record:
    """Measure all rows that are asked for and not there yet; write each."""
    result = begin(given, device, path)
    for network, setting, batch in wanted(given):
        row: Record = {"name": network.name, "setting": setting, "batch": batch}
        same = [r for r in result["rows"] if all(r[key] == value for key, value in row.items())]
        if any("error" not in r for r in same):
            continue
        try:
            row |= measure(device, network, *SETTINGS[setting], batch, given)
        except (OnnxRefError, MemoryError) as error:
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        result["rows"] = [*(r for r in result["rows"] if r not in same), row]
        print(json.dumps(row), flush=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(report(result), encoding="utf-8")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only rows with one of these words in their name")
    parser.add_argument("--dry-run", action="store_true", help="tiny rows on the emulated device")
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
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
    result = run(given, device, given.out / f"gpu-{device.name.lower().replace(' ', '-')}.json")
    print(report(result))
    return 1 if any("error" in row for row in result["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
