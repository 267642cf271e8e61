"""Matrix products, Gemm, Einsum, determinants and quantized products, against exact sums."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxref import registry
from onnxref.errors import KernelError

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = [
    np.dtype(t)
    for t in (
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
    )
]
FLOATS = [np.float16, np.float32, np.float64]
INTEGERS = [np.int32, np.int64, np.uint32, np.uint64]
SMALL_INTEGERS = [np.int8, np.int16, np.uint8, np.uint16]


def exact_matmul(a: Any, b: Any) -> Any:
    """Product in Python's own integers, modulo nothing."""
    return np.matmul(a.astype(object), b.astype(object))


def wrap(x: Any, dtype: Any) -> Any:
    bits, signed = 8 * np.dtype(dtype).itemsize, np.dtype(dtype).kind == "i"
    offset = 2 ** (bits - 1) if signed else 0
    return np.asarray((np.asarray(x, object) + offset) % 2**bits - offset, object).astype(dtype)


def versions(name: str, types: list[Any], opsets: list[int]) -> list[Any]:
    return [
        pytest.param(o, np.dtype(t), id=f"{name}-{o}-{np.dtype(t)}")
        for o, t in itertools.product(opsets, types)
    ]


# MatMul

MATMUL = (
    versions("MatMul", FLOATS, [1, 9, 13])
    + versions("MatMul", INTEGERS, [9, 13])
    + versions("MatMul", [BF16], [13])
)
SHAPES = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((3,), (5, 3, 2)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (3,)),
    ((2, 1, 2, 3), (4, 3, 2)),
    ((2, 0), (0, 3)),
    ((0, 3), (3, 2)),
    ((2, 0, 3), (3, 0)),
]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(("opset", "dtype"), MATMUL)
def test_matmul_every_version_and_type(opset: int, dtype: Any, shapes: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 5, shape).astype(dtype) for shape in shapes)
    got = run_op("MatMul", a, b, opset=opset)
    want = np.matmul(a.astype(np.float64), b.astype(np.float64))
    assert (got.dtype, got.shape) == (dtype, want.shape)
    np.testing.assert_array_equal(got.astype(float), want)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(INTEGERS), st.sampled_from([4, 12, 25, 31]))
def test_integer_products_are_exact_modulo_2_to_the_bits(data: st.DataObject, dtype: Any, bits: int) -> None:
    m, k, n = (data.draw(st.integers(1, 5)) for _ in range(3))
    low = -(2**bits) if np.dtype(dtype).kind == "i" else 0
    elements = st.integers(low, 2**bits - 1)
    a, b = (data.draw(hnp.arrays(dtype, shape, elements=elements)) for shape in ((m, k), (k, n)))
    got = run_op("MatMul", a, b, opset=13)
    np.testing.assert_array_equal(got, wrap(exact_matmul(a, b), dtype))


@pytest.mark.parametrize("magnitude", [2**7, 2**8, 2**31 - 1, 2**36, 2**37, 2**40, 2**62])
def test_integer_products_at_the_bounds_of_exactness(magnitude: int) -> None:
    # With k = 1024, the products pass from float32 to float64 to integers; odd sums would show rounding.
    a = np.full((1, 1024), magnitude, np.int64)
    b = np.full((1024, 1), 2**7 - 1, np.int64)
    a[0, 0] -= 1
    np.testing.assert_array_equal(run_op("MatMul", a, b, opset=9), wrap(exact_matmul(a, b), np.int64))


