"""Kernels that read strings: tokens of texts, n-grams, look-ups. Exact.

A string is the address of a Python object; `onnxref.native.text_layout` says what lies where in it. What is
no `str`, or holds characters that the code does not know what to do with, is reported as a fault.

Tokens are packed into words of 8 characters, the first one highest, the last word as far as it is filled.
Tables are int64 arrays that `..text` makes:

    tokens: mask of slots, characters of the longest token, whether some token is not ASCII, 0; then for each
        slot (first word, characters or -1 where it is free, number, place of its other words).
    pairs: mask of slots, 0; then for each slot (key, number or -1 where it is free).
    grams: number of tokens, n of the longest n-gram, longest distance of two tokens of an n-gram, mask of
        the ring, place of the table of pairs; then for each node its coordinate, -1 if it is no n-gram.

N-grams are found from their last token backwards: a node is a token, or a node with the token before it;
the key of that pair is `node * tokens + token`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from onnxref.native.ops import access, arg, device, fill_bytes

BREAK, REFUSE = 255, 254  # classes of characters that end a token, that the reference must see
TOKEN_HEAD, TOKEN_SLOT = 4, 4  # int64
PAIR_HEAD, PAIR_SLOT = 2, 2
GRAM_HEAD = 5
FACTOR = 0x9E3779B97F4A7C15
MOST = 1 << 24  # counts are exact in float32 below

_UNKNOWN, _REFUSED = -1, -2
_DOTTED_I, _KELVIN = 0x130, 0x212A  # what becomes ASCII as a small letter
_SURROGATES = 0xD800 >> 11  # without their lower bits: they stand for bytes that are no text
_BLOCK = 64  # elements of a unit of look-ups

_load_byte, _ = access("uint8")
_load_word, _ = access("uint32")
_load_long, _store_long = access("int64")
_load_double, _ = access("float64")
_load_float, _store_float = access("float32")


@device
def _kind(text, layout):
    """Return how a `str` is stored: 0 as ASCII, 1 to 3 in 1, 2, 4 bytes a character; -1 for all else."""
    if text == 0 or arg(text + arg(layout, 1), 0) != arg(layout, 0):
        return -1
    state = np.int64(_load_word(text + arg(layout, 3), 0)) & arg(layout, 4)
    for kind in range(4):
        if state == arg(layout, 5 + kind):
            return kind
    return -1


@device
def _mixed(h):
    h = h * np.uint64(FACTOR)
    return h ^ (h >> np.uint64(32))


@device
def _find_token(table, words, count):
    """Return the number of the token of `count` characters in `words`, -1 if there is none."""
    if count > arg(table, 1):
        return _UNKNOWN
    n = (count + 7) >> 3
    h = np.uint64(count)
    for k in range(n):
        h = _mixed(h ^ np.uint64(arg(words, k)))
    mask = arg(table, 0)
    slot = np.int64(h) & mask
    first = arg(words, 0) if count else 0
    while True:
        entry = table + 8 * (TOKEN_HEAD + TOKEN_SLOT * slot)
        held = arg(entry, 1)
        if held < 0:
            return _UNKNOWN
        if held == count and arg(entry, 0) == first:
            k, rest = 1, table + 8 * arg(entry, 3)
            while k < n and arg(rest, k - 1) == arg(words, k):
                k += 1
            if k >= n:
                return arg(entry, 2)
        slot = (slot + 1) & mask


@device
def _find_pair(table, key):
    """Return the number of a key, -1 if there is none."""
    mask = arg(table, 0)
    slot = np.int64(_mixed(np.uint64(key))) & mask
    while True:
        entry = table + 8 * (PAIR_HEAD + PAIR_SLOT * slot)
        number = arg(entry, 1)
        if number < 0 or arg(entry, 0) == key:
            return number
        slot = (slot + 1) & mask


@device
def _find_text(table, words, text, layout):
    """Return the number of a whole string, -1 if there is none, -2 if it cannot be told."""
    kind = _kind(text, layout)
    if kind != 0:
        return _REFUSED if kind < 0 or arg(table, 2) else _UNKNOWN
    count = arg(text + arg(layout, 2), 0)
    if count > arg(table, 1):
        return _UNKNOWN
    data, word = text + arg(layout, 9), 0
    for i in range(count):
        word = (word << 8) | np.int64(_load_byte(data, i))
        if i & 7 == 7:
            _store_long(words, i >> 3, word)
            word = 0
    if count & 7:
        _store_long(words, count >> 3, word)
    return _find_token(table, words, count)


@device
def _increase(goal, coordinate):
    if coordinate >= 0:
        _store_float(goal, coordinate, _load_float(goal, coordinate) + np.float32(1))


@cache
def _counting(grams: bool):
    """Return `count(table, ring, goal, at, code)`: take note of token `at` of a row, a number or -1."""

    @device
    def count_tokens(table, ring, goal, at, code):
        if code >= 0:
            _increase(goal, arg(table, GRAM_HEAD + code))

    @device
    def count_grams(table, ring, goal, at, code):
        mask = arg(table, 3)
        _store_long(ring, at & mask, code)
        if code < 0:
            return
        tokens, longest, pairs = arg(table, 0), arg(table, 1), table + 8 * arg(table, 4)
        _increase(goal, arg(table, GRAM_HEAD + code))
        for stride in range(1, arg(table, 2) + 1):
            node, n, place = code, 1, at - stride
            while n < longest and place >= 0:
                before = arg(ring, place & mask)
                node = _UNKNOWN if before < 0 else _find_pair(pairs, node * tokens + before)
                if node < 0:
                    break
                _increase(goal, arg(table, GRAM_HEAD + node))
                n += 1
                place -= stride

    return count_grams if grams else count_tokens


@cache
def _scanning(dtype: str, grams: bool):
    """Return `scan(p, data, length, words, ring, goal)`: count the tokens of a text; False if it cannot."""
    load, _ = access(dtype)
    count_token = _counting(grams)
    narrow = dtype == "uint8"

    @device
    def class_of(classes, lowers, c):
        if narrow or c < 256:
            return np.int64(_load_byte(classes, c))
        is_surrogate = (c >> 11) == _SURROGATES
        becomes_ascii = lowers and c in (_DOTTED_I, _KELVIN)
        return REFUSE if is_surrogate or becomes_ascii else np.int64(_load_byte(classes, 255))

    @device
    def scan(p, data, length, words, ring, goal):
        classes, shortest, longest, lowers = arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        tokens, table = arg(p, 6), arg(p, 7)
        most = arg(tokens, 1)
        i, at = 0, 0
        while i < length:
            c = class_of(classes, lowers, np.int64(load(data, i)))
            if c >= REFUSE:
                if c == REFUSE:
                    return False
                i += 1
                continue
            count, word = 0, 0
            while c < REFUSE and count < longest:
                word = (word << 8) | c
                count += 1
                if count & 7 == 0:
                    if count <= most:
                        _store_long(words, (count >> 3) - 1, word)
                    word = 0
                i += 1
                c = BREAK if i >= length else class_of(classes, lowers, np.int64(load(data, i)))
            if c == REFUSE:
                return False
            if count >= shortest:
                if count & 7 and count <= most:
                    _store_long(words, count >> 3, word)
                count_token(table, ring, goal, at, _find_token(tokens, words, count))
                at += 1
        return True

    return scan


@device
def _finish(goal, width, weights, binary):
    """Make results of counts."""
    if weights:
        for i in range(width):
            count = _load_float(goal, i)
            count = min(count, np.float32(1)) if binary else count
            _store_float(goal, i, np.float32(np.float64(count) * _load_double(weights, i)))
    elif binary:
        for i in range(width):
            _store_float(goal, i, min(_load_float(goal, i), np.float32(1)))


def tokenized_tfidf(grams: bool):
    """Kernel that counts the n-grams of texts. Units: texts.

    Arguments: texts, layout, classes of characters (256 bytes: what a character becomes, or BREAK or REFUSE;
    the last one stands for all beyond), shortest token, longest one, whether capital letters become small,
    tokens, grams, goal, its width, weights or 0, whether to count no further than 1, scratch (the words of a
    token, then the ring), bytes of it, bytes of the words, fault.

        grams: whether there are n-grams of more than one token.
    """
    scan_1, scan_2, scan_4 = (_scanning(dtype, grams) for dtype in ("uint8", "uint16", "uint32"))

    def kernel(p, begin, end, thread):
        layout, width = arg(p, 1), arg(p, 9)
        words = arg(p, 12) + thread * arg(p, 13)
        ring = words + arg(p, 14)
        for row in range(begin, end):
            goal = arg(p, 8) + 4 * row * width
            fill_bytes(goal, 0, 4 * width)
            text = arg(arg(p, 0), row)
            kind = _kind(text, layout)
            length = arg(text + arg(layout, 2), 0) if kind >= 0 else MOST
            data = text + arg(layout, 10 if kind else 9)
            good = False
            if length < MOST:
                if kind <= 1:
                    good = scan_1(p, data, length, words, ring, goal)
                elif kind == 2:
                    good = scan_2(p, data, length, words, ring, goal)
                else:
                    good = scan_4(p, data, length, words, ring, goal)
            if not good:
                _store_long(arg(p, 15), 0, 1)
            _finish(goal, width, arg(p, 10), arg(p, 11))

    return kernel


def tfidf(dtype: str, grams: bool):
    """Kernel of TfIdfVectorizer. Units: rows.

    Arguments: x, layout, columns, tokens (of integers: pairs), grams, goal, its width, weights or 0, whether
    to count no further than 1, scratch (the words of a token, then the ring), bytes of it, bytes of words,
    fault.

        dtype: of x; "str" for strings.
        grams: whether there are n-grams of more than one token.
    """
    texts = dtype == "str"
    load, _ = access("int64" if texts else dtype)
    count_token = _counting(grams)

    @device
    def code_of(p, words, value):
        if texts:
            return _find_text(arg(p, 3), words, value, arg(p, 1))
        return _find_pair(arg(p, 3), value)

    def kernel(p, begin, end, thread):
        columns, width = arg(p, 2), arg(p, 6)
        words = arg(p, 9) + thread * arg(p, 10)
        ring = words + arg(p, 11)
        for row in range(begin, end):
            goal = arg(p, 5) + 4 * row * width
            fill_bytes(goal, 0, 4 * width)
            for at in range(columns):
                code = code_of(p, words, np.int64(load(arg(p, 0), row * columns + at)))
                if code == _REFUSED:
                    _store_long(arg(p, 12), 0, 1)
                count_token(arg(p, 4), ring, goal, at, code)
            _finish(goal, width, arg(p, 7), arg(p, 8))

    return kernel


def look_up(size: int):
    """Kernel of LabelEncoder for keys that are strings. Units: blocks of 64 elements.

    Arguments: x, layout, count, tokens, values with the default behind them, number of the default, goal,
    scratch, bytes of it, fault. Values are moved as unsigned integers of `size` bytes.
    """
    load, store = access(f"uint{8 * size}")

    def kernel(p, begin, end, thread):
        words = arg(p, 7) + thread * arg(p, 8)
        for i in range(begin * _BLOCK, min(end * _BLOCK, arg(p, 2))):
            code = _find_text(arg(p, 3), words, arg(arg(p, 0), i), arg(p, 1))
            if code == _REFUSED:
                _store_long(arg(p, 9), 0, 1)
            store(arg(p, 6), i, load(arg(p, 4), arg(p, 5) if code < 0 else code))

    return kernel


def one_hot():
    """Kernel of OneHotEncoder for categories that are strings. Units: elements.

    Arguments: x, layout, tokens, goal, width, scratch, bytes of it, fault.
    """

    def kernel(p, begin, end, thread):
        width = arg(p, 4)
        words = arg(p, 5) + thread * arg(p, 6)
        for i in range(begin, end):
            goal = arg(p, 3) + 4 * i * width
            fill_bytes(goal, 0, 4 * width)
            code = _find_text(arg(p, 2), words, arg(arg(p, 0), i), arg(p, 1))
            if code == _REFUSED:
                _store_long(arg(p, 7), 0, 1)
            if code >= 0:
                _store_float(goal, code, np.float32(1))

    return kernel
