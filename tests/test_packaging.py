"""The package without extras, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.training.runs import small_config, small_dataset

ROOT = Path(__file__).parent.parent
SIMULATORS = ("robosuite", "robomimic", "mujoco", "OpenGL", "glfw", "egl_probe", "imageio")


@pytest.fixture(scope="module")
def plain_bin() -> Iterator[Path]:
    """Programs of a new environment after `pip install .`, gone again afterwards: torch is large."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        binaries = Path(folder) / "bin"
        # modules that are imported compile themselves; compiling all of torch takes longer than the installation
        install = [binaries / "pip", "install", "-q", "--no-compile", "-c", "constraints.txt", "."]
        subprocess.run(install, cwd=ROOT, check=True, capture_output=True)
        yield binaries


def test_a_plain_installation_imports_every_module_and_no_simulator(plain_bin: Path, tmp_path: Path) -> None:
    code = f"""
import importlib, importlib.util, pkgutil, sys
import envs, lfm_policy
assert "site-packages" in lfm_policy.__file__, lfm_policy.__file__
for module in pkgutil.walk_packages(lfm_policy.__path__, "lfm_policy.", onerror=lambda name: None):
    if not module.name.startswith("lfm_policy.integrations."):  # asks for robomimic by name
        importlib.import_module(module.name)
found = [name for name in {SIMULATORS!r} if importlib.util.find_spec(name)]
assert not found, found
"""
    subprocess.run([plain_bin / "python", "-c", code], check=True, cwd=tmp_path)


def test_a_plain_installation_trains_and_says_what_a_simulator_needs(plain_bin: Path, tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(small_config(data, tmp_path / "run").to_dict()))
    subprocess.run([plain_bin / "lfm", "train", "--config", config], check=True, capture_output=True)
    assert list((tmp_path / "run" / "checkpoints").glob("step_*/model.safetensors"))

    for command in (["rollout", tmp_path / "run"], ["collect", "--out", tmp_path / "new.hdf5"]):
        result = subprocess.run([plain_bin / "lfm", *command], capture_output=True, text=True)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert "lfm_policy[sim]" in result.stderr
    assert not (tmp_path / "new.hdf5").exists()
