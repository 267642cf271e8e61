"""Resize and Upsample against the formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from images import F32, TYPES_13, cubic_weight, f32, i64, image

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.errors import KernelError


def resize(
    x: Array, *, opset: int = 19, scales: Any = None, sizes: Any = None, roi: Any = None, **kw: Any
) -> Any:
    return run_op("Resize", x, roi, scales, sizes, opset=opset, **kw)


# ------------------------------------------------------------------ a slow, direct definition


def position(i: int, n_in: int, n_out: int, mode: str, roi: tuple[float, float]) -> float:
    """The schema's formulas, for an output length that is exactly scale * n_in."""
    scale = n_out / n_in
    return {
        "half_pixel": (i + 0.5) / scale - 0.5,
        "half_pixel_symmetric": (i + 0.5) / scale - 0.5,
        "pytorch_half_pixel": (i + 0.5) / scale - 0.5 if n_out > 1 else 0.0,
        "align_corners": i * (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0,
        "asymmetric": i / scale,
        "tf_half_pixel_for_nn": (i + 0.5) / scale,
        "tf_crop_and_resize": roi[0] * (n_in - 1) + i * (roi[1] - roi[0]) * (n_in - 1) / (n_out - 1)
        if n_out > 1
        else 0.5 * (roi[0] + roi[1]) * (n_in - 1),
    }[mode]


def direct_1d(
    x: list[float], n_out: int, mode: str, where: str, *, a: float = -0.75, exclude: int = 0,
    antialias: int = 0, roi: tuple[float, float] = (0.0, 1.0), outside: float = 0.0,
) -> list[float]:  # fmt: skip
    n = len(x)
    stretch = max(1.0, n / n_out) if antialias else 1.0
    result = []
    for i in range(n_out):
        p = position(i, n, n_out, where, roi)
        if where == "tf_crop_and_resize" and not 0 <= p <= n - 1:
            result.append(outside)
            continue
        total = weights = 0.0
        reach = math.ceil(2 * stretch) + 1
        for k in range(math.floor(p) - reach, math.floor(p) + reach + 1):
            d = (k - p) / stretch
            w = max(0.0, 1 - abs(d)) if mode == "linear" else cubic_weight(d, a)
            if exclude and not 0 <= k < n:
                continue
            total += w * x[min(max(k, 0), n - 1)]
            weights += w
        result.append(total / weights if exclude or antialias else total)
    return result


@settings(max_examples=150, deadline=None)
@given(
    n_in=st.integers(1, 9),
    n_out=st.integers(1, 12),
    mode=st.sampled_from(["linear", "cubic"]),
    where=st.sampled_from(
        ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
         "tf_crop_and_resize"]
    ),
    exclude=st.integers(0, 1),
    antialias=st.integers(0, 1),
    roi=st.sampled_from([(0.0, 1.0), (0.25, 0.75), (-0.25, 1.25), (0.9, 0.1)]),
)  # fmt: skip
def test_resize_follows_the_formulas(
    n_in: int, n_out: int, mode: str, where: str, exclude: int, antialias: int, roi: tuple[float, float]
) -> None:
    x = np.random.default_rng(n_in).normal(size=n_in)
    y = resize(
        x, sizes=i64(n_out), roi=f32(*roi), mode=mode, coordinate_transformation_mode=where,
        exclude_outside=exclude, antialias=antialias, extrapolation_value=7.0, cubic_coeff_a=-0.5,
    )  # fmt: skip
    roi32 = tuple(float(F32(v)) for v in roi)
    want = direct_1d(
        x.tolist(), n_out, mode, where, a=-0.5, exclude=exclude, antialias=antialias, roi=roi32, outside=7.0
    )
    np.testing.assert_allclose(y, want, rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 5)] * 3), sizes=st.tuples(*[st.integers(1, 7)] * 3))
