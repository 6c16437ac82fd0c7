"""Asking a hub: what it is asked, how patiently, and what is made of answers that make no sense."""

from __future__ import annotations

import urllib.request
from http.client import HTTPMessage
from io import BytesIO
from pathlib import Path

import pytest

from lfm_policy.data.download import fetch_file, part_of
from lfm_policy.data.hub import Patience, RemoteFile, _Redirects, find_file
from tests.data.downloads import AT_ONCE, PATH, SIZE, address, begun, download, files, refused
from tests.helpers.hub import COMMIT, Answer, Hub, cut, described, garbage, page, refusal, serving, silent


def test_the_bytes_are_asked_of_the_commit_that_was_described(hub: Hub, output: Path) -> None:
    """A branch may move in between."""
    download(hub, output)
    head, get, _ = [(method, path) for method, path, _ in hub.asked]
    assert head == ("HEAD", address(hub).removeprefix(hub.endpoint))
    assert get == ("GET", address(hub, revision=COMMIT).removeprefix(hub.endpoint))


def test_retries_are_counted_anew_after_every_gain(hub: Hub, output: Path) -> None:
    told: list[str] = []
    patience = Patience(retries=2, pause=0.001, tell=told.append)
    hub.store = [refusal(503), cut(700), cut(0), cut(700), refusal(429)]
    download(hub, output, patience)
    assert output.read_bytes() == hub.content
    assert hub.ranges == ["", "", "bytes=700-", "bytes=700-", "bytes=1400-", "bytes=1400-"]
    assert [line[-8:] for line in told] == [f"({count} of 2)" for count in (1, 1, 2, 1, 2)]


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_that_gain_nothing_come_to_an_end(hub: Hub, output: Path, retries: int) -> None:
    patience = Patience(retries=retries, pause=0.001)
    hub.store = [refusal(503)] * 9
    assert "the server answers 503" in refused(lambda: download(hub, output, patience))
    assert len(hub.ranges) == retries + 1
    assert files(output) == set()
    hub.index = [refusal(500)] * retries
    assert find_file(address(hub), patience).size == SIZE
    hub.index = [refusal(500)] * (retries + 1)
    assert "the server answers 500" in refused(lambda: find_file(address(hub), patience))


