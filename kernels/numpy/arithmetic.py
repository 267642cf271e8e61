"""Element-wise functions of several tensors: arithmetic, comparison, logic, bits, Where."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array, DType
from onnxref.errors import KernelError
from onnxref.registry import Cost, op

from ._checks import broadcast_shape, check_choice
from ._common import in_float32, narrow, to_integers, widen

Binary = Callable[[Array, Array], Any]
# `consumed_inputs` of version 1 is a hint for in-place execution; it never changes a result.
Hint = tuple[int, ...] | None


def _cost(output: DType | None = None, copies: int = 0) -> Callable[..., Cost]:
    """Return a cost rule for broadcast inputs; `copies` counts temporaries of the output's shape."""

    def rule(*inputs: Array, **attributes: Any) -> Cost:
        elements = math.prod(broadcast_shape(*(x.shape for x in inputs)))
        dtype = inputs[0].dtype
        wide = 4 if dtype in LOW_PRECISION else 0
        return Cost(
            elements * (output or dtype).itemsize, elements * (wide + copies * max(4, dtype.itemsize))
        )

    return rule


def _align(a: Array, b: Array, axis: int | None, broadcast: int) -> Array:
    """Return `b` reshaped so that it broadcasts to `a` by the rules before version 7 (ONNX Add-6).

    Without `broadcast` the shapes must be equal. With it, `b` has one element, or its dimensions are
    those of `a` from `axis` on (the last ones where there is no axis), any of them 1.
    """
    if not broadcast:
        if a.shape != b.shape:
            raise KernelError(
                f"inputs must have equal shapes without broadcast=1 (got {a.shape} and {b.shape})"
            )
        return b
    if b.size == 1 and b.ndim <= a.ndim:
        return b.reshape(())
    start = a.ndim - b.ndim if axis is None else axis
    matched = a.shape[start : start + b.ndim] if start >= 0 else ()
    if len(matched) != b.ndim or any(n not in (1, d) for n, d in zip(b.shape, matched, strict=True)):
        raise KernelError(
            f"the second shape must match the first from axis {start} (got {a.shape} and {b.shape})"
        )
    return b.reshape(b.shape + (1,) * (a.ndim - start - b.ndim))


def _register(
    op_type: str,
    function: Binary,
    since: tuple[int, ...],
    cost: Callable[..., Cost],
    legacy: tuple[int, ...],
) -> None:
    """Register a function of A and B: broadcast both ways at `since`, by `axis` at the `legacy` versions."""

    @op(op_type, since=since, cost=cost)
    def kernel(a: Array, b: Array) -> Any:
        broadcast_shape(a.shape, b.shape)
        return function(a, b)

    if legacy == (1,):

        @op(op_type, since=1)
        def aligned(a: Array, b: Array, *, axis: int | None = None, broadcast: int = 0) -> Any:
            return function(a, _align(a, b, axis, broadcast))

    elif legacy:

        @op(op_type, since=legacy)
        def aligned_hinted(
            a: Array, b: Array, *, axis: int | None = None, broadcast: int = 0, consumed_inputs: Hint = None
        ) -> Any:
            return function(a, _align(a, b, axis, broadcast))


def _divide(a: Array, b: Array) -> Any:
    """Divide; integers truncate toward zero, and a zero divisor gives 0."""
    if a.dtype.kind not in "iu":
        return a / b
    # Without its remainder the dividend is a multiple, which no rounding rule can change.
    return (a - np.fmod(a, b)) // b


def _compare(function: Binary) -> Binary:
    # Widening is exact, so it cannot change an answer. Strings compare as Python objects.
    return lambda a, b: function(widen(a), widen(b))


_TRUTH = _cost(np.dtype(bool))
_BINARY: tuple[tuple[str, Binary, tuple[int, ...], Callable[..., Cost], tuple[int, ...]], ...] = (
    ("Add", in_float32(np.add), (7, 13, 14), _cost(), (1, 6)),
    ("Sub", in_float32(np.subtract), (7, 13, 14), _cost(), (1, 6)),
    ("Mul", in_float32(np.multiply), (7, 13, 14), _cost(), (1, 6)),
    ("Div", in_float32(_divide), (7, 13, 14), _cost(copies=2), (1, 6)),
    ("Equal", _compare(np.equal), (7, 11, 13, 19), _TRUTH, (1,)),
    ("Greater", _compare(np.greater), (7, 9, 13), _TRUTH, (1,)),
    ("GreaterOrEqual", _compare(np.greater_equal), (12, 16), _TRUTH, ()),
    ("Less", _compare(np.less), (7, 9, 13), _TRUTH, (1,)),
    ("LessOrEqual", _compare(np.less_equal), (12, 16), _TRUTH, ()),
    ("And", np.logical_and, (7,), _TRUTH, (1,)),
    ("Or", np.logical_or, (7,), _TRUTH, (1,)),
    ("Xor", np.logical_xor, (7,), _TRUTH, (1,)),
    ("BitwiseAnd", np.bitwise_and, (18,), _cost(), ()),
    ("BitwiseOr", np.bitwise_or, (18,), _cost(), ()),
    ("BitwiseXor", np.bitwise_xor, (18,), _cost(), ()),
)
for _row in _BINARY:
    _register(*_row)


