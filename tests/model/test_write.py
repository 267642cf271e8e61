"""Models written to protobuf and files come back as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import onnx.parser
import pytest
from model_zoo import REAL_MODELS, RealModel
from onnx import helper
from onnxref.conformance.suites import official

import onnxref
from onnxref.errors import InputError, InvalidAttributeError, InvalidGraphError, OutputError
from onnxref.graph import (
    Function,
    Graph,
    MapType,
    Model,
    Node,
    OptionalType,
    SequenceType,
    SparseTensor,
    SparseTensorType,
    TensorType,
    Value,
)
from onnxref.model import load_model, read_value_file
from onnxref.model._write import encode_value, save_model, to_proto, write_case

_SMALL = [model for model in REAL_MODELS if not any(n in model.name for n in ("alexnet", "vgg19", "zfnet"))]


def difference(one: Any, other: Any, where: str = "model") -> str | None:
    """Return where two loaded models differ first; None where they are equal."""
    if type(one) is not type(other) and not (isinstance(one, np.ndarray) and isinstance(other, np.memmap)):
        return f"{where}: {one!r} and {other!r}"
    if is_dataclass(one):
        pairs = {f.name: (getattr(one, f.name), getattr(other, f.name)) for f in fields(one)}
    elif isinstance(one, Mapping):
        if list(one) != list(other):
            return f"{where}: {list(one)} and {list(other)}"
        pairs = {str(key): (one[key], other[key]) for key in one}
    elif isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape
        equal = one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()
        return None if same and equal else where
    elif isinstance(one, (tuple, list)):
        if len(one) != len(other):
            return f"{where}: {len(one)} and {len(other)} items"
        pairs = {str(i): pair for i, pair in enumerate(zip(one, other, strict=True))}
    else:
        return None if one == other or (one != one and other != other) else f"{where}: {one!r} and {other!r}"
    return next((d for k, (a, b) in pairs.items() if (d := difference(a, b, f"{where}.{k}"))), None)


def _assert_comes_back(model: Model) -> None:
    again = load_model(to_proto(model))
    if model.ir_version < 3:
        again = replace(again, ir_version=model.ir_version)
    assert difference(model, again) is None


def test_every_official_model_comes_back_equal() -> None:
    compared = 0
    for case in official.load():
        model = case.contents()[0]
        try:
            loaded = load_model(model)
        except onnxref.OnnxRefError:
            continue
        again = load_model(to_proto(loaded))
        found = difference(replace(loaded, ir_version=again.ir_version), again)
        assert found is None, f"{case.name}: {found}"
        compared += 1
    assert compared > 1900


@pytest.mark.parametrize("model", _SMALL, ids=lambda model: model.name)
def test_real_models_come_back_equal(model: RealModel) -> None:
    _assert_comes_back(load_model(model.model()))


@pytest.mark.parametrize("name", ["silero_vad 16 kHz", "torch gpt_dynamo_opset23", "light_squeezenet"])
def test_a_written_model_runs_as_before(name: str, tmp_path: Path) -> None:
    model = next(model for model in REAL_MODELS if model.name == name)
    save_model(load_model(model.model()), tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx")
    feeds = model.calls()[0]
    before = onnxref.run(model.model(), feeds, backend="numpy")
    after = onnxref.run(tmp_path / "model.onnx", feeds, backend="numpy")
    assert difference(before, after) is None


# Everything that a model can hold -----------------------------------------------------------------

_ALL_ATTRIBUTES = {
    "int": 3,
    "float": 0.25,
    "text": "caf\u00e9 \udcff",  # the last byte is no UTF-8
    "tensor": np.arange(6, dtype=np.float16).reshape(2, 3),
    "graph": Graph("inner", (), (Value("c"),), (), {"c": np.array(1, np.float32)}),
    "sparse": SparseTensor(np.float32([1, 2]), np.int64([0, 3]), (2, 3)),
    "type": OptionalType(SequenceType(TensorType(1, ("N", 3, None)))),
    "no_type": None,
    "ints": (1, -2),
    "floats": (0.5, float("inf")),
    "texts": ("a", ""),
    "tensors": (np.int8([1]), np.array(["x", "y"], object)),
    "graphs": (Graph("g", (Value("i", TensorType(1)),), (Value("i"),), ()),),
    "sparses": (SparseTensor(np.float64([1]), np.int64([[0, 1]]), (2, 3)),),
    "types": (MapType(7, TensorType(8)), SparseTensorType(1, (2,)), TensorType(1, ())),
}


def _model(node: Node, **changes: Any) -> Model:
    graph = Graph("g", (Value("x"),), (Value("y"),), (node,), doc="a graph")
    imports = {node.domain: node.opset} if node.opset else {}
    return Model(graph, {}, imports, ir_version=11, **changes)


def test_attributes_of_every_kind_come_back() -> None:
    node = Node("Any", ("x",), ("y",), _ALL_ATTRIBUTES, "my", "n", "", 2, 0, {"pkg.torch": "here"})
    _assert_comes_back(_model(node, producer_name="p", version=7, doc="d", metadata={"k": "v"}))


def test_tensors_of_every_type_come_back() -> None:
    arrays: dict[str, Any] = {}
    for element in onnxref.dtypes.ElementType:
        if element not in (onnxref.dtypes.ElementType.UNDEFINED, onnxref.dtypes.ElementType.STRING):
            arrays[element.name] = np.array([[1, 0, 1]]).astype(onnxref.dtypes.to_numpy(element))
    arrays["big endian"] = np.arange(3).astype(">i4")
    arrays["strided"] = np.arange(6).reshape(2, 3).T
    graph = Graph("g", (), (), (), arrays)
    again = load_model(to_proto(Model(graph, {}, {"": 20}, ir_version=11))).graph.initializers
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype.newbyteorder("=")
        assert again[name].tobytes() == array.astype(again[name].dtype).tobytes()


@pytest.mark.parametrize(
    ("op_type", "opset", "name", "kind"),
    [
        ("Constant", 13, "value_floats", onnx.AttributeProto.FLOATS),
        ("Constant", 13, "value_strings", onnx.AttributeProto.STRINGS),
        ("Transpose", 13, "perm", onnx.AttributeProto.INTS),
        ("Mine", 1, "whatever", onnx.AttributeProto.INTS),
    ],
)
def test_an_empty_list_has_the_type_of_the_schema(op_type: str, opset: int, name: str, kind: int) -> None:
    domain = "my" if op_type == "Mine" else ""
    proto = to_proto(_model(Node(op_type, (), ("y",), {name: ()}, domain, opset=opset)))
    assert proto.graph.node[0].attribute[0].type == kind


def test_functions_keep_their_own_opsets_and_references() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21, "my": 1]>
        g (float[N] x) => (float[N] y) { y = my.F <alpha = 0.5> (x) }
        <domain: "my", opset_import: ["": 17]>
        F <alpha: float = 2.0> (x) => (y) { y = LeakyRelu <alpha: float = @alpha> (x) }"""
    )
    loaded = load_model(model)
    _assert_comes_back(loaded)
    written = to_proto(loaded)
    onnx.checker.check_model(written, full_check=True)
    assert written.functions[0].opset_import[0].version == 17
    assert written.functions[0].node[0].attribute[0].type == onnx.AttributeProto.FLOAT
    x = np.float32([-1, 1])
    np.testing.assert_array_equal(onnxref.run(written, x)["y"], [-0.5, 1])


