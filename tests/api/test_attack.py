"""Hostile archives and checkpoints, and inputs that are none: our errors, never a wrong pixel."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes import picture, small_model
from safetensors.numpy import load, save

import osoa_pl
from osoa_pl.errors import (
    ArchiveError,
    CheckpointError,
    DamagedArchiveError,
    InputError,
    OsoaError,
    UsageError,
)
from osoa_pl.format import segment as segment_format
from osoa_pl.models.checkpoint import Checkpoint, metadata
from osoa_pl.models.zoo import pack
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings, segments
from osoa_pl.types import Item

SMALL = BatchSettings(batch_pixels=512, first_pixels=128, segment_batches=2, streams=2)
Members = dict[str, bytes]
Change = Callable[[Any], None]


def images() -> list[np.ndarray]:
    return [picture(14, 15, 1 + 2 * (i % 2), i) for i in range(7)]


def join(members: Members) -> io.BytesIO:
    """A ZIP file of stored members, as the writer would lay it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Members of a sound archive with an embedded checkpoint."""
    folder = tmp_path_factory.mktemp("attack")
    checkpoint = folder / "small.safetensors"
    checkpoint.write_bytes(pack({"grey": small_model(1), "rgb": small_model(3)}))
    osoa_pl.compress(
        images(), folder / "a.osoa", checkpoint=str(checkpoint), embed_checkpoint=True,
        adaptation="online", settings=SMALL, model_only=True,
    )  # fmt: skip
    with zipfile.ZipFile(folder / "a.osoa") as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def forged_manifest(members: Members, change: Change) -> Members:
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def outcome(members: Members) -> str:
    """What opening, describing and decoding does: the error's name, or `right`."""
    try:
        with osoa_pl.open_archive(join(members)) as archive:
            assert archive.info.archive_bytes > 0
            found = list(archive)
    except OsoaError as error:
        assert error.exit_code in (4, 5, 6), error
        assert "\n" not in str(error)
        return type(error).__name__
    assert len(found) == len(images())
    for ours, theirs in zip(found, images(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return "right"


def test_the_forge_forges_nothing_by_itself(members):
    assert outcome(members) == "right"


HUGE = 10**400  # JSON has such numbers; floats have not
VALUES = (None, -1, 0, HUGE, 1.5, True, "x", [], {}, [1], float("nan"))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    entries = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        entries = enumerate(value[:1])
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


def test_forged_manifests_are_refused_or_harmless(members):
    manifest = json.loads(members["manifest.json"])
    refused = 0
    for path in places(manifest):
        for value in VALUES:
            forged = copy.deepcopy(manifest)
            at = forged
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            text = json.dumps(forged).encode()
            refused += outcome({**members, "manifest.json": text}) != "right"
    assert refused > 200


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["shards"][0]["policy"].update(name=["none"]),
        lambda m: m["shards"][0]["policy"].update(step_size=HUGE),
        lambda m: m["shards"][0]["policy"].update(beta1=1.0),
        lambda m: m["shards"][0]["policy"].update(eps=1e-300),
        lambda m: m["shards"][0].update(code_bytes=HUGE),
        lambda m: m["shards"][0].update(channels=2),
        lambda m: m["shards"][0]["segments"][0].update(bytes=7),
        lambda m: m["shards"][0]["segments"].pop(),
        lambda m: m["shards"][0].update(number=1),
        lambda m: m["shards"][0].update(number=2),
        lambda m: m["shards"].append(m["shards"][0]),
        lambda m: m["parts"].append({"pictures": 0, "planes": [[1, 1]]}),
        lambda m: m["parts"][0].update(pictures=6),
        lambda m: m["parts"][0].update(planes=[[2, 1]]),
        lambda m: m["packed"].append([HUGE, 1]),
        lambda m: m.pop("parts"),
        lambda m: m["settings"].update(segment_batches=1),
        lambda m: m["settings"].update(streams=3),
    ],
)  # fmt: skip
def test_contradictions_are_refused(members, change):
    assert outcome(forged_manifest(members, change)) in ("ArchiveError", "DamagedArchiveError")


def test_left_over_segments_are_refused(members):
    extra = {**members, "shards/0000/000009.seg": b"never decoded"}
    assert outcome(extra) == "right"  # a member that nothing names is not ours to judge
    last = max(name for name in members if name.startswith("shards/0000/"))
    number = int(last[-10:-4]) + 1

    def one_more(manifest: Any) -> None:
        entries = manifest["shards"][0]["segments"]
        entries.append(dict(entries[-1], pixels=1))
        entries[0]["pixels"] -= 1

    forged = forged_manifest(members, one_more)
    forged[f"shards/0000/{number:06d}.seg"] = members[last]
    with (
        osoa_pl.open_archive(join(forged)) as archive,
        pytest.raises(DamagedArchiveError, match="left over"),
    ):
        archive.verify()


