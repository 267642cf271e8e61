"""Places of tensors that are ranges of others' channels: which lie where, and which may not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest

from onnxref.lowering import (
    NO_PAD,
    BlockedUse,
    ChannelRange,
    ChannelsLast,
    Op,
    Operand,
    Site,
    Unsupported,
)
from onnxref.plan.passes import Block
from onnxref.plan.specialize import Lowered
from onnxref.plan.specialize._pitch import assign_pitches
from onnxref.plan.specialize._roots import Roots

HALF = np.dtype(np.float16)
CHANNELS = 16  # of a tensor, where nothing else is said


def image(name: str, channels: int = CHANNELS) -> Operand:
    return Operand((1, channels, 2, 3), HALF, name, layout=ChannelsLast())


def made(y: Operand, *reads: Operand, kind: str = "Conv") -> Op:
    return Op(kind, list(reads), [y])


def joined(y: Operand, *parts: Operand) -> Op:
    return Op("Concat", list(parts), [y])


def cut(x: Operand, *parts: Operand | None) -> Op:
    return Op("Split", [x], list(parts))


def rule(op: Op) -> BlockedUse | None:
    """Concat, Split and Conv take pitches; of the others nothing is known but that they take no pitch."""
    wholes, parts = (op.outputs, op.inputs) if op.op_type == "Concat" else (op.inputs, op.outputs)
    ranges, first = [], 0
    for part in parts if op.op_type in ("Concat", "Split") else ():
        assert wholes[0] is not None
        if part is not None:
            ranges.append(ChannelRange(wholes[0], part, first))
        first += CHANNELS if part is None else part.shape[1]
    pitched = op.op_type in ("Concat", "Split", "Conv")
    return BlockedUse(dict.fromkeys(range(len(op.inputs)), NO_PAD), pitched=pitched, ranges=tuple(ranges))


def placed(
    ops: Sequence[Op], outputs: Sequence[Operand] = (), banned: Collection[Op] = ()
) -> Mapping[str, tuple[str, int]]:
    """Return the tensor and the channel that each one lies in, by name."""
    assign_pitches(Block(list(ops), [], list(outputs)), rule, banned)
    found = {}
    for y in (y for op in ops for y in op.outputs if y is not None):
        assert isinstance(y.layout, ChannelsLast)
        if y.place is None:
            assert y.layout == ChannelsLast()
            continue
        owner = y.place.owner
        assert owner.place is None
        assert y.layout.pitch == (0 if owner.shape[1] == y.shape[1] else owner.shape[1])
        found[y.name] = (owner.name, y.place.offset // HALF.itemsize)
    return found


x, a, b, c, d = (image(name) for name in "xabcd")


@pytest.fixture(autouse=True)
def as_they_were() -> None:
    for operand in (x, a, b, c, d):
        operand.place, operand.layout, operand.constant = None, ChannelsLast(), None


def test_what_is_joined_lies_in_the_result() -> None:
    y = image("y", 32)
    assert placed([made(a, x), made(b, x), joined(y, a, b)]) == {"a": ("y", 0), "b": ("y", 16)}


def test_what_is_cut_lies_in_its_source() -> None:
    y = image("y", 48)
    ops = [made(y, x), cut(y, a, None, b), made(c, a), made(d, b)]
    assert placed(ops) == {"a": ("y", 0), "b": ("y", 32)}


def test_halves_that_are_joined_again_take_their_whole_along() -> None:
    y, z = image("y", 32), image("z", 48)  # as in YOLO's C2f
    ops = [made(y, x), cut(y, a, b), made(c, b), joined(z, a, b, c)]
    assert placed(ops) == {"y": ("z", 0), "a": ("z", 0), "b": ("z", 16), "c": ("z", 32)}


def test_what_was_joined_is_joined_again() -> None:
    y, z = image("y", 32), image("z", 48)  # as in DenseNet
    ops = [made(a, x), made(b, a), joined(y, a, b), made(c, y), joined(z, a, b, c)]
    assert placed(ops) == {"a": ("z", 0), "b": ("z", 16), "y": ("z", 0), "c": ("z", 32)}


def test_halves_that_change_places_are_not_moved_with_their_whole() -> None:
    y, z = image("y", 32), image("z", 32)
    assert placed([made(y, x), cut(y, a, b), joined(z, b, a)]) == {"a": ("y", 0), "b": ("y", 16)}


def test_what_is_joined_as_it_was_cut_is_the_same_memory() -> None:
    y, z = image("y", 32), image("z", 32)
    found = placed([made(y, x), cut(y, a, b), joined(z, a, b)])
    assert found == {"y": ("z", 0), "a": ("z", 0), "b": ("z", 16)}


def test_a_tensor_lies_in_one_place() -> None:
    y, z = image("y", 32), image("z", 32)
    found = placed([made(a, x), made(b, x), made(c, x), joined(y, a, a), joined(z, b, a)])
    assert found == {"a": ("y", 0), "b": ("z", 0)}


def test_who_takes_no_pitch_sees_none() -> None:
    y, z = image("y", 32), image("z", 32)
    ops = [made(a, x, kind="Softmax"), made(b, x), made(c, b, kind="Softmax"), joined(y, a, b)]
    assert placed(ops) == {}
    assert placed([made(c, x), made(d, x), joined(z, c, d)], outputs=[c]) == {"d": ("z", 16)}


def test_who_refused_pitches_sees_none() -> None:
    y = image("y", 32)
    makers = [made(a, x), made(b, x)]
    assert placed([*makers, joined(y, a, b)], banned=makers[:1]) == {"b": ("y", 16)}


def test_inputs_of_the_block_and_constants_stay_where_they_are() -> None:
    y = image("y", 48)
    b.constant = np.zeros(b.shape, HALF)
    assert placed([made(a, x), joined(y, x, b, a)]) == {"a": ("y", 32)}
    assert placed([joined(c, b)]) == {}


@pytest.mark.parametrize(
    ("first", "other", "found"), [(12, 20, {"l": ("y", 0)}), (8, 20, {}), (0, 16, {"r": ("y", 0)})]
)
def test_places_are_aligned(first: int, other: int, found: Mapping[str, tuple[str, int]]) -> None:
    left, right, y = image("l", first), image("r", other), image("y", first + other)
    assert placed([made(left, x), made(right, x), joined(y, left, right)]) == found


def test_nothing_overwrites_what_others_lie_in() -> None:
    """Not even the last reader of a part: the rest of the memory is not its own."""
    y, z = image("y", 32), image("z", 32)
    ops = [made(a, x), made(b, x), joined(y, a, b), made(c, a), made(z, y)]
    assign_pitches(Block(ops, [x], [z]), rule, ())
    lowered = [Lowered(op, Site(op)) for op in ops]
    for found, (output, source) in zip(lowered[3:], ((c, a), (z, y)), strict=True):
        assert found.site is not None
        found.site.may_overwrite(output, source)
    roots = Roots(lowered, (x,))
    assert [roots.place(t) for t in (a, b, c, y)] == [(y, 0), (y, 32), (c, 0), (y, 0)]
    assert roots.place(z) == (y, 0)  # nothing needs any of y after that
    assert a.buffer_bytes == 2 * (5 * 32 + 16)


def test_a_place_is_no_place_for_an_alias() -> None:
    y = image("y", 32)
    ops = [made(a, x), made(b, x), joined(y, a, b)]
    assign_pitches(Block(ops, [x], [y]), rule, ())
    site = Site(ops[-1])
    for output, source in ((a, x), (a, b), (b, y)):
        with pytest.raises(Unsupported, match="lies in another tensor"):
            site.alias(output, source)
    site.alias(a, y)
    site.alias(b, y, 32)
    site.alias(y, a)
    assert site.aliases == []
