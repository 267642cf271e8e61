"""ShuffleChannels, the planner's own: channels in another order, in blocks or plain, bit by bit."""

from __future__ import annotations

import numpy as np

from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Site, Unsupported, lower
from onnxref.native import native
from onnxref.registry import INTERNAL

from .layout import image_shape, steps

CODE = "onnxref.kernels.numba.code.channels"


def _blocked(op: Op, lanes: int) -> BlockedUse | None:
    x = op.inputs[0]
    return BlockedUse({0: NO_PAD}) if x is not None and x.ndim in (3, 4) else None


@lower("ShuffleChannels", since=1, domain=INTERNAL, blocked=_blocked)
def shuffle_channels(site: Site, x: Operand, *, groups: int) -> None:
    """Copy the channels of `groups` groups in turns; see the reference kernel."""
    (y,) = site.outputs
    if y is None or x.size == 0:
        return
    size = x.dtype.itemsize
    if size not in (1, 2, 4, 8) or x.dtype.hasobject:
        raise Unsupported(f"elements of {x.dtype}")
    n, channels, rows, columns = image_shape(x.shape)
    here, there = steps(x.shape, x.layout, size), steps(y.shape, y.layout, size)
    each = channels // groups
    if x.layout is None and y.layout is None:
        site.call(
            native(CODE, "shuffled_planes"),
            *(x, y, here.plane, groups, each),
            units=n * channels,
            work=x.nbytes / 8,
        )
        return
    if x.layout is None or y.layout is None or x.layout.lanes != y.layout.lanes:
        raise Unsupported("one of two tensors in blocks")
    lanes = x.layout.lanes
    channel = np.arange(channels) % groups * each + np.arange(channels) // groups
    offsets = np.zeros(there.planes * lanes, np.int64)
    offsets[:channels] = channel // lanes * here.plane + channel % lanes * size
    key = ("shuffled channels", channels, groups, lanes, size, here.plane)
    site.call(
        native(CODE, "shuffled_blocks", size, lanes),
        *(x + here.begin, here.image, here.row, y + there.begin, there.image, there.plane, there.row),
        site.pack((), key, lambda: offsets),
        *(there.planes, rows, columns),
        units=n * there.planes * rows,
        work=x.size / 1.5,
    )
