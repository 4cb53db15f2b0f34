"""How work that takes long tells of itself."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with what is done and what there is in all (None where nobody knows): batches of a search, bytes of a download.
What it raises ends the work."""


def is_unseen() -> bool:
    """Whether nobody would see a bar: stderr is no terminal but a log file, say, or does not exist at all, as in an application
    with windows."""
    return sys.stderr is None or not sys.stderr.isatty()
