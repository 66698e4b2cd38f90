"""CIFAR-10: pickles of both Pythons, an npz, and pickles that ask for more than arrays."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from fake_files import DATA, gather, images, planar, write_old_pickle, write_pickle

from osoa_pl.datamodules import CIFAR10
from osoa_pl.errors import InputError, UsageError

NAMES = [f"data_batch_{number}" for number in range(1, 6)]


def old(path, data):
    write_old_pickle(path, data)


def text_keys(path, data):
    write_pickle(path, {"data": data, "labels": list(range(len(data))), "batch_label": "one of 5"})


def byte_keys(path, data):
    write_pickle(path, {b"data": data, b"filenames": [b"cat.png"]}, protocol=5)


@pytest.mark.parametrize("writer", [old, text_keys, byte_keys])
@pytest.mark.parametrize("folder", [".", "cifar-10-batches-py"])
def test_pickles(tmp_path, folder, writer):
    pixels = images(24, 32, 32, 3)
    for number, name in enumerate([*NAMES, "test_batch"]):
        writer(tmp_path / folder / name, planar(pixels[4 * number :][:4]))
    data = CIFAR10(root=tmp_path, validation=6, batch_size=4)
    data.setup("fit")
    data.setup("test")
    assert np.array_equal(gather(data.val_dataloader()), pixels[14:20])
    assert np.array_equal(gather(data.test_dataloader()), pixels[20:])
    train = gather(data.train_dataloader())
    assert sorted(map(bytes, train)) == sorted(map(bytes, pixels[:14]))
    assert [data.images("train")[index].tobytes() for index in (0, 3, 4, 13)] == [
        pixels[index].tobytes() for index in (0, 3, 4, 13)
    ]


@pytest.mark.parametrize("as_root", [False, True])
def test_an_array_file_has_no_test_part(tmp_path, as_root):
    pixels = images(10, 32, 32, 3)
    path = tmp_path / "cifar10.npz"
    np.savez_compressed(path, images=pixels, labels=np.arange(10))
    data = CIFAR10(root=path if as_root else tmp_path, validation=3)
    data.setup("fit")
    data.setup("test")
    assert np.array_equal(gather(data.val_dataloader()), pixels[7:])
    assert np.array_equal(gather(data.test_dataloader()), pixels[4:7])
    assert len(data.images("train")) == 4
    with pytest.raises(UsageError, match="found 5 images to hold out twice .validation and test.,"):
        CIFAR10(root=path, validation=5).setup("test")
    with pytest.raises(UsageError, match="no test part"):
        CIFAR10(root=path, validation=0).test_dataloader()


def test_pickles_come_before_an_array_file(tmp_path):
    np.savez(tmp_path / "cifar10.npz", images=images(10, 32, 32, 3))
    old(tmp_path / "data_batch_1", planar(images(4, 32, 32, 3)))
    with pytest.raises(InputError, match="CIFAR-10: no data_batch_2 in .*cifar-10-batches-py") as e:
        CIFAR10(root=tmp_path).setup("fit")
    assert e.value.hint.startswith("--data.download true, or put a cifar10.npz")


class Command:
    """A pickle of it runs a command when it is read without care."""

    def __reduce__(self):
        return os.system, ("touch run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"data": Command()}), "asks for posix.system; only arrays are read"),
        (pickle.dumps({"data": np.array([Command()])}), "asks for posix.system; only arrays"),
        (b"cbuiltins\neval\n(U\x011tR.", "asks for builtins.eval; only arrays are read"),
        (b"c_codecs\nencode\n(X\x01\0\0\0aU\x04zliptR.", "asks for encoding 'zlip'"),
        (b"garbage", "neither an npz file nor a pickle of arrays"),
        (b"", "neither an npz file nor a pickle of arrays"),
        (pickle.dumps([1]), "found no array under the key data"),
        (pickle.dumps({"data": [1, 2]}), "found no array under the key data"),
        (pickle.dumps({"data": np.zeros((2, 3072))}), r"found float64 \(2, 3072\), expected uint8"),
        (pickle.dumps({"data": np.zeros((0, 3072), np.uint8)}), r"found uint8 \(0, 3072\), expect"),
        (pickle.dumps({"data": np.zeros((2, 3, 32, 32), np.uint8)}), "expected uint8 .n, 3072.: R"),
    ],
)
def test_pickles_that_are_broken_or_dangerous(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "test_batch"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        CIFAR10(root=tmp_path).setup("test")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_array_of_another_size_is_refused(tmp_path):
    np.savez(tmp_path / "cifar10.npz", images=images(10, 28, 28))
    with pytest.raises(InputError, match=r"found array \(10, 28, 28, 1\), expected \(n, 32, 32, 3"):
        CIFAR10(root=tmp_path).setup("fit")


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "no.tar.gz").as_uri())
    with pytest.raises(InputError, match="^CIFAR10: cannot be downloaded to "):
        CIFAR10(root=tmp_path, download=True).prepare_data()
    CIFAR10(root=tmp_path).prepare_data()
    np.savez(tmp_path / "cifar10.npz", images=images(10, 32, 32, 3))
    CIFAR10(root=tmp_path, download=True).prepare_data()


@pytest.mark.skipif(not (DATA / "cifar10.npz").is_file(), reason="real data is not here")
def test_real_file():
    data = CIFAR10(root=DATA, validation=100)
    data.setup("fit")
    data.setup("test")
    assert [len(data.images(part)) for part in ("train", "validation", "test")] == [1300, 100, 100]
    assert next(iter(data.train_dataloader())).shape == (64, 32, 32, 3)
