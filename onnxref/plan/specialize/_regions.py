"""The specialised regions of one plan, by where they begin and what shapes come in."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from ...errors import BackendError
from ...gpu import Device, DeviceTensor
from ...lowering import Op, Operand, PackCache, load_lowerings
from ...native import CompileJob, NativeUnavailableError, Team, compile_together
from ...registry import INTERNAL
from .._steps import Plan, Step
from ..passes import Block, all_passes, fold_weights, run_passes
from ._device_program import DeviceConstants, DeviceProgram
from ._lower import Lowered, NoReferenceError, lower_block
from ._program import Program
from ._record import Record, decides, is_branch, is_default, region_outputs
from ._shapes import shaped_by
from ._static import with_fixed_shapes

# A region is specialised once the reference has spent as long on it as that may take: seconds for each
# step, and for each native function that is not in the cache.
_PLANNING = 0.0003
_COMPILING = 0.05

# What kernels of a device compute in float32.
_NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))

# Signatures kept per plan: the least recently used one makes room for a new one.
_MOST_REGIONS = 32


@dataclass(slots=True)
class Acceleration:
    """How plans of one model are specialised; all of them share it.

    Attributes:
        backend: kernel set of the lowerings.
        known_bytes: most that values known while planning may take, for each region.
        precision: see `onnxref.lowering.Site`.
        wait: compile as soon as shapes are known, and let the caller wait; otherwise the reference runs
            until the code is there.
        without: names of the passes to leave out, "layout" among them.
        specialized: how many programs have been put to use so far.
        device: the card that programs run on; None for the processor.
        strict: whether an operator that only the reference can run is an error.
        debug: whether to look at the device after every launch, see `DeviceProgram`.
    """

    backend: str
    team: Team
    known_bytes: int = 1 << 30
    precision: str = "default"
    wait: bool = False
    without: frozenset[str] = frozenset()
    packs: PackCache = field(default_factory=PackCache)
    specialized: int = 0
    device: Device | None = None
    strict: bool = False
    debug: bool = False
    _constants: DeviceConstants | None = None

    def program(self, lowered: list[Lowered], block: Block) -> Program | DeviceProgram:
        """Return lowered ops as a program of the processor, or of the card."""
        if self.device is None:
            return Program(lowered, block.inputs, block.outputs, self.team)
        if self._constants is None:
            self._constants = DeviceConstants(self.device)
        return DeviceProgram(lowered, block.inputs, block.outputs, self.device, self._constants, self.debug)

    @property
    def libraries(self) -> frozenset[str]:
        """Return the libraries that lowerings may call."""
        return self.device.libraries if self.device else frozenset()


@dataclass(slots=True)
class Region:
    """Steps `begin` to `end` for one signature.

    Attributes:
        inputs, outputs: slots that the program reads and writes.
        frees: slots that nothing needs after it.
        seconds: what its steps have taken on the reference, in all runs so far.
        program: None while there is none; the steps run one by one.
        hopeless: why there is not going to be a program.
        planned: a program whose code is not compiled yet.
        job: what compiles it.
    """

    record: Record
    end: int
    inputs: list[int]
    outputs: list[int]
    frees: list[int]
    seconds: float = 0.0
    program: Program | DeviceProgram | None = None
    hopeless: str = ""
    planned: Program | DeviceProgram | None = None
    job: CompileJob | None = None


class Regions:
    """All regions of one plan.

    Attributes:
        plan: what runs in the place of the plan that was given; its regions are numbered by its steps.
    """

    def __init__(self, plan: Plan, acceleration: Acceleration) -> None:
        self.plan = plan = with_fixed_shapes(plan)
        self.acceleration = acceleration
        self._known: OrderedDict[Any, Region] = OrderedDict()
        self._live: dict[int, tuple[int, ...]] = {}
        self._dynamic = [is_dynamic(step) for step in plan.steps]
        self.deciding = _deciding_slots(plan)
        self._lock = threading.Lock()
        self._building = threading.Lock()

    def refuse_if_strict(self, position: int) -> None:
        """Raise if a step runs on the reference although the caller wants none there."""
        step = self.plan.steps[position]
        if self.acceleration.strict and not step.bodies and step.node.domain != INTERNAL:
            raise BackendError(f"{step.node}: its shapes depend on values, and strict=True")

    def _refuse_hopeless(self, region: Region) -> None:
        if region.hopeless and self.acceleration.strict:
            self.refuse_if_strict(region.record.begin)

    def is_dynamic(self, position: int) -> bool:
        """Whether the step at a position is never part of a region."""
        return self._dynamic[position]

    def key(self, begin: int, slots: Sequence[Any]) -> Any:
        """Return what tells whether a region that begins at a step fits the values in the slots."""
        live = self._live.get(begin)
        if live is None:
            live = self._live[begin] = _live_slots(self.plan, begin)
        return (begin, *[self._kind(slot, slots[slot]) for slot in live])

    def _kind(self, slot: int, value: Any) -> Any:
        """Return what a region depends on of a value: its shape and type, and itself if it decides."""
        if is_default(self.plan, slot, value):
            return "default"
        if isinstance(value, np.ndarray):
            if slot in self.deciding and decides(value):
                return value.shape, value.dtype, value.tobytes()
            return value.shape, value.dtype
        if isinstance(value, DeviceTensor):
            return value.shape, value.dtype
        return type(value)

    def find(self, key: Any) -> Region | None:
        """Return the region for a key, None where these shapes are new."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
        if found is not None:
            self._advance_if_due(found)
            self._refuse_hopeless(found)
        return found

    def ran(self, region: Region, seconds: float) -> None:
        """Take note that the reference has run a region."""
        region.seconds += seconds

    def _advance_if_due(self, region: Region) -> None:
        """Specialise a region once that pays; the run that taught its shapes is not kept waiting for it."""
        wait = self.acceleration.wait
        if region.program is not None or region.hopeless or not self._building.acquire(blocking=wait):
            return
        try:
            pays = wait or region.seconds > _PLANNING * len(region.record.steps)
            if pays and region.program is None and not region.hopeless:  # as another thread may have left it
                self._advance(region)
        except NativeUnavailableError as error:
            region.hopeless = str(error)
        except Exception as error:
            if wait:
                raise
            # Nobody asked for native code: the reference goes on, and the fault is told of, not hidden.
            region.hopeless = f"planning failed: {type(error).__name__}: {error}"
            warnings.warn(f"onnxref runs a model on its reference kernels: {region.hopeless}", stacklevel=2)
        finally:
            self._building.release()

    def learn(self, key: Any, record: Record, seconds: float) -> None:
        """Keep what a run has taught."""
        plan = self.plan
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
                _, oldest = self._known.popitem(last=False)
                if oldest.program is not None:
                    oldest.program.release()
        if record.end == record.begin:
            region.hopeless = "its shapes depend on values"
        self.ran(region, seconds)
        if self.acceleration.wait:
            self._advance_if_due(region)
        self._refuse_hopeless(region)

    def shortcut(self) -> Region | None:
        """Return the region used last if it is the whole plan, as one simple program."""
        with self._lock:
            region = next(reversed(self._known.values()), None)
        if region is None or region.program is None or not region.program.is_simple:
            return None
        return region if region.record.begin == 0 and region.end == len(self.plan.steps) else None

    def regions(self) -> list[Region]:
        """Return all regions that are known, in the order of their steps."""
        with self._lock:
            return sorted(self._known.values(), key=lambda region: region.record.begin)

    def _advance(self, region: Region) -> None:
        """Plan a region's program, have its code compiled, and put it to use, as far as that goes now."""
        if region.planned is None:
            load_lowerings(self.acceleration.backend)
            region.planned = self._planned(region, self.acceleration.libraries)
        if region.planned is None or (region.job is not None and not region.job.is_done()):
            return
        missing = region.planned.missing()
        if missing and not self.acceleration.wait and region.job is None:
            if region.seconds > _COMPILING * len(missing):
                region.job = CompileJob(missing)
            return
        compile_together(missing, self.acceleration.team.threads)
        try:
            region.planned.compile()
        except BackendError:
            if not self.acceleration.libraries:
                raise
            # A library has no algorithm for some operation: kernels of our own do without it.
            region.planned = self._planned(region, frozenset())
            if region.planned is None:
                return
            region.planned.compile()
        region.program = region.planned
        self.acceleration.specialized += 1

    def _planned(self, region: Region, libraries: frozenset[str]) -> Program | DeviceProgram | None:
        """Return a region's program; None where only the reference can run it."""
        lowered, block = specialize(region, self.acceleration, libraries)
        if self.acceleration.strict:
            _refuse_reference(lowered)
        if lowered and not any(found.calls or found.launches for found in lowered):
            region.hopeless = "no step has a native kernel"
            return None
        return self.acceleration.program(lowered, block)


