"""Weights and a config of one's own lie under any name, and the plugin itself in any folder, one that nobody may write too."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import NAME, ROOT

from infer_segment_anything_2.segmentation.own_files import own_path

NANO = ROOT / "models" / "sam2_hiera_nano.pt"
CONFIG = ROOT / "models" / "sam2_hiera_nano.yaml"

NAMES = [
    "mein Modell für Katzen",
    "模型",
    "نموذج",
    "🦄 emoji",
    "a'quote\"s",
    "$HOME ${HOME} %PATH% %20",
    "back\\slash",
    "semi;colon&ampersand|pipe",
    "line\nbreak",
    "#hash?query=1",
    "[brackets] (and) {more}",
    "e\u0301 in two parts",
    "x" * 200,
]


@pytest.fixture(scope="module")
def masks_of_nano() -> bytes:
    return masks_with()


def masks_with(**files: Path | str) -> bytes:
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow("files")
    algo = workflow.add_task(name=NAME, auto_connect=True)
    # Another model by name: only the files can make it nano.
    algo.set_parameters({"model_name": "sam2_hiera_large" if files else "sam2_hiera_nano", "input_point": "[20, 20]"})
    algo.set_parameters({name: str(path) for name, path in files.items()})
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    workflow.run_on(array=image)
    return algo.get_output(1).get_mask().tobytes()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_own_files_may_lie_under_any_name(tmp_path, masks_of_nano, name):
    folder = tmp_path / name
    folder.mkdir()
    weights = Path(shutil.copy(NANO, folder / f"{name}.pt"))
    config = Path(shutil.copy(CONFIG, folder / f"{name}.yaml"))
    assert masks_with(model_weight_file=weights, config_file=config) == masks_of_nano


@pytest.mark.parametrize("way", ["relative", "a link", "home", "dots", "upper case"])
def test_own_files_may_be_named_in_any_way(tmp_path, masks_of_nano, monkeypatch, way):
    (tmp_path / "folder").mkdir()
    weights = Path(shutil.copy(NANO, tmp_path / "folder" / "mine.pt"))
    config = Path(shutil.copy(CONFIG, tmp_path / "folder" / "mine.yaml"))
    if way == "relative":
        monkeypatch.chdir(tmp_path)
        weights, config = "folder/mine.pt", "folder/mine.yaml"
    elif way == "a link":
        (tmp_path / "weights").symlink_to(weights)
        (tmp_path / "config").symlink_to(config)
        weights, config = tmp_path / "weights", tmp_path / "config"
    elif way == "home":
        monkeypatch.setenv("HOME", str(tmp_path))
        weights, config = "~/folder/mine.pt", "~/folder/mine.yaml"
    elif way == "dots":
        weights, config = f"{tmp_path}/folder/../folder//./mine.pt", f"{tmp_path}/folder/../folder/mine.yaml"
    else:
        weights, config = weights.rename(tmp_path / "MINE.PTH"), config.rename(tmp_path / "MINE.YML")
    assert masks_with(model_weight_file=weights, config_file=config) == masks_of_nano


@pytest.mark.parametrize(
    "form", ['"{}"', "'{}'", ' "{}" ', "file://{}", "FILE://localhost{}", "file:{}", '"file://{}"']
)
def test_own_files_may_be_named_as_they_are_copied(tmp_path, masks_of_nano, form):
    weights = Path(shutil.copy(NANO, tmp_path / "my weights.pt"))
    config = Path(shutil.copy(CONFIG, tmp_path / "mine.yaml"))
    named = [str(weights), str(config)]
    if "file" in form.lower():
        named = [path.as_uri().removeprefix("file://") for path in (weights, config)]
        assert "%20" in named[0]
    files = {"model_weight_file": form.format(named[0]), "config_file": form.format(named[1])}
    assert masks_with(**files) == masks_of_nano


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('"C:\\models\\my.pt"', "C:\\models\\my.pt"),
        ("configs/sam2/sam2_hiera_s.yaml", "configs/sam2/sam2_hiera_s.yaml"),
        ("file:///a/b#c?d.pt", "/a/b#c?d.pt"),
        ("~nobody-of-this-name/my.pt", "~nobody-of-this-name/my.pt"),
        ("a'quote", "a'quote"),
        ('"', '"'),
        ("file://server/my.pt", "file:/server/my.pt"),  # another machine: no file here
    ],
)
def test_a_path_is_what_the_user_means(text, path):
    assert own_path(text) == path


RUN = f"""
import sys
import hydra.utils, numpy as np, torch, torchvision
from ikomia.dataprocess.workflow import Workflow
sys.pycache_prefix = None  # so that Python tries to write beside the code of the plugin
workflow = Workflow()
algo = workflow.add_task(name="{NAME}", auto_connect=True)
algo.set_parameters({{"model_name": "sam2_hiera_nano", "input_point": "[20, 20]"}})
workflow.run_on(array=np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
import hashlib
print(hashlib.sha256(algo.get_output(1).get_mask().tobytes()).hexdigest(), sys.modules[type(algo).__module__].__file__)
"""


def run_in_the_home(home: Path) -> list[str]:
    """A workflow with the plugin that lies in that home: the hash of its mask and the file that it came from."""
    env = {**os.environ, "HOME": str(home), "TORCH_HOME": str(home / "torch"), "IKOMIA_AUTO_COMPLETION": "False"}
    done = subprocess.run([sys.executable, "-c", RUN], env=env, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1].split(" ", 1)


def install(home: Path) -> Path:
    plugin = home / "Ikomia" / "Plugins" / "Python" / NAME
    plugin.mkdir(parents=True)
    for part in (f"{NAME}.py", f"{NAME}_process.py", f"{NAME}_widget.py", "__init__.py"):
        shutil.copy(ROOT / part, plugin / part)
    for part in ("segmentation", "bridge", "models", "images"):
        shutil.copytree(ROOT / part, plugin / part, ignore=shutil.ignore_patterns("__pycache__"))
    return plugin


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """An empty disk that can be made read-only; skips where nothing can be mounted."""
    disk = tmp_path / "мой дом 家"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_the_plugin_works_from_a_folder_with_blanks_in_any_script_that_nobody_may_write(tmp_path, disk, masks_of_nano):
    plugin = install(disk)
    before = sorted(disk.rglob("*"))
    plugins = tmp_path / "nasz dom" / "Ikomia" / "Plugins" / "Python"
    plugins.mkdir(parents=True)
    (plugins / NAME).symlink_to(plugin)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError):
        (plugin / "x").touch()
    found, file = run_in_the_home(tmp_path / "nasz dom")
    assert found == hashlib.sha256(masks_of_nano).hexdigest()
    assert Path(file).resolve() == plugin / f"{NAME}_process.py"
    assert sorted(disk.rglob("*")) == before
