"""TreeEnsemble, TreeEnsembleRegressor and TreeEnsembleClassifier (ai.onnx.ml), for classes that are numbers.

Rows reach the reference's leaves. Votes are added up in float64 in an order that does not depend on the
number of rows, so that raw scores differ from the reference's by one rounding at most, and transformed ones
by 1e-6 relative (float32) or 1e-13 (float64), save for PROBIT of float32, where the reference itself is off
by up to 2e-5 near a half.
"""

from __future__ import annotations

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Scratch, Site, Unsupported

from ..common.checks import check_result
from ..common.ml_trees import ENSEMBLES, Arrays, Ensemble, Facts, Layout, Trees, find_trees, shape_of
from ..numpy._tree_layout import Forest
from ._rows import BUSY
from .ml_scores import emit_finish
from .movement import check_plain

_CODE = "onnxref.kernels.cupy.code"
_GROUP = 32  # trees whose votes are added up before they join the others'
_LEAVES = 1 << 24  # leaves that are on their way from one kernel to the next: what a cache holds
_FEW_ROWS = 64  # below these, the threads of a warp have different trees, else different rows
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


def _nodes(forest: Forest, wide: bool) -> tuple[Facts, Arrays]:
    """Return nodes and roots as the kernels want them, and whether they are wide."""
    wide = wide or forest.low is not None
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
    arrays: Arrays = {"nodes": nodes.view(np.uint8), "roots": mapped(forest.roots).astype(np.int32)}
    return {"wide": int(wide)}, arrays


_LAYOUT = Layout(_nodes, ("wide",), ("nodes", "roots"))


# --- launches ------------------------------------------------------------------------------------


def _emit_scores(site: Site, x: Operand, trees: Trees, aggregate: str) -> Scratch:
    """Emit the walks and the votes, some rows after the others; return the scores (rows, targets)."""
    facts, n_trees = trees.facts, trees.facts["n_trees"]
    rows, features = shape_of(x, trees)
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
    trees: Trees,
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


def _emit(site: Site, asked: Ensemble) -> None:
    x, aggregate, goal, label = asked.x, asked.aggregate, asked.scores, asked.label
    trees = find_trees(site, asked, _LAYOUT)
    facts = trees.facts
    rows, _ = shape_of(x, trees)
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
        transform=asked.transform,
        base=trees.arrays["base"],
        goal=goal,
        label=label,
        labels=trees.arrays.get("labels", ()),
        stride=targets,
        divisor=facts["n_trees"] if aggregate == "AVERAGE" else 1,
        before=before,
        may_be_empty=aggregate in ("MIN", "MAX"),
    )


ENSEMBLES.register("cupy", _emit)
