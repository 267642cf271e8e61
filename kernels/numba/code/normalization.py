"""Normalisation kernels: softmax, layer, group, local response, norms.

Variances take two passes over the data, as the specification's text has it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float32, types
from numba.extending import intrinsic

from onnxref.native.ops import F32, access, arg, arg_float
from onnxref.native.vectors import Vectors

from ._math import exp32, log32
from ._rows import (
    ELEMENTS,
    PIECE,
    added,
    affine,
    exp_tail,
    exponentials,
    extreme,
    folded,
    inside,
    load,
    quotient,
    store,
    sweep,
    total,
)

_SPAN = 256  # columns that softmax and its kin work on at a time


# --- softmax -------------------------------------------------------------------------------------


@intrinsic
def _softmax_pair(context, x, y, n):
    """Softmax of two rows in a row, which hide each other's latencies; the same bits as one by one."""

    def generate(ctx, builder, signature, values):
        v = Vectors(builder)
        behind = v.mul(values[2], v.size)
        sources = values[0], builder.add(values[0], behind)
        goals = values[1], builder.add(values[1], behind)

        def larger(offset, mask, held):
            return [
                v.maximum(h, load(v, mask, x, offset, -math.inf)) for h, x in zip(held, sources, strict=True)
            ]

        found = sweep(v, values[2], [v.constant(-math.inf)] * 2, larger)
        tops = []
        for chains in zip(*found, strict=True):
            best = chains[0]
            for chain in chains[1:]:
                best = v.maximum(best, chain)
            tops.append(v.splat(folded(v, best, v.maximum)))

        def powers(offset, mask, held):
            sums = []
            for h, x, y, top in zip(held, sources, goals, tops, strict=True):
                power = exp_tail(v, builder.fsub(load(v, mask, x, offset), top))
                store(v, mask, power, y, offset)
                sums.append(builder.fadd(h, inside(v, mask, power)))
            return sums

        found = sweep(v, values[2], [v.constant(0.0)] * 2, powers)
        one = F32(1.0)
        whole = [added(v, [[chain[i]] for chain in found]) for i in (0, 1)]
        factors = [v.splat(builder.fdiv(one, each)) for each in whole]

        def scale(offset, mask, held):
            for y, factor in zip(goals, factors, strict=True):
                store(v, mask, builder.fmul(load(v, mask, y, offset), factor), y, offset)
            return []

        sweep(v, values[2], [], scale)
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


def softmax_rows(log):
    """float32, along rows. Arguments: x, y, elements in a row. Units: rows."""
    greatest, powers, shift_scale = extreme("float32", True, False), exponentials(not log), affine("float32")

    def kernel(p, begin, end, thread):
        n = arg(p, 2)
        pairs = begin
        if not log and n <= PIECE:
            pairs = end - (end - begin) % 2
            for row in range(begin, pairs, 2):
                _softmax_pair(arg(p, 0) + 4 * n * row, arg(p, 1) + 4 * n * row, n)
        for row in range(pairs, end):
            x, y = arg(p, 0) + 4 * n * row, arg(p, 1) + 4 * n * row
            top = greatest(x, n)
            whole = float32(powers(x, y, n, top))
            if log:
                shift_scale(x, y, n, top, float32(1), -log32(whole))
            else:
                shift_scale(y, y, n, float32(0), float32(1) / whole, float32(0))

    return kernel


def softmax_columns(dtype, log):
    """Along the middle of (outer, n, inner), float32 or float64.

    Arguments: x, y, n, inner, scratch of 2 * 256 elements per thread, its bytes.
    Units: outer times pieces of 256 columns.
    """
    read, write = access(dtype)
    size, least = np.dtype(dtype).itemsize, np.dtype(dtype).type(-np.inf)
    zero = np.dtype(dtype).type(0)
    exp, logarithm = (exp32, log32) if dtype == "float32" else (math.exp, math.log)

    def kernel(p, begin, end, thread):
        n, inner = arg(p, 2), arg(p, 3)
        top = arg(p, 4) + thread * arg(p, 5)
        whole = top + _SPAN * size
        pieces = (inner + _SPAN - 1) // _SPAN
        for unit in range(begin, end):
            outer, piece = unit // pieces, unit % pieces
            first = (outer * n * inner + piece * _SPAN) * size
            x, y = arg(p, 0) + first, arg(p, 1) + first
            columns = min(inner - piece * _SPAN, _SPAN)
            for j in range(columns):
                write(top, j, least)
                write(whole, j, zero)
            for i in range(n):
                for j in range(columns):
                    value, best = read(x, i * inner + j), read(top, j)
                    write(top, j, value if value > best else best)
            for i in range(n):
                for j in range(columns):
                    power = exp(read(x, i * inner + j) - read(top, j))
                    if not log:
                        write(y, i * inner + j, power)
                    write(whole, j, read(whole, j) + power)
            for j in range(columns):
                write(whole, j, logarithm(read(whole, j)) if log else read(whole, j))
            for i in range(n):
                for j in range(columns):
                    if log:
                        write(y, i * inner + j, (read(x, i * inner + j) - read(top, j)) - read(whole, j))
                    else:
                        write(y, i * inner + j, read(y, i * inner + j) / read(whole, j))

    return kernel


