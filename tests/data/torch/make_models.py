"""Exports small PyTorch models to ONNX, with inputs and PyTorch's own outputs beside them.

    pip install torch==2.13.0 onnx==1.23.2 onnxscript numpy
    python tests/data/torch/make_models.py

Only this script needs PyTorch: the tests read the committed `*.onnx` and `*.npz` files. An archive
holds `in:NAME` and `out:NAME` for every input and output of its model, with a batch size and a length
other than those of the export wherever the model leaves them open. Weights are random, at a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name that every PyTorch program uses

HERE = Path(__file__).parent


class SmallCnn(nn.Module):
    """A MobileNet in miniature: plain, depthwise and pointwise convolutions, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.pointwise = nn.Conv2d(8, 16, 1)
        self.norm = nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.classifier = nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.depthwise(self.stem(image))
        x = self.pool(self.norm(F.relu6(self.pointwise(x))))
        x = x + F.silu(self.dilated(x))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Tagger(nn.Module):
    """Two bidirectional LSTM layers and a label for every step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.labels = nn.Linear(32, 5)

    def forward(self, steps: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (hn, cn) = self.lstm(steps, (h0, c0))
        return F.log_softmax(self.labels(y), dim=-1), hn, cn


class Counter(nn.Module):
    """A GRU over embedded tokens; the last state decides."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.gru = nn.GRU(12, 20, batch_first=True)
        self.score = nn.Linear(20, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        y, hn = self.gru(self.embedding(tokens))
        return torch.sigmoid(self.score(hn[-1])), y


class Encoder(nn.Module):
    """One encoder block of the original Transformer, with a mask of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(
            24, 4, dim_feedforward=64, activation="gelu", batch_first=True
        )

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.block(x, src_key_padding_mask=padding)


class CausalBlock(nn.Module):
    """A GPT block: causal self-attention before a feed-forward part, with tied embeddings."""

    def __init__(self, width: int = 24, heads: int = 4, vocabulary: int = 64, context: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        split = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.project((weights @ v).transpose(1, 2).reshape(n, length, width))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        x = x + self.attend(self.norm1(x))
        x = x + self.narrow(F.gelu(self.widen(self.norm2(x)), approximate="tanh"))
        return self.norm3(x) @ self.tokens.weight.T


@dataclass(frozen=True)
class Export:
    """How one model is exported.

    Attributes:
        values: inputs, then outputs, each with the names of its open dimensions by axis.
        n_outputs: how many of the values are outputs.
        sizes: arguments of `inputs` for the export, then for the recorded run.
        dynamo: whether the exporter based on `torch.export` writes the model, not the one that traces.
    """

    name: str
    module: Callable[[], nn.Module]
    inputs: Callable[..., tuple[Tensor, ...]]
    values: dict[str, dict[int, str]]
    n_outputs: int
    opset: int
    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    dynamo: bool = False

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self.values)[: -self.n_outputs]

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self.values)[-self.n_outputs :]


def _padding(n: int, length: int) -> Tensor:
    """Return a mask that is true at the last few steps, more of them in later rows."""
    return torch.arange(length) >= length - torch.arange(n).remainder(length)[:, None]


def _images(n: int) -> tuple[Tensor, ...]:
    return (torch.rand(n, 3, 24, 20),)


def _sequences(n: int, length: int) -> tuple[Tensor, ...]:
    return torch.randn(n, length, 12), torch.randn(4, n, 16), torch.randn(4, n, 16)


def _sentences(n: int, length: int) -> tuple[Tensor, ...]:
    return (torch.randint(50, (n, length)),)


def _masked(n: int, length: int) -> tuple[Tensor, ...]:
    return torch.randn(n, length, 24), _padding(n, length)


def _ids(n: int, length: int) -> tuple[Tensor, ...]:
    return (torch.randint(64, (n, length)),)


_BATCH = {0: "batch"}
_STEPS = {0: "batch", 1: "length"}
_STATES = {1: "batch"}
_TAGGER = {"steps": _STEPS, "h0": _STATES, "c0": _STATES, "tags": _STEPS, "hn": _STATES, "cn": _STATES}
_COUNTER = {"tokens": _STEPS, "score": _BATCH, "states": _STEPS}
_ENCODER = {"x": _STEPS, "padding": _STEPS, "y": _STEPS}
_TRACED_ENCODER = {"x": _BATCH, "padding": _BATCH, "y": _BATCH}  # tracing fixes the length inside
_CAUSAL = {"ids": _STEPS, "logits": _STEPS}
_CNN = {"image": _BATCH, "logits": _BATCH}

EXPORTS = (
    Export("cnn_opset9", SmallCnn, _images, _CNN, 1, 9, ((2,), (3,))),
    Export("cnn_dynamo_opset20", SmallCnn, _images, _CNN, 1, 20, ((2,), (3,)), dynamo=True),
    Export("lstm_opset13", Tagger, _sequences, _TAGGER, 3, 13, ((2, 5), (3, 9))),
    Export("gru_opset11", Counter, _sentences, _COUNTER, 2, 11, ((2, 5), (4, 8))),
    Export("encoder_opset17", Encoder, _masked, _TRACED_ENCODER, 1, 17, ((2, 8), (3, 8))),
    Export("encoder_dynamo_opset18", Encoder, _masked, _ENCODER, 1, 18, ((2, 6), (3, 9)), dynamo=True),
    Export("gpt_opset14", CausalBlock, _ids, _CAUSAL, 1, 14, ((2, 7), (3, 11))),
    Export("gpt_dynamo_opset23", CausalBlock, _ids, _CAUSAL, 1, 23, ((2, 7), (3, 11)), dynamo=True),
)


def _open_dimensions(export: Export) -> dict[str, Any]:
    if not export.dynamo:
        return {"dynamic_axes": export.values}
    named = {name: torch.export.Dim(name) for name in ("batch", "length")}
    shapes = tuple({axis: named[d] for axis, d in export.values[i].items()} for i in export.input_names)
    return {"dynamic_shapes": shapes, "external_data": False}


def _shrink(path: Path) -> None:
    """Drop what the exporters note about the program's source: most of a small model's size."""
    model = onnx.load(path)
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
    ):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    onnx.save(model, path)


def _module(export: Export) -> nn.Module:
    torch.manual_seed(2024)
    module = export.module().eval()
    for norm in module.modules():  # fresh statistics of 0 and 1 would make the normalization the identity
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 1.5)
    return module


def make(export: Export) -> None:
    """Write one model and its recorded run."""
    module, path = _module(export), HERE / f"{export.name}.onnx"
    first, second = (export.inputs(*sizes) for sizes in export.sizes)
    torch.onnx.export(
        module,
        first,
        path,
        input_names=export.input_names,
        output_names=export.output_names,
        opset_version=export.opset,
        dynamo=export.dynamo,
        **_open_dimensions(export),
    )
    _shrink(path)
    with torch.no_grad():
        result = module(*second)
    outputs = (result,) if isinstance(result, Tensor) else result
    arrays = {f"in:{name}": value.numpy() for name, value in zip(export.input_names, second, strict=True)}
    arrays |= {f"out:{name}": value.numpy() for name, value in zip(export.output_names, outputs, strict=True)}
    np.savez_compressed(path.with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    for export in EXPORTS:
        make(export)
