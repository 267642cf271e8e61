"""Element-wise functions of several tensors."""

from __future__ import annotations

import math
import operator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from elementwise_cases import assert_close, exact, rows, sample
from helpers import dtypes, run_op, versions
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxref import registry
from onnxref.errors import KernelError

F32 = np.float32


def truncating(a: Any, b: Any) -> Any:
    if isinstance(a, float):
        return a / b
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


# Operator: slow definition for two Python numbers.
DEFINITIONS: dict[str, Any] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": truncating,
    "BitwiseAnd": operator.and_,
    "BitwiseOr": operator.or_,
    "BitwiseXor": operator.xor,
    "And": operator.and_,
    "Or": operator.or_,
    "Xor": operator.xor,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
}
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
LEGACY = ("Add", "Sub", "Mul", "Div", "And", "Or", "Xor", "Equal", "Greater", "Less", "Pow")


def wrapped(values: Any, dtype: np.dtype[Any]) -> Any:
    """Reduce exact integers modulo the range of their type."""
    if dtype.kind not in "iu":
        return values
    bits = 8 * dtype.itemsize
    low = -(2 ** (bits - 1)) if dtype.kind == "i" else 0
    return (np.asarray(values, object) - low) % 2**bits + low


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows(*DEFINITIONS), ids=str)
def test_definition(op_type, version, dtype):
    # Numbers large enough to wrap in 8 bits; divisors are 1 to 5.
    limits = (1, 5) if op_type == "Div" else (-100, 100)
    for shape in ((3, 4), (), (0, 2)):
        a = sample(dtype, shape, -120, 120)
        b = np.asarray(np.flip(sample(dtype, shape, *limits)), dtype)
        before = (a.tobytes(), b.tobytes())
        got = run_op(op_type, a, b, opset=version)
        want = np.asarray(np.vectorize(DEFINITIONS[op_type], otypes=[object])(exact(a), exact(b)))
        if op_type in COMPARISONS:
            assert got.dtype == bool
            assert got.tolist() == want.tolist()
        else:
            assert_close(got, wrapped(want, dtype) if dtype.kind in "iub" else want.astype(float), dtype)
        assert before == (a.tobytes(), b.tobytes())


@pytest.mark.parametrize(("op_type", "version"), [(o, v) for o in DEFINITIONS for v in versions(o) if v >= 7])
def test_broadcasting_goes_both_ways(op_type, version):
    dtype = dtypes(op_type, version)[-1]
    a, b = sample(dtype, (2, 1, 3), 1, 4), sample(dtype, (4, 1), 1, 4)
    wide_a, wide_b = np.broadcast_arrays(a, b)
    np.testing.assert_array_equal(
        run_op(op_type, a, b, opset=version), run_op(op_type, wide_a, wide_b, opset=version)
    )


@pytest.mark.parametrize(
    "op_type",
    list(DEFINITIONS) + ["Pow", "Mod", "BitShift", "Sum", "Mean", "Min", "Max"],
)
def test_shapes_that_do_not_broadcast(op_type):
    version = versions(op_type)[-1]
    a, b = np.ones((2, 3)), np.ones((4,))
    attributes = {"direction": "LEFT"} if op_type == "BitShift" else {}
    with pytest.raises(KernelError, match=r"must broadcast to one shape \(got \(2, 3\) and \(4,\)\)"):
        registry.find("", op_type, version).kernel(a.astype(dtypes(op_type, version)[0]), b, **attributes)


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=3, min_side=0))
@settings(max_examples=50, deadline=None)
def test_costs_and_shapes_follow_numpy(shapes):
    x, y, z = (np.ones(s, F32) for s in shapes.input_shapes)
    inputs = {"Add": (x, y), "Equal": (x, y), "Pow": (x, y), "Max": (x, y, z), "Where": (z > 0, x, y)}
    for op_type, arguments in inputs.items():
        implementation = registry.find("", op_type, 15)
        assert implementation.cost is not None
        got = run_op(op_type, *arguments, opset=15)
        assert got.shape == np.broadcast_shapes(*(a.shape for a in arguments))
        assert implementation.cost(*arguments).out_bytes == got.nbytes


def test_cost_is_known_without_the_memory():
    a = np.broadcast_to(F32(1), (2**31, 1))
    b = np.broadcast_to(F32(1), (1, 2**31))
    cost = registry.find("", "Add", 14).cost
    assert cost is not None
    assert cost(a, b).out_bytes == 2**64


