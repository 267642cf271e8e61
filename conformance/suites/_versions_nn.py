"""Normalisation, dropout, pooling, recurrent and image operators of old versions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._versions_rows import Row, f32


def rows() -> Iterator[Row]:
    """Yield the rows of this family."""
    yield from _batch_normalization()
    yield from _normalization()
    yield from _dropout()
    yield from _convolution()
    yield from _recurrent()
    yield from _sampling()


def _batch_normalization() -> Iterator[Row]:
    # Channel 0 has mean 1 and variance 4, channel 1 has mean 2 and variance 1.
    x = f32([[[[3, 5]], [[4, 6]]]])
    inputs = [x, f32(1, 10), f32(0, 100), f32(1, 2), f32(4, 1)]
    y = f32([[[[1, 2]], [[120, 140]]]])
    for version in (1, 6):
        attributes: dict[str, Any] = {"is_test": 1, "epsilon": 0.0}
        if version == 1:
            attributes["consumed_inputs"] = [0, 0, 0, 1, 1]
        name = f"test_batchnormalization_{version}_is_test"
        rule = "is_test=1 normalises by the given mean and var"
        yield Row(name, "BatchNormalization", version, rule, inputs, [y], attributes)
    yield Row(
        "test_batchnormalization_7_per_activation",
        "BatchNormalization",
        7,
        "spatial=0 takes statistics of shape (C, D1, ...), one for each activation",
        [
            f32([[[3, 5], [4, 6]]]),
            f32([[1, 1], [10, 10]]),
            f32([[0, 0], [100, 200]]),
            f32([[1, 3], [2, 2]]),
            f32([[4, 1], [1, 16]]),
        ],
        [f32([[[1, 2], [120, 210]]])],
        {"spatial": 0, "epsilon": 0.0},
    )
    # The batch has means 4 and 5 and variance 1.
    batch = f32([[[[-1, 1]], [[90, 110]]]])
    mean, var = f32(0.5 * 1 + 0.5 * 4, 0.5 * 2 + 0.5 * 5), f32(0.5 * 4 + 0.5, 1)
    # With variance 1 it does not matter whether saved_var is the variance or its inverse root.
    saved = [f32(4, 5), f32(1, 1)]
    rule = "five outputs mean training: Y by the batch's statistics, running and saved mean and var"
    for version in (6, 7, 9):
        name = f"test_batchnormalization_{version}_five_outputs_train"
        attributes = {"momentum": 0.5, "epsilon": 0.0}
        yield Row(name, "BatchNormalization", version, rule, inputs, [batch, mean, var, *saved], attributes)


def _normalization() -> Iterator[Row]:
    yield Row(
        "test_instancenormalization_1_consumed_inputs",
        "InstanceNormalization",
        1,
        "consumed_inputs, a legacy optimisation hint, is an attribute without effect on the result",
        [f32([[[[1, 3]]]]), f32([2]), f32([1])],
        [f32([[[[-1, 3]]]])],
        {"epsilon": 0.0, "consumed_inputs": [0]},
    )
    yield Row(
        "test_groupnormalization_18_scale_by_group",
        "GroupNormalization",
        18,
        "scale and bias have shape (num_groups,)",
        [f32([[[1], [3], [2], [6]]]), f32(1, 10), f32(0, 100)],
        [f32([[[-1], [1], [90], [110]]])],
        {"num_groups": 2, "epsilon": 0.0},
    )


def _dropout() -> Iterator[Row]:
    x = f32(1, 2, 3)
    for version in (1, 6):
        attributes: dict[str, Any] = {"is_test": 1, "ratio": 0.75}
        if version == 1:
            attributes["consumed_inputs"] = [0]
        name = f"test_dropout_{version}_is_test"
        yield Row(name, "Dropout", version, "is_test=1 hands the input on", [x], [x], attributes)
    for version in (7, 10):
        name = f"test_dropout_{version}_ratio_attribute"
        rule = "ratio is an attribute; the operator is meant for inference and hands the input on"
        yield Row(name, "Dropout", version, rule, [x], [x], {"ratio": 0.75})


def _convolution() -> Iterator[Row]:
    x = f32([[[1, 2, 3, 4]]])
    rule = "p is a float"
    pooled = {"p": 1.0, "kernel_shape": [2], "strides": [2]}
    yield Row("test_lppool_1_float_p", "LpPool", 1, rule, [x], [f32([[[3, 7]]])], pooled)
    yield Row("test_globallppool_1_float_p", "GlobalLpPool", 1, rule, [x], [f32([[[10]]])], {"p": 1.0})
    yield Row(
        "test_convtranspose_1_odd_padding_at_the_end",
        "ConvTranspose",
        1,
        "with output_shape, the odd element of the padding is cut at the end unless auto_pad is SAME_UPPER",
        # Uncut, the result is 1, 12, 120, 200.
        [f32([[[1, 2]]]), f32([[[1, 10, 100]]])],
        [f32([[[1, 12, 120]]])],
        {"output_shape": [3]},
    )


def _recurrent() -> Iterator[Row]:
    # One step from a zero state; every gate is fed 0.5.
    gate, new = 1 / (1 + math.exp(-0.5)), math.tanh(0.5)
    results = {"RNN": (1, new), "GRU": (3, (1 - gate) * new), "LSTM": (4, gate * math.tanh(gate * new))}
    rule = "output_sequence=0 asks for no sequence; only the last hidden state is an output"
    for operator, (gates, y) in results.items():
        for version in (1, 3) if operator == "GRU" else (1,):
            weights = np.full((1, gates, 1), 0.5, np.float32)
            yield Row(
                f"test_{operator.lower()}_{version}_output_sequence",
                operator,
                version,
                rule,
                [f32([[[1]]]), weights, weights],
                [None, f32([[[y]]])],
                {"hidden_size": 1, "output_sequence": 0},
            )


def _sampling() -> Iterator[Row]:
    yield Row(
        "test_gridsample_16_bilinear",
        "GridSample",
        16,
        "the modes are bilinear (the default), nearest and bicubic",
        [f32([[[[1, 2], [3, 4]]]]), f32([[[[0, 0]]]])],
        [f32([[[[2.5]]]])],
        {"mode": "bilinear"},
    )
    yield Row(
        "test_roialign_10_no_half_pixel",
        "RoiAlign",
        10,
        "box coordinates are used as they are, without the shift by half a pixel",
        [f32(np.arange(16).reshape(1, 1, 4, 4)), f32([[0, 0, 2, 2]]), np.array([0])],
        [f32([[[[5]]]])],
        {"output_height": 1, "output_width": 1, "sampling_ratio": 1},
    )
