"""Matrix products on the emulator, held to the reference in float64 within the stated tolerance."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.integer_linalg
import onnxref.kernels.cupy.linalg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref.dtypes import Array
from onnxref.lowering import Op, Operand, Site, Unsupported, find_lowering
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .emulator.device import EmulatedDevice
from .lowered import run_on_device

FLOATS = ("float32", "float64", "float16", "bfloat16")
BARE = frozenset[str]()
_rng = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Give every test the same numbers, whatever ran before it."""
    _rng.bit_generator.state = np.random.default_rng(7).bit_generator.state


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _tensor(shape: tuple[int, ...], name: str) -> Array:
    if "int" in name:
        info = np.iinfo(name)
        return _rng.integers(info.min, info.max, shape, dtype=name, endpoint=True)
    return _rng.standard_normal(shape).astype(_dtype(name))


def _bound(a: Array, b: Array, name: str, extra: Any = 0) -> Array:
    """Return the tolerance that the module states, for a product of these values."""
    wide = "float64" if name == "float64" else "float32"
    steps = max(1, a.shape[-1])
    sums = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    rounding = 4 * float(ml_dtypes.finfo(_dtype(name)).eps)
    return np.asarray((steps * float(np.finfo(wide).eps) + rounding) * (sums + extra) + 1e-30)


def _check_matmul(a: Array, b: Array, *, device: EmulatedDevice | None = None, **run: Any) -> list[str]:
    """Hold MatMul to the tolerance; return what ran."""
    chosen = device or EmulatedDevice()
    expected = a.astype(np.float64) @ b.astype(np.float64)
    (found,) = run_on_device("MatMul", [a, b], [(expected.shape, a.dtype)], opset=13, device=chosen, **run)
    assert found is not None
    error = np.abs(found.astype(np.float64) - expected)
    assert (error <= _bound(a, b, a.dtype.name)).all(), error.max()
    return chosen.log


SHAPES: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
    ((5, 7), (7, 9), "cublasLt"),
    ((2, 5, 7), (7, 9), "cublasLt.matmul(float32 10x9x7"),  # folded into rows
    ((2, 3, 5, 7), (2, 3, 7, 9), "cublasLt.matmul(float32 6x5x9x7"),
    ((2, 3, 5, 7), (2, 1, 7, 9), "cublasLt.matmul(float32 2x15x9x7"),
    ((2, 1, 5, 7), (2, 3, 7, 9), "cublasLt.matmul(float32 3x5x9x7"),  # two calls
    ((5, 7), (4, 7, 9), "cublasLt.matmul(float32 4x5x9x7"),
    ((1, 70), (70, 36), "gemv_columns"),
    ((3, 70), (70, 36), "gemv_columns"),
    ((2, 5, 1, 64), (2, 5, 64, 33), "gemv_columns"),
    ((70,), (70, 36), "gemv_columns"),
    ((300, 72), (72,), "gemv_rows"),
    ((37, 71), (71, 1), "gemv_rows"),
    ((2, 9, 72), (72,), "gemv_rows"),
    ((2, 9, 72), (2, 72, 1), "gemv_rows"),
    ((70,), (70,), "gemv_columns"),
    ((5, 0), (0, 9), "gemm.gemm"),
]


@pytest.mark.parametrize(("left", "right", "by"), SHAPES)
def test_matmul(left: tuple[int, ...], right: tuple[int, ...], by: str) -> None:
    log = _check_matmul(_tensor(left, "float32"), _tensor(right, "float32"))
    assert all(line.startswith(by) for line in log), log
    assert len(log) == (6 if "3x5x9x7" in by else 3)  # in three orders


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(("left", "right"), [((5, 7), (7, 9)), ((2, 72), (72, 40)), ((40, 72), (72,))])
def test_types(left: tuple[int, ...], right: tuple[int, ...], name: str) -> None:
    _check_matmul(_tensor(left, name), _tensor(right, name))


