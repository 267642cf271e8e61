"""Tables that the kernels of `code/text.py` look tokens and n-grams up in, made while planning.

Open addressing with places free for at least half of them. Keys that collide so much that a look-up would
take more than a few steps make no table: a model cannot slow down its runs by choosing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported

from ..numpy import text as reference

# As in the kernels.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_TOKEN_HEAD, _TOKEN_SLOT = 4, 4
_PAIR_HEAD, _PAIR_SLOT = 2, 2
_GRAM_HEAD = 5

_MOST_STEPS = 64
_GROWTHS = 3  # how often a table is made twice as large, to take fewer steps
_LONGEST = 1 << 12  # characters of a token, tokens that an n-gram spans


def token_table(numbers: Mapping[str, int]) -> Array:
    """Return the table of the numbers of strings."""
    known = [token for token in numbers if token.isascii()]
    longest = max(map(len, known), default=0)
    if longest > _LONGEST:
        raise Unsupported(f"a token of {longest} characters")
    words = [_words(token) for token in known]
    slots, mask = _slots(_hashes(words, [len(token) for token in known]))
    rest = _TOKEN_HEAD + _TOKEN_SLOT * (mask + 1)
    table = np.zeros(rest + sum(max(len(w) - 1, 0) for w in words), np.int64)
    table[:_TOKEN_HEAD] = mask, longest, len(known) < len(numbers), 0
    entries = table[_TOKEN_HEAD:rest].reshape(-1, _TOKEN_SLOT)
    entries[:, 1] = -1
    for slot, token, own in zip(slots, known, words, strict=True):
        entries[slot] = own[0] if own else 0, len(token), numbers[token], rest
        table[rest : rest + len(own[1:])] = own[1:]
        rest += len(own[1:])
    return table


def integer_table(tokens: Array) -> Array:
    """Return the table of the places of different int64s in an array."""
    return _pair_table(tokens, np.arange(tokens.size))


def _pair_table(keys: Array, numbers: Array) -> Array:
    """Return the table of the number (>= 0) of each int64 key."""
    slots, mask = _slots(_mixed(keys.astype(np.int64).view(np.uint64)))
    table = np.zeros(_PAIR_HEAD + _PAIR_SLOT * (mask + 1), np.int64)
    table[0] = mask
    entries = table[_PAIR_HEAD:].reshape(-1, _PAIR_SLOT)
    entries[:, 1] = -1
    entries[slots] = np.stack([keys, numbers], axis=1)
    return table


def gram_table(pool: reference.Pool) -> Array:
    """Return the table of the n-grams of a TfIdfVectorizer, which must have coordinates of their own."""
    if pool.places is None:
        raise Unsupported("n-grams that share a coordinate")
    n_tokens, longest = len(pool.tokens), max(pool.grams, default=1)
    strides = pool.longest_skip + 1 if longest > 1 else 1
    span = (longest - 1) * strides + 1
    if span > _LONGEST:
        raise Unsupported(f"n-grams that span {span} tokens")
    coordinates = np.full(n_tokens, -1)
    if 1 in pool.grams:
        coordinates[pool.grams[1].prefix_of] = pool.grams[1].coordinates
    keys, nodes, coordinates = _trie(pool, n_tokens, coordinates)
    ring = 1 << (span - 1).bit_length()
    head = np.array([n_tokens, longest, strides, ring - 1, _GRAM_HEAD + coordinates.size], np.int64)
    return np.concatenate([head, coordinates, _pair_table(keys, nodes)])


def gram_weights(pool: reference.Pool) -> Array:
    """Return the weights of counts by coordinate, none where all are 1."""
    if pool.places is None or pool.mode == "TF" or (pool.places.weights == 1).all():
        return np.zeros(0)
    return pool.places.weights


def _trie(pool: reference.Pool, n_tokens: int, coordinates: Array) -> tuple[Array, Array, Array]:
    """Return keys and numbers of the nodes of more than one token, and the coordinates of all nodes."""
    backwards = {n: _tokens_of(grams, n_tokens)[:, ::-1] for n, grams in pool.grams.items() if n > 1}
    at = {n: tokens[:, 0] for n, tokens in backwards.items()}  # the node that each n-gram has come to
    all_keys, all_nodes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for depth in range(1, max(backwards, default=1)):
        longer = [n for n in backwards if n > depth]
        if (coordinates.size + 1) * n_tokens >= 1 << 62:
            raise Unsupported("too many n-grams")
        keys = np.concatenate([at[n] * n_tokens + backwards[n][:, depth] for n in longer])
        unique, inverse = np.unique(keys, return_inverse=True)
        nodes = coordinates.size + inverse
        all_keys.append(unique)
        all_nodes.append(coordinates.size + np.arange(unique.size))
        coordinates = np.append(coordinates, np.full(unique.size, -1))
        for n, own in zip(longer, np.split(nodes, np.cumsum([len(at[n]) for n in longer[:-1]])), strict=True):
            at[n] = own
            if n == depth + 1:
                coordinates[own] = pool.grams[n].coordinates
    return np.concatenate(all_keys), np.concatenate(all_nodes), coordinates


def _tokens_of(grams: reference.Grams, n_tokens: int) -> Array:
    """Return the codes of the tokens of n-grams, (m, n)."""
    columns: list[Array] = []
    prefix = grams.prefix_of
    for level in reversed(grams.levels):
        prefix, token = np.divmod(level[prefix], n_tokens)
        columns.append(token)
    return np.stack([prefix, *reversed(columns)], axis=1)


def _words(token: str) -> list[int]:
    """Return 8 characters of ASCII in each number, the first one highest."""
    data = token.encode()
    return [int.from_bytes(data[i : i + 8], "big") for i in range(0, len(data), 8)]


def _mixed(h: Array) -> Array:
    with np.errstate(over="ignore"):
        product: Array = h * _FACTOR
    mixed: Array = product ^ (product >> np.uint64(32))
    return mixed


def _hashes(words: Sequence[Sequence[int]], counts: Sequence[int]) -> Array:
    h = np.array(counts, np.uint64)
    for k in range(max(map(len, words), default=0)):
        longer = np.array([i for i, own in enumerate(words) if len(own) > k], np.intp)
        h[longer] = _mixed(h[longer] ^ np.array([words[i][k] for i in longer], np.uint64))
    return h


def _slots(hashes: Array) -> tuple[list[int], int]:
    """Return a slot for each hash, and the mask that gives the first one to look at."""
    size = 1 << max(2 * hashes.size, 4).bit_length()
    for _ in range(_GROWTHS):
        slots = _placed((hashes & np.uint64(size - 1)).tolist(), size)
        if slots is not None:
            return slots, size - 1
        size *= 2
    raise Unsupported("keys that collide")


def _placed(wanted: Sequence[int], size: int) -> list[int] | None:
    """Return the first free slot from each one on; None where one is too far away."""
    taken = bytearray(size)
    slots = []
    for first in wanted:
        slot, steps = first, 0
        while taken[slot]:
            slot, steps = (slot + 1) & (size - 1), steps + 1
            if steps > _MOST_STEPS:
                return None
        taken[slot] = 1
        slots.append(slot)
    return slots
