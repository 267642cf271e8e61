"""Which values of a program share memory.

Rules
    1. An alias lies where its source does.
    2. A part of an output (an input of a Concat) lies in it, at its offset, from when it is made. It must own
       all of its memory and may lie in one output only; what comes from outside, what goes outside and
       constants stay where they are.
    3. An output that lies in another one takes its own parts along. So does one that a part of the other
       lies in already, if all that it is made up of is found in the other at the same distances.
    4. An output may take the place of an input of the same size that nothing reads any more, unless it is
       a part, has parts or goes outside.

By rules 2 and 3 memory in an output only ever holds what the output will hold there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...lowering import Operand, Part
from ._lower import Lowered


class Roots:
    """Where operands lie in each other.

    Args:
        lowered: what computes each op, in order.
        external: operands that come in or go out.
    """

    def __init__(self, lowered: Sequence[Lowered], external: Sequence[Operand]) -> None:
        self._parent: dict[Operand, tuple[Operand, int]] = {}
        self._parts: dict[Operand, list[Part]] = {}
        sites = [found.site for found in lowered if found.site is not None]
        for site in sites:
            for output, source in site.aliases:
                self._parent[output] = (source, 0)
        for part in (part for site in sites for part in site.parts):
            self._parts.setdefault(part.output, []).append(part)
        fixed = {self.of(operand) for operand in external}
        # Which memory a part is, whatever it will lie in.
        own = {part.input: self.of(part.input) for parts in self._parts.values() for part in parts}
        for parts in self._parts.values():
            for part in parts:
                self._put_inside(part, own, fixed)
        self._put_in_place_of_inputs(lowered, fixed)

    def _put_inside(self, part: Part, own: dict[Operand, Operand], fixed: set[Operand]) -> None:
        """Let a part lie in its output if it can (rules 2 and 3)."""
        goal = part.output
        root, inner = self.place(part.input)
        begin = part.offset - inner
        if root in fixed or root is goal or goal in self._parent:
            return
        if root.constant is not None or part.input.constant is not None:
            return
        if begin < 0 or begin + root.buffer_bytes > goal.buffer_bytes:
            return
        if own[part.input] is root:
            is_same = part.input.buffer_bytes == root.buffer_bytes
        else:
            found = {(other.offset, own[other.input]) for other in self._parts[goal]}
            is_same = all((begin + x.offset, own[x.input]) in found for x in self._parts[root])
        if is_same:
            self._parent[root] = (goal, begin)

    def _put_in_place_of_inputs(self, lowered: Sequence[Lowered], fixed: set[Operand]) -> None:
        """Let outputs overwrite inputs where they can (rule 4)."""
        last = {self.of(x): index for index, found in enumerate(lowered) for x in found.op.inputs if x}
        for index, found in enumerate(lowered):
            for output, source in found.site.overwrites if found.site else ():
                root = self.of(source)
                free = root not in fixed and root.constant is None and last.get(root) == index
                fits = output.buffer_bytes == root.buffer_bytes and output.layout == root.layout
                bound = output in self._parent or output in self._parts or output in fixed
                if free and fits and not bound:
                    self._parent[output] = (root, 0)
                    last[root] = last.get(output, index)

    def of(self, operand: Operand) -> Operand:
        """Return the operand whose memory another one lies in, itself where it has its own."""
        return self.place(operand)[0]

    def place(self, operand: Operand) -> tuple[Operand, int]:
        """Return the operand whose memory another one lies in, and where in it, in bytes."""
        offset = 0
        while operand in self._parent:
            operand, further = self._parent[operand]
            offset += further
        return operand, offset

    def is_in_place(self, part: Part) -> bool:
        """Whether a part lies where it is to be copied."""
        root, offset = self.place(part.output)
        return self.place(part.input) == (root, offset + part.offset)

    def without_copies(self, lowered: Sequence[Lowered]) -> list[Lowered]:
        """Return the ops without the calls that copy parts which are in place."""
        return [self._without_copies(found) for found in lowered]

    def _without_copies(self, found: Lowered) -> Lowered:
        site = found.site
        if site is None:
            return found
        needless = {id(call) for part in site.parts if self.is_in_place(part) for call in part.calls}
        if not needless:
            return found
        calls = [call for call in site.calls if id(call) not in needless]
        launches = [launch for launch in site.launches if id(launch) not in needless]
        return replace(found, site=replace(site, calls=calls, launches=launches))
