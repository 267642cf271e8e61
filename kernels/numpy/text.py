"""Strings: StringNormalizer, StringConcat, StringSplit, RegexFullMatch, TfIdfVectorizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.limits import Budget
from onnxref.registry import Context, Cost, op

from ._checks import broadcast_shape, check_choice
from ._text_common import compile_re2, padded_rows, string_tensor

_REFERENCE_BYTES = 8  # what a string tensor holds per element


# ------------------------------------------------------------------ StringNormalizer


def is_turkic(locale: str | None) -> bool:
    return (locale or "").lower().startswith(("tr", "az"))


def _turkic_lower(text: str) -> str:
    return text.replace("\u0130", "i").replace("I", "\u0131").lower()


def _turkic_upper(text: str) -> str:
    return text.replace("i", "\u0130").replace("\u0131", "I").upper()


class _Normalizer(NamedTuple):
    """What StringNormalizer needs of its attributes."""

    change: Callable[[str], str] | None  # of case, last
    compared: Callable[[str], str] | None  # what a word is for the comparison with stop words
    unwanted: frozenset[str]


def _prepare_normalizer(
    *,
    case_change_action: str = "NONE",
    is_case_sensitive: int = 0,
    locale: str | None = None,
    stopwords: tuple[str, ...] | None = None,
) -> _Normalizer:
    # By Unicode's rules; of all locales Turkish and Azeri alone change letters.
    lower, upper = (_turkic_lower, _turkic_upper) if is_turkic(locale) else (str.lower, str.upper)
    check_choice(case_change_action, ("NONE", "LOWER", "UPPER"), "case_change_action")
    change = {"NONE": None, "LOWER": lower, "UPPER": upper}[case_change_action]
    if is_case_sensitive:
        return _Normalizer(change, None, frozenset(stopwords or ()))
    return _Normalizer(change, lower, frozenset(map(lower, stopwords or ())))


@op("StringNormalizer", since=10, prepare=_prepare_normalizer)
def string_normalizer(x: Array, *, prepared: _Normalizer) -> Array:
    """Drop stop words from (C,) or (1, C), then change case (ONNX StringNormalizer-10)."""
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        raise KernelError(f"X must have shape (C,) or (1, C) (got {x.shape})")
    change, compared, unwanted = prepared
    words = x.ravel().tolist()
    if unwanted:
        keys = words if compared is None else list(map(compared, words))
        if change is not None and change is compared:
            words, change = keys, None
        words = [word for word, key in zip(words, keys, strict=True) if key not in unwanted]
    if change is not None:
        words = list(map(change, words))
    words = words or [""]
    return string_tensor(words).reshape(x.shape[:-1] + (len(words),))


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
        parts = [text.split(delimiter, limit) for text in x.ravel().tolist()]
    else:
        # Stripped first: "trailing whitespace is removed", from an unsplit rest too.
        parts = [text.strip().split(None, limit) for text in x.ravel().tolist()]
    counts = np.fromiter(map(len, parts), np.int64, x.size).reshape(x.shape)
    most = int(counts.max(initial=0))
    # One long element pads all the others.
    ctx.budget.check_bytes(x.size * most * _REFERENCE_BYTES)
    return padded_rows(parts, most, "").reshape(*x.shape, most), counts


# ------------------------------------------------------------------ RegexFullMatch


def _compile(*, pattern: str | None = None) -> Any:
    if pattern is None:
        raise KernelError("pattern must be given (got none)")
    return compile_re2(pattern.encode())  # for UTF-8: offsets in text cost more than the match


@op("RegexFullMatch", since=20, prepare=_compile)
def regex_full_match(x: Array, *, prepared: Any) -> Array:
    """Tell for each string whether the whole of it matches (ONNX RegexFullMatch-20)."""
    matches = (prepared.fullmatch(text.encode()) is not None for text in x.flat)
    return np.fromiter(matches, np.bool_, x.size).reshape(x.shape)


# ------------------------------------------------------------------ TfIdfVectorizer


class Grams(NamedTuple):
    """The n-grams of one length n, as a trie flattened into arrays.

    A prefix of length k + 1 is the code `prefix of length k * tokens + token`; its number is its
    position in the sorted `levels[k - 1]`.
    """

    levels: tuple[Array, ...]
    n_prefixes: int  # how many n-grams are different
    prefix_of: Array  # (m,) number of the whole n-gram; repeated n-grams share one
    coordinates: Array  # (m,) where in the output its count goes
    weights: Array  # (m,) float64


class _Places(NamedTuple):
    """Where counts go when every different n-gram has a coordinate of its own.

    `of_prefix` tells it by n and number; behind the last number stands the place for what is no n-gram.
    """

    of_prefix: dict[int, Array]
    weights: Array  # (width,) float64, by coordinate


class Pool(NamedTuple):
    """What TfIdfVectorizer needs of its attributes."""

    mode: str
    longest_skip: int
    tokens: dict[str, int] | Array  # code of each token; integers as a sorted array
    direct: Array | None  # codes of the integers from the first token on, -1 for none; ends with -1
    grams: dict[int, Grams]  # by n
    places: _Places | None
    width: int  # of the output


def _codes(pool: Pool, x: Array) -> Array:
    """Return each token's code, -1 for a token that no n-gram has."""
    if isinstance(pool.tokens, dict):
        if x.dtype.kind != "O":
            raise KernelError(f"X must hold strings for pool_strings (got {x.dtype})")
        found = map(pool.tokens.get, x.ravel().tolist(), repeat(-1))
        return np.fromiter(found, np.int64, x.size).reshape(x.shape)
    if x.dtype.kind == "O":
        raise KernelError("X must hold integers for pool_int64s (got strings)")
    if pool.direct is None:
        return _position(pool.tokens, x)
    # What lies below the first token wraps around to beyond the last one.
    offsets = (x.astype(np.int64) - pool.tokens[0]).view(np.uint64)
    codes: Array = pool.direct[np.minimum(offsets, np.uint64(pool.direct.size - 1))]
    return codes


