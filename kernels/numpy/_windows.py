"""Windows that slide over the spatial axes of an image: sizes, padding, views and their inverse.

Convolutions, pools and Col2Im share this arithmetic. Shapes are written (N, C, *spatial);
everything per spatial axis is a tuple with one entry per axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError

from ._checks import check_choice

# Sizes, strides, dilations and pads beyond this are refused; below it int64 arithmetic cannot overflow.
LARGEST = 2**31 - 1

Ints = tuple[int, ...]
Index = tuple[Any, ...]  # what goes between the brackets of an array
# The distinct (start, stop) of some windows of an axis, and for each window which of them it has.
Ranges = tuple[list[tuple[int, int]], Array]


@dataclass(frozen=True, slots=True)
class Windows:
    """How windows slide over an image.

    Window `o` of an axis holds the positions `o * stride + k * dilation - begin` for k < kernel,
    of which those in [0, size) are in the image and the others are padding.

    Attributes:
        size: size of the image.
        kernel: elements of a window, before dilation.
        strides: distance between neighbouring windows.
        dilations: distance between neighbouring elements of a window.
        begins: padding before the image.
        ends: padding after the image.
        out: number of windows.
    """

    size: Ints
    kernel: Ints
    strides: Ints
    dilations: Ints
    begins: Ints
    ends: Ints
    out: Ints

    @property
    def extent(self) -> Ints:
        """Size of a window with dilation."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def padded(self) -> Ints:
        """Size of the padded image."""
        return tuple(b + n + e for b, n, e in zip(self.begins, self.size, self.ends, strict=True))

    @property
    def are_pixels(self) -> bool:
        """Whether window `o` is just pixel `o`."""
        return self.kernel == self.strides == (1,) * len(self.size) and self.out == self.size == self.padded

    def taps(self) -> Iterator[Ints]:
        """Yield the position of each element of a window, in row-major order."""
        return np.ndindex(self.kernel)

    def patches(self, x: Array) -> Array:
        """Return a view (N, C, *kernel, *out) of all windows over `x` (N, C, *size), padded with zeros."""
        rank = len(self.size)
        axes = tuple(range(2, 2 + rank))
        view = np.lib.stride_tricks.sliding_window_view(self._pad(x), self.extent, axes)
        steps = [slice(0, n * s, s) for n, s in zip(self.out, self.strides, strict=True)]
        index: Index = (..., *steps, *(slice(None, None, d) for d in self.dilations))
        view = view[index]
        return view.transpose(0, 1, *range(2 + rank, 2 + 2 * rank), *axes)

    def _pad(self, x: Array) -> Array:
        if not any(self.begins) and not any(self.ends):
            return x
        padded: Array = np.zeros(x.shape[:2] + self.padded, x.dtype)
        inner: Index = (..., *(slice(b, b + n) for b, n in zip(self.begins, self.size, strict=True)))
        padded[inner] = x
        return padded

    def fold(self, columns: Array, image: Array, tap: Ints) -> None:
        """Add `columns` (..., *out), element `tap` of every window, to `image` (..., *size) in place."""
        windows: Index = (...,)
        positions: Index = (...,)
        for axis, k in enumerate(tap):
            over_windows, over_image = self.overlap(axis, k)
            windows += (over_windows,)
            positions += (over_image,)
        image[positions] += columns[windows]

    def overlap(self, axis: int, k: int) -> tuple[slice, slice]:
        """Return which windows of `axis` have their element `k` in the image, and where it is there."""
        step = self.strides[axis]
        offset = k * self.dilations[axis] - self.begins[axis]
        first = max(0, -(offset // step))
        stop = min(self.out[axis], (self.size[axis] - 1 - offset) // step + 1)
        if stop <= first:
            return slice(0, 0), slice(0, 0)
        return slice(first, stop), slice(offset + first * step, offset + (stop - 1) * step + 1, step)


# A node asks again for every run, and once more for its cost: for small images this arithmetic took as
# long as the convolution itself.
@lru_cache(maxsize=4096)
def slide(
    size: Ints,
    kernel: Ints,
    strides: Ints | None = None,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
) -> Windows:
    """Return the windows that the attributes of a convolution or pool describe (ONNX Conv-22, MaxPool-22).

    Raises:
        KernelError: an attribute has a wrong length or value, or no window fits.
    """
    rank = len(size)
    kernel = per_axis(kernel, rank, "kernel_shape")
    strides = per_axis(strides, rank, "strides")
    dilations = per_axis(dilations, rank, "dilations")
    begins, ends = split_pads(pads, rank, auto_pad)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = tuple(-(-n // s) for n, s in zip(size, strides, strict=True))
        totals = [max(0, (o - 1) * s + e - n) for o, s, e, n in zip(out, strides, extent, size, strict=True)]
        smaller, larger = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
        begins, ends = (smaller, larger) if auto_pad == "SAME_UPPER" else (larger, smaller)
    else:
        out = tuple(
            _count(size[i], extent[i], strides[i], begins[i], ends[i], ceil_mode) for i in range(rank)
        )
    return Windows(tuple(size), kernel, strides, dilations, begins, ends, out)


def _count(size: int, extent: int, stride: int, begin: int, end: int, ceil_mode: int) -> int:
    """Return how many windows fit along one axis."""
    room = begin + size + end - extent
    if room < 0:
        if size == 0:
            return 0
        raise KernelError(
            f"kernel with dilation must be at most the padded input, {begin + size + end} (got {extent})"
        )
    if not ceil_mode:
        return room // stride + 1
    # A window that starts in the right padding holds nothing and is dropped (MaxPool-22).
    return min(-(-room // stride) + 1, -(-(begin + size) // stride))


def per_axis(values: Sequence[int] | None, rank: int, name: str, *, default: int = 1, low: int = 1) -> Ints:
    """Return one int per spatial axis, checked to lie in [low, LARGEST]; absent ones are `default`."""
    if values is None:
        return (default,) * rank
    found = tuple(int(v) for v in values)
    if len(found) != rank:
        raise KernelError(f"{name} must have {rank} values (got {found})")
    if any(not low <= v <= LARGEST for v in found):
        raise KernelError(f"{name} must be in [{low}, {LARGEST}] (got {found})")
    return found


def split_pads(pads: Sequence[int] | None, rank: int, auto_pad: str) -> tuple[Ints, Ints]:
    """Return the explicit padding before and after each axis: zeros unless `auto_pad` is NOTSET."""
    check_choice(auto_pad, ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), "auto_pad")
    found = per_axis(pads, 2 * rank, "pads", default=0, low=0)
    if auto_pad != "NOTSET" and any(found):
        raise KernelError(f"pads must be absent or 0 with auto_pad={auto_pad} (got {found})")
    return found[:rank], found[rank:]


def spatial_shape(x: Array) -> Ints:
    """Return the spatial sizes of `x` (N, C, *spatial), of which there must be at least one."""
    if x.ndim < 3:
        raise KernelError(f"rank of the input must be at least 3, (N, C, D1, ...) (got shape {x.shape})")
    return x.shape[2:]


def blocks(outer: int, inner: int, item_bytes: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Cut an (outer, inner) grid of items into blocks of about `limit` bytes, at least one item each.

    A block holds several whole rows of the grid, or a part of one row.
    """
    row_bytes = max(1, inner * item_bytes)
    rows = max(1, limit // row_bytes)
    items = inner if row_bytes <= limit else max(1, limit // max(1, item_bytes))
    for row in range(0, outer, rows):
        for item in range(0, inner, items):
            yield slice(row, min(row + rows, outer)), slice(item, min(item + items, inner))


def scratch(windows: Windows, lanes: int, itemsize: int) -> int:
    """Return the bytes of `lanes` padded images (0 where there is no padding)."""
    padded = any(windows.begins) or any(windows.ends)
    return lanes * math.prod(windows.padded) * itemsize if padded else 0


def distinct_ranges(start: Array, stop: Array, size: int) -> Ranges:
    """Return the distinct (start, stop) within [0, size], with (0, 0) for empty ones, and which is whose."""
    empty = start >= stop
    codes = np.where(empty, 0, start) * (size + 1) + np.where(empty, 0, stop)
    found, which = np.unique(codes, return_inverse=True)
    return [divmod(code, size + 1) for code in found.tolist()], which.reshape(-1)
