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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
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
        x = self.pool(F.relu6(self.norm(self.pointwise(x))))
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
        self.block = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, activation="gelu", batch_first=True)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.block(x, src_key_padding_mask=padding)


class CausalBlock(nn.Module):
    """A GPT block: causal self-attention before a feed-forward part, with tied embeddings."""

    def __init__(self, width: int = 32, heads: int = 4, vocabulary: int = 96, context: int = 32) -> None:
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
    """How one model is exported: `sizes` are the open dimensions, first for the export, then recorded."""

    name: str
    module: Callable[[], nn.Module]
    inputs: Callable[..., tuple[Tensor, ...]]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    opset: int
    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    axes: dict[str, dict[int, str]] = field(default_factory=dict)
    dynamo: bool = False


def _padding(n: int, length: int) -> Tensor:
    """Return a mask that is true at the last few steps, more of them in later rows."""
    return torch.arange(length) >= length - torch.arange(n).remainder(length)[:, None]


def _images(n: int) -> tuple[Tensor, ...]:
    return (torch.rand(n, 3, 32, 32),)


def _sequences(n: int, length: int) -> tuple[Tensor, ...]:
    return torch.randn(n, length, 12), torch.randn(4, n, 16), torch.randn(4, n, 16)


def _sentences(n: int, length: int) -> tuple[Tensor, ...]:
    return (torch.randint(50, (n, length)),)


def _masked(n: int, length: int) -> tuple[Tensor, ...]:
    return torch.randn(n, length, 32), _padding(n, length)


_BATCH = {0: "batch"}
_STEPS = {0: "batch", 1: "length"}
_STATES = {1: "batch"}
_TAGGER_AXES = {"steps": _STEPS, "h0": _STATES, "c0": _STATES, "tags": _STEPS, "hn": _STATES, "cn": _STATES}

EXPORTS = (
    Export("cnn_opset9", SmallCnn, _images, ("image",), ("logits",), 9, ((2,), (3,)), {"image": _BATCH}),
    Export(
        "cnn_dynamo_opset20", SmallCnn, _images, ("image",), ("logits",), 20, ((2,), (3,)), {"image": _BATCH}, True
    ),
    Export(
        "lstm_opset13",
        Tagger,
        _sequences,
        ("steps", "h0", "c0"),
        ("tags", "hn", "cn"),
        13,
        ((2, 5), (3, 9)),
        _TAGGER_AXES,
    ),
    Export("gru_opset11", Counter, _sentences, ("tokens",), ("score", "states"), 11, ((2, 5), (4, 8)), {"tokens": _STEPS}),
    Export("encoder_opset17", Encoder, _masked, ("x", "padding"), ("y",), 17, ((2, 6), (3, 9)), {"x": _STEPS, "padding": _STEPS}),
    Export(
        "encoder_dynamo_opset18",
        Encoder,
        _masked,
        ("x", "padding"),
        ("y",),
        18,
        ((2, 6), (3, 9)),
        {"x": _STEPS, "padding": _STEPS},
        True,
    ),
    Export("gpt_opset14", CausalBlock, lambda n, t: (torch.randint(96, (n, t)),), ("ids",), ("logits",), 14, ((2, 7), (3, 11)), {"ids": _STEPS}),
    Export(
        "gpt_dynamo_opset23",
        CausalBlock,
        lambda n, t: (torch.randint(96, (n, t)),),
        ("ids",),
        ("logits",),
        23,
        ((2, 7), (3, 11)),
        {"ids": _STEPS},
        True,
    ),
)


def _open_dimensions(export: Export) -> dict[str, Any]:
    if not export.dynamo:
        return {"dynamic_axes": export.axes}
    named = {name: torch.export.Dim(name) for name in ("batch", "length")}
    shapes = tuple({axis: named[name] for axis, name in export.axes[i].items()} for i in export.input_names)
    return {"dynamic_shapes": shapes, "external_data": False}


def make(export: Export) -> None:
    """Write one model and its recorded run."""
    torch.manual_seed(2024)
    module = export.module().eval()
    for norm in module.modules():  # fresh statistics of 0 and 1 would make the normalization the identity
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 1.5)
    first, second = (export.inputs(*sizes) for sizes in export.sizes)
    torch.onnx.export(
        module,
        first,
        HERE / f"{export.name}.onnx",
        input_names=export.input_names,
        output_names=export.output_names,
        opset_version=export.opset,
        dynamo=export.dynamo,
        **_open_dimensions(export),
    )
    with torch.no_grad():
        result = module(*second)
    outputs = (result,) if isinstance(result, Tensor) else result
    arrays = {f"in:{name}": value.numpy() for name, value in zip(export.input_names, second, strict=True)}
    arrays |= {f"out:{name}": value.numpy() for name, value in zip(export.output_names, outputs, strict=True)}
    np.savez_compressed(HERE / f"{export.name}.npz", **arrays)


if __name__ == "__main__":
    for export in EXPORTS:
        make(export)
