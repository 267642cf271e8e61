"""`NativeFunction`: a Python function as machine code, from the cache where it can be.

A template is a function in a module of code that takes parameters (element type, tile, chain of
operations ...) and returns a kernel of four int64 arguments:

    def scale(dtype: str):                      # template; `dtype` is a parameter
        load, store = access(dtype)

        def kernel(p, begin, end, thread):      # p: address of the call's int64 arguments
            x, y = arg(p, 0), arg(p, 1)
            for i in range(begin, end):
                store(y, i, 2 * load(x, i))

        return kernel

The modules of code import Numba; what names them (`native("package.module", "scale", "float32")`) does
not. So a process that finds all its functions in the cache never imports Numba.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import re
import sys
import threading
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import _cache
from ._target import target

# Numba's calling convention: a slot for the result and one for an exception come first. Kernels use neither.
_Entry = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 4)
_slot = ctypes.c_int64()
_SLOT = ctypes.addressof(_slot)
_lock = threading.Lock()
_made: dict[tuple[str, str], list[NativeFunction]] = {}

# What machine code is made of, besides a template's module: the siblings that it imports, and these.
_SIBLINGS = re.compile(r"^\s*from \.(?: import )?(\w+)", re.MULTILINE)
_WORDS = ("_compile.py", "ops.py", "vectors.py")


class NativeUnavailableError(RuntimeError):
    """Native code cannot be made here: Numba is missing or refuses."""


class NativeFunction:
    """One template with its parameters; compiled or loaded when its address is first asked for."""

    __slots__ = ("_address", "_entry", "_key", "factory", "module", "parameters")

    def __init__(self, module: str, factory: str, parameters: tuple[Any, ...]) -> None:
        self.module = module
        self.factory = factory
        self.parameters = parameters
        self._address = 0
        self._entry: Any = None
        self._key: str | None = None

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.parameters))
        return f"{self.module.rpartition('.')[2]}.{self.factory}({shown})"

    @property
    def key(self) -> str:
        """Hash of all that the machine code follows from."""
        if self._key is None:
            parts = (_fingerprint(self.module), self.module, self.factory, self.parameters)
            self._key = hashlib.sha256(repr(parts).encode()).hexdigest()[:40]
        return self._key

    @property
    def is_ready(self) -> bool:
        """Whether the address can be had without compiling."""
        return bool(self._address) or _cache.contains(self.key)

    @property
    def address(self) -> int:
        """Address of the machine code.

        Raises:
            NativeUnavailableError: it cannot be compiled.
        """
        if not self._address:
            with _lock:
                if not self._address:
                    self._address = self._find()
        return self._address

    def _find(self) -> int:
        found = _cache.load(self.key)
        if found is None:
            found = self._compile()
            _cache.store(self.key, *found)
        from ._load import load  # llvmlite comes with it

        return load(*found)

    def _compile(self) -> tuple[str, bytes]:
        try:
            from ._compile import compile_kernel

            template = getattr(importlib.import_module(self.module), self.factory)
            return compile_kernel(template(*self.parameters))
        except Exception as error:
            raise NativeUnavailableError(f"{self!r} cannot be compiled: {error}") from error

    def __call__(self, arguments: int, begin: int, end: int, thread: int = 0) -> None:
        """Call it from Python, without the interpreter lock; `arguments` is an address."""
        if self._entry is None:
            self._entry = _Entry(self.address)
        self._entry(_SLOT, _SLOT, arguments, begin, end, thread)


@cache
def native(module: str, factory: str, *parameters: Any) -> NativeFunction:
    """Return the function that template `factory` of `module` makes of hashable parameters."""
    made = NativeFunction(module, factory, parameters)
    _made.setdefault((module, factory), []).append(made)
    return made


def loaded_like(function: NativeFunction) -> list[NativeFunction]:
    """Return the functions of the same template whose code this process has loaded."""
    return [made for made in tuple(_made[function.module, function.factory]) if made._address]


@cache
def _fingerprint(module: str) -> str:
    """Hash of the code that functions of a module are made of, and of what compiles them."""
    chosen = target()
    digest = hashlib.sha256(repr((sys.version, chosen, _versions())).encode())
    for path in _sources(module):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _versions() -> tuple[str, ...]:
    return tuple(version(name) for name in ("numba", "llvmlite", "numpy"))


def _sources(module: str) -> list[Path]:
    """Return the source of a module, those of the siblings that it imports, and the words of `ops`."""
    specification = importlib.util.find_spec(module)
    if specification is None or specification.origin is None:
        raise NativeUnavailableError(f"module {module} has no source to make a key from")
    found: set[Path] = set()
    waiting = [Path(specification.origin)]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += (path.with_name(f"{name}.py") for name in _SIBLINGS.findall(path.read_text("utf-8")))
    found.update(Path(__file__).with_name(name) for name in _WORDS)
    return sorted(found)
