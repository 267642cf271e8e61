"""Derivatives of gathers and scatters."""

from __future__ import annotations

from ._rules_shape import sources
from ._table import Call, Gradients, decomposition, rule
from ._tape import Term


@rule("Gather", of=(0,))
def _gather(call: Call) -> Gradients:
    if call.attribute("axis") != 0:
        return [call.grad.internal("PutFlat", sources(call), call.x.shape)]
    rows = call[1].apply("Unsqueeze", call.tape.ints([-1]))
    return [call.x.filled(0.0).apply("ScatterND", rows, call.grad, reduction="add")]


@rule("GatherElements", of=(0,))
def _gather_elements(call: Call) -> Gradients:
    axis = call.attribute("axis")
    zeros = call.x.filled(0.0)
    return [zeros.apply("ScatterElements", call[1], call.grad, axis=axis, reduction="add")]


@rule("GatherND", of=(0,))
def _gather_nd(call: Call) -> Gradients:
    if call.attribute("batch_dims"):
        return [call.grad.internal("PutFlat", sources(call), call.x.shape)]
    return [call.x.filled(0.0).apply("ScatterND", call[1], call.grad, reduction="add")]


def _reduction(call: Call) -> str:
    reduction = call.attribute("reduction") or "none"
    if reduction not in ("none", "add"):
        raise call.unsupported(f"its derivative is not known for reduction={reduction!r}")
    return str(reduction)


@rule("ScatterElements", "Scatter", of=(0, 2))
def _scatter_elements(call: Call) -> Gradients:
    axis, indices, grad = call.attribute("axis"), call[1], call.grad
    to_updates = grad.apply("GatherElements", indices, axis=axis)
    if _reduction(call) == "add":
        return [grad, None, to_updates]
    return [grad.apply("ScatterElements", indices, call[2].filled(0.0), axis=axis), None, to_updates]


@rule("ScatterND", of=(0, 2))
def _scatter_nd(call: Call) -> Gradients:
    indices, grad = call[1], call.grad
    to_updates = grad.apply("GatherND", indices)
    if _reduction(call) == "add":
        return [grad, None, to_updates]
    return [grad.apply("ScatterND", indices, call[2].filled(0.0)), None, to_updates]


@decomposition("TopK", of=(0,))
def _top_k(call: Call) -> Gradients:
    """The values are those at the indices, which are constant nearby."""
    indices: Term = call.tape.output_of(call.node, 1)
    return [call.x.apply("GatherElements", indices, axis=call.attribute("axis"))]
