"""Conversions between element types, bit for bit those of the reference."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxref.kernels.numba.cast  # noqa: F401 - registers
import pytest
from lowered import reference, run_lowered

from onnxref.dtypes import from_numpy
from onnxref.lowering import Unsupported

_TYPES = tuple(
    np.dtype(t)
    for t in (
        *("float32", "float64", "float16", ml_dtypes.bfloat16, "bool"),
        *("int8", "uint8", "int32", "int64", "uint64"),
    )
)
_PAIRS = list(itertools.permutations(_TYPES, 2))
_RNG = np.random.default_rng(11)


def _values(dtype):
    """All kinds of values of a type: small, large, special, and near the ties of narrower types."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        x = _RNG.integers(info.min, info.max, 90, dtype, endpoint=True)
        return np.concatenate([x, x >> (4 * dtype.itemsize), np.array([info.min, info.max, 0, 1], dtype)])
    if dtype.kind == "b":
        return _RNG.random(70) < 0.5
    powers = 2.0 ** np.arange(-30, 80)
    near_ties = np.float64(
        [1 + 2**-8, 1 + 2**-11, 1 + 2**-11 + 2**-40, 1 + 2**-8 - 2**-30, 65519.999, 65520, 3.4e38]
    )
    special = [0.0, -0.0, 0.5, -0.5, 1.5, 254.7, 2147483648, -2147483649, 1e30, math.inf, -math.inf, math.nan]
    x = np.concatenate(
        [_RNG.normal(0, 100, 90), _RNG.normal(0, 1, 90) * 1e12, powers * 1.37, -powers, near_ties, special]
    )
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def _bits(x):
    """The bits of an array, all NaN made one."""
    if x.dtype.kind in "iub":
        return x
    wide = x.astype(np.float64)
    return np.where(np.isnan(wide), np.nan, wide)


@pytest.mark.parametrize(("source", "goal"), _PAIRS, ids=lambda dtype: dtype.name)
def test_cast(source, goal):
    x = _values(source)
    attributes = {"to": int(from_numpy(goal))}
    if goal.name == "bfloat16" and source.name in ("int64", "uint64"):
        with pytest.raises(Unsupported):
            run_lowered("Cast", [x], [(x.shape, goal)], attributes)
        return
    (expected,) = reference("Cast", [x], attributes, 24)
    (found,) = run_lowered("Cast", [x], [(x.shape, goal)], attributes)
    np.testing.assert_array_equal(_bits(found), _bits(expected))


def test_cast_to_its_own_type_is_the_same_memory():
    x = np.arange(5.0, dtype=np.float32)
    (found,) = run_lowered("Cast", [x], [(x.shape, x.dtype)], {"to": 1})
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("opset", [15, 19, 24])
def test_cast_like(opset):
    x = np.float32([[1.7, -2.5], [3, 300]])
    (found,) = run_lowered("CastLike", [x, np.zeros(3, np.int64)], [(x.shape, np.int64)], opset=opset)
    np.testing.assert_array_equal(found, x.astype(np.int64))


@pytest.mark.parametrize("opset", [1, 6, 13, 19])
def test_older_versions(opset):
    x = np.arange(7, dtype=np.int32)
    to = "FLOAT" if opset == 1 else 1
    (found,) = run_lowered("Cast", [x], [(x.shape, np.float32)], {"to": to}, opset=opset)
    np.testing.assert_array_equal(found, x.astype(np.float32))


def test_float16_where_the_processor_cannot_convert_it() -> None:
    """Every float16, and float32 round the middles between them, in a process held to SSE2."""
    program = """
import numpy as np
import onnxref.kernels.numba.cast
from lowered import run_lowered

halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
(wide,) = run_lowered("Cast", [halves], [(halves.shape, np.float32)], {"to": 1}, opset=13)
expected = halves.astype(np.float32)
assert ((wide.view(np.uint32) == expected.view(np.uint32)) | np.isnan(expected) & np.isnan(wide)).all()
finite = np.sort(expected[np.isfinite(expected)])
middles = ((finite[:-1].astype(np.float64) + finite[1:]) / 2).astype(np.float32)
ends = [np.nextafter(middles, np.float32(end)) for end in (-np.inf, np.inf)]
values = np.concatenate([expected, middles, *ends, np.float32([65519.9, 65520, 1e9, -1e9, 1e-9, -1e-45])])
(found,) = run_lowered("Cast", [values], [(values.shape, np.float16)], {"to": 10}, opset=13)
with np.errstate(all="ignore"):
    expected = values.astype(np.float16)
assert ((found.view(np.uint16) == expected.view(np.uint16)) | np.isnan(expected) & np.isnan(found)).all()
"""
    environment = {**os.environ, "ONNXREF_CPU": "sse2", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
