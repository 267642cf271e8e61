"""Kernels under the address sanitizer: every tensor in memory of its own, of exactly its size.

python -m tests.gpu.sanitize                 # a case for every kernel
python -m tests.gpu.sanitize --planted NAME  # a kernel with a fault: ends with the sanitizer's report

It starts itself again with the sanitizer's library loaded before all others.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxref.gpu
import onnxref.plan.specialize._regions as regions
from onnxref.gpu import Extent, Kernel
from onnxref.plan.specialize import DeviceProgram

from . import planted
from .emulator.build import EmulationError, emulated
from .emulator.device import EmulatedCall, EmulatedDevice

_libc = ctypes.CDLL(None)
_LINE = 64


class ExactBuffer:
    """Memory of exactly so many bytes: the sanitizer sees the first one behind it."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        place = ctypes.c_void_p()
        if _libc.posix_memalign(ctypes.byref(place), ctypes.c_size_t(_LINE), ctypes.c_size_t(max(1, nbytes))):
            raise MemoryError(f"there is no memory for {nbytes} bytes")
        assert place.value is not None
        self.address = place.value
        ctypes.memset(self.address, 0xA5, nbytes)
        weakref.finalize(self, _libc.free, ctypes.c_void_p(self.address)).atexit = False

    def check(self) -> None:
        """Nothing to do: there are no guards."""


class SanitizedDevice(EmulatedDevice):
    """The emulated device with its kernels built for the sanitizer."""

    def allocate(self, nbytes: int, what: str = "memory", *, for_caller: bool = False) -> Any:
        return ExactBuffer(nbytes)

    def launch(
        self, kernel: Kernel, arguments: Sequence[Any], grid: Extent, block: Extent, shared: int
    ) -> EmulatedCall:
        built = emulated(kernel, sanitize=True)
        return EmulatedCall(self, str(kernel), lambda: built(arguments, grid, block, shared, self.order))


def run_planted(name: str) -> None:
    """Run a faulty kernel, which does not come back, or the same without its fault."""
    device = SanitizedDevice()
    kernel, elements, shared = {
        "none": (planted.shared_overrun(64), 64, 0),
        "shared": (planted.shared_overrun(60), 64, 0),
        "dynamic": (planted.DYNAMIC, 64, 252),
        "none dynamic": (planted.DYNAMIC, 64, 256),
        "output": (planted.PAST_THE_END, 63, 0),
    }[name]
    y = device.allocate(4 * elements)
    device.launch(kernel, [y.address], (1, 1, 1), (64, 1, 1), shared)()


def smallest_cases(libraries: Sequence[str]) -> list[str]:
    """Return names of cases that together use every kernel that any of them uses, with these libraries."""
    from .planned import launches

    met: set[tuple[str, str]] = set()
    chosen = []
    for name, seen in launches(*libraries).items():
        new = {(kernel.file, kernel.entry) for kernel in seen} - met
        if new:
            met |= new
            chosen.append(name)
    return chosen


def _singly(*given: Any) -> DeviceProgram:
    """Make a program of single launches, each tensor apart, whatever the session asks for."""
    *others, _ = given
    return DeviceProgram(*others, debug=True)


def run_cases(with_libraries: Sequence[str], without: Sequence[str]) -> None:
    """Run these cases, each on a device of its own; name the kernels used."""
    from .planned import LIBRARIES, cases

    used: set[str] = set()
    known = dict(cases())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "DeviceProgram", _singly)
        for libraries, names in ((LIBRARIES, with_libraries), ((), without)):
            for name in names:
                print(name, flush=True)
                device = SanitizedDevice(libraries=frozenset(libraries))
                patch.setattr(onnxref.gpu, "open_device", lambda device=device: device)
                known[name]()
                used |= {line.partition("(")[0] for line in device.log}
    print("clean:", *sorted(used), flush=True)


def start_cases() -> subprocess.CompletedProcess[str]:
    """Choose the cases, which is quicker without the sanitizer, and run them under it."""
    from .planned import LIBRARIES

    return start("--with-libraries", *smallest_cases(LIBRARIES), "--without", *smallest_cases(()))


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this module under the sanitizer.

    Raises:
        EmulationError: the compiler has no sanitizer.
    """
    asked = ["g++", "-print-file-name=libasan.so"]
    library = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(library):
        raise EmulationError("g++ has no address sanitizer: apt-get install libasan8")
    root = Path(__file__).parents[2]
    paths = (str(root), str(root / "tests"), os.environ.get("PYTHONPATH", ""))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0:exitcode=99",
        "ONNXREF_SANITIZED": "1",
    }
    command = [sys.executable, "-m", "tests.gpu.sanitize", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--planted", help="a kernel with a fault")
    parser.add_argument("--with-libraries", nargs="*", help="cases to run on a device with libraries")
    parser.add_argument("--without", nargs="*", help="cases to run on a device without libraries")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    if "ONNXREF_SANITIZED" not in os.environ:
        done = start("--planted", given.planted) if given.planted else start_cases()
        print(done.stdout + done.stderr, end="")
        return done.returncode
    if given.planted:
        run_planted(given.planted)
    else:
        run_cases(given.with_libraries, given.without)
    return 0


if __name__ == "__main__":
    sys.exit(main())
