"""Native attention and rotary embeddings against the reference kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.numba.attention  # noqa: F401 - registers the lowerings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import RefusedError, check_lowered, reference, run_lowered

from onnxref.lowering import Unsupported

TOLERANCE = 2e-5


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def heads(
    batch: int, q_heads: int, kv_heads: int, queries: int, keys: int, size: int, value_size: int | None = None
) -> list[Any]:
    """Return Q, K and V of 4 dimensions."""
    return [
        normal(batch, q_heads, queries, size, seed=1),
        normal(batch, kv_heads, keys, size, seed=2),
        normal(batch, kv_heads, keys, size if value_size is None else value_size, seed=3),
    ]


def flat(x: Any) -> Any:
    """Return `(B, heads, S, D)` as `(B, S, heads * D)`."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(x.shape[0], x.shape[2], -1)


def check(inputs: list[Any], attributes: dict[str, Any] | None = None, **options: Any) -> None:
    for parallel in (False, True):
        check_lowered(
            "Attention", inputs, attributes, rtol=TOLERANCE, atol=TOLERANCE, parallel=parallel, **options
        )


@pytest.mark.parametrize(
    ("batch", "q_heads", "kv_heads", "queries", "keys", "size", "value_size"),
    [
        (1, 12, 12, 128, 128, 64, 64),
        (1, 2, 2, 197, 197, 64, 64),
        (2, 4, 2, 5, 9, 16, 16),
        (1, 6, 1, 7, 33, 20, 12),
        (2, 1, 1, 49, 600, 33, 31),
        (1, 2, 2, 1, 512, 64, 64),
        (1, 4, 2, 2, 1030, 24, 40),
        (1, 1, 1, 3, 1, 1, 1),
        (1, 1, 1, 50, 1100, 128, 128),
    ],
)
def test_sizes(
    batch: int, q_heads: int, kv_heads: int, queries: int, keys: int, size: int, value_size: int
) -> None:
    inputs = heads(batch, q_heads, kv_heads, queries, keys, size, value_size)
    check(inputs)
    check(list(map(flat, inputs)), {"q_num_heads": q_heads, "kv_num_heads": kv_heads})


@pytest.mark.parametrize(("queries", "keys"), [(1, 7), (6, 6), (20, 7), (7, 20), (100, 100), (520, 520)])
def test_causal(queries: int, keys: int) -> None:
    check(heads(1, 2, 2, queries, keys, 16), {"is_causal": 1})


