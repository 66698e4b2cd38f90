"""Archives as the commands that decode them open them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from osoa_pl.cli.console import Console
from osoa_pl.cli.threads import using_threads
from osoa_pl.types import STREAM

if TYPE_CHECKING:
    from osoa_pl.api.archive import Archive


@contextmanager
def opened(
    arguments: argparse.Namespace, console: Console, label: str, *, keep_going: bool = False
) -> Iterator[tuple[Archive, int]]:
    """(the archive that the arguments name, jobs to decode it with), progress shown as `label`."""
    from osoa_pl.api.archive import open_archive

    with (
        using_threads(arguments.threads),
        console.progress(label) as watch,
        open_archive(
            arguments.archive, checkpoint=arguments.checkpoint, device=arguments.device,
            threads=arguments.threads, watch=watch, keep_going=keep_going,
        ) as archive,
    ):  # fmt: skip
        # a stream can be read only once
        yield archive, 1 if arguments.archive == STREAM else arguments.jobs
