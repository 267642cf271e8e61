"""Builds a `Plan` from a loaded model.

The builder walks the nodes backwards once, to see which are needed for the requested outputs, then
forwards, giving every value a slot. A subgraph becomes a plan of its own with a frame of its own; the
outer values that it uses are captured when the step that owns it runs. A call of a model-local
function becomes a step whose body is the function's plan, with the call's attributes put in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import registry, schema
from ..dtypes import memory_owner
from ..errors import (
    InvalidAttributeError,
    InvalidGraphError,
    KernelError,
    OutputError,
    TypeMismatchError,
    UnsupportedOperatorError,
)
from ..graph import (
    Function,
    Graph,
    Model,
    Node,
    SparseTensor,
    Value,
    names_used,
    subgraphs,
    type_string,
)
from ..limits import DEFAULT, Budget, Limits
from ..registry import Body, Context, Operator
from ._check import check_against_schema, check_against_signature
from ._fold import Folder, feeds_products, is_foldable
from ._functions import bind_attributes, check_call, function_graph
from ._steps import NO_SLOT, Plan, Step, free_at_last_use, read_only
from ._types import TypeRule, value_type_string
from .gradient import expand_gradients

if TYPE_CHECKING:
    from .specialize import Acceleration


def build_plan(
    model: Model,
    outputs: Sequence[str] | None = None,
    *,
    limits: Limits = DEFAULT,
    fold: bool = True,
    acceleration: Acceleration | None = None,
) -> Plan:
    """Return the plan that computes `outputs` (names of any values of the graph; None: all its outputs).

    Args:
        fold: compute what depends on constants only while planning; False plans the graph as written.
        acceleration: how to run the plan natively; None leaves every step to the reference kernels.

    Raises:
        ModelError: a node breaks its schema's rules or nothing implements it.
        OutputError: an output is not a value of the graph.
    """
    shared = _Shared(model, Budget(limits), Folder(limits) if fold else None, acceleration)
    graph = model.graph
    if outputs is not None:
        graph = replace(graph, outputs=tuple(_find_output(graph, name) for name in outputs))
    return _Builder(graph, shared, parent=None).build()


def _find_output(graph: Graph, name: str) -> Value:
    for value in (*graph.outputs, *graph.inputs):
        if value.name == name:
            return value
    if name in graph.initializers or any(name in node.outputs for node in graph.nodes if name):
        return Value(name, graph.value_types.get(name))
    known = ", ".join(repr(value.name) for value in graph.outputs)
    raise OutputError(f"the model has no value {name!r}; its outputs are {known}")


class _Shared:
    """What all builders of one model have in common."""

    def __init__(
        self, model: Model, budget: Budget, folder: Folder | None, acceleration: Acceleration | None
    ) -> None:
        self.folder = folder
        self.model = model
        self.acceleration = acceleration
        self.budget = budget
        self.gradients = Budget(budget.limits)  # counts the nodes that derivatives are made of
        self.function_plans: dict[Any, Plan] = {}


class _Builder:
    """Builds the plan of one graph."""

    def __init__(self, graph: Graph, shared: _Shared, parent: _Builder | None, depth: int = 0) -> None:
        shared.budget.check_depth(depth)
        self.depth = depth
        self.graph = expand_gradients(graph, shared.model.functions, shared.gradients)
        self.shared = shared
        self.parent = parent
        self.slots: dict[str, int] = {}
        self.types: dict[str, str | None] = {}
        self.template: list[Any] = [None]
        self.constants: set[int] = set()
        self.captures: list[tuple[int, int]] = []
        self.steps: list[Step] = []

    def build(self) -> Plan:
        graph = self.graph
        for value in graph.inputs:
            self.types[value.name] = type_string(value.type)
            self.new_slot(value.name)
        needed = _needed_nodes(graph)
        used = _used_names(needed, graph)
        for name, array in graph.initializers.items():
            self.types[name] = value_type_string(array)
            if name in used or name in self.slots:
                self.add_constant(name, array)
        for node in graph.nodes:
            # Nodes that nothing needs are checked like the others, but not run.
            self.add_node(node, used, run=node in needed)
        output_slots = tuple(self.slot_of(value.name) if value.name else NO_SLOT for value in graph.outputs)
        self.check_output_types()
        self.steps = _just_in_time(self.steps)
        frees = free_at_last_use(self.steps, {NO_SLOT, *self.constants, *output_slots})
        for step, own in zip(self.steps, frees, strict=True):
            step.frees = own
        self.drop_unused_constants(output_slots)
        plan = Plan(
            name=graph.name,
            input_names=tuple(value.name for value in graph.inputs),
            output_names=tuple(value.name for value in graph.outputs),
            output_types=tuple(value.type for value in graph.outputs),
            input_slots=tuple(self.slots[value.name] for value in graph.inputs),
            output_slots=output_slots,
            captures=tuple(self.captures),
            template=self.template,
            constant_memory=self.constant_memory(),
            steps=self.steps,
        )
        if self.shared.acceleration is not None:
            from .specialize import Regions

            plan.regions = Regions(plan, self.shared.acceleration)
        return plan

    def check(self) -> None:
        """Check the nodes of a graph that is not going to be run."""
        self.types.update((value.name, type_string(value.type)) for value in self.graph.inputs)
        self.types.update((name, value_type_string(a)) for name, a in self.graph.initializers.items())
        for node in self.graph.nodes:
            self.add_node(node, set(), run=False)
        self.check_output_types()

    def constant_memory(self) -> frozenset[int]:
        own = (id(memory_owner(self.template[slot])) for slot in self.constants)
        inner = (body.constant_memory for step in self.steps for body in step.bodies.values())
        return frozenset(own).union(*inner)

    def new_slot(self, name: str) -> int:
        self.template.append(None)
        slot = len(self.template) - 1
        if name:
            self.slots[name] = slot
        return slot

    def add_constant(self, name: str, array: Any) -> None:
        slot = self.slots.get(name) or self.new_slot(name)
        self.template[slot] = array
        self.constants.add(slot)
        self.types[name] = value_type_string(array)

    def is_fixed(self, slot: int) -> bool:
        """Whether a slot holds the same value in every run: a constant that no input can override."""
        return slot in self.constants and slot > len(self.graph.inputs)

    def slot_of(self, name: str) -> int:
        """Return the slot of a value of this graph, capturing it from the surrounding one if need be."""
        if not name:
            return NO_SLOT
        found = self.slots.get(name)
        if found is not None:
            return found
        if self.parent is None:
            raise InvalidGraphError(f"graph {self.graph.name!r} uses {name!r}, which nothing defines")
        outer = self.parent.slot_of(name)
        if self.parent.is_fixed(outer):
            self.add_constant(name, self.parent.template[outer])
            return self.slots[name]
        inner = self.new_slot(name)
        self.captures.append((outer, inner))
        return inner

    def add_node(self, node: Node, used: set[str], *, run: bool) -> None:
        self.shared.budget.add_node()
        function = self.shared.model.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            check_call(node, function)
            if not run:
                self.function_plan(node, function)
                return
            step = self.function_step(node, function)
        else:
            operator = self.find_operator(node)
            rule = self.check_node(node, operator)
            if node.op_type == "Constant" and not node.domain:
                constant = self.operator_step(node, operator, rule)
                self.add_constant(node.outputs[0], _evaluate(constant, self.shared.budget))
                return
            if not run:
                for body in subgraphs(node).values():
                    _Builder(body, self.shared, self, self.depth + 1).check()
                return
            step = self.operator_step(node, operator, rule)
        if self.fold(step):
            return
        step.outputs = tuple(self.new_slot(n) if n in used else NO_SLOT for n in node.outputs)
        self.steps.append(step)

    def find_operator(self, node: Node) -> Operator:
        try:
            return registry.find(node.domain, node.op_type, node.opset)
        except UnsupportedOperatorError as error:
            raise UnsupportedOperatorError(f"{node}: {error}") from error

    def fold(self, step: Step) -> bool:
        """Make the step's outputs constants, if it only depends on constants."""
        folder = self.shared.folder
        if folder is None or not is_foldable(step):
            return False
        if not all(slot == NO_SLOT or self.is_fixed(slot) for slot in step.inputs):
            return False
        inputs = [self.template[slot] for slot in step.inputs]
        if self.is_deferrable(step.node, inputs) and folder.defer(step, inputs):
            return False
        values = folder.fold(step, inputs)
        if values is None:
            return False
        for name, value in zip(step.node.outputs, values, strict=False):
            if name:
                self.add_constant(name, value)
        return True

    def is_deferrable(self, node: Node, inputs: list[Any]) -> bool:
        """Whether native code may want a step's inputs rather than its outputs (`_fold`, rule 4)."""
        if self.shared.acceleration is None or node.op_type != "DequantizeLinear":
            return False
        if inputs[0].dtype not in (np.int8, np.uint8) or any(
            value.name == node.outputs[0] for value in self.graph.outputs
        ):
            return False
        return feeds_products(node, self.readers.get(node.outputs[0], ()), self.makers)

    @functools.cached_property
    def readers(self) -> Mapping[str, Sequence[Node]]:
        """The nodes of this graph that use each value, in a body of theirs too."""
        found: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for name in names_used(node):
                found.setdefault(name, []).append(node)
        return found

    @functools.cached_property
    def makers(self) -> Mapping[str, Node]:
        """The nodes of this graph by the names of their outputs."""
        return {name: node for node in self.graph.nodes for name in node.outputs if name}

    def check_node(self, node: Node, operator: Operator) -> TypeRule | None:
        found = None if operator.user_defined else schema.find(node.domain, node.op_type, node.opset)
        if found is None:
            check_against_signature(node, operator)
            return None
        check_against_schema(node, found)
        rule = TypeRule(node, found)
        bound = rule.bind([self.type_of(name) for name in node.inputs])
        self.types.update(zip(node.outputs, rule.output_types(bound), strict=True))
        return rule

    def type_of(self, name: str) -> str | None:
        if name in self.types or self.parent is None:
            return self.types.get(name)
        return self.parent.type_of(name) if name else None

    def operator_step(self, node: Node, operator: Operator, rule: TypeRule | None) -> Step:
        values = {k: v for k, v in node.attributes.items() if not isinstance(v, Graph)}
        return Step(
            node=node,
            kernel=_shielded(operator.kernel) if operator.user_defined else operator.kernel,
            arguments=_arguments(node, operator, values),
            inputs=tuple(self.slot_of(name) for name in node.inputs),
            outputs=(),
            takes_context=operator.takes_context,
            cost=operator.cost,
            cost_arguments=values,
            bodies={k: self.body_plan(v) for k, v in node.attributes.items() if isinstance(v, Graph)},
            type_rule=rule,
            user_defined=operator.user_defined,
        )

    def body_plan(self, graph: Graph) -> Plan:
        return _Builder(graph, self.shared, self, self.depth + 1).build()

    def function_step(self, node: Node, function: Function) -> Step:
        missing = len(function.inputs) - len(node.inputs)
        return Step(
            node=node,
            kernel=_call_function,
            arguments={},
            inputs=tuple(self.slot_of(name) for name in node.inputs) + (NO_SLOT,) * missing,
            outputs=(),
            bodies={"body": self.function_plan(node, function)},
        )

    def function_plan(self, node: Node, function: Function) -> Plan:
        bindings = bind_attributes(node, function)
        values = tuple((name, _fingerprint(value)) for name, value in sorted(bindings.items()))
        key = (function.domain, function.name, function.overload, values)
        known = self.shared.function_plans.get(key)
        if known is None:
            graph = function_graph(function, bindings)
            known = _Builder(graph, self.shared, None, self.depth + 1).build()
            self.shared.function_plans[key] = known
        return known

    def drop_unused_constants(self, output_slots: Iterable[int]) -> None:
        """Forget what was only needed to fold something else."""
        used = set(output_slots)
        for step in self.steps:
            used.update(step.inputs)
            for body in step.bodies.values():
                used.update(outer for outer, _ in body.captures)
        for slot in self.constants - used:
            if self.is_fixed(slot):
                self.template[slot] = None
                self.constants.remove(slot)

    def check_output_types(self) -> None:
        for value in self.graph.outputs:
            declared, found = type_string(value.type), self.types.get(value.name)
            if declared and found and declared not in (found, f"optional({found})"):
                raise TypeMismatchError(
                    f"graph {self.graph.name!r}: output {value.name!r} is declared {declared} "
                    f"but its node makes {found}"
                )


