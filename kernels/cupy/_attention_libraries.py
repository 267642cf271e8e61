"""Attention by libraries: cuDNN's, or two products of cuBLASLt round a softmax of rows.

Heads are read and written where they lie. cuDNN takes any strides whose last is 1, and Q, K, V and Y need not
lie alike (its front end's documentation: "BHSD, BSHD, Interleaved"); its kernels want rows at multiples of
16 bytes. A call of cuBLASLt takes matrices that are equally far apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnxref.gpu import Attention, Matmul, cuda_kernel
from onnxref.lowering import Address, Operand

from ._attention import CODE, MOST_SIZE, View, Work, dense_view, place_rows

_MANY_SCORES = 1 << 22  # from which products by cuBLASLt pay
_MOST_SCRATCH = 256 << 20  # bytes for scores


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Q, K, V or Y, with its extents (batch, heads, rows, size)."""

    view: View
    extents: tuple[int, int, int, int]

    @property
    def strides(self) -> tuple[int, int, int]:
        """Return the steps between batches, heads and rows; of a single one, what dense memory has."""
        dense = dense_view(self.view.source, *self.extents[1:], self.view.itemsize).steps
        steps = zip(self.extents[:3], self.view.steps, dense, strict=True)
        return tuple(wanted if n == 1 else step for n, step, wanted in steps)  # type: ignore[return-value]

    def copied(self, work: Work, *, is_result: bool = False) -> _Tensor:
        """Return a tensor of scratch without gaps; emit the copy to it unless it is a result."""
        nbytes = math.prod(self.extents) * self.view.itemsize
        goal = dense_view(work.site.scratch(nbytes), *self.extents[1:], self.view.itemsize)
        if not is_result:
            place_rows(work.site, None, self.view, goal, self.extents)
        return replace(self, view=goal)


def _tensors(work: Work) -> tuple[_Tensor, _Tensor, _Tensor, _Tensor]:
    """Return Q, K, V and Y."""
    s = work.sizes
    return (
        _Tensor(work.q, (s.batch, s.heads, s.queries, s.size)),
        _Tensor(work.k, (s.batch, s.kv_heads, s.keys, s.size)),
        _Tensor(work.v, (s.batch, s.kv_heads, s.keys, s.value_size)),
        _Tensor(work.y, (s.batch, s.heads, s.queries, s.value_size)),
    )


def _give(work: Work, y: _Tensor) -> None:
    """Emit the copy of a result to where it belongs."""
    if y.view is not work.y:
        place_rows(work.site, None, y.view, work.y, y.extents)


# cuDNN --------------------------------------------------------------------------------------------


def fits_cudnn(work: Work) -> bool:
    s = work.sizes
    is_plain = work.softcap == 0 and work.lengths is None and work.mask.keys >= s.keys and not work.is_strict
    if not is_plain or work.q.itemsize != 2 or "cudnn" not in work.site.libraries:
        return False
    if s.size % 8 or s.value_size % 8 or max(s.size, s.value_size) > 128:
        return False
    left, right = work.window
    # It counts positions from the end.
    if left >= 0 or right > 0 or (right == 0 and (work.past != s.keys - s.queries or work.past < 0)):
        return False
    mask = work.mask.operand
    if mask is None:
        return True
    if mask.dtype.name != work.dtype or mask.ndim != 4 or mask.shape[2:] != (s.queries, s.keys) or right == 0:
        return False
    # Rows that see nothing are zeros here.
    return mask.constant is not None and bool((mask.constant.max(axis=-1) > -np.inf).all())


def _is_aligned(x: _Tensor) -> bool:
    """Whether rows lie at multiples of 16 bytes, as cuDNN reads and writes them."""
    places = (x.view.offset, *x.strides)
    return all(place * x.view.itemsize % 16 == 0 for place in places) and 0 not in x.strides


def by_cudnn(work: Work) -> None:
    s = work.sizes
    q, k, v, y = (x if _is_aligned(x) else x.copied(work, is_result=x.view is work.y) for x in _tensors(work))
    mask = work.mask.operand
    op = Attention(
        *(s.batch, s.heads, s.kv_heads, s.queries, s.keys, s.size, s.value_size, work.dtype, work.scale),
        causal=work.window[1] == 0,
        bias_shape=() if mask is None else mask.shape,
        strides=tuple(x.strides for x in (q, k, v, y)),
    )
    tensors: dict[str, Address | Operand] = {
        role: x.view.address for role, x in zip("qkvy", (q, k, v, y), strict=True)
    }
    if mask is not None:
        tensors["bias"] = mask
    work.site.library(op, **tensors)
    _give(work, y)


# cuBLASLt -----------------------------------------------------------------------------------------


