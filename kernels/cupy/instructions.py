"""Elementwise programs as CUDA text: what each instruction takes, and the expression that computes it.

See `common/instructions.py` for what a program is. From

    (("Mul", (0, 1), ()), ("Sigmoid", (2,), ()))

comes, for float16, the text

    __device__ __forceinline__ void element(float v0, float v1, float &v3) {
        float v2 = rounded<half_t>(multiply(v0, v1));  // Mul
        v3 = rounded<half_t>(sigmoid_16(v2));  // Sigmoid
    }
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from onnxref.gpu import CTYPES
from onnxref.lowering import Unsupported

from ..common.instructions import ALL, BOOL, FLOATS, INTS, NUMBERS, SIGNED, Instruction, check_program

HALVES = frozenset(("float16", "bfloat16"))

# Types that the operands of an instruction may have; all but a condition have the same.
_TYPES: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            *("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Clip", "Relu", "PRelu", "Mod", "Pow"),
            *("Abs", "Sign", "Shrink"),
        ),
        NUMBERS,
    ),
    **dict.fromkeys(
        ("Where", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Cast"),
        ALL,
    ),
    **dict.fromkeys(("And", "Or", "Xor", "Not"), BOOL),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"), INTS),
    "Neg": FLOATS | SIGNED,
    **dict.fromkeys(
        (
            *("Mean", "IsNaN", "IsInf", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Exp", "Log", "Erf"),
            *("Sin", "Cos", "Tan", "Sinh", "Cosh", "Tanh"),
            *("Asin", "Acos", "Atan", "Asinh", "Acosh", "Atanh"),
            *("Sigmoid", "Swish", "SwiGLU", "Softplus", "Softsign", "Mish", "Gelu", "Elu", "Selu", "Celu"),
            *("LeakyRelu", "ThresholdedRelu", "HardSigmoid", "HardSwish"),
            *("Normalized", "BatchNormalization"),
        ),
        FLOATS,
    ),
}


def check(program: Sequence[Instruction], dtypes: Sequence[str]) -> None:
    """Refuse a program with an instruction that there is no text for; see `check_program`."""
    check_program(program, dtypes, _TYPES, _check_details)


def _check_details(name: str, of: list[str], goal: str, attributes: dict[str, Any]) -> None:
    if name == "Shrink" and of[0] in INTS and not math.isfinite(attributes["bias"]):
        raise Unsupported("a bias that is not finite")


# --- expressions ---------------------------------------------------------------------------------


def computed_in(dtype: str) -> str:
    """The type in CUDA that values of a dtype have while they are computed."""
    return "float" if dtype in HALVES else CTYPES[dtype]


def _literal(kind: str, value: float) -> str:
    """Return a number as text of a type."""
    if kind not in ("float", "double"):
        number = int(value)
        if number < -(1 << 62):
            return f"{kind}(-{-number - 1}ll - 1)"
        return f"{kind}({number}{'ull' if number > (1 << 62) else 'll'})"
    if not math.isfinite(value):
        return f"{kind}({'NAN' if value != value else 'INFINITY' if value > 0 else '-INFINITY'})"
    return f"{kind}({float(value)!r})"


class _Text:
    """Writes the expression of an instruction whose operands have one type.

    Attributes:
        kind: the type that it is computed in.
        is_half: whether the result is rounded to 16 bits.
    """

    def __init__(self, dtype: str) -> None:
        self.kind = computed_in(dtype)
        self.is_half = dtype in HALVES
        self.is_float = dtype in FLOATS
        self.zero, self.one = self.number(0), self.number(1)

    def number(self, value: float) -> str:
        return _literal(self.kind, value)

    def near(self, function: str) -> str:
        """Return the name of a function, of its variant for 16 bits where that is enough."""
        return f"{function}_16" if self.is_half else function

    def limit(self, x: str, low: float | None, high: float | None) -> str:
        x = x if low is None else f"max_nan({x}, {self.number(low)})"
        return x if high is None else f"min_nan({x}, {self.number(high)})"


_Expression: TypeAlias = Callable[..., str]


def _simple(function: str) -> _Expression:
    return lambda t, *x: f"{function}({', '.join(x)})"


def _near(function: str) -> _Expression:
    return lambda t, x: f"{t.near(function)}({x})"


def _infix(sign: str) -> _Expression:
    return lambda t, x, y: f"{x} {sign} {y}"


def _bits(sign: str) -> _Expression:
    return lambda t, x, y: f"{t.kind}({x} {sign} {y})"


def _fold(function: str, operands: Sequence[str]) -> str:
    text = operands[0]
    for operand in operands[1:]:
        text = f"{function}({text}, {operand})"
    return text


def _folded(function: str) -> _Expression:
    return lambda t, *x: _fold(function, x)


def _leaky(t: _Text, x: str, alpha: float) -> str:
    return f"{x} < {t.zero} ? multiply({t.number(alpha)}, {x}) : {x}"


def _elu(t: _Text, x: str, alpha: float) -> str:
    return f"{x} < {t.zero} ? curve_below_0({x}, {t.number(alpha)}) : {x}"


def _selu(t: _Text, x: str, alpha: float, gamma: float) -> str:
    curve = f"{x} <= {t.zero} ? curve_below_0({x}, {t.number(alpha)}) : {x}"
    return f"multiply({t.number(gamma)}, {curve})"


def _hard_sigmoid(t: _Text, x: str, alpha: float, beta: float) -> str:
    return t.limit(f"add(multiply({t.number(alpha)}, {x}), {t.number(beta)})", 0, 1)


def _hard_swish(t: _Text, x: str) -> str:
    inner = f"add(divide({x}, {t.number(6)}), {t.number(0.5)})"
    return f"multiply({x}, {t.limit(inner, 0, 1)})"


def _swish(t: _Text, x: str, alpha: float) -> str:
    inner = x if alpha == 1 else f"multiply({t.number(alpha)}, {x})"
    return f"multiply({x}, {t.near('sigmoid')}({inner}))"


def _gelu(t: _Text, x: str, approximate: str) -> str:
    return f"{t.near('gelu_tanh')}({x})" if approximate == "tanh" else f"gelu({x})"


def _shrink(t: _Text, x: str, bias: float, lambd: float) -> str:
    by = t.number(bias)
    if t.is_float:
        seen, below, limit = x, t.number(-lambd), t.number(lambd)
    else:
        seen, below, limit = f"double({x})", _literal("double", -lambd), _literal("double", lambd)
    return f"{seen} < {below} ? add({x}, {by}) : {seen} > {limit} ? subtract({x}, {by}) : {t.zero}"


def _is_inf(t: _Text, x: str, negative: int, positive: int) -> str:
    found = [f"{x} == {t.number(s * math.inf)}" for s, wanted in ((-1, negative), (1, positive)) if wanted]
    return " || ".join(found) or "false"


def _batch_normalization(t: _Text, x: str, scale: str, b: str, mean: str, var: str, epsilon: float) -> str:
    factor = f"multiply({scale}, divide({t.one}, square_root(add({var}, {t.number(epsilon)}))))"
    return f"normalized({x}, {mean}, {factor}, {b})"


_EXPRESSIONS: dict[str, _Expression] = {
    "Add": _simple("add"),
    "Sub": _simple("subtract"),
    "Mul": _simple("multiply"),
    "Div": _simple("divide"),
    "Mod": lambda t, x, y, fmod: f"remainder_{'truncated' if fmod else 'floored'}({x}, {y})",
    "Sum": _folded("add"),
    "Mean": lambda t, *x: f"divide({_fold('add', x)}, {t.number(len(x))})",
    "Max": _folded("max_nan"),
    "Min": _folded("min_nan"),
    "Where": lambda t, c, x, y: f"{c} ? {x} : {y}",
    "Equal": _infix("=="),
    "Less": _infix("<"),
    "LessOrEqual": _infix("<="),
    "Greater": _infix(">"),
    "GreaterOrEqual": _infix(">="),
    "And": _infix("&&"),
    "Or": _infix("||"),
    "Xor": _infix("!="),
    "Not": lambda t, x: f"!{x}",
    "BitwiseAnd": _bits("&"),
    "BitwiseOr": _bits("|"),
    "BitwiseXor": _bits("^"),
    "BitwiseNot": lambda t, x: f"{t.kind}(~{x})",
    "BitShift": lambda t, x, y, direction: f"shift_{direction.lower()}({x}, {y})",
    "IsNaN": lambda t, x: f"{x} != {x}",
    "IsInf": _is_inf,
    "Neg": _simple("negative"),
    "Abs": _simple("absolute"),
    "Sqrt": _simple("square_root"),
    "Reciprocal": lambda t, x: f"divide({t.one}, {x})",
    "Floor": _simple("floor_of"),
    "Ceil": _simple("ceil_of"),
    "Round": _simple("round_even"),
    "Sign": _simple("sign"),
    "Exp": _simple("exponential"),
    "Log": _simple("logarithm"),
    "Erf": _simple("error_function"),
    "Sin": _simple("sine"),
    "Cos": _simple("cosine"),
    "Tan": _simple("tangent"),
    "Sinh": _simple("hyperbolic_sine"),
    "Cosh": _simple("hyperbolic_cosine"),
    "Tanh": _simple("hyperbolic_tangent"),
    "Asin": _simple("arc_sine"),
    "Acos": _simple("arc_cosine"),
    "Atan": _simple("arc_tangent"),
    "Asinh": _simple("area_sine"),
    "Acosh": _simple("area_cosine"),
    "Atanh": _simple("area_tangent"),
    "Clip": lambda t, x, low, high: t.limit(x, low, high),
    "Relu": lambda t, x: t.limit(x, 0, None),
    "LeakyRelu": _leaky,
    "PRelu": lambda t, x, slope: f"{x} < {t.zero} ? multiply({slope}, {x}) : {x}",
    "Elu": _elu,
    "Selu": _selu,
    "Celu": lambda t, x, alpha: f"celu({x}, {t.number(alpha)})",
    "Sigmoid": _near("sigmoid"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "SwiGLU": lambda t, a, b, alpha: f"multiply({_swish(t, a, alpha)}, {b})",
    "Softplus": _simple("softplus"),
    "Softsign": lambda t, x: f"divide({x}, add({t.one}, absolute({x})))",
    "Mish": _simple("mish"),
    "Gelu": _gelu,
    "ThresholdedRelu": lambda t, x, alpha: f"{x} > {t.number(alpha)} ? {x} : {t.zero}",
    "Shrink": _shrink,
    "Normalized": _simple("normalized"),
    "BatchNormalization": _batch_normalization,
}


def _cast(x: str, source: str, goal: str) -> str:
    """The text that converts a value of one dtype to another, before rounding to 16 bits."""
    here, there = computed_in(source), computed_in(goal)
    if here == there:
        return x
    return f"converted<{there}, {'true' if goal in HALVES else 'false'}>({x})"


def _power_by(t: _Text, x: str, exponent: float) -> str:
    if exponent == 0.5:  # as NumPy: of -infinity it is NaN, where `pow` gives infinity
        return f"square_root({x})"
    if exponent == 3:
        return f"multiply(multiply({x}, {x}), {x})"
    return {1: x, 2: f"multiply({x}, {x})", -1: f"divide({t.one}, {x})"}[int(exponent)]


def _power(x: str, y: str, base: str, exponent: str) -> str:
    """The text of x ** y in the type of x; see the reference's Pow for the rules."""
    if base in INTS and exponent in INTS:
        return f"power_of_integers({x}, {y})"
    if base in INTS:
        return f"saturated<{computed_in(base)}>(power(double({x}), double({y})))"
    narrow = {*HALVES, "float32", "int8", "uint8", "int16", "uint16"}
    wide = "float" if {base, exponent} <= narrow else "double"
    text = f"power({wide}({x}), {wide}({y}))"
    return text if base == "float64" or wide == "float" else _cast(text, "float64", base)


