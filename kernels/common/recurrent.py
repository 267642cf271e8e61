"""Recurrent layers (ONNX RNN-22, GRU-22, LSTM-22): sizes, directions, activations and their constants.

Letters: S steps, N batch, I input size, H hidden size, D directions, G gates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from onnxref.lowering import Operand, Site, Unsupported

from ..numpy.recurrent import FUNCTIONS, REVERSE
from .rules import Rules


class Functions(NamedTuple):
    """The activations of one direction, in lower case, and each one's alpha and beta."""

    names: tuple[str, ...]
    constants: tuple[float, ...]


@dataclass(eq=False)
class Layer:
    """A node, checked.

    Attributes:
        lengths: None where all sequences have all steps.
        gates: G; they lie in the order of the operator's W.
        reverse: bit d says whether direction d goes backwards.
        batch_first: whether X is (N, S, I), Y (N, S, D, H), and states are (N, D, H).
        is_linear: whether a GRU resets after the product with R.
        is_coupled: whether the forget gate of an LSTM is one minus its input gate.
        limit: what inputs of activations are clipped to, infinity for none.
        functions: of each direction.
    """

    site: Site
    x: Operand
    w: Operand
    r: Operand
    b: Operand | None
    lengths: Operand | None
    initial_h: Operand | None
    initial_c: Operand | None
    p: Operand | None
    steps: int
    batch: int
    inputs: int
    directions: int
    hidden: int
    gates: int
    reverse: int
    batch_first: bool
    is_linear: bool
    is_coupled: bool
    limit: float
    functions: list[Functions]

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Runs of directions (first, count) with the same activations."""
        same = all(one == self.functions[0] for one in self.functions)
        return [(0, self.directions)] if same else [(d, 1) for d in range(self.directions)]


RECURRENT: Rules[Layer] = Rules()
_DEFAULTS: Final = ("Sigmoid", "Tanh", "Tanh")  # activations of a GRU (the first two) and an LSTM


class _Attributes(NamedTuple):
    """What all three have."""

    activations: Sequence[str] | None
    alphas: Sequence[float] | None
    betas: Sequence[float] | None
    clip: float | None
    direction: str
    hidden_size: int | None
    layout: int


def _layer(
    site: Site,
    gates: int,
    inputs: tuple[Operand | None, ...],
    given: _Attributes,
    *,
    is_linear: bool = False,
    is_coupled: bool = False,
) -> Layer:
    """Check a node.

    Args:
        inputs: X, W, R, B, sequence_lens, initial_h, initial_c, P.
    """
    x, w, r, b, lengths, initial_h, initial_c, p = inputs
    assert x is not None
    assert w is not None
    assert r is not None
    layout, clip = given.layout, given.clip
    if given.direction not in REVERSE or layout not in (0, 1) or (clip is not None and not clip >= 0):
        raise Unsupported("an attribute is out of range")
    if x.ndim != 3 or r.ndim != 3 or 0 in (*w.shape, *r.shape):
        raise Unsupported("X or R is empty or of another rank")
    backwards, hidden = REVERSE[given.direction], r.shape[2]
    directions = len(backwards)
    if given.hidden_size not in (None, hidden):
        raise Unsupported("hidden_size contradicts R")
    steps, batch, size = (x.shape[1], x.shape[0], x.shape[2]) if layout else x.shape
    rows, state = gates * hidden, (batch, directions, hidden) if layout else (directions, batch, hidden)
    for operand, shape, name in (
        (x, x.shape, "X"),
        (w, (directions, rows, size), "W"),
        (r, (directions, rows, hidden), "R"),
        (b, (directions, 2 * rows), "B"),
        (lengths, (batch,), "sequence_lens"),
        (initial_h, state, "initial_h"),
        (initial_c, state, "initial_c"),
        (p, (directions, 3 * hidden), "P"),
    ):
        _check(operand, shape, x, name)
    return Layer(
        *(site, x, w, r, b, _checked_lengths(lengths, steps), initial_h, initial_c, p, steps, batch, size),
        *(directions, hidden, gates, sum(back << d for d, back in enumerate(backwards)), bool(layout)),
        *(is_linear, is_coupled, math.inf if clip is None else float(clip)),
        _activations(given, directions, {1: 1, 3: 2, 4: 3}[gates]),
    )


def _check(operand: Operand | None, shape: tuple[int, ...], x: Operand, name: str) -> None:
    if operand is None:
        return
    if operand.shape != shape or operand.layout is not None:
        raise Unsupported(f"{name} must have shape {shape} (got {operand})")
    if operand.dtype != (np.int32 if name == "sequence_lens" else x.dtype):
        raise Unsupported(f"{name} is {operand.dtype.name}")


def _checked_lengths(lengths: Operand | None, steps: int) -> Operand | None:
    """Return lengths, checked if constant; None where all sequences have all steps."""
    if lengths is None or lengths.constant is None:
        return lengths
    if ((lengths.constant < 0) | (lengths.constant > steps)).any():
        raise Unsupported("sequence_lens is out of range")
    return None if (lengths.constant == steps).all() else lengths


def _activations(given: _Attributes, directions: int, each: int) -> list[Functions]:
    """Return the activations of each direction; alphas and betas go in order to those that take one."""
    names = _DEFAULTS[:each] * directions if given.activations is None else given.activations
    if len(names) < directions * each:
        raise Unsupported("too few activations")
    next_alpha, next_beta = iter(given.alphas or ()), iter(given.betas or ())
    made = []
    for d in range(directions):
        chosen = tuple(name.lower() for name in names[d * each : (d + 1) * each])
        constants: list[float] = []
        for name in chosen:
            if name not in FUNCTIONS:
                raise Unsupported(f"activation {name}")
            _, alpha, beta = FUNCTIONS[name]
            constants.append(0.0 if alpha is None else float(next(next_alpha, alpha)))
            constants.append(0.0 if beta is None else float(next(next_beta, beta)))
        made.append(Functions(chosen, tuple(constants)))
    return made


# --- operators -----------------------------------------------------------------------------------


@RECURRENT.rule("RNN", since=(1, 7, 14, 22))
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
) -> Layer:
    """A simple recurrent layer (ONNX RNN-22)."""
    parameters = (activation_alpha, activation_beta)
    given = _Attributes(activations, *parameters, clip, direction, hidden_size, layout)
    return _layer(site, 1, (x, w, r, b, sequence_lens, initial_h, None, None), given)


@RECURRENT.rule("GRU", since=(1, 3, 7, 14, 22))
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
) -> Layer:
    """A gated recurrent layer (ONNX GRU-22); gates lie in the order z, r, h."""
    parameters = (activation_alpha, activation_beta)
    given = _Attributes(activations, *parameters, clip, direction, hidden_size, layout)
    inputs = (x, w, r, b, sequence_lens, initial_h, None, None)
    return _layer(site, 3, inputs, given, is_linear=bool(linear_before_reset))


@RECURRENT.rule("LSTM", since=(1, 7, 14, 22))
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
) -> Layer:
    """A long short-term memory layer (ONNX LSTM-22); gates lie in the order i, o, f, c."""
    parameters = (activation_alpha, activation_beta)
    given = _Attributes(activations, *parameters, clip, direction, hidden_size, layout)
    inputs = (x, w, r, b, sequence_lens, initial_h, initial_c, p)
    return _layer(site, 4, inputs, given, is_coupled=bool(input_forget))
