"""A velocity field that reads its condition through a learned encoder."""

from __future__ import annotations

from torch import Tensor, nn


class EncodedField(nn.Module):
    """v(x, t, cond) = field(x, t, encoder(cond)): the encoder learns with the field that it serves.

    `encoder` maps conditions (B, C) to features (B, F); `field` is any velocity field conditioned on those. A
    flow of such fields stays a flow of velocity fields: its EMA, sampling and files know nothing of encoders.
    """

    def __init__(self, encoder: nn.Module, field: nn.Module) -> None:
        super().__init__()
        self.encoder, self.field = encoder, field

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, *shape), t (B,), cond (B, C) or None -> velocity (B, *shape)."""
        return self.field(x, t, None if cond is None else self.encoder(cond))