def test_a_claim_of_countless_images_costs_nothing(members):
    count = 1 << 40
    table = [
        {
            "name": "a.npy", "kind": "array", "source": "npy",
            "mode": "rgb8", "height": 1, "width": 1, "shape": [count, 1, 1, 3],
        }
    ]  # fmt: skip

    def claim(manifest: Any) -> None:
        shard = next(s for s in manifest["shards"] if s["channels"] == 3)
        manifest["shards"] = [shard]
        shard.update(images=count, pixels=count)
        manifest["parts"] = [{"pictures": count, "planes": []}]
        shard["segments"][0]["pixels"] += count - sum(s["pixels"] for s in shard["segments"])
        manifest["settings"].update(
            segment_batches=1 << 20, batch_pixels=1 << 16, first_pixels=1 << 16
        )

    forged = forged_manifest(members, claim)
    forged["items.jsonl.z"] = zlib.compress(json.dumps(table[0]).encode() + b"\n")
    with pytest.raises(DamagedArchiveError, match="segment 0"):
        osoa_pl.decompress(join(forged))
    lazy = segments(iter([(1, 1)] * 10), BatchSettings(segment_batches=1 << 20))
    assert len(next(next(lazy))) == 10


def test_forged_segments_never_give_wrong_pixels(members):
    rng = np.random.default_rng(2)
    names = [name for name in members if name.endswith(".seg")]
    refused = 0
    for case in range(60):
        name = names[case % len(names)]
        header, streams = segment_format.unpack(members[name], name)
        streams = [words.copy() for words in streams]
        words = streams[0]
        kind = case % 6
        if kind == 0:
            words[rng.integers(len(words))] ^= np.uint32(1 << int(rng.integers(32)))
        elif kind == 1:
            streams[0] = rng.integers(0, 1 << 32, len(words), dtype=np.uint32)
        elif kind == 2:
            streams[0] = np.full(int(rng.integers(4)), rng.choice([0, 0xFFFFFFFF]), np.uint32)
        elif kind == 3:
            streams[0] = np.concatenate([words, words])
        elif kind == 4:
            streams[0] = words[: rng.integers(len(words))]
        fields = {**header.__dict__, "stream_words": ()}
        if kind == 5:
            fields["batch_count"] = int(rng.choice([0, 1, 3, 1 << 31]))
        data = segment_format.pack(segment_format.SegmentHeader(**fields), streams)

        def resize(manifest: Any, name: str = name, size: int = len(data)) -> None:
            shard = manifest["shards"][int(name[7:11])]
            shard["segments"][int(name[12:18])]["bytes"] = size
            shard["code_bytes"] = 0

        forged = {**forged_manifest(members, resize), name: data}
        refused += outcome(forged) != "right"
    assert refused >= 50


def with_checkpoint(
    members: Members, tensors: dict[str, np.ndarray], about: dict[str, Any]
) -> Members:
    data = save(tensors, {"osoa_pl": json.dumps(about)})

    def rename(manifest: Any) -> None:
        manifest["checkpoint"]["sha256"] = hashlib.sha256(data).hexdigest()

    return {**forged_manifest(members, rename), "checkpoint.safetensors": data}


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, -3e38, 3e38, 1e25, 0.0])
def test_embedded_weights_may_be_anything(members, value, tmp_path):
    data = members["checkpoint.safetensors"]
    about = metadata(Checkpoint("x", data))
    tensors = load(data)
    for name in tensors:
        for part in (slice(None), slice(-1, None)):
            forged = {key: array.copy() for key, array in tensors.items()}
            forged[name][part] = value
            changed = with_checkpoint(members, forged, about)
            result = outcome(changed)
            if not 0 <= value < 1e20 and "parameters" not in name:
                assert result == "CheckpointError" or value == 3e38 or value == 1e25
            path = tmp_path / "forged.safetensors"
            path.write_bytes(changed["checkpoint.safetensors"])
            try:  # encoding with it either works or says what is wrong
                osoa_pl.compress(
                    images()[:2], tmp_path / "b.osoa", checkpoint=str(path), adaptation="online",
                    settings=SMALL, overwrite=True,
                )  # fmt: skip
            except OsoaError:
                continue
            back = osoa_pl.decompress(tmp_path / "b.osoa", checkpoint=str(path))
            for ours, theirs in zip(back, images()[:2], strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["width", "depth", "mixtures", "channels"])
def test_embedded_sizes_may_be_anything(members, name):
    data = members["checkpoint.safetensors"]
    for value in (0, -1, -16, 16.0, True, "16", None, [], 10**9, 1 << 62, HUGE, float("nan")):
        about = metadata(Checkpoint("x", data))
        about["models"]["rgb"][name] = value
        assert outcome(with_checkpoint(members, load(data), about)) == "CheckpointError"


