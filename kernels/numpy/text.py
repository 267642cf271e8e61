"""Strings: StringNormalizer, StringConcat, StringSplit, RegexFullMatch, TfIdfVectorizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError, MissingDependencyError
from onnxref.limits import Budget
from onnxref.registry import Context, Cost, op

from ._checks import broadcast_shape, check_choice

_REFERENCE_BYTES = 8  # what a string tensor holds per element


# ------------------------------------------------------------------ StringNormalizer


def _is_turkic(locale: str | None) -> bool:
    return (locale or "").lower().startswith(("tr", "az"))


def _lower(text: str, locale: str | None) -> str:
    """Lower-case by Unicode's rules; of all locales Turkish and Azeri alone change letters."""
    if _is_turkic(locale):
        text = text.replace("\u0130", "i").replace("I", "\u0131")
    return text.lower()


def _upper(text: str, locale: str | None) -> str:
    if _is_turkic(locale):
        text = text.replace("i", "\u0130").replace("\u0131", "I")
    return text.upper()


@op("StringNormalizer", since=10)
def string_normalizer(
    x: Array,
    *,
    case_change_action: str = "NONE",
    is_case_sensitive: int = 0,
    locale: str | None = None,
    stopwords: tuple[str, ...] | None = None,
) -> Array:
    """Drop stop words from (C,) or (1, C), then change case (ONNX StringNormalizer-10)."""
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        raise KernelError(f"X must have shape (C,) or (1, C) (got {x.shape})")
    check_choice(case_change_action, ("NONE", "LOWER", "UPPER"), "case_change_action")
    words = x.ravel().tolist()
    if is_case_sensitive:
        unwanted = set(stopwords or ())
        words = [w for w in words if w not in unwanted]
    else:
        unwanted = {_lower(w, locale) for w in stopwords or ()}
        words = [w for w in words if _lower(w, locale) not in unwanted]
    if case_change_action == "LOWER":
        words = [_lower(w, locale) for w in words]
    elif case_change_action == "UPPER":
        words = [_upper(w, locale) for w in words]
    words = words or [""]
    return np.array(words, object).reshape(x.shape[:-1] + (len(words),))


# ------------------------------------------------------------------ StringConcat, StringSplit


def _concat_cost(x: Array, y: Array) -> Cost:
    return Cost(math.prod(broadcast_shape(x.shape, y.shape, names="X and Y")) * _REFERENCE_BYTES)


