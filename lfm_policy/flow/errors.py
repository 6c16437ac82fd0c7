"""The one error that a user can cause."""

from __future__ import annotations


class LFMError(ValueError):
    """A mistake of the user's, told in one line: file, key or field, value and remedy.

    Commands print it to stderr and exit with 2; no traceback.
    """
