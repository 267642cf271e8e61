"""What one run at a time of a device's program needs: memory, and all its calls prepared for that memory.

The stretches between reference steps run as captured graphs from their second run on: the first one warms up
what must not happen while capturing (loading code). A captured graph has fixed
addresses. Where it always has the same ones, in the arena, inputs are copied there and outputs from there,
all in one launch.

Without copies
    1. A set of graphs belongs to a binding: where the inputs and outputs lie. Inputs that are read where the
       caller has them make a binding of their own once their addresses come again: those of all inputs, or
       those of the large ones.
    2. An output is lent from one of two sets of memory, until all arrays that refer to it are gone. It goes
       to the same stream of the caller's only, which is done with it when a run begins there.
    3. An output that a caller keeps while both sets are wanted is copied from then on: others are lent.
    4. There are at most `_MOST_BINDINGS` that read small inputs in place, and as many that do not; one makes
       room if it was not used for `_STALE` runs. What comes from ever new addresses is copied.
"""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...dtypes import Array
from ...errors import KernelError
from ...gpu import Buffer, Copies, Device, DeviceCall, DeviceTensor, Launch, Ready
from ...limits import Budget
from ...lowering import LINE, Address, Fault, Operand, Packed, Scratch
from .._steps import Step
from ._lower import Lowered
from ._program import RefusedError, RunStep, WatchOp

if TYPE_CHECKING:
    from ._device_program import DeviceProgram

_MOST_BINDINGS = 8
_STALE = 1000  # runs
_REMEMBERED = 32  # addresses that may come again
_SETS = 2
_MOST_LENT = 1 << 30  # bytes of a set
_ALIGNED = 256  # bytes
_SMALL = 64 << 10  # bytes: outputs that may share memory, all of which one of them keeps

# Of the inputs that are used where they are; 0 for others.
_Addresses: TypeAlias = "tuple[int, ...]"


@dataclass(slots=True)
class Piece:
    """Ops `begin` to `end` that run on the device."""

    begin: int
    end: int


class Lease:
    """What keeps lent memory, and shows by being there that someone uses it."""

    __slots__ = ("__weakref__", "buffer")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer


@dataclass(slots=True)
class LentSet:
    """Memory for outputs that are lent.

    Attributes:
        caller: the stream that they go to.
        leases: of those that someone may still use.
    """

    buffers: dict[Operand, Buffer]
    caller: Hashable
    leases: dict[Operand, weakref.ref[Lease]] = field(default_factory=dict)

    def held(self) -> list[Operand]:
        """Return the outputs that someone still uses."""
        return [y for y, lease in self.leases.items() if lease() is not None]

    def lend(self, operand: Operand, device: Device) -> DeviceTensor:
        """Return an output, in use until the tensor and all that comes of it is gone."""
        lease = Lease(self.buffers[operand])
        self.leases[operand] = weakref.ref(lease)
        return DeviceTensor(device, lease.buffer.address, operand.shape, operand.dtype, lease)


class Arena:
    """The memory that a program's values lie in; in debug mode each has its own.

    Attributes:
        fault: address of the word in which kernels report bad values.
        may_fault: whether any does.
    """

    def __init__(self, program: DeviceProgram) -> None:
        device, model = program.device, f"model {program.constants.name!r}"
        self._fault = device.allocate(LINE, f"the fault word of {model}")
        device.clear(self._fault.address, LINE)
        self.fault = self._fault.address
        self.may_fault = False
        self._places = program.places
        self._own: dict[Operand | Scratch, Buffer] = {}
        if program.debug:
            self._own = {
                owner: device.allocate(max(1, place.nbytes), f"a tensor of {model}")
                for owner, place in program.places.items()
            }
        size = 0 if program.debug else max(LINE, program.arena_bytes)
        self._buffer = device.allocate(size, f"the arena of {model}")
        for owner, place in program.places.items():
            if isinstance(owner, Scratch) and owner.is_zeroed:
                device.clear(self.place(owner), place.nbytes)

    def place(self, owner: Operand | Scratch) -> int:
        """Return where there is room for an operand or scratch memory."""
        if self._own:
            return self._own[owner].address
        return self._buffer.address + self._places[owner].offset


