"""Native code of attention by softmax over keys, and of rotary embeddings (float32).

Letters: B batch, Hq query heads, Hk key and value heads, D head size, Dv value head size, L lanes.

One unit is a tile of queries of one head. It passes over the keys in stretches of `STRETCH`: scores of the
stretch, their softmax with the maximum so far, and their product with the values, which is scaled down
whenever the maximum grows. So the full matrix of scores never exists. For the product of scores the keys
lie transposed in panels, `[panel][D][panel width]`; where queries are few, keys are read as they are.
Strides are in bytes.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, I32, access, arg, arg_float, copy_bytes, device, fill_bytes
from onnxref.native.vectors import Vectors

from ._math import exp32, tanh32
from .recurrent import LANES, VECTORS, block

STRETCH = 512  # keys whose scores stay in the second cache
DEPTH = 128  # values that stay in the first cache while all rows of a tile pass

_load, _store = access("float32")
_load_byte, _ = access("uint8")
_load_long, _ = access("int64")

_ZERO = types.float32(0)
_ONE = types.float32(1)
_LOWEST = types.float32(float("-inf"))
_FAINTEST = types.float32(-80.0)
_MAGIC = 1.5 * 2**23  # added and taken away, it leaves an integer; its bits hold that integer
_MAGIC_BITS = 0x4B400000
# (exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2, from the highest power on (error 3.3e-9 of exp)
_EXP = [
    float(np.float32(c))
    for c in (
        0.0013813144760206342,
        0.008369418792426586,
        0.04166845604777336,
        0.16666515171527863,
        0.4999999403953552,
    )
]


def heights(vectors: int) -> tuple[int, int]:
    """Return the rows of the two larger tiles of products that are some vectors wide."""
    high = min(12, (24 if VECTORS == 8 else 12) // vectors)  # what fits into the vector registers
    return high, 2 if high < 8 else 4


# Keys -----------------------------------------------------------------------------------------


@intrinsic
def _transpose(context, goal, goal_stride, source, source_stride, scale):
    """Put L rows of L elements, times `scale`, as columns."""

    def generate(ctx, builder, signature, values):
        goal, goal_stride, source, source_stride, scale = values
        v = Vectors(builder, F32, LANES)
        factor = v.splat(scale)

        def row(base, stride, i):
            return builder.add(base, builder.mul(stride, ir.Constant(stride.type, i))) if i else base

        rows = [builder.fmul(v.load(row(source, source_stride, i)), factor) for i in range(LANES)]
        side = 1
        while side < LANES:  # swap the off-diagonal squares of `side`
            upper = [j if not j & side else LANES + (j ^ side) for j in range(LANES)]
            lower = [j | side if not j & side else LANES + j for j in range(LANES)]
            kind = ir.VectorType(I32, LANES)
            for i in range(LANES):
                if not i & side:
                    a, b = rows[i], rows[i | side]
                    rows[i] = builder.shuffle_vector(a, b, ir.Constant(kind, upper))
                    rows[i | side] = builder.shuffle_vector(a, b, ir.Constant(kind, lower))
            side *= 2
        for i in range(LANES):
            v.store(rows[i], row(goal, goal_stride, i))
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32), generate


def pack_keys():
    """Kernel that puts keys, times `scale`, into panels; one unit is a panel of a head."""

    def kernel(p, begin, end, thread):
        goal, source, batch_step, head_step, step = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        heads, keys, size, width, panels = arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8), arg(p, 9)
        scale = types.float32(arg_float(p, 10))
        for unit in range(begin, end):
            head = unit // panels
            first = (unit - head * panels) * width
            b = head // heads
            origin = source + b * batch_step + (head - b * heads) * head_step + first * step
            place = goal + 4 * unit * size * width
            for at in range(0, width, LANES):
                count = min(LANES, keys - first - at)
                d = 0
                if count == LANES:
                    while d + LANES <= size:
                        _transpose(
                            place + 4 * (d * width + at), 4 * width, origin + at * step + 4 * d, step, scale
                        )
                        d += LANES
                while d < size:
                    for j in range(LANES):
                        value = _load(origin + (at + j) * step, d) * scale if j < count else _ZERO
                        _store(place, d * width + at + j, value)
                    d += 1

    return kernel


def concatenate():
    """Kernel that puts cached rows and new ones behind each other `(B, Hk, S, D)`; one unit is a head."""

    def kernel(p, begin, end, thread):
        goal, past, source, batch_step, head_step, step = (
            arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5))  # fmt: skip
        heads, cached, rows, row_bytes = arg(p, 6), arg(p, 7), arg(p, 8), arg(p, 9)
        for unit in range(begin, end):
            b = unit // heads
            place = goal + unit * (cached + rows) * row_bytes
            copy_bytes(place, past + unit * cached * row_bytes, cached * row_bytes)
            place += cached * row_bytes
            origin = source + b * batch_step + (unit - b * heads) * head_step
            for i in range(rows):
                copy_bytes(place + i * row_bytes, origin + i * step, row_bytes)

    return kernel


@intrinsic
def _four_dots(context, goal, query, keys, step, vectors, tail):
    """Store four products of a query, `vectors` long (at least 1) plus `tail` elements, with rows of keys."""

    def generate(ctx, builder, signature, values):
        goal, query, keys, step, vectors, tail = values
        v = Vectors(builder, F32, LANES)
        rows = [builder.add(keys, builder.mul(step, ir.Constant(step.type, i))) for i in range(4)]

        def body(i, held):
            offset = v.mul(i, v.nbytes)
            left = v.load(query, index=offset)
            return [v.fma(left, v.load(row, index=offset), h) for row, h in zip(rows, held, strict=True)]

        sums = v.loop(vectors, [v.constant(0.0)] * 4, body)
        mask = v.mask(tail)
        last = v.mul(vectors, v.nbytes)
        left = v.load_masked(mask, query, index=last)
        for i, row in enumerate(rows):
            total = v.fma(left, v.load_masked(mask, row, index=last), sums[i])
            scalar = v.sum(total)
            pointer = v.pointer(goal, offset=4 * i, element=F32)
            builder.store(scalar, pointer, align=4)
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


# Rows of scores -------------------------------------------------------------------------------


@intrinsic
def _row_max(context, row, vectors):
    """Largest element of a row of `vectors` vectors; NaN is passed over."""

    def generate(ctx, builder, signature, values):
        v = Vectors(builder, F32, LANES)
        lowest = v.constant(float("-inf"))

        def body(i, held):
            return [v.maximum(held[0], v.load(values[0], index=v.mul(i, v.nbytes)))]

        (best,) = v.loop(values[1], [lowest], body)
        side = LANES // 2
        while side:
            order = [(j + side) % LANES for j in range(LANES)]
            other = builder.shuffle_vector(best, best, ir.Constant(ir.VectorType(I32, LANES), order))
            best = v.maximum(best, other)
            side //= 2
        return builder.extract_element(best, I32(0))

    return types.float32(types.int64, types.int64), generate


@intrinsic
def _exponentials(context, row, vectors, shift):
    """Replace x by exp(x - shift), 0 below exp(-80); return the sum. x - shift is never above 0.

    Denormal numbers cost a hundred cycles each; none come up. Within 1 ulp elsewhere.
    """

    def generate(ctx, builder, signature, values):
        v = Vectors(builder, F32, LANES)
        ints = Vectors(builder, I32, LANES)
        shift, magic, least = v.splat(values[2]), v.constant(_MAGIC), v.constant(-80.0)

        def body(i, held):
            place = v.mul(i, v.nbytes)
            x = builder.fsub(v.load(values[0], index=place), shift)
            is_faint = builder.fcmp_ordered("<", x, least)
            x = builder.select(is_faint, least, x)
            shifted = v.fma(x, v.constant(1.4426950408889634), magic)
            n = builder.fsub(shifted, magic)
            r = v.fma(n, v.constant(-0.693359375), x)
            r = v.fma(n, v.constant(2.12194440e-4), r)
            p = v.constant(_EXP[0])
            for coefficient in _EXP[1:]:
                p = v.fma(p, r, v.constant(coefficient))
            p = builder.fadd(v.fma(p, builder.fmul(r, r), r), v.constant(1.0))
            exponent = builder.add(builder.bitcast(shifted, ints.type), ints.constant(127 - _MAGIC_BITS))
            power = builder.bitcast(builder.shl(exponent, ints.constant(23)), v.type)
            y = builder.select(is_faint, v.constant(0.0), builder.fmul(p, power))
            v.store(y, values[0], index=place)
            return [builder.fadd(held[0], y)]

        (total,) = v.loop(values[1], [v.constant(0.0)], body)
        return v.sum(total)

    return types.float32(types.int64, types.int64, types.float32), generate


@device
def _add_bias(row, mask, step, count):
    """Add a bias; `step` is 0 where one element serves the row. What -infinity hides may be NaN."""
    if step == 0:
        bias = _load(mask, 0)
        for j in range(count):
            _store(row, j, _LOWEST if bias == _LOWEST else _load(row, j) + bias)
    else:
        for j in range(count):
            bias = _load(mask, j)
            _store(row, j, _LOWEST if bias == _LOWEST else _load(row, j) + bias)


@device
def _fill_hidden(row, mask, step, count, fill, hides):
    """Put `fill` where a bool mask equals `hides`; `step` as above."""
    if step == 0:
        if _load_byte(mask, 0) == hides:
            for j in range(count):
                _store(row, j, fill)
    else:
        for j in range(count):
            score = _load(row, j)
            _store(row, j, fill if _load_byte(mask, j) == hides else score)


@device
def _cap(row, width, cap):
    for j in range(width):
        _store(row, j, cap * tanh32(_load(row, j) / cap))


@device
def _weight(x):
    """exp(x) for x up to 0, and 0 below exp(-80)."""
    y = exp32(_FAINTEST if x < _FAINTEST else x)
    return _ZERO if x < _FAINTEST else y


@device
def _hide(row, first, width):
    for j in range(first, width):
        _store(row, j, _LOWEST)


@device
def _rescale(row, width, factor):
    for j in range(width):
        _store(row, j, factor * _load(row, j))


@device
def _finish(goal, row, count, factor):
    for j in range(count):
        _store(goal, j, factor * _load(row, j))


# Tiles of queries -----------------------------------------------------------------------------

(
    Q, K, V, MASK, Y, MEMORY, MEMORY_STEP, HEADS, GROUP, QUERIES, KEYS, SIZE, VALUE_SIZE, TILE, OFFSET,
    Q_BATCH, Q_HEAD, Q_STEP, K_BATCH, K_HEAD, K_STEP, V_BATCH, V_HEAD, V_STEP, Y_BATCH, Y_HEAD, Y_STEP,
    MASK_BATCH, MASK_HEAD, MASK_STEP, MASK_KEY, MASK_ITEM, SCALE, CAP, FILL, HIDES, BLIND,
) = range(37)  # fmt: skip


@device
def _direct_scores(p, goal, goal_step, query, query_step, keys, rows, count, width):
    """Scores of a few queries with `count` keys where they lie; elements up to `width` are written."""
    size, step = arg(p, SIZE), arg(p, K_STEP)
    scale = types.float32(arg_float(p, SCALE))
    vectors = size // LANES
    tail = size - vectors * LANES
    for i in range(rows):
        row, left = goal + i * goal_step, query + i * query_step
        j = 0
        if vectors > 0:
            while j + 4 <= count:
                _four_dots(row + 4 * j, left, keys + j * step, step, vectors, tail)
                j += 4
        while j < count:
            total = _ZERO
            for d in range(size):
                total += _load(left, d) * _load(keys + j * step, d)
            _store(row, j, total)
            j += 1
        for at in range(count):
            _store(row, at, scale * _load(row, at))


def attend(key_vectors: int, value_vectors: int, direct: bool):
    """Kernel of attention; one unit is (batch, head, tile of queries).

    Args:
        key_vectors: width of a panel of keys.
        value_vectors: width of a piece of a value that one product makes.
        direct: whether keys are read where they lie; else K is the address of their panels.
    """
    panel_width = key_vectors * LANES
    piece_width = value_vectors * LANES
    stretch = max(1, STRETCH // panel_width) * panel_width
    pitch = stretch + LANES  # rows a power of two apart would share a few places of the first cache
    score = block(key_vectors, *heights(key_vectors))
    gather = block(value_vectors, *heights(value_vectors))

    @device
    def scores(p, goal, query, zeros, head, kv_head, b, first, count, rows):
        """Fill rows of `stretch` scores from key `first` on; return how many elements are written."""
        size = arg(p, SIZE)
        if direct:
            width = (count + LANES - 1) // LANES * LANES
            keys = arg(p, K) + b * arg(p, K_BATCH) + kv_head * arg(p, K_HEAD) + first * arg(p, K_STEP)
            _direct_scores(p, goal, 4 * pitch, query, arg(p, Q_STEP), keys, rows, count, width)
            return width
        panels = (arg(p, KEYS) + panel_width - 1) // panel_width
        kv_heads = arg(p, HEADS) // arg(p, GROUP)
        at = (b * kv_heads + kv_head) * panels + first // panel_width
        wanted = (count + panel_width - 1) // panel_width
        for panel in range(wanted):
            place = arg(p, K) + 4 * (at + panel) * size * panel_width
            score(query, arg(p, Q_STEP), place, 4 * panel_width, zeros, 0,
                  goal + 4 * panel * panel_width, 4 * pitch, size, rows)  # fmt: skip
        return wanted * panel_width

    @device
    def soften(p, row, state, mask_row, first, count, width, visible):
        """Turn a row of scores into exponentials; update (maximum, sum); return the factor for what was."""
        cap, item = types.float32(arg_float(p, CAP)), arg(p, MASK_ITEM)
        if cap != _ZERO:
            _cap(row, width, cap)
        if item == 4:
            _add_bias(row, mask_row, arg(p, MASK_KEY), count)
        elif item == 1:
            fill = types.float32(arg_float(p, FILL))
            _fill_hidden(row, mask_row, arg(p, MASK_KEY), count, fill, arg(p, HIDES))
        _hide(row, min(count, max(0, visible - first)), width)
        before = _load(state, 0)
        best = _row_max(row, width // LANES)
        best = before if before > best else best
        shift = _ZERO if best == _LOWEST else best
        total = _exponentials(row, width // LANES, shift)
        factor = _ZERO if first == 0 else _weight(before - shift)
        _store(state, 0, best)
        _store(state, 1, _load(state, 1) * factor + total)
        return factor

    @device
    def weigh(p, output, weights, zeros, values, count, rows, is_first, width):
        """Add to `output` the weights times `count` values."""
        step = arg(p, V_STEP)
        for done in range(0, count, DEPTH):
            depth = min(DEPTH, count - done)
            for at in range(0, width, piece_width):
                start, start_step = output + 4 * at, 4 * width
                if is_first and done == 0:
                    start, start_step = zeros, 0
                gather(weights + 4 * done, 4 * pitch, values + done * step + 4 * at, step,
                       start, start_step, output + 4 * at, 4 * width, depth, rows)  # fmt: skip

    def kernel(p, begin, end, thread):
        heads, queries, tile = arg(p, HEADS), arg(p, QUERIES), arg(p, TILE)
        tiles = (queries + tile - 1) // tile
        value_size = arg(p, VALUE_SIZE)
        width = (value_size + piece_width - 1) // piece_width * piece_width
        weights = arg(p, MEMORY) + thread * arg(p, MEMORY_STEP)
        output = weights + 4 * tile * pitch
        states = output + 4 * tile * width
        zeros = states + 8 * tile
        fill_bytes(zeros, 0, 4 * max(width, panel_width))
        for unit in range(begin, end):
            index = unit // tiles
            row = (unit - index * tiles) * tile
            rows = min(tile, queries - row)
            b = index // heads
            head = index - b * heads
            kv_head = head // arg(p, GROUP)
            query = arg(p, Q) + b * arg(p, Q_BATCH) + head * arg(p, Q_HEAD) + row * arg(p, Q_STEP)
            values = arg(p, V) + b * arg(p, V_BATCH) + kv_head * arg(p, V_HEAD)
            mask_rows = arg(p, MASK) + b * arg(p, MASK_BATCH) + head * arg(p, MASK_HEAD)
            keys = arg(p, KEYS)
            limit = keys if arg(p, OFFSET) < 0 else min(keys, arg(p, OFFSET) + row + rows)
            for i in range(rows):
                _store(states, 2 * i, _LOWEST)
                _store(states, 2 * i + 1, _ZERO)
            for first in range(0, limit, stretch):
                count = min(stretch, limit - first)
                wide = scores(p, weights, query, zeros, head, kv_head, b, first, count, rows)
                for i in range(rows):
                    visible = keys if arg(p, OFFSET) < 0 else arg(p, OFFSET) + row + i + 1
                    mask_row = mask_rows + (row + i) * arg(p, MASK_STEP) + first * arg(p, MASK_KEY)
                    place = weights + 4 * i * pitch
                    factor = soften(p, place, states + 8 * i, mask_row, first, count, wide, visible)
                    if first > 0:
                        _rescale(output + 4 * i * width, width, factor)
                weigh(
                    p, output, weights, zeros, values + first * arg(p, V_STEP), count, rows, first == 0, width
                )
            for i in range(rows):
                total = _load(states, 2 * i + 1)
                goal = arg(p, Y) + b * arg(p, Y_BATCH) + head * arg(p, Y_HEAD) + (row + i) * arg(p, Y_STEP)
                # The sum is 0 where no key is visible, NaN where there is one among the scores.
                if (total == _ZERO and arg(p, BLIND) != 1) or (total != total and arg(p, BLIND) == 2):
                    fill_bytes(goal, 0, 4 * value_size)
                else:
                    _finish(goal, output + 4 * i * width, value_size, _ONE / total)

    return kernel


def pad_values():
    """Kernel that copies values into rows of whole vectors; one unit is a head."""

    def kernel(p, begin, end, thread):
        goal, source, batch_step, head_step, step = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        heads, keys, size, width = arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8)
        for unit in range(begin, end):
            b = unit // heads
            origin = source + b * batch_step + (unit - b * heads) * head_step
            for i in range(keys):
                place = goal + 4 * (unit * keys + i) * width
                fill_bytes(place + 4 * size, 0, 4 * (width - size))
                copy_bytes(place, origin + i * step, 4 * size)

    return kernel


# Rotary embeddings ----------------------------------------------------------------------------


def rotate(interleaved: bool):
    """Kernel of rotary embeddings; one unit is a token (batch, step). Strides of X and Y are the same."""

    def kernel(p, begin, end, thread):
        x, cosines, sines, positions, y = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        steps, heads, size, half = arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8)
        batch_step, head_step, step = arg(p, 9), arg(p, 10), arg(p, 11)
        for unit in range(begin, end):
            b = unit // steps
            t = unit - b * steps
            row = unit if positions == 0 else _load_long(positions, unit)
            cosine, sine = cosines + 4 * row * half, sines + 4 * row * half
            for head in range(heads):
                offset = b * batch_step + head * head_step + t * step
                origin, goal = x + offset, y + offset
                if interleaved:
                    for j in range(half):
                        _turn(origin, goal, 2 * j, 2 * j + 1, _load(cosine, j), _load(sine, j))
                else:
                    for j in range(half):
                        _turn(origin, goal, j, half + j, _load(cosine, j), _load(sine, j))
                copy_bytes(goal + 8 * half, origin + 8 * half, 4 * (size - 2 * half))

    return kernel


@device
def _turn(origin, goal, first, second, cosine, sine):
    real, imaginary = _load(origin, first), _load(origin, second)
    _store(goal, first, cosine * real - sine * imaginary)
    _store(goal, second, sine * real + cosine * imaginary)