# --- layer ---------------------------------------------------------------------------------------


def _sum_of_rows(dtype):
    """Return an intrinsic (x, skip, goal, n): goal = x + skip."""
    kind, _ = ELEMENTS[dtype]

    @intrinsic
    def row(context, x, skip, goal, n):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, kind)

            def body(offset, mask, held):
                one, two = (load(v, mask, values[i], offset) for i in (0, 1))
                store(v, mask, builder.fadd(one, two), values[2], offset)
                return []

            sweep(v, values[3], [], body)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return row


def _scaled(dtype, has_bias):
    """Return an intrinsic (x, y, n, mean, inverse, scale, bias): y = (x - mean) * inverse * scale + bias."""
    kind, element = ELEMENTS[dtype]

    @intrinsic
    def row(context, x, y, n, mean, inverse, scale, bias):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, kind)
            shift, factor = v.splat(values[3]), v.splat(values[4])

            def body(offset, mask, held):
                centred = builder.fsub(load(v, mask, values[0], offset), shift)
                weight = load(v, mask, values[5], offset)
                result = builder.fmul(centred, factor)
                if has_bias:
                    result = v.fma(result, weight, load(v, mask, values[6], offset))
                else:
                    result = builder.fmul(result, weight)
                store(v, mask, result, values[1], offset)
                return []

            sweep(v, values[2], [], body)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 3, *[element] * 2, *[types.int64] * 2), generate

    return row


def layer(dtype, root_mean_square, has_bias, has_skip):
    """LayerNormalization and RMSNormalization of rows.

    Arguments: x, y, n, scale, bias, epsilon, mean, inverse (0 where not wanted), skip, sum.
    Units: rows. The sum of x and skip is written first, and y from it.
    """
    deviation = total(dtype, "square" if root_mean_square else "deviation")
    sum_of, scaled, plus = total(dtype), _scaled(dtype, has_bias), _sum_of_rows(dtype)
    _, write = access(dtype)
    size, real = np.dtype(dtype).itemsize, types.float32 if dtype == "float32" else types.float64

    def kernel(p, begin, end, thread):
        n, scale, bias, epsilon = arg(p, 2), arg(p, 3), arg(p, 4), arg_float(p, 5)
        means, inverses = arg(p, 6), arg(p, 7)
        for row in range(begin, end):
            at = row * n * size
            x, y = arg(p, 0) + at, arg(p, 1) + at
            if has_skip:
                plus(x, arg(p, 8) + at, arg(p, 9) + at, n)
                x = arg(p, 9) + at
            mean = real(0)
            if not root_mean_square:
                mean = real(sum_of(x, n, real(0)) / n)
            variance = real(deviation(x, n, mean) / n)
            inverse = real(1) / real(math.sqrt(real(variance + real(epsilon))))
            scaled(x, y, n, mean, inverse, scale, bias)
            if means != 0:
                write(means, row, mean)
            if inverses != 0:
                write(inverses, row, inverse)

    return kernel


# --- groups --------------------------------------------------------------------------------------


