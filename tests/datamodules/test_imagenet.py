"""Downsampled ImageNet: pickles and npz, in the root or in the folders of the archives."""

from __future__ import annotations

import numpy as np
import pytest
from fake_files import gather, images, planar, write_pickle

from osoa_pl.datamodules import ImageNet32, ImageNet64
from osoa_pl.errors import InputError


def write(folder, side, *, npz, files=10):
    """3 images a training file, 4 to validate; returns them, uint8 (n, side, side, 3)."""
    folder.mkdir(parents=True, exist_ok=True)
    train, validation = images(3 * files, side, side, 3), images(4, side, side, 3, seed=1)
    parts = {f"train_data_batch_{i + 1}": train[3 * i :][:3] for i in range(files)}
    for name, pixels in (parts | {"val_data": validation}).items():
        content = {"data": planar(pixels), "labels": np.arange(3), "mean": np.zeros(3)}
        if npz:
            np.savez(folder / f"{name}.npz", **content)
        else:
            write_pickle(folder / name, content, protocol=4)
    return train, validation


@pytest.mark.parametrize("npz", [True, False])
@pytest.mark.parametrize(
    ("kind", "side", "folder"),
    [
        (ImageNet32, 32, "."),
        (ImageNet32, 32, "Imagenet32_train_npz"),
        (ImageNet64, 64, "."),
        (ImageNet64, 64, "imagenet64"),
    ],
)
def test_parts(tmp_path, kind, side, folder, npz):
    train, validation = write(tmp_path / folder, side, npz=npz)
    data = kind(root=tmp_path, batch_size=7)
    data.setup("fit")
    data.setup("predict")
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert np.array_equal(gather(loader), validation)
    assert sorted(map(bytes, gather(data.train_dataloader()))) == sorted(map(bytes, train))
    assert np.array_equal(data.images("train")[4], train[4])


def test_both_sizes_may_lie_beside_each_other(tmp_path):
    write(tmp_path / "Imagenet64_val", 64, npz=True)
    _, validation = write(tmp_path / "Imagenet32_val", 32, npz=True)
    data = ImageNet32(root=tmp_path)
    data.setup("test")
    assert np.array_equal(gather(data.test_dataloader()), validation)


def test_limit_opens_only_the_files_it_needs(tmp_path):
    train, _ = write(tmp_path, 32, npz=True, files=2)
    data = ImageNet32(root=tmp_path, limit=5)
    data.setup("fit")
    assert len(data.images("train")) == 5
    assert np.array_equal(data.images("train")[4], train[4])
    with pytest.raises(
        InputError, match="ImageNet 32x32: no train_data_batch_3 or .*3.npz in "
    ) as e:
        ImageNet32(root=tmp_path, limit=7).setup("fit")
    assert "image-net.org" in e.value.hint


def test_another_size_is_refused(tmp_path):
    write(tmp_path, 32, npz=True)
    with pytest.raises(InputError, match=r"found uint8 \(4, 3072\), expected uint8 \(n, 12288\)"):
        ImageNet64(root=tmp_path).setup("validate")


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut off", b"", b"\x80\x02}"])
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "val_data.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="neither an npz file nor a pickle") as caught:
        ImageNet32(root=tmp_path).setup("test")
    assert str(caught.value).startswith(f"{path}: ")


def test_an_npz_without_data_names_what_it_has(tmp_path):
    np.savez(tmp_path / "val_data.npz", images=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(InputError, match="val_data.npz: found images, labels, expected data"):
        ImageNet32(root=tmp_path).setup("test")
