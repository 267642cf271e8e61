"""Attention against slow definitions: one query of one head at a time."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.errors import KernelError

F16, F32, F64, BF16 = np.float16, np.float32, np.float64, ml_dtypes.bfloat16
TOLERANCE = {F16: 4e-3, BF16: 4e-2, F32: 2e-5, F64: 1e-11}
RNG = np.random.default_rng(23)
PREVIEW = "ai.onnx.preview"


def make(*shape, dtype=F32):
    return RNG.uniform(-1, 1, shape).astype(dtype)


def close(actual, expected, dtype=F32):
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(actual.astype(F64), expected, rtol=tolerance, atol=tolerance)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def split(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def slow_attention(
    q, k, v, mask=None, past=None, lengths=None, scale=None, causal=False, softcap=0.0, window=(-1, -1)
):
    """Y and, for each qk_matmul_output_mode, what it shows; all `(B, H, S, D)` in float64."""
    q, k, v = (a.astype(F64) for a in (q, k, v))
    first = 0
    if past is not None:
        first = past[0].shape[2]
        k, v = np.concatenate((past[0], k), 2), np.concatenate((past[1], v), 2)
    batch, heads, queries, size = q.shape
    keys, group = k.shape[2], heads // k.shape[1]
    y = np.zeros((batch, heads, queries, v.shape[3]))
    shown = np.zeros((4, batch, heads, queries, keys))
    scale = size**-0.5 if scale is None else scale
    for b, h, i in np.ndindex(batch, heads, queries):
        kh, vh = k[b, h // group], v[b, h // group]
        raw = kh @ q[b, h, i] * scale
        capped = softcap * np.tanh(raw / softcap) if softcap else raw
        p = i + first if lengths is None else i + lengths[b] - queries
        bias = np.zeros(keys)
        for j in range(keys):
            hidden = (
                (causal and j > p)
                or (window[0] >= 0 and j < p - window[0])
                or (window[1] >= 0 and j > p + window[1])
                or (lengths is not None and j >= lengths[b])
            )
            if hidden:
                bias[j] = -np.inf
        if mask is not None:
            full = np.broadcast_to(mask, (batch, heads, queries, keys))[b, h, i]
            bias += np.where(full, 0, -np.inf) if mask.dtype == bool else full.astype(F64)
        biased = capped + bias
        weights = np.zeros(keys) if np.isneginf(bias).all() else softmax(biased)
        shown[:, b, h, i] = raw, capped, biased, weights
        y[b, h, i] = weights @ vh
    return y, shown


@st.composite
def problems(draw):
    """Inputs and attributes of an Attention node of any version, and the same for `slow_attention`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    opset = draw(st.sampled_from([23, 24, 25]))
    batch, group, shared, queries, fresh, size, v_size, cached = rng.integers(1, 4, 8)
    heads, flat = group * shared, draw(st.booleans())

    def r(*shape):
        return rng.uniform(-1, 1, shape).astype(F32)

    q, k, v = (
        r(batch, queries, heads * size),
        r(batch, fresh, shared * size),
        r(batch, fresh, shared * v_size),
    )
    four = [split(q, heads), split(k, shared), split(v, shared)]
    cache = draw(st.sampled_from(["none", "past", "lengths"][: 3 if opset >= 24 else 2]))
    past = [r(batch, shared, cached, size), r(batch, shared, cached, v_size)] if cache == "past" else None
    lengths = rng.integers(0, fresh + 1, batch) if cache == "lengths" else None
    total = fresh + (cached if past else 0)
    mask = None
    if draw(st.booleans()):
        shapes = [(total,), (queries, total), (heads, 1, total), (batch, 1, queries, total)]
        mask = r(*draw(st.sampled_from(shapes)))
        kind = draw(st.sampled_from([np.bool_, np.int8, F32]))
        mask = mask > -0.2 if kind is np.bool_ else (3 * mask).astype(kind)
    causal, softcap = draw(st.booleans()), draw(st.sampled_from([0.0, 0.5]))
    scale = draw(st.sampled_from([None, 0.3, -2.0]))
    window = tuple(rng.integers(-1, 3, 2).tolist()) if opset == 25 else (-1, -1)
    inputs = [*([q, k, v] if flat else four), mask, *(past or [None, None]), lengths]
    attributes = {"is_causal": int(causal), "softcap": softcap}
    if scale is not None:
        attributes["scale"] = scale
    if flat:
        attributes |= {"q_num_heads": int(heads), "kv_num_heads": int(shared)}
    if opset == 25:
        attributes |= {"left_window_size": window[0], "right_window_size": window[1]}
    expected = slow_attention(*four, mask, past, lengths, scale, causal, softcap, window)
    return opset, inputs[: 7 if opset >= 24 else 6], attributes, expected


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 3))
def test_attention_is_its_definition(problem, mode):
    opset, inputs, attributes, (y, shown) = problem
    q, k, v, _, past_key, past_value, *_ = inputs
    actual, present_k, present_v, qk = run_op(
        "Attention", *inputs, opset=opset, n_outputs=4, qk_matmul_output_mode=mode, **attributes
    )
    if q.ndim == 3:
        k, v = (split(a, attributes["kv_num_heads"]) for a in (k, v))
        y = y.transpose(0, 2, 1, 3).reshape(actual.shape)
    close(actual, y)
    close(qk, shown[mode])
    np.testing.assert_array_equal(present_k, k if past_key is None else np.concatenate((past_key, k), 2))
    np.testing.assert_array_equal(present_v, v if past_value is None else np.concatenate((past_value, v), 2))


