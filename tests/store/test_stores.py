"""Local folders, file:// and S3 keep the same promises: a file is there whole or not at all, and errors say where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.base.errors import FolderLockedError, OutputError, UsageError
from pipeline.store import Address, ObjectStore, Store, lease, open_store, parse_location
from pipeline.store.objects import SMALL_BYTES
from tests.conftest import SECRET
from tests.store.faults import Fault
from tests.store.server import Way

LARGE = os.urandom(3 * SMALL_BYTES // 2)
"""Two of pyarrow's parts."""


@pytest.fixture(params=["path", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(request.getfixturevalue("bucket") + "/a b/run")
    return open_store(tmp_path / "a b" if request.param == "path" else f"file://{tmp_path}/a%20b")


def objects(bucket: str, patience_s: float = 20.0) -> ObjectStore:
    address = parse_location(f"{bucket}/run")
    assert isinstance(address, Address)
    return ObjectStore(address, patience_s)


def test_what_is_written_is_read_listed_and_removed(store: Store) -> None:
    store.check()
    store.make_folder("shards/audit")
    assert store.read("shards/audit/a.arrow", 2**30) is None
    assert not store.exists("shards/audit/a.arrow")
    assert store.names("shards/audit", ".arrow") == []
    for name in ("b.arrow", "a.arrow", "a.json"):
        store.write(f"shards/audit/{name}", name.encode())
    store.write("shards/audit/a.arrow", b"again")
    assert store.read("shards/audit/a.arrow", 2**30) == b"again"
    assert store.exists("shards/audit/b.arrow")
    assert store.names("shards/audit", ".arrow") == ["a.arrow", "b.arrow"]
    assert store.names("shards", "") in ([], ["audit"]), "only what lies in the folder itself"
    store.remove("shards/audit/a.arrow")
    store.remove("shards/audit/a.arrow")
    assert store.names("shards/audit", ".arrow") == ["b.arrow"]
    assert open_store(store.location).read("shards/audit/b.arrow", 2**30) == b"b.arrow"


def test_a_second_holder_is_refused_and_the_next_one_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PULSE_S", 0.3)
    store.make_folder("")
    with store.lock():
        with pytest.raises(FolderLockedError, match=f"in use by process {os.getpid()} on"), store.lock():
            pass
        store.write("x", b"the first one still holds it")
    with store.lock():
        pass


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("status", "PUT", times=4)],
        [Fault("cut request", "PUT", times=2), Fault("cut reply", "GET", times=2)],
        [Fault("status", "HEAD", times=1, status=503), Fault("cut reply", "GET", "list-type", times=1)],
    ],
    ids=["500", "cut", "503"],
)
def test_passing_faults_cost_only_time(bucket: str, way: Way, faults: list[Fault]) -> None:
    store = objects(bucket)
    way.faults.add(*faults)  # of four, the client itself gives up after three
    data = os.urandom(200_000)
    store.write("a.arrow", data)
    assert store.names("", ".arrow") == ["a.arrow"]
    assert store.read("a.arrow", 2**30) == data


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "POST", "uploads", status=403),
        Fault("status", "PUT", "partNumber=2", status=403),
        Fault("status", "POST", "uploadId"),
    ],
    ids=["no upload begun", "second part refused", "not completed"],
)
def test_a_large_object_that_fails_leaves_the_old_one_whole(bucket: str, way: Way, fault: Fault) -> None:
    store = objects(bucket, patience_s=0.0)
    store.write("state.pt", b"old")
    way.faults.add(fault)
    with pytest.raises(OutputError, match=rf"cannot write {bucket}/run/state.pt"):
        store.write("state.pt", LARGE)
    way.faults.clear()
    assert store.read("state.pt", 2**30) == b"old"
    assert store.names("", "") == ["state.pt"]
    store.write("state.pt", LARGE)
    assert store.read("state.pt", 2**30) == LARGE
    assert store.names(".tmp", "") == []


def test_a_refusal_says_what_to_do_at_once_and_quotes_no_credentials(bucket: str, way: Way) -> None:
    store = objects(bucket)
    way.faults.add(*(Fault("status", method, status=403) for method in ("PUT", "GET", "HEAD")))
    for action in (store.check, lambda: store.write("x", b""), lambda: store.names("shards", "")):
        with pytest.raises(
            OutputError, match=rf"{bucket}/run.*access denied.*set AWS_ACCESS_KEY_ID"
        ) as caught:
            action()
        assert SECRET not in str(caught.value)
        assert os.environ["AWS_ACCESS_KEY_ID"] not in str(caught.value)
    assert len(way.faults.requests) == 3


def test_a_bucket_that_does_not_exist_is_never_an_empty_folder(bucket: str) -> None:
    store = objects(bucket + "x")
    for action in (store.check, lambda: store.read("run.json", 2**30), lambda: store.names("shards", "")):
        with pytest.raises(UsageError, match=rf"{bucket}x/run: there is no bucket .* at http://127"):
            action()
    with pytest.raises(OutputError, match=rf"cannot write {bucket}x/run/a: there is no such bucket"):
        store.write("a", b"")


def test_a_store_that_does_not_answer_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        OutputError, match=rf"cannot use {bucket}/run: no answer from the store.*AWS_ENDPOINT_URL"
    ):
        objects(bucket).check()


@pytest.mark.parametrize("more", ["/tenant", "/tenant/", f"?key={SECRET}", f"#{SECRET}"])
def test_a_server_with_a_path_is_refused_before_anything_goes_to_another_place(
    bucket: str, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"] + more)
    with pytest.raises(
        UsageError, match=r"AWS_ENDPOINT_URL has a path after the server's name.*wanted http://127"
    ) as caught:
        objects(bucket).check()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hdfs://host/x", "unknown kind of location hdfs://.*file://, s3://, gs://"),
        ("s3://", "wanted s3://BUCKET/FOLDER"),
        ("s3:///x", "wanted s3://BUCKET/FOLDER"),
        (f"s3://key:{SECRET}@bucket/x", "takes no user, password"),
        (f"s3://bucket/x?secret_key={SECRET}", "takes no user, password"),
        ("file://host/x", "wanted file:///ABSOLUTE/PATH"),
    ],
)
def test_what_is_no_location_is_refused_without_repeating_a_secret(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_store(text)
    assert SECRET not in str(caught.value)
