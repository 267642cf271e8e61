"""The card itself, through CuPy: memory, kernels, graphs, libraries."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from ..dtypes import Array
from ..errors import BackendError, InputError, MissingDependencyError
from ._device import Ready
from ._kernel import Kernel
from ._launch import MOST_SHARED, Attention, Convolution, Extent, LibraryOp, Matmul, pack_arguments
from ._nvrtc import compile_kernel
from ._tensor import DeviceTensor

_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
_UNKNOWN_MEMORY = 0  # cudaMemoryTypeUnregistered
_WORKSPACE = 64 << 20  # bytes that library calls share; they run one after the other


@cache
def open_device() -> CudaDevice:
    """Return the current CUDA device.

    Raises:
        MissingDependencyError: CuPy is not installed.
        BackendError: there is no GPU that it can use; the text says what is missing.
    """
    try:
        import cupy
    except ImportError as error:
        raise MissingDependencyError(
            "backend 'cupy' needs CuPy: pip install 'onnxref[cuda13]' (older drivers: 'onnxref[cuda12]')"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"backend 'cupy' needs an NVIDIA GPU and its driver: {error}") from error
    if not count:
        raise BackendError("backend 'cupy' needs an NVIDIA GPU: the driver sees none")
    return CudaDevice(cupy)


@dataclass(frozen=True, slots=True)
class _Memory:
    """Memory of CuPy's pool."""

    address: int
    nbytes: int
    pointer: Any


class CudaDevice:
    """The protocol `onnxref.gpu.Device` on the current card, on a stream of its own."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._driver = cupy.cuda.driver
        self._number = self._runtime.getDevice()
        properties = self._runtime.getDeviceProperties(self._number)
        self.name = properties["name"].decode()
        self.arch = f"sm_{properties['major']}{properties['minor']}"
        self.most_shared = int(properties["sharedMemPerBlockOptin"])
        self.lock = threading.RLock()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._modules: dict[Kernel, tuple[Any, Any]] = {}
        self._workspace = self.allocate(_WORKSPACE)
        self._blas, self._dnn = self._open_libraries()
        named = (("cublaslt", self._blas), ("cudnn", self._dnn))
        self.libraries = frozenset(name for name, library in named if library is not None)

    def _open_libraries(self) -> tuple[Any, Any]:
        """Return cuBLASLt and cuDNN, None for one that is not installed: raw kernels stand in then."""
        from ._cublaslt import CublasLt
        from ._cudnn import Cudnn

        found: list[Any] = []
        for make in (CublasLt, Cudnn):
            try:
                found.append(make(self._workspace.address, _WORKSPACE, self._stream.ptr))
            except MissingDependencyError:
                found.append(None)
        return found[0], found[1]

    def begin(self) -> None:
        self._runtime.setDevice(self._number)
        event = self._cupy.cuda.get_current_stream().record()
        self._stream.wait_event(event)

    def end(self) -> None:
        self._cupy.cuda.get_current_stream().wait_event(self._stream.record())

    def allocate(self, nbytes: int) -> _Memory:
        with self._cupy.cuda.Device(self._number):
            pointer = self._cupy.cuda.alloc(max(1, nbytes))
        return _Memory(int(pointer.ptr), nbytes, pointer)

    def upload(self, array: Array, address: int) -> None:
        source = array.__array_interface__["data"][0]
        self._runtime.memcpyAsync(address, source, array.nbytes, _TO_DEVICE, self._stream.ptr)
        # CUDA has read memory that it does not know when it returns; pinned memory it reads later.
        if self._runtime.pointerGetAttributes(source).type != _UNKNOWN_MEMORY:
            self._stream.synchronize()

    def download(self, address: int, array: Array) -> None:
        goal = array.__array_interface__["data"][0]
        self._runtime.memcpyAsync(goal, address, array.nbytes, _TO_HOST, self._stream.ptr)
        self._stream.synchronize()

    def copy(self, source: int, goal: int, nbytes: int) -> None:
        self._runtime.memcpyAsync(goal, source, nbytes, _ON_DEVICE, self._stream.ptr)

    def clear(self, address: int, nbytes: int) -> None:
        self._runtime.memsetAsync(address, 0, nbytes, self._stream.ptr)

    def launch(
        self, kernel: Kernel, arguments: Sequence[Any], grid: Extent, block: Extent, shared: int
    ) -> Ready:
        function = self._function(kernel)
        if shared > MOST_SHARED:
            attribute = self._driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._driver.funcSetAttribute(function.ptr, attribute, shared)
        pointers, held = pack_arguments(arguments)
        launch = partial(
            self._driver.launchKernel,
            *(function.ptr, *grid, *block, shared, self._stream.ptr, ctypes.addressof(pointers), 0),
        )
        return _Holding(launch, (pointers, held))

    def _function(self, kernel: Kernel) -> Any:
        found = self._modules.get(kernel)
        if found is None:
            module = self._cupy.cuda.function.Module()
            module.load(compile_kernel(kernel, self.arch))
            found = self._modules[kernel] = (module.get_function(kernel.entry), module)
        return found[0]

    def library(self, op: LibraryOp, tensors: dict[str, int]) -> Ready:
        library = self._blas if isinstance(op, Matmul) else self._dnn
        assert library is not None, f"{op} was planned without its library"
        assert isinstance(op, (Matmul, Convolution, Attention))
        ready: Ready = library.prepare(op, tensors)
        return ready

    def capture(self, calls: Sequence[Ready]) -> Ready:
        self._stream.begin_capture()
        try:
            for call in calls:
                call()
        finally:
            graph = self._stream.end_capture()
        graph.upload(self._stream)
        return partial(graph.launch, self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def adopt(self, value: Any) -> DeviceTensor | None:
        cupy = self._cupy
        if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
            return None
        kind, number = value.__dlpack_device__()
        if kind in (1, 3):  # DLPack: the processor, pinned memory of it
            return None
        if kind not in (2, 13) or number != self._number:  # CUDA, CUDA managed
            raise InputError(f"an input lies on device {number} of DLPack's kind {kind}, not on {self.name}")
        array = value if isinstance(value, cupy.ndarray) else cupy.from_dlpack(value)
        array = cupy.ascontiguousarray(array)
        return DeviceTensor(self, int(array.data.ptr), array.shape, np.dtype(array.dtype), array)

    def export(self, tensor: DeviceTensor) -> Any:
        cupy = self._cupy
        memory = cupy.cuda.UnownedMemory(tensor.address, max(1, tensor.nbytes), tensor.owner, self._number)
        return cupy.ndarray(tensor.shape, tensor.dtype, cupy.cuda.MemoryPointer(memory, 0))


@dataclass(frozen=True, slots=True)
class _Holding:
    """A call, and what must live as long as it can be made."""

    call: Callable[[], None]
    held: Any

    def __call__(self) -> None:
        self.call()
