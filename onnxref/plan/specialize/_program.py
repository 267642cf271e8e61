"""A specialised piece of a plan: native calls over one arena, and steps of the reference between them.

Every call's arguments lie in one int64 table. An argument that is an address is relative to the arena,
to an input or to an output; an `Instance` has an arena and a table of its own, in which each run only
puts the addresses of its inputs and outputs. So runs at the same time use one instance each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeAlias

import numpy as np

from ...dtypes import Array
from ...errors import KernelError
from ...limits import Budget
from ...lowering import Address, Call, Fault, Operand, Packed, Scratch, aligned_empty, float_bits
from ...native import PATCH, ROW, Launch, NativeFunction, Team, array_handle
from .._steps import Step
from ._lower import Lowered
from ._memory import Lifetime, arrange
from ._roots import Roots

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
    offset: int = 0  # bytes from there on, where it lies in another operand


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
        self.roots = Roots(lowered, (*inputs, *outputs))
        self.lowered = self.roots.without_copies(lowered)
        self._team = team
        self._kept: list[Any] = []  # arrays that the table holds addresses of
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

    def functions(self) -> list[NativeFunction]:
        """Return all native functions that a run needs, those of the team too."""
        together = any(isinstance(span, _Native) and span.parallel for span in self._spans)
        wanted = dict.fromkeys(call.function for call in self._calls)
        return [*wanted, *self._team.functions(together=together)]

    def missing(self) -> list[NativeFunction]:
        """Return the native functions that are neither compiled nor in the cache."""
        return [function for function in self.functions() if not function.is_ready]

    @property
    def idle_bytes(self) -> int:
        """Memory that is kept for the next run."""
        return len(self._free) * self.arena_bytes

    def release(self) -> None:
        """Give back the memory that no run uses now; the next run takes new memory."""
        self._free.clear()

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
        roots = self.roots
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
        root, offset = self.roots.place(operand)
        if root.constant is not None:
            return _Place("array", array=root.constant)
        place = self._places[root]
        return replace(place, offset=offset) if offset else place

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
        if type(argument) is int:  # most of them
            self._table.values.append(argument)
            return
        offset = 0
        if isinstance(argument, Address):
            argument, offset = argument.owner, argument.offset
        table = self._table
        position = len(table.values)
        if isinstance(argument, (Operand, Scratch, Packed)):
            place = self._where(argument)
            offset += place.offset
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


class _Instance:
    """An arena and a table of arguments: what one run at a time needs."""

    def __init__(self, program: Program) -> None:
        table = program.table
        self._program = program
        self._arena = aligned_empty((program.arena_bytes + 64,), np.dtype(np.uint8))
        self._values = np.array([*table.values, 0], np.int64)  # the last one is where faults are reported
        self._may_fault = bool(table.faults)
        self._has_texts = any(x.dtype.hasobject for x in program.inputs)
        self._values[table.arena] += _address(self._arena)
        self._values[table.faults] = _address(self._values) + 8 * len(table.values)
        self._rows = program.rows(_address(self._values))
        self._row_address = _address(self._rows)
        self._counters = aligned_empty(
            (program.team.counter_bytes(len(self._rows)) + 64,), np.dtype(np.uint8)
        )
        self._counter_address = _address(self._counters)
        self._output_shapes = [y.shape for y in program.outputs]
        self._output_dtypes = [y.dtype for y in program.outputs]
        self._handle = array_handle()
        patches = _patches(table, len(program.inputs), _address(self._values))
        objects = np.zeros(len(program.inputs) + len(program.outputs), np.int64)
        self._objects = objects.data
        self._binding = Launch(self._row_address, 0, patches=patches, objects=objects)
        spans = [span for span in program.spans if isinstance(span, _Native)]
        self._launches = {span.begin: self._launch(span) for span in spans}
        self._whole = self._launch(spans[0], patches, objects) if program.is_simple else None
        self._faults = self._values[-1:].data
        self._views: dict[int, Array] = {}

    def _launch(self, span: _Native, patches: Array | None = None, objects: Array | None = None) -> Launch:
        team = self._program.team
        return Launch(
            self._row_address + span.begin * ROW * 8,
            span.end - span.begin,
            self._counter_address,
            team.threads if span.parallel else 1,
            patches,
            objects,
        )

    def run(
        self, inputs: Sequence[Array], budget: Budget, run_step: RunStep, watch: WatchOp | None
    ) -> list[Array]:
        if self._whole is not None and watch is None:
            outputs = self.call(inputs)
            budget.check_time()
            return outputs
        held, outputs = self._hold(inputs)
        self._binding.run()
        if watch is not None:
            self._run_watched(held, outputs, budget, run_step, watch)
            return [self._finished(number, held, outputs) for number in range(len(outputs))]
        for span in self._program.spans:
            if isinstance(span, _Reference):
                self._run_reference(span, held, outputs, run_step)
            else:
                self._run_native(self._launches[span.begin])
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
                span = _Native(begin, end, sum(call.work for call in found.calls))
                self._run_native(self._launch(span))
                begin = end
            watch(found, started, time.perf_counter() - started)
            budget.check_time()

    def call(self, inputs: Sequence[Array]) -> list[Array]:
        """Run a simple program."""
        assert self._whole is not None
        _held, outputs = self._hold(inputs)
        self._whole.run()
        if self._may_fault and self._faults[0]:
            self._refuse()
        return outputs

    def _hold(self, inputs: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Make the outputs, and say which arrays the next run is about; return both, to be kept alive."""
        if self._has_texts:
            # Native code runs without the interpreter's lock: another thread may put other strings into the
            # array then, but cannot free those that a copy refers to.
            inputs = [x.copy() if x.dtype.hasobject else x for x in inputs]
        held = list(inputs)
        outputs = list(map(np.empty, self._output_shapes, self._output_dtypes))
        handle, objects = self._handle, self._objects
        number = 0  # loops without functions of their own: small models take microseconds
        for x in inputs:
            if not x.flags.c_contiguous:
                x = held[number] = np.ascontiguousarray(x)
            objects[number] = handle(x)
            number += 1
        for y in outputs:
            objects[number] = handle(y)
            number += 1
        return held, outputs

    def _run_native(self, launch: Launch) -> None:
        launch.run()
        if self._may_fault and self._faults[0]:
            self._refuse()

    def _refuse(self) -> NoReturn:
        self._faults[0] = 0
        raise RefusedError

    def _finished(self, number: int, inputs: list[Array], outputs: list[Array]) -> Array:
        """Return an output; one that lies in an input or another output is copied."""
        if self._program.place_of(self._program.outputs[number]) != _Place("output", number):
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
                whole = outputs[place.index].reshape(-1)
                if whole.size == operand.size:
                    return whole.reshape(operand.shape)
                return _viewed(whole.view(np.uint8), place.offset, operand)
            case "array":
                assert place.array is not None
                return place.array.reshape(operand.shape)
        view = self._views.get(id(operand))
        if view is None:
            view = _viewed(self._arena, place.index + place.offset, operand)
            self._views[id(operand)] = view
        return view


def _viewed(raw: Array, begin: int, operand: Operand) -> Array:
    """Return the view of an operand that lies in bytes from `begin` on."""
    return raw[begin : begin + operand.nbytes].view(operand.dtype).reshape(operand.shape)


def _patches(table: _Table, inputs: int, address: int) -> Array:
    """Return the patches that put the addresses of inputs and outputs into a table at an address.

    The arrays are the inputs, so many, and behind them the outputs; see `onnxref.native.Launch`.
    """
    numbered = [*table.inputs.items(), *((inputs + index, found) for index, found in table.outputs.items())]
    rows = [
        (number, address + 8 * place, table.values[place]) for number, places in numbered for place in places
    ]
    return np.array(rows, np.int64).reshape(-1, PATCH)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
