"""The item table: exact round trip, and nothing unsafe gets through."""

from __future__ import annotations

import json
import random
import zlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osoa_pl.errors import DamagedArchiveError
from osoa_pl.format.items import array_layout, needed_version, pack, unpack
from osoa_pl.format.names import clash, given_problem, name_problem, numbered, portable_name
from osoa_pl.types import Item

ITEMS = [
    Item("a/ü b.png", "image", "png", "rgb8", 5, 7, before=b"\0\1", after=b"\2"),
    Item("x.webp", "image", "webp", "rgb8", 5, 7),
    Item("000.png", "image", "png", "grey8", 5, 7, shape=(5, 7)),
    Item("n.npz", "array", "npz", "grey8", 5, 7, shape=(2, 5, 7), key="k", deflated=True),
    Item("n.npz", "array", "npz", "rgb8", 5, 7, shape=(2, 5, 7, 3), key="l"),
    Item("t.gz", "array", "idx", "grey8", 5, 7, shape=(2, 5, 7)),
    Item("notes.txt", "file", size=0, codec="xz", mtime=1_700_000_000_123_456_789),
    Item("old.txt", "file", size=0, codec="xz", same=6, mtime=-5, given=b"old.txt"),
    Item("p.png", "image", "png", "rgba8", 5, 7, coded="mp"),
    Item("q.png", "image", "png", "rgba8", 5, 7, coded="dd", reference=9, mtime=7),
    Item("empty", "folder"),
    Item("r.png", "image", "png", "rgba8", 5, 7, coded="ii"),
    Item("s.png", "image", "png", "rgba16", 5, 7, coded="mp", transform="grey alpha:00ff"),
    Item("t.png", "image", "png", "rgba8", 5, 7, transform="key:000102:ff00ff alpha:00"),
    Item("u.png", "image", "png", "rgb8", 5, 7, transform="yuv420:01"),
    Item("v.png", "image", "png", "rgb8", 5, 7, coded="dpm", transform="yuv420:01", reference=14),
    Item("n.npy", "array", "npy", "greyalpha8", 5, 7, shape=(2, 5, 7, 2), transform="key:01:00"),
]


def table(*entries: Any) -> bytes:
    return zlib.compress("".join(json.dumps(entry) + "\n" for entry in entries).encode())


def test_round_trip() -> None:
    assert unpack(pack(ITEMS), "t") == ITEMS
    assert unpack(pack([]), "t") == []
    assert [item.output_name for item in ITEMS[:2]] == ["a/ü b.png", "x.webp.png"]
    assert ITEMS[5].output_name == "t"
    assert [item.count for item in ITEMS[:11]] == [1, 1, 1, 2, 2, 2, 0, 0, 1, 1, 0]


def test_what_only_the_third_format_has() -> None:
    assert [needed_version([item]) for item in ITEMS] == [2] * 11 + [3] * 6
    assert unpack(pack(ITEMS[:11]), "t", version=2) == ITEMS[:11]
    for item in (ITEMS[11], ITEMS[12], ITEMS[13], ITEMS[16]):
        with pytest.raises(DamagedArchiveError, match="has what format 2 has not"):
            unpack(pack([item]), "t", version=2)


