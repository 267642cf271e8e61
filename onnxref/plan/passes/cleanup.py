"""Passes that take work out: ops that change nothing, transposes, normalisation into weights, epilogues.

Each is `pass_(block) -> number of rewrites` and changes nothing when run again. `fuse_epilogues` comes
after the passes of `patterns`, whose activations it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...lowering import Op, Operand, PackCache
from ...registry import INTERNAL, ONNX
from ._batchnorm import fold_batchnorm
from ._block import Block
from ._match import Graph, graph_of, int_list, is_channel_vector, is_scalar, reshape, scalar_of

__all__ = [
    "activation_of",
    "fold_batchnorm",
    "fuse_epilogues",
    "matmul_epilogue",
    "merge_transposes",
    "remove_identities",
]

_F32 = np.dtype(np.float32)
_LARGEST = float(np.finfo(np.float32).max)
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


# --- ops that change nothing -----------------------------------------------------------------------


def remove_identities(block: Block) -> int:
    """Take out ops whose output is their first input, bit for bit.

    An Add of zero is none of them: it makes +0 of -0.
    """
    graph = graph_of(block)
    for op in graph:
        source = _same(op, graph)
        if source is not None:
            graph.bypass(op, source)
    return graph.commit()


def _same(op: Op, graph: Graph) -> Operand | None:
    """Return the input that the output of an op equals, None where it is a new value."""
    rule = _IDENTITIES.get(op.op_type) if op.domain == ONNX else None
    if rule is None or not op.inputs or op.inputs[0] is None or op.outputs[0] is None:
        return None
    if any(y is not None and (graph.readers(y) or graph.is_result(y)) for y in op.outputs[1:]):
        return None
    x = op.inputs[0]
    if op.op_type == "Mul" and is_scalar(x, 1):
        x = op.inputs[1] or x
    if (x.shape, x.dtype) != (op.outputs[0].shape, op.outputs[0].dtype) or not rule(op):
        return None
    return x


def _always(op: Op) -> bool:
    return True


def _is_inactive_dropout(op: Op) -> bool:
    if op.opset >= 12:
        training = op.inputs[2] if len(op.inputs) > 2 else None
        return training is None or (training.constant is not None and not training.constant.any())
    return op.opset >= 7 or bool(op.attributes.get("is_test", 0))


def _pads_nothing(op: Op) -> bool:
    pads = int_list(op, 1, "paddings" if "paddings" in op.attributes else "pads")
    return pads is not None and not any(pads)


def _steps_forward(op: Op) -> bool:
    """Whether a Slice goes upward: what has its input's shape then is all of it."""
    steps = op.inputs[4] if len(op.inputs) > 4 else None
    return steps is None or (steps.constant is not None and bool((steps.constant > 0).all()))


def _has_one_input(op: Op) -> bool:
    return len(op.inputs) == 1


def _has_one_output(op: Op) -> bool:
    return len(op.outputs) == 1


def _is_identical_order(op: Op) -> bool:
    x = op.inputs[0]
    return x is not None and _permutation(op) == tuple(range(x.ndim))


def _by(neutral: float) -> Callable[[Op], bool]:
    def rule(op: Op) -> bool:
        either = op.inputs if op.op_type == "Mul" else op.inputs[1:]
        return any(is_scalar(x, neutral) for x in either)

    return rule


_IDENTITIES: dict[str, Callable[[Op], bool]] = {
    "Identity": _always,
    "Cast": _always,  # of one type to itself: `_same` compares
    "CastLike": _always,
    "Dropout": _is_inactive_dropout,
    **dict.fromkeys(_RESHAPES, _always),
    "Expand": _always,
    "Tile": _always,
    "Pad": _pads_nothing,
    "Slice": _steps_forward,
    "Transpose": _is_identical_order,
    "Concat": _has_one_input,
    "Sum": _has_one_input,
    "Max": _has_one_input,
    "Min": _has_one_input,
    "Mean": _has_one_input,
    "Split": _has_one_output,
    "Mul": _by(1),
    "Div": _by(1),
    "Pow": _by(1),
}


# --- transposes and reshapes -----------------------------------------------------------------------


def merge_transposes(block: Block) -> int:
    """Join transposes in a row and reshapes in a row.

    A transpose that moves only axes of size 1 is a Reshape.
    """
    graph = graph_of(block)
    for op in graph:
        if op.domain != ONNX or (op.op_type != "Transpose" and op.op_type not in _RESHAPES):
            continue
        merged = _merged(op, graph)
        if merged is not None:
            graph.replace([op], merged)
    return graph.commit()


