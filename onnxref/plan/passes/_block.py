"""A straight piece of a model with all shapes known: what the passes rewrite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...dtypes import DType
from ...lowering import Op, Operand, PackCache


@dataclass(slots=True, eq=False)
class Block:
    """Ops in order, and the operands that come in and go out.

    Attributes:
        packs: where arrays made from constants are kept; passes that compute new constants ask it.
        precision: see `Site`.
        narrow: types beside float32 whose roundings between fused operators may be left out, because the
            kernels compute them in float32.
        deferred: ops of constants which the plan has left to `fold_weights`.
        reorders: whether the kernels' FusedConv takes its input channels in any `order`.
        merges_products: whether products of one left operand had better be one, since each launch costs.
    """

    ops: list[Op]
    inputs: list[Operand]
    outputs: list[Operand]
    packs: PackCache = field(default_factory=PackCache)
    precision: str = "default"
    narrow: tuple[DType, ...] = ()
    deferred: set[Op] = field(default_factory=set)
    reorders: bool = False
    merges_products: bool = False

    def producers(self) -> dict[Operand, Op]:
        """Return the op that makes each operand."""
        return {y: op for op in self.ops for y in op.outputs if y is not None}

    def uses(self) -> dict[Operand, list[Op]]:
        """Return the ops that read each operand, once per input that is it."""
        found: dict[Operand, list[Op]] = {}
        for op in self.ops:
            for x in op.inputs:
                if x is not None:
                    found.setdefault(x, []).append(op)
        return found

    def is_private(self, operand: Operand, uses: dict[Operand, list[Op]]) -> bool:
        """Whether exactly one op reads an operand and nobody outside does: it can be fused away."""
        return len(uses.get(operand, ())) == 1 and operand not in self.outputs

    def replace(self, old: Iterable[Op], new: Sequence[Op]) -> None:
        """Put `new` where the last of `old` stood, and take `old` out."""
        gone = list(old)
        last = max(self.ops.index(op) for op in gone)
        self.ops[last + 1 : last + 1] = new
        self.ops[:] = [op for op in self.ops if not any(op is out for out in gone)]

    def substitute(self, old: Operand, new: Operand) -> None:
        """Make every reader of `old` read `new`; `old` must not be an output of the block."""
        for op in self.ops:
            op.inputs[:] = [new if x is old else x for x in op.inputs]
