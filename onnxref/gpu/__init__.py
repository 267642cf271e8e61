"""Work for NVIDIA GPUs: kernels as source text, launches and library calls as data, and the card itself.

This room knows nothing of operators. Importing it loads neither CuPy nor any library of NVIDIA's.
"""

from ._device import Buffer, Device, Ready
from ._kernel import CTYPES, Kernel, cuda_kernel, translation_unit
from ._launch import (
    MOST_BLOCKS,
    MOST_SHARED,
    MOST_THREADS,
    Attention,
    Convolution,
    DeviceCall,
    Extent,
    Join,
    Launch,
    LibraryCall,
    LibraryOp,
    LibraryRefusalError,
    Matmul,
    grid_for,
    pack_arguments,
)
from ._tensor import DeviceTensor
from ._turn import turn


def open_device() -> Device:
    """Return the card to run on; see `_cuda.open_device` for what can be missing."""
    from ._cuda import open_device as open_cuda_device

    return open_cuda_device()


__all__ = [
    "CTYPES",
    "MOST_BLOCKS",
    "MOST_SHARED",
    "MOST_THREADS",
    "Attention",
    "Buffer",
    "Convolution",
    "Device",
    "DeviceCall",
    "DeviceTensor",
    "Extent",
    "Join",
    "Kernel",
    "Launch",
    "LibraryCall",
    "LibraryOp",
    "LibraryRefusalError",
    "Matmul",
    "Ready",
    "cuda_kernel",
    "grid_for",
    "open_device",
    "pack_arguments",
    "translation_unit",
    "turn",
]
