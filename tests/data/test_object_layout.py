"""The columns of `object`: poses made here, laid out as each version does, are recognised and put in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lfm_policy.data.inspect import inspect_file
from lfm_policy.data.object_layout import LAYOUTS, check_layout, detect, layout_of, to_current, width
from lfm_policy.flow.errors import LFMError
from tests.conversion.layouts import old_columns
from tests.data.recordings import ENV_ARGS, Episode, smooth, write_robomimic_file

TOLD = ["Lift", "PickPlaceCan", "NutAssemblySquare", "ToolHang"]
Array = np.ndarray


def poses(rng: np.random.Generator, steps: int) -> tuple[Array, Rotation]:
    """Somewhere over a table, turning."""
    positions = smooth(rng, steps, 3) * [0.3, 0.3, 0.1] + [0.1, 0, 0.9]
    return positions, Rotation.from_rotvec(smooth(rng, steps, 3))


def scene(env_name: str, seed: int, steps: int = 40, lag: int = 0) -> tuple[Array, Array]:
    """`object` of robosuite 1.5 (T, D) and the gripper's position (T, 3), relative poses `lag` steps behind."""
    rng = np.random.default_rng(seed)
    eef, hand = poses(rng, steps)
    if env_name == "Lift":
        cube, turned = poses(rng, steps)
        return np.hstack([cube, turned.as_quat(), cube - np.roll(eef, lag, axis=0)]), eef
    columns = []
    for _ in range({"ToolHang": 3}.get(env_name, 1)):
        position, turned = poses(rng, steps)
        seen = np.roll(position, lag, axis=0)
        relative = hand.inv().apply(seen - eef), (hand.inv() * turned).as_quat()
        columns += [*relative, position, turned.as_quat()]
    return np.hstack([*columns, np.zeros((steps, 2))] if env_name == "ToolHang" else columns), eef


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("env_name", TOLD)
def test_each_layout_is_recognised_and_becomes_todays(env_name: str, seed: int) -> None:
    observed, eef = scene(env_name, seed, lag=1)
    old = old_columns(env_name, observed)
    assert observed.shape[1] == width(env_name)
    assert detect(env_name, observed, eef) == "1.5"
    assert detect(env_name, old, eef) == "1.4"
    np.testing.assert_array_equal(to_current(env_name, old), observed)
    # single rows too, as a policy sees them
    np.testing.assert_array_equal(to_current(env_name, old[3]), observed[3])


def test_names_and_sizes_agree_between_versions() -> None:
    for layouts in LAYOUTS.values():
        old, new = ({name: size for name, size, _ in layouts[version]} for version in ("1.4", "1.5"))
        assert old == new
    sizes = {name: width(name) for name in LAYOUTS}
    assert sizes == {
        "Lift": 10, "PickPlaceCan": 14, "NutAssemblySquare": 14, "ToolHang": 44, "TwoArmTransport": 41
    }  # fmt: skip


def test_what_the_numbers_do_not_tell() -> None:
    rng = np.random.default_rng(0)
    observed, eef = scene("PickPlaceCan", 0)
    transport = rng.normal(size=(40, 41))
    assert detect("TwoArmTransport", transport, eef) is None
    np.testing.assert_array_equal(to_current("TwoArmTransport", transport), transport)
    assert detect("Door", observed, eef) is None
    assert detect("PickPlaceCan", observed[:, :13], eef) is None
    assert detect("PickPlaceCan", np.zeros_like(observed), np.zeros_like(eef)) is None
    assert detect("PickPlaceCan", rng.normal(size=observed.shape), eef) is None


@pytest.mark.parametrize(("version", "layout"), [("1.2.0", "1.4"), ("1.4.1", "1.4"), ("1.5.0", "1.5"), ("1.10", "1.5")])
def test_layout_of_versions(version: str, layout: str) -> None:
    assert layout_of(version) == layout


def write(path: Path, clean: dict[str, Episode], version: str | None, laid_out_as: str) -> Path:
    for seed, arrays in enumerate(clean.values()):
        observed, eef = scene("Lift", seed, len(arrays["actions"]))
        arrays["obs/object"] = observed if laid_out_as == "1.5" else old_columns("Lift", observed)
        arrays["obs/robot0_eef_pos"] = eef
    env_args = {key: value for key, value in ENV_ARGS.items() if key != "env_version"}
    return write_robomimic_file(path, clean, env_args | ({} if version is None else {"env_version": version}))


@pytest.mark.parametrize(
    ("version", "laid_out_as", "told"),
    [
        ("1.5.1", "1.5", None),
        ("1.4.1", "1.4", None),
        (None, "1.5", None),
        ("1.5.1", "1.4", "obs/object is laid out as in robosuite 1.4 and older, env_args say 1.5.1: `lfm convert`"),
        ("1.4.1", "1.5", "obs/object is laid out as in robosuite 1.5, env_args say 1.4.1: `lfm convert`"),
        (None, "1.4", "obs/object is laid out as in robosuite 1.4 and older, installed is 1.5.2: `lfm convert`"),
    ],
)
def test_inspection_tells_a_layout_that_contradicts_the_version(
    tmp_path: Path, clean: dict[str, Episode], version: str | None, laid_out_as: str, told: str | None
) -> None:
    path = write(tmp_path / "lift.hdf5", clean, version, laid_out_as)
    found = [finding for finding in inspect_file(path, "1.5.2").findings if finding.check == "object layout"]
    assert [finding.severity for finding in found] == ["warning"] * (told is not None)
    if told is not None:
        assert found[0].text.startswith(told)


def test_training_takes_only_the_simulators_own(tmp_path: Path, clean: dict[str, Episode]) -> None:
    args = dict(ENV_ARGS)
    new = write(tmp_path / "new.hdf5", clean, "1.5.1", "1.5")
    check_layout(new, args, "1.5.2")
    old = write(tmp_path / "old.hdf5", clean, "1.5.1", "1.4")
    check_layout(old, args, None)
    check_layout(old, args, "1.4.1")
    check_layout(old, args | {"type": 2}, "1.5.2")
    with pytest.raises(LFMError) as caught:
        check_layout(old, args, "1.5.2")
    line = str(caught.value)
    assert line.startswith(f"{old}: obs/object is laid out as in robosuite 1.4 and older, installed is 1.5.2")
    assert f"`lfm convert {old} --output NEW.hdf5`" in line
