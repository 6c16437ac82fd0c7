"""`lfm robomimic`: robomimic's own scripts, with the algorithm `lfm` registered."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path
from typing import TextIO

from lfm_policy.flow.errors import LFMError

SCRIPTS = {"train": "robomimic.scripts.train", "run": "robomimic.scripts.run_trained_agent"}
FAILED = "run failed with error:"  # what robomimic's train.py prints before it exits with code 0
# the errors by which robomimic tells what a user can mend: files, keys, checks
TOLD = (OSError, KeyError, AssertionError, RuntimeError, LFMError)
USAGE = """usage: lfm robomimic train -- ARGUMENTS
       lfm robomimic run -- ARGUMENTS

Runs robomimic's own scripts/train.py or scripts/run_trained_agent.py, unmodified, with ARGUMENTS (-- --help lists
them) after registering the algorithm lfm. docs/robomimic.md has a config and an example of each."""


def main(arguments: list[str], prog: str) -> int:
    """Run one of robomimic's scripts; LFMError where it refuses what it was given."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    script, rest = arguments[0], arguments[1:]
    if script not in SCRIPTS:
        raise LFMError(f"{prog}: there is no '{script}'; give one of {', '.join(SCRIPTS)}")
    rest = rest[1:] if rest[:1] == ["--"] else rest
    _check_config(rest)
    import lfm_policy.integrations.robomimic  # noqa: F401 - registers the algorithm

    _run(script, rest)
    return 0


def _check_config(arguments: list[str]) -> None:
    """LFMError where --config is no JSON file that names an algorithm: train.py would end in a traceback."""
    if "--config" not in arguments[:-1]:
        return
    path = Path(arguments[arguments.index("--config") + 1])
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise LFMError(f"--config {path}: does not exist; give a robomimic config in JSON") from error
    except (OSError, ValueError) as error:
        raise LFMError(f"--config {path}: is no JSON ({error})") from error
    if not isinstance(config, dict) or "algo_name" not in config:
        raise LFMError(f'--config {path}: names no algorithm; add "algo_name": "lfm"')


def _run(script: str, arguments: list[str]) -> None:
    name, argv, watched = SCRIPTS[script], sys.argv, _Watched(sys.stdout)
    sys.argv = [name, *arguments]
    try:
        # the script leaves its own logger in place of both
        with contextlib.redirect_stdout(watched), contextlib.redirect_stderr(sys.stderr):
            runpy.run_module(name, run_name="__main__", alter_sys=False)
    except TOLD as error:
        raise LFMError(f"robomimic {script}: {_line(error)}") from error
    finally:
        sys.argv = argv
    if watched.failure is not None:
        remedy = " (its experiment folder exists: remove it, or give --name)" if "EOF" in watched.failure else ""
        raise LFMError(f"robomimic {script}: {watched.failure}{remedy}")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, LFMError) and text else f"{type(error).__name__}: {text}"


class _Watched(io.TextIOBase):
    """Passes text on and remembers the line that follows robomimic's word for a failed run."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: str | None = None

    def write(self, text: str) -> int:
        if FAILED in text:
            message, _, traceback = text.partition(FAILED)[2].partition("\n\n")
            self.failure = " ".join(message.split()) or traceback.strip().rpartition("\n")[2]
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()
