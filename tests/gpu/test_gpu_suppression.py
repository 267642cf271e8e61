"""NonMaxSuppression on the emulator: the same rows as the reference, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxref.kernels.cupy.suppression
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suppression_cases import Case, at_the_threshold, crowd, ints, odd, one

import onnxref
from onnxref.lowering import Unsupported
from onnxref.plan.specialize import RefusedError
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .emulator.device import EmulatedDevice
from .lowered import run_on_device

PADDED = "PaddedNonMaxSuppression"


def check(case: Case) -> int:
    """Hold a case to the reference; return how many rows there are."""
    expected = reference(PADDED, case[:5], case.attributes, 1, INTERNAL)
    wanted = [(y.shape, y.dtype) for y in expected]
    found = run_on_device(PADDED, case[:5], wanted, case.attributes, opset=1, domain=INTERNAL)
    for y, e in zip(found, expected, strict=True):
        assert y is not None
        assert y.tobytes() == e.tobytes()
    return int(expected[1])


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (1, 3), (2, 2)]),
    st.integers(1, 70),
    st.sampled_from([1, 2, 17, 2**63 - 1]),
    st.sampled_from([None, 0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([None, -np.inf, 0.0, -0.0, 0.5, np.inf, np.nan, 1e-40]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_special_values(
    seed: int, pairs: Any, n: int, most: int, iou: float | None, least: float | None, center: bool
) -> None:
    thresholds = [None if value is None else one(value) for value in (iou, least)]
    check(Case(*odd(seed, *pairs, n), ints(most), *thresholds, center))


@pytest.mark.parametrize("most", [1, 40, 300, 900])
@pytest.mark.parametrize("n", [255, 257, 900])
def test_chunks(n: int, most: int) -> None:
    boxes, scores = crowd(n, 1, 2, n, width=3.0)
    assert check(Case(boxes, scores, ints(most), one(0.2), None)) > min(most, 60)
    assert check(Case(boxes, scores, ints(most), one(0.2), one(0.6))) >= min(most, 20)


@pytest.mark.parametrize("n", [4097, 8200, 12300])
def test_candidates_of_one_class_are_merged_and_of_another_are_not(n: int) -> None:
    """How often a class's keys were merged tells where they are: not at all, once, twice."""
    boxes, scores = crowd(n, 1, 3, n)
    scores[0, 1] -= np.float32(0.6)
    scores[0, 2] -= np.float32(0.9)
    for least in (None, one(0.05)):
        assert check(Case(boxes, scores, ints(30), one(0.5), least)) == 90


def test_quotients_at_the_threshold() -> None:
    assert {check(case) for case in at_the_threshold()} == {1, 2}


def test_none_and_few() -> None:
    boxes, scores = crowd(0, 2, 3, 40)
    nothing = [
        Case(boxes, scores, None, None, None),
        Case(boxes, scores, ints(0), None, None),
        Case(boxes, scores, ints(3), one(0.5), one(2)),
        Case(boxes[:, :0], scores[:, :, :0], ints(3), None, None),
        Case(boxes, scores[:, :0], ints(3), None, None),
    ]
    assert [check(case) for case in nothing] == [0] * len(nothing)
    assert check(Case(boxes, scores, np.array(2), np.float32(0.5), np.float32(0.5))) == 12


@pytest.mark.parametrize("threshold", [-0.1, 1.5, np.nan])
@pytest.mark.parametrize("most", [0, 5])
def test_a_bad_threshold_is_left_to_the_reference(threshold: float, most: int) -> None:
    boxes, scores = crowd(0, 1, 2, 10)
    wanted = [((2 * most, 3), np.int64), ((), np.int64)]
    with pytest.raises(RefusedError):
        run_on_device(PADDED, [boxes, scores, ints(most), one(threshold)], wanted, opset=1, domain=INTERNAL)


def test_refusals() -> None:
    boxes, scores = crowd(0, 1, 2, 10)
    wanted = [((2, 3), np.int64), ((), np.int64)]
    for inputs, attributes in (
        ([boxes[:, :3], scores, ints(1)], {}),
        ([boxes, scores, ints(1), np.zeros(2, np.float32)], {}),
        ([boxes, scores, ints(1)], {"center_point_box": 2}),
    ):
        with pytest.raises(Unsupported):
            run_on_device(PADDED, inputs, wanted, attributes, opset=1, domain=INTERNAL)


MODEL = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[B, N, 4] boxes, float[B, C, N] logits) => (found, chosen) <
        int64 most = {5}, float iou = {0.5}, float least = {0.6}, int64 two = {2}, int64[2] shape = {-1, 4}> {
        scores = Sigmoid(logits)
        [nms] found = NonMaxSuppression(boxes, scores, most, iou, least)
        number = Gather<axis = 1>(found, two) flat = Reshape(boxes, shape)
        chosen = Gather<axis = 0>(flat, number) }"""


def test_in_a_session_only_the_rows_and_their_count_come_to_the_host(device: EmulatedDevice) -> None:
    boxes, scores = crowd(0, 1, 3, 200)
    feeds = {"boxes": boxes, "logits": scores * 6 - 3}
    model = onnx.parser.parse_model(MODEL)
    made = onnxref.InferenceSession(model, backend="cupy", strict=True)
    expected = onnxref.InferenceSession(model, backend="numpy").run(None, feeds)
    for _ in range(3):
        before = device.downloads
        found = made.run(None, feeds)
        for y, e in zip(found, expected, strict=True):
            np.testing.assert_array_equal(y, e)
    words = 2 * 8  # where faults are reported, by the first region and by the second
    rows, count = 3 * 5 * 3 * 8, 8
    assert device.downloads - before == rows + count + words + found[1].nbytes
    row = next(row for row in made.explain() if "PaddedNonMaxSuppression" in row.operator)
    assert (row.nodes, row.kind, row.copies) == (("nms",), "device", 0)
    assert "suppression.suppress" in row.kernel
