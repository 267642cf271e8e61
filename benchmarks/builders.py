"""Makes the models that no package ships: known architectures with random weights, quantised, small ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]

# What only carries a weight to the node that uses it.
_CARRIERS = {"Unsqueeze", "Reshape"}


def kept(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Return a file of a folder, made first where it is not there yet."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.{os.getpid()}.partial.onnx"
        make(partial)
        partial.replace(path)
    return path


# The onnx package's image classifiers ----------------------------------------------------------------


def light_file(name: str) -> Path:
    """Return a model of the onnx package, whose weights are all 0.02."""
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"


def light_model(name: str, *, free_batch: bool = False) -> onnx.ModelProto:
    """Return a model of the onnx package with random weights that keep the size of what goes through.

    Args:
        free_batch: make the first dimension of input and output a name, `N`.
    """
    model = onnx.load(light_file(name))
    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    users = {used: (node, i) for node in reversed(graph.node) for i, used in enumerate(node.input)}
    rng = np.random.default_rng(0)
    nodes = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        value = _weight(tuple(known[node.input[0]]), *_user(node.output[0], users), rng)
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), node.output[0]))
    _replace(graph.node, nodes)
    weights = {tensor.name for tensor in graph.initializer}
    _replace(graph.input, [value for value in graph.input if value.name not in weights])
    model.ir_version = max(model.ir_version, 4)  # from 4 on, an initializer need not be an input
    if free_batch:
        _free_batch(graph)
    return model


def _user(value: str, users: Mapping[str, tuple[onnx.NodeProto, int]]) -> tuple[onnx.NodeProto, int]:
    """Return the node that computes with a weight, and which input of it the weight is."""
    node, position = users[value]
    while node.op_type in _CARRIERS:
        node, position = users[node.output[0]]
    return node, position


def _weight(shape: tuple[int, ...], user: onnx.NodeProto, position: int, rng: np.random.Generator) -> Array:
    noise: Array = rng.standard_normal(shape)
    if user.op_type == "BatchNormalization":  # scale, shift, mean, variance
        return 1 + 0.1 * noise if position in (1, 4) else 0.1 * noise
    if user.op_type == "Mul":
        return 1 + 0.1 * noise
    return noise * (2 / float(np.prod(shape[1:]))) ** 0.5 if len(shape) > 1 else 0.05 * noise


def _free_batch(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in targets and (shape := numpy_helper.to_array(tensor))[0] == 1:
            tensor.CopyFrom(numpy_helper.from_array(np.r_[0, shape[1:]], tensor.name))  # 0 keeps the batch


def _replace(field: Any, items: list[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


# Quantised models --------------------------------------------------------------------------------------


def quantised_resnet50(path: Path) -> None:
    """Write ResNet-50 with QuantizeLinear and DequantizeLinear around everything, weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, ready = path.with_suffix(".plain"), path.with_suffix(".ready")
    converted = onnx.version_converter.convert_version(light_model("resnet50"), 13)
    onnx.save(converted, plain)
    quant_pre_process(plain, ready, skip_symbolic_shape=True)
    name = converted.graph.input[0].name

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images: Iterator[dict[str, Array]] = ({name: image(seed)} for seed in range(4))

        def get_next(self) -> dict[str, Array] | None:
            return next(self._images, None)

    quantize_static(
        ready,
        path,
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    plain.unlink()
    ready.unlink()


def quantised_bert(source: Path) -> Callable[[Path], None]:
    """Return what writes BERT with matrix products of 8 bits whose scales are found in each run."""

    def make(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(source, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)

    return make


def image(seed: int) -> Array:
    """Return noise in the form of one normalised image (1, 3, 224, 224)."""
    return np.random.default_rng(seed).standard_normal((1, 3, 224, 224)).astype(np.float32)


# Made from nothing -------------------------------------------------------------------------------------


class _Net:
    """A graph that grows node by node, with random float32 weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(2)

    def weight(self, *shape: int, scale: float | None = None, offset: float = 0.0) -> str:
        scale = (2 / max(1, int(np.prod(shape[1:])))) ** 0.5 if scale is None else scale
        return self.constant((offset + scale * self._rng.standard_normal(shape)).astype(np.float32))

    def constant(self, value: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], f"{op}_{len(self.nodes)}", **attributes))
        return output

    def save(self, path: Path, x: list[int | str], y: str) -> None:
        """Write a model with the only input `x` of a shape, and an output of unknown shape."""
        inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)]
        outputs = [helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "benchmark", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def mlp(path: Path) -> None:
    """Write three dense layers, 784 to 512 to 512 to 10."""
    net, x = _Net(), "x"
    for width, units in ((784, 512), (512, 512), (512, 10)):
        x = net.add("Gemm", x, net.weight(units, width), net.weight(units, scale=0.1), transB=1)
        x = net.add("Relu", x) if units > 10 else net.add("Softmax", x)
    net.save(path, ["N", 784], x)


def cnn_of_300_nodes(path: Path) -> None:
    """Write a hundred times Conv, BatchNormalization, Relu, on 28 by 28 pixels."""
    net, x, channels = _Net(), "x", 3
    for _ in range(100):
        x = net.add("Conv", x, net.weight(32, channels, 3, 3), pads=[1, 1, 1, 1])
        vectors = (net.weight(32, scale=0.1, offset=offset) for offset in (1.0, 0.0, 0.0))
        x = net.add("BatchNormalization", x, *vectors, net.constant(np.ones(32, np.float32)))
        x, channels = net.add("Relu", x), 32
    net.save(path, [1, 3, 28, 28], x)


def transformer_block(path: Path) -> None:
    """Write one encoder layer of BERT-base's size for (N, L, 768)."""
    net = _Net()
    hidden = _residual(net, "x", _attention(net, _normalised(net, "x")))
    wide = _dense(net, _normalised(net, hidden), 768, 3072)
    erf = net.add("Erf", net.add("Mul", wide, net.scalar(2**-0.5)))
    half = net.add("Mul", wide, net.scalar(0.5))
    gelu = net.add("Mul", half, net.add("Add", erf, net.scalar(1)))
    net.save(path, ["N", "L", 768], _residual(net, hidden, _dense(net, gelu, 3072, 768)))


def _normalised(net: _Net, x: str) -> str:
    return net.add(
        "LayerNormalization", x, net.weight(768, scale=0.1, offset=1.0), net.weight(768, scale=0.1)
    )


def _dense(net: _Net, x: str, width: int, units: int) -> str:
    matrix = net.weight(width, units, scale=width**-0.5)
    return net.add("Add", net.add("MatMul", x, matrix), net.weight(units, scale=0.1))


def _residual(net: _Net, x: str, y: str) -> str:
    return net.add("Add", x, y)


def _attention(net: _Net, x: str) -> str:
    split, merge = net.constant(np.array([0, 0, 12, 64])), net.constant(np.array([0, 0, 768]))
    heads = [net.add("Reshape", _dense(net, x, 768, 768), split) for _ in range(3)]
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    q, k, v = (net.add("Transpose", h, perm=order) for h, order in zip(heads, orders, strict=True))
    scores = net.add("Mul", net.add("MatMul", q, k), net.scalar(0.125))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    together = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), merge)
    return _dense(net, together, 768, 768)


