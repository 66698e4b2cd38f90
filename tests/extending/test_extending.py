"""docs/extending.md, followed: its model and its data train, compress, and err as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_model
import torch
from fakes import picture
from tiny_data import RawPictures
from tiny_model import FAMILY, PRECISION, Tiny, TinyModel, mass_below, read

import osoa_pl
from osoa_pl.arith import OperationChecker, OperationRefused
from osoa_pl.errors import CheckpointError, CoderError, DamagedArchiveError, InputError, UsageError
from osoa_pl.models import family, zoo
from osoa_pl.models.checkpoint import Checkpoint
from osoa_pl.models.density import tiles
from osoa_pl.models.features import TileBatch, fill_tile, make_batch
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings
from osoa_pl.online.session import Session
from osoa_pl.train.cli import run

HERE = Path(__file__).resolve().parent
PAGE = (HERE.parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SHAPES = [(7, 7), (25, 5), (1, 1), (3, 15), (7, 7), (7, 8)]  # the second is cut into strips
IMAGES = [picture(height, width, 1, seed) for seed, (height, width) in enumerate(SHAPES)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def pictures(count: int, first: int = 0) -> np.ndarray:
    return np.stack([picture(12, 12, 1, seed) for seed in range(first, first + count)])


def test_every_block_stands_in_a_file() -> None:
    names = ("tiny_model.py", "tiny_data.py", Path(__file__).name)
    sources = [(HERE / name).read_text(encoding="utf-8") for name in names]
    assert len(blocks("python")) > 8
    for block in blocks("python"):
        forms = (block, textwrap.indent(block, "    "))
        assert any(form in source for form in forms for source in sources), block


# The model by itself.


def session(kind: type[TinyModel] = TinyModel) -> Session:
    density = Tiny()
    model = kind(density.config, density.flat.detach(), torch.full((1,), 4.0))
    second_moment = torch.full_like(model.parameters, 1e-4)
    settings = BatchSettings(batch_pixels=64, first_pixels=64, segment_batches=2, streams=2)
    policy = OnlineAdaptation(step_size=0.02)
    return Session(model, policy, second_moment, SHAPES, settings)


def come_back(kind: type[TinyModel] = TinyModel) -> list[np.ndarray]:
    segments = list(session(kind).encode(IMAGES))
    return list(session(kind).decode([(s.header, s.streams) for s in segments]))


def test_session() -> None:
    encoder, decoder = session(), session()
    with OperationChecker():
        segments = list(encoder.encode(IMAGES))
        restored = list(decoder.decode([(s.header, s.streams) for s in segments]))
    assert all(np.array_equal(a, b) for a, b in zip(IMAGES, restored, strict=True))
    assert len(segments) > 1
    for segment in segments:
        assert sum(segment.batch_bits) == pytest.approx(segment.ideal_bits, rel=0.01, abs=8)


def test_inputs_come_from_pixels_before() -> None:
    model = session().model
    batch = make_batch([(7, 5)], 1, [None])
    fill_tile(batch, 0, IMAGES[0][:, :5])
    order = model.order(batch, 0, 1)  # type: ignore[attr-defined]
    assert sorted(order) == list(range(35))
    before = [part[order] for part in read(batch)[:2]]
    for place in range(35):
        changed = make_batch([(7, 5)], 1, [None])
        pixels = batch.tile(0).copy()
        pixels.reshape(-1)[order[place]] ^= 85
        fill_tile(changed, 0, pixels)
        after = [part[order] for part in read(changed)[:2]]
        assert all(torch.equal(a[: place + 1], b[: place + 1]) for a, b in zip(before, after))


def test_every_value_has_an_interval() -> None:
    centres = torch.tensor([-1e30, -3.0, 0.0, 127.3, 255.5, 1e30], dtype=torch.float64)
    for width in tiny_model.WIDTHS:
        inverse = torch.full((6, 1), width, dtype=torch.float64).neg().exp()
        edges = mass_below(torch.arange(257).unsqueeze(0), centres.unsqueeze(1), inverse)
        assert int(edges.diff().min()) >= 3
        assert edges[:, 0].eq(0).all() and edges[:, 256].eq(1 << PRECISION).all()


def test_both_forms_agree() -> None:
    images = torch.from_numpy(pictures(8))
    losses, gradients = [], []
    for form in ("native", "exact"):
        density = Tiny(form=form)  # type: ignore[arg-type]
        density.activation_max.fill_(4.0)
        loss = density(images, 0)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        assert density.flat.grad is not None
        gradients.append(density.flat.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99


# The whole way: fit, export, compress, decompress.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page ran; `others.npy` is to be compressed, `site` is an installation."""
    here = tmp_path_factory.mktemp("tiny")
    (here / "data").mkdir()
    (here / "data" / "train.raw").write_bytes(pictures(44).tobytes())
    (here / "data" / "test.raw").write_bytes(pictures(6, 50).tobytes())
    np.save(here / "others.npy", 255 - pictures(8, 100))
    (here / "tiny.yaml").write_text(blocks("yaml")[0])
    installed = here / "site" / "tiny-0.1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 0.1\n")
    ((group, names),) = tomllib.loads(blocks("toml")[0])["project"]["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in names.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        outcome = run(["fit", "-c", "tiny.yaml"], quiet=True)
    assert outcome is not None and outcome.exported == ["tiny.safetensors"]
    assert outcome.metrics["val/bits_per_dim"] < 5.0  # 5.25 with the first weights
    return here


def test_adapts_and_comes_back_with_any_threads(folder: Path, tmp_path: Path) -> None:
    images, checkpoint = 255 - pictures(64, 100), str(folder / "tiny.safetensors")
    archives, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = tmp_path / f"{threads}.osoa"
            osoa_pl.compress(
                images,
                out,
                checkpoint=checkpoint,
                adaptation="online",
                step_size=0.02,
                model_only=True,
            )
            archives.append(out.read_bytes())
        restored = osoa_pl.decompress(tmp_path / "1.osoa", checkpoint=checkpoint)
    finally:
        torch.set_num_threads(before)
    assert archives[0] == archives[1]
    assert all(np.array_equal(a, b) for a, b in zip(images, restored, strict=True))
    osoa_pl.compress(
        images, tmp_path / "plain.osoa", checkpoint=checkpoint, adaptation="none", model_only=True
    )
    assert len(archives[0]) < (tmp_path / "plain.osoa").stat().st_size


def osoa(folder: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "osoa_pl", *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def test_commands_find_the_family(folder: Path) -> None:
    path = os.pathsep.join([str(folder / "site"), str(HERE)])
    options = ("--checkpoint", "tiny.safetensors", "--embed-checkpoint", "--adaptation", "online")
    made = osoa(folder, "compress", "others.npy", "-o", "others.osoa", *options, path=path)
    assert made.returncode == 0, made.stderr
    opened = osoa(folder, "decompress", "others.osoa", "-o", "restored", path=path)
    assert opened.returncode == 0, opened.stderr
    images = np.load(folder / "others.npy")
    assert np.array_equal(np.load(folder / "restored" / "others.npy"), images)
    absent = osoa(folder, "decompress", "others.osoa", "-o", "again")
    assert absent.returncode == CheckpointError.exit_code == 5
    assert "unknown model family 'tiny' (known: local_ar, memory_ar, vae)" in absent.stderr
    assert "unknown model family 'tiny' (known: local_ar, memory_ar, vae)" in PAGE
    assert not (folder / "again").exists()


# The data by itself.


def test_data(folder: Path, tmp_path: Path) -> None:
    data = RawPictures(root=folder / "data", turn=True, batch_size=44)
    images = [data.images(part) for part in ("train", "validation", "test")]
    assert [len(part) for part in images] == [40, 4, 6]
    assert np.array_equal(images[1][0], pictures(1, 40)[0])
    (batch,) = data.train_dataloader()
    assert batch.shape == (40, 12, 12, 1) and batch.dtype == torch.uint8
    stored = {image.tobytes() for image in pictures(40)}
    assert 5 < sum(image.numpy().tobytes() in stored for image in batch) < 35
    (tmp_path / "train.raw").write_bytes(bytes(100))
    with pytest.raises(InputError, match="found 100 bytes, expected a multiple of 144"):
        RawPictures(root=tmp_path).images("train")


# Mistakes: the page quotes what each looks like.


class ZeroFrequency(TinyModel):
    def intervals(self, batch: TileBatch) -> tuple[np.ndarray, np.ndarray]:
        start, frequency = super().intervals(batch)
        frequency[0] = 0
        return start, frequency


class OtherOrder(TinyModel):
    def order(self, batch: TileBatch, stream: int, streams: int) -> np.ndarray:
        return super().order(batch, stream, streams)[::-1]


class ShortGradient(TinyModel):
    def gradient(self, batch: TileBatch, seed: int, counter: int) -> torch.Tensor:
        return super().gradient(batch, seed, counter)[:-1]


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (ZeroFrequency, CoderError, "freq 0 is no interval of [0, 65536) with freq >= 1"),
        (OtherOrder, DamagedArchiveError, "code words are left over"),
        (ShortGradient, UsageError, "found gradient torch.float32 (49,) (expected float32 (50,))"),
    ],
)
def test_mistakes_in_the_model(kind: type[TinyModel], error: type, message: str) -> None:
    with pytest.raises(error) as raised:
        come_back(kind)
    assert message in str(raised.value) and message in PAGE