@pytest.mark.parametrize(
    ("rows", "k", "group"), [(1, 40, 8), (3, 256, 16), (3, 500, 32), (3, 1200, 128), (2, 4096, 256)]
)
def test_rows_of_b(rows: int, k: int, group: int) -> None:
    """B lies as (N, K); the threads that share a row of it are chosen by K and N."""
    a, b = _tensor((rows, k), "float32"), _tensor((5 if k == 4096 else 70, k), "float32")
    device = EmulatedDevice()
    expected = a.astype(np.float64) @ b.T.astype(np.float64)
    (found,) = run_on_device(
        "FusedMatMul",
        [a, b],
        [(expected.shape, np.float32)],
        {"trans_b": 1},
        domain=INTERNAL,
        opset=1,
        device=device,
    )
    assert found is not None
    assert f"GROUP={group}," in device.log[0]
    assert (np.abs(found - expected) <= _bound(a, b.T, "float32")).all()


@pytest.mark.parametrize(("rows", "n", "name"), [(2, 24, "float16"), (1, 37, "float32"), (4, 24, "float64")])
def test_sums_over_blocks(rows: int, n: int, name: str) -> None:
    """A deep and narrow product is shared by blocks along K; whichever comes last adds what they have."""
    log = _check_matmul(_tensor((rows, 4099), name), _tensor((4099, n), name))
    assert len(log) == 3  # a launch for each of the three orders
    assert all(line.startswith("gemv_columns") for line in log)


@pytest.mark.parametrize("n", [1, 9, 33, 257])
@pytest.mark.parametrize("name", ["float16", "float32"])
def test_rows_that_are_no_multiple_of_an_access(n: int, name: str) -> None:
    """A constant B gets rows that are."""
    a, b = _tensor((2, 40), name), _tensor((40, n), name)
    assert f"VEC={16 // a.dtype.itemsize})" in _check_matmul(a, b, constants=(1,))[0] or n == 1
    assert "VEC=1)" in _check_matmul(a, b)[0] or n == 1


