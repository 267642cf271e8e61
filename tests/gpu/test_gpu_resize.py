"""Resize and Upsample on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.resize  # noqa: F401
import pytest

from onnxref.lowering import Unsupported
from tests.lowered import reference

from .emulator.device import EmulatedDevice
from .exact import SIZES, check_exact, tensor
from .lowered import run_on_device

MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")


def scales_of(*scales: float) -> Any:
    return np.array(scales, np.float32)


def check_near(
    x: Any, scales: Any, attributes: Any, *, roi: Any = None, opset: int = 19, last: bool = False
) -> None:
    inputs = [x, roi, scales]
    (expected,) = reference("Resize", inputs, attributes, opset)
    places = {"channels_last": (0,), "outputs_last": (0,)} if last else {}
    (found,) = run_on_device(
        "Resize", inputs, [(expected.shape, x.dtype)], attributes, opset=opset, constants=(1, 2), **places
    )
    assert found is not None
    if x.dtype.kind in "iu":
        assert np.abs(found.astype(np.int64) - expected).max() <= 1
        assert (found == expected).mean() > 0.98
        return
    eps = float(ml_dtypes.finfo(x.dtype).eps)
    wide = [v.astype(np.float64) for v in (found, expected)]
    np.testing.assert_allclose(*wide, rtol=4 * eps, atol=64 * eps)


def normal(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return (np.random.default_rng(0).standard_normal(shape) * 2).astype(dtype)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("positions", MODES)
def test_nearest(positions: str, channels_last: bool) -> None:
    for rule in ("round_prefer_floor", "ceil"):
        attributes = {"coordinate_transformation_mode": positions, "nearest_mode": rule}
        x = tensor((2, 8, 3, 5), np.float16)
        for scales in (scales_of(1, 1, 2, 2), scales_of(1, 1, 1.5, 0.7)):
            check_exact(
                "Resize", [x, None, scales], attributes, 19, constants=(2,), channels_last=channels_last
            )


@pytest.mark.parametrize(
    ("dtype", "channels", "ratio"), [(np.float16, 16, 8), (np.float16, 12, 4), (np.float32, 8, 4)]
)
def test_nearest_moves_pixels_in_wide_accesses(dtype: Any, channels: int, ratio: int) -> None:
    device = EmulatedDevice()
    inputs = [tensor((1, channels, 3, 5), dtype), None, scales_of(1, 1, 2, 2)]
    check_exact("Resize", inputs, {}, 19, constants=(2,), channels_last=True, device=device)
    assert f"RATIO={ratio}, UNIT={np.dtype(dtype).itemsize}" in device.log[0]  # elements at once, their bytes


@pytest.mark.parametrize("size", SIZES)
def test_nearest_of_all_sizes_and_axes(size: int) -> None:
    x = tensor((2, 3, 5), SIZES[size])
    check_exact("Resize", [x, None, scales_of(2, 1.7, 0.5)], {}, 13, constants=(2,))
    check_exact("Upsample", [x, scales_of(1, 2, 1)], {}, 9, constants=(1,))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("positions", MODES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation(mode: str, positions: str, last: bool) -> None:
    attributes = {"mode": mode, "coordinate_transformation_mode": positions}
    check_near(normal((2, 4, 5, 6)), scales_of(1, 1, 2.3, 0.6), attributes, last=last)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_several_planes_at_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxref.kernels.cupy.resize._MANY", 1)
    check_near(normal((2, 3, 5, 6)), scales_of(1, 1, 2.3, 0.6), {"mode": mode})
    check_near(normal((2, 3, 5, 6)), scales_of(1, 1, 2.3, 0.6), {"mode": mode}, last=True)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.uint8, np.int32])
def test_types(dtype: Any) -> None:
    x = np.abs(normal((1, 3, 5, 6)) * 30).astype(dtype)
    check_near(x, scales_of(1, 1, 2, 1.5), {"mode": "linear"})


def test_cubic_saturates() -> None:
    x = np.random.default_rng(1).choice([0, 255], (1, 2, 6, 6)).astype(np.uint8)
    check_near(x, scales_of(1, 1, 2, 2), {"mode": "cubic"})


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias_and_outside(mode: str) -> None:
    x = normal((1, 2, 9, 11))
    check_near(x, scales_of(1, 1, 0.4, 0.3), {"mode": mode, "antialias": 1})
    check_near(x, scales_of(1, 1, 0.4, 1.3), {"mode": mode, "exclude_outside": 1})
    x[0, 0, 4, 5] = np.inf
    x[0, 1, 0, 0] = np.nan
    check_near(x, scales_of(1, 1, 2, 2), {"mode": mode, "coordinate_transformation_mode": "asymmetric"})


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_cropping(mode: str) -> None:
    attributes = {
        "mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.5,
    }  # fmt: skip
    roi = np.array((0, 0, 0.2, -0.3, 1, 1, 0.8, 1.4), np.float32)
    check_near(normal((1, 2, 6, 7)), scales_of(1, 1, 2, 1.5), attributes, roi=roi)


def test_one_axis_and_three() -> None:
    check_near(normal((2, 3, 7)), scales_of(1, 1, 2.5), {"mode": "linear"})
    check_near(normal((1, 2, 3, 4, 5)), scales_of(1, 1, 2, 1.5, 2), {"mode": "linear"})
    with pytest.raises(Unsupported, match="4 axes"):
        check_near(normal((2, 2, 3, 4)), scales_of(2, 2, 2, 2), {"mode": "linear"})


def test_versions() -> None:
    x = normal((1, 2, 4, 4))
    sizes = np.array((1, 2, 7, 3), np.int64)
    check_exact("Resize", [x, None, None, sizes], {}, 18, constants=(3,))
    check_exact("Resize", [x, scales_of(), scales_of(1, 1, 2, 2)], {}, 11, constants=(1, 2))
    check_exact("Resize", [x, scales_of(1, 1, 0.6, 2)], {}, 10, constants=(1,))
    check_exact("Upsample", [x], {"scales": (1.0, 1.0, 2.0, 3.0)}, 7)
    check_exact("Upsample", [x], {"height_scale": 2.0, "width_scale": 2.5}, 1)
    check_exact("Resize", [x, None, scales_of(1, 1, 1, 1)], {"mode": "linear"}, 19, constants=(2,))
    with pytest.raises(Unsupported, match="not constant"):
        check_exact("Resize", [x, None, scales_of(1, 1, 2, 2)], {}, 19)
