"""Operators of the planner's own for pipelines on text, said with the operators that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import INTERNAL, MICROSOFT, Context, Cost, find, ghost, op, shape_rule

from .text import tfidf_width

Attributes = Mapping[str, Any]


class _Part(NamedTuple):
    """One operator of the row, with what it prepared.

    Attributes:
        label: the model's node, for errors.
    """

    kernel: Any
    arguments: Attributes
    label: str

    @classmethod
    def of(cls, domain: str, op_type: str, version: int, attributes: Attributes, label: str) -> _Part:
        operator = find(domain, op_type, version)
        assert operator.prepare is not None
        return cls(operator.kernel, {"prepared": operator.prepare(**attributes)}, label)

    def __call__(self, x: Array, **context: Context) -> Array:
        try:
            found: Array = self.kernel(x, **self.arguments, **context)
        except KernelError as error:
            raise KernelError(f"{self.label}: {error}") from error
        return found


class _Pipeline(NamedTuple):
    flat: bool
    normalizer: _Part | None
    tokenizer: _Part
    flattened: bool
    vectorizer: _Part
    width: int


def _prepare(
    *,
    flat: int,
    normalizer: Attributes | None,
    tokenizer: Attributes,
    flattened: int,
    vectorizer: Attributes,
    labels: tuple[str, str, str] = ("StringNormalizer", "Tokenizer", "TfIdfVectorizer"),
) -> _Pipeline:
    return _Pipeline(
        bool(flat),
        None if normalizer is None else _Part.of("", "StringNormalizer", 10, normalizer, labels[0]),
        _Part.of(MICROSOFT, "Tokenizer", 1, tokenizer, labels[1]),
        bool(flattened),
        _Part.of("", "TfIdfVectorizer", 9, vectorizer, labels[2]),
        tfidf_width(vectorizer["ngram_indexes"]),
    )


def _cost(x: Array, *, flat: int, vectorizer: Attributes, **_attributes: Any) -> Cost:
    rows = x.size if flat else math.prod(x.shape[:1])
    grams = vectorizer["ngram_indexes"]
    return Cost(4 * rows * tfidf_width(grams), 40 * rows * len(grams) + 40 * x.size)


@op("TokenizedTfIdf", since=1, domain=INTERNAL, prepare=_prepare, cost=_cost)
def tokenized_tfidf(x: Array, *, prepared: _Pipeline, ctx: Context) -> Array:
    """Count the n-grams of texts: Reshape to (C,) if `flat`, StringNormalizer without stop words, Tokenizer,
    Flatten if `flattened`, TfIdfVectorizer.

    The attributes `normalizer` (or None), `tokenizer` and `vectorizer` are those of these operators, `labels`
    what to call the three in errors.
    """
    texts = x.reshape(-1) if prepared.flat else x
    if prepared.normalizer is not None:
        texts = prepared.normalizer(texts)
    tokens = prepared.tokenizer(texts, ctx=ctx)
    if prepared.flattened:
        tokens = tokens.reshape(tokens.shape[0], math.prod(tokens.shape[1:]))
    return prepared.vectorizer(tokens, ctx=ctx)


@shape_rule("TokenizedTfIdf", since=1, domain=INTERNAL)
def _counted(x: Array, *, prepared: _Pipeline, ctx: Context) -> Array:
    """Tell the shape for one text in each row; what all others are is for the kernels to say."""
    shape = (x.size,) if prepared.flat else x.shape
    if len(shape) == 2 and shape[1] == 1 and prepared.normalizer is None and prepared.flattened:
        shape = shape[:1]
    if len(shape) != 1 or not x.size:
        raise KernelError(f"X has shape {x.shape}")
    return ghost((*shape, prepared.width), np.dtype(np.float32))


def _prepare_names(*, names: tuple[str, ...]) -> Array:
    return np.array(names, np.object_)


@op("LabelNames", since=1, domain=INTERNAL, prepare=_prepare_names)
def label_names(x: Array, *, prepared: Array) -> Array:
    """Return the name of each label, which is an index of `names`."""
    found: Array = prepared[x]
    return found
