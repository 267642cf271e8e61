"""NonMaxSuppression in its padded form, exact: sorted in shared memory and merged, then a block a class."""

from __future__ import annotations

from onnxref.gpu import Kernel, cuda_kernel
from onnxref.lowering import FAULT, Operand, Scratch, Site, lower
from onnxref.registry import INTERNAL

from ..common.suppression import classes_of
from ._rows import power_above

_CODE = "onnxref.kernels.cupy.code"
_KEY = 8  # bytes
_MOST = 4096  # keys that a block sorts


@lower("PaddedNonMaxSuppression", since=1, domain=INTERNAL, backend="cupy")
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
    """ONNX NonMaxSuppression-11, bit by bit."""
    given = classes_of(site, boxes, scores, iou_threshold, score_threshold, center_point_box)
    pairs, classes, n, limit, rows, total = given
    found, counts = site.scratch(4 * pairs * limit), site.scratch(4 * pairs)
    if limit:
        keys, merged, run = _sorted(site, scores, score_threshold, counts)
        site.launch(
            _kernel("suppress", CENTER=center_point_box),
            *(boxes, keys, merged, counts, iou_threshold or 0, found, n, classes, run, limit),
            grid=(pairs, 1, 1),
            block=(512, 1, 1),
        )
    written = pairs if limit else 0
    site.launch(
        _kernel("gather_rows"),
        *(found, counts, iou_threshold or 0, rows, total or 0, FAULT, written, classes, limit),
        grid=(max(1, written), 1, 1),
    )


def _kernel(entry: str, **defines: int) -> Kernel:
    return cuda_kernel(_CODE, "suppression.cu", entry, **{"CENTER": 0, **defines})


def _sorted(
    site: Site, scores: Operand, score_threshold: Operand | None, counts: Scratch
) -> tuple[Scratch, Scratch | int, int]:
    """Sort each class's candidates; return the two places they may be in, and the first runs' length."""
    pairs, n = scores.size // scores.shape[2], scores.shape[2]
    keys = site.scratch(_KEY * pairs * n)
    site.launch(
        _kernel("collect"),
        *(scores, score_threshold or 0, keys, counts, n),
        grid=(pairs, 1, 1),
        block=(1024 if n > 1024 else 256, 1, 1),
    )
    width = min(_MOST, power_above(n))
    parts = -(-n // width)
    site.launch(
        _kernel("sort_pieces"),
        *(keys, counts, n, parts, width),
        grid=(pairs * parts, 1, 1),
        block=(min(1024, max(32, width // 4 // 32 * 32)), 1, 1),
        shared=_KEY * width,
    )
    if parts == 1:
        return keys, 0, width
    merged = site.scratch(_KEY * pairs * n)
    source, goal, run = keys, merged, width
    while run < n:
        site.launch(
            _kernel("merge_runs"),
            *(source, goal, counts, pairs * n, n, run),
            grid=(-(-pairs * n // 256), 1, 1),
        )
        source, goal, run = goal, source, 2 * run
    return keys, merged, width
