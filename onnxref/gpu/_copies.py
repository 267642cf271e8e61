"""Copies between the places of a program and the arrays of its callers: one launch for all of a run.

A kernel's arguments are read when it is launched. So a run that nobody has waited for keeps its addresses,
whatever the next one does: runs share no table of them.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._kernel import cuda_kernel

if TYPE_CHECKING:
    from ._device import Device

_THREADS = 256
_CHUNK = _THREADS * 64  # bytes that a block copies
_COUNTS = (4, 28, 124)  # tensors of a launch; a kernel has at most 4096 bytes of arguments


@dataclass(frozen=True, slots=True)
class _Group:
    """Tensors `begin` to `end`, that one launch copies between `moving` and fixed addresses."""

    begin: int
    end: int
    moving: Any
    launch: Callable[[], None]


class Copies:
    """Copies of tensors whose one side is fixed while the other is told at each call.

    Args:
        fixed: addresses, one for each tensor.
        sizes: in bytes.
        inward: whether the fixed addresses are where the copies go, else where they come from.
    """

    def __init__(self, device: Device, fixed: Sequence[int], sizes: Sequence[int], *, inward: bool) -> None:
        self._device = device
        self._single = (fixed[0], sizes[0], inward) if len(fixed) == 1 else None
        self._groups: list[_Group] = []
        if self._single is not None:
            return  # the driver's own copy is as good
        for begin in range(0, len(fixed), _COUNTS[-1]):
            end = min(begin + _COUNTS[-1], len(fixed))
            blocks = [0, *itertools.accumulate(-(-size // _CHUNK) for size in sizes[begin:end])]
            if not blocks[-1]:
                continue
            room = next(count for count in _COUNTS if count >= end - begin)
            moving = (ctypes.c_int64 * room)()
            places, lengths, firsts = (
                (*words, *[0] * (room - len(words)))
                for words in (fixed[begin:end], sizes[begin:end], blocks[:-1])
            )
            ends = (moving, places) if inward else (places, moving)
            kernel = cuda_kernel("onnxref.gpu.code", "copies.cu", "copy_many", COUNT=room, THREADS=_THREADS)
            launch = device.launch(
                kernel, [*ends, lengths, firsts, end - begin], (blocks[-1], 1, 1), (_THREADS, 1, 1), 0
            )
            self._groups.append(_Group(begin, end, moving, launch))

    def __call__(self, addresses: Sequence[int]) -> None:
        """Copy between the fixed addresses and these."""
        if self._single is not None:
            fixed, size, inward = self._single
            source, goal = (addresses[0], fixed) if inward else (fixed, addresses[0])
            self._device.copy(source, goal, size)
        for group in self._groups:
            group.moving[: group.end - group.begin] = addresses[group.begin : group.end]
            group.launch()
