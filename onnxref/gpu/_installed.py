"""Libraries of CUDA that pip's packages of NVIDIA bring, which lie where no loader looks for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path


def installed_libraries(name: str, *places: tuple[str, int]) -> Iterator[str]:
    """Yield where `lib<name>.so.<version>` is installed, newest first, then its name for the system's loader.

    Args:
        places: (package below `nvidia`, version), the best first.
    """
    for folder in sys.path:
        for package, version in places:
            path = Path(folder, "nvidia", package, "lib", f"lib{name}.so.{version}")
            if path.exists():
                yield str(path)
    yield from dict.fromkeys(f"lib{name}.so.{version}" for _, version in places)
