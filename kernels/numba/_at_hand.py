"""Functions that are loaded already, in place of better ones that would have to be compiled first.

Convolutions choose their tile by the extents of an image, and code for another tile takes a second to
compile. Where a model meets new shapes again and again, a tile that is there is as good: each element is
summed in the same order, so the choice changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxref.lowering import Site
from onnxref.native import NativeFunction, loaded_like

_MOST = 1.3  # times the price of the best function


def at_hand(
    site: Site, best: NativeFunction, price: Callable[[NativeFunction], float | None]
) -> NativeFunction:
    """Return the best function; where its compiling would be waited for, the cheapest one that is loaded.

    Args:
        price: what a function of the same template would take, in any unit; None where it does not fit.
    """
    if not site.hurried or best.is_ready:
        return best
    least = price(best)
    assert least is not None, f"{best!r} does not fit its own shapes"
    found, least = best, least * _MOST
    for function in loaded_like(best):
        cost = price(function)
        if cost is not None and cost <= least:
            found, least = function, cost
    return found