def fits_products(work: Work) -> bool:
    s = work.sizes
    is_tf32 = work.site.precision == "tf32" and work.dtype == "float32"
    if work.q.itemsize == 2 or "cublaslt" not in work.site.libraries or work.is_strict:
        return False
    if s.group * s.queries * s.keys * work.wide > _MOST_SCRATCH:
        return False
    sees_all = work.window == (-1, -1) and work.lengths is None
    too_large = max(s.size, s.value_size) > MOST_SIZE
    pays = (
        (sees_all or is_tf32) and s.scores >= _MANY_SCORES and min(s.queries, s.keys) >= 64 and s.size >= 32
    )
    return pays or too_large


@dataclass(frozen=True, slots=True)
class _Stack:
    """A tensor as a matrix for each head of K and V in each batch, the rows of a group of heads together.

    Attributes:
        batch, head: elements from a batch to the next and from a matrix to the next within it.
        pitch: elements from row to row.
        heads: matrices of a batch.
    """

    view: View
    batch: int
    head: int
    pitch: int
    heads: int

    @property
    def is_even(self) -> bool:
        """Whether all matrices are equally far apart, those of two batches too."""
        return self.batch == self.heads * self.head

    def at(self, matrix: int) -> Address:
        batch, head = divmod(matrix, self.heads)
        return self.view.address + (batch * self.batch + head * self.head) * self.view.itemsize


def _stack(x: _Tensor, group: int) -> _Stack | None:
    """Return a tensor as a stack of matrices, None where the rows of a group are not equally far apart."""
    batches, heads, rows, size = x.extents
    batch, head, row = x.strides
    if 0 in (batch, head) or row < size or (group > 1 and rows > 1 and head != rows * row):
        return None
    pitch = head if rows == 1 and group > 1 else row
    matrices = heads // group
    step = group * head if matrices > 1 else batch
    return _Stack(x.view, batch if batches > 1 else matrices * step, step, pitch, matrices)


def _stacks(work: Work, a: _Tensor, b: _Tensor, groups: tuple[int, int]) -> tuple[_Stack, _Stack]:
    """Return two tensors of one product as stacks, as they lie or copied: whatever takes fewer launches.

    A call takes matrices that are equally far apart: heads within (B, L, heads * D) need one for each batch.
    """
    found = [_stack(x, group) for x, group in zip((a, b), groups, strict=True)]
    uneven = sum(stack is not None and not stack.is_even for stack in found)
    calls = work.sizes.batch - 1  # that are more than one
    made = []
    for x, group, stack in zip((a, b), groups, found, strict=True):
        if stack is None or (not stack.is_even and calls > uneven):
            stack = _stack(x.copied(work, is_result=x.view is work.y), group)
            assert stack is not None
        made.append(stack)
    return made[0], made[1]


def _runs(first: int, count: int, *stacks: _Stack) -> Iterator[tuple[int, int]]:
    """Yield (begin, count) of the matrices that one call takes."""
    end, heads = first + count, stacks[0].heads
    while first < end:
        stop = end if all(stack.is_even for stack in stacks) else min(end, (first // heads + 1) * heads)
        yield first, stop - first
        first = stop


def by_products(work: Work) -> None:
    s = work.sizes
    given = _tensors(work)
    q, k = _stacks(work, given[0], given[1], (s.group, 1))
    v, y = _stacks(work, given[2], given[3], (1, s.group))
    units, rows, size = s.batch * s.kv_heads, s.group * s.queries, work.wide
    at_once = min(units, _MOST_SCRATCH // (rows * s.keys * size))
    scores = work.site.scratch(at_once * rows * s.keys * size)
    tf32 = work.site.precision == "tf32" and work.dtype == "float32"
    kernel = cuda_kernel(CODE, "attention_rows.cu", "softmax_of_scores", **work.defines)
    matrix = rows * s.keys  # elements of scores
    for first in range(0, units, at_once):
        count = min(at_once, units - first)
        for begin, part in _runs(first, count, q, k):
            by_key = Matmul(
                *(rows, s.keys, s.size, work.dtype, False, True, work.scale, part),
                strides=(q.head, k.head, matrix),
                tf32=tf32,
                pitches=(q.pitch, k.pitch, 0),
            )
            place = scores + (begin - first) * matrix * size
            work.site.library(by_key, a=q.at(begin), b=k.at(begin), d=place)
        work.site.launch(
            kernel,
            *(scores, work.mask.operand or 0, work.lengths or 0, work.fault),
            *(s.numbers, work.mask.strides, work.rules),
            *(first, *work.factors[1:]),
            grid=(count * rows, 1, 1),
        )
        for begin, part in _runs(first, count, v, y):
            by_value = Matmul(
                *(rows, s.value_size, s.keys, work.dtype),
                batch=part,
                strides=(matrix, v.head, y.head),
                tf32=tf32,
                pitches=(0, v.pitch, y.pitch),
            )
            place = scores + (begin - first) * matrix * size
            work.site.library(by_value, a=place, b=v.at(begin), d=y.at(begin))
    _give(work, replace(given[3], view=y.view))
