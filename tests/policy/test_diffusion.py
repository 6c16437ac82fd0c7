"""The diffusion baseline against closed forms of its noise levels and of its samplers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import LFMError, Schedule
from lfm_policy.policy import DiffusionPolicy, DiffusionSettings
from lfm_policy.policy.diffusion import DiffusionConfig, NoisePrediction
from tests.policy.tiny import CONFIG, observations, tiny_spec

LEVELS = 100


def kept(k: Tensor) -> Tensor:
    """ᾱ_k of the squared-cosine schedule (Nichol & Dhariwal 2021, Eq. 17), by its product of bounded steps."""
    times = torch.arange(LEVELS + 1, dtype=torch.float64) / LEVELS
    bar = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0)[k]


class ExactNoise(nn.Module):
    """The noise in x_k where the data are one point: ε = (x_k - sqrt(ᾱ_k) x_0) / sqrt(1 - ᾱ_k)."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.point = nn.Parameter(point)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        bar = kept((t * LEVELS).round().long()).to(x.dtype)[:, None, None]
        return (x - bar.sqrt() * self.point) / (1 - bar).sqrt()


def policy_of(field: nn.Module, **settings: object) -> DiffusionPolicy:
    policy = DiffusionPolicy(tiny_spec(), DiffusionConfig(CONFIG.network, DiffusionSettings(**settings)))  # type: ignore[arg-type]
    policy.flow.fields[0] = field
    return policy.eval()


