"""Whether a device is there."""

from __future__ import annotations

import torch

from lfm_policy.flow.errors import LFMError


def check_device(device: str) -> None:
    """Raise LFMError where torch has no such device on this machine."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise LFMError(f"device: '{device}' cannot be used ({str(error).splitlines()[0]}); use cpu") from error
