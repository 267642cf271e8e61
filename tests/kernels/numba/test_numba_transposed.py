"""ConvTranspose beside the reference: phases, borders, groups, versions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowered import check_lowered
from onnxref.kernels.numba import transposed as _transposed

from onnxref.lowering import Blocked, Op, Operand, Site, Unsupported
from onnxref.native import target

LANES = target().lanes

# n, c, m, group, size, kernel, attributes
CASES: list[tuple[int, int, int, int, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    (1, 32, 16, 1, (7, 8), (2, 2), {"strides": (2, 2)}),
    (2, 16, 24, 1, (5, 9), (4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    (1, 19, 21, 1, (6, 5), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}),
    (1, 8, 8, 1, (5, 6), (3, 3), {}),
    (1, 8, 8, 1, (5, 6), (3, 2), {"dilations": (2, 3), "pads": (1, 0, 0, 2)}),
    (1, 6, 4, 1, (4, 4), (5, 4), {"strides": (3, 2), "dilations": (1, 1), "output_shape": (14, 9)}),
    (1, 6, 4, 1, (4, 5), (4, 3), {"strides": (2, 3), "auto_pad": "SAME_UPPER"}),
    (2, 8, 6, 1, (11,), (4,), {"strides": (2,), "pads": (1, 1)}),
    (1, 20, 20, 20, (6, 6), (4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    (1, 24, 12, 4, (4, 6), (3, 3), {"strides": (2, 1), "pads": (1, 1, 1, 1)}),
    (1, 4, 4, 1, (1, 1), (4, 4), {}),
]


def transposed_inputs(case: Any) -> tuple[list[np.ndarray], dict[str, Any]]:
    n, c, m, group, size, kernel, attributes = case
    random = np.random.default_rng(c * m)
    x = random.standard_normal((n, c, *size), np.float32)
    w = random.standard_normal((c, m // group, *kernel), np.float32) / np.float32(np.prod(kernel) ** 0.5)
    return [x, w, random.standard_normal(m, np.float32)], {**attributes, "group": group}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[2]}-g{case[3]}-{case[5]}")
def test_plain_and_blocked(case: Any) -> None:
    inputs, attributes = transposed_inputs(case)
    operands: list[Any] = [Operand(i.shape, i.dtype, "", i) for i in inputs]
    use = _transposed.blocked_transposed(Op("ConvTranspose", operands, [None], attributes, opset=22), LANES)
    assert use is not None
    held = {
        "layouts": {0: Blocked(LANES, use.inputs[0])},
        "output_layouts": {0: Blocked(LANES, (1, 0, 2, 1))},
    }
    for parallel in (False, True):
        options = {"constants": (1, 2), "rtol": 1e-5, "atol": 1e-5, "parallel": parallel}
        check_lowered("ConvTranspose", inputs, attributes, **options)
        check_lowered("ConvTranspose", inputs[:2], attributes, **{**options, "constants": (1,)})
        check_lowered("ConvTranspose", inputs, attributes, **options, **held)


def test_version_1() -> None:
    inputs, attributes = transposed_inputs(CASES[6])
    check_lowered("ConvTranspose", inputs, attributes, opset=10, constants=(1, 2), rtol=1e-5, atol=1e-5)


def test_what_is_refused() -> None:
    x, w = (Operand(shape, np.dtype(np.float32)) for shape in ((1, 2, 4, 4), (2, 3, 1, 1)))
    y = Operand((1, 3, 7, 7), np.dtype(np.float32))
    for constant in (None, np.ones(w.shape, np.float32)):
        w.constant = constant
        site = Site(Op("ConvTranspose", [x, w], [y], opset=22))
        with pytest.raises(Unsupported):  # weights that may change; outputs that no tap reaches
            _transposed.conv_transpose(site, x, w, strides=(2, 2))


def test_weights_that_are_not_finite_stay_on_the_reference() -> None:
    """A NaN tap must not reach outputs that no input of its own meets."""
    x, w = np.zeros((1, 1, 1), np.float32), np.float32([[[0, np.nan]]])
    with pytest.raises(Unsupported, match="not finite"):
        check_lowered("ConvTranspose", [x, w], constants=(1,))
