"""Outputs are refused before work begins, and are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lfm_policy.evaluation.files import check_outputs, check_suffix, replacing, to_text, write_json
from lfm_policy.flow.errors import LFMError


def test_an_existing_file_is_refused_unless_told(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    check_outputs({"json": str(file), "video": None}, overwrite=False)
    file.write_text("old")
    with pytest.raises(LFMError, match=r"--json .*out\.json: exists already.*--overwrite true"):
        check_outputs({"json": str(file)}, overwrite=False)
    check_outputs({"json": str(file)}, overwrite=True)


def test_folders_missing_folders_and_doubles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LFMError, match="is a folder"):
        check_outputs({"json": str(tmp_path)}, overwrite=True)
    with pytest.raises(LFMError, match="does not exist; create it"):
        check_outputs({"json": str(tmp_path / "no" / "out.json")}, overwrite=True)
    with pytest.raises(LFMError, match="is also --paths"):
        check_outputs({"paths": f"{tmp_path}/a.png", "poster": f"{tmp_path}/./a.png"}, overwrite=True)
    with pytest.raises(LFMError, match=r"--video out\.avi: must end in \.mp4"):
        check_suffix("video", "out.avi", (".mp4",))


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    file = tmp_path / "out.txt"
    file.write_text("old")

    def fail() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half of the n")
            raise failure

    with pytest.raises(failure):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.txt", "old")]


def test_a_folder_that_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LFMError, match=r"none/x\.json: cannot be written \(No such file or directory\)"):
        write_json(tmp_path / "none" / "x.json", {})


def test_json_is_read_back_and_has_a_line_for_each_row(tmp_path: Path) -> None:
    values = {
        "name": "ü",
        "seeds": [1, 2],
        "empty": [],
        "nested": {"a": {"b": [1.5, None], "c": {}}},
        "episodes": [{"seed": 1, "success": True}, {"seed": 2, "success": False}],
    }
    write_json(tmp_path / "out.json", values)
    text = (tmp_path / "out.json").read_text()
    assert json.loads(text) == values
    assert text == to_text(values)
    assert text.splitlines()[-4:-2] == [
        '    {"seed": 1, "success": true},',
        '    {"seed": 2, "success": false}',
    ]
