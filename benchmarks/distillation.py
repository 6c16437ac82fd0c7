"""Algorithm A.1 on vectors: quality of teachers and students by network evaluations, with the improvements tried.

`python -m benchmarks.distillation` writes results/density/distillation.json. Teachers have N = 4 sub-flows; students
are N' = 4, 2, 1 networks of a sub-flow's size. Tried: the students' own inputs (`student`) against the teacher's, and
students that start from the teacher's weights against fresh ones. Quality is the sliced Wasserstein distance (order 2)
and the energy distance (unbiased) to held-out data in whitened units; `floor` is that of other held-out data. Teachers
are kept in runs/distillation and used again.
"""

from __future__ import annotations

import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.mixtures import random_mixture
from benchmarks.runner import run_jobs
from lfm_policy.data.tables import load_table
from lfm_policy.density import LocalFlowDensity
from lfm_policy.density.settings import PRESETS
from lfm_policy.evaluation.distances import energy_distance, sliced_wasserstein
from lfm_policy.flow import DistillOptions, Solver, distill, named_generator

OUTPUT, TEACHERS = Path("results/density/distillation.json"), Path("runs/distillation")
ROWS, SAMPLES, STEPS = 200_000, 10_000, 2000
SEEDS = (0,)  # of the students' weights and batches; a second one takes another half hour
TEACHER: dict[str, dict[str, Any]] = {
    "exact, common": {},
    "pushed, fresh, ot": {"interpolant": "ot", "coupling": "fresh", "marginals": "pushed", "c": 0.15, "rho": 1.25},
}
FINE = {"rose": PRESETS["fine"], "mixture": {"c": 0.01, "rho": 3.5}}
SOLVERS = {4: Solver("euler", 1), 8: Solver("midpoint", 1), 16: Solver("midpoint", 2), 32: Solver("midpoint", 4)}


@cache
def rows(density: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and held-out ones: twice SAMPLES."""
    if density == "rose":
        table = load_table("rose", n_train=ROWS, n_valid=10, n_test=2 * SAMPLES)
        return table.train, table.test
    law = random_mixture(7)
    return law.sample(ROWS, np.random.default_rng(1)), law.sample(2 * SAMPLES, np.random.default_rng(2))


def teacher(density: str, name: str) -> LocalFlowDensity:
    """The teacher, trained once."""
    folder = TEACHERS / f"{density} {name}".replace(", ", "_").replace(" ", "_")
    if not (folder / "density.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        settings = {"steps": 3000, "learning_rate": 5e-3, "width": 128, "depth": 3, "valid_fraction": 0.0}
        model = LocalFlowDensity(**{**settings, **FINE[density], **TEACHER[name], "random_state": 0})
        model.fit(rows(density)[0]).save(folder)
    return LocalFlowDensity.load(folder)


def distances(samples: Tensor, held_out: Tensor) -> dict[str, float]:
    """Both distances to held-out data."""
    directions = named_generator(0, "directions")
    return {
        "sliced_wasserstein": sliced_wasserstein(samples, held_out, 500, directions, order=2),
        "energy_distance": energy_distance(samples, held_out, unbiased=True),
    }


def run_teacher(density: str, name: str) -> dict[str, Any]:
    """The teacher's own figures by evaluations, and the floor."""
    model = teacher(density, name)
    held_out, other = (model._whitened(torch.from_numpy(part)).float() for part in np.split(rows(density)[1], 2))
    shape, found = (SAMPLES, held_out.shape[1]), {}
    with torch.no_grad():
        for nfe, solver in SOLVERS.items():
            drawn = model.flow_.sample(shape, None, solver, named_generator(0, "noise"))
            found[str(nfe)] = distances(drawn, held_out)
    count = sum(weight.numel() for weight in model.flow_.parameters())
    return {"parameters": count, "by_nfe": found, "floor": distances(other, held_out)}


def run(density: str, name: str, n_students: int, inputs: str, from_teacher: bool, seed: int) -> dict[str, Any]:
    """Distil and measure; `n_students` = 0 is the teacher."""
    if not n_students:
        return run_teacher(density, name)
    model = teacher(density, name)
    options = DistillOptions(
        steps=STEPS,
        batch_size=512,
        learning_rate=2e-3,
        beta1=0.9,
        weight_decay=0.0,
        warmup_steps=50,
        ema_maximum=0.999,
        student_inputs=inputs,  # type: ignore[arg-type]
        from_teacher=from_teacher,
    )
    begin = time.perf_counter()
    students = distill(model.flow_, n_students, (model.n_features_in_,), options, seed=seed)
    seconds = time.perf_counter() - begin
    held_out = model._whitened(torch.from_numpy(rows(density)[1][:SAMPLES])).float()
    shape, noise = (SAMPLES, held_out.shape[1]), lambda: named_generator(0, "noise")
    with torch.no_grad():
        drawn = students.sample(shape, None, noise())
        wanted = model.flow_.sample(shape, None, Solver("rk4", 16), noise())
    return {
        "nfe": students.nfe,
        "parameters": sum(weight.numel() for weight in students.parameters()),
        "distill_seconds": round(seconds, 1),
        "rms_to_teacher": float((drawn - wanted).pow(2).sum(1).mean().sqrt()),
        **distances(drawn, held_out),
    }


def main() -> None:
    """Teachers first, then their students."""
    pairs = [(density, name) for density in ("mixture", "rose") for name in TEACHER]
    blank = {"n_students": 0, "inputs": "teacher", "from_teacher": False, "seed": 0}
    jobs: list[dict[str, Any]] = [{"density": d, "name": n, **blank} for d, n in pairs]
    jobs += [
        {"density": d, "name": n, "n_students": k, "inputs": inputs, "from_teacher": start, "seed": seed}
        for seed in SEEDS
        for d, n in pairs
        for k in (4, 2, 1)
        for inputs in ("teacher", "student")[: 1 if k == 1 else 2]  # one student has no student before it
        for start in (True, False)
    ]
    facts = {"seeds": list(SEEDS), "samples": SAMPLES, "steps": STEPS, "n_subflows": 4}
    run_jobs(OUTPUT, run, jobs[: len(pairs)], facts, keep=True)  # students find their teachers trained
    run_jobs(OUTPUT, run, jobs, facts)


if __name__ == "__main__":
    main()
