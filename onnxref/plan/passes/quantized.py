"""Quantized models: float operators between DequantizeLinear and QuantizeLinear become integer ones.

Rules
    1. DynamicQuantizeLinear, MatMulInteger, Cast, Mul by both scales, Add of a bias become one operator;
       or all but the first, where others read what it makes.
    2. A tensor of int8 that only DequantizeLinear reads becomes one of uint8: add 128 to it and its zero
       point. The kernels want unsigned activations.
    3. DequantizeLinear of inputs, an operator (and a Relu), QuantizeLinear become one operator:
       Conv, Gemm and MatMul by constant weights, Add, GlobalAveragePool; and what moves or picks
       elements only, if the scale stays the same, is done on the integers themselves.
    4. Gemm and MatMul that no QuantizeLinear follows give float32 from the integers.
    5. A quantized Add of what only a quantized Conv made is done by that.

Rule 1 moves no rounding but that of a fused multiply-add. Weights whose DequantizeLinear is folded
already are taken apart again, if that is exact. Rules 3 and 5 replace float32 sums by exact
ones: a result differs by one quantum at most, where it lies between two. Biases are rounded to multiples
of the product of the scales. A block of precision "strict" stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dtypes import Array
from ...lowering import Op, Operand
from ...registry import INTERNAL
from ._block import Block
from ._match import Graph, Match, Pattern, Value, graph_of

_FLOAT = 1  # TensorProto.FLOAT
_BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
_FLOAT32 = np.dtype(np.float32)


def fuse_quantized(block: Block) -> int:
    """Apply the rules of this module; return the number of rewrites."""
    if block.precision == "strict":
        return 0
    changed = _make_unsigned(block)
    graph = graph_of(block)
    for op in graph:
        _fuse_dynamic(graph, op)
        if op.op_type == "QuantizeLinear" and not op.domain:
            _fuse_quantize(graph, op)
        elif op.op_type in ("Gemm", "MatMul") and not op.domain:
            _fuse_product_to_float(graph, op)
    for op in graph:
        if op.op_type == "QuantizedAdd":
            _fuse_addition(graph, op)
    return changed + graph.commit()


# Rule 1 -------------------------------------------------------------------------------------------


def _is_matrix_of_bytes(operand: Operand) -> bool:
    return operand.constant is not None and operand.ndim == 2 and operand.dtype in (np.int8, np.uint8)


def _to_float(op: Op) -> bool:
    return op.attributes.get("to") == _FLOAT


_TO_FLOAT = Pattern(
    "Mul",
    Pattern(
        "Cast",
        Pattern("MatMulInteger", Value("a"), Value("b", _is_matrix_of_bytes), open=True, name="product"),
        where=_to_float,
    ),
    Pattern("Mul", Value("a_scale"), Value("b_scale")),
)


def _fuse_dynamic(graph: Graph, op: Op) -> None:
    found = graph.match(_TO_FLOAT, op)
    if found is None:
        return
    a_scale, b_scale = found["a_scale"], found["b_scale"]
    if b_scale.constant is None:
        a_scale, b_scale = b_scale, a_scale
    a_zero, b_zero = (*found.named["product"].inputs[2:], None, None)[:2]
    if not _fits(found, a_scale, b_scale, a_zero, b_zero):
        return
    ops, outputs, bias = found.ops, op.outputs, None
    addition = graph.sole_reader(op.outputs[0])
    if addition is not None and (bias := _bias(addition, op.outputs[0], found["b"].shape[1])) is not None:
        ops, outputs = [*ops, addition], addition.outputs
    quantization = _private_quantization(graph, ops, found["a"], a_scale, a_zero)
    if quantization is not None:
        inputs = [quantization.inputs[0], found["b"], b_scale, b_zero, bias]
        ops = [quantization, *ops]
        fused = Op("DynamicQuantizeMatMul", inputs, list(outputs), {}, INTERNAL, 1)
    else:
        inputs = [found["a"], found["b"], a_scale, b_scale, a_zero, b_zero, bias]
        fused = Op("MatMulIntegerToFloat", inputs, list(outputs), {}, INTERNAL, 1)
    graph.replace(ops, fused)


def _fits(
    found: Match, a_scale: Operand, b_scale: Operand, a_zero: Operand | None, b_zero: Operand | None
) -> bool:
    columns = found["b"].shape[1]
    if found["a"].ndim < 2 or b_scale.constant is None or (b_zero is not None and b_zero.constant is None):
        return False
    if a_scale.dtype != np.float32 or b_scale.dtype != np.float32 or a_scale.size != 1:
        return False
    if a_scale.ndim > 1 or (a_zero is not None and a_zero.size != 1):
        return False
    return all(value is None or value.size == 1 or value.shape == (columns,) for value in (b_scale, b_zero))


def _bias(addition: Op, product: Operand | None, columns: int) -> Operand | None:
    """Return the constant (columns,) that an op adds to a product."""
    if addition.op_type != "Add" or addition.domain:
        return None
    for operand in addition.inputs:
        if operand is None or operand is product:
            continue
        if operand.constant is not None and operand.shape == (columns,) and operand.dtype == np.float32:
            return operand
    return None


def _private_quantization(
    graph: Graph, ops: list[Op], a: Operand, a_scale: Operand, a_zero: Operand | None
) -> Op | None:
    """Return the DynamicQuantizeLinear that makes A, its scale and its zero point for `ops` alone."""
    maker = graph.producer(a)
    if maker is None or maker.op_type != "DynamicQuantizeLinear" or maker.outputs[:2] != [a, a_scale]:
        return None
    if a_zero is None or len(maker.outputs) < 3 or maker.outputs[2] is not a_zero:
        return None
    for made in (a, a_scale, a_zero):
        if graph.is_result(made) or any(reader not in ops for reader in graph.readers(made)):
            return None
    return maker


# Rule 2 -------------------------------------------------------------------------------------------


def _constant(value: Array, name: str = "") -> Operand:
    held = np.ascontiguousarray(value).reshape(value.shape)  # arithmetic turns rank 0 into scalars
    return Operand(held.shape, held.dtype, name, held)


def _is_scalar(operand: Operand | None, dtype: Any = None) -> bool:
    if operand is None or operand.constant is None or operand.size != 1 or operand.ndim > 1:
        return False
    return dtype is None or operand.dtype == dtype


def _equal(a: Operand, b: Operand) -> bool:
    if a.constant is None or b.constant is None or a.dtype != b.dtype:
        return False
    return np.array_equal(a.constant.reshape(-1), b.constant.reshape(-1))


def _at(op: Op, index: int) -> Operand | None:
    return op.inputs[index] if len(op.inputs) > index else None


def _make_unsigned(block: Block) -> int:
    """Apply rule 2; return how many tensors changed their type."""
    uses, changed = block.uses(), 0
    replaced: dict[Op, Op] = {}
    for op in block.ops:
        y = op.outputs[0] if op.outputs else None
        if op.op_type != "QuantizeLinear" or op.domain or y is None or y.dtype != np.int8:
            continue
        readers, zero = uses.get(y, []), _at(op, 2)
        if zero is None or not _is_scalar(zero, np.int8) or y in block.outputs or not readers:
            continue
        if any(reader.op_type != "DequantizeLinear" or not _has_zero(reader, y, zero) for reader in readers):
            continue
        assert zero.constant is not None
        unsigned = _constant((zero.constant.astype(np.int16) + 128).astype(np.uint8), zero.name)
        made = Operand(y.shape, np.dtype(np.uint8), y.name)
        attributes = {name: held for name, held in op.attributes.items() if name != "output_dtype"}
        replaced[op] = Op(op.op_type, [*op.inputs[:2], unsigned], [made], attributes, "", op.opset, op.nodes)
        for reader in readers:
            inputs = [made, reader.inputs[1], unsigned]
            replaced[reader] = Op(
                reader.op_type,
                inputs,
                list(reader.outputs),
                reader.attributes,
                "",
                reader.opset,
                reader.nodes,
            )
        changed += 1
    if changed:
        block.set_ops([replaced.get(op, op) for op in block.ops])
    return changed


def _has_zero(reader: Op, x: Operand, zero: Operand) -> bool:
    own = _at(reader, 2)
    return reader.inputs[0] is x and own is not None and _is_scalar(own, np.int8) and _equal(own, zero)


# Rule 3 -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Quantized:
    """A quantized tensor; scale and zero point are constants, the integers of weights too."""

    values: Operand
    scale: Operand
    zero: Operand
    axis: int = 1

    @property
    def parts(self) -> list[Operand | None]:
        return [self.values, self.scale, self.zero]

    def same_as(self, other: _Quantized) -> bool:
        return _equal(self.scale, other.scale) and _equal(self.zero, other.zero)


def _dequantized(graph: Graph, operand: Operand | None) -> _Quantized | None:
    """Return what a DequantizeLinear makes an operand of, scale and zero point being known."""
    maker = graph.producer(operand)
    if maker is None or maker.op_type != "DequantizeLinear" or maker.domain or operand is None:
        return None
    x, scale, zero = maker.inputs[0], maker.inputs[1], _at(maker, 2)
    if x is None or scale is None or scale.constant is None or scale.dtype != _FLOAT32 or scale.ndim > 1:
        return None
    if operand.dtype != _FLOAT32 or (zero is not None and (zero.constant is None or zero.ndim > 1)):
        return None
    if not (np.isfinite(scale.constant) & (scale.constant > 0)).all():
        return None
    zero = zero or _constant(np.zeros(scale.shape, x.dtype), "zero")
    axis = int(maker.attributes.get("axis", 1))
    return _Quantized(x, scale, zero, axis % max(1, x.ndim))


def _activation(graph: Graph, operand: Operand | None) -> _Quantized | None:
    """Return an operand that is quantized to 8 bits by one scale."""
    found = _dequantized(graph, operand)
    if found is None or found.values.dtype not in _BYTES or found.scale.size != 1:
        return None
    return found


def _weights(graph: Graph, operand: Operand | None, axis: int) -> _Quantized | None:
    """Return constant weights that are quantized to 8 bits, by one scale or by one along `axis`."""
    found = _dequantized(graph, operand)
    if found is None and operand is not None and operand.constant is not None:
        found = _requantized(graph.block, operand, operand.constant, axis)
    if found is None or found.values.dtype not in _BYTES or found.values.constant is None:
        return None
    return found if found.scale.size == 1 or found.axis == axis else None


def _requantized(block: Block, operand: Operand, value: Array, axis: int) -> _Quantized | None:
    """Return the integers that a folded DequantizeLinear has made weights of, to the bit."""
    if value.dtype != np.float32 or value.size == 0:
        return None
    integers = block.packs.get([value], ("int8 of", axis), lambda: find_integers(value, axis)[0])
    if integers.size == 0:
        return None
    scale = block.packs.get([value], ("scale of", axis), lambda: find_integers(value, axis)[1])
    zero = np.zeros(scale.shape, np.int8)
    return _Quantized(_constant(integers, operand.name), _constant(scale), _constant(zero), axis)


def find_integers(value: Array, axis: int) -> tuple[Array, Array]:
    """Return int8 numbers and float32 scales whose products are exactly `value`; empty if none are found.

    One scale, or one for each slice along `axis`. The largest number is taken to be 127 or 128, as
    symmetric quantization makes it; it names the scale but for its last bit.
    """
    if not value.size:
        return np.zeros(0, np.int8), np.zeros(0, np.float32)
    by_channel = [] if value.ndim <= axis else [np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)]
    for rows in (value.reshape(1, -1), *by_channel):
        largest = np.abs(rows).max(axis=1, keepdims=True)
        if not np.isfinite(largest).all():
            break
        scale = np.where(largest > 0, np.float32(np.nan), np.float32(1))
        sample = rows[:, :: max(1, rows.shape[1] // 64)]
        for most in (127, 128):
            guess = largest / np.float32(most)
            for candidate in (guess, np.nextafter(guess, np.float32(0)), np.nextafter(guess, largest)):
                fits = _fits_integers(sample, candidate) & (candidate * np.float32(most) == largest)
                scale = np.where(np.isnan(scale) & fits, candidate, scale)
        if not np.isnan(scale).any() and _fits_integers(rows, scale).all():
            integers = np.rint(rows / scale).astype(np.int8)
            if len(rows) == 1:
                return integers.reshape(value.shape), scale.reshape(())
            others = [d for i, d in enumerate(value.shape) if i != axis]
            return np.moveaxis(integers.reshape(-1, *others), 0, axis), scale.reshape(-1)
    return np.zeros(0, np.int8), np.zeros(0, np.float32)


def _fits_integers(rows: Array, scale: Array) -> Array:
    """Return (rows, 1): whether all elements of a row are multiples of its scale by an int8."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.rint(rows / scale)
    exact = (quotient * scale == rows) & (quotient >= -128) & (quotient <= 127)
    return np.asarray(exact.all(axis=1, keepdims=True))


