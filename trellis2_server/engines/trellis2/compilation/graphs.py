"""CUDA graphs of a flow model's evaluations, within one call of a sampler.

A graph repeats the kernels of an evaluation on the same memory, without the work of launching
them one by one. The sizes are fixed within one call of a sampler, so for each condition:

    1st evaluation     as usual; fills every cache of the model, for example the rotary phases
    2nd evaluation     captured, then replayed
    further ones       the inputs are copied into the graph's, the graph is replayed

Inputs that change in each step (features, time) are copied. All others (condition, voxels) must
be the very objects of the capture, so that caches that go by the object stay right; an
evaluation with other ones gets a graph of its own. So guidance has two graphs, in one pool of
memory. All graphs are freed when the sampler returns or raises.

The embedding of the time runs before the graph: TRELLIS.2 makes its frequencies on the CPU and
copies them to the device, which a capture does not allow.

Evaluations of many tokens run as usual: the device computes longer than its kernels take to
launch, and a graph would keep a second copy of the activations.

Failures never fail a job: the evaluation runs as usual. After out of memory the rest of the
sampler's call does; after any other failure every later evaluation of that class of model does,
with one warning. The first graph of a class is checked against the usual evaluation.

Does not know: how a device captures (`cuda_graphs`), samplers, stages.
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from trellis2_server.engines.trellis2.compilation.externals import recording
from trellis2_server.engines.trellis2.device_errors import (
    first_line,
    is_out_of_memory,
    is_permanent,
    release_frames,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

logger = logging.getLogger(__name__)

Tensor = Any

#: Most conditions of one sampler's call that get a graph; guidance has two.
MAX_GRAPHS: Final = 4
#: Longer evaluations are not captured: on an H100 a graph of 24,576 tokens brings nothing
#: (docs/gpu.md).
MAX_TOKENS: Final = 16_384
#: Largest difference between a replay and the usual evaluation, of the largest value. Equal
#: kernels give equal bits; a graph that reads memory of something else is far off.
_TOLERANCE: Final = 1e-2


class Graph(Protocol):
    """A captured evaluation."""

    def replay(self) -> None:
        """Compute the output anew, from the inputs' present values."""
        ...

    def release(self) -> None:
        """Free its memory. No replay may follow."""
        ...


class GraphBackend(Protocol):
    """Captures evaluations on one device."""

    def new_pool(self) -> Any:
        """Memory that several graphs share; freed with the last of them."""
        ...

    def rehearse(self, evaluate: Callable[[], Any]) -> Any:
        """Return the result of a call.

        Raises:
            RuntimeError: the call waits for the device, which a capture does not allow.
        """
        ...

    def capture(self, evaluate: Callable[[], Any], pool: Any) -> tuple[Graph, Any]:
        """Record a call; return the graph and the call's result, whose values are undefined.

        Raises:
            RuntimeError: the call cannot be captured. The device can be used as before.
        """
        ...


class StageGraphs:
    """Graphs of the flow models' evaluations.

    Args:
        torch: PyTorch.
        backend: of the device.

    Attributes:
        failed: class of model → why its evaluations are not captured any more.
    """

    def __init__(self, torch: Any, backend: GraphBackend) -> None:
        self.torch = torch
        self.backend = backend
        self.failed: dict[str, str] = {}
        self._checked: set[str] = set()

    @contextlib.contextmanager
    def stage(self, model: Any) -> Generator[Callable[..., Any], None, None]:
        """Give a sampler what it calls instead of the model; free all graphs at the end.

        Args:
            model: a flow model, called with (x_t, t, condition, …). Its weights stay where they
                are within the block.
        """
        if type(model).__name__ in self.failed:
            yield model
            return
        evaluations = _Evaluations(self, model)
        try:
            yield evaluations
        finally:
            evaluations.release()

    def is_checked(self, model: Any) -> bool:
        """Whether a graph of this class of model was equal to the usual evaluation."""
        return type(model).__name__ in self._checked

    def note_checked(self, model: Any) -> None:
        """Check no further graph of this class of model."""
        self._checked.add(type(model).__name__)

    def note_failed(self, model: Any, why: str) -> None:
        """Capture no further evaluation of this class of model."""
        self.failed[type(model).__name__] = why
        logger.warning(
            "model.compile: graphs: %s runs without CUDA graphs: %s", type(model).__name__, why
        )


