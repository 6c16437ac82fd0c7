"""Algorithm 1: fit the sub-flows one after the other, pushing the data on through each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.local_flow import LocalFlow
from lfm_policy.flow.random import named_generator
from lfm_policy.flow.source import BatchOrder, PushedSource, Source, TensorSource, slices
from lfm_policy.flow.stages import WHOLE_CLOCK, FitOptions, Stage, StagedFit, StepReport, plan_stages, share_start

__all__ = ["WHOLE_CLOCK", "FitOptions", "Fitter", "Stage", "StepReport", "fit_local_flow", "share_start"]


class Fitter(StagedFit):
    """Algorithm 1 as a resumable sequence of steps on samples that lie at hand.

    `subflows` restricts training to some n (exact marginals only: others need all that came before).
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
        self._data = self._sources = (source, valid)
        super().__init__(flow, options, seed, plan_stages(flow, options, subflows))

    def step(self) -> StepReport:
        """One optimiser step; the first one of a stage pushes the data on before it."""
        if self.stage_done:
            self.next_stage()
        x, cond = self.source.batch(self.order(self.step_in_stage))
        return self.step_on(x, cond)

    def held_out_loss(self, draws: int = 1) -> float | None:
        """Loss of the EMA weights on held-out samples, the same `draws` of each every time; None without any."""
        if self.valid is None:
            return None
        total = 0.0
        for i, index in enumerate(slices(len(self.valid), self.options.push_batch_size)):
            x, cond = self.valid.batch(index)
            total += sum(self.held_out(x, cond, i, draw) for draw in range(draws)) * len(index)
        return total / (len(self.valid) * draws)

    def next_stage(self) -> None:
        """Go on to the next stage, the samples having been pushed through the sub-flow that ends."""
        self._push_sources(self.current.n)
        super().next_stage()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the flow's weights must have been restored before."""
        self._sources = self._data
        stages = [Stage(*stage) for stage in state.get("stages", self.stages)]
        for stage in stages[: state["stage"]]:
            self._push_sources(stage.n)
        super().load_state_dict(state)

    def _begin_stage(self) -> None:
        super()._begin_stage()
        self.source, self.valid = self._sources
        self.order = BatchOrder(len(self.source), self.options.batch_size, self.seed, self.current.n)

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
            x, cond = source.batch(index)
            parts.append(self._pushed_through(n, x, cond, named_generator(self.seed, "initial_diffusion", split, i)))
        return PushedSource(torch.cat(parts), source.origin if isinstance(source, PushedSource) else source)


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


def _check(flow: LocalFlow, source: Source, options: FitOptions, subflows: Sequence[int] | None) -> None:
    if len(source) == 0:
        raise LFMError("samples: there are none to fit a flow to")
    options.matching.check_condition(source.batch(torch.zeros(1, dtype=torch.long))[1])
    if subflows is not None and options.matching.marginals == "pushed":
        raise LFMError("subflows: training some sub-flows alone needs flow.marginals: exact")
