"""Which of the shipped checkpoints an archive is made with, where nobody names one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from osoa_pl.api.options import CodingOptions
from osoa_pl.api.part import PartCoder
from osoa_pl.api.pieces import Piece
from osoa_pl.format.partial import PartialFolder
from osoa_pl.models import checkpoint as checkpoints


def best_tier(
    pieces: Sequence[Piece], options: CodingOptions, folder: PartialFolder
) -> CodingOptions:
    """The options with that checkpoint of `TIERS` that codes a sample of a part with fewest bits.

    The first in a tie. pieces: of the archive's first part.
    """
    ways = [replace(options, checkpoint=checkpoints.read(name)) for name in checkpoints.TIERS]
    costs = [PartCoder(0, pieces, way, folder).sample_cost() for way in ways]
    return ways[costs.index(min(costs))]
