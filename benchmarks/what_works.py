"""Which coupling, which chain? Density estimation at equal budget, where it is cheap: what docs/what_works.md says.

`python -m benchmarks.what_works` writes results/density/what_works.json: 260 runs, some 40 minutes on two
cores; what is broken off goes on, with the same options: rows of other settings are dropped.
`python -m benchmarks.what_works --table` prints a table of each density from it.

What is tried, and what equal budget means, is in benchmarks/settings_tried.py. All of it is `LocalFlowDensity` with
the settings that stand in each row, and `other_settings` for all. Two densities that are known exactly: a mixture of
six Gaussians in five dimensions, 100,000 rows, and a rose drawn with a fine pen in the plane, 200,000 rows. Training
rows are the same for all seeds, which draw weights, batches and noise.

Learning rates. Small networks need larger ones, and comparing at one rate misleads: every variant tries three with
seed 0 and takes that of the lowest KL on 2,000 validation points. Seeds 1 and 2 then run at the chosen rate. Rows of
these three runs are `final`; the others are the search.

Figures. KL(truth ‖ model) in nats is the mean of log p - log q over 4,000 test points, the same for all rows, in
float32 by RK4; steps are doubled until that moves the mean over 500 of the points by less than 0.002 (`solver_change`
is that last movement, `solver_steps` what stands before it). `swd` is the sliced Wasserstein distance of order 2 of
4,000 samples from 4,000 held-out points, whitened, by method and evaluations of a network along the whole chain; all
rows of a density begin with the same noise. One evaluation of a global network costs as much as four of a small
one: `multiply_adds` says it. `floor` is the same distance between two sets of held-out points.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.mixtures import random_mixture
from benchmarks.runner import run_jobs
from benchmarks.settings_tried import CASES, check_budget, parameters, steps_in_all, variants
from benchmarks.what_works_table import SEEDS, Row, best_rate, finals, identity, table
from lfm_policy.data.tables import load_table
from lfm_policy.data.whitening import Whitener
from lfm_policy.density import LocalFlowDensity
from lfm_policy.density.settings import fit_options
from lfm_policy.evaluation.distances import sliced_wasserstein
from lfm_policy.evaluation.files import write_json
from lfm_policy.flow import LFMError, Solver, named_generator

OUT = Path("results/density/what_works.json")
RATES = (1e-3, 3e-3, 1e-2)
STEPS_PER_SECOND = 250  # of S, so that four small networks of S steps each train in about so many seconds on a core
MIXTURE_SEED = 7
N_POINTS = 4_000  # test points, samples, and held-out points they are compared with; half as many validation points
N_CHECKED, SETTLED, MOST_STEPS = 500, 0.002, 64  # points on which the solver is checked, nats, RK4 steps a sub-flow
BLOCKS = 20  # of test points, whose KLs are kept: two rows' differences can then be paired
N_PROJECTIONS = 200
EVALUATIONS = (1, 2, 4, 8, 16, 32)

Job = dict[str, Any]


class Points(NamedTuple):
    """Rows (M, d) in float64 in a density's own units, and the truth's log p (M,) in nats of two parts."""

    train: Tensor
    valid: Tensor
    test: Tensor
    held: Tensor
    others: Tensor
    valid_log_p: Tensor
    test_log_p: Tensor


@lru_cache(maxsize=2)
def points(density: str, n_train: int, n_points: int) -> Points:
    """All points of a density, the same in every process."""
    if density == "rose":
        table = load_table("rose", n_train=n_train, n_valid=n_points // 2, n_test=3 * n_points)
        assert table.log_prob is not None  # it is drawn
        log_prob, train, valid = table.log_prob, table.train, table.valid
        test, held, others = np.split(table.test, 3)
    else:
        mixture = random_mixture(MIXTURE_SEED, CASES[density].dim)
        log_prob, sizes = mixture.log_prob, (n_train, n_points // 2, n_points, n_points, n_points)
        rngs = [np.random.default_rng([MIXTURE_SEED, part]) for part in range(len(sizes))]
        train, valid, test, held, others = (mixture.sample(n, rng) for n, rng in zip(sizes, rngs, strict=True))
    parts = (train, valid, test, held, others, log_prob(valid), log_prob(test))
    return Points(*(torch.from_numpy(np.ascontiguousarray(part, dtype=np.float64)) for part in parts))


def run(
    density: str,
    variant: str,
    settings: Mapping[str, Any],
    seed: int,
    learning_rate: float,
    n_train: int,
    n_points: int,
) -> dict[str, Any]:
    """A row's figures; `failed` says why where training or the solver left the numbers."""
    known = points(density, n_train, n_points)
    estimator = LocalFlowDensity(**settings, learning_rate=learning_rate, evaluations=1)
    begin, cpu = time.perf_counter(), time.process_time()
    try:
        estimator.begin(known.train, None, seed).run(estimator.record)
    except LFMError as error:
        return {"failed": str(error)}
    seconds = {"train_seconds": time.perf_counter() - begin, "train_cpu_seconds": time.process_time() - cpu}
    found = {**work(estimator, n_train), **{name: round(value, 2) for name, value in seconds.items()}}
    return {**found, **divergences(estimator, known), "swd": distances(estimator, known)}


