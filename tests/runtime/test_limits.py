"""A model of a few bytes that asks for too much is stopped before anything is allocated for it."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxref
from onnxref import DEFAULT, TRUSTED, UNTRUSTED, InferenceSession, Limits, ResourceLimitError

HEAD = '<ir_version: 10, opset_import: ["": {opset}, "ai.onnx.ml": 3]>\n'
MIB = 2**20
TRUE = "t = Constant<value = bool {1}>() "


def _session(
    body: str, limits: Limits | None = None, *, inputs: str = "", outputs: str = "y", opset: int = 22
) -> InferenceSession:
    names = ", ".join(f"float {name}" for name in outputs.split())
    model = onnx.parser.parse_model(f"{HEAD.format(opset=opset)}g ({inputs}) => ({names}) {{ {body} }}")
    for value in model.graph.output:
        value.ClearField("type")
    # As written: constants that are folded while planning would leave the run nothing to account for.
    return InferenceSession(model, limits=limits, optimize="none")


def _ints(name: str, *values: int) -> str:
    return f"{name} = Constant<value_ints = {list(values)}>() "


def _zeros(name: str, *shape: int) -> str:
    return _ints(f"{name}_shape", *shape) + f"{name} = ConstantOfShape({name}_shape) "


def _refused(session: InferenceSession, feeds: Any = None, *, peak_bytes: int = 8 * MIB) -> str:
    """Return the message of the refusal, which must come soon and without much memory."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(ResourceLimitError) as caught:
            session.run(None, feeds)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < peak_bytes
    assert time.monotonic() - started < 5  # far more than it takes; a hang would be for ever
    return str(caught.value)


# What asks for too much, and the output type of each is float; 2**40 elements are 4 TiB.
HUGE = 2**40
ONE_LARGE_VALUE: list[tuple[str, str]] = [
    ("ConstantOfShape", _ints("s", HUGE) + "y = ConstantOfShape(s)"),
    ("ConstantOfShape", _ints("s", 2**62, 2**62, 2**62) + "y = ConstantOfShape(s)"),
    ("Expand", _zeros("x", 1) + _ints("s", 2**20, 2**20) + "y = Expand(x, s)"),
    ("Tile", _zeros("x", 1) + _ints("s", HUGE) + "y = Tile(x, s)"),
    (
        "Range",
        "a = Constant<value_float = 0.0>() b = Constant<value_float = 1e30>() "
        "c = Constant<value_float = 1.0>() y = Range(a, b, c)",
    ),
    (
        "Range",
        "a = Constant<value_int = 0>() b = Constant<value_int = 9223372036854775807>() "
        "c = Constant<value_int = 1>() y = Range(a, b, c)",
    ),
    ("Pad", _zeros("x", 1) + _ints("s", HUGE, HUGE) + "y = Pad(x, s)"),
    (
        "OneHot",
        _zeros("x", 2**10) + f"d = Constant<value_int = {HUGE}>() "
        "v = Constant<value_floats = [0.0, 1.0]>() y = OneHot(x, d, v)",
    ),
    (
        "Resize",
        _zeros("x", 1, 1, 1, 1) + _ints("s", 1, 1, 2**20, 2**20) + 'y = Resize(x, "", "", s)',
    ),
    (
        "Resize",
        _zeros("x", 1, 1, 1, 1) + 's = Constant<value_floats = [1.0, 1.0, 1e9, 1e9]>() y = Resize(x, "", s)',
    ),
    ("RandomNormal", f"y = RandomNormal<shape = [{HUGE}]>()"),
    ("RandomUniform", f"y = RandomUniform<shape = [{HUGE}]>()"),
    ("MatMul", _zeros("a", 2**18, 1) + _zeros("b", 1, 2**18) + "y = MatMul(a, b)"),
    ("Gemm", _zeros("a", 2**18, 1) + _zeros("b", 1, 2**18) + "y = Gemm(a, b)"),
    ("Einsum", _zeros("a", 2**18) + 'y = Einsum<equation = "i,j->ij">(a, a)'),
    ("Add", _zeros("a", 2**18, 1) + _zeros("b", 1, 2**18) + "y = Add(a, b)"),
    ("Where", TRUE + _zeros("a", 2**18, 1) + _zeros("b", 1, 2**18) + "y = Where(t, a, b)"),
    ("Sum", _zeros("a", 2**18, 1) + _zeros("b", 1, 2**18) + "y = Sum(a, b)"),
    (
        "Conv",
        _zeros("x", 1, 1, 1, 1)
        + _zeros("w", 1, 1, 1, 1)
        + f"y = Conv<pads = [{2**20}, {2**20}, {2**20}, {2**20}]>(x, w)",
    ),
    (
        "ConvTranspose",
        _zeros("x", 1, 1, 2, 2)
        + _zeros("w", 1, 1, 1, 1)
        + f"y = ConvTranspose<strides = [{2**20}, {2**20}]>(x, w)",
    ),
    (
        "AveragePool",
        _zeros("x", 1, 1, 1, 1) + f"y = AveragePool<kernel_shape = [{2**20}, {2**20}], "
        f"pads = [{2**20}, {2**20}, {2**20}, {2**20}]>(x)",
    ),
    (
        "Gather",
        _zeros("x", 1, 2**18)
        + _ints("s", 2**18)
        + "i = ConstantOfShape<value = int64[1] {0}>(s) y = Gather(x, i)",
    ),
    ("CenterCropPad", _zeros("x", 1) + _ints("s", HUGE) + "y = CenterCropPad(x, s)"),
    ("HannWindow", f"n = Constant<value_int = {HUGE}>() y = HannWindow(n)"),
    (
        "Upsample",
        "x = Constant<value = float[1, 1, 1, 1] {0}>() s = Constant<value = float[4] {1, 1, 1e9, 1e9}>() "
        "y = Upsample(x, s)",
    ),
]


