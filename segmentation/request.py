"""What one run asks of a model: the one place where parameters become the objects or the search of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .messages import listed, short
from .objects import Object, are_fractions, match_labels, typed_objects
from .parameters import Parameters
from .prompt_text import swapped_boxes
from .search import AutomaticSettings

#: No logit of a model is greater: masks cut here are as empty, or as full, as masks cut farther out.
MAX_LOGIT = 1e30

DEFAULTS = AutomaticSettings()


@dataclass(frozen=True)
class Request:
    """Masks of `objects`, or by `search` of everything in the image.

    Attributes:
        objects: what is pointed at, none at all perhaps; also empty with a search.
        search: settings of automatic mode; None where objects are pointed at.
        multimask_output: three candidates for each object instead of one.
        mask_id: which of the three: all, best (of each object the one with the highest predicted IoU), 1, 2 or 3.
        mask_threshold: logit above which a pixel belongs to the mask of an object.
        input_size_percent: the image is looked at in this size.
    """

    objects: list[Object]
    search: AutomaticSettings | None
    multimask_output: bool
    mask_id: str
    mask_threshold: float
    input_size_percent: int


def is_typed(parameters: Parameters) -> bool:
    """Whether objects are typed, if only none: '[]'."""
    return any(text not in ("", "None", "null") for text in (parameters.input_point, parameters.input_box))


def objects_of(parameters: Parameters, image_hw: tuple[int, int]) -> list[Object] | None:
    """The objects that are typed, checked against an image of that height and width; None where nothing is typed.

    An empty list, '[]', says that there is no object, unless another typed prompt holds one.

    Raises:
        ValueError: as :func:`.objects.typed_objects`.
    """
    if not is_typed(parameters):  # labels may be those of drawn points
        return None
    points, boxes = parameters.input_point.value, parameters.input_box.value
    return (
        typed_objects(points, parameters.input_point_label.value, boxes, image_hw) if len(points) or len(boxes) else []
    )


def doubts_about(parameters: Parameters, image_hw: tuple[int, int]) -> list[str]:
    """What is probably a mistake in the typed prompts, in an image of that height and width: a sentence each."""
    doubts = []
    points = parameters.input_point.value
    xy = np.concatenate(points) if isinstance(points, list) else points
    for name, coordinates in (("input_point", xy), ("input_box", parameters.input_box.value)):
        if are_fractions(coordinates) and image_hw[0] * image_hw[1] > 2:
            doubts.append(
                f"{name}: the coordinates {short(str(getattr(parameters, name)))} look like fractions of width and height. "
                "They count as pixels of the original image."
            )
    for number, box in swapped_boxes(parameters.input_box).items():
        doubts.append(
            f"input_box: entry {number}, {listed(box)}, was read as two corners in the wrong order. Is it x, y, width, height? "
            "A box is x0, y0, x1, y1."
        )
    return doubts


def make_request(parameters: Parameters, objects: list[Object] | None, image_hw: tuple[int, int]) -> Request:
    """The request for an image of that height and width: masks of `objects`, or a search where they are None.

    Raises:
        ValueError: a search that :meth:`.AutomaticSettings.check` refuses, or labels of no points.
    """
    if objects is None:
        match_labels(parameters.input_point_label.value, 0)
    return Request(
        objects or [],
        _search(parameters, image_hw) if objects is None else None,
        parameters.multimask_output and not parameters.track,
        parameters.mask_id,
        _as_logit(parameters.mask_threshold),
        parameters.input_size_percent,
    )


def _search(parameters: Parameters, image_hw: tuple[int, int]) -> AutomaticSettings:
    settings = AutomaticSettings(
        points_per_side=parameters.points_per_side,
        point_grids=parameters.point_grids.value,
        points_per_batch=parameters.points_per_batch,
        pred_iou_thresh=parameters.iou_thresh,
        stability_score_thresh=parameters.stability_score_thresh,
        stability_score_offset=_as_logit(parameters.stability_score_offset),
        mask_threshold=_as_logit(parameters.mask_threshold),
        box_nms_thresh=parameters.box_nms_thresh,
        crop_n_layers=parameters.crop_n_layers,
        crop_nms_thresh=parameters.crop_nms_thresh,
        crop_overlap_ratio=parameters.crop_overlap_ratio,
        crop_n_points_downscale_factor=parameters.crop_n_points_downscale_factor,
        # A larger area than the image's removes no more.
        min_mask_region_area=min(parameters.min_mask_region_area, image_hw[0] * image_hw[1] + 1),
        min_mask_area=parameters.min_mask_area,
        max_mask_area=parameters.max_mask_area,
        use_m2m=parameters.use_m2m,
        multimask_output=parameters.multimask_output and not parameters.track,
    )
    settings.check()
    return settings


def _as_logit(threshold: float) -> float:
    """A threshold that float32 holds, and that stays finite when an offset is added to it, with the same masks."""
    return min(max(threshold, -MAX_LOGIT), MAX_LOGIT)


def ways_to_more(parameters: Parameters) -> str:
    """What to do where a search found nothing: every threshold that can have dropped all masks, with its value."""
    p = parameters
    is_measured = p.stability_score_thresh > 0
    can_drop = {
        "iou_thresh": p.iou_thresh > 0,
        "stability_score_thresh": is_measured,
        "stability_score_offset": is_measured and p.stability_score_offset > DEFAULTS.stability_score_offset,
        "mask_threshold": p.mask_threshold > DEFAULTS.mask_threshold,
        "min_mask_area": p.min_mask_area > 0,
    }
    lower = _one_of([f"{name} ({short(getattr(p, name))})" for name, drops in can_drop.items() if drops])
    largest = [f"max_mask_area ({short(p.max_mask_area)})"] if p.max_mask_area else []
    points = "points_per_side" if p.point_grids.value is None else "the number of points in point_grids"
    higher = _one_of([*largest, points])
    return f"lower {lower}, or raise {higher}" if lower else f"raise {higher}"


def _one_of(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
