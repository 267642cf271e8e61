"""The pass that fuses attention, on blocks as exporters write them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Builder, check_pass

from onnxref.lowering import Op, Operand
from onnxref.plan.passes.attention import recognize_attention

B, S, H, D = 2, 10, 4, 16
LOWEST = np.float32(np.finfo(np.float32).min)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def check(b: Builder, y: Operand, left: str, **options: Any) -> Op:
    """Check the pass; `left` are the ops that stay. Return the fused one."""
    block = check_pass(recognize_attention, b, y, rtol=2e-5, atol=2e-5, **options)
    assert sorted(op.op_type for op in block.ops) == sorted(left.split())
    return next(op for op in block.ops if op.op_type == "FusedAttention")


def heads(b: Builder, seed: int, perm: tuple[int, ...] = (0, 2, 1, 3)) -> Operand:
    """Return (B, S, H * D), split to heads and turned."""
    x = b.input(normal(B, S, H * D, seed=seed))
    return b.op("Transpose", b.op("Reshape", x, ints(B, S, H, D)), perm=perm)


def merged(b: Builder, y: Operand) -> Operand:
    return b.op("Reshape", b.op("Transpose", y, perm=(0, 2, 1, 3)), ints(B, S, H * D))


def attended(b: Builder, scores: Operand, v: Operand) -> Operand:
    return merged(b, b.op("MatMul", b.op("Softmax", scores, axis=-1), v))


MASKS = [
    normal(B, 1, S, S),
    normal(1, 1, S, S),
    normal(B, 1, 1, S),
    normal(S, S),
    normal(S),
    normal(B, H, S, 1),
]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: str(mask.shape))
@pytest.mark.parametrize("scale", ["Div", "Mul"])
def test_bert(mask: Any, scale: str) -> None:
    b = Builder()
    q, k, v = heads(b, 1), heads(b, 2, (0, 2, 3, 1)), heads(b, 3)
    factor = np.float32(4.0 if scale == "Div" else 0.25)
    scores = b.op("Add", b.op(scale, b.op("MatMul", q, k), factor), b.input(mask))
    fused = check(b, attended(b, scores, v), "FusedAttention Reshape")
    assert fused.attributes["scale"] == 0.25
    assert [x.name for x in fused.inputs if x] == ["in0", "in1", "in2", "in3"]


@pytest.mark.parametrize("hidden", [-np.inf, LOWEST])
def test_scaled_dot_product_attention_causal(hidden: Any) -> None:
    """Both factors are scaled by the root, and K is turned by way of three dimensions."""
    b = Builder()
    q, k, v = heads(b, 1), heads(b, 2), heads(b, 3)
    k = b.op("Reshape", k, ints(-1, S, D))
    k = b.op("Reshape", b.op("Transpose", k, perm=(0, 2, 1)), ints(B, H, D, S))
    root = np.array([0.5], np.float32)
    scores = b.op("MatMul", b.op("Mul", q, root), b.op("Mul", k, root))
    triangle = np.where(np.tri(S, dtype=bool), np.float32(0), hidden).astype(np.float32)
    y = attended(b, b.op("Add", scores, triangle), v)
    fused = check(b, y, "FusedAttention Reshape")
    assert fused.attributes["is_causal"] == 1
    assert fused.attributes["scale"] == 0.25
    assert len(fused.inputs) == 3


def test_a_triangle_that_hides_too_little_stays_a_mask() -> None:
    b = Builder()
    q, k, v = heads(b, 1), heads(b, 2, (0, 2, 3, 1)), heads(b, 3)
    triangle = np.where(np.tri(S, dtype=bool), np.float32(0), np.float32(-1e4)).astype(np.float32)
    y = attended(b, b.op("Add", b.op("MatMul", q, k), triangle), v)
    assert check(b, y, "FusedAttention Reshape").attributes["is_causal"] == 0


@pytest.mark.parametrize("fill", [LOWEST, np.float32(-1e4)])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_gpt2(fill: Any, inverted: bool, constant: bool) -> None:
    """Split of one projection; a triangle chosen by Where."""
    b = Builder()
    joined = b.input(normal(B, S, 3 * H * D))
    parts = b.ops_outputs("Split", 3, joined, None, axis=2, num_outputs=3)
    q, k, v = (b.op("Reshape", part, ints(B, S, H, D)) for part in parts)
    q, v = (b.op("Transpose", x, perm=(0, 2, 1, 3)) for x in (q, v))
    scores = b.op("Div", b.op("MatMul", q, b.op("Transpose", k, perm=(0, 2, 3, 1))), np.float32(4))
    shown = np.tri(S, dtype=bool)[None, None] != inverted
    condition = shown if constant else b.input(shown)
    chosen = (fill, scores) if inverted else (scores, fill)
    fused = check(b, attended(b, b.op("Where", condition, *chosen), v), "FusedAttention Reshape")
    assert fused.attributes["is_causal"] == (constant and fill == LOWEST)
    assert fused.inputs[:3] == [joined] * 3
    assert [fused.attributes[f"{name}_view"][0] for name in "qkv"] == [0, H * D, 2 * H * D]


def test_vit() -> None:
    """Five dimensions, turned so that Q, K and V come first."""
    b = Builder()
    joined = b.input(normal(B, S, 3 * H * D))
    turned = b.op("Transpose", b.op("Reshape", joined, ints(B, S, 3, H, D)), perm=(2, 0, 3, 1, 4))
    parts = b.ops_outputs("Split", 3, turned, ints(1, 1, 1), axis=0)
    q, k, v = (b.op("Squeeze", part, ints(0)) for part in parts)
    q, k = b.op("Mul", q, np.float32(0.25)), b.op("Transpose", k, perm=(0, 1, 3, 2))
    fused = check(b, attended(b, b.op("MatMul", q, k), v), "FusedAttention Reshape")
    assert fused.inputs[:3] == [joined] * 3


def test_multihead_attention_of_pytorch() -> None:
    """(S, B, 3 * H * D); parts by Gather; heads by way of (B * H, S, D)."""
    b = Builder()
    joined = b.input(normal(S, B, 3 * H * D))
    x = b.op("Unsqueeze", b.op("Reshape", joined, ints(S, B, 3, H * D)), ints(0))
    x = b.op("Squeeze", b.op("Transpose", x, perm=(3, 1, 2, 0, 4)), ints(-2))
    parts = []
    for index in range(3):
        part = b.op("Reshape", b.op("Gather", x, np.int64(index), axis=0), ints(S, B * H, D))
        parts.append(b.op("Transpose", part, perm=(1, 0, 2)))
    shape = ints(B, H, S, D)
    q, v = (b.op("Reshape", parts[i], shape) for i in (0, 2))
    k = b.op("Reshape", b.op("Transpose", parts[1], perm=(0, 2, 1)), ints(B, H, D, S))
    y = b.op("MatMul", b.op("Softmax", b.op("MatMul", q, k), axis=-1), v)
    y = b.op("Reshape", b.op("Transpose", y, perm=(2, 0, 1, 3)), ints(S * B, H * D))
    fused = check(b, y, "FusedAttention Reshape")
    assert fused.inputs[:3] == [joined] * 3


def test_three_dimensions() -> None:
    b = Builder()
    q, k, v = (b.op("Transpose", b.input(normal(S, 6, D, seed=i)), perm=(1, 0, 2)) for i in range(3))
    scores = b.op("Add", b.op("MatMul", q, b.op("Transpose", k, perm=(0, 2, 1))), b.input(normal(6, 1, S)))
    y = b.op("MatMul", b.op("Softmax", scores, axis=2), v)
    check(b, b.op("Transpose", y, perm=(1, 0, 2)), "FusedAttention")


def test_a_guard_against_queries_that_see_nothing() -> None:
    b = Builder()
    q, k, v = heads(b, 1), heads(b, 2, (0, 2, 3, 1)), heads(b, 3)
    shown = normal(B, 1, S, S) > 0
    shown[0, 0, 3] = False
    mask = b.op("Where", b.input(shown), np.float32(0), np.float32(-np.inf))
    p = b.op("Softmax", b.op("Add", b.op("MatMul", q, k), mask), axis=-1)
    p = b.op("Where", b.op("IsNaN", p), np.float32(0), p)
    check(b, merged(b, b.op("MatMul", p, v)), "Where FusedAttention Reshape")


def test_queries_that_see_nothing_give_nan() -> None:
    b = Builder()
    q, k, v = heads(b, 1), heads(b, 2, (0, 2, 3, 1)), heads(b, 3)
    mask = np.zeros((S, S), np.float32)
    mask[4] = -np.inf
    check(b, attended(b, b.op("Add", b.op("MatMul", q, k), b.input(mask)), v), "FusedAttention Reshape")


def test_slices_of_a_projection() -> None:
    b = Builder()
    joined = b.input(normal(1, S, 3 * D))
    q, k, v = (
        b.op("Slice", joined, ints(i * D), ints((i + 1) * D if i < 2 else 2**31), ints(-1)) for i in range(3)
    )
    k = b.op("Transpose", k, perm=(0, 2, 1))
    y = b.op("MatMul", b.op("Softmax", b.op("MatMul", q, k), axis=-1), v)
    assert check(b, y, "FusedAttention").inputs[:3] == [joined] * 3


def test_views_that_are_none_stop_at_the_operand_before() -> None:
    """Heads that do not lie apart by one step: (S, B, H) turned to (B, H, S) has no view as (B * H, S)."""
    b = Builder()
    x = b.op("Transpose", b.input(normal(S, H, B, D)), perm=(2, 1, 0, 3))
    q = b.op("Reshape", x, ints(B * H, S, D))
    k, v = b.input(normal(B * H, D, S)), b.input(normal(B * H, S, D))
    k = b.op("Transpose", b.op("Relu", b.op("Transpose", k, perm=(0, 2, 1))), perm=(0, 2, 1))
    y = b.op("MatMul", b.op("Softmax", b.op("MatMul", q, k), axis=-1), v)
    check(b, y, "Transpose Transpose Relu FusedAttention")


def _unfusable() -> dict[str, Any]:
    def start(b: Builder) -> tuple[Operand, Operand, Operand]:
        return heads(b, 1), heads(b, 2, (0, 2, 3, 1)), heads(b, 3)

    def scores_are_wanted(b: Builder) -> tuple[Operand, ...]:
        q, k, v = start(b)
        p = b.op("Softmax", b.op("MatMul", q, k), axis=-1)
        return b.op("MatMul", p, v), p

    def other_axis(b: Builder) -> tuple[Operand, ...]:
        q, k, v = start(b)
        return (b.op("MatMul", b.op("Softmax", b.op("MatMul", q, k), axis=2), v),)

    def two_masks(b: Builder) -> tuple[Operand, ...]:
        q, k, v = start(b)
        s = b.op("Add", b.op("Add", b.op("MatMul", q, k), b.input(MASKS[0])), b.input(MASKS[1]))
        return (b.op("MatMul", b.op("Softmax", s, axis=-1), v),)

    def mask_within_the_scale(b: Builder) -> tuple[Operand, ...]:
        q, k, v = start(b)
        s = b.op("Mul", b.op("Add", b.op("MatMul", q, k), b.input(MASKS[0])), np.float32(0.5))
        return (b.op("MatMul", b.op("Softmax", s, axis=-1), v),)

    def keys_are_stored_transposed(b: Builder) -> tuple[Operand, ...]:
        q, v = heads(b, 1), heads(b, 3)
        return (b.op("MatMul", b.op("Softmax", b.op("MatMul", q, b.input(normal(B, H, D, S))), axis=-1), v),)

    def double(b: Builder) -> tuple[Operand, ...]:
        q, k, v = (b.input(normal(2, 3, 3).astype(np.float64)) for _ in range(3))
        k = b.op("Transpose", k, perm=(0, 2, 1))
        return (b.op("MatMul", b.op("Softmax", b.op("MatMul", q, k), axis=-1), v),)

    return {f.__name__: f for k, f in locals().items() if k != "start"}


@pytest.mark.parametrize("name", _unfusable())
def test_what_stays(name: str) -> None:
    b = Builder()
    outputs = _unfusable()[name](b)
    block = check_pass(recognize_attention, b, *outputs)
    assert "FusedAttention" not in {op.op_type for op in block.ops}


def test_scale_of_math() -> None:
    b = Builder()
    q, k, v = heads(b, 1), heads(b, 2, (0, 2, 3, 1)), heads(b, 3)
    root = np.float32(math.sqrt(math.sqrt(D)))
    s = b.op("MatMul", b.op("Div", q, root), b.op("Div", k, root))
    assert math.isclose(
        check(b, attended(b, s, v), "FusedAttention Reshape").attributes["scale"], 0.25, rel_tol=1e-6
    )


# ONNX Attention -------------------------------------------------------------------------------


def operator_masks() -> list[Any]:
    """Masks of which some hide all keys of a query."""
    shown = normal(B, 1, S, S) > 0
    shown[0, 0, 3] = False
    lowest = np.where(shown, np.float32(0.5), np.float32(-np.inf))
    return [shown, lowest, normal(S, S), normal(1, H, 1, S), np.float32(0.5)]


@pytest.mark.parametrize("mask", [None, *operator_masks()], ids=lambda x: str(getattr(x, "shape", x)))
@pytest.mark.parametrize("opset", [23, 24])
def test_operator_between_transposes(mask: Any, opset: int) -> None:
    """A query that sees no key gives zeros, as Attention does, and not NaN, as Softmax does."""
    b = Builder()
    q, k, v = heads(b, 1), heads(b, 2), heads(b, 3)
    more = [] if mask is None else [b.input(mask)]
    y = merged(b, b.op("Attention", q, k, v, *more, opset=opset, scale=0.3, softcap=2.0))
    fused = check(b, y, "FusedAttention Reshape")
    assert [x.name for x in fused.inputs[:3] if x] == ["in0", "in1", "in2"]
    assert fused.attributes["blind"] == 0


@pytest.mark.parametrize("queries", [S, 1, S + 3])
def test_causal_operator_counts_from_the_first_key(queries: int) -> None:
    b = Builder()
    q = b.op("Transpose", b.input(normal(B, queries, H, D)), perm=(0, 2, 1, 3))
    y = b.op("Attention", b.op("Mul", q, np.float32(0.5)), heads(b, 2), heads(b, 3), is_causal=1)
    fused = check(b, y, "FusedAttention")
    assert fused.attributes["scale"] == 0.5 / math.sqrt(D)


@pytest.mark.parametrize("kv_heads", [H, 2, 1])
def test_operator_of_three_dimensions(kv_heads: int) -> None:
    """Parts of one projection, with fewer heads of K and V; those of V are smaller."""
    b = Builder()
    joined = b.input(normal(B, S, H * D + kv_heads * (D + 6)))
    sizes = ints(H * D, kv_heads * D, kv_heads * 6)
    parts = b.ops_outputs("Split", 3, joined, sizes, axis=2)
    y = b.op("Attention", *parts, q_num_heads=H, kv_num_heads=kv_heads)
    fused = check(b, y, "FusedAttention")
    assert fused.inputs == [joined] * 3
    assert [fused.attributes[f"{name}_view"][0] for name in "qkv"] == [0, H * D, (H + kv_heads) * D]


def test_a_scaled_value_is_read_behind_the_scaling() -> None:
    b = Builder()
    v = b.op("Mul", b.input(normal(B, S, H, D)), np.float32(2))
    v = b.op("Transpose", v, perm=(0, 2, 1, 3))
    check(b, b.op("Attention", heads(b, 1), heads(b, 2), v), "Mul FusedAttention")


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.permutations(range(4))] * 4))
def test_any_order_of_dimensions(orders: tuple[list[int], ...]) -> None:
    """Only a view whose heads lie in one piece takes the place of a Transpose."""
    b = Builder()
    parts = []
    for seed, order in enumerate(orders[:3]):
        shape = [0] * 4
        for place, axis in zip(order, (B, H, S, D), strict=True):
            shape[place] = axis
        parts.append(b.op("Transpose", b.input(normal(*shape, seed=seed)), perm=order))
    y = b.op("Attention", *parts)
    block = check_pass(recognize_attention, b, b.op("Transpose", y, perm=orders[3]))
    kept = sum(op.op_type == "Transpose" for op in block.ops)
    assert kept == sum(order[-1] != 3 for order in orders)


def _operators_that_stay() -> dict[str, Any]:
    def plain(b: Builder) -> Any:
        return b.op("Attention", *(b.input(normal(B, H, S, D, seed=i)) for i in range(3)))

    def cache(b: Builder) -> Any:
        past = [b.input(normal(B, H, 3, D, seed=i)) for i in range(2)]
        return b.op("Attention", heads(b, 1), heads(b, 2), heads(b, 3), None, *past)

    def present(b: Builder) -> Any:
        return b.ops_outputs("Attention", 3, heads(b, 1), heads(b, 2), heads(b, 3))

    def lengths(b: Builder) -> Any:
        given = [None, None, None, b.input(ints(3, 7))]
        return b.op("Attention", heads(b, 1), heads(b, 2), heads(b, 3), *given)

    def window(b: Builder) -> Any:
        return b.op("Attention", heads(b, 1), heads(b, 2), heads(b, 3), opset=25, left_window_size=2)

    def short_mask(b: Builder) -> Any:
        return b.op("Attention", heads(b, 1), heads(b, 2), heads(b, 3), b.input(normal(S, S - 2)))

    def mask_of_another_type(b: Builder) -> Any:
        mask = b.input(normal(S, S).astype(np.float16))
        return b.op("Attention", heads(b, 1), heads(b, 2), heads(b, 3), mask)

    def double(b: Builder) -> Any:
        x = b.input(normal(B, S, H * D).astype(np.float64))
        return b.op("Attention", x, x, x, q_num_heads=H, kv_num_heads=H)

    def precision(b: Builder) -> Any:
        return b.op("Attention", heads(b, 1), heads(b, 2), heads(b, 3), softmax_precision=11)

    def large(b: Builder) -> Any:
        x = b.input(normal(1, 3, 2 * 520))
        return b.op("Attention", x, x, x, q_num_heads=2, kv_num_heads=2)

    return dict(locals())


@pytest.mark.parametrize("name", _operators_that_stay())
def test_operators_that_stay(name: str) -> None:
    b = Builder()
    outputs = _operators_that_stay()[name](b)
    block = check_pass(recognize_attention, b, *(outputs if isinstance(outputs, list) else [outputs]))
    assert "Attention" in {op.op_type for op in block.ops}
