"""`osoa compress`: pictures, arrays and folders into one archive."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from osoa_pl.cli.arguments import add_jobs, add_json, add_machine, one_of, positive, whole
from osoa_pl.cli.console import MAX_LINES, Console, counted, duration, grouped, size
from osoa_pl.cli.threads import using_threads
from osoa_pl.errors import InterruptedRun, OsoaError, OutputExistsError, UsageError
from osoa_pl.models.checkpoint import TIERS
from osoa_pl.types import STREAM

if TYPE_CHECKING:
    from osoa_pl.api.compress import CompressResult

SUMMARY = "compress folders, pictures and arrays into one archive"
USAGE = "osoa compress INPUT... -o ARCHIVE [OPTIONS]"
DESCRIPTION = """\
Compress pictures into one archive, adapting the model to them on the way.

examples:
  osoa compress photos/ -o photos.osoa
  osoa compress scans/ -o scans.osoa --jobs 2 --shard 500 --verify
  osoa compress - -o s3://bucket/tiles.osoa < tiles.tar

INPUT is a folder (read recursively), a picture (PNG, WebP, TIFF, BMP, PPM, TGA, lossless
JPEG XL; 1 to 16 bits, palettes, alpha), an array (.npy, .npz, IDX; uint8) or a tar of these (-: on
standard input). Anything else is stored byte for byte, and so is a picture whose file is
smaller than its coded pixels. Inputs are never changed. The same inputs and options give
the same code words on any machine. ARCHIVE is a path, a URL that fsspec knows, or -.
"""
SKIPPED = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=argparse.SUPPRESS)
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", metavar="ARCHIVE", required=True, help="archive to write")
    output.add_argument("-f", "--force", action="store_true", help="overwrite an existing archive")
    output.add_argument(
        "--resume", action="store_true",
        help="continue a run that ended early (ARCHIVE.partial); the result is the same",
    )  # fmt: skip
    output.add_argument(
        "--verify", action="store_true", help="decode it all before ARCHIVE appears"
    )
    output.add_argument(
        "--no-times", dest="times", action="store_false",
        help="leave out times of change, and folders that are not empty",
    )  # fmt: skip
    add_json(output)
    model = parser.add_argument_group("model and adaptation")
    model.add_argument(
        "--checkpoint", default="default", metavar="NAME|PATH",
        help="where to start from (default: base, but see --effort)",
    )  # fmt: skip
    model.add_argument(
        "--embed-checkpoint", action="store_true",
        help="put the checkpoint into the archive (base: 1.9 MB)",
    )  # fmt: skip
    model.add_argument(
        "--adaptation", type=one_of("auto", "online", "none"), default="auto", metavar="HOW",
        help="auto: the smallest of adapting, not adapting and xz, by trying (see --effort); "
        "online: adapt; none: don't, fastest (default: auto)",
    )  # fmt: skip
    model.add_argument(
        "--effort", type=whole(1, 9), metavar="N",
        help="how much auto tries: 1 does not adapt, 2 one step size, 4 two, from 6 on smaller "
        "batches, from 8 on from large too, 9 eight ways to the end (default: 5)",
    )  # fmt: skip
    model.add_argument(
        "--step-size", type=positive, metavar="X",
        help="step size of --adaptation online (default: 0.001)",
    )  # fmt: skip
    model.add_argument(
        "--seed", type=whole(0, (1 << 32) - 1), default=0, metavar="N",
        help="seed of the rounding noise (default: 0)",
    )  # fmt: skip
    model.add_argument(
        "--segment", type=whole(1, 1 << 20), metavar="BATCHES",
        help="batches in a segment, the unit of damage and of memory (default: 64 to 1024, by "
        "model and effort)",
    )  # fmt: skip
    model.add_argument(
        "--model-only", action="store_true",
        help="code every picture through the model, also where xz or its own file is smaller",
    )  # fmt: skip
    model.add_argument(
        "--shard", type=whole(1, 1 << 40), metavar="IMAGES",
        help="images coded as one trajectory: what a job takes at a time, and what is decoded to "
        "reach an image (default: some 50 MB of samples)",
    )  # fmt: skip
    machine = parser.add_argument_group("machine")
    add_jobs(machine)
    add_machine(machine)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Compress; 0, or 3 where inputs were skipped."""
    if arguments.step_size is not None and arguments.adaptation != "online":
        raise UsageError(
            f"--step-size needs --adaptation online, found --adaptation {arguments.adaptation}"
        )
    if arguments.effort is not None and arguments.adaptation != "auto":
        raise UsageError(
            f"--effort needs --adaptation auto, found --adaptation {arguments.adaptation}"
        )
    if arguments.output == STREAM and arguments.json:
        raise UsageError("--json and -o - both want standard output")
    from osoa_pl.api.compress import compress

    options: dict[str, Any] = {}
    if arguments.step_size is not None:
        options["step_size"] = arguments.step_size
    if arguments.effort is not None:
        options["effort"] = arguments.effort
    if arguments.segment is not None:
        options["settings"] = {"segment_batches": arguments.segment}
    with (
        using_threads(arguments.threads),
        resumable(arguments.output),
        console.progress("compressing") as watch,
    ):
        result = compress(
            arguments.inputs,
            arguments.output,
            checkpoint=arguments.checkpoint,
            embed_checkpoint=arguments.embed_checkpoint,
            adaptation=arguments.adaptation,
            seed=arguments.seed,
            shard=arguments.shard,
            jobs=arguments.jobs,
            times=arguments.times,
            model_only=arguments.model_only,
            device=arguments.device,
            threads=arguments.threads,
            overwrite=arguments.force,
            resume=arguments.resume,
            verify=arguments.verify,
            watch=watch,
            **options,
        )
    return tell(arguments.output, result, console)