class _Evaluations:
    """The evaluations of one model in one call of a sampler."""

    def __init__(self, graphs: StageGraphs, model: Any) -> None:
        self._graphs = graphs
        self._model = model
        self._pool: Any = None
        self._captured: dict[_Key, _Captured | None] = {}
        # Keeps the objects of the keys, so that each `id` stays theirs.
        self._held: list[Any] = []
        self._is_usual = False

    def __call__(self, x: Any, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the model, as the model itself would."""
        key = _key(x, t, args, kwargs)
        is_full = key not in self._captured and len(self._captured) >= MAX_GRAPHS
        if self._is_usual or is_full or _tokens(x) > MAX_TOKENS:
            return self._model(x, t, *args, **kwargs)
        if key not in self._captured:
            self._captured[key] = None
            self._held += [getattr(x, "coords", None), *args, *kwargs.values()]
            return self._model(x, t, *args, **kwargs)
        captured = self._captured[key]
        if captured is not None:
            return captured.replay(x, t)
        try:
            return self._capture_and_replay(key, x, t, args, kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job goes on
            self._give_up(error)
        # Here, outside of `except`, the error no longer holds tensors on the device.
        return self._model(x, t, *args, **kwargs)

    def release(self) -> None:
        """Free all graphs."""
        captured = [c for c in self._captured.values() if c is not None]
        self._captured.clear()
        self._held.clear()
        self._pool = None
        for one in captured:
            # After a permanent error of the device nothing can be freed, and the error that
            # ended the stage is the one to report.
            with contextlib.suppress(RuntimeError):
                one.graph.release()

    def _capture_and_replay(
        self, key: _Key, x: Any, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Capture an evaluation; the first of a class of model is checked.

        Raises:
            RuntimeError: it cannot be captured, or the graph computes something else.
        """
        torch, backend = self._graphs.torch, self._graphs.backend
        if self._pool is None:
            self._pool = backend.new_pool()
        embedder = getattr(self._model, "t_embedder", None)
        time = (t if embedder is None else embedder(t)).clone()
        own_x = _with_features(x, _features(x).clone())
        externals: list[Any] = []

        def evaluate() -> Any:
            # Without the model's hooks: they ran in the first evaluation, and are not captured.
            with _embedding(embedder, time), recording(torch, externals):
                return self._model.forward(own_x, time if embedder is None else t, *args, **kwargs)

        expected = None
        if not self._graphs.is_checked(self._model):
            expected = _features(backend.rehearse(evaluate))
            externals.clear()
        graph, output = backend.capture(evaluate, self._pool)
        captured = _Captured(graph, own_x, time, embedder, output, externals)
        self._captured[key] = captured
        result = captured.replay(x, t)
        if expected is not None:
            if not _is_close(_features(result), expected):
                raise RuntimeError("the graph's result differs from the usual evaluation's")
            self._graphs.note_checked(self._model)
        return result

    def _give_up(self, error: Exception) -> None:
        """Evaluate as usual from now on.

        Raises:
            Exception: the given one, if the device cannot be used any more.
        """
        # CUDA's errors of captures end with the capture.
        if "captur" not in str(error).lower() and is_permanent(error):
            raise error
        self._is_usual = True
        self.release()
        if is_out_of_memory(error):
            logger.warning(
                "model.compile: graphs: no memory to capture %s; this stage runs without",
                type(self._model).__name__,
            )
        else:
            self._graphs.note_failed(self._model, first_line(error))
        release_frames(error)


@dataclass(slots=True, eq=False)
class _Captured:
    """A captured evaluation.

    Attributes:
        graph: of the device.
        x: input; its features are overwritten before each replay.
        time: input, or its embedding; the same.
        embedder: module that embeds the time; None if the model has none.
        output: overwritten by each replay.
        externals: memory that the graph reads and that was there before.
    """

    graph: Graph
    x: Any
    time: Tensor
    embedder: Any
    output: Any
    externals: list[Any]

    def replay(self, x: Any, t: Tensor) -> Any:
        """Result of the model for these inputs."""
        _features(self.x).copy_(_features(x))
        self.time.copy_(t if self.embedder is None else self.embedder(t))
        self.graph.replay()
        # Another graph of the pool may use the output's memory.
        return _with_features(self.output, _features(self.output).clone())


_Key = tuple[object, ...]


def _key(x: Any, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Key:
    """What must be equal for two evaluations to share a graph."""
    features = _features(x)
    return (
        type(x),
        id(getattr(x, "coords", None)),
        *((tuple(v.shape), v.dtype, str(v.device)) for v in (features, t)),
        *(id(value) for value in args),
        *((name, id(value)) for name, value in sorted(kwargs.items())),
    )


def _features(value: Any) -> Tensor:
    """The features of a sparse tensor, or the tensor itself."""
    return value.feats if hasattr(value, "feats") else value


def _tokens(value: Any) -> int:
    """Voxels of a sparse tensor, or of a dense one [B, C, X, Y, Z]."""
    if hasattr(value, "feats"):
        return len(value.feats)
    return math.prod(value.shape[2:])


def _with_features(value: Any, features: Tensor) -> Any:
    """A sparse tensor with other features and the same caches, or the other tensor itself."""
    return value.replace(features) if hasattr(value, "feats") else features


def _is_close(result: Tensor, expected: Tensor) -> bool:
    if not expected.numel():
        return True
    result, expected = result.float(), expected.float()
    atol = _TOLERANCE * expected.abs().nan_to_num(0, 0, 0).max().item()
    return bool(result.isclose(expected, rtol=_TOLERANCE, atol=atol, equal_nan=True).all())


@contextlib.contextmanager
def _embedding(embedder: Any, embedded: Tensor) -> Generator[None, None, None]:
    """Let the module that embeds the time return what it returned before."""
    if embedder is None:
        yield
        return

    def forward(_: object) -> Tensor:
        return embedded

    embedder.forward = forward
    try:
        yield
    finally:
        del embedder.forward
