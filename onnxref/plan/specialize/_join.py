"""Launches that can be one: what neighbouring ops have a card do, independently of each other.

Rules
    1. Launches with the same `join` that follow each other become as few as it makes of them; within an op
       they are independent (`Site.launch`).
    2. Those of another op are joined only if it reads nothing that the others write, and writes nothing that
       they read or write. They run where the last of the ops stands: what they use is needed up to there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...gpu import DeviceCall, Launch
from ...lowering import Address, Operand, Scratch
from ._lower import Lowered
from ._roots import Range, Roots

ELSEWHERE = "its launch is one with that of an operator behind"


def join_launches(lowered: Sequence[Lowered], roots: Roots, *, across: bool) -> list[Lowered]:
    """Return the ops with their launches joined.

    Args:
        across: whether those of several ops are joined (rule 2).
    """
    calls: list[list[DeviceCall]] = [[] for _ in lowered]
    moved: set[int] = set()
    for run in _runs(lowered, roots, across):
        ops, launches = zip(*run, strict=True)
        join = getattr(launches[0], "join", None)
        calls[ops[-1]] += join(launches) if join else launches
        moved.update(ops[:-1])
    return [
        _with_launches(found, made, index in moved)
        for index, (found, made) in enumerate(zip(lowered, calls, strict=True))
    ]


def _with_launches(found: Lowered, launches: list[DeviceCall], moved: bool) -> Lowered:
    """Return an op with other launches, and a note if its own are now with another."""
    site = found.site
    if site is None or launches == site.launches:
        return found
    notes = [*site.notes, ELSEWHERE] if moved and not launches else site.notes
    return replace(found, site=replace(site, launches=launches, notes=notes))


def _runs(lowered: Sequence[Lowered], roots: Roots, across: bool) -> Iterator[list[tuple[int, DeviceCall]]]:
    """Yield launches, with the indices of their ops, in groups of those that can be joined."""
    run: list[tuple[int, DeviceCall]] = []
    for index, found in enumerate(lowered):
        if found.site is None and run:
            yield run
            run = []
        for call in found.launches:
            if run and not _joins(run[-1][1], call):
                yield run
                run = []
            others = [lowered[i] for i in dict.fromkeys(op for op, _ in run) if i != index]
            if others and not (across and _is_apart(found, others, roots)):
                yield run
                run = []
            run.append((index, call))
    if run:
        yield run


def _joins(before: DeviceCall, call: DeviceCall) -> bool:
    """Whether two launches are of a kind that can be one."""
    if not isinstance(before, Launch) or not isinstance(call, Launch):
        return False
    return call.join is not None and before.join == call.join


def _is_apart(found: Lowered, others: Sequence[Lowered], roots: Roots) -> bool:
    """Whether an op and those before it can be done at the same time (rule 2)."""
    reads, writes = _ranges(roots, found.op.inputs), _ranges(roots, found.op.outputs)
    written = [place for other in others for place in _ranges(roots, other.op.outputs)]
    read = [place for other in others for place in _ranges(roots, other.op.inputs)]
    meet = any(a.meets(b) for a in (*reads, *writes) for b in written)
    meet = meet or any(a.meets(b) for a in writes for b in read)
    lives_for_one = any(isinstance(x, Scratch) for other in others for x in _owners(other))
    return not meet and not lives_for_one


def _ranges(roots: Roots, operands: Sequence[Operand | None]) -> list[Range]:
    return [roots.range(x) for x in operands if x is not None]


def _owners(found: Lowered) -> Iterator[object]:
    """Yield whose memory the launches of an op get addresses of, apart from those of libraries."""
    for call in found.launches:
        for given in call.arguments if isinstance(call, Launch) else ():
            for argument in given if isinstance(given, tuple) else (given,):
                yield argument.owner if isinstance(argument, Address) else argument


def used_operands(found: Lowered) -> Iterator[Operand]:
    """Yield the operands that an op's launches use: those of ops before it too, once they are joined."""
    for owner in _owners(found):
        if isinstance(owner, Operand):
            yield owner
