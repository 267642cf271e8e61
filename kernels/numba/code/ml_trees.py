"""Kernels that walk decision trees, several at a time: the loads of one hide behind those of the others.

A node is a threshold and a word, 4 bytes each, or 8 bytes each where `wide`:

    bits of the word     0 whether it is a leaf, 1 whether NaN passes the test,
                         up to `bits` the feature's place in a row, the rest the node's first child
                         (wide: bits 0 to 31 and 32 to 63)
    threshold            of a leaf a NaN, whose low bits are the leaf's number

The test is x <= threshold. The second child, right behind the first, is for those who pass. A leaf is
its own first child, and its NaN lets nothing pass: who is there stays.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, F64, I1, I32, I64, access, arg, device, long_as_double, typed_pointer

LANES = 8  # rows or trees that go down together


# --- going down ----------------------------------------------------------------------------------


class _Steps:
    """Emits the way down of all lanes.

    Args:
        x: addresses of the rows; lane i is i elements further where there is only one address.
        scale: what a feature's place is multiplied by.
    """

    def __init__(self, builder, nodes, bits, x, *, wide, by_row, nan):
        self.builder = builder
        self.nodes, self.bits, self.x = nodes, bits, x
        self.wide, self.by_row, self.nan = wide, by_row, nan
        self.number, self.word = (F64, I64) if wide else (F32, I32)
        self.size = 8 if wide else 4

    def node(self, at):
        b = self.builder
        return b.add(self.nodes, b.shl(b.zext(at, I64), I64(4 if self.wide else 3)))

    def step(self, at, lane):
        """Return (the next node, the word of this one)."""
        b = self.builder
        place = self.node(at)
        threshold = b.load(typed_pointer(b, place, 0, self.number), align=self.size)
        word = b.load(typed_pointer(b, place, self.size, self.word), align=self.size)
        if self.wide:
            offset = b.and_(word, I64(0xFFFFFFFC))
            child = b.trunc(b.lshr(word, I64(32)), I32)
        else:
            offset = b.zext(b.and_(word, b.and_(b.not_(b.shl(I32(-1), self.bits)), I32(-4))), I64)
            child = b.lshr(word, self.bits)
        if self.by_row:
            offset = b.mul(offset, I64(LANES))
        value = b.load(
            typed_pointer(b, b.add(self.x, offset), lane * self.size, self.number), align=self.size
        )
        passes = b.fcmp_ordered("<=", value, threshold)
        if self.nan:
            allowed = b.trunc(b.lshr(word, self.word(1)), I1)
            passes = b.or_(passes, b.and_(allowed, b.fcmp_unordered("uno", value, value)))
        return b.add(child, b.zext(passes, I32)), word

    def level(self, lanes):
        """Return the next nodes, and whether all lanes were at leaves."""
        b = self.builder
        following, together = [], None
        for lane, at in enumerate(lanes):
            goal, word = self.step(at, lane if self.by_row else 0)
            following.append(goal)
            together = word if together is None else b.and_(together, word)
        return following, b.trunc(together, I1)

    def fixed(self, count, lanes):
        """Take `count` levels, which may be none."""
        return self._loop(lanes, lambda i, _: self.builder.icmp_signed("<", i, count))

    def down(self, lanes):
        """Go on until all lanes are at leaves."""
        return self._loop(lanes, None)

    def _loop(self, lanes, more):
        b = self.builder
        before = b.basic_block
        head = b.function.append_basic_block("head")
        body = b.function.append_basic_block("body") if more else None
        after = b.function.append_basic_block("after")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(I64(0), before)
        held = [b.phi(I32) for _ in lanes]
        for phi, lane in zip(held, lanes, strict=True):
            phi.add_incoming(lane, before)
        if more:
            b.cbranch(more(i, held), body, after)
            b.position_at_end(body)
        following, done = self.level(held)
        i.add_incoming(b.add(i, I64(1)), b.basic_block)
        for phi, lane in zip(held, following, strict=True):
            phi.add_incoming(lane, b.basic_block)
        if more:
            b.branch(head)
        else:
            b.cbranch(done, after, head)
        b.position_at_end(after)
        return held

    def leaf(self, at):
        """Return the number of a leaf."""
        b = self.builder
        low = b.load(typed_pointer(b, self.node(at), 0, I32), align=4)
        return low if self.wide else b.and_(low, I32(0x3FFFFF))


@cache
def _descend_rows(wide: bool, nan: bool):
    """Return an intrinsic that takes the rows of a group down one tree and stores their leaves (int32)."""

    @intrinsic
    def descend(context, nodes, bits, root, levels, group, leaves):
        def generate(ctx, builder, signature, values):
            nodes, bits, root, levels, group, leaves = values
            steps = _Steps(builder, nodes, builder.trunc(bits, I32), group, wide=wide, by_row=True, nan=nan)
            lanes = steps.fixed(levels, [builder.trunc(root, I32)] * LANES)
            for i, at in enumerate(steps.down(lanes)):
                builder.store(steps.leaf(at), typed_pointer(builder, leaves, 4 * i, I32), align=4)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return descend


@cache
def _descend_trees(wide: bool, nan: bool, lanes: int):
    """Return an intrinsic that takes one row down trees and stores the leaves (int32)."""

    @intrinsic
    def descend(context, nodes, bits, roots, x, leaves):
        def generate(ctx, builder, signature, values):
            nodes, bits, roots, x, leaves = values
            steps = _Steps(builder, nodes, builder.trunc(bits, I32), x, wide=wide, by_row=False, nan=nan)
            first = [
                builder.trunc(builder.load(typed_pointer(builder, roots, 16 * i, I64), align=8), I32)
                for i in range(lanes)
            ]
            for i, at in enumerate(steps.down(first)):
                builder.store(steps.leaf(at), typed_pointer(builder, leaves, 4 * i, I32), align=4)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return descend


# --- votes ---------------------------------------------------------------------------------------

_load32, _store32 = access("int32")
_load64, _store64 = access("int64")
_load_score, _store_score = access("float64")


@cache
def _combining(aggregate: str):
    """Return a function that joins two scores; NaN stands for none where the least or greatest counts."""
    if aggregate == "MIN":

        @device
        def combine(held, new):
            return held if held <= new or new != new else new

    elif aggregate == "MAX":

        @device
        def combine(held, new):
            return held if held >= new or new != new else new

    else:

        @device
        def combine(held, new):
            return held + new

    return combine


@cache
def _voting(votes: str, aggregate: str, targets: int, weight: str):
    """Return `vote(scores, leaves, count, step, t, first, target, weights)`.

    It joins what each of `count` leaves says to the scores, which begin `step` scores behind each other.

        votes: "table", weights of all targets; "single", one target per leaf; "list", from `first` on.
        targets: their number where it is known to the compiler, else 0.
    """
    load, _ = access(weight)
    combine = _combining(aggregate)

    @device
    def add(scores, at, value):
        _store_score(scores, at, combine(_load_score(scores, at), np.float64(value)))

    @device
    def from_table(scores, leaves, count, step, t, first, target, weights):
        width = targets if targets else t
        for i in range(count):
            leaf = np.int64(_load32(leaves, i)) * width
            for k in range(width):
                add(scores, i * step + k, load(weights, leaf + k))

    @device
    def from_single(scores, leaves, count, step, t, first, target, weights):
        for i in range(count):
            leaf = np.int64(_load32(leaves, i))
            add(scores, i * step + _load32(target, leaf), load(weights, leaf))

    @device
    def from_list(scores, leaves, count, step, t, first, target, weights):
        for i in range(count):
            leaf = np.int64(_load32(leaves, i))
            for vote in range(_load64(first, leaf), _load64(first, leaf + 1)):
                add(scores, i * step + _load32(target, vote), load(weights, vote))

    return {"table": from_table, "single": from_single, "list": from_list}[votes]


@device
def _fill_scores(scores, count, value):
    for i in range(count):
        _store_score(scores, i, value)


def by_rows(wide: bool, nan: bool, votes: str, aggregate: str, targets: int, weight: str):
    """Kernel for many rows: all trees over a block of rows, one tree after the other. Units: groups of rows.

    Arguments: nodes, bits, trees (root and levels that all its leaves have), number of trees, trees per
    block, features, rows, packed rows, scores (one block), number of targets, first, target, weights,
    scratch, bytes of it, groups per block.
    """
    descend = _descend_rows(wide, nan)
    vote = _voting(votes, aggregate, targets, weight)
    combine = _combining(aggregate)
    start = 0.0 if aggregate == "SUM" else math.nan
    size = 8 if wide else 4

    @device
    def walk(p, scores, scratch, group, groups, rows):
        nodes, bits, trees, count, block = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        stride, t = arg(p, 5) * LANES * size, arg(p, 9)
        packed = arg(p, 7) + group * stride
        part = scratch + 4 * LANES * arg(p, 15)
        _fill_scores(scores, rows * t, start)
        for begin in range(0, count, block):
            _fill_scores(part, rows * t, start)
            for tree in range(begin, min(begin + block, count)):
                root, levels = _load64(trees, 2 * tree), _load64(trees, 2 * tree + 1)
                for i in range(groups):
                    descend(nodes, bits, root, levels, packed + i * stride, scratch + 4 * LANES * i)
                vote(part, scratch, rows, t, t, arg(p, 10), arg(p, 11), arg(p, 12))
            for i in range(rows * t):
                _store_score(scores, i, combine(_load_score(scores, i), _load_score(part, i)))

    def kernel(p, begin, end, thread):
        rows, t, scratch, block = arg(p, 6), arg(p, 9), arg(p, 13) + thread * arg(p, 14), arg(p, 15)
        for group in range(begin, end, block):
            groups = min(block, end - group)
            first = group * LANES
            held = min(groups * LANES, rows - first)
            walk(p, arg(p, 8) + 8 * first * t, scratch, group, groups, held)

    return kernel


def by_trees(wide: bool, nan: bool, votes: str, aggregate: str, targets: int, weight: str):
    """Kernel for few rows: each row down some trees at once. Units: blocks of trees.

    Arguments as of `by_rows`, with plain rows instead of packed ones and scores per block, row, target.
    """
    descend = _descend_trees(wide, nan, LANES)
    descend_one = _descend_trees(wide, nan, 1)
    vote = _voting(votes, aggregate, targets, weight)
    start = 0.0 if aggregate == "SUM" else math.nan
    size = 8 if wide else 4

    def kernel(p, begin, end, thread):
        nodes, bits, trees, count, block = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        features, rows, x, t = arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 9)
        leaves = arg(p, 13) + thread * arg(p, 14)
        for unit in range(begin, end):
            first, last = unit * block, min(unit * block + block, count)
            for row in range(rows):
                scores = arg(p, 8) + 8 * t * (unit * rows + row)
                _fill_scores(scores, t, start)
                place = x + row * features * size
                tree = first
                while tree < last:
                    if tree + LANES <= last:
                        descend(nodes, bits, trees + 16 * tree, place, leaves + 4 * (tree - first))
                        tree += LANES
                    else:
                        descend_one(nodes, bits, trees + 16 * tree, place, leaves + 4 * (tree - first))
                        tree += 1
                vote(scores, leaves, last - first, 0, t, arg(p, 10), arg(p, 11), arg(p, 12))

    return kernel


# --- before and after ----------------------------------------------------------------------------


def pack_rows(dtype: str, wide: bool, lanes: int):
    """Kernel that lays rows in groups, feature by feature, in the type of the comparison.

    Arguments: x, packed rows, rows, features. The last group repeats the last row. Units: groups.
    """
    load, _ = access(dtype)
    kind = np.float64 if wide else np.float32
    _, store = access("float64" if wide else "float32")
    is_float = dtype.startswith("float")

    def kernel(p, begin, end, thread):
        x, packed, rows, features = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        for group in range(begin, end):
            for lane in range(lanes):
                row = min(group * lanes + lane, rows - 1) * features
                goal = group * lanes * features + lane
                for feature in range(features):
                    value = load(x, row + feature)
                    # Integers are compared as float32, whatever their size.
                    narrow = value if is_float else np.float32(value)
                    store(packed, goal + feature * lanes, kind(narrow))

    return kernel


_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10


@device
def exp64(x):
    """exp within 2 ulp, without a branch; what is below 1e-307 becomes 0."""
    held = min(max(x, -708.0), 709.78) if x == x else 0.0
    k = np.rint(held * _LOG2E)
    r = (held - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.6059043836821613e-10
    p = p * r + 2.08767569878681e-09
    p = p * r + 2.505210838544172e-08
    p = p * r + 2.755731922398589e-07
    p = p * r + 2.7557319223985893e-06
    p = p * r + 2.48015873015873e-05
    p = p * r + 0.0001984126984126984
    p = p * r + 0.001388888888888889
    p = p * r + 0.008333333333333333
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666666
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    # In two steps, as 2**1024 is no number.
    half = np.int64(k) >> 1
    scale = long_as_double((half + 1023) << 52) * p * long_as_double((np.int64(k) - half + 1023) << 52)
    scale = 0.0 if x < -708.0 else scale
    scale = math.inf if x > 709.78 else scale
    return scale if x == x else x


NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO, PROBIT = range(5)


@device
def _sigmoid(x):
    tail = exp64(-abs(x))
    return (tail if x < 0 else 1.0) / (1.0 + tail)


@device
def _probit(p):
    x = 2.0 * p - 1.0
    log = math.log((1.0 - x) * (1.0 + x))
    v = 2.0 / (math.pi * 0.147) + log / 2.0
    root = math.sqrt(math.sqrt(v * v - log / 0.147) - v) * math.sqrt(2.0)
    return math.copysign(root, x)


@device
def post_transform(scores, count, kind):
    """Apply a `post_transform` of ai.onnx.ml to a row of float64 scores, in place."""
    if kind == LOGISTIC:
        for i in range(count):
            _store_score(scores, i, _sigmoid(_load_score(scores, i)))
    elif kind == PROBIT:
        for i in range(count):
            _store_score(scores, i, _probit(_load_score(scores, i)))
    elif kind in (SOFTMAX, SOFTMAX_ZERO):
        peak = _load_score(scores, 0)
        for i in range(1, count):
            x = _load_score(scores, i)
            peak = x if x > peak or x != x else peak
        total = 0.0
        if kind == SOFTMAX:
            for i in range(count):
                _store_score(scores, i, exp64(_load_score(scores, i) - peak))
            for i in range(count):
                total += _load_score(scores, i)
        else:
            scale = math.exp(-peak)
            for i in range(count):
                x = _load_score(scores, i)
                kept = abs(x) > 1e-7
                weight = exp64(x - peak) if kept else x * scale
                _store_score(scores, i, weight)
                total += weight if kept else 0.0
        for i in range(count):
            _store_score(scores, i, _load_score(scores, i) / total)


@device
def transform_rows(scores, rows, columns, kind):
    """Apply a `post_transform` to rows of float64 scores that follow each other, in place."""
    count = rows * columns
    if kind == LOGISTIC:
        for i in range(count):
            _store_score(scores, i, _sigmoid(_load_score(scores, i)))
    elif kind == SOFTMAX:
        for row in range(rows):
            at = row * columns
            peak = _load_score(scores, at)
            for i in range(at + 1, at + columns):
                x = _load_score(scores, i)
                peak = x if (x > peak) | (x != x) else peak
            for i in range(at, at + columns):
                _store_score(scores, i, _load_score(scores, i) - peak)
        for i in range(count):
            _store_score(scores, i, exp64(_load_score(scores, i)))
        for row in range(rows):
            at, total = row * columns, 0.0
            for i in range(at, at + columns):
                total += _load_score(scores, i)
            for i in range(at, at + columns):
                _store_score(scores, i, _load_score(scores, i) / total)
    elif kind != NONE:
        for row in range(rows):
            post_transform(scores + 8 * row * columns, columns, kind)


@device
def first_of_highest(scores, count):
    """Return what argmax does: NaN counts as highest."""
    best, top = 0, _load_score(scores, 0)
    for i in range(1, count):
        new = _load_score(scores, i)
        # Without a branch: which class wins is hard to predict.
        better = (new > top) | ((new != new) & (top == top))
        best = i if better else best
        top = new if better else top
    return best


@cache
def rounding(score: str):
    """Return a function that rounds a float64 to the type of scores."""
    if score == "float32":

        @device
        def rounded(value):
            return np.float64(np.float32(value))

    else:

        @device
        def rounded(value):
            return value

    return rounded


@cache
def storing(score: str, out: str):
    """Return a store of float64 as `out`, by way of the type of scores."""
    _, store = access(out)
    kind = np.float64 if out == "float64" else np.float32
    rounded = rounding(score)

    @device
    def put(address, index, value):
        store(address, index, kind(rounded(value)))

    return put


def finish(score: str, out: str, aggregate: str, labelled: bool):
    """Kernel that joins the scores of the blocks of trees and makes results of them. Units: rows.

    Arguments: scores, blocks, rows, targets, divisor, base values, transform, how to make two columns
    of the first (0 not, 1 as a probability, 2 as a margin), labels, goal of labels, goal of scores,
    scratch, bytes of it.
    """
    combine, rounded, put = _combining(aggregate), rounding(score), storing(score, out)
    may_be_empty = aggregate != "SUM"

    @device
    def join(p, row, held):
        blocks, rows, t, base = arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 5)
        for k in range(t):
            total = _load_score(arg(p, 0), row * t + k)
            for block in range(1, blocks):
                total = combine(total, _load_score(arg(p, 0), (block * rows + row) * t + k))
            if may_be_empty and total != total:
                total = 0.0
            total /= np.float64(arg(p, 4))
            _store_score(held, k, rounded(total + _load_score(base, k)))

    def kernel(p, begin, end, thread):
        t, columns = arg(p, 3), arg(p, 7)
        held = arg(p, 11) + thread * arg(p, 12)
        for row in range(begin, end):
            join(p, row, held)
            if columns:
                second = _load_score(held, 0)
                _store_score(held, 0, rounded(1.0 - second) if columns == 1 else -second)
                _store_score(held, 1, second)
            if labelled:
                _store64(arg(p, 9), row, _load64(arg(p, 8), first_of_highest(held, t)))
            post_transform(held, t, arg(p, 6))
            for k in range(t):
                put(arg(p, 10), row * t + k, _load_score(held, k))

    return kernel
