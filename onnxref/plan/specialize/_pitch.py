"""Which tensors lie as a range of a wider one's channels, so that Concat and Split copy nothing.

A tensor with the channels last that lies in another one has its pitch: channels of others lie between its
pixels. Where ops say that a tensor is a range of another one's channels (`ChannelRange`), it is put there.

Rules
    1. A tensor may lie in another one if an op of the block makes it, the ops that make and read it take
       pitches, and it does not go outside.
    2. A tensor with all that lies in it goes into the other one, if the other one holds the same channels
       there: those of the same operands, looked at through every Concat and Split.
    3. Offsets and pitches are multiples of 16 bytes, or what reads and writes would slow down.

By rule 2 memory in the outermost tensor only ever holds what that tensor will hold there: whoever shares it
may be read and written at any time while the outermost tensor's memory is alive.
"""

from __future__ import annotations

from collections.abc import Collection

from ...lowering import ACCESS, ChannelRange, ChannelsLast, Op, Operand, Place
from ..passes import Block
from ._layout import Rule

# Channels as ranges (operand, first, count) of what neither Concat nor Split made.
_Content = tuple[tuple[Operand, int, int], ...]


def assign_pitches(block: Block, rule: Rule, banned: Collection[Op]) -> None:
    """Give the operands of a block places in each other, and the pitches that these have.

    Args:
        rule: how an op can use blocks.
        banned: ops that take no pitch, because their lowering refused it.
    """
    ranges, free = _look(block, rule, banned)
    if not ranges:
        return
    held = _Held(free)
    for op, found in ranges:
        held.learn(op, found)
    for _, found in ranges:
        for one in found:
            held.join(one)
    held.assign()


def _look(
    block: Block, rule: Rule, banned: Collection[Op]
) -> tuple[list[tuple[Op, list[ChannelRange]]], set[Operand]]:
    """Return the ranges that ops tell of, and the operands that may lie in others (rule 1)."""
    ranges: list[tuple[Op, list[ChannelRange]]] = []
    made: set[Operand] = set()
    bound = set(block.outputs)
    for op in block.ops:
        lying = [x for x in (*op.inputs, *op.outputs) if x is not None and _is_last(x)]
        if not lying:
            continue
        use = rule(op) if op not in banned else None
        if use is None or not use.pitched:
            bound.update(lying)
        else:
            made.update(y for y in op.outputs if y is not None)
        found = [one for one in use.ranges if _is_last(one.whole)] if use else []
        if found:
            ranges.append((op, found))
    return ranges, made - bound


def _is_last(x: Operand) -> bool:
    return isinstance(x.layout, ChannelsLast) and x.constant is None


class _Held:
    """Where operands lie in each other, in channels."""

    def __init__(self, free: set[Operand]) -> None:
        self._free = free
        self._content: dict[Operand, _Content] = {}
        self._parent: dict[Operand, tuple[Operand, int]] = {}

    def learn(self, op: Op, ranges: list[ChannelRange]) -> None:
        """Take note of what an op's outputs hold."""
        outputs = {y for y in op.outputs if y is not None}
        joined: dict[Operand, list[tuple[Operand, int, int]]] = {}
        for one in ranges:
            if one.part in outputs:
                self._content[one.part] = self._cut(one.whole, one.first, one.part.shape[1])
            else:
                joined.setdefault(one.whole, []).extend(self._of(one.part))
        for whole, pieces in joined.items():
            if sum(count for _, _, count in pieces) == whole.shape[1]:
                self._content[whole] = _merged(pieces)

    def _of(self, x: Operand) -> _Content:
        return self._content.get(x, ((x, 0, x.shape[1]),))

    def _cut(self, x: Operand, first: int, count: int) -> _Content:
        """Return what a range of channels of an operand holds."""
        found, at = [], 0
        for source, begin, length in self._of(x):
            low, high = max(at, first), min(at + length, first + count)
            if low < high:
                found.append((source, begin + low - at, high - low))
            at += length
        return _merged(found)

    def place(self, x: Operand) -> tuple[Operand, int]:
        """Return the outermost operand that one lies in, and its first channel there."""
        first = 0
        while x in self._parent:
            x, further = self._parent[x]
            first += further
        return x, first

    def join(self, one: ChannelRange) -> None:
        """Put the tensors of a range into each other if that can be."""
        inner, first = self.place(one.part)
        outer, begin = self.place(one.whole)
        at = begin + one.first - first
        if inner is outer or one.part.size == 0 or not _is_last(one.part):
            return
        if self._fits(inner, outer, at):
            self._parent[inner] = (outer, at)
        elif self._fits(outer, inner, -at):
            self._parent[outer] = (inner, -at)

    def _fits(self, inner: Operand, outer: Operand, at: int) -> bool:
        """Whether an operand may lie in another one from a channel on (rules 1 to 3)."""
        channels, size = outer.shape[1], outer.dtype.itemsize
        if inner not in self._free or at < 0 or at + inner.shape[1] > channels:
            return False
        if at * size % ACCESS or (channels != inner.shape[1] and channels * size % ACCESS):
            return False
        return self._of(inner) == self._cut(outer, at, inner.shape[1])

    def assign(self) -> None:
        """Set the places and the pitches."""
        for x in self._parent:
            outer, first = self.place(x)
            x.place = Place(outer, first * x.dtype.itemsize)
            x.layout = ChannelsLast(pitch=0 if outer.shape[1] == x.shape[1] else outer.shape[1])


def _merged(pieces: list[tuple[Operand, int, int]]) -> _Content:
    """Join ranges that are neighbours in one operand."""
    made: list[tuple[Operand, int, int]] = []
    for source, first, count in pieces:
        last = made[-1] if made else None
        if last and last[0] is source and last[1] + last[2] == first:
            made[-1] = (source, last[1], last[2] + count)
        elif count:
            made.append((source, first, count))
    return tuple(made)