@op("StringConcat", since=20, cost=_concat_cost)
def string_concat(x: Array, y: Array, *, ctx: Context) -> Array:
    """Concatenate elementwise, with broadcasting (ONNX StringConcat-20)."""
    shape = broadcast_shape(x.shape, y.shape, names="X and Y")
    size = math.prod(shape)
    if size:
        wanted = sum(sum(map(len, part.flat)) * (size // part.size) for part in (x, y))
        ctx.budget.check_strings(wanted)
    result = np.empty(shape, object)
    result[...] = x + y
    return result


@op("StringSplit", since=20)
def string_split(
    x: Array, *, delimiter: str | None = None, maxsplit: int | None = None, ctx: Context
) -> tuple[Array, Array]:
    """Split each element into (X.shape, most parts), padded with "" (ONNX StringSplit-20)."""
    limit = -1 if maxsplit is None else maxsplit
    if delimiter:
        parts = [text.split(delimiter, limit) for text in x.flat]
    else:
        # Stripped first: "trailing whitespace is removed", from an unsplit rest too.
        parts = [text.strip().split(None, limit) for text in x.flat]
    counts = np.array([len(p) for p in parts], np.int64).reshape(x.shape)
    most = int(counts.max(initial=0))
    # One long element pads all the others.
    ctx.budget.check_bytes(x.size * most * _REFERENCE_BYTES)
    result = np.full((x.size, most), "", object)
    for row, p in zip(result, parts, strict=True):
        row[: len(p)] = p
    return result.reshape(*x.shape, most), counts


# ------------------------------------------------------------------ RegexFullMatch


def _compile(*, pattern: str | None = None) -> Any:
    if pattern is None:
        raise KernelError("pattern must be given (got none)")
    try:
        import re2
    except ImportError as error:
        raise MissingDependencyError(
            "RegexFullMatch needs google-re2: run `pip install onnxref[text]`"
        ) from error
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise KernelError(f"pattern must be a valid RE2 expression (got {pattern!r}: {error})") from error


@op("RegexFullMatch", since=20, prepare=_compile)
def regex_full_match(x: Array, *, prepared: Any) -> Array:
    """Tell for each string whether the whole of it matches (ONNX RegexFullMatch-20)."""
    matches = (prepared.fullmatch(text) is not None for text in x.flat)
    return np.fromiter(matches, np.bool_, x.size).reshape(x.shape)


# ------------------------------------------------------------------ TfIdfVectorizer


class _Grams(NamedTuple):
    """The n-grams of one length n, as a trie flattened into arrays.

    A prefix of length k + 1 is the code `prefix of length k * tokens + token`; its number is its
    position in the sorted `levels[k - 1]`.
    """

    levels: tuple[Array, ...]
    prefix_of: Array  # (m,) number of the whole n-gram; repeated n-grams share one
    coordinates: Array  # (m,) where in the output its count goes
    weights: Array  # (m,) float64


class _Pool(NamedTuple):
    """What TfIdfVectorizer needs of its attributes."""

    mode: str
    longest_skip: int
    tokens: dict[str, int] | Array  # code of each token; integers as a sorted array
    grams: dict[int, _Grams]  # by n
    width: int  # of the output


def _codes(pool: _Pool, x: Array) -> Array:
    """Return each token's code, -1 for a token that no n-gram has."""
    if isinstance(pool.tokens, dict):
        if x.dtype.kind != "O":
            raise KernelError(f"X must hold strings for pool_strings (got {x.dtype})")
        return np.array([pool.tokens.get(t, -1) for t in x.flat], np.int64).reshape(x.shape)
    if x.dtype.kind == "O":
        raise KernelError("X must hold integers for pool_int64s (got strings)")
    return _position(pool.tokens, x)


def _position(ordered: Array, values: Array) -> Array:
    """Return the position of each value in a sorted array, -1 where it is missing."""
    if ordered.size == 0:
        return np.full(values.shape, -1, np.int64)
    found = np.minimum(np.searchsorted(ordered, values), ordered.size - 1)
    return np.where(ordered[found] == values, found, -1)


def _spans(
    counts: Sequence[int], n_items: int, shortest: int, longest: int
) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Return {n: (first item, first n-gram, how many n-grams)} for the lengths asked for, and their total."""
    if not counts:
        raise KernelError("ngram_counts must not be empty (got no offset)")
    spans = {}
    n_grams = 0
    for n, (start, end) in enumerate(zip(counts, (*counts[1:], n_items), strict=True), start=1):
        if not 0 <= start <= end <= n_items or (end - start) % n:
            raise KernelError(
                f"ngram_counts must be ascending offsets into a pool of {n_items}, "
                f"with whole {n}-grams between them (got {tuple(counts)})"
            )
        if shortest <= n <= longest and end > start:
            spans[n] = (start, n_grams, (end - start) // n)
        n_grams += (end - start) // n
    return spans, n_grams


def _prepare_grams(codes: Array, n_tokens: int, coordinates: Array, weights: Array) -> _Grams:
    """Flatten the trie of n-grams (m, n) given as token codes."""
    levels = []
    prefix = codes[:, 0]
    for k in range(1, codes.shape[1]):
        level, prefix = np.unique(prefix * n_tokens + codes[:, k], return_inverse=True)
        levels.append(level)
    return _Grams(tuple(levels), prefix, coordinates, weights)


def _prepare_tfidf(
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: tuple[int, ...],
    ngram_indexes: tuple[int, ...],
    pool_int64s: tuple[int, ...] | None = None,
    pool_strings: tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
) -> _Pool:
    check_choice(mode, ("TF", "IDF", "TFIDF"), "mode")
    if not 1 <= min_gram_length <= max_gram_length:
        raise KernelError(f"min_gram_length must be in [1, {max_gram_length}] (got {min_gram_length})")
    if max_skip_count < 0:
        raise KernelError(f"max_skip_count must be >= 0 (got {max_skip_count})")
    tokens: dict[str, int] | Array
    if pool_strings and not pool_int64s:
        tokens = {t: i for i, t in enumerate(dict.fromkeys(pool_strings))}
        items = np.array([tokens[t] for t in pool_strings], np.int64)
    elif pool_int64s and not pool_strings:
        tokens, items = np.unique(np.array(pool_int64s, np.int64), return_inverse=True)
    else:
        raise KernelError("exactly one of pool_int64s and pool_strings must be given")
    spans, n_grams = _spans(ngram_counts, len(items), min_gram_length, max_gram_length)
    if len(ngram_indexes) != n_grams or min(ngram_indexes, default=0) < 0:
        raise KernelError(f"ngram_indexes must hold {n_grams} values >= 0 (got {len(ngram_indexes)})")
    if weights and len(weights) != n_grams:
        raise KernelError(f"weights must hold {n_grams} values, one per n-gram (got {len(weights)})")
    where = np.array(ngram_indexes, np.int64)
    scale = np.array(weights, np.float64) if weights and mode != "TF" else np.ones(n_grams)
    grams = {
        n: _prepare_grams(
            items[start : start + n * count].reshape(count, n),
            len(tokens),
            where[first : first + count],
            scale[first : first + count],
        )
        for n, (start, first, count) in spans.items()
    }
    return _Pool(mode, max_skip_count, tokens, grams, max(ngram_indexes, default=-1) + 1)


def _count_grams(grams: _Grams, codes: Array, n_tokens: int, longest_skip: int, budget: Budget) -> Array:
    """Return how often each n-gram occurs in each row of `codes` (N, C), as (N, m)."""
    n = len(grams.levels) + 1
    rows, length = codes.shape
    n_prefixes = len(grams.levels[-1]) if grams.levels else n_tokens
    counts = np.zeros(rows * n_prefixes, np.int64)
    # Skips do not matter to single tokens, and n-grams longer than the row do not exist.
    furthest = min(longest_skip + 1, (length - 1) // (n - 1)) if n > 1 else 1
    for stride in range(1, furthest + 1):
        budget.check_time()
        starts = max(length - (n - 1) * stride, 0)
        prefix = codes[:, :starts]
        for k, level in enumerate(grams.levels, start=1):
            token = codes[:, k * stride : k * stride + starts]
            known = (prefix >= 0) & (token >= 0)
            prefix = np.where(known, _position(level, prefix * n_tokens + token), -1)
        row, column = np.nonzero(prefix >= 0)
        counts += np.bincount(row * n_prefixes + prefix[row, column], minlength=counts.size)
    return counts.reshape(rows, n_prefixes)[:, grams.prefix_of]


def _tfidf_rows(x: Array) -> tuple[int, tuple[int, ...]]:
    if x.ndim > 2:
        raise KernelError(f"X must have shape (C,) or (N, C) (got {x.shape})")
    return (x.shape[0], x.shape[:1]) if x.ndim == 2 else (1, ())


def _tfidf_cost(x: Array, *, ngram_indexes: tuple[int, ...], **_attributes: Any) -> Cost:
    rows, _ = _tfidf_rows(x)
    out = 4 * rows * (max(ngram_indexes, default=-1) + 1)
    return Cost(out, 40 * rows * len(ngram_indexes) + 40 * x.size)


@op("TfIdfVectorizer", since=9, cost=_tfidf_cost, prepare=_prepare_tfidf)
def tfidf_vectorizer(x: Array, *, prepared: _Pool, ctx: Context) -> Array:
    """Count the pool's n-grams in (C,) or (N, C), giving (width,) or (N, width) (ONNX TfIdfVectorizer-9)."""
    rows, batch = _tfidf_rows(x)
    codes = _codes(prepared, x.reshape(rows, x.size // max(rows, 1)))
    result = np.zeros((rows, prepared.width), np.float32)
    for grams in prepared.grams.values():
        counts = _count_grams(grams, codes, len(prepared.tokens), prepared.longest_skip, ctx.budget)
        if prepared.mode == "IDF":
            counts = np.minimum(counts, 1)
        columns: Any = (slice(None), grams.coordinates)
        # add.at, because several n-grams may share a coordinate.
        np.add.at(result, columns, (counts * grams.weights).astype(np.float32))
    return result.reshape(*batch, prepared.width)
