"""Builds the wheel and type-checks what it installs, which also proves that the wheel is whole.

python -m tests.check_wheel
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "check"


def main() -> int:
    shutil.rmtree(BUILD, ignore_errors=True)
    site = BUILD / "site"
    _call(["pip", "install", "--quiet", "--no-deps", "--target", str(site), str(ROOT)])
    missing = sorted(set(_sources(ROOT, "conformance", "kernels", "onnxref")) - set(_sources(site)))
    if missing:
        print("files that the wheel lacks:", *missing, sep="\n  ")
        return 1
    # A cache of its own: one that other runs of mypy share was seen to hold stale modules.
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(BUILD / "cache")]
    # Run in an empty folder, so that the checkout's own packages are not found first.
    return _call(["mypy", *config, "-p", "onnxref"], cwd=BUILD, MYPYPATH=str(site))


def _sources(base: Path, *folders: str) -> list[str]:
    """Python files, and the data files that they read, below `base`; named as they are imported."""
    kinds = ("*.py", "*.html", "*.toml", "*.cu", "*.cuh")
    found = [p for folder in folders or (".",) for kind in kinds for p in (base / folder).rglob(kind)]
    names = [p.relative_to(base).as_posix() for p in found if "results" not in p.parts]  # measured, not read
    return [n if n.startswith("onnxref/") else f"onnxref/{n}" for n in names]


def _call(arguments: list[str], cwd: Path | None = None, **environment: str) -> int:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
