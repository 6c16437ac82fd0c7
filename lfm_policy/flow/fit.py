"""Algorithm 1: fit the sub-flows one after the other, pushing the data on through each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.local_flow import LocalFlow, stretch_velocity
from lfm_policy.flow.matching import Matching, Regression, draw_whole_clock, matching_loss, ou_transition
from lfm_policy.flow.optimization import Descent, Optimization
from lfm_policy.flow.random import named_generator
from lfm_policy.flow.solver import Solver
from lfm_policy.flow.source import BatchOrder, PushedSource, Source, TensorSource, slices

WHOLE_CLOCK = 0  # the "sub-flow number" of a stage that trains on all stretches together


@dataclass(frozen=True)
class FitOptions(Optimization):
    """How sub-flows are fitted; `steps` and all of `Optimization` are per network.

    `shared_start` = K first trains one network on all stretches together for K steps and copies it N
    times (no coupling or marginals matter there). `warm_start` begins sub-flow n + 1 with the weights of
    sub-flow n. `initial_diffusion` = δ replaces the data by its OU diffusion over time δ (Section 4.3).
    """

    steps: int = 10_000
    matching: Matching = field(default_factory=Matching)
    shared_start: int = 0
    warm_start: bool = False
    initial_diffusion: float = 0.0
    push_solver: Solver = field(default_factory=Solver)
    push_batch_size: int = 1024

    def __post_init__(self) -> None:
        self.check()
        for name in ("steps", "push_batch_size"):
            if getattr(self, name) <= 0:
                raise LFMError(f"{name}: {getattr(self, name)} must be positive")
        for name in ("shared_start", "initial_diffusion"):
            if getattr(self, name) < 0:
                raise LFMError(f"{name}: {getattr(self, name)} must not be negative")


class Stage(NamedTuple):
    """One network's training: sub-flow n (or WHOLE_CLOCK) for so many steps."""

    n: int
    steps: int


class StepReport(NamedTuple):
    """What a training step did: sub-flow n, its step number (from 1), loss and learning rate."""

    n: int
    step: int
    loss: float
    learning_rate: float


