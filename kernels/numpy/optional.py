"""Optionals: a value is its own optional, the empty one is None."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import op


@op("Optional", since=(15, 28))
def optional(input: Any = None, *, type: Any = None) -> Any:
    """Wrap `input`, or return the empty optional of `type` (ONNX Optional-28)."""
    if input is None and type is None:
        raise KernelError("type must be given where there is no input (got neither)")
    return input


# An optional is told from its element by its type only, so that plain tensors and sequences,
# which versions 18 and later accept as well, need nothing of their own.
@op("OptionalGetElement", since=(15, 18, 28))
def optional_get_element(input: Any) -> Any:
    """Return the element of an optional, or a tensor or sequence as it is (ONNX OptionalGetElement-28)."""
    if input is None:
        raise KernelError("input must have an element (got an empty optional)")
    return input


@op("OptionalHasElement", since=(15, 18, 28))
def optional_has_element(input: Any = None) -> Array:
    """Return whether there is an element; an absent input has none (ONNX OptionalHasElement-28)."""
    return np.array(input is not None)
