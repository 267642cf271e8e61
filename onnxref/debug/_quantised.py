"""A quantised model against its float original: what each layer and each quantiser costs.

Layers are matched by structure (`align`), through QuantizeLinear, DequantizeLinear and Cast nodes and the
quantised operators of both ONNX and ONNX Runtime. The *local* error of a layer is that of everything between
golden values and its output: quantised weights, quantised inputs, and the layer itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from ..dtypes import Array
from ..errors import BackendError, MissingDependencyError, ModelError
from ..graph import Node
from ..limits import DEFAULT, Limits
from ._compare import Work, align_models
from ._comparison import Verdict
from ._errors_between import Errors, Tolerance, errors_between
from ._html import html_table
from ._runners import MEMORY, ModelRunner, OnnxRefRunner, bound_feeds
from ._shadow import is_float
from ._stats import json_number, short


@dataclass(frozen=True, slots=True)
class Layer:
    """One value of the float model, and what became of it.

    Attributes:
        path: node of the float model that makes it.
        name, counterpart: the value in the float and in the quantised model.
        rule: how the counterpart was found, see `align`.
        local: error of this layer alone, on the float model's values; None where it cannot be run alone.
        cumulative: error in the whole run.
    """

    path: str
    op_type: str
    name: str
    counterpart: str
    rule: str
    local: Errors | None
    cumulative: Errors | None

    def to_json(self) -> dict[str, Any]:
        """Return the layer as plain data for `json.dumps`."""
        parts = {"local": self.local, "cumulative": self.cumulative}
        return {
            "node": self.path,
            "op_type": self.op_type,
            "name": self.name,
            "counterpart": self.counterpart,
            "rule": self.rule,
            **{name: None if part is None else part.to_json() for name, part in parts.items()},
        }

    def cells(self) -> list[str]:
        """Return the cells of a table's row, see `LAYER_COLUMNS`."""
        snr = ["" if part is None else short(part.snr) for part in (self.local, self.cumulative)]
        cosine = "" if self.cumulative is None else f"{self.cumulative.cosine:.6g}"
        return [self.path, self.op_type, self.counterpart, self.rule, *snr, cosine]


LAYER_COLUMNS = ("layer", "operator", "quantised value", "found", "local SNR", "total SNR", "cosine")


@dataclass(frozen=True, slots=True)
class Quantiser:
    """One quantising node of the quantised model, on the values of its own run.

    Attributes:
        path: the QuantizeLinear node.
        value: what it quantises.
        snr: of the dequantised value against what came in, in dB; infinite where nothing is lost.
        saturated: share of the elements that do not fit into the integers' range.
        used: share of the integers' range between the smallest and the largest result.
        low, high: the range that came in.
        scale: its scale, the largest one where there is one for each channel.
        is_relu: its integers start at zero, and negative values come in, which become zero: a Relu that was
            left out. That counts neither as noise nor as saturation.
    """

    path: str
    value: str
    snr: float
    saturated: float
    used: float
    low: float
    high: float
    scale: float
    is_relu: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the quantiser as plain data for `json.dumps`."""
        names = ("path", "value", "snr", "saturated", "used", "low", "high", "scale", "is_relu")
        return {name: json_number(getattr(self, name)) for name in names}

    @property
    def advice(self) -> str:
        """What is wrong with its scale, if something is."""
        if not (math.isfinite(self.scale) and math.isfinite(self.low) and math.isfinite(self.high)):
            return "its scale or what comes in is not finite"
        if self.saturated > 0.01:
            return f"scale too small: {100 * self.saturated:.3g}% of the elements saturate"
        if self.used < 0.25 and self.snr < 30:
            return f"scale too large: {100 * self.used:.3g}% of the range is used"
        return "acts as a Relu" if self.is_relu else ""

    def cells(self) -> list[str]:
        """Return the cells of a table's row, see `QUANTISER_COLUMNS`."""
        extent = f"{short(self.low)} to {short(self.high)}"
        shares = [f"{100 * share:.3g}%" for share in (self.saturated, self.used)]
        return [self.path, self.value, extent, short(self.scale), short(self.snr), *shares, self.advice]


QUANTISER_COLUMNS = ("quantiser", "value", "range", "scale", "SNR", "saturated", "range used", "advice")


