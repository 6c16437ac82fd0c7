"""Algorithm 1 on a table, watched by the held-out likelihood, with early stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lfm_policy.flow import FitOptions, Fitter, LocalFlow, Solver, StepReport, TensorSource, named_generator
from lfm_policy.flow.fit import WHOLE_CLOCK
from lfm_policy.flow.local_flow import log_standard_normal
from lfm_policy.flow.random import signs

HELD_ROWS = 10_000  # rows that the held-out loss is a mean over
WATCHED_ROWS = (
    2000  # held-out rows whose likelihood is watched: its error is then about 0.02 nats, and the same each time
)
EXACT_TRACE_BELOW = 17  # dimensions; above, the watched likelihood takes Hutchinson's estimate from fixed probes
PROBES = 4
DRAWS = 4000  # regression problems, at least, that a held-out loss is a mean over
WATCH_SOLVER = Solver("rk4", steps=4)


class Evaluation(NamedTuple):
    """What was seen at a moment of training: sub-flow n, its step, mean loss since, held-out loss and NLL in nats."""

    n: int
    step: int
    loss: float
    valid_loss: float | None
    valid_nll: float | None


def deciding(n: int, n_subflows: int, valid_loss: float, valid_nll: float) -> float:
    """The figure by which early stopping judges sub-flow n of so many: see `DensityFitter`."""
    return valid_nll if n in (WHOLE_CLOCK, n_subflows) else valid_loss


class DensityFitter:
    """A `Fitter` that evaluates every stage so many times and, with `patience`, stops one that no longer improves.

    What decides is the NLL of held-out samples while the last sub-flow trains, or one network on all stretches;
    before that the held-out loss, since the NLL under the first n sub-flows, taken as a flow to N(0, I) of their own,
    is least for one that overshoots its target towards N(0, I). After `patience` evaluations without a better figure
    the sub-flow ends, with the best weights. Without `valid` nothing is watched. `train` and `valid` are normalised
    samples (M, d) in float32.
    """

    def __init__(
        self,
        flow: LocalFlow,
        train: Tensor,
        valid: Tensor | None,
        options: FitOptions,
        evaluations: int,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        held = None if valid is None else TensorSource(valid[:HELD_ROWS])
        self.fitter = Fitter(flow, TensorSource(train), options, seed, held)
        self.evaluations, self.patience, self.seed = evaluations, patience, seed
        self.every = 1  # steps between two looks
        self.valid = valid
        self._losses: list[float] = []
        self._watched: _Watched | None = None
        self._begin()

    @property
    def flow(self) -> LocalFlow:
        """The flow, with its averaged weights."""
        return self.fitter.flow

    @property
    def done(self) -> bool:
        """Whether every sub-flow has been trained."""
        return self.fitter.done

    def step(self) -> tuple[StepReport, Evaluation | None]:
        """One optimiser step, and what was seen if it is time to look."""
        if self.fitter.stage_done:
            self._move_on()
        report = self.fitter.step()
        self._losses.append(report.loss)
        if report.step % self.every and not self.fitter.stage_done:
            return report, None
        return report, self._evaluate(report)

    def run(self, on_evaluation: Callable[[Evaluation], None] | None = None) -> LocalFlow:
        """Train to the end; the flow."""
        while not self.done:
            _, seen = self.step()
            if seen and on_evaluation:
                on_evaluation(seen)
        return self.flow

    def state_dict(self) -> dict[str, Any]:
        """What continues the run, beside the flow's own weights."""
        return {
            "fitter": self.fitter.state_dict(),
            "losses": list(self._losses),
            "best": {"figure": self._best, "every": self.every, "since": self._since, "weights": self._best_weights},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the flow's weights must have been restored before."""
        self.fitter.load_state_dict(state["fitter"])
        self._begin()
        self._losses, best = state["losses"], state["best"]
        self._best, self._since, self._best_weights = best["figure"], best["since"], best["weights"]
        self.every = best["every"]  # a stage that has ended early no longer says how long it was to be

    def _begin(self) -> None:
        self._losses = []
        self._begin_stage(self.fitter.stage)
        if self.valid is None:
            return
        x = self.valid[:WATCHED_ROWS]
        probes = None
        if x.shape[1] >= EXACT_TRACE_BELOW:
            probes = signs((PROBES, *x.shape), x, named_generator(self.seed, "watched_probes"))
        self._watched = _Watched(self.flow, x, probes)
        for stage in self.fitter.stages[: self.fitter.stage]:
            self._watched.pass_through(stage.n)

    def _move_on(self) -> None:
        """Leave a finished sub-flow behind: the next step begins another."""
        if self._watched is not None:
            self._watched.pass_through(self.fitter.current.n)
        self._begin_stage(self.fitter.stage + 1)

    def _begin_stage(self, stage: int) -> None:
        self._best, self._since, self._best_weights = torch.inf, 0, None
        self.every = max(1, -(-self.fitter.stages[stage].steps // self.evaluations))

    def _evaluate(self, report: StepReport) -> Evaluation:
        loss, self._losses = sum(self._losses) / len(self._losses), []
        if self._watched is None:
            return Evaluation(report.n, report.step, loss, None, None)
        nll = self._watched.nll(report.n)
        valid_loss = self.fitter.held_out_loss(draws=-(-DRAWS // len(self._watched.x)))
        if self.patience is not None:
            assert valid_loss is not None
            self._watch(deciding(report.n, self.flow.n_subflows, valid_loss, nll))
        return Evaluation(report.n, report.step, loss, valid_loss, nll)

    def _watch(self, figure: float) -> None:
        network = self.flow.field(max(self.fitter.current.n, 1))
        if figure < self._best:
            self._best, self._since = figure, 0
            self._best_weights = {name: weight.clone() for name, weight in network.state_dict().items()}
        else:
            self._since += 1
        if self._since == self.patience:
            self.fitter.end_stage()
        if self.fitter.stage_done and self._best_weights is not None:
            network.load_state_dict(self._best_weights)


class _Watched:
    """Held-out samples pushed through the sub-flows that are trained, with the log-determinant on the way."""

    def __init__(self, flow: LocalFlow, x: Tensor, probes: Tensor | None) -> None:
        self.flow, self.x, self.probes = flow, x, probes
        self.log_det = x.new_zeros(len(x))

    @torch.no_grad()
    def nll(self, n: int) -> float:
        """Mean NLL in nats under the sub-flows up to n; for WHOLE_CLOCK under one network on all stretches."""
        if n == WHOLE_CLOCK:
            alone = LocalFlow([self.flow.field(1)], self.flow.schedule)
            end, log_det = alone.push_with_log_det(self.x, None, WATCH_SOLVER, self.probes)
        else:
            end, log_det = self.flow.push_with_log_det(self.x, None, WATCH_SOLVER, self.probes, [n])
        return -(log_standard_normal(end) + self.log_det + log_det.mean(1)).mean().item()

    @torch.no_grad()
    def pass_through(self, n: int) -> None:
        """Go on to the samples of p_n."""
        if n == WHOLE_CLOCK:
            return
        self.x, log_det = self.flow.push_with_log_det(self.x, None, WATCH_SOLVER, self.probes, [n])
        self.log_det = self.log_det + log_det.mean(1)
