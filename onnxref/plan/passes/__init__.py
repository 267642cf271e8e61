"""The passes over a block of known shapes, in the order in which they run."""

from collections.abc import Callable, Collection

from ._block import Block

Pass = Callable[[Block], int]


def all_passes() -> dict[str, Pass]:
    """Return every pass by name, in the order in which they run."""
    return {}


def run_passes(block: Block, without: Collection[str] = ()) -> dict[str, int]:
    """Run the passes over a block; return how much each has rewritten."""
    return {name: run(block) for name, run in all_passes().items() if name not in without}


__all__ = ["Block", "all_passes", "run_passes"]
