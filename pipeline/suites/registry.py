"""Suites known by name, as data. A hub repository works without an entry; an entry adds what its files lack: how
its revisions are named, tokens per step, the learning-rate schedule, reported defects.

Sources: Pythia: arXiv 2304.01373 and the configurations in EleutherAI/pythia ``models/`` (peak and minimum
learning rate per size; for 1b they say 2.5e-4 where the paper's table says 3e-4). PolyPythias: arXiv
2503.09543, same settings. SmolLM3: the card of HuggingFaceTB/SmolLM3-3B-checkpoints (2,359,296 tokens per step,
steps counted through its stages). OLMo, OLMoE, OLMo-2, Apertus: tokens are in the revision names, rounded. OLMo-2-7B's
first stage: allenai/OLMo ``configs/official-1124/OLMo2-7B-stage1.yaml``. Amber: its
numbers count chunks of the data, not optimizer steps. open-sci: LAION-AI/open-sci-ref-0.01.
"""

from __future__ import annotations

from pipeline.suites.entries import Defect, HubSuite, RecipeSuite
from pipeline.suites.training_settings import TrainingSettings

_STEP = r"step(?P<step>\d+)"
_TOKENS = r"-tokens(?P<tokens>[\d.]+)(?P<unit>[BT])"
_OLMO2 = r"(?P<stage>stage\d+(?:-ingredient\d+)?)-" + _STEP + _TOKENS

_PYTHIA_PEAK_LR = {
    "14m": 1e-3,
    "31m": 1e-3,
    "70m": 1e-3,
    "160m": 6e-4,
    "410m": 3e-4,
    "1b": 2.5e-4,
    "1.4b": 2e-4,
    "2.8b": 1.6e-4,
    "6.9b": 1.2e-4,
    "12b": 1.2e-4,
}

_DEDUPED = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
_POLY_SIZES = ("14m", "31m", "70m", "160m", "410m")
_POLY_SEEDS = range(1, 10)
_DECOUPLED = ("data-seed1", "data-seed2", "weight-seed1", "weight-seed2")

_DEFECTS = {
    "pythia-2.8b": (
        Defect(
            r"step(0|1|2|4|8|16|32|64|128|256|512|[1-9]000|[1-4]\d000|5[0-9]000|6[0-5]000|70000|80000|90000"
            r"|100000|103000|110000|120000|130000|140000|143000)",
            "serve final-era weights (86 of 154 revisions, in two groups of identical files)",
            "EleutherAI/pythia#205, #195",
        ),
    ),
    "pythia-12b": (
        Defect(r"step5[08]000", "serve the final checkpoint's first weight file", "EleutherAI/pythia#206"),
    ),
    "pythia-410m-seed9": (Defect("step40000", "lacks its weights", "EleutherAI/pythia#202"),),
    "pythia-410m-seed6": (Defect("step88000", "lacks its weights", "EleutherAI/pythia#202"),),
    "pythia-410m-seed2": (Defect("step111000", "lacks its weights", "EleutherAI/pythia#202"),),
    **{
        f"pythia-160m-weight-seed{seed}": (
            Defect("step0", "is not the start of the later checkpoints", "EleutherAI/pythia#203"),
        )
        for seed in (1, 2)
    },
    "olmo-2-7b": (
        Defect("stage1-.*", "hold three identical branches: see the duplicates below", "allenai/OLMo#915"),
    ),
}


def _pythia(size: str, suffix: str = "") -> HubSuite:
    peak_lr = _PYTHIA_PEAK_LR[size]
    name = f"pythia-{size}{suffix}"
    run = TrainingSettings(
        steps=143_000,
        tokens_per_step=2_097_152,
        schedule="pythia",
        peak_lr=peak_lr,
        min_lr=peak_lr / 10,
        warmup_steps=1430,
    )
    return HubSuite(name, f"EleutherAI/{name}", run, _STEP, _DEFECTS.get(name, ()))


def _other(name: str, repository: str, pattern: str, note: str = "", tokens: int | None = None) -> HubSuite:
    run = TrainingSettings(tokens_per_step=tokens)
    return HubSuite(name, repository, run, pattern, _DEFECTS.get(name, ()), note)


_OLMO2_7B = TrainingSettings(
    steps=928_646,
    tokens_per_step=1024 * 4096,
    schedule="cosine",
    peak_lr=3e-4,
    min_lr=3e-5,
    warmup_steps=2000,
    decay_steps=1_192_093,
)
"""Settings of its first stage: the cosine covers 5e12 tokens, the stage ended after 3.9e12."""

_OWN_CODE = "its models come with custom code, which is never run: a size that needs it fails by name"

_SUITES: tuple[HubSuite | RecipeSuite, ...] = (
    RecipeSuite("tiny", "tiny"),
    *(_pythia(size) for size in _PYTHIA_PEAK_LR),
    *(_pythia(size, "-deduped") for size in _DEDUPED),
    *(_pythia(size, f"-seed{seed}") for size in _POLY_SIZES for seed in _POLY_SEEDS),
    *(_pythia("160m", f"-{seed}") for seed in _DECOUPLED),
    _other("olmo-1b", "allenai/OLMo-1B-hf", _STEP + _TOKENS),
    _other("olmo-7b", "allenai/OLMo-7B-hf", _STEP + _TOKENS),
    _other("olmoe-1b-7b", "allenai/OLMoE-1B-7B-0924", _STEP + _TOKENS),
    _other("olmo-2-1b", "allenai/OLMo-2-0425-1B", _OLMO2),
    HubSuite(
        "olmo-2-7b",
        "allenai/OLMo-2-1124-7B",
        _OLMO2_7B,
        _OLMO2,
        _DEFECTS["olmo-2-7b"],
        described=r"stage1-.*",
    ),
    _other("olmo-2-13b", "allenai/OLMo-2-1124-13B", _OLMO2),
    _other("olmo-2-32b", "allenai/OLMo-2-0325-32B", _OLMO2),
    _other(
        "smollm3-3b",
        "HuggingFaceTB/SmolLM3-3B-checkpoints",
        r"(?P<stage>stage\d+)-step-(?P<step>\d+)",
        tokens=2_359_296,
    ),
    _other("apertus-8b", "swiss-ai/Apertus-8B-2509", _STEP + _TOKENS),
    _other("apertus-70b", "swiss-ai/Apertus-70B-2509", _STEP + _TOKENS),
    _other(
        "amber", "LLM360/Amber", r"ckpt_(?P<step>\d+)", "its numbers count data chunks, not optimizer steps"
    ),
    *(
        _other(
            f"open-sci-{size}",
            f"open-sci/open-sci-ref-v0.01-{size}-nemotron-hq-{tokens}-4096",
            r"iter_(?P<step>\d+)",
            _OWN_CODE,
        )
        for size, tokens in (("0.13b", "300B"), ("0.4b", "300B"), ("1.3b", "300B"), ("1.7b", "1T"))
    ),
)

REGISTRY = {suite.name: suite for suite in _SUITES}

_BY_REPOSITORY = {suite.repository: suite for suite in REGISTRY.values() if isinstance(suite, HubSuite)}


def known_suites() -> list[str]:
    """Names that ``open_suite`` knows, in the order of the registry."""
    return list(REGISTRY)


def registered_suite(name: str) -> HubSuite | RecipeSuite | None:
    """The registry's entry for ``name``, or None if it must be a folder or a repository."""
    return REGISTRY.get(name)


def repository_suite(repository: str) -> HubSuite:
    """The registry's entry for ``org/name``, or an empty entry."""
    return _BY_REPOSITORY.get(repository) or HubSuite(repository, repository)
