"""Native code of RNN, GRU and LSTM (float32).

Letters: S steps, N batch, H hidden size, D directions, G gates, L lanes of a vector. A row of gates lies
gate by gate, each padded with zeros to a multiple of L, the whole to a multiple of half a panel.
Weights lie in panels of VECTORS vectors, `[panel][k][VECTORS * L]`, so that a product streams through
them; the last panel may be half as wide.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native._target import target
from onnxref.native.ops import F32, access, arg, arg_float, copy_bytes, device, fill_bytes
from onnxref.native.vectors import Vectors

from ._math import expm1_32, sigmoid32, softplus32, tanh32

LANES = target().lanes
VECTORS = 8 if target().registers == 32 else 4  # of a panel: with 3 rows they fill the registers
WIDTH = VECTORS * LANES
DEPTH = 64  # rows of a panel that stay in the first cache while all rows of the batch pass

_load, _store = access("float32")
_load_int, _ = access("int32")

# Products -------------------------------------------------------------------------------------


def _tile(rows: int, vectors: int):
    """Return `multiply(a, a_stride, b, b_stride, start, start_stride, c, c_stride, k)`: C = start + A B.

    Strides are in bytes; k is at least 1. Each element is one chain of fused multiply-adds over k.
    """

    @intrinsic
    def multiply(context, a, a_stride, b, b_stride, start, start_stride, c, c_stride, k):
        def generate(ctx, builder, signature, values):
            a, a_stride, b, b_stride, start, start_stride, c, c_stride, k = values
            v = Vectors(builder, F32, LANES)

            def row(base, stride, i):
                return builder.add(base, builder.mul(stride, ir.Constant(stride.type, i))) if i else base

            a_rows = [row(a, a_stride, i) for i in range(rows)]
            sums = [
                v.load(row(start, start_stride, i), offset=j * v.nbytes)
                for i in range(rows)
                for j in range(vectors)
            ]

            def step(index, held):
                place = builder.mul(index, b_stride)
                element = v.mul(index, 4)
                left = [v.broadcast(base, index=element) for base in a_rows]
                result = list(held)
                for j in range(vectors):
                    right = v.load(b, offset=j * v.nbytes, index=place)
                    for i in range(rows):
                        at = i * vectors + j
                        result[at] = v.fma(left[i], right, held[at])
                return result

            sums = v.loop(k, sums, step)
            for i in range(rows):
                for j in range(vectors):
                    v.store(sums[i * vectors + j], row(c, c_stride, i), offset=j * v.nbytes)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return multiply


def block(vectors: int, high: int, middle: int):
    """Return `multiply`, as of a tile, for any number of rows: tiles of two heights and single rows."""
    _high, _middle, _low = _tile(high, vectors), _tile(middle, vectors), _tile(1, vectors)

    @device
    def multiply(a, a_stride, b, b_stride, start, start_stride, c, c_stride, k, rows):
        i = 0
        while i + high <= rows:
            _high(a, a_stride, b, b_stride, start, start_stride, c, c_stride, k)
            a, start, c, i = a + high * a_stride, start + high * start_stride, c + high * c_stride, i + high
        while i + middle <= rows:
            _middle(a, a_stride, b, b_stride, start, start_stride, c, c_stride, k)
            a, start, c, i = (
                a + middle * a_stride,
                start + middle * start_stride,
                c + middle * c_stride,
                i + middle,
            )
        while i < rows:
            _low(a, a_stride, b, b_stride, start, start_stride, c, c_stride, k)
            a, start, c, i = a + a_stride, start + start_stride, c + c_stride, i + 1

    return multiply


_whole = block(VECTORS, 3, 2)
_half = block(VECTORS // 2, 6, 3)


@device
def _panel(a, a_stride, b, start, start_stride, c, c_stride, rows, k, width, backwards):
    """C = start + A B for `rows` rows of one panel of `width`; strides in bytes, C and start at the panel.

    Args:
        backwards: take the pieces of k from the last to the first.
    """
    pieces = (k + DEPTH - 1) // DEPTH
    b_stride = 4 * width
    for index in range(pieces):
        done = DEPTH * (pieces - 1 - index if backwards else index)
        depth = min(DEPTH, k - done)
        a_piece, b_piece = a + 4 * done, b + done * b_stride
        if width == WIDTH:
            _whole(a_piece, a_stride, b_piece, b_stride, start, start_stride, c, c_stride, depth, rows)
        else:
            _half(a_piece, a_stride, b_piece, b_stride, start, start_stride, c, c_stride, depth, rows)
        start = c
        start_stride = c_stride


@device
def _product(a, a_stride, b, start, start_stride, c, c_stride, rows, k, width, backwards):
    """C = start + A B for rows of `width` elements.

    Steps go through B to and fro: what one read last is what the next reads first, from the nearer cache.
    """
    panels = (width + WIDTH - 1) // WIDTH
    for index in range(panels):
        column = WIDTH * (panels - 1 - index if backwards else index)
        place = 4 * column
        _panel(a, a_stride, b + k * place, start + place, start_stride, c + place, c_stride, rows, k,
               min(WIDTH, width - column), backwards)  # fmt: skip


def pack_weights():
    """Kernel that puts rows `(D, G * H, K)` into panels; one unit is one panel."""

    def kernel(p, begin, end, thread):
        goal, source, gates, hidden, padded, k, panels = (
            arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6))  # fmt: skip
        first, all_gates, width = arg(p, 7), arg(p, 8), arg(p, 9)
        for unit in range(begin, end):
            d = unit // panels
            panel = unit - d * panels
            wide = min(WIDTH, width - panel * WIDTH)
            place = goal + 4 * (d * width + panel * WIDTH) * k
            for column in range(wide):
                at = panel * WIDTH + column
                gate = at // padded
                j = at - gate * padded
                base = (d * all_gates + first + gate) * hidden + j
                there = gate < gates and j < hidden
                for i in range(k):
                    value = _load(source, base * k + i) if there else types.float32(0)
                    _store(place, i * wide + column, value)

    return kernel


def pad_rows():
    """Kernel that copies rows of H elements, and adds others where there are any, into rows of `padded`.

    One unit is a direction: `width` elements, from `rows` rows of H at `source` and `other`.
    """

    def kernel(p, begin, end, thread):
        goal, source, other, source_step = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        rows, added, hidden, padded, width = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8)
        for d in range(begin, end):
            fill_bytes(goal + 4 * d * width, 0, 4 * width)
            for row in range(rows):
                for j in range(hidden):
                    at = d * source_step + row * hidden + j
                    value = _load(source, at)
                    if row < added:
                        value += _load(other, at)
                    _store(goal, d * width + row * padded + j, value)

    return kernel


def project():
    """Kernel of X W^T + bias for all steps; one unit is (direction, group of rows, panel)."""

    def kernel(p, begin, end, thread):
        x, w, bias, goal = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        rows, k, width, group = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        panels = (width + WIDTH - 1) // WIDTH
        groups = (rows + group - 1) // group
        for unit in range(begin, end):
            rest = unit // panels
            panel = unit - rest * panels
            d = rest // groups
            row = (rest - d * groups) * group
            column = panel * WIDTH
            _panel(
                x + 4 * row * k, 4 * k, w + 4 * (d * width + column) * k, bias + 4 * (d * width + column), 0,
                goal + 4 * ((d * rows + row) * width + column), 4 * width, min(group, rows - row), k,
                min(WIDTH, width - column), False,
            )  # fmt: skip

    return kernel


# Activations ----------------------------------------------------------------------------------


@device
def _tanh(x, alpha, beta):
    return tanh32(x)


@device
def _sigmoid(x, alpha, beta):
    return sigmoid32(x)


@device
def _relu(x, alpha, beta):
    return types.float32(0) if x < 0 else x


@device
def _affine(x, alpha, beta):
    return alpha * x + beta


@device
def _leaky_relu(x, alpha, beta):
    return alpha * x if x < 0 else x


@device
def _thresholded_relu(x, alpha, beta):
    return types.float32(0) if x < alpha else x


@device
def _scaled_tanh(x, alpha, beta):
    return alpha * tanh32(beta * x)


@device
def _hard_sigmoid(x, alpha, beta):
    y = alpha * x + beta
    y = types.float32(0) if y < 0 else y
    return types.float32(1) if y > 1 else y


@device
def _elu(x, alpha, beta):
    return alpha * expm1_32(x) if x < 0 else x


@device
def _softsign(x, alpha, beta):
    return x / (types.float32(1) + abs(x))


@device
def _softplus(x, alpha, beta):
    return softplus32(x)


_FUNCTIONS = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "relu": _relu,
    "affine": _affine,
    "leakyrelu": _leaky_relu,
    "thresholdedrelu": _thresholded_relu,
    "scaledtanh": _scaled_tanh,
    "hardsigmoid": _hard_sigmoid,
    "elu": _elu,
    "softsign": _softsign,
    "softplus": _softplus,
}


@device
def _clipped(x, limit):
    """Return x between -limit and limit; NaN stays."""
    x = -limit if x < -limit else x
    return limit if x > limit else x


@device
def _constants(p, first, index):
    return types.float32(arg_float(p, first + 2 * index)), types.float32(arg_float(p, first + 2 * index + 1))


# Steps ----------------------------------------------------------------------------------------
#
# Each takes the gates of one row, `before` the state before the step and `state` where the new one goes.


def _lstm_update(names: tuple[str, ...], peepholes: bool, coupled: bool):
    f, g, h_of_c = (_FUNCTIONS[name] for name in names)
    one = types.float32(1)

    @device
    def update(p, first, limit, gates, state, cell, peep, hidden):
        fa, fb = _constants(p, first, 0)
        ga, gb = _constants(p, first, 1)
        ha, hb = _constants(p, first, 2)
        for j in range(hidden):
            i = _load(gates, j)
            o = _load(gates, hidden + j)
            forget = _load(gates, 2 * hidden + j)
            candidate = g(_clipped(_load(gates, 3 * hidden + j), limit), ga, gb)
            c = _load(cell, j)
            if peepholes:
                i += _load(peep, j) * c
                forget += _load(peep, 2 * hidden + j) * c
            i = f(_clipped(i, limit), fa, fb)
            if coupled:
                forget = one - i
            else:
                forget = f(_clipped(forget, limit), fa, fb)
            c = forget * c + i * candidate
            if peepholes:
                o += _load(peep, hidden + j) * c
            o = f(_clipped(o, limit), fa, fb)
            _store(cell, j, c)
            _store(state, j, o * h_of_c(_clipped(c, limit), ha, hb))

    return update


def _rnn_update(name: str):
    f = _FUNCTIONS[name]

    @device
    def update(p, first, limit, gates, state, hidden):
        fa, fb = _constants(p, first, 0)
        for j in range(hidden):
            _store(state, j, f(_clipped(_load(gates, j), limit), fa, fb))

    return update


def _gru_update(names: tuple[str, ...]):
    """Return the two halves: the first up to what R of the candidate multiplies, the second from there."""
    f, g = (_FUNCTIONS[name] for name in names)
    one = types.float32(1)

    @device
    def reset(p, first, limit, gates, state, product, hidden):
        fa, fb = _constants(p, first, 0)
        for j in range(hidden):
            r = f(_clipped(_load(gates, hidden + j), limit), fa, fb)
            _store(product, j, r * _load(state, j))

    @device
    def finish(p, first, limit, gates, candidate, state, hidden):
        fa, fb = _constants(p, first, 0)
        ga, gb = _constants(p, first, 1)
        for j in range(hidden):
            z = f(_clipped(_load(gates, j), limit), fa, fb)
            c = g(_clipped(_load(candidate, j), limit), ga, gb)
            _store(state, j, z * _load(state, j) + (one - z) * c)

    @device
    def finish_linear(p, first, limit, gates, given, state, hidden):
        """Reset after the product: `given` is the candidate's share of X W^T, gates the rest."""
        fa, fb = _constants(p, first, 0)
        ga, gb = _constants(p, first, 1)
        for j in range(hidden):
            z = f(_clipped(_load(gates, j), limit), fa, fb)
            r = f(_clipped(_load(gates, hidden + j), limit), fa, fb)
            c = _load(given, j) + r * _load(gates, 2 * hidden + j)
            c = g(_clipped(c, limit), ga, gb)
            _store(state, j, z * _load(state, j) + (one - z) * c)

    return reset, finish, finish_linear


