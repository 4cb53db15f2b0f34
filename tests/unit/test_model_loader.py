"""Building models from weights and configs: equal to sam2's own, safe, and without Hydra's global state."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from infer_segment_anything_2.segmentation.checkpoints import (
    CATALOGUE,
    MODEL_NAMES,
    find_checkpoint,
)
from infer_segment_anything_2.segmentation.model_loader import load_model

NANO = CATALOGUE["sam2_hiera_nano"]
BASE = "sam2.modeling.sam2_base.SAM2Base"


@pytest.fixture
def nano_weights() -> Path:
    path = find_checkpoint("sam2_hiera_nano")
    assert path is not None
    return path


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def nano_state(weights: Path) -> dict[str, torch.Tensor]:
    return torch.load(weights, weights_only=True)["model"]


@contextmanager
def hydra_with_configs_of(folder: Path) -> Iterator[None]:
    """What sam2's own build_sam2 needs, for configs in `folder`; Hydra is as before afterwards."""
    hydra = GlobalHydra.instance()
    before = hydra.hydra
    hydra.clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.2"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


# Loading


@pytest.mark.parametrize("apply_postprocessing", [True, False])
def test_nano_is_the_model_that_build_sam2_builds(nano_weights: Path, apply_postprocessing: bool) -> None:
    ours = load_model(nano_weights, NANO.config, "cpu", apply_postprocessing)
    from sam2.build_sam import build_sam2

    config = Path(NANO.config)
    with hydra_with_configs_of(config.parent):
        theirs = build_sam2(config.name, str(nano_weights), "cpu", apply_postprocessing=apply_postprocessing)
    assert str(ours) == str(theirs)
    state, expected = ours.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    for option in ("via_stability", "stability_delta", "stability_thresh"):
        name = f"dynamic_multimask_{option}"
        assert getattr(ours.sam_mask_decoder, name) == getattr(theirs.sam_mask_decoder, name)
    assert ours.sam_mask_decoder.dynamic_multimask_via_stability == apply_postprocessing
    assert ours.image_size == theirs.image_size
    assert not ours.training


def test_weights_in_half_precision_become_a_float32_model(nano_weights: Path, tmp_path: Path) -> None:
    half = {name: value.half() for name, value in nano_state(nano_weights).items()}
    model = load_model(save(tmp_path / "half.pt", {"model": half}), NANO.config, "cpu", True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.equal(value, half[name].float()) for name, value in model.state_dict().items())


@pytest.mark.parametrize("form", ["training checkpoint", "state dict alone"])
def test_other_forms_of_a_fine_tuned_checkpoint_load(nano_weights: Path, tmp_path: Path, form: str) -> None:
    state = nano_state(nano_weights)
    content = {"model": state, "epoch": 3, "optimizer": {"lr": [0.1]}}
    if form == "state dict alone":
        content = state
    model = load_model(save(tmp_path / "mine.pt", content), NANO.config, "cpu", True)
    assert torch.equal(model.state_dict()["no_mem_embed"], state["no_mem_embed"].float())


def test_loading_draws_nothing_from_the_callers_random_generator(nano_weights: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(nano_weights, NANO.config, "cpu", True)
    assert torch.equal(torch.rand(3), expected)


def test_no_weight_is_drawn_only_to_be_replaced(nano_weights: Path) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Draws(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.name().split("::")[1].rstrip("_") in ("uniform", "normal", "randn", "rand", "bernoulli"):
                self.numbers += args[0].numel() if isinstance(args[0], torch.Tensor) else math.prod(args[0])
            return function(*args, **(kwargs or {}))

    with Draws() as draws:
        torch.nn.Linear(100, 100)
    assert draws.numbers == 100 * 100 + 100  # so it counts

    with Draws() as draws:
        load_model(nano_weights, NANO.config, "cpu", True)
    assert draws.numbers < 1000  # of four million


@pytest.mark.parametrize(
    "model_name",
    [
        pytest.param(name, marks=() if name.endswith(("tiny", "small")) else pytest.mark.slow)
        for name in MODEL_NAMES
        if name != "sam2_hiera_nano"
    ],
)
def test_a_released_architecture_loads_weights_in_metas_format(model_name: str, tmp_path: Path) -> None:
    entry = CATALOGUE[model_name]
    import sam2

    config = OmegaConf.load(Path(sam2.__file__).parent / entry.config)
    expected = instantiate(config.model).state_dict()
    weights = save(tmp_path / f"{model_name}.pt", {"model": expected})
    model = load_model(weights, entry.config, "cpu", True)
    weights.unlink()  # up to 900 MB, and pytest keeps its folders
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert sum(map(torch.numel, model.parameters())) / 1e6 == pytest.approx(entry.parameters_millions, abs=0.1)


def test_a_safe_config_that_sam2_cannot_build_is_told(nano_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"model: {{_target_: {BASE}, colour: red}}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"(?s)mine\.yaml describes no model that .*colour"):
        load_model(nano_weights, str(path), "cpu", True)


# Hydra


def run_fresh(script: str) -> None:
    """Run the script in a new interpreter, with `load_nano` and `hydra` (Hydra's global state) at hand."""
    prelude = """
import logging
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
def load_nano():
    from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, fetch_checkpoint
    from infer_segment_anything_2.segmentation.model_loader import load_model  # imports sam2
    return load_model(fetch_checkpoint("sam2_hiera_nano"), CATALOGUE["sam2_hiera_nano"].config, "cpu", True)
hydra = GlobalHydra.instance()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", prelude + script]
    # Not from the checkout: there the file infer_segment_anything_2.py hides the package of that name.
    result = subprocess.run(command, env=env, cwd=os.environ["HOME"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def other_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `other_library` with Hydra configs of its own, importable in the new interpreter."""
    package = tmp_path / "other_library"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "settings.yaml").write_text("colour: red", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("other_library")
def test_hydra_and_logging_stay_untouched_so_others_can_initialise_hydra_later() -> None:
    """Another library as usual; sam2's own builder, where sam2 is imported after us, with one line."""
    run_fresh("""
load_nano()
assert not hydra.is_initialized()
assert logging.getLogger().handlers == []
initialize_config_module("other_library", version_base="1.3")
assert compose("settings").colour == "red"
load_nano()
assert compose("settings").colour == "red"
hydra.clear()
from sam2.build_sam import build_sam2
initialize_config_module("sam2", version_base="1.2")
build_sam2("configs/sam2/sam2_hiera_t.yaml", device="cpu")
""")


@pytest.mark.usefixtures("other_library")
def test_hydra_stays_with_the_library_that_initialised_it_before() -> None:
    run_fresh("""
initialize_config_module("other_library", version_base="1.3")
before = hydra.hydra
load_nano()
assert hydra.hydra is before
assert compose("settings").colour == "red"
""")


def test_who_imported_sam2_before_can_still_use_its_own_builder() -> None:
    run_fresh("""
from sam2.build_sam import build_sam2
load_nano()
build_sam2("configs/sam2/sam2_hiera_t.yaml", device="cpu")
""")
