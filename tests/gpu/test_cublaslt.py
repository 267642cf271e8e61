"""Our binding of cuBLASLt, against a library made of NumPy that knows nothing but column-major matrices.

It keeps what it is told by the numbers of the real headers, refuses what the real one refuses, and multiplies
what the descriptors say. Where cuBLASLt is installed, it takes and gives back the same descriptors, and its
headers are held to our numbers.
"""

# ruff: noqa: N802 - the stand-in has the names of the library

from __future__ import annotations

import ctypes
import gc
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref.dtypes import Array
from onnxref.errors import BackendError, MissingDependencyError
from onnxref.gpu import Matmul, _cublaslt
from onnxref.gpu._cublaslt import CublasLt, HeuristicResult, load_cublaslt
from onnxref.gpu._nvrtc import include_folders

from .emulator.libraries import run_library

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# library_types.h: CUDA_R_32F, 64F, 16F, 8I, 32I, 16BF
DATA_TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 3: np.int8, 10: np.int32, 14: BFLOAT16}
# cublas_api.h: CUBLAS_COMPUTE_32F, 64F, 32I, 32F_FAST_TF32, with the types of factors that each allows
COMPUTE = {68: 0, 70: 1, 72: 10, 77: 0}
# cublasLt.h: attribute, (name, bytes)
DESCRIPTION = {3: ("transa", 4), 4: ("transb", 4), 7: ("epilogue", 4), 8: ("bias", 8)}
LAYOUT = {5: ("batch", 4), 6: ("stride", 8)}
PREFERENCE = {
    1: ("workspace", 8),
    3: ("reductions", 4),
    5: ("align_a", 4),
    6: ("align_b", 4),
    7: ("align_c", 4),
    8: ("align_d", 4),
}
RELU, GELU, BIAS, DEFAULT = 2, 32, 4, 1
STREAM = 0xCAFE
WORKSPACE_BYTES = 32 << 20
SUCCESS, INVALID_VALUE, NOT_SUPPORTED = 0, 7, 15


