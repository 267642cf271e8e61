"""Runs a single lowering for the GPU in the emulator, beside the reference kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import DeviceTensor
from onnxref.limits import DEFAULT, Budget
from onnxref.lowering import ChannelsLast, Op, Operand, PackCache, Site, find_lowering
from onnxref.plan.specialize import DeviceConstants, DeviceProgram, Lowered
from onnxref.schema import find as find_schema

from .emulator.build import ORDERS
from .emulator.device import EmulatedDevice

Wanted = tuple[tuple[int, ...], Any]


def run_on_device(
    op_type: str,
    inputs: Sequence[Array | None],
    outputs: Sequence[Wanted | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    opset: int = 24,
    domain: str = "",
    constants: Sequence[int] = (),
    channels_last: Sequence[int] = (),
    outputs_last: Sequence[int] = (),
    precision: str = "default",
    orders: Sequence[int] = ORDERS,
    device: EmulatedDevice | None = None,
) -> list[Array | None]:
    """Run the lowering of a node and return its outputs.

    All schedules of the emulator must give the same bits, and nothing may write outside of its output
    or read what nobody wrote (memory holds a pattern at first, guards lie around every tensor).

    Args:
        outputs: (shape, dtype) of each output, None for one that nothing wants.
        constants: indices of inputs whose value the lowering may see.
        channels_last, outputs_last: indices of inputs, and of outputs, that lie with the channels last.

    Raises:
        Unsupported: the lowering refuses.
        RefusedError: the kernels report values that the specification forbids.
    """
    operands, fed = _operands(inputs, constants, channels_last)
    made = [
        None
        if wanted is None
        else Operand(
            tuple(wanted[0]),
            np.dtype(wanted[1]),
            f"output{i}",
            layout=ChannelsLast() if i in outputs_last else None,
        )
        for i, wanted in enumerate(outputs)
    ]
    op = Op(op_type, operands, list(made), dict(attributes or {}), domain, opset)
    site = Site(op, precision=precision, libraries=(device or EmulatedDevice()).libraries)
    schema = find_schema(domain, op_type, opset)
    lowering = find_lowering("cupy", domain, op_type, schema.since_version if schema else 1)
    assert lowering is not None, f"{domain}:{op_type} is not lowered"
    lowering.emit(site, *operands, **(attributes or {}))
    given = [x for x in operands if x is not None and x.constant is None]
    wanted_outputs = [y for y in made if y is not None]
    results = []
    for order in orders:
        chosen = device or EmulatedDevice()
        chosen.order = order
        program = DeviceProgram(
            [Lowered(op, site)],
            given,
            wanted_outputs,
            chosen,
            DeviceConstants(chosen, PackCache()),
            debug=True,
        )
        found = program.run(fed, Budget(DEFAULT), _no_step)
        results.append([_host(y, operand) for y, operand in zip(found, wanted_outputs, strict=True)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes(), "the result depends on the order of the threads"
    left = iter(results[0])
    return [None if y is None else next(left) for y in made]


def _operands(
    inputs: Sequence[Array | None], constants: Sequence[int], channels_last: Sequence[int]
) -> tuple[list[Operand | None], list[Array]]:
    operands: list[Operand | None] = []
    fed: list[Array] = []
    for i, array in enumerate(inputs):
        if array is None:
            operands.append(None)
            continue
        layout = ChannelsLast() if i in channels_last else None
        lying = np.ascontiguousarray(np.moveaxis(array, 1, -1) if layout else array)
        operand = Operand(array.shape, array.dtype, f"input{i}", layout=layout)
        if i in constants:
            operand.constant = lying.reshape(array.shape) if layout is None else lying
        else:
            fed.append(lying)
        operands.append(operand)
    return operands, fed


def _host(given: DeviceTensor, operand: Operand) -> Array:
    if operand.layout is None:
        return given.numpy()
    batch, channels, *spatial = operand.shape
    return np.moveaxis(given.numpy().reshape(batch, *spatial, channels), -1, 1)


def _no_step(step: Any, values: Any) -> Any:
    raise AssertionError("nothing runs on the reference here")
