"""How many workers a cluster takes, and what is refused before any work."""

from __future__ import annotations

import pytest

from pipeline.base.errors import UsageError
from pipeline.driver import Layout, Resources, plan_layout

Nodes = list[dict[str, float]]
MIXED: Nodes = [{"CPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 4.0}]
"""A head without a GPU, a node with cores to spare and one with more GPUs than cores."""


@pytest.mark.parametrize(
    ("resources", "nodes", "layout"),
    [
        (Resources(), [{"CPU": 2.0}], Layout("cpu", 2, 1, 0)),
        (Resources(workers=1), [{"CPU": 8.0}], Layout("cpu", 1, 8, 0, limit=1)),
        (Resources(), [{"CPU": 16.0, "GPU": 2.0}], Layout("cuda", 2, 1, 1.0)),
        (Resources(workers_per_gpu=3), [{"CPU": 16.0, "GPU": 2.0}], Layout("cuda", 6, 1, 1 / 3)),
        (Resources(gpus_per_worker=0.3), [{"CPU": 16.0, "GPU": 2.0}], Layout("cuda", 6, 1, 0.3)),
        (Resources(gpus_per_worker=0.6), [{"CPU": 16.0, "GPU": 2.0}], Layout("cuda", 2, 1, 0.6)),
        (Resources(device="cpu"), [{"CPU": 4.0, "GPU": 1.0}], Layout("cpu", 4, 1, 0)),
        (Resources(workers=2), [{"CPU": 3.0}, {"CPU": 3.0}], Layout("cpu", 2, 3, 0, limit=2)),
        (Resources(workers=1), [{"CPU": 2.0}, {"CPU": 2.0}], Layout("cpu", 1, 2, 0, limit=1)),
        (Resources(workers=3), [{"CPU": 3.0}, {"CPU": 2.0}], Layout("cpu", 3, 1, 0, limit=3)),
        (Resources(), MIXED, Layout("cuda", 4, 1, 1.0)),
        (Resources(gpus_per_worker=0.5), MIXED, Layout("cuda", 6, 1, 0.5)),
    ],
)
def test_layout_uses_every_node_without_oversubscribing_one(
    resources: Resources, nodes: Nodes, layout: Layout
) -> None:
    assert plan_layout(resources, nodes) == layout
    assert layout.workers <= layout.slots(nodes) == sum(layout.slots([node]) for node in nodes)
    for node in nodes:
        assert layout.slots([node]) * layout.cpus <= node["CPU"]
        assert layout.slots([node]) * layout.gpus <= node.get("GPU", 0) + 1e-9


@pytest.mark.parametrize(
    ("memory_gib", "asked", "workers"),
    [([16], None, 5), ([10], None, 3), ([2], None, 1), ([10], 8, 8), ([7, 4], None, 3)],
    ids=["room for five", "room for three", "room for none", "as asked for", "two nodes"],
)
def test_as_many_workers_start_on_a_cpu_as_the_memory_holds(
    memory_gib: list[int], asked: int | None, workers: int
) -> None:
    nodes = [{"CPU": 8.0, "memory": each * 2.0**30} for each in memory_gib]
    resources = Resources(device="cpu", workers=asked, cpu_worker_bytes=3 * 2**30)
    layout = plan_layout(resources, nodes)
    assert (layout.workers, layout.cpus, layout.wanted(nodes, 100)) == (workers, 1, workers)


@pytest.mark.parametrize(
    ("resources", "nodes"),
    [
        (Resources(device="cuda"), [{"CPU": 4.0}]),
        (Resources(device="cuda"), [{"CPU": 4.0}, {"GPU": 1.0}]),
        (Resources(workers=5), [{"CPU": 4.0}]),
        (Resources(), [{"memory": 1e9}]),
    ],
)
def test_sizes_that_can_never_fit_are_refused_at_once(resources: Resources, nodes: Nodes) -> None:
    with pytest.raises(UsageError, match=r"--device cpu|--workers|cores|--num-cpus"):
        plan_layout(resources, nodes)


def test_an_autoscaler_is_asked_for_as_many_workers_as_the_user_says() -> None:
    eight = [{"CPU": 8.0, "GPU": 8.0}]
    asked = plan_layout(Resources(device="cuda", workers=10), [{"CPU": 4.0}], grows=True)
    assert asked.device == "cuda"
    assert asked.wanted([{"CPU": 4.0}], 1000) == asked.wanted(eight, 1000) == 10
    assert asked.wanted(eight, 3) == 3
    on_cpus = plan_layout(Resources(device="cpu", workers=10), [{"CPU": 4.0}], grows=True)
    assert (on_cpus.workers, on_cpus.cpus, on_cpus.wanted([{"CPU": 4.0}], 1000)) == (4, 1, 10)
    assert plan_layout(Resources(), eight).wanted(eight, 1000) == 8, "room, where no number is given"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"device": "gpu"}, "auto, cpu or cuda"),
        ({"gpus_per_worker": 2.0}, "at most 1"),
        ({"gpus_per_worker": 0.0}, "above 0"),
        ({"gpus_per_worker": 0.5, "workers_per_gpu": 2}, "give one of them"),
        ({"task_timeout_s": -1.0}, "0 for never"),
    ],
)
def test_resources_that_make_no_sense_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Resources(**wrong)  # type: ignore[arg-type]
