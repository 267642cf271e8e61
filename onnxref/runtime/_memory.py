"""The account of a run's memory: which arrays are alive, wherever they are held.

Steps hand values on as views, sequences share their tensors, and control flow collects what its bodies
return. So the account follows the arrays that own memory, each counted once, until Python frees it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from ..dtypes import Array, memory_owner
from ..graph import SparseTensor
from ..limits import Budget

# Strings to count before the limits are looked at again.
_CHUNK = 65_536
# Characters that may be joined to be counted at once: many strings may be one long string.
_LONGEST_JOINED = 1 << 20


class Ledger:
    """Charges a run's budget for every array that owns memory, from when it is seen until it is freed.

    Args:
        budget: what to charge.
        outside: identities of the arrays that the run did not make: inputs and constants.
    """

    __slots__ = ("_alive", "_budget", "_outside")

    def __init__(self, budget: Budget, outside: Iterable[int] = ()) -> None:
        self._budget = budget
        self._outside = frozenset(outside)
        self._alive: dict[int, weakref.ref[Array]] = {}

    def add(self, value: Any) -> None:
        """Charge what `value` keeps alive and nothing else did before.

        Raises:
            ResourceLimitError: a value is too large, or all living ones together are.
        """
        if isinstance(value, np.ndarray):
            root = memory_owner(value)
            key = id(root)
            if key not in self._alive and key not in self._outside:
                self._charge(key, root)
        elif isinstance(value, list):
            self._budget.check_sequence(len(value))
            # A loop that grows a sequence shows all of it each time; most tensors are known.
            alive = self._alive
            for item in [item for item in value if id(item) not in alive]:
                self.add(item)
        elif isinstance(value, SparseTensor):
            self.add(value.values)
            self.add(value.indices)

    def _charge(self, key: int, root: Array) -> None:
        size = root.nbytes
        if root.dtype == np.object_:
            size += text_bytes(root, self._budget)
        self._budget.check_bytes(size)
        self._alive[key] = weakref.ref(root, partial(self._forget, key, size))
        self._budget.add_live(size)

    def _forget(self, key: int, size: int, _: weakref.ref[Array]) -> None:
        del self._alive[key]
        self._budget.drop_live(size)


def text_bytes(array: Array, budget: Budget) -> int:
    """Return the size of all strings of an object array, in UTF-8.

    Raises:
        ResourceLimitError: there is more text than allowed, or the time to count it is over.
    """
    total = 0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        total += _utf8_bytes(flat[start : start + _CHUNK].tolist())
        budget.check_strings(total)
        budget.check_time()
    return total


def _utf8_bytes(items: list[Any]) -> int:
    try:
        if sum(map(len, items)) <= _LONGEST_JOINED:
            items = ["".join(items)]
    except TypeError:
        pass  # operators of users may make other objects
    return sum(
        # Lone surrogates stand for bytes that are not UTF-8.
        len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        for text in items
        if isinstance(text, str)
    )
