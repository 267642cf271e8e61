"""Functions of one float32 that a loop over elements turns into vector code.

None of them branches, so LLVM vectorises any plain loop that calls them; they are always inlined.
The errors named below are the largest over dense samples of all finite inputs, in units in the last
place of float32 (`tests/kernels/numba/test_numba_math.py` holds them to it), half as much again on
processors without fused multiply-add; below 1e-36, where a factor may be denormal, within 1e-43 unless
they say other. NaN gives NaN, infinities give the limit, as in NumPy.

Coefficients are weighted least-maximum fits made in float64 for the interval that each comment names.
The range reduction of exp, in two steps by a short and a long part of ln 2, is that of Cody and Waite.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float32, int32, types
from numba.extending import intrinsic

from onnxref.native._target import target
from onnxref.native.ops import F32, F64, I32, called, declare, float_as_int, int_as_float

inline = called(forceinline=True, fastmath={"contract"})
"""Decorator of functions that loops call for every element: inlined whatever their size."""

_ZERO, _HALF, _ONE, _TWO = (np.float32(v) for v in (0, 0.5, 1, 2))
_INF, _NAN = np.float32(math.inf), np.float32(math.nan)
_SIGN, _MAGNITUDE = np.int32(-(2**31)), np.int32(2**31 - 1)


# --- bits ----------------------------------------------------------------------------------------


@inline
def copy_sign(x, sign):
    """`x`, which must not be negative, with the sign of `sign`."""
    return int_as_float(int32(float_as_int(x) | int32(float_as_int(sign) & _SIGN)))


@intrinsic
def _ldexp(context, x, n):
    def generate(ctx, builder, signature, values):
        function = declare(builder, "llvm.ldexp.f32.i32", F32, [F32, I32])
        return builder.call(function, values)

    return types.float32(types.float32, types.int32), generate


@inline
def _scale_by_halves(x, n):
    """x * 2**n for n in [-252, 254], rounded once: in two steps, for 2**n may be out of range."""
    half = int32(n >> int32(1))
    first = int_as_float(int32(int32(half + int32(127)) << int32(23)))
    second = int_as_float(int32(int32(int32(n - half) + int32(127)) << int32(23)))
    return x * first * second


# AVX-512 has an instruction for it; elsewhere the intrinsic would become a call per element.
_scale = _ldexp if target().lanes == 16 else _scale_by_halves


@intrinsic
def fused(context, x, y, z):
    """x * y + z, rounded once where the processor can do that fast."""
    return types.float32(*[types.float32] * 3), lambda ctx, builder, signature, values: builder.call(
        declare(builder, "llvm.fmuladd.f32", F32, [F32] * 3), values
    )


# --- exponential ---------------------------------------------------------------------------------

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(1.5 * 2**23)  # added and taken away, it leaves an integer; its bits hold that integer
_ROUND_BITS = np.int32(np.float32(1.5 * 2**23).view(np.int32))
# (exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2 (error 3.3e-9 of exp)
_E0, _E1, _E2, _E3, _E4 = (
    np.float32(v)
    for v in (
        0.4999999403953552,
        0.16666515171527863,
        0.04166845604777336,
        0.008369418792426586,
        0.0013813144760206342,
    )
)
_EXP_MIN, _EXP_MAX = np.float32(-104), np.float32(89)


@inline
def _split(x):
    """(n, r) with x = n * ln(2) + r and |r| <= ln(2) / 2, for |x| < 2**21."""
    shifted = fused(x, _LOG2_E, _ROUND)
    n = shifted - _ROUND
    r = fused(n, -_LN2_HIGH, x)
    return int32(float_as_int(shifted) - _ROUND_BITS), fused(n, -_LN2_LOW, r)


@inline
def _series(r):
    """(exp(r) - 1 - r) / r**2"""
    p = fused(_E4, r, _E3)
    p = fused(p, r, _E2)
    p = fused(p, r, _E1)
    return fused(p, r, _E0)


@inline
def _reduce(x):
    """(n, exp(r) - 1) with x = n * ln(2) + r, for |x| < 2**21."""
    n, r = _split(x)
    return n, fused(_series(r), r * r, r)


@inline
def _exp_within(x):
    """exp(x) for -104 <= x <= 89 within 1 ulp."""
    n, r = _split(x)
    return _scale(fused(fused(_series(r), r, _ONE), r, _ONE), n)


@inline
def exp32(x):
    """exp(x) within 1 ulp; overflows to infinity, underflows through the denormals to 0."""
    x = _EXP_MIN if x < _EXP_MIN else x
    x = _EXP_MAX if x > _EXP_MAX else x
    return _exp_within(x)


@inline
def _exp_tail(x):
    """exp(x) for x <= 0 within 1 ulp."""
    return _exp_within(_EXP_MIN if x < _EXP_MIN else x)


@inline
def _expm1_tail(x):
    """exp(x) - 1 for -100 < x <= 0 within 2 ulp: 2**n * (p + 1) - 1, where 2**n - 1 is all but exact."""
    x = _EXPM1_MIN if x < _EXPM1_MIN else x
    n, p = _reduce(x)
    power = int_as_float(int32(int32(n + int32(127)) << int32(23)))
    return fused(p, power, power - _ONE)


_EXPM1_MIN = np.float32(-40)  # -1 from -17.4 on


@inline
def expm1_32(x):
    """exp(x) - 1 within 2 ulp for x <= 0; 0 for x above 0, where Elu and its kin do not ask."""
    least = _ZERO if x > _ZERO else x
    return copy_sign(abs(_expm1_tail(least)), x)


# --- logarithm -----------------------------------------------------------------------------------

_SMALLEST_NORMAL = np.float32(2.0**-126)
_UP, _UP_LOG2 = np.float32(2.0**24), np.float32(24)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_EXPONENT_MASK = np.int32(-(2**23))
# (log(1 + z) - z + z**2 / 2) / z**3 for sqrt(1/2) <= 1 + z <= sqrt(2) (error 7.5e-10 of the logarithm)
_L = tuple(
    np.float32(v)
    for v in (
        0.33333312604081494,
        -0.2500000959933355,
        0.20002118657727358,
        -0.16667995856738493,
        0.14219552381446263,
        -0.12405588883516046,
        0.11888162096497137,
        -0.11675651971942647,
        0.06746641056221665,
    )
)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = _L


@inline
def log32(x):
    """log(x) within 1 ulp; -infinity for zeros, NaN for negative numbers."""
    small = x < _SMALLEST_NORMAL
    scaled = x * _UP if small else x
    offset = -_UP_LOG2 if small else _ZERO
    bits = float_as_int(scaled)
    exponent = int32(int32(bits - _SQRT_HALF_BITS) & _EXPONENT_MASK)
    z = int_as_float(int32(bits - exponent)) - _ONE
    n = float32(int32(exponent >> int32(23))) + offset
    p = fused(_L8, z, _L7)
    p = fused(p, z, _L6)
    p = fused(p, z, _L5)
    p = fused(p, z, _L4)
    p = fused(p, z, _L3)
    p = fused(p, z, _L2)
    p = fused(p, z, _L1)
    p = fused(p, z, _L0)
    square = z * z
    low = fused(p, z * square, n * _LN2_LOW)
    y = fused(n, _LN2_HIGH, fused(square, -_HALF, low) + z)
    y = y if x < _INF else x  # infinity and NaN
    y = y if x != _ZERO else -_INF
    return _NAN if x < _ZERO else y


# (atanh(s) / s - 1) / s**2 in s**2, for s <= 1/3 (error 1.1e-10)
_A0, _A1, _A2, _A3, _A4 = (
    np.float32(v)
    for v in (
        0.3333333781095667,
        0.19999438873428332,
        0.14308442364049334,
        0.10713829177347702,
        0.12150466709732768,
    )
)


@inline
def _log1p_tail(u):
    """log(1 + u) for 0 <= u <= 1 within 2 ulp, as 2 * atanh(u / (2 + u))."""
    s = u / (u + _TWO)
    square = s * s
    p = fused(_A4, square, _A3)
    p = fused(p, square, _A2)
    p = fused(p, square, _A1)
    p = fused(p, square, _A0)
    return _TWO * fused(p * square, s, s)


# --- sine and cosine -----------------------------------------------------------------------------


def _two_over_pi(bits):
    """floor(2 / pi * 2**bits), with pi by Machin's formula."""
    one = 1 << (bits + 64)

    def arctan_of_inverse(n):
        term, total, k = one // n, one // n, 3
        while term:
            term //= -n * n
            total += term // k
            k += 2
        return total

    pi = 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))
    return (one << (bits + 1)) // pi


