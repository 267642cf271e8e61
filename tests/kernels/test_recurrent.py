"""RNN, GRU and LSTM against the equations of the spec, one sequence and one step at a time."""

from __future__ import annotations

import inspect

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.errors import KernelError

F16, F32, F64, BF16 = np.float16, np.float32, np.float64, ml_dtypes.bfloat16
TOLERANCE = {F16: 2e-3, BF16: 2e-2, F32: 2e-5, F64: 1e-10}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
VERSIONS = {"RNN": (1, 7, 14, 22), "GRU": (1, 3, 7, 14, 22), "LSTM": (1, 7, 14, 22)}
DIRECTIONS = {"forward": (1,), "reverse": (-1,), "bidirectional": (1, -1)}


def functions(alpha=None, beta=None):
    """The spec's activation functions, by name; defaults are those of the operators."""

    def a(default):
        return default if alpha is None else alpha

    def b(default):
        return default if beta is None else beta

    return {
        "Relu": lambda x: np.maximum(0, x),
        "Tanh": np.tanh,
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "Affine": lambda x: a(1) * x + b(0),
        "LeakyRelu": lambda x: np.where(x >= 0, x, a(0.01) * x),
        "ThresholdedRelu": lambda x: np.where(x >= a(1), x, 0),
        "ScaledTanh": lambda x: a(1) * np.tanh(b(1) * x),
        "HardSigmoid": lambda x: np.minimum(np.maximum(a(0.2) * x + b(0.5), 0), 1),
        "Elu": lambda x: np.where(x >= 0, x, a(1) * (np.exp(x) - 1)),
        "Softsign": lambda x: x / (1 + np.abs(x)),
        "Softplus": lambda x: np.log(1 + np.exp(x)),
    }


def cell_step(op, x, h, c, w, r, wb, rb, p, f, linear_before_reset, input_forget):
    """One step of one sequence, written as in the operator's documentation."""
    n = len(h)
    part = lambda v, k: v[k * n : (k + 1) * n]  # noqa: E731
    xw = lambda k: part(w, k) @ x + part(wb, k)  # noqa: E731
    hr = lambda k, state: part(r, k) @ state + part(rb, k)  # noqa: E731
    if op == "RNN":
        return f[0](xw(0) + hr(0, h)), c
    if op == "GRU":
        z, reset = f[0](xw(0) + hr(0, h)), f[0](xw(1) + hr(1, h))
        candidate = f[1](xw(2) + (reset * hr(2, h) if linear_before_reset else hr(2, reset * h)))
        return (1 - z) * candidate + z * h, c
    i = f[0](xw(0) + hr(0, h) + part(p, 0) * c)
    forget = 1 - i if input_forget else f[0](xw(2) + hr(2, h) + part(p, 2) * c)
    c = forget * c + i * f[1](xw(3) + hr(3, h))
    o = f[0](xw(1) + hr(1, h) + part(p, 1) * c)
    return o * f[2](c), c


def slow(op, inputs, direction="forward", f=None, clip=None, linear_before_reset=0, input_forget=0):
    """Y, Y_h and Y_c by plain loops over directions, sequences and steps, in float64."""
    x, w, r, b, lengths, h0, c0, p = (None if v is None else v.astype(F64) for v in inputs)
    steps, batch, _ = x.shape
    hidden, rows = r.shape[2], r.shape[1]
    signs = DIRECTIONS[direction]
    f = f or [functions()[name] for name in DEFAULTS[op]] * len(signs)
    if clip is not None:
        f = [lambda x, g=g: g(np.clip(x, -clip, clip)) for g in f]
    y = np.zeros((steps, len(signs), batch, hidden))
    last, cells = np.zeros((2, len(signs), batch, hidden))
    per = len(f) // len(signs)
    for d, sign in enumerate(signs):
        for n in range(batch):
            h = np.zeros(hidden) if h0 is None else h0[d, n]
            c = np.zeros(hidden) if c0 is None else c0[d, n]
            count = steps if lengths is None else int(lengths[n])
            biases = np.zeros(2 * rows) if b is None else b[d]
            peephole = np.zeros(3 * hidden) if p is None else p[d]
            for t in range(count)[::sign]:
                h, c = cell_step(
                    op, x[t, n], h, c, w[d], r[d], biases[:rows], biases[rows:], peephole,
                    f[d * per : (d + 1) * per], linear_before_reset, input_forget,
                )  # fmt: skip
                y[t, d, n] = h
            last[d, n], cells[d, n] = h, c
    return (y, last, cells)[: 3 if op == "LSTM" else 2]


