"""Depthwise and grouped convolution beside the reference: each kind of group, shape of tile and end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowered import check_lowered, reference, run_lowered
from onnxref.kernels.numba import convolution as _convolution
from onnxref.kernels.numba.grouped import blocked_use, tile_of

from onnxref.lowering import Blocked, Op, Operand, Unsupported
from onnxref.native import target
from onnxref.registry import INTERNAL

LANES = target().lanes
assert _convolution


def conv_inputs(
    n: int, c: int, m: int, group: int, size: tuple[int, ...], kernel: tuple[int, ...]
) -> list[np.ndarray]:
    random = np.random.default_rng(c * m + sum(size))
    x = random.standard_normal((n, c, *size), np.float32)
    w = random.standard_normal((m, c // group, *kernel), np.float32) / np.float32(np.prod(kernel) ** 0.5)
    return [x, w, random.standard_normal(m, np.float32)]


def layouts(
    inputs: list[Any], attributes: dict[str, Any], y_pad: tuple[int, int, int, int]
) -> dict[str, Any]:
    """Blocked layouts as a planner chooses them, by what the rule asks for."""
    operands = [Operand(i.shape, i.dtype, "", i if at == 1 else None) for at, i in enumerate(inputs)]
    use = blocked_use(Op("Conv", list(operands), [None], attributes), LANES)
    assert use is not None
    given = {index: Blocked(LANES, pad) for index, pad in use.inputs.items()}
    return {"layouts": given, "output_layouts": {0: Blocked(LANES, y_pad)}}


# n, c, m, group, size, kernel, attributes
CASES: list[tuple[int, int, int, int, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    # depthwise
    (1, LANES, LANES, LANES, (14, 14), (3, 3), {"pads": (1, 1, 1, 1)}),
    (2, LANES + 3, LANES + 3, LANES + 3, (9, 19), (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    (1, 24, 24, 24, (11, 30), (5, 5), {"pads": (2, 2, 2, 2)}),
    (1, 24, 24, 24, (7, 7), (3, 3), {"pads": (2, 1, 0, 3), "strides": (1, 2), "dilations": (2, 1)}),
    (1, 8, 8, 8, (13, 13), (9, 9), {"pads": (4, 4, 4, 4)}),
    (2, 20, 20, 20, (37,), (4,), {"pads": (3, 0)}),
    (1, 8, 8, 8, (1, 1), (3, 3), {"pads": (1, 1, 1, 1)}),
    (1, 8, 8, 8, (5, 6), (3, 3), {"auto_pad": "SAME_LOWER", "strides": (2, 2)}),
    # small groups, also with a multiplier
    (1, 2 * LANES, 2 * LANES, LANES // 2, (10, 10), (3, 3), {"pads": (1, 1, 1, 1)}),
    (2, 12, 24, 12, (6, 17), (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    (1, 20, 20, 10, (6, 5), (1, 1), {}),
    # groups of whole blocks
    (1, 2 * LANES, 4 * LANES, 2, (8, 15), (3, 3), {"pads": (1, 1, 1, 1)}),
    # any other
    (1, 72, 24, 3, (7, 14), (1, 1), {}),
    (2, 30, 42, 3, (5, 9), (3, 3), {"pads": (1, 1, 1, 1)}),
    (1, 66, 44, 2, (4, 4), (3, 3), {"strides": (2, 2)}),
    (1, 12, 4, 4, (4, 6), (2, 2), {}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[2]}-g{case[3]}-{case[5]}")
def test_blocked(case: Any) -> None:
    n, c, m, group, size, kernel, attributes = case
    inputs = conv_inputs(n, c, m, group, size, kernel)
    attributes = {**attributes, "group": group}
    for parallel in (False, True):
        held = layouts(inputs, attributes, (1, 2, 0, 1))
        check_lowered(
            "Conv", inputs, attributes, constants=(1, 2), rtol=1e-5, atol=1e-5, parallel=parallel, **held
        )


@pytest.mark.parametrize("index", [1, 5, 8, 13])
def test_plain(index: int) -> None:
    n, c, m, group, size, kernel, attributes = CASES[index]
    inputs = conv_inputs(n, c, m, group, size, kernel)
    attributes = {**attributes, "group": group}
    check_lowered("Conv", inputs, attributes, constants=(1, 2), rtol=1e-5, atol=1e-5)
    check_lowered("Conv", inputs[:2], attributes, constants=(1,), rtol=1e-5, atol=1e-5, parallel=True)


@pytest.mark.parametrize(
    ("index", "activation", "alpha", "beta"),
    [
        (0, "Relu", 0.0, 0.0),
        (0, "Clip", -0.25, 0.5),
        (0, "Silu", 0.0, 0.0),
        (8, "Clip", 0.0, 6.0),
        (13, "Relu", 0.0, 0.0),
        (13, "HardSwish", 0.0, 0.0),
    ],
)
def test_fused(index: int, activation: str, alpha: float, beta: float) -> None:
    n, c, m, group, size, kernel, attributes = CASES[index]
    inputs = conv_inputs(n, c, m, group, size, kernel)
    attributes = {**attributes, "group": group}
    (expected,) = reference("Conv", inputs, attributes, 22)[:1]
    residual = np.random.default_rng(1).standard_normal(expected.shape, np.float32)
    total = expected + residual
    expected = {
        "Relu": lambda: np.maximum(total, 0),
        "Clip": lambda: np.clip(total, alpha, beta),
        "Silu": lambda: total / (1 + np.exp(-total)),
        "HardSwish": lambda: total * np.clip(total / 6 + 0.5, 0, 1),
    }[activation]()
    ends = {"activation": activation, "alpha": alpha, "beta": beta}
    held = layouts([*inputs, residual], attributes, (0, 0, 0, 0))
    (y,) = run_lowered(
        "FusedConv",
        [*inputs, residual],
        [(expected.shape, expected.dtype)],
        {**attributes, **ends},
        domain=INTERNAL,
        constants=(1, 2),
        **held,
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("index", "more"),
    [
        (0, {}),  # depthwise
        (8, {"activation": "Relu"}),  # small groups
        (11, {}),  # groups of whole blocks
        (13, {"activation": "Relu"}),
        (14, {}),
    ],
)
def test_channels_in_any_order(index: int, more: dict[str, Any]) -> None:
    n, c, m, group, size, kernel, attributes = CASES[index]
    x, w, b = conv_inputs(n, c, m, group, size, kernel)
    order = tuple(int(i) for i in np.random.default_rng(c).permutation(c))
    x[0, order[0], 1, 1] = np.inf  # of the first group only
    attributes = {**attributes, "group": group}
    (expected,) = reference("Conv", [x[:, order], w, b], attributes, 22)[:1]
    if more:
        expected = np.maximum(expected, 0)
    for given in (layouts([x, w, b], attributes, (0, 1, 1, 0)), {}):  # in blocks and plain
        for parallel in (False, True):
            (y,) = run_lowered(
                "FusedConv",
                [x, w, b],
                [(expected.shape, expected.dtype)],
                {**attributes, **more, "order": order},
                domain=INTERNAL,
                constants=(1, 2),
                parallel=parallel,
                **given,
            )
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_an_order_belongs_to_groups() -> None:
    x, w, b = conv_inputs(1, 2 * LANES, 8, 1, (4, 4), (1, 1))
    order = tuple(range(2 * LANES))
    with pytest.raises(Unsupported, match="order"):
        run_lowered(
            "FusedConv",
            [x, w, b],
            [((1, 8, 4, 4), np.dtype(np.float32))],
            {"order": order},
            domain=INTERNAL,
            constants=(1, 2),
            layouts={0: Blocked(LANES)},
            output_layouts={0: Blocked(LANES)},
        )


@pytest.mark.parametrize("index", [0, 8, 13])
def test_infinity_stays_in_its_group(index: int) -> None:
    n, c, m, group, size, kernel, attributes = CASES[index]
    x, w, b = conv_inputs(n, c, m, group, size, kernel)
    x[0, 1, 2, 3] = np.inf
    x[0, c - 1, 1, 1] = np.nan
    attributes = {**attributes, "group": group}
    held = layouts([x, w, b], attributes, (0, 0, 0, 0))
    check_lowered("Conv", [x, w, b], attributes, constants=(1, 2), rtol=1e-5, atol=1e-5, **held)


@pytest.mark.parametrize("columns", range(1, 60))
def test_tiles_fit(columns: int) -> None:
    for most in (5, 11, 14):
        assert 1 <= tile_of(columns, most) <= min(columns, most)
