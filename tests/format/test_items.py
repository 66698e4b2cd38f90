"""The item table: exact round trip, and nothing unsafe gets through."""

from __future__ import annotations

import json
import random
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osoa_pl.errors import DamagedArchiveError
from osoa_pl.format.items import array_layout, pack, unpack
from osoa_pl.format.names import clash, name_problem, portable_name
from osoa_pl.types import Item

ITEMS = [
    Item("a/ü b.png", "image", "png", 3, 5, 7, before=b"\0\1", after=b"\2"),
    Item("x.webp", "image", "webp", 3, 5, 7),
    Item("000.png", "image", "png", 1, 5, 7, shape=(5, 7)),
    Item("n.npz", "array", "npz", 1, 5, 7, shape=(2, 5, 7), key="k", deflated=True),
    Item("n.npz", "array", "npz", 3, 5, 7, shape=(2, 5, 7, 3), key="l"),
    Item("t.gz", "array", "idx", 1, 5, 7, shape=(2, 5, 7)),
    Item("notes.txt", "file", member="files/notes.txt", size=0, codec="xz"),
]


def table(*entries: Any) -> bytes:
    return zlib.compress(json.dumps(list(entries)).encode())


def test_round_trip() -> None:
    assert unpack(pack(ITEMS), "t") == ITEMS
    assert unpack(pack([]), "t") == []
    assert [item.output_name for item in ITEMS[:2]] == ["a/ü b.png", "x.webp.png"]
    assert ITEMS[5].output_name == "t"
    assert [item.count for item in ITEMS] == [1, 1, 1, 2, 2, 2, 0]


GREY: dict[str, Any] = {"kind": "image", "source": "png", "channels": 1, "height": 2, "width": 2}
BAD_NAMES = (
    *("", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "C:a", "c:/a", "a\0b", "a\nb"),
    *("con", "sub/NUL.txt", "Lpt1", "com¹.x", "a.", "a ", "b./c", "x" * 300, "\x7f", "aux .h"),
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unsafe_names(name: str) -> None:
    with pytest.raises(DamagedArchiveError, match="unsafe name"):
        unpack(table({"name": name, **GREY}), "t")
    assert name_problem(portable_name(name)) is None or len(name) > 255


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a.png"),
        ("a.png", "A.PNG"),
        ("é.png", "e\u0301.png"),
        ("a.png", "a.png/b.png"),
        ("d/E.png/b.png", "D/e.png"),
        ("straße", "STRASSE"),
    ],
)
def test_clashing_names(names: tuple[str, str]) -> None:
    with pytest.raises(DamagedArchiveError, match="clash"):
        unpack(table(*({"name": name, **GREY} for name in names)), "t")
    assert clash(names) is not None


def test_output_names_may_clash_too() -> None:
    items = [Item("a", "image", "bmp", 1, 2, 2), Item("a.png", "image", "png", 1, 2, 2)]
    with pytest.raises(DamagedArchiveError, match="clash"):
        unpack(pack(items), "t")


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 2},
        {"channels": True},
        {"height": 0},
        {"height": -1},
        {"width": 1 << 40},
        {"width": 2.0},
        {"width": "2"},
        {"kind": "directory"},
        {"kind": 1},
        {"source": "jpeg"},
        {"shape": [3, 2]},
        {"shape": "22"},
        {"key": "k"},
        {"before": "no base64!"},
        {"before": 3},
        {"member": "x"},
        {"extra": 1},
        {"name": None},
        {"kind": "file"},
        {"kind": "array"},
        {"kind": "array", "source": "npy", "shape": [1, 2, 3]},
        {"kind": "array", "source": "npy", "shape": [1 << 62, 2, 2]},
        {"kind": "array", "source": "npz", "shape": [1, 2, 2], "key": "../k"},
    ],
)
def test_bad_entries(change: dict[str, Any]) -> None:
    with pytest.raises(DamagedArchiveError, match="t: entry 0"):
        unpack(table({"name": "a.png", **GREY, **change}), "t")


def test_sound_alone_but_not_together() -> None:
    grey = Item("a.png", "image", "png", 1, 100, 100)
    with pytest.raises(DamagedArchiveError, match="10000 pixels"):
        unpack(pack([grey]), "t", max_pixels=9999)
    member = Item("n.npz", "array", "npz", 1, 5, 7, shape=(2, 5, 7), key="k")
    with pytest.raises(DamagedArchiveError, match="two arrays"):
        unpack(pack([member, member]), "t")
    with pytest.raises(DamagedArchiveError, match="clash"):
        unpack(pack([member, grey, ITEMS[4]]), "t")
    first, second = Item("a", "file", member="m"), Item("b", "file", member="m")
    with pytest.raises(DamagedArchiveError, match="share"):
        unpack(pack([first, second]), "t")


def test_bytes_that_are_no_table() -> None:
    data = pack(ITEMS)
    bad = [b"", data[:-1], data + b"x", zlib.compress(b"{}"), zlib.compress(b"[1]")]
    bad += [zlib.compress(b"[" * 10**5), zlib.compress(b"\xff"), zlib.compress(b"[NaN]")]
    for text in bad:
        with pytest.raises(DamagedArchiveError):
            unpack(text, "t")
    generator = random.Random(3)
    plain = zlib.decompress(data)
    for _ in range(500):
        damaged = bytearray(plain)
        damaged[generator.randrange(len(plain))] ^= 1 << generator.randrange(8)
        with suppress(DamagedArchiveError):
            unpack(zlib.compress(bytes(damaged), 1), "t")


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(max_size=40))
def test_portable_names_are_sound(name: str) -> None:
    portable = portable_name(name)
    assert name_problem(portable) is None
    assert portable_name(portable) == portable


def test_layouts() -> None:
    assert array_layout((10, 8, 9)) == (1, 8, 9)
    assert array_layout((10, 8, 9, 3)) == (3, 8, 9)
    assert array_layout((8, 9, 1)) == (1, 8, 9)
    for shape in ((), (3,), (4, 4), (0, 8, 9), (1, 8, 9, 4), (1, 1, 8, 9, 3), (1, 0, 8)):
        assert array_layout(shape) is None
