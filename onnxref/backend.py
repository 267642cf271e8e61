"""onnxref as an `onnx.backend.base.Backend`: `prepare`, `run_model`, `run_node`, `supports_device`."""

from __future__ import annotations

from typing import Any

import onnx
from onnx.backend.base import Backend, BackendRep

from . import gpu
from .errors import BackendError, MissingDependencyError
from .model import canonical_domain
from .schema import newest_opset
from .session import InferenceSession


class OnnxRefBackendRep(BackendRep):
    """A prepared model."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model; inputs and outputs as for `InferenceSession.run`."""
        _refuse(kwargs)
        return tuple(self.session.run(None, inputs))


class OnnxRefBackend(Backend):
    """The backend interface of the onnx package."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> OnnxRefBackendRep:
        """Load a model. `backend` and `limits` are passed on to `InferenceSession`; CUDA means `cupy`."""
        options = {name: kwargs.pop(name) for name in ("backend", "limits") if name in kwargs}
        if not cls.supports_device(device):
            raise BackendError(f"device {device!r} is not supported: {_why_not(device)}")
        if device.startswith("CUDA"):
            options.setdefault("backend", "cupy")
        _refuse(kwargs)
        return OnnxRefBackendRep(InferenceSession(model, **options))

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Run one node; `opset_version` chooses the version, the newest by default."""
        version = kwargs.pop("opset_version", None)
        names = list(dict.fromkeys(name for name in node.input if name))
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [onnx.ValueInfoProto(name=name) for name in names],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        newest = newest_opset(canonical_domain(node.domain)) or 1
        opset = onnx.helper.make_opsetid(node.domain, newest if version is None else version)
        model = onnx.helper.make_model(graph, opset_imports=[opset])
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run on a device such as 'CPU' or 'CUDA:0'."""
        return not _why_not(device)


def _why_not(device: str) -> str:
    """Return why models cannot run on a device; "" where they can."""
    name, _, number = device.partition(":")
    if name == "CPU":
        return ""
    if name != "CUDA":
        return "use 'CPU' or 'CUDA'"
    if number not in ("", "0"):
        return "there is one device for all models; CUDA_VISIBLE_DEVICES chooses which"
    try:
        gpu.open_device()
    except (BackendError, MissingDependencyError) as error:
        return str(error)
    return ""


def _refuse(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise TypeError(f"unknown options: {', '.join(kwargs)}")


is_compatible = OnnxRefBackend.is_compatible
prepare = OnnxRefBackend.prepare
run_model = OnnxRefBackend.run_model
run_node = OnnxRefBackend.run_node
supports_device = OnnxRefBackend.supports_device