@pytest.mark.parametrize("limits", [DEFAULT, UNTRUSTED], ids=["default", "untrusted"])
@pytest.mark.parametrize(
    ("op_type", "body"), ONE_LARGE_VALUE, ids=[f"{i}-{row[0]}" for i, row in enumerate(ONE_LARGE_VALUE)]
)
def test_one_large_value(op_type: str, body: str, limits: Limits) -> None:
    opset = 9 if op_type == "Upsample" else 22
    message = _refused(_session(body, limits, opset=opset))
    assert message.startswith(f"limit 'tensor_bytes' is {limits.tensor_bytes:,}: output would need ")
    assert message.endswith(f"({op_type}, opset {opset}))")


def test_message_names_limit_need_and_node() -> None:
    model = onnx.parser.parse_model(
        HEAD.format(opset=22) + "g (int64[N] s) => (float[N] y) { y = ConstantOfShape(s) }"
    )
    model.graph.node[0].name = "fill"
    session = InferenceSession(model, limits=Limits(tensor_bytes=1000))
    assert _refused(session, np.int64([251])) == (
        "limit 'tensor_bytes' is 1,000: output would need 1,004 (node 'fill' (ConstantOfShape, opset 22))"
    )
    assert session.run(None, np.int64([250]))[0].nbytes == 1000, "the session works on"


def test_eye_is_as_large_as_its_input() -> None:
    session = _session(_zeros("x", 100, 100) + "y = EyeLike(x)", Limits(tensor_bytes=40_000))
    assert session.run(None, None)[0].trace() == 100
    # Made of one byte each, EyeLike's output is eight times as large as its input.
    body = _ints("s", 100, 100) + "x = ConstantOfShape<value = uint8[1] {0}>(s) y = EyeLike<dtype = 11>(x)"
    assert "'tensor_bytes' is 40,000" in _refused(_session(body, Limits(tensor_bytes=40_000)))


def _loop(inner: str, *, state: str = "", carry: str = "", scans: str = "") -> str:
    """Return a loop whose condition is always true, around the nodes of `inner`.

    `state` makes the value `x`, carried as `v` into an iteration and as `w` out of it, of type `carry`.
    """
    init, before, after = (", x", f", {carry} v", f", {carry} w") if carry else ("", "", "")
    return (
        f"n = Constant<value_int = {2**62}>() {TRUE}{state}"
        f"y = Loop(n, t{init}) <body = b (int64 i, bool c{before}) => (bool c2{after}{scans}) "
        f"{{ c2 = Identity(c) {inner} }}>"
    )


NEGATING = _loop("w = Neg(v)", state=_zeros("x", 2), carry="float[N]")
ENDLESS = {
    "with a body": NEGATING,
    "without a trip count": NEGATING.replace("Loop(n,", 'Loop("",'),
    "nested": _loop(
        f"m = Constant<value_int = {2**62}>() "
        "w = Loop(m, c, v) <body = d (int64 j, bool e, float[N] p) => (bool e2, float[N] q) "
        "{ e2 = Identity(e) q = Neg(p) }>",
        state=_zeros("x", 2),
        carry="float[N]",
    ),
}


