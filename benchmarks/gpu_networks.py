"""Networks and single kernels for the benchmark on GPUs, built node by node with random weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Feeds = dict[str, Array]

_OPSET = 23
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass
class Builder:
    """A graph in the making.

    Attributes:
        dtype: element type of weights and of values.
    """

    dtype: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return the name of its output, or the names of its outputs."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any) -> str:
        """Return the name of a new initializer."""
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, *shape: int, fan_in: int) -> str:
        """Return the name of a random weight that keeps the size of values about the same."""
        drawn = self.rng.standard_normal(shape, np.float32) / math.sqrt(fan_in)
        return self.constant(drawn.astype(self.dtype))

    def fill(self, size: int, value: float) -> str:
        """Return the name of a vector of one value."""
        return self.constant(np.full(size, value, self.dtype))

    def conv(self, x: str, channels: int, outputs: int, kernel: int = 1, stride: int = 1) -> str:
        """Add a convolution with a bias that keeps the size where the stride is 1."""
        w = self.weight(outputs, channels, kernel, kernel, fan_in=channels * kernel * kernel)
        pads = [kernel // 2] * 4
        made: str = self.add("Conv", x, w, self.fill(outputs, 0.0), strides=[stride] * 2, pads=pads)
        return made

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        """Add a product with a weight, and a bias."""
        product = self.add("MatMul", x, self.weight(inputs, outputs, fan_in=inputs))
        made: str = self.add("Add", product, self.fill(outputs, 0.01))
        return made

    def norm(self, x: str, size: int) -> str:
        """Add a layer normalization over the last axis."""
        made: str = self.add("LayerNormalization", x, self.fill(size, 1.0), self.fill(size, 0.0), axis=-1)
        return made

    def model(
        self, inputs: Mapping[str, tuple[str, Sequence[Any]]], outputs: Sequence[str]
    ) -> onnx.ModelProto:
        """Return the model; inputs by name as (dtype, shape), "n" for a free batch."""
        kinds = {**_TYPES, "int64": TensorProto.INT64}
        given = [
            helper.make_tensor_value_info(name, kinds[dtype], shape)
            for name, (dtype, shape) in inputs.items()
        ]
        wanted = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "benchmark", given, wanted, self.weights)
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@dataclass(frozen=True)
class Network:
    """A model and its inputs.

    Attributes:
        build: from the dtype and whether it is to be tiny.
        feeds: inputs from dtype, batch and whether they are tiny.
        moves: for a kernel bound by memory, the bytes that it must move; None where sums count.
    """

    name: str
    build: Callable[[str, bool], onnx.ModelProto]
    feeds: Callable[[str, int, bool], Feeds]
    is_kernel: bool = False
    moves: Callable[[Feeds], int] | None = None


def _draw(dtype: str, *shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape, np.float32).astype(dtype)


# Networks ---------------------------------------------------------------------------------------------


def resnet50(dtype: str, tiny: bool) -> onnx.ModelProto:
    """ResNet-50 (He et al., 2015), its normalizations folded into the convolutions."""
    b = Builder(dtype)
    width, blocks = (4, (1, 1)) if tiny else (64, (3, 4, 6, 3))
    x = b.add("Relu", b.conv("x", 3, width, 7, 2))
    x = b.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            short = x if block else b.conv(x, channels, 4 * inner, 1, stride)
            y = b.add("Relu", b.conv(x, channels, inner))
            y = b.add("Relu", b.conv(y, inner, inner, 3, stride))
            x = b.add("Relu", b.add("Add", b.conv(y, inner, 4 * inner), short))
            channels = 4 * inner
    flat = b.add("Flatten", b.add("GlobalAveragePool", x))
    classes = 10 if tiny else 1000
    y = b.add("Gemm", flat, b.weight(channels, classes, fan_in=channels), b.fill(classes, 0.0))
    return b.model({"x": (dtype, ["n", 3, "h", "w"])}, [y])


def _silu(b: Builder, x: str) -> str:
    made: str = b.add("Mul", x, b.add("Sigmoid", x))
    return made


def _c2f(b: Builder, x: str, channels: int, outputs: int, count: int) -> str:
    """Two branches, of which one goes through bottlenecks whose results are all kept (YOLOv8)."""
    half = outputs // 2
    y = _silu(b, b.conv(x, channels, outputs))
    sizes = b.constant(np.array([half, half]))
    parts = list(b.add("Split", y, sizes, outputs=2, axis=1))
    for _ in range(count):
        inner = _silu(b, b.conv(_silu(b, b.conv(parts[-1], half, half, 3)), half, half, 3))
        parts.append(b.add("Add", parts[-1], inner))
    return _silu(b, b.conv(b.add("Concat", *parts, axis=1), half * len(parts), outputs))


def yolov8n(dtype: str, tiny: bool) -> onnx.ModelProto:
    """A detector of YOLOv8n's shape: its backbone, pyramid and heads at three scales."""
    b = Builder(dtype)
    w = 4 if tiny else 16
    x = _silu(b, b.conv("x", 3, w, 3, 2))
    levels = []
    for stage, count in enumerate((1, 2, 2, 1)):
        x = _silu(b, b.conv(x, w << stage, w << (stage + 1), 3, 2))
        x = _c2f(b, x, w << (stage + 1), w << (stage + 1), count)
        levels.append(x)
    pooled = [_silu(b, b.conv(x, 16 * w, 8 * w))]
    for _ in range(3):
        pooled.append(b.add("MaxPool", pooled[-1], kernel_shape=[5, 5], pads=[2] * 4))
    top = _silu(b, b.conv(b.add("Concat", *pooled, axis=1), 32 * w, 16 * w))
    scales = b.constant(np.array([1, 1, 2, 2], np.float32))

    def merge(small: str, large: str, channels: int, outputs: int) -> str:
        wide = b.add("Resize", small, "", scales, mode="nearest")
        return _c2f(b, b.add("Concat", wide, large, axis=1), channels, outputs, 1)

    middle = merge(top, levels[2], 24 * w, 8 * w)
    fine = merge(middle, levels[1], 12 * w, 4 * w)
    heads = []
    for level, channels in ((fine, 4 * w), (middle, 8 * w), (top, 16 * w)):
        y = _silu(b, b.conv(level, channels, 4 * w, 3))
        heads.append(b.add("Reshape", b.conv(y, 4 * w, 144), b.constant(np.array([0, 144, -1]))))
    return b.model({"x": (dtype, ["n", 3, "h", "w"])}, [b.add("Concat", *heads, axis=2)])


