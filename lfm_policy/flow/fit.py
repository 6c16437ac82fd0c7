"""Algorithm 1: fit the sub-flows one after the other, pushing the data on through each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.local_flow import LocalFlow
from lfm_policy.flow.random import named_generator
from lfm_policy.flow.source import BatchOrder, PushedSource, Source, TensorSource, slices
from lfm_policy.flow.stages import WHOLE_CLOCK, FitOptions, Stage, StagedFit, StepReport, plan_stages, share_start

__all__ = [
    "WHOLE_CLOCK",
    "FitOptions",
    "Fitter",
    "Push",
    "Stage",
    "StepReport",
    "fit_local_flow",
    "in_memory",
    "share_start",
]


@dataclass(frozen=True)
class Push:
    """The samples of p_n, to be made in pieces by pushing those of p_(n-1) through sub-flow n.

    Attributes:
        n: the sub-flow.
        split: 0 for samples to train on, 1 for those held out.
        count: samples.
        n_pieces: pieces that they are made in.
        network: sub-flow n's, which makes them what they are.
        make: piece number 0 … n_pieces - 1 (B, *shape).
    """

    n: int
    split: int
    count: int
    n_pieces: int
    network: nn.Module
    make: Callable[[int], Tensor]


def in_memory(push: Push) -> Tensor:
    """All pieces of pushed samples (M, *shape), made now."""
    return torch.cat([push.make(i) for i in range(push.n_pieces)])


class Fitter(StagedFit):
    """Algorithm 1 as a resumable sequence of steps on samples that lie at hand.

    `subflows` restricts training to some n (exact marginals only: others need all that came before). `keep` says where
    pushed samples are kept: it makes those of a `Push`, or finds that it has made them, and returns them (M, *shape).
    """

    def __init__(
        self,
        flow: LocalFlow,
        source: Source,
        options: FitOptions,
        seed: int = 0,
        valid: Source | None = None,
        subflows: Sequence[int] | None = None,
        keep: Callable[[Push], Tensor] = in_memory,
    ) -> None:
        _check(flow, source, options, subflows)
        self._data = self._sources = (source, valid)
        self._pushed, self._keep = 0, keep  # sources are samples of p_pushed
        super().__init__(flow, options, seed, plan_stages(flow, options, subflows))

    def step(self) -> StepReport:
        """One optimiser step; the first one of a stage pushes the data on before it."""
        if self.stage_done:
            self.next_stage()
        return self.step_on(*self._batch(self.source, self.order(self.step_in_stage)))

    def held_out_loss(self, draws: int = 1) -> float | None:
        """Loss of the EMA weights on held-out samples, the same `draws` of each every time; None without any."""
        if self.valid is None:
            return None
        total = 0.0
        for i, index in enumerate(slices(len(self.valid), self.options.push_batch_size)):
            x, cond = self._batch(self.valid, index)
            total += sum(self.held_out(x, cond, i, draw) for draw in range(draws)) * len(index)
        return total / (len(self.valid) * draws)

    def next_stage(self) -> None:
        """Go on to the next stage, the samples having been pushed through the sub-flow that ends."""
        self._push_to(self.current.n)
        super().next_stage()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the flow's weights must have been restored before."""
        self._sources, self._pushed = self._data, 0
        stages = [Stage(*stage) for stage in state.get("stages", self.stages)]
        self._push_to(max((stage.n for stage in stages[: state["stage"]]), default=0))
        super().load_state_dict(state)

    def _begin_stage(self) -> None:
        super()._begin_stage()
        self.source, self.valid = self._sources
        self.order = BatchOrder(len(self.source), self.options.batch_size, self.seed, self.current.n)

    def _push_to(self, n: int) -> None:
        """Let the samples be those of p_n, where Algorithm 1 asks for it; p_0 is the data."""
        if self.options.matching.marginals == "pushed" and n != WHOLE_CLOCK:
            source, valid = (self._at(n, split) for split in range(2))
            assert source is not None
            self._sources, self._pushed = (source, valid), n

    def _at(self, n: int, split: int) -> Source | None:
        """Samples of p_n. Those of p_(n-1) are made only if `keep` asks for a piece: it may have p_n already."""
        data = self._data[split]
        if n == self._pushed or data is None:
            return self._sources[split]
        pieces = list(slices(len(data), self.options.push_batch_size))
        before = functools.cache(lambda: self._at(n - 1, split))

        @torch.no_grad()
        def make(i: int) -> Tensor:
            source = before()
            assert source is not None
            generator = named_generator(self.seed, "initial_diffusion", split, i)
            return self._pushed_through(n, *self._batch(source, pieces[i]), generator)

        return PushedSource(self._keep(Push(n, split, len(data), len(pieces), self.flow.field(n), make)), data)

    def _batch(self, source: Source, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Samples and conditions, where the networks are: sources may lie on disk."""
        device = next(self.flow.parameters()).device
        x, cond = source.batch(index)
        return x.to(device), None if cond is None else cond.to(device)


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
