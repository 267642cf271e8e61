"""Oracles for arithmetic: float64, complex128 or Python's integers, rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from ._type_models import Call
from ._type_oracles import Array, Oracle, is_float, narrow, wide
from ._type_specs import dtype_of


def _elements(compute: Callable[..., Any]) -> Oracle:
    """An element-wise operator, computed number by number with Python's own functions."""

    def oracle(call: Call) -> Array:
        inputs = np.broadcast_arrays(*(wide(x) for x in call.inputs))
        flat = [x.reshape(-1).tolist() for x in inputs]
        numbers = [compute(*numbers) for numbers in zip(*flat, strict=True)]
        # Python's integers stay what they are: NumPy would choose int64 or float64 for them.
        integers = any(type(x) is int for x in numbers)
        return np.array(numbers, object if integers else None).reshape(inputs[0].shape)

    return oracle


def _guarded(compute: Callable[[float], float]) -> Oracle:
    """A function of `math`, which raises where IEEE 754 has a NaN."""

    def one(x: float) -> float:
        try:
            return compute(x)
        except ValueError:
            return math.nan

    return _elements(one)


def _log(x: float) -> float:
    return -math.inf if x == 0 else math.log(x)


def _atanh(x: float) -> float:
    return math.copysign(math.inf, x) if abs(x) == 1 else math.atanh(x)


def _quotient(x: Any, y: Any) -> Any:
    """Integers are divided towards zero."""
    if isinstance(x, int):
        return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
    return x / y


def _remainder(call: Call) -> Any:
    """With fmod the sign is that of the dividend, else that of the divisor."""
    return _elements(math.fmod if call.attributes["fmod"] else lambda x, y: x % y)(call)


def _sign(x: Any) -> Any:
    return type(x)((x > 0) - (x < 0))


def _selu(x: float) -> float:
    alpha, gamma = 1.67326319217681884765625, 1.05070102214813232421875
    return gamma * (x if x > 0 else alpha * math.expm1(x))


def _erf_gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _round(x: float) -> float:
    return float(round(x))


_UNARY: dict[str, Callable[[Any], Any]] = {
    "Abs": abs,
    "Acos": math.acos,
    "Acosh": math.acosh,
    "Asin": math.asin,
    "Asinh": math.asinh,
    "Atan": math.atan,
    "Atanh": _atanh,
    "BitwiseNot": lambda x: ~x,
    "Ceil": lambda x: float(math.ceil(x)),
    "Celu": lambda x: x if x > 0 else math.expm1(x),
    "Cos": math.cos,
    "Cosh": math.cosh,
    "Elu": lambda x: x if x > 0 else math.expm1(x),
    "Erf": lambda x: math.erf(x) if isinstance(x, float) else int(math.erf(x)),
    "Exp": math.exp,
    "Floor": lambda x: float(math.floor(x)),
    "Gelu": _erf_gelu,
    "HardSigmoid": lambda x: max(0.0, min(1.0, 0.2 * x + 0.5)),
    "HardSwish": lambda x: x * max(0.0, min(1.0, x / 6 + 0.5)),
    "LeakyRelu": lambda x: x if x >= 0 else 0.01 * x,
    "Log": _log,
    "Mish": lambda x: x * math.tanh(_softplus(x)),
    "Neg": lambda x: -x,
    "Not": lambda x: not x,
    "Reciprocal": lambda x: 1 / x if x else math.inf,
    "Relu": lambda x: x if x > 0 else 0 * x,
    "Round": _round,
    "Selu": _selu,
    "Sigmoid": _sigmoid,
    "Sign": _sign,
    "Sin": math.sin,
    "Sinh": math.sinh,
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + abs(x)),
    "Sqrt": math.sqrt,
    "Swish": lambda x: x * _sigmoid(x),
    "Tan": math.tan,
    "Tanh": math.tanh,
    "ThresholdedRelu": lambda x: x if x > 1 else 0.0,
}

