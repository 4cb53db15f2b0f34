"""Install the plugin from a hub with Ikomia's own installer, use it, update it.

`make test-install` runs it in environments that have ikomia and torch and none of the plugin's other requirements, with a
private HOME. A local HTTP server plays the hub; everything else is real: the registry's list and download, pip, the loading of
the plugin, a workflow.
"""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.package import ROOT, write_package

NAME = "infer_segment_anything_2"
PROCESS = f"{NAME}_process.py"
VERSION = re.search(r'info.version = "(.*)"', (ROOT / PROCESS).read_text())[1]
NEWER = re.sub(r"\d+$", lambda last: str(int(last[0]) + 1), VERSION)
BROUGHT = (
    "sam2",
    "hydra",
    "omegaconf",
    "pycocotools",
    "safetensors",
)  # by requirements.txt; ikomia brings the others itself
USE = f"""
import numpy as np
from ikomia.dataprocess.workflow import Workflow
from ikomia.dataprocess.registry import ik_registry
wf = Workflow()
algo = wf.add_task(name="{NAME}", auto_connect=True)
algo.set_parameters({{"model_name": "sam2_hiera_nano", "input_box": "[20, 20, 80, 90]"}})
image = np.zeros((120, 120, 3), np.uint8)
image[30:80, 30:70] = 250, 200, 0
wf.run_on(array=image)
assert algo.get_output(1).get_mask()[40:70, 40:60].mean() > 0.9, "the rectangle is not in the mask"
print("version", ik_registry.get_algorithm_info("{NAME}").version, "segments")
"""


class Hub:
    """The part of Ikomia's hub that its client asks: the list of algorithms, and the download of a package."""

    def __init__(self) -> None:
        self.packages: list[tuple[str, Path]] = []  #: version and zip
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                if self.path.startswith("/v1/hub/"):
                    body = json.dumps({"count": 1, "results": [hub.entry()]}).encode()
                else:
                    body = hub.packages[int(self.path.split("/")[2])][1].read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def entry(self) -> dict:
        """What the hub's list says of the plugin, with the limits that its factory states."""
        platform = {"os": ["LINUX", "WINDOWS"], "ikomia": ">=0.15.0,<", "python": ">=3.10.0,<"}
        return {
            "name": NAME,
            "version": self.packages[-1][0],
            "language": "PYTHON",
            "packages": [
                {"version": number, "url": f"{self.url}/packages/{i}/", "platform": platform}
                for i, (number, _) in enumerate(self.packages)
            ],
        }


def main(folder_of_packages: Path) -> None:
    for module in BROUGHT:
        assert find_spec(module) is None, f"{module} is there already: this environment shows nothing"

    from ikomia.core import config
    from ikomia.dataprocess.registry import ik_registry

    package, newer = folder_of_packages / "package.zip", folder_of_packages / "newer.zip"
    process = (ROOT / PROCESS).read_text()
    write_package(package)
    write_package(
        newer, {PROCESS: process.replace(f'info.version = "{VERSION}"', f'info.version = "{NEWER}"').encode()}
    )

    hub = Hub()
    config.main_cfg["hub"]["url"] = hub.url
    hub.packages.append((VERSION, package))
    if ik_registry.callbacks is None:  # with auto-completion off, ikomia looks into a table that is not there
        ik_registry.register_event_callback("algorithm_changed", lambda name: None)

    print(f"ikomia {version('ikomia')}, torch {version('torch')}, Python {sys.version.split()[0]}")
    ik_registry.install_algorithm(NAME)
    folder = Path(ik_registry.get_plugins_directory(), "Python", NAME)
    assert folder.is_dir()
    assert Path.home() in folder.parents
    assert [path for path in hub.asked if path.endswith("/download/")] == ["/packages/0/download/"]
    for module in BROUGHT:
        assert find_spec(module) is not None, f"{module} was not installed"
    subprocess.run([sys.executable, "-c", USE], check=True)

    again = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-r", folder / "requirements.txt", "--no-build-isolation"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert "Successfully installed" not in again, f"installing twice changes something: {again[-500:]}"

    # An update deletes the plugin's folder. What was downloaded stays.
    import torch

    checkpoint = Path(torch.hub.get_dir(), "checkpoints", "sam2_hiera_tiny.pt")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(b"downloaded before")
    hub.packages.append((NEWER, newer))
    ik_registry.public_online_algos = None  # the list is asked for once per process
    ik_registry.update_algorithm(NAME)
    assert "/packages/1/download/" in hub.asked
    assert checkpoint.read_bytes() == b"downloaded before"
    used = subprocess.run([sys.executable, "-c", USE], check=True, stdout=subprocess.PIPE, text=True).stdout
    print(used, end="")
    assert f"version {NEWER}" in used
    print("Installed from the hub, used, installed again, updated: all as it should be.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
