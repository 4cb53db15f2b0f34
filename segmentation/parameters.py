"""The plugin's parameters, each declared once: name, type, default, accepted values and help.

Parsing, the limits in the panel and the list in the README follow from this declaration. A value may come as text or typed;
it is parsed once, when it is set.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypedDict, TypeVar, cast, get_origin

import annotated_types
import numpy as np
import numpy.typing as npt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from . import prompt_text
from .checkpoints import MODEL_NAMES
from .messages import not_accepted, short
from .objects import match_labels, match_nested_labels
from .search import check_areas

MODEL, PROMPT, AUTOMATIC, ADVANCED, OUTPUT = "Model", "Prompt", "Automatic mode", "Advanced", "Output"


def cuda_is_available() -> bool:
    """Whether torch sees a CUDA device. Where there is no driver of one, torch is not imported to ask: that takes seconds,
    and a task is added, and its panel opened, with this question."""
    if not _gpu_driver_is_installed():
        return False
    import torch

    return torch.cuda.is_available()


def _gpu_driver_is_installed() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return os.path.exists("/dev/kfd")  # AMD's, whose devices torch built for ROCm calls cuda
    return True


def _one_of(choices: Collection[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of the choices")
        return value

    return AfterValidator(check)


def _lower_text(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else str(value) if type(value) is int else value


def _none_from_text(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in ("none", "") else value


def _empty_from_none(value: Any) -> Any:
    return "" if value is None or (isinstance(value, str) and value.strip() == "None") else value


#: What mask_id may be, and what it means.
MASK_IDS = {
    "all": "All three, as outputs 1 to 3.",
    "best": "Of each object the one with the highest predicted IoU.",
    "1": "Of each object the first.",
    "2": "Of each object the second.",
    "3": "Of each object the third.",
}

FileName = Annotated[str, BeforeValidator(_empty_from_none)]


T = TypeVar("T")


class JsonText(str, Generic[T]):
    """The text of a parameter, with what it says in `value`: it is parsed once, when it is set."""

    value: T

    def __new__(cls, text: str, value: Any = None) -> JsonText[T]:
        """`text`, which says `value`."""
        made = super().__new__(cls, text)
        made.value = value
        return made


def _parsed_by(parse: Callable[[str], Any]) -> PlainValidator:
    """The text with what `parse` finds in it; lists and numbers count as what str() makes of them."""

    def check(value: Any) -> JsonText[Any]:
        if isinstance(value, JsonText):
            return value
        text = str(value).strip()
        return JsonText(text, parse(text))

    return PlainValidator(check)


class About(TypedDict):
    """What the declaration of a parameter says beside pydantic's own fields.

    `accepted` is empty where type and limits say it; `choices` are all values where there are a few, with what they mean;
    `step` is how far one click on an arrow changes a number.
    """

    group: str
    accepted: str
    choices: Mapping[str, str]
    step: float | None
    example: str


def _declare(
    default: Any,
    group: str,
    label: str,
    help: str,
    accepted: str = "",
    *,
    choices: Mapping[str, str] | None = None,
    step: float | None = None,
    example: str = "",
    **limits: Any,
) -> Any:
    if callable(default):
        limits["default_factory"] = default
    else:
        limits["default"] = default
    extra: Any = About(group=group, accepted=accepted, choices=choices or {}, step=step, example=example)
    return Field(title=label, description=help, json_schema_extra=extra, **limits)


Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Parameters(BaseModel):
    """Values of all parameters; immutable, so that a set that is refused leaves the old one untouched."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_name: Annotated[str, _one_of(MODEL_NAMES)] = _declare(
        "sam2_hiera_small",
        MODEL,
        "Model name",
        "Which SAM 2 model segments. Larger ones are more exact and slower; sam2_hiera_nano is bundled and only for "
        "trying out.",
        "one of " + ", ".join(MODEL_NAMES),
        choices=dict.fromkeys(MODEL_NAMES, ""),
    )
    model_weight_file: FileName = _declare(
        "",
        MODEL,
        "Own weights",
        "A fine-tuned SAM 2 of your own (.pt, .ckpt, .safetensors); it is used instead of the download of model_name.",
        "the path of a file, or empty",
    )
    config_file: FileName = _declare(
        "",
        MODEL,
        "Config of own weights",
        "The YAML file that describes the architecture of model_weight_file; empty: the architecture of model_name.",
        "the path of a YAML file, a config name inside the sam2 package, or empty",
    )
    cuda: bool = _declare(
        cuda_is_available,
        MODEL,
        "Use the GPU (CUDA)",
        "Compute on the GPU. Without one the CPU computes, and a warning says so.",
    )
    apply_postprocessing: bool = _declare(
        True,
        MODEL,
        "Postprocessing",
        "Where a single mask is unstable, take the best of the three masks instead (sam2's dynamic multimask).",
    )
    input_size_percent: int = _declare(
        100,
        MODEL,
        "Image size (%)",
        "Size at which the image is segmented, in percent of its own. Less saves memory; masks keep the original size.",
        ge=1,
        le=100,
        step=5,
    )
    intensity_range: Annotated[JsonText[tuple[float, float] | None], _parsed_by(prompt_text.parse_intensity_range)] = (
        _declare(
            JsonText("", prompt_text.parse_intensity_range("")),
            MODEL,
            "Black and white",
            "The values of the image that are shown to the model as black and as white, such as [0, 4095] for 12 bits; empty: "
            "found in each image.",
            prompt_text.RANGE_FORM,
            example="[0, 4095]",
        )
    )
    input_box: Annotated[JsonText[npt.NDArray[np.float32]], _parsed_by(prompt_text.parse_boxes)] = _declare(
        JsonText("", prompt_text.parse_boxes("")),
        PROMPT,
        "Boxes",
        "Box prompts, one object each; [] says that there is none.",
        prompt_text.BOX_FORM,
        example="[40, 30, 200, 180]",
    )
    input_point: Annotated[JsonText[prompt_text.Points], _parsed_by(prompt_text.parse_points)] = _declare(
        JsonText("", prompt_text.parse_points("")),
        PROMPT,
        "Points",
        "Point prompts. A list of points is one object, a list of such lists one object each.",
        prompt_text.POINT_FORM,
        example="[[120, 80], [60, 90]]",
    )
    input_point_label: Annotated[JsonText[prompt_text.Labels], _parsed_by(prompt_text.parse_labels)] = _declare(
        JsonText("", prompt_text.parse_labels("")),
        PROMPT,
        "Point labels",
        "For each point whether it is on the object (1) or off it (0); empty: all 1.",
        prompt_text.LABEL_FORM,
        example="[1, 0]",
    )
    multimask_output: bool = _declare(
        False,
        PROMPT,
        "Three masks",
        "Ask the model for three candidate masks instead of one: of a prompt they are outputs 1 to 3, in automatic mode every "
        "grid point gives three. One point is often ambiguous (a button, the shirt, the person).",
    )
    mask_id: Annotated[str, _one_of(MASK_IDS), BeforeValidator(_lower_text)] = _declare(
        "all",
        PROMPT,
        "Candidates",
        "With multimask_output and a prompt, which of an object's three masks are given: all of them as outputs 1 to 3, or as "
        "output 1 alone the best (highest predicted IoU), or the first, second or third.",
        "all, best, 1, 2 or 3",
        choices=MASK_IDS,
    )
    live: bool = _declare(
        True,
        PROMPT,
        "Segment while drawing",
        "While you draw, each stroke segments at once, with the values applied last. It begins after the first run, which "
        "loads the model.",
    )
    track: bool = _declare(
        False,
        PROMPT,
        "Follow through a video",
        "Each run is the next frame of a video: what is marked in the first one, or found there, is followed through the "
        "others. multimask_output is ignored then.",
    )
    points_per_side: Annotated[int | None, BeforeValidator(_none_from_text)] = _declare(
        32,
        AUTOMATIC,
        "Points per side",
        "Automatic mode prompts the model with a grid of this many by this many points. None: those of point_grids.",
        ge=1,
        step=1,
    )
    point_grids: Annotated[
        JsonText[list[npt.NDArray[np.float64]] | None], _parsed_by(prompt_text.parse_point_grids)
    ] = _declare(
        JsonText("", prompt_text.parse_point_grids("")),
        ADVANCED,
        "Point grids",
        "Your own points in place of the grid; needs points_per_side = None.",
        prompt_text.GRID_FORM,
        example="[[[0.2, 0.5]]]",
    )
    points_per_batch: int = _declare(
        64,
        ADVANCED,
        "Points per batch",
        "Points decoded at once on a GPU; fewer where its memory runs out. A CPU takes as many as its cache holds.",
        ge=1,
        step=8,
    )
    iou_thresh: Fraction = _declare(
        0.8,
        AUTOMATIC,
        "Predicted IoU, at least",
        "Masks that the model itself rates lower are dropped.",
        step=0.05,
    )
    stability_score_thresh: Fraction = _declare(
        0.95,
        AUTOMATIC,
        "Stability, at least",
        "Masks with vague borders are dropped: cut a little more and a little less strictly, they still have to agree this "
        "much (IoU).",
        step=0.01,
    )
    stability_score_offset: float = _declare(
        1.0,
        ADVANCED,
        "Stability offset",
        "How far the cutoff is shifted to measure stability, in logits.",
        ge=0,
        allow_inf_nan=False,
        step=0.1,
    )
    mask_threshold: float = _declare(
        0.0,
        ADVANCED,
        "Mask threshold",
        "Logit above which a pixel belongs to the mask; for prompts too.",
        "any finite number",
        allow_inf_nan=False,
        step=0.1,
    )
    box_nms_thresh: Fraction = _declare(
        0.7,
        AUTOMATIC,
        "Duplicates above IoU",
        "Of masks whose boxes overlap more than this (IoU), the best stays.",
        step=0.05,
    )
    crop_n_layers: int = _declare(
        0,
        ADVANCED,
        "Crop layers",
        "Also search crops of the image: layer i has 2^i x 2^i of them. Finds smaller objects, takes longer.",
        ge=0,
        step=1,
    )
    crop_nms_thresh: Fraction = _declare(
        0.7,
        ADVANCED,
        "Crop duplicates above IoU",
        "The same as box_nms_thresh between different crops.",
        step=0.05,
    )
    crop_overlap_ratio: float = _declare(
        512 / 1500,
        ADVANCED,
        "Crop overlap",
        "How far crops overlap, as a fraction of the image's shorter side in the first layer.",
        ge=0,
        lt=1,
        allow_inf_nan=False,
        step=0.05,
    )
    crop_n_points_downscale_factor: int = _declare(
        1,
        ADVANCED,
        "Crop point factor",
        "points_per_side is divided by this to the power of the crop layer.",
        ge=1,
        step=1,
    )
    min_mask_region_area: int = _declare(
        0,
        AUTOMATIC,
        "Smallest region (px)",
        "Holes and islands of a mask smaller than this many pixels are removed.",
        ge=0,
        step=10,
    )
    min_mask_area: int = _declare(
        0,
        AUTOMATIC,
        "Smallest mask (px)",
        "Whole masks of fewer pixels are dropped, counted in the original image. 0: no limit.",
        ge=0,
        step=100,
    )
    max_mask_area: int = _declare(
        0,
        AUTOMATIC,
        "Largest mask (px)",
        "Whole masks of more pixels are dropped, counted in the original image. 0: no limit.",
        ge=0,
        step=100,
    )
    use_m2m: bool = _declare(
        True,
        ADVANCED,
        "Refine masks",
        "Feed each mask back to the model once. Smoother masks, twice the time; four times with multimask_output.",
    )
    instance_output: bool = _declare(
        False, OUTPUT, "Instance output", "Add a last output with each mask as an instance: score, box and mask."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        # Not JsonText, which is stripped already and would have to be parsed again.
        return value.strip() if type(value) is str else value

    @model_validator(mode="after")
    def _grid_or_grids(self) -> Parameters:
        if (self.point_grids.value is not None) != (self.points_per_side is None):
            raise ValueError(
                f"points_per_side: {short(self.points_per_side)} is not accepted with "
                f"point_grids: {short(str(self.point_grids))}; "
                "accepted is a number without point_grids, or None together with point_grids: set both in one call."
            )
        return self

    @model_validator(mode="after")
    def _smallest_and_largest(self) -> Parameters:
        check_areas(self.min_mask_area, self.max_mask_area)
        return self


DECLARATION: dict[str, FieldInfo] = dict(Parameters.model_fields)


class Limits(NamedTuple):
    """Bounds of a number, inclusive unless `maximum_is_open`; None where there is none."""

    minimum: float | None
    maximum: float | None
    maximum_is_open: bool


def limits(name: str) -> Limits:
    """The bounds of the parameter `name`."""
    minimum: Any = None
    maximum: Any = None
    is_open = False
    for rule in DECLARATION[name].metadata:
        if isinstance(rule, annotated_types.Ge):
            minimum = rule.ge
        elif isinstance(rule, annotated_types.Le):
            maximum = rule.le
        elif isinstance(rule, annotated_types.Lt):
            maximum, is_open = rule.lt, True
    return Limits(minimum, maximum, is_open)


def type_name(name: str) -> str:
    """The parameter's type as the README names it: str, bool, int, float, "int or None" or JSON."""
    annotation = DECLARATION[name].annotation
    if get_origin(annotation) is JsonText:
        return "JSON"
    return annotation.__name__ if isinstance(annotation, type) else "int or None"


def accepted(name: str) -> str:
    """What the parameter `name` accepts, in words."""
    text = about(name)["accepted"]
    if text:
        return text
    kind = type_name(name)
    if kind == "bool":
        return "True or False"
    low, high, is_open = limits(name)
    number = "a whole number" if kind.startswith("int") else "a number"
    if high is None:
        text = f"{number}, {low:g} or more"
    else:
        text = f"{number} from {low:g} to {'below ' if is_open else ''}{high:g}"
    return text + (", or None together with point_grids" if kind.endswith("None") else "")


def about(name: str) -> About:
    """What the declaration of the parameter `name` says beside its type and limits."""
    return cast(About, DECLARATION[name].json_schema_extra)


def label(name: str) -> str:
    """What the parameter `name` is called where people read it."""
    return DECLARATION[name].title or name


def faults(values: Mapping[str, Any]) -> dict[str, str]:
    """Why `values` (text or typed, without aliases) are refused: a sentence for each refused parameter; empty if none is."""
    try:
        Parameters(**values)
    except ValidationError as error:
        explained = [(e["loc"], _explain(e, {})) for e in error.errors()]
        # What is about two parameters begins with the name of the first.
        return {str(loc[0]) if loc else text.partition(":")[0]: text for loc, text in explained}
    return {}


def label_fault(parameters: Parameters) -> str:
    """What a run would say of typed points, labels and boxes that do not match; empty where they do, or where none are typed.

    No fault of the parameters themselves: the labels may be set first, or be those of drawn points.
    """
    points, labels = parameters.input_point.value, parameters.input_point_label.value
    boxes = parameters.input_box.value
    if not len(points) and not len(boxes):
        return ""
    try:
        if isinstance(points, list):
            match_nested_labels(points, labels, len(boxes))
        else:
            match_labels(labels, len(points))
    except ValueError as error:
        return str(error)
    return ""


def as_text(parameters: Parameters) -> dict[str, str]:
    """All parameters as text, by name."""
    return {name: str(value) for name, value in parameters}


def update(current: Parameters, values: Mapping[str, Any], shown_as: Mapping[str, str] | None = None) -> Parameters:
    """`current` with `values` (text or typed) put in their place; `current` itself is not changed.

    Args:
        current: the values before. Text that is as it was is not parsed again.
        values: by name.
        shown_as: what errors call a parameter that came under another name.

    Raises:
        ValueError: unknown names and refused values, each named, with what is accepted.
    """
    merged = dict(current)
    for name, value in values.items():
        if not (isinstance(merged.get(name), JsonText) and isinstance(value, str) and value == merged[name]):
            merged[name] = value
    try:
        return Parameters(**merged)
    except ValidationError as error:
        raise ValueError("\n".join(_explain(e, shown_as or {}) for e in error.errors())) from None


def _explain(error: Any, shown_as: Mapping[str, str]) -> str:
    """One sentence for one of pydantic's errors: the parameter, the value and what is accepted."""
    if not error["loc"]:  # of parameters that contradict each other
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    if name not in DECLARATION:
        return f"{name}: there is no such parameter; accepted are {', '.join(DECLARATION)}."
    if error["type"] == "value_error" and type_name(name) == "JSON":
        said = str(error["ctx"]["error"])
        if said.startswith(name):  # the parsers in prompt_text.py say which entry and why
            return said
    return not_accepted(shown_as.get(name, name), error["input"], accepted(name))
