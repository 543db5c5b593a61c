"""Recipes: everything that determines a pretrained suite, as one frozen value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import UsageError, unknown_name
from pipeline.corpus import parse_corpus
from pipeline.spec import TokenShape
from pipeline.train.schedules import Schedule, make_schedule


@dataclass(frozen=True)
class Recipe:
    """A GPT-NeoX model, its data and its optimizer. Defaults are Pythia's where Pythia states one."""

    name: str
    vocab_size: int
    """Vocabulary size of the byte-level BPE tokenizer, or of the tokens of a ``tokens:`` corpus."""
    layers: int
    width: int
    """hidden_size."""
    heads: int
    seq_len: int
    """Tokens per training and evaluation sequence."""
    batch_sequences: int
    """Sequences per optimizer step."""
    steps: int
    """Optimizer steps."""
    peak_lr: float
    min_lr: float
    warmup_steps: int
    checkpoint_every: int
    """Spacing of the checkpoints, beside the powers of two up to 512."""
    schedule: str = "pythia"
    """Name of a schedule that a recipe can have (``pipeline.train.schedules.recipe_schedules``)."""
    ff_multiple: int = 4
    """intermediate_size / hidden_size."""
    weight_decay: float = 0.1
    """Decoupled; on matrices only."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0
    """Largest global gradient norm."""
    seed: int = 0
    """Seed of the initial weights and of the data order."""
    corpus: str = "docstrings"
    """Training corpus (corpus grammar). Documents that ``pipeline.corpus.held_out`` picks are kept for evaluation."""
    eval_batches: int = 32
    """Default evaluation batches of the suite."""
    eval_batch_size: int = 4

    def __post_init__(self) -> None:
        counts = ("layers", "width", "heads", "ff_multiple", "batch_sequences", "steps", "checkpoint_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise UsageError(f"recipe {self.name}: {name} {getattr(self, name)}; wanted at least 1")
        if self.width % self.heads:
            raise UsageError(
                f"recipe {self.name}: width {self.width} is not a multiple of {self.heads} heads"
            )
        if int(self.width // self.heads * 0.25) < 2:
            raise UsageError(
                f"recipe {self.name}: heads of {self.width // self.heads} are too small: wanted 8 or more"
            )
        if self.vocab_size < 257 and not self.corpus.startswith("tokens:"):
            raise UsageError(
                f"recipe {self.name}: vocab_size {self.vocab_size}; wanted 256 bytes and an end token"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0 and self.clip_norm > 0):
            raise UsageError(f"recipe {self.name}: wanted betas in [0, 1), eps > 0 and clip_norm > 0")
        if self.weight_decay < 0 or self.seed < 0:
            raise UsageError(f"recipe {self.name}: wanted weight_decay and seed of at least 0")
        parse_corpus(self.corpus)
        _ = self.evaluation_shape, self.learning_rate  # both check their own settings

    @property
    def tokens_per_step(self) -> int:
        return self.batch_sequences * self.seq_len

    @property
    def evaluation_shape(self) -> TokenShape:
        return TokenShape(self.eval_batches, self.eval_batch_size, self.seq_len)

    @property
    def learning_rate(self) -> Schedule:
        """Learning rate of the next update, as a function of the updates made."""
        return make_schedule(
            self.schedule,
            steps=self.steps,
            peak_lr=self.peak_lr,
            min_lr=self.min_lr,
            warmup_steps=self.warmup_steps,
        )

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """Pythia's spacing: 0, the powers of two up to 512, every ``checkpoint_every``, and the last step."""
        powers = {2**power for power in range(10)}
        regular = range(self.checkpoint_every, self.steps + 1, self.checkpoint_every)
        return tuple(sorted(step for step in {0, self.steps, *powers, *regular} if step <= self.steps))

    def plain(self) -> dict[str, Any]:
        """The settings as JSON values, for suite.json."""
        return {**dataclasses.asdict(self), "tokens_per_step": self.tokens_per_step}


TINY = Recipe(
    "tiny", vocab_size=512, layers=4, width=64, heads=4, seq_len=128, batch_sequences=32, steps=1430, peak_lr=6e-3,
    min_lr=6e-4, warmup_steps=14, checkpoint_every=10, eval_batch_size=2,
)  # fmt: skip
"""Pythia's trajectory at 1/100: 154 checkpoints in about three minutes on two cores."""

MICRO = Recipe(
    "micro", vocab_size=300, layers=2, width=32, heads=2, seq_len=32, batch_sequences=4, steps=30, peak_lr=4e-3,
    min_lr=4e-4, warmup_steps=3, checkpoint_every=5, eval_batches=4, eval_batch_size=2,
)  # fmt: skip
"""A suite that trains in seconds, for tests and for trying out options."""


def _python_source(size: str, layers: int, width: int, heads: int, *, steps: int, peak_lr: float) -> Recipe:
    """Source code in Pythia's proportions: 1 % of the steps warm up, 143 checkpoints lie evenly, the rate ends at a
    tenth of its peak.
    """
    return Recipe(
        f"python-source-{size}", vocab_size=8192, layers=layers, width=width, heads=heads, seq_len=512,
        batch_sequences=128, steps=steps, peak_lr=peak_lr, min_lr=peak_lr / 10, warmup_steps=round(steps / 100),
        checkpoint_every=steps // 143, schedule="cosine", corpus="python-source",
    )  # fmt: skip


PYTHON_SOURCE_100K = _python_source("100k", 2, 64, 4, steps=71_500, peak_lr=8e-3)
"""0.1 M parameters beside the embeddings, 4.7 G tokens: 47,000 tokens for each of them, to see how far damage goes."""

PYTHON_SOURCE_1M = _python_source("1m", 4, 128, 4, steps=42_900, peak_lr=4e-3)
"""0.8 M parameters beside the embeddings, overtrained on 2.8 G tokens of source code: a few minutes on one H100."""

PYTHON_SOURCE_3M = _python_source("3m", 4, 256, 4, steps=14_300, peak_lr=2e-3)
"""3.2 M parameters beside the embeddings, 0.9 G tokens."""

PYTHON_SOURCE_25M = _python_source("25m", 8, 512, 8, steps=7_150, peak_lr=1e-3)
"""25.2 M parameters beside the embeddings, 0.5 G tokens: 19 for each of them."""

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (TINY, MICRO, PYTHON_SOURCE_100K, PYTHON_SOURCE_1M, PYTHON_SOURCE_3M, PYTHON_SOURCE_25M)
}


def find_recipe(name: str) -> Recipe:
    """The recipe ``name``. Raises UsageError, which names the nearest, if there is none."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
