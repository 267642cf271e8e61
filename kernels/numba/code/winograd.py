"""Winograd convolution of blocked tensors, of stride 1, along one axis or both.

F(n, r) computes n outputs of r taps with n + r - 1 products, one for each point at which the polynomials
that stand for input and taps are multiplied: 0, pairs of `points` (a and -a), and infinity. A piece of the
input as long is transformed (B'd), multiplied with transformed weights (Gw), and transformed back (A'm);
along two axes first the one, then the other. Over the channels that makes as many small matrix products
as a piece has elements. F(4x4, 3x3) takes 4 times fewer products than direct convolution, F(2x2, 3x3) 2.25
times with smaller weights, F(4, 5) 2.5 times; Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2015. An axis of one tap has tiles of one output, and is not transformed.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, F64, I64, arg, arg_float, copy_bytes, device, fill_bytes
from onnxref.native.vectors import Vectors

from ._conv_micro import ADD, LINE, LOW, clamp, conv_tile, when
from .convolution import activation_loop


def winograd(
    size: tuple[int, int],
    taps: tuple[int, int],
    points: tuple[float, ...],
    columns: int,
    vectors: int,
    last: int,
    lanes: int,
    ahead: int,
    activation: str,
) -> Any:
    """Return the convolution; a unit is (image, block of tiles, group of channels), the last fastest.

    Args:
        size: rows and columns of the outputs of a tile.
        taps: rows and columns of the kernel.
        points: a of the pairs of points a and -a; 1 must be the first.
        columns: tiles that the matrix product takes at once; a block has at least so many.
        vectors: vectors of channels in a group.
        last: vectors in the last group.
        ahead: see `conv_tile`; the weights of a product are fetched during the product before it.
        activation: one that is not a clamp, else "".
    """
    vector = 4 * lanes
    size_h, size_w = size
    more_h, more_w = taps[0] - 1, taps[1] - 1
    piece_h, piece_w = size_h + more_h, size_w + more_w
    products = piece_h * piece_w
    product = conv_tile(1, columns, vectors, vector, 4, ahead, False)
    product_last = conv_tile(1, columns, last, vector, 4, ahead, False) if last != vectors else product
    transform_input = _input_transform((piece_h, piece_w), points)
    transform_output = _output_transform((piece_h, piece_w), size, points)
    activate = activation_loop(activation, size_w * lanes)
    odd = last != vectors

    @device
    def transform_block(p, image, begin, end, v, edge):
        """Transform the input of tiles [begin, end) of an image to v[products][blocks][tiles][lanes]."""
        blocks, plane, v_step = arg(p, 0), arg(p, 1), arg(p, 42)
        across, x_block, x_row = arg(p, 22), arg(p, 28), arg(p, 29)
        rows, width = arg(p, 39) + more_h, arg(p, 40) + more_w
        x = arg(p, 15) + image * arg(p, 25)
        for block in range(blocks):
            for tile in range(begin, end):
                h, w = tile // across * size_h, tile % across * size_w
                source = x + block * x_block + h * x_row + w * vector
                goal = v + block * plane + (tile - begin) * vector
                tall, wide = min(piece_h, rows - h), min(piece_w, width - w)
                if tall < piece_h or wide < piece_w:
                    fill_bytes(edge, 0, products * vector)
                    for i in range(tall):
                        copy_bytes(edge + i * piece_w * vector, source + i * x_row, wide * vector)
                    transform_input(edge, piece_w * vector, goal, v_step)
                else:
                    transform_input(source, x_row, goal, v_step)

    @device
    def finish_block(p, image, begin, end, block, m, edge):
        """Transform the products of one block of channels back and store them."""
        m_step, across = arg(p, 43), arg(p, 22)
        y_row, r_row, r_pixel = arg(p, 36), arg(p, 38), arg(p, 30)
        height, width = arg(p, 39), arg(p, 40)
        y = arg(p, 17) + image * arg(p, 26) + block * arg(p, 35)
        r = arg(p, 18) + image * arg(p, 27) + block * arg(p, 37)
        b = arg(p, 19) + block * vector
        alpha, beta = arg_float(p, 31), arg_float(p, 32)
        ends = p + LOW * 8
        for tile in range(begin, end):
            h, w = tile // across * size_h, tile % across * size_w
            source = m + (tile - begin) * vector
            goal = y + h * y_row + w * vector
            more = r + h * r_row + w * r_pixel
            tall, wide = min(size_h, height - h), min(size_w, width - w)
            if tall < size_h or wide < size_w:
                held = edge + size_h * size_w * vector
                if r_pixel != 0:
                    for i in range(tall):
                        copy_bytes(held + i * size_w * vector, more + i * r_row, wide * vector)
                    transform_output(source, m_step, edge, size_w * vector, held, size_w * vector, b, ends)
                else:
                    transform_output(source, m_step, edge, size_w * vector, more, r_row, b, ends)
                activate(edge, size_h, 1, size_w * vector, 0, alpha, beta)
                for i in range(tall):
                    copy_bytes(goal + i * y_row, edge + i * size_w * vector, wide * vector)
            else:
                transform_output(source, m_step, goal, y_row, more, r_row, b, ends)
                activate(goal, size_h, 1, y_row, 0, alpha, beta)

    def kernel(p, begin, end, thread):
        groups, tile_blocks, tiles = arg(p, 20), arg(p, 21), arg(p, 22) * arg(p, 23)
        v = arg(p, 33) + thread * arg(p, 34)
        v_step, m_step, m_block = arg(p, 42), arg(p, 43), arg(p, 8)
        m = v + products * v_step
        edge = m + products * m_step
        w_group, depth = arg(p, 41), arg(p, 0) * lanes
        ready = -1
        for unit in range(begin, end):
            group, at = unit % groups, unit // groups
            image, block = at // tile_blocks, at % tile_blocks
            first, stop = tiles * block // tile_blocks, tiles * (block + 1) // tile_blocks
            if at != ready:
                transform_block(p, image, first, stop, v, edge)
                ready = at
            final = odd and group == groups - 1
            width = last if final else vectors
            w = arg(p, 16) + group * w_group
            for xi in range(products):
                tile = 0
                soon = w + depth * width * vector
                while tile < stop - first:
                    tile = min(tile, stop - first - columns)
                    x = v + xi * v_step + tile * vector
                    y = m + xi * m_step + tile * vector
                    if final:
                        product_last(p, x, w, y, y, y, soon)
                    else:
                        product(p, x, w, y, y, y, soon)
                    tile += columns
                    soon += depth // 4 * ahead * LINE
                w += depth * width * vector
            for k in range(width):
                finish_block(p, image, first, stop, group * vectors + k, m + k * m_block, edge)

    return kernel


def _input_transform(piece: tuple[int, int], points: tuple[float, ...]) -> Any:
    """Return `transform(x, x_row, v, v_step)`: all vectors of a piece, to be `v_step` bytes apart."""
    height, width = piece

    @intrinsic
    def emit(context, x, x_row, v, v_step):
        def generate(ctx, builder, signature, values):
            vectors = Vectors(builder)
            x, x_row, v, v_step = values
            rows = [x]
            for _ in range(1, height):
                rows.append(builder.add(rows[-1], x_row))
            columns = [
                _forward(vectors, [vectors.load(row, j * vectors.nbytes) for row in rows], points)
                for j in range(width)
            ]
            for i in range(height):
                for value in _forward(vectors, [column[i] for column in columns], points):
                    vectors.store(value, v)
                    v = builder.add(v, v_step)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    @device
    def transform(x, x_row, v, v_step):
        emit(x, x_row, v, v_step)

    return transform


def _output_transform(piece: tuple[int, int], size: tuple[int, int], points: tuple[float, ...]) -> Any:
    """Return `transform(m, m_step, y, y_row, r, r_row, b, ends)`: products to `size` vectors.

    `b` is the address of the bias, `r` of vectors to add, `ends` of LOW, HIGH and STEPS.
    """
    height, width = piece

    @intrinsic
    def emit(context, m, m_step, y, y_row, r, r_row, b, ends):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder)
            m, m_step, y, y_row, r, r_row, b, ends = values
            low, high = (
                v.splat(builder.fptrunc(builder.load(v.pointer(ends, 8 * i, element=F64)), F32))
                for i in range(2)
            )
            steps = builder.load(v.pointer(ends, 16, element=I64))
            columns = []
            row_step = v.mul(m_step, width)
            for j in range(width):
                at = builder.add(m, v.mul(m_step, j))
                column = []
                for _ in range(height):
                    column.append(v.load(at))
                    at = builder.add(at, row_step)
                columns.append(_backward(v, column, size[0], points))
            bias = v.load(b)
            results = []
            for i in range(size[0]):
                results += _backward(v, [column[i] for column in columns], size[1], points)
            results = [builder.fadd(value, bias) for value in results]

            def lines(base: Any, step: Any) -> list[tuple[Any, int]]:
                starts = [builder.add(base, v.mul(step, i)) for i in range(size[0])]
                return [(start, j * v.nbytes) for start in starts for j in range(size[1])]

            def add(values: list[Any]) -> list[Any]:
                places = lines(r, r_row)
                return [builder.fadd(x, v.load(*place)) for x, place in zip(values, places, strict=True)]

            results = clamp(v, steps, low, high, when(builder, steps, ADD, results, add))
            for value, place in zip(results, lines(y, y_row), strict=True):
                v.store(value, *place)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    @device
    def transform(m, m_step, y, y_row, r, r_row, b, ends):
        emit(m, m_step, y, y_row, r, r_row, b, ends)

    return transform


def _polynomial(v: Vectors, factors: list[float], values: list[Any]) -> Any:
    """Emit the sum of factors times values, from the last, whose factor is 1, to the first."""
    total = values[-1]
    for factor, value in zip(factors[-2::-1], values[-2::-1], strict=True):
        total = v.call("llvm.fmuladd", v.constant(factor), value, total)
    return total


def _expanded(roots: list[float]) -> list[float]:
    """Return the coefficients of the product of all (z - root), that of the highest power last."""
    factors = [1.0]
    for root in roots:
        factors = [up - root * same for up, same in zip([0.0, *factors], [*factors, 0.0], strict=True)]
    return factors


def _forward(v: Vectors, d: list[Any], points: tuple[float, ...]) -> list[Any]:
    """Emit B'd: the coefficients of prod (z - point) without one of the finite points, of all for infinity.

    In powers of z**2, for all points but 0 come in pairs.
    """
    if len(d) == 1:
        return d
    squares = [a * a for a in points]
    everything = _expanded(squares)
    results = [_polynomial(v, everything, d[0:-1:2])]
    for a in points:
        rest = _expanded([square for square in squares if square != a * a])
        even, odd = _polynomial(v, rest, d[2::2]), _polynomial(v, rest, d[1:-1:2])
        results += [_polynomial(v, [factor, 1.0], [odd, even]) for factor in (a, -a)]
    return [*results, _polynomial(v, everything, d[1::2])]


def _backward(v: Vectors, m: list[Any], size: int, points: tuple[float, ...]) -> list[Any]:
    """Emit A'm: output k is the sum of the products times the k-th power of their points."""
    if len(m) == 1:
        return m
    b = v.builder
    pairs = list(zip(m[1:-1:2], m[2:-1:2], strict=True))
    sums = [b.fadd(x, y) for x, y in pairs], [b.fsub(x, y) for x, y in pairs]
    results = []
    for k in range(size):
        values = sums[k % 2]
        total = b.fadd(m[0], values[0]) if k == 0 else values[0]
        for a, value in zip(points[1:], values[1:], strict=True):
            total = v.call("llvm.fmuladd", v.constant(a**k), value, total)
        results.append(b.fadd(total, m[-1]) if k == size - 1 else total)
    return results
