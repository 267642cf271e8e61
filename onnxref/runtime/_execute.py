"""The executor: one loop over a plan's steps. There is no other interpreter, also not for debugging."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..dtypes import Array, DType, from_numpy, memory_owner, tensor_type_string
from ..errors import KernelError, NodeError, OnnxRefError, ResourceLimitError, TypeMismatchError
from ..gpu import DeviceTensor, fetched
from ..graph import Node, ValueType
from ..limits import Budget
from ..plan import Plan, Step, read_only
from ..plan.specialize import DeviceProgram, Frame, Lowered, Program, RefusedError, Region, Regions
from ..registry import Context, ghost
from ._lesson import Lesson, UnforeseenError, imagine
from ._memory import Ledger

_LONGEST_CAUSE = 1_000  # characters


@dataclass(frozen=True, slots=True)
class Execution:
    """One executed node, as observers are told of it.

    Attributes:
        scope: where the node is: empty in the main graph, else a path such as `loop[3]/body/` or
            `if/then_branch/` or, in a function, `caller/`, one part for each level.
        inputs, outputs: values in the node's order; None for absent and unwanted ones.
        seconds: time of its kernel, bodies included.
    """

    scope: str
    node: Node
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    seconds: float

    @property
    def path(self) -> str:
        """Scope and name of the node."""
        return self.scope + self.node.label


class Watcher(Protocol):
    """Called after every op as the planner runs it: fused, native, or a step of the reference.

    Unlike an `Observer` it sees no values, and so leaves the plan as fast as it is.
    """

    def __call__(self, scope: str, ran: Lowered | Step, started: float, seconds: float, /) -> None: ...


class Observer(Protocol):
    """Called after every executed node, in subgraphs and functions too."""

    def __call__(self, execution: Execution, /) -> None: ...


@dataclass(slots=True)
class Run:
    """What the steps of one run share."""

    budget: Budget
    generator: np.random.Generator
    observers: tuple[Observer, ...] = ()
    watcher: Watcher | None = None
    depth: int = 0
    scope: str = ""
    has_device: bool = False
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget)


def run_plan(plan: Plan, inputs: Sequence[Any], run: Run) -> list[Any]:
    """Run a whole model; the outputs share no memory with the inputs, the plan, or each other."""
    taken = plan.constant_memory | {id(memory_owner(array)) for array in _arrays(inputs)}
    run.ledger = Ledger(run.budget, outside=taken)
    with np.errstate(all="ignore"):
        outputs = execute(plan, [_guarded(value) for value in inputs], (), run)
    detached = set(taken)
    return [_detach(value, detached) for value in outputs]


def execute(plan: Plan, inputs: Sequence[Any], captured: Sequence[Any], run: Run) -> list[Any]:
    """Run a plan's steps in a fresh frame, freeing each value after its last use."""
    regions = None if run.observers else plan.regions
    if regions is not None:
        plan = regions.plan
    slots = plan.template.copy()
    for slot, value in zip(plan.input_slots, inputs, strict=True):
        slots[slot] = value
    for (_, slot), value in zip(plan.captures, captured, strict=True):
        slots[slot] = value
    if regions is not None:
        run_regions(plan, regions, slots, run)
    else:
        for step in plan.steps:
            perform(step, slots, run)
    return [slots[slot] for slot in plan.output_slots]


def perform(step: Step, slots: list[Any], run: Run) -> Sequence[Any]:
    """Run one step over the slots, tell the observers, and free what nothing needs any more."""
    if run.has_device:
        _fetch(slots, _read_by(step))
    values = [slots[slot] for slot in step.inputs]
    if run.observers:
        started = time.perf_counter()
        outputs = _run_step(step, values, slots, run)
        execution = Execution(run.scope, step.node, values, outputs, time.perf_counter() - started)
        for observer in run.observers:
            observer(execution)
    elif run.watcher is not None:
        started = time.perf_counter()
        outputs = _run_step(step, values, slots, run)
        run.watcher(run.scope, step, started, time.perf_counter() - started)
    else:
        outputs = _run_step(step, values, slots, run)
    for slot, value in zip(step.outputs, outputs, strict=False):
        if slot:
            slots[slot] = value
    for slot in step.frees:
        slots[slot] = None
    return outputs


