"""Diffusion Policy on the same network: DDPM training, DDPM or DDIM sampling, by diffusers' schedulers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from lfm_policy.flow import LFMError, Regression, Schedule
from lfm_policy.flow.matching import MarginalsName
from lfm_policy.flow.random import normal, uniform
from lfm_policy.policy.base import FittedPolicy
from lfm_policy.policy.network import UNetConfig, build_networks
from lfm_policy.policy.sampler import checked_temperature, initial_noise
from lfm_policy.policy.spec import PolicySpec

SchedulerName = Literal["ddpm", "ddim"]


@dataclass(frozen=True)
class DiffusionSettings:
    """Noise levels and sampler of a diffusion model; the defaults are Diffusion Policy's, but for DDIM's 16 steps.

    Args:
        n_levels: K, noise levels of training.
        scheduler: `ddpm` or `ddim`.
        steps: evaluations of the network for one chunk, at most K; ddpm's own is K.
        clip_sample: bound the chunks predicted along the way to [-1, 1], which minmax-normalised actions keep.
        temperature: standard deviation of the noise that chunks begin from, 1 if not given; ddpm adds its own later on.
    """

    n_levels: int = 100
    scheduler: SchedulerName = "ddim"
    steps: int = 16
    clip_sample: bool = True
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.scheduler not in get_args(SchedulerName):
            raise LFMError(
                f"diffusion.scheduler: {self.scheduler} is no scheduler of a diffusion model; choose ddpm or ddim"
            )
        object.__setattr__(self, "temperature", checked_temperature("diffusion.temperature", self.temperature))
        if not 1 <= self.steps <= self.n_levels:
            raise LFMError(f"diffusion.steps: {self.steps} must lie between 1 and diffusion.n_levels {self.n_levels}")
        stride = self.n_levels // self.steps
        if stride * self.steps < 0.9 * self.n_levels:
            # diffusers' schedulers take strides of whole levels, and would leave out a part of the noise
            raise LFMError(
                f"diffusion.steps: {self.steps} steps of {stride} levels do not span diffusion.n_levels "
                f"{self.n_levels}; choose a number that divides it, or almost"
            )

    def make_scheduler(self) -> Any:
        """diffusers' scheduler, at its `steps` noise levels."""
        from diffusers.schedulers import DDIMScheduler, DDPMScheduler

        # what Diffusion Policy's low-dimensional configurations set; both predict the noise. But for the spacing: from
        # "leading" levels few steps begin far from pure noise, 16 of 100 at level 90, 1 at level 0
        common: dict[str, Any] = {
            "num_train_timesteps": self.n_levels,
            "beta_schedule": "squaredcos_cap_v2",
            "clip_sample": self.clip_sample,
            "prediction_type": "epsilon",
            "timestep_spacing": "trailing",
        }
        made: dict[str, Any] = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
        scheduler = made[self.scheduler](**common)
        scheduler.set_timesteps(self.steps)
        return scheduler


class NoisePrediction:
    """Objective of a diffusion model: the noise ε of x_k = sqrt(ᾱ_k) x + sqrt(1 - ᾱ_k) ε at a level k drawn evenly.

    The network sees k as the time k / K (Ho et al. 2020, Algorithm 1).
    """

    marginals: MarginalsName = "exact"

    def __init__(self, settings: DiffusionSettings) -> None:
        self.settings = settings
        self._scheduler = settings.make_scheduler()

    def draw(self, x: Tensor, n: int, schedule: Schedule, generator: torch.Generator) -> Regression:
        """Regression problem on data x (B, *shape)."""
        levels = self.settings.n_levels
        k = (uniform(len(x), x, generator) * levels).long().clamp(max=levels - 1)
        noise = normal(x.shape, x, generator)
        return Regression(self._scheduler.add_noise(x, noise, k), k / levels, noise)

    def check_condition(self, cond: Tensor | None) -> None:
        """Conditions are welcome."""


@dataclass(frozen=True)
class DiffusionConfig:
    """All that builds a `DiffusionPolicy` from its spec."""

    network: UNetConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)


class DiffusionPolicy(FittedPolicy):
    """Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): one network predicts the noise, run from noise."""

    kind: ClassVar[str] = "diffusion"

    def __init__(self, spec: PolicySpec, config: DiffusionConfig | None = None, seed: int = 0) -> None:
        config = config or DiffusionConfig()
        super().__init__(spec, build_networks(spec, config.network, Schedule(), 1, seed))
        self.config = config

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], cond: Tensor, generator: torch.Generator | None) -> Tensor:
        """Normalised chunks of `shape` (B, Tp, Da) denoised from fresh noise, given cond (B, To · D)."""
        settings, network = self.config.diffusion, self.flow.field(1)
        scheduler = settings.make_scheduler()
        x = initial_noise(shape, cond, generator, settings.temperature)
        for k in scheduler.timesteps:
            t = torch.full((len(x),), int(k) / settings.n_levels, dtype=x.dtype, device=x.device)
            x = scheduler.step(network(x, t, cond), int(k), x, generator=generator).prev_sample
        return x

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for one chunk."""
        return self.config.diffusion.steps

    def describe(self) -> dict[str, Any]:
        """The settings that `from_description` needs, JSON-able."""
        return asdict(self.config)

    @classmethod
    def from_description(cls, spec: PolicySpec, values: dict[str, Any]) -> Self:
        """An untrained policy from its `describe`."""
        network = UNetConfig.from_dict(values["network"])
        return cls(spec, DiffusionConfig(network, DiffusionSettings(**values["diffusion"])))

    @property
    def sampler(self) -> dict[str, Any]:
        """The scheduler, its steps and temperature, JSON-able."""
        settings = self.config.diffusion
        return {"method": settings.scheduler, "steps": settings.steps, "temperature": settings.temperature}

    def set_sampler(
        self, method: str | None = None, steps: int | None = None, temperature: float | None = None
    ) -> Self:
        """Draw by another scheduler (`ddpm`, `ddim`), number of steps (ddpm's own is K) or temperature; returns it."""
        settings = self.config.diffusion
        own = settings.n_levels if method == "ddpm" != settings.scheduler else settings.steps
        given: Any = {"scheduler": method or settings.scheduler, "steps": own if steps is None else steps}
        given |= {} if temperature is None else {"temperature": temperature}
        self.config = replace(self.config, diffusion=replace(settings, **given))
        return self
