"""`lfm inspect`: what it prints, and replaying states in an environment, a small one and the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces

from lfm_policy.cli.inspect import inspect
from lfm_policy.cli.main import main
from lfm_policy.data.replay import spread
from lfm_policy.flow.errors import LFMError
from tests.data.recordings import Episode, episode, write_robomimic_file

ENV_ID = "inspect-test/Reach-v0"


class ReachEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point on a line; success is beyond 1. Knows only the model "line"."""

    observation_space = spaces.Box(-9, 9, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, env_name: str, broken: bool = False) -> None:
        if broken:
            raise ImportError("no module named robosuite; pip install 'lfm_policy[sim]'")
        self.place = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        state = (options or {})["state"]
        if state.get("model_file", "line") != "line":
            raise ValueError("mesh\nnot found")
        self.set_states(state["states"])
        return np.array([self.place]), {}

    def step(self, action: np.ndarray) -> Any:
        self.place += float(action[0])
        return np.array([self.place]), 0.0, False, False, {}

    def set_states(self, states: np.ndarray) -> None:
        if states.shape != (2,):
            raise ValueError(f"states of shape {states.shape}")
        self.place = float(states[1])

    def is_success(self) -> bool:
        return self.place > 1


@pytest.fixture
def reach() -> Iterator[dict[str, Any]]:
    """env_args of the point environment."""
    gymnasium.register(
        ENV_ID, entry_point="tests.cli.test_inspect:ReachEnv", kwargs={"env_name": "Reach"}, disable_env_checker=True
    )
    yield {"env_name": "Reach", "type": 2, "env_kwargs": {}}
    del gymnasium.registry[ENV_ID]


def walk(*places: float, action: float = 0.0) -> Episode:
    """A demonstration that was at these places."""
    places_ = np.array(places)[:, None]
    actions = np.full_like(places_, action)
    return {"obs/place": places_, "states": np.hstack([0 * places_, places_]), "actions": actions}


def printed(capsys: pytest.CaptureFixture[str], path: Path, **options: Any) -> str:
    inspect(str(path), **options)
    return capsys.readouterr().out


def replayed(capsys: pytest.CaptureFixture[str], path: Path, replay: int) -> list[str]:
    """The lines of the replay alone."""
    lines = printed(capsys, path, replay=replay).splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith(("found:", "nothing wrong"))) + 1 :]


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    demos = {f"demo_{index}": episode(rng, 50) for index in range(6)}
    masks = {"train": list(demos)[1:], "valid": ["demo_0"]}
    return write_robomimic_file(tmp_path / "clean.hdf5", demos, masks=masks)


def test_a_clean_file(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, clean)
    assert "6 demonstrations, 300 frames; lengths 50 to 50, median 50" in out
    assert "delta, OSC_POSE, frame world" in out
    assert "train 5, valid 1" in out
    assert "obs/robot0_gripper_qpos" in out
    assert out.splitlines()[-1] == "nothing wrong found"
    assert max(map(len, out.splitlines())) <= 100


def test_strategies_are_counted_whoever_wrote_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos = {f"demo_{index}": episode(np.random.default_rng(0), 50) for index in range(4)}
    path = write_robomimic_file(tmp_path / "ways.hdf5", demos)
    with h5py.File(path, "a") as file:
        for index, told in enumerate(('{"side": "left"}', "left", "left", "3")):
            file[f"data/demo_{index}"].attrs["strategy"] = told
    lines = [line.split() for line in printed(capsys, path).splitlines() if line.startswith("strategy")]
    assert lines == [["strategy:", "side", "left", "1"], ["strategy", "3", "1,", "left", "2"]]


def test_findings_are_grouped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    demos = {f"demo_{index}": episode(rng, 50) for index in range(12)}
    for demo in list(demos)[:9]:
        demos[demo]["obs/object"][7, 1] = np.nan
    demos["demo_11"]["rewards"][:] = 0
    path = write_robomimic_file(tmp_path / "bad.hdf5", demos)
    out = printed(capsys, path)
    assert "not finite (9)" in out
    assert "error    demo_0: obs/object is nan at step 7, dimension 1" in out
    assert "demo_8" not in out
    assert "… and 3 more; --show_all true lists them" in out
    assert out.splitlines()[-1] == "found: 9 errors, 1 warning"
    assert "demo_8: obs/object is nan" in printed(capsys, path, show_all=True)


