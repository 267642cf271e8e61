"""`run` for one call, `InferenceSession` for many: a loaded model with its plans.

`InferenceSession` is shaped like the class of the same name in ONNX Runtime.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from .errors import BackendError, MissingDependencyError, OptionError, OutputError
from .graph import Dim, Graph, OptionalType, SequenceType, TensorType, Value, type_string
from .limits import DEFAULT, Budget, Limits

# The rooms below are imported when the first session is made, so that `import onnxref` stays light.
if TYPE_CHECKING:
    from .gpu import Device
    from .plan import Plan
    from .plan.specialize import Acceleration, NodeExplanation, Region
    from .runtime import DeviceShortcut, Observer, Shortcut, Watcher

# Most that the values known while planning may take, for each piece of a model.
_KNOWN_BYTES = 1 << 30
# ONNX Runtime's names for the places where a model can run, and the backends that answer to them.
_PROVIDERS = {"CUDAExecutionProvider": "cupy", "CPUExecutionProvider": "auto"}


def run(
    model: Any,
    inputs: Any = None,
    outputs: Sequence[str] | str | None = None,
    *,
    backend: str = "auto",
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Run a model once.

    Args:
        model: a path, bytes, binary file object, `ModelProto`, `GraphProto`, `FunctionProto` or
            `NodeProto`; a path ending in `.onnxtxt` holds ONNX text.
        inputs: a mapping from input name to value, a sequence in graph order, or one array. Values are
            arrays or anything with `__array__` or `__dlpack__`; Python numbers and lists take the
            declared type. Sequences are lists, maps are dicts, an absent optional is None.
        outputs: names of the values to return, of any value in the graph; None returns all outputs.
            Only the nodes that these need are run.
        backend: kernel set to use; "auto" takes the fastest that is right.
        limits: bounds on memory, time and size; None means `onnxref.DEFAULT`.

    Returns:
        Values by name: the graph's outputs in graph order, or the requested ones in the given order.

    Raises:
        ModelError: the model cannot be loaded or breaks the specification.
        InputError, OutputError: inputs or outputs do not fit the model.
        NodeError: a node failed; the message names it.
        ResourceLimitError: a limit would be exceeded.

    Example:
        >>> import numpy as np, onnx
        >>> node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
        >>> run(node, [np.float32([1, 2]), np.float32([10, 20])])
        {'c': array([11., 22.], dtype=float32)}
    """
    session = InferenceSession(model, backend=backend, limits=limits)
    return session.run_named(outputs, inputs)


@dataclass(frozen=True, slots=True)
class NodeArg:
    """Name, shape and type of a model's input or output.

    Attributes:
        shape: ints for fixed dimensions, strings for named ones, None for unknown ones.
        type: ONNX type string such as `tensor(float)`; empty where the model does not say.
    """

    name: str
    shape: list[Dim]
    type: str


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the model says about itself."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: Mapping[str, str] = field(default_factory=dict)


