"""Students of a policy: the teacher's Euler steps before any training, their costs, and what is saved of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lfm_policy.flow import LFMError
from lfm_policy.policy import ChainConfig, LFMPolicy, Sampler, load_policy, save_policy
from lfm_policy.policy.distilled import DistilledPolicy, cut
from tests.policy.tiny import CONFIG, DA, TP, observations, tiny_policy

CHAINS: dict[str, tuple[ChainConfig, int]] = {
    "a student a sub-flow": (ChainConfig(n_subflows=4, c=0.2, rho=1.5), 4),
    "two sub-flows a student": (ChainConfig(n_subflows=4, c=0.2, rho=1.5), 2),
    "one for all": (ChainConfig(n_subflows=4, c=0.2, rho=1.5), 1),
    "one flow": (ChainConfig(n_subflows=1), 1),
    "shared weights": (ChainConfig(n_subflows=4, c=0.2, rho=1.5, share_weights=True), 2),
}
LOAD = """
import sys, torch
from safetensors.torch import load_file, save_file
from lfm_policy.policy import load_policy
policy = load_policy(sys.argv[1])
obs = load_file(sys.argv[1] + "/obs.safetensors")
chunk = policy.predict_action(obs, torch.Generator().manual_seed(0))
save_file({"chunk": chunk}, sys.argv[1] + "/out.safetensors")
print(policy.training, policy.nfe)
"""


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def teacher_of(chain: ChainConfig) -> LFMPolicy:
    return tiny_policy(replace(CONFIG, chain=chain))


def moved(policy: DistilledPolicy) -> DistilledPolicy:
    """The same with other weights in every student."""
    g = torch.Generator().manual_seed(5)
    for weight in policy.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=g)
    return policy


@torch.no_grad()
def euler_chunk(teacher: LFMPolicy, n_students: int, obs: dict[str, Tensor]) -> Tensor:
    """x - h v(x, τ) over stretches of k sub-flows, written out: τ_n = (2/π) arccos e^(-t_n) with τ_N = 1."""
    chain = teacher.config.chain
    gammas = [chain.c * chain.rho**n for n in range(chain.n_subflows - 1)]
    times = torch.cumsum(torch.tensor([0.0, *gammas], dtype=torch.float64), 0)
    clock = [*(2 / torch.pi * torch.arccos(torch.exp(-times))).tolist(), 1.0]
    joined = torch.cat([obs["object"], obs["eef"]], dim=-1)
    cond = ((joined - teacher.observation_normalizer.offset) / teacher.observation_normalizer.scale).flatten(1)
    x = torch.randn(len(cond), TP, DA, generator=noise())
    k = chain.n_subflows // n_students
    for right in range(chain.n_subflows, 0, -k):
        field = teacher.flow.fields[min(right, len(teacher.flow.fields)) - 1]
        x = x - (clock[right] - clock[right - k]) * field(x, torch.full((len(x),), clock[right]), cond)
    return x * teacher.action_normalizer.scale + teacher.action_normalizer.offset


@pytest.mark.parametrize(("chain", "n_students"), CHAINS.values(), ids=CHAINS)
def test_untrained_students_are_the_teachers_euler_steps(chain: ChainConfig, n_students: int) -> None:
    teacher, obs = teacher_of(chain), observations(3)
    students = DistilledPolicy.of(teacher, n_students)
    got = students.predict_action(obs, noise())
    torch.testing.assert_close(got, euler_chunk(teacher, n_students, obs), atol=1e-5, rtol=1e-5)
    if n_students == chain.n_subflows:
        by_solver = teacher.set_sampler("euler", steps=1).predict_action(obs, noise())
        torch.testing.assert_close(got, by_solver, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got, moved(students).predict_action(obs, noise()), atol=1e-3)


@pytest.mark.parametrize(("chain", "n_students"), CHAINS.values(), ids=CHAINS)
def test_a_chunk_costs_one_evaluation_of_each_student(chain: ChainConfig, n_students: int) -> None:
    """Counted on the networks, and by torch over a whole prediction."""
    policy, calls = DistilledPolicy.of(teacher_of(chain), n_students), []
    for field in policy.students.fields:
        field.register_forward_hook(lambda *_: calls.append(1))
    with FlopCounterMode(display=False) as counter:
        policy.predict_action(observations(1), noise())
    assert policy.nfe == len(calls) == n_students
    assert policy.multiply_adds * 2 == counter.get_total_flops()


@pytest.mark.parametrize(("chain", "n_students"), [CHAINS["one flow"], CHAINS["shared weights"]])
def test_saved_students_are_the_same_policy(chain: ChainConfig, n_students: int, tmp_path: Path) -> None:
    policy, obs = moved(DistilledPolicy.of(teacher_of(chain), n_students)), observations(2)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, DistilledPolicy)
    assert (loaded.spec, loaded.config) == (policy.spec, policy.config)
    assert torch.equal(loaded.predict_action(obs, noise()), policy.predict_action(obs, noise()))


def test_saved_students_act_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    chain, n_students = CHAINS["two sub-flows a student"]
    policy, obs = moved(DistilledPolicy.of(teacher_of(chain), n_students)), observations(3)
    save_policy(policy, tmp_path)
    save_file(obs, tmp_path / "obs.safetensors")
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "2"]
    assert torch.equal(load_file(tmp_path / "out.safetensors")["chunk"], policy.predict_action(obs, noise()))


def test_a_teacher_of_one_network_is_the_same_however_its_clock_is_cut() -> None:
    """Each of four stretches solved finely pulls like the network in one."""
    teacher, obs = teacher_of(ChainConfig(n_subflows=1, c=0.2, rho=1.5)), observations(2)
    pieces = cut(teacher, 4)
    assert (pieces.flow.n_subflows, len(pieces.flow.fields)) == (4, 1)
    whole = teacher.set_sampler("rk4", steps=64).predict_action(obs, noise())
    torch.testing.assert_close(
        pieces.set_sampler("rk4", steps=16).predict_action(obs, noise()), whole, atol=1e-4, rtol=0
    )
    assert DistilledPolicy.of(pieces, 2).nfe == 2
    with pytest.raises(LFMError, match="n_stretches: 4 is for a teacher of one network, this one has 3; leave it out"):
        cut(tiny_policy(), 4)


def test_students_take_their_teachers_temperature_and_no_steps() -> None:
    teacher, obs = tiny_policy().set_sampler("euler", steps=1, temperature=0.5), observations(3)
    policy = DistilledPolicy.of(teacher, 3)
    for temperature in (None, 0.2):
        if temperature is not None:
            policy, teacher = (
                policy.set_sampler(temperature=temperature),
                teacher.set_sampler(temperature=temperature),
            )
        got, want = policy.predict_action(obs, noise()), teacher.predict_action(obs, noise())
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert policy.sampler == {"temperature": 0.2}
    for given in ({"steps": 2}, {"method": "euler", "temperature": 0.5}):
        with pytest.raises(LFMError, match="students take one evaluation each; leave solver and solver_steps out"):
            policy.set_sampler(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"n_students": 2}, {"n_students": "all"}, {"n_students": 0}, {"teacher": {}}])
def test_a_description_of_impossible_students_is_refused_by_file(change: dict[str, Any], tmp_path: Path) -> None:
    save_policy(DistilledPolicy.of(tiny_policy(), 3), tmp_path)
    description = json.loads((tmp_path / "policy.json").read_text())
    description["model"].update(change)
    (tmp_path / "policy.json").write_text(json.dumps(description))
    with pytest.raises(LFMError, match=r"policy\.json: describes no policy"):
        load_policy(tmp_path)


def test_the_teacher_is_left_as_it_is() -> None:
    teacher, obs = tiny_policy(), observations(2)
    before = teacher.predict_action(obs, noise())
    moved(DistilledPolicy.of(teacher, 3))
    assert torch.equal(teacher.predict_action(obs, noise()), before)
    assert teacher.config.sampler == Sampler("midpoint", steps=2)
