"""What the planner gives to a card: every kernel that models need, found without running one.

The models run on the reference, which teaches the planner their shapes; each planned program is prepared as
it would be on a card, so that all of its launches are seen, and then declines to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn

import pytest

import onnxref.gpu
from onnxref.gpu import Extent, Kernel
from onnxref.plan.specialize import DeviceProgram, RefusedError

from . import small_models, suite
from .emulator.device import EmulatedCall, EmulatedDevice

LIBRARIES = ("cublaslt", "cudnn")


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a kernel is launched."""

    grid: Extent
    block: Extent
    shared: int


@dataclass
class RecordingDevice(EmulatedDevice):
    """A device that notes what it is told to launch, and neither builds nor runs it."""

    seen: dict[Kernel, set[Geometry]] = field(default_factory=dict)

    def launch(
        self, kernel: Kernel, arguments: Sequence[Any], grid: Extent, block: Extent, shared: int
    ) -> EmulatedCall:
        self.seen.setdefault(kernel, set()).add(Geometry(grid, block, shared))
        return EmulatedCall(self, str(kernel), _never)


def _never() -> NoReturn:
    raise AssertionError("a recorded launch was run")


def _decline(*_: Any, **__: Any) -> NoReturn:
    raise RefusedError


@contextmanager
def recording(*libraries: str) -> Iterator[RecordingDevice]:
    """Have sessions with the backend "cupy" plan for a device with these libraries that only takes notes."""
    device = RecordingDevice(libraries=frozenset(libraries))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxref.gpu, "open_device", lambda: device)
        patch.setattr(DeviceProgram, "run", _decline)
        yield device
        device.buffers.clear()


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield name and function of the official cases, with constants for inputs too, and the small models."""
    yield from suite.cases()
    yield from suite.constant_cases()
    yield from small_models.cases()


@cache
def launches(*libraries: str) -> dict[str, dict[Kernel, set[Geometry]]]:
    """Return what each case launches on a device with these libraries."""
    found = {}
    with recording(*libraries) as device:
        for name, case in cases():
            device.seen = {}
            case()
            device.buffers.clear()
            found[name] = device.seen
    return found
