"""Tokenizer of com.microsoft: kernels/numpy/tokenizer.py, held to ONNX Runtime."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxref.kernels.numpy import tokenizer

import onnxref
from onnxref import registry
from onnxref.dtypes import Array
from onnxref.errors import InvalidAttributeError, InvalidGraphError, NodeError, ResourceLimitError
from onnxref.limits import Limits

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("re2")

DEFAULTS: dict[str, Any] = {"mark": 0, "mincharnum": 1, "pad_value": "#"}


def strings(*values: Any) -> Array:
    return np.array(values, object)


def model(rank: int = 1, inputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    kw = {name: value for name, value in {**DEFAULTS, **attributes}.items() if value is not None}
    node = helper.make_node("Tokenizer", ["x"] * inputs, ["y"], domain="com.microsoft", **kw)
    x = helper.make_tensor_value_info("x", TensorProto.STRING, [None] * rank)
    y = helper.make_tensor_value_info("y", TensorProto.STRING, None)
    graph = helper.make_graph([node], "tokens", [x], [y])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@cache
def sessions(rank: int, attributes: tuple[tuple[str, Any], ...]) -> tuple[Any, Any]:
    made = model(rank, **dict(attributes))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    theirs = onnxruntime.InferenceSession(made.SerializeToString(), options, ["CPUExecutionProvider"])
    return onnxref.InferenceSession(made, backend="numpy"), theirs


def check(x: Array, **attributes: Any) -> Array:
    """Return the tokens, after comparing them with ONNX Runtime's."""
    ours, theirs = sessions(x.ndim, tuple(sorted(attributes.items())))
    found: Array = ours.run(None, {"x": x})[0]
    wanted = theirs.run(None, {"x": x})[0]
    assert found.shape == wanted.shape
    assert found.dtype == object
    assert found.tolist() == wanted.tolist()
    return found


EXPRESSIONS = [
    "[a-zA-Z0-9_]+", "[a-z]+", "[a-c]", "\\w+", "\\w\\w+", "\\b\\w\\w+\\b", "\\b[a-zA-Z0-9_]+\\b", "\\d+",
    "\\D+", "[^ ]+", "[^ ,]+", "[\\w']+", "[^\\W_]+", "\\s+", "\\S+", "[\\s]+", "[ab]+[cd]+", "ab|abc",
    "a|ab|abc+", "a*", "a?b?", "(a|b)c", "b+|", "^a", "a$", "^\\w+", "\\w+$", "\\pL+", "é+", "[é]+", "[à-ü]+",
    ".+", "..", "[.]", "(?i)ab+", "[a-zA-Z0-9_]+[a-z]",
]  # fmt: skip
TEXT = st.text(st.sampled_from("aabbcdABé€😀ß_ ,.'-1\t\n\r\x0b\u00a0\x00"), max_size=12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=6), st.sampled_from(EXPRESSIONS), st.integers(1, 3), st.integers(0, 1)
)
def test_expressions_are_onnxruntimes(texts: list[str], expression: str, shortest: int, mark: int) -> None:
    texts = [text.replace("\x00", "") for text in texts]
    check(strings(*texts), tokenexp=expression, mincharnum=shortest, mark=mark)


SEPARATORS: list[tuple[str, ...]] = [
    (" ",), (" ", ","), (",", " ", "[.]"), ("ab", "b"), ("a", "ab"), ("\\s+",), ("[ ,]",), ("\\s", "é"),
    ("a|ab",), ("b+", "-"), ("^a",), ("a$",), ("\\b",), (".",), ("[.]",), ("\\.",), ("😀", "\t"), ("(?i)AB",),
    ("_",),
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=6), st.sampled_from(SEPARATORS), st.integers(1, 3), st.integers(0, 1)
)
def test_separators_are_onnxruntimes(
    texts: list[str], separators: tuple[str, ...], shortest: int, mark: int
) -> None:
    texts = [text.replace("\x00", "") for text in texts]
    check(strings(*texts), separators=separators, mincharnum=shortest, mark=mark)


@pytest.mark.parametrize("separators", [("b*",), ("", "b"), (" ", "b*"), ("$",), ("^",), ("a||b",)])
@pytest.mark.parametrize("text", ["abc", "", "bb", "a b c", "é€", "aé"])
def test_separators_that_match_nothing_take_a_character(separators: tuple[str, ...], text: str) -> None:
    check(strings(text), separators=separators)


KINDS: list[dict[str, Any]] = [
    {"tokenexp": "[a-z]+"}, {"tokenexp": "[^a]+"}, {"tokenexp": "."},
    {"separators": (" ",)}, {"separators": ("",)},
    {"separators": (" ",), "tokenexp": "[a-z]+"},
]  # fmt: skip


