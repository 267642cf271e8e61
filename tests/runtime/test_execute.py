"""The executor: what runs, what is shared, what is freed, and what an error says."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

import onnxref
from onnxref import InferenceSession, KernelError, NodeError, OutputError, ResourceLimitError
from onnxref.runtime import Execution
from onnxref.runtime._execute import _describe

X = np.float32([1, 2, 3])
HEAD = '<ir_version: 10, opset_import: ["": 21, "my": 1]>\n'


def _model(
    body: str, *, inputs: str = "float[N] x", outputs: str = "y", weights: dict[str, Any] | None = None
) -> onnx.ModelProto:
    """Return a model with the nodes of `body`; its outputs have no declared type."""
    names = ", ".join(f"float {name}" for name in outputs.split())
    functions = '\n<domain: "my", opset_import: ["": 21, "my": 1]> Twice (a) => (b) { b = Add(a, a) }'
    model = onnx.parser.parse_model(f"{HEAD}g ({inputs}) => ({names}) {{ {body} }}{functions}")
    for value in model.graph.output:
        value.ClearField("type")
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def _session(*args: Any, **kwargs: Any) -> InferenceSession:
    return InferenceSession(_model(*args, **kwargs))


@pytest.fixture
def calls() -> Iterator[list[Any]]:
    """The operator `my.Count`, which returns its input and appends its tag here."""
    made: list[Any] = []

    @onnxref.register_op("Count", domain="my")
    def count(x: Any, *, tag: str = "") -> Any:
        made.append(tag)
        return x

    yield made
    onnxref.unregister_op("Count", domain="my")


# ---------------------------------------------------------------------------------- memory

SHARING: list[tuple[str, str]] = [
    ("input", "y = Identity(x) z = Identity(x)"),
    ("a shape", "y = Shape(x) z = Identity(y)"),
    ("reshaped input", "s = Constant<value_ints = [3, 1]>() y = Reshape(x, s) z = Reshape(x, s)"),
    ("initializer", "y = Identity(w) z = Identity(w)"),
    ("constant", "y = Constant<value_floats = [1.0, 2.0]>() z = Identity(y)"),
    ("one value twice", "y = Neg(x) z = Identity(y)"),
    ("parts of one value", "a = Concat<axis = 0>(x, x) y, z = Split<axis = 0, num_outputs = 2>(a)"),
    (
        "a branch's initializer and constant",
        "t = Constant<value = bool {1}>() "
        "y, z = If(t) <then_branch = t () => (float[2] p, float[1] q) <float[2] p = {1, 2}> "
        "{ q = Constant<value_floats = [1.0]>() }, "
        "else_branch = e () => (float p2, float q2) { p2 = Identity(x) q2 = Identity(x) }>",
    ),
    ("a function's input", "a = my.Twice(x) y = Transpose(a) z = Identity(a)"),
    ("sequence", "y = SequenceConstruct(x, x) z = Identity(y)"),
    ("a value that one's own operator returns", "a = Neg(x) y = my.Count(a) z = Identity(a)"),
]


def _arrays(value: Any) -> list[np.ndarray]:
    return [value] if isinstance(value, np.ndarray) else [a for item in value for a in _arrays(item)]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("body", [row[1] for row in SHARING], ids=[row[0] for row in SHARING])
def test_outputs_share_no_memory(body: str, backend: str) -> None:
    session = InferenceSession(_model(body, outputs="y z", weights={"w": X}), backend=backend)
    x = X.copy()
    first = session.run(None, x)
    arrays = [x, *_arrays(first)]
    for i, one in enumerate(arrays):
        assert one.flags.writeable
        assert not any(np.shares_memory(one, other) for other in arrays[:i])
    kept = [a.copy() for a in _arrays(first)]
    for array in arrays:
        array[:] = -99
    for _ in range(2):
        for again, before in zip(_arrays(session.run(None, X)), kept, strict=True):
            np.testing.assert_array_equal(again, before)
            again[...] = -99


def test_inputs_and_weights_as_outputs() -> None:
    session = _session("y = Add(x, w)", weights={"w": X})
    x = X.copy()
    for name in ("x", "w"):
        (value,) = session.run([name], x)
        value[:] = 0
    np.testing.assert_array_equal(session.run(None, x)[0], 2 * X)


MIB = 2**20


def _peak(session: InferenceSession, x: Any) -> int:
    """Return the peak of NumPy's and Python's memory during a run, above what there was before."""
    session.run(None, x[:1])  # plans, imports and caches are not what is measured
    gc.collect()
    tracemalloc.start()
    try:
        session.run(None, x)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


CHAINS: list[tuple[str, str, float]] = [
    # (what, body, values of the input's size that must live at once)
    ("chain", "a0 = Neg(x) " + " ".join(f"a{i + 1} = Neg(a{i})" for i in range(30)) + " y = Neg(a30)", 2),
    (
        "views in between",
        "s = Constant<value_ints = [-1, 1]>() a0 = Neg(x) "
        + " ".join(f"b{i} = Reshape(a{i}, s) a{i + 1} = Neg(b{i})" for i in range(30))
        + " y = Neg(a30)",
        2,
    ),
    (
        "residual",
        "a0 = Neg(x) "
        + " ".join(f"b{i} = Neg(a{i}) a{i + 1} = Add(a{i}, b{i})" for i in range(30))
        + " y = Neg(a30)",
        3,
    ),
    ("outputs that nothing uses", "a, b = Dropout(x) c = Neg(a) d = Neg(c) y = Neg(d)", 2),
    (
        "function",
        "a0 = Neg(x) " + " ".join(f"a{i + 1} = my.Twice(a{i})" for i in range(30)) + " y = Neg(a30)",
        2,
    ),
    (
        # The value that is carried in lives until the loop kernel has the next one.
        "loop",
        "n = Constant<value_int = 30>() t = Constant<value = bool {1}>() a = Neg(x) "
        "y = Loop(n, t, a) <body = b (int64 i, bool c, float[N] v) => (bool c2, float[N] w) "
        "{ c2 = Identity(c) p = Neg(v) q = Neg(p) w = Neg(q) }>",
        4,
    ),
]


@pytest.mark.parametrize(("body", "values"), [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_values_are_freed_at_their_last_use(body: str, values: float) -> None:
    x = np.ones(2 * MIB, np.float32)
    assert _peak(_session(body), x) <= 1.3 * values * x.nbytes


def test_the_account_of_memory_follows_what_is_really_alive() -> None:
    """Views, sequences and scan outputs: each array counts once, until it is freed."""
    from onnxref.limits import Budget
    from onnxref.plan import build_plan
    from onnxref.runtime import Run, run_plan

    body = (
        "n = Constant<value_int = 8>() t = Constant<value = bool {1}>() e = SequenceEmpty() "
        "a = Neg(x) s = Constant<value_ints = [-1, 1]>() b = Reshape(a, s) c = Abs(b) "
        "q, r = Loop(n, t, e) <body = b (int64 i, bool g, seq(float[N]) v) => "
        "(bool g2, seq(float[N]) w, float[N] o) "
        "{ g2 = Identity(g) p = Exp(x) w = SequenceInsert(v, p) o = Cos(p) }> y = ReduceSum(r)"
    )
    session = _session(body, outputs="y c q")
    x = np.ones(MIB, np.float32)
    session.run(None, x[:1])
    plan = build_plan(session._model)
    run = Run(Budget(), np.random.default_rng(0))
    gc.collect()
    tracemalloc.start()
    outputs = run_plan(plan, [x], run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Eight values in the sequence, eight scan outputs and `c`; stacking makes eight more in the kernel.
    assert run.budget.peak_bytes == pytest.approx(17 * x.nbytes, rel=0.02)
    assert peak == pytest.approx(25 * x.nbytes, rel=0.02)
    assert run.budget.live_bytes == pytest.approx(9 * x.nbytes, rel=0.02)
    del outputs
    assert run.budget.live_bytes < x.nbytes


# ---------------------------------------------------------------------------------- what runs


def test_only_the_needed_nodes_run(calls: list[Any]) -> None:
    body = 'a = my.Count<tag = "a">(x) b = my.Count<tag = "b">(a) c = my.Count<tag = "c">(a) y = Add(b, c)'
    session = _session(body, outputs="y b")
    for names, tags in (
        (None, "abc"),
        ([], "abc"),
        (["y"], "abc"),
        (["a"], "a"),
        (["c"], "ac"),
        (["c", "a"], "ac"),
        (["x"], ""),
    ):
        calls.clear()
        values = session.run(names, X)
        assert "".join(calls) == tags
        assert len(values) == len(names or "yb")
    with pytest.raises(OutputError, match="^the model has no value 'nope'; its outputs are 'y', 'b'$"):
        session.run(["nope"], X)
    with pytest.raises(OutputError, match="no value ''"):
        session.run([""], X)


def test_only_the_branch_taken_runs(calls: list[Any]) -> None:
    body = (
        'y = If(c) <then_branch = t () => (float p) { p = my.Count<tag = "then">(x) }, '
        'else_branch = e () => (float q) { q = my.Count<tag = "else">(x) unused = my.Count<tag = "-">(x) }>'
    )
    session = _session(body, inputs="float[N] x, bool c")
    session.run(None, {"x": X, "c": True})
    session.run(None, {"x": X, "c": False})
    assert calls == ["then", "else"]


def test_nested_control_flow_captures_outer_values() -> None:
    """A Scan in an If in a Loop: sum over rows of x + i, where i is even; each level reads outer names."""
    model = _model(
        "n = Constant<value_int = 4>() t = Constant<value = bool {1}>() zero = Constant<value_float = 0.0>() "
        "two = Constant<value_int = 2>() none = Constant<value_int = 0>() "
        "total = Loop(n, t, zero) <body = l (int64 i, bool c, float acc) => (bool c2, float acc2) {"
        "  c2 = Identity(c) f = Cast<to = 1>(i) odd = Mod(i, two) even = Equal(odd, none)"
        "  part = If(even) <then_branch = a () => (float p) {"
        "    p, each = Scan <num_scan_inputs = 1, "
        "                    body = s (float st, float[M] row) => (float st2, float e) {"
        "      shifted = Add(row, f) e = ReduceSum<keepdims = 0>(shifted) st2 = Add(st, e) }>(zero, x)"
        "  }, else_branch = b () => (float q) { q = Identity(zero) }>"
        "  acc2 = Add(acc, part) }> y = Add(total, zero)",
        inputs="float[N,M] x",
    )
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_allclose(onnxref.run(model, x)["y"], sum((x + i).sum() for i in (0, 2)))


def test_sequence_map_captures_outer_values() -> None:
    body = (
        "s = SequenceConstruct(x, w) "
        "m = SequenceMap(s) <body = b (float[N] e) => (float[N] r) { r = Mul(e, w) }> "
        "y = ConcatFromSequence<axis = 0>(m)"
    )
    y = onnxref.run(_model(body, weights={"w": 2 * X}), X)["y"]
    np.testing.assert_array_equal(y, np.concatenate([2 * X * X, 4 * X * X]))


def test_subgraphs_have_names_of_their_own() -> None:
    """A body's inputs and nodes may bear names that the graph around it uses, too."""
    body = (
        "a = Neg(x) n = Constant<value_int = 2>() t = Constant<value = bool {1}>() "
        "b = Loop(n, t, x) <body = l (int64 n, bool t, float[N] a) => (bool t2, float[N] y) "
        "{ t2 = Identity(t) y = Add(a, a) }> y = Add(a, b)"
    )
    np.testing.assert_array_equal(onnxref.run(_model(body), X)["y"], 3 * X)


