"""The algorithm inside robomimic's loop: its stages, its normalisers, what its checkpoints carry."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import lfm_policy.integrations.robomimic.compat as compat
from lfm_policy.flow import LFMError
from lfm_policy.flow.stages import Stage
from lfm_policy.integrations.robomimic.config import SECTIONS, LFMAlgoConfig, train_config
from lfm_policy.integrations.robomimic.schedule import whole_epochs
from lfm_policy.training import TrainConfig
from lfm_policy.training.config import DataConfig
from tests.data.recordings import KEYS, episode, write_robomimic_file
from tests.helpers.tensors import through_a_file
from tests.integrations.sessions import Session, act, begin, observation, run_epoch, tiny_config

VARIANTS: dict[str, dict[str, Any]] = {
    "pushed": {},
    "exact": {"marginals": "exact", "coupling": "common", "interpolant": "geodesic"},
    "shared start": {"shared_start": 4},
    "shared weights": {
        "share_weights": True,
        "interpolant": "geodesic",
        "coupling": "common",
        "marginals": "exact",
    },
}
EPOCHS = {"shared start": 4}
every_variant = pytest.mark.parametrize("variant", list(VARIANTS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five demonstrations of different lengths, four of them to train on."""
    rng = np.random.default_rng(0)
    episodes = {f"demo_{3 * k + 1}": episode(rng, 12 + k) for k in range(5)}
    episodes["demo_13"]["obs/object"] *= 100  # an outlier, held out
    masks = {"train": list(episodes)[:4], "valid": ["demo_13"]}
    return write_robomimic_file(tmp_path_factory.mktemp("data") / "lift.hdf5", episodes, masks=masks)


def session(data: Path, variant: str = "pushed", **train: Any) -> Session:
    epochs = {"num_epochs": EPOCHS.get(variant, 3)}
    return begin(tiny_config(data, algo={"flow": VARIANTS[variant]}, train={**epochs, **train}))


def fields(session: Session) -> list[dict[str, torch.Tensor]]:
    return [copy.deepcopy(field.state_dict()) for field in session.model.policy.flow.fields]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_configs_defaults_are_those_of_our_own_command() -> None:
    """One list of settings: what robomimic's config gives is what `lfm train` has without flags."""
    ours, theirs = TrainConfig("", DataConfig(path="x")), train_config(LFMAlgoConfig())
    assert theirs.lfm() == ours.lfm()
    assert theirs.policy == ours.policy
    assert theirs.flow == ours.flow
    assert theirs.fit_options(0).matching == ours.fit_options(1).matching
    for section, (_, names) in SECTIONS.items():
        for name in names:
            assert getattr(getattr(theirs, section), name) == getattr(getattr(ours, section), name), name


def test_the_config_of_the_documentation_trains(data: Path) -> None:
    values = json.loads(Path("configs/robomimic/lfm.json").read_text())
    values["train"] |= {"data": str(data), "batch_size": 8}
    values["experiment"]["epoch_every_n_steps"] = 1
    assert run_epoch(begin(values), 1)["Subflow"] == 1


def test_runs_lie_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(LFMAlgoConfig().train.output_dir).is_relative_to(tmp_path)


@every_variant
def test_each_epoch_trains_the_subflow_it_should_and_leaves_the_others(data: Path, variant: str) -> None:
    run = session(data, variant)
    before, seen = fields(run), []
    for epoch in range(1, run.config.train.num_epochs + 1):
        log = run_epoch(run, epoch)
        after = fields(run)
        seen.append(
            (log["Subflow"], [i + 1 for i, (a, b) in enumerate(zip(before, after, strict=True)) if not same(a, b)])
        )
        before = after
    expected: list[Any] = [(1, [1]), (2, [2]), (3, [3])]
    if variant == "shared start":  # its weights are copied when sub-flow 1's own stage begins
        expected = [(0, [1]), (1, [1, 2, 3]), *expected[1:]]
    assert seen == ([(0, [1])] * 3 if variant == "shared weights" else expected)
    assert run.model._fit.done


