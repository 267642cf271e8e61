"""Small blocks for the tests of passes: built in a line or two, evaluated by the reference kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.graph import Node
from onnxref.lowering import Op, Operand
from onnxref.plan.passes._block import Block
from onnxref.registry import INTERNAL


def reference(
    op_type: str, inputs: Any, attributes: dict[str, Any], opset: int, count: int = 1
) -> tuple[Array, ...]:
    """Return the first `count` outputs of the reference kernel."""
    operator = registry.find("", op_type, opset)
    arguments = {"prepared": operator.prepare(**attributes)} if operator.prepare else dict(attributes)
    if operator.takes_context:
        arguments["ctx"] = registry.Context(wanted=(True,) * count, opset=opset)
    with np.errstate(all="ignore"):
        result = operator.kernel(*inputs, **arguments)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(np.asarray(y) for y in results[:count])


class Builder:
    """Makes a block op by op; shapes and types of values come from the reference kernels."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.inputs: list[Operand] = []
        self.values: dict[Operand, Array] = {}

    def input(self, array: Any) -> Operand:
        array = np.asarray(array)
        made = Operand(array.shape, array.dtype, f"in{len(self.inputs)}")
        self.inputs.append(made)
        self.values[made] = array
        return made

    def constant(self, array: Any) -> Operand:
        array = np.asarray(array)
        made = Operand(array.shape, array.dtype, "constant", array)
        self.values[made] = array
        return made

    def op(self, op_type: str, *inputs: Any, opset: int = 24, **attributes: Any) -> Operand:
        """Add an op and return its first output; arrays among the inputs become constants."""
        return self.ops_outputs(op_type, 1, *inputs, opset=opset, **attributes)[0]

    def ops_outputs(
        self, op_type: str, count: int, *inputs: Any, opset: int = 24, **attributes: Any
    ) -> list[Operand]:
        operands = [x if x is None or isinstance(x, Operand) else self.constant(x) for x in inputs]
        arrays = [None if x is None else self.values[x] for x in operands]
        results = reference(op_type, arrays, attributes, opset, count)
        name = f"n{len(self.ops)}"
        outputs = [Operand(y.shape, y.dtype, f"{name}.{i}") for i, y in enumerate(results)]
        self.values |= dict(zip(outputs, results, strict=True))
        node = Node(op_type, (), (), name=name)
        self.ops.append(Op(op_type, operands, list(outputs), attributes, "", opset, (node,)))
        return outputs

    def block(self, *outputs: Operand) -> Block:
        return Block(self.ops, self.inputs, list(outputs), normalizes=True)


def check_pass(
    run: Any, builder: Builder, *outputs: Operand, rtol: float = 1e-5, atol: float = 1e-5
) -> Block:
    """Run a pass and assert: same values, a valid order, every node kept, nothing left to do."""
    block = builder.block(*outputs)
    nodes = {id(node) for op in block.ops for node in op.nodes}
    run(block)
    found = evaluate(block, builder.values)
    for y in outputs:
        np.testing.assert_allclose(found[y], builder.values[y], rtol=rtol, atol=atol)
    assert {id(node) for op in block.ops for node in op.nodes} <= nodes
    before = list(block.ops)
    assert run(block) == 0, "a second run finds more"
    assert block.ops == before
    return block


def evaluate(block: Block, given: dict[Operand, Array]) -> dict[Operand, Array]:
    """Return the value of every operand; reads inputs and constants only."""
    values = {x: given[x] for x in block.inputs}
    for op in block.ops:
        arrays = []
        for x in op.inputs:
            if x is None:
                arrays.append(None)
                continue
            if x.constant is not None:
                values[x] = x.constant
            arrays.append(values[x])
        run = _INTERNAL[op.op_type] if op.domain == INTERNAL else _standard
        results = run(op, *arrays)
        for y, array in zip(op.outputs, results, strict=False):
            if y is not None:
                assert (y.shape, y.dtype) == (array.shape, array.dtype), op.op_type
                values[y] = array
    return values