def _pieces(bits, count):
    """1 / (2 pi) as `count` float64 of some bits each."""
    whole = bits * count
    rest = _two_over_pi(whole + 2)  # of 1 / (2 pi): the same bits, two places further
    pieces = []
    for i in range(count - 1, -1, -1):
        high = rest >> (bits * i + 4)
        pieces.append(math.ldexp(high, bits * i - whole))
        rest -= high << (bits * i + 4)
    return pieces


# A product with the 24 bits of a float32 is exact. 174 bits are what the largest one needs.
_TURN_0, _TURN_1, _TURN_2, _TURN_3, _TURN_4, _TURN_5 = _pieces(29, 6)
_TWO_PI = 2 * math.pi
_SINE_1, _SINE_2, _SINE_3 = (np.float32(v) for v in (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4))
_COSINE_1, _COSINE_2, _COSINE_3 = (
    np.float32(v) for v in (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)
)


@intrinsic
def _nearest(context, x):
    return types.float64(types.float64), lambda ctx, builder, signature, values: builder.call(
        declare(builder, "llvm.rint.f64", F64, [F64]), values
    )


@inline
def _past_whole(x, piece):
    """x * piece without its whole part: exact."""
    product = x * piece
    return product - _nearest(product)


@inline
def _turn(x):
    """(quarter turns, what is left in radians) of any finite x, after Payne and Hanek.

    The first quarters go away before the small pieces come: so little is lost where almost nothing is left.
    """
    wide = types.float64(x)
    first = _past_whole(wide, _TURN_0)
    quarters = _nearest(4.0 * first)
    rest = first - 0.25 * quarters + _past_whole(wide, _TURN_1) + _past_whole(wide, _TURN_2)
    rest += _past_whole(wide, _TURN_3) + _past_whole(wide, _TURN_4) + _past_whole(wide, _TURN_5)
    more = _nearest(4.0 * rest)
    rest -= 0.25 * more
    return int32(quarters + more), types.float32(rest * _TWO_PI)


