"""Pools on the emulator, held to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxref.kernels.cupy.pooling import blocked_pool

from onnxref.dtypes import Array
from onnxref.lowering import Op, Operand, Unsupported
from onnxref.plan.specialize._program import RefusedError
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .lowered import run_on_device


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def values(shape: Sequence[int], name: str = "float32", seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if name in ("int8", "uint8"):
        return rng.integers(*((-128, 128) if name == "int8" else (0, 256)), tuple(shape)).astype(name)
    return (rng.standard_normal(tuple(shape)) * 3).astype(dtype_of(name))


def check(
    op_type: str,
    x: Array,
    attributes: dict[str, Any] | None = None,
    *,
    last: bool = False,
    places: bool = False,
    opset: int = 22,
    orders: Sequence[int] = (0, 1),
) -> None:
    """Hold a pool to the tolerance of the lowering's docstring."""
    attributes = attributes or {}
    wide = x if op_type == "MaxPool" else x.astype(np.float64)
    expected = reference(op_type, [wide], attributes, opset)
    outputs: list[Any] = [(expected[0].shape, x.dtype)]
    if places:
        outputs.append((expected[1].shape, np.int64))
    run: dict[str, Any] = {"opset": opset, "orders": orders}
    if last:
        run |= {"channels_last": [0], "outputs_last": range(len(outputs))}
    found = run_on_device(op_type, [x], outputs, attributes, **run)
    if "Max" in op_type:
        for made, wanted in zip(found, expected, strict=False):
            assert made is not None
            np.testing.assert_array_equal(made.astype(np.float64), wanted.astype(np.float64))
        return
    (bound,) = reference(op_type, [np.abs(wide)], attributes, opset)
    count = int(np.prod(attributes.get("kernel_shape", x.shape[2:])))
    eps = float(np.finfo(np.float64 if x.dtype == np.float64 else np.float32).eps)
    limit = ((count + 8) * eps + float(ml_dtypes.finfo(x.dtype).eps)) * bound + 1e-30
    (made, *_) = found
    assert made is not None
    made = made.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(made), np.isnan(expected[0]))
    near = np.abs(made - expected[0]) <= limit
    assert (near | np.isnan(made) | (made == expected[0])).all()


WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 8, 9, 11), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 3, 7, 8), {"kernel_shape": (2, 3), "strides": (1, 2), "ceil_mode": 1, "pads": (0, 1, 1, 0)}),
    ((2, 5, 13), {"kernel_shape": (4,), "strides": (3,), "auto_pad": "SAME_UPPER"}),
    ((1, 4, 4, 5, 6), {"kernel_shape": (2, 2, 3), "strides": (2, 1, 2), "auto_pad": "SAME_LOWER"}),
    ((1, 16, 10, 9), {"kernel_shape": (3, 2), "dilations": (2, 3)}),
]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
def test_windows(shape: tuple[int, ...], attributes: dict[str, Any], last: bool) -> None:
    x = values(shape)
    check("MaxPool", x, attributes, last=last)
    check("AveragePool", x, attributes, last=last)
    check("AveragePool", x, {**attributes, "count_include_pad": 1}, last=last)
    check("LpPool", x, {**attributes, "p": 2}, last=last)


@pytest.mark.parametrize(
    ("name", "last"),
    [("float16", True), ("bfloat16", False), ("float64", True), ("int8", True), ("uint8", False)],
)
def test_types(name: str, last: bool) -> None:
    x = values((2, 16, 6, 7), name)
    window = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)}
    check("MaxPool", x, window, last=last)
    if "float" in name:
        check("AveragePool", x, window, last=last)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms(p: int) -> None:
    check("LpPool", values((1, 3, 6, 5)), {"kernel_shape": (2, 2), "p": p})
    check("GlobalLpPool", values((2, 3, 6, 5)), {"p": p}, last=True)
    check("GlobalLpPool", values((2, 3, 6, 5)), {"p": p})
    check("LpPool", values((1, 2, 6)), {"kernel_shape": (2,), "p": p + 0.5}, opset=1)


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("last", [False, True])
def test_places(storage_order: int, last: bool) -> None:
    x = np.round(values((2, 3, 7, 6)))  # with ties
    x[0, 0, 2, 2] = x[0, 0, 3, 3] = np.nan
    x[1, 2] = -np.inf
    window = {"kernel_shape": (3, 3), "strides": (2, 1), "pads": (1, 1, 1, 1), "storage_order": storage_order}
    check("MaxPool", x, window, places=True, last=last)
    check(
        "MaxPool",
        values((1, 2, 5), "int8"),
        {"kernel_shape": (2,), "storage_order": storage_order},
        places=True,
    )


def test_places_alone() -> None:
    x = values((1, 2, 5, 5))
    _, expected = reference("MaxPool", [x], {"kernel_shape": (2, 2)}, 22)
    found = run_on_device("MaxPool", [x], [None, (expected.shape, np.int64)], {"kernel_shape": (2, 2)})
    np.testing.assert_array_equal(found[1], expected)


def test_windows_over_padding_alone() -> None:
    x = values((1, 2, 3, 3))
    window = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (3, 3, 3, 3)}
    check("MaxPool", x, window, places=True)
    check("MaxPool", x.astype(np.uint8), window, last=True)
    with np.errstate(all="ignore"):
        check("AveragePool", x, window)
        check("AveragePool", x, {**window, "count_include_pad": 1}, last=True)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("last", [False, True])
