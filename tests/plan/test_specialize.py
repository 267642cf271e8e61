"""Regions: what a first run teaches, and that native programs give what the reference gives."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnx
import pytest

from onnxref import InferenceSession, NodeError
from onnxref.errors import BackendError, ResourceLimitError
from onnxref.limits import DEFAULT, Budget, Limits
from onnxref.plan.specialize import all_regions
from onnxref.plan.specialize._memory import Lifetime, arrange
from onnxref.runtime._shortcut import find_shortcut

HEAD = '<ir_version: 10, opset_import: ["" : 21, "my" : 1]> '
RNG = np.random.default_rng(7)


def session(text: str, backend: str = "numba", **options: Any) -> InferenceSession:
    return InferenceSession(onnx.parser.parse_model(HEAD + text), backend=backend, **options)


def kinds(made: InferenceSession) -> dict[str, list[str]]:
    """Return the operators of the last run by what became of them."""
    found: dict[str, list[str]] = {}
    for row in made.explain():
        found.setdefault(row.kind, []).append(row.operator.removeprefix("onnxref.internal:"))
    return found


def agrees(text: str, *feeds: dict[str, Any], **options: Any) -> InferenceSession:
    """Assert that both backends give the same, run after run; return the native session."""
    made, wanted = session(text, **options), session(text, "numpy")
    for feed in feeds:
        for _ in range(2):
            for y, e in zip(made.run(None, feed), wanted.run(None, feed), strict=True):
                np.testing.assert_allclose(y, e, rtol=1e-6, atol=1e-6, strict=True)
    return made


def x_of(*shape: int) -> dict[str, Any]:
    return {"x": RNG.standard_normal(shape).astype(np.float32)}


SHAPES = """g (float[N, 4] x) => (y) {
    s = Shape(x) n = Constant<value_ints = [0]>() r = Gather(s, n) m = Constant<value_ints = [2, 2]>()
    t = Concat<axis = 0>(r, m) v = Reshape(x, t) w = Relu(v) y = Transpose<perm = [0, 2, 1]>(w) }"""


def test_shape_arithmetic_is_known_and_new_shapes_are_learnt() -> None:
    made = agrees(SHAPES, x_of(0, 4), x_of(3, 4), x_of(5, 4), x_of(3, 4))
    assert set(kinds(made)) == {"known", "native", "view"}


def test_a_value_that_shapes_depend_on_ends_a_region() -> None:
    text = """g (float[N] x) => (y) <int64[1] k = {0}> {
        a = Relu(x) i = NonZero(a) b = Neg(a) c = Flatten(i) d = Cast<to = 1>(c) e = Exp(d)
        f = Unsqueeze(b, k) y = Concat<axis = 1>(e, f) }"""
    made = agrees(text, x_of(9), x_of(9), x_of(4))
    assert kinds(made)["reference"] == ["NonZero"]


def test_outputs_come_in_the_models_order() -> None:
    text = "g (float[N] x) => (z, y, x2) { y = Relu(x) z = Neg(y) x2 = Identity(x) }"
    agrees(text, x_of(5))


def test_a_constant_can_be_an_output() -> None:
    agrees("g (float[N] x) => (s, y) { s = Shape(x) y = Relu(x) }", x_of(5))


def test_outputs_share_no_memory() -> None:
    made = session("g (float[N] x) => (y, z) { y = Relu(x) z = Identity(y) }")
    for _ in range(3):
        x = x_of(6)["x"]
        y, z = made.run(None, {"x": x})
        before = z.copy()
        y[...] = 7
        np.testing.assert_array_equal(z, before)


BRANCH = """g (float[N] x, int64 rate) => (y) {
    wanted = Constant<value_int = 16>() c = Equal(rate, wanted)
    y = If(c) <then_branch = t () => (p) { p = Relu(x) },
               else_branch = e () => (q) { r = Neg(x) q = Exp(r) }> }"""


def test_a_branch_that_an_input_decides_is_part_of_the_region() -> None:
    one, other = np.array(16), np.array(8)  # arrays, which take the shortest way into a program
    made = agrees(BRANCH, {**x_of(5), "rate": one}, {**x_of(5), "rate": other}, {**x_of(5), "rate": one})
    assert "control" not in kinds(made)


def test_what_decides_may_change_in_place() -> None:
    text = """g (float[N] x, int64 k) => (y, z) {
        one = Constant<value_int = 1>() c = Equal(k, one) zero = Constant<value_ints = [0]>()
        u = Unsqueeze(k, zero) v = Cast<to = 1>(u)
        y = If(c) <then_branch = t () => (p) { p = Add(x, v) },
                   else_branch = e () => (q) { q = Sub(x, v) }> z = Relu(x) }"""
    made, wanted = session(text), session(text, "numpy")
    k, feeds = np.array(1), x_of(3)
    made.run(None, {**feeds, "k": k})
    k[...] = 100
    for value in (k, np.array(1)):
        for _ in range(2):
            ours, theirs = (one.run(None, {**feeds, "k": value})[0] for one in (made, wanted))
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_shortcut_is_made_for_the_inputs_at_hand() -> None:
    """The region that was used last may be that of another thread, with inputs of another type."""
    made = session("g (x) => (y) { y = Relu(x) }")
    made.run(None, {"x": np.ones(4, np.float32)})
    plan = made._plan(None)
    assert find_shortcut(plan, [np.ones(4, np.float32)], DEFAULT) is not None
    assert find_shortcut(plan, [np.ones(4)], DEFAULT) is None


def test_shapes_that_are_forgotten_leave_no_weights_behind() -> None:
    """What is packed of values that follow from shapes goes with the program that it was packed for."""
    text = """g (float[N, 4] x) => (y) <float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}> {
        s = Shape(x) o = ConstantOfShape<value = float {2}>(s) t = Transpose(o) h = MatMul(t, x)
        y = MatMul(h, w) }"""
    made = session(text)
    made.run(None, x_of(3, 4))
    acceleration = made._acceleration
    assert acceleration is not None
    before = acceleration.packs.nbytes
    for n in range(4, 12):
        made.run(None, x_of(n, 4))
    assert before == acceleration.packs.nbytes > 0


def test_memory_kept_between_runs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxref.plan.specialize._regions._MOST_IDLE_BYTES", 1 << 20)
    made = session("g (float[N] x) => (y) { a = Softmax(x) b = Softmax(a) y = Softmax(b) }")
    for n in range(100_000, 100_012):
        made.run(None, x_of(n))
    programs = [region.program for region in all_regions(made._plan(None)) if region.program is not None]
    assert len(programs) == 12
    assert sum(program.idle_bytes for program in programs) < 1 << 21


def test_a_branch_that_values_decide_stays_control_flow() -> None:
    text = """g (float[N] x) => (y) {
        s = ReduceSum<keepdims = 0>(x) z = Constant<value_float = 0.0>() c = Greater(s, z)
        y = If(c) <then_branch = t () => (p) { p = Relu(x) }, else_branch = e () => (q) { q = Exp(x) }> }"""
    made = agrees(text, {"x": np.float32([1, 2])}, {"x": np.float32([-1, -2])}, {"x": np.float32([1, 2])})
    assert kinds(made)["control"] == ["If"]


def test_functions_are_part_of_the_region() -> None:
    text = """g (float[N] x) => (y) { a = my.Twice(x) y = my.Twice(a) }
        <domain: "my", opset_import: ["" : 21]> Twice (v) => (w) { u = Relu(v) w = Add(u, v) }"""
    made = agrees(text, x_of(5), x_of(2))
    assert set(kinds(made)) == {"inlined", "native"}


def test_loops_run_their_bodies_natively() -> None:
    text = """g (float[3] x) => (y, h) {
        n = Constant<value_int = 4>() t = Constant<value = bool {1}>()
        y, h = Loop(n, t, x) <body = b (int64 i, bool c, float[3] v) => (c2, w, u) {
            c2 = Identity(c) w = Relu(v) u = Exp(w) }> }"""
    agrees(text, x_of(3))


def test_a_default_that_is_replaced_is_seen() -> None:
    text = "g (float[2] x, float[2] w) => (y) <float[2] w = {2, 3}> { a = Mul(x, w) y = Relu(a) }"
    w = np.float32([-1, 5])
    agrees(text, x_of(2), {**x_of(2), "w": w}, x_of(2), {**x_of(2), "w": w})


def test_bad_values_raise_the_error_of_the_reference() -> None:
    made = session("g (float[4, 3] x, int64[N] i) => (y) { a = Gather<axis = 0>(x, i) y = Relu(a) }")
    x = x_of(4, 3)["x"]
    for _ in range(2):
        made.run(None, {"x": x, "i": np.int64([0, -1])})
        with pytest.raises(NodeError, match=r"Gather.*indices must be in \[-4, 3\]"):
            made.run(None, {"x": x, "i": np.int64([0, 4])})


def test_every_pass_can_be_left_out() -> None:
    from onnxref.plan.passes import all_passes
    from onnxref.plan.specialize import LAYOUTS

    text = """g (float[1, 3, 8, 8] x) => (y) <float[4, 3, 3, 3] w = {%s}> {
        a = Conv<pads = [1, 1, 1, 1]>(x, w) b = Sigmoid(a) c = Mul(a, b)
        d = GlobalAveragePool(c) y = Flatten(d) }"""
    weights = ", ".join(f"{v:.3f}" for v in RNG.standard_normal(108))
    for name in (*all_passes(), *LAYOUTS):
        made, wanted = session(text % weights, without=[name]), session(text % weights, "numpy")
        feeds = x_of(1, 3, 8, 8)
        for y, e in zip(made.run(None, feeds), wanted.run(None, feeds), strict=True):
            np.testing.assert_allclose(y, e, rtol=2e-5, atol=1e-6)


def test_threads_share_a_session() -> None:
    made = session(SHAPES)
    feeds = [x_of(n, 4) for n in (1, 2, 3)]
    wanted = [session(SHAPES, "numpy").run(None, feed)[0] for feed in feeds]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(60):
            at = (i + seed) % 3
            if not np.array_equal(made.run(None, feeds[at])[0], wanted[at]):
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_limits_hold_for_native_programs() -> None:
    text = "g (float[N] x) => (y) { a = Exp(x) b = Softmax<axis = 0>(a) y = Sqrt(b) }"
    made = session(text, limits=Limits(live_bytes=100_000))
    made.run(None, x_of(1000))
    with pytest.raises(ResourceLimitError, match="live_bytes"):
        made.run(None, x_of(100_000))
    made.run(None, x_of(1000))


def test_an_integer_to_a_float_power_saturates_and_does_not_wrap() -> None:
    """Its product would wrap; neither a chain nor a kernel of its own may take it for one."""
    for text in (
        "g (int32[3] x) => (y) <float[1] e = {2.0}> { y = Pow(x, e) }",
        "g (int32[3] x) => (y) <float[1] e = {2.0}> { a = Add(x, x) b = Pow(a, e) y = Sub(b, x) }",
    ):
        x = {"x": np.array([50_000, 3, -4], np.int32)}
        expected = session(text, backend="numpy").run(None, x)
        np.testing.assert_array_equal(session(text).run(None, x), expected)


def test_nodes_that_run_natively_count_as_executed() -> None:
    """A loop must not get further under a limit on nodes because its body is native."""
    chain = " ".join(f"v{i + 1} = Exp(v{i})" for i in range(30))
    text = f"""g (float[3] x, int64 n) => (y) {{
        t = Constant<value = bool {{1}}>()
        y = Loop(n, t, x) <body = b (int64 i, bool c, float[3] v0) => (c2, v30) {{
            c2 = Identity(c) {chain} }}> }}"""
    made = session(text, limits=Limits(executed_nodes=1_000))
    feeds = x_of(3)
    made.run(None, {**feeds, "n": np.int64(5)})
    with pytest.raises(ResourceLimitError, match="executed_nodes"):
        made.run(None, {**feeds, "n": np.int64(50)})


def test_arena_and_outputs_are_charged_before_they_are_made() -> None:
    made = session("g (float[N] x) => (y, z) { y = Exp(x) z = Neg(x) }")
    feeds = x_of(1_000)
    made.run(None, feeds)
    regions = made._plan(None).regions
    assert regions is not None
    (region,) = regions.regions()
    assert region.program is not None
    with pytest.raises(ResourceLimitError, match="live_bytes"):
        region.program.run([feeds["x"]], Budget(Limits(live_bytes=7_999)), lambda *_: [])
    assert len(region.program.run([feeds["x"]], Budget(Limits(live_bytes=8_200)), lambda *_: [])) == 2


def test_who_learns_while_another_thread_plans_gets_native_code_too() -> None:
    made = session(SHAPES)
    regions = made._plan(None).regions
    assert regions is not None
    feeds = x_of(6, 4)
    with regions._building:
        thread = threading.Thread(target=made.run, args=(None, feeds))
        thread.start()
        thread.join(0.3)
    thread.join()
    made.run(None, feeds)
    assert set(kinds(made)) == {"known", "native", "view"}


def test_the_number_of_threads_changes_no_bit() -> None:
    text = """g (float[M, K] x) => (y) {
        t = Transpose<perm = [1, 0]>(x) a = MatMul(x, t) b = Softmax(a) y = ReduceSum<keepdims = 0>(b) }"""
    feeds = x_of(257, 190)
    one, two = (session(text, intra_op_num_threads=n).run(None, feeds)[0] for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_auto_specialises_when_it_pays() -> None:
    text = "g (float[N] x) => (y) { a = Relu(x) y = Neg(a) }"
    session(text).run(None, x_of(7))  # now the code is in the cache
    made = session(text, "auto")
    feeds = x_of(7)
    assert {row.kind for row in made.explain()} == {"reference"}
    for _ in range(300):
        (y,) = made.run(None, feeds)
        np.testing.assert_array_equal(y, -np.maximum(feeds["x"], 0))
    assert {row.kind for row in made.explain()} == {"native"}


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(BackendError, match=r"there is no backend 'cuda'; choose from numpy, numba"):
        session("g (float[N] x) => (y) { y = Relu(x) }", "cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fast"}, r"precision must be one of default, strict, bf16 \(got 'fast'\)"),
        ({"intra_op_num_threads": 0}, r"a team has at least one thread \(got 0\)"),
        ({"without": ["speed"]}, r"there is no pass 'speed'; choose from .*fuse_chains.*layout"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        session("g (float[N] x) => (y) { y = Relu(x) }", **options)


# Memory -------------------------------------------------------------------------------------------


def test_lives_that_overlap_never_share_memory() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        lives = []
        for _ in range(40):
            first = int(rng.integers(0, 30))
            lives.append(Lifetime(int(rng.integers(1, 5000)), first, first + int(rng.integers(0, 8))))
        size = arrange(lives)
        for i, a in enumerate(lives):
            assert a.offset % 64 == 0
            assert a.offset + a.nbytes <= size
            for b in lives[:i]:
                if a.first <= b.last and b.first <= a.last:
                    assert a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset


def test_a_chain_needs_two_places() -> None:
    lives = [Lifetime(1024, i, i + 1) for i in range(20)]
    assert arrange(lives) == 2048


# Precision ----------------------------------------------------------------------------------------


def _network() -> onnx.ModelProto:
    """Return a small network with a convolution, normalisation, products and Softmax."""
    text = """g (float[N, 32, 12, 12] x) => (y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w) b = Relu(a) c = GlobalAveragePool(b) d = Flatten(c)
        e = LayerNormalization(d, s) f = MatMul(e, v) g = Gelu(f) h = Softmax(g) k = Neg(h) y = Add(g, k) }"""
    model = onnx.parser.parse_model(HEAD + text)
    rng = np.random.default_rng(3)
    for name, shape in (("w", (48, 32, 3, 3)), ("s", (48,)), ("v", (48, 20))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def test_strict_results_depend_on_neither_batch_nor_threads() -> None:
    model = _network()
    x = np.random.default_rng(4).standard_normal((5, 32, 12, 12)).astype(np.float32)
    made = InferenceSession(model, backend="numba", precision="strict", intra_op_num_threads=2)
    (whole,) = made.run(None, {"x": x})
    alone = InferenceSession(model, backend="numba", precision="strict", intra_op_num_threads=1)
    for i in range(len(x)):
        np.testing.assert_array_equal(alone.run(None, {"x": x[i : i + 1]})[0][0], whole[i])


@pytest.mark.parametrize("precision", ["default", "strict"])
def test_every_precision_agrees_with_the_reference(precision: str) -> None:
    model = _network()
    x = np.random.default_rng(4).standard_normal((2, 32, 12, 12)).astype(np.float32)
    (y,) = InferenceSession(model, backend="numba", precision=precision).run(None, {"x": x})
    (wanted,) = InferenceSession(model, backend="numpy").run(None, {"x": x})
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-6)