def _refuse_reference(lowered: Sequence[Lowered]) -> None:
    """Raise for the first op that only the reference can run."""
    for found in lowered:
        if found.step is not None:
            node = found.op.nodes[0] if found.op.nodes else found.step.node
            raise BackendError(f"{node}: it has no kernel on the device, and strict=True: {found.reason}")


def all_regions(plan: Plan) -> list[Region]:
    """Return the regions of a plan and of the bodies in it."""
    found = plan.regions.regions() if plan.regions is not None else []
    bodies = (body for step in plan.steps for body in step.bodies.values())
    return found + [region for body in bodies for region in all_regions(body)]


def specialize(
    region: Region, acceleration: Acceleration, libraries: frozenset[str] = frozenset()
) -> tuple[list[Lowered], Block]:
    """Run the passes and lowerings over a region; return what computes it, and its inputs and outputs.

    Args:
        libraries: what lowerings may call, see `onnxref.lowering.Site`.
    """
    try:
        return _specialize(region, acceleration, libraries, acceleration.without)
    except NoReferenceError:
        without = frozenset(all_passes()) - {fold_weights.__name__}
        return _specialize(region, acceleration, libraries, without)


def _specialize(
    region: Region, acceleration: Acceleration, libraries: frozenset[str], without: frozenset[str]
) -> tuple[list[Lowered], Block]:
    operands = region.record.operands
    for operand in operands.values():
        operand.layout = None
    steps = {_op(step, operands): step for step in region.record.steps}
    block = Block(
        list(steps),
        [operands[slot] for slot in region.inputs],
        [operands[slot] for slot in region.outputs],
        acceleration.packs,
        acceleration.precision,
        _NARROW if acceleration.device else (),
        {op for op, step in steps.items() if step.deferred},
        reorders=not acceleration.device,
    )
    before = {op: (op.op_type, tuple(op.inputs), op.attributes) for op in steps}
    run_passes(block, without)
    unchanged = {
        op: steps[op]
        for op in block.ops
        if op in steps and before[op] == (op.op_type, tuple(op.inputs), op.attributes)
    }
    layouts = "layout" not in acceleration.without
    lowered = lower_block(block, unchanged, acceleration.backend, layouts=layouts, libraries=libraries)
    return lowered, block


def _op(step: Step, operands: Mapping[int, Operand]) -> Op:
    node = step.node
    return Op(
        node.op_type,
        [operands[slot] if slot else None for slot in step.inputs],
        [operands[slot] if slot else None for slot in step.outputs],
        node.attributes,
        node.domain,
        node.opset,
        (node,),
    )


def is_dynamic(step: Step) -> bool:
    """Whether no region can hold a step, whatever the shapes."""
    if is_branch(step) or (step.bodies and step.type_rule is None):
        return False  # a known condition, or a function: its body may be part of a region
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


def _deciding_slots(plan: Plan) -> frozenset[int]:
    """Return the inputs that conditions of the plan's own Ifs are computed from, by operators alone."""
    makers = {slot: step for step in plan.steps for slot in step.outputs if slot}
    found: set[int] = set()
    for branch in filter(is_branch, plan.steps):
        waiting, seen = [branch.inputs[0]], set()
        while waiting:
            slot = waiting.pop()
            if slot in seen or not slot:
                continue
            seen.add(slot)
            step = makers.get(slot)
            if step is None:
                continue
            waiting.extend(step.inputs)
        found |= seen - set(makers)
    return frozenset(found)