@inline
def _wave(turns, r):
    """sin(r + turns * pi / 2) for |r| <= pi / 4."""
    square = r * r
    sine = fused(fused(fused(_SINE_3, square, _SINE_2), square, _SINE_1) * square, r, r)
    tail = fused(fused(fused(_COSINE_3, square, _COSINE_2), square, _COSINE_1), square, -_HALF)
    cosine = fused(tail, square, _ONE)
    value = cosine if turns & int32(1) else sine
    return -value if turns & int32(2) else value


@inline
def sin32(x):
    """sin(x) within 2 ulp; NaN of infinities."""
    turns, r = _turn(x)
    y = _wave(turns, r)
    y = x if x == _ZERO else y  # with its sign
    return y if abs(x) < _INF else _NAN


@inline
def cos32(x):
    """cos(x) within 2 ulp; NaN of infinities."""
    turns, r = _turn(x)
    y = _wave(int32(turns + int32(1)), r)
    return y if abs(x) < _INF else _NAN


# --- sigmoid and its kin -------------------------------------------------------------------------


@inline
def sigmoid32(x):
    """1 / (1 + exp(-x)) within 3 ulp; 0 where it is less than 3e-39."""
    return _ONE / (_ONE + exp32(-x))


@inline
def silu32(x):
    """x * sigmoid(x) within 3 ulp; -0 where it is less than 3e-37 and x < 0, NaN at -infinity."""
    return x / (_ONE + exp32(-x))


@inline
def tanh32(x):
    """tanh(x) within 3 ulp."""
    e = _expm1_tail(_TWO * -abs(x))
    return copy_sign(abs(e / (_TWO + e)), x)


@inline
def softplus32(x):
    """log(1 + exp(x)) within 3 ulp."""
    return (_ZERO if x < _ZERO else x) + _log1p_tail(_exp_tail(-abs(x)))


@inline
def mish32(x):
    """x * tanh(softplus(x)) within 5 ulp.

    With t = exp(-|x|) the tangent is (t**2 + 2t) / (t**2 + 2t + 2) below 0,
    (1 + 2t) / (1 + 2t + 2t**2) above.
    """
    t = _exp_tail(-abs(x))
    below = x < _ZERO
    over = t * (t + _TWO) if below else _ONE + _TWO * t
    return x * (over / (over + _TWO * (_ONE if below else t * t)))


# --- error function ------------------------------------------------------------------------------

# erf(x) / x - 1 in x**2, for |x| <= 1 (error 1.2e-9)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (
    np.float32(v)
    for v in (
        0.12837916591376794,
        -0.37612627136087784,
        0.11283600177689834,
        -0.026854444653318602,
        0.0051895354582124536,
        -0.0008020842339517046,
        7.889123072800167e-05,
    )
)
# log(1 - erf(x)) for 0.9 <= x <= 4.1 (error 1.6e-9 of erf); erf is 1 from 3.92 on
_T0, _T1, _T2, _T3, _T4, _T5, _T6 = (
    np.float32(v)
    for v in (
        -0.00017749611158403465,
        -1.1277495561381694,
        -0.6370597643284392,
        -0.10403734931916812,
        0.022277081872553672,
        -0.0030556061854719718,
        0.00019718157759516676,
    )
)
_ERF_SPLIT, _ERF_MAX = np.float32(0.95), np.float32(4.1)


