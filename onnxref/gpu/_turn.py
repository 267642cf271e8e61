"""Whose turn it is to use a device's stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._device import Device


@contextmanager
def turn(device: Device) -> Iterator[None]:
    """Have the stream to oneself, behind what the caller's stream has done, before what it will do.

    While one thread captures, no other may use the stream. New memory may be what the caller's stream still
    works with, so this holds for allocations too.
    """
    with device.lock:
        begun = device.begin()
        try:
            yield
        finally:
            device.end(begun)
