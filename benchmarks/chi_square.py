"""Does χ²(p_n ‖ N(0, I)) of a trained chain fall as Prop. 4.1 says? Measured at every boundary of six sub-flows.

`python benchmarks/chi_square.py` writes results/density/chi_square.json and docs/chi_square.png; three minutes on a
core of its own.

Laws in the plane. χ²_0 is finite only where every component's covariance S stays below 2I, and the estimate below has a
finite variance only where S < 1.5 I: so the Gaussian has eigenvalues 1.3 and 0.3, and the mixture, of two narrow
components, is scaled by its own standard deviations. The Gaussian comes with a mean, centred, and whitened, when it is
the noise itself and whatever is measured is training error alone. The mixture comes standardised feature by feature,
which matches the noise's moments of degree 1, and whitened, which matches those of degree 2 too.

Each chain is the paper's: pushed marginals, fresh coupling, optimal-transport interpolant, constant γ, one small MLP a
sub-flow. Fresh samples x_0 ~ p_0 are pushed with the log-determinant of the push,
log p_n(x_n) = log p_0(x_0) - log |det|, and χ²_n = E[p_n(x_n) / q(x_n)] - 1 is their mean with its standard error.

What to trust. Error bars are those of this mean; what training does to it shows between the seeds. The tail of p/q is
heavy wherever p_n has an eigenvalue above 1. Three things say whether the mean is settled: the effective sample size,
`largest_share`, the part of E[p/q] that its one largest sample contributes (above 1 %: hollow in the picture, not to
be trusted), and n = 0, where the truth is known.
Regions that no sample visits are left out, and there a network is free; they could only add. Late figures are small
and have an absolute error of about sqrt(χ² / samples). A point below the exact curve is an error of training too, not
a better chain; flat stretches are sub-flows that undo nothing of what earlier ones left.

The last sub-flow goes to the noise itself. Its point is χ²(p_N ‖ q), which equals χ² of the data from what the chain
generates (the two-way data processing inequality, Section 4.3): Prop. 4.1 says nothing about that step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm_policy.evaluation.files import replacing, write_json
from lfm_policy.evaluation.paths import COLOURS, FAINT, INK
from lfm_policy.flow import FitOptions, LocalFlow, Schedule, Solver, fit_local_flow, named_generator
from lfm_policy.flow.chi_square import chi_square_bound, mixture_chi_square
from lfm_policy.flow.local_flow import log_standard_normal
from lfm_policy.nets import MLP
from lfm_policy.provenance import provenance

SEEDS = (0, 1)
SCHEDULE = Schedule.geometric(6, 0.2, 1.0)
TRAINING_SAMPLES, SAMPLES = 100_000, 50_000
WIDTH, DEPTH = 48, 3
OPTIONS = FitOptions(steps=1500, batch_size=512, learning_rate=3e-3, warmup_steps=100, ema_maximum=0.999)
PUSH = Solver("rk4", steps=3)
MEASURED = f"trained chain, {len(SEEDS)} seeds (bars: two standard\nerrors of the measurement)"
LAST = "after the last sub-flow, which goes to the\nnoise itself: exact and bounds are 0"
UNSETTLED = "the same, but one sample makes over 1 %:\nnot to be trusted"
TRUSTED = 0.01  # largest part of E[p/q] that may come from one sample
JSON, PICTURE = Path("results/density/chi_square.json"), Path("docs/chi_square.png")


@dataclass(frozen=True)
class Law:
    """A Gaussian mixture: weights (K,), means (K, d), covariances (K, d, d), float64; and how to draw it.

    `matched` is the degree up to which its moments are the noise's.
    """

    name: str
    weights: Tensor
    means: Tensor
    covariances: Tensor
    matched: int = 0

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples (count, d)."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        roots = torch.linalg.cholesky(self.covariances)[component]
        return self.means[component] + (roots @ noise[..., None])[..., 0]

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (B,) in nats."""
        normal = torch.distributions.MultivariateNormal(self.means, self.covariances)
        return (normal.log_prob(x[:, None]) + self.weights.log()).logsumexp(1)

    def chi_square(self, t: float) -> float:
        """χ²(p_t ‖ q) of the OU marginal."""
        return mixture_chi_square(self.weights, self.means, self.covariances, t)

    def mapped(self, name: str, matrix: Tensor, matched: int) -> Law:
        """The law of matrix (x - E x)."""
        means = (self.means - self.weights @ self.means) @ matrix.T
        return Law(name, self.weights, means, matrix @ self.covariances @ matrix.T, matched)

    @property
    def covariance(self) -> Tensor:
        """(d, d), of the whole."""
        centred = self.means - self.weights @ self.means
        spread = self.covariances + centred[:, :, None] * centred[:, None, :]
        return (self.weights[:, None, None] * spread).sum(0)


