"""Tokenizer of com.microsoft: the operator that skl2onnx writes for text, by ONNX Runtime's documents.

Expressions are RE2's, and the longest match counts. Python's `re`, which is several times faster here,
takes the first alternative that matches and may need exponential time; it serves expressions for which
neither makes a difference: runs of one class of characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import MICROSOFT, Context, op

from ._text_common import compile_re2, padded_rows

_START, _END = "\x02", "\x03"  # start and end of text
_REFERENCE_BYTES = 8  # what a string tensor holds per element

# [...]+ without classes that the two libraries read differently, or \w+; possibly \w\w+, possibly \b around.
_SET = r"(?:\[\^?(?:[A-Za-z0-9](?:-[A-Za-z0-9])?|[ _,;:.!?'\"#%&@/<>=~]|\\[wd])+\])"
_RUN = re.compile(rf"({_SET}|\\[wd])\1*\+")
_SIMPLE_RUN = re.compile(rf"({_SET}|\\[wd])\+")
_WORD_RUN = re.compile(r"\\b(\\w|\[a-zA-Z0-9_\])\1*\+\\b")

_LONGEST_JOINED = 1 << 20  # characters; many strings may be one long string

_Split = Callable[[str], list[str]]


def _matches(expression: str, shortest: int) -> _Split:
    """Return the function that finds the tokens of a string."""
    if _is_run(expression):
        find = re.compile(expression, re.ASCII).findall
        return lambda text: [token for token in find(text) if len(token) >= shortest]
    search = compile_re2(expression.encode(), longest_match=True).search

    def split(text: str) -> list[str]:
        data = text.encode()
        tokens = []
        start = 0
        while start <= len(data) and (match := search(data, start)):
            token = match.group().decode()
            if len(token) >= shortest:
                tokens.append(token)
                start = match.end()
            else:
                start = _next_character(data, match.start())
        return tokens

    return split


def _is_run(expression: str) -> bool:
    """Whether `expression` matches a run of one class of characters, the same in RE2 and in `re.ASCII`."""
    if _WORD_RUN.fullmatch(expression):
        return True
    if not _RUN.fullmatch(expression):
        return False
    try:
        re.compile(expression, re.ASCII)
    except re.error:  # a range from behind, say: RE2's message is the one to show
        return False
    return True


def run_of(expression: str) -> tuple[str, int] | None:
    """Return a class of characters and a number, if `expression` matches runs of at least so many of them.

    The class is an expression that `re.ASCII` and RE2 read in the same way, and runs are as long as they can.
    """
    if not _is_run(expression):
        return None
    found = _WORD_RUN.fullmatch(expression) or _RUN.fullmatch(expression)
    assert found is not None
    return found[1], expression.count(found[1])


class _Words:
    """Finds runs of a class of visible ASCII characters in many short texts, all at once.

    What is not of the class becomes blank, and the texts are split at blanks, without an object for each
    match of an expression.
    """

    _BETWEEN = "\0"

    def __init__(self, characters: str, one_by_one: _Split) -> None:
        self._one_by_one = one_by_one
        self._table = {code: " " for code in range(128) if chr(code) not in characters}
        self._table[ord(self._BETWEEN)] = self._BETWEEN

    @staticmethod
    def of(expression: str, one_by_one: _Split) -> _Words | None:
        """Return what finds the matches of `expression`, None where it does not fit."""
        if "[^" in expression or not (run := _SIMPLE_RUN.fullmatch(expression)) or not _is_run(expression):
            return None
        characters = "".join(re.findall(run[1], "".join(map(chr, range(128))), re.ASCII))
        return None if set(characters) & {" ", "\0"} else _Words(characters, one_by_one)

    def __call__(self, texts: list[str]) -> list[list[str]]:
        if sum(map(len, texts)) <= _LONGEST_JOINED:
            joined = self._BETWEEN.join(texts)
            if joined.isascii() and joined.count(self._BETWEEN) == len(texts) - 1:
                return list(map(str.split, joined.translate(self._table).split(self._BETWEEN)))
        return list(map(self._one_by_one, texts))


def _next_character(data: bytes, position: int) -> int:
    """Return where the character after the one at `position` begins in UTF-8."""
    position += 1
    while position < len(data) and data[position] & 0xC0 == 0x80:
        position += 1
    return position


def _between(expression: str, shortest: int) -> _Split:
    """Return the function that cuts a string at what matches."""
    if expression and re.escape(expression) == expression:
        return lambda text: [token for token in text.split(expression) if len(token) >= shortest]
    search = compile_re2(expression.encode(), longest_match=True).search

    def split(text: str) -> list[str]:
        data = text.encode()
        tokens = []
        start = 0
        while start <= len(data) and (match := search(data, start)):
            tokens.append(data[start : match.start()].decode())
            # A separator that matches nothing takes a character with it.
            start = match.end() if match.end() > match.start() else _next_character(data, match.start())
        tokens.append(data[start:].decode())
        return [token for token in tokens if len(token) >= shortest]

    return split


def _one_after_the_other(splits: list[_Split]) -> _Split:
    def split(text: str) -> list[str]:
        tokens = [text]
        for cut in splits:
            tokens = [part for token in tokens for part in cut(token)]
        return tokens

    return splits[0] if len(splits) == 1 else split


class _Tokens(NamedTuple):
    """What Tokenizer needs of its attributes."""

    split: _Split
    words: _Words | None  # does the same for many texts
    pad_value: str
    mark: bool


def _prepare(
    *,
    mark: int,
    mincharnum: int,
    pad_value: str,
    separators: tuple[str, ...] | None = None,
    tokenexp: str | None = None,
) -> _Tokens:
    if mincharnum < 1:
        raise KernelError(f"mincharnum must be >= 1 (got {mincharnum})")
    if separators is None and not tokenexp:
        raise KernelError("one of separators and tokenexp must be given (got none)")
    if separators is not None and not separators:
        raise KernelError("separators must not be empty (got none)")
    # Separators win where both are given.
    if separators == ("",) or (separators is None and tokenexp == "."):
        if mincharnum > 1:
            raise KernelError(f"mincharnum must be 1 for single characters (got {mincharnum})")
        return _Tokens(list, None, pad_value, bool(mark))
    if separators is not None:
        split = _one_after_the_other([_between(expression, mincharnum) for expression in separators])
        return _Tokens(split, None, pad_value, bool(mark))
    expression = tokenexp or ""
    split = _matches(expression, mincharnum)
    words = _Words.of(expression, split) if mincharnum == 1 else None
    return _Tokens(split, words, pad_value, bool(mark))


@op("Tokenizer", since=1, domain=MICROSOFT, prepare=_prepare)
def tokenizer(x: Array, *, prepared: _Tokens, ctx: Context) -> Array:
    """Cut each string of (C,) or (N, C) into tokens, (C, D) or (N, C, D), padded (com.microsoft Tokenizer-1).

    D is the most tokens that a string has. With `mark`, each row's tokens stand between start and end of
    text, and the padding behind those.
    """
    if x.ndim not in (1, 2):
        raise KernelError(f"X must have shape (C,) or (N, C) (got {x.shape})")
    if x.size == 0:
        return np.empty((*x.shape[:-1], 0), object)
    texts = x.ravel().tolist()
    _check_unicode(texts)
    rows = list(map(prepared.split, texts)) if prepared.words is None else prepared.words(texts)
    most = max(map(len, rows))
    if prepared.mark and most:
        rows = [[_START, *row, _END] for row in rows]
        most += 2
    # One long string pads all the others.
    ctx.budget.check_bytes(x.size * most * _REFERENCE_BYTES)
    return padded_rows(rows, most, prepared.pad_value).reshape(*x.shape, most)


def _check_unicode(texts: list[str]) -> None:
    """Refuse lone surrogates: they stand for bytes that are not UTF-8."""
    try:
        for text in texts:
            if not text.isascii():
                text.encode()
    except UnicodeEncodeError as error:
        raise KernelError(f"X must hold valid Unicode (got {text!r})") from error