@pytest.mark.parametrize("version", [23, 24, 25])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("v_dtype", TOLERANCE)
def test_attention_types(version, dtype, v_dtype):
    q, k, v = make(1, 4, 3, 8, dtype=dtype), make(1, 2, 5, 8, dtype=dtype), make(1, 2, 5, 4, dtype=v_dtype)
    y, present_k, present_v, qk = run_op(
        "Attention", q, k, v, make(3, 5, dtype=dtype), opset=version, n_outputs=4
    )
    assert (y.dtype, present_k.dtype, present_v.dtype, qk.dtype) == (dtype, dtype, v_dtype, dtype)
    mask = np.ones((3, 5), np.bool_)
    expected, _ = slow_attention(q, k, v)
    tolerance = max(TOLERANCE[dtype], TOLERANCE[v_dtype])
    y = run_op("Attention", q, k, v, mask, opset=version)
    np.testing.assert_allclose(y.astype(F64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
def test_masks_of_numbers_are_added(dtype):
    q, k, v = make(1, 1, 2, 4), make(1, 1, 3, 4), make(1, 1, 3, 4)
    mask = np.array([[0, 2, 1], [3, 0, 0]], dtype)
    close(run_op("Attention", q, k, v, mask, opset=24), slow_attention(q, k, v, mask)[0])


def test_short_masks_are_filled_up_since_24():
    q, k, v = make(1, 1, 2, 4), make(1, 1, 3, 4), make(1, 1, 3, 4)
    short = np.ones((2, 2), np.bool_)
    full = np.array([[1, 1, 0]] * 2, np.bool_)
    for version in (24, 25):
        close(run_op("Attention", q, k, v, short, opset=version), slow_attention(q, k, v, full)[0])
        close(
            run_op("Attention", q, k, v, short.astype(F32) - 1, opset=version),
            slow_attention(q, k, v, full)[0],
        )
    with pytest.raises(KernelError, match=r"attn_mask must broadcast to \(1, 1, 2, 3\) \(got \(2, 2\)\)"):
        run_op("Attention", q, k, v, short, opset=23)
    column = np.ones((2, 1), np.bool_)  # one column broadcasts in version 23, and is one key later
    close(run_op("Attention", q, k, v, column, opset=23), slow_attention(q, k, v)[0])
    first_only = np.array([[1, 0, 0]] * 2, np.bool_)
    close(run_op("Attention", q, k, v, column, opset=24), slow_attention(q, k, v, first_only)[0])


@pytest.mark.parametrize(("code", "dtype"), [(1, F32), (10, F16), (11, F64), (16, BF16)])
def test_softmax_precision(code, dtype):
    q, k, v = (make(1, 1, 4, 8, dtype=F64) for _ in range(3))
    y, _, _, p = run_op(
        "Attention", q, k, v, opset=24, n_outputs=4, softmax_precision=code, qk_matmul_output_mode=3
    )
    expected, shown = slow_attention(q, k, v)
    assert (y.dtype, p.dtype) == (F64, F64)
    assert (p == p.astype(dtype)).all()
    np.testing.assert_allclose(p, shown[3], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(y, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_hidden_keys_cannot_do_harm():
    q, k, v = make(1, 1, 2, 4), make(1, 1, 3, 4), make(1, 1, 3, 4)
    k[0, 0, 2] = np.inf  # scores of inf, and inf - inf where they are masked
    mask = np.array([[1, 1, 0], [0, 0, 0]], np.bool_)
    y = run_op("Attention", q, np.where(np.isinf(k), 1e30, k), v, mask, opset=23)
    assert np.isfinite(y).all()
    y = run_op("Attention", q, k, v, mask, opset=23)
    assert (y[0, 0, 1] == 0).all()  # sees nothing, whatever its scores are


def test_windows_far_wider_than_the_sequence():
    q, k, v = make(1, 1, 2, 4), make(1, 1, 3, 4), make(1, 1, 3, 4)
    huge = 2**63 - 1
    y = run_op("Attention", q, k, v, opset=25, left_window_size=huge, right_window_size=huge)
    close(y, slow_attention(q, k, v)[0])


@pytest.mark.parametrize("shape", [(1, 2, 0, 4), (0, 2, 3, 4), (1, 2, 3, 0)])
def test_empty_attention(shape):
    q, k = make(*shape), make(*shape)
    y = run_op("Attention", q, k, k, opset=24, is_causal=1)
    assert y.shape == shape
    flat = make(shape[0], shape[2], 2 * shape[3])
    assert run_op("Attention", flat, flat, flat, opset=24, q_num_heads=2, kv_num_heads=2).shape == flat.shape
    no_keys = run_op("Attention", make(1, 1, 2, 4), make(1, 1, 0, 4), make(1, 1, 0, 3), opset=24)
    np.testing.assert_array_equal(no_keys, np.zeros((1, 1, 2, 3)))


def good():
    return [make(2, 4, 3, 8), make(2, 2, 5, 8), make(2, 2, 5, 6), None, None, None, None]


@pytest.mark.parametrize(
    ("changes", "attributes", "message"),
    [
        ({0: make(2, 3, 32)}, {}, "Q, K and V must have the same rank"),
        ({0: make(2, 3), 1: make(2, 3), 2: make(2, 3)}, {}, "Q must have 3 or 4 dimensions"),
        ({}, {"q_num_heads": 3}, r"heads of Q must be 4, its dimension 1 \(got 3\)"),
        (
            {0: make(2, 3, 8), 1: make(2, 3, 8), 2: make(2, 3, 8)},
            {},
            r"heads of Q must divide .* \(got None\)",
        ),
        (
            {0: make(2, 3, 8), 1: make(2, 3, 8), 2: make(2, 3, 8)},
            {"q_num_heads": 3},
            r"heads of Q must divide its last dimension 8 \(got 3\)",
        ),
        ({0: make(2, 3, 3, 8)}, {}, r"heads of Q must be a multiple of those of K, 2 \(got 3\)"),
        ({0: make(2, 4, 3, 7)}, {}, "K must agree with Q in batch and head size"),
        ({2: make(2, 2, 4, 6)}, {}, "V must agree with K in all but head size"),
        ({3: np.ones((2, 5), np.bool_)}, {}, "attn_mask must broadcast to"),
        ({3: np.ones((3, 6), F32)}, {}, "attn_mask must broadcast to"),
        ({3: np.ones((1, 2, 4, 3, 5), F32)}, {}, "attn_mask must broadcast to"),
        ({4: make(2, 2, 1, 8)}, {}, "past_key and past_value must be given together"),
        ({4: make(2, 2, 1, 7), 5: make(2, 2, 1, 6)}, {}, "past_key must have shape"),
        (
            {4: make(2, 2, 1, 8), 5: make(2, 2, 1, 6), 6: np.array([1, 2])},
            {},
            "nonpad_kv_seqlen must not be given",
        ),
        ({6: np.array([1, 2, 3])}, {}, r"nonpad_kv_seqlen must have shape \(2,\)"),
        ({6: np.array([1, 6])}, {}, r"nonpad_kv_seqlen must be in \[0, 5\]"),
        ({}, {"qk_matmul_output_mode": 4}, r"qk_matmul_output_mode must be one of 0, 1, 2, 3"),
        ({}, {"left_window_size": -2}, "left_window_size and right_window_size must be at least -1"),
        ({}, {"softmax_precision": 2}, "softmax_precision must be one of float, float16, double, bfloat16"),
    ],
)
def test_attention_errors(changes, attributes, message):
    inputs = good()
    for position, value in changes.items():
        inputs[position] = value
    with pytest.raises(KernelError, match=message):
        run_op("Attention", *inputs, opset=25, **attributes)


def test_attention_cost_counts_every_output():
    cost = registry.find("", "Attention", 24).cost
    q, k, v = make(2, 3, 4, 8), make(2, 3, 5, 8), make(2, 3, 5, 16)
    past = make(2, 3, 7, 8), make(2, 3, 7, 16)
    outputs = run_op("Attention", q, k, v, None, *past, opset=24, n_outputs=4)
    assert cost(q, k, v, None, *past).out_bytes >= sum(y.nbytes for y in outputs)
    long = np.broadcast_to(np.float32(0), (1, 1_000_000, 8))  # 32 MB here, 4 TB of scores
    assert cost(long, long, long, q_num_heads=1, kv_num_heads=1).scratch_bytes >= 4 * 10**12


# FlexAttention


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_flex_attention_without_modifiers_is_attention(dtype):
    q, k, v = make(2, 4, 3, 8, dtype=dtype), make(2, 2, 5, 8, dtype=dtype), make(2, 2, 5, 6, dtype=dtype)
    for scale in (None, 0.5):
        attributes = {} if scale is None else {"scale": scale}
        y = run_op("FlexAttention", q, k, v, opset=1, domain=PREVIEW, **attributes)
        close(y, slow_attention(q, k, v, scale=scale)[0], dtype)


@pytest.mark.parametrize(
    ("dtype", "code", "seen"),
    [(F16, None, F32), (F32, None, F32), (F64, None, F64), (F32, 10, F16), (F32, 16, BF16), (F32, 11, F64)],
)
def test_flex_attention_modifiers_see_the_softmax_precision(dtype, code, seen):
    q, k, v = (make(1, 2, 3, 4, dtype=dtype) for _ in range(3))
    types = []

    def causal(scores):
        types.append(scores.dtype)
        rows, columns = np.indices(scores.shape[2:])
        return (np.where(columns > rows, scores.dtype.type(-np.inf), scores),)

    def half(probabilities):
        types.append(probabilities.dtype)
        return ((probabilities.astype(F64) / 2).astype(probabilities.dtype),)

    attributes = {} if code is None else {"softmax_precision": code}
    y = run_op(
        "FlexAttention", q, k, v, opset=1, domain=PREVIEW, score_mod=causal, prob_mod=half, **attributes
    )
    assert types == [seen, seen]
    assert y.dtype == dtype
    expected = slow_attention(q, k, v, causal=True)[0] / 2
    tolerance = max(TOLERANCE[dtype], TOLERANCE[seen])
    np.testing.assert_allclose(y.astype(F64), expected, rtol=tolerance, atol=tolerance)


def test_flex_attention_has_no_guard_for_rows_without_keys():
    q = make(1, 1, 2, 4)
    y = run_op(
        "FlexAttention", q, q, q, opset=1, domain=PREVIEW, score_mod=lambda s: (np.full_like(s, -np.inf),)
    )
    assert np.isnan(y).all()


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        ([make(2, 3, 4)] * 3, {}, "Q, K and V must have 4 dimensions"),
        ([make(1, 3, 2, 4), make(1, 2, 2, 4), make(1, 2, 2, 4)], {}, "heads of Q must be a multiple"),
        ([make(1, 1, 2, 4)] * 3, {"softmax_precision": 2}, "softmax_precision must be one of"),
        ([make(1, 1, 2, 4)] * 3, {"score_mod": lambda s: (s[0],)}, "score_mod must return float32"),
        ([make(1, 1, 2, 4)] * 3, {"prob_mod": lambda p: (p.astype(F64),)}, "prob_mod must return float32"),
    ],
)
def test_flex_attention_errors(inputs, attributes, message):
    with pytest.raises(KernelError, match=message):
        run_op("FlexAttention", *inputs, opset=1, domain=PREVIEW, **attributes)


# RotaryEmbedding


def slow_rotary(x, cos, sin, size, interleaved):
    """Rotate `(B, H, S, D)` as complex numbers; cos and sin are `(B, S, size / 2)`."""
    y = x.astype(F64).copy()
    turn = (cos.astype(F64) + 1j * sin.astype(F64))[:, None]
    half = size // 2
    first = y[..., 0:size:2] if interleaved else y[..., :half]
    second = y[..., 1:size:2] if interleaved else y[..., half:size]
    turned = (first + 1j * second) * turn
    first[...], second[...] = turned.real, turned.imag
    return y


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("partial", [0, 4])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_rotary_embedding(dtype, interleaved, partial, ids, flat):
    x = make(2, 3, 5, 8, dtype=dtype)
    half = (partial or 8) // 2
    caches = make(2, 10, half, dtype=dtype) if ids else make(2, 2, 5, half, dtype=dtype)
    position_ids = RNG.integers(0, 10, (2, 5)) if ids else None
    cos, sin = (c[position_ids] for c in caches) if ids else caches
    expected = slow_rotary(x, cos, sin, partial or 8, interleaved)
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": partial}
    if flat:
        x = x.transpose(0, 2, 1, 3).reshape(2, 5, 24)
        expected = expected.transpose(0, 2, 1, 3).reshape(2, 5, 24)
        attributes["num_heads"] = 3
    close(run_op("RotaryEmbedding", x, *caches, position_ids, opset=23, **attributes), expected, dtype)


@pytest.mark.parametrize(
    ("x", "cache", "ids", "attributes", "message"),
    [
        (make(2, 5, 24), make(2, 5, 4), None, {}, r"heads of X must divide .* \(got None\)"),
        (make(2, 3, 5, 7), make(2, 5, 3), None, {}, "rotary_embedding_dim must be even, at most 7"),
        (
            make(2, 3, 5, 8),
            make(2, 5, 4),
            None,
            {"rotary_embedding_dim": 10},
            "rotary_embedding_dim must be even",
        ),
        (
            make(2, 3, 5, 8),
            make(2, 5, 4),
            None,
            {"rotary_embedding_dim": -2},
            "rotary_embedding_dim must be even",
        ),
        (make(2, 3, 5, 8), make(2, 5, 3), None, {}, r"cos_cache must give \(2, 5, 4\)"),
        (make(2, 3, 5, 8), make(9, 4), np.full((2, 5), 9), {}, r"position_ids must be in \[0, 8\]"),
        (make(2, 3, 5, 8), make(9, 4), np.full((2, 5), -1), {}, r"position_ids must be in \[0, 8\]"),
        (make(2, 3, 5, 8), make(9, 4), np.zeros((2, 4), int), {}, "position_ids must have shape"),
        (make(2, 3, 5, 8), make(2, 5, 4), np.zeros((2, 5), int), {}, "cos_cache must have 2 dimensions"),
    ],
)
def test_rotary_embedding_errors(x, cache, ids, attributes, message):
    with pytest.raises(KernelError, match=message):
        run_op("RotaryEmbedding", x, cache, cache, ids, opset=23, **attributes)


# LinearAttention


def slow_linear(q, k, v, state, decay, beta, rule, scale):
    """The recurrences of the documentation on `(B, H, T, D)`; decay and beta are `(B, H, T, 1 or D)`."""
    q, k, v, state = (a.astype(F64) for a in (q, k, v, state))
    group = q.shape[1] // k.shape[1]
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, t in np.ndindex(k.shape[:3]):
        s, key, value = state[b, h], k[b, h, t], v[b, h, t]
        if "gated" in rule:
            s = np.exp(decay[b, h, t].astype(F64))[:, None] * s
        if "delta" in rule:
            value = beta[b, h, t].astype(F64) * (value - s.T @ key)
        s = s + np.outer(key, value)
        for g in range(group):
            y[b, h * group + g, t] = scale * q[b, h * group + g, t] @ s
        state[b, h] = s
    return y, state


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(["linear", "gated", "delta", "gated_delta"]),
    dtype=st.sampled_from([F32, F16, BF16]),
    sizes=st.tuples(*[st.integers(1, 3)] * 6),
    past=st.booleans(),
    per_key=st.booleans(),
    shared_beta=st.booleans(),
    scale=st.sampled_from([0.0, 0.7]),
)
def test_linear_attention_is_its_recurrence(rule, dtype, sizes, past, per_key, shared_beta, scale):
    batch, group, shared, steps, size, v_size = sizes
    heads = group * shared
    q, k = make(batch, steps, heads * size, dtype=dtype), make(batch, steps, shared * size, dtype=dtype)
    v = make(batch, steps, shared * v_size, dtype=dtype)
    decay = make(batch, steps, shared * size if per_key else shared, dtype=dtype) if "gated" in rule else None
    beta = make(batch, steps, 1 if shared_beta else shared, dtype=dtype) if "delta" in rule else None
    state = make(batch, shared, size, v_size)  # float32, whatever the tokens are
    y, present = run_op(
        "LinearAttention", q, k, v, state if past else None, decay, beta,
        opset=27, n_outputs=2, q_num_heads=heads, kv_num_heads=shared, scale=scale, update_rule=rule,
    )  # fmt: skip
    four = split(q, heads), split(k, shared), split(v, shared)
    decays = None if decay is None else np.broadcast_to(split(decay, shared), four[1].shape)
    betas = None
    if beta is not None:
        betas = np.broadcast_to(split(beta, beta.shape[2]), (batch, shared, steps, 1))
    initial = state if past else np.zeros_like(state)
    expected, last = slow_linear(*four, initial, decays, betas, rule, scale or size**-0.5)
    close(y, expected.transpose(0, 2, 1, 3).reshape(batch, steps, heads * v_size), dtype)
    close(present, last, F32 if past else dtype)


def test_linear_attention_in_two_parts_is_one():
    q, k, v = make(2, 6, 12), make(2, 6, 6), make(2, 6, 4)
    decay, beta = make(2, 6, 2), make(2, 6, 2)
    heads = {"q_num_heads": 4, "kv_num_heads": 2}

    def attend(part, state):
        parts = (a[:, part] for a in (q, k, v, decay, beta))
        query, key, value, *gates = parts
        return run_op("LinearAttention", query, key, value, state, *gates, opset=27, n_outputs=2, **heads)

    whole, end = attend(slice(None), None)
    first, middle = attend(slice(0, 4), None)
    second, last = attend(slice(4, 6), middle)
    close(np.concatenate((first, second), 1), whole.astype(F64))
    close(last, end.astype(F64))


@pytest.mark.parametrize("steps", [0, 1])
def test_linear_attention_of_few_tokens(steps):
    y, state = run_op(
        "LinearAttention", make(2, steps, 4), make(2, steps, 4), make(2, steps, 6),
        opset=27, n_outputs=2, q_num_heads=2, kv_num_heads=2, update_rule="linear",
    )  # fmt: skip
    assert y.shape == (2, steps, 6)
    assert state.shape == (2, 2, 2, 3)


@pytest.mark.parametrize(
    ("changes", "attributes", "message"),
    [
        ({}, {"update_rule": "gate"}, "update_rule must be one of linear, gated, delta, gated_delta"),
        ({4: None}, {}, "decay must be given under this update_rule"),
        ({5: None}, {}, "beta must be given under this update_rule"),
        ({}, {"update_rule": "delta"}, "decay must be left out under this update_rule"),
        ({4: make(2, 3, 5)}, {}, r"decay must have shape \(2, 3, 2\) or \(2, 3, 8\) \(got \(2, 3, 5\)\)"),
        ({5: make(2, 3, 3)}, {}, "beta must have shape"),
        ({3: make(2, 2, 4, 4)}, {}, r"past_state must have shape \(2, 2, 4, 3\)"),
        ({0: make(2, 1, 3, 16)}, {}, "query, key and value must have 3 dimensions"),
        ({0: make(2, 4, 16)}, {}, "key must have as many tokens as query, 4"),
        ({}, {"q_num_heads": 0}, "heads of query must divide"),
        ({}, {"kv_num_heads": -1}, "heads of key must divide"),
    ],
)
def test_linear_attention_errors(changes, attributes, message):
    inputs = [make(2, 3, 16), make(2, 3, 8), make(2, 3, 6), None, make(2, 3, 2), make(2, 3, 1)]
    for position, value in changes.items():
        inputs[position] = value
    with pytest.raises(KernelError, match=message):
        run_op("LinearAttention", *inputs, opset=27, **{"q_num_heads": 4, "kv_num_heads": 2, **attributes})
