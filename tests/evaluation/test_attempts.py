"""An interrupted collection loses no finished attempt, counts none twice, and ends with the same file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfm_policy.evaluation.attempts import Attempts, attempts_folder
from lfm_policy.evaluation.collect import CollectJob, decisive_settings, record_demonstrations
from lfm_policy.evaluation.collected import Collected
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.flow.errors import LFMError
from tests.evaluation.test_collect import contents
from tests.helpers import experts
from tests.helpers.experts import BEGUN, SIDED, STOP, STOPPED
from tests.helpers.point import BROKEN, BROKEN_SEED, POINT

ROOT = Path(__file__).parents[2]
N, SEED = 6, 3
# the sixth success has seed 10: 5 and 8 fail
LAST = 10


def record(path: Path, n: int = N, expert: str = STOPPED, **options: Any) -> Collected:
    settings = {"seed": SEED, "valid_fraction": 0.3, **options}
    return record_demonstrations(path, EnvSpec(POINT), n, expert=expert, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted collection writes."""
    path = tmp_path_factory.mktemp("data") / "whole.hdf5"
    record(path)
    return contents(path)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that notes which attempts are begun."""
    path = tmp_path / "begun"
    path.touch()
    monkeypatch.setenv(BEGUN, str(path))
    return path


def interrupt(path: Path, at: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Collect in this process until Ctrl-C comes in the attempt of seed `at`."""
    monkeypatch.setenv(STOP, f"{int(signal.SIGINT)} {at}")
    with pytest.raises(KeyboardInterrupt):
        record(path, **options)
    monkeypatch.delenv(STOP)


