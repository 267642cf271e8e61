"""The specialised regions of one plan, by where they begin and what shapes come in."""

from __future__ import annotations

import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from ...errors import BackendError
from ...gpu import Device, DeviceTensor, LibraryOp, LibraryRefusalError
from ...limits import Budget
from ...lowering import Op, Operand, PackCache, load_lowerings
from ...native import CompileJob, NativeFunction, NativeUnavailableError, Team, compile_together
from ...registry import INTERNAL
from .._steps import Plan, Step
from ..passes import Block, all_passes, fold_weights, run_passes
from ._device_program import DeviceConstants, DeviceProgram
from ._lower import Lowered, NoReferenceError, lower_block
from ._program import Program
from ._record import Record, decides, is_branch, is_default, region_outputs
from ._shapes import shaped_by
from ._static import PADDED, with_fixed_shapes
from ._static_text import is_afterthought

# A region is specialised once the reference has spent as long on it as that may take: seconds for each
# step, and for each native function that is not in the cache.
_PLANNING = 0.0003
_COMPILING = 0.05
# Shape rules take so many seconds a step.
_FORESEEING = 0.00003

# What kernels of a device compute in float32.
_NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))

# What programs of one plan may keep for their next run.
_MOST_IDLE_BYTES = 512 << 20

# Longer pieces of a model are left to the reference: planning takes more than its share of time with size.
_MOST_STEPS = 20_000

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
        without: names of the passes to leave out, `LAYOUTS` among them.
        specialized: how many programs have been put to use so far whose shapes a run on the reference taught.
        device: the card that programs run on; None for the processor.
        strict: whether an operator that only the reference can run is an error.
        debug: whether to look at the device after every launch, see `DeviceProgram`.
        model: its name, for errors.
        refused: operations that the device's libraries turned out not to do; kernels of our own do without.
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
    model: str = ""
    refused: set[LibraryOp] = field(default_factory=set)
    _constants: DeviceConstants | None = None

    def program(self, lowered: list[Lowered], block: Block) -> Program | DeviceProgram:
        """Return lowered ops as a program of the processor, or of the card."""
        if self.device is None:
            return Program(lowered, block.inputs, block.outputs, self.team)
        if self._constants is None:
            self._constants = DeviceConstants(self.device, self.packs, name=self.model)
        constants = self._constants.of_program()
        return DeviceProgram(lowered, block.inputs, block.outputs, self.device, constants, self.debug)

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
        reference: what they took there in the last of those runs; of other shapes where it is foreseen.
        planning: what planning its program took, in seconds.
        program: None while there is none; the steps run one by one.
        hopeless: why there is not going to be a program.
        planned: a program whose code is not compiled yet.
        job: what compiles it.
        foreseen: its shapes were told by rules, no run has taught them.
        note: what `explain` is to say of all of it.
    """

    record: Record
    end: int
    inputs: list[int]
    outputs: list[int]
    frees: list[int]
    seconds: float = 0.0
    reference: float = 0.0
    planning: float = 0.0
    program: Program | DeviceProgram | None = None
    hopeless: str = ""
    planned: Program | DeviceProgram | None = None
    job: CompileJob | None = None
    foreseen: bool = False
    note: str = ""


# The process that compiles behind, if there is one.
_jobs: list[CompileJob] = []
_compiling = threading.Lock()


class Regions:
    """All regions of one plan.

    Attributes:
        plan: what runs in the place of the plan that was given; its regions are numbered by its steps.
    """

    def __init__(self, plan: Plan, acceleration: Acceleration) -> None:
        self.plan = plan = with_fixed_shapes(plan, texts=acceleration.device is None)
        self.acceleration = acceleration
        acceleration.packs.add_lasting(plan.constant_memory)
        self._known: OrderedDict[Any, Region] = OrderedDict()
        self._live: dict[int, tuple[int, ...]] = {}
        self._unforeseen: set[int] = set()
        self._dynamic = [is_dynamic(step) for step in plan.steps]
        self.deciding = _deciding_slots(plan)
        self._lock = threading.Lock()
        self._building = threading.Lock()

    def refuse_if_strict(self, position: int) -> None:
        """Raise if a step runs on the reference although the caller wants none there."""
        step = self.plan.steps[position]
        cuts = step.node.domain == INTERNAL and step.type_rule is None  # rows that native code has made
        if self.acceleration.strict and not step.bodies and not cuts:
            raise BackendError(f"{step.title}: its shapes depend on values, and strict=True")

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

    def find(self, key: Any, budget: Budget) -> Region | None:
        """Return the region for a key, specialised if that is due; None where these shapes are new."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
        if found is not None:
            self._advance_if_due(found, budget)
            self._refuse_hopeless(found)
        return found

    def ran(self, region: Region, seconds: float) -> None:
        """Take note that the reference has run a region."""
        region.seconds += seconds
        region.reference = seconds

    def _advance_if_due(self, region: Region, budget: Budget) -> None:
        """Specialise a region once that pays; the run that taught its shapes is not kept waiting for it.

        Unless the caller wants it at any price, it must not take what time the run has left.
        """
        wait = self.acceleration.wait
        if region.program is not None or region.hopeless or not self._building.acquire(blocking=wait):
            return
        try:
            planning = _PLANNING * len(region.record.steps)
            pays = wait or (region.seconds > planning and budget.seconds_left > 2 * planning)
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

    def record(self, begin: int, slots: list[Any]) -> Record:
        """Return an empty record of a region that begins at a step."""
        acceleration = self.acceleration
        texts = acceleration.device is None  # no card can read the strings of an interpreter
        return Record(self.plan, begin, slots, acceleration.known_bytes, self.deciding, texts=texts)

    def foresees(self, begin: int) -> bool:
        """Whether shape rules are to tell of new input shapes what a run would teach.

        Unless callers want native code at any price: once other shapes have shown that a run on the reference
        takes longer than planning and a native run.
        """
        if begin in self._unforeseen:
            return False
        if self.acceleration.wait:
            return True
        proven = self._proven(begin)
        if proven is None or not isinstance(proven.program, Program):
            return False
        native = proven.program.work * 1e-9 / self.acceleration.team.threads
        foreseeing = _FORESEEING * (proven.end - proven.record.begin)
        return proven.reference > foreseeing + proven.planning + native

    def never_foresee(self, begin: int) -> None:
        """Take note that a region has a step without a shape rule."""
        self._unforeseen.add(begin)

    def _proven(self, begin: int) -> Region | None:
        """Return a region from the same step on that native code runs."""
        with self._lock:
            found = (r for r in self._known.values() if r.record.begin == begin and r.program is not None)
            return next(found, None)

    def learn(self, key: Any, record: Record, seconds: float | None, budget: Budget) -> Region:
        """Keep what a run has taught in so many seconds; None where it was foreseen without a run."""
        record.close()
        foreseen = seconds is None
        if seconds is None:
            proven = self._proven(record.begin)
            seconds, reference = (proven.seconds, proven.reference) if proven else (0.0, 0.0)
        else:
            reference = seconds
        plan = self.plan
        steps = plan.steps[record.begin : record.end]
        region = Region(
            record,
            record.end,
            record.inputs,
            region_outputs(record),
            sorted({slot for step in steps for slot in step.frees}),
            seconds,
            reference,
            foreseen=foreseen,
        )
        with self._lock:
            self._known[key] = region
            while len(self._known) > _MOST_REGIONS:
                _, oldest = self._known.popitem(last=False)
                if oldest.program is not None:
                    oldest.program.release()
            self._trim()
        if record.end == record.begin:
            region.hopeless = "its shapes depend on values"
        elif len(record.steps) > _MOST_STEPS:
            region.hopeless = f"it has more than {_MOST_STEPS:,} steps"
        if self.acceleration.wait or foreseen:
            self._advance_if_due(region, budget)
        self._refuse_hopeless(region)
        return region

    def _trim(self) -> None:
        """Give back memory that programs keep for their next run, those first that were used longest ago."""
        idle = {id(r): r.program.idle_bytes for r in self._known.values() if r.program is not None}
        excess = sum(idle.values()) - _MOST_IDLE_BYTES
        for region in self._known.values():
            if excess <= 0:
                return
            if region.program is not None:
                region.program.release()
                excess -= idle[id(region)]

    def shortcut(self, inputs: Sequence[Any]) -> Region | None:
        """Return the region for such inputs if it is the whole plan, as one simple program.

        Steps that make names or maps of its outputs may follow it.
        """
        slots = self.plan.template.copy()
        for slot, value in zip(self.plan.input_slots, inputs, strict=True):
            slots[slot] = value
        key = self.key(0, slots)
        with self._lock:
            region = self._known.get(key)
        if region is None or region.program is None or not region.program.is_simple:
            return None
        after = self.plan.steps[region.end :]
        return region if region.record.begin == 0 and all(map(is_afterthought, after)) else None

    def regions(self) -> list[Region]:
        """Return all regions that are known, in the order of their steps."""
        with self._lock:
            return sorted(self._known.values(), key=lambda region: region.record.begin)

    def _advance(self, region: Region) -> None:
        """Plan a region's program, have its code compiled, and put it to use, as far as that goes now."""
        if region.planned is None:
            load_lowerings(self.acceleration.backend)
            started = time.perf_counter()
            region.planned = self._planned(region)
            region.planning = time.perf_counter() - started
        if region.planned is None or (region.job is not None and not region.job.is_done()):
            return
        missing = region.planned.missing()
        if missing and not self.acceleration.wait and region.job is None:
            if region.seconds > _COMPILING * len(missing):
                region.job = _start(missing)
            return
        compile_together(missing, self.acceleration.team.threads)
        while region.planned is not None:
            try:
                region.planned.compile()
            except LibraryRefusalError as error:
                if error.op in self.acceleration.refused:
                    raise
                self.acceleration.refused.add(error.op)
                region.note = "; ".join(filter(None, (region.note, str(error))))
                region.planned = self._planned(region)
            else:
                region.program = region.planned
                self.acceleration.specialized += not region.foreseen
                return

    def _planned(self, region: Region) -> Program | DeviceProgram | None:
        """Return a region's program; None where only the reference can run it."""
        hurried = self._proven(region.record.begin) is not None
        lowered, block = specialize(region, self.acceleration, hurried=hurried)
        if self.acceleration.strict:
            _refuse_reference(lowered)
        if lowered and not self.acceleration.strict and not any(map(_is_work, lowered)):
            region.hopeless = "no step has a native kernel"
            return None
        return self.acceleration.program(lowered, block)