@pytest.mark.parametrize(("name", "trans"), [("float32", 0), ("float16", 1), ("float64", 0)])
def test_strict(name: str, trans: int) -> None:
    """Every row comes out the same whatever stands beside it."""
    a, b = _tensor((67, 19), name), _tensor((19, 70), name)
    attributes = {"transA": trans, "transB": 1 - trans}
    right = b if trans else np.ascontiguousarray(b.T)

    def product(rows: Array) -> Array:
        left = np.ascontiguousarray(rows.T) if trans else rows
        device = EmulatedDevice()
        (y,) = run_on_device(
            "Gemm",
            [left, right],
            [((len(rows), 70), b.dtype)],
            attributes,
            opset=13,
            precision="strict",
            device=device,
        )
        assert device.log[0].startswith("gemm.gemm")
        assert y is not None
        return y

    whole = product(a)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    assert (np.abs(whole.astype(np.float64) - expected) <= _bound(a, b, name)).all()
    assert product(a[5:7]).tobytes() == whole[5:7].tobytes()


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What matrices of more than 2**31 elements take."""
    monkeypatch.setattr(onnxref.kernels.cupy.linalg, "_MOST_INDEX", 0)
    a, b = _tensor((2, 70), "float32"), _tensor((70, 36), "float32")
    assert "INDEX=long long" in _check_matmul(a, b)[0]
    assert "INDEX=long long" in _check_matmul(a, b, precision="strict")[0]


def test_large_tiles() -> None:
    """128 by 128 where there are tiles enough; without cuBLASLt."""
    a, b = _tensor((1500, 12), "float32"), _tensor((12, 1450), "float32")
    log = _check_matmul(a, b, device=EmulatedDevice(libraries=BARE), orders=(0,))
    assert "TILE=128" in log[0]


@pytest.mark.parametrize("name", ["int32", "int64", "uint32", "uint64"])
def test_integers_wrap(name: str) -> None:
    a, b = _tensor((2, 9, 33), name), _tensor((2, 33, 66), name)
    (expected,) = reference("MatMul", [a, b], {}, 13)
    (found,) = run_on_device("MatMul", [a, b], [(expected.shape, expected.dtype)], opset=13)
    np.testing.assert_array_equal(found, expected)
    c = _tensor((9, 1), name)
    attributes = {"alpha": -3.0 if name[0] == "i" else 3.0, "beta": 2.0}
    (expected,) = reference("Gemm", [a[0], b[0], c], attributes, 13)
    (found,) = run_on_device("Gemm", [a[0], b[0], c], [((9, 66), expected.dtype)], attributes, opset=13)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(), (1,), (12,), (1, 12), (9, 1), (9, 12), (1, 1)])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("libraries", "rows"), [(("cublaslt",), 9), ((), 9), (("cublaslt",), 1)])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_gemm_bias(
    shape: tuple[int, ...], constant: bool, libraries: tuple[str, ...], rows: int, beta: float
) -> None:
    a, b = _tensor((rows, 40), "float32"), _tensor((40, 12), "float32")
    c = _tensor(tuple(rows if n == 9 else n for n in shape), "float32")
    attributes = {"alpha": 1.5, "beta": beta}
    device = EmulatedDevice(libraries=frozenset(libraries))
    (found,) = run_on_device(
        "Gemm",
        [a, b, c],
        [((rows, 12), np.float32)],
        attributes,
        opset=13,
        constants=(2,) if constant else (),
        device=device,
        orders=(0, 1),
    )
    assert found is not None
    expected = 1.5 * (a.astype(np.float64) @ b) + beta * c.astype(np.float64)
    assert (np.abs(found - expected) <= _bound(a, b, "float32", np.abs(c)) * 2).all()


def test_gemm_ignores_c_times_zero() -> None:
    a, b, c = _tensor((5, 6), "float32"), _tensor((6, 7), "float32"), np.full((7,), np.nan, np.float32)
    (found,) = run_on_device("Gemm", [a, b, c], [((5, 7), np.float32)], {"beta": 0.0}, opset=13)
    assert found is not None
    assert (np.abs(found - a.astype(np.float64) @ b) <= _bound(a, b, "float32")).all()


ACTIVATIONS: list[tuple[str, float, float]] = [
    *(("Relu", 0.0, 0.0), ("Clip", -0.5, 0.75), ("LeakyRelu", 0.1, 0.0), ("Sigmoid", 0.0, 0.0)),
    *(("Tanh", 0.0, 0.0), ("HardSigmoid", 0.2, 0.5), ("HardSwish", 0.0, 0.0), ("Silu", 0.0, 0.0)),
    *(("Gelu", 0.0, 0.0), ("GeluTanh", 0.0, 0.0)),
]


@pytest.mark.parametrize(
    ("activation", "alpha", "beta", "name"),
    [*((*row, "float32") for row in ACTIVATIONS), *((*row, "float64") for row in ACTIVATIONS[::4])],
)
def test_activations(activation: str, alpha: float, beta: float, name: str) -> None:
    """Behind a library's product, with a bias and a residual; infinity and NaN go through."""
    a, b = _tensor((6, 5), name), _tensor((5, 12), name)
    a[1], a[2] = 0, 30
    a[3, 0], a[4, 0], b[0] = np.inf, np.nan, np.abs(b[0]) + 0.1
    bias, residual = _tensor((12,), name), _tensor((6, 12), name)
    attributes = {"activation": activation, "alpha": alpha, "beta": beta, "scale": 0.5}
    (expected,) = reference("FusedMatMul", [a, b, bias, residual], attributes, 1, INTERNAL)
    device = EmulatedDevice()
    (found,) = run_on_device(
        "FusedMatMul",
        [a, b, bias, residual],
        [((6, 12), a.dtype)],
        attributes,
        domain=INTERNAL,
        opset=1,
        device=device,
        orders=(0, 1),
    )
    eps = float(np.finfo(name).eps)
    np.testing.assert_allclose(found, expected, rtol=64 * eps, atol=64 * eps)
    assert device.log[0].startswith("cublasLt")
    in_library = activation == "Relu" and name == "float32"
    assert len(device.log) == (2 if in_library else 4)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("rows", [2, 8])
def test_half_epilogues(name: str, rows: int) -> None:
    """GeluTanh within the library, and within a product of few rows."""
    a, b, bias = _tensor((rows, 32), name), _tensor((32, 24), name), _tensor((24,), name)
    attributes = {"activation": "GeluTanh", "scale": 0.25}
    (expected,) = reference("FusedMatMul", [a, b, bias], attributes, 1, INTERNAL)
    device = EmulatedDevice()
    (found,) = run_on_device(
        "FusedMatMul",
        [a, b, bias],
        [((rows, 24), a.dtype)],
        attributes,
        domain=INTERNAL,
        opset=1,
        device=device,
    )
    assert found is not None
    assert len(device.log) == 3
    eps = float(ml_dtypes.finfo(a.dtype).eps)
    np.testing.assert_allclose(
        found.astype(np.float64), expected.astype(np.float64), rtol=4 * eps, atol=4 * eps
    )


