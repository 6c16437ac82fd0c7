"""Rose and tree: nats above the exact entropy, for local flows and global ones at equal budget, and for our configs.

`python -m benchmarks.pictures --rose ROSE.png --tree TREE.png` writes results/density/pictures.json; without paths our
own drawings are taken, whose entropies are nearly the same. Equal budget: total parameters within 2 %, every network
sees the same number of batches of the same size; N sub-flows then cost the arithmetic of one global flow. Rates of
learning are searched for every method with seed 0, on the validation part; then come two more seeds. `config` is
configs/toy/NAME.yaml as a user runs it.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from benchmarks.runner import run_jobs
from benchmarks.widths import parameters, width_of
from lfm_policy.data.tables import Table, load_table
from lfm_policy.density import LocalFlowDensity
from lfm_policy.density.settings import PRESETS

OUTPUT = Path("results/density/pictures.json")
# test NLL as the paper prints it, Figure 2 (the order of its panels is read from the text)
QUOTED = {"rose": {"LFM": 2.60, "FM": 2.64, "InterFlow": 2.64}, "tree": {"LFM": 2.24, "FM": 2.35, "InterFlow": 2.36}}
STEPS, ROWS, CONFIG_ROWS = 3000, 4000, 10_000
RATES = (2e-3, 5e-3)
COMMON: dict[str, Any] = {
    "batch_size": 512,
    "evaluations": 1,
    "patience": None,
    "tolerance": 1e-2,
    "steps": STEPS,
    "depth": 3,
}
FINE = {"rose": PRESETS["fine"], "tree": {"c": 1.5e-4, "rho": 9.0, "n_frequencies": 8}}
GLOBAL = {"n_subflows": 1, "coupling": "fresh", "marginals": "exact"}
METHODS: dict[str, dict[str, Any]] = {
    "lfm": {},
    "lfm, the paper's choices": {
        "c": 0.025,
        "rho": 1.25,
        "n_subflows": 9,
        "interpolant": "trigonometric",
        "coupling": "fresh",
        "marginals": "pushed",
        "warm_subflows": True,
    },
    "fm": {**GLOBAL, "interpolant": "ot"},
    "interflow": {**GLOBAL, "interpolant": "trigonometric"},
    "one small network": {"share_weights": True},
    # the same stretches and parameters as the four, in one: N times fewer batches of N times the arithmetic
    "one large network": {"share_weights": True, "steps": STEPS // 4},
}
WIDTH = 128  # of one of four sub-flows; the others follow from equal totals


@cache
def table(name: str, path: str | None) -> Table:
    """The density with its samples."""
    return load_table(name, path, n_train=1_000_000, n_valid=2000, n_test=CONFIG_ROWS)


def settings(name: str, method: str) -> dict[str, Any]:
    """Settings of `LocalFlowDensity` for a method, at equal budget."""
    if method == "config":
        return yaml.safe_load(Path(f"configs/toy/{name}.yaml").read_text())["model"]
    chosen = {**COMMON, **FINE[name], "width": WIDTH, **METHODS[method]}
    frequencies, n = chosen["n_frequencies"], chosen.get("n_subflows", 4)
    total = 4 * parameters(2, WIDTH, 3, frequencies)
    if method == "one large network":
        chosen["width"] = width_of(total, 2, 3, frequencies)
    elif n != 4:
        chosen["width"] = width_of(total // n, 2, 3, frequencies)
    return chosen


def run(
    density: str, method: str, seed: int, learning_rate: float | None, paths: dict[str, str | None]
) -> dict[str, Any]:
    """Train one model and measure KL = E[log p - log q], with the move of the last doubling of the solver's steps."""
    data, chosen = table(density, paths[density]), settings(density, method)
    if learning_rate is not None:
        chosen = {**chosen, "learning_rate": learning_rate}
    model = LocalFlowDensity(**chosen)
    begin = time.process_time()
    fitter = model.begin(torch.from_numpy(data.train), torch.from_numpy(data.valid), seed, data.columns)
    fitter.run(model.record)
    seconds = time.process_time() - begin
    return {
        **measured(model, data, data.test[: CONFIG_ROWS if method == "config" else ROWS], "test"),
        **measured(model, data, data.valid[:1000], "valid"),
        "entropy": data.entropy,
        "train_cpu_seconds": round(seconds, 1),
        "steps": fitter.fitter.total_steps,
        "parameters": sum(weight.numel() for weight in model.flow_.parameters()),
        "settings": chosen,
    }


def measured(model: LocalFlowDensity, data: Table, rows: NDArray[Any], part: str) -> dict[str, Any]:
    """KL and NLL on rows, with their errors."""
    assert data.log_prob is not None
    likelihood = model.likelihood(rows)
    excess = data.log_prob(rows) - likelihood.log_prob.numpy()
    return {
        f"{part}_kl": float(excess.mean()),
        f"{part}_kl_standard_error": float(excess.std(ddof=1) / np.sqrt(len(excess))),
        f"{part}_nll": -float(likelihood.log_prob.mean()),
        f"{part}_mean_change": likelihood.mean_change,
        f"{part}_unconverged": int((~likelihood.converged).sum()),
    }


def main() -> None:
    """The configs once; every method with both rates; then two more seeds at the better one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rose", help="the picture; our own drawing if not given")
    parser.add_argument("--tree", help="the picture; our own drawing if not given")
    parser.add_argument("--n_procs", type=int, default=2)
    given = parser.parse_args()
    paths: dict[str, str | None] = {"rose": given.rose, "tree": given.tree}
    digests = {
        name: hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else "own" for name, path in paths.items()
    }
    facts = {"seeds": [0, 1, 2], "pictures": digests, "quoted": QUOTED}

    def job(density: str, method: str, seed: int, rate: float | None) -> dict[str, Any]:
        return {"density": density, "method": method, "seed": seed, "learning_rate": rate}

    jobs = [job(density, "config", 0, None) for density in paths]
    jobs += [job(density, method, 0, rate) for method in METHODS for density in paths for rate in RATES]
    places = {"paths": paths}
    rows = run_jobs(OUTPUT, run, jobs, facts, given.n_procs, keep=True, places=places)
    for method in METHODS:
        for density in paths:
            tried = [row for row in rows if (row["method"], row["density"], row["seed"]) == (method, density, 0)]
            best = min(tried, key=lambda row: row["valid_kl"])["learning_rate"]
            jobs += [job(density, method, seed, best) for seed in (1, 2)]
    run_jobs(OUTPUT, run, jobs, facts, given.n_procs, places=places)


if __name__ == "__main__":
    main()
