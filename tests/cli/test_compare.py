"""`lfm compare` end to end: what it writes, how it goes on after a kill, and what it refuses before doing anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from lfm_policy.cli.compare import parse_steps
from lfm_policy.cli.main import main
from lfm_policy.evaluation.episode import Row, reproducible
from lfm_policy.evaluation.paired import PairedCounts
from lfm_policy.evaluation.rollout import evaluate
from lfm_policy.flow.errors import LFMError
from lfm_policy.policy import PolicySpec
from tests.evaluation.evaluated import DATASET, lfm_checkpoint, regression_checkpoint
from tests.helpers.point import PLAIN
from tests.helpers.policies import point_spec
from tests.helpers.processes import wait_until

ROOT = Path(__file__).parent.parent.parent


def lfm(command: str) -> int:
    """Exit code of a command line."""
    return main(command.split())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the runs a, b and c in it."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        lfm_checkpoint(tmp_path / name, seed)
    return tmp_path


def rows(file: Path) -> list[Row]:
    """Rows of a file without their times, in the order of their seeds."""
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    return sorted((reproducible(line) for line in lines), key=lambda row: row["seed"])


def known(run: str, n: int, **options: Any) -> list[Row]:
    """Rows of `lfm rollout`."""
    return [reproducible(row) for row in evaluate(run, n, **options).episodes]


def report(name: str) -> dict[str, Any]:
    return json.loads(Path(name, "comparison.json").read_text())


def test_everything_is_written_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lfm("compare first=a second=b --n_rollouts 30 --output_dir out") == 0
    assert {path.name for path in (folder / "out").iterdir()} == {
        "comparison.json",
        "comparison.png",
        "comparison.txt",
        "rows",
    }
    text = (folder / "out" / "comparison.txt").read_text()
    assert text in capsys.readouterr().out
    told = report("out")
    assert str(folder) not in json.dumps(told), "paths of this machine stay out"
    assert told["seeds"] == list(range(100_000, 100_030))
    assert {"command", "versions", "hardware"} <= set(told)
    successes = {}
    for name, run in (("first", "a"), ("second", "b")):
        file = folder / "out" / told["methods"][name]["runs"][0]["rows"]
        assert rows(file) == known(run, 30)
        successes[name] = [row["success"] for row in rows(file)]
        assert told["methods"][name]["success_rate"] == sum(successes[name]) / 30
    counts = PairedCounts.of(successes["first"], successes["second"])
    (pair,) = told["pairs"]
    assert (pair["first"], pair["second"], pair["success"]["difference"]) == ("first", "second", counts.difference)
    assert [pair["training_runs"][0][name] for name in ("both", "first", "second", "neither")] == [
        counts.both,
        counts.first,
        counts.second,
        counts.neither,
    ]
    assert 0 < sum(successes["first"]) < 30, "both outcomes occur, or this proves little"


def test_what_is_there_is_not_rolled_out_again(folder: Path) -> None:
    assert lfm("compare a b --n_rollouts 6 --max_steps 4 --output_dir out") == 0
    file = folder / "out" / "rows" / "a.jsonl"
    before, once = file.read_bytes(), report("out")
    assert lfm("compare a b --n_rollouts 6 --max_steps 4 --output_dir out") == 0
    assert file.read_bytes() == before
    assert report("out")["methods"] == once["methods"]
    assert lfm("compare a b --n_rollouts 8 --max_steps 4 --output_dir out") == 0
    assert file.read_bytes().startswith(before)
    assert [row["seed"] for row in rows(file)] == list(range(100_000, 100_008))
    assert lfm("compare a b --n_rollouts 5 --max_steps 4 --output_dir out") == 0
    assert report("out")["methods"]["a"]["runs"][0]["n_rollouts"] == 5


def test_a_killed_comparison_goes_on_and_loses_nothing(folder: Path) -> None:
    command = "compare x=a y=b --n_rollouts 30 --output_dir"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "lfm_policy.cli.main", *command.split(), "out"]
    process = subprocess.Popen(arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = folder / "out" / "rows" / "x.jsonl"
    try:
        wait_until(lambda: file.is_file() and file.read_bytes().count(b"\n") > 3, process)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = file.read_bytes()
    assert not (folder / "out" / "comparison.json").exists()
    with file.open("ab") as torn:
        torn.write(b'{"seed": 100029, "succ')
    assert lfm(f"{command} out") == 0
    assert lfm(f"{command} whole") == 0
    assert file.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    for name in ("x", "y"):
        there, whole = (rows(folder / out / "rows" / f"{name}.jsonl") for out in ("out", "whole"))
        assert there == whole
        assert len(there) == 30
    pairs = [report(out)["pairs"] for out in ("out", "whole")]
    assert pairs[0] == pairs[1]


def test_rows_of_another_version_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "compare a b --n_rollouts 2 --max_steps 4 --output_dir out"
    assert lfm(command) == 0
    file, version = folder / "out" / "rows" / "a.jsonl", metadata.version
    before = file.read_bytes()
    for package in ("pymunk", "torchdiffeq"):
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", lambda name, other=package: "1.50" if name == other else version(name))
            assert lfm(command) == 2
        told = capsys.readouterr().err
        assert f"rows/a.jsonl: holds rows of another kind (versions.{package}: was " in told
        assert "now 1.50)" in told
    assert file.read_bytes() == before


def test_several_paths_are_training_seeds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"output_dir": "elsewhere", "threads": 4, "device": "cuda"}
    lfm_checkpoint(folder / "d", 4, config=own, total_steps=40)
    lfm_checkpoint(folder / "e", 5, step=44, total_steps=44)  # of as many epochs, on more windows
    assert lfm("compare one=a,b two=d,e --n_rollouts 8 --output_dir out") == 0
    runs = report("out")["methods"]["one"]["runs"]
    assert [run["training_seed"] for run in runs] == [0, 1]
    assert [run["rows"] for run in runs] == ["rows/one.seed0.jsonl", "rows/one.seed1.jsonl"]
    assert rows(folder / "out" / runs[1]["rows"]) == known("b", 8)
    assert "2 training runs each" in capsys.readouterr().out


def test_the_best_candidate_on_other_seeds_is_reported(folder: Path) -> None:
    assert lfm("compare x=b,c,a y=b --n_rollouts 6 --select_n 20 --select_seed 3000 --output_dir out") == 0
    rates = {run: sum(row["success"] for row in known(run, 20, seed=3000)) for run in "bca"}
    best = max(rates, key=lambda run: rates[run])
    assert best != "b", "the first is not the best, or this proves little"
    told = report("out")
    assert [run["path"] for run in told["methods"]["x"]["runs"]] == [f"{best}/checkpoints/step_40"]
    assert "the best of 3 on 20 other episodes, seeds 3000 to 3019" in told["notes"][0]
    assert rows(folder / "out" / "rows" / "x.jsonl") == known(best, 6)


def test_policies_are_rolled_out_at_each_number_of_steps(folder: Path) -> None:
    regression_checkpoint(folder / "bc")
    assert lfm("compare a bc --solver_steps 1,3 --n_rollouts 3 --max_steps 3 --output_dir out") == 0
    nfe = {label: method["nfe"] for label, method in report("out")["methods"].items()}
    assert set(nfe) == {"a@1", "a@3", "bc"}
    assert (nfe["a@3"], nfe["bc"]) == (3 * nfe["a@1"], 1)
    assert rows(folder / "out" / "rows" / "a@3.jsonl") == known("a", 3, max_steps=3, solver_steps=3)


def test_policies_are_rolled_out_at_each_temperature(folder: Path) -> None:
    regression_checkpoint(folder / "bc")
    assert lfm("compare a bc --solver_steps 2 --temperatures 1,0.5 --n_rollouts 3 --output_dir out") == 0
    told = report("out")
    temperatures = {label: method["temperature"] for label, method in told["methods"].items()}
    assert temperatures == {"a@2.temperature1": 1, "a@2.temperature0.5": 0.5, "bc": None}
    for warmth in (1, 0.5):
        got = rows(folder / "out" / "rows" / f"a@2.temperature{warmth}.jsonl")
        assert got == known("a", 3, solver_steps=2, temperature=warmth)
    assert len(told["pairs"]) == 3, "a at two temperatures, and each of them and bc"


def test_checkpoints_in_the_middle_of_their_training_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lfm_checkpoint(folder / "half", 5, step=30, total_steps=40)
    lfm_checkpoint(folder / "whole", 5, total_steps=40)
    assert lfm("compare half whole --solver_steps 1,2 --n_rollouts 2 --max_steps 2 --output_dir out") == 0
    assert report("out")["notes"] == ["In the middle of their training: half@1 step 30 of 40"]
    capsys.readouterr()
    for run, warned in (("half", True), ("whole", False)):
        assert lfm(f"rollout {run} --n_rollouts 1 --max_steps 2") == 0
        assert ("in the middle of its training, step 30 of 40" in capsys.readouterr().err) == warned


def test_a_training_yaml_names_its_run(folder: Path) -> None:
    (folder / "run.yaml").write_text("output_dir: a\n")
    assert lfm("compare run.yaml b --n_rollouts 2 --max_steps 2 --output_dir out") == 0
    assert report("out")["methods"]["a"]["runs"][0]["path"] == "a/checkpoints/step_40"


def test_different_data_may_be_allowed_and_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lfm_checkpoint(folder / "other", dataset={**DATASET, "sha256": "1" * 64})
    lfm_checkpoint(folder / "renamed", dataset={**DATASET, "file": "new_name.hdf5"})
    options = "--n_rollouts 2 --max_steps 2"
    assert lfm(f"compare a other {options} --allow_different_data true --output_dir out") == 0
    assert "trained on different data (sha256: a 000" in capsys.readouterr().out
    assert lfm(f"compare a renamed {options} --output_dir out2") == 0
    assert "different data" not in capsys.readouterr().out


def test_different_actions_may_be_allowed_and_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lfm_checkpoint(folder / "far", 5, absolute_spec(), dataset={**DATASET, "sha256": "2" * 64})
    options = "--n_rollouts 3 --max_steps 3"
    assert lfm(f"compare a far {options} --allow_different_actions true --output_dir out") == 0
    for name in ("a", "far"):
        assert rows(folder / "out" / "rows" / f"{name}.jsonl") == known(name, 3, max_steps=3), "each by its own actions"
    told = "Different actions: a by delta and axis_angle; far by absolute and axis_angle"
    assert report("out")["notes"] == [told]
    assert told in " ".join(capsys.readouterr().out.split())
    assert lfm(f"compare a b {options} --allow_different_actions true --output_dir out2") == 0
    assert report("out2")["notes"] == []


def absolute_spec() -> PolicySpec:
    """What a policy by absolute goals reads and writes."""
    space = replace(point_spec().action_space, representation="absolute")
    return point_spec(action_space=space, env_kwargs={"representation": "absolute"})


def make_others(folder: Path) -> None:
    """Runs that cannot be compared with a."""
    lfm_checkpoint(folder / "data", dataset={**DATASET, "file": "can.hdf5", "sha256": "1" * 64})
    lfm_checkpoint(folder / "filtered", config={"data": {"filter_key": "better", "valid_fraction": 0.1}})
    lfm_checkpoint(folder / "kwargs", spec=point_spec(env_kwargs={"terminate_on_success": False}))
    lfm_checkpoint(folder / "version", spec=point_spec(env_version="1.4.1"))
    lfm_checkpoint(folder / "longer", 5, config={"training": {"steps": 80}})
    lfm_checkpoint(folder / "taught", 7, teacher={"config": {"method": "small"}})
    lfm_checkpoint(folder / "far", 5, absolute_spec(), dataset={**DATASET, "sha256": "2" * 64})
    lfm_checkpoint(folder / "farther", 5, absolute_spec(), dataset={**DATASET, "sha256": "2" * 64, "n_frames": 29})
    based = replace(absolute_spec().action_space, frame="base")
    lfm_checkpoint(folder / "base", 5, replace(absolute_spec(), action_space=based))
    regression_checkpoint(folder / "other", 6)
    shutil.copytree(folder / "b", folder / "copy")
    lfm_checkpoint(folder / "began", dataset={**DATASET, "seed_ranges": [[0, 9], [100_020, 100_050]]})
    lfm_checkpoint(folder / "watched", config={"rollout": {"seed": 100_010, "n_rollouts": 5}})
    (folder / "no.yaml").write_text("output_dir: nowhere\n")
    (folder / "bare.yaml").write_text("method: lfm\n")
    (folder / "file").write_text("")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("a", "one policy alone; give two or more"),
        ("a data", "sha256: a 0000000000000000000000000000000000000000000000000000000000000000, data 1111"),
        ("a data", "add --allow_different_data true"),
        ("a filtered", "filter_key: a nothing, filtered better"),
        ("a kwargs", "a and kwargs act in different environments (env_kwargs"),
        ("a version", "version: a (1, 5), version (1, 4)"),
        ("a kwargs --allow_different_data true", "act in different environments"),
        ("a far", "different environments (action_space.representation: a delta, far absolute;"),
        ("a far", "compare policies of one environment, or add --allow_different_actions true"),
        ("a farther --allow_different_actions true", "trained on different data (n_frames: a 30, farther 29)"),
        ("a kwargs --allow_different_actions true", "act in different environments (env_kwargs"),
        ("a base --allow_different_actions true", "frame: a world, base base); compare policies of one environment"),
        (f"a b --env_id {PLAIN}", "does not fit environment Plain-v0: observation position"),
        ("a watched", "its training rolled out on seeds 100010 to 100014, which are reported; choose another --seed"),
        ("a b --select_n 50", "--select_n 50: no policy has several paths to choose from"),
        (
            "a began",
            "its demonstrations were recorded on seeds 100020 to 100050, which are reported; choose another --seed",
        ),
        ("x=a,b c --select_n 50 --select_seed 99990", "selection on seeds 100000 to 100039, which are reported"),
        ("x=a x=b", "x is there already"),
        ("x=a,a b", "names one checkpoint twice"),
        (
            "x=a,b,longer c",
            "x: its paths are not training runs of one method (training.steps: a/check",
        ),
        ("x=a,taught c", "x: its paths are not training runs of one method (teacher.method: a/checkpoints/step_40 n"),
        ("x=a,other c", "x: its paths are not training runs of one method (type: a/checkpoints/step_40 lfm, other/"),
        ("x=b,copy c", "x: copy/checkpoints/step_40 has the weights of b/checkpoints/step_40; give each"),
        ("x=a,b x.seed1=c", "x.seed1: names two files of rows; give the policy of that name another one"),
        ("a/b=c b", "a/b=c: does not exist"),
        ("x@y@z=a b", "is no name"),
        ("a nowhere", "nowhere: does not exist"),
        ("a no.yaml", "its output_dir nowhere holds no checkpoint; train with `lfm train --config no.yaml`"),
        ("a bare.yaml", "names no output_dir; train with `lfm train --config bare.yaml --output_dir DIR`"),
        ("a b --baseline d", "--baseline d: is not compared; choose from a, b"),
        ("a b --n_rollouts 0", "--n_rollouts 0: must be 1 or more"),
        ("a b --seed -1", "--seed -1: must be 0 or more"),
        ("a b --max_steps 0", "--max_steps 0: must be 1 or more"),
        ("a b --n_procs 0", "--n_procs 0: must be 1 or more"),
        ("a b --solver_steps 1,x", "--solver_steps 1,x: must be whole numbers"),
        ("a b --temperatures 1,-1", "--temperatures 1,-1: must be numbers of 0 or more, as 1,0.5"),
        (
            "other --temperatures 1,0.5",
            "compare: other alone; it has no sampler to choose, give another policy beside it",
        ),
        ("a b --n_rolouts 3", "unknown field 'n_rolouts'; did you mean 'n_rollouts'?"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, told: str
) -> None:
    make_others(folder)
    before = sorted(folder.rglob("*"))
    assert lfm(f"compare {arguments} --output_dir out") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert told in errors[0]
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_is_a_file_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    assert lfm("compare a b --output_dir file") == 2
    assert "--output_dir file: cannot be written" in capsys.readouterr().err


def test_rows_of_another_checkpoint_are_refused_until_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--n_rollouts 3 --max_steps 3 --output_dir out"
    assert lfm(f"compare x=a y=b {options}") == 0
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert lfm(f"compare x=c y=b {options}") == 2
    assert "x.jsonl: holds rows of another kind (checkpoint.model_sha256: was" in capsys.readouterr().err
    assert lfm("compare x=a y=b --n_rollouts 3 --max_steps 5 --output_dir out") == 2
    assert "environment.max_steps: was 3, now 5" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()} == before
    assert lfm(f"compare x=c y=b {options} --overwrite true") == 0
    assert rows(folder / "out" / "rows" / "x.jsonl") == known("c", 3, max_steps=3)


def test_numbers_of_steps_are_read_in_their_order() -> None:
    assert parse_steps("1,2,8") == parse_steps("[1, 2, 8, 2]") == [1, 2, 8]
    assert parse_steps("") == []
    with pytest.raises(LFMError, match="--solver_steps 0"):
        parse_steps("0")