def work(estimator: LocalFlowDensity, n_train: int) -> dict[str, Any]:
    """Sizes and arithmetic; a multiply-add is one weight times one input, of a row of data, forwards or backwards."""
    flow, steps = estimator.flow_, steps_in_all(estimator.get_params())
    forward = multiply_adds(flow.field(1))
    first = next(layer for layer in flow.field(1).modules() if isinstance(layer, nn.Linear)).weight.numel()
    options = fit_options(estimator, n_train)
    evaluations = options.push_solver.evaluations or 0
    pushes = flow.n_subflows - 1 if options.matching.marginals == "pushed" else 0
    return {
        "parameters_each": parameters(flow.field(1)),
        "parameters": parameters(flow),
        "steps_in_all": steps,
        "multiply_adds": forward,
        # forwards, and backwards to all weights and to all inputs but the data's
        "train_multiply_adds": steps * options.batch_size * (3 * forward - first),
        "push_multiply_adds": pushes * n_train * evaluations * forward,
    }


def multiply_adds(network: nn.Module) -> int:
    """Of one evaluation at one row."""
    return sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear))


def divergences(estimator: LocalFlowDensity, known: Points) -> dict[str, Any]:
    """KL on validation and test points with its errors, or `failed`."""
    steps, change = settled_steps(estimator, known)
    valid = gaps(estimator, known.valid, known.valid_log_p, steps).mean().item()
    each = gaps(estimator, known.test, known.test_log_p, steps)
    if not (math.isfinite(valid) and each.isfinite().all()):
        return {"failed": "log-likelihoods that are not finite"}
    return {
        "valid_kl": round(valid, 5),
        "test_kl": round(each.mean().item(), 5),
        "test_error": round(each.std().item() / math.sqrt(len(each)), 5),
        "test_kl_of_blocks": [round(block.mean().item(), 5) for block in each.chunk(BLOCKS)],
        "solver_steps": steps,
        "solver_change": round(change, 6) if math.isfinite(change) else None,
    }


