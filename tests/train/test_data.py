import dataclasses
import os
import shutil

import numpy as np
import pytest
import torch

from pipeline.base.errors import UsageError
from pipeline.corpus import documents, parse_corpus, training_and_held_out
from pipeline.train import data, find_recipe
from pipeline.train.data import Batches, prepare_data
from pipeline.train.tokenizer import train_tokenizer
from tests.models import write_text_corpus


def test_a_batch_depends_on_seed_and_step_only():
    tokens = torch.arange(1000)
    first = Batches(tokens, seq_len=8, sequences=5, seed=3)
    seen = [first(step) for step in range(60)]
    second = Batches(tokens, seq_len=8, sequences=5, seed=3)
    assert all(torch.equal(second(step), seen[step]) for step in (59, 0, 31, 24))
    assert not torch.equal(Batches(tokens, seq_len=8, sequences=5, seed=4)(0), seen[0])
    assert seen[0].shape == (5, 9)
    assert (seen[0].diff(dim=1) == 1).all()


def test_an_epoch_repeats_no_window():
    batches = Batches(torch.arange(1000), seq_len=8, sequences=5, seed=0)
    epoch = torch.cat([batches(step)[:, 0] for step in range(batches.per_epoch)])
    assert len(set(epoch.tolist())) == len(epoch) == 120
    assert not torch.equal(batches(0), batches(batches.per_epoch))


def test_too_little_text_for_one_batch_is_refused():
    with pytest.raises(UsageError, match="has 40 tokens, one batch needs 41"):
        Batches(torch.arange(40), seq_len=8, sequences=5, seed=0)


def test_data_is_made_once_and_reproducibly(micro, tmp_path):
    one, two = prepare_data(micro, tmp_path / "one"), prepare_data(micro, tmp_path / "two")
    assert np.array_equal(one.train, two.train)
    assert one.corpus_sha256 == two.corpus_sha256
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (one.tokenizer / name).read_bytes() == (two.tokenizer / name).read_bytes()
    assert 0 < len(one.held_out) < len(one.train)
    assert max(one.train.max(), one.held_out.max()) == micro.vocab_size - 1


def test_tokens_are_shared_by_suites_of_the_same_text_and_vocabulary_only(tmp_path):
    corpus = write_text_corpus(tmp_path / "text")
    recipe = dataclasses.replace(find_recipe("micro"), corpus=corpus)
    one = prepare_data(recipe, tmp_path / "data")
    shutil.rmtree(tmp_path / "text")
    again = prepare_data(dataclasses.replace(recipe, steps=20, schedule="constant"), tmp_path / "data")
    assert np.array_equal(again.train, one.train)
    for change in ({"corpus": "file:/nowhere"}, {"vocab_size": 299}):
        with pytest.raises(UsageError, match="name another folder"):
            prepare_data(dataclasses.replace(recipe, **change), tmp_path / "data")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="no tokens that pretrain made"):
        prepare_data(recipe, tmp_path / "mine")
    train = tmp_path / "data" / "train.npy"
    train.unlink()
    os.mkfifo(train)
    with pytest.raises(UsageError, match=r"train\.npy cannot be read .it is a named pipe"):
        prepare_data(recipe, tmp_path / "data")
    train.unlink()
    train.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"train\.npy cannot be read"):
        prepare_data(recipe, tmp_path / "data")
    for note in ("[]", '{"spec": 3}', '{"spec": "docstrings"}', "[" * 100_000):
        (tmp_path / "data" / "corpus.json").write_text(note)
        with pytest.raises(UsageError, match=r"no tokens that pretrain made \(corpus.json: "):
            prepare_data(recipe, tmp_path / "data")


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_tokenizer_is_trained_on_the_first_documents(micro, tmp_path, monkeypatch, share):
    texts, _ = training_and_held_out(documents(parse_corpus(micro.corpus)))
    characters, seen = int(share * sum(map(len, texts))), []

    def train(documents, vocab_size):
        seen.extend(documents)
        return train_tokenizer(documents, vocab_size)

    monkeypatch.setattr(data, "TOKENIZER_CHARACTERS", characters)
    monkeypatch.setattr(data, "train_tokenizer", train)
    prepare_data(micro, tmp_path / "data")
    assert seen == texts[: len(seen)]
    assert len("".join(seen[:-1])) < characters <= len("".join(seen))


def test_a_token_file_trains_without_a_tokenizer(micro, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(5000) % 300)
    recipe = dataclasses.replace(micro, corpus=f"tokens:{tmp_path}/ids.npy")
    made = prepare_data(recipe, tmp_path / "data")
    assert made.tokenizer is None
    assert len(made.train) == 4500
    assert made.held_out.tolist() == [i % 300 for i in range(4500, 5000)]
    with pytest.raises(UsageError, match="set vocab_size to 300"):
        prepare_data(dataclasses.replace(recipe, vocab_size=299), tmp_path / "other")
    with pytest.raises(UsageError, match=r"held-out tenth has 500 tokens.*needs 512"):
        prepare_data(dataclasses.replace(recipe, eval_batches=8), tmp_path / "third")


def test_too_little_text_for_the_vocabulary_is_refused(micro, tmp_path):
    with pytest.raises(UsageError, match="the recipe wants 60000"):
        prepare_data(dataclasses.replace(micro, vocab_size=60_000), tmp_path / "data")
    assert not (tmp_path / "data").exists()
