"""Reshaping, repetition, joining, padding and rearrangement: kernels/numpy/shape.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import dtypes, run_op, versions
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import check_moving, cost_of

from onnxref.errors import KernelError

IDS = np.random.default_rng(0).integers(0, 2, (2, 3, 4), dtype=np.uint8)
BLOCKS = np.random.default_rng(1).integers(0, 2, (2, 8, 2, 4), dtype=np.uint8)
ONE = np.array([1], np.uint8)


def i64(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


NEW = (21, 23, 24, 25)

# operator, versions, inputs, attributes
MOVES: list[tuple[str, tuple[int, ...], list[Any], dict[str, Any]]] = [
    ("Reshape", (1,), [IDS], {"shape": (0, -1), "consumed_inputs": (1,)}),
    ("Reshape", (5, 13, 14, 19, *NEW), [IDS, i64(4, 0, -1)], {}),
    ("Squeeze", (1, 11), [IDS[:1, :, :1]], {"axes": (0,)}),
    ("Squeeze", (13, *NEW), [IDS[:1, :, :1], i64(-1)], {}),
    ("Unsqueeze", (1, 11), [IDS], {"axes": (3, 0)}),
    ("Unsqueeze", (13, *NEW), [IDS, i64(-1, 0)], {}),
    ("Flatten", (1, 9, 11, 13, *NEW), [IDS], {"axis": 2}),
    ("Transpose", (1, 13, *NEW), [IDS], {"perm": (1, 2, 0)}),
    ("Expand", (8, 13), [IDS[:, :1], i64(2, 1, 3, 1)], {}),
    ("Tile", (6, 13), [IDS, i64(1, 2, 3)], {}),
    ("Concat", (1, 4, 11, 13), [IDS, IDS[:, :1]], {"axis": 1}),
    ("Pad", (1,), [IDS], {"paddings": (1, 0, -1, 0, 2, 1), "value": 1.0}),
    ("Pad", (2,), [IDS], {"pads": (1, 0, -1, 0, 2, 1), "value": 1.0}),
    ("Pad", (11, 13, 18, 19, *NEW), [IDS, i64(1, 0, -1, 0, 2, 1), ONE], {}),
    ("Pad", (11, 13, 18, 19, *NEW), [IDS, i64(1, 0, -1, 0, 2, 1)], {}),
    ("Pad", (11, 13, 18, 19, *NEW), [IDS, i64(5, 0, -1, 0, 2, 1)], {"mode": "reflect"}),
    ("Pad", (18, 19, *NEW), [IDS, i64(1, 3), None, i64(-1)], {"mode": "edge"}),
    ("DepthToSpace", (1, 11, 13, 28), [BLOCKS], {"blocksize": 2}),
    ("SpaceToDepth", (1, 13, 28), [BLOCKS], {"blocksize": 2}),
    ("CenterCropPad", (18,), [IDS, i64(5, 1)], {"axes": (1, -1)}),
    ("Trilu", (14,), [IDS, np.array(1)], {}),
    ("Trilu", (14,), [IDS], {"upper": 0}),
]


@pytest.mark.parametrize(("op_type", "versions", "inputs", "attributes"), MOVES)
def test_every_element_type_moves_alike(
    op_type: str, versions: tuple[int, ...], inputs: list[Any], attributes: dict[str, Any]
) -> None:
    for version in versions:
        check_moving(op_type, version, inputs, **attributes)


@pytest.mark.parametrize(
    ("version", "inputs", "attributes"),
    [
        (1, [IDS], {"split": (1, 2), "axis": 1}),
        (2, [IDS], {"split": (1, 2), "axis": 1}),
        (11, [IDS], {"split": (1, 2), "axis": -2}),
        (13, [IDS, i64(1, 2)], {"axis": 1}),
        (18, [IDS, i64(1, 2)], {"axis": 1}),
        (18, [IDS], {"num_outputs": 2, "axis": 1}),
    ],
)
def test_split_moves_every_element_type(version: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    check_moving("Split", version, inputs, n_outputs=2, **attributes)


def test_the_tables_name_every_version() -> None:
    for op_type in {row[0] for row in MOVES} - {"Tile"}:
        named = {v for row in MOVES if row[0] == op_type for v in row[1]}
        assert sorted(named) == versions(op_type), op_type
    for op_type in ("Shape", "Size"):
        for version in versions(op_type):
            for dtype in dtypes(op_type, version):
                found = run_op(op_type, np.zeros((2, 3), dtype), opset=version)
                assert found.dtype == np.int64
                assert found.tolist() == {"Shape": [2, 3], "Size": 6}[op_type]


# --- reshaping -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "target", "allowzero", "expected"),
    [
        ((2, 3, 4), (-1, 4), 0, (6, 4)),
        ((2, 3, 4), (0, -1), 0, (2, 12)),
        ((2, 3, 4), (4, 0, -1), 0, (4, 3, 2)),
        ((1,), (), 0, ()),
        ((), (1, -1), 0, (1, 1)),
        ((0, 3), (3, 0), 1, (3, 0)),
        ((0, 3), (0, 3), 0, (0, 3)),
        ((0, 3), (5, -1), 0, (5, 0)),
    ],
)
def test_reshape(shape: Any, target: Any, allowzero: int, expected: Any) -> None:
    out = run_op("Reshape", np.zeros(shape, np.float32), i64(*target), opset=14, allowzero=allowzero)
    assert out.shape == expected


@pytest.mark.parametrize(
    ("shape", "start", "end", "expected"),
    [
        ((2, 3, 4), 0, None, [2, 3, 4]),
        ((2, 3, 4), -1, None, [4]),
        ((2, 3, 4), 1, -1, [3]),
        ((2, 3, 4), -9, 9, [2, 3, 4]),
        ((2, 3, 4), 2, 1, []),
        ((), 0, None, []),
    ],
)
def test_shape_slices_and_clamps(shape: Any, start: int, end: int | None, expected: list[int]) -> None:
    assert run_op("Shape", np.zeros(shape), opset=15, start=start, end=end).tolist() == expected


@pytest.mark.parametrize(
    ("axis", "shape", "expected"),
    [
        (0, (2, 3), (1, 6)),
        (2, (2, 3), (6, 1)),
        (-1, (2, 3), (2, 3)),
        (0, (), (1, 1)),
        (1, (0, 3), (0, 3)),
        (0, (0, 3), (1, 0)),
    ],
)
def test_flatten(axis: int, shape: Any, expected: Any) -> None:
    assert run_op("Flatten", np.zeros(shape), opset=11, axis=axis).shape == expected


def test_squeeze_without_axes_drops_all_ones() -> None:
    for version in (1, 11, 13):
        assert run_op("Squeeze", np.zeros((1, 2, 1)), opset=version).shape == (2,)
    assert run_op("Squeeze", np.zeros((1, 2, 1)), i64(), opset=13).shape == (1, 2, 1)


# --- repetition ----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 1, 3]), max_size=4), st.data())
def test_expand_is_multiplication_by_ones(shape: list[int], data: Any) -> None:
    """The schema's own definition: input * ones(shape)."""
    other = [data.draw(st.sampled_from([1, d] if d != 1 else [0, 1, 2])) for d in shape]
    other = other[data.draw(st.integers(0, len(other))) :]
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    out = run_op("Expand", x, i64(*other), opset=13)
    np.testing.assert_array_equal(out, x * np.ones(other, np.float32), strict=True)
    assert cost_of("Expand", x, i64(*other), opset=13).out_bytes == out.nbytes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4))