@pytest.mark.parametrize("queries", [3, 21])
@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (2, 4, 0, 1), (1, 1, 0, 1), (2, 1, 1, 1), (0, 1), (4, 0, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_masks(queries: int, shape: tuple[int, ...], dtype: Any) -> None:
    """0 stands for the queries; the last dimension is the keys."""
    keys = 19
    full = (*(queries if n == 0 else n for n in shape[:-1]), keys)
    mask = normal(*full) if dtype == np.float32 else normal(*full) > 0
    inputs = heads(2, 4, 4, queries, keys, 16)
    check([*inputs, mask])
    check([*inputs, mask], {"is_causal": 1})


def test_a_mask_of_one_key_is_broadcast_before_version_24() -> None:
    inputs = heads(1, 2, 2, 6, 9, 16)
    for mask in (normal(6, 1), np.arange(6)[:, None] > 2):
        check([*inputs, mask], opset=23)
        with pytest.raises(Unsupported, match="shorter"):
            check([*inputs, mask], opset=24)


@pytest.mark.parametrize("queries", [2, 8])
def test_a_query_that_sees_nothing_gives_zero(queries: int) -> None:
    inputs = heads(1, 2, 2, queries, 600, 16)
    visible = np.ones((queries, 600), np.bool_)
    visible[1] = False
    visible[0, :512] = False
    check([*inputs, visible])
    check([*inputs, np.where(visible, 0, -np.inf).astype(np.float32)])


def test_large_scores() -> None:
    q, k, v = heads(1, 2, 2, 9, 30, 16)
    check([100 * q, 100 * k, v])
    check([1e20 * q, 1e20 * k, v])


@pytest.mark.parametrize("queries", [2, 9])
def test_nan_and_infinity_stay_in_their_rows(queries: int) -> None:
    q, k, v = heads(1, 2, 2, queries, 30, 16)
    q[0, 0, 1, 3] = np.nan
    check([q, k, v])
    k[0, 1, 2, 4] = np.inf
    check([q, k, v])
    v[0, 0, 0, 0] = -np.inf
    check([q, k, v])


@pytest.mark.parametrize("queries", [2, 9])
def test_scale_and_softcap(queries: int) -> None:
    inputs = heads(1, 2, 2, queries, 30, 16)
    check(inputs, {"scale": 0.7})
    check(inputs, {"softcap": 1.5, "is_causal": 1})
    check(inputs, {"scale": 0.0, "softmax_precision": 1})


@pytest.mark.parametrize("queries", [1, 5, 8])
@pytest.mark.parametrize("rank", [3, 4])
def test_past_and_present(queries: int, rank: int) -> None:
    q, k, v = heads(2, 4, 2, queries, queries, 16, 24)
    past = [normal(2, 2, 11, 16), normal(2, 2, 11, 24)]
    attributes = {"is_causal": 1, "q_num_heads": 4, "kv_num_heads": 2}
    inputs = [flat(x) if rank == 3 else x for x in (q, k, v)]
    check([*inputs, None, *past], attributes, n_outputs=3)
    check([*inputs, None, *past], attributes)
    check(inputs, attributes, n_outputs=3)
    mask = normal(queries, 11 + queries)
    check([*inputs, mask, *past], attributes, n_outputs=3)


def test_no_batch_and_no_queries() -> None:
    check(heads(0, 2, 2, 6, 9, 16))
    check(heads(1, 2, 2, 0, 9, 16))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 60),
    st.sampled_from([1, 15, 33, 90]), st.sampled_from([4, 16, 17]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_any_sizes(
    batch: int, kv_heads: int, group: int, queries: int, keys: int, size: int, causal: bool, masked: bool
) -> None:
    inputs = heads(batch, kv_heads * group, kv_heads, queries, keys, size)
    if masked:
        inputs.append(normal(queries, keys))
    check(inputs, {"is_causal": int(causal)})


@pytest.mark.parametrize(
    ("attributes", "extra", "outputs", "reason"),
    [
        ({"softmax_precision": 10}, (), 1, "precision"),
        ({}, (None, None, None, np.array([9])), 1, "nonpad"),
        ({}, (), 4, "qk_matmul_output"),
    ],
)
def test_refusals(attributes: dict[str, Any], extra: tuple[Any, ...], outputs: int, reason: str) -> None:
    inputs = [*heads(1, 2, 2, 6, 9, 16), *extra]
    with pytest.raises(Unsupported, match=reason):
        run_lowered("Attention", inputs, [((1, 2, 6, 16), np.float32)] * outputs, attributes)


# FusedAttention -------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [3, 10])
def test_fused_reads_heads_where_they_lie(queries: int) -> None:
    """Q, K and V are thirds of one tensor `(B, S, 3 * H * D)`; Y is `(S, B, H * D)`."""
    batch, count, size = 2, 3, 16
    joined = normal(batch, queries, 3 * count * size)
    row, width = 3 * count * size, count * size
    views = {f"{name}_view": (i * width, queries * row, size, row) for i, name in enumerate("qkv")} | {
        "y_view": (0, width, size, batch * width)
    }
    attributes = {**views, "sizes": (batch, count, count, queries, queries, size, size), "scale": 0.25}
    parts = np.split(joined, 3, axis=2)
    expected = reference("Attention", parts, {"q_num_heads": count, "kv_num_heads": count}, 24)[0]
    shape = (queries, batch, width)
    found = run_lowered(
        "FusedAttention", [joined] * 3, [(shape, np.float32)], attributes, domain="onnxref.internal", opset=1
    )[0]
    np.testing.assert_allclose(found, expected.transpose(1, 0, 2), rtol=TOLERANCE, atol=TOLERANCE)


def test_fused_fills_and_keeps_nan() -> None:
    q, k, v = heads(1, 2, 2, 6, 9, 16)
    hidden = normal(6, 9) > 0
    hidden[1] = True
    plain = (0, 2 * 9 * 16, 9 * 16, 16)
    attributes = {
        "q_view": (0, 2 * 6 * 16, 6 * 16, 16), "k_view": plain, "v_view": plain,
        "y_view": (0, 2 * 6 * 16, 6 * 16, 16), "sizes": (1, 2, 2, 6, 9, 16, 16),
        "mask_strides": (0, 0, 9, 1), "hides": 1,
    }  # fmt: skip
    for fill in (-np.inf, -1e38):
        scores = np.where(hidden, np.float32(fill), q @ k.swapaxes(2, 3))
        with np.errstate(invalid="ignore"):
            weights = np.exp(scores - scores.max(-1, keepdims=True))
        expected = weights / weights.sum(-1, keepdims=True) @ v
        found = run_lowered(
            "FusedAttention", [q, k, v, hidden], [(expected.shape, np.float32)], {**attributes, "fill": fill},
            domain="onnxref.internal", opset=1,
        )[0]  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


# RotaryEmbedding ------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("dim", [0, 8])
@pytest.mark.parametrize("rank", [3, 4])
def test_rotary(interleaved: int, dim: int, rank: int) -> None:
    x = normal(2, 3, 5, 20)
    half = (dim or 20) // 2
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": dim, "num_heads": 3}
    given_x = flat(x) if rank == 3 else x
    positions = np.array([[0, 6, 2, 3, 1], [5, 5, 0, 1, 2]])
    for inputs in (
        [given_x, normal(2, 5, half, seed=1), normal(2, 5, half, seed=2)],
        [given_x, normal(7, half, seed=1), normal(7, half, seed=2), positions],
    ):
        for constants, parallel in (((), True), ((3,), False)):
            check_lowered(
                "RotaryEmbedding", inputs, attributes, rtol=1e-6, atol=1e-6,
                constants=constants, parallel=parallel,
            )  # fmt: skip


@pytest.mark.parametrize("position", [7, -1])
def test_positions_must_be_in_range(position: int) -> None:
    inputs = [normal(1, 2, 1, 4), normal(7, 2), normal(7, 2), np.array([[position]])]
    with pytest.raises(RefusedError):
        run_lowered("RotaryEmbedding", inputs, [((1, 2, 1, 4), np.float32)])
    with pytest.raises(Unsupported, match="range"):
        run_lowered("RotaryEmbedding", inputs, [((1, 2, 1, 4), np.float32)], constants=(3,))
