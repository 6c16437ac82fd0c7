"""A Local Flow Matching policy distilled into students of one evaluation each (Algorithm A.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lfm_policy.flow import DistilledFlow, LFMError
from lfm_policy.flow.distill import untrained_students
from lfm_policy.policy.base import ChunkPolicy
from lfm_policy.policy.lfm import LFMConfig, LFMPolicy
from lfm_policy.policy.network import build_fields
from lfm_policy.policy.sampler import initial_noise
from lfm_policy.policy.spec import PolicySpec


@dataclass(frozen=True)
class DistilledConfig:
    """All that builds a `DistilledPolicy` from its spec: what its teacher was built from, and N'."""

    teacher: LFMConfig
    n_students: int


class DistilledPolicy(ChunkPolicy):
    """N' = N/k students in sequence, each of which stands for k sub-flows of its teacher in one evaluation.

    Students are networks of the teacher's sizes; those of a teacher that shares one network over its chain share one.
    There is no likelihood, and of the sampler nothing but its temperature, which is the teacher's.
    """

    kind: ClassVar[str] = "distilled"

    def __init__(self, spec: PolicySpec, config: DistilledConfig, seed: int = 0) -> None:
        super().__init__(spec)
        chain = config.teacher.chain
        count = 1 if chain.share_weights else config.n_students
        fields = build_fields(spec, config.teacher.network, count, seed)
        self.students = DistilledFlow(fields, chain.schedule, config.n_students)
        self.config = config

    @classmethod
    def of(cls, teacher: LFMPolicy, n_students: int) -> Self:
        """Students that are copies of the teacher's networks, which makes them its Euler steps, and its normalisers."""
        policy = cls(teacher.spec, DistilledConfig(teacher.config, n_students)).to(teacher.device)
        policy.students.load_state_dict(untrained_students(teacher.flow, n_students).state_dict())
        policy.observation_normalizer.load_state_dict(teacher.observation_normalizer.state_dict())
        policy.action_normalizer.load_state_dict(teacher.action_normalizer.state_dict())
        return policy

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], cond: Tensor, generator: torch.Generator | None) -> Tensor:
        """Normalised chunks of `shape` (B, Tp, Da) pulled from fresh noise by the students, given cond (B, To · D)."""
        return self.students.pull(initial_noise(shape, cond, generator, self.config.teacher.sampler.temperature), cond)

    @property
    def sampler(self) -> dict[str, Any]:
        """The temperature, JSON-able."""
        return {"temperature": self.config.teacher.sampler.temperature}

    def set_sampler(
        self, method: str | None = None, steps: int | None = None, temperature: float | None = None
    ) -> Self:
        """Draw its chunks at another temperature; LFMError for a method or steps, which students do not have."""
        if method is not None or steps is not None:
            raise LFMError("students take one evaluation each; leave solver and solver_steps out")
        if temperature is not None:
            sampler = replace(self.config.teacher.sampler, temperature=temperature)
            self.config = replace(self.config, teacher=replace(self.config.teacher, sampler=sampler))
        return self

    @property
    def nfe(self) -> int:
        """N'."""
        return self.students.nfe

    @property
    def multiply_adds(self) -> int:
        """Multiply-add operations for one chunk: an evaluation of each student."""
        return self.count_multiply_adds(self.students.pull)

    def describe(self) -> dict[str, Any]:
        """The settings that `from_description` needs, JSON-able."""
        return {"teacher": self.config.teacher.to_dict(), "n_students": self.config.n_students}

    @classmethod
    def from_description(cls, spec: PolicySpec, values: dict[str, Any]) -> Self:
        """Untrained students from their `describe`."""
        return cls(spec, DistilledConfig(LFMConfig.from_dict(values["teacher"]), values["n_students"]))


def cut(teacher: LFMPolicy, n_stretches: int) -> LFMPolicy:
    """The same policy of one network, whose clock is cut into other stretches, by its chain's c and ρ.

    Its ODE over the whole clock is the same however the clock is cut. Raises LFMError where sub-flows have networks
    of their own.
    """
    if len(teacher.flow.fields) > 1:
        raise LFMError(
            f"n_stretches: {n_stretches} is for a teacher of one network, this one has {len(teacher.flow.fields)}; "
            "leave it out"
        )
    chain = replace(teacher.config.chain, n_subflows=n_stretches, share_weights=True)
    policy = LFMPolicy(teacher.spec, replace(teacher.config, chain=chain)).to(teacher.device)
    policy.load_state_dict(teacher.state_dict())
    return policy.eval()
