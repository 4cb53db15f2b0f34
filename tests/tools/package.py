"""The package that Ikomia's hub hands out: a zip of what git tracks, flat, as the hub's client unpacks it.

`make package`, or `python tests/tools/package.py out.zip`.

One file differs from the checkout: the hub shows README.md on its own site, where relative links lead nowhere, so that the
packed one links to GitHub.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PICTURES = "https://raw.githubusercontent.com/Ikomia-hub/infer_segment_anything_2/main/"
FILES = "https://github.com/Ikomia-hub/infer_segment_anything_2/blob/main/"
PICTURE_SUFFIXES = {".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp"}

#: Code, in which nothing is a link, or the target of a link or picture, in Markdown or HTML.
_CODE_OR_LINK = re.compile(
    r"""
    ^(?P<fence>`{3,}).*?^(?P=fence)\s*$
    | (?P<ticks>`+)[^`].*?(?P=ticks)
    | (?P<before>\]\(|\b(?:src|href)=")(?P<target>[^)"\s]+)
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def tracked_files() -> list[str]:
    """What git tracks, in order, as it is in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def with_absolute_links(markdown: str) -> str:
    """`markdown` of the repository's root with its relative links made absolute, those to anchors left as they are."""

    def absolute(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or re.match(r"[a-z][a-z0-9+.-]*:|//|#", target, re.IGNORECASE):
            return found[0]
        path = target.removeprefix("./")
        is_picture = Path(path.partition("#")[0]).suffix.lower() in PICTURE_SUFFIXES
        return found["before"] + (PICTURES if is_picture else FILES) + path

    return _CODE_OR_LINK.sub(absolute, markdown)


def write_package(path: Path, replace: dict[str, bytes] | None = None) -> None:
    """Write the zip; the same files give the same bytes.

    Args:
        path: the zip to write.
        replace: other contents for some of the files.
    """
    readme = with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"))
    contents = {"README.md": readme.encode()} | (replace or {})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name in tracked_files():
            entry = zipfile.ZipInfo(name, date_time=(2024, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = ((ROOT / name).stat().st_mode & 0o777) << 16
            package.writestr(entry, contents.get(name, (ROOT / name).read_bytes()))


if __name__ == "__main__":
    out = Path(sys.argv[1])
    write_package(out)
    with zipfile.ZipFile(out) as package:
        print(f"{out}: {len(package.namelist())} files, {out.stat().st_size / 1e6:.1f} MB")
