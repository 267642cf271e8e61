"""GridSample and AffineGrid against their definitions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from images import BF16, F32, TYPES_13, cubic_weight, f32, i64, image

from onnxref.dtypes import Array
from onnxref.errors import KernelError

# ------------------------------------------------------------------ GridSample


def pixel(x: Array, index: tuple[int, ...], padding: str, align: int) -> Any:
    """Value at an integer position, in or outside of `x`."""
    where = []
    for i, n in zip(index, x.shape, strict=True):
        if padding == "zeros" and not 0 <= i < n:
            return 0.0
        if padding == "border":
            i = min(max(i, 0), n - 1)
        low, high = (0, n - 1) if align else (-0.5, n - 0.5)
        while padding == "reflection" and not low <= i <= high and high > low:
            i = int(2 * low - i if i < low else 2 * high - i)
        where.append(0 if high == low and padding == "reflection" else i)
    return x[tuple(where)]


def direct_sample(x: Array, vector: Array, mode: str, padding: str, align: int) -> Any:
    """Sample spatial `x` at one grid vector, by the schema's words."""
    place = []
    for g, n in zip(vector[::-1].tolist(), x.shape, strict=True):
        p = (g + 1) / 2 * (n - 1) if align else ((g + 1) * n - 1) / 2
        p = float(np.rint(p)) if mode == "nearest" else p
        if padding == "border":
            p = min(max(p, 0), n - 1)
        place.append(p)
    if mode == "nearest":
        return pixel(x, tuple(map(int, place)), padding, align)
    offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
    total = 0.0
    for o in itertools.product(offsets, repeat=len(place)):
        index = tuple(math.floor(p) + k for p, k in zip(place, o, strict=True))
        d = [p - i for p, i in zip(place, index, strict=True)]
        w = math.prod(1 - abs(v) if mode == "linear" else cubic_weight(v, -0.75) for v in d)
        total = total + w * pixel(x, index, padding, align)
    return total


@settings(max_examples=120, deadline=None)
@given(
    spatial=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    mode=st.sampled_from(["linear", "nearest", "cubic"]),
    padding=st.sampled_from(["zeros", "border", "reflection"]),
    align=st.integers(0, 1),
    seed=st.integers(0, 100),
)
def test_grid_sample_follows_the_definition(
    spatial: list[int], mode: str, padding: str, align: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 3, *spatial))
    grid = rng.uniform(-2.2, 2.2, size=(2, *(2,) * len(spatial), len(spatial)))
    y = run_op("GridSample", x, grid, opset=22, mode=mode, padding_mode=padding, align_corners=align)
    assert y.shape == (2, 3, *(2,) * len(spatial))
    for n, c in np.ndindex(2, 3):
        for at in np.ndindex(grid.shape[1:-1]):
            want = direct_sample(x[n, c], grid[(n, *at)], mode, padding, align)
            np.testing.assert_allclose(y[(n, c, *at)], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new"), [("bilinear", "linear"), ("nearest", "nearest"), ("bicubic", "cubic")]
)
def test_grid_sample_modes_were_renamed_in_version_20(old: str, new: str) -> None:
    x, grid = image(1, 1, 3, 3), np.linspace(-1, 1, 18, dtype=F32).reshape(1, 3, 3, 2)
    before = run_op("GridSample", x, grid, opset=16, mode=old)
    np.testing.assert_array_equal(before, run_op("GridSample", x, grid, opset=20, mode=new))
    if old != new:
        for opset, mode in ((16, new), (20, old)):
            with pytest.raises(KernelError, match="mode must be one of"):
                run_op("GridSample", x, grid, opset=opset, mode=mode)


def test_grid_sample_16_knows_four_axes_only() -> None:
    with pytest.raises(KernelError, match="X must have rank 4"):
        run_op("GridSample", np.zeros((1, 1, 2, 2, 2)), np.zeros((1, 2, 2, 2, 3)), opset=16)


@pytest.mark.parametrize("dtype", TYPES_13)
@pytest.mark.parametrize("grid_type", [F32, np.float64, np.float16, BF16])
def test_grid_sample_takes_every_type(dtype: Any, grid_type: Any) -> None:
    x = image(1, 2, 3, 3, dtype=dtype)
    grid = np.array([[-1, -1], [0, 0], [1, -1], [5, 5]], grid_type).reshape(1, 1, 4, 2)
    y = run_op("GridSample", x, grid, opset=22, mode="nearest", align_corners=1)
    assert y.dtype == x.dtype
    assert np.array_equal(y[0, :, 0, :3], x[0][:, [0, 1, 0], [0, 1, 2]])
    assert (y[0, :, 0, 3] == ("" if dtype is np.object_ else np.zeros((), dtype))).all()
    if dtype is not np.object_:
        y = run_op("GridSample", x, grid, opset=22, align_corners=1)
        assert y.dtype == x.dtype
        assert np.array_equal(y[0, :, 0, :3], x[0][:, [0, 1, 0], [0, 1, 2]])