class FakeLibrary:
    """cuBLASLt as the binding sees it.

    Attributes:
        alive: objects that were made and not destroyed, by address.
        refuses: status that the next question for algorithms is answered with.
        count: how many algorithms it offers, and the state of each.
    """

    def __init__(self) -> None:
        self.alive: dict[int, dict[str, Any]] = {}
        self.refuses = SUCCESS
        self.states = [SUCCESS]
        self.asked: list[dict[str, Any]] = []
        self.compute: list[int] = []
        self._next = 0x1000

    def _new(self, pointer: Any, **held: Any) -> int:
        self._next += 16
        self.alive[self._next] = held
        pointer._obj.value = self._next
        return SUCCESS

    def _drop(self, kind: str, thing: Any) -> int:
        assert self.alive.pop(thing.value)["kind"] == kind
        return SUCCESS

    def _set(
        self,
        kind: str,
        thing: Any,
        attribute: int,
        at: int,
        size: int,
        known: Mapping[int, tuple[str, int]],
    ) -> int:
        held = self.alive[thing.value]
        assert held["kind"] == kind
        name, wanted = known[attribute]
        if size != wanted:
            return INVALID_VALUE
        held[name] = int.from_bytes(ctypes.string_at(at, size), "little", signed=True)
        return SUCCESS

    def cublasLtCreate(self, pointer: Any) -> int:
        return self._new(pointer, kind="handle")

    def cublasLtDestroy(self, thing: Any) -> int:
        return self._drop("handle", thing)

    def cublasLtMatmulDescCreate(self, pointer: Any, compute: int, scale: int) -> int:
        assert COMPUTE[compute] == scale
        self.compute.append(compute)
        return self._new(
            pointer, kind="description", compute=compute, transa=0, transb=0, epilogue=DEFAULT, bias=0
        )

    def cublasLtMatmulDescDestroy(self, thing: Any) -> int:
        return self._drop("description", thing)

    def cublasLtMatmulDescSetAttribute(self, thing: Any, attribute: int, at: int, size: int) -> int:
        return self._set("description", thing, attribute, at, size, DESCRIPTION)

    def cublasLtMatrixLayoutCreate(self, pointer: Any, dtype: int, rows: int, columns: int, ld: int) -> int:
        if ld < rows:
            return INVALID_VALUE
        return self._new(
            pointer,
            kind="layout",
            dtype=np.dtype(DATA_TYPES[dtype]),
            rows=rows,
            columns=columns,
            ld=ld,
            batch=1,
            stride=0,
        )

    def cublasLtMatrixLayoutDestroy(self, thing: Any) -> int:
        return self._drop("layout", thing)

    def cublasLtMatrixLayoutSetAttribute(self, thing: Any, attribute: int, at: int, size: int) -> int:
        return self._set("layout", thing, attribute, at, size, LAYOUT)

    def cublasLtMatmulPreferenceCreate(self, pointer: Any) -> int:
        return self._new(pointer, kind="preference")

    def cublasLtMatmulPreferenceDestroy(self, thing: Any) -> int:
        return self._drop("preference", thing)

    def cublasLtMatmulPreferenceSetAttribute(self, thing: Any, attribute: int, at: int, size: int) -> int:
        return self._set("preference", thing, attribute, at, size, PREFERENCE)

    def cublasLtMatmulAlgoGetHeuristic(self, handle: Any, *rest: Any) -> int:
        *described, preference, most, results_at, count_at = rest
        assert self.alive[handle.value]["kind"] == "handle"
        kinds = [self.alive[thing.value]["kind"] for thing in described]
        assert kinds == ["description", *["layout"] * 4]
        self.asked.append(dict(self.alive[preference.value]))
        results = (HeuristicResult * most).from_address(results_at)
        for i, state in enumerate(self.states):
            results[i].state = state
            results[i].algo[0] = 100 + i
        ctypes.c_int.from_address(count_at).value = len(self.states)
        return self.refuses

    def cublasLtMatmul(self, handle: Any, description: Any, *rest: Any) -> int:
        alpha_at, a, a_layout, b, b_layout, beta_at, c, c_layout, d, d_layout, algorithm, *where = rest
        assert self.alive[handle.value]["kind"] == "handle"
        assert where == [0xBEEF00, WORKSPACE_BYTES, STREAM]
        held = self.alive[description.value]
        picked = (ctypes.c_uint64 * 8).from_address(algorithm)[0]
        assert picked == 100 + self.states.index(SUCCESS)
        layouts = [self.alive[thing.value] for thing in (a_layout, b_layout, c_layout, d_layout)]
        factor = {0: ctypes.c_float, 1: ctypes.c_double, 10: ctypes.c_int32}[COMPUTE[held["compute"]]]
        alpha, beta = (factor.from_address(at).value for at in (alpha_at, beta_at))
        left, right, added, goal = (
            _columns(at, layout) for at, layout in zip((a, b, c, d), layouts, strict=True)
        )
        acc = {0: np.float32, 1: np.float64, 10: np.int32}[COMPUTE[held["compute"]]]
        left = (left.swapaxes(1, 2) if held["transa"] else left).astype(acc)
        right = (right.swapaxes(1, 2) if held["transb"] else right).astype(acc)
        if layouts[0]["batch"] != layouts[3]["batch"] or left.shape[2] != right.shape[1]:
            return INVALID_VALUE
        value = acc(alpha) * (left @ right)
        if beta:
            value = value + acc(beta) * added.astype(acc)
        if held["epilogue"] & BIAS:  # one for each of the library's rows
            bias = _memory(held["bias"], goal.shape[1], goal.dtype).astype(acc)
            value = value + bias[:, None]
        if held["epilogue"] & RELU:
            value = np.maximum(value, acc(0))
        if held["epilogue"] & GELU:
            value = value * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))
        goal[...] = value.astype(goal.dtype)
        return SUCCESS


def _memory(at: int, count: int, dtype: Any) -> Array:
    return np.ctypeslib.as_array((ctypes.c_uint8 * (count * dtype.itemsize)).from_address(at)).view(dtype)


