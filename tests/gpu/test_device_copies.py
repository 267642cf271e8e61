"""What a run on a card copies: inputs and outputs stay in place where they can, and no call is for one."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxref
from onnxref.dtypes import Array
from onnxref.errors import NodeError
from onnxref.gpu import Extent, Kernel
from onnxref.plan.specialize import DeviceProgram

from .emulator.device import EmulatedArray, EmulatedBuffer, EmulatedCall, EmulatedDevice

SMALL, LARGE = 8, 20_000  # elements of float32, below and above what is copied rather than bound


def many(count: int, elements: int = SMALL) -> onnx.ModelProto:
    """Return a model with so many inputs and outputs: y_i = x_i + x_i."""
    names = range(count)
    inputs = ", ".join(f"float[{elements}] x{i}" for i in names)
    outputs = ", ".join(f"y{i}" for i in names)
    nodes = " ".join(f"y{i} = Add(x{i}, x{i})" for i in names)
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    )


def session(model: onnx.ModelProto | str, **options: Any) -> onnxref.InferenceSession:
    if isinstance(model, str):
        model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>' + model)
    return onnxref.InferenceSession(model, **{"backend": "cupy", **options})


def values(elements: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(elements).astype(np.float32)


def feeds(
    device: EmulatedDevice, count: int, elements: int = SMALL, seed: int = 0
) -> dict[str, EmulatedArray]:
    return {f"x{i}": device.array(values(elements, 100 * seed + i)) for i in range(count)}


def check(outputs: list[Any], given: dict[str, EmulatedArray]) -> None:
    for y, x in zip(outputs, given.values(), strict=True):
        np.testing.assert_array_equal(y.numpy(), 2 * x.numpy())


def calls_of(device: EmulatedDevice, made: onnxref.InferenceSession, given: dict[str, Any]) -> int:
    before = device.calls
    outputs = made.run(None, given)
    calls = device.calls - before
    check(outputs, given)
    return calls


# How many calls ---------------------------------------------------------------------------------------


def test_calls_of_a_run_do_not_depend_on_how_many_tensors_there_are(device: EmulatedDevice) -> None:
    """Of any run behind the first two, which make launches one by one and memory for outputs to be lent."""
    found = {}
    for count in (2, 25, 100):
        made = session(many(count))
        held = [feeds(device, count, seed=seed) for seed in range(12)]  # no address comes twice
        found[count] = [calls_of(device, made, given) for given in held][2:]
    assert found[2] == found[25] == found[100] == [2] * 10  # the copies, the graph


def test_tensors_that_come_again_are_not_copied(device: EmulatedDevice) -> None:
    """In the end a run is one call: the launch of a graph."""
    made = session(many(25))
    given = feeds(device, 25)
    calls = [calls_of(device, made, given) for _ in range(6)]
    assert calls[-1] == 1
    assert device.log[-1] == "graph of 25"


def test_what_two_outputs_in_turn_need_is_two_graphs(device: EmulatedDevice) -> None:
    """The usual loop: the last results are still held while the next ones are made."""
    made, given = session(many(2)), feeds(device, 2)
    outputs = None
    for _ in range(6):
        outputs = made.run(None, given)
    before = device.calls
    for _ in range(4):
        outputs = made.run(None, given)
    assert device.calls - before == 4
    assert outputs is not None
    check(outputs, given)


def test_a_state_that_goes_round_is_not_copied(device: EmulatedDevice) -> None:
    """Large outputs are the next run's inputs, as a decoder's cache; a small input is new each time."""
    made = session(f"g (float[{LARGE}] s, float[1] x) => (t, y) {{ t = Add(s, x) y = Mul(x, x) }}")
    state: Any = device.array(np.zeros(LARGE, np.float32))
    kept, calls = [], []
    for step in range(20):
        x = device.array(np.float32([step]))
        before = device.calls
        state, y = made.run(None, {"s": state, "x": x})
        calls.append(device.calls - before)
        kept.append(x)
        assert y.numpy()[0] == step**2
        del y
    np.testing.assert_array_equal(state.numpy(), np.full(LARGE, 190, np.float32))
    assert calls[-4:] == [2] * 4  # the copy of x, and the graph


def test_small_inputs_from_many_places_do_not_keep_large_ones_from_theirs(device: EmulatedDevice) -> None:
    made = session(f"g (float[{LARGE}] s, float[1] x) => (y) {{ y = Add(s, x) }}")
    state = device.array(values(LARGE))
    places = [device.array(np.float32([i])) for i in range(20)]
    for number in range(80):
        x = places[number * 7 % 20]
        (y,) = made.run(None, {"s": state, "x": x})
        np.testing.assert_array_equal(y.numpy(), state.numpy() + x.numpy())
    before = device.calls
    made.run(None, {"s": state, "x": device.array(np.float32([5]))})
    assert device.calls - before == 4  # the new array's memory and upload, the copy of it, the graph


def test_inputs_of_the_host_are_uploaded(device: EmulatedDevice) -> None:
    made = session(many(3))
    given = feeds(device, 3)
    mixed = {**given, "x1": given["x1"].numpy()}
    for _ in range(5):
        for y, x in zip(made.run(None, mixed), given.values(), strict=True):
            np.testing.assert_array_equal(y.numpy(), 2 * x.numpy())


class _Late(EmulatedDevice):
    """A device that does nothing before someone waits for it; kernels' arguments are read at their launch."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Callable[[], None]] = []

    def launch(
        self, kernel: Kernel, arguments: Sequence[Any], grid: Extent, block: Extent, shared: int
    ) -> EmulatedCall:
        def call() -> None:
            read = [tuple(x) if isinstance(x, ctypes.Array) else x for x in arguments]
            self.queue.append(EmulatedDevice.launch(self, kernel, read, grid, block, shared).run)

        return EmulatedCall(self, str(kernel), call)

    def copy(self, source: int, goal: int, nbytes: int) -> None:
        self.queue.append(partial(super().copy, source, goal, nbytes))

    def upload(self, array: Array, address_: int) -> None:
        self.queue.append(partial(super().upload, array.copy(), address_))

    def download(self, address_: int, array: Array) -> None:
        waiting, self.queue = self.queue, []
        for call in waiting:
            call()
        super().download(address_, array)


