"""Densities by local flows beside those of other libraries: the same rows, the same wall-clock, one thread each.

`python -m benchmarks.peers` writes results/density/peers.json: three quarters of an hour on two cores; what is broken
off goes on. The peers are no dependencies of the package. They are installed without theirs, which none of this needs:
`pip install --no-deps torchcfm==1.0.7 zuko==1.6.0 pot==0.9.7.post1`.

| method | what |
| --- | --- |
| lfm | `LocalFlowDensity` as it comes; `--preset NAME` adds `lfm_NAME` |
| cfm | torchcfm's `ConditionalFlowMatcher`: one of our `MLP`s with as many parameters as lfm's networks together |
| ot_cfm | the same by torchcfm's `ExactOptimalTransportConditionalFlowMatcher`, optimal transport in batches of 256 |
| nsf | zuko's neural spline flow, maximum likelihood |
| mixture | scikit-learn's `GaussianMixture`, components (on small tables also the ridge) chosen on validation |
| gaussian | one Gaussian of full covariance |

What is equal. All methods see the same rows, whitened by the training part's moments, in the same three parts. Each may
train for `--seconds`: steps, looks at the validation part and pushes of Algorithm 1 together. A step, a look and a push
are timed first, then the number of steps is fixed, since schedules of learning rates must know it; `train_seconds` is
what it took in the end. All that descend do so by Adam with a cosine schedule and an average of weights, our code and
our defaults, except for what a preset says; the spline flow has a learning rate of its own, and ot_cfm the batches of
torchcfm's examples, since the transport of 512 rows takes many times as long as the step around it. lfm, cfm and ot_cfm
are all solved by `converged_log_prob`, in float64 with exact traces; the other likelihoods are closed forms.

Early stopping. Every method looks at the validation part some 40 times and keeps the weights that were best. Small
tables are overfitted long before the budget ends, at a learning rate that has hardly begun to fall: there each method
divides its budget into three trainings of different lengths, and validation chooses one.

Figures. Test NLL in nats of standardised columns, and for a density known exactly its KL from truth to model, the mean
of log p - log p_model over test rows. Standard errors are over the splits of a table, whose training rows overlap, or
over the seeds of a drawn density.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peer_methods import METHODS, Parts, Problem, fit_local_flow
from benchmarks.runner import run_jobs
from lfm_policy.data.tables import load_table
from lfm_policy.data.whitening import Whitener
from lfm_policy.density import LocalFlowDensity
from lfm_policy.evaluation.files import write_json

OUT = Path("results/density/peers.json")
PEERS = ("torchcfm", "zuko", "pot", "scikit-learn")

# 350 rows are overfitted by a spline flow within a hundred steps; twice this width and bins are 0.5 nats worse
SMALL_SPLINE = {"transforms": 3, "hidden_features": (32, 32), "bins": 4}
SMALL = Problem((0, 1, 2, 3, 4), (0.05, 0.2, 0.75), SMALL_SPLINE, (1e-6, 1e-2, 1e-1))
PROBLEMS = {
    "breast_cancer": SMALL,
    "diabetes": SMALL,
    "rose": Problem(
        (0, 1, 2),
        (1.0,),
        {"transforms": 5, "hidden_features": (128, 128), "bins": 16},
        (1e-6,),
        {"n_train": 1_000_000, "n_valid": 2_000, "n_test": 10_000},
    ),
}


def load(data: str, seed: int) -> Parts:
    """A table's or density's parts, whitened by the moments of its training part."""
    table = load_table(data, seed=seed, **PROBLEMS[data].sizes)
    train = torch.from_numpy(np.asarray(table.train, dtype=np.float64))
    whitener = Whitener.fit(train, "whiten", table.columns)
    valid, test = (whitener.normalize(torch.from_numpy(np.asarray(p, np.float64))) for p in (table.valid, table.test))
    own = whitener.log_abs_det().item()
    standardised = own + train.std(0, unbiased=False).log().sum().item()
    truth = None if table.log_prob is None else torch.from_numpy(table.log_prob(table.test))
    return Parts(whitener.normalize(train), valid, test, standardised, own, truth)


def run(data: str, method: str, seed: int, seconds: float) -> dict[str, Any]:
    """The figures of one method on one split."""
    warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")  # mixtures that stop short
    parts = load(data, seed)
    preset = method.removeprefix("lfm_") if method.startswith("lfm_") else None
    fit = partial(fit_local_flow, preset=preset) if preset else METHODS[method]
    fitted = fit(parts, PROBLEMS[data], seconds, seed)
    log_prob = fitted.log_prob(parts.test)
    nll = -(log_prob + parts.to_standardised)
    figures = {
        "test_nll": nll.mean().item(),
        "test_nll_median": nll.median().item(),  # a mean over few rows may be the work of one of them
        "valid_nll": -(fitted.log_prob(parts.valid).mean().item() + parts.to_standardised),
    }
    if parts.truth is not None:
        gap = parts.truth - log_prob - parts.to_own
        figures |= {"kl": gap.mean().item(), "kl_error": (gap.std() / math.sqrt(len(gap))).item()}
    rounded = {name: round(value, 5) for name, value in figures.items()}
    return {**rounded, "train_seconds": round(fitted.seconds, 2), **fitted.facts}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each data set and method the means over seeds with standard errors, and lfm's lead on the same splits."""
    found = []
    for data, method in dict.fromkeys((row["data"], row["method"]) for row in rows):
        mine = {row["seed"]: row for row in rows if (row["data"], row["method"]) == (data, method)}
        ours = {row["seed"]: row for row in rows if (row["data"], row["method"]) == (data, "lfm")}
        figure = "kl" if all("kl" in row for row in mine.values()) else "test_nll"
        shared = [seed for seed in mine if seed in ours]
        lead = [mine[seed][figure] - ours[seed][figure] for seed in shared]
        found.append(
            {
                "data": data,
                "method": method,
                "figure": figure,
                **_mean_and_error([row[figure] for row in mine.values()]),
                **{f"behind_lfm_{name}": value for name, value in _mean_and_error(lead).items() if method != "lfm"},
                "parameters": next(iter(mine.values()))["parameters"],
                "train_seconds": _mean_and_error([row["train_seconds"] for row in mine.values()])["mean"],
            }
        )
    return found


