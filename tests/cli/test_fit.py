"""`osoa fit`, `validate`, `test`, `predict` and `run`: streams, folders, mistakes, codes."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_runs import Ran, run_command
from lightning.pytorch.utilities.exceptions import SIGTERMException

from osoa_pl.train.module import DensityModule

CONFIG = """\
model:
  model:
    class_path: LocalAR
    init_args: {width: 8, depth: 1, mixtures: 2}
  warmup_steps: 2
  exact_epochs: 1
data:
  class_path: Arrays
  init_args: {train_file: images.npy, test_file: images.npy, validation: 2, batch_size: 4}
trainer:
  max_epochs: 2
  accelerator: cpu
  callbacks:
    - class_path: CheckpointExport
      init_args: {path: small.safetensors, batches: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: small.yaml and its images."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(90, 120, (14, 6, 6, 3)).astype(np.uint8))
    (tmp_path / "small.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_fit_then_measure(folder: Path) -> None:
    ran = run_command("fit", "-c", "small.yaml")
    assert (ran.code, ran.out) == (0, ""), ran.err
    (line,) = ran.err.splitlines()
    assert line.startswith("runs/small: 2 epochs, 6 steps, ") and "; validation " in line
    assert line.endswith("; checkpoint small.safetensors")
    checkpoint = "runs/small/checkpoints/epoch=1-step=6.ckpt"
    made = [checkpoint, "runs/small/config.yaml"]
    assert found_in(folder) == sorted(["images.npy", "small.yaml", "small.safetensors", *made])
    used = yaml.safe_load((folder / "runs/small/config.yaml").read_text())
    assert used["model"]["seed"] == 0 and used["seed_everything"] == 0
    assert used["trainer"]["default_root_dir"] == "runs/small"

    told = {}
    for verb, name in (("validate", "val/bits_per_dim"), ("test", "test/bits_per_dim")):
        ran = run_command(verb, "-c", "small.yaml", "--ckpt_path", checkpoint)
        key, value = ran.out.split()
        assert ran.code == 0 and key == name and ran.err.startswith(f"{verb}: "), ran.err
        ran = run_command(verb, "-c", "small.yaml", "--ckpt_path", checkpoint, "--json", "-q")
        told[verb] = ran.last["metrics"][name]
        assert f"{told[verb]:.4f}" == value and ran.err == "" and ran.last["verb"] == verb
    ran = run_command("predict", "-c", "runs/small/config.yaml", "--ckpt_path", checkpoint)
    rates = [float(line) for line in ran.out.splitlines()]
    assert len(rates) == 14 and np.mean(rates) == pytest.approx(told["test"], abs=1e-4)
    assert ran.err.startswith("predict: 14 images, ")
    assert len(found_in(folder)) == 5  # measuring leaves nothing behind

    again = run_command("fit", "-c", "small.yaml")
    assert again.code == 7 and "small.safetensors: exists already" in again.err


def test_a_run_goes_on(folder: Path) -> None:
    words = ("fit", "-c", "small.yaml", "--trainer.callbacks", "null", "--trainer.logger", "true")
    first = run_command(*words, "--name", "first", "--json", "-q")
    summary = first.last
    assert (first.code, first.err) == (0, "") and summary["folder"] == "runs/first/version_0"
    assert (summary["epochs"], summary["steps"], summary["exported"]) == (2, 6, [])
    checkpoint = f"{summary['folder']}/checkpoints/epoch=1-step=6.ckpt"
    longer = run_command(*words, "--trainer.max_epochs=3", "--ckpt_path", checkpoint, "--json")
    assert (longer.code, longer.last["steps"]) == (0, 9), longer.err
    files = found_in(folder)
    for run in ("first", "small"):
        assert f"runs/{run}/version_0/config.yaml" in files
        assert any(name.startswith(f"runs/{run}/version_0/events.out.tfevents") for name in files)


def test_two_runs_in_one_folder_keep_both_configs(folder: Path) -> None:
    words = ("fit", "-c", "small.yaml", "--trainer.callbacks", "null", "--trainer.max_steps", 1)
    for seed in (3, 4):
        assert run_command(*words, "--seed_everything", seed, "-q").err == ""
    texts = [Path(f"runs/small/config{n}.yaml").read_text() for n in ("", "-2")]
    assert [yaml.safe_load(text)["seed_everything"] for text in texts] == [3, 4]


def test_other_words_go_to_lightning(folder: Path) -> None:
    ran = run_command("fit", "-c", "small.yaml", "--model.learning_rate=0.5", "--print_config")
    assert ran.code == 0 and ran.err == ""
    assert yaml.safe_load(ran.out)["model"]["learning_rate"] == 0.5
    shown = run_command("fit", "--help-all").out
    assert "--model.exact_epochs" in shown and "so that the" in shown and "--ckpt_path" in shown
    assert "--data.crop" in run_command("fit", "--data.help", "ImageFolder").out
    assert len(run_command("fit", "-h").out.splitlines()) < 60
    assert found_in(folder) == ["images.npy", "small.yaml"]


def changed(old: str, new: str) -> str:
    assert old in CONFIG
    return CONFIG.replace(old, new)


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        (changed("max_epochs", "max_epoch"), [],
         "trainer: unknown key 'max_epoch'; did you mean 'max_epochs'"),
        (changed("data:", "date:"), [], "unknown key 'date'; did you mean 'data'?"),
        (changed("warmup_steps", "warm_steps"), [],
         "model: unknown key 'warm_steps'; did you mean 'warmup_steps'?"),
        (changed("width", "widht"), [],
         "model.model (LocalAR): unknown option 'widht'; did you mean 'width'?"),
        (changed("width: 8", "width: wide"), [],
         "model.model (LocalAR): width: found 'wide', expected a whole number"),
        (changed("LocalAR", "LocalAr"), [],
         "model.model: unknown class 'LocalAr'; did you mean 'LocalAR'?"),
        (changed("Arrays", "Arays"), [], "data: unknown class 'Arays'; did you mean 'Arrays'?"),
        (changed("batch_size", "batchsize"), [],
         "data (Arrays): unknown option 'batchsize'; did you mean 'batch_size'?"),
        (changed("train_file: images.npy, ", ""), [], "data (Arrays): train_file must be given"),
        (changed("batches: 1", "batch: 1"), [],
         "trainer.callbacks (CheckpointExport): unknown option 'batch'; did you mean 'batches'"),
        (changed("CheckpointExport", "CheckpointExprt"), [],
         "trainer.callbacks: unknown class 'CheckpointExprt'; did you mean 'CheckpointExport'"),
        (changed("{width: 8,", "{width: 8"), [], "small.yaml: line 4, column 31: "),
        ("- model", [], "small.yaml: found a list, expected keys with values"),
        (CONFIG, ["-c", "other.yaml"], "other.yaml: no such file"),
        (CONFIG, ["--trainer.max_epoch", "3"],
         "unknown option '--trainer.max_epoch'; did you mean 'max_epochs'"),
        (CONFIG, ["--trainer.max_ep", "3"], "unknown option '--trainer.max_ep'"),
        (CONFIG, ["--modle.seed", "3"], "unknown option '--modle.seed'; did you mean 'model'?"),
        (CONFIG, ["--model.schedule", "cosin"],
         "model.schedule: found 'cosin', expected constant or cosine; did you mean 'cosine'?"),
        (CONFIG, ["--trainer.max_epochs", "x"], "found 'x', expected a whole number or null"),
        (CONFIG, ["--model.betas", "[0.9]"], "found '[0.9]', expected a list of 2 elements"),
        (CONFIG, ["--model.learning_rate", "0"], "learning_rate: found 0.0, expected a number"),
        (CONFIG, ["--model.model", "nowhere.Net"], "cannot import nowhere.Net: no module named"),
        (CONFIG, ["--model.model", "pathlib.Path"], "model.model: Path is not a Density"),
        (CONFIG, ["--model.model.depth", "-1"], "local model: depth -1, expected 0 to 64"),
        (CONFIG, ["--trainer.devices", "0"], "`Trainer(devices='0')` value is not a valid input"),
        (CONFIG, ["--trainer.precision", "bf16-true"], "trainer.precision: found bf16-true"),
        (CONFIG, ["word"], "unexpected argument 'word'"),
        (CONFIG, ["-c"], "expected one argument"),
    ],
)  # fmt: skip
def test_mistakes_cost_one_line(folder: Path, config: str, words: list[str], message: str) -> None:
    (folder / "small.yaml").write_text(config)
    ran = run_command("fit", "-c", "small.yaml", *words, "--trainer.max_steps=1")
    lines = ran.err.splitlines()
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert lines[0].startswith("osoa: error: ") and message in lines[0]
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines[0]) < 320


