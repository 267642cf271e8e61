"""A specialised piece of a plan: native calls over one arena, and steps of the reference between them.

Every call's arguments lie in one int64 table. An argument that is an address is relative to the arena,
to an input or to an output; an `Instance` has an arena and a table of its own, in which each run only
puts the addresses of its inputs and outputs. So runs at the same time use one instance each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ...dtypes import Array
from ...errors import KernelError
from ...limits import Budget
from ...lowering import Address, Call, Fault, Operand, Packed, Scratch, aligned_empty, float_bits
from ...native import ROW, NativeFunction, Team, run_serially
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


class RefusedError(Exception):
    """Native code met values that only the reference can answer, with an error."""


RunStep: TypeAlias = "Callable[[Step, list[Any]], Sequence[Any]]"
# Told of every op of a watched run: the op, when it began (`time.perf_counter`), and its seconds.
WatchOp: TypeAlias = "Callable[[Lowered, float, float], None]"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an operand lies: in the arena, in an input, in an output, or in an array of its own."""

    kind: str
    index: int = 0  # byte offset in the arena, or number of the input or output
    array: Array | None = None


@dataclass(slots=True)
class _Native:
    """Calls `begin` to `end`; `work` is their estimated time on one core in nanoseconds."""

    begin: int
    end: int
    work: float

    @property
    def parallel(self) -> bool:
        """Whether more than one thread pays."""
        return self.work > _PARALLEL_SPAN


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
    faults: list[int] = field(default_factory=list)
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
        self._roots = _Roots(lowered, (*inputs, *outputs))
        self._places: dict[Operand | Scratch, _Place] = {}
        self.arena_bytes = self._place_all()
        self._table = _Table()
        self._calls: list[Call] = []
        self._spans: list[_Native | _Reference] = []
        for found in self.lowered:
            self._add(found)
        self._free: list[_Instance] = []
        self.is_simple = self._is_simple()

    def _is_simple(self) -> bool:
        """Whether a run is one stretch of native calls that fills every output."""
        return (
            len(self._spans) == 1
            and isinstance(self._spans[0], _Native)
            and all(self.place_of(y) == _Place("output", number) for number, y in enumerate(self.outputs))
        )

    def missing(self) -> list[NativeFunction]:
        """Return the native functions that are neither compiled nor in the cache."""
        wanted = dict.fromkeys(call.function for call in self._calls)
        return [function for function in wanted if not function.is_ready]

    def compile(self) -> None:
        """Compile (or load) all native code."""
        for call in self._calls:
            call.function.address  # noqa: B018 - asking makes it

    def run(
        self, inputs: Sequence[Array], budget: Budget, run_step: RunStep, watch: WatchOp | None = None
    ) -> list[Array]:
        """Return the outputs.

        Args:
            inputs: of the shapes and dtypes that the program was made for.
            run_step: runs a step of the reference.
            watch: if given, ops run one at a time and it is told of each.

        Raises:
            RefusedError: the reference has to run instead, to raise the error that is due.
        """
        charged = self.arena_bytes + sum(y.nbytes for y in self.outputs)
        try:
            budget.add_live(charged)
            with self._instance() as instance:
                return instance.run(inputs, budget, run_step, watch)
        finally:
            budget.drop_live(charged)  # whoever takes the outputs charges them

    def call(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the outputs of a simple program, without an account of time and memory."""
        try:  # as `_instance` does, but this is the way of calls that take microseconds
            instance = self._free.pop()
        except IndexError:
            instance = _Instance(self)
        try:
            return instance.call(inputs)
        finally:
            self._free.append(instance)

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

    def _place_all(self) -> int:
        """Give every operand and scratch its place; return the size of the arena."""
        roots = self._roots
        for number, x in enumerate(self.inputs):
            self._places[roots.of(x)] = _Place("input", number)
        for number, y in enumerate(self.outputs):
            root = roots.of(y)
            if root not in self._places and root.constant is None:
                self._places[root] = _Place("output", number)
        lifetimes: dict[Operand | Scratch, Lifetime] = {}
        for index, found in enumerate(self.lowered):
            for operand in (*found.op.outputs, *found.op.inputs):
                if operand is None or operand.constant is not None:
                    continue
                root = roots.of(operand)
                if root in self._places or root.constant is not None:
                    continue
                if root not in lifetimes:
                    lifetimes[root] = Lifetime(root.buffer_bytes, index, index)
                lifetimes[root].last = index
            for scratch in found.site.scratches if found.site else ():
                copies = self._team.threads if scratch.per_thread else 1
                lifetimes[scratch] = Lifetime(scratch.nbytes * copies, index, index)
        size = arrange(lifetimes.values())
        for owner, lifetime in lifetimes.items():
            self._places[owner] = _Place("arena", lifetime.offset)
        return size

    def place_of(self, operand: Operand) -> _Place:
        """Return where an operand lies."""
        if operand.constant is not None:
            return _Place("array", array=operand.constant)
        root = self._roots.of(operand)
        if root.constant is not None:
            return _Place("array", array=root.constant)
        return self._places[root]

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
        if isinstance(last, _Native) and last.work + call.work <= _SPAN:
            last.end = number
            last.work += call.work
        else:
            self._spans.append(_Native(number - 1, number, call.work))

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
                array = np.ascontiguousarray(place.array)
                self._kept.append(array)
                offset += _address(array)
            else:
                relative = table.inputs if place.kind == "input" else table.outputs
                relative.setdefault(place.index, []).append(position)
            table.values.append(offset)
        elif isinstance(argument, Fault):
            table.faults.append(position)
            table.values.append(0)
        elif isinstance(argument, float):
            table.values.append(float_bits(argument))
        else:
            table.values.append(int(argument))

    def _where(self, owner: Operand | Scratch | Packed) -> _Place:
        if isinstance(owner, Packed):
            return _Place("array", array=owner.array)
        return self.place_of(owner) if isinstance(owner, Operand) else self._places[owner]

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
    def work(self) -> float:
        """Estimated time on one core, in nanoseconds."""
        return sum(call.work for call in self._calls)

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

    def __init__(self, lowered: Sequence[Lowered], external: Sequence[Operand]) -> None:
        self._parent: dict[Operand, Operand] = {}
        for found in lowered:
            for output, source in found.site.aliases if found.site else ():
                self._parent[output] = source
        last = {self.of(x): index for index, found in enumerate(lowered) for x in found.op.inputs if x}
        fixed = {self.of(operand) for operand in external}
        for index, found in enumerate(lowered):
            for output, source in found.site.overwrites if found.site else ():
                root = self.of(source)
                free = root not in fixed and root.constant is None and last.get(root) == index
                fits = output.buffer_bytes == root.buffer_bytes and output.layout == root.layout
                if free and fits and output not in self._parent and output not in fixed:
                    self._parent[output] = root
                    last[root] = last.get(output, index)

    def of(self, operand: Operand) -> Operand:
        """Return the operand whose memory another one lies in, itself where it has its own."""
        while operand in self._parent:
            operand = self._parent[operand]
        return operand


class _Instance:
    """An arena and a table of arguments: what one run at a time needs."""

    def __init__(self, program: Program) -> None:
        table = program.table
        self._program = program
        self._arena = aligned_empty((program.arena_bytes + 64,), np.dtype(np.uint8))
        self._values = np.array([*table.values, 0], np.int64)  # the last one is where faults are reported
        self._may_fault = bool(table.faults)
        self._values[table.arena] += _address(self._arena)
        self._values[table.faults] = _address(self._values) + 8 * len(table.values)
        self._rows = program.rows(_address(self._values))
        self._row_address = _address(self._rows)
        self._counters = aligned_empty(
            (program.team.counter_bytes(len(self._rows)) + 64,), np.dtype(np.uint8)
        )
        self._counter_address = _address(self._counters)
        self._inputs = _relative(table.inputs, table.values)
        self._outputs = _relative(table.outputs, table.values)
        self._output_types = [(y.shape, y.dtype) for y in program.outputs]
        self._only_span: Any = program.spans[0] if program.is_simple else None
        self._views: dict[int, Array] = {}

    def run(
        self, inputs: Sequence[Array], budget: Budget, run_step: RunStep, watch: WatchOp | None
    ) -> list[Array]:
        held, outputs = self._bind(inputs)
        if watch is not None:
            self._run_watched(held, outputs, budget, run_step, watch)
            return [self._finished(number, held, outputs) for number in range(len(outputs))]
        for span in self._program.spans:
            if isinstance(span, _Reference):
                self._run_reference(span, held, outputs, run_step)
            else:
                self._run_native(span)
            budget.check_time()
        return [self._finished(number, held, outputs) for number in range(len(outputs))]

    def _run_watched(
        self, held: list[Array], outputs: list[Array], budget: Budget, run_step: RunStep, watch: WatchOp
    ) -> None:
        """Run one op after the other, those without calls too, and tell of each."""
        steps = (span for span in self._program.spans if isinstance(span, _Reference))
        begin = 0
        for found in self._program.lowered:
            started = time.perf_counter()
            if found.step is not None:
                self._run_reference(next(steps), held, outputs, run_step)
            elif found.calls:
                end = begin + len(found.calls)
                self._run_native(_Native(begin, end, sum(call.work for call in found.calls)))
                begin = end
            watch(found, started, time.perf_counter() - started)
            budget.check_time()

    def call(self, inputs: Sequence[Array]) -> list[Array]:
        _held, outputs = self._bind(inputs)
        self._run_native(self._only_span)
        return outputs

    def _bind(self, inputs: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Put the addresses of inputs and new outputs into the table; return both, to be kept alive."""
        held = [x if x.flags.c_contiguous else np.ascontiguousarray(x) for x in inputs]
        outputs = [np.empty(shape, dtype) for shape, dtype in self._output_types]
        values = self._values
        for index, position, offset in self._inputs:
            values[position] = offset + held[index].__array_interface__["data"][0]
        for index, position, offset in self._outputs:
            values[position] = offset + outputs[index].__array_interface__["data"][0]
        return held, outputs

    def _run_native(self, span: _Native) -> None:
        first = self._row_address + span.begin * ROW * 8
        if span.parallel:
            self._program.team.run(first, span.end - span.begin, self._counter_address)
        else:
            run_serially(first, span.end - span.begin)
        if self._may_fault and self._values[-1]:
            self._values[-1] = 0
            raise RefusedError

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


def _relative(found: Mapping[int, list[int]], values: Sequence[int]) -> list[tuple[int, Any, Any]]:
    """Return (number of the input or output, places in the table, offsets to add) for each of them."""
    result: list[tuple[int, Any, Any]] = []
    for index, places in found.items():
        if len(places) == 1:
            result.append((index, places[0], values[places[0]]))
        else:
            offsets = np.array([values[i] for i in places], np.int64)
            result.append((index, np.array(places, np.intp), offsets))
    return result


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
