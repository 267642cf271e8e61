"""CausalConvWithState: pieces of a sequence against the whole."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from convolutions import TOLERANCE, conv_by_definition, normal
from helpers import run_op

from onnxref.errors import KernelError


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("activation", ["none", "silu", "swish"])
def test_causal_conv_in_pieces_is_the_whole(dtype: Any, activation: str) -> None:
    x, w, b = (a.astype(dtype) for a in (normal(2, 3, 7), normal(3, 1, 4), normal(3)))
    whole, state = run_op("CausalConvWithState", x, w, b, opset=27, n_outputs=2, activation=activation)
    padded = np.concatenate([np.zeros((2, 3, 3)), x.astype(np.float64)], axis=2)
    expected = conv_by_definition(padded, w.astype(np.float64), b.astype(np.float64), (1,), (1,), (0, 0), 3)
    if activation != "none":
        expected = expected / (1 + np.exp(-expected))
    assert whole.dtype == state.dtype == dtype
    np.testing.assert_allclose(
        whole.astype(np.float64), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )
    past, pieces = None, []
    for piece in (x[:, :, :2], x[:, :, 2:3], x[:, :, 3:]):
        y, past = run_op(
            "CausalConvWithState", piece, w, b, past, opset=27, n_outputs=2, activation=activation
        )
        pieces.append(y)
    np.testing.assert_allclose(
        np.concatenate(pieces, axis=2).astype(np.float64),
        whole.astype(np.float64),
        rtol=TOLERANCE[dtype],
        atol=1e-6,
    )
    assert past is not None
    np.testing.assert_array_equal(past, state)
    np.testing.assert_array_equal(state, x[:, :, -3:])


def test_causal_conv_refuses() -> None:
    x, w = np.zeros((1, 2, 3), np.float32), np.zeros((2, 1, 2), np.float32)
    with pytest.raises(KernelError, match="activation must be"):
        run_op("CausalConvWithState", x, w, opset=27, activation="relu")
    with pytest.raises(KernelError, match="weight must have shape"):
        run_op("CausalConvWithState", x, w[:1], opset=27)
    with pytest.raises(KernelError, match="past_state must have shape"):
        run_op("CausalConvWithState", x, w, None, x, opset=27)
    with pytest.raises(KernelError, match="input and weight must be"):
        run_op("CausalConvWithState", x[0], w, opset=27)
