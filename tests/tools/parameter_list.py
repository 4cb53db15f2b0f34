"""The README's table of parameters, from their declaration: `python tests/tools/parameter_table.py` prints it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def table() -> str:
    """A Markdown table with a row per parameter: name, type, default, what is accepted, help."""
    from infer_segment_anything_2.segmentation import parameters as p

    alias_of = {name: alias for alias, name in p.ALIASES.items()}
    rows = ["| name | type | default | accepted | what it does |", "| --- | --- | --- | --- | --- |"]
    for name, field in p.DECLARATION.items():
        default = str(field.default) or "empty"
        if field.default_factory:
            default = "True where there is a CUDA device"
        elif name == "crop_overlap_ratio":
            default = "512 / 1500"
        also = f", `{alias_of[name]}`" if name in alias_of else ""
        accepted = p.accepted(name) if name != "model_name" else "one of the names under [Models](#models)"
        rows.append(f"| `{name}`{also} | {p.type_name(name)} | {default} | {accepted} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "infer_segment_anything_2").symlink_to(ROOT)
        sys.path.insert(0, folder)
        sys.stdout.write(table() + "\n")
