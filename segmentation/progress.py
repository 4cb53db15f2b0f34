"""How work that takes long tells of itself."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with what is done and what there is in all (None where nobody knows): batches of a search, bytes of a download.
What it raises ends the work."""


def is_unseen() -> bool:
    """Whether nobody would see a bar: stderr is no terminal but a log file, say, or is closed, or does not exist at all, as in
    an application with windows.

    Then no bar is made: tqdm starts a thread even for one that is disabled, and settles how multiprocessing starts processes.
    """
    try:
        return not sys.stderr.isatty()
    except (AttributeError, ValueError):  # None, or an object that passes on what is written to it
        return True
