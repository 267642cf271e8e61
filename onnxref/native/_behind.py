"""Compiles functions in a process of its own, while the caller goes on.

Numba's compiler holds the interpreter lock; in a thread it would slow down the very runs that it is
meant to speed up. The other process leaves what it makes in the cache, or in a folder of this
process where the cache cannot be written to.
"""

from __future__ import annotations

import ast
import atexit
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from . import _cache
from ._function import NativeFunction, native

# So many functions are compiled sooner than another process has loaded Numba.
_FEW = 3
# Found there also where this process has it from its current folder.
_ROOT = str(Path(__file__).parents[2])
_PROGRAM = "from onnxref.native._behind import serve; serve()"


class CompileJob:
    """Functions on their way."""

    def __init__(self, functions: Iterable[NativeFunction]) -> None:
        lines = [repr((f.module, f.factory, f.parameters)) for f in functions]
        self._process = subprocess.Popen(
            # -P: what lies in the current folder is not to be imported there.
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                _cache.VARIABLE: str(_cache.writable_folder()),
                "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), _ROOT]),
            },
            start_new_session=True,  # an interrupt at the keyboard is not for it
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n".join(lines).encode())
            self._process.stdin.close()
        atexit.register(self.stop)

    def is_done(self) -> bool:
        """Whether the process has ended, well or not."""
        if self._process.poll() is None:
            return False
        atexit.unregister(self.stop)
        return True

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()
        atexit.unregister(self.stop)

    def stop(self) -> None:
        """End the process; what it has compiled so far is kept."""
        self._process.terminate()
        self._process.wait()


def compile_together(functions: Sequence[NativeFunction], processes: int) -> None:
    """Compile functions that are not in the cache, on several cores, and wait for them.

    Args:
        processes: most that may run at once; each gets a few functions at least.

    What fails there is left to be compiled here, where the error can be seen.
    """
    if len(functions) > _FEW and processes > 1:
        processes = min(processes, -(-len(functions) // _FEW))
        jobs = [CompileJob(functions[i::processes]) for i in range(processes)]
        for job in jobs:
            job.wait()


def serve() -> None:
    """Compile the functions that standard input lists, one `(module, factory, parameters)` a line.

    One that fails is left out: whoever needs it compiles it again, and sees the error.
    """
    with suppress(OSError, AttributeError):
        os.nice(10)
    for line in sys.stdin.read().splitlines():
        with suppress(Exception):  # also a parameter without a literal, such as inf
            module, factory, parameters = ast.literal_eval(line)
            native(module, factory, *parameters).address  # noqa: B018 - asking makes it
