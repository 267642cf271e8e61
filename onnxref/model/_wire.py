"""Takes the large payloads out of a serialised model, so that each is read once, into an array of its own.

Protobuf copies the file's bytes into its message, and the message's bytes into every value that is asked
of it. So the file is read here first, as far as its wire format goes: every large `raw_data` is read
straight into an array, and a token takes its place. The rest, the skeleton, is small and is
parsed by protobuf as ever.

Rules
    1. Only the payload of `TensorProto.raw_data` is replaced, and the lengths of the messages around it.
       All else stays as it is, byte for byte, in its place: unknown fields, repeated ones, odd encodings.
    2. Nothing is judged here. A file that is not understood (a length beyond its message, a group, a
       number that is too long) is left to protobuf as a whole, which words the error.
    3. What is accepted here is never more than protobuf would accept: lengths and nesting have its limits.
    4. A token holds random bytes that were drawn for this file, so that no file can name a payload.
    5. It is allowed to leave a payload in its place. That is done where looking for it would take long.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx

from ..dtypes import Array

SMALLEST = 16384  # bytes of a payload that is worth an array of its own
ALIGNMENT = 64  # of the arrays, as vector instructions like it
_DEEPEST = 100  # messages within messages, as protobuf has it
_LARGEST = 2**31 - 1  # bytes of one message, as protobuf has it
_LONGEST_RUN = 100  # fields without a message, one after the other (rule 5)
_WINDOW = 1 << 14  # bytes that are read at a time
_VARINT, _BYTES = 0, 2  # wire types
_FIXED = {1: 8, 5: 4}  # wire types, and how many bytes follow

_NONCE_BYTES = 16
_TOKEN_BYTES = _NONCE_BYTES + 8

_Holder: TypeAlias = "dict[int, _Holder | None]"
"""Fields of a message by number: the holder that a field's message is, None for the payload itself."""


class SeekableFile(Protocol):
    """What is needed of a binary file."""

    def tell(self) -> int: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def read(self, size: int = ..., /) -> bytes: ...
    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Payloads:
    """The arrays that were taken out of one file, by their tokens."""

    __slots__ = ("_arrays", "_nonce")

    def __init__(self) -> None:
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._arrays: dict[bytes, Array] = {}

    def put(self, array: Array) -> bytes:
        """Keep an array; return its token."""
        token = self._nonce + len(self._arrays).to_bytes(_TOKEN_BYTES - _NONCE_BYTES, "little")
        self._arrays[token] = array
        return token

    def pop(self, raw: bytes) -> Array | None:
        """Return the array that stands behind a `raw_data`, and keep it no longer; None if it is no token."""
        return self._arrays.pop(raw, None) if len(raw) == _TOKEN_BYTES else None


def take_payloads(file: SeekableFile) -> tuple[bytes, Payloads]:
    """Return the skeleton of a serialised model, and the payloads that were taken out of it.

    Args:
        file: the model reaches from where it stands to its end; it may stand anywhere afterwards.

    Returns:
        All bytes, and no payloads, if there are none or the file is not understood (rule 2).
    """
    begin = file.tell()
    taker = _Taker(file, end=file.seek(0, os.SEEK_END))
    try:
        taken = taker.message(_holder(), begin, taker.end, 0)
    except _NotUnderstoodError:
        taken = None
    if taken is None:
        file.seek(begin)
        return file.read(), Payloads()
    return b"".join(taker.parts), taker.payloads


class _NotUnderstoodError(Exception):
    """The file is none that rule 3 lets us read."""


@functools.cache
def _holder() -> _Holder:
    """Return which fields of `ModelProto` lead to a payload, as the message types themselves have it."""
    made: dict[str, _Holder] = {}

    def visit(descriptor: Any) -> _Holder:
        found = made.get(descriptor.full_name)
        if found is None:
            found = made[descriptor.full_name] = {}
            for inner in descriptor.fields:
                if inner.message_type is not None:
                    found[inner.number] = visit(inner.message_type)
        return found

    holder = visit(onnx.ModelProto.DESCRIPTOR)
    tensor = onnx.TensorProto.DESCRIPTOR
    made[tensor.full_name][tensor.fields_by_name["raw_data"].number] = None
    return holder