# Versions before 7: `broadcast` and `axis`


@pytest.mark.parametrize("op_type", LEGACY)
@pytest.mark.parametrize(
    ("a", "b", "axis", "aligned"),
    [
        ((2, 3, 4, 5), (), None, ()),
        ((2, 3, 4, 5), (1, 1), None, ()),
        ((2, 3, 4, 5), (5,), None, (5,)),
        ((2, 3, 4, 5), (4, 5), None, (4, 5)),
        ((2, 3, 4, 5), (3, 4), 1, (3, 4, 1)),
        ((2, 3, 4, 5), (2,), 0, (2, 1, 1, 1)),
        ((2, 3), (2, 1), 0, (2, 1)),
        ((2, 2), (2,), 0, (2, 1)),
        ((2, 2), (2,), None, (2,)),
        ((3,), (1,), 0, (1,)),
        ((2, 3), (1, 1), 1, ()),
    ],
)
def test_legacy_broadcasting(op_type, a, b, axis, aligned):
    dtype = dtypes(op_type, 1)[-1]
    x, y = sample(dtype, a, 1, 3), sample(dtype, b, 1, 3)
    attributes = {"broadcast": 1} if axis is None else {"broadcast": 1, "axis": axis}
    got = run_op(op_type, x, y, opset=6, **attributes)
    np.testing.assert_array_equal(got, run_op(op_type, x, y.reshape(aligned), opset=7))
    assert got.shape == a


@pytest.mark.parametrize("op_type", LEGACY)
def test_legacy_operators_do_not_broadcast_by_themselves(op_type):
    dtype = dtypes(op_type, 1)[-1]
    a, b = np.ones((2, 3), dtype), np.ones(3, dtype)
    with pytest.raises(KernelError, match=r"without broadcast=1 \(got \(2, 3\) and \(3,\)\)"):
        run_op(op_type, a, b, opset=1)
    assert run_op(op_type, a, b, opset=7).shape == (2, 3)


@pytest.mark.parametrize(
    ("a", "b", "axis"),
    [((3,), (2, 3), None), ((2, 3), (2,), None), ((2, 3), (3,), 0), ((2, 3), (2, 3), 1), ((2, 3), (3,), -1)]
    + [((2, 3), (2,), 2**62), ((1, 3), (2, 3), None), ((3,), (1, 1), None)],
)
def test_legacy_broadcasting_to_the_wrong_shape(a, b, axis):
    with pytest.raises(KernelError, match=r"must match the first from axis .* \(got \("):
        run_op("Add", np.ones(a, F32), np.ones(b, F32), opset=6, broadcast=1, axis=axis)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Sum", "Mean", "Min", "Max"])
def test_version_1_takes_the_in_place_hint(op_type):
    a, b = np.array([3, 4], F32), np.array([1, 2], F32)
    np.testing.assert_array_equal(
        run_op(op_type, a, b, opset=1, consumed_inputs=(1, 0)), run_op(op_type, a, b, opset=13)
    )


# Div and Mod

SIGNED = [np.int8, np.int16, np.int32, np.int64]


@pytest.mark.parametrize("dtype", SIGNED)
def test_division_of_integers(dtype):
    low = np.iinfo(dtype).min
    a = np.array([7, -7, 7, -7, 5, -5, 0, low, low], dtype)
    b = np.array([2, 2, -2, -2, 0, 0, 0, -1, 1], dtype)
    assert run_op("Div", a, b, opset=14).tolist() == [3, -3, -3, 3, 0, 0, 0, low, low]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1).filter(bool))
@settings(max_examples=50, deadline=None)
def test_division_and_remainders_agree(a, b):
    x, y = np.array([a]), np.array([b])
    quotient = int(run_op("Div", x, y, opset=14)[0])
    if (a, b) != (-(2**63), -1):
        assert quotient == truncating(a, b)
        assert quotient * b + int(run_op("Mod", x, y, opset=13, fmod=1)[0]) == a
    assert int(run_op("Mod", x, y, opset=13)[0]) == a % b


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows("Mod"), ids=str)
@pytest.mark.parametrize("fmod", [0, 1])
def test_mod_at_every_type(op_type, version, dtype, fmod):
    a, b = sample(dtype, (4, 5), -20, 20), sample(dtype, (4, 5), 1, 7)
    if dtype.kind != "u":
        b[::2] = -b[::2]
    if fmod == 0 and version < 28 and dtype.kind not in "iu":
        with pytest.raises(KernelError, match=r"fmod must be 1 for floating-point inputs .*\(got 0\)"):
            run_op(op_type, a, b, opset=version)
        return
    got = run_op(op_type, a, b, opset=version, fmod=fmod)
    define = math.fmod if fmod else operator.mod
    want = np.vectorize(define, otypes=[object])(exact(a), exact(b))
    assert_close(got, want.astype(int) if dtype.kind in "iu" else want.astype(float), dtype)