def _fuse_quantize(graph: Graph, op: Op) -> None:
    """Find what a QuantizeLinear ends, and replace it."""
    x, scale, zero, y = op.inputs[0], op.inputs[1], _at(op, 2), op.outputs[0]
    if x is None or y is None or scale is None or y.dtype not in _BYTES or x.dtype != _FLOAT32:
        return
    if not _is_scalar(scale, _FLOAT32) or (zero is not None and not _is_scalar(zero)):
        return
    assert scale.constant is not None
    if not np.isfinite(scale.constant).all() or not (scale.constant > 0).all():
        return
    goal = _Quantized(y, scale, zero or _constant(np.zeros((), y.dtype), "zero"))
    ops, maker = [op], graph.producer(x)
    activation = ""
    if maker is not None and maker.op_type == "Relu" and not maker.domain and graph.sole_reader(x) is op:
        ops, activation, x = [maker, op], "Relu", maker.inputs[0]
        maker = graph.producer(x)
    rule = _RULES.get(maker.op_type) if maker is not None and not maker.domain else None
    if maker is None or rule is None or graph.sole_reader(x) is not ops[0] or maker.outputs[0] is not x:
        return
    made = rule(graph, maker, goal, activation)
    if made is not None:
        graph.replace([maker, *ops], made)


