"""NonMaxSuppression: the best boxes of each class that do not overlap too much.

Greedy suppression goes through a class's boxes one by one, best first; here blocks of boxes are compared
with each other at once, and who suppresses whom is looked up in the bits of Python integers. Classes with few
candidates, which are most of them behind a score threshold, share a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.limits import Budget
from onnxref.registry import INTERNAL, Context, ghost, op, shape_rule

from ._checks import check_choice, one_element, scalar_int
from .selection import sort_keys

_BLOCK = 128  # boxes that are compared with each other at once
_PAIRS = 2**15  # comparisons at once, at least those of a block: what a core's cache holds of them
_BOX_BITS = 32


def _planes(boxes: Array, center_point_box: int) -> Array:
    """Return boxes (..., 4) as (5, ...): lower corner, upper corner, area."""
    columns = np.ascontiguousarray(boxes.T if boxes.ndim == 2 else boxes.transpose(2, 0, 1))
    one, two = columns[:2], columns[2:]
    planes = np.empty((5, *boxes.shape[:-1]), boxes.dtype)
    if center_point_box:
        np.subtract(one, two / 2, out=planes[:2])
        np.add(one, two / 2, out=planes[2:4])
    else:
        np.minimum(one, two, out=planes[:2])
        np.maximum(one, two, out=planes[2:4])
    height, width = np.maximum(planes[2:4] - planes[:2], 0)
    np.multiply(height, width, out=planes[4])
    return planes


def _kept(over: Array) -> Array:
    """Tell which boxes stay, (..., N), where `over` (..., N, N) tells which suppress which, best first."""
    n = over.shape[-1]
    over = over & (np.arange(n)[:, np.newaxis] < np.arange(n))
    packed = np.packbits(over, axis=-1, bitorder="little")
    data, step = packed.tobytes(), packed.shape[-1]
    left = [(1 << n) - 1] * (over.size // n**2)
    # Most boxes suppress none behind them, and need no look.
    for row in np.flatnonzero(over.any(axis=-1)).tolist():
        group, box = divmod(row, n)
        if left[group] >> box & 1:
            left[group] &= ~int.from_bytes(data[row * step : (row + 1) * step], "little")
    joined = b"".join([bits.to_bytes(step, "little") for bits in left])
    bits = np.unpackbits(np.frombuffer(joined, np.uint8).reshape(-1, step), axis=-1, bitorder="little")
    return bits[:, :n].astype(np.bool_).reshape(over.shape[:-1])


class _Suppression:
    """The boxes (B * N, 4) of a model's batch, and the rule that they are chosen by."""

    def __init__(
        self, boxes: Array, center_point_box: int, limit: int, iou_threshold: Array, budget: Budget
    ) -> None:
        self.boxes = boxes
        self.center_point_box = center_point_box
        self.limit = limit
        self.iou_threshold = iou_threshold
        self.budget = budget
        # Kept: fresh memory for every comparison may cost more than the comparison.
        self.scratch = np.empty((3, _PAIRS), boxes.dtype)

    def overlaps(self, a: Array, b: Array) -> Array:
        """Tell which boxes of `a` (5, ..., A) overlap which of `b` (5, ..., B) too much, as (..., A, B)."""
        shape = (*a.shape[1:], b.shape[-1])
        size = math.prod(shape)
        shared, width, lower = (part[:size].reshape(shape) for part in self.scratch)
        a, b = a[..., np.newaxis], b[..., np.newaxis, :]
        for axis, extent in enumerate((shared, width)):
            np.minimum(a[2 + axis], b[2 + axis], out=extent)
            np.maximum(a[axis], b[axis], out=lower)
            np.subtract(extent, lower, out=extent)
            np.maximum(extent, 0, out=extent)
        shared *= width
        union = np.add(a[4], b[4], out=width)
        union -= shared
        # Two empty boxes give 0 / 0, which is not above any threshold.
        over: Array = np.divide(shared, union, out=shared) > self.iou_threshold
        return over

    def of_one(self, keys: Array, offset: int) -> Array:
        """Return the boxes kept of one class, whose box 0 is number `offset` of all; `keys` are (M,)."""
        limit = min(self.limit, keys.size)
        chosen = np.empty((5, limit), self.boxes.dtype)
        found: list[Array] = []
        n = 0
        for numbers in _best_first(keys, limit):
            self.budget.check_time()
            block = _planes(self.boxes[numbers + offset], self.center_point_box)
            for begin in range(0, n, _BLOCK):
                over = self.overlaps(chosen[:, begin : min(begin + _BLOCK, n)], block)
                left = ~over.any(axis=0)
                numbers, block = numbers[left], block[:, left]
            if not numbers.size:
                continue
            kept = np.flatnonzero(_kept(self.overlaps(block, block)))[: limit - n]
            found.append(numbers[kept])
            chosen[:, n : n + kept.size] = block[:, kept]
            n += kept.size
            if n == limit:
                break
        return np.concatenate(found)

    def of_many(self, keys: Array, counts: Array, offsets: Array) -> list[Array]:
        """Return the boxes kept of each of G classes with `counts` (G,) of the keys (G, M) each."""
        self.budget.check_time()
        keys = np.sort(keys, axis=1)
        numbers = _numbers(keys)
        block = _planes(self.boxes[numbers + offsets[:, np.newaxis]], self.center_point_box)
        kept = _kept(self.overlaps(block, block))
        kept &= np.arange(kept.shape[1]) < counts[:, np.newaxis]
        return [row[mask][: self.limit] for row, mask in zip(numbers, kept, strict=True)]