def test_linear_resize_is_separable(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    want = x
    for axis, n_out in enumerate(sizes):
        want = np.apply_along_axis(
            lambda v, n=n_out: np.array(direct_1d(list(v), n, "linear", "half_pixel")), axis, want
        )
    np.testing.assert_allclose(resize(x, sizes=i64(*sizes), mode="linear"), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [40, 300])  # by matrix product, and tap by tap
@pytest.mark.parametrize(("n_out", "antialias"), [(3, 1), (90, 1), (700, 0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_long_axes(length: int, n_out: int, antialias: int, axis: int) -> None:
    shape = [2, 2, 2]
    shape[axis] = length
    x = np.random.default_rng(1).normal(size=shape)
    y = resize(x, sizes=i64(n_out), axes=(axis,), mode="cubic", antialias=antialias)
    line = np.moveaxis(x, axis, -1)[1, 0]
    want = direct_1d(line.tolist(), n_out, "cubic", "half_pixel", antialias=antialias)
    np.testing.assert_allclose(np.moveaxis(y, axis, -1)[1, 0], want, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------ nearest


@pytest.mark.parametrize(
    ("nearest_mode", "want"),
    [
        ("round_prefer_floor", [0, 1, 1, 2, 3, 3]),
        ("round_prefer_ceil", [0, 1, 1, 2, 3, 3]),
        ("floor", [0, 0, 1, 2, 2, 3]),
        ("ceil", [0, 1, 2, 2, 3, 3]),
    ],
)
def test_nearest_modes(nearest_mode: str, want: list[int]) -> None:
    # Positions 0, .67, 1.33, 2, 2.67, 3.33.
    y = resize(
        np.arange(4.0), sizes=i64(6), coordinate_transformation_mode="asymmetric", nearest_mode=nearest_mode
    )
    assert y.tolist() == want


@pytest.mark.parametrize(
    ("nearest_mode", "want"), [("round_prefer_floor", [0, 0, 1, 1]), ("round_prefer_ceil", [0, 1, 1, 1])]
)
def test_nearest_ties(nearest_mode: str, want: list[int]) -> None:
    # Positions 0, .5, 1, 1.5 of two entries.
    y = resize(
        np.arange(2.0), sizes=i64(4), coordinate_transformation_mode="asymmetric", nearest_mode=nearest_mode
    )
    assert y.tolist() == want


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 9))
def test_whole_factors_repeat_and_skip(n: int, k: int) -> None:
    x = np.arange(n * k)
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    assert np.array_equal(resize(x, scales=f32(k), **options), np.repeat(x, k))
    assert np.array_equal(resize(x, scales=f32(k)), np.repeat(x, k))
    # Positions are float32 quotients: for k = 3 the second is 3, and not 2.9999999.
    places = np.floor(np.arange(n, dtype=F32) / F32(1 / k)).astype(int)
    assert np.array_equal(resize(x, scales=f32(1 / k), **options), x[places])


@pytest.mark.parametrize(
    ("length", "scale", "want"), [(10, 0.7, 7), (10, 0.1, 1), (3, 1 / 3, 1), (5, 1.5, 7), (4, 0.2, 0)]
)
def test_output_length_is_computed_in_float32(length: int, scale: float, want: int) -> None:
    assert resize(np.zeros(length), scales=f32(scale)).shape == (want,)


def test_nearest_positions_of_a_float32_scale() -> None:
    # 1.5 / 0.6 - 0.5 is 2, and with float32(0.6) in float64 1.9999999.
    y = resize(np.arange(5.0), scales=f32(0.6), nearest_mode="floor")
    assert y.tolist() == [0, 2, 3]


# ------------------------------------------------------------------ sizes, axes, roi


@pytest.mark.parametrize(
    ("policy", "shape", "sizes", "want"),
    [
        ("stretch", (4, 6), (7, 8), (7, 8)),
        ("not_larger", (4, 6), (7, 8), (5, 8)),  # 4 * 8 / 6 = 5.33
        ("not_larger", (4, 6), (3, 30), (3, 5)),  # 6 * 3 / 4 = 4.5 rounds up
        ("not_smaller", (5, 8), (7, 8), (7, 11)),  # 8 * 7 / 5 = 11.2
        ("not_smaller", (5, 8), (1, 4), (3, 4)),  # 5 * 4 / 8 = 2.5 rounds up
    ],
)
def test_keep_aspect_ratio(
    policy: str, shape: tuple[int, ...], sizes: tuple[int, ...], want: tuple[int, ...]
) -> None:
    y = resize(image(2, *shape), sizes=i64(*sizes), axes=(1, 2), keep_aspect_ratio_policy=policy, opset=18)
    assert y.shape == (2, *want)


def test_axes_may_be_negative_and_in_any_order() -> None:
    x = image(2, 3, 4)
    y = resize(x, sizes=i64(8, 6), axes=(-1, 1), mode="linear")
    np.testing.assert_array_equal(y, resize(x, sizes=i64(2, 6, 8), mode="linear"))


def test_crop_follows_the_region_in_the_output_size() -> None:
    # "output_dimension = floor(input_dimension * (roi_end - roi_start) * scale)"
    y = resize(
        np.arange(8.0), scales=f32(2), roi=f32(0.25, 0.75), mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
    )  # fmt: skip
    np.testing.assert_allclose(y, 1.75 + np.arange(8) * 3.5 / 7)


def test_region_outside_is_extrapolated_on_any_axis() -> None:
    y = resize(
        np.ones((2, 2), np.uint8), sizes=i64(3, 3), roi=f32(-1, 0, 1, 1), extrapolation_value=9.0,
        coordinate_transformation_mode="tf_crop_and_resize",
    )  # fmt: skip
    assert y.tolist() == [[9, 9, 9], [1, 1, 1], [1, 1, 1]]


def test_roi_counts_in_tf_crop_and_resize_only() -> None:
    x = np.arange(4.0)
    assert np.array_equal(resize(x, sizes=i64(4), roi=f32(0.5, 0.6)), x)


def test_align_corners_uses_the_length_before_rounding() -> None:
    y = resize(
        np.arange(1.0, 5), scales=f32(0.6), mode="linear", coordinate_transformation_mode="align_corners"
    )
    np.testing.assert_allclose(y, [1, 1 + 3 / (2.4 - 1)], rtol=1e-6)


# ------------------------------------------------------------------ versions


def test_tf_half_pixel_for_nn_is_of_version_11_only() -> None:
    x = np.arange(6.0)
    kw: dict[str, Any] = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"}
    y = resize(x, roi=f32(), scales=f32(0.5), opset=11, **kw)
    assert y.tolist() == [1, 3, 5]  # (i + .5) * 2
    for opset in (13, 18, 19):
        with pytest.raises(KernelError, match="coordinate_transformation_mode must be one of .*tf_half"):
            resize(x, scales=f32(0.5), opset=opset, **kw)


def test_half_pixel_symmetric_came_with_version_19() -> None:
    kw: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel_symmetric", "mode": "linear"}
    y = resize(np.arange(4.0), scales=f32(0.6), **kw)
    # Positions 1/3 and 2 moved by centre * (1 - 2 / 2.4).
    np.testing.assert_allclose(y, np.array([1 / 3, 2.0]) + 2 * (1 - 2 / 2.4), rtol=1e-6)
    with pytest.raises(KernelError, match="coordinate_transformation_mode"):
        resize(np.arange(4.0), scales=f32(0.6), opset=18, **kw)


@pytest.mark.parametrize(
    ("op_type", "opset"),
    [("Resize", 10), ("Upsample", 9), ("Upsample", 10), ("Upsample", 7), ("Upsample", 1)],
)
@pytest.mark.parametrize(("mode", "want"), [("nearest", [0, 0, 1, 1]), ("linear", [0, 0.5, 1, 1])])
def test_old_versions_are_asymmetric(op_type: str, opset: int, mode: str, want: list[float]) -> None:
    x = f32(0, 1).reshape(1, 1, 1, 2)
    if opset == 1:
        mode = {"linear": "bilinear"}.get(mode, mode)
        y = run_op(op_type, x, opset=opset, mode=mode, height_scale=1.0, width_scale=2.0)
    elif opset == 7:
        y = run_op(op_type, x, opset=opset, mode=mode, scales=(1.0, 1.0, 1.0, 2.0))
    else:
        y = run_op(op_type, x, f32(1, 1, 1, 2), opset=opset, mode=mode)
    assert y.ravel().tolist() == want


def test_resize_10_shrinks_to_the_right() -> None:
    # The case of the onnx 1.5 release: positions 0 and 1.67 are 0 and 2.
    x = np.arange(1, 9, dtype=F32).reshape(1, 1, 2, 4)
    assert run_op("Resize", x, f32(1, 1, 0.6, 0.6), opset=10).tolist() == [[[[1, 3]]]]


def test_upsample_does_not_shrink() -> None:
    with pytest.raises(KernelError, match=r"scales must be >= 1 \(got"):
        run_op("Upsample", f32(1, 2), f32(0.5), opset=9)


def test_upsample_1_needs_four_axes() -> None:
    with pytest.raises(KernelError, match="X must have rank 4"):
        run_op("Upsample", f32(1, 2), opset=1, height_scale=1.0, width_scale=1.0)


# ------------------------------------------------------------------ types, special values, shapes


@pytest.mark.parametrize("opset", [10, 11, 13, 18, 19])
@pytest.mark.parametrize("dtype", TYPES_13)
def test_nearest_takes_every_type(dtype: Any, opset: int) -> None:
    x = image(2, 3, dtype=dtype)
    inputs = (x, f32(2, 2)) if opset == 10 else (x, f32(), f32(2, 2))
    y = run_op("Resize", *inputs, opset=opset)
    assert y.dtype == x.dtype
    assert np.array_equal(y, x.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", [t for t in TYPES_13 if t is not np.object_])
def test_interpolation_takes_every_number(dtype: Any, mode: str) -> None:
    x = image(5, dtype=dtype) * (
        np.array(1 + 2j, dtype) if np.dtype(dtype).kind == "c" else np.array(1, dtype)
    )
    y = resize(x, sizes=i64(7), mode=mode)
    assert y.dtype == x.dtype
    exact = resize(x.astype(np.complex128), sizes=i64(7), mode=mode)
    if np.dtype(dtype).kind == "b":
        assert np.array_equal(y, np.rint(exact.real) != 0)
    elif np.dtype(dtype).kind in "iu":
        assert np.array_equal(y, np.clip(np.rint(exact.real), np.iinfo(dtype).min, None))
    elif np.dtype(dtype).itemsize == 2:  # rounded once
        assert np.array_equal(y, exact.real.astype(F32).astype(dtype))
    else:
        np.testing.assert_allclose(y, exact, rtol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.int8, 127), (np.uint8, 255), (np.int64, 2**63 - 1), (np.uint64, 2**64 - 1)]
)
def test_cubic_overshoot_saturates(dtype: Any, top: int) -> None:
    x = np.array([top, top, 0, 0, top, top], dtype)
    y = resize(x, sizes=i64(24), mode="cubic")
    assert int(y.max()) == top
    assert int(y.min()) == (0 if np.dtype(dtype).kind == "u" else int(y.min()))


def test_a_weight_of_zero_ignores_infinity() -> None:
    x = f32(1, np.inf, 2, 3)
    y = resize(x, sizes=i64(7), mode="linear", coordinate_transformation_mode="align_corners")
    assert y.tolist() == [1, np.inf, np.inf, np.inf, 2, 2.5, 3]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_empty_and_scalar(mode: str) -> None:
    assert resize(np.zeros((0, 3)), scales=f32(2, 2), mode=mode).shape == (0, 6)
    assert resize(np.zeros((2, 3)), sizes=i64(2, 0), mode=mode).shape == (2, 0)
    assert resize(np.array(5.0), scales=f32(), mode=mode) == 5.0
    assert resize(np.zeros(1), scales=f32(0.3), mode=mode, antialias=1).shape == (0,)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({}, r"exactly one of scales and sizes must be given \(got none\)"),
        ({"scales": f32(2), "sizes": i64(2)}, r"\(got both\)"),
        ({"scales": f32(2, 2)}, r"scales must hold 1 values \(got 2\)"),
        ({"scales": f32(0)}, "scales must be positive and finite"),
        ({"scales": f32(np.inf)}, "scales must be positive and finite"),
        ({"sizes": i64(-1)}, "sizes must hold 1 values >= 0"),
        ({"sizes": i64(2), "mode": "area"}, r"mode must be one of nearest, linear, cubic \(got 'area'\)"),
        ({"sizes": i64(2), "nearest_mode": "up"}, "nearest_mode must be one of"),
        ({"sizes": i64(2), "keep_aspect_ratio_policy": "x"}, "keep_aspect_ratio_policy must be one of"),
        ({"sizes": i64(2), "axes": (1,)}, r"axes must be in \[-1, 0\]"),
        ({"sizes": i64(2, 2), "axes": (0, -1)}, "axes must not repeat"),
        ({"sizes": i64(2), "coordinate_transformation_mode": "tf_crop_and_resize"}, "roi must hold 2 values"),
        (
            {"scales": f32(2), "roi": f32(1, 0), "coordinate_transformation_mode": "tf_crop_and_resize"},
            "roi must have end >= start",
        ),
        (
            {"scales": f32(1e-6), "roi": f32(0, 1e6), "mode": "linear", "antialias": 1,
             "coordinate_transformation_mode": "tf_crop_and_resize"},
            "scales must be >= 0.5 / 4 with antialias",
        ),
    ],
)  # fmt: skip
def test_bad_arguments(kw: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        resize(np.arange(4.0), **kw)


def test_strings_cannot_be_interpolated() -> None:
    with pytest.raises(KernelError, match="mode must be nearest for strings"):
        resize(image(3, dtype=np.object_), sizes=i64(5), mode="linear")
    with pytest.raises(KernelError, match="roi must lie inside X for strings"):
        resize(
            image(3, dtype=np.object_),
            sizes=i64(5),
            roi=f32(-1, 1),
            coordinate_transformation_mode="tf_crop_and_resize",
        )


def test_growing_from_nothing_is_refused() -> None:
    with pytest.raises(KernelError, match="sizes must be 0 where X is empty"):
        resize(np.zeros(0), sizes=i64(2))


def test_cost_is_known_before_anything_is_allocated() -> None:
    cost = registry.find("", "Resize", 19).cost
    assert cost is not None
    assert cost(f32(1), None, None, i64(10**15)).out_bytes == 4 * 10**15
    assert cost(f32(1), None, f32(2**40)).out_bytes == 4 * 2**40