def test_tile_is_numpy_tile(dims: list[tuple[int, int]]) -> None:
    x = np.arange(np.prod([d for d, _ in dims]), dtype=np.int32).reshape([d for d, _ in dims])
    repeats = [r for _, r in dims]
    out = run_op("Tile", x, i64(*repeats), opset=13)
    np.testing.assert_array_equal(out, np.tile(x, repeats), strict=True)
    assert cost_of("Tile", x, i64(*repeats), opset=13).out_bytes == out.nbytes


@pytest.mark.parametrize("dtype", dtypes("Tile", 1))
def test_tile_1_takes_count_and_axis_in_the_datas_type(dtype: Any) -> None:
    x = np.arange(6).reshape(2, 3).astype(dtype)
    out = run_op("Tile", x, np.array([2], dtype), np.array([1], dtype), opset=1)
    np.testing.assert_array_equal(out, np.tile(x, (1, 2)), strict=True)


# --- joining and cutting -------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(-2, 1))
def test_split_and_concat_are_inverse(lengths: list[int], axis: int) -> None:
    shape = [2, 2]
    shape[axis] = sum(lengths)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    parts = run_op("Split", x, i64(*lengths), opset=18, n_outputs=len(lengths), axis=axis)
    parts = parts if isinstance(parts, tuple) else (parts,)
    assert [p.shape[axis] for p in parts] == lengths
    np.testing.assert_array_equal(run_op("Concat", *parts, opset=13, axis=axis), x, strict=True)


