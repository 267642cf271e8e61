"""A part of a model as a model of its own, fed with what it was fed with inside of the whole.

Paths are those of observers: `loop[3]/body/Add_2` is a node, `loop[3]/body/y` a value. A node without a name
is `Op#position`, which also tells two nodes of one name apart.

What a part takes from outside
    1. Constants stay constants: initializers, `Constant` nodes, and what is computed from those alone.
    2. Everything else becomes an input, with the value that it had in the run.
    3. Bodies keep what they capture: a captured value is an input or constant of the new main graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..dtypes import ElementType, from_numpy
from ..errors import InputError, OnnxRefError, OutputError
from ..graph import (
    FunctionKey,
    Graph,
    MapType,
    Model,
    Node,
    OptionalType,
    SequenceType,
    SparseTensor,
    SparseTensorType,
    TensorType,
    Value,
    ValueType,
    names_used,
    subgraphs,
)
from ..limits import DEFAULT, Limits
from ..model import load_model
from ..runtime import Execution
from ..schema import newest_opset
from ..session import InferenceSession
from ._places import (
    Place,
    changed_model,
    find_node,
    find_value,
    is_constant,
    needed,
    outputs_of,
    reachable,
)

_OLDEST_IR = 8  # initializers need no inputs from 4 on, functions exist from 8 on
_STANDARD = ("", "ai.onnx.ml")  # domains whose operators give the same in every run, but for these:
_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@dataclass(frozen=True, slots=True, eq=False)
class Extraction:
    """A part of a model with its values in one run.

    Attributes:
        what: the part, as it was asked for.
        inputs: values of the model's inputs by name.
        outputs: values of the model's outputs by name; empty where the part failed.
        error: why it failed; empty where it did not.
    """

    what: str
    model: Model
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    error: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The labels of the part's nodes."""
        return tuple(node.label for node in self.model.graph.nodes)


def extract(
    model: Any, feeds: Any, first: str, last: str | None = None, *, limits: Limits | None = None
) -> Extraction:
    """Return one node, or all nodes on the ways from one to another, as a model with its actual inputs.

    Args:
        model: as for `onnxref.run`.
        feeds: inputs of the whole model.
        first: path of a node, or of a value, which means the node that makes it.
        last: path of a node in the same graph, to which all ways from `first` are taken along.

    Raises:
        OutputError: there is no such node, it was not run, or no way leads from one to the other.
    """
    loaded = load_for(model, feeds, limits)
    place, start = find_node(loaded, first)
    if last is None:
        return extract_nodes(loaded, feeds, place, {start}, what=first, limits=limits)
    other, end = find_node(loaded, last)
    if other.scope != place.scope:
        raise OutputError(f"{first!r} and {last!r} are not in one graph")
    between = reachable(place.graph, start) & needed(place.graph, outputs_of([place.graph.nodes[end]]), ())
    if end not in between:
        raise OutputError(f"no way leads from {first!r} to {last!r}")
    return extract_nodes(loaded, feeds, place, between, what=f"{first} to {last}", limits=limits)


def extract_values(
    model: Any,
    feeds: Any,
    outputs: Sequence[str],
    inputs: Sequence[str] = (),
    *,
    limits: Limits | None = None,
) -> Extraction:
    """Return what computes some values from others as a model with its actual inputs.

    Args:
        model, feeds: as for `extract`.
        outputs: paths of values, all in one graph.
        inputs: paths of values where to stop; what does not depend on them is taken along whole.

    Raises:
        OutputError: there is no such value, or it is not computed.
    """
    loaded = load_for(model, feeds, limits)
    found = [find_value(loaded, path) for path in (*outputs, *inputs)]
    if not outputs or len({place.scope for place, _ in found}) != 1:
        raise OutputError(f"the values must be in one graph (got {', '.join([*outputs, *inputs]) or 'none'})")
    place, names = found[0][0], [name for _, name in found]
    wanted, stops = names[: len(outputs)], names[len(outputs) :]
    chosen = needed(place.graph, wanted, stops)
    for name in wanted:
        if not any(name in place.graph.nodes[i].outputs for i in chosen):
            raise OutputError(f"{place.scope + name!r} is computed by no node between these values")
    what = ", ".join(outputs)
    return extract_nodes(loaded, feeds, place, chosen, outputs=wanted, what=what, limits=limits)