def test_waiting_doubles(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("lfm_policy.data.hub.time.sleep", slept.append)
    hub.index = [refusal(503)] * 4
    find_file(address(hub), Patience(retries=4, pause=0.5))
    assert slept == [0.5, 1, 2, 4]


def test_a_silent_server_counts_as_broken(hub: Hub, output: Path) -> None:
    begun(hub, output)
    hub.store = [silent(0.3)]
    patience = Patience(timeout=0.1, retries=1, pause=0.001)
    fetch_file(find_file(address(hub)), output, patience=patience)
    assert output.read_bytes() == hub.content
    hub.index = [silent(0.3)]
    assert "timed out" in refused(lambda: find_file(address(hub), Patience(timeout=0.1, retries=0)))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (page(b"<html>hello</html>", "text/html"), "no sha256"),
        (page(b"{}", "application/json", ETag=f'"{"a" * 40}"'), "no sha256"),
        (described(X_Linked_Etag="0123"), "no sha256"),
        (described(X_Linked_Size="many"), "no size"),
        (described(X_Linked_Size="0"), "no size"),
        (garbage, "the connection failed"),
        (refusal(302), "answers 302"),
        (refusal(302, Location="/datasets/elsewhere/resolve/main/a"), "404"),
        (refusal(302, Location="file:///etc/passwd"), "answers 302"),
        (refusal(302, Location="ftp://elsewhere/a"), "not safe"),
        (refusal(302, Location="http://[::1"), "the connection failed"),
        (refusal(404), "no such file (404"),
        (refusal(404, **{"X-Error-Code": "RevisionNotFound"}), "no such file (404 RevisionNotFound); check --revision"),
        (refusal(401), "access refused (401"),
        (refusal(403), "access refused (403"),
        (refusal(418), "answers 418"),
    ],
)
def test_a_hub_that_makes_no_sense_is_told_in_one_line(hub: Hub, answer: Answer, told: str) -> None:
    hub.index = [answer]
    line = refused(lambda: find_file(address(hub), AT_ONCE))
    assert told in line
    assert address(hub) in line


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (page(b"<html>log in</html>", "text/html; charset=utf-8"), "sends a page (text/html)"),
        (page(b'{"error": 1}', "application/json"), "sends a page (application/json)"),
        (page(b"x" * 500, "application/octet-stream"), f"sends 500 bytes of a file that has {SIZE}"),
        (refusal(206, **{"Content-Range": f"bytes 7-{SIZE - 1}/{SIZE}"}), "sends 'bytes 7-2999999/3000000' where "),
        (refusal(206, **{"Content-Range": f"bytes 1000000-{SIZE}/{SIZE + 1}"}), "/3000001' where "),
        (refusal(206), "sends 'None' where "),
        (refusal(202), "answers 202"),
        (refusal(403), "access refused (403"),
        (refusal(404), "no such file (404"),
        (garbage, "the connection failed"),
    ],
)
def test_bytes_that_are_not_the_files_do_no_harm(hub: Hub, output: Path, answer: Answer, told: str) -> None:
    begun(hub, output)
    hub.store = [answer]
    line = refused(lambda: download(hub, output))
    assert told in line
    assert address(hub, revision=COMMIT) in line
    download(hub, output)
    assert output.read_bytes() == hub.content
    assert hub.ranges == ["bytes=1000000-"] * 2


def test_a_repository_that_moved_is_followed(hub: Hub, output: Path) -> None:
    """By relative redirects, of HEAD and GET."""
    moved = [refusal(307, Location=address(hub, revision=name).removeprefix(hub.endpoint)) for name in ("main", COMMIT)]
    hub.index = moved[:1]
    remote = find_file(address(hub, "amandlek/robomimic"))
    assert [method for method, _, _ in hub.asked] == ["HEAD", "HEAD"]
    hub.index = moved[1:]
    fetch_file(remote, output)
    assert output.read_bytes() == hub.content


@pytest.mark.parametrize(("target", "safe"), [("https://b.example/x", True), ("http://b.example/x", False)])
def test_no_redirect_leaves_https(target: str, safe: bool) -> None:
    def redirect() -> urllib.request.Request | None:
        request = urllib.request.Request("https://a.example/x", headers={"Range": "bytes=5-"})
        return _Redirects().redirect_request(request, BytesIO(), 302, "Found", HTTPMessage(), target)

    if safe:
        followed = redirect()
        assert followed is not None
        assert followed.get_header("Range") == "bytes=5-"
    else:
        assert "not safe" in refused(redirect)


def test_nothing_secret_is_sent(hub: Hub, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    begun(hub, output)
    download(hub, output)
    allowed = {"Host", "User-Agent", "Accept-Encoding", "Connection", "Range"}
    assert {name for headers in hub.headers for name in headers} <= allowed
    assert "secret" not in str(hub.headers)


def test_a_server_that_cannot_be_reached_is_told_at_once(hub: Hub, output: Path) -> None:
    tried: list[str] = []
    with serving(PATH, b"x") as gone:
        pass
    line = refused(lambda: find_file(address(gone), Patience(tell=tried.append)))
    assert "refused" in line
    assert tried == []
    begun(hub, output)
    patience = Patience(retries=1, pause=0.001, tell=tried.append)
    remote = find_file(address(hub))
    refused(lambda: fetch_file(RemoteFile(address(gone), remote.size, remote.sha256), output, patience=patience))
    assert len(tried) == 1  # what has begun is worth another try
    assert part_of(output).stat().st_size == 1_000_000
