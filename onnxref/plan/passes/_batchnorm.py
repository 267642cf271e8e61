"""Puts BatchNormalization, and other arithmetic with constants per channel, into the weights before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...dtypes import Array
from ...lowering import Op, Operand, PackCache
from ...registry import ONNX
from ._block import Block
from ._match import FLOATS, graph_of, is_channel_vector


def fold_batchnorm(block: Block) -> int:
    """Put BatchNormalization, and scales and shifts per channel, into the constants of the op before.

    That is a Conv, ConvTranspose or Gemm with constant weights and bias whose result nobody else reads.
    The new constants are computed in float64 and rounded once, however many ops are folded. A
    BatchNormalization that finds no such op, but elementwise ops behind it, becomes Sub, Mul and Add.
    """
    graph = graph_of(block)
    for op in graph:
        if not _can_fold(op):
            continue
        affines, ops = [], [op]
        while (reader := graph.sole_reader(ops[-1].outputs[0])) is not None:
            affine = _affine(reader, ops[-1].outputs[0])
            if affine is None:
                break
            affines.append(affine)
            ops.append(reader)
        folded = _with_affine(op, ops[-1], affines, block.packs) if affines else None
        if folded is not None:
            graph.replace(ops, folded, at=op)
    return graph.commit() + _expand(block)


class _Affine(NamedTuple):
    """What an op does to each channel of the value before it."""

    sources: list[Array]  # the constants that it follows from
    key: tuple[Any, ...]  # all else that it follows from
    compute: Callable[[], tuple[Array, Array]]  # makes factors and shifts, (C,) in float64


def _affine(op: Op, x: Operand | None) -> _Affine | None:
    """Return what an op does to each channel of its input `x`, where it is affine with constants."""
    if op.domain != ONNX or x is None:
        return None
    if op.op_type == "BatchNormalization":
        return _affine_of_batchnorm(op) if op.inputs[0] is x else None
    if op.op_type in ("Mul", "Add") or (op.op_type in ("Sub", "Div") and op.inputs[0] is x):
        return _affine_of_arithmetic(op, x, op.inputs[1] if op.inputs[0] is x else op.inputs[0])
    return None


def _can_fold(op: Op) -> bool:
    if op.domain != ONNX or op.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return False
    y, w, b = op.outputs[0], op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else None
    if y is None or w is None or w.constant is None or w.dtype not in FLOATS:
        return False
    if op.op_type != "Gemm":
        return b is None or b.constant is not None
    if op.opset < 7 or op.attributes.get("beta", 1.0) != 1:
        return False
    return b is None or (b.constant is not None and is_channel_vector(b, y.shape, 1))


def _affine_of_batchnorm(op: Op) -> _Affine | None:
    attributes = op.attributes
    if op.opset >= 14:
        trains = bool(attributes.get("training_mode", 0))
    elif op.opset >= 7:
        trains = len(op.outputs) > 1
    else:
        trains = not attributes.get("is_test", 0)
    parameters = [p.constant for p in op.inputs[1:5] if p is not None and p.constant is not None]
    if trains or not attributes.get("spatial", 1) or len(parameters) < 4:
        return None
    epsilon = float(attributes.get("epsilon", np.float32(1e-5)))

    def compute() -> tuple[Array, Array]:
        scale, shift, mean, variance = (np.asarray(p, np.float64).reshape(-1) for p in parameters)
        factor = scale / np.sqrt(variance + epsilon)
        return factor, shift - mean * factor

    return _Affine(parameters, ("BatchNormalization", epsilon), compute)


def _affine_of_arithmetic(op: Op, x: Operand, other: Operand | None) -> _Affine | None:
    y = op.outputs[0]
    if (
        other is None
        or other.constant is None
        or y is None
        or y.shape != x.shape
        or x.ndim < 2
        or op.opset < 7
    ):
        return None
    if other.size != 1 and not is_channel_vector(other, x.shape, 1):
        return None
    constant, kind, channels = other.constant, op.op_type, x.shape[1]

    def compute() -> tuple[Array, Array]:
        c = np.broadcast_to(np.asarray(constant, np.float64).reshape(-1), (channels,))
        one, zero = np.ones(channels), np.zeros(channels)
        return {"Mul": (c, zero), "Div": (one / c, zero), "Add": (one, c), "Sub": (one, -c)}[kind]

    return _Affine([constant], (kind,), compute)


def _with_affine(base: Op, last: Op, affines: Sequence[_Affine], packs: PackCache) -> Op | None:
    """Return `base` with factors and shifts of its channels in its constants; None if not all are finite."""
    x, w = base.inputs[:2]
    b = base.inputs[2] if len(base.inputs) > 2 else None
    assert w is not None
    assert w.constant is not None
    weights, bias = w.constant, b.constant if b is not None else None
    factor, shift = np.ones(1), np.zeros(1)
    with np.errstate(all="ignore"):
        for affine in affines:
            scale, offset = affine.compute()
            factor, shift = factor * scale, shift * scale + offset
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        return None
    sources = [source for affine in affines for source in affine.sources]
    key = tuple(affine.key for affine in affines)
    axis, repeats = _channel_axis(base, w)
    spread = [1] * w.ndim
    spread[axis] = -1

    def build_weights() -> Any:
        if base.op_type == "ConvTranspose":  # (C, M / group, ...): rows of group g hold channels of g
            per_group = np.repeat(factor.reshape(repeats, 1, -1), weights.shape[0] // repeats, axis=1)
            wide = per_group.reshape(weights.shape[:2] + (1,) * (weights.ndim - 2))
        else:
            wide = factor.reshape(spread)
        return (weights * wide).astype(w.dtype)

    def build_bias() -> Any:
        old = 0.0 if bias is None else np.asarray(bias, np.float64).reshape(-1)
        return (old * factor + shift).astype(w.dtype)

    new_w, new_b = w, b
    if not (factor == 1).all():
        array = packs.get((weights, *sources), ("folded weights", key, axis, repeats), build_weights)
        new_w = Operand(w.shape, w.dtype, w.name, array)
    if b is not None or shift.any():
        array = packs.get((weights, bias, *sources), ("folded bias", key, axis, repeats), build_bias)
        new_b = Operand(array.shape, w.dtype, b.name if b else f"bias of {w.name}", array)
    inputs = [x, new_w] if new_b is None else [x, new_w, new_b]
    return Op(base.op_type, inputs, [last.outputs[0]], base.attributes, base.domain, base.opset, base.nodes)


def _channel_axis(op: Op, w: Operand) -> tuple[int, int]:
    """Return the axis of the weights that output channels lie along, and in how many groups."""
    if op.op_type == "Conv":
        return 0, 1
    if op.op_type == "ConvTranspose":
        return 1, int(op.attributes.get("group", 1))
    return (0 if op.attributes.get("transB", 0) else 1), 1


_ELEMENTWISE = frozenset(
    (
        "Add",
        "Clip",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mul",
        "PRelu",
        "Relu",
        "Sigmoid",
        "Swish",
        "Tanh",
    )
)


def _expand(block: Block) -> int:
    """Write BatchNormalization with constants as Sub, Mul and Add per channel, before elementwise ops.

    So it becomes part of their chain. It rounds as the reference does.
    """
    graph = graph_of(block)
    for op in graph:
        if op.domain == ONNX and op.op_type == "BatchNormalization" and op.outputs[0] is not None:
            readers = graph.readers(op.outputs[0])
            is_chained = any(reader.op_type in _ELEMENTWISE for reader in readers)
            ops = _expanded(op, block.packs) if is_chained else []
            if ops:
                graph.replace([op], *ops)
    return graph.commit()


def _expanded(op: Op, packs: PackCache) -> list[Op]:
    x, y = op.inputs[0], op.outputs[0]
    affine = _affine_of_batchnorm(op)
    if affine is None or x is None or y is None or x.ndim < 2 or x.dtype not in FLOATS:
        return []
    if any(parameter.dtype != x.dtype for parameter in affine.sources):
        return []
    dtype, epsilon = x.dtype, affine.key[1]
    scale, shift, mean, variance = affine.sources
    spread = (-1,) + (1,) * (x.ndim - 2)

    def factor() -> Array:
        with np.errstate(all="ignore"):
            made = scale * (1 / np.sqrt(variance + dtype.type(epsilon)))
        return np.asarray(made, dtype).reshape(spread)

    def constant(name: str, source: Array, build: Callable[[], Array]) -> Operand:
        array = packs.get((source, scale), (name, epsilon, x.ndim), build)
        return Operand(array.shape, dtype, f"{name} of {y.name}", array)

    operands = (
        ("Sub", constant("mean", mean, lambda: mean.reshape(spread))),
        ("Mul", constant("factor", variance, factor)),
        ("Add", constant("shift", shift, lambda: shift.reshape(spread))),
    )
    ops = []
    value = x
    for op_type, operand in operands:
        result = y if op_type == "Add" else Operand(y.shape, dtype, f"{y.name} {op_type}")
        ops.append(Op(op_type, [value, operand], [result], {}, ONNX, 14, op.nodes))
        value = result
    return ops
