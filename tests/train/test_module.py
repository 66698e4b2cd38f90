"""The module: losses, keys, learning rates, forms, precisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from small_training import Recorder, arrays, module, trainer, weights

from osoa_pl.arith.noise import derive_key
from osoa_pl.errors import CheckpointError, OsoaError, UsageError
from osoa_pl.models.local_ar_density import LocalAR
from osoa_pl.train.module import images_of


class Steps(Callback):
    """Remembers learning rate, gradient norm and activation scales of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.norms: list[float] = []
        self.scales: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *about: Any) -> None:
        self.norms.append(float(pl_module.density.flat.grad.norm()))  # clipping comes before this
        self.scales.append(pl_module.density.activation_max.clone())


def fit(images_file: Path, folder: Path, options: dict[str, Any], **trainer_options: Any) -> Any:
    density = Recorder()
    trained = module(density, **options)
    steps = Steps()
    ran = trainer(folder, callbacks=[steps], **trainer_options)
    ran.fit(trained, datamodule=arrays(images_file))
    return ran, trained, steps


def test_all_problems_of_the_options_at_once() -> None:
    with pytest.raises(UsageError, match="learning_rate: found -1, .*; betas: found .*; seed:"):
        module(learning_rate=-1, betas=(0.9, 1.0), seed=-1)


def test_keys_are_of_the_step_and_of_the_evaluated_batch(images_file: Path, tmp_path: Path) -> None:
    _, trained, _ = fit(images_file, tmp_path, {"seed": 5})
    assert trained.density.trained() == [("native", derive_key(5, s, 0)) for s in range(6)]
    assert trained.density.measured() == [("native", derive_key(5, 0))] * 2


def test_accumulated_batches_have_their_own_keys(images_file: Path, tmp_path: Path) -> None:
    _, trained, steps = fit(images_file, tmp_path, {}, accumulate_grad_batches=2, max_epochs=1)
    keys = [key for _, key in trained.density.trained()]
    assert keys == [derive_key(0, 0, 0), derive_key(0, 0, 1), derive_key(0, 1, 0)]
    assert trained.trainer.global_step == len(steps.rates) == 2


def test_learning_rate_rises_and_falls(images_file: Path, tmp_path: Path) -> None:
    options = {"learning_rate": 0.3, "warmup_steps": 2, "final_fraction": 0.1}
    ran, _, steps = fit(images_file, tmp_path, options)
    half = 0.3 * (0.1 + 0.9 * 0.5)
    assert steps.rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert steps.rates[4] == pytest.approx(half)
    assert ran.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.03)
    assert ran.callback_metrics["learning_rate"] == pytest.approx(steps.rates[-1])
    _, _, steps = fit(images_file, tmp_path, {**options, "schedule": "constant"})
    assert steps.rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3, 0.3])


