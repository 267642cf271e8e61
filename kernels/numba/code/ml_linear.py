"""Kernels of linear models, support vector machines and feature scaling."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, F64, I64, access, arg, arg_float, device
from onnxref.native.vectors import Vectors

from .ml_trees import exp64, first_of_highest, post_transform, rounding, transform_rows

_load64, _store64 = access("int64")
_load, _store = access("float64")

LINEAR, POLY, RBF, SIGMOID = range(4)
_COLUMNS = 4  # vectors of support vectors that are compared at once


@cache
def _dots(double: bool, lines: int):
    """Return an intrinsic that stores the products of x with `lines` vectors, as float64.

    Arguments: x, the first vector, bytes from one vector to the next, elements, goal. Each sum is
    made in the same way for any number of lines: two vectors of partial sums, a masked end.
    """
    element = F64 if double else F32

    @intrinsic
    def dots(context, x, w, stride, count, goal):
        def generate(ctx, builder, signature, values):
            x, w, stride, count, goal = values
            v = Vectors(builder, element)
            others = [builder.add(w, builder.mul(stride, I64(k))) for k in range(lines)]

            def pair(i, held):
                offset = v.mul(i, 2 * v.nbytes)
                following = []
                for half in range(2):
                    shared = v.load(x, half * v.nbytes, offset)
                    following += [
                        v.fma(shared, v.load(other, half * v.nbytes, offset), held[half * lines + k])
                        for k, other in enumerate(others)
                    ]
                return following

            def end(i, held):
                at = builder.add(done, v.mul(i, v.lanes))
                mask = v.mask(builder.sub(count, at))
                offset = v.mul(at, v.size)
                shared = v.load_masked(mask, x, 0, offset)
                return [
                    v.fma(shared, v.load_masked(mask, other, 0, offset), held[k])
                    for k, other in enumerate(others)
                ]

            whole = builder.sdiv(count, I64(2 * v.lanes))
            sums = _loop_if_any(builder, v, whole, [v.constant(0.0)] * (2 * lines), pair)
            sums = [builder.fadd(sums[k], sums[lines + k]) for k in range(lines)]
            done = v.mul(whole, 2 * v.lanes)
            rest = builder.sub(count, done)
            pieces = builder.sdiv(builder.add(rest, I64(v.lanes - 1)), I64(v.lanes))
            for k, total in enumerate(_loop_if_any(builder, v, pieces, sums, end)):
                result = v.sum(total)
                result = result if double else builder.fpext(result, F64)
                builder.store(result, v.pointer(goal, 8 * k, None, F64), align=8)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return dots


def _loop_if_any(builder, v, count, carried, body):
    """Emit `v.loop` for a count that may be 0."""
    before = builder.basic_block
    inside = builder.function.append_basic_block("some")
    after = builder.function.append_basic_block("none")
    builder.cbranch(builder.icmp_signed(">", count, I64(0)), inside, after)
    builder.position_at_end(inside)
    found = v.loop(count, carried, body)
    last = builder.basic_block
    builder.branch(after)
    builder.position_at_end(after)
    joined = []
    for start, value in zip(carried, found, strict=True):
        phi = builder.phi(value.type)
        phi.add_incoming(start, before)
        phi.add_incoming(value, last)
        joined.append(phi)
    return joined


@cache
def _compare(distance: bool):
    """Return an intrinsic: the products, or squared distances, of a row with 4 vectors of support vectors.

    Arguments: x, support vectors feature by feature, features (at least 1), bytes of a feature, goal.
    """

    @intrinsic
    def compare(context, x, vectors, features, stride, goal):
        def generate(ctx, builder, signature, values):
            x, vectors, features, stride, goal = values
            v = Vectors(builder, F64)

            def body(i, held):
                value = v.broadcast(x, 0, v.mul(i, 8))
                row = builder.mul(i, stride)
                following = []
                for k in range(_COLUMNS):
                    other = v.load(vectors, k * v.nbytes, row)
                    first = second = builder.fsub(value, other)
                    if not distance:
                        first, second = value, other
                    following.append(v.fma(first, second, held[k]))
                return following

            found = v.loop(features, [v.constant(0.0)] * _COLUMNS, body)
            for k, value in enumerate(found):
                v.store(value, goal, k * v.nbytes)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return compare


def convert(source: str, goal: str):
    """Kernel that converts elements: source, goal, count. Units: blocks of 1024."""
    load, _ = access(source)
    _, store = access(goal)
    kind = np.float64 if goal == "float64" else np.float32

    def kernel(p, begin, end, thread):
        x, y = arg(p, 0), arg(p, 1)
        for i in range(begin * 1024, min(end * 1024, arg(p, 2))):
            store(y, i, kind(load(x, i)))

    return kernel


def linear(double: bool, lines: int):
    """Kernel of x W^T + b: x, weights (targets, features), intercepts or 0, scores in float64, features,
    targets. Every score is rounded as its type wants. Units: rows.

        lines: products that are made at once: of targets, or of rows where there is one target.
    """
    dot, dots = _dots(double, 1), _dots(double, lines)
    size = 8 if double else 4
    rounded = rounding("float64" if double else "float32")

    @device
    def many(x, others, goal, features, count):
        """Products of x with `count` rows that follow each other."""
        stride = features * size
        if count >= lines:
            for k in range(0, count - lines + 1, lines):
                dots(x, others + k * stride, stride, features, goal + 8 * k)
            if count % lines:  # the last ones, some of them once more
                last = count - lines
                dots(x, others + last * stride, stride, features, goal + 8 * last)
        else:
            for k in range(count):
                dot(x, others + k * stride, stride, features, goal + 8 * k)

    def kernel(p, begin, end, thread):
        x, w, bias, y, features, targets = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        if targets == 1:
            many(w, x + begin * features * size, y + 8 * begin, features, end - begin)
        else:
            for row in range(begin, end):
                many(x + row * features * size, w, y + 8 * row * targets, features, targets)
        if bias:
            for row in range(begin, end):
                for target in range(targets):
                    at = row * targets + target
                    _store(y, at, rounded(_load(y, at) + _load(bias, target)))

    return kernel


_ROWS = 64  # rows whose scores are transformed at once


def finish(score: str, labelled: bool):
    """Kernel that makes labels and float32 results of scores. Units: rows.

    Arguments: scores, which it uses up, columns of them, transform, what first column to put before a
    single one (0 none, 1 one minus it, 2 its negative), how the label follows (0 from the highest
    score, 1 from the sign), labels, goal of labels, goal of results, scratch, bytes of it.
    """
    rounded = rounding(score)
    _, store = access("float32")

    @device
    def label(p, row, scores, width):
        last = _load(scores, width - 1)
        chosen = np.int64(last > 0) if arg(p, 4) else first_of_highest(scores, width)
        _store64(arg(p, 6), row, _load64(arg(p, 5), chosen))

    @device
    def together(p, begin, end):
        """Make the results of rows whose scores are all there, in place of these."""
        columns = arg(p, 1)
        scores, goal = arg(p, 0) + 8 * begin * columns, arg(p, 7) + 4 * begin * columns
        if labelled:
            for row in range(begin, end):
                label(p, row, arg(p, 0) + 8 * row * columns, columns)
        transform_rows(scores, end - begin, columns, arg(p, 2))
        for i in range((end - begin) * columns):
            store(goal, i, np.float32(rounded(_load(scores, i))))

    @device
    def alone(p, row, held):
        """Make the results of a row that has two columns and one score."""
        before, score = arg(p, 3), _load(arg(p, 0), row)
        _store(held, 1, score)
        if labelled:
            label(p, row, held, 2)
        _store(held, 0, rounded(1.0 - score) if before == 1 else -score)
        post_transform(held, 2, arg(p, 2))
        for k in range(2):
            store(arg(p, 7), 2 * row + k, np.float32(rounded(_load(held, k))))

    def kernel(p, begin, end, thread):
        if arg(p, 3):
            for row in range(begin, end):
                alone(p, row, arg(p, 8) + thread * arg(p, 9))
        else:
            for first in range(begin, end, _ROWS):
                together(p, first, min(end, first + _ROWS))

    return kernel


def svm(kernel_type: int):
    """Kernel that compares rows with support vectors and adds up by classes. Units: rows.

    Arguments: x (float64), support vectors (features, padded count), features, count, padded count,
    coefficients (lines, count), lines, starts of the classes, classes, goal (rows, classes, lines),
    scratch, bytes of it, gamma, coef0, degree.
    """
    dot, compare = _dots(True, 1), _compare(kernel_type == RBF)
    lanes = Vectors(None, F64).lanes

    @device
    def apply(held, count, gamma, coef0, degree):
        if kernel_type == RBF:
            for i in range(count):
                _store(held, i, exp64(-gamma * _load(held, i)))
        elif kernel_type == SIGMOID:
            for i in range(count):
                _store(held, i, math.tanh(gamma * _load(held, i) + coef0))
        elif kernel_type == POLY:
            for i in range(count):
                _store(held, i, (gamma * _load(held, i) + coef0) ** degree)

    def kernel(p, begin, end, thread):
        features, count, padded, lines, classes = arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 6), arg(p, 8)
        held = arg(p, 10) + thread * arg(p, 11)
        for row in range(begin, end):
            for v in range(0, padded, _COLUMNS * lanes):
                compare(arg(p, 0) + 8 * row * features, arg(p, 1) + 8 * v, features, 8 * padded, held + 8 * v)
            apply(held, count, arg_float(p, 12), arg_float(p, 13), arg_float(p, 14))
            for c in range(classes):
                first, last = _load64(arg(p, 7), c), _load64(arg(p, 7), c + 1)
                for line in range(lines):
                    goal = arg(p, 9) + 8 * ((row * classes + c) * lines + line)
                    dot(held + 8 * first, arg(p, 5) + 8 * (line * count + first), 0, last - first, goal)

    return kernel


@device
def _couple(p, q, qp, classes):
    """Wu, Lin and Weng (2004), second method: class probabilities p from the matrix q of the pairs."""
    for c in range(classes):
        _store(p, c, 1.0 / classes)
    for _ in range(max(100, classes)):
        pqp, worst = 0.0, 0.0
        for i in range(classes):
            total = 0.0
            for j in range(classes):
                total += _load(q, i * classes + j) * _load(p, j)
            _store(qp, i, total)
            pqp += _load(p, i) * total
        for i in range(classes):
            worst = max(worst, abs(_load(qp, i) - pqp))
        if not worst >= 0.005 / classes:
            break
        for c in range(classes):
            own = _load(q, c * classes + c)
            delta = (pqp - _load(qp, c)) / own
            _store(p, c, _load(p, c) + delta)
            pqp = (pqp + delta * (delta * own + 2.0 * _load(qp, c))) / ((1.0 + delta) * (1.0 + delta))
            for j in range(classes):
                _store(qp, j, (_load(qp, j) + delta * _load(q, j * classes + c)) / (1.0 + delta))
                _store(p, j, _load(p, j) / (1.0 + delta))


def svm_pairs(labelled: bool, probable: bool):
    """Kernel that makes votes, and scores or probabilities, of what the classes' support vectors say.

    Arguments: parts (rows, classes, classes - 1), classes, rho, prob_a, prob_b, labels, goal of labels,
    goal of scores in float64, scratch, bytes of it. Units: rows.
    """

    @device
    def sigmoid(x):
        tail = math.exp(-abs(x))
        return (tail if x < 0 else 1.0) / (1.0 + tail)

    @device
    def fill_couples(p, scores, q, classes):
        """Make the matrix q: q[i, j] = -a[i, j] a[j, i], on the diagonal the sum of a[i, j] squared."""
        for i in range(classes):
            _store(q, i * classes + i, 0.0)
        pair = 0
        for i in range(classes):
            for j in range(i + 1, classes):
                wins = sigmoid(-(_load(scores, pair) * _load(arg(p, 3), pair) + _load(arg(p, 4), pair)))
                wins = min(max(wins, 1e-7), 1.0 - 1e-7)
                _store(q, i * classes + j, -wins * (1.0 - wins))
                _store(q, j * classes + i, -wins * (1.0 - wins))
                own, other = i * classes + i, j * classes + j
                _store(q, own, _load(q, own) + (1.0 - wins) * (1.0 - wins))
                _store(q, other, _load(q, other) + wins * wins)
                pair += 1

    def kernel(p, begin, end, thread):
        classes = arg(p, 1)
        pairs = classes * (classes - 1) // 2
        scratch = arg(p, 8) + thread * arg(p, 9)
        votes, scores = scratch, scratch + 8 * classes
        q = scores + 8 * pairs
        for row in range(begin, end):
            parts = arg(p, 0) + 8 * row * classes * (classes - 1)
            for c in range(classes):
                _store(votes, c, 0.0)
            pair = 0
            for i in range(classes):
                for j in range(i + 1, classes):
                    score = _load(parts, i * (classes - 1) + j - 1) + _load(parts, j * (classes - 1) + i)
                    score += _load(arg(p, 2), pair)
                    _store(scores, pair, score)
                    winner = i if score > 0 else j
                    _store(votes, winner, _load(votes, winner) + 1.0)
                    pair += 1
            if labelled:
                _store64(arg(p, 6), row, _load64(arg(p, 5), first_of_highest(votes, classes)))
            if probable:
                fill_couples(p, scores, q, classes)
                _couple(arg(p, 7) + 8 * row * classes, q, q + 8 * classes * classes, classes)
            else:
                for k in range(pairs):
                    _store(arg(p, 7), row * pairs + k, _load(scores, k))

    return kernel


def svm_regression(one_class: bool):
    """Kernel: sums, transform, rho, goal. Units: rows."""
    _, store = access("float32")

    def kernel(p, begin, end, thread):
        for row in range(begin, end):
            score = _load(arg(p, 0), row) + arg_float(p, 2)
            if one_class:
                store(arg(p, 3), row, np.float32(1.0) if score > 0 else np.float32(-1.0))
            else:
                place = arg(p, 0) + 8 * row
                _store(place, 0, score)
                post_transform(place, 1, arg(p, 1))
                store(arg(p, 3), row, np.float32(_load(place, 0)))

    return kernel


# --- features ------------------------------------------------------------------------------------


def scaler(dtype: str):
    """Kernel of (x - offset) * scale: x, goal, offsets, scales, features. Units: rows."""
    load, _ = access(dtype)
    wide = "float32" if dtype == "float32" else "float64"
    kind = np.float32 if dtype == "float32" else np.float64
    get, _ = access(wide)
    _, store = access("float32")

    def kernel(p, begin, end, thread):
        x, y, offset, scale, features = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        for row in range(begin, end):
            at, goal = row * features, y + 4 * row * features
            for i in range(features):
                store(goal, i, np.float32((kind(load(x, at + i)) - get(offset, i)) * get(scale, i)))

    return kernel


def imputer(dtype: str, nan: bool):
    """Kernel of Imputer: x, goal, values, features, what is replaced (one element). Units: rows."""
    load, store = access(dtype)

    def kernel(p, begin, end, thread):
        x, y, values, features = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        wanted = load(arg(p, 4), 0)
        for row in range(begin, end):
            at = row * features
            for i in range(features):
                value = load(x, at + i)
                missing = value != value if nan else value == wanted
                new = load(values, i)
                store(y, at + i, new if missing else value)

    return kernel


def binarizer(dtype: str):
    """Kernel of x > threshold: x, goal, count, threshold (one element). Units: blocks of 1024."""
    load, store = access(dtype)
    kind = {"float32": np.float32, "float64": np.float64, "int32": np.int32, "int64": np.int64}[dtype]

    def kernel(p, begin, end, thread):
        threshold = load(arg(p, 3), 0)
        for i in range(begin * 1024, min(end * 1024, arg(p, 2))):
            store(arg(p, 1), i, kind(1) if load(arg(p, 0), i) > threshold else kind(0))

    return kernel


MAX, L1, L2 = range(3)


def normalizer(dtype: str, norm: int):
    """Kernel of x divided by the norm of its row: x, goal, columns. Units: rows."""
    load, _ = access(dtype)
    _, store = access("float32")

    @device
    def size(x, i):
        value = np.float64(load(x, i))
        return abs(value) if norm == L1 else value * value

    @device
    def largest(x, at, columns):
        top = -math.inf
        for i in range(columns):
            value = np.float64(load(x, at + i))
            top = value if value > top or value != value else top
        return top

    @device
    def measure(x, at, columns):
        if norm == MAX:
            return largest(x, at, columns)
        # Sums of their own for each eighth element: one alone would wait for every addition.
        a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        whole = columns // 8 * 8
        for i in range(at, at + whole, 8):
            a += size(x, i)
            b += size(x, i + 1)
            c += size(x, i + 2)
            d += size(x, i + 3)
            e += size(x, i + 4)
            f += size(x, i + 5)
            g += size(x, i + 6)
            h += size(x, i + 7)
        total = ((a + e) + (b + f)) + ((c + g) + (d + h))
        for i in range(at + whole, at + columns):
            total += size(x, i)
        return math.sqrt(total) if norm == L2 else total

    def kernel(p, begin, end, thread):
        x, y, columns = arg(p, 0), arg(p, 1), arg(p, 2)
        for row in range(begin, end):
            at = row * columns
            divisor = measure(x, at, columns)
            divisor = 1.0 if divisor == 0 else divisor
            for i in range(columns):
                store(y, at + i, np.float32(np.float64(load(x, at + i)) / divisor))

    return kernel


def features(dtype: str):
    """Kernel that writes one input of FeatureVectorizer: x, goal, columns of x, columns to take, columns
    to fill with them and zeros, columns of the goal. Units: rows."""
    load, _ = access(dtype)
    _, store = access("float32")

    def kernel(p, begin, end, thread):
        x, y, columns, taken, filled, width = (
            arg(p, 0),
            arg(p, 1),
            arg(p, 2),
            arg(p, 3),
            arg(p, 4),
            arg(p, 5),
        )
        for row in range(begin, end):
            for i in range(taken):
                store(y, row * width + i, np.float32(load(x, row * columns + i)))
            for i in range(taken, filled):
                store(y, row * width + i, np.float32(0.0))

    return kernel
