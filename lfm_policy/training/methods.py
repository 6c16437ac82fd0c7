"""Ways to learn action chunks from demonstrations: each with what its networks regress on and how chunks are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from lfm_policy.flow import FIXED_STEP, LFMError, Matching, Objective
from lfm_policy.policy import ChainConfig, LFMConfig, LFMPolicy, PolicySpec
from lfm_policy.policy.base import FittedPolicy
from lfm_policy.policy.behavior_cloning import (
    ChunkRegression,
    MIPConfig,
    MIPPolicy,
    RegressionConfig,
    RegressionPolicy,
    TwoStepRegression,
)
from lfm_policy.policy.diffusion import DiffusionConfig, DiffusionPolicy, NoisePrediction, SchedulerName

if TYPE_CHECKING:
    from lfm_policy.training.config import FlowConfig, TrainConfig

MethodName = Literal["lfm", "paper", "small", "fm", "interflow", "diffusion", "regression", "mip"]

# one flow from data to noise; its ends are independent there, whatever the coupling
GLOBAL: dict[str, Any] = {
    "n_subflows": 1,
    "share_weights": False,
    "coupling": "fresh",
    "marginals": "exact",
    "shared_start": 0,
    "warm_start": False,
}

# what one network on all stretches together learns (`draw_whole_clock`)
WHOLE_CLOCK: dict[str, Any] = {
    "interpolant": "geodesic",
    "coupling": "common",
    "marginals": "exact",
    "time_alpha": 1.0,
    "time_beta": 1.0,
    "warm_start": False,
}

# no flow at all: what is learned is the demonstrated chunk itself
DIRECT: dict[str, Any] = {**GLOBAL, "initial_diffusion": 0.0}


def _solved(config: TrainConfig, method: str | None, steps: int | None, temperature: float | None) -> TrainConfig:
    return replace(config, sampler=_with(config.sampler, method=method, steps=steps, temperature=temperature))


def _scheduled(config: TrainConfig, method: str | None, steps: int | None, temperature: float | None) -> TrainConfig:
    return replace(config, diffusion=_with(config.diffusion, scheduler=method, steps=steps, temperature=temperature))


def _with(settings: Any, **given: Any) -> Any:
    """Settings with those given that are not None."""
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Method:
    """A way to learn.

    Attributes:
        build: its untrained policy, which says how chunks are drawn, from config, spec and seed.
        objective: what its networks regress on.
        flow: fields of `flow` that it fixes.
        one_network: whether one network does it all, for which `global_channels` are, rather than one a sub-flow.
        samplers: methods by which its chunks may be drawn.
        sampled: a config whose chunks are drawn by one of these, in a number of steps, at a temperature, each as it was
            if None; LFMError where that cannot be.
    """

    build: Callable[[TrainConfig, PolicySpec, int], FittedPolicy]
    objective: Callable[[TrainConfig], Objective]
    flow: dict[str, Any]
    one_network: bool = False
    samplers: tuple[str, ...] = tuple(FIXED_STEP)
    sampled: Callable[[TrainConfig, str | None, int | None, float | None], TrainConfig] = _solved

    def settle(self, config: TrainConfig) -> dict[str, Any]:
        """Fields of a config that this method changes, by name; none where they are as it wants them.

        Networks without a shared start take its steps as their own, each its part, and one network instead of N sees
        as many batches as each of them: the same arithmetic. LFMError where the config cannot be settled so.
        """
        flow, training, network = config.flow, config.training, config.network
        if self.flow.get("shared_start") == 0 and flow.shared_start:
            if training.steps is None:
                raise LFMError(
                    f"flow.shared_start: {flow.shared_start} needs training.steps, not training.epochs, with method "
                    f"{config.method}, which takes them over"
                )
            training = replace(training, steps=training.steps + flow.shared_start // flow.n_subflows)
        if self.one_network and config.global_channels is not None:
            network = replace(network, channels=config.global_channels)
        elif self.one_network and flow.n_subflows > 1:
            raise LFMError(
                f"global_channels: method {config.method} has one network instead of flow.n_subflows "
                f"{flow.n_subflows}; give the widths that make it as large as these together"
            )
        changed = {"flow": replace(flow, **self.flow), "training": training, "network": network}
        return {name: value for name, value in changed.items() if value != getattr(config, name)}


def _lfm(config: TrainConfig, spec: PolicySpec, seed: int) -> LFMPolicy:
    return LFMPolicy(spec, lfm_config(config), seed)


def _matching(config: TrainConfig) -> Matching:
    return matching_of(config.flow)


def matching_of(flow: FlowConfig) -> Matching:
    """A flow's own objective."""
    return Matching(flow.interpolant, flow.coupling, flow.marginals, flow.time_alpha, flow.time_beta)


def lfm_config(config: TrainConfig) -> LFMConfig:
    """What builds the policy of a flow."""
    flow = config.flow
    chain = ChainConfig(flow.n_subflows, flow.c, flow.rho, flow.share_weights)
    return LFMConfig(config.network, chain, config.sampler)


METHODS: dict[str, Method] = {
    # local flow matching, as `flow` says
    "lfm": Method(_lfm, _matching, {}),
    # local flow matching with the paper's choices: pushed marginals, fresh noise, straight lines (Algorithm 1)
    "paper": Method(
        _lfm,
        _matching,
        {
            "interpolant": "ot",
            "coupling": "fresh",
            "marginals": "pushed",
            "share_weights": False,
            "shared_start": 0,
            "warm_start": False,
            "initial_diffusion": 0.0,
        },
    ),
    # one network of a sub-flow's size for all stretches, with all their batches: the control of local flows
    "small": Method(_lfm, _matching, {"share_weights": True, **WHOLE_CLOCK}),
    # flow matching: N = 1 with straight lines
    "fm": Method(_lfm, _matching, {**GLOBAL, "interpolant": "ot"}, one_network=True),
    # InterFlow: N = 1 with the trigonometric interpolant
    "interflow": Method(
        _lfm,
        _matching,
        {**GLOBAL, "interpolant": "trigonometric"},
        one_network=True,
    ),
    # Diffusion Policy: one network predicts the noise, `diffusion` says how it is run
    "diffusion": Method(
        lambda config, spec, seed: DiffusionPolicy(spec, DiffusionConfig(config.network, config.diffusion), seed),
        lambda config: NoisePrediction(config.diffusion),
        DIRECT,
        one_network=True,
        samplers=get_args(SchedulerName),
        sampled=_scheduled,
    ),
    # behaviour cloning by least squares: no noise, one evaluation
    "regression": Method(
        lambda config, spec, seed: RegressionPolicy(spec, RegressionConfig(config.network), seed),
        lambda config: ChunkRegression(),
        DIRECT,
        one_network=True,
        samplers=(),
    ),
    # the minimal iterative policy: a regression, then one denoising step
    "mip": Method(
        lambda config, spec, seed: MIPPolicy(spec, MIPConfig(config.network, config.mip), seed),
        lambda config: TwoStepRegression(config.mip),
        DIRECT,
        one_network=True,
        samplers=(),
    ),
}
"""Every method by name."""
