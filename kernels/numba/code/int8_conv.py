"""Convolutions of 8-bit integers on blocked tensors: one tile of pixels by output channels at a time.

A pixel of a block holds `LANES` bytes, that is groups of 4 input channels; the weights are packed
[output blocks / 2][input blocks][taps][groups][2 blocks][LANES][4]. Sums are exact.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from onnxref.native.ops import F32, I8, I16, I32, I64, access, arg, copy_bytes, declare, device, float_as_int
from onnxref.native.vectors import Vectors

from .int8_gemm import LANES, Finish, dot4, named, quantize_float32

_load_u8, _store_u8 = access("uint8")
_load_u64, _store_u64 = access("uint64")
_load_f32, _ = access("float32")
_load_i32, _ = access("int32")
_load_i64, _ = access("int64")

# Where the second quantization's parameters lie behind those of `Finish`: factor of the sum, of the
# residual, constant, least, greatest (float32), zero point less the bits of the rounding constant (int32).
SECOND = 64
PACKED = 48  # likewise for packed results: the zero point (float32), the least byte


class Addition:
    """Adds a quantized residual to a quantized result, and quantizes the sum."""

    def __init__(self, v, block, start=SECOND):
        self.v = v
        f = self.f = Vectors(v.builder, F32, v.lanes)
        self.first, self.second, self.constant, self.low, self.high = (
            f.broadcast(block, start + 4 * i) for i in range(5)
        )
        self.offset = v.broadcast(block, start + 20)

    def __call__(self, whole, residual):
        """Emit the sum of an int32 result and of the unsigned bytes at an address."""
        v, f, b = self.v, self.f, self.v.builder
        narrow = ir.VectorType(I8, v.lanes)
        other = b.load(f.pointer(residual, element=narrow), align=1)
        total = f.fma(b.uitofp(b.zext(other, v.type), f.type), self.second, self.constant)
        total = f.fma(b.sitofp(whole, f.type), self.first, total)
        return quantize_float32(v, total, self.low, self.high, self.offset)


@cache
def make_tile(pixels: int, step: int, groups: int, blocks: int, kind: str, edges: bool, residual: bool):
    """Make the convolution of some pixels of a row, for some blocks of output channels.

    Args:
        step: bytes between the inputs of neighbouring pixels.
        groups: groups of 4 channels to read from a pixel of a block.
        kind: see `Finish`; or "packed uint8", "packed int8".
        edges: whether what is added to the sums differs by pixel; `columns` then holds its offsets.
        residual: whether a quantized residual is added.
    """

    @intrinsic
    def tile(context, x, x_block, n_blocks, taps, n_taps, weights, out, y_block, bias, columns, scales, block,
             rest, r_block):  # fmt: skip
        def generate(ctx, builder, signature, values):
            v, b = Vectors(builder, I32), builder
            x, x_block, n_blocks, taps, n_taps, weights, out, y_block, bias, columns, scales, block = values[
                :12
            ]
            rest, r_block = values[12:]
            begins = [v.load(bias, j * v.nbytes) for j in range(blocks)]
            if edges:
                begins = [v.constant(0)] * blocks
            totals = _sums(v, pixels, step, groups, begins, x, x_block, n_blocks, taps, n_taps, weights)
            if edges:
                for i in range(pixels):
                    offset = b.load(v.pointer(columns, 8 * i, element=I64))
                    for j in range(blocks):
                        added = v.load(bias, j * v.nbytes, index=offset)
                        totals[i * blocks + j] = b.add(totals[i * blocks + j], added)
            if kind.startswith("packed"):
                for j in range(blocks):
                    goal = b.add(out, b.mul(y_block, I64(j)))
                    _store_packed(v, totals[j::blocks], scales, j, block, goal, kind == "packed uint8")
                return ctx.get_dummy_value()
            finish = Finish(v, kind, block)
            addition = Addition(v, block) if residual else None
            size = 4 if kind == "int32" else 1
            for j in range(blocks):
                scale = None if kind == "int32" else finish.scales(scales, j)
                goal = b.add(out, b.mul(y_block, I64(j)))
                other = b.add(rest, b.mul(r_block, I64(j)))
                for i in range(pixels):
                    total = totals[i * blocks + j]
                    place = b.add(goal, I64(i * LANES * size))
                    if addition is None:
                        finish.store(total, scale, None, place, 0)
                    else:
                        whole = addition(finish.quantized(total, scale), b.add(other, I64(i * LANES)))
                        v.store(b.trunc(whole, ir.VectorType(I8, v.lanes)), place)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 14), generate

    return tile


def _store_packed(v, totals, scales, j, block, goal, unsigned):
    """Emit the rounding of a block's sums to bytes, four pixels at a time, by instructions that saturate.

    The zero point joins the product before the rounding, and factors are at most 1/2: no overflow.
    """
    b = v.builder
    f = Vectors(b, F32)
    words, octets = ir.VectorType(I16, 32), ir.VectorType(I8, 64)
    scale, zero = f.load(scales, j * f.nbytes), f.broadcast(block, PACKED)
    least = Vectors(b, I8, 64).broadcast(block, PACKED + 4)
    to_int = declare(b, "llvm.x86.avx512.mask.cvtps2dq.512", v.type, [f.type, v.type, I16, I32])
    pack_words = declare(b, "llvm.x86.avx512.packssdw.512", words, [v.type, v.type])
    name = "packuswb" if unsigned else "packsswb"
    pack_bytes = declare(b, f"llvm.x86.avx512.{name}.512", octets, [words, words])
    rounded = []
    for total in totals:
        real = f.fma(b.sitofp(total, f.type), scale, zero)
        rounded.append(b.call(to_int, [real, v.constant(0), I16(-1), I32(4)]))
    # The packing interleaves by quarters of a vector: bring the four bytes of each back together.
    order = ir.Constant(ir.VectorType(I32, 16), [4 * (i % 4) + i // 4 for i in range(16)])
    for i in range(0, len(rounded), 4):
        four = [rounded[min(i + k, len(rounded) - 1)] for k in range(4)]
        pairs = [b.call(pack_words, four[:2]), b.call(pack_words, four[2:])]
        octet = b.call(pack_bytes, pairs)
        below = b.icmp_unsigned("<", octet, least) if unsigned else b.icmp_signed("<", octet, least)
        octet = b.bitcast(b.select(below, least, octet), v.type)
        octet = b.shuffle_vector(octet, octet, order)
        count = min(4, len(rounded) - i)
        if count < 4:
            some = ir.Constant(ir.VectorType(I32, 4 * count), list(range(4 * count)))
            octet = b.shuffle_vector(octet, octet, some)
        b.store(octet, v.pointer(goal, i * LANES, element=octet.type), align=1)


def _sums(v, pixels, step, groups, begins, x, x_block, n_blocks, taps, n_taps, weights):
    """Emit the loops over input blocks and taps; return the sums of each pixel, one vector per block."""
    b, blocks = v.builder, len(begins)

    def of_block(c, held):
        origin = b.add(x, b.mul(x_block, c))

        def of_tap(t, inner):
            place, totals = inner[0], list(inner[1:])
            offset = b.load(v.pointer(taps, index=b.mul(t, I64(8)), element=I64))
            at = b.add(origin, offset)
            for g in range(groups):
                right = [v.load(place, (g * blocks + j) * v.nbytes) for j in range(blocks)]
                for i in range(pixels):
                    left = v.broadcast(at, i * step + 4 * g)
                    for j in range(blocks):
                        totals[i * blocks + j] = dot4(v, totals[i * blocks + j], left, right[j])
            return [b.add(place, I64(groups * blocks * v.nbytes)), *totals]

        return v.loop(n_taps, held, of_tap)

    return v.loop(n_blocks, [weights, *begins * pixels], of_block)[1:]


def direct(pixels: int, step: int, groups: int, blocks: int, kind: str, edges: bool, residual: bool):
    """Convolve; a unit is a piece of a row of an image for some blocks of output channels.

    Where a piece does not divide by the tile the last tile overlaps the one before.
    """
    tile = make_tile(pixels, step, groups, blocks, kind, edges, residual)
    size = 4 if kind == "int32" else 1
    scale_size = 8 if kind == "q64" else 4
    what = (pixels, step, groups, blocks, kind, edges, residual)

    def run(
        x, x_block, n_blocks, taps, n_taps, weights, out, y_block, bias, columns, scales, block, rest, r_block
    ):
        tile(
            x,
            x_block,
            n_blocks,
            taps,
            n_taps,
            weights,
            out,
            y_block,
            bias,
            columns,
            scales,
            block,
            rest,
            r_block,
        )

    run = device(named(run, *what))

    def kernel(p, begin, end, thread):
        x, x_image, x_row, x_block, n_blocks = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        taps, n_taps, weights, weight_bytes = arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8)
        y, y_image, y_row, y_block = arg(p, 9), arg(p, 10), arg(p, 11), arg(p, 12)
        rows, width, pieces, piece = arg(p, 13), arg(p, 14), arg(p, 15), arg(p, 16)
        outs, outs_inner = arg(p, 17), arg(p, 18)
        bias, bias_rows, bias_columns = arg(p, 19), arg(p, 20), arg(p, 21)
        scales, block = arg(p, 22), arg(p, 23)
        r, r_image, r_row, r_block = arg(p, 24), arg(p, 25), arg(p, 26), arg(p, 27)
        places = arg(p, 28) * rows * pieces
        for unit in range(begin, end):
            if outs_inner != 0:
                place = unit // outs
                o = unit - place * outs
            else:
                o = unit // places
                place = unit - o * places
            line = place // pieces
            first = (place - line * pieces) * piece
            n = line // rows
            row = line - n * rows
            stop = min(width, first + piece)
            source = x + n * x_image + row * x_row
            goal = y + n * y_image + row * y_row + o * blocks * y_block
            other = r + n * r_image + row * r_row + o * blocks * r_block
            added = bias + o * (blocks * LANES * 4)
            if edges:
                added += _load_i64(bias_rows, row)
            column = first
            while column < stop:
                at = min(column, width - pixels)
                run(
                    source + at * step,
                    x_block,
                    n_blocks,
                    taps,
                    n_taps,
                    weights + o * weight_bytes,
                    goal + at * (LANES * size),
                    y_block,
                    added,
                    bias_columns + 8 * at,
                    scales + o * (blocks * LANES * scale_size),
                    block,
                    other + at * LANES,
                    r_block,
                )
                column += pixels

    return named(kernel, *what)


def filled():
    """Fill memory with one byte; a unit is 16384 bytes."""

    def kernel(p, begin, end, thread):
        goal, nbytes, value = arg(p, 0), arg(p, 1), arg(p, 2)
        for i in range(begin * 16384, min(nbytes, end * 16384)):
            _store_u8(goal, i, value)

    return kernel


def flipped():
    """Turn the highest bit of every byte: signed to unsigned plus 128. A unit is 8 bytes."""

    def kernel(p, begin, end, thread):
        goal = arg(p, 0)
        for i in range(begin, end):
            _store_u64(goal, i, _load_u64(goal, i) ^ 0x8080808080808080)

    return kernel


# Around convolutions ---------------------------------------------------------------------------------


def _bytes_of(v, address, offset):
    """Emit the load of a vector's worth of unsigned bytes as int32."""
    pointer = v.pointer(address, index=offset, element=ir.VectorType(I8, v.lanes))
    return v.builder.zext(v.builder.load(pointer, align=1), v.type)


