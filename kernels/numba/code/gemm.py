"""Native code of matrix products; see `_gemm_micro` for the order of summation.

C = act(scale * A B + bias + residual), for batches. A is read where it lies, by the strides of its rows
and of k. B lies in panels of some vectors of columns: packed one behind the other, or as parts of its own
rows (then the distance between two steps of k is that of its rows).
"""

from __future__ import annotations

from onnxref.native._target import target
from onnxref.native.ops import access, arg, arg_float, device, fill_bytes

from ._gemm_micro import LOAD_C, tile
from ._gemm_transpose import transpose_block

SIZES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "uint32": 4, "uint64": 8, "float16": 2, "bfloat16": 2}
FULL_ROWS = 8 if target().registers >= 32 else 4
HALF_ROWS = FULL_ROWS // 2


def _tile_function(dtype: str, rows: int, vectors: int, panels: int = 1):
    """Return a tile as a function of its own, so that its registers are all its own."""
    compute = tile(dtype, rows, vectors, panels)

    @device
    def run(a, a_row, a_step, b, b_step, b_panel, c, c_row, m, n, k, bias, residual, flags, parameters):
        compute(a, a_row, a_step, b, b_step, b_panel, c, c_row, m, n, k, bias, residual, flags, parameters)

    return run


def _by_width(dtype: str, rows: int):
    """Return a function that computes a tile of up to `rows` rows and 3 vectors."""
    lanes = target().vector_bytes // SIZES[dtype]
    one, two, three = (_tile_function(dtype, rows, vectors) for vectors in (1, 2, 3))

    @device
    def run(a, a_row, a_step, b, b_step, c, c_row, m, n, k, bias, residual, flags, parameters):
        if n > 2 * lanes:
            three(a, a_row, a_step, b, b_step, 0, c, c_row, m, n, k, bias, residual, flags, parameters)
        elif n > lanes:
            two(a, a_row, a_step, b, b_step, 0, c, c_row, m, n, k, bias, residual, flags, parameters)
        else:
            one(a, a_row, a_step, b, b_step, 0, c, c_row, m, n, k, bias, residual, flags, parameters)

    return run


def _activator(dtype: str, activation: str):
    """Return what applies an activation to a tile of C that was stored just before."""
    if not activation:

        @device
        def nothing(c, c_row, m, n, alpha, beta):
            return

        return nothing
    from ._math import activation32

    load, store = access(dtype)
    activate = activation32(activation)

    @device
    def finish(c, c_row, m, n, alpha, beta):
        for row in range(m):
            at = c + row * c_row
            for column in range(n):
                store(at, column, activate(load(at, column), alpha, beta))

    return finish


def product(dtype: str, activation: str = ""):
    """Kernel of a product; a unit is one panel of columns of one block of rows of one matrix.

    Arguments: a, b, c, bias (0: none; n values), residual (0: none; of C's layout), table (per matrix the
    byte offsets of a, b and bias); M, N, K; bytes between rows of A, steps of k in A, steps of k in B,
    panels of B, rows of C; columns of a panel, rows of a block, steps of k in a block; flags; scale, low,
    high; alpha, beta of the activation.
    """
    size = SIZES[dtype]
    full, half, single = (_by_width(dtype, rows) for rows in (FULL_ROWS, HALF_ROWS, 1))
    pair = _tile_function(dtype, 1, 3, 2)
    lanes = target().vector_bytes // size
    finish = _activator(dtype, activation)

    @device
    def panel(p, a, b, c, n, m, k, bias, residual, flags):
        """Compute up to one panel of columns for all rows of a block."""
        a_row, a_step, b_step, c_row = arg(p, 9), arg(p, 10), arg(p, 11), arg(p, 13)
        parameters = p + 8 * 18
        i = 0
        while i < m:
            left = m - i
            own = residual + i * c_row if residual else 0
            x, y = a + i * a_row, c + i * c_row
            if left > HALF_ROWS:
                full(x, a_row, a_step, b, b_step, y, c_row, left, n, k, bias, own, flags, parameters)
            elif left > 1:
                half(x, a_row, a_step, b, b_step, y, c_row, left, n, k, bias, own, flags, parameters)
            else:
                single(x, a_row, a_step, b, b_step, y, c_row, left, n, k, bias, own, flags, parameters)
            i += FULL_ROWS if left > HALF_ROWS else HALF_ROWS

    @device
    def block(p, a, b, c, bias, residual, m, first, last, k, flags, finished):
        """Compute panels `first` to `last` of a block of rows, for `k` steps."""
        N, width, b_panel, c_row = arg(p, 7), arg(p, 14), arg(p, 12), arg(p, 13)
        g = first
        while g < last:
            j = g * width
            n = min(width, N - j)
            at, y = b + g * b_panel, c + j * size
            own = residual + j * size if residual else 0
            row = bias + j * size if bias else 0
            if m == 1 and width == 3 * lanes and g + 1 < last and j + width < N:
                n = min(2 * width, N - j)
                if n > 5 * lanes:
                    a_step, b_step = arg(p, 10), arg(p, 11)
                    pair(a, 0, a_step, at, b_step, b_panel, y, c_row, 1, n, k, row, own, flags, p + 8 * 18)
                    if finished:
                        finish(y, c_row, 1, n, arg_float(p, 21), arg_float(p, 22))
                    g += 2
                    continue
                n = width
            panel(p, a, at, y, n, m, k, row, own, flags)
            if finished:
                finish(y, c_row, m, n, arg_float(p, 21), arg_float(p, 22))
            g += 1

    def kernel(p, begin, end, thread):
        a, b, c, bias, residual, table = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        M, N, K = arg(p, 6), arg(p, 7), arg(p, 8)
        a_row, a_step, b_step, c_row = arg(p, 9), arg(p, 10), arg(p, 11), arg(p, 13)
        width, rows, steps, flags = arg(p, 14), arg(p, 15), arg(p, 16), arg(p, 17)
        panels = (N + width - 1) // width
        blocks = (M + rows - 1) // rows
        u = begin
        while u < end:
            place = u // panels
            first = u - place * panels
            last = min(panels, first + end - u)
            matrix = place // blocks
            i = (place - matrix * blocks) * rows
            m = min(rows, M - i)
            offsets = table + 24 * matrix
            x = a + arg(offsets, 0) + i * a_row
            w = b + arg(offsets, 1)
            to = (matrix * M + i) * c_row
            own = residual + to if residual else 0
            row = bias + arg(offsets, 2) if bias else 0
            k = 0
            while k < K - steps:
                again = LOAD_C if k else 0
                block(p, x + k * a_step, w + k * b_step, c + to, 0, 0, m, first, last, steps, again, False)
                k += steps
            again = flags + LOAD_C if k else flags
            block(p, x + k * a_step, w + k * b_step, c + to, row, own, m, first, last, K - k, again, True)
            u += last - first

    return kernel


