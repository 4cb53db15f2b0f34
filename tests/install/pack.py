"""Pack the installed plugin with the real packer of ikomia-cli, and look at what it would publish.

The last part of `make test-install`, in an environment where the plugin was installed from the hub and used.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from urllib.parse import urlparse

from ikcli.algos.local import Algo, Package

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.package import tracked_files

NAME = "infer_segment_anything_2"
MAX_BYTES = 15_000_000


def check_metadata(algo: Algo) -> None:
    """Everything that the hub's page shows is there."""
    info = algo.info
    for name, value in info.items():
        print(f"{name}: {str(value)[:200]!r}")
    assert info["name"] == NAME
    assert len(info["short_description"]) > 20
    assert info["description"].count("\n") > 50, "the description is not the README"
    assert "](images/" not in info["description"], "pictures by paths that the hub's page does not have"
    assert len(info["keywords"]) > 5
    assert all(info["keywords"])
    paper = info["paper"]
    assert "SAM 2" in paper["title"]
    assert "Ravi" in paper["authors"]
    assert paper["journal"]
    assert paper["year"] == 2024
    for url in (paper["link"], info["repository"], info["original_implementation_repository"]):
        assert urlparse(url).scheme == "https"
    assert info["ikomia_min_version"] == "0.15.0"
    assert info["python_min_version"] == "3.10.0"
    assert info["algo_type"] == "INFER"
    assert info["algo_task"] == ["SEMANTIC_SEGMENTATION", "INSTANCE_SEGMENTATION", "OBJECT_TRACKING"]
    assert info["os"] == ["LINUX", "WINDOWS"]
    assert info["icon"].is_file()
    assert algo["license"] == "Apache-2.0"
    hardware = algo["hardware_config"]
    needs = {name: getattr(hardware, name) for name in ("min_cpu", "min_ram", "gpu_required", "min_vram")}
    print(f"hardware: {needs}")
    assert needs == {"min_cpu": 2, "min_ram": 4, "gpu_required": False, "min_vram": 0}


def main() -> None:
    algo = Algo(NAME)
    check_metadata(algo)
    with Package(algo) as path, zipfile.ZipFile(path) as package:
        packed = sorted(name for name in package.namelist() if not name.endswith("/"))
        size = path.stat().st_size
    assert packed == tracked_files(), set(packed) ^ set(tracked_files())
    assert size < MAX_BYTES
    print(f"ikcli packs the {len(packed)} files that git tracks, {size / 1e6:.1f} MB.")
    print(f"Demo workflow of the hub: {Path(algo.create_workflow()).stat().st_size} bytes.")


if __name__ == "__main__":
    main()
