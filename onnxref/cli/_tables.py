"""How values, types and numbers look in tables and in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from ..dtypes import LOW_PRECISION, tensor_type_string
from ..graph import SparseTensor


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a Rich table; everything is shown as plain text."""
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold cyan")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def describe_value(value: Any) -> dict[str, Any]:
    """Return a summary of a value: kind, type, shape, statistics, first elements; ready for JSON."""
    match value:
        case np.ndarray():
            return _describe_array(value)
        case SparseTensor():
            return {"type": f"sparse_{tensor_type_string(value.values.dtype)}", "shape": list(value.shape)}
        case list():
            return {"type": "sequence", "length": len(value), "first": [describe_value(v) for v in value[:3]]}
        case dict():
            first = {str(k): _plain(v) for k, v in list(value.items())[:5]}
            return {"type": "map", "length": len(value), "first": first}
        case None:
            return {"type": "optional", "first": None}
        case _:
            return {"type": type(value).__name__, "first": _plain(value)}


def _describe_array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": tensor_type_string(array.dtype), "shape": list(array.shape)}
    found["first"] = [_plain(item) for item in array.reshape(-1)[:5]]
    if array.size and (array.dtype.kind in "iuf" or array.dtype in LOW_PRECISION):
        wide = array.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        found["nan"] = int(np.isnan(wide).sum())
        found["inf"] = int(np.isinf(wide).sum())
        if finite.size:
            mean = np.mean(finite, dtype=np.longdouble)  # a sum of float64 values may overflow
            found |= {"min": float(finite.min()), "max": float(finite.max()), "mean": float(mean)}
    return found


def _plain(item: Any) -> Any:
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)  # JSON has no such numbers
    if isinstance(item, (str, bool, int, float)) or item is None:
        return item
    if isinstance(item, np.ndarray):
        return item.tolist()
    if isinstance(item, (np.complexfloating, complex)):
        return str(item)
    if isinstance(item, np.generic) and item.dtype.kind in "iub":
        return item.item()
    return _plain(float(item)) if not isinstance(item, (list, dict)) else str(item)


def number(value: Any) -> str:
    """Return a number short enough for a table cell; empty for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def byte_count(count: int) -> str:
    """Return a size with its binary unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