@dataclass(frozen=True, slots=True)
class QuantisedComparison:
    """A quantised model, layer by layer and quantiser by quantiser, in the order of execution.

    Attributes:
        outputs: error of the model's outputs, by the float model's names.
    """

    layers: tuple[Layer, ...]
    quantisers: tuple[Quantiser, ...]
    outputs: Mapping[str, Errors] = field(default_factory=dict)

    def worst_layers(self, count: int = 10) -> list[Layer]:
        """Return the layers with the largest local error, the worst first."""
        known = [layer for layer in self.layers if layer.local is not None or layer.cumulative is not None]
        return sorted(known, key=_layer_snr)[:count]

    def worst_quantisers(self, count: int = 10) -> list[Quantiser]:
        """Return the quantisers that lose most, the worst first."""
        return sorted(self.quantisers, key=lambda quantiser: quantiser.snr)[:count]

    @property
    def snr(self) -> float:
        """The signal-to-noise ratio of the worst output, in dB."""
        return min((errors.snr for errors in self.outputs.values()), default=float("inf"))

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data for `json.dumps`."""
        return {
            "outputs": {name: errors.to_json() for name, errors in self.outputs.items()},
            "layers": [layer.to_json() for layer in self.layers],
            "quantisers": [quantiser.to_json() for quantiser in self.quantisers],
        }

    @property
    def title(self) -> str:
        """What the outputs lose, in a line."""
        found = [f"{name} {short(errors.snr)} dB" for name, errors in self.outputs.items()]
        counts = f"{len(self.layers)} layers, {len(self.quantisers)} quantisers"
        return f"{counts}; outputs: {', '.join(found) or 'none compared'}"

    def __str__(self) -> str:
        lines = [" | ".join(layer.cells()) for layer in self.worst_layers()]
        lines += [" | ".join(quantiser.cells()) for quantiser in self.worst_quantisers(5)]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        layers = html_table([layer.cells() for layer in self.layers], LAYER_COLUMNS, title=self.title)
        return layers + html_table([q.cells() for q in self.worst_quantisers(50)], QUANTISER_COLUMNS)


def _layer_snr(layer: Layer) -> float:
    part = layer.local or layer.cumulative
    return float("inf") if part is None else part.snr


def compare_quantised(
    quantised: Any,
    original: Any,
    feeds: Any = None,
    *,
    memory: int = MEMORY,
    limits: Limits = DEFAULT,
) -> QuantisedComparison:
    """Compare a quantised model (QDQ nodes, quantised operators, or narrower floats) with its original.

    Args:
        quantised, original: in any form that `onnxref.run` takes.
        feeds: inputs of the original, as for `onnxref.run`.
        memory: bytes of values to hold at a time.

    Raises:
        ModelError, InputError: a model or the feeds are wrong.
        BackendError: neither the reference kernels nor ONNX Runtime run the quantised model.
    """
    golden = OnnxRefRunner(original, memory=memory, limits=limits)
    other = _open_quantised(quantised, memory, limits)
    feeds = bound_feeds(golden.model.graph, feeds)
    alignment = align_models(golden.model, other.model, feeds, runners=(golden, other))
    model = golden.model
    work = Work(
        model, model.graph, golden, other, feeds, alignment, Tolerance(), True, memory, wanted=is_float
    )
    outputs = {value.name for value in model.graph.outputs}
    layers, found = [], {}
    for node in work.nodes():
        for value in node.outputs:
            if (value.cumulative is None and value.local is None) or value.counterpart is None:
                continue
            if node.verdict is Verdict.random:
                continue
            rule = alignment.rules.get(value.name, "name")
            layers.append(
                Layer(
                    node.path,
                    node.op_type,
                    value.name,
                    value.counterpart,
                    rule,
                    value.local,
                    value.cumulative,
                )
            )
            if value.name in outputs and value.cumulative is not None:
                found[value.name] = value.cumulative
    if work.problem:
        raise BackendError(f"the quantised model does not run: {work.problem}")
    given = {alignment.inputs[name]: value for name, value in feeds.items() if name in alignment.inputs}
    return QuantisedComparison(tuple(layers), measure_quantisers(other, given), found)


def _open_quantised(source: Any, memory: int, limits: Limits) -> ModelRunner:
    """Return what runs a quantised model: ONNX Runtime if it has operators or faults that only that takes."""
    runner = OnnxRefRunner(source, memory=memory, limits=limits)
    try:
        _ = runner.session
        return runner
    except ModelError as refused:
        from ._ort import OnnxRuntimeRunner

        try:
            return OnnxRuntimeRunner(runner.source, "disabled", memory=memory, limits=limits)
        except MissingDependencyError:
            raise refused from None


def measure_quantisers(runner: ModelRunner, feeds: Mapping[str, Any]) -> tuple[Quantiser, ...]:
    """Return what every QuantizeLinear node loses; in subgraphs too, where the reference runs the model."""
    if isinstance(runner, OnnxRefRunner) and runner.is_reference:
        found = []
        for execution in runner.executions(feeds):
            if execution.node.op_type == "QuantizeLinear":
                path = execution.scope, execution.path
                found.append(_measured(execution.node, *path, execution.inputs, execution.outputs[0]))
        return tuple(found)
    graph = runner.model.graph
    nodes = [node for node in graph.nodes if node.op_type == "QuantizeLinear"]
    return tuple(one for node in nodes if (one := _fetched(runner, node, feeds)) is not None)


def _fetched(runner: ModelRunner, node: Node, feeds: Mapping[str, Any]) -> Quantiser | None:
    graph = runner.model.graph
    wanted = [name for name in (*node.inputs, node.outputs[0]) if name not in graph.initializers]
    values = {**graph.initializers, **feeds, **runner.fetch(feeds, wanted)}
    inputs = [values.get(name) for name in node.inputs]
    if inputs[0] is None or inputs[1] is None:
        return None  # a constant
    return _measured(node, "", node.label, inputs, values[node.outputs[0]])


def _measured(node: Node, scope: str, path: str, inputs: Sequence[Any], output: Any) -> Quantiser:
    value, scale = (np.asarray(item) for item in inputs[:2])
    result = np.asarray(output)
    zero = inputs[2] if len(inputs) > 2 else None
    axis = int(node.attributes.get("axis", 1))
    block = int(node.attributes.get("block_size", 0))
    spread = [_spread(part, value, axis, block) for part in (scale, zero)]
    limits = _range(result)
    exact, wide = value.astype(np.float64), result.astype(np.float64)
    with np.errstate(all="ignore"):
        lowest = (limits[0] - spread[1]) * spread[0]
        is_relu = bool(np.all(lowest == 0)) and bool(np.any(exact < 0))
        meant = np.maximum(exact, 0) if is_relu else exact
        errors = errors_between(meant, np.asarray((wide - spread[1]) * spread[0], np.float64))
        place = meant / spread[0] + spread[1]
        outside = (place < limits[0] - 0.5) | (place > limits[1] + 0.5)
        width = float(wide.max() - wide.min()) if wide.size else 0.0
        return Quantiser(
            path,
            scope + node.inputs[0],
            errors.snr,
            float(np.mean(outside)) if value.size else 0.0,
            width / (limits[1] - limits[0]),
            float(np.min(exact)) if value.size else 0.0,
            float(np.max(exact)) if value.size else 0.0,
            float(np.max(scale)),
            is_relu,
        )


def _range(result: Array) -> tuple[float, float]:
    if result.dtype.kind in "iu" or "int" in result.dtype.name:
        info: Any = ml_dtypes.iinfo(result.dtype)  # type: ignore[no-untyped-call]
    else:
        info = ml_dtypes.finfo(result.dtype)  # type: ignore[no-untyped-call]
    return float(info.min), float(info.max)


def _spread(part: Any, value: Array, axis: int, block: int) -> Array:
    """Return scales or zero points so that they broadcast to the value."""
    if part is None:
        return np.zeros(())
    wide = np.asarray(part).astype(np.float64)
    if wide.size == 1:
        return wide.reshape(())
    if block:
        repeated = np.repeat(wide, block, axis=axis)
        return np.take(repeated, range(value.shape[axis]), axis=axis)
    shape = [1] * value.ndim
    shape[axis] = -1
    return wide.reshape(shape)
