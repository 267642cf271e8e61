"""DFT, STFT, windows, MelWeightMatrix."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.dtypes import Array, ElementType, to_numpy
from onnxref.errors import KernelError

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (BF16, np.float16, np.float32, np.float64)


def i64(value: int) -> Array:
    return np.array(value, np.int64)


def dft(x: Array, length: int | None = None, axis: int = 1, *, opset: int = 20, **kw: Any) -> Array:
    n = None if length is None else i64(length)
    if opset == 17:
        return run_op("DFT", x, n, opset=17, axis=axis, **kw)
    return run_op("DFT", x, n, i64(axis), opset=opset, **kw)


def as_complex(x: Array) -> Array:
    return x[..., 0] + (1j * x[..., 1] if x.shape[-1] == 2 else 0)


def direct_dft(x: Array, n: int, inverse: int) -> Array:
    """Transform the last axis of a complex array, cut or padded to n points, by the sum itself."""
    x = np.concatenate([x[..., :n], np.zeros((*x.shape[:-1], max(n - x.shape[-1], 0)))], -1)
    k = np.arange(n)
    matrix = np.exp((2j if inverse else -2j) * np.pi * np.outer(k, k) / n)
    return x @ matrix / (n if inverse else 1)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    parts=st.integers(1, 2),
    points=st.none() | st.integers(1, 8),
    inverse=st.integers(0, 1),
    axis_seed=st.integers(0, 5),
    opset=st.sampled_from([17, 20]),
)
def test_dft_is_the_sum(
    shape: list[int], parts: int, points: int | None, inverse: int, axis_seed: int, opset: int
) -> None:
    axis = axis_seed % len(shape)
    x = np.random.default_rng(0).normal(size=(*shape, parts))
    y = dft(x, points, axis, inverse=inverse, opset=opset)
    n = points or shape[axis]
    want = np.moveaxis(direct_dft(np.moveaxis(as_complex(x), axis, -1), n, inverse), -1, axis)
    np.testing.assert_allclose(as_complex(y), want, atol=1e-12)
    if parts == 1 and not inverse:
        half = dft(x, points, axis, onesided=1, opset=opset)
        np.testing.assert_allclose(half, y.take(range(n // 2 + 1), axis), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9), even=st.booleans())
def test_irfft_inverts_rfft(n: int, even: bool) -> None:
    length = 2 * n if even else 2 * n + 1
    x = np.random.default_rng(n).normal(size=(2, length, 1))
    spectrum = dft(x, onesided=1)
    back = dft(spectrum, None if even else length, onesided=1, inverse=1)
    np.testing.assert_allclose(back, x, atol=1e-12)


def test_default_axis_differs_between_versions() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 1))
    np.testing.assert_array_equal(run_op("DFT", x, opset=17), dft(x, axis=1))
    np.testing.assert_array_equal(run_op("DFT", x, opset=20), dft(x, axis=2))


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kw", [{}, {"inverse": 1}, {"onesided": 1}])
def test_dft_types(dtype: Any, opset: int, kw: dict[str, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 1)).astype(dtype)
    y = dft(x, opset=opset, **kw)
    assert y.dtype == x.dtype
    eps = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(float), dft(x.astype(float), **kw), rtol=4 * eps, atol=8 * eps)


def test_dft_of_nothing() -> None:
    assert dft(np.zeros((0, 4, 1))).shape == (0, 4, 2)
    assert dft(np.zeros((2, 0, 1)), 3).tolist() == np.zeros((2, 3, 2)).tolist()
    assert dft(np.zeros((0, 4, 2)), inverse=1, onesided=1).shape == (0, 6, 1)


@pytest.mark.parametrize(
    ("shape", "args", "kw", "message"),
    [
        ((2, 4, 3), (), {}, "input must have rank >= 2 and a last axis of 1 or 2"),
        ((4,), (), {}, "input must have rank >= 2"),
        ((2, 4, 1), (None, 2), {}, "axis must not be the last one"),
        ((2, 4, 1), (None, -1), {}, "axis must not be the last one"),
        ((2, 4, 1), (None, 3), {}, r"axis must be in \[-3, 2\]"),
        ((2, 4, 2), (), {"onesided": 1}, "input must be real for onesided=1"),
        ((2, 4, 1), (), {"onesided": 1, "inverse": 1}, "input must be complex for onesided=1"),
        ((2, 4, 1), (0,), {}, r"dft_length must be >= 1 \(got 0\)"),
        ((2, 0, 1), (), {}, "input must have at least one point along axis 1"),
        ((2, 1, 2), (), {"onesided": 1, "inverse": 1}, "input must have at least one point"),
    ],
)
def test_dft_bad_arguments(
    shape: tuple[int, ...], args: tuple[Any, ...], kw: dict[str, int], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        dft(np.zeros(shape), *args, **kw)


def test_costs_are_known_before_anything_is_allocated() -> None:
    cost = registry.find("", "DFT", 20).cost
    assert cost is not None
    assert cost(np.zeros((1, 4, 1), np.float32), i64(2**40)).out_bytes == 2**43
    cost = registry.find("", "HannWindow", 17).cost
    assert cost is not None
    assert cost(i64(2**40), output_datatype=11).out_bytes == 2**43
    cost = registry.find("", "MelWeightMatrix", 17).cost
    assert cost is not None
    assert cost(i64(2**20), i64(2**21), i64(1), np.float32(0), np.float32(1)).out_bytes == 4 * 2**20 * (
        2**20 + 1
    )


# ------------------------------------------------------------------ STFT


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 20),
    size=st.integers(1, 20),
    step=st.integers(1, 6),
    parts=st.integers(1, 2),
    given=st.sampled_from(["window", "frame_length", "both"]),
)
def test_stft_transforms_each_frame(length: int, size: int, step: int, parts: int, given: str) -> None:
    size = min(size, length)
    rng = np.random.default_rng(length)
    x = rng.normal(size=(2, length, parts))
    window = None if given == "frame_length" else rng.normal(size=size)
    frame_length = None if given == "window" else i64(size)
    onesided = 2 - parts
    y = run_op("STFT", x, i64(step), window, frame_length, opset=17, onesided=onesided)
    starts = range(0, length - size + 1, step)
    bins = size // 2 + 1 if onesided else size
    assert y.shape == (2, len(starts), bins, 2)
    for f, start in enumerate(starts):
        frame = as_complex(x)[:, start : start + size] * (1 if window is None else window)
        np.testing.assert_allclose(as_complex(y)[:, f], direct_dft(frame, size, 0)[:, :bins], atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
def test_stft_types(dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(1, 12, 1)).astype(dtype)
    window = np.hanning(4).astype(dtype)
    y = run_op("STFT", x, np.array(2, np.int32), window, opset=17)
    assert y.dtype == x.dtype
    want = run_op("STFT", x.astype(float), i64(2), window.astype(float), opset=17)
    eps = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(float), want, rtol=4 * eps, atol=8 * eps)


def test_stft_without_window_and_length_takes_the_whole_signal() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 1))
    y = run_op("STFT", x, i64(3), opset=17)
    np.testing.assert_allclose(y[:, 0], dft(x, onesided=1), atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "step", "window", "size", "message"),
    [
        ((1, 8), 1, None, None, "signal must have shape"),
        ((1, 8, 2), 1, None, 4, "signal must be real for onesided=1"),
        ((1, 8, 1), 0, None, 4, r"frame_step must be >= 1 \(got 0\)"),
        ((1, 8, 1), 1, 3, 4, r"window must have frame_length 4 entries \(got 3\)"),
        ((1, 8, 1), 1, None, 9, r"frame_length must be in \[1, 8\]"),
    ],
)
def test_stft_bad_arguments(
    shape: tuple[int, ...], step: int, window: int | None, size: int | None, message: str
) -> None:
    w = None if window is None else np.ones(window)
    n = None if size is None else i64(size)
    with pytest.raises(KernelError, match=message):
        run_op("STFT", np.zeros(shape), i64(step), w, n, opset=17)


# ------------------------------------------------------------------ windows

WINDOWS = {"HannWindow": np.hanning, "BlackmanWindow": np.blackman, "HammingWindow": None}


@pytest.mark.parametrize("op_type", WINDOWS)
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("size", [2, 3, 10])
def test_windows(op_type: str, periodic: int, size: int) -> None:
    y = run_op(op_type, i64(size), opset=17, periodic=periodic, output_datatype=ElementType.DOUBLE)
    symmetric = WINDOWS[op_type]
    if symmetric is None:  # NumPy's has 0.54 for 25 / 46
        want = 25 / 46 - 21 / 46 * np.cos(2 * np.pi * np.arange(size) / (size - 1 + periodic))
    else:
        # "computes a window of length size + 1 and returns the first size points"
        want = symmetric(size + periodic)[:size]
    np.testing.assert_allclose(y, want, atol=1e-15)


@pytest.mark.parametrize("op_type", WINDOWS)
@pytest.mark.parametrize(
    "element",
    [
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FLOAT16",
        "FLOAT",
        "DOUBLE",
        "BFLOAT16",
    ],
)
def test_window_types(op_type: str, element: str) -> None:
    dtype = to_numpy(ElementType[element])
    y = run_op(op_type, np.array(6, np.int32), opset=17, output_datatype=ElementType[element])
    assert y.dtype == dtype
    exact = run_op(op_type, i64(6), opset=17, output_datatype=11)
    np.testing.assert_array_equal(
        y, (exact if dtype == np.float64 else exact.astype(np.float32)).astype(dtype)
    )
    assert y[3] == pytest.approx(1, rel=1e-15)  # the peak is 1, as an integer too


@pytest.mark.parametrize("op_type", WINDOWS)
def test_window_edges(op_type: str) -> None:
    assert run_op(op_type, i64(0), opset=17).shape == (0,)
    assert run_op(op_type, i64(1), opset=17).shape == (1,)
    assert np.isnan(run_op(op_type, i64(1), opset=17, periodic=0)).all()  # 0 / 0, as in the function body
    with pytest.raises(KernelError, match=r"size must be >= 0 \(got -1\)"):
        run_op(op_type, i64(-1), opset=17)
    with pytest.raises(KernelError, match="size must have one element"):
        run_op(op_type, np.zeros(2, np.int64), opset=17)
    with pytest.raises(KernelError, match=r"output_datatype must be .* \(got string\)"):
        run_op(op_type, i64(1), opset=17, output_datatype=8)


# ------------------------------------------------------------------ MelWeightMatrix


def mel(
    bands: int, length: int, rate: int, low: float, high: float, dtype: Any = np.float32, **kw: int
) -> Array:
    return run_op(
        "MelWeightMatrix",
        i64(bands),
        i64(length),
        i64(rate),
        np.array(low, dtype),
        np.array(high, dtype),
        opset=17,
        **kw,
    )


def direct_mel(bands: int, length: int, rate: int, low: float, high: float) -> Array:
    to_mel = [2595 * np.log10(1 + f / 700) for f in (low, high)]
    step = (to_mel[1] - to_mel[0]) / (bands + 2)
    edges = [700 * (10 ** ((to_mel[0] + i * step) / 2595) - 1) for i in range(bands + 2)]
    edge = [int((length + 1) * f // rate) for f in edges]
    result = np.zeros((length // 2 + 1, bands))
    for band in range(bands):
        left, centre, right = edge[band : band + 3]
        for j in range(length // 2 + 1):
            if j == centre:
                result[j, band] = 1
            elif left <= j < centre:
                result[j, band] = (j - left) / (centre - left)
            elif centre < j < right:
                result[j, band] = (right - j) / (right - centre)
    return result


@settings(max_examples=50, deadline=None)
@given(
    bands=st.integers(0, 8), length=st.integers(0, 64), low=st.integers(0, 3000), span=st.integers(0, 9000)
)
def test_mel_triangles(bands: int, length: int, low: int, span: int) -> None:
    y = mel(bands, length, 8192, low, low + span, np.float64, output_datatype=11)
    np.testing.assert_allclose(y, direct_mel(bands, length, 8192, low, low + span), atol=1e-12)


@pytest.mark.parametrize("edge_type", FLOATS)
@pytest.mark.parametrize("element", ["UINT8", "INT64", "FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE"])
def test_mel_types(element: str, edge_type: Any) -> None:
    y = mel(4, 16, 8192, 0, 4096, edge_type, output_datatype=ElementType[element])
    assert y.dtype == to_numpy(ElementType[element])
    assert np.array_equal(y, direct_mel(4, 16, 8192, 0, 4096).astype(y.dtype))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((-1, 16, 8192, 0, 1), "num_mel_bins must be >= 0"),
        ((1, -1, 8192, 0, 1), "dft_length must be >= 0"),
        ((1, 16, 0, 0, 1), "sample_rate must be >= 1"),
        ((1, 16, 8192, 5, 1), "with 0 <= lower <= upper"),
        ((1, 16, 8192, -800, 1), "with 0 <= lower <= upper"),
        ((1, 16, 8192, 0, np.inf), "must be finite"),
        ((1, 16, 8192, np.nan, 1), "must be finite"),
    ],
)
def test_mel_bad_arguments(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        mel(*args)
