"""Whether a device is there, and what it can compute in."""

from __future__ import annotations

import torch

from lfm_policy.flow.errors import LFMError


def check_device(device: str) -> None:
    """Raise LFMError where torch has no such device on this machine."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise LFMError(f"device: '{device}' cannot be used ({str(error).splitlines()[0]}); use cpu") from error


def training_precision(device: torch.device, wanted: bool) -> torch.autocast:
    """The context in which networks are evaluated in training: bfloat16 if `wanted` and the device is known to have it.

    CUDA devices say so themselves. CPUs are left in float32: some announce bfloat16 and end in an illegal instruction.
    """
    known = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type if known else "cpu", torch.bfloat16, enabled=wanted and known)
