"""Kernels generated from elementwise programs.

A program is a tuple of instructions (name, operands, attributes). Values are numbered: the inputs first,
then the result of each instruction. From

    (("Mul", (0, 1), ()), ("Sigmoid", (2,), ()))

comes the text

    @strict
    def element(v0, v1):
        v2 = multiply(v0, v1)  # Mul
        v3 = sigmoid32(v2)  # Sigmoid
        return v3

and a kernel that calls `element` for all elements of its rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.ir.values import MDValue
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from onnxref.native._target import target
from onnxref.native.ops import F32, F64, I8, I16, I32, I64, arg, called, emit_from_half, emit_to_half

from . import elementwise

strict = called(forceinline=True, fastmath=False)
"""Decorator of elements: no multiply-add is made of one operator's product and another one's sum.

Numba would pass on the caller's `fastmath` if it were not given.
"""

_HALVES = ("float16", "bfloat16")


# --- the text of an element ----------------------------------------------------------------------


def _kind(dtype: str) -> str:
    """The type that values of a dtype have while they are computed."""
    return "float32" if dtype in _HALVES else "uint8" if dtype == "bool" else dtype


def _literal(kind: str, value: float) -> str:
    if kind.startswith("float") and not np.isfinite(value):
        return f"{kind}({'nan' if value != value else 'inf' if value > 0 else '-inf'})"
    return f"{kind}({float(value)!r})" if kind.startswith("float") else f"{kind}({int(value)})"


class _Text:
    """Writes the expression of an instruction whose operands have one type."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.bits = kind[-2:]

    def number(self, value: float) -> str:
        return _literal(self.kind, value)

    def fold(self, function: str, operands: list[str]) -> str:
        text = operands[0]
        for operand in operands[1:]:
            text = f"{function}({text}, {operand})"
        return text

    def limit(self, x: str, low: float | None, high: float | None) -> str:
        x = x if low is None else f"at_least({x}, {self.number(low)})"
        return x if high is None else f"at_most({x}, {self.number(high)})"


def _simple(function: str):
    return lambda t, *x: f"{function}({', '.join(x)})"


def _sized(function: str):
    return lambda t, *x: f"{function}{t.bits}({', '.join(x)})"


def _folded(function: str):
    return lambda t, *x: t.fold(function, list(x))


def _power(t: _Text, x: str, y: str = "", exponent: float | None = None) -> str:
    if exponent is None:
        return f"pow{t.bits}({x}, {y})"
    if exponent == 3:
        return f"cube32({x})" if t.kind == "float32" else f"multiply(multiply({x}, {x}), {x})"
    if exponent == 0.5:  # as NumPy: of -infinity it is NaN, where `pow` gives infinity
        return f"square_root({x})"
    return {1: x, 2: f"multiply({x}, {x})", -1: f"divide({t.number(1)}, {x})"}[int(exponent)]


def _mean(t: _Text, *x: str) -> str:
    return f"divide({t.fold('add', list(x))}, {t.number(len(x))})"


def _div(t: _Text, x: str, y: str) -> str:
    return f"divide({x}, {y})" if t.kind.startswith("float") else f"quotient({x}, {y})"


def _mod(t: _Text, x: str, y: str, fmod: int) -> str:
    if t.kind.startswith("float"):
        return f"fmod{t.bits}({x}, {y})"
    return f"remainder({x}, {y})" if fmod else f"floor_remainder({x}, {y})"


def _sign(t: _Text, x: str) -> str:
    zero = t.number(0)
    below = f"select(less({x}, {zero}), {t.number(-1)}, {x})" if not t.kind.startswith("u") else x
    return f"select(greater({x}, {zero}), {t.number(1)}, {below})"


def _leaky(t: _Text, x: str, alpha: float) -> str:
    return f"select(less({x}, {t.number(0)}), multiply({t.number(alpha)}, {x}), {x})"


def _prelu(t: _Text, x: str, slope: str) -> str:
    return f"select(less({x}, {t.number(0)}), multiply({slope}, {x}), {x})"


def _elu(t: _Text, x: str, alpha: float) -> str:
    curve = f"multiply({t.number(alpha)}, expm1_{t.bits}(at_most({x}, {t.number(0)})))"
    return f"select(less({x}, {t.number(0)}), {curve}, {x})"


def _selu(t: _Text, x: str, alpha: float, gamma: float) -> str:
    curve = f"multiply({t.number(alpha)}, expm1_{t.bits}(at_most({x}, {t.number(0)})))"
    return f"multiply({t.number(gamma)}, select(less_equal({x}, {t.number(0)}), {curve}, {x}))"


