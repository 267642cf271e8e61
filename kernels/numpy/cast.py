"""Cast, CastLike, BitCast: from one element type to another.

Every conversion rounds at most once, to nearest even, from the exact source value. Where NumPy or
ml_dtypes would pass through a format in between, the value gets there by *rounding to odd*: an
inexact result takes the neighbour whose last bit is 1, which keeps it off every tie of a format at
least two bits narrower (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums").
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache

import ml_dtypes
import numpy as np

from onnxref.dtypes import (
    LOW_PRECISION,
    PACKED_BITS,
    Array,
    DType,
    ElementType,
    element_name,
    from_numpy,
    to_numpy,
)
from onnxref.errors import KernelError
from onnxref.registry import Cost, op

from ._checks import check_choice, element_type
from ._common import widen

_FLOAT8_MAX = {
    ElementType.FLOAT8E4M3FN: 448.0,
    ElementType.FLOAT8E4M3FNUZ: 240.0,
    ElementType.FLOAT8E5M2: 57344.0,
    ElementType.FLOAT8E5M2FNUZ: 57344.0,
}
# No infinity and no NaN: these saturate whatever `saturate` says.
_FINITE_ONLY = frozenset({ElementType.FLOAT4E2M1, ElementType.FLOAT6E2M3, ElementType.FLOAT6E3M2})
_E8M0_MIN, _E8M0_MAX = 2.0**-127, 2.0**127

_NUMBER = re.compile(
    r"\s*[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|inf|nan)\s*", re.IGNORECASE | re.ASCII
)
# The literals that Cast-9 reserves for the special values.
_SPECIAL_TEXT = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}
_STRING_SCRATCH = 256  # bytes per element: NumPy's fixed-width text and the Python objects


def cast_array(
    x: Array,
    to: int,
    *,
    saturate: bool = True,
    round_mode: str = "up",
    before_24: bool = False,
) -> Array:
    """Convert `x` (any shape) to an element type by the rules of ONNX Cast-28.

    Args:
        x: numbers, bools or strings.
        to: element type to convert to.
        saturate: whether a float8 result out of range becomes the largest finite value.
        round_mode: rounding towards float8e8m0: "up", "down" or "nearest" (ties up).
        before_24: whether the 4-bit types follow the official tests of Cast-21 and Cast-23: floats
            saturate to int4 and uint4 instead of wrapping, NaN is 6 in float4e2m1 instead of -0.

    Raises:
        KernelError: there is no such conversion, or a string is not a number.
    """
    element = _checked_element(to)
    target = to_numpy(element)
    if x.dtype == target:
        return x
    if x.dtype.kind == "c":
        raise KernelError(f"a value to cast must not be complex (got {x.dtype})")
    if x.ndim == 0:  # NumPy turns 0-d results into scalars, which have no bits to work on
        one = cast_array(x.reshape(1), to, saturate=saturate, round_mode=round_mode, before_24=before_24)
        return one.reshape(())
    if element is ElementType.STRING:
        return _to_text(x)
    x = _parse(x, element) if x.dtype == object else _native(x)
    if element is ElementType.BOOL:
        return np.not_equal(x, 0)
    if _is_integer(element):
        return _to_integer(x, element, before_24)
    if element is ElementType.FLOAT8E8M0:
        return _to_e8m0(x, saturate, round_mode)
    if target not in LOW_PRECISION:
        return x.astype(target)
    return _to_low_precision(x, element, saturate, before_24)


@cache
def _checked_element(to: int) -> ElementType:
    element = element_type(to, "to")
    if element in (ElementType.COMPLEX64, ElementType.COMPLEX128):
        raise KernelError(f"to must be a real type, bool or string (got {element_name(element)})")
    return element


@cache
def _is_integer(element: ElementType) -> bool:
    name = element_name(element)
    return name.startswith(("int", "uint"))


def _native(x: Array) -> Array:
    """Return `x` without loss as bool, an integer of 8 to 64 bits, float32 or float64."""
    bits = PACKED_BITS.get(from_numpy(x.dtype))
    if bits is not None and x.dtype not in LOW_PRECISION:
        return x.astype(np.int8)
    return widen(x)


def _to_integer(x: Array, element: ElementType, before_24: bool) -> Array:
    """Keep the low bits of the integer part, as two's complement."""
    target = to_numpy(element)
    bits = PACKED_BITS.get(element)
    if x.dtype.kind == "f":
        if before_24 and bits == 4:
            low, high = (-8, 7) if element is ElementType.INT4 else (0, 15)
            x = np.clip(x, low, high)
        x = _truncate(x)
    if bits is None:
        return x.astype(target)
    return (x.astype(np.uint8) & np.uint8(2**bits - 1)).view(target)


