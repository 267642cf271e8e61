"""CuPy without a card: its own signatures and arrays, the host's memory, kernels in the emulator.

What `CudaDevice` asks for must be there in the CuPy that is installed, and its arguments must be as many, and
of the types, that CuPy's signatures say.
"""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxref.gpu import Kernel
from onnxref.gpu._cuda import CudaDevice
from onnxref.lowering import aligned_empty

from .emulator.build import emulated

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

NOBODYS = 42  # number of a function that does nothing
_FIRST_FUNCTION = 4200
_INTEGERS = ("intptr_t", "size_t", "int", "unsigned int")


def signature_of(function: Any) -> list[tuple[str, str]]:
    """Return (type, name) of each parameter, as CuPy's docstrings begin."""
    inside = (function.__doc__ or "").partition("\n")[0].partition("(")[2].rpartition(")")[0]
    return [(text.rpartition(" ")[0], text.rpartition(" ")[2]) for text in re.split(r",\s*", inside) if text]


class Bindings:
    """A module of CuPy's bindings whose functions take notes.

    Args:
        answers: what functions return, or do.
    """

    def __init__(self, real: Any, log: list[tuple[Any, ...]], **answers: Any) -> None:
        self._real, self._log, self._answers = real, log, answers

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not callable(real) or isinstance(real, type):
            return real
        parameters = signature_of(real)
        assert parameters or "()" in real.__doc__, f"{name}: {real.__doc__}"

        def call(*given: Any) -> Any:
            assert len(given) == len(parameters), f"{name}{given}"
            for value, (kind, parameter) in zip(given, parameters, strict=True):
                assert kind not in _INTEGERS or isinstance(value, int), f"{name}: {parameter} is {value!r}"
            self._log.append((name, *given))
            answer = self._answers.get(name)
            return answer(*given) if callable(answer) else answer

        return call


class FakeStream:
    """As much of a stream as a device uses."""

    def __init__(self, log: list[tuple[Any, ...]], name: str, ptr: int) -> None:
        self._log, self.name, self.ptr = log, name, ptr
        self.captured: list[Callable[[], None]] | None = None

    def __enter__(self) -> FakeStream:
        self._log.append(("enter", self.name))
        return self

    def __exit__(self, *_: object) -> None:
        self._log.append(("exit", self.name))

    def synchronize(self) -> None:
        self._log.append(("synchronize", self.name))

    def wait_event(self, event: Any) -> None:
        self._log.append(("wait", self.name, event.recorded))

    def begin_capture(self) -> None:
        self._log.append(("begin_capture", self.name))
        self.captured = []

    def end_capture(self) -> Any:
        self._log.append(("end_capture", self.name))
        calls, self.captured = self.captured or [], None

        def launch(stream: FakeStream) -> None:
            self._log.append(("launch graph", stream.name))
            for call in calls:
                call()

        return SimpleNamespace(upload=lambda stream: self._log.append(("upload", stream.name)), launch=launch)


class FakeEvent:
    """An event that knows the stream that it was last recorded on."""

    recorded = ""

    def __init__(self, *, disable_timing: bool) -> None:
        assert disable_timing

    def record(self, stream: FakeStream) -> None:
        self.recorded = stream.name


class Pool:
    """Memory of the host in the place of a card's; `room` bytes of it.

    Attributes:
        freed: how often the blocks that nobody uses were asked back.
    """

    def __init__(self, room: int) -> None:
        self.room, self.freed, self.used = room, 0, 0

    def alloc(self, nbytes: int) -> Any:
        if self.used + nbytes > self.room:
            raise cupy.cuda.memory.OutOfMemoryError(nbytes, self.used, 0)
        self.used += nbytes
        held = aligned_empty((nbytes,), np.dtype(np.uint8))
        held[...] = 0xA5
        made = SimpleNamespace(ptr=held.ctypes.data, held=held)
        weakref.finalize(made.held, self._give_back, nbytes)
        return made

    def _give_back(self, nbytes: int) -> None:
        self.used -= nbytes

    def free_all_blocks(self) -> None:
        self.freed += 1


