"""The examples in the documents do what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

import onnxref

README = Path(__file__).parents[1] / "README.md"


def test_readme_examples() -> None:
    try:
        result = doctest.testfile(str(README), module_relative=False)
    finally:
        onnxref.unregister_op("Twice", domain="my.ops")
    assert result.attempted > 5
    assert result.failed == 0
