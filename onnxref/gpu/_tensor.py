"""An array in a device's memory, as the executor carries it between the pieces of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import Array, DType
from ._turn import turn

if TYPE_CHECKING:
    from ._device import Device


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTensor:
    """A C-contiguous array on a device.

    Attributes:
        address: of its first element.
        owner: what keeps the memory: a buffer, or the array of a caller.
    """

    device: Device
    address: int
    shape: tuple[int, ...]
    dtype: DType
    owner: Any

    @classmethod
    def empty(cls, device: Device, shape: tuple[int, ...], dtype: DType) -> DeviceTensor:
        """Return a new array that holds anything."""
        buffer = device.allocate(max(1, math.prod(shape) * dtype.itemsize), for_caller=True)
        return cls(device, buffer.address, shape, dtype, buffer)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def numpy(self) -> Array:
        """Return a copy on the host; waits for the device."""
        return fetched([self])[0]


def fetched(tensors: Sequence[DeviceTensor]) -> list[Array]:
    """Return copies of a device's tensors on the host; waits for the device, once for all of them."""
    values = [np.empty(tensor.shape, tensor.dtype) for tensor in tensors]
    if tensors:
        device = tensors[0].device
        with turn(device):
            device.download_all([(x.address, value) for x, value in zip(tensors, values, strict=True)])
    return values
