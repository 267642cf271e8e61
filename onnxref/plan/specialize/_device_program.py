"""A specialised piece of a plan on a GPU: launches over one arena, and steps of the reference between them.

Runs at the same time use one instance each, see `_device_instance.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...dtypes import Array
from ...gpu import Buffer, Device, DeviceTensor, Kernel, Launch, turn
from ...limits import Budget
from ...lowering import ACCESS, Operand, PackCache, Scratch
from ...native import NativeFunction
from ._device_instance import Instance, Piece
from ._join import join_launches, used_operands
from ._lower import Lowered
from ._memory import Lifetime, arrange
from ._program import RunStep, WatchOp
from ._roots import Roots


class DeviceConstants:
    """Constants on a device, each of which goes there once.

    Args:
        packs: tells which arrays live as long as the model.
        model: what keeps those, for all programs; a program's own constants keep the others.
        name: of the model, for errors.
    """

    def __init__(
        self, device: Device, packs: PackCache, model: DeviceConstants | None = None, name: str = ""
    ) -> None:
        self._device = device
        self._packs = packs
        self._model = model
        self.name = name
        self._held: dict[int, tuple[Any, Buffer]] = {}

    def of_program(self) -> DeviceConstants:
        """Return what holds the constants of one program, and goes with it."""
        return DeviceConstants(self._device, self._packs, self, self.name)

    def address(self, array: Array) -> int:
        """Return where an array lies on the device."""
        if self._model is not None and self._packs.lasts(array):
            return self._model.address(array)
        found = self._held.get(id(array))
        if found is None:
            buffer = self._device.allocate(max(1, array.nbytes), f"a constant of model {self.name!r}")
            self._device.upload(np.ascontiguousarray(array), buffer.address)
            found = self._held[id(array)] = (array, buffer)
        return found[1].address

    def release(self) -> None:
        """Give back what only one program uses; what asks for it again gets it again."""
        if self._model is not None:
            self._held.clear()

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for _, buffer in self._held.values())


@dataclass(slots=True, eq=False, weakref_slot=True)
class DeviceProgram:
    """Ops ready to run on a GPU for one signature of inputs.

    Args:
        lowered: what computes each op, in order.
        inputs, outputs: operands that come in and go out, in order.
        constants: of the model, on the device.
        debug: every tensor in memory of its own, nothing captured, and a look at the device after each call.
    """

    lowered: list[Lowered]
    inputs: list[Operand]
    outputs: list[Operand]
    device: Device
    constants: DeviceConstants
    debug: bool = False
    arena_bytes: int = field(init=False, default=0)
    spans: list[Piece | int] = field(init=False, default_factory=list)
    is_simple: bool = field(init=False, default=False)  # a run is one stretch of launches
    places: dict[Operand | Scratch, Lifetime] = field(init=False, default_factory=dict)
    roots: Roots = field(init=False)
    _free: list[Instance] = field(init=False, default_factory=list)
    _busy: int = field(init=False, default=0)  # instances that are being made or used
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.roots = Roots(self.lowered, (*self.inputs, *self.outputs), ACCESS)
        self.lowered = self.roots.without_copies(self.lowered)
        self.lowered = join_launches(self.lowered, self.roots, across=not self.debug)
        self._place_all()
        for index, found in enumerate(self.lowered):
            last = self.spans[-1] if self.spans else None
            if found.step is not None:
                self.spans.append(index)
            elif isinstance(last, Piece):
                last.end = index + 1
            else:
                self.spans.append(Piece(index, index + 1))
        self.is_simple = len(self.spans) == 1 and isinstance(self.spans[0], Piece)
        with self.device.lock:
            self.device.idle.add(self)

    def _place_all(self) -> None:
        """Lay operands and scratch into the arena.

        Inputs are there from the begin, outputs to the end, zeroed scratch throughout.
        """
        end = len(self.lowered)
        lifetimes = self.places

        def use(operand: Operand, index: int) -> None:
            root = self.roots.of(operand)
            if operand.constant is None and root.constant is None:
                found = lifetimes.setdefault(root, Lifetime(root.buffer_bytes, index, index))
                found.first, found.last = min(found.first, index), max(found.last, index)

        for x in self.inputs:
            use(x, -1)
        for index, lowered in enumerate(self.lowered):
            for operand in (*lowered.op.inputs, *lowered.op.outputs, *used_operands(lowered)):
                if operand is not None:
                    use(operand, index)
            for scratch in lowered.site.scratches if lowered.site else ():
                span = (-1, end) if scratch.is_zeroed else (index, index)
                lifetimes[scratch] = Lifetime(scratch.nbytes, *span)
        for y in self.outputs:
            use(y, end)
        self.arena_bytes = arrange(lifetimes.values())

    def functions(self) -> list[NativeFunction]:
        """Return the native functions that a run needs: none, CUDA kernels are the device's business."""
        return []

    missing = functions

    def kernels(self) -> list[Kernel]:
        """Return the kernels of all launches, each once."""
        calls = [call for found in self.lowered for call in found.launches]
        return list(dict.fromkeys(call.kernel for call in calls if isinstance(call, Launch)))

    def compile(self) -> None:
        """Load all kernels and plan all library calls, by making the first instance."""
        self.device.compile(self.kernels())
        with turn(self.device), self._instance():
            pass

    def release(self) -> None:
        """Give back the memory that no run uses now; the next run takes new memory."""
        with self._lock:
            self._free.clear()
            if not self._busy:
                self.constants.release()

    @property
    def idle_bytes(self) -> int:
        """Memory that is kept for the next run."""
        return sum(instance.nbytes for instance in tuple(self._free))

    @property
    def launches(self) -> int:
        """How many kernels and library calls one run takes."""
        return sum(len(found.launches) for found in self.lowered)

    def run(
        self, inputs: Sequence[Any], budget: Budget, run_step: RunStep, watch: WatchOp | None = None
    ) -> list[DeviceTensor]:
        """Return the outputs; see `Program.run`.

        Args:
            inputs: NumPy arrays, or tensors of the device.
        """
        with turn(self.device), self._instance() as instance:
            return instance.run(inputs, budget, run_step, watch)

    @contextmanager
    def _instance(self) -> Iterator[Instance]:
        """Lend an instance that no other run uses."""
        with self._lock:
            self._busy += 1
            instance = self._free.pop() if self._free else None
        try:
            if instance is None:
                instance = Instance(self)
            yield instance
        finally:
            with self._lock:
                self._busy -= 1
                if instance is not None:
                    self._free.append(instance)
