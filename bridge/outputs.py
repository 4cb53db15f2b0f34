"""What goes out to a workflow: which outputs there are, and masks as label images and instances."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from ikomia import core, dataprocess

from infer_segment_anything_2.segmentation.images import Range, to_rgb8
from infer_segment_anything_2.segmentation.masks import MAX_LABELS, Masks
from infer_segment_anything_2.segmentation.painting import class_colours, class_names, label_image, overlay
from infer_segment_anything_2.segmentation.parameters import Parameters

Task = TypeVar("Task", bound=dataprocess.CSemanticSegmentationTask)


def while_alive(task: Task, act: Callable[[Task], object]) -> Callable[[], None]:
    """A function that does `act` to `task` and does not hold it: for its parameters and outputs, which would keep it alive."""
    reference = weakref.ref(task)

    def act_on_it() -> None:
        living = reference()
        if living is not None:
            act(living)

    return act_on_it


class OverlaidImage(dataprocess.CImageIO):
    """An image that shows masks over itself without darkening what is not masked.

    ikomia's own overlay (seen in 0.15.1 and 0.16.1) blends the background with its colour, black, and fails on images
    with an alpha channel.

    Args:
        when_emptied: called whenever ikomia empties it: before each run, and when an edge to its task is deleted.
    """

    def __init__(self, when_emptied: Callable[[], Any] = lambda: None) -> None:
        dataprocess.CImageIO.__init__(self, core.IODataType.IMAGE)
        self.intensity_range: Range | None = None  #: of the run whose image this is
        self._when_emptied = when_emptied

    def clear_data(self) -> None:
        """Forget the image."""
        dataprocess.CImageIO.clear_data(self)
        self._when_emptied()

    def get_image_with_mask(self, mask_io: dataprocess.CSemanticSegmentationIO) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB: the image with the masks of `mask_io` in their colours, or without any before a run."""
        if not self.is_data_available():
            raise ValueError("There is no image to show yet: run the workflow first.")
        image, labels = to_rgb8(self.get_image(), self.intensity_range), mask_io.get_mask()
        return overlay(image, labels, mask_io.get_colors()) if labels.shape == image.shape[:2] else image


def candidates_of(parameters: Parameters) -> int:
    """How many label images there are: three with multimask_output, unless mask_id chooses one, or objects are followed."""
    return 3 if parameters.multimask_output and parameters.mask_id == "all" and not parameters.track else 1


def declare(task: dataprocess.CSemanticSegmentationTask, parameters: Parameters) -> None:
    """Give `task` the outputs that follow from its parameters, so that other tasks can be connected to them before a run.

    0 the image, 1 the label image, with multimask_output and all of its candidates 2 and 3 those of the other ones, last the
    instances if wanted.
    """
    wanted = [dataprocess.CSemanticSegmentationIO] * (candidates_of(parameters) - 1)
    if parameters.instance_output:
        wanted.append(dataprocess.CInstanceSegmentationIO)
    if [type(task.get_output(k)) for k in range(2, task.get_output_count())] == wanted:
        return
    while task.get_output_count() > 2:
        task.remove_output(task.get_output_count() - 1)
    for kind in wanted:
        task.add_output(kind())


def empty(task: dataprocess.CSemanticSegmentationTask) -> None:
    """Forget what the last run of `task` gave; no edge was deleted, and none has to be looked at."""
    for k in range(1, task.get_output_count()):
        task.get_output(k).clear_data()
    dataprocess.CImageIO.clear_data(task.get_output(0))


def publish(
    task: dataprocess.CSemanticSegmentationTask,
    candidates: Sequence[Masks],
    parameters: Parameters,
    warn: Callable[[str], None],
) -> None:
    """Fill the outputs of `task` with one label image for each candidate, and with instances; none of an earlier run stays."""
    declare(task, parameters)
    # Held: others may set parameters meanwhile, with which some of them go.
    outputs = [task.get_output(k) for k in range(1, task.get_output_count())]
    for output in outputs:
        output.clear_data()
    # In automatic mode there is one candidate: the other label images are empty.
    none = candidates[0].take([])
    for k in range(candidates_of(parameters)):
        _fill_labels(outputs[k], candidates[k] if k < len(candidates) else none, warn)
    if parameters.instance_output:
        _fill_instances(outputs[-1], task.name, candidates)


def _fill_labels(output: dataprocess.CSemanticSegmentationIO, masks: Masks, warn: Callable[[str], None]) -> None:
    if len(masks) > MAX_LABELS:  # Ikomia's label image has 8 bits: one of 16 raises in its OpenCV (0.16.1)
        warn(
            f"A label image holds {MAX_LABELS} masks: {len(masks) - MAX_LABELS} of the {len(masks)} are not painted. "
            "instance_output = True gives all of them."
        )
    names = class_names(masks)
    output.set_class_names(names)
    output.set_class_colors(class_colours(len(names) - 1))
    output.set_mask(label_image(masks))


def _fill_instances(output: dataprocess.CInstanceSegmentationIO, task_name: str, candidates: Sequence[Masks]) -> None:
    """Each mask as an instance: a named object with its label, id and confidence, another with the predicted IoU."""
    height, width = candidates[0].image_hw
    output.init(task_name, 0, width, height)
    number = 0
    classes: dict[str, int] = {}  # one index for each distinct label, from 0
    for masks in candidates:
        colours = class_colours(len(masks))
        for k, (mask, (x0, y0, x1, y1)) in enumerate(zip(masks, masks.boxes_xyxy.tolist(), strict=True)):
            label = masks.name_of(k) or f"mask {k + 1}"
            given_id = masks.ids[k] if masks.ids else None
            confidence = masks.confidences[k] if masks.confidences else None
            output.add_object(
                number if given_id is None else given_id,
                0,
                classes.setdefault(label, len(classes)),
                label,
                float(masks.scores[k]) if confidence is None else confidence,
                x0,
                y0,
                x1 - x0,
                y1 - y0,
                np.ascontiguousarray(mask, np.uint8),
                colours[k + 1],
            )
            number += 1
