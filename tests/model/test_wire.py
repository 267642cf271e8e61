"""Tensors that are taken out of a serialised model come back as protobuf would have read them."""

from __future__ import annotations

import io
import os
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from test_write import difference

import onnxref
from onnxref import OnnxRefError
from onnxref.limits import Budget
from onnxref.model import _wire, load_model
from onnxref.model._serde import read_model
from onnxref.model._wire import ALIGNMENT, SMALLEST, take_payloads

ELEMENTS = range(1, 29)
UNKNOWN = b"\xfa\x06\x03abc"  # field 111, three bytes


@contextmanager
def _smallest(size: int) -> Iterator[None]:
    """Take out payloads above another size, so that small models have some."""
    with mock.patch.object(_wire, "SMALLEST", size):
        yield


def _restored(data: bytes) -> tuple[onnx.ModelProto, int]:
    """Return what the skeleton of a model says once the payloads are back, and how many were taken."""
    skeleton, payloads = take_payloads(io.BytesIO(data))
    proto = onnx.ModelProto.FromString(skeleton)
    count = sum(_put_back(proto, payloads))
    return proto, count


def _put_back(message: Any, payloads: _wire.Payloads) -> Iterator[int]:
    if isinstance(message, TensorProto):
        array = payloads.pop(message.raw_data)
        if array is not None:
            message.raw_data = array.tobytes()
            yield 1
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (
                [value] if isinstance(value, type(value)) and hasattr(value, "ListFields") else value
            ):
                yield from _put_back(inner, payloads)


# Any message ------------------------------------------------------------------------------------------

_NAMES = st.text("abc", max_size=3)


@st.composite
def _tensors(draw: st.DrawFn) -> TensorProto:
    tensor = TensorProto(name=draw(_NAMES), data_type=draw(st.sampled_from(ELEMENTS)))
    tensor.dims.extend(draw(st.lists(st.integers(0, 4), max_size=3)))
    match draw(st.sampled_from(["raw", "raw", "raw", "floats", "ints", "strings"])):
        case "raw":
            tensor.raw_data = bytes(range(draw(st.integers(0, 60))))
        case "floats":
            tensor.float_data.extend(draw(st.lists(st.floats(width=32), max_size=20)))
        case "ints":
            tensor.int64_data.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)))
        case "strings":
            tensor.string_data.extend(draw(st.lists(st.binary(max_size=30), max_size=3)))
    if draw(st.booleans()):
        tensor.MergeFromString(UNKNOWN)
    return tensor


def _sparse(draw: st.DrawFn) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=draw(_tensors()), indices=draw(_tensors()), dims=[3])


def _attribute(draw: st.DrawFn, depth: int) -> AttributeProto:
    made = AttributeProto(name=draw(_NAMES))
    kinds = ["t", "tensors", "sparse_tensor", "sparse_tensors", "ints", "s", "floats", "strings"]
    for kind in draw(st.lists(st.sampled_from([*kinds, *(["g", "graphs"] if depth else [])]), max_size=2)):
        match kind:
            case "t":
                made.t.CopyFrom(draw(_tensors()))
            case "tensors":
                made.tensors.extend(draw(st.lists(_tensors(), max_size=2)))
            case "sparse_tensor":
                made.sparse_tensor.CopyFrom(_sparse(draw))
            case "sparse_tensors":
                made.sparse_tensors.append(_sparse(draw))
            case "g":
                made.g.CopyFrom(_graph(draw, depth - 1))
            case "graphs":
                made.graphs.append(_graph(draw, depth - 1))
            case "ints":
                made.ints.extend(draw(st.lists(st.integers(-5, 2**40), max_size=120)))
            case "floats":
                made.floats.extend(draw(st.lists(st.floats(width=32), max_size=5)))
            case "strings":
                made.strings.extend(draw(st.lists(st.binary(max_size=50), max_size=3)))
            case "s":
                made.s = draw(st.binary(max_size=80))
    return made


def _node(draw: st.DrawFn, depth: int) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Add", input=draw(st.lists(_NAMES, max_size=3)), name=draw(_NAMES))
    node.attribute.extend(_attribute(draw, depth) for _ in range(draw(st.integers(0, 2))))
    return node


def _graph(draw: st.DrawFn, depth: int) -> onnx.GraphProto:
    graph = onnx.GraphProto(name=draw(_NAMES), doc_string=draw(st.text(max_size=40)))
    graph.node.extend(_node(draw, depth) for _ in range(draw(st.integers(0, 2))))
    graph.initializer.extend(draw(st.lists(_tensors(), max_size=3)))
    graph.sparse_initializer.extend(_sparse(draw) for _ in range(draw(st.integers(0, 1))))
    return graph


