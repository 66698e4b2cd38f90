"""The OSOA loop: the bytes of `compress`, whatever happens on the way, and its curves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import picture, small_vae
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import osoa_pl
from osoa_pl.errors import OsoaError, OutputExistsError, UsageError
from osoa_pl.models.zoo import pack
from osoa_pl.train.loop import OSOALoop, ReplayOptimizer
from osoa_pl.train.osoa import OSOAOptions, compress_with_trainer, run

CONFIGS = Path(__file__).parents[2]
SETTINGS = {"batch_pixels": 256, "first_pixels": 128, "segment_batches": 3}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*LeafSpec:DeprecationWarning",
    "ignore:.*does not have many workers",
)


@pytest.fixture(scope="module")
def collection(tmp_path_factory, checkpoint_path):
    """(folder of mixed arrays, options in common, the archive of `compress`)."""
    folder = tmp_path_factory.mktemp("collection")
    inputs = folder / "in"
    inputs.mkdir()
    for channels, name in ((3, "colour"), (1, "grey")):
        made = np.stack([picture(12, 14, channels, i) for i in range(14)])
        np.save(inputs / f"{name}.npy", made)
    (inputs / "note.txt").write_text("kept")
    osoa_pl.compress(
        inputs, folder / "direct.osoa", checkpoint=checkpoint_path, adaptation="online",
        step_size=2e-3, settings=SETTINGS,
    )  # fmt: skip
    return inputs, (folder / "direct.osoa").read_bytes()


def options(collection, checkpoint_path, output, **more):
    return OSOAOptions(
        inputs=[str(collection[0])], output=str(output), checkpoint=checkpoint_path,
        step_size=2e-3, settings=SETTINGS, **more,
    )  # fmt: skip


def trainer(tmp_path, **more):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(
        **{**quiet, "enable_checkpointing": False, "accelerator": "cpu", **more},
        default_root_dir=tmp_path,
    )


def test_the_trainer_writes_the_bytes_of_compress(collection, checkpoint_path, tmp_path):
    runs = trainer(tmp_path)
    result = compress_with_trainer(
        options(collection, checkpoint_path, tmp_path / "a.osoa", compare_none=True), runs
    )
    assert (tmp_path / "a.osoa").read_bytes() == collection[1]
    assert isinstance(runs.fit_loop.epoch_loop, OSOALoop)
    assert isinstance(runs.optimizers[0], ReplayOptimizer)
    assert runs.current_epoch == 2 and runs.global_step > 10  # both shards, every batch
    assert result.images == 28 and not (tmp_path / "a.osoa.partial").exists()


def test_without_adaptation_too(collection, checkpoint_path, tmp_path):
    chosen = options(collection, checkpoint_path, tmp_path / "a.osoa", adaptation="none")
    compress_with_trainer(chosen, trainer(tmp_path))
    osoa_pl.compress(
        collection[0], tmp_path / "b.osoa", checkpoint=checkpoint_path, adaptation="none",
        settings=SETTINGS,
    )  # fmt: skip
    assert (tmp_path / "a.osoa").read_bytes() == (tmp_path / "b.osoa").read_bytes()


@pytest.mark.parametrize("likelihood", ["bernoulli", "beta_binomial"])
def test_latent_models_too(likelihood, tmp_path):
    checkpoint = tmp_path / "vae.safetensors"
    checkpoint.write_bytes(pack({"grey": small_vae(likelihood)}, "vae"))
    levels = 2 if likelihood == "bernoulli" else 256
    made = np.random.default_rng(0).integers(0, levels, (30, 6, 7), dtype=np.uint8)
    np.save(tmp_path / "images.npy", made)
    small = {"batch_pixels": 168, "first_pixels": 168, "segment_batches": 3}
    chosen = OSOAOptions(
        inputs=[str(tmp_path / "images.npy")], output=str(tmp_path / "a.osoa"),
        checkpoint=str(checkpoint), settings=small,
    )  # fmt: skip
    compress_with_trainer(chosen, trainer(tmp_path))
    osoa_pl.compress(
        tmp_path / "images.npy", tmp_path / "b.osoa", checkpoint=str(checkpoint),
        adaptation="online", settings=small,
    )  # fmt: skip
    assert (tmp_path / "a.osoa").read_bytes() == (tmp_path / "b.osoa").read_bytes()
    restored = osoa_pl.decompress(tmp_path / "a.osoa", checkpoint=str(checkpoint))
    assert all(np.array_equal(a[..., 0], b) for a, b in zip(restored, made, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_too(collection, checkpoint_path, tmp_path):
    chosen = options(collection, checkpoint_path, tmp_path / "a.osoa")
    compress_with_trainer(chosen, trainer(tmp_path, accelerator="cuda", devices=1))
    assert (tmp_path / "a.osoa").read_bytes() == collection[1]


@pytest.mark.parametrize(
    "more",
    [
        {"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"},
        {"max_steps": 5}, {"limit_train_batches": 3}, {"overfit_batches": 1},
        {"fast_dev_run": True}, {"callbacks": [EMAWeightAveraging()]},
    ],
    ids=lambda more: next(iter(more)),
)  # fmt: skip
def test_options_that_change_bytes_are_refused(more, collection, checkpoint_path, tmp_path):
    with pytest.raises(UsageError, match="would change the archive"):
        compress_with_trainer(
            options(collection, checkpoint_path, tmp_path / "a.osoa"), trainer(tmp_path, **more)
        )
    assert not list(tmp_path.glob("a.osoa*"))


class _Stop(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, *_):
        self.after -= 1
        if not self.after:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("after", [1, 3, 4, 11, 18])
def test_a_run_that_was_stopped_continues_with_the_same_bytes(
    after, collection, checkpoint_path, tmp_path
):
    chosen = options(collection, checkpoint_path, tmp_path / "a.osoa", resume=True)
    with pytest.raises(RuntimeError, match="stopped"):
        compress_with_trainer(chosen, trainer(tmp_path, callbacks=[_Stop(after)]))
    assert (tmp_path / "a.osoa.partial").is_dir() == (after > 1)
    assert not (tmp_path / "a.osoa").exists()
    continued = trainer(tmp_path)
    compress_with_trainer(chosen, continued)
    assert (tmp_path / "a.osoa").read_bytes() == collection[1]
    assert continued.global_step < 28 - after + SETTINGS["segment_batches"]
    assert not (tmp_path / "a.osoa.partial").exists()


def test_without_resume_a_run_begins_anew(collection, checkpoint_path, tmp_path):
    chosen = options(collection, checkpoint_path, tmp_path / "a.osoa")
    with pytest.raises(RuntimeError, match="stopped"):
        compress_with_trainer(chosen, trainer(tmp_path, callbacks=[_Stop(7)]))
    assert (tmp_path / "a.osoa.partial").is_dir()
    with pytest.raises(OutputExistsError, match="earlier run"):
        compress_with_trainer(chosen, trainer(tmp_path))
    again = trainer(tmp_path)
    anew = options(collection, checkpoint_path, tmp_path / "a.osoa", overwrite=True)
    compress_with_trainer(anew, again)
    assert again.global_step > 20 and (tmp_path / "a.osoa").read_bytes() == collection[1]
    assert not (tmp_path / "a.osoa.partial").exists()


def test_another_run_s_folder_is_not_continued(collection, checkpoint_path, tmp_path):
    chosen = options(collection, checkpoint_path, tmp_path / "a.osoa", resume=True)
    with pytest.raises(RuntimeError, match="stopped"):
        compress_with_trainer(chosen, trainer(tmp_path, callbacks=[_Stop(7)]))
    other = options(collection, checkpoint_path, tmp_path / "a.osoa", resume=True, seed=5)
    with pytest.raises(UsageError, match="another seed"):
        compress_with_trainer(other, trainer(tmp_path))
    compress_with_trainer(chosen, trainer(tmp_path))
    assert (tmp_path / "a.osoa").read_bytes() == collection[1]


@pytest.mark.parametrize("victim", ["*.seg", "*state", "missing"])
def test_what_is_damaged_is_made_again(victim, collection, checkpoint_path, tmp_path):
    chosen = options(collection, checkpoint_path, tmp_path / "a.osoa", resume=True)
    with pytest.raises(RuntimeError, match="stopped"):
        compress_with_trainer(chosen, trainer(tmp_path, callbacks=[_Stop(7)]))
    partial = tmp_path / "a.osoa.partial"
    place = next(partial.glob("*.seg" if victim == "missing" else victim))
    data = bytearray(place.read_bytes())
    data[-9] ^= 0x40
    place.unlink() if victim == "missing" else place.write_bytes(data)
    compress_with_trainer(chosen, trainer(tmp_path))
    assert (tmp_path / "a.osoa").read_bytes() == collection[1]


def test_kill_minus_nine_and_resume(collection, checkpoint_path, tmp_path):
    words = [
        sys.executable, "-m", "osoa_pl", "run", "osoa", "--inputs", f'["{collection[0]}"]',
        "--output", "a.osoa", "--checkpoint", checkpoint_path, "--step_size", "2e-3",
        "--resume", "true", "--settings", str(SETTINGS).replace("'", '"'),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(osoa_pl.__file__).parents[1])}
    victim = subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    partial = tmp_path / "a.osoa.partial"
    for _ in range(6000):
        if list(partial.glob("*state")) or victim.poll() is not None:
            break
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    _, errors = victim.communicate()
    assert list(partial.glob("*state")) and not (tmp_path / "a.osoa").exists(), errors
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "bits/dim" in done.stderr
    assert (tmp_path / "a.osoa").read_bytes() == collection[1]


def test_curves_in_tensorboard(collection, checkpoint_path, tmp_path):
    words = [
        "--inputs", f'["{collection[0]}"]', "--output", str(tmp_path / "a.osoa"), "--checkpoint",
        checkpoint_path, "--settings", str(SETTINGS).replace("'", '"'), "--compare_none", "true",
        "--trainer.logger", "true", "--trainer.default_root_dir", str(tmp_path / "logs"),
    ]  # fmt: skip
    run(words, quiet=True)
    events = EventAccumulator(str(next((tmp_path / "logs").glob("version_0"))))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    for kind in ("rgb", "grey"):
        rates = {}
        for name in ("theoretical", "actual", "none"):
            assert f"{kind}/bits_per_dim/{name}" in tags
            found = events.Scalars(f"{kind}/bits_per_dim/{name}")
            rates[name] = np.array([e.value for e in sorted(found, key=lambda e: e.step)])
        assert len(rates["actual"]) == len(rates["theoretical"]) == len(rates["none"])
        np.testing.assert_allclose(rates["actual"], rates["theoretical"], rtol=2e-3)
        assert rates["none"][0] == pytest.approx(rates["theoretical"][0], rel=1e-5)
        assert rates["none"][-1] > rates["theoretical"][-1]
        distance = [e.value for e in events.Scalars(f"{kind}/distance_from_start")]
        assert distance[0] > 0 and distance[-1] > distance[0]
        assert f"{kind}/bits_per_dim/gross" in tags and f"{kind}/images_per_second" in tags


@pytest.mark.parametrize(
    "config", sorted(CONFIGS.glob("configs/osoa/*.yaml")), ids=lambda path: path.stem
)
def test_configs(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr("osoa_pl.train.osoa.compress_with_trainer", lambda *a: made.append(a))
    told = []
    run(["-c", str(config)], quiet=True, warn=told.append)
    ((chosen, runs),) = made
    assert chosen.output.endswith(".osoa") and chosen.compare_none
    assert runs.loggers[0].log_dir == f"runs/{Path(chosen.output).stem}/version_0"
    assert not told and [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["config.yaml"]
    lines = config.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# What: ") and lines[1].startswith("# Command: osoa run osoa -c ")
    assert str(config.relative_to(CONFIGS)) in lines[1]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--output", "x.osoa"], UsageError, "inputs: not given"),
        (["--inputs", '["x"]', "--output", "x.osoa"], UsageError, "no such file"),
        (["--inputz", "x"], UsageError, "did you mean"),
        (["--adaptation", "auto"], UsageError, "auto"),
        (["--step_size", "-1", "--inputs", '["x"]', "--output", "x.osoa"], UsageError, "step_size"),
        (["--settings", '{"streems": 3}', "--inputs", '["tests"]', "--output", "x.osoa"],
         UsageError, "streems"),
        (["-c", "missing.yaml"], UsageError, "missing.yaml"),
        (["--trainer.precisoin", "32"], UsageError, "did you mean 'precision'"),
        (["--trainer.max_time", "x", "--inputs", '["x"]', "--output", "y"], UsageError, "duration"),
    ],
)  # fmt: skip
def test_mistakes_cost_one_line(words, error, message):
    with pytest.raises(error, match=message) as caught:
        run(words, quiet=True)
    assert "\n" not in str(caught.value)


def test_existing_archives_are_not_overwritten(collection, checkpoint_path, tmp_path):
    (tmp_path / "a.osoa").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        compress_with_trainer(
            options(collection, checkpoint_path, tmp_path / "a.osoa"), trainer(tmp_path)
        )
    assert (tmp_path / "a.osoa").read_bytes() == b"mine"


def test_a_loop_without_its_callback_says_so(collection, checkpoint_path, tmp_path):
    from osoa_pl.api.job import CompressionJob
    from osoa_pl.train.loop import OSOAModule, install

    runs = trainer(tmp_path, max_epochs=1)
    install(runs)
    chosen = options(collection, checkpoint_path, tmp_path / "a.osoa")
    job = CompressionJob(chosen.inputs, chosen.output, chosen.job_options("cpu"))
    with job, pytest.raises(OsoaError, match="coding callback is missing"):
        runs.fit(OSOAModule(job))
