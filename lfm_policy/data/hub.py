"""The protocol of Hugging Face's hub, as far as fetching one public file needs it; nothing secret is ever sent.

`{endpoint}/datasets/{repository}/resolve/{revision}/{path}` answers with the file's commit, size and sha256, and
redirects to where its bytes are.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import IO, TypeVar
from urllib.parse import quote
from urllib.request import Request

from lfm_policy.flow.errors import LFMError

ENDPOINT = "https://huggingface.co"
PASSING = {408, 429, 500, 502, 503, 504}  # statuses that may be gone in a moment
HOPELESS = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError, ValueError)  # on first contact

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteFile:
    """One version of a file on a hub: its address, its size in bytes and its sha256 in hexadecimal."""

    address: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Patience:
    """What to bear from a connection: seconds of silence, and how often to try again after it broke.

    The first new attempt comes after `pause` seconds, each further one after twice as long. `tell` is given a line
    about each.
    """

    timeout: float = 30.0
    retries: int = 4
    pause: float = 1.0
    tell: Callable[[str], None] = lambda line: None


class Broken(Exception):
    """An attempt that failed in a way that the next one may not."""


def dataset_address(repository: str, path: str, endpoint: str = ENDPOINT, revision: str = "main") -> str:
    """Where a hub answers for a file of a dataset repository; LFMError if the endpoint is no http address."""
    if not re.match(r"https?://[^/]", endpoint):
        raise LFMError(f"endpoint '{endpoint}': must begin with https:// (see --endpoint and HF_ENDPOINT)")
    return f"{endpoint.rstrip('/')}/datasets/{quote(repository)}/resolve/{quote(revision, safe='')}/{quote(path)}"


def find_file(address: str, patience: Patience | None = None) -> RemoteFile:
    """Ask a hub about a file; the address returned is of the present commit, so that it stays the same file.

    LFMError if the file is not there or not for us, if the hub cannot be reached, or if its answer has no size or no
    sha256, without which nobody could tell when the file is whole.
    """
    patience = patience or Patience()
    try:
        headers = persist(lambda: _describe(address, patience.timeout), patience)
    except Broken as error:
        raise LFMError(f"{address}: {error}; check the network and --endpoint, or try later") from error
    # what it redirects to has an ETag and a length of its own
    etag, size = ("X-Linked-Etag", "X-Linked-Size") if "X-Linked-Etag" in headers else ("ETag", "Content-Length")
    sha256 = re.fullmatch(r'(?:W/)?"?([0-9a-fA-F]{64})"?', headers.get(etag, ""))
    if sha256 is None or not re.fullmatch(r"[1-9]\d*", headers.get(size, "")):
        raise LFMError(f"{address}: the answer has no sha256 or no size of a file, so no hub's; check --endpoint")
    commit = headers.get("X-Repo-Commit", "")
    if re.fullmatch(r"[0-9a-f]{40}", commit):
        address = re.sub("/resolve/[^/]+/", f"/resolve/{commit}/", address, count=1)
    return RemoteFile(address, int(headers[size]), sha256[1].lower())


@contextmanager
def open_from(remote: RemoteFile, start: int, timeout: float) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Where the bytes begin that a server sends when asked for those from `start` on (there, or at 0), and the bytes.

    Broken if the line breaks, LFMError if what is sent is not of this file.
    """
    with _ask_from(remote, start, timeout) as answer:
        _check_answer(answer, remote, start)
        yield (start if answer.status == 206 else 0), _blocks(answer)