def _internal(name: str, inputs: Sequence[Operand | None], y: Operand | None, attributes: Any = None) -> Op:
    return Op(name, list(inputs), [y], dict(attributes or {}), INTERNAL, 1)


def _bias_in_quanta(
    graph: Graph, bias: Operand | None, x: _Quantized, w: _Quantized, n: int
) -> Operand | None:
    """Return a bias in multiples of the product of the scales.

    Raises:
        ValueError: it is not known, or too large for that.
    """
    if bias is None:
        return None
    assert x.scale.constant is not None
    assert w.scale.constant is not None
    value, held = bias.constant, _dequantized(graph, bias)
    if held is not None and held.values.constant is not None and held.scale.constant is not None:
        assert held.zero.constant is not None
        value = (held.values.constant.astype(np.int64) - held.zero.constant) * held.scale.constant.astype(
            np.float64
        )
    if value is None:
        raise ValueError("the bias is not constant")
    quantum = x.scale.constant.astype(np.float64).reshape(()) * w.scale.constant.reshape(-1)
    quanta = np.rint(np.broadcast_to(value.reshape(-1) / quantum, (n,)))
    if not (np.abs(quanta) < 2**29).all():
        raise ValueError("the bias is too large")
    return _constant(quanta.astype(np.int32), bias.name)


