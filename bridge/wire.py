"""Parameters as Ikomia carries them: all values as text, in workflow files, from Studio and from `set_parameters`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ikomia.core.task import TaskParam

from infer_segment_anything_2.bridge.errors import in_a_sentence
from infer_segment_anything_2.segmentation.messages import short
from infer_segment_anything_2.segmentation.parameters import DECLARATION, Parameters, as_text, update

#: Parameter names of the published plugin, still read and written so that its workflows load. Ikomia drops names that
#: `get_values` does not return (0.16.1), so these are in every map, in both directions.
ALIASES = {"iou_thres": "iou_thresh"}


def to_text(parameters: Parameters) -> dict[str, str]:
    """All parameters as text, under every name that they may be set by."""
    values = as_text(parameters)
    return values | {alias: values[name] for alias, name in ALIASES.items()}


def from_text(current: Parameters, values: Mapping[str, str]) -> Parameters:
    """`current` with `values` put in their place.

    Ikomia always sends the full map, so both names of a parameter come: the one that differs from the current value counts,
    and where both do, the parameter's own name.

    Raises:
        ValueError: as :func:`.parameters.update`.
    """
    own = {name: value for name, value in values.items() if name not in ALIASES}
    shown_as = {}
    for alias, name in ALIASES.items():
        if alias in values and _is_as_before(own.get(name), getattr(current, name)):
            own[name] = values[alias]
            shown_as[name] = alias
    return update(current, own, shown_as)


def check_names(names: Mapping[str, str]) -> None:
    """Refuse a name that no parameter has, which Ikomia itself passes over in silence (0.16.1); ValueError."""
    known = [*DECLARATION, *ALIASES]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.7)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"{short(name)[1:-1]}: there is no such parameter{hint}; accepted are {', '.join(known)}.")


def _is_as_before(text: str | None, value: float) -> bool:
    """Whether `text` is missing, or is that number, however it is written: 1 and 1.0."""
    if text is None:
        return True
    try:
        return float(text) == value
    except (TypeError, ValueError):
        return False


#: Actions that the panel asks of the task.
SAVE_COCO, SAVE_LABELS = 1, 2


class News(NamedTuple):
    """What the task has to tell in the panel: a warning or an answer, or a fault."""

    text: str = ""
    is_fault: bool = False


class InferSegmentAnything2Param(TaskParam):
    """The parameters as Ikomia keeps them: text outside, :class:`Parameters` inside."""

    def __init__(self) -> None:
        TaskParam.__init__(self)
        self.values = Parameters()
        self.when_set: Callable[[], Any] = lambda: None  #: called with every change
        # Panel and task have this object in common. What follows is no parameter, and is not saved.
        self.news = News()  #: of the last run, stroke or action, for the panel
        self.save_path = ""  #: where an action of the panel saves to
        # Kept here, since Studio builds a panel anew, and with its first run the parameters, while what is drawn stays.
        self.objects = 1  #: named or not, that were drawn
        self.drawn_name = ""  #: of what is drawn next
        self.draws_background = False  #: what is drawn next is off its object

    def __deepcopy__(self, memo: dict) -> InferSegmentAnything2Param:
        """The same values for another task, and what is being drawn."""
        made = InferSegmentAnything2Param()
        made.values, made.objects = self.values, self.objects
        made.drawn_name, made.draws_background = self.drawn_name, self.draws_background
        return made

    def count(self, names: Iterable[str]) -> None:
        """Let Next object give none of the names that are drawn already, in a workflow that was loaded for example."""
        numbers = [int(found[1]) for name in names if (found := re.fullmatch(r"object (\d{1,6})", name))]
        self.objects = max([self.objects, *numbers])

    @in_a_sentence
    def set_values(self, params: dict[str, str]) -> None:
        """Take new values; raises ValueError and changes nothing when one of them is not accepted."""
        self.values = from_text(self.values, {name: params[name] for name in params})
        self.when_set()

    def get_values(self) -> dict[str, str]:
        """All values as text, under every name that they may be set by."""
        return to_text(self.values)
