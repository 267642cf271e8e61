"""Oracles for ai.onnx.ml and for training, from the texts of their schemas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._type_models import Call
from ._type_oracles import Array, Oracle, wide
from ._type_specs import as_array, dtype_of

ML = "ai.onnx.ml"
TRAINING = "ai.onnx.preview.training"


def _binarizer(call: Call) -> Array:
    """Above the threshold 0."""
    return np.asarray((wide(call.inputs[0]).astype(float) > 0).astype(float))


def _linear_regressor(call: Call) -> Array:
    """All coefficients are 1."""
    return np.array([[math.fsum(row)] for row in wide(call.inputs[0]).tolist()])


def _scaler(call: Call) -> Array:
    """Offset 0, scale 2."""
    return np.asarray(wide(call.inputs[0]).astype(float) * 2)


def _one_hot_encoder(call: Call) -> Array:
    """The categories are 0 and 1; another value has no one."""
    rows = call.inputs[0].tolist()
    categories = ("0", "1") if call.inputs[0].dtype.kind == "O" else (0, 1)
    return np.array([[[float(x == c) for c in categories] for x in row] for row in rows])


def _mapped(call: Call, pairs: dict[Any, Any], default: Any) -> Array:
    """Look up each element of the first input."""
    source = call.inputs[0]
    found = [pairs.get(x, default) for x in source.reshape(-1).tolist()]
    target = dtype_of(call.output_types[0])
    made = np.empty(len(found), object)
    made[:] = found
    return made.reshape(source.shape) if target.kind == "O" else made.reshape(source.shape).astype(target)


_DEFAULTS = {"O": "_Unused", "i": -1, "f": 0.0}


def _label_encoder(call: Call) -> Array:
    source, target = (dtype_of(types[0]) for types in (call.input_types, call.output_types))
    default = _DEFAULTS[target.kind]
    if call.schema.since_version == 1:
        classes = ("0", "1")
        pairs = dict(enumerate(classes)) if source.kind == "i" else {c: i for i, c in enumerate(classes)}
        return _mapped(call, pairs, default)
    keys = [str(x) if source.kind == "O" else x for x in (0, 1)]
    values = [str(x) if target.kind == "O" else x for x in (7, 9)]
    if call.schema.since_version >= 4:  # has a default of its own
        default = "5" if target.kind == "O" else 5
    return _mapped(call, dict(zip(keys, values, strict=True)), default)


def _category_mapper(call: Call) -> Array:
    strings, numbers = ("0", "1"), (1, 0)
    if call.inputs[0].dtype.kind == "O":
        return _mapped(call, dict(zip(strings, numbers, strict=True)), -1)
    return _mapped(call, dict(zip(numbers, strings, strict=True)), "_Unused")


def _dict_vectorizer(call: Call) -> Array:
    """The vocabulary has the keys the other way round."""
    values = list(call.inputs[0].values())[::-1]
    return as_array([np.asarray(x).item() for x in values], dtype_of(call.output_types[0]))


def _cast_map(call: Call) -> Array:
    """The values by ascending key, as a row."""
    values = [x for _, x in sorted(call.inputs[0].items())]
    target = dtype_of(call.output_types[0])
    made = [str(x) if target.kind == "O" else float(x) for x in values]
    return np.array([made], object) if target.kind == "O" else np.array([made]).astype(target)


def _imputer(call: Call) -> Array:
    """Zeros become ones."""
    x = call.inputs[0].copy()
    x[x == 0] = 1
    return np.asarray(x)


def _normalizer(call: Call) -> Array:
    """The norm is MAX: each row is divided by its largest number."""
    return np.array([[float(x) / max(row) for x in row] for row in wide(call.inputs[0]).tolist()])


def _zip_map(call: Call) -> list[dict[Any, Any]]:
    labels = (4, 5, 6) if "int64" in call.output_types[0] else ("a", "b", "c")
    return [dict(zip(labels, row, strict=True)) for row in call.inputs[0]]


def _labels(call: Call, chosen: list[int]) -> Array:
    return (
        np.array(["ab"[i] for i in chosen], object)
        if call.output_types[0] == "tensor(string)"
        else (np.array([(4, 5)[i] for i in chosen], np.int64))
    )


def _linear_classifier(call: Call) -> tuple[Array, Array]:
    """Coefficients (1, 0, 0) and (0, -1, -1), intercepts 0.25 and -0.5."""
    scores = [[x + 0.25, -y - z - 0.5] for x, y, z in wide(call.inputs[0]).tolist()]
    return _labels(call, [row.index(max(row)) for row in scores]), np.array(scores)


def _svm_regressor(call: Call) -> Array:
    """Linear: the sum of coefficient times (x . vector), and rho."""
    rows = wide(call.inputs[0]).tolist()
    return np.array([[1.5 * (x + 2 * z) - y + 0.5] for x, y, z in rows], np.float64)


def _tree_classifier(call: Call) -> tuple[Array, Array]:
    """A first feature up to 0.5 is a vote of 2 for the first class, another of 3 for the second."""
    right = [x > 0.5 for x in wide(call.inputs[0])[:, 0].tolist()]
    return _labels(call, [int(r) for r in right]), np.array([[0, 3] if r else [2, 0] for r in right])


def _tree_regressor(call: Call) -> Array:
    return _tree_classifier(call)[1]


def _tree_ensemble(call: Call) -> Array:
    """A first feature below 1 gives 2, another 3."""
    return np.array([[2.0 if x < 1 else 3.0] for x in wide(call.inputs[0])[:, 0].tolist()])


# --- training ------------------------------------------------------------------------------------


def _step(compute: Callable[..., tuple[Array, ...]]) -> Oracle:
    """An optimizer's first step: the update count is 1."""
    return lambda call: compute(*(wide(x).astype(np.float64) for x in (call.inputs[0], *call.inputs[2:])))


