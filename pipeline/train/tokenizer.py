"""A byte-level BPE tokenizer trained on a corpus, saved as Hugging Face tokenizer files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.base.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
"""Id 0, as in Pythia's tokenizer."""


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly ``vocab_size`` ids: the end token, 256 bytes, then merges by frequency.

    Deterministic for the texts and their order. Raises UsageError if the text is too small for the merges. Source:
    Radford et al. 2019 (GPT-2), section 2.2.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() < vocab_size:
        raise UsageError(
            f"the training text yields {bpe.get_vocab_size()} token ids, the recipe wants {vocab_size}: "
            "give more text or a smaller vocab_size"
        )
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    return tokenizer
