"""Normalisations: layer and RMS (also of a sum with a skip connection), group, instance, Lp, LRN and others.

A row that a group of threads can hold in registers is read once, its variance taken from deviations; longer
rows are read twice, in parts whose statistics are joined in a fixed order. Tolerances against the
reference: 2e-5 of the normalised value's size for float32, 1e-12 for float64, two roundings for the 16-bit
types.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxref.gpu import CTYPES, cuda_kernel
from onnxref.lowering import NO_PAD, BlockedUse, ChannelsLast, Op, Operand, Site, Unsupported, lower

from ..common.checks import refusing
from ..common.normalization import GROUPS, INSTANCES, LAYERS, GroupNorm, LayerNorm, first_output
from ..numpy._checks import normalize_axis
from ._rows import FLOATS, Rows, compute_type, rows_in_registers, vector_width

_CODE = "onnxref.kernels.cupy.code"
_FILE = "normalization.cu"
_LRN_ALPHA = float(np.float32(1e-4))
_VARIANCE, _MEAN_SQUARE, _L1, _L2 = 0, 1, 2, 3  # statistics, as in the code
_NO_PARAMETERS, _PER_ELEMENT, _PER_CHANNEL = 0, 1, 2  # as in the code


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """One normalisation of rows of n elements.

    Attributes:
        wide: type of the statistics.
        geometry: pieces of a row (extent, pitch), rows side by side (how many, pitch), pitch of their groups;
            then groups of channels, parameters of a group, elements of a channel.
        extents: what a vector's length must divide, besides n.
    """

    x: Operand
    y: Operand
    rows: int
    n: int
    statistic: int
    wide: str
    scale: Operand | None = None
    bias: Operand | None = None
    skip: Operand | None = None
    added: Operand | None = None
    means: Operand | None = None
    factors: Operand | None = None
    parameters: int = _NO_PARAMETERS
    epsilon: float = 0.0
    beside: float = 0.0
    rounds_first: bool = False
    is_channel_last: bool = False
    is_segmented: bool = False
    geometry: tuple[int, ...] = (1, 1, 1, 1, 1, 1, 1, 1)
    extents: tuple[int, ...] = ()

    @property
    def defines(self) -> dict[str, Any]:
        return {
            "T": CTYPES[self.x.dtype.name],
            "P": CTYPES[self.y.dtype.name],
            "W": CTYPES[self.wide],
            "STATISTIC": self.statistic,
            "PARAMETERS": self.parameters,
            "HAS_BIAS": int(self.bias is not None),
            "HAS_SKIP": int(self.skip is not None),
            "ROUND_FIRST": int(self.rounds_first),
            "CHANNEL_LAST": int(self.is_channel_last),
            "SEGMENTED": int(self.is_segmented),
        }

    @property
    def factors_of_row(self) -> tuple[Any, ...]:
        return self.geometry, np.float64(self.epsilon), np.float64(self.beside)


def _emit(site: Site, work: _Work) -> None:
    """Emit the launches of a normalisation."""
    if work.n >= 2**31 - 2**16:
        raise Unsupported("rows are too long")
    itemsize = max(work.x.dtype.itemsize, work.y.dtype.itemsize)
    vec = vector_width(itemsize, work.n, *work.extents)
    dealt = rows_in_registers(work.rows, work.n, vec, work.wide, site.precision == "strict")
    if work.is_segmented and work.geometry[0] == 1 and work.rows >= 4096:
        dealt = Rows(1, 0, 1, 128)  # neighbouring rows lie side by side: a thread for each
    if dealt is None:
        if work.skip is not None:
            raise Unsupported("rows are too long")
        _in_parts(site, work, vec)
        return
    site.launch(
        cuda_kernel(_CODE, _FILE, "normalize_rows", **work.defines, **dealt.defines),
        *(work.x, work.skip or 0, work.scale or 0, work.bias or 0, work.y, work.added or 0),
        *(work.means or 0, work.factors or 0, work.rows, work.n),
        *work.factors_of_row,
        grid=dealt.grid(work.rows),
        block=(dealt.threads, 1, 1),
    )


def _in_parts(site: Site, work: _Work, vec: int) -> None:
    items = max(1, (8 if work.is_segmented else 16) // vec)
    length = 512 * items * vec
    parts = -(-work.n // length)
    partial = site.scratch(work.rows * parts * 2 * (8 if work.wide == "float64" else 4))
    defines = {**work.defines, "GROUP": 0, "ITEMS": items, "VEC": vec, "BOUND": 512}
    grid, block = (work.rows * parts, 1, 1), (512, 1, 1)
    site.launch(
        cuda_kernel(_CODE, _FILE, "row_statistics", **defines),
        *(work.x, partial, work.n, parts, length, work.geometry),
        grid=grid,
        block=block,
    )
    site.launch(
        cuda_kernel(_CODE, _FILE, "normalize_parts", **defines),
        *(work.x, work.scale or 0, work.bias or 0, work.y, partial, work.means or 0, work.factors or 0),
        *(work.n, parts, length),
        *work.factors_of_row,
        grid=grid,
        block=block,
    )


def _output(site: Site, x: Operand, *others: Operand | None, layout_of_x: bool = False) -> Operand:
    """Return the first output, of a node whose operands all have a type of x's kind."""
    y = first_output(site)
    for operand in (x, *others):
        if operand is not None and operand.dtype != x.dtype:
            raise Unsupported("operands of different types")
    if x.dtype.name not in FLOATS or (not layout_of_x and (x.layout or y.layout)):
        raise Unsupported(f"a normalisation of {x}")
    return y


