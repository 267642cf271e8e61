"""What runs a model, or only knows its values: one small adapter for each kind.

A runner is named by

    numpy, numba, auto            onnxref with that kernel set
    onnxruntime                   ONNX Runtime, with all its optimisations
    onnxruntime:disabled          without any; also `:basic`, `:extended`, `:layout`, `:all`
    onnx.reference                the evaluator of the onnx package
    FILE.npz, FILE.safetensors    recorded values by name
    FOLDER                        recorded values in the layout of the official tests
    MODEL.onnx                    another model, on the reference kernels
"""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx

from ..errors import BackendError, InputError, InvalidGraphError
from ..graph import Graph, Model, Node
from ..limits import DEFAULT, MIB, Limits
from ..model import load_model
from ..runtime import Execution, bind_inputs
from ..session import InferenceSession
from ._lock_step import lock_step
from ._pieces import Pieces, extract, made_values, single_node, value_bytes
from ._store import read_safetensors

Feeds = Mapping[str, Any]

MEMORY = 256 * MIB
"""Bytes of values that a runner holds at a time, unless it is told otherwise."""
KERNEL_SETS = ("numpy", "numba", "auto")
_MODELS = {".onnx", ".onnxtxt", ".onnxtext", ".json", ".onnxjson", ".textproto", ".prototxt", ".pbtxt"}
_FIRST_BATCH = 8
_SESSIONS = 64  # pieces of a model that stay loaded


@runtime_checkable
class Runner(Protocol):
    """Whatever can tell the values of a model's run.

    Attributes:
        label: how reports call it.
        model: what it really executes, which may be an optimised form; None where nothing is executed.
    """

    label: str

    @property
    def model(self) -> Model | None: ...

    @property
    def names(self) -> tuple[str, ...] | None:
        """The values it can tell, in the order of their making; None where only a run shows them."""

    def fetch(self, feeds: Feeds, names: Sequence[str]) -> dict[str, Any]:
        """Return the values of a run at once; those that it does not have are left out."""

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
        """Yield names and values of a run, holding a bounded number of bytes at a time."""


