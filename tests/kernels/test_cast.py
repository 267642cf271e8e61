"""Cast, CastLike against formats spelled out from their definitions.

The oracle knows a float format as its sorted list of magnitudes and looks for the nearest one.
All its arithmetic is exact: float64 where every value and midpoint fits, else Python's integers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxref.kernels.numpy.cast import cast_array

from onnxref import registry
from onnxref.dtypes import Array, ElementType, to_numpy
from onnxref.errors import KernelError

T = ElementType
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _as_in_a_run() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


@dataclass(frozen=True)
class Format:
    """A binary float format narrower than float32."""

    element: ElementType
    exponent_bits: int
    mantissa_bits: int
    bias: int
    finite_codes: int  # non-negative codes below this one are finite
    overflow: str  # what an overflow is without saturation: "inf", "nan" or "max"
    fnuz: bool = False

    @cached_property
    def magnitudes(self) -> Array:
        """Values of the codes 0, 1, ... in float64, with one more in the place of infinity."""
        codes = np.arange(self.finite_codes + 1)
        exponent, mantissa = codes >> self.mantissa_bits, codes & (2**self.mantissa_bits - 1)
        normal = np.where(exponent > 0, 2**self.mantissa_bits, 0)
        power = np.maximum(exponent, 1) - self.bias - self.mantissa_bits
        return np.ldexp((normal + mantissa).astype(np.float64), power)

    @cached_property
    def midpoints(self) -> Array:
        return (self.magnitudes[1:] + self.magnitudes[:-1]) / 2

    @property
    def largest(self) -> float:
        return float(self.magnitudes[self.finite_codes - 1])

    def nearest(self, x: Array, saturate: bool) -> Array:
        """Round float64 values exactly; ties to the even code."""
        size = np.abs(x)
        code = np.searchsorted(self.midpoints, size, side="left")
        tie = np.isin(size, self.midpoints)
        code = np.where(tie & (code % 2 == 1), code + 1, code)
        value = self.magnitudes[np.minimum(code, self.finite_codes)]
        over = (code >= self.finite_codes) | np.isinf(x)
        if saturate or self.overflow == "max":
            value = np.where(over, self.largest, value)
        else:
            value = np.where(over, INF if self.overflow == "inf" else NAN, value)
        value = np.copysign(value, x)
        value = np.where(np.isnan(x), -0.0 if self.overflow == "max" else NAN, value)
        return np.where(value == 0, 0.0, value) if self.fnuz else value


FORMATS = [
    Format(T.FLOAT16, 5, 10, 15, 0x7C00, "inf"),
    Format(T.BFLOAT16, 8, 7, 127, 0x7F80, "inf"),
    Format(T.FLOAT8E4M3FN, 4, 3, 7, 0x7F, "nan"),
    Format(T.FLOAT8E4M3FNUZ, 4, 3, 8, 0x80, "nan", fnuz=True),
    Format(T.FLOAT8E5M2, 5, 2, 15, 0x7C, "inf"),
    Format(T.FLOAT8E5M2FNUZ, 5, 2, 16, 0x80, "nan", fnuz=True),
    Format(T.FLOAT6E2M3, 2, 3, 1, 0x20, "max"),
    Format(T.FLOAT6E3M2, 3, 2, 3, 0x20, "max"),
    Format(T.FLOAT4E2M1, 2, 1, 1, 0x08, "max"),
]
FORMAT = {f.element: f for f in FORMATS}
SIXTEEN_BITS = (T.FLOAT16, T.BFLOAT16)
INTEGERS = {
    T.UINT2: 2,
    T.INT2: 2,
    T.UINT4: 4,
    T.INT4: 4,
    T.UINT8: 8,
    T.INT8: 8,
    T.UINT16: 16,
    T.INT16: 16,
    T.UINT32: 32,
    T.INT32: 32,
    T.UINT64: 64,
    T.INT64: 64,
}
REAL_TYPES = [e for e in T if e not in (T.UNDEFINED, T.COMPLEX64, T.COMPLEX128)]


def all_codes(element: ElementType) -> Array:
    """Every value of a type of at most 16 bits."""
    dtype = to_numpy(element)
    bits = {T.FLOAT4E2M1: 4, T.FLOAT6E2M3: 6, T.FLOAT6E3M2: 6}.get(element) or INTEGERS.get(element)
    codes = np.arange(2 ** (bits or 8 * dtype.itemsize))
    return codes.astype(np.uint8 if dtype.itemsize == 1 else np.uint16).view(dtype)


def decode(element: ElementType) -> Array:
    """What `all_codes` mean, in float64, from the definition of the format."""
    if element is T.FLOAT8E8M0:
        return np.append(np.ldexp(1.0, np.arange(-127, 128)), NAN)
    f = FORMAT[element]
    half = 2 ** (f.exponent_bits + f.mantissa_bits)
    positive = np.full(half, NAN)
    positive[: min(f.finite_codes, half)] = f.magnitudes[: min(f.finite_codes, half)]
    if f.overflow == "inf":
        positive[f.finite_codes] = INF
    values = np.concatenate([positive, np.copysign(positive, -1)])
    if f.fnuz:
        values[half] = NAN
    return values


def equal_bits(actual: Array, expected: Array) -> None:
    """Equal values, zeros with equal signs, NaN where there should be NaN."""
    actual = actual.astype(np.float64)
    np.testing.assert_array_equal(actual, expected)
    zero = expected == 0
    np.testing.assert_array_equal(np.signbit(actual[zero]), np.signbit(expected[zero]))


def signed(value: int, element: ElementType) -> int:
    """The low bits of an integer, as a value of the type."""
    bits = INTEGERS[element]
    value %= 2**bits
    return value - 2**bits if not element.name.startswith("U") and value >= 2 ** (bits - 1) else value


NARROW = [*FORMAT, T.FLOAT8E8M0]


class TestFloatToFloat:
    @pytest.mark.parametrize("target", [T.FLOAT, T.DOUBLE], ids=lambda e: e.name)
    @pytest.mark.parametrize("source", NARROW, ids=lambda e: e.name)
    def test_widening_is_exact(self, source: ElementType, target: ElementType) -> None:
        equal_bits(run_op("Cast", all_codes(source), opset=28, to=target), decode(source))

    @pytest.mark.parametrize("saturate", [1, 0])
    @pytest.mark.parametrize(
        ("source", "target"),
        [(source, f) for source in NARROW for f in FORMATS if source is not f.element],
        ids=lambda e: e.element.name if isinstance(e, Format) else e.name,
    )
    def test_every_code_to_every_format(self, source: ElementType, target: Format, saturate: int) -> None:
        actual = run_op("Cast", all_codes(source), opset=28, to=target.element, saturate=saturate)
        saturates = bool(saturate) and target.element not in SIXTEEN_BITS
        equal_bits(actual, target.nearest(decode(source), saturates))

    @pytest.mark.parametrize("source", [T.FLOAT, T.DOUBLE], ids=lambda e: e.name)
    @pytest.mark.parametrize("target", FORMATS, ids=lambda f: f.element.name)
    def test_around_every_tie(self, source: ElementType, target: Format) -> None:
        # One last place of float64 off a tie is lost by a conversion through float32.
        ties = np.concatenate([target.midpoints, target.magnitudes]).astype(to_numpy(source))
        x = np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
        x = np.concatenate([x, -x])
        equal_bits(
            run_op("Cast", x, opset=28, to=target.element, saturate=0),
            target.nearest(x.astype(np.float64), saturate=False),
        )

    @given(st.lists(st.floats(width=64), min_size=1, max_size=50), st.sampled_from(FORMATS))
    @settings(max_examples=50, deadline=None)
    def test_any_double(self, values: list[float], target: Format) -> None:
        x = np.array(values)
        equal_bits(cast_array(x, target.element, saturate=False), target.nearest(x, saturate=False))

    def test_double_to_float(self) -> None:
        x = np.array([1 + 2.0**-24, 1 + 3 * 2.0**-24, 1e300, -1e300, 1e-46, NAN, -0.0])
        equal_bits(
            run_op("Cast", x, opset=13, to=T.FLOAT),
            np.array([1, 1 + 2.0**-22, INF, -INF, 0, NAN, -0.0]),
        )

    @pytest.mark.parametrize(
        ("target", "saturate", "expected"),
        [
            (T.FLOAT8E4M3FN, 1, [448, -448, 448, -448, NAN]),
            (T.FLOAT8E4M3FNUZ, 1, [240, -240, 240, -240, NAN]),
            (T.FLOAT8E5M2, 1, [57344, -57344, 57344, -57344, NAN]),
            (T.FLOAT8E5M2FNUZ, 1, [57344, -57344, 57344, -57344, NAN]),
            (T.FLOAT8E4M3FN, 0, [NAN, NAN, NAN, NAN, NAN]),
            (T.FLOAT8E4M3FNUZ, 0, [NAN, NAN, NAN, NAN, NAN]),
            (T.FLOAT8E5M2, 0, [INF, -INF, INF, -INF, NAN]),
            (T.FLOAT8E5M2FNUZ, 0, [NAN, NAN, NAN, NAN, NAN]),
        ],
    )
    @pytest.mark.parametrize("opset", [19, 21, 23, 24, 25, 28])
    def test_float8_tables(
        self, target: ElementType, saturate: int, expected: list[float], opset: int
    ) -> None:
        x = np.array([INF, -INF, 1e6, -1e6, NAN], np.float32)
        actual = run_op("Cast", x, opset=opset, to=target, saturate=saturate)
        equal_bits(actual, np.array(expected))
        like = np.zeros(1, to_numpy(target))
        equal_bits(run_op("CastLike", x, like, opset=opset, saturate=saturate), np.array(expected))

    @pytest.mark.parametrize("target", [T.FLOAT8E4M3FN, T.FLOAT8E5M2], ids=lambda e: e.name)
    def test_sign_of_nan_survives(self, target: ElementType) -> None:
        x = np.copysign(np.array([NAN, NAN]), [1, -1])
        codes = run_op("Cast", x, opset=19, to=target, saturate=0).view(np.uint8)
        assert (codes >> 7).tolist() == [0, 1]

    def test_nan_in_float4_changed_with_version_24(self) -> None:
        x = np.array([NAN], np.float32)
        assert run_op("Cast", x, opset=23, to=T.FLOAT4E2M1).view(np.uint8)[0] == 0b0111
        assert run_op("Cast", x, opset=24, to=T.FLOAT4E2M1).view(np.uint8)[0] == 0b1000
        like = np.zeros(1, to_numpy(T.FLOAT4E2M1))
        assert run_op("CastLike", x, like, opset=23).view(np.uint8)[0] == 0b0111
        assert run_op("CastLike", x, like, opset=25).view(np.uint8)[0] == 0b1000


class TestFloat8E8M0:
    POWERS = tuple(Fraction(2) ** k for k in range(-127, 128))

    def nearest(self, x: Fraction, mode: str) -> Fraction:
        if x in self.POWERS:
            return x
        above = bisect_left(self.POWERS, x)
        low, high = self.POWERS[above - 1], self.POWERS[above]
        if mode == "nearest":
            return high if x - low >= high - x else low
        return high if mode == "up" else low

    @pytest.mark.parametrize("mode", ["up", "down", "nearest"])
    def test_rounding(self, mode: str) -> None:
        powers = np.ldexp(1.0, np.arange(-127, 128))
        ties = powers[:-1] * 1.5
        x = np.concatenate([powers, ties, np.nextafter(powers, INF)[:-1], np.nextafter(powers, 0)[1:]])
        x = np.concatenate([x, np.nextafter(ties, INF), np.nextafter(ties, 0)])
        expected = [float(self.nearest(Fraction(v), mode)) for v in x.tolist()]
        for saturate in (1, 0):
            actual = run_op("Cast", x, opset=24, to=T.FLOAT8E8M0, round_mode=mode, saturate=saturate)
            np.testing.assert_array_equal(actual.astype(np.float64), expected)

    @pytest.mark.parametrize(
        ("saturate", "expected"),
        [
            (1, [2.0**-127, NAN, 2.0**127, 2.0**127, 2.0**-127, NAN]),
            (0, [NAN, NAN, NAN, NAN, NAN, NAN]),
        ],
    )
    @pytest.mark.parametrize("mode", ["up", "down", "nearest"])
    def test_special_values(self, saturate: int, expected: list[float], mode: str) -> None:
        x = np.array([0, NAN, INF, 3e38, 1e-45, -1], np.float32)
        actual = run_op("Cast", x, opset=24, to=T.FLOAT8E8M0, saturate=saturate, round_mode=mode)
        np.testing.assert_array_equal(actual.astype(np.float32), np.array(expected, np.float32))
        like = np.ones(1, to_numpy(T.FLOAT8E8M0))
        actual = run_op("CastLike", x, like, opset=25, saturate=saturate, round_mode=mode)
        np.testing.assert_array_equal(actual.astype(np.float32), np.array(expected, np.float32))

    def test_long_integers_round_once(self) -> None:
        x = np.array([2**62 + 1, 2**62, 2**62 + 2**61 - 1, 2**62 + 2**61, 3], np.int64)
        for mode, logs in {
            "up": [63, 62, 63, 63, 2],
            "down": [62, 62, 62, 62, 1],
            "nearest": [62, 62, 62, 63, 2],
        }.items():
            actual = run_op("Cast", x, opset=28, to=T.FLOAT8E8M0, round_mode=mode)
            assert actual.view(np.uint8).tolist() == [k + 127 for k in logs]

    def test_bad_round_mode(self) -> None:
        x = np.ones(1, np.float32)
        with pytest.raises(KernelError, match=r"round_mode must be one of up, down, nearest \(got 'even'\)"):
            run_op("Cast", x, opset=28, to=T.FLOAT8E8M0, round_mode="even")


class TestIntegers:
    @pytest.mark.parametrize("target", INTEGERS, ids=lambda e: e.name)
    @pytest.mark.parametrize("source", [T.INT2, T.UINT2, T.INT4, T.UINT4, T.INT8, T.UINT8, T.INT16, T.UINT16])
    def test_high_bits_are_discarded(self, source: ElementType, target: ElementType) -> None:
        x = all_codes(source)
        values = [signed(v, source) for v in range(2 ** INTEGERS[source])]
        actual = run_op("Cast", x, opset=25, to=target)
        assert actual.dtype == to_numpy(target)
        assert actual.astype(object).tolist() == [signed(v, target) for v in values]

    @given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1), st.sampled_from(list(INTEGERS)))
    @settings(max_examples=50, deadline=None)
    def test_long_integers(self, values: list[int], target: ElementType) -> None:
        for source in (T.INT64, T.UINT64, T.INT32, T.UINT32):
            x = np.array([signed(v, source) for v in values], to_numpy(source))
            expected = [signed(v, target) for v in x.tolist()]
            assert cast_array(x, target).astype(object).tolist() == expected

    @pytest.mark.parametrize("target", INTEGERS, ids=lambda e: e.name)
    @pytest.mark.parametrize("source", NARROW, ids=lambda e: e.name)
    def test_floats_truncate_and_wrap(self, source: ElementType, target: ElementType) -> None:
        values = decode(source).tolist()
        expected = [signed(int(v), target) if np.isfinite(v) else 0 for v in values]
        actual = run_op("Cast", all_codes(source), opset=28, to=target)
        assert actual.dtype == to_numpy(target)
        assert actual.astype(object).tolist() == expected

    @pytest.mark.parametrize("target", INTEGERS, ids=lambda e: e.name)
    def test_large_doubles_wrap(self, target: ElementType) -> None:
        x = np.array([2.0**63, -(2.0**63), 2.0**64 - 2048, 2.0**64 + 4096, 1e300, -3.99, 2.0**53 + 2])
        x = np.concatenate([x, -x])
        expected = [signed(int(v), target) for v in x.tolist()]
        assert run_op("Cast", x, opset=28, to=target).astype(object).tolist() == expected

    def test_floats_saturate_to_four_bits_before_version_24(self) -> None:
        x = np.array([-9, -1, 7.9, 8, 15, 16, NAN, INF], np.float32)
        for opset in (21, 23):
            int4 = run_op("Cast", x, opset=opset, to=T.INT4)
            assert int4.astype(int).tolist() == [-8, -1, 7, 7, 7, 7, 0, 7]
            uint4 = run_op("Cast", x, opset=opset, to=T.UINT4)
            assert uint4.astype(int).tolist() == [0, 0, 7, 8, 15, 15, 0, 15]
        assert run_op("Cast", x, opset=24, to=T.INT4).astype(int).tolist() == [7, -1, 7, -8, -1, 0, 0, 0]
        wide = np.array([200], np.int16)
        assert run_op("Cast", wide, opset=21, to=T.INT4).astype(int).tolist() == [-8]

    @pytest.mark.parametrize("target", FORMATS, ids=lambda f: f.element.name)
    @pytest.mark.parametrize("source", [T.INT16, T.UINT16, T.INT4, T.UINT2], ids=lambda e: e.name)
    def test_short_integers_to_floats(self, source: ElementType, target: Format) -> None:
        values = [signed(v, source) for v in range(2 ** INTEGERS[source])]
        actual = run_op("Cast", all_codes(source), opset=28, to=target.element, saturate=0)
        equal_bits(actual, target.nearest(np.array(values, np.float64), saturate=False))

    @pytest.mark.parametrize("target", [T.FLOAT16, T.BFLOAT16, T.FLOAT, T.DOUBLE], ids=lambda e: e.name)
    @pytest.mark.parametrize("source", [T.INT32, T.UINT32, T.INT64, T.UINT64], ids=lambda e: e.name)
    def test_long_integers_round_once(self, source: ElementType, target: ElementType) -> None:
        digits = {T.FLOAT16: 11, T.BFLOAT16: 8, T.FLOAT: 24, T.DOUBLE: 53}[target]
        bits = INTEGERS[source] - source.name.startswith("I")
        # A tie of the target, one less and one more, at every size, after even and odd last bits.
        values = [
            ((2**digits + 2 * last + 1) << shift) + off
            for shift in range(1, bits - digits)
            for last in (0, 1)
            for off in (-1, 0, 1)
        ]
        if source.name.startswith("I"):
            values += [-v for v in values]
        x = np.array(values, to_numpy(source))
        expected = [self.rounded(v, digits) for v in values]
        if target is T.FLOAT16:
            expected = [v if abs(v) <= 65504 else np.copysign(INF, v) for v in expected]
        actual = run_op("Cast", x, opset=28, to=target).astype(np.float64)
        np.testing.assert_array_equal(actual, np.array(expected, np.float64))

    @staticmethod
    def rounded(value: int, digits: int) -> int:
        """Round an integer to so many binary digits, ties to even."""
        step = 2 ** max(abs(value).bit_length() - digits, 0)
        return round(Fraction(value, step)) * step


class TestBool:
    @pytest.mark.parametrize("source", NARROW, ids=lambda e: e.name)
    def test_all_but_zeros_are_true(self, source: ElementType) -> None:
        actual = run_op("Cast", all_codes(source), opset=28, to=T.BOOL)
        np.testing.assert_array_equal(actual, decode(source) != 0)

    @pytest.mark.parametrize("target", REAL_TYPES, ids=lambda e: e.name)
    def test_from_bool(self, target: ElementType) -> None:
        actual = run_op("Cast", np.array([True, False]), opset=28, to=target)
        expected = {T.STRING: ["1", "0"], T.FLOAT8E8M0: [1, 2.0**-127]}.get(target, [1, 0])
        values = actual.tolist() if target is T.STRING else actual.astype(np.float32).tolist()
        assert actual.dtype == to_numpy(target)
        assert values == expected

    def test_integer_to_bool(self) -> None:
        assert run_op("Cast", np.array([36, 256, 0, -1]), opset=6, to=T.BOOL).tolist() == [
            True,
            True,
            False,
            True,
        ]


class TestStrings:
    @pytest.mark.parametrize(
        ("dtype", "value", "text"),
        [
            (np.float32, 314.15926, "314.15927"),
            (np.float64, 314.15926, "314.15926"),
            (np.float32, 1, "1.0"),
            (np.float32, -0.0, "-0.0"),
            (np.float32, 1e-5, "0.00001"),
            (np.float32, 1e20, "100000000000000000000.0"),
            (np.float64, 1.5e-7, "0.00000015"),
            (np.float16, 0.1, "0.1"),
            (ml_dtypes.bfloat16, 0.1, "0.100097656"),
            (ml_dtypes.float8_e8m0fnu, 4, "4.0"),
            (ml_dtypes.float4_e2m1fn, -1.5, "-1.5"),
            (np.float32, NAN, "NaN"),
            (np.float32, INF, "INF"),
            (np.float32, -INF, "-INF"),
            (np.bool_, True, "1"),
            (np.int64, -(2**63), "-9223372036854775808"),
            (np.uint64, 2**64 - 1, "18446744073709551615"),
            (ml_dtypes.int4, -8, "-8"),
            (ml_dtypes.uint2, 3, "3"),
        ],
    )
    def test_numbers_to_text(self, dtype: Any, value: Any, text: str) -> None:
        actual = run_op("Cast", np.full((2, 1), value).astype(dtype), opset=28, to=T.STRING)
        assert actual.dtype == object
        assert actual.tolist() == [[text], [text]]
        assert type(actual[0, 0]) is str

    @pytest.mark.parametrize(
        ("text", "target", "value"),
        [
            ("3.14", T.DOUBLE, 3.14),
            ("1000", T.FLOAT, 1000),
            ("1e-5", T.FLOAT, np.float32(1e-5)),
            ("1E8", T.FLOAT, 1e8),
            (" .5 ", T.FLOAT16, 0.5),
            ("2.", T.FLOAT16, 2),
            ("+INF", T.FLOAT, INF),
            ("inf", T.FLOAT, INF),
            ("-Inf", T.BFLOAT16, -INF),
            ("nAn", T.FLOAT, NAN),
            ("1e400", T.DOUBLE, INF),
            ("INF", T.FLOAT8E4M3FN, 448),
            ("100.5", T.INT32, 100),
            ("-7", T.INT8, -7),
            ("1e3", T.INT64, 1000),
            ("9223372036854775807", T.INT64, 2**63 - 1),
            ("18446744073709551615", T.UINT64, 2**64 - 1),
            ("300", T.UINT8, 44),
            ("nan", T.INT32, 0),
            ("7", T.UINT4, 7),
            ("0.0", T.BOOL, False),
            ("1", T.BOOL, True),
            # These lie just off a tie, nearer than float64 can tell.
            ("16777217.00000000000001", T.FLOAT, 16777218),
            ("16777217", T.FLOAT, 16777216),
            ("16777218.99999999999999", T.FLOAT, 16777218),
            ("-2049.0000000000000000001", T.FLOAT16, -2050),
            ("257.00000000000000000001", T.BFLOAT16, 258),
            ("1.06250000000000000000001", T.FLOAT8E4M3FN, 1.125),
            ("2.00000000000000000000001", T.FLOAT8E8M0, 4),
        ],
    )
    def test_text_to_numbers(self, text: str, target: ElementType, value: Any) -> None:
        actual = run_op("Cast", np.array([text], object), opset=28, to=target)
        assert actual.dtype == to_numpy(target)
        if target in INTEGERS:
            assert int(actual[0]) == value
        else:
            np.testing.assert_array_equal(actual.astype(np.float64), [value])

    @given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-1, 1))
    @settings(max_examples=50, deadline=None)
    def test_text_rounds_once(self, value: float, side: int) -> None:
        low = np.float32(value)
        high = np.nextafter(low, np.float32(np.inf))
        if not np.isfinite(high):
            return
        tie = (Fraction(float(low)) + Fraction(float(high))) / 2 + Fraction(side, 10**400)
        scaled = tie * 10**400
        assert scaled.denominator == 1
        text = f"{scaled.numerator}e-400"
        even = low if int(low.view(np.int32)) % 2 == 0 else high
        expected = {-1: low, 0: even, 1: high}[side]
        actual = run_op("Cast", np.array([text], object), opset=13, to=T.FLOAT)
        assert actual[0] == expected

    @given(st.floats(width=32), st.sampled_from([np.float16, np.float32, np.float64]))
    @settings(max_examples=50, deadline=None)
    def test_round_trip(self, value: float, dtype: Any) -> None:
        x = np.array([value]).astype(dtype)
        text = run_op("Cast", x, opset=9, to=T.STRING)
        assert "e" not in text[0].lower().replace("inf", "")
        to = {2: T.FLOAT16, 4: T.FLOAT, 8: T.DOUBLE}[x.dtype.itemsize]
        np.testing.assert_array_equal(run_op("Cast", text, opset=9, to=to), x)

    @pytest.mark.parametrize("text", ["Hello World!", "", "1_000", "0x10", "1e", "\u0663", "1 2", "infinity"])
    @pytest.mark.parametrize("target", [T.FLOAT, T.INT64, T.BOOL], ids=lambda e: e.name)
    def test_not_a_number(self, text: str, target: ElementType) -> None:
        with pytest.raises(KernelError, match=r"a string to cast to \w+ must be a number \(got "):
            run_op("Cast", np.array([text], object), opset=13, to=target)

    def test_long_text_is_refused_fast(self) -> None:
        with pytest.raises(KernelError, match="must be a number"):
            run_op("Cast", np.array(["1" * 1_000_000 + "x"], object), opset=13, to=T.FLOAT)
        huge = np.array(["1" * 10_000], object)
        assert run_op("Cast", huge, opset=13, to=T.INT32).tolist() == [0]
        assert run_op("Cast", huge, opset=13, to=T.FLOAT).tolist() == [INF]


class TestKernels:
    @pytest.mark.parametrize("target", REAL_TYPES, ids=lambda e: e.name)
    @pytest.mark.parametrize("source", REAL_TYPES, ids=lambda e: e.name)
    def test_every_pair_of_types(self, source: ElementType, target: ElementType) -> None:
        x = np.array([[1, 0, 1], [1, 1, 0]]).astype(to_numpy(source))
        if source is T.STRING:
            x = np.array([["1", "0", "1"], ["1", "1", "0"]], object)
        elif source is T.FLOAT8E8M0:
            x = np.array([[1, 2, 1], [2, 1, 2]]).astype(x.dtype)
        before = x.copy()
        whole = run_op("Cast", x, opset=28, to=target)
        assert (whole.dtype, whole.shape) == (to_numpy(target), (2, 3))
        for view in (x.T, x[0, 1], x[:0], x[:, ::-1]):
            part = run_op("Cast", np.array(view, x.dtype, copy=None), opset=28, to=target)
            assert isinstance(part, np.ndarray)
            assert (part.dtype, part.shape) == (to_numpy(target), np.shape(view))
        assert run_op("Cast", x.T, opset=28, to=target).tobytes() == whole.T.tobytes() or target is T.STRING
        like = np.zeros(0, to_numpy(target))
        assert run_op("CastLike", x, like, opset=25).tolist() == whole.tolist()
        assert x.tolist() == before.tolist()
        operator = registry.find("", "Cast", 28)
        assert operator.cost is not None
        assert operator.cost(x, to=target).out_bytes >= whole.nbytes

    def test_version_1_takes_names(self) -> None:
        x = np.array([1.7, -1.7], np.float32)
        assert run_op("Cast", x, opset=1, to="INT32").tolist() == [1, -1]
        with pytest.raises(KernelError, match=r"to must name an element type, such as 'FLOAT' \(got 'int'\)"):
            run_op("Cast", x, opset=1, to="int")

    def test_versions_without_saturate(self) -> None:
        x = np.array([3, 70000.0, NAN])
        for opset in (6, 9, 13):
            equal_bits(run_op("Cast", x, opset=opset, to=T.FLOAT16), np.array([3, INF, NAN]))
        equal_bits(run_op("CastLike", x, np.zeros(1, np.float16), opset=15), np.array([3, INF, NAN]))

    @pytest.mark.parametrize(
        ("to", "message"),
        [
            (0, r"to must be an element type \(got undefined\)"),
            (14, r"to must be a real type, bool or string \(got complex64\)"),
            (99, r"to must be an element type \(got 99\)"),
        ],
    )
    def test_bad_target(self, to: int, message: str) -> None:
        with pytest.raises(KernelError, match=message):
            run_op("Cast", np.zeros(1, np.float32), opset=28, to=to)
        with pytest.raises(KernelError, match=message):
            cast_array(np.zeros(1, np.float32), to)

    def test_complex_source(self) -> None:
        with pytest.raises(KernelError, match=r"must not be complex \(got complex64\)"):
            run_op("Cast", np.zeros(1, np.complex64), opset=28, to=T.FLOAT)