@st.composite
def _models(draw: st.DrawFn) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=8, graph=_graph(draw, 2), producer_name=draw(_NAMES))
    model.opset_import.add(domain="", version=21)
    for number in range(draw(st.integers(0, 2))):
        function = model.functions.add(name=f"f{number}", domain="mine", output=["y"])
        function.node.append(_node(draw, 1))
        function.attribute_proto.append(_attribute(draw, 1))
    if draw(st.booleans()):
        model.training_info.add(algorithm=_graph(draw, 0))
    if draw(st.booleans()):
        model.MergeFromString(UNKNOWN)
    return model


def test_the_strategy_has_payloads_of_every_kind() -> None:
    """What the properties below rest on: there is something to take out, and something to leave."""
    seen: set[int] = set()

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(_models())
    def look(model: onnx.ModelProto) -> None:
        seen.add(_restored(model.SerializeToString())[1])

    with _smallest(20):
        look()
    assert {0, 1, 2, 3} <= seen


@settings(max_examples=200, deadline=None)
@given(_models(), st.sampled_from([0, 20, 50, SMALLEST]))
def test_a_skeleton_with_its_payloads_is_the_model(model: onnx.ModelProto, smallest: int) -> None:
    data = model.SerializeToString()
    with _smallest(smallest):
        proto, _ = _restored(data)
        twice, _ = _restored(data + data)  # protobuf merges what is there twice
    assert proto.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    expected = onnx.ModelProto.FromString(data + data)
    assert twice.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def _outcome(proto: onnx.ModelProto, payloads: _wire.Payloads | None) -> Any:
    try:
        return read_model(proto, None, Budget(), payloads)
    except OnnxRefError as error:
        return type(error), str(error)


@settings(max_examples=200, deadline=None)
@given(_models(), st.sampled_from([0, 20, 50]))
def test_any_model_is_read_the_same_both_ways(model: onnx.ModelProto, smallest: int) -> None:
    with _smallest(smallest):
        skeleton, payloads = take_payloads(io.BytesIO(model.SerializeToString()))
    ours = _outcome(onnx.ModelProto.FromString(skeleton), payloads)
    assert difference(ours, _outcome(model, None)) is None


# Broken files -----------------------------------------------------------------------------------------


def _loaded(source: Any) -> Any:
    try:
        return load_model(source)
    except OnnxRefError as error:
        return type(error), str(error)


def _parsed(data: bytes) -> Any:
    """Return what loading gives if protobuf sees all of the file."""
    with mock.patch.object(_wire._Taker, "message", return_value=None):
        return _loaded(data)


def _sample() -> bytes:
    """Return a small model with payloads at every place that a model has for them."""

    def tensor(name: str, count: int = 8) -> TensorProto:
        return numpy_helper.from_array(np.arange(count, dtype=np.float32), name)

    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("v", 1, [8])], [tensor("v")])
    sparse = helper.make_sparse_tensor(tensor("s", 9), numpy_helper.from_array(np.arange(9)), [20])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("")),
        helper.make_node("If", ["b"], ["i"], then_branch=inner, else_branch=inner),
        helper.make_node("Sum", ["w", "c", "i"], ["y"]),
        helper.make_node("Given", [], ["z"], domain="mine"),
    ]
    function = helper.make_function(
        "mine", "Given", [], ["o"], [helper.make_node("Constant", [], ["o"], value=tensor(""))],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in ("y", "z", "s")]
    flag = helper.make_tensor_value_info("b", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [flag], outputs, [tensor("w")], sparse_initializer=[sparse])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=[function])
    data: bytes = model.SerializeToString()
    return data


def test_every_place_is_found() -> None:
    with _smallest(20):
        _, count = _restored(_sample())
    assert count == 7  # an initializer, a constant, two branches, a function's, values and indices


@pytest.mark.parametrize("smallest", [0, 20])
def test_a_file_cut_off_anywhere_fails_as_ever(smallest: int) -> None:
    data = _sample()
    with _smallest(smallest):
        for length in range(len(data)):
            assert difference(_loaded(data[:length]), _parsed(data[:length])) is None, length


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_mutated_bytes_fail_as_ever(data: st.DataObject) -> None:
    mutant = bytearray(_sample())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(mutant) - 1))
        new = data.draw(st.sampled_from([0, 1, 0x0B, 0x0C, 0x3A, 0x4A, 0x7F, 0x80, 0xFF]))
        match data.draw(st.sampled_from(["replace", "insert", "delete"])):
            case "replace":
                mutant[place] = new
            case "insert":
                mutant[place:place] = bytes([new] * data.draw(st.sampled_from([1, 5, 11])))
            case "delete":
                del mutant[place]
    with _smallest(20):
        assert difference(_loaded(bytes(mutant)), _parsed(bytes(mutant))) is None


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\xff\xff\xff\xff\x07",  # a graph of 2 GiB
        b"\x3a\xff\xff\xff\xff\xff\x01",  # a length of six bytes
        b"\x3a\x85\x80\x80\x80\x80\x00hello",  # the same for a small number
        b"\x08" + b"\xff" * 11,  # a number of eleven bytes
        b"\x07",  # wire type 7
        b"\x3a",  # a tag alone, at the end
        b"\x09\x00\x00",  # eight bytes, of which two are there
    ],
)
def test_bad_encodings_are_left_to_protobuf(content: bytes) -> None:
    for data in (content, _sample() + content):
        with _smallest(0):
            assert difference(_loaded(data), _parsed(data)) is None
            assert _loaded(data)[0] is onnxref.ModelLoadError


