"""Train a small language model with the Trainer of transformers and keep the checkpoint that is best in INT4.

python docs/examples/monitor_trainer.py outputs/monitored --steps 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import EarlyStoppingCallback, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from int4_collapse import Int4Callback

VOCABULARY, SEQUENCE = 128, 32


def sequences(seed: int, number: int) -> torch.Tensor:
    """Text of a made-up language (number, SEQUENCE): each token is the last one plus one of three steps."""
    draw = np.random.default_rng(seed)
    steps = draw.choice([1, 5, 17], size=(number, SEQUENCE), p=[0.6, 0.3, 0.1])
    return torch.from_numpy(np.cumsum(steps, axis=1) % VOCABULARY)


def dataset(seed: int, number: int) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": ids, "labels": ids} for ids in sequences(seed, number)]


def main() -> None:
    asked = argparse.ArgumentParser(description="A monitored training run.")
    asked.add_argument("out", type=Path)
    asked.add_argument("--steps", type=int, default=60)
    given = asked.parse_args()

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=SEQUENCE, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    monitor = Int4Callback(sequences(2, 64).reshape(8, 8, SEQUENCE), on_alarm=print)
    trainer = Trainer(
        model,
        TrainingArguments(
            str(given.out), max_steps=given.steps, per_device_train_batch_size=16, learning_rate=3e-3,
            lr_scheduler_type="cosine", warmup_steps=5, eval_strategy="steps", eval_steps=10, save_strategy="steps",
            save_steps=10, save_total_limit=2, logging_steps=10, metric_for_best_model="int4_loss",
            greater_is_better=False, load_best_model_at_end=True, report_to="none", use_cpu=True, disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=dataset(0, 1024),
        eval_dataset=dataset(1, 64),
        callbacks=[monitor, EarlyStoppingCallback(early_stopping_patience=3)],  # the monitor comes first
    )  # fmt: skip
    trainer.train()
    assert monitor.verdict is not None
    print(f"ship {monitor.verdict.ship}; {monitor.verdict.stop_advice.reason}")
    print(f"loaded: step {trainer.state.best_global_step}, INT4 loss {trainer.state.best_metric:.4f} nats")


if __name__ == "__main__":
    main()
