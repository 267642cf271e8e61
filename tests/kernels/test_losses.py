"""Classification losses, against loops over samples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref.errors import KernelError

BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 1e-5, np.dtype(np.float16): 2e-3, BF16: 2e-2}
NLL, SCE = "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"


def nll_by_loop(x: Any, target: Any, weight: Any, ignore_index: int | None, reduction: str) -> Any:
    loss = np.zeros(target.shape)
    total = 0.0
    for at in np.ndindex(target.shape):
        c = int(target[at])
        if c != ignore_index:
            w = 1.0 if weight is None else float(weight[c])
            loss[at] = -w * float(x[(at[0], c, *at[1:])])
            total += w
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / total


def log_softmax_by_loop(x: Any) -> Any:
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        column = [float(x[(at[0], c, *at[2:])]) for c in range(x.shape[1])]
        top = max(column)
        y[at] = float(x[at]) - top - math.log(sum(math.exp(v - top) for v in column))
    return y


def case(seed: int, extra: tuple[int, ...], ignore_index: int | None) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 4, *extra))
    target = rng.integers(0, 4, (3, *extra))
    if ignore_index is not None:
        target[1] = ignore_index
    return x, target, rng.uniform(0.5, 2, 4)


VERSIONS = [
    *itertools.product([NLL], [12, 13], [np.float64, np.float32, np.float16]),
    *itertools.product([NLL], [22], [np.float64, np.float32, np.float16, BF16]),
    *itertools.product([SCE], [12], [np.float64, np.float32, np.float16]),
    *itertools.product([SCE], [13], [np.float64, np.float32, np.float16, BF16]),
]


@pytest.mark.parametrize("label_type", [np.int32, np.int64])
@pytest.mark.parametrize(("name", "opset", "dtype"), VERSIONS)
def test_every_version_and_type(name: str, opset: int, dtype: Any, label_type: Any) -> None:
    for reduction, weighted, ignore_index in itertools.product(
        ("none", "sum", "mean"), (False, True), (None, 2, -1, 100)
    ):
        x, target, weight = case(0, (2,), ignore_index)
        x, target, weight = x.astype(dtype), target.astype(label_type), weight.astype(dtype)
        attributes: dict[str, Any] = {"reduction": reduction}
        if ignore_index is not None:
            attributes["ignore_index"] = ignore_index
        given_weight = weight if weighted else None
        got = run_op(name, x, target, given_weight, opset=opset, n_outputs=2, **attributes)
        log_prob = log_softmax_by_loop(x) if name == SCE else x
        want = nll_by_loop(log_prob, target, given_weight, ignore_index, reduction)
        tolerance = TOLERANCE[np.dtype(dtype)]
        assert got[0].dtype == dtype
        assert got[0].shape == want.shape
        np.testing.assert_allclose(got[0].astype(float), want, rtol=tolerance, atol=tolerance)
        if name == SCE:
            assert got[1].dtype == dtype
            np.testing.assert_allclose(got[1].astype(float), log_prob, rtol=tolerance, atol=tolerance)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([NLL, SCE]),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["none", "sum"]),
)
def test_any_rank(name: str, seed: int, extra: tuple[int, ...], reduction: str) -> None:
    x, target, weight = case(seed, extra, None)
    got = run_op(name, x, target, weight, opset=13, n_outputs=2, reduction=reduction)[0]
    log_prob = log_softmax_by_loop(x) if name == SCE else x
    np.testing.assert_allclose(got, nll_by_loop(log_prob, target, weight, None, reduction), atol=1e-12)


def test_mean_is_the_default() -> None:
    x, target, _ = case(1, (), None)
    assert run_op(NLL, x, target, opset=13) == pytest.approx(nll_by_loop(x, target, None, None, "mean"))


@pytest.mark.parametrize("weight", [None, np.ones(2, np.float32)])
def test_mean_of_nothing_is_nan(weight: Any) -> None:
    x, target = np.ones((3, 2), np.float32), np.full(3, -1)
    assert np.isnan(run_op(NLL, x, target, weight, opset=13, ignore_index=-1))
    assert np.isnan(run_op(NLL, x[:0], target[:0], weight, opset=13))
    assert run_op(NLL, x, target, weight, opset=13, ignore_index=-1, reduction="sum") == 0


def test_ignored_infinities_do_not_leak() -> None:
    x = np.array([[-np.inf, -1], [-2, -np.inf]], np.float32)
    target = np.array([0, 0])
    assert run_op(NLL, x, target, opset=13, ignore_index=0, reduction="none").tolist() == [0, 0]
    weight = np.array([np.inf, 1], np.float32)
    got = run_op(NLL, x, np.array([1, 0]), weight, opset=13, ignore_index=0)
    assert got == 1


def test_large_scores_do_not_overflow() -> None:
    scores = np.array([[1000, 0], [-1000, -1000]], np.float32)
    loss, log_prob = run_op(SCE, scores, np.array([0, 1]), opset=13, n_outputs=2, reduction="none")
    np.testing.assert_allclose(loss, [0, math.log(2)], rtol=1e-6)
    np.testing.assert_allclose(log_prob, [[0, -1000], [-math.log(2)] * 2], rtol=1e-6)


@pytest.mark.parametrize("name", [NLL, SCE])
@pytest.mark.parametrize(
    ("x", "target", "weight", "attributes", "message"),
    [
        ((3,), [0], None, {}, r"must have shape \(N, C, d1, ...\).* \(got shape \(3,\)\)"),
        ((1, 0), [0], None, {}, r"must have shape \(N, C, d1, ...\).* \(got shape \(1, 0\)\)"),
        ((2, 3), [0], None, {}, r"target must have shape \(2,\) \(got \(1,\)\)"),
        ((1, 3), [3], None, {}, r"target must be in \[0, 3\) or ignore_index \(got 3\)"),
        ((1, 3), [-1], None, {"ignore_index": 7}, r"target must be in .* \(got -1\)"),
        ((1, 3), [0], [1, 1], {}, r"weight must have shape \(3,\) \(got \(2,\)\)"),
        ((1, 3), [0], None, {"reduction": "max"}, r"reduction must be .* \(got 'max'\)"),
    ],
)
def test_errors(name: str, x: Any, target: Any, weight: Any, attributes: Any, message: str) -> None:
    weight = None if weight is None else np.array(weight, np.float32)
    with pytest.raises(KernelError, match=message):
        run_op(name, np.zeros(x, np.float32), np.array(target), weight, opset=13, n_outputs=2, **attributes)
