"""The catalogue of models, and where their checkpoints are found. Downloads: test_downloads.py."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infer_segment_anything_2.segmentation import checkpoints
from infer_segment_anything_2.segmentation.checkpoints import (
    CheckpointError,
    fetch_checkpoint,
    find_checkpoint,
)
from infer_segment_anything_2.segmentation.config import read_config

MODEL = "sam2_hiera_tiny"
FILE = "sam2_hiera_tiny.pt"


def zip_of(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", os.urandom(size))
    return buffer.getvalue()


PAYLOAD = zip_of(600_000)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache (not yet a folder) and an empty models folder; MODEL's file is PAYLOAD."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(checkpoints, "MODELS_FOLDER", tmp_path / "models")
    entry = replace(checkpoints.CATALOGUE[MODEL], bytes=len(PAYLOAD))
    monkeypatch.setitem(checkpoints.CATALOGUE, MODEL, entry)
    return tmp_path / "torch/hub/checkpoints"


def place(path: Path, content: bytes = PAYLOAD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# The catalogue


def test_the_catalogue_has_the_eight_released_models_and_the_bundled_one() -> None:
    released = [entry for entry in checkpoints.CATALOGUE.values() if entry.url is not None]
    assert len(released) == 8
    assert set(checkpoints.MODEL_NAMES) == {entry.model_name for entry in released} | {"sam2_hiera_nano"}
    for entry in released:
        assert entry.url.startswith("https://dl.fbaipublicfiles.com/segment_anything_2/")
        assert entry.url.endswith(f"/{entry.model_name}.pt")
        assert len(bytes.fromhex(entry.sha256)) == 32
    assert len({entry.sha256 for entry in released}) == 8


def test_what_was_released_is_listed_as_it_was_released() -> None:
    """Addresses, hashes and sizes of files that nobody will change: none of them may change here."""
    lines = [f"{c.url} {c.sha256} {c.bytes}\n" for c in checkpoints.CATALOGUE.values() if c.url]
    digest = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    assert digest == "943f95dec9bbf8d6749958f25dab91998a7bbf9d460f21c2313265b906d0f8f6"


@pytest.mark.parametrize("model_name", checkpoints.MODEL_NAMES)
def test_every_model_has_a_config_of_its_size(model_name: str) -> None:
    config = read_config(checkpoints.CATALOGUE[model_name].config)
    trunk = config["model"]["image_encoder"]["trunk"]
    size = model_name.partition("hiera_")[2]
    width, blocks = {
        "nano": (32, [1, 3, 8, 1]),
        "tiny": (96, [1, 2, 7, 2]),
        "small": (96, [1, 2, 11, 2]),
        "base_plus": (112, None),  # Hiera's default
        "large": (144, [2, 6, 36, 4]),
    }[size]
    assert trunk["embed_dim"] == width
    assert trunk.get("stages") == blocks
    of_2_1 = "no_obj_embed_spatial" in config["model"]
    assert of_2_1 == model_name.startswith("sam2.1")


def test_a_file_is_of_the_catalogue_where_its_name_and_its_folder_are(cache: Path, tmp_path: Path) -> None:
    for folder in (cache, checkpoints.MODELS_FOLDER):
        assert checkpoints.is_of_the_catalogue(folder / FILE)
        assert not checkpoints.is_of_the_catalogue(folder / "mine.pt")
    assert not checkpoints.is_of_the_catalogue(tmp_path / FILE)


@pytest.mark.parametrize("function", [find_checkpoint, fetch_checkpoint, checkpoints.checkpoint_state])
def test_an_unknown_model_name_is_refused_with_the_accepted_ones(function: Callable[[str], object]) -> None:
    with pytest.raises(
        ValueError,
        match=r"'sam3_huge' is not accepted; accepted is one of sam2_hiera_tiny.*nano\.$",
    ):
        function("sam3_huge")


def test_what_the_panel_and_the_task_import_first_imports_no_torch_sam2_or_hydra() -> None:
    script = (
        "import sys; from infer_segment_anything_2.segmentation import checkpoints, own_files;"
        "print({'torch', 'sam2', 'hydra', 'omegaconf'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # Not from the checkout: there the file infer_segment_anything_2.py hides the package of that name.
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, env=env, cwd=os.environ["HOME"], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "set()"


# Lookup


def test_the_bundled_model_is_found_in_the_plugin_folder() -> None:
    assert fetch_checkpoint("sam2_hiera_nano") == checkpoints.MODELS_FOLDER / "sam2_hiera_nano.pt"
    assert Path(checkpoints.CATALOGUE["sam2_hiera_nano"].config).is_file()
    assert checkpoints.checkpoint_state("sam2_hiera_nano") == "bundled"


def test_the_plugin_folder_comes_before_the_hub_cache(cache: Path, tmp_path: Path) -> None:
    assert find_checkpoint(MODEL) is None
    assert checkpoints.checkpoint_state(MODEL) == "to download"
    cached = place(cache / FILE)
    assert find_checkpoint(MODEL) == cached
    assert checkpoints.checkpoint_state(MODEL) == "on disk"
    in_plugin = place(tmp_path / "models" / FILE)
    assert find_checkpoint(MODEL) == in_plugin


def test_a_hub_folder_set_with_torch_hub_set_dir_is_used(cache: Path, tmp_path: Path) -> None:
    torch.hub.set_dir(str(tmp_path / "elsewhere"))  # the cache fixture's monkeypatch undoes it
    placed = place(tmp_path / "elsewhere/checkpoints" / FILE)
    assert find_checkpoint(MODEL) == placed


def test_the_hub_folder_is_that_of_torch_where_torch_is_not_imported() -> None:
    script = """
import itertools, os, sys
from infer_segment_anything_2.segmentation.checkpoints import _hub_folder
def folders():
    for home, cache in itertools.product((None, "", "~/t", "/t"), repeat=2):
        for name, value in (("TORCH_HOME", home), ("XDG_CACHE_HOME", cache)):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        yield str(_hub_folder())
before = list(folders())
assert "torch" not in sys.modules
import torch.hub
assert before == list(folders())
assert len(set(before)) == 7
torch.hub.set_dir("/elsewhere")
assert set(folders()) == {os.path.abspath("/elsewhere/checkpoints")}
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=env, cwd=os.environ["HOME"], check=True)


def test_a_partial_download_of_the_published_plugin_is_passed_over_with_a_warning(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = place(tmp_path / "models" / FILE, PAYLOAD[:300_000])
    cached = place(cache / FILE)
    assert find_checkpoint(MODEL) == cached
    assert str(partial) in caplog.text
    assert f"300000 bytes instead of {len(PAYLOAD)}" in caplog.text


@pytest.mark.parametrize("size_is_known", [True, False])
def test_a_file_that_is_no_complete_archive_is_passed_over(
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    size_is_known: bool,
) -> None:
    if size_is_known:
        content = b"\0" * len(PAYLOAD)
    else:
        content = PAYLOAD[:-100]
        monkeypatch.setitem(checkpoints.CATALOGUE, MODEL, replace(checkpoints.CATALOGUE[MODEL], bytes=None))
    damaged = place(cache / FILE, content)
    assert find_checkpoint(MODEL) is None
    assert f"{damaged} is not a complete zip archive" in caplog.text


def test_a_missing_bundled_model_asks_to_install_the_plugin_again(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam2_hiera_nano\.pt.*Install the plugin again"):
        fetch_checkpoint("sam2_hiera_nano")
