"""Building models from weights and configs: equal to sam2's own, safe, and without Hydra's global state."""

from __future__ import annotations

import argparse
import io
import math
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file

from infer_segment_anything_2.segmentation import segmenter as segmenter_module
from infer_segment_anything_2.segmentation.checkpoints import (
    CATALOGUE,
    MODEL_NAMES,
    CheckpointError,
    find_checkpoint,
)
from infer_segment_anything_2.segmentation.model_loader import load_model, missing_for_video
from infer_segment_anything_2.segmentation.objects import Object
from infer_segment_anything_2.segmentation.segmenter import Segmenter, open_segmenter

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


def is_nano(weights: Path, nano_weights: Path) -> bool:
    """Whether the weights load as the same model as the bundled ones."""
    found = load_model(weights, NANO.config, "cpu", True).state_dict()
    return all(torch.equal(found[name], tensor.float()) for name, tensor in nano_state(nano_weights).items())


class Options(dict):
    """As Lightning keeps hyper parameters: a dict of a class of its own."""


Options.__module__, Options.__qualname__ = "lightning.fabric.utilities.data", "AttributeDict"

CONTAINERS = {
    "alone": lambda state: state,
    "with the optimizer": lambda state: {"model": state, "epoch": 3, "optimizer": {"lr": [0.1]}},
    "state_dict": lambda state: {"state_dict": state},
    "model_state_dict": lambda state: {"epoch": 1, "model_state_dict": state, "loss": torch.tensor(0.1)},
    "model_state": lambda state: {"model_state": state},
    "the name of the model beside it": lambda state: {"model": "sam2_hiera_nano", "state_dict": state},
    "the settings of the model beside it": lambda state: {"model": {"name": "sam2", "size": 1}, "state_dict": state},
    "an empty model beside it": lambda state: {"model": {}, "state_dict": state},
    "parameters": lambda state: {name: torch.nn.Parameter(tensor.float()) for name, tensor in state.items()},
    "an ordered dict": lambda state: {"model": OrderedDict(state)},
    "NumPy beside it": lambda state: {
        "model": state,
        "best": np.float64(0.5),
        "steps": np.int64(7),
        "name": np.str_("x"),
        "mean": np.array([0.1, 0.2]),
    },
    "options of the command line": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
    "Lightning": lambda state: {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()} | {"loss.weight": torch.ones(2)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": "/x"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "size": [1, 2]},
    },
}


OLDER = ["alone", "with the optimizer", "NumPy beside it", "options of the command line", "Lightning"]


@pytest.mark.parametrize(
    ("form", "older"),
    [(form, False) for form in CONTAINERS] + [(form, True) for form in OLDER],
    ids=[*CONTAINERS, *(f"{form}, older" for form in OLDER)],
)
def test_weights_load_in_every_form_in_which_people_save_them(
    nano_weights: Path, tmp_path: Path, form: str, older: bool
) -> None:
    content = CONTAINERS[form](nano_state(nano_weights))
    torch.save(content, tmp_path / "mine.ckpt", _use_new_zipfile_serialization=not older)
    before = set(torch.serialization.get_safe_globals())
    assert is_nano(tmp_path / "mine.ckpt", nano_weights)
    assert set(torch.serialization.get_safe_globals()) == before


