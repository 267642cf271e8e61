"""What the classifiers and regressors of ai.onnx.ml share: the transform of their raw scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from onnxref.dtypes import Array

from ._checks import check_choice
from ._common import sigmoid, softmax

# The spec names the transforms without defining them; these are ONNX Runtime's definitions.
_ZERO_BAND: Final = 1e-7
_WINITZKI_A: Final = 0.147


def apply_post_transform(scores: Array, kind: str) -> Array:
    """Apply a `post_transform` attribute to scores `(..., C)`, over the last axis, in their own type.

    A one-column binary score is the caller's affair: here it is a row of one class.
    """
    check_choice(kind, _TRANSFORMS, "post_transform")
    return _TRANSFORMS[kind](scores) if scores.size else scores


def two_class_scores(score: Array, kind: str, *, complement: bool) -> Array:
    """Return scores of both classes `(N, 2)` from that of the second one, `(N,)`, after `post_transform`.

    The first class gets 1 - score with `complement` (as of a probability), else -score (as of a
    margin). LOGISTIC and the softmaxes see margins, PROBIT sees probabilities, either way.
    """
    if kind == "PROBIT" or (kind == "NONE" and complement):
        first = 1 - score
    else:
        first = -score
    return apply_post_transform(np.stack([first, score], axis=-1), kind)


def _softmax_zero(x: Array) -> Array:
    """Softmax over the scores that are not zero; zeros stay zero (a row of zeros is 0/0)."""
    kept = np.abs(x) > _ZERO_BAND
    peak = x.max(axis=-1, keepdims=True)
    weights = np.where(kept, np.exp(x - peak), x * np.exp(-peak))
    total = np.where(kept, weights, 0).sum(axis=-1, keepdims=True)
    return weights / total  # type: ignore[no-any-return]


def _probit(p: Array) -> Array:
    """Normal quantile by Winitzki's closed form, as both ONNX Runtime and the onnx package have it."""
    x = 2 * p - 1
    log = np.log((1 - x) * (1 + x))
    v = 2 / (np.pi * _WINITZKI_A) + log / 2
    erfinv = np.sqrt(np.sqrt(v * v - log / _WINITZKI_A) - v)
    return np.copysign(np.sqrt(2) * erfinv, x).astype(p.dtype, copy=False)  # type: ignore[no-any-return]


_TRANSFORMS: Final[dict[str, Callable[[Array], Array]]] = {
    "NONE": lambda scores: scores,
    "SOFTMAX": lambda scores: softmax(scores, -1),
    "LOGISTIC": sigmoid,
    "SOFTMAX_ZERO": _softmax_zero,
    "PROBIT": _probit,
}