@pytest.mark.parametrize("elements", [SMALL, LARGE])
def test_runs_in_flight_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """Nobody waits between runs whose inputs lie elsewhere each time, or that let go of their results."""
    import onnxref.gpu

    device = _Late()
    monkeypatch.setattr(onnxref.gpu, "open_device", lambda: device)
    made = session(many(3, elements))
    given = [feeds(device, 3, elements, seed) for seed in range(4)]
    wanted = [[2 * x.numpy() for x in each.values()] for each in given]
    kept = []
    for number in (0, 1, 2, 3, 0, 0, 1, 1, 0, 1, 0, 1, 2, 2, 3):
        outputs = made.run(None, given[number])
        kept.append((outputs[number % 3], number, number % 3))
    assert device.queue
    for y, number, index in kept:
        np.testing.assert_array_equal(y.numpy(), wanted[number][index])


# Whose memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [SMALL, LARGE])
def test_results_that_are_kept_stay_as_they_are(device: EmulatedDevice, elements: int) -> None:
    made = session(many(3, elements))
    kept = []
    for seed in range(8):
        given = feeds(device, 3, elements, seed % 3)
        kept.append((made.run(None, given), given))
    for outputs, given in kept:
        check(outputs, given)


def test_what_callers_keep_is_copied_and_the_rest_is_lent(device: EmulatedDevice) -> None:
    """A loop that collects one output does not keep the memory of the others."""
    made = session(many(2, LARGE))
    given = feeds(device, 2, LARGE)
    kept = [made.run(None, given)[0] for _ in range(3)]
    (region,) = made.native_regions()
    assert isinstance(region.program, DeviceProgram)
    before = region.program.idle_bytes
    kept += [made.run(None, given)[0] for _ in range(6)]
    assert region.program.idle_bytes <= before
    calls = device.calls
    kept.append(made.run(None, given)[0])
    assert device.calls - calls == 3  # a graph, new memory, one copy
    for y in kept:
        np.testing.assert_array_equal(y.numpy(), 2 * given["x0"].numpy())


def test_outputs_are_lent_to_one_stream(device: EmulatedDevice) -> None:
    """Another stream may write where the first one still reads what it has let go of."""
    made, given = session(many(2)), feeds(device, 2)
    for _ in range(4):
        made.run(None, given)
    lent = {y.tensor.address for y in made.run(None, given)}
    device.stream = 1
    elsewhere = made.run(None, given)
    assert lent.isdisjoint(y.tensor.address for y in elsewhere)
    check(elsewhere, given)
    device.stream = 0
    assert {y.tensor.address for y in made.run(None, given)} == lent


def test_an_input_may_be_an_output_of_the_same_model(device: EmulatedDevice) -> None:
    made = session("g (float[8] x) => (y) { a = Relu(x) b = Neg(x) y = Add(a, b) }")
    x: Any = device.array(values(8))
    wanted = x.numpy()
    for _ in range(9):
        (x,) = made.run(None, {"x": x})
        wanted = np.maximum(wanted, 0) - wanted
        np.testing.assert_array_equal(x.numpy(), wanted)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[4, 4] x) => (y, z) { y = Reshape<allowzero = 0>(x, s) z = Relu(x) }",
        "g (float[4, 4] x) => (y, z) { y = Relu(x) z = Reshape(y, s) }",
        "g (float[4, 4] x) => (y, z) { y = Relu(x) z = Concat<axis = 0>(y, x) }",
        "g (float[4, 4] x) => (y, z, x) { y = Relu(x) z = Neg(x) }",
        "g (float[4, 4] x) => (y, c) { y = Relu(x) c = Add(s, s) }",
    ],
)
def test_outputs_that_share_memory_are_apart(device: EmulatedDevice, text: str) -> None:
    text = text.replace("{", "<int64[2] s = {2, 8}> {", 1)
    made = session(text)
    x = values(16).reshape(4, 4)
    wanted = session(text, backend="numpy").run(None, {"x": x})
    given = device.array(x)
    held = []
    for _ in range(6):
        found = made.run(None, {"x": given})
        held.append(found)
    for found in held[-3:]:
        for y, expected in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(y.numpy() if isinstance(y, EmulatedArray) else y, expected)


