"""Pools against the definition written as nested loops, for all versions and types."""

from __future__ import annotations

import math
import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.errors import KernelError

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
TOLERANCE = {np.float16: 2e-3, np.float32: 1e-5, np.float64: 1e-12, ml_dtypes.bfloat16: 1e-2}


def normal(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape)


# Sliding windows ----------------------------------------------------------------------------------


@st.composite
def geometry(draw: Any) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    axes = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    kernel, strides, dilations = axes(1, 4), axes(1, 3), axes(1, 2)
    size = axes(1, 7 if rank < 3 else 4)
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = (0,) * (2 * rank)
    if auto_pad == "NOTSET":
        pads = tuple(draw(st.integers(0, e - 1)) for e in (*extent, *extent))
        attributes["pads"] = pads
    if not auto_pad.startswith("SAME"):
        size = tuple(
            max(n, e - pads[i] - pads[rank + i], 1) for i, (n, e) in enumerate(zip(size, extent, strict=True))
        )
    attributes["auto_pad"] = auto_pad
    attributes["ceil_mode"] = draw(st.integers(0, 1))
    return {"size": size, "attributes": attributes}


def windows_by_definition(size: Any, attributes: dict[str, Any]) -> Any:
    """Yield (output position, [(position, whether in the image)]) of each window.

    Elements beyond the padding (a last window of ceil_mode) are left out.
    """
    kernel, strides, dilations = (attributes[n] for n in ("kernel_shape", "strides", "dilations"))
    rank = len(size)
    out, begins, ends = [], [], []
    for i, n in enumerate(size):
        extent = (kernel[i] - 1) * dilations[i] + 1
        if attributes["auto_pad"].startswith("SAME"):
            o = math.ceil(n / strides[i])
            total = max(0, (o - 1) * strides[i] + extent - n)
            begin = total // 2 if attributes["auto_pad"] == "SAME_UPPER" else total - total // 2
            end = total - begin
        else:
            pads = attributes.get("pads", (0,) * (2 * rank))
            begin, end = pads[i], pads[rank + i]
            exact = (n + begin + end - extent) / strides[i] + 1
            o = math.floor(exact)
            if attributes["ceil_mode"]:
                o = math.ceil(exact)
                while (o - 1) * strides[i] >= n + begin:
                    o -= 1
        out.append(o)
        begins.append(begin)
        ends.append(end)
    windows = []
    for at in np.ndindex(*out):
        members = []
        for tap in np.ndindex(*kernel):
            place = tuple(at[i] * strides[i] + tap[i] * dilations[i] - begins[i] for i in range(rank))
            if all(place[i] < size[i] + ends[i] for i in range(rank)):
                members.append((place, all(0 <= place[i] < size[i] for i in range(rank))))
        windows.append((at, members))
    return tuple(out), windows


def pool_by_definition(x: Array, attributes: dict[str, Any], pool: Any) -> Array:
    """Apply `pool(values in the image, number of elements)` to each window."""
    out, windows = windows_by_definition(x.shape[2:], attributes)
    y = np.zeros((*x.shape[:2], *out))
    for n, c in np.ndindex(*x.shape[:2]):
        for at, members in windows:
            values = [x[(n, c, *place)] for place, inside in members if inside]
            y[(n, c, *at)] = pool(values, len(members))
    return y


