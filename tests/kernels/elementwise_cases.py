"""Rows and data that the tests of element-wise operators share."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import dtypes, versions
from numpy.typing import NDArray

from onnxref.dtypes import LOW_PRECISION

SHAPES = ((2, 3), (), (0, 3))


def rows(*op_types: str) -> list[tuple[str, int, np.dtype[Any]]]:
    """Return (operator, version, type of the first input) for everything that the schemas allow."""
    return [(op, v, dtype) for op in op_types for v in versions(op) for dtype in dtypes(op, v)]


def sample(dtype: np.dtype[Any], shape: tuple[int, ...], low: float = -4, high: float = 4) -> NDArray[Any]:
    """Return values in [low, high], the same ones each time; unsigned types start at 0 or above."""
    rng = np.random.default_rng(7)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "O":
        return np.asarray(rng.choice(np.array(["a", "b", "", "äß"], object), shape), object)
    if dtype.kind in "iu":
        return rng.integers(max(low, 0) if dtype.kind == "u" else low, high + 1, shape).astype(dtype)
    if dtype.kind == "c":
        return (rng.uniform(low, high, shape) + 1j * rng.uniform(low, high, shape)).astype(dtype)
    return rng.uniform(low, high, shape).astype(dtype)


def exact(x: NDArray[Any]) -> NDArray[Any]:
    """Return values in the type that the slow definitions compute in: float64, int (object) or itself."""
    if x.dtype.kind in "iu":
        return x.astype(object)
    return x.astype(np.float64) if x.dtype.kind == "f" or x.dtype in LOW_PRECISION else x


def assert_close(
    got: NDArray[Any], want: Any, dtype: np.dtype[Any], factor: float = 4, scale: float = 0.01
) -> None:
    """Hold that `got` has this type and is `want` but for `factor` rounding errors of it.

    Numbers below `scale` may differ as much as `scale` itself.
    """
    assert got.dtype == dtype
    want = np.asarray(want)
    assert got.shape == want.shape
    if dtype.kind in "iuObc":
        assert got.tolist() == want.tolist()
        return
    if dtype in LOW_PRECISION:
        # Nothing but the last rounding (and a float32 error that tips it) may differ.
        eps, factor = float(np.finfo(np.float16).eps if dtype == np.float16 else 2.0**-7), 1.0
    else:
        eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        got.astype(np.float64),
        want.astype(dtype).astype(np.float64),
        rtol=factor * eps,
        atol=factor * eps * scale,
    )
