"""scikit-learn pipelines, trained on seeded data and exported to ONNX.

scikit-learn and skl2onnx are imported when a pipeline is first asked for. The converter of text
pipelines writes ONNX Runtime's own operator Tokenizer, which the ONNX standard lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Fitted:
    """A trained pipeline as ONNX, with inputs and scikit-learn's own predictions for them."""

    onnx: bytes
    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass(frozen=True)
class SklearnModel:
    """A pipeline that is trained when it is first asked for."""

    name: str
    fitted: Callable[[], Fitted]


def _table(rows: int) -> Array:
    return (
        np.random.default_rng(1)
        .normal([0, 5, -2, 100, 0.1], [1, 2, 3, 25, 0.05], (rows, 5))
        .astype(np.float32)
    )


def _fitted(
    pipeline: Any,
    inputs: Array,
    predictions: tuple[Array, ...],
    options: dict[int, Any] | None = None,
    **sample: Any,
) -> Fitted:
    """Export a pipeline with the only input `X`; `predictions` are in the order of its outputs."""
    from skl2onnx import to_onnx

    model = to_onnx(pipeline, **sample, options=options, target_opset=18)
    outputs = zip((value.name for value in model.graph.output), predictions, strict=True)
    return Fitted(bytes(model.SerializeToString()), {"X": inputs}, dict(outputs))


# Probabilities as one matrix: the default is a list of maps, made by ZipMap.
_MATRIX = {"zipmap": False}


@cache
def _forest() -> Fitted:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = _table(400)
    y = np.digitize(x[:, 0] + x[:, 1] * x[:, 4], [0, 1])
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(40, max_depth=8, random_state=0)).fit(
        x, y
    )
    rows = x[:100] + np.float32(0.01)
    predictions = (pipeline.predict(rows), pipeline.predict_proba(rows))
    return _fitted(pipeline, rows, predictions, {id(pipeline): _MATRIX}, X=x[:1])


@cache
def _boosting() -> Fitted:
    from sklearn.ensemble import GradientBoostingRegressor

    x = _table(400)
    y = np.sin(x[:, 0]) * x[:, 1] + 0.01 * x[:, 3]
    model = GradientBoostingRegressor(n_estimators=60, random_state=0).fit(x, y)
    rows = x[:100] + np.float32(0.01)
    return _fitted(model, rows, (model.predict(rows)[:, np.newaxis],), X=x[:1])


_SENTENCES = {
    "fruit": "Fresh {} apples and sweet Pears, ripe in {}",
    "tools": "a {} hammer, two saws and {} nails",
    "weather": "Rain in the {} morning, then {} sun and wind",
}
_WORDS = ("early", "old", "seven", "autumn", "cold", "good", "green", "late")


def _sentences() -> tuple[Array, Array]:
    """Return short texts (N, 1) and their subjects (N)."""
    rng = np.random.default_rng(3)
    subjects = np.repeat(list(_SENTENCES), 30)
    texts = [_SENTENCES[s].format(*rng.choice(_WORDS, 2)) for s in subjects]
    return np.array(texts, object)[:, np.newaxis], subjects


def _text(vectorizer: Any) -> Fitted:
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, subjects = _sentences()
    pipeline = make_pipeline(vectorizer, LogisticRegression()).fit(texts[:, 0], subjects)
    predictions = (pipeline.predict(texts[:, 0]), pipeline.predict_proba(texts[:, 0]))
    # The locale decides how letters become small; ONNX Runtime's default is not on every machine.
    options = {id(pipeline): _MATRIX, id(vectorizer): {"locale": "C"}}
    sample = [("X", StringTensorType([None, 1]))]
    return _fitted(pipeline, texts, predictions, options, initial_types=sample)


@cache
def _counts() -> Fitted:
    from sklearn.feature_extraction.text import CountVectorizer

    return _text(CountVectorizer(ngram_range=(1, 2)))


@cache
def _tfidf() -> Fitted:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return _text(TfidfVectorizer())


SKLEARN_MODELS = (
    SklearnModel("scaler + random forest", _forest),
    SklearnModel("gradient boosting", _boosting),
    SklearnModel("counts + logistic regression", _counts),
    SklearnModel("tf-idf + logistic regression", _tfidf),
)
