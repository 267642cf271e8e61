"""The card itself, through CuPy: memory, kernels, graphs, libraries."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from ..dtypes import Array
from ..errors import BackendError, DeviceMemoryError, InputError, MissingDependencyError
from ..native import usable_cores
from ._device import Idle, Ready
from ._kernel import Kernel
from ._launch import MOST_SHARED, Attention, Convolution, Extent, LibraryOp, Matmul, pack_arguments
from ._nvrtc import compile_kernel
from ._tensor import DeviceTensor

_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
_CUDA, _CUDA_MANAGED, _HOST_KINDS = 2, 13, (1, 3)  # DLDeviceType; the host's memory, pinned or not
_UNKNOWN_MEMORY = 0  # cudaMemoryTypeUnregistered
_OWN_OF_EACH_THREAD = 2  # cudaStreamPerThread
_WORKSPACE = 64 << 20  # bytes that library calls share; they run one after the other
_STAGING = 4 << 20  # bytes of pinned memory that arrays come to the host through
_ALIGNED = 64  # bytes
_MOST_COMPILING = 8  # threads, each with a compiler's memory


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
        self.idle: weakref.WeakSet[Idle] = weakref.WeakSet()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        # A stream waits for what an event stood for when it was told to, so one is enough for all turns.
        self._begun, self._done = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        self._code: dict[Kernel, Future[bytes]] = {}
        self._compiling = threading.Lock()
        self._modules: dict[Kernel, tuple[Any, Any]] = {}
        self._staging: Any = None
        self._workspace = self.allocate(_WORKSPACE, "what libraries work in")
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

    def begin(self) -> int:
        current: int = self._runtime.getDevice()
        if current != self._number:
            self._runtime.setDevice(self._number)
        self._begun.record(self._cupy.cuda.get_current_stream())
        self._stream.wait_event(self._begun)
        return current

    def end(self, begun: int) -> None:
        self._done.record(self._stream)
        self._cupy.cuda.get_current_stream().wait_event(self._done)
        if begun != self._number:
            self._runtime.setDevice(begun)

    def caller(self) -> Hashable:
        stream = self._cupy.cuda.get_current_stream().ptr
        return (stream, threading.get_ident()) if stream == _OWN_OF_EACH_THREAD else stream

    def allocate(self, nbytes: int, what: str = "memory", *, for_caller: bool = False) -> _Memory:
        try:
            return self._allocate(nbytes, for_caller)
        except MemoryError:  # CuPy's, or that of another pool which it was given
            for idle in tuple(self.idle):
                idle.release()
            self._cupy.get_default_memory_pool().free_all_blocks()
        try:
            return self._allocate(nbytes, for_caller)
        except MemoryError as error:
            free, total = self._runtime.memGetInfo()
            raise DeviceMemoryError(
                f"{self.name} has no memory for {nbytes:,} bytes ({what}); {free:,} of its {total:,} bytes "
                f"are free, and nothing is idle: {error}"
            ) from error

    def _allocate(self, nbytes: int, for_caller: bool) -> _Memory:
        """Return memory of CuPy's pool, which gives it on to later work of the same stream.

        What a caller's stream works with is of that stream: it is not done with it when it frees it.
        """
        if for_caller:
            pointer = self._cupy.cuda.alloc(max(1, nbytes))
        else:
            with self._cupy.cuda.Device(self._number), self._stream:
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

    def download_all(self, wanted: Sequence[tuple[int, Array]]) -> None:
        if self._staging is None:
            self._staging = self._cupy.cuda.alloc_pinned_memory(_STAGING)
        base, used = int(self._staging.ptr), 0
        staged: list[tuple[Array, int]] = []
        large: list[tuple[int, Array]] = []
        for address, array in wanted:
            if used + array.nbytes > _STAGING:
                large.append((address, array))
                continue
            self._runtime.memcpyAsync(base + used, address, array.nbytes, _TO_HOST, self._stream.ptr)
            staged.append((array, base + used))
            used += -(-array.nbytes // _ALIGNED) * _ALIGNED
        self._stream.synchronize()
        for array, source in staged:
            ctypes.memmove(array.__array_interface__["data"][0], source, array.nbytes)
        # CUDA has copied to memory that it does not know when it returns, piece by piece, as is done above.
        for address, array in large:
            self.download(address, array)

    def copy(self, source: int, goal: int, nbytes: int) -> None:
        self._runtime.memcpyAsync(goal, source, nbytes, _ON_DEVICE, self._stream.ptr)

    def clear(self, address: int, nbytes: int) -> None:
        self._runtime.memsetAsync(address, 0, nbytes, self._stream.ptr)

    def compile(self, kernels: Iterable[Kernel]) -> None:
        with self._compiling:
            known = (self._code, self._modules)
            wanted = [kernel for kernel in kernels if not any(kernel in found for found in known)]
            self._code.update((kernel, Future()) for kernel in wanted)
        if not wanted:
            return
        workers = min(usable_cores(), _MOST_COMPILING, len(wanted))
        with ThreadPoolExecutor(workers, "onnxref-nvrtc") as pool:
            list(pool.map(self._compile, wanted))

    def _compile(self, kernel: Kernel) -> None:
        """Compile a kernel for whoever waits for its code."""
        future = self._code[kernel]
        try:
            future.set_result(compile_kernel(kernel, self.arch))
        except BaseException as error:
            del self._code[kernel]  # the next one tries again
            future.set_exception(error)
            raise

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
            self.compile((kernel,))
            future = self._code.get(kernel)
            module = self._cupy.cuda.function.Module()
            module.load(future.result() if future else compile_kernel(kernel, self.arch))
            found = self._modules[kernel] = (module.get_function(kernel.entry), module)
            self._code.pop(kernel, None)
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
        except BaseException:
            with suppress(Exception):  # the stream is to leave capturing; what went wrong is known
                self._stream.end_capture()
            raise
        graph = self._stream.end_capture()
        graph.upload(self._stream)
        return partial(graph.launch, self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def adopt(self, value: Any) -> DeviceTensor | None:
        cupy = self._cupy
        if isinstance(value, np.ndarray):
            return None
        if isinstance(value, cupy.ndarray):
            kind, number = _CUDA, value.data.device_id
        elif hasattr(value, "__dlpack__"):
            kind, number = value.__dlpack_device__()
        else:
            return None
        if kind in _HOST_KINDS:
            return None
        if kind not in (_CUDA, _CUDA_MANAGED) or number != self._number:
            raise InputError(f"an input lies on device {number} of DLPack's kind {kind}, not on {self.name}")
        array = value if isinstance(value, cupy.ndarray) else self._imported(value)
        if not array.flags.c_contiguous:
            array = cupy.ascontiguousarray(array)
        return DeviceTensor(self, array.data.ptr, array.shape, array.dtype, array)

    def _imported(self, value: Any) -> Any:
        """Return another library's array as CuPy's, ready for the work of CuPy's current stream."""
        try:
            return self._cupy.from_dlpack(value)
        except Exception as error:  # libraries refuse in ways of their own
            raise InputError(
                f"an input on {self.name} cannot be used: {type(error).__name__}: {error}"
            ) from error

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
