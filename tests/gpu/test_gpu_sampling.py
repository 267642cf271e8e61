"""GridSample, RoiAlign and Col2Im on the emulator, held to the reference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.sampling  # noqa: F401
import pytest

from onnxref import registry
from onnxref.limits import DEFAULT, Budget
from onnxref.lowering import Unsupported
from onnxref.plan.specialize._program import RefusedError
from tests.lowered import reference

from .exact import check_exact, tensor
from .lowered import run_on_device


def normal(shape: Sequence[int], dtype: Any = np.float32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(dtype)


def grid_of(shape: Sequence[int], dtype: Any = np.float32) -> Any:
    """Return points in and around the image, a few far out and one that is no number."""
    grid = np.random.default_rng(1).uniform(-1.4, 1.4, tuple(shape))
    flat = grid.reshape(-1)
    flat[:3] = (-1, 0, 5)
    flat[-1] = np.nan
    return grid.astype(dtype)


def check_near(found: Any, expected: Any, dtype: Any, ulps: float = 32) -> None:
    eps = float(ml_dtypes.finfo(dtype).eps)
    wide = [v.astype(np.float64) for v in (found, expected)]
    np.testing.assert_allclose(*wide, rtol=ulps * eps, atol=ulps * eps)


@pytest.mark.parametrize(
    ("mode", "padding", "align"),
    list(itertools.product(("linear", "cubic"), ("zeros", "border", "reflection"), (0, 1))),
)
def test_grid_sample(mode: str, padding: str, align: int) -> None:
    x, grid = normal((2, 11, 5, 7)), grid_of((2, 6, 5, 2))
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": align}
    (expected,) = reference("GridSample", [x, grid], attributes, 22)
    (found,) = run_on_device("GridSample", [x, grid], [(expected.shape, x.dtype)], attributes, opset=22)
    check_near(found, expected, x.dtype)


@pytest.mark.parametrize(
    ("padding", "align"), list(itertools.product(("zeros", "border", "reflection"), (0, 1)))
)
def test_grid_sample_of_the_nearest(padding: str, align: int) -> None:
    attributes = {"mode": "nearest", "padding_mode": padding, "align_corners": align}
    check_exact("GridSample", [tensor((2, 3, 4, 6)), grid_of((2, 5, 5, 2))], attributes, 22)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_grid_sample_of_other_ranks_and_types(dtype: Any, rank: int) -> None:
    x, grid = normal((1, 3, *(5, 4, 6)[:rank]), dtype), grid_of((1, *(3, 2, 4)[:rank], rank), dtype)
    (expected,) = reference("GridSample", [x, grid], {}, 20)
    (found,) = run_on_device("GridSample", [x, grid], [(expected.shape, x.dtype)], {}, opset=20)
    check_near(found, expected, dtype)


def test_grid_sample_16_and_what_it_refuses() -> None:
    x, grid = normal((1, 2, 4, 4)), grid_of((1, 3, 3, 2))
    (expected,) = reference("GridSample", [x, grid], {"mode": "bicubic"}, 16)
    (found,) = run_on_device(
        "GridSample", [x, grid], [(expected.shape, x.dtype)], {"mode": "bicubic"}, opset=16
    )
    check_near(found, expected, x.dtype)
    with pytest.raises(Unsupported, match="int32"):
        run_on_device("GridSample", [x.astype(np.int32), grid], [(expected.shape, np.int32)], {}, opset=16)


def roi_reference(inputs: Any, attributes: Any, opset: int) -> Any:
    operator = registry.find("", "RoiAlign", opset)
    context = registry.Context(wanted=(True,), opset=opset, budget=Budget(DEFAULT))
    return operator.kernel(*inputs, **attributes, ctx=context)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("opset", [10, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_roi_align(dtype: Any, opset: int, mode: str, ratio: int) -> None:
    x = normal((2, 3, 8, 9), dtype)
    rois = np.array([[0, 0, 5, 6], [1.5, 2, 20, 9], [-3, -2, 4, 4], [3, 3, 3, 3]], dtype)
    inputs = [x, rois, np.array([0, 1, 1, 0], np.int64)]
    attributes = {
        "output_height": 3,
        "output_width": 2,
        "sampling_ratio": ratio,
        "mode": mode,
        "spatial_scale": 0.75,
    }
    expected = roi_reference(inputs, attributes, opset)
    (found,) = run_on_device("RoiAlign", inputs, [(expected.shape, x.dtype)], attributes, opset=opset)
    check_near(found, expected, dtype)
    for wrong in (np.array([0, 2, 1, 0]), np.array([0, -1, 1, 0])):
        with pytest.raises(RefusedError):
            run_on_device("RoiAlign", [x, rois, wrong], [(expected.shape, x.dtype)], attributes, opset=opset)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_col2im(dtype: Any) -> None:
    for size, block, options in (
        ((5, 6), (2, 3), {}),
        ((7, 5), (3, 2), {"strides": (2, 1), "pads": (1, 0, 1, 2), "dilations": (1, 2)}),
        ((4, 3, 5), (2, 2, 2), {}),
        ((9,), (3,), {"strides": (2,)}),
    ):
        from onnxref.kernels.numpy._windows import slide

        windows = slide(size, block, options.get("strides"), options.get("dilations"), options.get("pads"))
        x = normal((2, 3 * int(np.prod(block)), int(np.prod(windows.out))), dtype)
        inputs = [x, np.array(size, np.int64), np.array(block, np.int64)]
        (expected,) = reference("Col2Im", inputs, options, 18)
        (found,) = run_on_device(
            "Col2Im", inputs, [(expected.shape, x.dtype)], options, opset=18, constants=(1, 2)
        )
        check_near(found, expected, dtype)