def laws() -> list[Law]:
    """The data of the picture's panels."""
    one, turn = torch.ones(1, dtype=torch.float64), math.pi / 6
    axes = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    covariance = axes @ torch.diag(torch.tensor([1.3, 0.3], dtype=torch.float64)) @ axes.T
    mean = torch.tensor([[0.8, -0.6]], dtype=torch.float64)
    gaussian = Law("Gaussian with a mean", one, mean, covariance[None])
    mixture = Law(
        "mixture",
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[-1.2, -0.4], [1.0, 0.3]], dtype=torch.float64),
        torch.tensor([[[0.15, 0.08], [0.08, 0.20]], [[0.20, -0.10], [-0.10, 0.15]]], dtype=torch.float64),
    )
    identity = torch.eye(2, dtype=torch.float64)
    return [
        gaussian,
        gaussian.mapped("Gaussian, centred", identity, 1),
        gaussian.mapped("Gaussian, whitened", _whitening(gaussian), 2),
        mixture.mapped("mixture, standardised", torch.diag(mixture.covariance.diagonal().rsqrt()), 1),
        mixture.mapped("mixture, whitened", _whitening(mixture), 2),
    ]


def trained(law: Law, seed: int) -> LocalFlow:
    """A chain fitted by Algorithm 1."""
    torch.manual_seed(seed)  # the networks' initial weights; all else draws from named generators
    knots = [SCHEDULE.clock[n : n + 2] for n in range(SCHEDULE.n_subflows)]
    flow = LocalFlow([MLP(2, WIDTH, DEPTH, knots=stretch) for stretch in knots], SCHEDULE)
    data = law.sample(TRAINING_SAMPLES, named_generator(seed, "data")).float()
    return fit_local_flow(flow, data, OPTIONS, seed=seed)


@torch.no_grad()
def log_ratios(flow: LocalFlow, law: Law, x: Tensor, solver: Solver) -> Tensor:
    """log p_n(x_n) - log q(x_n) (N + 1, B) at the boundaries n = 0 … N of samples x (B, d) of the law."""
    log_p = law.log_prob(x.double())
    ratios = [log_p - log_standard_normal(x.double())]
    for n in range(1, flow.n_subflows + 1):
        x, log_det = flow.push_with_log_det(x, solver=solver, subflows=[n])
        log_p = log_p - log_det[:, 0].double()
        ratios.append(log_p - log_standard_normal(x.double()))
    return torch.stack(ratios)


def estimate(log_ratio: Tensor) -> dict[str, float]:
    """χ² = E_p[p/q] - 1 from log p/q (B,) of samples of p, and what says how far to believe it."""
    ratio = log_ratio.exp()
    total = ratio.sum()
    return {
        "chi_square": ratio.mean().item() - 1,
        "standard_error": (ratio.std() / math.sqrt(len(ratio))).item(),
        "effective_sample_size": round((total**2 / (ratio**2).sum()).item()),
        "largest_share": (ratio.max() / total).item(),
    }


