"""What convolutions have in common: windows, strides, layouts, weights in other orders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnxref.lowering import ChannelsLast, Operand, Scratch, Site, Unsupported

from ..common.windows import over_axes, with_leading
from ..numpy._windows import Windows
from ._products import ACTIVATIONS, epilogue_defines
from ._rows import FLOATS
from ._views import Memory
from .layout import turn
from .movement import dense, is_dense, pitch_of, spread

CODE = "onnxref.kernels.cupy.code"
ACCESS = 16  # bytes


def strides_of(shape: Sequence[int], last: bool, pitch: int = 0) -> tuple[int, ...]:
    """Return strides in elements of (N, C, axes...): n, c, then three axes.

    Args:
        pitch: from pixel to pixel where the channels are last; 0 where there are no gaps.
    """
    _, c, *axes = shape
    c = pitch or c
    extents = with_leading(axes, 3, 1)
    step = c if last else 1
    found: list[int] = []
    for extent in reversed(extents):
        found.insert(0, step)
        step *= extent
    return (math.prod(extents) * c, 1 if last else math.prod(extents), *found)


def is_last(operand: Operand) -> bool:
    """Whether a tensor lies with the channels last."""
    if operand.layout is not None and not isinstance(operand.layout, ChannelsLast):
        raise Unsupported(f"a tensor {operand.layout}")
    return operand.layout is not None


def turned(site: Site, x: Operand) -> Memory:
    """Return where a tensor lies with the channels last and without gaps, turned over if need be."""
    channels, pixels = x.shape[1], math.prod(x.shape[2:])
    if is_last(x):
        return dense(site, x)
    if 1 in (channels, pixels):
        return x
    made = site.scratch(x.nbytes)
    turn(site, x, made, x.shape[0], channels, pixels, x.dtype.itemsize)
    return made


def packed_weights(site: Site, w: Operand) -> Memory:
    """Return weights (M, C, kernel...) as (M, taps, C)."""
    m, c, *kernel = w.shape
    taps = math.prod(kernel)
    if w.constant is not None:
        held = w.constant
        return site.pack((w,), ("taps first",), lambda: held.reshape(m, c, taps).transpose(0, 2, 1))
    if 1 in (c, taps):
        return w
    made = site.scratch(w.nbytes)
    turn(site, w, made, m, c, taps, w.dtype.itemsize)
    return made


@dataclass(slots=True, eq=False)
class Goal:
    """Where a result with the channels last goes to; `finish` brings it to the output.

    Attributes:
        pitch: of the memory.
    """

    site: Site
    y: Operand
    memory: Operand | Scratch
    pitch: int

    @classmethod
    def of(cls, site: Site, y: Operand, *, pitched: bool = False) -> Goal:
        """Choose the memory: the output itself, if it has no gaps or what writes it takes pitches."""
        if (is_dense(y) or pitched) and (is_last(y) or 1 in (y.shape[1], math.prod(y.shape[2:]))):
            return cls(site, y, y, pitch_of(y))
        return cls(site, y, site.scratch(y.nbytes), y.shape[1])

    def finish(self) -> None:
        if self.memory is self.y:
            return
        if is_last(self.y):
            spread(self.site, self.y, self.memory)
        else:
            n, channels, *axes = self.y.shape
            turn(self.site, self.memory, self.y, n, math.prod(axes), channels, self.y.dtype.itemsize)


@dataclass(eq=False)
class Conv:
    """activation(conv(x, w) + bias + residual).

    Attributes:
        pitched: whether what computes it takes tensors with pitches; they have none otherwise.
    """

    site: Site
    x: Operand
    w: Operand
    y: Operand
    windows: Windows
    group: int = 1
    bias: Operand | None = None
    residual: Operand | None = None
    activation: str = ""
    alpha: float = 0.0
    beta: float = 0.0
    pitched: bool = False

    def __post_init__(self) -> None:
        self.n, self.c = self.x.shape[:2]
        self.m = self.y.shape[1]
        self.name = self.x.dtype.name
        self.size = self.x.dtype.itemsize
        if self.name not in FLOATS or not self.x.dtype == self.w.dtype == self.y.dtype:
            raise Unsupported(f"convolution of {self.name} by {self.w.dtype.name}")
        for operand in (self.bias, self.residual):
            if operand is not None and operand.dtype != self.x.dtype:
                raise Unsupported("an addend of another type")
        if self.bias is not None and self.bias.shape != (self.m,):
            raise Unsupported(f"a bias of shape {self.bias.shape}")
        if self.residual is not None and self.residual.shape != self.y.shape:
            raise Unsupported("a residual that is broadcast")
        if self.activation not in ACTIVATIONS:
            raise Unsupported(f"activation {self.activation}")

    @property
    def taps(self) -> int:
        return math.prod(self.windows.kernel)

    @property
    def positions(self) -> int:
        return self.n * math.prod(self.windows.out)

    @cached_property
    def goal(self) -> Goal:
        return Goal.of(self.site, self.y, pitched=self.pitched)

    @cached_property
    def source(self) -> tuple[Memory, int]:
        """The input with the channels last, and its pitch."""
        return self._lying(self.x)

    @cached_property
    def pitches(self) -> tuple[int, int, int]:
        """The pitches of input, result and residual; 0 for those without gaps."""
        (_, source), (_, added) = self.source, self.added or (None, self.m)
        given = ((source, self.c), (self.goal.pitch, self.m), (added, self.m))
        x, y, residual = (0 if pitch == channels else pitch for pitch, channels in given)
        return x, y, residual

    @cached_property
    def added(self) -> tuple[Memory, int] | None:
        """The residual with the channels last, and its pitch."""
        return None if self.residual is None else self._lying(self.residual)

    def _lying(self, x: Operand) -> tuple[Memory, int]:
        if self.pitched and is_last(x):
            return x, pitch_of(x)
        return turned(self.site, x), x.shape[1]

    @property
    def factors(self) -> tuple[np.float64, np.float64]:
        return np.float64(self.alpha), np.float64(self.beta)

    def defines(self) -> dict[str, str | int]:
        """Return the parameters of `product.cuh`."""
        return epilogue_defines(self.name, self.activation)


def taps_first(conv: Conv) -> Memory:
    """Return weights (M, C / groups, taps) as (taps, C / groups, M)."""
    m, depth = conv.m, conv.w.shape[1]
    held = conv.w.constant
    if held is not None:
        return conv.site.pack(
            (conv.w,), ("taps, M",), lambda: held.reshape(m, depth, conv.taps).transpose(2, 1, 0)
        )
    if conv.group == 1 or depth != 1:
        raise Unsupported("weights of groups that are not constant")
    made = conv.site.scratch(conv.w.nbytes)
    turn(conv.site, conv.w, made, 1, m, conv.taps, conv.size)
    return made


def extents(windows: Windows) -> tuple[tuple[int, ...], ...]:
    """Return what kernels want of windows, for three axes: size, out, kernel, strides, dilations, begins."""
    w = over_axes(windows, 3)
    return w.size, w.out, w.kernel, w.strides, w.dilations, w.begins


def may_round(site: Site, w: Operand) -> bool:
    """Whether float32 may be multiplied in TF32."""
    return site.precision == "tf32" or (site.precision == "bf16" and w.constant is not None)


def aligned_channels(dtype: Any, *channels: int) -> bool:
    """Whether pixels are whole accesses of 16 bytes, which all of cuDNN's tensor core engines want."""
    return all(c % (ACCESS // dtype.itemsize) == 0 for c in channels)


def symmetric(windows: Windows) -> bool:
    """Whether the padding before each axis, put behind it too, gives the same windows."""
    ends = zip(windows.size, windows.begins, windows.extent, windows.strides, windows.out, strict=True)
    return all((size + 2 * begin - extent) // step + 1 == out for size, begin, extent, step, out in ends)
