"""Matrix products in native code, against float64 and against the reference kernels."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.numba.linalg  # noqa: F401 - registers the lowerings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import check_lowered, run_lowered

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.registry import INTERNAL

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
F16, BF16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
WHOLE = [np.dtype(name) for name in ("int32", "int64", "uint32", "uint64")]


def random(shape: tuple[int, ...], dtype: Any = F32, seed: int = 0) -> Array:
    rng = np.random.default_rng([seed, *shape])
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def product(a: Array, b: Array, op: str = "MatMul", **options: Any) -> Array:
    shape = np.matmul(np.zeros_like(a, F32), np.zeros_like(b, F32)).shape
    (y,) = run_lowered(op, [a, b], [(shape, a.dtype)], **options)
    assert y is not None
    return y


def assert_product(y: Array, a: Array, b: Array) -> None:
    """Hold a product to its documented bound: K * eps * sum |a b|, and one rounding to a narrow type."""
    exact = np.matmul(a.astype(F64), b.astype(F64))
    size = np.matmul(np.abs(a.astype(F64)), np.abs(b.astype(F64)))
    eps = np.finfo(F64 if y.dtype == F64 else F32).eps
    allowed = a.shape[-1] * eps * size
    if y.dtype in (F16, BF16):
        allowed += np.abs(exact) * float(ml_dtypes.finfo(y.dtype).eps) + float(ml_dtypes.finfo(y.dtype).tiny)
    assert (np.abs(y.astype(F64) - exact) <= allowed).all()


# Shapes: around one tile (8 by 48 or less), around its halves, around a block of k, long, thin.
SHAPES = [
    (1, 1, 1),
    (1, 7, 3),
    (1, 64, 300),
    (2, 5, 17),
    (3, 40, 48),
    (4, 16, 49),
    (5, 16, 47),
    (7, 3, 33),
    (8, 64, 96),
    (1, 50, 64),
    (1, 50, 63),
    (1, 50, 50),
    (9, 100, 145),
    (13, 1, 31),
    (16, 32, 16),
    (17, 65, 64),
    (40, 33, 200),
    (3, 2000, 50),
    (1, 1700, 192),
    (21, 1200, 100),
    (70, 20, 512),
    (70, 20, 520),
    (17, 1600, 530),
    (65, 30, 99),
    (600, 7, 5),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_product_of_matrices(shape: tuple[int, int, int], constant: bool) -> None:
    m, k, n = shape
    a, b = random((m, k)), random((k, n))
    serial = product(a, b, constants=(1,) if constant else ())
    assert_product(serial, a, b)
    threads = product(a, b, constants=(1,) if constant else (), parallel=True)
    np.testing.assert_array_equal(threads, serial)


STACKS = [
    ((5,), (5,)),
    ((5,), (5, 3)),
    ((4, 5), (5,)),
    ((5,), (2, 3, 5, 7)),
    ((2, 3, 4, 5), (5,)),
    ((3, 4, 5), (5, 6)),
    ((4, 5), (3, 5, 6)),
    ((3, 4, 5), (3, 5, 6)),
    ((2, 1, 4, 5), (3, 5, 16)),
    ((1, 4, 5), (1, 5, 6)),
    ((3, 1, 5), (1, 5, 6)),
    ((2, 1, 9, 20), (1, 3, 20, 70)),
    ((12, 33, 64), (12, 64, 48)),
    ((12, 1, 64), (12, 64, 33)),
]


@pytest.mark.parametrize(("a", "b"), STACKS, ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_stacks_of_matrices(a: tuple[int, ...], b: tuple[int, ...], constant: bool) -> None:
    x, y = random(a), random(b)
    constants = (1,) if constant else ()
    found = product(x, y, constants=constants)
    assert_product(found, x, y)
    np.testing.assert_array_equal(product(x, y, constants=constants, parallel=True), found)


@pytest.mark.parametrize(
    "shapes", [((0, 3), (3, 4)), ((3, 0), (0, 4)), ((3, 4), (4, 0)), ((2, 0, 3), (2, 3, 4))]
)
def test_nothing_to_multiply(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = random(shapes[0]), random(shapes[1])
    check_lowered("MatMul", [a, b])
    check_lowered("MatMul", [a, b], constants=(1,))


@pytest.mark.parametrize("dtype", [F64, F16, BF16], ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_other_floats(dtype: Any, constant: bool) -> None:
    for m, k, n in [(1, 9, 30), (3, 33, 17), (9, 900, 55), (20, 20, 64)]:
        a, b = random((m, k), dtype), random((k, n), dtype)
        assert_product(product(a, b, constants=(1,) if constant else ()), a, b)
    a, b = random((2, 3, 10, 9), dtype), random((3, 9, 30), dtype)
    assert_product(product(a, b, constants=(1,) if constant else (), parallel=True), a, b)


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_integers_wrap(dtype: Any) -> None:
    for m, k, n in [(1, 9, 30), (9, 900, 55)]:
        a, b = random((m, k), dtype), random((k, n), dtype)
        check_lowered("MatMul", [a, b])
        check_lowered("MatMul", [a, b], constants=(1,), parallel=True)
        attributes = {"alpha": 3.0, "beta": -2.0, "transB": 1}
        check_lowered("Gemm", [a, np.ascontiguousarray(b.T), random((n,), dtype)], attributes)
        check_lowered(
            "Gemm", [a, np.ascontiguousarray(b.T), random((m, 1), dtype)], attributes, constants=(1, 2)
        )


def test_not_finite() -> None:
    a, b = random((9, 30)), random((30, 50))
    a[3, 4], a[5, 5], b[7, 9], b[2, 20] = np.nan, np.inf, -np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected = a @ b
    for constants in ((), (1,)):
        y = product(a, b, constants=constants)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
        np.testing.assert_array_equal(y[np.isinf(expected)], expected[np.isinf(expected)])
    relu = product(a, b, "FusedMatMul", domain=INTERNAL, attributes={"activation": "Relu"})
    np.testing.assert_array_equal(np.isnan(relu), np.isnan(expected))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 120), st.booleans(), st.integers(0, 29))
def test_a_row_does_not_depend_on_the_others(m: int, k: int, n: int, constant: bool, row: int) -> None:
    a, b = random((m, k)), random((k, n))
    row %= m
    constants = (1,) if constant else ()
    alone = product(a[row : row + 1], b, constants=constants, precision="strict")
    np.testing.assert_array_equal(product(a, b, constants=constants, precision="strict")[row], alone[0])


def test_an_activated_row_does_not_depend_on_the_others() -> None:
    a, b = random((9, 20)), random((20, 310))
    options: Any = {"domain": INTERNAL, "attributes": {"activation": "Gelu"}, "constants": (1,)}
    alone = np.concatenate([product(row[None], b, "FusedMatMul", **options) for row in a])
    np.testing.assert_array_equal(product(a, b, "FusedMatMul", **options), alone)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 120))
def test_packed_and_in_place_give_the_same_bits(m: int, k: int, n: int) -> None:
    a, b = random((m, k)), random((k, n))
    expected = product(a, b, constants=(1,))
    np.testing.assert_array_equal(product(a, b), expected)
    turned = [a, np.ascontiguousarray(b.T)]
    (y,) = run_lowered("Gemm", turned, [((m, n), F32)], {"transB": 1})
    np.testing.assert_array_equal(y, expected)


# Gemm


@pytest.mark.parametrize("c", [None, (), (1,), (37,), (1, 37), (11, 1), (11, 37)], ids=str)
@pytest.mark.parametrize("constants", [(), (1, 2)], ids=["computed", "constant"])
@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
def test_gemm(c: tuple[int, ...] | None, constants: tuple[int, ...], transposed: tuple[int, int]) -> None:
    a = random((37, 11) if transposed[0] else (11, 37), F32, 1)
    b = random((37, 37), F32, 2)
    inputs = [a, b] if c is None else [a, b, random(c, F32, 3)]
    used = [i for i in constants if i < len(inputs)]
    for alpha, beta in [(1.0, 1.0), (0.5, -2.0), (1.0, 0.0)]:
        attributes = {"transA": transposed[0], "transB": transposed[1], "alpha": alpha, "beta": beta}
        check_lowered("Gemm", inputs, attributes, rtol=1e-5, atol=1e-5, constants=used)


@pytest.mark.parametrize("dtype", [F64, F16, BF16], ids=str)
def test_gemm_of_other_floats(dtype: Any) -> None:
    inputs = [random((40, 9), dtype, 1), random((21, 40), dtype, 2), random((21,), dtype, 3)]
    attributes = {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
    tolerance = max(1e-12, 2 * float(ml_dtypes.finfo(dtype).eps))
    check_lowered("Gemm", inputs, attributes, rtol=tolerance, atol=tolerance)
    check_lowered("Gemm", inputs, attributes, rtol=tolerance, atol=tolerance, constants=(1, 2))


def test_gemm_does_not_read_c_for_beta_0() -> None:
    inputs = [random((3, 4)), random((4, 5)), np.full((5,), np.nan, F32)]
    check_lowered("Gemm", inputs, {"beta": 0.0}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [1, 6, 7, 9, 11, 13])
def test_gemm_versions(opset: int) -> None:
    attributes = {"broadcast": 1} if opset < 7 else {}
    inputs = [random((3, 4)), random((4, 5)), random((5,))]
    check_lowered("Gemm", inputs, attributes, opset=opset, rtol=1e-5, atol=1e-5)
    if opset < 7:
        with pytest.raises(Unsupported, match="broadcast"):
            run_lowered("Gemm", inputs, [((3, 5), F32)], opset=opset)


@pytest.mark.parametrize(("n", "k"), [(1100, 1024), (1031, 1111)])
def test_one_row_by_large_weights_in_columns(n: int, k: int) -> None:
    """Weights that are turned panel by panel while they are read; the bits are those of more rows."""
    a, b, c = random((1, k)), random((n, k)), random((n,))
    check_lowered("Gemm", [a, b, c], {"transB": 1}, constants=(1,), rtol=1e-5, atol=2e-4)
    results = [
        run_lowered(
            "Gemm", [x, b, c], [((len(x), n), F32)], {"transB": 1}, constants=(1,), parallel=parallel
        )[0]
        for x in (a, np.repeat(a, 9, axis=0))
        for parallel in (False, True)
    ]
    assert all((result == results[0]).all() for result in results)


# FusedMatMul


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x * math.sqrt(0.5)))


ACTIVATIONS = {
    "": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0),
    "Clip": lambda x: np.clip(x, -0.5, 2),
    "Gelu": gelu,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [None, (), (50,), (11, 1), (2, 1, 50), (2, 11, 50)], ids=str)
@pytest.mark.parametrize("has_residual", [False, True])
def test_fused(activation: str, bias: tuple[int, ...] | None, has_residual: bool) -> None:
    a, b = random((2, 11, 20)), random((2, 50, 20))
    addend = None if bias is None else random(bias, F32, 4)
    residual = random((2, 11, 50), F32, 5) if has_residual else None
    total = 0.25 * (a.astype(F64) @ b.astype(F64).swapaxes(1, 2))
    total += 0 if addend is None else addend
    total += 0 if residual is None else residual
    attributes = {"trans_b": 1, "scale": 0.25, "activation": activation, "alpha": -0.5, "beta": 2.0}
    for constants in ((), (1, 2)):
        (y,) = run_lowered(
            "FusedMatMul",
            [a, b, addend, residual],
            [((2, 11, 50), F32)],
            attributes,
            domain=INTERNAL,
            constants=[i for i in constants if i < 2 or addend is not None],
            parallel=has_residual,
        )
        np.testing.assert_allclose(y, ACTIVATIONS[activation](total), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_fused_over_blocks_of_k(dtype: Any) -> None:
    """The addends come once, after the last block of k."""
    a, b = random((9, 2000), dtype), random((2000, 60), dtype)
    bias, residual = random((60,), dtype), random((9, 60), dtype)
    attributes = {"scale": 0.1, "activation": "Relu"}
    (y,) = run_lowered("FusedMatMul", [a, b, bias, residual], [((9, 60), dtype)], attributes, domain=INTERNAL)
    wide = [x.astype(F64) for x in (a, b, bias, residual)]
    expected = np.maximum(0.1 * (wide[0] @ wide[1]) + wide[2] + wide[3], 0)
    assert y is not None
    np.testing.assert_allclose(y.astype(F64), expected, rtol=2e-3 if dtype == F16 else 1e-4, atol=1e-4)


def test_fused_with_a_transposed() -> None:
    a, b = random((3, 20, 11)), random((20, 50))
    expected = a.astype(F64).swapaxes(1, 2) @ b.astype(F64)
    (y,) = run_lowered("FusedMatMul", [a, b], [((3, 11, 50), F32)], {"trans_a": 1}, domain=INTERNAL)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_what_is_refused() -> None:
    a, b = random((3, 4)), random((4, 5))
    shape = [((3, 5), F32)]
    with pytest.raises(Unsupported, match="residual that is broadcast"):
        run_lowered("FusedMatMul", [a, b, None, random((5,))], shape, domain=INTERNAL)
    with pytest.raises(Unsupported, match="shapes"):
        run_lowered("MatMul", [a, a], shape)
    with pytest.raises(Unsupported, match="bias"):
        run_lowered("Gemm", [a, b, random((4,))], shape)
    whole = [np.ones((2, 2), np.int32)] * 2
    with pytest.raises(Unsupported, match="fraction"):
        run_lowered("Gemm", whole, [((2, 2), np.int32)], {"alpha": 0.5})