class InferenceSession:
    """A loaded model, ready to run many times, from several threads at once.

    Args:
        model: as for `onnxref.run`.
        providers: ONNX Runtime's names of execution providers, in order of preference, alone or with
            their options; the first one that can be used here decides the backend. None leaves it to
            `backend`.
        backend: kernel set to use; "auto" takes the fastest that is right.
        limits: bounds on memory, time and size; None means `onnxref.DEFAULT`.
        optimize: "all", or "none" to run the graph as it is written, every node in every run.
        precision: "default"; "strict" leaves out whatever trades accuracy for speed or makes a result depend
            on the size of the batch; "bf16" rounds both sides of matrix products and convolutions with
            constant weights to bfloat16, where the processor has instructions for that and they pay;
            `explain` tells where; "tf32" lets a GPU multiply float32 in TF32.
        intra_op_num_threads: threads that one run may use, the caller's included; None takes all cores, or
            what the environment variable ONNXREF_NUM_THREADS says.
        without: names of planner passes to leave out; `onnxref.plan.passes.all_passes()` lists them.
        strict: with the backend "cupy", make an operator without a kernel for the GPU an error; otherwise it
            runs on the processor, and `explain` tells so.
        debug: with the backend "cupy", capture nothing, give every tensor memory of its own, and look at the
            device after each launch: an error names the node and the kernel that caused it.

    Raises:
        ModelError: the model cannot be loaded or breaks the specification.
        BackendError: no such backend or provider.
        OptionError: an option, or an environment variable of onnxref, has a value that it cannot have.
    """

    def __init__(
        self,
        model: Any,
        *,
        providers: Sequence[str | tuple[str, Mapping[str, Any]]] | str | None = None,
        backend: str = "auto",
        limits: Limits | None = None,
        optimize: Literal["all", "none"] = "all",
        precision: Literal["default", "strict", "bf16", "tf32"] = "default",
        without: Collection[str] = (),
        intra_op_num_threads: int | None = None,
        strict: bool = False,
        debug: bool = False,
    ) -> None:
        from .model import load_model

        if optimize not in ("all", "none"):
            raise OptionError(f"optimize must be 'all' or 'none' (got {optimize!r})")
        self._fold = optimize == "all"
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits must be an onnxref.Limits (got a {type(limits).__name__})")
        self._limits = DEFAULT if limits is None else limits
        backend = backend if providers is None else _backend_of(providers)
        if backend == "cupy" and not self._fold:
            raise OptionError(
                "backend 'cupy' needs optimize='all': the graph as written runs on the reference"
            )
        acceleration = _acceleration(
            backend, precision, without, self._limits, intra_op_num_threads, strict, debug
        )
        self._acceleration = acceleration if self._fold else None
        self._model = load_model(model, self._limits)
        if acceleration is not None:
            acceleration.model = self._model.graph.name
        self._generator = np.random.default_rng()
        self._lock = threading.Lock()
        self._plans: dict[tuple[str, ...] | None, Plan] = {}
        self._shortcuts: dict[tuple[str, ...] | None, Shortcut | DeviceShortcut] = {}
        self._plan(None)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an InferenceSession cannot be pickled or copied: make one from the model instead")

    def run(
        self, output_names: Sequence[str] | str | None, input_feed: Any = None, run_options: None = None
    ) -> list[Any]:
        """Run the model and return the requested outputs.

        Args:
            output_names: names of any values of the graph; None or `[]` returns all outputs.
            input_feed: as `inputs` of `onnxref.run`.
            run_options: there are none; only None is accepted, where ONNX Runtime takes its options.

        Returns:
            The values in the order of `output_names`. They share no memory with the session.
        """
        if run_options is not None:
            raise ValueError(f"run_options must be None (got a {type(run_options).__name__})")
        names = _names(output_names)
        shortcut = self._shortcuts.get(names)
        if shortcut is not None and (outputs := shortcut.run(input_feed)) is not None:
            return outputs
        return self._run(names, input_feed)

    def run_named(
        self,
        output_names: Sequence[str] | str | None,
        input_feed: Any = None,
        observers: Sequence[Observer] = (),
        watcher: Watcher | None = None,
    ) -> dict[str, Any]:
        """Like `run`, but return the values by name, and tell `observers` of every executed node.

        Args:
            watcher: told of every op as the planner runs it, fused and native ones too.
        """
        names = _names(output_names)
        outputs = self._run(names, input_feed, observers, watcher)
        return dict(zip(self._plan(names).output_names, outputs, strict=True))

    def explain(self, output_names: Sequence[str] | str | None = None) -> list[NodeExplanation]:
        """Return what became of each node: fused, native, on the reference, and why not faster.

        It tells of the input shapes that the model was last run with, so run it first (twice, unless
        the backend was chosen: "auto" specialises behind the second run).
        """
        from .plan.specialize import explain_plan

        return explain_plan(self._plan(_names(output_names)))

    def native_regions(self) -> list[Region]:
        """Return the specialised pieces of the model and of its subgraphs, for tools that look into them."""
        from .plan.specialize import all_regions

        return all_regions(self._plan(None))

    @property
    def graph(self) -> Graph:
        """The loaded model's main graph."""
        return self._model.graph

    def get_inputs(self) -> list[NodeArg]:
        """Return the inputs that a caller must give, in graph order."""
        return [_node_arg(value) for value in self._model.graph.required_inputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Return the inputs that have an initializer as their default."""
        graph = self._model.graph
        return [_node_arg(value) for value in graph.inputs if value.name in graph.initializers]

    def get_outputs(self) -> list[NodeArg]:
        """Return the model's outputs, in graph order."""
        return [_node_arg(value) for value in self._model.graph.outputs]

    def get_modelmeta(self) -> ModelMetadata:
        """Return what the model says about itself."""
        model = self._model
        return ModelMetadata(
            producer_name=model.producer_name,
            graph_name=model.graph.name,
            domain=model.domain,
            description=model.doc,
            graph_description=model.graph.doc,
            version=model.version,
            custom_metadata_map=dict(model.metadata),
        )

    def get_providers(self) -> list[str]:
        """Return ONNX Runtime's names of the providers in use."""
        on_device = self._acceleration is not None and self._acceleration.device is not None
        return [*(["CUDAExecutionProvider"] if on_device else []), "CPUExecutionProvider"]

    def _run(
        self,
        names: tuple[str, ...] | None,
        feeds: Any,
        observers: Sequence[Observer] = (),
        watcher: Watcher | None = None,
    ) -> list[Any]:
        from .runtime import Run, bind_inputs, find_device_shortcut, find_shortcut, run_plan

        plan = self._plan(names)
        device = self._acceleration.device if self._acceleration else None

        def run_once() -> list[Any]:
            budget, has_device = Budget(self._limits), device is not None
            run = Run(budget, self._generator, tuple(observers), watcher, has_device=has_device)
            return run_plan(plan, inputs, run)

        inputs = bind_inputs(self._model.graph, feeds, device)
        known = self._acceleration.specialized if self._acceleration else 0
        outputs = run_once()
        if self._acceleration and self._acceleration.wait and self._acceleration.specialized > known:
            # The reference has only taught the shapes: what was asked for is the native result.
            outputs = run_once()
        find = find_shortcut if device is None else find_device_shortcut
        if plan.regions is not None and (found := find(plan, inputs, self._limits)) is not None:
            self._shortcuts[names] = found
        return outputs if device is None else _delivered(inputs, outputs, device)

    def _plan(self, names: tuple[str, ...] | None) -> Plan:
        from .plan import build_plan

        # Looked up without the lock first: a forked child must not wait for a thread that it does not have.
        if (plan := self._plans.get(names)) is not None:
            return plan
        if names is not None and len(set(names)) != len(names):
            raise OutputError(f"an output is asked for twice (got {list(names)})")
        with self._lock:
            if names not in self._plans:
                self._plans[names] = build_plan(
                    self._model, names, limits=self._limits, fold=self._fold, acceleration=self._acceleration
                )
            return self._plans[names]


def _names(output_names: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Return the names that a plan is found by; a string is one name, None stands for all outputs."""
    if isinstance(output_names, str):
        return (output_names,)
    return tuple(output_names) if output_names else None


def _delivered(inputs: Sequence[Any], outputs: Sequence[Any], device: Device) -> list[Any]:
    """Return outputs where the inputs came from: on the device if any did, else on the host."""
    from .gpu import DeviceTensor, fetched

    on_device = [y for y in outputs if isinstance(y, DeviceTensor)]
    if any(isinstance(x, DeviceTensor) for x in inputs):
        delivered = iter([device.export(y) for y in on_device])
    else:
        delivered = iter(fetched(on_device))
    return [next(delivered) if isinstance(y, DeviceTensor) else y for y in outputs]


def _acceleration(
    backend: str,
    precision: str,
    without: Collection[str],
    limits: Limits,
    threads: int | None,
    strict: bool = False,
    debug: bool = False,
) -> Acceleration | None:
    """Return how to run natively; None for the reference alone."""
    known = ("default", "strict", "tf32") if backend == "cupy" else ("default", "strict", "bf16")
    if precision not in known:
        raise OptionError(f"precision must be one of {', '.join(known)} (got {precision!r})")
    for name, chosen in (("strict", strict), ("debug", debug)):
        if chosen and backend != "cupy":
            raise OptionError(f"{name}=True is for the backend 'cupy' (got {backend!r})")
    if backend == "numpy":
        return None
    from .lowering import load_lowerings
    from .native import target, team_of
    from .plan.passes import all_passes
    from .plan.specialize import LAYOUTS, Acceleration

    passes = (*all_passes(), *LAYOUTS)
    if unknown := set(without) - set(passes):
        raise OptionError(f"there is no pass {min(unknown)!r}; choose from {', '.join(passes)}")
    if backend != "auto":  # where it comes with the first piece that is specialised
        load_lowerings(backend)
    try:
        team = team_of(threads)
        if backend == "numba":
            target()
    except ValueError as error:
        raise OptionError(str(error)) from error
    device = None
    if backend == "cupy":
        from . import gpu

        device = gpu.open_device()
    bounds = (_KNOWN_BYTES, limits.live_bytes, limits.total_bytes)
    return Acceleration(
        "numba" if backend == "auto" else backend,
        team,
        known_bytes=min(bound for bound in bounds if bound is not None),
        precision=precision,
        wait=backend != "auto",
        without=frozenset(without),
        device=device,
        strict=strict,
        debug=debug,
    )


def _backend_of(providers: Sequence[str | tuple[str, Mapping[str, Any]]] | str) -> str:
    wanted = [providers] if isinstance(providers, str) else list(providers)
    for provider in wanted:
        name, options = (provider, {}) if isinstance(provider, str) else provider
        if name in _PROVIDERS and not _missing(_PROVIDERS[name]):
            if options:
                raise BackendError(f"provider {name} takes no options (got {', '.join(options)})")
            return _PROVIDERS[name]
    known = ", ".join(f"{name} ({_missing(backend) or 'here'})" for name, backend in _PROVIDERS.items())
    raise BackendError(f"none of the providers {wanted} can be used; known: {known}")


def _missing(backend: str) -> str:
    """Return what this machine lacks for a backend, "" for nothing."""
    if backend != "cupy":
        return ""
    from . import gpu

    try:
        gpu.open_device()
    except (BackendError, MissingDependencyError) as error:
        return str(error)
    return ""


def _node_arg(value: Value) -> NodeArg:
    inner = value.type
    while isinstance(inner, (OptionalType, SequenceType)):
        inner = inner.element
    shape = inner.shape if isinstance(inner, TensorType) else None
    return NodeArg(value.name, list(shape or ()), type_string(value.type) or "")
