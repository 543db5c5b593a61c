import dataclasses

import pytest

from pipeline.base.errors import UsageError
from pipeline.suites import RecipeSuite, registered_suite
from pipeline.train import find_recipe


def test_tiny_has_pythias_spacing_at_one_hundredth():
    steps = find_recipe("tiny").checkpoint_steps
    assert len(steps) == 154
    assert steps[:12] == (0, 1, 2, 4, 8, 10, 16, 20, 30, 32, 40, 50)
    assert steps[-2:] == (1420, 1430)
    assert {2**power for power in range(10)} <= set(steps)
    registered = registered_suite("tiny")
    assert isinstance(registered, RecipeSuite)
    assert find_recipe(registered.recipe).name == "tiny"


def test_the_last_step_is_always_a_checkpoint():
    recipe = dataclasses.replace(find_recipe("micro"), steps=33)
    assert recipe.checkpoint_steps == (0, 1, 2, 4, 5, 8, 10, 15, 16, 20, 25, 30, 32, 33)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layers": 0}, "layers 0"),
        ({"heads": 3}, "not a multiple of 3 heads"),
        ({"heads": 16}, "heads of 2 are too small"),
        ({"vocab_size": 100}, "vocab_size 100"),
        (
            {"schedule": "nope"},
            r"unknown schedule of a recipe 'nope'.*4 known: constant, cosine, pythia, wsd",
        ),
        ({"corpus": "docstring"}, "unknown corpus"),
        ({"warmup_steps": 31}, "warm-up of 31 steps"),
        ({"seq_len": 1}, "seq_len 1"),
        ({"beta2": 1.0}, "betas"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_a_senseless_recipe_is_refused(change, complaint):
    with pytest.raises(UsageError, match=complaint):
        dataclasses.replace(find_recipe("micro"), **change)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        find_recipe("tiny2")
