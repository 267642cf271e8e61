"""Which values of a program share memory.

Rules
    1. An alias lies where its source does, or in a range of that. What the planner gave a place
       (`Operand.place`) lies there.
    2. A part of an output (an input of a Concat) lies in it, at its offset, from when it is made. It must own
       all of its memory and may lie in one output only; what comes from outside, what goes outside and
       constants stay where they are, and so does what would begin where kernels do not expect it.
    3. An output that lies in another one takes its own parts along. So does one that a part of the other
       lies in already, if all that it is made up of is found in the other at the same distances.
    4. An output may take the place of an input of the same size that nothing uses any more, unless it is
       a part, has parts or others in it, or goes outside. The input must own all of its memory, and the op
       that writes there must not read a range of it: it would meet what it has written.

By rules 2 and 3 memory in an output only ever holds what the output will hold there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ...lowering import Operand, Part
from ._lower import Lowered


class Range(NamedTuple):
    """Bytes `begin` to `end` of an operand's memory."""

    root: Operand
    begin: int
    end: int

    @property
    def is_whole(self) -> bool:
        return (self.begin, self.end) == (0, self.root.buffer_bytes)

    def meets(self, other: Range) -> bool:
        """Whether they share memory."""
        return self.root is other.root and self.begin < other.end and other.begin < self.end


class Roots:
    """Where operands lie in each other.

    Args:
        lowered: what computes each op, in order.
        external: operands that come in or go out.
        alignment: where parts may begin in their outputs: at multiples of so many bytes.
    """

    def __init__(self, lowered: Sequence[Lowered], external: Sequence[Operand], alignment: int = 1) -> None:
        self._alignment = alignment
        self._parent: dict[Operand, tuple[Operand, int]] = {}
        self._parts: dict[Operand, list[Part]] = {}
        sites = [found.site for found in lowered if found.site is not None]
        for site in sites:
            for output, source, offset in site.aliases:
                self._parent[output] = (source, offset)
        self._wholes: set[Operand] = set()
        for x in {x for found in lowered for x in found.op.outputs if x is not None and x.place is not None}:
            assert x not in self._parent, f"{x} is an alias, and has a place"
            place = x.whole
            self._parent[x] = (place.owner, place.offset)
            self._wholes.add(place.owner)
        for part in (part for site in sites for part in site.parts):
            self._parts.setdefault(part.output, []).append(part)
        fixed = {self.of(operand) for operand in external}
        # Which memory a part is, whatever it will lie in.
        own = {part.input: self.range(part.input) for parts in self._parts.values() for part in parts}
        for parts in self._parts.values():
            for part in parts:
                self._put_inside(part, own, fixed)
        self._put_in_place_of_inputs(lowered, fixed)

    def _put_inside(self, part: Part, own: dict[Operand, Range], fixed: set[Operand]) -> None:
        """Let a part lie in its output if it can (rules 2 and 3)."""
        goal = part.output
        root, inner = self.place(part.input)
        begin = part.offset - inner
        if root in fixed or root is goal or goal in self._parent:
            return
        if root.constant is not None or part.input.constant is not None:
            return
        if begin < 0 or begin + root.buffer_bytes > goal.buffer_bytes or begin % self._alignment:
            return
        if own[part.input].root is root:
            is_same = own[part.input].is_whole
        else:
            found = {(other.offset, own[other.input]) for other in self._parts[goal]}
            is_same = all((begin + x.offset, own[x.input]) in found for x in self._parts[root])
        if is_same:
            self._parent[root] = (goal, begin)

    def _put_in_place_of_inputs(self, lowered: Sequence[Lowered], fixed: set[Operand]) -> None:
        """Let outputs overwrite inputs where they can (rule 4)."""
        last: dict[Operand, int] = {}
        for index, found in enumerate(lowered):
            for x in (*found.op.inputs, *found.op.outputs):
                if x is not None:
                    last[self.of(x)] = index
        for index, found in enumerate(lowered):
            for output, source in found.site.overwrites if found.site else ():
                place = self.range(source)
                root = place.root
                free = root not in fixed and root.constant is None and last.get(root) == index
                fits = output.buffer_bytes == root.buffer_bytes and output.layout == root.layout
                read = [self.range(x) for x in found.op.inputs if x is not None and self.of(x) is root]
                fits = fits and all(other == place for other in read)
                holds = output in self._parts or output in self._wholes
                bound = output in self._parent or holds or output in fixed
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

    def range(self, operand: Operand) -> Range:
        """Return the memory that an operand lies in."""
        root, begin = self.place(operand)
        return Range(root, begin, begin + operand.buffer_bytes)

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
