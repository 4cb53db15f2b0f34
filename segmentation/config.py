"""What a config says. A YAML config is code: Hydra imports and calls whatever a `_target_` names, with the arguments beside it.

So it is read and checked here before anything is built from it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from .catalogue import CATALOGUE
from .messages import fault_of_file, in_short, not_accepted, shown
from .sam2_package import SAM2Base, model_class, package_folder

#: The released configs have 4,000 bytes. OmegaConf takes seconds for five times as many, and minutes for a megabyte.
MAX_BYTES = 20_000
#: The released ones are 6 deep. PyYAML's time grows with the square of the depth: 8 s for 5,000 brackets.
MAX_DEPTH = 50
_ACCEPTED = "the path of a YAML file, a config of the sam2 package such as configs/sam2/sam2_hiera_s.yaml, or empty"
_ACCEPTED_TARGETS = "a torch.nn.Module class of the sam2 package, such as sam2.modeling.sam2_base.SAM2Base"


def config_path(config: str) -> Path:
    """The file of a config.

    Args:
        config: a name inside the sam2 package ("configs/sam2/sam2_hiera_s.yaml") or the path of a YAML file.

    Raises:
        ValueError: there is no such file, or it cannot be opened.
    """
    folder = package_folder()
    packaged = folder / config if folder else Path(config)
    path = packaged if not fault_of_file(packaged) else Path(config)
    fault = fault_of_file(path)
    if fault == "does not exist":
        fault = "is neither a file nor a config inside the sam2 package"
    if fault:
        raise ValueError(f"config_file '{shown(config)}' {fault}; accepted is {_ACCEPTED}.")
    return path


def read_config(config: str) -> dict[Any, Any]:
    """Read a config; refuse it if building it could run anything but the constructors of sam2's own models.

    Args:
        config: as in :func:`config_path`.

    Returns:
        The plain tree; its `model` builds a `SAM2Base`.

    Raises:
        ValueError: names the file, the key, the value and what is accepted.
    """
    path = config_path(config)
    tree = _parse(path)
    if "trainer" in tree and "model" not in tree:
        raise _of_training(path, tree)
    if "defaults" in tree:
        raise _refusal(path, "defaults", tree["defaults"], "one file that holds the whole config")
    _check_node(tree, "", path)
    model = tree.get("model")
    if not isinstance(model, dict) or "_target_" not in model:
        raise _refusal(path, "model", model, "a mapping with a _target_, as in the files of sam2/configs")
    found = model_class(model["_target_"])
    if found is None or not issubclass(found, SAM2Base):
        raise _refusal(path, "model._target_", model["_target_"], "sam2.modeling.sam2_base.SAM2Base or a subclass")
    return tree


def facts_of_config(config: str) -> tuple[int, int, bool]:
    """Width and depth of the image encoder and whether it is SAM 2.1, of a config of the catalogue."""
    return _facts(_parse(config_path(config))["model"])


def _facts(model: dict[Any, Any]) -> tuple[int, int, bool]:
    trunk = model["image_encoder"]["trunk"]
    stages = trunk.get("stages", (2, 3, 16, 3))  # Hiera's default, which base_plus leaves unsaid
    return trunk["embed_dim"], sum(stages), model.get("no_obj_embed_spatial", False)


def _of_training(path: Path, tree: dict[Any, Any]) -> ValueError:
    """The error for a YAML with which sam2's training starts: the model is a part of it, beside code that is not installed."""
    try:
        facts = _facts(tree["trainer"]["model"])
    except (AttributeError, LookupError, TypeError):
        facts = None
    same = [entry.config for entry in CATALOGUE.values() if entry.url and facts_of_config(entry.config) == facts]
    way = f"{same[0]}, the config of the model that it trains" if same else "the config of the model that it trains"
    return ValueError(
        f"config_file {shown(path)} says how sam2 trains a model (it has a trainer), and is no config of a model. "
        f"Accepted: {way}; or empty, with model_name set to that model."
    )


def _parse(path: Path) -> dict[Any, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # A few lines of aliases to aliases would unfold to more than the memory holds.
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it uses YAML aliases (*name); write the values out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        # OmegaConf's loader is a safe one that reads 1e-6 as a number, as the released configs need.
        tree = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
        if not isinstance(tree, dict):
            raise ValueError("it is not a mapping")
    except Exception as error:  # PyYAML's own: KeyError for `!!bool x`, IndexError for `!!int ""`, and others
        raise ValueError(
            f"config_file {shown(path)} cannot be read: {in_short(error)}. Accepted: a YAML file like those in sam2/configs."
        ) from error
    return tree


def _check_node(node: Any, key: str, path: Path) -> None:
    """Go through the tree; ValueError for the first key or value that reaches outside sam2's models."""
    if isinstance(node, dict):
        for name, value in node.items():
            here = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                if model_class(value) is None:
                    raise _refusal(path, here, value, _ACCEPTED_TARGETS)
            elif str(name).startswith("_"):  # _args_, _partial_, …: sam2's model configs need none
                raise _refusal(path, here, value, "no key of Hydra's but _target_")
            elif name == "weights_path" and value is not None:  # Hiera reads that file itself
                raise _refusal(path, here, value, "null: weights come from model_weight_file")
            else:
                _check_node(value, here, path)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_node(value, f"{key}[{index}]", path)
    elif isinstance(node, str) and "${" in node:  # reads environment variables, among others
        raise _refusal(path, key, node, "plain values, no ${…}")


def _refusal(path: Path, key: str, value: Any, accepted: str) -> ValueError:
    return ValueError(f"config_file {shown(path)}: {not_accepted(shown(key), value, accepted)}")
