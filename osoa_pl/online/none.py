"""No adaptation: every batch is coded with the checkpoint as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from osoa_pl.models.base import Model
from osoa_pl.models.features import TileBatch
from osoa_pl.online.policy import checked_weights


class NoAdaptation:
    """The policy `none`."""

    name = "none"

    def __init__(self, *, weights: str = "") -> None:
        self.weights = checked_weights(weights)

    def to_dict(self) -> dict[str, Any]:
        """The manifest entry."""
        return {"name": self.name, **({"weights": self.weights} if self.weights else {})}

    def start(self, model: Model, second_moment: Tensor, seed: int, stride: int = 1) -> None:
        """Nothing to prepare."""

    def adapt(self, batch: TileBatch) -> None:
        """Nothing changes."""

    def replay(self, batch: TileBatch) -> None:
        """Nothing is remembered."""

    def state(self) -> list[Tensor]:
        """Nothing adaptive."""
        return []

    def snapshot(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Nothing to continue from."""