# scikit-learn ------------------------------------------------------------------------------------------


def table_rows(rows: int) -> Array:
    """Return a table (rows, 20) of normal numbers."""
    return np.random.default_rng(rows).standard_normal((rows, 20)).astype(np.float32)


def forest(path: Path) -> None:
    """Write a random forest of 500 trees with two classes."""
    from sklearn.ensemble import RandomForestClassifier

    # Leaves of one row each would vote 0 or 1, and 500 votes tie: then rounding decides on the label.
    model = RandomForestClassifier(500, min_samples_leaf=3, random_state=0, n_jobs=-1)
    _export(path, model, _classes)


def scaler_and_linear(path: Path) -> None:
    """Write a StandardScaler and a logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _export(path, make_pipeline(StandardScaler(), LogisticRegression()), _classes)


def boosting(path: Path) -> None:
    """Write gradient boosting of 200 trees for a regression."""
    from sklearn.ensemble import GradientBoostingRegressor

    _export(
        path, GradientBoostingRegressor(n_estimators=200, random_state=0), lambda x: np.sin(x[:, 0]) * x[:, 1]
    )


def _classes(x: Array) -> Array:
    return (x[:, 0] * x[:, 1] + 0.5 * x[:, 2] > 0).astype(np.int64)


def _export(path: Path, model: Any, target: Callable[[Array], Array]) -> None:
    from skl2onnx import to_onnx

    x = table_rows(3000)
    model.fit(x, target(x))
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    onnx.save(to_onnx(model, X=x[:1], options=options, target_opset=18), path)
