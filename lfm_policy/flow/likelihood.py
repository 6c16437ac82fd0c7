"""Log-likelihoods whose numerical error is known: steps are doubled, sample by sample, until nothing moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lfm_policy.flow.divergence import MEMORY, rademacher_probes
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.local_flow import LocalFlow, log_standard_normal
from lfm_policy.flow.random import named_generator
from lfm_policy.flow.solver import MethodName, Solver


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods in nats, with what is known of their errors.

    `boundaries` (B, N + 1): column n is the log-likelihood under the first n sub-flows, taken as a flow
    to N(0, I) of their own; the last column is the chain's. `change` (B,): by how much the last doubling
    of the steps moved a sample. `steps` (B,): steps per sub-flow that gave its figure. `converged` (B,):
    whether it came to rest. `probe_error` (B,): standard error of Hutchinson's estimate, None for the
    exact trace or a single probe.
    """

    boundaries: Tensor
    change: Tensor
    steps: Tensor
    converged: Tensor
    probe_error: Tensor | None = None

    @property
    def log_prob(self) -> Tensor:
        """log p(x) (B,)."""
        return self.boundaries[:, -1]

    @property
    def mean_change(self) -> float:
        """By how much the last doublings moved the mean log-likelihood."""
        return self.change.mean().abs().item()

    @classmethod
    def cat(cls, parts: Sequence[Likelihood]) -> Likelihood:
        """The likelihoods of several batches as those of one, in main memory."""
        names = ("boundaries", "change", "steps", "converged")
        joined = {name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in names}
        errors = [part.probe_error.cpu() for part in parts if part.probe_error is not None]
        return cls(**joined, probe_error=torch.cat(errors) if errors else None)

    def shifted(self, log_det: float) -> Likelihood:
        """The same in other units, whose affine map to these has the log |det| `log_det`."""
        return replace(self, boundaries=self.boundaries + log_det)


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
    first_row: int = 0,
) -> Likelihood:
    """log p(x) of samples (B, *shape), each solved with so many steps that doubling moves it by < `tolerance`.

    Moved by less are log N(x_n; 0, I) and the log-determinant at every boundary n, each by itself: their sum
    may stand still by chance while they still move. Every sample has its own number of steps per sub-flow,
    from 2 `first_steps` to `max_steps`: its figure does not depend on its batch mates. The exact trace with
    `n_probes` = 0, else Hutchinson's with the same probes at every doubling. A sample that still moves at
    `max_steps` keeps its last figure. LFMError where a figure is not finite; it counts rows from `first_row`.
    """
    generator = named_generator(seed, "probes")
    probes = rademacher_probes(x, n_probes, generator) if n_probes else None
    found = _solve(flow, x, cond, Solver(method, first_steps), probes, memory)
    change, steps = torch.full_like(x.flatten(1)[:, 0], math.inf), torch.full((len(x),), first_steps)
    active, count = torch.arange(len(x), device=x.device), first_steps
    while len(active) and 2 * count <= max_steps:
        count *= 2
        part = (x[active], None if cond is None else cond[active])
        kept = None if probes is None else probes[:, active]
        new = _solve(flow, *part, Solver(method, count), kept, memory)
        change[active], steps[active.cpu()] = new.log_prob - found.log_prob[active], count
        still = ~(found.at(active).distance(new) < tolerance)
        found.put(active, new)
        active = active[still]
    if not found.log_prob.isfinite().all():
        row = int((~found.log_prob.isfinite()).nonzero()[0, 0])
        raise LFMError(
            f"log-likelihood of row {first_row + row} is {found.log_prob[row].item()}: its path leaves the numbers; "
            "train longer or with a lower learning_rate, or look whether the row is an outlier"
        )
    at_rest = torch.ones(len(x), dtype=torch.bool)
    at_rest[active.cpu()] = False
    error = found.log_dets[:, -1].std(1) / math.sqrt(n_probes) if n_probes > 1 else None
    return Likelihood(found.normals + found.log_dets.mean(2), change, steps, at_rest, error)


class _Solution(NamedTuple):
    """log N(x_n; 0, I) (B, N + 1) and the log-determinants up to boundary n (B, N + 1, K)."""

    normals: Tensor
    log_dets: Tensor

    @property
    def log_prob(self) -> Tensor:
        return self.normals[:, -1] + self.log_dets[:, -1].mean(1)

    def at(self, rows: Tensor) -> _Solution:
        return _Solution(self.normals[rows], self.log_dets[rows])

    def put(self, rows: Tensor, other: _Solution) -> None:
        self.normals[rows], self.log_dets[rows] = other.normals, other.log_dets

    def distance(self, other: _Solution) -> Tensor:
        """The largest difference of any part (B,)."""
        normals = (self.normals - other.normals).abs().amax(1)
        return torch.maximum(normals, (self.log_dets - other.log_dets).mean(2).abs().amax(1))


def _solve(
    flow: LocalFlow, x: Tensor, cond: Tensor | None, solver: Solver, probes: Tensor | None, memory: int
) -> _Solution:
    normals, log_dets = [log_standard_normal(x)], [x.new_zeros(len(x), 1 if probes is None else len(probes))]
    for n in range(1, flow.n_subflows + 1):
        x, log_det = flow.push_with_log_det(x, cond, solver, probes, [n], memory)
        normals.append(log_standard_normal(x))
        log_dets.append(log_dets[-1] + log_det)
    return _Solution(torch.stack(normals, dim=1), torch.stack(log_dets, dim=1))