def pack(dtype: str, goal: str):
    """Kernel that packs matrices B into panels; a unit is one panel of one matrix.

    Arguments: b, packed, table (as for `product`); N, K, bytes between rows of B, columns of a panel.
    """
    load, _ = access(dtype)
    _, store = access(goal)
    size, wide = SIZES[dtype], SIZES[goal]

    def kernel(p, begin, end, thread):
        b, packed, table = arg(p, 0), arg(p, 1), arg(p, 2)
        N, K, b_row, width = arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6)
        panels = (N + width - 1) // width
        for u in range(begin, end):
            matrix = u // panels
            j = (u - matrix * panels) * width
            n = min(width, N - j)
            source = b + arg(table, 3 * matrix + 1) + j * size
            goal_at = packed + u * K * width * wide
            if n < width:
                fill_bytes(goal_at, 0, K * width * wide)
            for k in range(K):
                for column in range(n):
                    store(goal_at, column, load(source, column))
                source += b_row
                goal_at += width * wide

    return kernel


def pack_transposed(dtype: str, goal: str):
    """Kernel like `pack` where the rows of B are the columns of the product."""
    load, _ = access(dtype)
    _, store = access(goal)
    size, wide = SIZES[dtype], SIZES[goal]
    lanes = target().vector_bytes // wide
    direct = transpose_block(goal) if dtype == goal else None

    @device
    def slowly(source, b_row, goal_at, step, n, k):
        for column in range(n):
            for i in range(k):
                store(goal_at + i * step, column, load(source + column * b_row, i))

    @device
    def turn(source, b_row, goal_at, step, n, k):
        if direct is not None and n == lanes and k == lanes:
            direct(source, b_row, goal_at, step)
        else:
            slowly(source, b_row, goal_at, step, n, k)

    def kernel(p, begin, end, thread):
        b, packed, table = arg(p, 0), arg(p, 1), arg(p, 2)
        N, K, b_row, width = arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6)
        panels = (N + width - 1) // width
        step = width * wide
        for u in range(begin, end):
            matrix = u // panels
            j = (u - matrix * panels) * width
            n = min(width, N - j)
            source = b + arg(table, 3 * matrix + 1) + j * b_row
            goal_at = packed + u * K * step
            if n < width:
                fill_bytes(goal_at, 0, K * step)
            for column in range(0, n, lanes):
                for k in range(0, K, lanes):
                    turn(
                        source + column * b_row + k * size,
                        b_row,
                        goal_at + k * step + column * wide,
                        step,
                        min(lanes, n - column),
                        min(lanes, K - k),
                    )

    return kernel


def convert(dtype: str, goal: str):
    """Kernel that converts elements between a type and its wider one; a unit is up to 1024 of them."""
    load, _ = access(dtype)
    _, store = access(goal)

    def kernel(p, begin, end, thread):
        x, y, count = arg(p, 0), arg(p, 1), arg(p, 2)
        for i in range(begin * 1024, min(end * 1024, count)):
            store(y, i, load(x, i))

    return kernel


def spread(dtype: str):
    """Kernel that writes factor * bias + residual in the shape of C; a unit is a row of C.

    Arguments: bias, residual (0: none), goal, offsets of the rows of bias (in bytes), N, whether the bias
    has columns, factor (float64 bits, or an integer).
    """
    load, store = access(dtype)
    size = SIZES[dtype]
    is_float = dtype.startswith("float")

    @device
    def write(source, has_columns, own, goal, n, factor):
        for j in range(n):
            value = load(source, j) if has_columns else load(source, 0)
            total = value * factor + load(own, j) if own else value * factor
            store(goal, j, _as(total))

    if is_float:
        from numba import float32, float64

        kind = float32 if dtype == "float32" else float64
    else:
        from numba import int32, int64

        kind = int32 if dtype == "int32" else int64

    @device
    def _as(value):
        return kind(value)

    def kernel(p, begin, end, thread):
        bias, residual, goal, offsets = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        n, has_columns = arg(p, 4), arg(p, 5)
        factor = arg_float(p, 6) if is_float else arg(p, 6)
        for row in range(begin, end):
            own = residual + row * n * size if residual else 0
            write(bias + arg(offsets, row), has_columns, own, goal + row * n * size, n, _as(factor))

    return kernel
