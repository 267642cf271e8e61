"""The words that kernels in Numba are written with: typed memory, bits, atomics, calls by address.

Addresses are int64. Kernels get the address of their int64 arguments and read them with `arg`.
Imports Numba: only modules of code import this one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import _compile  # noqa: F401 - it chooses the instructions, before anything here is compiled
from ._target import target

F32 = ir.FloatType()
F64 = ir.DoubleType()
F16 = ir.HalfType()
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
VOID = ir.VoidType()

_NUMBA_TYPES = {
    "float32": types.float32,
    "float64": types.float64,
    "int8": types.int8,
    "int16": types.int16,
    "int32": types.int32,
    "int64": types.int64,
    "uint8": types.uint8,
    "uint16": types.uint16,
    "uint32": types.uint32,
    "uint64": types.uint64,
    "bool": types.uint8,
}


def called(**options: Any) -> Any:
    """Return a decorator of functions that kernels call, and Python must not: that would crash.

    A test that wants one calls it in a function of its own that is compiled with `numba.njit`.
    """
    # Entries for Python and C would take a quarter of the time to compile a kernel.
    no_entries = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(error_model="numpy", nogil=True, **no_entries, **options)


device = called(inline="never", fastmath={"contract"})
"""Decorator of functions that kernels call; LLVM inlines them where that pays."""


def typed_pointer(builder: Any, address: Any, offset: int, element: Any) -> Any:
    """Emit the pointer to `element` at a byte address plus a constant offset."""
    pointer = address
    if not isinstance(address.type, ir.PointerType):
        pointer = builder.inttoptr(address, I8.as_pointer())
    if offset:
        pointer = builder.gep(pointer, [ir.Constant(I64, offset)], source_etype=I8)
    return builder.bitcast(pointer, element.as_pointer())


def declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Return the external function or LLVM intrinsic `name` of the module that is being built."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def arg(context, p, i):
    """Argument `i` of a call, from the address `p` of all of them."""

    def generate(ctx, builder, signature, values):
        pointer = builder.inttoptr(values[0], I64.as_pointer())
        return builder.load(builder.gep(pointer, [values[1]]))

    return types.int64(types.int64, types.int64), generate


@cache
def access(dtype: str) -> tuple[Any, Any]:
    """Return `load(address, index)` and `store(address, index, value)` for elements of a dtype.

    bool is stored as uint8. float16 and bfloat16 are read as float32 and rounded to nearest even
    when stored; see `half` and `bfloat` for their bits.
    """
    if dtype in ("float16", "bfloat16"):
        return _access_narrow(dtype)
    element = _NUMBA_TYPES[dtype]
    size = np.dtype(dtype).itemsize

    @intrinsic
    def load(context, address, index):
        def generate(ctx, builder, signature, values):
            kind = ctx.get_data_type(element)
            pointer = builder.inttoptr(values[0], kind.as_pointer())
            return builder.load(builder.gep(pointer, [values[1]]), align=size)

        return element(types.int64, types.int64), generate

    @intrinsic
    def store(context, address, index, value):
        def generate(ctx, builder, signature, values):
            kind = ctx.get_data_type(element)
            pointer = builder.inttoptr(values[0], kind.as_pointer())
            builder.store(values[2], builder.gep(pointer, [values[1]]), align=size)
            return ctx.get_dummy_value()

        return types.void(types.int64, types.int64, element), generate

    return load, store


def _access_narrow(dtype: str) -> tuple[Any, Any]:
    half = dtype == "float16"

    @intrinsic
    def load(context, address, index):
        def generate(ctx, builder, signature, values):
            pointer = builder.inttoptr(values[0], I16.as_pointer())
            value = builder.load(builder.gep(pointer, [values[1]]), align=2)
            if half:
                return emit_from_half(builder, value)
            return builder.bitcast(builder.shl(builder.zext(value, I32), I32(16)), F32)

        return types.float32(types.int64, types.int64), generate

    @intrinsic
    def store(context, address, index, value):
        def generate(ctx, builder, signature, values):
            pointer = builder.gep(builder.inttoptr(values[0], I16.as_pointer()), [values[1]])
            narrow = (emit_to_half if half else emit_to_bfloat)(builder, values[2])
            builder.store(narrow, pointer, align=2)
            return ctx.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32), generate

    return load, store


def emit_from_half(builder: Any, bits: Any) -> Any:
    """Emit the float32 of a float16's bits."""
    if target().halves:
        return builder.fpext(builder.bitcast(bits, F16), F32)
    wide = builder.zext(bits, I32)
    # The exponent moves by 127 - 15 through a product, which also makes subnormals what they are.
    shifted = builder.shl(builder.and_(wide, I32(0x7FFF)), I32(13))
    scaled = builder.fmul(builder.bitcast(shifted, F32), ir.Constant(F32, 2.0**112))
    is_special = builder.icmp_unsigned(">=", shifted, I32(0x7C00 << 13))
    special = builder.or_(shifted, I32(0x7F800000))
    value = builder.select(is_special, special, builder.bitcast(scaled, I32))
    sign = builder.shl(builder.and_(wide, I32(0x8000)), I32(16))
    return builder.bitcast(builder.or_(value, sign), F32)


