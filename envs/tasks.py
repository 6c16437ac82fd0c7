"""The five robomimic tasks as data: names, horizons, observation sizes, robots, cameras, named positions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What distinguishes one task from another.

    name: short name, as in `lfm/<name>-v0`; env_name: robosuite's class; horizon: steps of an episode, as
    robomimic evaluates; object_dim: length of the observation `object`; n_arms: Panda arms;
    positions: (label, "site" or "body", name in the MuJoCo model) of the points worth drawing;
    camera: the one that renders by default; extra: keyword arguments robosuite needs beside the common ones.
    """

    name: str
    env_name: str
    horizon: int
    object_dim: int
    positions: tuple[tuple[str, str, str], ...]
    n_arms: int = 1
    camera: str = "agentview"
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def env_id(self) -> str:
        """The gymnasium id."""
        return f"lfm/{self.name}-v0"

    @property
    def robots(self) -> list[str]:
        """robosuite's argument `robots`."""
        return ["Panda"] * self.n_arms

    @property
    def observation_dims(self) -> dict[str, int]:
        """Length of each low-dimensional observation by robomimic's key, in the order policies read them."""
        dims = {"object": self.object_dim}
        for arm in range(self.n_arms):
            prefix = f"robot{arm}_"
            dims |= {f"{prefix}eef_pos": 3, f"{prefix}eef_quat": 4, f"{prefix}gripper_qpos": 2}
        return dims


GRIPPER = ("gripper", "site", "gripper0_right_grip_site")

TASKS: dict[str, Task] = {
    task.env_name: task
    for task in (
        Task("Lift", "Lift", 400, 10, (GRIPPER, ("cube", "body", "cube_main"))),
        Task(
            "Can",
            "PickPlaceCan",
            400,
            14,
            (GRIPPER, ("can", "body", "Can_main"), ("bin", "body", "bin2")),
        ),
        Task(
            "Square",
            "NutAssemblySquare",
            400,
            14,
            (GRIPPER, ("nut", "body", "SquareNut_main"), ("peg", "body", "peg1")),
        ),
        Task(
            "Transport",
            "TwoArmTransport",
            700,
            41,
            (
                ("gripper0", "site", "gripper0_right_grip_site"),
                ("gripper1", "site", "gripper1_right_grip_site"),
                ("payload", "body", "payload_root"),
                ("trash", "body", "trash_main"),
                ("lid", "body", "transport_start_bin_lid_root"),
                ("target_bin", "body", "transport_target_bin_root"),
                ("trash_bin", "body", "transport_trash_bin_root"),
            ),
            n_arms=2,
            # agentview shows little more than the floor between the tables
            camera="frontview",
            # two Pandas facing each other; "single-arm-opposed" is the name robomimic's files use
            extra=(("env_configuration", "single-arm-opposed"),),
        ),
        Task(
            "ToolHang",
            "ToolHang",
            700,
            44,
            (
                GRIPPER,
                ("stand", "body", "stand_root"),
                ("frame", "body", "frame_root"),
                ("tool", "body", "tool_root"),
            ),
        ),
    )
}
"""The tasks by robosuite's name, which is what a dataset's `env_args` holds."""


def find_task(env_name: str) -> Task:
    """The task of robosuite's class name; ValueError names the known ones."""
    if env_name not in TASKS:
        raise ValueError(f"env_name {env_name!r}: unknown task; known: {', '.join(TASKS)}")
    return TASKS[env_name]
