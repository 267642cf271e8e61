"""Convolutions of each channel with a window of its own: MobileNet's, EfficientNet's, ConvNeXt's."""

from __future__ import annotations

import math

from onnxref.gpu import cuda_kernel, grid_for

from ..common.windows import over_axes
from ._conv import CODE, Conv, taps_first
from ._rows import BUSY

_LARGEST_WINDOW = 7


def is_depthwise(conv: Conv) -> bool:
    """Whether `depthwise.cu` does it: rows and columns, strides of 1 and 2, no dilation."""
    windows = conv.windows
    return (
        conv.group == conv.c == conv.m > 1
        and len(windows.size) <= 2
        and conv.size <= 4
        and set(windows.dilations) == {1}
        and max(windows.kernel) <= _LARGEST_WINDOW
        and max(windows.strides) <= 2
        and max(conv.x.size // conv.n, conv.y.size) < 2**31
    )


def emit_depthwise(conv: Conv) -> None:
    """Emit `depthwise.cu` on the goal."""
    windows, site = over_axes(conv.windows, 2), conv.site
    (kh, kw), (sh, sw), (oh, ow) = windows.kernel, windows.strides, windows.out
    vec = math.gcd(conv.m, 4)
    blocks = conv.m // vec
    rows, columns = _tile((sh, sw), (oh, ow), conv.n * blocks)
    count = conv.n * blocks * -(-oh // rows) * -(-ow // columns)
    source, pitch = conv.source
    added, added_pitch = conv.added or (0, conv.m)
    site.launch(
        cuda_kernel(
            *(CODE, "depthwise.cu", "depthwise"),
            **conv.defines(),
            KH=kh,
            KW=kw,
            SH=sh,
            SW=sw,
            ROWS=rows,
            COLUMNS=columns,
            VEC=vec,
        ),
        *(source, taps_first(conv), conv.goal.memory, conv.bias or 0, added),
        *(
            pitch,
            conv.goal.pitch,
            added_pitch,
            count,
            blocks,
            *windows.size,
            oh,
            ow,
            *windows.begins,
            *conv.factors,
        ),
        grid=grid_for(count, 128),
        block=(128, 1, 1),
    )


def _tile(strides: tuple[int, ...], out: tuple[int, ...], planes: int) -> tuple[int, int]:
    """Return the rows and columns that a thread makes: many save reads, as long as the card stays busy."""
    # With strides of 2 inputs are hardly shared: small tiles leave registers for more threads.
    sizes = [(2, 2) if 2 in strides else (2, 4), (1, 4), (1, 2)]
    for rows, columns in sizes:
        rows, columns = min(rows, 1 if out[0] == 1 else rows), min(columns, 1 if out[1] == 1 else columns)
        if planes * -(-out[0] // rows) * -(-out[1] // columns) >= BUSY // 4:
            return rows, columns
    return 1, 1