def _direct(tokens: Array) -> Array | None:
    """Return a table of the codes of sorted integers, None where they lie far apart."""
    span = int(tokens[-1]) - int(tokens[0]) + 1
    if span > 8 * tokens.size + 1024:
        return None
    table = np.full(span + 1, -1)
    table[tokens - tokens[0]] = np.arange(tokens.size)
    return table


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


def _prepare_grams(codes: Array, n_tokens: int, coordinates: Array, weights: Array) -> Grams:
    """Flatten the trie of n-grams (m, n) given as token codes."""
    levels = []
    prefix = codes[:, 0]
    for k in range(1, codes.shape[1]):
        level, prefix = np.unique(prefix * n_tokens + codes[:, k], return_inverse=True)
        levels.append(level)
    n_prefixes = len(levels[-1]) if levels else n_tokens
    return Grams(tuple(levels), n_prefixes, prefix, coordinates, weights)


def _places(grams: dict[int, Grams], width: int) -> _Places | None:
    """Return where each n-gram's count goes, None where that is not one place of its own."""
    taken = np.concatenate([np.zeros(0, np.int64), *[g.coordinates for g in grams.values()]])
    if np.unique(taken).size < taken.size or any(
        np.unique(g.prefix_of).size < g.prefix_of.size for g in grams.values()
    ):
        return None
    weights = np.ones(width)
    of_prefix = {}
    for n, g in grams.items():
        # A token alone may be no n-gram: the pool holds it for longer ones.
        of_prefix[n] = np.full(g.n_prefixes + 1, width)
        of_prefix[n][g.prefix_of] = g.coordinates
        weights[g.coordinates] = g.weights
    return _Places(of_prefix, weights)


def prepare_tfidf(
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
) -> Pool:
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
    width = tfidf_width(ngram_indexes)
    direct = _direct(tokens) if isinstance(tokens, np.ndarray) else None
    return Pool(mode, max_skip_count, tokens, direct, grams, _places(grams, width), width)


