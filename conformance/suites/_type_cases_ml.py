"""Specs for the suite `types` of the operators outside of ai.onnx: machine learning, training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import helper

from ._type_specs import D, Of, Spec, Types, dtype_of, inner, one_tensor, spec, tensor_of

_STRING = "tensor(string)"


def _only(variable: str, *chosen: str, value: Any) -> Callable[[Types], Any]:
    """Return an attribute that is given where a variable is bound to one of the types `chosen`."""
    return lambda types: value if types[variable] in chosen else None


def _labels(strings: str, ints: str) -> dict[str, Any]:
    """Return a classifier's labels, whose type T2 is."""
    return {
        strings: _only("T2", _STRING, value=["a", "b"]),
        ints: _only("T2", "tensor(int64)", value=[4, 5]),
    }


def _other_way(types: dict[str, str], tested: str) -> None:
    """From strings to int64 or back."""
    other = "T2" if tested == "T1" else "T1"
    types[other] = _STRING if types[tested] == "tensor(int64)" else "tensor(int64)"


def _map_value(types: dict[str, str], tested: str) -> None:
    """DictVectorizer: the output holds the map's values."""
    if tested == "T2":
        value = inner(types["T2"])
        types["T1"] = f"map({'int64' if value == 'string' else 'string'}, {value})"
    else:
        types["T2"] = f"tensor({inner(types['T1']).partition(',')[2].strip()})"


def _vocabulary(key: str, words: list[Any]) -> Callable[[Types], Any]:
    return lambda types: words if inner(types["T1"]).startswith(key) else None


def _float_or_int(floats: Any, ints: Any) -> Callable[[Types], Any]:
    return lambda types: ints if dtype_of(types["T"]).kind == "i" else floats


def _encoder_lists() -> dict[str, Any]:
    """LabelEncoder-2: keys and values in the lists of their types."""
    lists = {
        "strings": (_STRING, str),
        "int64s": ("tensor(int64)", int),
        "floats": ("tensor(float)", float),
    }
    return {
        f"{side}_{name}": _only(variable, type_string, value=[make(x) for x in numbers])
        for side, variable, numbers in (("keys", "T1", (0, 1)), ("values", "T2", (7, 9)))
        for name, (type_string, make) in lists.items()
    }


_TREE: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_values": [0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}


def _leaves(kind: str) -> dict[str, Any]:
    """Return the two leaves of `_TREE` as a classifier's `class` or a regressor's `target`."""
    return {
        f"{kind}_treeids": [0, 0],
        f"{kind}_nodeids": [1, 2],
        f"{kind}_ids": [0, 1],
        f"{kind}_weights": [2.0, 3.0],
    }


_SVM: dict[str, Any] = {
    "kernel_type": "LINEAR",
    "kernel_params": [0.0, 0.0, 0.0],
    "coefficients": [1.5, -1.0],
    "support_vectors": [1.0, 0.0, 2.0, 0.0, 1.0, 0.0],
    "rho": [0.5],
}

MACHINE_LEARNING: dict[tuple[str, int], Spec] = {
    ("ArrayFeatureExtractor", 1): spec((2, 3), D([0, 1])),
    ("CastMap", 1): spec((), cast_to=lambda types: f"TO_{inner(types['T2']).upper()}"),
    ("CategoryMapper", 1): Spec(
        attributes={"cats_strings": ["0", "1"], "cats_int64s": [1, 0]}, link=_other_way
    ),
    ("DictVectorizer", 1): Spec(
        ((),),
        {
            "string_vocabulary": _vocabulary("string", ["b", "a"]),
            "int64_vocabulary": _vocabulary("int64", [2, 1]),
        },
        link=_map_value,
    ),
    ("FeatureVectorizer", 1): spec((2, 3), inputdimensions=[3]),
    ("Imputer", 1): spec(
        (2, 3), imputed_value_floats=_float_or_int([1.0], None), imputed_value_int64s=_float_or_int(None, [1])
    ),
    ("LabelEncoder", 1): Spec(attributes={"classes_strings": ["0", "1"]}, link=_other_way),
    ("LabelEncoder", 2): Spec(attributes=_encoder_lists()),
    ("LabelEncoder", 4): Spec(
        attributes={
            "keys_tensor": lambda types: tensor_of(types["T1"], [0, 1]),
            "values_tensor": lambda types: tensor_of(types["T2"], [7, 9]),
            "default_tensor": lambda types: tensor_of(types["T2"], [5]),
        }
    ),
    ("LinearClassifier", 1): spec(
        (2, 3),
        n_outputs=2,
        coefficients=[1.0, 0.0, 0.0, 0.0, -1.0, -1.0],
        intercepts=[0.25, -0.5],
        **_labels("classlabels_strings", "classlabels_ints"),
    ),
    ("LinearRegressor", 1): spec((2, 3), coefficients=[1.0] * 3),
    ("OneHotEncoder", 1): spec(
        (2, 3),
        cats_strings=_only("T", _STRING, value=["0", "1"]),
        cats_int64s=lambda types: None if types["T"] == _STRING else [0, 1],
    ),
    ("SVMClassifier", 1): spec(
        (2, 3),
        n_outputs=2,
        vectors_per_class=[1, 1],
        **_SVM,
        **_labels("classlabels_strings", "classlabels_ints"),
    ),
    ("SVMRegressor", 1): spec((2, 3), n_supports=2, **_SVM),
    ("Scaler", 1): spec((2, 3), offset=[0.0], scale=[2.0]),
    ("TreeEnsemble", 5): spec(
        (2, 3),
        tree_roots=[0],
        nodes_modes=one_tensor("tensor(uint8)"),
        nodes_featureids=[0],
        nodes_splits=lambda types: one_tensor(types["T"]),
        nodes_truenodeids=[0],
        nodes_falsenodeids=[1],
        nodes_trueleafs=[1],
        nodes_falseleafs=[1],
        leaf_targetids=[0, 0],
        leaf_weights=lambda types: tensor_of(types["T"], [2, 3]),
    ),
    ("TreeEnsembleClassifier", 1): spec(
        (2, 3),
        n_outputs=2,
        **_TREE,
        **_leaves("class"),
        **_labels("classlabels_strings", "classlabels_int64s"),
    ),
    ("TreeEnsembleRegressor", 1): spec((2, 3), n_targets=2, **_TREE, **_leaves("target")),
    ("ZipMap", 1): spec(
        (2, 3),
        classlabels_strings=_only("T", "seq(map(string, float))", value=["a", "b", "c"]),
        classlabels_int64s=_only("T", "seq(map(int64, float))", value=[4, 5, 6]),
    ),
}

_STEP = ((), D(1), (2, 3), (2, 3), (2, 3))

LEARNING: dict[tuple[str, int], Spec] = {
    ("Adagrad", 1): spec(*_STEP, n_outputs=2),
    ("Adam", 1): spec(*_STEP, (2, 3), n_outputs=3),
    ("Gradient", 1): Spec(
        (Of("T2", (2, 3)), (2, 3)),
        {"xs": ["i0"], "zs": ["i1"], "y": "y"},
        # Only the size of i1 matters, so that it may have any type.
        nodes=(
            helper.make_node("Size", ["i1"], ["size"]),
            helper.make_node("CastLike", ["size", "i0"], ["factor"]),
            helper.make_node("Mul", ["i0", "factor"], ["y"]),
        ),
    ),
    ("Momentum", 1): spec(*_STEP, n_outputs=2, alpha=0.9, beta=0.9, mode="standard", norm_coefficient=0.0),
}
