"""Building models from weights and configs: equal to sam2's own, safe, and without Hydra's global state."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from infer_segment_anything_2.segmentation.checkpoints import (
    CATALOGUE,
    MODEL_NAMES,
    CheckpointError,
    find_checkpoint,
)
from infer_segment_anything_2.segmentation.model_loader import load_model, read_config, sam2_imports

NANO = CATALOGUE["sam2_hiera_nano"]
TINY = CATALOGUE["sam2_hiera_tiny"]
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
    with sam2_imports():
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
    with sam2_imports():
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


# Weights that are refused


class RunsCode:
    """Unpickled, it makes a folder."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    weights = save(tmp_path / "evil.pt", {"model": RunsCode(proof)})
    with pytest.raises(CheckpointError, match=r"evil\.pt holds Python objects besides tensors"):
        load_model(weights, NANO.config, "cpu", True)
    assert not proof.exists()
    torch.load(weights, weights_only=False)
    assert proof.exists(), "the file is no proof of anything"


def test_a_truncated_file_is_refused(nano_weights: Path, tmp_path: Path) -> None:
    content = nano_weights.read_bytes()
    weights = tmp_path / "cut.pt"
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt is cut off"):
        load_model(weights, NANO.config, "cpu", True)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pt does not exist"):
        load_model(tmp_path / "nowhere.pt", NANO.config, "cpu", True)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo", "no tensor")
    with pytest.raises(CheckpointError, match=r"photos\.zip is damaged or no checkpoint"):
        load_model(tmp_path / "photos.zip", NANO.config, "cpu", True)


@pytest.mark.parametrize("content", [[1, 2], {"model": [1]}, {"model": {"a": 1}}, {"epoch": 1}])
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"list\.pt is no SAM 2 checkpoint: .*'model'"):
        load_model(save(tmp_path / "list.pt", content), NANO.config, "cpu", True)


def test_weights_of_another_architecture_are_refused_with_what_they_look_like(nano_weights: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model(nano_weights, TINY.config, "cpu", True)
    message = str(caught.value)
    assert str(nano_weights) in message
    assert TINY.config in message
    assert "missing (such as image_encoder.trunk.blocks.8" in message
    assert message.endswith("Its image encoder is that of sam2_hiera_nano.")


def test_weights_of_sam_2_1_are_told_from_those_of_sam_2(tmp_path: Path) -> None:
    blocks = {f"image_encoder.trunk.blocks.{number}.norm1.weight": torch.zeros(1) for number in range(12)}
    stem = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(96, 3, 7, 7)}
    of_2_1 = {"no_obj_embed_spatial": torch.zeros(1, 64)}
    weights = save(tmp_path / "2.1.pt", {"model": blocks | stem | of_2_1})
    with pytest.raises(CheckpointError, match=r"that of sam2\.1_hiera_tiny\.$"):
        load_model(weights, NANO.config, "cpu", True)


def test_missing_unexpected_and_misshapen_tensors_are_counted(nano_weights: Path, tmp_path: Path) -> None:
    state = nano_state(nano_weights)
    del state["no_mem_embed"]
    state["head.weight"] = torch.zeros(1)
    state["maskmem_tpos_enc"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_model(save(tmp_path / "other.pt", {"model": state}), NANO.config, "cpu", True)
    assert "1 missing (such as no_mem_embed)" in str(caught.value)
    assert "1 unexpected (such as head.weight)" in str(caught.value)
    assert "1 of another shape (such as maskmem_tpos_enc)" in str(caught.value)


def test_weights_that_look_like_no_known_model_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="that of no model that model_name accepts"):
        load_model(save(tmp_path / "x.pt", {"model": {"a": torch.zeros(1)}}), NANO.config, "cpu", True)


# Configs


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_the_configs_of_the_catalogue_are_accepted(model_name: str) -> None:
    assert read_config(CATALOGUE[model_name].config)["model"]["_target_"] == BASE


UNSAFE_TARGETS = [
    "os.mkdir",
    "os.system",
    "builtins.exec",
    "torch.nn.Linear",  # harmless, but not sam2's
    "sam2.build_sam.os.mkdir",
    "sam2.build_sam.build_sam2",
    "sam2.benchmark.Path",
    "sam2.modeling.sam2_base.F.relu",
    "sam2.modeling.sam2_base.MaskDecoder",  # only imported there
    "sam2.modeling.sam2_base.torch",
    "sam2.modeling.sam2_utils.get_activation_fn",
    "sam2.modeling.sam2_utils.nn.Linear",
    "sam2.modeling.nothing_here.Model",
    "sam2.sam2_image_predictor.SAM2ImagePredictor",
    "sam2",
    "sam2.",
    ".sam2.modeling.sam2_base.SAM2Base",
    "sam2..modeling.sam2_base.SAM2Base",
    "sam2.modeling.sam2_base.SAM2Base\n",
    "sam2evil.modeling.sam2_base.SAM2Base",
    "${oc.env:HOME}",
    "",
    None,
    7,
    ["os.mkdir"],
    {"_target_": "os.mkdir"},
]


