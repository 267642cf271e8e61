"""MatMulNBits in native code, held to its documented bound and, where it sums alike, to equal bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nbits
import numpy as np
import onnxref.kernels.numba.matmul_nbits
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import run_lowered
from nbits import Case

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported

FIXED = (2, 3, 4)  # scales, zero points, g_idx


def run(case: Case, inputs: list[Array | None], **options: Any) -> Array:
    given_fixed = [i for i in FIXED if inputs[i] is not None]
    (y,) = run_lowered(
        "MatMulNBits",
        inputs,
        [case.output],
        case.attributes,
        opset=1,
        domain=nbits.DOMAIN,
        **{"constants": given_fixed, **options},
    )
    assert y is not None
    return y


def check(case: Case, **options: Any) -> Array:
    inputs = case.inputs()
    y = run(case, inputs, **options)
    nbits.check(case, inputs, y)
    return y


# Rows: one, a few, more than a few, around a tile; columns: around a vector and a panel of three.
ROWS = [(1,), (2,), (5,), (8,), (9,), (20,), (2, 3), ()]


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("N", [1, 16, 33, 48, 70])
def test_shapes(rows: tuple[int, ...], N: int) -> None:
    check(Case(rows=rows, K=200, N=N, zeros="packed", bias=True))


@pytest.mark.parametrize("rows", [(1,), (3,), (12,)], ids=str)
@pytest.mark.parametrize("zeros", ["", "packed", "real"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bits_and_zero_points(bits: int, zeros: str, rows: tuple[int, ...]) -> None:
    check(Case(rows=rows, K=100, N=37, bits=bits, block_size=32, zeros=zeros, bias=bits == 4))


@pytest.mark.parametrize("rows", [(1,), (12,)], ids=str)
@pytest.mark.parametrize("block_size", [16, 64, 256, 2048])
@pytest.mark.parametrize("K", [1, 17, 300, 1700])
def test_depths_and_blocks(K: int, block_size: int, rows: tuple[int, ...]) -> None:
    check(Case(rows=rows, K=K, N=20, block_size=block_size, zeros="packed"))


@pytest.mark.parametrize("rows", [(1,), (12,)], ids=str)
def test_a_row_is_longer_than_what_is_turned_at_once(rows: tuple[int, ...]) -> None:
    check(Case(rows=rows, K=9000, N=18, block_size=32, zeros="packed"))


@pytest.mark.parametrize("rows", [(1,), (12,)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types(dtype: str, rows: tuple[int, ...]) -> None:
    check(Case(rows=rows, K=300, N=33, dtype=dtype, zeros="real", bias=True))
    check(Case(rows=rows, K=300, N=33, dtype=dtype))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 40),
    K=st.integers(1, 200),
    N=st.integers(0, 70),
    block_size=st.sampled_from([16, 32, 64]),
    bias=st.booleans(),
    flat=st.booleans(),
    parallel=st.booleans(),
)
def test_any_size(rows: int, parallel: bool, **sizes: Any) -> None:
    check(Case(rows=(rows,), zeros="packed", **sizes), parallel=parallel)


def test_threads_change_nothing() -> None:
    for rows in (1, 7, 40):
        case = Case(rows=(rows,), K=500, N=200, zeros="packed")
        one, all_of_them = (run(case, case.inputs(), parallel=parallel) for parallel in (False, True))
        np.testing.assert_array_equal(one, all_of_them)


def test_strict_rows_do_not_depend_on_each_other() -> None:
    case = Case(rows=(21,), K=300, N=40, zeros="packed", bias=True)
    inputs = case.inputs()
    a = inputs[0]
    assert a is not None
    y = run(case, inputs, precision="strict")
    nbits.check(case, inputs, y)
    for rows in (slice(0, 1), slice(3, 6), slice(20, 21), slice(0, 9)):
        part = replace(case, rows=a[rows].shape[:1])
        np.testing.assert_array_equal(run(part, [a[rows], *inputs[1:]], precision="strict"), y[rows])


@pytest.mark.parametrize("rows", [1, 3, 12])
def test_infinities_and_nan(rows: int) -> None:
    case = Case(rows=(rows,), K=40, N=20, zeros="packed")
    inputs = case.inputs()
    a, scales = inputs[0], inputs[2]
    assert a is not None
    assert scales is not None
    scales[3, 1] = np.nan
    a[0, 5] = np.inf
    if rows > 1:
        a[1, 39] = np.nan
    w = nbits.weights(case, inputs)
    with np.errstate(invalid="ignore"):
        expected = np.where(np.isnan(w).any(1), np.nan, a.astype(np.float64) @ np.nan_to_num(w).T)
    y = run(case, inputs)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert np.isinf(y[0]).any()
    assert np.isnan(y[0]).any()


@pytest.mark.parametrize("rows", [1, 12])
def test_small_and_large_numbers(rows: int) -> None:
    for factor in (2.0**-110, 2.0**110):
        case = Case(rows=(rows,), K=64, N=20, zeros="packed")
        inputs = case.inputs()
        a = inputs[0]
        assert a is not None
        wanted = run(case, inputs)
        np.testing.assert_array_equal(run(case, [a * np.float32(factor), *inputs[1:]]), wanted * factor)


def test_ordered_groups_are_blocks() -> None:
    check(Case(groups="ordered"))


REFUSED: list[tuple[Case, dict[str, Any], str]] = [
    (Case(groups="mixed"), {}, "g_idx that mixes blocks"),
    (Case(groups="ordered"), {"constants": (2,)}, "g_idx that mixes blocks"),
    (Case(), {"constants": ()}, "scales that are not constant"),
    (Case(zeros="packed"), {"constants": (2,)}, "zero points that are not constant"),
    (Case(K=0), {}, "a product of no columns"),
]


@pytest.mark.parametrize(("case", "options", "reason"), REFUSED, ids=str)
def test_refusals(case: Case, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        run(case, case.inputs(), **options)


def test_large_rows_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxref.kernels.numba.matmul_nbits, "_BLOCK_BYTES", 16 * 200 * 4)
    check(Case(rows=(50,), K=200, N=100, zeros="packed"))
