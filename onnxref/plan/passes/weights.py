"""Dequantizes the weights that the plan left as integers and no quantized pattern took (`_fold`, rule 4)."""

from __future__ import annotations

from functools import partial

import numpy as np

from ... import registry
from ...dtypes import Array
from ...lowering import Op, Operand
from ._block import Block


def fold_weights(block: Block) -> int:
    """Put constants in the place of the deferred ops that are still there; return how many."""
    made: dict[Operand | None, Operand] = {}
    for op in [op for op in block.ops if op in block.deferred]:
        y = op.outputs[0]
        if y is None or y in block.outputs:
            continue
        key = (op.op_type, op.opset, *sorted(op.attributes.items()))
        constants = [None if x is None else x.constant for x in op.inputs]
        value = block.packs.get(constants, key, partial(_computed, op))
        made[y] = Operand(y.shape, y.dtype, y.name, value)
    if made:
        block.set_ops([op for op in block.ops if op.outputs[0] not in made])
        for op in block.ops:
            op.inputs[:] = [made.get(x, x) for x in op.inputs]
    return len(made)


def _computed(op: Op) -> Array:
    """Return what the reference makes of an op's constants."""
    kernel = registry.find(op.domain, op.op_type, op.opset).kernel
    with np.errstate(all="ignore"):
        return np.asarray(kernel(*(None if x is None else x.constant for x in op.inputs), **op.attributes))
