"""The pass that makes products of one operand one product, on blocks as exporters write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Builder, check_pass

from onnxref.lowering import Op, Operand
from onnxref.plan.passes import Block, projections
from onnxref.plan.passes.attention import recognize_attention
from onnxref.plan.passes.projections import merge_projections

B, S, H, D = 2, 5, 3, 4
WIDTH = H * D


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def run(block: Block) -> int:
    block.merges_products = True
    return recognize_attention(block) + merge_projections(block)


def check(b: Builder, *outputs: Operand, left: str) -> Block:
    """Check the pass; `left` are the ops that stay."""
    block = check_pass(run, b, *outputs)
    assert sorted(op.op_type for op in block.ops) == sorted(left.split())
    return block


def dense(b: Builder, x: Operand, seed: int, columns: int = WIDTH, bias: bool = True) -> Operand:
    y = b.op("MatMul", x, normal(x.shape[-1], columns, seed=seed))
    return b.op("Add", y, normal(columns, seed=seed)) if bias else y


def heads(b: Builder, x: Operand, count: int = H) -> Operand:
    shaped = b.op("Reshape", x, ints(B, -1, count, x.shape[-1] // count))
    return b.op("Transpose", shaped, perm=(0, 2, 1, 3))


def attended(b: Builder, *parts: Operand, counts: tuple[int, ...] = (H, H, H), **attributes: Any) -> Operand:
    split = [heads(b, part, count) for part, count in zip(parts, counts, strict=True)]
    return b.op("Transpose", b.op("Attention", *split, **attributes), perm=(0, 2, 1, 3))


def only(block: Block, op_type: str) -> Op:
    (found,) = [op for op in block.ops if op.op_type == op_type]
    return found


@pytest.mark.parametrize("biases", [(True, True, True), (True, False, True), (False, False, False)])
def test_self_attention(biases: tuple[bool, ...]) -> None:
    b = Builder()
    x = b.input(normal(B, S, 7))
    parts = [dense(b, x, seed, bias=bias) for seed, bias in enumerate(biases)]
    left = "MatMul FusedAttention" + " Add" * any(biases)
    fused = only(check(b, attended(b, *parts), left=left), "FusedAttention")
    assert fused.inputs[0] is fused.inputs[1] is fused.inputs[2]
    views = [fused.attributes[f"{name}_view"] for name in "qkv"]
    assert views == [(i * WIDTH, S * 3 * WIDTH, D, 3 * WIDTH) for i in range(3)]


def test_what_has_no_vector_adds_minus_zero() -> None:
    """-0.0 + 0.0 would be 0.0."""
    b = Builder()
    x = b.input(normal(B, S, 7))
    parts = [dense(b, x, seed, bias=seed != 1) for seed in range(3)]
    block = check(b, attended(b, *parts), left="MatMul Add FusedAttention")
    vector = only(block, "Add").inputs[1]
    assert vector is not None
    assert vector.constant is not None
    missing = vector.constant[WIDTH : 2 * WIDTH]
    assert not missing.any()
    assert np.signbit(missing).all()


def test_grouped_heads_and_smaller_values() -> None:
    b = Builder()
    x = b.input(normal(B, S, 7))
    parts = [dense(b, x, seed, columns) for seed, columns in enumerate((WIDTH, 4, 8))]
    check(b, attended(b, *parts, counts=(H, 1, 1)), left="MatMul Add FusedAttention")


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_gemm(trans_b: int, bias: bool) -> None:
    b = Builder()
    x = b.input(normal(B * S, 7))
    parts = []
    for seed in range(3):
        w = normal(WIDTH, 7, seed=seed) if trans_b else normal(7, WIDTH, seed=seed)
        more = [normal(1, WIDTH, seed=seed)] if bias and seed else []
        parts.append(b.op("Gemm", x, w, *more, transB=trans_b, alpha=0.5))
    check(b, attended(b, *parts), left="Gemm FusedAttention")


def test_cross_attention() -> None:
    """K and V come from another operand than Q; a scale on the way is part of the view."""
    b = Builder()
    x, memory = b.input(normal(B, S, 7)), b.input(normal(B, 9, 6))
    q = b.op("Mul", dense(b, x, 1), np.float32(0.5))
    y = attended(b, q, dense(b, memory, 2), dense(b, memory, 3))
    fused = only(check(b, y, left="MatMul Add MatMul Add FusedAttention"), "FusedAttention")
    assert fused.inputs[1] is fused.inputs[2] is not fused.inputs[0]


def test_sequences_before_batches() -> None:
    """(S, B, H * D), turned to (B, H, S, D)."""
    b = Builder()
    x = b.input(normal(S, B, 7))
    parts = [b.op("Reshape", dense(b, x, seed), ints(S, B, H, D)) for seed in range(3)]
    q, k, v = (b.op("Transpose", part, perm=(1, 2, 0, 3)) for part in parts)
    check(b, b.op("Attention", q, k, v, is_causal=1), left="MatMul Add FusedAttention")


def test_operator_of_three_dimensions() -> None:
    b = Builder()
    x = b.input(normal(B, S, 7))
    parts = [dense(b, x, seed) for seed in range(3)]
    y = b.op("Attention", *parts, q_num_heads=H, kv_num_heads=H)
    check(b, y, left="MatMul Add FusedAttention")


def test_keys_that_are_values() -> None:
    b = Builder()
    x = b.input(normal(B, S, 7))
    q, k = dense(b, x, 1), dense(b, x, 2)
    check(b, attended(b, q, k, k), left="MatMul Add FusedAttention")


def _apart() -> dict[str, Any]:
    def another_reads_one(b: Builder) -> Any:
        x = b.input(normal(B, S, 7))
        q, k = dense(b, x, 1), dense(b, x, 2)
        return attended(b, q, k, b.input(normal(B, S, WIDTH))), b.op("Relu", k)

    def one_is_a_result(b: Builder) -> Any:
        x = b.input(normal(B, S, 7))
        q, k = dense(b, x, 1), dense(b, x, 2)
        return attended(b, q, k, b.input(normal(B, S, WIDTH))), k

    def odd_columns(b: Builder) -> Any:
        x = b.input(normal(B, S, 7))
        return attended(b, *(dense(b, x, seed, 3 * H) for seed in range(3)))

    def other_forms(b: Builder) -> Any:
        x = b.input(normal(B * S, 7))
        q, k = dense(b, x, 1), b.op("Gemm", x, normal(7, WIDTH, seed=2), alpha=0.5)
        return attended(b, q, k, b.op("Gemm", x, normal(7, WIDTH, seed=3)))

    def matrices_that_are_no_constants(b: Builder) -> Any:
        x = b.input(normal(B, S, 7))
        parts = [b.op("MatMul", x, b.input(normal(7, WIDTH, seed=seed))) for seed in range(3)]
        return attended(b, *parts)

    def stacks_of_matrices(b: Builder) -> Any:
        x = b.input(normal(B, S, 7))
        return attended(b, *(b.op("MatMul", x, normal(B, 7, WIDTH, seed=seed)) for seed in range(3)))

    def two_vectors(b: Builder) -> Any:
        x = b.input(normal(B, S, 7))
        parts = [b.op("Add", dense(b, x, seed), normal(WIDTH, seed=9)) for seed in range(3)]
        return attended(b, *parts)

    def large(b: Builder) -> Any:
        x = b.input(normal(B, S, 7))
        return attended(b, *(dense(b, x, seed) for seed in range(3)))

    return dict(locals())


@pytest.mark.parametrize("name", _apart())
def test_what_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "_FEW_ROWS", 1)  # what attention reads in place, and nothing else
    if name == "large":
        monkeypatch.setattr(projections, "_MOST_BYTES", 3 * 7 * WIDTH * 4 - 1)
    b = Builder()
    outputs = _apart()[name](b)
    before = sum(op.op_type in ("MatMul", "Gemm") for op in b.ops)
    block = check_pass(run, b, *(outputs if isinstance(outputs, tuple) else [outputs]))
    assert sum(op.op_type in ("MatMul", "Gemm") for op in block.ops) == before


def test_only_where_each_launch_costs() -> None:
    b = Builder()
    x = b.input(normal(B, S, 7))
    block = b.block(attended(b, *(dense(b, x, seed) for seed in range(3))))
    recognize_attention(block)
    assert merge_projections(block) == 0


# A single row ---------------------------------------------------------------------------------


def test_decoding() -> None:
    """K and V are joined to a cache; Q, which is read at once, is part of the same product."""
    b = Builder()
    x = b.input(normal(1, 1, 7))
    q, k, v = (b.op("Reshape", dense(b, x, seed), ints(1, H, 1, D)) for seed in range(3))
    k, v = (b.op("Concat", b.input(normal(1, H, 6, D)), new, axis=2) for new in (k, v))
    y = b.op("Attention", q, k, v)
    block = check(b, y, k, v, left="MatMul Add Split Reshape Reshape Concat Concat FusedAttention")
    assert [op.op_type for op in block.ops[:3]] == ["MatMul", "Add", "Split"]


def test_a_gate_is_no_epilogue() -> None:
    b = Builder()
    x = b.input(normal(1, 7))
    gate = b.op("Swish", dense(b, x, 1, bias=False))
    y = b.op("Mul", gate, dense(b, x, 2, bias=False))
    check(b, y, left="MatMul Split Swish Mul")


def test_what_an_epilogue_takes_stays() -> None:
    b = Builder()
    x = b.input(normal(1, 8))
    results = [
        b.op("Relu", dense(b, x, 1, 8)),
        b.op("Add", dense(b, x, 2, 8), x),
        b.op("Mul", dense(b, x, 3, 8), np.float32(2)),
        dense(b, x, 4, 8),
    ]
    one = dense(b, x, 5, 8)
    results.append(b.op("Softmax", one))
    block = check_pass(run, b, *results)
    assert sum(op.op_type == "MatMul" for op in block.ops) == 5


@pytest.mark.parametrize(
    ("rows", "count", "merges"), [(1, 2, 1), (2, 2, 0), (2, 3, 1), (64, 3, 1), (65, 3, 0)]
)
def test_a_split_of_rows_is_a_copy(rows: int, count: int, merges: bool) -> None:
    b = Builder()
    x = b.input(normal(rows, 7))
    block = check_pass(run, b, *(b.op("Softmax", dense(b, x, seed)) for seed in range(count)))
    assert ("Split" in {op.op_type for op in block.ops}) == merges


# Views ----------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.permutations(range(3)),
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 7), st.integers(0, 9)),
    st.sampled_from(["columns", "rows"]),
)
def test_views_move_with_their_columns(
    extents: tuple[int, ...], order: list[int], gaps: tuple[int, ...], heads_in: str
) -> None:
    """Whatever the heads are of, they are found in the wider product."""
    batch, count, rows, size = extents
    begin, before, after, first = gaps
    # Batches and rows in any order; heads side by side in the columns, or among the rows.
    columns = begin + size * (count if heads_in == "columns" else 1) + after
    steps, inner = [0, 0, 0], columns
    for axis in order:
        if axis == 1 and heads_in == "columns":
            steps[1] = size
        else:
            steps[axis] = inner
            inner *= (batch, count, rows)[axis]
    all_rows = first + inner // columns
    old = np.arange(all_rows * columns).reshape(all_rows, columns)
    total = before + columns + 3
    wide = np.full((all_rows, total), -1)
    wide[:, before : before + columns] = old
    view = (first * columns + begin, *steps)
    moved = projections._moved(view, extents, columns, total, before)
    assert moved is not None

    def seen(memory: Any, at: Any) -> Any:
        places = [at[0] + at[1] * i for i in range(batch)]
        grid = np.array(places)[:, None, None, None] + at[2] * np.arange(count)[:, None, None]
        return memory.reshape(-1)[grid + at[3] * np.arange(rows)[:, None] + np.arange(size)]

    np.testing.assert_array_equal(seen(wide, moved), seen(old, view))


def test_a_head_that_goes_on_in_the_next_row_has_no_view() -> None:
    assert projections._moved((0, 0, 4, 12), (1, 3, 2, 4), 12, 36, 12) == (12, 0, 4, 36)
    assert projections._moved((2, 0, 4, 12), (1, 3, 2, 4), 12, 36, 12) is None
    assert projections._moved((0, 0, 8, 12), (1, 3, 2, 4), 12, 36, 12) is None
