"""A specialised piece of a plan: native calls over one arena, and steps of the reference between them.

Every call's arguments lie in one int64 table. An argument that is an address is relative to the arena,
to an input or to an output; an `Instance` has an arena and a table of its own, in which each run only
puts the addresses of its inputs and outputs. So runs at the same time use one instance each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ...dtypes import Array
from ...errors import KernelError
from ...limits import Budget
from ...lowering import Address, Call, Operand, Packed, Scratch, aligned_empty, float_bits
from ...native import ROW, Team, run_serially
from .._steps import Step
from ._lower import Lowered
from ._memory import Lifetime, arrange

# Below this much work (nanoseconds on one core) a second thread costs more than it brings.
_PARALLEL_SPAN = 30_000.0
_PARALLEL_CALL = 6_000.0
_CHUNK = 25_000.0
_MOST_CHUNKS = 4
# The clock is looked at about this often.
_SPAN = 100e6

RunStep: TypeAlias = "Callable[[Step, list[Any]], Sequence[Any]]"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an operand lies: in the arena, in an input, in an output, or in an array of its own."""

    kind: str
    index: int = 0  # byte offset in the arena, or number of the input or output
    array: Array | None = None


@dataclass(slots=True)
class _Native:
    """Calls `begin` to `end`."""

    begin: int
    end: int
    parallel: bool


@dataclass(slots=True)
class _Reference:
    """A step that the reference kernel runs."""

    step: Step
    inputs: list[Operand | None]
    outputs: list[Operand | None]


@dataclass(slots=True)
class _Table:
    """All arguments of all calls, and which of them are addresses relative to what."""

    values: list[int] = field(default_factory=list)
    arena: list[int] = field(default_factory=list)
    inputs: dict[int, list[int]] = field(default_factory=dict)
    outputs: dict[int, list[int]] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)