def _conv(graph: Graph, op: Op, goal: _Quantized, activation: str) -> Op | None:
    x, w = _activation(graph, op.inputs[0]), _weights(graph, op.inputs[1], 0)
    if x is None or w is None or op.attributes.get("group", 1) != 1 or x.values.ndim not in (3, 4):
        return None
    try:
        bias = _bias_in_quanta(graph, _at(op, 2), x, w, w.values.shape[0])
    except ValueError:
        return None
    attributes = {**op.attributes, "activation": activation}
    inputs = [*x.parts, *w.parts, goal.scale, goal.zero, bias]
    return _internal("QuantizedConv", inputs, goal.values, attributes)


def _add(graph: Graph, op: Op, goal: _Quantized, activation: str) -> Op | None:
    a, b = _activation(graph, op.inputs[0]), _activation(graph, op.inputs[1])
    if a is None or b is None or a.values.shape != b.values.shape:
        return None
    inputs = [*a.parts, *b.parts, goal.scale, goal.zero]
    return _internal("QuantizedAdd", inputs, goal.values, {"activation": activation})


def _global_average(graph: Graph, op: Op, goal: _Quantized, activation: str) -> Op | None:
    x = _activation(graph, op.inputs[0])
    if x is None or activation or x.values.dtype != np.uint8 or x.values.ndim not in (3, 4):
        return None
    return _internal("QuantizedGlobalAveragePool", [*x.parts, goal.scale, goal.zero], goal.values)


def _same(graph: Graph, op: Op, goal: _Quantized, activation: str) -> Op | None:
    """Move or pick integers instead of floats."""
    x = _activation(graph, op.inputs[0])
    if x is None or activation or not x.same_as(goal) or len(op.outputs) > 1:
        return None
    inputs = [x.values, *op.inputs[1:]]
    if op.op_type == "MaxPool" and x.values.dtype == np.uint8 and x.values.ndim == 4:
        return _internal("QuantizedMaxPool", inputs, goal.values, op.attributes)
    return Op(op.op_type, inputs, [goal.values], op.attributes, "", op.opset)