def _columns(at: int, layout: Mapping[str, Any]) -> Array:
    """Return (batch, rows, columns) of column-major matrices."""
    rows, columns, ld, size = layout["rows"], layout["columns"], layout["ld"], layout["dtype"].itemsize
    count = (layout["batch"] - 1) * layout["stride"] + (columns - 1) * ld + rows
    flat = _memory(at, count, layout["dtype"])
    strides = (layout["stride"] * size, size, ld * size)
    return np.lib.stride_tricks.as_strided(flat, (layout["batch"], rows, columns), strides)


def _tensors(op: Matmul, seed: int = 0) -> dict[str, Array]:
    """Return tensors of small whole numbers, so that sums are exact in every type."""
    rng = np.random.default_rng(seed)
    dtype = BFLOAT16 if op.dtype == "bfloat16" else np.dtype(op.dtype)
    result = np.dtype(np.int32) if op.dtype == "int8" else dtype
    lying = ((op.k, op.m) if op.trans_a else (op.m, op.k), (op.n, op.k) if op.trans_b else (op.k, op.n))
    size_a, size_b, size = (
        (op.batch - 1) * stride + (rows - 1) * (pitch or columns) + columns
        for (rows, columns), stride, pitch in zip((*lying, (op.m, op.n)), op.strides, op.pitches, strict=True)
    )
    made = {role: rng.integers(-3, 4, n).astype(dtype) for role, n in (("a", size_a), ("b", size_b))}
    made["d"] = np.zeros(size, result)
    if op.has_bias:
        made["bias"] = rng.integers(-3, 4, op.n).astype(result)
    if op.has_residual:
        if op.residual_pitch is not None:
            size += (op.m - 1) * ((op.residual_pitch or op.n) - (op.pitches[2] or op.n))
        made["residual"] = rng.integers(-3, 4, size).astype(result)
    return made


def _addresses(tensors: Mapping[str, Array]) -> dict[str, int]:
    return {role: int(x.__array_interface__["data"][0]) for role, x in tensors.items()}


def _check(op: Matmul) -> FakeLibrary:
    library = FakeLibrary()
    binding = CublasLt(0xBEEF00, WORKSPACE_BYTES, STREAM, library=library)
    tensors = _tensors(op)
    prepared = binding.prepare(op, _addresses(tensors))
    assert not tensors["d"].any()  # nothing runs before it is called
    prepared()
    expected = {role: x.copy() for role, x in tensors.items()}
    expected["d"][...] = 0
    run_library(op, _addresses(expected))
    # Whole numbers are exact; the library's own Gelu is rounded once.
    np.testing.assert_allclose(
        tensors["d"].astype(np.float64), expected["d"].astype(np.float64), rtol=1e-2 * (op.epilogue == "Gelu")
    )
    del prepared, binding
    gc.collect()
    assert library.alive == {}  # all objects were destroyed, once
    return library


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
def test_row_major_products(dtype: str, trans_a: bool, trans_b: bool) -> None:
    _check(Matmul(3, 5, 7, dtype, trans_a, trans_b))
    _check(Matmul(6, 2, 4, dtype, trans_a, trans_b, alpha=0.5, batch=3, strides=(24, 8, 12)))


@pytest.mark.parametrize("epilogue", ["", "Relu", "Gelu"])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
def test_epilogues(epilogue: Any, has_bias: bool, has_residual: bool) -> None:
    _check(
        Matmul(
            *(3, 5, 7, "float32"),
            batch=2,
            strides=(21, 0, 15),
            epilogue=epilogue,
            has_bias=has_bias,
            has_residual=has_residual,
        )
    )


