"""Where a run spends its time and its memory: per node, operator, kernel and module of the source program."""

from __future__ import annotations

import ast
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..dtypes import Array
from ..errors import OutputError
from ..graph import Graph, subgraphs
from ..limits import Limits
from ..plan import Step
from ..plan.specialize import Lowered, Program
from ..runtime import bind_inputs
from ..session import InferenceSession
from ._html import html_table
from ._recorder import Key, Recorder, Tally, paths_of
from ._timeline import (
    ArenaLedger,
    Event,
    MemoryTimeline,
    ValueLedger,
    arrays_of,
    chrome_trace,
)

_BUSY = 1.5  # so much longer than a run are its ops only where threads wait to be run
_WARM_UP = 3  # runs: shapes are learned in the first, bodies of loops may need another
_TORCH = "pkg.torch.onnx."
_FRAME = re.compile(r'File "([^"\n]*)", line (\d+)(?:, in ([^\n]*))?')


@dataclass(frozen=True, slots=True)
class Source:
    """Where a node comes from, as PyTorch's exporter left it in the node's metadata.

    Attributes:
        place: file, line and function of the innermost call: `model.py:17 in forward`.
        code: that line of the program.
        module: path of the module that was called: `encoder.layers.0.attention`.
        stack: the whole stack trace.
    """

    place: str = ""
    code: str = ""
    module: str = ""
    stack: str = ""

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Source | None:
        """Return what a node's metadata says; None where it says nothing."""
        stack = metadata.get(f"{_TORCH}stack_trace", "")
        module = _module(metadata)
        if not stack and not module:
            return None
        place = code = ""
        for match in _FRAME.finditer(stack):
            place = f"{match[1]}:{match[2]}" + (f" in {match[3].strip()}" if match[3] else "")
            code = stack[match.end() :].lstrip("\n").partition("\n")[0].strip()
        return cls(place, code, module, stack)

    def to_json(self) -> dict[str, Any]:
        """Return the source as plain data for `json.dumps`."""
        return {"place": self.place, "code": self.code, "module": self.module, "stack": self.stack}


def _module(metadata: Mapping[str, str]) -> str:
    """Return the path of the innermost module; the last scope is the operator itself."""
    text = metadata.get(f"{_TORCH}name_scopes", "")
    try:
        scopes = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # it is the model's, and may be anything
        return ""
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        return ""
    return scopes[-2] if len(scopes) > 1 else ""


@dataclass(frozen=True, slots=True)
class ProfiledOp:
    """What one op cost: a node, or several that were fused.

    Attributes:
        path: scope and name of the first node; `[*]` stands for all iterations of a loop.
        nodes: names of all nodes that it stands for.
        operator: what ran, such as `Conv` or `onnxref.internal:FusedConv`.
        kernel: the functions that ran, in order.
        kind: "native", "reference", "view" (no work at all) or "control" (its bodies are other rows).
        calls: how often it ran in one run.
        seconds: in one run, all calls and the bodies inside of it together: the median of all runs.
        own_seconds: the same without what ran in its bodies.
        source: of the first node that says where it comes from.
    """

    path: str
    nodes: tuple[str, ...]
    operator: str
    kernel: str
    kind: str
    calls: int
    seconds: float
    own_seconds: float
    source: Source | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the op as plain data for `json.dumps`."""
        return {
            "path": self.path,
            "nodes": list(self.nodes),
            "operator": self.operator,
            "kernel": self.kernel,
            "kind": self.kind,
            "calls": self.calls,
            "seconds": self.seconds,
            "own_seconds": self.own_seconds,
            "source": None if self.source is None else self.source.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Share:
    """What all ops of one kind cost together.

    Attributes:
        name: of the operator, the kernel or the module.
        ops: how many different ops.
        share: of the time of all ops, from 0 to 1.
    """

    name: str
    ops: int
    calls: int
    seconds: float
    share: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data for `json.dumps`."""
        return {
            "name": self.name,
            "ops": self.ops,
            "calls": self.calls,
            "seconds": self.seconds,
            "share": self.share,
        }


