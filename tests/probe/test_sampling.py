"""Text that a model writes: distributed as the model says, the same however it is computed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError
from pipeline.models import sampling
from pipeline.models.sampling import sampled_tokens
from tests.models import VOCAB, tiny_model

BIGRAMS = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5], [0.2, 0.7, 0.1]], dtype=torch.float64)


class Markov(nn.Module):
    """Its next token depends on the last one alone. Has no cache."""

    config = SimpleNamespace(num_hidden_layers=1, hidden_size=1)

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        assert input_ids.shape[1] < 2000
        return SimpleNamespace(logits=BIGRAMS.log()[input_ids])


def test_tokens_follow_the_models_probabilities() -> None:
    rows = sampled_tokens(Markov(), 400, 30, first=0, vocabulary=3, seed=(0,))
    assert (rows[:, 0] == 0).all()
    counts = np.zeros((3, 3))
    np.add.at(counts, (rows[:, :-1].ravel(), rows[:, 1:].ravel()), 1)
    n = counts.sum(axis=1, keepdims=True)
    expected = BIGRAMS.numpy()
    errors = (counts / n - expected) / np.sqrt(np.maximum(expected * (1 - expected), 1e-9) / n)
    assert counts[1, 1] == 0
    assert np.abs(errors).max() < 4


def test_rows_that_pad_the_vocabulary_are_never_written() -> None:
    rows = sampled_tokens(Markov(), 50, 20, first=None, vocabulary=2, seed=(0,))
    assert set(rows.ravel().tolist()) == {0, 1}
    assert len(set(rows[:, 0].tolist())) == 2


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
def test_the_text_depends_on_neither_chunks_nor_the_cache(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(architecture, initializer_range=0.3)
    heard: list[int] = []

    def written() -> np.ndarray:
        heard.clear()
        return sampled_tokens(model, 5, 40, first=7, vocabulary=VOCAB, seed=(3, 1), on_progress=heard.append)

    together = written()
    assert heard[-1] == 200
    assert heard == sorted(heard)
    monkeypatch.setattr(sampling, "CACHE_BYTES", 2 * 8 * 2 * 32 * 40)
    assert (written() == together).all()
    draws = np.random.default_rng((3, 1)).random((5, 39))
    for row, own in zip(together, draws, strict=True):
        with torch.no_grad():
            p = model(input_ids=torch.from_numpy(row[None])).logits[0, :-1].double().softmax(-1).cumsum(-1)
        for place, draw in enumerate(own):  # the token is the first whose summed probability passes the draw
            at = row[place + 1]
            assert p[place, at] > draw - 1e-6
            assert at == 0 or p[place, at - 1] < draw + 1e-6
    assert (sampled_tokens(model, 5, 40, first=7, vocabulary=VOCAB, seed=(3, 2)) != together).any()


def test_a_model_that_has_diverged_writes_nothing() -> None:
    model = tiny_model("llama")
    nn.init.constant_(model.lm_head.weight, torch.nan)
    with pytest.raises(CheckpointError, match="not numbers"):
        sampled_tokens(model, 2, 8, first=0, vocabulary=VOCAB, seed=(0,))
