"""A field behind an encoder is the field on the encoded condition, and learns both."""

from __future__ import annotations

import torch
from torch import nn

from lfm_policy.nets import MLP, EncodedField


def test_it_is_the_field_on_the_encoded_condition() -> None:
    encoder, field = nn.Linear(5, 3), MLP(2, 8, 1, cond_dim=3)
    x, t, cond = torch.randn(4, 2), torch.rand(4), torch.randn(4, 5)
    encoded = EncodedField(encoder, field)
    velocity = encoded(x, t, cond)
    assert torch.equal(velocity, field(x, t, encoder(cond)))
    velocity.sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in encoder.parameters())


def test_without_a_condition_it_is_the_field_alone() -> None:
    field = MLP(2, 8, 1)
    x, t = torch.randn(4, 2), torch.rand(4)
    assert torch.equal(EncodedField(nn.Identity(), field)(x, t), field(x, t))