@pytest.mark.parametrize(("scheduler", "steps"), [("ddim", 1), ("ddim", 5), ("ddim", 16), ("ddpm", 100)])
def test_exact_noise_leads_to_the_data_in_any_number_of_steps(scheduler: str, steps: int) -> None:
    point = torch.rand(8, 3, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    policy = policy_of(ExactNoise(point), scheduler=scheduler, steps=steps)
    chunk = policy.predict_action(observations(4), torch.Generator().manual_seed(2))
    # float32's rounding, 6e-8, grows by 1 / sqrt(ᾱ) of the first level and again within the formula of the noise
    torch.testing.assert_close(chunk, point.expand(4, 8, 3), atol=1e-3, rtol=0)
    assert policy.nfe == steps


class GaussianNoise(nn.Module):
    """The mean noise in x_k where the data are N(m, s²): sqrt(1 - ᾱ_k) (x_k - sqrt(ᾱ_k) m) / (ᾱ_k s² + 1 - ᾱ_k)."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.anchor, self.mean, self.std = nn.Parameter(torch.zeros(())), mean, std

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        bar = kept((t * LEVELS).round().long()).to(x.dtype)[:, None, None]
        return (1 - bar).sqrt() * (x - bar.sqrt() * self.mean) / (bar * self.std**2 + 1 - bar)


@pytest.mark.parametrize(("scheduler", "steps"), [("ddim", 16), ("ddim", 50), ("ddim", 100), ("ddpm", 100)])
def test_samples_of_an_exact_model_have_the_datas_law(scheduler: str, steps: int) -> None:
    """Up to the error of their steps, which for Gaussian data is a closed form."""
    policy = policy_of(GaussianNoise(0.3, 0.2), scheduler=scheduler, steps=steps)
    chunk = policy.predict_action(observations(400), torch.Generator().manual_seed(2))
    # 9,600 numbers: standard errors of 0.002 for the mean, of 0.7 % for the standard deviation
    assert chunk.mean().item() == pytest.approx(0.3, abs=0.01)
    assert chunk.std().item() == pytest.approx(sampled_std(0.2, scheduler, steps), rel=0.03)


def sampled_std(std: float, scheduler: str, steps: int) -> float:
    """Of samples where the data are N(m, s²), from evenly spaced levels that begin at pure noise.

    With the mean x_0 of N(m, s²) given x_k, DDIM (Song et al. 2021, Eq. 12) and DDPM (Ho et al. 2020, Eq. 7) are linear
    in y = x_k - sqrt(ᾱ) m. diffusers takes each step over K // steps levels, even where its levels lie further apart.
    """
    variance = torch.ones((), dtype=torch.float64)
    for index in range(steps):
        level = round(LEVELS - index * LEVELS / steps) - 1
        below = level - LEVELS // steps
        bar = kept(torch.tensor(level))
        after = kept(torch.tensor(below)) if below >= 0 else torch.ones_like(bar)
        pull = bar.sqrt() * std**2 / (bar * std**2 + 1 - bar)  # (x_0 - m) / y
        if scheduler == "ddim":
            factor = after.sqrt() * pull + ((1 - after) / (1 - bar)).sqrt() * (1 - bar.sqrt() * pull)
            added = torch.zeros_like(bar)
        else:
            kept_now = bar / after
            factor = (after.sqrt() * (1 - kept_now) * pull + kept_now.sqrt() * (1 - after)) / (1 - bar)
            added = (1 - after) / (1 - bar) * (1 - kept_now)
        variance = factor**2 * variance + added
    return variance.sqrt().item()


def test_few_steps_begin_at_pure_noise_too() -> None:
    """A single one leads to the data's mean; from level 0 it would leave the noise as it is."""
    policy = policy_of(GaussianNoise(0.3, 0.2), steps=1)
    chunk = policy.predict_action(observations(400), torch.Generator().manual_seed(2))
    assert chunk.mean().item() == pytest.approx(0.3, abs=0.01)
    assert chunk.std().item() < 0.01


class NoNoise(GaussianNoise):
    """No noise in any x_k, so that all of it, x_k / sqrt(ᾱ_k), is taken for the chunk."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


def test_chunks_are_bounded_along_the_way_if_that_is_asked_for() -> None:
    largest = {}
    for clip in (True, False):
        policy = policy_of(NoNoise(0.0, 1.0), clip_sample=clip)
        largest[clip] = policy.predict_action(observations(4), torch.Generator().manual_seed(2)).abs().max().item()
    assert largest[True] <= 1
    assert largest[False] > 2


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_samples_of_gaussian_data_scatter_with_the_temperature(temperature: float) -> None:
    """DDIM maps noise z to m + s z where the data are N(m, s²)."""
    policy = policy_of(GaussianNoise(0.3, 0.2), steps=100, temperature=temperature)
    chunk = policy.predict_action(observations(400), torch.Generator().manual_seed(2))
    assert chunk.mean().item() == pytest.approx(0.3, abs=0.015)
    assert chunk.std().item() == pytest.approx(temperature * 0.2, abs=0.01)


def test_problems_are_noise_at_evenly_drawn_levels_of_the_cosine_schedule() -> None:
    x = torch.full((20_000, 2), 0.7)
    draw = NoisePrediction(DiffusionSettings()).draw(x, 1, Schedule(), torch.Generator().manual_seed(0))
    k = (draw.t * LEVELS).round().long()
    torch.testing.assert_close(draw.t, k.float() / LEVELS)
    bar = kept(k).float()[:, None]
    torch.testing.assert_close(draw.x, bar.sqrt() * x + (1 - bar).sqrt() * draw.target, atol=1e-5, rtol=0)
    counts = torch.bincount(k, minlength=LEVELS)
    assert len(counts) == LEVELS
    # 200 expected a level; five standard deviations
    assert (counts - 200).abs().max() < 5 * math.sqrt(200)
    assert draw.target.mean().abs() < 5 / math.sqrt(40_000)


def test_the_sampler_is_chosen_without_the_weights() -> None:
    policy = policy_of(ExactNoise(torch.zeros(8, 3)))
    assert policy.set_sampler("ddpm", 100).sampler == {"method": "ddpm", "steps": 100, "temperature": None}
    assert policy.set_sampler(temperature=0.5).config.diffusion == DiffusionSettings(
        scheduler="ddpm", steps=100, temperature=0.5
    )
    assert policy.set_sampler(steps=4).nfe == 4
    with pytest.raises(LFMError, match=r"diffusion\.scheduler: euler is no scheduler"):
        policy.set_sampler("euler")
    with pytest.raises(LFMError, match=r"diffusion\.temperature: -1 must be 0 or more"):
        policy.set_sampler(temperature=-1)
    with pytest.raises(LFMError, match=r"diffusion\.steps: 101 must lie between 1 and"):
        policy.set_sampler(steps=101)
    with pytest.raises(LFMError, match=r"diffusion\.steps: 60 steps of 1 levels do not span diffusion\.n_levels 100"):
        policy.set_sampler(steps=60)
    assert policy_of(ExactNoise(torch.zeros(8, 3))).set_sampler("ddpm").nfe == LEVELS
