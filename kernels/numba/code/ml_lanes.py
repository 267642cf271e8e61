"""Kernel of linear models for many rows and few targets: products with targets in lanes, what makes results
of them with rows in lanes (float32)."""

from __future__ import annotations

import numpy as np

from onnxref.native.ops import access, arg, device

from ._math import exp32, sigmoid32
from .ml_trees import LOGISTIC, SOFTMAX
from .recurrent import LANES, VECTORS, block
from .shape import copy_row, mover, transpose_tile

ROWS = 64  # of a pass; a multiple of any number of lanes

_load, _store = access("float32")
_load_int, _store_int = access("int32")
_load_long, _store_long = access("int64")
_tile = transpose_tile(4, LANES)
_move = mover(4 * LANES)


@device
def _transpose(goal, goal_width, source, source_width, rows, columns):
    """Put `rows` x `columns` elements as columns; both are multiples of LANES, widths in elements."""
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            place, origin = goal + 4 * (j * goal_width + i), source + 4 * (i * source_width + j)
            _tile(place, 4 * goal_width, origin, 4 * source_width)


@device
def _complete(scores, wide, before):
    """Fill the first of two columns from the second: one minus it, or its negative."""
    for r in range(wide):
        score = _load(scores, ROWS + r)
        _store(scores, r, np.float32(1) - score if before == 1 else -score)


@device
def _highest(scores, columns, wide, best, top):
    """Find what argmax does: NaN counts as highest."""
    for r in range(wide):
        _store_int(best, r, 0)
        _store(top, r, _load(scores, r))
    for t in range(1, columns):
        for r in range(wide):
            new, held = _load(scores, t * ROWS + r), _load(top, r)
            better = (new > held) | ((new != new) & (held == held))
            _store_int(best, r, np.int32(t) if better else _load_int(best, r))
            _store(top, r, new if better else held)


@device
def _softmax(scores, columns, wide, top, total):
    for r in range(wide):
        _store(top, r, _load(scores, r))
        _store(total, r, np.float32(0))
    for t in range(1, columns):
        for r in range(wide):
            new, held = _load(scores, t * ROWS + r), _load(top, r)
            _store(top, r, new if (new > held) | (new != new) else held)
    for t in range(columns):
        for r in range(wide):
            value = exp32(_load(scores, t * ROWS + r) - _load(top, r))
            _store(scores, t * ROWS + r, value)
            _store(total, r, _load(total, r) + value)
    for t in range(columns):
        for r in range(wide):
            _store(scores, t * ROWS + r, _load(scores, t * ROWS + r) / _load(total, r))


@device
def _logistic(scores, columns, wide):
    for t in range(columns):
        for r in range(wide):
            _store(scores, t * ROWS + r, sigmoid32(_load(scores, t * ROWS + r)))


@device
def _give(goal, columns, held, width, rows):
    """Copy rows of `columns` elements; whole vectors as long as they stay within the rows."""
    row = 0
    if width == LANES:
        while row * columns + LANES <= rows * columns:
            _move(goal + 4 * row * columns, held + 4 * row * LANES)
            row += 1
    while row < rows:
        copy_row(goal + 4 * row * columns, held + 4 * row * width, 4 * columns)
        row += 1


def linear_rows(vectors: int, transform: int, labelled: bool):
    """Kernel of linear classifiers and regressors. Units: rows.

    Arguments: x, weights (features, width), intercepts (width), features, columns, what the first of two
    columns becomes (0 itself, 1 one minus the other, 2 its negative), whether the label follows from the
    sign of the last column, labels, goal of labels, goal of results or 0, scratch, bytes of it.

        vectors: width in vectors; columns behind the last one hold zeros.
        transform: NONE, LOGISTIC or SOFTMAX.
    """
    width = vectors * LANES
    high = min(12, (24 if VECTORS == 8 else 12) // vectors)
    multiply = block(vectors, high, 2 if high < 8 else 4)

    @device
    def label(p, row, rows, wide, scores, best, top):
        columns, labels, goal = arg(p, 4), arg(p, 7), arg(p, 8)
        if arg(p, 6):
            for r in range(rows):
                _store_int(best, r, np.int32(_load(scores, (columns - 1) * ROWS + r) > 0))
        else:
            _highest(scores, columns, wide, best, top)
        for r in range(rows):
            _store_long(goal, row + r, _load_long(labels, np.int64(_load_int(best, r))))

    def kernel(p, begin, end, thread):
        features, columns = arg(p, 3), arg(p, 4)
        held = arg(p, 10) + thread * arg(p, 11)
        scores = held + 4 * ROWS * width
        best = scores + 4 * ROWS * width
        top = best + 4 * ROWS
        total = top + 4 * ROWS
        for row in range(begin, end, ROWS):
            rows = min(ROWS, end - row)
            wide = (rows + LANES - 1) // LANES * LANES
            x = arg(p, 0) + 4 * row * features
            multiply(x, 4 * features, arg(p, 1), 4 * width, arg(p, 2), 0, held, 4 * width, features, rows)
            _transpose(scores, ROWS, held, width, wide, width)
            if arg(p, 5):
                _complete(scores, wide, arg(p, 5))
            if labelled:
                label(p, row, rows, wide, scores, best, top)
            if transform == SOFTMAX:
                _softmax(scores, columns, wide, top, total)
            elif transform == LOGISTIC:
                _logistic(scores, columns, wide)
            if arg(p, 9):
                _transpose(held, width, scores, ROWS, width, wide)
                _give(arg(p, 9) + 4 * row * columns, columns, held, width, rows)

    return kernel
