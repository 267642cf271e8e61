"""The planner for a card: memory, captured graphs, threads, faults, shapes, device arrays, errors."""

from __future__ import annotations

import itertools
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxref
from onnxref.dtypes import Array
from onnxref.errors import BackendError, DeviceMemoryError, InputError, NodeError
from onnxref.gpu import Kernel
from onnxref.gpu._cuda import CudaDevice
from onnxref.limits import DEFAULT, Budget
from onnxref.lowering import LINE, Op, Operand, PackCache, Scratch, Site
from onnxref.plan.specialize import DeviceConstants, DeviceProgram, Lowered
from onnxref.plan.specialize._memory import Lifetime

from .emulator.device import EmulatedArray, EmulatedBuffer, EmulatedDevice, memory
from .planned import RecordingDevice

FLOAT = np.dtype(np.float32)
KERNEL = Kernel("onnxref.kernels.cupy.code", "common.cuh", "nothing")
MOST_SIGNATURES = 32

TWICE = "g (float[n, 5] x) => (y) { a = Softmax<axis = -1>(x) y = LogSoftmax<axis = -1>(a) }"
SPLIT = "g (float[2, 5, 5] x) => (y) { a = Softmax(x) b = Det(a) c = Relu(b) y = Softmax(c) }"
GATHER = "g (float[4, 3] x, int64[n] i) => (y) { a = Gather<axis = 0>(x, i) y = Relu(a) }"


def session(text: str, **options: Any) -> onnxref.InferenceSession:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>' + text)
    return onnxref.InferenceSession(model, **{"backend": "cupy", **options})


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected(text: str, **feeds: Array) -> Array:
    (y,) = session(text, backend="numpy").run(None, feeds)
    assert isinstance(y, np.ndarray)
    return y


# Memory -----------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Operand], list[Operand], list[Lowered]]:
    """Draw (inputs, outputs, ops): each op reads earlier values, and may ask for scratch or be a view."""

    def operand(name: str, elements: int | None = None) -> Operand:
        count = draw(st.sampled_from((0, 1, 16, 17, 100, 333))) if elements is None else elements
        return Operand((count,), FLOAT, name)

    inputs = [operand(f"x{i}") for i in range(draw(st.integers(1, 3)))]
    known, lowered = list(inputs), []
    for index in range(draw(st.integers(1, 10))):
        reads = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        is_view = draw(st.booleans())
        made = [operand(f"v{index}", reads[0].size if is_view else None)]
        made += [] if is_view else [operand(f"w{index}") for _ in range(draw(st.integers(0, 1)))]
        site = Site(Op("Any", list(reads), list(made)))
        if is_view:
            site.alias(made[0], reads[0])
        else:
            scratch = [site.scratch(draw(st.integers(1, 500)))] if draw(st.booleans()) else []
            scratch += [site.zeroed(draw(st.integers(1, 500)))] if draw(st.booleans()) else []
            if made[0].size == reads[0].size and draw(st.booleans()):
                site.may_overwrite(made[0], reads[0])
            site.launch(KERNEL, *reads, *made, *scratch, grid=(1, 1, 1))
        lowered.append(Lowered(site.op, site))
        known += made
    outputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
    return inputs, outputs, lowered


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_what_is_alive_together_lies_apart(
    drawn: tuple[list[Operand], list[Operand], list[Lowered]],
) -> None:
    inputs, outputs, lowered = drawn
    device = RecordingDevice()
    program = DeviceProgram(lowered, inputs, outputs, device, DeviceConstants(device, PackCache()))
    owner: dict[Operand, Operand] = {x: x for x in inputs}
    reads: list[set[Operand]] = []
    for found in lowered:  # which memory each value is, found again here by the declarations alone
        assert found.site is not None
        views = {y: x for y, x, _ in found.site.aliases}
        for y in found.op.outputs:
            assert y is not None
            owner[y] = owner[views[y]] if y in views else y
        reads.append({owner[x] for x in (*found.op.inputs, *found.op.outputs) if x is not None})
    reads.append({owner[y] for y in outputs})
    first = {o: next(i for i, seen in enumerate(reads) if o in seen) for seen in reads for o in seen}
    first |= dict.fromkeys(inputs, -1)
    last = {o: i for i, seen in enumerate(reads) for o in seen}
    last |= {x: -1 for x in inputs if x not in last}
    sites = [found.site for found in lowered]
    zeroed = [place for owner, place in program.places.items() if getattr(owner, "is_zeroed", False)]
    for index, site in enumerate([*sites, None]):
        # An output may lie where an input lay that the op is allowed to overwrite.
        allowed = {owner[y]: owner[x] for y, x in site.overwrites} if site else {}
        alive = {o for o in first if first[o] <= index <= last[o]}
        alive -= {y for y, x in allowed.items() if x in alive and program.roots.of(y) is program.roots.of(x)}
        places = [*zeroed, *(program.places[program.roots.of(o)] for o in alive)]
        _assert_apart(program, places)
        for scratch in site.scratches if site else ():
            if not scratch.is_zeroed:
                _assert_apart(program, [*places, program.places[scratch]])


