"""Direct convolution: of blocked tensors, and of a plain image with few channels, into blocked ones."""

from __future__ import annotations

from typing import Any

from onnxref.native.ops import access, arg, arg_float, device

from ._conv_micro import BLOCKS, KX, KY, LINE, R_BLOCK, R_ROW, ROW_STEP, RUN, Y_BLOCK, Y_ROW, conv_tile

EDGE = 33  # where the parameters of the tiles that read a copy of the edge begin


def direct(
    rows: int,
    columns: int,
    rest: int,
    vectors: int,
    last: int,
    pixel: int,
    lanes: int,
    ahead: int,
    plain: bool,
    activation: str,
    bf16: str = "",
) -> Any:
    """Return the convolution in tiles of `rows` x `columns` pixels by `vectors` vectors of channels.

    A unit is (image, block of rows, piece of a row, group of channels), the last fastest. The last
    tile of a piece begins so that it ends with the piece: some pixels are computed twice. So does that
    at the lower edge where neither `rows` nor `rest` rows are left: the last block has `rows` at least then.

    Args:
        rest: rows of the tiles at the lower edge of an image that has as many more than `rows` divides;
            0 where there is no code for such tiles.
        last: vectors in the last group of channels.
        pixel: bytes from one output pixel's input to the next one's.
        ahead: see `conv_tile`; a group's weights are fetched while the group before is at work.
        plain: the input is a plain image without border; its tiles at the edge are computed from
            copies. Else it is blocked, and has a border.
        activation: one that is not applied in registers, else "".
        bf16: as of `conv_tile`; the input is blocked then.
    """
    unroll = 1 if plain else 4

    def tile(tall: int, channels: int) -> Any:
        return conv_tile(tall, columns, channels, pixel, unroll, ahead, bf16=bf16)

    full = tile(rows, vectors)
    low = tile(rest, vectors) if rest else full
    full_last = tile(rows, last) if last != vectors else full
    low_last = tile(rest, last) if rest and last != vectors else full_last
    vector_bytes = 4 * lanes
    activate = activation_loop(activation, columns * lanes)
    window = _window(columns, pixel) if plain else _no_window
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
        soon_step = arg(p, BLOCKS) * arg(p, KY) * arg(p, KX) * arg(p, RUN) * ahead * LINE
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
            soon = soon_begin = w + (group + 1) % groups * w_group
            row = first
            while row < stop:
                tall = min(rows, height - row)
                if tall < rows and tall != rest:
                    row = height - rows
                    tall = rows
                is_low = uneven and tall < rows
                column = left
                while column < right:
                    column = min(column, right - columns)
                    xt = xi + row * x_row + column * pixel
                    yt = yi + row * y_row + column * vector_bytes
                    rt = ri + row * r_row + column * r_pixel
                    q = p
                    if plain:
                        copied = window(p, xi, row, tall, column, thread)
                        if copied != 0:
                            xt = copied
                            q = p + EDGE * 8
                    if is_low:
                        if final:
                            low_last(q, xt, wg, yt, rt, bg, soon)
                        else:
                            low(q, xt, wg, yt, rt, bg, soon)
                    elif final:
                        full_last(q, xt, wg, yt, rt, bg, soon)
                    else:
                        full(q, xt, wg, yt, rt, bg, soon)
                    activate(yt, tall, last if final else vectors, y_row, y_block, alpha, beta)
                    column += columns
                    soon += soon_step
                    if soon >= soon_begin + w_group:
                        soon = soon_begin
                row += rows

    return kernel


@device
def _no_window(p, x, row, tall, column, thread):
    return 0


def _window(columns: int, pixel: int) -> Any:
    """Return the function that copies what a tile at the edge of a plain image reads, with zeros around.

    It returns the address of the copy; 0 for a tile that reads nothing outside of the image.
    """
    load, store = access("float32")

    @device
    def window(p, x, row, tall, column, thread):
        """`x` is where element (-top, -left) of the image would be."""
        size_h, size_w, top, left = arg(p, 48), arg(p, 49), arg(p, 50), arg(p, 51)
        step, reach_h, reach_w = arg(p, 52), arg(p, 53), arg(p, 54)
        h0 = row * step - top
        w0 = column * (pixel // 4) - left
        h1 = h0 + (tall - 1) * step + reach_h
        w1 = w0 + (columns - 1) * (pixel // 4) + reach_w
        if h0 >= 0 and w0 >= 0 and h1 <= size_h and w1 <= size_w:
            return 0
        channels, block, x_row = arg(p, 0), arg(p, 1), arg(p, 57)
        goal_block, goal_row = arg(p, EDGE + 1), arg(p, 56)
        goal = arg(p, 55) + thread * arg(p, 58)
        inside0, inside1 = min(max(w0, 0), w1), max(min(w1, size_w), w0)
        for c in range(channels):
            for h in range(h0, h1):
                to = goal + c * goal_block + (h - h0) * goal_row
                if h < 0 or h >= size_h:
                    for i in range(w1 - w0):
                        store(to, i, 0.0)
                else:
                    source = x + c * block + (h + top) * x_row + left * 4
                    for i in range(inside0 - w0):
                        store(to, i, 0.0)
                    for i in range(inside0, inside1):
                        store(to, i - w0, load(source, i))
                    for i in range(inside1 - w0, w1 - w0):
                        store(to, i, 0.0)
        return goal

    return window


def activation_loop(name: str, count: int) -> Any:
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
