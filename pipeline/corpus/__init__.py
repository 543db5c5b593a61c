"""Evaluation and training text: where it comes from, and how it becomes fixed tokens.

``parse_corpus`` reads the grammar, ``evaluation_tokens`` cuts a corpus into the (batches, batch_size,
seq_len) array that every checkpoint of a run is measured on. Importing this needs numpy only.
"""

from pipeline.corpus.documents import corpus_sha256, documents, held_out, training_and_held_out
from pipeline.corpus.encoding import Tokenizer
from pipeline.corpus.grammar import (
    GRAMMAR,
    Corpus,
    Docstrings,
    Files,
    HubDataset,
    PythonSource,
    TokenFile,
    parse_corpus,
)
from pipeline.corpus.tokens import EvaluationTokens, evaluation_tokens, open_token_file

__all__ = [
    "GRAMMAR", "Corpus", "Docstrings", "EvaluationTokens", "Files", "HubDataset", "PythonSource", "TokenFile",
    "Tokenizer", "corpus_sha256", "documents", "evaluation_tokens", "held_out", "open_token_file", "parse_corpus",
    "training_and_held_out",
]  # fmt: skip
