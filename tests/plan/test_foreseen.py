"""Input shapes that are new: shape rules tell what a run would teach, and native code runs at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxref import InferenceSession, NodeError
from onnxref.dtypes import Array
from onnxref.errors import ResourceLimitError
from onnxref.limits import Limits
from onnxref.plan import Step
from onnxref.plan.specialize import Region, all_regions

HEAD = '<ir_version: 10, opset_import: ["" : 21, "my" : 1, "ai.onnx.ml" : 4]> '
MLP = """g (float[N, 3] x) => (y) <float[3, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}> {
    s = Shape(x) two = Constant<value_ints = [2, 2]>() first = Constant<value_ints = [0]>()
    n = Gather(s, first) t = Concat<axis = 0>(n, two) h = MatMul(x, w) r = Relu(h) y = Reshape(r, t) }"""
IN_FUNCTION = """g (float[N, 3] x) => (y) { a = my.Twice(x) y = Relu(a) }
    <domain: "my", opset_import: ["" : 21]> Twice (v) => (w) { u = Relu(v) w = Add(u, v) }"""
# A shape that follows from values parts the model in two.
PARTED = """g (float[N, 3] x) => (y) {
    r = Relu(x) i = NonZero(r) j = Transpose(i) v = GatherND(r, j) y = Relu(v) }"""
NO_RULE = "g (float[N, 3] x) => (y) { h = Relu(x) y = Hardmax(h) }"


def opened(text: str, backend: str = "numba", **options: Any) -> InferenceSession:
    return InferenceSession(onnx.parser.parse_model(HEAD + text), backend=backend, **options)


def x_of(n: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)}


def on_reference(session: InferenceSession, feeds: dict[str, Array]) -> tuple[Array, set[str]]:
    """Return the output of a run, and the operators that the reference ran."""
    seen: set[str] = set()

    def watch(_scope: str, ran: Any, *_times: float) -> None:
        if isinstance(ran, Step):
            seen.add(ran.node.op_type)

    (y,) = session.run_named(None, feeds, watcher=watch).values()
    return y, seen


def regions(session: InferenceSession) -> list[Region]:
    return all_regions(session._plan(None))


@pytest.mark.parametrize("text", [MLP, IN_FUNCTION])
def test_the_first_run_is_native(text: str) -> None:
    session, wanted = opened(text), opened(text, "numpy")
    for n in (5, 1, 8):
        y, seen = on_reference(session, x_of(n))
        assert not seen & {"Relu", "MatMul", "Reshape", "Add"}
        np.testing.assert_allclose(y, wanted.run(None, x_of(n))[0], rtol=1e-6, strict=True)
    assert [region.foreseen for region in regions(session)] == [True] * 3


def test_auto_foresees_once_native_code_has_proved_its_worth() -> None:
    session = opened(MLP, "auto")
    session.run(None, x_of(4))
    assert [region.foreseen for region in regions(session)] == [False]
    session.run(None, x_of(5))
    assert [region.foreseen for region in regions(session)] == [False] * 2
    proven = regions(session)[0]
    proven.seconds = proven.reference = 1e9
    while proven.program is None:  # its code may have to be compiled by another process
        session.run(None, x_of(4))
    proven.reference = 1e9
    y, seen = on_reference(session, x_of(7))
    assert "MatMul" not in seen
    for region in regions(session):
        region.reference = 0.0
    assert "MatMul" in on_reference(session, x_of(9))[1], "planning takes longer than the reference"
    np.testing.assert_allclose(y, opened(MLP, "numpy").run(None, x_of(7))[0], rtol=1e-6, strict=True)


def test_pieces_between_shapes_that_follow_from_values_are_foreseen() -> None:
    session, wanted = opened(PARTED), opened(PARTED, "numpy")
    for n in (6, 9):
        y, seen = on_reference(session, x_of(n))
        assert seen == {"NonZero"}
        np.testing.assert_array_equal(y, wanted.run(None, x_of(n))[0], strict=True)


def test_an_operator_without_a_rule_is_learned_from_a_run() -> None:
    session = opened(NO_RULE)
    for n in (4, 6):
        np.testing.assert_array_equal(
            session.run(None, x_of(n))[0], opened(NO_RULE, "numpy").run(None, x_of(n))[0]
        )
    assert [region.foreseen for region in regions(session)] == [False] * 2


def test_inputs_that_do_not_fit_raise_the_error_of_the_reference() -> None:
    session = opened("g (float[N, K] x) => (y) <float[3, 1] w = {1, 2, 3}> { h = MatMul(x, w) y = Relu(h) }")
    session.run(None, x_of(4))
    for _ in range(2):
        with pytest.raises(NodeError, match="A and B must agree in their inner dimension"):
            session.run(None, {"x": np.ones((4, 2), np.float32)})
    np.testing.assert_array_equal(session.run(None, {"x": np.ones((1, 3), np.float32)})[0], [[6]])


def test_limits_hold_for_what_is_foreseen() -> None:
    text = "g (float[N, 3] x, int64[2] s) => (y) { e = Expand(x, s) y = Relu(e) }"
    for backend in ("numpy", "numba"):
        session = opened(text, backend, limits=Limits(tensor_bytes=1 << 20))
        session.run(None, {**x_of(1), "s": np.int64([2, 3])})
        with pytest.raises(ResourceLimitError, match="tensor_bytes"):
            session.run(None, {**x_of(1), "s": np.int64([1 << 20, 3])})


def test_values_of_the_first_run_are_let_go() -> None:
    session = opened(NO_RULE)
    session.run(None, x_of(4))
    assert [region.record.frame.slots for region in regions(session)] == [[]]
