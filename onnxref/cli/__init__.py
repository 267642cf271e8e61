"""The `onnxref` command. Needs the extra `onnxref[cli]` (Typer and Rich)."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        from ._app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print("the onnxref command needs Typer and Rich: pip install 'onnxref[cli]'", file=sys.stderr)
        sys.exit(2)
    app()
