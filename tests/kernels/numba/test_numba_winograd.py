"""Winograd's convolution along one axis, and of 5x5 kernels, beside sums in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lowered import run_lowered
from onnxref.kernels.numba import convolution, winograd

from onnxref.dtypes import Array
from onnxref.lowering import Blocked
from onnxref.native import target
from onnxref.registry import INTERNAL

LANES = target().lanes
TOLERANCE = 1e-5  # of the largest |y|, as for direct convolution; see the table in `winograd`

KERNELS = [(1, 3), (3, 1), (1, 5), (5, 1), (1, 7), (7, 1), (3, 3), (5, 5)]
SCHEMES = [scheme for kernel in KERNELS for scheme in winograd.schemes(kernel)]
UPRIGHT = [scheme for scheme in SCHEMES if scheme.taps[0] != 1]


def _id(scheme: winograd.Scheme) -> str:
    return "F({}x{}, {}x{})".format(*scheme.size, *scheme.taps)


def _activated(y: Array, name: str, alpha: float, beta: float) -> Array:
    table = {
        "": lambda: y,
        "Relu": lambda: np.maximum(y, 0),
        "Clip": lambda: np.clip(y, alpha, beta),
        "LeakyRelu": lambda: np.where(y < 0, y * alpha, y),
        "Sigmoid": lambda: 1 / (1 + np.exp(-y)),
        "Silu": lambda: y / (1 + np.exp(-y)),
        "Tanh": lambda: np.tanh(y),
        "HardSwish": lambda: y * np.clip(y / 6 + 0.5, 0, 1),
    }
    return table[name]()


def _exact(x: Array, w: Array, pads: tuple[int, int, int, int]) -> Array:
    """Return the convolution (N, M, H, W) of stride 1 in float64."""
    top, left, bottom, right = pads
    wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, w.shape[2:], (2, 3))
    return np.einsum("nchwij,mcij->nmhw", windows, w.astype(np.float64), optimize=True)


def _run(
    arrays: tuple[Array, Array, Array | None, Array | None],
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    *,
    parallel: bool = False,
    precision: str = "default",
    **attributes: Any,
) -> Array:
    x, w, *_ = arrays
    out = [n + a + b - k + 1 for n, a, b, k in zip(x.shape[2:], pads[:2], pads[2:], w.shape[2:], strict=True)]
    layouts = {0: Blocked(LANES, (pads[0] + 1, *pads[1:3], pads[3] + 2))}
    if arrays[3] is not None:
        layouts[3] = Blocked(LANES, (0, 1, 0, 2))
    (y,) = run_lowered(
        "FusedConv",
        arrays,
        [((x.shape[0], w.shape[0], *out), np.float32)],
        {"pads": pads, **attributes},
        opset=1,
        domain=INTERNAL,
        constants=(1, 2),
        layouts=layouts,
        output_layouts={0: Blocked(LANES, (1, 0, 2, 1))},
        precision=precision,
        parallel=parallel,
    )
    assert y is not None
    return y


def _drawn(
    seed: int, n: int, c: int, m: int, size: tuple[int, int], taps: tuple[int, int]
) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, c, *size), np.float32)
    w = random.standard_normal((m, c, *taps), np.float32) / np.float32(math.sqrt(c * math.prod(taps)))
    return x, w, random.standard_normal(m, np.float32)


def _assert_close(y: Array, exact: Array, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(y, exact, rtol=0, atol=tolerance * np.abs(exact).max())


def _force(monkeypatch: pytest.MonkeyPatch, scheme: winograd.Scheme | None) -> None:
    monkeypatch.setattr(winograd, "choose", lambda _: scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=_id)
def test_the_algorithm_is_exact(scheme: winograd.Scheme) -> None:
    """A'(Gw * B'd) = the convolution, in float64, with the matrices that the points define."""
    for size, taps in zip(scheme.size, scheme.taps, strict=True):
        if taps == 1:
            continue
        count = size + taps - 1
        points = [0.0, *(sign * a for a in scheme.points for sign in (1, -1))]
        assert len(points) == count - 1
        forward = [np.poly([p for j, p in enumerate(points) if j != i])[::-1] for i in range(count - 1)]
        forward = np.array([np.append(row, 0) for row in forward] + [np.poly(points)[::-1]])
        backward = np.array([[p**k for p in points] + [float(k == size - 1)] for k in range(size)])
        w, d = np.random.default_rng(count).standard_normal((2, count))
        w = w[:taps]
        made = backward @ ((winograd.transform(taps, scheme.points) @ w) * (forward @ d))
        np.testing.assert_allclose(made, np.correlate(d, w), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.taps != (3, 3)], ids=_id)
def test_odd_sizes(monkeypatch: pytest.MonkeyPatch, scheme: winograd.Scheme) -> None:
    """Of three tiles the last cut or whole; few lanes and groups left; any number of threads.

    Three tiles of each so that one machine code serves all sizes.
    """
    _force(monkeypatch, scheme)
    for less in {0, 1, max(scheme.size) - 1}:
        out = [3 * n - less if r > 1 else 1 for n, r in zip(scheme.size, scheme.taps, strict=True)]
        begins = [r // 2 for r in scheme.taps]
        ends = [max(0, r // 2 - 1) for r in scheme.taps]
        size = [o + r - 1 - a - b for o, r, a, b in zip(out, scheme.taps, begins, ends, strict=True)]
        pads = (*begins, *ends)
        x, w, b = _drawn(less, 2, LANES + 3, 3 * LANES - 5, (size[0], size[1]), scheme.taps)
        serial = _run((x, w, b, None), pads)
        _assert_close(serial, _exact(x, w, pads) + b[:, None, None])
        np.testing.assert_array_equal(_run((x, w, b, None), pads, parallel=True), serial)


@pytest.mark.parametrize("scheme", UPRIGHT, ids=_id)
def test_error_bound(monkeypatch: pytest.MonkeyPatch, scheme: winograd.Scheme) -> None:
    """Many channels, normally distributed."""
    _force(monkeypatch, scheme)
    size = (40, 1) if scheme.taps[1] == 1 else (14, 14)
    x, w, _ = _drawn(3, 1, 256, 64, size, scheme.taps)
    _assert_close(_run((x, w, None, None)), _exact(x, w, (0, 0, 0, 0)))


@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [
        ("Relu", 0, 0),
        ("Clip", -0.25, 0.5),
        ("LeakyRelu", 0.1, 0),
        ("Sigmoid", 0, 0),
        ("Silu", 0, 0),
        ("Tanh", 0, 0),
        ("HardSwish", 0, 0),
    ],
)
@pytest.mark.parametrize("residual", [False, True])
def test_epilogues(
    monkeypatch: pytest.MonkeyPatch, name: str, alpha: float, beta: float, residual: bool
) -> None:
    """Of whole tiles and of the last, which the outputs cut."""
    in_registers = name in ("Relu", "Clip", "LeakyRelu")
    for kernel in ((5, 1), (1, 7)) if in_registers else ((5, 1),):
        scheme = winograd.schemes(kernel)[-1]
        _force(monkeypatch, scheme)
        x, w, b = _drawn(5, 1, LANES, 2 * LANES, (15, 15), scheme.taps)
        sums = _exact(x, w, (0, 0, 0, 0)) + b[:, None, None]
        more = np.random.default_rng(6).standard_normal(sums.shape).astype(np.float32) if residual else None
        y = _run((x, w, b, more), activation=name, alpha=float(alpha), beta=float(beta))
        exact = _activated(sums if more is None else sums + more, name, alpha, beta)
        np.testing.assert_allclose(y, exact, rtol=0, atol=TOLERANCE * np.abs(sums).max())


@pytest.mark.parametrize("kernel", [(1, 3), (5, 1), (5, 5)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_tiles(
    monkeypatch: pytest.MonkeyPatch, kernel: tuple[int, int], value: float
) -> None:
    """Where the sum is not finite the output is not, and tiles that do not read it are as without it."""
    scheme = winograd.schemes(kernel)[-1]
    _force(monkeypatch, scheme)
    x, w, _ = _drawn(8, 1, LANES, LANES, (31, 31), scheme.taps)
    without = _run((x, w, None, None))
    x[0, 2, 15, 15] = value
    y = _run((x, w, None, None))
    with np.errstate(invalid="ignore"):
        exact = _exact(x, w, (0, 0, 0, 0))
    assert not np.isfinite(y[~np.isfinite(exact)]).any()
    reads = np.zeros(y.shape[2:], bool)
    for at in np.ndindex(reads.shape):
        begin = [i // n * n for i, n in zip(at, scheme.size, strict=True)]
        piece = [n + r - 1 for n, r in zip(scheme.size, scheme.taps, strict=True)]
        reads[at] = all(b <= 15 < b + p for b, p in zip(begin, piece, strict=True))
    assert reads.any()
    np.testing.assert_array_equal(y[:, :, ~reads], without[:, :, ~reads])


# Where it is taken --------------------------------------------------------------------------------


def _geometry(
    c: int, m: int, out: tuple[int, int], kernel: tuple[int, int], **options: Any
) -> convolution.Geometry:
    size = (out[0] + kernel[0] - 1, out[1] + kernel[1] - 1)
    settings: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), **options}
    return convolution.Geometry(1, c, m, size, out, kernel, **settings)


@pytest.mark.parametrize(
    ("c", "m", "out", "kernel", "size"),
    [
        (256, 512, (508, 1), (5, 1), (4, 1)),
        (256, 512, (1, 508), (1, 5), (1, 4)),
        (128, 128, (1, 200), (1, 3), (1, 4)),
        (192, 192, (17, 17), (7, 1), (2, 1)),
        (32, 96, (28, 28), (5, 5), (2, 2)),
        (LANES - 1, 64, (28, 28), (1, 5), None),
        (64, LANES - 1, (28, 28), (1, 5), None),
        (64, 64, (28, 28), (1, 9), None),
        (64, 64, (28, 28), (3, 5), None),
        (512, 512, (1, 1), (1, 3), None),
    ],
)
def test_where_it_pays(
    c: int, m: int, out: tuple[int, int], kernel: tuple[int, int], size: tuple[int, int] | None
) -> None:
    scheme = winograd.choose(_geometry(c, m, out, kernel))
    assert (None if scheme is None else scheme.size) == size


@pytest.mark.parametrize("options", [{"strides": (2, 1)}, {"strides": (1, 2)}, {"dilations": (1, 2)}])
def test_strides_and_dilations_are_direct(options: dict[str, Any]) -> None:
    assert winograd.choose(_geometry(256, 512, (508, 1), (5, 1))) is not None
    assert winograd.choose(_geometry(256, 512, (508, 1), (5, 1), **options)) is None


@pytest.mark.parametrize(
    ("precision", "group", "taken"), [("default", 1, True), ("strict", 1, False), ("default", 2, False)]
)
def test_what_asks_for_it(monkeypatch: pytest.MonkeyPatch, precision: str, group: int, taken: bool) -> None:
    """Strict precision does not, nor do groups."""
    emitted = []
    emit = winograd.emit
    monkeypatch.setattr(winograd, "emit", lambda *given: emitted.append(1) or emit(*given))
    x, w, _ = _drawn(1, 1, 64, 64, (200, 1), (5, 1))
    w = w[:, : 64 // group]
    halves = [_exact(*pair, (0,) * 4) for pair in zip(np.split(x, group, 1), np.split(w, group), strict=True)]
    y = _run((x, w, None, None), precision=precision, group=group)
    _assert_close(y, np.concatenate(halves, 1))
    assert bool(emitted) == taken


def test_one_axis_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """(N, C, W) is (N, C, 1, W)."""
    _force(monkeypatch, winograd.schemes((1, 5))[-1])
    x, w, b = _drawn(2, 2, LANES, LANES, (1, 43), (1, 5))
    (y,) = run_lowered(
        "Conv",
        [x[:, :, 0], w[:, :, 0], b],
        [((2, LANES, 43), np.float32)],
        {"pads": (2, 2)},
        constants=(1, 2),
        layouts={0: Blocked(LANES, (0, 2, 0, 2))},
        output_layouts={0: Blocked(LANES)},
    )
    assert y is not None
    _assert_close(y[:, :, None], _exact(x, w, (0, 2, 0, 2)) + b[:, None, None])
