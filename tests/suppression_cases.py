"""Inputs of NonMaxSuppression that both accelerated kernel sets are held to, bit by bit."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array


class Case(NamedTuple):
    """A node's inputs, in the order of the schema, and whether boxes are centers and sizes."""

    boxes: Array
    scores: Array
    most: Array | None
    iou_threshold: Array | None
    score_threshold: Array | None
    center: bool = False

    @property
    def attributes(self) -> dict[str, Any]:
        return {"center_point_box": int(self.center)}


def one(value: float) -> Array:
    return np.array([value], np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


# What a box may be made of: no extent, no order, infinite, no number, and what overflows.
_COORDINATES = np.float32([0, 0, 1, 2, 2, 3, 5, -0.0, -4, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-38])
_SCORES = np.float32([0.0, -0.0, 0.5, 0.5, 1, 1, -1, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 0.25])


def odd(seed: int, batches: int, classes: int, n: int, plain: float = 0.8) -> tuple[Array, Array]:
    """Return boxes and scores with many special values among them, and many ties.

    Args:
        plain: share of the coordinates that are ordinary numbers.
    """
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 6, (batches, n, 4)).astype(np.float32)
    boxes = np.where(rng.random(boxes.shape) < plain, boxes, rng.choice(_COORDINATES, boxes.shape))
    scores = rng.choice(_SCORES, (batches, classes, n))
    return boxes, scores


def crowd(seed: int, batches: int, classes: int, n: int, width: float = 1.0) -> tuple[Array, Array]:
    """Return boxes around a few centers, as corners, and scores without ties."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0, 30, (batches, 12, 2))[:, rng.integers(12, size=n)]
    corners = np.concatenate([centers - 1, centers + 1], axis=-1) + rng.normal(0, width, (batches, n, 4))
    scores = rng.permuted(np.tile(np.arange(n), (batches, classes, 1)), axis=-1) / n
    return corners.astype(np.float32), scores.astype(np.float32)


def at_the_threshold() -> list[Case]:
    """Return pairs of boxes whose quotient is as good as the threshold: above, equal, below, or no float.

    The quotients are such that an unrounded product on the way makes them others.
    """
    made: list[Case] = []
    rng = np.random.default_rng(5)
    while len(made) < 24:
        a = np.sort(rng.uniform(0, 1, (2, 2)).astype(np.float32), axis=0)
        b = a + rng.uniform(0, 0.2, (2, 1)).astype(np.float32) * (a[1] - a[0])
        sides = np.minimum(a[1], b[1]) - np.maximum(a[0], b[0])
        both = (a[1] - a[0]).prod() + (b[1] - b[0]).prod()
        shared = sides.prod()
        quotient = shared / (both - shared)
        exact = np.float32(float(both) - float(sides[0]) * float(sides[1]))
        if quotient != shared / exact and min(sides) > 0:
            near = (quotient, np.nextafter(quotient, np.float32(0)), np.nextafter(quotient, np.float32(1)))
            made += [_pair(a.reshape(4), b.reshape(4), value) for value in near]
    # Quotients that are halfway between two of the smallest numbers: to nearest, to even.
    wide = np.float32([0, 0, 2.0**99, 2.0**-50])
    for size, value in itertools.product((1.0, 1.5, 2.0, 2.5, 3.0), (0.0, 2.0**-149, 2.0**-148)):
        for scale in (0, -1):
            narrow = np.float32([0, 0, np.ldexp(size, -50 + scale), 2.0**-50])
            made.append(_pair(wide, narrow, value))
    return made


def _pair(a: Array, b: Array, threshold: float) -> Case:
    boxes = np.stack([a, b])[np.newaxis]
    return Case(boxes, np.float32([[[2, 1]]]), ints(2), one(threshold), None)
