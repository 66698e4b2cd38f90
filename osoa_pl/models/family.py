"""Families of models: how the name in a checkpoint leads to code, here or in another package.

A family is one module that ends in `FAMILY = Family(...)`. Those of this package are listed below;
other packages register theirs with `register`, or name it in the entry-point group
`osoa_pl.models` so that the commands find it too (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Protocol

from osoa_pl.errors import CheckpointError, UsageError
from osoa_pl.models.base import Model

if TYPE_CHECKING:
    from osoa_pl.models.density import Density

ENTRY_POINTS = "osoa_pl.models"
_BUILT_IN = {name: f"osoa_pl.models.{name}" for name in ("local_ar", "memory_ar", "vae")}
_registered: dict[str, Family] = {}


class Config(Protocol):
    """Sizes of a model: a frozen dataclass of numbers and words that checks itself."""

    @property
    def channels(self) -> int:
        """Samples a pixel, 1 or 3."""

    def parameter_count(self) -> int:
        """Length of the flat vector of weights."""

    def maxima_count(self) -> int:
        """Length of the vector of activation maxima."""

    def problem(self, height: int, width: int) -> str | None:
        """Why an image of this size cannot be coded, or None."""

    def to_dict(self) -> dict[str, Any]:
        """Plain form for checkpoint metadata; keyword arguments of the class."""


@dataclass(frozen=True)
class Family:
    """One kind of model.

    config: makes a `Config` from its plain form. build: (config, parameters, activation maxima,
    engine, threads) -> the model that codes, over these very tensors; engine None: compiled on
    the CPU, eager elsewhere. density: config -> the module that trains. settings: the
    `BatchSettings` that suit it, where they differ from the default; by_effort: and those that
    `auto` takes from an effort on (the highest key that the effort reaches). step_sizes: what
    `auto` tries. constants: config -> name and size of what a checkpoint holds beside, flat int8
    tensors that `build` is given by name and that adaptation leaves alone.
    """

    name: str
    config: Callable[..., Any]
    build: Callable[..., Model]
    density: Callable[[Any], Density]
    settings: Mapping[str, int] = field(default_factory=dict)
    step_sizes: tuple[float, ...] = (5e-4, 1e-3)
    by_effort: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    constants: Callable[[Any], Mapping[str, int]] = lambda config: {}

    def suited(self, effort: int | None) -> dict[str, int]:
        """`BatchSettings` for this effort of `auto`, or for another policy."""
        reached = [key for key in self.by_effort if effort is not None and key <= effort]
        return {**self.settings, **(self.by_effort[max(reached)] if reached else {})}


def register(family: Family) -> Family:
    """Make a family known to this process; raises UsageError where its name is another's."""
    known = _registered.get(family.name)
    if family.name in _BUILT_IN and family.build.__module__ != _BUILT_IN[family.name]:
        raise UsageError(f"model family {family.name!r} is built in")
    if known is not None and known.build.__module__ != family.build.__module__:
        raise UsageError(f"model family {family.name!r} is taken by {known.build.__module__}")
    _registered[family.name] = family
    return family


def find(name: str) -> Family:
    """The family of this name. Raises CheckpointError where none is installed."""
    if name not in _registered and name in _BUILT_IN:
        register(import_module(_BUILT_IN[name]).FAMILY)
    if name not in _registered:
        for entry in metadata.entry_points(group=ENTRY_POINTS, name=name):
            try:
                found = entry.load()
            except Exception as error:  # whatever another package raises when it is imported
                raise CheckpointError(
                    f"model family {name!r}: cannot be loaded from {entry.value}: {error}"
                ) from error
            if not isinstance(found, Family):
                raise CheckpointError(f"model family {name!r}: {entry.value} is not a Family")
            register(found)
    if name in _registered:
        return _registered[name]
    known = ", ".join(sorted({*_BUILT_IN, *_registered}))
    raise CheckpointError(f"unknown model family {name!r} (known: {known})")
