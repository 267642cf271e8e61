"""Lowerings of one family used by another, over memory seen under another shape.

A convolution of 1x1 is a matrix product of the same memory. `emit_view` runs the product's lowering on
operands that stand for that memory, and hands its launches on with the memory in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from onnxref.dtypes import DType
from onnxref.gpu import Launch
from onnxref.lowering import Address, Alias, ChannelsLast, Op, Operand, Packed, Scratch, Site, Unsupported

Memory: TypeAlias = Operand | Scratch | Packed | Address


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Memory seen as a C-contiguous tensor, or as a matrix.

    Attributes:
        memory: where its first element lies.
        pitch: elements from row to row of a matrix (rows, columns); 0 where there are no gaps.
    """

    memory: Memory
    shape: tuple[int, ...]
    dtype: DType
    pitch: int = 0

    def operand(self) -> Operand:
        """Return an operand that stands for it; that of a packed array, of the view's shape, is constant.

        A matrix with gaps is a tensor of one-pixel images: its layout has the pitch.
        """
        constant = self.memory.array if isinstance(self.memory, Packed) else None
        has_gaps = self.pitch not in (0, self.shape[-1])
        layout = ChannelsLast(pitch=self.pitch) if has_gaps else None
        return Operand(self.shape, self.dtype, constant=constant, layout=layout)


def row_pitch(x: Operand) -> int:
    """Return the elements from row to row of a matrix with gaps (see `View`), 0 for any other tensor."""
    return x.layout.pitch if x.ndim == 2 and isinstance(x.layout, ChannelsLast) else 0


def emit_view(
    site: Site,
    emit: Callable[..., None],
    inputs: Sequence[View | Operand | None],
    output: View,
    **attributes: Any,
) -> None:
    """Emit another lowering over views, and operands as they are.

    Raises:
        Unsupported: it refuses; nothing is launched then.
    """
    operands = [view.operand() if isinstance(view, View) else view for view in inputs]
    result = output.operand()
    inner = Site(
        Op(site.op.op_type, list(operands), [result], attributes, opset=site.opset),
        site.packs,
        site.precision,
        libraries=site.libraries,
    )
    emit(inner, *operands, **attributes)
    memory: dict[Operand, Memory] = {result: output.memory}
    for operand, view in zip(operands, inputs, strict=True):
        if operand is not None and isinstance(view, View):
            memory[operand] = view.memory

    def real(argument: Any) -> Any:
        if isinstance(argument, Operand):
            return memory.get(argument, argument)
        if isinstance(argument, Address) and isinstance(argument.owner, Operand):
            return memory.get(argument.owner, argument.owner) + argument.offset
        return argument

    aliases = [Alias(real(y), real(x), offset) for y, x, offset in inner.aliases]
    if not all(isinstance(place, Operand) for y, x, _ in aliases for place in (y, x)):
        raise Unsupported("a view that would be an alias")
    site.aliases += aliases
    site.scratches += inner.scratches
    site.notes += inner.notes
    for call in inner.launches:
        if isinstance(call, Launch):
            site.launches.append(replace(call, arguments=tuple(map(real, call.arguments))))
        else:
            tensors = tuple((role, real(place)) for role, place in call.tensors)
            site.launches.append(replace(call, tensors=tensors))