def test_branches_may_return_outer_values_themselves() -> None:
    model = _model("y = Add(x, w)", inputs="bool c, float[N] x, float[N] w")
    branches = [helper.make_graph([], name, [], [onnx.ValueInfoProto(name=name)]) for name in "xw"]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    model.graph.node[0].CopyFrom(node)
    session = InferenceSession(model)
    for c in (True, False):
        y = session.run(None, {"c": c, "x": X, "w": -X})[0]
        np.testing.assert_array_equal(y, X if c else -X)


def test_observers_see_every_node() -> None:
    body = (
        "a = my.Twice(x) n = Constant<value_int = 2>() t = Constant<value = bool {1}>() "
        "y = Loop(n, t, a) <body = l (int64 i, bool c, float[N] v) => (bool c2, float[N] w) "
        "{ c2 = Identity(c) w = my.Twice(v) }>"
    )
    seen: list[Execution] = []
    values = _session(body).run_named(None, X, observers=[seen.append, lambda _: None])
    names = [execution.node.op_type for execution in seen]
    assert names == ["Add", "Twice", *["Identity", "Add", "Twice"] * 2, "Loop"]
    scopes = [execution.scope for execution in seen]
    assert scopes[:3] == ["Twice#0/", "", "Loop#3[0]/body/"]
    assert scopes[6] == "Loop#3[1]/body/Twice#1/"
    np.testing.assert_array_equal(seen[0].outputs[0], 2 * X)
    np.testing.assert_array_equal(seen[-1].outputs[0], values["y"])
    assert all(execution.seconds > 0 for execution in seen)


