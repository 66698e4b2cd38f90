"""Tiny data sets in the layouts of the real ones, and a model that notes what it is given."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule
from PIL import Image

DATA = Path(__file__).parents[3] / "shared" / "data"

LIGHTNING_WARNINGS = (
    "ignore:The '.*_dataloader' does not have many workers",  # the tests read in the main process
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # its use of torch
)


def images(n, *shape, seed=0):
    """Random uint8 (n, *shape)."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_idx(path, pixels):
    """IDX file of uint8 (n, h, w), compressed where the name ends in .gz; returns the pixels."""
    content = struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return pixels


def write_mnist(folder, train=20, test=8, suffix=""):
    """(train, test) uint8 (n, 28, 28) written as MNIST's files."""
    parts = images(train, 28, 28), images(test, 28, 28, seed=1)
    for name, pixels in zip(("train", "t10k"), parts):
        write_idx(folder / f"{name}-images-idx3-ubyte{suffix}", pixels)
    return parts


def planar(pixels):
    """uint8 (n, 3 * h * w), channel by channel, of uint8 (n, h, w, 3)."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)


def write_pickle(path, content, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def write_old_pickle(path, data):
    """{'data': data} as numpy wrote it under Python 2: text for bytes, old module names."""
    rows, columns = data.shape
    content = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + (b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86")
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        + b"K\x00tb\x89"
        + (b"T" + struct.pack("<i", data.size) + data.tobytes())
        + b"tbs."
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_picture(path, pixels, **options):
    """Picture file of uint8 (h, w) or (h, w, c)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write_folder(folder, sizes, channels=3):
    """PNG files 0.png, 1.png, ... of (height, width) `sizes`; returns their pixels."""
    pixels = [images(1, h, w, channels, seed=i)[0] for i, (h, w) in enumerate(sizes)]
    for number, picture in enumerate(pixels):
        write_picture(folder / f"{number}.png", picture.squeeze())
    return pixels


def gather(loader):
    """uint8 (n, h, w, c): all batches of a loader in one."""
    return torch.cat(list(loader)).numpy()


class Recorder(LightningModule):
    """Trains one weight on nothing and keeps (epoch, bytes of the batch) of every step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        assert batch.dtype == torch.uint8
        self.seen.append((self.trainer.current_epoch, batch.numpy().tobytes()))
        return self.weight * batch.float().mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch.numpy().tobytes())

    def test_step(self, batch, batch_idx):
        pass

    def predict_step(self, batch, batch_idx):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
