"""Every form in which a caller may give inputs, and every way in which they may be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

import onnxref
from onnxref import InferenceSession, InputError, SparseTensor, dtypes

X = np.float32([1, 2])
HEAD = '<ir_version: 10, opset_import: ["": 25, "my": 1]>\n'


def _session(inputs: str, body: str = "y = Identity(x)") -> InferenceSession:
    """Return a session for a model with the given inputs, and the output `y` of no declared type."""
    model = onnx.parser.parse_model(f"{HEAD}g ({inputs}) => (float y) {{ {body} }}")
    model.graph.output[0].ClearField("type")
    return InferenceSession(model)


def _typed(kind: onnx.TypeProto, op_type: str = "Identity", domain: str = "") -> InferenceSession:
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_value_info("x", kind)],
        [onnx.ValueInfoProto(name="y")],
    )
    imports = [helper.make_opsetid("", 25), helper.make_opsetid("my", 1)]
    return InferenceSession(helper.make_model(graph, opset_imports=imports, ir_version=10))


def _tensor(element: int, *shape: int | str | None) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(element, shape)


@pytest.fixture
def echo() -> Iterator[list[Any]]:
    """An operator `my.Echo` that returns its input, of any kind, and keeps it."""
    seen: list[Any] = []

    @onnxref.register_op("Echo", domain="my")
    def echo(x: Any) -> Any:
        seen.append(x)
        return x

    yield seen
    onnxref.unregister_op("Echo", domain="my")


class WithArray:
    """What pandas, PyTorch and others look like to NumPy."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.array


class WithDlpack:
    """An object that only speaks DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class Refusing:
    """An array of a library that does not want to be converted, such as one on a GPU."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError("it lies on a GPU")


@pytest.mark.parametrize("wrap", [lambda v: {"x": v}, lambda v: [v], lambda v: (v,), lambda v: v])
@pytest.mark.parametrize(
    "value",
    [
        X,
        X.astype(">f4"),
        np.repeat(X, 2)[::2],
        WithArray(X),
        WithDlpack(X),
    ],
    ids=["array", "big-endian", "strided", "__array__", "__dlpack__"],
)
def test_forms(wrap: Any, value: Any) -> None:
    y = _session("float[N] x").run(None, wrap(value))[0]
    np.testing.assert_array_equal(y, X, strict=True)


def test_no_inputs() -> None:
    session = _session("", "y = Constant<value_float = 1.0>()")
    for feeds in (None, {}, [], ()):
        assert session.run(None, feeds)[0] == 1


def test_sequence_in_graph_order() -> None:
    session = _session("float[N] a, float[N] b", "y = Sub(a, b)")
    for feeds in ([3 * X, X], (3 * X, X), {"b": X, "a": 3 * X}):
        np.testing.assert_array_equal(session.run(None, feeds)[0], 2 * X)


# Declared element type, value, what arrives.
PYTHON_VALUES: list[tuple[str, Any, Any]] = [
    ("float", [1, 2.5], np.float32([1, 2.5])),
    ("float", [0.1], np.float32([0.1])),  # rounded, as every float literal is
    ("float", [float("nan"), float("-inf")], np.float32([np.nan, -np.inf])),
    ("float", [True], np.float32([1])),
    ("bfloat16", [0.1], np.array([0.1], ml_dtypes.bfloat16)),
    ("float8e4m3fn", [0.1], np.array([0.1], ml_dtypes.float8_e4m3fn)),
    ("float16", (1, 2), np.float16([1, 2])),
    ("int4", [-8, 7], np.array([-8, 7], ml_dtypes.int4)),
    ("int64", [1.0], np.int64([1])),
    ("uint64", [2**64 - 1], np.uint64([2**64 - 1])),
    ("bool", [1, False], np.array([True, False])),
    ("complex64", [1, 2j], np.complex64([1, 2j])),
    ("double", [0.1], np.float64([0.1])),
    ("string", ["a", "ü"], np.array(["a", "ü"], object)),
    ("string", [b"a", b"\xff"], np.array(["a", "\udcff"], object)),
    ("string", np.array(["a", "bcd"]), np.array(["a", "bcd"], object)),
    ("string", np.array(["a", "bcd"], np.dtypes.StringDType()), np.array(["a", "bcd"], object)),
    ("string", np.array([b"a", b"bcd"]), np.array(["a", "bcd"], object)),
    ("string", np.array(["a", b"b"], object), np.array(["a", "b"], object)),
]


@pytest.mark.parametrize(("element", "value", "expected"), PYTHON_VALUES)
def test_python_values_and_strings(element: str, value: Any, expected: Any) -> None:
    y = _session(f"{element}[N] x").run(None, {"x": value})[0]
    np.testing.assert_array_equal(y, expected, strict=True)


@pytest.mark.parametrize(
    ("element", "value", "expected"),
    [("float", 1.5, np.float32(1.5)), ("int64", np.int64(3), np.int64(3)), ("string", "abc", "abc")],
)
def test_scalars(element: str, value: Any, expected: Any) -> None:
    y = _session(f"{element} x").run(None, {"x": value})[0]
    assert y.shape == ()
    assert y == expected