@given(geometry(), st.sampled_from([19, 22]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_average_pool_is_its_definition(g: dict[str, Any], opset: int, include_pad: bool) -> None:
    x = normal(2, 1, *g["size"])
    y = run_op("AveragePool", x, opset=opset, count_include_pad=int(include_pad), **g["attributes"])
    expected = pool_by_definition(
        x,
        g["attributes"],
        lambda values, count: math.fsum(values) / (count if include_pad else len(values) or math.nan),
    )
    np.testing.assert_allclose(y, expected, atol=1e-12)


@given(geometry(), st.sampled_from([10, 11, 12, 22]), st.booleans(), st.integers(0, 1))
@settings(max_examples=80, deadline=None)
def test_max_pool_is_its_definition(
    g: dict[str, Any], opset: int, specials: bool, storage_order: int
) -> None:
    x = np.random.default_rng(3).integers(-2, 2, (2, 2, *g["size"])).astype(np.float64)
    if specials:  # equal values are frequent; now there are also NaN and -inf
        x[x == 1] = math.nan
        x[x == 0] = -math.inf
    y, indices = run_op(
        "MaxPool", x, opset=opset, n_outputs=2, storage_order=storage_order, **g["attributes"]
    )
    expected = pool_by_definition(x, g["attributes"], lambda v, _: np.max(v) if v else -math.inf)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(run_op("MaxPool", x, opset=opset, **g["attributes"]), expected)
    assert indices.dtype == np.int64
    _, windows = windows_by_definition(g["size"], g["attributes"])
    area = math.prod(g["size"])
    for n, c in np.ndindex(2, 2):
        for at, members in windows:
            values = [(x[(n, c, *place)], place) for place, inside in members if inside]
            if not values:
                assert indices[(n, c, *at)] == -1
                continue
            best = int(np.argmax([v for v, _ in values]))  # first of equals, first NaN
            order = "F" if storage_order else "C"
            flat = np.ravel_multi_index(values[best][1], g["size"], order=order)
            assert indices[(n, c, *at)] == (n * 2 + c) * area + flat


@given(geometry(), st.sampled_from([18, 22]), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_lp_pool_is_its_definition(g: dict[str, Any], opset: int, p: int) -> None:
    x = normal(1, 2, *g["size"])
    y = run_op("LpPool", x, opset=opset, p=p, **g["attributes"])
    expected = pool_by_definition(x, g["attributes"], lambda v, _: sum(abs(a) ** p for a in v) ** (1 / p))
    np.testing.assert_allclose(y, expected, atol=1e-12)


POOLS = {
    "AveragePool": [1, 7, 10, 11, 19, 22],
    "MaxPool": [1, 8, 10, 11, 12, 22],
    "LpPool": [1, 2, 11, 18, 22],
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("op_type", "opset"), [(o, v) for o, vs in POOLS.items() for v in vs])
def test_pools_of_every_version_and_float_type(op_type: str, opset: int, dtype: Any) -> None:
    x = normal(2, 3, 7, 6).astype(dtype)
    attributes: dict[str, Any] = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)}
    y = run_op(op_type, x, opset=opset, **attributes)
    attributes |= {"dilations": (1, 1), "auto_pad": "NOTSET", "ceil_mode": 0}
    rule: dict[str, Any] = {
        "AveragePool": lambda v, _: sum(v) / len(v),
        "MaxPool": lambda v, _: max(v),
        "LpPool": lambda v, _: math.sqrt(sum(a * a for a in v)),
    }
    expected = pool_by_definition(x.astype(np.float64), attributes, rule[op_type])
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("opset", [12, 22])
def test_max_pool_of_bytes(dtype: Any, opset: int) -> None:
    low = np.iinfo(dtype).min
    x = np.array([[[low, 5, low, low]]], dtype)
    y, indices = run_op("MaxPool", x, opset=opset, n_outputs=2, kernel_shape=(2,), strides=(2,), pads=(1, 1))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, [[[low, 5, low]]])
    np.testing.assert_array_equal(indices, [[[0, 1, 3]]])


def test_average_pool_sums_float16_in_float32() -> None:
    x = np.full((1, 1, 4096), 30, np.float16)  # the sum, 122880, is beyond float16
    assert run_op("AveragePool", x, opset=22, kernel_shape=(4096,)).item() == 30
    assert run_op("GlobalAveragePool", x, opset=22).item() == 30


@pytest.mark.parametrize("opset", [10, 11, 19, 22])
def test_ceil_mode_drops_windows_that_start_in_the_padding(opset: int) -> None:
    x = np.arange(1.0, 5).reshape(1, 1, 4)
    for op_type in ("AveragePool", "MaxPool"):
        y = run_op(op_type, x, opset=opset, kernel_shape=(1,), strides=(2,), ceil_mode=1)
        np.testing.assert_array_equal(y, [[[1, 3]]])
    y = run_op(
        "AveragePool", x, opset=opset, kernel_shape=(3,), strides=(3,), ceil_mode=1, count_include_pad=1
    )
    np.testing.assert_array_equal(y, [[[2, 4]]])  # the last window has one element
    y = run_op(
        "AveragePool",
        x,
        opset=opset,
        kernel_shape=(3,),
        strides=(3,),
        pads=(0, 1),
        ceil_mode=1,
        count_include_pad=1,
    )
    np.testing.assert_array_equal(y, [[[2, 2]]])  # now one of the two is padding


def test_windows_of_padding_alone() -> None:
    x = np.ones((1, 1, 1))
    attributes: dict[str, Any] = {"opset": 22, "kernel_shape": (1,), "pads": (1, 0)}
    y, indices = run_op("MaxPool", x, n_outputs=2, **attributes)
    np.testing.assert_array_equal(y, [[[-math.inf, 1]]])
    np.testing.assert_array_equal(indices, [[[-1, 0]]])
    np.testing.assert_array_equal(run_op("AveragePool", x, **attributes), [[[math.nan, 1]]])
    np.testing.assert_array_equal(run_op("AveragePool", x, count_include_pad=1, **attributes), [[[0, 1]]])