def _celu(t: _Text, x: str, alpha: float) -> str:
    inner = f"at_most(divide({x}, {t.number(alpha)}), {t.number(0)})"
    curve = f"multiply({t.number(alpha)}, expm1_{t.bits}({inner}))"
    return f"add(at_least({x}, {t.number(0)}), {curve})"


def _hard_sigmoid(t: _Text, x: str, alpha: float, beta: float) -> str:
    return t.limit(f"add(multiply({t.number(alpha)}, {x}), {t.number(beta)})", 0, 1)


def _hard_swish(t: _Text, x: str) -> str:
    if t.kind == "float32":
        return f"hard_swish32({x})"
    inner = f"add(divide({x}, {t.number(6)}), {t.number(0.5)})"
    return f"multiply({x}, {t.limit(inner, 0, 1)})"


def _swish(t: _Text, x: str, alpha: float) -> str:
    if alpha == 1:
        return f"silu{t.bits}({x})"
    return f"multiply({x}, sigmoid{t.bits}(multiply({t.number(alpha)}, {x})))"


def _swiglu(t: _Text, a: str, b: str, alpha: float) -> str:
    return f"multiply({_swish(t, a, alpha)}, {b})"


def _shrink(t: _Text, x: str, bias: float, lambd: float) -> str:
    above = f"select(greater({x}, {t.number(lambd)}), subtract({x}, {t.number(bias)}), {t.number(0)})"
    return f"select(less({x}, {t.number(-lambd)}), add({x}, {t.number(bias)}), {above})"


def _thresholded(t: _Text, x: str, alpha: float) -> str:
    return f"select(greater({x}, {t.number(alpha)}), {x}, {t.number(0)})"


def _is_inf(t: _Text, x: str, negative: int, positive: int) -> str:
    found = [
        f"equal({x}, {t.number(sign * np.inf)})" for sign, wanted in ((-1, negative), (1, positive)) if wanted
    ]
    return t.fold("bit_or", found) if found else "uint8(0)"


EXPRESSIONS: dict[str, Any] = {
    "Add": _simple("add"),
    "Sub": _simple("subtract"),
    "Mul": _simple("multiply"),
    "Div": _div,
    "Mod": _mod,
    "Pow": _power,
    "Sum": _folded("add"),
    "Mean": _mean,
    "Max": _folded("maximum"),
    "Min": _folded("minimum"),
    "Where": _simple("select"),
    "Equal": _simple("equal"),
    "Less": _simple("less"),
    "LessOrEqual": _simple("less_equal"),
    "Greater": _simple("greater"),
    "GreaterOrEqual": _simple("greater_equal"),
    "And": _simple("bit_and"),
    "Or": _simple("bit_or"),
    "Xor": _simple("bit_xor"),
    "Not": lambda t, x: f"bit_xor({x}, uint8(1))",
    "BitwiseAnd": _simple("bit_and"),
    "BitwiseOr": _simple("bit_or"),
    "BitwiseXor": _simple("bit_xor"),
    "BitwiseNot": _simple("bit_not"),
    "BitShift": lambda t, x, y, direction: f"shift_{direction.lower()}({x}, {y})",
    "IsNaN": _simple("is_nan"),
    "IsInf": _is_inf,
    "Neg": _simple("negative"),
    "Abs": lambda t, x: x if t.kind.startswith("u") else f"absolute({x})",
    "Sqrt": _simple("square_root"),
    "Reciprocal": lambda t, x: f"divide({t.number(1)}, {x})",
    "Floor": _simple("floor"),
    "Ceil": _simple("ceil"),
    "Round": _simple("round_even"),
    "Sign": _sign,
    "Exp": _sized("exp"),
    "Log": _sized("log"),
    "Erf": _sized("erf"),
    **{name: _sized(name.lower()) for name in ("Sin", "Cos", "Tan", "Sinh", "Cosh", "Tanh")},
    **{name: _sized(name.lower()) for name in ("Asin", "Acos", "Atan", "Asinh", "Acosh", "Atanh")},
    "Clip": lambda t, x, low, high: t.limit(x, low, high),
    "Relu": lambda t, x: t.limit(x, 0, None),
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Sigmoid": _sized("sigmoid"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "SwiGLU": _swiglu,
    "Softplus": _sized("softplus"),
    "Softsign": lambda t, x: f"divide({x}, add({t.number(1)}, absolute({x})))",
    "Mish": _sized("mish"),
    "Gelu": lambda t, x, approximate: f"gelu{'_tanh' if approximate == 'tanh' else ''}{t.bits}({x})",
    "ThresholdedRelu": _thresholded,
    "Shrink": _shrink,
}