@inline
def erf32(x):
    """The error function within 2 ulp."""
    size = abs(x)
    square = x * x
    core = fused(_C6, square, _C5)
    core = fused(core, square, _C4)
    core = fused(core, square, _C3)
    core = fused(core, square, _C2)
    core = fused(core, square, _C1)
    core = fused(core, square, _C0)
    core = fused(core, x, x)
    size = _ERF_MAX if size > _ERF_MAX else size
    tail = fused(_T6, size, _T5)
    tail = fused(tail, size, _T4)
    tail = fused(tail, size, _T3)
    tail = fused(tail, size, _T2)
    tail = fused(tail, size, _T1)
    tail = fused(tail, size, _T0)
    n, p = _reduce(tail)
    power = int_as_float(int32(int32(n + int32(127)) << int32(23)))
    outer = copy_sign(abs(fused(-power, p, _ONE - power)), x)
    return outer if size > _ERF_SPLIT else core


# exp(t**2 / 2) * F(-t), F the normal distribution function, in (t - 3) / (t + 3) for t <= 15 (error 1.1e-8)
_G0, _G1, _G2, _G3, _G4, _G5, _G6, _G7, _G8, _G9 = (
    np.float32(v)
    for v in (
        0.1215139473911574,
        -0.2064026219139442,
        0.12322505227497116,
        -0.0462132344815348,
        0.006131811277595796,
        0.002904213738970158,
        -0.0009828224356746012,
        -0.00033854603670050777,
        0.00011450462973557671,
        5.267649948151284e-05,
    )
)
_GELU_MAX, _THREE = np.float32(15), np.float32(3)


@inline
def gelu32(x):
    """x times the normal distribution function of x, within 4 + x**2 / 2 ulp for x < 0, 4 ulp above.

    As max(x, 0) - |x| * F(-|x|), in which nothing cancels. NaN at -infinity.
    """
    t = abs(x)
    t = _GELU_MAX if t > _GELU_MAX else t
    q = (t - _THREE) / (t + _THREE)
    p = fused(_G9, q, _G8)
    p = fused(p, q, _G7)
    p = fused(p, q, _G6)
    p = fused(p, q, _G5)
    p = fused(p, q, _G4)
    p = fused(p, q, _G3)
    p = fused(p, q, _G2)
    p = fused(p, q, _G1)
    p = fused(p, q, _G0)
    tail = p * _exp_tail(t * t * -_HALF)
    return x * tail if x < _ZERO else fused(-t, tail, x)


_GT_LINEAR, _GT_CUBIC = (
    np.float32(-2 * math.sqrt(2 / math.pi)),
    np.float32(-2 * math.sqrt(2 / math.pi) * 0.044715),
)


@inline
def gelu_tanh32(x):
    """The approximation of Gelu by tanh: x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x**3)).

    Within 8 + |x|**3 / 4 ulp for x < 0, 3 ulp above; -0 where it is less than 3e-37 and x < 0.
    """
    return x / (_ONE + exp32(x * fused(x * x, _GT_CUBIC, _GT_LINEAR)))


# --- activations of fused kernels ----------------------------------------------------------------


@inline
def _none(v, alpha, beta):
    return v


@inline
def _relu(v, alpha, beta):
    return _ZERO if v < _ZERO else v


@inline
def _clip(v, alpha, beta):
    v = alpha if v < alpha else v
    return beta if v > beta else v


@inline
def _leaky_relu(v, alpha, beta):
    return alpha * v if v < _ZERO else v


@inline
def _sigmoid(v, alpha, beta):
    return sigmoid32(v)


@inline
def _hard_sigmoid(v, alpha, beta):
    y = alpha * v + beta
    y = _ZERO if y < _ZERO else y
    return _ONE if y > _ONE else y


_SIXTH = np.float32(1 / 6)


@inline
def _hard_swish(v, alpha, beta):
    y = fused(v, _SIXTH, _HALF)
    y = _ZERO if y < _ZERO else y
    return v * (_ONE if y > _ONE else y)


@inline
def _silu(v, alpha, beta):
    return silu32(v)


@inline
def _tanh(v, alpha, beta):
    return tanh32(v)


@inline
def _gelu(v, alpha, beta):
    return gelu32(v)


@inline
def _gelu_tanh(v, alpha, beta):
    return gelu_tanh32(v)


_ACTIVATIONS = {
    "": _none,
    "Relu": _relu,
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Silu": _silu,
    "Tanh": _tanh,
    "Gelu": _gelu,
    "GeluTanh": _gelu_tanh,
}


def activation32(name: str):
    """Return the activation of fused kernels as a function (v, alpha, beta) of three float32.

    Clip limits to [alpha, beta], LeakyRelu has the slope alpha, HardSigmoid is clip(alpha * v + beta, 0, 1).
    """
    return _ACTIVATIONS[name]