# --- layer ---------------------------------------------------------------------------------------


def _layer(site: Site, asked: LayerNorm) -> None:
    x, scale, b, skip, wide = asked.x, asked.scale, asked.bias, asked.skip, asked.stash
    y = _output(site, x, b, skip, None if asked.is_rms else scale)
    if y.dtype != scale.dtype or scale.dtype.name not in FLOATS or (x.dtype == np.float64 != scale.dtype):
        raise Unsupported("operands of different types")
    means, factors, added = asked.means, asked.factors, asked.added
    if any(found is not None and found.dtype.name != wide for found in (means, factors)):
        raise Unsupported("its statistics are of another type")
    if y.dtype == x.dtype:
        site.may_overwrite(y, x)
    if added is not None and skip is not None:
        site.may_overwrite(added, skip)
    statistic = _MEAN_SQUARE if asked.is_rms else _VARIANCE
    _emit(
        site,
        _Work(
            *(x, y, asked.rows, asked.n, statistic, wide, scale, b, skip, added, means, factors),
            parameters=_PER_ELEMENT,
            epsilon=asked.epsilon,
            rounds_first=True,
        ),
    )


LAYERS.register("cupy", _layer)


# --- groups --------------------------------------------------------------------------------------


def _goes_along(op: Op, lanes: int) -> BlockedUse | None:
    """Whether groups are wide enough to read a few channels of every place."""
    x, groups = op.inputs[0], op.attributes.get("num_groups", 1)
    is_fit = x is not None and x.ndim > 2 and groups > 0 and x.shape[1] // groups >= 4
    return BlockedUse({0: NO_PAD}) if is_fit else None


def _groups(site: Site, asked: GroupNorm) -> None:
    """Emit the normalisation of groups of channels with `parameters` scales and biases in all."""
    x, _, groups, scale, bias, parameters, epsilon, stash = asked
    y = _output(site, x, scale, bias, layout_of_x=True)
    if x.layout != y.layout or (x.layout is not None and not isinstance(x.layout, ChannelsLast)):
        raise Unsupported(f"a normalisation of {x}")
    if x.size == 0:
        return
    channels, spatial = x.shape[1], math.prod(x.shape[2:])
    own = channels // groups  # channels of a group
    per = parameters // groups
    site.may_overwrite(y, x)
    common: dict[str, Any] = {"epsilon": epsilon, "parameters": _PER_CHANNEL}
    common["rounds_first"] = stash is not None
    if x.layout is None:
        span = spatial if per == own else spatial * own
        common |= {"geometry": (1, 1, 1, 1, 1, groups, per, span), "extents": (span,)}
    else:
        # The channels of a group side by side, at every place.
        is_each = per == own
        geometry = (own, channels, groups, own, spatial * channels, groups, per)
        common |= {
            "geometry": (*geometry, own if is_each else own * spatial),
            "extents": (own,),
            "is_segmented": True,
            "is_channel_last": is_each,
        }
    rows, n = x.shape[0] * groups, own * spatial
    wide = stash or compute_type(x.dtype)
    _emit(site, _Work(x, y, rows, n, _VARIANCE, wide, scale, bias, **common))


