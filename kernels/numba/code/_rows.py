"""Passes over one row of contiguous float32 or float64: sums, extremes, shifted and scaled copies.

A row is (address, elements). Sums keep four vectors of partial sums, and what they give does not depend
on anything but the row; `total` and its kin add pieces of 4096 elements in float64, so that their error
stays below 2e-6 of the sum of magnitudes for float32, however long the row.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, F64, I32, I64, declare
from onnxref.native.vectors import Vectors

from ._math import inline

_UNROLL = 4
PIECE = 4096  # elements that are summed in the row's own type

ELEMENTS = {"float32": (F32, types.float32), "float64": (F64, types.float64)}


def counted(v, count, carried, body):
    """Emit `for i in range(count)`, which may be 0, with values carried from pass to pass."""
    b = v.builder
    before = b.basic_block
    head, inside, after = (b.function.append_basic_block(name) for name in ("head", "inside", "after"))
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    held = [b.phi(value.type) for value in carried]
    b.cbranch(b.icmp_signed("<", i, count), inside, after)
    b.position_at_end(inside)
    results = body(i, held)
    following = b.add(i, I64(1))
    for phi, first, last in zip([i, *held], [I64(0), *carried], [following, *results], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(last, b.basic_block)
    b.branch(head)
    b.position_at_end(after)
    return held


def sweep(v, n, carried, body):
    """Emit a pass over a row of n elements; return the carried values of each of its chains.

    Args:
        carried: what each chain of vectors begins with.
        body: emits one vector from (offset in bytes, mask of the lanes inside, carried values) and
            returns the next carried values; the mask is None where all lanes are inside.
    """
    b = v.builder
    width = len(carried)
    step = _UNROLL * v.lanes
    blocks = b.lshr(n, I64(step.bit_length() - 1))

    def block(i, held):
        base = v.mul(i, _UNROLL * v.nbytes)
        results = []
        for u in range(_UNROLL):
            offset = b.add(base, I64(u * v.nbytes))
            results += body(offset, None, held[u * width : (u + 1) * width])
        return results

    held = counted(v, blocks, list(carried) * _UNROLL, block)
    done = v.mul(blocks, step)
    left = b.sub(n, done)
    singles = b.lshr(left, I64(v.lanes.bit_length() - 1))

    def single(i, chain):
        return body(v.mul(b.add(done, v.mul(i, v.lanes)), v.size), None, chain)

    held[:width] = counted(v, singles, held[:width], single)
    place = b.add(done, v.mul(singles, v.lanes))

    def last(i, chain):
        return body(v.mul(place, v.size), v.mask(b.sub(n, place)), chain)

    some = b.zext(b.icmp_signed("<", place, n), I64)
    held[-width:] = counted(v, some, held[-width:], last)
    return [held[u * width : (u + 1) * width] for u in range(_UNROLL)]


def load(v, mask, address, offset, other=0.0):
    """Emit a load of the lanes that are inside."""
    if mask is None:
        return v.load(address, index=offset)
    return v.load_masked(mask, address, index=offset, other=other)


def store(v, mask, value, address, offset):
    """Emit a store of the lanes that are inside."""
    if mask is None:
        v.store(value, address, index=offset)
    else:
        v.store_masked(mask, value, address, index=offset)


def inside(v, mask, value):
    """Emit `value` with zeros in the lanes that are outside."""
    return value if mask is None else v.builder.select(mask, value, v.constant(0.0))


def added(v, chains):
    """Emit the sum of the first carried value of all chains, over all lanes."""
    b = v.builder
    first, second, third, fourth = (chain[0] for chain in chains)
    return v.sum(b.fadd(b.fadd(first, second), b.fadd(third, fourth)))


def folded(v, value, combine):
    """Emit one element from a vector by halves; `combine` takes two vectors."""
    b, half = v.builder, v.lanes // 2
    while half:
        order = ir.Constant(ir.VectorType(I32, v.lanes), [(i + half) % v.lanes for i in range(v.lanes)])
        value = combine(value, b.shuffle_vector(value, ir.Constant(v.type, ir.Undefined), order))
        half //= 2
    return b.extract_element(value, I32(0))


def reducing(dtype, term):
    """Return an intrinsic (address, n, shift) -> sum of `term(v, x, shift)` over a row."""
    kind, element = ELEMENTS[dtype]

    @intrinsic
    def row(context, x, n, shift):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, kind)
            by = v.splat(values[2])

            def body(offset, mask, held):
                part = term(v, load(v, mask, values[0], offset), by)
                return [builder.fadd(held[0], inside(v, mask, part))]

            return added(v, sweep(v, values[1], [v.constant(0.0)], body))

        return element(types.int64, types.int64, element), generate

    return row


def _shifted_square(v, x, shift):
    deviation = v.builder.fsub(x, shift)
    return v.builder.fmul(deviation, deviation)


_TERMS = {
    "sum": lambda v, x, shift: x,
    "abs": lambda v, x, shift: v.call("llvm.fabs", x),
    "square": lambda v, x, shift: v.builder.fmul(x, x),
    "deviation": _shifted_square,
}


@cache
def total(dtype, term="sum"):
    """Return a function (address, n, shift) -> sum over a row, as float64.

    Args:
        term: what is summed: "sum", "abs", "square", or "deviation", which is (x - shift)**2.
    """
    size = np.dtype(dtype).itemsize
    row = reducing(dtype, _TERMS[term])

    @inline
    def whole(x, n, shift):
        result, start = 0.0, 0
        while start < n:
            result += np.float64(row(x + start * size, min(n - start, PIECE), shift))
            start += PIECE
        return result

    return whole


@cache
def short_rows(term="sum"):
    """Return an intrinsic (goal, x, n, rows): sums over up to LANES rows of n float32, n at least 1.

    Rows go side by side, and each is summed in one way wherever it stands among them.
    """

    @intrinsic
    def sums(context, goal, x, n, rows):
        def generate(ctx, builder, signature, values):
            goal, x, n, rows = values
            v = Vectors(builder)
            last = builder.sub(rows, I64(1))
            bases = []
            for i in range(v.lanes):
                row = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
                bases.append(builder.add(x, builder.mul(row, v.mul(n, v.size))))
            no_shift = v.constant(0.0)

            def add_vectors(mask, offset, held):
                parts = [_TERMS[term](v, load(v, mask, base, offset), no_shift) for base in bases]
                return [builder.fadd(h, inside(v, mask, part)) for h, part in zip(held, parts, strict=True)]

            whole = builder.lshr(n, I64(v.lanes.bit_length() - 1))
            held = counted(
                v,
                whole,
                [v.constant(0.0)] * v.lanes,
                lambda i, held: add_vectors(None, v.mul(i, v.nbytes), held),
            )
            done = v.mul(whole, v.lanes)
            mask = v.mask(builder.sub(n, done))
            some = builder.zext(builder.icmp_signed("<", done, n), I64)
            held = counted(v, some, held, lambda i, held: add_vectors(mask, v.mul(done, v.size), held))
            v.store_masked(v.mask(rows), _lane_sums(v, held), goal)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return sums


def _lane_sums(v, vectors):
    """Emit the vector whose lane i is the sum of the lanes of vector i, of as many vectors as lanes."""
    b, held, side = v.builder, list(vectors), v.lanes // 2
    kind = ir.VectorType(I32, v.lanes)
    while side:
        low = ir.Constant(kind, [j if not j & side else v.lanes + (j ^ side) for j in range(v.lanes)])
        high = ir.Constant(kind, [j | side if not j & side else v.lanes + j for j in range(v.lanes)])
        half = len(held) // 2
        pairs = zip(held[:half], held[half:], strict=True)
        held = [b.fadd(b.shuffle_vector(x, y, low), b.shuffle_vector(x, y, high)) for x, y in pairs]
        side //= 2
    return held[0]


@cache
def extreme(dtype, greatest, keeps_nan):
    """Return an intrinsic (address, n) -> maximum or minimum of a row; -inf or +inf where it is empty.

    Args:
        keeps_nan: the result is NaN if there is one; else it is that of some of the numbers.
    """
    kind, element = ELEMENTS[dtype]
    start = -np.inf if greatest else np.inf

    @intrinsic
    def row(context, x, n):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, kind)
            choose = v.maximum if greatest else v.minimum  # the first where either is NaN

            def body(offset, mask, held):
                value = load(v, mask, values[0], offset, start)
                results = [choose(held[0], value)]
                if keeps_nan:
                    wrong = builder.fcmp_unordered("uno", value, value)
                    results.append(builder.or_(held[1], wrong))
                return results

            first = [v.constant(start)]
            if keeps_nan:
                first.append(ir.Constant(ir.VectorType(ir.IntType(1), v.lanes), [0] * v.lanes))
            chains = sweep(v, values[1], first, body)
            best = chains[0][0]
            for chain in chains[1:]:
                best = choose(best, chain[0])
            result = folded(v, best, choose)
            if keeps_nan:
                wrong = chains[0][1]
                for chain in chains[1:]:
                    wrong = builder.or_(wrong, chain[1])
                bits = ir.VectorType(ir.IntType(1), v.lanes)
                some = declare(builder, f"llvm.vector.reduce.or.v{v.lanes}i1", ir.IntType(1), [bits])
                nan = ir.Constant(kind, float("nan"))
                result = builder.select(builder.call(some, [wrong]), nan, result)
            return result

        return element(types.int64, types.int64), generate

    return row


@cache
def affine(dtype):
    """Return an intrinsic (x, y, n, shift, factor, offset): y = (x - shift) * factor + offset."""
    kind, element = ELEMENTS[dtype]

    @intrinsic
    def row(context, x, y, n, shift, factor, offset):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, kind)
            by, times, plus = map(v.splat, values[3:])

            def body(at, mask, held):
                centred = builder.fsub(load(v, mask, values[0], at), by)
                store(v, mask, v.fma(centred, times, plus), values[1], at)
                return []

            sweep(v, values[2], [], body)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 3, *[element] * 3), generate

    return row


@cache
def quotient(dtype):
    """Return an intrinsic (x, y, n, divisor): y = x / divisor."""
    kind, element = ELEMENTS[dtype]

    @intrinsic
    def row(context, x, y, n, divisor):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, kind)
            by = v.splat(values[3])

            def body(at, mask, held):
                store(v, mask, builder.fdiv(load(v, mask, values[0], at), by), values[1], at)
                return []

            sweep(v, values[2], [], body)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 3, element), generate

    return row


# --- the exponential of vectors of float32 -----------------------------------------------------------

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_ROUND = 1.5 * 2**23  # added and taken away, it leaves an integer; its bits hold that integer
_ROUND_BITS = int(np.float32(_ROUND).view(np.int32))
_LEAST = -87.3  # below it exp is less than the smallest normal number
# The coefficients of `_math.exp32`.
_COEFFICIENTS = (
    0.0013813144760206342,
    0.008369418792426586,
    0.04166845604777336,
    0.16666515171527863,
    0.4999999403953552,
)


def exp_tail(v, x):
    """Emit exp of a vector of float32 that are at most 0, within 1 ulp; 0 below -87.3, NaN of NaN."""
    b = v.builder
    single = np.float32

    def constant(value):
        return v.constant(float(single(value)))

    shifted = v.fma(x, constant(_LOG2_E), constant(_ROUND))
    n = b.fsub(shifted, constant(_ROUND))
    r = v.fma(n, constant(-_LN2_HIGH), x)
    r = v.fma(n, constant(-_LN2_LOW), r)
    p = constant(_COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        p = v.fma(p, r, constant(coefficient))
    p = v.fma(p, b.fmul(r, r), r)
    ints = Vectors(b, I32, v.lanes)
    exponent = b.add(b.bitcast(shifted, ints.type), ints.constant(127 - _ROUND_BITS))
    power = b.bitcast(b.shl(exponent, ints.constant(23)), v.type)
    value = v.fma(p, power, power)
    # What becomes of lanes below the least is of no meaning up to here.
    return b.select(b.fcmp_ordered("<", x, constant(_LEAST)), v.constant(0.0), value)


@cache
def exponentials(stores):
    """Return a function (x, y, n, shift) -> sum of exp(x - shift) over a row of float32, as float64.

    Args:
        stores: whether the exponentials are put into y.
    """
    row = _exponentials(stores)

    @inline
    def whole(x, y, n, shift):
        result, start = 0.0, 0
        while start < n:
            at = start * 4
            result += np.float64(row(x + at, y + at, min(n - start, PIECE), shift))
            start += PIECE
        return result

    return whole


def _exponentials(stores):

    @intrinsic
    def row(context, x, y, n, shift):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, F32)
            by = v.splat(values[3])

            def body(offset, mask, held):
                power = exp_tail(v, builder.fsub(load(v, mask, values[0], offset), by))
                if stores:
                    store(v, mask, power, values[1], offset)
                return [builder.fadd(held[0], inside(v, mask, power))]

            return added(v, sweep(v, values[2], [v.constant(0.0)], body))

        return types.float32(*[types.int64] * 3, types.float32), generate

    return row
