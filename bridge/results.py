"""What can be had of the masks of a task: pictures, polygons and files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infer_segment_anything_2.bridge.connections import TaskWithDetections
from infer_segment_anything_2.bridge.wire import SAVE_COCO, SAVE_LABELS, News
from infer_segment_anything_2.segmentation.export import get_polygons, save_coco, save_labels, save_yolo
from infer_segment_anything_2.segmentation.masks import Masks
from infer_segment_anything_2.segmentation.polygons import DEFAULT_TOLERANCE, Polygon

logger = logging.getLogger(__name__)


class TaskWithMasks(TaskWithDetections):
    """A task of Ikomia whose last run gave masks."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._masks: list[Masks] = []  #: of the last run

    def get_image_with_mask(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB: the image with the masks of output 1 in their colours, its background untouched."""
        return self.get_output(0).get_image_with_mask(self.get_output(1))

    def get_masks(self) -> list[Masks]:
        """The masks of the last run: one set, or with multimask_output and a prompt three, one for each candidate."""
        # Ikomia empties the outputs before each run: after one that failed nothing of an earlier image is left to be saved.
        return list(self._masks) if self.get_output(1).is_data_available() else []

    def get_polygons(self, candidate: int = 0, tolerance: float = DEFAULT_TOLERANCE) -> list[list[Polygon]]:
        """The outlines of the masks of the last run: for each mask a list with one polygon (P, 2) for each of its parts.

        Args:
            candidate: 0, 1 or 2 with multimask_output and a prompt.
            tolerance: how far in pixels a polygon may run from the edges of the mask's pixels; 0: it is exact.
        """
        return get_polygons(self._candidate(candidate), tolerance)

    def save_coco(
        self,
        path: str,
        file_name: str = "",
        candidate: int = 0,
        polygons: bool = False,
        tolerance: float = DEFAULT_TOLERANCE,
    ) -> None:
        """Write all masks of the last run with scores and boxes as a COCO JSON file.

        Args:
            path: the file to write; one that is there is replaced.
            file_name: what the file says the image is called; empty: as the file that Ikomia read it from, or "image".
            candidate: 0, 1 or 2 with multimask_output and a prompt.
            polygons: polygons in place of run lengths.
            tolerance: of the polygons, as in :meth:`get_polygons`.
        """
        name = file_name or Path(self.get_input(0).source_file_path).name or "image"
        save_coco(path, {name: self._candidate(candidate)}, polygons, tolerance)

    def save_yolo(
        self, path: str, candidate: int = 0, tolerance: float = DEFAULT_TOLERANCE, names: Sequence[str] = ()
    ) -> None:
        """Write all masks of the last run as YOLO's segmentation labels, and the names of classes into data.yaml beside them.

        Args:
            path: the text file to write; one that is there is replaced, while names in data.yaml keep their indices.
            candidate: 0, 1 or 2 with multimask_output and a prompt.
            tolerance: how far in pixels a polygon may run from the exact one.
            names: the first classes, in the order of their indices, so that several folders have the same.
        """
        save_yolo(path, self._candidate(candidate), tolerance, names)

    def save_labels(self, path: str, candidate: int = 0) -> None:
        """Write all masks of the last run as one PNG or TIFF of labels; of 16 bits a pixel beyond 255 masks."""
        save_labels(path, self._candidate(candidate))

    def _candidate(self, index: int) -> Masks:
        masks = self.get_masks()
        if not masks:
            raise ValueError("There are no masks to save yet: run the workflow first.")
        if index not in range(len(masks)):
            raise ValueError(f"candidate is {index!r}; accepted is 0 to {len(masks) - 1} after the last run.")
        return masks[index]

    def execute_actions(self, action: int) -> None:
        """Called by Studio for the panel: save the masks where it says. A fault is told there, not in a dialog of Studio's."""
        own = self.get_param_object()
        try:
            if action == SAVE_COCO:
                self.save_coco(own.save_path)
            elif action == SAVE_LABELS:
                self.save_labels(own.save_path)
        except (OSError, ValueError) as error:
            logger.error("%s", error)
            own.news = News(str(error), is_fault=True)
        else:
            own.news = News(f"Saved: {own.save_path}")