def _assert_apart(program: DeviceProgram, alive: list[Lifetime]) -> None:
    spans = sorted((place.offset, place.nbytes) for place in alive if place.nbytes)
    for (begin, size), (following, _) in itertools.pairwise(spans):
        assert begin + size <= following
    for begin, size in spans:
        assert begin % LINE == 0
        assert begin + size <= program.arena_bytes


def test_blocks_that_share_a_sum_leave_their_counters_zero(device: EmulatedDevice) -> None:
    """From run to run, call by call and as a graph, whichever block comes last."""
    shapes = {"x": (1, 3100), "w": (3100, 24), "v": (24, 3), "q": (1, 2, 1, 8), "k": (1, 2, 900, 8)}
    inputs = ", ".join(f"float{list(shape)} {name}" for name, shape in shapes.items())
    text = f"g ({inputs}) => (y, z) {{ a = MatMul(x, w) y = MatMul(a, v) z = Attention(q, k, k) }}"
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 23]>' + text)
    made = onnxref.InferenceSession(model, backend="cupy")
    feeds = {name: values(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    wanted = onnxref.InferenceSession(model, backend="numpy").run(None, feeds)
    results = []
    for device.order in (0, 1, 2, 1, 0):
        results.append(made.run(None, feeds))
    for y, e in zip(results[0], wanted, strict=True):
        np.testing.assert_allclose(y, e, rtol=1e-4, atol=1e-4)
    for other in results[1:]:
        assert [y.tobytes() for y in other] == [y.tobytes() for y in results[0]]
    assert device.log[-1].startswith("graph")
    (region,) = made.native_regions()
    program = region.program
    assert isinstance(program, DeviceProgram)
    zeroed = [owner for owner in program.places if isinstance(owner, Scratch) and owner.is_zeroed]
    (instance,) = program._free
    assert len(zeroed) == 2
    for owner in zeroed:
        assert not memory(instance._arena.place(owner), owner.nbytes).any()


def test_debug_gives_every_tensor_memory_of_its_own(device: EmulatedDevice) -> None:
    made = session(TWICE)
    x = values(3, 5)
    (y,) = made.run(None, {"x": x})
    (region,) = made.native_regions()
    plain = region.program
    assert isinstance(plain, DeviceProgram)
    debug = DeviceProgram(
        plain.lowered, plain.inputs, plain.outputs, device, DeviceConstants(device, PackCache()), debug=True
    )
    device.log.clear()
    for _ in range(3):
        (found,) = debug.run([x], Budget(DEFAULT), _no_step)
        assert found.numpy().tobytes() == y.tobytes()
    assert len(device.log) == 3 * debug.launches
    assert not any(line.startswith("graph") for line in device.log)


def _no_step(step: Any, inputs: Any) -> Any:
    raise AssertionError("nothing runs on the reference here")


# Captured graphs --------------------------------------------------------------------------------------


def test_graphs_are_split_around_what_the_reference_runs(device: EmulatedDevice) -> None:
    made = session(SPLIT)
    x = values(2, 5, 5)
    first = made.run(None, {"x": x})
    assert not any(line.startswith("graph") for line in device.log)
    for _ in range(2):
        device.log.clear()
        again = made.run(None, {"x": x})
        assert again[0].tobytes() == first[0].tobytes()
        assert [line.partition(" of ")[0] for line in device.log] == ["graph", "graph"]
    np.testing.assert_allclose(first[0], expected(SPLIT, x=x), rtol=1e-5)


def test_each_shape_has_its_own_graph(device: EmulatedDevice) -> None:
    made = session(TWICE)
    for rows in (3, 4, 3, 4, 7):
        x = values(rows, 5, seed=rows)
        (y,) = made.run(None, {"x": x})
        np.testing.assert_allclose(y, expected(TWICE, x=x), rtol=1e-5, atol=1e-6)
    assert len(made.native_regions()) == 3
    assert device.log.count("graph of 2") == 2


def test_signatures_that_are_not_used_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxref.gpu

    device = _Forgetful()
    monkeypatch.setattr(onnxref.gpu, "open_device", lambda: device)
    made = session("g (float[n] x) => (y) { y = Relu(x) }")
    held = []
    for n in range(1, 3 * MOST_SIGNATURES):
        x = values(n)
        np.testing.assert_array_equal(made.run(None, {"x": x})[0], np.maximum(x, 0))
        held.append(len(device.alive))
    assert len(made.native_regions()) == MOST_SIGNATURES
    assert max(held) == max(held[: MOST_SIGNATURES + 1])


class _Forgetful(EmulatedDevice):
    """A device that does not keep buffers alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: weakref.WeakSet[EmulatedBuffer] = weakref.WeakSet()

    def allocate(self, nbytes: int, what: str = "memory", *, for_caller: bool = False) -> EmulatedBuffer:
        made = EmulatedBuffer(nbytes)
        self.alive.add(made)
        return made


# Threads, faults --------------------------------------------------------------------------------------


def test_threads_run_one_session_together(device: EmulatedDevice) -> None:
    made = session(TWICE)
    wrong: list[Any] = []

    def work(seed: int) -> None:
        x = values(2 + seed % 2, 5, seed=seed)
        wanted = expected(TWICE, x=x)
        for _ in range(5):
            (y,) = made.run(None, {"x": x})
            if not np.allclose(y, wanted, rtol=1e-5, atol=1e-6):
                wrong.append((seed, y))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert any(line.startswith("graph") for line in device.log)


def test_nobody_downloads_while_another_thread_captures(
    device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capturing stream refuses whatever does not come from the thread that captures."""
    capture, download = device.capture, device.download
    made, other = session(TWICE), session(TWICE)
    x = values(2, 5)
    for _ in range(3):
        made.run(None, {"x": x})
    begun, ended, order = threading.Event(), threading.Event(), []

    def slow_capture(calls: Any) -> Any:
        order.append("capture begins")
        begun.set()
        ended.wait(0.3)  # as long as it takes others to come
        order.append("capture ends")
        return capture(calls)

    def noted_download(address: int, array: Array) -> None:
        if begun.is_set():
            order.append("download")
        download(address, array)

    (on_device,) = made.run(None, {"x": device.array(x)})
    monkeypatch.setattr(device, "capture", slow_capture)
    monkeypatch.setattr(device, "download", noted_download)

    def capturing() -> None:
        for _ in range(2):
            other.run(None, {"x": device.array(x)})

    thread = threading.Thread(target=capturing)
    thread.start()
    assert begun.wait(60)
    on_device.numpy()
    ended.set()
    thread.join()
    assert order == ["capture begins", "capture ends", "download"]


def test_a_bad_index_is_the_references_error_and_harms_nothing(device: EmulatedDevice) -> None:
    made = session(GATHER)
    x = values(4, 3)
    good, bad = np.int64([0, -1]), np.int64([0, 4])
    for _ in range(3):
        (y,) = made.run(None, {"x": x, "i": good})
        np.testing.assert_array_equal(y, np.maximum(x[good], 0))
        with pytest.raises(NodeError, match=r"Gather.*indices must be in \[-4, 3\]"):
            made.run(None, {"x": x, "i": bad})
    assert any(line.startswith("graph") for line in device.log)


def test_strict_refuses_shapes_that_depend_on_values(device: EmulatedDevice) -> None:
    text = "g (float[n] x) => (y) { a = Relu(x) b = NonZero(a) y = Cast<to = 1>(b) }"
    x = np.float32([0, 1, -1, 2])
    np.testing.assert_array_equal(session(text).run(None, {"x": x})[0], [[1, 3]])
    with pytest.raises(BackendError, match="NonZero"):
        session(text, strict=True).run(None, {"x": x})
    assert device.log


def test_strict_refuses_a_shape_that_is_an_input(device: EmulatedDevice) -> None:
    """In every run, not only in the one that finds it out."""
    made = session("g (float[n] x, int64[2] s) => (y) { a = Relu(x) y = Reshape(a, s) }", strict=True)
    for _ in range(3):
        with pytest.raises(BackendError, match=r"Reshape.*its shapes depend on values"):
            made.run(None, {"x": np.float32([0, 1, -1, 2]), "s": np.array([2, 2])})


def test_values_on_the_device_reach_the_reference(device: EmulatedDevice) -> None:
    """Between two regions a step whose result is shaped by values reads what a region has computed."""
    text = "g (float[n] x) => (y) { a = Relu(x) b = NonZero(a) c = Gather(a, b) y = Exp(c) }"
    x = np.float32([0, 1, -1, 2])
    made = session(text)
    for _ in range(3):
        np.testing.assert_allclose(made.run(None, {"x": x})[0], np.exp(np.float32([[1, 2]])), rtol=1e-6)
    assert device.log


class _Small(_Forgetful):
    """A device with little memory, that asks what is idle to give some back before it refuses."""

    room = 64 << 10

    def allocate(self, nbytes: int, what: str = "memory", *, for_caller: bool = False) -> EmulatedBuffer:
        for idle in tuple(self.idle) if self._used() + nbytes > self.room else ():
            idle.release()
        if self._used() + nbytes > self.room:
            raise DeviceMemoryError(f"no memory for {nbytes:,} bytes ({what})")
        return super().allocate(nbytes, what, for_caller=for_caller)

    def _used(self) -> int:
        return sum(buffer.nbytes for buffer in self.alive)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> _Small:
    import onnxref.gpu

    device = _Small()
    monkeypatch.setattr(onnxref.gpu, "open_device", lambda: device)
    return device


@pytest.mark.parametrize(("room", "what"), [(4000, "the arena"), (10_000, "an output")])
def test_no_memory_is_told_of_and_passes(small: _Small, room: int, what: str) -> None:
    made = session("relu (float[n] x) => (y) { y = Relu(x) }")
    x, small.room = values(1000), room  # the arena has both, the output is one more
    with pytest.raises(DeviceMemoryError, match=rf"bytes \({what} of model 'relu'\)"):
        made.run(None, {"x": x})
    small.room = 1 << 20
    np.testing.assert_array_equal(made.run(None, {"x": x})[0], np.maximum(x, 0))


def test_idle_programs_give_their_memory_to_others(small: _Small) -> None:
    """Each shape takes more than half of all memory: only one program can have its own at a time."""
    made, other = (session(f"{name} (float[n] x) => (y) {{ y = Relu(x) }}") for name in ("a", "b"))
    for _ in range(3):
        for n in (4000, 4100, 4200):
            for seed, one in enumerate((made, other)):
                x = values(n, seed=seed)
                np.testing.assert_array_equal(one.run(None, {"x": x})[0], np.maximum(x, 0))
                assert small._used() <= small.room


def test_constants_of_idle_programs_come_back(small: _Small) -> None:
    """What a program has packed for itself goes with its memory, and is there again in its next run."""
    text = "g (float[n] x) => (y) <float[2] s = {2, 3}> { a = ReduceSum<keepdims = 0>(x) y = Mul(a, s) }"
    made, other = session(text), session("h (float[n] x) => (y) { y = Relu(x) }")
    for n in (3000, 7000):
        for _ in range(2):
            x = values(n)
            (y,) = made.run(None, {"x": x})
            np.testing.assert_allclose(y, x.sum() * np.float32([2, 3]), rtol=1e-4, atol=1e-4)
            other.run(None, {"x": values(5000)})


# Arrays of the device ---------------------------------------------------------------------------------


def test_device_arrays_are_not_copied_through_the_host(device: EmulatedDevice) -> None:
    made = session(TWICE)
    x = values(3, 5)
    (wanted,) = made.run(None, {"x": x})
    given_ = device.array(x)
    made.run(None, {"x": given_})
    before = (device.uploads, device.downloads)
    (y,) = made.run(None, {"x": given_})
    (z,) = made.run(None, {"x": y})
    assert (device.uploads, device.downloads) == before
    assert isinstance(y, EmulatedArray)
    assert isinstance(z, EmulatedArray)
    assert y.numpy().tobytes() == wanted.tobytes()
    np.testing.assert_allclose(z.numpy(), expected(TWICE, x=wanted), rtol=1e-5, atol=1e-6)


def test_outputs_are_not_overwritten_by_the_next_run(device: EmulatedDevice) -> None:
    made = session(TWICE)
    results = [made.run(None, {"x": device.array(values(3, 5, seed=seed))})[0] for seed in range(4)]
    for seed, y in enumerate(results):
        wanted = expected(TWICE, x=values(3, 5, seed=seed))
        np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_a_condition_on_the_device_is_looked_at(device: EmulatedDevice) -> None:
    text = """g (float[N] x, bool f) => (y) {
        y = If(f) <then_branch = t () => (p) { p = Relu(x) }, else_branch = e () => (q) { q = Neg(x) }> }"""
    made, x = session(text), values(5)
    for flag in (True, True, False, True):
        (y,) = made.run(None, {"x": device.array(x), "f": device.array(np.array(flag))})
        np.testing.assert_array_equal(y.numpy(), np.maximum(x, 0) if flag else -x)


def test_the_first_run_is_on_the_device(device: EmulatedDevice) -> None:
    """Shape rules tell what a run on the reference would teach: inputs on the device never leave it."""
    made = session(TWICE)
    for n in (3, 7):
        made.run(None, {"x": device.array(values(n, 5))})
    assert device.downloads == 0


def test_device_arrays_are_checked_like_others(device: EmulatedDevice) -> None:
    made = session(TWICE)
    with pytest.raises(InputError, match="float"):
        made.run(None, {"x": device.array(np.zeros((3, 5), np.int64))})
    with pytest.raises(InputError, match="dimension 1 must be 5"):
        made.run(None, {"x": device.array(np.zeros((3, 4), np.float32))})


class _Exported:
    """What offers an array by DLPack."""

    def __init__(self, kind: int, number: int) -> None:
        self.place = (kind, number)

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("CuPy's stand-in does not ask")

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.place


class _CupyArray:
    """As much of `cupy.ndarray` as an adoption needs."""

    data = SimpleNamespace(ptr=4096)
    shape = (2, 3)
    dtype = FLOAT
    flags = SimpleNamespace(c_contiguous=True)


def _card(number: int = 0) -> CudaDevice:
    card = CudaDevice.__new__(CudaDevice)
    card._number = number
    card.name = "card"
    card._cupy = SimpleNamespace(
        ndarray=_CupyArray, from_dlpack=lambda _: _CupyArray(), ascontiguousarray=lambda array: array
    )
    return card


@pytest.mark.parametrize(("memory", "log"), [(0, ["copy"]), (1, ["copy", "wait"]), (3, ["copy", "wait"])])
def test_an_upload_has_read_its_source(memory: int, log: list[str]) -> None:
    """CUDA reads memory that it knows, pinned or managed, after the call that asks for the copy."""
    done: list[str] = []
    card = _card()
    card._runtime = SimpleNamespace(
        memcpyAsync=lambda *_: done.append("copy"),
        pointerGetAttributes=lambda _: SimpleNamespace(type=memory),
    )
    card._stream = SimpleNamespace(ptr=0, synchronize=lambda: done.append("wait"))
    card.upload(np.zeros(3), 4096)
    assert done == log


def test_arrays_of_other_libraries_are_adopted() -> None:
    card = _card()
    found = card.adopt(_Exported(2, 0))
    assert found is not None
    assert (found.address, found.shape, found.dtype) == (4096, (2, 3), FLOAT)
    assert isinstance(found.owner, _CupyArray)


@pytest.mark.parametrize("value", [np.zeros(2), [1.0], 3, _Exported(1, 0), _Exported(3, 0)])
def test_values_of_the_host_are_not(value: Any) -> None:
    assert _card().adopt(value) is None


@pytest.mark.parametrize("place", [(2, 1), (10, 0)])
def test_arrays_of_another_device_are_refused(place: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="device"):
        _card().adopt(_Exported(*place))
