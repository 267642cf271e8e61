"""Models that people use, with realistic inputs: what the tests compare and the benchmarks time.

The files come from packages (located, never imported), from `examples/` and from `tests/data/torch/`;
the scikit-learn pipelines are trained and exported here.
"""

from __future__ import annotations

import importlib.util
import json
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn_models import SKLEARN_MODELS, SklearnModel

Array = NDArray[Any]
Feeds = dict[str, Array]

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
TORCH = ROOT / "tests" / "data" / "torch"


@dataclass(frozen=True)
class RealModel:
    """A model and the calls to make with it.

    Attributes:
        model: makes the model: a path, or bytes.
        calls: makes the inputs of consecutive calls.
        carry: outputs that become inputs of the next call, by name.
        expected: makes the outputs of every call as the model's own framework gives them.
    """

    name: str
    model: Callable[[], Path | bytes]
    calls: Callable[[], list[Feeds]]
    carry: Mapping[str, str] = field(default_factory=dict)
    expected: Callable[[], list[Feeds]] | None = None


def package_file(package: str, path: str, requirement: str) -> Path:
    """Return a data file of an installed package.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"{package} is not installed: pip install {requirement}")
    return Path(found.origin).parent / path


# Speech: silero-vad -------------------------------------------------------------------------------

_CHUNK, _CONTEXT = 512, 64  # samples at 16 kHz; half of each at 8 kHz
_FIRST_SPEECH = 16_000  # somebody speaks from the first second of the recording on


@cache
def speech(rate: int) -> Array:
    """Return the example recording as float32 samples at 16000 or 8000 per second."""
    with wave.open(str(EXAMPLES / "speech.wav")) as recording:
        raw = recording.readframes(recording.getnframes())
    samples = np.frombuffer(raw, "<i2").astype(np.float32) / 2**15
    return samples if rate == 16_000 else samples.reshape(-1, 2).mean(axis=1)


def _speech_chunks(rate: int, count: int) -> Array:
    """Return `count` consecutive chunks of speech, each behind the last samples of the one before."""
    scale = 16_000 // rate
    step, context = _CHUNK // scale, _CONTEXT // scale
    start = _FIRST_SPEECH // scale
    rows = [speech(rate)[start + i * step - context : start + (i + 1) * step] for i in range(count)]
    return np.stack(rows)


def _silero(file: str, rate: int, *, sends_rate: bool) -> RealModel:
    def calls() -> list[Feeds]:
        fixed = {"sr": np.array(rate, np.int64)} if sends_rate else {}
        made: list[Feeds] = [{"input": chunk[np.newaxis], **fixed} for chunk in _speech_chunks(rate, 12)]
        made[0]["state"] = np.zeros((2, 1, 128), np.float32)
        return made

    return RealModel(
        name=f"{file} {rate // 1000} kHz",
        model=lambda: _silero_file(file),
        calls=calls,
        carry={"stateN": "state"},
    )


def _silero_sequence() -> RealModel:
    def calls() -> list[Feeds]:
        chunks = _speech_chunks(16_000, 24)
        state = np.zeros((1, 1, 128), np.float32)
        return [{"input": chunks[:12], "h": state, "c": state}, {"input": chunks[12:]}]

    file = "silero_vad_16k_sequence"
    return RealModel(f"{file} 16 kHz", lambda: _silero_file(file), calls, {"hn": "h", "cn": "c"})


def _silero_file(file: str) -> Path:
    return package_file("silero_vad", f"data/{file}.onnx", "--no-deps silero-vad==6.2.3")


# File types: magika -------------------------------------------------------------------------------

MAGIKA_FILES = {"python": EXAMPLES / "demo.py", "makefile": ROOT / "Makefile", "txt": ROOT / "LICENSE"}


def magika_file(name: str) -> Path:
    """Return a file of the magika model's folder."""
    return package_file("magika", f"models/standard_v3_3/{name}", "--no-deps magika==1.0.3")


def _magika_calls() -> list[Feeds]:
    config = json.loads(magika_file("config.min.json").read_text())
    return [{"bytes": np.stack([_magika_bytes(path, config) for path in MAGIKA_FILES.values()])}]


def _magika_bytes(path: Path, config: Mapping[str, Any]) -> Array:
    """Return the first and last bytes of a file without surrounding white space, padded in the middle."""
    content, block = path.read_bytes(), config["block_size"]
    begin, end = content[:block].lstrip(), content[-block:].rstrip()
    row = np.full(config["beg_size"] + config["end_size"], config["padding_token"], np.int32)
    first = begin[: config["beg_size"]]
    last = end[-config["end_size"] :]
    row[: len(first)] = list(first)
    row[len(row) - len(last) :] = list(last)
    return row


# Text in images: rapidocr -------------------------------------------------------------------------

OCR_LINES = ("Hello World 2024", "onnx runs here", "reference: 3.14")


def ocr_file(name: str) -> Path:
    """Return one of the rapidocr models."""
    return package_file(
        "rapidocr_onnxruntime", f"models/{name}.onnx", "--no-deps rapidocr-onnxruntime==1.4.4"
    )


def _draw(size: tuple[int, int], lines: Mapping[tuple[int, int], str], height: int) -> Image.Image:
    """Return a light image with grain and text at the given places."""
    grain = np.random.default_rng(7).normal(235, 6, (size[1], size[0], 3))
    image = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(height)
    for place, text in lines.items():
        pen.text(place, text, fill=(30, 30, 60), font=font)
    return image


