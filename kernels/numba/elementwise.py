"""Elementwise operators, each a program of one instruction; see `chain.py` for types and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from onnxref.lowering import BlockedUse, Op, Operand, Site, Unsupported, lower

from .chain import Instruction, Shape, blocked_use, emit_program, instruction

# `consumed_inputs` of version 1 is a hint for in-place execution; it never changes a result.
Hint = tuple[int, ...] | None


def _emit(
    site: Site,
    name: str,
    inputs: Sequence[Operand],
    attributes: dict[str, Any] | None = None,
    shapes: Sequence[Shape] | None = None,
) -> None:
    (y,) = site.outputs
    if y is not None:
        program = [instruction(name, range(len(inputs)), attributes)]
        emit_program(site, inputs, (y,), program, (len(inputs),), shapes=shapes)


# --- one tensor ----------------------------------------------------------------------------------


def _unary(op_type: str, since: tuple[int, ...]) -> None:
    @lower(op_type, since=since, blocked=blocked_use)
    def emit(site: Site, x: Operand, *, consumed_inputs: Hint = None) -> None:
        _emit(site, op_type, (x,))


for _op_type in ("Abs", "Ceil", "Floor", "Neg", "Reciprocal", "Sqrt", "Exp", "Log", "Tanh", "Sigmoid"):
    _unary(_op_type, (1, 6, 13))
for _op_type in ("Acos", "Asin", "Atan", "Cos", "Sin", "Tan"):
    _unary(_op_type, (7, 22))
for _op_type in ("Acosh", "Asinh", "Atanh", "Cosh", "Sinh"):
    _unary(_op_type, (9, 22))
for _op_type in ("Softplus", "Softsign"):
    _unary(_op_type, (1, 22))
for _op_type, _since in (
    ("Relu", (1, 6, 13, 14)),
    ("Sign", (9, 13)),
    ("Erf", (9, 13)),
    ("Round", (11, 22)),
    ("HardSwish", (14, 22)),
    ("Mish", (18, 22)),
    ("Not", (1,)),
    ("BitwiseNot", (18,)),
    ("IsNaN", (9, 13, 20)),
):
    _unary(_op_type, _since)


@lower("IsInf", since=(10, 20))
def is_inf(site: Site, x: Operand, *, detect_negative: int = 1, detect_positive: int = 1) -> None:
    _emit(
        site, "IsInf", (x,), {"negative": int(bool(detect_negative)), "positive": int(bool(detect_positive))}
    )


@lower("LeakyRelu", since=(1, 6, 16), blocked=blocked_use)
def leaky_relu(
    site: Site, x: Operand, *, alpha: float = 0.009999999776482582, consumed_inputs: Hint = None
) -> None:
    _emit(site, "LeakyRelu", (x,), {"alpha": alpha})


@lower("Elu", since=(1, 6, 22), blocked=blocked_use)
def elu(site: Site, x: Operand, *, alpha: float = 1.0, consumed_inputs: Hint = None) -> None:
    _emit(site, "Elu", (x,), {"alpha": alpha})


@lower("Selu", since=1, blocked=blocked_use)
def selu_1(
    site: Site,
    x: Operand,
    *,
    alpha: float = 1.673200011253357,
    gamma: float = 1.0506999492645264,
    consumed_inputs: Hint = None,
) -> None:
    _emit(site, "Selu", (x,), {"alpha": alpha, "gamma": gamma})


@lower("Selu", since=(6, 22), blocked=blocked_use)
def selu(
    site: Site, x: Operand, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323
) -> None:
    _emit(site, "Selu", (x,), {"alpha": alpha, "gamma": gamma})


@lower("Celu", since=(12, 28), blocked=blocked_use)
def celu(site: Site, x: Operand, *, alpha: float = 1.0) -> None:
    _emit(site, "Celu", (x,), {"alpha": alpha})


@lower("HardSigmoid", since=(1, 6, 22), blocked=blocked_use)
def hard_sigmoid(
    site: Site,
    x: Operand,
    *,
    alpha: float = 0.20000000298023224,
    beta: float = 0.5,
    consumed_inputs: Hint = None,
) -> None:
    _emit(site, "HardSigmoid", (x,), {"alpha": alpha, "beta": beta})


@lower("Swish", since=24, blocked=blocked_use)
def swish(site: Site, x: Operand, *, alpha: float = 1.0) -> None:
    _emit(site, "Swish", (x,), {"alpha": alpha})


@lower("SwiGLU", since=28)
def swiglu(site: Site, a: Operand, b: Operand, *, alpha: float = 1.0) -> None:
    _emit(site, "SwiGLU", (a, b), {"alpha": alpha})


@lower("Gelu", since=20, blocked=blocked_use)
def gelu(site: Site, x: Operand, *, approximate: str = "none") -> None:
    if approximate not in ("none", "tanh"):
        raise Unsupported(f"approximate {approximate}")
    _emit(site, "Gelu", (x,), {"approximate": approximate})


def _rounded(x: Operand, value: float) -> float:
    """Return an attribute rounded to the type of `x`, as thresholds are."""
    return float(np.asarray(value, np.float32).astype(x.dtype))


@lower("ThresholdedRelu", since=(10, 22), blocked=blocked_use)
def thresholded_relu(site: Site, x: Operand, *, alpha: float = 1.0) -> None:
    _emit(site, "ThresholdedRelu", (x,), {"alpha": _rounded(x, alpha)})


@lower("Shrink", since=9, blocked=blocked_use)
def shrink(site: Site, x: Operand, *, bias: float = 0.0, lambd: float = 0.5) -> None:
    if x.dtype.kind in "iu":
        raise Unsupported("integers")
    _emit(site, "Shrink", (x,), {"bias": _rounded(x, bias), "lambd": _rounded(x, lambd)})


# --- limits --------------------------------------------------------------------------------------


def _limits(x: Operand, low: float | None, high: float | None) -> dict[str, float | None]:
    """Return the bounds of Clip; absent ones of floats are the finite numbers of the type."""
    if x.dtype.name in ("float16", "float32", "float64", "bfloat16"):
        limits = ml_dtypes.finfo(x.dtype)  # type: ignore[no-untyped-call]
        low = float(limits.min) if low is None else low
        high = float(limits.max) if high is None else high
    if any(bound is not None and math.isnan(bound) for bound in (low, high)):
        raise Unsupported("a bound is NaN")
    return {"low": low, "high": high}


@lower("Clip", since=1, blocked=blocked_use)
def clip_1(
    site: Site,
    x: Operand,
    *,
    max: float | None = None,
    min: float | None = None,
    consumed_inputs: Hint = None,
) -> None:
    _emit(site, "Clip", (x,), _limits(x, min, max))


@lower("Clip", since=6, blocked=blocked_use)
def clip_6(
    site: Site, x: Operand, *, max: float = 3.4028234663852886e38, min: float = -3.4028234663852886e38
) -> None:
    _emit(site, "Clip", (x,), _limits(x, min, max))


def _blocked_clip(op: Op, lanes: int) -> BlockedUse | None:
    """Clip goes along with blocks where its bounds are constants."""
    if any(bound is not None and bound.constant is None for bound in op.inputs[1:]):
        return None
    return blocked_use(Op("Clip", op.inputs[:1], op.outputs), lanes)


@lower("Clip", since=(11, 12, 13), blocked=_blocked_clip)
def clip(site: Site, x: Operand, min: Operand | None = None, max: Operand | None = None) -> None:
    bounds = [bound for bound in (min, max) if bound is not None]
    if any(bound.size != 1 for bound in bounds):
        raise Unsupported("a bound of several elements")
    if all(bound.constant is not None for bound in bounds):
        low, high = (None if b is None or b.constant is None else b.constant.item() for b in (min, max))
        _emit(site, "Clip", (x,), _limits(x, low, high))
        return
    (y,) = site.outputs
    if y is None:
        return
    program: list[Instruction] = []
    value, at = 0, 1
    for name, key, bound in (("Max", "low", min), ("Min", "high", max)):
        if bound is not None:
            program.append(instruction(name, (value, at)))
            at += 1
        else:
            finite = {**_limits(x, None, None), ("high" if key == "low" else "low"): None}
            program.append(instruction("Clip", (value,), finite))
        value = len(bounds) + len(program)
    dtypes = [x.dtype.name] * (1 + len(bounds) + len(program))
    shapes = [x.shape, *((),) * len(bounds)]
    emit_program(site, (x, *bounds), (y,), program, (value,), dtypes, shapes)


# --- several tensors -----------------------------------------------------------------------------


def _aligned_shape(a: Operand, b: Operand, axis: int | None, broadcast: int) -> Shape:
    """Return the shape under which `b` broadcasts to `a` by the rules before version 7 (ONNX Add-6)."""
    if not broadcast:
        if a.shape != b.shape:
            raise Unsupported("different shapes without broadcast=1")
        return b.shape
    if b.size == 1 and b.ndim <= a.ndim:
        return ()
    start = a.ndim - b.ndim if axis is None else axis
    if start < 0 or start + b.ndim > a.ndim:
        raise Unsupported(f"axis {axis} for the shapes {a.shape} and {b.shape}")
    return b.shape + (1,) * (a.ndim - start - b.ndim)


Emit = Callable[[Site, Operand, Operand, Sequence[Shape] | None], None]


def _binary(
    op_type: str, since: tuple[int, ...], legacy: tuple[int, ...] = (), emit_two: Emit | None = None
) -> None:
    """Register an operator of A and B: broadcast both ways at `since`, by `axis` at the `legacy` versions."""

    def emit_plainly(site: Site, a: Operand, b: Operand, shapes: Sequence[Shape] | None) -> None:
        _emit(site, op_type, (a, b), shapes=shapes)

    emit_pair = emit_two or emit_plainly

    @lower(op_type, since=since, blocked=blocked_use)
    def emit(site: Site, a: Operand, b: Operand) -> None:
        emit_pair(site, a, b, None)

    if legacy:

        @lower(op_type, since=legacy)
        def emit_aligned(
            site: Site,
            a: Operand,
            b: Operand,
            *,
            axis: int | None = None,
            broadcast: int = 0,
            consumed_inputs: Hint = None,
        ) -> None:
            emit_pair(site, a, b, (a.shape, _aligned_shape(a, b, axis, broadcast)))


def _emit_power(site: Site, x: Operand, y: Operand, shapes: Sequence[Shape] | None) -> None:
    """A constant exponent that multiplication, division or a root can do is part of the instruction."""
    if y.constant is not None and y.size == 1 and y.ndim <= x.ndim:
        exponent = float(y.constant.item())
        if x.dtype.kind not in "iu":
            possible: tuple[float, ...] = (-1.0, 0.5, 1.0, 2.0, 3.0)
        else:  # an integer to a fraction's power saturates, a product of integers wraps
            possible = (1.0, 2.0, 3.0) if y.dtype.kind in "iu" else (1.0,)
        if exponent in possible:
            _emit(site, "Pow", (x,), {"exponent": exponent})
            return
    _emit(site, "Pow", (x, y), shapes=shapes)


for _op_type in ("Add", "Sub", "Mul", "Div"):
    _binary(_op_type, (7, 13, 14), (1, 6))
for _op_type in ("And", "Or", "Xor"):
    _binary(_op_type, (7,), (1,))
for _op_type in ("Greater", "Less"):
    _binary(_op_type, (7, 9, 13), (1,))
for _op_type in ("GreaterOrEqual", "LessOrEqual"):
    _binary(_op_type, (12, 16))
for _op_type in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
    _binary(_op_type, (18,))
_binary("Equal", (7, 11, 13, 19), (1,))
_binary("PRelu", (7, 9, 16))
_binary("Pow", (7, 12, 13, 15), (1,), _emit_power)


@lower("PRelu", since=(1, 6))
def prelu_by_channel(site: Site, x: Operand, slope: Operand, *, consumed_inputs: Hint = None) -> None:
    shape = slope.shape
    if slope.size == 1:
        shape = ()
    elif x.ndim > 1 and shape == x.shape[1:2]:
        shape = (*shape, *(1,) * (x.ndim - 2))
    elif shape != x.shape:
        raise Unsupported(f"a slope of shape {shape}")
    _emit(site, "PRelu", (x, slope), shapes=(x.shape, shape))


@lower("Mod", since=(10, 13))
def mod_10(site: Site, a: Operand, b: Operand, *, fmod: int = 0) -> None:
    if fmod not in (0, 1) or (a.dtype.kind not in "iu" and fmod != 1):
        raise Unsupported(f"fmod {fmod}")
    _emit(site, "Mod", (a, b), {"fmod": fmod})


@lower("Mod", since=28)
def mod(site: Site, a: Operand, b: Operand, *, fmod: int = 0) -> None:
    mod_10(site, a, b, fmod=fmod)


@lower("BitShift", since=(11, 28))
def bit_shift(site: Site, x: Operand, y: Operand, *, direction: str) -> None:
    if direction not in ("LEFT", "RIGHT"):
        raise Unsupported(f"direction {direction}")
    _emit(site, "BitShift", (x, y), {"direction": direction})


@lower("Where", since=(9, 16))
def where(site: Site, condition: Operand, x: Operand, y: Operand) -> None:
    _emit(site, "Where", (condition, x, y))


def _variadic(op_type: str, since: tuple[int, ...]) -> None:
    @lower(op_type, since=since, blocked=blocked_use)
    def emit(site: Site, *inputs: Operand) -> None:
        _emit(site, op_type, inputs)

    @lower(op_type, since=(1, 6))
    def emit_unbroadcast(site: Site, *inputs: Operand, consumed_inputs: Hint = None) -> None:
        if any(x.shape != inputs[0].shape for x in inputs):
            raise Unsupported("different shapes before version 8")
        _emit(site, op_type, inputs)


_variadic("Sum", (8, 13))
_variadic("Mean", (8, 13))
_variadic("Min", (8, 12, 13))
_variadic("Max", (8, 12, 13))
