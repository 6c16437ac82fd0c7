"""A disk too small for pushed samples is told before a run, with what is needed and what there is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lfm_policy.flow import LFMError
from lfm_policy.image.pushed import check_space


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Path]:
    """Let disks have so many bytes free; the folders that are then asked about."""
    asked: list[Path] = []

    def disk_usage(path: Path) -> SimpleNamespace:
        asked.append(Path(path))
        return SimpleNamespace(total=10**15, used=10**15 - count, free=count)

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    return asked


def test_space_is_asked_of_the_disk_where_the_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which need not exist, and may be given from where one is; nothing is made by asking."""
    asked = free(monkeypatch, 100)
    monkeypatch.chdir(tmp_path)
    check_space(tmp_path / "a" / "b", 100)
    check_space(Path("c/d"), 100)
    check_space(tmp_path, 0)
    assert asked == [tmp_path] * 3
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_told_with_what_is_needed_and_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 1_500_000_000)
    with pytest.raises(LFMError) as caught:
        check_space(tmp_path / "run", 2_250_000_000)
    line = str(caught.value)
    assert "\n" not in line
    for word in ("output_dir", "2.25 GB", "1.5 GB", str(tmp_path), "data.n_train", "flow.marginals: exact"):
        assert word in line
    with pytest.raises(LFMError, match=r"^output_dir: "):
        check_space(tmp_path / "run", 1_500_000_001)


def test_a_real_disk_has_some_space_and_not_all(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(LFMError, match=r"^output_dir: pushed samples take 1e\+09 GB"):
        check_space(tmp_path, 10**18)
