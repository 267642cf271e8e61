"""Tree ensembles in native code beside the reference: same leaves, sums within one rounding."""

from __future__ import annotations

import numpy as np
import onnxref.kernels.numba.ml_trees
import onnxref.kernels.numpy  # noqa: F401
import pytest

from onnxref.lowering import Unsupported
from tests.lowered import check_lowered, run_lowered

ML = "ai.onnx.ml"
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def grow(rng, n_trees, depth, features, modes, tracks=False, votes="one", targets=1):
    """Return the attributes of random trees, without the prefix of their votes."""
    nodes = {
        k: [] for k in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    }
    missing: list[int] = []
    leaves: list[tuple[int, int, int, float]] = []

    def add(tree, level):
        node = counter[0]
        counter[0] += 1
        place = len(nodes["treeids"])
        for key in nodes:
            nodes[key].append(0)
        nodes["treeids"][place], nodes["nodeids"][place] = tree, node
        missing.append(int(tracks and rng.integers(2)))
        if level == depth or (level and rng.random() < 0.15):
            nodes["modes"][place], nodes["values"][place] = "LEAF", 0.0
            chosen = {
                "one": [int(rng.integers(targets))],
                "all": range(targets),
                "some": range(targets // 2),
            }[votes]
            leaves.extend((tree, node, k, float(np.float32(rng.normal()))) for k in chosen)
            return node
        nodes["modes"][place] = modes[int(rng.integers(len(modes)))]
        nodes["featureids"][place] = int(rng.integers(features))
        nodes["values"][place] = float(np.float32(rng.integers(-4, 5) / 2))
        nodes["truenodeids"][place] = add(tree, level + 1)
        nodes["falsenodeids"][place] = add(tree, level + 1)
        return node

    for tree in range(n_trees):
        counter = [0]
        add(tree, 0)
    attributes = {f"nodes_{k}": tuple(v) for k, v in nodes.items()}
    if tracks:
        attributes["nodes_missing_value_tracks_true"] = tuple(missing)
    return attributes, [tuple(column) for column in zip(*leaves, strict=True)]


def regressor(rng, targets=1, **options):
    attributes, votes = grow(rng, targets=targets, **options)
    names = ("target_treeids", "target_nodeids", "target_ids", "target_weights")
    return attributes | dict(zip(names, votes, strict=True)) | {"n_targets": targets}


def classifier(rng, classes=3, **options):
    attributes, votes = grow(rng, targets=classes, **options)
    names = ("class_treeids", "class_nodeids", "class_ids", "class_weights")
    return (
        attributes
        | dict(zip(names, votes, strict=True))
        | {"classlabels_int64s": tuple(range(5, 5 + classes))}
    )


def rows(rng, n, features, dtype="float32", nan=False):
    x = rng.integers(-6, 7, (n, features)) / 2
    if nan:
        x[rng.random(x.shape) < 0.1] = np.nan
        x[rng.random(x.shape) < 0.05] = np.inf
    return x.astype(dtype)


SMALL = {"n_trees": 70, "depth": 5, "features": 6, "modes": MODES[:1]}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("n", [0, 1, 5, 16, 17, 24, 300])
def test_rows(n, parallel):
    rng = np.random.default_rng(n)
    x = rows(rng, n, 6)
    check_lowered(
        "TreeEnsembleRegressor",
        [x],
        regressor(rng, **SMALL),
        opset=3,
        domain=ML,
        rtol=1e-6,
        atol=1e-6,
        parallel=parallel,
    )


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("mode", [*((m,) for m in MODES), MODES])
def test_modes_and_nan(mode, tracks, n):
    rng = np.random.default_rng(1)
    attributes = regressor(rng, **(SMALL | {"modes": mode, "n_trees": 9}), tracks=tracks)
    x = rows(rng, n, 7, nan=True)
    check_lowered("TreeEnsembleRegressor", [x], attributes, opset=3, domain=ML, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("dtype", ["float64", "int64", "int32"])
def test_types(dtype, n):
    rng = np.random.default_rng(2)
    x = rows(rng, n, 6, dtype)
    if dtype == "int64":
        x[0, 0] = 2**53 + 1
    check_lowered(
        "TreeEnsembleRegressor", [x], regressor(rng, **SMALL), opset=1, domain=ML, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_thresholds_in_double(dtype, n):
    rng = np.random.default_rng(3)
    attributes = regressor(rng, **SMALL)
    x = rows(rng, n, 6, dtype)
    # Thresholds beside the values, closer than float32 can tell.
    values = np.array(attributes.pop("nodes_values")) * (
        1 + rng.integers(-1, 2, len(attributes["nodes_modes"])) * 1e-12
    )
    attributes["nodes_values_as_tensor"] = values
    attributes["target_weights_as_tensor"] = np.array(attributes.pop("target_weights")) / 3
    check_lowered("TreeEnsembleRegressor", [x], attributes, opset=3, domain=ML, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("aggregate", "votes", "targets", "n"),
    [
        ("SUM", "one", 3, 40),
        ("SUM", "all", 2, 3),
        ("SUM", "all", 6, 40),
        ("SUM", "some", 5, 40),
        ("AVERAGE", "one", 3, 3),
        ("AVERAGE", "all", 6, 40),
        ("MIN", "one", 3, 40),
        ("MIN", "some", 5, 3),
        ("MAX", "all", 2, 40),
    ],
)
def test_votes(aggregate, votes, targets, n):
    rng = np.random.default_rng(4)
    attributes = regressor(rng, targets, **(SMALL | {"n_trees": 5}), votes=votes)
    attributes |= {"aggregate_function": aggregate, "base_values": tuple(rng.random(targets).tolist())}
    x = rows(rng, n, 6)
    check_lowered("TreeEnsembleRegressor", [x], attributes, opset=3, domain=ML, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_classifier(classes, transform, n):
    rng = np.random.default_rng(5)
    votes = {1: "one", 2: "one", 3: "all"}[classes]
    attributes = classifier(rng, classes, **(SMALL | {"n_trees": 7}), votes=votes)
    attributes["post_transform"] = transform
    x = rows(rng, n, 6)
    check_lowered(
        "TreeEnsembleClassifier",
        [x],
        attributes,
        opset=3,
        domain=ML,
        rtol=2e-6,
        atol=2e-5 if transform == "PROBIT" else 1e-6,
        n_outputs=2,
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "PROBIT"])
@pytest.mark.parametrize("sign", ["positive", "mixed"])
@pytest.mark.parametrize("base", [(), (0.125,)])
def test_binary_classifier_of_one_column(base, sign, transform):
    rng = np.random.default_rng(6)
    attributes, votes = grow(rng, **(SMALL | {"n_trees": 3}))
    weights = np.float32(votes[3]) / 8
    weights = abs(weights) if sign == "positive" else weights
    attributes |= {
        "class_treeids": votes[0],
        "class_nodeids": votes[1],
        "class_ids": votes[2],
        "class_weights": tuple(weights.tolist()),
        "classlabels_int64s": (3, 9),
        "base_values": base,
        "post_transform": transform,
    }
    x = rows(rng, 20, 6)
    check_lowered(
        "TreeEnsembleClassifier",
        [x],
        attributes,
        opset=3,
        domain=ML,
        rtol=2e-6,
        atol=2e-5 if transform == "PROBIT" else 1e-6,
        n_outputs=2,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_tree_ensemble_5(dtype):
    rng = np.random.default_rng(7)
    attributes = {
        "n_targets": 2,
        "tree_roots": (0, 2),
        "nodes_featureids": (0, 2, 1),
        "nodes_modes": np.array([0, 6, 4], np.uint8),
        "nodes_splits": np.array([0.5, 0, 1.5], dtype),
        "nodes_truenodeids": (1, 0, 2),
        "nodes_falsenodeids": (0, 1, 3),
        "nodes_trueleafs": (0, 1, 1),
        "nodes_falseleafs": (1, 1, 1),
        "membership_values": np.array([1, 2, -0.5, np.nan], dtype),
        "leaf_targetids": (0, 1, 0, 1),
        "leaf_weights": np.array([1, 2, 4, 8], dtype),
    }
    for n in (2, 50):
        x = rows(rng, n, 3, dtype, nan=True)
        check_lowered("TreeEnsemble", [x], attributes, opset=5, domain=ML)


def test_batches_of_any_size_agree():
    rng = np.random.default_rng(8)
    attributes = regressor(rng, **(SMALL | {"n_trees": 200}))
    x = rows(rng, 100, 6)

    def run(x):
        return run_lowered(
            "TreeEnsembleRegressor",
            [x],
            [((len(x), 1), "float32")],
            attributes,
            opset=3,
            domain=ML,
            parallel=True,
        )[0]

    np.testing.assert_array_equal(run(x), np.concatenate([run(x[:1]), run(x[1:13]), run(x[13:])]))


def test_a_tree_of_one_leaf_and_one_row_without_batch():
    attributes = {
        "nodes_treeids": (0,),
        "nodes_nodeids": (0,),
        "nodes_featureids": (0,),
        "nodes_modes": ("LEAF",),
        "nodes_values": (0.0,),
        "nodes_truenodeids": (0,),
        "nodes_falsenodeids": (0,),
        "target_treeids": (0,),
        "target_nodeids": (0,),
        "target_ids": (0,),
        "target_weights": (1.5,),
        "n_targets": 1,
    }
    for shape in ((4,), (1, 4), (30, 4)):
        check_lowered("TreeEnsembleRegressor", [np.ones(shape, "f4")], attributes, opset=3, domain=ML)


def test_wide_nodes_hold_many_features():
    rng = np.random.default_rng(9)
    attributes = regressor(rng, **(SMALL | {"features": 1 << 22, "n_trees": 3}))
    for n in (2, 20):
        x = np.tile(rows(rng, n, 1), (1, 1 << 16))
        attributes["nodes_featureids"] = tuple(f % (1 << 16) for f in attributes["nodes_featureids"])
        check_lowered("TreeEnsembleRegressor", [x], attributes, opset=3, domain=ML, rtol=1e-6, atol=1e-6)


def test_the_rest_is_left_to_the_reference():
    rng = np.random.default_rng(10)
    attributes = regressor(rng, **SMALL)
    x = rows(rng, 3, 6)
    for data, changed in (
        (x[:, :1], {}),
        (x, {"nodes_modes": ("BRANCH_XX", *attributes["nodes_modes"][1:])}),
        (x.astype(np.uint8), {}),
    ):
        with pytest.raises(Unsupported):
            run_lowered(
                "TreeEnsembleRegressor", [data], [((3, 1), "f4")], attributes | changed, opset=3, domain=ML
            )
    strings = classifier(rng, 2, **SMALL)
    del strings["classlabels_int64s"]
    with pytest.raises(Unsupported):
        run_lowered(
            "TreeEnsembleClassifier",
            [rows(rng, 3, 6)],
            [None, ((3, 2), "f4")],
            strings | {"classlabels_strings": ("a", "b")},
            opset=3,
            domain=ML,
        )
