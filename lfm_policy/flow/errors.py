"""The one error that a user can cause, and other errors in its words."""

from __future__ import annotations


class LFMError(ValueError):
    """A mistake of the user's, told in one line: file, key or field, value and remedy.

    Commands print it to stderr and exit with 2; no traceback.
    """


def one_line(error: BaseException) -> str:
    """What an exception is and says, without line breaks: for code of others, whose errors may be of any kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
