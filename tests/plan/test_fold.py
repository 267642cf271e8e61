"""Constant folding: what is computed while planning, and what must not be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

import onnxref
from onnxref import InferenceSession, Limits, NodeError, ResourceLimitError
from onnxref.plan import _fold

HEAD = '<ir_version: 10, opset_import: ["": 22, "my.fold": 1]>\n'
X = np.float32([1, 2, 3])


def _session(text: str, **options: Any) -> InferenceSession:
    return InferenceSession(onnx.parser.parse_model(HEAD + text), **options)


def _executed(session: InferenceSession, feeds: Any) -> list[str]:
    """Run once and return the operators that were executed, bodies included."""
    seen: list[str] = []

    session.run_named(None, feeds, observers=[lambda execution: seen.append(execution.node.op_type)])
    return seen


CHAIN = """g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}>
{ a = Neg(w) s = Shape(a) b = Reshape(a, s) y = Add(x, b) }"""


def test_a_chain_of_constants_is_one_constant() -> None:
    session = _session(CHAIN)
    assert _executed(session, X) == ["Add"]
    np.testing.assert_array_equal(session.run(None, X)[0], np.zeros(3, np.float32))


def test_none_runs_the_graph_as_written() -> None:
    assert _executed(_session(CHAIN, optimize="none"), X) == ["Neg", "Shape", "Reshape", "Add"]
    with pytest.raises(ValueError, match="optimize must be 'all' or 'none' .got 'some'."):
        _session(CHAIN, optimize="some")


def test_folding_takes_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fold, "FOLDING_SECONDS", 0.0)
    assert _executed(_session(CHAIN), X) == ["Neg", "Shape", "Reshape", "Add"]


def test_folded_values_can_still_be_fetched() -> None:
    (a, s) = _session(CHAIN).run(["a", "s"], X)
    np.testing.assert_array_equal(a, np.float32([-1, -2, -3]))
    np.testing.assert_array_equal(s, [3])


def test_an_initializer_that_inputs_can_override_is_no_constant() -> None:
    session = _session(
        "g (float[3] x, float[3] w) => (float[3] y) <float[3] w = {1, 2, 3}> { a = Neg(w) y = Add(x, a) }"
    )
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], np.zeros(3, np.float32))
    np.testing.assert_array_equal(session.run(None, {"x": X, "w": 2 * X})[0], -X)


def test_constants_are_folded_in_branches_that_capture_them() -> None:
    session = _session(
        """g (bool c, float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> {
        y = If (c) <then_branch = t () => (float[3] p) { n = Neg(w) p = Add(x, n) },
                    else_branch = e () => (float[3] q) { q = Abs(x) }> }"""
    )
    assert _executed(session, {"c": np.array(True), "x": X}) == ["Add", "If"]


def test_a_branch_that_cannot_run_is_an_error_only_when_it_is_taken() -> None:
    session = _session(
        """g (bool c) => (float[K] y) <float[2] w = {1, 2}, int64[1] bad = {5}> {
        y = If (c) <then_branch = t () => (float[K] p) { p = Reshape(w, bad) },
                    else_branch = e () => (float[K] q) { q = Neg(w) }> }"""
    )
    np.testing.assert_array_equal(session.run(None, np.array(False))[0], np.float32([-1, -2]))
    with pytest.raises(NodeError, match="Reshape"):
        session.run(None, np.array(True))


def test_random_numbers_are_drawn_in_every_run() -> None:
    session = _session("g () => (float[8] y) { y = RandomNormal<shape = [8]>() }")
    assert not np.array_equal(session.run(None)[0], session.run(None)[0])


def test_operators_of_the_user_run_every_time() -> None:
    calls = []

    @onnxref.register_op("Count", domain="my.fold")
    def count(x: Any) -> Any:
        calls.append(1)
        return x

    session = _session("g () => (float[1] y) <float[1] w = {1}> { y = my.fold.Count(w) }")
    onnxref.unregister_op("Count", domain="my.fold")
    assert calls == []
    session.run(None)
    session.run(None)
    assert len(calls) == 2


def test_what_is_too_large_is_left_for_the_run_and_its_limits() -> None:
    huge = "g () => (float[N] y) <int64[1] n = {1099511627776}> { y = ConstantOfShape(n) }"
    session = _session(huge)
    with pytest.raises(ResourceLimitError, match="'tensor_bytes'.*ConstantOfShape"):
        session.run(None)
    small = "g () => (float[N] y) <int64[1] n = {1000}> { y = ConstantOfShape(n) }"
    with pytest.raises(ResourceLimitError, match="'live_bytes' is 1,000"):
        _session(small, limits=Limits(live_bytes=1000)).run(None)


def test_folded_outputs_belong_to_the_caller() -> None:
    session = _session("g () => (float[2] y) <float[2] w = {1, 2}> { y = Neg(w) }")
    (first,) = session.run(None)
    first[:] = 7
    np.testing.assert_array_equal(session.run(None)[0], np.float32([-1, -2]))
