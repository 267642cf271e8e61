"""Tree ensembles on the emulator beside the reference: same leaves, sums within one rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.ml_trees
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.registry import ML
from tests.kernels.numba import test_numba_ml_trees as trees
from tests.lowered import reference

from .lowered import run_on_device

MODES = trees.MODES
SMALL: dict[str, Any] = {"n_trees": 35, "depth": 5, "features": 6, "modes": MODES[:1]}


def random_trees(kind: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = getattr(trees, kind)(*arguments, **options)  # type: ignore[no-untyped-call]
    return made


def rows(rng: Any, n: int, features: int, dtype: str = "float32", *, nan: bool = False) -> Array:
    made: Array = trees.rows(rng, n, features, dtype, nan=nan)  # type: ignore[no-untyped-call]
    return made


def check(
    op_type: str,
    x: Array,
    attributes: dict[str, Any],
    opset: int = 3,
    atol: float = 1e-6,
    orders: Any = (0, 1),
) -> None:
    expected = reference(op_type, [x], attributes, opset, ML)
    places = [(y.shape, y.dtype) for y in expected]
    found = run_on_device(op_type, [x], places, attributes, opset=opset, domain=ML, orders=orders)
    for y, wanted in zip(found, expected, strict=True):
        assert y is not None
        if wanted.dtype.kind == "i":
            np.testing.assert_array_equal(y, wanted)
        else:
            np.testing.assert_allclose(y, wanted, rtol=2e-6, atol=atol)


@pytest.mark.parametrize("n", [0, 1, 5, 63, 64, 300])
def test_rows(n: int) -> None:
    rng = np.random.default_rng(n)
    check(
        "TreeEnsembleRegressor", rows(rng, n, 6), random_trees("regressor", rng, **(SMALL | {"n_trees": 70}))
    )


@pytest.mark.parametrize("n", [3, 70])
@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("mode", [*((m,) for m in MODES), MODES])
def test_modes_and_nan(mode: Any, tracks: bool, n: int) -> None:
    rng = np.random.default_rng(1)
    attributes = random_trees("regressor", rng, **(SMALL | {"modes": mode, "n_trees": 9}), tracks=tracks)
    check("TreeEnsembleRegressor", rows(rng, n, 7, nan=True), attributes, orders=(0,))


@pytest.mark.parametrize("n", [3, 70])
@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "int32"])
def test_types(dtype: str, n: int) -> None:
    rng = np.random.default_rng(2)
    x = rows(rng, n, 6, dtype)
    if dtype == "int64":
        x[0, 0] = 2**53 + 1
    check("TreeEnsembleRegressor", x, random_trees("regressor", rng, **SMALL), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_thresholds_in_double(dtype: str) -> None:
    rng = np.random.default_rng(3)
    attributes = random_trees("regressor", rng, **SMALL)
    # Thresholds beside the values, closer than float32 can tell.
    nudge = 1 + rng.integers(-1, 2, len(attributes["nodes_modes"])) * 1e-12
    attributes["nodes_values_as_tensor"] = np.array(attributes.pop("nodes_values")) * nudge
    attributes["target_weights_as_tensor"] = np.array(attributes.pop("target_weights")) / 3
    for n in (3, 70):
        check("TreeEnsembleRegressor", rows(rng, n, 6, dtype), attributes)


@pytest.mark.parametrize(
    ("aggregate", "votes", "targets", "n"),
    [
        ("SUM", "one", 3, 70),
        ("SUM", "all", 2, 3),
        ("SUM", "all", 6, 70),
        ("SUM", "all", 11, 3),
        ("SUM", "one", 19, 70),
        ("SUM", "some", 5, 70),
        ("AVERAGE", "one", 3, 3),
        ("AVERAGE", "all", 6, 70),
        ("MIN", "one", 3, 70),
        ("MIN", "some", 5, 3),
        ("MAX", "all", 2, 70),
    ],
)
def test_votes(aggregate: str, votes: str, targets: int, n: int) -> None:
    rng = np.random.default_rng(4)
    attributes = random_trees("regressor", rng, targets, **(SMALL | {"n_trees": 5}), votes=votes)
    attributes |= {"aggregate_function": aggregate, "base_values": tuple(rng.random(targets).tolist())}
    check("TreeEnsembleRegressor", rows(rng, n, 6), attributes)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_classifier(classes: int, transform: str) -> None:
    rng = np.random.default_rng(5)
    votes = {1: "one", 2: "one", 3: "all"}[classes]
    attributes = random_trees("classifier", rng, classes, **(SMALL | {"n_trees": 7}), votes=votes)
    attributes["post_transform"] = transform
    check(
        "TreeEnsembleClassifier", rows(rng, 40, 6), attributes, atol=2e-5 if transform == "PROBIT" else 1e-6
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "PROBIT"])
@pytest.mark.parametrize("sign", ["positive", "mixed"])
@pytest.mark.parametrize("base", [(), (0.125,)])
def test_binary_classifier_of_one_column(base: tuple[float, ...], sign: str, transform: str) -> None:
    rng = np.random.default_rng(6)
    attributes, votes = trees.grow(rng, **(SMALL | {"n_trees": 3}))  # type: ignore[no-untyped-call]
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
    atol = 2e-5 if transform == "PROBIT" else 1e-6
    check("TreeEnsembleClassifier", rows(rng, 20, 6), attributes, atol=atol, orders=(0,))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_tree_ensemble_5(dtype: str) -> None:
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
    for n in (2, 70):
        check("TreeEnsemble", rows(rng, n, 3, dtype, nan=True), attributes, 5)


def test_batches_of_any_size_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    attributes = random_trees("regressor", rng, **(SMALL | {"n_trees": 100}))
    x = rows(rng, 600, 6)

    def run(x: Array) -> Array:
        places = [((len(x), 1), "float32")]
        (y,) = run_on_device(
            "TreeEnsembleRegressor", [x], places, attributes, opset=3, domain=ML, orders=(0,)
        )
        assert y is not None
        return y

    whole = run(x)
    np.testing.assert_array_equal(whole, np.concatenate([run(x[:1]), run(x[1:13]), run(x[13:])]))
    monkeypatch.setattr(onnxref.kernels.cupy.ml_trees, "_LEAVES", 100 * 256)  # some rows after the others
    np.testing.assert_array_equal(whole, run(x))
    monkeypatch.setattr(onnxref.kernels.cupy.ml_trees, "BUSY", 1)  # a thread for each row
    np.testing.assert_array_equal(whole, run(x))


def test_a_tree_of_one_leaf_and_one_row_without_batch() -> None:
    attributes: dict[str, Any] = {
        f"nodes_{k}": (0,) for k in ("treeids", "nodeids", "featureids", "truenodeids")
    }
    attributes |= {"nodes_falsenodeids": (0,), "nodes_modes": ("LEAF",), "nodes_values": (0.0,)}
    attributes |= {f"target_{k}": (0,) for k in ("treeids", "nodeids", "ids")}
    attributes |= {"target_weights": (1.5,), "n_targets": 1}
    for shape in ((4,), (1, 4), (70, 4)):
        check("TreeEnsembleRegressor", np.ones(shape, "f4"), attributes)


def test_refusals() -> None:
    rng = np.random.default_rng(10)
    attributes = random_trees("regressor", rng, **SMALL)
    x = rows(rng, 3, 6)
    for data, changed in (
        (x[:, :1], {}),
        (x, {"nodes_modes": ("BRANCH_XX", *attributes["nodes_modes"][1:])}),
        (x.astype(np.uint8), {}),
    ):
        places = [((3, 1), "f4")]
        with pytest.raises(Unsupported):
            run_on_device("TreeEnsembleRegressor", [data], places, attributes | changed, opset=3, domain=ML)
    strings = random_trees("classifier", rng, 2, **SMALL)
    del strings["classlabels_int64s"]
    strings["classlabels_strings"] = ("a", "b")
    with pytest.raises(Unsupported):
        run_on_device("TreeEnsembleClassifier", [x], [None, ((3, 2), "f4")], strings, opset=3, domain=ML)
