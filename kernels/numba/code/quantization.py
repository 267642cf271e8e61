"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear, bit for bit as the reference."""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native import target
from onnxref.native.ops import F32, I8, I32, access, arg, declare, device, float_as_int, int_as_float
from onnxref.native.vectors import Vectors

from .int8_gemm import named

_LANES = target().lanes
_RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}

_load_bits, _store_bits = access("int32")
_load_f32, _store_f32 = access("float32")
_, _store_u8 = access("uint8")
_MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer, half to even
_MAGIC_BITS = 0x4B400000
_INFINITY_BITS = 0x7F800000
_MINUS_INFINITY = -0x7F800001  # in the order of `extremes`


def _rounding(y_dtype: str):
    """Return `quantized(x, scale, zero) -> int`: x / scale rounded half to even, plus `zero`, in range.

    Limiting before the rounding gives the same, as the limits are integers. NaN gives 0.
    """
    low, high = _RANGES[y_dtype]

    def quantized(x, scale, zero):
        q = np.float32(x / scale)
        least, most = np.float32(low - zero), np.float32(high - zero)
        held = q if q > least else least
        held = held if held < most else most
        whole = float_as_int(held + _MAGIC) - np.int32(_MAGIC_BITS) + np.int32(zero)
        return whole if q == q else np.int32(0)

    return device(named(quantized, y_dtype))


@cache
def _vector_rounding(y_dtype: str):
    """Return `run(x, y, vectors, inverse, scale, zero) -> sum`: quantizes float32, some vectors at once.

    Only for finite scales far from the ends of float32, which makes all of this exact: the quotient is
    estimated by the reciprocal and corrected twice (Markstein, "Computation of elementary functions on
    the IBM RISC System/6000 processor"); that takes a third of the time of a division.
    """
    low, high = _RANGES[y_dtype]

    @intrinsic
    def run(context, x, y, vectors, inverse, scale, zero):
        def generate(ctx, builder, signature, values):
            x, y, vectors, inverse, scale, zero = values
            f = Vectors(builder, F32)
            v = Vectors(builder, I32)
            b, narrow = builder, ir.VectorType(I8, f.lanes)
            inverses, scales = f.splat(inverse), f.splat(scale)
            far = f.splat(b.fmul(scale, F32(131072.0)))  # quotients of 2**17 are out of every range
            near = b.fneg(far)
            offset = b.sub(zero, I32(_MAGIC_BITS))
            least = f.splat(b.sitofp(b.sub(I32(low), zero), F32))
            most = f.splat(b.sitofp(b.sub(I32(high), zero), F32))

            def body(i, held):
                value = f.load(x, index=f.mul(i, f.nbytes))
                is_number = b.fcmp_ordered("ord", value, value)
                value = f.minimum(f.maximum(value, near), far)
                q = b.fmul(value, inverses)
                for _ in range(2):
                    rest = f.fma(b.fneg(q), scales, value)
                    q = f.fma(rest, inverses, q)
                q = b.fadd(f.minimum(f.maximum(q, least), most), f.constant(float(_MAGIC)))
                whole = b.add(b.bitcast(q, v.type), v.splat(offset))
                whole = b.select(is_number, whole, v.constant(0))
                place = f.pointer(y, index=f.mul(i, f.lanes), element=narrow)
                b.store(b.trunc(whole, narrow), place, align=1)
                return [b.add(held[0], whole)]

            (sums,) = f.loop(vectors, [v.constant(0)], body)
            reduce = declare(b, f"llvm.vector.reduce.add.{v.suffix}", I32, [v.type])
            return b.call(reduce, [sums])

        kinds = [types.int64] * 3 + [types.float32] * 2 + [types.int32]
        return types.int32(*kinds), generate

    return run


