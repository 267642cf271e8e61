"""Cases of MatMulNBits for the tests of all kernel sets, and what they amount to in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import ml_dtypes
import numpy as np

from onnxref.dtypes import Array

DOMAIN = "com.microsoft"
BF16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Case:
    """One product.

    Attributes:
        rows: shape of A before K.
        zeros: zero points: "" none, "packed", "real" of A's type.
        groups: whether there is a g_idx: "" none, "ordered", "mixed", "padded" (mixed, in whole blocks).
        flat: whether scales and zero points have one axis, as older models have them.
    """

    rows: tuple[int, ...] = (3,)
    K: int = 40
    N: int = 5
    bits: int = 4
    block_size: int = 16
    dtype: str = "float32"
    zeros: str = ""
    groups: str = ""
    bias: bool = False
    flat: bool = False
    seed: int = 0

    def __str__(self) -> str:
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in changed) or "plain"

    @property
    def blocks(self) -> int:
        return -(-self.K // self.block_size)

    @property
    def attributes(self) -> dict[str, Any]:
        return {"K": self.K, "N": self.N, "bits": self.bits, "block_size": self.block_size}

    @property
    def output(self) -> tuple[tuple[int, ...], Any]:
        """Shape and dtype of Y."""
        return (*self.rows, self.N), self.type

    @property
    def type(self) -> Any:
        return BF16 if self.dtype == "bfloat16" else np.dtype(self.dtype)

    def inputs(self) -> list[Array | None]:
        """Return A, B, scales, zero_points, g_idx and bias."""
        rng = np.random.default_rng([self.seed, self.K, self.N, self.bits, self.block_size])
        N, blocks = self.N, self.blocks
        a = rng.standard_normal((*self.rows, self.K)).astype(self.type)
        b = rng.integers(0, 256, (N, blocks, self.block_size * self.bits // 8), dtype=np.uint8)
        scales = rng.uniform(0.01, 0.1, (N, blocks)).astype(self.type)
        zero: Array | None = None
        if self.zeros == "packed":
            zero = rng.integers(0, 256, (N, -(-blocks * self.bits // 8)), dtype=np.uint8)
        elif self.zeros == "real":
            zero = rng.uniform(0, 2**self.bits, (N, blocks)).astype(self.type)
        if self.flat:
            scales, zero = scales.reshape(-1), None if zero is None else zero.reshape(-1)
        groups: Array | None = None
        if self.groups == "ordered":
            groups = (np.arange(self.K) // self.block_size).astype(np.int32)
        elif self.groups:
            count = blocks * self.block_size if self.groups == "padded" else self.K
            groups = rng.integers(0, blocks, count).astype(np.int32)
        bias = rng.standard_normal(N).astype(self.type) if self.bias else None
        return [a, b, scales, zero, groups, bias]


def unpacked(packed: Array, bits: int) -> Array:
    """Return the codes of rows of bytes, bit by bit."""
    size = math.prod(packed.shape[1:])
    held = np.unpackbits(packed.reshape(len(packed), size), axis=1, bitorder="little")
    return np.asarray(held.reshape(len(packed), size * 8 // bits, bits) @ (1 << np.arange(bits)))


def weights(case: Case, inputs: list[Array | None]) -> Array:
    """Return the weights (N, K) in float64."""
    _, b, scales, zero, groups, _ = inputs
    assert b is not None
    assert scales is not None
    place = np.arange(case.K) // case.block_size if groups is None else groups[: case.K]
    points: Any = np.full((case.N, case.blocks), 2.0 ** (case.bits - 1))
    if zero is not None and zero.dtype == np.uint8:
        points = unpacked(zero.reshape(case.N, -(-case.blocks * case.bits // 8)), case.bits)
    elif zero is not None:
        points = zero.astype(np.float64).reshape(case.N, case.blocks)
    factors = scales.astype(np.float64).reshape(case.N, case.blocks)
    return np.asarray(
        (unpacked(b, case.bits)[:, : case.K].reshape(case.N, case.K) - points[:, place]) * factors[:, place]
    )


def check(case: Case, inputs: list[Array | None], y: Array | None, *, narrow_weights: bool = False) -> None:
    """Hold a result to the documented bound.

    That is (K + 2) * eps * sum |a w| with eps of float32, and one rounding to the type of A. The difference
    of a code and a real zero point, at most 2**bits, is rounded too.

    Args:
        narrow_weights: whether each weight may be rounded to the type of A.
    """
    shape, dtype = case.output
    assert y is not None
    assert y.shape == shape
    assert y.dtype == dtype
    a, w = inputs[0], weights(case, inputs)
    assert a is not None
    wide = a.astype(np.float64)
    exact, size = wide @ w.T, np.abs(wide) @ np.abs(w).T
    eps = 2.0**-23
    allowed = (case.K + 2) * eps * size
    if case.zeros == "real" and inputs[2] is not None:
        largest = np.abs(inputs[2].astype(np.float64)).max() * 2.0**case.bits
        allowed += eps * np.abs(wide).sum(-1, keepdims=True) * largest
    own = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[case.dtype]
    if inputs[5] is not None:
        bias = inputs[5].astype(np.float64)
        exact = exact + bias
        allowed += eps * np.abs(bias)
    if narrow_weights and case.dtype != "float32":
        allowed += own * size
    if case.dtype != "float32":
        allowed += np.abs(exact) * own
    worst = (np.abs(y.astype(np.float64) - exact) - allowed).max(initial=-np.inf)
    assert worst <= 0, f"{case}: {worst} above what is allowed"
