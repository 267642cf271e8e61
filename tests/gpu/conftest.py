"""The emulated device in the place of a card."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import onnxref.gpu

from .emulator.device import EmulatedDevice


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedDevice]:
    """The emulated device; sessions with the backend "cupy" run on it."""
    made = EmulatedDevice()
    monkeypatch.setattr(onnxref.gpu, "open_device", lambda: made)
    yield made
    made.synchronize()
