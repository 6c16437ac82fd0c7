"""`lfm`: the package's commands."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

COMMANDS = {
    "collect": "record demonstrations of an environment's scripted expert",
    "download": "fetch one of robomimic's published datasets",
    "convert": "bring recordings of other layouts and versions to robomimic's, and back",
    "inspect": "print what is in a dataset and what is wrong with it",
    "train": "train a policy on demonstrations",
    "distill": "distil a trained policy into students of one evaluation each",
    "rollout": "roll a policy out and report its success rate",
    "compare": "roll policies out on the same episodes and say which is better, where that can be told",
    "robomimic": "run robomimic's own training and rollout scripts on the algorithm `lfm`",
    "image": "learn, distil, sample and evaluate images",
    "density": "learn, evaluate and sample the density of a table or a picture",
    "sweep": "collect, train, roll out and compare methods on tasks; resumes where it stopped",
    "demo": "collect or convert, train and roll out in one go",
}

FLAGS_ONLY = {"collect", "demo"}  # whose required parameters are flags too


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lfm COMMAND ...`; exit code 2 with one line on stderr for what the user can mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _while_read(lambda: _main(given))


def run(command: str, arguments: list[str], prog: str) -> int:
    """Run one command by name, as `prog`: its module's `main`, else the function of its name."""
    return _while_read(lambda: _run(command, arguments, prog))


def _while_read(work: Callable[[], int]) -> int:
    """Its exit code; 1 without a word, as rich has it, where whoever reads our output has gone, as `| head` does."""
    try:
        code = work()
        sys.stdout.flush()  # or it would be noticed only as the interpreter ends
        return code
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # another pipe was broken
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _reader_is_gone() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"lfm_policy {metadata.version('lfm_policy')}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"error: lfm has no command '{command}'; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(command, rest, f"lfm {command}")


def _run(command: str, arguments: list[str], prog: str) -> int:
    from lfm_policy.cli.parser import call, quiet_exit
    from lfm_policy.flow.errors import LFMError

    module = importlib.import_module(f"lfm_policy.cli.{command}")
    try:
        with _interrupted_by_sigterm():
            if hasattr(module, "main"):
                return module.main(arguments, prog)
            return call(getattr(module, command), arguments, prog, as_positional=command not in FLAGS_ONLY)
    except LFMError as error:
        return quiet_exit(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """What a cluster's scheduler ends programs with does here what Ctrl-C does: processes of a pool keep their work."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: lfm COMMAND [options]", "", *lines, "", "lfm COMMAND --help tells more."])


if __name__ == "__main__":
    sys.exit(main())
