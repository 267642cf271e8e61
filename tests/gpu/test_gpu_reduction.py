"""Reductions and arg-extremes on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.reduction  # noqa: F401
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from tests.lowered import reference

from .lowered import run_on_device

FLOAT_OPS = ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"]
FLOAT_OPS += ["ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"]


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def values(shape: tuple[int, ...], name: str, seed: int = 0, low: float = -3.0) -> Array:
    rng = np.random.default_rng(seed)
    dtype = dtype_of(name)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    return rng.uniform(low, 3, shape).astype(dtype)


def check(op_type: str, x: Array, axes: tuple[int, ...], *, keepdims: int = 1, opset: int = 18) -> None:
    """Hold a reduction to the tolerance in the lowering's docstring."""
    by_input = opset >= 18 or (op_type == "ReduceSum" and opset >= 13)
    given_axes = np.array(axes, np.int64)
    inputs = [x, given_axes] if by_input else [x]
    attributes: dict[str, Any] = {"keepdims": keepdims}
    if not by_input:
        attributes["axes"] = axes
    (expected,) = reference(op_type, inputs, attributes, opset)
    (found,) = run_on_device(
        op_type, inputs, [(expected.shape, x.dtype)], attributes, opset=opset, constants=[1]
    )
    assert found is not None
    if x.dtype.kind in "iub" or op_type in ("ReduceMax", "ReduceMin"):
        np.testing.assert_array_equal(found, expected)
        return
    with np.errstate(all="ignore"):
        _check_close(op_type, x, axes, keepdims, found, expected)


def _check_close(
    op_type: str, x: Array, axes: tuple[int, ...], keepdims: int, found: Array, expected: Array
) -> None:
    wide, reduced = x.astype(np.float64), tuple(axes) or None
    scale: Any = np.abs(expected.astype(np.float64))
    if op_type in ("ReduceSum", "ReduceMean"):
        scale = np.abs(wide).sum(reduced, keepdims=bool(keepdims))
        scale = scale * (expected.size / max(x.size, 1) if op_type == "ReduceMean" else 1)
    eps = {"float64": 1e-14, "float32": 2e-6}.get(x.dtype.name)
    relative = 2 * float(ml_dtypes.finfo(x.dtype).eps) if eps is None else eps
    slack = 5e-7 if op_type == "ReduceLogSumExp" else 2e-6 if op_type == "ReduceLogSum" else 0.0
    bound = relative * scale + slack + 1e-300
    got, want = found.astype(np.float64), expected.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    error = np.abs(got - want)
    assert (same | (error <= bound)).all(), np.nanmax(error / bound)


COLUMN_OPS = ["ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceSum"]
CASES = [
    *((op_type, (5, 16), (-1,)) for op_type in FLOAT_OPS),
    *((op_type, (3, 17, 20), (1,)) for op_type in COLUMN_OPS),
    *((op_type, (2, 3, 4, 5), (0, 2, 3)) for op_type in ("ReduceL2", "ReduceLogSumExp")),
]