def emit_to_half(builder: Any, value: Any) -> Any:
    """Emit the bits of the float16 nearest to a float32, of even ones where two are."""
    if target().halves:
        return builder.bitcast(builder.fptrunc(value, F16), I16)
    bits = builder.bitcast(value, I32)
    size = builder.and_(bits, I32(0x7FFFFFFF))
    # A number below 2**-14 has the unit 2**-24: a sum with 0.5, whose unit that is, rounds to it.
    half = builder.fadd(builder.bitcast(size, F32), ir.Constant(F32, 0.5))
    tiny = builder.sub(builder.bitcast(half, I32), I32(0x3F000000))
    odd = builder.and_(builder.lshr(size, I32(13)), I32(1))
    rounded = builder.add(builder.sub(size, I32(112 << 23)), builder.add(odd, I32(0xFFF)))
    normal = builder.lshr(rounded, I32(13))
    found = builder.select(builder.icmp_unsigned("<", size, I32(113 << 23)), tiny, normal)
    found = builder.select(builder.icmp_unsigned(">=", size, I32(143 << 23)), I32(0x7C00), found)
    is_nan = builder.icmp_unsigned(">", size, I32(0x7F800000))
    found = builder.select(is_nan, I32(0x7E00), found)
    sign = builder.and_(builder.lshr(bits, I32(16)), I32(0x8000))
    return builder.trunc(builder.or_(found, sign), I16)


def emit_to_bfloat(builder: Any, value: Any) -> Any:
    """Emit the upper half of a float32, rounded to nearest even; a NaN stays one (0x7FC0)."""
    bits = builder.bitcast(value, I32)
    odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, I32(0x7FFF))), I32(16))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.select(is_nan, I16(0x7FC0), builder.trunc(rounded, I16))


def _reinterpreting(name: str, source: Any, goal: Any) -> Any:
    @intrinsic
    def convert(context, value):
        def generate(ctx, builder, signature, values):
            return builder.bitcast(values[0], ctx.get_value_type(goal))

        return goal(source), generate

    convert.__doc__ = f"The bits of a {source} as {goal} ({name})."
    return convert


int_as_float = _reinterpreting("int_as_float", types.int32, types.float32)
float_as_int = _reinterpreting("float_as_int", types.float32, types.int32)
long_as_double = _reinterpreting("long_as_double", types.int64, types.float64)
double_as_long = _reinterpreting("double_as_long", types.float64, types.int64)


@device
def arg_float(p, i):
    """Argument `i` as a float64: the int64 holds its bits."""
    return long_as_double(arg(p, i))


@intrinsic
def fill_bytes(context, address, value, count):
    """memset."""

    def generate(ctx, builder, signature, values):
        pointer = builder.inttoptr(values[0], I8.as_pointer())
        cgutils.memset(builder, pointer, values[2], builder.trunc(values[1], I8))
        return ctx.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def copy_bytes(context, goal, source, count):
    """memcpy: the ranges do not overlap."""

    def generate(ctx, builder, signature, values):
        to = builder.inttoptr(values[0], I8.as_pointer())
        origin = builder.inttoptr(values[1], I8.as_pointer())
        cgutils.raw_memcpy(builder, to, origin, values[2], ir.Constant(I64, 1))
        return ctx.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def atomic_load(context, address):
    def generate(ctx, builder, signature, values):
        return builder.load_atomic(builder.inttoptr(values[0], I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), generate


@intrinsic
def atomic_store(context, address, value):
    def generate(ctx, builder, signature, values):
        builder.store_atomic(values[1], builder.inttoptr(values[0], I64.as_pointer()), "seq_cst", 8)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def atomic_add(context, address, value):
    """Add, and return what was there before."""

    def generate(ctx, builder, signature, values):
        pointer = builder.inttoptr(values[0], I64.as_pointer())
        return builder.atomic_rmw("add", pointer, values[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def pause(context):
    """Tell the processor that this is a spinning loop."""

    def generate(ctx, builder, signature, values):
        if "86" in builder.module.triple:
            builder.call(declare(builder, "llvm.x86.sse2.pause", VOID, []), [])
        return ctx.get_dummy_value()

    return types.void(), generate


@intrinsic
def yield_processor(context):
    """Let another thread run."""

    def generate(ctx, builder, signature, values):
        builder.call(declare(builder, "sched_yield", I32, []), [])
        return ctx.get_dummy_value()

    return types.void(), generate


@intrinsic
def system_call(context, number, a, b, c):
    """A Linux system call of up to three arguments."""

    def generate(ctx, builder, signature, values):
        kind = ir.FunctionType(I64, [I64], var_arg=True)
        function = cgutils.get_or_insert_function(builder.module, kind, "syscall")
        return builder.call(function, [*values, I64(0), I64(0), I64(0)])

    return types.int64(*[types.int64] * 4), generate


@intrinsic
def call_kernel(context, function, p, begin, end, thread):
    """Call a native function by its address."""

    def generate(ctx, builder, signature, values):
        slot = cgutils.alloca_once(builder, I64)
        byte = builder.bitcast(slot, I8.as_pointer())
        kind = ir.FunctionType(I32, [byte.type, byte.type, I64, I64, I64, I64])
        pointer = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(pointer, [byte, byte, *values[1:]])
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 5), generate