def settled_steps(estimator: LocalFlowDensity, known: Points) -> tuple[int, float]:
    """RK4 steps per sub-flow, 32 along the chain and 8 at least, whose doubling hardly moves the KL; by how much."""
    rows, log_p = known.test[:N_CHECKED], known.test_log_p[:N_CHECKED]
    steps = max(8, 32 // estimator.n_subflows)
    now = gaps(estimator, rows, log_p, steps).mean().item()
    while True:
        finer = gaps(estimator, rows, log_p, 2 * steps).mean().item()
        if abs(finer - now) < SETTLED or not math.isfinite(finer) or 2 * steps > MOST_STEPS:
            return steps, abs(finer - now)
        steps, now = 2 * steps, finer


@torch.no_grad()
def gaps(estimator: LocalFlowDensity, rows: Tensor, log_p: Tensor, steps: int) -> Tensor:
    """log p - log q (M,) in nats of rows (M, d)."""
    whitened = estimator.whitener_.normalize(rows).float()
    log_q = estimator.flow_.log_prob(whitened, solver=Solver("rk4", steps)).double()
    return log_p - log_q - estimator.whitener_.log_abs_det()


@torch.no_grad()
def distances(estimator: LocalFlowDensity, known: Points) -> dict[str, float | None]:
    """Sliced Wasserstein distance by "method evaluations"; None where samples leave the numbers."""
    held, found = estimator.whitener_.normalize(known.held), {}
    for method, evaluations, solver in solvers(estimator.n_subflows):
        noise = named_generator(0, "samples")
        samples = estimator.flow_.sample(tuple(held.shape), None, solver, noise)
        finite = bool(samples.isfinite().all())
        found[f"{method} {evaluations}"] = distance(samples, held) if finite else None
    return found


def distance(x: Tensor, y: Tensor) -> float:
    """The same directions every time."""
    return round(sliced_wasserstein(x, y, N_PROJECTIONS, named_generator(0, "directions")), 5)


def solvers(n_subflows: int) -> Iterable[tuple[str, int, Solver]]:
    """Method, evaluations along the chain, and the solver of a sub-flow that takes so many."""
    for evaluations in EVALUATIONS:
        each, rest = divmod(evaluations, n_subflows)
        if each and not rest:
            yield "euler", evaluations, Solver("euler", each)
            if each % 2 == 0:
                yield "midpoint", evaluations, Solver("midpoint", each // 2)


def floor(density: str, n_train: int, n_points: int) -> float:
    """What samples of the truth itself would score."""
    known = points(density, n_train, n_points)
    whitener = Whitener.fit(known.train)  # as every row's estimator does
    return distance(whitener.normalize(known.others), whitener.normalize(known.held))


class Plan(NamedTuple):
    """What is run: variants by density, and at which learning rates, with which seeds and on how many rows."""

    variants: Mapping[str, Mapping[str, Mapping[str, Any]]]
    rates: Sequence[float]
    seeds: Sequence[int]
    n_train: Mapping[str, int]
    n_points: int

    def pairs(self) -> list[tuple[str, str]]:
        """Variant and density, in the order of what they tell."""
        names = next(iter(self.variants.values()))
        return list(product(names, self.variants))

    def search(self) -> list[Job]:
        """The first phase: all rates with the first seed."""
        return [
            self.job(density, variant, self.seeds[0], rate) for variant, density in self.pairs() for rate in self.rates
        ]

    def rest(self, rows: Sequence[Row]) -> list[Job]:
        """The second phase: the other seeds at the rates that were chosen, of what has been searched so far."""
        chosen = {pair: self.chosen(*pair, rows) for pair in self.pairs()}
        return [
            self.job(density, variant, seed, rate)
            for (variant, density), rate in chosen.items()
            if rate is not None
            for seed in self.seeds[1:]
        ]

    def chosen(self, variant: str, density: str, rows: Sequence[Row]) -> float | None:
        """The rate of the lowest validation KL with the first seed; None before all were tried, or if all failed."""
        jobs = [self.job(density, variant, self.seeds[0], rate) for rate in self.rates]
        searched = [row for row in rows if any(_is(row, job) for job in jobs)]
        return best_rate(searched) if len(searched) == len(jobs) else None

    def job(self, density: str, variant: str, seed: int, rate: float) -> Job:
        """What `run` takes."""
        settings = dict(self.variants[density][variant])
        names = {"density": density, "variant": variant, "seed": seed, "learning_rate": rate}
        return {**names, "n_train": self.n_train[density], "n_points": self.n_points, "settings": settings}


def plan(seconds_per_run: float, quick: bool) -> Plan:
    """The study, or a few steps of it to see that the script runs; ValueError if a variant is not of the budget."""
    steps = 20 if quick else max(20, round(seconds_per_run * STEPS_PER_SECOND))
    tried = {name: variants(case, steps) for name, case in CASES.items()}
    for name, case in CASES.items():
        check_budget(case, tried[name])
    if quick:
        return Plan(tried, RATES[1:2], SEEDS[:2], dict.fromkeys(CASES, 2_000), 200)
    return Plan(tried, RATES, SEEDS, {name: case.n_train for name, case in CASES.items()}, N_POINTS)


def measure(todo: Plan, path: Path, n_procs: int) -> None:
    """Both phases into the file `path`; what it holds already is not run again."""
    facts = facts_of(todo)
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    # what the second phase has done before is asked for too: the runner drops rows that nobody asks for
    rows = run_jobs(path, run, [*todo.search(), *todo.rest(known)], facts, n_procs)
    rows = run_jobs(path, run, [*todo.search(), *todo.rest(rows)], facts, n_procs)
    final = [identity(row) for row in finals(rows)]
    flagged = [{**row, "final": identity(row) in final} for row in rows]
    write_json(path, {**json.loads(path.read_text()), "rows": flagged})


def facts_of(todo: Plan) -> dict[str, Any]:
    """What holds for all rows."""
    varied = {name for tried in todo.variants.values() for settings in tried.values() for name in settings}
    others = {name: value for name, value in LocalFlowDensity().get_params().items() if name not in varied}
    for name in ("learning_rate", "evaluations", "random_state", "valid_fraction"):
        others.pop(name, None)
    return {
        "seeds": list(todo.seeds),
        "learning_rates": list(todo.rates),
        "floor": {name: floor(name, n_train, todo.n_points) for name, n_train in todo.n_train.items()},
        "swd": f"sliced Wasserstein, order 2, {N_PROJECTIONS} directions, {todo.n_points} points each, whitened",
        "other_settings": others,
    }


def _is(row: Row, job: Job) -> bool:
    """Whether the row is of this job and was not run with other settings."""
    return all(row.get(name) == value for name, value in job.items())


def main() -> None:
    """The study, or the table of what is there."""
    parser = argparse.ArgumentParser(description="Couplings and chains compared on two densities at equal budget.")
    parser.add_argument("--output", type=Path, default=OUT)
    parser.add_argument("--n_procs", type=int, default=2)
    parser.add_argument(
        "--seconds-per-run", type=float, default=10.0, help="of training on one core, about; 10 unless told otherwise"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, into another --output")
    parser.add_argument("--table", action="store_true", help="print markdown from the output that is there")
    told = parser.parse_args()
    if told.table:
        if not told.output.is_file():
            parser.error(f"--table: {told.output} does not exist yet")
        print(table(json.loads(told.output.read_text())))
        return
    if told.quick and told.output == OUT:
        parser.error("--quick: give an --output of its own; the real rows would be dropped")
    torch.set_num_threads(1)
    measure(plan(told.seconds_per_run, told.quick), told.output, told.n_procs)


if __name__ == "__main__":
    main()
