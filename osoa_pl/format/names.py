"""Names that an archive may carry: the same rule for the writer, the reader and every system.

A name is a relative POSIX path that cannot leave the output folder, name a device or a drive,
or clobber another name, on any platform: an archive that opens somewhere opens everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise

MAX_NAME_BYTES = 4096
MAX_PART_BYTES = 255

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")
"""Unicode's category Cc, which will not grow."""
_DRIVE = re.compile(r"[A-Za-z]:")


def fold(name: str) -> str:
    """The form in which names that some file system takes for the same are equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def name_problem(name: str) -> str | None:
    """Why `name` may not stand in an archive; None where it may."""
    if not name:
        return "empty"
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        return "not Unicode text"
    if len(encoded) > MAX_NAME_BYTES:
        return "too long"
    if name.startswith("/"):
        return "an absolute path"
    if "\\" in name:
        return "a backslash"
    if _DRIVE.match(name):
        return "a drive letter"
    if _CONTROL.search(name):
        return "a control character"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"the path part {part!r}"
        if len(part.encode("utf-8")) > MAX_PART_BYTES:
            return "a part that is too long"
        if part != part.rstrip(" ."):
            return "a part that ends in a space or full stop"
        if _RESERVED.fullmatch(part.split(".")[0].rstrip(" ")):
            return f"the device name {part!r}"
    return None


def clash(names: Iterable[str], folders: Iterable[str] = ()) -> tuple[str, str] | None:
    """Two of `names` that cannot both be below one folder, or None.

    Equal after `fold`, or a folder of another; `folders`: those of the names that are folders, and
    may hold others.
    """
    whole = set(folders)
    # With the separator below all other characters, what lies in a folder comes right behind it:
    # neighbours tell, and deep names cost no more memory than they have characters.
    listed = sorted((fold(name).replace("/", "\0"), at, name) for at, name in enumerate(names))
    for (key, _, name), (other_key, _, other) in pairwise(listed):
        inside = other_key.startswith(key + "\0") and name not in whole
        if other_key == key or inside:
            return name, other
    return None


def given_problem(given: bytes, name: str) -> str | None:
    """Why `given` may not be the own name of what the archive calls `name`; None where it may.

    It lies in as many folders and cannot lead anywhere else.
    """
    text = given.decode("utf-8", "surrogateescape")
    parts = text.split("/")
    if "\0" in text or any(part in ("", ".", "..") for part in parts):
        return "a name that leads elsewhere"
    longest = max(len(part.encode("utf-8", "surrogateescape")) for part in parts)
    if len(given) > MAX_NAME_BYTES or longest > MAX_PART_BYTES:
        return "a name that is too long"
    if len(parts) != name.count("/") + 1:
        return "a name in other folders"
    return None


def numbered(part: str, attempt: int) -> str:
    """The last part of a name with a number before its suffix, shortened where it grows too long.

    >>> numbered("a.png", 2)
    'a~2.png'
    """
    stem, dot, suffix = part.rpartition(".")
    if not stem:
        stem, dot, suffix = part, "", ""
    return _shortened(stem, f"~{attempt}{dot}{suffix}")


def _shortened(stem: str, end: str) -> str:
    room = MAX_PART_BYTES - len(end.encode("utf-8"))
    if room < 1:  # a suffix that is nearly all there is
        stem, end, room = stem + end, "", MAX_PART_BYTES
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore").rstrip(" .") + end


def parents(name: str) -> list[str]:
    """All folders that `name` lies in, outermost first.

    >>> parents("a/b/c.png")
    ['a', 'a/b']
    """
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def portable_name(name: str) -> str:
    """`name` with what no archive may carry replaced by ``_``; unchanged where it is sound."""
    if name_problem(name) is None:
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = _CONTROL.sub("_", text).replace("\\", "_")
    parts = [_portable_part(part) for part in text.split("/") if part not in ("", ".", "..")]
    sound = "/".join(parts) or "_"
    return (
        _DRIVE.sub(lambda drive: drive.group()[0] + "_", sound, count=1)
        if _DRIVE.match(sound)
        else sound
    )


def _portable_part(part: str) -> str:
    kept = part.rstrip(" .")
    part = kept + "_" * (len(part) - len(kept))
    if _RESERVED.fullmatch(part.split(".")[0].rstrip(" ")):
        part = "_" + part
    if len(part.encode("utf-8")) > MAX_PART_BYTES:
        stem, dot, suffix = part.rpartition(".")
        part = _shortened(stem, dot + suffix) if stem else _shortened(part, "")
    return part