class Fitter:
    """Algorithm 1 as a resumable sequence of steps.

    `flow` always holds the EMA weights, those that push and sample; the weights being trained live here.
    `subflows` restricts training to some n (exact marginals only: others need all that came before).
    Every draw is a function of (seed, sub-flow, step), so that a restored state continues bit for bit.
    """

    def __init__(
        self,
        flow: LocalFlow,
        source: Source,
        options: FitOptions,
        seed: int = 0,
        valid: Source | None = None,
        subflows: Sequence[int] | None = None,
    ) -> None:
        _check(flow, source, options, subflows)
        self.flow, self.options, self.seed = flow, options, seed
        self.stages = _stages(flow, options, subflows)
        self._data = self._sources = (source, valid)
        self.stage, self.step_in_stage = 0, 0
        self._begin_stage()

    @property
    def done(self) -> bool:
        """Whether every stage has been trained."""
        return self.stage == len(self.stages) - 1 and self.stage_done

    @property
    def stage_done(self) -> bool:
        """Whether the current stage has had its steps: the next step pushes the data on and begins another."""
        return self.step_in_stage == self.current.steps

    @property
    def current(self) -> Stage:
        """The stage being trained."""
        return self.stages[self.stage]

    @property
    def total_steps(self) -> int:
        """Steps over all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def steps_done(self) -> int:
        """Steps taken over all stages."""
        return sum(stage.steps for stage in self.stages[: self.stage]) + self.step_in_stage

    def step(self) -> StepReport:
        """One optimiser step; the first one of a stage pushes the data on before it."""
        if self.stage_done:
            self._next_stage()
        (n, steps), k = self.current, self.step_in_stage
        x, cond = self.source.batch(self.order(k))
        problem = self._draw(x, named_generator(self.seed, "train", n, k))
        loss = matching_loss(self._velocity(self.network), problem, cond)
        value = loss.item()
        if not math.isfinite(value):
            place = "all stretches together" if n == WHOLE_CLOCK else f"sub-flow {n}"
            raise LFMError(
                f"loss of {place} is {value} at step {k + 1}; lower learning_rate "
                f"({self.options.learning_rate:g}), or look for outliers in the data"
            )
        rate = self.descent.step(loss, k, steps)
        self.step_in_stage += 1
        return StepReport(n, k + 1, value, rate)

    @torch.no_grad()
    def held_out_loss(self, draws: int = 1) -> float | None:
        """Loss of the EMA weights on held-out samples, the same `draws` of each every time; None without any."""
        if self.valid is None:
            return None
        n, total = self.current.n, 0.0
        for i, index in enumerate(slices(len(self.valid), self.options.push_batch_size)):
            x, cond = self.valid.batch(index)
            for draw in range(draws):
                problem = self._draw(x, named_generator(self.seed, "valid", n, i, draw))
                loss = matching_loss(self._velocity(self.flow.field(max(n, 1))), problem, cond)
                total += loss.item() * len(index)
        return total / (len(self.valid) * draws)

    def end_stage(self) -> None:
        """Let the current stage be over now: the next step begins the next one (early stopping)."""
        self.stages[self.stage] = Stage(self.current.n, self.step_in_stage)

    def state_dict(self) -> dict[str, Any]:
        """What continues the run, beside the flow's own weights."""
        return {
            "stages": [tuple(stage) for stage in self.stages],
            "stage": self.stage,
            "step_in_stage": self.step_in_stage,
            "network": self.network.state_dict(),
            "optimizer": self.descent.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the flow's weights must have been restored before."""
        self._sources = self._data
        self.stages = [Stage(*stage) for stage in state.get("stages", self.stages)]
        for stage in self.stages[: state["stage"]]:
            self._push_sources(stage.n)
        self.stage, self.step_in_stage = state["stage"], state["step_in_stage"]
        self._begin_stage()
        self.network.load_state_dict(state["network"])
        self.descent.optimizer.load_state_dict(state["optimizer"])

    def _begin_stage(self) -> None:
        n, options = self.current.n, self.options
        self.source, self.valid = self._sources
        self.network = copy.deepcopy(self.flow.field(max(n, 1))).train()
        self.descent = Descent(self.network, self.flow.field(max(n, 1)), options)
        self.order = BatchOrder(len(self.source), options.batch_size, self.seed, n)

    def _next_stage(self) -> None:
        n = self.current.n
        self._push_sources(n)
        self.stage, self.step_in_stage = self.stage + 1, 0
        if n == WHOLE_CLOCK:
            share_start(self.flow)
        elif self.options.warm_start:
            self.flow.field(self.current.n).load_state_dict(self.flow.field(n).state_dict())
        self._begin_stage()

    def _push_sources(self, n: int) -> None:
        """Replace the samples of p_(n-1) by those of p_n, where Algorithm 1 asks for it."""
        if n == WHOLE_CLOCK or self.options.matching.marginals == "exact":
            return
        source, valid = self._sources
        self._sources = (self._pushed(n, source, 0), self._pushed(n, valid, 1) if valid else None)

    @torch.no_grad()
    def _pushed(self, n: int, source: Source, split: int) -> Source:
        parts = []
        for i, index in enumerate(slices(len(source), self.options.push_batch_size)):
            generator = named_generator(self.seed, "initial_diffusion", split, i)
            x, cond = source.batch(index)
            x = self._diffused(x, generator) if n == 1 else x
            parts.append(self.flow.push(x, cond, self.options.push_solver, [n]))
        return PushedSource(torch.cat(parts), source.origin if isinstance(source, PushedSource) else source)

    def _diffused(self, x: Tensor, generator: torch.Generator) -> Tensor:
        delta = self.options.initial_diffusion
        return ou_transition(x, delta, generator) if delta else x

    def _draw(self, x: Tensor, generator: torch.Generator) -> Regression:
        n, matching = self.current.n, self.options.matching
        if n <= 1 or matching.marginals == "exact":
            x = self._diffused(x, generator)
        if n == WHOLE_CLOCK:
            return draw_whole_clock(x, self.flow.schedule, generator)
        return matching.draw(x, n, self.flow.schedule, generator)

    def _velocity(self, network: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        n = self.current.n
        if n == WHOLE_CLOCK:
            return network
        return lambda x, t, cond: stretch_velocity(network, self.flow.schedule, n, x, t, cond)


def share_start(flow: LocalFlow) -> None:
    """Copy the network that trained on all stretches, which is sub-flow 1's, to every sub-flow."""
    weights = flow.field(1).state_dict()
    for other in flow.fields[1:]:
        other.load_state_dict(weights)


def fit_local_flow(
    flow: LocalFlow,
    samples: Tensor | Source,
    options: FitOptions | None = None,
    cond: Tensor | None = None,
    seed: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
) -> LocalFlow:
    """Fit a flow's sub-flows to samples (M, *shape) with conditions (M, C) or None by Algorithm 1.

    The flow is changed in place and returned with its EMA weights. `on_step` hears of every step.
    """
    source = TensorSource(samples, cond) if isinstance(samples, Tensor) else samples
    fitter = Fitter(flow, source, options or FitOptions(), seed)
    while not fitter.done:
        report = fitter.step()
        if on_step:
            on_step(report)
    return flow


def _stages(flow: LocalFlow, options: FitOptions, subflows: Sequence[int] | None) -> list[Stage]:
    if flow.shares_weights:
        return [Stage(WHOLE_CLOCK, options.shared_start + options.steps * flow.n_subflows)]
    shared = [Stage(WHOLE_CLOCK, options.shared_start)] if options.shared_start and subflows is None else []
    chosen = subflows if subflows is not None else range(1, flow.n_subflows + 1)
    return [*shared, *(Stage(n, options.steps) for n in chosen)]


def _check(flow: LocalFlow, source: Source, options: FitOptions, subflows: Sequence[int] | None) -> None:
    if len(source) == 0:
        raise LFMError("samples: there are none to fit a flow to")
    options.matching.check_condition(source.batch(torch.zeros(1, dtype=torch.long))[1])
    if subflows is not None and options.matching.marginals == "pushed":
        raise LFMError("subflows: training some sub-flows alone needs flow.marginals: exact")
