"""A run that was broken off and resumed is the run that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lfm_policy.flow import LFMError
from lfm_policy.policy import find_checkpoint
from lfm_policy.policy.base import ChunkPolicy
from lfm_policy.policy.serialization import save_policy
from lfm_policy.training import Trainer
from lfm_policy.training import trainer as trainer_module
from lfm_policy.training.checkpoint import STATE_FILE, load_training_state
from lfm_policy.training.config import RolloutConfig
from tests.helpers.processes import wait_until
from tests.training.runs import metrics, small_config, small_dataset, train

VARIANTS = {
    "paper": {},
    "shared start": {"shared_start": 5, "coupling": "common", "marginals": "exact"},
    "warm start, diffused": {"warm_start": True, "initial_diffusion": 0.01},
    "one network": {"share_weights": True, "interpolant": "geodesic", "coupling": "common", "marginals": "exact"},
}


def same(a: object, b: object) -> bool:
    """Bitwise equality of nested states."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type]
    return a == b


def assert_same_run(left: Path, right: Path) -> None:
    """EMA weights, training weights, optimiser, position and log are equal bit for bit."""
    a, b = find_checkpoint(left), find_checkpoint(right)
    assert a.name == b.name
    assert same(load_file(a / "model.safetensors"), load_file(b / "model.safetensors"))
    assert same(load_training_state(a), load_training_state(b))
    last_of = {(row["step"], tuple(sorted(row))): row for row in metrics(right)}
    assert metrics(left) == list(last_of.values())