@dataclass(slots=True)
class _Taker:
    """Walks through the messages of a file.

    Attributes:
        end: where the file ends.
        parts: the skeleton, in order.
        window, base: bytes of the file that were read last, and where they lie.
    """

    file: SeekableFile
    end: int
    parts: list[bytes] = field(default_factory=list)
    payloads: Payloads = field(default_factory=Payloads)
    window: bytes = b""
    base: int = 0

    def message(self, fields: Mapping[int, _Holder | None], begin: int, end: int, depth: int) -> int | None:
        """Append the skeleton of a message that lies from `begin` to `end`; return its size.

        Returns:
            None where nothing was taken out of the message; then nothing is appended.
        """
        if depth >= _DEEPEST:
            raise _NotUnderstoodError
        size = 0
        kept = position = begin  # what lies before `kept` has been appended
        run = 0
        while position < end and run < _LONGEST_RUN:
            run += 1
            tag, value = self._varint(position, 5)
            wire = tag & 7
            if wire == _BYTES:
                length, inner = self._varint(value, 5)
                position = inner + length
                if length > _LARGEST or position > end:
                    raise _NotUnderstoodError
                if (number := tag >> 3) in fields:
                    run = 0
                    if length > SMALLEST:
                        added = self._append(kept, value, fields[number], inner, position, depth)
                        if added is not None:
                            size += added
                            kept = position
            elif wire == _VARINT:
                position = self._varint(value, 10)[1]
            elif wire in _FIXED:
                position = value + _FIXED[wire]
            else:
                raise _NotUnderstoodError
        if position > end:
            raise _NotUnderstoodError
        if kept == begin:
            return None
        self.parts.append(self._read(kept, end - kept))
        return size + end - kept

    def _append(
        self, kept: int, value: int, holder: _Holder | None, begin: int, end: int, depth: int
    ) -> int | None:
        """Append what lies from `kept` to `value`, and the skeleton of the field there; return the size.

        Returns:
            None where nothing was taken out of the field; then nothing is appended.
        """
        place = len(self.parts)
        self.parts += (b"", b"")  # what lies before the field's length, and the length
        if holder is None:
            token = self.payloads.put(self._array(begin, end - begin))
            self.parts.append(token)
            size = len(token)
        else:
            found = self.message(holder, begin, end, depth + 1)
            if found is None:
                del self.parts[place:]
                return None
            size = found
        length = _encoded(size)
        self.parts[place : place + 2] = self._read(kept, value - kept), length
        return value - kept + len(length) + size

    def _varint(self, position: int, longest: int) -> tuple[int, int]:
        """Return a number of at most `longest` bytes, and where it ends, maybe after the file."""
        index = position - self.base
        if not 0 <= index <= len(self.window) - 10:
            count = max(0, min(_WINDOW, self.end - position))
            self.window = self._read(position, count)
            if position + count >= self.end:
                self.window += bytes(10)  # zeros end a number that does not end within the file
            self.base, index = position, 0
        found = self.window[index]
        if found < 0x80:
            return found, position + 1
        found &= 0x7F
        for count in range(1, longest):
            byte = self.window[index + count]
            found |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                return found, position + count + 1
        raise _NotUnderstoodError

    def _read(self, position: int, count: int) -> bytes:
        """Return bytes of the file."""
        index = position - self.base
        if 0 <= index <= len(self.window) - count:
            return self.window[index : index + count]
        self.file.seek(position)
        found = self.file.read(count)
        while len(found) < count:
            more = self.file.read(count - len(found))
            if not more:
                raise _NotUnderstoodError  # it has become shorter while it was read
            found += more
        return found

    def _array(self, position: int, count: int) -> Array:
        """Return bytes of the file as an aligned array."""
        owner = np.empty(count + ALIGNMENT, np.uint8)
        skip = -int(owner.__array_interface__["data"][0]) % ALIGNMENT
        array = owner[skip : skip + count]
        self.file.seek(position)
        rest = array.data
        while rest:
            read = self.file.readinto(rest)
            if not read:
                raise _NotUnderstoodError  # it has become shorter while it was read
            rest = rest[read:]
        owner.flags.writeable = array.flags.writeable = False
        return array


def _encoded(number: int) -> bytes:
    """Return a number as a varint."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
