"""Small tree ensembles, and calls of the operators that take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import run_op

ML = "ai.onnx.ml"
# x[0] <= 0 leads to leaf 1, else to leaf 2.
STUMP: dict[str, Any] = {
    "nodes_treeids": (0, 0, 0),
    "nodes_nodeids": (0, 1, 2),
    "nodes_featureids": (0, 0, 0),
    "nodes_values": (0.0, 0.0, 0.0),
    "nodes_modes": ("BRANCH_LEQ", "LEAF", "LEAF"),
    "nodes_truenodeids": (1, 0, 0),
    "nodes_falsenodeids": (2, 0, 0),
}
SIDES = np.array([[-1], [1]], np.float32)


def votes(kind: str, *rows: tuple[int, int, float], tree: int = 0) -> dict[str, Any]:
    """Vote attributes from rows (node, class or target, weight)."""
    nodes, ids, weights = zip(*rows, strict=True)
    return {
        f"{kind}_treeids": (tree,) * len(rows),
        f"{kind}_nodeids": nodes,
        f"{kind}_ids": ids,
        f"{kind}_weights": weights,
    }


def regress(x: Any, *, opset: int = 3, **attributes: Any) -> Any:
    return run_op("TreeEnsembleRegressor", x, opset=opset, domain=ML, **attributes)


def classify(x: Any, *, opset: int = 3, **attributes: Any) -> Any:
    return run_op("TreeEnsembleClassifier", x, opset=opset, domain=ML, n_outputs=2, **attributes)


def member_ensemble(sets: list[list[float]], dtype: Any, *, tracks: int = 0) -> dict[str, Any]:
    """One tree per set, with leaf 1 for members, else 0; targets are the trees."""
    n = len(sets)
    return {
        "tree_roots": tuple(range(n)),
        "nodes_featureids": (0,) * n,
        "nodes_modes": np.full(n, 6, np.uint8),
        "nodes_splits": np.zeros(n, dtype),
        "nodes_truenodeids": tuple(2 * i for i in range(n)),
        "nodes_falsenodeids": tuple(2 * i + 1 for i in range(n)),
        "nodes_trueleafs": (1,) * n,
        "nodes_falseleafs": (1,) * n,
        "nodes_missing_value_tracks_true": (tracks,) * n,
        "membership_values": np.array([v for s in sets for v in (*s, np.nan)], dtype),
        "leaf_targetids": tuple(i // 2 for i in range(2 * n)),
        "leaf_weights": np.array([1, 0] * n, dtype),
        "n_targets": n,
    }
