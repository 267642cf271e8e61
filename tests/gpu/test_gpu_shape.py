"""Transpose, DepthToSpace, Expand, Tile and changes of shape on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.shape  # noqa: F401
import pytest
from onnxref.kernels.cupy import movement

from onnxref.lowering import Unsupported

from .exact import SIZES, check_exact, tensor
from .lowered import run_on_device


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((33, 65), (1, 0)),  # tiles with odd ends
        ((64, 132), (1, 0)),  # packed tiles
        ((2, 20, 3, 40), (0, 3, 2, 1)),
        ((2, 3, 40), (0, 2, 1)),  # too narrow for tiles
        ((2, 3, 4, 8), (0, 2, 1, 3)),  # rows
        ((5,), (0,)),
        ((2, 3, 5), None),
    ],
)
def test_transpose(shape: tuple[int, ...], perm: Any, size: int) -> None:
    check_exact("Transpose", [tensor(shape, SIZES[size])], {} if perm is None else {"perm": perm})


def test_transpose_of_four_axes_of_tiles() -> None:
    check_exact("Transpose", [tensor((2, 3, 40, 2, 36))], {"perm": (1, 4, 3, 2, 0)})


def test_transpose_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movement, "MOST_INT", 1)
    check_exact("Transpose", [tensor((40, 37))], {"perm": (1, 0)})
    check_exact("Transpose", [tensor((3, 2, 5, 4))], {"perm": (1, 0, 2, 3)})
    check_exact("Transpose", [tensor((3, 2, 5))], {"perm": (2, 0, 1)})


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 7), ()])
def test_transpose_of_nothing_and_little(shape: tuple[int, ...]) -> None:
    check_exact("Transpose", [tensor(shape)])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks(mode: str, channels_last: bool) -> None:
    attributes = {"blocksize": 2, "mode": mode}
    check_exact("DepthToSpace", [tensor((2, 16, 3, 5))], attributes, 13, channels_last=channels_last)
    for_depth = {"blocksize": 2}
    check_exact("SpaceToDepth", [tensor((2, 4, 6, 10))], for_depth, 13, channels_last=channels_last)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
@pytest.mark.parametrize(
    ("shape", "goal"),
    [
        ((3, 1), (3, 7)),
        ((1, 5), (4, 5)),
        ((2, 1, 8), (2, 3, 8)),
        ((), (33,)),
        ((3, 1), (2, 3, 4)),
        ((1,), (0,)),
    ],
)
def test_expand(shape: tuple[int, ...], goal: tuple[int, ...], dtype: Any) -> None:
    check_exact("Expand", [tensor(shape, dtype), np.array(goal, np.int64)], constants=(1,))


@pytest.mark.parametrize("repeats", [(2, 3), (1, 4), (3, 1), (0, 2)])
@pytest.mark.parametrize("shape", [(3, 5), (2, 16)])
def test_tile(shape: tuple[int, ...], repeats: tuple[int, ...]) -> None:
    check_exact("Tile", [tensor(shape, np.float16), np.array(repeats, np.int64)], constants=(1,))


def test_tile_with_the_channels_last() -> None:
    inputs = [tensor((2, 4, 3, 2)), np.array((1, 2, 2, 1), np.int64)]
    check_exact("Tile", inputs, constants=(1,), channels_last=True)


def test_changes_of_shape() -> None:
    x = tensor((2, 1, 6))
    check_exact("Reshape", [x, np.array((3, -1), np.int64)], constants=(1,))
    check_exact("Squeeze", [x, np.array((1,), np.int64)], constants=(1,))
    check_exact("Unsqueeze", [x, np.array((0, 4), np.int64)], constants=(1,))
    check_exact("Flatten", [x], {"axis": 2})
    check_exact("Identity", [x])
    check_exact("Identity", [x], channels_last=True)
    with pytest.raises(Unsupported, match="not constant"):
        check_exact("Reshape", [x, np.array((3, -1), np.int64)])
    with pytest.raises(Unsupported, match="channels last"):
        run_on_device("Flatten", [tensor((2, 3, 4))], [((2, 12), np.float32)], channels_last=(0,))


def test_magic_divides_as_the_kernels_do() -> None:
    rng = np.random.default_rng(0)
    sizes = [
        1,
        2,
        3,
        5,
        7,
        127,
        128,
        129,
        1000003,
        (1 << 30) - 1,
        1 << 30,
        *rng.integers(2, 1 << 30, 500).tolist(),
    ]
    for size in sizes:
        held = movement.magic(size)
        for n in (
            0,
            1,
            size - 1,
            size,
            2 * size - 1,
            2 * size,
            (1 << 31) - 1,
            *rng.integers(0, 1 << 31, 50).tolist(),
        ):
            if n < 1 << 31:
                found = n if held == 0 else (n * (held & 0xFFFFFFFF) >> 32) >> (held >> 32)
                assert found == n // size, (n, size)