def test_user_operators_may_return_python_values() -> None:
    @onnxref.register_op("Values", domain="my")
    def values(x: Any) -> Any:
        return 1.5, np.array(["a"]), np.float32(2), [x], True

    try:
        session = _session(
            "a, s, b, q, t = my.Values(x) u = StringConcat(s, s) v = SequenceAt(q, i) w = Not(t)",
            outputs="a u b v w",
            weights={"i": np.int64(0)},
        )
        a, u, b, v, w = session.run(None, X)
    finally:
        onnxref.unregister_op("Values", domain="my")
    np.testing.assert_array_equal(a, np.array(1.5), strict=True)
    assert u.tolist() == ["aa"]
    np.testing.assert_array_equal(b, np.array(2, np.float32), strict=True)
    np.testing.assert_array_equal(v, X)
    np.testing.assert_array_equal(w, np.array(False), strict=True)


# ---------------------------------------------------------------------------------- errors


def test_errors_name_node_operator_version_and_inputs() -> None:
    session = _session("a = Neg(x) y = MatMul(a, m)", weights={"m": np.zeros((4, 2), np.float32)})
    with pytest.raises(NodeError) as caught:
        session.run(None, X)
    text = str(caught.value)
    assert text.startswith("node #1 (MatMul, opset 21): ")
    assert text.endswith(" [inputs: a: tensor(float)[3], m: tensor(float)[4, 2]]")
    assert "\n" not in text
    assert isinstance(caught.value.__cause__, (KernelError, ValueError))


