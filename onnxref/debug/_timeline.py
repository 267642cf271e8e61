"""What happens when, and what is alive meanwhile: events, memory over time, and Chrome's trace format.

The format is the Trace Event Format (Google, "Trace Event Format", JSON Object Format), which Perfetto and
`chrome://tracing` open: complete events ("X"), counters ("C") and metadata ("M"), times in microseconds.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..dtypes import Array, memory_owner, tensor_type_string
from ..graph import SparseTensor
from ..lowering import Op, Operand
from ..plan.specialize import Program
from ..runtime import Execution

MOST_EVENTS = 200_000
"""Events and samples that one run keeps; a loop of many iterations has more."""


@dataclass(frozen=True, slots=True)
class Event:
    """One executed op.

    Attributes:
        path: scope and name of its first node, iterations included: `loop[3]/body/Add_2`.
        started: seconds since the run began.
        depth: bodies that it is inside of.
    """

    path: str
    operator: str
    kernel: str
    kind: str
    started: float
    seconds: float
    depth: int = 0


@dataclass(frozen=True, slots=True)
class AliveValue:
    """A value that is in memory at some moment.

    Attributes:
        name: scope and name of the value; `scratch of NODE` for memory that a kernel works in.
        producer: path of the node that made it.
    """

    name: str
    producer: str
    bytes: int
    type: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the value as plain data for `json.dumps`."""
        return {"name": self.name, "producer": self.producer, "bytes": self.bytes, "type": self.type}


@dataclass(frozen=True, slots=True)
class MemoryTimeline:
    """Memory over one run.

    Attributes:
        samples: (seconds since the run began, bytes alive), in order.
        peak_bytes: most that was alive at once, of what `covers` says.
        peak_path: the node that ran then.
        alive: what was alive at the peak, the largest first.
        input_bytes, weight_bytes: the caller's inputs, and the model's initializers and constants: alive all
            the time and not part of the other numbers.
        arena_bytes: what native programs hold while they run, whether it is used at the moment or not.
        covers: "values": everything that nodes hand on, without what kernels use inside. "native programs":
            arenas and outputs of native code, without the values between programs.
    """

    samples: tuple[tuple[float, int], ...] = ()
    peak_bytes: int = 0
    peak_path: str = ""
    alive: tuple[AliveValue, ...] = ()
    input_bytes: int = 0
    weight_bytes: int = 0
    arena_bytes: int = 0
    covers: str = "values"

    def to_json(self) -> dict[str, Any]:
        """Return the timeline as plain data for `json.dumps`."""
        return {
            "covers": self.covers,
            "peak_bytes": self.peak_bytes,
            "peak_path": self.peak_path,
            "alive_at_peak": [value.to_json() for value in self.alive],
            "input_bytes": self.input_bytes,
            "weight_bytes": self.weight_bytes,
            "arena_bytes": self.arena_bytes,
            "samples": [[seconds, count] for seconds, count in self.samples],
        }


@dataclass(slots=True)
class _Snapshot:
    peak: int = 0
    path: str = ""
    alive: dict[Any, AliveValue] = field(default_factory=dict)


