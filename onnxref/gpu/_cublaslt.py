"""Matrix products by NVIDIA's cuBLASLt, bound with ctypes: no CuPy, no second copy of the library.

The library's matrices lie column by column. A row-major matrix is the transpose of a column-major one of the
same memory, so it is asked for D' = op(B)' op(A)': our B is its A, rows and columns change places, and a
bias of n elements lies along its rows, which is where its bias epilogue adds one.

Numbers of enumerators and layouts of structures: cublasLt.h, cublas_api.h and library_types.h of CUDA 13.0
(nvidia-cublas 13.0.2); those of CUDA 12 are the same.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BackendError, MissingDependencyError
from ._installed import installed_libraries
from ._launch import LibraryRefusalError, Matmul

_MOST_ALIGNMENT = 64  # bytes; what every tensor of its own has, so that its place decides nothing
_ASKED = 4  # algorithms; the first that the library can run is taken

# cudaDataType_t, of A and B, of the sums and factors, of C and D; cublasComputeType_t.
_R_32F, _R_64F, _R_16F, _R_8I, _R_32I, _R_16BF = 0, 1, 2, 3, 10, 14
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32I, _COMPUTE_32F_FAST_TF32 = 68, 70, 72, 77

# cublasLtMatmulDescAttributes_t
_DESC_TRANSA, _DESC_TRANSB, _DESC_EPILOGUE, _DESC_BIAS_POINTER = 3, 4, 7, 8
# cublasLtMatrixLayoutAttribute_t
_LAYOUT_BATCH_COUNT, _LAYOUT_BATCH_OFFSET = 5, 6
# cublasLtMatmulPreferenceAttributes_t; alignments of A, B, C, D
_PREF_WORKSPACE, _PREF_REDUCTIONS, _PREF_ALIGNMENTS = 1, 3, (5, 6, 7, 8)
# cublasLtReductionScheme_t: parts of a sum over K that several blocks share meet in the compute type. The
# other schemes add them in D's type, which would round 16-bit sums more than once.
_REDUCTION_COMPUTE_TYPE = 2
# cublasLtEpilogue_t; with a bias _EPILOGUE_BIAS is added to RELU and GELU, and stands alone for none.
_EPILOGUES = {"": 0, "Relu": 2, "Gelu": 32}
_EPILOGUE_DEFAULT, _EPILOGUE_BIAS = 1, 4

_STATUS = {
    1: "NOT_INITIALIZED",
    3: "ALLOC_FAILED",
    7: "INVALID_VALUE",
    8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED",
    14: "INTERNAL_ERROR",
    15: "NOT_SUPPORTED",
    16: "LICENSE_ERROR",
}


class HeuristicResult(ctypes.Structure):
    """`cublasLtMatmulHeuristicResult_t`."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8),
        ("workspace_bytes", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@dataclass(frozen=True, slots=True)
class _Types:
    """How the library is told of an element type."""

    given: int
    result: int
    scale: int
    compute: int
    factor: type[Any]
    size: int
    result_size: int


_TYPES = {
    "float32": _Types(_R_32F, _R_32F, _R_32F, _COMPUTE_32F, ctypes.c_float, 4, 4),
    "float16": _Types(_R_16F, _R_16F, _R_32F, _COMPUTE_32F, ctypes.c_float, 2, 2),
    "bfloat16": _Types(_R_16BF, _R_16BF, _R_32F, _COMPUTE_32F, ctypes.c_float, 2, 2),
    "float64": _Types(_R_64F, _R_64F, _R_64F, _COMPUTE_64F, ctypes.c_double, 8, 8),
    "int8": _Types(_R_8I, _R_32I, _R_32I, _COMPUTE_32I, ctypes.c_int32, 1, 4),
}

_HANDLE = ctypes.c_void_p
_OUT = ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (_OUT,),
    "cublasLtDestroy": (_HANDLE,),
    "cublasLtMatmulDescCreate": (_OUT, ctypes.c_int, ctypes.c_int),
    "cublasLtMatmulDescDestroy": (_HANDLE,),
    "cublasLtMatmulDescSetAttribute": (_HANDLE, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t),
    "cublasLtMatrixLayoutCreate": (_OUT, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
    "cublasLtMatrixLayoutDestroy": (_HANDLE,),
    "cublasLtMatrixLayoutSetAttribute": (_HANDLE, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t),
    "cublasLtMatmulPreferenceCreate": (_OUT,),
    "cublasLtMatmulPreferenceDestroy": (_HANDLE,),
    "cublasLtMatmulPreferenceSetAttribute": (_HANDLE, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t),
    "cublasLtMatmulAlgoGetHeuristic": (*[_HANDLE] * 7, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
    # handle, description, alpha, A, its layout, B, ..., beta, C, ..., D, ..., algorithm, workspace, ...
    "cublasLtMatmul": (*[ctypes.c_void_p] * 14, ctypes.c_size_t, ctypes.c_void_p),
}


def load_cublaslt() -> Any:
    """Return the library, from pip's packages of NVIDIA or from the system.

    Raises:
        MissingDependencyError: it is not installed.
    """
    tried = []
    for name in installed_libraries("cublasLt", ("cu13", 13), ("cublas", 13), ("cublas", 12)):
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            tried.append(str(error))
            continue
        for function, signature in _SIGNATURES.items():
            found = getattr(library, function)
            found.argtypes, found.restype = signature, ctypes.c_int
        return library
    raise MissingDependencyError(f"cuBLASLt is not installed ({'; '.join(tried)})")


class PreparedMatmul:
    """A product with its descriptors and its algorithm; calling it adds it to the stream."""

    def __init__(self, check: Callable[[str, int], None], call: Callable[..., int], name: str) -> None:
        self._check = check
        self._call = call
        self._name = name
        self.arguments: tuple[Any, ...] = ()
        self.held: list[Any] = []

    def __call__(self) -> None:
        self._check(self._name, self._call(*self.arguments))


class CublasLt:
    """One handle of the library.

    Args:
        workspace: address of memory of the device that the products may use one after the other.
        workspace_bytes: its size.
        stream: that all products go to.
        library: the library, or what stands in for it.

    Raises:
        MissingDependencyError: it is not installed, or cannot work with this card and driver.
    """

    def __init__(self, workspace: int, workspace_bytes: int, stream: int, library: Any | None = None) -> None:
        self._library = load_cublaslt() if library is None else library
        self._workspace = workspace
        self._workspace_bytes = workspace_bytes
        self._stream = stream
        self._algorithms: dict[tuple[Matmul, tuple[int, ...]], HeuristicResult] = {}
        self._handle = ctypes.c_void_p()
        try:
            self._check("cublasLtCreate", self._library.cublasLtCreate(ctypes.byref(self._handle)))
        except BackendError as error:
            raise MissingDependencyError(f"cuBLASLt is no use here: {error}") from error
        # Not at the end of the process: the driver may be gone by then.
        weakref.finalize(self, self._library.cublasLtDestroy, self._handle).atexit = False

    def prepare(self, op: Matmul, tensors: Mapping[str, int]) -> PreparedMatmul:
        """Return a product over addresses, ready to run or to be captured.

        Args:
            tensors: addresses by role: a, b, d, and bias and residual where `op` has them.

        Raises:
            LibraryRefusalError: the library does not do it; the message names the product.
        """
        try:
            return self._prepared(op, tensors)
        except BackendError as error:
            raise LibraryRefusalError(op, str(error)) from error

    def _prepared(self, op: Matmul, tensors: Mapping[str, int]) -> PreparedMatmul:
        types = _TYPES[op.dtype]
        pitch_a, pitch_b, pitch_d = op.pitches
        is_odd = op.n % 4 or op.k % 4 or pitch_a % 4 or pitch_b % 4
        if types.compute == _COMPUTE_32I and (is_odd or op.trans_a or not op.trans_b):
            raise BackendError(
                f"{op}: 8-bit products want n, k and pitches in fours, rows of A and columns of B"
            )
        made = PreparedMatmul(self._check, self._library.cublasLtMatmul, str(op))
        description = self._describe(op, tensors, types, made)
        # The library's A is our B: (n, k) column by column as it lies, (k, n) where it is transposed.
        stride_a, stride_b, stride_d = op.strides
        extents_b = (op.k, op.n) if op.trans_b else (op.n, op.k)
        extents_a = (op.m, op.k) if op.trans_a else (op.k, op.m)
        left = self._layout(op, types.given, extents_b, pitch_b, stride_b, made)
        right = self._layout(op, types.given, extents_a, pitch_a, stride_a, made)
        goal = self._layout(op, types.result, (op.n, op.m), pitch_d, stride_d, made)
        residual, added = goal, tensors["d"]
        if op.has_residual:
            added = tensors["residual"]
            if op.residual_pitch is not None:
                residual = self._layout(op, types.result, (op.n, op.m), op.residual_pitch, stride_d, made)
        pointers = (tensors["b"], tensors["a"], added, tensors["d"])
        strides = [stride * types.size for stride in (stride_b, stride_a)] + [
            stride_d * types.result_size
        ] * 2
        # An address moves by the stride from matrix to matrix.
        alignments = tuple([_alignment(p | s) for p, s in zip(pointers, strides, strict=True)])
        algorithm = self._algorithms.get((op, alignments))
        if algorithm is None:
            algorithm = self._choose(op, (description, left, right, residual, goal), alignments)
            self._algorithms[op, alignments] = algorithm
        alpha = types.factor(int(op.alpha) if types.factor is ctypes.c_int32 else op.alpha)
        beta = types.factor(1 if op.has_residual else 0)
        made.held += [alpha, beta, algorithm]
        made.arguments = (
            *(self._handle, description, ctypes.addressof(alpha)),
            *(pointers[0], left, pointers[1], right, ctypes.addressof(beta)),
            *(pointers[2], residual, pointers[3], goal),
            *(ctypes.addressof(algorithm.algo), self._workspace, self._workspace_bytes, self._stream),
        )
        return made

    def _describe(
        self, op: Matmul, tensors: Mapping[str, int], types: _Types, made: PreparedMatmul
    ) -> ctypes.c_void_p:
        compute = _COMPUTE_32F_FAST_TF32 if op.tf32 and op.dtype == "float32" else types.compute
        description = self._make(made, "MatmulDesc", compute, types.scale)
        epilogue = (_EPILOGUES[op.epilogue] + _EPILOGUE_BIAS * op.has_bias) or _EPILOGUE_DEFAULT
        attributes: list[tuple[int, Any]] = [
            (_DESC_TRANSA, ctypes.c_int32(op.trans_b)),
            (_DESC_TRANSB, ctypes.c_int32(op.trans_a)),
            (_DESC_EPILOGUE, ctypes.c_uint32(epilogue)),
        ]
        if op.has_bias:
            attributes.append((_DESC_BIAS_POINTER, ctypes.c_void_p(tensors["bias"])))
        for attribute, value in attributes:
            self._set("MatmulDesc", description, attribute, value)
        return description

    def _layout(
        self, op: Matmul, dtype: int, extents: tuple[int, int], pitch: int, stride: int, made: PreparedMatmul
    ) -> ctypes.c_void_p:
        """Describe column-major matrices of (rows, columns), `pitch` elements from column to column."""
        layout = self._make(made, "MatrixLayout", dtype, *extents, pitch or max(1, extents[0]))
        if op.batch > 1:
            self._set("MatrixLayout", layout, _LAYOUT_BATCH_COUNT, ctypes.c_int32(op.batch))
            self._set("MatrixLayout", layout, _LAYOUT_BATCH_OFFSET, ctypes.c_int64(stride))
        return layout

    def _choose(
        self, op: Matmul, described: tuple[ctypes.c_void_p, ...], alignments: Sequence[int]
    ) -> HeuristicResult:
        """Ask for algorithms, and return the first that can run."""
        asking = PreparedMatmul(self._check, self._library.cublasLtMatmul, str(op))  # holds the preference
        preference = self._make(asking, "MatmulPreference")
        self._set("MatmulPreference", preference, _PREF_WORKSPACE, ctypes.c_uint64(self._workspace_bytes))
        if _TYPES[op.dtype].result_size == 2:
            reductions = ctypes.c_uint32(_REDUCTION_COMPUTE_TYPE)
            self._set("MatmulPreference", preference, _PREF_REDUCTIONS, reductions)
        for attribute, bytes_ in zip(_PREF_ALIGNMENTS, alignments, strict=True):
            self._set("MatmulPreference", preference, attribute, ctypes.c_uint32(bytes_))
        results = (HeuristicResult * _ASKED)()
        count = ctypes.c_int()
        status = self._library.cublasLtMatmulAlgoGetHeuristic(
            self._handle,
            *described,
            preference,
            _ASKED,
            ctypes.addressof(results),
            ctypes.addressof(count),
        )
        self._check(str(op), status)
        for result in results[: count.value]:
            if result.state == 0:
                return result
        raise BackendError(f"{op}: cuBLASLt has no algorithm for it")

    def _make(self, made: PreparedMatmul, what: str, *arguments: int) -> ctypes.c_void_p:
        """Create an object of the library; it goes when `made` does."""
        pointer = ctypes.c_void_p()
        create = getattr(self._library, f"cublasLt{what}Create")
        self._check(f"cublasLt{what}Create", create(ctypes.byref(pointer), *arguments))
        weakref.finalize(made, getattr(self._library, f"cublasLt{what}Destroy"), pointer).atexit = False
        return pointer

    def _set(self, what: str, thing: ctypes.c_void_p, attribute: int, value: Any) -> None:
        function = getattr(self._library, f"cublasLt{what}SetAttribute")
        status = function(thing, attribute, ctypes.addressof(value), ctypes.sizeof(value))
        self._check(f"cublasLt{what}SetAttribute({attribute})", status)

    def _check(self, what: str, status: int) -> None:
        if status:
            raise BackendError(f"{what}: cuBLASLt says {_STATUS.get(status, f'status {status}')}")


def _alignment(bits: int) -> int:
    """Return the largest power of two, up to what is asked for, that divides an address and its stride."""
    return min(_MOST_ALIGNMENT, bits & -bits) if bits else _MOST_ALIGNMENT
