"""A local autoregressive net with memory: repeats are learnt at once, the rest by gradients.

As `local_ar`, with what `memory` proposes for each pixel as further parts of its mixture and as
features of the network, which so learns when to trust it. `advance` takes the batch into memory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from osoa_pl.errors import UsageError
from osoa_pl.models import features, local_ar, memory_head, memory_wavefront, network
from osoa_pl.models.base import Engine, StreamDecoder
from osoa_pl.models.eigenbasis import Eigenbasis, entries
from osoa_pl.models.family import Family
from osoa_pl.models.features import TileBatch
from osoa_pl.models.memory import MemoryState
from osoa_pl.models.recall import (
    GROUPS,
    NEIGHBOURS,
    Work,
    extra_features,
    group_order,
    group_tiles,
    recall_group,
)

if TYPE_CHECKING:
    from osoa_pl.models.density import Density

_PROPOSAL_START = -2.0  # first logit of a proposal, before the log-odds of its trust
_NEIGHBOUR_START = -5.0


@dataclass(frozen=True)
class MemoryConfig(local_ar.LocalConfig):
    """Sizes of the model; memory_bits: log2 of the entries in each context's table.

    eigenbasis: whether weights are stored as `eigenbasis` says.
    """

    memory_bits: int = 18
    eigenbasis: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.memory_bits) is not int or not 8 <= self.memory_bits <= 20:
            raise UsageError(f"memory model: memory_bits {self.memory_bits!r}, expected 8 to 20")
        if type(self.eigenbasis) is not bool:
            raise UsageError(
                f"memory model: eigenbasis {self.eigenbasis!r}, expected a truth value"
            )

    @property
    def outputs(self) -> int:
        """Numbers a pixel that the network predicts."""
        c = self.channels
        return 3 * self.mixtures * c + c * (c - 1) // 2 + memory_head.PARTS

    @property
    def inputs(self) -> int:
        """Features of a pixel."""
        return features.feature_count(self.channels) + extra_features(self.channels)

    def network(self) -> network.NetworkShape:
        """The residual network of these sizes."""
        return network.NetworkShape(self.inputs, self.width, self.depth, self.outputs)

    def to_dict(self) -> dict[str, int]:
        """Plain form for checkpoint metadata."""
        return asdict(self)


def initial_parameters(config: MemoryConfig, seed: int) -> Tensor:
    """Random start, flat float32; as `local_ar.initial_parameters`, memory trusted a little."""
    flat = local_ar.initial_parameters(config, seed)
    bias = config.network().views(flat)[-1][1]
    parts = bias[-memory_head.PARTS :]
    parts[0] = 0.0
    parts[1] = _NEIGHBOUR_START
    parts[2 : 2 + NEIGHBOURS] = _NEIGHBOUR_START
    parts[2 + NEIGHBOURS :] = _PROPOSAL_START
    return flat


class MemoryAutoregressive(local_ar.LocalAutoregressive):
    """Direct model with memory; see `base.DirectModel` for the contract."""

    config: MemoryConfig
    head: ClassVar[ModuleType] = memory_head

    def __init__(
        self,
        config: MemoryConfig,
        parameters: Tensor,
        activation_max: Tensor,
        *,
        threads: int | None = None,
        basis: Eigenbasis | None = None,
    ) -> None:
        super().__init__(config, parameters, activation_max, threads=threads, basis=basis)
        self.memory = MemoryState(config.channels, config.memory_bits, self._pool)
        self._looked: tuple[TileBatch, Work] | None = None

    def state(self) -> list[Tensor]:
        """Master weights, activation maxima and the memory's trust."""
        return [*super().state(), torch.from_numpy(self.memory.tables.trust)]

    def look(self, batch: TileBatch) -> Work:
        """What memory says of every pixel of a batch whose pixels are known."""
        if self._looked is not None and self._looked[0] is batch:
            return self._looked[1]
        work = self.memory.begin(batch, self.config.inputs)
        heights = batch.table[:, 1]
        row_tile = np.repeat(np.arange(len(heights)), heights)
        row_index = np.concatenate([np.arange(h) for h in heights])
        copies = np.empty((batch.pixels, NEIGHBOURS, batch.channels), np.int64)
        self._pool.run(
            features.batch_features_rows, len(row_tile), batch.buffer, batch.table, batch.tops,
            row_tile, row_index, batch.channels, work.features, work.predictors, copies,
        )  # fmt: skip
        on = self.memory.colours.on
        self._pool.each(
            [
                partial(
                    recall_group, self.memory.tables, work, batch.table, batch.channels, group, on
                )
                for group in _filled_groups(batch)
            ]
        )
        self._looked = batch, work
        return work

    def _features(self, batch: TileBatch) -> Tensor:
        return torch.from_numpy(self.look(batch).features)

    def order(self, batch: TileBatch, stream: int, streams: int) -> np.ndarray:
        """Pixel indices of one stream in coding order: a group each, or both in the only one."""
        groups = [stream] if streams >= GROUPS else list(range(GROUPS))
        orders = [group_order(batch.table, group) for group in groups if group < GROUPS]
        return np.concatenate([np.zeros(0, np.int64), *orders])

    def _head_tables(self, batch: TileBatch, rows: slice = slice(None)) -> tuple[Any, ...]:
        return _of_rows(self.look(batch), rows), self.memory.colours.tree

    def decode(self, batch: TileBatch, decoder: StreamDecoder) -> bool:
        """Fill in the batch's pixels; False when a stream has run out of words."""
        work = self.memory.begin(batch, self.config.inputs)
        self._looked = batch, work
        # in one stream the second group follows the first
        together = (
            decoder.streams >= GROUPS
            and self._pool.threads >= GROUPS
            and len(_filled_groups(batch)) == GROUPS
        )

        def before(thread: int) -> tuple[Any, ...]:
            first, end = (thread, thread + 1) if together else (0, GROUPS)
            return (
                batch.buffer, batch.table, batch.tops, self.memory.tables, work,
                self.memory.colours.tree, self.channels, self.config.mixtures, first, end,
                decoder.streams, decoder.heads, decoder.words, decoder.offsets, decoder.sizes,
            )  # fmt: skip

        threads = GROUPS if together else 1
        return self._decode(threads, work.features, memory_wavefront.decode_groups, before)

    def remember(self, batch: TileBatch) -> None:
        """Take a batch whose pixels are known into memory."""
        self.memory.remember(batch, self.look(batch))
        self._looked = None

    def advance(self) -> None:
        """As `LocalAutoregressive.advance`; the batch last seen goes into memory."""
        if self._looked is not None:
            self.remember(self._looked[0])
        super().advance()