@pytest.mark.parametrize(
    ("size", "parts", "expected"),
    [(6, 3, [2, 2, 2]), (7, 3, [3, 3, 1]), (5, 4, [2, 2, 1, 0]), (0, 2, [0, 0])],
)
def test_split_18_makes_the_last_chunks_smaller(size: int, parts: int, expected: list[int]) -> None:
    out = run_op("Split", np.arange(size), opset=18, n_outputs=parts, num_outputs=parts)
    assert [len(p) for p in out] == expected


def test_split_1_prefers_the_input_over_the_attribute() -> None:
    x = np.arange(5, dtype=np.float32)
    first, _ = run_op("Split", x, np.array([4, 1], np.float32), opset=1, n_outputs=2, split=(2, 3))
    assert len(first) == 4
    first, _ = run_op("Split", x, opset=1, n_outputs=2, split=(2, 3))
    assert len(first) == 2


@pytest.mark.parametrize("version", [1, 2, 11, 13])
def test_split_before_18_cuts_equally_by_the_number_of_outputs(version: int) -> None:
    out = run_op("Split", np.arange(6.0), opset=version, n_outputs=3)
    assert [len(p) for p in out] == [2, 2, 2]


def test_concat_1_joins_along_axis_1_by_default() -> None:
    assert run_op("Concat", np.zeros((2, 3)), np.zeros((2, 1)), opset=1).shape == (2, 4)


# --- padding -------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["constant", "reflect", "edge", "wrap"]),
    st.lists(st.tuples(st.integers(3, 5), st.integers(-1, 7), st.integers(-1, 7)), min_size=1, max_size=3),
)
def test_pad_is_numpy_pad_of_the_cropped_tensor(mode: str, dims: list[tuple[int, int, int]]) -> None:
    x = np.arange(np.prod([d for d, _, _ in dims]), dtype=np.int64).reshape([d for d, _, _ in dims])
    pads = i64(*[b for _, b, _ in dims], *[e for _, _, e in dims])
    cropped = x[tuple(slice(max(-b, 0), d - max(-e, 0)) for d, b, e in dims)]
    widths = [(max(b, 0), max(e, 0)) for _, b, e in dims]
    expected = np.pad(cropped, widths, mode=mode)  # type: ignore[call-overload]
    out = run_op("Pad", x, pads, opset=19, mode=mode)
    np.testing.assert_array_equal(out, expected, strict=True)
    assert cost_of("Pad", x, pads, opset=19, mode=mode).out_bytes == out.nbytes


def test_pad_of_one_element_reflects_it() -> None:
    assert run_op("Pad", np.array([7.0]), i64(2, 1), opset=13, mode="reflect").tolist() == [7.0] * 4


def test_pad_without_elements_allocates_nothing_else() -> None:
    out = run_op("Pad", np.zeros((0, 1), np.int8), i64(0, 0, 0, 2**40), opset=13, mode="edge")
    assert out.shape == (0, 2**40 + 1)


def test_pad_axes_apply_in_their_order() -> None:
    out = run_op("Pad", np.zeros((2, 2)), i64(1, 2, 0, 3), None, i64(-1, 0), opset=18)
    assert out.shape == (2 + 2 + 3, 2 + 1)


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [(5, 2, [2, 3]), (4, 2, [2, 3]), (2, 5, [0, 1, 2, 0, 0]), (3, 3, [1, 2, 3]), (3, 0, [])],
)
def test_center_crop_pad_puts_the_odd_element_at_the_end(size: int, target: int, expected: list[int]) -> None:
    out = run_op("CenterCropPad", np.arange(1, size + 1), np.array([target], np.int32), opset=18)
    assert out.tolist() == expected


# --- rearrangement -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_inverts_depth_to_space(mode: str) -> None:
    x = np.arange(2 * 18 * 2 * 3).reshape(2, 18, 2, 3)
    there = run_op("DepthToSpace", x, opset=28, blocksize=3, mode=mode)
    assert there.shape == (2, 2, 6, 9)
    np.testing.assert_array_equal(run_op("SpaceToDepth", there, opset=28, blocksize=3, mode=mode), x)