class ModelRunner:
    """A runner that has a model, and can run pieces of it.

    Args:
        source: the model, in any form that `onnxref.run` takes.
        memory: bytes of values to hold at a time.
    """

    label = "model"

    def __init__(self, source: Any, *, memory: int = MEMORY, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.source = load_model(source, limits)
        self.memory = memory
        self._pieces: Pieces | None = None
        self._sessions: OrderedDict[Any, Any] = OrderedDict()

    @property
    def model(self) -> Model:
        """What is executed."""
        return self.source

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(made_values(self.model.graph))

    @property
    def pieces(self) -> Pieces:
        """Finds pieces of what is executed."""
        if self._pieces is None:
            self._pieces = Pieces(self.model.graph)
        return self._pieces

    def fetch(self, feeds: Feeds, names: Sequence[str]) -> dict[str, Any]:
        raise NotImplementedError

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
        """Yield values in batches whose size follows that of the batches before."""
        wanted = list(self.names if names is None else names)
        size = _FIRST_BATCH
        while wanted:
            batch, wanted = wanted[:size], wanted[size:]
            found = self.fetch(feeds, batch)
            held = sum(map(value_bytes, found.values()))
            # A batch may hold half of the bound, since the next one may have larger values.
            share = held / (self.memory / 2)
            size = max(1, min(int(size / share) if share else 4 * size, 4 * size))
            for name in batch:
                if name in found:
                    yield name, found.pop(name)

    def compute(self, outputs: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return values computed from others: only the nodes between them are run.

        Raises:
            OutputError: no node makes an output.
            InputError: a value that is needed is not given.
        """
        piece = self.pieces.find(outputs, given.keys())
        missing = [name for name in piece.inputs if name not in given]
        if missing:
            raise InputError(f"{missing[0]!r} is needed to compute {outputs[0]!r}, and is not given")
        small = extract(self.model, piece, outputs, given)
        feeds = {name: given[name] for name in piece.inputs}
        return dict(zip(outputs, self._run_small(small, feeds), strict=True))

    def run_node(self, node: Node, inputs: Sequence[Any]) -> list[Any]:
        """Run one node, wherever it is in the model; outputs come in order, None for unnamed ones."""
        small, feeds = single_node(node, inputs, self.source)
        found = iter(self._run_small(small, feeds))
        return [next(found) if name else None for name in node.outputs]

    def _run_small(self, small: Model, feeds: Feeds) -> list[Any]:
        key = _signature(small)
        session = self._sessions.pop(key, None)
        if session is None:
            session = self._open_small(small)
        constants = sum(array.nbytes for array in small.graph.initializers.values())
        if constants <= MIB:
            self._sessions[key] = session
            while len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
        return self._call(session, list(feeds.values()))

    def _open_small(self, small: Model) -> Any:
        raise NotImplementedError

    def _call(self, session: Any, inputs: list[Any]) -> list[Any]:
        """Run a piece on its inputs in the order in which its graph declares them."""
        raise NotImplementedError


class OnnxRefRunner(ModelRunner):
    """onnxref itself: the graph as it is written on the reference kernels, or optimised on another set."""

    def __init__(
        self, source: Any, backend: str = "numpy", *, memory: int = MEMORY, limits: Limits = DEFAULT
    ) -> None:
        super().__init__(source, memory=memory, limits=limits)
        if backend not in KERNEL_SETS:
            raise BackendError(f"there is no backend {backend!r}; choose from {', '.join(KERNEL_SETS)}")
        self.backend = backend
        self.label = backend
        self._session: InferenceSession | None = None

    @property
    def is_reference(self) -> bool:
        """Whether every node is run as written, and can be observed."""
        return self.backend == "numpy"

    @property
    def session(self) -> InferenceSession:
        if self._session is None:
            optimize: Any = "none" if self.is_reference else "all"
            self._session = InferenceSession(
                self.source, backend=self.backend, optimize=optimize, limits=self.limits
            )
        return self._session

    def executions(self, feeds: Feeds) -> Generator[Execution, None, None]:
        """Yield every executed node, in subgraphs and functions too, while the model runs."""
        names = [value.name for value in self.model.graph.outputs if value.name]
        made = list(made_values(self.model.graph))
        # Every node is to run, also those that no output needs.
        wanted = list(dict.fromkeys([*names, *_last_values(self.model.graph, made)]))

        def work(emit: Callable[[Execution], None]) -> None:
            self.session.run_named(wanted, feeds, observers=[emit])

        yield from lock_step(work)

    def fetch(self, feeds: Feeds, names: Sequence[str]) -> dict[str, Any]:
        known = set(made_values(self.model.graph)) | set(self.model.graph.initializers)
        inner = {name for name in names if name not in known}
        top = [name for name in names if name in known]
        found: dict[str, Any] = {}
        if inner and self.is_reference:
            found = self._fetch_inner(feeds, inner)
        if top:
            if not self.is_reference:
                # The first run learns the shapes on the reference kernels; the next one is native.
                self.session.run_named(top, feeds)
            found |= self.session.run_named(top, feeds)
        return found

    def _fetch_inner(self, feeds: Feeds, names: set[str]) -> dict[str, Any]:
        """Return values of subgraphs and functions; their names have their scope in front."""
        found: dict[str, Any] = {}
        for execution in self.executions(feeds):
            for name, value in zip(execution.node.outputs, execution.outputs, strict=False):
                if name and (path := execution.scope + name) in names:
                    found[path] = value
            if len(found) == len(names):
                break
        return found

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
        if not self.is_reference:
            yield from super().values(feeds, names)
            return
        wanted = None if names is None else set(names)
        for execution in self.executions(feeds):
            for name, value in zip(execution.node.outputs, execution.outputs, strict=False):
                path = execution.scope + name
                if name and (path in wanted if wanted is not None else not execution.scope):
                    yield path, value

    def _open_small(self, small: Model) -> InferenceSession:
        # One node alone on the reference kernels: compiling each would take longer than all of them.
        return InferenceSession(small, backend="numpy", optimize="none", limits=self.limits)

    def _call(self, session: InferenceSession, inputs: list[Any]) -> list[Any]:
        return session.run(None, inputs)


class OnnxReferenceRunner(ModelRunner):
    """`onnx.reference.ReferenceEvaluator`."""

    label = "onnx.reference"

    def __init__(self, source: Any, *, memory: int = MEMORY, limits: Limits = DEFAULT) -> None:
        super().__init__(source, memory=memory, limits=limits)
        self._evaluator: Any = None

    def _open_small(self, small: Model) -> Any:
        import importlib

        from ..model import to_proto

        # Imported by name: it is a peer to compare with, never a dependency.
        module = importlib.import_module("onnx.reference")
        try:
            return module.ReferenceEvaluator(to_proto(small))
        except Exception as error:  # it raises whatever its parts raise
            raise BackendError(f"onnx.reference cannot load the model: {_one_line(error)}") from error

    def _call(self, session: Any, inputs: list[Any]) -> list[Any]:
        return self._evaluate(session, None, dict(zip(session.input_names, inputs, strict=True)))

    def _evaluate(self, session: Any, names: list[str] | None, feeds: Feeds) -> list[Any]:
        try:
            with np.errstate(all="ignore"):
                return [_as_array(value) for value in session.run(names, dict(feeds))]
        except Exception as error:
            raise BackendError(f"onnx.reference fails: {_one_line(error)}") from error

    def fetch(self, feeds: Feeds, names: Sequence[str]) -> dict[str, Any]:
        if self._evaluator is None:
            self._evaluator = self._open_small(self.model)
        made = set(self.names)
        wanted = [name for name in names if name in made]
        return dict(zip(wanted, self._evaluate(self._evaluator, wanted, feeds), strict=True))


class CallableRunner:
    """A function from feeds to values by name, such as hooks of another framework."""

    def __init__(self, function: Callable[[Feeds], Mapping[str, Any]], label: str = "") -> None:
        self._function = function
        self.label = label or getattr(function, "__name__", "callable")

    @property
    def model(self) -> Model | None:
        return None

    @property
    def names(self) -> tuple[str, ...] | None:
        return None

    def fetch(self, feeds: Feeds, names: Sequence[str]) -> dict[str, Any]:
        found = self._call(feeds)
        return {name: found[name] for name in names if name in found}

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
        found = self._call(feeds)
        yield from ((name, value) for name, value in found.items() if names is None or name in names)

    def _call(self, feeds: Feeds) -> dict[str, Any]:
        found = self._function(feeds)
        if not isinstance(found, Mapping):
            raise BackendError(
                f"{self.label} must return a mapping from names to values (got a {type(found).__name__})"
            )
        return {name: _as_array(value) for name, value in found.items()}


class RecordedRunner:
    """Values that were recorded before, whatever the feeds; only those that are asked for are read.

    Args:
        source: a `.npz` or `.safetensors` file, a folder in the layout of the official tests, or a mapping.
        model: names the values of a folder, where the files do not say their names themselves.
    """

    def __init__(self, source: Path | str | Mapping[str, Any], model: Model | None = None) -> None:
        self._values: Mapping[str, Any] | None = source if isinstance(source, Mapping) else None
        self._path = None if isinstance(source, Mapping) else Path(source)
        self._model = model
        self.label = "recorded values" if self._path is None else self._path.name
        self._names: tuple[str, ...] | None = None

    @property
    def model(self) -> Model | None:
        return None

    @property
    def names(self) -> tuple[str, ...]:
        if self._names is None:
            with self._opened() as values:
                self._names = tuple(values)
        return self._names

    def fetch(self, feeds: Feeds, names: Sequence[str]) -> dict[str, Any]:
        with self._opened() as values:
            known = set(values)
            return {name: _as_array(values[name]) for name in names if name in known}

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
        with self._opened() as values:
            known = set(values)
            for name in known if names is None else names:
                if name in known:
                    yield name, _as_array(values[name])

    @contextmanager
    def _opened(self) -> Iterator[Mapping[str, Any]]:
        if self._values is not None or self._path is None:
            yield self._values or {}
        elif self._path.suffix == ".npz":
            try:
                with np.load(self._path, allow_pickle=False) as arrays:
                    yield arrays
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise InputError(f"recorded values {str(self._path)!r} cannot be read: {error}") from error
        elif self._path.suffix == ".safetensors":
            yield read_safetensors(self._path)
        else:
            yield _read_folder(self._path, self._model)


def open_runner(spec: Any, model: Any = None, *, memory: int = MEMORY, limits: Limits = DEFAULT) -> Runner:
    """Return the runner that a word, a path, a function or a mapping stands for.

    Args:
        spec: as at the top of this module; a `Runner` is returned as it is.
        model: what to run where `spec` names a runtime.
        memory: bytes of values to hold at a time.

    Raises:
        BackendError: there is no such runner, or it needs a model.
        MissingDependencyError: the runtime is not installed.
    """
    if isinstance(spec, Mapping):
        return RecordedRunner(spec)
    if isinstance(spec, Model):
        return OnnxRefRunner(spec, memory=memory, limits=limits)
    if not isinstance(spec, (str, os.PathLike)):
        return _open_object(spec)
    word = str(spec)
    runtime, _, level = word.partition(":")
    if word in KERNEL_SETS or word == "onnx.reference" or runtime == "onnxruntime":
        if model is None:
            raise BackendError(f"{word} needs a model to run")
        if runtime == "onnxruntime":
            from ._ort import OnnxRuntimeRunner

            return OnnxRuntimeRunner(model, level or "all", memory=memory, limits=limits)
        if word == "onnx.reference":
            return OnnxReferenceRunner(model, memory=memory, limits=limits)
        return OnnxRefRunner(model, word, memory=memory, limits=limits)
    return _open_path(Path(word), model, memory, limits)


def _open_object(spec: Any) -> Runner:
    if isinstance(spec, Runner):
        return spec
    if callable(spec):
        return CallableRunner(spec)
    raise BackendError(
        f"a runner must be a name, a path, a function or a mapping of values (got a {type(spec).__name__})"
    )


def _open_path(path: Path, model: Any, memory: int, limits: Limits) -> Runner:
    if path.suffix.lower() in _MODELS:
        runner = OnnxRefRunner(path, memory=memory, limits=limits)
        runner.label = path.name
        return runner
    if path.is_dir() or path.suffix in (".npz", ".safetensors"):
        return RecordedRunner(path, None if model is None else load_model(model, limits))
    known = ", ".join((*KERNEL_SETS, "onnxruntime", "onnx.reference"))
    raise BackendError(
        f"there is no runner {str(path)!r}: must be one of {known}, a model, a .npz or .safetensors file, "
        "or a folder"
    )


# Recorded values ----------------------------------------------------------------------------------


def _read_folder(path: Path, model: Model | None) -> Mapping[str, Any]:
    """Return inputs and outputs of a test folder; names come from its model, or from the given one."""
    from ..model import read_value_file

    data = path if any(path.glob("output_*.pb")) else path / "test_data_set_0"
    for candidate in (path / "model.onnx", path.parent / "model.onnx"):
        if candidate.exists():
            model = load_model(candidate)
            break
    if model is None or not data.is_dir():
        raise InputError(f"{str(path)!r} holds no recorded values in the layout of the official tests")
    found: dict[str, Any] = {}
    for kind, declared in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for i, value in enumerate(declared):
            file = data / f"{kind}_{i}.pb"
            if file.exists():
                found[value.name] = read_value_file(file, value.type)
    for file in sorted(data.glob("inner_*.pb")):  # what a trace wrote from inside of subgraphs
        found[onnx.TensorProto.FromString(file.read_bytes()).name] = read_value_file(file, None)
    return found


# Helpers ------------------------------------------------------------------------------------------


def bound_feeds(graph: Graph, feeds: Any) -> dict[str, Any]:
    """Return checked feeds by name, for inputs that were given or have no default."""
    bound = bind_inputs(graph, feeds)
    return {value.name: item for value, item in zip(graph.inputs, bound, strict=True)}


def _last_values(graph: Graph, made: Sequence[str]) -> list[str]:
    """Return the values that no node uses, which are needed for every node to run."""
    from ..graph import names_used

    used = set().union(*(names_used(node) for node in graph.nodes)) if graph.nodes else set()
    return [name for name in made if name not in used]


def _signature(small: Model) -> Any:
    """Return what two pieces have in common if one session can run both."""
    from ..model import to_proto

    graph = small.graph
    plain = all(not node.attributes or not _has_graph(node) for node in graph.nodes)
    renamed = _renamed(graph) if plain else graph
    bare = replace(renamed, initializers={}, name="", doc="")
    constants = tuple((name, id(array)) for name, array in graph.initializers.items())
    try:
        return to_proto(replace(small, graph=bare)).SerializeToString(deterministic=True), constants
    except InvalidGraphError:  # nodes of several opsets, which a file could not hold
        return tuple(map(id, graph.nodes)), tuple(str(value) for value in graph.inputs), constants


def _has_graph(node: Node) -> bool:
    return any(isinstance(value, Graph) for value in node.attributes.values())


def _renamed(graph: Graph) -> Graph:
    """Return a graph whose values and nodes are named by their order; constants keep their names."""
    names: dict[str, str] = {"": ""} | {name: name for name in graph.initializers}

    def name_of(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}")

    inputs = tuple(replace(value, name=name_of(value.name)) for value in graph.inputs)
    nodes = tuple(
        replace(
            node,
            name="",
            metadata={},
            inputs=tuple(map(name_of, node.inputs)),
            outputs=tuple(map(name_of, node.outputs)),
        )
        for node in graph.nodes
    )
    outputs = tuple(replace(value, name=name_of(value.name)) for value in graph.outputs)
    return replace(graph, inputs=inputs, nodes=nodes, outputs=outputs)


def _as_array(value: Any) -> Any:
    """Return tensors of other frameworks as arrays."""
    if isinstance(value, (np.ndarray, list, dict)) or value is None:
        return value
    if hasattr(value, "detach"):  # a torch tensor that may need a gradient
        value = value.detach().cpu()
    return np.asarray(value)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
