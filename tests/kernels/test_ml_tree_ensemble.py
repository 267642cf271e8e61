"""TreeEnsemble-5: what its predecessors cannot say, membership above all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import ML, SIDES, STUMP, member_ensemble, regress, votes

from onnxref.errors import KernelError


def ensemble(x: Any, **attributes: Any) -> Any:
    return run_op("TreeEnsemble", x, opset=5, domain=ML, **attributes)


@settings(max_examples=50, deadline=None)
@given(
    sets=st.lists(st.lists(st.integers(-6, 6), max_size=9), min_size=1, max_size=4),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    tracks=st.integers(0, 1),
)
def test_membership(sets: list[list[float]], dtype: Any, tracks: int) -> None:
    x = np.array([*range(-7, 8), 0.5, np.inf, -np.inf, np.nan], dtype)[:, np.newaxis]
    got = ensemble(x, **member_ensemble(sets, dtype, tracks=tracks))
    assert got.dtype == dtype
    want = [[float(tracks if np.isnan(v) else v in s) for s in sets] for v in x[:, 0].tolist()]
    assert got.tolist() == want


def test_membership_without_a_last_nan() -> None:
    attributes = member_ensemble([[1, 2], [3]], np.float32)
    attributes["membership_values"] = attributes["membership_values"][:-1]
    assert ensemble(np.array([[3], [2]], np.float32), **attributes).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("aggregate", "want"), [(0, 2.5), (1, 5.0), (2, 1.0), (3, 4.0)])
def test_two_trees(dtype: Any, aggregate: int, want: float) -> None:
    # Both trees are x[1] > 0; the second is one leaf, written as a branch to the same leaf twice.
    attributes: dict[str, Any] = {
        "tree_roots": (1, 0),
        "nodes_featureids": (0, 1),
        "nodes_modes": np.array([0, 3], np.uint8),
        "nodes_splits": np.array([0, 0], dtype),
        "nodes_truenodeids": (2, 0),
        "nodes_falsenodeids": (2, 1),
        "nodes_trueleafs": (1, 1),
        "nodes_falseleafs": (1, 1),
        "leaf_targetids": (0, 0, 0),
        "leaf_weights": np.array([4, -4, 1], dtype),
        "n_targets": 1,
    }
    got = ensemble(np.array([[0, 1]], dtype), **attributes, aggregate_function=aggregate)
    assert got.dtype == dtype
    assert got.tolist() == [[want]]


@pytest.mark.parametrize(
    ("kind", "name"), list(enumerate(["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]))
)
def test_post_transform_numbers(kind: int, name: str) -> None:
    attributes = member_ensemble([[1], [2]], np.float32)
    attributes["leaf_weights"] = np.array([0.25, 0.75, 0.5, 0.125], np.float32)
    got = ensemble(np.array([[1]], np.float32), **attributes, post_transform=kind)
    same = regress(
        SIDES[:1], **STUMP, **votes("target", (1, 0, 0.25), (1, 1, 0.125)), n_targets=2, post_transform=name
    )
    np.testing.assert_array_equal(got, same)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tree_roots": (2,)}, r"tree_roots must be in \[0, 1\] \(got 2\)"),
        ({"nodes_truenodeids": (-1, 2)}, r"nodes_truenodeids of leaves must be in \[0, 3\] \(got -1\)"),
        ({"nodes_falsenodeids": (4, 3)}, r"nodes_falsenodeids of leaves must be in \[0, 3\] \(got 4\)"),
        ({"nodes_trueleafs": (0, 1)}, "no cycle"),
        ({"nodes_modes": np.array([6, 7], np.uint8)}, r"nodes_modes must be in \[0, 6\] \(got 7\)"),
        ({"nodes_modes": np.array([6, 0], np.uint8)}, "one set per BRANCH_MEMBER node, 1 .got 2"),
        ({"membership_values": None}, "one set per BRANCH_MEMBER node, 2 .got 0"),
        ({"leaf_targetids": (0, 0, 1)}, "leaf_weights must have as many elements"),
        ({"leaf_targetids": (0, 0, 1, 2)}, r"ids must be in \[0, 1\] \(got 2\)"),
        ({"aggregate_function": 4}, r"aggregate_function must be in \[0, 3\] \(got 4\)"),
        ({"post_transform": -1}, r"post_transform must be in \[0, 4\] \(got -1\)"),
        ({"n_targets": -1}, "number of targets must be positive"),
    ],
)
def test_bad_ensembles(changes: dict[str, Any], message: str) -> None:
    attributes = {**member_ensemble([[1], [2]], np.float32), **changes}
    with pytest.raises(KernelError, match=message):
        ensemble(SIDES, **attributes)