@intrinsic
def _add_bytes(context, a, b, y, vectors, block):
    """Add some vectors' worth of quantized bytes."""

    def generate(ctx, builder, signature, values):
        v = Vectors(builder, I32)
        addition = Addition(v, values[4], 0)
        narrow = ir.VectorType(I8, v.lanes)

        def body(i, held):
            offset = v.mul(i, v.lanes)
            whole = addition(_bytes_of(v, values[0], offset), builder.add(values[1], offset))
            builder.store(
                builder.trunc(whole, narrow), v.pointer(values[2], index=offset, element=narrow), align=1
            )
            return []

        v.loop(values[3], [], body)
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


def added():
    """Add quantized tensors; a unit is a row of a block, or a piece of plain tensors."""

    def kernel(p, begin, end, thread):
        a, b, y = arg(p, 0), arg(p, 1), arg(p, 2)
        height, width, chunk, block = arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6)
        a_begin, a_plane, a_row = arg(p, 7), arg(p, 8), arg(p, 9)
        b_begin, b_plane, b_row = arg(p, 10), arg(p, 11), arg(p, 12)
        y_begin, y_plane, y_row = arg(p, 13), arg(p, 14), arg(p, 15)
        pieces = (width + chunk - 1) // chunk
        for unit in range(begin, end):
            line = unit // pieces
            first = (unit - line * pieces) * chunk
            count = min(chunk, width - first)
            plane = line // height
            row = line - plane * height
            left = a + a_begin + plane * a_plane + row * a_row + first
            right = b + b_begin + plane * b_plane + row * b_row + first
            goal = y + y_begin + plane * y_plane + row * y_row + first
            vectors = count // LANES
            if vectors > 0:
                _add_bytes(left, right, goal, vectors, block)
            done = vectors * LANES
            if done < count:
                if count >= LANES:  # again the last ones, which gives the same
                    _add_bytes(left + count - LANES, right + count - LANES, goal + count - LANES, 1, block)
                else:
                    for i in range(count):
                        _store_u8(goal, i, _add_one(_load_u8(left, i), _load_u8(right, i), block))

    return kernel


