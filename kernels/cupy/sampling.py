"""Lowerings of GridSample, RoiAlign and Col2Im.

GridSample moves elements in mode nearest, exactly. Else all sum in float32 (float64 for float64) in the
reference's order, rounded once: a sum of n values is within n units in the last place of that of their
magnitudes, beside what the rounding of a position in that type makes of its weights.
"""

from __future__ import annotations

import math

import numpy as np

from onnxref.errors import KernelError
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import FAULT, Operand, Site, Unsupported, lower

from ..common.checks import check_result, known_ints, only_output, refusing
from ..numpy._windows import slide
from ._rows import FLOATS
from .movement import CODE, check_plain

_CHANNELS = 8  # of a point that one thread has


def _wide(name: str) -> str:
    return "double" if name == "float64" else "float"


def _sample(site: Site, x: Operand, grid: Operand, mode: str, padding: str, align_corners: int) -> None:
    y = only_output(site)
    check_plain(x, grid, y)
    rank = x.ndim - 2
    modes, paddings = ("nearest", "linear", "cubic"), ("zeros", "border", "reflection")
    if not 1 <= rank <= 3 or grid.ndim != x.ndim or grid.shape[-1] != rank or grid.shape[0] != x.shape[0]:
        raise Unsupported(f"{x} at {grid}")
    if mode not in modes or padding not in paddings or 0 in x.shape or max(x.shape[2:]) >= 1 << 24:
        raise Unsupported(f"mode {mode} with padding {padding}")
    names = x.dtype.name, grid.dtype.name
    if names[1] not in FLOATS or names[0] not in (FLOATS if mode != "nearest" else CTYPES):
        raise Unsupported(f"{names[0]} at positions of {names[1]}")
    check_result(y, (*x.shape[:2], *grid.shape[1:-1]))
    points = math.prod(grid.shape[:-1])
    if not y.size:
        return
    kernel = cuda_kernel(
        CODE, "grid_sample.cu", "grid_sample",
        T=CTYPES[names[0]], W=_wide(names[0]), G=CTYPES[names[1]], P=_wide(names[1]), RANK=rank,
        MODE=modes.index(mode), PADDING=paddings.index(padding), ALIGN=int(align_corners != 0),
        CHANNELS=_CHANNELS,
    )  # fmt: skip
    blocks, _, _ = grid_for(points)
    chunks = -(-x.shape[1] // _CHANNELS)
    if chunks > 65535:
        raise Unsupported(f"{x.shape[1]} channels")
    site.launch(
        kernel,
        *(x, grid, y, points, points // x.shape[0], x.shape[1], x.shape[2:]),
        grid=(blocks, chunks, 1),
    )


@lower("GridSample", since=16, backend="cupy")
def grid_sample_16(
    site: Site,
    x: Operand,
    grid: Operand,
    *,
    align_corners: int = 0,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> None:
    """ONNX GridSample-16."""
    if x.ndim != 4:
        raise Unsupported("rank must be 4")
    names = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
    _sample(site, x, grid, names.get(mode, ""), padding_mode, align_corners)


@lower("GridSample", since=(20, 22), backend="cupy")
def grid_sample(
    site: Site,
    x: Operand,
    grid: Operand,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> None:
    """ONNX GridSample-22."""
    _sample(site, x, grid, mode, padding_mode, align_corners)


@lower("RoiAlign", since=(16, 22), backend="cupy")
def roi_align(
    site: Site,
    x: Operand,
    rois: Operand,
    batch_indices: Operand,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> None:
    """ONNX RoiAlign-22."""
    y = only_output(site)
    check_plain(x, rois, batch_indices, y)
    if x.ndim != 4 or rois.ndim != 2 or rois.shape[1] != 4 or batch_indices.shape != rois.shape[:1]:
        raise Unsupported("shapes that do not fit")
    if coordinate_transformation_mode not in ("half_pixel", "output_half_pixel") or mode not in (
        "avg",
        "max",
    ):
        raise Unsupported(f"mode {mode}, {coordinate_transformation_mode}")
    if (
        x.dtype.name not in FLOATS
        or rois.dtype != x.dtype
        or batch_indices.dtype.name not in ("int32", "int64")
    ):
        raise Unsupported(f"{x}, {rois}, {batch_indices}")
    if min(output_height, output_width, sampling_ratio + 1) < 1 or x.size == 0:
        raise Unsupported("invalid sizes")
    check_result(y, (rois.shape[0], x.shape[1], output_height, output_width))
    if not y.size:
        return
    wide = _wide(x.dtype.name)
    kernel = cuda_kernel(
        CODE, "roi_align.cu", "roi_align",
        T=CTYPES[x.dtype.name], W=wide, B=CTYPES[batch_indices.dtype.name], IS_MAX=int(mode == "max"),
        HALF_PIXEL=int(coordinate_transformation_mode == "half_pixel"),
    )  # fmt: skip
    site.launch(
        kernel,
        *(x, rois, batch_indices, y, FAULT, y.size, (*x.shape, output_height, output_width), sampling_ratio),
        np.float64(spatial_scale),
        grid=grid_for(y.size),
    )


@lower("RoiAlign", since=10, backend="cupy")
def roi_align_10(
    site: Site,
    x: Operand,
    rois: Operand,
    batch_indices: Operand,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> None:
    """ONNX RoiAlign-10."""
    roi_align(
        site, x, rois, batch_indices, coordinate_transformation_mode="output_half_pixel", mode=mode,
        output_height=output_height, output_width=output_width, sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )  # fmt: skip


@lower("Col2Im", since=18, backend="cupy")
@refusing
def col2im(
    site: Site,
    input: Operand,
    image_shape: Operand,
    block_shape: Operand,
    *,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """ONNX Col2Im-18."""
    y = only_output(site)
    check_plain(input, y)
    if input.dtype.name not in FLOATS:
        raise Unsupported(f"{input.dtype.name}")
    size, block = tuple(known_ints(image_shape, "image_shape")), tuple(known_ints(block_shape, "block_shape"))
    if input.ndim != 3 or not size or len(size) != len(block) or min(*size, *block) < 1:
        raise Unsupported("invalid sizes")
    windows = slide(size, block, strides, dilations, pads)
    channels, rest = divmod(input.shape[1], math.prod(block))
    if rest or input.shape[2] != math.prod(windows.out):
        raise KernelError("columns that do not fit the image")
    check_result(y, (input.shape[0], channels, *size))
    if not y.size:
        return
    kernel = cuda_kernel(
        CODE, "col2im.cu", "col2im",
        T=CTYPES[input.dtype.name], W=_wide(input.dtype.name), RANK=len(size),
    )  # fmt: skip
    axes = (*size, *block, *windows.out, *windows.strides, *windows.dilations, *windows.begins)
    site.launch(kernel, input, y, y.size, axes, grid=grid_for(y.size))
