"""Bounds on what a model may use, and the account that a run charges against them.

Models are untrusted input: a few bytes can ask for terabytes. Whoever is about to allocate,
loop or nest asks a `Budget` first; it raises `ResourceLimitError` before anything happens.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from .errors import ResourceLimitError

KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds for loading and running one model; None means unbounded.

    Attributes:
        tensor_bytes: size of any single value, in bytes.
        live_bytes: all values alive at one moment of a run, in bytes.
        total_bytes: all values made during a run, in bytes.
        nodes: nodes in the loaded model, subgraphs and function bodies included.
        depth: nesting of subgraphs and functions.
        executed_nodes: nodes executed in one run, loop iterations included.
        sequence_length: elements of any sequence.
        string_bytes: all characters of any string tensor, in UTF-8 bytes.
        seconds: wall-clock time of one run.
    """

    tensor_bytes: int | None = 16 * GIB
    live_bytes: int | None = 64 * GIB
    total_bytes: int | None = None
    nodes: int | None = 1_000_000
    depth: int | None = 64
    executed_nodes: int | None = 100_000_000
    sequence_length: int | None = 10_000_000
    string_bytes: int | None = 4 * GIB
    seconds: float | None = None


TRUSTED = Limits(
    tensor_bytes=None,
    live_bytes=None,
    nodes=None,
    depth=100,  # Python itself recurses about five times as deep, and stops at 1,000
    executed_nodes=None,
    sequence_length=None,
    string_bytes=None,
)
DEFAULT = Limits()
UNTRUSTED = Limits(
    tensor_bytes=1 * GIB,
    live_bytes=2 * GIB,
    total_bytes=64 * GIB,
    nodes=50_000,
    depth=16,
    executed_nodes=1_000_000,
    sequence_length=100_000,
    string_bytes=64 * MIB,
    seconds=60.0,
)


class Budget:
    """What one run has used so far. Not shared between runs or threads."""

    __slots__ = ("_deadline", "executed_nodes", "limits", "live_bytes", "nodes", "peak_bytes", "total_bytes")

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.live_bytes = 0
        self.peak_bytes = 0
        self.total_bytes = 0
        self.executed_nodes = 0
        self.nodes = 0
        self._deadline = None if limits.seconds is None else time.monotonic() + limits.seconds

    def check_bytes(self, wanted: int, what: str = "output") -> None:
        """Refuse a value (or scratch) of `wanted` bytes that would break a limit."""
        limits = self.limits
        _check("tensor_bytes", limits.tensor_bytes, wanted, what)
        _check("live_bytes", limits.live_bytes, self.live_bytes + wanted, what)
        _check("total_bytes", limits.total_bytes, self.total_bytes + wanted, what)

    def check_sequence(self, length: int) -> None:
        """Refuse a sequence of more than `sequence_length` elements."""
        _check("sequence_length", self.limits.sequence_length, length, "sequence")

    def check_strings(self, wanted: int) -> None:
        """Refuse string data of more than `string_bytes` UTF-8 bytes."""
        _check("string_bytes", self.limits.string_bytes, wanted, "strings")

    def check_depth(self, depth: int) -> None:
        """Refuse graphs and functions that nest deeper than `depth`."""
        _check("depth", self.limits.depth, depth, "nested graphs")

    def add_node(self) -> None:
        """Account for one more node in the loaded model."""
        self.nodes += 1
        _check("nodes", self.limits.nodes, self.nodes, "the model")

    def add_live(self, count: int) -> None:
        """Account for a value of `count` bytes that is now alive."""
        self.live_bytes += count
        self.total_bytes += count
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
        limits = self.limits
        _check("live_bytes", limits.live_bytes, self.live_bytes, "live values")
        _check("total_bytes", limits.total_bytes, self.total_bytes, "all values")

    def drop_live(self, count: int) -> None:
        """Account for a value of `count` bytes that was freed."""
        self.live_bytes -= count

    def step(self, count: int = 1) -> None:
        """Account for executed nodes; also looks at the clock."""
        self.executed_nodes += count
        _check("executed_nodes", self.limits.executed_nodes, self.executed_nodes, "nodes")
        self.check_time()

    @property
    def seconds_left(self) -> float:
        """Time until the deadline, infinite without one."""
        return math.inf if self._deadline is None else self._deadline - time.monotonic()

    def check_time(self) -> None:
        """Refuse to go on after `seconds`; kernels that may loop for long ask in between."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise ResourceLimitError(f"limit 'seconds' is {self.limits.seconds:g}: the run took longer")


def _check(name: str, limit: int | None, wanted: int, what: str) -> None:
    if limit is not None and wanted > limit:
        raise ResourceLimitError(f"limit {name!r} is {limit:,}: {what} would need {wanted:,}")
