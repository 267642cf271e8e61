"""Elementwise operators, nearly each a program of one instruction (ONNX, all versions).

Attributes, bounds and exponents are resolved here; how operands of different shapes are walked, and which
types an instruction takes, is a kernel set's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np

from onnxref.lowering import BlockedRule, Operand, Site, Unsupported

from .instructions import POWERS, EmitProgram, Instruction, Shape, instruction
from .rules import Rules

# `consumed_inputs` of version 1 is a hint for in-place execution; it never changes a result.
Hint: TypeAlias = tuple[int, ...] | None


class Program(NamedTuple):
    """What an operator computes: the last value of a program.

    Attributes:
        shapes: shapes under which the inputs are seen; None for their own.
        dtypes: of every value; None where there is one instruction, whose value is the output.
    """

    inputs: Sequence[Operand]
    instructions: Sequence[Instruction]
    shapes: Sequence[Shape] | None = None
    dtypes: Sequence[str] | None = None


_RULES: Rules[Program] = Rules()
_rule = _RULES.rule


def _single(
    name: str,
    inputs: Sequence[Operand],
    attributes: dict[str, Any] | None = None,
    shapes: Sequence[Shape] | None = None,
) -> Program:
    return Program(inputs, (instruction(name, range(len(inputs)), attributes),), shapes)


# --- one tensor ----------------------------------------------------------------------------------


def _unary(op_type: str, since: tuple[int, ...]) -> None:
    @_rule(op_type, since=since)
    def find(site: Site, x: Operand, *, consumed_inputs: Hint = None) -> Program:
        return _single(op_type, (x,))


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


@_rule("IsInf", since=(10, 20))
def is_inf(site: Site, x: Operand, *, detect_negative: int = 1, detect_positive: int = 1) -> Program:
    signs = {"negative": int(bool(detect_negative)), "positive": int(bool(detect_positive))}
    return _single("IsInf", (x,), signs)


@_rule("LeakyRelu", since=(1, 6, 16))
def leaky_relu(
    site: Site, x: Operand, *, alpha: float = 0.009999999776482582, consumed_inputs: Hint = None
) -> Program:
    return _single("LeakyRelu", (x,), {"alpha": alpha})


@_rule("Elu", since=(1, 6, 22))
def elu(site: Site, x: Operand, *, alpha: float = 1.0, consumed_inputs: Hint = None) -> Program:
    return _single("Elu", (x,), {"alpha": alpha})


@_rule("Selu", since=1)
def selu_1(
    site: Site,
    x: Operand,
    *,
    alpha: float = 1.673200011253357,
    gamma: float = 1.0506999492645264,
    consumed_inputs: Hint = None,
) -> Program:
    return _single("Selu", (x,), {"alpha": alpha, "gamma": gamma})


@_rule("Selu", since=(6, 22))
def selu(
    site: Site, x: Operand, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323
) -> Program:
    return _single("Selu", (x,), {"alpha": alpha, "gamma": gamma})


@_rule("Celu", since=(12, 28))
def celu(site: Site, x: Operand, *, alpha: float = 1.0) -> Program:
    return _single("Celu", (x,), {"alpha": alpha})


@_rule("HardSigmoid", since=(1, 6, 22))
def hard_sigmoid(
    site: Site,
    x: Operand,
    *,
    alpha: float = 0.20000000298023224,
    beta: float = 0.5,
    consumed_inputs: Hint = None,
) -> Program:
    return _single("HardSigmoid", (x,), {"alpha": alpha, "beta": beta})


@_rule("Swish", since=24)
def swish(site: Site, x: Operand, *, alpha: float = 1.0) -> Program:
    return _single("Swish", (x,), {"alpha": alpha})


@_rule("SwiGLU", since=28)
def swiglu(site: Site, a: Operand, b: Operand, *, alpha: float = 1.0) -> Program:
    return _single("SwiGLU", (a, b), {"alpha": alpha})


@_rule("Gelu", since=20)
def gelu(site: Site, x: Operand, *, approximate: str = "none") -> Program:
    if approximate not in ("none", "tanh"):
        raise Unsupported(f"approximate {approximate}")
    return _single("Gelu", (x,), {"approximate": approximate})


def _rounded(x: Operand, value: float) -> float:
    """Return an attribute rounded to the type of `x`, as thresholds are."""
    return float(np.asarray(value, np.float32).astype(x.dtype))


@_rule("ThresholdedRelu", since=(10, 22))
def thresholded_relu(site: Site, x: Operand, *, alpha: float = 1.0) -> Program:
    return _single("ThresholdedRelu", (x,), {"alpha": _rounded(x, alpha)})


@_rule("Shrink", since=9)
def shrink(site: Site, x: Operand, *, bias: float = 0.0, lambd: float = 0.5) -> Program:
    if x.dtype.kind in "iu":  # only the integer part of the bias counts
        if not math.isfinite(bias):
            raise Unsupported("a bias that is not finite")
        return _single("Shrink", (x,), {"bias": float(int(bias)), "lambd": lambd})
    return _single("Shrink", (x,), {"bias": _rounded(x, bias), "lambd": _rounded(x, lambd)})


# --- limits --------------------------------------------------------------------------------------


def _limits(x: Operand, low: float | None, high: float | None) -> dict[str, float | None]:
    """Return the bounds of Clip; absent ones of floats are the finite numbers of the type."""
    if x.dtype.name in ("float16", "float32", "float64", "bfloat16"):
        limits = ml_dtypes.finfo(x.dtype)  # type: ignore[no-untyped-call]
        low = float(limits.min) if low is None else low
        high = float(limits.max) if high is None else high
    return {"low": low, "high": high}


@_rule("Clip", since=1)
def clip_1(
    site: Site,
    x: Operand,
    *,
    max: float | None = None,
    min: float | None = None,
    consumed_inputs: Hint = None,
) -> Program:
    return _single("Clip", (x,), _limits(x, min, max))


@_rule("Clip", since=6)
def clip_6(
    site: Site, x: Operand, *, max: float = 3.4028234663852886e38, min: float = -3.4028234663852886e38
) -> Program:
    return _single("Clip", (x,), _limits(x, min, max))


@_rule("Clip", since=(11, 12, 13))
def clip(site: Site, x: Operand, min: Operand | None = None, max: Operand | None = None) -> Program:
    bounds = [bound for bound in (min, max) if bound is not None]
    if any(bound.size != 1 for bound in bounds):
        raise Unsupported("a bound of several elements")
    if all(bound.constant is not None for bound in bounds):
        low, high = (None if b is None or b.constant is None else b.constant.item() for b in (min, max))
        return _single("Clip", (x,), _limits(x, low, high))
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
    return Program((x, *bounds), program, [x.shape, *((),) * len(bounds)], dtypes)


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


_Pair = Callable[[Operand, Operand, Sequence[Shape] | None], Program]


def _binary(
    op_type: str, since: tuple[int, ...], legacy: tuple[int, ...] = (), pair: _Pair | None = None
) -> None:
    """Add an operator of A and B: broadcast both ways at `since`, by `axis` at the `legacy` versions."""

    def plainly(a: Operand, b: Operand, shapes: Sequence[Shape] | None) -> Program:
        return _single(op_type, (a, b), shapes=shapes)

    of_two = pair or plainly

    @_rule(op_type, since=since)
    def find(site: Site, a: Operand, b: Operand) -> Program:
        return of_two(a, b, None)

    if legacy:

        @_rule(op_type, since=legacy, goes_along=False)
        def find_aligned(
            site: Site,
            a: Operand,
            b: Operand,
            *,
            axis: int | None = None,
            broadcast: int = 0,
            consumed_inputs: Hint = None,
        ) -> Program:
            return of_two(a, b, (a.shape, _aligned_shape(a, b, axis, broadcast)))


def _power(x: Operand, y: Operand, shapes: Sequence[Shape] | None) -> Program:
    """A constant exponent that multiplication, division or a root can do is part of the instruction."""
    if y.constant is not None and y.size == 1 and y.ndim <= x.ndim:
        exponent = float(y.constant.item())
        possible: tuple[float, ...] = POWERS
        if x.dtype.kind in "iu":  # an integer to a fraction's power saturates, a product of integers wraps
            possible = (1.0, 2.0, 3.0) if y.dtype.kind in "iu" else (1.0,)
        if exponent in possible:
            return _single("Pow", (x,), {"exponent": exponent})
    return _single("Pow", (x, y), shapes=shapes)


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
_binary("Pow", (7, 12, 13, 15), (1,), _power)


@_rule("PRelu", since=(1, 6), goes_along=False)
def prelu_by_channel(site: Site, x: Operand, slope: Operand, *, consumed_inputs: Hint = None) -> Program:
    shape = slope.shape
    if slope.size == 1:
        shape = ()
    elif x.ndim > 1 and shape == x.shape[1:2]:
        shape = (*shape, *(1,) * (x.ndim - 2))
    elif shape != x.shape:
        raise Unsupported(f"a slope of shape {shape}")
    return _single("PRelu", (x, slope), shapes=(x.shape, shape))


@_rule("Mod", since=(10, 13))
def mod_10(site: Site, a: Operand, b: Operand, *, fmod: int = 0) -> Program:
    if a.dtype.kind not in "iu" and fmod != 1:
        raise Unsupported(f"fmod {fmod} for floats before version 28")
    return mod(site, a, b, fmod=fmod)


@_rule("Mod", since=28)
def mod(site: Site, a: Operand, b: Operand, *, fmod: int = 0) -> Program:
    if fmod not in (0, 1):
        raise Unsupported(f"fmod {fmod}")
    return _single("Mod", (a, b), {"fmod": fmod})


@_rule("BitShift", since=(11, 28))
def bit_shift(site: Site, x: Operand, y: Operand, *, direction: str) -> Program:
    if direction not in ("LEFT", "RIGHT"):
        raise Unsupported(f"direction {direction}")
    return _single("BitShift", (x, y), {"direction": direction})


@_rule("Where", since=(9, 16))
def where(site: Site, condition: Operand, x: Operand, y: Operand) -> Program:
    return _single("Where", (condition, x, y))


def _variadic(op_type: str, since: tuple[int, ...]) -> None:
    @_rule(op_type, since=since)
    def find(site: Site, *inputs: Operand) -> Program:
        return _single(op_type, inputs)

    @_rule(op_type, since=(1, 6), goes_along=False)
    def find_unbroadcast(site: Site, *inputs: Operand, consumed_inputs: Hint = None) -> Program:
        if any(x.shape != inputs[0].shape for x in inputs):
            raise Unsupported("different shapes before version 8")
        return _single(op_type, inputs)


_variadic("Sum", (8, 13))
_variadic("Mean", (8, 13))
_variadic("Min", (8, 12, 13))
_variadic("Max", (8, 12, 13))


def register(backend: str, emit_program: EmitProgram, blocked: BlockedRule) -> None:
    """Register the lowerings of all elementwise operators of a kernel set."""

    def emit(site: Site, asked: Program) -> None:
        (y,) = site.outputs
        if y is not None:
            last = len(asked.inputs) + len(asked.instructions) - 1
            emit_program(site, asked.inputs, (y,), asked.instructions, (last,), asked.dtypes, asked.shapes)

    _RULES.register(backend, emit, blocked)