def _merged(op: Op, graph: Graph) -> Op | None:
    """Return a simpler op for a Transpose or Reshape, None where there is none."""
    x, y = op.inputs[0], op.outputs[0]
    if x is None or y is None:
        return None
    before = graph.producer(x)
    if before is not None and (before.domain != ONNX or before.inputs[0] is None):
        before = None
    if op.op_type in _RESHAPES:
        if before is None or before.op_type not in _RESHAPES:
            return None
        return reshape(before.inputs[0], y, graph.block.packs, op, before)
    order = _permutation(op)
    if before is not None and before.op_type == "Transpose":
        inner = _permutation(before)
        joined = {"perm": tuple(inner[i] for i in order)}
        return Op("Transpose", [before.inputs[0]], [y], joined, ONNX, op.opset, op.nodes + before.nodes)
    moved = [axis for axis in order if x.shape[axis] != 1]
    if moved == sorted(moved) and order != tuple(range(x.ndim)):
        return reshape(x, y, graph.block.packs, op)
    return None


def _permutation(op: Op) -> tuple[int, ...]:
    x = op.inputs[0]
    assert x is not None
    given = op.attributes.get("perm")
    return tuple(range(x.ndim))[::-1] if given is None else tuple(int(i) for i in given)


# --- epilogues -------------------------------------------------------------------------------------


def activation_of(op: Op) -> dict[str, Any] | None:
    """Return the attributes `activation`, `alpha`, `beta` for an op that a fused kernel can apply."""
    name, alpha, beta = op.op_type, 0.0, 0.0
    given = op.attributes
    if op.domain != ONNX:
        return None
    if name == "Clip":
        bounds = _clip_bounds(op)
        if bounds is None:
            return None
        alpha, beta = bounds
    elif name == "LeakyRelu":
        alpha = float(given.get("alpha", np.float32(0.01)))
    elif name == "HardSigmoid":
        alpha, beta = (float(given.get(key, np.float32(d))) for key, d in (("alpha", 0.2), ("beta", 0.5)))
    elif name == "Swish":
        if given.get("alpha", 1.0) != 1:
            return None
        name = "Silu"
    elif name == "Gelu":
        name = "GeluTanh" if given.get("approximate", "none") == "tanh" else "Gelu"
    elif name not in ("Relu", "Sigmoid", "HardSwish", "Tanh"):
        return None
    return {"activation": name, "alpha": alpha, "beta": beta}


def _clip_bounds(op: Op) -> tuple[float, float] | None:
    low, high = -_LARGEST, _LARGEST
    if op.opset < 11:
        low, high = float(op.attributes.get("min", low)), float(op.attributes.get("max", high))
    else:
        bounds = [*op.inputs[1:3], None, None]
        found = [low, high]
        for i in range(2):
            operand = bounds[i]
            if operand is not None:
                value = scalar_of(operand)
                if value is None:
                    return None
                found[i] = value
        low, high = found
    return None if math.isnan(low) or math.isnan(high) else (low, high)


def fuse_epilogues(block: Block) -> int:
    """Let Conv, MatMul and Gemm do what follows them: bias, residual, activation.

    They become FusedConv and FusedMatMul of the internal domain. Only float32 and what is `narrow`. Rules:
        1. Only a value that nobody else reads is fused away.
        2. Conv: [Add of a tensor of the output's shape], [activation].
        3. MatMul, Gemm: [Mul or Div by a scalar], [Add of a vector of the last axis],
           [Add of a tensor of the output's shape], [activation].
        4. Of two products that are added, the later one takes the sum.
        5. A Transpose of the last two axes before a MatMul becomes a flag of it.
    """
    graph = graph_of(block)
    for op in graph:
        if op.domain != ONNX or op.outputs[0] is None or op.outputs[0].dtype not in (_F32, *block.narrow):
            continue
        epilogue = None
        if op.op_type == "Conv":
            epilogue = _conv_epilogue(op)
        elif op.op_type in ("MatMul", "Gemm"):
            epilogue = matmul_epilogue(op, graph)
        if epilogue is not None:
            epilogue.absorb(graph)
            if len(epilogue.ops) > 1:
                graph.replace(epilogue.ops, epilogue.fused())
    return graph.commit()


