"""Every config below configs/fit makes its objects; nothing is read or run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EMAWeightAveraging

from osoa_pl.train.callbacks import CheckpointExport
from osoa_pl.train.cli import TrainingCLI, run

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/fit/*.yaml"))


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[TrainingCLI] = []
    monkeypatch.setattr(TrainingCLI, "fit", lambda cli, **_: made.append(cli), raising=False)
    told: list[str] = []
    run(["fit", "-c", str(config)], quiet=True, warn=told.append)
    (cli,) = made
    trainer: Any = cli.trainer
    exports = [one for one in trainer.callbacks if isinstance(one, CheckpointExport)]
    assert str(exports[0].path) == f"runs/{config.stem}/{config.stem}.safetensors"
    assert any(isinstance(one, EMAWeightAveraging) for one in trainer.callbacks)
    assert trainer.default_root_dir == f"runs/{config.stem}"
    assert cli.model.exact_epochs > 0 and told == []
    assert not list(tmp_path.iterdir())
    lines = config.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# What: ") and lines[1].startswith("# Command: osoa fit -c ")
    assert str(config.relative_to(config.parents[2])) in lines[1]
