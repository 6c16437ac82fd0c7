"""Downloads from a local server of the hub's protocol: whatever goes wrong, a file is whole or not there."""

from __future__ import annotations

import hashlib
import resource
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfm_policy.data.download import arrived, fetch_file, is_here, part_of
from lfm_policy.data.hub import Patience, RemoteFile, _Redirects, dataset_address, find_file
from lfm_policy.flow.errors import LFMError
from tests.helpers.hub import (
    COMMIT,
    Answer,
    Hub,
    cut,
    described,
    endless,
    garbage,
    page,
    refusal,
    serving,
    silent,
    whole,
)

PATH = "v1.5/lift/ph/low_dim_v15.hdf5"
SIZE = 3_000_000
OTHER_COMMIT = COMMIT[::-1]
AT_ONCE = Patience(retries=0)


def content(seed: int, size: int = SIZE) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("no_proxy", "*")
    with serving(PATH, content(0)) as hub:
        yield hub


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "lift.hdf5"


def address(hub: Hub, repository: str = "robomimic/robomimic_datasets", revision: str = "main") -> str:
    return dataset_address(repository, hub.path, hub.endpoint, revision)


def download(hub: Hub, output: Path, patience: Patience = AT_ONCE, **options: Any) -> None:
    fetch_file(find_file(address(hub), patience), output, patience=patience, **options)


