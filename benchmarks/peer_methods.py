"""How each method of benchmarks/peers.py is trained within its wall-clock, and becomes a density."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.widths import parameters, width_of
from lfm_policy.density import LocalFlowDensity
from lfm_policy.density.fitting import DensityFitter
from lfm_policy.flow import LocalFlow, Optimization, Schedule, Solver, converged_log_prob, named_generator
from lfm_policy.flow.local_flow import log_standard_normal
from lfm_policy.flow.optimization import Descent
from lfm_policy.flow.random import signs
from lfm_policy.flow.source import BatchOrder
from lfm_policy.nets import MLP

LOOKS = 40  # at the validation part, over a whole training
LOOKING, PUSHING = 0.15, 0.2  # shares of a budget that looks and pushes may take at most
WARMING, TIMING = 0.01, 0.03  # shares of a budget, beside it, in which steps warm up and are timed
WATCH, EXACT_TRACE_BELOW, PROBES = Solver("rk4", steps=16), 17, 4  # lfm's looks: four such steps in each of 4 sub-flows
MIXTURE_ROWS = 100_000  # expectation maximisation takes all rows at every step

LogProb = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A data set as it is asked here.

    `lengths` are the trainings that a budget is divided into, as shares of it; `ridges` the variances that a mixture
    may add to its covariances' diagonals; `sizes` what `load_table` is told.
    """

    seeds: tuple[int, ...]
    lengths: tuple[float, ...]
    spline: Mapping[str, Any]
    ridges: tuple[float, ...]
    sizes: Mapping[str, Any] = field(default_factory=dict)


class Parts(NamedTuple):
    """Whitened rows (M, d) in float64, and what a log-likelihood of them gains in other units, in nats."""

    train: Tensor
    valid: Tensor
    test: Tensor
    to_standardised: float
    to_own: float
    truth: Tensor | None  # log p (M,) of the test rows in the table's own units, where it is known


class Fitted(NamedTuple):
    """A density of whitened rows (B, d) -> nats (B,), the seconds its training took, and facts about it."""

    log_prob: LogProb
    seconds: float
    facts: dict[str, Any]


class Recipe(NamedTuple):
    """How a network becomes a density.

    `loss` of a batch is what a step descends; `watched` is a quick log p of rows in float32; `log_prob` is that which
    is reported, of rows in float64.
    """

    network: nn.Module
    loss: Callable[[nn.Module, Tensor], Tensor]
    watched: Callable[[nn.Module, Tensor], Tensor]
    log_prob: Callable[[nn.Module, Tensor], Tensor]
    learning_rate: float
    batch_size: int = LocalFlowDensity().batch_size


class ReversedTime(nn.Module):
    """A field from noise at t = 0 to data at t = 1, as one on our clock: from data at 0 to noise at 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, d), tau (B,) -> velocity per unit of tau (B, d)."""
        return -self.network(x, 1 - tau)


def as_local_flow(network: nn.Module) -> LocalFlow:
    """The chain of one sub-flow whose pull is the flow of `network` from noise at t = 0 to data at t = 1."""
    return LocalFlow([ReversedTime(network)], Schedule())


def best_length(fit: Callable[[float], Fitted], parts: Parts, problem: Problem, seconds: float) -> Fitted:
    """The training of `problem.lengths` whose density is best on the validation part; the seconds of all."""
    each = [fit(share * seconds) for share in problem.lengths]
    if len(each) == 1:
        return each[0]
    scores = [found.log_prob(parts.valid).mean().item() for found in each]
    # a training that diverged is never the best, and nan compares with nothing
    chosen = max(range(len(each)), key=lambda i: scores[i] if math.isfinite(scores[i]) else -math.inf)
    facts = {**each[chosen].facts, "length": problem.lengths[chosen]}
    return Fitted(each[chosen].log_prob, sum(found.seconds for found in each), facts)


def fit_local_flow(parts: Parts, problem: Problem, seconds: float, seed: int, preset: str = "default") -> Fitted:
    """`LocalFlowDensity` with the settings of a preset and as many steps as fit."""
    return best_length(lambda budget: _local_flow(parts, budget, seed, preset), parts, problem, seconds)


