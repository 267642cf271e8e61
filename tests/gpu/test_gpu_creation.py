"""OneHot, Trilu, EyeLike and ConstantOfShape on the emulator, held to the reference bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.creation  # noqa: F401
import pytest

from onnxref.lowering import Unsupported

from .exact import SIZES, check_exact, tensor
from .lowered import run_on_device


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.uint8, np.float16])
@pytest.mark.parametrize("opset", [9, 11])
@pytest.mark.parametrize(("shape", "axis"), [((3, 4), -1), ((2, 5), 0), ((3, 4), 1), ((), 0)])
def test_one_hot(shape: Any, axis: int, opset: int, dtype: Any) -> None:
    indices = (np.random.default_rng(0).random(shape) * 24 - 12).astype(np.int64)
    inputs = [np.asarray(indices).astype(dtype), np.array(7, np.int64), np.array([0.5, 2.0], np.float32)]
    check_exact("OneHot", inputs, {"axis": axis}, opset, constants=(1,))


def test_one_hot_of_fractions_and_of_nothing_finite() -> None:
    indices = np.array([0.5, -0.5, 2.9, -1.5, np.nan, np.inf, -np.inf, 1e30], np.float32)
    for size in SIZES:
        inputs = [indices, np.array([5], np.int64), tensor((2,), SIZES[size])]
        check_exact("OneHot", inputs, opset=11, constants=(1,))
    with pytest.raises(Unsupported, match="depth"):
        check_exact("OneHot", inputs, opset=11)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(upper: int, size: int) -> None:
    x = tensor((2, 5, 7), SIZES[size])
    for k in (None, 0, 2, -3, 99, -(1 << 62)):
        inputs = [x, None if k is None else np.array(k, np.int64)]
        check_exact("Trilu", inputs, {"upper": upper}, 14, constants=(1,))
    check_exact("Trilu", [tensor((3, 1), SIZES[size])], {"upper": upper}, 14)
    check_exact("Trilu", [tensor((0, 3), SIZES[size])], {"upper": upper}, 14)


@pytest.mark.parametrize("k", [0, 1, -2, 5, -9])
def test_eye_like(k: int) -> None:
    check_exact("EyeLike", [tensor((4, 5))], {"k": k}, 22)
    check_exact("EyeLike", [tensor((6, 3), np.int8)], {"k": k, "dtype": 7}, 22)


@pytest.mark.parametrize("value", [None, np.array([3], np.int8), np.array([np.nan], np.float64)])
def test_constant_of_shape(value: Any) -> None:
    attributes = {} if value is None else {"value": value}
    for shape in ((3, 7), (0, 2), (33,)):
        check_exact("ConstantOfShape", [np.array(shape, np.int64)], attributes, constants=(0,))


def test_dropout() -> None:
    x = tensor((3, 5))
    for opset in (7, 10):
        check_exact("Dropout", [x], {"ratio": 0.25}, opset, outputs=2)
    no, yes = np.array(False), np.array(True)
    half = np.array(0.5, np.float32)
    check_exact("Dropout", [x, half, no], {}, 13, outputs=2, constants=(1, 2))
    check_exact("Dropout", [x, half], {}, 13, outputs=2, wanted=(0,), constants=(1,))
    for training, constants in ((yes, (1, 2)), (no, (1,))):
        with pytest.raises(Unsupported, match="training"):
            run_on_device("Dropout", [x, half, training], [(x.shape, x.dtype)], opset=13, constants=constants)
