"""Who writes a file: of all threads and processes one at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .progress import Progress

logger = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(target: Path, on_wait: Progress | None = None) -> Iterator[None]:
    """Hold the lock on `target`, which the system lets go of when a process is killed. Its file goes with it.

    Args:
        target: what is about to be written.
        on_wait: called with (0, None), again and again, while another one holds the lock.
    """
    from filelock import FileLock, Timeout, __version__

    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process or thread is writing %s: waiting for it.", target)
        while not lock.is_locked:
            if on_wait is not None:
                on_wait(0, None)
            with suppress(Timeout):
                lock.acquire(timeout=0.2)
    try:
        yield
    finally:
        # While the lock is held, so that the file is this one's. filelock 4 takes no lock of a file that is no more. Others
        # remove it themselves (3.21 to 3.29, any on Windows), or two could hold the lock: there it stays.
        if int(__version__.split(".")[0]) >= 4:
            with suppress(OSError):
                os.unlink(lock.lock_file)
        lock.release()
