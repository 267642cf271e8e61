"""Passes over the channel shuffles of ShuffleNet: they become one op, or part of a convolution.

Exporters write a shuffle of (N, C, ...) in g groups as Reshape to (N, g, C / g, ...), Transpose of axes 1
and 2, and Reshape back. Each pass is `pass_(block) -> number of rewrites` and changes nothing when run again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...lowering import Op, Operand
from ...registry import INTERNAL, ONNX
from ._block import Block
from ._match import Graph, Match, Pattern, Value, graph_of

_F32 = np.dtype(np.float32)


def _swaps_groups(op: Op) -> bool:
    x = op.inputs[0]
    perm = op.attributes.get("perm")
    return x is not None and perm is not None and tuple(perm) == (0, 2, 1, *range(3, x.ndim))


_SHUFFLE = Pattern(
    "Reshape",
    Pattern("Transpose", Pattern("Reshape", Value("x"), open=True), where=_swaps_groups, name="transpose"),
    open=True,
)


def recognize_shuffles(block: Block) -> int:
    """Find channel shuffles of (N, C, W) and (N, C, H, W), of any type: the internal ShuffleChannels."""
    graph = graph_of(block)
    for op in graph:
        if op.domain != ONNX or op.op_type != "Reshape":
            continue
        found = graph.match(_SHUFFLE, op)
        groups = _groups(found, op) if found is not None else 0
        if found is not None and groups:
            made = Op("ShuffleChannels", [found["x"]], list(op.outputs), {"groups": groups}, INTERNAL, 1)
            graph.replace(found.ops, made)
    return graph.commit()


def _groups(found: Match, root: Op) -> int:
    """Return the number of groups of a shuffle; 0 where the shapes are not those of one."""
    x, y, middle = found["x"], root.outputs[0], found.named["transpose"].inputs[0]
    if y is None or middle is None or x.shape != y.shape or x.ndim not in (3, 4) or middle.ndim < 3:
        return 0
    n, groups, each = middle.shape[:3]
    # All elements are there, so batch and channels that fit leave the pixels of one channel behind them.
    return groups if x.size and (n, groups * each) == x.shape[:2] else 0


# --- into convolutions -----------------------------------------------------------------------------


def fuse_shuffles(block: Block) -> int:
    """Make shuffles part of the convolutions around them. Rules:
        1. A Conv of one group before it, without residual, makes its output channels in the new order.
        2. Behind it, depthwise Convs without residual take the channels in the old order, so that the
           shuffle comes after them.
        3. A Conv of one group that reads it takes its input channels in the old order.
        4. A Conv of several groups that reads it names the order of its channels: attribute `order` of
           FusedConv, where `block.reorders`.
    Weights and biases must be constant float32, and nobody else may read what is between the convolutions.
    """  # fmt: skip
    graph = graph_of(block)
    for op in graph:
        if op.domain != INTERNAL or op.op_type != "ShuffleChannels":
            continue
        x = op.inputs[0]
        if x is None or x.dtype != _F32:
            continue
        order = shuffled_order(x.shape[1], op.attributes["groups"])
        if not _fuse_before(graph, op, order):
            _fuse_behind(graph, op, order)
    return graph.commit()


def shuffled_order(channels: int, groups: int) -> tuple[int, ...]:
    """Return the input channel of each output channel of a shuffle.

    >>> shuffled_order(6, 2)
    (0, 3, 1, 4, 2, 5)
    """
    each = channels // groups
    return tuple(group * each + i for i in range(each) for group in range(groups))


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(order))


def _is_conv(op: Op | None) -> bool:
    """Whether an op is a convolution of float32 whose weights and bias are constant."""
    if op is None or (op.domain, op.op_type) not in ((ONNX, "Conv"), (INTERNAL, "FusedConv")):
        return False
    w, b = op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else None
    is_known = w is not None and w.constant is not None and w.dtype == _F32
    return is_known and (b is None or b.constant is not None) and "order" not in op.attributes


def _has_residual(op: Op) -> bool:
    return len(op.inputs) > 3 and op.inputs[3] is not None


def _reordered(operand: Operand | None, order: tuple[int, ...], axis: int, block: Block) -> Operand | None:
    """Return a constant with its elements along an axis in another order."""
    if operand is None or operand.constant is None:
        return None
    constant = operand.constant
    array = block.packs.get((constant,), ("reordered", axis, order), lambda: constant.take(order, axis))
    return Operand(operand.shape, operand.dtype, operand.name, array)


def _with_channels(op: Op, x: Operand | None, y: Operand | None, order: tuple[int, ...], block: Block) -> Op:
    """Return a convolution from `x` to `y` that makes its output channels in another order."""
    inputs = [x, *(_reordered(each, order, 0, block) for each in op.inputs[1:])]
    return Op(op.op_type, inputs, [y], op.attributes, op.domain, op.opset, op.nodes)


def _fuse_before(graph: Graph, shuffle: Op, order: tuple[int, ...]) -> bool:
    """Rule 1."""
    x, y = shuffle.inputs[0], shuffle.outputs[0]
    maker = graph.producer(x)
    if maker is None or not _is_conv(maker) or graph.sole_reader(x) is not shuffle:
        return False
    if maker.attributes.get("group", 1) != 1 or _has_residual(maker):
        return False
    graph.replace([maker, shuffle], _with_channels(maker, maker.inputs[0], y, order, graph.block))
    return True


def _fuse_behind(graph: Graph, shuffle: Op, order: tuple[int, ...]) -> None:
    """Rules 2 to 4."""
    x, held = shuffle.inputs[0], shuffle.outputs[0]
    assert x is not None
    inverse = _inverse(order)
    pairs: list[tuple[Op, Op]] = []  # what is there, what comes in its place
    while (reader := graph.sole_reader(held)) is not None and _is_conv(reader) and reader.inputs[0] is held:
        if reader.attributes.get("group", 1) != len(order):
            last = _reading(reader, x, order, inverse, graph.block)
            if last is not None:
                pairs.append((reader, last))
                for i, (old, new) in enumerate(pairs):
                    graph.replace([old] if i else [shuffle, old], new)
            return
        held, w = reader.outputs[0], reader.inputs[1]
        if held is None or w is None or w.shape[0] != len(order) or _has_residual(reader):
            return
        y = Operand(held.shape, held.dtype, held.name)
        pairs.append((reader, _with_channels(reader, x, y, inverse, graph.block)))
        x = y


def _reading(op: Op, x: Operand, order: tuple[int, ...], inverse: tuple[int, ...], block: Block) -> Op | None:
    """Return a convolution that reads `x` instead of `x` in another order (rules 3 and 4)."""
    if op.attributes.get("group", 1) == 1:
        inputs = [x, _reordered(op.inputs[1], inverse, 1, block), *op.inputs[2:]]
        return Op(op.op_type, inputs, list(op.outputs), op.attributes, op.domain, op.opset, op.nodes)
    if not block.reorders:
        return None
    attributes = {**op.attributes, "order": order}
    return Op("FusedConv", [x, *op.inputs[1:]], list(op.outputs), attributes, INTERNAL, 1, op.nodes)