@in_float32
def _modulo(a: Array, b: Array, fmod: int) -> Any:
    check_choice(fmod, (0, 1), "fmod")
    broadcast_shape(a.shape, b.shape)
    return np.fmod(a, b) if fmod else np.remainder(a, b)


@op("Mod", since=(10, 13), cost=_cost())
def mod_10(a: Array, b: Array, *, fmod: int = 0) -> Any:
    """Return the remainder with the sign of B, or of A with fmod, which floats need (ONNX Mod-13)."""
    if a.dtype.kind not in "iu" and fmod != 1:
        raise KernelError(f"fmod must be 1 for floating-point inputs before version 28 (got {fmod})")
    return _modulo(a, b, fmod)


@op("Mod", since=28, cost=_cost())
def mod(a: Array, b: Array, *, fmod: int = 0) -> Any:
    """Return A - floor(A / B) * B, or with trunc for floor where fmod is 1 (ONNX Mod-28)."""
    return _modulo(a, b, fmod)


@op("BitShift", since=(11, 28), cost=_cost(copies=4))
def bit_shift(x: Array, y: Array, *, direction: str) -> Any:
    """Shift the bits of X by Y, arithmetically where X is signed (ONNX BitShift-28)."""
    check_choice(direction, ("LEFT", "RIGHT"), "direction")
    broadcast_shape(x.shape, y.shape)
    bits = 8 * x.dtype.itemsize
    valid = (y >= 0) & (y < bits)
    if direction == "LEFT":
        return np.left_shift(x, y * valid) * valid
    # By all bits but one, a signed shift leaves copies of the sign.
    shifted = np.right_shift(x, np.where(valid, y, y.dtype.type(bits - 1)))
    return shifted if x.dtype.kind == "i" else shifted * valid


def _power(x: Array, y: Array) -> Array:
    """Return x ** y in the type of x; see `pow_` for the rules."""
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        return _integer_power(x, y)
    if x.dtype.kind in "iu":
        return to_integers(np.power(x.astype(np.float64), y.astype(np.float64)), x.dtype)
    base, exponent = widen(x), widen(y)
    # An int32 or wider exponent takes the computation to float64: float32 would lose its parity.
    return narrow(np.power(base, exponent, dtype=np.result_type(base, exponent)), x.dtype)


def _integer_power(x: Array, y: Array) -> Array:
    # Squaring: exact modulo 2**bits for any pair of types, in at most 64 steps.
    left = np.maximum(y, 0).astype(np.uint64)
    result = np.ones(broadcast_shape(x.shape, y.shape), x.dtype)
    factor = x
    while left.any():
        result = np.where(left & np.uint64(1), result * factor, result)
        left = left >> np.uint64(1)
        factor = factor * factor
    # x ** -n is an integer only for 1 and -1, and truncates to 0 otherwise (also for 0).
    one = x.dtype.type(1)
    reciprocal = np.where(np.abs(x) == one, np.where(y & 1, x, one), x.dtype.type(0))
    return np.where(y < 0, reciprocal, result)


@op("Pow", since=1)
def pow_1(x: Array, y: Array, *, axis: int | None = None, broadcast: int = 0) -> Array:
    """Return X to the power Y, Y aligned to X by `axis` (ONNX Pow-1)."""
    return _power(x, _align(x, y, axis, broadcast))


@op("Pow", since=(7, 12, 13, 15), cost=_cost(copies=4))
def pow_(x: Array, y: Array) -> Array:
    """Return X to the power Y in the type of X (ONNX Pow-15).

    Integer powers wrap; an integer base with a floating-point exponent goes through float64 and is
    truncated toward zero, as are negative powers of integers.
    """
    broadcast_shape(x.shape, y.shape)
    return _power(x, y)


def _fold(function: Binary) -> Callable[..., Any]:
    return in_float32(lambda *inputs: functools.reduce(function, inputs))


@in_float32
def _mean(*inputs: Array) -> Any:
    return functools.reduce(np.add, inputs) / len(inputs)


def _register_variadic(op_type: str, function: Callable[..., Any], since: tuple[int, ...]) -> None:
    """Register a function of one or more tensors: broadcasting since 8, of equal shapes before."""

    @op(op_type, since=since, cost=_cost(copies=1))
    def kernel(*data_0: Array) -> Any:
        broadcast_shape(*(x.shape for x in data_0))
        return function(*data_0)

    @op(op_type, since=(1, 6))
    def unbroadcast(*data_0: Array, consumed_inputs: Hint = None) -> Any:
        shape = broadcast_shape(*(x.shape for x in data_0))
        for x in data_0:
            if x.shape != shape:
                raise KernelError(
                    f"inputs must have equal shapes before version 8 (got {x.shape} and {shape})"
                )
        return function(*data_0)


_register_variadic("Sum", _fold(np.add), (8, 13))
_register_variadic("Mean", _mean, (8, 13))
_register_variadic("Min", _fold(np.minimum), (8, 12, 13))
_register_variadic("Max", _fold(np.maximum), (8, 12, 13))


def _where_cost(condition: Array, x: Array, y: Array) -> Cost:
    return Cost.of(broadcast_shape(condition.shape, x.shape, y.shape), x.dtype)


@op("Where", since=(9, 16), cost=_where_cost)
def where(condition: Array, x: Array, y: Array) -> Array:
    """Return X where the condition holds, else Y; all three broadcast (ONNX Where-16)."""
    broadcast_shape(condition.shape, x.shape, y.shape)
    return np.where(condition, x, y)