@dataclass(frozen=True, slots=True)
class Profile:
    """Time and memory of a model's runs.

    Attributes:
        runs: number of timed runs.
        run_seconds: a whole run without anybody watching: the median.
        watched_seconds: the same with every op watched, which costs a little and keeps ops from being
            handed to the threads together.
        ops: the slowest first, by their own time.
        events: one run, in the order in which the ops ended; `dropped` more were not kept.
    """

    model: str
    backend: str
    runs: int
    run_seconds: float
    watched_seconds: float
    ops: tuple[ProfiledOp, ...]
    memory: MemoryTimeline
    events: tuple[Event, ...] = field(default=(), repr=False)
    dropped: int = 0

    @property
    def op_seconds(self) -> float:
        """The time of all ops of one run."""
        return math.fsum(op.own_seconds for op in self.ops)

    def by_operator(self) -> tuple[Share, ...]:
        """Return the time by operator, the slowest first."""
        return self._shares(lambda op: op.operator)

    def by_kernel(self) -> tuple[Share, ...]:
        """Return the time by kernel, the slowest first."""
        return self._shares(lambda op: op.kernel or op.kind)

    def by_module(self) -> tuple[Share, ...]:
        """Return the time by module of the source program, the slowest first; empty if no node knows one."""
        known = any(op.source is not None and op.source.module for op in self.ops)
        return self._shares(lambda op: op.source.module if op.source else "") if known else ()

    def chrome_trace(self) -> dict[str, Any]:
        """Return one run in the Trace Event Format, for Perfetto and `chrome://tracing`."""
        return chrome_trace(self.model, self.events, self.memory)

    def save_trace(self, path: str | Path) -> None:
        """Write one run as a JSON file for Perfetto and `chrome://tracing`.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            Path(path).write_text(json.dumps(self.chrome_trace()), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write the trace to {str(path)!r}: {error.strerror}") from error

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain data for `json.dumps`; events are in `chrome_trace`."""
        return {
            "model": self.model,
            "backend": self.backend,
            "runs": self.runs,
            "run_seconds": self.run_seconds,
            "watched_seconds": self.watched_seconds,
            "op_seconds": self.op_seconds,
            "ops": [op.to_json() for op in self.ops],
            "by_operator": [share.to_json() for share in self.by_operator()],
            "by_kernel": [share.to_json() for share in self.by_kernel()],
            "by_module": [share.to_json() for share in self.by_module()],
            "memory": self.memory.to_json(),
        }

    def rows(self, most: int | None = None) -> list[tuple[str, ...]]:
        """Return the cells of a table of ops, under `COLUMNS`."""
        total = self.op_seconds
        return [
            (
                _joined((op.path, *op.nodes[1:])),
                op.operator,
                op.kernel or op.kind,
                f"{op.calls:,}",
                f"{op.own_seconds * 1e3:.3f}",
                f"{op.own_seconds / total:.1%}" if total else "",
                "" if op.source is None else op.source.place or op.source.module,
            )
            for op in self.ops[:most]
        ]

    def __str__(self) -> str:
        widths = [max(map(len, cells)) for cells in zip(COLUMNS, *self.rows(20), strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (COLUMNS, *self.rows(20))
        ]
        left = len(self.ops) - 20
        return "\n".join([self.summary(), *lines, *([f"and {left:,} more"] if left > 0 else [])])

    def summary(self) -> str:
        """Return one line: the times and the peak of memory."""
        text = (
            f"{self.model} on {self.backend}: {self.run_seconds * 1e3:.3f} ms a run, ops "
            f"{self.op_seconds * 1e3:.3f} ms (median of {self.runs}), at most "
            f"{self.memory.peak_bytes:,} bytes of {self.memory.covers} alive"
        )
        if self.op_seconds > _BUSY * self.run_seconds:
            # Each watched op is a start of the threads of its own, and waits for the last of them.
            text += "; the ops took longer than the run as a whole: other programs keep the processor busy"
        return text

    def _repr_html_(self) -> str:
        return html_table(self.rows(), COLUMNS, title=self.summary())

    def _shares(self, key: Callable[[ProfiledOp], str]) -> tuple[Share, ...]:
        groups: dict[str, list[ProfiledOp]] = {}
        for op in self.ops:
            groups.setdefault(key(op), []).append(op)
        total = self.op_seconds
        shares = [
            Share(name, len(ops), sum(op.calls for op in ops), seconds, seconds / total if total else 0.0)
            for name, ops in groups.items()
            for seconds in [math.fsum(op.own_seconds for op in ops)]
        ]
        return tuple(sorted(shares, key=lambda share: -share.seconds))


def _joined(names: Sequence[str]) -> str:
    """Return the names of fused nodes, short enough for a table."""
    left = len(names) - 3
    return " + ".join(names[:3]) + (f" + {left} more" if left > 0 else "")


COLUMNS = ("node", "operator", "kernel", "calls", "ms", "share", "source")


def profile(
    model: Any,
    inputs: Any = None,
    *,
    runs: int = 10,
    backend: str = "numba",
    limits: Limits | None = None,
) -> Profile:
    """Time every op of a model, and follow its memory.

    After a few runs that warm up come the timed ones, then one more that keeps events and memory.

    Args:
        model, inputs, limits: as for `onnxref.run`.
        runs: how many runs to time.
        backend: "numba", or "auto", which is the same here: code is compiled before anything is timed; or
            "numpy", where every node runs by itself and every value's memory is followed.

    Raises:
        ValueError: there is nothing to time.
        OnnxRefError: the model or its inputs do not work.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1 (got {runs})")
    backend = "numba" if backend == "auto" else backend
    session = InferenceSession(model, backend=backend, limits=limits)
    for _ in range(_WARM_UP if backend != "numpy" else 1):
        session.run_named(None, inputs)
    watch = _watch_values if backend == "numpy" else _watch_ops
    plain, watched = [], []
    recorders: list[Recorder] = []
    for _ in range(runs):
        plain.append(_seconds(lambda: session.run_named(None, inputs)))
        recorders.append(Recorder(paths_of(session.graph)))
        watched.append(_seconds(partial(watch, session, inputs, recorders[-1])))
    last = Recorder(paths_of(session.graph), keeps_events=True)
    memory = _watch_memory(session, inputs, last, backend)
    return Profile(
        _name(model, session.graph),
        backend,
        runs,
        statistics.median(plain),
        statistics.median(watched),
        _summarise(recorders),
        memory,
        tuple(last.finished_events()),
        last.dropped,
    )


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _name(model: Any, graph: Graph) -> str:
    return Path(model).name if isinstance(model, (str, Path)) else graph.name or "model"


def _watch_values(session: InferenceSession, inputs: Any, recorder: Recorder) -> None:
    session.run_named(None, inputs, observers=[recorder.observe])


def _watch_ops(session: InferenceSession, inputs: Any, recorder: Recorder) -> None:
    session.run_named(None, inputs, watcher=recorder.watch)


def _watch_memory(session: InferenceSession, inputs: Any, recorder: Recorder, backend: str) -> MemoryTimeline:
    """Run once more, with an eye on memory."""
    given = sum(array.nbytes for array in _all_arrays(bind_inputs(session.graph, inputs)))
    weights = _weight_bytes(session.graph)
    recorder.began = time.perf_counter()
    if backend == "numpy":
        values = ValueLedger(recorder.began)
        session.run_named(None, inputs, observers=[recorder.observe, values])
        return values.timeline(given, weights)
    programs = [r.program for r in session.native_regions() if isinstance(r.program, Program)]
    arenas = ArenaLedger(programs, paths_of(session.graph))

    def watch(scope: str, op: Lowered | Step, started: float, seconds: float) -> None:
        ran = recorder.note(scope, op, started, seconds)
        arenas.ran(op, recorder.path(ran), ran.started, seconds)

    session.run_named(None, inputs, watcher=watch)
    return arenas.timeline(given, weights)


def _all_arrays(values: Iterable[Any]) -> Iterator[Array]:
    for value in values:
        yield from arrays_of(value)


def _weight_bytes(graph: Graph) -> int:
    constants = [v for node in graph.nodes if node.op_type == "Constant" for v in node.attributes.values()]
    own = sum(array.nbytes for array in _all_arrays([*graph.initializers.values(), *constants]))
    return own + sum(_weight_bytes(body) for node in graph.nodes for body in subgraphs(node).values())


def _summarise(recorders: Sequence[Recorder]) -> tuple[ProfiledOp, ...]:
    """Return the median of every op over all runs; a run in which it did not run counts as zero."""
    keys: dict[Key, Tally] = {}
    for recorder in recorders:
        for key, tally in recorder.tallies.items():
            keys.setdefault(key, tally)
    found = []
    for key, first in keys.items():
        tallies = [recorder.tallies.get(key) for recorder in recorders]
        sources = (Source.of(node.metadata) for node in first.nodes)
        found.append(
            ProfiledOp(
                key[0],
                key[1],
                first.operator,
                first.kernel,
                first.kind,
                first.calls,
                statistics.median(0.0 if tally is None else tally.seconds for tally in tallies),
                statistics.median(0.0 if tally is None else tally.own_seconds for tally in tallies),
                next((source for source in sources if source is not None), None),
            )
        )
    return tuple(sorted(found, key=lambda op: -op.own_seconds))
