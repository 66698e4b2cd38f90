"""What decides an archive's bytes beside its pictures, and where its model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from osoa_pl.format.container import FORMAT_VERSION
from osoa_pl.models.checkpoint import Checkpoint
from osoa_pl.online import auto
from osoa_pl.online.plan import BatchSettings
from osoa_pl.types import ARITHMETIC_VERSION

Adaptation = Literal["auto", "online", "none"]


@dataclass(frozen=True)
class CodingOptions:
    """What decides the bytes of a part beside its pictures, and where its model runs."""

    checkpoint: Checkpoint
    settings: BatchSettings
    seed: int
    adaptation: Adaptation
    step_size: float
    search: auto.Search
    device: str = "cpu"
    threads: int | None = None
    measure: bool = False
    model_only: bool = False

    @property
    def threads_at_hand(self) -> int:
        """How many threads may run side by side."""
        return self.threads or torch.get_num_threads() if self.device == "cpu" else 1

    def identity(self) -> dict[str, Any]:
        """What decides the bytes."""
        return {
            "format": FORMAT_VERSION,
            "arithmetic": ARITHMETIC_VERSION,
            "checkpoint": self.checkpoint.sha256,
            "seed": self.seed,
            "settings": self.settings.to_dict(),
            "adaptation": self.adaptation,
            "step size": self.step_size,
            "effort": repr(self.search),
            "model only": self.model_only,
        }
