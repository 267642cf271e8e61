"""Recognises attention that exporters wrote out as products and a softmax, and ONNX Attention between views.

    [view of Q] MatMul [view of K, transposed]
        -> [Mul or Div by a scalar] -> [Add of a mask, or Where with a constant]
        -> Softmax(-1) -> [Where(IsNaN, 0)] -> MatMul [view of V] -> [Transpose]

becomes one `FusedAttention` (see `kernels/numba/attention.py`), and so does

    [view of Q], [view of K], [view of V] -> Attention -> [Transpose]

Rules:

    1. Q, K and V are read where they lie: Reshape, Transpose, Split, Slice, Gather of one index and scaling
       by a scalar on the way to them vanish, as long as elements of a head stay neighbours.
    2. A Transpose behind it vanishes: heads are written to their places at once.
    3. A constant lower triangle, added or chosen by Where, becomes `is_causal`.
    4. Only float32 (and what is `narrow`), with no size 0, and with equal batch dimensions.
    5. Attention only where FusedAttention means the same: without a cache, present or products as outputs,
       lengths, windows, and masks that are shorter than the keys. One whose operands are all dense, with a
       dimension for the heads, gains nothing and stays.

Runs before whatever fuses single products: it looks for plain MatMul. Sources of the forms: PyTorch's
`scaled_dot_product_attention` and `MultiheadAttention` through both of its exporters; BERT, GPT-2, ViT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from ...dtypes import Array
from ...lowering import Op, Operand
from ...registry import INTERNAL, ONNX
from ._block import Block
from ._match import Graph, graph_of, int_list, scalar_of

_FLOAT: Final = 1  # of TensorProto.DataType
_MOST_SIZE: Final = 512  # of a head; not all kernels know larger ones
_HIDDEN = -1e30  # what is added to or put for a score that shall not count: exp of it is 0 beside any other


# An axis of a view: (size, stride) of the stretches that it consists of, the outermost first. Merged
# axes stay in pieces where no single stride fits; a later Reshape may take them apart again.
_Axis: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as part of the memory of another one.

    Attributes:
        axes: of the tensor, in elements of `source`.
        scale: what the elements there must be multiplied by.
    """

    source: Operand
    offset: int
    axes: tuple[_Axis, ...]
    scale: float = 1.0

    @property
    def strides(self) -> tuple[int, ...] | None:
        """The stride of each axis, 0 where its size is 1; None where an axis has several."""
        if any(len(axis) > 1 for axis in self.axes):
            return None
        return tuple(axis[0][1] if axis else 0 for axis in self.axes)

    def stride(self, axis: int) -> int:
        return self.axes[axis][0][1] if self.axes[axis] else 0


