"""Rows for `test_function_bodies.py` of attention and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from function_rows import (
    F32,
    F64,
    FLOAT32_BODY,
    INVALID_BODY,
    Call,
    Deviation,
    Make,
    Row,
    as_type,
    but,
    fixed,
    labels,
    rows,
    uniform,
    unit,
)
from node_models import element
from onnx import parser

from onnxref.registry import PREVIEW

_4D = (unit(2, 4, 3, 8), unit(2, 2, 5, 8), unit(2, 2, 5, 6))
_3D = (unit(2, 3, 32), unit(2, 5, 16), unit(2, 5, 12))
_HEADS = {"q_num_heads": 4, "kv_num_heads": 2}
_PAST = (unit(2, 2, 4, 8), unit(2, 2, 4, 6))
_MASKS = {
    "bool mask": as_type(np.dtype(bool), uniform(3, 5)),
    "float mask": uniform(3, 5),
    "4-d mask": uniform(2, 1, 3, 5),
    "fully masked row": fixed([[True] * 5, [False] * 5, [True] * 5], bool),
}
_DOUBLE_SCALE = Deviation(FLOAT32_BODY, "the body's scale is a float32", (F64,))


def _windowed(left: int, right: int) -> list[Row]:
    window = {"left_window_size": left, "right_window_size": right}
    label = f"window {left} {right}"
    return [
        *rows("Attention", (label, _4D, window), since=(25,)),
        *rows("Attention", (f"{label}, past", (*_4D, None, *_PAST), window), since=(25,), n_outputs=3),
    ]


ATTENTION = [
    *but(
        _DOUBLE_SCALE,
        *rows(
            "Attention",
            ("4-d", _4D, {}),
            ("3-d", _3D, _HEADS),
            ("causal", _4D, {"is_causal": 1}),
            ("scale", _4D, {"scale": 0.3}),
            ("softcap", _4D, {"softcap": 0.5}),
            ("softmax double", _4D, {"softmax_precision": element("double")}),
            ("mask, causal", (*_4D, uniform(3, 5)), {"is_causal": 1}),
            *((label, (*_4D, mask), {}) for label, mask in _MASKS.items()),
        ),
        *rows(
            "Attention",
            ("past", (*_4D, None, *_PAST), {}),
            ("past, causal", (*_4D, None, *_PAST), {"is_causal": 1}),
            ("past, mask, 3-d", (*_3D, uniform(3, 9), *_PAST), _HEADS),
            n_outputs=3,
        ),
        *rows(
            "Attention",
            *(
                (f"mode {mode}", (*_4D, uniform(3, 5)), {"qk_matmul_output_mode": mode, "softcap": 0.7})
                for mode in range(4)
            ),
            n_outputs=4,
        ),
        *rows(
            "Attention",
            ("lengths", (*_4D, None, None, None, fixed([5, 2])), {}),
            ("lengths, causal", (*_4D, None, None, None, fixed([5, 3])), {"is_causal": 1}),
            ("short mask", (*_4D, uniform(3, 4)), {}),
            since=(24, 25),
        ),
        *(row for window in ((1, -1), (-1, 1), (2, 0)) for row in _windowed(*window)),
    ),
    *rows("Attention", ("softmax float", _4D, {"softmax_precision": element("float")}), stage=F32),
    *_windowed(0, 0)[:1],  # each query sees one key: the scale does not matter
    *but(
        Deviation(INVALID_BODY, "the body's Reshape takes the 0 keys for a size to copy"),
        *rows("Attention", ("no keys", (unit(1, 1, 2, 4), unit(1, 1, 0, 4), unit(1, 1, 0, 4)), {})),
    ),
]


def _modifier(op_type: str) -> Callable[[np.dtype[Any]], Any]:
    """Return a maker of a modifier of FlexAttention; scores are float but for double inputs."""

    def make(dtype: np.dtype[Any]) -> Any:
        kind = "double" if dtype == F64 else "float"
        return parser.parse_graph(f"modify ({kind}[a,b,c,d] x) => ({kind}[a,b,c,d] y) {{ y = {op_type}(x) }}")

    return make


FLEX_ATTENTION = but(
    _DOUBLE_SCALE,
    *rows(
        "FlexAttention",
        ("4-d", _4D, {}),
        ("scale", _4D, {"scale": 0.3}),
        ("score mod", _4D, {"score_mod": _modifier("Tanh")}),
        ("prob mod", _4D, {"prob_mod": _modifier("Sqrt")}),
        ("both", _4D, {"score_mod": _modifier("Sin"), "prob_mod": _modifier("Neg")}),
        ("softmax double", _4D, {"softmax_precision": element("double")}),
        domain=PREVIEW,
    ),
)

_QKV = (unit(2, 3, 16), uniform(2, 3, 8, low=-0.5, high=0.5), unit(2, 3, 6))
_STATE = unit(2, 2, 4, 3)
_DECAYS = (uniform(2, 3, 8, low=-1, high=0), uniform(2, 3, 2, low=-1, high=0))
_BETAS = (uniform(2, 3, 2, low=0, high=1), uniform(2, 3, 1, low=0, high=1))


def _rule(name: str, *inputs: Make | None, **attributes: Any) -> Call:
    past = ["past"] if inputs and inputs[0] else []
    return (
        ", ".join([name, *past, *attributes]),
        (*_QKV, *inputs),
        {**_HEADS, "update_rule": name, **attributes},
    )


LINEAR_ATTENTION = rows(
    "LinearAttention",
    _rule("linear"),
    _rule("linear", _STATE),
    _rule("linear", scale=0.7),
    _rule("linear", chunk_size=2),
    _rule("linear", as_type(F32, _STATE), scale=0.6),
    _rule("gated", None, _DECAYS[0]),
    _rule("gated", _STATE, _DECAYS[1]),
    _rule("delta", None, None, _BETAS[0]),
    _rule("delta", _STATE, None, _BETAS[1]),
    _rule("gated_delta", None, _DECAYS[0], _BETAS[0]),
    _rule("gated_delta", _STATE, _DECAYS[1], _BETAS[1]),
    n_outputs=2,
)


def _convolutions(activation: str) -> list[Row]:
    given = {"activation": activation}
    calls: list[Call] = [
        (f"plain, {activation}", (uniform(2, 3, 6), uniform(3, 1, 4)), given),
        (f"bias, {activation}", (uniform(2, 3, 6), uniform(3, 1, 4), uniform(3)), given),
        (f"state, {activation}", (uniform(2, 3, 6), uniform(3, 1, 4), None, uniform(2, 3, 3)), given),
        (f"short, {activation}", (uniform(2, 3, 1), uniform(3, 1, 4), uniform(3), uniform(2, 3, 3)), given),
        (f"short, no state, {activation}", (uniform(2, 3, 2), uniform(3, 1, 4)), given),
        (f"kernel of one, {activation}", (uniform(2, 3, 2), uniform(3, 1, 1)), given),
    ]
    return rows("CausalConvWithState", *calls, n_outputs=2)


def _rotary(interleaved: int) -> list[Row]:
    four, three = uniform(2, 3, 5, 8), uniform(2, 5, 24)
    cache, ids, direct = unit(9, 4), labels(2, 5, classes=9), unit(2, 5, 4)
    partial = {"rotary_embedding_dim": 4, "interleaved": interleaved}
    full = {"interleaved": interleaved}
    calls: list[Call] = [
        ("4-d, ids", (four, cache, cache, ids), full),
        ("4-d, direct", (four, direct, direct), full),
        ("3-d, ids", (three, cache, cache, ids), full | {"num_heads": 3}),
        ("3-d, direct", (three, direct, direct), full | {"num_heads": 3}),
        ("4-d, partial", (four, unit(9, 2), unit(9, 2), ids), partial),
        ("3-d, partial", (three, unit(2, 5, 2), unit(2, 5, 2)), partial | {"num_heads": 3}),
    ]
    return [
        replace(row, label=f"{row.label}, interleaved={interleaved}")
        for row in rows("RotaryEmbedding", *calls)
    ]


ATTENTION_ROWS = [
    *ATTENTION,
    *FLEX_ATTENTION,
    *LINEAR_ATTENTION,
    *(row for activation in ("none", "silu", "swish") for row in _convolutions(activation)),
    *(row for interleaved in (0, 1) for row in _rotary(interleaved)),
]
