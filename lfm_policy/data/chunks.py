"""Which frames make a training example: a pure function of the episodes' lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lfm_policy.flow.errors import LFMError


def chunk_indices(lengths: Sequence[int], n_obs_steps: int, horizon: int, pad_before: int, pad_after: int) -> Tensor:
    """Flat frame indices of every window of every episode: (M, horizon) int64, edges repeated.

    A window is `horizon` = Tp steps in a row. Its first `n_obs_steps` = To columns are the observation
    history, all its columns the action chunk; the newest observation is column To - 1, and so is the first
    action that will be executed. To = 2, Tp = 8, and Ta = 4 executed actions, newest observation at step t:

        step        t-1   t  t+1  t+2  t+3  t+4  t+5  t+6
        column        0   1    2    3    4    5    6    7
        observed      o   O
        chunk         a   a    a    a    a    a    a    a
        executed          x    x    x    x

    In an episode of T steps windows start at -pad_before, ..., T - horizon + pad_after; a column that falls
    outside repeats the first or the last step. `pad_before = To - 1` and `pad_after = Ta - 1` are Diffusion
    Policy's choice: T = 5, To = 2, Tp = 4, Ta = 3 give

        start -1:   0  0  1  2        start 1:   1  2  3  4
        start  0:   0  1  2  3        start 2:   2  3  4  4        start 3:   3  4  4  4

    robomimic's frame_stack = To and seq_length = L with both paddings are `horizon = To - 1 + L`,
    `pad_before = To - 1`, `pad_after = L - 1`. An episode too short for any window gives the one that
    starts at -pad_before. Indices count the frames of all episodes laid end to end. Raises LFMError on
    impossible sizes.
    """
    _check_sizes(lengths, n_obs_steps, horizon, pad_before, pad_after)
    length = torch.as_tensor(lengths, dtype=torch.int64)
    first_frame = length.cumsum(0) - length
    n_windows = (length - horizon + pad_after + pad_before + 1).clamp(min=1)
    episode = torch.repeat_interleave(torch.arange(len(length)), n_windows)
    first_window = n_windows.cumsum(0) - n_windows
    start = torch.arange(len(episode)) - first_window[episode] - pad_before
    step = start[:, None] + torch.arange(horizon)
    inside = torch.minimum(step.clamp(min=0), length[episode, None] - 1)
    return first_frame[episode, None] + inside


def _check_sizes(lengths: Sequence[int], n_obs_steps: int, horizon: int, pad_before: int, pad_after: int) -> None:
    if not 1 <= n_obs_steps <= horizon:
        raise LFMError(f"n_obs_steps: {n_obs_steps} must be 1 to horizon, which is {horizon}")
    for name, pad in (("pad_before", pad_before), ("pad_after", pad_after)):
        if not 0 <= pad < horizon:
            raise LFMError(f"{name}: {pad} must be 0 to {horizon - 1}, else a window is nothing but padding")
    if len(lengths) == 0 or min(lengths) < 1:
        raise LFMError("episode lengths: every dataset needs at least one episode, every episode one step")
