"""Winograd convolution of blocked tensors, for 3x3 kernels of stride 1.

F(4x4, 3x3) takes 4 times fewer products than direct convolution, F(2x2, 3x3) 2.25 times fewer; its
transformed weights are 2.25 times smaller than those of the other. A piece of the input, of `size` + 2
rows and columns, is transformed (B'dB), multiplied with transformed weights in as many small matrix
products over the channels as it has elements, and transformed back (A'mA) to `size` x `size` outputs;
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
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
    size: int, columns: int, vectors: int, last: int, lanes: int, ahead: int, activation: str
) -> Any:
    """Return the convolution; a unit is (image, block of tiles, group of channels), the last fastest.

    Args:
        size: rows and columns of the outputs of a tile, 2 or 4.
        columns: tiles that the matrix product takes at once; a block has at least so many.
        vectors: vectors of channels in a group.
        last: vectors in the last group.
        ahead: see `conv_tile`; the weights of a product are fetched during the product before it.
        activation: one that is not a clamp, else "".
    """
    vector = 4 * lanes
    edge_size = size + 2
    products = edge_size * edge_size
    product = conv_tile(1, columns, vectors, vector, 4, ahead, False)
    product_last = conv_tile(1, columns, last, vector, 4, ahead, False) if last != vectors else product
    transform_input = _input_transform(size)
    transform_output = _output_transform(size)
    activate = activation_loop(activation, size * lanes)
    odd = last != vectors

    @device
    def transform_block(p, image, begin, end, v, edge):
        """Transform the input of tiles [begin, end) of an image to v[products][blocks][tiles][lanes]."""
        blocks, plane, v_step = arg(p, 0), arg(p, 1), arg(p, 42)
        across, x_block, x_row = arg(p, 22), arg(p, 28), arg(p, 29)
        rows, width = arg(p, 39) + 2, arg(p, 40) + 2
        x = arg(p, 15) + image * arg(p, 25)
        for block in range(blocks):
            for tile in range(begin, end):
                h, w = tile // across * size, tile % across * size
                source = x + block * x_block + h * x_row + w * vector
                goal = v + block * plane + (tile - begin) * vector
                tall, wide = min(edge_size, rows - h), min(edge_size, width - w)
                if tall < edge_size or wide < edge_size:
                    fill_bytes(edge, 0, products * vector)
                    for i in range(tall):
                        copy_bytes(edge + i * edge_size * vector, source + i * x_row, wide * vector)
                    transform_input(edge, edge_size * vector, goal, v_step)
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
            h, w = tile // across * size, tile % across * size
            source = m + (tile - begin) * vector
            goal = y + h * y_row + w * vector
            more = r + h * r_row + w * r_pixel
            tall, wide = min(size, height - h), min(size, width - w)
            if tall < size or wide < size:
                held = edge + size * size * vector
                if r_pixel != 0:
                    for i in range(tall):
                        copy_bytes(held + i * size * vector, more + i * r_row, wide * vector)
                    transform_output(source, m_step, edge, size * vector, held, size * vector, b, ends)
                else:
                    transform_output(source, m_step, edge, size * vector, more, r_row, b, ends)
                activate(edge, size, 1, size * vector, 0, alpha, beta)
                for i in range(tall):
                    copy_bytes(goal + i * y_row, edge + i * size * vector, wide * vector)
            else:
                transform_output(source, m_step, goal, y_row, more, r_row, b, ends)
                activate(goal, size, 1, y_row, 0, alpha, beta)

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


def _input_transform(size: int) -> Any:
    """Return `transform(x, x_row, v, v_step)`: all vectors of a piece, to be `v_step` bytes apart."""
    forward = {2: _forward2, 4: _forward4}[size]
    count = size + 2

    @intrinsic
    def emit(context, x, x_row, v, v_step):
        def generate(ctx, builder, signature, values):
            vectors = Vectors(builder)
            x, x_row, v, v_step = values
            rows = [x]
            for _ in range(1, count):
                rows.append(builder.add(rows[-1], x_row))
            columns = [
                forward(vectors, [vectors.load(row, j * vectors.nbytes) for row in rows])
                for j in range(count)
            ]
            for i in range(count):
                for value in forward(vectors, [column[i] for column in columns]):
                    vectors.store(value, v)
                    v = builder.add(v, v_step)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    @device
    def transform(x, x_row, v, v_step):
        emit(x, x_row, v, v_step)

    return transform


def _output_transform(size: int) -> Any:
    """Return `transform(m, m_step, y, y_row, r, r_row, b, ends)`: products to `size` x `size` vectors.

    `b` is the address of the bias, `r` of vectors to add, `ends` of LOW, HIGH and STEPS.
    """
    backward = {2: _backward2, 4: _backward4}[size]
    count = size + 2

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
            row_step = v.mul(m_step, count)
            for j in range(count):
                at = builder.add(m, v.mul(m_step, j))
                column = []
                for _ in range(count):
                    column.append(v.load(at))
                    at = builder.add(at, row_step)
                columns.append(backward(v, column))
            bias = v.load(b)
            results = []
            for i in range(size):
                results += backward(v, [column[i] for column in columns])
            results = [builder.fadd(value, bias) for value in results]

            def lines(base: Any, step: Any) -> list[tuple[Any, int]]:
                starts = [builder.add(base, v.mul(step, i)) for i in range(size)]
                return [(start, j * v.nbytes) for start in starts for j in range(size)]

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


def _fused(v: Vectors, factor: float, x: Any, y: Any) -> Any:
    return v.call("llvm.fmuladd", v.constant(factor), x, y)


def _forward2(v: Vectors, d: list[Any]) -> list[Any]:
    """Emit B'd of F(2, 3)."""
    b = v.builder
    return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]


def _backward2(v: Vectors, m: list[Any]) -> list[Any]:
    """Emit A'm of F(2, 3)."""
    b = v.builder
    return [b.fadd(m[0], b.fadd(m[1], m[2])), b.fsub(b.fsub(m[1], m[2]), m[3])]


def _forward4(v: Vectors, d: list[Any]) -> list[Any]:
    """Emit B'd of F(4, 3)."""
    b = v.builder
    even, odd = _fused(v, -4.0, d[2], d[4]), _fused(v, -4.0, d[1], d[3])
    even2, odd2 = b.fsub(d[4], d[2]), b.fsub(d[3], d[1])
    return [
        _fused(v, 4.0, d[0], _fused(v, -5.0, d[2], d[4])),
        b.fadd(even, odd),
        b.fsub(even, odd),
        _fused(v, 2.0, odd2, even2),
        _fused(v, -2.0, odd2, even2),
        _fused(v, 4.0, d[1], _fused(v, -5.0, d[3], d[5])),
    ]


def _backward4(v: Vectors, m: list[Any]) -> list[Any]:
    """Emit A'm of F(4, 3)."""
    b = v.builder
    plus, minus = b.fadd(m[1], m[2]), b.fsub(m[1], m[2])
    plus2, minus2 = b.fadd(m[3], m[4]), b.fsub(m[3], m[4])
    return [
        b.fadd(b.fadd(m[0], plus), plus2),
        _fused(v, 2.0, minus2, minus),
        _fused(v, 4.0, plus2, plus),
        b.fadd(_fused(v, 8.0, minus2, minus), m[5]),
    ]
