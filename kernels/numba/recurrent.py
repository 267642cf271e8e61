"""Recurrent layers as native code: RNN, GRU, LSTM (float32).

Tolerance against the reference: 2e-5 of the largest value, from another order of sums and from
exponentials good to a few units in the last place. Results do not depend on threads or batch size.

A product of all inputs with W comes first, then one call runs all steps: rows of a batch and
directions are independent of each other, steps are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Argument, Operand, Packed, Scratch, Site, Unsupported, lower
from onnxref.native import native
from onnxref.native._target import target

from .places import emit_range_check

_CODE: Final = "onnxref.kernels.numba.code.recurrent"
_REVERSE: Final = {"forward": 0, "foward": 0, "reverse": 1, "bidirectional": 2}  # bit d: d goes backwards
_GROUP: Final = 12  # rows of a batch that share a pass over R
_ROWS: Final = 48  # rows of X that share a panel of W

# Activations: defaults of alpha and beta, None where it takes none.
_FUNCTIONS: Final[dict[str, tuple[float | None, float | None]]] = {
    "relu": (None, None),
    "tanh": (None, None),
    "sigmoid": (None, None),
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, None),
    "thresholdedrelu": (1.0, None),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, None),
    "softsign": (None, None),
    "softplus": (None, None),
}


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


# Activations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Functions:
    """The activations of one direction, in lower case, and each one's alpha and beta."""

    names: tuple[str, ...]
    constants: tuple[float, ...]


def _activations(
    names: Sequence[str],
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
    directions: int,
    each: int,
) -> list[_Functions]:
    """Return the activations of each direction; alphas and betas go in order to those that take one."""
    if len(names) < directions * each:
        raise Unsupported("too few activations")
    next_alpha, next_beta = iter(alphas or ()), iter(betas or ())
    made = []
    for d in range(directions):
        chosen = tuple(name.lower() for name in names[d * each : (d + 1) * each])
        constants: list[float] = []
        for name in chosen:
            if name not in _FUNCTIONS:
                raise Unsupported(f"activation {name}")
            alpha, beta = _FUNCTIONS[name]
            constants.append(0.0 if alpha is None else float(next(next_alpha, alpha)))
            constants.append(0.0 if beta is None else float(next(next_beta, beta)))
        made.append(_Functions(chosen, tuple(constants)))
    return made


