"""From raw scores to results and labels: what trees, linear models and support vector machines share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Packed, Scratch, Site, Unsupported

from ..common.ml import TRANSFORMS


def emit_finish(
    site: Site,
    scores: Scratch,
    rows: int,
    count: int,
    *,
    score: str,
    transform: str,
    base: Array | Packed,
    goal: Operand | None,
    label: Operand | None = None,
    labels: Sequence[int] | Packed = (),
    stride: int = 0,
    divisor: int = 1,
    before: int = 0,
    by_sign: bool = False,
    may_be_empty: bool = False,
) -> None:
    """Emit the launch that makes results, and labels, of `count` float64 scores a row.

    Args:
        score: type that scores are rounded to.
        base: values that are added to the scores, in float64.
        stride: scores from one row to the next, `count` if 0; the scores are used up where they are the same.
        before: what column to put before a single score: 0 none, 1 one minus it, 2 its negative.
        by_sign: whether the label follows from the sign of the single score.
    """
    width = count + (1 if before else 0)
    if width >= 1 << 20:
        raise Unsupported("too many scores a row")
    in_place = not before and stride in (0, count)
    known = labels
    if not isinstance(known, Packed):
        table = np.array(known or (0,), np.int64)
        known = site.pack((), ("labels", table.tobytes()), lambda: table)
    if not isinstance(base, Packed):
        held = base
        base = site.pack((), ("base", held.tobytes()), lambda: held)
    out = "float32" if goal is None else goal.dtype.name
    kernel = cuda_kernel(
        "onnxref.kernels.cupy.code", "ml_scores.cu", "finish",
        SCORE=CTYPES[score], OUT=CTYPES[out], HAS_LABELS=int(label is not None),
        MAY_BE_EMPTY=int(may_be_empty), TRANSFORM=TRANSFORMS.index(transform),
    )  # fmt: skip
    if not rows:
        return
    site.launch(
        kernel,
        scores,
        scores if in_place else site.scratch(8 * rows * width),
        *(rows, stride or count, count, np.float64(divisor), base, before, int(by_sign), known),
        label if label is not None else known,
        goal if goal is not None else site.scratch(4 * rows * width),
        grid=grid_for(rows, 128),
        block=(128, 1, 1),
    )
