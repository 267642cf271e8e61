"""Chains of elementwise operators on the emulator: each is bit-equal to its operators one by one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxref.kernels.common.instructions import Instruction, instruction
from onnxref.kernels.cupy import chain as lowering_module
from onnxref.kernels.cupy.chain import blocked_use, emit_program

from onnxref.dtypes import Array
from onnxref.gpu import Launch, translation_unit
from onnxref.lowering import NO_PAD, Blocked, ChannelsLast, Op, Operand, Site, Unsupported
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .lowered import run_on_device

_RNG = np.random.default_rng(3)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

Shape = tuple[int, ...]


def _normal(*shape: int, dtype: Any = "float32") -> Array:
    return (2 * _RNG.standard_normal(shape)).astype(dtype)


def _check(
    program: tuple[Instruction, ...],
    dtypes: tuple[str, ...],
    inputs: list[Array],
    results: tuple[int, ...],
    **options: Any,
) -> None:
    """Hold a chain to the reference of each of its operators, run one after the other."""
    values = list(inputs)
    for name, operands, pairs in program:
        taken, attributes = [values[i] for i in operands], dict(pairs)
        if name == "Clip":
            taken += [np.asarray(attributes.pop(key), taken[0].dtype) for key in ("low", "high")]
        if name == "Cast":
            attributes = {"to": {"int32": 6, "float16": 10}[dtypes[len(values)]]}
        values += reference(name, taken, attributes, 24)
    shape = np.broadcast_shapes(*(x.shape for x in inputs))
    found = run_on_device(
        "Chain",
        inputs,
        [(shape, values[i].dtype) for i in results],
        {"program": program, "dtypes": dtypes, "results": results},
        domain=INTERNAL,
        opset=1,
        **options,
    )
    for y, i in zip(found, results, strict=True):
        assert y is not None
        np.testing.assert_array_equal(y.astype("f8"), np.broadcast_to(values[i], shape).astype("f8"))


_SCALE: tuple[Instruction, ...] = (("Mul", (0, 1), ()), ("Add", (3, 2), ()), ("HardSwish", (4,), ()))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("x", "scale", "bias"),
    [
        ((1001,), (1001,), ()),  # flat, cut at its end
        ((5000,), (1,), (5000,)),
        ((3, 40, 64), (40, 1), (64,)),  # rows of whole vectors
        ((3, 5, 7, 9), (5, 1, 1), (5, 1, 1)),  # rows that vectors do not fill
        ((3, 1, 5), (4, 1), (2, 1, 1, 1)),  # nothing is as large as the result
        ((0, 4), (4,), ()),
        ((), (), ()),
    ],
)
def test_ways_to_walk(x: Shape, scale: Shape, bias: Shape, dtype: str) -> None:
    inputs = [_normal(*shape, dtype=dtype) for shape in (x, scale, bias)]
    _check(_SCALE, (dtype,) * 6, inputs, (5,))


def test_half_vectors() -> None:
    """Rows of 4 float16 are taken 4 at a time, not 8."""
    _check(_SCALE, ("float16",) * 6, [_normal(6, 5, 12, dtype="f2"), *(_normal(5, 1, dtype="f2"),) * 2], (5,))


def test_constants_of_one_element_are_arguments() -> None:
    for dtype in ("float32", "float64", "float16", "bfloat16", "int8", "uint64"):
        kind = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
        values = [
            np.array([3, 250, -7], "i8").astype(kind),
            np.array(-3).astype(kind),
            np.array([2]).astype(kind),
        ]
        _check(_SCALE[:2], (dtype,) * 5, values, (4,), constants=(1, 2), orders=(0,))


@pytest.mark.parametrize("dtype", ["float32", BFLOAT16], ids=str)
@pytest.mark.parametrize(
    ("scale", "last", "constants"),
    [
        ((8, 1, 1), (0,), (1,)),
        ((2, 8, 1, 1), (0, 1), ()),
        ((1, 8, 3, 5), (0,), (1,)),  # turned while planning
        ((2, 1, 3, 5), (0,), ()),
        ((5,), (0,), ()),
    ],
)
def test_channels_last(scale: Shape, last: Shape, constants: Shape, dtype: Any) -> None:
    name = np.dtype(dtype).name
    inputs = [_normal(*shape, dtype=dtype) for shape in ((2, 8, 3, 5), scale, ())]
    options = {"channels_last": last, "outputs_last": (0,), "constants": constants}
    _check(_SCALE, (name,) * 6, inputs, (5,), orders=(0, 1), **options)


def test_channels_last_of_other_ranks() -> None:
    for shape in ((2, 7, 9), (1, 6, 2, 3, 4)):
        inputs = [_normal(*shape), _normal(shape[1], *(1,) * (len(shape) - 2)), _normal(1)]
        _check(_SCALE, ("float32",) * 6, inputs, (5,), channels_last=(0,), outputs_last=(0,), orders=(0,))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_operator_rounds(dtype: str) -> None:
    kind = BFLOAT16 if dtype == "bfloat16" else dtype
    inputs = [_normal(3, 70, dtype=kind), _normal(70, dtype=kind), _normal(1, dtype=kind)]
    program = (*_SCALE[:2], ("Softsign", (4,), ()), ("Mul", (4, 5), ()))
    _check(program, (dtype,) * 7, inputs, (6,))


def test_several_results_and_types() -> None:
    program = (
        ("Add", (0, 1), ()),
        ("Less", (2, 1), ()),
        ("Where", (3, 2, 0), ()),
        ("Cast", (4,), ()),
        ("Mul", (5, 5), ()),
        ("Clip", (2,), (("high", 1.5), ("low", -0.5))),
    )
    dtypes = ("float32", "float32", "float32", "bool", "float32", "int32", "int32", "float32")
    _check(program, dtypes, [_normal(5, 33), _normal(5, 33)], (2, 3, 6, 7))


def test_a_result_nobody_wants_is_left_out() -> None:
    attributes = {
        "program": (("Add", (0, 0), ()), ("Neg", (1,), ())),
        "dtypes": ("float32",) * 3,
        "results": (1, 2),
    }
    x = _normal(20)
    found = run_on_device("Chain", [x], [None, ((20,), "f4")], attributes, domain=INTERNAL, opset=1)
    np.testing.assert_array_equal(found[1], -(x + x))


def test_long_chains() -> None:
    program = tuple((("Add", "Mul", "Sub")[i % 3], (i + 7, i % 8), ()) for i in range(24))
    inputs = [_normal(*((40, 3) if i % 2 else (3,))) / 4 for i in range(8)]
    _check(program, ("float32",) * 32, inputs, (31,))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=4))
def test_any_broadcasting(dims: list[tuple[int, bool, bool]]) -> None:
    a = _normal(*(1 if repeat else n for n, repeat, _ in dims))
    b = _normal(*(1 if repeat else n for n, _, repeat in dims))
    _check((("Sub", (0, 1), ()),), ("float32",) * 3, [a, b], (2,), orders=(0,))


def test_many_elements_go_in_several_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering_module, "_MANY", 3000)
    inputs = [_normal(20, 520), _normal(520), _normal(20, 1)]
    _check(_SCALE, ("float32",) * 6, inputs, (5,), orders=(0,))
    _check(_SCALE, ("float32",) * 6, [_normal(7, 521), _normal(521), _normal(7, 1)], (5,), orders=(0,))


def test_counts_beyond_31_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering_module, "_index", lambda size, views: "uint64_t")
    for shape in ((3, 40, 64), (2, 5, 7, 9)):
        inputs = [_normal(*shape), _normal(shape[-1]), _normal(shape[-2], 1)]
        _check(_SCALE, ("float32",) * 6, inputs, (5,), orders=(0,))


# --- what is planned -----------------------------------------------------------------------------


def _emitted(x: Operand, others: list[Operand], y: Operand) -> tuple[Site, Launch]:
    site = Site(Op("Sum", [x, *others], [y]))
    count = 1 + len(others)
    emit_program(site, (x, *others), (y,), [instruction("Sum", range(count))], (count,))
    (launch,) = site.launches
    assert isinstance(launch, Launch)
    return site, launch


def _defines(launch: Launch) -> dict[str, Any]:
    return dict(launch.kernel.defines)


@pytest.mark.parametrize(
    ("dtype", "shapes", "expected"),
    [
        ("f4", [(1 << 22,), (1 << 22,)], {"VEC": 4, "UNROLL": 2, "OUTER": 0}),
        ("f2", [(1, 64, 56, 56), (64, 1, 1)], {"VEC": 8, "UNROLL": 1, "OUTER": 1}),
        ("f2", [(8, 64, 56, 56), (64, 1, 1)], {"VEC": 8, "UNROLL": 2, "OUTER": 2}),
        ("f2", [(8, 64, 7, 7), (64, 1, 1)], {"VEC": 8, "UNROLL": 1, "OUTER": 2}),
        ("f2", [(128, 1000), (1000,)], {"VEC": 8, "OUTER": 1}),
        ("f2", [(128, 1004), (1004,)], {"VEC": 4, "OUTER": 1}),
        ("i1", [(4096,), (4096,)], {"VEC": 16}),
        ("f4", [(65536, 65536)], {"INDEX": "uint64_t"}),
        ("f4", [(65536, 1), (65536,)], {"INDEX": "uint64_t", "VEC": 4}),
    ],
)
def test_vectors(dtype: str, shapes: list[Shape], expected: dict[str, Any]) -> None:
    operands = [Operand(shape, np.dtype(dtype)) for shape in shapes]
    _, launch = _emitted(operands[0], operands[1:], Operand(np.broadcast_shapes(*shapes), np.dtype(dtype)))
    assert expected.items() <= _defines(launch).items()


def test_may_take_the_place_of_an_input() -> None:
    x, row, y = (Operand(shape, np.dtype("f4")) for shape in ((100, 70), (70,), (100, 70)))
    site, _ = _emitted(x, [row], y)
    assert site.overwrites == [(y, x)]


def test_the_text() -> None:
    operands = [Operand(shape, np.dtype("f2")) for shape in ((6, 64), (64,), (6, 64))]
    site = Site(Op("Chain", list(operands[:2]), [operands[2]]))
    program = (("Mul", (0, 1), ()), instruction("Sigmoid", (2,)))
    emit_program(site, operands[:2], operands[2:], program, (3,), ("float16",) * 4)
    (launch,) = site.launches
    assert isinstance(launch, Launch)
    text = launch.kernel.generated
    assert "// Mul, Sigmoid: of float16, float16, giving float16.\n" in text
    assert "    float v2 = rounded<half_t>(multiply(v0, v1));  // Mul\n" in text
    assert "    float v3 = rounded<half_t>(sigmoid_16(v2));  // Sigmoid\n" in text
    whole = translation_unit(launch.kernel)
    assert whole.index("float multiply(") < whole.index("void element(")


def test_what_goes_along_with_channels_last() -> None:
    goal = Operand((2, 8, 3, 5), np.dtype("f4"))

    def use(*shapes: Shape, constants: Shape = ()) -> Any:
        operands = [Operand(shape, np.dtype("f4")) for shape in shapes]
        for i in constants:
            operands[i].constant = np.zeros(shapes[i], "f4")
        found = blocked_use(Op("Sum", list(operands), [goal]), 1)
        return found and dict(found.inputs)

    assert use(goal.shape) == {0: NO_PAD}
    assert use(goal.shape, (8, 1, 1), (2, 8, 1, 1), (2, 1, 3, 5)) == {0: NO_PAD, 2: NO_PAD}
    assert use(goal.shape, (1, 8, 3, 5), constants=(1,)) == {0: NO_PAD}
    assert use((8, 1, 1), (2, 1, 3, 5)) is None
    assert (
        blocked_use(Op("Sum", [Operand((4, 4), np.dtype("f4"))], [Operand((4, 4), np.dtype("f4"))]), 1)
        is None
    )


@pytest.mark.parametrize(
    ("layouts", "shapes"),
    [
        ((Blocked(8), None), ((2, 8, 3, 5), (2, 8, 3, 5))),
        ((None, None), ((2, 8, 3, 5), (3, 1, 1, 1, 1))),
        ((None, None), ((2, 8, 3, 5), (7,))),
        ((ChannelsLast(), None), ((2, 8, 3, 5), (2,) * 5)),
    ],
)
def test_refusals(layouts: tuple[Blocked | None, ...], shapes: tuple[Shape, ...]) -> None:
    x, other = (Operand(s, np.dtype("f4"), layout=k) for s, k in zip(shapes, layouts, strict=True))
    with pytest.raises(Unsupported):
        _emitted(x, [other], Operand((2, 8, 3, 5), np.dtype("f4")))
