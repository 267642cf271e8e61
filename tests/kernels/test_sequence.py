"""Sequence operators against Python lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.errors import KernelError, ResourceLimitError
from onnxref.limits import Budget, Limits
from onnxref.registry import Context

DTYPES = [
    np.float32,
    np.float64,
    np.float16,
    ml_dtypes.bfloat16,
    np.int8,
    np.uint64,
    np.bool_,
    np.complex64,
    np.object_,
]


class Body:
    """A subgraph made from a Python function."""

    def __init__(self, function: Callable[..., tuple[Any, ...]], inputs: int, outputs: int) -> None:
        self.function = function
        self.input_names = tuple(f"in{i}" for i in range(inputs))
        self.output_names = tuple(f"out{i}" for i in range(outputs))
        self.output_types = (None,) * outputs

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return self.function(*inputs)


def tensors(n: int, dtype: Any = np.float32) -> list[Any]:
    return [np.full((2,), str(i) if dtype == np.object_ else i, dtype) for i in range(n)]


def same(got: Any, want: list[Any]) -> None:
    assert isinstance(got, list)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def scalar(value: int | None, dtype: Any = np.int64) -> Any:
    return None if value is None else np.array(value, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_construct_concat_and_split(dtype: Any) -> None:
    parts = tensors(3, dtype)
    sequence = run_op("SequenceConstruct", *parts, opset=11)
    same(sequence, parts)
    joined = run_op("ConcatFromSequence", sequence, opset=11, axis=0)
    assert joined.dtype == dtype
    same(run_op("SplitToSequence", joined, scalar(2), opset=24), parts)
    stacked = run_op("ConcatFromSequence", sequence, opset=11, axis=-1, new_axis=1)
    assert stacked.shape == (2, 3)
    same(run_op("SplitToSequence", stacked, opset=11, axis=1, keepdims=0), parts)


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, 4), position=st.none() | st.integers(-6, 6), int32=st.booleans())
def test_positions_are_those_of_lists(length: int, position: int | None, int32: bool) -> None:
    sequence = tensors(length)
    before = list(sequence)
    at = scalar(position, np.int32 if int32 else np.int64)
    new = np.array([9, 9], np.float32)
    if position is None or -length <= position <= length:
        want = list(sequence)
        want.insert(length if position is None else position, new)
        same(run_op("SequenceInsert", sequence, new, at, opset=11), want)
    else:
        with pytest.raises(KernelError, match=r"position must be in \[-?\d, \d\]"):
            run_op("SequenceInsert", sequence, new, at, opset=11)
    if (position is None and length) or (position is not None and -length <= position < length):
        index = -1 if position is None else position
        same(
            run_op("SequenceErase", sequence, at, opset=11), [t for t in sequence if t is not sequence[index]]
        )
        assert run_op("SequenceAt", sequence, scalar(index), opset=11) is sequence[index]
    else:
        for op in ("SequenceErase", "SequenceAt") if position is not None else ("SequenceErase",):
            with pytest.raises(KernelError, match="position must be|input_sequence must not be empty"):
                run_op(op, sequence, at, opset=11)
    assert all(a is b for a, b in zip(sequence, before, strict=True))


@pytest.mark.parametrize("dtype", [None, 1, 8, 16, 28])
def test_empty(dtype: int | None) -> None:
    assert run_op("SequenceEmpty", opset=11, dtype=dtype) == []


@pytest.mark.parametrize("length", [0, 3])
def test_length(length: int) -> None:
    got = run_op("SequenceLength", tensors(length), opset=11)
    assert (got.dtype, got.shape, got.item()) == (np.int64, (), length)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    axis=st.integers(0, 2),
    size=st.none() | st.integers(1, 5),
    keepdims=st.integers(0, 1),
)
def test_split_in_equal_parts(shape: list[int], axis: int, size: int | None, keepdims: int) -> None:
    axis %= len(shape)
    x = np.arange(np.prod(shape)).reshape(shape)
    step = size or 1
    want = [np.take(x, range(i, min(i + step, shape[axis])), axis) for i in range(0, shape[axis], step)]
    if size is None and not keepdims:
        want = [np.take(x, i, axis) for i in range(shape[axis])]
    got = run_op("SplitToSequence", x, scalar(size), opset=24, axis=axis - len(shape), keepdims=keepdims)
    same(got, want)
    assert [part.shape for part in got] == [part.shape for part in want]


@pytest.mark.parametrize("sizes", [[3, 0, 2], [5], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_split_by_sizes(sizes: list[int], keepdims: int) -> None:
    x = np.arange(10).reshape(2, 5)
    got = run_op("SplitToSequence", x, np.array(sizes, np.int32), opset=11, axis=1, keepdims=keepdims)
    same(got, np.split(x, np.cumsum(sizes)[:-1], axis=1))


def test_split_of_a_vector_gives_tensors() -> None:
    got = run_op("SplitToSequence", np.array([1.0, 2.0]), opset=11, keepdims=0)
    assert all(isinstance(part, np.ndarray) and part.shape == () for part in got)


def test_concat_of_different_sizes_and_scalars() -> None:
    parts = [np.zeros((2, 0)), np.ones((2, 3))]
    assert run_op("ConcatFromSequence", parts, opset=11, axis=-1).tolist() == [[1, 1, 1]] * 2
    scalars = [np.array(1), np.array(2)]
    assert run_op("ConcatFromSequence", scalars, opset=11, axis=0, new_axis=1).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "message"),
    [
        (
            "SequenceConstruct",
            [np.zeros(1), np.zeros(1, int)],
            {},
            r"one element type \(got float64, int64\)",
        ),
        ("SequenceEmpty", [], {"dtype": 0}, r"dtype must be an element type \(got undefined\)"),
        ("SequenceInsert", [tensors(1), np.zeros(1, int)], {}, r"one element type \(got float32, int64\)"),
        (
            "SequenceInsert",
            [[], np.zeros(1), np.zeros(2, int)],
            {},
            r"position must have one element \(got shape",
        ),
        ("SequenceAt", [tensors(2), scalar(2)], {}, r"position must be in \[-2, 1\] \(got 2\)"),
        ("SequenceErase", [[]], {}, "input_sequence must not be empty"),
        ("ConcatFromSequence", [[]], {"axis": 0}, "input_sequence must not be empty"),
        ("ConcatFromSequence", [tensors(2)], {"axis": 1}, r"axis must be in \[-1, 0\] for rank 1 \(got 1\)"),
        (
            "ConcatFromSequence",
            [tensors(2)],
            {"axis": 0, "new_axis": 2},
            r"new_axis must be one of 0, 1 \(got 2\)",
        ),
        (
            "ConcatFromSequence",
            [[np.zeros((1, 2)), np.zeros((1, 3))]],
            {"axis": 0},
            "same shape, axis 0 aside",
        ),
        ("ConcatFromSequence", [[np.zeros(2), np.zeros((1, 3))]], {"axis": 0}, "must have the same shape"),
        ("ConcatFromSequence", [[np.zeros(2), np.zeros(3)]], {"axis": 0, "new_axis": 1}, r"same shape \(got"),
        ("SplitToSequence", [np.array(1)], {}, "axis must be"),
        ("SplitToSequence", [np.zeros(4), scalar(0)], {}, r"a scalar split must be positive \(got 0\)"),
        ("SplitToSequence", [np.zeros(4), np.array([5, -1])], {}, r"add up to 4 \(got \[5, -1\]\)"),
        ("SplitToSequence", [np.zeros(4), np.array([1, 2])], {}, r"add up to 4 \(got \[1, 2\]\)"),
        ("SplitToSequence", [np.zeros(4), np.ones((1, 1), int)], {}, r"scalar or 1-D \(got shape \(1, 1\)\)"),
    ],
)
def test_bad_arguments(op: str, inputs: list[Any], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op(op, *inputs, opset=24, **attributes)


def test_map_zips_sequences_and_repeats_tensors() -> None:
    body = Body(lambda a, b, c: (a + b, a * c), 3, 2)
    first, second, whole = tensors(3), tensors(3)[::-1], np.float32([10, 20])
    sums, products = run_op("SequenceMap", first, second, whole, opset=17, n_outputs=2, body=body)
    same(sums, [np.float32([2, 2])] * 3)
    same(products, [t * whole for t in first])


def test_map_of_nothing() -> None:
    assert run_op("SequenceMap", [], opset=17, body=Body(lambda a: (a,), 1, 1)) == []


@pytest.mark.parametrize(
    ("others", "n_inputs", "message"),
    [
        ([tensors(2)], 2, r"must have the length of the first, 3 \(got 2\)"),
        ([], 2, r"body must have 1 inputs \(got 2\)"),
    ],
)
def test_bad_maps(others: list[Any], n_inputs: int, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("SequenceMap", tensors(3), *others, opset=17, body=Body(lambda *a: a[:1], n_inputs, 1))


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("SequenceConstruct", tensors(4)),
        ("SequenceInsert", [tensors(3), tensors(1)[0]]),
        # An axis of a tensor without elements may be longer than any memory.
        ("SplitToSequence", [np.zeros((2**40, 0))]),
        ("SplitToSequence", [np.zeros((2**40, 0)), scalar(3)]),
        ("SplitToSequence", [np.zeros((2, 0)), np.array([0, 0, 1, 1])]),
    ],
)
def test_limit_on_length(op: str, inputs: list[Any]) -> None:
    context = Context(budget=Budget(Limits(sequence_length=3)))
    with pytest.raises(ResourceLimitError, match="sequence_length"):
        registry.find("", op, 24).kernel(*inputs, ctx=context)


def test_cost_of_concatenating_one_tensor_many_times() -> None:
    cost = registry.find("", "ConcatFromSequence", 11).cost
    assert cost is not None
    assert cost([np.zeros(1000)] * 1000, axis=0).out_bytes == 8_000_000
