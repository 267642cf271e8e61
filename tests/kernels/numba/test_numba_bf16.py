"""Products in bfloat16: the software form against float64, the instruction where there is one.

The software form runs everywhere. The instruction differs from it in subnormals, which it takes and gives
as 0; tolerances here cover both.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnxref.kernels.numba.linalg
import onnxref.kernels.numpy.convolution  # noqa: F401 - registers the reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding
from lowered import reference, run_lowered
from onnxref.kernels.numba import bf16
from onnxref.kernels.numba.convolution import conv

from onnxref import InferenceSession
from onnxref.dtypes import Array
from onnxref.lowering import Blocked, Op, Operand, Site
from onnxref.native import AVX512_BF16, SOFTWARE, native, target
from onnxref.registry import INTERNAL

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
LANES = target().lanes
TINY = 2.0**-126  # smallest normal number of float32 and of bfloat16
NONE = "this processor has no AVX512-BF16"
FORMS = [
    SOFTWARE,
    pytest.param(AVX512_BF16, marks=pytest.mark.skipif(not target().bf16, reason=NONE)),
]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the lowerings suppose that this processor has bfloat16, at full rate, in some form."""
    monkeypatch.setattr(bf16, "form", lambda: request.param)
    monkeypatch.setattr(bf16, "is_half_rate", lambda: False)
    return str(request.param)


def random(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(F32)


# Rounding ------------------------------------------------------------------------------------------


def rounded(x: Array) -> Array:
    """Round to 8 bits of mantissa, half to even, by exact float64 arithmetic; no number below TINY."""
    wide = x.astype(F64)
    with np.errstate(all="ignore"):
        _, exponents = np.frexp(np.where(np.isfinite(wide), wide, 0))
        step = np.exp2(np.maximum(exponents, -125).astype(F64) - 8)
        near = np.where(np.isfinite(wide), np.rint(wide / step) * step, wide)
        near[np.abs(near) >= 2.0**128] = np.copysign(np.inf, near[np.abs(near) >= 2.0**128])
    return near


def narrow(rows: Array, form: str) -> Array:
    """Round rows by the kernel; behind each lies what must not be touched."""
    count, width = rows.shape
    pairs = -(-width // 2)
    goal = np.full((count, pairs + 3), 0x55555555, np.uint32)
    values = np.array([rows.ctypes.data, goal.ctypes.data, width, 4 * width, goal.strides[0]], np.int64)
    native(bf16.CODE, "narrow", form)(values.ctypes.data, 0, count)
    assert (goal[:, pairs:] == 0x55555555).all()
    halves = goal[:, :pairs].copy().view(np.uint16)
    assert not halves[:, width:].any()
    return halves[:, :width].view(ml_dtypes.bfloat16)


def bits(values: list[int]) -> Array:
    return np.array([values], np.uint32).view(F32)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 257])
def test_rows_are_rounded_to_nearest_even(width: int, form: str) -> None:
    rows = random((3, width), width) * np.float32(1e3)
    np.testing.assert_array_equal(narrow(rows, form).astype(F64), rounded(rows))


def test_halfway_extremes_and_signs(form: str) -> None:
    rows = bits(
        [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF808000, 0x3FFFFFFF, 0x7F7F7FFF, 0x7F7F8000]
        + [0x7F800000, 0xFF800000, 0, 0x80000000, 0x00800000, 0x80808000]
    )  # fmt: skip
    found = narrow(rows, form)
    np.testing.assert_array_equal(found.astype(F64), rounded(rows))
    np.testing.assert_array_equal(np.signbit(found), np.signbit(rows))


def test_nan_stays_nan(form: str) -> None:
    # The payload of the third lies in the half that is cut off, the last would round up to -0.
    rows = bits([0x7FC00000, 0xFFC12345, 0x7F800001, 0xFF80FFFF, 0x7FFFFFFF, 0xFFFFFFFF])
    found = narrow(rows, form)
    assert np.isnan(found.astype(F32)).all()
    np.testing.assert_array_equal(np.signbit(found), np.signbit(rows))