_SEVERAL: dict[str, Callable[..., Any]] = {
    "Add": lambda x, y: x + y,
    "And": lambda x, y: x and y,
    "BitwiseAnd": lambda x, y: x & y,
    "BitwiseOr": lambda x, y: x | y,
    "BitwiseXor": lambda x, y: x ^ y,
    "BitShift": lambda x, y: x << y,
    "Div": _quotient,
    "Equal": lambda x, y: x == y,
    "Greater": lambda x, y: x > y,
    "GreaterOrEqual": lambda x, y: x >= y,
    "Less": lambda x, y: x < y,
    "LessOrEqual": lambda x, y: x <= y,
    "Max": max,
    "Mean": lambda *xs: sum(xs) / len(xs),
    "Min": min,
    "Mul": lambda x, y: x * y,
    "Or": lambda x, y: x or y,
    "PRelu": lambda x, slope: x if x >= 0 else x * slope,
    "StringConcat": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
    "Sum": lambda *xs: sum(xs),
    "Xor": lambda x, y: x != y,
}

# --- reductions ----------------------------------------------------------------------------------


def _log_of(x: Any) -> float:
    return -math.inf if x == 0 else math.log(x) if x > 0 else math.nan


_REDUCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "ReduceL1": lambda xs: sum(abs(x) for x in xs),
    "ReduceLogSumExp": lambda xs: math.log(math.fsum(math.exp(x) for x in xs)),
    "ReduceMax": max,
    "ReduceMin": min,
    "ReduceProd": math.prod,
    "ReduceSum": sum,
    "ReduceSumSquare": lambda xs: sum(x * x for x in xs),
}

# What becomes of an integer whose result is a fraction is not written down: theirs are whole.
_FLOAT_REDUCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "ReduceL2": lambda xs: math.sqrt(math.fsum(x * x for x in xs)),
    "ReduceLogSum": lambda xs: _log_of(math.fsum(xs)),
    "ReduceMean": lambda xs: math.fsum(xs) / len(xs),
    "ReduceLogSumExp": _REDUCTIONS.pop("ReduceLogSumExp"),
}


def _reduced(compute: Callable[[list[Any]], Any], fractions: bool = False) -> Oracle:
    """All axes are reduced, and kept with the size 1; `fractions` is for those that go through floats."""

    def oracle(call: Call) -> Any:
        data = call.inputs[0]
        found = compute(wide(data).reshape(-1).tolist())
        if fractions and not is_float(data.dtype):
            found = round(found)
        return np.array([[found]], object if type(found) is int else None)

    return oracle


def _extreme(largest: bool) -> Oracle:
    """ArgMax and ArgMin along axis 0: the first of equals."""

    def oracle(call: Call) -> Array:
        rows = wide(call.inputs[0]).tolist()
        chosen = [(max if largest else min)(column) for column in zip(*rows, strict=True)]
        found = [column.index(x) for column, x in zip(zip(*rows, strict=True), chosen, strict=True)]
        return np.array([found], np.int64)

    return oracle


def _accumulated(combine: Callable[[Any, Any], Any]) -> Oracle:
    def oracle(call: Call) -> Array:
        rows = wide(call.inputs[0]).tolist()
        for row in rows:
            for i in range(1, len(row)):
                row[i] = combine(row[i - 1], row[i])
        return np.array(rows, object if type(rows[0][0]) is int else None)

    return oracle


# --- matrices and windows ------------------------------------------------------------------------


def _product(a: Any, b: Any) -> Any:
    """Matrix product from its definition, over numbers of any kind."""
    columns = list(zip(*b.tolist(), strict=True))
    made = [[sum(x * y for x, y in zip(row, col, strict=True)) for col in columns] for row in a.tolist()]
    return np.array(made, object if a.dtype == object else None)


def _matmul(call: Call) -> Any:
    return _product(*(wide(x) for x in call.inputs[:2]))


