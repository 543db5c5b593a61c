"""The callback in a real Trainer of Lightning: metrics for its own callbacks, and a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from int4_collapse import Int4LightningCallback, UsageError, measure
from tests.models import VOCAB, tiny_model

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 2, 24))
IDS = torch.from_numpy(
    np.random.default_rng(1).integers(0, VOCAB, (16, 16))
)  # four batches: an epoch, the only place where Lightning resumes exactly

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_model("llama")

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss: torch.Tensor = self.model(input_ids=batch, labels=batch).loss
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.log("val_loss", self.model(input_ids=batch, labels=batch).loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def fit(folder: Path, monitor: Int4LightningCallback | None, steps: int, resume: Path | None = None) -> Any:
    best = ModelCheckpoint(folder, monitor=None if monitor is None else "val_int4_loss", save_last=True)
    trainer = Trainer(
        max_steps=steps, val_check_interval=2, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*([] if monitor is None else [monitor]), best],
    )  # fmt: skip
    module = Module()
    loaders = [torch.utils.data.DataLoader(IDS, batch_size=4) for _ in range(2)]
    trainer.fit(module, *loaders, ckpt_path=None if resume is None else str(resume), weights_only=False)
    return trainer, module, best


def test_its_metrics_choose_the_checkpoint_and_a_resumed_run_gives_the_same_verdict(tmp_path: Path) -> None:
    monitor = Int4LightningCallback(TOKENS)
    trainer, module, best = fit(tmp_path / "whole", monitor, 8)
    assert monitor.verdict is not None
    assert best.best_model_score == pytest.approx(monitor.verdict.ship.nll_nats, abs=1e-6)  # type: ignore[union-attr]
    now = {each.variant: each.nll_nats for each in measure(module.model, TOKENS, ["int4"]).results}
    assert float(trainer.callback_metrics["val_int4_loss"]) == pytest.approx(now["int4-g128-asym"], abs=1e-6)
    assert monitor.verdict.numbers["fp32_nll_nats"] == now["fp32"]

    fit(tmp_path / "part", Int4LightningCallback(TOKENS), 4)
    resumed = Int4LightningCallback(TOKENS, plan_steps=8)
    _, again, _ = fit(tmp_path / "part", resumed, 8, resume=tmp_path / "part" / "last.ckpt")
    for a, b in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.verdict is not None
    assert resumed.verdict.best_step == monitor.verdict.best_step
    assert resumed.verdict.ship == monitor.verdict.ship
    with pytest.raises(UsageError, match="tokens"):
        fit(
            tmp_path / "part",
            Int4LightningCallback(TOKENS[:, :, ::-1]),
            8,
            resume=tmp_path / "part" / "last.ckpt",
        )

    _, alone, _ = fit(tmp_path / "alone", None, 8)
    for a, b in zip(module.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