def _expression(name: str, x: Sequence[str], of: Sequence[str], goal: str, pairs: Mapping[str, Any]) -> str:
    if name == "Cast":
        text = _cast(x[0], of[0], goal)
    elif name == "Pow":
        power = pairs.get("exponent")
        text = _power(*x, *of) if power is None else _power_by(_Text(of[0]), x[0], power)
    elif name in ("Normalized", "BatchNormalization"):
        wide = "float64" if "float64" in of else "float32"
        seen = [_cast(value, dtype, wide) for value, dtype in zip(x, of, strict=True)]
        text = _cast(_EXPRESSIONS[name](_Text(wide), *seen, **pairs), wide, goal)
    else:
        text = _EXPRESSIONS[name](_Text(of[1] if name == "Where" else of[0]), *x, **pairs)
    return f"rounded<{CTYPES[goal]}>({text})" if goal in HALVES else text


def element_text(program: Sequence[Instruction], dtypes: Sequence[str], results: Sequence[int]) -> str:
    """Return the text of the function that computes one element of each result."""
    inputs = len(dtypes) - len(program)
    taken = [f"{computed_in(dtype)} v{i}" for i, dtype in enumerate(dtypes[:inputs])]
    taken += [f"{computed_in(dtypes[r])} &y{k}" for k, r in enumerate(results)]
    lines = [f"__device__ __forceinline__ void element({', '.join(taken)}) {{"]
    for number, (name, operands, pairs) in enumerate(program, inputs):
        of = [dtypes[i] for i in operands]
        text = _expression(name, [f"v{i}" for i in operands], of, dtypes[number], dict(pairs))
        lines.append(f"    {computed_in(dtypes[number])} v{number} = {text};  // {name}")
    lines += [f"    y{k} = v{r};" for k, r in enumerate(results)]
    return "\n".join([*lines, "}"])
