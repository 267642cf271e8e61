"""Every exception that onnxref raises on purpose.

OnnxRefError
├── ModelError                 the model itself is at fault (also a ValueError)
│   ├── ModelLoadError         unreadable, truncated or not an ONNX file
│   ├── InvalidGraphError      undefined or duplicate names, cycles, recursion
│   ├── UnsupportedOperatorError  no such operator, version or domain
│   ├── InvalidAttributeError  unknown, missing or mistyped attribute
│   ├── TypeMismatchError      a node input has a type that its schema does not allow
│   └── ExternalDataError      external data missing, too short or outside the model's folder
├── InputError                 the caller's feeds do not fit (also a ValueError)
├── OutputError                an output was asked for that the model does not have
├── KernelError                a kernel refuses its arguments; the runtime adds the node
├── NodeError                  a node failed while running; names the node, keeps the cause
├── ResourceLimitError         a limit of `onnxref.Limits` would be exceeded
├── DeviceMemoryError          a GPU has no memory left (also a MemoryError)
├── BackendError               the backend asked for does not exist or cannot be used here
├── OptionError                an option or variable cannot have its value (also a ValueError)
└── MissingDependencyError     an optional package is needed (also an ImportError)
"""

from __future__ import annotations


class OnnxRefError(Exception):
    """Base of every error that onnxref raises on purpose."""


class ModelError(OnnxRefError, ValueError):
    """The model breaks a rule of the ONNX specification or of this library."""


class ModelLoadError(ModelError):
    """The bytes are not a readable ONNX model."""


class InvalidGraphError(ModelError):
    """The graph's names or edges break the ONNX IR's rules."""


class UnsupportedOperatorError(ModelError):
    """No operator of this name, domain and version is known."""


class InvalidAttributeError(ModelError):
    """A node's attribute is unknown, missing or of the wrong type."""


class TypeMismatchError(ModelError):
    """A node's input has a type that its operator's schema does not allow."""


class ExternalDataError(ModelError):
    """External tensor data is missing, too short, or outside the model's folder."""


class InputError(OnnxRefError, ValueError):
    """The inputs given to a run do not fit the model's inputs."""


class OutputError(OnnxRefError, ValueError):
    """An output was requested that the model does not have."""


class KernelError(OnnxRefError, ValueError):
    """A kernel refuses its arguments. The runtime re-raises it as a `NodeError`."""


class NodeError(OnnxRefError, RuntimeError):
    """A node failed while the model ran; the message names it, `__cause__` says why."""


class ResourceLimitError(OnnxRefError, RuntimeError):
    """A resource limit would be exceeded; nothing was allocated for it.

    Attributes:
        located: whether the message names the node already.
    """

    def __init__(self, message: str, *, located: bool = False) -> None:
        super().__init__(message)
        self.located = located


class DeviceMemoryError(OnnxRefError, MemoryError):
    """A GPU has no memory left; the message tells how much was wanted for what, and how much there is."""


class BackendError(OnnxRefError, RuntimeError):
    """The requested backend does not exist or cannot be used on this machine."""


class OptionError(OnnxRefError, ValueError):
    """An option of a session, or an environment variable, has a value that it cannot have."""


class MissingDependencyError(OnnxRefError, ImportError):
    """An optional dependency is needed for this operator or command."""
