"""Which elementwise ops become chains, and that the chains say what the ops said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import reference

from onnxref.lowering import Op, Operand
from onnxref.plan.passes._block import Block
from onnxref.plan.passes.chains import fuse_chains, is_fusable

_F32 = np.dtype("float32")


def _value(*shape, dtype="float32", constant=None):
    return Operand(
        tuple(shape), np.dtype(dtype), constant=None if constant is None else np.asarray(constant, dtype)
    )


def _op(op_type, *inputs, dtype="float32", opset=20, shape=None, **attributes):
    shape = np.broadcast_shapes(*(x.shape for x in inputs if x is not None)) if shape is None else shape
    return Op(op_type, list(inputs), [_value(*shape, dtype=dtype)], attributes, opset=opset)


def _block(ops, outputs):
    made = {y for op in ops for y in op.outputs}
    inputs = dict.fromkeys(x for op in ops for x in op.inputs if x is not None and x not in made)
    return Block(list(ops), list(inputs), list(outputs))


def _check_order(block):
    """Every value is made before it is read."""
    known = set(block.inputs)
    for op in block.ops:
        assert all(x is None or x in known for x in op.inputs)
        known.update(y for y in op.outputs if y is not None)
    assert all(y in known for y in block.outputs)


def test_a_chain_takes_all():
    x, scale = _value(2, 3, 4), _value(4)
    mul = _op("Mul", x, scale)
    sigmoid = _op("Sigmoid", mul.outputs[0])
    swish = _op("Mul", mul.outputs[0], sigmoid.outputs[0])
    block = _block([mul, sigmoid, swish], swish.outputs)
    assert fuse_chains(block) == 1
    (chain,) = block.ops
    assert chain.op_type == "Chain"
    assert chain.inputs == [x, scale]
    assert chain.outputs == swish.outputs
    assert chain.attributes["program"] == (("Mul", (0, 1), ()), ("Sigmoid", (2,), ()), ("Mul", (2, 3), ()))
    assert chain.attributes["dtypes"] == ("float32",) * 5
    assert chain.attributes["results"] == (4,)
    _check_order(block)


def test_values_read_elsewhere_become_outputs():
    x = _value(8)
    add = _op("Add", x, x)
    relu = _op("Relu", add.outputs[0])
    softmax = _op("Softmax", add.outputs[0])
    block = _block([add, relu, softmax], [*relu.outputs, *softmax.outputs])
    assert fuse_chains(block) == 1
    assert [op.op_type for op in block.ops] == ["Chain", "Softmax"]
    assert block.ops[0].outputs == [add.outputs[0], relu.outputs[0]]
    _check_order(block)


def test_no_cycle_and_no_reader_too_early():
    x = _value(8)
    add = _op("Add", x, x)
    softmax = _op("Softmax", add.outputs[0])
    join = _op("Mul", add.outputs[0], softmax.outputs[0])
    block = _block([add, softmax, join], join.outputs)
    assert fuse_chains(block) == 0
    assert [op.op_type for op in block.ops] == ["Add", "Softmax", "Mul"]


def test_other_shapes_stay_apart():
    x, y = _value(4), _value(3, 4)
    small = _op("Exp", x)
    large = _op("Add", small.outputs[0], y)
    last = _op("Relu", large.outputs[0])
    block = _block([small, large, last], last.outputs)
    assert fuse_chains(block) == 1
    assert [op.op_type for op in block.ops] == ["Exp", "Chain"]
    _check_order(block)


def test_limits():
    x = _value(4)
    ops = []
    value = x
    for _ in range(60):
        ops.append(_op("Add", value, _value(4)))
        value = ops[-1].outputs[0]
    block = _block(ops, [value])
    fuse_chains(block)
    _check_order(block)
    for op in block.ops:
        if op.op_type == "Chain":
            assert len(op.inputs) <= 8
            assert len(op.attributes["program"]) <= 24


def test_clip_and_power_take_their_constants_in():
    x = _value(5)
    square = _op("Pow", x, _value(constant=2.0), shape=(5,))
    clip = _op("Clip", square.outputs[0], _value(constant=0.5), None, shape=(5,))
    block = _block([square, clip], clip.outputs)
    assert fuse_chains(block) == 1
    (chain,) = block.ops
    assert chain.inputs == [x]
    power, limit = chain.attributes["program"]
    assert power == ("Pow", (0,), (("exponent", 2.0),))
    assert limit == ("Clip", (1,), (("high", 3.4028234663852886e38), ("low", 0.5)))


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (_op("Add", _value(3), _value(3)), True),
        (_op("Add", _value(3), _value(3), opset=6), False),
        (_op("Div", _value(3, dtype="int32"), _value(3, dtype="int32"), dtype="int32"), False),
        (_op("Exp", _value(3, dtype="float64"), dtype="float64"), False),
        (_op("Sin", _value(3)), False),
        (_op("Celu", _value(3), alpha=-1.0), False),
        (_op("Clip", _value(3), _value()), False),
        (_op("Pow", _value(3), _value(3)), False),
        (_op("Pow", _value(3), _value(constant=1.5)), False),
        (_op("Cast", _value(3), dtype="int64"), True),
        (_op("Cast", _value(3, dtype="int64"), dtype="bool"), True),
        (_op("Equal", _value(3, dtype="object"), _value(3, dtype="object"), dtype="bool"), False),
        (_op("Where", _value(3, dtype="bool"), _value(3), _value(3)), True),
        (_op("Softmax", _value(3)), False),
    ],
    ids=lambda value: str(value),
)
def test_what_is_fusable(op, expected):
    assert is_fusable(op) is expected


def test_the_kernels_know_every_instruction():
    chain = pytest.importorskip("onnxref.kernels.numba.chain")
    from onnxref.kernels.common.instructions import DEFAULTS

    from onnxref.plan.passes import chains

    assert set(chains._FUSABLE) <= set(chain._KNOWN)
    for name, fusable in chains._FUSABLE.items():
        assert fusable.dtypes <= chain._KNOWN[name].dtypes
        assert dict(fusable.attributes) == DEFAULTS.get(name, {})


# --- any graph -----------------------------------------------------------------------------------

_KINDS = ("Add", "Mul", "Relu", "Sigmoid", "Where", "Less", "ReduceSum", "Cast")


def _random_block(choices):
    """Return a block of ops on (2, 3) values, with a reduction here and there that nothing can pass."""
    values = [_value(2, 3), _value(3), _value()]
    booleans, ops = [], []
    for kind, first, second, flag in choices:
        x, y = values[first % len(values)], values[second % len(values)]
        if kind in ("Add", "Mul"):
            ops.append(_op(kind, x, y))
        elif kind == "Less":
            ops.append(_op(kind, x, y, dtype="bool"))
            booleans += ops[-1].outputs
            continue
        elif kind == "Where" and booleans:
            ops.append(_op(kind, booleans[flag % len(booleans)], x, y))
        elif kind == "Cast" and booleans:
            ops.append(_op(kind, booleans[flag % len(booleans)], to=1))
        elif kind == "ReduceSum":
            ops.append(_op(kind, x, shape=(1,) * x.ndim, keepdims=1))
        else:
            ops.append(_op("Relu" if kind == "Cast" else "Sigmoid" if kind == "Where" else kind, x))
        values += ops[-1].outputs
    results = {flag for _, _, _, flag in choices}
    made = [op.outputs[0] for op in ops]
    return _block(ops, dict.fromkeys([made[-1], *(y for i, y in enumerate(made) if i in results)]))


def _run(block, values):
    """Return the results of a block by the reference kernels; a chain instruction by instruction."""
    known = dict(values)
    for op in block.ops:
        given = [known[x] for x in op.inputs]
        if op.op_type != "Chain":
            known[op.outputs[0]] = reference(op.op_type, given, op.attributes, op.opset)[0]
            continue
        for name, operands, pairs in op.attributes["program"]:
            attributes = {"to": 1} if name == "Cast" else dict(pairs)
            given.append(reference(name, [given[i] for i in operands], attributes, 20)[0])
        assert [x.dtype.name for x in given] == list(op.attributes["dtypes"])
        known.update(zip(op.outputs, (given[i] for i in op.attributes["results"]), strict=True))
    return [known[y] for y in block.outputs]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(_KINDS), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)),
        min_size=1,
        max_size=30,
    )
)
def test_fusing_changes_no_result(choices):
    block = _random_block(choices)
    rng = np.random.default_rng(len(choices))
    values = {x: rng.standard_normal(x.shape).astype(x.dtype) for x in block.inputs}
    before = _run(block, values)
    fuse_chains(block)
    _check_order(block)
    for found, expected in zip(_run(block, values), before, strict=True):
        np.testing.assert_array_equal(found, expected)