def test_markup_in_names_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos = {"demo_0": episode(np.random.default_rng(0), 50) | {"obs/[bold]x": np.zeros((50, 1))}}
    assert "obs/[bold]x: dimension 0 never varies (0)" in printed(
        capsys, write_robomimic_file(tmp_path / "[red]a.hdf5", demos)
    )


def test_replay_counts_and_names(tmp_path: Path, reach: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    demos = {
        "demo_0": walk(0.0, 0.7, 1.2, 0.6),
        "demo_1": walk(0.0, 0.2, 0.9),
        "demo_2": walk(0.0, 0.2, 0.9, action=0.2),
        "demo_10": walk(0.5, 2.0),
    }
    path = write_robomimic_file(tmp_path / "reach.hdf5", demos, env_args=reach)
    assert replayed(capsys, path, 4) == [
        "replayed states: 3 of 4 demonstrations succeed",
        "without success: demo_1",
    ]
    assert replayed(capsys, path, 99)[0] == "replayed states: 3 of 4 demonstrations succeed"
    assert replayed(capsys, path, 2) == ["replayed states: 2 of 2 demonstrations succeed"]


@pytest.mark.parametrize(("count", "taken"), [(1, "0"), (2, "09"), (3, "049"), (10, "0123456789"), (11, "0123456789")])
def test_the_replayed_are_spread(count: int, taken: str) -> None:
    assert spread([str(index) for index in range(10)], count) == list(taken)


def test_a_model_of_another_version_gives_way(
    tmp_path: Path, reach: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_robomimic_file(tmp_path / "reach.hdf5", {"demo_0": walk(0, 2), "demo_1": walk(0, 0)}, env_args=reach)
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["model_file"] = "circle"
    refusal, count, failed = replayed(capsys, path, 2)
    assert "demo_1/states cannot be restored (mesh not found); with the simulator's own model instead:" in refusal
    assert (count, failed) == ("replayed states: 1 of 2 demonstrations succeed", "without success: demo_1")


def refused(path: Path, replay: int = 1) -> str:
    with pytest.raises(LFMError) as caught:
        inspect(str(path), replay=replay)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_replays_that_cannot_be(tmp_path: Path, reach: dict[str, Any]) -> None:
    def write(demo: Episode, env_args: dict[str, Any] | None = reach) -> Path:
        return write_robomimic_file(tmp_path / "reach.hdf5", {"demo_0": demo}, env_args=env_args)

    stateless = {key: value for key, value in walk(0, 1).items() if key != "states"}
    assert "demo_0 has no key states; it has " in refused(write(stateless))
    wide = walk(0, 1) | {"states": np.zeros((2, 32))}
    assert "demo_0/states cannot be restored (states of shape (32,))" in refused(write(wide))
    assert "no environment" in refused(write(walk(0, 1), None))
    assert "env_name 'Raech' is not registered" in refused(write(walk(0, 1), reach | {"env_name": "Raech"}))
    broken = reach | {"env_kwargs": {"broken": True}}
    assert "pip install" in refused(write(walk(0, 1), broken))
    foreign = reach | {"env_name": "CartPole-v1"}
    assert "CartPoleEnv has no set_states; it cannot replay states" in refused(write(walk(0, 1), foreign))
    assert "--replay: -1 must be 0 or more" in refused(write(walk(0, 1)), replay=-1)


def test_the_command_line(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(clean)]) == 0
    assert "nothing wrong found" in capsys.readouterr().out
    assert main(["inspect", str(clean.with_name("no.hdf5"))]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith(f"error: {clean.with_name('no.hdf5')}: no such file")
    assert streams.err.count("\n") == 1


def test_the_experts_demonstrations_replay_in_the_simulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lfm_policy.evaluation.collect import record_demonstrations
    from lfm_policy.evaluation.environment import EnvSpec

    path = tmp_path / "lift.hdf5"
    record_demonstrations(path, EnvSpec("lfm/Lift-v0"), 2)
    with h5py.File(path, "r+") as file:
        # demo_0 ends with the action that reaches success, demo_1 before it
        success = int(np.flatnonzero(file["data/demo_0/rewards"])[0])
        for demo, length in (("demo_0", success + 1), ("demo_1", 10)):
            for key in ("states", "actions"):
                kept = file[f"data/{demo}/{key}"][:length]
                del file[f"data/{demo}/{key}"]
                file[f"data/{demo}/{key}"] = kept
    assert replayed(capsys, path, 2) == [
        "replayed states: 1 of 2 demonstrations succeed",
        "without success: demo_1",
    ]
