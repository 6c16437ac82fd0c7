"""Local Flow Matching as a robomimic algorithm."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import torch
from robomimic.algo import PolicyAlgo, register_algo_factory_func
from torch import Tensor, nn

from lfm_policy.flow import FitOptions, LFMError
from lfm_policy.flow.random import named_seed
from lfm_policy.flow.stages import Stage, StagedFit, plan_stages
from lfm_policy.integrations.robomimic import dataset
from lfm_policy.integrations.robomimic.config import train_config
from lfm_policy.integrations.robomimic.policy import build_policy
from lfm_policy.integrations.robomimic.schedule import whole_epochs
from lfm_policy.policy.network import check_horizon
from lfm_policy.training import TrainConfig


@register_algo_factory_func("lfm")
def _choose(algo_config: Any) -> tuple[type, dict[str, Any]]:
    return LFM, {}


class LFM(PolicyAlgo):
    """Algorithm 1 on the batches of robomimic's loader.

    `train.num_epochs` are divided over the stages (see `whole_epochs`); with pushed marginals a batch is pushed
    through the finished sub-flows when it comes. EMA weights act, push and are saved. What depends on the dataset
    (the normalisers, how many steps an epoch has) is read from it when training begins; a checkpoint needs no dataset.
    """

    def _create_networks(self) -> None:
        if self.goal_shapes:
            raise LFMError("observation.modalities.goal: lfm has no goals; leave it empty")
        self.settings = train_config(self.global_config)
        _check_length(self.settings)
        self.low_dim = [key for key in self.obs_shapes if key in self.obs_config.modalities.obs.low_dim]
        encoded = self.algo_config.encode_low_dim or len(self.low_dim) < len(self.obs_shapes)
        encoder_config = self.obs_config.encoder if encoded else None
        self.policy = build_policy(self.settings, self.obs_shapes, self.ac_dim, encoder_config)
        self.nets = nn.ModuleDict({"policy": self.policy}).float().to(self.device).eval()
        self._fit: StagedFit | None = None
        self._saved: dict[str, Any] | None = None  # of a run that goes on
        self._normalizers_known = False
        self._held_out = (0, 0)  # epoch, batches of it seen
        self._episode = 0

    def process_batch_for_training(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Histories of To observations (B, To, …) and chunks of Tp actions (B, Tp, Da), float32 on the device."""
        obs = {key: batch["obs"][key][:, : self.policy.spec.n_obs_steps] for key in self.obs_shapes}
        to = {"device": self.device, "dtype": torch.float32}
        return {"obs": {key: value.to(**to) for key, value in obs.items()}, "actions": batch["actions"].to(**to)}

    def train_on_batch(self, batch: dict[str, Any], epoch: int, validate: bool = False) -> dict[str, Any]:
        """One optimiser step; with `validate` the loss of the EMA weights, from the same draws in every epoch."""
        fit = self._training()
        x = self.policy.action_normalizer.normalize(batch["actions"])
        cond = self.policy.condition({key: value.flatten(2) for key, value in batch["obs"].items()})
        if validate:
            return {"loss": self._held_out_loss(fit, x, cond, epoch), "subflow": fit.current.n}
        if fit.done:
            raise LFMError(f"train.num_epochs: all {fit.total_steps} steps of the {len(fit.stages)} stages are taken")
        report = fit.step_from_data(x, cond)
        self.policy.n_trained.fill_(self._usable(report.n))
        return {"loss": report.loss, "subflow": report.n, "learning_rate": report.learning_rate}

    def log_info(self, info: dict[str, Any]) -> dict[str, float]:
        """Loss, sub-flow in training (0: all stretches together) and learning rate, by robomimic's names."""
        names = {"loss": "Loss", "subflow": "Subflow", "learning_rate": "Optimizer/policy0_lr"}
        return OrderedDict((name, float(info[key])) for key, name in names.items() if key in info)

    def get_action(self, obs_dict: dict[str, Tensor], goal_dict: dict[str, Tensor] | None = None) -> Tensor:
        """The next action (1, Da) for observations (1, …), or (1, To, …) as robomimic's FrameStackWrapper has them.

        Of these the newest is taken: the policy keeps its own history and its queue of actions.
        """
        newest = {}
        for key, shape in self.obs_shapes.items():
            value = obs_dict[key]
            if len(value) != 1:
                raise LFMError(f"observation {key}: {len(value)} environments at once; lfm acts in one at a time")
            frame = value[0, -1] if value.dim() == len(shape) + 2 else value[0]
            newest[key] = frame.flatten().cpu().numpy()
        return torch.from_numpy(self.policy.act(newest))[None]

    def reset(self) -> None:
        """Begin an episode; its noise is a function of torch's seed, which robomimic's scripts set, and its number."""
        self.policy.reset(named_seed(torch.initial_seed(), "robomimic episode", self._episode))
        self._episode += 1

    def set_train(self) -> None:
        """Begin to train. What trains are copies: the averages in `nets` push and act, and stay as they are."""
        self._training()
        self.nets.eval()

    def serialize(self) -> dict[str, Any]:
        """Weights and normalisers, and what continues the training."""
        training = self._fit.state_dict() if self._fit else self._saved
        return {"nets": self.nets.state_dict(), "training": training}

    def deserialize(self, model_dict: dict[str, Any], load_optimizers: bool = False) -> None:
        """Load what `serialize` gave; `load_optimizers` (robomimic 0.5, --resume) goes on training from there."""
        self.nets.load_state_dict(model_dict["nets"])
        self._normalizers_known, self._fit = True, None
        self._saved = model_dict["training"] if load_optimizers else None

    def _training(self) -> StagedFit:
        """The training, begun when it is first asked for: a policy that only acts needs no dataset."""
        if self._fit is None:
            _keep_threads()
            train, data = self.global_config.train, self.settings.data
            if not self._normalizers_known:
                spec, policy = self.policy.spec, self.policy
                observations = dataset.fit_observation_normalizer(
                    train, spec.observation, self.low_dim, data.observation_normalizer
                )
                actions = dataset.fit_action_normalizer(train, self.ac_dim, data.action_normalizer)
                policy.observation_normalizer.load_state_dict(observations.state_dict())
                policy.action_normalizer.load_state_dict(actions.state_dict())
                self._normalizers_known = True
            options, stages = self._plan()
            self._fit = StagedFit(self.policy.flow, options, self.settings.seed, stages)
            if self._saved is not None:
                _check_plan(self._saved["stages"], stages)
                self._fit.load_state_dict(self._saved)
        return self._fit

    def _plan(self) -> tuple[FitOptions, list[Stage]]:
        """How each stage is fitted, and the stages over the run's epochs."""
        train = self.global_config.train
        batches = dataset.n_windows(train) // train.batch_size
        if batches == 0:
            raise LFMError(
                f"train.batch_size: {train.batch_size} is more than the data's {dataset.n_windows(train)} windows, and "
                "robomimic drops batches that are not full; give a smaller one"
            )
        epoch = self.global_config.experiment.epoch_every_n_steps or batches
        total, shared = train.num_epochs * epoch, self.settings.flow.shared_start
        left = (total - shared) // self.policy.flow.n_subflows
        if left < 1:
            raise LFMError(
                f"train.num_epochs: {train.num_epochs} of {epoch} steps leave none for "
                f"{self.policy.flow.n_subflows} sub-flows after algo.flow.shared_start {shared}; give more epochs"
            )
        options = train_config(self.global_config, left).fit_options(0)
        return options, whole_epochs(plan_stages(self.policy.flow, options), train.num_epochs, epoch)

    def _held_out_loss(self, fit: StagedFit, x: Tensor, cond: Tensor, epoch: int) -> float:
        seen, number = self._held_out
        number = number + 1 if seen == epoch else 0
        self._held_out = (epoch, number)
        return fit.held_out(fit.pushed_so_far(x, cond, "initial_diffusion of held-out", number), cond, number)

    def _usable(self, n: int) -> int:
        """How many sub-flows may act while sub-flow n trains; all, once each began from a network that knows them."""
        everything = (n > 0 and self.settings.flow.shared_start > 0) or self.policy.flow.shares_weights
        return self.policy.flow.n_subflows if everything else n


def _keep_threads() -> None:
    """Compute with the user's OMP_NUM_THREADS: train.py sets two over it, many times slower on a busy machine."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        torch.set_num_threads(int(wanted))


def _check_length(settings: TrainConfig) -> None:
    To, horizon = settings.policy.n_obs_steps, settings.policy.horizon
    try:
        check_horizon(horizon, settings.network)
    except LFMError as error:
        told = f"train.seq_length: with train.frame_stack {To} a window is {To} - 1 + {horizon - To + 1} steps long"
        raise LFMError(f"{told}; {error}") from error


def _check_plan(saved: Any, planned: list[Stage]) -> None:
    saved, now = [tuple(stage) for stage in saved], [tuple(stage) for stage in planned]
    if saved != now:
        raise LFMError(
            f"train.num_epochs: the checkpoint trains (sub-flow, steps) {saved}, this config {now}; "
            "resume with the epochs, steps and data it began with"
        )
