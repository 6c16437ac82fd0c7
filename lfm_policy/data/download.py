"""Downloads that can be cut off at any moment: continued, verified, and never half a file under the file's name.

Of our own, because huggingface_hub (2.4.0) removes what has arrived when a download fails, and compares the size of
what it fetched but not its sha256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lfm_policy.data.hub import Broken, Patience, RemoteFile, open_from, persist
from lfm_policy.flow.errors import LFMError


def fetch_file(
    remote: RemoteFile,
    output: str | Path,
    accept: Callable[[Path], None] = lambda path: None,
    progress: Callable[[int], object] = lambda size: None,
    patience: Patience | None = None,
) -> None:
    """Fetch a file, going on where an earlier attempt was cut off, and name it `output` once it is whole.

    What has arrived stays in `<output>.part`, and the sha256 of what it is a part of in `<output>.part.sha256`.

    Args:
        remote: what `find_file` told.
        output: file to write; replaced if it exists.
        accept: raises LFMError for a whole file that is not what was wanted.
        progress: is told again and again how many bytes are here.
        patience: timeout and retries.

    LFMError if the connection stays broken or the disk is full (the part is kept), and if what arrived has another
    sha256 or is not accepted (the part is removed).
    """
    output, patience = Path(output), patience or Patience()
    part, identity = part_of(output), _identity_of(output)
    with _disk_errors(output), identity.open("ab") as owner:
        _own(owner, output)
        try:
            _check_space(remote, output)
            if not arrived(remote, output):
                part.unlink(missing_ok=True)
                identity.write_text(f"{remote.sha256}\n")
            with part.open("ab") as file:
                _complete(remote, file, progress, patience)
            _verify(remote, part, accept)
            os.replace(part, output)
        finally:
            if not part.is_file():
                identity.unlink(missing_ok=True)


def arrived(remote: RemoteFile, output: str | Path) -> int:
    """Bytes of this version of a file that an earlier attempt has left."""
    part, identity = part_of(output), _identity_of(output)
    if not (part.is_file() and identity.is_file() and identity.read_bytes().strip() == remote.sha256.encode()):
        return 0
    return size if (size := part.stat().st_size) <= remote.size else 0


def part_of(output: str | Path) -> Path:
    """Where a file is while it is not whole."""
    return Path(f"{output}.part")


def is_here(remote: RemoteFile, path: str | Path) -> bool:
    """Whether a file has the size and the sha256 of the remote one."""
    path = Path(path)
    return path.is_file() and path.stat().st_size == remote.size and _sha256_of(path) == remote.sha256


def _identity_of(output: str | Path) -> Path:
    return Path(f"{output}.part.sha256")


def _complete(remote: RemoteFile, file: BinaryIO, progress: Callable[[int], object], patience: Patience) -> None:
    """Append what is missing; LFMError when the connection stays broken."""

    def attempt() -> None:
        progress(file.tell())
        if file.tell() < remote.size:
            with open_from(remote, file.tell(), patience.timeout) as (start, blocks):
                _append(remote, file, start, blocks, progress)

    try:
        persist(attempt, patience, file.tell)
    except Broken as error:
        file.flush()
        raise LFMError(f"{remote.address}: {error}; {_remedy(file.name)}") from error
    finally:
        if not file.tell():
            os.unlink(file.name)


def _append(
    remote: RemoteFile, file: BinaryIO, start: int, blocks: Iterator[bytes], progress: Callable[[int], object]
) -> None:
    if start != file.tell():  # the server would not go on
        file.truncate(start)
        file.seek(start)
    for block in blocks:
        file.write(block)
        progress(file.tell())
        if file.tell() > remote.size:
            return  # its sha256 will be wrong
    if file.tell() < remote.size:
        raise Broken(f"the connection ended at {file.tell()} of {remote.size} bytes")


def _verify(remote: RemoteFile, part: Path, accept: Callable[[Path], None]) -> None:
    """LFMError for a part that is not the file it should be, after removing it."""
    sha256 = _sha256_of(part)  # of what is on the disk, some of which earlier attempts wrote
    try:
        if sha256 != remote.sha256:
            told = f"what arrived has sha256 {sha256} where the server announced {remote.sha256}"
            raise LFMError(f"{remote.address}: {told}; it is removed, download again")
        accept(part)
    except LFMError:
        part.unlink()
        raise


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own(owner: BinaryIO, output: Path) -> None:
    """LFMError if another process is fetching this file."""
    try:
        import fcntl
    except ImportError:  # Windows does not let two programs write one file anyway
        return
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LFMError(f"{output}: is being downloaded by another process; wait for it, or name another") from error


def _check_space(remote: RemoteFile, output: Path) -> None:
    missing, free = remote.size - arrived(remote, output), shutil.disk_usage(output.parent).free
    if missing > free:
        raise LFMError(
            f"{output}: needs {missing / 1e6:.1f} MB, and {output.parent} has {free / 1e6:.1f} MB left; "
            "free some, or choose another place"
        )


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LFMError(
            f"{output}: cannot be written ({error.strerror or error}); mend that, then {_remedy(part_of(output))}"
        ) from error


def _remedy(part: str | Path) -> str:
    kept = os.path.isfile(part) and os.path.getsize(part)
    return f"the same command continues, {part} is kept" if kept else "try again"
