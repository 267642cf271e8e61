"""Pad and CenterCropPad on the emulator, held to the reference bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.padding  # noqa: F401
import pytest
from onnxref.kernels.cupy import movement

from onnxref.lowering import Unsupported

from .exact import SIZES, check_exact, tensor

MODES = ("constant", "edge", "reflect", "wrap")


def pads_of(*widths: int) -> Any:
    return np.array(widths, np.int64)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str, size: int) -> None:
    dtype = SIZES[size]
    for shape, pads in (
        ((2, 5, 7), (0, 2, 3, 0, 1, 2)),  # the innermost axis too
        ((3, 5, 16), (1, 2, 0, 2, 0, 0)),  # wide rows
        ((2, 5, 6), (0, -1, -2, 0, 3, -1)),  # cropping
        ((4,), (9, 6)),  # more than once round
    ):
        check_exact("Pad", [tensor(shape, dtype), pads_of(*pads)], {"mode": mode}, constants=(1,))


@pytest.mark.parametrize("size", SIZES)
def test_a_value_of_all_sizes(size: int) -> None:
    dtype = SIZES[size]
    inputs = [tensor((3, 5), dtype), pads_of(0, 1, 2, 4), tensor((), dtype, 7)]
    check_exact("Pad", inputs, constants=(1,))
    check_exact("Pad", [tensor((3, 8), dtype), pads_of(1, 0, 2, 0), inputs[2]], constants=(1, 2))


@pytest.mark.parametrize("mode", MODES)
def test_with_the_channels_last(mode: str) -> None:
    inputs = [tensor((2, 8, 4, 5), np.float16), pads_of(0, 0, 1, 2, 0, 0, 3, 0)]
    check_exact("Pad", inputs, {"mode": mode}, constants=(1,), channels_last=True)
    inputs = [tensor((2, 3, 4, 5), np.float16), pads_of(0, 1, 1, 2, 0, 0, 0, 0)]
    check_exact("Pad", inputs, {"mode": mode}, constants=(1,), channels_last=True)


def test_axes_and_versions() -> None:
    x = tensor((3, 4, 5))
    check_exact("Pad", [x, pads_of(1, 2, 0, 3), None, pads_of(-1, 0)], constants=(1, 3))
    check_exact("Pad", [x], {"pads": (0, 1, 0, 1, 0, 2), "value": 2.5}, 2)
    check_exact("Pad", [x], {"paddings": (0, 1, 0, 1, 0, 2), "mode": "edge"}, 1)
    check_exact("Pad", [x, pads_of(0, 1, 0, 1, 0, 2)], opset=11, constants=(1,))
    check_exact("Pad", [x, pads_of(0, 0, 0, 0, 0, 0)], constants=(1,))


def test_empty() -> None:
    check_exact("Pad", [tensor((0, 3)), pads_of(2, 0, 0, 1)], constants=(1,))
    check_exact("Pad", [tensor((3,)), pads_of(-1, -2)], constants=(1,))
    with pytest.raises(Unsupported, match="not constant"):
        check_exact("Pad", [tensor((3,)), pads_of(1, 1)])


def test_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movement, "MOST_INT", 1)
    check_exact("Pad", [tensor((3, 5, 7)), pads_of(0, 2, 3, 0, 1, 2)], {"mode": "reflect"}, constants=(1,))


@pytest.mark.parametrize("channels_last", [False, True])
def test_center_crop_pad(channels_last: bool) -> None:
    inputs = [tensor((2, 5, 8, 3)), np.array((2, 4, 5, 6), np.int64)]
    check_exact("CenterCropPad", inputs, constants=(1,), channels_last=channels_last)
    inputs[1] = np.array((7, 3), np.int64)
    check_exact("CenterCropPad", inputs, {"axes": (-2, 1)}, constants=(1,), channels_last=channels_last)
