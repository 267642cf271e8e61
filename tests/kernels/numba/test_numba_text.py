"""Strings in native code beside the reference: exact, and refused where the reference has to look."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxref.kernels.numba.ml_encoders
import onnxref.kernels.numba.text
import onnxref.kernels.numpy
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnxref.kernels.numba import _token_tables as tables

from onnxref.errors import KernelError
from onnxref.lowering import Unsupported
from onnxref.native import text_layout
from onnxref.registry import INTERNAL, ML
from tests.lowered import RefusedError, check_lowered, reference, run_lowered

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
VOCABULARY = ("a", "bb", "the", "cafe", "x_9", "eightchr", "ninechars", "averylongtokenofmanycharacters")
# Known and unknown tokens, parts of tokens, all kinds of storage, and what breaks or does not break a token.
PIECES = st.sampled_from(
    [*VOCABULARY, *map(str.upper, VOCABULARY), "ab", "zz", "averylongtokenofmanycharactersx", "b" * 300, ""]
    + [" ", "  ", ",", "-", "\0", "\n", "\x7f", "\xe9", "\xdf", "\xff", "\u2019", "\u65e5", "\U0001f600"]
    + ["\u0100", "\u0130", "\u212a", "\u017f"]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20)


def strings(*texts: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    found = np.empty(len(texts), object)
    found[:] = texts
    return found if shape is None else found.reshape(shape)


def grams(pool: str = "bigrams", mode: str = "TF", **changes: Any) -> dict[str, Any]:
    """Return the attributes of a TfIdfVectorizer over the vocabulary."""
    singles, pairs = len(VOCABULARY), (("a", "bb"), ("bb", "a"), ("the", "the"), ("cafe", "eightchr"))
    triples = (("a", "bb", "the"), ("bb", "bb", "bb"))
    chosen: list[tuple[str, ...]] = [(token,) for token in VOCABULARY]
    chosen += {"words": (), "bigrams": pairs, "trigrams": (*pairs, *triples)}[pool]
    counts = {"words": (0,), "bigrams": (0, singles), "trigrams": (0, singles, singles + 8)}[pool]
    order = np.random.default_rng(0).permutation(len(chosen))
    return {
        "max_gram_length": len(counts),
        "max_skip_count": 0,
        "min_gram_length": 1,
        "mode": mode,
        "ngram_counts": counts,
        "ngram_indexes": tuple(order.tolist()),
        "pool_strings": tuple(token for gram in chosen for token in gram),
        "weights": tuple((0.1 + 0.37 * order).tolist()),
        **changes,
    }


def tokenizer(tokenexp: str | None = "[a-zA-Z0-9_]+", **changes: Any) -> dict[str, Any]:
    held = {"mark": 0, "mincharnum": 1, "pad_value": "#", "tokenexp": tokenexp, **changes}
    return {name: value for name, value in held.items() if value is not None}


def pipeline(case: str | None = "LOWER", **changes: Any) -> dict[str, Any]:
    """Return the attributes of a TokenizedTfIdf."""
    normalizer = None if case is None else {"case_change_action": case, "is_case_sensitive": 0}
    plain = {"tokenizer": tokenizer(), "vectorizer": grams()}
    return {"flat": 1, "normalizer": normalizer, "flattened": 1, **plain, **changes}


def agree(op_type: str, x: np.ndarray, attributes: Mapping[str, Any], **options: Any) -> bool:
    """Check native code against the reference; False where it refused, which it must where that fails."""
    domain, opset = options.pop("domain", INTERNAL), options.pop("opset", 1)
    try:
        (expected,) = reference(op_type, [x], attributes, opset, domain)
    except KernelError:
        expected = None
    shape = (
        (x.size, max(attributes["vectorizer"]["ngram_indexes"]) + 1) if "vectorizer" in attributes else None
    )
    wanted = (shape, np.float32) if expected is None else (expected.shape, expected.dtype)
    try:
        (found,) = run_lowered(op_type, [x], [wanted], attributes, domain=domain, opset=opset, **options)
    except RefusedError:
        return False
    assert expected is not None, "the reference refuses what native code took"
    np.testing.assert_array_equal(found, expected)
    return True


# --- how strings are read ------------------------------------------------------------------------


def test_the_layout_of_strings_is_known_here():
    layout = text_layout()
    assert layout is not None, f"CPython {sys.version} stores strings in a way that is not understood"
    assert layout.str_type == id(str)
    assert len(set(layout.states)) == 4
    assert layout.table().size == 11


@pytest.mark.parametrize("broken", ["kinds", "length", "characters", "lock"])
def test_strings_that_lie_elsewhere_are_not_read(monkeypatch, broken):
    from onnxref.native import _text

    monkeypatch.setattr(_text, "text_layout", text_layout.__wrapped__)
    if broken == "kinds":
        monkeypatch.setattr(_text, "_word", lambda text, offset: 7)
    elif broken == "length":
        monkeypatch.setattr(_text.ctypes, "c_ssize_t", ctypes.c_double)
    elif broken == "lock":
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    else:
        monkeypatch.setattr(_text.ctypes, "string_at", lambda address, size: bytes(size + 1))
    assert _text.text_layout() is None


def test_no_strings_are_read_without_a_layout(monkeypatch):
    monkeypatch.setattr(onnxref.kernels.numba.text, "text_layout", lambda: None)
    with pytest.raises(Unsupported, match="strings of this interpreter"):
        check_lowered("TokenizedTfIdf", [strings("a")], pipeline(), domain=INTERNAL, opset=1)


# --- texts ---------------------------------------------------------------------------------------


@SETTINGS
@given(
    st.lists(TEXTS, min_size=1, max_size=9), st.sampled_from(["words", "bigrams", "trigrams"]), st.booleans()
)
@example(["the the the a bb a bb the", "", "\0", "BB,bb;bb"], "trigrams", True)
@example(["a\udc80"], "words", False)
def test_random_texts(texts, pool, lower):
    attributes = pipeline("LOWER" if lower else None, vectorizer=grams(pool, "TFIDF"))
    done = agree("TokenizedTfIdf", strings(*texts), attributes)
    joined = "".join(texts)
    odd = any(0xD800 <= ord(c) < 0xE000 for c in joined) or (lower and set(joined) & {"\u0130", "\u212a"})
    assert done == (not odd)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("pool", ["words", "bigrams", "trigrams"])
def test_many_texts(pool, mode, parallel):
    rng = np.random.default_rng(1)
    pieces = (*VOCABULARY, "A", "Bb", "unknown", "é")
    texts = strings(*(" ".join(rng.choice(pieces, rng.integers(0, 40))) for _ in range(300)), shape=(300, 1))
    attributes = pipeline(vectorizer=grams(pool, mode))
    assert agree("TokenizedTfIdf", texts, attributes, parallel=parallel)


@SETTINGS
@given(
    st.lists(TEXTS, min_size=1, max_size=4),
    st.sampled_from(
        [
            tokenizer(r"\w+"),
            tokenizer(r"\b\w\w+\b"),
            tokenizer("[a-c][a-c]+"),
            tokenizer("[^ ,]+"),
            tokenizer(r"\d+", mincharnum=2),
            tokenizer("[a-z]+", mincharnum=3),
            tokenizer("."),
            tokenizer(None, separators=("",)),
            tokenizer(None, separators=(" ", ",")),
        ]
    ),
    st.sampled_from(["LOWER", "UPPER", "NONE", None]),
    st.integers(0, 2),
)
def test_expressions_cases_and_skips(texts, tokens, case, skips):
    vectorizer = grams("trigrams", max_skip_count=skips)
    done = agree("TokenizedTfIdf", strings(*texts), pipeline(case, tokenizer=tokens, vectorizer=vectorizer))
    if "".join(texts).isascii():
        assert done


def test_what_becomes_ascii_as_a_small_letter_is_all_known():
    beyond = {
        chr(code) for code in range(128, sys.maxunicode + 1) if any(c < "\x80" for c in chr(code).lower())
    }
    assert beyond == {"\u0130", "\u212a"}


@pytest.mark.parametrize("odd", [b"a", None, 1, np.str_("a"), type("Sub", (str,), {})("a")], ids=repr)
def test_what_is_no_plain_str_is_left_to_the_reference(odd):
    texts = strings("a", odd, "bb")
    with pytest.raises(RefusedError):
        run_lowered("TokenizedTfIdf", [texts], [((3, 12), np.float32)], pipeline(), domain=INTERNAL, opset=1)


def test_an_array_without_objects_is_left_to_the_reference():
    with pytest.raises(RefusedError):
        run_lowered(
            "TokenizedTfIdf",
            [np.empty(3, object)],
            [((3, 12), np.float32)],
            pipeline(),
            domain=INTERNAL,
            opset=1,
        )


@pytest.mark.parametrize(
    ("x", "attributes"),
    [
        (strings("a", "a", shape=(1, 2)), pipeline(None, flat=0)),
        (strings("a", shape=(1, 1)), pipeline(None, flat=0, flattened=0)),
        (strings(), pipeline()),
        (strings("a"), pipeline(tokenizer=tokenizer(mark=1))),
        (strings("a"), pipeline(tokenizer=tokenizer(pad_value="the"))),
        (strings("a"), pipeline(tokenizer=tokenizer("(a|b)+"))),
        (strings("a"), pipeline(tokenizer=tokenizer(None, separators=("ab",)))),
        (strings("a"), pipeline(normalizer={"case_change_action": "LOWER", "locale": "tr_TR"})),
        (strings("a"), pipeline(vectorizer=grams(ngram_indexes=(0,) * 12))),
        (strings("a"), pipeline(vectorizer=grams(max_skip_count=1 << 20))),
        (strings("a"), pipeline(vectorizer=grams("words", pool_strings=("x" * 5000,) * 8))),
    ],
)
def test_what_is_not_taken(x, attributes):
    with pytest.raises(Unsupported):
        run_lowered("TokenizedTfIdf", [x], [((x.size, 12), np.float32)], attributes, domain=INTERNAL, opset=1)


def test_tokens_that_collide_make_no_table(monkeypatch):
    monkeypatch.setattr(tables, "_hashes", lambda words, counts: np.zeros(len(words), np.uint64))
    with pytest.raises(Unsupported, match="collide"):
        tables.token_table({str(i): i for i in range(100)})


def test_a_large_vocabulary():
    rng = np.random.default_rng(2)
    words = tuple(
        dict.fromkeys("".join(rng.choice(list("abcdefgh"), rng.integers(1, 30))) for _ in range(5000))
    )
    attributes = grams("words", ngram_indexes=tuple(range(len(words))), pool_strings=words, weights=None)
    texts = strings(*(" ".join(rng.choice(words, 50)) for _ in range(20)))
    assert agree("TokenizedTfIdf", texts, pipeline(vectorizer=attributes))


# --- tokens as given, look-ups -------------------------------------------------------------------


@SETTINGS
@given(st.lists(st.lists(PIECES, min_size=3, max_size=3), min_size=1, max_size=4), st.booleans())
def test_tokens_as_given(rows, beyond):
    pool = (*VOCABULARY[:-1], "é") if beyond else VOCABULARY
    attributes = grams("words", "IDF", pool_strings=pool)
    x = strings(*(token for row in rows for token in row), shape=(len(rows), 3))
    done = agree("TfIdfVectorizer", x, attributes, domain="", opset=9)
    assert done == (not beyond or "".join(x.flat).isascii())


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("skips", [0, 1, 5])
@pytest.mark.parametrize("shape", [(12,), (3, 7), (2, 0), (0, 4), (1, 1)])
def test_integers(dtype, skips, shape):
    attributes = {
        "max_gram_length": 3,
        "max_skip_count": skips,
        "min_gram_length": 2,
        "mode": "TFIDF",
        "ngram_counts": (0, 2, 8),
        "ngram_indexes": (0, 1, 2, 6, 4, 3),
        "pool_int64s": (2, 3, 5, 4, 5, 6, -1, 2, 2, 2, 2),
        "weights": (1.0, 1.0, 0.1, 0.2, 0.3, 0.7),
    }
    x = np.random.default_rng(3).integers(-2, 7, shape).astype(dtype)
    check_lowered("TfIdfVectorizer", [x], attributes, opset=9)
    check_lowered("TfIdfVectorizer", [x], attributes, opset=9, parallel=True)


@SETTINGS
@given(
    st.lists(PIECES, min_size=1, max_size=200), st.sampled_from(["int64s", "floats"]), st.sampled_from([2, 4])
)
def test_label_encoder(texts, kind, opset):
    keys = (*VOCABULARY, "", "a")
    values = {f"values_{kind}": tuple(range(10))}
    attributes = {"keys_strings": keys, "default_int64": -7, "default_float": 0.5, **values}
    assert agree("LabelEncoder", strings(*texts), attributes, domain=ML, opset=opset)


@pytest.mark.parametrize("op_type", ["LabelEncoder", "CategoryMapper"])
def test_classes(op_type):
    names = ("b", "", "ninechars", "b")
    attributes = {"classes_strings": names}
    if op_type == "CategoryMapper":
        attributes = {"cats_strings": names, "cats_int64s": (5, 6, 7, 8)}
    x = strings("b", "", "ninechars", "ninecharsx", "é", "B", shape=(2, 3))
    assert agree(op_type, x, attributes, domain=ML)


def test_keys_beyond_ascii_are_looked_up_by_the_reference():
    attributes = {"keys_strings": ("a", "é"), "values_int64s": (1, 2)}
    assert agree("LabelEncoder", strings("a", "x"), attributes, domain=ML, opset=2)
    assert not agree("LabelEncoder", strings("a", "é"), attributes, domain=ML, opset=2)


def test_one_hot_encoder():
    x = strings("b", "", "zz", "é", "b", "longer than a word", shape=(2, 3))
    assert agree("OneHotEncoder", x, {"cats_strings": ("b", "longer than a word", "", "b")}, domain=ML)
    with pytest.raises(Unsupported):
        check_lowered(
            "OneHotEncoder", [strings("b")], {"cats_strings": ("b",), "zeros": 0}, domain=ML, opset=1
        )


def test_the_modules_speak_of_the_same_tables():
    from onnxref.kernels.numba.code import text as code

    assert (code.TOKEN_HEAD, code.TOKEN_SLOT) == (tables._TOKEN_HEAD, tables._TOKEN_SLOT)
    assert (code.PAIR_HEAD, code.PAIR_SLOT) == (tables._PAIR_HEAD, tables._PAIR_SLOT)
    assert code.GRAM_HEAD == tables._GRAM_HEAD
    assert np.uint64(code.FACTOR) == tables._FACTOR
    lowering = onnxref.kernels.numba.text
    assert (code.BREAK, code.REFUSE, code.MOST) == (lowering._BREAK, lowering._REFUSE, lowering._MOST)