@pytest.mark.parametrize("dtype", [np.float16, BF16])
def test_low_precision_products_are_rounded_once(dtype: Any) -> None:
    a, b = np.ones((1, 4096), dtype), np.ones((4096, 1), dtype)
    assert run_op("MatMul", a, b, opset=13) == 4096
    # 300 * 300 overflows float16, the sum does not.
    a, b = np.array([[300, 300]], dtype), np.array([[300], [-300]], dtype)
    assert run_op("MatMul", a, b, opset=13) == 0


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((), (2,), r"A and B must have at least 1 dimension \(got shapes \(\) and \(2,\)\)"),
        ((2, 3), (2, 3), r"A and B must agree in their inner dimension \(got shapes \(2, 3\) and \(2, 3\)\)"),
        (
            (2, 1, 3),
            (3, 3, 1),
            r"batch dimensions of A and B must broadcast to one shape \(got \(2,\) and \(3,\)\)",
        ),
    ],
)
def test_matmul_errors(a: Any, b: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("MatMul", np.ones(a, np.float32), np.ones(b, np.float32), opset=13)


def cost_of(op_type: str, *inputs: Any, opset: int = 21, **attributes: Any) -> registry.Cost:
    rule = registry.find("", op_type, opset).cost
    assert rule is not None
    return rule(*inputs, **attributes)


def test_costs_foresee_outer_products() -> None:
    n = 10**6
    column, row = np.broadcast_to(np.int8(0), (n, 1)), np.broadcast_to(np.int8(0), (1, n))
    scale, zero = np.float32(1), np.array(0, np.int8)
    assert cost_of("MatMul", column, row).out_bytes == n * n
    assert cost_of("Gemm", row, row, transA=1).out_bytes == n * n
    assert cost_of("Gemm", row, row, zero, transA=1, broadcast=1, opset=6).out_bytes == n * n
    assert cost_of("MatMulInteger", column, row).out_bytes == 4 * n * n
    quantized = (column, scale, zero, row, scale, zero, scale, zero)
    assert cost_of("QLinearMatMul", *quantized).out_bytes == n * n
    assert cost_of("Einsum", column[:, 0], row[0], equation="i,j").out_bytes == n * n
    assert cost_of("Einsum", column[:, 0], row[0], equation="i,j->").scratch_bytes < 1000 * n
    assert cost_of("Det", np.zeros((n, 0, 0), np.float32)).out_bytes == 4 * n


# Gemm

GEMM = (
    versions("Gemm", FLOATS, [1, 6, 7, 9, 11, 13])
    + versions("Gemm", INTEGERS, [9, 11, 13])
    + versions("Gemm", [BF16], [13])
)


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(("opset", "dtype"), GEMM)
def test_gemm_every_version_and_type(opset: int, dtype: Any, trans_a: int, trans_b: int) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, (2, 3)), rng.integers(0, 5, (3, 4))
    for c_shape in ((2, 4), (4,), (2, 1), (1, 4), (1,), (), None):
        c = None if c_shape is None else rng.integers(0, 5, c_shape).astype(dtype)
        if c is None and opset < 11:
            continue
        want = 2 * (a @ b) + (0 if c is None else 3 * c.astype(np.int64))
        flags = {"transA": trans_a, "transB": trans_b, "alpha": 2.0, "beta": 3.0}
        if opset < 7:
            flags["broadcast"] = 1
        x, y = (a.T if trans_a else a).astype(dtype), (b.T if trans_b else b).astype(dtype)
        got = run_op("Gemm", x, y, c, opset=opset, **flags)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.astype(float), want)


def test_gemm_6_broadcasts_only_on_demand() -> None:
    a, b, c = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32), np.ones(4, np.float32)
    assert run_op("Gemm", a, b, c, opset=7).tolist() == [[4] * 4] * 2
    assert run_op("Gemm", a, b, c, opset=6, broadcast=1).tolist() == [[4] * 4] * 2
    assert run_op("Gemm", a, b, np.ones((2, 4), np.float32), opset=6).tolist() == [[4] * 4] * 2
    for opset in (1, 6):
        with pytest.raises(KernelError, match=r"C must have shape \(2, 4\) unless broadcast is set"):
            run_op("Gemm", a, b, c, opset=opset)


def test_gemm_ignores_c_where_beta_is_zero() -> None:
    one = np.ones((1, 1), np.float32)
    assert run_op("Gemm", one, one, np.array([[np.nan]], np.float32), opset=13, beta=0.0) == 1


