"""A real S3 server (moto's) behind a way that can be made faulty."""

from __future__ import annotations

import logging
import re
import socket
import threading
import urllib.request
from typing import Any

from tests.store.faults import Fault, Faults

END_OF_HEAD = b"\r\n\r\n"
END_OF_CHUNKS = b"\r\n0\r\n\r\n"


class Way:
    """A proxy that passes requests on, one per connection, but for its faults.

    It listens from the beginning, so that its address can be told to processes that may need it; the server behind it
    is started by the first who asks for it.
    """

    def __init__(self) -> None:
        self.faults = Faults()
        self._server: Any = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        """Starts the server, once."""
        if self._server is None:
            from moto.server import ThreadedMotoServer

            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
            self._server.start()

    def make_bucket(self, name: str) -> None:
        self.open()
        host, port = self._server.get_host_and_port()
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{name}", method="PUT")).close()

    def close(self) -> None:
        self._listener.close()
        if self._server is not None:
            self._server.stop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                self._pass_on(client)
            except (OSError, EOFError):  # whoever was there has gone
                return

    def _pass_on(self, client: socket.socket) -> None:
        head, body = _receive_head(client)
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ", 2)
        fault = self.faults.next(method, target)
        if _field(head, "expect"):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(_field(head, "content-length") or _field(head, "x-amz-decoded-content-length") or 0)
        if _is(fault, "cut request"):
            _receive(client, length // 2 - len(body))
            return
        if _field(head, "transfer-encoding") == "chunked":
            while not body.endswith(END_OF_CHUNKS):
                body += _receive(client, 1)
        else:
            body += _receive(client, length - len(body))
        if fault is not None and fault.kind == "status":
            client.sendall(f"HTTP/1.1 {fault.status} Fault\r\nContent-Length: 0\r\n\r\n".encode())
            return
        if _is(fault, "hold"):
            self.faults.hold()
            return
        lines = [line for line in head.split(b"\r\n") if not re.match(rb"(?i)(expect|connection):", line)]
        with socket.create_connection(self._server.get_host_and_port()) as upstream:
            upstream.sendall(b"\r\n".join([*lines, b"Connection: close"]) + END_OF_HEAD + body)
            reply = b""
            while part := upstream.recv(2**16):
                reply += part
        if _is(fault, "cut reply"):
            at = reply.index(END_OF_HEAD) + len(END_OF_HEAD)
            reply = reply[: at + (len(reply) - at) // 2 - (len(reply) == at)]
        client.sendall(reply)


def _is(fault: Fault | None, kind: str) -> bool:
    return fault is not None and fault.kind == kind


def _field(head: bytes, name: str) -> str:
    found = re.search(rf"\r\n{name}: *([^\r]*)".encode(), head, re.IGNORECASE)
    return found[1].decode() if found else ""


def _receive_head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while END_OF_HEAD not in data:
        data += _receive(client, 1)
    head, _, body = data.partition(END_OF_HEAD)
    return head, body


def _receive(client: socket.socket, at_least: int) -> bytes:
    data = b""
    while len(data) < at_least:
        part = client.recv(2**16)
        if not part:
            raise EOFError
        data += part
    return data