def _heads(b: Builder, x: str, heads: int, size: int) -> str:
    """(N, length, heads * size) as (N, heads, length, size)."""
    shaped = b.add("Reshape", x, b.constant(np.array([0, 0, heads, size])))
    made: str = b.add("Transpose", shaped, perm=[0, 2, 1, 3])
    return made


def transformer_layers(
    b: Builder, x: str, heads: int, layers: int, before: bool, past: bool
) -> tuple[str, list[str]]:
    """Transformer layers of `heads` heads of 64; normalized before (GPT-2) or after (BERT) each half."""
    width, present = 64 * heads, []
    for layer in range(layers):
        source = b.norm(x, width) if before else x
        q, k, v = (_heads(b, b.dense(source, width, width), heads, 64) for _ in range(3))
        if past:
            k = b.add("Concat", f"past_{2 * layer}", k, axis=2)
            v = b.add("Concat", f"past_{2 * layer + 1}", v, axis=2)
            present += [k, v]
        mixed = b.add("Transpose", b.add("Attention", q, k, v), perm=[0, 2, 1, 3])
        mixed = b.dense(b.add("Reshape", mixed, b.constant(np.array([0, 0, width]))), width, width)
        x = b.add("Add", x, mixed)
        x = x if before else b.norm(x, width)
        inner = b.dense(b.norm(x, width) if before else x, width, 4 * width)
        inner = b.dense(b.add("Gelu", inner, approximate="tanh" if before else "none"), 4 * width, width)
        x = b.add("Add", x, inner)
        x = x if before else b.norm(x, width)
    return x, present


def bert(dtype: str, tiny: bool) -> onnx.ModelProto:
    """BERT-base without its pooler."""
    b = Builder(dtype)
    heads, layers, words = (2, 1, 50) if tiny else (12, 12, 30522)
    x = b.add("Gather", b.weight(words, 64 * heads, fan_in=1), "ids")
    x = b.norm(b.add("Add", x, b.weight(8 if tiny else 128, 64 * heads, fan_in=1)), 64 * heads)
    x, _ = transformer_layers(b, x, heads, layers, before=False, past=False)
    return b.model({"ids": ("int64", ["n", 8 if tiny else 128])}, [x])


