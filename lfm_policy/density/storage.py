"""A fitted density as a folder: density.json (settings, columns, versions) and model.safetensors."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from lfm_policy.data import saved
from lfm_policy.data.whitening import Whitener
from lfm_policy.density.estimator import LocalFlowDensity
from lfm_policy.density.settings import check_settings, new_flow
from lfm_policy.flow import LFMError
from lfm_policy.flow.device import check_device
from lfm_policy.provenance import versions

FORMAT, TYPE = 1, "density"
DENSITY_FILE, MODEL_FILE = "density.json", "model.safetensors"


def save_density(density: LocalFlowDensity, path: Path, overwrite: bool) -> Path:
    """Write under a temporary name and rename: a crash leaves the old folder or the new one."""
    if path.exists() and not (overwrite and is_density(path)):
        remedy = "set overwrite=True" if is_density(path) else "it is no saved density; choose another name"
        raise LFMError(f"{path}: exists; {remedy}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
        write_density(density, temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        raise LFMError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def write_density(density: LocalFlowDensity, folder: Path, **facts: Any) -> None:
    """Write a fitted density into an existing folder; `facts` (step, table …) go into density.json."""
    tensors = {f"flow.{name}": tensor.cpu().contiguous() for name, tensor in density.flow_.state_dict().items()}
    tensors |= {f"whitener.{name}": tensor.contiguous() for name, tensor in density.whitener_.state_dict().items()}
    save_file(tensors, folder / MODEL_FILE)
    description = {
        "format": FORMAT,
        "type": TYPE,
        # what shaped the flow is what it was fitted with; how it is scored may have been set since
        "settings": {**density.settings_, "tolerance": density.tolerance, "n_probes": density.n_probes},
        "n_features": density.n_features_in_,
        "columns": density.columns,
        "versions": versions(),
        "history": density.history_,
        **facts,
    }
    text = json.dumps(description, indent=2, default=lambda value: value.item())  # numpy's numbers, as of a grid search
    (folder / DENSITY_FILE).write_text(text + "\n")


def load_density(path: Path, device: str = "cpu") -> LocalFlowDensity:
    """Read a saved density, or the newest checkpoint of a run's folder, onto `device`; needs no table.

    LFMError where the folder is none, is damaged, or holds sub-flows that are not all trained.
    """
    folder = find_density(path)
    description = read_description(folder)
    if description.get("trained", True) is not True:
        raise LFMError(f"{folder}: not all sub-flows are trained yet; continue with `lfm density train --resume true`")
    check_device(device)
    density = rebuild(description, folder, device)
    load_weights(density, folder)
    return density


def rebuild(description: dict[str, Any], folder: Path, device: str) -> LocalFlowDensity:
    """The estimator that density.json describes, with an untrained flow."""
    try:
        density = LocalFlowDensity(**{**description["settings"], "device": device})
        check_settings(density)
        density.settings_ = density.get_params()
        density.n_features_in_ = int(description["n_features"])
        if description["columns"] is not None:
            density.feature_names_in_ = np.array(description["columns"], dtype=object)
        density.history_ = description["history"]
        density.whitener_ = Whitener(density.n_features_in_)
        density.flow_ = new_flow(density, density.n_features_in_, 0).to(density.device)
    except (KeyError, TypeError, ValueError) as error:
        raise LFMError(f"{folder / DENSITY_FILE}: describes no density ({error}); use another one") from error
    return density


def load_weights(density: LocalFlowDensity, folder: Path) -> None:
    """Fill a density with the weights and the whitener of a folder."""
    saved.load_modules(folder / MODEL_FILE, {"flow.": density.flow_, "whitener.": density.whitener_})


def read_description(folder: Path) -> dict[str, Any]:
    """Contents of a folder's density.json."""
    return saved.read_description(folder / DENSITY_FILE, TYPE, FORMAT, "density")


def read_columns(path: Path) -> list[str]:
    """Names of the columns of a saved density: its table's, or x0, x1, …"""
    description = read_description(find_density(path))
    names = description.get("table", {}).get("columns") or description["columns"]
    return names or [f"x{index}" for index in range(description["n_features"])]


def is_density(path: Path) -> bool:
    """Whether a folder is a saved density."""
    return (path / DENSITY_FILE).is_file()


def find_density(path: Path) -> Path:
    """The folder that `path` is, or the newest checkpoint in the run's folder that it is."""
    return saved.find_folder(path, DENSITY_FILE)
