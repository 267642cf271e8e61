"""Constants, ranges, identity matrices and one-hot codes: kernels/numpy/creation.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import dtypes, run_op, versions
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import cost_of, palette, same

from onnxref import registry
from onnxref.errors import KernelError, ResourceLimitError
from onnxref.limits import Budget, Limits
from onnxref.registry import Context


def i64(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


@dataclass
class Sparse:
    values: np.ndarray[Any, Any]
    indices: np.ndarray[Any, Any]
    shape: tuple[int, ...]


# --- Constant ------------------------------------------------------------------------------------


def test_constant_returns_every_type_in_every_version() -> None:
    for version in versions("Constant"):
        for dtype in dtypes("Constant", version, "outputs"):
            values = palette(dtype)
            assert same(run_op("Constant", opset=version, value=values), values)


@pytest.mark.parametrize(
    ("attribute", "given_", "expected"),
    [
        ("value_float", 0.1, np.float32(0.1)),
        ("value_floats", (0.5, 2.0), np.float32([0.5, 2])),
        ("value_floats", (), np.zeros(0, np.float32)),
        ("value_int", 2**40, np.array(2**40)),
        ("value_ints", (1, -2), i64(1, -2)),
        ("value_string", "né", np.array("né", object)),
        ("value_strings", ("a", "bc"), np.array(["a", "bc"], object)),
    ],
)
def test_constant_of_plain_attributes(attribute: str, given_: Any, expected: Any) -> None:
    for version in (12, 25):
        assert same(run_op("Constant", opset=version, **{attribute: given_}), np.asarray(expected))


@pytest.mark.parametrize("version", [11, 25])
@pytest.mark.parametrize("indices", [i64(1, 5), np.array([[0, 1], [1, 2]])])
def test_constant_densifies(version: int, indices: Any) -> None:
    for dtype in dtypes("Constant", version, "outputs"):
        zero, one = palette(dtype)
        expected = np.full((2, 3), zero, dtype)
        expected[0, 1] = expected[1, 2] = one
        sparse = Sparse(np.array([one, one], dtype), indices, (2, 3))
        assert same(run_op("Constant", opset=version, sparse_value=sparse), expected), dtype


def test_constant_densifies_scalars_and_nothing() -> None:
    assert run_op("Constant", opset=13, sparse_value=Sparse(np.ones(1), i64(0), ())).tolist() == 1
    empty = Sparse(np.ones(0), np.zeros((0, 2), np.int64), (0, 3))
    assert run_op("Constant", opset=13, sparse_value=empty).shape == (0, 3)


def test_a_huge_sparse_constant_is_charged_first() -> None:
    kernel = registry.find("", "Constant", 13).kernel
    ctx = Context(budget=Budget(Limits(tensor_bytes=2**20)))
    with pytest.raises(ResourceLimitError, match="tensor_bytes"):
        kernel(sparse_value=Sparse(np.ones(1), i64(0), (2**40,)), ctx=ctx)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, r"exactly one of value, .*value_strings must be given \(got none\)"),
        ({"value_int": 0, "value": np.ones(1)}, r"\(got value, value_int\)"),
        ({"sparse_value": Sparse(np.ones(1), i64(6), (2, 3))}, r"lie in shape \(2, 3\) \(got 6\)"),
        (
            {"sparse_value": Sparse(np.ones(1), np.array([[0, 3]]), (2, 3))},
            r"lie in shape \(2, 3\) \(got 3\)",
        ),
        ({"sparse_value": Sparse(np.ones(1), i64(-1), (2, 3))}, r"\(got -1\)"),
        ({"sparse_value": Sparse(np.ones(2), i64(1), (2, 3))}, r"must have shape \(2,\) or \(2, 2\)"),
        ({"sparse_value": Sparse(np.ones(1), i64(1), (-2, -3))}, r"must be >= 0 \(got \(-2, -3\)\)"),
    ],
)
def test_constant_errors(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("Constant", opset=13, **attributes)


# --- ConstantOfShape and EyeLike -----------------------------------------------------------------


def test_constant_of_shape_in_every_type() -> None:
    for version in versions("ConstantOfShape"):
        assert same(run_op("ConstantOfShape", i64(2), opset=version), np.zeros(2, np.float32))
        assert run_op("ConstantOfShape", i64(), opset=version).shape == ()
        for dtype in dtypes("ConstantOfShape", version, "outputs"):
            one = palette(dtype)[1:]
            out = run_op("ConstantOfShape", i64(2, 0, 1), opset=version, value=one)
            assert out.shape == (2, 0, 1)
            assert same(run_op("ConstantOfShape", i64(2), opset=version, value=one), np.repeat(one, 2))


def test_eye_like_in_every_type() -> None:
    x = np.zeros((2, 3), np.float32)
    for version in versions("EyeLike"):
        for dtype in dtypes("EyeLike", version, "outputs"):
            from_input = run_op("EyeLike", x.astype(dtype), opset=version, k=1)
            assert from_input.dtype == dtype
            assert from_input.astype(int).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert run_op("EyeLike", x, opset=9, dtype=7).dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.sampled_from([-(2**63), -4, -2, -1, 0, 1, 3, 4, 2**63 - 1]))
def test_eye_like_is_numpy_eye(n: int, m: int, k: int) -> None:
    expected = np.eye(n, m, max(-9, min(9, k)), dtype=np.float32)
    np.testing.assert_array_equal(run_op("EyeLike", np.ones((n, m), np.float32), opset=22, k=k), expected)


# --- Range ---------------------------------------------------------------------------------------


def scalars(dtype: Any, *values: float) -> list[np.ndarray[Any, Any]]:
    return [np.array(v, dtype) for v in values]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([np.int16, np.int32, np.int64]), st.data())
def test_range_of_integers_is_pythons(dtype: Any, data: Any) -> None:
    info = np.iinfo(dtype)
    whole = st.integers(int(info.min), int(info.max))
    start = data.draw(whole)
    delta = data.draw(whole.filter(bool))
    limit = data.draw(
        st.integers(max(info.min, start - 50 * abs(delta)), min(info.max, start + 50 * abs(delta)))
    )
    args = [np.array(v, dtype) for v in (start, limit, delta)]
    for version in (11, 27):
        out = run_op("Range", *args, opset=version)
        assert out.dtype == dtype
        assert out.tolist() == list(range(start, limit, delta))
        assert cost_of("Range", *args, opset=version).out_bytes == out.nbytes


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([np.float32, np.float64]),
    st.floats(-100, 100, width=32),
    st.floats(-100, 100, width=32),
    st.floats(0.5, 9, width=32),
    st.booleans(),
)
def test_range_of_floats_follows_the_formula(
    dtype: Any, start: float, limit: float, delta: float, down: bool
) -> None:
    a, b, d = (dtype(v) for v in (start, limit, -delta if down else delta))
    count = max(math.ceil((b - a) / d), 0)
    out = run_op("Range", *scalars(dtype, a, b, d), opset=11)
    assert same(out, np.array([a + dtype(i) * d for i in range(count)], dtype))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_range_27_computes_half_types_in_the_stash_type(dtype: Any) -> None:
    # 0.1 in bfloat16 is 0.10009765625: eight-bit arithmetic would lose most steps.
    start, limit, delta = scalars(dtype, 0, 20, 0.1)
    step = np.float32(delta)
    expected = (np.arange(math.ceil(20 / float(step)), dtype=np.float32) * step).astype(dtype)
    assert same(run_op("Range", start, limit, delta, opset=27), expected)
    in_double = run_op("Range", start, limit, delta, opset=27, stash_type=11)
    assert same(in_double, (np.arange(len(expected)) * float(step)).astype(dtype))
    own = 10 if dtype == np.float16 else 16
    assert run_op("Range", start, limit, delta, opset=27, stash_type=own).dtype == dtype


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (scalars(np.float32, 0, 1, 0), r"delta must not be zero"),
        (scalars(np.int32, 0, 1, 0), r"delta must not be zero"),
        (scalars(np.float32, 0, np.inf, 1), r"limit must be finite \(got inf\)"),
        (scalars(np.float64, np.nan, 1, 1), r"start must be finite \(got nan\)"),
        (scalars(np.float32, -3e38, 3e38, 1), r"must be finite \(got inf\)"),
        ([i64(1, 2), i64(1), i64(1)], r"start must have one element \(got shape \(2,\)\)"),
    ],
)
def test_range_errors(args: list[Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("Range", *args, opset=11)


def test_range_rejects_other_stash_types() -> None:
    with pytest.raises(
        KernelError, match=r"stash_type must be one of float, float16, double, bfloat16 \(got int64\)"
    ):
        run_op("Range", *scalars(np.float16, 0, 1, 1), opset=27, stash_type=7)


# --- OneHot --------------------------------------------------------------------------------------


def slow_one_hot(indices: Any, depth: int, axis: int, lowest: int) -> Any:
    out = np.zeros((*indices.shape, depth), np.int64)
    for where in np.ndindex(indices.shape):
        i = int(indices[where])
        if lowest <= i < depth:
            out[where][i] = 1
    return np.moveaxis(out, -1, axis)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=2), st.integers(0, 4), st.data())
def test_one_hot_against_a_loop(shape: list[int], depth: int, data: Any) -> None:
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    indices = np.array(
        data.draw(st.lists(st.integers(-6, 6), min_size=math.prod(shape), max_size=math.prod(shape))),
        np.int64,
    ).reshape(shape)
    args = (indices, i64(depth), i64(0, 1))
    for version, lowest in ((9, 0), (11, -depth), (28, -depth)):
        out = run_op("OneHot", *args, opset=version, axis=axis)
        np.testing.assert_array_equal(out, slow_one_hot(indices, depth, axis, lowest), strict=True)
        assert cost_of("OneHot", *args, opset=version, axis=axis).out_bytes == out.nbytes


def test_one_hot_in_every_type() -> None:
    for version in versions("OneHot"):
        for t3 in dtypes("OneHot", version, index=2):
            values = palette(t3)
            assert same(run_op("OneHot", i64(1, 2), i64(2), values, opset=version), values[[[0, 1], [0, 0]]])
        for t1 in dtypes("OneHot", version):
            for t2 in dtypes("OneHot", version, index=1):
                out = run_op("OneHot", np.array([1, 0, 5], t1), np.array(2, t2), i64(3, 4), opset=version)
                assert out.tolist() == [[3, 4], [4, 3], [3, 3]]


def test_one_hot_of_odd_numbers() -> None:
    floats = np.array([np.nan, np.inf, -np.inf, 1e30, 1.9, -0.5, -1.0])
    marked = run_op("OneHot", floats, np.float32(2.7), i64(0, 1), opset=11)
    assert marked.tolist() == [[0, 0]] * 4 + [[0, 1], [1, 0], [0, 1]]
    beyond = run_op("OneHot", np.array([-np.inf, np.inf], np.float16), i64(70000), i64(0, 1), opset=11)
    assert not beyond.any()
    assert run_op("OneHot", np.array([2**64 - 1], np.uint64), i64(2), i64(0, 1), opset=11).tolist() == [
        [0, 0]
    ]


ONES = np.ones(1, np.int64)


@pytest.mark.parametrize(
    ("op_type", "opset", "inputs", "attributes", "message"),
    [
        ("ConstantOfShape", 9, [i64(1, -1)], {}, r"dimensions >= 0 \(got \[1, -1\]\)"),
        ("ConstantOfShape", 9, [i64(2**62, 0, 2**62)], {}, r"addressable"),
        ("ConstantOfShape", 9, [i64(1)], {"value": np.ones(2)}, r"one element \(got shape \(2,\)\)"),
        ("EyeLike", 9, [ONES], {}, r"rank 2 \(got 1\)"),
        ("EyeLike", 9, [ONES[None]], {"dtype": 99}, r"dtype must be an element type \(got 99\)"),
        ("EyeLike", 9, [ONES[None]], {"dtype": 8}, r"numeric or bool \(got string\)"),
        ("OneHot", 11, [ONES, i64(-1), i64(0, 1)], {}, r"depth must not be negative \(got -1\)"),
        ("OneHot", 11, [ONES, np.array(np.nan), i64(0, 1)], {}, r"depth must be finite \(got nan\)"),
        ("OneHot", 11, [ONES, i64(1, 2), i64(0, 1)], {}, r"depth must have one element"),
        ("OneHot", 11, [ONES, i64(2), i64(1)], {}, r"values must have shape \(2,\)"),
        (
            "OneHot",
            11,
            [ONES, i64(2), i64(0, 1)],
            {"axis": 2},
            r"axis must be in \[-2, 1\] for rank 2 \(got 2\)",
        ),
    ],
)
def test_errors(
    op_type: str, opset: int, inputs: list[Any], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_op(op_type, *inputs, opset=opset, **attributes)


@pytest.mark.parametrize(
    ("op_type", "opset", "inputs", "out_bytes"),
    [
        ("ConstantOfShape", 9, [i64(2**40, 2**40)], 4 * 2**80),
        ("Range", 11, [i64(-(2**63)), i64(2**63 - 1), i64(1)], 8 * (2**64 - 1)),
        ("Range", 11, scalars(np.float32, 0, 3e38, 1), 4 * int(np.float32(3e38))),
        (
            "Range",
            27,
            scalars(np.float16, 0, 60000, 6e-8),
            2 * math.ceil(np.float32(60000) / np.float32(np.float16(6e-8))),
        ),
        ("OneHot", 11, [i64(0), i64(2**50), i64(0, 1)], 8 * 2**50),
    ],
)
def test_cost_is_exact_and_known_beforehand(
    op_type: str, opset: int, inputs: list[Any], out_bytes: int
) -> None:
    assert cost_of(op_type, *inputs, opset=opset).out_bytes == out_bytes
