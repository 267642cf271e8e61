"""Lowerings of tree ensembles: TreeEnsemble, TreeEnsembleRegressor, TreeEnsembleClassifier.

Tolerance: rows reach the reference's leaves; votes are added up in float64 in a fixed order, for every
batch size the same, so that raw scores differ from the reference's by one rounding at most, and
transformed ones by 1e-6 relative (float32) or 1e-13 (float64), save for PROBIT of float32, where the
reference itself is off by up to 2e-5 near a half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.lowering import Operand, Packed, Site, Unsupported, lower
from onnxref.native import native
from onnxref.registry import ML

from ..numpy import ml_trees as reference
from ..numpy._tree_layout import Forest, Votes

CODE = "onnxref.kernels.numba.code.ml_trees"
TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")

_LANES = 8  # rows or trees that go down together, as in the kernels
_TREES = 64  # trees whose votes are added up before they join the others'
_FEW_ROWS = 16  # up to these, trees go down together instead of rows
_BLOCK_BYTES = 1 << 19  # packed rows that one tree meets before the next one comes
_FEWEST_GROUPS, _MOST_GROUPS = 8, 256
_STEP_NS = 0.9  # time of a row at a node
_LEAF_BITS = 22  # that a float32 NaN has room for


# --- the layout of nodes -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """A forest as the kernels want it; see their module."""

    nodes: Array
    trees: Array  # root, levels that all leaves have
    bits: int
    wide: bool
    nan: bool
    steps: int  # tests of a row in all trees, on the average over leaves


def _without_lower_bounds(forest: Forest) -> tuple[Array, Array, Array, Array]:
    """Return (feature, high, children (n, 2), nan_holds) of branches that ask for x <= high only.

    low <= x <= high becomes x <= high, and behind it x <= (the number before low) with its children swapped.
    """
    n = forest.n_branches
    feature, high = forest.feature[:n], forest.high[:n].copy()
    children = forest.children.reshape(-1, 2).copy()[:n]
    nan = np.zeros(n, np.bool_) if forest.nan_holds is None else forest.nan_holds[:n].copy()
    if forest.low is None:
        return feature, high, children, nan
    low = forest.low[:n]
    both = np.flatnonzero(~np.isneginf(low))
    # New branches are numbered behind the leaves, so that no number changes.
    added = n + len(forest.votes.first) - 1 + np.arange(both.size)
    second = np.stack([children[both, 1], children[both, 0]], axis=1)
    children[both, 1] = added
    before = np.nextafter(low[both], -np.inf)
    return (
        np.concatenate([feature, feature[both]]),
        np.concatenate([high, before]),
        np.concatenate([children, second]),
        np.concatenate([nan, np.zeros(both.size, np.bool_)]),
    )


class _Places(NamedTuple):
    """Arrays over places of nodes, level by level, roots first.

    Every branch has one place, and a place that leads there for each further parent: a test that
    nothing passes, with that branch as its first child.
    """

    node: Array
    tree: Array
    level: Array
    first: Array  # index of the first child; of leaves -1
    leads: Array  # whether it only leads to another place


def _spread(forest: Forest, children: Array) -> _Places:
    n, n_leaves = forest.n_branches, len(forest.votes.first) - 1
    node, tree = forest.roots, np.arange(len(forest.roots))
    taken = np.full(len(children), -1)  # index of each branch's place
    parts: list[_Places] = []
    total = level = 0
    while node.size:
        # Branches are those below n and those behind the leaves.
        inner = np.flatnonzero((node < n) | (node >= n + n_leaves))
        branch = np.where(node[inner] < n, node[inner], node[inner] - n_leaves)
        once = np.zeros(inner.size, np.bool_)
        once[np.unique(branch, return_index=True)[1]] = True
        once &= taken[branch] < 0
        taken[branch[once]] = total + inner[once]
        total += node.size
        first, leads = np.full(node.size, -1), np.zeros(node.size, np.bool_)
        first[inner[once]] = total + 2 * np.arange(np.count_nonzero(once))
        first[inner[~once]], leads[inner[~once]] = taken[branch[~once]], True
        parts.append(_Places(node, tree, np.full(node.size, level), first, leads))
        node, tree, level = children[branch[once]].ravel(), np.repeat(tree[inner[once]], 2), level + 1
    return _Places(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _lay_out(forest: Forest, wide: bool) -> _Layout:
    """Place nodes tree by tree, level by level, with the children of a node in one cache line."""
    n, n_leaves, n_trees = forest.n_branches, len(forest.votes.first) - 1, len(forest.roots)
    feature, high, children, nan = _without_lower_bounds(forest)
    node, tree, level, first, leads = _spread(forest, children)
    order = np.argsort(tree, kind="stable")
    counts = np.bincount(tree, minlength=n_trees)
    starts = np.concatenate([[0], np.cumsum(counts + 1)])
    rank = np.arange(len(node)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(node), np.int64)
    place[order] = starts[tree[order]] + rank + (rank > 0)  # a gap behind each root keeps pairs even
    total = int(starts[-1])
    is_leaf = first < 0
    tests = ~is_leaf & ~leads
    branch = np.where(node < n, node, node - n_leaves)[tests]
    bits = max(1, (forest.n_features - 1).bit_length()) + 2
    wide = wide or bits > 30 or total >> (32 - bits) > 0 or n_leaves >> _LEAF_BITS > 0
    child, flags, column = np.zeros(total, np.int64), np.ones(total, np.int64), np.zeros(total, np.int64)
    threshold = np.full(total, np.nan)
    child[place] = np.where(is_leaf, place, place[first])
    flags[place[leads]] = 0
    flags[place[tests]] = 2 * nan[branch]
    column[place[tests]] = feature[branch]
    threshold[place[tests]] = high[branch]
    words = _words(threshold, place[is_leaf], node[is_leaf] - n, wide)
    if wide:
        words[:, 1] = child << 32 | column << 3 | flags
    else:
        words[:, 1] = (child << bits | column << 2 | flags).astype(np.uint32).view(np.int32)
    levels = np.full(n_trees, np.iinfo(np.int64).max)
    np.minimum.at(levels, tree[~tests], level[~tests])
    steps = int(n_trees * level[is_leaf].mean()) + n_trees
    return _Layout(words, np.stack([starts[:-1], levels], axis=1), bits, wide, bool(nan.any()), steps)


def _words(threshold: Array, leaves: Array, numbers: Array, wide: bool) -> Array:
    """Return the two words of each node, the second one still empty."""
    words = np.zeros((len(threshold), 2), np.int64 if wide else np.int32)
    if wide:
        words[:, 0] = threshold.view(np.int64)
        words[leaves, 0] = 0x7FF8 << 48 | numbers
        return words
    with np.errstate(over="ignore"):
        narrow = threshold.astype(np.float32)
    # For x in float32, x <= t says the same as x <= the greatest float32 that t is not below.
    narrow = np.where(narrow > threshold, np.nextafter(narrow, np.float32(-np.inf)), narrow)
    words[:, 0] = narrow.view(np.int32)
    words[leaves, 0] = 0x7FC00000 | numbers
    return words


# --- the ensemble --------------------------------------------------------------------------------

_FACTS = ("bits", "wide", "nan", "n_trees", "n_features", "n_targets", "steps", "votes", "columns", "double")
_VOTES = ("table", "single", "list")


@dataclass(frozen=True, slots=True)
class _Trees:
    """What the calls need of an ensemble, made once for all shapes."""

    facts: Mapping[str, int]
    arrays: Mapping[str, Packed]


def _vote_arrays(votes: Votes, aggregate: str) -> tuple[str, dict[str, Array]]:
    count = np.diff(votes.first)
    nothing = np.zeros(1, np.int64)
    if votes.table is not None and (votes.full or aggregate in ("SUM", "AVERAGE")):
        kind, first, target, weight = "table", nothing, nothing.astype(np.int32), votes.table
    elif aggregate in ("SUM", "AVERAGE") and count.size and count.max() <= 1:
        kind, first = "single", nothing
        target, weight = np.zeros(count.size, np.int32), np.zeros(count.size)
        target[count > 0], weight[count > 0] = votes.target, votes.weight
    else:
        kind, first, target, weight = "list", votes.first, votes.target.astype(np.int32), votes.weight
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = weight.astype(np.float32)
    if np.array_equal(narrow, weight, equal_nan=True):
        weight = narrow
    return kind, {"first": first, "target": target, "weight": weight}


def _build(prepared: Any, wide: bool) -> tuple[dict[str, int], dict[str, Array]]:
    """Return the facts and arrays of an ensemble that the reference has prepared."""
    classifier = prepared if isinstance(prepared, reference.TreeClassifier) else None
    ensemble = prepared.ensemble if classifier else prepared
    forest, n_targets = ensemble.forest, ensemble.forest.votes.n_targets
    if not len(forest.roots):
        raise Unsupported("there is no tree")
    if ensemble.aggregate in ("MIN", "MAX") and np.isnan(forest.votes.weight).any():
        raise Unsupported("votes that are NaN")
    layout = _lay_out(forest, wide)
    kind, votes = _vote_arrays(forest.votes, ensemble.aggregate)
    columns = 0
    if classifier and classifier.one_column:
        post = ensemble.post_transform
        columns = 1 if post == "PROBIT" or (post == "NONE" and classifier.all_positive) else 2
    facts = {
        "bits": layout.bits,
        "wide": int(layout.wide),
        "nan": int(layout.nan),
        "n_trees": len(forest.roots),
        "n_features": forest.n_features,
        "n_targets": n_targets,
        "steps": layout.steps,
        "votes": _VOTES.index(kind),
        "columns": columns,
        "double": int(ensemble.dtype == np.float64),
    }
    base = np.broadcast_to(ensemble.base, (n_targets,)).astype(np.float64)
    arrays = {"nodes": layout.nodes, "trees": layout.trees, "base": base, **votes}
    if classifier:
        arrays["labels"] = classifier.labels
    return facts, arrays


def _find(site: Site, prepare: Callable[..., Any], attributes: Mapping[str, Any], wide: bool) -> _Trees:
    """Return the ensemble of a node, from what was packed before where that is there.

    The attributes' values stand for it: they are the same objects for every shape of the model.
    """
    sources = [value for _, value in sorted(attributes.items()) if not isinstance(value, (int, float, str))]
    plain = tuple(item for item in sorted(attributes.items()) if isinstance(item[1], (int, float, str)))

    @cache
    def built() -> tuple[dict[str, int], dict[str, Array]]:
        try:
            return _build(prepare(**attributes), wide)
        except KernelError as error:
            raise Unsupported(str(error)) from None

    def packed(name: str, make: Callable[[], Array]) -> Array:
        return site.packs.get(sources, ("trees", name, tuple(sorted(attributes)), plain, wide), make)

    listed = packed("facts", lambda: np.array([built()[0][name] for name in _FACTS], np.int64))
    facts = dict(zip(_FACTS, listed.tolist(), strict=True))
    names = ["nodes", "trees", "base", "first", "target", "weight"]
    names += ["labels"] if "classlabels_int64s" in attributes else []
    arrays = {name: Packed(packed(name, lambda name=name: built()[1][name])) for name in names}  # type: ignore[misc]
    return _Trees(facts, arrays)


def _emit(
    site: Site,
    x: Operand,
    trees: _Trees,
    aggregate: str,
    transform: int,
    labels: Operand | None,
    goal: Operand | None,
    out: DType,
) -> None:
    facts = trees.facts
    rows = x.shape[0] if x.ndim == 2 else 1
    features, targets = x.shape[-1], facts["n_targets"]
    if x.ndim not in (1, 2) or features < max(1, facts["n_features"]):
        raise Unsupported(f"X is {x}")
    if not rows:
        return
    score = "float64" if x.dtype == np.float64 or facts["double"] else "float32"
    combine = "SUM" if aggregate == "AVERAGE" else aggregate
    held, blocks = _emit_walk(site, x, trees, combine, rows, features)
    row = site.scratch(8 * max(2, targets), per_thread=True)
    site.call(
        native(CODE, "finish", score, out.name, combine, labels is not None),
        held,
        blocks,
        rows,
        targets,
        facts["n_trees"] if aggregate == "AVERAGE" else 1,
        trees.arrays["base"],
        transform,
        facts["columns"],
        trees.arrays["labels"] if labels is not None else 0,
        labels if labels is not None else 0,
        goal if goal is not None else site.scratch(rows * targets * out.itemsize),
        row,
        row.nbytes,
        units=rows,
        work=rows * targets * (2.0 * blocks + (10.0 if transform else 1.0)),
        grain=64,
    )


def _emit_walk(
    site: Site, x: Operand, trees: _Trees, aggregate: str, rows: int, features: int
) -> tuple[Any, int]:
    """Add the calls that walk the trees; return where the scores lie, and of how many blocks of trees."""
    facts, arrays = trees.facts, trees.arrays
    wide, targets, n_trees = bool(facts["wide"]), facts["n_targets"], facts["n_trees"]
    size, few = 8 if wide else 4, rows <= _FEW_ROWS
    lanes = 1 if few else _LANES
    groups, blocks = -(-rows // lanes), -(-n_trees // _TREES) if few else 1
    packed: Any = x
    if not few or x.dtype != (np.float64 if wide else np.float32):
        packed = site.scratch(groups * lanes * features * size)
        pack = native(CODE, "pack_rows", x.dtype.name, wide, lanes)
        site.call(pack, x, packed, rows, features, units=groups, work=rows * features, grain=16)
    block = min(_MOST_GROUPS, max(_FEWEST_GROUPS, _BLOCK_BYTES // (features * size * lanes)))
    per_row = 8 * targets + 4
    scratch = site.scratch(4 * _TREES if few else block * lanes * per_row, per_thread=True)
    scores = site.scratch(8 * blocks * rows * targets)
    width = targets if targets <= 4 else 0
    variant = (
        wide,
        bool(facts["nan"]),
        _VOTES[facts["votes"]],
        aggregate,
        width,
        arrays["weight"].array.dtype.name,
    )
    site.call(
        native(CODE, "by_trees" if few else "by_rows", *variant),
        arrays["nodes"],
        facts["bits"],
        arrays["trees"],
        n_trees,
        _TREES,
        features,
        rows,
        packed,
        scores,
        targets,
        arrays["first"],
        arrays["target"],
        arrays["weight"],
        scratch,
        scratch.nbytes,
        block,
        units=blocks if few else groups,
        work=rows * facts["steps"] * _STEP_NS,
    )
    return scores, blocks


def _check(x: Operand) -> None:
    if x.dtype.name not in ("float16", "float32", "float64", "int32", "int64"):
        raise Unsupported(f"X is {x}")


def _only(site: Site) -> Operand:
    (output,) = site.outputs
    if output is None:
        raise Unsupported("nothing wants its output")
    return output


@lower("TreeEnsembleRegressor", since=(1, 3, 5), domain=ML)
def tree_ensemble_regressor(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML TreeEnsembleRegressor-5."""
    _check(x)
    trees = _find(site, reference.prepare_regressor, attributes, x.dtype == np.float64)
    transform = TRANSFORMS.index(attributes.get("post_transform", "NONE"))
    y = _only(site)
    _emit(site, x, trees, attributes.get("aggregate_function", "SUM"), transform, None, y, y.dtype)


@lower("TreeEnsemble", since=5, domain=ML)
def tree_ensemble(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML TreeEnsemble-5."""
    _check(x)
    trees = _find(site, reference.prepare_ensemble, attributes, x.dtype == np.float64)
    aggregate = reference.AGGREGATES[attributes.get("aggregate_function", 1)]
    transform = TRANSFORMS.index(reference.POST_TRANSFORMS[attributes.get("post_transform", 0)])
    y = _only(site)
    _emit(site, x, trees, aggregate, transform, None, y, y.dtype)


@lower("TreeEnsembleClassifier", since=(1, 3, 5), domain=ML)
def tree_ensemble_classifier(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML TreeEnsembleClassifier-5, for classes that are numbers."""
    _check(x)
    if attributes.get("classlabels_strings"):
        raise Unsupported("classes are strings")
    trees = _find(site, reference.prepare_classifier, attributes, x.dtype == np.float64)
    transform = TRANSFORMS.index(attributes.get("post_transform", "NONE"))
    labels, scores = site.outputs
    _emit(site, x, trees, "SUM", transform, labels, scores, np.dtype(np.float32))