class Card:
    """A device on the stand-in, and what it was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int = 1 << 28, **answers: Any) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.kernels: list[Kernel] = []
        self.pool = Pool(room)
        self.streams = [FakeStream(self.log, "ours", 77)]
        self.current = FakeStream(self.log, "caller", 0)
        self.number = 0
        real = cupy.cuda
        properties = {"name": b"card", "major": 9, "minor": 0, "sharedMemPerBlockOptin": 232448}
        answers = {
            "getDevice": lambda: self.number,
            "setDevice": self._set_device,
            "getDeviceProperties": properties,
            "memGetInfo": (1000, 2000),
            "pointerGetAttributes": SimpleNamespace(type=0),
            "memcpyAsync": lambda goal, source, nbytes, kind, stream: ctypes.memmove(goal, source, nbytes),
            "memsetAsync": lambda goal, value, nbytes, stream: ctypes.memset(goal, value, nbytes),
            "launchKernel": self._launch,
            **answers,
        }
        stand_in = SimpleNamespace(
            ndarray=cupy.ndarray,
            from_dlpack=cupy.from_dlpack,
            ascontiguousarray=cupy.ascontiguousarray,
            get_default_memory_pool=lambda: self.pool,
            cuda=SimpleNamespace(
                runtime=Bindings(real.runtime, self.log, **answers),
                driver=Bindings(real.driver, self.log, **answers),
                Stream=lambda *, non_blocking: self.streams[non_blocking - 1],
                Event=FakeEvent,
                Device=lambda number: FakeStream(self.log, f"device {number}", 0),
                function=SimpleNamespace(Module=lambda: _Module(self.log)),
                alloc=self.pool.alloc,
                alloc_pinned_memory=self.pool.alloc,
                get_current_stream=lambda: self.current,
                UnownedMemory=real.UnownedMemory,
                MemoryPointer=real.MemoryPointer,
            ),
        )
        monkeypatch.setattr(CudaDevice, "_open_libraries", lambda _: (None, None))
        self.device = CudaDevice(stand_in)
        self.log.clear()

    def _set_device(self, number: int) -> None:
        self.number = number

    def emulate(self, kernel: Kernel, arch: str) -> bytes:
        """Stand in for the compiler: from now on launches of the kernel run in the emulator."""
        assert arch == self.device.arch
        self.kernels.append(kernel)
        return str(len(self.kernels) - 1).encode()

    def _launch(self, function: int, *rest: Any) -> None:
        """Run a kernel, or take it into the graph that is being captured; its arguments are read now."""
        number = function - _FIRST_FUNCTION
        if not 0 <= number < len(self.kernels):
            return
        *geometry, shared, stream, arguments, _ = rest
        kernel = emulated(self.kernels[number])
        given = (ctypes.c_void_p * len(kernel._sizes)).from_address(arguments)
        read = [ctypes.string_at(p, size) for p, size in zip(given, kernel._sizes, strict=True)]
        held = [ctypes.create_string_buffer(value, len(value)) for value in read]
        pointers = (ctypes.c_void_p * max(1, len(held)))(*map(ctypes.addressof, held))
        extents = [(ctypes.c_uint * 3)(*geometry[i : i + 3]) for i in (0, 3)]

        def run() -> None:
            assert held
            assert not kernel._run(*extents, ctypes.c_size_t(shared), 0, pointers)

        (ours,) = (found for found in self.streams if found.ptr == stream)
        if ours.captured is not None:
            ours.captured.append(run)
        else:
            run()

    def array(self, values: Any) -> Any:
        """Return an array of CuPy's with these values."""
        made = self.pool.alloc(max(1, values.nbytes))
        ctypes.memmove(made.ptr, np.ascontiguousarray(values).ctypes.data, values.nbytes)
        memory = cupy.cuda.UnownedMemory(made.ptr, max(1, values.nbytes), made, 0)
        return cupy.ndarray(values.shape, values.dtype, cupy.cuda.MemoryPointer(memory, 0))


def looked_into(array: Any) -> Any:
    """Return the values of an array of CuPy's that lies in the host's memory."""
    assert isinstance(array, cupy.ndarray)
    return np.frombuffer(ctypes.string_at(array.data.ptr, array.nbytes), array.dtype).reshape(array.shape)


class _Module:
    """A loaded module."""

    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self._log = log

    def load(self, code: bytes) -> None:
        assert isinstance(code, bytes)
        self._log.append(("load", code))
        self._number = int(code) if code.isdigit() else NOBODYS

    def get_function(self, name: str) -> Any:
        return SimpleNamespace(ptr=_FIRST_FUNCTION + self._number, name=name)