def test_mod_by_zero_gives_zero_or_nan():
    assert run_op("Mod", np.array([5, -5]), np.array([0, 0]), opset=13).tolist() == [0, 0]
    assert np.isnan(run_op("Mod", np.array([5.0]), np.array([0.0]), opset=28))[0]
    low = np.iinfo(np.int64).min
    assert run_op("Mod", np.array([low]), np.array([-1]), opset=13).tolist() == [0]


@pytest.mark.parametrize(
    ("x", "y", "want"),
    [
        (0.0, -2.0, -0.0),
        (-0.0, 2.0, 0.0),
        (np.inf, 2.0, np.nan),
        (5.0, 0.0, np.nan),
        (1.0, np.inf, 1.0),
        (-1.0, np.inf, np.inf),
        (1.0, -np.inf, -np.inf),
        (np.nan, 1.0, np.nan),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, F32, np.float64])
def test_special_values_of_floor_mod(x, y, want, dtype):
    got = run_op("Mod", np.array([x], dtype), np.array([y], dtype), opset=28)
    np.testing.assert_array_equal(got, np.array([want], dtype))
    assert np.isnan(want) or np.signbit(got)[0] == np.signbit(want)


def test_mod_attribute_out_of_range():
    with pytest.raises(KernelError, match=r"fmod must be one of 0, 1 \(got 2\)"):
        run_op("Mod", np.array([1]), np.array([1]), opset=13, fmod=2)


# BitShift


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows("BitShift"), ids=str)
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bit_shift(op_type, version, dtype, direction):
    bits = 8 * dtype.itemsize
    info = np.iinfo(dtype)
    x = np.array([info.min, info.max, 1, 5], dtype)[:, None]
    y = np.array([0, 1, bits - 1, bits, bits + 1, 100, info.min], dtype)
    got = run_op(op_type, x, y, opset=version, direction=direction)
    assert got.dtype == dtype
    for row, a in zip(got.tolist(), x[:, 0].tolist(), strict=True):
        # What Python shifts without a limit; a negative amount counts as too large.
        amounts = [n if n >= 0 else bits for n in y.tolist()]
        want = [a << n if direction == "LEFT" else a >> n for n in amounts]
        assert row == wrapped(want, dtype).tolist()


def test_bit_shift_direction():
    with pytest.raises(KernelError, match=r"direction must be one of LEFT, RIGHT \(got 'UP'\)"):
        run_op("BitShift", np.ones(1, np.uint8), np.ones(1, np.uint8), opset=11, direction="UP")


# Pow

POW_ROWS = [(v, x, y) for v in versions("Pow") for x in dtypes("Pow", v) for y in dtypes("Pow", v, index=1)]


@pytest.mark.parametrize(("version", "x_type", "y_type"), [r for r in POW_ROWS if r[0] >= 12 or r[1] == r[2]])
def test_pow_at_every_pair_of_types(version, x_type, y_type):
    x = sample(x_type, (3, 4), 1, 4)
    y = sample(y_type, (3, 4), 0, 3)
    want = np.vectorize(operator.pow, otypes=[object])(exact(x), exact(y))
    want = np.vectorize(int)(want) if x_type.kind == "i" else want.astype(float)
    assert_close(run_op("Pow", x, y, opset=version), want, x_type, factor=8)
    assert run_op("Pow", x[0, 0], y[:0], opset=version).shape == (0, 4) if version > 1 else True


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_integer_powers_wrap(base, exponent):
    got = run_op("Pow", np.array([base], np.int32), np.array([exponent], np.uint64), opset=15)
    assert int(got[0]) % 2**32 == pow(base, exponent, 2**32)


def test_negative_powers_of_integers_truncate():
    x = np.array([2, 1, -1, -1, 0, -3], np.int64)
    y = np.array([-1, -5, -3, -4, -2, -1], np.int8)
    assert run_op("Pow", x, y, opset=15).tolist() == [0, 1, -1, 1, 0, 0]


