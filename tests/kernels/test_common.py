"""What the kernel families share: conversion to integers, softmax, checks of arguments."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxref.kernels.numpy._checks import (
    broadcast_shape,
    broadcasts_to,
    check_addressable,
    element_type,
    one_element,
    only_one,
    scalar_int,
)
from onnxref.kernels.numpy._common import log_softmax, requantize, sigmoid, softmax, to_integers, wrap

from onnxref.dtypes import ElementType
from onnxref.errors import KernelError

INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("target", INTEGERS)
@pytest.mark.parametrize("source", [np.float32, np.float64])
@given(number=st.floats(width=32))
def test_to_integers_truncates_and_saturates(source: Any, target: Any, number: float) -> None:
    info = np.iinfo(target)
    edges = [number, float(info.min), float(info.max), float(info.max) * 2, -0.5, np.inf, -np.inf, np.nan]
    x = np.array(edges, source)
    found = to_integers(x, np.dtype(target))
    assert found.dtype == target
    for value, result in zip(x.tolist(), found.tolist(), strict=True):
        whole = 0 if np.isnan(value) else int(np.clip(value, -(2.0**70), 2.0**70))
        assert result == min(max(whole, info.min), info.max)


def test_requantize_rounds_to_even_then_adds() -> None:
    y = np.array([0.5, 1.5, -0.5, 300.0, -300.0])
    assert requantize(y, np.array(3, np.uint8)).tolist() == [3, 5, 3, 255, 0]
    float8 = requantize(y, np.array(0, ml_dtypes.float8_e4m3fn))
    assert float8.astype(np.float64).tolist() == [0.5, 1.5, -0.5, 288.0, -288.0]


def test_wrap_is_modulo_the_type() -> None:
    assert wrap(-1, np.dtype(np.uint8)) == 255
    assert wrap(2.0**63, np.dtype(np.int64)) == -(2**63)


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=5))
def test_softmax_and_its_logarithm_agree(values: list[float]) -> None:
    x = np.array([values], np.float64)
    with np.errstate(all="ignore"):
        y = softmax(x, 1)
        np.testing.assert_allclose(np.exp(log_softmax(x, 1)), y, rtol=1e-12, atol=1e-300)
        assert abs(y.sum() - 1) < 1e-12
        np.testing.assert_allclose(sigmoid(x) + sigmoid(-x), np.ones_like(x), rtol=1e-15)
        assert softmax(x, 1, out=x) is x


@given(st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=3))
def test_broadcasting_is_that_of_numpy(shapes: list[tuple[int, ...]]) -> None:
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(KernelError, match="inputs must broadcast to one shape"):
            broadcast_shape(*shapes)
        return
    assert broadcast_shape(*shapes) == expected
    for shape in shapes:
        assert broadcasts_to(shape, expected)
        assert broadcasts_to(expected, shape) == (np.broadcast_shapes(shape, expected) == shape)


def test_messages() -> None:
    with pytest.raises(KernelError, match="inputs must be one or more"):
        broadcast_shape()
    with pytest.raises(KernelError, match=r"k must have one element \(got shape \(2,\)\)"):
        one_element(np.zeros(2), "k")
    with pytest.raises(KernelError, match=r"k must be finite \(got nan\)"):
        scalar_int(np.array([np.nan]), "k")
    with pytest.raises(KernelError, match=r"to must be an element type \(got 99\)"):
        element_type(99, "to")
    with pytest.raises(KernelError, match=r"to must be one of float, string \(got bool\)"):
        element_type(9, "to", (ElementType.FLOAT, ElementType.STRING))
    with pytest.raises(KernelError, match=r"exactly one of a, b must be given \(got none\)"):
        only_one(a=None, b=None)
    with pytest.raises(KernelError, match="must be addressable"):
        check_addressable((0, 2**62, 2), np.dtype(np.int64))
    with pytest.raises(KernelError, match="at most 64"):
        check_addressable((1,) * 65, np.dtype(np.int8))
