"""Milliseconds of one network evaluation for one chunk on one thread: `python -m benchmarks.chunk_latency`.

The package's convolution (`lfm_policy.nets.unet1d.Conv1d`) beside torch's own in the same network, for Square's
networks of `configs/small` and Table A.3 (7 actions, two observations of 23), in interleaved rounds; writes
results/chunk_latency.json. CPU milliseconds, so that other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from torch import nn

from lfm_policy.evaluation.files import write_json
from lfm_policy.nets import UNet1d
from lfm_policy.nets.unet1d import Conv1d
from lfm_policy.provenance import provenance

ROUNDS = 9
NETWORKS = {
    "sub-flow, configs/small": ((32, 64, 128), 64),
    "global, configs/small": ((64, 136, 272), 64),
    "sub-flow, Table A.3": ((128, 248, 480), 256),
    "global, Table A.3": ((256, 512, 1024), 256),
}


def milliseconds(network: UNet1d, evaluations: int) -> float:
    """CPU milliseconds of an evaluation, mean over so many."""
    chunk, t, cond = torch.zeros(1, 16, 7), torch.zeros(1), torch.zeros(1, 46)
    with torch.no_grad():
        network(chunk, t, cond)
        begin = time.process_time()
        for _ in range(evaluations):
            network(chunk, t, cond)
    return (time.process_time() - begin) / evaluations * 1e3


def plain(network: UNet1d) -> UNet1d:
    """The same network with torch's convolutions."""
    for module in network.modules():
        if isinstance(module, Conv1d):
            module.__class__ = nn.Conv1d
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/chunk_latency.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (channels, embedding_dim) in NETWORKS.items():
        networks = [UNet1d(7, 46, channels, embedding_dim=embedding_dim) for _ in range(2)]
        ours, theirs = networks[0], plain(networks[1])
        evaluations = 200 if channels[0] < 100 else 20
        rounds = [(milliseconds(ours, evaluations), milliseconds(theirs, evaluations)) for _ in range(ROUNDS)]
        ratios = sorted(b / a for a, b in rounds)
        row = {
            "network": name,
            "channels": channels,
            "ours_ms": round(median(a for a, _ in rounds), 2),
            "torch_ms": round(median(b for _, b in rounds), 2),
            "times_faster": {
                "median": round(median(ratios), 2),
                "min": round(ratios[0], 2),
                "max": round(ratios[-1], 2),
            },
        }
        print(row, flush=True)
        rows.append(row)
    write_json(arguments.out, {**provenance(), "threads": 1, "rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
