"""A small fork experiment for tests: the micro suite, its tokens and a task, without Ray or the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.fingerprints import tokens_sha256
from pipeline.corpus import evaluation_tokens, parse_corpus
from pipeline.runs.folder import RunFolder
from pipeline.runs.shard_schema import FORK
from pipeline.runs.task_values import ForkTask
from pipeline.spec import ProbeSpec, parse_variants
from pipeline.suites import load_tokenizer, open_suite
from pipeline.train.arms import Arm, parse_arms, resolve
from pipeline.train.data import training_tokens
from pipeline.train.fork_spec import ForkSpec
from pipeline.train.schedules import ForkRates
from pipeline.train.settings import OptimizerSettings

RATES = ForkRates(base_lr=2e-3, peak_lr=4e-3, steps=12, rewarm_steps=2)


def fork_task(
    suite_folder: Path, out: Path, *, step: int = 20, arm: str = "cosine", **changes: Any
) -> ForkTask:
    """A task of twelve updates with a probe every three, ready to run; ``changes`` are to the spec or the task."""
    suite = open_suite(str(suite_folder))
    tokenizer = load_tokenizer(suite)
    train = training_tokens(suite.train_corpus or "", tokenizer, 300)
    tokens = evaluation_tokens(parse_corpus(suite.default_corpus or ""), suite.default_shape, tokenizer)
    folder = RunFolder(out, FORK)
    out.mkdir(exist_ok=True)
    folder.prepare()
    folder.tokens.write(tokens.array)
    folder.training_tokens.write(train)
    checkpoint = suite.select([step]).checkpoints[0]
    spec = ForkSpec(
        content_id=checkpoint.content_id,
        rates=changes.pop("rates", RATES),
        probe=ProbeSpec(parse_variants(("int8", "int4")), suite.default_shape, tokens.sha256),
        probe_every=3,
        sequences=4,
        seq_len=32,
        train_sha256=tokens_sha256(train),
        optimizer=OptimizerSettings(),
        moments="cold",
        precision="fp32",
        compiled=False,
        ema_decay=0.75,
        lawa_window=3,
    )
    own = {field.name for field in dataclasses.fields(ForkSpec)}
    spec = dataclasses.replace(spec, **{name: value for name, value in changes.items() if name in own})
    given = changes.pop("made_arm", None)
    chosen: Arm = given or resolve(parse_arms(arm)[0], spec.rates)
    of_task = {name: value for name, value in changes.items() if name not in own}
    return ForkTask("micro", checkpoint, spec, chosen, of_task.pop("seed", 0), str(out), **of_task)


def rows(task: ForkTask, *, timeless: bool = True) -> list[dict[str, Any]]:
    """The rows of a task's shard, without what another run of the same task would change; NaN as None."""
    table = RunFolder(task.out, FORK).shards.read(task.key).table
    dropped = ["wall_s", "probe_s"] if timeless else []
    return [
        {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
        for row in table.drop_columns(dropped).to_pylist()
    ]
