"""What a trained density comes to: NLL on each part of the table, with its statistical and numerical errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.data.tables import Table
from lfm_policy.density.estimator import LocalFlowDensity
from lfm_policy.flow import Likelihood

PARTS = {"train": "train", "valid": "validation", "test": "test"}


def evaluate(
    density: LocalFlowDensity, table: Table, rows: int | None, on_rows: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Figures of each part of a table, from its first `rows` rows; `on_rows` hears how many more are done.

    Per part: `nll` and its `standard_error` over rows, `boundaries` (NLL under the first n sub-flows, n = 0 … N), and
    the convergence of the solver: `mean_change` and `max_change` of the last doubling of steps, `unconverged` rows.
    Where the density is known, `kl` is the mean of log p - log q with its own standard error, which is far smaller
    than that of the NLL.
    """
    parts: dict[str, Any] = {}
    for part in PARTS:
        values = getattr(table, part)[:rows]
        parts[part] = _figures(density, values, density.likelihood(values, on_rows), table)
    known = {} if table.entropy is None else {"entropy": table.entropy}
    return {"parts": parts, **known, "tolerance": density.tolerance, "n_probes": density.n_probes}


def _figures(density: LocalFlowDensity, values: NDArray[Any], likelihood: Likelihood, table: Table) -> dict[str, Any]:
    log_prob = likelihood.log_prob.numpy()
    figures = {
        "rows": len(values),
        "nll": -float(log_prob.mean()),
        "standard_error": _standard_error(log_prob),
        "boundaries": [-float(value) for value in likelihood.boundaries.mean(0)],
        "mean_change": likelihood.mean_change,
        "max_change": float(likelihood.change.abs().max()),
        "unconverged": int((~likelihood.converged).sum()),
        "max_steps": int(likelihood.steps.max()),
    }
    if likelihood.probe_error is not None:
        figures["probe_error"] = float(likelihood.probe_error.pow(2).sum().sqrt()) / len(values)
    if table.log_prob is not None:
        excess = table.log_prob(values) - log_prob
        figures |= {"kl": float(excess.mean()), "kl_standard_error": _standard_error(excess)}
    return figures


def told(evaluation: dict[str, Any]) -> str:
    """The evaluation as lines for a terminal."""
    parts, known = evaluation["parts"], "entropy" in evaluation
    lines = [f"{'':<12}{'rows':>8}   {'NLL in nats':<20}" + ("  above the entropy" if known else "")]
    for part, name in PARTS.items():
        f = parts[part]
        line = f"{name:<12}{f['rows']:>8,}   {f['nll']:>9.4f} ± {_told(f['standard_error']):<8}"
        if "kl" in f:
            line += f"  {f['kl']:>9.4f} ± {_told(f['kl_standard_error'])}"
        lines.append(line.rstrip())
    boundaries = "  ".join(f"{value:.3f}" for value in parts["test"]["boundaries"])
    lines.append(f"test NLL after each sub-flow, from none to all: {boundaries}")
    worst = {name: max(parts[part][name] for part in PARTS) for name in ("mean_change", "max_change", "unconverged")}
    lines.append(
        f"± is the standard error over rows; doubling the solver's steps moved a mean by {worst['mean_change']:.0e} "
        f"nats, a row by at most {worst['max_change']:.0e}"
    )
    if worst["unconverged"]:
        lines.append(
            f"{worst['unconverged']} rows did not come to rest within the tolerance of {evaluation['tolerance']:g}"
        )
    if "probe_error" in parts["test"]:
        lines.append(f"of the test NLL's ±, Hutchinson's estimate makes {parts['test']['probe_error']:.4f}")

    return "\n".join(lines)


def _standard_error(values: NDArray[np.float64]) -> float | None:
    """None for a single value, which has none."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def _told(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.4f}"