def test_rates_are_means_over_samples(images_file: Path, tmp_path: Path) -> None:
    data = arrays(images_file, batch_size=5, validation=7)
    ran, trained = trainer(tmp_path, max_epochs=1), module()
    ran.fit(trained, datamodule=data)
    images = torch.cat(list(data.val_dataloader()))
    with torch.no_grad():
        expected = trained.density(images, 0)
    assert ran.callback_metrics["val/bits_per_dim"] == pytest.approx(float(expected), rel=1e-5)
    assert {"train/bits_per_dim", "train/bits_per_dim_step"} < set(ran.callback_metrics)
    (tested,) = ran.test(trained, datamodule=data, verbose=False)
    (validated,) = ran.validate(trained, datamodule=data, verbose=False)
    assert validated == {"val/bits_per_dim": pytest.approx(float(expected), rel=1e-5)}
    predicted = torch.cat(ran.predict(trained, datamodule=data))
    assert predicted.shape == (14,) and predicted.dtype == torch.float32
    assert tested["test/bits_per_dim"] == pytest.approx(float(predicted.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("exact_epochs", "forms"),
    [(0, ["native"] * 3), (1, ["native", "native", "exact"]), (5, ["exact"] * 3),
     (-1, ["exact"] * 3)],
)  # fmt: skip
def test_the_last_epochs_are_exact(
    images_file: Path, tmp_path: Path, exact_epochs: int, forms: list[str]
) -> None:
    options = {"exact_epochs": exact_epochs}
    ran, trained, steps = fit(images_file, tmp_path, options, max_epochs=3)
    assert [form for form, _ in trained.density.trained()] == [f for f in forms for _ in range(3)]
    assert [form for form, _ in trained.density.measured()] == forms
    first = LocalAR(3, 8, 1, 2).activation_max
    moved = [not torch.equal(scales, first) for scales in steps.scales[::3]]
    assert moved == [form == "exact" for form in forms]
    trained.density.seen.clear()
    ran.validate(trained, datamodule=arrays(images_file), verbose=False)
    assert trained.density.measured()[0][0] == ("exact" if exact_epochs else "native")


def test_a_density_that_is_exact_stays_so(images_file: Path, tmp_path: Path) -> None:
    density = Recorder(form="exact")
    trainer(tmp_path, max_epochs=1).fit(module(density), datamodule=arrays(images_file))
    assert {form for _, form, _ in density.seen} == {"exact"}


def test_steps_need_an_end(images_file: Path, tmp_path: Path) -> None:
    endless: dict[str, Any] = {"max_epochs": -1, "limit_train_batches": 1}
    for options in ({"exact_epochs": 1}, {"schedule": "cosine"}):
        with pytest.raises(UsageError, match="without trainer.max_epochs"):
            trainer(tmp_path, **endless).fit(module(**options), datamodule=arrays(images_file))


def test_gradients_are_clipped(images_file: Path, tmp_path: Path) -> None:
    _, free, loose = fit(images_file, tmp_path, {})
    _, clipped, tight = fit(images_file, tmp_path, {"eps": 1.0}, gradient_clip_val=0.25)
    assert max(loose.norms) > 0.5 and max(tight.norms) <= 0.2501
    assert not torch.equal(weights(free), weights(clipped))


def test_bfloat16_leaves_weights_and_loss_in_float32(images_file: Path, tmp_path: Path) -> None:
    losses: list[torch.Tensor] = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
            losses.append(outputs["loss"])

    plain, mixed = module(exact_epochs=1), module(exact_epochs=1)
    trainer(tmp_path).fit(plain, datamodule=arrays(images_file))
    ran = trainer(tmp_path, precision="bf16-mixed", callbacks=[Losses()])
    ran.fit(mixed, datamodule=arrays(images_file))
    assert {loss.dtype for loss in losses} == {mixed.density.flat.dtype} == {torch.float32}
    # native products are rounded; the exact epoch runs, which under autocast it would refuse
    assert not torch.equal(weights(plain), weights(mixed))
    assert torch.allclose(weights(plain), weights(mixed), atol=0.05)
    with pytest.raises(UsageError, match="bf16-true, expected one of 32-true"):
        trainer(tmp_path, precision="bf16-true").fit(module(), datamodule=arrays(images_file))


def test_exact_training_does_not_depend_on_the_precision(images_file: Path, tmp_path: Path) -> None:
    plain, mixed = module(exact_epochs=-1), module(exact_epochs=-1)
    trainer(tmp_path).fit(plain, datamodule=arrays(images_file))
    trainer(tmp_path, precision="bf16-mixed").fit(mixed, datamodule=arrays(images_file))
    assert torch.equal(weights(plain), weights(mixed))


def test_a_loss_that_is_not_finite_ends_the_run(images_file: Path, tmp_path: Path) -> None:
    broken = module()
    torch.nn.init.constant_(broken.density.flat, float("nan"))
    with pytest.raises(OsoaError, match="step 0: the loss is nan"):
        trainer(tmp_path, limit_val_batches=0).fit(broken, datamodule=arrays(images_file))


def test_weights_of_another_model_are_refused(images_file: Path, tmp_path: Path) -> None:
    ran = trainer(tmp_path, max_epochs=1)
    ran.fit(module(), datamodule=arrays(images_file))
    ran.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="'width': 8.*expected .*'width': 12"):
        trainer(tmp_path).fit(
            module(LocalAR(3, 12, 1, 2)), datamodule=arrays(images_file),
            ckpt_path=tmp_path / "a.ckpt",
        )  # fmt: skip


def test_batches_that_are_no_images_are_named() -> None:
    images = torch.zeros(2, 3, 3, 1, dtype=torch.uint8)
    assert images_of([images, torch.zeros(2)]) is images is images_of(images)
    for batch, found in ((images.float(), r"torch.float32 \(2, 3, 3, 1\)"), ({}, "dict")):
        with pytest.raises(UsageError, match=f"found batches of {found}"):
            images_of(batch)
