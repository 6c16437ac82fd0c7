"""A small server that speaks the protocol of Hugging Face's hub for one file, and goes wrong on demand.

The hub names commit, size and sha256 of a file and sends the client elsewhere for its bytes; that place honours Range.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef" * 2 + "01234567"
Answer = Callable[["Handler"], None]


@dataclass
class Hub:
    """What is published, how to answer, and what was asked.

    `index` and `store` are answers of the two places, each used once; then comes the default.
    """

    path: str
    content: bytes
    commit: str = COMMIT
    sha256: str = ""
    port: int = 0
    index: list[Answer] = field(default_factory=list)
    store: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store_address(self) -> str:
        """Of another host than `endpoint`, as a client sees it."""
        return f"http://localhost:{self.port}/store"

    @property
    def ranges(self) -> list[str]:
        """The Range of each request for the bytes."""
        return [wanted for method, path, wanted in self.asked if method == "GET" and path.startswith("/store")]

    def publish(self, content: bytes, commit: str) -> None:
        """Another version of the file."""
        self.content, self.commit = content, commit


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.hub
        hub.asked.append((self.command, self.path, self.headers.get("Range", "")))
        hub.headers.append(dict(self.headers))
        queue, default = (hub.store, serve) if self.path.startswith("/store") else (hub.index, describe)
        (queue.pop(0) if queue else default)(self)

    def send(self, code: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Headers, and the body unless it is a HEAD."""
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def describe(handler: Handler, **changed: str) -> None:
    """The hub's answer: what the file is and where its bytes are; `changed` headers with _ for -."""
    hub = handler.hub
    prefix, revisions = "/datasets/robomimic/robomimic_datasets/resolve", ("main", hub.commit)
    if handler.path not in [f"{prefix}/{revision}/{hub.path}" for revision in revisions]:
        return handler.send(404, {"X-Error-Code": "EntryNotFound"}, b"Entry not found")
    headers = {
        "X-Repo-Commit": hub.commit,
        "X-Linked-Etag": f'"{hub.sha256 or hashlib.sha256(hub.content).hexdigest()}"',
        "X-Linked-Size": str(len(hub.content)),
        "Location": hub.store_address,
        "Content-Type": "text/plain; charset=utf-8",
    }
    handler.send(302, headers | {name.replace("_", "-"): value for name, value in changed.items()}, b"Found.")


def described(**changed: str) -> Answer:
    """The hub's answer with other headers."""
    return lambda handler: describe(handler, **changed)


def serve(handler: Handler, limit: int | None = None) -> None:
    """The bytes from the start that Range names; the line is cut once `limit` of them are sent."""
    content, wanted = handler.hub.content, handler.headers.get("Range")
    headers = {"Content-Type": "application/octet-stream"}
    start = 0
    if wanted:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return handler.send(416, {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    body = content[start:]
    handler.send(206 if wanted else 200, headers | {"Content-Length": str(len(body))}, body[:limit])
    if limit is not None:
        handler.hang_up()


def cut(limit: int) -> Answer:
    """The line is cut after so many bytes of the body."""
    return lambda handler: serve(handler, limit)


def whole(handler: Handler) -> None:
    """The whole file, whatever Range says."""
    handler.send(200, {"Content-Type": "application/octet-stream"}, handler.hub.content)


def refusal(code: int, **headers: str) -> Answer:
    """A status alone."""
    return lambda handler: handler.send(code, headers, b"no")


def page(body: bytes, kind: str, **headers: str) -> Answer:
    """Some text with status 200."""
    return lambda handler: handler.send(200, {"Content-Type": kind} | headers, body)


def endless(body: bytes) -> Answer:
    """A body whose length nobody announces."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")

    return answer


def silent(seconds: float) -> Answer:
    """Nothing at all, for a while."""

    def answer(handler: Handler) -> None:
        time.sleep(seconds)
        handler.hang_up()

    return answer


def garbage(handler: Handler) -> None:
    """What is no HTTP at all."""
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    handler.hang_up()


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def serving(path: str, content: bytes) -> Iterator[Hub]:
    """A hub in a thread, with this content at this path of the repository."""
    hub = Hub(path, content)
    server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