def test_integers_to_floating_powers_saturate():
    x, y = np.array([10, -10, 7, -8], np.int32), np.array([99, 99, 0.5, 0.5])
    top = 2**31 - 1
    assert run_op("Pow", x, y, opset=15).tolist() == [top, -top - 1, 2, 0]


def test_large_integer_exponents_keep_their_parity():
    x, y = np.array([-1, -1], F32), np.array([2**24, 2**24 + 1])
    assert run_op("Pow", x, y, opset=15).tolist() == [1, -1]


# Sum, Mean, Min, Max

VARIADIC = {
    "Sum": lambda *v: sum(v),
    "Mean": lambda *v: sum(v) / len(v),
    "Min": lambda *v: min(v),
    "Max": lambda *v: max(v),
}


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows(*VARIADIC), ids=str)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_variadic(op_type, version, dtype, count):
    inputs = [np.roll(sample(dtype, (4, 3), 0, 9), k, axis=0) for k in range(count)]
    want = np.vectorize(VARIADIC[op_type], otypes=[object])(*map(exact, inputs))
    got = run_op(op_type, *inputs, opset=version)
    assert_close(got, want if dtype.kind in "iu" else want.astype(float), dtype)
    others = [x[k % 4, :] for k, x in enumerate(inputs[1:])]
    if version >= 8:
        spread = np.broadcast_arrays(inputs[0], *others)
        np.testing.assert_array_equal(
            run_op(op_type, inputs[0], *others, opset=version), run_op(op_type, *spread, opset=version)
        )
    elif others:
        with pytest.raises(KernelError, match=r"must have equal shapes before version 8"):
            run_op(op_type, inputs[0], *others, opset=version)


@pytest.mark.parametrize("op_type", VARIADIC)
@pytest.mark.parametrize("version", [6, 13])
def test_variadic_without_inputs(op_type, version):
    with pytest.raises(KernelError, match="one or more"):
        run_op(op_type, opset=version)


@pytest.mark.parametrize("op_type", ["Min", "Max"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, F32, np.float64])
def test_nan_wins_whatever_its_place(op_type, dtype):
    a, b = np.array([np.nan, 1, 2]).astype(dtype), np.array([0, np.nan, 3]).astype(dtype)
    assert np.isnan(run_op(op_type, a, b, opset=13).astype(F32)).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_low_precision_accumulates_in_float32(dtype):
    # In the type itself 2048 + 0.75 (or 256 + 0.75 ...) loses each addend, and 60000 + 60000 overflows.
    big, small = np.array([2048.0]).astype(dtype), np.array([0.75]).astype(dtype)
    want = np.array([2048 + 0.75 * 40]).astype(dtype)
    assert run_op("Sum", big, *[small] * 40, opset=13) == want
    top = np.array([60000.0]).astype(dtype)
    assert run_op("Mean", top, top, opset=13) == top


# Equal of strings, Where


def test_equal_of_strings():
    a = np.array([["a", "b"], ["", "äß"]], object)
    got = run_op("Equal", a, np.array(["a", "äß"], object), opset=19)
    assert got.dtype == bool
    assert got.tolist() == [[True, False], [False, True]]
    assert run_op("Equal", a[0, :1].reshape(()), np.array("a", object), opset=19).tolist() is True


@pytest.mark.parametrize(
    ("version", "dtype"),
    [(v, dtype) for v in versions("Where") for dtype in dtypes("Where", v, index=1)],
    ids=str,
)
def test_where_at_every_type(version, dtype):
    x, y = sample(dtype, (2, 3)), sample(dtype, (3, 2, 1))
    condition = np.array([True, False, True])
    got = run_op("Where", condition, x, y, opset=version)
    assert got.dtype == dtype
    spread = zip(*(v.ravel().tolist() for v in np.broadcast_arrays(condition, x, y)), strict=True)
    assert got.ravel().tolist() == [a if c else b for c, a, b in spread]
    assert got.shape == (3, 2, 3)
    scalars = x[:1, 0].reshape(()), y[0, :1, 0].reshape(())
    assert run_op("Where", np.array(False), *scalars, opset=version).shape == ()


def test_where_names_all_shapes():
    with pytest.raises(KernelError, match=r"\(got \(2,\) and \(3,\) and \(\)\)"):
        run_op("Where", np.ones(2, bool), np.ones(3), np.ones(()), opset=16)
