"""A model as the report's page wants it: drawn graphs, attributes as text, and the specification's own words.

A graph that is run in several places (a function's body) is drawn once; what was measured is found by
paths, in which `[*]` stands for every iteration of a loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx.defs

from ..dtypes import tensor_type_string
from ..errors import UnsupportedOperatorError
from ..graph import (
    AttributeReference,
    Function,
    Graph,
    Model,
    Node,
    SparseTensor,
    TensorType,
    Value,
    ValueType,
    names_used,
    outer_names,
    subgraphs,
    type_string,
)
from ..schema import find
from ._layout_graph import place
from ._profile import Source

HEIGHT = 38.0
_LETTER = 6.9
_NARROW, _WIDE = 64.0, 172.0
_LONGEST_TEXT, _LONGEST_DOC = 400, 12_000
_MOST_ITEMS = 12
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Pages:
    """All graphs of a model, drawn, and the texts that their nodes need."""

    def __init__(self, model: Model) -> None:
        self.graphs: list[dict[str, Any]] = []
        self.specs: dict[str, dict[str, Any]] = {}
        self._model = model
        self._functions: dict[int, int] = {}
        self._add_graph(model.graph)

    def _add_graph(self, graph: Graph, outer: Mapping[str, str] = _NOTHING) -> int:
        """Draw a graph and the bodies in it; return its number.

        Args:
            outer: constants of the graphs around it, as text.
        """
        number = self._reserve()
        constants = set(graph.initializers)
        inputs = [value for value in graph.inputs if value.name not in constants]
        used = sorted(outer_names(graph)) if number else []
        types = dict(graph.value_types) | {v.name: v.type for v in (*graph.inputs, *graph.outputs) if v.type}
        own = {name: _constant(array) for name, array in graph.initializers.items()}
        sheet = _Sheet(types, {**{name: outer[name] for name in used if name in outer}, **own})
        for name in used:
            if name not in outer:
                sheet.add_end("outside", Value(name))
        for value in inputs:
            sheet.add_end("input", value)
        for node in graph.nodes:
            self._add_node(sheet, node)
        for value in graph.outputs:
            sheet.add_end("output", value)
        self.graphs[number] = {"title": graph.name, **sheet.drawn()}
        return number

    def _add_function(self, function: Function) -> int:
        """Draw a function's body, once for all calls; return its number."""
        known = self._functions.get(id(function))
        if known is not None:
            return known
        number = self._functions[id(function)] = self._reserve()
        sheet = _Sheet({}, {})
        for name in function.inputs:
            sheet.add_end("input", Value(name))
        for node in function.nodes:
            self._add_node(sheet, node)
        for name in function.outputs:
            sheet.add_end("output", Value(name))
        self.graphs[number] = {"title": f"function {function.name}", **sheet.drawn()}
        return number

    def _reserve(self) -> int:
        self.graphs.append({})
        return len(self.graphs) - 1

    def _add_node(self, sheet: _Sheet, node: Node) -> None:
        if node.op_type == "Constant" and not node.domain and node.outputs:
            value = next(iter(node.attributes.values()), None)
            sheet.add_constant(node.outputs[0], _shown(value))
            return
        made: dict[str, Any] = {
            "name": node.label,
            "op": node.op_type,
            "in": list(node.inputs),
            "out": list(node.outputs),
            "types": [_shown_type(sheet.types.get(name)) for name in node.outputs],
        }
        if node.domain:
            made["domain"] = node.domain
        texts = {k: _shown(v) for k, v in node.attributes.items() if not isinstance(v, Graph)}
        bodies = [
            [f"{'' if node.op_type == 'If' else '[*]'}/{name}/", self._add_graph(body, sheet.constants)]
            for name, body in subgraphs(node).items()
        ]
        function = self._model.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            bodies.append(["/", self._add_function(function)])
        spec = self._spec(node)
        source = Source.of(node.metadata)
        metadata = {k: _cut(v) for k, v in node.metadata.items() if not k.startswith("pkg.torch.onnx.stack")}
        found = (("attributes", texts), ("bodies", bodies), ("spec", spec), ("metadata", metadata))
        made |= {key: value for key, value in found if value}
        if source is not None:
            made["source"] = source.to_json()
        sheet.add_node(made, names_used(node), node.outputs)

    def _spec(self, node: Node) -> str:
        """Return the key of the operator's text; empty where onnx has none."""
        try:
            schema = find(node.domain, node.op_type, node.opset)
        except UnsupportedOperatorError:
            return ""
        if schema is None:
            return ""
        key = f"{node.domain + '.' if node.domain else ''}{schema.name}-{schema.since_version}"
        if key not in self.specs:
            self.specs[key] = _spec_text(schema.domain, schema.name, schema.since_version)
        return key


