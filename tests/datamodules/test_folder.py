"""Folders of pictures: order, conversion, crops, flips, parts, and what is left out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from fake_files import DATA, gather, images, write_folder, write_picture
from PIL import Image

from osoa_pl.datamodules import ImageFolder
from osoa_pl.datamodules.folder import Crop, Pictures
from osoa_pl.errors import InputError, UsageError


def test_class_folders_in_natural_order(tmp_path):
    pixels = images(4, 6, 5, 3)
    for name, picture in zip(("cat/2.png", "cat/10.bmp", "Dog/1.webp", "top.tif"), pixels):
        write_picture(tmp_path / name, picture, **({"lossless": True} if "webp" in name else {}))
    (tmp_path / "index.csv").write_text("not a picture")
    assert np.array_equal(np.stack(list(Pictures(tmp_path, 3))), pixels)
    data = ImageFolder(root=tmp_path, validation=1)
    data.setup("fit")
    data.setup("test")
    parts = [data.images(part) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [2, 1, 1]
    seen = sorted(part[index].tobytes() for part in parts for index in range(len(part)))
    assert seen == sorted(map(bytes, pixels))


def test_held_out_pictures_are_drawn_by_seed(tmp_path):
    write_folder(tmp_path, [(4, 4)] * 20)

    def held_out(seed):
        return gather(ImageFolder(root=tmp_path, validation=4, seed=seed).val_dataloader())

    assert np.array_equal(held_out(0), held_out(0))
    assert not np.array_equal(held_out(0), held_out(1))


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (("train", "val", "test"), (4, 2, 3)),
        (("train", "validation"), (4, 2, 2)),
        (("train", "test"), (3, 1, 3)),
        (("train",), (3, 1, 1)),
    ],
)
def test_sub_folders_are_parts(tmp_path, folders, sizes):
    counts = {"train": 4, "val": 2, "validation": 2, "test": 3}
    for folder in folders:
        write_folder(tmp_path / folder / "things", [(4, 4)] * counts[folder])
    data = ImageFolder(root=tmp_path, validation=1)
    parts = [len(data.images(part)) for part in ("train", "validation", "test")]
    assert parts == list(sizes)


def test_channels_convert(tmp_path):
    colour = images(1, 4, 4, 3)[0]
    write_picture(tmp_path / "colour.png", colour)
    write_picture(tmp_path / "grey.png", colour[..., 0])
    write_picture(tmp_path / "alpha.png", images(1, 4, 4, 4)[0])
    write_picture(tmp_path / "bits.png", colour[..., 0] > 127)
    palette = Image.fromarray(colour).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=bytes(4))
    for channels in (1, 3):
        pixels = np.stack(list(Pictures(tmp_path, channels)))
        assert pixels.shape == (5, 4, 4, channels) and pixels.dtype == np.uint8
    by_name = dict(zip([path.stem for path in Pictures(tmp_path, 3).paths], pixels))
    assert np.array_equal(by_name["colour"], colour)
    assert np.array_equal(by_name["grey"], np.repeat(colour[..., :1], 3, axis=2))
    assert set(np.unique(by_name["bits"])) == {0, 255}


def test_crops_are_drawn_in_training_and_central_in_evaluation(tmp_path):
    pixels = write_folder(tmp_path / "train", [(9, 12), (8, 8), (20, 8)])
    write_folder(tmp_path / "val", [(9, 12), (8, 8), (20, 8)])
    data = ImageFolder(root=tmp_path, crop=8, batch_size=2)
    centre = gather(data.val_dataloader())
    expected = [pixels[0][0:8, 2:10], pixels[1], pixels[2][6:14]]
    assert np.array_equal(centre, np.stack(expected))

    train = data.dataset("train")
    seen = set()
    for epoch in range(60):
        crop = train[epoch, 2]
        assert np.array_equal(crop, train[epoch, 2])
        places = [top for top in range(13) if np.array_equal(pixels[2][top : top + 8], crop)]
        assert len(places) == 1
        seen.update(places)
    assert seen == set(range(13))


def test_flips_mirror_half_of_the_training_images(tmp_path):
    pixels = write_folder(tmp_path / "train", [(4, 4)])[0]
    write_folder(tmp_path / "val", [(4, 4)])
    data = ImageFolder(root=tmp_path, flip=True)
    train = data.dataset("train")
    mirrored = [np.array_equal(train[epoch, 0], pixels[:, ::-1]) for epoch in range(200)]
    assert 70 < sum(mirrored) < 130
    plain = [np.array_equal(train[epoch, 0], pixels) for epoch in range(200)]
    assert all(a != b for a, b in zip(mirrored, plain))
    assert np.array_equal(gather(data.val_dataloader())[0], pixels)
    assert np.array_equal(Crop(None, False, training=True)(pixels, 1), pixels)


def test_small_pictures_are_left_out_with_one_count(tmp_path, caplog):
    write_folder(tmp_path, [(8, 8), (7, 30), (8, 9), (3, 3), (9, 9)])
    write_picture(tmp_path / "deep.png", np.zeros((9, 9), np.uint16))
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(root=tmp_path, crop=8, validation=1)
        assert len(data.images("train")) == 1
    assert caplog.messages == [
        f"{tmp_path}: 3 of 6 pictures left out: smaller than 8x8 or not of 8 bits"
    ]
    with pytest.raises(InputError, match="no picture of at least 99x99; 6 are smaller or not of 8"):
        ImageFolder(root=tmp_path, crop=99).setup("fit")


def test_whole_pictures_must_have_one_size(tmp_path):
    write_folder(tmp_path, [(4, 4), (4, 4), (4, 6)])
    with pytest.raises(
        InputError, match="2.png: found 6x4 pixels, expected 4x4 as 0.png"
    ) as caught:
        ImageFolder(root=tmp_path).setup("fit")
    assert "--data.crop" in caught.value.hint


def test_empty_missing_and_broken(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        ImageFolder(root=tmp_path / "absent").setup("fit")
    with pytest.raises(UsageError, match="no files to read"):
        ImageFolder(root=tmp_path).setup("fit")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="no picture of at least 1x1; found none at all"):
        ImageFolder(root=tmp_path).setup("fit")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, then nothing")
    with pytest.raises(InputError, match="broken.png: cannot be read as an image: ") as caught:
        ImageFolder(root=tmp_path).setup("fit")
    assert "\n" not in str(caught.value)


def test_a_picture_that_breaks_off_is_named(tmp_path):
    write_folder(tmp_path / "val", [(64, 64)])
    write_folder(tmp_path / "train", [(64, 64)])
    path = tmp_path / "val" / "0.png"
    path.write_bytes(path.read_bytes()[:2000])
    data = ImageFolder(root=tmp_path)
    with pytest.raises(InputError, match="^.*0.png: cannot be read as an image: .*$") as caught:
        gather(data.val_dataloader())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"crop": 0}, {"channels": 2}, {"crop": -1, "channels": 4}])
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match="expected 1 or ") as caught:
        ImageFolder(**options)
    assert all(f"{name}: found {value}" in str(caught.value) for name, value in options.items())


@pytest.mark.skipif(not (DATA / "pretrain").is_dir(), reason="real data is not here")
def test_real_photographs():
    data = ImageFolder(root=DATA / "pretrain", crop=64, flip=True, batch_size=16)
    data.setup("fit")
    data.setup("test")
    sizes = [len(data.images(part)) for part in ("train", "validation", "test")]
    assert sizes == [187, 17, 17]
    assert next(iter(data.train_dataloader())).shape == (16, 64, 64, 3)