def _truncate(x: Array) -> Array:
    """Return the integer part of floats modulo 2^64; infinities and NaN are 0.

    The spec leaves out-of-range values undefined. C and NumPy give what the CPU happens to give;
    this is the rule for integers ("discard higher bits") extended to floats, the same everywhere.
    """
    if np.all(np.abs(x) < 2.0**63):
        return x.astype(np.int64)
    whole = np.where(np.isfinite(x), np.trunc(x), 0).astype(np.float64)
    rest = np.fmod(whole, 2.0**64)
    low = np.abs(rest).astype(np.uint64)
    return np.where(rest < 0, np.negative(low), low)


def _to_low_precision(x: Array, element: ElementType, saturate: bool, before_24: bool) -> Array:
    """Round to a float narrower than float32, by the tables of Cast-24."""
    wide = _float32_to_odd(x)
    if element in _FINITE_ONLY:
        # technical/float6.md says -0 (unspecified), technical/float4.md still says 6.
        nan_value = 6.0 if before_24 and element is ElementType.FLOAT4E2M1 else -0.0
        wide = np.where(np.isnan(wide), np.float32(nan_value), wide)
    elif saturate and (largest := _FLOAT8_MAX.get(element)) is not None:
        # The table of Cast-19 turns Inf into NaN for the two FNUZ types. The official tests never
        # did, and Cast-24 corrected the table.
        wide = np.clip(wide, np.float32(-largest), np.float32(largest))
    return wide.astype(to_numpy(element))


def _to_e8m0(x: Array, saturate: bool, round_mode: str) -> Array:
    """Round to a power of two in [2^-127, 2^127], by the table of Cast-24.

    Combinations that the table omits: `saturate` alone decides about values out of range.
    Negative values, which are unspecified, become NaN, and -0 is 0.
    """
    check_choice(round_mode, ("up", "down", "nearest"), "round_mode")
    wide = _float64_to_odd(x)
    fraction, exponent = np.frexp(np.clip(wide, _E8M0_MIN, _E8M0_MAX))  # fraction in [0.5, 1)
    code = exponent + 126
    if round_mode == "up":
        code += fraction > 0.5
    elif round_mode == "nearest":
        code += fraction >= 0.75
    representable = wide >= 0 if saturate else (wide >= _E8M0_MIN) & (wide <= _E8M0_MAX)
    return np.where(representable, code, 0xFF).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)


def _float64_to_odd(x: Array) -> Array:
    """Return `x` in float64, integers of more than 53 bits rounded to odd."""
    if x.dtype.kind not in "iu" or x.dtype.itemsize < 8:
        return x.astype(np.float64)
    size = np.abs(x).astype(np.uint64)  # also right for -2^63, which is its own absolute value
    sticky = (size & np.uint64(0x7FF)) != 0
    rounded = (size >> np.uint64(11) | sticky) << np.uint64(11)
    wide = np.where(size >> np.uint64(53), rounded, size).astype(np.float64)
    return np.where(x < 0, -wide, wide)


def _float32_to_odd(x: Array) -> Array:
    """Return `x` in float32, rounded to odd where that is inexact."""
    if x.dtype.itemsize <= 2 or x.dtype == np.float32:
        return x.astype(np.float32, copy=False)
    wide = _float64_to_odd(x)
    nearest = wide.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.int32)
    wrong = (back != wide) & ~np.isnan(wide) & (bits & 1 == 0)
    step = np.where(np.abs(back) > np.abs(wide), np.int32(-1), np.int32(1))
    return (bits + np.where(wrong, step, np.int32(0))).view(np.float32)


def _to_text(x: Array) -> Array:
    """Return the shortest plain decimals that name the values; bool is "0" or "1".

    Types that NumPy has no shortest decimals for show those of the same value in float32.
    """
    if x.dtype == np.bool_:
        x = x.astype(np.uint8)
    elif x.dtype != np.float16:
        x = _native(x)
    texts = x.astype(np.str_).ravel().tolist()
    if x.dtype.kind == "f":
        texts = [_plain(value, text) for value, text in zip(x.ravel(), texts, strict=True)]
    return np.array(texts, object).reshape(x.shape)


def _plain(value: np.floating, text: str) -> str:
    if "e" in text:
        return np.format_float_positional(value, trim="0")
    return _SPECIAL_TEXT.get(text, text)


def _parse(x: Array, element: ElementType) -> Array:
    """Return strings as numbers from which one more conversion gives `element` correctly rounded."""
    texts: list[str] = x.ravel().tolist()
    for text in texts:
        if not _NUMBER.fullmatch(text):
            raise KernelError(
                f"a string to cast to {element_name(element)} must be a number (got {text[:40]!r})"
            )
    if _is_integer(element):
        numbers = np.array([_parse_integer(text) % 2**64 for text in texts], dtype=np.uint64)
    else:
        numbers = np.array([float(text) for text in texts], dtype=np.float64)
        if element is not ElementType.DOUBLE:
            _leave_ties(numbers, texts)
    return numbers.reshape(x.shape)