def _steps(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _joined(pieces: Iterable[tuple[int, int]]) -> _Axis:
    """Return pieces with neighbours made one where one stride serves both."""
    made: list[tuple[int, int]] = []
    for size, stride in pieces:
        if size == 1:
            continue
        if made and made[-1][1] == size * stride:
            made[-1] = (made[-1][0] * size, stride)
        else:
            made.append((size, stride))
    return tuple(made)


# Views ----------------------------------------------------------------------------------------


def _views(graph: Graph, x: Operand) -> Iterator[_View]:
    """Yield the ways to see `x` as part of another operand, the earliest operand first, `x` itself last."""
    op = graph.producer(x)
    if op is not None and op.domain == ONNX and op.op_type in _THROUGH:
        inner = op.inputs[1] if op.op_type == "Mul" and scalar_of(op.inputs[0]) is not None else op.inputs[0]
        if inner is not None and inner.dtype == x.dtype and inner.layout is None:
            for view in _views(graph, inner):
                seen = _THROUGH[op.op_type](op, x, view)
                if seen is not None:
                    yield seen
    yield _View(x, 0, tuple(_joined([piece]) for piece in zip(x.shape, _steps(x.shape), strict=True)))


def _transposed(op: Op, x: Operand, view: _View) -> _View:
    perm = op.attributes.get("perm") or range(x.ndim)[::-1]
    return replace(view, axes=tuple(view.axes[axis] for axis in perm))


def _reshaped(op: Op, x: Operand, view: _View) -> _View | None:
    return _with_shape(view, x.shape)


def _with_shape(view: _View, shape: Sequence[int]) -> _View | None:
    pool = list(_joined(piece for axis in view.axes for piece in axis))
    axes: list[_Axis] = []
    for wanted in reversed(shape):
        missing, pieces = wanted, []
        while missing > 1:
            if not pool:
                return None
            size, stride = pool.pop()
            taken = math.gcd(size, missing)
            if taken not in (size, missing):
                return None
            if taken < size:
                pool.append((size // taken, stride * taken))
            pieces.append((taken, stride))
            missing //= taken
        axes.append(_joined(reversed(pieces)))
    return replace(view, axes=tuple(reversed(axes)))


def _scaled(op: Op, x: Operand, view: _View) -> _View | None:
    factor = scalar_of(op.inputs[1])
    if op.op_type == "Mul" and factor is None:
        factor = scalar_of(op.inputs[0])
    if factor is None or len(view.axes) != x.ndim or not 0 < factor < math.inf:
        return None
    return replace(view, scale=view.scale / factor if op.op_type == "Div" else view.scale * factor)


def _cut(view: _View, axis: int, first: int, size: int) -> _View | None:
    """See `size` elements of an axis from `first` on."""
    if len(view.axes[axis]) > 1:
        return None
    stride = view.stride(axis)
    axes = list(view.axes)
    axes[axis] = _joined([(size, stride)])
    return replace(view, axes=tuple(axes), offset=view.offset + first * stride)


def _part(op: Op, x: Operand, view: _View) -> _View | None:
    """See a piece that Split made."""
    axis = int(op.attributes.get("axis", 0)) % x.ndim
    before = 0
    for y in op.outputs:
        if y is x:
            return _cut(view, axis, before, x.shape[axis])
        if y is None:
            return None
        before += y.shape[axis]
    return None


def _sliced(op: Op, x: Operand, view: _View) -> _View | None:
    source = op.inputs[0]
    starts, axes, steps = int_list(op, 1, "starts"), int_list(op, 3, "axes"), int_list(op, 4, "steps")
    if source is None or starts is None or axes is None or steps is None or any(step != 1 for step in steps):
        return None
    seen: _View | None = view
    for axis, start in zip(axes or range(len(starts)), starts, strict=True):
        size = source.shape[axis]
        first = min(size, max(0, start + size if start < 0 else start))
        seen = None if seen is None else _cut(seen, axis % x.ndim, first, x.shape[axis])
    return seen


def _gathered(op: Op, x: Operand, view: _View) -> _View | None:
    source, indices = op.inputs[:2]
    if source is None or indices is None or indices.constant is None or indices.ndim != 0:
        return None
    axis = int(op.attributes.get("axis", 0)) % source.ndim
    size, index = source.shape[axis], int(indices.constant)
    if not -size <= index < size:
        return None
    seen = _cut(view, axis, index % size, 1)
    return None if seen is None else replace(seen, axes=seen.axes[:axis] + seen.axes[axis + 1 :])


_THROUGH: Final[dict[str, Callable[[Op, Operand, _View], _View | None]]] = {
    "Transpose": _transposed,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Flatten": _reshaped,
    "Identity": _reshaped,
    "Mul": _scaled,
    "Div": _scaled,
    "Split": _part,
    "Slice": _sliced,
    "Gather": _gathered,
}


def _with_neighbours(views: Iterable[_View], axis: int = -1, scaled: bool = True) -> _View | None:
    """Return the first view in which elements along `axis` are neighbours.

    Args:
        scaled: whether its elements may have to be multiplied.
    """
    for view in views:
        is_plain = view.source.layout is None and view.strides is not None
        if is_plain and view.stride(axis) in (0, 1) and (scaled or view.scale == 1.0):
            return view
    return None


def _heads(graph: Graph, x: Operand, heads: int) -> Iterator[_View]:
    """Yield the ways to see an input of Attention, (B, S, heads * D) or (B, heads, S, D), as the latter."""
    for view in _views(graph, x):
        if x.ndim == 4:
            yield view
        elif (seen := _with_shape(view, (*x.shape[:2], heads, x.shape[2] // heads))) is not None:
            yield replace(seen, axes=tuple(seen.axes[axis] for axis in (0, 2, 1, 3)))


# Scores ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Scores:
    """What was found between the two products.

    Attributes:
        ops: all that vanish, the two products included.
        hides: the value of a bool mask that hides.
        fill: what a score becomes there.
        blind: what a query that sees no key gives: 1 NaN, 2 zeros, as for a NaN among its scores.
    """

    ops: list[Op]
    product: Op | None = None
    scale: float = 1.0
    mask: Operand | None = None
    hides: int = 0
    fill: float = -math.inf
    is_causal: bool = False
    blind: int = 1
    masked: bool = False


def _walk_up(graph: Graph, last: Op) -> _Scores | None:
    """Follow the probabilities of `last`, a product with V, up to the product of Q and K."""
    found = _Scores([last])
    probabilities = last.inputs[0]
    op = graph.producer(probabilities)
    if op is None or graph.sole_reader(probabilities) is not last:
        return None
    if op.op_type == "Where":
        guarded = _without_guard(graph, op)
        if guarded is None:
            return None
        found.ops += [op, *guarded[1:]]
        found.blind = 2
        op = guarded[0]
    if op.op_type != "Softmax" or op.domain != ONNX or not _is_over_last_axis(op):
        return None
    while True:
        found.ops.append(op)
        if op.op_type == "MatMul":
            found.product = op
            return found
        above = _above(op, found)
        if above is None or graph.sole_reader(above) is not op:
            return None
        maker = graph.producer(above)
        if maker is None or maker.domain != ONNX:
            return None
        op = maker


def _without_guard(graph: Graph, op: Op) -> list[Op] | None:
    """Return [Softmax, IsNaN] of Where(IsNaN(p), 0, p) with p from a Softmax that nothing else reads."""
    condition, zero, p = op.inputs
    test, maker = graph.producer(condition), graph.producer(p)
    if test is None or maker is None or p is None or test.op_type != "IsNaN" or scalar_of(zero) != 0:
        return None
    is_private = graph.sole_reader(condition) is op and set(graph.readers(p)) == {op, test}
    if test.inputs[0] is not p or not is_private or graph.is_result(p):
        return None
    return [maker, test]


def _is_over_last_axis(op: Op) -> bool:
    x = op.inputs[0]
    assert x is not None
    return int(op.attributes.get("axis", -1 if op.opset >= 13 else 1)) in (-1, x.ndim - 1)


def _above(op: Op, found: _Scores) -> Operand | None:
    """Note what an op does to the scores, and return the scores it does it to; None where it does not fit."""
    y = op.outputs[0]
    if op.op_type == "Softmax":
        return op.inputs[0]
    assert y is not None
    if op.op_type in ("Mul", "Div"):
        return _unscaled(op, y, found)
    if found.masked or found.scale != 1.0:
        return None  # a second mask, or one within the scale
    if op.op_type == "Add":
        return _unbiased(op, y, found)
    return _unfilled(op, y, found) if op.op_type == "Where" else None


def _unscaled(op: Op, y: Operand, found: _Scores) -> Operand | None:
    x, factor = op.inputs
    if op.op_type == "Mul" and scalar_of(factor) is None:
        x, factor = factor, x
    value = scalar_of(factor)
    if x is None or value is None or x.shape != y.shape or not 0 < value < math.inf:
        return None
    found.scale *= 1 / value if op.op_type == "Div" else value
    return x


def _unbiased(op: Op, y: Operand, found: _Scores) -> Operand | None:
    x, mask = op.inputs
    if x is None or mask is None:
        return None
    if x.constant is not None or x.shape != y.shape:
        x, mask = mask, x
    if x.shape != y.shape or mask.dtype != x.dtype or mask.layout is not None:
        return None
    found.masked = True
    if mask.constant is not None and _is_causal(mask.constant >= 0, y.shape):
        below = np.tri(*y.shape[-2:], dtype=np.bool_)
        if (np.where(below, mask.constant, 0) == 0).all() and (mask.constant[..., ~below] <= _HIDDEN).all():
            found.is_causal = True
            return x
    found.mask = mask
    return x


def _unfilled(op: Op, y: Operand, found: _Scores) -> Operand | None:
    condition, x, other = op.inputs
    hides = 0
    if scalar_of(x) is not None:
        x, other, hides = other, x, 1
    fill = scalar_of(other)
    if condition is None or x is None or fill is None or x.shape != y.shape or math.isnan(fill):
        return None
    found.masked = True
    if (
        condition.constant is not None
        and fill <= _HIDDEN
        and _is_causal(condition.constant != hides, y.shape)
    ):
        found.is_causal = True
    else:
        found.mask, found.hides, found.fill = condition, hides, fill
    return x


def _is_causal(visible: Array, shape: Sequence[int]) -> bool:
    """Whether what broadcasts to scores of a shape shows keys up to the query's own place, and no others."""
    if visible.ndim < 2 or visible.shape[-2:] != tuple(shape[-2:]) or math.prod(visible.shape[:-2]) != 1:
        return False
    return bool((visible.reshape(shape[-2:]) == np.tri(*shape[-2:], dtype=np.bool_)).all())


# The rewrite ----------------------------------------------------------------------------------


def recognize_attention(block: Block) -> int:
    """Fuse the attentions of a block; return how many there were."""
    graph = graph_of(block)
    for op in graph:
        if op.op_type == "MatMul" and op.domain == ONNX:
            found = _walk_up(graph, op)
            if found is not None:
                _fuse(graph, op, found)
        elif op.op_type == "Attention" and op.domain == ONNX:
            _fuse_operator(graph, op)
    return graph.commit()


def _fuse(graph: Graph, last: Op, found: _Scores) -> None:
    assert found.product is not None
    q, k = found.product.inputs
    v, y = last.inputs[1], last.outputs[0]
    if q is None or k is None or v is None or y is None:
        return
    sizes = _sizes(q, k, v, graph.block)
    if sizes is None:
        return
    scores = (*q.shape[:-1], k.shape[-1])
    mask_strides = (0, 0, 0, 0) if found.mask is None else _mask_strides(found.mask.shape, scores)
    q_view = _with_neighbours(_views(graph, q))
    k_view = _with_neighbours(_views(graph, k), -2)
    v_view = _with_neighbours(_views(graph, v), scaled=False)
    if mask_strides is None or q_view is None or k_view is None or v_view is None:
        return
    turn, goal, y_strides = _turned(graph, y)
    attributes = {
        "q_view": _placed(q_view),
        "k_view": _placed(replace(k_view, axes=(*k_view.axes[:-2], k_view.axes[-1], k_view.axes[-2]))),
        "v_view": _placed(v_view),
        "y_view": (0, *_batch_and_head(y_strides), y_strides[-2]),
        "sizes": sizes,
        "mask_strides": mask_strides,
        "scale": found.scale * q_view.scale * k_view.scale,
        "is_causal": int(found.is_causal),
        "fill": found.fill,
        "hides": found.hides,
        "blind": found.blind,
    }
    inputs: list[Operand | None] = [q_view.source, k_view.source, v_view.source]
    if found.mask is not None:
        inputs.append(found.mask)
    fused = Op("FusedAttention", inputs, [goal], attributes, INTERNAL, 1, last.nodes)
    graph.replace([*found.ops, *turn], fused)


def _turned(graph: Graph, y: Operand) -> tuple[list[Op], Operand, tuple[int, ...]]:
    """Return the Transpose behind a result if it vanishes (rule 2), what is written, and y's steps in it."""
    turn = graph.sole_reader(y)
    if turn is not None and turn.op_type == "Transpose" and turn.domain == ONNX:
        goal = turn.outputs[0]
        assert goal is not None
        perm = turn.attributes.get("perm") or range(y.ndim)[::-1]
        steps = _steps(goal.shape)
        turned = tuple(steps[list(perm).index(axis)] for axis in range(y.ndim))
        if turned[-1] == 1:
            return [turn], goal, turned
    return [], y, _steps(y.shape)


def _sizes(q: Operand, k: Operand, v: Operand, block: Block) -> tuple[int, ...] | None:
    """Return (B, H, H, queries, keys, D, Dv) of the operands of the two products; see rule 4."""
    if not q.ndim == k.ndim == v.ndim or not 2 <= q.ndim <= 4 or 0 in (*q.shape, *k.shape, *v.shape):
        return None
    if q.dtype not in (np.float32, *block.narrow):
        return None
    if any(x.dtype != q.dtype or x.layout is not None for x in (q, k, v)):
        return None
    fits = q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and q.shape[-1] == k.shape[-2]
    if not fits or k.shape[-1] != v.shape[-2]:
        return None
    batch, heads = (*q.shape[:-2], 1, 1)[:2]
    return batch, heads, heads, q.shape[-2], k.shape[-1], q.shape[-1], v.shape[-1]


def _placed(view: _View) -> tuple[int, int, int, int]:
    """Return the offset and the steps between batches, heads and rows."""
    strides = view.strides
    assert strides is not None
    return view.offset, *_batch_and_head(strides), strides[-2]


def _batch_and_head(strides: Sequence[int]) -> tuple[int, int]:
    batch, head = (*strides[:-2], 0, 0)[:2]
    return batch, head


def _mask_strides(shape: Sequence[int], scores: Sequence[int]) -> tuple[int, int, int, int] | None:
    """Return the steps of a mask over (B, H, queries, keys), None where it does not broadcast to them."""
    if len(shape) > len(scores):
        return None
    full = (1,) * (len(scores) - len(shape)) + tuple(shape)
    if any(size not in (1, wanted) for size, wanted in zip(full, scores, strict=True)):
        return None
    strides = [0 if size == 1 else step for size, step in zip(full, _steps(full), strict=True)]
    return *_batch_and_head(strides), strides[-2], strides[-1]


# ONNX Attention -------------------------------------------------------------------------------


def _fuse_operator(graph: Graph, op: Op) -> None:
    q, k, v, mask, *others = (*op.inputs, *[None] * 7)[:7]
    y, *more = op.outputs
    if q is None or k is None or v is None or y is None or any(x is not None for x in (*others, *more)):
        return
    given = op.attributes
    sizes = _attention_sizes(op, q, k, v, graph.block)
    windows = (given.get("left_window_size", -1), given.get("right_window_size", -1))
    if sizes is None or windows != (-1, -1) or given.get("softmax_precision") not in (None, _FLOAT):
        return
    batch, heads, kv_heads, queries, keys, size, value_size = sizes
    mask_strides = _attention_mask(op, mask, (batch, heads, queries, keys), q)
    q_view = _with_neighbours(_heads(graph, q, heads))
    k_view = _with_neighbours(_heads(graph, k, kv_heads))
    v_view = _with_neighbours(_heads(graph, v, kv_heads), scaled=False)
    if mask_strides is None or q_view is None or k_view is None or v_view is None:
        return
    if y.ndim == 4:
        turn, goal, y_strides = _turned(graph, y)
        if not turn and [q_view.source, k_view.source, v_view.source] == [q, k, v]:
            return
    else:
        steps = _steps((batch, queries, heads, value_size))
        turn, goal, y_strides = [], y, (steps[0], steps[2], steps[1], 1)
    scale = given.get("scale")
    scale = 1 / math.sqrt(size) if scale is None else float(scale)
    attributes = {
        "q_view": _placed(q_view),
        "k_view": _placed(k_view),
        "v_view": _placed(v_view),
        "y_view": (0, *y_strides[:3]),
        "sizes": sizes,
        "mask_strides": mask_strides,
        "scale": scale * q_view.scale * k_view.scale,
        "is_causal": int(given.get("is_causal", 0)),
        "softcap": float(given.get("softcap", 0.0)),
        "blind": 0,
    }
    inputs: list[Operand | None] = [q_view.source, k_view.source, v_view.source]
    if mask is not None:
        inputs.append(mask)
    fused = Op("FusedAttention", inputs, [goal], attributes, INTERNAL, 1, op.nodes)
    graph.replace([op, *turn], fused)


def _attention_sizes(op: Op, q: Operand, k: Operand, v: Operand, block: Block) -> tuple[int, ...] | None:
    """Return (B, Hq, Hk, queries, keys, D, Dv) of the inputs of an Attention; see rule 4."""
    if any(x.dtype != q.dtype or x.layout is not None or 0 in x.shape for x in (q, k, v)):
        return None
    if q.dtype not in (np.float32, *block.narrow) or not q.ndim == k.ndim == v.ndim:
        return None
    heads, kv_heads = (op.attributes.get(f"{name}_num_heads") for name in ("q", "kv"))
    if q.ndim == 4:
        if heads not in (None, q.shape[1]) or kv_heads not in (None, k.shape[1]):
            return None
        heads, kv_heads = q.shape[1], k.shape[1]
    elif q.ndim != 3 or not heads or not kv_heads:
        return None
    shapes = [q.shape, k.shape, v.shape]
    if q.ndim == 3:
        counts = (heads, kv_heads, kv_heads)
        if any(shape[2] % count for shape, count in zip(shapes, counts, strict=True)):
            return None
        shapes = [(b, n, s, d // n) for (b, s, d), n in zip(shapes, counts, strict=True)]
    (batch, _, queries, size), k_shape, v_shape = shapes
    fits = k_shape[:3] == v_shape[:3] and (k_shape[0], k_shape[3]) == (batch, size)
    if not fits or heads % kv_heads or max(size, v_shape[3]) > _MOST_SIZE:
        return None
    return batch, heads, kv_heads, queries, k_shape[2], size, v_shape[3]


def _attention_mask(
    op: Op, mask: Operand | None, scores: tuple[int, ...], q: Operand
) -> tuple[int, int, int, int] | None:
    """Return the steps of attn_mask over the scores; None where it is none that FusedAttention knows."""
    if mask is None:
        return 0, 0, 0, 0
    # From version 24 on, a mask that does not reach all keys hides the others.
    is_short = op.opset >= 24 and mask.ndim > 0 and mask.shape[-1] != scores[-1]
    if is_short or mask.layout is not None or mask.dtype not in (q.dtype, np.bool_):
        return None
    return _mask_strides(mask.shape, scores)
