"""Builds a `Plan` from a loaded model.

The builder walks the nodes backwards once, to see which are needed for the requested outputs, then
forwards, giving every value a slot. A subgraph becomes a plan of its own with a frame of its own; the
outer values that it uses are captured when the step that owns it runs. A call of a model-local
function becomes a step whose body is the function's plan, with the call's attributes put in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import registry, schema
from ..errors import InvalidAttributeError, InvalidGraphError, KernelError, OutputError, TypeMismatchError
from ..graph import (
    AttributeReference,
    Function,
    Graph,
    Model,
    Node,
    Value,
    names_used,
    type_string,
)
from ..limits import DEFAULT, Budget, Limits
from ..registry import Body, Context, Operator
from ._check import check_against_schema, check_against_signature
from ._gradient import expand_gradients
from ._steps import NO_SLOT, Plan, Step
from ._types import TypeRule, value_type_string


def build_plan(
    model: Model,
    outputs: Sequence[str] | None = None,
    *,
    backend: str = "numpy",
    limits: Limits = DEFAULT,
) -> Plan:
    """Return the plan that computes `outputs` (names of any values of the graph; None: all its outputs).

    Raises:
        ModelError: a node breaks its schema's rules or nothing implements it.
        OutputError: an output is not a value of the graph.
    """
    shared = _Shared(model, backend, Budget(limits))
    graph = expand_gradients(model.graph)
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

    def __init__(self, model: Model, backend: str, budget: Budget) -> None:
        self.model = model
        self.backend = backend
        self.budget = budget
        self.function_plans: dict[Any, Plan] = {}


class _Builder:
    """Builds the plan of one graph."""

    def __init__(self, graph: Graph, shared: _Shared, parent: _Builder | None) -> None:
        self.graph = graph
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
            if name in used or name in self.slots:
                self.add_constant(name, array)
        for node in graph.nodes:
            # Nodes that nothing needs are checked like the others, but not run.
            self.add_node(node, used, run=node in needed)
        output_slots = tuple(self.slot_of(value.name) if value.name else NO_SLOT for value in graph.outputs)
        self.check_output_types()
        self.free_at_last_use(output_slots)
        return Plan(
            name=graph.name,
            input_names=tuple(value.name for value in graph.inputs),
            output_names=tuple(value.name for value in graph.outputs),
            output_types=tuple(value.type for value in graph.outputs),
            input_slots=tuple(self.slots[value.name] for value in graph.inputs),
            output_slots=output_slots,
            captures=tuple(self.captures),
            template=self.template,
            constant_slots=frozenset(self.constants),
            steps=self.steps,
        )

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
        inner = self.new_slot(name)
        self.captures.append((outer, inner))
        return inner

    def add_node(self, node: Node, used: set[str], *, run: bool) -> None:
        self.shared.budget.add_node()
        function = self.shared.model.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            _check_call(node, function)
            step = self.function_step(node, function) if run else None
        else:
            operator = registry.find(node.domain, node.op_type, node.opset, self.shared.backend)
            rule = self.check_node(node, operator)
            step = self.operator_step(node, operator, rule) if run else None
        if step is None:
            return
        if node.op_type == "Constant" and not node.domain and function is None:
            self.add_constant(node.outputs[0], _evaluate(step))
            return
        step.outputs = tuple(self.new_slot(n) if n in used else NO_SLOT for n in node.outputs)
        self.steps.append(step)

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
            kernel=operator.kernel,
            arguments=_arguments(node, operator, values),
            inputs=tuple(self.slot_of(name) for name in node.inputs),
            outputs=(),
            takes_context=operator.takes_context,
            cost=operator.cost,
            cost_arguments=values,
            bodies={k: self.body_plan(v) for k, v in node.attributes.items() if isinstance(v, Graph)},
            type_rule=rule,
        )

    def body_plan(self, graph: Graph) -> Plan:
        return _Builder(graph, self.shared, parent=self).build()

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
        bindings = _bind_attributes(node, function)
        key: Any = (function.domain, function.name, function.overload, tuple(sorted(bindings.items())))
        try:
            known = self.shared.function_plans.get(key)
        except TypeError:  # an attribute that is an array: not shared between calls
            known, key = None, None
        if known is None:
            graph = Graph(
                name=f"{function.domain}:{function.name}",
                inputs=tuple(Value(name) for name in function.inputs),
                outputs=tuple(Value(name) for name in function.outputs),
                nodes=tuple(_substitute(inner, bindings) for inner in function.nodes),
            )
            known = _Builder(expand_gradients(graph), self.shared, parent=None).build()
            if key is not None:
                self.shared.function_plans[key] = known
        return known

    def check_output_types(self) -> None:
        for value in self.graph.outputs:
            declared, found = type_string(value.type), self.types.get(value.name)
            if declared and found and declared not in (found, f"optional({found})"):
                raise TypeMismatchError(
                    f"graph {self.graph.name!r}: output {value.name!r} is declared {declared} "
                    f"but its node makes {found}"
                )

    def free_at_last_use(self, output_slots: Iterable[int]) -> None:
        keep = {NO_SLOT, *self.constants, *output_slots}
        for step in reversed(self.steps):
            touched = {*step.inputs, *step.outputs}
            for body in step.bodies.values():
                touched.update(outer for outer, _ in body.captures)
            step.frees = tuple(sorted(touched - keep))
            keep |= touched


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


def _evaluate(step: Step) -> Any:
    """Return the value of a Constant node, as a read-only array."""
    context = {"ctx": Context()} if step.takes_context else {}
    try:
        value = np.asarray(step.kernel(**step.arguments, **context))
    except KernelError as error:
        raise InvalidAttributeError(f"{step.node}: {error}") from error
    value = value.view()
    value.flags.writeable = False
    return value


def _call_function(*inputs: Any, body: Body) -> tuple[Any, ...]:
    return body(*inputs)


def _check_call(node: Node, function: Function) -> None:
    if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
        raise InvalidGraphError(
            f"{node}: the function takes {len(function.inputs)} inputs and gives "
            f"{len(function.outputs)} outputs (got {len(node.inputs)} and {len(node.outputs)})"
        )


def _bind_attributes(node: Node, function: Function) -> dict[str, Any]:
    known = {*function.attributes, *function.attribute_defaults}
    for name in node.attributes:
        if name not in known:
            raise InvalidAttributeError(f"{node}: the function has no attribute {name!r}")
    return {**function.attribute_defaults, **node.attributes}


def _substitute(node: Node, bindings: Mapping[str, Any]) -> Node:
    """Return the node with references to the function's attributes replaced by their values.

    A reference to an attribute that the call leaves out makes the inner attribute absent too.
    """
    attributes: dict[str, Any] = {}
    for name, value in node.attributes.items():
        if isinstance(value, AttributeReference):
            if value.name in bindings:
                attributes[name] = bindings[value.name]
        elif isinstance(value, Graph):
            inner = tuple(_substitute(child, bindings) for child in value.nodes)
            attributes[name] = replace(value, nodes=inner)
        else:
            attributes[name] = value
    return replace(node, attributes=attributes)
