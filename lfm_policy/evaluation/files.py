"""Output files: refused before any work when they cannot be written, and never left half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lfm_policy.flow.errors import LFMError


def check_outputs(outputs: Mapping[str, str | None], overwrite: bool) -> None:
    """LFMError for an output (option to path) that exists, whose folder does not, or that is named twice."""
    seen: dict[Path, str] = {}
    for option, name in outputs.items():
        if name is None:
            continue
        path = Path(name)
        if path.is_dir():
            raise LFMError(f"--{option} {name}: is a folder; give a file name")
        if not path.parent.is_dir():
            raise LFMError(f"--{option} {name}: folder {path.parent} does not exist; create it first")
        if not os.access(path.parent, os.W_OK):
            raise LFMError(f"--{option} {name}: folder {path.parent} cannot be written; choose another")
        if path.exists() and not overwrite:
            raise LFMError(f"--{option} {name}: exists already; choose another name or set --overwrite true")
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise LFMError(f"--{option} {name}: is also --{other}; give each its own name")


def check_suffix(option: str, name: str | None, suffixes: tuple[str, ...]) -> None:
    """LFMError if the file name does not end as its format does."""
    if name is not None and Path(name).suffix.lower() not in suffixes:
        raise LFMError(f"--{option} {name}: must end in {' or '.join(suffixes)}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix; renamed to `path` on success, removed otherwise.

    LFMError on a full disk or a folder without permission.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise LFMError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        with suppress(OSError):  # where `path`'s folder is a file
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write JSON, a line for each row of a table; a crash leaves the old file or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(to_text(values))


def to_text(values: Mapping[str, Any]) -> str:
    """JSON with a line for each field, each list of plain values, and each row of a list of objects."""
    return _text(values, "\n") + "\n"


def _text(value: Any, line: str) -> str:
    inner = line + "  "
    if isinstance(value, Mapping) and value:
        members = [f"{json.dumps(str(key))}: {_text(member, inner)}" for key, member in value.items()]
        return "{" + inner + f",{inner}".join(members) + line + "}"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "[" + inner + f",{inner}".join(map(json.dumps, value)) + line + "]"
    return json.dumps(value)