def test_subnormals_are_rounded_or_zero(form: str) -> None:
    rows = bits([0x00000001, 0x00008000, 0x00018000, 0x007F0000, 0x007FFFFF, 0x80400000])
    found = narrow(rows, form).astype(F64)
    if form == SOFTWARE:
        np.testing.assert_array_equal(found, rounded(rows))
    else:
        assert not found.any()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_software_rounding_is_exact_for_any_bits(values: list[int]) -> None:
    rows = bits(values)
    np.testing.assert_array_equal(narrow(rows, SOFTWARE).astype(F64), rounded(rows))


# Products ------------------------------------------------------------------------------------------

# Around one tile (8 by 48 or less), its halves and pairs, an odd k, a block of k, long, thin.
SHAPES = [
    (1, 1, 1), (1, 2, 3), (1, 64, 300), (2, 5, 17), (3, 41, 48), (4, 16, 49), (5, 16, 47), (7, 3, 33),
    (8, 64, 96), (1, 51, 63), (9, 100, 145), (17, 65, 64), (3, 2001, 50), (1, 3401, 192), (21, 2400, 100),
    (70, 20, 520),
]  # fmt: skip


def product(a: Array, b: Array, op: str = "MatMul", **options: Any) -> Array:
    shape = np.matmul(np.zeros(a.shape, F32), np.zeros(b.shape, F32)).shape
    (y,) = run_lowered(op, [a, b], [(shape, F32)], constants=[1], precision="bf16", **options)
    assert y is not None
    return y


def assert_product(y: Array, a: Array, b: Array) -> None:
    """Hold a product to its bound: that of float32 for rounded sides, and numbers below TINY lost."""
    a, b = rounded(a), rounded(b)
    size = np.matmul(np.abs(a), np.abs(b))
    lost = TINY * (1 + np.abs(a).max() + np.abs(b).max())
    allowed = a.shape[-1] * (np.finfo(F32).eps * size + lost)
    assert (np.abs(y.astype(F64) - np.matmul(a, b)) <= allowed).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_matmul(shape: tuple[int, int, int], form: str) -> None:
    M, K, N = shape
    a, b = random((M, K)), random((K, N), 1)
    y = product(a, b)
    assert_product(y, a, b)
    np.testing.assert_array_equal(product(a, b, parallel=True), y)


def test_whole_numbers_are_exact(form: str) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-200, 200, shape).astype(F32) for shape in ((11, 75), (75, 70)))
    np.testing.assert_array_equal(product(a, b), a @ b)


def test_rows_do_not_depend_on_the_batch(form: str) -> None:
    a, b = random((37, 1701)), random((1701, 130), 1)
    y = product(a, b)
    for count in (1, 2, 5, 8):
        np.testing.assert_array_equal(product(a[:count], b), y[:count])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((7,), (7, 20)),
        ((3, 2, 5), (5, 20)),
        ((3, 2, 5), (3, 5, 20)),
        ((2, 1, 3, 5), (4, 5, 20)),
        ((3, 5), (5,)),
    ],
)
def test_stacks_and_vectors(a: tuple[int, ...], b: tuple[int, ...], form: str) -> None:
    left, right = random(a), random(b, 1)
    y = product(left, right)
    # Small sums: compared with float64 of rounded operands, to the bound of the longest.
    np.testing.assert_allclose(y, np.matmul(rounded(left), rounded(right)), rtol=0, atol=1e-5)


def test_infinities_and_nan(form: str) -> None:
    a, b = random((9, 21)), random((21, 50), 1)
    a[1, 3], a[2, 4], a[4, 20], b[6, 7], b[8, 9] = np.inf, -np.inf, np.nan, np.inf, np.nan
    a[5, 5] = 3.4e38  # beyond bfloat16: becomes infinite
    with np.errstate(all="ignore"):
        wanted = np.matmul(rounded(a), rounded(b))
    y = product(a, b)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    np.testing.assert_array_equal(y[np.isinf(wanted)], wanted[np.isinf(wanted)])
    assert np.isfinite(y[np.isfinite(wanted)]).all()


