"""The couplings and chains that `benchmarks.what_works` compares, as settings of `LocalFlowDensity` of one budget.

One budget means: batches of one size, and parameters of a network times the steps of all networks equal within 2 %.
With P the parameters of four small networks and S steps, that is

| what | networks | parameters of each | steps of each |
| --- | --- | --- | --- |
| a chain | N | P / N | S |
| a chain with a shared start | 4 | P / 4 | S / 2, after 2 S of one network that is then copied |
| a global flow | 1 | P | S |
| a small global flow, and shared weights (the control) | 1 | P / 4 | 4 S |

Pushing the data on comes on top: the number of rows decides what it costs, not the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from benchmarks import widths
from lfm_policy.density import LocalFlowDensity
from lfm_policy.density.settings import new_flow
from lfm_policy.flow import Schedule

Settings = dict[str, Any]

SMALL, DEPTH, BATCH_SIZE = 64, 3, 256  # SMALL is the width of a sub-flow's network where N = 4
PAPER, PAPER_N = (0.15, 1.25), 4  # (c, rho) and N of the paper's robot tasks
WITHIN = 0.02

PUSHED_FRESH: Settings = {"marginals": "pushed", "coupling": "fresh"}
EXACT_COMMON: Settings = {"marginals": "exact", "coupling": "common"}


@dataclass(frozen=True)
class Case:
    """A density to try them on: columns, training rows, what its networks see, and (c, rho) of a fine schedule.

    The fine schedule's first stretch ends where the noise is as wide as the finest structure of the data.
    """

    dim: int
    n_train: int
    n_frequencies: int
    fine: tuple[float, float]


CASES: Mapping[str, Case] = {
    "mixture": Case(5, 100_000, 0, (5e-3, 5.0)),
    "rose": Case(2, 200_000, 6, (5e-4, 9.0)),
}


def variants(case: Case, steps: int) -> dict[str, Settings]:
    """Settings by name, the most informative first; `steps` is S of the module's table.

    Among chains of one sub-flow `fm` is the one that `pushed_fresh_ot` would be and `interflow` the one that
    `exact_common_geodesic` would be: with noise at the end couplings are alike, and the geodesic is trigonometric.
    """
    chain = partial(_chain, case, steps)
    paper, fine = chain(PAPER_N, *PAPER), chain(PAPER_N, *case.fine)
    wide, small = chain(1, *PAPER), {**chain(1, *PAPER), "width": SMALL, "steps": PAPER_N * steps}
    ot, trigonometric, geodesic = ({"interpolant": name} for name in ("ot", "trigonometric", "geodesic"))
    shared_start = {"shared_start": PAPER_N * steps // 2, "steps": steps // 2}
    pushed, exact = {"marginals": "pushed"}, {"marginals": "exact"}
    few, many = (chain(n, _first_step(n), PAPER[1]) for n in (2, 8))
    return {
        "pushed_fresh_ot": {**paper, **PUSHED_FRESH, **ot},
        "fm": {**wide, **PUSHED_FRESH, **ot},
        "interflow": {**wide, **PUSHED_FRESH, **trigonometric},
        "exact_common_geodesic": {**paper, **EXACT_COMMON, **geodesic},
        "shared_start": {**paper, **EXACT_COMMON, **geodesic, **shared_start},
        "share_weights": {**paper, **EXACT_COMMON, **geodesic, "share_weights": True},
        "small_fm": {**small, **PUSHED_FRESH, **ot},
        "small_interflow": {**small, **PUSHED_FRESH, **trigonometric},
        "pushed_fresh_trigonometric": {**paper, **PUSHED_FRESH, **trigonometric},
        "pushed_fresh_geodesic": {**paper, **PUSHED_FRESH, **geodesic},
        "fine_exact_common_geodesic": {**fine, **EXACT_COMMON, **geodesic},
        "fine_share_weights": {**fine, **EXACT_COMMON, **geodesic, "share_weights": True},
        "fine_shared_start": {**fine, **EXACT_COMMON, **geodesic, **shared_start},
        "fine_pushed_fresh_geodesic": {**fine, **PUSHED_FRESH, **geodesic},
        "exact_common_geodesic_n2": {**few, **EXACT_COMMON, **geodesic},
        "exact_common_geodesic_n8": {**many, **EXACT_COMMON, **geodesic},
        "pushed_fresh_ot_n2": {**few, **PUSHED_FRESH, **ot},
        "pushed_fresh_ot_n8": {**many, **PUSHED_FRESH, **ot},
        "pushed_fresh_ot_warm": {**paper, **PUSHED_FRESH, **ot, "warm_subflows": True},
        "exact_fresh_ot": {**paper, **exact, **ot, "coupling": "fresh"},
        "exact_fresh_geodesic": {**paper, **exact, **geodesic, "coupling": "fresh"},
        "exact_common_ot": {**paper, **EXACT_COMMON, **ot},
        "exact_common_trigonometric": {**paper, **EXACT_COMMON, **trigonometric},
        "exact_independent_ot": {**paper, **exact, **ot, "coupling": "independent"},
        "pushed_independent_ot": {**paper, **pushed, **ot, "coupling": "independent"},
        "pushed_minibatch_ot": {**paper, **pushed, **ot, "coupling": "ot"},
    }


def check_budget(case: Case, tried: Mapping[str, Settings]) -> None:
    """ValueError unless all cost the same training arithmetic, and all with several networks or a wide one the same
    parameters, within 2 %."""
    small = widths.parameters(case.dim, SMALL, DEPTH, case.n_frequencies)
    steps = tried["pushed_fresh_ot"]["steps"]
    for name, settings in tried.items():
        flow = new_flow(LocalFlowDensity(**settings), case.dim, seed=0)
        each, in_all = parameters(flow.field(1)), parameters(flow)
        work = each * steps_in_all(settings) / (PAPER_N * small * steps)
        size = in_all / (PAPER_N * small)
        if abs(work - 1) > WITHIN or (each != small and abs(size - 1) > WITHIN):
            raise ValueError(f"{name}: {work:.3f} of the budget's arithmetic, {size:.3f} of its parameters")


def steps_in_all(settings: Mapping[str, Any]) -> int:
    """Optimiser steps of all networks together."""
    return settings["n_subflows"] * settings["steps"] + settings.get("shared_start", 0)


def parameters(network: nn.Module) -> int:
    """Trained numbers of a network or of a whole flow."""
    return sum(weights.numel() for weights in network.parameters())


def _chain(case: Case, steps: int, n_subflows: int, c: float, rho: float) -> Settings:
    """A chain of N networks that have the budget's parameters together; everything that training it takes but where
    its pairs come from."""
    return {
        "n_subflows": n_subflows,
        "c": c,
        "rho": rho,
        "width": _width(case, n_subflows),
        "depth": DEPTH,
        "n_frequencies": case.n_frequencies,
        "steps": steps,
        "batch_size": BATCH_SIZE,
    }


def _first_step(n_subflows: int) -> float:
    """c that takes a chain of N sub-flows to the OU time at which the paper's chain hands over to its last one."""
    c, rho = PAPER
    whole = Schedule.geometric(PAPER_N, c, rho).times[-2]
    return round(whole / sum(rho**n for n in range(n_subflows - 1)), 5)


def _width(case: Case, n_networks: int) -> int:
    """Width at which so many networks have most nearly the parameters of four small ones."""
    small = widths.parameters(case.dim, SMALL, DEPTH, case.n_frequencies)
    return widths.width_of(round(PAPER_N * small / n_networks), case.dim, DEPTH, case.n_frequencies)
