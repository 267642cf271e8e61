"""Native recurrent layers against the reference kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.numba.recurrent as family
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import RefusedError, check_lowered, reference, run_lowered

from onnxref.lowering import Unsupported
from onnxref.native._target import target

TOLERANCE = 2e-5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
OUTPUTS = {"RNN": 2, "GRU": 2, "LSTM": 3}


def layer(
    op: str,
    steps: int,
    batch: int,
    inputs: int,
    hidden: int,
    *,
    directions: int = 1,
    layout: int = 0,
    bias: bool = True,
    state: bool = True,
    lengths: Any = None,
    peepholes: bool = False,
    seed: int = 0,
) -> list[Any]:
    """Return the inputs of a node."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    rows = GATES[op] * hidden
    shape = (batch, directions, hidden) if layout else (directions, batch, hidden)
    made = [
        normal(batch, steps, inputs) if layout else normal(steps, batch, inputs),
        normal(directions, rows, inputs, scale=inputs**-0.5),
        normal(directions, rows, hidden, scale=hidden**-0.5),
        normal(directions, 2 * rows) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        normal(*shape) if state else None,
    ]
    if op == "LSTM":
        made += [normal(*shape) if state else None, normal(directions, 3 * hidden) if peepholes else None]
    return made


def check(op: str, inputs: list[Any], attributes: dict[str, Any] | None = None, **options: Any) -> None:
    for parallel in (False, True):
        check_lowered(
            op,
            inputs,
            attributes,
            n_outputs=OUTPUTS[op],
            rtol=TOLERANCE,
            atol=TOLERANCE,
            parallel=parallel,
            **{"constants": (1, 2, 3, 4), **options},
        )


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [
        (1, 1, 128, 128),
        (5, 1, 20, 16),
        (3, 2, 7, 33),
        (2, 3, 1, 1),
        (4, 13, 65, 48),
        (2, 29, 129, 130),
        (50, 2, 3, 5),
    ],
)
def test_sizes(op: str, steps: int, batch: int, inputs: int, hidden: int) -> None:
    check(op, layer(op, steps, batch, inputs, hidden))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions(op: str, layout: int, direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    attributes = {"direction": direction, "layout": layout, "hidden_size": 20}
    for lengths in (None, [4, 0, 2], [1, 2, 2], [6, 6, 6]):
        inputs = layer(op, 6, 3, 9, 20, directions=directions, layout=layout, lengths=lengths)
        check(op, inputs, attributes)


@pytest.mark.parametrize("op", GATES)
def test_absent_inputs_and_outputs(op: str) -> None:
    inputs = layer(op, 4, 2, 5, 17, bias=False, state=False)
    check(op, inputs)
    check(op, inputs[:3])
    expected = reference(op, inputs, {}, 22)
    for wanted in range(OUTPUTS[op]):
        outputs = [(e.shape, e.dtype) if i == wanted else None for i, e in enumerate(expected)]
        found = run_lowered(op, inputs, outputs, constants=(1, 2))
        np.testing.assert_allclose(found[wanted], expected[wanted], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("op", GATES)
def test_weights_may_be_computed(op: str) -> None:
    inputs = layer(op, 3, 2, 35, 19, directions=2)
    check(op, inputs, {"direction": "bidirectional"}, constants=())
    if op == "GRU":
        check(op, inputs, {"direction": "bidirectional", "linear_before_reset": 1}, constants=())


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_gru_may_reset_after_the_product(direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    attributes = {"linear_before_reset": 1, "direction": direction}
    for hidden in (16, 37):
        check("GRU", layer("GRU", 4, 2, 11, hidden, directions=directions), attributes)
    check("GRU", layer("GRU", 4, 2, 11, 8, directions=directions, bias=False, lengths=[1, 3]), attributes)


def test_lstm_peepholes() -> None:
    check("LSTM", layer("LSTM", 4, 2, 6, 21, peepholes=True))
    check("LSTM", layer("LSTM", 4, 2, 6, 21, peepholes=True), constants=())


def test_lstm_couples_the_gates_of_input_and_forgetting() -> None:
    check("LSTM", layer("LSTM", 4, 2, 6, 21), {"input_forget": 1})


@pytest.mark.parametrize("clip", [0.0, 0.3, 50.0])
@pytest.mark.parametrize("op", GATES)
def test_clip(op: str, clip: float) -> None:
    check(op, layer(op, 4, 2, 6, 21), {"clip": clip})


@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [
        ("Relu", None, None),
        ("Affine", (0.5,), (0.25,)),
        ("LeakyRelu", (0.1,), None),
        ("ThresholdedRelu", (0.3,), None),
        ("ScaledTanh", (1.5,), (0.7,)),
        ("HardSigmoid", None, None),
        ("Elu", (0.7,), None),
        ("Softsign", None, None),
        ("Softplus", None, None),
    ],
)
def test_activations(name: str, alpha: Any, beta: Any) -> None:
    attributes = {"activations": (name,), "activation_alpha": alpha, "activation_beta": beta}
    check("RNN", layer("RNN", 3, 2, 6, 21), attributes)


def test_directions_may_differ_in_activations() -> None:
    attributes = {
        "direction": "bidirectional",
        "activations": ("Tanh", "LeakyRelu"),
        "activation_alpha": (0.2,),
    }
    check("RNN", layer("RNN", 3, 2, 6, 21, directions=2), attributes)


def test_versions() -> None:
    for op in GATES:
        for opset in (7, 14, 22):
            check(op, layer(op, 2, 1, 3, 4), opset=opset)
    check("GRU", layer("GRU", 2, 1, 3, 4), opset=1)


@pytest.mark.parametrize("op", GATES)
def test_empty(op: str) -> None:
    check(op, layer(op, 0, 2, 3, 4))
    check(op, layer(op, 3, 0, 3, 4))


@pytest.mark.parametrize("op", GATES)
def test_special_values_stay_in_their_row(op: str) -> None:
    inputs = layer(op, 3, 4, 6, 10)
    inputs[0][1, 2, 3] = np.nan
    inputs[0][0, 0, 0] = np.inf
    inputs[0][0, 1, :] = 1e30
    check(op, inputs)


@pytest.mark.parametrize("op", GATES)
def test_results_do_not_depend_on_the_batch(op: str) -> None:
    inputs = layer(op, 3, 7, 70, 80, state=False)
    full = run_lowered(op, inputs, [((3, 1, 7, 80), np.float32)], constants=(1, 2, 3))[0]
    alone = run_lowered(
        op, [inputs[0][:, 4:5], *inputs[1:]], [((3, 1, 1, 80), np.float32)], constants=(1, 2, 3)
    )[0]
    assert full is not None
    np.testing.assert_array_equal(full[:, :, 4:5], alone)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(GATES)), st.integers(1, 5), st.integers(1, 15), st.integers(1, 70),
    st.integers(1, 70), st.booleans(), st.data(),
)  # fmt: skip
def test_any_sizes(
    op: str, steps: int, batch: int, inputs: int, hidden: int, both: bool, data: st.DataObject
) -> None:
    lengths = data.draw(st.none() | st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    made = layer(op, steps, batch, inputs, hidden, directions=1 + both, lengths=lengths, seed=steps)
    check(op, made, {"direction": "bidirectional" if both else "forward"})


@pytest.mark.parametrize(
    ("change", "attributes", "reason"),
    [
        ({0: np.zeros((2, 1, 3))}, {}, "float32"),
        ({1: np.zeros((1, 4, 3), np.float32)}, {}, "W must have"),
        ({4: np.array([3], np.int32)}, {}, "out of range"),
        ({}, {"activations": ("Selu",)}, "selu"),
        ({}, {"hidden_size": 3}, "hidden_size"),
    ],
)
def test_refusals(change: dict[int, Any], attributes: dict[str, Any], reason: str) -> None:
    inputs = layer("RNN", 2, 1, 3, 5)
    for index, value in change.items():
        inputs[index] = value
    with pytest.raises(Unsupported, match=reason):
        run_lowered("RNN", inputs, [None, None], attributes, constants=(1, 2, 3, 4))


@pytest.mark.parametrize("op", GATES)
def test_lengths_may_be_computed(op: str) -> None:
    inputs = layer(op, 6, 3, 9, 20, directions=2, lengths=[4, 0, 6])
    check(op, inputs, {"direction": "bidirectional"}, constants=(1, 2, 3))


@pytest.mark.parametrize("wrong", [-1, 3, -(2**31)])
def test_computed_lengths_must_be_in_range(wrong: int) -> None:
    inputs = layer("RNN", 2, 2, 3, 5, lengths=[1, wrong])
    with pytest.raises(RefusedError):
        run_lowered("RNN", inputs, [((2, 1, 2, 5), np.float32), None], constants=(1, 2))


def test_panels_are_as_wide_as_the_code_has_them() -> None:
    from onnxref.kernels.numba.code import recurrent as code

    assert family.panel_width() == code.WIDTH
    assert target().lanes == code.LANES