# What the three operators share ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layer:
    """A node's inputs, checked, and its sizes.

    Attributes:
        gates: G.
        reverse: bit d says whether direction d goes backwards.
        padded: elements of one gate, with its padding.
        width: elements of a row of gates, with its padding.
    """

    site: Site
    x: Operand
    w: Operand
    r: Operand
    b: Operand | None
    lengths: Operand | None
    start: Operand | None
    steps: int
    batch: int
    inputs: int
    directions: int
    hidden: int
    gates: int
    reverse: int
    batch_first: bool
    limit: float
    padded: int
    width: int

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
        functions: list[_Functions],
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
        same = all(chosen == functions[0] for chosen in functions)
        pieces = [(0, self.directions)] if same else [(d, 1) for d in range(self.directions)]
        # R streams from the second cache, once for three rows
        product = self.width * self.hidden * -(-self.batch // 3) * self.steps / 26.0
        for first, count in pieces:
            constants = functions[first].constants
            self.site.call(
                native(_CODE, template, *_named(functions[first], variant)),
                xw, r, y or 0, y_last or 0, self.start or 0, self.lengths or 0, memory, self.steps,
                self.batch, self.hidden, self.padded, self.width, group, first, self.reverse, *self.strides(),
                memory.nbytes, self.limit, *constants, *(0,) * (6 - len(constants)), *own,
                units=count * -(-self.batch // group), work=count * product,
            )  # fmt: skip


def _named(functions: _Functions, variant: tuple[Any, ...]) -> tuple[Any, ...]:
    names: Any = functions.names if len(functions.names) > 1 else functions.names[0]
    return (names, *variant)


def _layer(
    site: Site,
    x: Operand,
    w: Operand,
    r: Operand,
    b: Operand | None,
    lengths: Operand | None,
    start: Operand | None,
    gates: int,
    direction: str,
    hidden_size: int | None,
    layout: int,
    clip: float | None,
    row: Callable[[int], int],
) -> _Layer:
    """Check the inputs that all three share.

    Args:
        row: returns the elements of a row of gates from those of one padded gate.
    """
    if x.dtype != np.float32:
        raise Unsupported(f"{x.dtype.name}; only float32")
    if direction not in _REVERSE or layout not in (0, 1) or (clip is not None and not clip >= 0):
        raise Unsupported("an attribute is out of range")
    if x.ndim != 3 or r.ndim != 3 or 0 in (*w.shape, *r.shape):
        raise Unsupported("X or R is empty or of another rank")
    directions, hidden = 2 if direction == "bidirectional" else 1, r.shape[2]
    steps, batch, inputs = (x.shape[1], x.shape[0], x.shape[2]) if layout else x.shape
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    wanted = {
        "W": (w, (directions, gates * hidden, inputs)),
        "R": (r, (directions, gates * hidden, hidden)),
        "B": (b, (directions, 2 * gates * hidden)),
        "sequence_lens": (lengths, (batch,)),
        "initial_h": (start, state),
    }
    for name, (operand, shape) in wanted.items():
        _check(operand, shape, name)
    if hidden_size not in (None, hidden):
        raise Unsupported("hidden_size contradicts R")
    padded = _round_up(hidden, target().lanes)
    return _Layer(
        site, x, w, r, b, _checked_lengths(lengths, steps), start, steps, batch, inputs, directions, hidden,
        gates, _REVERSE[direction], bool(layout), float("inf") if clip is None else float(clip), padded,
        _half_panels(row(padded)),
    )  # fmt: skip


def _check(operand: Operand | None, shape: tuple[int, ...], name: str) -> None:
    if operand is not None and operand.shape != shape:
        raise Unsupported(f"{name} must have shape {shape} (got {operand.shape})")


def _checked_lengths(lengths: Operand | None, steps: int) -> Operand | None:
    """Return lengths, checked if constant; None where all sequences have all steps."""
    if lengths is None:
        return None
    if lengths.dtype != np.int32:
        raise Unsupported(f"sequence_lens is {lengths.dtype.name}")
    if lengths.constant is None:
        return lengths  # `project` adds the check
    if ((lengths.constant < 0) | (lengths.constant > steps)).any():
        raise Unsupported("sequence_lens is out of range")
    return None if (lengths.constant == steps).all() else lengths


# RNN ------------------------------------------------------------------------------------------


@lower("RNN", since=(1, 7, 14, 22))
def rnn(
    site: Site,
    x: Operand,
    w: Operand,
    r: Operand,
    b: Operand | None = None,
    sequence_lens: Operand | None = None,
    initial_h: Operand | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 0,
) -> None:
    """Run a simple recurrent layer (ONNX RNN-22)."""
    layer = _layer(
        site, x, w, r, b, sequence_lens, initial_h, 1, direction, hidden_size, layout, clip,
        lambda padded: padded,
    )  # fmt: skip
    functions = _activations(activations, activation_alpha, activation_beta, layer.directions, 1)
    xw = layer.project(layer.padded_rows(b, 0, 1, 1, 1, layer.width))
    recurrent = layer.packed_weights(r, layer.hidden, 0, 1, layer.width)
    layer.scan("rnn_scan", (), functions, xw, recurrent, 4 * (layer.padded + layer.width))


# GRU ------------------------------------------------------------------------------------------


@lower("GRU", since=(1, 3, 7, 14, 22))
def gru(
    site: Site,
    x: Operand,
    w: Operand,
    r: Operand,
    b: Operand | None = None,
    sequence_lens: Operand | None = None,
    initial_h: Operand | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
) -> None:
    """Run a gated recurrent layer (ONNX GRU-22); gates lie in the order z, r, h."""
    # The product of the candidate starts at the third gate and is a number of half panels wide by itself.
    layer = _layer(
        site, x, w, r, b, sequence_lens, initial_h, 3, direction, hidden_size, layout, clip,
        lambda padded: 2 * padded + _half_panels(padded),
    )  # fmt: skip
    names = ("Sigmoid", "Tanh") * layer.directions if activations is None else activations
    functions = _activations(names, activation_alpha, activation_beta, layer.directions, 2)
    linear = bool(linear_before_reset)
    hidden, padded, width = layer.hidden, layer.padded, layer.width
    # The candidate's own bias from R comes before the reset: there the two halves stay apart.
    xw = layer.project(layer.padded_rows(b, 0, 3, 0 if linear else 3, 3, width))
    if linear:
        recurrent = layer.packed_weights(r, hidden, 0, 3, width)
        own: tuple[Argument, ...] = (0, 0, layer.padded_rows(b, 3, 3, 0, 0, width), 0)
        memory_row = 4 * (2 * padded + width)
    else:
        first, second = _half_panels(2 * padded), _half_panels(padded)
        recurrent = layer.packed_weights(r, hidden, 0, 2, first)
        own = (layer.packed_weights(r, hidden, 2, 1, second), second, 0, first)
        memory_row = 4 * (2 * padded + first + second)
    layer.scan("gru_scan", (linear,), functions, xw, recurrent, memory_row, own)


# LSTM -----------------------------------------------------------------------------------------


@lower("LSTM", since=(1, 7, 14, 22))
def lstm(
    site: Site,
    x: Operand,
    w: Operand,
    r: Operand,
    b: Operand | None = None,
    sequence_lens: Operand | None = None,
    initial_h: Operand | None = None,
    initial_c: Operand | None = None,
    p: Operand | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
) -> None:
    """Run a long short-term memory layer (ONNX LSTM-22); gates lie in the order i, o, f, c."""
    layer = _layer(
        site, x, w, r, b, sequence_lens, initial_h, 4, direction, hidden_size, layout, clip,
        lambda padded: 4 * padded,
    )  # fmt: skip
    directions, batch, hidden, padded = layer.directions, layer.batch, layer.hidden, layer.padded
    _check(initial_c, (batch, directions, hidden) if layout else (directions, batch, hidden), "initial_c")
    _check(p, (directions, 3 * hidden), "P")
    names = ("Sigmoid", "Tanh", "Tanh") * directions if activations is None else activations
    functions = _activations(names, activation_alpha, activation_beta, directions, 3)
    xw = layer.project(layer.padded_rows(b, 0, 4, 4, 4, layer.width))
    recurrent = layer.packed_weights(r, hidden, 0, 4, layer.width)
    peep = None if p is None else layer.padded_rows(p, 0, 3, 0, 0, 3 * padded)
    y_c = (*site.outputs, None, None, None)[2]
    layer.scan(
        "lstm_scan", (p is not None, bool(input_forget)), functions, xw, recurrent,
        4 * (2 * padded + layer.width), (initial_c or 0, y_c or 0, peep or 0),
    )  # fmt: skip
