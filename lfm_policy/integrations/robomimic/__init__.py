"""Local Flow Matching inside robomimic: importing this registers the algorithm `lfm` with it.

    import lfm_policy.integrations.robomimic  # before robomimic parses a config or a checkpoint

LFMError where robomimic is missing, too old or too new.
"""

from lfm_policy.integrations.robomimic.compat import prepare

prepare()  # before anything imports robomimic's environments

from lfm_policy.integrations.robomimic.algo import LFM  # noqa: E402
from lfm_policy.integrations.robomimic.config import LFMAlgoConfig  # noqa: E402
from lfm_policy.integrations.robomimic.rollout import LFMRolloutPolicy, rollout_env, rollout_policy  # noqa: E402

__all__ = ["LFM", "LFMAlgoConfig", "LFMRolloutPolicy", "rollout_env", "rollout_policy"]
