"""Normalizations against slow definitions written out here."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref.errors import KernelError

RNG = np.random.default_rng(7)
F16, F32, F64, BF16 = np.float16, np.float32, np.float64, ml_dtypes.bfloat16
TOLERANCE = {F16: 4e-3, BF16: 4e-2, F32: 2e-5, F64: 1e-12}
EPSILON = 1e-5


def make(*shape, dtype=F32, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape).astype(dtype)


def close(actual, expected, dtype=F32, scale=1.0):
    assert actual.dtype == dtype
    tolerance = TOLERANCE[dtype] * scale
    np.testing.assert_allclose(actual.astype(F64), expected, rtol=tolerance, atol=tolerance)


def wide(*arrays):
    return [a.astype(F64) for a in arrays]


def standardize(x, axes, epsilon=EPSILON):
    mean = x.mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)


def channels(parameter, rank):
    return parameter.reshape((1, -1) + (1,) * (rank - 2))


# BatchNormalization

BN_TYPES = [(v, t) for v in (1, 6, 7, 9) for t in (F16, F32, F64)] + [
    (v, t) for v in (14, 15) for t in (F16, BF16, F32, F64)
]


def inference(version):
    return {"is_test": 1} if version <= 6 else {}


@pytest.mark.parametrize(("version", "dtype"), BN_TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 2), (2, 3, 4), (0, 3, 2)])
def test_batch_normalization_with_given_statistics(version, dtype, shape):
    x, c = make(*shape, dtype=dtype), shape[1]
    scale, bias, mean = (make(c, dtype=dtype) for _ in range(3))
    var = make(c, dtype=dtype, low=0.5)
    y = run_op("BatchNormalization", x, scale, bias, mean, var, opset=version, **inference(version))
    x, scale, bias, mean, var = wide(x, *(channels(p, len(shape)) for p in (scale, bias, mean, var)))
    close(y, (x - mean) / np.sqrt(var + EPSILON) * scale + bias, dtype, 2)


@pytest.mark.parametrize(
    ("version", "outputs", "attributes"),
    [(1, 5, {}), (6, 5, {"is_test": 0}), (7, 5, {}), (9, 5, {}), (14, 3, {"training_mode": 1})],
)
@pytest.mark.parametrize("dtype", [F16, F32, F64])
def test_batch_normalization_in_training(version, outputs, attributes, dtype):
    x = make(4, 3, 5, dtype=dtype)
    scale, bias, mean, var = (make(3, dtype=dtype, low=0.5) for _ in range(4))
    y, *statistics = run_op(
        "BatchNormalization", x, scale, bias, mean, var,
        opset=version, n_outputs=outputs, momentum=0.75, **attributes,
    )  # fmt: skip
    x, scale, bias, mean, var = wide(x, scale, bias, mean, var)
    batch_mean, batch_var = x.mean((0, 2)), x.var((0, 2))
    close(y, standardize(x, (0, 2)) * channels(scale, 3) + channels(bias, 3), dtype, 4)
    running = [0.75 * mean + 0.25 * batch_mean, 0.75 * var + 0.25 * batch_var]
    for actual, expected in zip(statistics, [*running, batch_mean, batch_var], strict=False):
        close(actual, expected, dtype)


def test_batch_normalization_mode_by_version():
    x, ones = make(4, 3), np.ones(3, F32)
    inputs = (x, ones, ones, ones, ones)
    trained = standardize(x, 0) + 1
    given_ = (x - 1) / np.sqrt(1 + EPSILON) + 1
    close(run_op("BatchNormalization", *inputs, opset=6), trained)  # is_test is 0 by default
    close(run_op("BatchNormalization", *inputs, opset=6, is_test=1), given_)
    close(run_op("BatchNormalization", *inputs, opset=7), given_)  # the number of outputs decides
    close(run_op("BatchNormalization", *inputs, opset=9, n_outputs=5)[0], trained)
    close(run_op("BatchNormalization", *inputs, opset=15), given_)


@pytest.mark.parametrize("version", [1, 6, 7])
@pytest.mark.parametrize("flat", [False, True])
def test_batch_normalization_per_feature(version, flat):
    x, shape = make(4, 3, 2), (6,) if flat else (3, 2)
    parameters = [make(*shape, low=0.5) for _ in range(4)]
    y = run_op("BatchNormalization", x, *parameters, opset=version, spatial=0, **inference(version))
    scale, bias, mean, var = (p.reshape(3, 2) for p in wide(*parameters))
    close(y, (x - mean) / np.sqrt(var + EPSILON) * scale + bias)
    training = run_op("BatchNormalization", x, *parameters, opset=version, spatial=0, n_outputs=5)
    close(training[0], standardize(x, 0) * scale + bias, scale=4)
    assert training[3].shape == shape
    close(training[3].reshape(3, 2), x.mean(0))


def test_batch_normalization_types_are_independent_in_15():
    x, scale = make(2, 3, 4, dtype=F16), make(3, dtype=BF16)
    mean, var = make(3, dtype=F64), make(3, dtype=F64, low=0.5)
    y, new_mean, new_var = run_op(
        "BatchNormalization", x, scale, scale, mean, var, opset=15, n_outputs=3, training_mode=1
    )
    assert (y.dtype, new_mean.dtype, new_var.dtype) == (F16, F64, F64)
    close(new_mean, 0.9 * mean + 0.1 * x.astype(F64).mean((0, 2)), F64, 1e5)  # 0.9 is a float32


def test_batch_normalization_of_one_dimension_has_one_channel():
    one = np.ones(1, F32)
    y = run_op("BatchNormalization", make(5), 2 * one, one, one, one, opset=9)
    assert y.shape == (5,)


def test_batch_normalization_keeps_float16_statistics_in_range():
    x = np.full((1, 1, 4096), 300, F16)  # the sum of squares is far outside float16
    x[..., ::2] = -300
    ones = np.ones(1, F16)
    _, mean, var = run_op(
        "BatchNormalization", x, ones, ones, 0 * ones, 0 * ones,
        opset=15, n_outputs=3, training_mode=1, momentum=0.5,
    )  # fmt: skip
    assert mean == 0
    assert var == 45000


# InstanceNormalization, GroupNormalization


@pytest.mark.parametrize(("version", "dtypes"), [(1, (F16, F32, F64)), (6, (F16, F32, F64)), (22, TOLERANCE)])
def test_instance_normalization(version, dtypes):
    for dtype in dtypes:
        for shape in [(2, 3, 4, 5), (1, 2, 7), (2, 3, 0)]:
            x, scale, bias = (
                make(*shape, dtype=dtype),
                make(shape[1], dtype=dtype),
                make(shape[1], dtype=dtype),
            )
            y = run_op("InstanceNormalization", x, scale, bias, opset=version, epsilon=0.01)
            if y.size == 0:
                assert y.shape == shape
                continue
            axes = tuple(range(2, len(shape)))
            x, scale, bias = wide(x, channels(scale, len(shape)), channels(bias, len(shape)))
            close(y, standardize(x, axes, 0.01) * scale + bias, dtype, 4)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_group_normalization_scales_groups_then_channels(dtype):
    x = make(2, 6, 3, dtype=dtype)
    normalized = standardize(x.astype(F64).reshape(2, 2, 9), 2)
    per_group, per_channel = make(2, dtype=dtype), make(6, dtype=dtype)
    old = run_op("GroupNormalization", x, per_group, per_group, opset=18, num_groups=2)
    new = run_op("GroupNormalization", x, per_channel, per_channel, opset=21, num_groups=2)
    expected = (normalized * per_group.astype(F64)[:, None] + per_group.astype(F64)[:, None]).reshape(x.shape)
    close(old, expected, dtype, 4)
    scale = per_channel.astype(F64)[:, None]
    # stash_type 1 makes stage one float32, of float64 data as well
    assert new.dtype == dtype
    tolerance = max(TOLERANCE[dtype] * 4, 1e-5)
    np.testing.assert_allclose(
        new.astype(F64), normalized.reshape(x.shape) * scale + scale, rtol=tolerance, atol=tolerance
    )


# LayerNormalization, RMSNormalization


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization(dtype, axis, bias):
    x = make(2, 3, 4, dtype=dtype)
    scale, b = make(4, dtype=dtype), make(3, 4, dtype=dtype) if bias else None
    y, mean, inverse = run_op(
        "LayerNormalization", x, scale, b, opset=17, n_outputs=3, axis=axis, stash_type=1
    )
    axes = tuple(range(axis % 3, 3))
    exact = x.astype(F64)
    expected = standardize(exact, axes) * scale.astype(F64) + (b.astype(F64) if bias else 0)
    tolerance = max(TOLERANCE[dtype] * 2, 2e-5)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(F64), expected, rtol=tolerance, atol=tolerance)
    close(mean, exact.mean(axes, keepdims=True), F32)
    close(inverse, 1 / np.sqrt(exact.var(axes, keepdims=True) + EPSILON), F32)


@pytest.mark.parametrize(("stash", "dtype"), [(1, F32), (16, BF16), (11, F64), (10, F16)])
def test_stash_type_is_the_precision_of_stage_one(stash, dtype):
    x = make(3, 8, dtype=F64)
    y, mean, _ = run_op(
        "LayerNormalization", x, np.ones(8), opset=17, n_outputs=3, stash_type=stash, epsilon=0.0
    )
    assert (y.dtype, mean.dtype) == (F64, dtype)
    expected = standardize(x.astype(dtype).astype(F64), 1, 0)
    np.testing.assert_allclose(y, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    if stash != 11:
        assert (y == y.astype(dtype)).all()  # rounded to that type
    rms = run_op("RMSNormalization", x, np.ones(8), opset=23, stash_type=stash)
    group = run_op("GroupNormalization", x, np.ones(8), np.zeros(8), opset=21, num_groups=2, stash_type=stash)
    if stash != 11:
        assert (rms == rms.astype(dtype)).all()
        assert (group == group.astype(dtype)).all()
    else:
        close(rms, x / np.sqrt(np.square(x).mean(1, keepdims=True) + EPSILON), F64)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scale_dtype", TOLERANCE)
def test_rms_normalization_has_the_type_of_its_scale(dtype, scale_dtype):
    x, scale = make(2, 3, 4, dtype=dtype), make(3, 1, dtype=scale_dtype)
    y = run_op("RMSNormalization", x, scale, opset=23, axis=1)
    exact = x.astype(F64)
    expected = exact / np.sqrt(np.square(exact).mean((1, 2), keepdims=True) + EPSILON) * scale.astype(F64)
    assert y.dtype == scale_dtype
    tolerance = max(TOLERANCE[dtype], TOLERANCE[scale_dtype], 1e-5)
    np.testing.assert_allclose(y.astype(F64), expected, rtol=tolerance, atol=tolerance)


def test_layer_normalization_rounds_stage_one_to_the_type_of_x():
    x = make(5, 64, dtype=F16)
    scale = make(64, dtype=F16)
    y = run_op("LayerNormalization", x, scale, opset=17, n_outputs=3)[0]
    stage_one = standardize(x.astype(F32), 1).astype(F16)
    assert (y == (stage_one.astype(F32) * scale.astype(F32)).astype(F16)).mean() > 0.97


def test_a_large_common_offset_does_not_cancel():
    x = (1000 + make(1, 256)).astype(F32)  # E[x^2] - E[x]^2 would lose all but two digits
    y = run_op("LayerNormalization", x, np.ones(256, F32), opset=17, n_outputs=3)[0]
    np.testing.assert_allclose(y, standardize(x.astype(F64), 1), rtol=1e-3, atol=1e-3)


# LRN, LpNormalization, MeanVarianceNormalization


def slow_lrn(x, size, alpha, beta, bias):
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        window = x[:, max(0, c - (size - 1) // 2) : min(x.shape[1], c + size // 2 + 1)]
        y[:, c] = x[:, c] / (bias + alpha / size * np.square(window).sum(1)) ** beta
    return y


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 12),
    st.sampled_from([1, 13]),
    st.sampled_from([0.75, 0.5]),
    st.integers(0, 2),
)
def test_lrn_is_its_definition(channels, size, version, beta, rank):
    x = make(2, channels, *(3,) * rank)
    y = run_op("LRN", x, opset=version, size=size, alpha=0.5, beta=beta, bias=2.0)
    close(y, slow_lrn(x.astype(F64), size, 0.5, beta, 2.0))


@pytest.mark.parametrize(("version", "dtypes"), [(1, (F16, F32, F64)), (13, TOLERANCE)])
def test_lrn_types_and_sizes_beyond_all_channels(version, dtypes):
    for dtype in dtypes:
        x = make(1, 4, 2, dtype=dtype)
        close(
            run_op("LRN", x, opset=version, size=3, alpha=1.0), slow_lrn(x.astype(F64), 3, 1, 0.75, 1), dtype
        )
    huge = 2**62
    y = run_op("LRN", make(1, 4), opset=version, size=huge, alpha=float(huge))
    assert np.isfinite(y).all()
    assert run_op("LRN", make(1, 0, 3), opset=version, size=5).shape == (1, 0, 3)


@pytest.mark.parametrize(("version", "dtypes"), [(1, (F16, F32, F64)), (22, TOLERANCE)])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lp_normalization(version, dtypes, p, axis):
    for dtype in dtypes:
        x = make(3, 4, dtype=dtype)
        x[1] = x[:, 2] = 0
        y = run_op("LpNormalization", x, opset=version, p=p, axis=axis)
        exact = x.astype(F64)
        norm = np.linalg.norm(exact, ord=p, axis=axis, keepdims=True)
        close(y, exact / np.where(norm == 0, 1, norm), dtype)
    assert (
        run_op("LpNormalization", np.full((1, 4), 1e-30, F32), opset=version) == 0
    ).all()  # norm underflows


def slow_mvn(x, axes):
    return (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9)


@pytest.mark.parametrize(("version", "dtypes"), [(9, (F16, F32, F64)), (13, TOLERANCE)])
@pytest.mark.parametrize(("axes", "reduced"), [((0, 2, 3), (0, 2, 3)), ((-1,), 3), ((), None)])
def test_mean_variance_normalization(version, dtypes, axes, reduced):
    for dtype in dtypes:
        x = make(2, 3, 4, 5, dtype=dtype)
        y = run_op("MeanVarianceNormalization", x, opset=version, axes=axes)
        close(y, slow_mvn(x.astype(F64), reduced), dtype, 4)


def test_mean_variance_normalization_of_a_constant_is_zero():
    constant = run_op("MeanVarianceNormalization", np.full((1, 1, 2, 2), 0.1, F32), opset=13)
    assert (constant == 0).all()


# Errors

ONES = np.ones(3, F32)


@pytest.mark.parametrize(
    ("op", "inputs", "opset", "attributes", "message"),
    [
        (
            "BatchNormalization",
            [make(2, 3)] + [ONES] * 3 + [np.ones(2, F32)],
            15,
            {},
            "var must have 3 elements",
        ),
        ("BatchNormalization", [np.float32(1).reshape(())] + [ONES] * 4, 9, {}, "X must have at least one"),
        ("InstanceNormalization", [make(2, 3, 4), ONES[:2], ONES], 6, {}, r"scale must have shape \(3,\)"),
        ("InstanceNormalization", [ONES, ONES, ONES], 6, {}, r"input must have shape \(N, C"),
        ("GroupNormalization", [make(2, 3, 4), ONES, ONES], 21, {"num_groups": 2}, "num_groups must divide"),
        ("GroupNormalization", [make(2, 3, 4), ONES, ONES], 21, {"num_groups": 0}, "num_groups must divide"),
        (
            "GroupNormalization",
            [make(2, 0, 4), ONES, ONES],
            21,
            {"num_groups": 2**62},
            "num_groups must divide",
        ),
        ("GroupNormalization", [make(2, 3, 4), ONES, ONES], 18, {"num_groups": 1}, "scale must have shape"),
        ("LayerNormalization", [make(2, 3), np.ones(2, F32)], 17, {}, "Scale must broadcast to"),
        ("LayerNormalization", [make(2, 3), ONES, np.ones((1, 2, 3), F32)], 17, {}, "B must broadcast to"),
        ("LayerNormalization", [make(2, 3), ONES], 17, {"axis": 2}, "axis must be in"),
        ("LayerNormalization", [make(2, 3), ONES], 17, {"stash_type": 7}, "stash_type must be one of"),
        ("RMSNormalization", [make(2, 3), np.ones((2, 2, 3), F32)], 23, {}, "scale must broadcast to"),
        ("LRN", [make(2, 3)], 13, {"size": 0}, "size must be at least 1"),
        ("LRN", [ONES], 13, {"size": 1}, r"X must have shape \(N, C"),
        ("LpNormalization", [make(2, 3)], 22, {"p": 3}, "p must be one of 1, 2"),
        ("MeanVarianceNormalization", [make(2, 3)], 13, {}, "axes must be in"),
    ],
)
def test_errors(op, inputs, opset, attributes, message):
    with pytest.raises(KernelError, match=message):
        run_op(op, *inputs, opset=opset, **attributes)


def test_statistics_of_inference_are_refused():
    with pytest.raises(KernelError, match="training_mode must be 1"):
        run_op("BatchNormalization", make(2, 3), ONES, ONES, ONES, ONES, opset=14, n_outputs=3)
