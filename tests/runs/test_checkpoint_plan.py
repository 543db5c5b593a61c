"""How requests for the same folder add up to one plan, whatever their order."""

from __future__ import annotations

from pipeline.runs.checkpoint_plan import merge_checkpoints
from pipeline.spec import Checkpoint


def checkpoints(**contents: str) -> list[Checkpoint]:
    """``step2="a"`` is a checkpoint of step 2 with content ``a``, linked to the first one with it here."""
    first: dict[str, str] = {}
    made = []
    for name, content in contents.items():
        checkpoint = Checkpoint(int(name[4:]), name, "x", content)
        original = first.setdefault(content, checkpoint.key)
        made.append(Checkpoint(checkpoint.step, name, "x", content, duplicate_of=original))
    return [c if c.duplicate_of != c.key else Checkpoint(c.step, c.revision, "x", c.content_id) for c in made]


def links(*requests: list[Checkpoint]) -> dict[int, str | None]:
    plan: tuple[Checkpoint, ...] = ()
    for request in requests:
        plan = merge_checkpoints(plan, request)
    return {checkpoint.step: checkpoint.duplicate_of for checkpoint in plan}


ALL = checkpoints(step0="a", step1="a", step2="a", step3="b")


def test_a_chain_of_requests_ends_at_the_first_of_its_content() -> None:
    late = checkpoints(step1="a", step2="a")
    early = checkpoints(step0="a", step1="a")
    assert links(late, early) == {0: None, 1: "step000000000", 2: "step000000000"}


def test_a_narrower_request_keeps_the_links_of_the_whole() -> None:
    assert links(ALL, checkpoints(step1="a", step3="b")) == links(ALL)


def test_the_order_of_requests_does_not_matter() -> None:
    one, other = checkpoints(step1="a", step3="b"), ALL
    assert links(one, other) == links(other, one) == links(other)


def test_stages_are_ordered_as_numbers() -> None:
    staged = [Checkpoint(0, "x", "x", f"{n}", stage=f"stage{n}") for n in (10, 2, 1)]
    assert [c.stage for c in merge_checkpoints((), staged)] == ["stage1", "stage2", "stage10"]