def test_scalars_of_numpy_1_load_too(nano_weights: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    content = {"best": np.float64(0.5), "model": nano_state(nano_weights)}
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    assert b"numpy._core.multiarray" in buffer.getvalue()
    (tmp_path / "mine.pt").write_bytes(buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert is_nano(tmp_path / "mine.pt", nano_weights)


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pt"])
def test_safetensors_load_under_any_name(nano_weights: Path, tmp_path: Path, name: str) -> None:
    state = {f"module.{name}": tensor for name, tensor in nano_state(nano_weights).items()}
    save_file(state, tmp_path / name, metadata={"format": "pt"})
    assert is_nano(tmp_path / name, nano_weights)


PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "sam2_model.",
    "module._orig_mod.",
    "model.sam2_model.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_wrappers_put_before_the_names_is_taken_off(nano_weights: Path, tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in nano_state(nano_weights).items()}
    assert is_nano(save(tmp_path / "mine.pt", {"model": state}), nano_weights)


def test_what_a_wrapper_holds_beside_the_model_is_left_out_and_a_line_says_so(
    nano_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"model.{name}": tensor for name, tensor in nano_state(nano_weights).items()}
    path = save(tmp_path / "mine.pt", state | {"loss.weight": torch.ones(2)})
    assert is_nano(path, nano_weights)
    assert [r.getMessage() for r in caplog.records] == [
        f"{path}: 1 tensor(s) beside the model, such as loss.weight, are left out."
    ]


@pytest.mark.parametrize("copy", ["teacher", "ema_model", "model_ema.module"])
def test_a_second_model_beside_the_model_is_left_out(nano_weights: Path, tmp_path: Path, copy: str) -> None:
    """A moving average, or another network with more tensors."""
    state = {f"model.{name}": tensor for name, tensor in nano_state(nano_weights).items()}
    beside = {f"{copy}.{name}": 2 * tensor for name, tensor in nano_state(nano_weights).items()}
    more = {f"discriminator.{k}.weight": torch.ones(1) for k in range(20)}
    assert is_nano(save(tmp_path / "mine.pt", {"state_dict": beside | more | state}), nano_weights)


def test_what_lightning_keeps_as_objects_is_refused_with_the_way_out(nano_weights: Path, tmp_path: Path) -> None:
    content = {"state_dict": nano_state(nano_weights), "hyper_parameters": Options(lr=0.1)}
    module = ModuleType(Options.__module__)
    module.AttributeDict = Options  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "lightning", ModuleType("lightning"))
        patch.setitem(sys.modules, Options.__module__, module)  # where pickle looks for it
        path = save(tmp_path / "mine.ckpt", content)
    with pytest.raises(CheckpointError) as caught:
        load_model(path, NANO.config, "cpu", True)
    assert str(caught.value).startswith(
        f"model_weight_file: {path} holds Python objects besides tensors (lightning.fabric.utilities.data.AttributeDict), "
        "which are not loaded because that runs code; if you trust it, write the tensors alone with "
        "torch.save({'model': checkpoint['state_dict']}, …). Accepted: "
    )


def test_a_whole_model_is_refused_with_the_way_out(nano: Segmenter, tmp_path: Path) -> None:
    path = save(tmp_path / "mine.pt", {"model": nano.predictor.model})
    with pytest.raises(CheckpointError) as caught:
        load_model(path, NANO.config, "cpu", True)
    assert str(caught.value).startswith(
        f"model_weight_file: {path} is a whole model, as torch.save(model) writes it (sam2.modeling.sam2_base.SAM2Base), which "
        "is not loaded because that runs code; if you trust it, write the tensors alone with "
        "torch.save({'model': model.state_dict()}, …). Accepted: "
    )


# Parts of a model

FOR_IMAGES = ("image_encoder", "sam_prompt_encoder", "sam_mask_decoder", "no_mem_embed")
POINT = Object(points=np.array([[250, 100]], np.float32), labels=np.array([1], np.int32))


def parts(state: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] in names}


def test_weights_without_the_memory_modules_give_the_same_masks_and_say_what_videos_lack(
    nano: Segmenter, nano_weights: Path, tmp_path: Path, astronaut: np.ndarray
) -> None:
    state = nano_state(nano_weights)
    path = save(tmp_path / "mine.pt", {"model": parts(state, *FOR_IMAGES)})
    segmenter = open_segmenter("sam2_hiera_nano", model_weight_file=str(path))
    (found,), (expected,) = segmenter.predict(astronaut, [POINT]), nano.predict(astronaut, [POINT])
    assert expected[0].any()
    np.testing.assert_array_equal(found[0], expected[0])
    assert found.scores[0] == expected.scores[0]
    model = segmenter.predictor.model
    missing = {name.partition(".")[0] for name in state} - {*FOR_IMAGES}
    assert {"memory_encoder", "memory_attention", "maskmem_tpos_enc", "obj_ptr_proj"} <= missing
    assert set(missing_for_video(model)) == missing
    assert missing_for_video(nano.predictor.model) == []
    # Nothing that was never set can pass for a number.
    assert all(model.state_dict()[name].isnan().all() for name in state if name.partition(".")[0] in missing)


def test_weights_of_sam_2_0_with_a_model_of_sam_2_1_say_so_where_they_are_to_follow(
    nano_weights: Path, tmp_path: Path, astronaut: np.ndarray
) -> None:
    """2.1 has two parts more, and only for videos: for images the weights fit both."""
    config, newer = tmp_path / "2.1.yaml", "no_obj_embed_spatial: true\n  add_tpos_enc_to_obj_ptrs: true\n"
    older = "add_tpos_enc_to_obj_ptrs: false\n"
    text = Path(NANO.config).read_text()
    assert older in text
    config.write_text(text.replace(older, f"{newer}  proj_tpos_enc_in_obj_ptrs: true\n"))
    segmenter = open_segmenter(
        "sam2.1_hiera_tiny",
        model_weight_file=str(save(tmp_path / "mine.pt", nano_state(nano_weights))),
        config_file=str(config),
    )
    assert segmenter.predict(astronaut, [POINT])[0][0].any()
    with pytest.raises(ValueError, match=r"^track: True .* weights of SAM 2\.0 .*; accepted is the model of SAM 2\.0 "):
        segmenter.tracker()


PARTIAL = [("sam_mask_decoder",), ("sam_mask_decoder", "sam_prompt_encoder"), ("image_encoder",), ("memory_encoder",)]


