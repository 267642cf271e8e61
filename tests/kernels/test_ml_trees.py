"""Tree ensembles against a walk down each tree, row by row."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import ML, SIDES, STUMP, classify, member_ensemble, regress, votes

from onnxref import registry
from onnxref.errors import KernelError

COMPARE = {
    "BRANCH_LEQ": operator.le,
    "BRANCH_LT": operator.lt,
    "BRANCH_GTE": operator.ge,
    "BRANCH_GT": operator.gt,
    "BRANCH_EQ": operator.eq,
    "BRANCH_NEQ": operator.ne,
}
MODES = list(COMPARE)


def random_forest(rng: np.random.Generator, n_trees: int, depth: int, modes: list[str]) -> dict[str, Any]:
    """Node attributes of random trees over three features, in a random order of nodes."""
    rows: list[tuple[Any, ...]] = []

    def grow(tree: int, left: int) -> int:
        node = sum(row[0] == tree for row in rows)
        at = len(rows)
        rows.append((tree,))
        if left == 0 or rng.random() < 0.2:
            rows[at] = (tree, node, 0, 0.0, "LEAF", 0, 0, 0)
        else:
            on_true, on_false = grow(tree, left - 1), grow(tree, left - 1)
            value, mode = float(rng.integers(-3, 4) / 2), str(rng.choice(modes))
            feature, tracks = int(rng.integers(3)), int(rng.integers(2))
            rows[at] = (tree, node, feature, value, mode, on_true, on_false, tracks)
        return node

    for tree in range(n_trees):
        grow(7 * tree + 3, int(rng.integers(depth + 1)))
    order = rng.permutation(len(rows))
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    columns = list(zip(*(rows[i] for i in order), strict=True))
    named = {f"nodes_{name}": column for name, column in zip(names, columns, strict=False)}
    return {**named, "nodes_missing_value_tracks_true": columns[-1]}


def walk(x: Any, forest: dict[str, Any], tree: int) -> int:
    """Leaf that one row ends in, by the letter of the documentation."""
    at = {
        node: i
        for i, (t, node) in enumerate(zip(forest["nodes_treeids"], forest["nodes_nodeids"], strict=True))
        if t == tree
    }
    children = {
        forest[f"nodes_{side}nodeids"][i]
        for i in at.values()
        for side in ("true", "false")
        if forest["nodes_modes"][i] != "LEAF"
    }
    (node,) = set(at) - children
    while (mode := forest["nodes_modes"][at[node]]) != "LEAF":
        i = at[node]
        value = float(x[forest["nodes_featureids"][i]])
        if math.isnan(value):
            yes = forest["nodes_missing_value_tracks_true"][i] == 1
        else:
            yes = COMPARE[mode](value, forest["nodes_values"][i])
        node = forest["nodes_truenodeids" if yes else "nodes_falsenodeids"][i]
    return int(node)


def random_votes(
    rng: np.random.Generator, forest: dict[str, Any], n_targets: int, full: bool
) -> list[tuple[int, int, int, float]]:
    """(tree, leaf, target, weight): one for each target, or any number of them, repeated ones too."""
    found = []
    for tree, node, mode in zip(
        forest["nodes_treeids"], forest["nodes_nodeids"], forest["nodes_modes"], strict=True
    ):
        if mode == "LEAF":
            targets = range(n_targets) if full else rng.integers(n_targets, size=rng.integers(4))
            found += [(tree, node, int(t), float(np.float32(rng.normal()))) for t in targets]
    return found


def random_x(rng: np.random.Generator, rows: int, *, nan: bool) -> Any:
    x = (rng.integers(-4, 5, (rows, 3)) / 2).astype(np.float32)
    if nan:
        x[rng.random(x.shape) < 0.3] = np.nan
    return x


AGGREGATE = {"SUM": sum, "AVERAGE": sum, "MIN": min, "MAX": max}


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_trees=st.integers(1, 5),
    depth=st.integers(0, 5),
    modes=st.lists(st.sampled_from(MODES), min_size=1, max_size=6),
    aggregate=st.sampled_from(list(AGGREGATE)),
    n_targets=st.integers(1, 3),
    full=st.booleans(),
    nan=st.booleans(),
)
def test_regressor_is_a_walk(
    seed: int,
    n_trees: int,
    depth: int,
    modes: list[str],
    aggregate: str,
    n_targets: int,
    full: bool,
    nan: bool,
) -> None:
    rng = np.random.default_rng(seed)
    forest = random_forest(rng, n_trees, depth, modes)
    cast = random_votes(rng, forest, n_targets, full)
    x = random_x(rng, 5, nan=nan)
    base = tuple(float(np.float32(b)) for b in rng.normal(size=n_targets))
    want = np.zeros((5, n_targets))
    trees = sorted(set(forest["nodes_treeids"]))
    for row, target in np.ndindex(want.shape):
        ends = {(tree, walk(x[row], forest, tree)) for tree in trees}
        weights = [w for tree, node, t, w in cast if t == target and (tree, node) in ends]
        total = AGGREGATE[aggregate](weights) if weights else 0.0  # type: ignore[operator]
        want[row, target] = total / (len(trees) if aggregate == "AVERAGE" else 1) + base[target]
    columns = list(zip(*cast, strict=True)) or [(), (), (), ()]
    names = ("target_treeids", "target_nodeids", "target_ids", "target_weights")
    named = dict(zip(names, columns, strict=True))
    got = regress(x, **forest, **named, n_targets=n_targets, aggregate_function=aggregate, base_values=base)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("opset", [1, 3, 5])
def test_input_types(dtype: Any, opset: int) -> None:
    x = SIDES.astype(dtype)
    cast = votes("target", (1, 0, 0.25), (2, 0, 0.5))
    got = regress(x, opset=opset, **STUMP, **cast, n_targets=1)
    assert got.dtype == np.float32
    assert got.tolist() == [[0.25], [0.5]]
    labels, scores = classify(
        x, opset=opset, **STUMP, **votes("class", (1, 1, 1.0), (2, 2, 2.0)), classlabels_int64s=(4, 5, 6)
    )
    assert (labels.dtype, scores.dtype) == (np.int64, np.float32)
    assert labels.tolist() == [5, 6]
    assert scores.tolist() == [[0, 1, 0], [0, 0, 2]]


@pytest.mark.parametrize(
    ("x", "value", "double", "leaf"),
    [
        (np.float32(0.1), 0.1, False, 1),
        # 0.1 in float64 is less than 0.1 in float32.
        (np.float32(0.1), 0.1, True, 2),
        (np.float64(0.1), 0.1, True, 1),
        (np.float64(0.1), 0.1, False, 1),
        (np.float64(np.float32(0.1)) + 1e-9, 0.1, False, 2),
        # Integers are compared in float32, which cannot tell these two apart.
        (np.int64(2**24 + 1), 2.0**24, False, 1),
        (np.int64(2**24 + 1), 2.0**24, True, 1),
    ],
)
def test_comparison_type(x: Any, value: float, double: bool, leaf: int) -> None:
    attributes = dict(STUMP)
    if double:
        attributes["nodes_values"] = ()
        attributes["nodes_values_as_tensor"] = np.array([value, 0, 0])
    else:
        attributes["nodes_values"] = (float(np.float32(value)), 0.0, 0.0)
    got = regress(np.array([[x]]), **attributes, **votes("target", (1, 0, 1.0), (2, 0, 2.0)), n_targets=1)
    assert got.item() == leaf


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, -math.inf, math.nan, 1.4e-45, 3.4e38])
def test_modes_at_the_edges(mode: str, value: float) -> None:
    tiny = np.float32(1.4e-45)
    x = np.array([0.0, -0.0, tiny, -tiny, np.inf, -np.inf, 3.4e38, 1.0], np.float32)[:, np.newaxis]
    attributes = {**STUMP, "nodes_modes": (mode, "LEAF", "LEAF"), "nodes_values": (value, 0.0, 0.0)}
    got = regress(x, **attributes, **votes("target", (1, 0, 1.0), (2, 0, 2.0)), n_targets=1)
    yes = COMPARE[mode](x, np.float32(value))
    np.testing.assert_array_equal(got, np.where(yes, 1, 2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tracks", [(), (0, 0, 0), (1, 0, 0)])
def test_missing_values(mode: str, tracks: tuple[int, ...]) -> None:
    attributes = {**STUMP, "nodes_modes": (mode, "LEAF", "LEAF"), "nodes_missing_value_tracks_true": tracks}
    x = np.array([[np.nan]], np.float32)
    got = regress(x, **attributes, **votes("target", (1, 0, 1.0), (2, 0, 2.0)), n_targets=1)
    assert got.item() == (1 if tracks[:1] == (1,) else 2)


def test_shared_children_are_no_cycle() -> None:
    # Converters write "feature is one of {1, 2}" as two tests that lead to the same leaf.
    attributes: dict[str, Any] = {
        "nodes_treeids": (0,) * 4,
        "nodes_nodeids": (0, 1, 2, 3),
        "nodes_featureids": (0,) * 4,
        "nodes_values": (1.0, 2.0, 0.0, 0.0),
        "nodes_modes": ("BRANCH_EQ", "BRANCH_EQ", "LEAF", "LEAF"),
        "nodes_truenodeids": (2, 2, 0, 0),
        "nodes_falsenodeids": (1, 3, 0, 0),
    }
    x = np.array([[0], [1], [2], [3]], np.float32)
    got = regress(x, **attributes, **votes("target", (2, 0, 1.0), (3, 0, -1.0)), n_targets=1)
    assert got.ravel().tolist() == [-1, 1, 1, -1]


def test_weights_of_branches_are_ignored() -> None:
    cast = votes("target", (0, 0, 100.0), (1, 0, 1.0), (2, 0, 2.0))
    assert regress(SIDES, **STUMP, **cast, n_targets=1).ravel().tolist() == [1, 2]


def test_double_attributes() -> None:
    cast = votes("target", (1, 0, 0.0), (2, 0, 0.0))
    cast.pop("target_weights")
    got = regress(
        SIDES.astype(np.float64),
        **{**STUMP, "nodes_values": ()},
        **cast,
        nodes_values_as_tensor=np.zeros(3),
        target_weights_as_tensor=np.array([1.0, 2**-30]),
        base_values_as_tensor=np.array([-1.0]),
        n_targets=1,
    )
    np.testing.assert_array_equal(got, np.array([[0], [2**-30 - 1]], np.float32))


@pytest.mark.parametrize("n_targets", [None, 3])
def test_number_of_targets(n_targets: int | None) -> None:
    cast = votes("target", (1, 1, 1.0), (2, 0, 2.0))
    got = regress(SIDES, **STUMP, **cast, n_targets=n_targets)
    assert got.shape == (2, n_targets or 2)
    assert got[:, :2].tolist() == [[0, 1], [2, 0]]


def test_one_row_without_batch_axis_and_no_rows() -> None:
    cast = votes("target", (1, 0, 1.0), (2, 0, 2.0))
    assert regress(np.array([5], np.float32), **STUMP, **cast, n_targets=1).tolist() == [[2]]
    assert regress(np.zeros((0, 1), np.float32), **STUMP, **cast, n_targets=1).shape == (0, 1)
    labels, scores = classify(
        np.zeros((0, 1), np.float32), **STUMP, **votes("class", (1, 0, 1.0)), classlabels_strings=("a", "b")
    )
    assert (labels.shape, labels.dtype, scores.shape) == ((0,), object, (0, 2))


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        ("NONE", [1.0, -1.0]),
        ("LOGISTIC", [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))]),
        ("SOFTMAX", [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]),
        ("SOFTMAX_ZERO", [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]),
    ],
)
def test_post_transform(kind: str, want: list[float]) -> None:
    got = regress(
        SIDES[:1], **STUMP, **votes("target", (1, 0, 1.0), (1, 1, -1.0)), n_targets=2, post_transform=kind
    )
    np.testing.assert_allclose(got[0], want, rtol=1e-6)
    labels, scores = classify(
        SIDES[:1],
        **STUMP,
        **votes("class", (1, 0, 1.0), (1, 1, -1.0)),
        classlabels_int64s=(3, 4),
        post_transform=kind,
    )
    assert labels.tolist() == [3]
    np.testing.assert_allclose(scores[0], want, rtol=1e-6)


def test_probit() -> None:
    got = regress(
        SIDES,
        **STUMP,
        **votes("target", (1, 0, 0.5), (2, 0, 0.8413447)),
        n_targets=1,
        post_transform="PROBIT",
    )
    np.testing.assert_allclose(got.ravel(), [0, 1], atol=3e-3)


# Two classes, all votes under class id 0: they are about the second class.
@pytest.mark.parametrize(
    ("weights", "base", "kind", "labels", "scores"),
    [
        ((0.25, 0.75), (), "NONE", [10, 20], [[0.75, 0.25], [0.25, 0.75]]),
        ((0.5, 0.75), (), "NONE", [10, 20], [[0.5, 0.5], [0.25, 0.75]]),
        ((-0.25, 0.75), (), "NONE", [10, 20], [[0.25, -0.25], [-0.75, 0.75]]),
        ((-0.25, 0.0), (), "NONE", [10, 10], [[0.25, -0.25], [0, 0]]),
        ((0.25, 0.75), (0.125,), "NONE", [10, 20], [[0.625, 0.375], [0.125, 0.875]]),
        ((-0.25, 0.75), (0.5,), "NONE", [20, 20], [[-0.25, 0.25], [-1.25, 1.25]]),
        ((-1.0, 1.0), (), "LOGISTIC", [10, 20], [[0.7310586, 0.2689414], [0.2689414, 0.7310586]]),
        ((0.25, 1.0), (), "LOGISTIC", [20, 20], [[0.4378235, 0.5621765], [0.2689414, 0.7310586]]),
        ((-0.5, 0.5), (), "SOFTMAX", [10, 20], [[0.7310586, 0.2689414], [0.2689414, 0.7310586]]),
        # With a base value for each class they are scores of the first class after all.
        ((0.25, 0.75), (0.125, 0.5), "NONE", [20, 10], [[0.375, 0.5], [0.875, 0.5]]),
    ],
)
def test_binary_with_one_column(
    weights: tuple[float, float],
    base: tuple[float, ...],
    kind: str,
    labels: list[int],
    scores: list[list[float]],
) -> None:
    cast = votes("class", (1, 0, weights[0]), (2, 0, weights[1]))
    got = classify(SIDES, **STUMP, **cast, classlabels_int64s=(10, 20), base_values=base, post_transform=kind)
    assert got[0].tolist() == labels
    np.testing.assert_allclose(got[1], scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("n_classes", "cast", "labels", "scores"),
    [
        (2, [(1, 0, 0.75), (1, 1, 0.25), (2, 0, 0.25), (2, 1, 0.75)], "ab", [[0.75, 0.25], [0.25, 0.75]]),
        (2, [(1, 1, 0.25), (2, 1, -0.5)], "ba", [[0, 0.25], [0, -0.5]]),
        (1, [(1, 0, -1.0), (2, 0, 2.0)], "aa", [[-1], [2]]),
        (3, [(1, 0, -1.0), (2, 2, 2.0)], "bc", [[-1, 0, 0], [0, 0, 2]]),
        (3, [(1, 2, 1.0), (1, 2, 1.0), (1, 0, 1.5), (2, 1, 0.0)], "ca", [[1.5, 0, 2], [0, 0, 0]]),
    ],
)
def test_top_class(n_classes: int, cast: list[Any], labels: str, scores: list[Any]) -> None:
    got = classify(SIDES, **STUMP, **votes("class", *cast), classlabels_strings=tuple("abc"[:n_classes]))
    assert got[0].dtype == object
    assert got[0].tolist() == list(labels)
    assert got[1].tolist() == scores


def test_ties_are_ties() -> None:
    # Five votes of 0.1 make 0.5 in float32, although 0.1 is more than a tenth there.
    n = 5
    attributes = {
        "nodes_treeids": tuple(range(n)),
        "nodes_nodeids": (0,) * n,
        "nodes_featureids": (0,) * n,
        "nodes_values": (0.0,) * n,
        "nodes_modes": ("LEAF",) * n,
        "nodes_truenodeids": (0,) * n,
        "nodes_falsenodeids": (0,) * n,
        "class_treeids": tuple(range(n)),
        "class_nodeids": (0,) * n,
        "class_ids": (0,) * n,
        "class_weights": (float(np.float32(0.1)),) * n,
    }
    assert classify(SIDES, **attributes, classlabels_int64s=(0, 1))[0].tolist() == [0, 0]


def test_large_batches_are_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxref.kernels.numpy import ml_trees

    rng = np.random.default_rng(5)
    forest = random_forest(rng, 20, 6, MODES)
    cast = random_votes(rng, forest, 3, full=False)
    names = ("class_treeids", "class_nodeids", "class_ids", "class_weights")
    attributes = {**forest, **dict(zip(names, zip(*cast, strict=True), strict=True))}
    x = random_x(rng, 300, nan=True)
    whole = classify(x, **attributes, classlabels_int64s=(0, 1, 2))
    monkeypatch.setattr(ml_trees, "_PAIRS", 64)
    parts = classify(x, **attributes, classlabels_int64s=(0, 1, 2))
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-6, atol=1e-6)


# Models are untrusted


def changed(**changes: Any) -> dict[str, Any]:
    return {**STUMP, **votes("target", (1, 0, 1.0), (2, 0, 2.0)), "n_targets": 1, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes_truenodeids": (0, 0, 0)}, r"tree 0 must have one root \(got 0\)|no cycle"),
        ({"nodes_falsenodeids": (1, 0, 0)}, r"tree 0 must have one root \(got 2\)"),
        (
            {"nodes_truenodeids": (9, 0, 0)},
            "nodes_truenodeids must name nodes of the same tree .got 9 in tree 0",
        ),
        ({"nodes_treeids": (0, 1, 0)}, "nodes_truenodeids must name nodes of the same tree .got 1 in tree 0"),
        ({"nodes_nodeids": (0, 1, 1)}, "node ids must not repeat in a tree .got 1 in tree 0"),
        ({"nodes_modes": ("BRANCH_LEQ", "LEAF")}, "must have as many elements as nodes_modes, 2 .got 3"),
        ({"nodes_modes": ("IF", "LEAF", "LEAF")}, "nodes_modes must be among BRANCH_LEQ.*got 'IF'"),
        ({"nodes_modes": ()}, "at least one node"),
        ({"nodes_missing_value_tracks_true": (1,)}, "nodes_missing_value_tracks_true must have"),
        ({"nodes_featureids": (-1, 0, 0)}, "nodes_featureids must not be negative .got -1"),
        ({"nodes_featureids": (1, 0, 0)}, "X must have at least 2 features .got 1"),
        ({"target_ids": (0, 1)}, r"ids must be in \[0, 0\] \(got 1\)"),
        ({"target_ids": (0, -1)}, r"ids must be in \[0, 0\] \(got -1\)"),
        ({"target_nodeids": (1, 7)}, "the node ids of the weights must name nodes"),
        ({"target_weights": (1.0,)}, "weights must have as many elements as treeids, 2 .got 1"),
        ({"n_targets": 0}, "number of targets must be positive .got 0"),
        ({"base_values": (1.0, 2.0)}, "base_values must have one value per target, 1 .got 2"),
        ({"aggregate_function": "MEDIAN"}, "aggregate_function must be one of AVERAGE.*got 'MEDIAN'"),
        ({"post_transform": "EXP"}, "post_transform must be one of NONE.*got 'EXP'"),
        ({"nodes_values_as_tensor": np.zeros(3)}, "only one of nodes_values and nodes_values_as_tensor"),
    ],
)
def test_bad_regressors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        regress(SIDES, **changed(**changes))


def test_cycle_below_the_root() -> None:
    attributes: dict[str, Any] = {
        "nodes_treeids": (0,) * 4,
        "nodes_nodeids": (0, 1, 2, 3),
        "nodes_featureids": (0,) * 4,
        "nodes_values": (0.0,) * 4,
        "nodes_modes": ("BRANCH_LEQ", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF"),
        "nodes_truenodeids": (1, 2, 1, 0),
        "nodes_falsenodeids": (3, 3, 3, 0),
    }
    with pytest.raises(KernelError, match=r"trees must have no cycle \(got 2 nodes"):
        regress(SIDES, **attributes, **votes("target", (3, 0, 1.0)), n_targets=1)


def test_depth_is_bounded() -> None:
    n = 10_002
    attributes: dict[str, Any] = {
        "nodes_treeids": (0,) * n,
        "nodes_nodeids": tuple(range(n)),
        "nodes_featureids": (0,) * n,
        "nodes_values": (0.0,) * n,
        "nodes_modes": ("BRANCH_LEQ",) * (n - 1) + ("LEAF",),
        "nodes_truenodeids": tuple(range(1, n + 1)),
        "nodes_falsenodeids": (n - 1,) * n,
    }
    with pytest.raises(KernelError, match="at most 10000 levels"):
        regress(SIDES, **attributes, **votes("target", (n - 1, 0, 1.0)), n_targets=1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [({}, "got neither"), ({"classlabels_int64s": (0,), "classlabels_strings": ("a",)}, "got both")],
)
def test_labels_must_be_of_one_kind(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        classify(SIDES, **STUMP, **votes("class", (1, 0, 1.0)), **labels)


def test_x_must_be_a_matrix() -> None:
    with pytest.raises(KernelError, match=r"X must have shape \(N, F\) \(got \(1, 2, 3\)\)"):
        regress(np.zeros((1, 2, 3), np.float32), **changed())


def test_preparation_allocates_nothing_for_targets_without_votes() -> None:
    operator = registry.find(ML, "TreeEnsembleRegressor", 3)
    assert operator.prepare is not None
    assert operator.prepare(**changed(n_targets=2**62)).forest.votes.n_targets == 2**62
    operator = registry.find(ML, "TreeEnsemble", 5)
    assert operator.prepare is not None
    operator.prepare(**{**member_ensemble([[1]], np.float32), "n_targets": 2**62})


def test_cost_knows_the_outputs_beforehand() -> None:
    cost = registry.find(ML, "TreeEnsembleRegressor", 3).cost
    assert cost is not None
    assert cost(SIDES, **changed(n_targets=2**50)).out_bytes == 2 * 4 * 2**50
    cost = registry.find(ML, "TreeEnsembleClassifier", 3).cost
    assert cost is not None
    assert cost(SIDES, classlabels_int64s=(1, 2, 3)).out_bytes == 2 * (8 + 3 * 4)
    cost = registry.find(ML, "TreeEnsemble", 5).cost
    assert cost is not None
    assert cost(np.zeros((5, 1)), n_targets=7).out_bytes == 5 * 8 * 7
