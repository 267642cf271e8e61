"""The instructions of elementwise programs, as functions of scalars and as the text that calls them.

Arithmetic comes as intrinsics that keep the type of their operands (Numba would widen int8 to int64).
bool is uint8 with the values 0 and 1; float16 and bfloat16 are float32 here, rounded after each
instruction (`round_float16`, `round_bfloat16`).
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import (
    F32,
    F64,
    I8,
    I32,
    I64,
    declare,
    double_as_long,
    emit_from_half,
    emit_to_bfloat,
    emit_to_half,
    float_as_int,
    int_as_float,
)

from . import _math
from ._math import inline

# --- arithmetic ----------------------------------------------------------------------------------


def _binary(on_floats, on_signed, on_unsigned=None):
    """Make an intrinsic of two values of one type, which the result has too."""

    @intrinsic
    def function(context, x, y):
        if isinstance(x, types.Float):
            emit = on_floats
        else:
            emit = on_signed if x.signed or on_unsigned is None else on_unsigned
        return x(x, x), lambda ctx, builder, signature, values: emit(builder, *values)

    return function


def _unary(on_floats, on_ints=None):
    @intrinsic
    def function(context, x):
        emit = on_floats if isinstance(x, types.Float) else on_ints
        return x(x), lambda ctx, builder, signature, values: emit(builder, *values)

    return function


def _comparison(sign, unordered=False):
    """Make an intrinsic that compares two values of one type, giving 0 or 1."""

    @intrinsic
    def function(context, x, y):
        def generate(ctx, builder, signature, values):
            if isinstance(x, types.Float):
                compare = builder.fcmp_unordered if unordered else builder.fcmp_ordered
            else:
                compare = builder.icmp_signed if x.signed else builder.icmp_unsigned
            return builder.zext(compare(sign, *values), I8)

        return types.uint8(x, x), generate

    return function


def _emit_extremum(sign):
    """Emit the greater or the smaller of two floats; a NaN wins."""

    def emit(builder, x, y):
        either = builder.select(builder.fcmp_unordered(sign, x, y), x, y)
        return builder.select(builder.fcmp_unordered("uno", y, y), y, either)

    return emit


def _emit_limit(sign):
    def emit(builder, x, y):
        return builder.select(builder.fcmp_unordered(sign, x, y), x, y)

    return emit


def _chosen(compare, sign):
    return lambda builder, x, y: builder.select(getattr(builder, compare)(sign, x, y), x, y)


_NARROW = {F32: "f32", F64: "f64"}


def _llvm(name):
    """Emit an LLVM intrinsic of one float."""

    def emit(builder, x):
        full = f"llvm.{name}.{_NARROW[x.type]}"
        return builder.call(declare(builder, full, x.type, [x.type]), [x])

    return emit


def _emit_abs(builder, x):
    zero = x.type(0)
    return builder.select(builder.icmp_signed("<", x, zero), builder.sub(zero, x), x)


add = _binary(lambda b, x, y: b.fadd(x, y), lambda b, x, y: b.add(x, y))
subtract = _binary(lambda b, x, y: b.fsub(x, y), lambda b, x, y: b.sub(x, y))
multiply = _binary(lambda b, x, y: b.fmul(x, y), lambda b, x, y: b.mul(x, y))
divide = _binary(lambda b, x, y: b.fdiv(x, y), None)
maximum = _binary(_emit_extremum(">="), _chosen("icmp_signed", ">="), _chosen("icmp_unsigned", ">="))
minimum = _binary(_emit_extremum("<="), _chosen("icmp_signed", "<="), _chosen("icmp_unsigned", "<="))
# The same where the second is no NaN: one instruction.
at_least = _binary(_emit_limit(">="), _chosen("icmp_signed", ">="), _chosen("icmp_unsigned", ">="))
at_most = _binary(_emit_limit("<="), _chosen("icmp_signed", "<="), _chosen("icmp_unsigned", "<="))
negative = _unary(lambda b, x: b.fneg(x), lambda b, x: b.neg(x))
absolute = _unary(_llvm("fabs"), _emit_abs)
square_root = _unary(_llvm("sqrt"))
floor = _unary(_llvm("floor"))
ceil = _unary(_llvm("ceil"))
round_even = _unary(_llvm("rint"))
truncate = _unary(_llvm("trunc"))

equal = _comparison("==")
less = _comparison("<")
less_equal = _comparison("<=")
greater = _comparison(">")
greater_equal = _comparison(">=")

bit_and = _binary(None, lambda b, x, y: b.and_(x, y))
bit_or = _binary(None, lambda b, x, y: b.or_(x, y))
bit_xor = _binary(None, lambda b, x, y: b.xor(x, y))
bit_not = _unary(None, lambda b, x: b.not_(x))


@intrinsic
def is_nan(context, x):
    def generate(ctx, builder, signature, values):
        return builder.zext(builder.fcmp_unordered("uno", values[0], values[0]), I8)

    return types.uint8(x), generate


@intrinsic
def select(context, condition, x, y):
    """x where the condition is not 0, else y."""

    def generate(ctx, builder, signature, values):
        return builder.select(builder.icmp_unsigned("!=", values[0], I8(0)), values[1], values[2])

    return x(types.uint8, x, x), generate


# --- integers ------------------------------------------------------------------------------------


def _emit_quotient(signed, remainder):
    """Emit a truncated quotient or its remainder; 0 where the divisor is 0, wrapped for the lowest by -1."""

    def emit(builder, x, y):
        kind = y.type
        is_zero = builder.icmp_unsigned("==", y, kind(0))
        risky = is_zero
        if signed:
            is_minus_one = builder.icmp_signed("==", y, kind(-1))
            risky = builder.or_(is_zero, is_minus_one)
        divisor = builder.select(risky, kind(1), y)
        if remainder:  # by 1 or -1 it is 0, and so it shall be by 0
            return (builder.srem if signed else builder.urem)(x, divisor)
        quotient = (builder.sdiv if signed else builder.udiv)(x, divisor)
        if signed:
            quotient = builder.select(is_minus_one, builder.neg(x), quotient)
        return builder.select(is_zero, kind(0), quotient)

    return emit


def _emit_floor_remainder(builder, x, y):
    """Emit the remainder with the sign of the divisor."""
    remainder = _emit_quotient(True, True)(builder, x, y)
    zero = y.type(0)
    differs = builder.icmp_signed("<", builder.xor(remainder, y), zero)
    wrong = builder.and_(differs, builder.icmp_signed("!=", remainder, zero))
    fixed = builder.select(wrong, builder.add(remainder, y), remainder)
    return builder.select(builder.icmp_signed("==", y, zero), zero, fixed)


quotient = _binary(None, _emit_quotient(True, False), _emit_quotient(False, False))
remainder = _binary(None, _emit_quotient(True, True), _emit_quotient(False, True))
floor_remainder = _binary(None, _emit_floor_remainder, _emit_quotient(False, True))


def _emit_shift(left, signed):
    """Emit a shift; by more bits than there are, or by a negative number, it leaves 0 or the sign."""

    def emit(builder, x, y):
        kind = y.type
        valid = builder.icmp_unsigned("<", y, kind(kind.width))
        if left or not signed:
            by = builder.select(valid, y, kind(0))
            shifted = (builder.shl if left else builder.lshr)(x, by)
            return builder.select(valid, shifted, kind(0))
        return builder.ashr(x, builder.select(valid, y, kind(kind.width - 1)))

    return emit


shift_left = _binary(None, _emit_shift(True, True), _emit_shift(True, False))
shift_right = _binary(None, _emit_shift(False, True), _emit_shift(False, False))


# --- conversions ---------------------------------------------------------------------------------


@intrinsic
def round_float16(context, x):
    def generate(ctx, builder, signature, values):
        return emit_from_half(builder, emit_to_half(builder, values[0]))

    return types.float32(types.float32), generate


@intrinsic
def round_bfloat16(context, x):
    def generate(ctx, builder, signature, values):
        bits = emit_to_bfloat(builder, values[0])
        return builder.bitcast(builder.shl(builder.zext(bits, I32), I32(16)), F32)

    return types.float32(types.float32), generate


def _converter(goal):
    """Make an intrinsic that converts ints to an int (low bits) or a float, and floats to a float."""

    @intrinsic
    def convert(context, x):
        def generate(ctx, builder, signature, values):
            (value,) = values
            kind = ctx.get_value_type(goal)
            if isinstance(x, types.Float):
                if kind is value.type:
                    return value
                return (builder.fpext if kind is F64 else builder.fptrunc)(value, kind)
            if isinstance(goal, types.Float):
                return (builder.sitofp if x.signed else builder.uitofp)(value, kind)
            if kind.width <= value.type.width:
                return value if kind.width == value.type.width else builder.trunc(value, kind)
            return (builder.sext if x.signed else builder.zext)(value, kind)

        return goal(x), generate

    return convert


_TYPES = {
    **{f"int{b}": getattr(types, f"int{b}") for b in (8, 16, 32, 64)},
    **{f"uint{b}": getattr(types, f"uint{b}") for b in (8, 16, 32, 64)},
    "float32": types.float32,
    "float64": types.float64,
}
CONVERTERS = {f"to_{name}": _converter(kind) for name, kind in _TYPES.items()}

_to_float32, _to_float64, _to_int32 = (CONVERTERS[f"to_{t}"] for t in ("float32", "float64", "int32"))

_EXPONENT_64, _FRACTION_64, _HIDDEN_64 = 0x7FF, (1 << 52) - 1, 1 << 52


@intrinsic
def _whole_64(context, x):
    """fptosi, of no meaning out of range."""
    return types.int64(types.float64), lambda ctx, builder, signature, values: builder.fptosi(values[0], I64)


@intrinsic
def _shift_left_64(context, x, by):
    """x << by for by in [0, 64), else 0."""
    return types.int64(types.int64, types.int64), lambda ctx, builder, signature, values: _emit_shift(
        True, True
    )(builder, *values)


@inline
def whole(x):
    """The integer part of a float64 modulo 2**64; 0 for infinities and NaN."""
    bits = double_as_long(x)
    exponent = (bits >> 52) & _EXPONENT_64
    large = _shift_left_64((bits & _FRACTION_64) | _HIDDEN_64, exponent - 1075)
    large = 0 if exponent == _EXPONENT_64 else large
    large = -large if bits < 0 else large
    return _whole_64(x) if exponent < 1086 else large


@intrinsic
def _whole_32(context, x):
    """fptosi, of no meaning out of range."""
    return types.int32(types.float32), lambda ctx, builder, signature, values: builder.fptosi(values[0], I32)


@inline
def whole32(x):
    """The integer part of a float32 modulo 2**32, as int32; 0 for infinities and NaN."""
    bits = float_as_int(x)
    exponent = _to_int32((bits >> 23) & 0xFF)
    large = shift_left(_to_int32((bits & 0x7FFFFF) | 0x800000), _to_int32(exponent - 150))
    large = _to_int32(-large) if bits < 0 else large
    return _whole_32(x) if exponent < 158 else large


@inline
def odd_float32(x):
    """A float64 as float32, rounded to odd: one more rounding, to 16 bits, is then right."""
    nearest = _to_float32(x)
    back = _to_float64(nearest)
    bits = float_as_int(nearest)
    inexact = (back != x) and (x == x)
    step = -1 if abs(back) > abs(x) else 1
    moved = int_as_float(_to_int32(bits + step))
    return moved if inexact and (bits & 1) == 0 else nearest


# --- functions -----------------------------------------------------------------------------------


def _libm(name, double):
    """Make an intrinsic that calls the C library."""
    kind, element = (types.float64, F64) if double else (types.float32, F32)
    symbol = name if double else name + "f"

    @intrinsic
    def one(context, x):
        def generate(ctx, builder, signature, values):
            return builder.call(declare(builder, symbol, element, [element]), values)

        return kind(kind), generate

    @intrinsic
    def two(context, x, y):
        def generate(ctx, builder, signature, values):
            return builder.call(declare(builder, symbol, element, [element] * 2), values)

        return kind(kind, kind), generate

    return two if name in ("pow", "fmod") else one


LIBM = ("sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "pow", "fmod")
_SERIES = ("exp", "log", "sin", "cos", "tanh", "erf")
_LIBM_64 = ("exp", "log", "tanh", "erf", "expm1", "log1p")
# Functions that call the C library, for all floats and for float64: no vector version of them is known.
SCALAR = tuple(name for name in LIBM if name not in ("sin", "cos"))
SCALAR_64 = ("sin", "cos", *_LIBM_64, "expm1_", "sigmoid", "silu", "softplus", "mish", "gelu", "gelu_tanh")
FUNCTIONS = {f"{name}64": _libm(name, True) for name in LIBM + _LIBM_64}
FUNCTIONS |= {f"{name}32": _libm(name, False) for name in LIBM}
FUNCTIONS |= {
    f"{name}32": getattr(_math, f"{name}32")
    for name in (
        "exp",
        "log",
        "sin",
        "cos",
        "tanh",
        "erf",
        "sigmoid",
        "silu",
        "softplus",
        "mish",
        "gelu",
        "gelu_tanh",
    )
}
FUNCTIONS["expm1_32"] = _math.expm1_32

_exp, _log1p, _tanh, _erf = (FUNCTIONS[f"{name}64"] for name in ("exp", "log1p", "tanh", "erf"))
FUNCTIONS["expm1_64"] = FUNCTIONS["expm164"]


@inline
def sigmoid64(x):
    tail = _exp(-abs(x))
    return (tail if x < 0 else 1.0) / (1.0 + tail)


@inline
def silu64(x):
    return x * sigmoid64(x)


@inline
def softplus64(x):
    return (0.0 if x < 0 else x) + _log1p(_exp(-abs(x)))


@inline
def mish64(x):
    return x * _tanh(softplus64(x))


@inline
def gelu64(x):
    return 0.5 * x * (1.0 + _erf(x / 1.4142135623730951))


@inline
def gelu_tanh64(x):
    return 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


@inline
def cube32(x):
    """x**3 rounded once."""
    wide = _to_float64(x)
    return _to_float32(wide * wide * wide)


_hard_swish = _math.activation32("HardSwish")


@inline
def hard_swish32(x):
    """x * max(0, min(1, x / 6 + 0.5)) within 1e-7 * |x|."""
    return _hard_swish(x, x, x)