@pytest.mark.parametrize("flow", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path, flow: dict) -> None:
    """Broken inside a sub-flow (step 4), at a boundary (6) and across one (9)."""
    data = small_dataset(tmp_path / "data.hdf5")
    train(small_config(data, tmp_path / "whole", flow))
    broken = small_config(data, tmp_path / "broken", flow)
    train(replace(broken, stop_after=4))
    train(replace(broken, stop_after=2, resume=True))
    train(replace(broken, stop_after=3, resume=True))
    train(replace(broken, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_run_goes_on_with_other_threads_and_a_config_that_named_epochs_beside_steps(tmp_path: Path) -> None:
    config = small_config(small_dataset(tmp_path / "data.hdf5"), tmp_path / "run")
    file = train(replace(config, stop_after=4)) / "policy.json"
    told = json.loads(file.read_text())
    told["config"]["training"]["epochs"] = 200  # as the first versions wrote
    file.write_text(json.dumps(told))
    assert train(replace(config, threads=1, resume=True)).name == "step_18"


def command(config: Path, *extra: str) -> list[str]:
    return [sys.executable, "train_policy.py", "--config", str(config), *extra]


def test_ctrl_c_leaves_a_checkpoint_from_which_a_fresh_process_ends_the_same(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    config = small_config(data, tmp_path / "broken")
    training = replace(config.training, steps=150, checkpoint_every=1000, valid_every=75)
    config = replace(config, training=training)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # as many threads for both: sums are rounded by thread
    subprocess.run(command(file, "--output_dir", str(tmp_path / "whole")), check=True, env=env, capture_output=True)

    process = subprocess.Popen(command(file), env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    log = tmp_path / "broken" / "metrics.jsonl"
    wait_until(lambda: log.is_file() and bool(log.read_text()), process)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume true" in told
    assert 0 < int(find_checkpoint(tmp_path / "broken").name.removeprefix("step_")) < 450

    subprocess.run(command(file, "--resume", "true"), check=True, env=env, capture_output=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_crash_while_saving_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    config = small_config(data, tmp_path / "run")
    old = train(replace(config, stop_after=4))
    before = (old / STATE_FILE).read_bytes()

    def crash(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(trainer_module, "save_policy", crash)
    with pytest.raises(LFMError, match=r"step_8: cannot be written \(no space left on device\); make room"):
        train(replace(config, resume=True))
    assert find_checkpoint(tmp_path / "run") == old
    assert (old / STATE_FILE).read_bytes() == before
    assert [folder.name for folder in old.parent.iterdir()] == [old.name]


def test_a_changed_config_or_dataset_is_not_resumed(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    config = small_config(data, tmp_path / "run")
    train(replace(config, stop_after=4))
    other_flow = replace(config, resume=True, flow=replace(config.flow, rho=2.0))
    with pytest.raises(LFMError, match=r"flow\.rho: was 1\.25, now 2\.0"):
        train(other_flow)
    small_dataset(tmp_path / "data.hdf5", seed=1)
    with pytest.raises(LFMError, match="is not the dataset"):
        train(replace(config, resume=True))


def test_changed_masks_are_not_resumed(tmp_path: Path) -> None:
    """What was trained on would be held out."""
    data = small_dataset(tmp_path / "data.hdf5")
    config = small_config(data, tmp_path / "run")
    train(replace(config, stop_after=4))
    with h5py.File(data, "a") as file:
        names = sorted(file["data"])
        file["mask/train"], file["mask/valid"] = np.array(names[:1], dtype="S"), np.array(names[1:], dtype="S")
    with pytest.raises(LFMError, match="has other masks"):
        train(replace(config, resume=True))
    with h5py.File(data, "a") as file:
        del file["mask"]
    train(replace(config, resume=True))


def test_checkpoints_come_at_their_interval_over_all_subflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sub-flows of 6 steps would never reach a checkpoint every 8 by themselves."""
    config = small_config(small_dataset(tmp_path / "data.hdf5"), tmp_path / "run")
    saved = []

    def save(policy: ChunkPolicy, folder: Path, **facts: Any) -> None:
        saved.append(facts["step"])
        save_policy(policy, folder, **facts)

    monkeypatch.setattr(trainer_module, "save_policy", save)
    train(replace(config, training=replace(config.training, checkpoint_every=8)))
    assert saved == [8, 16, 18]


def test_what_a_user_keeps_beside_checkpoints_is_left_alone(tmp_path: Path) -> None:
    """But what a killed process left half-written goes."""
    config = small_config(small_dataset(tmp_path / "data.hdf5"), tmp_path / "run")
    checkpoints = train(replace(config, stop_after=4)).parent
    shutil.copytree(checkpoints / "step_4", checkpoints / "step_4_best")
    (checkpoints / "step_mine").write_text("the best one is step_4_best")
    (checkpoints / "tmp-1").mkdir()
    assert find_checkpoint(tmp_path / "run") == checkpoints / "step_4"
    train(replace(config, resume=True))
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step_18", "step_4_best", "step_mine"]


def test_a_run_that_diverges_can_be_given_again(tmp_path: Path) -> None:
    config = small_config(small_dataset(tmp_path / "data.hdf5"), tmp_path / "run")
    high = replace(config.training, learning_rate=1e30, warmup_steps=0, max_grad_norm=None)
    with pytest.raises(LFMError, match="lower learning_rate"):
        train(replace(config, training=high))
    train(config)


def test_rollouts_come_at_their_interval_once_all_subflows_are_there(tmp_path: Path) -> None:
    """The third sub-flow has steps 13 to 18; a run that is stopped is not kept waiting for them."""
    config = small_config(small_dataset(tmp_path / "data.hdf5"), tmp_path / "run", rollout=RolloutConfig(every=5))
    seen = []

    def roll_out(checkpoint: Path, step: int) -> dict[str, Any]:
        seen.append((checkpoint.name, step))
        return {"success_rate": 0.5}

    for stop in (14, None):
        Trainer(replace(config, stop_after=stop, resume=stop is None), lambda line: None, roll_out).run()
    Trainer(replace(config, resume=True), lambda line: None, roll_out).run()
    assert seen == [("step_15", 15), ("step_18", 18)]
    assert [row["step"] for row in metrics(tmp_path / "run") if "success_rate" in row] == [15, 18]


def test_last_rollouts_that_broke_off_are_made_when_the_trained_run_is_resumed(tmp_path: Path) -> None:
    config = small_config(small_dataset(tmp_path / "data.hdf5"), tmp_path / "run", rollout=RolloutConfig(every=50))
    seen: list[int] = []

    def roll_out(checkpoint: Path, step: int) -> dict[str, Any]:
        seen.append(step)
        if len(seen) == 1:
            raise LFMError("a worker died")
        return {"success_rate": 0.5}

    with pytest.raises(LFMError, match="a worker died"):
        Trainer(config, lambda line: None, roll_out).run()
    Trainer(replace(config, resume=True), lambda line: None, roll_out).run()
    assert seen == [18, 18]
    assert [row["success_rate"] for row in metrics(tmp_path / "run") if "success_rate" in row] == [0.5]


def test_a_moved_dataset_and_a_renamed_run_resume(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    config = small_config(data, tmp_path / "run")
    train(replace(config, stop_after=4))
    (tmp_path / "run").rename(tmp_path / "renamed")
    moved = data.rename(tmp_path / "moved.hdf5")
    folder = train(small_config(moved, tmp_path / "renamed", resume=True))
    assert folder.name == "step_18"
