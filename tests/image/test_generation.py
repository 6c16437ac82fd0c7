"""Images are functions of seed and number, and trajectories are solves of the chain's own equations."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from lfm_policy.data.images import to_pixels
from lfm_policy.flow import FIXED_STEP, DistilledFlow, LFMError, LocalFlow, Schedule, Solver
from lfm_policy.flow.solver import MethodName
from lfm_policy.image.generation import generate, load_pipeline, noise_of, trajectories
from lfm_policy.image.model import new_model
from lfm_policy.image.pipeline import LFMPipeline
from tests.image.runs import TINY

SHAPE, N = (1, 8, 8), 2
SCHEDULE = Schedule.geometric(N, 0.3, 1.1)
METHODS: tuple[MethodName, ...] = tuple(name for name in get_args(MethodName) if name in FIXED_STEP)
every_kind = pytest.mark.parametrize("students", [None, N, 1], ids=["sub-flows", "students", "one student"])


def pipeline(students: int | None = None, method: MethodName = "midpoint", steps: int = 2) -> LFMPipeline:
    """Of networks with random weights, whose flow is strong enough to tell solvers apart."""
    model = new_model(SHAPE, TINY, SCHEDULE, n_students=students)
    pipe = LFMPipeline(model, method, steps)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def chain_of(pipe: LFMPipeline) -> LocalFlow:
    assert isinstance(pipe.flow.flow, LocalFlow)
    return pipe.flow.flow


def pulled(pipe: LFMPipeline, noise: Tensor, solver: Solver | None = None) -> Tensor:
    """By the flow itself."""
    with torch.no_grad():
        chain = pipe.flow.flow
        return chain.pull(noise) if isinstance(chain, DistilledFlow) else chain.pull(noise, None, solver)


def assert_same_pixels(a: Tensor, b: Tensor) -> None:
    """But for rounding: pixels are rounded numbers."""
    assert a.shape == b.shape
    assert (a.int() - b.int()).abs().max() <= 1


def test_noise_of_an_image_is_a_function_of_seed_and_number() -> None:
    """Whatever stands before and behind it, and whatever the global generator has drawn."""
    pipe = pipeline()
    all_of_them = noise_of(pipe, 0, 9, seed=4)
    assert all_of_them.shape == (9, *SHAPE)
    assert all_of_them.dtype == torch.float32
    for first, count in [(0, 1), (3, 1), (8, 1), (2, 5), (0, 9)]:
        torch.manual_seed(count)
        assert torch.equal(noise_of(pipe, first, count, seed=4), all_of_them[first : first + count])


def test_noises_of_images_and_of_seeds_are_independent_normals() -> None:
    pipe = pipeline()
    noises = torch.cat([noise_of(pipe, 0, 8, seed) for seed in range(40)], dim=1).flatten(1)
    together = torch.cat([noise_of(pipe, 0, 8, 0), noise_of(pipe, 0, 8, 1)]).flatten(1)
    assert len({tuple(noise.tolist()) for noise in together}) == 16
    count = noises.shape[1]  # 40 seeds of 64 pixels
    assert (torch.corrcoef(noises) - torch.eye(8)).abs().max() < 5 / count**0.5
    assert noises.mean().abs() < 5 / (8 * count) ** 0.5
    assert noises.std().item() == pytest.approx(1, abs=5 / (16 * count) ** 0.5)


@every_kind
def test_images_are_what_the_flow_makes_of_their_noise(students: int | None) -> None:
    """With the pipeline's solver, unless another is given."""
    pipe = pipeline(students)
    noise = noise_of(pipe, 0, 5, seed=1)
    found = generate(pipe, 5, seed=1)
    assert found.dtype == torch.uint8
    assert_same_pixels(found, to_pixels(pulled(pipe, noise, Solver("midpoint", 2))))
    if students is None:
        other = Solver("euler", 1)
        assert_same_pixels(generate(pipe, 5, 1, other), to_pixels(pulled(pipe, noise, other)))
        assert not torch.equal(generate(pipe, 5, 1, other), found)


@every_kind
def test_an_image_does_not_depend_on_how_many_are_made_nor_on_batches(students: int | None) -> None:
    pipe = pipeline(students, "euler", 1)
    want = generate(pipe, 7, seed=2)
    assert len({tuple(image.flatten().tolist()) for image in want}) == 7
    for n in (1, 7):
        for batch_size in (1, 3, 256):
            batches: list[int] = []
            found = generate(pipe, n, 2, batch_size=batch_size, progress=batches.append)
            assert_same_pixels(found, want[:n])
            assert sum(batches) == n
            assert max(batches) <= batch_size
    assert (generate(pipe, 7, seed=3).int() - want.int()).abs().max() > 1