def _just_in_time(steps: Sequence[Step]) -> list[Step]:
    """Move deferred steps before their first reader: not all weights are to be floats at the same time."""
    waiting = {step.outputs[0]: step for step in steps if step.deferred}
    moved: list[Step] = []
    for step in steps:
        if not step.deferred:
            moved.extend(waiting.pop(slot) for slot in step.inputs if slot in waiting)
            moved.append(step)
    return [*moved, *waiting.values()]


def _needed_nodes(graph: Graph) -> set[Node]:
    needed: set[Node] = set()
    wanted = {value.name for value in graph.outputs}
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs) - {""}:
            needed.add(node)
            wanted |= names_used(node)
    return needed


def _used_names(nodes: Iterable[Node], graph: Graph) -> set[str]:
    used = {value.name for value in graph.outputs}
    for node in nodes:
        used |= names_used(node)
    return used - {""}


def _arguments(node: Node, operator: Operator, values: Mapping[str, Any]) -> Mapping[str, Any]:
    if operator.prepare is None:
        return values
    try:
        return {"prepared": operator.prepare(**values)}
    except KernelError as error:
        raise InvalidAttributeError(f"{node}: {error}") from error


def _shielded(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a user's kernel as one that cannot spoil its inputs, which other nodes may read too."""

    @functools.wraps(kernel)
    def call(*inputs: Any, **arguments: Any) -> Any:
        return kernel(*map(read_only, inputs), **arguments)

    return call


def _evaluate(step: Step, budget: Budget) -> Any:
    """Return the value of a Constant node, as a read-only array."""
    context = {"ctx": Context(budget=budget)} if step.takes_context else {}
    try:
        value = np.asarray(step.kernel(**step.arguments, **context))
    except KernelError as error:
        raise InvalidAttributeError(f"{step.node}: {error}") from error
    return read_only(value)


def _call_function(*inputs: Any, body: Body) -> tuple[Any, ...]:
    return body(*inputs)


def _fingerprint(value: Any) -> Any:
    """Return what is equal for the same attribute value only: 0, 0.0 and -0.0 are three values.

    Tensors and graphs belong to the model, which outlives the plan: their identity tells.
    """
    if isinstance(value, tuple):
        return tuple(_fingerprint(item) for item in value)
    return id(value) if isinstance(value, (np.ndarray, SparseTensor, Graph)) else repr(value)