@pytest.mark.parametrize(
    ("dtype", "alpha", "beta", "want"),
    [
        (np.int32, 1.0, 1.0, -(2**31) + 4),  # 2**31 - 1 + 5 wraps
        (np.int32, -1.0, 2.0, -(2**31) + 11),
        (np.int32, 0.5, 1.0, 2**30 + 4),  # 2**30 - 0.5 + 5 is truncated
        (np.int32, -0.5, 0.0, -(2**30) + 1),
        (np.int32, 1.5, 1.0, 2**31 - 1),  # out of range saturates
        (np.uint32, -1.0, 0.0, 2**31 + 1),
        (np.int64, float(2**40), 0.0, 2**40 * (2**31 - 1) - 2**64 * 2**7),
    ],
)
def test_gemm_of_integers(dtype: Any, alpha: float, beta: float, want: int) -> None:
    a, b, c = (np.array([[v]], dtype) for v in (2**31 - 1, 1, 5))
    assert run_op("Gemm", a, b, c, opset=13, alpha=alpha, beta=beta).tolist() == [[want]]


def test_gemm_does_not_change_its_inputs() -> None:
    a, c = np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)
    run_op("Gemm", a, a, c, opset=13, alpha=2.0)
    assert c.tolist() == [[1, 1], [1, 1]]
    assert a.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("a", "b", "c", "message"),
    [
        ((2,), (2, 2), None, r"A and B must be matrices \(got shapes \(2,\) and \(2, 2\)\)"),
        ((2, 3), (2, 3), None, r"A and B must agree in their inner dimension"),
        ((2, 3), (3, 4), (3,), r"C must broadcast to \(2, 4\) \(got shape \(3,\)\)"),
        ((2, 3), (3, 4), (1, 2, 4), r"C must broadcast to \(2, 4\) \(got shape \(1, 2, 4\)\)"),
        ((1, 3), (3, 4), (2, 4), r"C must broadcast to \(1, 4\) \(got shape \(2, 4\)\)"),
    ],
)
def test_gemm_errors(a: Any, b: Any, c: Any, message: str) -> None:
    inputs = [None if shape is None else np.ones(shape, np.float32) for shape in (a, b, c)]
    with pytest.raises(KernelError, match=message):
        run_op("Gemm", *inputs, opset=13)


# Einsum


def einsum_by_loop(inputs: list[Any], terms: list[str], output: str) -> Any:
    """The definition: a sum over all values of all indices, in Python's integers."""
    sizes: dict[str, int] = {}
    for x, term in zip(inputs, terms, strict=True):
        for label, size in zip(term, x.shape, strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    y = np.zeros([sizes[label] for label in output], object)
    for values in itertools.product(*(range(size) for size in sizes.values())):
        at = dict(zip(sizes, values, strict=True))
        product = 1
        for x, term in zip(inputs, terms, strict=True):
            product *= int(x[tuple(at[i] if d > 1 else 0 for i, d in zip(term, x.shape, strict=True))])
        y[tuple(at[label] for label in output)] += product
    return y


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *SMALL_INTEGERS, BF16])
def test_einsum_every_type(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 4, (2, 3, 4)).astype(dtype), rng.integers(0, 4, (2, 4, 5)).astype(dtype)
    for opset in (28,) if dtype == BF16 else (12, 28):
        for equation, terms in (("bij,bjk->bki", ["bij", "bjk"]), ("bij,bxy->", ["bij", "bxy"])):
            got = run_op("Einsum", a, b, opset=opset, equation=equation)
            want = einsum_by_loop([a, b], terms, equation.split("->")[1])
            assert got.dtype == np.dtype(dtype)
            if got.dtype.kind in "iu":
                np.testing.assert_array_equal(got, wrap(want, dtype))
            else:
                np.testing.assert_array_equal(got, want.astype(float).astype(dtype))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_einsum_by_definition(data: st.DataObject) -> None:
    sizes = {label: data.draw(st.integers(0, 3)) for label in "abcZ"}
    terms = data.draw(st.lists(st.text("abcZ", max_size=3), min_size=1, max_size=4))
    inputs = []
    for term in terms:
        # An operand may have size 1 where the others have more.
        own = {label: data.draw(st.sampled_from([sizes[label]] * 4 + [1])) for label in "abcZ"}
        inputs.append(
            data.draw(hnp.arrays(np.int16, [own[label] for label in term], elements=st.integers(-99, 99)))
        )
    used = "".join(terms)
    if data.draw(st.booleans()):
        output = "".join(data.draw(st.permutations(sorted(set(used)))))[: data.draw(st.integers(0, 4))]
        equation = f"{','.join(terms)}->{output}"
    else:
        output = "".join(sorted(label for label in used if used.count(label) == 1))
        equation = ",".join(terms)
    got = run_op("Einsum", *inputs, opset=12, equation=equation)
    np.testing.assert_array_equal(got, wrap(einsum_by_loop(inputs, terms, output), np.int16))


