"""CUDA source to machine code, by NVRTC, kept in the cache on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import BackendError, MissingDependencyError
from ..native import load_code, store_code
from ._kernel import Kernel, translation_unit

_OPTIONS = ("-std=c++17", "-default-device")


def compile_kernel(kernel: Kernel, arch: str) -> bytes:
    """Return the machine code (cubin) of a kernel for `sm_NN`, from the cache where it can be.

    Raises:
        MissingDependencyError: CuPy or NVIDIA's headers are not installed.
        BackendError: NVRTC refuses the source.
    """
    nvrtc = _nvrtc()
    text = translation_unit(kernel)
    key = hashlib.sha256(repr((text, arch, _OPTIONS, nvrtc.getVersion())).encode()).hexdigest()[:40]
    found = load_code(key)
    if found is None:
        found = (kernel.entry, _compile(nvrtc, kernel, text, arch))
        store_code(key, *found)
    return found[1]


def _compile(nvrtc: Any, kernel: Kernel, text: str, arch: str) -> bytes:
    program = nvrtc.createProgram(text, kernel.file, (), ())
    try:
        includes = [f"-I{folder}" for folder in include_folders()]
        try:
            nvrtc.compileProgram(program, (f"-arch={arch}", *_OPTIONS, *includes))
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise BackendError(f"NVRTC cannot compile {kernel} for {arch}: {log[:2000]}") from error
        return bytes(nvrtc.getCUBIN(program))
    finally:
        nvrtc.destroyProgram(program)


@cache
def _nvrtc() -> Any:
    try:
        from cupy.cuda import nvrtc
    except ImportError as error:
        raise MissingDependencyError(
            "CUDA kernels need CuPy: pip install 'onnxref[cuda13]' (or 'onnxref[cuda12]')"
        ) from error
    return nvrtc


@cache
def include_folders() -> Sequence[Path]:
    """Return the folders of CUDA's headers (`cuda_fp16.h`): of NVIDIA's packages, or of the toolkit."""
    candidates = [Path("/usr/local/cuda/include")]
    specification = find_spec("nvidia")
    for base in specification.submodule_search_locations or () if specification else ():
        candidates = [
            *sorted(Path(base).glob("cu*/include")),
            Path(base, "cuda_runtime/include"),
            *candidates,
        ]
    found = [folder for folder in candidates if (folder / "cuda_fp16.h").is_file()]
    if not found:
        raise MissingDependencyError(
            "CUDA's headers are missing: pip install 'onnxref[cuda13]' (or 'onnxref[cuda12]')"
        )
    return found[:1]
