"""TopK with a constant k, exact, in the order of the reference: equals by index, NaN above all numbers.

Rows are sorted in shared memory; of longer ones the first k of each piece go on, until they fit. Where k
is too large for that, all pieces are sorted and merged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxref.dtypes import DType
from onnxref.gpu import CTYPES, Kernel, cuda_kernel
from onnxref.lowering import Operand, Scratch, Site, Unsupported, lower

from ._rows import FLOATS, INTEGERS, power_above

_CODE = "onnxref.kernels.cupy.code"
_FILE = "selection.cu"
_SHARED = 32768  # bytes of pairs that a block sorts
_NAN_ABOVE = {
    "float16": "0x7c00",
    "bfloat16": "0x7f80",
    "float32": "0x7f800000",
    "float64": "0x7ff0000000000000ull",
}


@lower("TopK", since=1, backend="cupy")
def top_k_1(site: Site, x: Operand, *, k: int, axis: int = -1) -> None:
    """ONNX TopK-1, exact."""
    _top_k(site, x, k, axis, largest=True)


@lower("TopK", since=10, backend="cupy")
def top_k_10(site: Site, x: Operand, k: Operand, *, axis: int = -1) -> None:
    """ONNX TopK-10, exact."""
    _top_k(site, x, _constant(k), axis, largest=True)


@lower("TopK", since=(11, 24), backend="cupy")
def top_k(site: Site, x: Operand, k: Operand, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> None:
    """ONNX TopK-24, exact; it sorts whether it is asked to or not."""
    _top_k(site, x, _constant(k), axis, largest=bool(largest))


def _constant(k: Operand) -> int:
    if k.constant is None or k.size != 1:
        raise Unsupported("k is not constant")
    return int(k.constant.reshape(-1)[0])


def _top_k(site: Site, x: Operand, k: int, axis: int, *, largest: bool) -> None:
    if x.dtype.name not in (*FLOATS, *INTEGERS) or x.layout:
        raise Unsupported(f"the first elements of {x}")
    if not -x.ndim <= axis < x.ndim or not 0 <= k <= x.shape[axis]:
        raise Unsupported("k or the axis is out of range")
    axis %= x.ndim
    if k == 0 or x.size == 0:
        return
    if x.shape[axis] >= 2**31 - 2**16:
        raise Unsupported("the axis is too long")
    _Sort(site, x, k, axis, largest).emit()


class _Sort:
    """The launches of one TopK.

    Attributes:
        width: elements of a piece, a power of two.
        pair: bytes of a key with its index.
    """

    def __init__(self, site: Site, x: Operand, k: int, axis: int, largest: bool) -> None:
        self.site, self.x, self.k = site, x, k
        self.n, self.inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
        self.rows = math.prod(x.shape[:axis]) * self.inner
        self.pair = 16 if x.dtype.itemsize == 8 else 8
        self.most = _SHARED // self.pair
        self.defines = _defines(x.dtype, largest)
        values, indices = (*site.outputs, None, None)[:2]
        self.goals: tuple[Any, Any] = (values or 0, indices or 0)

    def emit(self) -> None:
        if self.n <= self.most:
            self._sort_pieces(self.x, self.n, last=True)
        elif 2 * self.k <= self.most:
            source: Operand | Scratch = self.x
            given = self.n
            while given > self.most:
                source = self._sort_pieces(source, given, last=False)
                given = -(-given // self.most) * self.k
            self._sort_pieces(source, given, last=True)
        else:
            self._sort_all()

    def _kernel(self, entry: str, source: Operand | Scratch, last: bool) -> Kernel:
        states = {"FROM_PAIRS": int(source is not self.x), "TO_PAIRS": int(not last)}
        return cuda_kernel(_CODE, _FILE, entry, **self.defines, **states)

    def _sort_pieces(
        self, source: Operand | Scratch, given: int, *, last: bool, keep: int | None = None
    ) -> Scratch | Operand:
        """Sort pieces of rows of `given` elements or pairs; return where the first of each went."""
        keep = keep or self.k
        width = min(self.most, max(2, power_above(given)))
        parts = -(-given // width)
        # Short rows share a block of up to 1024 elements.
        together = max(1, min(1024 // width, self.rows)) if parts == 1 else 1
        made = source if last else self.site.scratch(self.rows * parts * keep * self.pair)
        threads = min(1024, max(32, width * together // 4 // 32 * 32))
        self.site.launch(
            self._kernel("sort_pieces", source, last),
            *(source, self.x, 0 if last else made, *(self.goals if last else (0, 0))),
            *(self.rows, self.n, given, self.inner, parts, width, keep, together),
            grid=(-(-self.rows * parts // together), 1, 1),
            block=(threads, 1, 1),
            shared=width * together * self.pair,
        )
        return made

    def _sort_all(self) -> None:
        """Sort whole rows: pieces first, then merge them, two and two."""
        # Pieces are kept whole: those past the row's end hold what comes last of all.
        run = self.most
        padded = -(-self.n // run) * run
        total = self.rows * padded
        source = self._sort_pieces(self.x, self.n, last=False, keep=run)
        while run < padded:
            goal = self.site.scratch(total * self.pair)
            self.site.launch(
                self._kernel("merge_runs", source, True),
                *(source, goal, total, padded, run),
                grid=(-(-total // 256), 1, 1),
            )
            source, run = goal, 2 * run
        count = self.rows * self.k
        self.site.launch(
            self._kernel("take_pairs", source, True),
            *(source, self.x, *self.goals, count, padded, self.n, self.inner, self.k),
            grid=(-(-count // 256), 1, 1),
        )


def _defines(dtype: DType, largest: bool) -> dict[str, str | int]:
    is_float = dtype.name in FLOATS
    return {
        "T": CTYPES[dtype.name],
        "K": "uint64_t" if dtype.itemsize == 8 else "uint32_t",
        "BITS": 8 * dtype.itemsize,
        "KIND": 2 if is_float else int(np.dtype(dtype).kind == "i"),
        "NAN_ABOVE": _NAN_ABOVE.get(dtype.name, "0"),
        "LARGEST": int(largest),
    }
