"""One small adapter for each kind of backend.

A backend is named by a word or by a dotted name:

    numpy, numba, cupy       onnxref with that kernel set
    numba-constants          the same, with all inputs but the first as constants of the model, as weights are
    onnxruntime              ONNX Runtime on the CPU
    onnx.reference           the evaluator of the onnx package
    package.module:Class     an `onnx.backend.base.Backend`
    package.module:function  `function(model_bytes, inputs) -> outputs`, both lists in the graph's order
"""

from __future__ import annotations

import copy
import ctypes
import importlib
import inspect
import unittest
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes  # noqa: F401 - NumPy learns the names of the narrow types from it
import numpy as np
import onnx

import onnxref

from .errors import BackendUnavailableError

Execute = Callable[[list[Any]], Sequence[Any]]

# A native function takes 0.3 to 2 s to compile, a large model has a hundred; they are cached on disk.
COMPILING_SECONDS = 240.0

KERNEL_SETS = ("numpy", "numba", "cupy")
CONSTANTS = "-constants"
KNOWN = (*KERNEL_SETS, f"numba{CONSTANTS}", "onnxruntime", "onnx.reference")


class UnsupportedError(Exception):
    """The backend says that it does not implement what a model asks for."""


class Adapter(Protocol):
    """What the worker needs of a backend.

    Attributes:
        patience: seconds that a case may take beyond its limit, for a backend that compiles when it first
            sees an operator and would look as if it hung.
    """

    patience: float

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that decide the results."""

    def prepare(self, model: bytes, path: Path | None) -> Execute:
        """Load a model; `path` is its file, where it has one.

        Raises:
            UnsupportedError: the backend does not claim to run this model.
        """


def make_adapter(spec: str) -> Adapter:
    """Return the adapter for a backend's name.

    Raises:
        BackendUnavailableError: there is no such backend, or it cannot be imported.
    """
    if spec.removesuffix(CONSTANTS) in KERNEL_SETS:
        return OnnxRefAdapter(spec.removesuffix(CONSTANTS), constants=spec.endswith(CONSTANTS))
    try:
        if spec == "onnxruntime":
            return OnnxRuntimeAdapter()
        if spec == "onnx.reference":
            return OnnxReferenceAdapter()
        if ":" not in spec:
            known = ", ".join(KNOWN)
            raise BackendUnavailableError(
                f"no backend {spec!r}: must be one of {known}, or a dotted name package.module:name"
            )
        module_name, _, name = spec.partition(":")
        found = getattr(importlib.import_module(module_name), name)
    except BackendUnavailableError:
        raise
    except Exception as error:  # importing foreign code may raise anything
        raise BackendUnavailableError(
            f"backend {spec!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if hasattr(found, "prepare") and hasattr(found, "supports_device"):
        return BackendAdapter(found, module_name)
    if callable(found):
        return CallableAdapter(found, module_name)
    raise BackendUnavailableError(f"backend {spec!r} must be a Backend or callable (got {found!r})")


class OnnxRefAdapter:
    """onnxref with one of its kernel sets.

    Args:
        constants: make constants of all tensors but the first input. Some kernels ask for weights that are
            known while planning, and the cases of the suites hand over everything as inputs.
    """

    def __init__(self, kernels: str, *, constants: bool = False) -> None:
        self._kernels = kernels
        self._constants = constants
        self.patience = 0.0 if kernels == "numpy" else COMPILING_SECONDS
        try:
            # Only a run tells whether this onnxref, on this machine, has the kernel set.
            onnxref.run(onnx.helper.make_node("Neg", ["x"], ["y"]), [np.ones(1)], backend=kernels)
        except onnxref.OnnxRefError as error:
            raise BackendUnavailableError(
                f"backend {kernels!r}: onnxref {onnxref.__version__} cannot run it here: {error}"
            ) from error

    def versions(self) -> dict[str, str]:
        packages = ("numpy", "onnx") if self._kernels == "numpy" else ("numpy", "onnx", self._kernels)
        return {"onnxref": onnxref.__version__} | _versions(packages)

    def prepare(self, model: bytes, path: Path | None) -> Execute:
        try:
            session = onnxref.InferenceSession(model if path is None else path, backend=self._kernels)
        except onnxref.UnsupportedOperatorError as error:
            raise UnsupportedError(str(error)) from error
        if self._constants:
            proto = onnx.ModelProto.FromString(model) if path is None else onnx.load(path)
            return NativeExecute(lambda inputs: self._with_constants(proto, inputs))
        if self._kernels != "numpy":
            return NativeExecute(lambda inputs: (session, inputs))
        return lambda inputs: session.run(None, inputs)

    def _with_constants(
        self, model: onnx.ModelProto, inputs: list[Any]
    ) -> tuple[onnxref.InferenceSession, list[Any]]:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        made.ir_version = max(model.ir_version, 4)  # before that, initializers are inputs as well
        initialized = {tensor.name for tensor in model.graph.initializer}
        infos = [
            info
            for info in model.graph.input
            if len(inputs) > len(model.graph.input) - len(initialized) or info.name not in initialized
        ]
        del made.graph.input[:]
        kept: list[Any] = []
        for info, value in zip(infos, inputs, strict=False):
            if kept and isinstance(value, np.ndarray) and info.name not in initialized:
                made.graph.initializer.append(onnx.numpy_helper.from_array(value, info.name))
            else:
                made.graph.input.append(info)
                kept.append(value)
        return onnxref.InferenceSession(made, backend=self._kernels), kept


class NativeExecute:
    """Runs a session twice: the reference learns the shapes in the first run, the second is native.

    Args:
        open_session: from the inputs to a session and the inputs that it takes.
    """

    def __init__(
        self, open_session: Callable[[list[Any]], tuple[onnxref.InferenceSession, list[Any]]]
    ) -> None:
        self._open = open_session
        self._session: onnxref.InferenceSession | None = None

    def __call__(self, inputs: list[Any]) -> Sequence[Any]:
        self._session, taken = self._open(inputs)
        # A copy each: a kernel that writes to its inputs must not be forgiven by the second run.
        self._session.run(None, copy.deepcopy(taken))
        return self._session.run(None, copy.deepcopy(taken))

    def coverage(self) -> tuple[int, int]:
        """Return how many of the model's nodes ran natively, and of how many."""
        found = [] if self._session is None else self._session.explain()
        rows = [row for row in found if row.kind != "known"]
        native = sum(len(row.nodes) for row in rows if row.kind == "native")
        return native, sum(len(row.nodes) for row in rows)


