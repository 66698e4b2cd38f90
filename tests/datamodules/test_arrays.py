"""Array files: npy, npz, IDX; parts that are given and parts that are held out."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from fake_files import gather, images, write_idx

from osoa_pl.datamodules import Arrays
from osoa_pl.errors import InputError, UsageError


def write_npy(path, pixels):
    np.save(path, pixels)


def write_npz(path, pixels):
    np.savez_compressed(path, images=pixels, labels=np.arange(3.0))


def write_npz_of_another_name(path, pixels):
    np.savez(path, arr=pixels)


@pytest.mark.parametrize(
    ("name", "writer", "shape"),
    [
        ("a.npy", write_npy, (5, 4)),
        ("a.npy", write_npy, (5, 4, 3)),
        ("a.npz", write_npz, (5, 4, 1)),
        ("a.npz", write_npz_of_another_name, (5, 4, 3)),
        ("a.idx", write_idx, (5, 4)),
        ("a.gz", write_idx, (5, 4)),
    ],
)
def test_every_kind_of_file(tmp_path, name, writer, shape):
    pixels = images(7, *shape)
    writer(tmp_path / name, pixels)
    data = Arrays(train_file=tmp_path / name, test_file=name, root=tmp_path, validation=2)
    data.setup("test")
    assert np.array_equal(gather(data.test_dataloader()), pixels.reshape(7, 5, 4, -1))


def test_parts_that_are_given(tmp_path):
    parts = {name: images(n, 4, 4, seed=n) for name, n in [("a", 5), ("b", 3), ("c", 2)]}
    for name, pixels in parts.items():
        np.save(tmp_path / f"{name}.npy", pixels)
    data = Arrays(train_file="a.npy", validation_file="b.npy", test_file="c.npy", root=tmp_path)
    assert len(gather(data.train_dataloader())) == 5
    assert np.array_equal(gather(data.val_dataloader())[..., 0], parts["b"])
    assert np.array_equal(gather(data.predict_dataloader())[..., 0], parts["c"])


def test_parts_that_are_held_out_are_apart_and_drawn_by_seed(tmp_path):
    pixels = images(20, 4, 4)
    np.save(tmp_path / "all.npy", pixels)

    def parts(**options):
        data = Arrays(train_file="all.npy", root=tmp_path, validation=4, **options)
        return [data.images(part) for part in ("train", "validation", "test")]

    numbers = [list(part.indices) for part in parts()]
    assert [len(part) for part in numbers] == [12, 4, 4]
    assert sorted(sum(numbers, [])) == list(range(20))
    assert all(part == sorted(part) for part in numbers)
    assert numbers == [list(part.indices) for part in parts()]
    assert numbers != [list(part.indices) for part in parts(seed=1)]
    assert len(parts(limit=3)[0]) == 3
    np.save(tmp_path / "test.npy", pixels)
    assert [len(part) for part in parts(test_file="test.npy")] == [16, 4, 20]


def test_an_npy_file_is_mapped(tmp_path):
    np.save(tmp_path / "a.npy", images(5, 4, 4, 3))
    data = Arrays(train_file="a.npy", test_file="a.npy", root=tmp_path)
    assert isinstance(data.images("test").base, np.memmap)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.save(path, np.zeros((3, 4, 4))), "float64 array, expected uint8"),
        (lambda path: np.save(path, np.zeros((3, 4), np.uint8)), "holds no images"),
        (lambda path: np.save(path, np.zeros((0, 4, 4), np.uint8)), "holds no images"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\0"), "cannot be read as an array"),
        (lambda path: path.write_bytes(b"text"), "not an npy, npz or IDX file of uint8 images"),
    ],
)
def test_broken_files_are_named(tmp_path, write, message):
    path = tmp_path / "a.npy"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        Arrays(train_file=path).setup("fit")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a": np.zeros(1), "b": np.zeros(1)}, "found a, b, expected images"),
        ({"images": np.zeros((2, 4, 4))}, r"found float64 \(2, 4, 4\), expected uint8 \(n, h, w\)"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, r"found uint8 \(2, 4, 4, 4\), expected"),
        ({"images": np.array([{}])}, "cannot be read as an npz file: Object arrays cannot be"),
    ],
)
def test_broken_npz_files_are_named(tmp_path, members, message):
    path = tmp_path / "a.npz"
    np.savez(path, **members)
    with pytest.raises(InputError, match=message):
        Arrays(train_file=path).setup("fit")


def test_a_truncated_npz_and_a_foreign_member(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=images(3, 4, 4))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="a.npz: cannot be read as an array"):
        Arrays(train_file=path).setup("fit")
    with zipfile.ZipFile(path, "w") as pack:
        pack.writestr("notes.txt", b"notes")
    with pytest.raises(InputError, match="a.npz: cannot be read as an npz file"):
        Arrays(train_file=path).setup("fit")


def test_files_that_are_missing(tmp_path):
    with pytest.raises(InputError, match="a.npy: no such file") as caught:
        Arrays(train_file="a.npy", root=tmp_path).setup("fit")
    assert caught.value.hint == "set --data.train_file"
    np.save(tmp_path / "a.npy", images(5, 4, 4))
    with pytest.raises(UsageError, match="found 100 images to hold out twice"):
        Arrays(train_file="a.npy", root=tmp_path).setup("test")
