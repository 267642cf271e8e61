"""What the operators on strings share: expressions of RE2, and string tensors of Python lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError, MissingDependencyError


def compile_re2(pattern: str | bytes, *, longest_match: bool = False) -> Any:
    """Compile an expression for texts of the pattern's type."""
    try:
        import re2
    except ImportError as error:
        raise MissingDependencyError(
            "regular expressions need google-re2: run `pip install onnxref[text]`"
        ) from error
    options = re2.Options()
    options.log_errors = False
    options.longest_match = longest_match
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        shown = pattern if isinstance(pattern, str) else pattern.decode()
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error.args[0]
        raise KernelError(f"pattern must be a valid RE2 expression (got {shown!r}: {reason})") from error


def string_tensor(texts: Sequence[str]) -> Array:
    """Return strings as a 1-D tensor."""
    result = np.empty(len(texts), object)
    result[:] = texts
    return result


def padded_rows(rows: Sequence[list[str]], width: int, padding: str) -> Array:
    """Return rows of at most `width` strings as (N, width)."""
    filling = [padding] * width
    flat: list[str] = []
    for row in rows:
        flat += row
        flat += filling[len(row) :]
    return string_tensor(flat).reshape(len(rows), width)