def _standard(op: Op, *arrays: Any) -> tuple[Array, ...]:
    return reference(op.op_type, arrays, dict(op.attributes), op.opset, len(op.outputs))


def _activated(y: Array, attributes: dict[str, Any]) -> tuple[Array, ...]:
    name, alpha, beta = (attributes.pop(key, "") for key in ("activation", "alpha", "beta"))
    if not name:
        return (y,)
    if name == "Clip":
        return (np.clip(y, np.float32(alpha), np.float32(beta)),)
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "Silu": ("Swish", {}),
        "GeluTanh": ("Gelu", {"approximate": "tanh"}),
        "LeakyRelu": ("LeakyRelu", {"alpha": alpha}),
        "HardSigmoid": ("HardSigmoid", {"alpha": alpha, "beta": beta}),
    }
    op_type, given = kinds.get(name, (name, {}))
    return reference(op_type, (y,), given, 24)


def _fused_conv(op: Op, x: Any, w: Any, b: Any = None, residual: Any = None) -> tuple[Array, ...]:
    attributes = dict(op.attributes)
    order = attributes.pop("order", None)
    x = x if order is None else x[:, order]
    plain = {k: v for k, v in attributes.items() if k not in ("activation", "alpha", "beta")}
    (y,) = reference("Conv", (x, w, b), plain, 11)
    return _activated(y if residual is None else y + residual, attributes)


def _fused_matmul(op: Op, a: Any, b: Any, bias: Any = None, residual: Any = None) -> tuple[Array, ...]:
    attributes = dict(op.attributes)
    a = np.swapaxes(a, -1, -2) if attributes.pop("trans_a", 0) else a
    b = np.swapaxes(b, -1, -2) if attributes.pop("trans_b", 0) else b
    y = (a @ b) * np.float32(attributes.pop("scale", 1.0))
    for more in (bias, residual):
        y = y if more is None else y + more
    return _activated(y, attributes)


def _fused_attention(op: Op, *arrays: Any) -> tuple[Array, ...]:
    """Run the native kernel: the reference has none of views."""
    import onnxref.kernels.numba.attention  # noqa: F401 - registers the lowering
    from lowered import run_lowered

    y = op.outputs[0]
    assert y is not None
    return tuple(
        run_lowered(op.op_type, arrays, [(y.shape, y.dtype)], op.attributes, domain=op.domain, opset=1)
    )


def _shuffle_channels(op: Op, x: Any) -> tuple[Array, ...]:
    groups = op.attributes["groups"]
    return (np.stack(np.split(x, groups, axis=1), axis=2).reshape(x.shape),)


def _skip_normalization(op: Op, x: Any, skip: Any, *parameters: Any) -> tuple[Array, ...]:
    total = x + skip
    stash = {"stash_type": 11 if x.dtype == np.float64 else 1}
    y = reference(op.op_type.removeprefix("Skip"), (total, *parameters), {**op.attributes, **stash}, 24)[0]
    return y, total


def _normalized_matmul(op: Op, x: Any, gain: Any, shift: Any, *product: Any) -> tuple[Array, ...]:
    attributes = dict(op.attributes)
    name = "RMSNormalization" if attributes.pop("is_rms") else "LayerNormalization"
    parameters = (gain,) if shift is None else (gain, shift)
    a = reference(name, (x, *parameters), {"epsilon": attributes.pop("epsilon")}, 24)[0]
    return _fused_matmul(replace(op, attributes=attributes), a, *product)


_INTERNAL = {
    "FusedAttention": _fused_attention,
    "FusedConv": _fused_conv,
    "FusedMatMul": _fused_matmul,
    "NormalizedMatMul": _normalized_matmul,
    "ShuffleChannels": _shuffle_channels,
    "SkipLayerNormalization": _skip_normalization,
    "SkipRMSNormalization": _skip_normalization,
}
