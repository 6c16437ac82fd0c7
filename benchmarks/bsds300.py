"""BSDS300 rebuilt from photographs: test NLL with a converged solve, for local and global flows at equal budget.

`python -m benchmarks.bsds300 --path PHOTOGRAPHS` (folder or zip of BSDS500) writes results/density/bsds300.json.
Equal budget: total parameters within 2 % (the control apart, one network of a sub-flow's size with four times the
batches), every network sees the same number of batches of the same size. Every method tries two learning rates on a
tenth of the steps and takes the one of the lower NLL on validation patches. Divergences by Hutchinson's estimate with
one probe. The mean over all test patches is found by a control variate: a full-covariance
Gaussian's log-likelihood is averaged over all of them, the flow's excess over it on the first ROWS. Methods are
compared on the same ROWS: `paired` holds differences of NLL to lfm with their standard error over blocks of patches.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.runner import run_jobs
from benchmarks.widths import parameters, width_of
from lfm_policy.data.tables import Table, load_table
from lfm_policy.density import LocalFlowDensity
from lfm_policy.evaluation.files import write_json

OUTPUT = Path("results/density/bsds300.json")
# nats, as the paper prints them in Table 1; its code takes the validation part and 149 Euler steps a sub-flow
QUOTED = {"LFM": -157.80, "InterFlow": -156.22, "JKO-iFlow": -157.75, "FFJORD": -157.40, "one Gaussian (MAF)": -96.67}
ROWS, WIDTH, DEPTH, DIM = 4000, 512, 4, 63
RATES, BLOCKS = (1e-3, 3e-3), 20
COMMON: dict[str, Any] = {
    "batch_size": 512,
    "depth": DEPTH,
    "ema_maximum": 0.999,
    "tolerance": 0.05,
    "n_probes": 1,
    "evaluations": 4,
    "patience": None,
}
GLOBAL = {"n_subflows": 1, "coupling": "fresh", "marginals": "exact"}
METHODS: dict[str, dict[str, Any]] = {
    "lfm": {"c": 2e-3, "rho": 7.0},
    "fm": {**GLOBAL, "interpolant": "ot"},
    "interflow": {**GLOBAL, "interpolant": "trigonometric"},
    "one small network": {"c": 2e-3, "rho": 7.0, "share_weights": True},
}


@cache
def table(path: str) -> Table:
    """The patches."""
    return load_table("bsds300", path)


def settings(method: str, steps: int, learning_rate: float) -> dict[str, Any]:
    """Settings of `LocalFlowDensity` at equal budget."""
    chosen = {**COMMON, "steps": steps, "learning_rate": learning_rate, "width": WIDTH, **METHODS[method]}
    if chosen.get("n_subflows") == 1:
        chosen["width"] = width_of(4 * parameters(DIM, WIDTH, DEPTH, 0), DIM, DEPTH, 0)
    return chosen


def gaussian_log_prob(train: NDArray[Any], x: NDArray[Any]) -> NDArray[np.float64]:
    """log N(x; mean, covariance of the training part) (M,) in nats."""
    mean, covariance = train.mean(0, dtype=np.float64), np.cov(train.T.astype(np.float64))
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, (x - mean).T)
    return -0.5 * (white**2).sum(0) - np.log(np.diag(root)).sum() - 0.5 * DIM * np.log(2 * np.pi)


def figures(model: LocalFlowDensity, data: Table, part: str, rows: int) -> dict[str, float]:
    """NLL of a part, its standard error over patches and the move of the last doubling of steps."""
    values = getattr(data, part)
    likelihood = model.likelihood(values[:rows])
    gaussian = gaussian_log_prob(data.train, values)
    excess = likelihood.log_prob.numpy() - gaussian[:rows]
    errors = excess.std(ddof=1) / np.sqrt(rows), gaussian.std(ddof=1) / np.sqrt(len(gaussian))
    return {
        f"{part}_nll": -float(excess.mean() + gaussian.mean()),
        f"{part}_standard_error": float(np.hypot(*errors)),
        f"{part}_mean_change": likelihood.mean_change,
        f"{part}_unconverged": int((~likelihood.converged).sum()),
        f"{part}_gaussian_nll": -float(gaussian.mean()),
        f"{part}_nll_of_blocks": [
            -float(block.mean()) for block in np.array_split(likelihood.log_prob.numpy(), BLOCKS)
        ],
    }


def run(method: str, seed: int, steps: int, learning_rate: float, search: bool, photographs: str) -> dict[str, Any]:
    """Train one model; in the search what training itself watched, else its figures on validation and test patches."""
    data, chosen = table(photographs), settings(method, steps, learning_rate)
    model = LocalFlowDensity(**chosen)
    fitter = model.begin(torch.from_numpy(data.train), torch.from_numpy(data.valid), seed, data.columns)
    fitter.run(model.record)
    if search:
        return {"watched_valid_nll": model.history_[-1]["valid_nll"]}
    return {
        **figures(model, data, "test", ROWS),
        **figures(model, data, "valid", ROWS // 2),
        "parameters": sum(weight.numel() for weight in model.flow_.parameters()),
        "settings": chosen,
        "history": model.history_,
    }


def chosen_rate(method: str, rows: list[dict[str, Any]]) -> float:
    """The rate of the lower NLL that training watched on validation patches."""
    searched = [row for row in rows if row["method"] == method and row["search"]]
    return min(searched, key=lambda row: row["watched_valid_nll"])["learning_rate"]


def paired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test NLL of every other method minus lfm's on the same patches, with its standard error."""
    blocks = {row["method"]: np.array(row["test_nll_of_blocks"]) for row in rows if not row["search"]}
    differences = {method: found - blocks["lfm"] for method, found in blocks.items() if method != "lfm"}
    return [
        {
            "method": method,
            "behind_lfm": float(each.mean()),
            "standard_error": float(each.std(ddof=1) / np.sqrt(len(each))),
        }
        for method, each in differences.items()
    ]


def main() -> None:
    """The search for rates, then one seed of every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", required=True, help="photographs of BSDS500, a folder or a zip")
    parser.add_argument("--steps", type=int, default=3000, help="of every network")
    parser.add_argument("--n_procs", type=int, default=2)
    given = parser.parse_args()
    places = {"photographs": given.path}
    facts = {"seeds": [0], "scored_rows": ROWS, "quoted": QUOTED}
    brief = {"seed": 0, "steps": given.steps // 10, "search": True}
    search = [{"method": method, **brief, "learning_rate": rate} for method in METHODS for rate in RATES]
    rows = run_jobs(OUTPUT, run, search, facts, given.n_procs, keep=True, places=places)
    full = {"seed": 0, "steps": given.steps, "search": False}
    jobs = [{"method": method, **full, "learning_rate": chosen_rate(method, rows)} for method in METHODS]
    rows = run_jobs(OUTPUT, run, search + jobs, facts, given.n_procs, places=places)
    written = json.loads(OUTPUT.read_text())
    kept = written.pop("rows")
    write_json(OUTPUT, {**written, "paired": paired(rows), "rows": kept})


if __name__ == "__main__":
    main()