def run_regions(plan: Plan, regions: Regions, slots: list[Any], run: Run) -> None:
    """Run a plan's regions by their native programs, and what lies between them step by step."""
    position = 0
    while position < len(plan.steps):
        if regions.is_dynamic(position):
            regions.refuse_if_strict(position)
            perform(plan.steps[position], slots, run)
            position += 1
            continue
        if run.has_device:
            _fetch(slots, regions.deciding)
        key = regions.key(position, slots)
        region = regions.find(key, run.budget) or _foresee(plan, regions, position, key, slots, run)
        if region is None:
            position = _learn(plan, regions, position, key, slots, run)
        elif region.program is None or not _run_program(region, region.program, slots, run):
            end = max(region.end, position + 1)
            started = time.perf_counter()
            for step in plan.steps[position:end]:
                perform(step, slots, run)
            regions.ran(region, time.perf_counter() - started)
            position = end
        else:
            position = region.end


def _learn(plan: Plan, regions: Regions, begin: int, key: Any, slots: list[Any], run: Run) -> int:
    """Run steps one by one, as far as their shapes are fixed, at least one; return where that ended."""
    _fetch(slots, range(len(slots)))
    record = regions.record(begin, slots)
    started = time.perf_counter()
    lesson = Lesson(record, run, lambda step, frame, accepted: perform(step, frame.slots, run))
    end = lesson.follow(plan, begin)
    regions.learn(key, record, time.perf_counter() - started, run.budget)
    return end


def _foresee(
    plan: Plan, regions: Regions, begin: int, key: Any, slots: Sequence[Any], run: Run
) -> Region | None:
    """Return the region for input shapes that are new, by shape rules; None where only a run can teach it."""
    if not regions.foresees(begin):
        return None
    # The run itself goes on with its own slots; what is imagined or known stays in these.
    frame = [ghost(x.shape, x.dtype) if isinstance(x, DeviceTensor) else x for x in slots]
    record = regions.record(begin, frame)

    def pretend(step: Step, frame: Frame, accepted: bool) -> Sequence[Any]:
        if not accepted:
            raise UnforeseenError(f"{step.node}: its shapes depend on values", for_good=True)
        return perform(step, frame.slots, run) if record.is_known(step, frame) else imagine(step, frame, run)

    try:
        Lesson(record, run, pretend).follow(plan, begin)
    except UnforeseenError as error:
        if error.for_good:
            regions.never_foresee(begin)
        return None
    return regions.learn(key, record, None, run.budget)


def _run_program(region: Region, program: Program | DeviceProgram, slots: list[Any], run: Run) -> bool:
    """Run a region natively; False where it must run on the reference, for an error that is due."""
    watch = None if run.watcher is None else partial(run.watcher, run.scope)
    run.budget.step(region.end - region.record.begin)
    try:
        outputs = program.run(
            [slots[slot] for slot in region.inputs],
            run.budget,
            lambda step, values: _run_step(step, values, slots, run),
            watch,
        )
    except RefusedError:
        return False
    for slot, value in zip(region.outputs, outputs, strict=True):
        if isinstance(value, np.ndarray):
            run.ledger.add(value)
        slots[slot] = value
    for slot in region.frees:
        slots[slot] = None
    return True


def _fetch(slots: list[Any], wanted: Iterable[int]) -> None:
    """Bring values from a device to the host, where the reference is to read them."""
    away = [slot for slot in dict.fromkeys(wanted) if isinstance(slots[slot], DeviceTensor)]
    for slot, value in zip(away, fetched([slots[slot] for slot in away]), strict=True):
        slots[slot] = value


def _read_by(step: Step) -> Iterator[int]:
    """Yield the slots that a step reads, those that its bodies capture too."""
    yield from step.inputs
    for body in step.bodies.values():
        yield from (outer for outer, _ in body.captures)


class _BoundBody:
    """A subgraph with the outer values that it uses, as a kernel sees it."""

    __slots__ = ("_calls", "_captured", "_name", "_plan", "_run", "_step")

    def __init__(self, step: Step, name: str, plan: Plan, slots: Sequence[Any], run: Run) -> None:
        self._step = step
        self._name = name
        self._calls = 0
        self._plan = plan
        self._captured = [read_only(slots[outer]) for outer, _ in plan.captures]
        self._run = run

    @property
    def input_names(self) -> tuple[str, ...]:
        return self._plan.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._plan.output_names

    @property
    def output_types(self) -> tuple[ValueType | None, ...]:
        return self._plan.output_types

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        plan, run = self._plan, self._run
        if len(inputs) != len(plan.input_slots):
            raise KernelError(
                f"graph {plan.name!r} takes {len(plan.input_slots)} inputs (its node gives it {len(inputs)})"
            )
        run.budget.check_depth(run.depth + 1)
        run.depth += 1
        outer = run.scope
        if run.observers or run.watcher:
            run.scope += self._scope()
        self._calls += 1
        try:
            outputs = execute(plan, [_as_value(value) for value in inputs], self._captured, run)
            _fetch(outputs, range(len(outputs)))
            return tuple(outputs)
        finally:
            run.depth -= 1
            run.scope = outer

    def _scope(self) -> str:
        """Return the part of a path that this call of the body adds."""
        label = self._step.node.label
        if self._step.type_rule is None:
            return f"{label}/"  # a function
        index = "" if self._step.node.op_type == "If" else f"[{self._calls}]"
        return f"{label}{index}/{self._name}/"


