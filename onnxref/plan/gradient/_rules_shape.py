"""Derivatives of operators that rearrange, repeat, cut, join or pad a tensor.

Where there is no inverse operator, the node is run again on the positions of the input's elements:
the result says where each element of the output came from, whatever the operator's version.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import schema
from ...graph import Node
from ._table import Call, Gradients, rule
from ._tape import Term


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", of=(0,))
def _reshape(call: Call) -> Gradients:
    return [call.grad.reshape(call.x.shape)]


@rule("Transpose")
def _transpose(call: Call) -> Gradients:
    perm = call.attribute("perm")
    inverse = None if perm is None else tuple(int(i) for i in np.argsort(perm))
    return [call.grad.apply("Transpose", perm=inverse)]


@rule("Expand", of=(0,))
def _expand(call: Call) -> Gradients:
    return [call.grad.fit_like(call.x)]


@rule("Trilu", of=(0,))
def _trilu(call: Call) -> Gradients:
    return [call.grad.apply("Trilu", call.get(1), upper=call.attribute("upper"))]


@rule("Concat")
def _concat(call: Call) -> Gradients:
    inputs = [x for x in call.inputs if x]
    axis = call.attribute("axis")
    axis = 1 if axis is None else axis
    end = None if axis == -1 else axis + 1
    sizes = [x.apply("Shape", start=axis, end=end) for x in inputs]
    lengths = call.tape.emit("Concat", *sizes, axis=0)
    return call.tape.emit_many(len(inputs), "Split", call.grad, lengths, axis=axis)


@rule("Split", of=(0,))
def _split(call: Call) -> Gradients:
    axis = call.attribute("axis")
    grads = [grad or call.tape.output_of(call.node, i).filled(0.0) for i, grad in enumerate(call.grads)]
    return [call.tape.emit("Concat", *grads, axis=0 if axis is None else axis)]


def sources(call: Call, **changes: Any) -> Term:
    """Run the node on positions in place of its first input; return them as int64, 0 for no element."""
    node, tape = call.node, call.tape
    found = schema.find(node.domain, node.op_type, node.opset)
    real = found is not None and "tensor(int64)" not in found.input_at(0).types
    inputs = [call.x.internal("Positions", real=int(real)).name, *changes.pop("others", node.inputs[1:])]
    out = tape.fresh(node.op_type)
    attributes = {**node.attributes, **changes}
    tape.add(Node(node.op_type, tuple(inputs), (out,), attributes, node.domain, out, opset=node.opset))
    result = Term(tape, out)
    return result.apply("Cast", to=7) if real else result


def _moved(call: Call, where: Term) -> Term:
    return call.grad.internal("PutFlat", where, call.x.shape)


@rule("Slice", "DepthToSpace", "SpaceToDepth", "CenterCropPad", "ReverseSequence", "Compress", of=(0,))
def _move(call: Call) -> Gradients:
    return [_moved(call, sources(call))]


@rule("Tile", of=(0,))
def _tile(call: Call) -> Gradients:
    if call.version >= 6:
        return _move(call)
    # The counts have the type of the data.
    others = [x.apply("Cast", to=11).name for x in (call[1], call[2])]
    return [_moved(call, sources(call, others=others))]


@rule("Pad", of=(0, 2))
def _pad(call: Call) -> Gradients:
    if call.version < 11:
        return [_moved(call, sources(call, value=0.0))]
    value = call.get(2)
    others = list(call.node.inputs[1:])
    if value is not None:
        others[1] = ""
    where = sources(call, others=others)
    if value is None or call.attribute("mode") != "constant":
        return [_moved(call, where)]
    padding = call.tape.where(where.apply("Equal", call.tape.emit("Constant", value_int=0)), call.grad, 0.0)
    return [_moved(call, where), None, padding.sum_all().reshape(value.shape)]
