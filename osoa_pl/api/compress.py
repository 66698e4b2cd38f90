"""`compress`: a collection to an archive in one call, under one policy or the best of several."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import BinaryIO

from osoa_pl.api.job import CompressionJob, CompressResult, JobOptions, PathOrArrays
from osoa_pl.api.members import Watch
from osoa_pl.api.options import Adaptation
from osoa_pl.api.workers import code_in_processes
from osoa_pl.errors import UsageError
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.online.auto import DEFAULT_EFFORT
from osoa_pl.online.plan import BatchSettings

__all__ = ["Adaptation", "CompressResult", "PathOrArrays", "compress"]


def compress(
    images: PathOrArrays,
    out: str | os.PathLike[str] | BinaryIO,
    *,
    checkpoint: str = checkpoints.DEFAULT,
    embed_checkpoint: bool = False,
    adaptation: Adaptation = "auto",
    step_size: float = 1e-3,
    effort: int = DEFAULT_EFFORT,
    seed: int = 0,
    settings: BatchSettings | Mapping[str, int] | None = None,
    shard: int | None = None,
    jobs: int = 1,
    times: bool = True,
    model_only: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    watch: Watch | None = None,
) -> CompressResult:
    """Compress pictures into the archive `out`, adapting the checkpoint to them on the way.

    images: a path or paths (folders, picture files, .npy/.npz/IDX, tars; ``-``: a tar on standard
    input), or uint8 arrays: (n, h, w), (n, h, w, c), or an iterable of (h, w[, c]), c in 1..4.
    out: path, fsspec URL, or binary file. adaptation: `none`, `online` (one pass with `step_size`)
    or `auto` (the smallest of `none`, the best of some step sizes, and xz; `effort`, 1 to 9, says
    how many are tried and how far: `online.auto.search`). settings: sizes of batches and segments,
    or those that differ from what suits the checkpoint's family. shard: images that are coded as
    one trajectory (default: equal parts, each up to 50 MB). jobs: processes that code shards side
    by side; the bytes do not depend on it. times: keep times of change, and folders. model_only:
    code every picture through the model, also where xz, a copy or the file itself is smaller.
    resume: continue a run that was ended early; `verify`: decode all before `out` appears.

    The same input and options give the same segments, on any machine and number of threads and
    jobs (what passes through zlib and xz may differ between their versions).

    Raises UsageError, InputError, CheckpointError, OutputExistsError; nothing is left at `out`
    after an error, but ``OUT.partial`` where something was finished.
    """
    if type(jobs) is not int or jobs < 1:
        raise UsageError(f"jobs {jobs!r}: expected a whole number above 0")
    options = JobOptions(
        checkpoint=checkpoint, embed_checkpoint=embed_checkpoint, adaptation=adaptation,
        step_size=step_size, effort=effort, seed=seed, settings=settings, shard=shard, times=times,
        model_only=model_only, device=device, threads=threads, overwrite=overwrite, resume=resume,
        verify=verify, jobs=jobs,
    )  # fmt: skip
    job = CompressionJob(images, out, options)
    with job:
        progress = _Progress(watch, job)
        if min(jobs, len(job.parts)) > 1:
            code_in_processes(job, min(jobs, len(job.parts)), progress.add, progress.finish)
        else:
            for number in range(len(job.parts)):
                job.code(number, partial(progress.add, number))
                progress.finish(number)
        return job.commit(progress.verified)


class _Progress:
    """Samples coded, of those that are expected to be: `auto` takes two ways to the end.

    A part that tries more, or is taken over from an earlier run, still counts as expected.
    """

    def __init__(self, watch: Watch | None, job: CompressionJob) -> None:
        ways = 2 if job.options.adaptation == "auto" else 1
        self._watch = watch
        self._expected = [ways * samples for samples in job.samples]
        self._coded = sum(self._expected)
        self._total = self._coded + (sum(job.samples) if job.verifies else 0)
        self._parts = [0] * len(self._expected)
        self._done = 0

    def add(self, number: int, samples: int) -> None:
        """So many samples of part `number` were coded in one way."""
        new = min(self._parts[number] + samples, self._expected[number])
        self._done += new - self._parts[number]
        self._parts[number] = new
        self._tell(self._done)

    def finish(self, number: int) -> None:
        """Part `number` is done."""
        self.add(number, self._expected[number])

    def verified(self, done: int, total: int) -> None:
        """So many of the archive's samples have been decoded."""
        self._tell(min(self._coded + done, self._total))

    def _tell(self, done: int) -> None:
        if self._watch is not None and done:
            self._watch(done, self._total)