class _Epilogue:
    """A product, and what was found so far behind it."""

    def __init__(
        self, op_type: str, op: Op, operands: list[Operand | None], attributes: dict[str, Any]
    ) -> None:
        self.op_type = op_type
        self.base = op
        self.ops = [op]
        self.operands = operands
        self.attributes = attributes
        self.bias: Operand | None = None
        self.residual: Operand | None = None
        self.takes_scale = op_type == "FusedMatMul"
        self.takes_bias = op_type == "FusedMatMul"

    @property
    def result(self) -> Operand:
        y = self.ops[-1].outputs[0]
        assert y is not None
        return y

    def fused(self) -> Op:
        inputs = [*self.operands, self.bias, self.residual]
        while inputs[-1] is None:
            inputs.pop()
        outputs: list[Operand | None] = [self.result]
        return Op(self.op_type, inputs, outputs, self.attributes, INTERNAL, 1, self.base.nodes)

    def absorb(self, graph: Graph) -> None:
        """Take the readers one after the other as long as they fit."""
        while (reader := graph.sole_reader(self.result)) is not None:
            if reader.domain != ONNX or reader.outputs[0] is None:
                return
            if (reader.outputs[0].shape, reader.outputs[0].dtype) != (self.result.shape, self.result.dtype):
                return
            activation = activation_of(reader) if reader.inputs[0] is self.result else None
            if activation is not None:
                self.attributes |= activation
                self.ops.append(reader)
                return
            if not self._take(reader, graph):
                return
            self.ops.append(reader)

    def _take(self, reader: Op, graph: Graph) -> bool:
        """Take a Mul, Div, Add or Sum with another operand; False where it is none or does not fit."""
        is_sum = reader.op_type == "Sum" and len(reader.inputs) == 2
        if not is_sum and (reader.op_type not in ("Mul", "Div", "Add") or reader.opset < 7):
            return False
        first, second = reader.inputs
        if reader.op_type == "Div" and first is not self.result:
            return False
        other = second if first is self.result else first
        assert other is not None
        if reader.op_type in ("Mul", "Div"):
            return self.takes_scale and self._take_scale(other, reader.op_type)
        return self._take_bias(other, graph) or self._take_residual(other, graph)

    def _take_scale(self, other: Operand, op_type: str) -> bool:
        value = scalar_of(other)
        if value is None or not math.isfinite(value) or value == 0:
            return False
        scale = self.attributes.get("scale", 1.0)
        self.attributes["scale"] = scale * value if op_type == "Mul" else scale / value
        return True

    def _take_bias(self, other: Operand, graph: Graph) -> bool:
        n = self.result.shape[-1]
        if (
            not self.takes_bias
            or other.constant is None
            or not is_channel_vector(other, self.result.shape, -1)
        ):
            return False
        self.bias = _flat(other, n, graph.block.packs)
        self.takes_scale = self.takes_bias = False
        return True

    def _take_residual(self, other: Operand, graph: Graph) -> bool:
        if self.residual is not None or other.shape != self.result.shape or other is self.result:
            return False
        rival = graph.producer(other)
        if (
            rival is not None
            and rival.op_type in ("Conv", "MatMul", "Gemm")
            and graph.position(rival) > graph.position(self.base)
            and graph.sole_reader(other) is not None
        ):
            return False  # rule 4
        self.residual = other
        self.takes_scale = self.takes_bias = False
        return True


def _flat(operand: Operand, n: int, packs: PackCache) -> Operand:
    """Return a constant of n elements as a vector."""
    constant = operand.constant
    assert constant is not None
    if operand.shape == (n,):
        return operand
    array = packs.get((constant,), ("flat",), lambda: constant.reshape(-1))
    return Operand((n,), operand.dtype, operand.name, array)


def _conv_epilogue(op: Op) -> _Epilogue | None:
    y = op.outputs[0]
    if y is None or y.ndim not in (3, 4):
        return None
    made = _Epilogue("FusedConv", op, op.inputs[:2], dict(op.attributes))
    made.bias = op.inputs[2] if len(op.inputs) > 2 else None
    return made


def matmul_epilogue(op: Op, graph: Graph) -> _Epilogue | None:
    """Return a MatMul or Gemm as the begin of a FusedMatMul, None where it cannot be one."""
    a, b = op.inputs[:2]
    if a is None or b is None or a.ndim < 2 or b.ndim < 2:
        return None
    if op.op_type == "MatMul":
        made = _Epilogue("FusedMatMul", op, [a, b], {})
        _take_transposes(made, graph)
        return made
    given = op.attributes
    attributes = {"trans_a": int(given.get("transA", 0)), "trans_b": int(given.get("transB", 0))}
    scale, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))
    made = _Epilogue("FusedMatMul", op, [a, b], {**attributes, "scale": scale})
    c = op.inputs[2] if len(op.inputs) > 2 else None
    if op.opset < 7 or (c is not None and beta != 1):
        return None
    if c is not None:
        n = made.result.shape[-1]
        if c.constant is not None and is_channel_vector(c, made.result.shape, -1):
            made.bias = _flat(c, n, graph.block.packs)
        elif c.shape == (n,):
            made.bias = c
        elif c.shape == made.result.shape:
            made.residual = c
        else:
            return None
        made.takes_scale = made.takes_bias = False
    return made


def _take_transposes(epilogue: _Epilogue, graph: Graph) -> None:
    """Rule 5; the transposes stand before the product in `ops`."""
    for i, flag in enumerate(("trans_a", "trans_b")):
        x = epilogue.operands[i]
        maker = graph.producer(x)
        if x is None or maker is None or maker.domain != ONNX or maker.op_type != "Transpose":
            continue
        order = _permutation(maker)
        swapped = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
        if order == swapped and graph.sole_reader(x) is epilogue.base:
            epilogue.operands[i] = maker.inputs[0]
            epilogue.attributes[flag] = 1
            epilogue.ops.insert(0, maker)