def test_integers() -> None:
    library = _check(Matmul(3, 8, 16, "int8", trans_b=True))
    assert library.compute == [72]


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 3), st.integers(1, 3), st.tuples(*[st.booleans()] * 4))
def test_any_shape(extents: tuple[int, ...], batch: int, flags: tuple[bool, ...]) -> None:
    m, n, k = extents
    trans_a, trans_b, one_a, one_b = flags
    strides = (0 if one_a else m * k + 2, 0 if one_b else k * n, m * n + 3)
    _check(Matmul(m, n, k, "float32", trans_a, trans_b, batch=batch, strides=strides))


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(0, 9)] * 3),
    st.tuples(*[st.booleans()] * 4),
    st.sampled_from((None, 0, 1)),
)
def test_pitches(
    extents: tuple[int, ...], gaps: tuple[int, ...], flags: tuple[bool, ...], added: int | None
) -> None:
    """Matrices of a batch lie side by side in longer rows, as the heads of an attention do."""
    m, n, k = extents
    trans_a, trans_b, is_dense_a, has_residual = flags
    widths = (m if trans_a else k, k if trans_b else n, n)
    pitch_a, pitch_b, pitch_d = (2 * width + gap for width, gap in zip(widths, gaps, strict=True))
    pitches = (0 if is_dense_a else pitch_a, pitch_b, pitch_d)
    strides = (m * k if is_dense_a else widths[0], *widths[1:])
    op = Matmul(
        *(m, n, k, "float32", trans_a, trans_b),
        batch=2,
        strides=strides,
        pitches=pitches,
        has_bias=True,
        has_residual=has_residual,
        residual_pitch=added and 2 * n + added,
    )
    _check(op)


@pytest.mark.parametrize(("dtype", "tf32", "compute"), [("float32", True, 77), ("float16", True, 68)])
def test_tf32(dtype: str, tf32: bool, compute: int) -> None:
    assert _check(Matmul(3, 5, 7, dtype, tf32=tf32)).compute == [compute]


def test_alignment_is_told() -> None:
    """A batch moves addresses by its stride, so that the stride counts too."""
    op = Matmul(3, 5, 8, "float16", batch=2, strides=(24, 40, 15))
    library = FakeLibrary()
    tensors = {"a": 0x10000, "b": 0x10010, "d": 0x20000}
    CublasLt(0xBEEF00, WORKSPACE_BYTES, STREAM, library=library).prepare(op, tensors)
    (asked,) = library.asked
    assert (asked["align_a"], asked["align_b"], asked["align_c"], asked["align_d"]) == (16, 16, 2, 2)
    assert asked["workspace"] == WORKSPACE_BYTES


def test_an_algorithm_is_asked_for_once() -> None:
    """Where a tensor lies does not decide, so that results have the same bits in one place and another."""
    op = Matmul(3, 5, 8, "float32")
    library = FakeLibrary()
    prepared = CublasLt(0xBEEF00, WORKSPACE_BYTES, STREAM, library=library)
    for begin in (0x10000, 0x10040, 0x10200):
        prepared.prepare(op, {"a": begin, "b": begin + 0x1000, "d": begin + 0x2040})
    assert len(library.asked) == 1
    assert library.asked[0]["align_a"] == 64
    prepared.prepare(op, {"a": 0x10010, "b": 0x11000, "d": 0x12000})
    assert len(library.asked) == 2


@pytest.mark.parametrize(
    ("dtype", "asks"),
    [("float16", 2), ("bfloat16", 2), ("float32", None), ("float64", None), ("int8", None)],
)
def test_parts_of_a_sum_meet_in_the_compute_type(dtype: str, asks: int | None) -> None:
    """Schemes that add parts in the type of the result round 16-bit sums more than once."""
    (asked,) = _check(Matmul(4, 8, 16, dtype, trans_b=True)).asked
    assert asked.get("reductions") == asks


def test_a_card_that_it_cannot_use() -> None:
    class Refusing(FakeLibrary):
        def cublasLtCreate(self, pointer: Any) -> int:
            return 1

    with pytest.raises(MissingDependencyError, match="NOT_INITIALIZED"):
        CublasLt(0xBEEF00, WORKSPACE_BYTES, STREAM, library=Refusing())


def test_first_algorithm_that_runs() -> None:
    library = FakeLibrary()
    library.states = [NOT_SUPPORTED, SUCCESS]
    op = Matmul(3, 5, 7, "float32")
    tensors = _tensors(op)
    CublasLt(0xBEEF00, WORKSPACE_BYTES, STREAM, library=library).prepare(op, _addresses(tensors))()


