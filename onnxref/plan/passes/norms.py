"""A pass for GPUs: a product of few rows normalises them itself."""

from __future__ import annotations

import math

import numpy as np

from ...lowering import Op, Operand
from ...registry import INTERNAL, ONNX
from ._block import Block
from ._match import Graph, graph_of, is_channel_vector, reshape
from .cleanup import matmul_epilogue

_NORMS = {"LayerNormalization": 17, "RMSNormalization": 23}  # first version that is known
_EPSILON = float(np.float32(1e-5))  # the schemas' default
_FLOAT = 1  # of TensorProto.DataType
_MOST_ROWS = 4
_MOST_COLUMNS = 16384  # each block of threads normalises the rows again: of many, all together take longer
_MOST_BYTES = 36 * 1024  # of the rows and of two parameters: what a block of any card has beside its sums


def fuse_norms(block: Block) -> int:
    """Let a product of few rows normalise them itself, where nobody else reads what is normalised.

    LayerNormalization or RMSNormalization, and MatMul, Gemm or FusedMatMul become NormalizedMatMul of the
    internal domain, for kernels that have it (`block.normalizes`). Rules:
        1. The normalisation is over the last axis, in float32, and gives nothing but its first output.
        2. Between the two there may be a Reshape that keeps the last axis; it goes before both.
        3. The product is by one matrix; rows, columns and bytes are at most those that are named above.
        4. All operands are of one type, float32 or one that is `narrow`.
    """
    if not block.normalizes or block.precision == "strict":
        return 0
    graph = graph_of(block)
    for op in graph:
        if op.domain == ONNX and op.op_type in _NORMS and _is_plain(op, graph):
            _fuse(op, graph)
    return graph.commit()


def _is_plain(op: Op, graph: Graph) -> bool:
    """Rules 1 and 4, of the normalisation."""
    x, y = op.inputs[0], op.outputs[0]
    if x is None or y is None or op.opset < _NORMS[op.op_type] or x.ndim < 1:
        return False
    if any(
        other is not None and (graph.readers(other) or graph.is_result(other)) for other in op.outputs[1:]
    ):
        return False
    if int(op.attributes.get("axis", -1)) not in (-1, x.ndim - 1):
        return False
    if int(op.attributes.get("stash_type", _FLOAT)) != _FLOAT:
        return False
    return x.dtype in (np.float32, *graph.block.narrow) and all(
        p is None or (p.dtype == x.dtype and is_channel_vector(p, x.shape, -1)) for p in op.inputs[1:]
    )


def _fuse(norm: Op, graph: Graph) -> None:
    """Put the normalisation into the product that reads it, if there is one that fits."""
    x, y = norm.inputs[0], norm.outputs[0]
    assert x is not None
    assert y is not None
    gone, reader = [norm], graph.sole_reader(y)
    if reader is not None and reader.domain == ONNX and reader.op_type == "Reshape":  # rule 2
        gone.append(reader)
        y = reader.outputs[0]
        reader = graph.sole_reader(y)
    if reader is None or y is None or y.shape[-1:] != x.shape[-1:]:
        return
    product = _fused_form(reader, graph)
    if product is None or product.inputs[0] is not y or not _is_small(product, y):
        return
    gone.append(reader)
    new: list[Op] = []
    if y.shape != x.shape:
        flat = Operand(y.shape, x.dtype, x.name)
        new.append(reshape(x, flat, graph.block.packs, norm))
        x = flat
    gain, shift = [*norm.inputs[1:], None][:2]
    attributes = {
        **{key: value for key, value in product.attributes.items() if key != "trans_a"},
        "is_rms": int(norm.op_type == "RMSNormalization"),
        "epsilon": float(norm.attributes.get("epsilon", _EPSILON)),
    }
    inputs = [x, gain, shift, *product.inputs[1:]]
    new.append(Op("NormalizedMatMul", inputs, product.outputs, attributes, INTERNAL, 1, product.nodes))
    graph.replace(gone, *new)


def _fused_form(op: Op, graph: Graph) -> Op | None:
    """Return a product as FusedMatMul, None where the op is no product or cannot be said so."""
    if op.domain == INTERNAL and op.op_type == "FusedMatMul":
        return op
    if op.domain != ONNX or op.op_type not in ("MatMul", "Gemm") or op.outputs[0] is None:
        return None
    made = matmul_epilogue(op, graph)
    return made.fused() if made is not None and len(made.ops) == 1 else None


def _is_small(product: Op, a: Operand) -> bool:
    """Rules 3 and 4, of the product."""
    b, y = product.inputs[1], product.outputs[0]
    if b is None or y is None or b.ndim != 2 or product.attributes.get("trans_a") or 0 in (a.size, b.size):
        return False
    rows = math.prod(a.shape[:-1])
    nbytes = (rows + 2) * a.shape[-1] * a.dtype.itemsize
    fits = rows <= _MOST_ROWS and y.shape[-1] <= _MOST_COLUMNS and nbytes <= _MOST_BYTES
    return fits and all(x is None or x.dtype == a.dtype for x in (*product.inputs, y))
