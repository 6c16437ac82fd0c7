"""`lfm inspect FILE`: what is in a dataset, what is wrong with it, and whether its states replay to success."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lfm_policy.data.inspect import Report

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
SHOWN = 6
FPS = 10  # of environments that tell no control frequency: PushT's


def inspect(
    file: str,
    replay: int = 0,
    show_all: bool = False,
    video: str | None = None,
    poster: str | None = None,
    n_video: int = 6,
    overwrite: bool = False,
) -> None:
    """Print what is in a robomimic HDF5 dataset and what is wrong with it.

    Args:
        file: path of the dataset.
        replay: restore the recorded states of this many demonstrations in the simulator and count successes.
        show_all: list every finding, not only the first of each kind.
        video: mp4 of demonstrations side by side, from their recorded states; needs OpenGL and imageio-ffmpeg.
        poster: PNG of the last frame of that video.
        n_video: number of demonstrations in the video.
        overwrite: replace video and poster if they exist.
    """
    from rich.console import Console

    from lfm_policy.data.action_space import installed_version
    from lfm_policy.data.inspect import inspect_file
    from lfm_policy.evaluation.files import check_outputs, check_suffix
    from lfm_policy.flow.errors import LFMError

    if replay < 0:
        raise LFMError(f"--replay: {replay} must be 0 or more; it is a number of demonstrations")
    if n_video < 1:
        raise LFMError(f"--n_video {n_video}: must be 1 or more")
    check_outputs({"video": video, "poster": poster}, overwrite)
    check_suffix("video", video, (".mp4",))
    check_suffix("poster", poster, (".png",))
    console = Console(highlight=False)
    report = inspect_file(file, installed_version())
    _print_contents(console, report)
    _print_findings(console, report, show_all)
    if replay:
        _replay(console, report, replay)
    if video or poster:
        _film(console, report, video, poster, n_video)


def _print_contents(console: Console, report: Report) -> None:
    import numpy as np
    from rich.text import Text

    lengths = np.array(list(report.lengths.values()))
    console.print(Text(f"{report.path}", style="bold"), Text(f"({_size(report.n_bytes)})"))
    console.print(
        f"{len(lengths)} demonstration{'' if len(lengths) == 1 else 's'}, {report.n_frames} frames; "
        f"lengths {lengths.min()} to {lengths.max()}, median {np.median(lengths):.0f}"
    )
    console.print()
    environment = {**report.environment, **_masks(report)}
    if environment:
        table = _table("", "")
        table.show_header = False
        for name, text in environment.items():
            table.add_row(Text(name, style="dim"), Text(text))
        console.print(table)
        console.print()
    table = _table("key", "step", "type", "lowest", "highest", "demos")
    for column in table.columns[3:]:
        column.justify = "right"
    table.columns[0].no_wrap = True
    next_obs = [key for key in report.keys if key.key.startswith("next_obs/")]
    for key in (key for key in report.keys if key not in next_obs):
        missing = len(lengths) - key.n_demos
        demos = Text(str(key.n_demos), style="bold red" if missing else "")
        shape = " x ".join(map(str, key.shape)) or "1"
        table.add_row(Text(key.key), shape, key.dtype, _number(key.low), _number(key.high), demos)
    if next_obs:
        table.add_row(f"next_obs ({len(next_obs)} keys)", "", next_obs[0].dtype, "", "", str(next_obs[0].n_demos))
    console.print(table)
    console.print()


def _print_findings(console: Console, report: Report, show_all: bool) -> None:
    from rich.text import Text

    groups = defaultdict(list)
    for finding in report.findings:
        groups[finding.check].append(finding)
    for check, findings in groups.items():
        console.print(Text(check, style="bold"), Text(f"({len(findings)})", style="dim"))
        shown = findings if show_all else findings[:SHOWN]
        for finding in shown:
            where = f"{finding.demo}: " if finding.demo else ""
            line = Text.assemble((f"{finding.severity:<8}", STYLES[finding.severity]), f" {where}{finding.text}")
            console.print(line, soft_wrap=True)
        if len(findings) > len(shown):
            rest = f"… and {len(findings) - len(shown)} more; --show_all true lists them"
            console.print(Text(rest, style="dim"))
        console.print()
    counts = [(report.count(severity), severity) for severity in STYLES]
    told = ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)
    console.print(Text(f"found: {told}" if told else "nothing wrong found", style="bold"))


def _replay(console: Console, report: Report, count: int) -> None:
    from rich.text import Text

    from lfm_policy.data.replay import replay_states, spread
    from lfm_policy.evaluation.environment import EnvSpec

    names = spread(list(report.lengths), count)
    replay = replay_states(report.path, EnvSpec.of_env_args(report.env_args, report.path).make, names)
    failed = [name for name, success in replay.succeeded.items() if not success]
    if replay.refusal:
        line = f"{replay.refusal}; with the simulator's own model instead:"
        console.print(Text(line, style="dim"), soft_wrap=True)
    console.print(f"replayed states: {len(names) - len(failed)} of {len(names)} demonstrations succeed")
    if failed:
        console.print(f"without success: {', '.join(failed)}", soft_wrap=True)


def _film(console: Console, report: Report, video: str | None, poster: str | None, count: int) -> None:
    from lfm_policy.data.replay import spread
    from lfm_policy.evaluation.environment import EnvSpec
    from lfm_policy.evaluation.video import check_ffmpeg, film_demonstrations, write_poster, write_video

    if video:
        check_ffmpeg()
    env = EnvSpec.of_env_args(report.env_args, report.path)
    movie = film_demonstrations(report.path, env, spread(list(report.lengths), count), progress=True)
    if video:
        write_video(video, movie, report.env_args.get("env_kwargs", {}).get("control_freq", FPS))
    if poster:
        write_poster(poster, movie)
    console.print(f"written: {', '.join(name for name in (video, poster) if name)}", soft_wrap=True)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")


def _masks(report: Report) -> dict[str, str]:
    if not report.masks:
        return {}
    return {"filter keys": ", ".join(f"{key} {count}" for key, count in report.masks.items())}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
