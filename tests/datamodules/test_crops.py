"""Collections of crops: exact in number, drawn by seed, no pixel twice."""

from __future__ import annotations

import numpy as np
import pytest
from fake_files import DATA, gather, images, write_folder, write_picture

from osoa_pl.datamodules import ImageCrops, sample_crops
from osoa_pl.errors import InputError, UsageError


def numbered(n, height, width):
    """uint8 (n, height, width, 3): every pixel names its picture, row and column."""
    picture, row, column = np.mgrid[0:n, 0:height, 0:width]
    return np.stack([picture, row, column], axis=-1).astype(np.uint8)


@pytest.fixture
def array_file(tmp_path):
    path = tmp_path / "pictures.npy"
    np.save(path, numbered(6, 22, 17))
    return path


def test_crops_are_squares_of_the_pictures_and_share_no_pixel(array_file):
    crops = sample_crops(array_file, count=72, side=5)
    assert crops.shape == (72, 5, 5, 3) and crops.dtype == np.uint8
    row, column = np.mgrid[0:5, 0:5]
    for crop in crops:
        picture, top, left = crop[0, 0]
        assert np.array_equal(crop, np.stack([picture + 0 * row, top + row, left + column], -1))
    assert len(np.unique(crops.reshape(-1, 3), axis=0)) == 72 * 25


def test_pictures_take_turns(array_file):
    pictures = sample_crops(array_file, count=20, side=5)[:, 0, 0, 0]
    for start in (0, 6, 12):
        assert sorted(pictures[start : start + 6]) == list(range(6))
    assert len(set(pictures[18:])) == 2
    assert sorted(pictures[:6]) != list(pictures[:6])


def test_crops_depend_on_the_seed_alone(array_file):
    crops = sample_crops(array_file, count=30, side=5, seed=3)
    assert np.array_equal(crops, sample_crops(array_file, count=30, side=5, seed=3))
    assert np.array_equal(crops[:7], sample_crops(array_file, count=7, side=5, seed=3))
    assert not np.array_equal(crops, sample_crops(array_file, count=30, side=5, seed=4))


def test_a_folder_of_many_sizes(tmp_path):
    sizes = [(8, 8), (16, 24), (7, 40), (11, 9)]
    for number, (height, width) in enumerate(sizes):
        write_picture(tmp_path / f"{number}.png", numbered(number + 1, height, width)[number])
    crops = sample_crops(tmp_path, count=1 + 6 + 1, side=8)
    assert sorted(crops[:, 0, 0, 0]) == [0, 1, 1, 1, 1, 1, 1, 3]
    assert sample_crops(tmp_path, count=2, side=8, channels=1).shape == (2, 8, 8, 1)
    with pytest.raises(UsageError, match="found 9 squares of 8x8 asked for, expected at most 8 fr"):
        sample_crops(tmp_path, count=9, side=8)


def test_the_data_module_gives_the_collection(array_file):
    data = ImageCrops(root=array_file, count=20, side=5, seed=3, validation=4, batch_size=6)
    data.setup("fit")
    data.setup("predict")
    expected = sample_crops(array_file, count=20, side=5, seed=3)
    assert np.array_equal(data.collection(), expected)
    assert np.array_equal(gather(data.predict_dataloader()), expected)
    assert np.array_equal(gather(data.val_dataloader()), expected[16:])
    assert sorted(map(bytes, gather(data.train_dataloader()))) == sorted(map(bytes, expected[:16]))
    alone = ImageCrops(root=array_file, count=20, side=5)
    assert alone.val_dataloader() == [] and len(alone.images("train")) == 20


def test_mistakes_are_named(tmp_path, array_file):
    with pytest.raises(
        UsageError, match="^count: found 0, expected 1 or more; side: found -1, exp"
    ):
        ImageCrops(root=array_file, count=0, side=-1)
    with pytest.raises(UsageError, match="side: found 0, expected 1 or more"):
        sample_crops(array_file, count=1, side=0)
    with pytest.raises(InputError, match="found images of 3 channels, expected 1") as caught:
        sample_crops(array_file, count=1, side=4, channels=1)
    assert caught.value.hint == "--data.channels 3"
    with pytest.raises(UsageError, match="expected at most 0 from 6 pictures"):
        sample_crops(array_file, count=1, side=20)
    with pytest.raises(UsageError, match="absent: no such file or folder"):
        ImageCrops(root=tmp_path / "absent").setup("fit")
    write_folder(tmp_path / "small", [(4, 4)])
    with pytest.raises(InputError, match="no picture of at least 32x32"):
        ImageCrops(root=tmp_path / "small").setup("test")
    np.save(tmp_path / "rgba.npy", images(2, 8, 8, 4))
    with pytest.raises(InputError, match="rgba.npy: found uint8 .2, 8, 8, 4."):
        ImageCrops(root=tmp_path / "rgba.npy").setup("test")


@pytest.mark.skipif(not (DATA / "pretrain").is_dir(), reason="real data is not here")
def test_real_photographs():
    crops = sample_crops(DATA / "pretrain" / "val", count=100, side=32)
    assert crops.shape == (100, 32, 32, 3) and len(np.unique(crops, axis=0)) == 100