def _parse_integer(text: str) -> int:
    """Return the integer part of a number; infinities and NaN are 0, as in `_truncate`."""
    try:
        return int(text)
    except ValueError:  # has a point or an exponent, is special, or is longer than Python reads
        value = float(text)
        return int(value) if np.isfinite(value) else 0


def _leave_ties(numbers: Array, texts: list[str]) -> None:
    """Move a float64 that was rounded onto a tie of a narrower float back towards its text (in place).

    A tie of a type with at most 24 significant bits has at most 25 of them, the other 28 are zero.
    """
    suspect = (numbers.view(np.int64) & (2**28 - 1) == 0) & np.isfinite(numbers) & (numbers != 0)
    for i in np.flatnonzero(suspect).tolist():
        exact, rounded = Decimal(texts[i].strip()), float(numbers[i])
        if exact != rounded:
            numbers[i] = np.nextafter(rounded, np.inf if exact > rounded else -np.inf)


def _cost(shape: tuple[int, ...], source: DType, target: DType) -> Cost:
    out = Cost.of(shape, target)
    elements = out.out_bytes // target.itemsize
    per_element = _STRING_SCRATCH if object in (source, target) else 32
    return Cost(out.out_bytes, elements * per_element)


def _cast_cost(input: Array, *, to: int | str, **_: object) -> Cost:
    element = _named_element(to) if isinstance(to, str) else _checked_element(to)
    return _cost(input.shape, input.dtype, to_numpy(element))


def _cast_like_cost(input: Array, target_type: Array, **_: object) -> Cost:
    return _cost(input.shape, input.dtype, target_type.dtype)


@op("Cast", since=(24, 25, 28), cost=_cast_cost)
def cast(input: Array, *, to: int, saturate: int = 1, round_mode: str = "up") -> Array:
    """Convert each element to the type `to` (ONNX Cast-28)."""
    return cast_array(input, to, saturate=bool(saturate), round_mode=round_mode)


@op("Cast", since=(19, 21, 23), cost=_cast_cost)
def cast_19(input: Array, *, to: int, saturate: int = 1) -> Array:
    """Convert each element to the type `to` (ONNX Cast-19)."""
    return cast_array(input, to, saturate=bool(saturate), before_24=True)


@op("Cast", since=(6, 9, 13), cost=_cast_cost)
def cast_6(input: Array, *, to: int) -> Array:
    """Convert each element to the type `to` (ONNX Cast-6)."""
    return cast_array(input, to)


@op("Cast", since=1, cost=_cast_cost)
def cast_1(input: Array, *, to: str) -> Array:
    """Convert each element to the type named `to`, such as "FLOAT" (ONNX Cast-1)."""
    return cast_array(input, _named_element(to))


def _named_element(name: str) -> ElementType:
    try:
        element = ElementType[name]
    except KeyError:
        raise KernelError(f"to must name an element type, such as 'FLOAT' (got {name!r})") from None
    return _checked_element(element)


@op("CastLike", since=(24, 25), cost=_cast_like_cost)
def cast_like(input: Array, target_type: Array, *, saturate: int = 1, round_mode: str = "up") -> Array:
    """Convert each element to the type of `target_type` (ONNX CastLike-25)."""
    return cast(input, to=from_numpy(target_type.dtype), saturate=saturate, round_mode=round_mode)


@op("CastLike", since=(19, 21, 23), cost=_cast_like_cost)
def cast_like_19(input: Array, target_type: Array, *, saturate: int = 1) -> Array:
    """Convert each element to the type of `target_type` (ONNX CastLike-19)."""
    return cast_19(input, to=from_numpy(target_type.dtype), saturate=saturate)


@op("CastLike", since=15, cost=_cast_like_cost)
def cast_like_15(input: Array, target_type: Array) -> Array:
    """Convert each element to the type of `target_type` (ONNX CastLike-15)."""
    return cast_6(input, to=from_numpy(target_type.dtype))


@op("BitCast", since=26)
def bit_cast(input: Array, *, to: int) -> Array:
    """Read the bits of each element as the type `to`, which must be as wide (ONNX BitCast-26)."""
    source, element = from_numpy(input.dtype), element_type(to, "to")
    if ElementType.STRING in (source, element):
        raise KernelError(
            f"BitCast must not be from or to string (got {element_name(source)} to {element_name(to)})"
        )
    if _bits(source) != _bits(element):
        wanted, got = _bits(source), _bits(element)
        raise KernelError(f"to must be {wanted} bits wide, as the input (got {element_name(to)}, {got} bits)")
    return input.view(to_numpy(element))


def _bits(element: ElementType) -> int:
    if element in (ElementType.FLOAT6E2M3, ElementType.FLOAT6E3M2):
        return 6
    return PACKED_BITS.get(element, to_numpy(element).itemsize * 8)
