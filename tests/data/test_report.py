"""The report on a whole file: clean, with every fault at once, raw, and what it says of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lfm_policy.data.checks import Finding
from lfm_policy.data.inspect import describe_environment, inspect_file
from lfm_policy.flow.errors import LFMError
from tests.data.recordings import ENV_ARGS, Episode, episode, write_robomimic_file


@pytest.fixture
def lengths(clean: dict[str, Episode]) -> dict[str, int]:
    return {demo: len(arrays["actions"]) for demo, arrays in clean.items()}


def only(findings: list[Finding], severity: str, demo: str = "") -> str:
    """The text of the one finding, which has this severity and place."""
    assert [(finding.severity, finding.demo) for finding in findings] == [(severity, demo)]
    return findings[0].text


def test_a_clean_file(tmp_path: Path, clean: dict[str, Episode], lengths: dict[str, int]) -> None:
    masks = {"train": list(clean)[2:], "valid": list(clean)[:2]}
    report = inspect_file(write_robomimic_file(tmp_path / "clean.hdf5", clean, masks=masks))
    assert report.findings == ()
    assert report.lengths == lengths
    assert report.n_frames == sum(lengths.values())
    assert report.masks == {"train": 10, "valid": 2}
    assert report.env_args == ENV_ARGS
    summary = {key.key: key for key in report.keys}
    assert summary["obs/object"].shape == (10,)
    assert summary["actions"].n_demos == 12
    assert (summary["actions"].low, summary["actions"].high) == (-1, 1)
    assert summary["dones"].dtype == "int64"


def test_every_fault_at_once(tmp_path: Path, clean: dict[str, Episode]) -> None:
    """One fault hides no other, and none makes the inspection fail."""
    clean["demo_0"]["actions"][3, 2] = np.nan
    clean["demo_1"]["obs/object"] = clean["demo_1"]["obs/object"][:, :9]
    del clean["demo_2"]["obs/robot0_eef_pos"]
    clean["demo_3"]["obs/robot0_eef_quat"][20:] += 3
    clean["demo_4"]["rewards"][:] = 0
    clean["demo_5"] = clean["demo_6"]
    clean["demo_7"] = episode(np.random.default_rng(1), 300)
    clean["demo_8"]["obs/robot0_gripper_qpos"][:] = np.inf
    clean["demo_9"] = {"notes": np.zeros(3)}
    clean["demo_10"]["dones"][-1] = 0
    for arrays in clean.values():
        if "obs/robot0_gripper_qpos" in arrays:
            arrays["obs/image"] = np.zeros((len(arrays["actions"]), 4, 4, 3), dtype=np.uint8)
            arrays["scalar"] = np.array(3.0)
    masks = {"train": ["demo_0", "demo_5"], "valid": ["demo_6", "demo_0"]}
    path = write_robomimic_file(tmp_path / "bad.hdf5", clean, masks=masks)
    with h5py.File(path, "r+") as file:
        file["data/demo_11"].attrs["num_samples"] = 12
    report = inspect_file(path)
    found = {finding.check: finding for finding in report.findings}
    expected = {"shapes", "not finite", "jumps", "rewards", "dones", "duplicates", "length outliers", "leaks"}
    assert expected | {"bookkeeping"} <= found.keys()
    assert report.count("error") >= 8
    image = next(key for key in report.keys if key.key == "obs/image")
    assert (image.shape, image.low) == ((4, 4, 3), None)


def test_a_raw_recording(tmp_path: Path) -> None:
    """robosuite's own layout: no observations, `env_info` in place of `env_args`."""
    rng = np.random.default_rng(0)
    raw = {
        f"demo_{index}": {"actions": rng.normal(size=(20, 7)), "states": rng.normal(size=(20, 32))} for index in (1, 2)
    }
    path = write_robomimic_file(tmp_path / "raw.hdf5", raw, env_args=None)
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_info"] = '{"env_name": "Lift", "robots": "Panda"}'
        file["data"].attrs["repository_version"] = "1.4.0"
    report = inspect_file(path)
    assert report.env_args == {
        "env_name": "Lift", "type": 1, "env_version": "1.4.0", "env_kwargs": {"robots": "Panda"},
    }  # fmt: skip
    texts = [finding.text for finding in report.findings if finding.check == "bookkeeping"]
    assert texts == ["no demonstration has obs: nothing to train on"]
    findings = inspect_file(path, installed="1.5.2").findings
    told = [finding.text for finding in findings if finding.severity == "warning"]
    assert told == [
        "recorded with robosuite 1.4.0, installed is 1.5.2: observations differ in order and sign, "
        "`lfm convert` makes them anew"
    ]


def test_a_file_without_env_args_or_version(tmp_path: Path, clean: dict[str, Episode]) -> None:
    report = inspect_file(write_robomimic_file(tmp_path / "a.hdf5", clean, env_args=None))
    assert only(list(report.findings), "note").startswith("no env_args")
    unversioned = {key: value for key, value in ENV_ARGS.items() if key != "env_version"}
    report = inspect_file(write_robomimic_file(tmp_path / "b.hdf5", clean, env_args=unversioned))
    assert "do not say which robosuite" in only(list(report.findings), "note")


def test_no_dataset(tmp_path: Path) -> None:
    path = write_robomimic_file(tmp_path / "empty.hdf5", {})
    with pytest.raises(LFMError, match="has no demonstration under `data`"):
        inspect_file(path)
    with pytest.raises(LFMError, match="no such file"):
        inspect_file(tmp_path / "no.hdf5")


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ({"type": "OSC_POSE"}, "delta, OSC_POSE, frame base"),
        ({"input_type": "absolute", "input_ref_frame": "world"}, "absolute, OSC_POSE, frame world"),
        ({"input_type": "delta", "control_delta": False}, "delta, OSC_POSE, frame base"),
    ],
)
def test_the_actions_of_an_environment_in_words(arm: dict[str, Any], told: str) -> None:
    kwargs = {"control_freq": 20, "controller_configs": {"type": "BASIC", "body_parts": {"right": arm}}}
    described = describe_environment({"env_name": "Lift", "env_version": "1.5.1", "env_kwargs": kwargs})
    assert described["actions"] == told
    assert described["recorded with"] == "robosuite 1.5.1"


def test_other_environments_in_words() -> None:
    flat = {"controller_configs": {"type": "OSC_POSE", "control_delta": False}}
    assert describe_environment({"env_kwargs": flat})["actions"] == "absolute, OSC_POSE, frame world"
    assert describe_environment({}) == {}
    told = describe_environment({"env_name": "Isaac-Stack", "type": 2})
    assert told["recorded with"] == "no robosuite (robomimic's type 2)"