@pytest.mark.parametrize(
    ("refuses", "states", "says"),
    [
        (NOT_SUPPORTED, [], "float32 3x5x7.*NOT_SUPPORTED"),
        (SUCCESS, [], "float32 3x5x7.*no algorithm"),
        (99, [SUCCESS], "status 99"),
        (SUCCESS, [NOT_SUPPORTED], "no algorithm"),
    ],
)
def test_refusals(refuses: int, states: list[int], says: str) -> None:
    library = FakeLibrary()
    library.refuses, library.states = refuses, states
    binding = CublasLt(0xBEEF00, WORKSPACE_BYTES, STREAM, library=library)
    op = Matmul(3, 5, 7, "float32")
    with pytest.raises(BackendError, match=says):
        binding.prepare(op, _addresses(_tensors(op)))
    gc.collect()
    assert [held["kind"] for held in library.alive.values()] == ["handle"]


@pytest.mark.parametrize(
    "wrong", [{"n": 6}, {"k": 6}, {"trans_a": True}, {"trans_b": False}, {"pitches": (18, 0, 0)}]
)
def test_integer_rules(wrong: dict[str, Any]) -> None:
    op = Matmul(**{"m": 4, "n": 8, "k": 16, "dtype": "int8", "trans_b": True, **wrong})
    with pytest.raises(BackendError, match="in fours"):
        CublasLt(0xBEEF00, WORKSPACE_BYTES, STREAM, library=FakeLibrary()).prepare(
            op, _addresses(_tensors(op))
        )


def test_real_descriptors() -> None:
    """The real library takes our descriptors and gives the values back (it needs no card for that)."""
    try:
        library = load_cublaslt()
    except MissingDependencyError as error:
        pytest.skip(str(error))

    made: dict[str, list[int]] = {}

    class Recorded(FakeLibrary):
        """Objects of the real library; it has no handle without a card."""

        def __getattribute__(self, name: str) -> Any:
            if name.startswith(("cublasLtMatmulDesc", "cublasLtMatrixLayout", "cublasLtMatmulPreference")):
                return getattr(library, name)
            return super().__getattribute__(name)

        def cublasLtMatmulAlgoGetHeuristic(self, handle: Any, *rest: Any) -> int:
            get = library.cublasLtMatrixLayoutGetAttribute
            get.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
            for name, layout in zip("abd", (rest[1], rest[2], rest[4]), strict=True):
                # TYPE, ROWS, COLS, LD, BATCH_COUNT, STRIDED_BATCH_OFFSET of cublasLt.h
                made[name] = [
                    _attribute(get, layout, i, size)
                    for i, size in ((0, 4), (2, 8), (3, 8), (4, 8), (5, 4), (6, 8))
                ]
            get = library.cublasLtMatmulDescGetAttribute
            get.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
            # COMPUTE_TYPE, SCALE_TYPE, TRANSA, TRANSB, EPILOGUE, BIAS_POINTER
            made["description"] = [
                _attribute(get, rest[0], i, size)
                for i, size in ((0, 4), (1, 4), (3, 4), (4, 4), (7, 4), (8, 8))
            ]
            return NOT_SUPPORTED

    op = Matmul(
        *(3, 5, 7, "float16", False, True),
        batch=2,
        strides=(21, 10, 5),
        pitches=(0, 20, 10),
        epilogue="Relu",
        has_bias=True,
    )
    with pytest.raises(BackendError, match="NOT_SUPPORTED"):
        CublasLt(0xBEEF00, WORKSPACE_BYTES, STREAM, library=Recorded()).prepare(
            op, {"a": 256, "b": 512, "bias": 768, "d": 1024}
        )
    assert made == {
        "a": [2, 7, 5, 20, 2, 10],
        "b": [2, 7, 3, 7, 2, 21],
        "d": [2, 5, 3, 10, 2, 5],
        "description": [68, 0, 1, 0, RELU | BIAS, 768],
    }


def _attribute(get: Any, thing: Any, attribute: int, size: int) -> int:
    value, written = ctypes.c_uint64(0), ctypes.c_size_t()
    assert get(thing, attribute, ctypes.byref(value), size, ctypes.byref(written)) == 0
    assert written.value == size
    return value.value