@every_variant
def test_a_checkpoint_of_any_epoch_acts_as_the_model_did(data: Path, variant: str) -> None:
    run, other = session(data, variant), session(data, variant)
    for epoch in range(run.config.train.num_epochs + 1):
        if epoch:
            run_epoch(run, epoch)
        other.model.deserialize(through_a_file(run.model.serialize()))
        run.model._episode = other.model._episode = 0
        expected = act(run.model)
        assert torch.equal(act(other.model), expected)
        assert expected.isfinite().all()


@every_variant
def test_a_resumed_run_continues_bit_for_bit(data: Path, variant: str) -> None:
    """Broken off within a stage, in robomimic 0.5's way; the weights in training and the optimiser's state included."""
    whole, cut = session(data, variant), session(data, variant)
    for epoch in range(1, whole.config.train.num_epochs + 1):
        run_epoch(whole, epoch)
        if epoch == 2:
            run_part(cut, epoch, slice(0, 2))
            resumed = session(data, variant)
            resumed.model.deserialize(through_a_file(cut.model.serialize()), load_optimizers=True)
            cut = resumed
            run_part(cut, epoch, slice(2, None))
        else:
            run_epoch(cut, epoch)
    assert same(cut.model.nets.state_dict(), whole.model.nets.state_dict())
    assert same(cut.model._fit.network.state_dict(), whole.model._fit.network.state_dict())


@pytest.mark.parametrize(("variable", "expected"), [("1", 1), ("", 2), ("2,1", 2)])
def test_the_users_number_of_threads_holds(
    data: Path, monkeypatch: pytest.MonkeyPatch, variable: str, expected: int
) -> None:
    """robomimic's train.py has set its own before the algorithm trains."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    try:
        torch.set_num_threads(2)
        session(data).model.set_train()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_weights_alone_begin_another_training_with_their_normalisers(data: Path) -> None:
    """robomimic 0.5's experiment.ckpt_path."""
    run, tuned = session(data), session(data, hdf5_filter_key="train")
    run_epoch(run, 1)
    tuned.model.deserialize(run.model.serialize())
    assert run_epoch(tuned, 1)["Subflow"] == 1
    names = [name for name in run.model.nets.state_dict() if "normalizer" in name]
    assert len(names) == 6
    assert same({name: run.model.nets.state_dict()[name] for name in names}, tuned.model.nets.state_dict())


def test_resuming_with_other_epochs_is_refused(data: Path) -> None:
    run, longer = session(data), session(data, num_epochs=6)
    run_epoch(run, 1)
    longer.model.deserialize(run.model.serialize(), load_optimizers=True)
    with pytest.raises(LFMError, match=r"train.num_epochs: the checkpoint trains \(sub-flow, steps\) \[\(1, 4\)"):
        run_epoch(longer, 2)


@pytest.mark.parametrize("filter_key", [None, "train"])
def test_normalisers_are_those_of_the_frames_trained_on(data: Path, filter_key: str | None) -> None:
    run = session(data, hdf5_filter_key=filter_key)
    run_epoch(run, 1)
    with h5py.File(data) as file:
        names = [n.decode() for n in file["mask/train"]] if filter_key else list(file["data"])
        keys = [f"obs/{key}" for key in run.model.obs_shapes]
        frames = np.vstack([np.hstack([file["data"][name][key] for key in keys]) for name in names])
        actions = np.vstack([file["data"][name]["actions"] for name in names])
    for normalizer, rows in (
        (run.model.policy.observation_normalizer, frames),
        (run.model.policy.action_normalizer, actions),
    ):
        normalized = normalizer.normalize(torch.from_numpy(rows).float())
        torch.testing.assert_close(normalized.amin(0), torch.full_like(normalized[0], -1))
        torch.testing.assert_close(normalized.amax(0), torch.ones_like(normalized[0]))