def measure(law: Law, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of one chain, one a boundary, and how they were made."""
    begin = time.perf_counter()
    flow = trained(law, seed)
    training = time.perf_counter() - begin
    x = law.sample(SAMPLES, named_generator(seed, "measure")).float()
    ratios = log_ratios(flow, law, x, PUSH)
    rows = []
    for n, (t, log_ratio) in enumerate(zip(SCHEDULE.times, ratios, strict=True)):
        where = {"law": law.name, "seed": seed, "n": n, "t": round(t, 6) if math.isfinite(t) else None}
        rows.append({**where, **_rounded({**estimate(log_ratio), **_theory(law, t)})})
    heaviest = ratios[-1].topk(2000).indices
    finer = log_ratios(flow, law, x[heaviest], Solver("rk4", steps=2 * PUSH.steps))
    facts: dict[str, Any] = {
        "law": law.name,
        "seed": seed,
        "matched_moments": law.matched,
        "training_seconds": round(training, 1),
        "measuring_seconds": round(time.perf_counter() - begin - training, 1),
        "solver_error_of_heaviest": _rounded({"nats": (ratios[:, heaviest] - finer).abs().max().item()})["nats"],
    }
    return rows, facts


def _theory(law: Law, t: float) -> dict[str, float]:
    start = law.chi_square(0.0)
    return {
        "exact": law.chi_square(t),
        "bound": chi_square_bound(start, t),
        "bound_of_matched_moments": chi_square_bound(start, t, law.matched),
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else float(f"{value:.5g}") for name, value in values.items()}


def _whitening(law: Law) -> Tensor:
    """S^-½ (d, d)."""
    values, basis = torch.linalg.eigh(law.covariance)
    return basis @ torch.diag(values.rsqrt()) @ basis.T


def draw(rows: Sequence[dict[str, Any]], panels: Sequence[Law]) -> None:
    """The picture: one panel a law, and the legend in the last place."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.6), layout="constrained", sharex=True, sharey=True)
    try:
        places = axes.flatten()
        for axis, law in zip(places, panels, strict=False):
            _draw_panel(axis, law, [row for row in rows if row["law"] == law.name])
        for axis in places[:5]:
            axis.tick_params(labelbottom=True)
        for axis in places[2:5]:
            axis.set_xlabel("OU time $t_n$", color=INK, fontsize=11)
        for axis in axes[:, 0]:
            axis.set_ylabel(r"$\chi^2(p_n\,\|\,N(0, I))$", color=INK, fontsize=11)
        known: dict[str, Any] = {}
        for axis in places[:5]:  # one legend serves all panels
            handles, labels = axis.get_legend_handles_labels()
            known |= dict(zip(labels, handles, strict=True))
        labels = sorted(known, key=lambda label: not isinstance(known[label], Line2D))  # curves, then points
        places[5].axis("off")
        places[5].legend(
            [known[label] for label in labels],
            labels,
            loc="center left",
            frameon=False,
            fontsize=10.5,
            labelspacing=1.1,
        )
        with replacing(PICTURE) as temporary:
            figure.savefig(temporary, dpi=110)
    finally:
        pyplot.close(figure)


def _draw_panel(axis: Any, law: Law, rows: Sequence[dict[str, Any]]) -> None:
    last = SCHEDULE.times[-2]
    end, t = last + 2 * SCHEDULE.gammas[-1], torch.linspace(0.0, last, 101).tolist()
    start = law.chi_square(0.0)
    axis.set_yscale("log")
    if start > 1e-9:
        axis.plot(t, [law.chi_square(s) for s in t], color=COLOURS[0], linewidth=1.8, label="exact OU marginals $p_t$")
        axis.plot(t, [chi_square_bound(start, s) for s in t], "--", color=INK, label=_rate(0))
        if law.matched:
            own = [chi_square_bound(start, s, law.matched) for s in t]
            axis.plot(t, own, ":", color=COLOURS[(0, 2, 3)[law.matched]], linewidth=1.8, label=_rate(law.matched))
    else:
        axis.text(0.05, 0.94, "data = noise: exact and bound are 0", transform=axis.transAxes, color=INK, fontsize=9.5)
    for row in rows:
        if row["n"] or start > 1e-9:
            _draw_point(axis, row, end if row["t"] is None else row["t"])
    axis.axvspan(last + SCHEDULE.gammas[-1], end + SCHEDULE.gammas[-1], color=FAINT, alpha=0.5, linewidth=0, label=LAST)
    axis.set_title(law.name, fontsize=11, color=INK)
    axis.set_ylim(3e-5, 5)
    axis.set_xlim(-0.06, end + SCHEDULE.gammas[-1])
    axis.set_xticks([*SCHEDULE.times[:-1], end], [*(f"{s:.1f}" for s in SCHEDULE.times[:-1]), "$\\infty$"])
    axis.grid(color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(FAINT)


def _draw_point(axis: Any, row: dict[str, Any], t: float) -> None:
    trusted = row["largest_share"] < TRUSTED
    shift = 0.018 * (SEEDS.index(row["seed"]) - (len(SEEDS) - 1) / 2)  # side by side, so that no seed hides another
    axis.errorbar(
        t + shift,
        row["chi_square"],
        yerr=2 * row["standard_error"],
        fmt="o",
        color=COLOURS[1],
        markersize=4,
        markerfacecolor=COLOURS[1] if trusted else "white",
        elinewidth=1,
        capsize=2.5,
        label=MEASURED if trusted else UNSETTLED,
    )


def _rate(matched: int) -> str:
    bound = rf"$e^{{-{2 * (matched + 1)}t}}\,\chi^2_0$"
    whose = ("Prop. 4.1 for exact matching", "bound for centred laws", "bound for whitened laws")[matched]
    return f"{bound}: {whose}"


def main() -> None:
    """All laws, then the picture."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    rows, chains = [], []
    for law in laws():
        for seed in SEEDS:
            measured, chain = measure(law, seed)
            print(chain, *measured, sep="\n")
            rows += measured
            chains.append(chain)
    facts = {
        "seeds": list(SEEDS),
        "gammas": list(SCHEDULE.gammas),
        "network": f"MLP {WIDTH} wide, {DEPTH} deep, SiLU",
        "steps": OPTIONS.steps,
        "batch_size": OPTIONS.batch_size,
        "training_samples": TRAINING_SAMPLES,
        "samples": SAMPLES,
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }
    JSON.parent.mkdir(parents=True, exist_ok=True)
    write_json(JSON, {**provenance(), **facts, "chains": chains, "rows": rows})
    draw(rows, laws())


if __name__ == "__main__":
    main()
