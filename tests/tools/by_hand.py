"""A detector that finds what it was told: names, and where they are. Import it after ikomia's home is set."""

from __future__ import annotations

from collections.abc import Mapping

from ikomia import dataprocess
from samples import Box


class DetectorByHand(dataprocess.CObjectDetectionTask):
    """An Ikomia object detection with the boxes (x0, y0, x1, y1) of `things`, by their names."""

    def __init__(self, things: Mapping[str, Box]) -> None:
        dataprocess.CObjectDetectionTask.__init__(self, "detector_by_hand")
        self.things = things

    def get_progress_steps(self) -> int:
        """How far Studio's bar goes in one run."""
        return 1

    def run(self) -> None:
        """Give the boxes, whatever input 0 shows."""
        self.begin_task_run()
        self.set_names(list(self.things))
        for number, (x0, y0, x1, y1) in enumerate(self.things.values()):
            self.add_object(number, number, 0.9, float(x0), float(y0), float(x1 - x0), float(y1 - y0))
        self.emit_step_progress()
        self.end_task_run()
