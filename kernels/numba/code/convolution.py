"""Direct convolution of blocked tensors; and the padding of a plain image that it reads."""

from __future__ import annotations

from typing import Any

from onnxref.native.ops import access, arg, arg_float, copy_bytes, device, fill_bytes
from onnxref.native.vectors import Vectors  # noqa: F401 - part of what the code is made from

from ._conv_micro import PARAMETERS, R_BLOCK, R_ROW, ROW_STEP, Y_BLOCK, Y_ROW, conv_tile

# Activations that the tile itself applies, in registers.
IN_REGISTERS = ("", "Relu", "Clip", "LeakyRelu")


def direct(
    rows: int,
    columns: int,
    rest: int,
    vectors: int,
    last: int,
    pixel: int,
    unroll: int,
    lanes: int,
    activation: str,
) -> Any:
    """Return the convolution in tiles of `rows` x `columns` pixels by `vectors` vectors of channels.

    A unit is (image, block of rows, piece of a row, group of channels), the last fastest. The last
    tile of a piece begins so that it ends with the piece: some pixels are computed twice.

    Args:
        rest: rows of the tiles at the lower edge of an image whose height `rows` does not divide.
        last: vectors in the last group of channels.
        pixel: bytes from one output pixel's input to the next one's.
        unroll: see `conv_tile`.
        activation: one that is not applied in registers, else "".
    """
    full = conv_tile(rows, columns, vectors, pixel, unroll)
    low = conv_tile(rest, columns, vectors, pixel, unroll) if rest else full
    full_last = conv_tile(rows, columns, last, pixel, unroll) if last != vectors else full
    low_last = conv_tile(rest, columns, last, pixel, unroll) if rest and last != vectors else full_last
    vector_bytes = 4 * lanes
    activate = _activation(activation, columns * lanes)
    uneven, odd = rest > 0, last != vectors

    def kernel(p, begin, end, thread):
        x, w, y, r, b = arg(p, 15), arg(p, 16), arg(p, 17), arg(p, 18), arg(p, 19)
        groups, row_blocks, pieces = arg(p, 20), arg(p, 21), arg(p, 22)
        height, width, block_rows = arg(p, 23), arg(p, 24), arg(p, 25)
        x_image, y_image, r_image = arg(p, 26), arg(p, 27), arg(p, 28)
        w_group, r_pixel = arg(p, 29), arg(p, 30)
        alpha, beta = arg_float(p, 31), arg_float(p, 32)
        x_row, y_row, r_row = arg(p, ROW_STEP), arg(p, Y_ROW), arg(p, R_ROW)
        y_block, r_block = arg(p, Y_BLOCK), arg(p, R_BLOCK)
        for unit in range(begin, end):
            group = unit % groups
            at = unit // groups
            piece = at % pieces
            at = at // pieces
            first = at % row_blocks * block_rows
            image = at // row_blocks
            stop = min(height, first + block_rows)
            left = width * piece // pieces
            right = width * (piece + 1) // pieces
            wg = w + group * w_group
            bg = b + group * vectors * vector_bytes
            xi = x + image * x_image
            yi = y + image * y_image + group * vectors * y_block
            ri = r + image * r_image + group * vectors * r_block
            final = odd and group == groups - 1
            row = first
            while row < stop:
                is_low = uneven and row + rows > height
                column = left
                while column < right:
                    column = min(column, right - columns)
                    xt = xi + row * x_row + column * pixel
                    yt = yi + row * y_row + column * vector_bytes
                    rt = ri + row * r_row + column * r_pixel
                    if is_low:
                        if final:
                            low_last(p, xt, wg, yt, rt, bg)
                        else:
                            low(p, xt, wg, yt, rt, bg)
                    elif final:
                        full_last(p, xt, wg, yt, rt, bg)
                    else:
                        full(p, xt, wg, yt, rt, bg)
                    activate(yt, rest if is_low else rows, last if final else vectors, y_row, y_block, alpha, beta)
                    column += columns
                row += rows

    return kernel


def _activation(name: str, count: int) -> Any:
    """Return the function that applies an activation to a tile of `count` floats a row, where it lies."""
    if not name:

        @device
        def nothing(y, rows, vectors, y_row, y_block, alpha, beta):
            pass

        return nothing
    from ._math import activation32

    load, store = access("float32")
    function = activation32(name)

    @device
    def activate(y, rows, vectors, y_row, y_block, alpha, beta):
        for k in range(vectors):
            for row in range(rows):
                line = y + k * y_block + row * y_row
                for i in range(count):
                    store(line, i, function(load(line, i), alpha, beta))

    return activate


def pad_image() -> Any:
    """Return the copy of planes (units, h, w) into the middle of zeros (units, top + h + bottom, ...)."""

    def kernel(p, begin, end, thread):
        x, y, h, w_bytes = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        top, left, bottom, row_bytes = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        right = row_bytes - left - w_bytes
        for unit in range(begin, end):
            source = x + unit * h * w_bytes
            goal = y + unit * (top + h + bottom) * row_bytes
            fill_bytes(goal, 0, top * row_bytes)
            goal += top * row_bytes
            for _ in range(h):
                fill_bytes(goal, 0, left)
                copy_bytes(goal + left, source, w_bytes)
                fill_bytes(goal + left + w_bytes, 0, right)
                goal += row_bytes
                source += w_bytes
            fill_bytes(goal, 0, bottom * row_bytes)

    return kernel
