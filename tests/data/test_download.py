"""Downloads from a local server of the hub's protocol: whatever goes wrong, a file is whole or not there."""

from __future__ import annotations

import hashlib
import resource
import shutil
from pathlib import Path

import pytest

from lfm_policy.data.download import arrived, fetch_file, is_here, part_of
from lfm_policy.data.hub import find_file
from lfm_policy.flow.errors import LFMError
from tests.data.downloads import SIZE, address, begun, content, download, files, refused
from tests.helpers.hub import COMMIT, Answer, Hub, cut, endless, refusal, whole

OTHER_COMMIT = COMMIT[::-1]


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


def test_a_body_that_does_not_end_is_left_soon(hub: Hub, output: Path) -> None:
    seen: list[int] = []
    hub.store = [endless(hub.content + bytes(20_000_000))]
    assert "sha256" in refused(lambda: download(hub, output, progress=seen.append))
    assert SIZE < max(seen) < SIZE + 2_000_000
    assert files(output) == set()


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
