"""Small frozen dataclasses that cross the borders between rooms (standard library only)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

ItemKind = Literal["image", "array", "file"]
FileCodec = Literal["raw", "xz"]

ARITHMETIC_VERSION = 1
"""Archives name it and readers refuse another; it changes with any bit of the arithmetic."""


@dataclass(frozen=True)
class Item:
    """One entry of an archive's table: what was given, and how it comes back.

    ``image``: one picture file of mode grey or RGB (or one array of a Python caller).
    ``array``: one uint8 array holding `count` pictures; an ``npz`` with k members is k
    consecutive items that share `name` and differ in `key`.
    ``file``: anything else, stored byte for byte in the archive's member `member`.
    """

    name: str
    """Relative POSIX path as given, unique but for the members of one ``npz``."""
    kind: ItemKind
    source: str = ""
    """image: png, webp, tiff, bmp, ppm; array: npy, npz, idx; file: empty."""
    channels: int = 0
    """1 (grey) or 3 (RGB); 0 for a file."""
    height: int = 0
    width: int = 0
    shape: tuple[int, ...] = ()
    """Array to restore: (n, h, w), (n, h, w, c), (h, w, c) or (h, w); empty for picture files."""
    key: str = ""
    """Member name inside an ``npz``, without ``.npy``."""
    deflated: bool = False
    """An ``npz`` member that was compressed, and is again when written."""
    before: bytes = b""
    """Verbatim PNG chunks to stand between IHDR and the first IDAT."""
    after: bytes = b""
    """Verbatim PNG chunks to stand between the last IDAT and IEND."""
    member: str = ""
    """Archive member that holds a file's bytes."""
    size: int = 0
    """A file's size in bytes."""
    codec: FileCodec = "raw"

    @property
    def count(self) -> int:
        """Number of pictures: 0 for a file, 1 for an image."""
        if self.kind == "file":
            return 0
        if self.kind == "image":
            return 1
        return prod(self.shape) // (self.height * self.width * self.channels)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the uncompressed pixels, or of the stored file."""
        if self.kind == "file":
            return self.size
        return self.count * self.height * self.width * self.channels

    @property
    def output_name(self) -> str:
        """Relative POSIX path under which the entry is written back.

        >>> Item("a/b.webp", "image", "webp", 3, 8, 8).output_name
        'a/b.webp.png'
        """
        if self.kind == "image" and not self.name.lower().endswith(".png"):
            return self.name + ".png"
        if self.kind == "array" and self.source == "idx" and self.name.lower().endswith(".gz"):
            return self.name[:-3]
        return self.name
