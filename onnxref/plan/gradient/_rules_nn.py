"""Derivatives of convolutions, pools, dropout and losses."""

from __future__ import annotations

from ...registry import INTERNAL
from ._rules_reduction import size_ratio
from ._table import Call, Gradients, decomposition, rule
from ._tape import OPSET, Term

# Convolutions -------------------------------------------------------------------------------------
#
# sum(g * Conv(x, w)) is linear in each of g, x and w; its derivatives by x and by w are internal
# operators, whose own derivatives are these three again. ConvTranspose is alike.


def _pull(call: Call, forward: str, target: str, g: Term, other: Term, like: Term) -> Term:
    """Return the derivative by `target` (Input or Weight), in the shape of `like`."""
    return call.tape.internal(
        f"{forward}{target}Gradient", g, other, like.shape, opset=call.version, **call.node.attributes
    )


def _register_convolution(forward: str) -> None:
    @rule(forward)
    def convolution(call: Call) -> Gradients:
        x, w, grad = call.x, call[1], call.grad
        to_x = _pull(call, forward, "Input", grad, w, x)
        to_w = _pull(call, forward, "Weight", grad, x, w)
        rows = grad.reshape(grad.internal("ChannelShape"))
        bias = call.get(2)
        return [to_x, to_w, bias and rows.sum([0, 2]).reshape(bias.shape)]

    @rule(f"{forward}InputGradient", of=(0, 1), domain=INTERNAL)
    def input_gradient(call: Call) -> Gradients:
        g, w, grad = call.x, call[1], call.grad
        to_g = grad.apply(forward, w, opset=call.version, **call.node.attributes)
        return [to_g, _pull(call, forward, "Weight", g, grad, w)]

    @rule(f"{forward}WeightGradient", of=(0, 1), domain=INTERNAL)
    def weight_gradient(call: Call) -> Gradients:
        g, x, grad = call.x, call[1], call.grad
        to_g = x.apply(forward, grad, opset=call.version, **call.node.attributes)
        return [to_g, _pull(call, forward, "Input", g, grad, x)]


for _forward in ("Conv", "ConvTranspose"):
    _register_convolution(_forward)


# Pools --------------------------------------------------------------------------------------------


@rule("MaxPool")
def _max_pool(call: Call) -> Gradients:
    """Each output is the element at its index."""
    attributes = {k: v for k, v in call.node.attributes.items() if k != "storage_order"}
    _, index = call.tape.emit_many(2, "MaxPool", call.x, opset=OPSET, **attributes)
    where = index.apply("Add", call.tape.emit("Constant", value_int=1))
    return [call.grad.internal("PutFlat", where, call.x.shape)]


@rule("AveragePool")
def _average_pool(call: Call) -> Gradients:
    shape, attributes = call.x.shape, call.node.attributes
    return [call.grad.internal("AveragePoolGradient", shape, opset=call.version, **attributes)]


@rule("GlobalAveragePool")
def _global_average_pool(call: Call) -> Gradients:
    return [(call.grad * size_ratio(call.y, call.x)).fit_like(call.x)]


@rule("GlobalMaxPool")
def _global_max_pool(call: Call) -> Gradients:
    chosen = call.tape.where(call.x.equals(call.y), call.grad.coerce(1.0), 0.0)
    return [chosen * (call.grad / chosen.fit_like(call.grad))]


@decomposition("GlobalLpPool")
def _global_lp_pool(call: Call) -> Gradients:
    p = float(call.attribute("p"))
    powers = call.x.apply("Abs").apply("Pow", call.x.coerce(p))
    return [powers.fit_like(call.y).apply("Pow", call.x.coerce(1 / p))]


# Dropout ------------------------------------------------------------------------------------------


@rule("Dropout", of=(0,))
def _dropout(call: Call) -> Gradients:
    """The same mask and scale as in the forward pass."""
    tape, version = call.tape, call.version
    if 7 <= version < 12 or (version < 7 and call.attribute("is_test")):
        return [call.grad]
    mask = tape.output_of(call.node, 1).apply("CastLike", call.grad)
    if version < 7:
        return [call.grad * mask / (1 - call.attribute("ratio"))]
    training = call.get(2)
    if training is None:
        return [call.grad]
    ratio = call.get(1)
    kept = call.grad.coerce(0.5) if ratio is None else 1.0 - ratio.apply("CastLike", call.grad).reshape([])
    # Outside training the ratio plays no part.
    scale = tape.where(training.reshape([]), kept, 1.0)
    return [call.grad * mask / scale]


# Losses -------------------------------------------------------------------------------------------


def _likelihood_loss(call: Call, log_prob: Term) -> Term:
    """Return the negative log likelihood of the classes in input 1 (ONNX NegativeLogLikelihoodLoss-13)."""
    tape, target, weight = call.tape, call[1], call.get(2)
    ignore_index = call.attribute("ignore_index")
    ignored = None
    if ignore_index is not None:
        ignored = target.equals(ignore_index)
        target = tape.where(ignored, 0.0, target)
    axis = tape.ints([1])
    picked = log_prob.apply("GatherElements", target.apply("Unsqueeze", axis), axis=1)
    loss = -picked.apply("Squeeze", axis)
    factors = loss.filled(1.0) if weight is None else weight.apply("Gather", target)
    loss = loss * factors
    if ignored is not None:
        loss, factors = tape.where(ignored, 0.0, loss), tape.where(ignored, 0.0, factors)
    reduction = call.attribute("reduction")
    if reduction == "none":
        return loss
    return loss.sum_all() if reduction == "sum" else loss.sum_all() / factors.sum_all()


@decomposition("NegativeLogLikelihoodLoss", of=(0, 2))
def _negative_log_likelihood_loss(call: Call) -> Gradients:
    return [_likelihood_loss(call, call.x)]


@decomposition("SoftmaxCrossEntropyLoss", of=(0, 2))
def _softmax_cross_entropy_loss(call: Call) -> Gradients:
    log_prob = call.x.apply("LogSoftmax", axis=1)
    return [_likelihood_loss(call, log_prob), log_prob]