def refused(action: Callable[[], Any]) -> str:
    """The one line of the error."""
    with pytest.raises(LFMError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(output: Path) -> set[str]:
    return {path.name for path in output.parent.iterdir()}


def begun(hub: Hub, output: Path, size: int = 1_000_000) -> None:
    """A download that was cut off after `size` bytes."""
    hub.store = [cut(size)]
    refused(lambda: download(hub, output))
    assert part_of(output).read_bytes() == hub.content[:size]
    hub.asked.clear()


def test_a_download_is_the_published_bytes(hub: Hub, output: Path) -> None:
    seen: list[int] = []
    remote = find_file(address(hub))
    assert (remote.size, remote.sha256) == (SIZE, hashlib.sha256(hub.content).hexdigest())
    assert not is_here(remote, output)
    fetch_file(remote, output, progress=seen.append)
    assert output.read_bytes() == hub.content
    assert is_here(remote, output)
    assert files(output) == {output.name}
    assert (seen[0], seen[-1], seen) == (0, SIZE, sorted(seen))


def test_the_bytes_are_asked_of_the_commit_that_was_described(hub: Hub, output: Path) -> None:
    """A branch may move in between."""
    download(hub, output)
    head, get, _ = [(method, path) for method, path, _ in hub.asked]
    assert head == ("HEAD", address(hub).removeprefix(hub.endpoint))
    assert get == ("GET", address(hub, revision=COMMIT).removeprefix(hub.endpoint))


@pytest.mark.parametrize("size", [1, 12_345, SIZE - 1])
def test_a_cut_download_continues_where_it_ended(hub: Hub, output: Path, size: int) -> None:
    hub.store = [cut(size)]
    told = refused(lambda: download(hub, output))
    assert f"ended at {size} of {SIZE} bytes; the same command continues, {output}.part is kept" in told
    assert not output.exists()
    assert arrived(find_file(address(hub)), output) == size
    download(hub, output)
    assert output.read_bytes() == hub.content
    assert hub.ranges == ["", f"bytes={size}-"]
    assert files(output) == {output.name}


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


def test_a_wrong_checksum_removes_what_came(hub: Hub, output: Path) -> None:
    output.write_text("old")
    true, hub.sha256 = hashlib.sha256(hub.content).hexdigest(), "0" * 64
    told = refused(lambda: download(hub, output))
    assert true in told
    assert hub.sha256 in told
    assert files(output) == {output.name}
    assert output.read_text() == "old"


def test_a_damaged_part_is_not_taken_for_the_file(hub: Hub, output: Path) -> None:
    begun(hub, output)
    with part_of(output).open("r+b") as file:
        file.seek(500_000)
        file.write(bytes([hub.content[500_000] ^ 1]))
    assert "sha256" in refused(lambda: download(hub, output))
    assert files(output) == set()
    download(hub, output)
    assert output.read_bytes() == hub.content


@pytest.mark.parametrize("answer", [whole, refusal(416)])
def test_a_server_that_cannot_continue_sends_it_all(hub: Hub, output: Path, answer: Answer) -> None:
    begun(hub, output)
    hub.store = [answer]
    download(hub, output)
    assert output.read_bytes() == hub.content
    assert hub.ranges[0] == "bytes=1000000-"


def test_a_part_of_another_version_is_dropped(hub: Hub, output: Path) -> None:
    begun(hub, output)
    hub.publish(content(1), OTHER_COMMIT)
    download(hub, output)
    assert output.read_bytes() == content(1)
    assert hub.ranges == [""]


def test_a_part_of_the_same_bytes_in_another_commit_is_not(hub: Hub, output: Path) -> None:
    begun(hub, output)
    hub.publish(hub.content, OTHER_COMMIT)
    download(hub, output)
    assert output.read_bytes() == hub.content
    assert hub.ranges == ["bytes=1000000-"]


def test_a_part_of_unknown_origin_or_too_long_is_dropped(hub: Hub, output: Path) -> None:
    part_of(output).write_bytes(hub.content[:1000])
    download(hub, output)
    begun(hub, output)
    part_of(output).write_bytes(hub.content + b"more")
    download(hub, output)
    assert output.read_bytes() == hub.content
    assert hub.ranges == [""]


def test_a_part_that_is_all_there_is_only_verified(hub: Hub, output: Path) -> None:
    begun(hub, output)
    part_of(output).write_bytes(hub.content)
    download(hub, output)
    assert output.read_bytes() == hub.content
    assert hub.ranges == []


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


def test_bodies_of_unannounced_length(hub: Hub, output: Path) -> None:
    hub.store = [endless(hub.content)]
    download(hub, output)
    assert output.read_bytes() == hub.content
    output.unlink()
    hub.store = [endless(hub.content + b"more")]
    assert "sha256" in refused(lambda: download(hub, output))
    assert files(output) == set()
    hub.store = [endless(hub.content[:500])]
    assert "ended at 500 of" in refused(lambda: download(hub, output))
    assert not output.exists()


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


def test_space_is_looked_for_before_anything_is_fetched(
    hub: Hub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(hub, output)
    usage = shutil.disk_usage(output.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_999_999))
    assert f"{output}: needs 2.0 MB, and {output.parent} has 2.0 MB left" in refused(lambda: download(hub, output))
    assert hub.ranges == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    download(hub, output)
    assert output.read_bytes() == hub.content


def test_a_disk_that_fills_up_keeps_what_it_took(hub: Hub, output: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
    try:
        told = refused(lambda: download(hub, output))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{output}: cannot be written (File too large); mend that, then the same command continues" in told
    assert 0 < (size := part_of(output).stat().st_size) <= 1_500_000
    hub.asked.clear()
    download(hub, output)
    assert output.read_bytes() == hub.content
    assert hub.ranges == [f"bytes={size}-"]


def test_an_interruption_keeps_the_part(hub: Hub, output: Path) -> None:
    def interrupt(size: int) -> None:
        if size > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(hub, output, progress=interrupt)
    size = part_of(output).stat().st_size
    assert part_of(output).read_bytes() == hub.content[:size]
    assert 1_000_000 < size < SIZE
    hub.asked.clear()
    download(hub, output)
    assert output.read_bytes() == hub.content
    assert hub.ranges == [f"bytes={size}-"]


def test_two_at_a_time_are_refused(hub: Hub, output: Path) -> None:
    told: list[str] = []

    def meddle(size: int) -> None:
        if size > 1_000_000 and not told:
            told.append(refused(lambda: download(hub, output)))

    download(hub, output, progress=meddle)
    assert "is being downloaded by another process" in told[0]
    assert output.read_bytes() == hub.content
    assert files(output) == {output.name}


def test_an_old_file_is_replaced_only_by_a_whole_one(hub: Hub, output: Path) -> None:
    output.write_text("old")
    begun(hub, output)
    assert output.read_text() == "old"
    download(hub, output)
    assert output.read_bytes() == hub.content


def test_a_file_that_is_not_accepted_is_removed(hub: Hub, output: Path) -> None:
    def accept(path: Path) -> None:
        assert path.read_bytes() == hub.content
        raise LFMError("not what was wanted")

    assert refused(lambda: download(hub, output, accept=accept)) == "not what was wanted"
    assert files(output) == set()
