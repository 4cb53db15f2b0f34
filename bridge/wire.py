"""Parameters as Ikomia carries them: all values as text, in workflow files, from Studio and from `set_parameters`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

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
