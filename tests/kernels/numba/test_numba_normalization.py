"""Softmax and normalisations in native code against the reference kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.numba.normalization  # noqa: F401 - registers the lowerings
import pytest
from lowered import check_lowered, run_lowered

from onnxref.lowering import Unsupported
from onnxref.registry import INTERNAL

RNG = np.random.default_rng(3)
SIZES = (1, 2, 15, 16, 17, 49, 63, 64, 65, 127, 128, 197, 300)  # around one and four vectors
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 1e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}


def real(*shape: int, dtype: str = "float32", scale: float = 3.0) -> np.ndarray[Any, Any]:
    return (RNG.standard_normal(shape) * scale).astype(dtype)


# --- softmax ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("n", SIZES)
def test_softmax_of_rows(op_type: str, n: int) -> None:
    check_lowered(op_type, [real(5, n)], rtol=2e-6, atol=1e-6, parallel=n % 2 == 0)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 7, 5), 1), ((2, 3, 259), -2), ((4, 300), 0), ((3, 9), 1)])
def test_softmax_along_any_axis(op_type: str, dtype: str, shape: tuple[int, ...], axis: int) -> None:
    tolerance = {"rtol": 2e-6, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-13, "atol": 1e-13}
    check_lowered(op_type, [real(*shape, dtype=dtype)], {"axis": axis}, parallel=True, **tolerance)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("attributes", "opset"), [({}, 1), ({"axis": 2}, 11), ({"axis": -3}, 11)])
def test_softmax_of_matrices(op_type: str, attributes: dict[str, int], opset: int) -> None:
    check_lowered(op_type, [real(2, 3, 5)], attributes, opset=opset, rtol=2e-6, atol=1e-6)


def test_softmax_of_a_row_does_not_depend_on_its_neighbours() -> None:
    """Rows are worked on in pairs; any split over threads must give the same bits."""
    x = real(5, 197)
    (together,) = run_lowered("Softmax", [x], [(x.shape, x.dtype)])
    for i in range(5):
        (alone,) = run_lowered("Softmax", [x[i : i + 1]], [((1, 197), x.dtype)])
        np.testing.assert_array_equal(together[i : i + 1], alone)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_softmax_of_long_rows_keeps_its_digits(op_type: str) -> None:
    x = real(2, 300_000)
    wide = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    expected = wide / wide.sum(1, keepdims=True)
    if op_type == "LogSoftmax":
        expected = np.log(expected)
    (y,) = run_lowered(op_type, [x], [(x.shape, x.dtype)])
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=1e-38)  # x - max rounds


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_special_values(op_type: str, axis: int) -> None:
    x = real(20, 20)
    i = np.arange(20)
    x[i[0]], x[i[1], 3:], x[i[2], 4] = -np.inf, -np.inf, np.nan
    x[i[3], 5], x[i[4]], x[i[5], 7], x[i[6]] = np.inf, 1e38, -1e9, -1e30
    x[i[7]] = np.linspace(-200, 0, 20)
    check_lowered(op_type, [x if axis else np.ascontiguousarray(x.T)], {"axis": axis}, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 0, 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_nothing(shape: tuple[int, ...], axis: int) -> None:
    check_lowered("Softmax", [real(*shape)], {"axis": axis})


# --- layer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*SIZES, 768, 5001])
def test_layer_normalization(n: int) -> None:
    x, scale, b = real(5, n) + 2, real(n), real(n)
    check_lowered(
        "LayerNormalization", [x, scale, b], n_outputs=3, parallel=n % 2 == 0, **TOLERANCE["float32"]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization_of_several_axes(dtype: str, bias: bool) -> None:
    x, scale = real(2, 3, 4, 5, dtype=dtype), real(1, 1, 4, 5, dtype=dtype)
    b = real(4, 5, dtype=dtype) if bias else None
    attributes = {"axis": 2, "epsilon": 0.1, "stash_type": 1 if dtype == "float32" else 11}
    check_lowered("LayerNormalization", [x, scale, b], attributes, n_outputs=3, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rms_normalization(dtype: str) -> None:
    stash = {"stash_type": 1 if dtype == "float32" else 11}
    for n in (1, 17, 100):
        inputs = [real(3, n, dtype=dtype), real(n, dtype=dtype)]
        check_lowered("RMSNormalization", inputs, stash, **TOLERANCE[dtype])


def test_statistics_do_not_cancel() -> None:
    """Values far from zero: the variance takes two passes."""
    x = (1000 + real(4, 300, scale=0.01)).astype(np.float32)
    ones = np.ones(300, np.float32)
    expected = (x.astype(np.float64) - x.mean(1, dtype=np.float64, keepdims=True)) / np.sqrt(
        x.astype(np.float64).var(1, keepdims=True) + 1e-5
    )
    (y,) = run_lowered("LayerNormalization", [x, ones], [(x.shape, x.dtype)])
    np.testing.assert_allclose(y, expected, atol=1.5e-2)  # half an ulp of 1000 is 3e-5, the deviation 1e-2


def test_special_values_stay_in_their_row() -> None:
    x = real(4, 40)
    x[0, 3], x[1, 5] = np.nan, np.inf
    x[2] = 7
    scale = real(40)
    check_lowered("LayerNormalization", [x, scale, scale], n_outputs=3, **TOLERANCE["float32"])


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("wants_sum", [False, True])
def test_skip_layer_normalization(parallel: bool, wants_sum: bool) -> None:
    x, skip, scale, b = real(7, 50), real(7, 50), real(50), real(50)
    like = (x.shape, x.dtype)
    y, total = run_lowered(
        "SkipLayerNormalization",
        [x, skip, scale, b],
        [like, like if wants_sum else None],
        domain=INTERNAL,
        parallel=parallel,
    )
    expected = run_lowered("LayerNormalization", [x + skip, scale, b], [like])[0]
    np.testing.assert_array_equal(y, expected)
    assert not wants_sum or (total == x + skip).all()


def test_skip_rms_normalization() -> None:
    x, skip, scale = real(7, 50), real(7, 50), real(50)
    like = (x.shape, x.dtype)
    y, total = run_lowered("SkipRMSNormalization", [x, skip, scale], [like, like], domain=INTERNAL)
    np.testing.assert_array_equal(y, run_lowered("RMSNormalization", [x + skip, scale], [like])[0])
    np.testing.assert_array_equal(total, x + skip)


def test_what_layers_do_not_take() -> None:
    x = real(2, 3, 4)
    for scale in (real(3, 4), real(2, 1, 4), real(1)):
        with pytest.raises(Unsupported):
            check_lowered("LayerNormalization", [x, scale])
    with pytest.raises(Unsupported):
        check_lowered("LayerNormalization", [x.astype(np.float64), real(4, dtype="float64")])
    with pytest.raises(Unsupported):
        check_lowered("LayerNormalization", [real(3, 0), real(0)])


# --- groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 8), (3, 8, 70), (2, 8, 0)])
def test_instance_and_group_normalization(dtype: str, shape: tuple[int, ...]) -> None:
    x, scale, b = real(*shape, dtype=dtype), real(8, dtype=dtype), real(8, dtype=dtype)
    options = {"parallel": True, **TOLERANCE[dtype]}
    check_lowered("InstanceNormalization", [x, scale, b], {"epsilon": 1e-3}, **options)
    for groups in (1, 2, 8):
        stash = {"stash_type": 1 if dtype == "float32" else 11}
        check_lowered("GroupNormalization", [x, scale, b], {"num_groups": groups, **stash}, **options)
        inputs = [x, scale[:groups], b[:groups]]
        check_lowered("GroupNormalization", inputs, {"num_groups": groups}, opset=18, **options)


def test_a_large_group_keeps_its_digits() -> None:
    x = real(1, 2, 700_000) + np.float32(50)
    one = np.ones(2, np.float32)
    (y,) = run_lowered("InstanceNormalization", [x, one, one], [(x.shape, x.dtype)])
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(2, keepdims=True)) / np.sqrt(wide.var(2, keepdims=True) + 1e-5) + 1
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [(2, 3), (1, 2, 3), (-1,), ()])
def test_mean_variance_normalization(axes: tuple[int, ...]) -> None:
    check_lowered("MeanVarianceNormalization", [real(2, 3, 4, 5)], {"axes": axes}, **TOLERANCE["float32"])


def test_mean_variance_of_one_image_and_of_zeros() -> None:
    check_lowered("MeanVarianceNormalization", [real(1, 3, 4, 5)], **TOLERANCE["float32"])
    check_lowered("MeanVarianceNormalization", [np.zeros((1, 3, 4, 5), np.float32)])
    with pytest.raises(Unsupported):
        check_lowered("MeanVarianceNormalization", [real(2, 3, 4, 5)])


# --- across channels -------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
@pytest.mark.parametrize("size", [1, 2, 5, 19])
def test_local_response(beta: float, size: int) -> None:
    attributes = {"size": size, "beta": beta, "alpha": 0.3, "bias": 1.5}
    check_lowered("LRN", [real(2, 9, 3, 7)], attributes, rtol=1e-5, atol=1e-6, parallel=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lp_normalization(dtype: str, p: int, axis: int) -> None:
    x = real(3, 5, 40, dtype=dtype)
    x[1], x[:, 2], x[..., 3] = 0, 0, 0
    x[0, 1, 1] = np.finfo(dtype).tiny / 4  # a norm below the normal numbers
    check_lowered("LpNormalization", [x], {"axis": axis, "p": p}, parallel=True, **TOLERANCE[dtype])
    check_lowered("LpNormalization", [x[:, :0]], {"axis": axis, "p": p})
