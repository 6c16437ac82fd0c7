"""Milliseconds per training step of the demo's network, by threads, alone and beside a busy process.

`python -m benchmarks.threads` writes results/threads.json. Each figure is the median of the steps of a process of its
own, so that thread pools do not outlive their measurement.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from lfm_policy.evaluation.files import write_json
from lfm_policy.provenance import provenance

STEPS, BATCH_SIZE = 40, 32
BUSY = "while True: pass"


def measure(threads: int) -> list[float]:
    """Milliseconds of each step."""
    import torch

    from lfm_policy.flow import FitOptions, Fitter, LocalFlow, Schedule, TensorSource
    from lfm_policy.nets import UNet1d

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    flow = LocalFlow([UNet1d(7, 38, (32, 64, 128), embedding_dim=64)], Schedule())
    data = TensorSource(torch.randn(4096, 16, 7), torch.randn(4096, 38))
    fitter = Fitter(flow, data, FitOptions(steps=10 * STEPS, batch_size=BATCH_SIZE))
    milliseconds = []
    for _ in range(STEPS + 5):
        begin = time.perf_counter()
        fitter.step()
        milliseconds.append((time.perf_counter() - begin) * 1e3)
    return milliseconds[5:]


def measured(threads: int, busy: int) -> dict[str, float]:
    """A fresh process's figures beside `busy` processes that only compute."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        told = subprocess.run([sys.executable, __file__, str(threads)], check=True, capture_output=True, text=True)
    finally:
        for other in others:
            other.kill()
    steps = json.loads(told.stdout)
    return {
        "threads": threads,
        "busy_processes": busy,
        "median_ms": round(median(steps), 1),
        "max_ms": round(max(steps), 1),
    }


def main() -> None:
    """All four cases in one run."""
    begin = time.perf_counter()
    rows = [measured(threads, busy) for busy in (0, 1) for threads in (1, 2)]
    for row in rows:
        print(row)
    facts = {
        "seeds": [0],
        "steps": STEPS,
        "batch_size": BATCH_SIZE,
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }
    write_json(Path("results/threads.json"), {**provenance(), **facts, "rows": rows})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
