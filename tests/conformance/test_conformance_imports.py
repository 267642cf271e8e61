"""The conformance tool knows of onnxref what anyone may know, and importing it costs little."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import onnxref.conformance
import pytest

import onnxref

FILES = sorted(Path(onnxref.conformance.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_only_the_public_face(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            foreign = [name.name for name in node.names if name.name.startswith("onnxref.")]
            assert foreign == [], ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            assert not node.module.startswith("onnxref."), ast.unparse(node)
            if node.module == "onnxref":
                assert {name.name for name in node.names} <= set(onnxref.__all__)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "onnxref":
            assert node.attr in onnxref.__all__


def test_the_command_line_stays_light() -> None:
    code = "import onnxref.conformance.cli, sys; print('numpy.testing' in sys.modules, 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