def _cast(x: str, source: str, goal: str) -> str:
    """The text that converts a value of one dtype to another, before rounding to 16 bits."""
    kind, wanted = _kind(source), _kind(goal)
    if goal == "bool":
        return x if source == "bool" else f"bit_xor(equal({x}, {_literal(kind, 0)}), uint8(1))"
    if kind == "float32" and wanted[-2:] in ("t8", "16", "32") and "int" in wanted:
        return f"to_{wanted}(whole32({x}))"
    if kind.startswith("float") and not wanted.startswith("float"):
        return f"to_{wanted}(whole({x if kind == 'float64' else f'to_float64({x})'}))"
    if goal in _HALVES and kind not in ("float32", "int8", "uint8", "int16", "uint16"):
        return f"odd_float32({x if kind == 'float64' else f'to_float64({x})'})"
    return x if kind == wanted else f"to_{wanted}({x})"


def _instruction(name: str, operands: list[str], dtypes: list[str], goal: str, attributes: dict) -> str:
    if name == "Cast":
        text = _cast(operands[0], dtypes[0], goal)
    elif name == "Pow" and len(operands) == 2:
        wide = "float64" if {*map(_kind, dtypes)} != {"float32"} else "float32"
        base, power = (_cast(x, d, wide) for x, d in zip(operands, dtypes, strict=True))
        text = _cast(_power(_Text(wide), base, power), wide, _kind(goal))
    else:
        of = dtypes[1] if name == "Where" else dtypes[0]
        text = EXPRESSIONS[name](_Text(_kind(of)), *operands, **attributes)
    return f"round_{goal}({text})" if goal in _HALVES else text


def element_text(program: tuple, dtypes: tuple[str, ...], results: tuple[int, ...]) -> str:
    """Return the text of the function that computes one element of each result."""
    inputs = len(dtypes) - len(program)
    lines = ["@strict", f"def element({', '.join(f'v{i}' for i in range(inputs))}):"]
    for number, (name, operands, attributes) in enumerate(program, inputs):
        of = [dtypes[i] for i in operands]
        text = _instruction(name, [f"v{i}" for i in operands], of, dtypes[number], dict(attributes))
        lines.append(f"    v{number} = {text}  # {name}")
    shown = ", ".join(f"v{i}" for i in results)
    return "\n".join([*lines, f"    return {shown if len(results) == 1 else f'({shown})'}"])


# --- the loop over a row -------------------------------------------------------------------------


class _Distinct(MDValue):
    """A metadata node that is equal to no other; operands may be set later, itself among them."""

    def descr(self, buf: list[str]) -> None:
        shown = ", ".join(operand.get_reference() for operand in self.operands)
        buf += (f"distinct !{{ {shown} }}", "\n")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def _distinct(module: Any) -> Any:
    return _Distinct(module, [], name=str(len(module.metadata)))


class _Memory:
    """Emits loads and stores of elements of a dtype, all in one access group."""

    def __init__(self, builder: Any, group: Any) -> None:
        self.builder = builder
        self.group = group

    def _pointer(self, address: Any, index: Any, dtype: str) -> tuple[Any, int]:
        kind = _STORED[dtype]
        pointer = self.builder.inttoptr(address, kind.as_pointer())
        return self.builder.gep(pointer, [index]), np.dtype(
            dtype if dtype != "bfloat16" else "float16"
        ).itemsize

    def load(self, address: Any, index: Any, dtype: str) -> Any:
        b = self.builder
        pointer, size = self._pointer(address, index, dtype)
        value = b.load(pointer, align=size)
        value.set_metadata("llvm.access.group", self.group)
        if dtype == "float16":
            return emit_from_half(b, value)
        if dtype == "bfloat16":
            return b.bitcast(b.shl(b.zext(value, I32), I32(16)), F32)
        return value

    def store(self, value: Any, address: Any, index: Any, dtype: str) -> None:
        b = self.builder
        pointer, size = self._pointer(address, index, dtype)
        if dtype == "float16":
            value = emit_to_half(b, value)
        elif dtype == "bfloat16":  # rounded already: the lower half is zero
            value = b.trunc(b.lshr(b.bitcast(value, I32), I32(16)), I16)
        b.store(value, pointer, align=size).set_metadata("llvm.access.group", self.group)


