"""Rows on disk: none lost, none twice, none of another policy."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.episode import reproducible
from lfm_policy.evaluation.fields import differences
from lfm_policy.evaluation.rollout import evaluate_policy, rollout_job
from lfm_policy.evaluation.rows import RowStore, roll_out
from lfm_policy.flow.errors import LFMError
from tests.helpers.point import BROKEN, BROKEN_SEED
from tests.helpers.policies import noisy

IDENTITY = {"checkpoint": {"sha256": "ab", "sampler": None}, "environment": {"env_id": "x", "env_kwargs": {}}}


def row(seed: int, **values: Any) -> dict[str, Any]:
    return {"seed": seed, "success": seed % 2 == 0, **values}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows" / "lfm.jsonl"


def filled(path: Path, *seeds: int) -> RowStore:
    store = RowStore(path, IDENTITY)
    for seed in seeds:
        store.append(row(seed))
    store.close()
    return store


def test_rows_come_back_in_their_order(path: Path) -> None:
    assert list(RowStore(path, IDENTITY).rows()) == []
    assert not path.parent.exists(), "nothing is written before the first row"
    filled(path, 7, 3, 5)
    assert RowStore(path, IDENTITY).rows() == {seed: row(seed) for seed in (7, 3, 5)}
    assert list(RowStore(path, IDENTITY).rows()) == [7, 3, 5]
    assert json.loads(path.read_text().splitlines()[0]) == {"identity": IDENTITY}


def test_a_row_is_on_disk_when_append_returns(path: Path) -> None:
    store = RowStore(path, IDENTITY)
    store.append(row(1))
    assert list(RowStore(path, IDENTITY).rows()) == [1]
    store.append(row(2))
    assert list(RowStore(path, IDENTITY).rows()) == [1, 2]


def test_a_seed_counts_once(path: Path) -> None:
    store = filled(path, 1, 2)
    store.append(row(2, late=True))
    assert store.rows()[2] == row(2)
    with path.open("a") as file:
        file.write(json.dumps(row(1, late=True)) + "\n")
    assert RowStore(path, IDENTITY).rows() == {1: row(1), 2: row(2)}


def test_every_torn_end_is_dropped_and_written_over(path: Path) -> None:
    """Cut after any byte of the file, what is complete before the cut is there and the file goes on well."""
    filled(path, 1, 2)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        store = RowStore(path, IDENTITY)
        kept = list(store.rows())
        assert kept == [1, 2][: max(content[:cut].count(b"\n") - 1, 0)]
        store.append(row(9))
        store.close()
        assert list(RowStore(path, IDENTITY).rows()) == [*kept, 9]
        assert path.read_bytes().startswith(content.splitlines(keepends=True)[0])


def test_a_package_that_came_later_decided_nothing(path: Path) -> None:
    """Another version of one that was there did."""
    old = {**IDENTITY, "versions": {"mujoco": "3.9.0"}}
    store = RowStore(path, old)
    store.append(row(1))
    store.close()
    assert list(RowStore(path, {**IDENTITY, "versions": {"mujoco": "3.9.0", "metaworld": "3.1.1"}}).rows()) == [1]
    with pytest.raises(LFMError, match=r"\(versions\.mujoco: was 3\.9\.0, now 3\.10\.0\)"):
        RowStore(path, {**IDENTITY, "versions": {"mujoco": "3.10.0", "metaworld": "3.1.1"}})


def test_rows_of_another_kind_are_refused_by_what_differs(path: Path) -> None:
    filled(path, 1)
    content = path.read_bytes()
    other = {**IDENTITY, "checkpoint": {"sha256": "cd", "sampler": {"steps": 2}}}
    with pytest.raises(LFMError) as caught:
        RowStore(path, other)
    told = str(caught.value)
    assert told.startswith(f"{path}: holds rows of another kind (checkpoint.sha256: was ab, now cd; checkpoint.sampler")
    assert told.endswith("start anew with --overwrite true")
    assert "environment" not in told
    assert path.read_bytes() == content


def test_differences_are_named_by_field() -> None:
    was, now = {"a": {"b": 1, "c": {}}, "d": [1]}, {"a": {"b": 2, "c": {"e": 3}}, "d": [1]}
    assert differences(was, now, words=("left", "right")) == [
        "a.b: left 1, right 2",
        "a.c.e: left nothing, right 3",
    ]
    assert differences(was, was) == []
    assert differences({"a": None}, {"b": None}) == [], "an option of a later version is not set in an earlier one"
    assert differences(was, now, free=("a.c", "d")) == ["a.b: was 1, now 2"]


@pytest.mark.parametrize(("line", "number"), [(0, 1), (1, 2), (2, 3)])
def test_a_damaged_line_is_told(path: Path, line: int, number: int) -> None:
    filled(path, 1, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = b'{"half": \n'
    path.write_bytes(b"".join(lines))
    with pytest.raises(LFMError, match=f"line {number} cannot be read; start anew"):
        RowStore(path, IDENTITY)


def test_two_writers_are_kept_apart(path: Path) -> None:
    filled(path, 1)
    first, second, late = (RowStore(path, IDENTITY) for _ in range(3))
    first.append(row(2))
    with pytest.raises(LFMError, match="another process writes to it"):
        second.append(row(3))
    first.close()
    with pytest.raises(LFMError, match="another process writes to it"):
        late.append(row(3))
    assert list(RowStore(path, IDENTITY).rows()) == [1, 2]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LFMError, match="cannot be written"):
        RowStore(tmp_path / "file" / "rows.jsonl", IDENTITY).append(row(1))


def test_a_full_disk_is_told_and_loses_no_row(path: Path) -> None:
    """In a process of its own, whose files may not grow further: nothing of the torn row comes up on closing."""
    filled(path, 1)
    room = path.stat().st_size + 10
    code = f"""