def test_a_group_is_left_to_protobuf() -> None:
    data = _sample() + b"\x3b\x3c"
    with _smallest(0):
        assert take_payloads(io.BytesIO(data))[0] == data
        assert difference(_loaded(data), _loaded(_sample())) is None


def test_nesting_is_bounded() -> None:
    tensor = numpy_helper.from_array(np.arange(5, dtype=np.float32), "w")
    data = onnx.GraphProto(initializer=[tensor]).SerializeToString()
    for _ in range(3000):
        attribute = b"\x32" + _wire._encoded(len(data)) + data  # AttributeProto.g
        node = b"\x2a" + _wire._encoded(len(attribute)) + attribute
        data = b"\x0a" + _wire._encoded(len(node)) + node
    data = b"\x3a" + _wire._encoded(len(data)) + data
    with _smallest(0):
        assert _loaded(data)[0] is onnxref.ModelLoadError


@pytest.mark.parametrize("window", [10, 11, 16, 23, 64])
def test_numbers_may_lie_across_windows(window: int) -> None:
    data = _sample()
    with _smallest(20), mock.patch.object(_wire, "_WINDOW", window):
        proto, count = _restored(data)
        assert count == 7
    assert proto == onnx.ModelProto.FromString(data)


# Files ------------------------------------------------------------------------------------------------

_LARGE = np.arange(SMALLEST, dtype=np.float32)


def _large_model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", 1, [SMALLEST])],
        [numpy_helper.from_array(_LARGE, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _sources(path: Path) -> Iterator[Any]:
    data = path.read_bytes()
    yield path
    yield str(path)
    yield data
    yield bytearray(data)
    yield memoryview(data)
    yield io.BytesIO(data)
    with path.open("rb") as file:
        yield file
        assert not file.read()
    with path.open("rb", buffering=0) as raw:
        yield raw
        assert not raw.read()


def test_arrays_are_aligned_and_nobody_can_change_them(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_large_model().SerializeToString())
    for source in _sources(path):
        w = load_model(source).graph.initializers["w"]
        np.testing.assert_array_equal(w, _LARGE, strict=True)
        assert w.ctypes.data % ALIGNMENT == 0
        assert not w.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            w.flags.writeable = True


def test_a_file_object_is_read_from_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before" + _large_model().SerializeToString())
    with path.open("rb") as file:
        file.seek(6)
        np.testing.assert_array_equal(load_model(file).graph.initializers["w"], _LARGE)


def test_a_file_may_be_overwritten_once_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = _large_model().SerializeToString()
    path.write_bytes(data)
    session = onnxref.InferenceSession(path)
    with path.open("r+b") as file:
        file.write(bytes(len(data)))
        file.truncate(10)
    np.testing.assert_array_equal(session.run(None, {})[0], _LARGE)


def test_a_pipe_is_read_too(tmp_path: Path) -> None:
    pipe = tmp_path / "model.onnx"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(_large_model().SerializeToString(),))
    writer.start()
    np.testing.assert_array_equal(load_model(pipe).graph.initializers["w"], _LARGE)
    writer.join()


def test_a_file_that_shrinks_while_it_is_read_is_broken() -> None:
    class Shrinking(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            self.truncate(len(self.getvalue()) // 2)
            return super().readinto(buffer)

    skeleton, _ = take_payloads(Shrinking(_large_model().SerializeToString()))
    assert _loaded(skeleton)[0] is onnxref.ModelLoadError


def test_a_weight_is_held_once(tmp_path: Path) -> None:
    """Loading takes little more memory than the weights that the model keeps."""
    path = tmp_path / "model.onnx"
    weights = [numpy_helper.from_array(np.ones(1 << 20, np.float32), f"w{i}") for i in range(4)]
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("w0", 1, [1 << 20])], weights)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert len(take_payloads(io.BytesIO(path.read_bytes()))[0]) < 1 << 10  # what protobuf gets to see
    for source in (path, path.read_bytes()):
        tracemalloc.start()
        model = load_model(source)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(w.nbytes for w in model.graph.initializers.values()) == 4 << 22
        assert peak < (4 << 22) + (1 << 20)


def test_a_file_cannot_name_a_payload() -> None:
    """Bytes that look like a token of another load are just bytes."""
    _, payloads = take_payloads(io.BytesIO(_large_model().SerializeToString()))
    (token,) = payloads._arrays
    model = _large_model()
    model.graph.initializer.append(TensorProto(name="v", data_type=2, dims=[len(token)], raw_data=token))
    loaded = load_model(model.SerializeToString()).graph.initializers
    assert loaded["v"].tobytes() == token
    np.testing.assert_array_equal(loaded["w"], _LARGE)
