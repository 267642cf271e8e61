"""A specialised piece of a plan on a GPU: launches over one arena, and steps of the reference between them.

The stretches between reference steps run as captured graphs from their second run on: the first one warms up
what must not happen while capturing (loading code, choosing algorithms). A captured graph has fixed
addresses, so inputs are copied into the arena and outputs out of it; runs at the same time use one
instance each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...dtypes import Array
from ...errors import KernelError
from ...gpu import Buffer, Device, DeviceCall, DeviceTensor, Launch, Ready, turn
from ...limits import Budget
from ...lowering import LINE, Address, Fault, Operand, PackCache, Packed, Scratch
from ...native import NativeFunction
from .._steps import Step
from ._lower import Lowered
from ._memory import Lifetime, arrange
from ._program import RefusedError, RunStep, WatchOp
from ._roots import Roots


class DeviceConstants:
    """Constants on a device, each of which goes there once.

    Args:
        packs: tells which arrays live as long as the model.
        model: what keeps those, for all programs; a program's own constants keep the others.
    """

    def __init__(self, device: Device, packs: PackCache, model: DeviceConstants | None = None) -> None:
        self._device = device
        self._packs = packs
        self._model = model
        self._held: dict[int, tuple[Any, Buffer]] = {}

    def of_program(self) -> DeviceConstants:
        """Return what holds the constants of one program, and goes with it."""
        return DeviceConstants(self._device, self._packs, self)

    def address(self, array: Array) -> int:
        """Return where an array lies on the device."""
        if self._model is not None and self._packs.lasts(array):
            return self._model.address(array)
        found = self._held.get(id(array))
        if found is None:
            buffer = self._device.allocate(max(1, array.nbytes))
            self._device.upload(np.ascontiguousarray(array), buffer.address)
            found = self._held[id(array)] = (array, buffer)
        return found[1].address

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for _, buffer in self._held.values())


@dataclass(slots=True)
class _Piece:
    """Ops `begin` to `end` that run on the device."""

    begin: int
    end: int


@dataclass(slots=True)
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
    spans: list[_Piece | int] = field(init=False, default_factory=list)
    is_simple: bool = field(init=False, default=False)  # there is no short way past the executor
    places: dict[Operand | Scratch, Lifetime] = field(init=False, default_factory=dict)
    roots: Roots = field(init=False)
    _free: list[_Instance] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.roots = Roots(self.lowered, (*self.inputs, *self.outputs))
        self.lowered = self.roots.without_copies(self.lowered)
        self._place_all()
        for index, found in enumerate(self.lowered):
            last = self.spans[-1] if self.spans else None
            if found.step is not None:
                self.spans.append(index)
            elif isinstance(last, _Piece):
                last.end = index + 1
            else:
                self.spans.append(_Piece(index, index + 1))

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
            for operand in (*lowered.op.inputs, *lowered.op.outputs):
                if operand is not None:
                    use(operand, index)
            for scratch in lowered.site.scratches if lowered.site else ():
                span = (-1, end) if scratch.is_zeroed else (index, index)
                lifetimes[scratch] = Lifetime(scratch.nbytes, *span)
        for y in self.outputs:
            use(y, end)
        self.arena_bytes = arrange(lifetimes.values())

    def functions(self) -> list[NativeFunction]:
        """Return the native functions that a run needs: none, CUDA kernels compile as they are loaded."""
        return []

    missing = functions

    def compile(self) -> None:
        """Load all kernels and plan all library calls, by making the first instance."""
        with turn(self.device):
            self._free.append(_Instance(self))

    def release(self) -> None:
        """Give back the memory that no run uses now; the next run takes new memory."""
        self._free.clear()

    @property
    def idle_bytes(self) -> int:
        """Memory that is kept for the next run."""
        return len(self._free) * self.arena_bytes

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
    def _instance(self) -> Iterator[_Instance]:
        """Lend an instance that no other run uses."""
        try:
            instance = self._free.pop()
        except IndexError:
            instance = _Instance(self)
        try:
            yield instance
        finally:
            self._free.append(instance)


class _Instance:
    """An arena, and all calls of a program prepared for it."""

    def __init__(self, program: DeviceProgram) -> None:
        self._program = program
        self._device = program.device
        self._fault = self._device.allocate(LINE)
        self._device.clear(self._fault.address, LINE)
        self._own: dict[Operand | Scratch, Buffer] = {}
        if program.debug:
            self._own = {
                owner: self._device.allocate(max(1, place.nbytes)) for owner, place in program.places.items()
            }
        self._arena = self._device.allocate(0 if program.debug else max(LINE, program.arena_bytes))
        for owner, place in program.places.items():
            if isinstance(owner, Scratch) and owner.is_zeroed:
                self._device.clear(self._place(owner), place.nbytes)
        self._may_fault = False
        self._ready = [[self._prepare(call) for call in found.launches] for found in program.lowered]
        self._graphs: dict[int, Ready] = {}
        self._runs = 0

    def _prepare(self, call: DeviceCall) -> Ready:
        if isinstance(call, Launch):
            values = [self._resolved(argument) for argument in call.arguments]
            return self._device.launch(call.kernel, values, call.grid, call.block, call.shared)
        return self._device.library(call.op, {role: self._resolved(x) for role, x in call.tensors})

    def _resolved(self, argument: Any) -> Any:
        match argument:
            case Address():
                return self._resolved(argument.owner) + argument.offset
            case Operand():
                return self._address(argument)
            case Scratch():
                return self._place(argument)
            case Packed():
                return self._program.constants.address(argument.array)
            case Fault():
                self._may_fault = True
                return self._fault.address
        return argument

    def _address(self, operand: Operand) -> int:
        root, offset = self._program.roots.place(operand)
        held = operand.constant if operand.constant is not None else root.constant
        if held is not None:
            return self._program.constants.address(held)
        return self._place(root) + offset

    def _place(self, owner: Operand | Scratch) -> int:
        if self._own:
            return self._own[owner].address
        return self._arena.address + self._program.places[owner].offset

    def run(
        self, inputs: Sequence[Any], budget: Budget, run_step: RunStep, watch: WatchOp | None
    ) -> list[DeviceTensor]:
        self._runs += 1
        self._take(inputs)
        for span in self._program.spans:
            if isinstance(span, int):
                self._run_reference(self._program.lowered[span], run_step, watch)
            elif watch is not None or self._program.debug:
                self._run_singly(span, watch)
            else:
                self._run_piece(span)
            budget.check_time()
        if self._may_fault:
            self._check_fault()
        return [self._given(y) for y in self._program.outputs]

    def _take(self, inputs: Sequence[Any]) -> None:
        """Copy the inputs into their places."""
        for x, operand in zip(inputs, self._program.inputs, strict=True):
            goal = self._place(self._program.roots.of(operand))
            if isinstance(x, DeviceTensor):
                self._device.copy(x.address, goal, operand.nbytes)
            else:
                self._device.upload(np.ascontiguousarray(x), goal)

    def _given(self, operand: Operand) -> DeviceTensor:
        """Return an output as a tensor of its own."""
        made = DeviceTensor.empty(self._device, operand.shape, operand.dtype)
        self._device.copy(self._address(operand), made.address, operand.nbytes)
        return made

    def _run_piece(self, piece: _Piece) -> None:
        """Run a piece: call by call the first time, from then on as a graph."""
        graph = self._graphs.get(piece.begin)
        if graph is None and self._runs > 1:
            calls = [call for ready in self._ready[piece.begin : piece.end] for call in ready]
            if calls:
                graph = self._graphs[piece.begin] = self._device.capture(calls)
        if graph is not None:
            graph()
            return
        for ready in self._ready[piece.begin : piece.end]:
            for call in ready:
                call()

    def _run_singly(self, piece: _Piece, watch: WatchOp | None) -> None:
        """Run one op after the other, and look at the device after each call."""
        for index in range(piece.begin, piece.end):
            found = self._program.lowered[index]
            started = time.perf_counter()
            for call, ready in zip(found.launches, self._ready[index], strict=True):
                ready()
                self._wait_for(call, found)
            if watch is not None:
                watch(found, started, time.perf_counter() - started)

    def _wait_for(self, call: DeviceCall, found: Lowered) -> None:
        try:
            self._device.synchronize()
        except Exception as error:
            raise KernelError(f"{found.op}: {call} failed on {self._device.name}: {error}") from error

    def _run_reference(self, found: Lowered, run_step: RunStep, watch: WatchOp | None) -> None:
        step = found.step
        assert isinstance(step, Step)
        started = time.perf_counter()
        values = [None if x is None else self._fetched(x) for x in found.op.inputs]
        for y, value in zip(found.op.outputs, run_step(step, values), strict=False):
            if y is None:
                continue
            if value.shape != y.shape or value.dtype != y.dtype:
                raise KernelError(f"its output is {value.dtype}{list(value.shape)} where {y} was planned")
            self._device.upload(np.ascontiguousarray(value), self._address(y))
        if watch is not None:
            watch(found, started, time.perf_counter() - started)

    def _fetched(self, operand: Operand) -> Array:
        """Return an operand's value on the host."""
        root = self._program.roots.of(operand)
        held = operand.constant if operand.constant is not None else root.constant
        if held is not None:
            return held.reshape(operand.shape)
        value = np.empty(operand.shape, operand.dtype)
        self._device.download(self._address(operand), value)
        return value

    def _check_fault(self) -> None:
        word = np.zeros(1, np.int64)
        self._device.download(self._fault.address, word)
        if word[0]:
            self._device.clear(self._fault.address, LINE)
            raise RefusedError
