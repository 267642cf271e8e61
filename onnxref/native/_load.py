"""Object code into the process, without Numba."""

from __future__ import annotations

import threading
from typing import Any

from llvmlite import binding

_lock = threading.Lock()
_engines: list[Any] = []


def load(symbol: str, code: bytes) -> int:
    """Return the address of `symbol` of an object file; the code stays for the life of the process.

    Each object has an engine to itself: objects that were compiled in different processes may use the
    same names for different functions, and one engine would bind calls to whichever it saw first.
    """
    with _lock:
        if not _engines:
            binding.initialize_native_target()
            binding.initialize_native_asmprinter()
        engine = _new_engine()
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
        engine.finalize_object()
        address = engine.get_function_address(symbol)
        _engines.append(engine)
    if not address:
        raise RuntimeError(f"object code has no symbol {symbol!r}")
    return int(address)


def _new_engine() -> Any:
    machine = binding.Target.from_default_triple().create_target_machine(jit=True, codemodel="jitdefault")
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