def test_what_is_written_opens(tmp_path, checkpoint_path):
    for shape, fits in (((1, 65536), True), ((1, 65537), False), ((70000, 1), True)):
        image = np.zeros(shape, np.uint8)
        options = {"checkpoint": checkpoint_path, "adaptation": "none", "overwrite": True}
        if fits:
            osoa_pl.compress([image], tmp_path / "a.osoa", **options)
            np.testing.assert_array_equal(osoa_pl.decompress(
                tmp_path / "a.osoa", checkpoint=checkpoint_path)[0][..., 0], image)  # fmt: skip
        else:
            with pytest.raises(InputError, match="65537x1 pixels"):
                osoa_pl.compress([image], tmp_path / "b.osoa", **options)
    folder = tmp_path / "wide"
    folder.mkdir()
    np.save(folder / "wide.npy", np.zeros((1, 2, 65537), np.uint8))
    result = osoa_pl.compress(folder, tmp_path / "c.osoa", checkpoint=checkpoint_path)
    assert [name for name, _ in result.stored] == ["wide.npy"]


@pytest.mark.parametrize(
    "given",
    [
        ["a path", np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4), np.uint8), "a path"],
        [np.zeros((4, 4), np.uint8), [[1, 2], [3, 4]]],
        [1, 2], b"bytes", {"a": np.zeros((4, 4), np.uint8)}, None, 5,
    ],
)  # fmt: skip
def test_inputs_that_are_none_are_named(given, tmp_path, checkpoint_path):
    with pytest.raises(UsageError, match="input [01]: found"):
        osoa_pl.compress(given, tmp_path / "a.osoa", checkpoint=checkpoint_path)
    assert not list(tmp_path.iterdir())


def test_broken_array_headers_are_stored(tmp_path, checkpoint_path):
    folder, sound = tmp_path / "in", io.BytesIO()
    folder.mkdir()
    np.save(sound, np.zeros((3, 5, 6), np.uint8))
    for index, (place, byte) in enumerate(((10, 0), (11, 40), (40, 123), (70, 39), (20, 255))):
        data = bytearray(sound.getvalue())
        data[place] = byte
        (folder / f"{index}.npy").write_bytes(bytes(data))
    result = osoa_pl.compress(folder, tmp_path / "a.osoa", checkpoint=checkpoint_path)
    assert len(result.stored) + result.images // 3 == 5
    osoa_pl.decompress(tmp_path / "a.osoa", tmp_path / "out", checkpoint=checkpoint_path)
    for name, _ in result.stored:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_options_are_checked_before_any_work(tmp_path, checkpoint_path):
    with pytest.raises(UsageError, match="step_size"):
        osoa_pl.compress(
            tmp_path / "missing", tmp_path / "a.osoa", adaptation="online", step_size=5.0
        )
    with pytest.raises(UsageError, match="beta2"):
        OnlineAdaptation(beta2=1.0)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "notes.txt").write_text("text")
    np.save(folder / "a.npy", np.zeros((1, 8, 8), np.uint8))
    osoa_pl.compress(folder, tmp_path / "a.osoa", checkpoint=checkpoint_path, model_only=True)
    with pytest.raises(CheckpointError):
        osoa_pl.decompress(tmp_path / "a.osoa", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_the_locale_cannot_hold_are_one_line(tmp_path, monkeypatch):
    from osoa_pl.data import writer

    def ascii_only(name: str) -> bytes:
        return name.encode("ascii")

    monkeypatch.setattr(writer.os, "fsencode", ascii_only)
    item = Item("ü.txt", "file", size=1)
    with pytest.raises(UsageError, match="locale"):
        writer.ImageWriter(tmp_path, [item])


def test_a_truncated_archive_is_never_another_one(members):
    whole = join(members).getvalue()
    for cut in range(1, len(whole), max(1, len(whole) // 60)):
        for data in (whole[:cut], whole[cut:], whole[:cut] + whole[cut + 1 :]):
            with pytest.raises(ArchiveError):
                list(osoa_pl.open_archive(io.BytesIO(data)))


@pytest.mark.parametrize("how", ["gone", "smaller", "text", "longer"])
def test_an_input_that_changes_while_it_is_read(how, tmp_path, checkpoint_path):
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "a.npy", np.stack([picture(16, 16, 1, i)[..., 0] for i in range(9)]))
    victim = folder / "b.npy"
    np.save(victim, np.stack([picture(16, 16, 1, i)[..., 0] for i in range(4)]))
    calls = []

    def watch(done: int, total: int) -> None:
        if not calls:
            if how == "gone":
                victim.unlink()
            elif how == "smaller":
                np.save(victim, np.zeros((4, 8, 8), np.uint8))
            elif how == "text":
                victim.write_text("not an array any more")
            else:
                victim.write_bytes(victim.read_bytes()[:-300])
        calls.append(done)

    with pytest.raises(InputError, match=r"b\.npy"):
        osoa_pl.compress(
            folder, tmp_path / "a.osoa", checkpoint=checkpoint_path, settings=SMALL, watch=watch
        )
    assert sorted(p.name for p in tmp_path.iterdir()) in (["in"], ["a.osoa.partial", "in"])
