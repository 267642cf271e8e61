"""Cast and CastLike between bool, integers of 8 to 64 bits, and floats of 16 to 64 bits; exact.

Floats become integers toward zero, modulo 2**64 where they are larger; infinities and NaN become 0.
Every conversion rounds once, to nearest even.
"""

from __future__ import annotations

from onnxref.lowering import Operand, Site, lower

from ..common.instructions import instruction
from .chain import emit_program


def _emit(site: Site, x: Operand) -> None:
    (y,) = site.outputs
    if y is None:
        return
    if y.dtype == x.dtype:
        site.alias(y, x)
        return
    emit_program(site, (x,), (y,), [instruction("Cast", (0,))], (1,))


@lower("Cast", since=(24, 25, 28))
def cast(site: Site, x: Operand, *, to: int, saturate: int = 1, round_mode: str = "up") -> None:
    """`saturate` and `round_mode` tell apart only results of 8 bits and less, which are not done here."""
    _emit(site, x)


@lower("Cast", since=(19, 21, 23))
def cast_19(site: Site, x: Operand, *, to: int, saturate: int = 1) -> None:
    _emit(site, x)


@lower("Cast", since=(1, 6, 9, 13))
def cast_1(site: Site, x: Operand, *, to: int | str) -> None:
    _emit(site, x)


@lower("CastLike", since=(24, 25))
def cast_like(
    site: Site, x: Operand, target_type: Operand, *, saturate: int = 1, round_mode: str = "up"
) -> None:
    _emit(site, x)


@lower("CastLike", since=(19, 21, 23))
def cast_like_19(site: Site, x: Operand, target_type: Operand, *, saturate: int = 1) -> None:
    _emit(site, x)


@lower("CastLike", since=15)
def cast_like_15(site: Site, x: Operand, target_type: Operand) -> None:
    _emit(site, x)
