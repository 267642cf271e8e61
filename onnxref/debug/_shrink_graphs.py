"""What a search for a smaller model is made of: smaller graphs, and the values of runs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference

from ..errors import OnnxRefError
from ..graph import Graph, Model, Node, TensorType, Value, names_used, subgraphs
from ..limits import GIB, MIB, Limits
from ..model import load_model
from ..runtime import Execution
from ..session import InferenceSession
from ._places import NodesChange, Place, is_constant
from ._subgraph import constant_names, renamed_graph, trimmed, value_type

_MOST_KEPT = 512 * MIB  # values of one run that are kept, so that the run need not be repeated
_MOST_CALLS = 8  # of one body that are tried
_LONGEST_SHAPE = 16  # elements of an initializer that may be a shape
_LARGEST_CHECKED = GIB  # onnx.checker cannot take more than 2 GiB


# Graphs -------------------------------------------------------------------------------------------


def moving_nodes(place: Place) -> list[int]:
    """Return the nodes whose values are not the same in every run; all, if there are none."""
    fixed = constant_names(place)
    nodes = list(enumerate(place.graph.nodes))
    moving = [i for i, node in nodes if not set(node.outputs) - {""} <= fixed]
    return moving or [i for i, node in nodes if not is_constant(node)]


def sinks(graph: Graph, kept: Collection[int]) -> list[str]:
    """Return the outputs of nodes that none of them uses, and those that are the graph's own."""
    nodes = [graph.nodes[i] for i in sorted(kept)]
    used = set().union(*map(names_used, nodes))
    every = set().union(*map(names_used, graph.nodes))
    own = {value.name for value in graph.outputs}
    names = [name for node in nodes for name in node.outputs if name]
    wanted = [name for name in names if name in own or (name not in used and name in every)]
    return wanted or [name for name in names if name not in used][:1]


def ancestors(graph: Graph, name: str) -> set[int]:
    wanted, found = {name}, set()
    for index in reversed(range(len(graph.nodes))):
        if wanted.intersection(graph.nodes[index].outputs) - {""}:
            found.add(index)
            wanted |= names_used(graph.nodes[index])
    return found


def without_unused(model: Model, feeds: Mapping[str, Any]) -> tuple[Model, dict[str, Any]]:
    """Return a model without inputs, initializers and functions that nothing uses."""
    graph = model.graph
    used = {value.name for value in graph.outputs}.union(*map(names_used, graph.nodes))
    kept = replace(
        graph,
        inputs=tuple(value for value in graph.inputs if value.name in used),
        initializers={name: array for name, array in graph.initializers.items() if name in used},
    )
    found = trimmed(replace(model, graph=kept), model)
    return found, {name: value for name, value in feeds.items() if name in used}


def without_output(node: Node, at: int) -> Node:
    """Return a Loop without one of its outputs; what it carried keeps the value from before the loop."""
    body = subgraphs(node)["body"]
    inputs, own = node.inputs, body.inputs
    if at < len(node.inputs) - 2:
        body = renamed_graph(
            body, {own[at + 2].name: inputs[at + 2]}, inputs=(*own[: at + 2], *own[at + 3 :])
        )
        inputs = (*inputs[: at + 2], *inputs[at + 3 :])
    body = replace(body, outputs=(*body.outputs[: at + 1], *body.outputs[at + 2 :]))
    outputs = (*node.outputs[:at], *node.outputs[at + 1 :])
    return replace(node, inputs=inputs, outputs=outputs, attributes={**node.attributes, "body": body})


def replacing(chosen: Collection[tuple[str, ...]], values: Mapping[str, Any], version: int) -> NodesChange:
    """Return what puts constants in place of nodes, which are told by their outputs."""

    def change(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        made = (constants(node, values, version) if node.outputs in chosen else (node,) for node in nodes)
        return tuple(itertools.chain.from_iterable(made))

    return change


def constants(node: Node, values: Mapping[str, Any], version: int) -> tuple[Node, ...]:
    """Return a Constant for each output of a node that is known; what was not run, nobody may need."""
    return tuple(
        Node("Constant", (), (name,), {"value": values[name]}, name=f"{name}/constant", opset=version)
        for name in node.outputs
        if isinstance(values.get(name), np.ndarray)
    )


def without_shapes(graph: Graph) -> Graph:
    """Return a graph whose bodies declare no shapes, which may have changed."""

    def bare(value: Value) -> Value:
        kind = value.type
        return replace(value, type=TensorType(kind.element)) if isinstance(kind, TensorType) else value

    def inner(node: Node) -> Node:
        bodies = {
            name: replace(
                without_shapes(body),
                inputs=tuple(map(bare, body.inputs)),
                outputs=tuple(map(bare, body.outputs)),
                value_types={},
            )
            for name, body in subgraphs(node).items()
        }
        return replace(node, attributes={**node.attributes, **bodies}) if bodies else node

    return replace(graph, nodes=tuple(map(inner, graph.nodes)))


def with_output_types(model: Model, outputs: Mapping[str, Any]) -> Model:
    declared = tuple(Value(v.name, value_type(outputs[v.name], v.type)) for v in model.graph.outputs)
    return replace(model, graph=replace(model.graph, outputs=declared))


def with_inferred_types(model: Model, proto: onnx.ModelProto) -> Model:
    """Return a model that declares the types that shape inference finds; it may find none."""
    try:
        inferred = load_model(onnx.shape_inference.infer_shapes(proto))
    except (onnx.shape_inference.InferenceError, OnnxRefError, ValueError):
        return model
    return replace(model, graph=replace(model.graph, value_types=inferred.graph.value_types))


def is_valid(proto: onnx.ModelProto) -> bool:
    """Whether `onnx.checker` accepts a model; one that is too large for it is not asked about.

    Outputs may lack a type: those of a model that does not run are not known.
    """
    if proto.ByteSize() > _LARGEST_CHECKED:
        return True
    declared = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in proto.graph.output]
    for value in proto.graph.output:
        if not value.HasField("type"):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError:
        return False
    finally:
        del proto.graph.output[:]
        proto.graph.output.extend(declared)
    return True