@device
def _add_one(a, b, block):
    """What `Addition` makes of two numbers."""
    total = fma32(np.float32(b), _load_f32(block, 1), _load_f32(block, 2))
    total = fma32(np.float32(a), _load_f32(block, 0), total)
    low, high = _load_f32(block, 3), _load_f32(block, 4)
    total = total if total > low else low
    total = total if total < high else high
    return float_as_int(np.float32(total + np.float32(12582912.0))) + _load_i32(block, 5)


@intrinsic
def fma32(context, x, y, z):
    """x * y + z, rounded once where the processor can; the same as `Vectors.fma`."""

    def generate(ctx, builder, signature, values):
        return builder.call(declare(builder, "llvm.fma.f32", F32, [F32] * 3), values)

    return types.float32(*[types.float32] * 3), generate


@intrinsic
def _largest_row(context, x, step, y, count, taps, n_taps):
    """The largest of the taps of `count` pixels, byte by byte."""

    def generate(ctx, builder, signature, values):
        x, step, y, count, taps, n_taps = values
        v, b = Vectors(builder, I8, LANES), builder

        def pixel(i, _):
            at = b.add(x, b.mul(i, step))

            def tap(t, held):
                offset = b.load(v.pointer(taps, index=b.mul(t, I64(8)), element=I64))
                value = v.load(at, index=offset)
                return [b.select(b.icmp_unsigned(">", value, held[0]), value, held[0])]

            (largest,) = v.loop(n_taps, [v.constant(0)], tap)
            v.store(largest, y, index=v.mul(i, LANES))
            return []

        v.loop(count, [], pixel)
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def largest():
    """MaxPool of unsigned bytes; a unit is an output row of a block."""

    def kernel(p, begin, end, thread):
        x, x_plane, x_row, x_step = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        y, y_plane, y_row, height, width = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8)
        taps, n_taps = arg(p, 9), arg(p, 10)
        for unit in range(begin, end):
            plane = unit // height
            row = unit - plane * height
            goal = y + plane * y_plane + row * y_row
            _largest_row(x + plane * x_plane + row * x_row, x_step, goal, width, taps, n_taps)

    return kernel


