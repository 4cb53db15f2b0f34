"""The package that Ikomia's hub hands out: a zip of what git tracks, flat, as the hub's client unpacks it.

`make package`, or `python tests/tools/package.py out.zip`.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked_files() -> list[str]:
    """What git tracks, in order, as it is in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def write_package(path: Path, replace: dict[str, bytes] | None = None) -> None:
    """Write the zip; the same files give the same bytes.

    Args:
        path: the zip to write.
        replace: other contents for some of the files.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name in tracked_files():
            entry = zipfile.ZipInfo(name, date_time=(2024, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = ((ROOT / name).stat().st_mode & 0o777) << 16
            package.writestr(entry, (replace or {}).get(name, (ROOT / name).read_bytes()))


if __name__ == "__main__":
    out = Path(sys.argv[1])
    write_package(out)
    with zipfile.ZipFile(out) as package:
        print(f"{out}: {len(package.namelist())} files, {out.stat().st_size / 1e6:.1f} MB")