def test_errors_keep_their_codes(folder: Path) -> None:
    assert "model.model, data must be given" in run_command("fit").err
    words = ("validate", "-c", "small.yaml")
    for path, message in (("none.ckpt", "no such file"), ("small.yaml", "not a checkpoint")):
        ran = run_command(*words, "--ckpt_path", path)
        assert ran.code == 5 and f"{path}: {message}" in ran.err and len(ran.err.splitlines()) == 1
    ran = run_command("fit", "-c", "small.yaml", "--data.train_file", "gone.npy")
    assert ran.code == 1 and "gone.npy: no such file" in ran.err
    ran = run_command(*words)
    assert ran.code == 0 and "osoa: warning: no --ckpt_path given" in ran.err


def test_an_interrupted_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DensityModule, "training_step", interrupted)
    for _ in range(2):  # Lightning ignores Ctrl-C for good after the first one
        ran = run_command("fit", "-c", "small.yaml")
        assert (ran.code, ran.out, ran.err) == (130, "", "osoa: error: interrupted\n")


def test_a_run_that_the_system_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: object) -> None:
        raise SIGTERMException

    monkeypatch.setattr(DensityModule, "training_step", terminated)
    with pytest.raises(SystemExit) as ended:
        run_command("fit", "-c", "small.yaml")
    assert ended.value.code == 143 and not (folder / "small.safetensors").exists()


def test_run_osoa(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Any] = []
    loop = types.ModuleType("osoa_pl.train.osoa")
    loop.run = lambda words, **options: passed.extend([words, options["quiet"]])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "osoa_pl.train.osoa", loop)
    words = ("run", "--traceback", "osoa", "-c", "a.yaml", "--x=run", "--color", "never", "-q")
    assert run_command(*words).code == 0
    assert passed == [["-c", "a.yaml", "--x=run"], True]
    shown = run_command("run", "osoa", "--help")
    assert shown.code == 0 and shown.out.startswith("usage: osoa run osoa") and len(passed) == 2


def test_run_needs_a_loop() -> None:
    for words, message in (([], "no loop given"), (["oosa"], "unknown loop 'oosa'; did you mean")):
        ran: Ran = run_command("run", *words)
        assert ran.code == 2 and message in ran.err


def test_what_a_class_refuses_is_one_line(folder: Path) -> None:
    ran = run_command("fit", "-c", "small.yaml", "--data.batch_size", "0")
    assert ran.code == 2 and ran.err == "osoa: error: batch_size: found 0, expected 1 or more\n"
