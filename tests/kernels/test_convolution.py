"""Conv and its kin against the definition written as nested loops, for all versions and types."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from convolutions import FLOATS, TOLERANCE, conv_by_definition, normal, rng, small_ints
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxref.kernels.numpy import convolution

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.errors import KernelError

# The definition -----------------------------------------------------------------------------------


def transpose_by_definition(
    x: Array, w: Array, strides: Any, dilations: Any, begins: Any, out: Any, group: int
) -> Array:
    y = np.zeros((x.shape[0], w.shape[1] * group, *out), x.dtype)
    per_group = x.shape[1] // group
    for n, c, *at in np.ndindex(x.shape):
        for m, *tap in np.ndindex(w.shape[1:]):
            place = [
                a * s + k * d - p for a, s, k, d, p in zip(at, strides, tap, dilations, begins, strict=True)
            ]
            if all(0 <= q < size for q, size in zip(place, out, strict=True)):
                channel = c // per_group * w.shape[1] + m
                y[(n, channel, *place)] += x[(n, c, *at)] * w[(c, m, *tap)]
    return y


@st.composite
def geometry(draw: Any) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    axes = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    size, kernel = axes(1, 6 if rank < 3 else 4), axes(1, 3)
    strides, dilations = axes(1, 3), axes(1, 2)
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    pads = axes(0, 2) + axes(0, 2) if auto_pad == "NOTSET" else (0,) * (2 * rank)
    if not auto_pad.startswith("SAME"):
        size = tuple(
            max(n, (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[rank + i]) for i, n in enumerate(size)
        )
    return {
        "size": size,
        "kernel": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "auto_pad": auto_pad,
        "group": draw(st.integers(1, 3)),
        "batch": draw(st.integers(1, 2)),
        "per_group": draw(st.integers(1, 2)),
        "out_per_group": draw(st.integers(1, 2)),
    }


def attributes_of(g: dict[str, Any]) -> dict[str, Any]:
    chosen = {name: g[name] for name in ("strides", "dilations", "group", "auto_pad")}
    if g["auto_pad"] == "NOTSET":
        chosen["pads"] = g["pads"]
    return chosen


# Conv ---------------------------------------------------------------------------------------------


@given(geometry(), st.sampled_from([1, 11, 22]), st.sampled_from([64, 400, 2**20]))
@settings(max_examples=80, deadline=None)
def test_conv_is_its_definition(g: dict[str, Any], opset: int, block_bytes: int) -> None:
    x = small_ints(g["batch"], g["group"] * g["per_group"], *g["size"])
    w = small_ints(g["group"] * g["out_per_group"], g["per_group"], *g["kernel"])
    b = small_ints(len(w))
    expected = conv_by_definition(x, w, b, g["strides"], g["dilations"], g["pads"], g["group"], g["auto_pad"])
    with pytest.MonkeyPatch.context() as patch:  # small blocks: several rows, several images, one row
        patch.setattr(convolution, "_COLUMN_BYTES", block_bytes)
        patch.setattr(convolution, "_DEPTHWISE_BYTES", block_bytes)
        np.testing.assert_array_equal(run_op("Conv", x, w, b, opset=opset, **attributes_of(g)), expected)


@pytest.mark.parametrize(
    ("strides", "pads"), [((2,), (1, 1)), ((2,), (0, 2)), ((1,), (1, 0)), ((1,), (0, 0))]
)
def test_conv_of_single_pixels(strides: Any, pads: Any) -> None:
    x, w = small_ints(2, 2, 3), small_ints(4, 2, 1)  # three windows or so, over three pixels
    y = run_op("Conv", x, w, opset=22, strides=strides, pads=pads)
    np.testing.assert_array_equal(y, conv_by_definition(x, w, None, strides, (1,), pads, 1))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("opset", [1, 11, 22])
def test_conv_rounds_once(dtype: Any, opset: int) -> None:
    x, w, b = normal(2, 3, 9, 8).astype(dtype), normal(4, 3, 3, 3).astype(dtype), normal(4).astype(dtype)
    y = run_op("Conv", x, w, b, opset=opset, pads=(1, 1, 1, 1))
    wide = [a.astype(np.float64) for a in (x, w, b)]
    expected = conv_by_definition(*wide, (1, 1), (1, 1), (1, 1, 1, 1), 1)
    assert y.dtype == dtype
    np.testing.assert_allclose(
        y.astype(np.float64), expected, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype]
    )


def test_conv_sums_float16_in_float32() -> None:
    x, w = np.ones((1, 4096, 1), np.float16), np.ones((1, 4096, 1), np.float16)
    assert run_op("Conv", x, w, opset=22).item() == 4096  # float16 sums stop at 2048


@pytest.mark.parametrize(
    ("x", "w", "expected"),
    [
        ((0, 2, 5), (3, 2, 2), (0, 3, 4)),
        ((1, 0, 5), (3, 0, 2), (1, 3, 4)),
        ((1, 2, 5), (0, 2, 2), (1, 0, 4)),
        ((1, 2, 0), (3, 2, 1), (1, 3, 0)),
        ((1, 2, 0, 4), (3, 2, 3, 3), (1, 3, 0, 2)),
    ],
)
def test_conv_of_empty_tensors(x: Any, w: Any, expected: Any) -> None:
    y = run_op("Conv", np.zeros(x, np.float32), np.zeros(w, np.float32), opset=22)
    assert y.shape == expected
    assert not y.any()


def test_conv_does_not_change_its_inputs_or_need_contiguous_ones() -> None:
    x = normal(6, 6, 3, 1).transpose(3, 2, 0, 1)
    w = normal(3, 3, 3, 4).T
    for array in (x, w):
        array.flags.writeable = False
    y = run_op("Conv", x, w, opset=22)
    np.testing.assert_allclose(y, conv_by_definition(x, w, None, (1, 1), (1, 1), (0,) * 4, 1), atol=1e-12)


CONV_ERRORS = [
    ({"strides": (0, 1)}, "strides must be in"),
    ({"strides": (1,)}, "strides must have 2 values"),
    ({"dilations": (1, -1)}, "dilations must be in"),
    ({"dilations": (2**40, 1)}, "dilations must be in"),
    ({"pads": (0, 0, -1, 0)}, "pads must be in"),
    ({"pads": (1, 1)}, "pads must have 4 values"),
    ({"auto_pad": "SAME"}, "auto_pad must be"),
    ({"auto_pad": "SAME_UPPER", "pads": (1, 1, 1, 1)}, "pads must be absent or 0"),
    ({"kernel_shape": (2, 2)}, "kernel_shape must be"),
    ({"group": 0}, "group must divide"),
    ({"group": 4}, "group must divide"),
    ({"group": 3}, "input channels must be"),
    ({"dilations": (9, 9)}, "kernel with dilation must be at most"),
]


@pytest.mark.parametrize(("attributes", "message"), CONV_ERRORS)
def test_conv_refuses(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("Conv", np.zeros((1, 2, 5, 5)), np.zeros((3, 2, 3, 3)), opset=22, **attributes)


@pytest.mark.parametrize(
    ("x", "w", "b", "message"),
    [
        ((1, 2), (3, 2), None, "rank of the input must be at least 3"),
        ((1, 2, 5), (3, 2, 3, 3), None, "rank of the weights must be 3"),
        ((1, 2, 5), (3, 2, 0), None, "kernel_shape must be in"),
        ((1, 2, 5), (3, 2, 3), (2,), "B must have shape"),
    ],
)
def test_conv_refuses_shapes(x: Any, w: Any, b: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("Conv", np.zeros(x), np.zeros(w), None if b is None else np.zeros(b), opset=22)


def test_costs_count_huge_outputs_without_making_them() -> None:
    x, w = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 2), np.float32)
    huge = 10**9
    conv = registry.find("", "Conv", 22).cost
    transpose = registry.find("", "ConvTranspose", 22).cost
    fold = registry.find("", "Col2Im", 18).cost
    assert conv is not None
    assert transpose is not None
    assert fold is not None
    assert conv(x, w, pads=(huge, 0)).out_bytes == 4 * (huge + 3)
    assert conv(x, w, pads=(huge, huge), strides=(huge,)).scratch_bytes > 8 * huge
    assert transpose(x, w, strides=(huge,)).out_bytes == 4 * (3 * huge + 2)
    assert transpose(x, w, output_shape=(huge,)).out_bytes == 4 * huge
    shape = np.array([huge])
    columns = np.zeros((1, 1, 1), np.int8)
    assert fold(columns, shape, np.array([1]), strides=(huge,)).out_bytes == huge


# Integers -----------------------------------------------------------------------------------------


@given(geometry(), st.sampled_from([np.int8, np.uint8]), st.sampled_from([np.int8, np.uint8]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_conv_integer_is_its_definition(
    g: dict[str, Any], x_type: Any, w_type: Any, per_channel: bool
) -> None:
    random = rng()
    m = g["group"] * g["out_per_group"]
    whole = lambda dtype, *shape: random.integers(  # noqa: E731
        np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True
    )
    x = whole(x_type, g["batch"], g["group"] * g["per_group"], *g["size"])
    w = whole(w_type, m, g["per_group"], *g["kernel"])
    x_zero, w_zero = whole(x_type), whole(w_type, m) if per_channel else whole(w_type)
    zeros = np.broadcast_to(np.asarray(w_zero), m).reshape(-1, *(1,) * (w.ndim - 1))
    expected = conv_by_definition(
        x.astype(np.int64) - int(x_zero),
        w.astype(np.int64) - zeros,
        None,
        g["strides"],
        g["dilations"],
        g["pads"],
        g["group"],
        g["auto_pad"],
    )
    y = run_op("ConvInteger", x, w, np.asarray(x_zero), np.asarray(w_zero), opset=10, **attributes_of(g))
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, expected)


def test_conv_integer_is_exact_where_float32_is_not_and_wraps_at_32_bits() -> None:
    x, w = np.full((1, 259, 1), 255, np.uint8), np.full((1, 259, 1), 255, np.uint8)
    x[0, 0, 0] = 254
    assert run_op("ConvInteger", x, w, opset=10).item() == 258 * 255 * 255 + 254 * 255
    x = np.full((1, 33100, 1), 255, np.uint8)
    y = run_op("ConvInteger", x, x, opset=10)
    assert y.item() == 33100 * 255 * 255 - 2**32


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("types", list(itertools.product([np.int8, np.uint8], repeat=3)))
def test_qlinear_conv_is_exact(types: Any, per_channel: bool) -> None:
    random = rng()
    x_type, w_type, y_type = types
    x = random.integers(0, 100, (2, 4, 5, 5)).astype(x_type)
    w = random.integers(0, 100, (6, 2, 3, 3)).astype(w_type)
    b = random.integers(-(10**5), 10**5, 6, np.int32)
    shape = (6,) if per_channel else ()
    w_scale = np.asarray(random.uniform(0.001, 0.01, shape)).astype(np.float32)
    w_zero = np.asarray(random.integers(40, 60, shape)).astype(w_type)
    x_scale, x_zero = np.array(0.03, np.float32), np.array(50, x_type)
    y_scale, y_zero = np.array([0.2], np.float32), np.array([7], y_type)
    y = run_op(
        "QLinearConv",
        x,
        x_scale,
        x_zero,
        w,
        w_scale,
        w_zero,
        y_scale,
        y_zero,
        b,
        opset=10,
        group=2,
        pads=(1, 1, 1, 1),
    )
    totals = conv_by_definition(
        x.astype(np.int64) - int(x_zero),
        w.astype(np.int64) - w_zero.astype(np.int64).reshape(-1, 1, 1, 1),
        b.astype(np.int64),
        (1, 1),
        (1, 1),
        (1, 1, 1, 1),
        2,
    )
    limits = np.iinfo(y_type)
    scales = np.broadcast_to(w_scale, 6)
    expected = np.empty(totals.shape, y_type)
    for index in np.ndindex(totals.shape):
        factor = Fraction(float(x_scale)) * Fraction(float(scales[index[1]])) / Fraction(float(y_scale[0]))
        exact = round(int(totals[index]) * factor) + 7  # round() of a Fraction: half to even
        expected[index] = min(max(exact, limits.min), limits.max)
    assert y.dtype == y_type
    np.testing.assert_array_equal(y, expected)


def test_qlinear_conv_rounds_half_to_even_and_pads_with_the_zero_point() -> None:
    one, zero = np.array(1, np.float32), np.array(0, np.uint8)
    half = np.array(2, np.float32)
    x = np.array([[[1, 3, 5]]], np.uint8)
    w = np.ones((1, 1, 1), np.uint8)
    np.testing.assert_array_equal(
        run_op("QLinearConv", x, one, zero, w, one, zero, half, zero, opset=10), [[[0, 2, 2]]]
    )
    y = run_op("QLinearConv", x, one, np.array(1, np.uint8), w, one, zero, one, zero, opset=10, pads=(1, 1))
    np.testing.assert_array_equal(y, [[[0, 0, 2, 4, 0]]])


def test_integer_convolutions_refuse_bad_zero_points() -> None:
    x, w = np.zeros((1, 2, 3), np.uint8), np.zeros((3, 2, 1), np.uint8)
    two = np.zeros(2, np.uint8)
    with pytest.raises(KernelError, match="x_zero_point must have one element"):
        run_op("ConvInteger", x, w, two, opset=10)
    with pytest.raises(KernelError, match=r"w_zero_point must have shape \(3,\)"):
        run_op("ConvInteger", x, w, None, two, opset=10)
    one, zero = np.array(1, np.float32), np.array(0, np.uint8)
    with pytest.raises(KernelError, match="y_scale must have one element"):
        run_op("QLinearConv", x, one, zero, w, one, zero, np.ones(2, np.float32), zero, opset=10)


# ConvTranspose ------------------------------------------------------------------------------------


@given(geometry(), st.sampled_from([1, 11, 22]), st.integers(0, 2), st.sampled_from([64, 2**20]))
@settings(max_examples=60, deadline=None)
def test_conv_transpose_is_its_definition(
    g: dict[str, Any], opset: int, adjust: int, block_bytes: int
) -> None:
    rank = len(g["size"])
    x = small_ints(g["batch"], g["group"] * g["per_group"], *g["size"])
    w = small_ints(g["group"] * g["per_group"], g["out_per_group"], *g["kernel"])
    b = small_ints(g["group"] * g["out_per_group"])
    extra = tuple(min(adjust, max(s, d) - 1) for s, d in zip(g["strides"], g["dilations"], strict=True))
    full = [
        s * (n - 1) + e + (k - 1) * d + 1
        for s, n, e, k, d in zip(g["strides"], g["size"], extra, g["kernel"], g["dilations"], strict=True)
    ]
    pads, begins = g["pads"], list(g["pads"][:rank])
    if g["auto_pad"].startswith("SAME"):
        out = [n * s for n, s in zip(g["size"], g["strides"], strict=True)]
        totals = [max(0, f - o) for f, o in zip(full, out, strict=True)]
        begins = [t // 2 if g["auto_pad"] == "SAME_UPPER" else t - t // 2 for t in totals]
    else:
        pads = tuple(
            0 if full[i % rank] < pads[i % rank] + pads[i % rank + rank] else p for i, p in enumerate(pads)
        )
        begins = list(pads[:rank])
        out = [f - pads[i] - pads[rank + i] for i, f in enumerate(full)]
    expected = transpose_by_definition(x, w, g["strides"], g["dilations"], begins, out, g["group"])
    expected += b.reshape(-1, *(1,) * rank)
    attributes = attributes_of({**g, "pads": pads})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_COLUMN_BYTES", block_bytes)
        y = run_op("ConvTranspose", x, w, b, opset=opset, output_padding=extra, **attributes)
    np.testing.assert_array_equal(y, expected)


# (opset, auto_pad, where the one input of a 4-wide kernel lands in an output of 3): the odd element
# of the padding goes to the other side since version 11.
ODD_PADDING = [
    (1, "NOTSET", [1, 2, 3]),
    (1, "SAME_LOWER", [1, 2, 3]),
    (1, "SAME_UPPER", [2, 3, 4]),
    (11, "NOTSET", [2, 3, 4]),
    (11, "SAME_LOWER", [2, 3, 4]),
    (11, "SAME_UPPER", [1, 2, 3]),
    (22, "NOTSET", [2, 3, 4]),
    (22, "SAME_UPPER", [1, 2, 3]),
]


@pytest.mark.parametrize(("opset", "auto_pad", "expected"), ODD_PADDING)
def test_conv_transpose_output_shape(opset: int, auto_pad: str, expected: list[int]) -> None:
    x, w = np.ones((1, 1, 1)), np.array([[[1.0, 2, 3, 4]]])
    y = run_op("ConvTranspose", x, w, opset=opset, auto_pad=auto_pad, output_shape=(3,), pads=None)
    np.testing.assert_array_equal(y, [[expected]])


def test_conv_transpose_output_shape_ignores_pads_and_may_exceed_what_there_is() -> None:
    x, w = np.ones((1, 1, 1)), np.array([[[1.0, 2]]])
    y = run_op("ConvTranspose", x, w, opset=22, output_shape=(3,), pads=(1, 1))
    np.testing.assert_array_equal(y, [[[1, 2, 0]]])
    y = run_op("ConvTranspose", x, w, opset=22, output_shape=(5,), auto_pad="SAME_UPPER")
    np.testing.assert_array_equal(y, [[[1, 2, 0, 0, 0]]])
    y = run_op("ConvTranspose", x, w, opset=22, auto_pad="SAME_LOWER", strides=(3,))
    np.testing.assert_array_equal(y, [[[1, 2, 0]]])
    y = run_op("ConvTranspose", x, w, opset=1, output_shape=(1, 1, 2))
    np.testing.assert_array_equal(y, [[[1, 2]]])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("opset", [1, 11, 22])
def test_conv_transpose_types(dtype: Any, opset: int) -> None:
    x, w = normal(1, 4, 3, 3).astype(dtype), normal(4, 2, 3, 3).astype(dtype)
    y = run_op("ConvTranspose", x, w, opset=opset, strides=(2, 2), group=2)
    expected = transpose_by_definition(
        x.astype(np.float64), w.astype(np.float64), (2, 2), (1, 1), (0, 0), (7, 7), 2
    )
    assert y.dtype == dtype
    np.testing.assert_allclose(
        y.astype(np.float64), expected, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype]
    )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"output_padding": (2,), "strides": (2,)}, "output_padding must be less than"),
        ({"output_padding": (-1,)}, "output_padding must be in"),
        ({"output_shape": (-1,)}, "output_shape must be in"),
        ({"output_shape": (1, 1, 4)}, "output_shape must have 1 values"),
        ({"pads": (9, 9)}, "pads must be at most"),
        ({"strides": (0,)}, "strides must be in"),
        ({"group": 3}, "input channels must be"),
        ({"kernel_shape": (3,)}, "kernel_shape must be"),
    ],
)
def test_conv_transpose_refuses(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("ConvTranspose", np.zeros((1, 2, 4)), np.zeros((2, 1, 2)), opset=22, **attributes)


def test_conv_transpose_of_empty_tensors() -> None:
    for x, w, expected in [
        ((0, 2, 3), (2, 1, 2), (0, 1, 4)),
        ((1, 0, 3), (0, 1, 2), (1, 1, 4)),
        ((1, 2, 0), (2, 1, 2), (1, 1, 1)),
    ]:
        assert run_op("ConvTranspose", np.zeros(x), np.zeros(w), opset=22).shape == expected


# Col2Im -------------------------------------------------------------------------------------------


@given(geometry())
@settings(max_examples=40, deadline=None)
def test_col2im_sums_what_each_window_saw(g: dict[str, Any]) -> None:
    """Col2Im is the transpose of taking columns: <columns(x), c> == <x, col2im(c)>."""
    g["auto_pad"] = "NOTSET"
    rank, channels = len(g["size"]), 2
    pads = g["pads"]
    size = tuple(
        max(n, (k - 1) * d + 1 - pads[i] - pads[rank + i])
        for i, (n, k, d) in enumerate(zip(g["size"], g["kernel"], g["dilations"], strict=True))
    )
    x = small_ints(g["batch"], channels, *size)
    taps = math.prod(g["kernel"])
    picks = np.eye(taps).reshape(taps, 1, *g["kernel"])
    columns = np.concatenate(
        [
            conv_by_definition(x[:, c : c + 1], picks, None, g["strides"], g["dilations"], pads, 1)
            for c in range(channels)
        ],
        axis=1,
    ).reshape(g["batch"], channels * taps, -1)
    weights = np.random.default_rng(1).integers(-3, 4, columns.shape).astype(np.float64)
    image = run_op(
        "Col2Im",
        weights,
        np.array(size),
        np.array(g["kernel"]),
        opset=18,
        strides=g["strides"],
        dilations=g["dilations"],
        pads=pads,
    )
    assert image.shape == x.shape
    assert (columns * weights).sum() == (x * image).sum()


COL2IM_TYPES = [
    *(np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64),
    *(ml_dtypes.bfloat16, np.float16, np.float32, np.float64, np.complex64, np.complex128),
]


@pytest.mark.parametrize("dtype", COL2IM_TYPES)
def test_col2im_types(dtype: Any) -> None:
    columns = np.array([[[1, 2], [3, 4]]]).astype(dtype)
    y = run_op("Col2Im", columns, np.array([3]), np.array([2]), opset=18)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(np.complex128), [[[1, 5, 4]]])


def test_col2im_of_bytes_booleans_and_strings() -> None:
    shape, block = np.array([3]), np.array([2])
    y = run_op("Col2Im", np.array([[[1, 200], [100, 4]]], np.uint8), shape, block, opset=18)
    np.testing.assert_array_equal(y, [[[1, 44, 4]]])  # wraps
    y = run_op("Col2Im", np.array([[[False, True], [True, False]]]), shape, block, opset=18)
    assert y.dtype == np.bool_
    np.testing.assert_array_equal(y, [[[False, True, False]]])
    columns = np.array([[["a", "b"], ["c", "d"]]], object)
    y = run_op("Col2Im", columns, np.array([6]), block, opset=18, strides=(3,), pads=(0, 0))
    assert y.tolist() == [[["a", "c", "", "b", "d", ""]]]


@pytest.mark.parametrize(
    ("columns", "shape", "block", "message"),
    [
        ((1, 4), [2, 2], [2, 2], "rank of the input must be 3"),
        ((1, 3, 1), [2, 2], [2, 2], r"input.shape\[1\] must be a multiple of 4"),
        ((1, 4, 2), [2, 2], [2, 2], "number of blocks must be 1"),
        ((1, 4, 1), [2, -2], [2, 2], "image_shape must be in"),
        ((1, 4, 1), [2, 2], [2], "block_shape must have 2 values"),
        ((1, 4, 1), [2, 2], [0, 2], "block_shape must be in"),
    ],
)
def test_col2im_refuses(columns: Any, shape: Any, block: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("Col2Im", np.zeros(columns), np.array(shape), np.array(block), opset=18)