@pytest.mark.parametrize("element", [e for e in range(1, 29) if e != TensorProto.STRING])
def test_every_element_type(element: int, echo: list[Any]) -> None:
    x = np.array([1, 1]).astype(dtypes.to_numpy(element))
    y = _typed(_tensor(element, "N"), "Echo", "my").run(None, x)[0]
    np.testing.assert_array_equal(y, x, strict=True)


def test_undeclared_types_take_what_comes() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    for value in (X, np.int8([1]), [1, 2], 1.5):
        np.testing.assert_array_equal(onnxref.run(node, {"x": value})["y"], np.asarray(value), strict=True)
    assert [v.tolist() for v in onnxref.run(node, {"x": [X, X]})["y"]] == [X.tolist()] * 2


SEQUENCE = helper.make_sequence_type_proto(_tensor(TensorProto.FLOAT, "N"))
OPTIONAL = helper.make_optional_type_proto(_tensor(TensorProto.FLOAT, "N"))
OPTIONAL_SEQUENCE = helper.make_optional_type_proto(SEQUENCE)
NAME_MAP = helper.make_map_type_proto(TensorProto.STRING, _tensor(TensorProto.FLOAT))
NUMBER_MAP = helper.make_map_type_proto(TensorProto.INT64, _tensor(TensorProto.STRING))
VECTOR_MAP = helper.make_map_type_proto(TensorProto.INT64, SEQUENCE)
SPARSE = helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2, 3])


def test_sequences_and_optionals() -> None:
    sequence = _typed(SEQUENCE)
    for value in ([X, [1, 2, 3]], (X, np.float32([1, 2, 3]))):
        y = sequence.run(None, {"x": value})[0]
        assert [v.tolist() for v in y] == [[1, 2], [1, 2, 3]]
    assert sequence.run(None, {"x": []}) == [[]]
    optional = _typed(OPTIONAL)
    np.testing.assert_array_equal(optional.run(None, {"x": X})[0], X)
    for feeds in ({"x": None}, {}, None):
        assert optional.run(None, feeds) == [None]
    assert len(_typed(OPTIONAL_SEQUENCE).run(None, {"x": [X]})[0]) == 1


def test_maps(echo: list[Any]) -> None:
    y = _typed(NAME_MAP, "Echo", "my").run(None, {"x": {"a": 1, "b": np.float32(0.5)}})[0]
    assert y == {"a": 1, "b": 0.5}
    assert all(type(v) is np.float32 for v in y.values())
    y = _typed(NUMBER_MAP, "Echo", "my").run(None, {"x": {1: "a", np.int64(2): b"b"}})[0]
    assert y == {1: "a", 2: "b"}
    assert all(type(k) is int for k in y)
    y = _typed(VECTOR_MAP, "Echo", "my").run(None, {"x": {1: [X]}})[0]
    np.testing.assert_array_equal(y[1][0], X)


def test_sparse_tensors(echo: list[Any]) -> None:
    sparse = SparseTensor(X, np.int64([1, 5]), (2, 3))
    y = _typed(SPARSE, "Echo", "my").run(None, {"x": sparse})[0]
    np.testing.assert_array_equal(y.to_dense(), np.float32([[0, 1, 0], [0, 0, 2]]), strict=True)


