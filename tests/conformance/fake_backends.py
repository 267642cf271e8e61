"""Backends that misbehave in one way each, for the workers of the tests."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

__version__ = "1.2.3"


def right(model: bytes, inputs: list[Any]) -> list[Any]:
    return [-inputs[0]]


def wrong(model: bytes, inputs: list[Any]) -> list[Any]:
    return [-inputs[0] + np.float32([0, 1])]


def wrong_for_nan(model: bytes, inputs: list[Any]) -> list[Any]:
    return [np.where(inputs[0] == inputs[0], -inputs[0], np.ones_like(inputs[0]))]


def raises(model: bytes, inputs: list[Any]) -> list[Any]:
    raise ValueError("no such thing\nas a second line")


def raises_gibberish(model: bytes, inputs: list[Any]) -> list[Any]:
    raise ValueError("\x1b[31mred\udcff")


def refuses(model: bytes, inputs: list[Any]) -> list[Any]:
    raise NotImplementedError("Neg is beyond me")


def prints(model: bytes, inputs: list[Any]) -> list[Any]:
    print("hello from the backend", flush=True)
    os.write(1, b"and from below Python\n")
    return [-inputs[0]]


def aborts(model: bytes, inputs: list[Any]) -> list[Any]:
    print("last words", file=sys.stderr, flush=True)
    os.abort()


def hangs(model: bytes, inputs: list[Any]) -> list[Any]:
    time.sleep(600)
    return []


def eats_memory(model: bytes, inputs: list[Any]) -> list[Any]:
    return [np.ones(2**34, np.uint8)]


def leaves(model: bytes, inputs: list[Any]) -> list[Any]:
    sys.exit(3)


def aborts_once(model: bytes, inputs: list[Any]) -> list[Any]:
    """Abort where the marker file does not exist yet."""
    marker = os.environ["FAKE_MARKER"]
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.abort()
    return [-inputs[0]]


class Backend:
    """The interface of `onnx.backend.base.Backend`, without inheriting from it."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @classmethod
    def is_compatible(cls, model: Any) -> bool:
        return bool(model.graph.node[0].op_type == "Neg")

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU") -> Any:
        return cls()

    def run(self, inputs: Any) -> tuple[Any, ...]:
        return (-inputs[0],)


class Picky(Backend):
    @classmethod
    def is_compatible(cls, model: Any) -> bool:
        return False


not_a_backend = 7
