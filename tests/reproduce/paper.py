"""What arXiv 2604.15167 ("When Flat Minima Fail") reports of Pythia-160m, and the suite that it is measured on."""

from __future__ import annotations

from dataclasses import dataclass

SUITE = "pythia-160m"
STEPS = (0, *(2**power for power in range(10)), *range(1000, 144_000, 1000))
"""The 154 revisions that EleutherAI publishes, ``step0`` to ``step143000``."""
CONVERGENCE_STEP = 77_000
SHAPE = (768, 12, 12, 3072, 50_304)
"""Hidden size, layers, heads, inner size and vocabulary of the suite."""
EXPECTED_EQUAL = {"step1": "step0"}
"""The learning rate of the first update is zero."""

CORPUS = "hf:mit-han-lab/pile-val-backup:validation:text"
"""The Pile's validation text, from which the paper takes its 32 batches of 4 x 512 tokens."""
TRAIN_CORPUS = "hf:NeelNanda/pile-10k:train:text"
"""10,000 documents of the Pile's training text, by our estimate 15 M tokens.
The paper does not name those of its forks."""
FORK_STEPS = 1_400
"""Updates of a fork's run: less than one pass over TRAIN_CORPUS by that estimate, and refused where it is more.
The paper's number is not known to us."""
FORK_TOKENS = 8_192
"""Tokens of an update, about those of the paper."""


@dataclass(frozen=True)
class Claim:
    """One number of the paper."""

    key: str
    what: str
    paper: str
    """The number in the paper's words."""
    part: str
    """``audit`` or ``fork``: which of the two experiments measures it."""


CLAIMS = (
    Claim("checkpoints", "checkpoints measured", "154", "audit"),
    Claim("fp32_best_step", "step of the best FP32 perplexity", "77,000", "audit"),
    Claim("convergence_step", "step of FP32 convergence by our rule", "77,000", "audit"),
    Claim("int4_gap_at_convergence", "INT4 gap at step 77,000, %", "11", "audit"),
    Claim("int4_gap_last", "INT4 gap at the last checkpoint, %", "517", "audit"),
    Claim("int4_gap_max", "largest INT4 gap, %", "517", "audit"),
    Claim("int8_gap_max", "largest INT8 gap, %", "below 1", "audit"),
    Claim("onset_step", "step at which the INT4 gap takes off by our rule", "at FP32 convergence", "audit"),
    Claim("follows", "event that the onset follows", "FP32 convergence", "audit"),
    Claim("kurtosis_r", "kurtosis against the INT4 gap after the onset, Pearson r", "-0.26", "audit"),
    Claim("sgdr_wins", "runs of SGDR with a smaller gap than one of cosine", "0 of 9", "fork"),
    Claim("oli_gap_points", "OLI's settled probes against cosine, points of INT4 gap", "-2.2", "fork"),
    Claim("oli_t", "the same over probes, Student's t", "-5.46", "fork"),
    Claim("oli_fp32_nats", "what OLI costs full precision, nats", "some", "fork"),
)
