"""`osoa decompress`: an archive back into files."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from osoa_pl.cli.arguments import add_checkpoint, add_json, add_machine
from osoa_pl.cli.console import Console, counted, duration, size
from osoa_pl.cli.threads import using_threads

SUMMARY = "restore the files of an archive"
USAGE = "osoa decompress ARCHIVE -o DIR [OPTIONS]"
DESCRIPTION = """\
Restore the files of an archive below a folder, every pixel checked.

examples:
  osoa decompress photos.osoa -o restored/
  osoa decompress photos.osoa -o some/ --only 'trip/*.png'
  osoa decompress tiles.osoa -o restored/ -f

Pictures come back as PNG with equal pixels, arrays in their own format, other files
byte for byte. Files appear whole or not at all. DIR is made where it is missing.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("archive", metavar="ARCHIVE", help=argparse.SUPPRESS)
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="folder to write below"
    )
    output.add_argument(
        "--only", metavar="GLOB", help="entries whose name matches; * crosses folders"
    )
    output.add_argument("-f", "--force", action="store_true", help="overwrite existing files")
    add_json(output)
    add_checkpoint(parser.add_argument_group("model"))
    add_machine(parser.add_argument_group("machine"))


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Decompress; 0."""
    from osoa_pl.api.archive import open_archive

    with (
        using_threads(arguments.threads),
        console.progress("decompressing") as watch,
        open_archive(
            arguments.archive,
            checkpoint=arguments.checkpoint,
            device=arguments.device,
            threads=arguments.threads,
            watch=watch,
        ) as archive,
    ):
        result = archive.extract(arguments.output, only=arguments.only, overwrite=arguments.force)
    rate = f", {result.raw_bytes / result.seconds / 1e6:.2f} MB/s" if result.raw_bytes else ""
    console.note(
        f"{arguments.output}: {counted(len(result.files), 'file')}, "
        f"{size(result.raw_bytes)} of samples, {duration(result.seconds)}{rate}"
    )
    if console.json:
        console.emit(
            "summary", archive=arguments.archive, folder=arguments.output, **asdict(result),
            exit_code=0,
        )  # fmt: skip
    return 0
