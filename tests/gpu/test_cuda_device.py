"""The real card's class on a stand-in of CuPy: every name, argument and order of calls that a card would see.

What the stand-in is asked for must be there in the CuPy that is installed, and its arguments must be as many,
and of the types, that CuPy's own signatures say.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxref.errors import BackendError, DeviceMemoryError, InputError
from onnxref.gpu import DeviceTensor, Kernel, _cuda, fetched
from onnxref.gpu._cuda import CudaDevice

from .stand_in import Card, FakeStream

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

KERNEL = Kernel("onnxref.kernels.cupy.code", "common.cuh", "nothing")


def attributes_of(source: str) -> set[tuple[str, ...]]:
    """Return the chains of names, as (cuda, Stream), that a source asks CuPy for."""
    roots = {
        "cupy": (),
        "self._cupy": (),
        "self._runtime": ("cuda", "runtime"),
        "self._driver": ("cuda", "driver"),
        "self._stream": ("cuda", "Stream", "null"),
        "self._begun": ("cuda", "Event"),
        "self._done": ("cuda", "Event"),
    }
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            for root, chain in roots.items():
                if text.startswith(f"{root}.") and re.fullmatch(r"[\w.]+", text):
                    found.add((*chain, *text[len(root) + 1 :].split(".")))
    return found


def test_cupy_has_every_name_that_is_asked_for() -> None:
    chains = attributes_of(inspect.getsource(_cuda))
    assert len(chains) > 25
    for chain in chains:
        holder = cupy
        for name in chain:
            assert hasattr(holder, name), f"CuPy {cupy.__version__} has no {'.'.join(chain)}"
            holder = getattr(holder, name)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return Card(monkeypatch)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Kernel]:
    """The kernels that were compiled, by a compiler that does nothing."""
    done: list[Kernel] = []

    def compile_kernel(kernel: Kernel, arch: str) -> bytes:
        assert arch == "sm_90"
        done.append(kernel)
        return kernel.entry.encode()

    monkeypatch.setattr(_cuda, "compile_kernel", compile_kernel)
    return done


# Streams ----------------------------------------------------------------------------------------------


def test_a_turn_lies_between_what_the_caller_does_before_and_after(card: Card) -> None:
    card.device.end(card.device.begin())
    assert card.log == [("getDevice",), ("wait", "ours", "caller"), ("wait", "caller", "ours")]


def test_a_turn_gives_the_callers_device_back(card: Card) -> None:
    card.number = 3
    begun = card.device.begin()
    assert card.number == 0
    card.device.end(begun)
    assert card.number == 3


def test_streams_of_each_thread_are_told_apart(card: Card) -> None:
    assert card.device.caller() == 0
    card.current = FakeStream(card.log, "own of each thread", cupy.cuda.Stream.ptds.ptr)
    assert card.device.caller() == (2, threading.get_ident())


def test_memory_belongs_to_the_stream_that_is_last_to_work_with_it(card: Card) -> None:
    card.device.allocate(100)
    assert card.log == [("enter", "device 0"), ("enter", "ours"), ("exit", "ours"), ("exit", "device 0")]
    card.log.clear()
    card.device.allocate(100, for_caller=True)
    assert card.log == []


# Copies -----------------------------------------------------------------------------------------------


def test_copies_go_where_they_should(card: Card) -> None:
    device = card.device
    x = np.arange(6, dtype=np.float32)
    here, there = device.allocate(24), device.allocate(24)
    device.upload(x, here.address)
    device.copy(here.address, there.address, 24)
    y = np.zeros_like(x)
    device.download(there.address, y)
    np.testing.assert_array_equal(x, y)
    device.clear(here.address, 24)
    kinds = [(entry[0], entry[-2], entry[-1]) for entry in card.log if entry[0].startswith("mem")]
    runtime = cupy.cuda.runtime
    to_device, to_host = runtime.memcpyHostToDevice, runtime.memcpyDeviceToHost
    copies = [("memcpyAsync", kind, 77) for kind in (to_device, runtime.memcpyDeviceToDevice, to_host)]
    assert kinds == [*copies, ("memsetAsync", 24, 77)]


def test_results_come_to_the_host_with_one_wait(card: Card) -> None:
    random = np.random.default_rng(0)
    shapes = [(3,), (0, 2), (), (5, 7), (1000,)]
    values = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    tensors = [_tensor(card.device, value) for value in values]
    card.log.clear()
    found = fetched(tensors)
    assert [entry[0] for entry in card.log].count("synchronize") == 1
    for y, value in zip(found, values, strict=True):
        np.testing.assert_array_equal(y, value)


def test_large_results_do_not_go_through_the_staging_memory(card: Card) -> None:
    values = [np.arange(elements, dtype=np.float32) for elements in (900_000, 10, 900_000, 2_000_000, 7)]
    tensors = [_tensor(card.device, value) for value in values]
    for _ in range(2):
        for y, value in zip(fetched(tensors), values, strict=True):
            np.testing.assert_array_equal(y, value)


def _tensor(device: CudaDevice, value: Any) -> DeviceTensor:
    made = DeviceTensor.empty(device, value.shape, value.dtype)
    device.upload(value, made.address)
    return made


# Kernels ----------------------------------------------------------------------------------------------


def test_a_launch_has_the_arguments_that_the_driver_wants(card: Card, compiled: list[Kernel]) -> None:
    launch = card.device.launch(KERNEL, [4096, 2.5, (1, 2, 3)], (5, 6, 7), (32, 2, 1), 1000)
    assert card.log == [("load", b"nothing")]
    launch()
    name, function, *geometry, stream, arguments, extra = card.log[-1]
    assert (name, function, geometry, stream, extra) == (
        "launchKernel",
        4242,
        [5, 6, 7, 32, 2, 1, 1000],
        77,
        0,
    )
    pointers = (ctypes.c_void_p * 3).from_address(arguments)
    assert ctypes.c_int64.from_address(pointers[0]).value == 4096
    assert ctypes.c_float.from_address(pointers[1]).value == 2.5
    assert list((ctypes.c_int64 * 3).from_address(pointers[2])) == [1, 2, 3]
    assert compiled == [KERNEL]


def test_much_shared_memory_is_asked_for(card: Card, compiled: list[Kernel]) -> None:
    card.device.launch(KERNEL, [], (1, 1, 1), (32, 1, 1), 48 * 1024)
    assert "funcSetAttribute" not in [entry[0] for entry in card.log]
    card.device.launch(KERNEL, [], (1, 1, 1), (32, 1, 1), 100_000)
    assert card.log[-1] == ("funcSetAttribute", 4242, 8, 100_000)
    assert len(compiled) == 1


def test_an_array_of_arguments_is_read_at_each_launch(card: Card, compiled: list[Kernel]) -> None:
    """It may change between launches; the driver copies arguments when it is told to launch."""
    words = (ctypes.c_int64 * 2)(1, 2)
    launch = card.device.launch(KERNEL, [words], (1, 1, 1), (32, 1, 1), 0)
    for wanted in ([1, 2], [3, 4]):
        words[:] = wanted
        launch()
        pointers = (ctypes.c_void_p * 1).from_address(card.log[-1][-2])
        assert list((ctypes.c_int64 * 2).from_address(pointers[0])) == wanted
    assert compiled


def test_a_graph_is_captured_uploaded_and_launched_on_our_stream(card: Card) -> None:
    graph = card.device.capture([lambda: card.log.append(("call",))])
    assert [entry[0] for entry in card.log] == ["begin_capture", "call", "end_capture", "upload"]
    graph()
    assert card.log[-1] == ("launch graph", "ours")


def test_a_capture_that_fails_is_ended_and_says_why(card: Card) -> None:
    def fail() -> None:
        raise BackendError("a library refuses")

    with pytest.raises(BackendError, match="refuses"):
        card.device.capture([fail])
    assert [entry[0] for entry in card.log] == ["begin_capture", "end_capture"]


def named(count: int) -> list[Kernel]:
    return [Kernel("onnxref.kernels.cupy.code", "common.cuh", f"kernel{i}") for i in range(count)]


def test_kernels_are_compiled_together_and_once(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "usable_cores", lambda: 3)
    together = threading.Barrier(3, timeout=60)
    done: list[str] = []

    def compile_kernel(kernel: Kernel, arch: str) -> bytes:
        together.wait()  # passes only where three are under way
        done.append(kernel.entry)
        return kernel.entry.encode()

    monkeypatch.setattr(_cuda, "compile_kernel", compile_kernel)
    kernels = named(9)
    card.device.compile(kernels)
    assert sorted(done) == [kernel.entry for kernel in kernels]
    card.device.compile(kernels)
    for kernel in kernels:
        card.device.launch(kernel, [], (1, 1, 1), (32, 1, 1), 0)
    card.device.compile(kernels)
    assert len(done) == 9
    assert [entry[0] for entry in card.log] == ["load"] * 9


def test_programs_that_share_kernels_compile_them_once(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where both are at it at the same time: the second one waits for the first one's code."""
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def compile_kernel(kernel: Kernel, arch: str) -> bytes:
        begun.set()
        assert go_on.wait(60)
        done.append(kernel.entry)
        return b"code"

    monkeypatch.setattr(_cuda, "compile_kernel", compile_kernel)
    (kernel,) = named(1)
    first = threading.Thread(target=card.device.compile, args=([kernel],))
    first.start()
    assert begun.wait(60)
    second = threading.Thread(target=card.device.launch, args=(kernel, [], (1, 1, 1), (32, 1, 1), 0))
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert done == ["kernel0"]
    assert card.log == [("load", b"code")]


