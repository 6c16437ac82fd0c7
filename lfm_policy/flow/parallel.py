"""Sub-flows on exact marginals, trained side by side in processes."""

from __future__ import annotations

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.fit import FitOptions, Fitter, share_start
from lfm_policy.flow.local_flow import LocalFlow
from lfm_policy.flow.source import TensorSource


def fit_in_parallel(
    flow: LocalFlow,
    samples: Tensor,
    options: FitOptions,
    cond: Tensor | None = None,
    seed: int = 0,
    n_procs: int = 2,
) -> LocalFlow:
    """Fit the sub-flows of a flow independently, in `n_procs` processes of one thread each.

    Needs exact marginals and no warm start; a shared start is trained first, here. The weights are those
    that `fit_local_flow` gives with one thread. The flow is changed in place and returned.
    """
    if options.matching.marginals != "exact" or options.warm_start or flow.shares_weights:
        raise LFMError(
            "fit_in_parallel: sub-flows are independent only with exact marginals, without warm_start and "
            "with their own weights; use fit_local_flow"
        )
    source = TensorSource(samples, cond)
    if options.shared_start:
        _fit_shared_start(flow, source, options, seed)
    jobs = [(flow, source, options, seed, n) for n in range(1, flow.n_subflows + 1)]
    with multiprocessing.get_context("spawn").Pool(n_procs) as pool:
        for n, weights in enumerate(pool.imap(_fit_one, jobs), start=1):
            flow.field(n).load_state_dict(weights)
    return flow


def _fit_shared_start(flow: LocalFlow, source: TensorSource, options: FitOptions, seed: int) -> None:
    fitter = Fitter(flow, source, options, seed)
    while not fitter.stage_done:  # the next step would already train sub-flow 1
        fitter.step()
    share_start(flow)


def _fit_one(job: tuple[LocalFlow, TensorSource, FitOptions, int, int]) -> dict[str, Tensor]:
    flow, source, options, seed, n = job
    torch.set_num_threads(1)
    fitter = Fitter(flow, source, options, seed, subflows=[n])
    while not fitter.done:
        fitter.step()
    return {name: weight.clone() for name, weight in flow.field(n).state_dict().items()}
