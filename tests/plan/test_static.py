"""Steps whose output shapes follow from values, rewritten: NonMaxSuppression with native code around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from suppression_cases import crowd

import onnxref
from onnxref import InferenceSession, NodeError
from onnxref.dtypes import Array

HEAD = '<ir_version: 10, opset_import: ["" : 21]> '

# Scores of detected boxes, and the boxes, as detectors end.
DETECTOR = """g (float[B, N, 4] boxes, float[B, C, N] logits) => (found, chosen, best) <
    int64 most = {5}, float iou = {0.5}, float least = {0.6}, int64 two = {2}, int64[1] all = {-1}> {
    scores = Sigmoid(logits)
    [nms] found = NonMaxSuppression(boxes, scores, most, iou, least)
    number = Gather<axis = 1>(found, two) flat = Reshape(boxes, shape) chosen = Gather<axis = 0>(flat, number)
    values = Reshape(scores, all) best = ReduceMax<keepdims = 0>(values) }""".replace(
    "int64[1] all", "int64[2] shape = {-1, 4}, int64[1] all"
)


def session(text: str, backend: str = "numba", **options: Any) -> InferenceSession:
    return InferenceSession(onnx.parser.parse_model(HEAD + text), backend=backend, **options)


def feeds_of(batches: int = 1, classes: int = 3, n: int = 200, **scores: str) -> dict[str, Array]:
    boxes, scores_ = crowd(0, batches, classes, n)
    return {"boxes": boxes, scores.get("name", "logits"): scores_ * 6 - 3}


def agrees(text: str, *feeds: dict[str, Any]) -> InferenceSession:
    """Assert that both backends give the same, run after run; return the native session."""
    made, wanted = session(text), session(text, "numpy")
    for feed in feeds:
        for _ in range(2):
            for y, e in zip(made.run(None, feed), wanted.run(None, feed), strict=True):
                np.testing.assert_allclose(y, e, rtol=1e-6, strict=True)
    return made


def rows_of(made: InferenceSession) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return the model's nodes and the kind of each operator of the last run."""
    return {row.operator.removeprefix("onnxref.internal:"): (row.nodes, row.kind) for row in made.explain()}


def test_it_runs_natively_and_so_does_what_is_around_it() -> None:
    made = agrees(DETECTOR, feeds_of(), feeds_of(n=37), feeds_of(classes=1))
    rows = rows_of(made)
    assert rows["PaddedNonMaxSuppression"] == (("nms",), "native")
    assert rows["FirstRows"] == (("nms",), "reference")
    assert "NonMaxSuppression" not in rows
    assert {kind for operator, (_, kind) in rows.items() if operator != "FirstRows"} <= {"native", "view"}
    assert made.run(["found"], feeds_of())[0].shape == (15, 3)


def test_how_many_boxes_there_are_is_no_part_of_a_signature() -> None:
    made, wanted = session(DETECTOR), session(DETECTOR, "numpy")
    for shift in (0, 0, -1, -9, 3):
        feeds = feeds_of()
        feeds["logits"] = feeds["logits"] + np.float32(shift)
        for y, e in zip(made.run(None, feeds), wanted.run(None, feeds), strict=True):
            np.testing.assert_allclose(y, e, rtol=1e-6, strict=True)


def test_observers_see_the_models_own_node() -> None:
    made = session(DETECTOR)
    feeds = feeds_of()
    made.run(None, feeds)
    seen: list[Any] = []
    made.run_named(None, feeds, observers=[seen.append])
    (node,) = (execution for execution in seen if execution.node.name == "nms")
    assert (node.node.op_type, node.node.domain) == ("NonMaxSuppression", "")
    assert node.outputs[0].tolist() == made.run(["found"], feeds)[0].tolist()
    assert not any(execution.node.domain for execution in seen)


@pytest.mark.parametrize("wanted", [["found"], ["number"], ["scores", "found"], ["chosen"]])
def test_any_value_can_be_fetched(wanted: list[str]) -> None:
    made, reference = session(DETECTOR), session(DETECTOR, "numpy")
    for _ in range(2):
        for y, e in zip(made.run(wanted, feeds_of()), reference.run(wanted, feeds_of()), strict=True):
            np.testing.assert_allclose(y, e, rtol=1e-6, strict=True)


LIMITED = """g (float[B, N, 4] boxes, float[B, C, N] scores, int64 most) => (found, twice) {
    found = NonMaxSuppression(boxes, scores, %s) twice = Add(found, found) }"""


def test_a_limit_that_is_an_input() -> None:
    feeds = feeds_of(name="scores")
    made = agrees(LIMITED % "most", *({**feeds, "most": np.int64(most)} for most in (3, 1, 0, 3)))
    assert rows_of(made)["PaddedNonMaxSuppression"][1] == "native"


