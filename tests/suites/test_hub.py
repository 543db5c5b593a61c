"""Hub requests that fail before there is an answer."""

import pytest

from pipeline.base.errors import UsageError
from pipeline.base.retry import RetryPolicy
from pipeline.spec import Checkpoint
from pipeline.suites.hub import hub_suite as hub
from pipeline.suites.hub import remote
from pipeline.suites.hub.hub_requests import LONGEST_ASKED_S, ask_hub, passing, reason, retry_after_s
from pipeline.suites.hub.listing import HubFile, Listing
from pipeline.suites.model_config import stored_bytes
from pipeline.suites.opening import open_suite
from pipeline.suites.registry import HubSuite
from pipeline.suites.suite import Suite


class Response:
    def __init__(self, status_code, **headers):
        self.status_code = status_code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class RefusedError(OSError):
    def __init__(self, status, **headers):
        super().__init__("https://user:secret@hub/api?token=hf_secret refused")
        self.response = Response(status, **headers)


class Broken:
    def __getattr__(self, name):
        def fail(*_, **__):
            raise OSError("https://user:secret@hub/api?token=hf_secret refused the connection")

        return fail


def test_an_unreachable_hub_is_named_without_its_address(monkeypatch):
    monkeypatch.setattr(remote, "api", Broken)
    monkeypatch.setattr(remote, "offline", lambda: False)
    with pytest.raises(UsageError, match=r"some/run cannot be listed: the hub cannot be reached") as listed:
        hub.open_hub(HubSuite("some/run", "some/run"))
    assert "secret" not in str(listed.value)
    assert "secret" not in reason(RefusedError(503))


def test_a_mistyped_folder_is_not_blamed_on_the_hub_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "api", Broken)
    monkeypatch.setattr(remote, "offline", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "suite").mkdir(parents=True)
    with pytest.raises(
        UsageError, match=r"there is no folder 'outputs/suit' either; did you mean outputs/suite\?"
    ):
        open_suite("outputs/suit")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_busy_and_broken_servers_are_asked_again(status):
    answers = [RefusedError(status, Retry_After="0")] * 3

    def call():
        if answers:
            raise answers.pop()
        return "answer"

    assert ask_hub(call) == "answer"
    answers = [RefusedError(status, Retry_After="0")] * 9
    with pytest.raises(RefusedError):
        ask_hub(call, RetryPolicy(tries=4))
    assert len(answers) == 5


@pytest.mark.parametrize("error", [RefusedError(401), RefusedError(404), ValueError("x"), KeyError("x")])
def test_a_final_refusal_is_not_tried_again(error):
    assert not passing(error)
    tried = []
    with pytest.raises(type(error)):
        ask_hub(lambda: tried.append(1) or (_ for _ in ()).throw(error))
    assert tried == [1]


def test_waits_double_up_to_a_limit_and_follow_the_server():
    policy = RetryPolicy(first_s=1, most_s=8)
    waits = [policy.wait_s(failures) for failures in (1, 2, 3, 4, 9)]
    for wait, least in zip(waits, (1, 2, 4, 8, 8), strict=True):
        assert least <= wait <= 1.5 * least
    assert retry_after_s(RefusedError(429, Retry_After="55")) == 55
    assert retry_after_s(RefusedError(429, Retry_After="5000")) == LONGEST_ASKED_S


def test_the_size_of_the_weights_is_known_from_the_listing(monkeypatch, tmp_path):
    files = tuple(
        HubFile(name, size, "b") for name, size in (("config.json", 7), ("model.safetensors", 1000))
    )
    listings = {"c1": Listing(files[:1]), "c2": Listing(files)}
    monkeypatch.setattr(remote, "list_commit", lambda repository, commit: listings[commit])
    remote_suite = Suite(
        "s", "hf://o/r", tuple(Checkpoint(n, f"step{n}", "hf://o/r", commit=f"c{n}") for n in (1, 2))
    )
    assert stored_bytes(remote_suite) == 1000, "the first checkpoint has no weights"
    for name, size in (("config.json", 7), ("model.safetensors", 300)):
        (tmp_path / name).write_bytes(b"x" * size)
    local = Suite("s", str(tmp_path), (Checkpoint(1, "step1", str(tmp_path)),))
    assert stored_bytes(local) == 300
    assert stored_bytes(Suite("s", "x", (Checkpoint(1, "step1", str(tmp_path / "no")),))) is None
