"""What lowerings say about values that kernels must not trust."""

from __future__ import annotations

from onnxref.lowering import FAULT, Fault, Operand


def fault_of(values: Operand | None, lowest: int, highest: int) -> Fault | int:
    """Return where a kernel reports that values are out of range, 0 where it is known that none is.

    A program that may report anything waits for its device at the end of each run.
    """
    if values is None:
        return 0
    held = values.constant
    is_fine = held is not None and bool(((held >= lowest) & (held <= highest)).all())
    return 0 if is_fine else FAULT
