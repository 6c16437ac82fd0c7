"""PushT's published arrays become a dataset whose observations are the environment's own."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import h5py
import numpy as np

import envs
from lfm_policy.cli.main import main

LENGTHS = (30, 12)


def write_buffer(path: Path) -> list[dict[str, np.ndarray]]:
    """Episodes of pushing about, as Diffusion Policy's arrays; what the environment said of each step."""
    env = gymnasium.make(envs.PUSHT, disable_env_checker=True).unwrapped
    rng, states, actions, told = np.random.default_rng(0), [], [], []
    for seed, length in enumerate(LENGTHS):
        observation, _ = env.reset(seed=seed)
        rows: dict[str, list] = {key: [] for key in [*observation, "rewards"]}
        for _ in range(length):
            states.append(env.get_state()["states"])  # type: ignore[attr-defined]
            actions.append(np.clip(observation["block_pos"] + rng.normal(0, 30, 2), 0, 512))
            for key, value in observation.items():
                rows[key].append(value)
            observation, reward, *_ = env.step(actions[-1])
            rows["rewards"].append(reward)
        told.append({key: np.array(values) for key, values in rows.items()})
    np.savez(path, state=np.array(states), action=np.array(actions), episode_ends=np.cumsum(LENGTHS))
    return told


def test_states_are_observed_as_they_were_when_recorded(tmp_path: Path) -> None:
    source, output = tmp_path / "pusht.npz", tmp_path / "pusht.hdf5"
    told = write_buffer(source)
    assert main(["convert", str(source), "--output", str(output), "--env_id", envs.PUSHT]) == 0
    with h5py.File(output) as file:
        for index, rows in enumerate(told):
            demo = file[f"data/demo_{index}"]
            for key in ("agent_pos", "block_pos", "block_angle", "keypoints"):
                np.testing.assert_allclose(demo[f"obs/{key}"], rows[key], atol=1e-6)
            np.testing.assert_allclose(demo["rewards"][:-1], rows["rewards"][:-1], atol=1e-6)
            # the last one is learned from five steps before, begun at rest: what is left of the missing motion
            np.testing.assert_allclose(demo["rewards"][-1], rows["rewards"][-1], atol=0.02)
