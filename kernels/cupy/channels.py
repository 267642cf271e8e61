"""ShuffleChannels, the planner's own, on a GPU: a strided copy, exact for every type."""

from __future__ import annotations

from onnxref.lowering import Operand, Site, lower
from onnxref.registry import INTERNAL

from ..common.checks import check_movable, only_output
from ..common.strides import Dim
from .movement import emit_box, goes_along, strides_of


@lower("ShuffleChannels", since=1, domain=INTERNAL, backend="cupy", blocked=goes_along)
def shuffle_channels(site: Site, x: Operand, *, groups: int) -> None:
    """Copy the channels of `groups` groups in turns; see the reference kernel."""
    y = only_output(site)
    check_movable(x)
    batch, channel, *spatial = zip(x.shape, strides_of(y), strides_of(x), strict=True)
    each = channel[0] // groups
    _, to, source = channel
    dims = [Dim(*batch), Dim(each, to * groups, source), Dim(groups, to, source * each)]
    emit_box(site, y, x, [*dims, *(Dim(*axis) for axis in spatial)])
