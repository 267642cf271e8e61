"""Every form in which a model may be given, and every way in which it may be broken."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxref
from onnxref import Limits, ModelLoadError, ResourceLimitError, dtypes
from onnxref.limits import Budget
from onnxref.model import _serde, load_model

TEXT = """<ir_version: 10, opset_import: ["": 21]>
twice (float[N] x) => (float[N] y) { y = Add(x, x) }
"""
X = np.float32([1, 2, 3])


def _proto() -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT)


def _check(model: object) -> None:
    (y,) = onnxref.run(model, X).values()
    np.testing.assert_array_equal(y, 2 * X, strict=True)


def test_model_proto_and_bytes_and_file_object() -> None:
    proto = _proto()
    _check(proto)
    _check(proto.SerializeToString())
    _check(bytearray(proto.SerializeToString()))
    _check(io.BytesIO(proto.SerializeToString()))


@pytest.mark.parametrize(
    ("suffix", "format"), [(".onnx", None), (".json", "json"), (".textproto", "textproto")]
)
def test_path(tmp_path: Path, suffix: str, format: str | None) -> None:
    path = tmp_path / f"model{suffix}"
    onnx.save(_proto(), path, format=format)
    _check(path)
    _check(str(path))
    with path.open("rb") as file:
        if suffix == ".onnx":
            _check(file)


def test_onnx_text(tmp_path: Path) -> None:
    path = tmp_path / "model.onnxtxt"
    path.write_text(TEXT)
    _check(path)


def test_graph_node_and_function_protos() -> None:
    _check(_proto().graph)
    _check(helper.make_node("Add", ["x", "x"], ["y"]))
    function = helper.make_function(
        "mine",
        "Twice",
        ["x"],
        ["y"],
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 21)],
    )
    _check(function)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "holds no graph"),
        (b"not a model at all", "not an ONNX model"),
        (b"\x18\x00\x00\x00ORTM", "ONNX Runtime's own .ort format"),
        (42, "must be a path, bytes"),
        (io.StringIO("text"), "binary mode"),
        ("no/such/file.onnx", "cannot read the model 'no/such/file.onnx': No such file"),
    ],
)
def test_not_a_model(source: object, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_model(source)


def test_truncation_at_every_byte_is_an_error_of_ours() -> None:
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32), "w")
    proto = _proto()
    proto.graph.initializer.append(weight)
    data = proto.SerializeToString()
    for length in range(len(data)):
        try:
            load_model(data[:length])
        except onnxref.OnnxRefError:
            continue
        # What is left may happen to be a whole message; then it must not be the model itself.
        assert onnx.ModelProto.FromString(data[:length]) != proto


def test_broken_text(tmp_path: Path) -> None:
    path = tmp_path / "model.onnxtxt"
    path.write_text(TEXT.replace("=>", ""))
    with pytest.raises(ModelLoadError, match="not valid ONNX text"):
        load_model(path)


def _with_tensor(tensor: TensorProto) -> onnx.ModelProto:
    proto = _proto()
    proto.graph.initializer.append(tensor)
    return proto


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorProto(name="w", data_type=1, dims=[3], raw_data=b"1234"), "needs 12 bytes of data .got 4."),
        (TensorProto(name="w", data_type=1, dims=[3], float_data=[1.0]), "tensor 'w' of shape .3,."),
        (TensorProto(name="w", data_type=1, dims=[-1], float_data=[]), "must not be negative"),
        (TensorProto(name="w", data_type=99, dims=[1]), "99 is not an ONNX element type"),
        (TensorProto(name="w", data_type=8, dims=[2], string_data=[b"a"]), "does not fit 1 strings"),
        (TensorProto(name="w", data_type=8, dims=[1], raw_data=b"a"), "strings cannot be stored as raw"),
        (TensorProto(name="w", data_type=1, dims=[2**40, 2**40], raw_data=b""), "bytes of data"),
    ],
)
def test_broken_tensors(tensor: TensorProto, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_model(_with_tensor(tensor))


@pytest.mark.parametrize("element", list(range(1, 29)))
def test_every_element_type_survives(element: int) -> None:
    dtype = dtypes.to_numpy(element)
    if element == TensorProto.STRING:
        values = np.array(["a", "ü", ""], dtype=object)
    else:
        values = np.array([1, 1, 0, 1, 1], dtype=np.int8).astype(dtype)
        if element == TensorProto.FLOAT8E8M0:
            values = values[:2]  # it has no zero
    model = _with_tensor(numpy_helper.from_array(values, "w"))
    model.graph.output.add(name="w")
    w = onnxref.run(model, X, "w")["w"]
    np.testing.assert_array_equal(w, values, strict=True)


def test_typed_fields_are_read_like_raw_data() -> None:
    for element, values in [
        (TensorProto.FLOAT16, [1.5, -2.0]),
        (TensorProto.BFLOAT16, [1.5, -2.0]),
        (TensorProto.INT8, [-1, 5]),
        (TensorProto.UINT64, [2**63, 1]),
        (TensorProto.COMPLEX64, [1 + 2j, 3j]),
        (TensorProto.BOOL, [True, False]),
        (TensorProto.INT4, [-8, 7]),
        (TensorProto.FLOAT8E4M3FN, [1.5, -2.0]),
    ]:
        tensor = helper.make_tensor("w", element, [2], values)
        w = onnxref.run(_with_tensor(tensor), X, ["w"])["w"]
        assert w.tolist() == values


def test_bytes_that_are_not_utf8_are_kept() -> None:
    tensor = TensorProto(name="w", data_type=8, dims=[1], string_data=[b"\xff\xfe"])
    (text,) = onnxref.run(_with_tensor(tensor), X, ["w"])["w"]
    assert text.encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_sparse_initializer() -> None:
    values = numpy_helper.from_array(np.float32([5, 7]), "w")
    linear = helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64([1, 5])), [2, 3])
    proto = _proto()
    proto.graph.sparse_initializer.append(linear)
    np.testing.assert_array_equal(onnxref.run(proto, X, ["w"])["w"], np.float32([[0, 5, 0], [0, 0, 7]]))

    pairs = numpy_helper.from_array(np.int64([[0, 2], [1, 0]]))
    proto.graph.sparse_initializer[0].CopyFrom(helper.make_sparse_tensor(values, pairs, [2, 3]))
    np.testing.assert_array_equal(onnxref.run(proto, X, ["w"])["w"], np.float32([[0, 0, 5], [7, 0, 0]]))


@pytest.mark.parametrize(
    ("indices", "shape", "message"),
    [
        ([0, 6], [2, 3], "lies outside"),
        ([-1, 0], [2, 3], "lies outside"),
        ([[0, 3], [0, 0]], [2, 3], "lies outside"),
        ([0], [2, 3], "indices must have shape"),
        ([0, 1], [2, -3], "must be positive"),
    ],
)
def test_broken_sparse_initializer(indices: list[int], shape: list[int], message: str) -> None:
    values = numpy_helper.from_array(np.float32([5, 7]), "w")
    proto = _proto()
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64(indices)), shape)
    )
    with pytest.raises(ModelLoadError, match=message):
        load_model(proto)


def test_sparse_initializer_is_charged_before_it_is_made() -> None:
    values = numpy_helper.from_array(np.float32([5]), "w")
    proto = _proto()
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64([0])), [2**50])
    )
    with pytest.raises(ResourceLimitError, match="'tensor_bytes'.*sparse initializer 'w'"):
        load_model(proto)


def test_too_many_nodes() -> None:
    with pytest.raises(ResourceLimitError, match="limit 'nodes' is 0"):
        load_model(_proto(), Limits(nodes=0))


def test_ir_version_below_3_means_opset_1() -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"], axis=0)  # the attribute exists up to version 6
    graph = helper.make_graph(
        [node],
        "old",
        [helper.make_tensor_value_info("x", 1, [3])],
        [helper.make_tensor_value_info("y", 1, [3])],
    )
    proto = onnx.ModelProto(ir_version=2, graph=graph)
    _check(proto)


def test_attributes_without_a_type_are_guessed() -> None:
    node = onnx.NodeProto(op_type="Concat", input=["x", "x"], output=["y"])
    node.attribute.add(name="axis", i=0)
    assert onnxref.run(node, {"x": X})["y"].shape == (6,)


def test_long_lists_keep_every_value_and_share_objects() -> None:
    """Equal numbers and strings of long attributes are one object; their values are as they were."""
    node = onnx.NodeProto(op_type="Mine", domain="mine", output=["y"])
    repeated = [300, -7, 2**40, 300] * 5000
    different = list(range(20_000))
    texts = ["a", "", "caf\u00e9", "\udcff"] * 5000
    node.attribute.add(name="repeated", ints=repeated, type=onnx.AttributeProto.INTS)
    node.attribute.add(name="different", ints=different, type=onnx.AttributeProto.INTS)
    node.attribute.add(name="few", ints=[1000] * 3, type=onnx.AttributeProto.INTS)
    raw = [text.encode("utf-8", "surrogateescape") for text in texts]
    node.attribute.add(name="texts", strings=raw, type=onnx.AttributeProto.STRINGS)
    attributes = _serde._read_node(node, _serde._Reader(None, Budget(), {}, None), 0, 0).attributes
    assert attributes["repeated"] == tuple(repeated)
    assert attributes["different"] == tuple(different)
    assert attributes["few"] == (1000,) * 3
    assert attributes["texts"] == tuple(texts)
    assert len(set(map(id, attributes["repeated"]))) == 3
    assert len(set(map(id, attributes["texts"]))) == 4
