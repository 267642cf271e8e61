"""BatchNormalization on the emulator, held to the reference: 3 units in the last place of its terms."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnxref.kernels.cupy import batchnorm  # noqa: F401 - registers

from onnxref.dtypes import Array
from onnxref.lowering import Op, Operand, Unsupported, find_lowering
from onnxref.registry import Context, find

from .lowered import run_on_device

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_RNG = np.random.default_rng(0)


def _inputs(shape: tuple[int, ...], dtype: Any, of_statistics: Any = None) -> list[Array]:
    channels = shape[1] if len(shape) > 1 else 1
    x = (2 * _RNG.standard_normal(shape)).astype(dtype)
    scale, b, mean = (_RNG.standard_normal(channels) for _ in range(3))
    return [x, *(s.astype(of_statistics or dtype) for s in (scale, b, mean, _RNG.random(channels) + 0.1))]


def _check(inputs: list[Array], attributes: dict[str, Any], opset: int, **options: Any) -> None:
    x = inputs[0]
    kernel = find("", "BatchNormalization", opset)
    context = {"ctx": Context(wanted=(True,), opset=opset)} if kernel.takes_context else {}
    with np.errstate(all="ignore"):
        (expected,) = kernel.kernel(*inputs, **attributes, **context)
    (found,) = run_on_device(
        "BatchNormalization", inputs, [(x.shape, x.dtype)], attributes, opset=opset, **options
    )
    assert found is not None
    eps = float(ml_dtypes.finfo(x.dtype).eps)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(found.astype("f8"), expected.astype("f8"), rtol=3 * eps, atol=30 * eps)


@pytest.mark.parametrize("constants", [(), (1, 2, 3, 4)])
@pytest.mark.parametrize(
    ("shape", "dtype", "of_statistics", "is_last"),
    [
        ((2, 5, 3, 8), "float32", None, False),
        ((2, 8, 3, 5), "float32", None, True),
        ((2, 6, 7, 7), "float16", "float32", False),
        ((1, 16, 3, 5), BFLOAT16, "float32", True),
        ((3, 7, 4), "float64", None, False),
        ((4, 9), "float32", None, False),
        ((1, 4, 2, 3, 3), "float16", None, True),
        ((7,), "float32", None, False),
    ],
)
def test_given_statistics(
    shape: tuple[int, ...], dtype: Any, of_statistics: Any, is_last: bool, constants: tuple[int, ...]
) -> None:
    layout = {"channels_last": [0], "outputs_last": [0]} if is_last else {}
    inputs = _inputs(shape, dtype, of_statistics)
    _check(inputs, {"epsilon": 1e-3}, 15, constants=constants, orders=(0, 1), **layout)


@pytest.mark.parametrize("opset", [1, 6, 7, 9, 14, 15])
def test_every_version(opset: int) -> None:
    attributes = {"is_test": 1} if opset < 7 else {}
    _check(_inputs((2, 5, 3, 8), "float32"), attributes, opset, orders=(0,))


@pytest.mark.parametrize(
    ("attributes", "opset"), [({}, 6), ({"training_mode": 1}, 15), ({"spatial": 0}, 7), ({"is_test": 0}, 1)]
)
def test_training_is_refused(attributes: dict[str, Any], opset: int) -> None:
    inputs = _inputs((2, 5, 3, 8), "float32")
    with pytest.raises(Unsupported):
        run_on_device("BatchNormalization", inputs, [((2, 5, 3, 8), "f4")], attributes, opset=opset)
    op = Op("BatchNormalization", [Operand(x.shape, x.dtype) for x in inputs], [None], attributes, "", opset)
    lowering = find_lowering("cupy", "", "BatchNormalization", opset)
    assert lowering is not None
    assert lowering.blocked is not None
    assert lowering.blocked(op, 1) is None
    given = Op(op.op_type, op.inputs, [None], {"is_test": 1}, "", opset)
    if "training_mode" not in attributes and "spatial" not in attributes:
        use = lowering.blocked(given, 1)
        assert use is not None
        assert dict(use.inputs) == {0: (0, 0, 0, 0)}
