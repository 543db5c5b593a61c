"""Ids are those of ``tokenizer(text, add_special_tokens=False)``, whatever its files keep, however long a text."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.base.errors import UsageError
from pipeline.corpus import encoding
from pipeline.corpus.encoding import Encoder
from pipeline.corpus.tokens import token_stream
from pipeline.train.data import encode
from pipeline.train.kept_tokens import tokenizer_sha256

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(seed, n):
    rng = random.Random(seed)
    known = ["".join(rng.choices(LETTERS, k=rng.randint(1, 9))) for _ in range(300)]
    return "".join(
        rng.choice(known) + rng.choice([" ", " ", "  ", ". ", "\n", "\u00e9", "\u65e5\u672c "])
        for _ in range(n)
    )


TEXT = words(0, 3000)


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=["<e>"])


def no_words():
    """As Llama's first: merges run over the whole text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<u>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return tokenizer, trainers.BpeTrainer(vocab_size=300, special_tokens=["<e>", "<u>"])


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer, trainers.UnigramTrainer(vocab_size=300, special_tokens=["<e>", "<u>"], unk_token="<u>")


def word_pieces():
    tokenizer = Tokenizer(models.WordPiece(unk_token="<u>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<u>", "<e>"])


def made(kind=byte_level, change=lambda backend: None):
    backend, trainer = kind()
    trainer.show_progress = False
    backend.train_from_iterator([TEXT[:4000]], trainer)
    change(backend)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>", pad_token="<e>")


def ids_of(tokenizer, texts):
    return np.concatenate(list(token_stream(texts, tokenizer))).tolist()


CHANGES = {
    "truncation": lambda backend: backend.enable_truncation(16),
    "padding": lambda backend: backend.enable_padding(pad_id=0, pad_token="<e>"),
    "padding to a length": lambda backend: backend.enable_padding(pad_id=0, pad_token="<e>", length=500),
}


@pytest.mark.parametrize("change", CHANGES)
def test_truncation_and_padding_that_a_tokenizer_keeps_are_left_out(change, tmp_path):
    texts = [TEXT[at : at + 100 + at] for at in range(0, 900, 90)]
    made(change=CHANGES[change]).save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "tokenizer.json").read_text())
    assert kept["truncation"] or kept["padding"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    before = tokenizer.backend_tokenizer.to_str()
    plain = made()
    wanted = [token for text in texts for token in [*plain(text, add_special_tokens=False)["input_ids"], 0]]
    assert ids_of(tokenizer, texts) == wanted
    assert encode(texts, tokenizer, 500).tolist() == wanted
    assert tokenizer.backend_tokenizer.to_str() == before, "the suite's tokenizer is left as it is"
    assert tokenizer_sha256(tokenizer) == tokenizer_sha256(plain), "the same ids, the same kept tokens"


def test_special_tokens_in_a_text_are_read_as_the_tokenizer_is_set():
    for split in (False, True):
        tokenizer = made(change=lambda backend: backend.add_special_tokens([AddedToken("<x>", special=True)]))
        tokenizer.split_special_tokens = split
        mine = Encoder(tokenizer).batch(["some <x> text"])
        assert mine == tokenizer(["some <x> text"], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", [byte_level, no_words, unigram, word_pieces])
@pytest.mark.parametrize(
    "text", [words(1, 4000), "the quick brown fox " * 1000, "x" * 20_000, "\n" * 20_000, "ab" * 9_999]
)
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(kind, text, monkeypatch):
    monkeypatch.setattr(encoding, "PIECE_CHARACTERS", 3000)
    monkeypatch.setattr(encoding, "OVERLAP_CHARACTERS", 500)
    tokenizer = made(kind)
    pieces = list(Encoder(tokenizer).pieces(text))
    assert [token for piece in pieces for token in piece] == tokenizer(text, add_special_tokens=False)[
        "input_ids"
    ]
    if " " in text:
        assert len(pieces) > 5


CHILD = """
import resource, sys
import numpy as np
from pipeline.corpus import evaluation_tokens, parse_corpus
from pipeline.spec import TokenShape
from transformers import PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluation_tokens(parse_corpus(f"file:{sys.argv[2]}"), TokenShape(2, 2, 64), tokenizer)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


def test_a_long_document_takes_memory_for_what_is_read_of_it(tmp_path):
    made().save_pretrained(tmp_path / "t")
    (tmp_path / "long.txt").write_text("the quick brown fox " * 1_000_000)
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "t"), str(tmp_path / "long.txt")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(ran.stdout) < 700, "MB; the whole document at once takes 3,000"


def test_a_tokenizer_that_multiplies_the_text_is_refused_before_it_does():
    def grow(backend):
        backend.normalizer = normalizers.Sequence([normalizers.Replace("a", "a" * 1000) for _ in range(5)])

    with pytest.raises(UsageError, match=r"normalizer makes up to 1e\+15 characters of one"):
        ids_of(made(change=grow), ["a"])


class Growing:
    eos_token_id = 0

    def __call__(self, text, *, add_special_tokens=True):
        return {"input_ids": [[1] * 1000 * (len(each) + 1) for each in text]}


def test_a_tokenizer_that_gives_more_ids_than_text_is_refused():
    with pytest.raises(UsageError, match="makes 4,000 tokens of 3 characters"):
        ids_of(Growing(), ["abc"])
