"""Passes that recognize operators which a model spells out, and put the operator itself in their place.

Exporters of older opsets write LayerNormalization, Gelu and the like as eight ops of arithmetic. They are
rewritten to the standard's newest form, whatever opset the model imports, so that one kernel serves
all. Only float32 and float64 are: narrower types would round elsewhere. Each pass is
`pass_(block) -> number of rewrites` and changes nothing when run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...lowering import Op, Operand
from ...registry import INTERNAL, ONNX
from ._block import Block
from ._match import (
    FLOATS,
    Either,
    Graph,
    Match,
    Pattern,
    Term,
    Value,
    graph_of,
    is_scalar,
    reduced_axes,
    reshape,
    scalar_of,
)

_Build = Callable[[Match, Op], "Op | None"]  # from a match and its root


def _rewrite(block: Block, rules: dict[str, list[tuple[Pattern, _Build]]]) -> int:
    graph = graph_of(block)
    for op in graph:
        y = op.outputs[0]
        if op.domain != ONNX or op.op_type not in rules or y is None:
            continue
        if y.dtype not in (*FLOATS, *block.narrow):
            continue
        for pattern, build in rules[op.op_type]:
            found = graph.match(pattern, op)
            made = build(found, op) if found is not None else None
            if found is not None and made is not None:
                graph.replace(found.ops, made)
                break
    return graph.commit()


def _table(*rules: tuple[Pattern, _Build]) -> dict[str, list[tuple[Pattern, _Build]]]:
    table: dict[str, list[tuple[Pattern, _Build]]] = {}
    for pattern, build in rules:
        table.setdefault(pattern.op_type, []).append((pattern, build))
    return table


# --- activations -----------------------------------------------------------------------------------

_X = Value("x")
_SQRT_2, _SQRT_2_PI, _CUBIC = math.sqrt(2), math.sqrt(2 / math.pi), 0.044715


def _elementwise(op_type: str, opset: int, **attributes: object) -> _Build:
    def build(found: Match, root: Op) -> Op | None:
        y, x = root.outputs[0], found["x"]
        if y is None or x.shape != y.shape:
            return None
        return Op(op_type, [x], [y], dict(attributes), ONNX, opset)

    return build


def _swish(found: Match, root: Op) -> Op | None:
    made = _elementwise("Swish", 24)(found, root)
    alpha = scalar_of(found.values.get("alpha"))
    if made is not None and alpha is not None:
        made.attributes = {"alpha": alpha}
    return made


def _is_scalar_constant(operand: Operand) -> bool:
    return scalar_of(operand) is not None


def _halved(factor: Term) -> list[Pattern]:
    """Return the orders in which exporters multiply x, 0.5 and a factor."""
    return [
        Pattern("Mul", Pattern("Mul", _X, factor), 0.5),
        Pattern("Mul", Pattern("Mul", _X, 0.5), factor),
        Pattern("Mul", _X, Pattern("Mul", factor, 0.5)),
    ]


def _gelu() -> list[Pattern]:
    argument = Either((Pattern("Div", _X, _SQRT_2), Pattern("Mul", _X, 1 / _SQRT_2)))
    return _halved(Pattern("Add", Pattern("Erf", argument), 1.0))


def _gelu_tanh() -> list[Pattern]:
    square = Either((Pattern("Mul", _X, _X), Pattern("Pow", _X, 2.0)))
    cube = Either((Pattern("Pow", _X, 3.0), Pattern("Mul", _X, square)))
    cubic = Either(
        (
            Pattern("Mul", cube, _CUBIC),
            Pattern("Mul", square, Pattern("Mul", _X, _CUBIC)),
            Pattern("Mul", _X, Pattern("Mul", _X, Pattern("Mul", _X, _CUBIC))),
        )
    )
    growth = Pattern(
        "Add",
        Either((Pattern("Mul", square, _CUBIC), Pattern("Mul", _X, Pattern("Mul", _X, _CUBIC)))),
        1.0,
    )
    argument = Either(
        (
            Pattern("Mul", Pattern("Add", _X, cubic), _SQRT_2_PI),
            Pattern("Mul", Pattern("Mul", _X, _SQRT_2_PI), growth),
            Pattern("Mul", _X, Pattern("Mul", growth, _SQRT_2_PI)),
            Pattern("Mul", Pattern("Mul", _X, growth), _SQRT_2_PI),
        )
    )
    return _halved(Pattern("Add", Pattern("Tanh", argument), 1.0))


def _is_sixth(op: Op) -> bool:
    """Whether a HardSigmoid is clip(x / 6 + 0.5, 0, 1)."""
    alpha, beta = op.attributes.get("alpha", 0.2), op.attributes.get("beta", 0.5)
    return bool(abs(alpha - 1 / 6) < 1e-6 and beta == 0.5)


def _limits_to_6(op: Op) -> bool:
    if op.opset < 11:
        return op.attributes.get("min") == 0 and op.attributes.get("max") == 6
    return len(op.inputs) > 2 and is_scalar(op.inputs[1], 0) and is_scalar(op.inputs[2], 6)


def _activations() -> dict[str, list[tuple[Pattern, _Build]]]:
    alpha = Value("alpha", _is_scalar_constant)
    clipped = Pattern("Clip", Pattern("Add", _X, 3.0), where=_limits_to_6, open=True)
    sixth = Either((Pattern("Div", clipped, 6.0), Pattern("Mul", clipped, 1 / 6)))
    hard_swish = _elementwise("HardSwish", 14)
    rules: list[tuple[Pattern, _Build]] = [
        *((pattern, _elementwise("Gelu", 20)) for pattern in _gelu()),
        *((pattern, _elementwise("Gelu", 20, approximate="tanh")) for pattern in _gelu_tanh()),
        (Pattern("Mul", _X, Pattern("Sigmoid", _X)), _swish),
        (Pattern("Mul", _X, Pattern("Sigmoid", Pattern("Mul", _X, alpha))), _swish),
        (Pattern("Mul", _X, Pattern("Tanh", Pattern("Softplus", _X))), _elementwise("Mish", 18)),
        (Pattern("Mul", _X, Pattern("HardSigmoid", _X, where=_is_sixth)), hard_swish),
        (Pattern("Mul", _X, sixth), hard_swish),
        (Pattern("Div", Pattern("Mul", _X, clipped), 6.0), hard_swish),
        (Pattern("Mul", Pattern("Mul", _X, clipped), 1 / 6), hard_swish),
    ]
    return _table(*rules)


_ACTIVATIONS = _activations()


def recognize_activations(block: Block) -> int:
    """Find Gelu (by Erf and by Tanh), Swish, Mish and HardSwish."""
    return _rewrite(block, _ACTIVATIONS)


# --- softmax ---------------------------------------------------------------------------------------


def _keeps_axes(op: Op) -> bool:
    return bool(op.attributes.get("keepdims", 1)) and reduced_axes(op) not in (None, ())


def _softmax(found: Match, root: Op) -> Op | None:
    axes = reduced_axes(found.named["max"])
    if axes is None or len(axes) != 1 or reduced_axes(found.named["sum"]) != axes:
        return None
    return Op("Softmax", [found["x"]], [root.outputs[0]], {"axis": axes[0]}, ONNX, 13)


_TOP = Pattern("ReduceMax", _X, where=_keeps_axes, name="max", open=True)
_POWERS = Pattern("Exp", Pattern("Sub", _X, _TOP))
_SOFTMAX = _table(
    (
        Pattern("Div", _POWERS, Pattern("ReduceSum", _POWERS, where=_keeps_axes, name="sum", open=True)),
        _softmax,
    )
)


def recognize_softmax(block: Block) -> int:
    """Find exp(x - max(x)) / sum(exp(x - max(x))) along one axis."""
    return _rewrite(block, _SOFTMAX)


# --- layer and RMS normalisation -------------------------------------------------------------------


def _mean(x: Term, name: str) -> Pattern:
    return Pattern("ReduceMean", x, where=_keeps_axes, name=name, open=True)


def _standardised(x: Term) -> list[Pattern]:
    """Return the ways to write x / sqrt(mean(x**2) + epsilon)."""
    square = Either((Pattern("Mul", x, x), Pattern("Pow", x, 2.0)))
    sum_ = Pattern("Add", _mean(square, "variance"), Value("epsilon", _is_scalar_constant))
    root = Either((Pattern("Sqrt", sum_), Pattern("Pow", sum_, 0.5)))
    inverse = Either((Pattern("Reciprocal", root), Pattern("Div", 1.0, root), Pattern("Pow", sum_, -0.5)))
    return [Pattern("Div", x, root), Pattern("Mul", x, inverse)]


_CENTRED = Pattern("Sub", _X, _mean(_X, "mean"))
# Layer before RMS: what the first matches, the second does too, from the Sub on.
_NORMALIZATIONS = [
    *(("LayerNormalization", pattern) for pattern in _standardised(_CENTRED)),
    *(("RMSNormalization", pattern) for pattern in _standardised(_X)),
]


def recognize_normalizations(block: Block) -> int:
    """Find LayerNormalization and RMSNormalization over the last axes, with their scale and bias."""
    graph = graph_of(block)
    for op in graph:
        y = op.outputs[0]
        if op.domain != ONNX or op.op_type not in ("Div", "Mul") or y is None:
            continue
        if y.dtype not in (*FLOATS, *block.narrow):
            continue
        for op_type, pattern in _NORMALIZATIONS:
            found = graph.match(pattern, op) if op.op_type == pattern.op_type else None
            if found is not None and _normalize(graph, op_type, found, op):
                break
    return graph.commit()


def _normalize(graph: Graph, op_type: str, found: Match, root: Op) -> bool:
    x, axes = found["x"], reduced_axes(found.named["variance"])
    if axes is None or axes != tuple(range(axes[0], x.ndim)) or root.outputs[0] is None:
        return False
    if root.outputs[0].shape != x.shape:
        return False
    if "mean" in found.named and reduced_axes(found.named["mean"]) != axes:
        return False
    row = x.shape[axes[0] :]
    ops = list(found.ops)
    scale = _parameter(graph, ops, root, "Mul", row)
    bias = None
    if op_type == "LayerNormalization":
        bias = _parameter(graph, ops, ops[-1], "Add", row)
    if scale is None:
        ones = graph.block.packs.get((), ("ones", row, x.dtype.name), lambda: np.ones(row, x.dtype))
        scale = Operand(row, x.dtype, f"ones for {x.name}", ones)
    epsilon = scalar_of(found["epsilon"])
    attributes = {"axis": axes[0], "epsilon": epsilon, "stash_type": 11 if x.dtype == np.float64 else 1}
    inputs: list[Operand | None] = [x, scale] if bias is None else [x, scale, bias]
    opset = 17 if op_type == "LayerNormalization" else 23
    graph.replace(ops, Op(op_type, inputs, [ops[-1].outputs[0]], attributes, ONNX, opset))
    return True


def _parameter(graph: Graph, ops: list[Op], op: Op, op_type: str, row: tuple[int, ...]) -> Operand | None:
    """Return what the one reader of an op multiplies it with or adds to it, if it has the shape of a row.

    The reader is put behind `ops`.
    """
    y = op.outputs[0]
    reader = graph.sole_reader(y)
    if reader is None or y is None or reader.domain != ONNX or reader.op_type != op_type:
        return None
    if reader.opset < 7:
        return None  # another kind of broadcasting
    first, second = reader.inputs
    other = second if first is y else first
    if other is None or reader.outputs[0] is None or reader.outputs[0].shape != y.shape:
        return None
    given = other.shape
    if len(given) > y.ndim or (1,) * (len(row) - len(given)) + given != (1,) * (len(given) - len(row)) + row:
        return None
    ops.append(reader)
    return other


def fuse_skip_normalizations(block: Block) -> int:
    """Let LayerNormalization and RMSNormalization add the two tensors that they normalise.

    Only float32 and what is `narrow`.
    The internal SkipLayerNormalization and SkipRMSNormalization have the sum as second output. Runs after
    the pass that lets products add their residual, which is better still.
    """
    graph = graph_of(block)
    for op in graph:
        if op.domain != ONNX or op.op_type not in ("LayerNormalization", "RMSNormalization"):
            continue
        total, y = op.inputs[0], op.outputs[0]
        add = graph.producer(total)
        if total is None or y is None or add is None or total.dtype not in (np.float32, *block.narrow):
            continue
        if add.domain != ONNX or add.op_type != "Add" or any(z is not None for z in op.outputs[1:]):
            continue
        parameters = op.inputs[1:]
        is_ready = all(p is None or graph.is_ready_before(p, add) for p in parameters)
        has_equal_shapes = all(x is not None and x.shape == total.shape for x in add.inputs)
        if not is_ready or not has_equal_shapes or op.attributes.get("stash_type", 1) != 1:
            continue
        attributes = {k: v for k, v in op.attributes.items() if k != "stash_type"}
        is_read = graph.is_result(total) or graph.sole_reader(total) is not op
        outputs = [y, total if is_read else None]
        inputs = [*add.inputs, *parameters]
        made = Op(f"Skip{op.op_type}", inputs, outputs, attributes, INTERNAL, 1, op.nodes)
        graph.replace([add, op], made, at=add)
    return graph.commit()


# --- pooling ---------------------------------------------------------------------------------------


def recognize_pooling(block: Block) -> int:
    """Turn ReduceMean over the height and width of an image into GlobalAveragePool and Reshape.

    Pools work on the layout that convolutions have.
    """
    graph = graph_of(block)
    for op in graph:
        x, y = op.inputs[0] if op.inputs else None, op.outputs[0]
        if op.domain != ONNX or op.op_type != "ReduceMean" or x is None or y is None:
            continue
        if x.ndim != 4 or x.dtype not in FLOATS or not x.size or reduced_axes(op) != (2, 3):
            continue
        if y.ndim == 4:
            graph.replace([op], Op("GlobalAveragePool", [x], [y], {}, ONNX, 1))
        else:
            pooled = Operand((*y.shape, 1, 1), y.dtype, f"{y.name} before it is flattened")
            pool = Op("GlobalAveragePool", [x], [pooled], {}, ONNX, 1)
            graph.replace([op], pool, reshape(pooled, y, block.packs))
    return graph.commit()


def recognize_patterns(block: Block) -> int:
    """Find all that this module knows but the fusion of skip normalizations, which comes later."""
    passes = (recognize_activations, recognize_softmax, recognize_normalizations, recognize_pooling)
    return sum(run(block) for run in passes)