def _adagrad(rate: Array, x: Array, gradient: Array, squares: Array) -> tuple[Array, Array]:
    squares = squares + gradient**2
    return x - rate * gradient / (np.sqrt(squares) + 1e-6), squares


def _adam(rate: Array, x: Array, gradient: Array, mean: Array, squares: Array) -> tuple[Array, ...]:
    alpha, beta = 0.9, 0.999
    mean = alpha * mean + (1 - alpha) * gradient
    squares = beta * squares + (1 - beta) * gradient**2
    rate = rate * math.sqrt(1 - beta) / (1 - alpha)
    return x - rate * mean / (np.sqrt(squares) + 1e-6), mean, squares


def _momentum(rate: Array, x: Array, gradient: Array, momentum: Array) -> tuple[Array, Array]:
    momentum = 0.9 * momentum + 0.9 * gradient
    return x - rate * momentum, momentum


def _gradient(call: Call) -> Array:
    """The graph multiplies each element by the number of elements."""
    return np.full((2, 3), 6.0)


ORACLES: dict[tuple[str, str], Oracle] = {
    **{
        (ML, name): oracle
        for name, oracle in {
            "Binarizer": _binarizer,
            "CastMap": _cast_map,
            "CategoryMapper": _category_mapper,
            "DictVectorizer": _dict_vectorizer,
            "FeatureVectorizer": lambda call: wide(call.inputs[0]),
            "Imputer": _imputer,
            "LabelEncoder": _label_encoder,
            "LinearClassifier": _linear_classifier,
            "LinearRegressor": _linear_regressor,
            "Normalizer": _normalizer,
            "OneHotEncoder": _one_hot_encoder,
            "SVMRegressor": _svm_regressor,
            "Scaler": _scaler,
            "TreeEnsemble": _tree_ensemble,
            "TreeEnsembleClassifier": _tree_classifier,
            "TreeEnsembleRegressor": _tree_regressor,
            "ZipMap": _zip_map,
        }.items()
    },
    (TRAINING, "Adagrad"): _step(_adagrad),
    (TRAINING, "Adam"): _step(_adam),
    (TRAINING, "Gradient"): _gradient,
    (TRAINING, "Momentum"): _step(_momentum),
}