@pytest.mark.parametrize(
    ("equation", "same_as", "shapes"),
    [
        ("...ij,...jk->...ik", "abij,abjk->abik", [(2, 3, 4, 5), (2, 3, 5, 2)]),
        ("...ij,...jk", "abij,abjk->abik", [(2, 3, 4, 5), (2, 3, 5, 2)]),
        ("...ij,...jk", "abij,abjk->abik", [(2, 1, 4, 5), (1, 3, 5, 2)]),  # the ellipsis broadcasts
        ("i...->...", "iab->ab", [(2, 3, 4)]),
        ("i...j->j...i", "iabj->jabi", [(2, 3, 4, 5)]),
        ("...->...", "ab->ab", [(2, 3)]),
        ("i...->i", "iab->i", [(2, 3, 4)]),  # what the output does not have is summed
        ("...i->...", "i->", [(3,)]),  # an ellipsis of no dimensions
        ("...ii->...i", "aii->ai", [(2, 3, 3)]),
        ("ij->...ij", "ij->ij", [(2, 3)]),
        (" i j , j k -> i k", "ij,jk->ik", [(2, 3), (3, 4)]),
        ("bA,Ab", "bA,Ab->", [(2, 3), (3, 2)]),
        ("ba", "ba->ab", [(2, 3)]),
        ("bA", "bA->Ab", [(2, 3)]),  # upper case sorts first
        ("aA->a", "ax->a", [(2, 3)]),  # upper and lower case differ
        ("->", "->", [()]),
        ("", "->", [()]),
        (",,->", ",,->", [(), (), ()]),
    ],
)
def test_einsum_notation(equation: str, same_as: str, shapes: Any) -> None:
    rng = np.random.default_rng(3)
    inputs = [rng.integers(-9, 9, shape) for shape in shapes]
    left, output = same_as.split("->")
    want = einsum_by_loop(inputs, left.split(","), output).astype(np.int64)
    np.testing.assert_array_equal(run_op("Einsum", *inputs, opset=12, equation=equation), want)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_einsum_of_a_chain(count: int, seed: int) -> None:
    # More operands than the planner looks at together; the exact product of the matrices.
    rng = np.random.default_rng(seed)
    labels = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    chain = [rng.integers(-2, 3, (2, 2)) for _ in range(count)]
    equation = ",".join(labels[i : i + 2] for i in range(count)) + f"->a{labels[count]}"
    want = np.eye(2, dtype=object)
    for x in chain:
        want = want @ x.astype(object)
    np.testing.assert_array_equal(run_op("Einsum", *chain, opset=12, equation=equation), wrap(want, np.int64))


def test_einsum_accumulates_in_float32() -> None:
    x = np.ones(4096, BF16)
    assert run_op("Einsum", x, x, opset=28, equation="i,i->") == 4096
    assert run_op("Einsum", x, opset=28, equation="i->") == 4096