# Sequences ------------------------------------------------------------------------------------
#
# Arguments of all scans; strides are in bytes.
(
    XW, R, Y, Y_LAST, START, LENGTHS, MEMORY, STEPS, BATCH, HIDDEN, PADDED, WIDTH_ARG, GROUP, FIRST, REVERSE,
    XW_STEP, XW_ROW, Y_STEP, Y_ROW, Y_DIRECTION, LAST_ROW, LAST_DIRECTION, MEMORY_STEP, LIMIT, FUNCTIONS,
) = range(25)  # fmt: skip
OWN = FUNCTIONS + 6  # arguments of a single kind of layer


@device
def _take_state(state, source, row, rows, row_step, size, padded):
    """Copy initial states of `rows` rows, zeros where there are none, into rows of `padded` bytes."""
    for i in range(rows):
        fill_bytes(state + i * padded, 0, padded)
        if source != 0:
            copy_bytes(state + i * padded, source + (row + i) * row_step, size)


@device
def _give_state(goal, state, row, rows, row_step, size, padded):
    if goal != 0:
        for i in range(rows):
            copy_bytes(goal + (row + i) * row_step, state + i * padded, size)


@device
def _is_over(lengths, row, t):
    return lengths != 0 and _load_int(lengths, row) <= t


@device
def _emit(y, state, over, size):
    """Write a row of Y: the new state, or zeros where the sequence is over."""
    if y != 0:
        if over:
            fill_bytes(y, 0, size)
        else:
            copy_bytes(y, state, size)


