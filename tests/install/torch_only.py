"""A folder in which Python finds torch, torchvision and what they need, and nothing else of an environment.

`python torch_only.py FOLDER`, run by the environment that has them. The folder holds links: an environment that is to show what
installing the plugin does needs a torch first, and a second one would take gigabytes and minutes.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(names: list[str]) -> dict[str, Distribution]:
    """The installed distributions of these names and all that they require here."""
    found: dict[str, Distribution] = {}
    asked = [Requirement(name) for name in names]
    seen = set()
    while asked:
        wanted = asked.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = distribution(key[0])
        for requirement in map(Requirement, found[key[0]].requires or []):
            extras = wanted.extras | {""}
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
                asked.append(requirement)
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