@pytest.mark.parametrize("make", [lambda x: x.astype(np.longdouble), lambda x: np.longdouble(x[0])])
def test_types_that_onnx_lacks_are_refused_where_they_come_from(make: Any) -> None:
    onnxref.register_op("Wide", domain="my")(make)
    try:
        with pytest.raises(NodeError) as caught:
            _session("a = my.Wide(x) y = Neg(a)").run(None, X)
    finally:
        onnxref.unregister_op("Wide", domain="my")
    assert str(caught.value) == (
        "node #0 (my:Wide, opset 1): ONNX has no element type for NumPy's "
        f"{np.dtype(np.longdouble)} [inputs: x: tensor(float)[3]]"
    )


def test_values_of_a_type_that_onnx_lacks_can_be_shown() -> None:
    assert _describe(np.zeros((2, 3), "m8[s]")) == "timedelta64[s][2, 3]"


def _failing(error: Exception) -> Any:
    def fail(x: Any, s: Any = None, q: Any = None) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KernelError("x must be positive (got -1)"), "x must be positive (got -1)"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (MemoryError("no more"), "MemoryError: no more"),
    ],
)
def test_errors_in_kernels_keep_their_cause(error: Exception, shown: str) -> None:
    onnxref.register_op("Fail", domain="my")(_failing(error))
    try:
        model = _model('s = SequenceConstruct(x) y = my.Fail(x, "", s)')
        model.graph.node[1].name = "the one"
        session = InferenceSession(model)
        with pytest.raises(NodeError) as caught:
            session.run(None, X)
    finally:
        onnxref.unregister_op("Fail", domain="my")
    assert str(caught.value) == (
        f"node 'the one' (my:Fail, opset 1): {shown} "
        "[inputs: x: tensor(float)[3], absent: none, s: sequence of 1]"
    )
    assert caught.value.__cause__ is error


