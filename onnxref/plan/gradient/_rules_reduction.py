"""Derivatives of reductions, cumulative sums and the softmax family."""

from __future__ import annotations

from typing import Any

from ._table import Call, Gradients, decomposition, rule
from ._tape import Term


def _axes(call: Call) -> tuple[Term | None, dict[str, Any]]:
    """Return the axes of a reduction as an input, and whether none of them means none."""
    axes = call.node.attributes.get("axes")
    given = call.get(1) if axes is None else call.tape.ints(axes)
    return given, {"noop_with_empty_axes": call.attribute("noop_with_empty_axes")}


def _kept_shape(call: Call) -> Term:
    """Return the shape of the output with the reduced axes kept."""
    axes, noop = _axes(call)
    return call.x.internal("ReducedShape", axes, **noop)


def _kept(call: Call) -> tuple[Term, Term]:
    """Return gradient and output with the reduced axes kept, so that they broadcast with the input."""
    shape = _kept_shape(call)
    return call.grad.reshape(shape), call.y.reshape(shape)


def size_ratio(part: Term, whole: Term) -> Term:
    """Return number of elements of `part` / that of `whole`, in the type of `part`."""
    # Through float64: a float16 cannot count beyond 65504.
    one = part.tape.emit("Constant", value_float=1.0).apply("Cast", to=11)
    counts = [x.apply("Size").apply("CastLike", one) for x in (part, whole)]
    return (counts[0] / counts[1]).apply("CastLike", part)


@rule("ReduceSum", of=(0,))
def _reduce_sum(call: Call) -> Gradients:
    return [call.grad.reshape(_kept_shape(call)).fit_like(call.x)]


@rule("ReduceMean", of=(0,))
def _reduce_mean(call: Call) -> Gradients:
    grad = call.grad * size_ratio(call.y, call.x)
    return [grad.reshape(_kept_shape(call)).fit_like(call.x)]


@rule("ReduceL1", of=(0,))
def _reduce_l1(call: Call) -> Gradients:
    return [_kept(call)[0] * call.x.apply("Sign")]


@rule("ReduceL2", of=(0,))
def _reduce_l2(call: Call) -> Gradients:
    grad, norm = _kept(call)
    return [grad * (call.x / call.tape.where(norm.equals(0.0), 1.0, norm))]


@rule("ReduceSumSquare", of=(0,))
def _reduce_sum_square(call: Call) -> Gradients:
    return [_kept(call)[0] * 2.0 * call.x]


@decomposition("ReduceLogSum", of=(0,))
def _reduce_log_sum(call: Call) -> Gradients:
    axes, noop = _axes(call)
    return [call.x.apply("ReduceSum", axes, keepdims=call.attribute("keepdims"), **noop).apply("Log")]


@rule("ReduceLogSumExp", of=(0,))
def _reduce_log_sum_exp(call: Call) -> Gradients:
    grad, y = _kept(call)
    return [grad * (call.x - y).apply("Exp")]


@rule("ReduceMax", "ReduceMin", of=(0,))
def _reduce_extreme(call: Call) -> Gradients:
    grad, y = _kept(call)
    chosen = call.tape.where(call.x.equals(y), grad.coerce(1.0), 0.0)
    return [chosen * (grad / chosen.fit(grad.shape))]


@decomposition("ReduceProd", of=(0,))
def _reduce_prod(call: Call) -> Gradients:
    """A running product whose last element is the result; no division, so zeros do no harm."""
    axes, noop = _axes(call)
    tape = call.tape
    rows = call.x.internal("TakeFlat", call.x.internal("GroupedPositions", axes, **noop))
    last = tape.ints([1])
    factors = rows.apply("Pad", tape.ints([1, 0]), None, last)
    # In front of the factors stands a 1, from which the product starts.
    start = rows.apply("Slice", tape.ints([0]), tape.ints([0]), last)
    start = start.apply("Pad", tape.ints([1, 0]), start.coerce(1.0), last)
    start = start.apply("Concat", rows.filled(0.0), axis=1)
    running = start.internal("LinearScan", factors)
    result = running.apply("Slice", tape.ints([-1]), tape.ints([2**62]), last)
    return [result.reshape(call.y.shape)]


@rule("CumSum", of=(0,))
def _cum_sum(call: Call) -> Gradients:
    reverse = 1 - call.attribute("reverse")
    return [call.grad.apply("CumSum", call[1], exclusive=call.attribute("exclusive"), reverse=reverse)]


def _softmax_terms(call: Call) -> tuple[Term, Term, list[int]]:
    """Return gradient, output and axis; before version 13 as matrices of one row per distribution."""
    axis = call.attribute("axis")
    if call.version >= 13:
        return call.grad, call.y, [axis]
    return call.grad.apply("Flatten", axis=axis), call.y.apply("Flatten", axis=axis), [1]


@rule("Softmax")
def _softmax(call: Call) -> Gradients:
    grad, y, axes = _softmax_terms(call)
    product = grad * y
    return [(product - y * product.sum(axes)).reshape(call.x.shape)]


@rule("LogSoftmax")
def _log_softmax(call: Call) -> Gradients:
    grad, y, axes = _softmax_terms(call)
    return [(grad - y.apply("Exp") * grad.sum(axes)).reshape(call.x.shape)]
