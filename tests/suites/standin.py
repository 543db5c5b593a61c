"""A stand-in for the hub: serves local folders as the branches of one repository over HTTP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


@contextmanager
def stand_in_hub(repository: str, branches: dict[str, Path]) -> Iterator[str]:
    """Yields the endpoint (``HF_ENDPOINT``) under which ``repository`` has these branches."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            path = unquote(urlsplit(self.path).path)
            api, plain = f"/api/models/{repository}/", f"/{repository}/resolve/"
            if path == f"{api}refs":
                refs = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": commit(n)} for n in branches]
                self.reply({"branches": refs, "tags": [], "converts": []})
            elif path.startswith(f"{api}tree/") and (folder := self.folder(path.split("/")[6])):
                self.reply([listed(file) for file in sorted(folder.iterdir())])
            elif path.startswith(f"{api}revision/") and (folder := self.folder(path.split("/")[6])):
                files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                self.reply(
                    {"_id": "1", "id": repository, "sha": self.sha(path.split("/")[6]), "siblings": files}
                )
            elif path.startswith(plain):
                revision, name = path.removeprefix(plain).split("/", 1)
                folder = self.folder(revision)
                if folder is None or not (folder / name).is_file():
                    self.refuse("EntryNotFound")
                    return
                data = (folder / name).read_bytes()
                etag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": self.sha(revision)}
                self.send(data, etag)
            else:
                self.refuse("RevisionNotFound" if path.startswith(api) else "RepoNotFound")

        def sha(self, revision):
            return revision if len(revision) == 40 else commit(revision)

        def folder(self, revision):
            return next((f for name, f in branches.items() if revision in (name, commit(name))), None)

        def reply(self, value):
            self.send(json.dumps(value).encode(), {"Content-Type": "application/json"})

        def refuse(self, code):
            self.send(b"{}", {"X-Error-Code": code}, 404)

        def send(self, data, headers, status=200):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def commit(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def listed(file: Path) -> dict:
    data = file.read_bytes()
    entry = {"type": "file", "path": file.name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if file.suffix in (".safetensors", ".bin"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
