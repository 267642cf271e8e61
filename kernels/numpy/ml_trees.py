"""Tree ensembles of ai.onnx.ml: TreeEnsemble and its two predecessors.

All rows and all trees advance together, one level per step, in blocks that bound the scratch.

Numerical choices, where the documentation is silent (see also docs/numerics.md):
    1. Features and thresholds are compared in float32 where both are float32, which also holds for
       integer X (as in ONNX Runtime, whatever their size), and in float64 where X or the thresholds
       (`nodes_values_as_tensor`) are. The comparisons below run in float64, with the same results.
    2. Votes are added up in float64; the score is rounded to the type of rule 1 before anything
       is decided with it, so that ties are ties.
    3. The label is the class with the highest raw score, the first of equals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import ML, Cost, op

from ._checks import check_choice
from ._ml_common import apply_post_transform
from ._tree_layout import Forest, Votes, ensemble_forest, ints, legacy_forest

# (row, tree) pairs that are on their way at the same time: the state of a block stays in the cache.
# Those at a leaf are dropped once fewer than `_CROWDED` of them are left.
_PAIRS: Final = 1 << 16
_BYTES_PER_PAIR: Final = 160
_CROWDED: Final = 0.75

AGGREGATES: Final = ("AVERAGE", "SUM", "MIN", "MAX")
POST_TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
# fmin and fmax ignore NaN, which stands for a target without any vote so far.
_COMBINE: Final = {"SUM": np.add, "AVERAGE": np.add, "MIN": np.fmin, "MAX": np.fmax}


class _Ensemble(NamedTuple):
    """A forest and how its votes become scores."""

    forest: Forest
    dtype: DType
    base: Array  # one value per target, or a single 0
    aggregate: str
    post_transform: str


class TreeClassifier(NamedTuple):
    ensemble: _Ensemble
    labels: Array
    one_column: bool
    all_positive: bool


def _descend(forest: Forest, x: Array, missing: Array | None, trees: Array) -> Array:
    """Return the leaf that each tree (given by its root) leads each row of `x` to, `(trees, rows)`.

    `missing` is the forest's `nan_holds` where `x` has any NaN that it matters to.
    """
    rows, columns = x.shape
    flat = x.ravel()
    node = np.repeat(trees, rows)
    offset = np.tile(np.arange(rows) * columns, len(trees))
    goal, pair = np.empty_like(node), np.arange(node.size)
    for _ in range(forest.depth):
        on_branch = node < forest.n_branches
        left = np.count_nonzero(on_branch)
        # Pairs at a leaf stay there, so that they may go along until it pays to drop them.
        if left < _CROWDED * node.size:
            goal[pair] = node
            kept = np.flatnonzero(on_branch)
            pair, node, offset = pair[kept], node[kept], offset[kept]
            if not left:
                break
        node = _step(forest, flat, offset, node, missing)
    goal[pair] = node
    return (goal - forest.n_branches).reshape(len(trees), rows)


def _step(forest: Forest, x: Array, offset: Array, node: Array, missing: Array | None) -> Array:
    """Return the node after each branch `node`, whose row starts at `offset` of `x`."""
    value = x.take(offset + forest.feature.take(node))
    holds = value <= forest.high.take(node)
    if forest.low is not None:
        holds &= value >= forest.low.take(node)
    if missing is not None:
        holds |= np.isnan(value) & missing.take(node)
    return forest.children.take(2 * node + holds)


def _add_votes(scores: Array, votes: Votes, leaf: Array, combine: np.ufunc) -> None:
    """Add what the leaves `(trees, rows)` say to `scores` `(rows, targets)`, in place."""
    if votes.table is not None and (votes.full or combine is np.add):
        combine(scores, combine.reduce(votes.table[leaf], axis=0), out=scores)
        return
    row = np.broadcast_to(np.arange(leaf.shape[1]), leaf.shape).ravel() * votes.n_targets
    vote, stop = votes.first[leaf].ravel(), votes.first[leaf + 1].ravel()
    flat = scores.ravel()  # a view: `scores` is contiguous
    while (more := np.flatnonzero(vote < stop)).size:
        row, vote, stop = row[more], vote[more], stop[more]
        combine.at(flat, row + votes.target[vote], votes.weight[vote])
        vote = vote + 1


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _raw_scores(ensemble: _Ensemble, x: Array, dtype: DType) -> Array:
    """Return the aggregated votes plus base values `(rows, targets)`, in `dtype`."""
    forest, votes = ensemble.forest, ensemble.forest.votes
    combine = _COMBINE[ensemble.aggregate]
    scores = np.full((len(x), votes.n_targets), 0.0 if combine is np.add else np.nan)
    missing = forest.nan_holds if forest.nan_holds is not None and np.isnan(x).any() else None
    width = votes.n_targets if votes.table is not None else 1
    for trees in _blocks(len(forest.roots), max(1, _PAIRS // (max(1, len(x)) * width))):
        _add_votes(scores, votes, _descend(forest, x, missing, forest.roots[trees]), combine)
    if ensemble.aggregate == "AVERAGE":
        scores /= len(forest.roots)
    elif combine is not np.add:
        scores[np.isnan(scores)] = 0
    return (scores + ensemble.base).astype(dtype, copy=False)


def _score_blocks(ensemble: _Ensemble, x: Array) -> Iterator[tuple[slice, Array]]:
    """Yield slices of rows with their raw scores, in the type that decisions are made in."""
    # A single row without the batch axis is a batch of one, as in ONNX Runtime.
    x = x[np.newaxis] if x.ndim == 1 else x
    if x.ndim != 2:
        raise KernelError(f"X must have shape (N, F) (got {x.shape})")
    if x.shape[1] < ensemble.forest.n_features:
        raise KernelError(f"X must have at least {ensemble.forest.n_features} features (got {x.shape[1]})")
    wide = x.dtype if x.dtype.kind == "f" else np.dtype(np.float32)
    dtype = np.result_type(wide, ensemble.dtype, np.float32)
    for rows in _blocks(len(x), max(1, _PAIRS // ensemble.forest.votes.n_targets)):
        yield rows, _raw_scores(ensemble, x[rows].astype(wide, copy=False).astype(np.float64), dtype)


def _rows(x: Array) -> int:
    return x.shape[0] if x.ndim > 1 else 1


def _regress(ensemble: _Ensemble, x: Array, dtype: DType) -> Array:
    y = np.empty((_rows(x), ensemble.forest.votes.n_targets), dtype)
    for rows, scores in _score_blocks(ensemble, x):
        y[rows] = apply_post_transform(scores, ensemble.post_transform)
    return y


def _cost(x: Array, n_targets: int, out_bytes_per_row: int) -> Cost:
    """Cost of one output row per row of `x`; a block holds at least one row of scores."""
    rows = _rows(x)
    columns = math.prod(x.shape) // max(1, rows)
    block = min(rows, max(1, _PAIRS // max(1, n_targets)))
    scratch = _PAIRS * _BYTES_PER_PAIR + block * (64 * max(1, n_targets) + 16 * columns)
    return Cost(rows * out_bytes_per_row, scratch)


def _weights(name: str, floats: Sequence[float] | None, tensor: Array | None) -> Array:
    """Return an attribute that has two forms: floats, or `<name>_as_tensor` in float32 or float64."""
    if tensor is None or not tensor.size:
        return np.asarray(() if floats is None else floats, np.float32)
    if floats:
        raise KernelError(f"only one of {name} and {name}_as_tensor must be given (got both)")
    return np.ravel(tensor)


def _base_values(values: Array, n_targets: int) -> Array:
    if values.size == 0:
        return np.zeros(1)  # for any number of targets: nothing bounds `n_targets` yet
    if values.size != n_targets:
        raise KernelError(f"base_values must have one value per target, {n_targets} (got {values.size})")
    return values.astype(np.float64)


def _named(name: str, index: int, known: Sequence[str]) -> str:
    if not 0 <= index < len(known):
        raise KernelError(f"{name} must be in [0, {len(known) - 1}] (got {index})")
    return known[index]


def _count_targets(n_targets: int | None, ids: Sequence[int] | None) -> int:
    """Return `n_targets`, or what the ids of the votes imply where it is absent."""
    return n_targets if n_targets is not None else max(ids or (0,)) + 1


def _regressor_cost(
    x: Array, *, n_targets: int | None = None, target_ids: Sequence[int] | None = None, **_: Any
) -> Cost:
    targets = _count_targets(n_targets, target_ids)
    return _cost(x, targets, 4 * targets)


def prepare_regressor(
    *,
    aggregate_function: str = "SUM",
    base_values: Sequence[float] | None = None,
    base_values_as_tensor: Array | None = None,
    n_targets: int | None = None,
    nodes_falsenodeids: Sequence[int] | None = None,
    nodes_featureids: Sequence[int] | None = None,
    nodes_hitrates: Sequence[float] | None = None,
    nodes_hitrates_as_tensor: Array | None = None,
    nodes_missing_value_tracks_true: Sequence[int] | None = None,
    nodes_modes: Sequence[str] | None = None,
    nodes_nodeids: Sequence[int] | None = None,
    nodes_treeids: Sequence[int] | None = None,
    nodes_truenodeids: Sequence[int] | None = None,
    nodes_values: Sequence[float] | None = None,
    nodes_values_as_tensor: Array | None = None,
    post_transform: str = "NONE",
    target_ids: Sequence[int] | None = None,
    target_nodeids: Sequence[int] | None = None,
    target_treeids: Sequence[int] | None = None,
    target_weights: Sequence[float] | None = None,
    target_weights_as_tensor: Array | None = None,
) -> _Ensemble:
    """Check the attributes; `nodes_hitrates` are a hint for speed, without effect here."""
    check_choice(aggregate_function, AGGREGATES, "aggregate_function")
    check_choice(post_transform, POST_TRANSFORMS, "post_transform")
    targets = _count_targets(n_targets, target_ids)
    thresholds = _weights("nodes_values", nodes_values, nodes_values_as_tensor)
    weights = _weights("target_weights", target_weights, target_weights_as_tensor)
    forest = legacy_forest(
        nodes_treeids=nodes_treeids,
        nodes_nodeids=nodes_nodeids,
        nodes_featureids=nodes_featureids,
        nodes_modes=nodes_modes,
        nodes_values=thresholds,
        nodes_truenodeids=nodes_truenodeids,
        nodes_falsenodeids=nodes_falsenodeids,
        nodes_missing_value_tracks_true=nodes_missing_value_tracks_true,
        vote_treeids=target_treeids,
        vote_nodeids=target_nodeids,
        vote_ids=target_ids,
        vote_weights=weights,
        n_targets=targets,
    )
    return _Ensemble(
        forest,
        np.result_type(thresholds, weights),
        _base_values(_weights("base_values", base_values, base_values_as_tensor), targets),
        aggregate_function,
        post_transform,
    )


@op(
    "TreeEnsembleRegressor",
    since=(1, 3, 5),
    domain=ML,
    prepare=prepare_regressor,
    cost=_regressor_cost,
)
def tree_ensemble_regressor(x: Array, *, prepared: _Ensemble) -> Array:
    """Regress `x` `(N, F)` to float32 `(N, n_targets)` (ONNX-ML TreeEnsembleRegressor-3)."""
    return _regress(prepared, x, np.dtype(np.float32))


def _ensemble_cost(
    x: Array, *, n_targets: int | None = None, leaf_targetids: Sequence[int] = (), **_: Any
) -> Cost:
    targets = _count_targets(n_targets, leaf_targetids)
    return _cost(x, targets, x.dtype.itemsize * targets)


def prepare_ensemble(
    *,
    aggregate_function: int = 1,
    leaf_targetids: Sequence[int],
    leaf_weights: Array,
    membership_values: Array | None = None,
    n_targets: int | None = None,
    nodes_falseleafs: Sequence[int],
    nodes_falsenodeids: Sequence[int],
    nodes_featureids: Sequence[int],
    nodes_hitrates: Array | None = None,
    nodes_missing_value_tracks_true: Sequence[int] | None = None,
    nodes_modes: Array,
    nodes_splits: Array,
    nodes_trueleafs: Sequence[int],
    nodes_truenodeids: Sequence[int],
    post_transform: int = 0,
    tree_roots: Sequence[int],
) -> _Ensemble:
    """Check the attributes; `nodes_hitrates` are a hint for speed, without effect here."""
    targets = _count_targets(n_targets, leaf_targetids)
    forest = ensemble_forest(
        tree_roots=tree_roots,
        nodes_featureids=nodes_featureids,
        nodes_modes=nodes_modes,
        nodes_splits=nodes_splits,
        nodes_truenodeids=nodes_truenodeids,
        nodes_falsenodeids=nodes_falsenodeids,
        nodes_trueleafs=nodes_trueleafs,
        nodes_falseleafs=nodes_falseleafs,
        nodes_missing_value_tracks_true=nodes_missing_value_tracks_true,
        membership_values=membership_values,
        leaf_targetids=leaf_targetids,
        leaf_weights=leaf_weights,
        n_targets=targets,
    )
    return _Ensemble(
        forest,
        np.result_type(nodes_splits, leaf_weights),
        np.zeros(1),
        _named("aggregate_function", aggregate_function, AGGREGATES),
        _named("post_transform", post_transform, POST_TRANSFORMS),
    )


@op("TreeEnsemble", since=5, domain=ML, prepare=prepare_ensemble, cost=_ensemble_cost)
def tree_ensemble(x: Array, *, prepared: _Ensemble) -> Array:
    """Regress `x` `(N, F)` to `(N, n_targets)` of its type (ONNX-ML TreeEnsemble-5)."""
    return _regress(prepared, x, x.dtype)


def _labels(strings: Sequence[str] | None, int64s: Sequence[int] | None) -> Array:
    if bool(strings) == bool(int64s):
        got = "both" if strings else "neither"
        raise KernelError(
            f"one and only one of classlabels_strings and classlabels_int64s must be given (got {got})"
        )
    return np.array(strings, np.object_) if strings else ints(int64s)


def _classifier_cost(
    x: Array,
    *,
    classlabels_int64s: Sequence[int] | None = None,
    classlabels_strings: Sequence[str] | None = None,
    **_: Any,
) -> Cost:
    classes = len(classlabels_strings or classlabels_int64s or ())
    return _cost(x, classes, 8 + 4 * classes)


def prepare_classifier(
    *,
    base_values: Sequence[float] | None = None,
    base_values_as_tensor: Array | None = None,
    class_ids: Sequence[int] | None = None,
    class_nodeids: Sequence[int] | None = None,
    class_treeids: Sequence[int] | None = None,
    class_weights: Sequence[float] | None = None,
    class_weights_as_tensor: Array | None = None,
    classlabels_int64s: Sequence[int] | None = None,
    classlabels_strings: Sequence[str] | None = None,
    nodes_falsenodeids: Sequence[int] | None = None,
    nodes_featureids: Sequence[int] | None = None,
    nodes_hitrates: Sequence[float] | None = None,
    nodes_hitrates_as_tensor: Array | None = None,
    nodes_missing_value_tracks_true: Sequence[int] | None = None,
    nodes_modes: Sequence[str] | None = None,
    nodes_nodeids: Sequence[int] | None = None,
    nodes_treeids: Sequence[int] | None = None,
    nodes_truenodeids: Sequence[int] | None = None,
    nodes_values: Sequence[float] | None = None,
    nodes_values_as_tensor: Array | None = None,
    post_transform: str = "NONE",
) -> TreeClassifier:
    """Check the attributes; `nodes_hitrates` are a hint for speed, without effect here."""
    check_choice(post_transform, POST_TRANSFORMS, "post_transform")
    labels = _labels(classlabels_strings, classlabels_int64s)
    thresholds = _weights("nodes_values", nodes_values, nodes_values_as_tensor)
    weights = _weights("class_weights", class_weights, class_weights_as_tensor)
    base = _weights("base_values", base_values, base_values_as_tensor)
    # Two classes with votes and a base value for the first of them only: see `_two_columns`.
    one_column = len(labels) == 2 and base.size < 2 and not any(class_ids or ())
    if len(labels) == 2 and base.size == 1:
        base = np.append(base, base.dtype.type(0))
    forest = legacy_forest(
        nodes_treeids=nodes_treeids,
        nodes_nodeids=nodes_nodeids,
        nodes_featureids=nodes_featureids,
        nodes_modes=nodes_modes,
        nodes_values=thresholds,
        nodes_truenodeids=nodes_truenodeids,
        nodes_falsenodeids=nodes_falsenodeids,
        nodes_missing_value_tracks_true=nodes_missing_value_tracks_true,
        vote_treeids=class_treeids,
        vote_nodeids=class_nodeids,
        vote_ids=class_ids,
        vote_weights=weights,
        n_targets=len(labels),
    )
    ensemble = _Ensemble(
        forest,
        np.result_type(thresholds, weights),
        _base_values(base, len(labels)),
        "SUM",
        post_transform,
    )
    return TreeClassifier(ensemble, labels, one_column, bool((weights >= 0).all()))


def _two_columns(score: Array, prepared: TreeClassifier) -> Array:
    """Return scores `(N, 2)` of a binary classifier whose one column is about its second class.

    Exporters write the votes of the second class under class id 0 then. They are probabilities
    where none is negative, as ONNX Runtime has it, or where the transform needs probabilities;
    else they are margins, the other class having the opposite one.
    """
    kind = prepared.ensemble.post_transform
    probability = kind == "PROBIT" or (kind == "NONE" and prepared.all_positive)
    other = 1 - score if probability else -score
    return np.stack([other, score], axis=1)


@op(
    "TreeEnsembleClassifier",
    since=(1, 3, 5),
    domain=ML,
    prepare=prepare_classifier,
    cost=_classifier_cost,
)
def tree_ensemble_classifier(x: Array, *, prepared: TreeClassifier) -> tuple[Array, Array]:
    """Return the top class `(N,)` and float32 scores `(N, E)` (ONNX-ML TreeEnsembleClassifier-3)."""
    ensemble, labels = prepared.ensemble, prepared.labels
    y, z = np.empty(_rows(x), np.int64), np.empty((_rows(x), len(labels)), np.float32)
    for rows, scores in _score_blocks(ensemble, x):
        if prepared.one_column:
            scores = _two_columns(scores[:, 0], prepared)
        y[rows] = scores.argmax(axis=1)
        z[rows] = apply_post_transform(scores, ensemble.post_transform)
    return labels[y], z
