"""Runs the benchmark's ONNX graphs in PyTorch, operator by operator, so that both sides run one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

Attributes = Mapping[str, Any]
TENSOR_INT64 = onnx.TensorProto.INT64


def _conv(a: Attributes, x: Any, w: Any, bias: Any = None) -> Any:
    pads = a.get("pads", (0, 0, 0, 0))
    return functional.conv2d(x, w, bias, tuple(a.get("strides", (1, 1))), tuple(pads[:2]))


def _pool(a: Attributes, x: Any) -> Any:
    strides = tuple(a.get("strides", (1, 1)))
    return functional.max_pool2d(x, tuple(a["kernel_shape"]), strides, tuple(a.get("pads", (0, 0))[:2]))


def _resize(a: Attributes, x: Any, roi: Any, scales: Any) -> Any:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _norm(a: Attributes, x: Any, scale: Any, bias: Any) -> Any:
    return functional.layer_norm(x, (x.shape[-1],), scale, bias, a.get("epsilon", 1e-5))


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Add": lambda a, x, y: x + y,
    "Mul": lambda a, x, y: x * y,
    "MatMul": lambda a, x, y: x @ y,
    "Gemm": lambda a, x, y, z: torch.addmm(z, x, y),
    "Relu": lambda a, x: functional.relu(x),
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Tanh": lambda a, x: torch.tanh(x),
    "Gelu": lambda a, x: functional.gelu(x, approximate=a.get("approximate", b"none").decode()),
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Conv": _conv,
    "MaxPool": _pool,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "Flatten": lambda a, x: torch.flatten(x, 1),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Transpose": lambda a, x: x.permute(tuple(a["perm"])),
    "Gather": lambda a, x, i: functional.embedding(i, x),
    "LayerNormalization": _norm,
    "Attention": lambda a, q, k, v: functional.scaled_dot_product_attention(q, k, v),
    "Resize": _resize,
}
"""What computes each operator, in the forms that benchmarks/gpu_networks.py uses."""

_SHAPES = ("Reshape", "Split")  # their second input is known


class TorchGraph(torch.nn.Module):
    """A model of benchmarks/gpu_networks.py as a module; it returns a tuple of all outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        self._known = {
            w.name: numpy_helper.to_array(w).tolist()
            for w in graph.initializer
            if w.data_type == TENSOR_INT64
        }
        for weight in graph.initializer:
            if weight.data_type != TENSOR_INT64:
                value = torch.from_numpy(numpy_helper.to_array(weight).copy())
                self.register_buffer(weight.name, value)
        self._steps = [
            (
                node.op_type,
                tuple(node.input),
                tuple(node.output),
                {a.name: helper.get_attribute_value(a) for a in node.attribute},
            )
            for node in graph.node
        ]
        self._inputs = [value.name for value in graph.input]
        self._outputs = [value.name for value in graph.output]

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        values: dict[str, Any] = {**dict(self.named_buffers()), "": None}
        values.update(zip(self._inputs, inputs, strict=True))
        for op_type, reads, writes, attributes in self._steps:
            if op_type in _SHAPES:
                self._shaped(op_type, reads, writes, attributes, values)
                continue
            values[writes[0]] = OPERATORS[op_type](attributes, *(values[name] for name in reads))
        return tuple(values[name] for name in self._outputs)

    def _shaped(
        self,
        op_type: str,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        attributes: Attributes,
        values: dict[str, Any],
    ) -> None:
        x, wanted = values[reads[0]], self._known[reads[1]]
        if op_type == "Split":
            values.update(zip(writes, torch.split(x, wanted, attributes["axis"]), strict=True))
            return
        shape = [x.shape[i] if extent == 0 else extent for i, extent in enumerate(wanted)]
        values[writes[0]] = x.reshape(shape)
