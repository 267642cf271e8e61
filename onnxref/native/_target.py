"""What the processor offers to native code."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache

VARIABLE = "ONNXREF_CPU"

# How dot products of bfloat16 are computed; see `vectors.Vectors.dot_pairs`.
AVX512_BF16, SOFTWARE = "avx512_bf16", "software"

# Feature levels that a processor can be held down to, with LLVM's name of a processor that has just that.
_LEVELS = {"avx2": "haswell", "sse2": "x86-64"}


@dataclass(frozen=True, slots=True)
class Target:
    """The processor that code is made for.

    Attributes:
        cpu: LLVM's name of it.
        features: LLVM's feature string.
        lanes: float32 elements in the widest vector.
        registers: vector registers.
        halves: whether it converts float16 (F16C; every 64-bit ARM does).
        vnni: whether there are 8-bit dot products (AVX512-VNNI).
        bf16: whether there are bfloat16 dot products (AVX512-BF16).
    """

    cpu: str
    features: str
    lanes: int
    registers: int
    halves: bool
    vnni: bool
    bf16: bool = False

    @property
    def vector_bytes(self) -> int:
        return 4 * self.lanes


@cache
def target() -> Target:
    """Return the target of this process: the host, or the level that ONNXREF_CPU names.

    Raises:
        ValueError: the variable names no known level.
    """
    wanted = os.environ.get(VARIABLE) or "native"
    if wanted in _LEVELS:
        is_wide = wanted == "avx2"
        lanes = 8 if is_wide else 4
        return Target(_LEVELS[wanted], "", lanes=lanes, registers=16, halves=is_wide, vnni=False)
    if wanted != "native":
        known = ", ".join(("native", *_LEVELS))
        raise ValueError(f"{VARIABLE} must be one of {known} (got {wanted!r})")
    return _host()


def _host() -> Target:
    from llvmlite import binding

    present = {name for name, has in binding.get_host_cpu_features().items() if has}
    features = ",".join(sorted(f"+{name}" for name in present))
    cpu = binding.get_host_cpu_name()
    if "avx512f" in present and "avx512bw" in present and "avx512vl" in present:
        # LLVM keeps to 256 bits on some processors to spare their clock; these kernels gain by 512.
        return Target(
            cpu,
            f"{features},-prefer-256-bit",
            lanes=16,
            registers=32,
            halves=True,
            vnni="avx512vnni" in present,
            bf16="avx512bf16" in present,
        )
    if "avx2" in present and "fma" in present:
        return Target(cpu, features, lanes=8, registers=16, halves="f16c" in present, vnni=False)
    is_arm = platform.machine() in ("aarch64", "arm64")
    halves = is_arm or "f16c" in present
    return Target(cpu, features, lanes=4, registers=32 if is_arm else 16, halves=halves, vnni=False)
