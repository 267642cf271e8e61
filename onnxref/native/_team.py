"""The one pool of threads that all native programs share.

A team of n threads is the calling thread and n - 1 workers of the pool. Workers sleep while there is
nothing to do. One program runs on the pool at a time; a caller that finds it taken runs on its own
thread alone, so that callers from many threads never wait for each other. Results do not depend on
which it was.
"""

from __future__ import annotations

import ctypes
import operator
import os
import platform
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._cores import usable_cores
from ._function import NativeFunction, native

Array: TypeAlias = NDArray[Any]

VARIABLE = "ONNXREF_NUM_THREADS"
ROW = 5  # int64 of a call in a program; `_team_code` says which
_CODE = "onnxref.native._team_code"
_LINE = 64
_FIELDS = 10
_SET_BYTES = 128
_MOST_SETS = 64
PATCH = 3  # int64 of a patch
# Numba's calling convention, as `_function` has it. Arguments that are converted already need no types here.
_Entry = ctypes.CFUNCTYPE(None)
_unused = ctypes.c_int64()
_UNUSED = ctypes.addressof(_unused)
_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}


class _Pool:
    """The workers, and the memory through which they are told what to do."""

    def __init__(self) -> None:
        self.taken = threading.Lock()
        self._workers = 0
        self._memory = np.zeros((_FIELDS * _LINE + _MOST_SETS * _SET_BYTES) // 8 + 8, np.int64)
        self._block = -(-self._memory.ctypes.data // _LINE) * _LINE
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_workers)

    @property
    def address(self) -> int:
        """Address of the control block."""
        return self._block

    def employ(self, count: int) -> None:
        """Start workers until there are `count`."""
        while self._workers < count:
            work = _worker()
            work.address  # compiled here, where an error can be seen  # noqa: B018
            self._workers += 1
            threading.Thread(
                target=work,
                args=(self._block, self._workers, 0),
                name=f"onnxref-{self._workers}",
                daemon=True,
            ).start()

    def _forget_workers(self) -> None:
        """A forked child has none of its parent's threads."""
        self._memory[:] = 0
        self.taken = threading.Lock()
        self._workers = 0


_pool = _Pool()


class Team:
    """A number of threads that run one program together.

    Args:
        threads: how many, the caller's included.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"a team has at least one thread (got {threads})")
        self.threads = threads if _can_wait() else 1

    def run(self, program: int, calls: int, counters: int) -> None:
        """Run a program of `calls` rows at an address; see `_team_code` for the layout.

        Args:
            counters: address of `counter_bytes(calls)` bytes that nobody else uses.
        """
        Launch(program, calls, counters, self.threads).run()

    def counter_bytes(self, calls: int) -> int:
        """Return the size of the counters of a program."""
        return calls * _LINE * (1 + self.threads)

    def functions(self, *, together: bool) -> list[NativeFunction]:
        """Return the native code that runs programs on the calling thread, or `together` on all of them."""
        data = _data_offset()
        own = [_serial(data)]
        return [*own, _leader(data), _worker()] if together and self.threads > 1 else own


class Launch:
    """A program at an address, made ready to be run many times: a run is a single call of native code.

    It serves one run at a time.

    Args:
        program, calls: address and number of its rows; see `_team_code` for the layout.
        counters: address of `Team.counter_bytes(calls)` bytes that nobody else uses.
        threads: how many may run it, the caller's included.
        patches: (patches, 3) int64: number of an array, address of the argument that its elements' address
            goes to, what is added to it.
        objects: for each array that the patches speak of, what `array_handle()` gives of it; to be written
            before each run. The arrays must be kept alive until it ends.
    """

    def __init__(
        self,
        program: int,
        calls: int,
        counters: int = 0,
        threads: int = 1,
        patches: Array | None = None,
        objects: Array | None = None,
    ) -> None:
        self._threads = threads
        self._patches = np.empty((0, PATCH), np.int64) if patches is None else np.ascontiguousarray(patches)
        self._objects = np.empty(0, np.int64) if objects is None else objects
        self._request = np.array(
            [
                _pool.address,
                program,
                calls,
                counters,
                threads,
                self._patches.ctypes.data,
                len(self._patches),
                self._objects.ctypes.data,
            ],
            np.int64,
        )
        data = _data_offset()
        self._serially = self._ready(_serial(data))
        self._together = self._ready(_leader(data)) if threads > 1 else self._serially

    def _ready(self, function: NativeFunction) -> Callable[[], None]:
        """Return a call of a kernel with the request, its arguments converted once for all runs."""
        unused, zero = ctypes.c_void_p(_UNUSED), ctypes.c_int64(0)
        request = ctypes.c_int64(self._request.ctypes.data)
        return partial(_Entry(function.address), unused, unused, request, zero, zero, zero)

    def run(self) -> None:
        """Run it, on the calling thread alone if the pool is taken."""
        if self._threads == 1 or not _pool.taken.acquire(blocking=False):
            self._serially()
            return
        try:
            _pool.employ(self._threads - 1)
            self._together()
        finally:
            _pool.taken.release()


def run_serially(program: int, calls: int) -> None:
    """Run a program on the calling thread alone."""
    Launch(program, calls).run()


def array_handle() -> Callable[[Array], int]:
    """Return the function of an array that gives what a `Launch` finds it by."""
    return id if _data_offset() >= 0 else _address


def _address(array: Array) -> int:
    return int(array.ctypes.data)


@cache
def _data_offset() -> int:
    """Return where an array object holds the address of its elements, in bytes; -1 where that is unknown.

    NumPy's ABI fixes the members of an array object (`PyArrayObject_fields` of `ndarraytypes.h`), because its
    macros read them in every extension that was ever compiled: the address of the elements is the first one
    behind the head of a Python object. In CPython, `id` is the address of the object. Asking the array in
    Python takes a microsecond instead. That all this holds is tried on a few arrays.
    """
    if sys.implementation.name != "cpython":
        return -1
    offset = object.__basicsize__
    base = np.arange(24, dtype=np.float64).reshape(4, 6)
    tried = (base, base[1:, ::2], base[3, 5:].reshape(()), base.view(np.uint8), np.empty((0, 3), np.int8))
    found = (ctypes.c_size_t.from_address(id(x) + offset).value for x in tried)
    return offset if all(map(operator.eq, found, (x.ctypes.data for x in tried))) else -1


@cache
def team_of(threads: int | None = None) -> Team:
    """Return the team of so many threads; None takes ONNXREF_NUM_THREADS, or `usable_cores()`.

    Raises:
        ValueError: the number is not positive.
    """
    if threads is not None:
        return Team(threads)
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        return Team(usable_cores())
    if not chosen.isdigit() or int(chosen) < 1:
        raise ValueError(f"{VARIABLE} must be a positive number (got {chosen!r})")
    return Team(int(chosen))


def _can_wait() -> bool:
    """Whether workers can sleep and be woken without Python: by Linux's futex."""
    is_64_bit = ctypes.sizeof(ctypes.c_void_p) == 8
    return sys.platform == "linux" and platform.machine() in _FUTEX_NUMBERS and is_64_bit


@cache
def _serial(data: int) -> NativeFunction:
    return native(_CODE, "serial", data)


@cache
def _leader(data: int) -> NativeFunction:
    return native(_CODE, "leader", _FUTEX_NUMBERS[platform.machine()], data)


@cache
def _worker() -> NativeFunction:
    return native(_CODE, "worker", _FUTEX_NUMBERS[platform.machine()])