def _normalised(image: Image.Image) -> Array:
    """Return pixels (3, H, W) between -1 and 1."""
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
    return np.ascontiguousarray((pixels - 0.5) / 0.5)


def ocr_page() -> Array:
    """Return a page of text as the detector takes it: the short side 736, both multiples of 32."""
    page = _draw((400, 300), {(30, 30 + 90 * i): text for i, text in enumerate(OCR_LINES)}, 36)
    return _normalised(page.resize((992, 736), Image.Resampling.BILINEAR))[np.newaxis]


def _ocr_line(text: str, width: int, *, upside_down: bool = False) -> Array:
    """Return one line of text as a strip of height 48, filled up with zeros to `width`."""
    image = _draw((22 * len(text), 48), {(8, 2): text}, 36)
    if upside_down:
        image = image.rotate(180)
    strip = _normalised(image.crop((0, 0, min(width, image.width), 48)))
    return np.pad(strip, ((0, 0), (0, 0), (0, width - strip.shape[2])))


def _ocr_direction_calls() -> list[Feeds]:
    return [{"x": np.stack([_ocr_line(text, 192, upside_down=i == 1) for i, text in enumerate(OCR_LINES)])}]


def _ocr_text_calls() -> list[Feeds]:
    return [{"x": np.stack([_ocr_line(text, 368) for text in OCR_LINES])}]


# Image classifiers: the onnx package --------------------------------------------------------------

_LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
_HUGE = ("bvlc_alexnet", "vgg19", "zfnet512")  # weights of 240 to 580 MB


def _light_file(name: str) -> Path:
    return package_file("onnx", f"backend/test/data/light/light_{name}.onnx", "onnx==1.23.2")


def _light_calls(name: str) -> list[Feeds]:
    """Return a random image with large shapes and grain, normalised as usual for these models."""
    rng = np.random.default_rng(11)
    shapes = np.kron(rng.random((3, 7, 7)), np.ones((32, 32)))
    image = (0.8 * shapes + 0.2 * rng.random((3, 224, 224)) - 0.45) / 0.225
    graph = onnx.load(_light_file(name)).graph
    fixed = {tensor.name for tensor in graph.initializer}
    (input_name,) = (value.name for value in graph.input if value.name not in fixed)
    return [{input_name: image[np.newaxis].astype(np.float32)}]


def draw_weights(name: str) -> bytes:
    """Return a light model with random weights in place of its own, which all are 0.02.

    Matrices and filters keep the variance of what goes through them; vectors, which may be scales or
    variances, are around 1.
    """
    model = onnx.load(_light_file(name))
    rng = np.random.default_rng(5)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = tuple(shapes[node.input[0]])
        if len(shape) == 1:
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return bytes(model.SerializeToString())


# Frameworks ---------------------------------------------------------------------------------------


def _digits_calls() -> list[Feeds]:
    digit = Image.open(EXAMPLES / "digit.png").resize((8, 8), Image.Resampling.BOX)
    pixels = np.asarray(digit).astype(np.float32).reshape(1, 1, 8, 8) / 255
    return [{"image": np.concatenate([pixels, pixels[..., ::-1], np.swapaxes(pixels, 2, 3)])}]


def _torch(path: Path) -> RealModel:
    def recorded(kind: str) -> list[Feeds]:
        with np.load(path.with_suffix(".npz")) as archive:
            return [{k.removeprefix(kind): archive[k] for k in archive.files if k.startswith(kind)}]

    return RealModel(
        name=f"torch {path.stem}",
        model=lambda: path,
        calls=lambda: recorded("in:"),
        expected=lambda: recorded("out:"),
    )


def _sklearn(model: SklearnModel) -> RealModel:
    return RealModel(
        name=f"sklearn {model.name}",
        model=lambda: model.fitted().onnx,
        calls=lambda: [model.fitted().inputs],
        expected=lambda: [model.fitted().outputs],
    )


REAL_MODELS: tuple[RealModel, ...] = (
    RealModel("digits", lambda: EXAMPLES / "digits.onnx", _digits_calls),
    *(
        _silero(file, rate, sends_rate=True)
        for file in ("silero_vad", "silero_vad_op18_ifless")
        for rate in (16_000, 8_000)
    ),
    _silero("silero_vad_16k_op15", 16_000, sends_rate=True),
    _silero("silero_vad_half", 16_000, sends_rate=False),
    _silero("silero_vad_openvino_16k", 16_000, sends_rate=False),
    _silero_sequence(),
    RealModel("magika", lambda: magika_file("model.onnx"), _magika_calls),
    RealModel("ocr detection", lambda: ocr_file("ch_PP-OCRv4_det_infer"), lambda: [{"x": ocr_page()}]),
    RealModel("ocr direction", lambda: ocr_file("ch_ppocr_mobile_v2.0_cls_infer"), _ocr_direction_calls),
    RealModel("ocr text", lambda: ocr_file("ch_PP-OCRv4_rec_infer"), _ocr_text_calls),
    *(_sklearn(model) for model in SKLEARN_MODELS),
    *(_torch(path) for path in sorted(TORCH.glob("*.onnx"))),
    *(RealModel(f"light_{n}", partial(_light_file, n), partial(_light_calls, n)) for n in _LIGHT),
)
"""Every model as it is shipped."""

DRAWN_MODELS = tuple(
    RealModel(f"light_{n} with drawn weights", partial(draw_weights, n), partial(_light_calls, n))
    for n in _LIGHT
    if n not in _HUGE
)
"""The image classifiers with weights that a wrong kernel could not hide behind."""
