"""Vector code for inner loops that a compiler does not find by itself, emitted inside `@intrinsic`.

    @intrinsic
    def add_rows(context, x, y, n):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder)
            def body(i, _):
                offset = v.mul(i, v.nbytes)
                total = builder.fadd(v.load(values[0], index=offset), v.load(values[1], index=offset))
                v.store(total, values[1], index=offset)
                return []
            v.loop(values[2], [], body)
            return ctx.get_dummy_value()
        return types.void(types.int64, types.int64, types.int64), generate

Imports Numba: only modules of code import this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from ._target import AVX512_BF16, target
from .ops import F32, F64, I1, I8, I16, I32, I64, declare

_NAMES = {F32: "f32", F64: "f64", I32: "i32", I8: "i8"}


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no class for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_BFLOATS = ir.VectorType(_BFloat(), 32)


class Vectors:
    """Emits operations on vectors of one element type.

    Args:
        builder: where to emit.
        element: LLVM type of an element.
        lanes: elements in a vector; None takes the widest that the target has.
    """

    def __init__(self, builder: Any, element: Any = F32, lanes: int | None = None) -> None:
        self.builder = builder
        self.element = element
        self.size = {F32: 4, F64: 8, I32: 4, I8: 1, I64: 8}[element]
        self.lanes = lanes or target().vector_bytes // self.size
        self.type = ir.VectorType(element, self.lanes)
        self.suffix = f"v{self.lanes}{_NAMES.get(element, 'i64')}"

    @property
    def nbytes(self) -> int:
        """Bytes of a vector."""
        return self.lanes * self.size

    def constant(self, value: float) -> Any:
        """Emit a vector with the same constant in all lanes."""
        return ir.Constant(self.type, [value] * self.lanes)

    def pointer(self, address: Any, offset: int = 0, index: Any = None, element: Any = None) -> Any:
        """Emit a pointer: int64 address, plus constant bytes `offset`, plus emitted bytes `index`."""
        b = self.builder
        place = address
        if not isinstance(address.type, ir.PointerType):
            place = b.inttoptr(address, I8.as_pointer())
        if index is not None:
            place = b.gep(place, [index], source_etype=I8)
        if offset:
            place = b.gep(place, [I64(offset)], source_etype=I8)
        return b.bitcast(place, (element or self.type).as_pointer())

    def load(self, address: Any, offset: int = 0, index: Any = None) -> Any:
        """Emit a load of a vector, aligned to its elements only."""
        return self.builder.load(self.pointer(address, offset, index), align=self.size)

    def store(self, value: Any, address: Any, offset: int = 0, index: Any = None) -> None:
        """Emit a store of a vector, aligned to its elements only."""
        pointer = self.pointer(address, offset, index, value.type)
        self.builder.store(value, pointer, align=self.size)

    def load_scalar(self, address: Any, offset: int = 0, index: Any = None) -> Any:
        pointer = self.pointer(address, offset, index, self.element)
        return self.builder.load(pointer, align=self.size)

    def splat(self, scalar: Any) -> Any:
        """Emit a vector with a scalar in all lanes."""
        b = self.builder
        undefined = ir.Constant(self.type, ir.Undefined)
        first = b.insert_element(undefined, scalar, I32(0))
        return b.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        )

    def broadcast(self, address: Any, offset: int = 0, index: Any = None) -> Any:
        """Emit a load of one element into all lanes."""
        return self.splat(self.load_scalar(address, offset, index))

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """Emit x * y + z, rounded once."""
        return self.call("llvm.fma", x, y, z)

    def call(self, name: str, *arguments: Any) -> Any:
        """Emit a call of an LLVM intrinsic on vectors of this type, such as `llvm.sqrt`."""
        function = declare(self.builder, f"{name}.{self.suffix}", self.type, [self.type] * len(arguments))
        return self.builder.call(function, arguments)

    def dot_pairs(self, total: Any, x: Any, y: Any, form: str) -> Any:
        """Emit total + x1 * y1 + x0 * y0, added in this order: a dot product of two bfloat16 in each lane.

        Args:
            total: float32.
            x, y: vectors of 32 bits a lane; the lower half is the first bfloat16 of the pair.
            form: `AVX512_BF16`, the instruction of that name, for 16 lanes; `SOFTWARE`: shifts and float32
                arithmetic, on any target.

        A product of two bfloat16 is exact in float32, so a sum is rounded once for each product. The
        instruction takes subnormals (below 2**-126) for 0 in operands, and gives 0 for them; the software
        form does what float32 arithmetic does. They agree in all else, but for a product beyond the
        range of float32 where the software form is not fused.
        """
        b = self.builder
        if form == AVX512_BF16:
            kinds = [self.type, _BFLOATS, _BFLOATS]
            function = declare(b, "llvm.x86.avx512bf16.dpbf16ps.512", self.type, kinds)
            return b.call(function, [total, b.bitcast(x, _BFLOATS), b.bitcast(y, _BFLOATS)])
        bits = Vectors(b, I32, self.lanes)
        x, y = b.bitcast(x, bits.type), b.bitcast(y, bits.type)
        upper, shift = bits.constant(-(1 << 16)), bits.constant(16)
        for halves in ([b.and_(z, upper) for z in (x, y)], [b.shl(z, shift) for z in (x, y)]):
            left, right = (b.bitcast(half, self.type) for half in halves)
            total = self.call("llvm.fmuladd", left, right, total)
        return total

    def round_pairs(self, first: Any, second: Any, form: str) -> Any:
        """Emit two vectors of float32 rounded to bfloat16 (to nearest, half to even), one behind the other.

        The result has pairs of them as int32, as `dot_pairs` takes them: the first pair is that of
        elements 0 and 1 of `first`. A NaN stays one, quiet, with its sign. `AVX512_BF16` makes subnormals 0.
        """
        b, bits = self.builder, Vectors(self.builder, I32, self.lanes)
        if form == AVX512_BF16:
            name, kinds = "llvm.x86.avx512bf16.cvtne2ps2bf16.512", [self.type, self.type]
            made = b.call(declare(b, name, _BFLOATS, kinds), [second, first])  # the lower half comes last
            return b.bitcast(made, bits.type)
        halves = [self._round_to_bfloat(value, bits) for value in (first, second)]
        index = ir.Constant(ir.VectorType(I32, 2 * self.lanes), list(range(2 * self.lanes)))
        return b.bitcast(b.shuffle_vector(*halves, index), bits.type)

    def _round_to_bfloat(self, value: Any, bits: Vectors) -> Any:
        """Emit the upper halves of float32 as int16, rounded to nearest even."""
        b = self.builder
        held = b.bitcast(value, bits.type)
        odd = b.and_(b.lshr(held, bits.constant(16)), bits.constant(1))
        rounded = b.add(held, b.add(odd, bits.constant(0x7FFF)))
        quiet = b.or_(held, bits.constant(0x400000))
        chosen = b.select(b.fcmp_unordered("uno", value, value), quiet, rounded)
        return b.trunc(b.lshr(chosen, bits.constant(16)), ir.VectorType(I16, self.lanes))

    def maximum(self, x: Any, y: Any) -> Any:
        """Emit max(x, y); x where either is NaN, so that maximum(x, 0) keeps the NaN of x."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, y), y, x)

    def minimum(self, x: Any, y: Any) -> Any:
        """Emit min(x, y); x where either is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", x, y), y, x)

    def mask(self, count: Any) -> Any:
        """Emit the mask of the first `count` (int64) lanes."""
        b = self.builder
        ints = Vectors(b, I32, self.lanes)
        lanes = ir.Constant(ints.type, list(range(self.lanes)))
        return b.icmp_signed("<", lanes, ints.splat(b.trunc(count, I32)))

    def load_masked(
        self, mask: Any, address: Any, offset: int = 0, index: Any = None, other: float = 0
    ) -> Any:
        """Emit a load of the lanes in `mask` only; the others hold `other`."""
        pointer = self.pointer(address, offset, index)
        kinds = [pointer.type, I32, ir.VectorType(I1, self.lanes), self.type]
        function = declare(self.builder, f"llvm.masked.load.{self.suffix}.p0", self.type, kinds)
        return self.builder.call(function, [pointer, I32(self.size), mask, self.constant(other)])

    def store_masked(self, mask: Any, value: Any, address: Any, offset: int = 0, index: Any = None) -> None:
        """Emit a store of the lanes in `mask` only."""
        pointer = self.pointer(address, offset, index)
        kinds = [self.type, pointer.type, I32, ir.VectorType(I1, self.lanes)]
        function = declare(self.builder, f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(), kinds)
        self.builder.call(function, [value, pointer, I32(self.size), mask])

    def sum(self, value: Any) -> Any:
        """Emit the sum of the lanes, pairwise."""
        kinds = [self.element, self.type]
        function = declare(self.builder, f"llvm.vector.reduce.fadd.{self.suffix}", self.element, kinds)
        return self.builder.call(function, [ir.Constant(self.element, 0.0), value], fastmath=("reassoc",))

    def mul(self, value: Any, factor: int) -> Any:
        """Emit an int64 times a constant."""
        return self.builder.mul(value, I64(factor))

    def loop(
        self, count: Any, carried: Sequence[Any], body: Callable[[Any, list[Any]], Sequence[Any]]
    ) -> list[Any]:
        """Emit `for i in range(count)` with values carried from pass to pass; return the last ones.

        Args:
            count: int64, at least 1: the test comes after the body.
            body: emits one pass from (i, carried values); returns the next carried values.
        """
        b = self.builder
        before = b.basic_block
        block = b.function.append_basic_block("loop")
        after = b.function.append_basic_block("after")
        b.branch(block)
        b.position_at_end(block)
        i = b.phi(I64)
        held = [b.phi(value.type) for value in carried]
        i.add_incoming(I64(0), before)
        for phi, value in zip(held, carried, strict=True):
            phi.add_incoming(value, before)
        results = list(body(i, list(held)))
        following = b.add(i, I64(1))
        i.add_incoming(following, b.basic_block)
        for phi, value in zip(held, results, strict=True):
            phi.add_incoming(value, b.basic_block)
        b.cbranch(b.icmp_signed("<", following, count), block, after)
        b.position_at_end(after)
        return results