class ValueLedger:
    """An observer that follows every array which owns memory from the node that made it until it is freed.

    Nodes hand values on as views, so it is the owners that count, each once. What no node made (inputs,
    initializers, constants) is left out. Of strings only the references count.

    Args:
        began: `time.perf_counter()` at the start of the run.
    """

    def __init__(self, began: float) -> None:
        self.samples: list[tuple[float, int]] = []
        self._began = began
        self._live = 0
        self._alive: dict[int, AliveValue] = {}
        self._watched: dict[int, weakref.ref[Array]] = {}
        self._found = _Snapshot()
        self._rising = False

    def __call__(self, execution: Execution) -> None:
        now = time.perf_counter() - self._began
        # A node with bodies began before what they have shown since.
        self._sample(max(now - execution.seconds, self.samples[-1][0] if self.samples else 0.0))
        for value in execution.inputs:
            for array in arrays_of(self._unknown(value)):
                self._watch(memory_owner(array), None)
        for name, value in zip(execution.node.outputs, execution.outputs, strict=False):
            for array in arrays_of(self._unknown(value)):
                self._add(array, execution, name)
        if self._live > self._found.peak:
            self._found.peak, self._found.path, self._rising = self._live, execution.path, True
        self._sample(now)

    def timeline(self, input_bytes: int, weight_bytes: int) -> MemoryTimeline:
        """Return what was seen."""
        self._keep_peak()
        alive = sorted(self._found.alive.values(), key=lambda value: (-value.bytes, value.name))
        return MemoryTimeline(
            tuple(self.samples), self._found.peak, self._found.path, tuple(alive), input_bytes, weight_bytes
        )

    def _unknown(self, value: Any) -> Any:
        """Return what is new in a value: a loop that grows a sequence shows all of it each time."""
        if not isinstance(value, list):
            return value
        return [item for item in value if id(item) not in self._watched]

    def _sample(self, now: float) -> None:
        if len(self.samples) < MOST_EVENTS:
            self.samples.append((now, self._live))

    def _add(self, array: Array, execution: Execution, name: str) -> None:
        owner = memory_owner(array)
        if id(owner) in self._watched:
            return
        if not array.flags.writeable:  # a view of something that the run did not make
            self._watch(owner, None)
            return
        shown = f"{tensor_type_string(owner.dtype)}{list(array.shape)}"
        label = execution.scope + (name or f"unused output of {execution.node.label}")
        self._watch(owner, AliveValue(label, execution.path, owner.nbytes, shown))

    def _watch(self, owner: Array, value: AliveValue | None) -> None:
        key = id(owner)
        if key in self._watched:
            return
        # The reference, which dies with the array, frees the identity for the next one.
        self._watched[key] = weakref.ref(owner, lambda _: self._forget(key))
        if value is not None:
            self._alive[key] = value
            self._live += value.bytes

    def _forget(self, key: int) -> None:
        del self._watched[key]
        if key in self._alive:
            self._keep_peak()
            self._live -= self._alive.pop(key).bytes

    def _keep_peak(self) -> None:
        """Keep what is alive if nothing was freed since the peak: copied once for each new one."""
        if self._rising:
            self._found.alive = dict(self._alive)
            self._rising = False


class ArenaLedger:
    """Follows native programs: which places of their arenas are in use at each op.

    Args:
        programs: all that may run.
        paths: of nodes by their identities; the others go by their names.
    """

    def __init__(self, programs: Sequence[Program], paths: Mapping[int, str]) -> None:
        self.samples: list[tuple[float, int]] = []
        self._paths = paths
        self._programs = list(programs)  # keeps the identities below
        self._where = {
            id(lowered): (program, index)
            for program in self._programs
            for index, lowered in enumerate(program.lowered)
        }
        # Computed before the run, which is not to wait for it.
        self._used = {id(program): _used_bytes(program) for program in self._programs}
        self._peak: tuple[int, Program | None, int, str] = (0, None, 0, "")
        self._ran: dict[int, Program] = {}

    def ran(self, lowered: Any, path: str, started: float, seconds: float) -> None:
        """Take note of an op of a program; anything else is left out."""
        found = self._where.get(id(lowered))
        if found is None:
            return
        program, index = found
        self._ran[id(program)] = program
        live = self._used[id(program)][index]
        if live > self._peak[0]:
            self._peak = (live, program, index, path)
        if len(self.samples) < MOST_EVENTS:
            self.samples += [(started, live), (started + seconds, live)]

    def timeline(self, input_bytes: int, weight_bytes: int) -> MemoryTimeline:
        """Return what was seen."""
        peak, program, index, path = self._peak
        alive = [] if program is None else self._alive_at(program, index, path)
        return MemoryTimeline(
            tuple(self.samples),
            peak,
            path,
            tuple(sorted(alive, key=lambda value: (-value.bytes, value.name))),
            input_bytes,
            weight_bytes,
            max((program.arena_bytes for program in self._ran.values()), default=0),
            "native programs",
        )

    def _alive_at(self, program: Program, index: int, path: str) -> list[AliveValue]:
        found = [
            AliveValue(
                _shown(span.operand), self._maker(span.maker), span.operand.buffer_bytes, str(span.operand)
            )
            for span in _buffers(program)
            if program.place_of(span.operand).kind == "arena" and span.first <= index <= span.last
        ]
        found += [AliveValue(_shown(y), "output", y.nbytes, str(y)) for y in program.outputs]
        scratch = _scratch_bytes(program, index)
        return found + ([AliveValue(f"scratch of {path}", path, scratch, "scratch")] if scratch else [])

    def _maker(self, op: Op) -> str:
        if not op.nodes:
            return str(op)
        return self._paths.get(id(op.nodes[0])) or op.nodes[0].label


