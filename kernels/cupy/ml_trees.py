"""TreeEnsemble, TreeEnsembleRegressor and TreeEnsembleClassifier (ai.onnx.ml), for classes that are numbers.

Rows reach the reference's leaves. Votes are added up in float64 in an order that does not depend on the
number of rows, so that raw scores differ from the reference's by one rounding at most, and transformed ones
by 1e-6 relative (float32) or 1e-13 (float64), save for PROBIT of float32, where the reference itself is off
by up to 2e-5 near a half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Packed, Scratch, Site, Unsupported, lower
from onnxref.registry import ML

from ..numpy import ml_trees as reference
from ..numpy._tree_layout import Forest, Votes
from ._rows import BUSY
from .ml_scores import emit_finish
from .movement import check_plain, check_result, only_output

_CODE = "onnxref.kernels.cupy.code"
_GROUP = 32  # trees whose votes are added up before they join the others'
_LEAVES = 1 << 24  # leaves that are on their way from one kernel to the next: what a cache holds
_FEW_ROWS = 64  # below these, the threads of a warp have different trees, else different rows
_TYPES = ("float16", "float32", "float64", "int32", "int64")
_NARROW = np.dtype([("high", "f4"), ("feature", "i4"), ("fails", "i4"), ("passes", "i4")])
_WIDE = np.dtype(
    [("high", "f8"), ("low", "f8"), ("feature", "i4"), ("fails", "i4"), ("passes", "i4"), ("unused", "i4")]
)


# --- the layout of nodes -------------------------------------------------------------------------


def _places(forest: Forest) -> Array:
    """Return a new number of each branch: tree by tree, level by level, so that a line holds neighbours."""
    n = forest.n_branches
    children = forest.children.reshape(-1, 2)
    node, tree = forest.roots, np.arange(len(forest.roots))
    seen = np.zeros(n, np.bool_)
    nodes, trees = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    while node.size:
        inner = node < n
        node, tree = node[inner], tree[inner]
        new = np.sort(np.unique(node, return_index=True)[1])
        new = new[~seen[node[new]]]
        node, tree = node[new], tree[new]
        seen[node] = True
        nodes.append(node)
        trees.append(tree)
        node, tree = children[node].ravel(), np.repeat(tree, 2)
    order = np.concatenate(nodes)[np.argsort(np.concatenate(trees), kind="stable")]
    places = np.full(n, -1)
    places[order] = np.arange(len(order))
    places[places < 0] = np.arange(len(order), n)  # nothing leads to these
    return places


def _lay_out(forest: Forest, wide: bool) -> tuple[Array, Array]:
    """Return (nodes, roots) as the kernels want them."""
    n = forest.n_branches
    place = _places(forest)
    if max(n, len(forest.votes.first)) >= 1 << 31 or forest.n_features >= 1 << 31:
        raise Unsupported("too many nodes")

    def mapped(node: Array) -> Array:
        return np.where(node < n, place[np.minimum(node, n - 1)] if n else 0, ~(node - n))

    nodes = np.zeros(max(1, n), _WIDE if wide else _NARROW)
    if n:
        children = forest.children.reshape(-1, 2)[:n]
        high = forest.high[:n]
        flag = 0 if forest.nan_holds is None else np.where(forest.nan_holds[:n], np.int64(1) << 31, 0)
        if not wide:
            # For x in float32, x <= t says the same as x <= the greatest float32 that t is not below.
            with np.errstate(over="ignore"):
                narrow = high.astype(np.float32)
            high = np.where(narrow > high, np.nextafter(narrow, np.float32(-np.inf)), narrow)
        else:
            nodes["low"][place] = -np.inf if forest.low is None else forest.low[:n]
        nodes["high"][place] = high
        nodes["feature"][place] = (forest.feature[:n] | flag).astype(np.uint32).view(np.int32)
        nodes["fails"][place] = mapped(children[:, 0])
        nodes["passes"][place] = mapped(children[:, 1])
    return nodes.view(np.uint8), mapped(forest.roots).astype(np.int32)


# --- the ensemble --------------------------------------------------------------------------------

_FACTS = ("wide", "n_trees", "n_features", "n_targets", "votes", "before", "double")
_ARRAYS = ("nodes", "roots", "base", "first", "target", "weight")


@dataclass(frozen=True, slots=True)
class _Trees:
    """What the launches need of an ensemble, made once for all shapes."""

    facts: Mapping[str, int]
    arrays: Mapping[str, Packed]


def _vote_arrays(votes: Votes, aggregate: str) -> tuple[int, dict[str, Array]]:
    """Return (kind as in the kernels, its arrays)."""
    count = np.diff(votes.first)
    nothing = np.zeros(1, np.int64)
    is_sum = aggregate in ("SUM", "AVERAGE")
    if votes.table is not None and (votes.full or is_sum):
        kind, first, target, weight = 0, nothing, nothing, votes.table
    elif is_sum and count.size and count.max() <= 1:
        kind, first = 1, nothing
        target, weight = np.zeros(count.size, np.int64), np.zeros(count.size)
        target[count > 0], weight[count > 0] = votes.target, votes.weight
    else:
        kind, first, target, weight = 2, votes.first, votes.target, votes.weight
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = weight.astype(np.float32)
    if np.array_equal(narrow, weight, equal_nan=True):
        weight = narrow
    if not weight.size:
        target, weight = nothing, nothing.astype(np.float32)
    return kind, {"first": first, "target": target.astype(np.int32), "weight": weight}


def _build(prepared: Any, wide: bool) -> tuple[dict[str, int], dict[str, Array]]:
    """Return the facts and arrays of an ensemble that the reference has prepared."""
    classifier = prepared if isinstance(prepared, reference.TreeClassifier) else None
    ensemble = classifier.ensemble if classifier else prepared
    forest, n_targets = ensemble.forest, ensemble.forest.votes.n_targets
    if not len(forest.roots):
        raise Unsupported("there is no tree")
    if ensemble.aggregate in ("MIN", "MAX") and np.isnan(forest.votes.weight).any():
        raise Unsupported("votes that are NaN")
    wide = wide or forest.low is not None
    nodes, roots = _lay_out(forest, wide)
    kind, votes = _vote_arrays(forest.votes, ensemble.aggregate)
    before = 0
    if classifier and classifier.one_column:
        post = ensemble.post_transform
        before = 1 if post == "PROBIT" or (post == "NONE" and classifier.all_positive) else 2
    facts = {
        "wide": int(wide),
        "n_trees": len(forest.roots),
        "n_features": forest.n_features,
        "n_targets": n_targets,
        "votes": kind,
        "before": before,
        "double": int(ensemble.dtype == np.float64),
    }
    base = np.broadcast_to(ensemble.base, (n_targets,)).astype(np.float64)
    return facts, {"nodes": nodes, "roots": roots, "base": base, **votes}


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
    arrays = {name: Packed(packed(name, partial(lambda name: built()[1][name], name))) for name in _ARRAYS}
    return _Trees(facts, arrays)


# --- launches ------------------------------------------------------------------------------------


def _shape(x: Operand, trees: _Trees) -> tuple[int, int]:
    """Return (rows, features) of X."""
    check_plain(x)
    if x.ndim not in (1, 2) or x.shape[-1] < max(1, trees.facts["n_features"]):
        raise Unsupported(f"X is {x}")
    return (x.shape[0] if x.ndim == 2 else 1), x.shape[-1]


def _emit_scores(site: Site, x: Operand, trees: _Trees, aggregate: str) -> Scratch:
    """Emit the walks and the votes, some rows after the others; return the scores (rows, targets)."""
    facts, n_trees = trees.facts, trees.facts["n_trees"]
    rows, features = _shape(x, trees)
    targets = facts["n_targets"]
    scores = site.scratch(8 * rows * targets)
    most = max(256, _LEAVES // n_trees // 256 * 256)
    leaves = site.scratch(4 * min(rows, most) * n_trees)
    for begin in range(0, rows, most):
        count = min(most, rows - begin)
        by_tree = count < _FEW_ROWS
        _emit_walk(site, x, begin, count, features, trees, leaves, by_tree=by_tree)
        team = 32 if count * targets < BUSY // 8 and n_trees > _GROUP else 1
        width = next(w for w in (1, 2, 4, 8) if w >= min(targets, 8))
        kernel = cuda_kernel(
            _CODE, "ml_votes.cu", "vote", VOTES=facts["votes"], WIDTH=width, TEAM=team, GROUP=_GROUP,
            AGGREGATE={"MIN": 1, "MAX": 2}.get(aggregate, 0),
            WEIGHT=CTYPES[trees.arrays["weight"].array.dtype.name],
        )  # fmt: skip
        site.launch(
            kernel,
            *(leaves, scores + 8 * begin * targets, count, n_trees),
            *((n_trees, 1) if by_tree else (1, count)),
            targets,
            *(trees.arrays[name] for name in ("first", "target", "weight")),
            grid=(-(-count * team // 128), -(-targets // width), 1),
            block=(128, 1, 1),
        )
    return scores


def _emit_walk(
    site: Site,
    x: Operand,
    begin: int,
    count: int,
    features: int,
    trees: _Trees,
    leaves: Scratch,
    *,
    by_tree: bool,
) -> None:
    n_trees = trees.facts["n_trees"]
    # Enough threads to hide the way to the nodes.
    slices = min(n_trees, 65535, -(-2 * BUSY // count))
    per_thread = -(-n_trees // slices)
    defines = {"WIDE": trees.facts["wide"], "T": CTYPES[x.dtype.name], "BY_TREE": int(by_tree)}
    kernel = cuda_kernel(_CODE, "ml_trees.cu", "walk", **defines)
    across = (n_trees, count) if by_tree else (count, -(-n_trees // per_thread))
    site.launch(
        kernel,
        x + begin * features * x.dtype.itemsize,
        *(trees.arrays["nodes"], trees.arrays["roots"], leaves, count, features, n_trees, per_thread),
        grid=(grid_for(across[0], 128)[0], across[1], 1),
        block=(128, 1, 1),
    )


def _emit(
    site: Site,
    x: Operand,
    trees: _Trees,
    aggregate: str,
    transform: str,
    goal: Operand | None,
    label: Operand | None = None,
    labels: tuple[int, ...] = (),
) -> None:
    facts = trees.facts
    rows, _ = _shape(x, trees)
    targets, before = facts["n_targets"], facts["before"]
    if goal is not None:
        check_plain(goal)
        check_result(goal, (rows, targets))
    if targets > 8 * 65535:
        raise Unsupported("too many targets")
    if not rows:
        return
    emit_finish(
        site,
        _emit_scores(site, x, trees, aggregate),
        rows,
        1 if before else targets,
        score="float64" if x.dtype == np.float64 or facts["double"] else "float32",
        transform=transform,
        base=trees.arrays["base"],
        goal=goal,
        label=label,
        labels=labels,
        stride=targets,
        divisor=facts["n_trees"] if aggregate == "AVERAGE" else 1,
        before=before,
        may_be_empty=aggregate in ("MIN", "MAX"),
    )


def _check(x: Operand) -> None:
    if x.dtype.name not in _TYPES:
        raise Unsupported(f"X is {x}")


@lower("TreeEnsembleRegressor", since=(1, 3, 5), domain=ML, backend="cupy")
def tree_ensemble_regressor(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML TreeEnsembleRegressor-5."""
    _check(x)
    trees = _find(site, reference.prepare_regressor, attributes, x.dtype == np.float64)
    transform = attributes.get("post_transform", "NONE")
    _emit(site, x, trees, attributes.get("aggregate_function", "SUM"), transform, only_output(site))


@lower("TreeEnsemble", since=5, domain=ML, backend="cupy")
def tree_ensemble(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML TreeEnsemble-5."""
    _check(x)
    trees = _find(site, reference.prepare_ensemble, attributes, x.dtype == np.float64)
    aggregate = reference.AGGREGATES[attributes.get("aggregate_function", 1)]
    transform = reference.POST_TRANSFORMS[attributes.get("post_transform", 0)]
    _emit(site, x, trees, aggregate, transform, only_output(site))


@lower("TreeEnsembleClassifier", since=(1, 3, 5), domain=ML, backend="cupy")
def tree_ensemble_classifier(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML TreeEnsembleClassifier-5, for classes that are numbers."""
    _check(x)
    if attributes.get("classlabels_strings"):
        raise Unsupported("classes are strings")
    trees = _find(site, reference.prepare_classifier, attributes, x.dtype == np.float64)
    label, scores = site.outputs
    labels = tuple(attributes["classlabels_int64s"])
    transform = attributes.get("post_transform", "NONE")
    _emit(site, x, trees, "SUM", transform, scores, label, labels)
