"""Native code that brings channels into another order, bit by bit."""

from __future__ import annotations

from onnxref.native.ops import access, arg, copy_bytes


def shuffled_planes():
    """Copy the planes of `groups` groups in turns; a unit is a plane of the output."""

    def kernel(p, begin, end, thread):
        x, y, plane, groups, each = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        for unit in range(begin, end):
            n = unit // (groups * each)
            channel = unit - n * groups * each
            i = channel // groups
            source = n * groups * each + (channel - i * groups) * each + i
            copy_bytes(y + unit * plane, x + source * plane, plane)

    return kernel


def shuffled_blocks(itemsize: int, lanes: int):
    """Gather channels in blocks from places in bytes, one for each lane; a unit is a row of a block.

    Lanes past the last channel take any channel's place.
    """
    load, store = access(f"int{8 * itemsize}")
    pixel = lanes * itemsize

    def kernel(p, begin, end, thread):
        x, x_image, x_row = arg(p, 0), arg(p, 1), arg(p, 2)
        y, y_image, y_plane, y_row = arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6)
        offsets, blocks, rows, columns = arg(p, 7), arg(p, 8), arg(p, 9), arg(p, 10)
        for unit in range(begin, end):
            lines = unit // rows
            row = unit - lines * rows
            n = lines // blocks
            block = lines - n * blocks
            source = x + n * x_image + row * x_row
            goal = y + n * y_image + block * y_plane + row * y_row
            for lane in range(lanes):
                place = source + arg(offsets, block * lanes + lane)
                for i in range(columns):
                    store(goal + i * pixel, lane, load(place + i * pixel, 0))

    return kernel
