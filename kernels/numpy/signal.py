"""Signal processing: DFT, STFT, windows, MelWeightMatrix.

A complex number is a last axis of two entries, real and imaginary part. Transforms keep the
precision of their input: float32 in complex64, float64 in complex128, narrower types in float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxref.dtypes import Array, DType, to_numpy
from onnxref.errors import KernelError
from onnxref.registry import Cost, op

from ._checks import FLOAT_TYPES, INTEGER_TYPES, element_type, normalize_axis, scalar
from ._common import in_float32

_OUTPUT_TYPES = (*INTEGER_TYPES, *FLOAT_TYPES)


def _int_input(values: Array, name: str, smallest: int) -> int:
    """Return an integer scalar input; it must be at least `smallest`."""
    value = int(scalar(values, name))
    if value < smallest:
        raise KernelError(f"{name} must be >= {smallest} (got {value})")
    return value


def _output_dtype(output_datatype: int) -> DType:
    return to_numpy(element_type(output_datatype, "output_datatype", _OUTPUT_TYPES))


def _as_complex(x: Array) -> Array:
    """Return a real (..., 1) or complex (..., 2) signal without its last axis."""
    if x.shape[-1] == 1:
        return x[..., 0]
    joined: Array = np.ascontiguousarray(x).view(np.result_type(x.dtype, np.complex64))
    return joined[..., 0]


def _as_pairs(spectrum: Array) -> Array:
    """Return a complex tensor as real and imaginary parts along a new last axis."""
    pairs = np.ascontiguousarray(spectrum).view(spectrum.real.dtype)
    return pairs.reshape(*spectrum.shape, 2)


# ------------------------------------------------------------------ DFT


def _dft_plan(
    x: Array, dft_length: Array | None, axis: int, inverse: int, onesided: int
) -> tuple[int, int, tuple[int, ...]]:
    """Return the axis, the number of points and the output's shape."""
    rank = x.ndim
    if rank < 2 or x.shape[-1] not in (1, 2):
        raise KernelError(f"input must have rank >= 2 and a last axis of 1 or 2 (got shape {x.shape})")
    axis = normalize_axis(axis, rank)
    if axis == rank - 1:
        raise KernelError(f"axis must not be the last one, of real and imaginary parts (got {axis})")
    if onesided and x.shape[-1] != (2 if inverse else 1):
        kind = "complex" if inverse else "real"
        raise KernelError(f"input must be {kind} for onesided=1 and inverse={inverse} (got shape {x.shape})")
    length = x.shape[axis]
    if dft_length is not None:
        points = _int_input(dft_length, "dft_length", 1)
    else:
        points = 2 * (length - 1) if onesided and inverse else length
    if points < 1:
        raise KernelError(f"input must have at least one point along axis {axis} (got shape {x.shape})")
    shape = list(x.shape)
    shape[axis] = points // 2 + 1 if onesided and not inverse else points
    shape[-1] = 1 if onesided and inverse else 2
    return axis, points, tuple(shape)


def _dft_cost(x: Array, dft_length: Array | None, axis: int, inverse: int, onesided: int) -> Cost:
    axis, points, shape = _dft_plan(x, dft_length, axis, inverse, onesided)
    values = math.prod(shape[:axis]) * math.prod(shape[axis + 1 : -1]) * max(points, x.shape[axis])
    wide = 16 if x.dtype.itemsize == 8 else 8
    # Padded input, spectrum, a contiguous copy of it, and the plan of one transform.
    return Cost(Cost.of(shape, x.dtype).out_bytes, 4 * wide * values + 64 * points)


@in_float32
def _dft(x: Array, dft_length: Array | None, axis: int, inverse: int, onesided: int) -> Array:
    axis, points, shape = _dft_plan(x, dft_length, axis, inverse, onesided)
    if math.prod(shape) == 0:
        return np.empty(shape, x.dtype)
    signal = _as_complex(x)
    if signal.shape[axis] == 0:
        return np.zeros(shape, x.dtype)  # padded with zeros, and so is its transform
    if onesided and inverse:
        return np.fft.irfft(signal, points, axis)[..., None]
    if onesided:
        return _as_pairs(np.fft.rfft(signal, points, axis))
    return _as_pairs((np.fft.ifft if inverse else np.fft.fft)(signal, points, axis))


