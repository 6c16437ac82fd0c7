"""The typed configuration of a run of `lfm density`: one YAML file, every field also a dotted flag."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lfm_policy.data.tables import Table, load_table
from lfm_policy.density.estimator import LocalFlowDensity
from lfm_policy.evaluation.fields import differences
from lfm_policy.flow import LFMError
from lfm_policy.training.folder import plain


@dataclass(frozen=True)
class TableConfig:
    """Which table to learn.

    Args:
        name: `file`, `picture`, `rose`, `tree`, another 2-D density, `power`, `gas`, `hepmass`, `miniboone`, `bsds300`,
            or a table of scikit-learn's.
        path: the file or folder it is read from, where it needs one.
        n_train: rows to train on; all, if not given.
        n_valid: rows to watch training on.
        n_test: rows to test on.
        columns: names of the columns to keep.
    """

    name: str = "breast_cancer"
    path: str | None = None
    n_train: int | None = None
    n_valid: int | None = None
    n_test: int | None = None
    columns: tuple[str, ...] | None = None

    def load(self, seed: int) -> Table:
        """Read or draw it."""
        return load_table(
            self.name,
            self.path,
            n_train=self.n_train,
            n_valid=self.n_valid,
            n_test=self.n_test,
            columns=self.columns,
            seed=seed,
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How the likelihood is reported.

    Args:
        rows: of each part of the table, the first so many; all, if null.
        after_training: evaluate and draw plots when training is over.
    """

    rows: int | None = 10_000
    after_training: bool = True

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 2:
            raise LFMError(f"evaluation.rows: {self.rows} must be 2 or more")


@dataclass(frozen=True)
class DensityConfig:
    """A run.

    Args:
        output_dir: folder of the run: config.yaml, metrics.jsonl, tensorboard/, checkpoints/, evaluation.json, plots/.
        data: the table.
        model: settings of `LocalFlowDensity`.
        evaluation: how the likelihood is reported.
        seed: of splits, weights, batches and noise.
        threads: CPU threads; torch's own choice if not given.
        resume: continue the run in output_dir.
        overwrite: replace the run in output_dir.
        stop_after: stop after that many steps of this session, resumable.
    """

    output_dir: str
    data: TableConfig = field(default_factory=TableConfig)
    model: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "stop_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LFMError(f"{name}: {value} must be 1 or more")
        if self.seed < 0:
            raise LFMError(f"seed: {self.seed} must not be negative")

    def density(self) -> LocalFlowDensity:
        """The untrained estimator."""
        return LocalFlowDensity(**self.model, random_state=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return plain(asdict(self))

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields whose values would make a resumed run another run, as `field: was old, now new`."""
        free = ("output_dir", "resume", "overwrite", "stop_after", "threads", "evaluation.", "data.path")
        return differences(other, self.to_dict(), free)
