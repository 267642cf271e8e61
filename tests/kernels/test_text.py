"""StringNormalizer, StringConcat, StringSplit, RegexFullMatch, TfIdfVectorizer."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.errors import KernelError, MissingDependencyError, ResourceLimitError
from onnxref.limits import Budget, Limits
from onnxref.registry import Context


def strings(*values: Any) -> Array:
    return np.array(values, object)


# ------------------------------------------------------------------ StringNormalizer


@pytest.mark.parametrize(
    ("kw", "want"),
    [
        ({}, ["Mon", "TUE", "mon", "", "a b"]),
        ({"stopwords": ("mon",)}, ["TUE", "", "a b"]),
        ({"stopwords": ("mon",), "is_case_sensitive": 1}, ["Mon", "TUE", "", "a b"]),
        ({"stopwords": ("MON",), "case_change_action": "UPPER"}, ["TUE", "", "A B"]),
        ({"case_change_action": "LOWER"}, ["mon", "tue", "mon", "", "a b"]),
        # Elements are compared as a whole; stop words are removed before the case changes.
        ({"stopwords": ("a", "tue"), "is_case_sensitive": 1, "case_change_action": "LOWER"},
         ["mon", "tue", "mon", "", "a b"]),
        ({"stopwords": ("MON", "tue", "", "A b")}, [""]),
    ],
)  # fmt: skip
def test_string_normalizer(kw: dict[str, Any], want: list[str]) -> None:
    x = strings("Mon", "TUE", "mon", "", "a b")
    assert run_op("StringNormalizer", x, opset=10, **kw).tolist() == want
    assert run_op("StringNormalizer", x[None], opset=10, **kw).tolist() == [want]


def test_string_normalizer_of_nothing() -> None:
    assert run_op("StringNormalizer", strings(), opset=10).tolist() == [""]
    assert run_op("StringNormalizer", np.empty((1, 0), object), opset=10).tolist() == [[""]]


I_DOT, DOTLESS = "\u0130", "\u0131"  # upper-case i with dot, lower-case i without


@pytest.mark.parametrize("locale", [None, "en_US", "tr_TR", "az"])
def test_string_normalizer_honours_the_locale(locale: str | None) -> None:
    kw: dict[str, Any] = {} if locale is None else {"locale": locale}
    turkic = locale in ("tr_TR", "az")
    y = run_op("StringNormalizer", strings("I" + DOTLESS), opset=10, case_change_action="LOWER", **kw)
    assert y.tolist() == [(DOTLESS if turkic else "i") + DOTLESS]
    x = strings("i" + DOTLESS + "\u00e9\u00df")
    y = run_op("StringNormalizer", x, opset=10, case_change_action="UPPER", **kw)
    assert y.tolist() == [(I_DOT if turkic else "I") + "I\u00c9SS"]
    y = run_op("StringNormalizer", strings("TITLE"), opset=10, stopwords=("title",), **kw)
    assert y.tolist() == (["TITLE"] if turkic else [""])


def test_string_normalizer_bad_arguments() -> None:
    with pytest.raises(KernelError, match=r"X must have shape \(C,\) or \(1, C\) \(got \(2, 1\)\)"):
        run_op("StringNormalizer", strings("a", "b").reshape(2, 1), opset=10)
    with pytest.raises(KernelError, match="case_change_action must be one of NONE, LOWER, UPPER"):
        run_op("StringNormalizer", strings("a"), opset=10, case_change_action="TITLE")


# ------------------------------------------------------------------ StringConcat, StringSplit


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.sampled_from([((), ()), ((3,), ()), ((2, 1), (3,)), ((0, 2), (1, 1)), ((2, 3), (2, 3))]),
    word=st.text(max_size=3),
)
def test_string_concat_broadcasts(shapes: tuple[tuple[int, ...], tuple[int, ...]], word: str) -> None:
    x, y = (np.full(s, word, object) for s in shapes)
    for n, part in enumerate((x, y)):
        part[...] = np.array([f"{word}{n}{i}" for i in range(part.size)], object).reshape(part.shape)
    z = run_op("StringConcat", x, y, opset=20)
    assert z.dtype == object
    bx, by = np.broadcast_arrays(x, y)
    assert z.shape == bx.shape
    assert z.ravel().tolist() == [a + b for a, b in zip(bx.flat, by.flat, strict=True)]


def test_string_concat_refuses() -> None:
    with pytest.raises(KernelError, match="X and Y must broadcast to one shape"):
        run_op("StringConcat", strings("a", "b"), strings("a", "b", "c"), opset=20)
    ctx = Context(budget=Budget(Limits(string_bytes=10_000)))
    x, y = np.full((100, 1), "long" * 10, object), np.full((1, 100), "b", object)
    with pytest.raises(ResourceLimitError, match="strings would need"):
        registry.find("", "StringConcat", 20).kernel(x, y, ctx=ctx)


@pytest.mark.parametrize(
    ("kw", "want"),
    [
        ({}, [["a", "b", "c"], ["x"], [], []]),
        ({"delimiter": ""}, [["a", "b", "c"], ["x"], [], []]),
        ({"maxsplit": 1}, [["a", "b  c"], ["x"], [], []]),
        ({"maxsplit": 0}, [["a b  c"], ["x"], [], []]),
        ({"maxsplit": 9}, [["a", "b", "c"], ["x"], [], []]),
        ({"delimiter": " "}, [["", "a", "b", "", "c", ""], ["x"], [""], ["", "", ""]]),
        ({"delimiter": " ", "maxsplit": 1}, [["", "a b  c "], ["x"], [""], ["", " "]]),
        ({"delimiter": "b "}, [[" a ", " c "], ["x"], [""], ["  "]]),
    ],
)
def test_string_split(kw: dict[str, Any], want: list[list[str]]) -> None:
    x = strings(" a b  c ", "x", "", "  ").reshape(2, 2)
    y, counts = run_op("StringSplit", x, opset=20, n_outputs=2, **kw)
    assert counts.dtype == np.int64
    assert counts.tolist() == np.array([len(w) for w in want]).reshape(2, 2).tolist()
    most = max(map(len, want))
    assert y.reshape(4, most).tolist() == [w + [""] * (most - len(w)) for w in want]


def test_string_split_shapes() -> None:
    y, counts = run_op("StringSplit", np.empty((2, 0), object), opset=20, n_outputs=2)
    assert (y.shape, counts.shape) == ((2, 0, 0), (2, 0))
    y, counts = run_op("StringSplit", np.array("a b", object), opset=20, n_outputs=2)
    assert (y.tolist(), int(counts)) == (["a", "b"], 2)


def test_string_split_checks_the_padding() -> None:
    ctx = Context(budget=Budget(Limits(tensor_bytes=10**6)))
    with pytest.raises(ResourceLimitError, match="tensor_bytes"):
        registry.find("", "StringSplit", 20).kernel(strings(*"ab" * 1000, "x " * 1000), ctx=ctx)


# ------------------------------------------------------------------ RegexFullMatch


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("a+", [True, False, False, False]),
        ("", [False, False, True, False]),
        (r"\pL+", [True, False, False, True]),
        ("a|ab", [True, True, False, False]),
        ("(?i)É", [False, False, False, True]),
    ],
)
def test_regex_full_match(pattern: str, want: list[bool]) -> None:
    x = strings("a", "ab" if pattern == "a|ab" else "a!", "", "é")
    y = run_op("RegexFullMatch", x.reshape(2, 2), opset=20, pattern=pattern)
    assert y.dtype == np.bool_
    assert y.ravel().tolist() == want


def test_regex_shapes_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_op("RegexFullMatch", np.array("a", object), opset=20, pattern="a").shape == ()
    assert run_op("RegexFullMatch", np.empty((0, 2), object), opset=20, pattern="a").shape == (0, 2)
    with pytest.raises(KernelError, match=r"pattern must be a valid RE2 expression \(got '\(a'"):
        run_op("RegexFullMatch", strings("a"), opset=20, pattern="(a")
    with pytest.raises(KernelError, match="valid RE2"):  # RE2 has no back-references
        run_op("RegexFullMatch", strings("a"), opset=20, pattern=r"(a)\1")
    with pytest.raises(KernelError, match="pattern must be given"):
        run_op("RegexFullMatch", strings("a"), opset=20)
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(MissingDependencyError, match=r"pip install onnxref\[text\]"):
        run_op("RegexFullMatch", strings("a"), opset=20, pattern="a")


# ------------------------------------------------------------------ TfIdfVectorizer


def direct_tfidf(
    row: list[Any], grams: list[tuple[Any, ...]], where: list[int], weights: list[float], mode: str,
    shortest: int, longest: int, skips: int,
) -> list[float]:  # fmt: skip
    seen: Counter[tuple[Any, ...]] = Counter()
    for n in range(shortest, longest + 1):
        for stride in range(1, (skips if n > 1 else 0) + 2):
            for start in range(len(row) - (n - 1) * stride):
                seen[tuple(row[start + k * stride] for k in range(n))] += 1
    result = [0.0] * (max(where) + 1)
    for gram, place, weight in zip(grams, where, weights, strict=True):
        count = seen[gram] if mode != "IDF" else min(seen[gram], 1)
        result[place] += count * (1 if mode == "TF" else weight)
    return result


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 3), length=st.integers(0, 8), mode=st.sampled_from(["TF", "IDF", "TFIDF"]),
    shortest=st.integers(1, 3), extra=st.integers(0, 3), skips=st.integers(0, 5),
    weighted=st.booleans(), text=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_tfidf_counts_ngrams(
    rows: int, length: int, mode: str, shortest: int, extra: int, skips: int, weighted: bool, text: bool,
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    numbers = [rng.integers(0, 3, (rng.integers(0, 5), n)) for n in (1, 2, 3)]
    numbers[0] = np.concatenate([numbers[0], [[1]]])  # the pool must not be empty
    pool = np.concatenate([g.ravel() for g in numbers]).tolist()
    grams = [tuple(map(int, g)) for group in numbers for g in group]
    where = rng.integers(0, len(grams) + 2, len(grams)).tolist()
    weights = [float(w) for w in rng.integers(1, 9, len(grams))]
    x = rng.integers(0, 4, (rows, length))
    counts = (0, numbers[0].size, numbers[0].size + numbers[1].size)
    kw: dict[str, Any] = {"weights": tuple(weights)} if weighted else {}
    if text:
        x = np.array([[str(v) for v in row] for row in x], object).reshape(x.shape)
        grams = [tuple(map(str, g)) for g in grams]
        kw["pool_strings"] = tuple(map(str, pool))
    else:
        kw["pool_int64s"] = tuple(pool)
    y = run_op(
        "TfIdfVectorizer", x, opset=9, mode=mode, min_gram_length=shortest, max_gram_length=shortest + extra,
        max_skip_count=skips, ngram_counts=counts, ngram_indexes=tuple(where), **kw,
    )  # fmt: skip
    assert y.dtype == np.float32
    assert y.shape == (rows, max(where) + 1)
    scale = weights if weighted else [1.0] * len(grams)
    for row, got in zip(x.tolist(), y, strict=True):
        want = direct_tfidf(row, grams, where, scale, mode, shortest, shortest + extra, skips)
        assert got.tolist() == want


TFIDF: dict[str, Any] = {
    "mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0,
    "ngram_counts": (0, 2), "ngram_indexes": (0, 1, 2), "pool_int64s": (5, 6, 5, 6),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_tfidf_of_a_vector(dtype: Any) -> None:
    y = run_op("TfIdfVectorizer", np.array([5, 6, 6, 5, 6], dtype), opset=9, **TFIDF)
    assert y.tolist() == [2, 3, 2]


@pytest.mark.parametrize("step", [1, 2**40])
def test_tfidf_of_integers_close_together_or_far_apart(step: int) -> None:
    low, high = -(2**63), 2**63 - 1
    x = np.array([3 * step, low, 4 * step, 4, high, 5 * step, low + 3 * step, 3 * step, 4 * step])
    y = run_op(
        "TfIdfVectorizer", x, opset=9, **{**TFIDF, "pool_int64s": tuple(step * v for v in (3, 5, 3, 4))}
    )
    assert y.tolist() == [2, 1, 1]


def test_tfidf_of_the_extreme_integers() -> None:
    low, high = -(2**63), 2**63 - 1
    for token, other in ((low, high), (high, low), (low, 0), (high, 0)):
        change = {"ngram_counts": (0,), "ngram_indexes": (0,), "pool_int64s": (token,)}
        y = run_op("TfIdfVectorizer", np.array([token, other, token]), opset=9, **{**TFIDF, **change})
        assert y.tolist() == [2]


def test_tfidf_does_not_skip_past_the_row() -> None:
    y = run_op("TfIdfVectorizer", np.array([5, 6]), opset=9, **{**TFIDF, "max_skip_count": 2**62})
    assert y.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "BM25"}, "mode must be one of TF, IDF, TFIDF"),
        ({"min_gram_length": 0}, r"min_gram_length must be in \[1, 2\]"),
        ({"min_gram_length": 3}, r"min_gram_length must be in \[1, 2\]"),
        ({"max_skip_count": -1}, "max_skip_count must be >= 0"),
        ({"pool_strings": ("a",)}, "exactly one of pool_int64s and pool_strings"),
        ({"pool_int64s": None}, "exactly one of pool_int64s and pool_strings"),
        ({"ngram_counts": ()}, "ngram_counts must not be empty"),
        ({"ngram_counts": (0, 3)}, "ngram_counts must be ascending offsets"),
        ({"ngram_counts": (2, 0)}, "ngram_counts must be ascending offsets"),
        ({"ngram_counts": (0, 9)}, "ngram_counts must be ascending offsets"),
        ({"ngram_indexes": (0, 1)}, r"ngram_indexes must hold 3 values >= 0 \(got 2\)"),
        ({"ngram_indexes": (0, 1, -1)}, "ngram_indexes must hold 3 values >= 0"),
        ({"weights": (1.0,)}, "weights must hold 3 values"),
    ],
)
def test_tfidf_bad_attributes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("TfIdfVectorizer", np.array([1]), opset=9, **{**TFIDF, **change})


def test_tfidf_bad_inputs() -> None:
    with pytest.raises(KernelError, match=r"X must have shape \(C,\) or \(N, C\)"):
        run_op("TfIdfVectorizer", np.zeros((1, 1, 1), np.int64), opset=9, **TFIDF)
    with pytest.raises(KernelError, match="X must hold integers for pool_int64s"):
        run_op("TfIdfVectorizer", strings("a"), opset=9, **TFIDF)
    change = {"pool_int64s": None, "pool_strings": ("a", "b", "a", "b")}
    with pytest.raises(KernelError, match="X must hold strings for pool_strings"):
        run_op("TfIdfVectorizer", np.array([1]), opset=9, **{**TFIDF, **change})
    cost = registry.find("", "TfIdfVectorizer", 9).cost
    assert cost is not None
    assert cost(np.zeros((2, 3)), **{**TFIDF, "ngram_indexes": (0, 1, 2**40 - 1)}).out_bytes == 2**43