INSTANCES.register("cupy", _groups)
GROUPS.register("cupy", _groups, _goes_along)


@lower("MeanVarianceNormalization", since=(9, 13), backend="cupy")
@refusing
def mean_variance_normalization(site: Site, x: Operand, *, axes: tuple[int, ...] = (0, 2, 3)) -> None:
    """ONNX MeanVarianceNormalization-13."""
    y = _output(site, x)
    reduced = {normalize_axis(axis, x.ndim) for axis in axes} or set(range(x.ndim))
    if x.size == 0:
        return
    # Kept, reduced, kept, reduced: what there is of it, with 1 for what is missing.
    extents, at = [1, 1, 1, 1], 0
    for axis, size in enumerate(x.shape):
        if size == 1:
            continue
        while (axis in reduced) != (at % 2 == 1):
            at += 1
        if at > 3:
            raise Unsupported("kept and reduced axes alternate too often")
        extents[at] *= size
    outer, high, side, low = extents
    site.may_overwrite(y, x)
    geometry = (low, side * low, side, low, high * side * low, 1, 1, 1)
    work = _Work(
        *(x, y, outer * side, high * low, _VARIANCE, compute_type(x.dtype)),
        beside=1e-9,
        geometry=geometry,
        is_segmented=side > 1,
        extents=(low,) if side > 1 else (),
    )
    _emit(site, work)


@lower("LpNormalization", since=(1, 22), backend="cupy")
@refusing
def lp_normalization(site: Site, input: Operand, *, axis: int = -1, p: int = 2) -> None:
    """ONNX LpNormalization-22."""
    x, y, axis = input, _output(site, input), normalize_axis(axis, input.ndim)
    if p not in (1, 2):
        raise Unsupported(f"p is {p}")
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    if x.size == 0:
        return
    site.may_overwrite(y, x)
    work = _Work(
        *(x, y, outer * inner, n, _L1 if p == 1 else _L2, compute_type(x.dtype)),
        geometry=(1, inner, inner, 1, n * inner, 1, 1, 1),
        is_segmented=inner > 1,
        extents=(1,) if inner > 1 else (),
    )
    _emit(site, work)


# --- across channels -----------------------------------------------------------------------------


def _lrn_goes_along(op: Op, lanes: int) -> BlockedUse | None:
    x = op.inputs[0]
    return BlockedUse({0: NO_PAD}) if x is not None and x.ndim > 2 else None


@lower("LRN", since=(1, 13), backend="cupy", blocked=_lrn_goes_along)
def lrn(
    site: Site, x: Operand, *, size: int, alpha: float = _LRN_ALPHA, beta: float = 0.75, bias: float = 1.0
) -> None:
    """ONNX LRN-13, within 1e-5 for float32."""
    y = _output(site, x, layout_of_x=True)
    if x.ndim < 2 or size < 1:
        raise Unsupported("there are no channels, or no neighbours")
    if x.layout != y.layout or (x.layout is not None and not isinstance(x.layout, ChannelsLast)):
        raise Unsupported(f"a normalisation of {x}")
    if x.size == 0:
        return
    channels, spatial = x.shape[1], math.prod(x.shape[2:])
    pitch = spatial if x.layout is None else 1
    vec = vector_width(x.dtype.itemsize, spatial if x.layout is None else channels)
    before, after = (min(reach, channels - 1) for reach in ((size - 1) // 2, size // 2))
    scaled = float(np.dtype(compute_type(x.dtype)).type(alpha / size))
    # Roots of a negative number, unlike its powers, are NaN for every exponent.
    is_special = beta == 0.75 and alpha >= 0 and bias > 0
    kernel = cuda_kernel(
        _CODE,
        "local_response.cu",
        "local_response",
        T=CTYPES[x.dtype.name],
        SPECIAL=int(is_special),
        VEC=vec,
        CHANNEL_LAST=int(x.layout is not None),
    )
    site.launch(
        kernel,
        *(x, y, x.size, channels, pitch, before, after),
        *map(np.float64, (scaled, bias, beta)),
        grid=(-(-x.size // (256 * vec)), 1, 1),
    )