@contextmanager
def resumable(archive: str) -> Iterator[None]:
    """Say where a run that ends early can be taken up, if it can."""
    try:
        yield
    except (UsageError, OutputExistsError):
        raise
    except (OsoaError, KeyboardInterrupt) as error:
        if not os.path.isdir(f"{archive}.partial"):
            raise
        hint = (
            f"what is finished is kept in {archive}.partial; the same command with --resume goes on"
        )
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRun("interrupted", hint) from error
        error.hint = f"{error.hint}; {hint}" if error.hint else hint
        raise


def tell(archive: str, result: CompressResult, console: Console) -> int:
    """Say what came of it; the exit code."""
    code = SKIPPED if result.skipped else 0
    _tell(archive, result, console)
    if console.json:
        console.emit("summary", **_summary(archive, result), exit_code=code)
    return code


def _tell(archive: str, result: CompressResult, console: Console) -> None:
    for line in grouped(result.stored):
        console.note(f"stored byte for byte: {line}")
    for old, new in result.renamed[:MAX_LINES]:
        console.note(f"{old}: named {new} for systems that do not take its own name")
    if len(result.renamed) > MAX_LINES:
        console.note(f"and {len(result.renamed) - MAX_LINES} more such names (--json has them all)")
    console.note(closing_line(archive, result))
    for line in grouped(result.skipped):
        console.warning(f"skipped: {line}")


def closing_line(archive: str, result: CompressResult) -> str:
    """Sizes before and after, rate of the pixels, and time of a finished run."""
    seconds = duration(result.seconds)
    before, after = size(result.original_bytes), size(result.archive_bytes)
    if not result.raw_bytes:
        what = counted(len(result.stored), "file")
        return f"{archive}: {what} stored, {before} to {after}, {seconds}"
    what = counted(result.images, "image")
    if result.stored:
        what += f" and {counted(len(result.stored), 'stored file')}"
    if result.copies:
        what += f" ({result.copies} {'copy' if result.copies == 1 else 'copies'})"
    rate = result.raw_bytes / result.seconds / 1e6 if result.seconds else 0.0
    bits = f"{result.bits_per_dim - 8 * result.checkpoint_bytes / result.raw_bytes:.3f} bits/dim"
    if result.checkpoint_bytes:
        bits += f" ({result.bits_per_dim:.3f} with the checkpoint)"
    started = "" if result.checkpoint == TIERS[0] else f"{result.checkpoint}: "
    return (
        f"{archive}: {what}, {before} to {after}; pixels {size(result.raw_bytes)} at "
        f"{bits}, {seconds}, {rate:.2f} MB/s "
        f"({started}{'; '.join(result.policies)}){'; verified' if result.verified else ''}"
    )


def _summary(archive: str, result: CompressResult) -> dict[str, Any]:
    fields = asdict(result)
    fields["stored"] = [{"name": n, "reason": r} for n, r in result.stored]
    fields["skipped"] = [{"path": p, "reason": r} for p, r in result.skipped]
    fields["renamed"] = [{"path": p, "name": n} for p, n in result.renamed]
    return {"archive": archive, **fields}
