"""`lfm rollout`: roll a checkpoint out and say how often it succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lfm_policy.flow.errors import LFMError

if TYPE_CHECKING:
    from lfm_policy.evaluation.rollout import Evaluation


def rollout(
    checkpoint: str,
    n_rollouts: int = 50,
    seed: int = 100_000,
    n_procs: int = 1,
    json: str | None = None,
    video: str | None = None,
    poster: str | None = None,
    paths: str | None = None,
    n_video: int = 6,
    n_paths: int = 20,
    env_id: str = "",
    env_kwargs: dict[str, Any] | None = None,
    observation: dict[str, str] | None = None,
    success_key: str = "",
    max_steps: int | None = None,
    solver: Literal["euler", "midpoint", "heun", "rk4", "ddpm", "ddim"] | None = None,
    solver_steps: int | None = None,
    temperature: float | None = None,
    overwrite: bool = False,
    executor: Literal["processes", "ray"] = "processes",
    ray_address: str | None = None,
) -> int:
    """Roll a checkpoint out in simulation and report its success rate.

    Args:
        checkpoint: checkpoint folder, or a run's folder (its newest checkpoint).
        n_rollouts: number of episodes.
        seed: seed of the first episode; the others follow. A seed decides first state and policy noise.
        n_procs: processes, or workers of Ray; results do not depend on it.
        json: file for results: a row for each episode, summary, versions, hardware.
        video: mp4 of the first episodes, side by side; needs OpenGL and imageio-ffmpeg.
        poster: PNG of the last frame of that video.
        paths: PNG of the paths that gripper and objects took; needs neither.
        n_video: number of episodes in the video.
        n_paths: number of episodes in the picture of paths.
        env_id: gymnasium id of another environment than the checkpoint's own; it has to fit.
        env_kwargs: arguments of the environment that differ from the checkpoint's.
        observation: where the policy's keys come from, {hand: "state[0:3]"}; a plain vector is called state.
        success_key: what the environment calls success, or terminated; default is is_success or success.
        max_steps: steps after which an episode ends; default is the environment's own limit.
        solver: method of the sampler, ddpm or ddim where that is a diffusion model; default is the checkpoint's.
        solver_steps: steps of the sampler per sub-flow, or of the diffusion model; default is the checkpoint's.
        temperature: of the noise that chunks begin from, 1 as learned, 0 none; default is the checkpoint's.
        overwrite: replace output files that exist.
        executor: processes of this machine, or ray (pip install 'lfm_policy[ray]').
        ray_address: address of a running Ray cluster; default starts Ray on this machine for the command.
    """
    from lfm_policy.evaluation.files import check_outputs, check_suffix, write_json

    check_outputs({"json": json, "video": video, "poster": poster, "paths": paths}, overwrite)
    check_suffix("video", video, (".mp4",))
    check_suffix("poster", poster, (".png",))
    check_suffix("paths", paths, (".png",))
    counts = {"n_rollouts": n_rollouts, "n_video": n_video, "n_paths": n_paths}
    for option, value in {**counts, "max_steps": max_steps, "solver_steps": solver_steps}.items():
        if value is not None and value < 1:
            raise LFMError(f"--{option} {value}: must be 1 or more")
    if seed < 0:
        raise LFMError(f"--seed {seed}: must be 0 or more")

    from lfm_policy.evaluation.environment import EnvSpec
    from lfm_policy.evaluation.executor import Executor
    from lfm_policy.evaluation.rollout import evaluate

    evaluation = evaluate(
        checkpoint,
        n_rollouts,
        seed,
        Executor(executor, n_procs, ray_address),
        EnvSpec(env_id, env_kwargs or {}, observation or {}, success_key),
        max_steps=max_steps,
        solver=solver,
        solver_steps=solver_steps,
        temperature=temperature,
        n_recorded=n_paths if paths else 0,
        progress=True,
    )
    # first of all: neither a video that goes wrong nor a reader who goes away must cost the results
    if json is not None:
        write_json(json, evaluation.to_json())
    print_evaluation(evaluation, checkpoint)
    written = [json, _draw(evaluation, paths), *_film(evaluation, video, poster, n_video)]
    if any(written):
        _line("written", ", ".join(name for name in written if name))
    return 0


def print_evaluation(evaluation: Evaluation, name: str) -> None:
    """Print what rollouts came to, a line a subject."""
    from lfm_policy.evaluation.report import unfinished

    summary, context = evaluation.summary, evaluation.context
    (low, high), latency, seeds = summary["wilson95"], summary["latency_ms"], context["seeds"]
    successes, n = summary["n_success"], summary["n_rollouts"]
    units = {"processes": ("process", "processes"), "ray": ("Ray worker", "Ray workers")}[context["executor"]]
    workers = f"{context['n_procs']} {units[context['n_procs'] > 1]}"
    _line("policy", name)
    _line("rollouts", f"{context['env_id']}, seeds {seeds[0]} to {seeds[-1]}")
    _line(
        "success",
        f"{successes} of {n} = {summary['success_rate']:.3f} (95 % {low:.3f} to {high:.3f})",
        style="bold",
    )
    if any(row["max_reward"] not in (0, 1) for row in evaluation.episodes):
        low, high = summary["max_reward95"]
        score = f"{summary['mean_max_reward']:.3f} (95 % {low:.3f} to {high:.3f})"
        _line("score", f"{score}, the mean of each episode's highest reward", style="bold")
    _line("episode", f"{summary['mean_steps']:.1f} steps, return {summary['mean_return']:.2f}")
    chunk = f"{summary['nfe']} network evaluations, {_count(summary['multiply_adds'])} multiply-adds"
    if (warmth := (context["checkpoint"].get("sampler") or {}).get("temperature")) is not None:
        chunk += f", temperature {warmth:g}"
    if latency["p50"] is not None:
        chunk += f", {latency['p50']:.1f} ms median, {latency['p95']:.1f} ms p95"
    _line("chunk", chunk)
    _line("time", f"{context['wall_seconds']:.1f} s with {workers}")
    if told := unfinished(context["checkpoint"]):
        _note(f"warning: a checkpoint in the middle of its training, {told}")
    for first, last in context.get("seen_seeds", []):
        _note(f"warning: its demonstrations were recorded on seeds {first} to {last}: nothing new began there")


def _line(label: str, text: str, style: str = "") -> None:
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((f"{label:<10}", "dim"), (text, style))
    Console(highlight=False, soft_wrap=True).print(line)


def _draw(evaluation: Evaluation, paths: str | None) -> str | None:
    if paths is None:
        return None
    from lfm_policy.evaluation.paths import draw_paths

    n_drawn, n = len(evaluation.trajectories), evaluation.summary["n_rollouts"]
    of = "all" if n_drawn == n else f"the first {n_drawn} of"
    succeeded = f"{evaluation.summary['n_success']} of {n} succeeded"
    title = f"{evaluation.context['env_id']}: {of} {n} rollouts, {succeeded}"
    if draw_paths(paths, evaluation.episodes, evaluation.trajectories, title):
        return paths
    _note(f"no picture of paths: {evaluation.context['env_id']} tells no positions")
    return None


def _film(evaluation: Evaluation, video: str | None, poster: str | None, n_video: int) -> list[str | None]:
    if video is None and poster is None:
        return []
    from lfm_policy.evaluation.video import VideoUnavailable, check_ffmpeg, film, write_poster, write_video

    rows = evaluation.episodes[:n_video]
    try:
        if video is not None:
            check_ffmpeg()
        movie = film(evaluation.job, rows, progress=True)
        if video is not None:
            write_video(video, movie, evaluation.job.fps)
    except VideoUnavailable as error:
        _note(f"no video: {error}")
        return []
    if poster is not None:
        write_poster(poster, movie)
    for warning in movie.warnings:
        _note(f"warning: {warning}")
    return [video, poster]


def _note(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="yellow", markup=False)


def _count(number: Any) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
