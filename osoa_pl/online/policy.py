"""What is adapted, and how: the contract of a policy, and the registry by name.

A policy is one file and one manifest entry. It owns the optimizer and everything else that
changes between batches beside the model's own state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from osoa_pl.errors import ArchiveError, UsageError
from osoa_pl.models.base import Model
from osoa_pl.models.features import TileBatch

MAX_NAME = 64
"""Characters of a name of weights."""


class Policy(Protocol):
    """How the adaptive state goes from batch t to batch t + 1."""

    name: str
    weights: str
    """The checkpoint's starting weights, theta_0; '' for those without a name."""

    def to_dict(self) -> dict[str, Any]:
        """The manifest entry that `from_manifest` reads back."""

    def start(self, model: Model, second_moment: Tensor, seed: int, stride: int = 1) -> None:
        """Begin a trajectory at theta_0 with the checkpoint's second moments.

        stride: `BatchSettings.gradient_stride`; raises UsageError where the model has none.
        """

    def adapt(self, batch: TileBatch) -> None:
        """One update from the batch just coded or decoded."""

    def replay(self, batch: TileBatch) -> None:
        """What `adapt` does beside the step itself, for a batch before a snapshot: memory."""

    def state(self) -> list[Tensor]:
        """The policy's own part of the adaptive state (moments), in a fixed order."""

    def snapshot(self) -> dict[str, Any]:
        """Copies of all that changes in `adapt`, the model apart: tensors and numbers."""

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue from a `snapshot`; call it after `start`."""


def checked_weights(name: object) -> str:
    """A name of starting weights as it was given. Raises UsageError for what cannot be one."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"weights: found {name!r:.80}, expected a name")
    return name


def from_manifest(entry: Mapping[str, Any]) -> Policy:
    """The policy that a manifest names. Raises ArchiveError for an unknown or malformed entry."""
    from osoa_pl.online.none import NoAdaptation
    from osoa_pl.online.online import OnlineAdaptation

    known = {policy.name: policy for policy in (NoAdaptation, OnlineAdaptation)}
    name = entry.get("name")
    if not isinstance(name, str) or name not in known:
        raise ArchiveError(f"unknown adaptation policy {name!r} (known: {', '.join(known)})")
    options = {key: value for key, value in entry.items() if key != "name"}
    try:
        return known[name](**options)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArchiveError(f"adaptation policy {name!r}: {error}") from None
