"""What one core does in a nanosecond, for estimates of work; measured on a server of 2023 with AVX-512."""

from __future__ import annotations

from onnxref.native import target


def flops() -> float:
    """Return the float32 operations of products whose operands lie in the caches."""
    return 10.0 * target().lanes
