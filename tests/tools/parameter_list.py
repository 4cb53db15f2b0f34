"""The README's list of parameters, from their declaration: `python tests/tools/parameter_list.py` prints it."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def parameter_list() -> str:
    """The parameters in Markdown, by group: names, default, help, and what is accepted where that is not True or False."""
    from infer_segment_anything_2.bridge.wire import ALIASES
    from infer_segment_anything_2.segmentation import checkpoints
    from infer_segment_anything_2.segmentation import parameters as p

    names = "|".join(map(re.escape, (*p.DECLARATION, *checkpoints.MODEL_NAMES)))
    alias_of = {name: alias for alias, name in ALIASES.items()}
    groups: dict[str, list[str]] = {}
    for name, field in p.DECLARATION.items():
        default = str(field.default) or "empty"
        if field.default_factory:
            default = "True where there is a CUDA device"
        elif name == "crop_overlap_ratio":
            default = "512 / 1500"
        accepted = p.accepted(name) if name != "model_name" else "one of the names under [Models](#models)"
        accepted = "" if p.type_name(name) == "bool" else f" *{accepted[0].upper()}{accepted[1:]}.*"
        also = f", also called `{alias_of[name]}`" if name in alias_of else ""
        text = re.sub(rf"(?<!\w)({names})(?!\w)", r"`\1`", field.description or "")
        groups.setdefault(field.json_schema_extra["group"], []).append(
            f"- **`{name}`** ({default}{also}): {text}{accepted}"
        )
    return "\n\n".join(f"### {group} parameters\n\n" + "\n".join(entries) for group, entries in groups.items())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "infer_segment_anything_2").symlink_to(ROOT)
        sys.path.insert(0, folder)
        sys.stdout.write(parameter_list() + "\n")
