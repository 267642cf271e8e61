"""Lowerings of tree ensembles: TreeEnsemble, TreeEnsembleRegressor, TreeEnsembleClassifier.

Tolerance: rows reach the reference's leaves; votes are added up in float64 in a fixed order, for every
batch size the same, so that raw scores differ from the reference's by one rounding at most, and
transformed ones by 1e-6 relative (float32) or 1e-13 (float64), save for PROBIT of float32, where the
reference itself is off by up to 2e-5 near a half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Site
from onnxref.native import native

from ..common.ml import TRANSFORMS
from ..common.ml_trees import (
    ENSEMBLES,
    LIST,
    SINGLE,
    TABLE,
    Arrays,
    Ensemble,
    Facts,
    Layout,
    Trees,
    find_trees,
    shape_of,
)
from ..numpy._tree_layout import Forest

CODE = "onnxref.kernels.numba.code.ml_trees"

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

_VOTES = {TABLE: "table", SINGLE: "single", LIST: "list"}  # templates' names of them


def _nodes(forest: Forest, wide: bool) -> tuple[Facts, Arrays]:
    layout = _lay_out(forest, wide)
    facts = {
        "bits": layout.bits,
        "wide": int(layout.wide),
        "nan": int(layout.nan),
        "steps": layout.steps,
    }
    return facts, {"nodes": layout.nodes, "trees": layout.trees}


_LAYOUT = Layout(_nodes, ("bits", "wide", "nan", "steps"), ("nodes", "trees"))


def _emit(site: Site, asked: Ensemble) -> None:
    x, aggregate, labels, goal = asked.x, asked.aggregate, asked.label, asked.scores
    trees = find_trees(site, asked, _LAYOUT)
    facts, targets = trees.facts, trees.facts["n_targets"]
    rows, features = shape_of(x, trees)
    if not rows:
        return
    out = np.dtype(np.float32) if goal is None else goal.dtype
    transform = TRANSFORMS.index(asked.transform)
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
        facts["before"],
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
    site: Site, x: Operand, trees: Trees, aggregate: str, rows: int, features: int
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


ENSEMBLES.register("numba", _emit)
