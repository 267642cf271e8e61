"""A device made of this processor: kernels in the emulator, libraries replaced by NumPy, calls recorded."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import DeviceTensor, Extent, Kernel, LibraryOp
from onnxref.lowering import aligned_empty

from .build import address, emulated
from .libraries import run_library

GUARD = 256  # bytes before and behind every allocation


class OverrunError(AssertionError):
    """Something wrote outside of its memory."""


class EmulatedBuffer:
    """Memory with guards around it; what it holds at first is of no use to anyone."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._raw = aligned_empty((nbytes + 2 * GUARD,), np.dtype(np.uint8))
        self._raw[...] = 0xA5
        self.address = address(self._raw) + GUARD

    def check(self) -> None:
        """Raise if the guards have changed."""
        if (self._raw[:GUARD] != 0xA5).any() or (self._raw[GUARD + self.nbytes :] != 0xA5).any():
            raise OverrunError("a kernel wrote outside of its memory")


@dataclass(frozen=True, slots=True)
class EmulatedArray:
    """What users of this device hold: an array in its memory."""

    tensor: DeviceTensor

    def numpy(self) -> Array:
        """Return a copy on the host."""
        return self.tensor.numpy()


@dataclass(slots=True)
class EmulatedCall:
    """A prepared call; running it notes it in the device's log."""

    device: EmulatedDevice
    shown: str
    run: Callable[[], None]

    def __call__(self) -> None:
        self.device.log.append(self.shown)
        self.device.calls += 1
        self.run()


@dataclass
class EmulatedDevice:
    """The protocol `onnxref.gpu.Device`, on the processor.

    Attributes:
        order: schedule of the threads, see `build.ORDERS`.
        log: what was run, in order; a captured graph as "graph of N".
        uploads, downloads: bytes that went from and to the host.
        calls: how often it was told to do something, memory and copies included.
        stream: the caller's.
    """

    name: str = "emulated"
    arch: str = "sm_90"
    libraries: frozenset[str] = frozenset(("cublaslt", "cudnn"))
    most_shared: int = 227 * 1024
    order: int = 0
    log: list[str] = field(default_factory=list)
    uploads: int = 0
    downloads: int = 0
    buffers: list[EmulatedBuffer] = field(default_factory=list)
    calls: int = 0
    stream: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    idle: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)

    def begin(self) -> None:
        """Nothing to do."""

    def end(self, begun: None) -> None:
        """Nothing to do."""

    def caller(self) -> int:
        return self.stream

    def compile(self, kernels: Iterable[Kernel]) -> None:
        """Nothing to do: kernels are built when they are first run."""

    def allocate(self, nbytes: int, what: str = "memory", *, for_caller: bool = False) -> EmulatedBuffer:
        self.calls += 1
        made = EmulatedBuffer(nbytes)
        self.buffers.append(made)
        return made

    def upload(self, array: Array, address_: int) -> None:
        self.calls += 1
        self.uploads += array.nbytes
        memory(address_, array.nbytes)[...] = np.frombuffer(array.tobytes(), np.uint8)

    def download(self, address_: int, array: Array) -> None:
        self.calls += 1
        self.downloads += array.nbytes
        array.reshape(-1).view(np.uint8)[...] = memory(address_, array.nbytes)

    def download_all(self, wanted: Sequence[tuple[int, Array]]) -> None:
        for address_, array in wanted:
            self.download(address_, array)

    def copy(self, source: int, goal: int, nbytes: int) -> None:
        self.calls += 1
        memory(goal, nbytes)[...] = memory(source, nbytes)

    def clear(self, address_: int, nbytes: int) -> None:
        memory(address_, nbytes)[...] = 0

    def launch(
        self, kernel: Kernel, arguments: Sequence[Any], grid: Extent, block: Extent, shared: int
    ) -> EmulatedCall:
        assert shared <= self.most_shared, f"{kernel} wants {shared} bytes of shared memory"
        built = emulated(kernel)
        return EmulatedCall(self, str(kernel), lambda: built(arguments, grid, block, shared, self.order))

    def library(self, op: LibraryOp, tensors: dict[str, int]) -> EmulatedCall:
        return EmulatedCall(self, str(op), lambda: run_library(op, tensors))

    def capture(self, calls: Sequence[Callable[[], None]]) -> EmulatedCall:
        def replay() -> None:
            for call in calls:
                assert isinstance(call, EmulatedCall)
                call.run()

        return EmulatedCall(self, f"graph of {len(calls)}", replay)

    def synchronize(self) -> None:
        for buffer in self.buffers:
            buffer.check()

    def adopt(self, value: Any) -> DeviceTensor | None:
        return value.tensor if isinstance(value, EmulatedArray) else None

    def export(self, tensor: DeviceTensor) -> EmulatedArray:
        return EmulatedArray(tensor)

    def array(self, values: Array) -> EmulatedArray:
        """Return a device array with these values."""
        made = DeviceTensor.empty(self, values.shape, values.dtype)
        self.upload(np.ascontiguousarray(values), made.address)
        return EmulatedArray(made)


def memory(address_: int, nbytes: int) -> Array:
    """Return the bytes at an address as an array."""
    if nbytes == 0:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address_))
