"""Tree ensembles in the form they are evaluated in: flat arrays, checked once per node.

Every branch becomes one test `low <= x <= high`, whatever its mode; a negated mode swaps the
children, a set test becomes several tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError

# Trees of any use are a few dozen levels deep; each level costs a pass over all rows.
MAX_DEPTH: Final = 10_000


class Mode(IntEnum):
    """Test that a branch makes, numbered as in `nodes_modes` of TreeEnsemble-5."""

    BRANCH_LEQ = 0
    BRANCH_LT = 1
    BRANCH_GTE = 2
    BRANCH_GT = 3
    BRANCH_EQ = 4
    BRANCH_NEQ = 5
    BRANCH_MEMBER = 6
    LEAF = 7


@dataclass(frozen=True, slots=True)
class Votes:
    """What the leaves say: leaf `i` adds `weight[first[i]:first[i + 1]]` to the targets beside them.

    `table` `(leaves, targets)` holds the same, absent votes as zero, where that is about as compact
    (None elsewhere); `full` says that no vote is absent there.
    """

    first: Array
    target: Array
    weight: Array
    n_targets: int
    table: Array | None
    full: bool


@dataclass(frozen=True, slots=True)
class Forest:
    """The trees of an ensemble, as arrays over nodes; a leaf is a test that leads to itself.

    Attributes:
        roots: one node per tree.
        depth: tests on the longest way from a root to a leaf.
        n_branches: branches come first, leaf `i` is node `n_branches + i`.
        feature: column of X that a node tests.
        high: upper bound of the test in float64; NaN never holds.
        low: lower bound, None where no node has one.
        children: node to go to, at `2 * node` where the test fails and after it where it holds.
        nan_holds: whether a NaN feature passes the test, None where it never does.
        n_features: columns that X must have.
        votes: what the leaves say.
    """

    roots: Array
    depth: int
    n_branches: int
    feature: Array
    high: Array
    low: Array | None
    children: Array
    nan_holds: Array | None
    n_features: int
    votes: Votes


def ints(values: Sequence[int] | Array | None) -> Array:
    """Return a list attribute as int64; an absent one is empty."""
    return np.asarray(() if values is None else values, np.int64)


def same_length(**columns: Array) -> None:
    """Refuse parallel attributes of different lengths."""
    names = list(columns)
    for name in names[1:]:
        if columns[name].shape != columns[names[0]].shape:
            raise KernelError(
                f"{name} must have as many elements as {names[0]}, {columns[names[0]].size}"
                f" (got {columns[name].size})"
            )


def make_votes(leaf: Array, target: Array, weight: Array, n_leaves: int, n_targets: int) -> Votes:
    """Sort votes `(leaf, target, weight)` by leaf."""
    if n_targets < 1:
        raise KernelError(f"the number of targets must be positive (got {n_targets})")
    if target.size and not 0 <= target.min() <= target.max() < n_targets:
        wrong = target[(target < 0) | (target >= n_targets)][0]
        raise KernelError(f"target and class ids must be in [0, {n_targets - 1}] (got {wrong})")
    order = np.argsort(leaf, kind="stable")
    leaf, target, weight = leaf[order], target[order], weight[order].astype(np.float64)
    first = np.zeros(n_leaves + 1, np.int64)
    np.cumsum(np.bincount(leaf, minlength=n_leaves), out=first[1:])
    table: Array | None = None
    full = False
    if n_leaves * n_targets <= 2 * target.size:
        cell = leaf * n_targets + target
        times = np.bincount(cell, minlength=n_leaves * n_targets)
        if times.max() <= 1:
            table = np.zeros(n_leaves * n_targets)
            table[cell] = weight
            table, full = table.reshape(n_leaves, n_targets), bool(times.all())
    return Votes(first, target, weight, n_targets, table, full)


def make_forest(
    roots: Array,
    mode: Array,
    feature: Array,
    threshold: Array,
    if_true: Array,
    if_false: Array,
    missing_tracks_true: Array,
    members: Sequence[Array],
    votes: Votes,
) -> Forest:
    """Build a forest from branches; a child or root is a branch `i`, or leaf `i` written as `~i`.

    `members` are the sets of the BRANCH_MEMBER branches, in their order.
    """
    if feature.size and feature.min() < 0:
        raise KernelError(f"nodes_featureids must not be negative (got {feature.min()})")
    if missing_tracks_true.size == 0:
        missing_tracks_true = np.zeros(mode.size, np.int64)
    swap, low, high = _as_intervals(mode, threshold.astype(np.float64))
    holds = np.where(swap, if_false, if_true)
    fails = np.where(swap, if_true, if_false)
    # Comparisons with NaN fail; where NaN must take the other way, the branch says so.
    nan_holds = (missing_tracks_true != 0) ^ swap
    grown = _expand_sets(
        _Branches(feature, low, high, holds, fails, nan_holds),
        np.flatnonzero(mode == Mode.BRANCH_MEMBER),
        members,
    )
    n_branches, n_leaves = len(grown.feature), len(votes.first) - 1
    children = np.stack([grown.fails, grown.holds], axis=1)
    children = np.where(children < 0, n_branches + ~children, children)
    to_itself = np.arange(n_branches, n_branches + n_leaves).repeat(2)
    nowhere = np.full(n_leaves, np.nan)
    return Forest(
        roots=np.where(roots < 0, n_branches + ~roots, roots),
        depth=_depth(children, n_branches + n_leaves),
        n_branches=n_branches,
        feature=np.concatenate([grown.feature, np.zeros(n_leaves, np.int64)]),
        high=np.concatenate([grown.high, nowhere]),
        low=None if np.isneginf(grown.low).all() else np.concatenate([grown.low, nowhere]),
        children=np.concatenate([children.ravel(), to_itself]),
        nan_holds=np.append(grown.nan_holds, np.zeros(n_leaves, np.bool_)) if grown.nan_holds.any() else None,
        n_features=int(feature.max()) + 1 if feature.size else 0,
        votes=votes,
    )


def _as_intervals(mode: Array, threshold: Array) -> tuple[Array, Array, Array]:
    """Return (whether the children swap, low, high) of the test that says the same as each mode."""
    negated = (mode == Mode.BRANCH_GTE) | (mode == Mode.BRANCH_GT) | (mode == Mode.BRANCH_NEQ)
    # Nothing is greater or equal to NaN, so these two are not the negation of their opposites there.
    swap = negated & ~(np.isnan(threshold) & (mode != Mode.BRANCH_NEQ))
    strict = (mode == Mode.BRANCH_LT) | (mode == Mode.BRANCH_GTE)
    # x < t says the same as x <= the number before t, for x in float64 and narrower.
    before = np.where(np.isneginf(threshold), np.nan, np.nextafter(threshold, -np.inf))
    high = np.where(strict, before, threshold)
    low = np.where((mode == Mode.BRANCH_EQ) | (mode == Mode.BRANCH_NEQ), threshold, -np.inf)
    return swap, low, high


class _Branches(NamedTuple):
    """Arrays over branches; children are written as in `make_forest`."""

    feature: Array
    low: Array
    high: Array
    holds: Array
    fails: Array
    nan_holds: Array


def _expand_sets(branches: _Branches, where: Array, members: Sequence[Array]) -> _Branches:
    """Replace each set test by a binary search over the sorted set, which ends in an equality test."""
    parts = [branches]
    size = len(branches.feature)
    for branch, values in zip(where.tolist(), members, strict=True):
        old = _Branches(*(column[branch : branch + 1] for column in branches))
        search = _search(old, np.unique(values.astype(np.float64)), branch, size)
        for column, new in zip(branches, search, strict=True):
            column[branch] = new[0]
        parts.append(_Branches(*(column[1:] for column in search)))
        size += len(search.feature) - 1
    return _Branches(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _search(old: _Branches, values: Array, first: int, rest: int) -> _Branches:
    """Return the search tree for one set test: its root stands at `first`, all else from `rest` on.

    A complete binary tree in heap order: node `h` has the children `2h` and `2h + 1`; the bottom
    row holds the members, the last one repeated. Inner nodes ask whether x is in their left half.
    """
    if not values.size:
        return old._replace(low=np.array([-np.inf]), high=np.array([np.nan]))
    width = 1 << (values.size - 1).bit_length()
    largest = np.full(2 * width, values[-1])
    largest[width : width + values.size] = values
    row = width
    while row > 1:
        largest[row // 2 : row] = largest[row : 2 * row].reshape(-1, 2)[:, 1]
        row //= 2
    heap = np.arange(1, 2 * width)
    inner = heap < width
    place = np.where(heap == 1, first, rest + heap - 2)
    left = np.where(inner, 2 * heap, 1)
    return _Branches(
        feature=np.repeat(old.feature, heap.size),
        low=np.where(inner, -np.inf, largest[1:]),
        high=np.where(inner, largest[left], largest[1:]),
        holds=np.where(inner, place[left - 1], old.holds),
        fails=np.where(inner, place[np.where(inner, left, 0)], old.fails),
        nan_holds=~inner & old.nan_holds,
    )


def _depth(children: Array, n_nodes: int) -> int:
    """Return how many tests the longest path makes; several branches may share a child.

    Level by level, a node is taken once all its parents are: what is never taken is on a cycle.
    """
    waiting = np.bincount(children.ravel(), minlength=n_nodes)
    level = np.flatnonzero(waiting == 0)
    taken = 0
    depth = 0
    while (level := level[level < len(children)]).size:
        depth += 1
        taken += level.size
        if depth > MAX_DEPTH:
            raise KernelError(f"trees must be at most {MAX_DEPTH} levels deep")
        reached = children[level].ravel()
        np.subtract.at(waiting, reached, 1)
        level = np.unique(reached[waiting[reached] == 0])
    if taken < len(children):
        raise KernelError(f"trees must have no cycle (got {len(children) - taken} nodes on or behind one)")
    return depth


def legacy_forest(
    *,
    nodes_treeids: Sequence[int] | None,
    nodes_nodeids: Sequence[int] | None,
    nodes_featureids: Sequence[int] | None,
    nodes_modes: Sequence[str] | None,
    nodes_values: Array,
    nodes_truenodeids: Sequence[int] | None,
    nodes_falsenodeids: Sequence[int] | None,
    nodes_missing_value_tracks_true: Sequence[int] | None,
    vote_treeids: Sequence[int] | None,
    vote_nodeids: Sequence[int] | None,
    vote_ids: Sequence[int] | None,
    vote_weights: Array,
    n_targets: int,
) -> Forest:
    """Build the forest of a TreeEnsembleClassifier or TreeEnsembleRegressor."""
    mode = _legacy_modes(nodes_modes)
    tree, node = ints(nodes_treeids), ints(nodes_nodeids)
    feature, tracks = ints(nodes_featureids), ints(nodes_missing_value_tracks_true)
    true, false = ints(nodes_truenodeids), ints(nodes_falsenodeids)
    same_length(
        nodes_modes=mode,
        nodes_treeids=tree,
        nodes_nodeids=node,
        nodes_featureids=feature,
        nodes_values=nodes_values,
        nodes_truenodeids=true,
        nodes_falsenodeids=false,
        **({"nodes_missing_value_tracks_true": tracks} if tracks.size else {}),
    )
    voter_tree, voter, target = ints(vote_treeids), ints(vote_nodeids), ints(vote_ids)
    same_length(treeids=voter_tree, nodeids=voter, ids=target, weights=vote_weights)
    find = _Finder(tree, node)
    leaf = mode == Mode.LEAF
    branch = np.flatnonzero(~leaf)
    number = np.where(leaf, ~(np.cumsum(leaf) - 1), np.cumsum(~leaf) - 1)
    if_true = find(tree[branch], true[branch], "nodes_truenodeids")
    if_false = find(tree[branch], false[branch], "nodes_falsenodeids")
    at = find(voter_tree, voter, "the node ids of the weights")
    # Weights of branches are never reached. Exporters write them, so they are no error.
    counted = leaf[at]
    votes = make_votes(
        ~number[at[counted]], target[counted], vote_weights[counted], int(leaf.sum()), n_targets
    )
    return make_forest(
        roots=number[_roots(tree, np.concatenate([if_true, if_false]))],
        mode=mode[branch],
        feature=feature[branch],
        threshold=nodes_values[branch],
        if_true=number[if_true],
        if_false=number[if_false],
        missing_tracks_true=tracks[branch] if tracks.size else tracks,
        members=(),
        votes=votes,
    )


def _legacy_modes(names: Sequence[str] | None) -> Array:
    known = {mode.name: mode for mode in Mode if mode is not Mode.BRANCH_MEMBER}
    try:
        modes = np.array([known[name] for name in names or ()], np.uint8)
    except KeyError as error:
        raise KernelError(f"nodes_modes must be among {', '.join(known)} (got {error})") from None
    if not modes.size:
        raise KernelError("a tree ensemble must have at least one node (got empty nodes_modes)")
    return modes


class _Finder:
    """Position of a node in the attribute lists, from the ids of its tree and itself."""

    def __init__(self, tree: Array, node: Array) -> None:
        self.tree, self.node = tree, node
        self.trees, tree_rank = np.unique(tree, return_inverse=True)
        self.nodes, node_rank = np.unique(node, return_inverse=True)
        key = tree_rank * self.nodes.size + node_rank
        self.order = np.argsort(key)
        self.keys = key[self.order]
        twice = np.flatnonzero(self.keys[1:] == self.keys[:-1])
        if twice.size:
            at = self.order[twice[0]]
            raise KernelError(f"node ids must not repeat in a tree (got {node[at]} in tree {tree[at]})")

    def __call__(self, tree: Array, node: Array, name: str) -> Array:
        rank = np.searchsorted(self.trees, tree) * self.nodes.size + np.searchsorted(self.nodes, node)
        found = self.order[np.searchsorted(self.keys, rank).clip(max=self.keys.size - 1)]
        wrong = np.flatnonzero((self.tree[found] != tree) | (self.node[found] != node))
        if wrong.size:
            at = wrong[0]
            raise KernelError(f"{name} must name nodes of the same tree (got {node[at]} in tree {tree[at]})")
        return found  # type: ignore[no-any-return]


def _roots(tree: Array, children: Array) -> Array:
    """Return the one node of each tree that is nobody's child, wherever in the lists it stands."""
    parentless = np.ones(tree.size, np.bool_)
    parentless[children] = False
    trees, rank = np.unique(tree, return_inverse=True)
    found = np.bincount(rank[parentless], minlength=trees.size)
    wrong = np.flatnonzero(found != 1)
    if wrong.size:
        raise KernelError(f"tree {trees[wrong[0]]} must have one root (got {found[wrong[0]]})")
    return np.flatnonzero(parentless)