class Binding:
    """All calls of a program, prepared for one set of addresses.

    Args:
        outside: where inputs and outputs lie that are not in the arena.
        base: the binding without these; calls that touch none of them are its calls.

    Attributes:
        graphs: of the pieces, by where they begin.
        last: the run that it was used for last.
        is_warm: whether its kernels have run in the base: libraries choose theirs whatever the addresses.
    """

    def __init__(
        self,
        program: DeviceProgram,
        arena: Arena,
        outside: Mapping[Operand, int],
        base: Binding | None = None,
    ) -> None:
        self._program = program
        self._arena = arena
        self._outside = outside
        self._touches_outside = False
        self.graphs: dict[int, Ready] = {}
        self.runs: int = 0
        self.last = 0
        self.is_warm = base is not None and base.runs > 0
        self.ready: list[list[Ready]] = [
            [self._prepare(call, base.ready[i][j] if base else None) for j, call in enumerate(found.launches)]
            for i, found in enumerate(self._program.lowered)
        ]
        self._read = [(i, x) for i, x in enumerate(self._program.inputs) if x not in outside]
        self._written = [y for y in self._program.outputs if y not in outside]
        self._give = self._copies(self._written, inward=False) if self._written else None
        self._taken: list[int] = []
        self._take: Copies | None = None

    def _prepare(self, call: DeviceCall, known: Ready | None) -> Ready:
        """Return a call ready to run; the known one if all its addresses are the same."""
        device = self._program.device
        self._touches_outside = False
        if isinstance(call, Launch):
            values = [self._resolved(argument) for argument in call.arguments]
            if known is not None and not self._touches_outside:
                return known
            return device.launch(call.kernel, values, call.grid, call.block, call.shared)
        tensors = {role: self._resolved(x) for role, x in call.tensors}
        if known is not None and not self._touches_outside:
            return known
        return device.library(call.op, tensors)

    def _resolved(self, argument: Any) -> Any:
        match argument:
            case Address():
                return self._resolved(argument.owner) + argument.offset
            case Operand():
                return self.address(argument)
            case Scratch():
                return self._arena.place(argument)
            case Packed():
                return self._program.constants.address(argument.array)
            case Fault():
                self._arena.may_fault = True
                return self._arena.fault
            case tuple():
                return tuple(map(self._resolved, argument))
        return argument

    def address(self, operand: Operand) -> int:
        """Return where an operand lies."""
        if operand.constant is not None:
            return self._program.constants.address(operand.constant)
        root, offset = self._program.roots.place(operand)
        if root.constant is not None:
            return self._program.constants.address(root.constant) + offset
        outside = self._outside.get(root)
        if outside is not None:
            self._touches_outside = True
            return outside + offset
        return self._arena.place(root) + offset

    def take(self, inputs: Sequence[Any]) -> None:
        """Copy the inputs to where they are read, if they are not there."""
        copied: list[int] = []
        for i, operand in self._read:
            if isinstance(inputs[i], DeviceTensor):
                copied.append(i)
            else:
                self._program.device.upload(np.ascontiguousarray(inputs[i]), self.address(operand))
        if copied:
            if copied != self._taken or self._take is None:
                operands = [self._program.inputs[i] for i in copied]
                self._take, self._taken = self._copies(operands, inward=True), copied
            self._take([inputs[i].address for i in copied])

    def give(self, lent: LentSet | None) -> list[DeviceTensor]:
        """Return the outputs: lent ones, and copies of the others in new memory."""
        device = self._program.device
        made = dict(_new_outputs(self._program, self._written))
        if self._give is not None:
            self._give([made[y].address for y in self._written])
        if lent is not None:
            made.update((y, lent.lend(y, device)) for y in self._program.outputs if y in lent.buffers)
        return [made[y] for y in self._program.outputs]

    def _copies(self, operands: Sequence[Operand], *, inward: bool) -> Copies:
        addresses = [self.address(x) for x in operands]
        return Copies(self._program.device, addresses, [x.nbytes for x in operands], inward=inward)


