"""The executor: one loop over a plan's steps. There is no other interpreter, also not for debugging."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..dtypes import Array, tensor_type_string
from ..errors import KernelError, NodeError, OnnxRefError, ResourceLimitError, TypeMismatchError
from ..graph import Node, ValueType
from ..limits import Budget
from ..plan import Plan, Step, memory_owner, read_only
from ..plan.specialize import Program, Record, Region, Regions
from ..registry import Context
from ._memory import Ledger

_LONGEST_CAUSE = 1_000  # characters


class Observer(Protocol):
    """Called after every executed step, in subgraphs and functions too."""

    def __call__(self, node: Node, inputs: Sequence[Any], outputs: Sequence[Any], /) -> None: ...


@dataclass(slots=True)
class Run:
    """What the steps of one run share."""

    budget: Budget
    generator: np.random.Generator
    observers: tuple[Observer, ...] = ()
    depth: int = 0
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget)


def run_plan(plan: Plan, inputs: Sequence[Any], run: Run) -> list[Any]:
    """Run a whole model; the outputs share no memory with the inputs, the plan, or each other."""
    taken = plan.constant_memory | {id(memory_owner(array)) for array in _arrays(inputs)}
    run.ledger = Ledger(run.budget, outside=taken)
    with np.errstate(all="ignore"):
        outputs = execute(plan, [read_only(value) for value in inputs], (), run)
    detached = set(taken)
    return [_detach(value, detached) for value in outputs]


def execute(plan: Plan, inputs: Sequence[Any], captured: Sequence[Any], run: Run) -> list[Any]:
    """Run a plan's steps in a fresh frame, freeing each value after its last use."""
    slots = plan.template.copy()
    for slot, value in zip(plan.input_slots, inputs, strict=True):
        slots[slot] = value
    for (_, slot), value in zip(plan.captures, captured, strict=True):
        slots[slot] = value
    if plan.regions is None or run.observers:
        for step in plan.steps:
            perform(step, slots, run)
    else:
        run_regions(plan, plan.regions, slots, run)
    return [slots[slot] for slot in plan.output_slots]


def perform(step: Step, slots: list[Any], run: Run) -> Sequence[Any]:
    """Run one step over the slots, tell the observers, and free what nothing needs any more."""
    values = [slots[slot] for slot in step.inputs]
    outputs = _run_step(step, values, slots, run)
    for observer in run.observers:
        observer(step.node, values, outputs)
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
            perform(plan.steps[position], slots, run)
            position += 1
            continue
        key = regions.key(position, slots)
        region = regions.find(key)
        if region is None:
            position = _learn(plan, regions, position, key, slots, run)
        elif region.program is None:
            for step in plan.steps[position : max(region.end, position + 1)]:
                perform(step, slots, run)
            position = max(region.end, position + 1)
        else:
            _run_program(region, region.program, slots, run)
            position = region.end


def _learn(plan: Plan, regions: Regions, begin: int, key: Any, slots: list[Any], run: Run) -> int:
    """Run steps one by one, as far as their shapes are fixed, at least one; return where that ended."""
    record = Record(plan, begin, slots)
    position = begin
    while position < len(plan.steps):
        step = plan.steps[position]
        accepted = record.accepts(step)
        if not accepted and position > begin:
            break
        outputs = perform(step, slots, run)
        position += 1
        if not accepted or not record.add(step, outputs):
            break
    regions.learn(key, record)
    return position


def _run_program(region: Region, program: Program, slots: list[Any], run: Run) -> None:
    outputs = program.run(
        [slots[slot] for slot in region.inputs],
        run.budget,
        lambda step, values: _run_step(step, values, slots, run),
    )
    for slot, value in zip(region.outputs, outputs, strict=True):
        run.ledger.add(value)
        slots[slot] = value
    for slot in region.frees:
        slots[slot] = None


class _BoundBody:
    """A subgraph with the outer values that it uses, as a kernel sees it."""

    __slots__ = ("_captured", "_plan", "_run")

    def __init__(self, plan: Plan, slots: Sequence[Any], run: Run) -> None:
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
        try:
            return tuple(execute(plan, [_as_value(value) for value in inputs], self._captured, run))
        finally:
            run.depth -= 1


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
        raise NodeError(f"{step.node}: {error}") from error
    except ResourceLimitError as error:
        if error.located:
            raise
        raise ResourceLimitError(f"{error} ({step.node})", located=True) from error
    except Exception as error:
        raise NodeError(_explain(step, values, error)) from error


def _extras(step: Step, slots: list[Any], run: Run) -> dict[str, Any]:
    extras: dict[str, Any] = {name: _BoundBody(plan, slots, run) for name, plan in step.bodies.items()}
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
    return f"{step.node}: {cause} [inputs: {shown or 'none'}]"


def _describe(value: Any) -> str:
    match value:
        case np.ndarray():
            return f"{tensor_type_string(value.dtype)}{list(value.shape)}"
        case list():
            return f"sequence of {len(value)}"
        case _:
            return type(value).__name__ if value is not None else "none"


def _as_value(value: Any) -> Any:
    """NumPy arithmetic on 0-d arrays gives scalars, operators of users may; a tensor is always an array."""
    if isinstance(value, np.ndarray):
        return value.astype(np.object_) if value.dtype.kind in "UT" else value
    if isinstance(value, (np.generic, bool, int, float, complex, str)):
        return _as_value(np.asarray(value))
    return value


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
