import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest

from pipeline.base.errors import UsageError
from pipeline.suites import registered_suite
from pipeline.train.schedules import make_schedule, recipe_schedules

RUN = {"steps": 1000, "peak_lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 10}


@pytest.mark.parametrize("name", recipe_schedules())
def test_every_schedule_warms_up_from_zero_to_the_peak(name):
    rates = [make_schedule(name, **RUN)(step) for step in range(1001)]
    assert rates[0] == 0.0
    assert rates[5] == pytest.approx(5e-4)
    assert max(rates) == rates[10] == pytest.approx(1e-3)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))
    assert math.isfinite(make_schedule(name, **{**RUN, "warmup_steps": 0})(0))


def test_pythia_is_flat_from_where_its_cosine_meets_the_minimum():
    pythia = registered_suite("pythia-160m")
    rates = np.array([pythia.learning_rate(f"step{step}", step) for step in range(0, 143_001, 1000)])
    assert pythia.learning_rate("step1", 1) == 0.0
    assert pythia.tokens_seen("step143000", 143_000) == 143_000 * 2_097_152
    assert rates[60] == pytest.approx(3.84e-4, rel=2e-3)
    assert rates[100] == pytest.approx(1.32e-4, rel=3e-3)
    assert rates[116] == pytest.approx(6e-5, rel=1e-12)
    assert (rates[116:] == rates[116]).all()
    assert rates[115] > 6e-5


def test_the_others_end_where_they_say():
    assert make_schedule("cosine", **RUN)(1000) == pytest.approx(1e-4)
    assert make_schedule("constant", **RUN)(1000) == 1e-3
    wsd = make_schedule("wsd", **RUN)
    assert [wsd(step) for step in (10, 800, 900, 1000)] == pytest.approx([1e-3, 1e-3, 5.5e-4, 1e-4])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "cosin"}, "did you mean 'cosine'"),
        ({"min_lr": 2e-3}, "0 <= minimum <= peak"),
        ({"peak_lr": math.inf}, "minimum <= peak"),
        ({"warmup_steps": 1001}, "wanted 0 to 1000"),
    ],
)
def test_senseless_settings_are_refused(change, complaint):
    with pytest.raises(UsageError, match=complaint):
        make_schedule(**{"name": "cosine", **RUN, **change})


def test_schedules_are_values():
    assert make_schedule("wsd", **RUN) == make_schedule("wsd", **RUN)
    assert all(dataclasses.is_dataclass(kind) for kind in recipe_schedules().values())
