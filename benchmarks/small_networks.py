"""Milliseconds per training step of small MLPs on one thread: our `Fitter` beside loops written by hand.

`python -m benchmarks.small_networks` writes results/density/small_networks.json in under three minutes. It needs
`pip install --no-deps torchcfm==1.0.7 pot==0.9.7.post1` beside the package.

| loop | what it does in a step |
| --- | --- |
| plain | rows by index, noise, the geodesic's point and velocity, the network, fused AdamW, a foreach average |
| fitter_exact | our `Fitter`: geodesic, common noise, exact marginals; the plain loop's arithmetic |
| fitter_pushed | our `Fitter`: optimal-transport interpolant, fresh noise, pushed marginals (the paper's choices) |
| naive | as plain, by a shuffling `DataLoader` over a `TensorDataset`, unfused AdamW, averaging in a Python loop |
| torchcfm | as in torchcfm's 2-D examples: rows by random index, `ConditionalFlowMatcher`, Adam, no average |
| matmuls | nothing but the step's matrix products, forward and backward, on tensors of the same shapes |

How it is measured. All loops of a case take turns in one process, some steps each, round after round: what else the
machine does strikes all alike. A figure is the median over rounds with its quartiles; `ratio` that of a round's figure
to the plain loop's in the same round, and `outside_matmuls` that of the share of a step which the bare matrix products
do not account for (1 - matmuls / step). Bare products were preferred to a profiler, whose own cost for each of a step's
hundred small operations is as large as the operations. Only sub-flow 1 is timed, before any push: a push is no part of
a step.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lfm_policy.evaluation.files import write_json
from lfm_policy.flow import FitOptions, Fitter, LocalFlow, Matching, Schedule, TensorSource
from lfm_policy.flow.ema import ema_decay
from lfm_policy.flow.optimization import learning_rate
from lfm_policy.nets import MLP
from lfm_policy.provenance import provenance

OUT = Path("results/density/small_networks.json")
ROWS, DEPTH = 1_000_000, 3
SIZES = ((64, 256), (128, 512), (256, 4096))  # width and batch size
DIMS = (2, 6)
ROUNDS, TURN = 15, 0.12  # turns of each loop, and about how many seconds of the plain loop a turn is
WARM = 20
SCHEDULE = Schedule.geometric(4, 0.15, 1.25)
STEPS = 100_000  # of the learning rate's schedule: more than are taken

Step = Callable[[], object]


def options(batch_size: int, matching: Matching) -> FitOptions:
    """What all loops do alike."""
    return FitOptions(
        batch_size=batch_size,
        learning_rate=2e-3,
        beta1=0.9,
        weight_decay=0.0,
        warmup_steps=100,
        ema_maximum=0.999,
        steps=STEPS,
        matching=matching,
    )


def network(dim: int, width: int) -> nn.Module:
    """Sub-flow 1's."""
    return MLP(dim, width, DEPTH, knots=SCHEDULE.clock[:2])


def fitter(data: Tensor, width: int, batch_size: int, matching: Matching) -> Step:
    """Ours."""
    flow = LocalFlow([network(data.shape[1], width) for _ in range(SCHEDULE.n_subflows)], SCHEDULE)
    return Fitter(flow, TensorSource(data), options(batch_size, matching)).step


