"""robosuite's manipulation tasks and PushT as gymnasium environments, and scripted experts.

Importing this package registers them (`import envs; gymnasium.make("lfm/Lift-v0")`, or in one go
`gymnasium.make("envs:lfm/Lift-v0")`) and imports neither robosuite nor mujoco: that happens when an
environment is built.
"""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

from envs.tasks import TASKS

PUSHT = "lfm/PushT-v0"


def register_envs() -> None:
    """Register `lfm/Lift-v0` and its siblings with gymnasium; calling it twice does no harm.

    It is also the package's entry point of the group `gymnasium.envs`. gymnasium stopped reading that group
    with 1.0; programs that want environments of packages they do not import load it themselves.
    """
    for task in TASKS.values():
        if task.env_id not in registry:
            register(
                id=task.env_id,
                entry_point="envs.robosuite_env:RobosuiteEnv",
                max_episode_steps=task.horizon,
                kwargs={"env_name": task.env_name},
            )
    if PUSHT not in registry:
        # 300 steps at 10 Hz, as Diffusion Policy evaluates
        register(id=PUSHT, entry_point="envs.pusht:PushTEnv", max_episode_steps=300)


register_envs()
