"""Errors as a sentence, and warnings that come once.

Ikomia writes the whole trace of an error into its text, a thousand characters after what counts.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def in_a_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, called by Ikomia: what it raises reaches the user without the trace, which goes to the log at level DEBUG."""

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            logger.debug("The trace of: %s", error, exc_info=True)
            fault = error.with_traceback(None)
            # What it came from holds the frames that failed, and images and tensors with them, until a garbage collection.
            fault.__cause__ = fault.__context__ = None
        try:
            raise fault
        finally:
            del fault  # for the same reason: its trace holds this frame

    return told


class WarnOnce:
    """Tells a warning to the log, once however often it is called with it, and keeps what a run has said."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self.said: list[str] = []  #: in this run, also what was told before; for the panel

    def __call__(self, text: str) -> None:
        """Tell it, unless it has been told."""
        if text not in self._told:
            self._told.add(text)
            logger.warning(text)
        self.said.append(text)

    def each(self, text: str) -> None:
        """Tell it, also where it has been told: it is about this image."""
        logger.warning(text)
        self.said.append(text)
