"""Derivatives of element-wise operators: unary mathematics, activations, arithmetic, casts.

At a kink (Relu, Abs, Max ...) the derivative is 0, or shared among equal inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...registry import INTERNAL
from ._table import Call, Gradients, decomposition, rule
from ._tape import Term

# (x, y) -> dy/dx
_UNARY: dict[str, Callable[[Term, Term], Term]] = {
    "Abs": lambda x, y: x.apply("Sign"),
    "Acos": lambda x, y: -1.0 / (1.0 - x * x).apply("Sqrt"),
    "Acosh": lambda x, y: 1.0 / ((x - 1.0) * (x + 1.0)).apply("Sqrt"),
    "Asin": lambda x, y: 1.0 / (1.0 - x * x).apply("Sqrt"),
    "Asinh": lambda x, y: 1.0 / (x * x + 1.0).apply("Sqrt"),
    "Atan": lambda x, y: 1.0 / (x * x + 1.0),
    "Atanh": lambda x, y: 1.0 / ((1.0 - x) * (1.0 + x)),
    "Cos": lambda x, y: -x.apply("Sin"),
    "Cosh": lambda x, y: x.apply("Sinh"),
    "Erf": lambda x, y: 2.0 / math.sqrt(math.pi) * (-(x * x)).apply("Exp"),
    "Exp": lambda x, y: y,
    "Log": lambda x, y: 1.0 / x,
    "Reciprocal": lambda x, y: -(y * y),
    "Relu": lambda x, y: _step(x > 0.0, x),
    "Sigmoid": lambda x, y: y * (1.0 - y),
    "Sin": lambda x, y: x.apply("Cos"),
    "Sinh": lambda x, y: x.apply("Cosh"),
    "Softplus": lambda x, y: x.apply("Sigmoid"),
    "Softsign": lambda x, y: (1.0 + x.apply("Abs")).apply("Pow", x.coerce(-2.0)),
    "Sqrt": lambda x, y: 0.5 / y,
    "Tan": lambda x, y: 1.0 + y * y,
    "Tanh": lambda x, y: 1.0 - y * y,
}


def _step(condition: Term, like: Term) -> Term:
    """Return 1 where the condition holds, else 0, in the type of `like`."""
    return condition.tape.where(condition, like.coerce(1.0), 0.0)


def _register_unary(op_type: str, derivative: Callable[[Term, Term], Term]) -> None:
    @rule(op_type)
    def unary(call: Call) -> Gradients:
        return [call.grad * derivative(call.x, call.y)]


for _op_type, _derivative in _UNARY.items():
    _register_unary(_op_type, _derivative)


@rule("Identity")
def _identity(call: Call) -> Gradients:
    return [call.grad]


@rule("Neg")
def _neg(call: Call) -> Gradients:
    return [-call.grad]


@rule("Cast", "CastLike", of=(0,))
def _cast(call: Call) -> Gradients:
    return [call.grad.internal("CastGradient", call.x, call.y)]


@rule("CastGradient", of=(0,), domain=INTERNAL)
def _cast_gradient(call: Call) -> Gradients:
    return [call.grad.internal("CastGradient", call.x, call.y)]


# Activations --------------------------------------------------------------------------------------


@rule("LeakyRelu")
def _leaky_relu(call: Call) -> Gradients:
    return [call.tape.where(call.x < 0.0, call.grad * call.attribute("alpha"), call.grad)]


def _exp_below_zero(call: Call, scale: float = 1.0) -> Term:
    """Return exp(x / scale) where x is negative, else 1: never too large."""
    below = call.tape.where(call.x < 0.0, call.x, 0.0)
    return (below / scale).apply("Exp")


@rule("Elu")
def _elu(call: Call) -> Gradients:
    below = call.grad * _exp_below_zero(call) * call.attribute("alpha")
    return [call.tape.where(call.x < 0.0, below, call.grad)]


@rule("Selu")
def _selu(call: Call) -> Gradients:
    below = _exp_below_zero(call) * call.attribute("alpha")
    slope = call.tape.where(call.x > 0.0, 1.0, below)
    return [call.grad * slope * call.attribute("gamma")]


@rule("Celu")
def _celu(call: Call) -> Gradients:
    return [call.grad * _exp_below_zero(call, call.attribute("alpha"))]


@rule("HardSigmoid")
def _hard_sigmoid(call: Call) -> Gradients:
    sloped = _step(call.y > 0.0, call.x) * _step(call.y < 1.0, call.x)
    return [call.grad * sloped * call.attribute("alpha")]


@decomposition("HardSwish")
def _hard_swish(call: Call) -> Gradients:
    return [call.x * call.x.apply("HardSigmoid", alpha=1 / 6, beta=0.5)]


@decomposition("Swish")
def _swish(call: Call) -> Gradients:
    return [call.x * (call.x * call.attribute("alpha")).apply("Sigmoid")]


@decomposition("SwiGLU")
def _swiglu(call: Call) -> Gradients:
    gate = call.x * (call.x * call.attribute("alpha")).apply("Sigmoid")
    return [gate * call[1]]


@decomposition("Mish")
def _mish(call: Call) -> Gradients:
    return [call.x * call.x.apply("Softplus").apply("Tanh")]


@decomposition("Gelu")
def _gelu(call: Call) -> Gradients:
    x = call.x
    if call.attribute("approximate") == "tanh":
        phi = 1.0 + (math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))).apply("Tanh")
    else:
        phi = 1.0 + (x * math.sqrt(0.5)).apply("Erf")
    return [0.5 * (x * phi)]


@rule("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Gradients:
    return [call.grad * _step(call.x > call.attribute("alpha"), call.x)]


@rule("Shrink")
def _shrink(call: Call) -> Gradients:
    return [call.grad * _step(call.x.apply("Abs") > call.attribute("lambd"), call.x)]


@rule("PRelu")
def _prelu(call: Call) -> Gradients:
    x, slope, grad = call.x, call[1], call.grad
    # Up to version 6 slopes (C,) belong to the channels of x (N, C, ...).
    aligned = slope.reshape(x.internal("AlignedShape", slope, axis=1)) if call.version < 7 else slope
    negative = x < 0.0
    to_slope = call.tape.where(negative, grad * x, 0.0).fit_like(aligned)
    return [call.tape.where(negative, grad * aligned, grad), to_slope.reshape(slope.shape)]


@rule("Clip")
def _clip(call: Call) -> Gradients:
    """Bounds pass the gradient on; where they cross, the upper one wins."""
    x, grad, where = call.x, call.grad, call.tape.where
    low, high = _bounds(call)
    raised = x if low is None else where(x < low, low, x)
    above = None if high is None else raised > high
    below = None if low is None else x < low
    to_x = grad
    to_low = to_high = None
    if above is not None and high is not None:
        to_high = where(above, grad, 0.0).sum_all()
        to_x = where(above, 0.0, to_x)
    if below is not None and low is not None:
        to_low = where(below, to_x, 0.0).sum_all()
        to_x = where(below, 0.0, to_x)
    if call.version < 11:
        return [to_x]
    bounds = zip((to_low, to_high), (call.get(1), call.get(2)), strict=True)
    return [to_x, *(g.reshape(b.shape) if g and b else None for g, b in bounds)]


def _bounds(call: Call) -> tuple[Term | None, Term | None]:
    """Return the lower and the upper bound as scalars; attributes up to version 6, then inputs."""
    if call.version < 11:
        limits = [call.attribute("min"), call.attribute("max")]
        low, high = (None if limit is None else call.x.coerce(limit) for limit in limits)
    else:
        low, high = (None if b is None else b.reshape([]) for b in (call.get(1), call.get(2)))
    return low, high


# Arithmetic ---------------------------------------------------------------------------------------


Binary = Callable[[Call, Term], tuple[Term, Term]]


def _binary(op_type: str) -> Callable[[Binary], None]:
    """Register a rule that gets the second input as it broadcasts, and returns unreduced gradients."""

    def register(function: Binary) -> None:
        @rule(op_type)
        def binary(call: Call) -> Gradients:
            b = call[1]
            if call.version < 7:  # broadcasts by `axis`
                b = b.reshape(call.x.internal("AlignedShape", b, axis=call.attribute("axis")))
            to_a, to_b = function(call, b)
            return [to_a.fit_like(call.x), to_b.fit_like(b).reshape(call[1].shape)]

    return register


@_binary("Add")
def _add(call: Call, b: Term) -> tuple[Term, Term]:
    return call.grad, call.grad


@_binary("Sub")
def _sub(call: Call, b: Term) -> tuple[Term, Term]:
    return call.grad, -call.grad


@_binary("Mul")
def _mul(call: Call, b: Term) -> tuple[Term, Term]:
    return call.grad * b, call.grad * call.x


@_binary("Div")
def _div(call: Call, b: Term) -> tuple[Term, Term]:
    to_a = call.grad / b
    return to_a, -(to_a * call.y)


@_binary("Pow")
def _pow(call: Call, b: Term) -> tuple[Term, Term]:
    x, y, where = call.x, call.y, call.tape.where
    exponent = b.apply("CastLike", x)
    # x ** 0 is constant: exponent 1 keeps x ** -1 out, whose infinity at 0 times 0 would be NaN.
    safe = where(exponent.equals(0.0), 1.0, exponent)
    to_x = call.grad * exponent * x.apply("Pow", safe - 1.0)
    # 0 ** b is constant for positive b, though its factor log(0) is not finite.
    to_b = call.grad * y * where(x.equals(0.0), 1.0, x).apply("Log")
    return to_x, to_b.internal("CastGradient", b, to_b)


@_binary("Mod")
def _mod(call: Call, b: Term) -> tuple[Term, Term]:
    quotient = ((call.x - call.y) / b).apply("Round")  # whole but for rounding, and constant nearby
    return call.grad, -(call.grad * quotient)


@rule("Where", of=(1, 2))
def _where(call: Call) -> Gradients:
    where = call.tape.where
    to_x = where(call.x, call.grad, 0.0).fit_like(call[1])
    return [None, to_x, where(call.x, 0.0, call.grad).fit_like(call[2])]


@rule("Sum")
def _sum(call: Call) -> Gradients:
    return [call.grad.fit_like(x) for x in call.inputs if x]


@rule("Mean")
def _mean(call: Call) -> Gradients:
    share = call.grad / float(len(call.inputs))
    return [share.fit_like(x) for x in call.inputs if x]


@rule("Max", "Min")
def _extreme(call: Call) -> Gradients:
    inputs = [x for x in call.inputs if x]
    chosen = [_step(x.equals(call.y), call.grad) for x in inputs]
    count = chosen[0]
    for other in chosen[1:]:
        count = count + other
    share = call.grad / count
    return [(share * mask).fit_like(x) for mask, x in zip(chosen, inputs, strict=True)]