def _of_rows(work: Work, rows: slice) -> Work:
    """What the head needs of some pixels, in contiguous arrays; the rest as it is."""
    names = ("predictors", "counts", "columns", "values", "offsets")
    return work._replace(**{n: np.ascontiguousarray(getattr(work, n)[rows]) for n in names})


def _filled_groups(batch: TileBatch) -> list[int]:
    """Groups that have a tile."""
    ends = [group_tiles(len(batch.table), group) for group in range(GROUPS)]
    return [group for group, (begin, end) in enumerate(ends) if begin < end]


def _build(
    config: MemoryConfig,
    parameters: Tensor,
    activation_max: Tensor,
    engine: Engine | None,
    threads: int | None,
    basis: Tensor | None = None,
) -> MemoryAutoregressive:
    from osoa_pl.models.known_answers import check_compiled_memory
    from osoa_pl.models.memory_ar_eager import EagerMemoryAutoregressive

    eager = engine == "eager" or parameters.device.type != "cpu"
    frozen = None
    if basis is not None:
        frozen = Eigenbasis(config.network().layers(), basis, compiled=not eager)
    if eager:
        return EagerMemoryAutoregressive(config, parameters, activation_max, basis=frozen)
    check_compiled_memory(config.channels)
    return MemoryAutoregressive(config, parameters, activation_max, threads=threads, basis=frozen)


def _constants(config: MemoryConfig) -> dict[str, int]:
    return {"basis": entries(config.network().layers())} if config.eigenbasis else {}


def _density(config: MemoryConfig) -> Density:
    from osoa_pl.models.memory_ar_density import MemoryAR

    return MemoryAR(
        config.channels, config.width, config.depth, config.mixtures, config.memory_bits
    )


FAMILY = Family(
    "memory_ar", MemoryConfig, _build, _density,
    settings={
        "batch_pixels": 1024, "first_pixels": 512, "first_batches": 128, "segment_batches": 256,
        "streams": GROUPS,
    },
    step_sizes=(4e-4, 8e-4),
    constants=_constants,
    by_effort={
        1: {
            "batch_pixels": 4096, "first_pixels": 1024, "first_batches": 1, "segment_batches": 64,
        },
        2: {
            "batch_pixels": 2048, "first_pixels": 1024, "first_batches": 1, "segment_batches": 128,
            "gradient_stride": 2,
        },
        4: {},
        6: {"batch_pixels": 512, "segment_batches": 512},
        7: {"batch_pixels": 256, "first_pixels": 256, "segment_batches": 1024},
    },
)  # fmt: skip
