"""CumSum and CumProd: rows by groups of threads, columns by a thread each.

Sums are taken in a fixed order, but not in that of the reference: within 4e-6 of the sum of magnitudes so
far (of the product) for float32, 1e-13 for float64, and one rounding for the 16-bit types; integers are
exact.
"""

from __future__ import annotations

from onnxref.gpu import CTYPES, cuda_kernel
from onnxref.lowering import Operand, Site, Unsupported

from ..common.reduction import SCAN, Scan
from ._rows import BUSY, FLOATS, INTEGERS, power_above, vector_width

_CODE = "onnxref.kernels.cupy.code"
_FILE = "scan.cu"
_THREADS = 256


def _scan(site: Site, asked: Scan) -> None:
    x, y, (outer, n, inner) = asked.x, asked.y, asked.extents
    if x.dtype.name not in (*FLOATS, *INTEGERS) or x.layout or y.layout:
        raise Unsupported(f"a scan of {x}")
    if x.size == 0:
        return
    # -0 leaves every number as it is, -0 among them.
    zero = "(-0.0)" if x.dtype.name in FLOATS else "0"
    floats = {"float64": "double"}.get(x.dtype.name, "float")
    integers = "uint64_t" if x.dtype.kind == "u" else "int64_t"
    defines: dict[str, str | int] = {
        "COMBINE": "Product" if asked.is_product else "Sum",
        "FIRST": "1" if asked.is_product else zero,
        "IDENTITY": "1" if asked.is_product else "0",
        "T": CTYPES[x.dtype.name],
        "A": floats if x.dtype.name in FLOATS else integers,
        "EXCLUSIVE": int(asked.exclusive),
        "REVERSE": int(asked.reverse),
    }
    site.may_overwrite(y, x)
    if inner == 1:
        _rows(site, x, y, outer, n, defines)
    else:
        _columns(site, x, y, (outer, n, inner), defines)


SCAN.register("cupy", _scan)


def _rows(site: Site, x: Operand, y: Operand, rows: int, n: int, defines: dict[str, str | int]) -> None:
    vec = vector_width(x.dtype.itemsize, n)
    vectors = n // vec
    if vectors <= 128:
        group, parts, length = min(32, power_above(vectors)), 1, n
    else:
        group = 0
        # Parts of at least sixteen accesses a thread.
        wanted = 1 if site.precision == "strict" else rows
        parts = max(1, min(BUSY // (wanted * _THREADS), vectors // (_THREADS * 16)))
        length = -(-vectors // parts) * vec
        parts = -(-n // length)
    full: dict[str, str | int] = {**defines, "VEC": vec, "GROUP": group}
    block, units = (_THREADS, 1, 1), rows * parts
    totals = site.scratch(units * 8) if parts > 1 else None
    if totals is not None:
        kernel = cuda_kernel(_CODE, _FILE, "part_totals", **full)
        site.launch(kernel, x, totals, n, parts, length, grid=(units, 1, 1), block=block)
    kernel = cuda_kernel(_CODE, _FILE, "scan_rows", **full)
    grid = -(-units * group // _THREADS) if group else units
    site.launch(kernel, x, y, totals or 0, rows, n, parts, length, grid=(grid, 1, 1), block=block)


def _columns(
    site: Site, x: Operand, y: Operand, extents: tuple[int, int, int], defines: dict[str, str | int]
) -> None:
    outer, n, inner = extents
    vec = min(4, vector_width(x.dtype.itemsize, inner))
    columns = (1 if site.precision == "strict" else outer) * (inner // vec)
    along = min(32, max(1, n // 8), -(-BUSY // columns))
    along = power_above(along + 1) // 2
    block = (_THREADS // along, along, 1)
    site.launch(
        cuda_kernel(_CODE, _FILE, "scan_columns", **defines, VEC=vec, GROUP=0),
        *(x, y, outer, n, inner, -(-n // along)),
        grid=(-(-outer * (inner // vec) // block[0]), 1, 1),
        block=block,
        shared=_THREADS * vec * 8 if along > 1 else 0,
    )