def test_old_models_can_say_their_opset() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    proto = onnx.ModelProto(ir_version=1, graph=helper.make_graph([node], "g", [], []))
    proto.graph.input.add(name="x")
    written = to_proto(load_model(proto))
    assert (written.ir_version, written.opset_import[0].version) == (3, 1)


def test_large_tensors_go_into_a_file_of_their_own(tmp_path: Path) -> None:
    weights = {"w": np.arange(1024, dtype=np.float32), "s": np.float32([3]), "b": np.ones(700, np.float64)}
    node = Node("Sum", ("w", "s"), ("y",), opset=13)
    model = Model(Graph("g", (), (Value("y", TensorType(1, (1024,))),), (node,), weights), {}, {"": 13}, 8)
    save_model(model, tmp_path / "model.onnx", external_above=1000)
    assert (tmp_path / "model.onnx.data").stat().st_size == 4096 + 5600
    assert (tmp_path / "model.onnx").stat().st_size < 500
    onnx.checker.check_model(tmp_path / "model.onnx")
    assert difference(model, load_model(tmp_path / "model.onnx")) is None


@pytest.mark.parametrize(
    ("node", "error", "message"),
    [
        (
            Node("Relu", ("x",), ("y",), opset=6, name="a"),
            InvalidGraphError,
            r"node 'a' \(Relu, opset 6\) cannot be written: its surroundings import version 13 of 'ai.onnx'",
        ),
        (
            Node("F", ("x",), ("y",), {"k": {1}}, "my"),
            InvalidAttributeError,
            "attribute 'k' cannot be written: ONNX has no attributes of the kind set",
        ),
        (
            Node("F", ("x",), ("y",), {"k": (1, "a")}, "my"),
            InvalidAttributeError,
            "attribute 'k' is a list of different kinds of values",
        ),
    ],
)
def test_what_cannot_be_written(node: Node, error: type[Exception], message: str) -> None:
    model = Model(Graph("g", (), (), (node,)), {}, {"": 13}, 8)
    with pytest.raises(error, match=message):
        to_proto(model)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = Model(Graph("g", (), (), ()), {}, {"": 13}, 8)
    with pytest.raises(OutputError, match="cannot write the model"):
        save_model(model, tmp_path / "file" / "model.onnx")


