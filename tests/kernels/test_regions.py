"""Pools over regions of interest against their definitions, element by element."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op

from onnxref.dtypes import Array
from onnxref.errors import KernelError, ResourceLimitError

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
TOLERANCE = {np.float16: 2e-3, np.float32: 1e-5, np.float64: 1e-12, ml_dtypes.bfloat16: 1e-2}


def normal(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape)


def half_away(value: float) -> int:
    return math.floor(value + 0.5) if value >= 0 else -math.floor(-value + 0.5)


def roi_pool_by_definition(x: Array, rois: Array, pooled: tuple[int, int], scale: float) -> Array:
    y = np.zeros((len(rois), x.shape[1], *pooled))
    for r, (batch, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (half_away(c * scale) for c in corners)
        for ph, pw in np.ndindex(*pooled):
            spans = []
            for first, last, p, count, size in (
                (y1, y2, ph, pooled[0], x.shape[2]),
                (x1, x2, pw, pooled[1], x.shape[3]),
            ):
                extent = max(last - first + 1, 1)
                start = first + p * extent // count
                stop = first + -(-(p + 1) * extent // count)
                spans.append(slice(min(max(start, 0), size), min(max(stop, 0), size)))
            covered = x[(int(batch), slice(None), *spans)]
            if covered.size:
                y[r, :, ph, pw] = covered.max(axis=(1, 2))
    return y


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("opset", [1, 22])
def test_max_roi_pool_is_its_definition(dtype: Any, opset: int) -> None:
    random = np.random.default_rng(11)
    x = normal(2, 3, 9, 7).astype(dtype)
    corners = random.integers(-8, 40, (30, 4)) / 2
    rois = np.concatenate([random.integers(0, 2, (30, 1)), corners], axis=1).astype(dtype)
    y = run_op("MaxRoiPool", x, rois, opset=opset, pooled_shape=(3, 4), spatial_scale=0.5)
    assert y.dtype == dtype
    expected = roi_pool_by_definition(x.astype(np.float64), rois.astype(np.float64), (3, 4), 0.5)
    np.testing.assert_array_equal(y.astype(np.float64), expected)


def test_max_roi_pool_far_away_and_refusals() -> None:
    x = np.ones((1, 1, 2, 2), np.float32)
    rois = np.array([[0, -1e30, -1e30, 1e30, 1e30], [0, 1e30, 0, 1e30, 1]], np.float32)
    y = run_op("MaxRoiPool", x, rois, opset=22, pooled_shape=(1, 1))
    np.testing.assert_array_equal(y.ravel(), [1, 0])
    assert run_op("MaxRoiPool", x, rois[:0], opset=22, pooled_shape=(2, 3)).shape == (0, 1, 2, 3)
    for bad, message in [
        (np.zeros((1, 4), np.float32), "shape of rois must be"),
        (np.full((1, 5), math.nan, np.float32), "rois must be finite"),
        (np.full((1, 5), 7, np.float32), "batch index must be in"),
    ]:
        with pytest.raises(KernelError, match=message):
            run_op("MaxRoiPool", x, bad, opset=22, pooled_shape=(1, 1))
    with pytest.raises(KernelError, match="pooled_shape must be in"):
        run_op("MaxRoiPool", x, rois, opset=22, pooled_shape=(1, 0))


def roi_align_by_definition(
    x: Array, rois: Array, batch: Array, output: Any, ratio: int, scale: float, half_pixel: bool, mode: str
) -> Array:
    height, width = x.shape[2:]
    y = np.zeros((len(rois), x.shape[1], *output))
    for r, corners in enumerate(rois):
        shift = 0.5 if half_pixel else 0.0
        x1, y1, x2, y2 = (c * scale - shift for c in corners)
        spans = [y2 - y1, x2 - x1]
        if not half_pixel:
            spans = [max(s, 1) for s in spans]
        bins = [s / o for s, o in zip(spans, output, strict=True)]
        grid = [ratio or max(0, math.ceil(b)) for b in bins]
        for ph, pw in np.ndindex(*output):
            samples = []
            for iy, ix in np.ndindex(*grid):
                py = y1 + ph * bins[0] + (iy + 0.5) * bins[0] / grid[0]
                px = x1 + pw * bins[1] + (ix + 0.5) * bins[1] / grid[1]
                if not (-1 <= py <= height and -1 <= px <= width):
                    samples.append([np.zeros(x.shape[1])] * 4)
                    continue
                py, px = min(max(py, 0), height - 1), min(max(px, 0), width - 1)
                ly, lx = int(py), int(px)
                hy, hx = min(ly + 1, height - 1), min(lx + 1, width - 1)
                samples.append(
                    [
                        abs(wy) * abs(wx) * x[batch[r], :, qy, qx]
                        for (qy, wy), (qx, wx) in itertools.product(
                            [(ly, 1 - (py - ly)), (hy, py - ly)], [(lx, 1 - (px - lx)), (hx, px - lx)]
                        )
                    ]
                )
            if samples and mode == "avg":
                y[r, :, ph, pw] = np.sum(samples, axis=(0, 1)) / len(samples)
            elif samples:
                y[r, :, ph, pw] = np.max(samples, axis=(0, 1))
    return y


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("opset", [10, 16, 22])
@pytest.mark.parametrize("transformation", ["half_pixel", "output_half_pixel"])
def test_roi_align_is_its_definition(mode: str, ratio: int, opset: int, transformation: str) -> None:
    random = np.random.default_rng(5)
    x = random.standard_normal((2, 3, 8, 9))
    rois = np.concatenate([random.uniform(-6, 20, (12, 4)), [[3, 3, 3, 3], [9, 9, 2, 1], [0, 0, 17, 15]]])
    batch = random.integers(0, 2, len(rois))
    attributes: dict[str, Any] = {} if opset == 10 else {"coordinate_transformation_mode": transformation}
    half_pixel = opset > 10 and transformation == "half_pixel"
    y = run_op(
        "RoiAlign",
        x,
        rois,
        batch,
        opset=opset,
        mode=mode,
        output_height=2,
        output_width=3,
        sampling_ratio=ratio,
        spatial_scale=0.5,
        **attributes,
    )
    expected = roi_align_by_definition(x, rois, batch, (2, 3), ratio, 0.5, half_pixel, mode)
    np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("opset", [10, 16, 22])
def test_roi_align_types(dtype: Any, opset: int) -> None:
    x = normal(1, 2, 6, 6).astype(dtype)
    rois, batch = np.array([[1, 1, 5, 4]]).astype(dtype), np.array([0])
    y = run_op("RoiAlign", x, rois, batch, opset=opset, output_height=2, output_width=2)
    expected = roi_align_by_definition(
        x.astype(np.float64), rois.astype(np.float64), batch, (2, 2), 0, 1.0, opset > 10, "avg"
    )
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mode": "min"}, "mode must be one of avg, max"),
        ({"sampling_ratio": -1}, "sampling_ratio must be at least 0"),
        ({"output_height": 0}, "output_height and output_width must be in"),
        ({"coordinate_transformation_mode": "pixel"}, "coordinate_transformation_mode must be"),
    ],
)
def test_roi_align_refuses(attributes: dict[str, Any], message: str) -> None:
    x, rois, batch = np.ones((1, 1, 4, 4)), np.ones((1, 4)), np.zeros(1, np.int64)
    with pytest.raises(KernelError, match=message):
        run_op("RoiAlign", x, rois, batch, opset=22, **attributes)
    with pytest.raises(KernelError, match="batch index must be in"):
        run_op("RoiAlign", x, rois, batch + 1, opset=22)
    with pytest.raises(KernelError, match="batch_indices must have shape"):
        run_op("RoiAlign", x, rois, batch[:0], opset=22)


@pytest.mark.parametrize(
    "attributes", [{"sampling_ratio": 10**9}, {"spatial_scale": 1e12}, {"sampling_ratio": 2**62}]
)
def test_roi_align_charges_its_samples(attributes: dict[str, Any]) -> None:
    x, rois, batch = np.ones((1, 1, 4, 4)), np.array([[0.0, 0, 4, 4]]), np.zeros(1, np.int64)
    with pytest.raises(ResourceLimitError):
        run_op("RoiAlign", x, rois, batch, opset=22, **attributes)
