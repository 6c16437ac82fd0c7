"""`LocalFlowDensity`: local flow matching as a scikit-learn density estimator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from lfm_policy.data.table_files import check_finite, check_table
from lfm_policy.data.whitening import Whitener, WhiteningMode
from lfm_policy.density.fitting import DensityFitter, Evaluation
from lfm_policy.density.settings import LrDecay, check_settings, fit_options, new_flow
from lfm_policy.flow import LFMError, Likelihood, Solver, converged_log_prob, named_generator
from lfm_policy.flow.interpolant import InterpolantName
from lfm_policy.flow.matching import CouplingName, MarginalsName
from lfm_policy.flow.random import named_seed

PIECE = 4096  # rows whose likelihood is solved together
SAMPLER = Solver("rk4", steps=8)


class LocalFlowDensity(DensityMixin, BaseEstimator):
    """Density of the rows of a table by Local Flow Matching, with exact likelihoods in nats of the table's own units.

    The rows are whitened, and a chain of `n_subflows` small networks is matched to their Ornstein-Uhlenbeck
    diffusion (Algorithm 1). `LocalFlowDensity.preset("paper")` has the paper's choices; why the defaults
    differ is measured in docs/what_works.md.

    >>> import numpy as np
    >>> table = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 1000.0]
    >>> density = LocalFlowDensity(n_subflows=2, width=32, steps=100, random_state=0).fit(table)
    >>> density.score_samples(table[:3]).shape, density.sample(5, random_state=1).shape
    ((3,), (5, 2))

    Args:
        n_subflows: N; 1 is a single flow from data to noise.
        c: first step size of the schedule, in OU time; None: so that the last sub-flow begins at OU time 0.17.
        rho: ratio of successive step sizes.
        interpolant: `ot`, `trigonometric` or `geodesic`.
        coupling: `common` (with exact marginals), `fresh`, `independent` or `ot`.
        marginals: `exact`, or `pushed` (Algorithm 1 of the paper).
        time_alpha: first parameter of the Beta distribution of times.
        time_beta: second parameter of it.
        shared_start: steps of training one network on all stretches before it is copied to each.
        warm_subflows: begin sub-flow n + 1 with the weights of sub-flow n.
        share_weights: one network for all sub-flows, trained on all together with common noise for `n_subflows` times
            `steps` steps; the settings of pairs and times do not matter then.
        initial_diffusion: OU time by which the whitened data are diffused; the density is then that of the diffused.
        width: units of a hidden layer.
        depth: hidden layers.
        activation: `silu`, `elu`, `relu` or `softplus`.
        n_frequencies: octaves of sines and cosines of each whitened column that the network sees; 0 for none.
        steps: optimiser steps per sub-flow.
        batch_size: rows per step; all, if there are fewer.
        learning_rate: its peak.
        lr_decay: `cosine` to zero at the last step, `constant`, or `step`: times `lr_factor` every `lr_every` steps.
        lr_factor: of `step`.
        lr_every: of `step`.
        ema_maximum: largest decay of the moving average of weights; 0 for none.
        normalizer: `whiten`, `standard` or `none`; its Jacobian is counted.
        valid_fraction: rows held out to watch the likelihood on; 0 for none.
        patience: evaluations without a better figure of the held-out rows after which a sub-flow ends with its best
            weights; None, or without held-out rows: never.
        evaluations: how often held-out rows are looked at per sub-flow.
        tolerance: nats by which doubling the solver's steps may still move a row's log-likelihood.
        n_probes: 0 for the exact trace, else Hutchinson probes per row.
        device: `cpu`, `cuda`, …
        random_state: seed of the split, of weights, batches and noise.

    Attributes:
        flow_: the chain of sub-flows, on whitened rows.
        whitener_: the affine map before it.
        history_: what was seen in training: sub-flow, step, loss, valid_loss, valid_nll (in the table's own units).
        settings_: the settings that shaped `flow_`, whatever is set afterwards.
        n_features_in_: columns.
    """

    def __init__(
        self,
        n_subflows: int = 4,
        c: float | None = None,
        rho: float = 3.5,
        interpolant: InterpolantName = "geodesic",
        coupling: CouplingName = "common",
        marginals: MarginalsName = "exact",
        time_alpha: float = 1.0,
        time_beta: float = 1.0,
        shared_start: int = 0,
        warm_subflows: bool = False,
        share_weights: bool = False,
        initial_diffusion: float = 0.0,
        width: int = 128,
        depth: int = 3,
        activation: str = "silu",
        n_frequencies: int = 0,
        steps: int = 4000,
        batch_size: int = 512,
        learning_rate: float = 5e-3,
        lr_decay: LrDecay = "cosine",
        lr_factor: float = 0.99,
        lr_every: int = 1000,
        ema_maximum: float = 0.999,
        normalizer: WhiteningMode = "whiten",
        valid_fraction: float = 0.1,
        patience: int | None = 5,
        evaluations: int = 20,
        tolerance: float = 1e-3,
        n_probes: int = 0,
        device: str = "cpu",
        random_state: int | None = None,
    ) -> None:
        self.n_subflows = n_subflows
        self.c = c
        self.rho = rho
        self.interpolant = interpolant
        self.coupling = coupling
        self.marginals = marginals
        self.time_alpha = time_alpha
        self.time_beta = time_beta
        self.shared_start = shared_start
        self.warm_subflows = warm_subflows
        self.share_weights = share_weights
        self.initial_diffusion = initial_diffusion
        self.width = width
        self.depth = depth
        self.activation = activation
        self.n_frequencies = n_frequencies
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.lr_decay = lr_decay
        self.lr_factor = lr_factor
        self.lr_every = lr_every
        self.ema_maximum = ema_maximum
        self.normalizer = normalizer
        self.valid_fraction = valid_fraction
        self.patience = patience
        self.evaluations = evaluations
        self.tolerance = tolerance
        self.n_probes = n_probes
        self.device = device
        self.random_state = random_state

    @classmethod
    def preset(cls, name: str, **settings: Any) -> LocalFlowDensity:
        """The estimator with a named set of settings (`default`, `fine`, `paper`), of which `settings` replace some."""
        from lfm_policy.density.settings import preset

        return cls(**{**preset(name), **settings})

    def fit(self, X: ArrayLike, y: object = None) -> LocalFlowDensity:
        """Fit to rows X (M, d); `y` is ignored.

        LFMError (a ValueError) where X holds NaN, constant or dependent columns or too few rows, where a setting
        is impossible, or where the loss diverges; the estimator is then not fitted.
        """
        self._forget()
        check_settings(self)
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_all_finite=False)
        seed = int(check_random_state(self.random_state).randint(2**31))
        train, valid = _split(_tensor(rows), self.valid_fraction, seed)
        try:
            self.begin(train, valid, seed, self.columns).run(self.record)
        except BaseException:
            self._forget()
            raise
        return self

    def begin(
        self, train: Tensor, valid: Tensor | None, seed: int, columns: Sequence[str] | None = None
    ) -> DensityFitter:
        """What `fit` does before its first step, on rows (M, d) that are split already: a fitter to be run.

        For those who train step by step, checkpoint and resume; `record` notes what it reports.
        """
        check_settings(self)
        columns = [str(index) for index in range(train.shape[1])] if columns is None else columns
        for part in (train, valid):
            if part is not None:
                check_finite(part.numpy(), columns, "X")
        check_table(train.numpy(), columns, "X")
        self.n_features_in_ = train.shape[1]
        self.settings_ = {**self.get_params(), "random_state": seed}
        self.history_: list[dict[str, Any]] = []
        self.whitener_ = Whitener.fit(train.double(), self.normalizer, columns)
        self.flow_ = new_flow(self, train.shape[1], named_seed(seed, "weights")).to(self.device)
        options = fit_options(self, len(train))
        held = None if valid is None else self._whitened(valid).float()
        rows = self._whitened(train).float()
        return DensityFitter(self.flow_, rows, held, options, self.evaluations, self.patience, seed)

    def record(self, seen: Evaluation) -> None:
        """Add an evaluation to `history_`, its NLL turned into the table's own units."""
        entry = seen._asdict()
        if seen.valid_nll is not None:
            entry["valid_nll"] = seen.valid_nll - self.whitener_.log_abs_det().item()
        self.history_.append(entry)

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """log p of rows X (M, d): (M,) in nats of the table's own units, to `tolerance`."""
        return self.likelihood(X).log_prob.numpy()

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Mean log-likelihood of rows X (M, d) in nats: higher is better; -score is the NLL."""
        return float(self.score_samples(X).mean())

    def likelihood(self, X: ArrayLike, on_piece: Callable[[int], None] | None = None) -> Likelihood:
        """Log-likelihoods of rows X (M, d) in nats with their numerical errors, and at every sub-flow's boundary.

        Solved in float64, each row independent of the others; with Hutchinson's estimate, a row's probes belong to its
        place. `on_piece` hears how many rows are done.
        """
        check_settings(self)  # tolerance and n_probes may have been set since
        whitened = self._whitened(self._checked(X)).double()
        flow, parts = copy.deepcopy(self.flow_).double(), []
        with torch.no_grad():
            for i, piece in enumerate(whitened.split(PIECE)):
                part = converged_log_prob(
                    flow, piece, None, self.tolerance, n_probes=self.n_probes, seed=i, first_row=i * PIECE
                )
                parts.append(part)
                if on_piece:
                    on_piece(len(piece))
        return Likelihood.cat(parts).shifted(self.whitener_.log_abs_det().item())

    def sample(
        self, n_samples: int = 1, random_state: int | None = None, solver: Solver = SAMPLER
    ) -> NDArray[np.float64]:
        """Rows (n_samples, d) drawn from the density, in the table's own units."""
        check_is_fitted(self)
        if n_samples < 0:
            raise LFMError(f"n_samples: {n_samples} must not be negative")
        seed = int(check_random_state(random_state).randint(2**31))
        parts = []
        with torch.no_grad():
            for i, start in enumerate(range(0, n_samples, PIECE)):
                shape = (min(PIECE, n_samples - start), self.n_features_in_)
                parts.append(self.flow_.sample(shape, None, solver, named_generator(seed, "sample", i)))
        whitened = torch.cat(parts).double().cpu() if parts else torch.zeros(0, self.n_features_in_).double()
        return self.whitener_.unnormalize(whitened).numpy()

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the fitted estimator as a folder: density.json and model.safetensors; the folder."""
        from lfm_policy.density.storage import save_density

        check_is_fitted(self)
        return save_density(self, Path(path), overwrite)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> LocalFlowDensity:
        """The estimator that `save` wrote, or the newest checkpoint of a run of `lfm density train`, on `device`."""
        from lfm_policy.density.storage import load_density

        return load_density(Path(path), device)

    @property
    def columns(self) -> list[str] | None:
        """Names of the columns, where fitted to a data frame."""
        names = getattr(self, "feature_names_in_", None)
        return None if names is None else list(names)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "flow_")

    def _forget(self) -> None:
        """Be unfitted: a fit that fails must not leave half of a model behind."""
        for name in ("flow_", "whitener_", "history_", "settings_"):
            self.__dict__.pop(name, None)

    def _checked(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        return _tensor(validate_data(self, X, dtype=np.float64, reset=False))

    def _whitened(self, rows: Tensor) -> Tensor:
        return self.whitener_.normalize(rows.double()).to(self.device)


def _tensor(rows: NDArray[np.float64]) -> Tensor:
    """As a tensor; torch takes no negative strides, and warns of memory that it may not write."""
    rows = np.ascontiguousarray(rows)
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


def _split(rows: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor | None]:
    """Rows to train on and rows held out; every column's rows are shuffled together."""
    order = torch.randperm(len(rows), generator=named_generator(seed, "split"))
    held = round(fraction * len(rows))
    return rows[order[held:]], rows[order[:held]] if held else None
