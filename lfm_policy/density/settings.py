"""What the estimator's flat settings mean to the flow core, their ranges and named sets."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import torch

from lfm_policy.flow import FitOptions, LFMError, LocalFlow, Matching, Schedule, Solver
from lfm_policy.flow.device import check_device
from lfm_policy.nets import MLP

if TYPE_CHECKING:
    from lfm_policy.density.estimator import LocalFlowDensity

LrDecay = Literal["cosine", "constant", "step"]

PAPER: dict[str, Any] = {
    # what the paper says for 2-D and tabular data: Algorithm 1 with the trigonometric interpolant, Adam without decay
    # of weights or average of them (Appendix C.1, Table A.1); its code begins each sub-flow from the one before
    "c": 0.025,
    "rho": 1.25,
    "n_subflows": 9,
    "interpolant": "trigonometric",
    "coupling": "fresh",
    "marginals": "pushed",
    "warm_subflows": True,
    "width": 256,
    "depth": 3,
    "activation": "softplus",
    "n_frequencies": 0,
    "batch_size": 10_000,
    "steps": 50_000,
    "learning_rate": 2e-4,
    "lr_decay": "step",
    "ema_maximum": 0.0,
    "normalizer": "none",
    "patience": None,
}
# structure a hundred times finer than the data's extent, such as lines in a picture
FINE: dict[str, Any] = {"c": 5e-4, "rho": 9.0, "n_frequencies": 6}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "fine": FINE, "paper": PAPER}

LAST_BEGINS = 0.17

# what a number must be, the kind of number, how to test it (NaN fails all), and the settings that it holds for
Range = tuple[str, type, Callable[[float], bool], tuple[str, ...]]
RANGES: tuple[Range, ...] = (
    (
        "a whole number, 1 or more",
        Integral,
        lambda value: value >= 1,
        ("n_subflows", "width", "depth", "steps", "batch_size", "lr_every", "patience", "evaluations"),
    ),
    (
        "a number, positive and finite",
        Real,
        lambda value: 0 < value < math.inf,
        ("c", "rho", "time_alpha", "time_beta", "learning_rate", "lr_factor", "tolerance"),
    ),
    ("a whole number, 0 or more", Integral, lambda value: value >= 0, ("shared_start", "n_frequencies", "n_probes")),
    ("a number, 0 or more and finite", Real, lambda value: 0 <= value < math.inf, ("initial_diffusion",)),
    ("a number, 0 or more and below 1", Real, lambda value: 0 <= value < 1, ("valid_fraction", "ema_maximum")),
)


def preset(name: str) -> dict[str, Any]:
    """Settings of a named set; LFMError with the nearest name."""
    if name not in PRESETS:
        nearest = difflib.get_close_matches(str(name), PRESETS, n=1, cutoff=0.3)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(PRESETS)}"
        raise LFMError(f"preset: '{name}' is unknown; {hint}")
    return dict(PRESETS[name])


def check_settings(settings: LocalFlowDensity) -> None:
    """LFMError with name, value and range of the first impossible setting."""
    for told, kind, fits, names in RANGES:
        for name in names:
            value = getattr(settings, name)
            if value is None and name in ("patience", "c"):
                continue
            if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):  # type: ignore[arg-type]
                raise LFMError(f"{name}: {value!r} must be {told}")
    check_device(settings.device)
    matching_of(settings)


def schedule_of(n_subflows: int, c: float | None, rho: float) -> Schedule:
    """The schedule; without `c` that whose last sub-flow begins at OU time LAST_BEGINS, however many there are."""
    if c is None:
        c = LAST_BEGINS / sum(rho**n for n in range(n_subflows - 1)) if n_subflows > 1 else LAST_BEGINS
    return Schedule.geometric(n_subflows, c, rho)


def matching_of(settings: LocalFlowDensity) -> Matching:
    """Where the training pairs come from."""
    return Matching(
        settings.interpolant, settings.coupling, settings.marginals, settings.time_alpha, settings.time_beta
    )


def fit_options(settings: LocalFlowDensity, n_rows: int) -> FitOptions:
    """How the sub-flows are fitted to `n_rows` rows."""
    return FitOptions(
        batch_size=min(settings.batch_size, n_rows),
        learning_rate=settings.learning_rate,
        beta1=0.9,
        weight_decay=0.0,
        warmup_steps=0 if settings.lr_decay == "step" else min(100, settings.steps // 10),
        lr_decay=settings.lr_decay,
        lr_factor=settings.lr_factor,
        lr_every=settings.lr_every,
        ema_maximum=settings.ema_maximum,
        steps=settings.steps,
        matching=matching_of(settings),
        shared_start=settings.shared_start,
        warm_start=settings.warm_subflows,
        initial_diffusion=settings.initial_diffusion,
        push_solver=Solver("rk4", steps=4),
        push_batch_size=8192,
    )


def new_flow(settings: LocalFlowDensity, dim: int, seed: int) -> LocalFlow:
    """An untrained chain for vectors of `dim` numbers.

    A network reads the clock on its own stretch; one that serves all stretches, for a while or for good, on all.
    """
    schedule = schedule_of(settings.n_subflows, settings.c, settings.rho)
    sizes = (settings.width, settings.depth, settings.activation, 0, settings.n_frequencies)
    whole = settings.shared_start or settings.share_weights
    count = 1 if settings.share_weights else schedule.n_subflows
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's initialisers know only the global generator
        try:
            fields = [MLP(dim, *sizes, schedule.clock if whole else schedule.clock[n : n + 2]) for n in range(count)]
        except ValueError as error:  # nets know no LFMError
            raise LFMError(str(error)) from error
    return LocalFlow(fields, schedule)
