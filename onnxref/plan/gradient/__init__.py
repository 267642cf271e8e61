"""Lowering of `Gradient` nodes (domain ai.onnx.preview.training) to ordinary nodes.

Reverse-mode differentiation on the graph, before kernels are chosen:

    _expand.py       which nodes a Gradient node differentiates, and what takes its place
    _backward.py     the walk from the gradients of outputs back to those of inputs
    _tape.py         makes nodes, written as arithmetic on `Term`s
    _table.py        which rule belongs to which operator
    _rules_*.py      the rules, by family

The result is a graph like any other: a later Gradient node may differentiate it again.
"""

from . import (
    _rules_elementwise,
    _rules_indexing,
    _rules_internal,
    _rules_linear,
    _rules_nn,
    _rules_normalization,
    _rules_reduction,
    _rules_shape,
)
from ._expand import LOWERED, expand_gradients

__all__ = [
    "LOWERED",
    "_rules_elementwise",
    "_rules_indexing",
    "_rules_internal",
    "_rules_linear",
    "_rules_nn",
    "_rules_normalization",
    "_rules_reduction",
    "_rules_shape",
    "expand_gradients",
]