def _best_first(keys: Array, limit: int) -> Iterator[Array]:
    """Yield box numbers by ascending key, in blocks; what lies far behind the limit is sorted last."""
    head = 2 * limit + _BLOCK
    parts = [keys]
    if head < keys.size:
        keys = np.partition(keys, head)
        parts = [keys[:head], keys[head:]]
    for part in parts:
        numbers = _numbers(np.sort(part))
        for begin in range(0, numbers.size, _BLOCK):
            yield numbers[begin : begin + _BLOCK]


def _numbers(keys: Array) -> Array:
    return (keys & np.uint64(2**_BOX_BITS - 1)).astype(np.int64)


def _keys(scores: Array, numbers: Array) -> Array:
    """Return integers that sort like (-score, number of the box); NaN comes last."""
    best_first = sort_keys(-scores).view(np.uint32) ^ np.uint32(2**31)
    keys = best_first.astype(np.uint64)
    keys <<= np.uint64(_BOX_BITS)
    keys |= numbers.astype(np.uint64)
    return keys


def _candidates(scores: Array, score_threshold: Array | None) -> tuple[Array, Array]:
    """Return sort keys of the boxes (B, C, N) with high scores, class by class, and how many each has."""
    n = scores.shape[2]
    if score_threshold is None:
        keys = _keys(scores, np.arange(n))
        return keys.reshape(-1), np.full(scores.size // n, n)
    passed = scores >= one_element(score_threshold, "score_threshold")
    flat = np.flatnonzero(passed)
    class_, number = np.divmod(flat, n)
    keys = _keys(scores.reshape(-1)[flat], number)
    return keys, np.bincount(class_, minlength=scores.size // n)


def _select(suppression: _Suppression, scores: Array, score_threshold: Array | None) -> dict[int, Array]:
    """Return the boxes kept of each (batch, class), by the number of the pair."""
    classes, n = scores.shape[1:]
    keys, counts = _candidates(scores, score_threshold)
    starts = np.cumsum(counts) - counts
    found: dict[int, Array] = {}
    for pair in np.flatnonzero(counts > _BLOCK).tolist():
        own = keys[starts[pair] : starts[pair] + counts[pair]]
        found[pair] = suppression.of_one(own, pair // classes * n)
    small = np.flatnonzero((counts > 0) & (counts <= _BLOCK))
    small = small[np.argsort(counts[small])[::-1]]
    while small.size:
        widest = int(counts[small[0]])
        group, small = np.split(small, [max(1, _PAIRS // widest**2)])
        within = np.arange(widest) < counts[group, np.newaxis]
        # Filled up with keys behind all others, of the first box.
        own = np.full(within.shape, np.uint64((2**32 - 1) << _BOX_BITS))
        own[within] = keys[(starts[group, np.newaxis] + np.arange(widest))[within]]
        rows = suppression.of_many(own, counts[group], group // classes * n)
        found.update(zip(group.tolist(), rows, strict=True))
    return found


def _check(boxes: Array, scores: Array, center_point_box: int) -> None:
    if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape != (scores.shape[0], scores.shape[2], 4):
        raise KernelError(
            f"boxes and scores must be (B, N, 4) and (B, C, N) (got {boxes.shape}, {scores.shape})"
        )
    if boxes.shape[1] >= 2**_BOX_BITS:
        raise KernelError(f"there must be fewer than 2**{_BOX_BITS} boxes (got {boxes.shape[1]})")
    check_choice(center_point_box, (0, 1), "center_point_box")


def _limit(max_output_boxes_per_class: Array | None) -> int:
    """Return the most boxes that are kept of a class."""
    if max_output_boxes_per_class is None:
        return 0
    return max(0, scalar_int(max_output_boxes_per_class, "max_output_boxes_per_class"))


@op("NonMaxSuppression", since=(10, 11))
def non_max_suppression(
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: Array | None = None,
    iou_threshold: Array | None = None,
    score_threshold: Array | None = None,
    *,
    center_point_box: int = 0,
    ctx: Context,
) -> Array:
    """Return (batch, class, box) of what is kept of boxes (B, N, 4) with scores (B, C, N).

    Best first within a class; equal scores in the order of the boxes (ONNX NonMaxSuppression-11).
    """
    _check(boxes, scores, center_point_box)
    threshold: Array = np.zeros((), np.float32)
    if iou_threshold is not None:
        threshold = one_element(iou_threshold, "iou_threshold")
    if not 0 <= threshold <= 1:
        raise KernelError(f"iou_threshold must be in [0, 1] (got {threshold})")
    limit = _limit(max_output_boxes_per_class)
    if limit == 0 or not scores.size:
        return np.zeros((0, 3), np.int64)
    suppression = _Suppression(boxes.reshape(-1, 4), center_point_box, limit, threshold, ctx.budget)
    found = _select(suppression, scores, score_threshold)
    pairs = np.array(sorted(found), np.int64)
    kept = [found[pair] for pair in pairs.tolist()]
    rows = np.repeat(pairs, [part.size for part in kept])
    result = np.empty((rows.size, 3), np.int64)
    result[:, 0], result[:, 1] = np.divmod(rows, scores.shape[1])
    result[:, 2] = np.concatenate([np.zeros(0, np.int64), *kept])
    return result


@op("PaddedNonMaxSuppression", since=1, domain=INTERNAL)
def padded_non_max_suppression(
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: Array | None = None,
    iou_threshold: Array | None = None,
    score_threshold: Array | None = None,
    *,
    center_point_box: int = 0,
    ctx: Context,
) -> tuple[Array, Array]:
    """Return the rows of NonMaxSuppression-11, as many as there can be with zeros behind, and their count."""
    thresholds = (iou_threshold, score_threshold)
    kept = non_max_suppression(
        boxes, scores, max_output_boxes_per_class, *thresholds, center_point_box=center_point_box, ctx=ctx
    )
    most = _most(scores, _limit(max_output_boxes_per_class))
    ctx.budget.check_bytes(most * kept.itemsize * 3)
    rows = np.zeros((most, 3), np.int64)
    rows[: len(kept)] = kept
    return rows, np.array(len(kept), np.int64)


def _most(scores: Array, limit: int) -> int:
    """Return how many boxes can be kept of all classes together."""
    batches, classes, n = map(int, scores.shape)
    return batches * classes * min(limit, n)


@shape_rule("PaddedNonMaxSuppression", since=1, domain=INTERNAL)
def _padded(
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: Array | None = None,
    iou_threshold: Array | None = None,
    score_threshold: Array | None = None,
    *,
    center_point_box: int = 0,
    ctx: Context,
) -> tuple[Array, Array]:
    _check(boxes, scores, center_point_box)
    for threshold, name in ((iou_threshold, "iou_threshold"), (score_threshold, "score_threshold")):
        if threshold is not None:
            one_element(threshold, name)
    rows = (_most(scores, _limit(max_output_boxes_per_class)), 3)
    return ghost(rows, np.dtype(np.int64)), ghost((), np.dtype(np.int64))
