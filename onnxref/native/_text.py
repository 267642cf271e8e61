"""Where CPython keeps the characters of a `str`, for native code that reads string tensors.

A string tensor is an array of addresses of Python objects. Native code reads a `str` without a call of
the interpreter: its type, its length, the word that tells how its characters are stored, and these. Where
all that lies differs between versions of CPython, and no interface promises it: it is found out on sample
strings, and where the samples contradict each other there is no layout, and native code reads no strings.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_POINTER = ctypes.sizeof(ctypes.c_void_p)
# Kinds of storage: ASCII, and 1, 2, 4 bytes a character.
_WIDTHS = (1, 1, 2, 4)


class TextLayout(NamedTuple):
    """Where a `str` object holds what, in bytes from its address.

    Attributes:
        type_at: address of its type, which must be exactly `str_type`: a subclass may mean other things.
        length_at: number of characters.
        state_at: 32 bits; those of `state_mask` are one of `states` for characters stored as ASCII, or in
            1, 2, 4 bytes each.
        ascii_at: the characters, if they are ASCII.
        wide_at: the characters, if they are not.
    """

    str_type: int
    type_at: int
    length_at: int
    state_at: int
    state_mask: int
    states: tuple[int, int, int, int]
    ascii_at: int
    wide_at: int

    def table(self) -> NDArray[np.int64]:
        """Return it as the int64s that kernels read, in the order of the fields."""
        fields = (*self[:5], *self.states, self.ascii_at, self.wide_at)
        return np.array(fields, np.int64)


@cache
def text_layout() -> TextLayout | None:
    """Return where `str` objects of this interpreter hold what; None where that cannot be told.

    Reading without the interpreter's lock needs strings that stay alive: who launches the native code holds
    references of his own. Without that lock at all, not even these could be taken safely.
    """
    is_locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or not is_locked or _POINTER != 8:
        return None
    head = object.__basicsize__
    # The head of an object ends with its type; a length and a hash of one word each follow, then the state.
    type_at, length_at, state_at = head - _POINTER, head, head + 2 * _POINTER
    samples = [_samples(alphabet) for alphabet in ("aZ~\0", "\xe9\xff", "\u0100\ufffd", "\U00010000")]
    found = _states([[_word(text, state_at) for text in texts] for texts in samples])
    ascii_at = sys.getsizeof(samples[0][-1]) - len(samples[0][-1]) - 1
    wide_at = sys.getsizeof(samples[1][-1]) - len(samples[1][-1]) - 1
    if found is None or min(ascii_at, wide_at) < state_at + 4:
        return None
    mask, states = found
    layout = TextLayout(id(str), type_at, length_at, state_at, mask, states, ascii_at, wide_at)
    right = (_holds(layout, text, kind) for kind, texts in enumerate(samples) for text in texts)
    return layout if all(right) else None


def _samples(alphabet: str) -> list[str]:
    """Return strings of one kind: made once and for all, interned, and fresh ones of many lengths."""
    fresh = ["".join(alphabet[i % len(alphabet)] for i in range(n)) for n in (2, 3, 4, 7, 8, 9, 31, 100)]
    names = [sys.intern("".join((alphabet[0] * 3, name))) for name in ("", "_", "0")]
    known = [alphabet[0], "", "str"] if alphabet.isascii() else [alphabet[0]]
    return [*known, *names, *fresh]


def _word(text: str, offset: int) -> int:
    return ctypes.c_uint32.from_address(id(text) + offset).value


def _states(words: Sequence[Sequence[int]]) -> tuple[int, tuple[int, int, int, int]] | None:
    """Return the bits that are the same within each kind, and what they are; None if they tell no kinds."""
    mask = 0xFFFFFFFF
    for of_kind in words:
        for word in of_kind:
            mask &= ~(word ^ of_kind[0])
    # Bits that are 0 in all of them tell nothing: they may be those of interned strings, or nobody's.
    mask &= words[0][0] | words[1][0] | words[2][0] | words[3][0]
    first, second, third, fourth = (of_kind[0] & mask for of_kind in words)
    return (mask, (first, second, third, fourth)) if len({first, second, third, fourth}) == 4 else None


def _holds(layout: TextLayout, text: str, kind: int) -> bool:
    """Whether a string is where a layout says."""
    address, width = id(text), _WIDTHS[kind]
    if ctypes.c_size_t.from_address(address + layout.type_at).value != layout.str_type:
        return False
    if ctypes.c_ssize_t.from_address(address + layout.length_at).value != len(text):
        return False
    data = address + (layout.ascii_at if kind == 0 else layout.wide_at)
    if sys.getsizeof(text) < data - address + (len(text) + 1) * width:
        return False
    encoding = {1: "latin-1", 2: f"utf-16-{sys.byteorder[0]}e", 4: f"utf-32-{sys.byteorder[0]}e"}[width]
    return ctypes.string_at(data, len(text) * width) == text.encode(encoding)