def extract_nodes(
    model: Model,
    feeds: Any,
    place: Place,
    indices: Collection[int],
    *,
    outputs: Sequence[str] | None = None,
    what: str = "",
    limits: Limits | None = None,
) -> Extraction:
    """Return some nodes of a graph as a model with its actual inputs.

    Args:
        place: the graph, from `find_node` or `places`.
        indices: which of its nodes.
        outputs: values to give; None means those that are used outside.

    Raises:
        OutputError: the nodes were not run.
    """
    part = select(place, indices, outputs)
    values, error = record(model, feeds, part, limits=limits)
    missing = [name for name in part.externals if name not in values]
    if missing and error is not None:
        raise error
    if missing or (error is None and any(name not in values for name in part.outputs)):
        where = f"{place.scope}{missing[0] if missing else part.nodes[0].label}"
        raise OutputError(f"{where!r} was not computed in this run: {_why_not(place)}")
    return assemble(model, part, values, what=what, error="" if error is None else str(error))


def load_for(model: Any, feeds: Any, limits: Limits | None = None) -> Model:
    """Load a model for inputs: an initializer that they override is none."""
    loaded = load_model(model, limits or DEFAULT)
    given = set(feeds) if isinstance(feeds, Mapping) else set()
    kept = {name: array for name, array in loaded.graph.initializers.items() if name not in given}
    return replace(loaded, graph=replace(loaded.graph, initializers=kept))


def _why_not(place: Place) -> str:
    if not place.scope:
        return "nothing needs it"
    return "its graph was not run, or not so often, or nothing needs the value"


# Selecting ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Nodes of one graph, and the names on their border.

    Attributes:
        inputs: what the nodes take from outside and no constant.
        constants: what they take from outside and is constant; the arrays that are known without a run.
        outputs: what they give.
    """

    place: Place
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    constants: dict[str, Any]
    outputs: tuple[str, ...]
    computed: frozenset[str] = field(default=frozenset())

    @property
    def externals(self) -> tuple[str, ...]:
        """Names whose values must be known from a run."""
        return (*self.inputs, *self.computed)


def select(place: Place, indices: Collection[int], outputs: Sequence[str] | None = None) -> Part:
    """Return some nodes of a graph as a part; `outputs` None means what is used outside of it."""
    graph = place.graph
    chosen = [graph.nodes[i] for i in sorted(indices)]
    # Constant nodes are no part of a run; what they hold is a constant of the part, unless it is asked for.
    nodes = tuple(node for node in chosen if not is_constant(node) or set(node.outputs) & set(outputs or ()))
    nodes = nodes or tuple(chosen)
    made = outputs_of(nodes)
    used = dict.fromkeys(name for node in nodes for name in sorted(names_used(node)) if name not in made)
    initializers = visible_initializers(place)
    fixed = constant_names(place)
    if outputs is None:
        others = [node for i, node in enumerate(graph.nodes) if i not in indices]
        outside = {value.name for value in graph.outputs}.union(*map(names_used, others))
        outputs = [name for node in nodes for name in node.outputs if name in outside and name]
        inside: set[str] = set().union(*map(names_used, nodes))
        outputs = outputs or [name for name in _in_order(nodes) if name not in inside]
    return Part(
        place=place,
        nodes=nodes,
        inputs=tuple(name for name in used if name not in fixed),
        constants={name: initializers[name] for name in used if name in fixed and name in initializers},
        computed=frozenset(name for name in used if name in fixed and name not in initializers),
        outputs=tuple(outputs),
    )


def _in_order(nodes: Iterable[Node]) -> list[str]:
    return [name for node in nodes for name in node.outputs if name]


def visible_initializers(place: Place) -> dict[str, Any]:
    """Return the initializers that a graph sees and that no input overrides, by name."""
    found: dict[str, Any] = {}
    for graph in place.graphs:
        for name in {value.name for value in graph.inputs} | outputs_of(graph.nodes):
            found.pop(name, None)
        found.update(graph.initializers)
    return found


def constant_names(place: Place) -> set[str]:
    """Return the values that a graph sees and that are the same in every run."""
    fixed: set[str] = set()
    for graph in place.graphs:
        fixed -= {value.name for value in graph.inputs}
        fixed |= set(graph.initializers)
        for node in graph.nodes:
            fixed -= set(node.outputs)
            plain = node.domain in _STANDARD and node.op_type not in _RANDOM and not subgraphs(node)
            if plain and all(name in fixed for name in node.inputs if name):
                fixed.update(name for name in node.outputs if name)
    return fixed


# Running ------------------------------------------------------------------------------------------


class _Enough(BaseException):
    """Ends a run when all that was wanted is known; no kernel's error handling may stop it."""