def test_depth_to_space_modes_differ() -> None:
    x = np.arange(8).reshape(1, 8, 1, 1)
    assert run_op("DepthToSpace", x, opset=11, blocksize=2, mode="DCR")[0, 0].tolist() == [[0, 2], [4, 6]]
    assert run_op("DepthToSpace", x, opset=11, blocksize=2, mode="CRD")[0, 0].tolist() == [[0, 1], [2, 3]]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.sampled_from([-(2**63), -3, -1, 0, 1, 2, 5, 2**63 - 1]))
def test_trilu_is_numpy_triangle(n: int, m: int, k: int) -> None:
    x = np.arange(1, 2 * n * m + 1).reshape(2, n, m)
    bounded = max(-9, min(9, k))
    for upper, expected in ((1, np.triu(x, bounded)), (0, np.tril(x, bounded))):
        np.testing.assert_array_equal(run_op("Trilu", x, np.array(k), opset=14, upper=upper), expected)


# --- errors and costs ----------------------------------------------------------------------------

X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("op_type", "opset", "inputs", "attributes", "message"),
    [
        ("Reshape", 14, [X, i64(-1, -1)], {}, r"at most one -1 \(got \[-1, -1\]\)"),
        ("Reshape", 14, [X, i64(-2, 3)], {}, r">= 0"),
        ("Reshape", 14, [X, i64(4, 2)], {}, r"6 elements \(got \[4, 2\]\)"),
        ("Reshape", 14, [X, i64(4, -1)], {}, r"whole size for -1"),
        ("Reshape", 14, [X, i64(6, 1, 0)], {}, r"zeros at axes of the data"),
        ("Reshape", 14, [X, i64(0, -1)], {"allowzero": 1}, r"both 0 and -1"),
        ("Reshape", 14, [X, np.array([[6]])], {}, r"shape must be 1-D"),
        ("Reshape", 14, [X[:0], i64(0, 2**62, 2**62)], {"allowzero": 1}, r"addressable"),
        ("Reshape", 1, [X], {}, r"6 elements \(got \[\]\)"),
        ("Squeeze", 1, [X[:1]], {"axes": (-2,)}, r"must not be negative in this version \(got \(-2,\)\)"),
        ("Squeeze", 13, [X, i64(0)], {}, r"size 1 of \(2, 3\) \(got 0\)"),
        ("Squeeze", 13, [X, i64(2)], {}, r"axes must be in \[-2, 1\] for rank 2 \(got 2\)"),
        ("Unsqueeze", 1, [X], {"axes": (-1,)}, r"must not be negative in this version"),
        ("Unsqueeze", 13, [X, i64(0, 0)], {}, r"must not repeat"),
        ("Unsqueeze", 13, [X, i64(3)], {}, r"axes must be in \[-3, 2\]"),
        ("Unsqueeze", 13, [X, i64(*range(70))], {}, r"rank of the output must be at most 64 \(got 72\)"),
        ("Flatten", 9, [X], {"axis": -1}, r"axis must not be negative in this version"),
        ("Flatten", 11, [X], {"axis": 3}, r"axis must be in \[-2, 2\] for rank 2 \(got 3\)"),
        ("Transpose", 13, [X], {"perm": (0, 0)}, r"permutation of the 2 axes \(got \(0, 0\)\)"),
        ("Expand", 13, [X, i64(2, 2)], {}, r"broadcast with the input's \(2, 3\) \(got \[2, 2\]\)"),
        ("Expand", 13, [X, i64(-1, 3)], {}, r"broadcast"),
        ("Tile", 13, [X, i64(2)], {}, r"repeats must be 2 numbers"),
        ("Tile", 13, [X, i64(2, -1)], {}, r">= 0 \(got \[2, -1\]\)"),
        ("Tile", 1, [X, np.float32([np.inf]), np.float32([0])], {}, r"tiles must be finite \(got inf\)"),
        ("Tile", 1, [X, np.float32([2]), np.float32([2])], {}, r"axis must be in"),
        ("Concat", 13, [X, X[:1]], {"axis": 1}, r"agree with \(2, 3\) except along axis 1 \(got \(1, 3\)\)"),
        ("Concat", 13, [X, X[0]], {"axis": 0}, r"agree"),
        ("Split", 2, [X], {"split": (3,)}, r"add up to 2"),
        ("Split", 2, [X], {"split": (1, 1)}, r"a length for each of 1 outputs"),
        ("Split", 13, [X, i64(2)], {"axis": 2}, r"axis must be in"),
        ("Split", 18, [X], {}, r"either split or num_outputs must be given \(got neither\)"),
        ("Split", 18, [X, i64(2)], {"num_outputs": 1}, r"\(got both\)"),
        ("Split", 18, [X], {"num_outputs": 3}, r"number of outputs, 1 \(got 3\)"),
        ("Pad", 13, [X, i64(1, 1)], {}, r"each of 2 axes \(got 2 values\)"),
        ("Pad", 13, [X, i64(-3, 0, 5, 0)], {}, r"crop more than 2 at axis 0 \(got -3, 5\)"),
        ("Pad", 18, [X, i64(0, 0, 0, 0)], {"mode": "wrap"}, r"constant, reflect, edge \(got 'wrap'\)"),
        ("Pad", 13, [X[:0], i64(1, 0, 0, 0)], {"mode": "edge"}, r"empty dimension"),
        ("Pad", 13, [X, i64(0, 0, 0, 0), X], {}, r"constant_value must have one element"),
        ("Pad", 18, [X, i64(0, 0, 0, 0), None, i64(0, -2)], {}, r"must not repeat"),
        ("DepthToSpace", 13, [X], {"blocksize": 1}, r"\(N, C, H, W\)"),
        (
            "DepthToSpace",
            13,
            [np.zeros((1, 3, 1, 1))],
            {"blocksize": 2},
            r"multiple of blocksize\*\*2, 4 \(got 3\)",
        ),
        ("DepthToSpace", 13, [np.zeros((1, 3, 1, 1))], {"blocksize": 0}, r"positive \(got 0\)"),
        (
            "SpaceToDepth",
            28,
            [np.zeros((1, 1, 2, 3))],
            {"blocksize": 2},
            r"multiples of blocksize, 2 \(got 2, 3\)",
        ),
        (
            "SpaceToDepth",
            28,
            [np.zeros((1, 1, 2, 3))],
            {"blocksize": 1, "mode": "X"},
            r"DCR, CRD \(got 'X'\)",
        ),
        ("DepthToSpace", 13, [np.zeros((1, 0, 1, 1))], {"blocksize": 2**40}, r"addressable"),
        ("SpaceToDepth", 13, [np.zeros((1, 1, 0, 0))], {"blocksize": 2**40}, r"addressable"),
        ("CenterCropPad", 18, [X, i64(1)], {}, r"shape must be 2 sizes >= 0"),
        ("CenterCropPad", 18, [X, i64(-1)], {"axes": (0,)}, r"\(got \[-1\]\)"),
        ("Trilu", 14, [X[0]], {}, r"rank 2 or more \(got 1\)"),
        ("Trilu", 14, [X, i64(1, 2)], {}, r"k must have one element"),
    ],
)
def test_errors(
    op_type: str, opset: int, inputs: list[Any], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_op(op_type, *inputs, opset=opset, **attributes)


def test_unequal_split_before_18_is_an_error() -> None:
    with pytest.raises(KernelError, match="size 3 of axis 0 must be a multiple of the 2 outputs"):
        run_op("Split", np.arange(3), opset=13, n_outputs=2)


@pytest.mark.parametrize(
    ("op_type", "opset", "inputs", "attributes", "elements"),
    [
        ("Expand", 13, [X[:1, :1], i64(2**31, 2**33)], {}, 2**64),
        ("Tile", 13, [X, i64(2**40, 2**40)], {}, 6 * 2**80),
        ("Tile", 1, [X, np.float32(2.0**40), np.float32(0)], {}, 6 * 2**40),
        ("Pad", 13, [X, i64(2**40, 0, 0, 0)], {"mode": "edge"}, (2**40 + 2) * 3),
        ("Pad", 2, [X], {"pads": (2**40, 0, 0, 0)}, (2**40 + 2) * 3),
        ("Pad", 1, [X], {"paddings": (2**40, 0, 0, 0)}, (2**40 + 2) * 3),
        ("CenterCropPad", 18, [X, i64(2**40, 2**40)], {}, 2**80),
        ("Concat", 13, [X] * 100, {"axis": 0}, 600),
    ],
)
def test_cost_is_exact_and_known_beforehand(
    op_type: str, opset: int, inputs: list[Any], attributes: dict[str, Any], elements: int
) -> None:
    assert cost_of(op_type, *inputs, opset=opset, **attributes).out_bytes == 4 * elements