def make_inputs(
    op, rng, steps=4, batch=3, size=2, hidden=5, directions=1, dtype=F32, lengths=False, optional=True
):
    def make(*shape):
        return rng.uniform(-1, 1, shape).astype(dtype)

    rows = GATES[op] * hidden
    state = (directions, batch, hidden)
    return [
        make(steps, batch, size),
        make(directions, rows, size),
        make(directions, rows, hidden),
        make(directions, 2 * rows) if optional else None,
        rng.integers(0, steps + 1, batch).astype(np.int32) if lengths else None,
        make(*state) if optional else None,
        make(*state) if optional and op == "LSTM" else None,
        make(directions, 3 * hidden) if optional and op == "LSTM" else None,
    ]


def run(op, inputs, opset=22, **attributes):
    kept = inputs if op == "LSTM" else inputs[:6]
    return run_op(op, *kept, opset=opset, n_outputs=3 if op == "LSTM" else 2, **attributes)


def check(actual, expected, dtype=F32):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(F64), e, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@settings(max_examples=80, deadline=None)
@given(
    op=st.sampled_from(list(GATES)),
    direction=st.sampled_from(list(DIRECTIONS)),
    lengths=st.booleans(),
    optional=st.booleans(),
    steps=st.integers(1, 5),
    batch=st.integers(1, 4),
    size=st.integers(1, 4),
    hidden=st.integers(1, 5),
    clip=st.sampled_from([None, None, 0.3]),
    flag=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_layers_are_their_equations(
    op, direction, lengths, optional, steps, batch, size, hidden, clip, flag, seed
):
    rng, directions = np.random.default_rng(seed), len(DIRECTIONS[direction])
    inputs = make_inputs(op, rng, steps, batch, size, hidden, directions, F32, lengths, optional)
    extra = {"GRU": {"linear_before_reset": int(flag)}, "LSTM": {"input_forget": int(flag)}}.get(op, {})
    attributes = {"direction": direction, "hidden_size": hidden, **extra}
    if clip is not None:
        attributes["clip"] = clip
    check(run(op, inputs, **attributes), slow(op, inputs, direction, clip=clip, **extra))


@pytest.mark.parametrize(("op", "version"), [(op, v) for op in GATES for v in VERSIONS[op]])
def test_every_version_and_type(op, version):
    for dtype in TOLERANCE if version >= 22 else (F16, F32, F64):
        inputs = make_inputs(op, np.random.default_rng(version), dtype=dtype, lengths=True)
        check(run(op, inputs, opset=version), slow(op, inputs), dtype)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("version", [14, 22])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_layout_1_is_layout_0_with_the_batch_first(op, version, direction):
    inputs = make_inputs(op, np.random.default_rng(1), directions=len(DIRECTIONS[direction]), lengths=True)
    swapped = [v.swapaxes(0, 1) if k in (0, 5, 6) and v is not None else v for k, v in enumerate(inputs)]
    y, *states = run(op, inputs, opset=version, direction=direction)
    y_1, *states_1 = run(op, swapped, opset=version, direction=direction, layout=1)
    np.testing.assert_array_equal(y_1, y.transpose(2, 0, 1, 3))
    for a, e in zip(states_1, states, strict=True):
        np.testing.assert_array_equal(a, e.swapaxes(0, 1))


@pytest.mark.parametrize("name", functions())
@pytest.mark.parametrize(("alpha", "beta"), [(None, None), (0.7, 0.4)])
@pytest.mark.parametrize("spelling", [str, str.lower])
def test_activations(name, alpha, beta, spelling):
    inputs = make_inputs("RNN", np.random.default_rng(3), hidden=12)
    inputs[0] *= 2
    attributes = {} if alpha is None else {"activation_alpha": (alpha,), "activation_beta": (beta,)}
    actual = run("RNN", inputs, activations=(spelling(name),), **attributes)
    check(actual, slow("RNN", inputs, f=[functions(alpha, beta)[name]]))


def test_alphas_go_in_order_to_the_functions_that_take_one():
    inputs = make_inputs("LSTM", np.random.default_rng(4), directions=2)
    names = ("Sigmoid", "LeakyRelu", "Tanh", "HardSigmoid", "Tanh", "LeakyRelu")
    f = [functions()["Sigmoid"], functions(0.3)["LeakyRelu"], functions()["Tanh"]]
    f += [functions(0.4, 0.6)["HardSigmoid"], functions()["Tanh"], functions()["LeakyRelu"]]
    actual = run(
        "LSTM", inputs, direction="bidirectional", activations=names,
        activation_alpha=(0.3, 0.4), activation_beta=(0.6,),
    )  # fmt: skip
    check(actual, slow("LSTM", inputs, "bidirectional", f=f))


@pytest.mark.parametrize("op", GATES)
def test_one_hidden_unit(op):
    inputs = make_inputs(op, np.random.default_rng(12), batch=4, hidden=1)  # columns of gates are strided
    check(run(op, inputs), slow(op, inputs))


def test_saturated_sigmoid_is_exact():
    x = np.array([-1e4, 0, 1e4], F32).reshape(1, 3, 1)
    one, zero = np.ones((1, 1, 1), F32), np.zeros((1, 1, 1), F32)
    y, _ = run_op("RNN", x, one, zero, opset=22, n_outputs=2, activations=("Sigmoid",))
    assert y.ravel().tolist() == [0, 0.5, 1]


def test_version_1_spells_the_default_direction_of_gru_differently():
    old, new = (registry.find("", "GRU", v).kernel for v in (1, 3))
    assert inspect.signature(old).parameters["direction"].default == "foward"
    assert inspect.signature(new).parameters["direction"].default == "forward"
    inputs = make_inputs("GRU", np.random.default_rng(5))
    check(run("GRU", inputs, opset=1), slow("GRU", inputs))
    check(run("GRU", inputs, opset=1, output_sequence=1), slow("GRU", inputs))


def test_a_sequence_of_no_steps_keeps_its_initial_state():
    inputs = make_inputs("LSTM", np.random.default_rng(6), batch=2)
    inputs[4] = np.array([0, 4], np.int32)
    y, h, c = run("LSTM", inputs, direction="reverse")
    assert (y[:, :, 0] == 0).all()
    np.testing.assert_array_equal(h[:, 0], inputs[5][:, 0])
    np.testing.assert_array_equal(c[:, 0], inputs[6][:, 0])


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(("steps", "batch", "size"), [(0, 2, 3), (3, 0, 2), (2, 2, 0)])
def test_empty_inputs(op, steps, batch, size):
    inputs = make_inputs(op, np.random.default_rng(7), steps, batch, size, lengths=steps > 0)
    check(run(op, inputs), slow(op, inputs))


def test_padding_never_leaks():
    inputs = make_inputs("GRU", np.random.default_rng(8), directions=2)
    inputs[4] = np.array([1, 2, 3], np.int32)
    clean = run("GRU", inputs, direction="bidirectional")
    for n, length in enumerate(inputs[4]):
        inputs[0][length:, n] = np.nan
    for a, e in zip(run("GRU", inputs, direction="bidirectional"), clean, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize(
    ("op", "position", "value", "message"),
    [
        ("RNN", 0, np.zeros((2, 3), F32), "X and R must have 3 dimensions"),
        ("RNN", 1, np.zeros((1, 5, 3), F32), r"W must have shape \(1, 5, 2\)"),
        ("GRU", 2, np.zeros((1, 5, 5), F32), r"R must have shape \(1, 15, 5\)"),
        ("LSTM", 3, np.zeros((1, 20), F32), r"B must have shape \(1, 40\)"),
        ("LSTM", 4, np.zeros(2, np.int32), r"sequence_lens must have shape \(3,\)"),
        ("LSTM", 4, np.array([0, 5, 1], np.int32), r"sequence_lens must be in \[0, 4\] \(got \[0, 5, 1\]"),
        ("LSTM", 4, np.array([0, -1, 1], np.int32), "sequence_lens must be in"),
        ("GRU", 5, np.zeros((1, 3, 4), F32), "initial_h must have shape"),
        ("LSTM", 6, np.zeros((2, 3, 5), F32), "initial_c must have shape"),
        ("LSTM", 7, np.zeros((1, 20), F32), r"P must have shape \(1, 15\)"),
    ],
)
def test_wrong_shapes(op, position, value, message):
    inputs = make_inputs(op, np.random.default_rng(9))
    inputs[position] = value
    with pytest.raises(KernelError, match=message):
        run(op, inputs)


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("RNN", {"direction": "backward"}, "direction must be forward, reverse or bidirectional"),
        ("RNN", {"hidden_size": 6}, r"hidden_size must be 5, .* \(got 6\)"),
        ("RNN", {"layout": 2}, "layout must be one of 0, 1"),
        ("GRU", {"activations": ("Tanh",)}, r"activations must have 2 entries \(got 1\)"),
        ("GRU", {"activations": ("Tanh", "Cosh")}, r"activations must be among relu, .* \(got 'Cosh'\)"),
        ("LSTM", {"clip": -1.0}, "clip must not be negative"),
        ("LSTM", {"clip": float("nan")}, "clip must not be negative"),
        ("LSTM", {"direction": "bidirectional"}, "W must have shape"),
    ],
)
def test_wrong_attributes(op, attributes, message):
    with pytest.raises(KernelError, match=message):
        run(op, make_inputs(op, np.random.default_rng(10)), **attributes)


def test_cost_counts_all_outputs():
    for op in GATES:
        inputs = make_inputs(op, np.random.default_rng(11), steps=50, size=1)
        cost = registry.find("", op, 22).cost
        assert cost(*inputs[:6]).out_bytes >= sum(y.nbytes for y in run(op, inputs))
        assert cost(np.zeros((2, 3), F32), *inputs[1:6]).out_bytes == 0
