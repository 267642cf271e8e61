"""Elementwise lowerings beside the reference kernels.

Arithmetic, comparisons and rounding are exact; transcendental functions are within the errors of
`code/_math.py`, or within one unit of float16 and bfloat16.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnxref.kernels.numba.elementwise  # noqa: F401 - registers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import check_lowered, reference, run_lowered

from onnxref.lowering import Blocked, Op, Operand, Unsupported, find_lowering
from onnxref.native._target import target

_RNG = np.random.default_rng(5)
_SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -3.0,
    3.0,
    88.9,
    -104.0,
    1e-40,
    3e38,
    math.inf,
    -math.inf,
    math.nan,
]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def floats(*shape, dtype="float32", low=-8.0, high=8.0):
    """Numbers of a shape, some of them special."""
    x = _RNG.uniform(low, high, shape)
    return x.astype(dtype)


def specials(dtype="float32", count=79):
    x = np.concatenate([_RNG.uniform(-20, 20, count - len(_SPECIAL)), _SPECIAL])
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def integers(*shape, dtype="int32"):
    info = np.iinfo(dtype)
    x = _RNG.integers(info.min, info.max, shape, dtype, endpoint=True)
    x.reshape(-1)[: min(4, x.size)] = [info.min, info.max, 0, 1][: min(4, x.size)]
    return x


# --- one tensor ----------------------------------------------------------------------------------

_EXACT = (
    *(
        "Abs",
        "Neg",
        "Ceil",
        "Floor",
        "Round",
        "Sqrt",
        "Reciprocal",
        "Sign",
        "Relu",
        "LeakyRelu",
        "HardSigmoid",
    ),
    *("ThresholdedRelu", "Shrink", "Softsign", "IsNaN"),
)
_CLOSE = (
    *(
        "Exp",
        "Log",
        "Tanh",
        "Erf",
        "Sigmoid",
        "Softplus",
        "Mish",
        "Gelu",
        "Swish",
        "HardSwish",
        "Elu",
        "Selu",
    ),
    *("Celu", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"),
)


@pytest.mark.parametrize("op_type", _EXACT)
def test_exact_functions(op_type):
    check_lowered(op_type, [specials()])


@pytest.mark.parametrize("op_type", _CLOSE)
def test_functions_of_float32(op_type):
    # Beside -20, Gelu has left the range in which the reference itself keeps its digits.
    atol = 2e-6 if op_type == "HardSwish" else 1e-15 if op_type == "Gelu" else 1e-37
    check_lowered(op_type, [specials()], rtol=3e-6 if op_type == "Gelu" else 7e-7, atol=atol)


@pytest.mark.parametrize(
    "op_type", ["Exp", "Erf", "Sigmoid", "Gelu", "Mish", "Elu", "HardSwish", "Tanh", "Floor"]
)
def test_functions_of_float64(op_type):
    check_lowered(op_type, [specials("float64")], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16])
@pytest.mark.parametrize("op_type", ["Exp", "Sigmoid", "Gelu", "HardSwish", "Sqrt", "Neg", "LeakyRelu"])
def test_functions_of_16_bits(op_type, dtype):
    unit = 2.0**-10 if dtype == "float16" else 2.0**-7
    x = specials(dtype)
    expected = reference(op_type, [x], {}, 24)[0]
    (found,) = run_lowered(op_type, [x], [(x.shape, x.dtype)])
    np.testing.assert_allclose(found.astype("f8"), expected.astype("f8"), rtol=unit, atol=1e-7)


@pytest.mark.parametrize(
    ("op_type", "attributes", "tolerance"),
    [
        ("LeakyRelu", {"alpha": 0.25}, 0),
        ("Elu", {"alpha": 2.5}, 5e-7),
        ("Selu", {"alpha": 1.5, "gamma": 0.75}, 5e-7),
        ("Celu", {"alpha": 0.5}, 5e-7),
        ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}, 0),
        ("Swish", {"alpha": 1.5}, 7e-7),
        ("Gelu", {"approximate": "tanh"}, 3e-6),
        ("ThresholdedRelu", {"alpha": 0.1}, 0),
        ("Shrink", {"bias": 0.1, "lambd": 0.7}, 0),
    ],
)
def test_attributes(op_type, attributes, tolerance):
    check_lowered(op_type, [floats(100)], attributes, rtol=tolerance, atol=tolerance * 1e-3)


@pytest.mark.parametrize("negative", [0, 1])
@pytest.mark.parametrize("positive", [0, 1])
def test_is_inf(negative, positive):
    check_lowered("IsInf", [specials()], {"detect_negative": negative, "detect_positive": positive})


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16"])
@pytest.mark.parametrize("op_type", ["Abs", "Sign", "Relu", "BitwiseNot"])
def test_integers(op_type, dtype):
    check_lowered(op_type, [integers(77, dtype=dtype)])


@pytest.mark.parametrize("opset", [1, 6])
def test_old_versions(opset):
    check_lowered("Abs", [floats(9)], opset=opset)
    check_lowered("Selu", [floats(99)], opset=opset, rtol=5e-7)


# --- Clip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("constants", [(), (1, 2)])
@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (3.0, -2.0), (None, 1.5), (-0.5, None), (None, None)])
def test_clip(bounds, constants):
    inputs = [specials(), *(None if b is None else np.float32(b).reshape(()) for b in bounds)]
    check_lowered("Clip", inputs, constants=constants)


def test_clip_of_other_types():
    low, high = np.array([-3], "int8"), np.array([100], "int8")
    check_lowered("Clip", [integers(70, dtype="int8"), low, high], constants=(1, 2))
    check_lowered("Clip", [integers(70, dtype="int8"), None, high])
    check_lowered("Clip", [specials("float16")])
    check_lowered("Clip", [specials()], {"min": -1.0}, opset=6)
    check_lowered("Clip", [specials()], {"max": 1.0}, opset=1)


# --- several tensors -----------------------------------------------------------------------------

_SHAPES = [
    ((79,), (79,)),
    ((), ()),
    ((33, 70), (70,)),
    ((33, 70), (33, 1)),
    ((1,), (5, 7)),
    ((3, 1, 5), (4, 1)),
    ((2, 3, 4, 5), (1, 3, 1, 1)),
    ((2, 3, 4, 5), (2, 3, 1, 1)),
    ((2, 1, 4, 1, 6), (1, 3, 1, 5, 6)),
    ((0, 3), (3,)),
    ((2, 20000), (2, 1)),
]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("shapes", _SHAPES)
def test_broadcasting(shapes, parallel):
    a, b = (floats(*shape) for shape in shapes)
    check_lowered("Sub", [a, b], parallel=parallel)
    check_lowered("Sub", [b, a], parallel=parallel)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=4))
def test_any_broadcasting(dims):
    a = floats(*(1 if repeat else n for n, repeat, _ in dims))
    b = floats(*(1 if repeat else n for n, _, repeat in dims))
    check_lowered("Sub", [a, b])


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_arithmetic_of_specials(op_type):
    x, y = np.meshgrid(np.array(_SPECIAL, "f4"), np.array(_SPECIAL, "f4"))
    check_lowered(op_type, [x, y])


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16, "float64"])
@pytest.mark.parametrize("op_type", ["Add", "Mul", "Div"])
def test_arithmetic_of_floats(op_type, dtype):
    inputs = [specials(dtype), floats(79, dtype=dtype)]
    expected = reference(op_type, inputs, {}, 24)[0]
    (found,) = run_lowered(op_type, inputs, [(expected.shape, expected.dtype)])
    np.testing.assert_array_equal(found.astype("f8"), expected.astype("f8"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min", "BitwiseAnd", "BitwiseXor"])
def test_arithmetic_of_integers(op_type, dtype):
    small = np.array([0, 1, -1, 3], "int64").astype(dtype)
    check_lowered(op_type, [integers(33, 4, dtype=dtype), small])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("fmod", [0, 1])
def test_mod(dtype, fmod):
    small = np.array([0, 1, -1, 3, -7], "int64").astype(dtype)
    check_lowered("Mod", [integers(40, 5, dtype=dtype), small], {"fmod": fmod})


def test_mod_of_floats():
    check_lowered("Mod", [specials(), floats(79)], {"fmod": 1})


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bit_shift(dtype, direction):
    amounts = np.array([0, 1, 7, 8, 31, 32, 100], dtype)
    check_lowered("BitShift", [integers(9, 7, dtype=dtype), amounts], {"direction": direction}, opset=28)


@pytest.mark.parametrize("op_type", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_comparisons(op_type, dtype):
    values = np.array(_SPECIAL, dtype) if dtype == "float32" else integers(16, dtype=dtype)
    x, y = np.meshgrid(values, values)
    check_lowered(op_type, [x, y])


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic(op_type):
    x = np.array([False, False, True, True])
    check_lowered(op_type, [x, np.array([[False, True, False, True]] * 40)])
    check_lowered("Not", [x])


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_where(dtype):
    condition = _RNG.random((5, 1, 70)) < 0.5
    x = floats(6, 70).astype(dtype)
    check_lowered("Where", [condition, x, floats(1).astype(dtype)])


@pytest.mark.parametrize("op_type", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_variadic(op_type, dtype):
    inputs = [floats(5, 70, dtype=dtype), floats(70, dtype=dtype), floats(5, 1, dtype=dtype)]
    for count in (1, 2, 3):
        check_lowered(op_type, inputs[:count])


@pytest.mark.parametrize("exponent", [-1.0, 0.5, 1.0, 2.0, 3.0, 1.7])
def test_power_by_a_constant(exponent):
    check_lowered(
        "Pow", [specials(), np.float32(exponent).reshape(())], constants=(1,), rtol=2e-7, atol=1e-45
    )


def test_power():
    check_lowered("Pow", [specials(), floats(79)], rtol=2e-7)
    check_lowered("Pow", [floats(79), np.arange(-39, 40)], rtol=2e-7)
    check_lowered("Pow", [integers(79), np.array(3, "int32")], constants=(1,))
    with pytest.raises(Unsupported):
        check_lowered("Pow", [integers(79), integers(79)])


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 1), ((5,), None), ((1,), None), ((3,), 1)])
def test_broadcasting_before_version_7(shape, axis):
    attributes = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
    check_lowered("Add", [floats(2, 3, 4, 5), floats(*shape)], attributes, opset=6)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 4)])
def test_prelu(shape):
    check_lowered("PRelu", [floats(2, 3, 4), floats(*shape)], opset=6)
    check_lowered("PRelu", [floats(2, 3, 4), floats(4)])


# --- blocks --------------------------------------------------------------------------------------

_LANES = target().lanes


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("shape", [(1, 2 * _LANES, 5, 7), (2, _LANES + 3, 3, 4), (2, 5, 1, 1), (2, 7, 9)])
@pytest.mark.parametrize("pads", [((0, 0, 0, 0), (0, 0, 0, 0)), ((1, 1, 1, 1), (0, 2, 1, 0))])
def test_blocks(shape, pads, parallel):
    if len(shape) == 3:
        pads = tuple((0, left, 0, right) for _, left, _, right in pads)
    first, second = (Blocked(_LANES, pad) for pad in pads)
    a, b = floats(*shape), floats(*shape)
    options = {"layouts": {0: first, 1: second}, "output_layouts": {0: second}, "parallel": parallel}
    check_lowered("Add", [a, b], **options)
    options = {"layouts": {0: first}, "output_layouts": {0: second}, "parallel": parallel}
    channels = floats(shape[1], *(1,) * (len(shape) - 2))
    check_lowered("Mul", [a, channels], constants=(1,), **options)
    check_lowered("Mul", [a, floats()], **options)


def test_blocked_scales_per_image():
    layout = Blocked(_LANES, (1, 1, 1, 1))
    options = {"layouts": {0: layout, 1: Blocked(_LANES)}, "output_layouts": {0: layout}}
    for n in (1, 2):
        check_lowered("Mul", [floats(2, _LANES + 1, 6, 5), floats(n, _LANES + 1, 1, 1)], **options)


def test_blocked_operators_of_several_inputs():
    layout = Blocked(_LANES, (1, 1, 1, 1))
    a, b = floats(2, _LANES, 6, 5), floats(2, _LANES, 6, 5)
    both = {"layouts": {0: layout, 1: layout}, "output_layouts": {0: layout}}
    check_lowered("SwiGLU", [a, b], {"alpha": 1.5}, opset=28, rtol=1e-6, **both)
    check_lowered("Mod", [a, b], {"fmod": 1}, opset=13, **both)
    one = {"layouts": {0: layout}, "output_layouts": {0: layout}}
    low, high = np.float32(-0.5), np.float32(0.25)
    for bounds in ([low, high], [low], [None, high]):
        inputs = [a, *(None if bound is None else np.asarray(bound) for bound in bounds)]
        check_lowered("Clip", inputs, opset=13, **one)
        check_lowered("Clip", inputs, opset=13, constants=range(1, len(inputs)), **one)


def test_clip_by_nan_is_left_to_the_reference():
    x = floats(2, 3)
    for bounds in ([np.float32(np.nan)], [np.float32(0), np.float32(np.nan)]):
        inputs = [x, *map(np.asarray, bounds)]
        with pytest.raises(Unsupported, match="NaN"):
            run_lowered("Clip", inputs, [(x.shape, x.dtype)], constants=range(1, len(inputs)))


def test_which_operators_go_along_with_blocks():
    def use(op_type, *shapes, constants=(), dtype="float32"):
        goal = np.broadcast_shapes(*(s for s in shapes if s is not None))
        inputs = [
            None
            if s is None
            else Operand(s, np.dtype(dtype), "x", np.zeros(s, dtype) if i in constants else None)
            for i, s in enumerate(shapes)
        ]
        versions = {"Add": 14, "Exp": 13, "Relu": 14, "Clip": 13, "SwiGLU": 28}
        lowering = find_lowering("numba", "", op_type, versions[op_type])
        return lowering.blocked(Op(op_type, inputs, [Operand(goal, np.dtype(dtype))]), 16)

    full = (1, 20, 5, 5)
    assert dict(use("Add", full, full).inputs) == {0: (0, 0, 0, 0), 1: (0, 0, 0, 0)}
    assert dict(use("Add", full, (20, 1, 1), constants=(1,)).inputs) == {0: (0, 0, 0, 0)}
    assert dict(use("Add", full, ()).inputs) == {0: (0, 0, 0, 0)}
    assert dict(use("Add", full, (1, 20, 1, 1)).inputs) == {0: (0, 0, 0, 0), 1: (0, 0, 0, 0)}
    assert use("Add", full, (5,)) is None
    assert use("Add", full, full, dtype="float64") is None
    assert use("Relu", (20, 5)) is None
    assert use("Exp", full) is None  # 20 channels leave lanes that exp might send to infinity
    assert use("Exp", (1, 32, 5, 5)) is not None
    assert dict(use("SwiGLU", full, full).inputs) == {0: (0, 0, 0, 0), 1: (0, 0, 0, 0)}
    assert dict(use("Clip", full, (), ()).inputs) == {0: (0, 0, 0, 0)}
    assert dict(use("Clip", full, None, ()).inputs) == {0: (0, 0, 0, 0)}


def test_other_types_are_left_to_the_reference():
    x = np.zeros(3, "complex64")
    with pytest.raises(Unsupported, match="elements of type"):
        run_lowered("Equal", [x, x], [((3,), bool)])
