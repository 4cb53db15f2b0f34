"""Put the package where Ikomia looks for plugins, and run the hub's test of it, infer_segment_anything_2_test.py.

For environments that are thrown away, on any system: `python tests/install/hub_entry.py`, once ikomia, torch and what
requirements.txt names are there.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.package import write_package

NAME = "infer_segment_anything_2"


def install() -> Path:
    """Unpack the package into the plugins folder; SystemExit if a plugin of this name is there."""
    from ikomia.dataprocess.registry import ik_registry

    folder = Path(ik_registry.get_plugins_directory(), "Python", NAME)
    if folder.exists():
        sys.exit(f"{folder} is there already: this is for environments that are thrown away.")
    with tempfile.TemporaryDirectory() as temporary:
        package = Path(temporary, "package.zip")
        write_package(package)
        with zipfile.ZipFile(package) as archive:
            archive.extractall(folder)
    return folder


def main() -> int:
    """Install and test; returns the exit status."""
    print(f"ikomia {version('ikomia')}, torch {version('torch')}, Python {sys.version.split()[0]}, {sys.platform}")
    print(install())
    from ikomia.dataprocess.workflow import Workflow

    task = Workflow().add_task(name=NAME, auto_connect=True)
    entry = importlib.import_module(f"{NAME}.{NAME}_test")
    statuses = [status for _, status in entry.test(task, {})]
    print("\n".join(statuses))
    return int(len(statuses) != len(entry.RUNS) or any(status != "OK" for status in statuses))


if __name__ == "__main__":
    sys.exit(main())
