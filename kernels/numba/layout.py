"""Conversion between C-contiguous and blocked tensors, and where elements lie in both.

`ToBlocked` and `FromBlocked` are the planner's own: one input, one output of the same shape, whose
operands' layouts tell what to do. Lanes past the last channel are written as zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxref.lowering import (
    NO_PAD,
    Address,
    Blocked,
    BlockedUse,
    Operand,
    Pad,
    Scratch,
    Site,
    Unsupported,
    lower,
)
from onnxref.native import native
from onnxref.registry import INTERNAL

CODE = "onnxref.kernels.numba.code.layout"
_CHUNK = 512  # pixels in a unit where rows join into one
_ZEROED = 1 << 14  # bytes that a unit sets to zero


@dataclass(frozen=True, slots=True)
class Steps:
    """Distances in bytes within a tensor (N, C, H, W), plain or in blocks.

    Attributes:
        begin: from the buffer to the first element.
        image: between images.
        plane: between channels, or between blocks of them.
        row: between rows.
        pixel: between columns.
        planes: channels, or blocks, of an image.
    """

    begin: int
    image: int
    plane: int
    row: int
    pixel: int
    planes: int


def steps(shape: Sequence[int], layout: Blocked | None, itemsize: int) -> Steps:
    """Return the distances within a tensor; (N, C, W) is seen as (N, C, 1, W)."""
    if layout is not None:
        _, blocks, rows, columns, lanes = layout.extents(shape)
        pixel = lanes * itemsize
        plane = rows * columns * pixel
        begin = layout.element_offset(shape) * itemsize
        return Steps(begin, blocks * plane, plane, columns * pixel, pixel, blocks)
    _, c, h, w = image_shape(shape)
    return Steps(0, c * h * w * itemsize, h * w * itemsize, w * itemsize, itemsize, c)


def image_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return a shape (N, C, W) or (N, C, H, W) as the latter."""
    if len(shape) == 3:
        return shape[0], shape[1], 1, shape[2]
    if len(shape) != 4:
        raise Unsupported(f"only one or two spatial axes (got shape {list(shape)})")
    return shape[0], shape[1], shape[2], shape[3]


def convert(
    site: Site,
    shape: Sequence[int],
    itemsize: int,
    source: Operand | Scratch | Address,
    source_layout: Blocked | None,
    goal: Operand | Scratch | Address,
    goal_layout: Blocked | None,
) -> None:
    """Add the call that moves a tensor from one layout into another; borders are left as they are."""
    n, c, h, w = image_shape(shape)
    here, there = steps(shape, source_layout, itemsize), steps(shape, goal_layout, itemsize)
    work = n * c * h * w * itemsize / 6
    layout = goal_layout or source_layout
    if layout is None:
        raise ValueError("one of two layouts must be in blocks")
    if source_layout is not None and goal_layout is not None:
        distances = (here.image, here.plane, here.row, there.image, there.plane, there.row, here.planes, h)
        if here.pixel != there.pixel:
            raise Unsupported(f"blocks of {source_layout.lanes} channels into blocks of {goal_layout.lanes}")
        arguments = (source + here.begin, goal + there.begin, w * here.pixel, *distances)
        site.call(native(CODE, "copied_rows"), *arguments, units=n * here.planes * h, work=work)
        return
    gather = goal_layout is not None
    plain, at_plain, blocked, at_blocked = (
        (source, here, goal, there) if gather else (goal, there, source, here)
    )
    chunk = w
    if layout.pad[1] == layout.pad[3] == 0:
        h, w, chunk = 1, h * w, _CHUNK
    if n * c * h * w == 0:
        return
    site.call(
        native(CODE, "blocks", itemsize, layout.lanes, gather),
        *(plain, at_plain.image, at_plain.plane, at_plain.row),
        *(blocked + at_blocked.begin, at_blocked.image, at_blocked.plane, at_blocked.row),
        *(c, at_blocked.planes, h, w, chunk),
        units=n * at_blocked.planes * h * -(-w // chunk),
        work=work,
    )


def padded_copy(site: Site, x: Operand, lanes: int, pad: Pad) -> tuple[Scratch, Blocked]:
    """Add calls that lay `x` in blocks with a border of zeros, in scratch memory."""
    layout = Blocked(lanes, pad)
    nbytes = math.prod(layout.extents(x.shape)) * x.dtype.itemsize
    scratch = site.scratch(nbytes)
    if any(pad):
        units = -(-nbytes // _ZEROED)
        site.call(native(CODE, "zeroed"), scratch, nbytes, _ZEROED, units=units, work=nbytes / 16)
    convert(site, x.shape, x.dtype.itemsize, x, x.layout, scratch, layout)
    return scratch, layout


def covers(layout: Blocked | None, lanes: int, pad: Pad) -> bool:
    """Whether a tensor lies in blocks of `lanes` with at least this border."""
    return (
        layout is not None
        and layout.lanes == lanes
        and all(h >= w for h, w in zip(layout.pad, pad, strict=True))
    )


def goes_along(*inputs: int, outputs: tuple[int, ...] = (0,)) -> BlockedUse:
    """Return the use of a node that works on blocks without a border, if it is given some."""
    return BlockedUse(dict.fromkeys(inputs, NO_PAD), outputs)


@lower("ToBlocked", since=1, domain=INTERNAL)
@lower("FromBlocked", since=1, domain=INTERNAL)
def move(site: Site, x: Operand) -> None:
    """Copy x (N, C, W) or (N, C, H, W) into the layout of the output, bit by bit."""
    (y,) = site.outputs
    if y is None:
        return
    sizes = {1, 2, 4, 8}
    if x.dtype.itemsize not in sizes or x.dtype.hasobject:
        raise Unsupported(f"elements of {x.dtype}")
    if x.buffer_bytes == y.buffer_bytes == x.nbytes and image_shape(x.shape)[2:] == (1, 1):
        site.alias(y, x)
        return
    convert(site, x.shape, x.dtype.itemsize, x, x.layout, y, y.layout)
