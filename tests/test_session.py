"""The public face: `run`, `InferenceSession`, operators of one's own, and ONNX Runtime's habits."""

from __future__ import annotations

import doctest
import importlib.util
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

import onnxref
from onnxref import (
    BackendError,
    InferenceSession,
    KernelError,
    NodeArg,
    NodeError,
    OutputError,
    UnsupportedOperatorError,
    register_op,
    run,
    unregister_op,
)
from onnxref.registry import Context

EXAMPLES = Path(__file__).parent.parent / "examples"
DIGITS = EXAMPLES / "digits.onnx"
X = np.float32([[1, 2, 3]])


def _model() -> onnx.ModelProto:
    """y = relu(x + b), i = argmax(y); b is an input with a default, c an optional one."""
    text = """<ir_version: 10, opset_import: ["": 21], producer_name: "maker", domain: "org.example",
      model_version: 7, doc_string: "about the model", metadata_props: ["author": "me"]>
    net (float[batch, 3] x, float[3] b, optional(float) c, seq(float[N]) s)
    => (float[batch, 3] y, int64[batch] i) {
      m = Add(x, b)
      y = Relu(m)
      i = ArgMax<axis = 1, keepdims = 0>(y)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.doc_string = "about the graph"
    model.graph.initializer.append(numpy_helper.from_array(np.float32([0, -5, 0]), "b"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


FEEDS = {"x": X, "s": []}


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    return InferenceSession(_model())


# ------------------------------------------------------------------------------------- running


def test_run_returns_values_by_name_in_graph_order() -> None:
    values = run(_model(), FEEDS)
    assert list(values) == ["y", "i"]
    np.testing.assert_array_equal(values["y"], np.float32([[1, 0, 3]]), strict=True)
    np.testing.assert_array_equal(values["i"], np.int64([2]), strict=True)


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (None, ["y", "i"]),
        ([], ["y", "i"]),
        (["i"], ["i"]),
        (["i", "y"], ["i", "y"]),
        (("m",), ["m"]),
        ("m", ["m"]),
        (["y", "m", "x", "b"], ["y", "m", "x", "b"]),
    ],
)
def test_outputs_come_as_asked_for(session: InferenceSession, outputs: Any, names: list[str]) -> None:
    expected = {
        "y": np.float32([[1, 0, 3]]),
        "i": np.int64([2]),
        "m": np.float32([[1, -3, 3]]),
        "x": X,
        "b": np.float32([0, -5, 0]),
    }
    named = run(_model(), FEEDS, outputs)
    assert list(named) == names
    assert list(session.run_named(outputs, FEEDS)) == names
    values = session.run(outputs, FEEDS)
    assert isinstance(values, list)
    assert len(values) == len(names)
    for name, value in zip(names, values, strict=True):
        np.testing.assert_array_equal(value, expected[name], strict=True)
        np.testing.assert_array_equal(named[name], expected[name], strict=True)


def test_outputs_that_cannot_be_had(session: InferenceSession) -> None:
    with pytest.raises(OutputError, match=r"^an output is asked for twice .got \['y', 'y'\].$"):
        session.run(["y", "y"], FEEDS)
    with pytest.raises(OutputError, match="^the model has no value 'z'; its outputs are 'y', 'i'$"):
        session.run(["z"], FEEDS)


def test_run_options_are_none(session: InferenceSession) -> None:
    assert len(session.run(None, FEEDS, None)) == 2
    with pytest.raises(ValueError, match="^run_options must be None .got a dict.$"):
        session.run(None, FEEDS, {})  # type: ignore[arg-type]


def test_limits_and_backend_are_passed_on() -> None:
    with pytest.raises(onnxref.ResourceLimitError, match="'executed_nodes' is 1"):
        run(_model(), FEEDS, limits=onnxref.Limits(executed_nodes=1))
    with pytest.raises(BackendError, match="^there is no backend 'abacus'; choose from numpy"):
        run(_model(), FEEDS, backend="abacus")


# ------------------------------------------------------------------------- what a model tells


def test_inputs_and_outputs(session: InferenceSession) -> None:
    assert session.get_inputs() == [
        NodeArg("x", ["batch", 3], "tensor(float)"),
        NodeArg("c", [], "optional(tensor(float))"),
        NodeArg("s", ["N"], "seq(tensor(float))"),
    ]
    assert session.get_overridable_initializers() == [NodeArg("b", [3], "tensor(float)")]
    assert session.get_outputs() == [
        NodeArg("y", ["batch", 3], "tensor(float)"),
        NodeArg("i", ["batch"], "tensor(int64)"),
    ]


def test_what_the_model_does_not_say_is_empty() -> None:
    arg = InferenceSession(helper.make_node("Neg", ["x"], ["y"])).get_inputs()[0]
    assert arg == NodeArg("x", [], "")
    value = helper.make_tensor_value_info("x", 1, [None, 2])
    graph = helper.make_graph([], "g", [value], [value])
    assert InferenceSession(graph).get_inputs() == [NodeArg("x", [None, 2], "tensor(float)")]


def test_metadata(session: InferenceSession) -> None:
    meta = session.get_modelmeta()
    assert (meta.producer_name, meta.graph_name, meta.domain, meta.version) == (
        "maker",
        "net",
        "org.example",
        7,
    )
    assert (meta.description, meta.graph_description) == ("about the model", "about the graph")
    assert meta.custom_metadata_map == {"author": "me"}


def test_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_card() -> None:
        raise BackendError("there is no card")

    monkeypatch.setattr("onnxref.gpu.open_device", no_card)
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = InferenceSession(DIGITS, providers=wanted)
    assert session.get_providers() == ["CPUExecutionProvider"]
    with_options: list[Any] = [("CUDAExecutionProvider", {"device_id": 1}), ("CPUExecutionProvider", {})]
    for accepted in (with_options, "CPUExecutionProvider"):
        assert InferenceSession(DIGITS, providers=accepted).get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(BackendError, match="^provider CPUExecutionProvider takes no options .got threads.$"):
        InferenceSession(DIGITS, providers=[("CPUExecutionProvider", {"threads": 2})])
    for providers in (["CUDAExecutionProvider"], []):
        with pytest.raises(BackendError, match=r"^none of .* CUDA.* \(there is no card\), CPU"):
            InferenceSession(DIGITS, providers=providers)


def test_what_a_session_is_not() -> None:
    with pytest.raises(TypeError, match="^limits must be an onnxref.Limits .got a str.$"):
        InferenceSession(DIGITS, limits="untrusted")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(InferenceSession(DIGITS))


# ---------------------------------------------------------------------- operators of one's own


def _one(op_type: str, *, domain: str = "my", opset: int = 1, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x"], ["y"], domain=domain, **attributes)
    graph = helper.make_graph([node], "g", [onnx.ValueInfoProto(name="x")], [onnx.ValueInfoProto(name="y")])
    imports = {"": 21, domain: opset}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in imports.items()])
    model.ir_version = 10
    return model


@pytest.fixture
def registered() -> Iterator[list[tuple[str, str]]]:
    """Names (operator, domain) put here are unregistered afterwards."""
    names: list[tuple[str, str]] = []
    yield names
    for op_type, domain in names:
        unregister_op(op_type, domain=domain)


def test_a_new_operator(registered: list[tuple[str, str]]) -> None:
    @register_op("Twice", domain="my")
    def twice(x: Any, *, offset: float = 0.0, sizes: tuple[int, ...] = (), label: str = "") -> Any:
        return 2 * x + x.dtype.type(offset) + len(sizes) + len(label)

    registered.append(("Twice", "my"))
    np.testing.assert_array_equal(run(_one("Twice"), X)["y"], 2 * X)
    model = _one("Twice", offset=1.0, sizes=[1, 2], label="abc")
    np.testing.assert_array_equal(run(model, X)["y"], 2 * X + 6)


@pytest.mark.parametrize(("opset", "expected"), [(1, 1), (2, 1), (3, 3), (9, 3)])
def test_versions(registered: list[tuple[str, str]], opset: int, expected: int) -> None:
    for version in (3, 1):
        register_op("Which", domain="my", since=version)(lambda x, version=version: np.array(version))
    registered.append(("Which", "my"))
    assert run(_one("Which", opset=opset), X)["y"] == expected


def test_too_old_an_import_of_ones_own_domain(registered: list[tuple[str, str]]) -> None:
    register_op("Which", domain="my", since=3)(lambda x: x)
    registered.append(("Which", "my"))
    message = ".my:Which, opset 2.: Which of my came with version 3 .the model imports 2."
    with pytest.raises(UnsupportedOperatorError, match=message):
        InferenceSession(_one("Which", opset=2))


def test_in_place_of_a_standard_operator(registered: list[tuple[str, str]]) -> None:
    """Also for types and attributes that the schema does not know; sessions made before keep theirs."""
    before = InferenceSession(_one("Relu", domain="", opset=21))

    @register_op("Relu", domain="ai.onnx")
    def leaky(x: Any, *, alpha: float = 0.5) -> Any:
        return np.where(x > 0, x, x * x.dtype.type(alpha))

    registered.append(("Relu", ""))
    x = np.float32([-2, 2])
    np.testing.assert_array_equal(run(_one("Relu", domain="", opset=21), x)["y"], [-1, 2])
    np.testing.assert_array_equal(run(_one("Relu", domain="", opset=21, alpha=0.25), x)["y"], [-0.5, 2])
    np.testing.assert_array_equal(before.run(None, x)[0], [0, 2])
    registered.clear()
    unregister_op("Relu", domain="")
    np.testing.assert_array_equal(run(_one("Relu", domain="", opset=21), x)["y"], [0, 2])


def test_registering_again_replaces(registered: list[tuple[str, str]]) -> None:
    for factor in (2, 3):
        register_op("Times", domain="my")(lambda x, factor=factor: x * factor)
    registered.append(("Times", "my"))
    np.testing.assert_array_equal(run(_one("Times"), X)["y"], 3 * X)


def test_unregistering() -> None:
    register_op("Gone", domain="my")(lambda x: x)
    unregister_op("Gone", domain="my")
    with pytest.raises(UnsupportedOperatorError, match="no operator of domain 'my' is known .wanted Gone."):
        InferenceSession(_one("Gone"))
    with pytest.raises(KeyError):
        unregister_op("Gone", domain="my")
    with pytest.raises(ValueError, match="since must be at least 1 .got 0."):
        register_op("Gone", domain="my", since=0)


def test_context_and_several_outputs(registered: list[tuple[str, str]]) -> None:
    seen: list[Context] = []

    @register_op("Ask", domain="my", since=4)
    def ask(x: Any, *, ctx: Context) -> Any:
        seen.append(ctx)
        return x, x + 1, x + 2

    registered.append(("Ask", "my"))
    node = helper.make_node("Ask", ["x"], ["a", "", "y"], domain="my")
    model = _one("Ask", opset=5)
    model.graph.node[0].CopyFrom(node)
    np.testing.assert_array_equal(run(model, X)["y"], X + 2)
    (ctx,) = seen
    assert (ctx.wanted, ctx.n_outputs, ctx.opset) == ((False, False, True), 3, 5)
    assert ctx.budget.executed_nodes == 1
    assert 0 <= ctx.generator.random() < 1


def test_errors_inside(registered: list[tuple[str, str]]) -> None:
    @register_op("Picky", domain="my")
    def picky(x: Any) -> Any:
        raise KernelError("x must be nice")

    registered.append(("Picky", "my"))
    with pytest.raises(NodeError, match=r"^node #0 .my:Picky, opset 1.: x must be nice \[inputs: x: tensor"):
        run(_one("Picky"), X)


def test_cost_is_asked_before_the_kernel(registered: list[tuple[str, str]]) -> None:
    from onnxref.registry import Cost

    ran: list[int] = []

    @register_op("Big", domain="my", cost=lambda x: Cost(2**60))
    def big(x: Any) -> Any:
        ran.append(1)

    registered.append(("Big", "my"))
    with pytest.raises(onnxref.ResourceLimitError, match="'tensor_bytes'.*my:Big"):
        run(_one("Big"), X)
    assert not ran


# ------------------------------------------------------------------ ONNX Runtime's scoring script

SCORE = """
import json

