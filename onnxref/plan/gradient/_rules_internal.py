"""Derivatives of the internal operators that derivatives are made of, for those of higher order."""

from __future__ import annotations

from ...registry import INTERNAL
from ._table import Call, Gradients, rule


@rule("FitTo", of=(0,), domain=INTERNAL)
def _fit_to(call: Call) -> Gradients:
    return [call.grad.fit_like(call.x)]


@rule("TakeFlat", of=(0,), domain=INTERNAL)
def _take_flat(call: Call) -> Gradients:
    return [call.grad.internal("PutFlat", call[1], call.x.shape)]


@rule("PutFlat", of=(0,), domain=INTERNAL)
def _put_flat(call: Call) -> Gradients:
    return [call.grad.internal("TakeFlat", call[1])]


@rule("SwapLast", domain=INTERNAL)
def _swap_last(call: Call) -> Gradients:
    return [call.grad.internal("SwapLast")]


@rule("LinearScan", domain=INTERNAL)
def _linear_scan(call: Call) -> Gradients:
    """The scan s[i] = b[i] + a[i] s[i - 1] goes back as t[i] = g[i] + a[i + 1] t[i + 1]."""
    reverse = int(call.attribute("reverse"))
    towards, away = ([1, -1], [-1, 1]) if reverse else ([-1, 1], [1, -1])
    tape, axis = call.tape, call.tape.ints([1])
    factors = call[1].apply("Pad", tape.ints(towards), None, axis)
    to_b = call.grad.internal("LinearScan", factors, reverse=1 - reverse)
    neighbours = call.y.apply("Pad", tape.ints(away), None, axis)
    return [to_b, to_b * neighbours]


@rule("AveragePoolGradient", of=(0,), domain=INTERNAL)
def _average_pool_gradient(call: Call) -> Gradients:
    return [call.grad.apply("AveragePool", opset=call.version, **call.node.attributes)]