@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS.keys())
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(executed_nodes=1000), "limit 'executed_nodes' is 1,000: nodes would need 1,001"),
        (Limits(seconds=0.2), "limit 'seconds' is 0.2: the run took longer"),
    ],
    ids=["executed_nodes", "seconds"],
)
def test_endless_loops(body: str, limits: Limits, message: str) -> None:
    found = _refused(_session(body, limits))
    assert found.startswith(message)
    assert " (node " in found


def _range(name: str, size: int) -> str:
    return (
        f"{name}0 = Constant<value_int = 0>() {name}1 = Constant<value_int = {size}>() "
        f"{name}2 = Constant<value_int = 1>() {name} = Range({name}0, {name}1, {name}2) "
    )


# Each would take a minute or much more, in one node.
SLOW = {
    "NonMaxSuppression": _ints("b_shape", 1, 1, 4)
    + _range("r", 2**16)
    + _ints("col", 1, 2**16, 1)
    + "rf = Cast<to = 1>(r) rc = Reshape(rf, col) one = Constant<value = float[1] {1}>() two = Add(rc, one) "
    + "bs = Concat<axis = 2>(rc, rc, two, two) "
    + _ints("row", 1, 1, 2**16)
    + f"s = Reshape(rf, row) m = Constant<value_int = {2**40}>() y = NonMaxSuppression(bs, s, m)",
    "LSTM": _zeros("x", 2**22, 1, 1) + _zeros("w", 1, 4, 1) + "y = LSTM<hidden_size = 1>(x, w, w)",
    "GRU": _zeros("x", 2**22, 1, 1) + _zeros("w", 1, 3, 1) + "y = GRU<hidden_size = 1>(x, w, w)",
    "TfIdfVectorizer": _range("x", 10**6)
    + 'y = TfIdfVectorizer<mode = "TF", max_gram_length = 2, min_gram_length = 2, max_skip_count = 1000000, '
    "ngram_counts = [0, 0], ngram_indexes = [0], pool_int64s = [1, 2]>(x)",
    "Conv": _zeros("x", 1, 64, 1024, 1024) + _zeros("w", 64, 64, 31, 31) + "y = Conv(x, w)",
}


@pytest.mark.parametrize("body", SLOW.values(), ids=SLOW.keys())
def test_long_kernels_look_at_the_clock(body: str) -> None:
    session = _session(body, Limits(seconds=0.2))
    assert "'seconds' is 0.2" in _refused(session, peak_bytes=1024 * MIB)


def test_text_is_counted_no_further_than_the_limit() -> None:
    body = f'a = Constant<value_string = "{"a" * 1000}">() ' + _ints("s", 2**24) + "y = Expand(a, s)"
    message = _refused(_session(body, Limits(string_bytes=10**6)), peak_bytes=160 * MIB)
    assert "'string_bytes' is 1,000,000" in message


def test_scratch_of_indices_is_charged() -> None:
    reverse = (
        _zeros("x", 2, 2**20)
        + _range("n", 1)
        + _ints("s", 2**20)
        + "l = Expand(n, s) y = ReverseSequence(x, l)"
    )
    compress = _ints("s", 2**22) + "x = ConstantOfShape<value = bool[1] {1}>(s) y = Compress(x, x)"
    assert "(ReverseSequence" in _refused(
        _session(reverse, Limits(tensor_bytes=20 * MIB)), peak_bytes=32 * MIB
    )
    assert "(Compress" in _refused(_session(compress, Limits(tensor_bytes=16 * MIB)), peak_bytes=32 * MIB)


@pytest.mark.parametrize(
    "node",
    ["Erf(x)", "Gelu(x)", "Unique(x)", "LRN<size = 5>(x)", "LayerNormalization(x, one)"],
)
def test_scratch_is_charged(node: str) -> None:
    """Of a tensor that fits, the temporaries do not."""
    body = _zeros("x", 1, 2**20, 1) + f"one = Constant<value = float[1] {{1}}>() y = {node}"
    message = _refused(_session(body, Limits(tensor_bytes=12 * MIB)), peak_bytes=6 * MIB)
    assert f"({node.partition('(')[0].partition('<')[0]}" in message


