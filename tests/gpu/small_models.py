"""Small models that use the kernels which no official case uses: large axes, integers, trained models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.parser
from node_models import feeds, make_node, node_model, type_of

import onnxref
from onnxref.dtypes import Array
from onnxref.registry import MICROSOFT, ML

from .suite import assert_close

_OPSETS = {"": 24, ML: 5, MICROSOFT: 1}


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A model and what to feed it.

    Attributes:
        computed_in: a type that its results are computed in, where that is narrower than they are.
    """

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, Array] = field(compare=False)
    computed_in: str = ""

    def check(self) -> None:
        """Assert that the backend "cupy" agrees with the reference."""
        expected = self.run("numpy")
        for output, value in self.run("cupy").items():
            assert_close(value, expected[output], f"{self.name}, output {output}", self.computed_in)

    def run(self, backend: str) -> dict[str, Any]:
        session = onnxref.InferenceSession(self.model, backend=backend)
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(None, dict(self.feeds)), strict=True))


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield name and function of every model."""
    for model in small_models():
        yield model.name, model.check


def small_models() -> Iterator[SmallModel]:
    """Yield the models, each with a name of its own."""
    for kind in (
        _attention,
        _long_rows,
        _few_rows,
        _indices,
        _integers,
        _quantized,
        _few_bits,
        _recurrent,
        _channels,
        _boxes,
        _features,
        _trained,
        _outputs,
    ):
        yield from kind()


def _outputs() -> Iterator[SmallModel]:
    """Runs that copy several outputs, in launches for few, more and many tensors."""
    for count in (2, 5, 29):
        yield _node(f"{count} outputs", "Split", [_normal(3 * count)], outputs=count, num_outputs=count)


def _node(
    name: str,
    op_type: str,
    inputs: Sequence[Array | None],
    *,
    constants: Sequence[int] = (),
    outputs: int = 1,
    domain: str = "",
    **attributes: Any,
) -> SmallModel:
    """Return a model of one node; `constants` are the indices of inputs that are initializers."""
    node = make_node(op_type, inputs, outputs, attributes, domain)
    fed = feeds([None if i in constants else value for i, value in enumerate(inputs)])
    types = {key: type_of(value) for key, value in fed.items()}
    model = node_model(node, {domain: _OPSETS[domain]}, types)
    for i in constants:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(inputs[i]), f"i{i}"))
    return SmallModel(name, model, fed)


def _text(name: str, text: str, x: Array) -> SmallModel:
    """Return the model of a graph in ONNX's text, whose only input is x."""
    opset = f'<ir_version: 10, opset_import: ["" : {_OPSETS[""]}]>'
    return SmallModel(name, onnx.parser.parse_model(opset + text), {"x": x})