@pytest.mark.parametrize("op_type", list(POOLS))
def test_pools_of_empty_tensors(op_type: str) -> None:
    for shape in [(0, 2, 5), (2, 0, 5)]:
        y = run_op(op_type, np.zeros(shape, np.float32), opset=22, kernel_shape=(2,))
        assert y.shape == (*shape[:2], 4)
    y, indices = run_op("MaxPool", np.zeros((1, 2, 0), np.float32), opset=22, n_outputs=2, kernel_shape=(2,))
    assert y.shape == indices.shape == (1, 2, 0)


@pytest.mark.parametrize("op_type", list(POOLS))
def test_huge_windows_and_padding_cost_nothing(op_type: str) -> None:
    x = np.arange(1.0, 5).reshape(1, 1, 4)
    huge = 2**31 - 1
    started = time.perf_counter()
    y = run_op(op_type, x, opset=22, kernel_shape=(huge,), pads=(huge - 3, 1), strides=(2,))
    assert time.perf_counter() - started < 1
    expected: Any = {"AveragePool": np.mean, "MaxPool": np.max, "LpPool": np.linalg.norm}[op_type]
    np.testing.assert_allclose(y[0, 0], [expected(x[0, 0, :3]), expected(x[0, 0])])
    dilated = run_op(op_type, x, opset=22, kernel_shape=(2,), dilations=(huge,), pads=(huge, 0))
    np.testing.assert_array_equal(dilated, x)


