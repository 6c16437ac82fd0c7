"""The command as other programs see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lfm_policy.cli.main import main
from tests.data.recordings import episode, write_robomimic_file


@pytest.mark.parametrize("arguments", ["inspect file.hdf5", "density", "--help"])
def test_a_reader_that_goes_away_ends_the_command_without_a_word(arguments: str, tmp_path: Path) -> None:
    """As `lfm inspect FILE | true` does, whether rich prints or Python."""
    write_robomimic_file(tmp_path / "file.hdf5", {"demo_0": episode(np.random.default_rng(0), 40)})
    command = [sys.executable, "-m", "lfm_policy.cli.main", *arguments.split()]
    assert subprocess.run(command, capture_output=True, check=True, cwd=tmp_path).stdout, "there is something to read"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (1, b"")


def test_other_broken_pipes_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("lfm_policy.cli.main._main", broken)
    with pytest.raises(BrokenPipeError):
        main([])