def regression(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Point (B, d), clock (B,) and velocity per unit of the clock (B, d) of sub-flow 1 from common noise."""
    noise, t = torch.randn_like(x), torch.rand(len(x))
    end = SCHEDULE.clock[1]
    angle = math.pi / 2 * end * t[:, None]
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * x + sin * noise, end * t, math.pi / 2 * (cos * noise - sin * x)


def plain(data: Tensor, width: int, batch_size: int) -> Step:
    """What the arithmetic costs without a framework around it."""
    net = network(data.shape[1], width)
    average = copy.deepcopy(net)
    kept: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(net.parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    told, order, k = options(batch_size, Matching()), torch.randperm(len(data)), 0

    def step() -> None:
        nonlocal k
        first = k * batch_size % (len(data) - batch_size + 1)
        between, t, target = regression(data[order[first : first + batch_size]])
        loss = (net(between, t) - target).pow(2).mean()
        loss.item()  # any loop that watches its loss waits for it
        optimizer.param_groups[0]["lr"] = learning_rate(told, k, STEPS)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(kept, weights, 1 - ema_decay(k, maximum=0.999))
        k += 1

    return step


def naive(data: Tensor, width: int, batch_size: int) -> Step:
    """The same as it is often written."""
    net = network(data.shape[1], width)
    average = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.999), weight_decay=0.0)
    loader = DataLoader(TensorDataset(data), batch_size=batch_size, shuffle=True, drop_last=True)
    told, k = options(batch_size, Matching()), 0

    def batches() -> Iterator[Tensor]:
        while True:
            for (x,) in loader:
                yield x

    source = batches()

    def step() -> None:
        nonlocal k
        between, t, target = regression(next(source))
        loss = (net(between, t) - target).pow(2).mean()
        loss.item()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(told, k, STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = ema_decay(k, maximum=0.999)
        with torch.no_grad():
            for mean, value in zip(average.parameters(), net.parameters(), strict=True):
                mean.mul_(decay).add_(value, alpha=1 - decay)
        k += 1

    return step


def torchcfm_loop(data: Tensor, width: int, batch_size: int) -> Step:
    """The peer's, with our network."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    net, matcher = network(data.shape[1], width), ConditionalFlowMatcher(sigma=0.0)
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        x1 = data[torch.randint(len(data), (batch_size,))]
        t, between, target = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = torch.mean((net(between, t) - target) ** 2)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def matmuls(data: Tensor, width: int, batch_size: int) -> Step:
    """A layer's output, and the gradients of its weights and, but for the first, of its input."""
    layers = [layer for layer in network(data.shape[1], width).modules() if isinstance(layer, nn.Linear)]
    shapes = [(layer.weight.detach(), layer.bias.detach()) for layer in layers]
    inputs = [torch.randn(batch_size, weight.shape[1]) for weight, _ in shapes]
    outer = [torch.randn(batch_size, weight.shape[0]) for weight, _ in shapes]

    def step() -> None:
        for x, (weight, bias) in zip(inputs, shapes, strict=True):
            torch.addmm(bias, x, weight.t())
        for i in reversed(range(len(shapes))):
            if i:
                torch.mm(outer[i], shapes[i][0])
            torch.mm(outer[i].t(), inputs[i])

    return step


LOOPS: dict[str, Callable[[Tensor, int, int], Step]] = {
    "plain": plain,
    "fitter_exact": lambda data, width, size: fitter(data, width, size, Matching("geodesic", "common", "exact")),
    "fitter_pushed": lambda data, width, size: fitter(data, width, size, Matching("ot", "fresh", "pushed")),
    "naive": naive,
    "torchcfm": torchcfm_loop,
    "matmuls": matmuls,
}


def milliseconds(step: Step, count: int) -> float:
    """Of one step, the mean over `count` of them."""
    begin = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - begin) / count * 1e3


def measure(width: int, batch_size: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each loop of one case."""
    torch.manual_seed(0)
    data = torch.randn(ROWS, dim)
    steps = {name: make(data, width, batch_size) for name, make in LOOPS.items()}
    for step in steps.values():
        milliseconds(step, WARM)
    count = max(3, round(TURN * 1e3 / milliseconds(steps["plain"], WARM)))
    # the naive loop may take many times as long: a third of the steps is enough of it
    counts = {name: max(3, count // 3) if name == "naive" else count for name in steps}
    turns = [{name: milliseconds(step, counts[name]) for name, step in steps.items()} for _ in range(rounds)]
    case = {"width": width, "batch_size": batch_size, "dim": dim}
    return [{**case, **_row(name, turns), "steps_per_turn": counts[name]} for name in steps]


def _row(name: str, turns: list[dict[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"loop": name, **_spread("ms", [turn[name] for turn in turns])}
    row |= _spread("ratio", [turn[name] / turn["plain"] for turn in turns])
    if name != "matmuls":
        row |= _spread("outside_matmuls", [1 - turn["matmuls"] / turn[name] for turn in turns])
    return row


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    low, middle, high = (round(value, 4) for value in quantiles(values, n=4, method="inclusive"))
    return {name: middle, f"{name}_quartiles": [low, high]}


def main() -> None:
    """All cases in one run."""
    parser = argparse.ArgumentParser(description="Milliseconds per training step of small MLPs on one thread.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=OUT)
    told = parser.parse_args()
    torch.set_num_threads(1)
    begin, rows = time.perf_counter(), []
    for width, batch_size in SIZES:
        for dim in DIMS:
            measured = measure(width, batch_size, dim, told.rounds)
            print(*measured, sep="\n", flush=True)
            rows += measured
    facts = {
        "seeds": [0],
        "peers": {name: metadata.version(name) for name in ("torchcfm", "pot")},
        "rows_of_data": ROWS,
        "network": f"MLP {DEPTH} deep, SiLU",
        "rounds": told.rounds,
        "ms": "milliseconds per training step: median over rounds, and quartiles",
        "ratio": "to the plain loop in the same round",
        "outside_matmuls": "1 - (bare matrix products of the same shapes) / step, in the same round",
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }
    told.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(told.out, {**provenance(), **facts, "rows": rows})


if __name__ == "__main__":
    main()