def _local_flow(parts: Parts, seconds: float, seed: int, preset: str) -> Fitted:
    density = LocalFlowDensity.preset(preset, normalizer="none")  # the rows are whitened already
    trial = density.begin(parts.train, parts.valid, seed)
    step, look = _time_of_fitter(trial, seconds)
    rows, push = _pushed_rows(trial, density, len(parts.train), seconds)
    looks = max(_looks(seconds, look), density.n_subflows)  # a stage is looked at when it ends
    total = density.shared_start + density.n_subflows * density.steps
    passes = density.n_subflows - 1  # held-out rows go through every finished sub-flow, which costs as much as a look
    factor = (seconds - (looks + passes) * look - push) / step / total
    density.set_params(
        steps=max(1, int(density.steps * factor)),
        shared_start=int(density.shared_start * factor),
        evaluations=max(1, looks // density.n_subflows),
        patience=LOOKS,  # never reached, but the best weights are kept
    )
    begin = time.perf_counter()
    fitter = density.begin(parts.train[:rows], parts.valid, seed)
    fitter.run(density.record)
    facts = {
        "steps": fitter.fitter.total_steps,
        "batch_size": fitter.fitter.options.batch_size,
        "parameters": _parameters(density.flow_),
        "train_rows": rows,
    }
    return Fitted(lambda x: torch.from_numpy(density.score_samples(x.numpy())), time.perf_counter() - begin, facts)


def _time_of_fitter(fitter: DensityFitter, seconds: float) -> tuple[float, float]:
    """Seconds of a step and of a look, of a fitter that is thrown away."""
    fitter.every = 10**9
    step = _mean_seconds(lambda k: fitter.step(), seconds)
    fitter.every = 1
    fitter.step()  # the first look is slower than those to come
    begin = time.perf_counter()
    fitter.step()
    return step, max(0.0, time.perf_counter() - begin - step)


@torch.no_grad()
def _pushed_rows(trial: DensityFitter, density: LocalFlowDensity, rows: int, seconds: float) -> tuple[int, float]:
    """How many rows Algorithm 1 can push on within its share of the budget, and the seconds it takes."""
    if density.marginals == "exact" or density.n_subflows == 1:
        return rows, 0.0
    options = trial.fitter.options
    x = trial.fitter.source.batch(torch.arange(min(rows, options.push_batch_size)))[0]
    begin = time.perf_counter()
    density.flow_.push(x, None, options.push_solver, [1])
    each = (time.perf_counter() - begin) / len(x) * (density.n_subflows - 1)
    rows = max(min(rows, density.batch_size), min(rows, int(PUSHING * seconds / each)))
    return rows, rows * each


def fit_flow_matching(
    parts: Parts, problem: Problem, seconds: float, seed: int, matcher: str, batch_size: int
) -> Fitted:
    """A network matched by one of torchcfm's matchers."""
    from torchcfm import conditional_flow_matching

    dim = parts.train.shape[1]
    matching = getattr(conditional_flow_matching, matcher)(sigma=0.0)
    default = LocalFlowDensity()
    total = default.n_subflows * parameters(dim, default.width, default.depth, 0)
    width = width_of(total, dim, default.depth, 0)
    probes = None
    if dim >= EXACT_TRACE_BELOW:
        probes = signs((PROBES, *parts.valid.shape), parts.valid.float(), named_generator(seed, "watched_probes"))

    def loss(network: nn.Module, x: Tensor) -> Tensor:
        t, between, target = matching.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return (network(between, t) - target).pow(2).mean()

    def watched(network: nn.Module, x: Tensor) -> Tensor:
        end, log_det = as_local_flow(network).push_with_log_det(x, None, WATCH, probes)
        return log_standard_normal(end) + log_det.mean(1)

    def log_prob(network: nn.Module, x: Tensor) -> Tensor:
        flow = as_local_flow(copy.deepcopy(network).double())
        return torch.cat([converged_log_prob(flow, piece, None, 1e-3).log_prob for piece in x.split(4096)])

    def fit(budget: float) -> Fitted:
        _seed(seed)
        network = MLP(dim, width, default.depth, default.activation)
        return descend(Recipe(network, loss, watched, log_prob, default.learning_rate, batch_size), parts, budget, seed)

    return best_length(fit, parts, problem, seconds)


def fit_spline(parts: Parts, problem: Problem, seconds: float, seed: int) -> Fitted:
    """zuko's neural spline flow, autoregressive, by maximum likelihood."""
    import zuko

    def log_prob(network: nn.Module, x: Tensor) -> Tensor:
        return network().log_prob(x)

    def in_double(network: nn.Module, x: Tensor) -> Tensor:
        return log_prob(copy.deepcopy(network).double(), x)

    def fit(budget: float) -> Fitted:
        _seed(seed)
        network = zuko.flows.NSF(parts.train.shape[1], **problem.spline)
        recipe = Recipe(network, lambda net, x: -log_prob(net, x).mean(), log_prob, in_double, 1e-3)
        return descend(recipe, parts, budget, seed)

    return best_length(fit, parts, problem, seconds)


def descend(recipe: Recipe, parts: Parts, seconds: float, seed: int) -> Fitted:
    """The recipe's network trained for so many seconds, with the weights that were best on the validation part."""
    train, valid = parts.train.float(), parts.valid.float()
    default = LocalFlowDensity()
    batch_size = min(recipe.batch_size, len(train))
    order = BatchOrder(len(train), batch_size, seed, 1)

    def descent_of(network: nn.Module, steps: int) -> tuple[Callable[[int], Any], nn.Module]:
        options = Optimization(
            batch_size,
            recipe.learning_rate,
            beta1=0.9,
            weight_decay=0.0,
            warmup_steps=min(100, steps // 10),
            ema_maximum=default.ema_maximum,
        )
        average = copy.deepcopy(network)
        descent = Descent(network, average, options)
        return lambda k: descent.step(recipe.loss(network, train[order(k)]), k, steps), average

    @torch.no_grad()
    def look(network: nn.Module) -> float:
        return -recipe.watched(network, valid).mean().item()

    trial = copy.deepcopy(recipe.network)
    step = _mean_seconds(descent_of(trial, default.steps)[0], seconds)
    look(trial)  # the first look is slower than those to come
    begin = time.perf_counter()
    look(trial)
    looking = time.perf_counter() - begin
    looks = _looks(seconds, looking)
    steps = max(1, int((seconds - looks * looking) / step))
    every = -(-steps // looks)

    _seed(seed)
    begin, best, weights = time.perf_counter(), math.inf, None
    take, average = descent_of(recipe.network, steps)
    for k in range(steps):
        take(k)
        if (k + 1) % every == 0 or k + 1 == steps:
            nll = look(average)
            if nll < best:
                best, weights = nll, copy.deepcopy(average.state_dict())
    if weights is not None:
        average.load_state_dict(weights)
    facts = {
        "steps": steps,
        "batch_size": batch_size,
        "parameters": _parameters(average),
        "train_rows": len(train),
    }
    return Fitted(torch.no_grad()(partial(recipe.log_prob, average)), time.perf_counter() - begin, facts)


def fit_mixture(parts: Parts, problem: Problem, seconds: float, seed: int) -> Fitted:
    """The Gaussian mixture that is best on the validation part, of all that the budget allows for."""
    from sklearn.mixture import GaussianMixture

    train, valid = parts.train[:MIXTURE_ROWS].numpy(), parts.valid.numpy()
    begin, best, chosen, components, ridge = time.perf_counter(), -math.inf, None, 0, 0.0
    for count, added in itertools.product(_counts(len(train) // 10), problem.ridges):
        start = time.perf_counter()
        mixture = GaussianMixture(count, reg_covar=added, max_iter=200, random_state=seed).fit(train)
        score = float(mixture.score(valid))
        if score > best:
            best, chosen, components, ridge = score, mixture, count, added
        now = time.perf_counter()
        if now - begin + 1.5 * (now - start) > seconds:  # the next one takes about half as long again
            break
    assert chosen is not None
    dim = train.shape[1]
    facts = {
        "components": components,
        "ridge": ridge,
        "parameters": components * (1 + dim + dim * (dim + 1) // 2) - 1,
        "train_rows": len(train),
    }
    return Fitted(lambda x: torch.from_numpy(chosen.score_samples(x.numpy())), time.perf_counter() - begin, facts)


def fit_gaussian(parts: Parts, problem: Problem, seconds: float, seed: int) -> Fitted:
    """The Gaussian of the training part's mean and covariance, which are 0 and I since the rows are whitened."""
    dim = parts.train.shape[1]
    return Fitted(log_standard_normal, 0.0, {"parameters": dim + dim * (dim + 1) // 2, "train_rows": len(parts.train)})


METHODS: dict[str, Callable[[Parts, Problem, float, int], Fitted]] = {
    "lfm": fit_local_flow,
    "cfm": partial(fit_flow_matching, matcher="ConditionalFlowMatcher", batch_size=512),
    "ot_cfm": partial(fit_flow_matching, matcher="ExactOptimalTransportConditionalFlowMatcher", batch_size=256),
    "nsf": fit_spline,
    "mixture": fit_mixture,
    "gaussian": fit_gaussian,
}


def _counts(limit: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, … up to `limit`."""
    for power in itertools.count():
        for count in (2**power, 3 * 2 ** (power - 1)) if power else (1,):
            if count > limit:
                return
            yield int(count)


def _looks(seconds: float, look: float) -> int:
    return max(1, min(LOOKS, int(LOOKING * seconds / look))) if look else LOOKS


def _mean_seconds(step: Callable[[int], Any], seconds: float) -> float:
    """Seconds of a step when warm: the mean, since now and then a step costs more and that must be paid too."""
    _repeat(step, WARMING * seconds, 0)
    begin = time.perf_counter()
    count = _repeat(step, TIMING * seconds, 1)
    return (time.perf_counter() - begin) / count


def _repeat(step: Callable[[int], Any], seconds: float, first: int) -> int:
    """Take steps for so many seconds, three at least; how many."""
    begin, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - begin < seconds:
        step(first + count)
        count += 1
    return count


def _seed(seed: int) -> None:
    """Global generators: networks' initialisers and torchcfm know no other."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def _parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