def _normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def _bytes(*shape: int, dtype: Any = np.int8, seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def _floats(count: int, seed: int = 1) -> list[float]:
    return list(map(float, _normal(count, seed=seed)))


# --- kinds ---------------------------------------------------------------------------------------


def _attention() -> Iterator[SmallModel]:
    for dtype in (np.float32, np.float16, np.float64):
        make = partial(_normal, dtype=dtype)
        kind = np.dtype(dtype).name
        few, q, k = make(1, 1, 1, 16), make(1, 2, 20, 16), make(1, 1, 24, 16, seed=1)
        cache, mask = make(1, 1, 600, 16, seed=2), _normal(20, 24, seed=3) > -1
        yield _node(f"Attention {kind} of many queries", "Attention", [q, k, k], softcap=2.0)
        yield _node(f"Attention {kind} with a mask", "Attention", [q, k, k, mask], softcap=2.0)
        yield _node(f"Attention {kind} of a long cache", "Attention", [few, cache, cache])
    wide = _normal(1, 1, 9, 520)
    yield _node("Attention of large heads", "Attention", [wide, wide, wide])
    yield _node("Attention of large heads in float64", "Attention", [wide.astype("f8")] * 3)


def _long_rows() -> Iterator[SmallModel]:
    x = _normal(2, 33000)
    for dtype in (np.float32, np.float16, np.float64):
        kind = np.dtype(dtype).name
        row = x.astype(dtype)
        factors = np.ones(33000, dtype)
        yield _node(f"Softmax {kind} of long rows", "Softmax", [row])
        norm = _node(f"LayerNormalization {kind} of long rows", "LayerNormalization", [row, factors])
        yield replace(norm, computed_in="float32") if dtype is np.float64 else norm
        yield _node(f"CumSum {kind} of long rows", "CumSum", [row, np.array(1)], constants=[1])
    yield _node("RMSNormalization of long rows", "RMSNormalization", [x, np.ones(33000, "f4")])
    many = {"constants": [1], "outputs": 2}
    for dtype in ("f4", "f2", "i8"):
        row = (100 * _normal(1, 9000)).astype(dtype)
        yield _node(f"TopK {row.dtype}, half of a long row", "TopK", [row, np.array([4500])], **many)
        yield _node(f"TopK {row.dtype}, few of a long row", "TopK", [row, np.array([9])], **many)
    yield _node("DynamicQuantizeLinear of many", "DynamicQuantizeLinear", [_normal(17000)], outputs=3)
    yield _node("MatMul of one long row", "MatMul", [_normal(1, 3100), _normal(3100, 24, seed=1)])
    yield _node("Transpose of bytes", "Transpose", [_bytes(40, 36)], perm=[1, 0])
    yield _node("Transpose of floats", "Transpose", [_normal(2, 40, 36)], perm=[0, 2, 1])


def _few_rows() -> Iterator[SmallModel]:
    """Products that normalise their rows, with a matrix that lies either way."""
    scales = ", ".join(map(str, _floats(40, 2)))
    for transposed, shape in enumerate(((40, 9), (7, 40))):
        weights = f"float[{shape[0]}, {shape[1]}] w = {{{', '.join(map(str, _floats(math.prod(shape))))}}}"
        yield _text(
            f"a product of normalised rows, transB = {transposed}",
            f"""g (float[2, 40] x) => (y) <float[40] s = {{{scales}}}, {weights}> {{
                n = RMSNormalization(x, s) y = Gemm<transB = {transposed}>(n, w) }}""",
            _normal(2, 40),
        )


def _indices() -> Iterator[SmallModel]:
    data, updates = _normal(90, 3), _normal(80, 3, seed=1)
    places = np.random.default_rng(2).integers(0, 90, (80, 1))
    yield _node("ScatterND with places that may meet", "ScatterND", [data, places, updates])
    pair = np.array([2, 7], np.float32)
    for dtype in ("i8", "i4", "f4"):
        inputs = [np.array([[1, -2, 9]], dtype), np.array(4), pair]
        yield _node(f"OneHot of {np.dtype(dtype)}", "OneHot", inputs, constants=[1])


def _integers() -> Iterator[SmallModel]:
    zeros = [np.array(7, np.uint8), np.array(-3, np.int8)]
    a, b = _bytes(33, 40, dtype=np.uint8), _bytes(40, 70)
    large = [_bytes(64, 32768, dtype=np.uint8), _bytes(32768, 64)]
    unsigned = [_bytes(9, 16), _bytes(16, 24, dtype=np.uint8)]
    yield _node("MatMulInteger", "MatMulInteger", [a, b, *zeros])
    yield _node("MatMulInteger by a constant", "MatMulInteger", [a, b, *zeros], constants=[1, 2, 3])
    yield _node("MatMulInteger, unsigned weights", "MatMulInteger", unsigned, constants=[1])
    yield _node("MatMulInteger, large", "MatMulInteger", [*large, *zeros], constants=[1, 2, 3])
    yield _node("MatMulInteger, two rows", "MatMulInteger", [a[:2], b, *zeros])


_WEIGHTS = ", ".join(map(str, _bytes(24, seed=5).tolist()))


def _quantized() -> Iterator[SmallModel]:
    for rows in (1, 70):
        yield _text(
            f"a product quantized on its way, {rows} rows",
            f"""g (float[{rows}, 6] x) => (y)
            <int8[6, 4] w = {{{_WEIGHTS}}}, int8 z = {{0}}, float t = {{0.02}}, float[4] b = {{1, 2, 3, 4}}>
            {{
                q, s, o = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, o, z) f = Cast<to = 1>(i)
                m = Mul(s, t) n = Mul(f, m) y = Add(n, b) }}""",
            _normal(rows, 6),
        )
    for kind, zero in (("uint8", 100), ("int8", 3)):
        constants = f"<float s = {{0.05}}, {kind} o = {{{zero}}}, float t = {{0.02}}, float u = {{0.5}}>"
        # Multiples of the scales, so that no sum lies on a half.
        x = np.float32(0.05) * np.random.default_rng(3).integers(-40, 40, (2, 5, 4, 6)).astype(np.float32)
        quantize = "q = QuantizeLinear(x, s, o) a = DequantizeLinear(q, s, o)"
        yield _text(
            f"a quantized sum in {kind}",
            f"""g (float[2, 5, 4, 6] x) => (y) {constants} {{ {quantize}
                v = Mul(x, u) p = QuantizeLinear(v, t, o) b = DequantizeLinear(p, t, o)
                c = Add(a, b) d = Relu(c) r = QuantizeLinear(d, s, o) y = DequantizeLinear(r, s, o) }}""",
            x,
        )
        if kind == "uint8":
            yield _text(
                "a quantized mean",
                f"""g (float[2, 5, 4, 6] x) => (y) {constants} {{ {quantize}
                    c = GlobalAveragePool(a) r = QuantizeLinear(c, t, o) y = DequantizeLinear(r, t, o) }}""",
                x,
            )


def _few_bits() -> Iterator[SmallModel]:
    """Packed weights, for few rows and for many."""
    sizes = ((2, 2, np.float16), (4, 1, np.float16), (4, 4, np.float16), (8, 2, np.float32))
    for bits, rows, dtype in (*sizes, *((bits, 20, np.float16) for bits in (2, 4, 8)), (4, 20, np.float32)):
        packed, scales = _bytes(9, 3, 4 * bits, dtype=np.uint8), _normal(9, 3, seed=1).astype(dtype)
        zero = _bytes(9, -(-3 * bits // 8), dtype=np.uint8) if rows < 20 else scales
        yield _node(
            *(f"MatMulNBits {np.dtype(dtype)}, {rows} rows, {bits} bits", "MatMulNBits"),
            [_normal(rows, 72, dtype=dtype), packed, scales, zero],
            constants=[1, 2, 3],
            domain=MICROSOFT,
            K=72,
            N=9,
            bits=bits,
            block_size=32,
        )


def _recurrent() -> Iterator[SmallModel]:
    """float64 and large layers, which go step by step; sequences that share a product; several states."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}
    sizes = ((np.float64, 2, 8), (np.float64, 17, 8), (np.float32, 2, 520), (np.float16, 2, 520))
    for dtype, batch, hidden in sizes:
        make = partial(_normal, dtype=dtype)
        for op_type, count in gates.items():
            scale = dtype(hidden**-0.5)
            x, w = make(3, batch, 5), make(1, count * hidden, 5, seed=1)
            r = scale * make(1, count * hidden, hidden, seed=2)
            name = f"{op_type} {np.dtype(dtype)}, {batch} sequences, {hidden} states"
            yield _node(name, op_type, [x, w, r], outputs=2, hidden_size=hidden)


def _channels() -> Iterator[SmallModel]:
    """Tensors that lie in each other: pixels with gaps, for every kernel that takes them."""
    text = """
        g (float[2, 8, 4, 6] x) => (y) <
            int64[4] wide = {16, 8, 1, 1}, int64[4] window = {8, 1, 3, 3}, int64[4] all = {8, 44, 3, 3},
            int64[2] halves = {8, 8}, float[4] twice = {1.0, 1.0, 2.0, 2.0},
            int64[1] first = {0}, int64[1] half = {4}, int64[1] one = {1}
        > {
            w = ConstantOfShape <value = float[1] {0.1}> (wide)
            d = ConstantOfShape <value = float[1] {0.2}> (window)
            v = ConstantOfShape <value = float[1] {0.3}> (all)
            a = Conv(x, w)
            b, c = Split <axis = 1> (a, halves)
            e = Conv <group = 8, pads = [1, 1, 1, 1]> (c, d)
            f = Sigmoid(e)
            h = Add(b, f)
            i = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (h)
            s = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (i)
            j = Resize <mode = "nearest"> (s, , twice)
            k = Slice(h, first, half, one)
            l = Tanh(k)
            m = Concat <axis = 1> (b, c, f, i, j, l)
            y = Conv <pads = [1, 1, 1, 1]> (m, v)
        }"""
    yield _text("tensors in tensors", text, _normal(2, 8, 4, 6))


def _boxes() -> Iterator[SmallModel]:
    boxes, scores = _normal(1, 4200, 4), _normal(1, 2, 4200, seed=1)
    rule = [np.array(20), np.array([0.3], "f4")]
    yield _node("NonMaxSuppression of many", "NonMaxSuppression", [boxes, scores, *rule], constants=[2])


def _features() -> Iterator[SmallModel]:
    make = partial(_node, domain=ML)
    x, whole = _normal(9, 5), np.array([[3, 1, 8], [5, 3, 3]])
    x[2, 3] = np.nan
    yield make("Imputer", "Imputer", [x], imputed_value_floats=_floats(5), replaced_value_float=np.nan)
    yield make("Scaler", "Scaler", [x], offset=_floats(5), scale=_floats(5, seed=2))
    yield make("Normalizer", "Normalizer", [_normal(9, 5)], norm="L2")
    yield make("FeatureVectorizer", "FeatureVectorizer", [_normal(9, 2), _normal(9, 3)])
    labels = {"keys_int64s": [3, 5, 1], "values_floats": [0.5, 2.0, 7.0]}
    yield make("LabelEncoder of integers", "LabelEncoder", [whole], **labels, default_float=-1.0)
    keys = {"keys_floats": [3.0, 5.0], "values_int64s": [7, 8], "default_int64": -1}
    yield make("LabelEncoder of floats", "LabelEncoder", [whole.astype("f4")], **keys)
    yield make("OneHotEncoder", "OneHotEncoder", [whole], cats_int64s=[1, 3, 5])


def _trained() -> Iterator[SmallModel]:
    make = partial(_node, domain=ML)
    x = _normal(11, 4)
    for inputs in (x, x.astype("f8"), (9 * x).astype("i8")):
        regressor = {"coefficients": _floats(12), "intercepts": _floats(3), "targets": 3}
        yield make(f"LinearRegressor {inputs.dtype}", "LinearRegressor", [inputs], **regressor)
    classes = {"coefficients": _floats(12), "classlabels_ints": [4, 2, 9], "post_transform": "SOFTMAX"}
    yield make("LinearClassifier", "LinearClassifier", [x], outputs=2, **classes)
    for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID"):
        vectors = {"kernel_type": kernel, "kernel_params": [0.5, 0.25, 3.0], "support_vectors": _floats(24)}
        yield make(
            *(f"SVMRegressor {kernel}", "SVMRegressor", [x]),
            **vectors,
            coefficients=_floats(6),
            n_supports=6,
            rho=[0.5],
            one_class=int(kernel == "POLY"),
        )
        yield make(
            *(f"SVMClassifier {kernel}", "SVMClassifier", [x]),
            outputs=2,
            **vectors,
            coefficients=_floats(12),
            vectors_per_class=[1, 3, 2],
            rho=_floats(3),
            classlabels_ints=[4, 2, 9],
            **({"prob_a": _floats(3), "prob_b": _floats(3)} if kernel == "RBF" else {}),
        )
