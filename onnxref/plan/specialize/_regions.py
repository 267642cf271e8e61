"""The specialised regions of one plan, by where they begin and what shapes come in."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from ...lowering import Op, PackCache
from ...native import NativeUnavailableError, Team
from .._steps import Plan, Step
from ..passes import Block, run_passes
from ._lower import Lowered, lower_block
from ._program import Program
from ._record import Record, region_outputs
from ._shapes import shaped_by

# Signatures kept per plan: the least recently used one makes room for a new one.
_MOST_REGIONS = 32


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How plans of one model are specialised; all of them share it.

    Attributes:
        backend: kernel set of the lowerings.
        precision: see `onnxref.lowering.Site`.
        wait: compile as soon as shapes are known, and let the caller wait; otherwise the reference runs
            until the code is there.
        without: names of the passes to leave out, "layout" among them.
    """

    backend: str
    team: Team
    precision: str = "default"
    wait: bool = False
    without: frozenset[str] = frozenset()
    packs: PackCache = field(default_factory=PackCache)


@dataclass(slots=True)
class Region:
    """Steps `begin` to `end` for one signature.

    Attributes:
        inputs, outputs: slots that the program reads and writes.
        frees: slots that nothing needs after it.
        program: None while there is none; the steps run one by one.
        hopeless: why there is not going to be a program.
    """

    record: Record
    end: int
    inputs: list[int]
    outputs: list[int]
    frees: list[int]
    program: Program | None = None
    hopeless: str = ""
    state: Literal["learned", "building", "ready"] = "learned"


class Regions:
    """All regions of one plan."""

    def __init__(self, plan: Plan, acceleration: Acceleration) -> None:
        self._plan = plan
        self.acceleration = acceleration
        self._known: OrderedDict[Any, Region] = OrderedDict()
        self._live: dict[int, tuple[int, ...]] = {}
        self._dynamic = [is_dynamic(step) for step in plan.steps]
        self._lock = threading.Lock()

    def is_dynamic(self, position: int) -> bool:
        """Whether the step at a position is never part of a region."""
        return self._dynamic[position]

    def key(self, begin: int, slots: Sequence[Any]) -> Any:
        """Return what tells whether a region that begins at a step fits the values in the slots."""
        live = self._live.get(begin)
        if live is None:
            live = self._live[begin] = _live_slots(self._plan, begin)
        return (begin, *[_kind(slots[slot]) for slot in live])

    def find(self, key: Any) -> Region | None:
        """Return the region for a key, None where these shapes are new."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
        if found is not None and found.state == "learned":
            self._advance(found)
        return found

    def learn(self, key: Any, record: Record) -> None:
        """Keep what a run has taught."""
        plan = self._plan
        steps = plan.steps[record.begin : record.end]
        region = Region(
            record,
            record.end,
            record.inputs,
            region_outputs(record),
            sorted({slot for step in steps for slot in step.frees}),
        )
        with self._lock:
            self._known[key] = region
            while len(self._known) > _MOST_REGIONS:
                self._known.popitem(last=False)
        if self.acceleration.wait:
            self._advance(region)

    def regions(self) -> list[Region]:
        """Return all regions that are known, in the order of their steps."""
        with self._lock:
            return sorted(self._known.values(), key=lambda region: region.record.begin)

    def _advance(self, region: Region) -> None:
        """Build the region's program: now if the caller shall wait, else behind his back."""
        with self._lock:
            if region.state != "learned":
                return
            region.state = "building"
        if self.acceleration.wait:
            self._build(region, compile_now=True)
        else:
            _background().submit(self._build, region, compile_now=True)

    def _build(self, region: Region, *, compile_now: bool) -> None:
        try:
            lowered, block = specialize(region, self.acceleration)
            if lowered and not any(found.site for found in lowered):
                region.hopeless = "no step has a native kernel"
                return
            program = Program(lowered, block.inputs, block.outputs, self.acceleration.team)
            if compile_now:
                program.compile()
            region.program = program
        except NativeUnavailableError as error:
            region.hopeless = str(error)
        finally:
            region.state = "ready"


def specialize(region: Region, acceleration: Acceleration) -> tuple[list[Lowered], Block]:
    """Run the passes and lowerings over a region; return what computes it, and its inputs and outputs."""
    record = region.record
    operands = record.operands
    ops: list[Op] = []
    steps: dict[Op, Step] = {}
    for step in record.steps:
        node = step.node
        op = Op(
            node.op_type,
            [operands[slot] if slot else None for slot in step.inputs],
            [operands[slot] if slot else None for slot in step.outputs],
            node.attributes,
            node.domain,
            node.opset,
            (node,),
        )
        steps[op] = step
        ops.append(op)
    block = Block(
        ops,
        [operands[slot] for slot in region.inputs],
        [operands[slot] for slot in region.outputs],
        acceleration.packs,
        acceleration.precision,
    )
    before = {op: (op.op_type, tuple(op.inputs)) for op in ops}
    run_passes(block, acceleration.without)
    unchanged = {op: steps[op] for op in block.ops if op in steps and before[op] == (op.op_type, tuple(op.inputs))}
    layouts = "layout" not in acceleration.without
    return lower_block(block, unchanged, acceleration.backend, layouts=layouts), block


def is_dynamic(step: Step) -> bool:
    """Whether no region can hold a step, whatever the shapes."""
    return step.user_defined or bool(step.bodies) or step.type_rule is None or shaped_by(step.node) is None


def _live_slots(plan: Plan, begin: int) -> tuple[int, ...]:
    """Return the slots that steps from `begin` on read and none of them makes, constants aside."""
    fixed = {slot for slot, value in enumerate(plan.template) if value is not None} - set(plan.input_slots)
    made: set[int] = set()
    live: dict[int, None] = {}
    for step in plan.steps[begin:]:
        reads = [*step.inputs]
        for body in step.bodies.values():
            reads.extend(outer for outer, _ in body.captures)
        live.update(dict.fromkeys(slot for slot in reads if slot and slot not in made and slot not in fixed))
        made.update(step.outputs)
    return tuple(live)


def _kind(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype
    return type(value)


@cache
def _background() -> ThreadPoolExecutor:
    """The thread that specialises while callers go on."""
    return ThreadPoolExecutor(1, thread_name_prefix="onnxref-compiler")

