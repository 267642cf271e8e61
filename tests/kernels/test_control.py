"""If, Loop and Scan with subgraphs made from Python functions."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.errors import KernelError, ResourceLimitError
from onnxref.limits import Budget, Limits
from onnxref.registry import Context

IF_AND_LOOP = [1, 11, 13, 16, 19, 21, 23, 24, 25]
SCAN = [9, 11, 16, 19, 21, 23, 24, 25]
TRUE = np.array(True)


class Body:
    """A subgraph made from a Python function; types are (element, shape) or None."""

    def __init__(
        self, function: Callable[..., tuple[Any, ...]], inputs: int, outputs: int, types: Any = None
    ) -> None:
        self.function = function
        self.calls = 0
        self.input_names = tuple(f"in{i}" for i in range(inputs))
        self.output_names = tuple(f"out{i}" for i in range(outputs))
        self.output_types = tuple(
            None if t is None else SimpleNamespace(element=t[0], shape=t[1])
            for t in types or (None,) * outputs
        )

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        assert len(inputs) == len(self.input_names)
        self.calls += 1
        return self.function(*inputs)


def loop(*inputs: Any, body: Body, opset: int = 25) -> Any:
    return run_op("Loop", *inputs, opset=opset, n_outputs=len(body.output_names), body=body)


def count(value: int) -> Any:
    return np.array(value, np.int64)


# If


@pytest.mark.parametrize("opset", IF_AND_LOOP)
@pytest.mark.parametrize("cond", [np.array(True), np.array([False]), np.array([[True]])])
def test_if(opset: int, cond: Any) -> None:
    then, other = Body(lambda: (1, [2]), 0, 2), Body(lambda: (None, []), 0, 2)
    got = run_op("If", cond, opset=opset, n_outputs=2, then_branch=then, else_branch=other)
    assert got == ((1, [2]) if cond.item() else (None, []))
    assert (then.calls, other.calls) == ((1, 0) if cond.item() else (0, 1))


@pytest.mark.parametrize("cond", [np.array([True, False]), np.zeros(0, np.bool_)])
def test_if_needs_one_truth(cond: Any) -> None:
    branch = Body(tuple, 0, 0)
    with pytest.raises(KernelError, match="cond must be a tensor with one element .got shape"):
        run_op("If", cond, opset=25, then_branch=branch, else_branch=branch)


# Loop


def running_sum() -> Body:
    """Carry total += i, emit i; stop once the total reaches 6."""
    return Body(lambda i, cond, total: (np.array(total + i < 6), total + i, i * np.int64([1, 10])), 3, 3)


@pytest.mark.parametrize("opset", IF_AND_LOOP)
@pytest.mark.parametrize(
    ("m", "cond", "iterations"),
    [
        (count(3), TRUE, 3),
        (count(10), TRUE, 4),
        (np.array([10]), np.array([True]), 4),
        (None, TRUE, 4),
        # Without `cond`, what the body says of it is ignored.
        (count(10), None, 10),
        (count(10), np.array(False), 0),
        (None, np.array(False), 0),
        (count(0), TRUE, 0),
        (count(-5), None, 0),
        (count(2**62), TRUE, 4),
    ],
)
def test_loop_ends(opset: int, m: Any, cond: Any, iterations: int) -> None:
    body = running_sum()
    total, seen = run_op("Loop", m, cond, np.array(0), opset=opset, n_outputs=2, body=body)
    assert body.calls == iterations
    assert total == sum(range(iterations))
    assert len(seen) == iterations
    if iterations:
        np.testing.assert_array_equal(seen, np.arange(iterations)[:, np.newaxis] * [1, 10])


def test_body_sees_iteration_and_condition() -> None:
    seen: list[Any] = []

    def step(i: Any, cond: Any) -> tuple[Any, ...]:
        seen.append((i.dtype, i.shape, i.item(), cond.dtype, cond.item()))
        return (cond,)

    assert run_op("Loop", count(2), None, opset=25, n_outputs=0, body=Body(step, 2, 1)) == ()
    assert seen == [(np.int64, (), i, np.bool_, True) for i in range(2)]


def test_loop_carries_sequences_and_optionals() -> None:
    def step(i: Any, cond: Any, sequence: list[Any], maybe: Any) -> tuple[Any, ...]:
        return cond, [*sequence, i], i if maybe is None else None

    initial: list[Any] = []
    sequence, maybe = run_op(
        "Loop", count(3), TRUE, initial, None, opset=16, n_outputs=2, body=Body(step, 4, 3)
    )
    assert [x.item() for x in sequence] == [0, 1, 2]
    assert maybe == 2
    assert initial == []


@pytest.mark.parametrize("dtype", [np.object_, np.float16, np.bool_, np.complex64])
def test_scan_outputs_of_any_type(dtype: Any) -> None:
    element = np.array(["a", "b"], dtype) if dtype == np.object_ else np.ones(2, dtype)
    got = run_op("Loop", count(2), TRUE, opset=25, body=Body(lambda i, c: (c, element), 2, 2))
    assert got.dtype == dtype
    assert got.tolist() == [element.tolist()] * 2


@pytest.mark.parametrize(
    ("declared", "shape", "dtype"),
    [
        ((1, (2, 3)), (0, 2, 3), np.float32),
        ((8, (2, "n", None)), (0, 2, 0, 0), np.object_),
        ((7, ()), (0,), np.int64),
        ((7, None), (0,), np.int64),
        ((0, (2,)), (0, 2), np.float32),
        (None, (0,), np.float32),
    ],
)
def test_no_iteration_gives_the_declared_type(declared: Any, shape: tuple[int, ...], dtype: Any) -> None:
    body = Body(lambda i, c: (c, c), 2, 2, [None, declared])
    got = run_op("Loop", count(0), TRUE, opset=25, body=body)
    assert (got.shape, got.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        (Body(lambda i, c: (c,), 2, 1), [None, None], "M and cond must not both be absent"),
        (Body(lambda i, c: (c,), 2, 1), [count(1), TRUE, TRUE], r"body must have 3 inputs \(got 2\)"),
        (Body(lambda i, c, x: (c,), 3, 1), [count(1), TRUE, TRUE], r"at least 2 outputs \(got 1\)"),
        (Body(lambda i, c: (c,), 2, 1), [np.array([1, 2]), TRUE], r"M must have one element"),
        (Body(lambda i, c: (None,), 2, 1), [count(2), TRUE], r"cond must be .* \(got NoneType\)"),
        (
            Body(lambda i, c: (c, np.zeros(int(i))), 2, 2),
            [count(2), TRUE],
            r"'out1' must have the same .*\(0,\)",
        ),
        (Body(lambda i, c: (c, [i]), 2, 2), [count(2), TRUE], r"'out1' must be a tensor \(got list\)"),
        (Body(lambda i, c: (c, c), 2, 2, [None, (99, ())]), [count(0)], "must be an element type .got 99"),
        (
            Body(lambda i, c: (c, c), 2, 2, [None, (1, (2**62, 2**62))]),
            [count(0)],
            "shape of the output must be addressable",
        ),
    ],
)
def test_bad_loops(body: Body, inputs: list[Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        loop(*inputs, body=body)


@pytest.mark.parametrize(
    ("limits", "body", "name"),
    [
        (Limits(executed_nodes=100), Body(lambda i, c: (c,), 2, 1), "executed_nodes"),
        (Limits(tensor_bytes=8000), Body(lambda i, c: (c, np.zeros(10)), 2, 2), "tensor_bytes"),
    ],
)
def test_endless_loops_meet_a_limit(limits: Limits, body: Body, name: str) -> None:
    context = Context(budget=Budget(limits))
    with pytest.raises(ResourceLimitError, match=name):
        registry.find("", "Loop", 25).kernel(count(2**62), None, body=body, ctx=context)
    assert body.calls <= 101


# Scan


def scan(*inputs: Any, body: Body, opset: int = 25, **attributes: Any) -> Any:
    got = run_op("Scan", *inputs, opset=opset, n_outputs=len(body.output_names) + 1, body=body, **attributes)
    assert isinstance(got, tuple)
    return got


def cumulative() -> Body:
    return Body(lambda total, x: (total + x, total + x), 2, 2)


@pytest.mark.parametrize("opset", SCAN)
def test_scan_sums(opset: int) -> None:
    x = np.arange(6.0).reshape(3, 2)
    total, sums = scan(np.zeros(2), x, opset=opset, body=cumulative(), num_scan_inputs=1)
    np.testing.assert_array_equal(total, x.sum(axis=0))
    np.testing.assert_array_equal(sums, x.cumsum(axis=0))


@settings(max_examples=50, deadline=None)
@given(
    axis=st.integers(-3, 2),
    out_axis=st.integers(-3, 2),
    reverse=st.integers(0, 1),
    prepend=st.integers(0, 1),
    length=st.integers(1, 3),
)
def test_axes_and_directions(axis: int, out_axis: int, reverse: int, prepend: int, length: int) -> None:
    shape = [2, 4]
    shape.insert(axis % 3, length)
    x = np.arange(float(np.prod(shape))).reshape(shape)
    # Two scan inputs in step: the second one is always read forward.
    second = np.arange(float(length))
    body = Body(lambda state, a, b: (state + b, a * 10 + b), 3, 2)
    total, got = scan(
        np.zeros(()),
        x,
        second,
        body=body,
        num_scan_inputs=2,
        scan_input_axes=(axis, 0),
        scan_input_directions=(reverse, 0),
        scan_output_axes=(out_axis,),
        scan_output_directions=(prepend,),
    )
    slices = [np.take(x, t, axis) for t in range(length)]
    steps = [a * 10 + b for a, b in zip(slices[::-1] if reverse else slices, second, strict=True)]
    np.testing.assert_array_equal(got, np.stack(steps[::-1] if prepend else steps, out_axis))
    assert total == second.sum()


def test_scan_passes_slices_without_the_axis_as_tensors() -> None:
    body = Body(lambda x: (x,) if isinstance(x, np.ndarray) and x.shape == () else (), 1, 1)
    (got,) = scan(np.arange(3), body=body, num_scan_inputs=1)
    assert got.tolist() == [0, 1, 2]


def test_scan_over_nothing() -> None:
    body = Body(lambda s, x: (s, x), 2, 2, [None, (10, (4, "n"))])
    state, out = scan(
        np.ones(2),
        np.zeros((4, 0)),
        body=body,
        num_scan_inputs=1,
        scan_input_axes=(1,),
        scan_output_axes=(-1,),
    )
    assert state.tolist() == [1, 1]
    assert (out.shape, out.dtype) == ((4, 0, 0), np.float16)


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        ([np.zeros(2)], {"num_scan_inputs": 0}, r"num_scan_inputs must be in \[1, 1\] \(got 0\)"),
        ([np.zeros(2)], {"num_scan_inputs": 2}, r"num_scan_inputs must be in \[1, 1\] \(got 2\)"),
        ([np.zeros(2)], {"num_scan_inputs": 1}, r"body must have 1 inputs \(got 2\)"),
        (
            [np.zeros(2), np.zeros(3)],
            {"num_scan_inputs": 2},
            r"same length along the scanned axes \(got \[2, 3\]\)",
        ),
        ([0, np.zeros(2)], {"scan_input_axes": (1,)}, r"scan_input_axes must be in \[-1, 0\] .*\(got 1\)"),
        ([0, np.zeros(2)], {"scan_output_axes": (1,)}, r"scan_output_axes must be in \[-1, 0\] .*\(got 1\)"),
        ([0, np.zeros(2)], {"scan_input_axes": (0, 0)}, r"scan_input_axes must have 1 elements \(got 2\)"),
        ([0, np.zeros(2)], {"scan_output_axes": ()}, r"scan_output_axes must have 1 elements \(got 0\)"),
        (
            [0, np.zeros(2)],
            {"scan_input_directions": (2,)},
            r"scan_input_directions must be one of 0, 1 \(got 2\)",
        ),
        ([0, np.zeros(2)], {"scan_output_directions": (-1,)}, r"scan_output_directions must be one of 0, 1"),
    ],
)
def test_bad_scans(inputs: list[Any], attributes: dict[str, Any], message: str) -> None:
    body = Body(lambda s, x: (s, x), 2, 2)
    with pytest.raises(KernelError, match=message):
        scan(*inputs, body=body, **{"num_scan_inputs": 1, **attributes})


def test_endless_scan_meets_a_limit() -> None:
    context = Context(budget=Budget(Limits(executed_nodes=100)))
    body = Body(lambda x: (), 1, 0)
    with pytest.raises(ResourceLimitError, match="executed_nodes"):
        registry.find("", "Scan", 25).kernel(np.zeros((2**40, 0)), body=body, num_scan_inputs=1, ctx=context)


# Scan-8: a batch axis first, lengths of the sequences


def test_scan_8_sums_each_item() -> None:
    x = np.arange(12.0).reshape(2, 3, 2)
    total, sums = scan(None, np.ones((2, 2)), x, opset=8, body=cumulative(), num_scan_inputs=1)
    np.testing.assert_array_equal(total, 1 + x.sum(axis=1))
    np.testing.assert_array_equal(sums, 1 + x.cumsum(axis=1))


@pytest.mark.parametrize("reverse", [0, 1])
def test_scan_8_lengths(reverse: int) -> None:
    x = np.arange(1.0, 10).reshape(3, 3)
    lens = np.array([2, 0, 3])
    total, seen = scan(
        lens,
        np.zeros(3),
        x,
        opset=8,
        body=Body(lambda total, x: (total + x, x), 2, 2, [None, (11, ())]),
        num_scan_inputs=1,
        directions=(reverse,),
    )
    assert total.tolist() == [3, 0, 24]
    want = [[2, 1, 0], [0, 0, 0], [9, 8, 7]] if reverse else [[1, 2, 0], [0, 0, 0], [7, 8, 9]]
    assert seen.tolist() == want


def test_scan_8_pads_strings() -> None:
    x = np.array([["a", "b"], ["c", "d"]], np.object_)
    (got,) = scan(np.array([1, 2]), x, opset=8, body=Body(lambda x: (x,), 1, 1), num_scan_inputs=1)
    assert got.tolist() == [["a", ""], ["c", "d"]]


@pytest.mark.parametrize("batch", [0, 2])
def test_scan_8_over_nothing(batch: int) -> None:
    body = Body(lambda s, x: (s, x), 2, 2, [None, (6, (4,))])
    lens = np.zeros(batch, np.int64)
    state, out = scan(lens, np.ones((batch, 2)), np.zeros((batch, 3)), opset=8, body=body, num_scan_inputs=1)
    assert state.shape == (batch, 2)
    assert (out.shape, out.dtype) == ((batch, 3, 4), np.int32)
    assert not out.any()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([np.array([4]), np.zeros((1, 1)), np.zeros((1, 3))], r"1 lengths in \[0, 3\] \(got \[4\]\)"),
        ([np.array([-1]), np.zeros((1, 1)), np.zeros((1, 3))], r"1 lengths in \[0, 3\] \(got \[-1\]\)"),
        ([np.array([1, 1]), np.zeros((1, 1)), np.zeros((1, 3))], r"1 lengths in \[0, 3\]"),
        ([np.array(1), np.zeros((1, 1)), np.zeros((1, 3))], r"1 lengths in \[0, 3\]"),
        ([None, np.zeros((2, 1)), np.zeros((1, 3))], r"same batch size \(got \[1, 2\]\)"),
        ([None, np.zeros(()), np.zeros((1, 3))], "must have a batch axis"),
        ([None, np.zeros(1), np.zeros(1)], "a batch and a time axis"),
    ],
)
def test_bad_scan_8(inputs: list[Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        scan(*inputs, opset=8, body=Body(lambda s, x: (s, x), 2, 2), num_scan_inputs=1)


def test_scan_8_padding_meets_a_limit() -> None:
    context = Context(budget=Budget(Limits(tensor_bytes=1 << 20)))
    x, lens = np.zeros((1, 2**40, 0)), np.array([1])
    with pytest.raises(ResourceLimitError, match="tensor_bytes"):
        registry.find("", "Scan", 8).kernel(
            lens, x, body=Body(lambda x: (np.zeros(1),), 1, 1), num_scan_inputs=1, ctx=context
        )