def _start(functions: Sequence[NativeFunction]) -> CompileJob | None:
    """Have functions compiled behind, unless something is: one such process at a time, for all sessions."""
    with _compiling:
        if any(not job.is_done() for job in _jobs):
            return None
        _jobs[:] = [CompileJob(functions)]
        return _jobs[0]


def _is_work(found: Lowered) -> bool:
    """Whether an op alone makes a program worth having: native code, or a range of what may lie on a card."""
    aliases = found.site.aliases if found.site is not None else ()
    return bool(found.calls or found.launches) or any(y.size < x.size for y, x, _ in aliases)


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
    region: Region, acceleration: Acceleration, *, hurried: bool = False
) -> tuple[list[Lowered], Block]:
    """Run the passes and lowerings over a region; return what computes it, and its inputs and outputs.

    Args:
        hurried: see `onnxref.lowering.Site`.
    """
    try:
        return _specialize(region, acceleration, acceleration.without, hurried)
    except NoReferenceError:
        without = frozenset(all_passes()) - {fold_weights.__name__}
        return _specialize(region, acceleration, without, hurried)


def _specialize(
    region: Region, acceleration: Acceleration, without: frozenset[str], hurried: bool
) -> tuple[list[Lowered], Block]:
    operands = region.record.operands
    for operand in operands.values():
        operand.layout = operand.place = None
    steps = {_op(step, operands): step for step in region.record.steps}
    block = Block(
        list(steps),
        [operands[slot] for slot in region.inputs],
        [operands[slot] for slot in region.outputs],
        PackCache(acceleration.packs),
        acceleration.precision,
        _NARROW if acceleration.device else (),
        {op for op, step in steps.items() if step.deferred},
        hurried=hurried,
        reorders=not acceleration.device,
        merges_products=acceleration.device is not None,
        normalizes=acceleration.device is not None,
    )
    before = {op: (op.op_type, tuple(op.inputs), op.attributes) for op in steps}
    run_passes(block, without)
    unchanged = {
        op: steps[op]
        for op in block.ops
        if op in steps and before[op] == (op.op_type, tuple(op.inputs), op.attributes)
    }
    lowered = lower_block(
        block,
        unchanged,
        acceleration.backend,
        without=acceleration.without,
        libraries=acceleration.libraries,
        refused=acceleration.refused,
    )
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
        step.nodes,
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
    """Return the inputs that a few integers are computed from, by operators alone, on which much depends.

    These are the conditions of the plan's own Ifs, and how many boxes a NonMaxSuppression may find.
    """
    makers = {slot: step for step in plan.steps for slot in step.outputs if slot}
    asked = [step.inputs[0] for step in plan.steps if is_branch(step)]
    asked += [step.inputs[2] for step in plan.steps if step.node.op_type == PADDED and len(step.inputs) > 2]
    found: set[int] = set()
    for root in asked:
        waiting, seen = [root], set()
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