def _quantizing(x_dtype: str, y_dtype: str):
    """Return `quantize(x, y, n, scale, zero) -> sum`: quantizes n adjacent elements."""
    load, _ = access(x_dtype)
    _, store = access(y_dtype)
    size, y_size = np.dtype(x_dtype).itemsize if x_dtype != "bfloat16" else 2, np.dtype(y_dtype).itemsize
    quantized = _rounding(y_dtype)
    in_vectors = x_dtype == "float32" and y_size == 1 and target().lanes >= 8
    run = _vector_rounding(y_dtype) if in_vectors else None

    def quantize(x, y, n, scale, zero):
        done, total = 0, np.int32(0)
        if in_vectors:  # noqa: SIM102 - known while compiling, unlike what follows
            if n >= _LANES and scale > np.float32(2.0**-60) and scale < np.float32(2.0**60):
                total = run(x, y, n // _LANES, np.float32(np.float32(1) / scale), scale, zero)
                done = n // _LANES * _LANES
        for i in range(done, n):
            value = quantized(np.float32(load(x, i)), scale, zero)
            store(y, i, value)
            total += value
        return total

    return device(named(quantize, x_dtype, y_dtype)), size, y_size


def quantize_tensor(x_dtype: str, y_dtype: str):
    """Quantize with one scale; a unit is an element."""
    load_zero, _ = access(y_dtype)
    quantize, size, y_size = _quantizing(x_dtype, y_dtype)

    def kernel(p, begin, end, thread):
        x, y, scales, zeros = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        zero = np.int32(0)
        if zeros != 0:
            zero = np.int32(load_zero(zeros, 0))
        quantize(x + begin * size, y + begin * y_size, end - begin, _load_f32(scales, 0), zero)

    return named(kernel, x_dtype, y_dtype)


def quantize_slices(x_dtype: str, y_dtype: str):
    """Quantize with one scale per slice along an axis; a unit is what lies behind that axis."""
    load_zero, _ = access(y_dtype)
    quantize, size, y_size = _quantizing(x_dtype, y_dtype)

    def kernel(p, begin, end, thread):
        x, y, scales, zeros = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        length, inner = arg(p, 4), arg(p, 5)
        for unit in range(begin, end):
            zero = np.int32(0)
            if zeros != 0:
                zero = np.int32(load_zero(zeros, unit % length))
            at = unit * inner
            quantize(x + at * size, y + at * y_size, inner, _load_f32(scales, unit % length), zero)

    return named(kernel, x_dtype, y_dtype)


def _difference(dtype: str):
    wide = np.int64 if dtype == "int32" else np.int32

    def difference(x, zero):
        return np.float32(wide(x) - wide(zero))

    return device(named(difference, dtype))


def dequantize_tensor(x_dtype: str, scale_dtype: str, y_dtype: str):
    """Dequantize with one scale; a unit is an element."""
    load, _ = access(x_dtype)
    load_scale, _ = access(scale_dtype)
    _, store = access(y_dtype)
    difference = _difference(x_dtype)

    def kernel(p, begin, end, thread):
        x, y, scales, zeros = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        scale = load_scale(scales, 0)
        zero = np.int32(0)
        if zeros != 0:
            zero = np.int32(load(zeros, 0))
        for i in range(begin, end):
            store(y, i, difference(load(x, i), zero) * scale)

    return named(kernel, x_dtype, scale_dtype, y_dtype)


def dequantize_slices(x_dtype: str, scale_dtype: str, y_dtype: str):
    """Dequantize with one scale per slice along an axis; a unit is what lies behind that axis."""
    load, _ = access(x_dtype)
    load_scale, _ = access(scale_dtype)
    _, store = access(y_dtype)
    difference = _difference(x_dtype)

    def kernel(p, begin, end, thread):
        x, y, scales, zeros = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        length, inner = arg(p, 4), arg(p, 5)
        for unit in range(begin, end):
            scale = load_scale(scales, unit % length)
            zero = np.int32(0)
            if zeros != 0:
                zero = np.int32(load(zeros, unit % length))
            for i in range(unit * inner, (unit + 1) * inner):
                store(y, i, difference(load(x, i), zero) * scale)

    return named(kernel, x_dtype, scale_dtype, y_dtype)


# Dynamic ---------------------------------------------------------------------------------------------


@intrinsic
def _vector_extremes(context, x, count):
    """The least and greatest of `count` times 4 vectors, in the order of `extremes`, and of zero."""

    def generate(ctx, builder, signature, values):
        v = Vectors(builder, I32)
        b = builder
        zero = v.constant(0)

        def body(i, held):
            held = list(held)
            for j in range(4):
                bits = v.load(values[0], j * v.nbytes, index=v.mul(i, 4 * v.nbytes))
                order = b.xor(bits, b.and_(b.ashr(bits, v.constant(31)), v.constant(0x7FFFFFFF)))
                held[j] = v.call("llvm.smin", held[j], order)
                held[4 + j] = v.call("llvm.smax", held[4 + j], order)
            return held

        held = v.loop(values[1], [zero] * 8, body)
        found = []
        for name, parts in (("smin", held[:4]), ("smax", held[4:])):
            both = [v.call(f"llvm.{name}", parts[0], parts[1]), v.call(f"llvm.{name}", parts[2], parts[3])]
            reduce = declare(b, f"llvm.vector.reduce.{name}.{v.suffix}", I32, [v.type])
            found.append(b.call(reduce, [v.call(f"llvm.{name}", *both)]))
        return ctx.make_tuple(b, signature.return_type, found)

    return types.UniTuple(types.int32, 2)(types.int64, types.int64), generate


def extremes():
    """Find the least and the greatest of each part of a tensor; a unit is a part.

    As integers that have the order of the floats: a NaN lies beyond the infinity of its sign, so that
    none is lost, and LLVM may reorder. Zero takes part always.
    """

    def kernel(p, begin, end, thread):
        x, n, part, found = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        for unit in range(begin, end):
            low, high = np.int32(0), np.int32(0)
            first, stop = unit * part, min(n, (unit + 1) * part)
            vectors = (stop - first) // (4 * _LANES)
            if vectors > 0:
                low, high = _vector_extremes(x + 4 * first, vectors)
            for i in range(first + vectors * 4 * _LANES, stop):
                bits = _load_bits(x, i)
                order = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
                low = min(low, order)
                high = max(high, order)
            _store_bits(found, 2 * unit, low)
            _store_bits(found, 2 * unit + 1, high)

    return kernel


@device
def _parameters(found, parts):
    """Return scale and zero point of DynamicQuantizeLinear, both float32, from what `extremes` found."""
    low, high = np.int32(0), np.int32(0)
    for i in range(parts):
        low = min(low, _load_bits(found, 2 * i))
        high = max(high, _load_bits(found, 2 * i + 1))
    if low < np.int32(_MINUS_INFINITY) or high > np.int32(_INFINITY_BITS):
        return np.float32(np.nan), np.float32(0)
    least = int_as_float(low ^ ((low >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    if low == np.int32(-1):  # the order of -0
        least = np.float32(0)
    scale = np.float32((int_as_float(high) - least) / np.float32(255))
    zero = np.float32(-least / scale)
    zero = zero if zero < np.float32(255) else np.float32(255)
    zero = np.float32(zero + _MAGIC) - _MAGIC
    return scale, (zero if scale > np.float32(0) and -least / scale == -least / scale else np.float32(0))


def dynamic_parameters():
    """Write scale and zero point of DynamicQuantizeLinear; there is one unit."""

    def kernel(p, begin, end, thread):
        scale, zero = _parameters(arg(p, 0), arg(p, 1))
        _store_f32(arg(p, 2), 0, scale)
        _store_u8(arg(p, 3), 0, np.int32(zero))

    return kernel


def quantize_rows():
    """Quantize the rows of a matrix as DynamicQuantizeLinear does, as the left side of a product.

    Rows of K bytes are filled up with zeros; beside each stand its zero point and the sum of its
    elements less K times that. The scale goes to the parameters of the product. A unit is a row.
    """
    quantize, _, _ = _quantizing("float32", "uint8")

    def kernel(p, begin, end, thread):
        x, k, goal, padded = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        terms, found, parts, block = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        scale, offset = _parameters(found, parts)
        zero = np.int32(offset)
        if begin == 0:
            _store_f32(block, 0, scale)
        for row in range(begin, end):
            source, place = x + 4 * row * k, goal + row * padded
            total = quantize(source, place, k, scale, zero)
            for i in range(k, padded):
                _store_u8(place, i, 0)
            _store_bits(terms, 2 * row, zero)
            _store_bits(terms, 2 * row + 1, np.int32(total - k * zero))

    return kernel
