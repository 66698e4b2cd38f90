"""`osoa decompress`: an archive back into files."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from osoa_pl.cli.arguments import add_checkpoint, add_jobs, add_json, add_machine
from osoa_pl.cli.console import Console, counted, duration, grouped, size
from osoa_pl.cli.opening import opened
from osoa_pl.errors import DamagedArchiveError, UsageError
from osoa_pl.types import STREAM

SUMMARY = "restore the files of an archive"
USAGE = "osoa decompress ARCHIVE -o DIR|TAR|- [OPTIONS]"
DESCRIPTION = """\
Restore the files of an archive below a folder, or into a tar, every pixel checked.

examples:
  osoa decompress photos.osoa -o restored/
  osoa decompress photos.osoa -o some/ --only 'trip/*.png' --jobs 2
  osoa decompress s3://bucket/tiles.osoa -o - | tar x

Pictures come back as PNG with equal pixels, arrays in their own format, other files
byte for byte. Files appear whole or not at all. DIR is made where it is missing. An
archive may be a path, a URL that fsspec knows, or -.
"""
DAMAGED = 4
_PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip", ".7z")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("archive", metavar="ARCHIVE", help=argparse.SUPPRESS)
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", metavar="DIR|TAR|-", required=True,
        help="folder to write below; name.tar, or - for a tar on standard output",
    )  # fmt: skip
    output.add_argument(
        "--only",
        metavar="GLOB",
        action="append",
        help="entries whose name matches; * crosses folders; may be given again",
    )
    output.add_argument("-f", "--force", action="store_true", help="overwrite existing files")
    output.add_argument(
        "--keep-going", action="store_true",
        help="write what is intact of a damaged archive, then say what is lost (exit code 4)",
    )  # fmt: skip
    add_json(output)
    add_checkpoint(parser.add_argument_group("model"))
    machine = parser.add_argument_group("machine")
    add_jobs(machine)
    add_machine(machine)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Decompress; 0, or 4 where something was lost."""
    to_stream = arguments.output == STREAM
    if arguments.output.endswith(_PACKED):
        raise UsageError(
            f"-o {arguments.output}: archives of this kind are not written",
            hint="-o name.tar, or -o - for a tar on standard output",
        )
    if to_stream and arguments.json:
        raise UsageError("--json and -o - both want standard output")
    from osoa_pl.api.tars import extract_to_tar

    going = arguments.keep_going
    try:
        with opened(arguments, console, "decompressing", keep_going=going) as (archive, jobs):
            options = {"only": arguments.only, "overwrite": arguments.force, "jobs": jobs}
            if to_stream or arguments.output.endswith(".tar"):
                result = extract_to_tar(archive, arguments.output, **options)
            else:
                result = archive.extract(arguments.output, **options)
    except DamagedArchiveError as error:
        if not going:
            error.hint = error.hint or "`--keep-going -f` writes what is intact"
        raise
    of = f" of {len(result.files) + len(result.lost)}" if result.lost else ""
    rate = f", {result.raw_bytes / result.seconds / 1e6:.2f} MB/s" if result.raw_bytes else ""
    console.note(
        f"{arguments.output}: {counted(len(result.files), 'file')}{of}, "
        f"{size(result.raw_bytes)} of samples, {duration(result.seconds)}{rate}"
    )
    code = DAMAGED if result.lost or result.problems else 0
    for problem in result.problems:
        console.warning(problem)
    for line in grouped([(name, "lost") for name in result.lost]):
        console.warning(line + (" (all of them with --json)" if len(result.lost) > 3 else ""))
    if console.json:
        console.emit(
            "summary", archive=arguments.archive, folder=arguments.output, **asdict(result),
            exit_code=code,
        )  # fmt: skip
    return code