class Program:
    """Ops ready to run for one signature of inputs.

    Args:
        lowered: what computes each op, in order.
        inputs, outputs: operands that come in and go out, in order.
    """

    def __init__(
        self, lowered: Sequence[Lowered], inputs: Sequence[Operand], outputs: Sequence[Operand], team: Team
    ) -> None:
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.lowered = list(lowered)
        self._team = team
        self._kept: list[Any] = []  # arrays that the table holds addresses of
        self._roots = _Roots(lowered)
        self._places: dict[int, _Place] = {}
        self.arena_bytes = self._place_all()
        self._table = _Table()
        self._calls: list[Call] = []
        self._spans: list[_Native | _Reference] = []
        for found in self.lowered:
            self._add(found)
        self._free: list[_Instance] = []

    @property
    def is_ready(self) -> bool:
        """Whether all native code is compiled or in the cache."""
        return all(call.function.is_ready for call in self._calls)

    def compile(self) -> None:
        """Compile (or load) all native code."""
        for call in self._calls:
            call.function.address  # noqa: B018 - asking makes it

    def run(self, inputs: Sequence[Array], budget: Budget, run_step: RunStep) -> list[Array]:
        """Return the outputs.

        Args:
            inputs: of the shapes and dtypes that the program was made for.
            run_step: runs a step of the reference.
        """
        instance = self._free.pop() if self._free else None
        budget.check_bytes(self.arena_bytes, "the arena")
        if instance is None:
            instance = _Instance(self)
        budget.add_live(self.arena_bytes)
        try:
            return instance.run(inputs, budget, run_step)
        finally:
            budget.drop_live(self.arena_bytes)
            self._free.append(instance)

    def _place_all(self) -> int:
        """Give every operand and scratch its place; return the size of the arena."""
        roots = self._roots
        for number, x in enumerate(self.inputs):
            self._places[id(roots.of(x))] = _Place("input", number)
        for number, y in enumerate(self.outputs):
            root = roots.of(y)
            if id(root) not in self._places and root.constant is None:
                self._places[id(root)] = _Place("output", number)
        lifetimes: dict[int, Lifetime] = {}
        owners: list[Any] = []
        for index, found in enumerate(self.lowered):
            for operand in (*found.op.outputs, *found.op.inputs):
                if operand is None or operand.constant is not None:
                    continue
                root = roots.of(operand)
                if id(root) in self._places or root.constant is not None:
                    continue
                if id(root) not in lifetimes:
                    lifetimes[id(root)] = Lifetime(id(root), roots.nbytes(root), index, index)
                    owners.append(root)
                lifetimes[id(root)].last = index
            for scratch in found.site.scratches if found.site else ():
                copies = self._team.threads if scratch.per_thread else 1
                lifetimes[id(scratch)] = Lifetime(id(scratch), scratch.nbytes * copies, index, index)
                owners.append(scratch)
        size = arrange(lifetimes.values())
        for owner in owners:
            self._places[id(owner)] = _Place("arena", lifetimes[id(owner)].offset)
        return size

    def place_of(self, operand: Operand) -> _Place:
        """Return where an operand lies."""
        if operand.constant is not None:
            return _Place("array", array=operand.constant)
        root = self._roots.of(operand)
        if root.constant is not None:
            return _Place("array", array=root.constant)
        return self._places[id(root)]

    def _add(self, found: Lowered) -> None:
        if found.step is not None:
            self._spans.append(_Reference(found.step, found.op.inputs, found.op.outputs))
            return
        for call in found.calls:
            self._table.starts.append(len(self._table.values))
            for argument in call.arguments:
                self._add_argument(argument)
            self._calls.append(call)
            self._extend_span(call)

    def _extend_span(self, call: Call) -> None:
        last = self._spans[-1] if self._spans else None
        number = len(self._calls)
        if isinstance(last, _Native):
            work = sum(c.work for c in self._calls[last.begin : last.end])
            if work + call.work <= _SPAN:
                last.end = number
                last.parallel = work + call.work > _PARALLEL_SPAN
                return
        self._spans.append(_Native(number - 1, number, call.work > _PARALLEL_SPAN))

    def _add_argument(self, argument: Any) -> None:
        offset = 0
        if isinstance(argument, Address):
            argument, offset = argument.owner, argument.offset
        table = self._table
        position = len(table.values)
        if isinstance(argument, (Operand, Scratch, Packed)):
            place = self._where(argument)
            if place.kind == "arena":
                table.arena.append(position)
                offset += place.index
            elif place.kind == "array":
                array = place.array
                assert array is not None
                if not array.flags.c_contiguous:
                    array = np.ascontiguousarray(array)
                self._kept.append(array)
                offset += _address(array)
            else:
                relative = table.inputs if place.kind == "input" else table.outputs
                relative.setdefault(place.index, []).append(position)
            table.values.append(offset)
        elif isinstance(argument, float):
            table.values.append(float_bits(argument))
        else:
            table.values.append(int(argument))

    def _where(self, owner: Operand | Scratch | Packed) -> _Place:
        if isinstance(owner, Packed):
            return _Place("array", array=owner.array)
        return self.place_of(owner) if isinstance(owner, Operand) else self._places[id(owner)]

    def rows(self, table_address: int) -> Array:
        """Return the program table for the team, with arguments at an address."""
        rows = np.empty((len(self._calls), ROW), np.int64)
        threads = self._team.threads
        for row, call, start in zip(rows, self._calls, self._table.starts, strict=True):
            chunks = parts = 1
            if call.work > _PARALLEL_CALL and call.units > 1:
                wanted = int(call.work / (threads * _CHUNK)) + 1
                allowed = max(1, call.units // (call.grain * threads))
                chunks = min(wanted, allowed, _MOST_CHUNKS)
                parts = chunks * threads
            row[:] = (call.function.address, table_address + 8 * start, call.units, chunks, parts)
        return rows

    @property
    def spans(self) -> Sequence[_Native | _Reference]:
        return self._spans

    @property
    def table(self) -> _Table:
        return self._table

    @property
    def team(self) -> Team:
        return self._team


class _Roots:
    """Which operands share memory: aliases, and outputs that take the place of an input."""

    def __init__(self, lowered: Sequence[Lowered]) -> None:
        self._parent: dict[Operand, Operand] = {}
        self._nbytes: dict[Operand, int] = {}
        for found in lowered:
            for output, source in found.site.aliases if found.site else ():
                self._parent[output] = source

    def of(self, operand: Operand) -> Operand:
        while operand in self._parent:
            operand = self._parent[operand]
        return operand

    def nbytes(self, root: Operand) -> int:
        return root.buffer_bytes


class _Instance:
    """An arena and a table of arguments: what one run at a time needs."""

    def __init__(self, program: Program) -> None:
        table = program.table
        self._program = program
        self._arena = aligned_empty((program.arena_bytes + 64,), np.dtype(np.uint8))
        self._values = np.array(table.values or [0], np.int64)
        self._values[table.arena] += _address(self._arena)
        self._rows = program.rows(_address(self._values))
        self._row_address = _address(self._rows)
        self._counters = aligned_empty((program.team.counter_bytes(len(self._rows)) + 64,), np.dtype(np.uint8))
        self._counter_address = _address(self._counters)
        self._inputs = _Relative.all_of(table.inputs, table.values)
        self._outputs = _Relative.all_of(table.outputs, table.values)
        self._views: dict[int, Array] = {}

    def run(self, inputs: Sequence[Array], budget: Budget, run_step: RunStep) -> list[Array]:
        program = self._program
        held = [x if x.flags.c_contiguous else np.ascontiguousarray(x) for x in inputs]
        outputs = [np.empty(y.shape, y.dtype) for y in program.outputs]
        values = self._values
        for relative in self._inputs:
            values[relative.positions] = relative.offsets + _address(held[relative.index])
        for relative in self._outputs:
            values[relative.positions] = relative.offsets + _address(outputs[relative.index])
        team = program.team
        for span in program.spans:
            if isinstance(span, _Reference):
                self._run_reference(span, held, outputs, run_step)
                continue
            first = self._row_address + span.begin * ROW * 8
            if span.parallel:
                team.run(first, span.end - span.begin, self._counter_address)
            else:
                run_serially(first, span.end - span.begin)
            budget.check_time()
        return [self._finished(number, held, outputs) for number in range(len(outputs))]

    def _finished(self, number: int, inputs: list[Array], outputs: list[Array]) -> Array:
        """Return an output; one that lies in an input or another output is copied."""
        place = self._program.place_of(self._program.outputs[number])
        if place.kind != "output" or place.index != number:
            outputs[number][...] = self._view(self._program.outputs[number], inputs, outputs)
        return outputs[number]

    def _run_reference(
        self, span: _Reference, inputs: list[Array], outputs: list[Array], run_step: RunStep
    ) -> None:
        values = [None if x is None else self._view(x, inputs, outputs) for x in span.inputs]
        results = run_step(span.step, values)
        for y, value in zip(span.outputs, results, strict=False):
            if y is None:
                continue
            if value.shape != y.shape or value.dtype != y.dtype:
                raise KernelError(f"its output is {value.dtype}{list(value.shape)} where {y} was planned")
            self._view(y, inputs, outputs)[...] = value

    def _view(self, operand: Operand, inputs: list[Array], outputs: list[Array]) -> Array:
        place = self._program.place_of(operand)
        match place.kind:
            case "input":
                return inputs[place.index].reshape(operand.shape)
            case "output":
                return outputs[place.index].reshape(operand.shape)
            case "array":
                assert place.array is not None
                return place.array.reshape(operand.shape)
        view = self._views.get(id(operand))
        if view is None:
            raw = self._arena[place.index : place.index + operand.nbytes]
            view = self._views[id(operand)] = raw.view(operand.dtype).reshape(operand.shape)
        return view


@dataclass(slots=True)
class _Relative:
    """The arguments that are addresses in one input or output."""

    index: int
    positions: Array
    offsets: Array

    @classmethod
    def all_of(cls, found: Mapping[int, list[int]], values: Sequence[int]) -> list[_Relative]:
        return [
            cls(index, np.array(places, np.intp), np.array([values[i] for i in places], np.int64))
            for index, places in found.items()
        ]


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
