"""Chains of elementwise operators: each must be bit-equal to its operators one by one."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxref.kernels.numba.elementwise  # noqa: F401 - registers
import pytest
from lowered import run_lowered

from onnxref.lowering import Blocked, Op, Operand, Site, find_lowering
from onnxref.native._target import target
from onnxref.registry import INTERNAL

_RNG = np.random.default_rng(3)
_LANES = target().lanes


def _normal(*shape, dtype="float32"):
    return (2 * _RNG.standard_normal(shape)).astype(dtype)


def _step_by_step(program, dtypes, inputs):
    """Return every value of a program, each instruction run as an operator of its own."""
    values = list(inputs)
    for name, operands, pairs in program:
        given = [values[i] for i in operands]
        shape = np.broadcast_shapes(*(x.shape for x in given))
        dtype = ml_dtypes.bfloat16 if dtypes[len(values)] == "bfloat16" else dtypes[len(values)]
        attributes = dict(pairs)
        if name == "Clip":
            given += [np.asarray(attributes.pop(key), given[0].dtype) for key in ("low", "high")]
        if name == "Cast":
            attributes = {"to": 0}
        values += run_lowered(
            name, given, [(shape, dtype)], attributes, constants=(1, 2) if name == "Clip" else ()
        )
    return values


def _check(program, dtypes, inputs, results, **options):
    expected = _step_by_step(program, dtypes, inputs)
    shape = np.broadcast_shapes(*(x.shape for x in inputs))
    attributes = {"program": program, "dtypes": dtypes, "results": results}
    wanted = [(shape, expected[i].dtype) for i in results]
    found = run_lowered("Chain", inputs, wanted, attributes, domain=INTERNAL, opset=1, **options)
    for y, i in zip(found, results, strict=True):
        np.testing.assert_array_equal(y.astype("f8"), np.broadcast_to(expected[i], shape).astype("f8"))


_SCALE = (("Mul", (0, 1), ()), ("Add", (3, 2), ()), ("HardSwish", (4,), ()))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    ("x", "scale", "bias"),
    [((3, 70), (70,), (70,)), ((2, 3, 5, 7), (3, 1, 1), (3, 1, 1)), ((9000,), (), (1,)), ((0, 4), (4,), ())],
)
def test_scale_bias_activation(x, scale, bias, parallel):
    inputs = [_normal(*shape) for shape in (x, scale, bias)]
    _check(_SCALE, ("float32",) * 6, inputs, (5,), parallel=parallel)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_operator_rounds(dtype):
    numpy_type = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    inputs = [_normal(3, 70, dtype=numpy_type), _normal(70, dtype=numpy_type), _normal(1, dtype=numpy_type)]
    program = (*_SCALE[:2], ("Sigmoid", (4,), ()), ("Mul", (4, 5), ()))
    _check(program, (dtype,) * 7, inputs, (6,))


def test_several_results_and_types():
    program = (
        ("Add", (0, 1), ()),
        ("Less", (2, 1), ()),
        ("Where", (3, 2, 0), ()),
        ("Cast", (4,), ()),
        ("Mul", (5, 5), ()),
    )
    dtypes = ("float32", "float32", "float32", "bool", "float32", "int32", "int32")
    _check(program, dtypes, [_normal(5, 33), _normal(5, 33)], (2, 3, 6))


def test_a_result_nobody_wants_is_left_out():
    attributes = {
        "program": (("Add", (0, 0), ()), ("Neg", (1,), ())),
        "dtypes": ("float32",) * 3,
        "results": (1, 2),
    }
    x = _normal(20)
    found = run_lowered("Chain", [x], [None, ((20,), "f4")], attributes, domain=INTERNAL, opset=1)
    np.testing.assert_array_equal(found[1], -(x + x))


def test_long_chains():
    program = tuple((("Add", "Mul", "Sub")[i % 3], (i + 7, i % 8), ()) for i in range(24))
    inputs = [_normal(*((40, 3) if i % 2 else (3,))) for i in range(8)]
    _check(program, ("float32",) * 32, inputs, (31,))


@pytest.mark.parametrize("pads", [((0, 0, 0, 0), (0, 0, 0, 0)), ((1, 1, 1, 1), (0, 2, 0, 1))])
def test_blocks(pads):
    shape = (2, _LANES + 3, 4, 5)
    inputs = [_normal(*shape), _normal(shape[1], 1, 1), _normal(1, shape[1], 1, 1)]
    layouts = {"layouts": {0: Blocked(_LANES, pads[0])}, "output_layouts": {0: Blocked(_LANES, pads[1])}}
    _check(_SCALE, ("float32",) * 6, inputs, (5,), constants=(1, 2), **layouts)
    lowering = find_lowering("numba", INTERNAL, "Chain", 1)
    operands = [Operand(x.shape, x.dtype, "x", x if i else None) for i, x in enumerate(inputs)]
    op = Op("Chain", operands, [Operand(shape, np.dtype("f4"))], {"program": _SCALE}, INTERNAL)
    assert dict(lowering.blocked(op, _LANES).inputs) == {0: (0, 0, 0, 0)}


def test_may_take_the_place_of_an_input():
    shape = (100, 70)
    x, row = Operand(shape, np.dtype("f4")), Operand((70,), np.dtype("f4"))
    y = Operand(shape, np.dtype("f4"))
    attributes = {"program": (("Add", (0, 1), ()),), "dtypes": ("float32",) * 3, "results": (2,)}
    site = Site(Op("Chain", [x, row], [y], attributes, INTERNAL))
    find_lowering("numba", INTERNAL, "Chain", 1).emit(site, x, row, **attributes)
    assert site.overwrites == [(y, x)]
    (call,) = site.calls
    values, other = _normal(*shape), _normal(70)
    expected = values + other
    places = {id(x): values.ctypes.data, id(y): values.ctypes.data, id(row): other.ctypes.data}
    packed = np.array([places.get(id(a), a) for a in call.arguments], np.int64)
    call.function(packed.ctypes.data, 0, call.units)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.skipif(_LANES != 16, reason="looks for the registers of AVX-512")
def test_the_text_and_its_code():
    pytest.importorskip("numba")
    from onnxref.kernels.numba.code import chain as code

    text = code.generate(_SCALE, ("float32",) * 6, (5,), ("c", "s", "s"), 1, 0)
    assert '"""Mul, Add, HardSwish of float32, float32, float32."""' in text
    assert "    v3 = multiply(v0, v1)  # Mul\n    v4 = add(v3, v2)  # Add\n" in text
