"""NonMaxSuppression: kernels/numpy/suppression.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxref.kernels.numpy import suppression

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.errors import KernelError, ResourceLimitError
from onnxref.limits import Budget, Limits
from onnxref.registry import INTERNAL, Context, ghost


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


def slow_iou(a: Any, b: Any) -> float:
    width = min(max(a[0], a[2]), max(b[0], b[2])) - max(min(a[0], a[2]), min(b[0], b[2]))
    height = min(max(a[1], a[3]), max(b[1], b[3])) - max(min(a[1], a[3]), min(b[1], b[3]))
    shared = max(width, 0) * max(height, 0)
    union = abs((a[2] - a[0]) * (a[3] - a[1])) + abs((b[2] - b[0]) * (b[3] - b[1])) - shared
    return shared / union if union else 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2), st.integers(1, 2), st.integers(1, 7), st.booleans(), st.data())
def test_nms_against_all_pairs(batches: int, classes: int, count: int, center: bool, data: Any) -> None:
    """Coordinates are small integers, for which every IOU is exact in float64 and rounds to one float32."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 5, (batches, count, 4)).astype(np.float32)
    scores = (rng.integers(0, 5, (batches, classes, count)) / 4).astype(np.float32)
    limit = data.draw(st.integers(0, 5))
    iou = np.float32(data.draw(st.sampled_from([0, 0.25, 0.5, 1])))
    least = data.draw(st.sampled_from([None, np.float32(0.5)]))
    expected = []
    for b, c in np.ndindex(batches, classes):
        kept: list[int] = []
        for i in sorted(range(count), key=lambda i: (-scores[b, c, i], i)):
            if least is not None and scores[b, c, i] < least:
                continue
            if len(kept) < limit and all(
                np.float32(slow_iou(corners[b, i], corners[b, j])) <= iou for j in kept
            ):
                kept.append(i)
        expected += [[b, c, i] for i in kept]
    boxes = corners
    if center:
        low, high = (
            np.minimum(corners[..., :2], corners[..., 2:]),
            np.maximum(corners[..., :2], corners[..., 2:]),
        )
        boxes = np.concatenate([(low + high) / 2, high - low], axis=-1)
    out = run_op(
        "NonMaxSuppression",
        boxes,
        scores,
        i64(limit),
        iou,
        None if least is None else np.array([least]),
        opset=11,
        center_point_box=int(center),
    )
    assert out.dtype == np.int64
    assert out.shape == (len(expected), 3)
    assert out.tolist() == expected


def test_nms_defaults_select_nothing_and_then_allow_no_overlap() -> None:
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 1.1], [2, 2, 3, 3]]], np.float32)
    scores = np.array([[[0.9, 0.8, 0.7]]], np.float32)
    for version in (10, 11):
        assert run_op("NonMaxSuppression", boxes, scores, opset=version).shape == (0, 3)
        out = run_op("NonMaxSuppression", boxes, scores, i64(2**63 - 1), opset=version)
        assert out.tolist() == [[0, 0, 0], [0, 0, 2]]


def test_nms_of_nothing_does_not_loop_over_the_pairs() -> None:
    boxes, scores = np.zeros((2**20, 0, 4), np.float32), np.zeros((2**20, 2**20, 0), np.float32)
    assert run_op("NonMaxSuppression", boxes, scores, i64(1), opset=11).shape == (0, 3)


# --- many boxes ----------------------------------------------------------------------------------


@np.errstate(all="ignore")
def one_by_one(
    boxes: Array, scores: Array, limit: int, iou: Any, least: Any, center: bool
) -> list[list[int]]:
    """Suppress greedily, one box at a time, in the float32 arithmetic of the formula."""
    one, two = boxes[..., :2], boxes[..., 2:]
    lower, upper = (one - two / 2, one + two / 2) if center else (np.minimum(one, two), np.maximum(one, two))
    area = np.maximum(upper - lower, 0).prod(axis=-1)
    result = []
    for b, c in np.ndindex(scores.shape[:2]):
        left = np.argsort(-scores[b, c], kind="stable")
        left = left if least is None else left[scores[b, c, left] >= least]
        kept = 0
        while left.size and kept < limit:
            best, left = left[0], left[1:]
            kept += 1
            result.append([b, c, int(best)])
            sides = np.minimum(upper[b, best], upper[b, left]) - np.maximum(lower[b, best], lower[b, left])
            shared = np.maximum(sides, 0).prod(axis=-1)
            left = left[~(shared / (area[b, best] + area[b, left] - shared) > iou)]
    return result


def crowd(
    rng: np.random.Generator, batches: int, classes: int, count: int, width: float
) -> tuple[Array, Array]:
    """Return boxes around a few centres, some without area or with NaN, and scores with many ties."""
    centers = rng.uniform(0, 20, (batches, 5, 2))[:, rng.integers(5, size=count)]
    corners = np.concatenate([centers, centers], axis=-1) + rng.normal(0, width, (batches, count, 4))
    boxes = corners.astype(np.float32)
    boxes[:, ::17, 2:] = boxes[:, ::17, :2]
    boxes[:, 5::29, 1] = np.nan
    boxes[:, 7::31, 0] = np.inf
    scores = rng.integers(-40, 40, (batches, classes, count)).astype(np.float32) / 40
    scores[scores == 0] *= rng.choice([-1, 1])
    return boxes, scores