def test_subnormals(form: str) -> None:
    a, b = random((6, 33)), random((33, 40), 1)
    a[:3] *= np.float32(1e-39)
    b[:, :5] *= np.float32(1e-38)
    assert_product(product(a, b), a, b)


@pytest.mark.parametrize("activation", ["", "Relu", "Clip", "Gelu"])
def test_epilogue(activation: str, form: str) -> None:
    """Scale, bias, residual and activation are those of the float32 kernel, behind the sums."""
    a, b, bias, residual = random((10, 31)), random((52, 31), 1), random((52,), 2), random((10, 52), 3)
    attributes = {"trans_b": 1, "scale": 0.5, "activation": activation, "alpha": -0.5, "beta": 0.75}
    results = []
    for left, right, precision in ((a, b, "bf16"), (rounded(a), rounded(b), "default")):
        inputs = [left.astype(F32), right.astype(F32), bias, residual]
        results += run_lowered(
            "FusedMatMul", inputs, [((10, 52), F32)], attributes,
            domain=INTERNAL, constants=[1, 2], precision=precision,
        )  # fmt: skip
    np.testing.assert_allclose(*results, rtol=0, atol=2e-5)


# What is taken, and what is said of it ---------------------------------------------------------------

MODEL = """<ir_version: 10, opset_import: ["" : 21]> g (float[M, 300] x) => (y, z)
    {
        p = MatMul(x, w) s = Add(p, b) r = Relu(s) y = Gemm<transB = 1, alpha = 0.5>(r, v)
        t = Transpose(x) z = MatMul(t, x) }"""


def model() -> onnx.ModelProto:
    made = onnx.parser.parse_model(MODEL)
    for name, shape in (("w", (300, 200)), ("b", (200,)), ("v", (70, 200))):
        weights = random(shape, 4) / np.float32(math.sqrt(200))
        made.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    return made


def session(precision: str) -> InferenceSession:
    return InferenceSession(model(), backend="numba", precision=precision)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 5, 33])
def test_a_session_in_bfloat16(rows: int, form: str) -> None:
    made, x = session("bf16"), random((rows, 300))
    y, z = made.run(None, {"x": x})
    in_float, z_float = session("default").run(None, {"x": x})
    by_output = {str(row.operator).rpartition(":")[2] + row.result: row for row in made.explain()}
    taken = [row for row in by_output.values() if f"'{form}'" in row.kernel]
    assert len(taken) == 2, "the products with constant weights"
    assert not any(row.reason for row in taken)
    (other,) = (row for row in by_output.values() if "product" in row.kernel and row not in taken)
    assert "in float32, not bfloat16" in other.reason
    np.testing.assert_array_equal(z, z_float)
    w, b, v = (onnx.numpy_helper.to_array(value).astype(F64) for value in model().graph.initializer)
    hidden = np.maximum(x @ w + b, 0)
    # Two roundings of 2**-8 in each product; the first product's error goes through the second.
    bound = 0.5 * (2.0**-7 * (np.abs(x) @ np.abs(w)) @ np.abs(v.T) + 2.0**-7 * hidden @ np.abs(v.T))
    error = np.abs(y.astype(F64) - in_float)
    assert (error <= 1.02 * bound).all()
    assert error.max() > 0, "nothing was rounded"


def test_weights_take_half_the_memory(form: str) -> None:
    site_bytes = []
    for precision in ("bf16", "default"):
        made = session(precision)
        made.run(None, {"x": random((5, 300))})
        assert made._acceleration is not None
        arrays = [array for _, array in made._acceleration.packs._made.values() if array.ndim > 2]
        site_bytes.append(sum(array.nbytes for array in arrays))
    assert site_bytes[0] * 2 == site_bytes[1]