import resource, signal, sys
from lfm_policy.evaluation.rows import RowStore
from lfm_policy.flow.errors import LFMError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
store = RowStore({str(path)!r}, {IDENTITY!r})
try:
    store.append({row(2)!r})
except LFMError as error:
    print(error)
store.close()
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "cannot be written" in told.stdout
    assert list(RowStore(path, IDENTITY).rows()) == [1]
    assert list(filled(path, 2).rows()) == [1, 2]


@dataclass
class Counting:
    """A source of policies that counts how often it is asked."""

    asked: int = 0

    def __call__(self) -> Any:
        self.asked += 1
        return noisy()


def test_missing_seeds_alone_are_rolled_out(path: Path) -> None:
    source, seeds = Counting(), range(100, 108)
    job = rollout_job(noisy(), "the policy", source=source)
    store = RowStore(path, IDENTITY)
    first = roll_out(store, job, seeds[3:5])
    rows = roll_out(RowStore(path, IDENTITY), job, seeds)
    assert [reproducible(r) for r in rows] == [reproducible(r) for r in evaluate_policy(noisy(), seeds).episodes]
    assert rows[3:5] == first
    assert [r["seed"] for r in rows] == list(seeds)
    assert list(RowStore(path, IDENTITY).rows()) == [103, 104, 100, 101, 102, 105, 106, 107]
    assert source.asked == 2
    assert roll_out(RowStore(path, IDENTITY), job, seeds[2:6]) == rows[2:6]
    assert source.asked == 2, "with every row there, no policy is loaded"


def test_rows_tell_where_the_time_went(path: Path) -> None:
    (found,) = roll_out(RowStore(path, IDENTITY), rollout_job(noisy(), "the policy"), [100])
    assert len(found["chunk_seconds"]) == found["chunks"]
    assert 0 < sum(found["chunk_seconds"]) < found["policy_seconds"]
    assert found["policy_seconds"] + found["env_seconds"] < found["wall_seconds"]


def test_a_failing_episode_loses_none_before_it(path: Path) -> None:
    job = rollout_job(noisy(), "the policy", EnvSpec(BROKEN))
    with pytest.raises(LFMError, match=f"seed {BROKEN_SEED}"):
        roll_out(RowStore(path, IDENTITY), job, range(BROKEN_SEED - 2, BROKEN_SEED + 2))
    assert list(RowStore(path, IDENTITY).rows()) == [BROKEN_SEED - 2, BROKEN_SEED - 1]
