"""Lowerings of operators that read strings, or count n-grams. All are exact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import FAULT, Operand, Packed, Scratch, Site, Unsupported, lower
from onnxref.native import native, text_layout
from onnxref.registry import INTERNAL, ML

from ..common.checks import accept, check_result, only_output, refusing
from ..common.ml import kept, of_attributes
from ..numpy import text as reference
from ..numpy.ml_encoders import Lookup, prepare_categories, prepare_classes
from ..numpy.text import tfidf_width
from ..numpy.tokenizer import run_of
from ._token_tables import gram_table, gram_weights, integer_table, token_table

CODE = "onnxref.kernels.numba.code.text"
_BREAK, _REFUSE = 255, 254  # as in the kernels
_MOST = 1 << 24
_BLOCK = 64
_TEXT_NS, _TOKEN_NS, _COLUMN_NS = 1_000.0, 15.0, 0.1  # of a text of some 300 characters

Attributes = Mapping[str, Any]


def _layout(site: Site) -> Packed:
    """Return the layout of strings, as kernels read it."""
    layout = text_layout()
    if layout is None:
        raise Unsupported("native code cannot read the strings of this interpreter")
    return kept(site, str, "text layout", layout.table)


def _words(site: Site, tokens: Packed | None, ring: int = 0) -> tuple[Scratch, int]:
    """Return memory of a thread, for the words of a token and a ring behind them, and the bytes of words."""
    nbytes = 8 * (int(tokens.array[1]) // 8 + 1) if tokens else 0
    return site.scratch(nbytes + 8 * ring, per_thread=True), nbytes


# --- counting n-grams ----------------------------------------------------------------------------


class _Counting(NamedTuple):
    """What kernels take of a TfIdfVectorizer.

    Attributes:
        tokens: the table of tokens, or of integers.
        grams: see `gram_table`.
        weights: float64 by coordinate; 0 where all are 1.
        binary: whether counts go no further than 1.
        many: whether there are n-grams of more than one token.
        ring: int64s of memory for the tokens before one.
    """

    tokens: Packed
    grams: Packed
    weights: Packed | int
    binary: int
    many: bool
    ring: int


def _counting(site: Site, attributes: Attributes) -> _Counting:
    """Return what counts; the tables are made once per model, which may take long."""
    pool = cache(partial(reference.prepare_tfidf, **attributes))
    packed = partial(of_attributes, site, attributes)
    tokens = packed("table of tokens", lambda: _table_of(pool().tokens))
    grams = packed("n-grams", lambda: gram_table(pool()))
    weights = packed("weights of n-grams", lambda: gram_weights(pool()))
    _, longest, _, mask = grams.array[:4].tolist()
    binary = int(attributes["mode"] == "IDF")
    return _Counting(tokens, grams, weights if weights.array.size else 0, binary, longest > 1, mask + 1)


def _table_of(tokens: dict[str, int] | Array) -> Array:
    return token_table(tokens) if isinstance(tokens, dict) else integer_table(tokens)


@lower("TfIdfVectorizer", since=9, text=True)
@refusing
def tfidf_vectorizer(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX TfIdfVectorizer-9, for n-grams that have coordinates of their own."""
    y = only_output(site)
    texts = x.dtype.hasobject
    accept(texts or x.dtype.name in ("int32", "int64"), f"X is {x}")
    accept(x.ndim in (1, 2), f"X is {x}")
    accept(bool(attributes.get("pool_strings")) == texts, "tokens of another type than X")
    rows, columns = x.shape if x.ndim == 2 else (1, x.shape[0])
    accept(columns < _MOST, "too many tokens")
    width = tfidf_width(attributes["ngram_indexes"])
    check_result(y, (*x.shape[:-1], width))
    layout = _layout(site) if texts else 0
    counting = _counting(site, attributes)
    words, nbytes = _words(site, counting.tokens if texts else None, counting.ring)
    site.call(
        native(CODE, "tfidf", "str" if texts else x.dtype.name, counting.many),
        x, layout, columns, counting.tokens, counting.grams, y, width, counting.weights, counting.binary,
        words, words.nbytes, nbytes, FAULT,
        units=rows, work=rows * (columns * _TOKEN_NS + width * _COLUMN_NS),
    )  # fmt: skip


class _Classes(NamedTuple):
    """Which characters make tokens.

    Attributes:
        inside: of the 128 of ASCII.
        wide: whether all others are inside, too.
        shortest, longest: characters of a token.
    """

    inside: frozenset[int]
    wide: bool
    shortest: int
    longest: int


_ALL = frozenset(range(128))


def _classes(
    *,
    mark: int,
    mincharnum: int,
    pad_value: str,
    separators: tuple[str, ...] | None = None,
    tokenexp: str | None = None,
) -> _Classes:
    """Return what a Tokenizer takes for tokens, where that is runs of one class, or single characters."""
    if mark:
        raise Unsupported("marks around tokens")
    if separators == ("",) or (separators is None and tokenexp == "."):
        return _Classes(_ALL, True, 1, 1)
    if separators is not None:
        if not all(len(s) == 1 and s.isascii() and re.escape(s) == s for s in separators):
            raise Unsupported("separators that are no single characters")
        return _Classes(_ALL - frozenset(map(ord, separators)), True, mincharnum, _MOST)
    expression = tokenexp or ""
    run = run_of(expression)
    if run is None:
        raise Unsupported(f"tokenexp {expression!r} is no run of one class of characters")
    one, repeated = re.compile(run[0], re.ASCII), run[1]
    inside = frozenset(code for code in range(128) if one.fullmatch(chr(code)))
    return _Classes(inside, bool(one.fullmatch("\u0100")), max(mincharnum, repeated), _MOST)