def _gemm(call: Call) -> Any:
    return _matmul(call) + wide(call.inputs[2])


def _matmul_integer(call: Call) -> Any:
    a, b, a_zero, b_zero = (wide(x) for x in call.inputs)
    return _product(np.asarray(a - a_zero, object), np.asarray(b - b_zero, object))


def _windows(image: Array, height: int, width: int) -> list[list[list[Any]]]:
    """Return the numbers of each window of a (1, 1, H, W) image, by row and column."""
    rows, columns = image.shape[2] - height + 1, image.shape[3] - width + 1
    return [
        [image[0, 0, i : i + height, j : j + width].reshape(-1).tolist() for j in range(columns)]
        for i in range(rows)
    ]


def _conv(call: Call) -> Array:
    image, weights, bias = (wide(x) for x in call.inputs)
    taps = weights.reshape(-1).tolist()
    made = [
        [math.fsum(x * w for x, w in zip(window, taps, strict=True)) + float(bias[0]) for window in row]
        for row in _windows(image, 2, 2)
    ]
    return np.array([[made]])


def _conv_transpose(call: Call) -> Array:
    image, weights, bias = (wide(x) for x in call.inputs)
    made = np.full((1, 1, 5, 5), float(bias[0]))
    for i, j in np.ndindex(4, 4):
        made[0, 0, i : i + 2, j : j + 2] += image[0, 0, i, j] * weights[0, 0]
    return made


def _conv_integer(call: Call) -> Array:
    image, weights, image_zero, weights_zero = (wide(x) for x in call.inputs)
    taps = np.asarray(weights - weights_zero, object).reshape(-1).tolist()
    shifted = np.asarray(image - image_zero, object)
    made = [
        [sum(x * w for x, w in zip(window, taps, strict=True)) for window in row]
        for row in _windows(shifted, 2, 2)
    ]
    return np.array([[made]], object)


def _pooled(compute: Callable[[list[Any]], Any]) -> Oracle:
    def oracle(call: Call) -> Array:
        image = wide(call.inputs[0])
        made = [[compute(window) for window in row] for row in _windows(image, 2, 2)]
        return np.array([[made]], object if image.dtype == object else None)

    return oracle


def _max_pool(call: Call) -> Any:
    values = _pooled(max)(call)
    if len(call.output_types) == 1:
        return values
    first = _pooled(lambda window: window.index(max(window)))(call)
    made = np.empty(values.shape, np.int64)
    for i, j in np.ndindex(3, 3):
        row, column = divmod(int(first[0, 0, i, j]), 2)
        made[0, 0, i, j] = (i + row) * 4 + j + column
    return values, made


def _global_pool(compute: Callable[[Array], Any]) -> Oracle:
    return lambda call: compute(wide(call.inputs[0]).reshape(1, 2, -1)).reshape(1, 2, 1, 1)


# --- along an axis -------------------------------------------------------------------------------


def _along_last(compute: Callable[[list[float]], list[float]]) -> Oracle:
    """On (2, 3) the last axis is axis 1, the default of all versions."""
    return lambda call: np.array([compute(row) for row in wide(call.inputs[0]).tolist()])


def _softmax(row: list[float]) -> list[float]:
    whole = math.fsum(math.exp(x) for x in row)
    return [math.exp(x) / whole for x in row]


def _log_softmax(row: list[float]) -> list[float]:
    whole = math.log(math.fsum(math.exp(x) for x in row))
    return [x - whole for x in row]


def _hardmax(row: list[float]) -> list[float]:
    return [float(i == row.index(max(row))) for i in range(len(row))]


def _top_k(call: Call) -> Any:
    rows = wide(call.inputs[0]).tolist()
    found = [sorted(range(3), key=[-x for x in row].__getitem__)[:2] for row in rows]
    values = [[row[i] for i in chosen] for row, chosen in zip(rows, found, strict=True)]
    return np.array(values, object if type(values[0][0]) is int else None), np.array(found, np.int64)