TAKES_X = "the model takes 'x'"
REFUSED: list[tuple[Any, Any, str]] = [
    # (declared inputs or type, feeds, message)
    ("float[N] x", {}, f"input 'x' is missing; {TAKES_X}"),
    ("float[N] x", None, f"input 'x' is missing; {TAKES_X}"),
    ("float[N] x", {"x": X, "z": X}, f"the model has no input 'z'; {TAKES_X}"),
    ("float[N] x", [X, X], f"2 inputs were given; {TAKES_X}"),
    ("float[N] x, float b", [X], "input 'b' is missing; the model takes 'x', 'b'"),
    (
        "float[N] x",
        X.astype(np.float64),
        "input 'x' must be tensor(float) (got tensor(double), NumPy float64)",
    ),
    (
        "float[N] x",
        np.array(["a"]),
        "input 'x' must be tensor(float) (got tensor(string), NumPy object)",
    ),
    ("float[N] x", [0.5], "input 'x' must have rank 1, shape [N] (got shape [])"),
    (
        "float[N] x",
        {"x": ["1.5"]},
        "input 'x' must be tensor(float) (got tensor(string), NumPy object)",
    ),
    (
        "float[N] x",
        np.array(["2020-01-01"], "datetime64[D]"),
        "input 'x': ONNX has no element type for NumPy's datetime64[D]",
    ),
    ("float[N] x", X[None], "input 'x' must have rank 1, shape [N] (got shape [1, 2])"),
    (
        "float[N,3,M] x",
        np.zeros((1, 2, 2), np.float32),
        "input 'x': dimension 1 must be 3, shape [N, 3, M] (got [1, 2, 2])",
    ),
    ("int64[N] x", {"x": [1.5]}, "input 'x': [1.5] cannot be represented in tensor(int64)"),
    ("bool[N] x", {"x": [2]}, "input 'x': [2] cannot be represented in tensor(bool)"),
    ("int4[N] x", {"x": [8]}, "input 'x': [8] cannot be represented in tensor(int4)"),
    ("float[N] x", {"x": [1e39]}, "input 'x': [1e+39] cannot be represented in tensor(float)"),
    ("float[N] x", {"x": [None]}, "input 'x': [None] cannot be represented in tensor(float)"),
    (
        "uint8[N] x",
        {"x": [300]},
        "input 'x' cannot be made an array: OverflowError: Python integer 300 out of bounds for uint8",
    ),
    (
        "float[N] x",
        {"x": Refusing()},
        "input 'x' cannot be made an array: TypeError: it lies on a GPU",
    ),
    ("string[N] x", {"x": ["a", 1]}, "input 'x' must hold strings only (got a int)"),
    (SEQUENCE, {"x": X}, "input 'x' must be a sequence (got ndarray)"),
    (
        SEQUENCE,
        {"x": [X, np.int64([1])]},
        "input 'x'[1] must be tensor(float) (got tensor(int64), NumPy int64)",
    ),
    (SEQUENCE, {"x": [X[None]]}, "input 'x'[0] must have rank 1, shape [N] (got shape [1, 2])"),
    (SEQUENCE, {"x": [None]}, "input 'x'[0]: None cannot be represented in tensor(float)"),
    (OPTIONAL, {"x": np.int64([1])}, "input 'x' must be tensor(float) (got tensor(int64), NumPy int64)"),
    (NAME_MAP, {"x": X}, "input 'x' must be a mapping (got ndarray)"),
    (NAME_MAP, {"x": {1: 1.0}}, "input 'x': keys must be str (got 1)"),
    (NUMBER_MAP, {"x": {"a": "b"}}, "input 'x': keys must be int (got 'a')"),
    (NAME_MAP, {"x": {"a": [1.0]}}, "input 'x'['a'] must have rank 0, shape [] (got shape [1])"),
    (SPARSE, {"x": X}, "input 'x' must be an onnxref.SparseTensor (got ndarray)"),
    (
        SPARSE,
        {"x": SparseTensor(X, np.int64([0, 1]), (2, 4))},
        "input 'x': dimension 1 must be 3, shape [2, 3] (got [2, 4])",
    ),
    (
        SPARSE,
        {"x": SparseTensor(np.int64([1]), np.int64([0]), (2, 3))},
        "input 'x' must be tensor(float) (got tensor(int64), NumPy int64)",
    ),
]


@pytest.mark.parametrize(("declared", "feeds", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_refused(declared: Any, feeds: Any, message: str, echo: list[Any]) -> None:
    if isinstance(declared, str):
        session = _session(declared, "y = my.Echo(x)")
    else:
        session = _typed(declared, "Echo", "my")
    with pytest.raises(InputError) as caught:
        session.run(None, feeds)
    assert str(caught.value) == message
    assert not echo, "nothing runs"


def _with_default() -> InferenceSession:
    """y = x + b, where the input b is [10, 20] unless it is given."""
    model = onnx.parser.parse_model(f"{HEAD}g (float[2] b, float[N] x) => (float[N] y) {{ y = Add(x, b) }}")
    model.graph.initializer.append(helper.make_tensor("b", TensorProto.FLOAT, [2], [10, 20]))
    return InferenceSession(model)


def test_defaults_may_be_overridden() -> None:
    session = _with_default()
    for feeds in ({"x": X}, [X], X):
        np.testing.assert_array_equal(session.run(None, feeds)[0], [11, 22])
    for feeds in ({"x": X, "b": -X}, [-X, X]):
        np.testing.assert_array_equal(session.run(None, feeds)[0], [0, 0])
    np.testing.assert_array_equal(session.run(None, X)[0], [11, 22])
    with pytest.raises(InputError, match="input 'b': dimension 0 must be 2"):
        session.run(None, {"x": X, "b": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="3 inputs were given; the model takes 'x'"):
        session.run(None, [X, X, X])


def test_defaults_may_be_outputs() -> None:
    session = _with_default()
    b = session.run(["b"], X)[0]
    b[:] = 0
    np.testing.assert_array_equal(session.run(["b"], X)[0], [10, 20])
    np.testing.assert_array_equal(session.run(["b"], {"x": X, "b": X})[0], X)


def test_inputs_are_never_changed() -> None:
    """Also not by an operator that tries to."""

    @onnxref.register_op("Spoil", domain="my")
    def spoil(x: Any) -> Any:
        x += 1
        return x

    try:
        for body in ("y = my.Spoil(x)", "a = Neg(x) y = my.Spoil(a)"):
            x = X.copy()
            with pytest.raises(onnxref.NodeError, match="my:Spoil.*read-only"):
                _session("float[N] x", body).run(None, x)
            np.testing.assert_array_equal(x, X)
    finally:
        onnxref.unregister_op("Spoil", domain="my")


def test_read_only_inputs() -> None:
    x = X.copy()
    x.flags.writeable = False
    y = _session("float[N] x").run(None, x)[0]
    y[:] = 0
    np.testing.assert_array_equal(x, X)
