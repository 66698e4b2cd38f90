"""Progress on stderr."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import RichProgressBar
from small_training import arrays, module, trainer

from osoa_pl.train.progress import PlainProgress, progress_bar


def test_a_bar_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_bar(), PlainProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    bar = progress_bar()
    assert isinstance(bar, RichProgressBar) and bar._console_kwargs == {"stderr": True}
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_bar(), PlainProgress)


def test_plain_lines(images_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = PlainProgress(interval=0.0)
    ran = trainer(tmp_path, callbacks=[plain], enable_progress_bar=True)
    trained, data = module(), arrays(images_file)
    capsys.readouterr()
    ran.fit(trained, datamodule=data)
    ran.test(trained, datamodule=data, verbose=False)
    found = capsys.readouterr()
    lines = [line for line in found.err.splitlines() if "batch" in line and "loss" not in line]
    assert lines[0].startswith("epoch 1 of 2, batch 1 of 3")
    assert "epoch 2 of 2, batch 3 of 3, train " in found.err
    assert "validating, batch 1 of 1" in found.err and "testing, batch 4 of 4" in found.err
    assert found.out == ""
    plain.interval = 1e6
    ran.validate(trained, datamodule=data, verbose=False)
    assert "validating" not in capsys.readouterr().err
