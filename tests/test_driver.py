"""How many workers a cluster takes, and what is refused before any work."""

from __future__ import annotations

import pytest

from pipeline.driver import Layout, Resources, plan_layout
from pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("resources", "offered", "layout"),
    [
        (Resources(), {"CPU": 2.0}, Layout("cpu", 2, 1, 0)),
        (Resources(workers=1), {"CPU": 8.0}, Layout("cpu", 1, 8, 0)),
        (Resources(), {"CPU": 16.0, "GPU": 2.0}, Layout("cuda", 2, 1, 1.0)),
        (Resources(workers_per_gpu=3), {"CPU": 16.0, "GPU": 2.0}, Layout("cuda", 6, 1, 1 / 3)),
        (Resources(device="cpu"), {"CPU": 4.0, "GPU": 1.0}, Layout("cpu", 4, 1, 0)),
    ],
)
def test_layout_uses_everything_without_oversubscription(
    resources: Resources, offered: dict[str, float], layout: Layout
) -> None:
    assert plan_layout(resources, offered) == layout
    assert layout.workers * layout.cpus <= offered["CPU"]
    assert layout.workers * layout.gpus <= offered.get("GPU", 0) + 1e-9


@pytest.mark.parametrize(
    ("resources", "offered"),
    [
        (Resources(device="cuda"), {"CPU": 4.0}),
        (Resources(workers=5), {"CPU": 4.0}),
        (Resources(), {"memory": 1e9}),
    ],
)
def test_sizes_that_can_never_fit_are_refused_at_once(
    resources: Resources, offered: dict[str, float]
) -> None:
    with pytest.raises(UsageError, match=r"--device cpu|--workers|cores"):
        plan_layout(resources, offered)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UsageError, match="auto, cpu or cuda"):
        Resources(device="gpu")
