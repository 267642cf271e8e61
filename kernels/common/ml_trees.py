"""Tree ensembles (ai.onnx.ml) for classes that are numbers: facts and tables of any machine.

A kernel set lays out the nodes; votes, base values and labels are the same for all. Everything is made once
for all shapes of a model, from the ensemble that the reference has prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.lowering import Operand, Packed, Site, Unsupported
from onnxref.registry import ML

from ..numpy import ml_trees as reference
from ..numpy._tree_layout import Forest, Votes
from .checks import only_output
from .ml import check_transform, of_attributes
from .rules import Rules

_TYPES = ("float16", "float32", "float64", "int32", "int64")
TABLE, SINGLE, LIST = 0, 1, 2  # how votes lie: a row for each leaf, one vote at most, or lists

Facts: TypeAlias = dict[str, int]
Arrays: TypeAlias = dict[str, Array]
_FACTS = ("n_trees", "n_features", "n_targets", "votes", "before", "double")
_ARRAYS = ("base", "first", "target", "weight")


class Ensemble(NamedTuple):
    """What a node asks for.

    Attributes:
        prepare: makes the reference's ensemble of `attributes`.
        label, scores: outputs; None where nothing wants them.
    """

    x: Operand
    prepare: Callable[..., Any]
    attributes: Mapping[str, Any]
    aggregate: str
    transform: str
    scores: Operand | None
    label: Operand | None = None


class Trees(NamedTuple):
    """What calls need of an ensemble.

    Attributes:
        facts: beside those of the layout: n_trees, n_features, n_targets; votes (TABLE, SINGLE or LIST);
            before (what column to put before a single score: 0 none, 1 one minus it, 2 its negative);
            double (whether scores are float64 whatever X is).
        arrays: beside those of the layout: base (n_targets,) float64; votes as `first`, `target`, `weight`;
            of a classifier its labels.
    """

    facts: Mapping[str, int]
    arrays: Mapping[str, Packed]


class Layout(NamedTuple):
    """How a kernel set lays out nodes.

    Attributes:
        make: returns facts and arrays of a forest; the flag says whether thresholds are float64.
        facts, arrays: their names.
    """

    make: Callable[[Forest, bool], tuple[Facts, Arrays]]
    facts: tuple[str, ...]
    arrays: tuple[str, ...]


# --- operators -----------------------------------------------------------------------------------

ENSEMBLES: Rules[Ensemble] = Rules()


def _check(x: Operand) -> None:
    if x.dtype.name not in _TYPES or x.ndim not in (1, 2) or x.layout is not None:
        raise Unsupported(f"X is {x}")


@ENSEMBLES.rule("TreeEnsembleRegressor", since=(1, 3, 5), domain=ML)
def tree_ensemble_regressor(site: Site, x: Operand, **attributes: Any) -> Ensemble:
    """ONNX-ML TreeEnsembleRegressor-5."""
    _check(x)
    transform = check_transform(attributes.get("post_transform", "NONE"))
    aggregate = attributes.get("aggregate_function", "SUM")
    return Ensemble(x, reference.prepare_regressor, attributes, aggregate, transform, only_output(site))


@ENSEMBLES.rule("TreeEnsemble", since=5, domain=ML)
def tree_ensemble(site: Site, x: Operand, **attributes: Any) -> Ensemble:
    """ONNX-ML TreeEnsemble-5."""
    _check(x)
    aggregate = _numbered(reference.AGGREGATES, attributes.get("aggregate_function", 1))
    transform = _numbered(reference.POST_TRANSFORMS, attributes.get("post_transform", 0))
    return Ensemble(x, reference.prepare_ensemble, attributes, aggregate, transform, only_output(site))


def _numbered(names: Sequence[str], number: int) -> str:
    if not 0 <= number < len(names):
        raise Unsupported(f"number {number} of {', '.join(names)}")
    return names[number]


@ENSEMBLES.rule("TreeEnsembleClassifier", since=(1, 3, 5), domain=ML)
def tree_ensemble_classifier(site: Site, x: Operand, **attributes: Any) -> Ensemble:
    """ONNX-ML TreeEnsembleClassifier-5, for classes that are numbers."""
    _check(x)
    if attributes.get("classlabels_strings"):
        raise Unsupported("classes are strings")
    label, scores = site.outputs
    transform = check_transform(attributes.get("post_transform", "NONE"))
    return Ensemble(x, reference.prepare_classifier, attributes, "SUM", transform, scores, label)


def shape_of(x: Operand, trees: Trees) -> tuple[int, int]:
    """Return (rows, features) of X."""
    if x.shape[-1] < max(1, trees.facts["n_features"]):
        raise Unsupported(f"X is {x}")
    return (x.shape[0] if x.ndim == 2 else 1), x.shape[-1]


# --- tables --------------------------------------------------------------------------------------


def find_trees(site: Site, asked: Ensemble, layout: Layout) -> Trees:
    """Return the ensemble of a node, from what was packed before where that is there."""
    wide = asked.x.dtype == np.float64

    @cache
    def built() -> tuple[Facts, Arrays]:
        try:
            return _build(asked.prepare(**asked.attributes), wide, layout)
        except KernelError as error:
            raise Unsupported(str(error)) from error

    def packed(name: str, make: Callable[[], Array]) -> Packed:
        return of_attributes(site, asked.attributes, ("trees", name, wide), make)

    known = (*_FACTS, *layout.facts)
    listed = packed("facts", lambda: np.array([built()[0][name] for name in known], np.int64))
    names = [*_ARRAYS, *layout.arrays, *(["labels"] if asked.label is not None else [])]
    arrays = {name: packed(name, partial(lambda name: built()[1][name], name)) for name in names}
    return Trees(dict(zip(known, listed.array.tolist(), strict=True)), arrays)


def _build(prepared: Any, wide: bool, layout: Layout) -> tuple[Facts, Arrays]:
    """Return the facts and arrays of an ensemble that the reference has prepared."""
    classifier = prepared if isinstance(prepared, reference.TreeClassifier) else None
    ensemble = classifier.ensemble if classifier else prepared
    forest, n_targets = ensemble.forest, ensemble.forest.votes.n_targets
    if not len(forest.roots):
        raise Unsupported("there is no tree")
    if ensemble.aggregate in ("MIN", "MAX") and np.isnan(forest.votes.weight).any():
        raise Unsupported("votes that are NaN")
    facts, arrays = layout.make(forest, wide)
    kind, votes = _vote_arrays(forest.votes, ensemble.aggregate)
    before = 0
    if classifier and classifier.one_column:
        post = ensemble.post_transform
        before = 1 if post == "PROBIT" or (post == "NONE" and classifier.all_positive) else 2
    facts |= {
        "n_trees": len(forest.roots),
        "n_features": forest.n_features,
        "n_targets": n_targets,
        "votes": kind,
        "before": before,
        "double": int(ensemble.dtype == np.float64),
    }
    arrays |= {"base": np.broadcast_to(ensemble.base, (n_targets,)).astype(np.float64), **votes}
    if classifier:
        arrays["labels"] = classifier.labels
    return facts, arrays


def _vote_arrays(votes: Votes, aggregate: str) -> tuple[int, Arrays]:
    """Return how votes lie, and their arrays; weights are float32 where that holds them."""
    count = np.diff(votes.first)
    nothing = np.zeros(1, np.int64)
    is_sum = aggregate in ("SUM", "AVERAGE")
    if votes.table is not None and (votes.full or is_sum):
        kind, first, target, weight = TABLE, nothing, nothing, votes.table
    elif is_sum and count.size and count.max() <= 1:
        kind, first = SINGLE, nothing
        target, weight = np.zeros(count.size, np.int64), np.zeros(count.size)
        target[count > 0], weight[count > 0] = votes.target, votes.weight
    else:
        kind, first, target, weight = LIST, votes.first, votes.target, votes.weight
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = weight.astype(np.float32)
    if np.array_equal(narrow, weight, equal_nan=True):
        weight = narrow
    if not weight.size:
        target, weight = nothing, nothing.astype(np.float32)
    return kind, {"first": first, "target": target.astype(np.int32), "weight": weight}