@pytest.mark.parametrize(
    ("equation", "shapes", "message"),
    [
        ("ij", [(2, 2), (2, 2)], r"equation must have 2 terms, one per input \(got 'ij'\)"),
        ("ij", [(2,)], r"term 'ij' of the equation must have 1 indices \(got 'ij'\)"),
        ("i", [(2, 2)], r"term 'i' of the equation must have 2 indices"),
        ("i1", [(2, 2)], r"equation must consist of letters, '...', ',' and '->' \(got 'i1'\)"),
        ("é", [(2,)], r"equation must consist of letters"),
        ("i..j", [(2, 2)], r"equation must consist of letters"),
        ("i->i->i", [(2,)], r"equation must consist of letters"),
        ("......", [(2, 2)], r"equation must|'...' must stand for"),
        ("...ijk", [(2, 2)], r"'...' must stand for one number of dimensions"),
        ("...i,...i", [(2, 2), (2,)], r"'...' must stand for one number of dimensions"),
        ("ij->ii", [(2, 2)], r"output indices must be distinct and occur in the inputs \(got 'ij->ii'\)"),
        ("i->j", [(2,)], r"output indices must be distinct and occur"),
        ("i,i", [(2,), (3,)], r"index 'i' must have one size \(got input shapes \[\(2,\), \(3,\)\]\)"),
        ("ii", [(1, 3)], r"index 'i' must have one size"),
        ("...,...", [(2,), (3,)], r"index '...0' must have one size"),
    ],
)
def test_einsum_errors(equation: str, shapes: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("Einsum", *(np.ones(shape) for shape in shapes), opset=12, equation=equation)


def test_einsum_refuses_more_dimensions_than_arrays_have() -> None:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    x = np.ones((1,) * 50)
    equation = f"...{letters[:20]},...{letters[20:40]}"
    with pytest.raises(KernelError, match=r"equation must have at most 64 indices \(got 70\)"):
        run_op("Einsum", x, x, opset=12, equation=equation)


# Det


def det_by_definition(x: Any) -> Fraction:
    n = len(x)
    total = Fraction(0)
    for order in itertools.permutations(range(n)):
        inversions = sum(order[i] > order[j] for i in range(n) for j in range(i + 1, n))
        total += (-1) ** inversions * math.prod(
            (Fraction(float(x[i, order[i]])) for i in range(n)), start=Fraction(1)
        )
    return total


@pytest.mark.parametrize(
    ("opset", "dtype"), versions("Det", FLOATS, [11, 22]) + versions("Det", [BF16], [22])
)
@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (2, 3, 1, 1), (2, 0, 0), (0, 2, 2)])
def test_det(opset: int, dtype: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(4).integers(-8, 8, shape).astype(dtype)
    got = run_op("Det", x, opset=opset)
    assert (got.dtype, got.shape) == (dtype, shape[:-2])
    want = np.array(
        [float(det_by_definition(m)) for m in x.reshape(-1, *shape[-2:])] if x.size else np.ones(2)
    )
    if got.size:
        np.testing.assert_allclose(got.ravel().astype(float), want.astype(dtype).astype(float), rtol=1e-12)


def test_det_of_an_ill_conditioned_float32_matrix() -> None:
    x = np.array([[4097, 4096], [4096, 4095]], np.float32)  # float32 loses all digits of the difference
    assert run_op("Det", x, opset=22) == pytest.approx(-1, rel=1e-6)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 2, 3)])
def test_det_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(KernelError, match=r"X must consist of square matrices \(got shape"):
        run_op("Det", np.ones(shape, np.float32), opset=11)


# MatMulInteger

QUANTIZED = [np.int8, np.uint8]


