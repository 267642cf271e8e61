"""The fake backends are importable in workers, and no test touches the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _workers_find_the_fake_backends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