@pytest.mark.parametrize(
    ("mode", "transform"),
    [
        ("rgba8", "other"), ("rgba8", "grey "), ("rgba8", " grey"), ("rgba8", "grey grey"),
        ("rgba8", "alpha:ff grey"), ("rgba8", "grey:00"), ("grey8", "grey"), ("palette8", "grey"),
        ("rgba8", "key:000000"), ("rgba8", "key:0000:0000"), ("rgba8", "key:00000:000000"),
        ("rgba8", "key:0000001:000000"), ("rgba8", "key:00000G:000000"), ("rgb8", "alpha:ff"),
        ("rgba8", "key:00000A:000000"), ("rgba8", "key:00:00"), ("greyalpha8", "key:000000:000000"),
        ("rgba16", "key:000000:000000"), ("rgb8", "key:000000:000000"), ("rgba8", "alpha"),
        ("rgba8", "alpha:ffff"), ("rgba16", "alpha:ff"), ("rgba8", "yuv420:00"),
        ("rgb8", "yuv420"), ("rgb8", "yuv420:04"), ("rgb8", "yuv420:0000"), ("grey8", "yuv420:00"),
        ("rgb16", "yuv420:00"), ("rgb8", "grey yuv420:00"), ("rgba8", "alpha:ff key:00:00"),
        ("rgb8", "yuv420:00 yuv420:00"),
        ("rgb8", "yuv420:00 jfif"), ("rgb8", "jfif yuv420:00"), ("rgb8", "jfif:00"),
        ("rgb16", "jfif"),        ("grey8", "jfif"), ("rgba8", "jfif"), ("rgb8", "grey jfif"),
        ("rgb8", "grey\nalpha:ff"), ("rgb8", "GREY"),
    ],
)  # fmt: skip
def test_transforms_that_are_none(mode: str, transform: str) -> None:
    item = {"name": "a.png", **GREY, "mode": mode, "transform": transform}
    with pytest.raises(DamagedArchiveError, match="transform"):
        unpack(table(item), "t")


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "rgba8", "coded": "i"}, {"mode": "rgba8", "coded": "ip"}, {"coded": "i"},
        {"mode": "rgb8", "coded": "iii", "transform": "yuv420:00"}, {"transform": 5},
        {"mode": "rgb8", "coded": "m", "transform": "yuv420:00"}, {"mode": "rgba8", "coded": "iii"},
        {"mode": "rgba8", "coded": "mp", "transform": "alpha:ff"},
        {"mode": "rgb8", "transform": "grey", "same": 0},
    ],
)  # fmt: skip
def test_letters_that_the_planes_have_not(change: dict[str, Any]) -> None:
    with pytest.raises(DamagedArchiveError, match="coded|found int"):
        unpack(table({"name": "a.png", **GREY, **change}), "t")


def test_references_are_to_pictures_of_the_same_transform() -> None:
    first = Item("a.png", "image", "png", "rgb8", 5, 7, transform="grey")
    second = Item("b.png", "image", "png", "rgb8", 5, 7, coded="d", reference=0)
    with pytest.raises(DamagedArchiveError, match="no such reference"):
        unpack(pack([first, second]), "t")
    assert unpack(pack([first, replace(second, transform="grey")]), "t")


GREY: dict[str, Any] = {"kind": "image", "source": "png", "mode": "grey8", "height": 2, "width": 2}
BAD_NAMES = (
    *("", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "C:a", "c:/a", "a\0b", "a\nb"),
    *("con", "sub/NUL.txt", "Lpt1", "com¹.x", "a.", "a ", "b./c", "x" * 300, "\x7f", "aux .h"),
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unsafe_names(name: str) -> None:
    with pytest.raises(DamagedArchiveError, match="unsafe name"):
        unpack(table({"name": name, **GREY}), "t")
    assert name_problem(portable_name(name)) is None


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
    items = [Item("a", "image", "bmp", "grey8", 2, 2), Item("a.png", "image", "png", "grey8", 2, 2)]
    with pytest.raises(DamagedArchiveError, match="clash"):
        unpack(pack(items), "t")


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "cmyk8"},
        {"mode": 1},
        {"channels": 1},
        {"coded": "x"},
        {"coded": "mm"},
        {"coded": "d"},
        {"reference": 0},
        {"same": 0},
        {"same": -2},
        {"mtime": 1 << 80},
        {"given": "Li4vYS5wbmc="},
        {"given": "Yi9jLnBuZw=="},
        {"codec": "xz"},
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
    with pytest.raises(DamagedArchiveError, match="t: (entry 0|'a.png')"):
        unpack(table({"name": "a.png", **GREY, **change}), "t")


