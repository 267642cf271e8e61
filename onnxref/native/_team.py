"""The one pool of threads that all native programs share.

A team of n threads is the calling thread and n - 1 workers of the pool. Workers sleep while there is
nothing to do. One program runs on the pool at a time; a caller that finds it taken runs on its own
thread alone, so that callers from many threads never wait for each other. Results do not depend on
which it was.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from functools import cache

import numpy as np

from ._function import NativeFunction, native

VARIABLE = "ONNXREF_NUM_THREADS"
ROW = 5  # int64 of a call in a program; `_team_code` says which
_CODE = "onnxref.native._team_code"
_LINE = 64
_FIELDS = 9
_SET_BYTES = 128
_MOST_SETS = 64
_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}


class _Pool:
    """The workers, and the memory through which they are told what to do."""

    def __init__(self) -> None:
        self.taken = threading.Lock()
        self._workers = 0
        self._memory = np.zeros((_FIELDS * _LINE + _MOST_SETS * _SET_BYTES) // 8 + 8, np.int64)
        self._block = -(-self._memory.ctypes.data // _LINE) * _LINE
        self._write_allowed()
        self._request = np.zeros(5, np.int64)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_workers)

    def run(self, program: int, calls: int, counters: int, threads: int) -> None:
        """Run a program on the calling thread and `threads - 1` workers; the caller holds `taken`."""
        self._employ(threads - 1)
        self._request[:] = (self._block, program, calls, counters, threads)
        _leader()(self._request.ctypes.data, 0, 0, 0)

    def _employ(self, count: int) -> None:
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

    def _write_allowed(self) -> None:
        """Put the processors that may be used where workers look for them."""
        if hasattr(os, "sched_getaffinity"):
            allowed = np.zeros(8 * _SET_BYTES, np.uint8)
            allowed[[cpu for cpu in os.sched_getaffinity(0) if cpu < len(allowed)]] = 1
            words = np.packbits(allowed, bitorder="little").view(np.int64)
            begin = (self._block - self._memory.ctypes.data + _FIELDS * _LINE) // 8
            self._memory[begin : begin + len(words)] = words

    def _forget_workers(self) -> None:
        """A forked child has none of its parent's threads."""
        self._memory[:] = 0
        self._write_allowed()
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
        if self.threads == 1 or not _pool.taken.acquire(blocking=False):
            run_serially(program, calls)
            return
        try:
            _pool.run(program, calls, counters, self.threads)
        finally:
            _pool.taken.release()

    def counter_bytes(self, calls: int) -> int:
        """Return the size of the counters of a program."""
        return calls * _LINE * (1 + self.threads)


def run_serially(program: int, calls: int) -> None:
    """Run a program on the calling thread alone."""
    _serial()(program, 0, calls, 0)


@cache
def team_of(threads: int | None = None) -> Team:
    """Return the team of so many threads; None takes ONNXREF_NUM_THREADS, or one for each usable core.

    Raises:
        ValueError: the number is not positive.
    """
    if threads is not None:
        return Team(threads)
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        return Team(_usable_cores())
    if not chosen.isdigit() or int(chosen) < 1:
        raise ValueError(f"{VARIABLE} must be a positive number (got {chosen!r})")
    return Team(int(chosen))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _can_wait() -> bool:
    """Whether workers can sleep and be woken without Python: by Linux's futex."""
    is_64_bit = ctypes.sizeof(ctypes.c_void_p) == 8
    return sys.platform == "linux" and platform.machine() in _FUTEX_NUMBERS and is_64_bit


@cache
def _serial() -> NativeFunction:
    return native(_CODE, "serial")


@cache
def _leader() -> NativeFunction:
    return native(_CODE, "leader", _FUTEX_NUMBERS[platform.machine()])


@cache
def _worker() -> NativeFunction:
    return native(_CODE, "worker", _FUTEX_NUMBERS[platform.machine()])