@device
def _place(p, unit):
    """Return (direction, first row, rows, whether it goes backwards) of a unit of a scan."""
    batch, group = arg(p, BATCH), arg(p, GROUP)
    groups = (batch + group - 1) // group
    index = unit // groups
    row = (unit - index * groups) * group
    d = arg(p, FIRST) + index
    return d, row, min(group, batch - row), (arg(p, REVERSE) >> d) & 1


@device
def _step_places(p, d, row, t):
    """Return the addresses of a step's input products and of its place in Y, at the first row."""
    width, steps, batch = arg(p, WIDTH_ARG), arg(p, STEPS), arg(p, BATCH)
    xw = arg(p, XW) + 4 * d * steps * batch * width + t * arg(p, XW_STEP) + row * arg(p, XW_ROW)
    y = arg(p, Y)
    if y != 0:
        y += t * arg(p, Y_STEP) + row * arg(p, Y_ROW) + d * arg(p, Y_DIRECTION)
    return xw, y


def rnn_scan(name: str):
    """Kernel of all steps of an RNN; one unit is (direction, group of rows of the batch)."""
    update = _rnn_update(name)

    def kernel(p, begin, end, thread):
        steps, hidden, width = arg(p, STEPS), arg(p, HIDDEN), arg(p, WIDTH_ARG)
        padded = 4 * arg(p, PADDED)
        limit = types.float32(arg_float(p, LIMIT))
        for unit in range(begin, end):
            d, row, rows, backwards = _place(p, unit)
            state = arg(p, MEMORY) + thread * arg(p, MEMORY_STEP)
            gates = state + arg(p, GROUP) * padded
            start, last = arg(p, START), arg(p, Y_LAST)
            start += d * arg(p, LAST_DIRECTION) if start != 0 else 0
            last += d * arg(p, LAST_DIRECTION) if last != 0 else 0
            _take_state(state, start, row, rows, arg(p, LAST_ROW), 4 * hidden, padded)
            r = arg(p, R) + 4 * d * width * hidden
            for step in range(steps):
                t = steps - 1 - step if backwards else step
                turn = (step & 1) != 0
                xw, y = _step_places(p, d, row, t)
                _product(state, padded, r, xw, arg(p, XW_ROW), gates, 4 * width, rows, hidden, width, turn)
                for i in range(rows):
                    over = _is_over(arg(p, LENGTHS), row + i, t)
                    if not over:
                        update(p, FUNCTIONS, limit, gates + 4 * i * width, state + i * padded, arg(p, PADDED))
                    _emit(y + i * arg(p, Y_ROW) if y != 0 else 0, state + i * padded, over, 4 * hidden)
            _give_state(last, state, row, rows, arg(p, LAST_ROW), 4 * hidden, padded)

    return kernel


