"""From a Python function to object code, by Numba's compiler. Imports Numba."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
from numba import types
from numba.core import compiler
from numba.core.registry import cpu_target

from ._target import target

SIGNATURE = (types.int64,) * 4


def compile_kernel(function: Callable[..., Any]) -> tuple[str, bytes]:
    """Return (symbol, object code) of a kernel of four int64 arguments that returns nothing.

    The code follows Numba's own calling convention: (return slot, exception slot, arguments) -> status.
    """
    flags = compiler.Flags()
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.nrt = False
    flags.error_model = "numpy"
    flags.fastmath = {"contract"}  # fused multiply-add, and no other freedom
    typing_context, target_context = _contexts()
    typing_context.refresh()
    target_context.refresh()
    result = compiler.compile_extra(
        typing_context, target_context, function, SIGNATURE, types.void, flags, {}
    )
    code = result.library.serialize_using_object_code()[2][0]
    return result.fndesc.llvm_func_name, code


@cache
def _contexts() -> tuple[Any, Any]:
    """Return Numba's contexts, made for `target()`: it reads its settings when it first makes code."""
    chosen = target()
    before = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = chosen.cpu, chosen.features
    try:
        contexts = cpu_target.typing_context, cpu_target.target_context
        made = contexts[1].codegen()  # this is where they are read
    finally:
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = before
    if made._tm_features != chosen.features:
        raise RuntimeError("this process has used Numba before, for other instructions than are wanted now")
    return contexts


_contexts()  # before the first dispatcher of a module of code makes them, for the processor that is here
