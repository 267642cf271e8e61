"""Lowering of NonMaxSuppression in its padded form, exact."""

from __future__ import annotations

from onnxref.lowering import FAULT, Operand, Site, lower
from onnxref.native import native, target
from onnxref.registry import INTERNAL

from ..common.suppression import classes_of

_CODE = "onnxref.kernels.numba.code.suppression"
_TABLES = 4 * 256 * 4  # bytes: what a sort counts
_SPARE = 128  # candidates that are sorted first, besides two for each box to be kept


@lower("PaddedNonMaxSuppression", since=1, domain=INTERNAL)
def padded_non_max_suppression(
    site: Site,
    boxes: Operand,
    scores: Operand,
    max_output_boxes_per_class: Operand | None = None,
    iou_threshold: Operand | None = None,
    score_threshold: Operand | None = None,
    *,
    center_point_box: int = 0,
) -> None:
    """ONNX NonMaxSuppression-11, bit by bit; a class of a batch is a unit."""
    given = classes_of(site, boxes, scores, iou_threshold, score_threshold, center_point_box)
    pairs, classes, n, limit, rows, total = given
    found, counts = site.scratch(4 * pairs * limit), site.scratch(8 * (pairs + 1))
    if limit:
        lanes = target().lanes
        places = -(-limit // lanes) * lanes  # whole vectors of boxes that are kept
        room = site.scratch(_TABLES + 16 * n + 5 * 4 * places, per_thread=True)
        wanted = 2 * limit + _SPARE
        candidates = min(n, wanted)
        site.call(
            native(_CODE, "suppress"),
            *(boxes, scores, iou_threshold or 0, score_threshold or 0, n, classes, limit, center_point_box),
            *(wanted, room, room.nbytes, places, found, counts),
            units=pairs,
            work=pairs * (0.5 * n + candidates * (15 + limit / lanes)),
        )
    written = pairs if limit else 0
    site.call(native(_CODE, "number"), counts, iou_threshold or 0, total or 0, FAULT, written)
    if limit:
        site.call(
            native(_CODE, "gather_rows"),
            *(found, counts, rows, pairs, classes, limit),
            units=pairs,
            work=rows.nbytes / 8,
        )
