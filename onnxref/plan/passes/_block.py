"""A straight piece of a model with all shapes known: what the passes rewrite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...dtypes import DType
from ...lowering import Op, Operand, PackCache

if TYPE_CHECKING:
    from ._match import Graph


@dataclass(slots=True, eq=False)
class Block:
    """Ops in order, and the operands that come in and go out.

    Attributes:
        packs: where arrays made from constants are kept; passes that compute new constants ask it.
        precision: see `Site`.
        narrow: types beside float32 whose roundings between fused operators may be left out, because the
            kernels compute them in float32.
        deferred: ops of constants which the plan has left to `fold_weights`.
        hurried: see `Site`.
        reorders: whether the kernels' FusedConv takes its input channels in any `order`.
        merges_products: whether products of one left operand had better be one, since each launch costs.
        normalizes: whether the kernels have NormalizedMatMul.
        index: the `Graph` of these ops, where one is at hand; whoever changes ops without it sets it to None.
    """

    ops: list[Op]
    inputs: list[Operand]
    outputs: list[Operand]
    packs: PackCache = field(default_factory=PackCache)
    precision: str = "default"
    narrow: tuple[DType, ...] = ()
    deferred: set[Op] = field(default_factory=set)
    hurried: bool = False
    reorders: bool = False
    merges_products: bool = False
    normalizes: bool = False
    index: Graph | None = None

    def set_ops(self, ops: Iterable[Op]) -> None:
        """Have these ops in place of all that there are."""
        self.ops[:] = ops
        self.index = None

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