def record(
    model: Model, feeds: Any, part: Part, *, limits: Limits | None = None
) -> tuple[dict[str, Any], OnnxRefError | None]:
    """Run the model as it is written, and return the values on a part's border.

    Returns:
        The values by name, and the error that ended the run before all were known.
    """
    probed = {name for node in part.nodes for name in names_used(node) - set(node.inputs)}
    values, error = _record(model, feeds, part, probed.intersection(part.externals), limits)
    missing = [name for name in part.externals if name not in values]
    if error is not None and missing:
        # Observers are not told of the node that failed, but of those that copy its inputs.
        found, error = _record(model, feeds, part, set(missing), limits)
        values |= found
    return values, error


def _record(
    model: Model, feeds: Any, part: Part, probed: Collection[str], limits: Limits | None
) -> tuple[dict[str, Any], OnnxRefError | None]:
    probes = {name: f"onnxref_probe_{i}/{name}" for i, name in enumerate(sorted(probed))}
    names = {probe: name for name, probe in probes.items()}
    wanted = {*part.externals, *part.outputs}
    # Observers are not told of Constant nodes, which become constants when a run is planned.
    keys = {node.outputs for node in part.nodes if not is_constant(node)}
    values: dict[str, Any] = {}

    def observe(execution: Execution) -> None:
        node = execution.node
        if execution.scope != part.place.scope:
            return
        if node.name in names:
            values[names[node.name]] = execution.outputs[0]
        elif node.outputs in keys:
            keys.discard(node.outputs)
            read = zip(node.inputs, execution.inputs, strict=False)
            made = zip(node.outputs, execution.outputs, strict=False)
            values.update((name, value) for name, value in (*read, *made) if name in wanted)
            if not keys:
                raise _Enough

    changed = _with_probes(model, part, probes) if probes else model
    owner = part.place.owner
    asked = [name for name in (owner.outputs if owner else part.outputs) if name]
    session = InferenceSession(changed, backend="numpy", optimize="none", limits=limits)
    try:
        found = session.run_named(asked or None, feeds, observers=[observe])
    except _Enough:
        return values, None
    except OnnxRefError as error:
        if isinstance(error, InputError):
            raise
        return values, error
    if owner is None:  # Constant nodes are no part of a run
        values.update((name, value) for name, value in found.items() if name in part.outputs)
    return values, None


