"""MNIST and Fashion-MNIST: files in every place and form, binarisation, downloads that fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_files import DATA, gather, images, write_idx, write_mnist

from osoa_pl.datamodules import MNIST, FashionMNIST, binarise
from osoa_pl.errors import InputError, UsageError


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (MNIST, "."),
        (MNIST, "MNIST/raw"),
        (MNIST, "mnist"),
        (FashionMNIST, "."),
        (FashionMNIST, "FashionMNIST/raw"),
        (FashionMNIST, "fashion"),
    ],
)
def test_parts_are_the_official_ones(tmp_path, kind, folder, suffix):
    train, test = write_mnist(tmp_path / folder, suffix=suffix)
    data = kind(root=tmp_path, validation=5, batch_size=4)
    data.setup("fit")
    data.setup("test")
    assert np.array_equal(gather(data.val_dataloader()), train[15:, ..., None])
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        assert np.array_equal(gather(loader), test[..., None])
    batches = list(data.train_dataloader())
    assert [tuple(batch.shape) for batch in batches] == [(4, 28, 28, 1)] * 3 + [(3, 28, 28, 1)]
    assert all(batch.dtype == torch.uint8 for batch in batches)
    seen = sorted(image.tobytes() for image in torch.cat(batches).numpy())
    assert seen == sorted(image.tobytes() for image in train[:15])


def test_the_test_part_needs_no_training_part(tmp_path):
    pixels = write_idx(tmp_path / "t10k-images-idx3-ubyte", images(3, 28, 28))
    data = MNIST(root=tmp_path)
    data.setup("predict")
    assert np.array_equal(gather(data.predict_dataloader()), pixels[..., None])
    with pytest.raises(InputError, match="MNIST: no train-images-idx3-ubyte or "):
        data.setup("fit")


def test_binarise_draws_with_the_probability_of_the_pixel():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4000, 1))
    drawn = binarise(ramp, key=5)
    assert drawn.dtype == np.uint8 and drawn.shape == ramp.shape and set(np.unique(drawn)) == {0, 1}
    share = drawn.mean(0)
    assert share[0] == 0 and share[255] == 1
    assert np.abs(share - np.arange(256) / 255).max() < 5 * 0.5 / np.sqrt(4000)
    assert np.array_equal(drawn, binarise(ramp, key=5))
    assert not np.array_equal(drawn, binarise(ramp, key=6))


def test_binarised_pixels_are_redrawn_every_epoch_in_training_alone(tmp_path):
    write_mnist(tmp_path)

    def part(epoch, name, **options):
        data = MNIST(root=tmp_path, validation=5, binarise=True, **options)
        loader = getattr(data, f"{name}_dataloader")()
        if name == "train":
            loader.sampler.set_epoch(epoch)
        return gather(loader)

    def unordered(pixels):
        return sorted(image.tobytes() for image in pixels)

    for name in ("val", "test"):
        assert np.array_equal(part(0, name), part(3, name, batch_size=3))
        assert not np.array_equal(part(0, name), part(0, name, seed=1))
        assert set(np.unique(part(0, name))) == {0, 1}
    first = part(0, "train")
    assert np.array_equal(first, part(0, "train", batch_size=3))
    assert set(unordered(first)).isdisjoint(unordered(part(1, "train")))
    assert set(unordered(first)).isdisjoint(unordered(part(0, "train", seed=1)))


def test_limit_cuts_training_after_the_validation_images_are_set_aside(tmp_path):
    train, _ = write_mnist(tmp_path)
    data = MNIST(root=tmp_path, validation=5, limit=6)
    data.setup("fit")
    assert len(data.images("train")) == 6 and len(data.images("validation")) == 5
    assert np.array_equal(data.images("train")[5], train[5, ..., None])
    assert len(MNIST(root=tmp_path, validation=5, limit=600).images("train")) == 15


@pytest.mark.parametrize("size", [20, 21])
def test_validation_cannot_take_all(tmp_path, size):
    write_mnist(tmp_path)
    message = f"^validation: found {size} images to hold out, expected fewer than the 20 of the "
    with pytest.raises(UsageError, match=message):
        MNIST(root=tmp_path, validation=size).setup("fit")


def test_nothing_need_be_held_out(tmp_path):
    write_mnist(tmp_path)
    data = MNIST(root=tmp_path, validation=0)
    assert data.val_dataloader() == [] and len(data.images("train")) == 20


def test_missing_files_are_named_with_places_and_a_hint(tmp_path):
    with pytest.raises(InputError) as caught:
        MNIST(root=tmp_path / "absent").setup("test")
    message = str(caught.value)
    assert message == (
        "MNIST: no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz in "
        f"{tmp_path}/absent, {tmp_path}/absent/MNIST/raw, {tmp_path}/absent/mnist"
    )
    assert caught.value.hint == "--data.download true"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an npy, npz or IDX file"),
        (b"\0\0\x08\x03\0\0\0\x02\0\0\0\x1c\0\0\0\x1c" + bytes(784), "truncated array"),
        (b"\0\0\x08\x03\0\0\0\x01\0\0\0\x08\0\0\0\x08" + bytes(64), "found images of 8x8x1, exp"),
        (b"\0\0\x08\x03\0\0\0\0\0\0\0\x1c\0\0\0\x1c", "holds no images"),
        (b"\0\0\x08\x01\0\0\0\x03abc", "not an npy, npz or IDX file"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        MNIST(root=tmp_path).setup("test")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_downloaded_unless_asked_for_and_missing(tmp_path, monkeypatch):
    from torchvision import datasets

    def refuse(*args, **options):
        raise AssertionError("downloads")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    MNIST(root=tmp_path).prepare_data()
    write_mnist(tmp_path)
    MNIST(root=tmp_path, download=True).prepare_data()


def test_a_download_is_found_and_prints_no_result(tmp_path, monkeypatch, capsys):
    from torchvision import datasets

    def fetch(data_set, root, *, download):
        print("Extracting")
        write_mnist(root / "FashionMNIST" / "raw")

    monkeypatch.setattr(datasets.FashionMNIST, "__init__", fetch)
    data = FashionMNIST(root=tmp_path, download=True)
    data.prepare_data()
    data.setup("test")
    assert len(data.images("test")) == 8
    assert capsys.readouterr().out == ""


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", [(tmp_path / "no").as_uri() + "/"])
    with pytest.raises(
        InputError, match="^MNIST: cannot be downloaded to .*: Error down"
    ) as caught:
        MNIST(root=tmp_path, download=True).prepare_data()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="real data is not here")
def test_real_files():
    data = MNIST(root=DATA)
    data.setup("fit")
    data.setup("test")
    sizes = [len(data.images(part)) for part in ("train", "validation", "test")]
    assert sizes == [55000, 5000, 10000]
    batch = next(iter(data.train_dataloader()))
    assert batch.shape == (64, 28, 28, 1) and 20 < batch.float().mean() < 50
    fashion = FashionMNIST(root=DATA)
    fashion.setup("test")
    assert len(fashion.images("test")) == 10000
    with pytest.raises(InputError, match="FashionMNIST: no train-images"):
        fashion.setup("fit")