def ensemble_forest(
    *,
    tree_roots: Sequence[int],
    nodes_featureids: Sequence[int],
    nodes_modes: Array,
    nodes_splits: Array,
    nodes_truenodeids: Sequence[int],
    nodes_falsenodeids: Sequence[int],
    nodes_trueleafs: Sequence[int],
    nodes_falseleafs: Sequence[int],
    nodes_missing_value_tracks_true: Sequence[int] | None,
    membership_values: Array | None,
    leaf_targetids: Sequence[int],
    leaf_weights: Array,
    n_targets: int,
) -> Forest:
    """Build the forest of a TreeEnsemble."""
    mode, feature = np.ravel(nodes_modes), ints(nodes_featureids)
    tracks, target = ints(nodes_missing_value_tracks_true), ints(leaf_targetids)
    true, false = ints(nodes_truenodeids), ints(nodes_falsenodeids)
    true_is_leaf, false_is_leaf = ints(nodes_trueleafs) != 0, ints(nodes_falseleafs) != 0
    same_length(
        nodes_modes=mode,
        nodes_featureids=feature,
        nodes_splits=np.ravel(nodes_splits),
        nodes_truenodeids=true,
        nodes_falsenodeids=false,
        nodes_trueleafs=true_is_leaf,
        nodes_falseleafs=false_is_leaf,
        **({"nodes_missing_value_tracks_true": tracks} if tracks.size else {}),
    )
    same_length(leaf_targetids=target, leaf_weights=np.ravel(leaf_weights))
    if mode.size and not 0 <= mode.min() <= mode.max() <= Mode.BRANCH_MEMBER:
        raise KernelError(f"nodes_modes must be in [0, {Mode.BRANCH_MEMBER:d}] (got {mode.max()})")
    roots = ints(tree_roots)
    for name, ids, count in (
        ("tree_roots", roots, mode.size),
        ("nodes_truenodeids", true[~true_is_leaf], mode.size),
        ("nodes_falsenodeids", false[~false_is_leaf], mode.size),
        ("nodes_truenodeids of leaves", true[true_is_leaf], target.size),
        ("nodes_falsenodeids of leaves", false[false_is_leaf], target.size),
    ):
        wrong = ids[(ids < 0) | (ids >= count)]
        if wrong.size:
            raise KernelError(f"{name} must be in [0, {count - 1}] (got {wrong[0]})")
    return make_forest(
        roots=roots,
        mode=mode,
        feature=feature,
        threshold=np.ravel(nodes_splits),
        if_true=np.where(true_is_leaf, ~true, true),
        if_false=np.where(false_is_leaf, ~false, false),
        missing_tracks_true=tracks,
        members=_member_sets(membership_values, int((mode == Mode.BRANCH_MEMBER).sum())),
        votes=make_votes(np.arange(target.size), target, np.ravel(leaf_weights), target.size, n_targets),
    )


def _member_sets(values: Array | None, wanted: int) -> list[Array]:
    """Split `membership_values` at its NaNs; the NaN after the last set may be left out."""
    flat = np.zeros(0) if values is None else np.ravel(values).astype(np.float64)
    ends = np.flatnonzero(np.isnan(flat))
    sets = np.split(flat, ends + 1)
    sets = [part[:-1] for part in sets[:-1]] + ([sets[-1]] if sets[-1].size else [])
    if len(sets) != wanted:
        raise KernelError(
            f"membership_values must hold one set per BRANCH_MEMBER node, {wanted} (got {len(sets)})"
        )
    return sets
