"""What there is to do in a padded NonMaxSuppression."""

from __future__ import annotations

from typing import NamedTuple

from onnxref.lowering import Operand, Site

from .checks import accept


class Classes(NamedTuple):
    """The classes of all batches, each of which is chosen from by itself.

    Attributes:
        pairs: of batch and class.
        classes: in a batch.
        n: boxes in a batch.
        limit: most boxes kept of a class, at most n.
        rows, total: where the boxes that are kept go, and how many they are.
    """

    pairs: int
    classes: int
    n: int
    limit: int
    rows: Operand
    total: Operand | None


def classes_of(
    site: Site,
    boxes: Operand,
    scores: Operand,
    iou_threshold: Operand | None,
    score_threshold: Operand | None,
    center_point_box: int,
) -> Classes:
    """Return a node's classes; refuse what ONNX NonMaxSuppression-11 has no answer to."""
    rows, total = site.outputs
    assert rows is not None, "its rows are always wanted"
    fits = boxes.ndim == scores.ndim == 3 and boxes.shape == (scores.shape[0], scores.shape[2], 4)
    accept(fits, f"boxes {boxes} with scores {scores}")
    accept(all(x is None or x.size == 1 for x in (iou_threshold, score_threshold)), "many thresholds")
    accept(center_point_box in (0, 1), f"center_point_box is {center_point_box}")
    batches, classes, n = scores.shape
    accept(n < 2**31 - 2**16, f"{n} boxes")
    pairs = batches * classes
    return Classes(pairs, classes, n, rows.shape[0] // pairs if pairs else 0, rows, total)