class Instance:
    """The memory of one run at a time, and its bindings."""

    def __init__(self, program: DeviceProgram) -> None:
        # It is the program's: both go without waiting for the collector of cycles.
        self.program = program = weakref.proxy(program)
        self._device = program.device
        self._arena = Arena(program)
        self._runs = 0
        self._base = Binding(program, self._arena, {})
        self._bindings: OrderedDict[tuple[_Addresses, int | None], Binding] = OrderedDict()
        self._seen: deque[_Addresses] = deque(maxlen=_REMEMBERED)
        self._sets: list[LentSet] = []
        self._readable = [self._stands_alone(x) for x in program.inputs]
        self._large = [x.nbytes > _SMALL for x in program.inputs]
        inputs = {program.roots.of(x) for x in program.inputs}
        lendable = {y: None for y in program.outputs if self._stands_alone(y) and y not in inputs}
        self._lendable = lendable if sum(y.nbytes for y in lendable) <= _MOST_LENT else {}

    def _stands_alone(self, operand: Operand) -> bool:
        """Whether an operand may lie anywhere: its memory is its own, and holds nothing else."""
        root = self.program.roots.of(operand)
        plain = operand.constant is None and operand.buffer_bytes == operand.nbytes > 0
        return plain and root is operand

    @property
    def nbytes(self) -> int:
        """Memory that is kept between runs."""
        lent = sum(buffer.nbytes for found in self._sets for buffer in found.buffers.values())
        arena: int = self.program.arena_bytes
        return arena + lent

    def run(
        self, inputs: Sequence[Any], budget: Budget, run_step: RunStep, watch: WatchOp | None
    ) -> list[DeviceTensor]:
        program = self.program
        self._runs += 1
        binding, lent = self._base, None
        if watch is None and not program.debug:
            binding, lent = self._bound(inputs)
        binding.runs += 1
        binding.last = self._runs
        binding.take(inputs)
        for span in program.spans:
            if isinstance(span, int):
                self._run_reference(binding, program.lowered[span], run_step, watch)
            elif watch is not None or program.debug:
                self._run_singly(binding, span, watch)
            else:
                self._run_piece(binding, span)
            budget.check_time()
        if self._arena.may_fault:
            self._check_fault()
        return binding.give(lent)

    def _bound(self, inputs: Sequence[Any]) -> tuple[Binding, LentSet | None]:
        """Return the binding for a run with these inputs, and what its outputs are lent from."""
        number = self._free_set()
        at = [
            x.address if stands_alone and isinstance(x, DeviceTensor) and x.address % LINE == 0 else 0
            for x, stands_alone in zip(inputs, self._readable, strict=True)
        ]
        large = [address if big else 0 for address, big in zip(at, self._large, strict=True)]
        for direct in dict.fromkeys((tuple(at), tuple(large), (0,) * len(at))):
            if number is None and not any(direct):
                break
            binding = self._bindings.get((direct, number))
            if binding is None and direct not in self._seen:
                self._seen.append(direct)
            elif binding is None and self._has_room(direct):
                binding = self._bindings[direct, number] = self._bind(direct, number)
            if binding is not None:
                self._bindings.move_to_end((direct, number))
                return binding, None if number is None else self._sets[number]
        return self._base, None

    def _has_room(self, direct: _Addresses) -> bool:
        """Whether there may be one more binding of its kind (rule 4)."""
        kind = self._reads_small(direct)
        alike = [key for key in self._bindings if self._reads_small(key[0]) == kind]
        if len(alike) < _MOST_BINDINGS:
            return True
        if self._runs - self._bindings[alike[0]].last < _STALE:
            return False
        del self._bindings[alike[0]]
        return True

    def _reads_small(self, direct: _Addresses) -> bool:
        """Whether small inputs are read where they are: these come from new places most often."""
        return any(address and not big for address, big in zip(direct, self._large, strict=True))

    def _bind(self, direct: _Addresses, number: int | None) -> Binding:
        """Return a new binding, which has run nothing yet."""
        operands = self.program.inputs
        outside = {x: address for x, address in zip(operands, direct, strict=True) if address}
        if number is not None:
            if number == len(self._sets):
                self._sets.append(self._new_set())
            found = self._sets[number]
            outside |= {y: buffer.address for y, buffer in found.buffers.items()}
        return Binding(self.program, self._arena, outside, self._base)

    def _new_set(self) -> LentSet:
        what, device = _output_of(self.program), self._device
        buffers = {y: device.allocate(y.nbytes, what, for_caller=True) for y in self._lendable}
        return LentSet(buffers, device.caller())

    def _free_set(self) -> int | None:
        """Return the number of a set of memory for outputs that nobody uses, None where there is none."""
        if not self._lendable:
            return None
        caller = self._device.caller()
        kept = []
        for number, found in enumerate(self._sets):
            held = found.held()
            if not held and found.caller == caller:
                return number
            kept.append(set(held))
        if len(self._sets) < _SETS:
            return len(self._sets)
        self._lend_others(set.intersection(*kept))
        return None

    def _lend_others(self, kept: set[Operand]) -> None:
        """Stop lending outputs that callers keep (rule 3)."""
        if not kept:
            return
        for y in kept:
            del self._lendable[y]
        self._sets.clear()
        self._seen.clear()
        self._bindings.clear()

    def _run_piece(self, binding: Binding, piece: Piece) -> None:
        """Run a piece: call by call the first time, from then on as a graph."""
        graph = binding.graphs.get(piece.begin)
        if graph is None:
            calls = [call for ready in binding.ready[piece.begin : piece.end] for call in ready]
            if (binding.runs == 1 and not binding.is_warm) or not calls:
                for call in calls:
                    call()
                return
            graph = binding.graphs[piece.begin] = self._device.capture(calls)
        graph()

    def _run_singly(self, binding: Binding, piece: Piece, watch: WatchOp | None) -> None:
        """Run one op after the other, and look at the device after each call."""
        for index in range(piece.begin, piece.end):
            found = self.program.lowered[index]
            started = time.perf_counter()
            for call, ready in zip(found.launches, binding.ready[index], strict=True):
                ready()
                self._wait_for(call, found)
            if watch is not None:
                watch(found, started, time.perf_counter() - started)

    def _wait_for(self, call: DeviceCall, found: Lowered) -> None:
        try:
            self._device.synchronize()
        except Exception as error:
            raise KernelError(f"{found.op}: {call} failed on {self._device.name}: {error}") from error

    def _run_reference(
        self, binding: Binding, found: Lowered, run_step: RunStep, watch: WatchOp | None
    ) -> None:
        step = found.step
        assert isinstance(step, Step)
        started = time.perf_counter()
        values = [None if x is None else self._fetched(binding, x) for x in found.op.inputs]
        for y, value in zip(found.op.outputs, run_step(step, values), strict=False):
            if y is None:
                continue
            if value.shape != y.shape or value.dtype != y.dtype:
                raise KernelError(f"its output is {value.dtype}{list(value.shape)} where {y} was planned")
            self._device.upload(np.ascontiguousarray(value), binding.address(y))
        if watch is not None:
            watch(found, started, time.perf_counter() - started)

    def _fetched(self, binding: Binding, operand: Operand) -> Array:
        """Return an operand's value on the host."""
        if operand.constant is not None:
            return operand.constant.reshape(operand.shape)
        root, offset = self.program.roots.place(operand)
        if root.constant is not None:
            raw = np.ascontiguousarray(root.constant).reshape(-1).view(np.uint8)
            return raw[offset : offset + operand.nbytes].view(operand.dtype).reshape(operand.shape)
        value = np.empty(operand.shape, operand.dtype)
        self._device.download(binding.address(operand), value)
        return value

    def _check_fault(self) -> None:
        word = np.zeros(1, np.int64)
        self._device.download(self._arena.fault, word)
        if word[0]:
            self._device.clear(self._arena.fault, LINE)
            raise RefusedError


def _new_outputs(
    program: DeviceProgram, operands: Sequence[Operand]
) -> Iterator[tuple[Operand, DeviceTensor]]:
    """Yield outputs in memory of their own; small ones share theirs."""
    what, device = _output_of(program), program.device
    small = dict.fromkeys(y for y in operands if y.nbytes <= _SMALL)
    room = sum(_rounded(y.nbytes) for y in small)
    shared = device.allocate(room, what, for_caller=True) if small else None
    offset = 0
    for y in dict.fromkeys(operands):
        if y in small and shared is not None:
            yield y, DeviceTensor(device, shared.address + offset, y.shape, y.dtype, shared)
            offset += _rounded(y.nbytes)
        else:
            buffer = device.allocate(y.nbytes, what, for_caller=True)
            yield y, DeviceTensor(device, buffer.address, y.shape, y.dtype, buffer)


def _output_of(program: DeviceProgram) -> str:
    return f"an output of model {program.constants.name!r}"


def _rounded(nbytes: int) -> int:
    """Return the room that an output takes beside others: all of them begin as allocations do."""
    return -(-nbytes // _ALIGNED) * _ALIGNED
