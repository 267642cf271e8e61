"""Winograd's convolution of blocked tensors, for some odd kernels of stride 1; `convolution` calls this.

Tolerance, of max|y|, for real layers:

    F(2, 3), F(4, 3), F(2, 5), F(4, 5), F(2, 7)    1e-5, as direct convolution; 1.5 to 3 times its error
    F(2x2, 3x3), F(2x2, 5x5)                       2e-5
    F(4x4, 3x3)                                    1e-4

An infinity makes NaN of the outputs in its tile. An output's bits depend on its place in a tile, not on the
number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Site
from onnxref.native import NativeFunction, native, target

from ._at_hand import at_hand
from .convolution import (
    NEAR_BYTES,
    UNITS,
    Epilogue,
    Geometry,
    Place,
    choose_tile,
    constant_of,
    lines_ahead,
    tile_price,
)
from .speed import flops

CODE = "onnxref.kernels.numba.code.winograd"

_BYTES_PER_CYCLE = 4.5  # that weights come with from far memory
_TILE_BYTES = 1200 * 1024  # of a block's transformed input: it stays in the second cache


@dataclass(frozen=True, slots=True)
class Scheme:
    """F(size, taps), of rows and columns; an axis of one tap has tiles of one output.

    Attributes:
        points: a of the pairs of points a and -a that products are taken at, beside 0 and infinity.
        cycles: of the transforms of a tile and vector: of the input, of the output.
    """

    size: tuple[int, int]
    taps: tuple[int, int]
    points: tuple[float, ...]
    cycles: tuple[int, int]

    @property
    def products(self) -> int:
        """Elements of a piece of the input, products of a tile's channels."""
        return math.prod(n + r - 1 for n, r in zip(self.size, self.taps, strict=True))

    def tiles(self, out: tuple[int, int]) -> tuple[int, int]:
        """Return how many tiles are below and beside each other."""
        return -(-out[0] // self.size[0]), -(-out[1] // self.size[1])

    def tiles_that_fit(self, parts: int, lanes: int) -> int:
        """Return how many tiles of `parts` blocks of channels stay in the second cache."""
        return max(8, _TILE_BYTES // (self.products * parts * lanes * 4))


_FEW, _SOME, _MANY = (1.0,), (1.0, 2.0), (1.0, 2.0, 0.5)
_SQUARE = {
    3: (Scheme((2, 2), (3, 3), _FEW, (40, 35)), Scheme((4, 4), (3, 3), _SOME, (120, 100))),
    5: (Scheme((2, 2), (5, 5), _SOME, (120, 80)),),
}
_LINE = {
    3: (Scheme((1, 2), (1, 3), _FEW, (20, 20)), Scheme((1, 4), (1, 3), _SOME, (30, 30))),
    5: (Scheme((1, 2), (1, 5), _SOME, (30, 30)), Scheme((1, 4), (1, 5), _MANY, (40, 40))),
    7: (Scheme((1, 2), (1, 7), _MANY, (40, 40)),),
}


def schemes(kernel: tuple[int, int]) -> list[Scheme]:
    """Return the schemes for kernels of this size."""
    if kernel[0] == kernel[1]:
        return list(_SQUARE.get(kernel[0], ()))
    if kernel[0] == 1:
        return list(_LINE.get(kernel[1], ()))
    upright = _LINE.get(kernel[0], ()) if kernel[1] == 1 else ()
    return [Scheme(s.size[::-1], s.taps[::-1], s.points, s.cycles) for s in upright]


def choose(g: Geometry) -> Scheme | None:
    """Return the scheme that takes the least time; None for direct convolution.

    Time is that of the products and transforms and, mostly at the same time, that of fetching weights.
    """
    lanes = target().lanes
    if g.strides != (1, 1) or g.dilations != (1, 1) or min(g.c, g.m) < lanes:
        return None
    c, m = -(-g.c // lanes), -(-g.m // lanes)
    product = c * m * lanes / 2

    def time(cycles: float, taps: int, passes: int = 1) -> float:
        weights = taps * c * m * lanes * lanes * 4
        fetch = weights * (passes if weights > NEAR_BYTES else 1) / _BYTES_PER_CYCLE
        return max(cycles, fetch) + 0.3 * min(cycles, fetch)

    taps = math.prod(g.kernel)
    best, least = None, time(g.n * math.prod(g.out) * taps * product, taps)
    for scheme in schemes(g.kernel):
        tiles = math.prod(scheme.tiles(g.out))
        before, after = scheme.cycles
        alone = max(1, 4 / tiles)  # so much longer where few sums run beside each other
        cycles = g.n * tiles * (1.1 * alone * scheme.products * product + before * c + after * m)
        passes = g.n * -(-tiles // scheme.tiles_that_fit(c, lanes))
        if (takes := 1.05 * time(cycles, scheme.products, passes)) < least:
            best, least = scheme, takes
    return best


def emit(
    site: Site, x: Operand, w: Operand, y: Operand, g: Geometry, epilogue: Epilogue, scheme: Scheme
) -> None:
    """Emit the convolution of a blocked `x`, which has a border wide enough."""
    lanes = target().lanes
    vector = 4 * lanes
    source, goal = Place.of(x, g.pads), Place.of(y)
    parts, blocks = -(-g.c // lanes), -(-g.m // lanes)
    vectors = min(2, blocks)
    groups = -(-blocks // vectors)
    last = blocks - (groups - 1) * vectors
    down, across = scheme.tiles(g.out)
    products = scheme.products
    tiles = across * down
    wanted = min(tiles // 8, -(-UNITS // (2 * g.n * groups)))  # each fetches all weights again
    tile_blocks = max(1, wanted, -(-tiles // scheme.tiles_that_fit(parts, lanes)))
    least = tiles // tile_blocks  # that a block has
    _, columns = choose_tile(1, least, vectors)
    held = -(-tiles // tile_blocks)
    v_step = (parts * held | 1) * vector  # odd multiples do not fall onto the same lines of the cache
    m_step = (vectors * held | 1) * vector
    edge = max(products, 2 * math.prod(scheme.size)) * vector  # a piece, or a tile and its residual
    copy = site.scratch(products * (v_step + m_step) + edge, per_thread=True)
    place, r_image, r_block, r_row, r_pixel = epilogue.residual_place()
    packed = site.pack(
        (w,),
        ("conv winograd weights", scheme, lanes, vectors),
        lambda: _pack_weights(constant_of(w), scheme, lanes, vectors),
    )
    ahead = lines_ahead(-(-held // columns), packed.array.nbytes)
    form = (scheme.size, scheme.taps, scheme.points)
    best = native(CODE, "winograd", *form, columns, vectors, last, lanes, ahead, epilogue.second)

    def price(function: NativeFunction) -> float | None:
        *own_form, columns, own_vectors, own_last, _, _, second = function.parameters
        is_like = (*own_form, own_vectors, own_last, second) == (*form, vectors, last, epilogue.second)
        return tile_price(1, held, vectors, 1, columns, 0) if is_like and columns <= least else None

    site.call(
        at_hand(site, best, price),
        parts, held * vector, 1, 0, 1, 0, lanes // 4, 0, held * vector, 0, 0, 0, *epilogue.steps,
        source.address, packed, goal.address, place, epilogue.packed_bias(site, w, g.m, lanes),
        groups, tile_blocks, across, down, held,
        source.image, goal.image, r_image, source.block, source.row, r_pixel,
        float(epilogue.alpha), float(epilogue.beta),
        copy, copy.nbytes, goal.block, goal.row, r_block, r_row,
        *g.out, products * parts * lanes * vectors * vector, v_step, m_step,
        units=g.n * tile_blocks * groups,
        work=g.flops / flops() * 1.5 * products / math.prod((*scheme.taps, *scheme.size)),
        grain=groups if g.n * tile_blocks >= 4 else 1,
    )  # fmt: skip


def transform(taps: int, points: tuple[float, ...]) -> Array:
    """Return G (products, taps), in float64, that transforms the weights along an axis."""
    if taps == 1:
        return np.ones((1, 1))
    finite = np.array([0.0, *(sign * a for a in points for sign in (1, -1))])
    apart = finite[:, None] - finite + np.eye(len(finite))
    powers = finite[:, None] ** np.arange(taps) / apart.prod(1)[:, None]
    return np.concatenate([powers, np.eye(taps)[-1:]])


def _pack_weights(w: Array, scheme: Scheme, lanes: int, vectors: int) -> Array:
    """Return transformed weights (M, C, kh, kw) as [group][products][C][vectors * lanes], flat."""
    m, c = w.shape[:2]
    before, after = (transform(taps, scheme.points) for taps in scheme.taps)
    full = np.zeros((-(-m // lanes) * lanes, -(-c // lanes) * lanes, len(before), len(after)), np.float32)
    full[:m, :c] = before @ w.reshape(m, c, *scheme.taps).astype(np.float64) @ after.T
    ordered = full.reshape(*full.shape[:2], -1).transpose(2, 1, 0)
    step = vectors * lanes
    groups = [ordered[..., at : at + step] for at in range(0, len(full), step)]
    return np.concatenate([group.reshape(-1) for group in groups])