_HEADERS = """
#define __CUDA_FP16_H__  // which want CUDA's C++ library: sizes alone matter here
#define __CUDA_BF16_H__
struct __half { short bits; };
struct __nv_bfloat16 { short bits; };
#include <cublasLt.h>
#include <type_traits>

template <typename T> constexpr char kind() {
    return std::is_pointer_v<T> ? 'p' : sizeof(T) == 8 ? 'q' : sizeof(T) == 4 ? 'i' : '?';
}
template <typename R, typename... Args> constexpr bool takes(R (*)(Args...), const char *kinds) {
    const char found[] = {kind<Args>()..., 0};
    for (int i = 0; i <= (int)sizeof...(Args); ++i)
        if (found[i] != kinds[i]) return false;
    return sizeof(R) == 4;
}
"""


def _numbers() -> dict[str, int]:
    """Return our numbers by the names that the headers have for them."""
    own = _cublaslt
    found = {
        f"CUDA_R_{name}": getattr(own, f"_R_{name}") for name in ("32F", "64F", "16F", "8I", "32I", "16BF")
    }
    for name in ("32F", "64F", "32I", "32F_FAST_TF32"):
        found[f"CUBLAS_COMPUTE_{name}"] = getattr(own, f"_COMPUTE_{name}")
    for name in ("TRANSA", "TRANSB", "EPILOGUE", "BIAS_POINTER"):
        found[f"CUBLASLT_MATMUL_DESC_{name}"] = getattr(own, f"_DESC_{name}")
    alignments = zip("ABCD", own._PREF_ALIGNMENTS, strict=True)
    found |= {f"CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{which}_BYTES": number for which, number in alignments}
    result = "cublasLtMatmulHeuristicResult_t"
    return found | {
        "CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT": own._LAYOUT_BATCH_COUNT,
        "CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET": own._LAYOUT_BATCH_OFFSET,
        "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": own._PREF_WORKSPACE,
        "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK": own._PREF_REDUCTIONS,
        "CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE": own._REDUCTION_COMPUTE_TYPE,
        "CUBLASLT_EPILOGUE_DEFAULT": own._EPILOGUE_DEFAULT,
        "CUBLASLT_EPILOGUE_BIAS": own._EPILOGUE_BIAS,
        "CUBLASLT_EPILOGUE_RELU": own._EPILOGUES["Relu"],
        "CUBLASLT_EPILOGUE_RELU_BIAS": own._EPILOGUES["Relu"] + own._EPILOGUE_BIAS,
        "CUBLASLT_EPILOGUE_GELU": own._EPILOGUES["Gelu"],
        "CUBLASLT_EPILOGUE_GELU_BIAS": own._EPILOGUES["Gelu"] + own._EPILOGUE_BIAS,
        "CUBLAS_OP_N": 0,
        "CUBLAS_OP_T": 1,
        **{f"CUBLAS_STATUS_{name}": number for number, name in own._STATUS.items()},
        f"sizeof({result})": ctypes.sizeof(HeuristicResult),
        "sizeof(cublasLtMatmulAlgo_t)": HeuristicResult.algo.size,
        **{
            f"offsetof({result}, {theirs})": getattr(HeuristicResult, ours).offset
            for theirs, ours in (("workspaceSize", "workspace_bytes"), ("state", "state"))
        },
    }


def _kinds(signature: tuple[Any, ...]) -> str:
    """Return a letter for each argument: p for a pointer, q and i for numbers of eight and four bytes."""
    numbers = {ctypes.c_int: "i", ctypes.c_size_t: "q", ctypes.c_uint64: "q", ctypes.c_int64: "q"}
    return "".join(numbers.get(kind, "p") for kind in signature)


def _include_folder() -> Path:
    for folder in sys.path:
        for package in ("cu13", "cublas"):
            path = Path(folder, "nvidia", package, "include")
            if (path / "cublasLt.h").exists():
                return path
    pytest.skip("cuBLASLt's headers are not installed (nvidia-cublas)")


def test_numbers_and_signatures_are_those_of_the_headers() -> None:
    folder = _include_folder()
    checks = [f"static_assert({name} == {number}, {name!r});" for name, number in _numbers().items()]
    checks += [
        f"static_assert(takes({function}, {_kinds(signature)!r}), {function!r});"
        for function, signature in _cublaslt._SIGNATURES.items()
    ]
    text = _HEADERS + "\n".join(checks).replace("'", '"')
    folders = [f"-I{each}" for each in (folder, *include_folders())]
    done = subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-x", "c++", *folders, "-"],
        input=text,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