def test_without_the_instruction_it_is_float32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "form", lambda: "")
    made, x = session("bf16"), random((5, 300))
    for y, wanted in zip(made.run(None, {"x": x}), session("default").run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(y, wanted)
    rows = [row for row in made.explain() if "product" in row.kernel]
    assert len(rows) == 3
    assert all(row.reason == f"in float32, not bfloat16: {NONE}" for row in rows)
    assert NONE in str(rows[0])


def test_the_target_follows_the_processor() -> None:
    has = binding.get_host_cpu_features().get("avx512bf16", False) and LANES == 16
    assert target().bf16 == has
    assert bf16.form() == (AVX512_BF16 if has else "")


@pytest.mark.parametrize(("rows", "is_taken"), [(1, True), (2, False), (5, False)])
def test_where_bfloat16_has_half_the_rate(rows: int, is_taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that the cache holds pay for one row only."""
    monkeypatch.setattr(bf16, "form", lambda: SOFTWARE)
    monkeypatch.setattr(bf16, "is_half_rate", lambda: True)
    made = session("bf16")
    made.run(None, {"x": random((rows, 300))})
    taken = [row for row in made.explain() if SOFTWARE in row.kernel]
    assert len(taken) == (2 if is_taken else 0)


# The code of the instruction, which needs no processor that has it ------------------------------------

_EMIT = """
import dataclasses
from onnxref.native import _target
chosen = _target.Target("sapphirerapids", "-prefer-256-bit", 16, 32, halves=True, vnni=True, bf16=True)
_target._host = lambda: chosen
_target.target.cache_clear()
from onnxref.native import _compile
_compile._contexts()  # before any module of code: Numba reads its settings then
library = []
inner = _compile.compiler.compile_extra
def compile_extra(*arguments, **named):
    made = inner(*arguments, **named)
    library[:] = [made.library]
    return made
_compile.compiler.compile_extra = compile_extra
from onnxref.kernels.numba.code import bf16, convolution, gemm
form = _target.AVX512_BF16
for kernel in (
    gemm.product("float32", "", False, form),
    convolution.direct(2, 7, 0, 2, 2, 32, 16, 0, False, "", form),
    bf16.narrow(form),
):
    _compile.compile_kernel(kernel)
    print(library[0].get_asm_str())
    print("# next")
"""


def loops(assembly: str) -> list[list[str]]:
    """Return the innermost loops: from a label to the first jump back to it, no other label between."""
    found: list[list[str]] = []
    label, body = "", []
    for line in assembly.splitlines():
        if match := re.match(r"(\.L\w+):", line):
            label, body = match[1], []
        elif label:
            body.append(line.strip())
            if re.match(rf"\s*j\w+\s+{re.escape(label)}$", line):
                found.append(body)
                label = ""
    return found


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="reads x86 assembly")
def test_the_instruction_is_in_the_inner_loops() -> None:
    environment = {**os.environ, "ONNXREF_CPU": "native", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _EMIT], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    product, convolution, narrow, _ = map(loops, done.stdout.split("# next"))
    counts = {sum("vdpbf16ps" in line for line in body) for body in product}
    # 8 rows by 3, 2, 1 vectors, 4 by 3, 2, 1 by 6, 4; LLVM may run each twice a pass.
    assert all(any(n in (count, 2 * count) for n in counts) for count in (24, 16, 8, 12, 6, 4)), counts
    # 14 pixels by 2 vectors, 4 pairs of channels a pass.
    assert {sum("vdpbf16ps" in line for line in body) for body in convolution} >= {112}
    for body in product + convolution:
        spilled = [line for line in body if "zmm" in line and re.search(r"\(%r[sb]p\)", line)]
        assert not spilled, spilled
        assert not any("vfmadd" in line for line in body)
    assert any("vcvtne2ps2bf16" in line for body in narrow for line in body)


# Convolutions ----------------------------------------------------------------------------------------

# Channels in, out, rows, columns, kernel, stride, padding, dilation. Winograd does not take these: a
# kernel of 3 at stride 1 only where the image is small.
CONVOLUTIONS = [
    (32, 96, 14, 14, 1, 1, 0, 1),
    (16, 70, 9, 7, 1, 1, 0, 1),
    (32, 40, 9, 15, 3, 2, 1, 1),
    (16, 32, 13, 12, 3, 1, 2, 2),
    (16, 49, 6, 5, 5, 1, 2, 1),
    (16, 72, 1, 1, 1, 1, 0, 1),
]


def convolution(
    x: Array, w: Array, b: Array, residual: Array | None, activation: str, precision: str, **attributes: Any
) -> Array:
    """Run a convolution on blocked tensors."""
    (wanted,) = reference("Conv", [x, w, b], attributes, 22)
    layouts = {0: Blocked(LANES, attributes["pads"])}
    if residual is not None:
        layouts[3] = Blocked(LANES)
    (y,) = run_lowered(
        "FusedConv",
        [x, w, b, residual],
        [(wanted.shape, F32)],
        {**attributes, "activation": activation},
        opset=1,
        domain=INTERNAL,
        constants=(1, 2),
        layouts=layouts,
        output_layouts={0: Blocked(LANES, (0, 1, 1, 0))},
        precision=precision,
        parallel=x.shape[0] > 1,
    )
    assert y is not None
    return y


@pytest.mark.skipif(LANES < 8, reason="a pass of four pairs needs eight channels in a block")
@pytest.mark.parametrize(("n", "activation"), [(1, ""), (2, "Relu"), (2, "Gelu")])
@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_convolution(
    shape: tuple[int, ...], n: int, activation: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of float32 ("strict": direct) with rounded sides, within the tolerance of that."""
    c, m, h, w, kernel, stride, pad, dilation = shape
    monkeypatch.setattr(bf16, "_LEAST_PRODUCTS", 1)
    x, weights = (
        random((n, c, h, w)),
        random((m, c, kernel, kernel), 1) / np.float32(math.sqrt(c * kernel**2)),
    )
    attributes = {"strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (dilation,) * 2}
    (out,) = reference("Conv", [x, weights, None], attributes, 22)
    bias, residual = random((m,), 2), random(out.shape, 3) if n > 1 else None
    y = convolution(x, weights, bias, residual, activation, "bf16", **attributes)
    near = [rounded(side).astype(F32) for side in (x, weights)]
    wanted = convolution(*near, bias, residual, activation, "strict", **attributes)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    plain = convolution(x, weights, bias, residual, activation, "strict", **attributes)
    assert np.abs(y - plain).max() > 1e-4 * np.abs(plain).max(), "nothing was rounded"


@pytest.mark.skipif(LANES < 8, reason="a pass of four pairs needs eight channels in a block")
@pytest.mark.parametrize(
    ("c", "m", "size", "half_rate", "reason"),
    [
        (32, 128, 14, False, ""),
        (32, 128, 14, True, "that is faster here"),
        (20, 128, 14, False, "its channels do not fill whole blocks"),
        (32, 40, 14, False, "rounding its input would take longer than it saves"),
    ],
)
def test_which_convolutions_are_taken(
    c: int, m: int, size: int, half_rate: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bf16, "form", lambda: SOFTWARE)
    monkeypatch.setattr(bf16, "is_half_rate", lambda: half_rate)
    x = Operand((1, c, size, size), F32, layout=Blocked(LANES))
    w = Operand((m, c, 1, 1), F32, constant=random((m, c, 1, 1)))
    y = Operand((1, m, size, size), F32, layout=Blocked(LANES))
    site = Site(Op("Conv", [x, w], [y]), precision="bf16")
    conv(site, x, w)
    assert site.notes == ([f"in float32, not bfloat16: {reason}"] if reason else [])
    assert (SOFTWARE in repr(site.calls[-1].function)) == (not reason)
