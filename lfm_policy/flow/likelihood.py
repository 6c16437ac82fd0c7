"""Log-likelihoods whose numerical error is known: steps are doubled, sample by sample, until nothing moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lfm_policy.flow.divergence import MEMORY
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.local_flow import LocalFlow, log_standard_normal
from lfm_policy.flow.random import named_generator, signs
from lfm_policy.flow.solver import MethodName, Solver


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods in nats, with what is known of their errors.

    `boundaries` (B, N + 1): column n is the log-likelihood under the first n sub-flows, taken as a flow
    to N(0, I) of their own; the last column is the chain's. `change` (B,): by how much the last doubling
    of the steps moved a sample. `steps` (B,): steps per sub-flow that gave its figure. `probe_error` (B,):
    standard error of Hutchinson's estimate, None for the exact trace or a single probe.
    """

    boundaries: Tensor
    change: Tensor
    steps: Tensor
    probe_error: Tensor | None = None

    @property
    def log_prob(self) -> Tensor:
        """log p(x) (B,)."""
        return self.boundaries[:, -1]

    @classmethod
    def cat(cls, parts: Sequence[Likelihood]) -> Likelihood:
        """The likelihoods of several batches as those of one."""
        errors = [part.probe_error for part in parts if part.probe_error is not None]
        return cls(
            torch.cat([part.boundaries for part in parts]),
            torch.cat([part.change for part in parts]),
            torch.cat([part.steps for part in parts]),
            torch.cat(errors) if errors else None,
        )

    def cpu(self) -> Likelihood:
        """The same in main memory."""
        error = None if self.probe_error is None else self.probe_error.cpu()
        return Likelihood(self.boundaries.cpu(), self.change.cpu(), self.steps.cpu(), error)

    def shifted(self, log_det: float) -> Likelihood:
        """The same in other units, whose affine map to these has the log |det| `log_det`."""
        return replace(self, boundaries=self.boundaries + log_det)

    @property
    def mean_change(self) -> float:
        """By how much the last doublings moved the mean log-likelihood."""
        return self.change.mean().abs().item()


def converged_log_prob(
    flow: LocalFlow,
    x: Tensor,
    cond: Tensor | None = None,
    tolerance: float = 1e-3,
    method: MethodName = "rk4",
    first_steps: int = 4,
    max_steps: int = 512,
    n_probes: int = 0,
    seed: int = 0,
    memory: int = MEMORY,
) -> Likelihood:
    """log p(x) of samples (B, *shape), each solved with so many steps that doubling moves it by < `tolerance`.

    Every sample has its own number of steps per sub-flow, from 2 `first_steps` to `max_steps`: its
    figure does not depend on its batch mates. The exact trace with `n_probes` = 0, else Hutchinson's
    with the same probes at every doubling. A sample that still moves at `max_steps` keeps its last
    figure, and `change` says by how much it moved. LFMError where a figure is not finite.
    """
    generator = named_generator(seed, "probes")
    probes = signs((n_probes, *x.flatten(1).shape), x, generator) if n_probes else None
    boundaries, error = _at_boundaries(flow, x, cond, Solver(method, first_steps), probes, memory)
    change, steps = torch.full_like(boundaries[:, -1], math.inf), torch.full((len(x),), first_steps)
    active, count = torch.arange(len(x)), first_steps
    while len(active) and 2 * count <= max_steps:
        count *= 2
        part = (x[active], None if cond is None else cond[active])
        kept = None if probes is None else probes[:, active]
        new, new_error = _at_boundaries(flow, *part, Solver(method, count), kept, memory)
        moved = new[:, -1] - boundaries[active, -1]
        boundaries[active], change[active], steps[active] = new, moved, count
        if error is not None and new_error is not None:
            error[active] = new_error
        active = active[~(moved.abs() < tolerance)]
    if not boundaries[:, -1].isfinite().all():
        row = int((~boundaries[:, -1].isfinite()).nonzero()[0, 0])
        raise LFMError(
            f"log-likelihood of row {row} is {boundaries[row, -1].item()}: its path leaves the numbers; "
            "train longer or with a lower learning_rate, or look whether the row is an outlier"
        )
    return Likelihood(boundaries, change, steps, error)


def _at_boundaries(
    flow: LocalFlow, x: Tensor, cond: Tensor | None, solver: Solver, probes: Tensor | None, memory: int
) -> tuple[Tensor, Tensor | None]:
    """Log-likelihoods (B, N + 1) under the first 0 … N sub-flows, and the last one's probe error (B,)."""
    columns = 1 if probes is None else len(probes)
    values, total = [log_standard_normal(x)], x.new_zeros(len(x), columns)
    for n in range(1, flow.n_subflows + 1):
        x, log_det = flow.push_with_log_det(x, cond, solver, probes, [n], memory)
        total = total + log_det
        values.append(log_standard_normal(x) + total.mean(1))
    return torch.stack(values, dim=1), total.std(1) / math.sqrt(columns) if columns > 1 else None
