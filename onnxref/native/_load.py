"""Object code into the process, without Numba."""

from __future__ import annotations

import threading
from typing import Any

from llvmlite import binding

_lock = threading.Lock()
_engine: Any = None
_kept: list[Any] = []


def load(symbol: str, code: bytes) -> int:
    """Return the address of `symbol` of an object file; the code stays for the life of the process."""
    global _engine
    with _lock:
        if _engine is None:
            _engine = _new_engine()
        obj = binding.ObjectFileRef.from_data(code)
        _kept.append(obj)
        _engine.add_object_file(obj)
        _engine.finalize_object()
        address = _engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f"object code has no symbol {symbol!r}")
    return int(address)


def _new_engine() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True, codemodel="jitdefault")
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