@pytest.mark.parametrize("at", range(SEED, LAST + 1))
def test_the_file_is_the_same_wherever_it_was_interrupted(
    tmp_path: Path, whole: dict[str, Any], begun: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    path = tmp_path / "out.hdf5"
    interrupt(path, at, monkeypatch)
    result = record(path, resume=True)
    assert contents(path) == whole
    assert (result.n_attempts, result.n_kept) == (LAST - SEED + 1, at - SEED)
    assert list(map(int, begun.read_text().split())) == [*range(SEED, at + 1), *range(at, LAST + 1)]
    assert {file.name for file in tmp_path.iterdir()} == {"out.hdf5", "begun"}


@pytest.mark.parametrize(("how", "n_procs"), [(signal.SIGINT, 1), (signal.SIGKILL, 2)])
def test_a_command_that_is_stopped_goes_on_in_another(
    tmp_path: Path, whole: dict[str, Any], begun: Path, how: signal.Signals, n_procs: int
) -> None:
    """`lfm collect` itself, killed or interrupted by its own expert; the rest is made by one process."""
    path = tmp_path / "out.hdf5"
    command = f"-m lfm_policy.cli.main collect --task {POINT} --expert {STOPPED} --n {N} --seed {SEED} --out {path}"
    done = subprocess.run(
        [sys.executable, *command.split(), "--n_procs", str(n_procs), "--valid_fraction", "0.3"],
        env={**os.environ, "PYTHONPATH": str(ROOT), STOP: f"{int(how)} {LAST}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == (130 if how == signal.SIGINT else -how)
    assert not path.exists()
    kept = Attempts(path).seeds()
    assert len(kept) >= LAST - SEED - 1, "at most the attempts under way are lost"
    if how == signal.SIGINT:
        assert f"{attempts_folder(path)}: keeps the finished attempts; go on with --resume true" in done.stderr
    begun.write_text("")
    result = record(path, resume=True)
    assert contents(path) == whole
    assert (result.n_attempts, result.n_kept) == (LAST - SEED + 1, len(kept))
    assert not kept & set(map(int, begun.read_text().split())), "no finished attempt is made again"
    assert not attempts_folder(path).exists()


def test_attempts_beyond_the_last_one_needed_are_not_counted(tmp_path: Path, whole: dict[str, Any]) -> None:
    """Several processes finish attempts that come after the nth success."""
    path = tmp_path / "out.hdf5"
    ahead = Attempts(path)
    ahead.folder.mkdir()
    job = CollectJob(EnvSpec(POINT), STOPPED)
    ahead.write_settings(decisive_settings(job, SEED))
    task = job()
    for seed in (LAST + 2, LAST + 1, SEED + 1):
        ahead.write(task(seed))
    assert record(path, resume=True).n_attempts == LAST - SEED + 1
    assert contents(path) == whole


def test_n_may_grow(tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path / "out.hdf5", SEED + 2, monkeypatch, n=3)
    record(tmp_path / "out.hdf5", resume=True)
    assert contents(tmp_path / "out.hdf5") == whole


def test_an_attempt_is_read_as_it_was_written(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "out.hdf5")
    attempts.folder.mkdir()
    for seed in (0, 2):
        made = CollectJob(EnvSpec(POINT), SIDED)()(seed)
        attempts.write(made)
        read = attempts.read(seed)
        assert (read.success, bool(read.datasets)) == (seed == 0, seed == 0)
        assert_equal(vars(read), vars(made))
        outcome = vars(attempts.outcome(seed))
        assert outcome == {key: vars(made)[key] for key in outcome}


def assert_equal(found: Any, expected: Any) -> None:
    """Nested dicts are equal to the bit and in their types, whatever the order of their keys."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    else:
        assert found == expected


OTHERS = [
    ({"seed": 4}, "seed: was 3, now 4"),
    ({"expert": SIDED}, f"expert: was {STOPPED}, now {SIDED}"),
    ({"env": EnvSpec(POINT, {"frame": "base"})}, "env_kwargs.frame: was nothing, now base"),
    ({"env": EnvSpec(BROKEN)}, f"env_id: was {POINT}, now {BROKEN}"),
]


@pytest.mark.parametrize(("changed", "told"), OTHERS)
def test_other_settings_are_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], told: str
) -> None:
    path = tmp_path / "out.hdf5"
    interrupt(path, LAST, monkeypatch)
    settings: dict[str, Any] = {"env": EnvSpec(POINT), "expert": STOPPED, "seed": SEED, **changed}
    with pytest.raises(LFMError) as caught:
        record_demonstrations(path, n=N, resume=True, **settings)
    assert f"{attempts_folder(path)}: cannot resume with other settings ({told}); " in str(caught.value)
    assert len(Attempts(path).seeds()) == LAST - SEED


def test_an_expert_whose_file_has_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the demonstrations would be another's."""
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "own_expert.py"
    code.write_text("from tests.helpers.experts import stopped as make\n")
    interrupt(tmp_path / "out.hdf5", LAST, monkeypatch, expert="own_expert:make")
    code.write_text("from tests.helpers.experts import raising as make\n")
    with pytest.raises(LFMError, match=r"cannot resume with other settings \(file of the expert: was \w+, now \w+\)"):
        record(tmp_path / "out.hdf5", expert="own_expert:make", resume=True)


def test_what_others_put_into_the_folder_stays_and_harms_nothing(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.hdf5"
    folder = attempts_folder(path)
    (folder / "sub").mkdir(parents=True)
    others = {"sub", "notes.txt", "3 (copy).npz", "007.npz", "download.partial", "12.npz"}
    for name in others - {"sub", "12.npz"}:
        (folder / name).write_text("theirs")
    (folder / "12.npz").mkdir()
    interrupt(path, LAST, monkeypatch)
    record(path, resume=True)
    assert contents(path) == whole
    assert {file.name for file in folder.iterdir()} == others


def test_a_folder_that_is_removed_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.hdf5"

    def removing(env: Any, seed: int) -> Any:
        shutil.rmtree(attempts_folder(path))
        return experts.SidedExpert(env, seed)

    monkeypatch.setattr(experts, "sided", removing)
    with pytest.raises(LFMError, match=rf"{attempts_folder(path)}: cannot be written \(No such file or directory\)"):
        record(path, expert=SIDED)


def test_another_version_of_the_simulator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.hdf5"
    interrupt(path, LAST, monkeypatch)
    version = metadata.version
    for package in ("mujoco", "pymunk"):
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", lambda name, other=package: "1.50" if name == other else version(name))
            with pytest.raises(LFMError, match=rf"settings \(version of {package}: was .*, now 1\.50\)"):
                record(path, resume=True)


def test_what_is_there_is_neither_used_nor_removed_unasked(
    tmp_path: Path, whole: dict[str, Any], begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.hdf5"
    interrupt(path, LAST, monkeypatch)
    with pytest.raises(LFMError, match=r"has 7 finished attempts .*--resume true .*--overwrite true"):
        record(path)
    assert len(Attempts(path).seeds()) == LAST - SEED
    begun.write_text("")
    record(path, overwrite=True)
    assert len(begun.read_text().split()) == LAST - SEED + 1, "all are made anew"
    assert contents(path) == whole


def test_a_finished_file_is_refused_though_it_might_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "out.hdf5").write_text("old")
    with pytest.raises(LFMError, match=r"out.hdf5: exists already"):
        record(tmp_path / "out.hdf5", resume=True)
    assert (tmp_path / "out.hdf5").read_text() == "old"


def test_an_error_keeps_what_was_finished_and_says_so(tmp_path: Path) -> None:
    """One seed of this environment fails with an exception."""
    path, env = tmp_path / "out.hdf5", EnvSpec(BROKEN)
    with pytest.raises(LFMError, match=r"seed 5: FloatingPointError.*; 2 finished attempts are kept, --resume true"):
        record_demonstrations(path, env, N, seed=BROKEN_SEED - 2)
    assert Attempts(path).seeds() == {3, 4}
    with pytest.raises(LFMError, match=r"seed 5: FloatingPointError: the simulation exploded$"):
        record_demonstrations(tmp_path / "other.hdf5", env, N, seed=BROKEN_SEED)
    assert not attempts_folder(tmp_path / "other.hdf5").exists(), "nothing was finished, nothing is left"


def test_a_damaged_attempt_is_named(tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.hdf5"
    interrupt(path, LAST, monkeypatch)
    file = attempts_folder(path) / f"{SEED + 1}.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(LFMError, match=rf"{file}: is damaged .*delete it"):
        record(path, resume=True)
    file.unlink()
    record(path, resume=True)
    assert contents(path) == whole


def test_two_processes_do_not_collect_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first collects, its expert tries to begin a second."""
    path, told = tmp_path / "out.hdf5", []

    def meddling(env: Any, seed: int) -> Any:
        with pytest.raises(LFMError) as caught:
            record(path, resume=True)
        told.append(str(caught.value))
        return experts.SidedExpert(env, seed)

    monkeypatch.setattr(experts, "sided", meddling)
    record(path, 1, expert=SIDED)
    assert told == [f"{attempts_folder(path)}: another process is collecting there; let it end, or choose another name"]
