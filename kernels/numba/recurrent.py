"""Recurrent layers as native code: RNN, GRU, LSTM (float32).

Tolerance against the reference: 2e-5 of the largest value, from another order of sums and from
exponentials good to a few units in the last place. Results do not depend on threads or batch size.

A product of all inputs with W comes first, then one call runs all steps: rows of a batch and
directions are independent of each other, steps are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Argument, Operand, Packed, Scratch, Site, Unsupported
from onnxref.native import native
from onnxref.native._target import target

from ..common.recurrent import RECURRENT, Functions, Layer
from .places import emit_range_check

_CODE: Final = "onnxref.kernels.numba.code.recurrent"
_GROUP: Final = 12  # rows of a batch that share a pass over R
_ROWS: Final = 48  # rows of X that share a panel of W


def panel_width() -> int:
    """Return the columns of a panel of weights, as `code/recurrent.py` has it."""
    chosen = target()
    return chosen.lanes * (8 if chosen.registers == 32 else 4)


def _half_panels(elements: int) -> int:
    """Return the elements of as many half panels as hold so many: the last panel may be a half."""
    half = panel_width() // 2
    return -(-elements // half) * half


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


@dataclass(eq=False)
class _Layer(Layer):
    """A layer as its kernels see it.

    Attributes:
        padded: elements of one gate, with its padding.
        width: elements of a row of gates, with its padding.
    """

    padded: int
    width: int

    @classmethod
    def of(cls, layer: Layer) -> _Layer:
        padded = _round_up(layer.hidden, target().lanes)
        row = layer.gates * padded
        if layer.gates == 3:  # the product of the candidate is a number of half panels wide by itself
            row = 2 * padded + _half_panels(padded)
        return cls(**vars(layer), padded=padded, width=_half_panels(row))

    def strides(self) -> tuple[int, ...]:
        """Return the bytes between steps and rows of X W^T, steps, rows and directions of Y, states."""
        row, hidden = 4 * self.width, 4 * self.hidden
        if self.batch_first:
            y = hidden * self.directions
            return (row, row * self.steps, y, y * self.steps, hidden, hidden * self.directions, hidden)
        y_step = hidden * self.batch * self.directions
        return (row * self.batch, row, y_step, hidden, hidden * self.batch, hidden, hidden * self.batch)

    def packed_weights(
        self, weights: Operand, k: int, first: int, count: int, width: int
    ) -> Packed | Scratch:
        """Return gates `first` to `first + count` of W or R in panels, packed once if constant."""
        if weights.constant is not None:
            constant = weights.constant
            key = ("recurrent weights", self.gates, first, count, width, self.padded, panel_width())
            return self.site.pack((weights,), key, lambda: self._panels(constant, k, first, count, width))
        goal = self.site.scratch(4 * self.directions * k * width)
        panels = -(-width // panel_width())
        self.site.call(
            native(_CODE, "pack_weights"), goal, weights, count, self.hidden, self.padded, k, panels, first,
            self.gates, width, units=self.directions * panels, work=self.directions * k * width / 2.0,
        )  # fmt: skip
        return goal

    def _panels(self, weights: Array, k: int, first: int, count: int, width: int) -> Array:
        """Return `(D, G * H, K)` as panels `(K, columns)`, one behind the other, gates padded."""
        split = weights.reshape(self.directions, self.gates, self.hidden, k)[:, first : first + count]
        rows = np.zeros((self.directions, count, self.padded, k), np.float32)
        rows[:, :, : self.hidden] = split
        full = np.zeros((self.directions, width, k), np.float32)
        full[:, : count * self.padded] = rows.reshape(self.directions, count * self.padded, k)
        panels = [
            full[:, at : at + panel_width()].transpose(0, 2, 1) for at in range(0, width, panel_width())
        ]
        return np.concatenate([panel.reshape(self.directions, -1) for panel in panels], axis=1)

    def padded_rows(
        self, source: Operand | None, first: int, rows: int, added: int, offset: int, width: int
    ) -> Packed | Scratch:
        """Return rows of H elements of `(D, ...)` from `first` on, each padded, as `(D, width)`.

        Args:
            added: rows to which those `offset` rows further on are added.
        """
        h, directions = self.hidden, self.directions
        if source is None:
            zeros = np.zeros((directions, width), np.float32)
            return Packed(self.site.packs.get((), ("recurrent zeros", directions, width), lambda: zeros))
        if source.constant is not None:
            split = source.constant.reshape(directions, -1, h)

            def build() -> Array:
                made = split[:, first : first + rows].copy()
                made[:, :added] += split[:, first + offset : first + offset + added]
                full = np.zeros((directions, width), np.float32)
                full[:, : rows * self.padded].reshape(directions, rows, self.padded)[:, :, :h] = made
                return full

            key = ("recurrent rows", h, first, rows, added, offset, self.padded, width)
            return self.site.pack((source,), key, build)
        goal = self.site.scratch(4 * directions * width)
        step = source.size // directions
        self.site.call(
            native(_CODE, "pad_rows"), goal, source + 4 * first * h, source + 4 * (first + offset) * h, step,
            rows, added, h, self.padded, width, units=directions, work=directions * width / 2.0,
        )  # fmt: skip
        return goal

    def project(self, bias: Packed | Scratch) -> Scratch:
        """Emit the product of all inputs with W, from `bias` on; return `(D, S * N, width)`."""
        if self.lengths is not None and self.lengths.constant is None:
            emit_range_check(self.site, self.lengths, 0, self.steps + 1)
        rows = self.steps * self.batch
        weights = self.packed_weights(self.w, self.inputs, 0, self.gates, self.width)
        goal = self.site.scratch(4 * self.directions * rows * self.width)
        units = self.directions * -(-rows // _ROWS) * -(-self.width // panel_width())
        self.site.call(
            native(_CODE, "project"), self.x, weights, bias, goal, rows, self.inputs, self.width, _ROWS,
            units=units, work=self.directions * self.inputs * self.width * max(rows / 75.0, 0.04),
        )  # fmt: skip
        return goal

    def scan(
        self,
        template: str,
        variant: tuple[Any, ...],
        xw: Scratch,
        r: Packed | Scratch,
        memory_row: int,
        own: tuple[Argument, ...] = (),
    ) -> None:
        """Emit all steps: one call, or one for each direction where they differ in activations.

        Args:
            memory_row: bytes that a row of the batch needs for its states and gates.
        """
        y, y_last = (*self.site.outputs, None, None)[:2]
        groups = max(1, -(-self.batch // _GROUP))
        group = max(1, -(-self.batch // groups))
        memory = self.site.scratch(group * memory_row, per_thread=True)
        # R streams from the second cache, once for three rows
        product = self.width * self.hidden * -(-self.batch // 3) * self.steps / 26.0
        for first, count in self.pieces:
            constants = self.functions[first].constants
            self.site.call(
                native(_CODE, template, *_named(self.functions[first], variant)),
                xw, r, y or 0, y_last or 0, self.initial_h or 0, self.lengths or 0, memory, self.steps,
                self.batch, self.hidden, self.padded, self.width, group, first, self.reverse, *self.strides(),
                memory.nbytes, self.limit, *constants, *(0,) * (6 - len(constants)), *own,
                units=count * -(-self.batch // group), work=count * product,
            )  # fmt: skip


def _named(functions: Functions, variant: tuple[Any, ...]) -> tuple[Any, ...]:
    names: Any = functions.names if len(functions.names) > 1 else functions.names[0]
    return (names, *variant)


# RNN ------------------------------------------------------------------------------------------


def _rnn(layer: _Layer) -> None:
    xw = layer.project(layer.padded_rows(layer.b, 0, 1, 1, 1, layer.width))
    recurrent = layer.packed_weights(layer.r, layer.hidden, 0, 1, layer.width)
    layer.scan("rnn_scan", (), xw, recurrent, 4 * (layer.padded + layer.width))


# GRU ------------------------------------------------------------------------------------------


def _gru(layer: _Layer) -> None:
    hidden, padded, width, r = layer.hidden, layer.padded, layer.width, layer.r
    # The candidate's own bias from R comes before the reset: there the two halves stay apart.
    xw = layer.project(layer.padded_rows(layer.b, 0, 3, 0 if layer.is_linear else 3, 3, width))
    if layer.is_linear:
        recurrent = layer.packed_weights(r, hidden, 0, 3, width)
        own: tuple[Argument, ...] = (0, 0, layer.padded_rows(layer.b, 3, 3, 0, 0, width), 0)
        memory_row = 4 * (2 * padded + width)
    else:
        first, second = _half_panels(2 * padded), _half_panels(padded)
        recurrent = layer.packed_weights(r, hidden, 0, 2, first)
        own = (layer.packed_weights(r, hidden, 2, 1, second), second, 0, first)
        memory_row = 4 * (2 * padded + first + second)
    layer.scan("gru_scan", (layer.is_linear,), xw, recurrent, memory_row, own)


# LSTM -----------------------------------------------------------------------------------------


def _lstm(layer: _Layer) -> None:
    p, padded = layer.p, layer.padded
    xw = layer.project(layer.padded_rows(layer.b, 0, 4, 4, 4, layer.width))
    recurrent = layer.packed_weights(layer.r, layer.hidden, 0, 4, layer.width)
    peep = None if p is None else layer.padded_rows(p, 0, 3, 0, 0, 3 * padded)
    y_c = (*layer.site.outputs, None, None, None)[2]
    layer.scan(
        "lstm_scan", (p is not None, layer.is_coupled), xw, recurrent,
        4 * (2 * padded + layer.width), (layer.initial_c or 0, y_c or 0, peep or 0),
    )  # fmt: skip


def _emit(site: Site, layer: Layer) -> None:
    if layer.x.dtype != np.float32:
        raise Unsupported(f"{layer.x.dtype.name}; only float32")
    {1: _rnn, 3: _gru, 4: _lstm}[layer.gates](_Layer.of(layer))


RECURRENT.register("numba", _emit)
