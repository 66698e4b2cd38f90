"""Pictures that are coded as something else, through the Python interface and the commands."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import second_reader
from fakes import picture
from forge import changed, join, take_apart
from PIL import Image

import osoa_pl
from osoa_pl.api import fitting, survey
from osoa_pl.cli.main import main
from osoa_pl.data import yuv
from osoa_pl.errors import ArchiveError, DamagedArchiveError
from osoa_pl.online.plan import BatchSettings
from osoa_pl.types import Step

SETTINGS = BatchSettings(batch_pixels=512, first_pixels=128, segment_batches=2, streams=2)


def frame(height: int, width: int, seed: int) -> np.ndarray:
    """A frame of video, RGB."""
    half = (height + 1) // 2, (width + 1) // 2
    luma = picture(height, width, 1, seed)
    chroma = [picture(*half, 1, seed + i) // 4 + 96 for i in (1, 2)]
    return yuv.join([luma, *chroma], Step("yuv420", (b"\0",)))


def sprite(seed: int, *, soft: bool = False) -> np.ndarray:
    """Noise of a few colours in a hole that is not seen."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (9, 3), dtype=np.uint8)
    inside = colours[rng.integers(0, 9, (24, 20))]
    alpha = np.where(rng.random((24, 20, 1)) < 0.6, 0, 255).astype(np.uint8)
    if soft:
        alpha[3:5, 4:9] = 77
    inside[alpha[:, :, 0] == 0] = 0
    return np.concatenate((inside, alpha), 2)


def grey(height: int, width: int, samples: int, seed: int) -> np.ndarray:
    """Three equal colours."""
    found = picture(height, width, samples, seed)
    found[:, :, 1:3] = found[:, :, :1]
    return found


def opaque(height: int, width: int, alpha: int = 255) -> np.ndarray:
    return np.concatenate((picture(height, width, 3, 8), np.full((height, width, 1), alpha)), 2)


