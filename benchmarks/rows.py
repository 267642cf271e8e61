"""The rows of the benchmark: models with one call each, in groups with a target."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import builders
import numpy as np
import onnx
from builders import Array, kept

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from model_zoo import REAL_MODELS, RealModel
from sklearn_models import SKLEARN_MODELS

TESTS = Path(__file__).parent.parent / "tests"

TARGETS: Mapping[str, float] = {
    "CNN": 0.8,
    "light CNN and OCR": 0.7,
    "transformer": 0.95,
    "int8": 0.95,
    "small": 0.6,
}
"""Most that onnxref's time may be of ONNX Runtime's, by group."""

SCALING_BATCH = (1, 2, 4, 8, 16)
SCALING_LENGTH = (16, 64, 256, 1024)

Feeds = dict[str, Any]


class BatchIsFixedError(Exception):
    """A model takes one size of batch only."""


@dataclass(frozen=True)
class Folders:
    """Where models are made, and where the exported transformers are."""

    made: Path
    exported: Path


@dataclass(frozen=True)
class Row:
    """A model and one call.

    Attributes:
        model: makes the model's file; the second argument says whether the batch is to be free.
        feeds: makes the inputs, from the path of the model.
        batch_axes: axis of the batch, by input; empty where its size is fixed.
        quantised: activations have 8 bits.
    """

    name: str
    group: str
    model: Callable[[Folders, bool], Path]
    feeds: Callable[[Path], Feeds]
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    quantised: bool = False

    def call(self, folders: Folders, batch: int | None) -> tuple[Path, Feeds]:
        """Return the model's file and the inputs, for a size of batch (None: the row's own).

        Raises:
            BatchIsFixedError: the model takes another size of batch only.
        """
        if batch is not None and not self.batch_axes:
            raise BatchIsFixedError(self.name)
        path = self.model(folders, batch is not None)
        feeds = self.feeds(path)
        if batch is not None:
            for name, axis in self.batch_axes.items():
                if name in feeds:
                    rows = np.arange(batch) % feeds[name].shape[axis]
                    feeds[name] = np.take(feeds[name], rows, axis)
        return path, feeds


# Image classifiers -------------------------------------------------------------------------------------


def _light_row(name: str, group: str, input_name: str) -> Row:
    def model(folders: Folders, free_batch: bool) -> Path:
        kind = f"light_{name}{'_free' if free_batch else ''}"
        return kept(
            folders.made,
            kind,
            lambda path: onnx.save(builders.light_model(name, free_batch=free_batch), path),
        )

    return Row(name, group, model, lambda path: {input_name: builders.image(7)}, {input_name: 0})


_LIGHT = {
    "CNN": ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "vgg19", "zfnet512"),
    "light CNN and OCR": ("squeezenet", "shufflenet"),
}
_CAFFE2 = ("resnet50", "shufflenet", "zfnet512")  # these name their input in another way


def _light_rows() -> list[Row]:
    return [
        _light_row(name, group, "gpu_0/data_0" if name in _CAFFE2 else "data_0")
        for group, names in _LIGHT.items()
        for name in names
    ]


# Models of packages ------------------------------------------------------------------------------------


def _zoo_row(real: RealModel, name: str, group: str, **batch_axes: int) -> Row:
    def model(folders: Folders, free_batch: bool) -> Path:
        found = real.model()
        return found if isinstance(found, Path) else kept(folders.made, name, lambda p: _write(p, found))

    return Row(name, group, model, lambda path: dict(real.calls()[0]), batch_axes)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _zoo_rows() -> list[Row]:
    found = {real.name: real for real in REAL_MODELS}
    rows = [
        _zoo_row(found[name], name, "light CNN and OCR", x=0)
        for name in ("ocr detection", "ocr direction", "ocr text")
    ]
    silero = [name for name in found if name.startswith("silero") and name.endswith("16 kHz")]
    for name in silero:
        axes = {} if "sequence" in name else {"input": 0, "state": 1}
        rows.append(_zoo_row(found[name], name.removesuffix(" 16 kHz"), "small", **axes))
    return [*rows, _zoo_row(found["magika"], "magika", "small", bytes=0)]


# Transformers and quantised models ---------------------------------------------------------------------


def _exported(name: str) -> Callable[[Folders, bool], Path]:
    def model(folders: Folders, free_batch: bool) -> Path:
        path = folders.exported / f"{name}.onnx"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: python benchmarks/export_transformers.py {path.parent}"
            )
        return path

    return model


def _tokens(path: Path) -> Feeds:
    """Return 128 tokens of English-sized vocabulary, and a mask where the model takes one."""
    ids = np.random.default_rng(3).integers(0, 30_000, (1, 128))
    names = [value.name for value in onnx.load(path, load_external_data=False).graph.input]
    return {"input_ids": ids} | ({"attention_mask": np.ones_like(ids)} if "attention_mask" in names else {})


def _next_token(path: Path) -> Feeds:
    """Return one token after 128 others."""
    rng = np.random.default_rng(4)
    past = {f"past_{i}": rng.standard_normal((1, 12, 128, 64)).astype(np.float32) for i in range(24)}
    return {"input_ids": np.array([[7]]), "position_ids": np.array([[128]]), **past}


def _int8_resnet50(folders: Folders, free_batch: bool) -> Path:
    return kept(folders.made, "resnet50_qdq", builders.quantised_resnet50)


def _int8_bert(folders: Folders, free_batch: bool) -> Path:
    source = _exported("bert-base")(folders, free_batch)
    return kept(folders.made, "bert_dynamic_int8", builders.quantised_bert(source))


def _transformer_rows() -> list[Row]:
    return [
        Row("bert-base", "transformer", _exported("bert-base"), _tokens),
        Row("gpt2 prefill", "transformer", _exported("gpt2-prefill"), _tokens),
        Row("gpt2 decode", "transformer", _exported("gpt2-decode"), _next_token),
        Row(
            "vit-base", "transformer", _exported("vit-base"), lambda path: {"pixel_values": builders.image(7)}
        ),
        Row(
            "resnet50 QDQ int8",
            "int8",
            _int8_resnet50,
            lambda path: {"gpu_0/data_0": builders.image(7)},
            quantised=True,
        ),
        Row("bert-base dynamic int8", "int8", _int8_bert, _tokens, quantised=True),
    ]


# Small models ------------------------------------------------------------------------------------------


def _made(name: str, make: Callable[[Path], None]) -> Callable[[Folders, bool], Path]:
    return lambda folders, free_batch: kept(folders.made, name, make)


def _normal(*shape: int, name: str = "x") -> Callable[[Path], Feeds]:
    rng = np.random.default_rng(5)
    return lambda path: {name: rng.standard_normal(shape).astype(np.float32)}


def _table_feeds(rows: int) -> Callable[[Path], Feeds]:
    return lambda path: {"X": builders.table_rows(rows)}


def _text_row() -> Row:
    (pipeline,) = (model for model in SKLEARN_MODELS if model.name.startswith("tf-idf"))

    def model(folders: Folders, free_batch: bool) -> Path:
        return kept(folders.made, "tf_idf", lambda path: _write(path, pipeline.fitted().onnx))

    def feeds(path: Path) -> Feeds:
        texts: Array = pipeline.fitted().inputs["X"]
        return {"X": texts}

    return Row("tf-idf + logistic regression", "small", model, feeds)


def _small_rows() -> list[Row]:
    forest = _made("forest", builders.forest)
    return [
        Row("mlp", "small", _made("mlp", builders.mlp), _normal(1, 784), {"x": 0}),
        Row("random forest, 1 row", "small", forest, _table_feeds(1)),
        Row("random forest, 10000 rows", "small", forest, _table_feeds(10_000)),
        Row("scaler + linear, 1 row", "small", _made("linear", builders.scaler_and_linear), _table_feeds(1)),
        Row("gradient boosting, 1 row", "small", _made("boosting", builders.boosting), _table_feeds(1)),
        _text_row(),
    ]


def scaling_rows() -> list[Row]:
    """Return the rows of the curves."""
    block = _made("transformer_block", builders.transformer_block)
    cnn = _light_row("resnet50", "CNN", "gpu_0/data_0")

    def sized(batch: int) -> Row:
        def feeds(path: Path) -> Feeds:
            return {"gpu_0/data_0": np.concatenate([builders.image(seed) for seed in range(batch)])}

        return Row(f"resnet50 batch {batch}", "scaling", lambda f, _: cnn.model(f, True), feeds)

    return [
        *(sized(batch) for batch in SCALING_BATCH),
        *(Row(f"transformer block length {n}", "scaling", block, _normal(1, n, 768)) for n in SCALING_LENGTH),
    ]


def all_rows() -> list[Row]:
    """Return the rows of the tables, group by group."""
    rows = [*_light_rows(), *_zoo_rows(), *_transformer_rows(), *_small_rows()]
    return sorted(rows, key=lambda row: list(TARGETS).index(row.group))
