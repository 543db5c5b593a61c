"""A hub on the loopback interface that the real client talks to: endpoints, headers, redirects, ranges, faults.

Repositories are dictionaries in memory: a commit is a mapping from file names to bytes and is named by the hash of
its content, a branch is a name for a commit. Weight files are in LFS: they are answered with a redirect to another
path, as the real hub redirects to its file servers.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.suites.hub.faults import Fault, Faults

LFS_SUFFIXES = (".safetensors", ".bin")
Files = Mapping[str, bytes]


@dataclass
class Hub:
    """One repository and what was asked of it."""

    repository: str
    branches: dict[str, str] = field(default_factory=dict)
    """Commit by branch."""
    commits: dict[str, Files] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    log: list[tuple[str, str, str]] = field(default_factory=list)
    """Kind of request (``refs``, ``tree``, ``file``, ``lfs``, ``info``), commit, file; in order of arrival."""
    moves: list[tuple[str, Files, bool]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """Bytes of each weight file's answer, in order of arrival."""
    token: str | None = None
    """The token that every request must carry; None = a public repository."""
    endpoint: str = ""
    files: str = ""
    """Address of the file server: another host name, so that clients treat it as one."""
    leaked: bool = False
    """Whether the token was sent to the file server."""
    page: int | None = None
    """Files in one answer to a listing, which then names the next one in its ``Link`` header; None = all."""

    def push(self, branch: str, files: Files) -> str:
        """Makes a commit of ``files`` and points ``branch`` at it."""
        listed = "".join(
            f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(files.items())
        )
        commit = hashlib.sha1(f"{branch}\n{listed}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def push_folder(self, branch: str, folder: Path) -> str:
        return self.push(
            branch, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        )

    def fault(self, kind: str, revision: str, **settings: Any) -> None:
        self.faults.add(Fault(kind, revision, commit=self.branches[revision], **settings))

    def replace_at_first_fetch(self, branch: str, files: Files, *, keep_old: bool) -> None:
        """Moves ``branch`` to a commit of ``files`` when the first file of any commit is asked for."""
        self.moves.append((branch, files, keep_old))

    def move(self) -> None:
        while self.moves:
            branch, files, keep_old = self.moves.pop()
            old = self.branches[branch]
            self.push(branch, files)
            if not keep_old:
                del self.commits[old]

    def fetched(self) -> list[str]:
        """Branches whose weights were asked for since the log was last cleared, each once, in order."""
        names = {commit: name for name, commit in self.branches.items()}
        asked = [commit for kind, commit, file in self.log if kind == "file" and file.endswith(LFS_SUFFIXES)]
        return list(dict.fromkeys(names.get(commit, commit) for commit in asked))


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serves ``hub`` for the length of the block; ``hub.endpoint`` is its HF_ENDPOINT."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    hub.files = f"http://localhost:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        signed = path.startswith("/lfs/")  # the real file servers know their callers by signed addresses
        hub.leaked = hub.leaked or (signed and "Authorization" in self.headers)
        if (
            hub.token is not None
            and not signed
            and self.headers.get("Authorization") != f"Bearer {hub.token}"
        ):
            self._refuse("RepoNotFound", 401)
            return
        for pattern, answer in (
            (rf"/api/models/{hub.repository}/refs", self._refs),
            (rf"/api/models/{hub.repository}/tree/([^/]+)", self._tree),
            (rf"/api/models/{hub.repository}/revision/([^/]+)", self._info),
            (rf"/{hub.repository}/resolve/([^/]+)/(.+)", self._file),
            (r"/lfs/([0-9a-f]+)/(.+)", self._lfs),
        ):
            match = re.fullmatch(pattern, path)
            if match is not None:
                answer(*match.groups())
                return
        self._refuse("RepoNotFound", 404)

    def _refs(self) -> None:
        self.served.log.append(("refs", "", ""))
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in self.served.branches.items()
        ]
        self._json({"branches": branches, "tags": [], "converts": []})

    def _tree(self, revision: str) -> None:
        commit = self._commit("tree", revision, "tree")
        if commit is None:
            return
        entries = [_entry(name, data) for name, data in sorted(self.served.commits[commit].items())]
        size = self.served.page or max(1, len(entries))
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        headers = {}
        if start + size < len(entries):
            following = f"{self.served.endpoint}{urlsplit(self.path).path}?cursor={start + size}"
            headers["Link"] = f'<{following}>; rel="next"'
        self._json(entries[start : start + size], headers)

    def _info(self, revision: str) -> None:
        commit = self._commit("info", revision, "info")
        if commit is not None:
            files = [{"rfilename": name} for name in self.served.commits[commit]]
            self._json({"_id": "1", "id": self.served.repository, "sha": commit, "siblings": files})

    def _file(self, revision: str, name: str) -> None:
        self.served.move()
        commit = self._commit("file", revision, name if not name.endswith(LFS_SUFFIXES) else "")
        if commit is None:
            return
        self.served.log[-1] = ("file", commit, name)
        data = self.served.commits[commit].get(name)
        if data is None:
            self._refuse("EntryNotFound", 404, {"X-Repo-Commit": commit})
        elif name.endswith(LFS_SUFFIXES):
            digest = hashlib.sha256(data).hexdigest()
            headers = {
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
            }
            self._send(b"", {**headers, "Location": f"{self.served.files}/lfs/{commit}/{name}"}, 302)
        else:
            self._send(data, {"ETag": f'"{_blob(data)}"', "X-Repo-Commit": commit})

    def _lfs(self, commit: str, name: str) -> None:
        """The file server: ranges, and most of the faults."""
        self.served.log.append(("lfs", commit, name))
        data = self.served.commits[commit][name]
        fault = self.served.faults.next(commit, name) if self.command == "GET" else None
        kind = fault.kind if fault else ""
        if fault and kind == "status":
            self._refuse("", fault.status, {"Retry-After": "0"})
            return
        if kind == "corrupt":
            data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
        if kind == "short":
            data = data[: len(data) // 2]
        start, status, headers = 0, 200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is not None:
            start, status = int(asked[1]), 206
            if start >= len(data):
                self._send(b"", {"Content-Range": f"bytes */{len(data)}"}, 416)
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            self.served.sent.append(len(data) - start)
        self._send(
            data[start:], headers, status, cut=kind == "cut", slow=kind == "slow", stuck=kind == "stuck"
        )

    def _commit(self, kind: str, revision: str, file: str) -> str | None:
        """The commit of a branch or a commit; None once an error was answered."""
        hub = self.served
        commit = hub.branches.get(revision, revision)
        hub.log.append((kind, commit, file))
        fault = hub.faults.next(commit, file)
        if commit not in hub.commits or (fault and fault.kind == "gone"):
            self._refuse("RevisionNotFound", 404)
            return None
        if fault is not None:
            self._refuse("", fault.status, {"Retry-After": "0"})
            return None
        return commit

    def _json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _refuse(self, code: str, status: int, headers: Mapping[str, str] | None = None) -> None:
        self._send(b"{}", {"X-Error-Code": code, **(headers or {})}, status)

    def _send(
        self,
        data: bytes,
        headers: Mapping[str, str],
        status: int = 200,
        *,
        cut: bool = False,
        slow: bool = False,
        stuck: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if stuck:
            self.wfile.write(data[: len(data) // 2])
            self.rfile.read(1)  # until the client goes
            self.close_connection = True
        elif cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif slow:
            for start in range(0, len(data), max(1, len(data) // 8)):
                self.wfile.write(data[start : start + max(1, len(data) // 8)])
                time.sleep(0.05)
        else:
            self.wfile.write(data)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
    if name.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _blob(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