def _class_table(classes: _Classes, case: str) -> Array:
    """Return what becomes of each character below 256, the last one standing for those beyond."""
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(case, str)
    # Some letters beyond ASCII have a capital letter within. Small ones are known to the kernel.
    beyond = _REFUSE if classes.wide or case == "UPPER" else _BREAK
    table = np.full(256, beyond, np.uint8)
    changed = [ord(change(chr(code))) for code in range(128)]
    table[:128] = [code if code in classes.inside else _BREAK for code in changed]
    return table


@lower("TokenizedTfIdf", since=1, domain=INTERNAL, text=True)
@refusing
def tokenized_tfidf(
    site: Site,
    x: Operand,
    *,
    flat: int,
    normalizer: Attributes | None,
    tokenizer: Attributes,
    flattened: int,
    vectorizer: Attributes,
    labels: tuple[str, ...] = (),
) -> None:
    """StringNormalizer, Tokenizer, TfIdfVectorizer in one, for tokens that are runs of a class of ASCII."""
    y = only_output(site)
    accept(x.dtype.hasobject and x.size > 0, f"X is {x}")
    shape = (x.size,) if flat else x.shape
    accept(len(shape) == 1 or (len(shape) == 2 and shape[1] == 1), "more than one text in a row")
    accept(len(shape) == 1 or bool(flattened), "tokens of rank 3")
    case = ""
    if normalizer is not None:
        accept(len(shape) == 1 or shape[0] == 1, "rows of texts for StringNormalizer")
        accept(not reference.is_turkic(normalizer.get("locale")), "letters of Turkish")
        case = normalizer.get("case_change_action", "NONE")
    classes = _classes(**tokenizer)
    pool = vectorizer.get("pool_strings") or ()
    accept(bool(pool), "tokens of another type than X")
    accept(tokenizer["pad_value"] not in pool, "padding that is a token")
    width = tfidf_width(vectorizer["ngram_indexes"])
    check_result(y, (shape[0], width))
    layout = _layout(site)
    counting = _counting(site, vectorizer)
    table = _class_table(classes, case)
    words, nbytes = _words(site, counting.tokens, counting.ring)
    site.call(
        native(CODE, "tokenized_tfidf", counting.many),
        x, layout, kept(site, None, ("classes", table.tobytes()), lambda: table), classes.shortest,
        classes.longest, int(case == "LOWER"), counting.tokens, counting.grams, y, width, counting.weights,
        counting.binary, words, words.nbytes, nbytes, FAULT,
        units=shape[0], work=shape[0] * (_TEXT_NS + width * _COLUMN_NS),
    )  # fmt: skip


# --- look-ups ------------------------------------------------------------------------------------


def emit_look_up(site: Site, x: Operand, attributes: Attributes, lookup: Lookup) -> None:
    """Add the call that finds the value of each string."""
    y = only_output(site)
    keys, values = lookup.keys_of_strings, lookup.values
    accept(values.dtype.kind in "iuf" and values.dtype.itemsize <= 8, "values that are no numbers")
    accept(y.dtype == values.dtype, f"values are {values.dtype}")
    check_result(y, x.shape)
    tokens = of_attributes(site, attributes, "table of keys", partial(token_table, keys))
    words, _ = _words(site, tokens)
    site.call(
        native(CODE, "look_up", y.dtype.itemsize),
        x, _layout(site), x.size, tokens, of_attributes(site, attributes, "values of keys", lambda: values),
        values.size - 1, y, words, words.nbytes, FAULT,
        units=-(-x.size // _BLOCK), work=x.size * _TOKEN_NS,
    )  # fmt: skip


def emit_one_hot(site: Site, x: Operand, categories: tuple[str, ...]) -> None:
    """Add the call that makes a row of zeros with one 1 of each string."""
    y = only_output(site)
    width = len(categories)
    check_result(y, (*x.shape, width))
    numbers = {category: number for number, category in enumerate(categories)}
    tokens = kept(site, categories, "table of categories", lambda: token_table(numbers))
    words, _ = _words(site, tokens)
    site.call(
        native(CODE, "one_hot"),
        x, _layout(site), tokens, y, width, words, words.nbytes, FAULT,
        units=x.size, work=x.size * (_TOKEN_NS + width * _COLUMN_NS), grain=64,
    )  # fmt: skip


@lower("LabelEncoder", since=1, domain=ML, text=True)
@refusing
def label_encoder_1(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML LabelEncoder-1, from strings to numbers."""
    accept(x.dtype.hasobject, f"X is {x}")
    emit_look_up(site, x, attributes, prepare_classes(**attributes)[0])


@lower("CategoryMapper", since=1, domain=ML, text=True)
@refusing
def category_mapper(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML CategoryMapper-1, from strings to numbers."""
    accept(x.dtype.hasobject, f"X is {x}")
    emit_look_up(site, x, attributes, prepare_categories(**attributes)[0])