@pytest.mark.parametrize(
    ("place", "target"),
    [
        *(("model.memory_encoder", target) for target in UNSAFE_TARGETS),
        ("model.things[1].thing", "os.mkdir"),
        ("trainer", "os.mkdir"),  # outside `model`, where nothing would be built
    ],
    ids=repr,
)
def test_a_target_outside_sam2_is_refused_before_it_runs(tmp_path: Path, place: str, target: Any) -> None:
    proof = tmp_path / "it ran"
    tree = yaml.safe_load(Path(NANO.config).read_text(encoding="utf-8"))
    node = {"_target_": target, "path": str(proof)}
    if place == "trainer":
        tree["trainer"] = node
    elif place == "model.memory_encoder":
        tree["model"]["memory_encoder"] = node
    else:
        tree["model"]["things"] = [1, {"thing": node}]
    message = refusal(tmp_path, tree)
    assert f"{place}._target_ is {str(target)!r}" in message
    assert "Accepted: a torch.nn.Module class of the sam2 package" in message
    assert not proof.exists()
    assert "sam2.benchmark" not in sys.modules


def refusal(tmp_path: Path, tree: Any) -> str:
    """Write the config (a tree, or the text itself), check that it is refused by name; the message."""
    path = tmp_path / "mine.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    with pytest.raises(ValueError, match=r"config_file .*mine\.yaml") as caught:
        read_config(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_partial_", True),
        ("_args_", [1]),
        ("_convert_", "object"),
        ("_recursive_", False),
        ("weights_path", "/etc/passwd"),
        ("image_size", "${oc.env:HOME}"),
        ("image_size", "${oc.decode:1}"),
    ],
)
def test_a_key_or_a_value_that_reaches_outside_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    message = refusal(tmp_path, {"model": {"_target_": BASE, "image_encoder": {key: value}}})
    assert f"model.image_encoder.{key}" in message
    assert str(value) in message
    assert "Accepted: " in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("model: [", "cannot be read"),
        ("", "model is 'None'"),
        ("a text", "model is 'None'"),
        ("- 1", "not a mapping"),
        ("[" * 5000, "nested more than 50 deep"),
        ("model: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("model: &a {x: 1}\nagain: *a", "aliases"),
        ("model: ${", "cannot be read"),
        ("#" * 1_000_001, "larger than 1000000 bytes"),
        ({"net": 1}, "model is 'None'"),
        ({"model": {"embed_dim": 3}}, "model is"),
        ({"model": {"_target_": "sam2.modeling.memory_encoder.Fuser"}}, "model._target_ is"),
        ({"defaults": ["other"], "model": {"_target_": BASE}}, "defaults is"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_sam2_config_is_told_so(tmp_path: Path, content: Any, complaint: str) -> None:
    assert complaint in refusal(tmp_path, content)


def test_a_binary_file_is_no_config(nano_weights: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_config(str(nano_weights))


def test_a_missing_config_is_told() -> None:
    with pytest.raises(ValueError, match=r"'configs/sam3\.yaml' is neither a file nor a config inside the sam2"):
        read_config("configs/sam3.yaml")


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
from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, fetch_checkpoint
from infer_segment_anything_2.segmentation.model_loader import load_model
nano = CATALOGUE["sam2_hiera_nano"]
def load_nano():
    return load_model(fetch_checkpoint("sam2_hiera_nano"), nano.config, "cpu", True)
hydra = GlobalHydra.instance()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", prelude + script]
    # Not from the checkout: there the file infer_segment_anything_2.py hides the package of that name.
    result = subprocess.run(command, env=env, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=False)
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
def test_hydra_and_logging_stay_untouched_so_another_library_can_initialise_hydra_later() -> None:
    run_fresh("""
load_nano()
assert not hydra.is_initialized()
assert logging.getLogger().handlers == []
initialize_config_module("other_library", version_base="1.3")
assert compose("settings").colour == "red"
load_nano()
assert compose("settings").colour == "red"
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


def test_who_imports_sam2_after_us_gets_its_own_builder_with_one_line() -> None:
    run_fresh("""
load_nano()
from sam2.build_sam import build_sam2
initialize_config_module("sam2", version_base="1.2")
build_sam2("configs/sam2/sam2_hiera_t.yaml", device="cpu")
""")