@pytest.mark.parametrize("kw", KINDS)
@pytest.mark.parametrize("mark", [0, 1])
def test_shapes(kw: dict[str, Any], mark: int) -> None:
    for shape in [(0,), (2, 0), (0, 3), (1, 1), (2, 2), (3,)]:
        check(np.full(shape, "ab c", object), mark=mark, **kw)
    check(strings("", ""), mark=mark, **kw)
    check(strings("", "é€a", "b"), mark=mark, **kw)
    check(strings("a\x00b c", "zz", "\x00", "x\x00"), mark=mark, **kw)


def test_padding_stands_behind_the_marks() -> None:
    y = check(strings("Hello World", "I love"), separators=(" ",), mark=1, pad_value="<pad>", mincharnum=2)
    assert y.tolist() == [["\x02", "Hello", "World", "\x03"], ["\x02", "love", "\x03", "<pad>"]]


def test_long_texts_are_split_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = strings("Fresh apples, and", "sweet_pears 4", "", "?")
    wanted = check(texts, tokenexp="[a-zA-Z0-9_]+")
    monkeypatch.setattr(tokenizer, "_LONGEST_JOINED", 3)
    assert check(texts, tokenexp="[a-zA-Z0-9_]+").tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"tokenexp": "a", "mark": None}, "requires the attribute 'mark'"),
        ({"tokenexp": "a", "mincharnum": None}, "requires the attribute 'mincharnum'"),
        ({"tokenexp": "a", "pad_value": None}, "requires the attribute 'pad_value'"),
        ({"tokenexp": "a", "mincharnum": "1"}, "'mincharnum' must be INT"),
        ({"tokenexp": "a", "stopwords": ("b",)}, "has no attribute 'stopwords'"),
        ({"tokenexp": "a", "mincharnum": 0}, "mincharnum must be >= 1"),
        ({}, "one of separators and tokenexp must be given"),
        ({"tokenexp": ""}, "one of separators and tokenexp must be given"),
        ({"tokenexp": ".", "mincharnum": 2}, "mincharnum must be 1 for single characters"),
        ({"separators": ("",), "mincharnum": 2}, "mincharnum must be 1 for single characters"),
        ({"tokenexp": "(a"}, r"must be a valid RE2 expression \(got '\(a': missing \)"),
        ({"tokenexp": "[b-a]+"}, "must be a valid RE2 expression"),
        ({"tokenexp": r"(?u)\w+"}, "must be a valid RE2 expression"),
        ({"separators": (" ", "a(?=b)")}, "must be a valid RE2 expression"),
    ],
)
def test_bad_attributes_are_bad_to_onnxruntime_too(attributes: dict[str, Any], message: str) -> None:
    bad = model(**attributes)
    with pytest.raises(InvalidAttributeError, match=message):
        onnxref.InferenceSession(bad)
    with pytest.raises(Exception, match="Tokenizer|tokenizer"):
        onnxruntime.InferenceSession(bad.SerializeToString())


def test_bad_inputs() -> None:
    with pytest.raises(InvalidGraphError, match="takes 1 inputs"):
        onnxref.InferenceSession(model(inputs=2, tokenexp="a"))
    session = onnxref.InferenceSession(model(rank=3, tokenexp="a"))
    with pytest.raises(NodeError, match=r"X must have shape \(C,\) or \(N, C\) \(got \(1, 1, 1\)\)"):
        session.run(None, {"x": strings("a").reshape(1, 1, 1)})
    session = onnxref.InferenceSession(model(tokenexp="[a-z]+"))
    with pytest.raises(NodeError, match="X must hold valid Unicode"):
        session.run(None, {"x": np.array([b"a\xff"])})


def test_one_long_text_does_not_pad_past_the_limit() -> None:
    session = onnxref.InferenceSession(model(tokenexp="a"), limits=Limits(tensor_bytes=2**16))
    with pytest.raises(ResourceLimitError, match="tensor_bytes"):
        session.run(None, {"x": strings("a" * 1000, *[""] * 99)})


def test_a_registration_of_ones_own_wins() -> None:
    @onnxref.register_op("Tokenizer", domain="com.microsoft")
    def words(x: Array, *, language: str) -> Array:
        return np.array([text + language for text in x], object)

    assert words is not None
    try:
        own = model(language="en", mark=None, mincharnum=None, pad_value=None)
        assert onnxref.run(own, {"x": strings("a")})["y"].tolist() == ["aen"]
    finally:
        onnxref.unregister_op("Tokenizer", domain="com.microsoft")
    assert not registry.find("com.microsoft", "Tokenizer", 1).user_defined
