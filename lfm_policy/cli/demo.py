"""`lfm demo`: collect demonstrations or convert a recording, train a policy, roll it out, and say what that took."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lfm_policy.flow.errors import LFMError

# of the rollouts' results
KEPT = ["success_rate", "n_rollouts", "wilson95", "mean_max_reward", "max_reward95", "seeds"]
KEPT += ["nfe", "multiply_adds", "latency_ms"]
PARTS = ["data.hdf5", "data.hdf5.attempts", "train", "rollouts.json", "summary.json"]
PARTS += ["paths.png", "video.mp4", "video.png"]


def demo(
    config: str,
    output_dir: str = "runs/demo",
    task: str = "Lift",
    n: int = 200,
    source: str | None = None,
    n_rollouts: int = 50,
    seed: int = 100_000,
    n_procs: int = 2,
    film: bool = True,
    overwrite: bool = False,
) -> int:
    """Collect or convert demonstrations, train a policy on them and roll it out, in one go.

    Args:
        config: YAML file of the training run.
        output_dir: folder for data.hdf5, train/, rollouts.json, paths.png, video.mp4 and summary.json.
        task: Lift, Can, Square, ToolHang, Transport, PushT (with `source`), or the gymnasium id of another.
        n: demonstrations to collect, on seeds from 0.
        source: recording to convert instead, in any layout that `lfm convert` reads.
        n_rollouts: episodes to evaluate.
        seed: first evaluation seed.
        n_procs: simulator processes.
        film: write video.mp4, where OpenGL is there.
        overwrite: replace what an earlier demo left in output_dir.
    """
    from lfm_policy.cli.collect import collect, env_id_of_task
    from lfm_policy.cli.convert import convert
    from lfm_policy.cli.rollout import rollout
    from lfm_policy.cli.train import main as train

    folder = _prepare(Path(output_dir), config, overwrite)
    data, run, rollouts = f"{folder}/data.hdf5", f"{folder}/train", f"{folder}/rollouts.json"
    seconds: dict[str, float] = {}
    if source is None:
        print(f"1. Collect {n} demonstrations of {task}", flush=True)
        with _timed(seconds, "collect"):
            collect(data, task, n, n_procs)
    else:
        print(f"1. Convert {source}", flush=True)
        with _timed(seconds, "convert"):
            convert(source, data, env_id=env_id_of_task(task), n_procs=n_procs)
    print("\n2. Train a policy on them", flush=True)
    with _timed(seconds, "train"):
        code = train(["--config", config, "--data.path", data, "--output_dir", run], "lfm demo")
    if code:
        return code
    print(f"\n3. Roll it out from {n_rollouts} initial states", flush=True)
    with _timed(seconds, "rollout"):
        rollout(
            run,
            n_rollouts,
            seed,
            n_procs,
            json=rollouts,
            paths=f"{folder}/paths.png",
            video=f"{folder}/video.mp4" if film else None,
            poster=f"{folder}/video.png" if film else None,
        )
    _summarise(folder, seconds)
    return 0


def _prepare(folder: Path, config: str, overwrite: bool) -> Path:
    if not Path(config).is_file():
        raise LFMError(f"config: {config} does not exist; give the path of a YAML file")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise LFMError(f"output_dir: {folder} exists; choose another, or add --overwrite true")
    for part in PARTS:
        path = folder / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - begin, 1)


def _summarise(folder: Path, seconds: dict[str, float]) -> None:
    """Write summary.json and print where the time went; filming is told apart from the rollouts."""
    rollouts: dict[str, Any] = json.loads((folder / "rollouts.json").read_text())
    filming = round(seconds["rollout"] - rollouts["wall_seconds"], 1)
    seconds = {**seconds, "rollout": round(rollouts["wall_seconds"], 1), "pictures": filming}
    summary = {name: rollouts[name] for name in KEPT} | {"seconds": seconds}
    summary |= {"wall_seconds": round(sum(seconds.values()), 1)}
    summary |= {name: rollouts[name] for name in ("command", "versions", "hardware")}
    from lfm_policy.evaluation.files import write_json

    write_json(folder / "summary.json", summary)
    low, high = summary["wilson95"]
    rate, count = summary["success_rate"], summary["n_rollouts"]
    print(f"\nsuccess rate {rate:.3f} (95 % {low:.3f} to {high:.3f}) over {count} rollouts")
    if summary["mean_max_reward"] != rate:
        low, high = summary["max_reward95"]
        print(f"score {summary['mean_max_reward']:.3f} (95 % {low:.3f} to {high:.3f}), mean of highest rewards")
    for name, value in {**seconds, "in all": summary["wall_seconds"]}.items():
        print(f"  {name:<9}{value:7.1f} s")
    video = f"{folder}/video.mp4 and " if (folder / "video.mp4").is_file() else ""
    print(f"look at {video}{folder}/paths.png; figures are in {folder}/summary.json")