class OnnxReferenceAdapter:
    """`onnx.reference.ReferenceEvaluator`."""

    patience = 0.0

    def __init__(self) -> None:
        self._module = importlib.import_module("onnx.reference")

    def versions(self) -> dict[str, str]:
        return _versions(("onnx", "numpy"))

    def prepare(self, model: bytes, path: Path | None) -> Execute:
        source = onnx.ModelProto.FromString(model) if path is None else onnx.load(path)
        initialized = {tensor.name for tensor in source.graph.initializer}
        names = [i.name for i in source.graph.input]
        required = [name for name in names if name not in initialized]

        def execute(inputs: list[Any]) -> Sequence[Any]:
            feeds = dict(zip(names if len(inputs) > len(required) else required, inputs, strict=False))
            with refusals:
                return list(evaluator.run(None, feeds))

        refusals = _Refusals((NotImplementedError,), ("No implementation for operator",))
        with refusals:
            evaluator = self._module.ReferenceEvaluator(source)
        return execute


class OnnxRuntimeAdapter:
    """ONNX Runtime's CPU provider."""

    patience = 0.0

    def __init__(self) -> None:
        self._ort = importlib.import_module("onnxruntime")
        self._ort.set_default_logger_severity(4)  # it would print a line for every old model

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": self._ort.__version__} | _versions(("numpy",))

    def prepare(self, model: bytes, path: Path | None) -> Execute:
        with self._refusals():
            options = self._ort.SessionOptions()
            options.intra_op_num_threads = 1  # the runner is parallel already
            source = model if path is None else str(path)
            session = self._ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        declared = onnx.ModelProto.FromString(model).graph
        values = [*session.get_inputs(), *declared.input, *session.get_overridable_initializers()]
        names = list(dict.fromkeys(value.name for value in values))

        def execute(inputs: list[Any]) -> Sequence[Any]:
            feeds = dict(zip(names, inputs, strict=False))
            with self._refusals():
                if _has_foreign_types(declared):
                    return self._run_typed(session, declared, feeds)
                return list(session.run(None, feeds))

        return execute

    def _run_typed(self, session: Any, declared: onnx.GraphProto, feeds: dict[str, Any]) -> Sequence[Any]:
        """Run a model with types that ONNX Runtime does not exchange as NumPy arrays."""
        types = {value.name: value.type.tensor_type.elem_type for value in declared.input}
        value_class = self._ort.OrtValue
        values = {
            name: value_class.ortvalue_from_numpy_with_onnx_type(_packed(array, types[name]), types[name])
            if _is_foreign(types[name])
            else value_class.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        return [_from_ort_value(value) for value in session.run_with_ort_values(None, values)]

    def _refusals(self) -> Any:
        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        phrases = (
            "is not a registered function/op",
            "No Op registered for",
            "is under development",
            "Unsupported model IR version",
        )
        return _Refusals((state.NotImplemented, NotImplementedError), phrases)


class BackendAdapter:
    """Anything with the interface of `onnx.backend.base.Backend`."""

    patience = 0.0

    def __init__(self, backend: Any, module: str) -> None:
        self._backend = backend
        self._module = module

    def versions(self) -> dict[str, str]:
        return _version_of_module(self._module) | _versions(("onnx",))

    def prepare(self, model: bytes, path: Path | None) -> Execute:
        proto = onnx.ModelProto.FromString(model) if path is None else onnx.load(path)
        compatible = getattr(self._backend, "is_compatible", None)
        with _not_implemented():
            if not self._backend.supports_device("CPU"):
                raise UnsupportedError("the backend does not support the device 'CPU'")
            if callable(compatible) and not compatible(proto):
                raise UnsupportedError("the backend says that the model is not compatible with it")
            prepared = self._backend.prepare(proto, "CPU")

        def execute(inputs: list[Any]) -> Sequence[Any]:
            with _not_implemented():
                return list(prepared.run(inputs))

        return execute


class CallableAdapter:
    """A function from the bytes of a model and a list of inputs to a list of outputs."""

    patience = 0.0

    def __init__(self, function: Callable[[bytes, list[Any]], Sequence[Any]], module: str) -> None:
        self._function = function
        self._module = module

    def versions(self) -> dict[str, str]:
        return _version_of_module(self._module)

    def prepare(self, model: bytes, path: Path | None) -> Execute:
        def execute(inputs: list[Any]) -> Sequence[Any]:
            with _not_implemented():
                return self._function(model, inputs)

        return execute


class _Refusals:
    """Turns the ways in which a backend says "not implemented" into `UnsupportedError`."""

    def __init__(self, kinds: tuple[type[BaseException], ...], phrases: tuple[str, ...] = ()) -> None:
        self._kinds = kinds
        self._phrases = phrases

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, self._kinds) or any(phrase in str(error) for phrase in self._phrases):
            raise UnsupportedError(str(error)) from error