def jpeg(height: int, width: int, seed: int) -> np.ndarray:
    """What a decoder of JPEG makes."""
    planes = [picture(height, width, 1, seed), picture(height, width, 2, seed) // 4 + 96]
    return yuv.join([planes[0], planes[1][:, :, :1], planes[1][:, :, 1:]], Step("jfif"))


PICTURES = {
    "grey": [grey(20, 31, 3, 1), grey(22, 17, 4, 2)],
    "alpha": [opaque(20, 31).astype(np.uint8), opaque(9, 21, 0).astype(np.uint8)],
    "key": [sprite(1), sprite(2), sprite(3, soft=True)],
    "yuv420": [frame(30, 41, 1), frame(33, 28, 5)],
    "jfif": [jpeg(31, 26, 2)],
    "": [picture(25, 30, 3, 7), picture(12, 30, 1, 7), picture(16, 14, 4, 9)],
}
ALL = [each for group in PICTURES.values() for each in group]


def arrays_equal(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.fixture(scope="module", params=["none", "online", "auto"])
def archive(request, tmp_path_factory, checkpoint_path) -> Path:
    path = tmp_path_factory.mktemp("transforms") / "a.osoa"
    osoa_pl.compress(
        ALL, path, checkpoint=checkpoint_path, adaptation=request.param, step_size=0.01,
        settings=SETTINGS, embed_checkpoint=True, verify=True,
    )  # fmt: skip
    return path


def test_each_in_any_order(archive: Path) -> None:
    with osoa_pl.open_archive(archive) as opened:
        arrays_equal(list(opened), ALL)
        for index in (9, 2, 5, 4, 0, 11, 1):
            np.testing.assert_array_equal(opened[index], ALL[index], strict=True)
        transforms = [item.transform for item in opened.items]
        assert opened.verify() == len(ALL)
    arrays_equal(second_reader.read(str(archive)).pictures, ALL)
    found = {name.partition(":")[0] for each in transforms for name in each.split(" ")}
    assert found >= {"grey", "alpha", "yuv420", "jfif", ""}
    assert transforms[0] == "grey" and "grey" in transforms[1] and transforms[-3:] == [""] * 3
    with zipfile.ZipFile(archive) as members:
        assert b'"format":3' in members.read("manifest.json")


def test_nothing_for_those_who_want_the_model_alone(tmp_path: Path, checkpoint_path: str) -> None:
    path = tmp_path / "a.osoa"
    osoa_pl.compress(
        ALL, path, checkpoint=checkpoint_path, adaptation="none", settings=SETTINGS, model_only=True
    )
    with osoa_pl.open_archive(path, checkpoint=checkpoint_path) as opened:
        arrays_equal(list(opened), ALL)
        assert not any(item.transform for item in opened.items)
    with zipfile.ZipFile(path) as members:
        assert b'"format":2' in members.read("manifest.json")


@pytest.mark.parametrize("kind", ["grey", "key", "yuv420"])
def test_arrays(kind: str, tmp_path: Path, checkpoint_path: str) -> None:
    """One transform for all pictures of an array, or none where parts cut it."""
    made = {
        "grey": lambda i: grey(12, 15, 3, i),
        "key": sprite,
        "yuv420": lambda i: frame(12, 15, i),
    }
    stack = np.stack([made[kind](i) for i in range(5)])
    np.save(tmp_path / "stack.npy", stack)
    for shard in (None, 3):
        path, out = tmp_path / f"{shard}.osoa", tmp_path / f"{shard}"
        osoa_pl.compress(
            tmp_path / "stack.npy", path, checkpoint=checkpoint_path, adaptation="online",
            settings=SETTINGS, shard=shard, verify=True,
        )  # fmt: skip
        osoa_pl.decompress(path, out, checkpoint=checkpoint_path)
        np.testing.assert_array_equal(np.load(out / "stack.npy"), stack, strict=True)
        with osoa_pl.open_archive(path, checkpoint=checkpoint_path) as opened:
            np.testing.assert_array_equal(opened[3], stack[3], strict=True)
            assert opened.items[0].transform.startswith(kind) == (shard is None)
        arrays_equal(second_reader.read(str(path), checkpoint_path).pictures, stack)


def test_copies_and_near_copies(tmp_path: Path, checkpoint_path: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(1)
    first = np.repeat(rng.integers(0, 256, (40, 30, 1), dtype=np.uint8), 3, 2)
    near = first.copy()
    near[3, 4] += 100
    for name, raster in (("a", first), ("b", near), ("c", first)):
        Image.fromarray(raster).save(folder / f"{name}.bmp")
    path, out = tmp_path / "a.osoa", tmp_path / "out"
    osoa_pl.compress(folder, path, checkpoint=checkpoint_path, settings=SETTINGS)
    with osoa_pl.open_archive(path, checkpoint=checkpoint_path) as opened:
        told = [(i.coded, i.reference, i.same, i.transform) for i in opened.items]
        arrays_equal(list(opened), [first, near, first])
    assert told[1] == ("d", 0, -1, "grey") and told[2] == ("", -1, 0, "")
    osoa_pl.decompress(path, out, checkpoint=checkpoint_path, only="[bc].bmp")
    assert sorted(p.name for p in out.iterdir()) == ["b.bmp.png", "c.bmp.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(out / "b.bmp.png")), near)
    arrays_equal(second_reader.read(str(path), checkpoint_path).pictures, [first, near, first])


def test_commands(tmp_path: Path, checkpoint_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "in", tmp_path / "a.osoa"
    folder.mkdir()
    for number, raster in enumerate(ALL):
        Image.fromarray(raster.squeeze()).save(folder / f"{number:02}.tif")
    words = ["compress", folder, "-o", path, "--checkpoint", checkpoint_path, "--embed-checkpoint"]
    assert main([*map(str, words), "--adaptation", "none", "--verify"]) == 0
    assert main(["verify", str(path)]) == 0
    capsys.readouterr()
    assert main(["list", str(path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["items"]
    assert any(item["transform"].startswith("yuv420") for item in listed)
    some, out = tmp_path / "some", tmp_path / "out"
    assert main(["decompress", str(path), "-o", str(some), "--only", "0[78].tif"]) == 0
    restored = sorted(some.iterdir())
    assert [p.name for p in restored] == ["07.tif.png", "08.tif.png"]
    for number, found in zip((7, 8), restored, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(found)), ALL[number])
    assert main(["decompress", str(path), "-o", str(out)]) == 0
    for number, raster in enumerate(ALL):
        found = next(out.glob(f"{number:02}.tif*"))
        np.testing.assert_array_equal(np.asarray(Image.open(found)), raster.squeeze())


def test_plain_planes_stand_side_by_side(tmp_path: Path, checkpoint_path: str) -> None:
    """Where that is smaller: colour and alpha that repeat together."""
    rng = np.random.default_rng(4)
    tiles = rng.integers(0, 256, (6, 4, 4, 4), dtype=np.uint8)
    stack = tiles[rng.integers(0, 6, (40, 3, 3))].swapaxes(2, 3).reshape(40, 12, 12, 4)
    path = tmp_path / "a.osoa"
    osoa_pl.compress(stack, path, checkpoint=checkpoint_path, settings=SETTINGS)
    with osoa_pl.open_archive(path, checkpoint=checkpoint_path) as opened:
        assert opened.items[0].coded == "ii"
        arrays_equal(list(opened), stack)
        np.testing.assert_array_equal(opened[33], stack[33], strict=True)
    arrays_equal(second_reader.read(str(path), checkpoint_path).pictures, stack)
    damaged = take_apart(path.read_bytes())
    block = bytearray(damaged["planes/0000/0000"])
    block[len(block) // 2] ^= 8
    damaged["planes/0000/0000"] = bytes(block)
    with pytest.raises(DamagedArchiveError):
        osoa_pl.decompress(io.BytesIO(join(damaged)), checkpoint=checkpoint_path)


def test_an_older_format_has_none_of_it(archive: Path) -> None:
    members = take_apart(archive.read_bytes())
    for version, reason in ((2, "has what format 2 has not"), (7, "made by a newer version")):
        forged = changed(members, manifest=lambda m, v=version: m.update(format=v))
        with pytest.raises(ArchiveError, match=reason):
            osoa_pl.open_archive(io.BytesIO(join(forged)))


def test_one_key_for_all_where_one_is_free() -> None:
    keys = fitting._Keys()
    keys.add(np.array([[0, 0, 0], [0, 0, 1], [9, 9, 9]], np.uint8))
    keys.settle(iter([(0, 0, 0), None, (), (9, 9, 9), (0, 0, 0)]))
    own = np.zeros(256, np.bool_)
    assert keys.key(3, own) == (0, 1, 0)
    assert keys.key(1, own) == (1,)
    keys.add(np.arange(256, dtype=np.uint8)[:, None])
    own[:7] = True
    assert keys.key(1, own) == (7,)
    own[:] = True
    assert keys.key(1, own) is None


def test_both_ways_are_tried_where_they_are_near(tmp_path, checkpoint_path, monkeypatch) -> None:
    tried: list[int] = []
    known = survey.survey

    def spy(pieces: Any, transforms: Any, *rest: Any) -> Any:
        tried.append(sum(map(bool, transforms)))
        return known(pieces, transforms, *rest)

    monkeypatch.setattr(survey, "survey", spy)
    path = tmp_path / "a.osoa"
    for pictures, transformed in ((PICTURES["key"], 3), (PICTURES[""], 0)):
        tried.clear()
        osoa_pl.compress(
            pictures, path, checkpoint=checkpoint_path, settings=SETTINGS, overwrite=True
        )
        assert max(tried) == transformed
        with osoa_pl.open_archive(path, checkpoint=checkpoint_path) as opened:
            arrays_equal(list(opened), pictures)
