"""The config of algorithm `lfm`: robomimic's own sections, and ours made from the dataclasses of `lfm train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from robomimic.config.base_config import BaseConfig
from robomimic.config.config import Config

from lfm_policy.flow import LFMError, Optimization
from lfm_policy.policy import Sampler, UNetConfig
from lfm_policy.training import TrainConfig
from lfm_policy.training.config import ChunkConfig, DataConfig, FlowConfig, TrainingConfig

# Sections of `config.algo`, named as in our YAML files, and which of their fields; robomimic says the others:
# train.frame_stack is To, train.frame_stack - 1 + train.seq_length is Tp, train.batch_size and train.seed are it.
SECTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "policy": (ChunkConfig, ("n_action_steps",)),
    "data": (DataConfig, ("observation_normalizer", "action_normalizer")),
    "network": (UNetConfig, tuple(entry.name for entry in fields(UNetConfig))),
    "flow": (FlowConfig, tuple(entry.name for entry in fields(FlowConfig))),
    "sampler": (Sampler, tuple(entry.name for entry in fields(Sampler))),
    "training": (Optimization, tuple(entry.name for entry in fields(Optimization) if entry.name != "batch_size")),
}


class LFMAlgoConfig(BaseConfig):
    """robomimic's config with the sections above in `config.algo`."""

    ALGO_NAME = "lfm"

    def experiment_config(self) -> None:
        """As robomimic's, without videos: they need OpenGL."""
        super().experiment_config()
        self.experiment.render_video = False

    def train_config(self) -> None:
        """As robomimic's, with windows of To - 1 + seq_length = Tp steps, aligned as our chunks are.

        Runs lie below the working directory: robomimic's own default is beside its package.
        """
        super().train_config()
        self.train.output_dir = str(Path.cwd() / "runs" / "robomimic")
        chunk = ChunkConfig()
        self.train.frame_stack = chunk.n_obs_steps
        self.train.seq_length = chunk.horizon - chunk.n_obs_steps + 1
        self.train.batch_size = Optimization().batch_size
        self.train.hdf5_load_next_obs = False
        self.train.dataset_keys = ("actions",)

    def algo_config(self) -> None:
        """Our sections; `encode_low_dim` sends low-dimensional observations through robomimic's encoder too."""
        self.algo.optim_params = Config()  # robomimic makes an optimiser for each entry; ours is flow.Descent
        self.algo.encode_low_dim = False
        for section, (kind, names) in SECTIONS.items():
            defaults = kind()
            for name in names:
                value = getattr(defaults, name)
                self.algo[section][name] = list(value) if isinstance(value, tuple) else value


def train_config(config: Mapping[str, Any], steps: int = 1) -> TrainConfig:
    """Our config of a run with robomimic's; LFMError names a field of `config.algo` with an impossible value.

    `steps` is the number of optimiser steps per sub-flow.
    """
    train, algo = config["train"], config["algo"]
    To = train["frame_stack"]
    chunk = {"n_obs_steps": To, "horizon": To - 1 + train["seq_length"]}
    optimization = {"batch_size": train["batch_size"], "steps": steps}
    values = {section: _checked(section, algo[section]) for section in SECTIONS}
    return TrainConfig(
        output_dir="",
        data=DataConfig(path="train.data", **values["data"]),
        policy=ChunkConfig(**chunk, **values["policy"]),
        network=UNetConfig(**values["network"]),
        flow=FlowConfig(**values["flow"]),
        sampler=Sampler(**values["sampler"]),
        training=TrainingConfig(**optimization, **values["training"]),
        seed=train["seed"],
    )


def _checked(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a section, lists as tuples; LFMError for one of another kind than its default."""
    kind, names = SECTIONS[section]
    checked = {}
    for name in names:
        default = getattr(kind(), name)
        value = values.get(name, default)  # a checkpoint may be older than the field
        if not _alike(value, default):
            raise LFMError(f"algo.{section}.{name}: {value!r} is not like its default, {default!r}")
        checked[name] = _as_kind(value, default)
    return checked


def _alike(value: Any, default: Any) -> bool:
    """Whether JSON's value is of the default's kind: whole where that is; a number may stand for no number."""
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(_alike(entry, default[0]) for entry in value)
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value is None and default is None
    return not isinstance(default, int) or float(value).is_integer()


def _as_kind(value: Any, default: Any) -> Any:
    """The value in the type of the default that it is like."""
    if isinstance(default, tuple):
        return tuple(_as_kind(entry, default[0]) for entry in value)
    return int(value) if isinstance(default, int) and not isinstance(default, bool) else value
