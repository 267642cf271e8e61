"""Elementwise operators on the emulator, held to the reference.

Arithmetic, comparisons and rounding are equal; transcendental functions of float32 and float64 are within 4
units in the last place (Gelu, Pow, Sinh, Cosh and Tan as stated here), those of 16 bits within one unit.
Many operators of one input type run as one program, so that few kernels are built.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.elementwise  # noqa: F401 - registers
import pytest
from onnxref.kernels.common import elementwise
from onnxref.kernels.common.instructions import instruction

from onnxref.dtypes import Array
from onnxref.lowering import Op, Operand, Site, Unsupported, find_lowering, lowerings
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .lowered import run_on_device

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOATS = [np.dtype("f4"), np.dtype("f8"), np.dtype("f2"), BFLOAT16]
_INTS = [np.dtype(name) for name in ("int8", "uint16", "int32", "int64", "uint64")]
_SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -3.0, 3.0, 88.9, -104.0, 1e-40, 3e38]
_SPECIAL += [math.inf, -math.inf, math.nan]

Case = tuple[str, dict[str, Any]]


def _specials(dtype: np.dtype[Any], count: int = 79) -> Array:
    rng = np.random.default_rng(5)
    with np.errstate(all="ignore"):
        return np.concatenate([rng.uniform(-20, 20, count - len(_SPECIAL)), _SPECIAL]).astype(dtype)


def _integers(dtype: np.dtype[Any], count: int) -> Array:
    info = np.iinfo(dtype)
    x = np.random.default_rng(6).integers(info.min, info.max, count, dtype, endpoint=True)
    x[:6] = [info.min, info.max, 0, 1, info.min, 2]
    return x


def _run_all(cases: list[Case], inputs: list[Array], goals: list[np.dtype[Any]]) -> list[Array]:
    """Run operators of the same inputs as one program."""
    count = len(inputs)
    program = tuple(instruction(name, range(count), attributes) for name, attributes in cases)
    attributes = {
        "program": program,
        "dtypes": (*(x.dtype.name for x in inputs), *(dtype.name for dtype in goals)),
        "results": tuple(range(count, count + len(cases))),
    }
    shape = np.broadcast_shapes(*(x.shape for x in inputs))
    wanted = [(shape, dtype) for dtype in goals]
    found = run_on_device("Chain", inputs, wanted, attributes, domain=INTERNAL, opset=1, orders=(0, 1))
    return [y for y in found if y is not None]


def _hold(case: Case, found: Array, inputs: list[Array], ulps: float = 0, atol: float = 0) -> None:
    name, attributes = case
    opset = 28 if name in ("Mod", "SwiGLU", "BitShift") else 25
    (expected,) = reference(name, inputs, attributes, opset)
    assert expected.dtype == found.dtype, name
    if expected.dtype.kind in "iub":
        np.testing.assert_array_equal(found, expected, err_msg=name)
        return
    eps = float(ml_dtypes.finfo(expected.dtype).eps)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(
        found.astype("f8"), expected.astype("f8"), rtol=ulps * eps, atol=atol, err_msg=name
    )
    if not ulps and not atol:  # zeros have signs
        signs = (np.signbit(found) == np.signbit(expected)) | np.isnan(expected)
        assert signs.all(), f"{name}: {found[~signs]} where {expected[~signs]} is due"


# --- one tensor of floats ------------------------------------------------------------------------

_EXACT: list[Case] = [
    *((name, {}) for name in ("Abs", "Neg", "Ceil", "Floor", "Round", "Sqrt", "Reciprocal", "Sign", "Relu")),
    ("LeakyRelu", {}),
    ("LeakyRelu", {"alpha": 0.25}),
    ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}),
    ("HardSwish", {}),
    ("ThresholdedRelu", {"alpha": 0.5}),
    ("Shrink", {"bias": 0.25, "lambd": 0.75}),
    ("Softsign", {}),
    ("IsNaN", {}),
    *(("IsInf", {"negative": i & 1, "positive": i >> 1}) for i in range(4)),
]
_CLOSE: list[Case] = [
    *((name, {}) for name in ("Exp", "Log", "Tanh", "Erf", "Sigmoid", "Softplus", "Mish", "Gelu")),
    ("Gelu", {"approximate": "tanh"}),
    ("Swish", {}),
    ("Swish", {"alpha": 1.5}),
    *((name, {}) for name in ("Elu", "Selu", "Celu")),
    ("Elu", {"alpha": 2.5}),
    ("Selu", {"alpha": 1.5, "gamma": 0.75}),
    ("Celu", {"alpha": 0.5}),
    ("Celu", {"alpha": -1.5}),
    *((name, {}) for name in ("Sin", "Cos", "Tan", "Sinh", "Cosh")),
    *((name, {}) for name in ("Asin", "Acos", "Atan", "Asinh", "Acosh", "Atanh")),
]


def _schema_form(case: Case) -> Case:
    """Return the operator's attributes where the instruction's have other names."""
    name, attributes = case
    if name == "IsInf":
        return name, {f"detect_{key}": value for key, value in attributes.items()}
    return case


@pytest.mark.parametrize("dtype", _FLOATS, ids=str)
def test_exact_functions(dtype: np.dtype[Any]) -> None:
    x = _specials(dtype)
    cases = [c for c in _EXACT if not (dtype == BFLOAT16 and c[0] == "Shrink")]
    goals = [np.dtype(bool) if name.startswith("Is") else dtype for name, _ in cases]
    for case, y in zip(cases, _run_all(cases, [x], goals), strict=True):
        _hold(_schema_form(case), y, [x])


@pytest.mark.parametrize("dtype", _FLOATS, ids=str)
def test_close_functions(dtype: np.dtype[Any]) -> None:
    x = _specials(dtype)
    for case, y in zip(_CLOSE, _run_all(_CLOSE, [x], [dtype] * len(_CLOSE)), strict=True):
        # Gelu's relative error grows with x**2 / 2 below 0, that of Swish and Mish with x. The reference of
        # Gelu has digits down to 1e-15 only, see below.
        grows = case[0] in ("Gelu", "Swish", "Mish")
        ulps = 1 if dtype.itemsize == 2 else 64 if grows else 4
        tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal)  # type: ignore[no-untyped-call]
        _hold(case, y, [x], ulps, atol=1e-14 if case[0] == "Gelu" else max(1e-37, 2 * tiny))


def test_gelu_keeps_its_digits_below_zero() -> None:
    x = np.linspace(-12, 0, 200, dtype="f4")
    (found,) = run_on_device("Gelu", [x], [(x.shape, "f4")], orders=(0,))
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.astype(float)])
    assert found is not None
    bound = (8 + x.astype(float) ** 2) * 2.0**-24 * np.abs(exact) + 1e-40
    np.testing.assert_array_less(np.abs(found - exact), bound)


# --- several tensors of floats -------------------------------------------------------------------

_OF_TWO: list[Case] = [
    *((name, {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu")),
    *((name, {}) for name in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")),
    ("Mod", {"fmod": 0}),
    ("Mod", {"fmod": 1}),
]


def _goal(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(bool) if name == "Equal" or name.startswith(("Less", "Greater")) else dtype


@pytest.mark.parametrize("dtype", _FLOATS, ids=str)
def test_two_floats(dtype: np.dtype[Any]) -> None:
    with np.errstate(all="ignore"):
        values = np.array(_SPECIAL, "f8").astype(dtype)
    x, y = np.meshgrid(values, values)
    found = _run_all(_OF_TWO, [x, y], [_goal(name, dtype) for name, _ in _OF_TWO])
    for case, z in zip(_OF_TWO, found, strict=True):
        _hold(case, z, [x, y])


def test_three_and_more() -> None:
    inputs = [_specials(np.dtype("f2"), count) for count in (79, 79, 79)]
    inputs[1] = inputs[1][::-1].copy()
    cases: list[Case] = [(name, {}) for name in ("Sum", "Mean", "Max", "Min")]
    for case, y in zip(cases, _run_all(cases, inputs, [np.dtype("f2")] * 4), strict=True):
        _hold(case, y, inputs)


@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8"), np.dtype("f2")], ids=str)
def test_swiglu(dtype: np.dtype[Any]) -> None:
    inputs = [_specials(dtype)[:60], _specials(dtype)[:60][::-1].copy()]
    (found,) = run_on_device("SwiGLU", inputs, [((60,), dtype)], {"alpha": 1.5}, opset=28, orders=(0,))
    _hold(("SwiGLU", {"alpha": 1.5}), found, inputs, 4, atol=1e-12)  # type: ignore[arg-type]


# --- integers ------------------------------------------------------------------------------------

_OF_TWO_INTS: list[Case] = [
    *((name, {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu")),
    *((name, {}) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Less", "GreaterOrEqual")),
    ("Mod", {"fmod": 0}),
    ("Mod", {"fmod": 1}),
    ("BitShift", {"direction": "LEFT"}),
    ("BitShift", {"direction": "RIGHT"}),
    ("Pow", {}),
]


@pytest.mark.parametrize("dtype", _INTS, ids=str)
def test_two_integers(dtype: np.dtype[Any]) -> None:
    bits = 8 * dtype.itemsize
    small = np.array([0, 1, -1, 3, -7, 2, bits - 1, bits], "int64").astype(dtype)
    x, y = (z.reshape(-1) for z in np.broadcast_arrays(_integers(dtype, 24)[:, None], small))
    found = _run_all(_OF_TWO_INTS, [x, y], [_goal(name, dtype) for name, _ in _OF_TWO_INTS])
    for case, z in zip(_OF_TWO_INTS, found, strict=True):
        _hold(case, z, [x, y])


@pytest.mark.parametrize("dtype", _INTS, ids=str)
def test_one_integer(dtype: np.dtype[Any]) -> None:
    x = _integers(dtype, 77)
    cases: list[Case] = [
        *((name, {}) for name in ("Abs", "Sign", "Relu", "BitwiseNot")),
        ("Shrink", {"bias": 3.0, "lambd": 20.5}),
        *([("Neg", {})] if dtype.kind == "i" else []),
    ]
    for case, y in zip(cases, _run_all(cases, [x], [dtype] * len(cases)), strict=True):
        _hold(case, y, [x])


# --- powers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "exponent"),
    [
        ("float32", "float32"),
        ("float16", "float32"),
        ("float32", "int64"),
        (BFLOAT16, "int8"),
        ("float64", "float32"),
        ("float16", "float64"),
        ("int32", "float32"),
        ("uint8", "float64"),
        ("int16", "uint64"),
        ("int64", "int8"),
    ],
)
def test_powers(base: Any, exponent: Any) -> None:
    values = [0, 1, 2, 3, 5, 11, 100] + ([-1, -2, -3, -7] if np.dtype(base).kind != "u" else [])
    powers = [0, 1, 2, 3, 7, 31] + ([-1, -2, -3] if np.dtype(exponent).kind != "u" else [])
    if np.dtype(exponent).kind == "f":
        powers += [0.5, -1.5, math.inf, math.nan]  # type: ignore[list-item]
    x, y = np.meshgrid(np.array(values).astype(base), np.array(powers).astype(exponent))
    (found,) = run_on_device("Pow", [x, y], [(x.shape, x.dtype)], opset=15, orders=(0,))
    _hold(("Pow", {}), found, [x, y], 1 if x.dtype.itemsize == 2 else 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("exponent", [-1.0, 0.5, 1.0, 2.0, 3.0, 1.7])
def test_known_powers(exponent: float) -> None:
    x = _specials(np.dtype("f4"))
    y = np.array(exponent, "f4")
    (found,) = run_on_device("Pow", [x, y], [(x.shape, "f4")], opset=15, constants=[1], orders=(0,))
    _hold(("Pow", {}), found, [x, y], 4, atol=1e-44)  # type: ignore[arg-type]


def test_integers_saturate_by_floating_point_exponents() -> None:
    x, y = np.array([3, 100000, -100000], "int32"), np.array(2, "f4")
    (found,) = run_on_device("Pow", [x, y], [((3,), "int32")], opset=15, constants=[1], orders=(0,))
    _hold(("Pow", {}), found, [x, y])  # type: ignore[arg-type]


# --- logic, choice, limits -----------------------------------------------------------------------


def test_logic() -> None:
    x = np.array([False, False, True, True] * 5)
    y = np.array([False, True] * 10)
    cases: list[Case] = [(name, {}) for name in ("And", "Or", "Xor", "Equal")]
    for case, z in zip(cases, _run_all(cases, [x, y], [x.dtype] * 4), strict=True):
        _hold(case, z, [x, y])
    (found,) = run_on_device("Not", [x], [(x.shape, bool)], orders=(0,))
    np.testing.assert_array_equal(found, ~x)


@pytest.mark.parametrize("dtype", ["float32", "int64", BFLOAT16, "bool"])
def test_where(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    condition = rng.random((3, 1, 5)) < 0.5
    x, y = (rng.integers(0, 9, shape).astype(dtype) for shape in ((4, 5), (3, 4, 1)))
    (found,) = run_on_device("Where", [condition, x, y], [((3, 4, 5), x.dtype)], orders=(0,))
    np.testing.assert_array_equal(found.astype("f8"), np.where(condition, x, y).astype("f8"))  # type: ignore[union-attr]


@pytest.mark.parametrize("constants", [(), (1, 2), (1,)])
@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (3.0, -2.0), (None, 1.5), (-0.5, None), (math.nan, 1.0)])
def test_clip(bounds: tuple[float | None, float | None], constants: tuple[int, ...]) -> None:
    x = _specials(np.dtype("f4"))
    inputs = [x, *(None if b is None else np.array(b, "f4") for b in bounds)]
    (found,) = run_on_device("Clip", inputs, [(x.shape, "f4")], constants=constants, orders=(0,))
    (expected,) = reference("Clip", inputs, {}, 13)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("dtype", "inputs", "attributes", "opset"),
    [
        ("int8", [-3, 100], {}, 13),
        ("uint64", [7, 2**63 + 5], {}, 13),
        ("int64", [-(2**63), 9], {}, 13),
        ("float16", [], {}, 13),
        ("float64", [], {"min": -1.0}, 6),
        ("float32", [], {"max": 1.0}, 1),
        ("float16", [], {"min": -0.3, "max": 0.7}, 6),
    ],
)
def test_clip_of_other_types(dtype: str, inputs: list[int], attributes: dict[str, Any], opset: int) -> None:
    kind = np.dtype(dtype)
    x = _integers(kind, 70) if kind.kind in "iu" else _specials(kind)
    given = [x, *(np.array(bound, kind) for bound in inputs)]
    found = run_on_device(
        "Clip", given, [(x.shape, kind)], attributes, opset=opset, constants=(1, 2), orders=(0,)
    )
    np.testing.assert_array_equal(found[0], reference("Clip", given, attributes, opset)[0])


# --- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "attributes"),
    [
        ((2, 3, 4, 5), (3, 4), {"axis": 1, "broadcast": 1}),
        ((2, 3, 4, 5), (4, 5), {"broadcast": 1}),
        ((2, 3), (1,), {"broadcast": 1}),
        ((2, 3), (2, 3), {}),
    ],
)
def test_alignment_before_version_7(
    a: tuple[int, ...], b: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    inputs = [np.random.default_rng(1).standard_normal(shape).astype("f4") for shape in (a, b)]
    (found,) = run_on_device("Sub", inputs, [(a, "f4")], attributes, opset=6, orders=(0,))
    np.testing.assert_array_equal(found, reference("Sub", inputs, attributes, 6)[0])


def test_prelu_by_channel() -> None:
    x, slope = np.linspace(-3, 3, 2 * 5 * 4, dtype="f4").reshape(2, 5, 4), np.arange(5, dtype="f4")
    (found,) = run_on_device("PRelu", [x, slope], [(x.shape, "f4")], opset=6, orders=(0,))
    np.testing.assert_array_equal(found, reference("PRelu", [x, slope], {}, 6)[0])


def test_every_registered_version_launches_its_operator() -> None:
    """Each lowering is given inputs that its schema allows, and launches one kernel that names it."""
    seen = 0
    for since, lowering in lowerings("cupy"):
        if lowering.emit.__module__ != elementwise.__name__:
            continue
        name = lowering.op_type
        kind = "bool" if name in ("And", "Or", "Xor", "Not") else "int32" if name.startswith("Bit") else "f4"
        count = {"Where": 3}.get(name, 2 if _takes_two(name) else 1)
        inputs = [Operand((4, 5), np.dtype(kind)) for _ in range(count)]
        if name == "Where":
            inputs[0] = Operand((4, 5), np.dtype(bool))
        goal = _goal(name, np.dtype("bool" if name.startswith("Is") else kind))
        special: dict[str, dict[str, Any]] = {"BitShift": {"direction": "LEFT"}, "Mod": {"fmod": 1}}
        attributes = special.get(name, {})
        site = Site(Op(name, list(inputs), [Operand((4, 5), goal)], attributes, "", since))
        lowering.emit(site, *inputs, **attributes)
        (launch,) = site.launches
        assert f"// {name}" in launch.kernel.generated, name  # type: ignore[union-attr]
        seen += 1
    assert seen > 150


def _takes_two(name: str) -> bool:
    two = {"Pow", "PRelu", "Mod", "BitShift", "SwiGLU", "And", "Or", "Xor", "Sum", "Mean", "Max", "Min"}
    two |= {"Add", "Sub", "Mul", "Div", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
    return name in two or name.startswith(("Greater", "Less"))


@pytest.mark.parametrize(
    ("op_type", "dtypes", "attributes"),
    [
        ("Add", ["complex64", "complex64"], {}),
        ("Mod", ["float32", "float32"], {"fmod": 0}),
        ("Gelu", ["float32"], {"approximate": "other"}),
        ("BitShift", ["uint8", "uint8"], {"direction": "UP"}),
    ],
)
def test_refusals(op_type: str, dtypes: list[str], attributes: dict[str, Any]) -> None:
    inputs = [Operand((3,), np.dtype(dtype)) for dtype in dtypes]
    op = Op(op_type, list(inputs), [Operand((3,), np.dtype(dtypes[0]))], attributes, "", 24)
    lowering = find_lowering("cupy", "", op_type, {"Add": 14, "Mod": 13, "Gelu": 20, "BitShift": 11}[op_type])
    assert lowering is not None
    with pytest.raises(Unsupported):
        lowering.emit(Site(op), *inputs, **attributes)
