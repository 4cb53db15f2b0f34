"""What is connected to a task's inputs: told apart from what is not, and taken away where it no longer is."""

from __future__ import annotations

from typing import Any

import numpy as np
from ikomia import dataprocess

from infer_segment_anything_2.bridge.errors import in_a_sentence
from infer_segment_anything_2.bridge.outputs import OverlaidImage, empty, while_alive

#: What ikomia (0.16.1) calls input 1 once a task is connected to it, also one that found nothing; "GraphicsInput" before.
CONNECTED_GRAPHICS = "GraphicsOutput"


class NoDetections(dataprocess.CObjectDetectionIO):
    """What input 2 is while no task is connected to it.

    A connected detector's output takes its place before a run; instances of a connected task are copied into it.
    """

    def __init__(self) -> None:
        dataprocess.CObjectDetectionIO.__init__(self)
        self.is_filled = False  #: instances were copied into it, if only none

    def clear_data(self) -> None:
        """Forget the detections: what ikomia (0.16.1) does before it copies instances."""
        dataprocess.CObjectDetectionIO.clear_data(self)
        self.is_filled = True


def are_graphics_connected(graphics: dataprocess.CGraphicsInput) -> bool:
    """Whether input 1 is what a connected task draws, if only nothing."""
    return graphics.name == CONNECTED_GRAPHICS


def are_detections_connected(detections: dataprocess.CObjectDetectionIO) -> bool:
    """Whether input 2 is what a connected task finds, or what somebody put in, if only nothing."""
    return not isinstance(detections, NoDetections) or detections.is_filled


class TaskWithDetections(dataprocess.CSemanticSegmentationTask):
    """A task of Ikomia with an input for detections behind those of the image and the graphics."""

    def __init__(self, name: str) -> None:
        dataprocess.CSemanticSegmentationTask.__init__(self, name)
        self.add_input(NoDetections())
        self._put_in: Any = None  #: into input 2 from Python, and held: else it came back in another wrapper
        # Ikomia empties the outputs when an edge is deleted, and before a run, in which it then fills the connected inputs.
        self.set_output(OverlaidImage(while_alive(self, TaskWithDetections._disconnect)), 0)

    def set_input(self, task_io: Any, index: int) -> None:
        """Put something into an input by hand, or take it out of input 2 by None; Ikomia connects tasks another way (0.15.1,
        0.16.1)."""
        if index == 2:
            self._put_in = task_io
            task_io = NoDetections() if task_io is None else task_io
        super().set_input(task_io, index)

    @in_a_sentence
    def update_static_outputs(self) -> None:
        """Called by Ikomia with a new input, before anything else: it fails in OpenCV at an image of float16 (0.16.1), and says
        nothing of it."""
        image = self.get_input(0)  # None before there is one, and a path while a folder is given
        if (
            isinstance(image, dataprocess.CImageIO)
            and image.is_data_available()
            and image.get_image().dtype == np.float16
        ):
            empty(self)  # or what the image before gave would stay
            raise ValueError(
                'The input image holds float16, which Ikomia does not take; accepted is image.astype("float32").'
            )
        super().update_static_outputs()

    def _disconnect(self) -> None:
        """Take away the detections and graphics of other tasks; those still connected give them again before a run.

        In place of a deleted edge ikomia (0.16.1) leaves an empty output, as of a detector that finds nothing; of a deleted
        task it leaves what that gave last. What somebody put into input 2 by hand stays.
        """
        given = self.get_input(2)
        if isinstance(given, NoDetections) or given is not self._put_in:
            self.set_input(NoDetections(), 2)
        if are_graphics_connected(self.get_input(1)):
            self.set_input(dataprocess.CGraphicsInput(), 1)
