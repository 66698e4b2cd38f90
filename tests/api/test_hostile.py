"""Forged archives with right checksums: refused before harm, in little time and memory."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import lzma
import os
import pickle
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import build_collection, files_below, measured
from forge import Members, changed, join, manifest_of, table_of, take_apart, with_table
from safetensors.numpy import save

import osoa_pl
from osoa_pl.api import decoding
from osoa_pl.errors import DamagedArchiveError, OsoaError
from osoa_pl.format import segment as segment_format
from osoa_pl.online.plan import BatchSettings

SMALL = BatchSettings(batch_pixels=512, first_pixels=128, segment_batches=1, streams=2)
SECONDS, MEMORY = 10.0, 256 << 20
HUGE = 10**400


@pytest.fixture(scope="module")
def members(tmp_path_factory, checkpoint_path) -> Members:
    """Several parts of segments and blocks, copies, packed files; the checkpoint within."""
    root = tmp_path_factory.mktemp("hostile")
    osoa_pl.compress(
        build_collection(root / "in"), root / "a.osoa", checkpoint=checkpoint_path, settings=SMALL,
        adaptation="none", embed_checkpoint=True, shard=6,
    )  # fmt: skip
    return take_apart((root / "a.osoa").read_bytes())


@contextmanager
def bounded() -> Iterator[None]:
    """What happens within takes little time and memory."""
    with measured() as cost:
        yield
    assert cost.seconds < SECONDS and cost.memory < MEMORY, cost


def refusal(members: Members, place: Path, *, keep_going: bool = False) -> str:
    """Restore below `place`; the error, or nothing. Nothing may be written outside the folder."""
    data = members if isinstance(members, bytes) else join(members)
    jail = place / "jail"
    jail.mkdir(exist_ok=True)
    (jail / "other").write_bytes(b"precious")
    text = ""
    with bounded():
        try:
            result = osoa_pl.decompress(
                io.BytesIO(data), jail / "out", keep_going=keep_going, overwrite=True
            )
            text = "; ".join((*result.problems, *result.lost))
        except OsoaError as error:
            assert error.exit_code in (4, 5, 6), error
            assert "\n" not in str(error)
            text = str(error)
            assert text
    assert sorted(p.name for p in place.iterdir()) == ["jail"]
    assert sorted(p.name for p in jail.iterdir() if p.name != "out") == ["other"]
    assert (jail / "other").read_bytes() == b"precious"
    assert not any(path.is_symlink() for path in jail.rglob("*"))
    return text


def entry(entries: list[Any], name: str) -> Any:
    """The entry of this name."""
    return next(e for e in entries if e["name"] == name)


def test_what_is_forged_into_itself_is_sound(members, tmp_path):
    again = changed(members, manifest=lambda m: None, table=lambda t: None)
    assert refusal(again, tmp_path) == ""


NAMES = (
    "../other", "/tmp/other", "a/../../other", "C:other", "C:/other", "..\\other", "a\\b", "con",
    "a/NUL.png", "LPT1 .x/a", "a\0b", "a\nb", "a\x1bb", "a//b", "a/./b", ".", "..", "dot.",
    "space ", "", "x" * 256, "a/" * 2100 + "b", "\ud800", "com¹.png", "aux.tar.gz",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("victim", ["notes.txt", "tile0.png", "stack.npy", "deep er"])
def test_names_that_lead_elsewhere(members, name, victim, tmp_path):
    forged = changed(members, table=lambda t: entry(t, victim).update(name=name))
    assert "unsafe name" in refusal(forged, tmp_path)
    assert not (tmp_path / "jail" / "out").exists()


@pytest.mark.parametrize(
    "given",
    [
        b"../other", b"/other", b"..", b".", b"a/b", b"a\0b", b"notes.txt/", b"//",
        b"notes.txt\0", b"n" * 300, b"../notes.txt", b"./notes.txt", b"\xff" * 5000,
        b"C:/notes.txt",
    ],
)  # fmt: skip
def test_own_names_that_are_others(members, given, tmp_path):
    coded = base64.b64encode(given).decode()
    forged = changed(members, table=lambda t: entry(t, "notes.txt").update(given=coded))
    assert "a name " in refusal(forged, tmp_path)


@pytest.mark.parametrize("name, given", [("..~1.gz", b"...gz"), ("~1.gz", b".gz")])
def test_own_names_that_lead_elsewhere_without_their_ending(members, name, given, tmp_path):
    def forge(entries: list[Any]) -> None:
        changes = {"name": name, "source": "idx", "given": base64.b64encode(given).decode()}
        entry(entries, "stack.npy").update(changes)

    assert refusal(changed(members, table=forge), tmp_path) == ""
    assert (tmp_path / "jail" / "out" / name[:-3]).is_file()


@pytest.mark.parametrize(
    "first, second",
    [
        ("A.png", "a.png"), ("ß.png", "ss.png"), ("e\u0301", "é"), ("x", "x/y"), ("X/y", "x"),
        ("ﬀ", "ff"), ("same", "same"),
    ],
)  # fmt: skip
def test_names_that_fall_together(members, first, second, tmp_path):
    def forge(entries: list[Any]) -> None:
        entry(entries, "notes.txt").update(name=first)
        entry(entries, "more.txt").update(name=second)

    forged = changed(members, table=forge)
    assert "clash" in refusal(forged, tmp_path)


def test_folders_named_like_files(members, tmp_path):
    for name in ("notes.txt", "NOTES.txt", "notes.txt/x", "tile0.png"):
        forged = changed(
            members, table=lambda t, name=name: t.append({"kind": "folder", "name": name})
        )
        assert "clash" in refusal(forged, tmp_path)
    content = {"size": 5}, {"mode": "rgb8"}, {"same": 0}, {"coded": "p"}, {"shape": [1, 2]}
    for more in content:
        new = {"kind": "folder", "name": "new", **more}
        forged = changed(members, table=lambda t, new=new: t.append(new))
        assert "folder with content" in refusal(forged, tmp_path)


@pytest.mark.parametrize(
    "victim, same",
    [
        ("twin.png", -2), ("twin.png", 1 << 70), ("twin.png", 10_000), ("twin.png", "self"),
        ("twin.png", "wide ü.png"), ("twin.png", "deep er"), ("twin.png", "notes.txt"),
        ("twin.png", "stack.npy"), ("twin.png", "palette.png"), ("twin.png", HUGE),
        ("twin.png", 1.0), ("twin.png", True), ("notes.txt", "more.txt"),
        ("notes.txt", "tile0.png"),
        ("tile1.png", "twin.png"), ("tile0.png", "tile1.png"), ("stack.npy", "stack.npy"),
    ],
)  # fmt: skip
def test_copies_of_what_they_cannot_be(members, victim, same, tmp_path):
    def forge(entries: list[Any]) -> None:
        names = [e["name"] for e in entries]
        target = names.index(victim if same == "self" else same) if type(same) is str else same
        entry(entries, victim)["same"] = target

    assert refusal(changed(members, table=forge), tmp_path)


def test_copies_of_copies(members, tmp_path):
    def forge(entries: list[Any]) -> None:
        twin = entry(entries, "twin.png")
        entries.append({**twin, "name": "z.png", "same": entries.index(twin)})

    assert "no copy" in refusal(changed(members, table=forge), tmp_path)


@pytest.mark.parametrize("reference", [-2, 1 << 70, HUGE, 0, 1, 2, 3, 5, 6, 8, 13, 1.0, None, "4"])
def test_references_to_what_is_none(members, reference, tmp_path):
    forged = changed(members, table=lambda t: entry(t, "scan1.bmp").update(reference=reference))
    assert refusal(forged, tmp_path)


def test_references_across_parts(members, tmp_path):
    number = entry(table_of(members), "scan1.bmp")["reference"]

    def forge(manifest: Any) -> None:
        first, second = manifest["parts"][:2]
        second["pictures"] += first["pictures"] - number - 1
        first["pictures"] = number + 1
        second["planes"] = first["planes"] + second["planes"]
        first["planes"] = []

    assert refusal(changed(members, manifest=forge), tmp_path)


@pytest.mark.parametrize("coded", ["x", "mm", "ppp", "d", "m", "md", "P", "mpd", "\0", 5, None])
@pytest.mark.parametrize(
    "victim", ["tile0.png", "wide ü.png", "stack.npy", "notes.txt", "scan0.bmp"]
)
def test_letters_that_are_wrong(members, coded, victim, tmp_path):
    before = entry(table_of(members), victim).get("coded", "m")
    if coded == before:
        return
    forged = changed(members, table=lambda t: entry(t, victim).update(coded=coded))
    assert refusal(forged, tmp_path)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "transform",
    ["grey", "yuv420:00", "alpha:ff", "key:000000:000000", "yuv420:ff", "key:ffffffff:00", "x", 5],
)
@pytest.mark.parametrize("victim", ["tile0.png", "stack.npy", "notes.txt", "scan0.bmp"])
def test_transforms_that_were_not(members, victim, transform, version, tmp_path):
    forged = changed(
        members, manifest=lambda m: m.update(format=version),
        table=lambda t: entry(t, victim).update(transform=transform),
    )  # fmt: skip
    assert refusal(forged, tmp_path)


@pytest.mark.parametrize("size", [-1, 0, 559, 561, 1 << 20, (1 << 20) + 1, 1 << 40, 1 << 60, HUGE])
def test_files_that_no_block_holds(members, size, tmp_path):
    assert entry(table_of(members), "notes.txt")["size"] == 560
    forged = changed(members, table=lambda t: entry(t, "notes.txt").update(size=size))
    assert refusal(forged, tmp_path)


def bomb(size: int) -> bytes:
    """An xz stream of `size` zeros."""
    packer = lzma.LZMACompressor(lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, preset=0)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join((*parts, packer.flush()))


def test_blocks_and_files_that_explode(members, tmp_path):
    large = bomb(512 << 20)
    for name in ("packed/0000", "planes/0000/0000"):
        forged = {**members, name: large}

        def tell(manifest: Any, raw: int = 0, name: str = name) -> None:
            blocks = manifest["packed"] if name[1] == "a" else manifest["parts"][0]["planes"]
            blocks[0] = [raw or max(blocks[0][0], len(large)), len(large)]

        for raw in (0, 512 << 20, (1 << 30) + 1, 1 << 62):
            told = changed(forged, manifest=lambda m, raw=raw, tell=tell: tell(m, raw))
            assert refusal(told, tmp_path)
    assert "more than" in refusal({**members, "xz/long.txt.xz": large}, tmp_path)
    junk = {**members, "xz/long.txt.xz": members["xz/long.txt.xz"] + b"more"}
    assert "data after" in refusal(junk, tmp_path)


def test_a_small_block_that_explodes(members, tmp_path):
    """The manifest tells of the right sizes; the stream goes on behind them."""
    sizes = manifest_of(members)["packed"][0]
    large = bomb(64 << 20)
    forged = changed(
        {**members, "packed/0000": large},
        manifest=lambda m: m.update(packed=[[sizes[0], sizes[0] - 1]]),
    )
    assert "bytes, expected" in refusal(forged, tmp_path)


def tables(count: int) -> dict[str, bytes]:
    """Tables that are small and claim to be much."""

    def packed(text: bytes, repeat: int) -> bytes:
        packer = zlib.compressobj(9)
        parts = [packer.compress(text) for _ in range(repeat)]
        return b"".join((*parts, packer.flush()))

    one = b'{"kind":"folder","name":"a"}\n'
    image = b'{"height":1,"kind":"image","mode":"grey8","name":"a","source":"png","width":1}\n'
    array = b'{"key":"k","kind":"array","mode":"grey8","name":"a","source":"npz"}\n'
    deep = b"".join(
        b'{"kind":"file","name":"%d/%s"}\n' % (number, b"a/" * 2000 + b"x") for number in range(100)
    )
    return {
        "one entry again and again": packed(one * 10_000, count // 10_000),
        "pictures": packed(image * 10_000, count // 10_000),
        "arrays": packed(array * 10_000, count // 10_000),
        "deep names": zlib.compress(deep),
        "one long line": packed(b" " * (1 << 20), 500),
        "empty lines": packed(b"\n" * (1 << 20), 500),
        "nested lists": packed(b"[" * (1 << 20), 40),
        "many lists": b"".join((packed(b"[" + b"[]," * (1 << 20), 12),)),
        "many numbers": packed(b'{"name":"a","kind":"image","shape":[' + b"0," * (1 << 20), 20),
        "a long number": zlib.compress(b'{"name":"a","kind":"file","size":' + b"9" * 5000 + b"}\n"),
        "cut off": packed(one * 10_000, 10)[:-8],
        "bytes behind": packed(one, 1) + b"more",
        "no text": zlib.compress(b"\xff\xfe\n"),
    }  # fmt: skip


TABLES = tables(5_000_000)


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_explode(members, name, tmp_path):
    assert refusal({**members, "items.jsonl.z": TABLES[name]}, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.append(dict(parts[0])),
        lambda parts: parts[0].update(pictures=1 << 40),
        lambda parts: parts[0].update(pictures=-1),
        lambda parts: parts[0].update(pictures=0),
        lambda parts: parts[0].update(pictures=HUGE),
        lambda parts: parts.reverse(),
        lambda parts: parts.clear(),
        lambda parts: parts.pop(),
        lambda parts: parts.extend({"pictures": n // 3, "planes": []} for n in range(4)),
        lambda parts: parts[0]["planes"].append([1, 1]),
        lambda parts: [part.update(planes=[[1 << 20, 1 << 10]] * 20_000) for part in parts],
        lambda parts: parts.__setitem__(0, [6, []]),
    ],
)  # fmt: skip
def test_parts_that_overlap_or_claim_too_much(members, change, tmp_path):
    assert refusal(changed(members, manifest=lambda m: change(m["parts"])), tmp_path)


def test_very_many_empty_parts(members, tmp_path):
    forged = changed(
        members, manifest=lambda m: m["parts"].extend([{"pictures": 0, "planes": []}] * 20_000)
    )
    refusal(forged, tmp_path)


@pytest.mark.parametrize("policy", ["none", "online"])
def test_countless_pictures_that_are_lost(members, policy, tmp_path, monkeypatch):
    """`keep_going` ends soon, too, where a table claims 2^40 pictures."""
    monkeypatch.setattr(decoding, "_MAX_SEARCHED", 1 << 16)
    count = 1 << 40
    row = {
        "name": "a.npy", "kind": "array", "source": "npy", "mode": "rgb8", "height": 1, "width": 1,
        "shape": [count, 1, 1, 3],
    }  # fmt: skip

    def claim(manifest: Any) -> None:
        shard = next(s for s in manifest["shards"] if s["channels"] == 3)
        online = {
            "name": "online", "step_size": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
        }  # fmt: skip
        if policy == "online":
            shard["policy"] = online
        shard.update(number=0, images=count, pixels=count)
        shard["segments"] = [
            {"batches": 1 << 20, "pixels": 1 << 36, "bytes": 100} for _ in range(16)
        ]
        manifest.update(shards=[shard], parts=[{"pictures": count, "planes": []}], packed=[])
        manifest["settings"].update(
            segment_batches=1 << 20, batch_pixels=1 << 16, first_pixels=1 << 16
        )

    forged = with_table(changed(members, manifest=claim), [row])
    assert refusal(forged, tmp_path)
    assert "a.npy" in refusal(forged, tmp_path, keep_going=True)


@pytest.mark.parametrize(
    "shape",
    [
        [1 << 70, 1, 1], [0, 13, 15], [-1, -13, 15], [1 << 40, 12, 11], [5, 1 << 24, 1 << 16],
        [5, 12, 11, 1 << 30], [5], [], [5, 12, 11, 1, 1], [True, 12, 11], ["5", 12, 11],
        [HUGE, 1, 1],        [660], list(range(5000)),
    ],
)  # fmt: skip
def test_shapes_that_are_absurd(members, shape, tmp_path):
    forged = changed(members, table=lambda t: entry(t, "stack.npy").update(shape=shape))
    assert refusal(forged, tmp_path)


@pytest.mark.parametrize(
    "height, width", [(1 << 24, 1 << 16), (1 << 62, 1), (0, 15), (13, -15), (1, 195)]
)
def test_sides_that_are_absurd(members, height, width, tmp_path):
    forged = changed(
        members, table=lambda t: entry(t, "tile0.png").update(height=height, width=width)
    )
    assert refusal(forged, tmp_path)


@pytest.mark.parametrize("mtime", [1, -1, 1 << 62, -(1 << 62), 1 << 69, -(1 << 69), 1 << 63])
def test_times_may_be_absurd(members, mtime, tmp_path):
    def forge(entries: list[Any]) -> None:
        for number, found in enumerate(entries):
            found["mtime"] = mtime if not number else 0

    assert refusal(changed(members, table=forge), tmp_path) == ""


def test_times_out_of_range(members, tmp_path):
    for mtime in (1 << 71, -(1 << 71), HUGE, 1.5, True):
        forged = changed(members, table=lambda t, m=mtime: t[0].update(mtime=m))
        assert refusal(forged, tmp_path)
    rising = changed(members, table=lambda t: [e.update(mtime=1 << 69) for e in t])
    assert "a time out of range" in refusal(rising, tmp_path)


def test_a_link_put_into_the_folder_meanwhile(members, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"

    def plant(name: str, path: Path, mtime: int) -> None:
        if path.is_file() and not (out / "deep er").is_symlink():
            os.rename(out / "deep er", out / "gone")
            os.symlink(tmp_path / "elsewhere", out / "deep er")

    with (
        osoa_pl.open_archive(io.BytesIO(join(members))) as archive,
        pytest.raises(OsoaError, match="symbolic link"),
    ):
        archive.extract(out, deliver=plant)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["notes.txt", "stack.npy", "tile0.png", "deep er", "both.npz"])
def test_links_in_the_folder_are_not_followed(members, name, tmp_path):
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    if name == "deep er":
        victim.mkdir()
    else:
        victim.write_bytes(b"precious")
    os.symlink(victim, out / name)
    try:
        osoa_pl.decompress(io.BytesIO(join(members)), out, overwrite=True)
        assert name != "deep er" and not (out / name).is_symlink()
    except OsoaError as error:
        assert "symbolic link" in str(error)
    assert (victim.is_dir() and not list(victim.iterdir())) or victim.read_bytes() == b"precious"


def with_segment(members: Members, name: str, data: bytes) -> Members:
    """Another segment, the manifest telling its size."""

    def resize(manifest: Any) -> None:
        shard = next(s for s in manifest["shards"] if s["number"] == int(name[7:11]))
        shard["segments"][int(name[12:18])]["bytes"] = len(data)
        shard["code_bytes"] = 0

    return {**changed(members, manifest=resize), name: data}


def test_more_streams_than_there_can_be(members, tmp_path):
    name = next(n for n in members if n.endswith(".seg"))
    header, _ = segment_format.unpack(members[name], name)
    fields = {**vars(header), "stream_words": ()}
    for words in ([], [0], [0, 0x80000000], [0xFFFFFFFF] * 3):
        streams = [np.array(words, np.uint32)] * 0xFFFF
        data = segment_format.pack(segment_format.SegmentHeader(**fields), streams)
        forged = with_segment(members, name, data)
        assert "65535 streams" in refusal(forged, tmp_path)

        def allow(manifest: Any) -> None:
            manifest["settings"]["streams"] = 0xFFFF

        assert "settings" in refusal(changed(forged, manifest=allow), tmp_path)


def test_lengths_of_streams_that_are_absurd(members, tmp_path):
    name = next(n for n in members if n.endswith(".seg"))
    data = bytearray(members[name])
    data[64:72] = b"\xff" * 8
    crc = zlib.crc32(data[64:72], zlib.crc32(data[:60]))
    data[60:64] = crc.to_bytes(4, "little")
    assert "code words" in refusal(with_segment(members, name, bytes(data)), tmp_path)


def test_segments_that_changed_places(members, tmp_path):
    names = [n for n in members if n.endswith(".seg")]
    for first, second in ((names[0], names[-1]), (names[0], names[1]), (names[1], names[2])):
        forged = with_segment(members, first, members[second])
        forged = with_segment(forged, second, members[first])
        assert "segment" in refusal(forged, tmp_path)
        assert "segment" in refusal(forged, tmp_path, keep_going=True)


class Harm:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


CHECKPOINTS = {
    "pickle": pickle.dumps(Harm()),
    "pickle in a header": len(pickle.dumps(Harm())).to_bytes(8, "little") + pickle.dumps(Harm()),
    "torch": b"PK\3\4" + pickle.dumps(Harm()),
    "empty": b"",
    "huge header": (1 << 62).to_bytes(8, "little") + b"{}",
    "no metadata": save({"rgb.parameters": np.zeros(4, np.float32)}),
    "nested": (1 << 20).to_bytes(8, "little") + b"[" * (1 << 20),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_that_are_none(members, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = CHECKPOINTS[name]

    def rename(manifest: Any) -> None:
        manifest["checkpoint"]["sha256"] = hashlib.sha256(data).hexdigest()

    forged = changed({**members, "checkpoint.safetensors": data}, manifest=rename)
    assert "checkpoint" in refusal(forged, tmp_path)
    assert "SHA-256" in refusal({**members, "checkpoint.safetensors": data}, tmp_path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\nb", "x" * 100_000, "\x1b[31m"])
def test_names_of_checkpoints_open_nothing(members, name, tmp_path):
    def rename(manifest: Any) -> None:
        manifest["checkpoint"].update(name=name, embedded=False, sha256="0" * 64)

    text = refusal(changed(members, manifest=rename), tmp_path)
    assert "needs checkpoint" in text and len(text) < 2000 and text.isprintable()


def test_pixels_that_the_mode_has_not(members, tmp_path):
    """A picture that decodes but cannot be written is lost alone."""

    def forge(entries: list[Any]) -> None:
        entry(entries, "palette.png").update(mode="palette1", before="")

    forged = changed(members, table=forge)
    assert "palette.png" in refusal(forged, tmp_path)
    text = refusal(forged, tmp_path, keep_going=True)
    assert "palette.png" in text
    found = files_below(tmp_path / "jail" / "out")
    assert "palette.png" not in found and len(found) > 10


def test_keys_that_nobody_knows(members, tmp_path):
    for key in ("member", "__class__", "count", "x" * 1000):
        forged = changed(members, table=lambda t, key=key: t[0].update({key: 1}))
        assert "unknown field" in refusal(forged, tmp_path)
    lines = [[], 5, "x", None, {}, {"name": "a"}, {"kind": "file"}, {"name": "a", "kind": ["file"]}]
    for line in lines:
        forged = changed(members, table=lambda t, line=line: t.append(line))
        assert refusal(forged, tmp_path)
    forged = {**members, "items.jsonl.z": zlib.compress(json.dumps(lines).encode())}
    with pytest.raises(DamagedArchiveError):
        osoa_pl.open_archive(io.BytesIO(join(forged)))