def test_gemm_1() -> None:
    a, b, c = _tensor((5, 6), "float32"), _tensor((6, 7), "float32"), _tensor((7,), "float32")
    (found,) = run_on_device("Gemm", [a, b, c], [((5, 7), np.float32)], {"broadcast": 1}, opset=6)
    assert found is not None
    assert (np.abs(found - (a.astype(np.float64) @ b + c)) <= _bound(a, b, "float32", 1)).all()
    with pytest.raises(Unsupported, match="without broadcast"):
        run_on_device("Gemm", [a, b, c], [((5, 7), np.float32)], opset=6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_broadcast(data: st.DataObject) -> None:
    """Stacks of any shape, by cuBLASLt, by few rows, and by the kernel of its own."""
    batch = data.draw(st.lists(st.integers(1, 3), max_size=3))
    keep = st.lists(st.booleans(), min_size=len(batch), max_size=len(batch))
    stacks = []
    for _ in range(2):
        shown = [n if kept else 1 for n, kept in zip(batch, data.draw(keep), strict=True)]
        stacks.append(tuple(shown[data.draw(st.integers(0, len(batch))) :]))
    m, n = data.draw(st.sampled_from([(1, 8), (6, 1), (6, 5)]))
    a, b = _tensor((*stacks[0], m, 8), "float32"), _tensor((*stacks[1], 8, n), "float32")
    libraries = data.draw(st.sampled_from([BARE, frozenset({"cublaslt"})]))
    _check_matmul(a, b, device=EmulatedDevice(libraries=libraries), orders=(0,))


def _lowered(precision: str, constant: bool) -> Any:
    a, b, y = (Operand(shape, np.dtype(np.float32)) for shape in ((8, 6), (6, 7), (8, 7)))
    if constant:
        b.constant = np.ones((6, 7), np.float32)
    site = Site(Op("MatMul", [a, b], [y]), precision=precision)
    lowering = find_lowering("cupy", "", "MatMul", 13)
    assert lowering is not None
    lowering.emit(site, a, b)
    (call,) = site.launches
    return call.op


@pytest.mark.parametrize(
    ("precision", "constant", "tf32"),
    [("default", True, False), ("tf32", False, True), ("bf16", True, True), ("bf16", False, False)],
)
def test_tf32_is_asked_for(precision: str, constant: bool, tf32: bool) -> None:
    assert _lowered(precision, constant).tf32 is tf32


def test_empty() -> None:
    for left, right in (((0, 5), (5, 3)), ((4, 5), (5, 0)), ((0, 4, 5), (5, 3))):
        log = _check_matmul(_tensor(left, "float32"), _tensor(right, "float32"))
        assert log == []


@pytest.mark.parametrize(
    ("attributes", "name", "says"),
    [({"activation": "Relu"}, "int32", "Relu of int32"), ({"scale": 0.5}, "int32", "fraction")],
)
def test_refusals(attributes: dict[str, Any], name: str, says: str) -> None:
    a, b = _tensor((5, 6), name), _tensor((6, 7), name)
    with pytest.raises(Unsupported, match=says):
        run_on_device("FusedMatMul", [a, b], [((5, 7), name)], attributes, domain=INTERNAL, opset=1)


EQUATIONS: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    ("bhqd,bhkd->bhqk", (2, 3, 5, 8), (2, 3, 6, 8)),
    ("bhqk,bhkd->bhqd", (2, 3, 5, 8), (2, 3, 8, 6)),
    ("ij,jk->ki", (5, 7), (7, 6)),
    ("...ji,...jk->...ik", (2, 7, 5), (2, 7, 6)),
    ("abc,bcd->ad", (5, 2, 3), (2, 3, 7)),
    ("i,j->ij", (5,), (7,)),
    ("i,i->", (70,), (70,)),
    ("bi,bi->b", (3, 8), (3, 8)),
    ("bi,bij->bj", (3, 8), (3, 8, 6)),
    ("aib,bj->aij", (2, 1, 8), (8, 6)),
]


