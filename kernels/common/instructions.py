"""Elementwise programs: tuples of instructions (name, operands, attributes).

Values are numbered: the inputs first, then the result of each instruction. Which types an instruction takes
is a kernel set's own; that its operands have one type, and its attributes' defaults, are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from onnxref.lowering import BlockedRule, Operand, Site, Unsupported
from onnxref.registry import INTERNAL

from .rules import Rules

# (name, numbers of the operands, attributes as sorted pairs)
Instruction: TypeAlias = tuple[str, tuple[int, ...], tuple[tuple[str, Any], ...]]
Shape: TypeAlias = tuple[int, ...]

FLOATS: Final = frozenset(("float32", "float64", "float16", "bfloat16"))
SIGNED: Final = frozenset(f"int{bits}" for bits in (8, 16, 32, 64))
INTS: Final = SIGNED | frozenset(f"uint{bits}" for bits in (8, 16, 32, 64))
BOOL: Final = frozenset(("bool",))
NUMBERS: Final = FLOATS | INTS
ALL: Final = NUMBERS | BOOL
POWERS: Final = (-1.0, 0.5, 1.0, 2.0, 3.0)  # exponents that multiplication, division or a root can do

DEFAULTS: Final[dict[str, dict[str, Any]]] = {  # attributes of instructions
    "LeakyRelu": {"alpha": 0.009999999776482582},
    "Elu": {"alpha": 1.0},
    "Selu": {"alpha": 1.6732631921768188, "gamma": 1.0507010221481323},
    "Celu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.20000000298023224, "beta": 0.5},
    "Swish": {"alpha": 1.0},
    "SwiGLU": {"alpha": 1.0},
    "Gelu": {"approximate": "none"},
    "ThresholdedRelu": {"alpha": 1.0},
    "Shrink": {"bias": 0.0, "lambd": 0.5},
    "Mod": {"fmod": 0},
}
# Instructions that need not have operands of one type.
_MIXED = frozenset(("Pow", "Cast", "Where", "Normalized", "BatchNormalization"))

# Refuses an instruction (its name, the types of its operands, that of its value, its attributes).
Details: TypeAlias = Callable[[str, list[str], str, dict[str, Any]], None]


def instruction(
    name: str, operands: Sequence[int], attributes: Mapping[str, Any] | None = None
) -> Instruction:
    """Return an instruction with all of its attributes."""
    full = {**DEFAULTS.get(name, {}), **(attributes or {})}
    return name, tuple(operands), tuple(sorted(full.items()))


def check_program(
    program: Sequence[Instruction],
    dtypes: Sequence[str],
    types: Mapping[str, frozenset[str]],
    check_details: Details,
) -> None:
    """Refuse a program with an instruction that a kernel set does not know, or not of these types.

    Args:
        dtypes: of every value, the inputs first.
        types: what the operands of each instruction may have; all but a condition have the same.
    """
    for dtype in dtypes:
        if dtype not in ALL:
            raise Unsupported(f"elements of type {dtype}")
    for number, (name, operands, pairs) in enumerate(program, len(dtypes) - len(program)):
        known = types.get(name)
        if known is None:
            raise Unsupported(f"no instruction {name}")
        of = [dtypes[i] for i in operands]
        tested = of[1:] if name == "Where" else of
        if name not in _MIXED and len(set(tested)) > 1:
            raise Unsupported(f"{name} of {', '.join(of)}")
        if not known.issuperset(tested):
            raise Unsupported(f"{name} of {tested[0]}")
        attributes = dict(pairs)
        _check_any(name, of, attributes)
        check_details(name, of, dtypes[number], attributes)


def _check_any(name: str, of: list[str], attributes: dict[str, Any]) -> None:
    match name:
        case "Pow" if len(of) == 1:
            exponent = attributes["exponent"]
            if exponent not in POWERS or (of[0] in INTS and exponent < 1):
                raise Unsupported(f"power {exponent}")
        case "Where" if of[0] != "bool" or of[1] != of[2]:
            raise Unsupported("Where of different types")


class EmitProgram(Protocol):
    """What adds the calls of a program whose results all have one shape."""

    def __call__(
        self,
        site: Site,
        inputs: Sequence[Operand],
        outputs: Sequence[Operand],
        program: Sequence[Instruction],
        results: Sequence[int],
        dtypes: Sequence[str] | None = None,
        shapes: Sequence[Shape] | None = None,
    ) -> None:
        """Add them.

        Args:
            results: for each output the number of the value that it is.
            dtypes: of the inputs and of each instruction's value; where there is one instruction, they
                are those of the inputs and the output.
            shapes: shapes under which the inputs are seen; None for their own.
        """


class Chain(NamedTuple):
    """A program for those outputs that something wants, with all attributes of its instructions.

    Attributes:
        results: for each output the number of the value that it is.
        dtypes: of every value, the inputs first.
    """

    inputs: Sequence[Operand]
    outputs: Sequence[Operand]
    program: Sequence[Instruction]
    results: Sequence[int]
    dtypes: Sequence[str]


CHAIN: Rules[Chain] = Rules()


@CHAIN.rule("Chain", since=1, domain=INTERNAL)
def chain(
    site: Site,
    *inputs: Operand,
    program: tuple[Instruction, ...],
    dtypes: tuple[str, ...],
    results: tuple[int, ...],
) -> Chain:
    """A chain of elementwise operators, computed element by element."""
    wanted = [(y, r) for y, r in zip(site.outputs, results, strict=True) if y is not None]
    full = [instruction(name, operands, dict(pairs)) for name, operands, pairs in program]
    return Chain(inputs, [y for y, _ in wanted], full, [r for _, r in wanted], dtypes)


def register_chain(backend: str, emit_program: EmitProgram, blocked: BlockedRule) -> None:
    """Register the lowering of chains of a kernel set."""

    def emit(site: Site, asked: Chain) -> None:
        if asked.outputs:
            emit_program(site, *asked)

    CHAIN.register(backend, emit, blocked)
