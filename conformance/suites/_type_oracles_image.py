"""Oracles for operators that sample images, and for signals, in float64."""

from __future__ import annotations

import cmath
import math
import struct
import zlib
from typing import Any

import numpy as np

from ._type_models import Call
from ._type_oracles import Array, Oracle, is_float, wide
from ._type_oracles_math import saturated
from ._type_specs import as_array, dtype_of


def _pixel(image: Any, row: int, column: int) -> Any:
    """Return a pixel of a (H, W) image; beyond its edges there is nothing."""
    inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
    return image[row, column] if inside else 0


def _bilinear(image: Any, y: float, x: float) -> Any:
    """Interpolate between the four pixels around a point."""
    top, left = math.floor(y), math.floor(x)
    down, right = y - top, x - left
    corners = (
        ((1 - down) * (1 - right), top, left),
        ((1 - down) * right, top, left + 1),
        (down * (1 - right), top + 1, left),
        (down * right, top + 1, left + 1),
    )
    return sum(weight * _pixel(image, row, column) for weight, row, column in corners if weight)


def _grid_sample(call: Call) -> Array:
    """-1 and 1 are the outer edges of a 4 x 4 image; strings and bools take the nearest pixel."""
    image, grid = call.inputs[0][0, 0], wide(call.inputs[1])
    made = np.empty((1, 1, 2, 2), image.dtype if image.dtype.kind in "bO" else None)
    made = made.astype(object)
    for i, j in np.ndindex(2, 2):
        x, y = ((float(g) + 1) * 2 - 0.5 for g in grid[0, i, j])
        if image.dtype.kind in "bO":
            made[0, 0, i, j] = image[round(y), round(x)]
        else:
            made[0, 0, i, j] = _bilinear(wide(image), y, x)
    if image.dtype.kind in "bO":
        return made.astype(image.dtype)
    # The pixels are multiples of 4 and the weights of 1/4, so that integers stay whole.
    whole = not is_float(image.dtype) and image.dtype.kind != "c"
    return np.vectorize(int, otypes=[object])(made) if whole else made.astype(wide(image).dtype)


def _col2im(call: Call) -> Array:
    """Columns of 2 x 2 blocks: overlapping ones are added, those of strings and bools only placed."""
    columns, (height, width), _ = call.inputs
    stride = call.attributes.get("strides", [1])[0]
    source = columns if columns.dtype.kind in "bO" else wide(columns)
    made = np.zeros((1, 1, int(height), int(width)), source.dtype)
    across = (int(width) - 2) // stride + 1
    for tap, block in np.ndindex(4, 4):
        row, column = block // across * stride + tap // 2, block % across * stride + tap % 2
        value = source[0, tap, block]
        made[0, 0, row, column] = value if stride == 2 else made[0, 0, row, column] + value
    return made


def _roi_align(call: Call) -> Array:
    """One cell over a region of 3 x 3, averaged over 3 x 3 points; since version 16 half a pixel further."""
    image = wide(call.inputs[0])[0, 0]
    start = 0.5 if call.schema.since_version < 16 else 0.0
    points = [_bilinear(image, start + i, start + j) for i, j in np.ndindex(3, 3)]
    return np.array([[[[math.fsum(points) / 9]]]])


def _max_roi_pool(call: Call) -> Array:
    """The region is the whole image of 4 x 4, in cells of 2 x 2."""
    image = wide(call.inputs[0])[0, 0]
    return np.array([[[[image[i : i + 2, j : j + 2].max() for j in (0, 2)] for i in (0, 2)]]])


def _deform_conv(call: Call) -> Array:
    image, weights, offset, bias, mask = (wide(x) for x in call.inputs)
    made = np.full((1, 1, 2, 2), float(bias[0]))
    for i, j, tap in np.ndindex(2, 2, 4):
        y = i + tap // 2 + offset[0, 2 * tap, i, j]
        x = j + tap % 2 + offset[0, 2 * tap + 1, i, j]
        weight = weights[0, 0, tap // 2, tap % 2] * mask[0, tap, i, j]
        made[0, 0, i, j] += weight * _bilinear(image[0, 0], y, x)
    return made


def _affine_grid(call: Call) -> Array:
    """Two grids of 2 x 2 points, whose pixels have their centres at -0.5 and 0.5."""
    theta = wide(call.inputs[0])
    made = np.empty((2, 2, 2, 2))
    for n, i, j in np.ndindex(2, 2, 2):
        made[n, i, j] = theta[n] @ [j - 0.5, i - 0.5, 1]
    return made


def _decoded_image(call: Call) -> Array:
    """A PNG of one pixel, read by hand: red, green, blue and alpha behind the filter's byte."""
    data = call.inputs[0].tobytes()
    at = 8
    while data[at + 4 : at + 8] != b"IDAT":
        at += 12 + struct.unpack(">I", data[at : at + 4])[0]
    (size,) = struct.unpack(">I", data[at : at + 4])
    return np.array([[[*zlib.decompress(data[at + 8 : at + 8 + size])[1:4]]]], np.uint8)


def _quantized_conv(call: Call) -> Array:
    image, x_scale, x_zero, weights, w_scale, w_zero, y_scale, y_zero, bias = (wide(v) for v in call.inputs)
    made = np.empty((1, 1, 2, 2), np.float64)
    for i, j in np.ndindex(2, 2):
        window = (image[0, 0, i : i + 2, j : j + 2] - x_zero) * (weights[0, 0] - w_zero)
        real = (int(window.sum()) + int(bias[0])) * float(x_scale) * float(w_scale)
        made[0, 0, i, j] = round(real / float(y_scale)) + int(y_zero)
    return saturated(made, dtype_of(call.output_types[0]))


# --- signals -------------------------------------------------------------------------------------


def _transform(signal: list[float], bins: int) -> list[list[float]]:
    """Return real and imaginary parts of the discrete Fourier transform, from its definition."""
    size = len(signal)
    turns = [
        [x * cmath.exp(-2j * cmath.pi * k * n / size) for n, x in enumerate(signal)] for k in range(bins)
    ]
    return [[math.fsum(z.real for z in row), math.fsum(z.imag for z in row)] for row in turns]


def _dft(call: Call) -> Array:
    return np.array([_transform(wide(call.inputs[0])[0, :, 0].tolist(), 4)])


def _stft(call: Call) -> Array:
    """Frames of 4 at every second sample, of which half of the spectrum is returned."""
    signal, window = wide(call.inputs[0])[0, :, 0], wide(call.inputs[2])
    return np.array([[_transform((signal[at : at + 4] * window).tolist(), 3) for at in (0, 2, 4)]])


def _mel_weights(call: Call) -> Array:
    """One triangle over five bins of 910 Hz each.

    The mel scale puts its corners at 0, 624 and 1800 Hz: bins 0, 0 and 1. With the corners of the data of the
    official suite, which divides the scale into one part more, the bins are the same.
    """
    return as_array([[1], [0], [0], [0], [0]], dtype_of(call.output_types[0]))


ORACLES: dict[tuple[str, str], Oracle] = {
    ("", "AffineGrid"): _affine_grid,
    ("", "Col2Im"): _col2im,
    ("", "DFT"): _dft,
    ("", "DeformConv"): _deform_conv,
    ("", "GridSample"): _grid_sample,
    ("", "ImageDecoder"): _decoded_image,
    ("", "MaxRoiPool"): _max_roi_pool,
    ("", "MelWeightMatrix"): _mel_weights,
    ("", "QLinearConv"): _quantized_conv,
    ("", "RoiAlign"): _roi_align,
    ("", "STFT"): _stft,
}