def _with_probes(model: Model, part: Part, probes: Mapping[str, str]) -> Model:
    """Return the model with copies of some values in place of what a part's nodes read."""
    keys = {node.outputs for node in part.nodes}

    def change(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        changed: list[Node] = []
        waiting = dict(probes)
        for node in nodes:
            if node.outputs in keys:
                for name in sorted(names_used(node).intersection(waiting)):
                    probe = waiting.pop(name)
                    copy = Node("Identity", (name,), (probe,), name=probe, opset=newest_opset("") or 1)
                    changed.append(copy)
                node = _renamed(node, probes)
            changed.append(node)
        return tuple(changed)

    return changed_model(model, part.place, change)


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    """Return a node that reads other values in place of some, in its bodies too."""
    attributes = {
        key: renamed_graph(value, names) if isinstance(value, Graph) else value
        for key, value in node.attributes.items()
    }
    return replace(node, inputs=tuple(names.get(name, name) for name in node.inputs), attributes=attributes)


def renamed_graph(
    graph: Graph, names: Mapping[str, str], *, inputs: tuple[Value, ...] | None = None
) -> Graph:
    """Return a body that reads other outer values in place of some; `inputs` replaces its own inputs."""
    inputs = graph.inputs if inputs is None else inputs
    own = {value.name for value in inputs} | set(graph.initializers) | outputs_of(graph.nodes)
    seen = {name: other for name, other in names.items() if name not in own}
    outputs = tuple(replace(value, name=seen.get(value.name, value.name)) for value in graph.outputs)
    nodes = tuple(_renamed(node, seen) for node in graph.nodes)
    return replace(graph, inputs=inputs, nodes=nodes, outputs=outputs)


# Putting together ---------------------------------------------------------------------------------


def assemble(
    model: Model, part: Part, values: Mapping[str, Any], *, what: str = "", error: str = ""
) -> Extraction:
    """Return a part as a model of its own, with its values.

    Args:
        model: the model that the part is of.
        values: at least those of `part.externals`; types of outputs that have none are as declared.
    """
    computed = {name: values[name] for name in sorted(part.computed)}
    # An initializer is a tensor; sequences and absent optionals can only be inputs.
    constants = part.constants | {k: v for k, v in computed.items() if isinstance(v, np.ndarray)}
    inputs = {name: values[name] for name in part.inputs}
    inputs |= {name: value for name, value in computed.items() if name not in constants}
    outputs = {} if error else {name: values[name] for name in part.outputs}
    declared = declared_types(part.place)
    graph = Graph(
        name=part.place.graph.name or "part",
        inputs=tuple(Value(k, value_type(v, declared.get(k))) for k, v in inputs.items()),
        outputs=tuple(
            Value(k, value_type(values[k], declared.get(k)) if k in outputs else declared.get(k))
            for k in part.outputs
        ),
        nodes=part.nodes,
        initializers=constants,
    )
    return Extraction(what, trimmed(replace(model, graph=graph), model), inputs, outputs, error)


def trimmed(model: Model, source: Model) -> Model:
    """Return a model with only the functions that it calls, and the opsets that its nodes belong to."""
    opsets: dict[str, int] = {}
    called: dict[FunctionKey, None] = {}

    def visit(nodes: Iterable[Node], main: bool) -> None:
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if main and (node.opset or node.domain in source.opset_imports):
                opsets.setdefault(node.domain, node.opset or source.opset_imports[node.domain])
            if key in source.functions and key not in called:
                called[key] = None
                visit(source.functions[key].nodes, False)
            for graph in subgraphs(node).values():
                visit(graph.nodes, main)

    visit(model.graph.nodes, True)
    functions = {key: function for key, function in source.functions.items() if key in called}
    imports = opsets or dict(source.opset_imports)
    version = max(source.ir_version, _OLDEST_IR)
    return replace(model, functions=functions, opset_imports=imports, ir_version=version)


def declared_types(place: Place) -> dict[str, ValueType]:
    """Return the types that a graph and those around it declare, by name."""
    found: dict[str, ValueType] = {}
    for graph in place.graphs:
        found.update(graph.value_types)
        found.update((v.name, v.type) for v in (*graph.inputs, *graph.outputs) if v.type is not None)
        for node in graph.nodes:
            if node.op_type == "Optional" and not node.domain:
                found.setdefault(node.outputs[0], OptionalType(None))
    return found


def value_type(value: Any, declared: ValueType | None = None) -> ValueType | None:
    """Return the type of a value with its shape; the declared one tells what an empty value would hold."""
    if isinstance(declared, OptionalType) or value is None:
        inner = declared.element if isinstance(declared, OptionalType) else declared
        known = inner or TensorType(ElementType.FLOAT, ())
        return OptionalType(known if value is None else value_type(value, inner))
    match value:
        case np.ndarray():
            return TensorType(from_numpy(value.dtype), value.shape)
        case SparseTensor():
            return SparseTensorType(from_numpy(value.values.dtype), value.shape)
        case list():
            return SequenceType(_common_type(value, declared))
        case dict():
            return _map_type(value, declared)
    return declared


def _common_type(values: Sequence[Any], declared: ValueType | None) -> ValueType | None:
    inner = declared.element if isinstance(declared, SequenceType) else None
    if not values:
        return inner or TensorType(ElementType.FLOAT)
    kinds = [value_type(value, inner) for value in values]
    first = kinds[0]
    if isinstance(first, TensorType) and any(kind != first for kind in kinds):
        ranks = {len(kind.shape or ()) for kind in kinds if isinstance(kind, TensorType)}
        return TensorType(first.element, (None,) * ranks.pop() if len(ranks) == 1 else None)
    return first


def _map_type(value: Mapping[Any, Any], declared: ValueType | None) -> ValueType:
    if isinstance(declared, MapType):
        return declared
    texts = any(isinstance(key, str) for key in value)
    items = [np.asarray(item) for item in value.values()]
    element = from_numpy(items[0].dtype) if items else ElementType.FLOAT
    return MapType(ElementType.STRING if texts else ElementType.INT64, TensorType(element, ()))
