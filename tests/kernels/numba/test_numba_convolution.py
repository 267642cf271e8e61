"""Blocked convolutions beside the reference: direct, from plain images, Winograd, with all epilogues."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnxref.kernels.numba.convolution as convolution
import onnxref.kernels.numpy.convolution  # noqa: F401 - registers the reference
import pytest
from lowered import reference, run_lowered
from onnxref.kernels.numba import winograd

from onnxref.dtypes import Array
from onnxref.lowering import Blocked, BlockedUse, Op, Operand, Site, Unsupported, find_lowering
from onnxref.native import target
from onnxref.registry import INTERNAL

RNG = np.random.default_rng(7)
LANES = target().lanes
DIRECT, WINOGRAD = 1e-5, 1e-4  # of the largest |y|


def _activated(y: Array, name: str, alpha: float, beta: float) -> Array:
    wide = y.astype(np.float64)
    with np.errstate(all="ignore"):
        sigmoid = 1 / (1 + np.exp(-wide))
        silu = wide * sigmoid
    table = {
        "": wide,
        "Relu": np.maximum(wide, 0),
        "Clip": np.clip(wide, alpha, beta),
        "LeakyRelu": np.where(wide < 0, wide * alpha, wide),
        "Sigmoid": sigmoid,
        "Silu": silu,
        "HardSwish": np.where(wide <= -3, 0, wide * np.minimum(wide / 6 + 0.5, 1)),
        "Tanh": np.tanh(wide),
    }
    return table[name].astype(np.float32)


def _normal(*shape: int) -> Array:
    return RNG.standard_normal(shape, dtype=np.float32)


def _check(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    residual: bool = False,
    activation: str = "",
    alpha: float = 0.0,
    beta: float = 0.0,
    input_pad: tuple[int, int, int, int] | None = None,
    output_pad: tuple[int, int, int, int] = (0, 0, 0, 0),
    plain: bool = False,
    tolerance: float = DIRECT,
    precision: str = "strict",
    parallel: bool = False,
    **attributes: Any,
) -> Array:
    (expected,) = reference("Conv", [x, w, b], attributes, 22)
    more = _normal(*expected.shape) if residual else None
    if more is not None:
        expected = expected + more
    expected = _activated(expected, activation, alpha, beta)
    pads = tuple(attributes.get("pads", (0,) * (2 * (x.ndim - 2))))
    pad = pads if len(pads) == 4 else (0, pads[0], 0, pads[1])
    layouts = {} if plain else {0: Blocked(LANES, input_pad or pad)}
    if residual:
        layouts[3] = Blocked(LANES, (0, 1, 0, 2))
    (y,) = run_lowered(
        "FusedConv",
        [x, w, b, more],
        [(expected.shape, np.float32)],
        {**attributes, "activation": activation, "alpha": alpha, "beta": beta},
        opset=1,
        domain=INTERNAL,
        constants=(1, 2),
        layouts=layouts,
        output_layouts={0: Blocked(LANES, output_pad)},
        precision=precision,
        parallel=parallel,
    )
    assert y is not None
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * max(1.0, largest))
    return y


# Direct -------------------------------------------------------------------------------------------

# channels in, out, rows, columns, kernel, stride, padding, dilation
SHAPES = [
    (32, 32, 14, 14, 1, 1, 0, 1),
    (17, 5, 9, 7, 1, 1, 0, 1),
    (16, 49, 7, 7, 3, 1, 1, 1),
    (33, 40, 9, 15, 3, 2, 1, 1),
    (16, 32, 13, 12, 3, 1, 2, 2),
    (8, 16, 6, 5, 5, 1, 2, 1),
    (16, 70, 1, 1, 1, 1, 0, 1),
    (24, 24, 8, 8, 2, 2, 0, 1),
]


@pytest.mark.parametrize(("parallel", "n"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_direct(shape: tuple[int, ...], parallel: bool, n: int) -> None:
    c, m, h, w, kernel, stride, pad, dilation = shape
    _check(
        _normal(n, c, h, w),
        _normal(m, c, kernel, kernel) / math.sqrt(c * kernel**2),
        _normal(m),
        strides=(stride,) * 2,
        pads=(pad,) * 4,
        dilations=(dilation,) * 2,
        parallel=parallel,
    )


def test_direct_uneven_everything() -> None:
    x, w = _normal(2, 20, 9, 8), _normal(12, 20, 1, 3)
    _check(
        x,
        w,
        pads=(0, 1, 2, 3),
        strides=(2, 1),
        input_pad=(1, 2, 2, 4),
        output_pad=(3, 0, 1, 2),
        residual=True,
    )


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(auto_pad: str) -> None:
    _check(_normal(1, 16, 9, 8), _normal(8, 16, 2, 4), auto_pad=auto_pad, input_pad=(1, 2, 1, 2))


def test_one_dimension() -> None:
    _check(_normal(2, 19, 40), _normal(33, 19, 5), _normal(33), pads=(2, 1), strides=(2,))


def test_long_row_is_cut_evenly() -> None:
    """A flat image of more bytes than a unit takes, whose pieces overlap no other."""
    x, w = _normal(1, 64, 67, 61), _normal(16, 64, 1, 1) / 8
    _check(x, w, parallel=True, activation="Silu")


@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [("Relu", 0, 0), ("Clip", -0.25, 0.5), ("LeakyRelu", 0.1, 0), ("Silu", 0, 0), ("HardSwish", 0, 0)],
)
@pytest.mark.parametrize("residual", [False, True])
def test_epilogues(name: str, alpha: float, beta: float, residual: bool) -> None:
    x, w = _normal(1, 16, 7, 9), _normal(24, 16, 3, 3) / 12
    options: dict[str, Any] = {"activation": name, "alpha": alpha, "beta": beta, "residual": residual}
    _check(x, w, _normal(24), pads=(1,) * 4, output_pad=(1,) * 4, **options)
    _check(
        x,
        w,
        _normal(24),
        pads=(1,) * 4,
        output_pad=(1,) * 4,
        precision="default",
        tolerance=WINOGRAD,
        **options,
    )


def test_not_a_number_goes_through() -> None:
    x, w = _normal(1, 16, 5, 6), _normal(16, 16, 1, 1)
    x[0, 3, 2, 1] = np.nan
    x[0, 5, 4, 5] = np.inf
    for activation in ("", "Relu", "Clip", "LeakyRelu"):
        (expected,) = reference("Conv", [x, w], {}, 22)
        expected = _activated(expected, activation, -1.0, 1.0)
        (y,) = run_lowered(
            "FusedConv",
            [x, w, None, None],
            [(expected.shape, np.float32)],
            {"activation": activation, "alpha": -1.0, "beta": 1.0},
            opset=1,
            domain=INTERNAL,
            constants=(1,),
            layouts={0: Blocked(LANES)},
            output_layouts={0: Blocked(LANES)},
        )
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_bits_depend_on_nothing_around_a_pixel() -> None:
    """The same image alone, in a batch, in another layout, on several threads, as part of a wider one."""
    x, w = _normal(3, 32, 14, 14), _normal(32, 32, 1, 1)
    alone = _check(x[1:2], w)
    np.testing.assert_array_equal(_check(x, w, parallel=True)[1:2], alone)
    np.testing.assert_array_equal(_check(x, w, input_pad=(1, 1, 1, 1))[1:2], alone)
    np.testing.assert_array_equal(_check(x[1:2, :, :9, :6], w), alone[:, :, :9, :6])


# Plain images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("c", "m", "h", "w", "kernel", "stride", "pad", "dilation"),
    [
        (3, 64, 30, 31, 7, 2, 3, 1),
        (1, 16, 28, 28, 5, 1, 2, 1),
        (3, 40, 29, 17, 3, 2, 0, 1),
        (2, 8, 9, 33, 3, 1, 2, 2),
        (3, 32, 16, 16, 4, 4, 0, 1),
        (LANES, 8, 4, 3, 3, 1, 1, 1),
    ],
)
@pytest.mark.parametrize("parallel", [False, True])
def test_plain_image(
    c: int, m: int, h: int, w: int, kernel: int, stride: int, pad: int, dilation: int, parallel: bool
) -> None:
    _check(
        _normal(2, c, h, w),
        _normal(m, c, kernel, kernel) / math.sqrt(c * kernel**2),
        _normal(m),
        strides=(stride,) * 2,
        pads=(pad,) * 4,
        dilations=(dilation,) * 2,
        plain=True,
        output_pad=(1, 0, 2, 1),
        activation="Relu",
        parallel=parallel,
    )


# Winograd -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "c", "m", "h", "w"),
    [(2, 40, 48, 9, 14), (1, 64, 33, 31, 29), (3, 16, 16, 12, 5)],
)
@pytest.mark.parametrize("size", [2, 4])
def test_winograd(monkeypatch: pytest.MonkeyPatch, n: int, c: int, m: int, h: int, w: int, size: int) -> None:
    """With borders of all widths, odd edges, and the same bits on several threads."""
    (scheme,) = [s for s in winograd.schemes((3, 3)) if s.size == (size, size)]
    monkeypatch.setattr(winograd, "choose", lambda _: scheme)
    residual = (h + size) % 4 != 1
    options: dict[str, Any] = {
        "pads": (1,) * 4,
        "residual": residual,
        "activation": "Relu" if residual else "",
        "input_pad": (1, 2, 3, 1),
        "output_pad": (2, 1, 0, 1),
        "precision": "default",
        "tolerance": WINOGRAD if size == 4 else 2 * DIRECT,
    }
    state = RNG.bit_generator.state
    results = []
    for parallel in (False, True):
        RNG.bit_generator.state = state
        x, weights = _normal(n, c, h, w), _normal(m, c, 3, 3) / math.sqrt(9 * c)
        results.append(_check(x, weights, _normal(m), parallel=parallel, **options))
    np.testing.assert_array_equal(*results)


def test_winograd_without_padding() -> None:
    x, w = _normal(1, 32, 18, 19), _normal(32, 32, 3, 3) / 17
    _check(x, w, precision="default", tolerance=WINOGRAD)


def test_winograd_only_where_allowed() -> None:
    x, w = _normal(1, 64, 16, 16), _normal(64, 64, 3, 3)
    strict = _check(x, w, pads=(1,) * 4)
    default = _check(x, w, pads=(1,) * 4, precision="default", tolerance=WINOGRAD)
    assert (strict != default).any()


@pytest.mark.parametrize(("c", "m", "side", "size"), [(64, 64, 56, 4), (128, 128, 28, 4), (3, 64, 224, 0)])
def test_winograd_where_it_pays(c: int, m: int, side: int, size: int) -> None:
    one = (1, 1)
    found = convolution.Geometry(1, c, m, (side, side), (side, side), (3, 3), one, one, (1, 1, 1, 1))
    scheme = winograd.choose(found)
    assert (0 if scheme is None else scheme.size[0]) == size


# Tiles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "vectors"),
    list(itertools.product((1, 2, 3, 7, 14, 28), (1, 2, 3, 7, 13, 15, 49, 56), (1, 2))),
)
def test_tile_fits(height: int, width: int, vectors: int) -> None:
    rows, columns = convolution.choose_tile(height, width, vectors)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert rows * columns * vectors + vectors + 1 <= target().registers


# What is not lowered ------------------------------------------------------------------------------


def _op(x: Array, w: Array, constant: bool = True, **attributes: Any) -> Op:
    inputs: list[Operand | None] = [
        Operand(x.shape, x.dtype, "x"),
        Operand(w.shape, w.dtype, "w", w if constant else None),
    ]
    return Op("Conv", inputs, [Operand((1,), x.dtype, "y")], attributes, "", 22)


def test_rule() -> None:
    rule = convolution.blocked_conv
    x, w = _normal(1, LANES, 8, 8), _normal(4, LANES, 3, 3)
    assert rule(_op(x, w, pads=(1, 2, 3, 4)), LANES) == BlockedUse({0: (1, 2, 3, 4)}, (0,), prefers=True)
    assert rule(_op(x, w, auto_pad="SAME_UPPER"), LANES) == BlockedUse({0: (1, 1, 1, 1)}, (0,), prefers=True)
    assert rule(_op(x[:, :1], w[:, :1]), LANES) == BlockedUse({}, (0,), prefers=True)
    assert rule(_op(x[:, :, 0], w[:, :, 0], pads=(1, 2)), LANES) == BlockedUse(
        {0: (0, 1, 0, 2)}, prefers=True
    )
    assert rule(_op(x, w, constant=False), LANES) is None
    assert rule(_op(x.astype(np.float64), w.astype(np.float64)), LANES) is None
    assert rule(_op(x[..., None], w[..., None]), LANES) is None
    assert rule(_op(x, w, pads=(1,)), LANES) is None
    fused = _op(x, w)
    fused.inputs += [None, Operand((1, 4, 6, 6), x.dtype, "r")]
    assert rule(fused, LANES) == BlockedUse({0: (0,) * 4, 3: (0,) * 4}, (0,), prefers=True)


@pytest.mark.parametrize(
    ("constants", "layouts", "dtype"),
    [((), {0: Blocked(LANES)}, "float32"), ((1,), {}, "float32"), ((1,), {0: Blocked(LANES)}, "float64")],
)
def test_left_to_the_reference(constants: tuple[int, ...], layouts: dict[int, Blocked], dtype: str) -> None:
    x, w = _normal(1, 16, 4, 4).astype(dtype), _normal(16, 16, 1, 1).astype(dtype)
    with pytest.raises(Unsupported):
        run_lowered("Conv", [x, w], [((1, 16, 4, 4), dtype)], {}, constants=constants, layouts=layouts)


@pytest.mark.parametrize(("n", "m"), [(0, 16), (1, 0)])
def test_empty_output_needs_no_call(n: int, m: int) -> None:
    x, w = _normal(n, 16, 4, 4), _normal(m, 16, 1, 1)
    op = _op(x, w)
    y = Operand((n, m, 4, 4), x.dtype, "y", None, Blocked(LANES))
    op.outputs[:] = [y]
    assert op.inputs[0] is not None
    op.inputs[0].layout = Blocked(LANES)
    site = Site(op)
    convolution.conv(site, *op.inputs)
    assert not site.calls


@pytest.mark.parametrize("since", [1, 11, 22])
def test_versions(since: int) -> None:
    assert find_lowering("numba", "", "Conv", since) is not None