def test_addresses_that_suit_no_kernel_are_copied(device: EmulatedDevice) -> None:
    """A view that begins in the middle of an array."""
    from onnxref.gpu import DeviceTensor

    made = session(many(2))
    whole = device.array(values(SMALL + 3))
    tensor = whole.tensor
    views = [
        EmulatedArray(DeviceTensor(device, tensor.address + 4 * at, (SMALL,), tensor.dtype, whole))
        for at in (1, 3)
    ]
    given = dict(zip(("x0", "x1"), views, strict=True))
    for _ in range(5):
        check(made.run(None, given), given)
    assert device.log[-1].startswith("graph")
    assert any(line.startswith("copies.copy_many") for line in device.log[-2:])


# Bounds -----------------------------------------------------------------------------------------------


class _Counting(EmulatedDevice):
    """A device that does not keep buffers alive, and counts the graphs that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: weakref.WeakSet[EmulatedBuffer] = weakref.WeakSet()
        self.graphs: weakref.WeakSet[Any] = weakref.WeakSet()

    def allocate(self, nbytes: int, what: str = "memory", *, for_caller: bool = False) -> EmulatedBuffer:
        self.calls += 1
        made = EmulatedBuffer(nbytes)
        self.alive.add(made)
        return made

    def capture(self, calls: Any) -> Any:
        captured = super().capture(calls)

        class Graph:
            """A graph that can be referred to weakly."""

            def __call__(self) -> None:
                captured()

        made = Graph()
        self.graphs.add(made)
        return made


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> _Counting:
    import onnxref.gpu

    device = _Counting()
    monkeypatch.setattr(onnxref.gpu, "open_device", lambda: device)
    return device


def test_graphs_and_memory_are_bounded(counting: _Counting) -> None:
    """Inputs that come from ever more places, each of them again and again."""
    made = session(many(2, LARGE))
    given = [feeds(counting, 2, LARGE, seed) for seed in range(12)]
    held = len(counting.alive)
    for number in range(200):
        chosen = given[number % 12 if number % 3 else number % 5]
        check(made.run(None, chosen), chosen)
    assert len(counting.graphs) <= 17
    assert len(counting.alive) - held <= 10


def test_a_session_that_goes_frees_its_memory_at_once(counting: _Counting) -> None:
    gc.collect()
    gc.disable()
    try:
        made = session(many(2))
        given = feeds(counting, 2)
        for _ in range(6):
            made.run(None, given)
        (region,) = made.native_regions()
        program = region.program
        assert isinstance(program, DeviceProgram)
        del given
        program.release()
        left = len(counting.alive)
    finally:
        gc.enable()
    assert left == 0
    given = feeds(counting, 2)
    check(made.run(None, given), given)


# Threads, errors --------------------------------------------------------------------------------------


def test_threads_with_addresses_of_their_own(device: EmulatedDevice) -> None:
    made = session(many(3))
    wrong: list[int] = []

    def work(seed: int) -> None:
        given = feeds(device, 3, seed=seed)
        expected = [2 * x.numpy() for x in given.values()]
        for _ in range(8):
            outputs = made.run(None, given)
            if any((y.numpy() != wanted).any() for y, wanted in zip(outputs, expected, strict=True)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_run_that_fails_harms_no_other(device: EmulatedDevice) -> None:
    made = session("g (float[4, 3] x, int64[2] i) => (y, z) { y = Gather<axis = 0>(x, i) z = Relu(x) }")
    x = device.array(values(12).reshape(4, 3))
    good, bad = (device.array(np.int64(rows)) for rows in ([0, -1], [0, 4]))
    kept = []
    for _ in range(6):
        kept.append(made.run(None, {"x": x, "i": good}))
        with pytest.raises(NodeError, match="indices must be in"):
            made.run(None, {"x": x, "i": bad})
    for y, z in kept:
        np.testing.assert_array_equal(y.numpy(), x.numpy()[[0, -1]])
        np.testing.assert_array_equal(z.numpy(), np.maximum(x.numpy(), 0))


def test_a_launch_that_fails_leaves_the_session_usable(
    device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, given = session(many(2)), feeds(device, 2)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the card says no")

    for seed in range(8):  # launches, copies and captures, whatever the run is about to do
        for failing in ("copy", "capture", "launch", "allocate"):
            others = feeds(device, 2, seed=seed)
            with monkeypatch.context() as patch, suppress(RuntimeError):
                patch.setattr(device, failing, fail)
                made.run(None, others)
            check(made.run(None, given), given)
