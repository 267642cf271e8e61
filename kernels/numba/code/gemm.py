"""Native code of matrix products; see `_gemm_micro` for the order of summation.

C = act(scale * A B + bias + residual), for batches. A is read where it lies, by the strides of its rows
and of k. B lies in panels of some vectors of columns: packed one behind the other, or as parts of its own
rows (then the distance between two steps of k is that of its rows).
"""

from __future__ import annotations

from onnxref.native._target import target
from onnxref.native.ops import access, arg, arg_float, device, fill_bytes

from ._gemm_micro import LINE, LOAD_C, copy_panel, tile
from ._gemm_transpose import transpose_block

SIZES = {
    "float32": 4,
    "float64": 8,
    "int32": 4,
    "int64": 8,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
}
FULL_ROWS = 8 if target().registers >= 32 else 4
HALF_ROWS = FULL_ROWS // 2
FAR = 4096  # how many bytes before their use a product of few rows asks for the elements of B


def activator(dtype: str, activation: str):
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


def panel_turner(dtype: str, goal: str):
    """Return what packs a panel of B whose columns lie as rows.

    Its arguments: source, bytes between those rows, goal, bytes between the goal's rows, n columns, k.
    """
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

    @device
    def turn_panel(source, b_row, goal_at, step, n, k):
        for column in range(0, n, lanes):
            for i in range(0, k, lanes):
                part = source + column * b_row + i * size
                to = goal_at + i * step + column * wide
                turn(part, b_row, to, step, min(lanes, n - column), min(lanes, k - i))

    return turn_panel


