"""QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, element by element from their formulas."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import element_types, run_op, versions
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxref.kernels.numpy.cast import cast_array

from onnxref.dtypes import Array, ElementType, from_numpy, to_numpy
from onnxref.errors import KernelError

T = ElementType
NAN, INF = float("nan"), float("inf")
RANGES = {
    T.UINT8: (0, 255),
    T.INT8: (-128, 127),
    T.UINT16: (0, 65535),
    T.INT16: (-32768, 32767),
    T.UINT4: (0, 15),
    T.INT4: (-8, 7),
    T.UINT2: (0, 3),
    T.INT2: (-2, 1),
}


@pytest.fixture(autouse=True)
def _as_in_a_run() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def place(index: tuple[int, ...], value: Array, axis: int, block: int) -> Any:
    """The scale or zero point that belongs to one element."""
    if value.size == 1:
        return value.reshape(())[()]
    if value.ndim == 1 and not block:
        return value[index[axis]]
    at = list(index)
    at[axis] //= block
    return value[tuple(at)]


def quotient(x: Any, scale: Any, precision: ElementType) -> Any:
    """One division: exact by integers, in float32 by powers of two, else in the given precision."""
    if precision is T.INT32:
        return Fraction(float(x)) / int(scale)
    dtype = np.float32 if precision is T.FLOAT8E8M0 else to_numpy(precision).type
    return float(dtype(dtype(x) / dtype(scale)))


def slow_quantize(
    x: Array, scale: Array, zero: Array, *, version: int = 28, axis: int = 1, block: int = 0
) -> Array:
    target, precision = from_numpy(zero.dtype), from_numpy(scale.dtype)
    if version < 23 and precision is not T.INT32:
        precision = T.FLOAT
    out = np.zeros(x.shape, zero.dtype)
    for index in np.ndindex(x.shape):
        q = quotient(x[index], place(index, scale, axis, block), precision)
        z = place(index, zero, axis, block)
        if target in RANGES:
            low, high = RANGES[target]
            y = np.asarray(min(max(round(q) + int(z), low), high))
        else:
            y = np.asarray(np.float32(q) + np.float32(z))
        out[index] = cast_array(y, target)[()]
    return out


def slow_dequantize(x: Array, scale: Array, zero: Array, out: ElementType, axis: int, block: int) -> Array:
    result = np.zeros(x.shape, to_numpy(out))
    for index in np.ndindex(x.shape):
        difference = float(x[index]) - float(place(index, zero, axis, block))
        factor = np.float32(place(index, scale, axis, block))
        result[index] = cast_array(np.asarray(np.float32(difference) * factor), out)[()]
    return result


def numbers(element: ElementType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """A mix of ordinary values and ties for the scales below."""
    values = rng.integers(-60, 60, shape) / 4
    if element in RANGES or element is T.INT32:
        low, high = RANGES.get(element, (-1000, 1000))
        return rng.integers(low, high, shape, endpoint=True).astype(to_numpy(element))
    return values.astype(to_numpy(element))


def scales(element: ElementType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    choices = [1, 2, 4, 8] if element is T.FLOAT8E8M0 else [1, 2, 3, 5]
    values = rng.choice(choices, shape).astype(to_numpy(element))
    return (
        values if element in (T.INT32, T.FLOAT8E8M0) else (values / values.dtype.type(4)).astype(values.dtype)
    )


# name: axis, block size, shape of the scale; the input has the shape (2, 5, 3)
GRAINS = {
    "tensor": (1, 0, ()),
    "one": (1, 0, (1,)),
    "axis": (1, 0, (5,)),
    "last": (-1, 0, (3,)),
    "blocks": (1, 2, (2, 3, 3)),
    "whole": (-2, 5, (2, 1, 3)),
}
SHAPE = (2, 5, 3)


def grains(version: int) -> list[str]:
    if version == 10:
        return ["tensor", "one"]
    return list(GRAINS) if version >= 21 else ["tensor", "one", "axis", "last"]


def grain_attributes(version: int, axis: int, block: int) -> dict[str, int]:
    return {
        **({"axis": axis} if version >= 13 else {}),
        **({"block_size": block} if version >= 21 else {}),
    }


class TestQuantizeLinear:
    ROWS = tuple((v, g) for v in versions("QuantizeLinear") for g in grains(v))

    @pytest.mark.parametrize(("version", "grain"), ROWS)
    def test_every_type(self, version: int, grain: str) -> None:
        axis, block, shape = GRAINS[grain]
        for source in element_types("QuantizeLinear", version, "inputs", 0):
            for scale_type in element_types("QuantizeLinear", version, "inputs", 1):
                if 19 <= version < 23 and scale_type is not source:
                    continue
                for target in element_types("QuantizeLinear", version, "outputs", 0):
                    self.check(version, (source, scale_type, target), (axis, block, shape))

    def check(self, version: int, row: tuple[ElementType, ...], grain: tuple[Any, ...]) -> None:
        source, scale_type, target = row
        axis, block, shape = grain
        rng = np.random.default_rng(version)
        x, scale, zero = (
            numbers(source, SHAPE, rng),
            scales(scale_type, shape, rng),
            numbers(target, shape, rng),
        )
        attributes = grain_attributes(version, axis, block)
        actual = run_op("QuantizeLinear", x, scale, zero, opset=version, **attributes)
        expected = slow_quantize(x, scale, zero, version=version, axis=axis % 3, block=block)
        assert (actual.dtype, actual.shape) == (to_numpy(target), SHAPE)
        np.testing.assert_array_equal(actual.astype(np.float32), expected.astype(np.float32), str(row))

    @given(
        st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
        st.floats(2.0**-20, 2.0**20, width=32),
        st.sampled_from(list(RANGES)),
        st.data(),
    )
    @settings(max_examples=50, deadline=None)
    def test_any_float(self, values: list[float], scale: float, target: ElementType, data: Any) -> None:
        x = np.array([v if np.isfinite(v) else 1e38 for v in values], np.float32)
        zero = np.asarray(data.draw(st.integers(*RANGES[target]))).astype(to_numpy(target))
        scales = np.asarray(np.float32(scale))
        # Quotients beyond float32 are far outside of every range.
        x = np.clip(x, -1e30, 1e30)
        actual = run_op("QuantizeLinear", x, scales, zero, opset=25)
        np.testing.assert_array_equal(actual.astype(int), slow_quantize(x, scales, zero).astype(int))

    @pytest.mark.parametrize("version", versions("QuantizeLinear"))
    def test_ties_go_to_even_before_the_zero_point(self, version: int) -> None:
        x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
        actual = run_op("QuantizeLinear", x, np.float32(1), np.uint8(3), opset=version)
        assert actual.tolist() == [[3, 5, 5, 3, 1]]

    @pytest.mark.parametrize("version", versions("QuantizeLinear"))
    def test_no_zero_point(self, version: int) -> None:
        x = np.array([-1, 3, 300, INF, -INF, NAN], np.float32)
        actual = run_op("QuantizeLinear", x, np.float32(1), opset=version)
        assert actual.dtype == np.uint8
        assert actual.tolist() == [0, 3, 255, 255, 0, 0]

    def test_int32_by_int32_is_exact(self) -> None:
        # The second is a little less than 32765.5, which float32 cannot tell.
        x = np.array([2**31 - 1, 32765 * 2**16 + 2**15 - 1, -(2**31), 5], np.int32)
        for version in (19, 21, 23, 24, 25, 28):
            fine = run_op("QuantizeLinear", x[3:], np.int32(2), opset=version)
            assert fine.tolist() == [2]
            if version >= 21:
                coarse = run_op("QuantizeLinear", x, np.int32(2**16), np.int16(0), opset=version)
                assert coarse.tolist() == [32767, 32765, -32768, 0]

    @pytest.mark.parametrize(
        "target", element_types("QuantizeLinear", 28, "outputs", 0), ids=lambda e: e.name
    )
    def test_output_dtype(self, target: ElementType) -> None:
        x = np.array([[1.0, -1.0, 0.0]], np.float32)
        actual = run_op("QuantizeLinear", x, np.float32(1), opset=28, output_dtype=target)
        assert actual.dtype == to_numpy(target)
        negative = 0 if target.name.startswith("U") else -1
        assert actual.astype(int).tolist() == [[1, negative, 0]]

    def test_saturate(self) -> None:
        x, zero = np.array([1e6, -1e6, INF], np.float32), np.zeros((), ml_dtypes.float8_e5m2)
        for version in (19, 21, 23, 24, 25, 28):
            kept = run_op("QuantizeLinear", x, np.float32(1), zero, opset=version, saturate=1)
            lost = run_op("QuantizeLinear", x, np.float32(1), zero, opset=version, saturate=0)
            assert kept.astype(np.float32).tolist() == [57344, -57344, 57344]
            assert lost.astype(np.float32).tolist() == [INF, -INF, INF]

    def test_nan_in_float4_changed_with_version_24(self) -> None:
        x, zero = np.array([NAN], np.float32), np.zeros((), ml_dtypes.float4_e2m1fn)
        assert run_op("QuantizeLinear", x, np.float32(1), zero, opset=23).astype(float).tolist() == [6]
        assert run_op("QuantizeLinear", x, np.float32(1), zero, opset=24).astype(float).tolist() == [0]

    def test_precision_of_the_division(self) -> None:
        # 11.499 is 11.5 in float16, and that rounds to 12.
        x, one = np.array([11.499], np.float32), np.ones((), np.float32)
        assert run_op("QuantizeLinear", x, one, opset=23).tolist() == [11]
        for version in (23, 24, 25, 28):
            assert run_op("QuantizeLinear", x, one, opset=version, precision=T.FLOAT16).tolist() == [12]
            assert run_op("QuantizeLinear", x, one.astype(np.float16), opset=version).tolist() == [12]
        half = np.float16(1)
        # Before, float16 is computed in float32: 56.5146, which is 56.5 in float16.
        dividend, divisor = np.array([56.625], np.float16), np.float16(1.001953125)
        assert run_op("QuantizeLinear", dividend, divisor, opset=21).tolist() == [57]
        assert run_op("QuantizeLinear", dividend, divisor, opset=23).tolist() == [56]
        assert run_op("QuantizeLinear", x, half, opset=23, precision=T.FLOAT).tolist() == [11]

    def test_scalars_and_empty_tensors(self) -> None:
        scalar = run_op("QuantizeLinear", np.float32(3), np.float32(2), opset=13)
        assert (scalar.shape, scalar.tolist()) == ((), 2)
        assert run_op("QuantizeLinear", np.zeros((0, 3), np.float32), np.float32(2), opset=28).shape == (0, 3)
        nothing = np.zeros((3, 0), np.float32)
        empty = run_op("QuantizeLinear", nothing, nothing, opset=28, block_size=4)
        assert (empty.dtype, empty.shape) == (np.uint8, (3, 0))

    def test_one_axis_of_a_vector(self) -> None:
        x, scale = np.array([2, 4, 6], np.float32), np.array([1, 2, 3], np.float32)
        assert run_op("QuantizeLinear", x, scale, opset=13, axis=0).tolist() == [2, 2, 2]
        assert run_op("QuantizeLinear", x, scale[:2], opset=21, axis=0, block_size=2).tolist() == [2, 4, 3]


class TestDequantizeLinear:
    ROWS = tuple((v, g) for v in versions("DequantizeLinear") for g in grains(v))

    @pytest.mark.parametrize(("version", "grain"), ROWS)
    def test_every_type(self, version: int, grain: str) -> None:
        axis, block, shape = GRAINS[grain]
        for source in element_types("DequantizeLinear", version, "inputs", 0):
            for scale_type in element_types("DequantizeLinear", version, "inputs", 1):
                for target in element_types("DequantizeLinear", version, "outputs", 0):
                    if version < 23 and target is not scale_type:
                        continue
                    self.check(version, (source, scale_type, target), (axis, block, shape))

    def check(self, version: int, row: tuple[ElementType, ...], grain: tuple[Any, ...]) -> None:
        source, scale_type, target = row
        axis, block, shape = grain
        rng = np.random.default_rng(version)
        x, scale, zero = (
            numbers(source, SHAPE, rng),
            scales(scale_type, shape, rng),
            numbers(source, shape, rng),
        )
        attributes = grain_attributes(version, axis, block)
        if target is not scale_type:
            attributes["output_dtype"] = target
        actual = run_op("DequantizeLinear", x, scale, zero, opset=version, **attributes)
        assert (actual.dtype, actual.shape) == (to_numpy(target), SHAPE)
        expected = slow_dequantize(x, scale, zero, target, axis % 3, block)
        np.testing.assert_array_equal(actual.astype(np.float32), expected.astype(np.float32), str(row))
        actual = run_op("DequantizeLinear", x, scale, opset=version, **attributes)
        expected = slow_dequantize(x, scale, np.zeros_like(zero), target, axis % 3, block)
        np.testing.assert_array_equal(actual.astype(np.float32), expected.astype(np.float32), str(row))

    def test_differences_do_not_wrap(self) -> None:
        x = np.array([0, 255], np.uint8)
        assert run_op("DequantizeLinear", x, np.float32(1), np.uint8(255), opset=10).tolist() == [-255, 0]
        x = np.array([2**31 - 1], np.int32)
        low = np.int32(-(2**31))
        assert run_op("DequantizeLinear", x, np.float32(1), low, opset=13).tolist() == [2.0**32]

    def test_product_is_rounded_once(self) -> None:
        # 2049 has no float16; its neighbour 2048 would give 614.5.
        actual = run_op("DequantizeLinear", np.array([2049], np.int16), np.float16(0.3), opset=21)
        assert (actual.dtype, actual.tolist()) == (np.float16, [615.0])
        big = run_op("DequantizeLinear", np.array([65535], np.uint16), np.float16(0.5), opset=23)
        assert big.tolist() == [32768.0]

    @pytest.mark.parametrize("version", [24, 25, 28])
    def test_power_of_two_scale_needs_an_output_type(self, version: int) -> None:
        x, scale = np.array([3], np.int8), np.array(0.25).astype(ml_dtypes.float8_e8m0fnu)
        actual = run_op("DequantizeLinear", x, scale, opset=version, output_dtype=T.FLOAT)
        assert actual.tolist() == [0.75]
        with pytest.raises(KernelError, match=r"output_dtype must be one of .* \(got float8e8m0\)"):
            run_op("DequantizeLinear", x, scale, opset=version)

    def test_scalars_and_empty_tensors(self) -> None:
        scalar = run_op("DequantizeLinear", np.int8(3), np.float32(2), np.int8(1), opset=13)
        assert (scalar.dtype, scalar.shape, scalar.tolist()) == (np.float32, (), 4)
        assert run_op("DequantizeLinear", np.zeros((0, 3), np.int8), np.float32(2), opset=28).shape == (0, 3)

    @given(
        st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=20),
        st.floats(0.125, 4, width=32),
        st.integers(-100, 100),
    )
    @settings(max_examples=50, deadline=None)
    def test_round_trip(self, values: list[float], scale: float, zero: int) -> None:
        x, step, offset = np.array(values, np.float32), np.float32(scale), np.int16(zero)
        y = run_op("QuantizeLinear", x, step, offset, opset=21)
        back = run_op("DequantizeLinear", y, step, offset, opset=21)
        assert np.all(np.abs(back - x) <= scale / 2 + 1e-4)


class TestBadArguments:
    @pytest.mark.parametrize(
        ("op_type", "version", "scale", "attributes", "message"),
        [
            ("Quantize", 10, (6,), {}, r"scale must have one element \(got shape \(6,\)\)"),
            ("Quantize", 13, (2, 6), {}, r"scale must be a scalar or 1-D"),
            ("Quantize", 19, (2, 6), {}, r"scale must be a scalar or 1-D"),
            ("Quantize", 13, (5,), {}, r"scale must have the length 6 of axis 1 \(got 5\)"),
            ("Quantize", 13, (6,), {"axis": 2}, r"axis must be in \[-2, 1\]"),
            ("Quantize", 21, (2, 3), {}, r"scale must be a scalar, 1-D, or in blocks"),
            ("Quantize", 21, (2, 3), {"block_size": 3}, r"scale must have shape \(2, 2\) \(got \(2, 3\)\)"),
            ("Quantize", 21, (2, 3), {"block_size": 2**62}, r"scale must have shape \(2, 1\)"),
            ("Quantize", 21, (2, 3), {"block_size": -2}, r"block_size must be positive \(got -2\)"),
            ("Quantize", 21, (), {"output_dtype": 1}, r"output_dtype must be one of uint8, .*got float\)"),
            ("Quantize", 21, (), {"output_dtype": 99}, r"output_dtype must be an element type \(got 99\)"),
            ("Quantize", 23, (), {"precision": 6}, r"precision must be one of .*got int32\)"),
            ("Dequantize", 10, (6,), {}, r"scale must have one element"),
            ("Dequantize", 13, (2, 6), {}, r"scale must be a scalar or 1-D"),
            ("Dequantize", 21, (2, 3), {"block_size": 4}, r"scale must have shape \(2, 2\)"),
            ("Dequantize", 23, (), {"output_dtype": 6}, r"float, float16, bfloat16 \(got int32\)"),
        ],
    )
    def test_message(
        self, op_type: str, version: int, scale: tuple[int, ...], attributes: dict[str, int], message: str
    ) -> None:
        x = np.zeros((2, 6), np.float32 if op_type == "Quantize" else np.uint8)
        with pytest.raises(KernelError, match=message):
            run_op(f"{op_type}Linear", x, np.ones(scale, np.float32), opset=version, **attributes)

    @pytest.mark.parametrize("op_type", ["QuantizeLinear", "DequantizeLinear"])
    def test_shape_of_the_zero_point(self, op_type: str) -> None:
        x = np.zeros((2, 6), np.float32 if op_type == "QuantizeLinear" else np.uint8)
        scale = np.ones(6, np.float32)
        with pytest.raises(KernelError, match=r"zero_point must have one element \(got shape \(6,\)\)"):
            run_op(op_type, x, scale[0], np.zeros(6, np.uint8), opset=10)
        with pytest.raises(KernelError, match=r"zero_point must have the shape \(6,\) of scale \(got \(\)\)"):
            run_op(op_type, x, scale, np.uint8(0), opset=13)

    def test_types_that_do_not_fit(self) -> None:
        x = np.zeros(3, np.uint8)
        with pytest.raises(KernelError, match=r"zero_point must have the type uint8 of x \(got int8\)"):
            run_op("DequantizeLinear", x, np.float32(1), np.int8(0), opset=13)
        with pytest.raises(
            KernelError, match=r"output_dtype beside zero_point must be one of uint8 \(got int8\)"
        ):
            run_op("QuantizeLinear", np.float32(0), np.float32(1), np.uint8(0), opset=21, output_dtype=T.INT8)
        with pytest.raises(KernelError, match=r"the type of zero_point must be one of .* \(got float\)"):
            run_op("QuantizeLinear", x.astype(np.float32), np.float32(1), np.float32(0), opset=28)


class TestDynamicQuantizeLinear:
    @pytest.mark.parametrize(
        ("x", "scale", "zero", "y"),
        [
            ([0, 2, -3, -2.5, 1.34, 0.5], 5 / 255, 153, [153, 255, 0, 26, 221, 179]),
            ([-1.0, -2.1, -1.3, -2.5, -3.34, -4.0], 4 / 255, 255, [191, 121, 172, 96, 42, 0]),
            ([1, 2.1, 1.3, 2.5, 3.34, 4.0], 4 / 255, 0, [64, 134, 83, 159, 213, 255]),
            ([0, 0], 0, 0, [0, 0]),
            ([], 0, 0, []),
        ],
    )
    def test_values(self, x: list[float], scale: float, zero: int, y: list[int]) -> None:
        actual = run_op("DynamicQuantizeLinear", np.array(x, np.float32), opset=11, n_outputs=3)
        assert [a.dtype for a in actual] == [np.uint8, np.float32, np.uint8]
        assert [a.shape for a in actual] == [(len(x),), (), ()]
        np.testing.assert_allclose(actual[1], scale, rtol=1e-6)
        assert (actual[2].tolist(), actual[0].tolist()) == (zero, y)

    def test_scalar(self) -> None:
        y, scale, zero = run_op("DynamicQuantizeLinear", np.float32(-2), opset=11, n_outputs=3)
        assert (y.shape, y.tolist(), zero.tolist()) == ((), 0, 255)
        assert scale == np.float32(2) / np.float32(255)

    @given(st.lists(st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False), min_size=1, max_size=30))
    @settings(max_examples=50, deadline=None)
    def test_zero_is_kept_and_errors_are_small(self, values: list[float]) -> None:
        x = np.append(np.array(values, np.float32), np.float32(0))
        y, scale, zero = run_op("DynamicQuantizeLinear", x, opset=11, n_outputs=3)
        assert y[-1] == zero
        back = run_op("DequantizeLinear", y, scale, zero, opset=13)
        if np.abs(x).max() > 1e-30:
            # Half a step for the value and half a step for the zero point, where an end saturates.
            assert np.all(np.abs(back - x) <= scale * (1 + 1e-5))