# Values and cases ---------------------------------------------------------------------------------

_FLOATS = TensorType(1)


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        (np.float32([1, 2]), _FLOATS),
        (np.array(5), None),
        (np.array(["a", "\u00fc"], object), TensorType(8)),
        (np.array([1, 7], ml_dtypes.int4), TensorType(22)),
        ([np.float32([1]), np.float32([])], SequenceType(_FLOATS)),
        ([], SequenceType(_FLOATS)),
        ([], SequenceType(SequenceType(_FLOATS))),
        ([[np.float32([1])], []], SequenceType(SequenceType(_FLOATS))),
        (None, OptionalType(_FLOATS)),
        (np.float32(1), OptionalType(_FLOATS)),
        ([np.float32([1])], OptionalType(SequenceType(_FLOATS))),
        ({1: np.array(2.5)}, MapType(7, _FLOATS)),
        ({"a": np.array(2.5)}, MapType(8, _FLOATS)),
        ({}, MapType(8, _FLOATS)),
        ([{"a": np.array(2.5)}], SequenceType(MapType(8, _FLOATS))),
        (SparseTensor(np.float32([1]), np.int64([2]), (3,)), SparseTensorType(1)),
    ],
    ids=str,
)
def test_values_of_every_kind_come_back(value: Any, declared: Any, tmp_path: Path) -> None:
    path = tmp_path / "input_0.pb"
    path.write_bytes(encode_value(value, declared).SerializeToString())
    found = read_value_file(path, declared)
    assert difference(np.asarray(value) if isinstance(value, np.generic) else value, found) is None


def test_a_value_that_onnx_has_no_type_for() -> None:
    with pytest.raises(OutputError, match="a value cannot be written: ONNX has no element type"):
        encode_value(np.array("2020", "datetime64[D]"))


def _case_model() -> Model:
    nodes = (Node("Sum", ("a", "b", "c"), ("y",), opset=13),)
    values = [Value(name, TensorType(1, (1,))) for name in "abcy"]
    return Model(
        Graph("g", tuple(values[:3]), (values[3],), nodes, {"b": np.float32([10])}),
        {},
        {"": 13},
        ir_version=8,
    )


def _files(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in (folder / "test_data_set_0").iterdir())


def test_a_case_in_the_official_layout(tmp_path: Path) -> None:
    model = _case_model()
    feeds = {"c": np.float32([3]), "a": np.float32([1])}
    write_case(tmp_path / "case", model, feeds, {"y": np.float32([14])}, rtol=1e-3)
    assert _files(tmp_path / "case") == ["input_0.pb", "input_1.pb", "input_2.pb", "output_0.pb"]
    found = onnxref.conformance.cases.read_case(tmp_path / "case", "mine", "node")
    assert (found.operator, found.rtol) == ("Sum", 1e-3)
    read = [read_value_file(tmp_path / "case/test_data_set_0" / f"input_{i}.pb", None) for i in range(3)]
    assert [float(value[0]) for value in read] == [1, 10, 3]
    write_case(
        tmp_path / "case", replace(model, graph=replace(model.graph, inputs=model.graph.inputs[::2])), feeds
    )
    assert _files(tmp_path / "case") == ["input_0.pb", "input_1.pb"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "error", "message"),
    [
        ({"a": 1}, None, InputError, "input 'c' has no value to write"),
        ({"z": 1}, None, InputError, r"'z' is no input of the model \(it has: a, b, c\)"),
        ({"a": 1, "c": 1}, {}, OutputError, "output 'y' has no value to write"),
    ],
)
def test_incomplete_cases(
    inputs: dict[str, Any], outputs: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        write_case(tmp_path, _case_model(), inputs, outputs)
    assert not (tmp_path / "model.onnx").exists()


def test_functions_without_attributes() -> None:
    function = Function("my", "F", "v2", ("x",), ("y",), (), {}, (Node("Relu", ("x",), ("y",), opset=13),))
    node = Node("F", ("x",), ("y",), {}, "my", "", "v2", 1)
    model = Model(
        Graph("g", (Value("x"),), (Value("y"),), (node,)), {("my", "F", "v2"): function}, {"my": 1}, 10
    )
    _assert_comes_back(model)
