"""Training windows per second and memory: our reader against robomimic's SequenceDataset on one file.

`python -m benchmarks.robomimic_reading` writes results/robomimic/reading.json. The file has the layout of Lift's
published one, 200 demonstrations of 50 steps, with numbers of no meaning. Each of the interleaved rounds draws one
epoch of shuffled batches from either; robomimic's come through its DataLoader in its fastest mode (all in memory,
no workers). Memory is the growth of a process of its own from its imports to the end of an epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lfm_policy.data import DatasetWriter, read_demonstrations
from lfm_policy.evaluation.files import write_json
from lfm_policy.flow.source import BatchOrder
from lfm_policy.provenance import provenance

DIMS = {"object": 10, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
N_OBS_STEPS, HORIZON, BATCH_SIZE, ACTION_DIM = 2, 16, 256, 7
RESULTS = Path("results/robomimic/reading.json")

Epoch = Callable[[int], Iterator[Any]]


def write_dataset(path: Path, n_demos: int, n_steps: int) -> None:
    """Episodes of noise in Lift's layout."""
    rng = np.random.default_rng(0)
    with DatasetWriter(path, {}, valid_fraction=0) as writer:
        for _ in range(n_demos):
            obs = {key: rng.normal(size=(n_steps, dim)) for key, dim in DIMS.items()}
            writer.add_episode(obs, rng.uniform(-1, 1, (n_steps, ACTION_DIM)))


def ours(path: Path) -> Epoch:
    """Epochs of our reader: histories (B, 2, 19) and chunks (B, 16, 7)."""
    demonstrations = read_demonstrations(path, list(DIMS), representation="delta", on_size=lambda size: None)
    windows = demonstrations.windows(N_OBS_STEPS, HORIZON, N_OBS_STEPS - 1, HORIZON - N_OBS_STEPS)

    def epoch(number: int) -> Iterator[Any]:
        order = BatchOrder(len(windows), BATCH_SIZE, number)
        for step in range(len(windows) // BATCH_SIZE):
            yield demonstrations.gather(windows[order(step)], N_OBS_STEPS)

    return epoch


def theirs(path: Path) -> Epoch:
    """Epochs of robomimic's: the same windows, all of whose steps have observations."""
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    import lfm_policy.integrations.robomimic  # noqa: F401 - keeps robomimic's advice from the screen

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        obs_utils.initialize_obs_utils_with_obs_specs([{"obs": {"low_dim": list(DIMS), "rgb": []}}])
        dataset = SequenceDataset(
            str(path),
            obs_keys=list(DIMS),
            dataset_keys=["actions"],
            frame_stack=N_OBS_STEPS,
            seq_length=HORIZON - N_OBS_STEPS + 1,
            hdf5_cache_mode="all",
            load_next_obs=False,
        )

    def epoch(number: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(number)
        yield from torch.utils.data.DataLoader(
            dataset, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=0, generator=generator
        )

    return epoch


SIDES: dict[str, Callable[[Path], Epoch]] = {"ours": ours, "robomimic": theirs}


def chunks_per_second(epoch: Epoch, number: int, least_seconds: float) -> float:
    """Over as many epochs as take `least_seconds`."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < least_seconds:
        count += BATCH_SIZE * sum(1 for _ in epoch(number))
    return count / (time.perf_counter() - begin)


def measure_memory(side: str, path: Path) -> float:
    """Growth in MB of this process's resident memory, what both import apart."""
    import psutil
    import robomimic.utils.dataset  # noqa: F401

    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    epoch = SIDES[side](path)
    for _ in epoch(0):
        pass
    return (process.memory_info().rss - before) / 1e6


def in_own_process(side: str, path: Path) -> float:
    """Memory in MB."""
    command = [sys.executable, "-m", "benchmarks.robomimic_reading", "--memory", side, str(path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(told.stdout.splitlines()[-1])


def main() -> None:
    """Both sides in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_demos", type=int, default=200)
    parser.add_argument("--n_steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side in each round, at least")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--memory", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(measure_memory(options.memory[0], Path(options.memory[1])))
        return
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lift_layout.hdf5"
        write_dataset(path, options.n_demos, options.n_steps)
        epochs = {side: make(path) for side, make in SIDES.items()}
        rounds = []
        for number in range(options.rounds):
            rates = {side: chunks_per_second(epoch, number, options.seconds) for side, epoch in epochs.items()}
            rounds.append({**rates, "ratio": rates["ours"] / rates["robomimic"]})
            print(json.dumps(rounds[-1]), flush=True)
        memory = {side: round(in_own_process(side, path), 1) for side in SIDES}
    middle = {name: median(row[name] for row in rounds) for name in rounds[0]}
    facts = {
        "seeds": list(range(options.rounds)),
        "robomimic": robomimic_version(),
        "n_demos": options.n_demos,
        "n_steps": options.n_steps,
        "n_obs_steps": N_OBS_STEPS,
        "horizon": HORIZON,
        "batch_size": BATCH_SIZE,
        "chunks_per_second": {side: round(middle[side]) for side in SIDES},
        "ratio": round(middle["ratio"], 1),
        "ratio_range": [round(edge(row["ratio"] for row in rounds), 1) for edge in (min, max)],
        "memory_mb": memory,
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [{name: round(value, 1) for name, value in row.items()} for row in rounds]
    write_json(options.output, {**provenance(), **facts, "rows": rows})
    print(json.dumps(facts, indent=1))


def robomimic_version() -> str:
    """Of the one that is imported, wherever it lies."""
    import robomimic

    return robomimic.__version__


if __name__ == "__main__":
    main()
