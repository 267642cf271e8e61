"""Layout assignment: which tensors lie in channel blocks, and where they are converted.

Rules
    1. The outputs of an op that prefers blocks (a convolution) are blocked, and so are its inputs, by a
       conversion where need be.
    2. An op that can go along does so if most of what it reads is blocked already.
    3. An operand that others want plain, or that leaves the region, is converted once for all of them.
    4. The border of a blocked operand is the largest that any of its readers needs.
    5. Operands that an op wants to have one border (what a Concat joins) all have the largest of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ...lowering import NO_PAD, Blocked, BlockedUse, Op, Operand, Pad
from ...registry import INTERNAL
from ..passes import Block

Rule = Callable[[Op], "BlockedUse | None"]
MakeLayout = Callable[[Pad], Blocked]


def assign_layouts(block: Block, layout: MakeLayout, rule: Rule, banned: Collection[Op]) -> bool:
    """Set the layouts of a block's operands and insert the conversions; return whether there are any.

    Args:
        layout: makes the layout with a border.
        rule: how an op can use blocks.
        banned: ops that must stay plain, because their lowering refused blocks.
    """
    uses = {op: use for op in block.ops if op not in banned and (use := rule(op)) is not None}
    blocked = _choose(block, uses)
    if not blocked:
        return False
    pads = _borders(uses)
    for operand in blocked:
        operand.layout = layout(pads.get(operand, NO_PAD))
    _convert(block, uses, layout)
    return True


def _choose(block: Block, uses: dict[Op, BlockedUse]) -> set[Operand]:
    """Return the op outputs that are blocked (rules 1 and 2); drop the ops that stay plain from `uses`."""
    blocked: set[Operand] = set()
    for op in block.ops:
        use = uses.get(op)
        if use is None:
            continue
        if not use.prefers and not _goes_along(op, use, blocked):
            del uses[op]
            continue
        for index in use.outputs:
            if (y := op.outputs[index]) is not None:
                blocked.add(y)
    return blocked


def _goes_along(op: Op, use: BlockedUse, blocked: set[Operand]) -> bool:
    sizes = [(x.size, x in blocked) for i in use.inputs if (x := op.inputs[i]) is not None]
    return 2 * sum(size for size, is_blocked in sizes if is_blocked) > sum(size for size, _ in sizes)


def _borders(uses: dict[Op, BlockedUse]) -> dict[Operand, Pad]:
    """Return the borders of operands that may be blocked (rules 4 and 5)."""
    pads: dict[Operand, Pad] = {}
    for op, use in uses.items():
        for index, pad in use.inputs.items():
            x = op.inputs[index]
            if x is not None:
                pads[x] = _larger(pads.get(x, NO_PAD), pad)
    groups = [_joined(op, use) for op, use in uses.items() if use.one_border]
    changed = True
    while changed:  # what joins may itself be joined; borders only grow, so this ends
        changed = False
        for group in groups:
            largest = NO_PAD
            for x in group:
                largest = _larger(largest, pads.get(x, NO_PAD))
            for x in group:
                changed |= pads.get(x, NO_PAD) != largest
                pads[x] = largest
    return pads


def _larger(a: Pad, b: Pad) -> Pad:
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _joined(op: Op, use: BlockedUse) -> list[Operand]:
    """Return the operands of an op that can be blocked."""
    found = [*(op.inputs[i] for i in use.inputs), *(op.outputs[i] for i in use.outputs)]
    return [x for x in found if x is not None]


def _convert(block: Block, uses: dict[Op, BlockedUse], layout: MakeLayout) -> None:
    """Insert conversions wherever an op meets an operand in the other layout."""
    plain: dict[Operand, Operand] = {}
    packed: dict[Operand, Operand] = {}
    pads = _borders(uses)
    ops: list[Op] = []
    for op in block.ops:
        wanted = uses[op].inputs if op in uses else {}
        for index, x in enumerate(op.inputs):
            if x is None:
                continue
            if index in wanted and x.layout is None:
                if x not in packed:
                    packed[x] = Operand(x.shape, x.dtype, x.name, layout=layout(pads[x]))
                    ops.append(_conversion("ToBlocked", x, packed[x], op))
                op.inputs[index] = packed[x]
            elif index not in wanted and x.layout is not None:
                if x not in plain:
                    plain[x] = Operand(x.shape, x.dtype, x.name)
                    ops.append(_conversion("FromBlocked", x, plain[x], op))
                op.inputs[index] = plain[x]
        ops.append(op)
    for index, y in enumerate(block.outputs):
        if y.layout is not None:
            if y not in plain:
                plain[y] = Operand(y.shape, y.dtype, y.name)
                ops.append(_conversion("FromBlocked", y, plain[y], ops[-1]))
            block.outputs[index] = plain[y]
    block.ops[:] = ops


def _conversion(kind: str, source: Operand, goal: Operand, near: Op) -> Op:
    return Op(kind, [source], [goal], domain=INTERNAL, opset=1, nodes=near.nodes)
