"""MatMulNBits on the emulator, held to its documented bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxref.kernels.cupy.matmul_nbits  # noqa: F401 - registers the lowering
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref.dtypes import Array
from onnxref.lowering import Op, Operand, Site, Unsupported, find_lowering
from tests import nbits
from tests.nbits import Case

from .emulator.device import EmulatedDevice
from .lowered import run_on_device

BARE = frozenset[str]()


def run(case: Case, inputs: list[Array | None], **options: Any) -> Array:
    (y,) = run_on_device(
        "MatMulNBits",
        inputs,
        [case.output],
        case.attributes,
        opset=1,
        domain=nbits.DOMAIN,
        **{"constants": (4,) if case.groups else (), **options},
    )
    assert y is not None
    return y


def check(case: Case, device: EmulatedDevice | None = None, **options: Any) -> list[str]:
    """Hold a product to its bound; return what ran."""
    chosen = device or EmulatedDevice()
    inputs = case.inputs()
    y = run(case, inputs, device=chosen, **options)
    by_weights = any("nbits_weights" in line for line in chosen.log)
    nbits.check(case, inputs, y, narrow_weights=by_weights)
    return chosen.log


@pytest.mark.parametrize("rows", [(), (1,), (2,), (3,), (4,), (9,), (2, 3)], ids=str)
def test_few_rows(rows: tuple[int, ...]) -> None:
    log = check(Case(rows=rows, K=100, N=21, zeros="packed", bias=True))
    assert all("nbits_few" in line for line in log)


@pytest.mark.parametrize("rows", [(1,), (3,)], ids=str)
@pytest.mark.parametrize("zeros", ["", "packed", "real"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bits_and_zero_points(bits: int, zeros: str, rows: tuple[int, ...]) -> None:
    check(Case(rows=rows, K=96, N=9, bits=bits, block_size=32, zeros=zeros, dtype="float16"))


@pytest.mark.parametrize("block_size", [16, 32, 128, 2048])
@pytest.mark.parametrize("K", [1, 17, 160, 1500])
def test_depths_and_blocks(K: int, block_size: int) -> None:
    check(Case(rows=(1,), K=K, N=6, block_size=block_size, zeros="packed", dtype="bfloat16", bias=True))


@pytest.mark.parametrize("K", [1024, 2048, 4096, 8192, 9000])
def test_warps_share_long_rows(K: int) -> None:
    check(Case(rows=(1,), K=K, N=11, block_size=32, zeros="packed"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("libraries", [True, False])
def test_many_rows(dtype: str, libraries: bool) -> None:
    device = EmulatedDevice() if libraries else EmulatedDevice(libraries=BARE)
    log = check(Case(rows=(5, 4), K=72, N=9, dtype=dtype, zeros="packed", bias=True), device)
    assert ["nbits_weights" in line for line in log[:2]] == [True, False]
    assert ("cublasLt" in log[1]) == libraries


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("K", "zeros"), [(90, "real"), (64, "packed"), (17, "")])
def test_weights_alone(bits: int, K: int, zeros: str) -> None:
    check(Case(rows=(17,), K=K, N=7, bits=bits, block_size=32, zeros=zeros, dtype="float16"))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([0, 1, 17]),
    K=st.integers(1, 25).map(lambda k: 8 * k),
    N=st.integers(0, 30),
    bias=st.booleans(),
    flat=st.booleans(),
)
def test_any_size(rows: int, **sizes: Any) -> None:
    check(Case(rows=(rows,), zeros="packed", block_size=64, **sizes), orders=(0,))


def test_one_column_of_many_rows() -> None:
    log = check(Case(rows=(40,), K=64, N=1, zeros="packed"))
    assert all("nbits_few" in line for line in log)


def test_strict_rows_do_not_depend_on_each_other() -> None:
    case = Case(rows=(22,), K=96, N=5, zeros="packed", dtype="float16", bias=True)
    inputs = case.inputs()
    a = inputs[0]
    assert a is not None
    y = run(case, inputs, precision="strict")
    nbits.check(case, inputs, y)
    for rows in (slice(0, 1), slice(3, 6), slice(21, 22)):
        part = replace(case, rows=a[rows].shape[:1])
        np.testing.assert_array_equal(run(part, [a[rows], *inputs[1:]], precision="strict"), y[rows])


@pytest.mark.parametrize("rows", [1, 20])
def test_infinities_and_nan(rows: int) -> None:
    case = Case(rows=(rows,), K=40, N=6, zeros="packed")
    inputs = case.inputs()
    a, scales = inputs[0], inputs[2]
    assert a is not None
    assert scales is not None
    scales[3, 1] = np.nan
    a[0, 5] = np.inf
    w = nbits.weights(case, inputs)
    with np.errstate(invalid="ignore"):
        expected = np.where(np.isnan(w).any(1), np.nan, a.astype(np.float64) @ np.nan_to_num(w).T)
        y = run(case, inputs)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert np.isinf(y[0]).any()
    assert np.isnan(y[0]).any()


def test_ordered_groups_are_blocks() -> None:
    check(Case(groups="ordered"))


REFUSED: list[tuple[Case, dict[str, Any], str]] = [
    (Case(groups="mixed"), {}, "g_idx that mixes blocks"),
    (Case(groups="ordered"), {"constants": ()}, "g_idx that mixes blocks"),
    (Case(K=0), {}, "a product of no columns"),
    (Case(rows=(300_000,), K=16, N=1), {}, "more rows than a grid has"),
]


@pytest.mark.parametrize(("case", "options", "reason"), REFUSED, ids=str)
def test_refusals(case: Case, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        run(case, case.inputs(), **options)


@pytest.mark.parametrize(("precision", "tf32"), [("default", False), ("tf32", True), ("bf16", True)])
def test_float32_is_rounded_only_where_that_is_asked_for(precision: str, tf32: bool) -> None:
    case = Case(rows=(20,), K=64, N=8)
    operands = [None if x is None else Operand(x.shape, x.dtype) for x in case.inputs()]
    op = Op("MatMulNBits", operands, [Operand(*case.output)], case.attributes, nbits.DOMAIN, 1)
    site = Site(op, precision=precision)
    lowering = find_lowering("cupy", nbits.DOMAIN, "MatMulNBits", 1)
    assert lowering is not None
    lowering.emit(site, *operands, **case.attributes)
    product: Any = site.launches[-1]
    assert product.op.tf32 == tf32
