"""Checkpoints with several starting weights: which are taken, and that readers find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import picture, small_model
from forge import changed, join, manifest_of, take_apart

import osoa_pl
from osoa_pl.errors import ArchiveError, CheckpointError, DamagedArchiveError
from osoa_pl.models import zoo
from osoa_pl.models.checkpoint import describe, read
from osoa_pl.online.plan import spread

SMALL = {"batch_pixels": 512, "first_pixels": 128, "segment_batches": 3, "streams": 2}


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> dict[str, str]:
    """Paths: `wild` and `tame` weights alone, and both with either as the general ones."""
    folder = tmp_path_factory.mktemp("weights")
    models = {"rgb": small_model(3), "grey": small_model(1)}
    config, tame, *rest = models["rgb"]
    noise = torch.randn(tame.shape, generator=torch.Generator().manual_seed(3))
    wild = tame + 0.1 * noise
    made = {}

    def write(name: str, first: torch.Tensor, further: dict[str, torch.Tensor]) -> None:
        path = folder / f"{name}.safetensors"
        named = {"rgb": {key: (value, rest[0]) for key, value in further.items()}}
        path.write_bytes(
            zoo.pack({**models, "rgb": (config, first, *rest)}, further=named if further else {})
        )
        made[name] = str(path)

    write("wild", wild, {})
    write("tame", tame, {})
    write("wild_first", wild, {"tame": tame, "other": wild + noise})
    write("tame_first", tame, {"wild": wild})
    return made


def images(count: int = 9) -> np.ndarray:
    return np.stack([picture(24, 32, 3, n) for n in range(count)])


def compressed(path: Path, checkpoint: str, **options: Any) -> dict[str, Any]:
    """The manifest of a sound archive."""
    osoa_pl.compress(
        images(), path, checkpoint=checkpoint, settings=SMALL, times=False, overwrite=True,
        **{"threads": 1, "step_size": 1e-4, **options},
    )  # fmt: skip
    found = osoa_pl.decompress(path, checkpoint=checkpoint)
    np.testing.assert_array_equal(np.stack(found), images())
    return manifest_of(take_apart(path.read_bytes()))


@pytest.mark.parametrize("adaptation", ["none", "online", "auto"])
def test_the_better_ones_are_taken(several, adaptation, tmp_path):
    options = {"adaptation": adaptation, "model_only": True}
    made = {n: compressed(tmp_path / f"{n}.osoa", several[n], **options) for n in several}
    segments = {name: [s["bytes"] for s in m["shards"][0]["segments"]] for name, m in made.items()}
    assert segments["tame"] != segments["wild"]
    assert segments["tame_first"] == segments["wild_first"]
    taken = "wild" if "weights" in made["tame_first"]["shards"][0]["policy"] else "tame"
    assert segments["wild_first"] == segments[taken]
    assert sum(segments[taken]) == min(sum(segments["tame"]), sum(segments["wild"]))
    named, plain = ("wild_first", "tame_first")[:: 1 if taken == "tame" else -1]
    assert made[named]["shards"][0]["policy"]["weights"] == taken
    assert (made[plain]["format"], made[named]["format"]) == (2, 6)
    if adaptation == "none":
        assert taken == "tame"
    again = compressed(tmp_path / "again.osoa", several["wild_first"], threads=2, **options)
    assert again == made["wild_first"]


def test_what_is_told(several, tmp_path):
    result = osoa_pl.compress(
        images(), tmp_path / "a.osoa", checkpoint=several["wild_first"], settings=SMALL,
        adaptation="online", step_size=1e-3, embed_checkpoint=True,
    )  # fmt: skip
    assert result.policies == ("rgb: online from tame, step size 0.001",)
    with osoa_pl.open_archive(tmp_path / "a.osoa") as archive:
        assert archive.info.shards[0].policy["weights"] == "tame"
        np.testing.assert_array_equal(archive[5], images()[5])
    assert describe(read(several["wild_first"]))["rgb"]["weights"] == ["tame", "other"]
    assert "weights" not in describe(read(several["wild_first"]))["grey"]


def test_forged_weights(several, tmp_path):
    compressed(tmp_path / "a.osoa", several["wild_first"], adaptation="online", model_only=True)
    members = take_apart((tmp_path / "a.osoa").read_bytes())

    def decompressed(weights: Any, version: int = 6) -> None:
        def forge(manifest: Any) -> None:
            manifest["format"] = version
            manifest["shards"][0]["policy"]["weights"] = weights

        (tmp_path / "f.osoa").write_bytes(join(changed(members, manifest=forge)))
        osoa_pl.decompress(tmp_path / "f.osoa", checkpoint=several["wild_first"])

    with pytest.raises(DamagedArchiveError, match="format 5 has no weights"):
        decompressed("tame", 5)
    with pytest.raises(CheckpointError, match="has no weights 'x' for rgb pixels"):
        decompressed("x")
    for wrong in (5, [], None, "a\nb", "x" * 65, {"a": 1}):
        with pytest.raises(ArchiveError, match=r"f\.osoa: shard 0: .*weights: found"):
            decompressed(wrong)
    for other in ("", "other"):
        with pytest.raises(osoa_pl.errors.OsoaError):
            decompressed(other)


def test_checkpoints_that_name_what_they_have_not(tmp_path):
    config, parameters, *rest = small_model(3)
    named = {"rgb": {"short": (parameters[1:], rest[0])}}
    path = tmp_path / "a.safetensors"
    path.write_bytes(zoo.pack({"rgb": small_model(3)}, further=named))
    with pytest.raises(CheckpointError, match=r"'rgb\.short\.parameters' is missing or of"):
        zoo.build(read(str(path)), 3, weights="short")
    path.write_bytes(
        zoo.pack({"rgb": small_model(3)}, further={"rgb": {"": (parameters, rest[0])}})
    )
    with pytest.raises(CheckpointError, match="not an osoa_pl checkpoint"):
        zoo.build(read(str(path)), 3)


def test_a_sample_is_spread_over_all_images():
    assert spread([(4, 4)] * 3, 1000) == [(0, 0, 4), (1, 0, 4), (2, 0, 4)]
    found = spread([(32, 32)] * 1000, 65536)
    assert {(first, rows) for _, first, rows in found} == {(0, 32)}
    numbers = np.array([number for number, _, _ in found])
    assert len(numbers) == 64 and set(np.diff(numbers.reshape(8, 8)).ravel()) == {1}
    assert set(np.diff(numbers[::8])) <= {120, 128}
    assert spread([(1000, 1000)], 65536) == [(0, 467, 65)]
    found = spread([(1000, 1000)] * 100, 65536)
    assert len(found) == 8 and all(rows == 8 for _, _, rows in found)
    assert spread([(1, 100_000)], 10) == [(0, 0, 1)]
    assert spread([(3, 200_000), (1, 1)], 10) != []


def test_high_efforts_choose_between_checkpoints(several, tmp_path, monkeypatch):
    folder = Path(several["wild"]).parent
    monkeypatch.setattr("osoa_pl.models.checkpoint.folders", lambda: [folder])

    def made(effort: int, *tiers: str, **options: Any) -> Any:
        monkeypatch.setattr("osoa_pl.models.checkpoint.TIERS", tiers)
        path = tmp_path / "a.osoa"
        result = osoa_pl.compress(
            images(), path, settings=SMALL, effort=effort, overwrite=True, verify=True, **options
        )
        for given in (None, "default"):  # which is no word for a certain checkpoint
            found = osoa_pl.decompress(path, checkpoint=given)
            np.testing.assert_array_equal(np.stack(found), images())
        named = manifest_of(take_apart(path.read_bytes()))["checkpoint"]
        assert result.checkpoint == named["name"]
        return named

    assert made(8, "wild", "tame")["name"] == made(8, "tame", "wild")["name"] == "tame"
    assert made(9, "wild", "tame")["name"] == "tame"
    assert made(7, "wild", "tame")["name"] == "wild"
    assert made(8, "wild", "tame", embed_checkpoint=True)["name"] == "wild"
    assert made(8, "tame", "tame_first")["name"] == "tame"
    assert made(8, "wild", "tame", checkpoint="wild")["name"] == "wild"
    assert made(8, "wild", "tame", adaptation="online")["name"] == "wild"


def test_the_first_tier_is_taken_without_pictures(tmp_path):
    (tmp_path / "a.txt").write_text("no picture")
    osoa_pl.compress(tmp_path / "a.txt", tmp_path / "a.osoa", effort=9)
    with osoa_pl.open_archive(tmp_path / "a.osoa") as archive:
        assert archive.info.checkpoint == "base"