@pytest.mark.parametrize(("a_type", "b_type"), list(itertools.product(QUANTIZED, QUANTIZED)))
@pytest.mark.parametrize(
    ("a_shape", "b_shape", "a_zero", "b_zero"),
    [
        ((3, 4), (4, 5), None, None),
        ((3, 4), (4, 5), (), ()),
        ((3, 4), (4, 5), (1,), (1,)),
        ((3, 4), (4, 5), (3,), (5,)),  # per row, per column
        ((3, 4), (4, 5), (3, 1), (1, 5)),
        ((2, 3, 4), (4, 5), (3,), (5,)),
        ((2, 3, 4), (2, 4, 5), (2, 3, 1), (2, 1, 5)),
        ((2, 3, 4), (4, 5), (2, 1, 1), None),
        ((4,), (4, 5), (), (5,)),
        ((3, 4), (4,), (3,), (1,)),
        ((4,), (4,), None, ()),
        ((1, 600), (600, 1), (), ()),  # beyond what float32 sums exactly
        ((2, 0), (0, 3), (), (3,)),
    ],
)
def test_matmul_integer(
    a_shape: Any, b_shape: Any, a_zero: Any, b_zero: Any, a_type: Any, b_type: Any
) -> None:
    rng = np.random.default_rng(5)

    def draw(shape: Any, dtype: Any) -> Any:
        info = np.iinfo(dtype)
        return None if shape is None else rng.integers(info.min, info.max + 1, shape).astype(dtype)

    a, b, za, zb = draw(a_shape, a_type), draw(b_shape, b_type), draw(a_zero, a_type), draw(b_zero, b_type)
    got = run_op("MatMulInteger", a, b, za, zb, opset=10)
    x, y = a.astype(np.int64), b.astype(np.int64)
    if za is not None:
        za = za.astype(np.int64)
        x = x - (za[:, None] if za.ndim == 1 and za.size > 1 else za)
    if zb is not None:
        y = y - zb.astype(np.int64)
    want = x.reshape(a.shape) @ y.reshape(b.shape)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)


def test_matmul_integer_wraps_at_32_bits() -> None:
    a = np.full((1, 40000), 255, np.uint8)
    b = np.full((40000, 1), 255, np.uint8)
    assert run_op("MatMulInteger", a, b, opset=10) == wrap(40000 * 255 * 255, np.int32)


@pytest.mark.parametrize(
    ("a_zero", "b_zero", "message"),
    [
        ((2,), (), r"a_zero_point must be a scalar or broadcast to \(3, 1\) \(got shape \(2, 1\)\)"),
        ((3, 4), (), r"a_zero_point must be a scalar or broadcast to \(3, 1\) \(got shape \(3, 4\)\)"),
        ((), (4,), r"b_zero_point must be a scalar or broadcast to \(1, 5\) \(got shape \(4,\)\)"),
        ((), (2, 1, 5), r"b_zero_point must be a scalar or broadcast to \(1, 5\) \(got shape \(2, 1, 5\)\)"),
    ],
)
def test_matmul_integer_errors(a_zero: Any, b_zero: Any, message: str) -> None:
    shapes = ((3, 4), (4, 5), a_zero, b_zero)
    with pytest.raises(KernelError, match=message):
        run_op("MatMulInteger", *(np.zeros(shape, np.uint8) for shape in shapes), opset=10)


# QLinearMatMul


def quantize(x: Any, dtype: Any, zero: Any) -> Any:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.clip(np.rint(x) + zero.astype(np.int64), info.min, info.max).astype(dtype)
    limit = float(ml_dtypes.finfo(dtype).max)
    return np.clip(x + zero.astype(float), -limit, limit).astype(dtype)


@pytest.mark.parametrize("scale_type", [np.float32, np.float16, BF16])
@pytest.mark.parametrize(
    ("a_type", "b_type", "y_type"),
    list(itertools.product([*map(np.dtype, QUANTIZED), *FLOAT8], repeat=3)),
)
def test_qlinear_matmul_every_type(a_type: Any, b_type: Any, y_type: Any, scale_type: Any) -> None:
    rng = np.random.default_rng(6)

    def draw(shape: Any, dtype: Any) -> Any:
        return rng.integers(0 if dtype == np.uint8 else -16, 17, shape).astype(dtype)

    a, b = draw((2, 3, 4), a_type), draw((4, 5), b_type)
    scales = [np.array(v, scale_type) for v in (0.25, 0.5, 0.75)]
    zeros = [np.array(v).astype(t) for v, t in zip((3, 2, 1), (a_type, b_type, y_type), strict=True)]
    inputs = (a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2])
    got = run_op("QLinearMatMul", *inputs, opset=21)
    product = (a.astype(float) - 3) @ (b.astype(float) - 2)
    want = quantize(product * 0.125 / 0.75, y_type, zeros[2])
    assert got.dtype == y_type
    np.testing.assert_array_equal(got.astype(float), want.astype(float))
    if scale_type is np.float32 and not {a_type, b_type, y_type} & set(FLOAT8):
        np.testing.assert_array_equal(run_op("QLinearMatMul", *inputs, opset=10), want)