def test_no_limit_and_one_that_follows_from_shapes() -> None:
    feeds = {**feeds_of(name="scores"), "most": np.int64(0)}
    made = agrees(LIMITED % "", feeds)
    assert made.run(["found"], feeds)[0].shape == (0, 3)
    text = """g (float[B, N, 4] boxes, float[B, C, N] scores) => (found) <int64 one = {1}, int64 last = {2}> {
        shape = Shape(scores) n = Gather(shape, last) most = Sub(n, one)
        found = NonMaxSuppression(boxes, scores, most) }"""
    made = agrees(text, feeds_of(name="scores", n=9))
    assert rows_of(made)["PaddedNonMaxSuppression"][1] == "native"


def test_a_bad_threshold_raises_the_error_of_the_reference() -> None:
    text = """g (float[B, N, 4] boxes, float[B, C, N] scores, float iou) => (found) <int64 most = {3}> {
        [nms] found = NonMaxSuppression(boxes, scores, most, iou) }"""
    made = session(text)
    feeds = feeds_of(name="scores")
    for _ in range(2):
        made.run(None, {**feeds, "iou": np.float32(0.5)})
        with pytest.raises(
            NodeError, match=r"node 'nms' \(NonMaxSuppression, opset \d+\): iou_threshold must be in \[0, 1\]"
        ):
            made.run(None, {**feeds, "iou": np.float32(1.5)})


def test_in_the_body_of_a_loop() -> None:
    text = """g (float[B, N, 4] boxes, float[B, C, N] scores) => (total, rows) <
        int64 times = {4}, bool go = {1}, int64 zero = {0}, int64 most = {3}, float iou = {0.5}> {
        total, rows = Loop(times, go, zero) <body = b (int64 i, bool c, int64 sum) => (c2, sum2, first) {
            c2 = Identity(c) f = Cast<to = 1>(i) s = Sub(scores, f) a = Abs(s)
            [nms] found = NonMaxSuppression(boxes, a, most, iou)
            part = ReduceSum<keepdims = 0>(found) sum2 = Add(sum, part)
            start = Constant<value_ints = [0]>() one = Constant<value_ints = [1]>()
            first = Slice(found, start, one) }> }"""
    made = agrees(text, feeds_of(name="scores"))
    feeds = feeds_of(name="scores")
    made.run(None, feeds)
    (loop,) = (step for step in made._plan(None).steps if step.bodies)
    regions = loop.bodies["body"].regions
    assert regions is not None
    assert "PaddedNonMaxSuppression" in {step.node.op_type for step in regions.plan.steps}
    lowered = [found for r in regions.regions() if r.program is not None for found in r.program.lowered]
    assert [f.calls != [] for f in lowered if f.op.op_type == "PaddedNonMaxSuppression"] == [True]


@pytest.mark.parametrize("decided", ["bool flag", "float flag"], ids=["by a flag", "by a value"])
def test_in_a_branch(decided: str) -> None:
    """Behind a condition that is part of a region's signature, and behind one that a run must compute."""
    text = """g (float[B, N, 4] boxes, float[B, C, N] scores, %s) => (found) <int64 most = {3}> {
        c = Cast<to = 9>(flag)
        found = If(c) <then_branch = t () => (p) { p = NonMaxSuppression(boxes, scores, most) },
                       else_branch = e () => (q) {
                            n = Neg(scores) r = NonMaxSuppression(boxes, n, most) q = Add(r, most) }> }"""
    feeds = feeds_of(name="scores")
    dtype = bool if "bool" in decided else np.float32
    agrees(text % decided, *({**feeds, "flag": np.array(flag, dtype)} for flag in (1, 0, 1)))


def test_one_of_the_users_own_is_left_alone() -> None:
    def own(boxes: Array, scores: Array, *_: Any, **__: Any) -> Array:
        return np.full((2, 3), 7, np.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxref.registry, "_user_table", {})
        onnxref.register_op("NonMaxSuppression", domain="", since=11)(own)
        made = session(DETECTOR)
        for _ in range(2):
            assert made.run(["found"], feeds_of())[0].tolist() == [[7] * 3] * 2
        assert "PaddedNonMaxSuppression" not in rows_of(made)


def test_a_limit_is_kept_by_numbers_beyond_all_boxes() -> None:
    text = LIMITED % "huge"
    text = text.replace("=> (found, twice) {", "=> (found, twice) <int64 huge = {9223372036854775807}> {")
    feeds = {**feeds_of(name="scores"), "most": np.int64(0)}
    made = agrees(text, feeds)
    assert rows_of(made)["PaddedNonMaxSuppression"][1] == "native"
