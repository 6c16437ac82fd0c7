"""The typed configuration of a run of `lfm image`: one YAML file, every field also a dotted flag."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lfm_policy.data.images import ImageDataConfig
from lfm_policy.evaluation.fields import differences
from lfm_policy.flow import LFMError, Schedule, Solver
from lfm_policy.image.model import UNet2dConfig
from lfm_policy.training.config import FlowConfig, TrainingConfig, as_now
from lfm_policy.training.folder import plain
from lfm_policy.training.students import StudentsConfig


@dataclass(frozen=True)
class SamplesConfig:
    """Grids of samples while training goes on.

    Args:
        n: images of a grid; 0 for none.
        every: steps between them.
    """

    n: int = 64
    every: int = 1000

    def __post_init__(self) -> None:
        if self.n < 0 or self.every < 1:
            raise LFMError(f"samples: n {self.n} must be 0 or more and every {self.every} 1 or more")


@dataclass(frozen=True)
class DistillationConfig(StudentsConfig):
    """Students of the trained flow, for `lfm image distill` (Algorithm A.1).

    Args:
        n_students: N', network evaluations of a student's sample; a divisor of the sub-flows. All, if not given.
        n_stretches: for a teacher of one network: stretches that its clock is cut into, by flow.c and flow.rho.
        channels: widths of a student; if not given the teacher's for k = N/N' = 1, else √k times as wide, so that all
            students together have about as many weights as the teacher.
    """

    n_students: int | None = None
    n_stretches: int | None = None
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("n_students", "n_stretches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LFMError(f"distillation.{name}: {value} must be 1 or more")
        super().__post_init__()


@dataclass(frozen=True)
class ImageConfig:
    """A run.

    Args:
        output_dir: folder of the run: config.yaml, metrics.jsonl, tensorboard/, checkpoints/, samples/, pipeline/.
        data: the images.
        network: sizes of one sub-flow's UNet.
        flow: the chain of sub-flows and its training pairs.
        sampler: how sub-flows are solved when images are drawn; kept in the pipeline.
        training: optimisation.
        samples: grids during training.
        distillation: of `lfm image distill`.
        seed: of splits, weights, batches and noise.
        device: `cpu`, `cuda`, …
        threads: CPU threads; torch's own choice if not given.
        resume: continue the run in output_dir.
        overwrite: replace the run in output_dir.
        stop_after: stop after that many steps of this session, resumable.
    """

    output_dir: str
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    network: UNet2dConfig = field(default_factory=UNet2dConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    sampler: Solver = field(default_factory=Solver)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    seed: int = 0
    device: str = "cpu"
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
        for name in ("log_every", "valid_every", "checkpoint_every"):
            if getattr(self.training, name) < 1:
                raise LFMError(f"training.{name}: {getattr(self.training, name)} must be 1 or more")

    def schedule(self) -> Schedule:
        """Of the chain."""
        return Schedule.geometric(self.flow.n_subflows, self.flow.c, self.flow.rho)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return plain(asdict(self))

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields whose values would make a resumed training another one, as `field: was old, now new`."""
        free: tuple[str, ...] = (
            "output_dir",
            "resume",
            "overwrite",
            "stop_after",
            "threads",
            "distillation.",
            "samples.",
            "data.path",
        )
        free += ("data.cache_dir", "training.log_", "training.valid_", "training.checkpoint_", "sampler.")
        return differences(as_now(other), self.to_dict(), free)