@pytest.mark.parametrize("block", [5, 16, None])
@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_nms_of_many_boxes_against_one_by_one(
    block: int | None, nan: bool, center: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks, classes that share one, and the part behind the limit change nothing."""
    if block is not None:
        monkeypatch.setattr(suppression, "_BLOCK", block)
        monkeypatch.setattr(suppression, "_PAIRS", 3 * block**2)
    rng = np.random.default_rng(seed)
    batches, classes, count = map(int, (rng.integers(1, 3), rng.integers(1, 5), rng.choice([3, 60, 400])))
    boxes, scores = crowd(rng, batches, classes, count, rng.choice([0.5, 3.0]))
    if nan:
        scores[..., ::3] = np.nan
    for limit in (1, 20, 2**63 - 1):
        for least in (None, np.float32(-np.inf), np.float32(0.25), np.float32(0.9)):
            iou = np.float32(rng.choice([0, 0.3, 0.7, 1]))
            found = run_op(
                "NonMaxSuppression",
                *(boxes, scores, i64(limit), iou, None if least is None else np.array([least])),
                opset=11,
                center_point_box=int(center),
            )
            assert found.dtype == np.int64
            assert found.tolist() == one_by_one(boxes, scores, limit, iou, least, center)


def test_nms_agrees_with_onnxruntime() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import parser

    text = """<ir_version: 8, opset_import: ["" : 13]>
    nms (float[B, N, 4] boxes, float[B, C, N] scores, int64[1] most, float[1] iou, float[1] least)
        => (int64[K, 3] y)
    { y = NonMaxSuppression(boxes, scores, most, iou, least) }"""
    model = parser.parse_model(text).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 100, (2, 900, 4)).astype(np.float32)
    scores = rng.random((2, 7, 900), np.float32) ** 3
    for most, iou, least in ((5, 0.5, 0.2), (300, 0.3, 0.01), (2000, 0.6, 0.5)):
        inputs = [corners, scores, i64(most), np.array([iou], np.float32), np.array([least], np.float32)]
        names = [value.name for value in session.get_inputs()]
        wanted = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        assert run_op("NonMaxSuppression", *inputs, opset=11).tolist() == wanted.tolist()
        assert len(wanted) >= 70


def test_nms_looks_at_the_clock() -> None:
    boxes, scores = crowd(np.random.default_rng(0), 1, 1, 500, 1.0)
    ctx = Context(budget=Budget(Limits(seconds=0)))
    with pytest.raises(ResourceLimitError, match="seconds"):
        registry.find("", "NonMaxSuppression", 11).kernel(boxes, scores, i64(9), ctx=ctx)


BOXES, SCORES = np.zeros((1, 2, 4), np.float32), np.zeros((1, 1, 2), np.float32)


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        ([BOXES, SCORES[0]], {}, r"\(B, N, 4\) and \(B, C, N\)"),
        ([BOXES[:, :1], SCORES], {}, r"\(got \(1, 1, 4\), \(1, 1, 2\)\)"),
        (
            [BOXES, SCORES, i64(1), np.float32(1.5)],
            {},
            r"iou_threshold must be in \[0, 1\]",
        ),
        ([BOXES, SCORES, i64(1), np.zeros((2, 3), np.float32)], {}, r"iou_threshold must have one element"),
        (
            [BOXES, SCORES],
            {"center_point_box": 2},
            r"center_point_box must be one of 0, 1 \(got 2\)",
        ),
        (
            [
                np.broadcast_to(np.float32(0), (1, 2**32, 4)),
                np.broadcast_to(np.float32(0), (1, 1, 2**32)),
                i64(1),
            ],
            {},
            r"there must be fewer than 2\*\*32 boxes \(got 4294967296\)",
        ),
    ],
)
def test_errors(inputs: list[Any], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("NonMaxSuppression", *inputs, opset=11, **attributes)


# --- as many rows as there can be ----------------------------------------------------------------


@np.errstate(all="ignore")
@pytest.mark.parametrize(("most", "rows"), [(None, 0), (-1, 0), (3, 18), (40, 60), (2**63 - 1, 60)])
def test_padded_rows_have_zeros_behind_them(most: int | None, rows: int) -> None:
    boxes, scores = crowd(np.random.default_rng(0), 2, 3, 10, 0.5)
    inputs = [boxes, scores, None if most is None else i64(most), np.float32(0.3), np.float32(0.1)]
    ctx = Context()
    padded, count = registry.find(INTERNAL, "PaddedNonMaxSuppression", 1).kernel(*inputs, ctx=ctx)
    expected = run_op("NonMaxSuppression", *inputs, opset=11)
    assert padded[:count].tolist() == expected.tolist()
    assert padded.shape == (rows, 3)
    assert not padded[count:].any()
    rule = registry.find_shape_rule(INTERNAL, "PaddedNonMaxSuppression", 1)
    assert rule is not None
    seen = [ghost(x.shape, x.dtype) if x is not None and i != 2 else x for i, x in enumerate(inputs)]
    foreseen = rule(*seen, ctx=ctx)
    assert [(y.shape, y.dtype) for y in foreseen] == [(y.shape, y.dtype) for y in (padded, count)]


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        ([BOXES[:, :1], SCORES], {}),
        ([BOXES, SCORES, i64(1), np.zeros((2, 3), np.float32)], {}),
        ([BOXES, SCORES, i64(1), None, np.zeros(2, np.float32)], {}),
        ([BOXES, SCORES, i64(1, 2)], {}),
        ([BOXES, SCORES], {"center_point_box": 2}),
    ],
)
def test_nothing_is_foreseen_where_the_kernel_refuses(inputs: list[Any], attributes: dict[str, Any]) -> None:
    ctx = Context()
    rule = registry.find_shape_rule(INTERNAL, "PaddedNonMaxSuppression", 1)
    assert rule is not None
    for tell in (rule, registry.find(INTERNAL, "PaddedNonMaxSuppression", 1).kernel):
        with pytest.raises(KernelError):
            tell(*inputs, **attributes, ctx=ctx)