# --- normalization, windows ----------------------------------------------------------------------


def _batch_normalization(call: Call) -> Any:
    """In training mode the statistics are those of the batch, and the running ones move by a tenth."""
    x, scale, bias, mean, variance = (wide(value) for value in call.inputs)
    training = call.schema.since_version >= 14
    by_mean, by_variance = (x.mean((0, 2)), x.var((0, 2))) if training else (mean, variance)
    scaled, by, of = (part[None, :, None] for part in (scale, by_variance, by_mean))
    made = (x - of) / np.sqrt(by + 1e-5) * scaled + bias[None, :, None]
    if not training:
        return made
    return made, 0.9 * mean + 0.1 * by_mean, 0.9 * variance + 0.1 * by_variance


def _instance_normalization(call: Call) -> Any:
    x, scale, bias = (wide(value) for value in call.inputs)
    centred = x - x.mean(2, keepdims=True)
    return centred / np.sqrt(x.var(2, keepdims=True) + 1e-5) * scale[None, :, None] + bias[None, :, None]


def _unit(row: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in row))
    return [x / length for x in row]


def _window(*weights: float) -> Oracle:
    """A periodic window of four points: a sum of cosines."""

    def oracle(call: Call) -> Any:
        turns = [2 * math.pi * n / 4 for n in range(4)]
        made = [math.fsum(w * math.cos(k * t) for k, w in enumerate(weights)) for t in turns]
        if is_float(dtype_of(call.output_types[0])):
            return np.array(made)
        # The function body ends with a Cast, which cuts off; its peak is exactly 1.
        return np.array([int(x + 1e-9) for x in made], object)

    return oracle


def _shrink(x: Any) -> Any:
    """Lambda is 0.5 and the bias 0."""
    return x if abs(x) > 0.5 else 0 * x


# --- types ---------------------------------------------------------------------------------------


def _cast(call: Call) -> Any:
    source, target = call.inputs[0], dtype_of(call.output_types[0])
    if target.kind == "O":
        made = source if source.dtype.kind == "O" else [str(int(x)) for x in wide(source).tolist()]
        return np.array(made, object)
    numbers = [float(x) if source.dtype.kind == "O" else x for x in wide(source).tolist()]
    if target.kind == "b":
        return np.array([x != 0 for x in numbers])
    if not is_float(target):
        return narrow(np.array([int(x) for x in numbers], object), target)
    if target.name == "float8_e8m0fnu":
        return np.array([2.0 ** math.ceil(math.log2(x)) for x in numbers])
    return _saturated_float(np.array(numbers, np.float64), target)


def _saturated_float(numbers: Array, target: np.dtype[Any]) -> Array:
    """Types of 8 bits and fewer end at their largest number; a NaN stays one."""
    if target.itemsize > 1:
        return numbers
    largest = float(ml_dtypes.finfo(target).max)  # type: ignore[no-untyped-call]
    made = np.clip(numbers, -largest, largest)
    # What has no second zero has no negative one.
    return np.where(made == 0, 0.0, made) if target.name.endswith("fnuz") else made


def _clip(call: Call) -> Any:
    if len(call.inputs) == 1:
        return call.inputs[0]
    low, high = (wide(x)[()] for x in call.inputs[1:])
    return _elements(lambda x, *_: min(max(x, low), high))(call)


def _quantize(call: Call) -> Any:
    x, scale, zero = (wide(value).astype(np.float64) for value in call.inputs)
    return _quantized(x / scale, float(zero), dtype_of(call.output_types[0]))


def _quantized(numbers: Array, zero: float, target: np.dtype[Any]) -> Array:
    """Integers are rounded to even before the zero point is added, floats have no zero point."""
    if is_float(target):
        return _saturated_float(numbers, target)
    return saturated(np.array([round(x) for x in numbers.reshape(-1)]).reshape(numbers.shape) + zero, target)