def test_a_kernel_that_does_not_compile_is_an_error_each_time(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_kernel(kernel: Kernel, arch: str) -> bytes:
        if kernel.entry == "kernel1":
            raise BackendError("NVRTC cannot compile it")
        return b"code"

    monkeypatch.setattr(_cuda, "compile_kernel", compile_kernel)
    for _ in range(2):
        with pytest.raises(BackendError, match="^NVRTC cannot compile it$"):
            card.device.compile(named(3))
        with pytest.raises(BackendError, match="^NVRTC cannot compile it$"):
            card.device.launch(named(2)[1], [], (1, 1, 1), (32, 1, 1), 0)
    card.device.launch(named(1)[0], [], (1, 1, 1), (32, 1, 1), 0)


# Memory -----------------------------------------------------------------------------------------------


class Hoard:
    """What keeps memory until it is asked to give it back."""

    def __init__(self, device: CudaDevice, nbytes: int) -> None:
        self.held: Any = device.allocate(nbytes)
        device.idle.add(self)

    def release(self) -> None:
        self.held = None


def test_idle_memory_is_given_back_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, room=(64 << 20) + 1000)
    hoard = Hoard(card.device, 800)
    found = card.device.allocate(600, for_caller=True)
    assert found.nbytes == 600
    assert hoard.held is None
    assert card.pool.freed == 1


