"""ShuffleChannels on the emulator, plain and with the channels last: bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from onnxref.kernels.cupy import channels  # noqa: F401 - registers

from onnxref.registry import INTERNAL

from .exact import SIZES, tensor
from .lowered import run_on_device

_CASES = [
    ((2, 12, 3, 5), 3, 4),
    ((1, 272, 7, 7), 4, 4),
    ((2, 8, 9), 2, 2),
    ((1, 6, 1, 1), 3, 1),
    ((0, 6, 2, 2), 3, 8),
]


@pytest.mark.parametrize("places", [(), (0,)], ids=["plain", "channels last"])
@pytest.mark.parametrize(("shape", "groups", "size"), _CASES)
def test_shuffled(shape: tuple[int, ...], groups: int, size: int, places: tuple[int, ...]) -> None:
    x = tensor(shape, SIZES[size])
    expected = np.stack(np.split(x, groups, axis=1), axis=2).reshape(shape)
    (y,) = run_on_device(
        "ShuffleChannels",
        [x],
        [(shape, x.dtype)],
        {"groups": groups},
        domain=INTERNAL,
        channels_last=places,
        outputs_last=places,
    )
    assert y is not None
    assert np.ascontiguousarray(y).tobytes() == expected.tobytes()
