"""Builds CUDA kernels as shared libraries of the processor, and runs them there."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onnxref.gpu import Extent, Kernel, pack_arguments, translation_unit
from onnxref.native import cache_folder

HEADER = Path(__file__).with_name("cuda_emulator.h")
RUNTIME = HEADER.with_suffix(".cpp")
_COMMON = ("-std=c++20", "-march=native", "-fPIC", "-w", "-fno-strict-aliasing", "-ffp-contract=on")
# Building takes longer than running: no optimisation, and nothing that a kernel has no use for.
FLAGS = (
    *_COMMON,
    "-O0",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-asynchronous-unwind-tables",
    "-fno-gnu-unique",
)
_RUNTIME_FLAGS = (*_COMMON, "-O2")
SANITIZER = ("-fsanitize=address", "-fno-omit-frame-pointer", "-g1")
ORDERS = (0, 1, 2)
"""Schedules of the threads: forward, backward, warps taking turns."""

_GLOBAL = re.compile(
    r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)", re.MULTILINE
)
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")

_one_at_a_time = threading.Lock()  # a processor has one emulated multiprocessor


class EmulationError(AssertionError):
    """A kernel did what a card does not allow."""


class EmulatedKernel:
    """A kernel on the processor."""

    def __init__(self, kernel: Kernel, sanitize: bool = False) -> None:
        self.kernel = kernel
        _load_runtime(sanitize)
        library = ctypes.CDLL(str(_library(translation_unit(kernel), sanitize)))
        self._run = getattr(library, f"emulate_{kernel.entry}")
        self._run.restype = ctypes.c_char_p
        sizes = (ctypes.c_int * 64).in_dll(library, f"sizes_{kernel.entry}")
        self._sizes = list(sizes)[: list(sizes).index(0)]

    def __call__(
        self, arguments: Sequence[Any], grid: Extent, block: Extent, shared: int = 0, order: int = 0
    ) -> None:
        """Run it; arguments are as `pack_arguments` takes them.

        Raises:
            EmulationError: arguments of other sizes than the kernel's, or a misused barrier.
        """
        pointers, held = pack_arguments(arguments)
        sizes = [ctypes.sizeof(item) for item in held]
        if sizes != self._sizes:
            raise EmulationError(f"{self.kernel} takes arguments of {self._sizes} bytes (got {sizes})")
        extents = [(ctypes.c_uint * 3)(*extent) for extent in (grid, block)]
        with _one_at_a_time:
            error = self._run(*extents, ctypes.c_size_t(shared), order, pointers)
        if error:
            raise EmulationError(f"{self.kernel}: {error.decode()}")


@cache
def emulated(kernel: Kernel, sanitize: bool = False) -> EmulatedKernel:
    """Return a kernel built for the processor."""
    return EmulatedKernel(kernel, sanitize)


def address(array: np.ndarray[Any, Any]) -> int:
    """Return where an array's elements lie, as an argument."""
    return int(array.__array_interface__["data"][0])


@cache
def _load_runtime(sanitize: bool) -> ctypes.CDLL:
    """Load what runs the threads, for all kernels that are loaded after it."""
    text, flags = RUNTIME.read_text(), (*_RUNTIME_FLAGS, *(SANITIZER if sanitize else ()))
    return ctypes.CDLL(str(_built(text, flags, ["-I", str(RUNTIME.parent)])), mode=ctypes.RTLD_GLOBAL)


def _library(text: str, sanitize: bool) -> Path:
    """Return the shared library of a translation unit."""
    flags = (*FLAGS, *(SANITIZER if sanitize else ()))
    return _built(_translated(text, _header(flags)), flags, ["-nostdlib"], ["-lm", "-lc"])


def _built(text: str, flags: Sequence[str], options: Sequence[str], libraries: Sequence[str] = ()) -> Path:
    """Return the shared library of a text of C++, built if no earlier run has left it."""
    folder = _folder()
    library = folder / f"{_key(text, flags)}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as made:
            source = Path(made) / "kernel.cpp"
            source.write_text(text)
            built = Path(made) / "kernel.so"
            command = ["g++", "-shared", *flags, *options, str(source), "-o", str(built), *libraries]
            done = _gxx(command)
            if done.returncode:
                raise EmulationError(f"g++ refuses a kernel:\n{done.stderr[:4000]}")
            os.replace(built, library)
    return library


def _header(flags: Sequence[str]) -> Path:
    """Return a copy of the emulator's header with its precompiled form beside it: most of a build's time."""
    header = _folder() / f"{_key('', flags)}.h"
    compiled = header.with_suffix(".h.gch")
    if not compiled.exists():
        with tempfile.TemporaryDirectory(dir=header.parent) as made:
            copy = Path(made) / header.name
            copy.write_text(HEADER.read_text())
            built = Path(made) / compiled.name
            _gxx(["g++", *flags, "-x", "c++-header", str(copy), "-o", str(built)]).check_returncode()
            os.replace(copy, header)
            os.replace(built, compiled)
    return header


def _gxx(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # The sanitizer that is loaded before all else is for the kernels, not for their compiler.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _folder() -> Path:
    folder = cache_folder() / "emulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(text: str, flags: Sequence[str]) -> str:
    return hashlib.sha256(repr((HEADER.read_text(), text, flags)).encode()).hexdigest()[:40]


def _translated(text: str, header: Path) -> str:
    """Return C++ for a text of CUDA: a function `emulate_NAME` and a table `sizes_NAME` for each kernel."""
    text = _DYNAMIC.sub(r"\1 *\2 = (\1 *)emulator::dynamic_shared;", text)
    glue = []
    for name, parameters in _GLOBAL.findall(text):
        types = [_type_of(parameter) for parameter in parameters.split(",") if parameter.strip()]
        taken = ", ".join(f"*(emulator::Plain<{kind}>::type *)a[{i}]" for i, kind in enumerate(types))
        sizes = ", ".join(f"sizeof({kind})" for kind in types)
        glue.append(
            f'extern "C" int sizes_{name}[64] = {{{sizes}}};\n'
            f"static void run_{name}(void **a) {{ {name}({taken}); }}\n"
            f'extern "C" const char *emulate_{name}(unsigned *g, unsigned *b, size_t shared, int order, '
            f"void **a) {{\n    return emulator::launch({{run_{name}, STATIC_SHARED}}, a, "
            f"{{g[0], g[1], g[2]}}, {{b[0], b[1], b[2]}}, shared, order);\n}}\n"
        )
    return f'#include "{header}"\n#line 1 "kernel.cu"\n{text}\n#line 1 "glue"\n{"".join(glue)}'


def _type_of(parameter: str) -> str:
    """Return the type in a parameter's declaration."""
    found = re.fullmatch(r"\s*(.*?[\s*&>])(\w+)\s*", parameter, re.DOTALL)
    if found is None:
        raise EmulationError(f"cannot read the parameter {parameter!r}")
    return found[1].replace("__restrict__", "").strip()