@pytest.mark.parametrize(("rows", "columns"), [(2**16, 1), (2**6, 2**10)])
def test_maps_are_charged(rows: int, columns: int) -> None:
    """Each row becomes a map, many times as large as its numbers."""
    labels = onnx.helper.make_attribute("classlabels_int64s", range(columns))
    session = _zeros("x", rows, columns) + "y = ai.onnx.ml.ZipMap<classlabels_int64s = [0]>(x)"
    model = onnx.parser.parse_model(f"{HEAD.format(opset=22)}g () => (float y) {{ {session} }}")
    model.graph.output[0].ClearField("type")
    model.graph.node[-1].attribute[0].CopyFrom(labels)
    limited = InferenceSession(model, limits=Limits(tensor_bytes=4 * MIB), optimize="none")
    assert "(ai.onnx.ml:ZipMap" in _refused(limited, peak_bytes=MIB)
    assert len(InferenceSession(model, optimize="none").run(None)[0]) == rows


def test_errors_do_not_quote_a_whole_model() -> None:
    perm = list(range(100_000))
    with pytest.raises(onnxref.NodeError, match="perm must be a permutation") as caught:
        _session(_zeros("x", 1, 1) + f"y = Transpose<perm = {perm}>(x)").run(None)
    assert len(str(caught.value)) < 2000


def test_loops_with_nothing_inside() -> None:
    session = _session(
        f"n = Constant<value_int = {2**62}>() {TRUE}x = Constant<value_float = 1.0>() "
        "y = Loop(n, t, x) <body = b (int64 i, bool c, float v) => (bool c, float v) { }>",
        Limits(executed_nodes=1000),
    )
    assert "(Loop, opset 22)" in _refused(session)


def test_scans_are_as_long_as_their_inputs() -> None:
    body = (
        _zeros("x", 2**20) + _zeros("z", 1)
        + "y = Scan <num_scan_inputs = 1, "
        "body = b (float[1] v, float e) => (float[1] w) { w = Add(v, e) }>(z, x)"
    )  # fmt: skip
    assert "'executed_nodes' is 1,000" in _refused(_session(body, Limits(executed_nodes=1000)))


EMPTY = "x = SequenceEmpty<dtype = 7>() "
SEQUENCE = _loop("w = SequenceInsert(v, i)", state=EMPTY, carry="seq(int64)")


def test_sequence_length() -> None:
    message = _refused(_session(SEQUENCE, Limits(sequence_length=500)))
    assert message.startswith("limit 'sequence_length' is 500: sequence would need 501 (node #")
    assert "(SequenceInsert, opset 22)" in message
    fits = _session(SEQUENCE.replace(str(2**62), "500"), Limits(sequence_length=500))
    assert len(fits.run(None, None)[0]) == 500


GROWING = {
    "scan output": _loop("p = Expand(i, s)", state=_ints("s", 2**17), scans=", int64[N] p"),
    "sequence": _loop(
        "p = Expand(i, s) q = Neg(p) w = SequenceInsert(v, q)",
        state=EMPTY + _ints("s", 2**17),
        carry="seq(int64[N])",
    ),
    "carried value": _loop("w = Concat<axis = 0>(v, v)", state=_zeros("x", 2), carry="float[N]"),
    # Each scan output alone stays under the limit for long; together they do not.
    "many scan outputs": _loop(
        "p = Expand(i, s) " + " ".join(f"p{k} = Neg(p)" for k in range(8)),
        state=_ints("s", 2**14),
        scans="".join(f", int64[N] p{k}" for k in range(8)),
    ).replace("y = Loop", ", ".join(["y", *(f"y{k}" for k in range(1, 8))]) + " = Loop"),
}


@pytest.mark.parametrize("limit", ["live_bytes", "total_bytes"])
@pytest.mark.parametrize("body", GROWING.values(), ids=GROWING.keys())
def test_values_that_accumulate(body: str, limit: str) -> None:
    session = _session(body, Limits(**{limit: 16 * MIB}))
    message = _refused(session, peak_bytes=20 * MIB)
    assert message.startswith(f"limit '{limit}' is {16 * MIB:,}: ")
    assert " (node #" in message


