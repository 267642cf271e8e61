"""BatchNormalization by given statistics beside the reference, plain and blocked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowered import reference, run_lowered
from onnxref.kernels.numba import batchnorm as _batchnorm

from onnxref.lowering import Blocked, Op, Operand, Site, Unsupported, find_lowering
from onnxref.native import target

LANES = target().lanes
NAMES = (1, 2, 3, 4)


def batch(shape: tuple[int, ...], dtype: str = "float32", statistics: str = "float32") -> list[np.ndarray]:
    random = np.random.default_rng(sum(shape))
    c = shape[1] if len(shape) > 1 else 1
    x = (random.standard_normal(shape) * 3 + 1).astype(dtype)
    values = [
        random.standard_normal(c),
        random.standard_normal(c),
        random.standard_normal(c),
        random.random(c),
    ]
    return [x, *(v.astype(statistics) for v in values)]


def check(
    inputs: list[np.ndarray], tolerance: float, opset: int, epsilon: float = 1e-5, **options: Any
) -> None:
    """Compare with version 6, which has an attribute for what later versions tell by their outputs."""
    old = {"is_test": 1, "epsilon": epsilon}
    (expected,) = reference("BatchNormalization", inputs, old, 6)
    attributes = old if opset < 7 else {"epsilon": epsilon}
    wanted = [(expected.shape, expected.dtype)]
    (y,) = run_lowered("BatchNormalization", inputs, wanted, attributes, opset=opset, **options)
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "shape", [(2, 5, 3, 4), (3, 33), (1, 40, 17), (4,), (1, 3, 2, 3, 4), (0, 3, 4), (2, 3, 0)]
)
def test_plain(shape: tuple[int, ...]) -> None:
    for opset in (6, 7, 9, 14, 15):
        check(batch(shape), 2e-6, opset, epsilon=0.1, parallel=opset % 2 == 0)


@pytest.mark.parametrize("shape", [(2, LANES, 5, 7), (1, 2 * LANES + 3, 4, 9), (2, 5, 11)])
def test_blocked(shape: tuple[int, ...]) -> None:
    for pads in (((0, 0, 0, 0), (0, 0, 0, 0)), ((1, 0, 0, 2), (0, 1, 1, 1))):
        held: dict[str, Any] = {
            "layouts": {0: Blocked(LANES, pads[0])},
            "output_layouts": {0: Blocked(LANES, pads[1])},
        }
        for parallel in (False, True):
            check(batch(shape), 2e-6, 15, constants=NAMES, parallel=parallel, **held)


@pytest.mark.parametrize(
    ("dtype", "statistics"), [("float64", "float64"), ("float16", "float16"), ("float16", "float32")]
)
def test_types(dtype: str, statistics: str) -> None:
    tolerance = 1e-13 if dtype == "float64" else 2e-3
    for shape in ((2, 3, 4, 5), (3, 7)):
        check(batch(shape, dtype, statistics), tolerance, 15)


def test_training_is_refused() -> None:
    x, *statistics = (Operand(a.shape, a.dtype) for a in batch((2, 3, 4)))
    y = Operand(x.shape, x.dtype)
    for opset, attributes in ((6, {}), (15, {"training_mode": 1}), (7, {"spatial": 0})):
        op = Op("BatchNormalization", [x, *statistics], [y], attributes, opset=opset)
        assert _batchnorm.blocked_batchnorm(op, LANES) is None
        found = find_lowering("numba", "", "BatchNormalization", opset)
        assert found is not None
        with pytest.raises(Unsupported, match="training"):
            found.emit(Site(op), x, *statistics, **attributes)
