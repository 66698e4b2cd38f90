"""Restoring an archive into a tar instead of a folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from osoa_pl.api.archive import Archive
from osoa_pl.api.facts import DecompressResult
from osoa_pl.data.tars import TarOutput


def extract_to_tar(
    archive: Archive,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    overwrite: bool = False,
    **options: Any,
) -> DecompressResult:
    """Write the entries into the tar `target` (path, URL, ``-``, binary file), each as it is done.

    One file at a time lies on the disk meanwhile. Options and errors as of `Archive.extract`.
    """
    with (
        TarOutput(target, overwrite=overwrite) as tar,
        tempfile.TemporaryDirectory(prefix="osoa-") as place,
    ):

        def deliver(name: str, path: Path, mtime: int) -> None:
            if path.is_dir():
                tar.add_folder(name, mtime)
            else:
                tar.add_file(name, path, mtime)
                path.unlink()

        return archive.extract(place, deliver=deliver, **options)
