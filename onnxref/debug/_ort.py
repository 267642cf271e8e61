"""ONNX Runtime as a runner: what its optimiser made of a model, with every value that is left in it.

Asking a session for more outputs would keep its optimiser from fusing what lies around them, and the values
would be those of another graph. So the optimised graph is saved, and that graph is run with more outputs and
without optimising it again.
"""

from __future__ import annotations

import ctypes
import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..dtypes import PACKED_BITS, ElementType, from_numpy, to_numpy
from ..errors import BackendError, MissingDependencyError, OnnxRefError
from ..graph import Model, Value
from ..limits import DEFAULT, GIB, Limits
from ..model import load_model, save_model, to_proto
from ._runners import MEMORY, Feeds, ModelRunner

LEVELS = ("disabled", "basic", "extended", "layout", "all")
_LARGEST_MESSAGE = GIB  # protobuf ends at 2 GiB; larger models go through a file


class OnnxRuntimeRunner(ModelRunner):
    """ONNX Runtime's CPU provider at one of its optimisation levels.

    Args:
        level: "disabled", "basic", "extended", "layout" or "all".
    """

    def __init__(
        self, source: Any, level: str = "all", *, memory: int = MEMORY, limits: Limits = DEFAULT
    ) -> None:
        if level not in LEVELS:
            raise BackendError(
                f"onnxruntime has no optimisation level {level!r}; choose from {', '.join(LEVELS)}"
            )
        super().__init__(source, memory=memory, limits=limits)
        self.level = level
        self.label = "onnxruntime" if level == "all" else f"onnxruntime:{level}"
        self.is_faithful = True
        self._optimised: Model | None = None
        runtime()

    @property
    def model(self) -> Model:
        """What ONNX Runtime executes: the model after its optimiser."""
        if self.level == "disabled":
            return self.source
        if self._optimised is None:
            self._optimised = self._optimise()
        return self._optimised

    def _optimise(self) -> Model:
        """Return the optimised model; the model itself where it cannot be saved or read back."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimised.onnx"
            options = _options(self.level)
            options.optimized_model_filepath = str(path)
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "o.data"
            )
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_min_size_in_bytes", str(GIB)
            )
            _open(self.source, options)
            try:
                return load_model(path.read_bytes(), self.limits)
            except (OSError, OnnxRefError):
                # Then outputs are added to the model as written, which may undo fusions.
                self.is_faithful = False
                return self.source

    def fetch(self, feeds: Feeds, names: Sequence[str]) -> dict[str, Any]:
        model = self.model
        made = set(self.names)
        wanted = [name for name in names if name in made]
        if not wanted:
            return {}
        graph = model.graph
        declared = {value.name: value for value in graph.outputs}
        outputs = tuple(declared.get(name, Value(name)) for name in wanted)
        level = "disabled" if self.is_faithful else self.level
        session = _open(replace(model, graph=replace(graph, outputs=outputs)), _options(level))
        needed = {value.name for value in session.get_inputs()}
        defaults = {value.name for value in session.get_overridable_initializers()}
        given = {name: value for name, value in feeds.items() if name in needed | defaults}
        return dict(zip(wanted, _run(session, given), strict=True))

    def _open_small(self, small: Model) -> Any:
        options = _options("disabled")
        options.intra_op_num_threads = 1
        return _open(small, options)

    def _call(self, session: Any, inputs: list[Any]) -> list[Any]:
        return _run(session, dict(zip((value.name for value in session.get_inputs()), inputs, strict=True)))


@cache
def runtime() -> Any:
    """Return the onnxruntime module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        module = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("onnxruntime is not installed: pip install onnxruntime") from error
    return module


def _options(level: str) -> Any:
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # it would print a line for every old model
    names = {"disabled": "ORT_DISABLE_ALL"} | {name: f"ORT_ENABLE_{name.upper()}" for name in LEVELS[1:]}
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, names[level])
    return options


def _open(model: Model, options: Any) -> Any:
    ort = runtime()
    size = sum(array.nbytes for array in model.graph.initializers.values())
    with _reported("cannot load the model"), tempfile.TemporaryDirectory() as folder:
        source: Any = Path(folder) / "model.onnx"
        if size <= _LARGEST_MESSAGE:
            source = to_proto(model).SerializeToString()
        else:
            save_model(model, source)
            source = str(source)
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@contextmanager
def _reported(what: str) -> Iterator[None]:
    try:
        yield
    except OnnxRefError:
        raise
    except Exception as error:  # its exceptions have no common base of their own
        text = " ".join(str(error).split())
        raise BackendError(f"onnxruntime {what}: {text[:500]}") from error


def _run(session: Any, feeds: Mapping[str, Any]) -> list[Any]:
    kinds = [value.type for value in (*session.get_inputs(), *session.get_outputs())]
    with _reported("fails"):
        if not any(_is_foreign(kind) for kind in kinds):
            return list(session.run(None, dict(feeds)))
        values = {name: _to_ort_value(value) for name, value in feeds.items()}
        return [_from_ort_value(value) for value in session.run_with_ort_values(None, values)]


def _is_foreign(kind: str) -> bool:
    """Whether a type string names an element that is not exchanged as a NumPy array."""
    return any(word in kind for word in ("bfloat16", "float8", "float6", "float4", "int4", "int2)"))


def _to_ort_value(array: Any) -> Any:
    value_class = runtime().OrtValue
    element = from_numpy(array.dtype)
    if element < ElementType.BFLOAT16:
        return value_class.ortvalue_from_numpy(np.ascontiguousarray(array))
    packed = np.ascontiguousarray(array)
    if element in PACKED_BITS:
        raw = np.frombuffer(_packed_bytes(array), np.uint8)
        packed = np.zeros(array.shape, np.uint8)  # the shape is read from the array, the bytes from its start
        packed.reshape(-1)[: len(raw)] = raw
    return value_class.ortvalue_from_numpy_with_onnx_type(packed, int(element))


def _packed_bytes(array: Any) -> bytes:
    from ..model import encode_value

    return bytes(encode_value(array).raw_data)


def _from_ort_value(value: Any) -> Any:
    if not value.is_tensor() or value.element_type() < ElementType.BFLOAT16:
        return value.numpy()
    # There is no conversion for these types; the bytes are read from where they lie.
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    shape, element = tuple(value.shape()), value.element_type()
    dtype = to_numpy(element)
    if len(raw) == int(np.prod(shape)) * dtype.itemsize:
        return np.frombuffer(raw, dtype).reshape(shape)
    return _unpacked(raw, element, shape)


def _unpacked(raw: bytes, element: int, shape: tuple[int, ...]) -> Any:
    import onnx

    from ..model import decode_tensor

    return decode_tensor(onnx.TensorProto(data_type=element, dims=shape, raw_data=raw), None)