def _mean_and_error(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    known = {"mean": float(np.mean(values)), "standard_error": error}
    return {name: round(value, 4) for name, value in known.items() if math.isfinite(value)}


def main() -> None:
    """All methods on all data, then the summary."""
    parser = argparse.ArgumentParser(description="Densities by local flows beside those of other libraries.")
    parser.add_argument("--seconds", type=float, default=90.0, help="wall-clock of a training")
    parser.add_argument("--data", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of each data set's own")
    parser.add_argument("--preset", help="a preset of LocalFlowDensity to measure beside its defaults")
    parser.add_argument("--n_procs", type=int, default=2, help="processes of one thread")
    parser.add_argument("--out", type=Path, default=OUT)
    told = parser.parse_args()
    methods = [*told.methods, *([f"lfm_{told.preset}"] if told.preset else [])]
    if told.preset:
        LocalFlowDensity.preset(told.preset)  # an unknown one is refused before any work
    jobs = [
        {"data": data, "method": method, "seed": seed, "seconds": told.seconds}
        for data in told.data
        for seed in told.seeds or PROBLEMS[data].seeds
        for method in methods
    ]
    facts = {
        "seeds": {data: list(told.seeds or PROBLEMS[data].seeds) for data in told.data},
        "seconds": told.seconds,
        "peers": {name: metadata.version(name) for name in PEERS},
        "same_for_all": "rows (load_table, split by the seed), their whitening by the training part, wall-clock of "
        "training, one thread, early stopping on the validation part, optimiser with schedule and average of weights",
        "test_nll": "nats of columns standardised by the training part",
        "kl": "nats, mean of log p - log p_model over the test rows; kl_error its standard error",
        "standard_error": "over splits, whose training rows overlap (tables), or over independent draws (rose)",
        "lengths": {data: list(PROBLEMS[data].lengths) for data in told.data},
        "spline": {data: dict(PROBLEMS[data].spline) for data in told.data},
    }
    rows = run_jobs(told.out, run, jobs, facts, told.n_procs)
    written = json.loads(told.out.read_text())
    kept = written.pop("rows")
    write_json(told.out, {**written, "summary": summary(rows), "rows": kept})


if __name__ == "__main__":
    main()
