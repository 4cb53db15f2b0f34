"""A folder in which Python finds torch, torchvision and what they need, and nothing else of an environment.

`python torch_only.py FOLDER`, run by the environment that has them. The folder holds links: an environment that is to show what
installing the plugin does needs a torch first, and a second one would take gigabytes and minutes.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def needed(names: list[str]) -> dict[str, Distribution]:
    """The installed distributions of these names and all that they require here."""
    found: dict[str, Distribution] = {}
    while names:
        name = re.match(r"[\w.-]+", names.pop()).group().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # required elsewhere: on another system, or by an extra
            continue
        names += [line for line in found[name].requires or [] if "extra ==" not in line]
    return found


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for found in needed(["torch", "torchvision"]).values():
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(found.locate_file(top)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
