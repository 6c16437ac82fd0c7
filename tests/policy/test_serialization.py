"""A saved policy is the same policy in another process; what is no checkpoint is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_policy.flow import LFMError, Solver
from lfm_policy.policy import (
    DiffusionPolicy,
    DiffusionSettings,
    LFMConfig,
    LFMPolicy,
    MIPPolicy,
    MIPSettings,
    Sampler,
    find_checkpoint,
    load_policy,
    save_policy,
)
from lfm_policy.policy.behavior_cloning import MIPConfig
from lfm_policy.policy.diffusion import DiffusionConfig
from tests.policy.tiny import CONFIG, TP, observations, tiny_policy, tiny_spec

LOAD = """
import sys, torch
from safetensors.torch import load_file, save_file
from lfm_policy.flow import Solver
from lfm_policy.policy import load_policy
policy = load_policy(sys.argv[1])
obs = load_file(sys.argv[1] + "/obs.safetensors")
chunk = policy.predict_action(obs, torch.Generator().manual_seed(0))
log_prob = policy.log_prob(obs, torch.zeros_like(chunk), Solver("rk4", steps=1))
save_file({"chunk": chunk, "log_prob": log_prob}, sys.argv[1] + "/out.safetensors")
print(policy.training, *sorted(m for m in ("robosuite", "mujoco", "envs", "lfm_policy.training") if m in sys.modules))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(tiny_policy(), tmp_path, step=7)
    return tmp_path


def edit(folder: Path, change: Callable[[dict], Any]) -> None:
    description = json.loads((folder / "policy.json").read_text())
    change(description)
    (folder / "policy.json").write_text(json.dumps(description))


def test_saved_policy_predicts_the_same_in_a_fresh_process(folder: Path) -> None:
    """And needs neither a dataset nor a simulator for it."""
    policy, obs = tiny_policy(), observations(3)
    save_file(obs, folder / "obs.safetensors")
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]
    out = load_file(folder / "out.safetensors")
    chunk = policy.predict_action(obs, torch.Generator().manual_seed(0))
    assert torch.equal(out["chunk"], chunk)
    assert torch.equal(out["log_prob"], policy.log_prob(obs, torch.zeros(3, TP, 3), Solver("rk4", steps=1)))


@pytest.mark.parametrize(
    "policy",
    [
        DiffusionPolicy(
            tiny_spec(),
            DiffusionConfig(CONFIG.network, DiffusionSettings(50, "ddim", 5, clip_sample=False, temperature=0.5)),
        ),
        DiffusionPolicy(tiny_spec(), DiffusionConfig(CONFIG.network, DiffusionSettings(50, "ddpm", 50))),
        MIPPolicy(tiny_spec(), MIPConfig(CONFIG.network, MIPSettings(0.75, 2.0))),
        tiny_policy(replace(CONFIG, sampler=Sampler("rk4", 3, temperature=0.5))),
    ],
    ids=["ddim", "ddpm", "mip", "lfm"],
)
def test_settings_are_those_that_were_saved(policy: DiffusionPolicy | MIPPolicy | LFMPolicy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    assert type(loaded) is type(policy)
    assert loaded.config == policy.config  # type: ignore[attr-defined]


@pytest.mark.parametrize("shared", [False, True])
def test_round_trip_keeps_spec_config_and_every_tensor(shared: bool, tmp_path: Path) -> None:
    config = replace(CONFIG, chain=replace(CONFIG.chain, share_weights=shared))
    policy = tiny_policy(config)
    policy.action_normalizer.varying[1] = False
    save_policy(policy, tmp_path, step=7, dataset={"file": "x.hdf5"})
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, LFMPolicy)
    assert (loaded.spec, loaded.config) == (policy.spec, policy.config)
    assert loaded.flow.schedule == policy.flow.schedule
    for (name, value), want in zip(loaded.state_dict().items(), policy.state_dict().values(), strict=True):
        assert torch.equal(value, want), name
    description = json.loads((tmp_path / "policy.json").read_text())
    assert description["step"] == 7
    assert description["dataset"] == {"file": "x.hdf5"}


def test_config_survives_json() -> None:
    assert LFMConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def test_newest_checkpoint_of_a_run_is_found_by_number(tmp_path: Path) -> None:
    for step in (900, 1000, 20):  # 900 sorts after 1000 as text
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
        save_policy(tiny_policy(), tmp_path / "checkpoints" / f"step_{step}")
    (tmp_path / "checkpoints" / "step_5000").mkdir()  # no policy in it
    assert find_checkpoint(tmp_path).name == "step_1000"
    assert find_checkpoint(str(tmp_path / "checkpoints" / "step_20")).name == "step_20"


def test_a_missing_folder_and_an_empty_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(LFMError, match=r"nowhere: does not exist; give a checkpoint folder"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(LFMError, match=rf"{tmp_path}: holds no checkpoint"):
        load_policy(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_truncated_weights_are_refused_by_file(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(LFMError, match=r"model\.safetensors: cannot be read"):
        load_policy(folder)


def test_missing_weights_and_weights_of_another_size_are_refused_by_file(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "flow.fields.0.out.1.bias"
    for change in ({name: torch.zeros(99)}, {"surplus": torch.zeros(1)}):
        save_file(tensors | change, folder / "model.safetensors")
        with pytest.raises(LFMError, match=r"model\.safetensors: cannot be read \((?!Error\(s\) in loading)"):
            load_policy(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(LFMError, match=r"model\.safetensors: cannot be read"):
        load_policy(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe\x00", b'{"format": 1}'])
def test_a_description_that_is_none_is_refused_by_file(folder: Path, content: bytes) -> None:
    (folder / "policy.json").write_bytes(content)
    with pytest.raises(LFMError, match=r"policy\.json: (cannot be read|describes no policy)"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), r"policy\.json: format 2 is not 1"),
        (lambda d: d.update(type="transformer"), r"policy\.json: describes no policy of type lfm"),
        (lambda d: d.pop("spec"), r"policy\.json: describes no policy \('spec'\)"),
        (lambda d: d["model"]["chain"].pop("n_subflows") and d["model"].pop("chain"), r"policy\.json: .*'chain'"),
        (lambda d: d["model"]["network"].update(depth=3), r"policy\.json: .*depth"),
        (lambda d: d["spec"].update(n_action_steps=99), r"policy\.json: .*n_action_steps: 99"),
        (lambda d: d.update(trained_subflows=2), r"only 2 of 3 sub-flows are trained; continue with `lfm train"),
    ],
)
def test_another_format_type_or_field_is_refused_by_name(
    folder: Path, change: Callable[[dict], Any], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(LFMError, match=message):
        load_policy(folder)


def test_finished_training_loads(folder: Path) -> None:
    edit(folder, lambda d: d.update(trained_subflows=3))
    assert load_policy(folder).nfe == 12
