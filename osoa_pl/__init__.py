"""Lossless compression of image collections with models that adapt while they code.

>>> import osoa_pl
>>> osoa_pl.compress("tiles/", "tiles.osoa")            # doctest: +SKIP
>>> osoa_pl.decompress("tiles.osoa", "restored/")       # doctest: +SKIP
>>> with osoa_pl.open_archive("tiles.osoa") as archive: # doctest: +SKIP
...     first = archive[0]

Importing the package loads neither torch nor numba; the names below are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from osoa_pl.errors import OsoaError

if TYPE_CHECKING:
    from osoa_pl.api.archive import Archive, decompress, open_archive
    from osoa_pl.api.compress import CompressResult, compress
    from osoa_pl.api.facts import ArchiveInfo, DecompressResult

__version__ = "0.1.0"

_LAZY = {
    "Archive": "osoa_pl.api.archive",
    "ArchiveInfo": "osoa_pl.api.facts",
    "DecompressResult": "osoa_pl.api.facts",
    "decompress": "osoa_pl.api.archive",
    "open_archive": "osoa_pl.api.archive",
    "CompressResult": "osoa_pl.api.compress",
    "compress": "osoa_pl.api.compress",
}

__all__ = [
    "Archive",
    "ArchiveInfo",
    "CompressResult",
    "DecompressResult",
    "OsoaError",
    "__version__",
    "compress",
    "decompress",
    "open_archive",
]


def __getattr__(name: str) -> Any:
    try:
        module = import_module(_LAZY[name])
    except KeyError:
        raise AttributeError(f"module 'osoa_pl' has no attribute {name!r}") from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