def groups(dtype):
    """Normalize groups of channels: instance, group, and mean and variance normalisation.

    Arguments: x, y, groups in a batch, channels in a group, spatial size, scale, bias (0: none), channels
    that share an element of them, epsilon under the root, epsilon beside it. Units: groups of all batches.
    """
    sum_of, deviation, shift_scale = total(dtype), total(dtype, "deviation"), affine(dtype)
    read, _ = access(dtype)
    size, real = np.dtype(dtype).itemsize, types.float32 if dtype == "float32" else types.float64

    def kernel(p, begin, end, thread):
        in_batch, channels, spatial = arg(p, 2), arg(p, 3), arg(p, 4)
        scale, bias, sharing = arg(p, 5), arg(p, 6), arg(p, 7)
        under, beside = real(arg_float(p, 8)), real(arg_float(p, 9))
        n = channels * spatial
        for unit in range(begin, end):
            x, y = arg(p, 0) + unit * n * size, arg(p, 1) + unit * n * size
            mean = real(sum_of(x, n, real(0)) / n)
            variance = real(deviation(x, n, mean) / n)
            inverse = real(1) / (real(math.sqrt(real(variance + under))) + beside)
            if scale == 0:
                shift_scale(x, y, n, mean, inverse, real(0))
            else:
                first = unit % in_batch * channels
                for c in range(channels):
                    at = c * spatial * size
                    which = (first + c) // sharing
                    factor = inverse * read(scale, which)
                    shift_scale(x + at, y + at, spatial, mean, factor, read(bias, which))

    return kernel


# --- across channels -----------------------------------------------------------------------------


def local_response(beta):
    """LRN of float32 (N, C, spatial).

    Arguments: x, y, channels, spatial size, channels before and after, alpha / size, bias, beta.
    Units: channels of all batches. `beta` as a parameter is 0.75, 0.5, 1, or 0 for any other.
    """
    read, write = access("float32")

    def kernel(p, begin, end, thread):
        channels, spatial, before, after = arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        alpha, bias, power = (float32(arg_float(p, 6)), float32(arg_float(p, 7)), float32(arg_float(p, 8)))
        for unit in range(begin, end):
            c = unit % channels
            first, last = max(c - before, 0), min(c + after, channels - 1)
            batch = arg(p, 0) + (unit - c) * spatial * 4
            x, y = arg(p, 0) + unit * spatial * 4, arg(p, 1) + unit * spatial * 4
            for i in range(spatial):
                write(y, i, float32(0))
            for other in range(first, last + 1):
                z = batch + other * spatial * 4
                for i in range(spatial):
                    value = read(z, i)
                    write(y, i, read(y, i) + value * value)
            for i in range(spatial):
                base = read(y, i) * alpha + bias
                if beta == 0.75:
                    root = np.float32(math.sqrt(base))
                    base = root * np.float32(math.sqrt(root))
                elif beta == 0.5:
                    base = np.float32(math.sqrt(base))
                elif beta == 0:
                    base = exp32(power * log32(base))
                write(y, i, read(x, i) / base)

    return kernel


def norm_columns(dtype, square):
    """LpNormalization along the middle of (outer, n, inner).

    Arguments as those of `softmax_columns`.
    """
    read, write = access(dtype)
    size, real = np.dtype(dtype).itemsize, np.dtype(dtype).type

    def kernel(p, begin, end, thread):
        n, inner = arg(p, 2), arg(p, 3)
        norm = arg(p, 4) + thread * arg(p, 5)
        pieces = (inner + _SPAN - 1) // _SPAN
        for unit in range(begin, end):
            outer, piece = unit // pieces, unit % pieces
            first = (outer * n * inner + piece * _SPAN) * size
            x, y = arg(p, 0) + first, arg(p, 1) + first
            columns = min(inner - piece * _SPAN, _SPAN)
            for j in range(columns):
                write(norm, j, real(0))
            for i in range(n):
                for j in range(columns):
                    value = read(x, i * inner + j)
                    write(norm, j, read(norm, j) + (value * value if square else abs(value)))
            for j in range(columns):
                value = read(norm, j)
                value = real(math.sqrt(value)) if square else value
                write(norm, j, real(np.inf) if value == 0 else value)
            for i in range(n):
                for j in range(columns):
                    write(y, i * inner + j, read(x, i * inner + j) / read(norm, j))

    return kernel


def norm_rows(dtype, square):
    """LpNormalization along rows. Arguments: x, y, elements in a row. Units: rows."""
    sum_of, divide = total(dtype, "square" if square else "abs"), quotient(dtype)
    size, real = np.dtype(dtype).itemsize, types.float32 if dtype == "float32" else types.float64

    def kernel(p, begin, end, thread):
        n = arg(p, 2)
        for row in range(begin, end):
            at = row * n * size
            norm = real(sum_of(arg(p, 0) + at, n, real(0)))
            if square:
                norm = real(math.sqrt(norm))
            divide(arg(p, 0) + at, arg(p, 1) + at, n, real(np.inf) if norm == real(0) else norm)

    return kernel