import numpy as np
import onnxref as onnxruntime


def init():
    global session, input_name, output_names
    session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    output_names = [output.name for output in session.get_outputs()]


def run(raw_data):
    try:
        data = np.array(json.loads(raw_data)["data"]).astype("float32")
        result = session.run([], {{input_name: data}})
        return json.dumps({{name: value.tolist() for name, value in zip(output_names, result)}})
    except Exception as error:
        return json.dumps({{"error": str(error)}})
"""


def _load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("score", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_scoring_script_needs_only_another_import(tmp_path: Path) -> None:
    """The usual script of a web service, `init` once and `run` for each request."""
    script = tmp_path / "score.py"
    script.write_text(SCORE.format(path=str(DIGITS)))
    score = _load_script(script)
    score.init()
    image = _digit()
    answer = json.loads(score.run(json.dumps({"data": image.tolist()})))
    expected = run(DIGITS, image)
    assert answer["label"] == expected["label"].tolist()
    np.testing.assert_array_equal(np.float32(answer["probabilities"]), expected["probabilities"])
    wrong = json.loads(score.run(json.dumps({"data": [[1, 2]]})))
    assert wrong == {"error": "input 'image' must have rank 4, shape [N, 1, 8, 8] (got shape [1, 2])"}
    assert json.loads(score.run(json.dumps({"data": image.tolist()}))) == answer


def _digit() -> np.ndarray[Any, Any]:
    from PIL import Image

    pixels = np.asarray(Image.open(EXAMPLES / "digit.png").convert("L").resize((8, 8)))
    return pixels.astype(np.float32).reshape(1, 1, 8, 8) / 255


# --------------------------------------------------------------------------------------- doctests


@pytest.mark.parametrize("name", ["onnxref", "onnxref.session", "onnxref.registry"])
def test_documentation_examples(name: str) -> None:
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module)
    assert not failed
    assert tried or name == "onnxref"
    if name == "onnxref.registry":
        unregister_op("Twice", domain="my.ops")
