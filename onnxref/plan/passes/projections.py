"""Makes products of one left operand one product, with their constant right matrices side by side.

    x -> MatMul -> [Add of a vector]        x -> Gemm         (twice or more, of the same x)

Where each launch costs, and a wide product is as fast as a narrow one, three projections become one. Rules:

    1. What a FusedAttention reads, and nobody else does: views tell it where in the product Q, K and V lie.
    2. Of a single row, all products of the row, as in decoding: a Split behind them takes it apart, which
       costs nothing, for the pieces of one row are dense. Of few rows it is a launch that copies them, which
       three products are worth. A product whose epilogue would take what follows stays, for that would need
       a launch of its own then; a gate, which is multiplied by another tensor anyway, does not.
    3. Only products of one form and type, float32 or what is `narrow`, whose columns fill whole accesses
       of 16 bytes, so that nothing behind them reads more slowly.
    4. Not where the matrices are large: one more copy of them costs more than launches do.
    5. One without a vector adds -0.0, which changes nothing, not even the sign of a zero.

Every element is the sum of the same products as before. With precision "strict" these are added in the same
order, so that results are the same bits; otherwise it may depend on how many columns there are.

Runs after attention is recognised and before products take their epilogues.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ...dtypes import Array
from ...lowering import ACCESS, Op, Operand, PackCache
from ...registry import INTERNAL, ONNX
from ._block import Block
from ._match import Graph, graph_of, is_channel_vector, scalar_of
from .cleanup import activation_of

_FEW_ROWS: Final = 64
_MOST_BYTES: Final = 64 << 20  # of matrices that are put side by side


@dataclass(frozen=True, slots=True)
class _Projection:
    """A product with a constant right matrix, and the vector that is added to it.

    Attributes:
        ops: the product, and the Add behind it if there is one.
        form: what projections have in common that can be one.
    """

    ops: tuple[Op, ...]
    left: Operand
    right: Operand
    bias: Operand | None
    result: Operand
    form: Hashable

    @property
    def columns(self) -> int:
        return self.result.shape[-1]

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.ops[0].attributes)


def merge_projections(block: Block) -> int:
    """Merge the products of a block that can be one; return how often."""
    if not block.merges_products:
        return 0
    graph = graph_of(block)
    for op in graph:
        if op.op_type == "FusedAttention" and op.domain == INTERNAL:
            _merge_for_attention(graph, op)
    for op in graph:
        if op.op_type in ("MatMul", "Gemm") and op.domain == ONNX:
            _merge_rows(graph, op)
    return graph.commit()


# What is a projection -------------------------------------------------------------------------


def _projection(graph: Graph, product: Op | None) -> _Projection | None:
    """Return the projection that begins with a product; see rule 3."""
    if product is None or product.domain != ONNX or product.op_type not in ("MatMul", "Gemm"):
        return None
    left, right, given = product.inputs[0], product.inputs[1], (*product.inputs[2:], None)[0]
    result, attributes = product.outputs[0], product.attributes
    if left is None or right is None or right.constant is None or result is None:
        return None
    if result.dtype not in (np.float32, *graph.block.narrow) or left.dtype != result.dtype:
        return None
    if right.ndim != 2 or left.ndim < 2 or left.layout is not None or 0 in (*left.shape, *right.shape):
        return None
    if result.shape[-1] * result.dtype.itemsize % ACCESS:
        return None
    ops, bias = [product], given
    if product.op_type == "Gemm":
        is_vector = (
            bias is not None and bias.constant is not None and is_channel_vector(bias, result.shape, -1)
        )
        if product.opset < 7 or attributes.get("transA") or (bias is not None and not is_vector):
            return None
        if bias is not None and float(attributes.get("beta", 1.0)) != 1:
            return None
    else:
        add, bias = _vector_behind(graph, result)
        if add is not None and add.outputs[0] is not None:
            ops, result = [product, add], add.outputs[0]
    form = (product.op_type, product.opset, left, *sorted(attributes.items()))
    return _Projection(tuple(ops), left, right, bias, result, form)


def _vector_behind(graph: Graph, product: Operand) -> tuple[Op | None, Operand | None]:
    """Return the Add of a constant vector to a product, and the vector."""
    add = graph.sole_reader(product)
    if add is None or add.op_type != "Add" or add.domain != ONNX or add.opset < 7:
        return None, None
    bias = add.inputs[1] if add.inputs[0] is product else add.inputs[0]
    if bias is None or bias.constant is None or bias.dtype != product.dtype:
        return None, None
    is_vector = is_channel_vector(bias, product.shape, -1) and bias.ndim <= len(product.shape)
    return (add, bias) if is_vector else (None, None)


def _is_worth_it(found: Sequence[_Projection], least: int = 2) -> bool:
    """Whether there are so many, and rule 4 holds."""
    return len(found) >= least and sum(each.right.nbytes for each in found) <= _MOST_BYTES


# The product of all ---------------------------------------------------------------------------


def _merged(found: Sequence[_Projection], packs: PackCache) -> tuple[list[Op], Operand]:
    """Return the ops of the product of all, and its result."""
    first = found[0]
    trans_b = bool(first.attributes.get("transB", 0))
    matrices = [held for each in found if (held := each.right.constant) is not None]
    joined = packs.get(
        matrices, ("side by side", trans_b), lambda: np.concatenate(matrices, axis=0 if trans_b else 1)
    )
    right = Operand(joined.shape, joined.dtype, _name([each.right for each in found]), joined)
    bias = _merged_bias(found, packs)
    shape = (*first.result.shape[:-1], sum(each.columns for each in found))
    result = Operand(shape, first.result.dtype, _name([each.result for each in found]))
    product = first.ops[0]
    if product.op_type == "Gemm":
        inputs: list[Operand | None] = [first.left, right, *([] if bias is None else [bias])]
        return [Op("Gemm", inputs, [result], first.attributes, ONNX, product.opset)], result
    if bias is None:
        return [Op("MatMul", [first.left, right], [result], {}, ONNX, product.opset)], result
    plain = Operand(shape, result.dtype, f"product for {result.name}")
    return [
        Op("MatMul", [first.left, right], [plain], {}, ONNX, product.opset),
        Op("Add", [plain, bias], [result], {}, ONNX, 14),
    ], result


def _merged_bias(found: Sequence[_Projection], packs: PackCache) -> Operand | None:
    """Return the vectors one behind the other; see rule 5."""
    present = [each.bias for each in found if each.bias is not None]
    if not present:
        return None
    columns = [each.columns for each in found]
    held = [None if each.bias is None else each.bias.constant for each in found]

    def build() -> Array:
        vectors = [
            np.full(n, -0.0, present[0].dtype) if vector is None else vector.reshape(n)
            for n, vector in zip(columns, held, strict=True)
        ]
        return np.concatenate(vectors)

    key = ("vectors side by side", *columns, *(vector is None for vector in held))
    joined = packs.get([vector for vector in held if vector is not None], key, build)
    return Operand(joined.shape, joined.dtype, _name(present), joined)


def _name(operands: Sequence[Operand]) -> str:
    return " beside ".join(operand.name for operand in operands)


# Rule 1 ---------------------------------------------------------------------------------------


def _merge_for_attention(graph: Graph, op: Op) -> None:
    """Merge those of Q, K and V of an attention that are projections of one operand."""
    groups: dict[Hashable, dict[Operand, _Projection]] = {}
    for x in op.inputs[:3]:
        maker = graph.producer(x)
        if maker is not None and maker.op_type == "Add":
            maker = next((made for y in maker.inputs if (made := graph.producer(y)) is not None), None)
        found = _projection(graph, maker)
        if x is None or found is None or found.result is not x or graph.is_result(x):
            continue
        if all(reader is op for reader in graph.readers(x)):
            groups.setdefault(found.form, {})[x] = found
    for group in groups.values():
        if _is_worth_it([*group.values()]):
            _read_in_place(graph, op, group)


def _read_in_place(graph: Graph, op: Op, group: dict[Operand, _Projection]) -> None:
    """Have an attention read its operands where they lie in the product of all of them."""
    found = [*group.values()]
    total = sum(each.columns for each in found)
    begins = dict(zip(group, np.cumsum([0, *(each.columns for each in found)]).tolist()[:-1], strict=True))
    batch, heads, kv_heads, queries, keys, size, value_size = op.attributes["sizes"]
    extents = ((heads, queries, size), (kv_heads, keys, size), (kv_heads, keys, value_size))
    attributes, inputs = dict(op.attributes), list(op.inputs)
    new, result = _merged(found, graph.block.packs)
    for i, (name, extent) in enumerate(zip("qkv", extents, strict=True)):
        x = op.inputs[i]
        if x not in group:
            continue
        view = _moved(attributes[f"{name}_view"], (batch, *extent), x.shape[-1], total, begins[x])
        if view is None:
            return
        attributes[f"{name}_view"], inputs[i] = view, result
    fused = Op(op.op_type, inputs, op.outputs, attributes, op.domain, op.opset, op.nodes)
    graph.replace([*(made for each in found for made in each.ops), op], *new, fused)


def _moved(
    view: Sequence[int], extents: Sequence[int], columns: int, total: int, begin: int
) -> tuple[int, ...] | None:
    """Return where heads lie in a product that has more columns; None where a row of one goes over its end.

    Args:
        view: offset and steps between batches, heads and rows of a product of so many `columns`.
        extents: (batch, heads, rows, size).
        total, begin: columns of the new product, and the one where the old begins there.
    """
    offset, *steps = view
    row, column = divmod(offset, columns)
    end, moved = column + extents[-1], []
    for extent, step in zip(extents[:-1], steps, strict=True):
        rows, rest = divmod(step, columns)
        if rest:
            end += (extent - 1) * step
        moved.append(step if rest else rows * total)
    return (row * total + begin + column, *moved) if end <= columns else None


# Rule 2 ---------------------------------------------------------------------------------------


def _merge_rows(graph: Graph, op: Op) -> None:
    """Merge the products of the rows that one product multiplies, if there are few."""
    left, first = op.inputs[0], _projection(graph, op)
    if left is None or first is None or left.size > _FEW_ROWS * left.shape[-1]:
        return
    is_single = left.size == left.shape[-1]
    makers = [reader for reader in graph.readers(left) if reader.inputs[0] is left]
    found = [each for maker in makers if (each := _projection(graph, maker)) is not None]
    found = [each for each in found if each.form == first.form and not _is_bound(graph, each.result)]
    if not _is_worth_it(found, 2 if is_single else 3):
        return
    new, result = _merged(found, graph.block.packs)
    sizes = np.array([each.columns for each in found], np.int64)
    held = graph.block.packs.get((), ("sizes", *sizes.tolist()), lambda: sizes)
    lengths = Operand(held.shape, held.dtype, f"sizes within {result.name}", held)
    split = Op("Split", [result, lengths], [each.result for each in found], {"axis": -1}, ONNX, 13)
    old = [made for each in found for made in each.ops]
    graph.replace(old, *new, split, at=min(old, key=graph.position))


def _is_bound(graph: Graph, result: Operand) -> bool:
    """Whether a projection must be written by itself: a result, or what an epilogue takes (rule 2)."""
    if graph.is_result(result):
        return True
    reader = graph.sole_reader(result)
    if reader is None or reader.domain != ONNX or reader.outputs[0] is None:
        return False
    if reader.outputs[0].shape != result.shape:
        return False
    if reader.inputs[0] is result and activation_of(reader) is not None:
        gated = graph.sole_reader(reader.outputs[0])
        return gated is None or gated.op_type != "Mul"
    others = [x for x in reader.inputs if x is not None and x is not result]
    if reader.op_type in ("Mul", "Div"):
        return any(scalar_of(x) is not None for x in others)
    return reader.op_type in ("Add", "Sum") and math.prod(result.shape) in [x.size for x in others]
