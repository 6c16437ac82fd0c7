"""A recording holds what happened, in robomimic's layout, whoever of how many processes made it."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from lfm_policy.data import read_demonstrations, split_names
from lfm_policy.evaluation.collect import Collected, CollectJob, Expert, demonstrate, record_demonstrations
from lfm_policy.evaluation.environment import EnvSpec, make_env
from lfm_policy.flow.errors import LFMError
from tests.helpers.experts import RAISING
from tests.helpers.point import FAILING, FAULTY, FLAT, PLAIN, POINT, REACH, STEP

N, SEED = 6, 3


def record(path: Path, env_id: str = POINT, **options: Any) -> Collected:
    return record_demonstrations(path, EnvSpec(env_id), N, seed=SEED, valid_fraction=0.3, **options)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "point.hdf5"
    record(path)
    return path


def contents(path: Path) -> dict[str, Any]:
    """Every dataset and attribute of a file, bytes and types."""
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        found[f"{name}@"] = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype, item.shape, item[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def test_the_layout_is_robomimics(recording: Path) -> None:
    with h5py.File(recording) as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        assert env_args == make_env(POINT).unwrapped.env_args  # type: ignore[attr-defined]
        assert list(file["data"]) == [f"demo_{index}" for index in range(N)]
        assert file["data"].attrs["total"] == sum(demo.attrs["num_samples"] for demo in file["data"].values())
        for index, demo in enumerate(file["data"].values()):
            length = demo.attrs["num_samples"]
            assert demo.attrs["seed"] == SEED + index
            assert demo.attrs["model_file"] == "<point/>"
            shapes = {"actions": (2,), "actions_abs": (2,), "states": (5,), "rewards": (), "dones": ()}
            shapes |= {f"{group}/{key}": (2,) for group in ("obs", "next_obs") for key in ("position", "goal")}
            assert {key: demo[key].shape for key in shapes} == {key: (length, *shape) for key, shape in shapes.items()}
        train, valid = (set(file[f"mask/{key}"][()]) for key in ("train", "valid"))
        assert len(valid) == 2
        assert sorted(train | valid) == [f"demo_{index}".encode() for index in range(N)]


def test_rows_stand_before_and_after_the_actions_they_should(recording: Path) -> None:
    with h5py.File(recording) as file:
        for demo in file["data"].values():
            position, goal = demo["obs/position"][()], demo["obs/goal"][()]
            after = demo["next_obs/position"][()]
            np.testing.assert_array_equal(after[:-1], position[1:])
            np.testing.assert_allclose(after, position + STEP * np.clip(demo["actions"][()], -1, 1), atol=1e-12)
            np.testing.assert_array_equal(demo["actions_abs"][()], after)
            np.testing.assert_array_equal(demo["states"][:, 1:3], position)
            np.testing.assert_array_equal(demo["states"][:, 0], np.arange(len(position)))
            np.testing.assert_array_equal(demo.attrs["initial_joint"], position[0])
            reached = np.linalg.norm(after - goal, axis=1) < REACH
            np.testing.assert_array_equal(demo["rewards"][()], reached)
            np.testing.assert_array_equal(demo["dones"][()], reached)
            assert reached[-3:].all(), "the tail after success is recorded"


def test_the_file_does_not_depend_on_the_number_of_processes(tmp_path: Path, recording: Path) -> None:
    result = record(tmp_path / "two.hdf5", n_procs=2)
    assert contents(tmp_path / "two.hdf5") == contents(recording)
    assert (result.n_episodes, result.n_attempts) == (N, N)


def test_failures_are_left_out_and_the_next_seed_is_taken(tmp_path: Path) -> None:
    """The expert of this environment succeeds in every third seed."""
    result = record(tmp_path / "out.hdf5", FAILING)
    with h5py.File(tmp_path / "out.hdf5") as file:
        seeds = [demo.attrs["seed"] for demo in file["data"].values()]
    assert seeds == list(range(SEED, SEED + 3 * N, 3))
    assert (result.n_episodes, result.n_attempts) == (N, 3 * N - 2)


@pytest.mark.parametrize("n_procs", [1, 2])
def test_an_expert_that_raises_has_failed(tmp_path: Path, n_procs: int) -> None:
    """Counted with its reason and the step that it reached, never written; the next seed is taken."""
    path = tmp_path / "raises.hdf5"
    collected = record(path, expert=RAISING, n_procs=n_procs)
    failed = [attempt for attempt in collected.attempts if not attempt.success]
    assert [(attempt.seed, attempt.length, attempt.error) for attempt in failed] == [
        (seed, 2, f"KeyError: 'seed {seed} has no cube'") for seed in range(SEED, SEED + len(collected.attempts), 4)
    ]
    assert failed
    with h5py.File(path) as file:
        assert file["data"].attrs["failed_seeds"] == json.dumps([attempt.seed for attempt in failed])
        seeds = [int(file["data"][f"demo_{index}"].attrs["seed"]) for index in range(N)]
    assert seeds == [attempt.seed for attempt in collected.attempts if attempt.success]


@pytest.mark.parametrize(
    ("env", "expert", "told"),
    [
        (EnvSpec(POINT), "tests.helpers.experts:undecided", "ArithmeticError: seed {seed} has no plan"),
        (EnvSpec(FAULTY, {"fault": "planless"}), "", "ValueError: seed {seed} has no plan"),
        (EnvSpec(FAULTY, {"fault": "nan"}), "", "obs/position is NaN or infinite at step 1"),
    ],
)
def test_an_episode_that_cannot_be_written_has_failed(tmp_path: Path, env: EnvSpec, expert: str, told: str) -> None:
    """An expert that raises as it is made, and a number that no dataset takes, end no collection."""
    path = tmp_path / "out.hdf5"
    collected = record_demonstrations(path, env, N, expert=expert, seed=SEED)
    failed = [(attempt.seed, attempt.error) for attempt in collected.attempts if not attempt.success]
    assert failed == [(seed, told.format(seed=seed)) for seed in (3, 7)]
    with h5py.File(path) as file:
        assert [int(demo.attrs["seed"]) for demo in file["data"].values()] == [4, 5, 6, 8, 9, 10]


def test_episodes_that_do_not_fit_each_other_are_named_by_seed(tmp_path: Path) -> None:
    """Going on would meet them again, so nobody is told to."""
    env = EnvSpec(FAULTY, {"fault": "short"})
    told = r"^seed 4 \(the first episode's is 3\): .*demo_1/next_obs/position has rows of \(2,\), the first .*; mend"
    with pytest.raises(LFMError, match=told) as caught:
        record_demonstrations(tmp_path / "out.hdf5", env, N, seed=SEED)
    assert str(caught.value).endswith("start anew with --overwrite true; 6 finished attempts are kept")


def test_the_file_says_what_made_it(recording: Path) -> None:
    with h5py.File(recording) as file:
        told = json.loads(file["data"].attrs["collected"])
    assert {key: told[key] for key in ("env_id", "expert", "seed")} == {"env_id": POINT, "expert": "", "seed": SEED}
    for package in ("lfm_policy", "mujoco", "numpy"):
        assert told[f"version of {package}"] == metadata.version(package)


def test_actions_that_no_dataset_has_are_refused() -> None:
    with pytest.raises(LFMError, match=r"lfm/Lift-v0: rotation 'rotation_6d' is no form of a dataset's actions; leave"):
        CollectJob(EnvSpec("lfm/Lift-v0", {"representation": "absolute", "rotation": "rotation_6d"}), RAISING)()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 0}, "--n 0: must be 1 or more"),
        ({"max_attempts": 0}, "--max_attempts 0: must be 1 or more"),
        ({"seed": -1}, "--seed -1: must be 0 or more, and below 2^62"),
        ({"seed": 2**64}, f"--seed {2**64}: must be 0 or more, and below 2^62"),
        ({"valid_fraction": 1.0}, "--valid_fraction 1.0: must be 0 or more and below 1"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(LFMError) as caught:
        record_demonstrations(tmp_path / "out.hdf5", EnvSpec(POINT), **{"n": 1, **options})
    assert str(caught.value) == told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_procs", [1, 2])
@pytest.mark.parametrize(
    ("env_kwargs", "told"),
    [
        ({"initialization_noise": "foo"}, r"^environment lfm/Lift-v0: TypeError: string indices must be integers"),
        ({"placement_initializer": 5}, r"^environment lfm/Lift-v0: AttributeError: 'int' object"),
        ({"gripper_types": "Foo"}, r"^environment lfm/Lift-v0: gripper_types 'Foo'; only the Panda's"),
    ],
)
def test_what_a_simulator_raises_as_it_is_made_is_one_line(
    tmp_path: Path, env_kwargs: dict[str, Any], told: str, n_procs: int
) -> None:
    with pytest.raises(LFMError, match=told):
        record_demonstrations(tmp_path / "out.hdf5", EnvSpec("lfm/Lift-v0", env_kwargs), 2, n_procs=n_procs)
    assert list(tmp_path.iterdir()) == []


def test_an_expert_that_always_raises_is_told_with_its_reason(tmp_path: Path) -> None:
    told = r"raised in each of 5 attempts; seed 7: KeyError: 'seed 7 has no cube'; mend the expert, then start anew"
    with pytest.raises(LFMError, match=told):
        record(tmp_path / "none.hdf5", expert="tests.helpers.experts:hopeless")
    assert not (tmp_path / "none.hdf5").exists()


def test_what_fails_too_often_or_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.hdf5"
    with pytest.raises(LFMError, match=r"2 of 5 attempts succeeded, 6 wanted; add --resume true, .*; 5 finished"):
        record(path, FAILING, max_attempts=5)
    assert record(path, FAILING, resume=True).n_kept == 5, "what is advised goes on from there"
    monkeypatch.setattr("lfm_policy.evaluation.collect.MIN_SUCCESS_RATE", 0.34)
    with pytest.raises(LFMError, match=r"succeeded in 7 of 21 attempts, fewer than 34%"):
        record_demonstrations(tmp_path / "other.hdf5", EnvSpec(FAILING), 21, seed=SEED)
    assert {file.name for file in tmp_path.iterdir()} == {"out.hdf5", "other.hdf5.attempts"}


def test_an_episode_ends_at_the_limit() -> None:
    env = make_env(POINT, terminate_on_success=False)

    def expert(env: gymnasium.Env, seed: int) -> Expert:
        return env.unwrapped.make_expert(seed)  # type: ignore[attr-defined]

    assert demonstrate(env, expert, 0, 2).length == 2
    failed = demonstrate(env, expert, 0, 1)
    assert not failed.success
    assert failed.datasets == {}


def test_an_environment_without_expert_is_told() -> None:
    with pytest.raises(LFMError, match=r"environment CartPole-v1: offers no make_expert"):
        record_demonstrations("out.hdf5", EnvSpec("CartPole-v1"), 1)
    with pytest.raises(LFMError, match=r"--expert tests.helpers.point:nobody: cannot be imported .*module:function"):
        record_demonstrations("out.hdf5", EnvSpec(PLAIN), 1, expert="tests.helpers.point:nobody")


MAPPING = {"goal": "state[2:4]", "position": "state[:2]"}


@pytest.mark.parametrize("expert", ["", "tests.helpers.point:outside_expert"])
def test_any_environment_is_recorded_under_the_keys_of_a_mapping(recording: Path, tmp_path: Path, expert: str) -> None:
    """A plain vector, mapped, gives the observations and actions of the environment that has keys itself."""
    spec = EnvSpec(PLAIN, {"terminate_on_success": False}, MAPPING, "success")
    path = tmp_path / "plain.hdf5"
    record_demonstrations(path, spec, N, seed=SEED, expert=expert)
    with h5py.File(path) as plain, h5py.File(recording) as keyed:
        assert json.loads(plain["data"].attrs["env_args"])["observation"] == MAPPING
        for name, demo in keyed["data"].items():
            for key in ("obs/goal", "obs/position", "next_obs/goal", "actions", "rewards"):
                np.testing.assert_allclose(plain["data"][name][key], demo[key], atol=1e-6)
        read_back = EnvSpec.of_env_args(json.loads(plain["data"].attrs["env_args"]), path)
    assert read_back == spec


def test_a_mapping_is_written_of_environments_that_describe_themselves_too(recording: Path, tmp_path: Path) -> None:
    mapping = {"here": "position", "there": "goal[1]"}
    record_demonstrations(tmp_path / "mapped.hdf5", EnvSpec(POINT, observation=mapping), N, seed=SEED)
    with h5py.File(tmp_path / "mapped.hdf5") as mapped, h5py.File(recording) as keyed:
        own = json.loads(keyed["data"].attrs["env_args"])
        assert json.loads(mapped["data"].attrs["env_args"]) == {**own, "observation": mapping}
        for name, demo in keyed["data"].items():
            np.testing.assert_array_equal(mapped["data"][name]["obs/here"], demo["obs/position"])
            np.testing.assert_array_equal(mapped["data"][name]["obs/there"], demo["obs/goal"][:, 1:])


def test_observations_are_those_behind_an_environments_wrappers(recording: Path, tmp_path: Path) -> None:
    """What rollouts see; episodes go on after success all the same."""
    record(tmp_path / "flat.hdf5", FLAT)
    with h5py.File(tmp_path / "flat.hdf5") as flat, h5py.File(recording) as keyed:
        for name, demo in keyed["data"].items():
            both = np.concatenate([demo["obs/goal"], demo["obs/position"]], axis=1)
            np.testing.assert_array_equal(flat["data"][name]["obs/state"], both)


def test_our_reader_reads_it(recording: Path) -> None:
    read = read_demonstrations(recording, ["goal", "position"], representation="delta")
    assert (len(read.names), read.obs_dims) == (N, (2, 2))
    train, valid = split_names(recording, 0.5, 0)
    assert (len(train), len(valid)) == (4, 2)


def test_robomimics_reader_reads_it(recording: Path) -> None:
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset
    from robomimic.utils.file_utils import get_env_metadata_from_dataset

    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["goal", "position"]}})
    dataset = SequenceDataset(
        str(recording),
        obs_keys=["goal", "position"],
        dataset_keys=["actions", "rewards", "dones"],
        frame_stack=2,
        seq_length=4,
        filter_by_attribute="train",
        hdf5_cache_mode="low_dim",
    )
    assert dataset.n_demos == 4
    with h5py.File(recording) as file:
        demo = file["data"][dataset.demos[0]]
        assert len(dataset) == sum(file["data"][name].attrs["num_samples"] for name in dataset.demos)
        item = dataset[1]
        np.testing.assert_allclose(item["actions"], demo["actions"][:5], rtol=1e-6)
        np.testing.assert_array_equal(item["obs"]["position"], demo["obs/position"][:5])
        np.testing.assert_array_equal(item["next_obs"]["position"], demo["next_obs/position"][:5])
    assert get_env_metadata_from_dataset(str(recording))["env_name"] == "Point"
