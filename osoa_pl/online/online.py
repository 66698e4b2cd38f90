"""One-shot online adaptation: after each batch, optimizer steps on it (OSOA, arXiv:2111.01662).

The encoder steps on the batch it has coded, the decoder on the batch it has decoded; both have the
same pixels, weights and noise, hence the same next weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from osoa_pl.arith.optim import Adam, clip_by_exact_norm
from osoa_pl.errors import UsageError
from osoa_pl.models.base import Model, RememberingModel, SampledModel
from osoa_pl.models.features import TileBatch
from osoa_pl.online.policy import checked_weights

MAX_STEP_SIZE = 0.1  # far above what helps; larger ones only diverge
_LIMITS = {"step_size": MAX_STEP_SIZE, "beta1": 0.999999, "beta2": 0.999999}
_LEAST = 1e-30  # still a number in float32


class OnlineAdaptation:
    """The policy `online`: Adam from the checkpoint's second moments, at a constant step size.

    A cold Adam would take its largest steps first, when it knows least; with the checkpoint's
    second moments the first steps already have the right size for every parameter.
    """

    name = "online"

    def __init__(
        self,
        *,
        step_size: float = 1e-3,
        updates: int = 1,
        beta1: float = 0.8,
        beta2: float = 0.99,
        eps: float = 1e-8,
        clip: float = 1.0,
        weights: str = "",
    ) -> None:
        numbers = {"step_size": step_size, "beta1": beta1, "beta2": beta2, "eps": eps, "clip": clip}
        for name, value in numbers.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise UsageError(f"{name}: found {value!r}, expected a number")
            limit = _LIMITS.get(name, 1e6)
            if not _LEAST <= value <= limit:  # false for NaN, and safe for an int of any length
                raise UsageError(f"{name}: found {value!r}, expected above 0 and at most {limit:g}")
        if type(updates) is not int or not 1 <= updates <= 64:
            raise UsageError(f"updates: found {updates!r}, expected 1 to 64")
        self.step_size, self.updates = float(step_size), updates
        self.beta1, self.beta2 = float(beta1), float(beta2)
        self.eps, self.clip = float(eps), float(clip)
        self.weights = checked_weights(weights)

    def to_dict(self) -> dict[str, Any]:
        """The manifest entry."""
        return {
            "name": self.name,
            "step_size": self.step_size,
            "updates": self.updates,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "eps": self.eps,
            "clip": self.clip,
            **({"weights": self.weights} if self.weights else {}),
        }

    def start(self, model: Model, second_moment: Tensor, seed: int, stride: int = 1) -> None:
        """Begin a trajectory at theta_0."""
        if stride > 1 and not isinstance(model, SampledModel):
            raise UsageError("gradient_stride: this model takes the gradient of all pixels")
        self._model, self._seed, self._count, self._stride = model, seed, 0, stride
        self._adam = Adam(
            model.parameters, lr=self.step_size, betas=(self.beta1, self.beta2), eps=self.eps,
            second_moment=second_moment, bias_correct_second=False,
        )  # fmt: skip

    def adapt(self, batch: TileBatch) -> None:
        """`updates` steps on the batch just coded or decoded, then the scales follow it."""
        for _ in range(self.updates):
            gradient = self._gradient(batch)
            self._adam.step(clip_by_exact_norm(gradient, self.clip))
            self._model.stepped()
            self._count += 1
        self._model.advance()

    def _gradient(self, batch: TileBatch) -> Tensor:
        if self._stride > 1:
            assert isinstance(self._model, SampledModel)
            return self._model.sampled_gradient(batch, self._seed, self._count, self._stride)
        return self._model.gradient(batch, self._seed, self._count)

    def replay(self, batch: TileBatch) -> None:
        """Let a model with memory take in what an earlier run has stepped on."""
        if isinstance(self._model, RememberingModel):
            self._model.remember(batch)

    def state(self) -> list[Tensor]:
        """Adam's two moments."""
        return list(self._adam.state_tensors())

    def snapshot(self) -> dict[str, Any]:
        """Adam's moments and counters, and the number of updates."""
        moments = [tensor.detach().clone() for tensor in self._adam.state_tensors()]
        return {"moments": moments, "counters": self._adam.counters(), "updates": self._count}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue from a `snapshot`."""
        self._adam.load(snapshot["moments"], snapshot["counters"])
        self._count = int(snapshot["updates"])