def test_views_do_not_hide_what_they_keep_alive() -> None:
    """Each large value is alive only through its reshaped view."""
    views = " ".join(f"a{i} = Neg(x) b{i} = Reshape(a{i}, s)" for i in range(32))
    total = " ".join(f"c{i + 1} = Add(c{i}, b{i})" for i in range(32))
    body = _zeros("x", MIB // 4) + _ints("s", -1, 1) + f"{views} c0 = Identity(b0) {total} y = ReduceSum(c32)"
    message = _refused(_session(body, Limits(live_bytes=16 * MIB)), peak_bytes=20 * MIB)
    assert message.startswith("limit 'live_bytes'")
    _session(body, Limits(live_bytes=40 * MIB)).run(None, None)


def test_memory_that_is_free_again_is_not_counted() -> None:
    chain = " ".join(f"x{i + 1} = Neg(x{i})" for i in range(50))
    body = _zeros("x0", MIB // 4) + f"{chain} y = ReduceSum(x50)"
    _session(body, Limits(live_bytes=3 * MIB)).run(None, None)
    assert "'total_bytes'" in _refused(_session(body, Limits(total_bytes=3 * MIB)))


def test_text_that_doubles() -> None:
    text = 'x = Constant<value_string = "ab">() '
    body = _loop("w = StringConcat(v, v)", state=text, carry="string")
    for limits in (Limits(string_bytes=2**20), UNTRUSTED):
        message = _refused(_session(body, limits), peak_bytes=3 * limits.string_bytes)
        assert message.startswith(f"limit 'string_bytes' is {limits.string_bytes:,}: strings would need ")
        assert "(StringConcat, opset 22)" in message


@pytest.mark.parametrize(
    "step",
    ["w = Concat<axis = 0>(v, v)", "w = Expand(v, s)", "w = Tile(v, s)"],
    ids=["Concat", "Expand", "Tile"],
)
def test_text_that_is_repeated(step: str) -> None:
    """The strings themselves are shared; what counts is what a reader of the tensor would see."""
    text = "a" * 1000
    body = f'v = Constant<value_strings = ["{text}"]>() ' + _ints("s", 2) + step.replace("w =", "y =")
    assert _session(body).run(None, None)[0].tolist() == [text] * 2
    message = _refused(_session(body, Limits(string_bytes=1999)))
    assert message.startswith("limit 'string_bytes' is 1,999: strings would need 2,000 (node #")


def test_text_counts_in_utf8() -> None:
    session = _session("y = StringConcat(x, x)", Limits(string_bytes=8), inputs="string[N] x")
    assert session.run(None, [["ab", "é"]])[0].tolist() == ["abab", "éé"]
    assert "strings would need 10" in _refused(session, [["abc", "é"]])
    # A lone surrogate stands for one byte that is not UTF-8; it is counted as what Python keeps.
    assert "strings would need" in _refused(session, [["abc", b"\xff"]])


def test_text_counts_as_live_memory() -> None:
    """A hundred tensors of one string of 10,000 letters each, all needed until the end."""
    grown = " ".join(f"x{i + 1} = StringConcat(x{i}, a)" for i in range(100))
    names = ", ".join(f"x{i}" for i in range(1, 101))
    body = (
        f'a = Constant<value_strings = ["a"]>() x0 = Constant<value_strings = ["{"b" * 10_000}"]>() '
        f"{grown} q = Concat<axis = 0>({names}) y = Shape(q)"
    )
    assert _session(body).run(None, None)[0].tolist() == [100]
    assert "'live_bytes' is 500,000" in _refused(_session(body, Limits(live_bytes=500_000)))


def test_trusted_has_no_bounds_but_depth() -> None:
    assert {f: getattr(TRUSTED, f) for f in Limits.__slots__ if getattr(TRUSTED, f) is not None} == {
        "depth": 100
    }
    # What the machine cannot give is an ordinary error of the node.
    session = _session(_ints("s", 2**60) + "y = ConstantOfShape(s)", TRUSTED)
    with pytest.raises(onnxref.NodeError, match="ConstantOfShape.*MemoryError|ConstantOfShape.*ValueError"):
        session.run(None, None)


def test_work_in_functions_counts() -> None:
    text = HEAD.format(opset=22).replace('"ai.onnx.ml": 3', '"my": 1') + (
        "g (float[N] x) => (float[N] y) { a = my.f(x) y = my.f(a) }\n"
        '<domain: "my", opset_import: ["": 22]> f (a) => (b) { c = Neg(a) b = Neg(c) }'
    )
    model = onnx.parser.parse_model(text)
    x = np.zeros(2, np.float32)
    InferenceSession(model, limits=Limits(executed_nodes=6)).run(None, x)
    message = _refused(InferenceSession(model, limits=Limits(executed_nodes=5)), x)
    assert message == "limit 'executed_nodes' is 5: nodes would need 6 (node #1 (Neg, opset 22))"
