"""NonMaxSuppression in native code: the same rows as the reference, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.numba.suppression  # noqa: F401 - registers the lowering
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import RefusedError, check_lowered, reference, run_lowered
from suppression_cases import Case, at_the_threshold, crowd, ints, odd, one

from onnxref.lowering import Unsupported
from onnxref.registry import INTERNAL

PADDED = "PaddedNonMaxSuppression"


def check(case: Case, parallel: bool = False) -> int:
    """Hold a case to the reference; return how many rows there are."""
    arguments: dict[str, Any] = {"opset": 1, "domain": INTERNAL}
    check_lowered(PADDED, case[:5], case.attributes, n_outputs=2, parallel=parallel, **arguments)
    count = reference(PADDED, case[:5], case.attributes, 1, INTERNAL)[1]
    return int(count)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (1, 3), (2, 2)]),
    st.integers(1, 80),
    st.sampled_from([1, 2, 15, 16, 17, 40, 2**63 - 1]),
    st.sampled_from([None, 0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([None, -np.inf, 0.0, -0.0, 0.5, np.inf, np.nan, 1e-40]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_special_values(
    seed: int, pairs: Any, n: int, most: int, iou: float | None, least: float | None, center: bool
) -> None:
    thresholds = [None if value is None else one(value) for value in (iou, least)]
    check(Case(*odd(seed, *pairs, n), ints(most), *thresholds, center))


@pytest.mark.parametrize("least", [None, 0.0, 0.7])
@pytest.mark.parametrize("most", [1, 10, 150, 6000])
@pytest.mark.parametrize("n", [1023, 1025, 6000])
def test_many_candidates(n: int, most: int, least: float | None) -> None:
    """They are sorted in rounds, of which a small limit sees the first one only."""
    boxes, scores = crowd(n, 1, 3, n)
    for scaled in (scores, np.round(scores, 1), np.round(scores)):
        case = Case(boxes, scaled, ints(most), one(0.4), None if least is None else one(least))
        assert check(case, parallel=True) >= min(most, 12)


def test_rounds_end_anywhere() -> None:
    """All boxes but the worst ones lie on each other, so that every round is needed to reach the limit."""
    n = 5000
    boxes, scores = crowd(3, 1, 1, n)
    boxes[0, scores[0, 0] > 0.01] = [0, 0, 1, 1]
    for most in (2, 5, 9):
        assert check(Case(boxes, scores, ints(most), one(0.5), None)) == most
    scores[0, 0, ::2] = np.nan
    assert check(Case(boxes, scores, ints(2000), one(0.5), None)) > 12
    assert check(Case(boxes, np.full_like(scores, np.nan), ints(9), one(0.5), None)) == 9


def test_no_candidate_is_met_twice() -> None:
    """Boxes without extent overlap nothing, not even themselves; rounds end among equal scores."""
    n = 6000
    boxes, scores = crowd(4, 1, 1, n)
    boxes[...] = [0, 0, 1, 1]
    boxes[0, ::60] = 0
    for most in (20, 60, 200):
        for digits in (2, 3, 6):
            case = Case(boxes, np.round(scores, digits), ints(most), one(0.5), None)
            assert check(case) == min(most, 101)


def test_a_sample_without_candidates() -> None:
    n = 256 * 20
    boxes, scores = crowd(5, 1, 1, n)
    scores[0, 0, 10::20] = -1
    assert check(Case(boxes, scores, ints(3), one(0.5), one(0))) == 3


def test_quotients_at_the_threshold() -> None:
    assert {check(case) for case in at_the_threshold()} == {1, 2}


def test_none_and_few() -> None:
    boxes, scores = crowd(0, 2, 3, 40)
    nothing = [
        Case(boxes, scores, None, None, None),
        Case(boxes, scores, ints(0), None, None),
        Case(boxes, scores, ints(-3), one(0.5), one(0.1)),
        Case(boxes, scores, ints(3), one(0.5), one(2)),
        Case(boxes[:, :0], scores[:, :, :0], ints(3), None, None),
        Case(boxes, scores[:, :0], ints(3), None, None),
        Case(boxes[:0], scores[:0], ints(3), None, None),
    ]
    assert [check(case) for case in nothing] == [0] * len(nothing)
    # A scalar serves as well as a vector of one.
    assert check(Case(boxes, scores, np.array(2), np.float32(0.5), np.float32(0.5))) == 12


@pytest.mark.parametrize("threshold", [-0.1, 1.5, np.nan, np.inf])
@pytest.mark.parametrize("most", [0, 5])
def test_a_bad_threshold_is_left_to_the_reference(threshold: float, most: int) -> None:
    boxes, scores = crowd(0, 1, 2, 10)
    wanted = [((2 * most, 3), np.int64), ((), np.int64)]
    with pytest.raises(RefusedError):
        run_lowered(PADDED, [boxes, scores, ints(most), one(threshold)], wanted, opset=1, domain=INTERNAL)


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        ([np.zeros((1, 3, 4)), np.zeros((1, 2, 4))], {}),
        ([np.zeros((1, 4, 4)), np.zeros((4,))], {}),
        ([np.zeros((1, 4, 4)), np.zeros((1, 2, 4)), ints(1), np.zeros(2)], {}),
        ([np.zeros((1, 4, 4)), np.zeros((1, 2, 4)), ints(1), None, np.zeros(2)], {}),
        ([np.zeros((1, 4, 4)), np.zeros((1, 2, 4)), ints(1)], {"center_point_box": 2}),
    ],
)
def test_refusals(inputs: list[Any], attributes: dict[str, Any]) -> None:
    wanted = [((2, 3), np.int64), ((), np.int64)]
    given = [x if x is None or x.dtype == np.int64 else x.astype(np.float32) for x in inputs]
    with pytest.raises(Unsupported):
        run_lowered(PADDED, given, wanted, attributes, opset=1, domain=INTERNAL)