@intrinsic
def _average_plane(context, x, row, height, width, goal, block):
    """Quantized means of a plane of pixels."""

    def generate(ctx, builder, signature, values):
        x, row, height, width, goal, block = values
        v, b = Vectors(builder, I32), builder
        f = Vectors(b, F32)

        def line(i, held):
            at = b.add(x, b.mul(i, row))
            return v.loop(
                width, held, lambda j, inner: [b.add(inner[0], _bytes_of(v, at, v.mul(j, v.lanes)))]
            )

        (total,) = v.loop(height, [v.constant(0)], line)
        mean = f.fma(b.sitofp(total, f.type), f.broadcast(block), f.broadcast(block, 8))
        whole = quantize_float32(
            v, mean, f.broadcast(block, 12), f.broadcast(block, 16), v.broadcast(block, 20)
        )
        narrow = ir.VectorType(I8, v.lanes)
        b.store(b.trunc(whole, narrow), v.pointer(goal, element=narrow), align=1)
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@intrinsic
def _local(context):
    """The address of 64 bytes on the stack."""

    def generate(ctx, builder, signature, values):
        return builder.ptrtoint(cgutils.alloca_once(builder, ir.ArrayType(I8, 64)), I64)

    return types.int64(), generate


def averages():
    """GlobalAveragePool of unsigned bytes; a unit is a block of an image."""

    def kernel(p, begin, end, thread):
        x, x_plane, x_row, height, width = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        y, channels, planes, block = arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8)
        spare = _local()
        for unit in range(begin, end):
            n = unit // planes
            first = (unit - n * planes) * LANES
            _average_plane(x + unit * x_plane, x_row, height, width, spare, block)
            copy_bytes(y + n * channels + first, spare, min(LANES, channels - first))

    return kernel
