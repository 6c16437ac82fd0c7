"""CPU milliseconds with the package's convolution and torch's own, on one thread: `python -m benchmarks.convolution`.

One evaluation for one chunk, and forward and backward pass of a batch of 32 chunks, in the same network either way
(`lfm_policy.nets.unet1d.Conv1d`), for Square's networks of `configs/small` and Table A.3 (7 actions, two observations
of 23), in interleaved rounds; writes results/convolution.json. CPU milliseconds, so that other programs on the machine
disturb less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from lfm_policy.evaluation.files import write_json
from lfm_policy.nets import UNet1d
from lfm_policy.nets.unet1d import Conv1d
from lfm_policy.provenance import provenance

ROUNDS, BATCH_SIZE = 9, 32
NETWORKS = {
    "sub-flow, configs/small": ((32, 64, 128), 64),
    "global, configs/small": ((64, 136, 272), 64),
    "sub-flow, Table A.3": ((128, 248, 480), 256),
    "global, Table A.3": ((256, 512, 1024), 256),
}


def evaluate(network: UNet1d) -> None:
    """The velocity of one chunk."""
    with torch.no_grad():
        network(torch.zeros(1, 16, 7), torch.zeros(1), torch.zeros(1, 46))


def learn(network: UNet1d) -> None:
    """The gradients of a batch."""
    chunks = torch.zeros(BATCH_SIZE, 16, 7)
    network(chunks, torch.zeros(BATCH_SIZE), torch.zeros(BATCH_SIZE, 46)).sum().backward()


def milliseconds(work: Callable[[UNet1d], None], network: UNet1d, n: int) -> float:
    """CPU milliseconds of a piece of work, mean over so many."""
    work(network)
    begin = time.process_time()
    for _ in range(n):
        work(network)
    return (time.process_time() - begin) / n * 1e3


def plain(network: UNet1d) -> UNet1d:
    """The same network with torch's convolutions."""
    for module in network.modules():
        if isinstance(module, Conv1d):
            module.__class__ = nn.Conv1d
    return network


def compared(work: Callable[[UNet1d], None], channels: tuple[int, ...], embedding_dim: int, n: int) -> dict[str, float]:
    """Medians of both, and of the rounds' ratios."""
    ours = UNet1d(7, 46, channels, embedding_dim=embedding_dim)
    theirs = plain(UNet1d(7, 46, channels, embedding_dim=embedding_dim))
    rounds = [(milliseconds(work, ours, n), milliseconds(work, theirs, n)) for _ in range(ROUNDS)]
    ratios = sorted(b / a for a, b in rounds)
    return {
        "ours_ms": round(median(a for a, _ in rounds), 2),
        "torch_ms": round(median(b for _, b in rounds), 2),
        "times_faster": round(median(ratios), 2),
        "least": round(ratios[0], 2),
        "most": round(ratios[-1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/convolution.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (channels, embedding_dim) in NETWORKS.items():
        small = channels[0] < 100
        rows += [
            {"network": name, "work": "evaluation of one chunk"}
            | compared(evaluate, channels, embedding_dim, 200 if small else 20),
            {"network": name, "work": f"gradients of {BATCH_SIZE} chunks"}
            | compared(learn, channels, embedding_dim, 10 if small else 1),
        ]
        print(*rows[-2:], sep="\n")
    facts = {**provenance(), "command": "python -m benchmarks.convolution", "rounds": ROUNDS, "batch_size": BATCH_SIZE}
    write_json(arguments.out, {**facts, "networks": rows})


if __name__ == "__main__":
    main()
