"""Several pictures of one object as conditions of TRELLIS.2's samplers, without training.

    stochastic      step i of a stage sees view i mod V; a cascade's second model goes on where its
                    first one ended. As many evaluations as for one view
    multidiffusion  the prediction with the picture is the mean of those of all views; guidance,
                    its rescaling and its interval apply once, to that mean. V evaluations a step
                    in place of one, and one more with guidance
    concat          all features one after the other, as one picture's
    mean            the mean of the features, as one picture's

The first two are TRELLIS's (microsoft/TRELLIS, `run_multi_image`). TRELLIS.2 was trained with one
picture. Nobody has shown that its results get better with more.

Does not know: how features are made, which stage samples.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from trellis2_server.parameters import Options
    from trellis2_server.request_fields import MultiImage

    Tensor = Any

#: Words for the stages of a job, and its samplers' options.
_STAGES = {"structure": "ss", "shape": "shape", "texture": "tex"}


class ViewConditions:
    """Takes the place of a sampler's argument `cond`, for several views.

    Args:
        features: float [1, P, C] of each view.
        turn: index of the view of each step, shared by the calls of a stage; None: each step sees
            all views.
    """

    def __init__(self, features: tuple[Tensor, ...], turn: Iterator[int] | None) -> None:
        self.features = features
        self._turn = turn
        self._seen = features

    def named(self) -> dict[str, Tensor]:
        """Return the features under names of their own, that of the first being `cond`."""
        return {f"cond {at}" if at else "cond": each for at, each in enumerate(self.features)}

    def replaced(self, features: Mapping[str, Tensor]) -> ViewConditions:
        """Return the same with other features, named as by `named`; the turn goes on."""
        return ViewConditions(tuple(features[name] for name in self.named()), self._turn)

    def begin_step(self) -> None:
        """Choose the view of the next step."""
        if self._turn is not None:
            self._seen = (self.features[next(self._turn) % len(self.features)],)

    def predict(self, evaluate: Callable[[Tensor], Any], on_view: Callable[[], None] | None) -> Any:
        """Return what the model predicts with the step's view, or the mean over all views.

        Args:
            evaluate: features → prediction, a tensor or a sparse tensor.
            on_view: called before each further evaluation; may raise.
        """
        result = evaluate(self._seen[0])
        if len(self._seen) == 1:
            return result
        is_sparse = hasattr(result, "feats")
        total = result.feats if is_sparse else result
        for features in self._seen[1:]:
            if on_view is not None:
                on_view()
            further = evaluate(features)
            total = total + (further.feats if is_sparse else further)
        mean = total / len(self._seen)
        return result.replace(mean) if is_sparse else mean


def named_features(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the features among a sampler's arguments, those of each view by themselves."""
    found = {name: arguments[name] for name in ("cond", "neg_cond") if name in arguments}
    views = found.get("cond")
    return {**found, **views.named()} if isinstance(views, ViewConditions) else found


def with_features(arguments: Mapping[str, Any], features: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return a sampler's arguments with other features, named as by `named_features`."""
    views = arguments.get("cond")
    if not isinstance(views, ViewConditions):
        return {**arguments, **features}
    shared = views.replaced(features)
    negative = {name: features[name] for name in ("neg_cond",) if name in features}
    return {**arguments, "cond": shared, **negative}


def evaluation(
    evaluate: Callable[..., Any], condition: Any, on_view: Callable[[], None] | None
) -> Callable[..., Any]:
    """Return what a sampler calls in place of a model, which may see several views.

    Args:
        evaluate: the model, called with (x_t, t, features, …).
        condition: the sampler's argument `cond`.
        on_view: called before the second and each further view of a step; may raise.
    """
    if not isinstance(condition, ViewConditions):
        return evaluate

    def of_views(x_t: Any, t: Any, given: Any = None, **more: Any) -> Any:
        if not isinstance(given, ViewConditions):  # the negative pass
            return evaluate(x_t, t, given, **more)
        return given.predict(lambda features: evaluate(x_t, t, features, **more), on_view)

    return of_views


def begin_step(arguments: Iterable[Any]) -> None:
    """Choose the view of a sampler's next step, if it has views among its arguments."""
    for argument in arguments:
        if isinstance(argument, ViewConditions):
            argument.begin_step()


def join(features: Tensor, mode: MultiImage) -> Tensor:
    """Return the features that a stage's samplers get: one picture's, or those of all views.

    Args:
        features: float [V, P, C] of all views.
        mode: how they are used.

    Returns:
        mean: [1, P, C]. concat: [1, V · P, C]. Otherwise, and of one view: as they are.
    """
    if len(features) == 1:
        return features
    if mode == "mean":
        return features.mean(dim=0, keepdim=True)
    return features.reshape(1, -1, features.shape[-1]) if mode == "concat" else features


def conditions(
    features: Tensor, mode: MultiImage, steps: int, turn: Iterator[int]
) -> dict[str, Any]:
    """Return the arguments `cond` and `neg_cond` of a sampler.

    Args:
        features: from `join`.
        mode: how views are used.
        steps: of the stage, in all calls of its sampler.
        turn: counts the steps of the stage.
    """
    torch: Any = importlib.import_module("torch")
    negative = torch.zeros_like(features[:1])
    if len(features) == 1:
        return {"cond": features, "neg_cond": negative}
    is_in_turn = _mode_of(mode, len(features), steps) == "stochastic"
    views = ViewConditions(features.split(1), turn if is_in_turn else None)
    return {"cond": views, "neg_cond": negative}


def is_order_of_no_effect(mode: MultiImage) -> bool:
    """Return whether the order of the pictures must not change the result, not even its last bit.

    Sums of floats depend on the order, so the pictures are then brought into one.
    """
    return mode in {"multidiffusion", "mean"}


def unseen_views(options: Options, views: int, *, has_mesh: bool = False) -> tuple[str, ...]:
    """Return a warning for each stage that does not see all pictures.

    Args:
        options: of the request.
        views: number of pictures.
        has_mesh: whether only the texture is made.
    """
    if options.multi_image != "stochastic":
        return ()
    return tuple(
        f"multi_image: the {stage} stage has {seen} steps, and sees only the first {seen} of "
        f"{views} pictures"
        for stage, seen in _steps(options).items()
        if seen < views and (stage == "texture" or not has_mesh)
    )


def _steps(options: Options) -> dict[str, int]:
    """Steps of each stage; a cascade samples the shape twice."""
    steps = {stage: getattr(options, name).sampling_steps for stage, name in _STAGES.items()}
    steps["shape"] *= 2 if options.pipeline_type.endswith("cascade") else 1
    return steps


def _mode_of(
    mode: MultiImage, views: int, steps: int
) -> Literal["stochastic", "multidiffusion", "concat", "mean"]:
    """Return what "auto" is in a stage: stochastic, if it sees all views."""
    if mode != "auto":
        return mode
    return "stochastic" if steps >= views else "multidiffusion"
