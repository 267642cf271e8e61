"""Rules for ai.onnx.ml: small models with drawn coefficients and trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ._fuzz_pen import Pen, Rule
from ._fuzz_values import Array

DOMAIN = "ai.onnx.ml"

Drawn = tuple[list[Array | None], dict[str, Any]]

_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
_WEIGHTS = (1.0, 0.5, -1.0, 0.0, 2.25)


def _floats(pen: Pen, count: int) -> list[float]:
    drawn: list[float] = pen.draw(st.lists(st.sampled_from(_WEIGHTS), min_size=count, max_size=count))
    return drawn


def _rows(pen: Pen) -> Array:
    return pen.array(0, (pen.pick(2, 1, 3), pen.pick(2, 1, 3)), tame=True)


def _labels(pen: Pen, name: str, count: int) -> dict[str, Any]:
    if pen.draw(st.booleans()):
        return {f"{name}_strings": [f"label {i}" for i in range(count)]}
    return {
        ("classlabels_ints" if name == "classlabels" else f"{name}_int64s"): [5 + i for i in range(count)]
    }


def _linear_regressor(pen: Pen) -> Drawn:
    x, targets = _rows(pen), pen.pick(1, 2)
    made: dict[str, Any] = {"targets": targets, "coefficients": _floats(pen, targets * x.shape[1])}
    if pen.draw(st.booleans()):
        made["intercepts"] = _floats(pen, targets)
    return [x], made | {"post_transform": pen.pick("NONE", "LOGISTIC")}


def _linear_classifier(pen: Pen) -> Drawn:
    x, classes = _rows(pen), pen.pick(3, 2)
    made: dict[str, Any] = {
        "coefficients": _floats(pen, classes * x.shape[1]),
        "intercepts": _floats(pen, classes),
        "post_transform": pen.pick(*_TRANSFORMS),
        "outputs": 2,
    }
    return [x], made | _labels(pen, "classlabels", classes)


def _svm_regressor(pen: Pen) -> Drawn:
    x, vectors = _rows(pen), pen.pick(1, 2, 3)
    return [x], {
        "kernel_type": pen.pick("LINEAR", "RBF", "POLY", "SIGMOID"),
        "kernel_params": [0.5, 0.25, 2.0],
        "n_supports": vectors,
        "support_vectors": _floats(pen, vectors * x.shape[1]),
        "coefficients": _floats(pen, vectors),
        "rho": [pen.pick(0.0, 0.5)],
    }


def _tree(pen: Pen, features: int) -> dict[str, Any]:
    """Return a tree of depth 2: three branches and four leaves."""
    modes = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
    chosen = [pen.pick(*modes) for _ in range(3)]
    return {
        "nodes_treeids": [0] * 7,
        "nodes_nodeids": list(range(7)),
        "nodes_modes": [*chosen, *["LEAF"] * 4],
        "nodes_featureids": [*(pen.draw(st.integers(0, features - 1)) for _ in range(3)), 0, 0, 0, 0],
        "nodes_values": [*_floats(pen, 3), 0.0, 0.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 3, 5, 0, 0, 0, 0],
        "nodes_falsenodeids": [2, 4, 6, 0, 0, 0, 0],
        "nodes_missing_value_tracks_true": [pen.pick(0, 1) for _ in range(3)] + [0] * 4,
    }


def _leaves(pen: Pen, kind: str, count: int) -> dict[str, Any]:
    return {
        f"{kind}_treeids": [0] * 4,
        f"{kind}_nodeids": [3, 4, 5, 6],
        f"{kind}_ids": [pen.draw(st.integers(0, count - 1)) for _ in range(4)],
        f"{kind}_weights": _floats(pen, 4),
    }


def _trees_x(pen: Pen) -> Array:
    return pen.array(0, (pen.pick(2, 1, 5), pen.pick(2, 1, 3)))


def _tree_regressor(pen: Pen) -> Drawn:
    x, targets = _trees_x(pen), pen.pick(1, 2)
    made = _tree(pen, x.shape[1]) | _leaves(pen, "target", targets)
    made |= {"n_targets": targets, "aggregate_function": pen.pick("SUM", "AVERAGE", "MIN", "MAX")}
    if pen.draw(st.booleans()):
        made["base_values"] = _floats(pen, targets)
    return [x], made


def _tree_classifier(pen: Pen) -> Drawn:
    x, classes = _trees_x(pen), pen.pick(3, 2)
    made = _tree(pen, x.shape[1]) | _leaves(pen, "class", classes)
    labels = _labels(pen, "classlabels", classes)
    labels = {key.replace("classlabels_ints", "classlabels_int64s"): value for key, value in labels.items()}
    return [x], made | labels | {"post_transform": pen.pick(*_TRANSFORMS), "outputs": 2}


def _scaler(pen: Pen) -> Drawn:
    x = _rows(pen)
    count = pen.pick(1, x.shape[1])
    return [x], {"offset": _floats(pen, count), "scale": _floats(pen, count)}


def _normalizer(pen: Pen) -> Drawn:
    return [_rows(pen)], {"norm": pen.pick("MAX", "L1", "L2")}


def _binarizer(pen: Pen) -> Drawn:
    return [_rows(pen)], {"threshold": pen.pick(0.0, 1.0, -0.5)}


def _label_encoder(pen: Pen) -> Drawn:
    x = pen.array(0, (pen.pick(3, 1),), tame=True)
    keys: dict[str, Any] = {
        "O": {"keys_strings": ["a", "", "é"]},
        "i": {"keys_int64s": [1, 0, -3]},
        "f": {"keys_floats": [1.0, -0.5, float("nan")]},
    }
    values = pen.pick(
        {"values_strings": ["x", "y", "z"]}, {"values_int64s": [7, 8, 9]}, {"values_floats": _WEIGHTS[:3]}
    )
    return [x], keys[x.dtype.kind] | values


def _features(pen: Pen) -> Drawn:
    x = pen.array(0, (pen.pick(2, 1), 3))
    drawn = pen.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    return [x, np.array(drawn, np.int64)], {}


RULES: dict[str, Rule] = {
    "ArrayFeatureExtractor": _features,
    "Binarizer": _binarizer,
    "LabelEncoder": _label_encoder,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "SVMRegressor": _svm_regressor,
    "Scaler": _scaler,
    "TreeEnsembleClassifier": _tree_classifier,
    "TreeEnsembleRegressor": _tree_regressor,
}
