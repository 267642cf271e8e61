"""What the planner and the executor ask of a card, and of whatever stands in for one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

from ..dtypes import Array
from ._kernel import Kernel
from ._launch import Extent, LibraryOp
from ._tensor import DeviceTensor


class Buffer(Protocol):
    """Memory of a device; it is freed with the object."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Ready(Protocol):
    """A kernel or library operation that is loaded, planned, and can be run or captured."""

    def __call__(self) -> None: ...


class Idle(Protocol):
    """What keeps memory of a device for its next use, and can do without."""

    def release(self) -> None: ...


class Device(Protocol):
    """One card. All work goes to one stream, in order; nothing waits unless it says so.

    Attributes:
        name: of the card.
        arch: what kernels are compiled for, `sm_90`.
        libraries: what is there: "cublaslt", "cudnn".
        most_shared: bytes of shared memory that a block may ask for.
        lock: held by whoever gives the stream work that belongs together.
        idle: what gives memory back where there is none left.
    """

    name: str
    arch: str
    libraries: frozenset[str]
    most_shared: int
    lock: threading.RLock
    idle: weakref.WeakSet[Idle]

    def begin(self) -> Any:
        """Make the device current for this thread; later work sees what the caller's stream has done."""

    def end(self, begun: Any) -> None:
        """Let later work on the caller's stream see what was done here.

        Args:
            begun: what `begin` returned.
        """

    def caller(self) -> Hashable:
        """Return which stream the caller works on."""

    def allocate(self, nbytes: int, what: str = "memory", *, for_caller: bool = False) -> Buffer:
        """Return new memory.

        Args:
            what: it is for, as an error names it.
            for_caller: whether the caller's stream works with it behind this one; otherwise none does.

        Raises:
            DeviceMemoryError: there is none, also without what was idle.
        """

    def upload(self, array: Array, address: int) -> None:
        """Copy a C-contiguous array to the device; the array may change as soon as this returns."""

    def download(self, address: int, array: Array) -> None:
        """Copy from the device into a C-contiguous array, and wait for it."""

    def download_all(self, wanted: Sequence[tuple[int, Array]]) -> None:
        """Copy from addresses into C-contiguous arrays, and wait once for all."""

    def copy(self, source: int, goal: int, nbytes: int) -> None:
        """Copy within the device."""

    def clear(self, address: int, nbytes: int) -> None:
        """Fill with zero bytes."""

    def compile(self, kernels: Iterable[Kernel]) -> None:
        """Have kernels compiled, several at a time; launches of others compile one by one."""

    def launch(
        self, kernel: Kernel, arguments: Sequence[Any], grid: Extent, block: Extent, shared: int
    ) -> Ready:
        """Prepare a launch; compile the kernel if need be."""

    def library(self, op: LibraryOp, tensors: dict[str, int]) -> Ready:
        """Prepare a library's operation over addresses, its workspace included."""

    def capture(self, calls: Sequence[Ready]) -> Ready:
        """Make one graph of calls; running it runs them all."""

    def synchronize(self) -> None:
        """Wait for all work; raises what has gone wrong in it."""

    def adopt(self, value: Any) -> DeviceTensor | None:
        """Return a caller's array as a tensor of this device, without a copy; None for host arrays.

        Raises:
            InputError: it lies on another device.
        """

    def export(self, tensor: DeviceTensor) -> Any:
        """Return a tensor as the array type of the device's users, without a copy."""
