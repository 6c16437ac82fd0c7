"""The typed configuration of a training run: one YAML file, every field also a dotted flag."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from lfm_policy.data.action_space import Representation, Rotation
from lfm_policy.data.normalizer import Mode
from lfm_policy.evaluation.fields import UNESSENTIAL, differences, flat
from lfm_policy.flow import FitOptions, LFMError, Objective, Optimization, Solver
from lfm_policy.flow.interpolant import InterpolantName
from lfm_policy.flow.matching import CouplingName, MarginalsName
from lfm_policy.policy import DiffusionSettings, LFMConfig, MIPSettings, Sampler, UNetConfig
from lfm_policy.training.folder import plain
from lfm_policy.training.methods import METHODS, WHOLE_CLOCK, MethodName, lfm_config, matching_of

# What a number must be, how to test it (NaN fails all), and the fields that it holds for; null passes.
RANGES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "1 or more",
        lambda value: value >= 1,
        (
            "policy.n_obs_steps",
            "policy.horizon",
            "policy.n_action_steps",
            "diffusion.n_levels",
            "network.kernel_size",
            "network.n_groups",
            "network.embedding_dim",
            "flow.n_subflows",
            "training.steps",
            "training.epochs",
            "training.accumulate",
            "training.batch_size",
            "training.log_every",
            "training.valid_every",
            "training.checkpoint_every",
            "rollout.every",
            "rollout.n_procs",
            "threads",
            "stop_after",
        ),
    ),
    (
        "positive and finite",
        lambda value: 0 < value < math.inf,
        (
            "flow.c",
            "flow.rho",
            "flow.time_alpha",
            "flow.time_beta",
            "training.learning_rate",
            "training.max_grad_norm",
        ),
    ),
    (
        "0 or more and finite",
        lambda value: 0 <= value < math.inf,
        (
            "data.max_memory_gb",
            "flow.shared_start",
            "flow.initial_diffusion",
            "training.weight_decay",
            "training.warmup_steps",
            "training.ema_power",
            "rollout.n_rollouts",
            "rollout.seed",
        ),
    ),
    (
        "0 or more and below 1",
        lambda value: 0 <= value < 1,
        ("data.valid_fraction", "training.beta1", "training.beta2"),
    ),
    ("0 to 1", lambda value: 0 <= value <= 1, ("training.ema_maximum",)),
)

LOW_DIM_KEYS = ("object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")


@dataclass(frozen=True)
class DataConfig:
    """Which demonstrations, observations and actions to learn from.

    Args:
        path: a robomimic HDF5 file.
        obs_keys: observations by name, in the order in which they are joined.
        representation: `delta` reads the dataset `actions`, `absolute` reads `actions_abs`.
        rotation: how absolute rotations are coded: `axis_angle` or `rotation_6d`.
        filter_key: only the demonstrations of this mask.
        valid_fraction: episodes held out where the file has no masks train and valid, of mask train if it has that.
        observation_normalizer: `minmax`, `standard` or `identity`.
        action_normalizer: `minmax`, `standard` or `identity`.
        max_memory_gb: larger files are read lazily.
        check_version: refuse a file of another robosuite version than the installed one.
    """

    path: str = ""
    obs_keys: tuple[str, ...] = LOW_DIM_KEYS
    representation: Representation = "delta"
    rotation: Rotation = "axis_angle"
    filter_key: str | None = None
    valid_fraction: float = 0.02
    observation_normalizer: Mode = "minmax"
    action_normalizer: Mode = "minmax"
    max_memory_gb: float = 8.0
    check_version: bool = True


@dataclass(frozen=True)
class ChunkConfig:
    """Time steps of a policy.

    Args:
        n_obs_steps: To, observations the policy sees.
        horizon: Tp, actions it predicts; divisible by 2^(levels of the network - 1).
        n_action_steps: Ta, actions executed before it predicts again.
    """

    n_obs_steps: int = 2
    horizon: int = 16
    n_action_steps: int = 8


@dataclass(frozen=True)
class FlowConfig:
    """The chain of sub-flows and where its training pairs come from; the paper's choices are method `paper`.

    The defaults are what docs/what_works.md found best for a small budget.

    Args:
        n_subflows: N; 1 is a single flow from data to noise (method `fm`: flow matching's straight one).
        c: first step size of the schedule.
        rho: ratio of successive step sizes.
        share_weights: one network for all sub-flows, which learns all stretches together, as a shared start does.
        interpolant: `ot`, `trigonometric` or `geodesic`.
        coupling: `fresh` or `common` (the latter with exact marginals).
        marginals: `pushed` (Algorithm 1) or `exact`.
        time_alpha: first parameter of the Beta distribution of times.
        time_beta: second parameter of it.
        shared_start: steps of training one network on all stretches before it is copied.
        warm_start: begin sub-flow n + 1 with the weights of sub-flow n.
        initial_diffusion: OU time by which the data are diffused before all else.
        push_method: solver that pushes the data on.
        push_steps: its steps per sub-flow.
        push_batch_size: samples that are pushed at a time.
    """

    n_subflows: int = 4
    c: float = 0.15
    rho: float = 1.25
    share_weights: bool = False
    interpolant: InterpolantName = "geodesic"
    coupling: CouplingName = "common"
    marginals: MarginalsName = "exact"
    time_alpha: float = 1.0
    time_beta: float = 1.0
    shared_start: int = 0
    warm_start: bool = False
    initial_diffusion: float = 0.0
    push_method: Literal["euler", "midpoint", "heun", "rk4", "dopri5"] = "midpoint"
    push_steps: int = 4
    push_batch_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("push_steps", "push_batch_size"):
            if getattr(self, name) < 1:
                raise LFMError(f"flow.{name}: {getattr(self, name)} must be 1 or more")
        for name, value in WHOLE_CLOCK.items() if self.share_weights and self.n_subflows > 1 else ():
            if getattr(self, name) != value:
                raise LFMError(
                    f"flow.{name}: {getattr(self, name)} has no meaning with flow.share_weights, whose one network "
                    f"learns all stretches together; leave it out, which is {value}"
                )


@dataclass(frozen=True)
class TrainingConfig(Optimization):
    """Optimisation of each network; steps and schedules are per sub-flow.

    Args:
        steps: optimiser steps per sub-flow.
        epochs: passes over the training windows per sub-flow, instead of steps; 200 where neither is given.
        log_every: steps between log entries.
        valid_every: steps between held-out evaluations.
        checkpoint_every: steps between checkpoints, counted over all sub-flows.
    """

    steps: int | None = None
    epochs: int | None = None
    log_every: int = 50
    valid_every: int = 500
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise LFMError(
                f"training.epochs: {self.epochs} beside training.steps {self.steps} says two lengths; set one to null, "
                "as --training.steps null"
            )

    def steps_over(self, n_windows: int) -> int:
        """Optimiser steps per sub-flow on so many training windows."""
        return -(-self.passes * n_windows // self.batch_size) if self.steps is None else self.steps

    @property
    def passes(self) -> int:
        """Over the training windows, where steps are not given."""
        return 200 if self.epochs is None else self.epochs


@dataclass(frozen=True)
class RolloutConfig:
    """Rollouts while the last sub-flow trains, and after it.

    Args:
        n_rollouts: episodes each time; 0 for none.
        every: steps between them, counted over all sub-flows.
        seed: first seed; final figures should use others.
        n_procs: simulator processes.
    """

    n_rollouts: int = 0
    every: int = 5000
    seed: int = 50_000
    n_procs: int = 1


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        output_dir: folder of the run: config.yaml, metrics.jsonl, tensorboard/, checkpoints/.
        data: demonstrations, observations, actions.
        method: `lfm`; `paper` is LFM with the paper's choices, `small` one network of a sub-flow's size for all
            stretches; `fm`, `interflow`, `diffusion`, `regression` and `mip` have one network for all. Each fixes
            what it must of `flow`, and trains with the same arithmetic as `lfm`.
        policy: time steps.
        network: sizes of one sub-flow's UNet.
        global_channels: widths instead of network.channels for methods with one network, for as many parameters as N.
        flow: the chain of sub-flows and its training pairs.
        sampler: how flows are solved when the policy acts, and from what noise.
        diffusion: noise levels and sampler of `diffusion`.
        mip: second step of `mip`.
        training: optimisation.
        rollout: rollouts during training.
        seed: of weights, data order and noise.
        device: `cpu`, `cuda`, …
        threads: CPU threads; torch's own choice if not given. One is safest where other programs compute too.
        resume: continue the run in output_dir.
        overwrite: replace the run in output_dir.
        stop_after: stop after that many steps of this session, resumable.
    """

    output_dir: str
    data: DataConfig = field(default_factory=DataConfig)
    method: MethodName = "lfm"
    policy: ChunkConfig = field(default_factory=ChunkConfig)
    network: UNetConfig = field(default_factory=UNetConfig)
    global_channels: tuple[int, ...] | None = None
    flow: FlowConfig = field(default_factory=FlowConfig)
    sampler: Sampler = field(default_factory=Sampler)
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)
    mip: MIPSettings = field(default_factory=MIPSettings)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False
    stop_after: int | None = None

    def __post_init__(self) -> None:
        if not self.data.path:
            raise LFMError("data.path: no dataset given; add --data.path FILE")
        twice = [key for key in self.data.obs_keys if self.data.obs_keys.count(key) > 1]
        if twice:
            raise LFMError(f"data.obs_keys: names {twice[0]} twice; name each observation once")
        if self.sampler.evaluations is None:
            raise LFMError(
                f"sampler.method: {self.sampler.method} takes no fixed time, which a control loop needs; use midpoint"
            )
        self._check_ranges()
        if self.method not in METHODS:
            raise LFMError(f"method: {self.method} is not known; choose from {', '.join(METHODS)}")
        if self.method == "diffusion" and self.diffusion.clip_sample and self.data.action_normalizer != "minmax":
            raise LFMError(
                "diffusion.clip_sample: bounds actions to [-1, 1], which data.action_normalizer "
                f"{self.data.action_normalizer} does not; set it to false, or data.action_normalizer to minmax"
            )
        for name, value in METHODS[self.method].settle(self).items():
            object.__setattr__(self, name, value)  # frozen for everybody else

    def _check_ranges(self) -> None:
        values = flat(self.to_dict())
        for told, fits, names in RANGES:
            for name in names:
                if values[name] is not None and not fits(values[name]):
                    raise LFMError(f"{name}: {values[name]} must be {told}")

    def lfm(self) -> LFMConfig:
        """What builds the policy of a flow."""
        return lfm_config(self)

    def fit_options(self, n_windows: int) -> FitOptions:
        """What fits the method's networks to `n_windows` training windows."""
        return fit_options(self.training, self.flow, n_windows, METHODS[self.method].objective(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return plain(asdict(self))

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields whose values would make a resumed run another run, as `field: old, now new`."""
        return differences(as_now(other), self.to_dict(), UNESSENTIAL)


def as_now(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved config without the epochs that earlier versions named, with no effect, beside steps."""
    training = saved.get("training") or {}
    return saved if training.get("steps") is None else {**saved, "training": {**training, "epochs": None}}


def fit_options(
    training: TrainingConfig, flow: FlowConfig, n_samples: int, objective: Objective | None = None
) -> FitOptions:
    """What fits networks to so many samples; the objective is the flow's own if not given."""
    return FitOptions(
        steps=training.steps_over(n_samples),
        **{entry.name: getattr(training, entry.name) for entry in fields(Optimization)},
        matching=objective or matching_of(flow),
        shared_start=flow.shared_start,
        warm_start=flow.warm_start,
        initial_diffusion=flow.initial_diffusion,
        push_solver=Solver(flow.push_method, flow.push_steps),
        push_batch_size=flow.push_batch_size,
    )
