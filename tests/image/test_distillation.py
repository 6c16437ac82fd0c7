"""`DistillRun`: Algorithm A.1 on image flows, its students' sizes, and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lfm_policy.flow import Distiller, LFMError, Schedule, Solver
from lfm_policy.flow.distill import untrained_students
from lfm_policy.image.config import DistillationConfig, ImageConfig
from lfm_policy.image.distillation import DistillRun, cut, new_students, widened
from lfm_policy.image.generation import load_pipeline
from lfm_policy.image.model import LocalFlowModel, UNet2dConfig, count_parameters, new_model
from lfm_policy.image.pipeline import LFMPipeline
from lfm_policy.training.config import FlowConfig
from tests.image.runs import PUSHED, assert_equal, small_config, tiny_model, weights

GAMMAS = (0.2, 0.3, 0.4)


def config_of(folder: Path, model: LocalFlowModel, **settings: Any) -> ImageConfig:
    """A config whose output_dir holds `model` as its trained pipeline."""
    LFMPipeline(model).save_pretrained(folder / "pipeline")
    config = small_config(folder, replace(PUSHED, n_subflows=4))
    return replace(config, distillation=replace(config.distillation, **settings))


def distilled(config: ImageConfig) -> DistillRun:
    run = DistillRun(config, say=lambda line: None)
    run.train()
    return run


SETTINGS: dict[str, dict[str, Any]] = {
    "k = 1": {"n_students": 4},
    "k = 2": {"n_students": 2, "from_teacher": False},
    "students' inputs": {"n_students": 4, "student_inputs": "student"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_run_is_algorithm_a1_of_the_flow_core_and_resumes_bit_for_bit(settings: dict, tmp_path: Path) -> None:
    """The same students come from `Distiller` alone, and from a run that is broken off after every step."""
    teacher = tiny_model(gammas=GAMMAS)
    config = config_of(tmp_path, teacher, **settings)
    run = distilled(config)

    begun = new_students(teacher, teacher.flow, settings["n_students"], config.distillation, config.seed)
    alone = Distiller(
        teacher.flow,
        settings["n_students"],
        (1, 8, 8),
        config.distillation.options(),
        None,
        list(begun.flow.fields),
        config.seed,
    )
    while not alone.done:
        alone.step()
    assert_equal(weights(run.model), [tensor.clone() for tensor in alone.students.state_dict().values()])
    assert_equal(weights(run.model), weights(load_pipeline(run.folder).flow))

    broken_config = config_of(tmp_path / "broken", teacher, **settings)
    broken = distilled(replace(broken_config, stop_after=1))
    while not broken.done:
        broken = distilled(replace(broken_config, stop_after=1, resume=True))
    assert_equal(weights(run.model), weights(broken.model))
    logs = [(folder / "metrics.jsonl").read_text() for folder in (run.folder, broken.folder)]
    assert logs[0] == logs[1]


def test_students_start_as_the_teacher_s_euler_steps() -> None:
    """k = 1, and k = 2 of the same widths; drawn anew where widths differ or copies are not wanted."""
    teacher = tiny_model(gammas=GAMMAS)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = DistillationConfig()
    with torch.no_grad():
        copied = new_students(teacher, teacher.flow, 4, settings, 0)
        assert torch.equal(copied.flow.pull(x), untrained_students(teacher.flow, 4).pull(x))
        torch.testing.assert_close(copied.flow.pull(x), teacher.flow.pull(x, None, Solver("euler", 1)))
        narrow = new_students(teacher, teacher.flow, 2, replace(settings, channels=(8, 8)), 0)
        assert torch.equal(narrow.flow.pull(x), untrained_students(teacher.flow, 2).pull(x))
        for other in (replace(settings, from_teacher=False), replace(settings, channels=(12, 12))):
            begun = new_students(teacher, teacher.flow, 4, other, 0)
            assert not torch.allclose(begun.flow.pull(x), copied.flow.pull(x))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_students_together_have_about_as_many_weights_as_their_teacher(k: int) -> None:
    network = UNet2dConfig(channels=(64, 128), layers_per_block=1)
    schedule = Schedule(GAMMAS)
    with torch.device("meta"):
        teacher = new_model((1, 8, 8), network, schedule)
        students = new_model((1, 8, 8), replace(network, channels=widened(network, k)), schedule, n_students=4 // k)
    assert count_parameters(students) == pytest.approx(count_parameters(teacher), rel=0.12)


def test_widened_channels_divide_into_groups_and_heads() -> None:
    network = UNet2dConfig(channels=(48, 96), attention=(1,), head_dim=16, n_groups=6)
    assert widened(network, 1) == (48, 96)
    assert all(c % 48 == 0 for c in widened(network, 2))


def test_a_global_flow_is_the_same_however_its_clock_is_cut(tmp_path: Path) -> None:
    """Four stretches of one network, each solved finely, pull like the network in one."""
    teacher = tiny_model(gammas=()).double()
    config = small_config(tmp_path, FlowConfig(n_subflows=1, c=0.2, rho=1.1))
    flow = cut(teacher, replace(config, distillation=DistillationConfig(n_stretches=4)))
    assert flow.n_subflows == 4
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        whole, pieces = teacher.flow.pull(x, None, Solver("rk4", 256)), flow.pull(x, None, Solver("rk4", 64))
    torch.testing.assert_close(whole, pieces, atol=1e-6, rtol=0)
    assert (whole - x).abs().max() > 0.1


def test_students_of_a_global_flow_share_one_network(tmp_path: Path) -> None:
    teacher = tiny_model(gammas=())
    config = config_of(tmp_path, teacher, n_stretches=4, n_students=2)
    run = distilled(replace(config, flow=FlowConfig(n_subflows=1)))
    assert len(run.distiller.students.fields) == 1
    assert count_parameters(run.model) == count_parameters(teacher)
    assert load_pipeline(run.folder).nfe() == 2


def test_what_cannot_be_distilled_is_one_error(tmp_path: Path) -> None:
    config = config_of(tmp_path, tiny_model(gammas=GAMMAS))
    for settings, told in (
        ({"n_students": 3}, "n_students: 3 does not divide the chain's 4 sub-flows; take 1, 2, 4"),
        ({"n_stretches": 4}, "n_stretches: 4 is for a teacher of one network, this one has 4"),
    ):
        with pytest.raises(LFMError, match=told):
            DistillRun(replace(config, distillation=replace(config.distillation, **settings)))
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]
    students = config_of(tmp_path / "students", tiny_model(3))
    with pytest.raises(LFMError, match="holds students already"):
        DistillRun(students)


def test_another_teacher_or_setting_is_refused_for_resuming(tmp_path: Path) -> None:
    config = config_of(tmp_path, tiny_model(gammas=GAMMAS))
    distilled(replace(config, stop_after=1))
    resumed = replace(config, resume=True)
    with pytest.raises(LFMError, match=r"distillation\.steps: was 3, now 5"):
        DistillRun(replace(resumed, distillation=replace(config.distillation, steps=5)))
    other = new_model((1, 8, 8), UNet2dConfig((8, 8), 1, n_groups=4), Schedule(GAMMAS), seed=9)
    LFMPipeline(other).save_pretrained(tmp_path / "pipeline")
    with pytest.raises(LFMError, match="is not the teacher that these students began with"):
        DistillRun(resumed)


def test_a_clock_cut_otherwise_is_refused_for_resuming(tmp_path: Path) -> None:
    flow = FlowConfig(n_subflows=1, c=0.2)
    config = replace(config_of(tmp_path, tiny_model(gammas=()), n_stretches=2, n_students=2), flow=flow)
    distilled(replace(config, stop_after=1))
    with pytest.raises(LFMError, match=r"gammas: was \[0\.2\], now \[1\.5\]"):
        DistillRun(replace(config, resume=True, flow=replace(flow, c=1.5)))
    distilled(replace(config, resume=True))


def test_a_loss_that_is_not_finite_leaves_the_teacher_alone(tmp_path: Path) -> None:
    config = config_of(tmp_path, tiny_model(gammas=GAMMAS), learning_rate=1e30, steps=50, warmup_steps=0)
    with pytest.raises(LFMError, match="loss of student"):
        distilled(config)
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]