@pytest.mark.parametrize(("op_type", "shape", "axes"), CASES)
def test_float32(op_type: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    low = 0.1 if op_type == "ReduceLogSum" else -3.0
    x = values(shape, "float32", low=low)
    if op_type == "ReduceProd":
        x = np.exp(x / 30).astype(np.float32)
    check(op_type, x, axes)


@pytest.mark.parametrize(
    ("op_type", "name"),
    [
        *(("ReduceSum", name) for name in ("float64", "float16", "bfloat16")),
        ("ReduceMax", "bfloat16"),
        ("ReduceLogSumExp", "float16"),
    ],
)
def test_float_types(op_type: str, name: str) -> None:
    check(op_type, values((4, 40), name), (1,))


@pytest.mark.parametrize("name", ["float64", "float16"])
def test_float_columns(name: str) -> None:
    check("ReduceSum", values((3, 9, 16), name), (1,), keepdims=0)


@pytest.mark.parametrize(
    ("op_type", "name"),
    [
        *(("ReduceSum", name) for name in ("int32", "uint64", "int8")),
        *(("ReduceMax", name) for name in ("int8", "uint64", "bool")),
        *(("ReduceMin", name) for name in ("int32", "bool")),
        *(("ReduceMean", name) for name in ("int32", "uint64")),
        *((op_type, "int32") for op_type in ("ReduceL1", "ReduceL2", "ReduceLogSum")),
    ],
)
def test_integers(op_type: str, name: str) -> None:
    check(op_type, values((6, 37), name), (1,))


def test_log_sum_exp_of_integers() -> None:
    x = np.random.default_rng(1).integers(-9, 60, (5, 8)).astype(np.int32)
    check("ReduceLogSumExp", x, (1,))


@pytest.mark.parametrize("n", [1, 7, 9, 33, 63, 64, 128, 513, 2052, 4101])
def test_row_lengths(n: int) -> None:
    check("ReduceSum", values((3, n), "float32"), (1,), keepdims=0)


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceLogSumExp"])
def test_long_rows_take_two_launches(op_type: str) -> None:
    x = values((2, 8209), "float32")
    check(op_type, x, (1,))
    check(op_type, np.ascontiguousarray(x.T), (0,))
    check(op_type, x[:, :6001].copy(), (0, 1))


@pytest.mark.parametrize("inner", [1, 2, 5, 8, 33, 64, 257])
def test_column_widths(inner: int) -> None:
    check("ReduceSum", values((2, 13, inner), "float32"), (1,))


@pytest.mark.parametrize("op_type", FLOAT_OPS)
def test_special_values(op_type: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [[1, nan, 2, inf], [inf, -inf, 1, 1], [-inf] * 4, [inf, 1, 2, 3], [nan, -inf, inf, 0], [nan] * 4]
    rows += [
        [0, -1, -2, -3],
        [-inf, 2, -inf, 3],
        [1, 2, 3, nan],
        [-0.0] * 4,
        [1, 1, inf, 2],
        [0, 0, nan, -inf],
    ]
    x = np.array(rows, np.float32)
    check(op_type, x, (1,))
    if op_type in COLUMN_OPS:
        check(op_type, np.ascontiguousarray(x.T), (0,))


@pytest.mark.parametrize("op_type", FLOAT_OPS)
def test_empty(op_type: str) -> None:
    check(op_type, np.zeros((3, 0, 2), np.float32), (1,))
    check(op_type, np.zeros((3, 0, 2), np.float32), (0,))  # no results


def test_integer_extreme_of_nothing() -> None:
    check("ReduceMax", np.zeros((2, 0), np.int8), (1,))
    check("ReduceMin", np.zeros((2, 0), np.uint64), (1,))


def test_negative_zero_stays() -> None:
    x = np.full((2, 8), -0.0, np.float32)
    (found,) = run_on_device("ReduceSum", [x, np.array([1])], [((2, 1), np.float32)], opset=13, constants=[1])
    assert found is not None
    assert np.signbit(found).all()


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceL1", "ReduceLogSumExp", "ReduceL2"])
def test_no_axes(op_type: str) -> None:
    x = values((3, 5), "float32")
    (expected,) = reference(op_type, [x], {"noop_with_empty_axes": 1}, 18)
    (found,) = run_on_device(op_type, [x], [(x.shape, x.dtype)], {"noop_with_empty_axes": 1}, opset=18)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize("opset", [1, 11, 13])
def test_axes_attribute(opset: int) -> None:
    check("ReduceMean", values((2, 3, 4), "float32"), (-3, 2), opset=opset, keepdims=0)


def test_strict_results_do_not_depend_on_the_batch() -> None:
    x = values((540, 8209), "float32")
    few, many = (
        run_on_device(
            "ReduceSum", [part, np.array([1])], [((len(part),), np.float32)], {"keepdims": 0}, opset=13,
            constants=[1], precision="strict", orders=(0,),
        )[0]
        for part in (x[:2], x)
    )  # fmt: skip
    assert few is not None
    assert many is not None
    np.testing.assert_array_equal(few, many[:2])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_axes(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    check("ReduceMax", values(shape, "float32"), axes, keepdims=data.draw(st.integers(0, 1)))


def test_refusals() -> None:
    x, axes = values((2, 3), "float32"), np.array([1])
    with pytest.raises(Unsupported, match="not constant"):
        run_on_device("ReduceSum", [x, axes], [((2, 1), np.float32)], opset=13)
    with pytest.raises(Unsupported, match="axes must be in"):
        run_on_device("ReduceSum", [x, axes + 1], [((2, 1), np.float32)], opset=13, constants=[1])
    with pytest.raises(Unsupported, match="a reduction of"):
        run_on_device("ReduceSum", [x > 0, axes], [((2, 1), np.float32)], opset=13, constants=[1])


# --- arg-extremes --------------------------------------------------------------------------------


def check_arg(op_type: str, x: Array, axis: int, last: int = 0, keepdims: int = 1) -> None:
    attributes = {"axis": axis, "select_last_index": last, "keepdims": keepdims}
    (expected,) = reference(op_type, [x], attributes, 13)
    (found,) = run_on_device(op_type, [x], [(expected.shape, np.int64)], attributes, opset=13)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("op_type", "last", "shape", "axis"),
    [
        ("ArgMax", 0, (4, 37), 1),
        ("ArgMax", 1, (4, 37), 1),
        ("ArgMin", 0, (4, 37), 1),
        ("ArgMin", 1, (4, 37), 1),
        ("ArgMax", 0, (3, 9, 6), 1),
        ("ArgMin", 1, (1, 9001), 1),
        ("ArgMin", 1, (800, 2), 0),
    ],
)
def test_arg_extremes(op_type: str, last: int, shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(5).integers(-4, 5, shape).astype(np.float32)
    check_arg(op_type, x, axis, last, keepdims=last)
    x[x == 1] = np.nan
    check_arg(op_type, x, axis, last)
    check_arg(op_type, np.where(x == 2, -np.inf, np.inf).astype(np.float32), axis, last)


@pytest.mark.parametrize("name", ["float16", "float64", "int64", "uint8"])
def test_arg_types(name: str) -> None:
    check_arg("ArgMax", values((5, 33), name), 1)


def test_arg_of_nothing() -> None:
    with pytest.raises(Unsupported, match="empty"):
        run_on_device("ArgMax", [np.zeros((2, 0), np.float32)], [((2, 1), np.int64)], {"axis": 1}, opset=13)
    check_arg("ArgMax", np.zeros((0, 3), np.float32), 1)


@pytest.mark.parametrize("op_type", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_magnitudes_and_squares_of_negative_zeros_are_positive(op_type: str) -> None:
    x = np.array([[-0.0] * 6, [0.0, -0.0] * 3], np.float32)
    axes = np.array([1], np.int64)
    (expected,) = reference(op_type, [x, axes], {}, 18)
    (found,) = run_on_device(op_type, [x, axes], [(expected.shape, x.dtype)], {}, opset=18, constants=[1])
    assert found is not None
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
