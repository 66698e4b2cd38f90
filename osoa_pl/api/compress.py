"""`compress`: a collection to an archive in one call, under one policy or the best of several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal

from osoa_pl.api.job import CompressionJob, CompressResult, JobShard, PathOrArrays
from osoa_pl.api.members import Watch
from osoa_pl.errors import UsageError
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.online import auto
from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings
from osoa_pl.online.policy import Policy
from osoa_pl.online.session import Segment

__all__ = ["Adaptation", "CompressResult", "PathOrArrays", "compress"]

Adaptation = Literal["auto", "online", "none"]


def compress(
    images: PathOrArrays,
    out: str | os.PathLike[str],
    *,
    checkpoint: str = checkpoints.DEFAULT,
    embed_checkpoint: bool = False,
    adaptation: Adaptation = "auto",
    step_size: float = 1e-3,
    seed: int = 0,
    settings: BatchSettings | Mapping[str, int] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> CompressResult:
    """Compress pictures into the archive `out`, adapting the checkpoint to them on the way.

    images: a path or paths (folders, picture files, .npy/.npz/IDX), or uint8 arrays: (n, h, w),
    (n, h, w, c), or an iterable of (h, w[, c]), c in 1, 3. adaptation: `none`, `online` (one pass
    with `step_size`) or `auto` (the smaller of `none` and the better of two step sizes). settings:
    sizes of batches and segments, or those that differ from what suits the checkpoint's family.
    The same input and options give the same segments, on any machine and number of threads (the
    item table and stored files pass through zlib and xz, whose versions may differ).

    Raises UsageError, InputError, CheckpointError, OutputExistsError; nothing is left at `out`
    after an error.
    """
    if adaptation not in ("auto", "online", "none"):
        raise UsageError(f"adaptation {adaptation!r} (expected auto, online or none)")
    fixed: dict[str, Policy] = {
        "online": OnlineAdaptation(step_size=step_size),
        "none": NoAdaptation(),
    }
    job = CompressionJob(
        images, out, checkpoint=checkpoint, embed_checkpoint=embed_checkpoint, seed=seed,
        settings=settings, device=device, threads=threads, overwrite=overwrite,
    )  # fmt: skip
    with job:
        counter = _Counter(watch, adaptation, job)
        for shard in job.shards:

            def encode(policy: Policy, shard: JobShard = shard) -> Iterator[Segment]:
                channels = shard.channels
                session = job.session(
                    shard, policy, watch=lambda pixels: counter.add(pixels * channels)
                )
                return session.encode(job.images(shard))

            policy = fixed.get(adaptation)
            coded = auto.code(encode, policy) if policy else auto.choose(encode, job.step_sizes)
            with coded:
                for index, data in enumerate(coded.members()):
                    job.add_segment(shard, index, data)
                job.finish_shard(shard, coded)
        return job.commit()


class _Counter:
    """Progress in samples coded, summed over what `auto` tries."""

    def __init__(self, watch: Watch | None, adaptation: Adaptation, job: CompressionJob) -> None:
        self._watch, self._done, self._total = watch, 0, job.samples
        if adaptation == "auto":  # two to the end, the others over the first segment
            segment = 3 * job.settings.batch_pixels * job.settings.segment_batches
            self._total += job.samples + (len(job.step_sizes) - 1) * min(job.samples, segment)

    def add(self, samples: int) -> None:
        self._done += samples
        if self._watch is not None:
            self._watch(self._done, max(self._total, self._done))