@pytest.mark.parametrize("names", PARTIAL, ids=" ".join)
def test_parts_that_the_weights_lack_come_from_the_checkpoint_of_model_name_and_a_line_says_so(
    nano_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    state = nano_state(nano_weights)
    tuned = {name: tensor.float() + 1 for name, tensor in parts(state, *names).items()}
    path = save(tmp_path / "mine.pt", {f"module.{name}": tensor for name, tensor in tuned.items()})
    model = open_segmenter("sam2_hiera_nano", model_weight_file=str(path)).predictor.model
    found = model.state_dict()
    assert all(torch.equal(found[name], {**state, **tuned}[name].float()) for name in state)
    assert missing_for_video(model) == []
    said = caplog.records[-1].getMessage()
    assert said.startswith(f"model_weight_file: {path} holds ")
    assert said.endswith(f" alone; the rest comes from {nano_weights}, the checkpoint of model_name.")
    assert all(name in said for name in names)


@pytest.mark.parametrize("part", ["sam_mask_decoder", "image_encoder"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_part_that_was_saved_by_its_own_names_is_that_part(
    nano_weights: Path, tmp_path: Path, part: str, prefix: str
) -> None:
    """As model.sam_mask_decoder.state_dict() has them."""
    state = nano_state(nano_weights)
    tuned = {name: tensor.float() + 1 for name, tensor in parts(state, part).items()}
    named = {prefix + name.removeprefix(f"{part}."): tensor for name, tensor in tuned.items()}
    path = save(tmp_path / "mine.pt", {"model": named})
    found = open_segmenter("sam2_hiera_nano", model_weight_file=str(path)).predictor.model.state_dict()
    assert all(torch.equal(found[name], {**state, **tuned}[name].float()) for name in state)


def test_a_model_for_the_cpu_leaves_a_gpu_that_is_there_alone(
    nano_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be full, and a forked process must not touch it: sam2's own constructors do, wherever torch sees one."""
    expected = load_model(nano_weights, NANO.config, "cpu", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = load_model(nano_weights, NANO.config, "cpu", True)
    assert [name for name, _ in found.named_modules()] == [name for name, _ in expected.named_modules()]


def test_parts_are_completed_anew_for_another_model_name(
    nano_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a config of one's own the name says nothing but where the rest comes from."""
    state = nano_state(nano_weights)
    other = save(tmp_path / "other.pt", {"model": {name: tensor.float() * 2 for name, tensor in state.items()}})
    places = {"sam2_hiera_nano": nano_weights, "sam2_hiera_tiny": other}
    monkeypatch.setattr(segmenter_module, "fetch_checkpoint", lambda name, _: places[name])
    path = save(tmp_path / "mine.pt", parts(state, "sam_mask_decoder"))
    files = {"model_weight_file": str(path), "config_file": NANO.config}
    held = [open_segmenter(name, **files) for name in (*places, *places)]
    first, second = (segmenter.predictor.model.state_dict()["no_mem_embed"] for segmenter in held[:2])
    assert torch.equal(2 * first, second)
    assert held[2:] == held[:2]


def test_a_part_that_is_only_partly_there_is_refused(nano_weights: Path, tmp_path: Path) -> None:
    state = parts(nano_state(nano_weights), "sam_mask_decoder")
    del state["sam_mask_decoder.iou_token.weight"]
    path = save(tmp_path / "mine.pt", state)
    with pytest.raises(
        CheckpointError, match=r"tensors \d+ missing .*Accepted: the tensors of a SAM 2 model under sam2's"
    ):
        load_model(path, NANO.config, "cpu", True, lambda: nano_weights)


def test_parts_whose_rest_does_not_fit_the_config_are_refused(nano_weights: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "mine.pt", parts(nano_state(nano_weights), "mask_downsample"))  # alike in all
    with pytest.raises(CheckpointError) as caught:
        load_model(path, CATALOGUE["sam2_hiera_tiny"].config, "cpu", True, lambda: nano_weights)
    assert f"{path} holds mask_downsample alone, and the rest cannot come from {nano_weights}" in str(caught.value)
    assert "Accepted: as model_name the model from which these weights were trained" in str(caught.value)


def test_a_checkpoint_of_the_catalogue_has_to_be_whole(nano_weights: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "half.pt", {"model": parts(nano_state(nano_weights), "sam_mask_decoder")})
    with pytest.raises(CheckpointError, match="missing"):
        load_model(path, NANO.config, "cpu", True)


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
        pytest.param(name, marks=() if name in ("sam2_hiera_tiny", "sam2.1_hiera_small") else pytest.mark.slow)
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


def test_the_catalogue_says_how_large_the_bundled_model_is(nano):
    count = sum(map(torch.numel, nano.predictor.model.parameters()))
    assert count / 1e6 == pytest.approx(CATALOGUE["sam2_hiera_nano"].parameters_millions, abs=0.05)
