"""Object code on disk: one file per native function, found by a hash of everything it was made from.

Rules
    1. A file's name is the hash of the function's source files, its parameters, the target, and the
       versions of Python, NumPy, Numba and llvmlite: what is stale is never found.
    2. Files appear by renaming a finished one: readers and several writers need no lock.
    3. Where the folder cannot be written to, it is still read, and what is missing goes to a folder of this
       process and its children, which is deleted at its end.
    4. Object code is run as it is: a folder or file of another user, or that others may write to, is
       not read.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

VARIABLE = "ONNXREF_CACHE"
_SUFFIX = ".native"


class CacheDescription(NamedTuple):
    """What the cache holds."""

    folder: Path
    files: int
    bytes: int


def cache_folder() -> Path:
    """Return the folder of object code: ONNXREF_CACHE, or `onnxref` in the user's cache folder."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "onnxref" / "native"


def load(key: str) -> tuple[str, bytes] | None:
    """Return (symbol, object code) of a function, or None where the cache has none."""
    path = _find(key)
    if path is None:
        return None
    try:
        symbol, _, code = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return (symbol.decode("ascii"), code) if code else None


def contains(key: str) -> bool:
    """Whether `load` is going to find a function."""
    return _find(key) is not None


def _find(key: str) -> Path | None:
    for folder in dict.fromkeys((cache_folder(), writable_folder())):
        path = folder / (key + _SUFFIX)
        with contextlib.suppress(OSError):  # it is not there
            if _is_private(folder) and _is_private(path):  # rule 4
                return path
    return None


@cache
def writable_folder() -> Path:
    """Return the folder that new code goes to (rule 3)."""
    folder = cache_folder()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and _is_private(folder):
            return folder
    own = tempfile.TemporaryDirectory(prefix="onnxref-native-")
    atexit.register(own.cleanup)
    return Path(own.name)


def store(key: str, symbol: str, code: bytes) -> None:
    """Keep a function's object code (rules 2 and 3)."""
    folder = writable_folder()
    with contextlib.suppress(OSError):  # a full disk: the next process compiles again
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(symbol.encode("ascii") + b"\n" + code)
            os.replace(temporary, folder / (key + _SUFFIX))
        except BaseException:
            os.unlink(temporary)
            raise


def describe_cache() -> CacheDescription:
    """Return where the cache is and how much it holds."""
    folder = cache_folder()
    sizes = [path.stat().st_size for path in folder.glob("*" + _SUFFIX)] if folder.is_dir() else []
    return CacheDescription(folder, len(sizes), sum(sizes))


def clear_cache() -> CacheDescription:
    """Delete all object code; return what there was."""
    before = describe_cache()
    if before.folder.is_dir():
        for path in (*before.folder.glob("*" + _SUFFIX), *before.folder.glob("*.part")):
            path.unlink(missing_ok=True)
    return before


def _is_private(path: Path) -> bool:
    """Whether only this user (or root) can have written a file or folder."""
    if sys.platform == "win32":
        return path.exists()
    found = path.stat()
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid in (os.getuid(), 0) and not others_write
