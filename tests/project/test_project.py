"""Rules of the project that hold whatever it does: the wall, the files that the hub expects, lint."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import NAME, ROOT


def tracked_files() -> list[str]:
    """What git tracks, or the checkout's files where there is no git (a downloaded archive)."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    return listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []


def imported_names(path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted((ROOT / "segmentation").glob("*.py")), ids=lambda p: p.name)
def test_segmentation_imports_neither_ikomia_nor_qt(path):
    assert not {name for name in imported_names(path) if re.match(r"ikomia|PyQt|PySide|Qt", name)}


@pytest.mark.parametrize("path", sorted((ROOT / "segmentation").glob("[!_]*.py")), ids=lambda p: p.name)
def test_segmentation_explains_nothing_of_ikomias_ways(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"ikomia|studio|\bPyQt", text, re.IGNORECASE)


MAX_LINES = {
    f"{NAME}_process.py": 300,
    f"{NAME}_widget.py": 700,
    "parameters.py": 600,
}  # the last declares the parameters
HOUSE = [*ROOT.glob(f"{NAME}*.py"), *(ROOT / "segmentation").glob("*.py"), *(ROOT / "bridge").glob("*.py")]


@pytest.mark.parametrize("path", sorted(HOUSE), ids=lambda p: p.name)
def test_files_and_functions_stay_small_enough_to_read(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES.get(path.name, 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 55, node.name


@pytest.mark.parametrize("path", sorted((ROOT / "segmentation").glob("*.py")), ids=lambda p: p.name)
def test_no_class_inherits_from_one_of_sam2(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert not [base for base in node.bases if re.match(r"SAM2|Hiera|MaskDecoder", ast.unparse(base))]


def private_names_of_sam2() -> set[str]:
    """What sam2 calls with an underscore: methods, functions and attributes."""
    folder = Path(find_spec("sam2").origin).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    return set(re.findall(r"(?:def |self\.)(_[a-z]\w*)", text))


@pytest.mark.parametrize("path", sorted((ROOT / "segmentation").glob("*.py")), ids=lambda p: p.name)
def test_one_module_alone_imports_sam2_and_names_its_private_parts(path):
    found, private = set(), private_names_of_sam2()
    assert "_prepare_backbone_features" in private
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module} & {"importlib", "importlib.util"}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & {"importlib", "importlib.util"}
        elif isinstance(node, ast.Attribute) and node.attr in private and getattr(node.value, "id", "") != "self":
            found.add(node.attr)
    found |= imported_names(path) & {"sam2"}
    assert not found or path.name == "sam2_package.py", found


def test_segmentation_works_where_ikomia_and_qt_cannot_be_imported(tmp_path):
    code = """
import sys
for name in ("ikomia", "PyQt5", "PyQt6", "PySide6"):
    sys.modules[name] = None
import numpy as np
from infer_segment_anything_2.segmentation.objects import Object
from infer_segment_anything_2.segmentation.segmenter import open_segmenter
(masks,) = open_segmenter("sam2_hiera_nano").predict(
    np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), [Object(box=np.array([8, 8, 50, 50], np.float32))])
assert masks[0].shape == (64, 64)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    # Not from the checkout: there the file infer_segment_anything_2.py hides the package of that name.
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)


def test_a_task_is_added_without_torch_where_no_gpu_is_to_be_asked_about_and_runs_where_no_pyqt_can_be_imported(
    tmp_path,
):
    code = """
import os, sys
for name in ("PyQt5", "PyQt6", "PySide2", "PySide6"):
    sys.modules[name] = None
from ikomia.dataprocess.workflow import Workflow
wf = Workflow()
algo = wf.add_task(name="infer_segment_anything_2", auto_connect=True)
assert algo.get_parameters()["cuda"] in ("True", "False")
loaded = {"torch", "sam2", "hydra", "torchvision"} & set(sys.modules)
import torch
assert not loaded or torch.cuda.is_available(), loaded
assert algo.get_parameters()["cuda"] == str(torch.cuda.is_available())

import numpy as np
algo.set_parameters({"model_name": "sam2_hiera_nano", "input_box": "[8, 8, 50, 50]"})
wf.run_on(array=np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
assert algo.get_output(1).get_mask().shape == (64, 64)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)  # HOME is the tests' own


def test_the_root_has_what_the_hub_expects():
    for name in (
        f"{NAME}.py",
        f"{NAME}_process.py",
        f"{NAME}_widget.py",
        "__init__.py",
        "requirements.txt",
        "README.md",
        "LICENSE.md",
        "images/icon.png",
        "models/sam2_hiera_nano.pt",
        "models/sam2_hiera_nano.yaml",
    ):
        assert (ROOT / name).is_file(), name
    # The hub's installer takes each of these, in this order. pip builds sam2 with what the first one brings.
    taken = sorted(p.name for p in ROOT.iterdir() if re.search("[rR]equirements[0-9]*.txt", p.name))
    assert taken == ["build-requirements.txt", "requirements.txt"]


def test_the_factory_describes_the_plugin():
    from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2Factory

    info = InferSegmentAnything2Factory().info
    assert info.name == NAME
    assert (ROOT / info.icon_path).is_file()
    assert info.min_ikomia_version == "0.15.0"
    for field in (
        "short_description",
        "version",
        "authors",
        "article",
        "article_url",
        "license",
        "repository",
        "keywords",
    ):
        assert getattr(info, field), field
    assert info.year == 2024


def test_the_plugin_imports_only_what_its_requirements_name():
    """Ikomia brings itself; cv2 comes with it."""
    lines = (ROOT / "requirements.txt").read_text().split()
    declared = {re.split(r"[<>=~]", line)[0].lower().replace("-", "_") for line in lines}
    provided_by = {"PIL": "pillow", "hydra": "hydra_core", "yaml": "omegaconf", "annotated_types": "pydantic"}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("segmentation/*.py"), *ROOT.glob("bridge/*.py")]:
        for name in imported_names(path) - set(sys.stdlib_module_names) - {"", "ikomia", "cv2", NAME}:
            if (ROOT / "segmentation" / f"{name}.py").exists():
                continue  # a relative import
            assert provided_by.get(name, name).lower() in declared, f"{path.name} imports {name}"


def test_what_is_published_is_small_and_clean():
    files = tracked_files()
    if not files:
        pytest.skip("not a git checkout")
    assert sum((ROOT / f).stat().st_size for f in files) < 15e6
    assert not [f for f in files if re.search(r"(^|/)(\.?venv|__pycache__|.*_cache)(/|$)|\.(pyc|partial|ckpt)$", f)]
    assert [f for f in files if f.endswith(".pt")] == ["models/sam2_hiera_nano.pt"]
    assert (ROOT / "models/sam2_hiera_nano.pt").stat().st_size <= 10e6


def test_the_package_is_what_git_tracks_flat_and_always_the_same(tmp_path):
    from tools import package

    files = tracked_files()
    if not files:
        pytest.skip("not a git checkout")
    package.write_package(tmp_path / "a.zip", {"README.md": b"another"})
    package.write_package(tmp_path / "b.zip", {"README.md": b"another"})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (tmp_path / "a.zip").stat().st_size < 15e6
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == package.tracked_files()
        assert set(archive.namelist()) <= set(files)
        assert {f"{NAME}.py", "requirements.txt", "models/sam2_hiera_nano.pt", "segmentation/segmenter.py"} <= set(
            archive.namelist()
        )
        assert archive.read("README.md") == b"another"
        assert archive.read(f"{NAME}.py") == (ROOT / f"{NAME}.py").read_bytes()


def test_the_packed_readme_links_to_github_for_it_is_shown_elsewhere(tmp_path):
    from tools import package

    files = tracked_files()
    if not files:
        pytest.skip("not a git checkout")
    package.write_package(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        packed = archive.read("README.md").decode()
    own = (ROOT / "README.md").read_text()
    relative = re.findall(r'(?:\]\(|src="|href=")(?!https?:|#)([^)"]+)', own)
    assert len(relative) > 5
    linked = re.findall(rf"(?:{re.escape(package.PICTURES)}|{re.escape(package.FILES)})([^)\"]+)", packed)
    assert set(relative) <= set(linked)
    assert {link.partition("#")[0] for link in linked} <= set(files)
    assert f"{package.PICTURES}images/icon.png" in packed
    assert f"{package.FILES}LICENSE.md" in packed
    assert not re.findall(r'(?:\]\(|src="|href=")(?!https?:|#)([^)"]+)', packed)
    # Nothing else changes.
    own_urls = (package.PICTURES, package.FILES)
    assert re.sub("|".join(map(re.escape, own_urls)), "", packed) == re.sub("|".join(map(re.escape, own_urls)), "", own)


@pytest.mark.parametrize(
    ("written", "packed"),
    [
        ("![a](images/a.png)", "![a](RAW/images/a.png)"),
        ('<img src="./images/a.JPG" width="9">', '<img src="RAW/images/a.JPG" width="9">'),
        ("[b](models/README.md#data)", "[b](BLOB/models/README.md#data)"),
        ("[![a](i/a.svg)](b.ipynb)", "[![a](RAW/i/a.svg)](BLOB/b.ipynb)"),
        ("[c](#anchor) [d](https://x.org/a.png) <a href='mailto:a@b'>", None),
        ("`[e](f.md)` ``[`g`](h.md)``", None),
        ("```md\n[i](j.md)\n```\n", None),
    ],
)
def test_relative_links_and_only_they_become_absolute(written, packed):
    from tools.package import FILES, PICTURES, with_absolute_links

    wanted = written if packed is None else packed.replace("RAW/", PICTURES).replace("BLOB/", FILES)
    assert with_absolute_links(written) == wanted


def test_all_who_lint_use_one_version_of_ruff():
    pinned = re.search(r"^ruff==(.*)$", (ROOT / "tests/requirements.txt").read_text(), re.MULTILINE)[1]
    assert f"rev: v{pinned}\n" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_nothing_is_printed():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("segmentation/*.py"), *ROOT.glob("bridge/*.py")]:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not [c for c in calls if getattr(c.func, "id", "") == "print"], path.name


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_is_content(command):
    subprocess.run([sys.executable, "-m", "ruff", *command, str(ROOT)], check=True, cwd=ROOT)


def test_the_contributors_guide_names_every_file_of_tests_and_module_that_it_should():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+/test_\w+\.py)`", guide):
        assert (ROOT / "tests" / name).is_file(), name
    for path in [*(ROOT / "segmentation").glob("[!_]*.py"), *(ROOT / "bridge").glob("[!_]*.py")]:
        assert f"    {path.name} " in guide
    assert not re.search(r"`test_\w+\.py`", guide)  # by its path, or one has to look for it