def test_sound_alone_but_not_together() -> None:
    grey = Item("a.png", "image", "png", "grey8", 100, 100)
    with pytest.raises(DamagedArchiveError, match="10000 pixels"):
        unpack(pack([grey]), "t", max_pixels=9999)
    member = Item("n.npz", "array", "npz", "grey8", 5, 7, shape=(2, 5, 7), key="k")
    with pytest.raises(DamagedArchiveError, match="two arrays"):
        unpack(pack([member, member]), "t")
    with pytest.raises(DamagedArchiveError, match="clash"):
        unpack(pack([member, grey, ITEMS[4]]), "t")
    for second in (
        Item("b.png", "image", "png", "rgb8", 100, 100, same=0),
        Item("b.png", "image", "png", "grey8", 100, 99, same=0),
        Item("b", "file", same=0),
        Item("b.png", "image", "png", "grey8", 100, 100, same=1),
    ):
        with pytest.raises(DamagedArchiveError, match="no copy"):
            unpack(pack([grey, second]), "t")
    copy = Item("b.png", "image", "png", "grey8", 100, 100, same=0)
    for third in (
        Item("c.png", "image", "png", "grey8", 100, 100, coded="d", reference=1),
        Item("c.png", "image", "png", "grey8", 100, 100, coded="d", reference=2),
        Item("c.png", "image", "png", "rgb8", 100, 100, coded="d", reference=0),
    ):
        with pytest.raises(DamagedArchiveError, match="no such reference"):
            unpack(pack([grey, copy, third]), "t")
    large = [
        Item(f"{n}.png", "image", "png", "rgb8", 4096, 4096, coded="d" if n else "",
             reference=0 if n else -1)
        for n in range(3)
    ]  # fmt: skip
    with pytest.raises(DamagedArchiveError, match="too far back"):
        unpack(pack(large), "t")


def test_names_of_their_own() -> None:
    for own, name in (
        (b"a\\b", "a_b"),
        (b"A.png", "A~2.png"),
        (b"x\xff", "x\ufffd"),
        (b"CON", "_CON"),
    ):
        assert given_problem(own, name) is None, own
    for own, name in (
        *(
            (b"../a", "a"),
            (b"/a", "a"),
            (b"a/../b", "b"),
            (b"x/a", "a"),
            (b"a\0", "a_"),
        ),
        *((b"", "a"), (b"a/b", "a_b"), (b"y" * 300, "y" * 300), (b"./a", "a")),
    ):
        assert given_problem(own, name) is not None, own


@pytest.mark.parametrize(
    "name", ["con." + "x" * 251, "\udcff" * 100, "x" * 255, "é" * 125 + ".tiff", "a." + "b" * 253]
)
def test_long_names_stay_sound(name: str) -> None:
    portable = portable_name(name)
    assert name_problem(portable) is None
    assert name_problem(numbered(portable, 2)) is None
    assert numbered(portable, 2) != numbered(portable, 3) != portable
    assert given_problem(name.encode("utf-8", "surrogateescape"), numbered(portable, 2)) is None


def test_the_first_format() -> None:
    entries = [
        {"name": "a.png", "kind": "image", "source": "png", "channels": 3, "height": 2, "width": 3},
        {"name": "b", "kind": "file", "member": "files/b", "size": 4},
    ]
    data = zlib.compress(json.dumps(entries).encode())
    expected = [Item("a.png", "image", "png", "rgb8", 2, 3), Item("b", "file", size=4)]
    assert unpack(data, "t", version=1) == expected
    entries[0]["channels"] = 2
    with pytest.raises(DamagedArchiveError, match="entry 0"):
        unpack(zlib.compress(json.dumps(entries).encode()), "t", version=1)


def test_bytes_that_are_no_table() -> None:
    data = pack(ITEMS)
    bad = [b"", data[:-1], data + b"x", zlib.compress(b"{}"), zlib.compress(b"[1]\n")]
    bad += [zlib.compress(b"{}\n" * 3)]
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
    for shape in ((), (3,), (4, 4), (0, 8, 9), (1, 8, 9, 5), (1, 1, 8, 9, 3), (1, 0, 8)):
        assert array_layout(shape) is None