def _run_step(step: Step, values: list[Any], slots: list[Any], run: Run) -> Sequence[Any]:
    try:
        run.budget.step()
        if step.type_rule is not None:
            step.type_rule.check_values(values)
        if step.cost is not None:
            cost = step.cost(*values, **step.cost_arguments)
            run.budget.check_bytes(cost.out_bytes + cost.scratch_bytes)
        arguments = step.arguments
        if step.takes_context or step.bodies:
            arguments = {**arguments, **_extras(step, slots, run)}
        result = step.kernel(*values, **arguments)
        outputs = [_as_value(y) for y in result] if isinstance(result, tuple) else [_as_value(result)]
        if len(outputs) < len(step.outputs) and any(step.outputs[len(outputs) :]):
            raise KernelError(f"its kernel gave {len(outputs)} outputs of {len(step.outputs)}")
        for value in outputs:
            run.ledger.add(value)
        return outputs
    except (NodeError, TypeMismatchError) as error:
        if step.bodies or isinstance(error, TypeMismatchError):
            raise
        raise NodeError(f"{step.title}: {error}") from error
    except ResourceLimitError as error:
        if error.located:
            raise
        raise ResourceLimitError(f"{error} ({step.title})", located=True) from error
    except Exception as error:
        raise NodeError(_explain(step, values, error)) from error


def _extras(step: Step, slots: list[Any], run: Run) -> dict[str, Any]:
    extras: dict[str, Any] = {
        name: _BoundBody(step, name, plan, slots, run) for name, plan in step.bodies.items()
    }
    if step.takes_context:
        extras["ctx"] = Context(step.wanted, run.budget, step.node.opset, run.generator)
    return extras


def _explain(step: Step, values: Sequence[Any], error: Exception) -> str:
    cause = str(error) if isinstance(error, OnnxRefError) else f"{type(error).__name__}: {error}"
    if len(cause) > _LONGEST_CAUSE:  # it quotes a list of the model's
        cause = f"{cause[:_LONGEST_CAUSE]} ..."
    shown = ", ".join(
        f"{name or 'absent'}: {_describe(value)}"
        for name, value in zip(step.node.inputs, values, strict=False)
    )
    return f"{step.title}: {cause} [inputs: {shown or 'none'}]"


def _describe(value: Any) -> str:
    match value:
        case np.ndarray():
            return f"{_type_shown(value.dtype)}{list(value.shape)}"
        case list():
            return f"sequence of {len(value)}"
        case _:
            return type(value).__name__ if value is not None else "none"


def _type_shown(dtype: DType) -> str:
    try:
        return tensor_type_string(dtype)
    except ValueError:
        return str(dtype)  # an error is being explained: no time for another one


def _as_value(value: Any) -> Any:
    """NumPy arithmetic on 0-d arrays gives scalars, operators of users may; a tensor is always an array."""
    if isinstance(value, np.ndarray):
        try:
            from_numpy(value.dtype)
        except ValueError as error:
            raise KernelError(str(error)) from None
        return value.astype(np.object_) if value.dtype.kind in "UT" else value
    if isinstance(value, (np.generic, bool, int, float, complex, str)):
        return _as_value(np.asarray(value))
    return value


def _guarded(value: Any) -> Any:
    """Return an input as steps may see it."""
    return value if isinstance(value, DeviceTensor) else read_only(value)


def _arrays(values: Iterable[Any]) -> Iterator[Array]:
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, list):
            yield from _arrays(value)


def _detach(value: Any, taken: set[int]) -> Any:
    if isinstance(value, list):
        return [_detach(item, taken) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    root = id(memory_owner(value))
    if root in taken or not value.flags.writeable:
        return value.copy()
    taken.add(root)
    return value