def test_robomimics_own_normalisation_leaves_ours_the_identity(data: Path) -> None:
    run = session(data, hdf5_normalize_obs=True)
    run.model.set_train()  # robomimic 0.3 itself refuses to normalise windows of more than one step
    normalizer, frames = run.model.policy.observation_normalizer, torch.randn(5, 19)
    assert torch.equal(normalizer.normalize(frames), frames)
    assert not torch.equal(run.model.policy.action_normalizer.normalize(frames[:, :7]), frames[:, :7])


def test_stacked_frames_and_single_ones_give_the_same_actions(data: Path) -> None:
    """What FrameStackWrapper hands over is the history that the policy keeps itself."""
    run = session(data)
    run_epoch(run, 1)
    frames = [observation(seed) for seed in range(9)]
    run.model._episode = 0
    run.model.reset()
    single = [run.model.get_action(frame) for frame in frames]
    run.model._episode = 0
    run.model.reset()
    pairs = zip([frames[0], *frames], frames, strict=False)
    stacked = [run.model.get_action({key: torch.stack([a[key], b[key]], 1) for key in KEYS}) for a, b in pairs]
    assert torch.equal(torch.cat(stacked), torch.cat(single))
    assert run.model.policy.n_predictions == 3  # nine actions, four to a chunk