def test_errors_in_subgraphs_and_functions_name_the_inner_node() -> None:
    onnxref.register_op("Fail", domain="my")(_failing(KernelError("no")))
    try:
        imports = '\n<domain: "my", opset_import: ["": 21, "my": 1]>'
        text = (
            f"{HEAD}g (float[N] x, bool c) => (float[N] y) {{ "
            "y = If(c) <then_branch = t () => (float p) { p = my.Outer(x) }, "
            "else_branch = e () => (float q) { q = Neg(x) }> }"
            f"{imports} Outer (a) => (b) {{ c = Neg(a) b = my.Fail(c) }}"
        )
        session = InferenceSession(onnx.parser.parse_model(text))
        with pytest.raises(NodeError) as caught:
            session.run(None, {"x": X, "c": True})
    finally:
        onnxref.unregister_op("Fail", domain="my")
    assert str(caught.value) == "node #1 (my:Fail, opset 1): no [inputs: c: tensor(float)[3]]"
    np.testing.assert_array_equal(session.run(None, {"x": X, "c": False})[0], -X)


def test_bodies_that_do_not_fit_are_named() -> None:
    model = _model(
        "t = Constant<value = bool {1}>() y, z = If(t) <"
        "then_branch = a () => (float p) { p = Neg(x) }, else_branch = b () => (float q) { q = Neg(x) }>"
    )
    message = "node #1 .If, opset 21.: its kernel gave 1 outputs of 2 .inputs: t: tensor.bool..."
    for outputs in (["z"], ["y", "z"]):
        with pytest.raises(NodeError, match=message):
            onnxref.run(model, X, outputs)
    np.testing.assert_array_equal(onnxref.run(model, X)["y"], -X)
    branch = model.graph.node[1].attribute[0].g
    branch.input.append(helper.make_tensor_value_info("k", 1, []))
    with pytest.raises(
        NodeError, match="node #1 .If, opset 21.: graph 'a' takes 1 inputs .its node gives it 0."
    ):
        onnxref.run(model, X)


def test_sessions_work_after_an_error() -> None:
    session = _session("y = Add(x, w)", weights={"w": X})
    for _ in range(2):
        with pytest.raises(NodeError):
            session.run(None, np.zeros(2, np.float32))
        np.testing.assert_array_equal(session.run(None, X)[0], 2 * X)


def test_endless_recursion_in_a_kernel_is_a_node_error() -> None:
    @onnxref.register_op("Deep", domain="my")
    def deep(x: Any) -> Any:
        return deep(x)

    try:
        with pytest.raises(NodeError, match="node #0 .my:Deep, opset 1.: RecursionError: maximum recursion"):
            _session("y = my.Deep(x)").run(None, X)
    finally:
        onnxref.unregister_op("Deep", domain="my")


# ---------------------------------------------------------------------------------- threads


def test_one_session_in_many_threads() -> None:
    body = (
        "n = Constant<value_int = 5>() t = Constant<value = bool {1}>() a = my.Twice(x) "
        "y = Loop(n, t, a) <body = l (int64 i, bool c, float[N] v) => (bool c2, float[N] w) "
        "{ c2 = Identity(c) f = Cast<to = 1>(i) w = Add(v, f) }> z = Neg(x)"
    )
    session = _session(body, outputs="y z")
    start = threading.Barrier(8)

    def work(seed: int) -> int:
        start.wait()
        right = 0
        for k in range(50):
            x = np.full(100, 1000 * seed + k, np.float32)
            names = (None, ["z"], ["a", "y"])[k % 3]  # plans are made while others run
            values = session.run(names, x)
            expected = {"y": 2 * x + 10, "z": -x, "a": 2 * x}
            for name, value in zip(names or ["y", "z"], values, strict=True):
                np.testing.assert_array_equal(value, expected[name])
            right += 1
        return right

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [50] * 8


def test_limits_are_counted_for_each_run_alone() -> None:
    session = InferenceSession(_model("a = Neg(x) y = Neg(a)"), limits=onnxref.Limits(executed_nodes=2))
    for _ in range(3):
        session.run(None, X)
    with pytest.raises(ResourceLimitError):
        InferenceSession(_model("a = Neg(x) y = Neg(a)"), limits=onnxref.Limits(executed_nodes=1)).run(
            None, X
        )
