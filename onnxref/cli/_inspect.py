"""`onnxref inspect`: what a model is made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..graph import Graph, Model, Node, TensorType, Value, subgraphs, type_string
from ..limits import Limits
from ..model import load_model
from ._tables import byte_count, table


def inspect_command(path: Path, *, list_nodes: bool, limits: Limits, as_json: bool) -> None:
    """Print inputs, outputs, metadata, opsets, operators and parameters; on demand every node."""
    report = _report(load_model(path, limits), list_nodes)
    if as_json:
        print(json.dumps(report))
    else:
        _print(path.name, report)


def _report(model: Model, list_nodes: bool) -> dict[str, Any]:
    nodes = [*_walk(model.graph.nodes), *(n for f in model.functions.values() for n in _walk(f.nodes))]
    arrays = [*_initializers(model.graph), *(n.attributes["value"] for n in nodes if _is_constant(n))]
    report: dict[str, Any] = {
        "metadata": {
            "graph": model.graph.name,
            "ir_version": model.ir_version,
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "domain": model.domain,
            "version": model.version,
            "description": model.doc,
            **model.metadata,
        },
        "opsets": {domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "inputs": [_value(v) for v in model.graph.inputs if v.name not in model.graph.initializers],
        "outputs": [_value(v) for v in model.graph.outputs],
        "operators": dict(Counter(_operator(node) for node in nodes).most_common()),
        "functions": [f"{f.domain}:{f.name}" for f in model.functions.values()],
        "parameters": {
            "tensors": len(arrays),
            "elements": sum(a.size for a in arrays),
            "bytes": sum(a.nbytes for a in arrays),
        },
    }
    if list_nodes:
        report["nodes"] = [_node(node) for node in model.graph.nodes]
    return report


def _walk(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for graph in subgraphs(node).values():
            yield from _walk(graph.nodes)


def _initializers(graph: Graph) -> Iterator[Any]:
    yield from graph.initializers.values()
    for node in graph.nodes:
        for inner in subgraphs(node).values():
            yield from _initializers(inner)


def _is_constant(node: Node) -> bool:
    """Some exporters keep the weights in Constant nodes instead of initializers."""
    return node.op_type == "Constant" and isinstance(node.attributes.get("value"), np.ndarray)


def _operator(node: Node) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else node.op_type


def _value(value: Value) -> dict[str, Any]:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return {
        "name": value.name,
        "type": type_string(value.type) or "?",
        "shape": None if shape is None else list(shape),
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "operator": _operator(node),
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "attributes": {name: _shown(value) for name, value in node.attributes.items()},
    }


def _shown(value: Any) -> str:
    if isinstance(value, Graph):
        return f"graph {value.name} ({len(value.nodes)} nodes)"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _print(name: str, report: dict[str, Any]) -> None:
    console = Console()
    facts = [(key, value) for key, value in report["metadata"].items() if value not in ("", 0)]
    facts += [(f"opset {domain}", version) for domain, version in report["opsets"].items()]
    parameters = report["parameters"]
    size = f"{parameters['elements']:,} in {parameters['tensors']} tensors, {byte_count(parameters['bytes'])}"
    console.print(table(name, ("what", "value"), [*facts, ("parameters", size)]))
    for kind in ("inputs", "outputs"):
        rows = [(v["name"], v["type"], "?" if v["shape"] is None else v["shape"]) for v in report[kind]]
        console.print(table(kind, ("name", "type", "shape"), rows))
    console.print(table("operators", ("operator", "nodes"), list(report["operators"].items())))
    if report["functions"]:
        console.print(table("functions", ("name",), [(f,) for f in report["functions"]]))
    if "nodes" in report:
        listing = [
            (
                i,
                n["name"],
                n["operator"],
                ", ".join(n["inputs"]),
                ", ".join(n["outputs"]),
                ", ".join(f"{k}={v}" for k, v in n["attributes"].items()),
            )
            for i, n in enumerate(report["nodes"])
        ]
        columns = ("#", "name", "operator", "inputs", "outputs", "attributes")
        console.print(table("nodes", columns, listing))