def test_an_error_tells_what_memory_is_wanted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, room=(64 << 20) + 1000)
    hoard = Hoard(card.device, 100)
    with pytest.raises(DeviceMemoryError) as raised:
        card.device.allocate(1_234_567, "the arena of model 'net'")
    assert str(raised.value).startswith(
        "card has no memory for 1,234,567 bytes (the arena of model 'net'); 1,000 of its 2,000 bytes are free"
    )
    assert isinstance(raised.value, MemoryError)
    assert hoard.held is None


# Arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, np.bool_, np.int64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_arrays_of_cupy_go_out_and_come_in(card: Card, dtype: Any, shape: tuple[int, ...]) -> None:
    """With CuPy's own arrays: they need no card as long as nobody looks into them."""
    tensor = DeviceTensor.empty(card.device, shape, np.dtype(dtype))
    array = card.device.export(tensor)
    assert isinstance(array, cupy.ndarray)
    assert (array.shape, array.dtype, array.data.ptr) == (shape, np.dtype(dtype), tensor.address)
    card.log.clear()
    found = card.device.adopt(array)
    assert found is not None
    assert (found.address, found.shape, found.dtype) == (tensor.address, shape, np.dtype(dtype))
    assert found.owner is array
    assert card.log == []


def test_memory_that_went_out_lives_as_long_as_any_view_of_it(card: Card) -> None:
    class Owner:
        """Something that can be referred to weakly."""

    owner = Owner()
    alive = weakref.ref(owner)
    array = card.device.export(DeviceTensor(card.device, 4096, (4, 2), np.dtype(np.float32), owner))
    view = array[1:].reshape(-1)
    del owner, array
    assert alive() is not None
    del view
    assert alive() is None


def test_arrays_of_another_card_are_refused(card: Card) -> None:
    memory = cupy.cuda.UnownedMemory(4096, 64, None, 1)
    array = cupy.ndarray((4,), np.float32, cupy.cuda.MemoryPointer(memory, 0))
    with pytest.raises(InputError, match="lies on device 1"):
        card.device.adopt(array)


class Refusing:
    """Another library's array that cannot be exported."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("it requires a gradient")


def test_what_cannot_be_imported_is_an_error_of_the_input(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card.device._cupy, "from_dlpack", _from_dlpack)
    with pytest.raises(InputError, match="BufferError: it requires a gradient"):
        card.device.adopt(Refusing())


def _from_dlpack(value: Any) -> Callable[[], Any]:
    return value.__dlpack__(stream=1)
