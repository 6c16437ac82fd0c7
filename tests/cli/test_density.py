"""`lfm density`: from a config to likelihoods, samples and pictures; errors of one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from lfm_policy.cli.density import _config, _parser
from lfm_policy.cli.main import main
from lfm_policy.data.table_files import read_numbers
from lfm_policy.density import LocalFlowDensity
from lfm_policy.density.config import DensityConfig
from lfm_policy.density.settings import new_flow
from lfm_policy.density.storage import find_density
from tests.helpers.processes import wait_until

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted(file for folder in ("toy", "tabular") for file in (ROOT / "configs" / folder).glob("*.yaml"))
TINY = ["--model.steps", "6", "--model.width", "8", "--model.depth", "1", "--model.n_subflows", "2"]
TINY += ["--model.evaluations", "2", "--evaluation.rows", "20", "--threads", "1"]


def parse(arguments: list[str]) -> DensityConfig:
    parser = _parser("lfm density train", "")
    return _config(parser.instantiate(parser.parse_args(arguments)).as_dict())


def table(path: Path, rows: int = 200) -> Path:
    """A CSV file with three columns in different units."""
    x = np.random.default_rng(0).normal(size=(rows, 3)) * [1.0, 1e3, 1e-3]
    lines = ["height,mass,area", *(",".join(map(repr, row)) for row in x.tolist())]
    path.write_text("\n".join(lines) + "\n")
    return path


def arguments(tmp_path: Path, *more: str) -> list[str]:
    file = tmp_path / "table.csv"
    if not file.exists():
        table(file)
    return ["--output_dir", str(tmp_path / "run"), "--data.name", "file", "--data.path", str(file), *TINY, *more]


def lfm(*words: str) -> int:
    return main(["density", *words])


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_config_builds_its_flow(file: Path) -> None:
    config = parse(["--config", str(file)])
    assert config.output_dir == f"runs/{file.stem}"
    assert new_flow(config.density(), 3, 0).n_subflows == config.model["n_subflows"]


@pytest.mark.parametrize(
    ("name", "dim", "each", "millions"),
    [
        ("toy/rose_paper", 2, 133_122, 1.20),
        ("toy/tree_paper", 2, 133_122, 1.20),
        ("tabular/power", 6, 200_966, 0.81),  # printed so; 4 x 200,966 rounds to 0.80
        ("tabular/gas", 8, 532_148, 1.06),
        ("tabular/miniboone", 43, 426_117, 0.85),
        ("tabular/bsds300", 63, 853_567, 3.41),
    ],
)
def test_table_a1s_networks_have_its_numbers_of_parameters(name: str, dim: int, each: int, millions: float) -> None:
    flow = new_flow(parse(["--config", f"configs/{name}.yaml"]).density(), dim, 0)
    counts = [sum(weight.numel() for weight in field.parameters()) for field in flow.fields]
    assert set(counts) == {each}
    assert sum(counts) / 1e6 == pytest.approx(millions, abs=0.0075)


def test_train_evaluate_sample_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lfm("train", *arguments(tmp_path)) == 0
    run = tmp_path / "run"
    out = capsys.readouterr().out
    assert "160 rows of 3 columns" in out
    for part in ("train", "validation", "test"):
        assert part in out
    assert {path.name for path in (run / "plots").iterdir()} >= {"samples.png", "trajectory.png", "training.png"}

    found = json.loads((run / "evaluation.json").read_text())
    density = LocalFlowDensity.load(run)
    _, names = read_numbers(tmp_path / "table.csv")
    parts = {part: parse(arguments(tmp_path)).data.load(0) for part in ("train", "valid", "test")}
    for part, loaded in parts.items():
        rows = getattr(loaded, part)[:20]
        scores = density.score_samples(rows)
        assert found["parts"][part]["nll"] == pytest.approx(-scores.mean(), abs=1e-9)
        assert found["parts"][part]["standard_error"] == pytest.approx(scores.std(ddof=1) / np.sqrt(len(rows)))
        assert len(found["parts"][part]["boundaries"]) == 3
        assert found["parts"][part]["boundaries"][-1] == pytest.approx(-scores.mean(), abs=1e-9)
        assert found["parts"][part]["max_change"] < 2 * density.tolerance
    assert found.keys() >= {"command", "versions", "hardware"}
    assert found["seeds"] == [0]

    file = tmp_path / "drawn.csv"
    assert lfm("sample", *arguments(tmp_path), "--out", str(file), "--n", "7", "--sample_seed", "4") == 0
    drawn, drawn_names = read_numbers(file)
    assert drawn_names == names == ("height", "mass", "area")
    np.testing.assert_array_equal(drawn, density.sample(7, random_state=4))


def test_a_picture_is_learned_from_its_file(tmp_path: Path) -> None:
    from PIL import Image

    grey = np.full((30, 40), 255, dtype=np.uint8)
    grey[5:12, 8:30] = 0
    Image.fromarray(grey).save(tmp_path / "bar.png")
    sizes = ["--data.n_train", "300", "--data.n_valid", "50", "--data.n_test", "50"]
    run = ["--output_dir", str(tmp_path / "run"), "--data.name", "picture", "--data.path", str(tmp_path / "bar.png")]
    assert lfm("train", *run, *sizes, *TINY) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    test = found["parts"]["test"]
    assert test["kl"] > 0  # six steps teach nothing, and no model is better than the density itself
    assert (tmp_path / "run" / "plots" / "density.png").is_file()


def same_files(a: Path, b: Path) -> bool:
    x, y = (load_file(find_density(run) / "model.safetensors") for run in (a, b))
    return x.keys() == y.keys() and all((x[name] == y[name]).all() for name in x)


def test_a_stopped_run_resumes_to_the_same_model(tmp_path: Path) -> None:
    quiet = ["--evaluation.after_training", "false", "--model.patience", "1"]
    whole = arguments(tmp_path, *quiet)
    assert lfm("train", *whole) == 0
    broken = [str(tmp_path / "broken") if word == str(tmp_path / "run") else word for word in whole]
    assert lfm("train", *broken, "--stop_after", "4") == 0
    assert lfm("evaluate", *broken) == 2  # half a chain has no density
    assert lfm("train", *broken, "--stop_after", "3", "--resume", "true") == 0
    assert lfm("train", *broken, "--resume", "true") == 0
    assert same_files(tmp_path / "run", tmp_path / "broken")

    def history(run: str) -> Any:
        return json.loads((find_density(tmp_path / run) / "density.json").read_text())["history"]

    assert history("run") == history("broken")


def test_ctrl_c_leaves_a_run_to_resume(tmp_path: Path) -> None:
    words = arguments(tmp_path, "--evaluation.after_training", "false", "--model.steps", "1000000")
    command = [sys.executable, "-m", "lfm_policy.cli.main", "density", "train", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_until(log.is_file, process)
    time.sleep(0.5)  # the file is there just before signals are heard; its first entry is far away
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with --resume true" in out
    assert find_density(tmp_path / "run").is_dir()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.path", "missing.csv"], "missing.csv"),
        (["--data.columns", "[height, weight]"], "weight"),
        (["--data.name", "roze"], "did you mean 'rose'"),
        (["--model.widht", "3"], "unknown field 'model.widht'; did you mean 'model.width'"),
        (["--model.width", "wide"], "model.width: 'wide' is not a whole number"),
        (["--model.width", "0"], "width: 0 must be a whole number, 1 or more"),
        (["--model.interpolant", "line"], "model.interpolant: 'line' is not one of"),
        (["--model.device", "cuda:99"], "device: 'cuda:99' cannot be used"),
        (["--seed", "-1"], "seed: -1"),
        (["--evaluation.rows", "1"], "evaluation.rows: 1 must be 2 or more"),
        (["--threads", "0"], "threads: 0 must be 1 or more"),
        (["--resume", "true"], "does not exist"),
        (["--resume", "true", "--overwrite", "true"], "both are true"),
        (["--model.learning_rate", "1e30"], "loss of sub-flow 1 is"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert lfm("train", *arguments(tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.strip().count("\n") == 0
    assert message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n" + "1,x\n" * 30, "column 'b' is not numeric"),
        ("a,b\n" + "1,2\n3,nan\n" * 30, "column 'b'"),
        ("a,b\n" + "1,2\n3,2\n" * 30, "'b' is always 2"),
        ("a,b,c,d\n" + "1,2,3,4\n2,3,4,9\n3,1,0,2\n", "rows for 4 columns"),
        ("a,b\n" + "1,2\n3,4\n5\n" * 30, "table.csv"),
        ("", "table.csv"),
    ],
)
def test_tables_that_cannot_be_learned_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "table.csv").write_text(text)
    assert lfm("train", *arguments(tmp_path)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = arguments(tmp_path, "--evaluation.after_training", "false")
    assert lfm("train", *quiet) == 0
    before = find_density(tmp_path / "run").stat().st_mtime_ns
    assert lfm("train", *quiet) == 2
    assert "add --resume true or --overwrite true" in capsys.readouterr().err
    assert lfm("train", *quiet, "--resume", "true", "--model.width", "9") == 2
    assert "model.width: was 8, now 9" in capsys.readouterr().err
    table(tmp_path / "table.csv", rows=300)
    assert lfm("train", *quiet, "--resume", "true") == 2
    assert "is not the table" in capsys.readouterr().err
    assert find_density(tmp_path / "run").stat().st_mtime_ns == before
    assert lfm("train", *quiet, "--overwrite", "true") == 0


def test_another_table_is_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other columns, other rows, or another split, whose test rows were trained on."""
    quiet = arguments(tmp_path, "--evaluation.after_training", "false")
    assert lfm("train", *quiet) == 0
    capsys.readouterr()
    for more, message in (
        (["--data.columns", "[mass, height, area]"], "columns mass, height, area are not those of"),
        (["--seed", "5"], "rows of training would count as test"),
    ):
        for action in ("evaluate", "plot"):
            assert lfm(action, *quiet, *more) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("error: ") == 1
            assert error.strip().count("\n") == 0
    for action, more, message in (
        ("evaluate", ["--model.n_probes", "-1"], "n_probes: -1 must be a whole number, 0 or more"),
        ("evaluate", ["--model.tolerance", "-1"], "tolerance: -1.0 must be"),
        ("sample", ["--sample_seed", "-1", "--out", str(tmp_path / "rows.csv")], "--sample_seed -1: must be 0 or more"),
    ):
        assert lfm(action, *quiet, *more) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "rows.csv").exists()
    assert lfm("evaluate", *quiet, "--model.tolerance", "0.5", "--model.n_probes", "2") == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (found["tolerance"], found["n_probes"]) == (0.5, 2)
    assert found["parts"]["test"]["probe_error"] > 0


def test_a_run_that_diverges_at_once_leaves_nothing(tmp_path: Path) -> None:
    assert lfm("train", *arguments(tmp_path, "--model.learning_rate", "1e30")) == 2
    assert not (tmp_path / "run").exists()


def test_a_dozen_rows_give_whole_numbers_and_valid_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "table.csv", rows=12)
    assert lfm("train", *arguments(tmp_path)) == 0
    assert "unknown" in capsys.readouterr().out  # one test row has no standard error
    text = (tmp_path / "run" / "evaluation.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["parts"]["test"]["standard_error"] is None


def test_help_and_unknown_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert lfm() == 0
    assert "evaluate" in capsys.readouterr().out
    assert lfm("distil") == 2
    assert "has no action 'distil'" in capsys.readouterr().err
    assert lfm("train") == 2
    assert "output_dir" in capsys.readouterr().err
