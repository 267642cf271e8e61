"""Times one call of a model on onnxref and on other runtimes, in turn and in one process.

Rules
    1. Outputs are compared before anything is timed; a peer whose outputs differ is not timed.
    2. The sides take turns, so that a machine that slows down slows down all of them.
    3. Before each sample nothing happens for 80 ms: threads of the side before keep spinning for a while.
    4. A sample repeats the call until 2 ms have passed; a side's time is the median of its samples.
    5. Each side has run a one-node model before its loading is timed: what a process pays once is left out.
    6. onnxref is timed once its native code is there, however long that takes; `first` tells what the
       very first call cost.
    7. Memory is the peak of a process of its own in which one side loads and runs the model, less what
       the process had after the one-node model.
    8. With precision "bf16" all outputs are compared with those of onnxref in float32, its own too.
"""

from __future__ import annotations

import importlib
import math
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BackendError, MissingDependencyError, OnnxRefError
from .graph import Graph, subgraphs

if TYPE_CHECKING:
    from .plan.specialize import Region

IDLE = 0.08  # rule 3
SHORTEST = 0.002  # rule 4
SAMPLES = 20
RELATIVE = 1e-4  # largest difference, of the largest value of an output
RELATIVE_BF16 = 0.5  # with precision "bf16": a steep softmax or sigmoid makes tenths of many layers' errors
QUANTA = 8.0  # the same where the model rounds to 8 bits, in 1/255 of the output's range
_WARM_UP = 3
_LONGEST_WAIT = 300.0  # seconds for native code to be compiled behind the runs
_QUANTISING = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}

PEERS: Mapping[str, str] = {"onnxruntime": "onnxruntime", "openvino": "openvino", "onnx.reference": "onnx"}
"""Runtimes to compare with, and the packages to install for them."""

Feeds = Mapping[str, Any]
Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """How to run a model.

    Attributes:
        backend: onnxref's kernel set.
        threads: threads of every side; None leaves it to each.
        precision: of onnxref; "bf16" is asked of OpenVINO too, and the others stay with float32.
    """

    backend: str = "auto"
    threads: int | None = None
    precision: str = "default"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far outputs are apart.

    Attributes:
        error: largest difference between floats, relative to the largest value of the output.
        quanta: the same in 1/255 of the output's range; None where the model does not round to 8 bits.
    """

    error: float
    quanta: float | None = None


@dataclass(frozen=True, slots=True)
class SideResult:
    """What was measured of one runtime; all times in seconds.

    Attributes:
        load: making the session.
        first: its first call.
        median, least: of the samples.
        peak: bytes of memory (rule 7), None where it was not measured.
        error: why there are no times; then they are NaN.
        notes: what onnxref has to say of its kernels, such as where bfloat16 was not used.
    """

    runtime: str
    load: float = math.nan
    first: float = math.nan
    median: float = math.nan
    least: float = math.nan
    samples: int = 0
    peak: int | None = None
    agreement: Agreement | None = None
    error: str = ""
    notes: tuple[str, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """Return the result ready for JSON: times in seconds, memory in bytes, None for what is not known."""
        agreement = self.agreement
        return {
            "runtime": self.runtime,
            "seconds": _finite(self.median),
            "least_seconds": _finite(self.least),
            "samples": self.samples,
            "load_seconds": _finite(self.load),
            "first_run_seconds": _finite(self.first),
            "peak_bytes": self.peak,
            "largest_difference": None if agreement is None else agreement.error,
            "quanta": None if agreement is None else agreement.quanta,
            "error": self.error or None,
            "notes": list(self.notes),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class OutputsDifferError(OnnxRefError):
    """Two runtimes give outputs that are too far apart."""


# Runtimes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded model: what runs it, and what its regions of native code are where it has such."""

    run: Callable[[Feeds], Sequence[Any]]
    regions: Callable[[], Sequence[Region]] = tuple


def open_model(runtime: str, path: Path, setting: Setting) -> Opened:
    """Load a model with "onnxref" or one of `PEERS`.

    Raises:
        MissingDependencyError: the runtime is not installed.
        BackendError: there is no such runtime.
    """
    openers = {
        "onnxref": _open_onnxref,
        "onnxruntime": _open_onnxruntime,
        "openvino": _open_openvino,
        "onnx.reference": _open_reference,
    }
    if runtime not in openers:
        raise BackendError(f"there is no runtime {runtime!r} to compare with; choose from {', '.join(PEERS)}")
    return openers[runtime](path, setting)


