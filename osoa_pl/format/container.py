"""The archive container: a ZIP file with stored members, written whole or not at all.

Layout: ``mimetype`` first, ``manifest.json`` second, then the members in the order that `commit`
is given. Dates, system and permission fields are constants, so equal members give equal
bytes. Readers locate members by name. Members are never compressed by ZIP: what is in them
is coded already, and a byte range of the archive is a byte range of the member.

While an archive is written it is a folder ``NAME.partial`` of finished members, which other
processes may add to (`partial`). The price is that packing needs the archive's size once more on
the disk. An archive whose directory is lost is read by scanning for its members (`salvage`).
"""

from __future__ import annotations

from osoa_pl.format.layout import FORMAT_VERSION, MANIFEST_MEMBER, MIMETYPE, MIMETYPE_MEMBER
from osoa_pl.format.partial import PartialFolder
from osoa_pl.format.reading import ArchiveReader, require
from osoa_pl.format.writing import ArchiveWriter

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_MEMBER",
    "MIMETYPE",
    "MIMETYPE_MEMBER",
    "ArchiveReader",
    "ArchiveWriter",
    "PartialFolder",
    "require",
]
