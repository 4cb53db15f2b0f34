"""Live drawing: runs and strokes take turns on a task, and the last stroke wins."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infer_segment_anything_2.segmentation.forks import free_in_children

logger = logging.getLogger(__name__)


class Turns:
    """Who computes on a task: a run or a stroke, one at a time.

    Studio calls the task for each stroke in a thread of its own, and does not look whether a workflow runs or another stroke
    is computed (read in its source). A stroke is answered by the drawing as it is when its turn comes, so that one turn
    answers all strokes that waited for it.
    """

    def __init__(self) -> None:
        self._turn = free_in_children(threading.Lock())
        self._count = free_in_children(threading.Lock())
        self._asked = 0  #: strokes so far
        self._answered = 0  #: of these, the ones that are answered or given up

    @contextmanager
    def run(self) -> Iterator[None]:
        """The turn of a run."""
        with self._turn:
            yield

    def stroke(self, answer: Callable[[], None], tell: Callable[[str, bool], None]) -> None:
        """Wait for the turn of a stroke and `answer` it, unless the turn before came late enough to have done that.

        What `answer` raises goes to the log and to `tell`, as a fault: Studio would open a dialog for each stroke.
        """
        with self._count:
            self._asked += 1
            number = self._asked
        with self._turn:
            if number > self._answered:
                self._answered = self._asked
                try:
                    answer()
                except Exception as error:
                    logger.error("%s", error)
                    logger.debug("The trace of: %s", error, exc_info=True)
                    tell(str(error), True)

    def give_up(self) -> None:
        """Let the strokes that wait now go unanswered."""
        self._answered = self._asked