@pytest.mark.parametrize(("equation", "left", "right"), EQUATIONS)
def test_einsum(equation: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = _tensor(left, "float32"), _tensor(right, "float32")
    expected = np.einsum(equation, a.astype(np.float64), b.astype(np.float64))
    (found,) = run_on_device(
        "Einsum", [a, b], [(expected.shape, np.float32)], {"equation": equation}, opset=12
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("bqhd,bkhd->bhqk", (2, 5, 3, 8), (2, 6, 3, 8)),
        ("ii,ij->ij", (5, 5), (5, 6)),
        ("ij,kl->kl", (5, 6), (2, 3)),
        ("ij,jk->ik", (5, 1), (6, 7)),
        ("ij,jk", (5, 6), (6, 7)),
        ("aij,bjk->aibk", (2, 3, 4), (5, 4, 6)),
    ],
)
def test_einsum_refuses(equation: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = _tensor(left, "float32"), _tensor(right, "float32")
    with pytest.raises(Unsupported):
        run_on_device("Einsum", [a, b], [((1,), np.float32)], {"equation": equation}, opset=12)


# Products of 8-bit integers -----------------------------------------------------------------------

ZEROS: list[tuple[str, str, Any, Any]] = [
    ("uint8", "int8", 3, None),
    ("uint8", "uint8", 3, 250),
    ("int8", "uint8", None, "columns"),
    ("int8", "int8", "rows", -128),
    ("int8", "int8", None, None),
]


def _zero(which: Any, extents: tuple[int, int], name: str) -> Array | None:
    if which is None:
        return None
    length = extents[0] if which == "rows" else extents[1]
    return _tensor((length,), name) if isinstance(which, str) else np.array(which, name)


@pytest.mark.parametrize(
    ("left", "right", "a_zero", "b_zero", "extents", "constant"),
    [
        (*row, extents, constant)
        for i, row in enumerate(ZEROS)
        for j, extents in enumerate([(3, 37, 10), (3, 48, 10), (66, 80, 70)])
        for constant in (False, True)
        if (i + j + constant) % 2 == 0
    ],
)
def test_matmul_integer(
    left: str, right: str, a_zero: Any, b_zero: Any, extents: tuple[int, int, int], constant: bool
) -> None:
    m, k, n = extents
    inputs = [
        _tensor((m, k), left),
        _tensor((k, n), right),
        _zero(a_zero, (m, n), left),
        _zero(b_zero, (m, n), right),
    ]
    (expected,) = reference("MatMulInteger", inputs, {}, 10)
    constants = tuple(i for i in (1, 3) if inputs[i] is not None) if constant else ()
    (found,) = run_on_device(
        "MatMulInteger", inputs, [((m, n), np.int32)], opset=10, constants=constants, orders=(0, 1)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("left", "right"), [((2, 3, 20), (20, 6)), ((2, 3, 20), (2, 20, 6)), ((20,), (20,))])
def test_stacks_of_bytes(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    inputs = [_tensor(left, "uint8"), _tensor(right, "int8"), np.array(7, np.uint8)]
    (expected,) = reference("MatMulInteger", inputs, {}, 10)
    (found,) = run_on_device("MatMulInteger", inputs, [(expected.shape, np.int32)], opset=10)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("left", "right", "a_zero", "b_zero"), ZEROS[1::2] + ZEROS[4:])
def test_large_products_of_bytes(left: str, right: str, a_zero: Any, b_zero: Any) -> None:
    m, k, n = 520, 500, 520
    inputs = [
        _tensor((m, k), left),
        _tensor((k, n), right),
        _zero(a_zero, (m, n), left),
        _zero(b_zero, (m, n), right),
    ]
    (expected,) = reference("MatMulInteger", inputs, {}, 10)
    device = EmulatedDevice()
    (found,) = run_on_device(
        "MatMulInteger",
        inputs,
        [((m, n), np.int32)],
        opset=10,
        constants=tuple(i for i in (1, 3) if inputs[i] is not None),
        device=device,
        orders=(0,),
    )
    assert "cublasLt.matmul(int8 520x520x512)" in device.log
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(2, 20, 9), (70, 32, 68), (512, 512, 516)])
@pytest.mark.parametrize("per_axis", [False, True])
def test_qlinear_matmul(shape: tuple[int, int, int], per_axis: bool) -> None:
    m, k, n = shape
    a, b = _tensor((m, k), "uint8"), _tensor((k, n), "int8")
    a_scale = np.abs(_tensor((m,), "float32")) + 0.1 if per_axis else np.float32(0.03)
    b_scale = np.abs(_tensor((n,), "float32")) + 0.1 if per_axis else np.float32(0.5)
    scales = [np.asarray(x, np.float32) for x in (a_scale, b_scale, 8 * k**0.5)]
    zeros = [np.array(120, np.uint8), np.array(-3, np.int8), np.array(128, np.uint8)]
    inputs = [a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2]]
    (expected,) = reference("QLinearMatMul", inputs, {}, 21)
    (found,) = run_on_device(
        "QLinearMatMul", inputs, [((m, n), np.uint8)], opset=21, constants=(3, 5), orders=(0,)
    )
    np.testing.assert_array_equal(found, expected)
    assert np.mean((expected > 0) & (expected < 255)) > 0.2  # not all of them saturated


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("activation", ["", "Relu"])
def test_quantized_matmul(rows: int, activation: str) -> None:
    a, b = _tensor((rows, 40), "int8"), _tensor((40, 12), "int8")
    scale, out = np.array(0.02, np.float32), np.array(0.9, np.float32)
    zeros = [np.array(x, np.int8) for x in (4, 0, -7)]
    bias = _rng.integers(-9000, 9000, 12, dtype=np.int32)
    inputs = [a, scale, zeros[0], b, scale, zeros[1], out, zeros[2], bias]
    (expected,) = reference("QuantizedMatMul", inputs, {"activation": activation}, 1, INTERNAL)
    (found,) = run_on_device(
        "QuantizedMatMul",
        inputs,
        [((rows, 12), np.int8)],
        {"activation": activation},
        domain=INTERNAL,
        opset=1,
        constants=(3, 5),
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("has_bias", [False, True])
def test_integer_to_float(rows: int, has_bias: bool) -> None:
    a, b = _tensor((rows, 40), "uint8"), _tensor((40, 12), "uint8")
    a_scale, b_scale = np.array(0.02, np.float32), np.abs(_tensor((12,), "float32"))
    inputs: list[Any] = [a, b, a_scale, b_scale, np.array(9, np.uint8), _tensor((12,), "uint8")]
    inputs += [_tensor((12,), "float32")] if has_bias else []
    (expected,) = reference("MatMulIntegerToFloat", inputs, {}, 1, INTERNAL)
    (found,) = run_on_device(
        "MatMulIntegerToFloat",
        inputs,
        [((rows, 12), np.float32)],
        domain=INTERNAL,
        opset=1,
        constants=(1, 5),
    )
    # The sum is rounded once by a fused multiply-add, twice by the reference.
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(1, 40, 12), (2, 3, 33, 12), (520, 500, 520)])
@pytest.mark.parametrize("values", ["usual", "zeros", "NaN"])
def test_dynamic_quantize_matmul(shape: tuple[int, ...], values: str) -> None:
    *rows, k, n = shape
    a, b = _tensor((*rows, k), "float32"), _tensor((k, n), "uint8" if k == 500 else "int8")
    if values != "usual":
        a[...] = 0
    if values == "NaN":
        a.reshape(-1)[[3, -1]] = np.nan, 2
    b_zero = np.array(100 if k == 500 else 0, b.dtype)
    inputs = [a, b, np.abs(_tensor((n,), "float32")), b_zero, _tensor((n,), "float32")]
    (expected,) = reference("DynamicQuantizeMatMul", inputs, {}, 1, INTERNAL)
    device = EmulatedDevice()
    (found,) = run_on_device(
        "DynamicQuantizeMatMul",
        inputs,
        [(expected.shape, np.float32)],
        domain=INTERNAL,
        opset=1,
        constants=(1, 2, 3, 4),
        device=device,
        orders=(0,),
    )
    scale = 0 if values == "NaN" else np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7 * scale)
    assert ("cublasLt" in device.log[2]) is (k == 500)