def lstm_scan(names: tuple[str, ...], peepholes: bool, coupled: bool):
    """Kernel of all steps of an LSTM; one unit is (direction, group of rows of the batch).

    Arguments of its own: initial cells, last cells (0 for none), peepholes in padded rows.
    """
    update = _lstm_update(names, peepholes, coupled)

    def kernel(p, begin, end, thread):
        steps, hidden, width = arg(p, STEPS), arg(p, HIDDEN), arg(p, WIDTH_ARG)
        padded = 4 * arg(p, PADDED)
        limit = types.float32(arg_float(p, LIMIT))
        for unit in range(begin, end):
            d, row, rows, backwards = _place(p, unit)
            state = arg(p, MEMORY) + thread * arg(p, MEMORY_STEP)
            cell = state + arg(p, GROUP) * padded
            gates = cell + arg(p, GROUP) * padded
            start, last, start_cell, last_cell = arg(p, START), arg(p, Y_LAST), arg(p, OWN), arg(p, OWN + 1)
            start += d * arg(p, LAST_DIRECTION) if start != 0 else 0
            last += d * arg(p, LAST_DIRECTION) if last != 0 else 0
            start_cell += d * arg(p, LAST_DIRECTION) if start_cell != 0 else 0
            last_cell += d * arg(p, LAST_DIRECTION) if last_cell != 0 else 0
            _take_state(state, start, row, rows, arg(p, LAST_ROW), 4 * hidden, padded)
            _take_state(cell, start_cell, row, rows, arg(p, LAST_ROW), 4 * hidden, padded)
            r = arg(p, R) + 4 * d * width * hidden
            peep = arg(p, OWN + 2) + 3 * d * padded
            for step in range(steps):
                t = steps - 1 - step if backwards else step
                turn = (step & 1) != 0
                xw, y = _step_places(p, d, row, t)
                _product(state, padded, r, xw, arg(p, XW_ROW), gates, 4 * width, rows, hidden, width, turn)
                for i in range(rows):
                    over = _is_over(arg(p, LENGTHS), row + i, t)
                    if not over:
                        update(p, FUNCTIONS, limit, gates + 4 * i * width, state + i * padded,
                               cell + i * padded, peep, arg(p, PADDED))  # fmt: skip
                    _emit(y + i * arg(p, Y_ROW) if y != 0 else 0, state + i * padded, over, 4 * hidden)
            _give_state(last, state, row, rows, arg(p, LAST_ROW), 4 * hidden, padded)
            _give_state(last_cell, cell, row, rows, arg(p, LAST_ROW), 4 * hidden, padded)

    return kernel


