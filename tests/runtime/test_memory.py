"""The size of text: onnxref/runtime/_memory.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxref.errors import ResourceLimitError
from onnxref.limits import Budget, Limits
from onnxref.runtime import _memory


@pytest.mark.parametrize("joined", [None, 3, 0])
@pytest.mark.parametrize(
    ("items", "size"),
    [
        ([], 0),
        (["abcd"] * 5, 20),
        (["a", "é", "€", "\ud800"], 1 + 2 + 3 + 3),
        (["abc", None, b"xx", ["q"]], 3),  # only strings count
        ([b"abcdef", "x"], 1),
    ],
)
def test_text_counts_in_utf8(
    items: list[Any], size: int, joined: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if joined is not None:
        monkeypatch.setattr(_memory, "_LONGEST_JOINED", joined)
    monkeypatch.setattr(_memory, "_CHUNK", 3)
    array = np.empty(len(items), object)
    array[:] = items
    assert _memory.text_bytes(array, Budget()) == size


def test_one_long_string_many_times_is_refused_without_joining_it() -> None:
    array = np.empty(60_000, object)
    array.fill("x" * 2**20)
    with pytest.raises(ResourceLimitError, match="string_bytes"):
        _memory.text_bytes(array, Budget(Limits(string_bytes=2**30)))