def test_noise_is_a_function_of_torchs_seed_and_the_episode(data: Path) -> None:
    run = session(data)
    run_epoch(run, 1)

    def episodes(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        run.model._episode = 0
        torch.randn(seed + 1)  # how much of torch's own noise was drawn does not matter
        return [act(run.model) for _ in range(2)]

    first, again, other = episodes(1), episodes(1), episodes(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_validation_takes_no_step_and_repeats_itself(data: Path) -> None:
    masks = {"hdf5_filter_key": "train", "hdf5_validation_filter_key": "valid"}
    run = begin(tiny_config(data, train=masks, experiment={"validate": True}))
    run_epoch(run, 1)
    before = copy.deepcopy(run.model.serialize())
    losses = []
    for epoch in (1, 2):
        infos = []
        for batch in run.batches(validation=True):
            batch = run.model.postprocess_batch_for_training(run.model.process_batch_for_training(batch), None)
            infos.append(run.model.log_info(run.model.train_on_batch(batch, epoch, validate=True)))
        losses.append([info["Loss"] for info in infos])
    assert losses[0] == losses[1]
    assert same(run.model.serialize()["nets"], before["nets"])
    assert same(run.model._fit.network.state_dict(), before["training"]["network"])


def test_a_fresh_process_acts_without_the_dataset(data: Path, tmp_path: Path) -> None:
    """Through robomimic's own policy_from_checkpoint, in the middle of training."""
    mine = tmp_path / "lift.hdf5"
    mine.write_bytes(data.read_bytes())
    run = session(mine)
    run_epoch(run, 1), run_epoch(run, 2)
    path = run.save(tmp_path / "model.pth")
    mine.unlink()
    code = f"""
import lfm_policy.integrations.robomimic, robomimic.utils.file_utils as file_utils, torch
from tests.integrations.sessions import act
model, _ = file_utils.policy_from_checkpoint(ckpt_path={str(path)!r}, device=torch.device("cpu"))
torch.manual_seed(3)
torch.save(act(model.policy), {str(tmp_path / "actions.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    torch.manual_seed(3)
    assert torch.equal(torch.load(tmp_path / "actions.pt"), act(run.model))


@pytest.mark.parametrize(
    ("n_epochs", "shares"), [(2000, [1, 1, 1, 1]), (10, [1, 1, 1, 1]), (7, [1, 90, 90]), (3, [5, 1, 1])]
)
def test_stages_end_with_epochs_nearest_to_their_share(n_epochs: int, shares: list[int]) -> None:
    stages = whole_epochs([Stage(n, share) for n, share in enumerate(shares)], n_epochs, steps_per_epoch=7)
    ends = list(accumulate(stage.steps for stage in stages))
    assert [stage.n for stage in stages] == list(range(len(shares)))
    assert ends[-1] == 7 * n_epochs
    assert all(end % 7 == 0 for end in ends)
    assert min(stage.steps for stage in stages) >= 7
    if n_epochs > 7:
        ideal = [7 * n_epochs * share / sum(shares) for share in accumulate(shares)]
        assert all(abs(end - want) <= 3.5 for end, want in zip(ends, ideal, strict=True))


def test_a_config_from_before_a_field_was_there_has_its_default(data: Path) -> None:
    """robomimic builds a checkpoint's config from its JSON alone, and locks it."""
    from robomimic.config import config_factory

    values = json.loads(begin(tiny_config(data)).config.dump())
    now = config_factory("lfm", dic=copy.deepcopy(values))
    del values["algo"]["sampler"]["temperature"]
    before = config_factory("lfm", dic=values)
    for config in (now, before):
        config.lock()
    assert train_config(before) == train_config(now)


def test_fewer_epochs_than_stages_divide_their_steps() -> None:
    stages = whole_epochs([Stage(n, 10) for n in (1, 2, 3, 4)], n_epochs=2, steps_per_epoch=3)  # as --debug has it
    assert sum(stage.steps for stage in stages) == 6
    assert all(1 <= stage.steps <= 2 for stage in stages)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algo": {"flow": {"c": -1.0}}}, "flow.c: -1.0 must be positive"),
        ({"algo": {"flow": {"coupling": "common"}}}, "flow.coupling: common noise needs exact marginals"),
        ({"algo": {"flow": {"shared_start": 10}}}, "train.num_epochs: 3 of 4 steps leave none for 3 sub-flows"),
        ({"algo": {"network": {"channels": "wide"}}}, "algo.network.channels: 'wide' is not like its default"),
        ({"algo": {"flow": {"n_subflows": 2.5}}}, "algo.flow.n_subflows: 2.5 is not like its default"),
        ({"algo": {"sampler": {"steps": 1.5}}}, "algo.sampler.steps: 1.5 is not like its default"),
        ({"algo": {"flow": {"warm_start": 1}}}, "algo.flow.warm_start: 1 is not like its default, False"),
        ({"algo": {"training": {"max_grad_norm": "one"}}}, "algo.training.max_grad_norm: 'one' is not like"),
        ({"train": {"batch_size": 71}}, "train.batch_size: 71 is more than the data's 70 windows"),
        ({"train": {"seq_length": 8}}, "train.seq_length: with train.frame_stack 2 a window is 2 - 1 [+] 8 steps long"),
        ({"train": {"hdf5_filter_key": "best"}}, "has no filter key mask/best"),
        ({"observation": {"modalities": {"goal": {"low_dim": ["object"]}}}}, "observation.modalities.goal: lfm has no"),
    ],
)
def test_mistakes_name_field_value_and_remedy(data: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(LFMError, match=told):
        begin(tiny_config(data, **changes)).model.set_train()


@pytest.mark.parametrize(
    ("version", "told"), [("0.2.0", "0.2.0 is too old"), ("0.6.1", "0.6.1 is too new"), ("x", "'x'")]
)
def test_a_robomimic_that_does_not_work_is_named(version: str, told: str) -> None:
    with pytest.raises(LFMError) as caught:
        compat.check_version(version)
    assert told in str(caught.value)
    assert "robomimic==0.3.0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_versions_that_work_and_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [compat.check_version(v) for v in ("0.3.0", "0.4.0", "0.5.0")] == [(0, 3), (0, 4), (0, 5)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LFMError, match="robomimic: is not installed; pip install"):
        compat.prepare()


def run_part(session: Session, epoch: int, part: slice) -> None:
    """Some of an epoch's batches."""
    for batch in list(session.batches())[: session.config.experiment.epoch_every_n_steps][part]:
        batch = session.model.postprocess_batch_for_training(session.model.process_batch_for_training(batch), None)
        session.model.train_on_batch(batch, epoch)