def _not_implemented() -> _Refusals:
    # The onnx package's own tests count a SkipTest as "not supposed to implement it".
    return _Refusals((NotImplementedError, unittest.SkipTest))


def _has_foreign_types(graph: onnx.GraphProto) -> bool:
    return any(_is_foreign(v.type.tensor_type.elem_type) for v in (*graph.input, *graph.output))


def _is_foreign(element: int) -> bool:
    """Whether NumPy itself lacks the type: bfloat16, float8, int4 ..."""
    return element >= onnx.TensorProto.BFLOAT16


def _packed(array: Any, element: int) -> Any:
    """Return the array as ONNX Runtime stores it: several elements to a byte where they are that small."""
    raw = np.frombuffer(onnx.numpy_helper.from_array(array).raw_data, np.uint8)
    if len(raw) == array.nbytes:
        return array
    padded = np.zeros(array.shape, np.uint8)  # the shape is read from the array, the bytes from its start
    padded.reshape(-1)[: len(raw)] = raw
    return padded


def _from_ort_value(value: Any) -> Any:
    if not value.is_tensor() or not _is_foreign(value.element_type()):
        return value.numpy()
    # There is no conversion for these types; the bytes are read from where they lie.
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    shape, element = value.shape(), value.element_type()
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    if len(raw) == int(np.prod(shape)) * dtype.itemsize:
        return np.frombuffer(raw, dtype).reshape(shape)
    packed = onnx.TensorProto(data_type=element, dims=shape, raw_data=raw)
    return onnx.numpy_helper.to_array(packed)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {package: found for package in packages for found in _installed(package)}


def _installed(package: str) -> Iterator[str]:
    try:
        yield metadata.version(package)
    except metadata.PackageNotFoundError:
        return  # installed under another name, as cupy is (cupy-cuda12x)


def _version_of_module(name: str) -> dict[str, str]:
    """Return the version of the top-level package that a module belongs to, by what it says of itself."""
    top = name.partition(".")[0]
    module = importlib.import_module(top)
    version = getattr(module, "__version__", None)
    for distribution in metadata.packages_distributions().get(top, ()) if version is None else ():
        version = metadata.version(distribution)
    if version is None:
        file = inspect.getsourcefile(module)
        # A script without a version is known by the time of its last change.
        version = f"modified {int(Path(file).stat().st_mtime)}" if file else "unknown"
    return {top: str(version)}