def test_whole_images(op_type: str, last: bool) -> None:
    for shape in ((2, 16, 7, 7), (2, 5, 3, 2, 2), (3, 4, 1, 1)):
        check(op_type, values(shape), last=last)
    if op_type == "GlobalAveragePool":
        check(op_type, values((2, 16, 7, 7), "float16"), last=last)
        check(op_type, values((3, 4), "float16"))


def test_a_window_that_is_the_image() -> None:
    x = values((2, 8, 7, 6))
    for op_type in ("AveragePool", "MaxPool"):
        check(op_type, x, {"kernel_shape": (7, 6), "strides": (2, 3)}, last=True)


def test_nan_and_infinities() -> None:
    x = values((1, 4, 6, 6))
    x[0, 1, 2, 2], x[0, 2, 0, 0], x[0, 3, 5, 5] = np.nan, np.inf, -np.inf
    for last in (False, True):
        for op_type in ("MaxPool", "AveragePool"):
            with np.errstate(all="ignore"):
                check(op_type, x, {"kernel_shape": (2, 2)}, last=last)


def test_empty() -> None:
    check("MaxPool", values((0, 3, 4, 4)), {"kernel_shape": (2, 2)})
    check("AveragePool", values((2, 0, 4, 4)), {"kernel_shape": (2, 2)}, last=True)
    for op_type in ("GlobalMaxPool", "GlobalAveragePool"):
        x = values((2, 3, 0, 4))
        with np.errstate(all="ignore"):
            (expected,) = reference(op_type, [x], {}, 22)
        (found,) = run_on_device(op_type, [x], [(expected.shape, x.dtype)])
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_window(data: st.DataObject) -> None:
    size = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=2))
    axes = len(size)

    def draw(low: int, high: int, count: int = axes) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    kernel, dilations, pads = draw(1, 4), draw(1, 3), draw(0, 3, 2 * axes)
    for i in range(axes):
        if size[i] + pads[i] + pads[axes + i] < (kernel[i] - 1) * dilations[i] + 1:
            return
    window = {
        "kernel_shape": kernel,
        "dilations": dilations,
        "pads": pads,
        "strides": draw(1, 3),
        "ceil_mode": data.draw(st.integers(0, 1)),
    }
    x, last = values((2, 4, *size)), data.draw(st.booleans())
    with np.errstate(all="ignore"):
        check("MaxPool", x, window, last=last, places=not last, orders=(0,))
        check(
            "AveragePool",
            x,
            {**window, "count_include_pad": data.draw(st.integers(0, 1))},
            last=last,
            orders=(0,),
        )


# --- MaxUnpool ---------------------------------------------------------------------------------------


def unpool(x: Array, i: Array, shape: Array | None = None, **attributes: Any) -> None:
    inputs = [x, i] if shape is None else [x, i, shape]
    (expected,) = reference("MaxUnpool", inputs, attributes, 22)
    (found,) = run_on_device("MaxUnpool", inputs, [(expected.shape, x.dtype)], attributes, constants=[2])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["float32", "float16", "float64"])
def test_unpool(name: str) -> None:
    x = values((2, 3, 8, 6), name)
    window = {"kernel_shape": (2, 2), "strides": (2, 2)}
    y, i = reference("MaxPool", [x], window, 22)
    unpool(y, i, **window)
    unpool(y, i, np.array([2, 3, 9, 5]), **window)
    unpool(y, i, np.array([2, 3, 7, 8]), **window)


def test_unpool_where_several_meet() -> None:
    x = values((1, 1, 40))
    i = np.random.default_rng(1).integers(0, 20, x.shape)
    unpool(x, i, kernel_shape=(3,), strides=(1,), pads=(0, 2))
    unpool(values((1, 2, 2, 3, 2)), np.arange(24).reshape(1, 2, 2, 3, 2), kernel_shape=(2, 2, 2))


@pytest.mark.parametrize("bad", [-1, 42])
def test_unpool_of_bad_indices(bad: int) -> None:
    i = np.arange(20, dtype=np.int64).reshape(1, 1, 20)
    i[0, 0, 3] = bad
    with pytest.raises(RefusedError):
        run_on_device(
            "MaxUnpool", [values((1, 1, 20)), i], [((1, 1, 21), np.float32)], {"kernel_shape": (2,)}
        )


def test_quantized_and_rules() -> None:
    x = values((1, 16, 5, 5), "uint8")
    window = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    (expected, _) = reference("MaxPool", [x], window, 22)
    (found,) = run_on_device(
        *("QuantizedMaxPool", [x], [(expected.shape, x.dtype)], window),
        opset=1,
        domain=INTERNAL,
        channels_last=[0],
        outputs_last=[0],
    )
    np.testing.assert_array_equal(found, expected)
    operand = Operand((1, 2, 3, 3), np.dtype(np.float32))
    rule = blocked_pool(Op("MaxPool", [operand], [operand]), 1)
    assert rule is not None
    assert not rule.prefers
    assert blocked_pool(Op("MaxPool", [operand], [operand, operand]), 1) is None


def test_refusals() -> None:
    x = values((1, 2, 3, 3))
    with pytest.raises(Unsupported, match="kernel with dilation"):
        run_on_device("MaxPool", [x], [((1, 2, 0, 0), x.dtype)], {"kernel_shape": (5, 5)})
    with pytest.raises(Unsupported, match="lie differently"):
        run_on_device("MaxPool", [x], [((1, 2, 2, 2), x.dtype)], {"kernel_shape": (2, 2)}, channels_last=[0])
    with pytest.raises(Unsupported, match="storage_order"):
        run_on_device("MaxPool", [x], [((1, 2, 2, 2), x.dtype)], {"kernel_shape": (2, 2), "storage_order": 2})
