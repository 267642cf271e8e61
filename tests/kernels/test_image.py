"""ImageDecoder."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from helpers import run_op
from PIL import Image

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.errors import KernelError, MissingDependencyError, ResourceLimitError
from onnxref.limits import Budget, Limits
from onnxref.registry import Context

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), np.uint8)
LOSSLESS = ("BMP", "PNG", "TIFF", "PPM")
LOSSY = ("JPEG", "JPEG2000", "WEBP")


def encode(pixels: Array, form: str, **options: Any) -> Array:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


def decode(stream: Array, **kw: Any) -> Array:
    result: Array = run_op("ImageDecoder", stream, opset=20, **kw)
    return result


@pytest.mark.parametrize("form", LOSSLESS)
def test_pixel_formats(form: str) -> None:
    stream = encode(PIXELS, form)
    assert np.array_equal(decode(stream), PIXELS)
    assert np.array_equal(decode(stream, pixel_format="BGR"), PIXELS[:, :, ::-1])
    grey = decode(stream, pixel_format="Grayscale")
    assert grey.shape == (5, 7, 1)
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[:, :, 0] - luma).max() < 1


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_formats(form: str) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    y = decode(encode(flat, form))
    assert y.dtype == np.uint8
    assert y.shape == (16, 16, 3)
    assert np.abs(y.astype(int) - flat).max() <= 4


@pytest.mark.parametrize("kind", ["grey", "alpha", "palette", "bilevel", "16-bit"])
def test_every_kind_of_pixel_becomes_rgb(kind: str) -> None:
    grey = PIXELS[:, :, 0]
    image = {
        "grey": Image.fromarray(grey),
        "alpha": Image.fromarray(np.dstack([PIXELS, grey])),
        "palette": Image.fromarray(PIXELS).quantize(256),
        "bilevel": Image.fromarray(grey > 100),
        "16-bit": Image.fromarray(grey.astype(np.uint16) * 257),
    }[kind]
    want = {
        "alpha": PIXELS,
        "palette": np.asarray(image.convert("RGB")),
        "bilevel": np.repeat((grey > 100)[:, :, None] * np.uint8(255), 3, 2),
    }.get(kind, np.repeat(grey[:, :, None], 3, 2))
    file = io.BytesIO()
    image.save(file, "PNG")
    assert np.array_equal(decode(np.frombuffer(file.getvalue(), np.uint8)), want)


@pytest.mark.parametrize("form", [*LOSSLESS, *LOSSY])
def test_broken_files_give_an_empty_matrix(form: str) -> None:
    stream = encode(PIXELS, form)
    for broken in (stream[: len(stream) // 2], stream[:10], stream[:0]):
        assert decode(broken).shape == (0, 0, 3)
        assert decode(broken, pixel_format="Grayscale").shape == (0, 0, 1)


def test_other_formats_are_not_tried() -> None:
    assert decode(encode(PIXELS[:, :, 0], "GIF")).shape == (0, 0, 3)


def test_floating_point_pixels_cannot_be_decoded() -> None:
    assert decode(encode(np.zeros((2, 2), np.float32), "TIFF")).shape == (0, 0, 3)


def test_bad_arguments() -> None:
    with pytest.raises(KernelError, match=r"pixel_format must be one of RGB, BGR, Grayscale \(got 'CMYK'\)"):
        decode(encode(PIXELS, "PNG"), pixel_format="CMYK")
    with pytest.raises(KernelError, match="encoded_stream must have rank 1"):
        decode(np.zeros((1, 1), np.uint8))


def test_the_size_is_checked_before_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = encode(np.zeros((3000, 3000, 3), np.uint8), "PNG")
    assert stream.size < 100_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    ctx = Context(budget=Budget(Limits(tensor_bytes=2**20)))
    with pytest.raises(ResourceLimitError, match="decoded image would need"):
        registry.find("", "ImageDecoder", 20).kernel(stream, ctx=ctx)


def test_missing_pillow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pip install onnxref\[image\]"):
        decode(np.zeros(4, np.uint8))
