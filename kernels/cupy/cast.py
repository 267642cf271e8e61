"""Cast and CastLike between bool, integers of 2 to 64 bits, and floats of 4 to 64 bits; exact.

Floats become integers toward zero, modulo 2**64 where they are larger; infinities and NaN become 0.
Every conversion rounds once, to nearest even.
"""

from __future__ import annotations

from onnxref.lowering import BlockedUse, Op, Operand, Site, lower

from ..common.instructions import instruction
from .chain import blocked_use, emit_program
from .narrow_cast import NARROW, emit_narrow_cast


def _blocked(op: Op, lanes: int) -> BlockedUse | None:
    """Casts go along with their input; how the tensor lies that only names a type says nothing."""
    return blocked_use(Op(op.op_type, op.inputs[:1], op.outputs), lanes)


def _emit(
    site: Site, x: Operand, saturate: int = 1, round_mode: str = "up", *, before_24: bool = False
) -> None:
    (y,) = site.outputs
    if y is None:
        return
    if y.dtype == x.dtype and y.layout == x.layout:
        site.alias(y, x)
        return
    if x.dtype.name in NARROW or y.dtype.name in NARROW:
        emit_narrow_cast(site, x, y, saturate=bool(saturate), round_mode=round_mode, before_24=before_24)
        return
    emit_program(site, (x,), (y,), [instruction("Cast", (0,))], (1,))


@lower("Cast", since=(24, 25, 28), backend="cupy", blocked=_blocked)
def cast(site: Site, x: Operand, *, to: int, saturate: int = 1, round_mode: str = "up") -> None:
    """`saturate` and `round_mode` tell apart only results of 8 bits."""
    _emit(site, x, saturate, round_mode)


@lower("Cast", since=(19, 21, 23), backend="cupy", blocked=_blocked)
def cast_19(site: Site, x: Operand, *, to: int, saturate: int = 1) -> None:
    _emit(site, x, saturate, before_24=True)


@lower("Cast", since=(1, 6, 9, 13), backend="cupy", blocked=_blocked)
def cast_1(site: Site, x: Operand, *, to: int | str) -> None:
    _emit(site, x)


@lower("CastLike", since=(24, 25), backend="cupy", blocked=_blocked)
def cast_like(
    site: Site, x: Operand, target_type: Operand, *, saturate: int = 1, round_mode: str = "up"
) -> None:
    _emit(site, x, saturate, round_mode)


@lower("CastLike", since=(19, 21, 23), backend="cupy", blocked=_blocked)
def cast_like_19(site: Site, x: Operand, target_type: Operand, *, saturate: int = 1) -> None:
    _emit(site, x, saturate, before_24=True)


@lower("CastLike", since=15, backend="cupy", blocked=_blocked)
def cast_like_15(site: Site, x: Operand, target_type: Operand) -> None:
    _emit(site, x)
