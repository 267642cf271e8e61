"""MatMulNBits of com.microsoft: kernels/numpy/matmul_nbits.py, held to its definition and to ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nbits
import numpy as np
import onnx
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from nbits import Case
from onnx import TensorProto, helper, numpy_helper
from onnxref.kernels.numpy import matmul_nbits

import onnxref
from onnxref.dtypes import Array
from onnxref.errors import InvalidAttributeError, KernelError, ResourceLimitError, TypeMismatchError
from onnxref.limits import Limits
from onnxref.registry import find_shape_rule

onnxruntime = pytest.importorskip("onnxruntime")

NAMES = ("A", "B", "scales", "zero_points", "g_idx", "bias")


def run(inputs: list[Any], **attributes: Any) -> Array:
    y: Array = run_op("MatMulNBits", *inputs, opset=1, domain=nbits.DOMAIN, **attributes)
    return y


def model(case: Case, inputs: list[Array | None], **more: int) -> onnx.ModelProto:
    """Return a model of one node whose weights are constants."""
    given_names = [name if x is not None else "" for name, x in zip(NAMES, inputs, strict=True)]
    while not given_names[-1]:
        given_names.pop()
    attributes: dict[str, Any] = {**case.attributes, **more}
    node = helper.make_node("MatMulNBits", given_names, ["Y"], domain=nbits.DOMAIN, **attributes)
    element = helper.np_dtype_to_tensor_dtype(case.type)
    a = helper.make_tensor_value_info("A", element, [None] * len(case.rows) + [case.K])
    y = helper.make_tensor_value_info("Y", element, None)
    constants = [
        numpy_helper.from_array(x, name)
        for name, x in zip(NAMES[1:], inputs[1:], strict=True)
        if x is not None
    ]
    graph = helper.make_graph([node], "nbits", [a], [y], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(nbits.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def by_onnxruntime(made: onnx.ModelProto, feeds: dict[str, Any]) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, ["CPUExecutionProvider"])
    y: Array = session.run(None, feeds)[0]
    return y


CASES = [
    Case(),
    Case(rows=(), bias=True),
    Case(rows=(2, 3), K=100, N=7, zeros="packed", bias=True),
    Case(K=16, N=1, zeros="packed"),
    Case(K=100, bits=8, zeros="packed", block_size=32),
    Case(K=100, bits=2, zeros="packed", bias=True),
    Case(K=100, bits=2, zeros="real"),
    Case(K=70, zeros="real", block_size=32, bias=True),
    Case(zeros="packed", flat=True),
    Case(zeros="real", flat=True),
    Case(groups="ordered"),
    Case(groups="mixed", bias=True),
    Case(groups="padded", zeros="real"),
    Case(dtype="float16"),
    Case(K=200, block_size=128, dtype="float16", zeros="real", bias=True),
    Case(K=200, bits=8, dtype="float16", zeros="packed"),
    Case(rows=(0,)),
    Case(rows=(0, 4), bias=True, dtype="float16"),
    Case(N=0),
]
BEYOND = [
    Case(dtype="bfloat16", bias=True),
    Case(K=300, dtype="bfloat16", zeros="packed", bits=2),
    Case(K=300, dtype="bfloat16", zeros="real", bits=8),
    Case(groups="mixed", zeros="packed"),
    Case(groups="padded", zeros="packed", bits=8),
    Case(groups="mixed", bits=2),
    Case(zeros="real", bits=8),
]
"""What ONNX Runtime 1.31 refuses on a CPU, or computes otherwise: see docs/numerics.md."""


@pytest.mark.parametrize("case", [*CASES, *BEYOND], ids=str)
def test_definition(case: Case) -> None:
    inputs = case.inputs()
    y = run(inputs, **case.attributes)
    nbits.check(case, inputs, y)
    rule = find_shape_rule(nbits.DOMAIN, "MatMulNBits", 1)
    assert rule is not None
    foreseen = rule(*inputs, **case.attributes)
    assert (foreseen.shape, foreseen.dtype) == (y.shape, y.dtype)


@settings(max_examples=60, deadline=None)
@given(
    K=st.integers(1, 90),
    N=st.integers(1, 9),
    bits=st.sampled_from([2, 4, 8]),
    block_size=st.sampled_from([16, 32, 64]),
    zeros=st.sampled_from(["", "packed", "real"]),
    groups=st.sampled_from(["", "mixed", "padded"]),
)
def test_any_size(**given_sizes: Any) -> None:
    case = Case(**given_sizes)
    inputs = case.inputs()
    nbits.check(case, inputs, run(inputs, **case.attributes))


def test_no_columns_leave_the_bias() -> None:
    for bias in (False, True):
        case = Case(K=0, bias=bias)
        inputs = case.inputs()
        expected = np.zeros(5) if inputs[5] is None else inputs[5]
        np.testing.assert_array_equal(run(inputs, **case.attributes), np.broadcast_to(expected, (3, 5)))


def test_weights_come_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(N=9, zeros="packed")
    inputs = case.inputs()
    wanted = run(inputs, **case.attributes)
    monkeypatch.setattr(matmul_nbits, "_SLICE", 2 * case.K)
    np.testing.assert_allclose(run(inputs, **case.attributes), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_onnxruntime_agrees(case: Case) -> None:
    """ONNX Runtime is within the bound too, so that the two differ by no more than twice that."""
    inputs = case.inputs()
    feeds = {"A": inputs[0]}
    made = model(case, inputs)
    nbits.check(case, inputs, onnxref.run(made, feeds, backend="numpy")["Y"])
    nbits.check(case, inputs, by_onnxruntime(made, feeds))


def test_an_accuracy_level_changes_nothing() -> None:
    """ONNX Runtime rounds A to 8 bits with level 4; here A is never rounded."""
    case = Case(rows=(4,), K=256, N=16, block_size=32)
    inputs = case.inputs()
    feeds = {"A": inputs[0]}
    plain, allowed = model(case, inputs), model(case, inputs, accuracy_level=4)
    y = onnxref.run(plain, feeds, backend="numpy")["Y"]
    np.testing.assert_array_equal(onnxref.run(allowed, feeds, backend="numpy")["Y"], y)
    theirs = by_onnxruntime(allowed, feeds)
    a = inputs[0]
    assert a is not None
    # Half a step of 8 bits, of the largest element of a block, in every element.
    coarse = np.abs(a).max() / 127 / 2 * np.abs(nbits.weights(case, inputs)).sum(1)
    assert (np.abs(theirs - y) <= coarse).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_that_onnxruntime_packed(bits: int, symmetric: bool) -> None:
    """A model of two layers as ONNX Runtime's quantizer makes it of float weights."""
    state = pytest.importorskip("onnxruntime.capi._pybind_state")
    rng = np.random.default_rng(bits)
    nodes, constants, x = [], [], "x"
    size, wide = 72, {}
    for layer in range(2):
        K, N, block = (size, 40, 32) if layer == 0 else (40, size, 16)
        w = rng.standard_normal((K, N)).astype(np.float32)
        blocks = -(-K // block)
        b = np.zeros((N, blocks, block * bits // 8), np.uint8)
        scales = np.zeros(N * blocks, np.float32)
        zero = np.zeros((N, -(-blocks * bits // 8)), np.uint8)
        getattr(state, f"quantize_matmul_{bits}bits")(b, w, scales, zero, block, N, K, symmetric)
        held: dict[str, Array] = {
            "B": b,
            "s": scales.reshape(N, blocks),
            **({} if symmetric else {"z": zero}),
        }
        constants += [numpy_helper.from_array(value, f"{name}{layer}") for name, value in held.items()]
        case = Case(K=K, N=N, bits=bits, block_size=block)
        inputs: list[Array | None] = [None, b, scales, None if symmetric else zero, None, None]
        wide[layer] = nbits.weights(case, inputs)
        assert np.abs(wide[layer].T - w).max() <= np.ptp(w) / (2**bits - 1)
        names = [x, *(f"{name}{layer}" for name in held)]
        nodes.append(
            helper.make_node("MatMulNBits", names, [f"h{layer}"], "", "", nbits.DOMAIN, **case.attributes)
        )
        nodes.append(helper.make_node("Tanh", [f"h{layer}"], [f"y{layer}"]))
        x = f"y{layer}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "packed", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(nbits.DOMAIN, 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    feeds = {"x": rng.standard_normal((5, size)).astype(np.float32)}
    expected = np.tanh(np.tanh(feeds["x"] @ wide[0].T) @ wide[1].T)
    for backend in ("numpy", "numba"):
        y = onnxref.run(made, feeds, backend=backend)[x]
        np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_allclose(by_onnxruntime(made, feeds), expected, atol=2e-5)


# Refusals ------------------------------------------------------------------------------------------

BASE = Case(zeros="packed", bias=True)
WRONG: list[tuple[Case, dict[int, Any], dict[str, int], str]] = [
    (BASE, {0: np.zeros((3, 41), np.float32)}, {}, r"A must have K = 40 columns \(got shape \(3, 41\)\)"),
    (BASE, {0: np.float32(1).reshape(())}, {}, r"A must have K = 40 columns \(got shape \(\)\)"),
    (BASE, {1: np.zeros((5, 24), np.uint8)}, {}, r"B must have shape \(5, 3, 8\) \(got \(5, 24\)\)"),
    (BASE, {1: np.zeros((5, 3, 16), np.uint8)}, {}, r"B must have shape \(5, 3, 8\) \(got \(5, 3, 16\)\)"),
    (BASE, {2: np.zeros((3, 5), np.float32)}, {}, r"scales must have shape \(5, 3\) \(got \(3, 5\)\)"),
    (BASE, {2: np.zeros(14, np.float32)}, {}, r"scales must have shape \(5, 3\) \(got \(14,\)\)"),
    (BASE, {3: np.zeros((5, 3), np.uint8)}, {}, r"zero_points \(packed\) must have shape \(5, 2\)"),
    (BASE, {3: np.zeros((5, 2), np.float32)}, {}, r"zero_points must have shape \(5, 3\) \(got \(5, 2\)\)"),
    (BASE, {3: np.zeros((5, 3), np.float16)}, {}, "the type float32 of A .got float16"),
    (BASE, {4: np.zeros(39, np.int32)}, {}, r"g_idx must have shape \(40,\), or \(48,\) with padding"),
    (BASE, {4: np.full(40, 3, np.int32)}, {}, r"g_idx must be in \[0, 2\] \(got 3\)"),
    (BASE, {4: np.full(40, -1, np.int32)}, {}, r"g_idx must be in \[0, 2\] \(got -1\)"),
    (BASE, {5: np.zeros((1, 5), np.float32)}, {}, r"bias must have shape \(5,\) \(got \(1, 5\)\)"),
    (BASE, {}, {"bits": 3}, r"bits must be one of 2, 4, 8 \(got 3\)"),
    (BASE, {}, {"block_size": 8}, r"block_size must be a power of two, 16 or more \(got 8\)"),
    (BASE, {}, {"block_size": 48}, r"block_size must be a power of two, 16 or more \(got 48\)"),
    (BASE, {}, {"K": -1}, r"K must be >= 0 \(got -1\)"),
    (BASE, {}, {"N": -1}, r"N must be >= 0 \(got -1\)"),
    (BASE, {}, {"accuracy_level": 5}, r"accuracy_level must be one of .* \(got 5\)"),
    (BASE, {}, {"weight_prepacked": 1}, r"weight_prepacked must be 0, the documented layout \(got 1\)"),
]


@pytest.mark.parametrize(("case", "inputs", "attributes", "message"), WRONG, ids=lambda x: str(x)[:40])
def test_what_does_not_fit_is_refused(
    case: Case, inputs: dict[int, Any], attributes: dict[str, int], message: str
) -> None:
    values = [inputs.get(i, x) for i, x in enumerate(case.inputs())]
    given_ = {**case.attributes, **attributes}
    with pytest.raises(KernelError, match=message):
        run(values, **given_)
    rule = find_shape_rule(nbits.DOMAIN, "MatMulNBits", 1)
    assert rule is not None
    with pytest.raises(KernelError, match=message):
        rule(*values, **given_)


def test_padding_of_groups_may_hold_anything() -> None:
    case = Case(groups="padded")
    inputs = case.inputs()
    groups = inputs[4]
    assert groups is not None
    groups[case.K :] = -7
    nbits.check(case, inputs, run(inputs, **case.attributes))


def test_the_schema_is_checked() -> None:
    case = Case()
    made = model(case, case.inputs())
    del made.graph.node[0].attribute[:]
    with pytest.raises(InvalidAttributeError, match="requires the attribute 'K'"):
        onnxref.InferenceSession(made)
    wide = replace(case, dtype="float64")
    with pytest.raises(TypeMismatchError, match="input 'A' must be one of"):
        onnxref.InferenceSession(model(wide, wide.inputs()))


def test_a_large_result_is_foreseen() -> None:
    case = Case(rows=(1 << 10,), K=16, N=64)
    session = onnxref.InferenceSession(model(case, case.inputs()), limits=Limits(tensor_bytes=1 << 16))
    with pytest.raises(ResourceLimitError, match="tensor_bytes"):
        session.run(None, {"A": case.inputs()[0]})