def gru_scan(names: tuple[str, ...], linear: bool):
    """Kernel of all steps of a GRU; one unit is (direction, group of rows of the batch).

    Arguments of its own: R of the candidate in panels (0 where `linear`), width of its product,
    the bias that the product starts from where `linear` (padded as a row of gates).
    """
    reset, finish, finish_linear = _gru_update(names)

    def kernel(p, begin, end, thread):
        steps, hidden, width = arg(p, STEPS), arg(p, HIDDEN), arg(p, WIDTH_ARG)
        padded = 4 * arg(p, PADDED)
        limit = types.float32(arg_float(p, LIMIT))
        second = arg(p, OWN + 1)
        first_width = width if linear else arg(p, OWN + 3)
        for unit in range(begin, end):
            d, row, rows, backwards = _place(p, unit)
            state = arg(p, MEMORY) + thread * arg(p, MEMORY_STEP)
            product = state + arg(p, GROUP) * padded
            gates = product + arg(p, GROUP) * padded
            candidate = gates + 4 * arg(p, GROUP) * first_width
            start, last = arg(p, START), arg(p, Y_LAST)
            start += d * arg(p, LAST_DIRECTION) if start != 0 else 0
            last += d * arg(p, LAST_DIRECTION) if last != 0 else 0
            _take_state(state, start, row, rows, arg(p, LAST_ROW), 4 * hidden, padded)
            r = arg(p, R) + 4 * d * first_width * hidden
            for step in range(steps):
                t = steps - 1 - step if backwards else step
                turn = (step & 1) != 0
                xw, y = _step_places(p, d, row, t)
                if linear:
                    bias = arg(p, OWN + 2) + 4 * d * width
                    _product(state, padded, r, bias, 0, gates, 4 * width, rows, hidden, width, turn)
                    for i in range(rows):
                        _add(gates + 4 * i * width, xw + i * arg(p, XW_ROW), 2 * arg(p, PADDED))
                else:
                    _product(state, padded, r, xw, arg(p, XW_ROW), gates, 4 * first_width, rows, hidden,
                             first_width, turn)  # fmt: skip
                    for i in range(rows):
                        reset(p, FUNCTIONS, limit, gates + 4 * i * first_width, state + i * padded,
                              product + i * padded, arg(p, PADDED))  # fmt: skip
                    _product(product, padded, arg(p, OWN) + 4 * d * second * hidden, xw + 2 * padded,
                             arg(p, XW_ROW), candidate, 4 * second, rows, hidden, second, turn)  # fmt: skip
                for i in range(rows):
                    over = _is_over(arg(p, LENGTHS), row + i, t)
                    if not over:
                        if linear:
                            finish_linear(p, FUNCTIONS, limit, gates + 4 * i * width,
                                          xw + i * arg(p, XW_ROW) + 2 * padded, state + i * padded,
                                          arg(p, PADDED))  # fmt: skip
                        else:
                            finish(p, FUNCTIONS, limit, gates + 4 * i * first_width,
                                   candidate + 4 * i * second, state + i * padded,
                                   arg(p, PADDED))  # fmt: skip
                    _emit(y + i * arg(p, Y_ROW) if y != 0 else 0, state + i * padded, over, 4 * hidden)
            _give_state(last, state, row, rows, arg(p, LAST_ROW), 4 * hidden, padded)

    return kernel


@device
def _add(goal, other, count):
    for j in range(count):
        _store(goal, j, _load(goal, j) + _load(other, j))
