"""Configs: those of the catalogue are read, and what is damaged, foreign, hostile or without end is refused before it runs."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from infer_segment_anything_2.segmentation.catalogue import CATALOGUE, MODEL_NAMES
from infer_segment_anything_2.segmentation.config import read_config
from infer_segment_anything_2.segmentation.messages import short
from infer_segment_anything_2.segmentation.model_loader import load_model

NANO = ROOT / "models" / "sam2_hiera_nano.pt"
SAM2_BASE = "sam2.modeling.sam2_base.SAM2Base"


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_the_configs_of_the_catalogue_are_accepted(model_name: str) -> None:
    assert read_config(CATALOGUE[model_name].config)["model"]["_target_"] == SAM2_BASE


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
    tree = yaml.safe_load(Path(CATALOGUE["sam2_hiera_nano"].config).read_text(encoding="utf-8"))
    node = {"_target_": target, "path": str(proof)}
    if place == "trainer":
        tree["trainer"] = node
    elif place == "model.memory_encoder":
        tree["model"]["memory_encoder"] = node
    else:
        tree["model"]["things"] = [1, {"thing": node}]
    message = refusal(tmp_path, tree)
    assert f"{place}._target_: {short(target)} is not accepted" in message
    assert "accepted is a torch.nn.Module class of the sam2 package" in message
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
    message = refusal(tmp_path, {"model": {"_target_": SAM2_BASE, "image_encoder": {key: value}}})
    assert f"model.image_encoder.{key}" in message
    assert str(value) in message
    assert "accepted is " in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("model: [", "cannot be read"),
        ("", "model: None is"),
        ("a text", "model: None is"),
        ("- 1", "not a mapping"),
        ("[" * 5000, "nested more than 50 deep"),
        ("model: &a {x: 1}\nagain: *a", "aliases"),
        ("#" * 20_001, "larger than 20000 bytes"),
        ({"net": 1}, "model: None is"),
        ({"model": {"embed_dim": 3}}, "model: {'embed_dim': 3} is"),
        (
            {"model": {"_target_": "sam2.modeling.memory_encoder.Fuser"}},
            "model._target_: 'sam2.modeling.memory_encoder.Fuser' is",
        ),
        ({"defaults": ["other"], "model": {"_target_": SAM2_BASE}}, "defaults: ['other'] is"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_sam2_config_is_told_so(tmp_path: Path, content: Any, complaint: str) -> None:
    assert complaint in refusal(tmp_path, content)


def test_the_yaml_of_a_training_is_refused_and_the_config_to_name_instead_is_told() -> None:
    training = "configs/sam2.1_training/sam2.1_hiera_b+_MOSE_finetune.yaml"
    with pytest.raises(ValueError, match=r"finetune\.yaml says how sam2 trains a model \(it has a trainer\)") as caught:
        read_config(training)
    assert str(caught.value).endswith(
        "Accepted: configs/sam2.1/sam2.1_hiera_b+.yaml, the config of the model that it trains; or empty, with model_name set "
        "to that model."
    )


@pytest.mark.parametrize(
    "trainer", [None, [], {"model": 1}, {"model": {"image_encoder": {"trunk": {"embed_dim": [1]}}}}]
)
def test_the_yaml_of_a_training_of_something_else_is_refused_without_a_guess(tmp_path: Path, trainer: Any) -> None:
    message = refusal(tmp_path, {"trainer": trainer, "defaults": ["x"]})
    assert message.endswith(
        "Accepted: the config of the model that it trains; or empty, with model_name set to that model."
    )


def test_a_missing_config_is_told() -> None:
    with pytest.raises(ValueError, match=r"'configs/sam3\.yaml' is neither a file nor a config inside the sam2"):
        read_config("configs/sam3.yaml")


# Whatever else a file can hold

BASE = "model:\n  _target_: sam2.modeling.sam2_base.SAM2Base\n"
DEEP = "  x: '" + "${a:" * 300 + "b" + "}" * 300 + "'\n"
CONFIGS = {
    "aliases to aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" + BASE,
    "a long list": BASE + "  x: [" + "1," * 9_900 + "]\n",
    "brackets": BASE + "  x: " + "[" * 19_000,
    "an endless interpolation": BASE + "  x: '" + "${a}" * 4_900 + "'\n",
    "a deep interpolation": BASE + DEEP,
    "a broken interpolation": BASE + "  x: '" + "${" * 2_000 + "'\n",
    "a time that is a number": BASE + "  x: 1" + ":1" * 9_900 + "\n",
    "a number of 19,000 digits": BASE + "  x: " + "9" * 19_000 + "\n",
    "a hexadecimal target": "model:\n  _target_: 0x" + "f" * 900 + "\n",
    "a long key": BASE + "  " + "k" * 19_000 + ": 1\n",
    "a value of 19,000 characters": BASE + "  x: '" + "a\n\n" * 6_000 + "'\n",
    "a tag of a bool": BASE + "  x: !!bool foo\n",
    "a tag of an integer": BASE + "  x: !!int ''\n",
    "a tag of a float": BASE + "  x: !!float ''\n",
    "a tag of a date": BASE + "  x: !!timestamp foo\n",
    "a date that is none": BASE + "  x: 2001-13-45T99:99:99Z\n",
    "a tag of Python": BASE + "  x: !!python/object/apply:os.system ['true']\n",
    "a list for a key": BASE + "  ? [a, b]\n  : 1\n",
    "nothing for a key": BASE + "  ~: 2\n",
    "a number for a key": BASE + "  1.5: 2\n",
    "the same key twice": BASE + "  a: 1\n  a: 2\n",
    "two documents": BASE + "---\n" + BASE,
    "a tab": BASE + "\tx: 1\n",
    "a NUL": BASE + "  x: \0\n",
    "another YAML": "%YAML 9.9\n---\n" + BASE,
    "a merge with nothing": BASE + "  <<: 5\n",
    "what OmegaConf asks for": BASE + "  x: ???\n",
    "JSON": json.dumps({"model": {"a": 1}}),
    "prose": "Dear Sir or Madam,\n\n  please find attached: the weights [of my model.\n",
    "nothing but blanks": " \n" * 1000,
    "a target in another package": BASE + "  image_encoder:\n    _target_: os.system\n    command: touch {folder}/ran\n",
    "a target with a dot too many": BASE.replace("SAM2Base", "sam2_base.os.system"),
    "half a model": BASE + "  image_encoder: {}\n",
    "a model of the wrong things": BASE + "  image_encoder: 1\n  memory_attention: 2\n  memory_encoder: 3\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_none_is_refused_soon_and_in_few_words(tmp_path, kind):
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIGS[kind].replace("{folder}", str(tmp_path)), encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(ValueError, match=rf"config_file {path}.*[Aa]ccepted") as caught:
        load_model(NANO, str(path), "cpu", True)
    assert time.monotonic() - began < 30
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    "content", [BASE.encode("utf-16"), b"\xff\xfe\0", NANO.read_bytes()[:5000], b"\x80\x81", os.urandom(3000)]
)
def test_a_config_in_no_known_script_is_refused(tmp_path, content):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"config_file .*mine\.yaml.*[Aa]ccepted") as caught:
        read_config(str(tmp_path / "mine.yaml"))
    assert str(caught.value).isprintable()