def saturated(numbers: Array, target: np.dtype[Any]) -> Array:
    """Return the nearest whole numbers that an integer type holds."""
    low, high = _limits(target)
    found = [min(max(round(x), low), high) for x in numbers.reshape(-1).tolist()]
    return np.array(found, object).reshape(numbers.shape)


def _quantized_matmul(call: Call) -> Any:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (wide(v).astype(float) for v in call.inputs)
    real = _product(a - a_zero, b - b_zero) * a_scale * b_scale / y_scale
    return _quantized(real, float(y_zero), dtype_of(call.output_types[0]))


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the smallest and largest integer of a type, by its name."""
    signed = not dtype.name.startswith("u")
    bits = int(dtype.name.removeprefix("u").removeprefix("int"))
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _dequantize(call: Call) -> Any:
    x, scale, zero = (wide(value).astype(np.float64) for value in call.inputs)
    return (x - zero) * scale


def _dynamic_quantize(call: Call) -> tuple[Any, ...]:
    x = wide(call.inputs[0])
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255
    zero = round(-low / scale)
    return _quantized(x / scale, zero, np.dtype(np.uint8)), scale, np.array(zero, object)


def _is_special(call: Call) -> Array:
    return np.zeros((2, 3), np.bool_)


def _range(call: Call) -> Array:
    return np.array([1, 3], object)


def _det(call: Call) -> Array:
    (a, b), (c, d) = wide(call.inputs[0]).tolist()
    return np.asarray(a * d - b * c)


ORACLES: dict[tuple[str, str], Oracle] = {
    ("", name): oracle
    for name, oracle in {
        **{name: _guarded(compute) for name, compute in _UNARY.items()},
        **{name: _elements(compute) for name, compute in _SEVERAL.items()},
        **{name: _reduced(compute) for name, compute in _REDUCTIONS.items()},
        **{name: _reduced(compute, fractions=True) for name, compute in _FLOAT_REDUCTIONS.items()},
        "ArgMax": _extreme(True),
        "ArgMin": _extreme(False),
        "AveragePool": _pooled(lambda window: math.fsum(window) / 4),
        "Cast": _cast,
        "CastLike": _cast,
        "Clip": _clip,
        "Conv": _conv,
        "ConvInteger": _conv_integer,
        "ConvTranspose": _conv_transpose,
        "CumProd": _accumulated(lambda x, y: x * y),
        "CumSum": _accumulated(lambda x, y: x + y),
        "DequantizeLinear": _dequantize,
        "DynamicQuantizeLinear": _dynamic_quantize,
        "Det": _det,
        "Einsum": _matmul,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_pool(lambda x: x.mean(2)),
        "GlobalMaxPool": _global_pool(lambda x: x.max(2)),
        "GlobalLpPool": _global_pool(lambda x: np.sqrt((x * x).sum(2))),
        "Hardmax": _along_last(_hardmax),
        "IsInf": _is_special,
        "IsNaN": _is_special,
        "LogSoftmax": _along_last(_log_softmax),
        "LpPool": _pooled(lambda window: math.sqrt(math.fsum(x * x for x in window))),
        "MatMul": _matmul,
        "MatMulInteger": _matmul_integer,
        "MaxPool": _max_pool,
        "Mod": _remainder,
        "BatchNormalization": _batch_normalization,
        "BlackmanWindow": _window(0.42, -0.5, 0.08),
        "HammingWindow": _window(25 / 46, -21 / 46),
        "HannWindow": _window(0.5, -0.5),
        "InstanceNormalization": _instance_normalization,
        "LpNormalization": _along_last(_unit),
        "QLinearMatMul": _quantized_matmul,
        "Shrink": _elements(_shrink),
        "Pow": _elements(lambda x, y: x ** int(y)),
        "QuantizeLinear": _quantize,
        "Range": _range,
        "Softmax": _along_last(_softmax),
        "TopK": _top_k,
    }.items()
}
