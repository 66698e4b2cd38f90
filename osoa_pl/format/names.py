"""Names that an archive may carry: the same rule for the writer, the reader and every system.

A name is a relative POSIX path that cannot leave the output folder, name a device or a drive,
or clobber another name, on any platform: an archive that opens somewhere opens everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MAX_NAME_BYTES = 4096
MAX_PART_BYTES = 255

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
_NUMBER = re.compile(r"(~[0-9]+)+(?=(\.[^.]*)?$)")
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
    if any(unicodedata.category(character) == "Cc" for character in name):
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
    seen: dict[str, str] = {}
    whole = set(folders)
    inner: dict[str, str] = {fold(name): name for name in whole}
    if len(inner) != len(whole):
        listed = sorted(whole, key=fold)
        return next((a, b) for a, b in zip(listed, listed[1:], strict=False) if fold(a) == fold(b))
    found: set[str] = set()
    for name in names:
        if name in whole:
            if name in found:
                return name, name
            found.add(name)
            for folder in parents(fold(name)):
                if folder in seen:
                    return seen[folder], name
                inner.setdefault(folder, name)
            if fold(name) in seen:
                return seen[fold(name)], name
            continue
        folded = fold(name)
        if folded in seen:
            return seen[folded], name
        if folded in inner:
            return inner[folded], name
        for folder in parents(folded):
            if folder in seen:
                return seen[folder], name
            inner.setdefault(folder, name)
        seen[folded] = name
    return None


def given_problem(given: bytes, name: str) -> str | None:
    """Why `given` may not be a name that was changed to `name`; None where it may.

    It must become `name` by `portable_name`, but for the numbers that keep names apart: so it lies
    in as many folders and cannot lead anywhere else.
    """
    text = given.decode("utf-8", "surrogateescape")
    parts = text.split("/")
    if "\0" in text or any(part in ("", ".", "..") for part in parts):
        return "a name that leads elsewhere"
    longest = max(len(part.encode("utf-8", "surrogateescape")) for part in parts)
    if len(given) > MAX_NAME_BYTES or longest > MAX_PART_BYTES:
        return "a name that is too long"
    plain = "/".join(_NUMBER.sub("", part) for part in portable_name(text).split("/"))
    if plain != "/".join(_NUMBER.sub("", part) for part in name.split("/")):
        return "a name that is not its own"
    return None


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
    text = "".join("_" if unicodedata.category(c) == "Cc" or c == "\\" else c for c in text)
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
    return part