def _product(graph: Graph, op: Op) -> tuple[_Quantized, _Quantized, Operand | None] | None:
    """Return A, B (K, N) and C of a MatMul or a plain Gemm."""
    attributes = op.attributes
    if any(
        attributes.get(name, default) != default
        for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
    ):
        return None
    turned = bool(attributes.get("transB", 0))
    a, b = _activation(graph, op.inputs[0]), _weights(graph, op.inputs[1], 0 if turned else 1)
    if a is None or b is None or b.values.ndim != 2 or a.values.ndim < 2:
        return None
    if turned:
        matrix = b.values.constant
        assert matrix is not None
        held = graph.block.packs.get([matrix], "transposed", lambda: np.ascontiguousarray(matrix.T))
        b = _Quantized(_constant(held, b.values.name), b.scale, b.zero)
    return a, b, _at(op, 2)


def _is_row(shape: tuple[int, ...], n: int) -> bool:
    """Whether a Gemm adds a C of this shape to each of its rows: (N, 1) is a column, also where M is N."""
    return shape in ((n,), (1, n), (1,), (1, 1), ())


def _quantized_product(graph: Graph, op: Op, goal: _Quantized, activation: str) -> Op | None:
    found = _product(graph, op)
    if found is None:
        return None
    a, b, c = found
    n = b.values.shape[1]
    if c is not None and not _is_row(c.shape, n):
        return None
    try:
        bias = _bias_in_quanta(graph, c, a, b, n)
    except ValueError:
        return None
    inputs = [*a.parts, *b.parts, goal.scale, goal.zero, bias]
    return _internal("QuantizedMatMul", inputs, goal.values, {"activation": activation})


_RULES: dict[str, Callable[[Graph, Op, _Quantized, str], Op | None]] = {
    "Conv": _conv,
    "Gemm": _quantized_product,
    "MatMul": _quantized_product,
    "Add": _add,
    "GlobalAveragePool": _global_average,
    **dict.fromkeys(("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"), _same),
}


# Rules 4 and 5 ------------------------------------------------------------------------------------


def _fuse_product_to_float(graph: Graph, op: Op) -> None:
    """Apply rule 4, unless rule 3 will."""
    y = op.outputs[0]
    reader = graph.sole_reader(y)
    if reader is not None and reader.op_type == "Relu":
        reader = graph.sole_reader(reader.outputs[0])
    if y is None or (reader is not None and reader.op_type == "QuantizeLinear"):
        return
    found = _product(graph, op)
    if found is None:
        return
    a, b, c = found
    n = b.values.shape[1]
    if c is not None:
        held = _dequantized(graph, c)
        value = c.constant
        if held is not None and held.values.constant is not None:
            assert held.zero.constant is not None
            assert held.scale.constant is not None
            difference = held.values.constant.astype(np.int64) - held.zero.constant
            value = difference.astype(np.float32) * held.scale.constant
        if value is None or not _is_row(value.shape, n):
            return
        c = _constant(np.ascontiguousarray(np.broadcast_to(value.reshape(-1), (n,)), np.float32), c.name)
    inputs = [a.values, b.values, a.scale, b.scale, a.zero, b.zero, c]
    graph.replace([op], _internal("MatMulIntegerToFloat", inputs, y))


def _fuse_addition(graph: Graph, op: Op) -> None:
    """Apply rule 5."""
    for own, other in ((0, 3), (3, 0)):
        value = op.inputs[own]
        maker = graph.producer(value)
        if maker is None or maker.op_type != "QuantizedConv" or graph.sole_reader(value) is not op:
            continue
        rest = op.inputs[other]
        if len(maker.inputs) > 9 or maker.attributes["activation"] or rest is None or value is None:
            continue
        y = op.outputs[0]
        if y is None or not rest.dtype == value.dtype == y.dtype == np.uint8:
            continue
        inputs = [*maker.inputs, *op.inputs[other : other + 3], *op.inputs[6:8]]
        attributes = {**maker.attributes, "activation": op.attributes["activation"]}
        graph.replace([maker, op], _internal("QuantizedConv", inputs, y, attributes))
        return