# Values -------------------------------------------------------------------------------------------


class FullError(BaseException):
    """Ends a run when no more values can be kept."""


def values_of_run(model: Model, feeds: Mapping[str, Any], limits: Limits | None) -> dict[str, Any]:
    """Return the values of the main graph, as far as there is room for them, or until a node fails."""
    values: dict[str, Any] = dict(feeds)
    kept = 0

    def observe(execution: Execution) -> None:
        nonlocal kept
        if execution.scope:
            return
        for name, value in zip(execution.node.outputs, execution.outputs, strict=False):
            if name:
                values[name] = value
                kept += value.nbytes if isinstance(value, np.ndarray) else 0
        if kept > _MOST_KEPT:
            raise FullError

    session = InferenceSession(model, backend="numpy", optimize="none", limits=limits)
    with contextlib.suppress(OnnxRefError, FullError):
        session.run_named(None, dict(feeds), observers=[observe])
    return values


def run_scopes(model: Model, feeds: Mapping[str, Any], limits: Limits | None) -> set[str]:
    """Return the scopes of all bodies that ran."""
    found: set[str] = set()
    session = InferenceSession(model, backend="numpy", optimize="none", limits=limits)
    with contextlib.suppress(OnnxRefError):
        session.run_named(None, dict(feeds), observers=[lambda execution: found.add(execution.scope)])
    return found


def count_calls(scopes: Collection[str], node: Node, body: str) -> int:
    """Return how often a node of the main graph called its body."""
    start, end = f"{node.label}[", f"]/{body}/"
    numbers = (s[len(start) : -len(end)] for s in scopes if s.startswith(start) and s.endswith(end))
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def spread(places: Sequence[Place]) -> list[Place]:
    """Return the first, the last, and some between."""
    if len(places) <= _MOST_CALLS:
        return list(places)
    picks = np.linspace(0, len(places) - 1, _MOST_CALLS).astype(int)
    return [places[i] for i in dict.fromkeys([0, len(places) - 1, *picks.tolist()])]


def cuts(arrays: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return arrays with smaller dimensions: everywhere, with shapes that say so, then one by one."""
    sizes = sorted({d for array in arrays.values() for d in array.shape if d > 1}, reverse=True)
    for size in sizes:
        for smaller in dict.fromkeys((1, size // 2)):
            what = f"of {size} cut to {smaller}"
            yield f"dimensions {what}", resized(arrays, {size: smaller})
            shapes = {
                name: np.where(array == size, smaller, array)
                for name, array in arrays.items()
                if may_be_shape(array) and size in array
            }
            if shapes:
                yield f"dimensions and shapes {what}", resized(arrays, {size: smaller}) | shapes
            multiples = {d: d // size * smaller for d in sizes if d % size == 0}
            if len(multiples) > 1:  # as of the gates of a recurrent layer, or the heads of an attention
                yield f"dimensions {what}, and their multiples", resized(arrays, multiples)
    for name, array in arrays.items():
        for index in np.flatnonzero(array > 1) if may_be_shape(array) else ():
            freed = array.copy()
            freed.reshape(-1)[index] = -1
            yield f"{name} with a free dimension", {name: freed}
    for name, array in arrays.items():
        for axis, size in enumerate(array.shape):
            for smaller in dict.fromkeys((1, size // 2)) if size > 1 else ():
                what = f"dimension {axis} of {name} cut to {smaller}"
                yield what, {name: cut_array(array, {axis: smaller})}


def may_be_shape(array: Any) -> bool:
    """Whether an array could hold the dimensions of another."""
    return bool(array.dtype == np.int64) and array.ndim == 1 and array.size <= _LONGEST_SHAPE


def resized(arrays: Mapping[str, Any], sizes: Mapping[int, int]) -> dict[str, Any]:
    """Return those arrays that have dimensions of some sizes, with others in their place."""
    found = {}
    for name, array in arrays.items():
        axes = {axis: sizes[d] for axis, d in enumerate(array.shape) if d in sizes}
        if axes:
            found[name] = cut_array(array, axes)
    return found


def cut_array(array: Any, sizes: Mapping[int, int]) -> Any:
    """Return the beginning of an array along some axes."""
    cut = array[tuple(slice(sizes.get(axis)) for axis in range(array.ndim))]
    return np.ascontiguousarray(cut).reshape(cut.shape)


def count_nodes(model: Model) -> int:
    """Return the number of nodes, those of bodies and functions included."""

    def inside(nodes: Sequence[Node]) -> int:
        return len(nodes) + sum(inside(g.nodes) for node in nodes for g in subgraphs(node).values())

    return inside(model.graph.nodes) + sum(inside(function.nodes) for function in model.functions.values())
