"""One measured run of this codec in a process of its own: speed both ways, and peak memory.

`python -m osoa_pl.report.measurement JOB RESULT` reads a job (JSON, the fields of `Job`),
compresses its inputs, decompresses them into a folder, and writes a result (JSON, the fields of
`OwnResult`). A tiny collection is coded first, so that loading the kernels is not measured.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osoa_pl.errors import OsoaError


@dataclass(frozen=True)
class Job:
    """What to run: paths, and options of `osoa_pl.compress`."""

    inputs: tuple[str, ...]
    archive: str
    folder: str
    adaptation: str
    checkpoint: str
    threads: int | None = None
    device: str = "cpu"
    effort: int | None = None
    """Of `auto`; None: the default."""


@dataclass(frozen=True)
class OwnResult:
    """What one run took. Sizes in bytes, rates in bits/dim, `peak_bytes` of resident memory."""

    archive_bytes: int
    coded_bytes: int
    """The archive without files stored byte for byte, unless they are pictures."""
    net_bits_per_dim: float
    policies: tuple[str, ...]
    compress_seconds: float
    decompress_seconds: float
    peak_bytes: int


def measure(job: Job) -> OwnResult:
    """Run the job in a child process and wait for it.

    Raises OsoaError (with the exit code of the error in the child) where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="osoa-bench-") as folder:
        request, answer = Path(folder, "job.json"), Path(folder, "result.json")
        request.write_text(json.dumps(asdict(job)))
        command = [sys.executable, "-m", "osoa_pl.report.measurement", str(request), str(answer)]
        child = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if not answer.is_file():
            lines = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise OsoaError(f"bench: run {job.adaptation} failed ({child.returncode}): {lines[-1]}")
        fields = json.loads(answer.read_text())
    if "error" in fields:
        error = OsoaError(f"bench: run {job.adaptation}: {fields['error']}", fields["hint"])
        error.exit_code = fields["exit_code"]
        raise error
    return OwnResult(**{**fields, "policies": tuple(fields["policies"])})


def run(job: Job) -> OwnResult:
    """The job in this process."""
    from osoa_pl.api.archive import decompress, open_archive
    from osoa_pl.api.compress import compress

    if job.threads is not None:
        import torch

        torch.set_num_threads(job.threads)
    options: dict[str, Any] = {"threads": job.threads, "device": job.device}
    _warm_up(job, options)
    effort = {} if job.effort is None else {"effort": job.effort}
    coded = compress(
        list(job.inputs), job.archive, checkpoint=job.checkpoint,
        adaptation=job.adaptation, times=False, **effort, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    began = time.monotonic()
    decompress(job.archive, job.folder, checkpoint=job.checkpoint, **options)
    seconds = time.monotonic() - began
    with open_archive(job.archive) as archive:
        info = archive.info
    return OwnResult(
        archive_bytes=info.archive_bytes,
        coded_bytes=info.archive_bytes - info.file_bytes + coded.kept_bytes,
        net_bits_per_dim=info.net_bits_per_dim,
        policies=coded.policies,
        compress_seconds=coded.seconds,
        decompress_seconds=seconds,
        peak_bytes=peak_memory(),
    )


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; 0 where the system won't say."""
    try:
        # getrusage would count the parent's memory at the time of the fork
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) << 10
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _warm_up(job: Job, options: dict[str, Any]) -> None:
    import numpy as np

    from osoa_pl.api.archive import decompress
    from osoa_pl.api.compress import compress
    from osoa_pl.models import checkpoint as checkpoints

    sizes = checkpoints.describe(checkpoints.read(job.checkpoint))
    with tempfile.TemporaryDirectory(prefix="osoa-bench-") as folder:
        archive = str(Path(folder, "warm.osoa"))
        for config in sizes.values():
            # models of one size of image have it in their configuration; 0 and 1 suit them all
            size = (config["height"], config["width"]) if "height" in config else (8, 8)
            shape = (2, *size, config["channels"])
            images = np.arange(np.prod(shape)).reshape(shape) % 2
            compress(
                images.astype(np.uint8), archive, checkpoint=job.checkpoint,
                adaptation="online", overwrite=True, **options,
            )  # fmt: skip
            decompress(archive, checkpoint=job.checkpoint, **options)


def _serve(request: str, answer: str) -> None:
    fields = json.loads(Path(request).read_text())
    job = Job(**{**fields, "inputs": tuple(fields["inputs"])})
    try:
        result = asdict(run(job))
    except OsoaError as error:
        result = {"error": str(error), "hint": error.hint, "exit_code": error.exit_code}
    Path(answer).write_text(json.dumps(result))


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2])
