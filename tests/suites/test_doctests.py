import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "suites.model_config",
        "suites.revisions",
        "suites.training_settings",
        "corpus.grammar",
        "train.schedules.schedule",
        "train.schedules.constant",
        "train.schedules.cosine",
        "train.schedules.noop",
        "train.schedules.oli",
        "train.schedules.sgdr",
        "train.schedules.wsd",
        "train.arms",
        "analysis.statistics.contrasts",
        "quantize.integer",
        "quantize.mx",
        "quantize.nf4",
        "quantize.variant",
        "base.errors",
    ],
)
def test_examples_in_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(f"pipeline.{name}"))
    assert (result.failed, result.attempted > 0) == (0, True)