class _Sheet:
    """One graph while it is drawn."""

    def __init__(self, types: Mapping[str, ValueType], constants: Mapping[str, str]) -> None:
        self.types = types
        self.constants = dict(constants)
        self._used: dict[str, str] = {}
        self._nodes: list[dict[str, Any]] = []
        self._edges: list[tuple[int, int]] = []
        self._makers: dict[str, int] = {}

    def add_constant(self, name: str, text: str) -> None:
        """Add a constant: it is shown with the nodes that read it, not as a node."""
        self.constants[name] = text

    def add_end(self, kind: str, value: Value) -> None:
        """Add what comes into the graph or goes out of it."""
        shown = _shown_type(self.types.get(value.name) or value.type)
        made = {"name": value.name, "op": kind, "end": kind, "types": [shown]}
        ends = {"in": [value.name], "out": []} if kind == "output" else {"in": [], "out": [value.name]}
        self.add_node(made | ends, ends["in"], ends["out"])

    def add_node(self, made: dict[str, Any], used: Sequence[str] | set[str], outputs: Sequence[str]) -> None:
        """Add a node that comes after all that it uses."""
        number = len(self._nodes)
        self._nodes.append(made)
        for name in sorted(used):
            if name in self._makers:
                self._edges.append((self._makers[name], number))
            elif name in self.constants:
                self._used[name] = self.constants[name]
        self._makers.update((name, number) for name in outputs if name)

    def drawn(self) -> dict[str, Any]:
        """Return nodes with their places, edges with their corners."""
        widths = [_width(node) for node in self._nodes]
        inputs = {i for i, node in enumerate(self._nodes) if node.get("end") in ("input", "outside")}
        placed = place(widths, self._edges, HEIGHT, inputs)
        for node, width, (x, y) in zip(self._nodes, widths, placed.centers, strict=True):
            node |= {"x": x, "y": y, "w": width}
        edges = [
            [a, b, *(coordinate for corner in placed.corners.get((a, b), ()) for coordinate in corner)]
            for a, b in dict.fromkeys(self._edges)
        ]
        return {
            "nodes": self._nodes,
            "edges": edges,
            "constants": self._used,
            "width": round(placed.width, 1),
            "height": round(placed.height, 1),
        }


def _width(node: Mapping[str, Any]) -> float:
    letters = max(len(node["op"]) + 3, min(len(node["name"]), 22))
    return round(min(_WIDE, max(_NARROW, letters * _LETTER + 14)), 1)


def _shown_type(kind: ValueType | None) -> str:
    """Return a type with its shape: `tensor(float)[N, 3, 224, 224]`."""
    text = type_string(kind) or ""
    if isinstance(kind, TensorType) and kind.shape is not None:
        return f"{text}[{', '.join('?' if dim is None else str(dim) for dim in kind.shape)}]"
    return text


def _constant(value: Any) -> str:
    """Return a tensor's type, shape and first elements."""
    if isinstance(value, SparseTensor):
        return f"sparse {tensor_type_string(value.values.dtype)}{list(value.shape)}"
    head = f"{tensor_type_string(value.dtype)}{list(value.shape)}"
    first = [str(item) for item in value.reshape(-1)[:_MOST_ITEMS].tolist()] if value.size else []
    more = ", ..." if value.size > len(first) else ""
    return _cut(f"{head} = {', '.join(first)}{more}" if first else head)


def _shown(value: Any) -> str:
    """Return an attribute as text."""
    match value:
        case np.ndarray() | SparseTensor():
            return _constant(value)
        case AttributeReference():
            return f"attribute {value.name!r} of the calling node"
        case bytes():
            return _cut(repr(value))
        case tuple() | list():
            more = f", ... ({len(value)} items)" if len(value) > 4 * _MOST_ITEMS else ""
            return _cut(f"[{', '.join(map(_shown, value[: 4 * _MOST_ITEMS]))}{more}]")
        case Graph():
            return f"graph {value.name!r}"
        case float():
            return f"{value:.9g}"
        case _:
            return _cut(str(value))


def _cut(text: str, most: int = _LONGEST_TEXT) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def _spec_text(domain: str, name: str, version: int) -> dict[str, Any]:
    raw = onnx.defs.get_schema(name, version, domain)
    return {
        "doc": _cut((raw.doc or "").strip(), _LONGEST_DOC),
        "inputs": [[p.name, p.type_str, p.description.strip()] for p in raw.inputs],
        "outputs": [[p.name, p.type_str, p.description.strip()] for p in raw.outputs],
        "attributes": [
            [a.name, str(a.type).partition(".")[2], a.description.strip()] for a in raw.attributes.values()
        ],
        "deprecated": raw.deprecated,
    }
