"""Operators of quantized models besides products: QuantizedAdd and QuantizedGlobalAveragePool.

Within one quantum of the reference: sums in float32 may be rounded once less.
"""

from __future__ import annotations

import math

from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Site, Unsupported, lower
from onnxref.registry import INTERNAL

from ._conv import CODE, is_last

_BYTES = ("int8", "uint8")
_FILE = "quantized_pointwise.cu"
_MOST_PIXELS = 2**23  # whose sum fits int32


def _blocked(op: Op, lanes: int) -> BlockedUse | None:
    """Both go along with the channels last."""
    indices = (0, 3) if op.op_type == "QuantizedAdd" else (0,)
    operands = [op.inputs[i] for i in indices]
    if any(x is None or not 3 <= x.ndim <= 5 or x.size == 0 for x in operands):
        return None
    return BlockedUse(dict.fromkeys(indices, NO_PAD))


def _scale_type(*scales: Operand) -> str:
    names = {scale.dtype.name for scale in scales}
    if len(names) != 1 or not names <= {"float32", "float16", "bfloat16"} or any(s.size != 1 for s in scales):
        raise Unsupported("scales of several values or types")
    return CTYPES[names.pop()]


def _check(*tensors: Operand) -> None:
    if tensors[0].dtype.name not in _BYTES or any(t.dtype != tensors[0].dtype for t in tensors):
        raise Unsupported("tensors that are not of one type of 8 bits")


def emit_add(
    site: Site,
    a: Operand,
    b: Operand,
    y: Operand,
    first: tuple[Operand, Operand],
    second: tuple[Operand, Operand],
    out: tuple[Operand, Operand],
    *,
    relu: bool,
) -> None:
    """Emit a sum; scale and zero point are given of each. `a` may be `y`."""
    pairs = (*first, *second, *out)
    _check(y, a, b, *pairs[1::2])
    if a.shape != y.shape or b.shape != y.shape or not is_last(a) == is_last(b) == is_last(y):
        raise Unsupported("tensors of different shapes, or that lie differently")
    if any(zero.size != 1 for zero in pairs[1::2]):
        raise Unsupported("zero points of several values")
    vec = math.gcd(16, y.size)
    scale = _scale_type(*pairs[::2])
    kernel = cuda_kernel(
        CODE,
        _FILE,
        "quantized_add",
        T=CTYPES[y.dtype.name],
        SCALE=scale,
        VEC=vec,
        RELU=int(relu),
        LAST=1,
    )
    if y.size:
        site.launch(kernel, a, b, y, *pairs, y.size // vec, grid=grid_for(y.size // vec))


@lower("QuantizedAdd", since=1, domain=INTERNAL, backend="cupy", blocked=_blocked)
def quantized_add(
    site: Site,
    a: Operand,
    a_scale: Operand,
    a_zero: Operand,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
    *,
    activation: str = "",
) -> None:
    """Add quantized tensors of one shape, and quantize again."""
    (y,) = site.outputs
    assert y is not None
    if activation not in ("", "Relu"):
        raise Unsupported(f"activation {activation}")
    pairs = ((a_scale, a_zero), (b_scale, b_zero), (y_scale, y_zero))
    emit_add(site, a, b, y, *pairs, relu=activation == "Relu")


@lower("QuantizedGlobalAveragePool", since=1, domain=INTERNAL, backend="cupy", blocked=_blocked)
def quantized_global_average_pool(
    site: Site, x: Operand, x_scale: Operand, x_zero: Operand, y_scale: Operand, y_zero: Operand
) -> None:
    """Average each channel of a quantized tensor, and quantize again."""
    (y,) = site.outputs
    assert y is not None
    _check(y, x, x_zero, y_zero)
    n, channels, *axes = x.shape
    pixels, last = math.prod(axes), is_last(x)
    if not 0 < pixels < _MOST_PIXELS or x_zero.size != 1 or y_zero.size != 1:
        raise Unsupported("images without pixels, or with too many, or several zero points")
    vec = math.gcd(4, channels) if last else 1
    kernel = cuda_kernel(
        *(CODE, _FILE, "quantized_mean"),
        T=CTYPES[y.dtype.name],
        SCALE=_scale_type(x_scale, y_scale),
        VEC=vec,
        RELU=0,
        LAST=int(last),
    )
    blocks = n * -(-channels // (32 * vec)) if last else -(-n * channels // 8)
    site.launch(
        kernel,
        *(x, y, x_scale, x_zero, y_scale, y_zero, n * channels, channels, pixels),
        grid=(blocks, 1, 1),
        block=(32, 8, 1),
    )