def qlinear(a: Any, b: Any, **changes: Any) -> Any:
    one, zero = np.float32(1), np.array(0, np.int8)
    arguments = {
        "a": np.array(a, np.int8),
        "a_scale": one,
        "a_zero_point": zero,
        "b": np.array(b, np.int8),
        "b_scale": one,
        "b_zero_point": zero,
        "y_scale": one,
        "y_zero_point": zero,
    }
    arguments.update({name: np.asarray(value) for name, value in changes.items()})
    return run_op("QLinearMatMul", *(np.asarray(x) for x in arguments.values()), opset=21)


def test_qlinear_matmul_rounds_half_to_even_before_the_zero_point() -> None:
    got = qlinear([[1], [3], [5], [-1], [-3]], [[1]], y_scale=np.float32(2), y_zero_point=np.int8(1))
    assert got.ravel().tolist() == [1, 3, 3, 1, -1]  # 0.5, 1.5, 2.5, -0.5, -1.5


def test_qlinear_matmul_saturates() -> None:
    assert qlinear([[127], [-128]], [[127]]).ravel().tolist() == [127, -128]
    assert qlinear([[127], [-128]], [[127]], y_zero_point=np.uint8(5)).ravel().tolist() == [255, 0]
    for dtype, top in ((FLOAT8[0], 448), (FLOAT8[2], 57344)):
        got = qlinear([[127], [-127]], [[127]], y_scale=np.float32(0.001), y_zero_point=np.array(0, dtype))
        assert got.ravel().astype(float).tolist() == [top, -top]
    assert qlinear([[1], [-1], [0]], [[1]], y_scale=np.float32(0)).ravel().tolist() == [127, -128, 0]


def test_qlinear_matmul_per_row_and_column() -> None:
    got = qlinear(
        [[4, 8], [4, 8]],
        [[1, 2, 3], [1, 2, 3]],
        a_scale=np.array([1, 0.5], np.float32),
        a_zero_point=np.array([0, 4], np.int8),
        b_scale=np.array([1, 2, 1], np.float32),
        b_zero_point=np.array([0, 1, 2], np.int8),
    )
    assert got.tolist() == [[12, 24, 12], [2, 4, 2]]
    vector = qlinear([1, 2], [[1, 2], [3, 4]], b_scale=np.array([1, 3], np.float32))
    assert vector.tolist() == [7, 30]
    assert qlinear([1, 2], [3, 4], y_scale=np.array([2], np.float32)).tolist() == 6  # 5.5
    per_output = qlinear([[2], [4]], [[1, 1]], y_scale=np.array([[1], [2]], np.float32))
    assert per_output.tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a_scale": np.ones(3, np.float32)}, r"a_scale must be a scalar or broadcast to \(1, 1\)"),
        ({"b_scale": np.ones(3, np.float32)}, r"b_scale must be a scalar or broadcast to \(1, 2\)"),
        ({"y_scale": np.ones((2, 2), np.float32)}, r"y_scale must be a scalar or broadcast to \(1, 2\)"),
        ({"y_zero_point": np.ones(3, np.int8)}, r"y_zero_point must be a scalar or broadcast to \(1, 2\)"),
    ],
)
def test_qlinear_matmul_errors(changes: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        qlinear([[1, 1]], [[1, 2], [3, 4]], **changes)