def _open_onnxref(path: Path, setting: Setting) -> Opened:
    from .session import InferenceSession

    options: dict[str, Any] = {"precision": setting.precision}
    if setting.threads is not None:
        options["intra_op_num_threads"] = setting.threads
    session = InferenceSession(path, backend=setting.backend, **options)
    return Opened(lambda feeds: session.run(None, feeds), session.native_regions)


def _open_onnxruntime(path: Path, setting: Setting) -> Opened:
    runtime = import_peer("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = setting.threads or 0
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Opened(lambda feeds: session.run(None, feeds))


def _open_openvino(path: Path, setting: Setting) -> Opened:
    """Load with OpenVINO, in float32 (or bfloat16) and for the least time of one call."""
    hint = "bf16" if setting.precision == "bf16" else "f32"
    config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if setting.threads is not None:
        config["INFERENCE_NUM_THREADS"] = str(setting.threads)
    core = import_peer("openvino").Core()
    request = core.compile_model(str(path), "CPU", config).create_infer_request()
    return Opened(lambda feeds: list(request.infer(dict(feeds), share_inputs=True).values()))


def _open_reference(path: Path, setting: Setting) -> Opened:
    """Load with the evaluator of the onnx package, which has no threads to count."""
    evaluator = import_peer("onnx.reference").ReferenceEvaluator(importlib.import_module("onnx").load(path))

    def run(feeds: Feeds) -> Sequence[Any]:
        with np.errstate(all="ignore"):
            return list(evaluator.run(None, dict(feeds)))

    return Opened(run)


def import_peer(runtime: str) -> Any:
    """Import a runtime of `PEERS`.

    Raises:
        MissingDependencyError: it is not installed.
        BackendError: there is no such runtime.
    """
    if runtime not in PEERS:
        raise BackendError(f"there is no runtime {runtime!r} to compare with; choose from {', '.join(PEERS)}")
    try:
        return importlib.import_module(runtime)
    except ModuleNotFoundError as error:
        package = PEERS[runtime]
        raise MissingDependencyError(f"comparing with {runtime} needs it: pip install {package}") from error


def settle(opened: Opened, feeds: Feeds) -> None:
    """Run a model until all that is going to run natively does (rule 6)."""
    end = time.monotonic() + _LONGEST_WAIT
    for _ in range(_WARM_UP):
        opened.run(feeds)
    while time.monotonic() < end:
        waiting = [region for region in opened.regions() if region.program is None and not region.hopeless]
        if not waiting:
            break
        if any(region.job is not None for region in waiting):
            time.sleep(0.02)  # leave the processor to the compiler
        opened.run(feeds)


def prepare(setting: Setting, runtimes: Sequence[str]) -> None:
    """Call what the setting says, and run a one-node model on each runtime (rule 5).

    Raises:
        MissingDependencyError: a runtime is not installed.
    """
    for runtime in runtimes:
        if runtime != "onnxref":
            import_peer(runtime)
    helper = importlib.import_module("onnx").helper
    value = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tiny", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.onnx"
        path.write_bytes(model.SerializeToString())
        # With "auto" one run would not get as far as native code.
        thorough = replace(setting, backend="numba") if setting.backend == "auto" else setting
        for runtime in runtimes:
            open_model(runtime, path, thorough).run({"x": np.zeros(4, np.float32)})


# Outputs -------------------------------------------------------------------------------------------


def rounds_to_8_bits(graph: Graph) -> bool:
    """Whether a graph has activations of 8 bits, so that a tiny difference may become a whole step."""
    return any(
        node.op_type in _QUANTISING or any(map(rounds_to_8_bits, subgraphs(node).values()))
        for node in graph.nodes
    )


def compare(
    ours: Sequence[Any], theirs: Sequence[Any], *, quantised: bool = False, relative: float = RELATIVE
) -> Agreement:
    """Return how far outputs are apart.

    Raises:
        OutputsDifferError: farther than `relative`, or `QUANTA` where the model is quantised; strings,
            labels and other integers must be equal.
    """
    mine, other = list(_leaves(ours)), list(_leaves(theirs))
    if len(mine) != len(other):
        raise OutputsDifferError(
            f"there are {len(mine)} output tensors on one side and {len(other)} on the other"
        )
    found = [_compare_arrays(a, b, quantised, relative) for a, b in zip(mine, other, strict=True)]
    quanta = max((a.quanta for a in found if a.quanta is not None), default=None)
    return Agreement(max((a.error for a in found), default=0.0), quanta)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the arrays of a sequence, a map or a tensor, in a fixed order."""
    if isinstance(value, Mapping):
        keys = sorted(value)
        yield np.array(keys)
        yield from _leaves([value[key] for key in keys])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield np.asarray(value)


def _compare_arrays(a: Any, b: Any, quantised: bool, relative: float) -> Agreement:
    if a.shape != b.shape:
        raise OutputsDifferError(f"outputs differ in shape: {list(a.shape)} and {list(b.shape)}")
    if b.dtype.kind in "OUSb":
        if not np.array_equal(a.astype(str), b.astype(str)):
            raise OutputsDifferError("outputs that are no numbers differ")
        return Agreement(0.0)
    if b.dtype.kind in "iu":
        apart = int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0))
        if apart > (QUANTA if quantised and b.dtype.itemsize == 1 else 0):
            raise OutputsDifferError(f"integer outputs differ by up to {apart}")
        return Agreement(0.0, float(apart) if quantised else None)
    return _compare_floats(a, b, quantised, relative)


def _compare_floats(a: Any, b: Any, quantised: bool, relative: float) -> Agreement:
    mine, other = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(other)
    if not np.array_equal(np.where(finite, 0, mine), np.where(finite, 0, other), equal_nan=True):
        raise OutputsDifferError("outputs differ in where they are infinite or not numbers")
    values = other[finite]
    apart = float(np.abs(mine[finite] - values).max(initial=0))
    error = apart / max(float(np.abs(values).max(initial=0)), 1e-30)
    if quantised:
        extent = float(np.ptp(values)) if values.size > 1 else float(np.abs(values).max(initial=0))
        quanta = 255 * apart / max(extent, 1e-30)
        if not quanta <= QUANTA:
            raise OutputsDifferError(
                f"outputs differ by {quanta:.1f} quanta of 8 bits (allowed {QUANTA:.0f})"
            )
        return Agreement(error, quanta)
    allowed = relative if b.dtype.itemsize > 2 else max(relative, 1e-2)  # a float16 has three digits
    if not error <= allowed:
        raise OutputsDifferError(f"outputs differ by {error:.1e} of the largest (allowed {allowed:.0e})")
    return Agreement(error)


# Time ----------------------------------------------------------------------------------------------


def sample(call: Call) -> float:
    """Return the seconds of one call, from repeating it (rule 4)."""
    start = time.perf_counter()
    calls = 0
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= SHORTEST:
            return elapsed / calls


def interleave(calls: Sequence[Call], samples: int) -> list[list[float]]:
    """Return the samples of each call, taken in turn (rules 2 to 4)."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(samples):
        for call, own in zip(calls, times, strict=True):
            time.sleep(IDLE)
            own.append(sample(call))
    return times


def _timed(call: Call) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def measure(
    path: Path,
    feeds: Feeds,
    peers: Sequence[str] = (),
    setting: Setting = Setting(),
    *,
    quantised: bool = False,
    samples: int = SAMPLES,
    memory: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> list[SideResult]:
    """Measure onnxref and its peers on one call; onnxref comes first.

    Args:
        feeds: arrays by input name.
        quantised: compare outputs as `compare` does for models that round to 8 bits.
        tell: is called with what is going on.

    Returns:
        One result for each side; a peer that cannot run the model, or gives other outputs, has an error.

    Raises:
        MissingDependencyError: a peer is not installed.
        OnnxRefError: onnxref cannot run the model.
    """
    tell("starting the runtimes")
    prepare(setting, ["onnxref", *peers])
    timed = _measure_times(path, feeds, peers, setting, quantised, samples, tell)
    if not memory:
        return timed
    tell("measuring memory")
    peaks = [None if side.error else peak_memory(side.runtime, path, feeds, setting) for side in timed]
    return [replace(side, peak=peak) for side, peak in zip(timed, peaks, strict=True)]


def _measure_times(
    path: Path,
    feeds: Feeds,
    peers: Sequence[str],
    setting: Setting,
    quantised: bool,
    samples: int,
    tell: Callable[[str], None],
) -> list[SideResult]:
    """Load the model on every side, check the outputs, and take the samples."""
    tell("loading onnxref")
    ready, ours, expected = _begin("onnxref", path, feeds, setting)
    relative = RELATIVE
    if setting.precision == "bf16":
        tell("computing the outputs in float32")
        relative, found = RELATIVE_BF16, expected
        expected = open_model("onnxref", path, replace(setting, precision="default")).run(feeds)
        agreement = compare(found, expected, quantised=quantised, relative=relative)
        ready = replace(ready, agreement=agreement, notes=_notes(ours))
    sides: list[SideResult] = [ready]
    calls: list[Call] = [lambda: ours.run(feeds)]
    for peer in peers:
        tell(f"loading {peer}")
        result, call = _begin_peer(peer, path, feeds, setting, expected, quantised, relative)
        sides.append(result)
        if call is not None:
            calls.append(call)
    tell("timing")
    times = iter(interleave(calls, samples))
    return [side if side.error else _with_times(side, next(times)) for side in sides]


def _with_times(side: SideResult, times: Sequence[float]) -> SideResult:
    return replace(side, median=statistics.median(times), least=min(times), samples=len(times))


def _notes(opened: Opened) -> tuple[str, ...]:
    """Return what the lowerings of a model left to say, and of how many nodes."""
    programs = [region.program for region in opened.regions() if region.program is not None]
    sites = [found.site for program in programs for found in program.lowered if found.site is not None]
    counted = Counter(note for site in sites for note in site.notes)
    return tuple(f"{note} ({count} of its nodes)" for note, count in counted.items())


def _begin(
    runtime: str, path: Path, feeds: Feeds, setting: Setting
) -> tuple[SideResult, Opened, Sequence[Any]]:
    """Load a model, run it until its speed is final, and return its last outputs too."""
    opened, load = _timed(lambda: open_model(runtime, path, setting))
    _, first = _timed(lambda: opened.run(feeds))
    settle(opened, feeds)
    return SideResult(runtime, load, first), opened, opened.run(feeds)


def _begin_peer(
    peer: str,
    path: Path,
    feeds: Feeds,
    setting: Setting,
    expected: Sequence[Any],
    quantised: bool,
    relative: float,
) -> tuple[SideResult, Call | None]:
    """Load a peer's model and check its outputs; without a call where it fails."""
    try:
        result, opened, outputs = _begin(peer, path, feeds, setting)
        agreement = compare(expected, outputs, quantised=quantised, relative=relative)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is the result of its row
        kind = "" if isinstance(error, OnnxRefError) else f"{type(error).__name__}: "
        return SideResult(peer, error=(kind + " ".join(str(error).split()))[:300]), None
    return replace(result, agreement=agreement), lambda: opened.run(feeds)


# Memory --------------------------------------------------------------------------------------------

_PROGRAM = "from onnxref.benchmark import serve_memory; serve_memory()"


def peak_memory(runtime: str, path: Path, feeds: Feeds, setting: Setting) -> int | None:
    """Return the bytes that a process needs to load and run a model (rule 7); None if it fails."""
    # What is unpickled there is what is pickled here.
    request = pickle.dumps((runtime, Path(path).resolve(), dict(feeds), setting))
    command = [sys.executable, "-P", "-c", _PROGRAM]
    done = subprocess.run(command, input=request, capture_output=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def serve_memory() -> None:
    """Do what `peak_memory` asks for on standard input, and print the bytes."""
    runtime, path, feeds, setting = pickle.loads(sys.stdin.buffer.read())
    prepare(setting, [runtime])
    before = _resident_bytes()
    settle(open_model(runtime, path, setting), feeds)
    print(max(0, _peak_bytes() - before))


def _resident_bytes() -> int:
    """Return the bytes of memory that this process has now; the most it had where nothing tells."""
    return _status("VmRSS") or _peak_bytes()


def _peak_bytes() -> int:
    """Return the most memory that this process has had."""
    # getrusage also counts the process that this one was forked from, so it comes second.
    if found := _status("VmHWM"):
        return found
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)