_STORED = {
    **{f"{u}int{bits}": ir.IntType(bits) for u in ("", "u") for bits in (8, 16, 32, 64)},
    "bool": I8,
    "float16": I16,
    "bfloat16": I16,
    "float32": F32,
    "float64": F64,
}


class _Loops:
    """Emits loops over elements whose passes are independent of each other.

    The accesses are marked so (`llvm.loop.parallel_accesses`): LLVM then asks no questions about
    outputs that lie where an input lies, which is right as each pass reads before it writes.
    """

    def __init__(self, builder: Any, width: int) -> None:
        self.builder = builder
        self.width = width
        self.group = _distinct(builder.module)
        self.memory = _Memory(builder, self.group)

    def _metadata(self, masked: bool) -> Any:
        module = self.builder.module
        loop = _distinct(module)

        def option(name: str, *values: Any) -> Any:
            return module.add_metadata([ir.MetaDataString(module, name), *values])

        options = [option("llvm.loop.parallel_accesses", self.group)]
        if self.width > 1:
            one, width = ir.IntType(32)(1), ir.IntType(32)(self.width)
            options += [
                option("llvm.loop.vectorize.width", width),
                option("llvm.loop.interleave.count", one),
                option("llvm.loop.vectorize.enable", ir.IntType(1)(1)),
                option("llvm.loop.unroll.disable"),
            ]
            if masked:
                options.append(option("llvm.loop.vectorize.predicate.enable", ir.IntType(1)(1)))
        loop.operands = (loop, *options)
        return loop

    def over(self, count: Any, one: Any, lanes: int) -> None:
        """Emit loops over elements, or pixels of `lanes` elements, that call `one(index, lane)`."""
        b = self.builder
        if lanes:

            def pixel(j: Any) -> None:
                first = b.mul(j, I64(lanes))
                self.loop(I64(0), I64(lanes), lambda lane: one(b.add(first, lane), lane))

            self.loop(I64(0), count, pixel, parallel=False)
        elif self.width == 1:
            self.loop(I64(0), count, lambda i: one(i, i))
        else:
            whole = b.and_(count, I64(-self.width))
            self.loop(I64(0), whole, lambda i: one(i, i))
            self.loop(whole, count, lambda i: one(i, i), masked=target().lanes == 16)

    def loop(self, begin: Any, end: Any, body: Any, *, parallel: bool = True, masked: bool = False) -> None:
        """Emit `for i in range(begin, end): body(i)`."""
        b = self.builder
        before = b.basic_block
        block = b.append_basic_block("each")
        after = b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", begin, end), block, after)
        b.position_at_end(block)
        i = b.phi(I64)
        i.add_incoming(begin, before)
        body(i)
        following = b.add(i, I64(1), flags=("nsw",))
        i.add_incoming(following, b.basic_block)
        branch = b.cbranch(b.icmp_signed("<", following, end), block, after)
        if parallel:
            branch.set_metadata("llvm.loop", self._metadata(masked))
        b.position_at_end(after)


def _row_loop(sources: tuple, goals: tuple, width: int, lanes: int) -> Any:
    """Return `each(element, n, addresses...)`, which computes a row.

    Args:
        sources: (dtype, class) of each input: "c" contiguous, "s" one value, "l" one value per lane.
        goals: dtype of each output.
        width: elements to take at once; 1 leaves the choice to the compiler.
        lanes: where inputs are of class "l", elements that `n` counts as one.
    """
    kinds = tuple(getattr(types, _kind(dtype)) for dtype, _ in sources)

    @intrinsic
    def each(context, element, n, *addresses):
        element_signature = element.get_call_type(context, kinds, {})

        def generate(ctx, builder, signature, values):
            call = ctx.get_function(element, element_signature)
            places = cgutils.unpack_tuple(builder, values[2])
            loops = _Loops(builder, width)
            memory = loops.memory
            fixed = [
                memory.load(place, I64(0), dtype) if kind == "s" else None
                for place, (dtype, kind) in zip(places, sources, strict=False)
            ]

            def one(index, lane):
                given = [
                    fixed[i] if kind == "s" else memory.load(places[i], lane if kind == "l" else index, dtype)
                    for i, (dtype, kind) in enumerate(sources)
                ]
                found = call(builder, given)
                results = cgutils.unpack_tuple(builder, found) if len(goals) > 1 else [found]
                for value, place, dtype in zip(results, places[len(sources) :], goals, strict=True):
                    memory.store(value, place, index, dtype)

            loops.over(values[1], one, lanes)
            return ctx.get_dummy_value()

        return types.void(element, n, types.StarArgTuple(addresses)), generate

    return each


