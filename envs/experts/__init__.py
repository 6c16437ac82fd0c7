"""Scripted experts: one module a task, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.experts.can import CanExpert
from envs.experts.common import NoExpert, PhasedExpert
from envs.experts.lift import LiftExpert
from envs.experts.square import SquareExpert
from envs.experts.toolhang import ToolHangExpert
from envs.experts.transport import TransportExpert

if TYPE_CHECKING:
    from envs.robosuite_env import RobosuiteEnv

EXPERTS: dict[str, type[PhasedExpert]] = {
    "Lift": LiftExpert,
    "Can": CanExpert,
    "Square": SquareExpert,
    "Transport": TransportExpert,
    "ToolHang": ToolHangExpert,
}
"""Expert by the task's short name."""


def make_expert(env: RobosuiteEnv, seed: int) -> PhasedExpert:
    """The expert of the environment's task; NoExpert names the tasks that have one."""
    if env.task.name not in EXPERTS:
        raise NoExpert(f"{env.task.env_id}: no scripted expert; tasks that have one: {', '.join(EXPERTS)}")
    return EXPERTS[env.task.name](env, seed)
