"""Which values of a program share memory."""

from __future__ import annotations

from collections.abc import Sequence

from ...lowering import Operand
from ._lower import Lowered


class Roots:
    """Which operands share memory: aliases, and outputs that take the place of an input."""

    def __init__(self, lowered: Sequence[Lowered], external: Sequence[Operand]) -> None:
        self._parent: dict[Operand, Operand] = {}
        for found in lowered:
            for output, source in found.site.aliases if found.site else ():
                self._parent[output] = source
        last = {self.of(x): index for index, found in enumerate(lowered) for x in found.op.inputs if x}
        fixed = {self.of(operand) for operand in external}
        for index, found in enumerate(lowered):
            for output, source in found.site.overwrites if found.site else ():
                root = self.of(source)
                free = root not in fixed and root.constant is None and last.get(root) == index
                fits = output.buffer_bytes == root.buffer_bytes and output.layout == root.layout
                if free and fits and output not in self._parent and output not in fixed:
                    self._parent[output] = root
                    last[root] = last.get(output, index)

    def of(self, operand: Operand) -> Operand:
        """Return the operand whose memory another one lies in, itself where it has its own."""
        while operand in self._parent:
            operand = self._parent[operand]
        return operand
