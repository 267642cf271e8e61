"""ImageDecoder: image files to pixels, through Pillow (`pip install onnxref[image]`)."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError, MissingDependencyError
from onnxref.registry import Context, op

from ._checks import check_choice

# Pillow's names of the formats that the schema lists, and of no others: every decoder that a
# model's bytes can reach is one more to trust. PPM stands for the whole PBM/PGM/PPM/PNM family.
_FORMATS = ("BMP", "JPEG", "JPEG2000", "TIFF", "PNG", "WEBP", "PPM")
_CHANNELS = {"RGB": 3, "BGR": 3, "Grayscale": 1}
# What Pillow's plugins raise on broken files, beside its own errors (which are OSErrors).
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError),
    *(NotImplementedError, AttributeError, struct.error),
)


@op("ImageDecoder", since=20)
def image_decoder(encoded_stream: Array, *, pixel_format: str = "RGB", ctx: Context) -> Array:
    """Decode a file (bytes,) to pixels (H, W, 3 or 1) (ONNX ImageDecoder-20).

    Alpha is dropped, palettes are looked up, 16 bits per channel are cut to 8; of several frames
    the first counts. EXIF orientation is not applied. What cannot be decoded gives (0, 0, C).
    """
    check_choice(pixel_format, _CHANNELS, "pixel_format")
    if encoded_stream.ndim != 1:
        raise KernelError(f"encoded_stream must have rank 1 (got {encoded_stream.ndim})")
    pillow = _pillow()
    try:
        # The run's limits decide about the size, not Pillow's own notion of a bomb.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = pillow.open(io.BytesIO(encoded_stream.tobytes()), formats=_FORMATS)
            width, height = image.size
            # Pillow keeps up to 4 bytes per pixel beside the output.
            ctx.budget.check_bytes(width * height * (4 + _CHANNELS[pixel_format]), "decoded image")
            image.load()
            pixels = _to_bytes(pillow, image, "L" if pixel_format == "Grayscale" else "RGB")
    except (*_BROKEN, pillow.DecompressionBombError):
        # "If it can't decode for any reason [...] it will return an empty matrix."
        return np.empty((0, 0, _CHANNELS[pixel_format]), np.uint8)
    if pixel_format == "BGR":
        return pixels[:, :, ::-1]
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("ImageDecoder needs Pillow: run `pip install onnxref[image]`") from error
    return Image


def _to_bytes(pillow: Any, image: Any, mode: str) -> Array:
    """Return (H, W) or (H, W, 3) uint8."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no range that could be mapped to bytes")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit samples at 255 instead of scaling them.
        samples = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        image = pillow.fromarray(samples)
    return np.array(image.convert(mode))