def persist(attempt: Callable[[], Result], patience: Patience, size: Callable[[], int] = lambda: 0) -> Result:
    """The result of an attempt that is repeated while it breaks; Broken after too many without a larger `size`."""
    failures, largest = 0, size()
    while True:
        try:
            return attempt()
        except Broken as error:
            failures, largest = (0, size()) if size() > largest else (failures, largest)
            if failures >= patience.retries or (not largest and isinstance(error.__cause__, HOPELESS)):
                raise
            seconds = patience.pause * 2**failures
            failures += 1
            patience.tell(f"{error}; trying again in {seconds:g} s ({failures} of {patience.retries})")
            time.sleep(seconds)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but a HEAD only up to the answer that describes the file, and never out of https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        if req.get_method() == "HEAD" and "X-Linked-Etag" in headers:
            return None
        if not newurl.startswith("https:" if req.type == "https" else ("https:", "http:")):
            raise LFMError(f"{req.full_url}: redirects to {newurl}, which is not safe; check --endpoint")
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            new.method = req.get_method()  # which urllib forgets
        return new


def _request(
    method: str, address: str, timeout: float, headers: Mapping[str, str] | None = None
) -> http.client.HTTPResponse:
    """An answer with a good status; else HTTPError, or Broken."""
    told = {"User-Agent": "lfm_policy", "Accept-Encoding": "identity", **(headers or {})}
    opener = urllib.request.build_opener(_Redirects)
    with _network_errors():
        return opener.open(Request(address, headers=told, method=method), timeout=timeout)


@contextmanager
def _network_errors() -> Iterator[None]:
    """Broken for whatever a connection raises."""
    try:
        yield
    except (urllib.error.HTTPError, LFMError):
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        cause = cause if isinstance(cause, Exception) else error
        raise Broken(f"the connection failed ({' '.join(str(cause).split()) or type(cause).__name__})") from cause


def _ask_from(remote: RemoteFile, start: int, timeout: float) -> http.client.HTTPResponse:
    try:
        return _request("GET", remote.address, timeout, {"Range": f"bytes={start}-"} if start else {})
    except urllib.error.HTTPError as error:
        refusal = _refusal(error, remote.address)
        if error.code == 416 and start:  # it has nothing there
            return _ask_from(remote, 0, timeout)
        raise refusal from error


def _describe(address: str, timeout: float) -> Message:
    """The headers that say what the file is."""
    try:
        with _request("HEAD", address, timeout) as answer:
            return answer.headers
    except urllib.error.HTTPError as error:
        if error.code >= 400 or "X-Linked-Etag" not in error.headers:
            raise _refusal(error, address) from error
        error.close()
        return error.headers


def _refusal(error: urllib.error.HTTPError, address: str) -> Exception:
    error.close()
    status = f"{error.code} {error.headers.get('X-Error-Code') or error.reason}"
    if error.code in PASSING:
        return Broken(f"the server answers {status}")
    if error.code in (401, 403):
        return LFMError(f"{address}: access refused ({status}); private, gated or gone: check --repository, --endpoint")
    if error.code == 404:
        return LFMError(f"{address}: no such file ({status}); check --revision, --repository, --endpoint")
    return LFMError(f"{address}: the server answers {status}; check --endpoint")


def _check_answer(answer: http.client.HTTPResponse, remote: RemoteFile, start: int) -> None:
    """LFMError if an answer cannot be the file's bytes, from `start` on or all of them."""
    kind = answer.headers.get_content_type()
    if kind in ("text/html", "application/json"):
        raise LFMError(f"{remote.address}: sends a page ({kind}), not the file; is a login or a proxy in between?")
    length, wanted = answer.headers.get("Content-Length"), f"bytes {start}-{remote.size - 1}/{remote.size}"
    if answer.status == 206 and answer.headers.get("Content-Range") != wanted:
        told = f"sends '{answer.headers.get('Content-Range')}' where '{wanted}' was asked for"
    elif answer.status == 200 and length not in (None, str(remote.size)):
        told = f"sends {length} bytes of a file that has {remote.size}"
    elif answer.status not in (200, 206):
        told = f"answers {answer.status} {answer.reason}"
    else:
        return
    raise LFMError(f"{remote.address}: the server {told}; check --endpoint, or try later")


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        with _network_errors():
            block = answer.read1(1 << 20)
        if not block:
            return
        yield block
