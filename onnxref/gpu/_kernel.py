"""CUDA kernels by name: the file that holds one, its entry, and its compile-time parameters.

A kernel is written once, in CUDA C++. `translation_unit` makes one self-contained text of it, which NVRTC
compiles for a card and the tests' emulator for the processor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TypeAlias

Define: TypeAlias = str | int | float

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)

CTYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "half_t",
    "bfloat16": "bfloat16_t",
    "bool": "bool",
    **{f"{u}int{bits}": f"{u}int{bits}_t" for u in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Names in CUDA of the types that NumPy and ml_dtypes name; `common.cuh` defines those that C++ lacks."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One `__global__` function with its compile-time parameters.

    Attributes:
        package: the Python package whose folder holds the source files.
        file: the source file that has it.
        entry: name of the function, which is `extern "C"`.
        defines: macros, (name, value), that are its parameters: element types, tile sizes.
        generated: source text written while planning, which stands before the file's own.
    """

    package: str
    file: str
    entry: str
    defines: tuple[tuple[str, Define], ...] = ()
    generated: str = ""

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self.defines)
        return f"{self.file.partition('.')[0]}.{self.entry}({shown})"


@cache
def cuda_kernel(package: str, file: str, entry: str, generated: str = "", **defines: Define) -> Kernel:
    """Return the kernel `entry` of a file; equal ones are one object."""
    return Kernel(package, file, entry, tuple(sorted(defines.items())), generated)


@cache
def translation_unit(kernel: Kernel) -> str:
    """Return all source text of a kernel: its package's `common.cuh`, its parameters as macros, its file."""
    macros = "".join(f"#define {name} {value}\n" for name, value in kernel.defines)
    seen: set[str] = set()
    has_common = (files(kernel.package) / "common.cuh").is_file()
    common = _expanded(kernel.package, "common.cuh", seen) if has_common else ""
    generated = _with_includes(kernel.package, kernel.generated, seen)
    return f"{common}{macros}{generated}{_expanded(kernel.package, kernel.file, seen)}"


def _expanded(package: str, file: str, seen: set[str]) -> str:
    """Return a file's text with each included file of the package in its place, once."""
    if file in seen:
        return ""
    seen.add(file)
    return _with_includes(package, (files(package) / file).read_text("utf-8"), seen)


def _with_includes(package: str, text: str, seen: set[str]) -> str:
    return _INCLUDE.sub(lambda found: _expanded(package, found[1], seen), text)