def gpt2_decode(dtype: str, tiny: bool) -> onnx.ModelProto:
    """GPT-2-small for one more token; keys and values of the past come in, longer ones go out."""
    b = Builder(dtype)
    heads, layers, words = (2, 1, 50) if tiny else (12, 12, 50257)
    x = b.add("Gather", b.weight(words, 64 * heads, fan_in=1), "ids")
    x, present = transformer_layers(b, x, heads, layers, before=True, past=True)
    x = b.norm(x, 64 * heads)
    y = b.add("MatMul", x, b.weight(64 * heads, words, fan_in=64 * heads))
    past = {f"past_{i}": (dtype, ["n", heads, "past", 64]) for i in range(2 * layers)}
    return b.model({"ids": ("int64", ["n", 1]), **past}, [y, *present])


def _image(dtype: str, batch: int, tiny: bool) -> Feeds:
    return {"x": _draw(dtype, batch, 3, *(32, 32) if tiny else (224, 224))}


def _large_image(dtype: str, batch: int, tiny: bool) -> Feeds:
    return {"x": _draw(dtype, batch, 3, *(64, 64) if tiny else (640, 640))}


def _tokens(dtype: str, batch: int, tiny: bool) -> Feeds:
    return {"ids": np.random.default_rng(2).integers(0, 50, (batch, 8 if tiny else 128))}


def _next_token(dtype: str, batch: int, tiny: bool) -> Feeds:
    heads, layers, past = (2, 1, 4) if tiny else (12, 12, 512)
    cache = {f"past_{i}": _draw(dtype, batch, heads, past, 64) for i in range(2 * layers)}
    return {"ids": np.full((batch, 1), 7), **cache}


# Single kernels ---------------------------------------------------------------------------------------


def _twice(feeds: Feeds) -> int:
    """Bytes of an operation that reads its input and writes as much."""
    return 2 * sum(x.nbytes for x in feeds.values())


def _single(make: Callable[[Builder, bool], str], *shape: Any) -> Callable[[str, bool], onnx.ModelProto]:
    def build(dtype: str, tiny: bool) -> onnx.ModelProto:
        b = Builder(dtype)
        y = make(b, tiny)
        return b.model({"x": (dtype, shape)}, [y])

    return build


def _matrix(rows: int, columns: int) -> Callable[[str, int, bool], Feeds]:
    return lambda dtype, batch, tiny: {"x": _draw(dtype, *(8, 64) if tiny else (rows, columns))}


def _gemm(b: Builder, tiny: bool) -> str:
    n = 64 if tiny else 4096
    made: str = b.add("MatMul", "x", b.weight(n, n, fan_in=n))
    return made


def _norm(b: Builder, tiny: bool) -> str:
    return b.norm("x", 64 if tiny else 4096)


def _chain(b: Builder, tiny: bool) -> str:
    made: str = b.add("Tanh", b.add("Add", b.add("Mul", "x", b.add("Sigmoid", "x")), "x"))
    return made


def _conv(b: Builder, tiny: bool) -> str:
    c = 8 if tiny else 256
    return b.conv("x", c, c, 3)


def _planes(dtype: str, batch: int, tiny: bool) -> Feeds:
    return {"x": _draw(dtype, *(1, 8, 6, 6) if tiny else (32, 256, 56, 56))}


def _attend(b: Builder, tiny: bool) -> str:
    made: str = b.add("Attention", "x", "x", "x")
    return made


def _sequence(dtype: str, batch: int, tiny: bool) -> Feeds:
    return {"x": _draw(dtype, *(1, 2, 8, 64) if tiny else (8, 16, 2048, 64))}


NETWORKS = (
    Network("ResNet-50", resnet50, _image),
    Network("BERT-base 128", bert, _tokens),
    Network("YOLOv8n-shaped 640", yolov8n, _large_image),
    Network("GPT-2 decode, 512 before", gpt2_decode, _next_token),
    Network("GEMM 4096^3", _single(_gemm, "n", "k"), _matrix(4096, 4096), True),
    Network("Conv 3x3 32x256x56x56", _single(_conv, "n", "c", "h", "w"), _planes, True),
    Network("Attention 8x16x2048x64", _single(_attend, "n", "h", "l", "s"), _sequence, True),
    Network(
        "Softmax 16384x4096",
        _single(lambda b, tiny: str(b.add("Softmax", "x")), "n", "k"),
        _matrix(16384, 4096),
        True,
        _twice,
    ),
    Network("LayerNorm 16384x4096", _single(_norm, "n", "k"), _matrix(16384, 4096), True, _twice),
    Network("x * sigmoid(x) + x, tanh", _single(_chain, "n", "k"), _matrix(16384, 4096), True, _twice),
)
