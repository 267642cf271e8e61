"""Steps whose output shapes follow from values, rewritten so that regions can hold most of their work.

A region ends before a step whose output shapes follow from values. Where such a shape has a bound that
follows from shapes, the step becomes two: an operator of the planner's own, whose outputs have the
bound's shape, and `FirstRows`, which cuts off what was not used. Only plans that native code runs are
rewritten; observers see the model's own nodes. Rules about text are in `_static_text`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from ... import registry
from ...graph import Node
from ...registry import INTERNAL
from .._steps import NO_SLOT, Plan, Step, free_at_last_use
from .._types import TypeRule
from ._static_text import join_text_steps, name_labels_last

PADDED = "PaddedNonMaxSuppression"

# A rule takes all steps of a plan and returns those that run in their place.
Rule: TypeAlias = "Callable[[Rewriting, list[Step]], list[Step]]"


class Rewriting:
    """A plan while its steps are rewritten."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.template = list(plan.template)
        self._names = {
            slot: name
            for step in plan.steps
            for slot, name in (
                *zip(step.inputs, step.node.inputs, strict=False),
                *zip(step.outputs, step.node.outputs, strict=False),
            )
        }

    def new_slot(self) -> int:
        """Return a slot for a value that the model does not have."""
        self.template.append(None)
        return len(self.template) - 1

    def step(
        self,
        op_type: str,
        like: Step,
        inputs: Sequence[int],
        outputs: Sequence[int],
        attributes: Mapping[str, Any],
        rule: TypeRule | None,
    ) -> Step:
        """Return a step of the planner's own operator that does the work of another, under its name.

        Args:
            inputs, outputs: slots.
            rule: what the inputs' types are checked by; without one, no region can hold the step.
        """
        operator = registry.find(INTERNAL, op_type, 1)
        node = Node(
            op_type,
            tuple(self._names.get(slot, f"{op_type}_{slot}") if slot else "" for slot in inputs),
            tuple(self._names.get(slot, f"{op_type}_{slot}") if slot else "" for slot in outputs),
            dict(attributes),
            INTERNAL,
            like.node.name,
            opset=1,
            position=like.node.position,
        )
        arguments = {"prepared": operator.prepare(**attributes)} if operator.prepare else dict(attributes)
        return replace(
            like,
            node=node,
            kernel=operator.kernel,
            arguments=arguments,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            takes_context=operator.takes_context,
            cost=operator.cost,
            cost_arguments=dict(attributes),
            type_rule=rule,
            stands_for=like.nodes,
        )

    def first_rows(self, like: Step, rows: int, count: int, output: int) -> Step:
        """Return the step that writes the first `count` of `rows` to a slot; all are numbers of slots."""
        return self.step("FirstRows", like, (rows, count), (output,), {}, None)


def with_fixed_shapes(plan: Plan, *, texts: bool) -> Plan:
    """Return a plan of the same inputs and outputs for native code to run; `plan` where no rule applies.

    Args:
        texts: whether native code can read strings.
    """
    rewriting = Rewriting(plan)
    steps = plan.steps
    for rule in (*_RULES, *(_TEXT_RULES if texts else ())):
        steps = rule(rewriting, steps)
    if steps is plan.steps:
        return plan
    fixed = {slot for slot, value in enumerate(plan.template) if value is not None} - set(plan.input_slots)
    frees = free_at_last_use(steps, {NO_SLOT, *fixed, *plan.output_slots})
    steps = [replace(step, frees=own) for step, own in zip(steps, frees, strict=True)]
    return replace(plan, template=rewriting.template, steps=steps)


def _pad_suppressions(rewriting: Rewriting, steps: list[Step]) -> list[Step]:
    """NonMaxSuppression finds no more boxes of a class than it is asked for, and than there are."""
    if not any(map(_is_suppression, steps)):
        return steps
    made: list[Step] = []
    for step in steps:
        if _is_suppression(step):
            rows, count = rewriting.new_slot(), rewriting.new_slot()
            attributes = step.node.attributes
            padded = (PADDED, step, step.inputs, (rows, count), attributes, step.type_rule)
            made += [rewriting.step(*padded), rewriting.first_rows(step, rows, count, step.outputs[0])]
        else:
            made.append(step)
    return made


def _is_suppression(step: Step) -> bool:
    return step.node.op_type == "NonMaxSuppression" and not step.node.domain and not step.user_defined


_RULES: tuple[Rule, ...] = (_pad_suppressions,)
_TEXT_RULES: tuple[Rule, ...] = (join_text_steps, name_labels_last)