# --- kernels -------------------------------------------------------------------------------------


def kernel_text(operands: int, outer: int) -> str:
    """Return the text of a kernel whose units are rows, or pieces of `size` elements where `outer` is 0.

    Arguments: elements of a row, then `outer` extents, then of each operand its address and its `outer`
    strides in bytes. Without outer dimensions: elements in all, elements of a unit, then the addresses
    and sizes of elements.
    """
    lines = ["def kernel(p, begin, end, thread):"]
    if not outer:
        lines += ["    n, size = arg(p, 0), arg(p, 1)"]
        lines += [f"    x{k}, s{k} = arg(p, {2 + 2 * k}), arg(p, {3 + 2 * k})" for k in range(operands)]
        lines += ["    first = begin * size", "    count = min(end * size, n) - first"]
        shown = ", ".join(f"x{k} + first * s{k}" for k in range(operands))
        return "\n".join([*lines, f"    each(element, count, {shown})"])
    lines += [
        f"    n = arg(p, 0)  # and the extents d1 ... d{outer - 1}" if outer > 1 else "    n = arg(p, 0)"
    ]
    lines += [f"    d{i} = arg(p, {1 + i})" for i in range(1, outer)]
    at = 1 + outer
    for k in range(operands):
        names = ", ".join([f"x{k}", *(f"s{k}_{i}" for i in range(outer))])
        lines.append(f"    {names} = " + ", ".join(f"arg(p, {at + i})" for i in range(outer + 1)))
        at += outer + 1
    lines.append("    for row in range(begin, end):")
    lines.append("        i0 = row")
    for i in range(outer - 1, 0, -1):
        lines += [f"        i{i} = i0 % d{i}", f"        i0 = i0 // d{i}"]
    lines.append("        each(")
    lines.append("            element, n,")
    for k in range(operands):
        lines.append(
            "            " + " + ".join([f"x{k}", *(f"i{i} * s{k}_{i}" for i in range(outer))]) + ","
        )
    return "\n".join([*lines, "        )"])


def _width(program: tuple, dtypes: tuple[str, ...], text: str) -> int:
    """Return how many elements to take at once, 1 where calls of the C library rule that out."""
    if any(f"{name}{bits}(" in text for name in elementwise.SCALAR for bits in (32, 64)):
        return 1
    if any(f"{name}(" in text for name in ("quotient", "remainder")):
        return 1
    if "float64" in dtypes and any(f"{name}64(" in text for name in elementwise.SCALAR_64):
        return 1
    widest = 8 if "64(" in text else max(np.dtype(_kind(dtype)).itemsize for dtype in dtypes)
    return max(1, target().vector_bytes // widest)


def generate(
    program: tuple,
    dtypes: tuple[str, ...],
    results: tuple[int, ...],
    classes: tuple[str, ...],
    outer: int,
    lanes: int,
) -> str:
    """Return the text of the module that makes a kernel; see `chain`."""
    names = ", ".join(name for name, _, _ in program)
    return "\n\n\n".join(
        (
            f'"""{names} of {", ".join(dtypes[: len(classes)])}."""',
            element_text(program, dtypes, results),
            kernel_text(len(classes) + len(results), outer),
        )
    )


def chain(
    program: tuple,
    dtypes: tuple[str, ...],
    results: tuple[int, ...],
    classes: tuple[str, ...],
    outer: int,
    lanes: int,
) -> Any:
    """Make the kernel of a program.

    Args:
        program: instructions (name, operands, attributes).
        dtypes: of every value, the inputs first.
        results: numbers of the values that are stored.
        classes: of each input, along a row: "c" contiguous, "s" one value, "l" one value per lane.
        outer: dimensions outside of the row.
        lanes: where an input is of class "l", the lanes of a block; else 0.
    """
    text = generate(program, dtypes, results, classes, outer, lanes)
    sources = tuple(zip(dtypes, classes, strict=False))
    goals = tuple(dtypes[i] for i in results)
    space = dict(vars(elementwise)) | elementwise.FUNCTIONS | elementwise.CONVERTERS
    space |= {"strict": strict, "arg": arg, "inf": np.inf, "nan": np.nan}
    space |= {name: getattr(types, name) for name in (*_STORED, "float32") if hasattr(types, name)}
    space["each"] = _row_loop(sources, goals, _width(program, dtypes, text), lanes)
    exec(compile(text, f"<{'-'.join(name for name, _, _ in program)}>", "exec"), space)
    return space["kernel"]