def test_a_function_of_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model.functions, "sigmoid", torch.sigmoid)
    message = "aten.sigmoid.default: not in the list of portable operations"
    model = session().model
    with OperationChecker(), pytest.raises(OperationRefused) as raised:
        model.bits(tiles(torch.from_numpy(pictures(1))), 0, 0)
    assert message in str(raised.value) and message in PAGE


def test_mistakes_in_the_checkpoint() -> None:
    density = Tiny()
    weights, moment = density.flat.detach(), torch.ones(50)
    short = {"grey": (density.config, weights[:-1], torch.ones(1), moment)}
    whole = {"grey": (density.config, weights, torch.ones(1), moment)}
    for entries, channels, message in (
        (short, 1, "tensor 'grey.parameters' is missing or of the wrong shape"),
        (whole, 3, "has no model for rgb pixels (grey)"),
    ):
        with pytest.raises(CheckpointError) as raised:
            zoo.build(Checkpoint("tiny", zoo.pack(entries, family="tiny")), channels)
        assert message in str(raised.value) and message in PAGE


def test_a_name_is_taken_once() -> None:
    for name, message in (("tiny", "is taken by tiny_model"), ("vae", "is built in")):
        with pytest.raises(UsageError) as raised:
            family.register(replace(FAMILY, name=name, build=lambda *_: session().model))
        assert str(raised.value) == f"model family {name!r} {message}"
        assert f"model family {name!r} {message}" in PAGE
    assert family.register(FAMILY) is family.find("tiny") is FAMILY


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.model", "tiny_modl.Tiny"],
         "cannot import tiny_modl.Tiny: no module named 'tiny_modl'"),
        (["--model.model", "tiny_model.TinyModel"], "model.model: TinyModel is not a Density"),
        (["--data.root", "elsewhere"], "RawPictures: no train.raw in elsewhere"),
        (["--data.validation", "44"], "validation: found 44 images to hold out"),
    ],
)  # fmt: skip
def test_mistakes_in_the_config(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises((UsageError, InputError)) as raised:
        run(["fit", "-c", "tiny.yaml", "--trainer.callbacks", "null", *words], quiet=True)
    assert message in str(raised.value) and message in PAGE