def test_pool_costs_count_huge_outputs() -> None:
    x = np.zeros((1, 1, 4), np.float32)
    for op_type in POOLS:
        cost = registry.find("", op_type, 22).cost
        assert cost is not None
        assert cost(x, kernel_shape=(1,), pads=(10**9, 0)).out_bytes >= 4 * 10**9


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kernel_shape": (0, 1)}, "kernel_shape must be in"),
        ({"kernel_shape": (2,)}, "kernel_shape must have 2 values"),
        ({"kernel_shape": (2, 2), "strides": (0, 1)}, "strides must be in"),
        ({"kernel_shape": (2, 2), "dilations": (1, -2)}, "dilations must be in"),
        ({"kernel_shape": (2, 2), "pads": (0, -1, 0, 0)}, "pads must be in"),
        ({"kernel_shape": (2, 2), "auto_pad": "same"}, "auto_pad must be"),
        ({"kernel_shape": (9, 1)}, "kernel with dilation must be at most"),
    ],
)
@pytest.mark.parametrize("op_type", list(POOLS))
def test_pools_refuse(op_type: str, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op(op_type, np.zeros((1, 1, 4, 4)), opset=22, **attributes)
    with pytest.raises(KernelError, match="rank of the input must be at least 3"):
        run_op(op_type, np.zeros((1, 4)), opset=22, kernel_shape=())


def test_max_pool_and_lp_pool_refuse_their_own_attributes() -> None:
    x = np.zeros((1, 1, 4))
    with pytest.raises(KernelError, match="storage_order must be one of 0, 1"):
        run_op("MaxPool", x, opset=22, kernel_shape=(2,), storage_order=2)
    with pytest.raises(KernelError, match="p must be positive"):
        run_op("LpPool", x, opset=22, kernel_shape=(2,), p=0)
    with pytest.raises(KernelError, match="kernel_shape must be given"):
        run_op("LpPool", x, opset=1)


def test_lp_norms_of_version_1_take_any_real_p() -> None:
    x = np.array([[[1.0, -2, 3]]], np.float32)
    expected = (1 + 2**2.5 + 3**2.5) ** 0.4
    assert run_op("LpPool", x, opset=1, kernel_shape=(3,), p=2.5).item() == pytest.approx(expected)
    assert run_op("GlobalLpPool", x, opset=1, p=2.5).item() == pytest.approx(expected)


# Whole images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (0, 3, 4), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("opset", [1, 2, 22])
def test_global_pools(dtype: Any, shape: Any, opset: int) -> None:
    x = normal(*shape).astype(dtype)
    flat = x.astype(np.float64).reshape(*shape[:2], math.prod(shape[2:]))
    expected = {
        "GlobalAveragePool": flat.mean(axis=2),
        "GlobalMaxPool": flat.max(axis=2),
        "GlobalLpPool": np.sqrt((flat**2).sum(axis=2)),
    }
    for op_type, values in expected.items():
        y = run_op(op_type, x, opset=opset)
        assert y.dtype == dtype
        assert y.shape == shape[:2] + (1,) * (len(shape) - 2)
        np.testing.assert_allclose(
            y.astype(np.float64).reshape(values.shape), values, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


def test_global_pools_of_nothing_and_nan() -> None:
    nothing, nan = np.zeros((1, 1, 0)), np.array([[[1, math.nan, 2]]])
    assert math.isnan(run_op("GlobalAveragePool", nothing, opset=22).item())
    assert run_op("GlobalMaxPool", nothing, opset=22).item() == -math.inf
    assert run_op("GlobalLpPool", nothing, opset=22).item() == 0
    assert math.isnan(run_op("GlobalMaxPool", nan, opset=22).item())
    with pytest.raises(KernelError, match="rank of the input must be at least 2"):
        run_op("GlobalMaxPool", np.zeros(3), opset=22)
    with pytest.raises(KernelError, match="p must be positive"):
        run_op("GlobalLpPool", nan, opset=22, p=-1)


# MaxUnpool ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("opset", [9, 11, 22])
def test_max_unpool_undoes_max_pool(dtype: Any, opset: int) -> None:
    x = np.abs(normal(2, 3, 6, 8)).astype(dtype)
    attributes: dict[str, Any] = {"kernel_shape": (2, 2), "strides": (2, 2)}
    pooled, indices = run_op("MaxPool", x, opset=22, n_outputs=2, **attributes)
    y = run_op("MaxUnpool", pooled, indices, opset=opset, **attributes)
    assert y.dtype == dtype
    assert y.shape == x.shape
    kept = y != 0
    assert kept.sum() == pooled.size
    np.testing.assert_array_equal(y[kept], x[kept])
    np.testing.assert_array_equal(run_op("MaxPool", y, opset=22, **attributes), pooled)


def test_max_unpool_shapes() -> None:
    x, i = np.array([[[5.0, 6]]]), np.array([[[1, 2]]])
    attributes: dict[str, Any] = {"opset": 22, "kernel_shape": (2,), "strides": (2,)}
    np.testing.assert_array_equal(run_op("MaxUnpool", x, i, **attributes), [[[0, 5, 6, 0]]])
    np.testing.assert_array_equal(run_op("MaxUnpool", x, i, pads=(1, 0), **attributes), [[[0, 5, 6]]])
    larger = run_op("MaxUnpool", x, i, np.array([1, 1, 5]), pads=(1, 1), **attributes)
    np.testing.assert_array_equal(larger, [[[0, 5, 6, 0, 0]]])
    smaller = run_op("MaxUnpool", x, i, np.array([1, 1, 3]), **attributes)
    np.testing.assert_array_equal(smaller, [[[0, 5, 6]]])


@pytest.mark.parametrize(
    ("i", "shape", "attributes", "message"),
    [
        ([[[0, 4]]], None, {}, r"I must be in \[0, 3\]"),
        ([[[-1, 0]]], None, {}, r"I must be in \[0, 3\]"),
        ([[[0]]], None, {}, "I must have shape"),
        ([[[0, 1]]], [1, 2, 4], {}, "output_shape must start with"),
        ([[[0, 1]]], [4], {}, "output_shape must have 3 values"),
        ([[[0, 1]]], [1, 1, -4], {}, "output_shape must be in"),
        ([[[0, 1]]], None, {"pads": (9, 9)}, "pads must be at most"),
        ([[[0, 1]]], None, {"strides": (0,)}, "strides must be in"),
    ],
)
def test_max_unpool_refuses(i: Any, shape: Any, attributes: dict[str, Any], message: str) -> None:
    chosen = {"kernel_shape": (2,), "strides": (2,)} | attributes
    output_shape = None if shape is None else np.array(shape)
    with pytest.raises(KernelError, match=message):
        run_op("MaxUnpool", np.zeros((1, 1, 2)), np.array(i), output_shape, opset=22, **chosen)


def test_max_unpool_cost_counts_output_shape() -> None:
    cost = registry.find("", "MaxUnpool", 22).cost
    assert cost is not None
    x, i = np.zeros((1, 1, 2), np.float32), np.zeros((1, 1, 2), np.int64)
    assert cost(x, i, np.array([1, 1, 10**9]), kernel_shape=(2,)).out_bytes == 4 * 10**9
    assert cost(x, i, kernel_shape=(2,), strides=(10**9,)).out_bytes == 4 * (10**9 + 2)