def test_grid_sample_cuts_integers_toward_zero() -> None:
    x = np.array([-3, 4, 7], np.int32).reshape(1, 1, 3)
    grid = np.array([-0.5, 0.5], F32).reshape(1, 2, 1)
    y = run_op("GridSample", x, grid, opset=22, align_corners=1)
    assert y.ravel().tolist() == [0, 5]  # .5 and 5.5


def test_grid_sample_special_positions() -> None:
    x = f32(1, 2, np.inf).reshape(1, 1, 3)
    grid = f32(-1, 0, np.inf, -np.inf, np.nan).reshape(1, 5, 1)
    y = run_op("GridSample", x, grid, opset=22, align_corners=1)
    np.testing.assert_array_equal(y.ravel(), [1, 2, 0, 0, np.nan])
    y = run_op("GridSample", x, grid, opset=22, align_corners=1, padding_mode="border", mode="nearest")
    np.testing.assert_array_equal(y.ravel(), [1, 2, np.inf, 1, 0])


def test_grid_sample_empty() -> None:
    grid = np.zeros((1, 2, 2, 2), F32)
    assert (
        run_op("GridSample", np.ones((1, 3, 0, 4), F32), grid, opset=16).tolist()
        == np.zeros((1, 3, 2, 2)).tolist()
    )
    assert run_op("GridSample", np.ones((1, 0, 3, 4), F32), grid, opset=16).shape == (1, 0, 2, 2)
    assert run_op("GridSample", np.ones((1, 3, 3, 4), F32), grid[:, :0], opset=16).shape == (1, 3, 0, 2)


@pytest.mark.parametrize(
    ("x_shape", "grid_shape", "kw", "message"),
    [
        ((1, 1, 2, 2), (1, 2, 2, 3), {}, r"grid must be \(N, D1 ... Dr, r\)"),
        ((1, 1, 2, 2), (2, 2, 2, 2), {}, r"grid must have the batch size of X, 1 \(got 2\)"),
        ((1, 1, 2, 2), (1, 2, 2, 2), {"padding_mode": "wrap"}, "padding_mode must be one of"),
        ((1, 1, 0, 2), (1, 2, 2, 2), {"padding_mode": "border"}, "X must not be empty"),
        ((1, 1, *(1,) * 9), (1, *(1,) * 9, 9), {"mode": "cubic"}, "X must have fewer axes"),
    ],
)
def test_grid_sample_bad_arguments(
    x_shape: tuple[int, ...], grid_shape: tuple[int, ...], kw: dict[str, Any], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("GridSample", np.zeros(x_shape, F32), np.zeros(grid_shape, F32), opset=22, **kw)


# ------------------------------------------------------------------ AffineGrid


@settings(max_examples=50, deadline=None)
@given(
    spatial=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    align=st.integers(0, 1),
    seed=st.integers(0, 50),
)
def test_affine_grid_follows_the_definition(spatial: list[int], align: int, seed: int) -> None:
    rank = len(spatial)
    theta = np.random.default_rng(seed).normal(size=(2, rank, rank + 1))
    y = run_op("AffineGrid", theta, i64(2, 7, *spatial), opset=20, align_corners=align)
    assert y.shape == (2, *spatial, rank)
    for n, *at in np.ndindex(2, *spatial):
        p = [
            (-1 + 2 * i / (d - 1) if d > 1 else -1) if align else -1 + (2 * i + 1) / d
            for i, d in zip(at, spatial, strict=True)
        ]
        np.testing.assert_allclose(y[(n, *at)], theta[n] @ [*p[::-1], 1.0], atol=1e-12)


@pytest.mark.parametrize("dtype", [BF16, np.float16, F32, np.float64])
def test_affine_grid_types(dtype: Any) -> None:
    theta = np.array([[[0.3, 0.7, 0.1], [-0.2, 0.9, 0.4]]], dtype)
    y = run_op("AffineGrid", theta, i64(1, 1, 3, 5), opset=20)
    assert y.dtype == theta.dtype
    want = run_op("AffineGrid", theta.astype(np.float64), i64(1, 1, 3, 5), opset=20)
    eps = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(np.float64), want, rtol=2 * eps, atol=2 * eps)


@pytest.mark.parametrize(
    ("theta_shape", "size", "message"),
    [
        ((1, 2, 3), i64(1, 1, 2), "size must be"),
        ((1, 2, 3), i64(1, 1, 2, -2), "size must be"),
        ((1, 2, 3), i64(2, 1, 2, 2), r"theta must have shape \(2, 2, 3\) \(got \(1, 2, 3\)\)"),
        ((1, 2, 3), i64(1, 1, 2, 2, 2), r"theta must have shape \(1, 3, 4\)"),
    ],
)
def test_affine_grid_bad_arguments(theta_shape: tuple[int, ...], size: Array, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("AffineGrid", np.zeros(theta_shape), size, opset=20)
