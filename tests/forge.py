"""Forging archives: members taken apart, changed, and put together with right checksums."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

Members = dict[str, bytes]


def take_apart(data: bytes) -> Members:
    """Name and bytes of each member, in order."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def join(members: Members) -> bytes:
    """A ZIP file of stored members, as the writer would lay it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def manifest_of(members: Members) -> Any:
    """The manifest, to be changed."""
    return json.loads(members["manifest.json"])


def table_of(members: Members) -> list[Any]:
    """The entries of the item table, to be changed."""
    return [json.loads(line) for line in zlib.decompress(members["items.jsonl.z"]).splitlines()]


def with_manifest(members: Members, manifest: Any) -> Members:
    """`members` with another manifest."""
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def with_table(members: Members, entries: Iterable[Any]) -> Members:
    """`members` with another table."""
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    return {**members, "items.jsonl.z": zlib.compress(text.encode())}


def changed(
    members: Members,
    *,
    manifest: Callable[[Any], Any] | None = None,
    table: Callable[[list[Any]], Any] | None = None,
) -> Members:
    """`members` with manifest and table changed in place by these."""
    if manifest is not None:
        forged = manifest_of(members)
        manifest(forged)
        members = with_manifest(members, forged)
    if table is not None:
        entries = table_of(members)
        table(entries)
        members = with_table(members, entries)
    return members