def test_images_need_no_gradient_and_leave_the_pipeline_as_it_was() -> None:
    pipe = pipeline()
    before = [weight.clone() for weight in pipe.flow.parameters()]
    assert not generate(pipe, 2).requires_grad
    assert not trajectories(pipe, 2).requires_grad
    for weight, old in zip(pipe.flow.parameters(), before, strict=True):
        assert torch.equal(weight, old)
        assert weight.grad is None


@pytest.mark.parametrize("per_subflow", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_trajectories_begin_at_the_noise_and_end_at_a_finer_solve(method: MethodName, per_subflow: int) -> None:
    """m parts of s equal steps are m · s equal steps; every boundary on the way is one of a pull broken off there."""
    pipe = pipeline(method=method, steps=1 if method == "rk4" else 2)
    found = trajectories(pipe, 3, seed=5, per_subflow=per_subflow)
    noise = noise_of(pipe, 0, 3, seed=5)
    assert found.shape == (3, 1 + N * per_subflow, *SHAPE)
    assert torch.equal(found[:, 0], noise)
    solver = Solver(method, pipe.config["steps"] * per_subflow)
    torch.testing.assert_close(found[:, -1], pulled(pipe, noise, solver), rtol=1e-5, atol=1e-5)
    for k in range(1, N):
        with torch.no_grad():
            there = chain_of(pipe).pull(noise, None, solver, range(N, N - k, -1))
        torch.testing.assert_close(found[:, k * per_subflow], there, rtol=1e-5, atol=1e-5)


def test_moments_on_a_sub_flows_way_are_at_equal_distances_in_its_time() -> None:
    """Moment k of m is k times the steps to 1 - k/m."""
    pipe = pipeline(steps=1)
    found, chain = trajectories(pipe, 2, per_subflow=3), chain_of(pipe)
    for n in range(N, 0, -1):
        start = 3 * (N - n)
        for k in range(1, 4):
            with torch.no_grad():
                field = functools.partial(chain.velocity, n)
                want = Solver("midpoint", k).integrate(field, found[:, start], 1.0, 1 - k / 3)
            torch.testing.assert_close(found[:, start + k], want, rtol=1e-5, atol=1e-5)
            assert (found[:, start + k] - found[:, start + k - 1]).abs().max() > 1e-2


@pytest.mark.parametrize("students", [N, 1])
def test_students_jump_from_moment_to_moment(students: int) -> None:
    pipe = pipeline(students)
    found = trajectories(pipe, 3, seed=5, per_subflow=4)
    noise = noise_of(pipe, 0, 3, seed=5)
    assert found.shape == (3, 1 + students, *SHAPE)
    assert torch.equal(found[:, 0], noise)
    chain = pipe.flow.flow
    assert isinstance(chain, DistilledFlow)
    for n in range(1, students + 1):
        with torch.no_grad():
            want = chain.pull(noise, students=range(1, n + 1))
        torch.testing.assert_close(found[:, n], want, rtol=1e-5, atol=1e-5)
    assert_same_pixels(to_pixels(found[:, -1]), generate(pipe, 3, seed=5))


def test_a_trajectory_does_not_depend_on_how_many_there_are() -> None:
    pipe = pipeline()
    torch.testing.assert_close(trajectories(pipe, 5, 1)[:2], trajectories(pipe, 2, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("students", [None, N])
def test_a_saved_pipeline_is_found_by_its_own_folder_and_by_its_runs(students: int | None, tmp_path: Path) -> None:
    pipe = pipeline(students, "heun", 3)
    pipe.save_pretrained(tmp_path / "run" / "pipeline")
    want = generate(pipe, 3)
    for folder in (tmp_path / "run", str(tmp_path / "run" / "pipeline")):
        loaded = load_pipeline(folder)
        assert loaded.solver() == pipe.solver()
        assert torch.equal(generate(loaded, 3), want)


@pytest.mark.parametrize("place", ["missing", "empty", "file", "run"])
def test_where_there_is_no_pipeline_one_line_says_so(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "run" / "pipeline").mkdir(parents=True)
    with pytest.raises(LFMError) as caught:
        load_pipeline(tmp_path / place)
    line = str(caught.value)
    assert line.startswith(str(tmp_path / place))
    assert "\n" not in line
    assert ("is no folder; give" if place in ("missing", "file") else "is missing; save it again") in line
