"""`lfm download` against a local hub, in processes of their own: what it prints, writes, and exits with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lfm_policy.cli.main import main
from tests.data.recordings import episode, write_robomimic_file
from tests.helpers.hub import Handler, Hub, cut, page, refusal, serve, serving
from tests.helpers.processes import wait_until

PATH = "v1.5/can/mh/low_dim_v15.hdf5"
NAME = "can_mh_low_dim_v15.hdf5"
PUBLISHED = "can --kind mh"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a dataset, which HF_ENDPOINT points to; the working directory is empty."""
    rng = np.random.default_rng(0)
    source = write_robomimic_file(tmp_path / "source.hdf5", {f"demo_{index}": episode(rng, 300) for index in range(5)})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with serving(PATH, source.read_bytes()) as hub:
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def start(command: str) -> subprocess.Popen[str]:
    """`lfm download` as a user starts it."""
    words = [sys.executable, "-m", "lfm_policy.cli.main", "download", *command.split()]
    path = str(Path(__file__).parents[2])
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def download(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of the command in this process."""
    code = main(["download", *command.split()])
    return code, *capsys.readouterr()


def here() -> dict[str, bytes]:
    """The working directory."""
    return {path.name: path.read_bytes() for path in Path().iterdir()}


def test_a_cut_download_is_continued_by_the_same_command(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    size = len(hub.content)
    hub.store = [cut(10_000)]
    process = start(f"{PUBLISHED} --retries 0")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err.startswith(f"error: {hub.endpoint}/datasets/robomimic/")
    assert err.endswith(f"ended at 10000 of {size} bytes; the same command continues, {NAME}.part is kept\n")
    assert err.count("\n") == 1
    code, out, err = download(PUBLISHED, capsys)
    assert (code, err) == (0, "")
    told = f"{NAME}: {size / 1e6:.1f} MB, with the published sha256; look into it with `lfm inspect {NAME}`\n"
    assert out == told
    assert here() == {NAME: hub.content}
    assert hub.ranges == ["", "bytes=10000-"]
    assert main(["inspect", NAME]) == 0


def test_ctrl_c_keeps_what_has_come(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    def stall(handler: Handler) -> None:
        serve(handler, 100_000)
        time.sleep(0.5)

    hub.store = [stall]
    process = start(f"{PUBLISHED} --output a.hdf5 --retries 0")
    part = Path("a.hdf5.part")
    wait_until(lambda: part.is_file() and part.stat().st_size > 0, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == ["the same command continues, a.hdf5.part is kept", "interrupted"]
    assert "a.hdf5" not in here()
    assert download(f"{PUBLISHED} --output a.hdf5", capsys)[0] == 0
    assert here() == {"a.hdf5": hub.content}
    assert hub.ranges[1].startswith("bytes=")


def test_a_file_that_is_here_already(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    Path(NAME).write_bytes(hub.content)
    assert download(PUBLISHED, capsys) == (0, f"{NAME}: is here already, with the published sha256\n", "")
    other = hub.content[:-1] + bytes([hub.content[-1] ^ 1])
    Path(NAME).write_bytes(other)
    code, _, err = download(PUBLISHED, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{NAME}: exists already; choose another name or set --overwrite true" in err
    assert here() == {NAME: other}
    assert hub.ranges == []
    assert download(f"{PUBLISHED} --overwrite true", capsys)[0] == 0
    assert here() == {NAME: hub.content}


def test_an_endpoint_that_is_named_goes_first(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "ftp://nowhere")
    assert download(f"{PUBLISHED} --endpoint {hub.endpoint}/", capsys)[0] == 0
    assert here() == {NAME: hub.content}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("", "TASK is missing"),
        ("cna", "--task cna: not published; did you mean can? "),
        ("lift --kind paired", "--kind paired: not published; lift has ph, mh, mg"),
        ("lift --kind mg", "--file low_dim: not published; did you mean low_dim_"),
        ("lift --fiel demo", "unknown field 'fiel'; did you mean 'file'?"),
        ("lift --retries -1", "--retries -1: must be 0 or more"),
        ("lift --endpoint hub.example", "endpoint 'hub.example': must begin with https://"),
        ("lift --output no/a.hdf5", "--output no/a.hdf5: folder no does not exist"),
        ("lift --output .", "--output .: is a folder"),
        ("lift", "v1.5/lift/ph/low_dim_v15.hdf5: no such file (404 EntryNotFound)"),
        (f"{PUBLISHED} --revision v9", "/resolve/v9/v1.5/can/mh/low_dim_v15.hdf5: no such file (404"),
        (f"{PUBLISHED} --repository a/b", "/datasets/a/b/resolve/main/v1.5/can/mh/low_dim_v15.hdf5: no such file (404"),
    ],
)
def test_mistakes_are_one_line(hub: Hub, capsys: pytest.CaptureFixture[str], command: str, told: str) -> None:
    code, out, err = download(command, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert told in err
    assert here() == {}


@pytest.mark.parametrize(
    "answer",
    [page(b"<html>", "text/html"), refusal(403), refusal(404), refusal(500), page(b"x", "binary/octet-stream")],
)
def test_servers_mistakes_are_one_line_and_leave_nothing(
    hub: Hub, capsys: pytest.CaptureFixture[str], answer: object
) -> None:
    hub.store = [answer]  # type: ignore[list-item]
    code, out, err = download(f"{PUBLISHED} --retries 0", capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert here() == {}


@pytest.mark.parametrize("content", [b"no HDF5 at all" * 99, b"\x89HDF\r\n\x1a\n cut off"])
def test_what_is_published_has_to_be_a_dataset(hub: Hub, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    hub.content = content
    code, out, err = download(PUBLISHED, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "what the server has is no robomimic dataset and was removed: " in err
    assert here() == {}


def test_a_wrong_checksum_leaves_nothing(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.sha256 = "0" * 64
    code, _, err = download(PUBLISHED, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert f"the server announced {hub.sha256}; it is removed, download again" in err
    assert here() == {}
