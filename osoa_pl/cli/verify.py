"""`osoa verify`: decode everything, keep nothing."""

from __future__ import annotations

import argparse
import time

from osoa_pl.cli.arguments import add_checkpoint, add_jobs, add_json, add_machine
from osoa_pl.cli.console import Console, counted, duration, size
from osoa_pl.cli.opening import opened

SUMMARY = "decode an archive and compare all checksums"
USAGE = "osoa verify ARCHIVE [OPTIONS]"
DESCRIPTION = """\
Decode an archive without writing anything and compare all checksums: pixels,
adapted weights and files stored byte for byte.

examples:
  osoa verify photos.osoa
  osoa verify photos.osoa --json
  osoa verify photos.osoa --checkpoint mine.safetensors

Exit code 0 says that this machine restores every pixel.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("archive", metavar="ARCHIVE", help=argparse.SUPPRESS)
    add_json(parser.add_argument_group("output"))
    add_checkpoint(parser.add_argument_group("model"))
    machine = parser.add_argument_group("machine")
    add_jobs(machine)
    add_machine(machine)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Verify; 0."""
    began = time.monotonic()
    with opened(arguments, console, "verifying") as (archive, jobs):
        images = archive.verify(jobs=jobs)
        info = archive.info
    seconds = time.monotonic() - began
    files = f" and {counted(info.files, 'file')}" if info.files else ""
    console.note(
        f"{arguments.archive}: sound; {counted(images, 'image')}{files}, "
        f"{size(info.raw_bytes)} of samples, {duration(seconds)}"
    )
    if console.json:
        console.emit(
            "summary", archive=arguments.archive, images=images, files=info.files,
            raw_bytes=info.raw_bytes, seconds=seconds, exit_code=0,
        )  # fmt: skip
    return 0