def product(dtype: str, activation: str = "", packs: bool = False, bf16: str = ""):
    """Kernel of a product; a unit is one panel of columns of one block of rows of one matrix.

    Arguments: a, b, c, bias (0: none; n values), residual (0: none; of C's layout), table (per matrix the
    byte offsets of a and b); M, N, K; bytes between rows of A, steps of k in A, steps of k in B,
    panels of B, rows of C; columns of a panel, rows of a block, steps of k in a block; flags; scale, low,
    high; alpha, beta of the activation; where it `packs` the rows of B itself, panel by panel, scratch and
    its bytes per thread.

    `bf16` as of `tile`: then K counts pairs.
    """
    size = SIZES[dtype]
    lanes = target().vector_bytes // size
    # Each tile is called at one place only, from here and not from a function of its own: Numba would
    # optimise its code again for every level of calls. One row of one vector waits for its additions
    # so long that more rows cost the same; hence no tiles for that.
    full1, full2, full3 = (tile(dtype, FULL_ROWS, vectors, bf16=bf16) for vectors in (1, 2, 3))
    half2, half3 = (tile(dtype, HALF_ROWS, vectors, 1, True, bf16) for vectors in (2, 3))
    pair2, pair3 = (tile(dtype, 1, vectors, 2, True, bf16) for vectors in (2, 3))
    finish = activator(dtype, activation)
    copy1, copy2, copy3 = (copy_panel(dtype, vectors) for vectors in (1, 2, 3))

    def kernel(p, begin, end, thread):
        a, b, c, bias, residual, table = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        M, N, K = arg(p, 6), arg(p, 7), arg(p, 8)
        ar, ak, bk, bp, cr = arg(p, 9), arg(p, 10), arg(p, 11), arg(p, 12), arg(p, 13)
        width, rows, steps, flags = arg(p, 14), arg(p, 15), arg(p, 16), arg(p, 17)
        nums = p + 8 * 18
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
            to = (matrix * M + i) * cr
            block_a = a + arg(table, 2 * matrix) + i * ar
            block_b = b + arg(table, 2 * matrix + 1)
            pairs = m == 1 and width > lanes and not packs
            # All tiles together fetch the panel that follows, each an equal part, line by line.
            share = 0
            if bk == size * width and m > HALF_ROWS:
                share = min(LINE, (bk * FULL_ROWS // m + 15) // 16 * 16)
            done = 0
            while done == 0 or done < K:
                k = min(steps, K - done)
                todo = LOAD_C if done else 0
                row, own, is_last = 0, 0, done + k >= K
                if is_last:
                    todo += flags
                g = first
                while g < last:
                    j = g * width
                    n = min(width, N - j)
                    w = block_b + g * bp
                    soon = w + bp if g + 1 < last else block_b + first * bp + k * bk
                    if pairs and g + 1 < last and N - j > 2 * width - lanes:
                        n = min(2 * width, N - j)
                    g += 2 if n > width else 1
                    if packs:
                        held = arg(p, 23) + thread * arg(p, 24)
                        if n > 2 * lanes:
                            copy3(w, bk, held, width * size, n, k)
                        elif n > lanes:
                            copy2(w, bk, held, width * size, n, k)
                        else:
                            copy1(w, bk, held, width * size, n, k)
                        w, soon, wk = held, held, width * size
                    else:
                        wk = bk
                    if is_last:
                        row = bias + j * size if bias else 0
                    for i in range(0, m, FULL_ROWS):
                        x, y, left = block_a + i * ar, c + to + i * cr + j * size, m - i
                        if is_last:
                            own = residual + to + i * cr + j * size if residual else 0
                        near, nk = soon, share
                        if left <= HALF_ROWS:  # bound by memory: each tile fetches its own elements of B
                            near, nk = w + FAR, wk
                        if n > 4 * lanes:
                            pair3(x, ar, ak, w, wk, bp, near, nk, y, cr, left, n, k, row, own, todo, nums)
                        elif n > width:
                            pair2(x, ar, ak, w, wk, bp, near, nk, y, cr, left, n, k, row, own, todo, nums)
                        elif n > 2 * lanes:
                            if left > HALF_ROWS:
                                full3(x, ar, ak, w, wk, bp, near, nk, y, cr, left, n, k, row, own, todo, nums)
                            else:
                                half3(x, ar, ak, w, wk, bp, near, nk, y, cr, left, n, k, row, own, todo, nums)
                        elif n > lanes:
                            if left > HALF_ROWS:
                                full2(x, ar, ak, w, wk, bp, near, nk, y, cr, left, n, k, row, own, todo, nums)
                            else:
                                half2(x, ar, ak, w, wk, bp, near, nk, y, cr, left, n, k, row, own, todo, nums)
                        else:
                            full1(x, ar, ak, w, wk, bp, near, nk, y, cr, left, n, k, row, own, todo, nums)
                        soon += k * share
                    if is_last:
                        finish(c + to + j * size, cr, m, n, arg_float(p, 21), arg_float(p, 22))
                block_a += k * ak
                block_b += k * bk
                done += max(k, 1)
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
            source = b + arg(table, 2 * matrix + 1) + j * size
            goal_at = packed + u * K * width * wide
            if n < width:
                fill_bytes(goal_at, 0, K * width * wide)
            for _ in range(K):
                for column in range(n):
                    store(goal_at, column, load(source, column))
                source += b_row
                goal_at += width * wide

    return kernel


def pack_transposed(dtype: str, goal: str):
    """Kernel like `pack` where the rows of B are the columns of the product."""
    turn_panel = panel_turner(dtype, goal)
    wide = SIZES[goal]

    def kernel(p, begin, end, thread):
        b, packed, table = arg(p, 0), arg(p, 1), arg(p, 2)
        N, K, b_row, width = arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6)
        panels = (N + width - 1) // width
        step = width * wide
        for u in range(begin, end):
            matrix = u // panels
            j = (u - matrix * panels) * width
            n = min(width, N - j)
            source = b + arg(table, 2 * matrix + 1) + j * b_row
            goal_at = packed + u * K * step
            if n < width:
                fill_bytes(goal_at, 0, K * step)
            turn_panel(source, b_row, goal_at, step, n, K)

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
