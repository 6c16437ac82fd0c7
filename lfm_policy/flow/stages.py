"""Stages of Algorithm 1, one network each, trained on batches that come from anywhere."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lfm_policy.flow.device import training_precision
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.local_flow import LocalFlow, stretch_velocity
from lfm_policy.flow.matching import Matching, Objective, Regression, draw_whole_clock, matching_loss, ou_transition
from lfm_policy.flow.optimization import Descent, Optimization
from lfm_policy.flow.random import named_generator
from lfm_policy.flow.solver import Solver
from lfm_policy.flow.source import parts

WHOLE_CLOCK = 0  # the "sub-flow number" of a stage that trains on all stretches together


@dataclass(frozen=True)
class FitOptions(Optimization):
    """How sub-flows are fitted; `steps` and all of `Optimization` are per network.

    `shared_start` = K first trains one network on all stretches together for K steps and copies it N
    times (no coupling or marginals matter there). `warm_start` begins sub-flow n + 1 with the weights of
    sub-flow n. `initial_diffusion` = δ replaces the data by its OU diffusion over time δ (Section 4.3).
    """

    steps: int = 10_000
    matching: Objective = field(default_factory=Matching)
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


class StagedFit:
    """The stages of Algorithm 1, each a network trained on batches that the caller brings.

    `flow` always holds the EMA weights, those that push and sample; the weights being trained live here.
    Every draw is a function of (seed, sub-flow, step), so that a restored state continues bit for bit.
    """

    def __init__(self, flow: LocalFlow, options: FitOptions, seed: int, stages: Sequence[Stage]) -> None:
        self.flow, self.options, self.seed = flow, options, seed
        self.stages = list(stages)
        self.stage, self.step_in_stage = 0, 0
        self._begin_stage()

    @property
    def done(self) -> bool:
        """Whether every stage has been trained."""
        return self.stage == len(self.stages) - 1 and self.stage_done

    @property
    def stage_done(self) -> bool:
        """Whether the current stage has had its steps: the next step begins another."""
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

    def step_from_data(self, x: Tensor, cond: Tensor | None) -> StepReport:
        """One optimiser step on data x (B, *shape), pushed here and now through all sub-flows before the current one.

        For batches drawn by someone else. Where samples are drawn again and again, pushing each once is cheaper.
        """
        if self.stage_done:
            self.next_stage()
        return self.step_on(self.pushed_so_far(x, cond, "initial_diffusion", self.stage, self.step_in_stage), cond)

    def step_on(self, x: Tensor, cond: Tensor | None) -> StepReport:
        """One optimiser step on x (B, *shape): samples of p_(n-1) if pushed, data if exact."""
        (n, steps), k = self.current, self.step_in_stage
        problem = self._draw(x, named_generator(self.seed, "train", n, k))
        value = self.descent.accumulate(self._losses(problem, cond))
        if not math.isfinite(value):
            place = "all stretches together" if n == WHOLE_CLOCK else f"sub-flow {n}"
            raise LFMError(
                f"loss of {place} is {value} at step {k + 1}; lower learning_rate "
                f"({self.options.learning_rate:g}), or look for outliers in the data"
            )
        rate = self.descent.update(k, steps)
        self.step_in_stage += 1
        return StepReport(n, k + 1, value, rate)

    @torch.no_grad()
    def held_out(self, x: Tensor, cond: Tensor | None, *draw: int) -> float:
        """Loss of the EMA weights on samples as `step_on` takes them, from the draw of that number."""
        n = self.current.n
        problem = self._draw(x, named_generator(self.seed, "valid", n, *draw))
        return matching_loss(self._velocity(self.flow.field(max(n, 1))), problem, cond).item()

    @torch.no_grad()
    def pushed_so_far(self, x: Tensor, cond: Tensor | None, purpose: str, *index: int) -> Tensor:
        """Samples of p_(n-1) from data x (B, *shape) of p_0; with exact marginals the data themselves.

        (`purpose`, `index`) names the noise of an initial diffusion.
        """
        for n in range(1, self.current.n if self.options.matching.marginals == "pushed" else 1):
            x = self._pushed_through(n, x, cond, named_generator(self.seed, purpose, *index))
        return x

    def end_stage(self) -> None:
        """Let the current stage be over now: the next step begins the next one (early stopping)."""
        self.stages[self.stage] = Stage(self.current.n, self.step_in_stage)

    def next_stage(self) -> None:
        """Go on to the next stage, with weights from the one that ends where the options say so."""
        n = self.current.n
        self.stage, self.step_in_stage = self.stage + 1, 0
        if n == WHOLE_CLOCK:
            share_start(self.flow)
        elif self.options.warm_start:
            self.flow.field(self.current.n).load_state_dict(self.flow.field(n).state_dict())
        self._begin_stage()

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
        self.stages = [Stage(*stage) for stage in state.get("stages", self.stages)]
        self.stage, self.step_in_stage = state["stage"], state["step_in_stage"]
        self._begin_stage()
        self.network.load_state_dict(state["network"])
        self.descent.optimizer.load_state_dict(state["optimizer"])

    def _begin_stage(self) -> None:
        average = self.flow.field(max(self.current.n, 1))
        self.network = copy.deepcopy(average).train()
        self.descent = Descent(self.network, average, self.options)

    def _pushed_through(self, n: int, x: Tensor, cond: Tensor | None, generator: torch.Generator) -> Tensor:
        """Samples of p_n from those of p_(n-1); the data are diffused before the first sub-flow takes them."""
        x = self._diffused(x, generator) if n == 1 else x
        return self.flow.push(x, cond, self.options.push_solver, [n])

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

    def _losses(self, problem: Regression, cond: Tensor | None) -> Iterator[Tensor]:
        """The loss in `accumulate` pieces, which sum to that of the whole batch."""
        velocity, count = self._velocity(self.network), len(problem.x)
        for part in parts(count, self.options.accumulate):
            piece = problem.part(part)
            with training_precision(problem.x.device, self.options.autocast):
                loss = matching_loss(velocity, piece, None if cond is None else cond[part])
            yield loss * (len(piece.x) / count)

    def _velocity(self, network: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        n = self.current.n
        if n == WHOLE_CLOCK:
            return network
        return lambda x, t, cond: stretch_velocity(network, self.flow.schedule, n, x, t, cond)


def plan_stages(flow: LocalFlow, options: FitOptions, subflows: Sequence[int] | None = None) -> list[Stage]:
    """The stages of Algorithm 1 in order; `subflows` restricts them to some n."""
    if flow.shares_weights:
        return [Stage(WHOLE_CLOCK, options.shared_start + options.steps * flow.n_subflows)]
    shared = [Stage(WHOLE_CLOCK, options.shared_start)] if options.shared_start and subflows is None else []
    chosen = subflows if subflows is not None else range(1, flow.n_subflows + 1)
    return [*shared, *(Stage(n, options.steps) for n in chosen)]


def share_start(flow: LocalFlow) -> None:
    """Copy the network that trained on all stretches, which is sub-flow 1's, to every sub-flow."""
    weights = flow.field(1).state_dict()
    for other in flow.fields[1:]:
        other.load_state_dict(weights)
