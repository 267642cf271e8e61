"""NonMaxSuppression, class by class: candidates best first, each against the boxes that were kept before it.

A score has a rank, an int32 that is smaller for what comes first: that of the larger score; NaN comes
last. Candidates are sorted in rounds, the best ones first, because most classes reach their limit long
before the last candidate: a sample of the ranks says where to cut. Boxes that are kept lie as five planes
(lower corner, upper corner, area), so that one vector compares a candidate with a vector of them.

The arithmetic is that of the reference, operation by operation, so nothing here may be fused.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import int32, int64, types
from numba.extending import intrinsic

from onnxref.native._target import target
from onnxref.native.ops import I1, I32, I64, access, arg, called, float_as_int
from onnxref.native.vectors import Vectors

_LANES = target().lanes
_SAMPLE = 256  # ranks that are looked at to find where to cut
_SMALL = 24  # keys that are sorted by insertion
_FIRST, _LAST = -(2**31), 2**31 - 1  # ranks; only NaN has the last one
_SIGN = -(2**63)
_NAN = np.float32(np.nan)

# Numba would pass on the caller's `fastmath` if it were not given.
strict = called(forceinline=True, fastmath=False)
_strict_call = called(inline="never", fastmath=False)

_float_at, _put_float = access("float32")
_int_at, _put_int = access("int32")
_key_at, _put_key = access("int64")


# --- ranks ---------------------------------------------------------------------------------------


@strict
def _rank(score):
    bits = float_as_int(score + np.float32(0))  # -0 becomes +0
    rank = ~int64(bits ^ int32(int32(bits >> int32(31)) & int32(0x7FFFFFFF)))
    return int64(_LAST) if score != score else rank


@intrinsic
def _between(context, row, i, n, first, last):
    """The scores of a row from i on, a vector of them, as bits: whether the rank is in [first, last]."""

    def generate(ctx, builder, signature, values):
        row, i, n, first, last = values
        b, v, ints = builder, Vectors(builder), Vectors(builder, I32)
        mask = v.mask(b.sub(n, i))
        x = v.load_masked(mask, row, index=v.mul(i, 4))
        bits = b.bitcast(b.fadd(x, v.constant(0.0)), ints.type)
        turned = b.and_(b.ashr(bits, ints.constant(31)), ints.constant(0x7FFFFFFF))
        rank = b.not_(b.xor(bits, turned))
        rank = b.select(b.fcmp_unordered("uno", x, x), ints.constant(_LAST), rank)
        for sign, bound in ((">=", first), ("<=", last)):
            mask = b.and_(mask, b.icmp_signed(sign, rank, ints.splat(b.trunc(bound, I32))))
        return b.zext(b.bitcast(mask, ir.IntType(v.lanes)), I64)

    return types.int64(*[types.int64] * 5), generate


@intrinsic
def _ones(context, bits):
    """How many bits are set."""
    return types.int64(types.int64), lambda ctx, builder, signature, values: builder.ctpop(values[0])


@intrinsic
def _lowest(context, bits):
    """The number of the lowest bit that is set; there must be one."""
    return types.int64(types.int64), lambda ctx, builder, signature, values: builder.cttz(values[0], I1(1))


@_strict_call
def _count(row, n, first, last):
    """How many scores have a rank in [first, last]."""
    total = int64(0)
    for i in range(0, n, _LANES):
        total += _ones(_between(row, i, n, first, last))
    return total


@strict
def _key(row, i):
    """Score i as a key that is smaller for what comes first, whose lower half is i."""
    return (_rank(_float_at(row, i)) << 32) | i


@_strict_call
def _collect(row, n, first, last, keys):
    """Write the keys of scores with a rank in [first, last], in the order of the boxes; return how many."""
    count = int64(0)
    for i in range(0, n, _LANES):
        bits = _between(row, i, n, first, last)
        while bits != 0:
            _put_key(keys, count, _key(row, i + _lowest(bits)))
            count += 1
            bits &= bits - 1
    return count


# --- order ---------------------------------------------------------------------------------------


@strict
def _insert(keys, count):
    """Sort a few keys."""
    for i in range(1, count):
        key = _key_at(keys, i)
        j = i
        while j > 0 and _key_at(keys, j - 1) > key:
            _put_key(keys, j, _key_at(keys, j - 1))
            j -= 1
        _put_key(keys, j, key)


@_strict_call
def _sort(keys, other, count, tables):
    """Sort keys in the order of the boxes by their ranks, with as much memory again; return where they are.

    Counts how often each value of each byte of a rank occurs (4 tables of 256 int32), then deals the keys
    out byte by byte, the lowest first; the sign is turned, so that bytes without it are in order.
    """
    for i in range(4 * 256):
        _put_int(tables, i, int32(0))
    for i in range(count):
        rank = (_key_at(keys, i) ^ _SIGN) >> 32
        for byte in range(4):
            at = 256 * byte + ((rank >> (8 * byte)) & 255)
            _put_int(tables, at, int32(_int_at(tables, at) + int32(1)))
    for byte in range(4):
        table = tables + 1024 * byte
        shift = 32 + 8 * byte
        if int64(_int_at(table, ((_key_at(keys, 0) ^ _SIGN) >> shift) & 255)) == count:
            continue  # all the same
        begin = int32(0)
        for value in range(256):
            size = _int_at(table, value)
            _put_int(table, value, begin)
            begin = int32(begin + size)
        for i in range(count):
            key = _key_at(keys, i)
            value = ((key ^ _SIGN) >> shift) & 255
            place = _int_at(table, value)
            _put_int(table, value, int32(place + int32(1)))
            _put_key(other, int64(place), key)
        keys, other = other, keys
    return keys


@_strict_call
def _ordered(keys, other, count, tables):
    """Sort keys as `_sort`, few of them in their place."""
    if count > _SMALL:
        return _sort(keys, other, count, tables)
    _insert(keys, count)
    return keys


@_strict_call
def _cut(row, n, first, last, wanted, left, keys, other, tables):
    """Return a rank that about `wanted` of the `left` scores with a rank in [first, last] come before.

    There are more left than wanted.
    """
    step = n // _SAMPLE
    count = int64(0)
    for i in range(step // 2, n, step):
        rank = _rank(_float_at(row, i))
        if (rank >= first) & (rank <= last):
            _put_key(keys, count, _key(row, i))
            count += 1
    if count == 0:
        return last
    found = _ordered(keys, other, count, tables)
    return _key_at(found, wanted * count // left) >> 32


# --- boxes ---------------------------------------------------------------------------------------


@strict
def _planes(boxes, box, is_center):
    """Return lower corner, upper corner and area of a box; a NaN anywhere makes the area one."""
    a, b = _float_at(boxes, 4 * box), _float_at(boxes, 4 * box + 1)
    c, d = _float_at(boxes, 4 * box + 2), _float_at(boxes, 4 * box + 3)
    if is_center != 0:
        half_c, half_d = c / np.float32(2), d / np.float32(2)
        a, b, c, d = a - half_c, b - half_d, a + half_c, b + half_d
    else:
        low, high = _smaller(a, c), _larger(a, c)
        left, right = _smaller(b, d), _larger(b, d)
        a, b, c, d = low, left, high, right
    return a, b, c, d, _larger(c - a, np.float32(0)) * _larger(d - b, np.float32(0))


@strict
def _smaller(x, y):
    return x if (x < y) | (x != x) else y


@strict
def _larger(x, y):
    return x if (x > y) | (x != x) else y


@intrinsic
def _is_over(context, kept, stride, at, low, left, high, right, area, threshold):
    """Whether a box overlaps one of a vector of kept boxes, from the byte `at` of each plane, too much.

    A quotient rounds to more than the threshold t only if share >= t * union after rounding, which is
    seldom, so the division is done only then. Where an extent is NaN, so is an area.
    """

    def generate(ctx, builder, signature, values):
        kept, stride, at, *box, area, threshold = values
        b, v = builder, Vectors(builder)
        planes = [v.load(b.add(kept, v.mul(stride, number)), index=at) for number in range(5)]
        low, left, high, right = map(v.splat, box)
        zero, bound = v.constant(0.0), v.splat(threshold)
        height = b.fsub(v.minimum(planes[2], high), v.maximum(planes[0], low))
        width = b.fsub(v.minimum(planes[3], right), v.maximum(planes[1], left))
        share = b.fmul(v.maximum(height, zero), v.maximum(width, zero))
        union = b.fsub(b.fadd(planes[4], v.splat(area)), share)
        maybe = b.and_(b.fcmp_ordered(">=", share, b.fmul(bound, union)), b.fcmp_ordered(">", share, zero))
        lanes = ir.IntType(v.lanes)
        before = b.basic_block
        with b.if_then(b.icmp_unsigned("!=", b.bitcast(maybe, lanes), lanes(0)), likely=False):
            over = b.fcmp_ordered(">", b.fdiv(share, union), bound)
            certain = b.icmp_unsigned("!=", b.bitcast(b.and_(over, maybe), lanes), lanes(0))
            divided = b.basic_block
        found = b.phi(I1)
        found.add_incoming(I1(0), before)
        found.add_incoming(certain, divided)
        return found

    floats = [types.float32] * 6
    return types.boolean(types.int64, types.int64, types.int64, *floats), generate


@_strict_call
def _choose(boxes, is_center, keys, count, threshold, limit, kept, places, goal, n):
    """Go through sorted candidates, the kept ones of which follow n others; return how many there are now."""
    stride = 4 * places
    for i in range(count):
        box = _key_at(keys, i) & int64(0xFFFFFFFF)
        low, left, high, right, area = _planes(boxes, box, is_center)
        over = False
        for at in range(0, 4 * n, 4 * _LANES):
            if _is_over(kept, stride, at, low, left, high, right, area, threshold):
                over = True
                break
        if over:
            continue
        if n % _LANES == 0:
            for j in range(_LANES):  # what overlaps nothing, until there is a box
                _put_float(kept + 4 * stride, n + j, _NAN)
        _put_float(kept, n, low)
        _put_float(kept + stride, n, left)
        _put_float(kept + 2 * stride, n, high)
        _put_float(kept + 3 * stride, n, right)
        _put_float(kept + 4 * stride, n, area)
        _put_int(goal, n, int32(box))
        n += 1
        if n == limit:
            break
    return n


# --- kernels -------------------------------------------------------------------------------------


@strict
def _last_rank(score_threshold):
    """The last rank that passes a threshold, given by its address, 0 for none; NaN lets nothing pass."""
    if score_threshold == 0:
        return int64(_LAST)
    least = _float_at(score_threshold, 0)
    return int64(_FIRST) if least != least else _rank(least)


def suppress():
    """Write the kept boxes of each class, and how many they are.

    Arguments: boxes (B, N, 4), scores (B, C, N), addresses of the thresholds for overlap and score (0: none),
    N, C, the limit of a class (at least 1, at most N), whether boxes are centers and sizes, how many
    candidates to sort first; memory of each thread (4 tables of 256 int32, 2 N keys, 5 planes of so many
    float32), its bytes, these places; goals (B * C, limit) int32 and (B * C,) int64. Units: B * C.
    """

    def kernel(p, begin, end, thread):
        n, classes, limit, is_center = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        tables, places = arg(p, 9) + thread * arg(p, 10), arg(p, 11)
        keys = tables + 4096
        other = keys + 8 * n
        kept = other + 8 * n
        last = _last_rank(arg(p, 3))
        threshold = _float_at(arg(p, 2), 0) if arg(p, 2) != 0 else np.float32(0)
        for pair in range(begin, end):
            boxes = arg(p, 0) + 16 * n * (pair // classes)
            row = arg(p, 1) + 4 * n * pair
            goal = arg(p, 12) + 4 * limit * pair
            left = _count(row, n, _FIRST, last)
            first, wanted, done = int64(_FIRST), arg(p, 8), int64(0)
            while (left > 0) & (done < limit):
                cut = last
                if (left > 2 * wanted) & (n > 4 * _SAMPLE):
                    cut = _cut(row, n, first, last, wanted, left, keys, other, tables)
                count = _collect(row, n, first, cut - 1, keys)
                found = _ordered(keys, other, count, tables)
                # Equals of the last rank are in order as they come.
                count += _collect(row, n, cut, cut, found + 8 * count)
                done = _choose(boxes, is_center, found, count, threshold, limit, kept, places, goal, done)
                left -= count
                first, wanted = cut + 1, 4 * wanted
            _put_key(arg(p, 13), pair, done)

    return kernel


def number():
    """Turn counts into the number of the first row, and write the count of all.

    Arguments: counts (B * C,) int64, address of the threshold for overlap (0: none), goal of one int64
    (0: not wanted), where to report that the threshold is not in [0, 1], B * C. Units: 1.
    """

    def kernel(p, begin, end, thread):
        counts = arg(p, 0)
        if arg(p, 1) != 0:
            threshold = _float_at(arg(p, 1), 0)
            if not ((threshold >= np.float32(0)) & (threshold <= np.float32(1))):
                _put_key(arg(p, 3), 0, int64(1))
        total = int64(0)
        for i in range(arg(p, 4)):
            count = _key_at(counts, i)
            _put_key(counts, i, total)
            total += count
        if arg(p, 4) > 0:
            _put_key(counts, arg(p, 4), total)
        if arg(p, 2) != 0:
            _put_key(arg(p, 2), 0, total)

    return kernel


def gather_rows():
    """Write (batch, class, box) of the kept boxes one behind the other, and zeros behind them.

    Arguments: boxes (B * C, limit) int32, the first rows (B * C + 1,) int64, the last one behind all, goal
    (B * C * limit, 3) int64, B * C, C, limit. Units: B * C, each of which fills as many of the places
    behind the rows as it has places for rows.
    """

    def kernel(p, begin, end, thread):
        found, starts, rows = arg(p, 0), arg(p, 1), arg(p, 2)
        pairs, classes, limit = arg(p, 3), arg(p, 4), arg(p, 5)
        total = _key_at(starts, pairs)
        for pair in range(begin, end):
            batch, class_ = pair // classes, pair % classes
            start = _key_at(starts, pair)
            for i in range(_key_at(starts, pair + 1) - start):
                at = 3 * (start + i)
                _put_key(rows, at, batch)
                _put_key(rows, at + 1, class_)
                _put_key(rows, at + 2, int64(_int_at(found, limit * pair + i)))
            for i in range(3 * max(total, limit * pair), 3 * limit * (pair + 1)):
                _put_key(rows, i, int64(0))

    return kernel