@dataclass(slots=True)
class _Span:
    """A buffer, and the ops (first, last) between which it is in use."""

    operand: Operand
    maker: Op
    first: int
    last: int


def _buffers(program: Program) -> list[_Span]:
    """Return the buffers of a program: whatever lies in another operand is one with it.

    The memory of a Concat is in use from when its first part is made.
    """
    spans: dict[Operand, _Span] = {}
    for index, lowered in enumerate(program.lowered):
        for operand in (*lowered.op.outputs, *lowered.op.inputs):
            if operand is None or program.place_of(operand).kind not in ("arena", "output"):
                continue
            root = program.roots.of(operand)
            span = spans.setdefault(root, _Span(root, lowered.op, index, index))
            span.last = index
            if operand is root and any(operand is y for y in lowered.op.outputs):
                span.maker = lowered.op
    return list(spans.values())


def _shown(operand: Operand) -> str:
    return operand.name or str(operand)


def _scratch_bytes(program: Program, index: int) -> int:
    site = program.lowered[index].site
    threads = program.team.threads
    return sum(s.nbytes * (threads if s.per_thread else 1) for s in site.scratches) if site else 0


def _output_bytes(program: Program) -> int:
    return sum(y.nbytes for y in program.outputs)


def _used_bytes(program: Program) -> list[int]:
    """Return for each op the bytes in use: buffers, scratch, and the outputs, which are made first."""
    count = len(program.lowered)
    steps = np.zeros(count + 1, np.int64)
    for span in _buffers(program):
        if program.place_of(span.operand).kind == "arena":
            steps[span.first] += span.operand.buffer_bytes
            steps[span.last + 1] -= span.operand.buffer_bytes
    used = np.cumsum(steps)[:count] + _output_bytes(program)
    return [int(value) + _scratch_bytes(program, index) for index, value in enumerate(used)]


def arrays_of(value: Any) -> Iterator[Array]:
    """Return the arrays that a value is made of."""
    match value:
        case np.ndarray():
            yield value
        case SparseTensor():
            yield value.values
            yield value.indices
        case list():
            for item in value:
                yield from arrays_of(item)


def chrome_trace(model: str, events: Sequence[Event], memory: MemoryTimeline) -> dict[str, Any]:
    """Return a run in the Trace Event Format.

    Args:
        model: what the trace calls the process.
        events: in the order in which they ended; bodies before the node that has them.
    """
    named = {"ph": "M", "pid": 1, "tid": 1, "ts": 0}
    found: list[dict[str, Any]] = [
        {**named, "name": "process_name", "args": {"name": model}},
        {**named, "name": "thread_name", "args": {"name": "onnxref"}},
    ]
    for event, started, ended in _nested(events):
        arguments = {"path": event.path, "operator": event.operator, "kind": event.kind}
        if event.kernel:
            arguments["kernel"] = event.kernel
        found.append(
            {
                "ph": "X",
                "name": event.path,
                "cat": event.operator,
                "pid": 1,
                "tid": 1,
                "ts": started * 1e6,
                "dur": (ended - started) * 1e6,
                "args": arguments,
            }
        )
    found += [
        {"ph": "C", "name": "memory", "pid": 1, "tid": 1, "ts": seconds * 1e6, "args": {memory.covers: count}}
        for seconds, count in memory.samples
    ]
    return {"traceEvents": found, "displayTimeUnit": "ms"}


def _nested(events: Sequence[Event]) -> list[tuple[Event, float, float]]:
    """Return (event, start, end) in order of start, such that a body lies inside of its node.

    The clock is read a little later for a node than for what its body has run; viewers put an event that
    sticks out of the one around it on a line of its own.
    """
    found: list[tuple[Event, float, float]] = []
    starts: dict[int, float] = {}  # by depth, of the first event since the node around it ended
    ends: dict[int, float] = {}  # by depth, of the last one
    for event in events:
        depth = event.depth
        started = max(event.started, ends.get(depth, 0.0))
        inner = starts.pop(depth + 1, None)
        if inner is not None:
            started = max(min(started, inner), ends.get(depth, 0.0))
        ended = max(event.started + event.seconds, started, ends.pop(depth + 1, 0.0))
        starts.setdefault(depth, started)
        ends[depth] = ended
        found.append((event, started, ended))
    return sorted(found, key=lambda item: (item[1], item[0].depth))
