"""Progress of one run: Studio's bar, a bar in the terminal, and the wish to stop."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

from infer_segment_anything_2.segmentation.progress import is_unseen

#: Studio asks for the number of progress steps before a run, when the number of batches is not known yet.
PROGRESS_STEPS = 100


class StopRequested(Exception):  # noqa: N818 - not an error, a wish
    """The user stopped the run."""


class RunProgress:
    """Studio's bar in one run, and a tqdm bar where there is a terminal.

    A download takes the first half of the bar, the batches of automatic mode what is left. Its methods raise
    :class:`StopRequested` once the run is to end.

    Args:
        emit_step: moves Studio's bar by one of `PROGRESS_STEPS`.
        is_stopped: whether the user wants the run to end.
    """

    def __init__(self, emit_step: Callable[[], None], is_stopped: Callable[[], bool]) -> None:
        self._emit_step = emit_step
        self._is_stopped = is_stopped
        self._steps = 0
        self._start = 0
        self._bar: tqdm | None = None

    def check(self) -> None:
        """End the run if the user wants it to."""
        if self._is_stopped():
            raise StopRequested

    def downloaded(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes have arrived; None: nobody knows how many come."""
        if total:
            self._advance(PROGRESS_STEPS // 2 * done // total)
        self._start = self._steps
        self.check()

    def searched(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` batches are done."""
        if self._bar is None and not is_unseen():
            self._bar = tqdm(total=total, desc="Segmenting", unit="batch", leave=False)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        self._advance(self._start + (PROGRESS_STEPS - self._start) * done // max(total or 1, 1))
        self.check()

    def fill(self) -> None:
        """Bring Studio's bar to its end, whatever was done."""
        self._advance(PROGRESS_STEPS)

    def close(self) -> None:
        """Take the terminal's bar away."""
        if self._bar is not None:
            self._bar.close()

    def _advance(self, steps: int) -> None:
        for _ in range(steps - self._steps):
            self._emit_step()
        self._steps = max(steps, self._steps)
