"""MatMulNBits of com.microsoft: a product with weights of 2, 4 or 8 bits, by ONNX Runtime's documents.

    Y = A W' + bias        W[n, k] = (code - zero_point) * scale

The codes of a row of W lie in blocks along K, each with a scale and a zero point of its own, the first
code in the lowest bits of a byte. All is computed in float32 and rounded once to the type of A.
"""

from __future__ import annotations

import math

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import MICROSOFT, Cost, op, shape_rule

from ._checks import check_choice, check_shape
from ._common import narrow, widen
from ._ghosts import like

BITS = (2, 4, 8)
_LEAST_BLOCK = 16
_SLICE = 1 << 20  # weights that are held in float32 at once


def unpack(packed: Array, bits: int) -> Array:
    """Return the codes in bytes (..., n) as uint8 (..., n * 8 / bits), those in the lowest bits first."""
    if bits == 8:
        return packed
    codes = (packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], packed.shape[-1] * 8 // bits)


def _check_attributes(
    K: int, N: int, bits: int, block_size: int, accuracy_level: int, weight_prepacked: int
) -> None:
    for name, value in (("K", K), ("N", N)):
        if value < 0:
            raise KernelError(f"{name} must be >= 0 (got {value})")
    check_choice(bits, BITS, "bits")
    if block_size < _LEAST_BLOCK or block_size & (block_size - 1):
        raise KernelError(f"block_size must be a power of two, {_LEAST_BLOCK} or more (got {block_size})")
    check_choice(accuracy_level, range(5), "accuracy_level")
    if weight_prepacked != 0:
        raise KernelError(f"weight_prepacked must be 0, the documented layout (got {weight_prepacked})")


def _matrix(x: Array, shape: tuple[int, int], name: str) -> Array:
    """Return a tensor that must have a shape, or be flat with as many elements, as older models have it."""
    if x.shape not in (shape, (math.prod(shape),)):
        raise KernelError(f"{name} must have shape {shape} (got {x.shape})")
    return x.reshape(shape)


def _zero_points(zero_points: Array | None, a: Array, N: int, blocks: int, bits: int) -> Array:
    """Return the zero points in float32, in a shape that broadcasts to (N, blocks)."""
    if zero_points is None:
        return np.full((1, 1), 2 ** (bits - 1), np.float32)
    if zero_points.dtype == np.uint8:
        packed = _matrix(zero_points, (N, -(-blocks * bits // 8)), "zero_points (packed)")
        return unpack(packed, bits)[:, :blocks].astype(np.float32)
    if zero_points.dtype != a.dtype:
        raise KernelError(
            f"zero_points must be packed in uint8 or have the type {a.dtype} of A (got {zero_points.dtype})"
        )
    return _matrix(zero_points, (N, blocks), "zero_points").astype(np.float32)


def _groups(g_idx: Array | None, K: int, blocks: int, block_size: int) -> Array | None:
    """Return for each k the block whose scale and zero point it has, None where it lies in that block."""
    if g_idx is None:
        return None
    if g_idx.shape not in ((K,), (blocks * block_size,)):
        raise KernelError(
            f"g_idx must have shape ({K},), or ({blocks * block_size},) with padding (got {g_idx.shape})"
        )
    groups = g_idx[:K]
    wrong = (groups < 0) | (groups >= blocks)
    if wrong.any():
        raise KernelError(f"g_idx must be in [0, {blocks - 1}] (got {groups[wrong][0]})")
    return groups


def _checked(
    a: Array,
    b: Array,
    scales: Array,
    zero_points: Array | None,
    g_idx: Array | None,
    bias: Array | None,
    K: int,
    N: int,
    block_size: int,
    bits: int,
) -> tuple[Array, Array, Array | None]:
    """Check the inputs against each other; return scales (N, blocks), zero points, blocks of columns."""
    blocks = -(-K // block_size)
    if a.ndim == 0 or a.shape[-1] != K:
        raise KernelError(f"A must have K = {K} columns (got shape {a.shape})")
    check_shape(b, (N, blocks, block_size * bits // 8), "B")
    scale = widen(_matrix(scales, (N, blocks), "scales"))
    zero = _zero_points(zero_points, a, N, blocks, bits)
    groups = _groups(g_idx, K, blocks, block_size)
    if bias is not None:
        check_shape(bias, (N,), "bias")
    return scale, zero, groups


@shape_rule("MatMulNBits", since=1, domain=MICROSOFT)
def _shape(
    a: Array,
    b: Array,
    scales: Array,
    zero_points: Array | None = None,
    g_idx: Array | None = None,
    bias: Array | None = None,
    *,
    K: int,
    N: int,
    block_size: int,
    bits: int = 4,
    accuracy_level: int = 0,
    weight_prepacked: int = 0,
) -> Array:
    _check_attributes(K, N, bits, block_size, accuracy_level, weight_prepacked)
    _checked(a, b, scales, zero_points, g_idx, bias, K, N, block_size, bits)
    return like(a, (*a.shape[:-1], N))


def _cost(a: Array, *_inputs: Array | None, N: int, **_attributes: int) -> Cost:
    shape = (*a.shape[:-1], max(0, N))
    # In float32: A, the result, and of a slice of weights the codes, groups and products.
    slice_bytes = 4 * max(_SLICE, a.shape[-1] if a.ndim else 1)
    return Cost(Cost.of(shape, a.dtype).out_bytes, 4 * (a.size + math.prod(shape)) + 4 * slice_bytes)


@op("MatMulNBits", since=1, domain=MICROSOFT, cost=_cost)
def matmul_nbits(
    a: Array,
    b: Array,
    scales: Array,
    zero_points: Array | None = None,
    g_idx: Array | None = None,
    bias: Array | None = None,
    *,
    K: int,
    N: int,
    block_size: int,
    bits: int = 4,
    accuracy_level: int = 0,
    weight_prepacked: int = 0,
) -> Array:
    """A (..., K) by quantised weights B (N, blocks, bytes) gives (..., N) (com.microsoft MatMulNBits-1).

    `accuracy_level` allows to round A, of which no use is made.
    """
    _check_attributes(K, N, bits, block_size, accuracy_level, weight_prepacked)
    scale, zero, groups = _checked(a, b, scales, zero_points, g_idx, bias, K, N, block_size, bits)
    x = widen(a).reshape(math.prod(a.shape[:-1]), K)
    y = np.empty((len(x), N), np.float32)
    step = max(1, _SLICE // max(1, K))
    for first in range(0, N, step):
        part = slice(first, first + step)
        own = zero if len(zero) == 1 else zero[part]
        y[:, part] = x @ _weights(unpack(b[part], bits), own, scale[part], groups, K).T
    if bias is not None:
        y += widen(bias)
    return narrow(y, a.dtype).reshape(*a.shape[:-1], N)


def _weights(codes: Array, zero: Array, scale: Array, groups: Array | None, K: int) -> Array:
    """Return (n, K) in float32 of codes (n, blocks, block_size), zero points and scales (n, blocks)."""
    if groups is None:
        found = np.subtract(codes, zero[..., None], dtype=np.float32)
        found *= scale[..., None]
        return np.asarray(found.reshape(len(codes), -1)[:, :K])
    spread = np.broadcast_to(zero, scale.shape)
    flat = codes.reshape(len(codes), -1)[:, :K]
    return np.asarray((flat - spread[:, groups]) * scale[:, groups])
