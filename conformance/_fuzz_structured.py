"""Rules for operators whose inputs depend on each other: recurrent, attention, images, indices, sequences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from ._fuzz_pen import Pen, Rule
from ._fuzz_values import Array, axes_of, indices, shapes

Drawn = tuple[list[Array | None], dict[str, Any]]

_ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "HardSigmoid", "Softsign", "Elu", "LeakyRelu")


# --- recurrent networks --------------------------------------------------------------------------


def _recurrent(gates: int, functions: int) -> Rule:
    def rule(pen: Pen) -> Drawn:
        steps, batch, size, hidden = (
            pen.pick(2, 1, 3),
            pen.pick(1, 2),
            pen.pick(2, 1, 17),
            pen.pick(1, 2, 3, 17),
        )
        direction = pen.pick("forward", "reverse", "bidirectional")
        ways = 2 if direction == "bidirectional" else 1
        layout = pen.pick(0, 1)
        state = (batch, ways, hidden) if layout else (ways, batch, hidden)
        lengths = None
        if pen.draw(st.booleans()):
            drawn = pen.draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
            lengths = np.array(drawn, np.int32)
        inputs = [
            pen.array(0, (batch, steps, size) if layout else (steps, batch, size), tame=True),
            pen.array(1, (ways, gates * hidden, size), tame=True),
            pen.array(2, (ways, gates * hidden, hidden), tame=True),
            pen.maybe(3, (ways, 2 * gates * hidden), tame=True),
            lengths,
            pen.maybe(5, state, tame=True),
        ]
        attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction, "layout": layout}
        if gates == 4:
            inputs.append(pen.maybe(6, state, tame=True))
            inputs.append(pen.maybe(7, (ways, 3 * hidden), tame=True))
            attributes["input_forget"] = pen.pick(0, 1)
        if gates == 3:
            attributes["linear_before_reset"] = pen.pick(0, 1)
        if pen.draw(st.booleans()):
            attributes["clip"] = pen.pick(1.0, 0.25)
        if pen.draw(st.booleans()):
            attributes["activations"] = [pen.pick(*_ACTIVATIONS) for _ in range(functions * ways)]
        return inputs, attributes | {"outputs": 3 if gates == 4 else 2}

    return rule


# --- attention -----------------------------------------------------------------------------------


def _attention(pen: Pen) -> Drawn:
    batch, kv_heads, groups = pen.pick(1, 2), pen.pick(1, 2), pen.pick(1, 2, 3)
    heads, size, v_size = kv_heads * groups, pen.pick(2, 1, 8, 17), pen.pick(2, 1, 16, 17)
    queries, keys, past = pen.pick(2, 1, 3, 17), pen.pick(2, 1, 4, 33), pen.pick(0, 0, 2)
    flat = pen.pick(0, 1)
    attributes: dict[str, Any] = {"is_causal": pen.pick(0, 1)}

    def shape(count: int, length: int, width: int) -> tuple[int, ...]:
        return (batch, length, count * width) if flat else (batch, count, length, width)

    if flat:
        attributes |= {"q_num_heads": heads, "kv_num_heads": kv_heads}
    if pen.draw(st.booleans()):
        attributes["scale"] = pen.pick(1.0, 0.5)
    if pen.draw(st.booleans()):
        attributes["softcap"] = pen.pick(0.0, 2.0)
    inputs: list[Array | None] = [
        pen.array(0, shape(heads, queries, size), tame=True),
        pen.array(1, shape(kv_heads, keys, size), tame=True),
        pen.array(2, shape(kv_heads, keys, v_size), tame=True),
    ]
    mask_shape = pen.pick((queries, keys + past), (1, 1, queries, keys + past), (batch, 1, 1, keys + past))
    # The function body adds -inf to the mask for what is_causal hides, and no integer holds that.
    assume(pen.dtype(3).kind not in "iu" or not attributes["is_causal"])
    mask = pen.booleans(mask_shape) if pen.dtype(3).kind == "b" else pen.array(3, mask_shape, tame=True)
    inputs.append(mask if pen.draw(st.booleans()) else None)
    if past:
        inputs.append(pen.array(1, (batch, kv_heads, past, size), tame=True))
        inputs.append(pen.array(2, (batch, kv_heads, past, v_size), tame=True))
        attributes["outputs"] = 3
    return inputs, attributes


def _rotary(pen: Pen) -> Drawn:
    batch, heads, steps, half = pen.pick(1, 2), pen.pick(1, 2), pen.pick(2, 1), pen.pick(1, 2, 4, 17)
    rest = pen.pick(0, 0, 2)
    x = pen.array(0, (batch, heads, steps, 2 * half + rest), tame=True)
    attributes = {"interleaved": pen.pick(0, 1)} | ({"rotary_embedding_dim": 2 * half} if rest else {})
    if pen.draw(st.booleans()):
        positions = pen.draw(indices((batch, steps), 4, negative=False))
        return [x, *(pen.array(1, (4, half), tame=True) for _ in "cs"), positions], attributes
    return [x, *(pen.array(1, (batch, steps, half), tame=True) for _ in "cs")], attributes


# --- images --------------------------------------------------------------------------------------


def _resize(pen: Pen) -> Drawn:
    space = [pen.pick(3, 2, 4, 1) for _ in range(pen.pick(2, 1))]
    x = pen.array(0, (1, pen.pick(1, 2), *space), tame=True)
    mode = pen.pick("nearest", "linear", "cubic")
    assume(mode != "cubic" or len(space) == 2)
    attributes: dict[str, Any] = {"mode": mode}
    attributes["coordinate_transformation_mode"] = pen.pick(
        "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"
    )
    if mode == "nearest":
        attributes["nearest_mode"] = pen.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    elif pen.draw(st.booleans()):
        attributes["antialias"] = 1
    if mode == "cubic":
        attributes["cubic_coeff_a"] = pen.pick(-0.75, -0.5)
        attributes["exclude_outside"] = pen.pick(0, 1)
    if pen.draw(st.booleans()):
        sizes = np.array([*x.shape[:2], *(pen.pick(2, 1, 4, 5) for _ in space)], np.int64)
        return [x, None, None, sizes], attributes
    scales = np.array([1, 1, *(pen.pick(2.0, 0.5, 1.5, 1.0, 3.0) for _ in space)], np.float32)
    assume(all(math.floor(n * s) for n, s in zip(x.shape, scales.tolist(), strict=True)))
    return [x, None, scales], attributes


def _grid_sample(pen: Pen) -> Drawn:
    x = pen.array(0, (1, pen.pick(1, 2), pen.pick(3, 2, 1), pen.pick(3, 2, 1)), tame=True)
    points = pen.draw(st.lists(st.integers(-6, 6), min_size=8, max_size=8))
    grid = (np.array(points) / 4 + 0.01).reshape(1, 2, 2, 2).astype(pen.dtype(1))
    return [x, grid], {
        "mode": pen.pick("linear", "nearest", "cubic"),
        "padding_mode": pen.pick("zeros", "border", "reflection"),
        "align_corners": pen.pick(0, 1),
    }


# --- quantized -----------------------------------------------------------------------------------


def _scale(pen: Pen, index: int) -> Array:
    # Powers of two: with others the order of operations decides what becomes of a half.
    return np.array(pen.pick(0.5, 1.0, 0.25, 2.0, 0.125), pen.dtype(index))


def _qlinear_matmul(pen: Pen) -> Drawn:
    m, k, n = pen.pick(2, 1, 3, 17), pen.pick(2, 1, 3, 5, 33), pen.pick(2, 1, 3, 17)
    batch = pen.draw(shapes(0, 1, smallest=1))
    a, b = pen.array(0, (*batch, m, k)), pen.array(3, (k, n))
    return [
        *(a, _scale(pen, 1), pen.array(2, (), tame=True)),
        *(b, _scale(pen, 4), pen.array(5, (), tame=True)),
        *(_scale(pen, 6), pen.array(7, (), tame=True)),
    ], {}


def _convolved(pen: Pen) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    space = [pen.pick(3, 4, 1, 5) for _ in "hw"]
    kernel = [pen.pick(*range(1, min(3, size) + 1)) for size in space]
    group, per, out = pen.pick(1, 2), pen.pick(1, 2, 4, 17), pen.pick(1, 2, 8, 17)
    attributes: dict[str, Any] = {"group": group}
    if pen.draw(st.booleans()):
        attributes["pads"] = [pen.draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4)]
    if pen.draw(st.booleans()):
        attributes["strides"] = [pen.pick(1, 2) for _ in kernel]
    return (pen.pick(1, 2), group * per, *space), (group * out, per, *kernel), attributes


def _conv_integer(pen: Pen) -> Drawn:
    x, w, attributes = _convolved(pen)
    return [pen.array(0, x), pen.array(1, w), pen.maybe(2, (), tame=True), pen.maybe(3, (), tame=True)], (
        attributes
    )


def _qlinear_conv(pen: Pen) -> Drawn:
    x, w, attributes = _convolved(pen)
    channels = (w[0],) if pen.draw(st.booleans()) else ()
    w_scale = np.resize(_scale(pen, 4), channels)
    bias = pen.draw(st.lists(st.integers(-90, 90), min_size=w[0], max_size=w[0]))
    return [
        *(pen.array(0, x), _scale(pen, 1), pen.array(2, (), tame=True)),
        *(pen.array(3, w), w_scale, np.zeros(channels, pen.dtype(5))),
        *(_scale(pen, 6), pen.array(7, (), tame=True)),
        np.array(bias, np.int32) if pen.draw(st.booleans()) else None,
    ], attributes


# --- indices -------------------------------------------------------------------------------------


def _gather_nd(pen: Pen) -> Drawn:
    data = pen.array(0, pen.draw(shapes(1, 4, smallest=1)))
    batch = pen.draw(st.integers(0, data.ndim - 1))
    depth = pen.draw(st.integers(1, data.ndim - batch))
    middle = pen.draw(shapes(0, 1, smallest=1))
    columns = [
        pen.draw(indices((*data.shape[:batch], *middle, 1), data.shape[batch + i])) for i in range(depth)
    ]
    return [data, np.concatenate(columns, -1)], {"batch_dims": batch}


def _scatter_nd(pen: Pen) -> Drawn:
    data = pen.array(0, pen.draw(shapes(1, 4, smallest=1)))
    depth = pen.draw(st.integers(1, data.ndim))
    count = pen.pick(1, 2, 3)
    columns = [pen.draw(indices((count, 1), data.shape[i])) for i in range(depth)]
    chosen = np.concatenate(columns, -1)
    reduction = pen.pick("none", "add", "mul", "max", "min")
    if reduction == "none":  # with duplicates the result is the implementation's choice
        positive = {tuple(int(i) % n for i, n in zip(row, data.shape, strict=False)) for row in chosen}
        assume(len(positive) == count)
    return [data, chosen, pen.array(2, (count, *data.shape[depth:]))], {"reduction": reduction}


_EQUATIONS = {
    "ij,jk->ik": ("ij", "jk"),
    "bij,bjk->bik": ("bij", "bjk"),
    "ij->ji": ("ij",),
    "ij->": ("ij",),
    "ii->i": ("ii",),
    "ij,ij->i": ("ij", "ij"),
    "i,j->ij": ("i", "j"),
    "bhid,bhjd->bhij": ("bhid", "bhjd"),
    "ij,jk,kl->il": ("ij", "jk", "kl"),
    "ij,jk": ("ij", "jk"),
}


def _einsum(pen: Pen) -> Drawn:
    equation = pen.pick(*_EQUATIONS)
    sizes = {letter: pen.pick(2, 1, 3) for letter in "abdhijkl"}
    terms = _EQUATIONS[equation]
    return [pen.array(0, tuple(sizes[x] for x in term), tame=True) for term in terms], {"equation": equation}


# --- others --------------------------------------------------------------------------------------


def _group_norm(pen: Pen) -> Drawn:
    groups, per = pen.pick(1, 2), pen.pick(1, 2)
    x = pen.array(0, (pen.pick(1, 2), groups * per, *pen.draw(shapes(1, 2, smallest=1))), tame=True)
    return [x, *(pen.array(i, (groups * per,), tame=True) for i in (1, 2))], {"num_groups": groups}


def _one_hot(pen: Pen) -> Drawn:
    depth = pen.pick(3, 1, 2)
    chosen = pen.draw(indices(pen.draw(shapes(0, 2)), 5)).astype(pen.dtype(0))
    return [chosen, np.array(depth, pen.dtype(1)), pen.array(2, (2,))], {
        "axis": pen.draw(axes_of(chosen.ndim + 1))
    }


def _reverse_sequence(pen: Pen) -> Drawn:
    x = pen.array(0, (pen.pick(2, 3), pen.pick(2, 1), pen.pick(1, 2)))
    time = pen.pick(0, 1)
    lengths = pen.draw(indices((x.shape[1 - time],), x.shape[time], negative=False)) + 1
    return [x, lengths], {"time_axis": time, "batch_axis": 1 - time}


RULES: dict[str, Rule] = {
    "Attention": _attention,
    "ConvInteger": _conv_integer,
    "Einsum": _einsum,
    "GRU": _recurrent(3, 2),
    "GatherND": _gather_nd,
    "GridSample": _grid_sample,
    "GroupNormalization": _group_norm,
    "LSTM": _recurrent(4, 3),
    "OneHot": _one_hot,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "RNN": _recurrent(1, 1),
    "Resize": _resize,
    "ReverseSequence": _reverse_sequence,
    "RotaryEmbedding": _rotary,
    "ScatterND": _scatter_nd,
}
