"""A spec-faithful interpreter for ONNX and ONNX-ML in pure Python.

>>> import onnxref
>>> onnxref.run("model.onnx", {"x": x})                     # doctest: +SKIP
>>> onnxref.InferenceSession("model.onnx").run(None, {"x": x})  # doctest: +SKIP
"""

from .errors import (
    BackendError,
    DeviceMemoryError,
    ExternalDataError,
    InputError,
    InvalidAttributeError,
    InvalidGraphError,
    KernelError,
    MissingDependencyError,
    ModelError,
    ModelLoadError,
    NodeError,
    OnnxRefError,
    OptionError,
    OutputError,
    ResourceLimitError,
    TypeMismatchError,
    UnsupportedOperatorError,
)
from .graph import SparseTensor
from .limits import DEFAULT, TRUSTED, UNTRUSTED, Limits
from .registry import register_op, unregister_op
from .session import InferenceSession, ModelMetadata, NodeArg, run

__version__ = "0.1.0"

__all__ = [
    "DEFAULT",
    "TRUSTED",
    "UNTRUSTED",
    "BackendError",
    "DeviceMemoryError",
    "ExternalDataError",
    "InferenceSession",
    "InputError",
    "InvalidAttributeError",
    "InvalidGraphError",
    "KernelError",
    "Limits",
    "MissingDependencyError",
    "ModelError",
    "ModelLoadError",
    "ModelMetadata",
    "NodeArg",
    "NodeError",
    "OnnxRefError",
    "OptionError",
    "OutputError",
    "ResourceLimitError",
    "SparseTensor",
    "TypeMismatchError",
    "UnsupportedOperatorError",
    "__version__",
    "register_op",
    "run",
    "unregister_op",
]