def _dft_17_cost(
    input: Array, dft_length: Array | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Cost:
    return _dft_cost(input, dft_length, axis, inverse, onesided)


@op("DFT", since=17, cost=_dft_17_cost)
def dft_17(
    input: Array, dft_length: Array | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Array:
    """Fourier transform of (batch, signal axes ..., 1 or 2) along `axis` (ONNX DFT-17)."""
    result: Array = _dft(input, dft_length, axis, inverse, onesided)
    return result


def _axis_input(axis: Array | None) -> int:
    return -2 if axis is None else _int_input(axis, "axis", -(2**63))


def _dft_20_cost(
    input: Array,
    dft_length: Array | None = None,
    axis: Array | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Cost:
    return _dft_cost(input, dft_length, _axis_input(axis), inverse, onesided)


@op("DFT", since=20, cost=_dft_20_cost)
def dft_20(
    input: Array,
    dft_length: Array | None = None,
    axis: Array | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Array:
    """Fourier transform of (signal axes ..., 1 or 2) along `axis` (ONNX DFT-20)."""
    result: Array = _dft(input, dft_length, _axis_input(axis), inverse, onesided)
    return result


# ------------------------------------------------------------------ STFT


def _stft_plan(
    signal: Array, frame_step: Array, window: Array | None, frame_length: Array | None, onesided: int
) -> tuple[int, int, tuple[int, ...]]:
    """Return the frames' length, the step between them and the output's shape."""
    if signal.ndim != 3 or signal.shape[-1] not in (1, 2):
        raise KernelError(f"signal must have shape (batch, length, 1 or 2) (got {signal.shape})")
    if onesided and signal.shape[-1] == 2:
        raise KernelError(f"signal must be real for onesided=1 (got shape {signal.shape})")
    if window is not None and window.ndim != 1:
        raise KernelError(f"window must have rank 1 (got shape {window.shape})")
    batch, length, _ = signal.shape
    step = _int_input(frame_step, "frame_step", 1)
    if frame_length is not None:
        size = _int_input(frame_length, "frame_length", 1)
    else:
        size = length if window is None else len(window)
    if window is not None and len(window) != size:
        raise KernelError(f"window must have frame_length {size} entries (got {len(window)})")
    if not 1 <= size <= length:
        raise KernelError(f"frame_length must be in [1, {length}], the signal's length (got {size})")
    frames = (length - size) // step + 1
    return size, step, (batch, frames, size // 2 + 1 if onesided else size, 2)


def _stft_cost(
    signal: Array,
    frame_step: Array,
    window: Array | None = None,
    frame_length: Array | None = None,
    *,
    onesided: int = 1,
) -> Cost:
    """Overlapping frames repeat the signal: up to length / step times."""
    size, _, shape = _stft_plan(signal, frame_step, window, frame_length, onesided)
    wide = 16 if signal.dtype.itemsize == 8 else 8
    values = shape[0] * shape[1] * size
    return Cost(Cost.of(shape, signal.dtype).out_bytes, 4 * wide * values + 64 * size)


@op("STFT", since=17, cost=_stft_cost)
@in_float32
def stft(
    signal: Array,
    frame_step: Array,
    window: Array | None = None,
    frame_length: Array | None = None,
    *,
    onesided: int = 1,
) -> Array:
    """Transform windowed frames of (batch, length, 1 or 2) to (batch, frames, bins, 2) (ONNX STFT-17)."""
    size, step, shape = _stft_plan(signal, frame_step, window, frame_length, onesided)
    if math.prod(shape) == 0:
        return np.empty(shape, signal.dtype)
    frames = np.lib.stride_tricks.sliding_window_view(_as_complex(signal), size, axis=1)[:, ::step]
    if window is not None:
        frames = frames * window
    return _as_pairs((np.fft.rfft if onesided else np.fft.fft)(frames, axis=-1))


# ------------------------------------------------------------------ windows


def _window_cost(size: Array, *, output_datatype: int = 1, periodic: int = 1) -> Cost:
    length = _int_input(size, "size", 0)
    return Cost(length * _output_dtype(output_datatype).itemsize, 40 * length)


def _register_window(op_type: str, a0: float, a1: float, a2: float) -> None:
    """Register a window `a0 - a1 cos(t) + a2 cos(2t)`, the form of the spec's function bodies."""

    def window(size: Array, *, output_datatype: int = 1, periodic: int = 1) -> Array:
        """Return a window of `size` points (ONNX BlackmanWindow-17, HammingWindow-17, HannWindow-17)."""
        length = _int_input(size, "size", 0)
        dtype = _output_dtype(output_datatype)
        # In float64, although the function bodies use float32: output_datatype may be double. A
        # symmetric window of one point is 0 / 0, a NaN, as in the bodies.
        t = np.arange(length) * (2 * np.pi) / np.float64(length if periodic else length - 1)
        values = a0 - a1 * np.cos(t) + a2 * np.cos(2 * t)
        if dtype != np.float64:
            # As the bodies do, so that a peak of 0.9999999999999999 is 1 as an integer too.
            values = values.astype(np.float32)
        return values.astype(dtype)

    op(op_type, since=17, cost=_window_cost)(window)


_register_window("HannWindow", 0.5, 0.5, 0.0)
_register_window("HammingWindow", 25 / 46, 21 / 46, 0.0)
_register_window("BlackmanWindow", 0.42, 0.5, 0.08)


# ------------------------------------------------------------------ MelWeightMatrix


def _mel_shape(num_mel_bins: Array, dft_length: Array) -> tuple[int, int]:
    return _int_input(dft_length, "dft_length", 0) // 2 + 1, _int_input(num_mel_bins, "num_mel_bins", 0)


def _mel_cost(
    num_mel_bins: Array,
    dft_length: Array,
    sample_rate: Array,
    lower_edge_hertz: Array,
    upper_edge_hertz: Array,
    *,
    output_datatype: int = 1,
) -> Cost:
    bins, bands = _mel_shape(num_mel_bins, dft_length)
    return Cost(
        bins * bands * _output_dtype(output_datatype).itemsize, 50 * bins * bands + 64 * (bins + bands)
    )


@op("MelWeightMatrix", since=17, cost=_mel_cost)
def mel_weight_matrix(
    num_mel_bins: Array,
    dft_length: Array,
    sample_rate: Array,
    lower_edge_hertz: Array,
    upper_edge_hertz: Array,
    *,
    output_datatype: int = 1,
) -> Array:
    """Return mel filters (dft_length // 2 + 1, num_mel_bins), one a column (ONNX MelWeightMatrix-17)."""
    dtype = _output_dtype(output_datatype)
    bins, bands = _mel_shape(num_mel_bins, dft_length)
    rate = _int_input(sample_rate, "sample_rate", 1)
    low, high = (_mel(edge) for edge in (lower_edge_hertz, upper_edge_hertz))
    if not 0 <= low <= high < math.inf:
        raise KernelError(
            "lower_edge_hertz and upper_edge_hertz must be finite, with 0 <= lower <= upper "
            f"(got {lower_edge_hertz.tolist()}, {upper_edge_hertz.tolist()})"
        )
    # The official test case divides by the number of edges, not of the steps between them, and
    # rounds the edges down to bins of a transform of dft_length + 1 points.
    mels = low + np.arange(bands + 2) * ((high - low) / (bands + 2))
    hertz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    points = int(dft_length.reshape(())) + 1
    edges = np.floor(points * hertz / rate)
    return _triangles(edges, bins).astype(dtype)


def _mel(hertz: Array) -> float:
    """mel(f) = 2595 * log10(1 + f / 700)"""
    value = float(scalar(hertz, "lower_edge_hertz and upper_edge_hertz"))
    return 2595.0 * math.log10(1.0 + value / 700.0) if value >= 0 else math.nan


def _triangles(edges: Array, bins: int) -> Array:
    """Return (bins, len(edges) - 2): column i rises from edges[i] to 1 at edges[i + 1], and falls again."""
    bin_ = np.arange(bins, dtype=np.float64)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising: Any = (bin_ - left) / (centre - left)
    falling: Any = (right - bin_) / (right - centre)
    weights = np.where(bin_ < centre, rising, falling)
    outside = (bin_ < left) | (bin_ >= right)
    # Where the edges coincide, 0 / 0: the peak is 1 even of a triangle with no width.
    result: Array = np.where(bin_ == centre, 1.0, np.where(outside, 0.0, weights))
    return result
