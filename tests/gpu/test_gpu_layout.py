"""Conversions between plain and channels-last tensors on the emulator: equal, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from onnxref.kernels.cupy import layout  # noqa: F401 - registers

from onnxref.lowering import Blocked, ChannelsLast, Op, Operand, Site, Unsupported, find_lowering
from onnxref.registry import INTERNAL

from .lowered import run_on_device

_SHAPES = [
    (2, 3, 17, 31),  # few channels
    (1, 8, 700),
    (1, 7, 1100),
    (2, 33, 5, 7),  # tiles, cut at both ends
    (1, 64, 10, 13),
    (2, 70, 3),
    (1, 40, 2, 5, 9),
    (3, 130, 2, 66),
    (1, 900, 3),  # few pixels
    (0, 4, 3, 3),
    (2, 5, 1, 1),
    (2, 1, 4, 4),
]


_CASES = [(shape, size) for shape in _SHAPES for size in (2, 4)]
_CASES += [((1, 132, 2, 70), 1)]  # four bytes at a time, over more than one tile
_CASES += [(shape, size) for shape in (_SHAPES[0], *_SHAPES[3:5], *_SHAPES[-3:]) for size in (1, 8)]


@pytest.mark.parametrize(("shape", "size"), _CASES)
def test_there_and_back(shape: tuple[int, ...], size: int) -> None:
    dtype = np.dtype(f"u{size}")
    x = np.random.default_rng(0).integers(0, 255, (*shape, size), np.uint8).view(dtype)[..., 0]
    orders = (0, 1, 2) if size == 2 else (0,)
    for kind in ("ToBlocked", "FromBlocked"):
        (found,) = run_on_device(
            kind,
            [x],
            [(shape, dtype)],
            domain=INTERNAL,
            opset=1,
            orders=orders,
            channels_last=[0] if kind == "FromBlocked" else [],
            outputs_last=[0] if kind == "ToBlocked" else [],
        )
        np.testing.assert_array_equal(found, x)


def _emitted(x: Operand, y: Operand) -> Site:
    site = Site(Op("ToBlocked", [x], [y], domain=INTERNAL, opset=1))
    lowering = find_lowering("cupy", INTERNAL, "ToBlocked", 1)
    assert lowering is not None
    lowering.emit(site, x)
    return site


def test_what_lies_alike_is_not_moved() -> None:
    for shape in ((2, 5, 1, 1), (2, 1, 4, 4)):
        x, y = (Operand(shape, np.dtype("f4"), layout=kind) for kind in (None, ChannelsLast()))
        site = _emitted(x, y)
        assert not site.launches
        assert site.aliases == [(y, x, 0)]


def test_blocks_are_refused() -> None:
    x, y = (Operand((1, 8, 2, 2), np.dtype("f4"), layout=kind) for kind in (None, Blocked(8)))
    with pytest.raises(Unsupported):
        _emitted(x, y)
