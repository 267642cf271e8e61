"""Rotary embeddings on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.rotary  # noqa: F401
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.plan.specialize._program import RefusedError
from tests.lowered import reference

from .lowered import run_on_device

_rng = np.random.default_rng(3)


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def check(x: Array, cos: Array, sin: Array, positions: Array | None = None, **attributes: Any) -> None:
    rest = () if positions is None else (positions,)
    wide = [a.astype(np.float64) for a in (x, cos, sin)]
    (expected,) = reference("RotaryEmbedding", [*wide, *rest], attributes, 23)
    (found,) = run_on_device(
        "RotaryEmbedding", [x, cos, sin, *rest], [(x.shape, x.dtype)], attributes, opset=23
    )
    assert found is not None
    eps = float(ml_dtypes.finfo(x.dtype).eps)  # type: ignore[no-untyped-call]
    bound = 2 * eps * 2 * float(np.abs(wide[0]).max(initial=0))
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=0, atol=bound)


def tokens(shape: tuple[int, ...], name: str) -> Array:
    return _rng.standard_normal(shape).astype(dtype_of(name))


def caches(rows: tuple[int, ...], pairs: int, name: str) -> tuple[Array, Array]:
    angles = _rng.uniform(-3, 3, (*rows, pairs))
    return np.cos(angles).astype(dtype_of(name)), np.sin(angles).astype(dtype_of(name))


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(("size", "turned"), [(16, 0), (6, 0), (24, 16), (9, 4)])
def test_rotation(name: str, interleaved: int, size: int, turned: int) -> None:
    pairs = (turned or size) // 2
    options: dict[str, Any] = {"interleaved": interleaved, "rotary_embedding_dim": turned}
    cos, sin = caches((2, 5), pairs, name)
    check(tokens((2, 3, 5, size), name), cos, sin, **options)
    check(tokens((2, 5, 3 * size), name), cos, sin, num_heads=3, **options)
    cos, sin = caches((50,), pairs, name)
    positions = _rng.integers(0, 50, (2, 5))
    check(tokens((2, 3, 5, size), name), cos, sin, positions, **options)


def test_many_blocks_and_none() -> None:
    cos, sin = caches((300,), 32, "float32")
    check(tokens((2, 4, 77, 64), "float32"), cos, sin, _rng.integers(0, 300, (2, 77)))
    check(tokens((0, 4, 77, 64), "float32"), cos, sin, np.zeros((0, 77), np.int64))


@pytest.mark.parametrize("position", [-1, 50])
def test_wrong_positions_are_reported(position: int) -> None:
    cos, sin = caches((50,), 4, "float32")
    x = tokens((1, 2, 3, 8), "float32")
    with pytest.raises(RefusedError):
        run_on_device(
            "RotaryEmbedding", [x, cos, sin, np.array([[0, position, 2]])], [(x.shape, x.dtype)], opset=23
        )


def test_refusals() -> None:
    x = tokens((1, 2, 3, 8), "float32")
    cos, sin = caches((1, 3), 4, "float32")
    for given, attributes in (
        ([x, cos[:, :2], sin], {}),
        ([x, cos, sin], {"rotary_embedding_dim": 3}),
        ([x, cos.astype(np.float16), sin], {}),
        ([x, cos[0], sin[0], np.zeros((1, 2), np.int64)], {}),
    ):
        with pytest.raises(Unsupported):
            run_on_device("RotaryEmbedding", given, [(x.shape, x.dtype)], attributes, opset=23)
