"""Two processes that share a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from osoa_pl.models import zoo
from osoa_pl.models.checkpoint import read

CONFIG = """\
model:
  model:
    class_path: LocalAR
    init_args: {width: 8, depth: 1, mixtures: 2}
  warmup_steps: 2
  exact_epochs: 1
data:
  class_path: Arrays
  init_args: {train_file: IMAGES, validation: 2, batch_size: 2}
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 2
  strategy:
    class_path: DDPStrategy
    init_args: {process_group_backend: gloo}
  logger: true
  callbacks:
    - class_path: EMAWeightAveraging
      init_args: {decay: 0.5, use_buffers: false}
    - class_path: CheckpointExport
      init_args: {path: small.safetensors, batches: 1}
    - class_path: rank_report.Report
"""
REPORT = """\
import torch
from lightning.pytorch import Callback


class Report(Callback):
    def on_fit_end(self, trainer, pl_module):
        torch.save(pl_module.density.flat.detach(), f"rank{trainer.global_rank}.pt")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_end_with_equal_weights(images_file: Path, tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(CONFIG.replace("IMAGES", str(images_file)))
    (tmp_path / "rank_report.py").write_text(REPORT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "osoa_pl", "fit", "-c", "pair.yaml"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    # 12 images in batches of 2 on each of 2 processes: 3 steps an epoch
    assert ran.stderr.count("2 epochs, 6 steps") == 1, ran.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
    assert torch.equal(zoo.build(read(str(tmp_path / "small.safetensors")), 3)[0].parameters, first)
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("config*.yaml"))
    assert made == ["runs/pair/version_0/config.yaml"]
    assert "Traceback" not in ran.stderr and "error" not in ran.stderr
