"""The folder of a run: what may be in it, its config, Ctrl-C."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lfm_policy.data.saved import CHECKPOINTS
from lfm_policy.flow import LFMError
from lfm_policy.training.logging import METRICS

SIGNALS = (signal.SIGINT, signal.SIGTERM)

CONFIG_FILE = "config.yaml"
RUN_PARTS = (CONFIG_FILE, METRICS, "tensorboard", CHECKPOINTS)


def check_output_dir(output_dir: str, resume: bool, overwrite: bool, find: Callable[[Path], Path]) -> None:
    """Raise LFMError where a run would be overwritten unasked, or where `find` finds none to resume."""
    folder = Path(output_dir)
    if resume and overwrite:
        raise LFMError("resume, overwrite: both are true; choose one")
    if resume:
        find(folder)
    elif folder.exists() and not folder.is_dir():
        raise LFMError(f"output_dir: {folder} is a file; give a folder")
    elif not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise LFMError(f"output_dir: {folder} exists; choose another, or add --resume true or --overwrite true")


def prepare_folder(folder: Path, config: dict[str, Any], overwrite: bool, parts: tuple[str, ...] = RUN_PARTS) -> None:
    """Make the folder and write its config.yaml; `overwrite` removes an earlier run's `parts` first."""
    if overwrite:
        remove_parts(folder, parts)
    config = {**config, "resume": False, "overwrite": False, "stop_after": None}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
    except OSError as error:
        raise LFMError(f"output_dir: {folder} cannot be written ({error.strerror}); choose another") from error


def remove_parts(folder: Path, parts: tuple[str, ...] = RUN_PARTS) -> None:
    """Remove those files and folders of a run that are there."""
    for part in parts:
        path = folder / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def leave_nothing(folder: Path, parts: tuple[str, ...] = RUN_PARTS) -> None:
    """Remove what a run has begun where it has no checkpoint to resume from, so that its command may be repeated."""
    if not (folder / CHECKPOINTS).exists():
        remove_parts(folder, parts)
        with contextlib.suppress(OSError):  # there may be other files, the user's own
            folder.rmdir()


def check_unchanged(checkpoint: Path, changed: list[str]) -> None:
    """Raise LFMError where `differences` found that a resumed run would be another one."""
    if changed:
        raise LFMError(
            f"{checkpoint}: cannot resume with another config ({'; '.join(changed)}); undo that or start anew"
        )


def plain(value: Any) -> Any:
    """The same with lists for tuples, as YAML and JSON have them."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


class Interruption:
    """Whether somebody has asked the run to stop, by Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self, signals: Collection[int] = SIGNALS) -> Iterator[None]:
        """The first signal asks the loop to stop after its step; a second one stops at once."""

        def ask(signum: int, frame: object) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        before = {number: signal.signal(number, ask) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
