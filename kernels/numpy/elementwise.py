"""Element-wise functions of one tensor: unary mathematics, predicates, Identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array
from onnxref.registry import op

from ._common import in_float32, like_first_input, narrow, widen

Function = Callable[[Array], Any]


def _legacy_of_x(op_type: str, function: Function) -> None:
    # `consumed_inputs` of version 1 is a hint for in-place execution; it never changes a result.
    @op(op_type, since=(1, 6, 13))
    @in_float32
    def kernel(x: Array, *, consumed_inputs: tuple[int, ...] | None = None) -> Any:
        return function(x)


def _legacy_of_input(op_type: str, function: Function) -> None:
    @op(op_type, since=(1, 6, 13))
    @in_float32
    def kernel(input: Array, *, consumed_inputs: tuple[int, ...] | None = None) -> Any:
        return function(input)


def _of_input(op_type: str, since: tuple[int, ...], function: Function) -> None:
    @op(op_type, since=since)
    @in_float32
    def kernel(input: Array) -> Any:
        return function(input)


# Abs and Neg of the lowest signed integer wrap to itself, as NumPy's do.
for _op_type, _function in {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
}.items():
    _legacy_of_x(_op_type, _function)

for _op_type, _function in {"Exp": np.exp, "Log": np.log, "Tanh": np.tanh}.items():
    _legacy_of_input(_op_type, _function)

for _op_type, _since, _function in (
    ("Acos", (7, 22), np.arccos),
    ("Acosh", (9, 22), np.arccosh),
    ("Asin", (7, 22), np.arcsin),
    ("Asinh", (9, 22), np.arcsinh),
    ("Atan", (7, 22), np.arctan),
    ("Atanh", (9, 22), np.arctanh),
    ("Cos", (7, 22), np.cos),
    ("Cosh", (9, 22), np.cosh),
    ("Sign", (9, 13), np.sign),
    ("Sin", (7, 22), np.sin),
    ("Sinh", (9, 22), np.sinh),
    ("Tan", (7, 22), np.tan),
):
    _of_input(_op_type, _since, _function)


@op("Round", since=(11, 22))
@in_float32
def round_(x: Array) -> Any:
    """Round halves to the nearest even integer, any shape (ONNX Round-22)."""
    return np.rint(x)


@op("Not", since=1)
def not_(x: Array) -> Any:
    """Negate booleans, any shape (ONNX Not-1)."""
    return np.logical_not(x)


@op("BitwiseNot", since=18)
def bitwise_not(x: Array) -> Any:
    """Flip every bit of integers, any shape (ONNX BitwiseNot-18)."""
    return np.invert(x)


@op("IsNaN", since=(9, 13, 20))
def is_nan(x: Array) -> Any:
    """Return where `x` is NaN, any shape to bool (ONNX IsNaN-20)."""
    return np.isnan(widen(x))


@op("IsInf", since=(10, 20))
def is_inf(x: Array, *, detect_negative: int = 1, detect_positive: int = 1) -> Any:
    """Return where `x` is an infinity of a wanted sign, any shape to bool (ONNX IsInf-20)."""
    wide = widen(x)
    found = np.zeros(x.shape, bool)
    if detect_negative:
        found |= wide == -np.inf
    if detect_positive:
        found |= wide == np.inf
    return found


@op("Identity", since=(1, 13, 14, 16, 19, 21, 23, 24, 25))
def identity(input: Any) -> Any:
    """Return the value itself: tensor, sequence or optional (ONNX Identity-25)."""
    return input


# Least-error polynomials, interpolated at Chebyshev nodes, those of full precision in 60-digit arithmetic.
# erf(x) / x - 1 in powers of x**2, for |x| <= 1 (error 1e-19).
_ERF_CORE = (
    0.1283791670955126,
    -0.37612638903183754,
    0.1128379167095512,
    -0.02686617064512984,
    0.0052239776254232985,
    -0.000854832702193483,
    0.00012055332902888736,
    -1.4925647567519332e-05,
    1.6462045441468418e-06,
    -1.6364642158167616e-07,
    1.4792401209404813e-08,
    -1.216456005728345e-09,
    8.709045129053106e-11,
    -4.230945824295338e-12,
)
# exp(x**2) * erfc(x) in powers of (x - 3) / (x + 3), for 1 <= x <= 6 (error 5e-18).
_ERF_TAIL = (
    0.17900115118138996,
    -0.3262335600430372,
    0.24560380171233093,
    -0.15011593650077582,
    0.07166583719797331,
    -0.024392499318790735,
    0.004269136333077869,
    0.0007077464435611972,
    -0.0005970619531815352,
    4.525520140579536e-05,
    6.405657794051666e-05,
    -1.2859347351455289e-05,
    -7.977696579644072e-06,
    2.1124428949403864e-06,
    1.2459620847174093e-06,
    -2.6915157592850126e-07,
    -2.0355575642200858e-07,
)

# The same for results that are rounded to float32 (errors 1.3e-9 and 2.2e-10).
_ERF_CORE_SINGLE = (
    0.12837916584835138,
    -0.3761262666672288,
    0.11283594715186981,
    -0.026854212011684992,
    0.005189087425370854,
    -0.0008016864303767194,
    7.875875116650989e-05,
)
_ERF_TAIL_SINGLE = (
    0.1790011511926,
    -0.3262335602008602,
    0.245603799508042,
    -0.1501159093412447,
    0.0716659124106331,
    -0.02439343104877536,
    0.004267825561440135,
    0.0007188739833674996,
    -0.0005827996910837283,
)
_ERF_BLOCK = 1 << 14  # elements, whose intermediate results stay in the cache


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    result: Array = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        result += c
        result *= x
    result += coefficients[0]
    return result


def error_function(x: Array, *, single: bool = False) -> Array:
    """Return erf of float64 values of any shape, within 1.2 units in the last place.

    Where `single` is set, only to the precision that a result in float32 or narrower takes.
    """
    flat = x.ravel()
    result = np.empty(flat.shape, np.float64)
    for start in range(0, flat.size, _ERF_BLOCK):
        block = slice(start, start + _ERF_BLOCK)
        result[block] = _erf(flat[block], single)
    return result.reshape(x.shape)


def _erf(x: Array, single: bool) -> Array:
    magnitude = np.minimum(np.abs(x), 6.0)  # erf(6) is 1 in float64
    # The 1 of erf(x) / x is added last, so that only the small part of the sum carries error.
    core = _polynomial(_ERF_CORE_SINGLE if single else _ERF_CORE, magnitude * magnitude)
    core *= magnitude
    core += magnitude
    tail = _polynomial(_ERF_TAIL_SINGLE if single else _ERF_TAIL, (magnitude - 3.0) / (magnitude + 3.0))
    tail *= np.exp(-magnitude * magnitude)
    return np.copysign(np.where(magnitude < 1.0, core, 1.0 - tail), x)


@op("Erf", since=(9, 13), cost=like_first_input(32))  # float64 and its temporaries
def erf(input: Array) -> Array:
    """Return the error function, any shape, computed in float64 (ONNX Erf-13).

    Integers, which version 9 allows, give the value truncated toward zero.
    """
    single = input.dtype == np.float32 or input.dtype in LOW_PRECISION
    return narrow(error_function(input.astype(np.float64), single=single), input.dtype)