def _find_grams(
    grams: Grams, codes: Array, n_tokens: int, longest_skip: int, budget: Budget
) -> Iterator[Array]:
    """Yield for each stride which n-gram begins at each token of `codes` (N, C), -1 for none."""
    n = len(grams.levels) + 1
    length = codes.shape[1]
    # Skips do not matter to single tokens, and n-grams longer than the row do not exist.
    furthest = min(longest_skip + 1, (length - 1) // (n - 1)) if n > 1 else 1
    for stride in range(1, furthest + 1):
        budget.check_time()
        starts = max(length - (n - 1) * stride, 0)
        prefix = codes[:, :starts]
        for k, level in enumerate(grams.levels, start=1):
            token = codes[:, k * stride : k * stride + starts]
            known = np.nonzero((prefix >= 0) & (token >= 0))
            longer = np.full(prefix.shape, -1)
            longer[known] = _position(level, prefix[known] * n_tokens + token[known])
            prefix = longer
        yield prefix


def _count(found: Iterable[Array], rows: int, width: int) -> Array:
    """Return how often each number below `width` occurs in each row of `found` (N, any), as (N, width)."""
    counts = np.zeros(rows * width, np.int64)
    first = np.arange(rows)[:, np.newaxis] * width
    for numbers in found:
        counts += np.bincount((numbers + first).reshape(-1), minlength=counts.size)
    return counts.reshape(rows, width)


def _occurring(found: Iterable[Array], rows: int, width: int) -> tuple[Array, Array]:
    """Return row * width + number of the numbers < `width` in `found` (N, any), and how often each occurs."""
    first = np.arange(rows)[:, np.newaxis] * width
    keys = [np.zeros(0, np.int64)]
    keys += [(numbers + first)[numbers < width] for numbers in found]
    joined = np.concatenate(keys)
    if joined.size * 16 < rows * width:
        return np.unique(joined, return_counts=True)
    counts = np.bincount(joined, minlength=rows * width)
    where = np.flatnonzero(counts)
    return where, counts[where]


def _tfidf_rows(x: Array) -> tuple[int, tuple[int, ...]]:
    if x.ndim > 2:
        raise KernelError(f"X must have shape (C,) or (N, C) (got {x.shape})")
    return (x.shape[0], x.shape[:1]) if x.ndim == 2 else (1, ())


def tfidf_width(ngram_indexes: Sequence[int]) -> int:
    """Return how many columns the result of a TfIdfVectorizer has."""
    return max(ngram_indexes, default=-1) + 1


def _tfidf_cost(x: Array, *, ngram_indexes: tuple[int, ...], **_attributes: Any) -> Cost:
    rows, _ = _tfidf_rows(x)
    out = 4 * rows * tfidf_width(ngram_indexes)
    return Cost(out, 40 * rows * len(ngram_indexes) + 40 * x.size)


@op("TfIdfVectorizer", since=9, cost=_tfidf_cost, prepare=prepare_tfidf)
def tfidf_vectorizer(x: Array, *, prepared: Pool, ctx: Context) -> Array:
    """Count the pool's n-grams in (C,) or (N, C), giving (width,) or (N, width) (ONNX TfIdfVectorizer-9)."""
    rows, batch = _tfidf_rows(x)
    codes = _codes(prepared, x.reshape(rows, x.size // max(rows, 1)))
    n_tokens, skip = len(prepared.tokens), prepared.longest_skip
    found = {n: _find_grams(g, codes, n_tokens, skip, ctx.budget) for n, g in prepared.grams.items()}
    result = np.zeros((rows, prepared.width), np.float32)
    if prepared.places is not None:
        of_prefix, weights = prepared.places
        placed = (of_prefix[n][prefix] for n, each in found.items() for prefix in each)
        where, counts = _occurring(placed, rows, prepared.width)
        result.reshape(-1)[where] = _weighted(counts, weights[where % prepared.width], prepared.mode)
        return result.reshape(*batch, prepared.width)
    for n, grams in prepared.grams.items():
        counts = _count((prefix + 1 for prefix in found[n]), rows, grams.n_prefixes + 1)[:, 1:]
        # add.at, because several n-grams may share a coordinate.
        columns: Any = (slice(None), grams.coordinates)
        np.add.at(result, columns, _weighted(counts[:, grams.prefix_of], grams.weights, prepared.mode))
    return result.reshape(*batch, prepared.width)


def _weighted(counts: Array, weights: Array, mode: str) -> Array:
    if mode == "IDF":
        counts = np.minimum(counts, 1)
    return (counts * weights).astype(np.float32)
