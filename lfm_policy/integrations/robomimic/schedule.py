"""How robomimic's epochs are divided over the stages of Algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from lfm_policy.flow.stages import Stage


def whole_epochs(stages: Sequence[Stage], n_epochs: int, steps_per_epoch: int) -> list[Stage]:
    """The stages, in proportion to their steps, over `n_epochs` epochs: each ends with one, and has at least one.

    A stage ends at the epoch nearest to its share: 10 epochs over 4 equal stages end with epochs 2, 5, 8 and 10
    (halves go to the even one). Where epochs are fewer than stages, as with robomimic's --debug, single steps are
    divided instead.

    >>> whole_epochs([Stage(1, 5), Stage(2, 5)], n_epochs=6, steps_per_epoch=100)
    [Stage(n=1, steps=300), Stage(n=2, steps=300)]
    """
    unit = steps_per_epoch if n_epochs >= len(stages) else 1
    units, total = n_epochs * steps_per_epoch // unit, sum(stage.steps for stage in stages)
    divided, before = [], 0
    for i, (stage, share) in enumerate(zip(stages, accumulate(stage.steps for stage in stages), strict=True)):
        left_for_others = len(stages) - 1 - i
        end = min(max(round(units * share / total), before + 1), units - left_for_others)
        divided.append(Stage(stage.n, (end - before) * unit))
        before = end
    return divided
