"""Recurrent layers: RNN, GRU, LSTM.

Letters: S steps, N batch, I input size, H hidden size, D directions, G gates times H.

The product of the inputs with W does not depend on the state, so one product serves all steps.
What remains per step is small, and most of its time is overhead: the loop works in buffers
made beforehand, with views cut beforehand. Activations change their argument in place.

The equations of version 1 multiply by R, later ones by its transpose. R is laid out like W in
every version (gate rows first), so version 1 reads as the erratum that version 7 corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.limits import Budget
from onnxref.registry import Context, Cost, op

from ._checks import check_choice, check_shape
from ._common import in_float32

Activation = Callable[[Array], Any]
# step(x W^T of this step, last hidden state, cell state or None, where to put the new hidden state);
# it updates the cell state in place
Step = Callable[[Array, Array, Any, Array], None]

REVERSE: Final[dict[str, tuple[bool, ...]]] = {
    "forward": (False,),
    "foward": (False,),  # the default that GRU-1 gives
    "reverse": (True,),
    "bidirectional": (False, True),
}

# Activations ----------------------------------------------------------------------------------


def _relu(x: Array, alpha: float, beta: float) -> None:
    np.maximum(x, 0, out=x)


def _tanh(x: Array, alpha: float, beta: float) -> None:
    np.tanh(x, out=x)


def _sigmoid(x: Array, alpha: float, beta: float) -> None:
    np.multiply(x, -1, out=x)  # not np.negative, which is wrong in place at some strides (NumPy 2.4)
    np.exp(x, out=x)  # infinite for large negative inputs, whose reciprocal is the right 0
    np.add(x, 1, out=x)
    np.reciprocal(x, out=x)


def _affine(x: Array, alpha: float, beta: float) -> None:
    np.multiply(x, alpha, out=x)
    np.add(x, beta, out=x)


def _leaky_relu(x: Array, alpha: float, beta: float) -> None:
    np.multiply(x, alpha, out=x, where=x < 0)


def _thresholded_relu(x: Array, alpha: float, beta: float) -> None:
    np.copyto(x, 0, where=x < alpha)


def _scaled_tanh(x: Array, alpha: float, beta: float) -> None:
    np.multiply(x, beta, out=x)
    np.tanh(x, out=x)
    np.multiply(x, alpha, out=x)


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> None:
    _affine(x, alpha, beta)
    np.clip(x, 0, 1, out=x)


def _elu(x: Array, alpha: float, beta: float) -> None:
    np.copyto(x, alpha * np.expm1(x), where=x < 0)


def _softsign(x: Array, alpha: float, beta: float) -> None:
    np.divide(x, 1 + np.abs(x), out=x)


def _softplus(x: Array, alpha: float, beta: float) -> None:
    np.logaddexp(x, x.dtype.type(0), out=x)


class _Function(NamedTuple):
    """An activation; the default of each parameter that it takes, None where it takes none."""

    apply: Callable[[Array, float, float], None]
    alpha: float | None = None
    beta: float | None = None


FUNCTIONS: Final[dict[str, _Function]] = {
    "relu": _Function(_relu),
    "tanh": _Function(_tanh),
    "sigmoid": _Function(_sigmoid),
    "affine": _Function(_affine, 1.0, 0.0),
    "leakyrelu": _Function(_leaky_relu, 0.01),
    "thresholdedrelu": _Function(_thresholded_relu, 1.0),
    "scaledtanh": _Function(_scaled_tanh, 1.0, 1.0),
    "hardsigmoid": _Function(_hard_sigmoid, 0.2, 0.5),
    "elu": _Function(_elu, 1.0),
    "softsign": _Function(_softsign),
    "softplus": _Function(_softplus),
}


def bind_activations(
    names: Sequence[str],
    alphas: tuple[float, ...] | None,
    betas: tuple[float, ...] | None,
    clip: float | None,
    wanted: int,
) -> list[Activation]:
    """Return the `wanted` activations, each with its own alpha and beta, after the clipping.

    Alphas and betas are handed out in order to those functions that take one.
    """
    if len(names) < wanted:
        raise KernelError(f"activations must have {wanted} entries (got {len(names)})")
    if clip is not None and not clip >= 0:
        raise KernelError(f"clip must not be negative (got {clip})")
    next_alpha, next_beta = iter(alphas or ()), iter(betas or ())
    bound = []
    for name in names[:wanted]:
        function = FUNCTIONS.get(name.lower())
        if function is None:
            raise KernelError(f"activations must be among {', '.join(FUNCTIONS)} (got {name!r})")
        alpha = 0.0 if function.alpha is None else next(next_alpha, function.alpha)
        beta = 0.0 if function.beta is None else next(next_beta, function.beta)
        bound.append(_activation(function.apply, alpha, beta, clip))
    return bound


def _activation(
    apply: Callable[[Array, float, float], None], alpha: float, beta: float, clip: float | None
) -> Activation:
    if clip is None:
        return lambda x: apply(x, alpha, beta)

    def clipped(x: Array) -> None:
        np.clip(x, -clip, clip, out=x)
        apply(x, alpha, beta)

    return clipped


# What the three operators share ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layer:
    """The inputs of a node, checked, in the order of layout 0.

    Attributes:
        x: `(S, N, I)`.
        w, r: `(D, G, I)` and `(D, G, H)`.
        wb, rb: the two halves of the bias, `(D, G)` each.
        lengths: steps of each sequence `(N,)`, None where all have S.
        h: initial hidden state `(D, N, H)`.
        reverse: for each direction, whether it goes backwards.
        batch_first: layout 1.
    """

    x: Array
    w: Array
    r: Array
    wb: Array
    rb: Array
    lengths: Array | None
    h: Array
    reverse: tuple[bool, ...]
    batch_first: bool

    @classmethod
    def of(
        cls,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None,
        sequence_lens: Array | None,
        initial_h: Array | None,
        gates: int,
        direction: str,
        hidden_size: int | None,
        layout: int,
    ) -> Layer:
        if direction not in REVERSE:
            raise KernelError(f"direction must be forward, reverse or bidirectional (got {direction!r})")
        check_choice(layout, (0, 1), "layout")
        if x.ndim != 3 or r.ndim != 3:
            raise KernelError(f"X and R must have 3 dimensions (got {x.ndim} and {r.ndim})")
        reverse = REVERSE[direction]
        directions, hidden = len(reverse), r.shape[2]
        if hidden_size is not None and hidden_size != hidden:
            raise KernelError(f"hidden_size must be {hidden}, the last dimension of R (got {hidden_size})")
        time_first = x.transpose(1, 0, 2) if layout else x
        steps, batch, inputs = time_first.shape
        rows = gates * hidden
        check_shape(w, (directions, rows, inputs), "W")
        check_shape(r, (directions, rows, hidden), "R")
        bias = np.zeros((directions, 2 * rows), x.dtype) if b is None else b
        check_shape(bias, (directions, 2 * rows), "B")
        return cls(
            time_first,
            w,
            r,
            bias[:, :rows],
            bias[:, rows:],
            _lengths(sequence_lens, steps, batch),
            initial_state(initial_h, (directions, batch, hidden), bool(layout), x, "initial_h"),
            reverse,
            bool(layout),
        )

    def unroll(
        self, steps: Sequence[Step], biases: Array, budget: Budget, cells: Array | None = None
    ) -> tuple[Array, ...]:
        """Run one step function and bias `(G,)` per direction; return Y, Y_h and, with cells, Y_c."""
        length, batch, inputs = self.x.shape
        directions, _, hidden = self.h.shape
        flat = self.x.reshape(length * batch, inputs)
        y = np.zeros((length, directions, batch, hidden), self.x.dtype)
        last = np.empty((directions, batch, hidden), self.x.dtype)
        for d, (step, bias) in enumerate(zip(steps, biases, strict=True)):
            gates = flat @ self.w[d].T
            gates += bias
            gates = gates.reshape(length, batch, len(bias))
            cell = None if cells is None else cells[d]
            last[d] = _scan(step, gates, self.h[d], cell, self.lengths, self.reverse[d], y[:, d], budget)
        states = [last] if cells is None else [last, cells]
        if self.batch_first:
            return y.transpose(2, 0, 1, 3), *(state.transpose(1, 0, 2) for state in states)
        return y, *states


def _lengths(sequence_lens: Array | None, steps: int, batch: int) -> Array | None:
    if sequence_lens is None:
        return None
    check_shape(sequence_lens, (batch,), "sequence_lens")
    if ((sequence_lens < 0) | (sequence_lens > steps)).any():
        raise KernelError(f"sequence_lens must be in [0, {steps}] (got {sequence_lens.tolist()[:16]})")
    return None if (sequence_lens == steps).all() else sequence_lens


def initial_state(
    state: Array | None, shape: tuple[int, int, int], batch_first: bool, x: Array, name: str
) -> Array:
    """Return an initial state `(D, N, H)`, zeros where there is none."""
    if state is None:
        return np.zeros(shape, x.dtype)
    directions, batch, hidden = shape
    check_shape(state, (batch, directions, hidden) if batch_first else shape, name)
    return state.transpose(1, 0, 2) if batch_first else state


def _scan(
    step: Step,
    gates: Array,
    h: Array,
    cell: Array | None,
    lengths: Array | None,
    reverse: bool,
    y: Array,
    budget: Budget,
) -> Array:
    """Fill `y` (S, N, H), zero on entry, step by step; return the last hidden state of each sequence.

    A sequence that is over keeps its state; one that goes backwards starts at its own last step.
    """
    longest = len(gates) if lengths is None else int(lengths.max(initial=0))
    for t in range(longest - 1, -1, -1) if reverse else range(longest):
        budget.check_time()
        out = y[t]
        if lengths is None:
            step(gates[t], h, cell, out)
            h = out
            continue
        over = lengths <= t
        before = None if cell is None else cell[over]
        step(gates[t], h, cell, out)
        h = np.where(over[:, None], h, out)
        out[over] = 0
        if cell is not None:
            cell[over] = before
    return h


def _transposed(r: Array) -> Array:
    """Return R^T in memory order: the product of each step reads it fastest."""
    return np.ascontiguousarray(r.T)


def _cost(x: Array, w: Array, r: Array, *rest: Array | None, layout: int = 0, **attributes: Any) -> Cost:
    if x.ndim != 3 or w.ndim != 3 or r.ndim != 3:
        return Cost(0)  # the kernel refuses these
    rows = x.shape[0] * x.shape[1]
    batch = x.shape[0 if layout else 1]
    out = (rows + 2 * batch) * r.shape[0] * r.shape[2]
    wide = max(x.dtype.itemsize, 4)
    return Cost(out * x.dtype.itemsize, (out + rows * w.shape[1] + x.size + w.size + r.size) * wide)


# RNN ------------------------------------------------------------------------------------------


def _rnn_step(r: Array, f: Activation) -> Step:
    r_t = _transposed(r)

    def step(xw: Array, h: Array, cell: None, out: Array) -> None:
        np.dot(h, r_t, out=out)
        np.add(out, xw, out=out)
        f(out)

    return step


@op("RNN", since=(1, 7, 14, 22), cost=_cost)
@in_float32
def rnn(
    x: Array,
    w: Array,
    r: Array,
    b: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 0,
    ctx: Context,
) -> tuple[Array, ...]:
    """Run a simple recurrent layer over `(S, N, I)`; return Y and Y_h (ONNX RNN-22)."""
    # output_sequence (version 1) says whether Y is wanted. It is made in any case.
    layer = Layer.of(x, w, r, b, sequence_lens, initial_h, 1, direction, hidden_size, layout)
    count = len(layer.reverse)
    functions = bind_activations(activations, activation_alpha, activation_beta, clip, count)
    steps = [_rnn_step(layer.r[d], functions[d]) for d in range(count)]
    return layer.unroll(steps, layer.wb + layer.rb, ctx.budget)


# GRU ------------------------------------------------------------------------------------------


def _gru_step(
    r: Array, rb: Array, f: Activation, g: Activation, batch: int, linear_before_reset: bool
) -> Step:
    """Gates lie in the order z (update), r (reset), h (candidate)."""
    hidden = r.shape[1]
    candidate_r, candidate_rb = _transposed(r[2 * hidden :]), rb[2 * hidden :]
    first_r = _transposed(r if linear_before_reset else r[: 2 * hidden])
    product = np.empty((batch, first_r.shape[1]), r.dtype)
    scratch = np.empty((batch, hidden), r.dtype)
    gates = product[:, : 2 * hidden]
    z, reset = gates[:, :hidden], gates[:, hidden:]
    candidate = product[:, 2 * hidden :] if linear_before_reset else np.empty_like(scratch)

    def step(xw: Array, h: Array, cell: None, out: Array) -> None:
        np.dot(h, first_r, out=product)
        np.add(gates, xw[:, : 2 * hidden], out=gates)
        f(gates)
        if linear_before_reset:
            np.add(candidate, candidate_rb, out=candidate)
            np.multiply(candidate, reset, out=candidate)
        else:
            np.multiply(reset, h, out=scratch)
            np.dot(scratch, candidate_r, out=candidate)
        np.add(candidate, xw[:, 2 * hidden :], out=candidate)
        g(candidate)
        np.subtract(1, z, out=scratch)
        np.multiply(scratch, candidate, out=scratch)
        np.multiply(z, h, out=out)
        np.add(out, scratch, out=out)

    return step


@op("GRU", since=(3, 7, 14, 22), cost=_cost)
@in_float32
def gru(
    x: Array,
    w: Array,
    r: Array,
    b: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
    ctx: Context,
) -> tuple[Array, ...]:
    """Run a gated recurrent layer over `(S, N, I)`; return Y and Y_h (ONNX GRU-22)."""
    layer = Layer.of(x, w, r, b, sequence_lens, initial_h, 3, direction, hidden_size, layout)
    count, _, hidden = layer.h.shape
    names = ("Sigmoid", "Tanh") * count if activations is None else activations
    functions = bind_activations(names, activation_alpha, activation_beta, clip, 2 * count)
    biases = layer.wb + layer.rb
    if linear_before_reset:  # the candidate's own bias from R is added inside, before the reset
        biases[:, 2 * hidden :] = layer.wb[:, 2 * hidden :]
    steps = [
        _gru_step(layer.r[d], layer.rb[d], f, g, layer.x.shape[1], bool(linear_before_reset))
        for d, (f, g) in enumerate(zip(functions[::2], functions[1::2], strict=True))
    ]
    return layer.unroll(steps, biases, ctx.budget)


@op("GRU", since=1, cost=_cost)
def gru_1(
    x: Array,
    w: Array,
    r: Array,
    b: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "foward",
    hidden_size: int | None = None,
    output_sequence: int = 0,
    ctx: Context,
) -> Any:
    """Run a gated recurrent layer that resets before the linear map (ONNX GRU-1)."""
    return gru(
        x,
        w,
        r,
        b,
        sequence_lens,
        initial_h,
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        activations=activations,
        clip=clip,
        direction=direction,
        hidden_size=hidden_size,
        ctx=ctx,
    )


# LSTM -----------------------------------------------------------------------------------------


def _lstm_step(
    r: Array, p: Array | None, f: Activation, g: Activation, h_of_c: Activation, batch: int, coupled: bool
) -> Step:
    """Gates lie in the order i (input), o (output), f (forget), c (cell); peepholes in i, o, f."""
    hidden = r.shape[1]
    r_t = _transposed(r)
    gates = np.empty((batch, 4 * hidden), r.dtype)
    i, o, forget, candidate = (gates[:, k * hidden : (k + 1) * hidden] for k in range(4))
    iof = gates[:, : 3 * hidden]
    peep_i, peep_o, peep_f = (None,) * 3 if p is None else p.reshape(3, hidden)

    def step(xw: Array, h: Array, cell: Array, out: Array) -> None:
        np.dot(h, r_t, out=gates)
        np.add(gates, xw, out=gates)
        if peep_i is None:
            f(iof)
        else:
            np.add(i, peep_i * cell, out=i)
            np.add(forget, peep_f * cell, out=forget)
            f(i)
            f(forget)
        g(candidate)
        if coupled:
            np.subtract(1, i, out=forget)
        np.multiply(forget, cell, out=cell)
        np.multiply(i, candidate, out=candidate)
        np.add(cell, candidate, out=cell)
        if peep_o is not None:
            np.add(o, peep_o * cell, out=o)
            f(o)
        np.copyto(out, cell)
        h_of_c(out)
        np.multiply(out, o, out=out)

    return step


@op("LSTM", since=(1, 7, 14, 22), cost=_cost)
@in_float32
def lstm(
    x: Array,
    w: Array,
    r: Array,
    b: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    p: Array | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
    ctx: Context,
) -> tuple[Array, ...]:
    """Run a long short-term memory layer over `(S, N, I)`; return Y, Y_h and Y_c (ONNX LSTM-22)."""
    layer = Layer.of(x, w, r, b, sequence_lens, initial_h, 4, direction, hidden_size, layout)
    count, batch, hidden = shape = layer.h.shape
    cells = initial_state(initial_c, shape, bool(layout), x, "initial_c").copy()
    if p is not None:
        check_shape(p, (count, 3 * hidden), "P")
    names = ("Sigmoid", "Tanh", "Tanh") * count if activations is None else activations
    functions = bind_activations(names, activation_alpha, activation_beta, clip, 3 * count)
    steps = []
    for d in range(count):
        f, g, h_of_c = functions[3 * d : 3 * d + 3]
        peephole = None if p is None else p[d]
        steps.append(_lstm_step(layer.r[d], peephole, f, g, h_of_c, batch, bool(input_forget)))
    return layer.unroll(steps, layer.wb + layer.rb, ctx.budget, cells)
