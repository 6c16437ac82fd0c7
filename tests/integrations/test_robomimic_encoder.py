"""robomimic's observation encoders inside our velocity fields, images included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lfm_policy.nets import EncodedField
from tests.data.recordings import episode, write_robomimic_file
from tests.integrations.sessions import Session, begin, run_epoch, tiny_config

SIZE = 16
RGB = {
    "modalities": {"obs": {"rgb": ["agentview_image"], "low_dim": ["robot0_eef_pos"]}},
    "encoder": {
        "rgb": {
            "core_class": "VisualCore",
            "core_kwargs": {
                "backbone_class": "ShallowConv",
                "pool_class": None,
                "feature_dimension": 5,
            },
        }
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    episodes = {f"demo_{k}": episode(rng, 12) for k in range(3)}
    for arrays in episodes.values():
        arrays["obs/agentview_image"] = rng.integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)
    return write_robomimic_file(tmp_path_factory.mktemp("data") / "images.hdf5", episodes)


@pytest.fixture(scope="module")
def session(data: Path) -> Session:
    """After an epoch on images and positions."""
    session = begin(tiny_config(data, observation=RGB, algo={"flow": {"n_subflows": 2}}, train={"num_epochs": 2}))
    run_epoch(session, 1)
    return session


def frames(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 2, 3, SIZE, SIZE, generator=generator)
    return {"agentview_image": image, "robot0_eef_pos": torch.randn(count, 2, 3, generator=generator)}


def encoder_of(session: Session, n: int = 1) -> Any:
    field = session.model.policy.flow.field(n)
    assert isinstance(field, EncodedField)
    return field.encoder


def test_a_condition_is_taken_apart_as_it_was_joined(session: Session) -> None:
    """The features are those of robomimic's own encoder on each frame, side by side."""
    encoder, obs = encoder_of(session), frames(4)
    policy = session.model.policy
    cond = policy.condition({key: value.flatten(2) for key, value in obs.items()})
    position = policy.observation_normalizer.normalize(policy.joined({k: v.flatten(2) for k, v in obs.items()}))[
        ..., -3:
    ]
    expected = [
        encoder.encoder({"agentview_image": obs["agentview_image"][:, t], "robot0_eef_pos": position[:, t]})
        for t in range(2)
    ]
    assert expected[0].shape == (4, 5 + 3)
    torch.testing.assert_close(encoder(cond), torch.cat(expected, dim=1))


def test_images_are_left_to_the_encoder_and_positions_are_normalised(session: Session) -> None:
    normalizer = session.model.policy.observation_normalizer
    pixels = 3 * SIZE * SIZE
    assert (normalizer.offset[:pixels] == 0).all()
    assert (normalizer.scale[:pixels] == 1).all()
    assert (normalizer.scale[pixels:] != 1).all()


def test_gradients_reach_every_weight_of_the_encoder(session: Session) -> None:
    policy = session.model.policy
    cond = policy.condition({key: value.flatten(2) for key, value in frames(4).items()})
    velocity = policy.flow.velocity(1, torch.randn(4, 8, 7), 0.3, cond)
    assert velocity.shape == (4, 8, 7)
    policy.zero_grad()
    velocity.pow(2).sum().backward()
    weights = list(encoder_of(session).parameters())
    assert weights
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)


def test_training_moves_the_encoder_of_the_subflow_that_trains(data: Path) -> None:
    session = begin(tiny_config(data, observation=RGB, algo={"flow": {"n_subflows": 2}}, train={"num_epochs": 2}))
    before = [[w.clone() for w in encoder_of(session, n).parameters()] for n in (1, 2)]
    run_epoch(session, 1)
    moved = [
        [not torch.equal(a, b) for a, b in zip(weights, encoder_of(session, n).parameters(), strict=True)]
        for n, weights in enumerate(before, start=1)
    ]
    assert all(moved[0])
    assert not any(moved[1])


def test_actions_depend_on_the_image(session: Session) -> None:
    def action(seed: int) -> Tensor:
        session.model._episode = 0
        session.model.reset()
        image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        return session.model.get_action({"agentview_image": image, "robot0_eef_pos": torch.zeros(1, 3)})

    assert torch.equal(action(0), action(0))
    assert not torch.equal(action(0), action(1))


def test_low_dimensional_observations_are_encoded_on_request_only(data: Path) -> None:
    plain, asked = (begin(tiny_config(data, algo={"encode_low_dim": asked})) for asked in (False, True))
    assert not isinstance(plain.model.policy.flow.field(1), EncodedField)
    assert isinstance(asked.model.policy.flow.field(1), EncodedField)
    assert encoder_of(asked).dim == 2 * 19
    assert run_epoch(asked, 1)["Loss"] > 0
